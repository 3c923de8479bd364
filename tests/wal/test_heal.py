"""Pages that are damaged on disk are found in the log, as long as it has them."""

from __future__ import annotations

import pytest

from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.bodies import Commit, PageImage
from pfs.wal.crc import crc32c
from pfs.wal.heal import FoundPage
from pfs.wal.heal import find_page as find_page_in
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.log_files import LogFiles
from pfs.wal.reader import LogReader, LogScan
from pfs.wal.recovery import StartedLog
from pfs.wal.segment_header import SegmentHeader, encode_segment_header
from pfs.wal.sidecar import LOST_RECORD, PageRecord, page_record
from tests.wal.logs import PAGE, SIZE, START, SYSTEM, bare, close, flush, forge, poke, start, write

A, B, C, D = (letter * 512 for letter in (b"a", b"b", b"c", b"d"))


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def files_of(fs: SimulatedFileSystem) -> LogFiles:
    return LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)


def find_page(
    files: LogFiles,
    file_id: int,
    pgid: int,
    record: PageRecord | None,
    redo_lsn: int = START,
    durable: int | None = None,
    unsettled: tuple[int, ...] = (),
) -> FoundPage | None:
    """durable: where the log ends, if it is not given."""
    if durable is None:
        scan = LogScan(LogReader(files), START)
        durable = max((each.end for each in scan), default=START + 8)
    return find_page_in(files, file_id, pgid, record, redo_lsn=redo_lsn, durable=durable, unsettled=unsettled)


def record_of(page: bytes, pgid: int, lsn: int) -> PageRecord:
    return page_record(crc32c(page), 5, pgid, lsn)


def interleaved(fs: SimulatedFileSystem) -> tuple[StartedLog, int, int]:
    """Page 3 is written by transaction 2, then (its image is older, its COMMIT newer) by transaction 1; page 4 too."""
    log = start(fs)
    log.buffer.limit = NO_LIMIT
    log.buffer.insert_page(1, 5, 0, A)
    older = write(log, 2, 5, 3, [B, C], 5)
    log.buffer.insert_page(1, 5, 1, D)
    newer = log.buffer.insert_commit(1, 5, 3, 2, 5).lsn
    flush(log)
    close(log)
    return log, older, newer


def test_a_page_is_found_with_the_commit_that_its_record_names(fs: SimulatedFileSystem) -> None:
    log, older, newer = interleaved(fs)
    for pgid, page in ((3, A), (4, D)):
        found = find_page(log.files, 5, pgid, record_of(page, pgid, newer))
        assert found is not None
        assert (found.page, found.lsn) == (page, newer)
        assert found.first_lsn < older


def test_a_record_of_an_earlier_time_does_not_bring_back_the_page_of_that_time(fs: SimulatedFileSystem) -> None:
    log, older, newer = interleaved(fs)
    found = find_page(log.files, 5, 4, record_of(C, 4, older))
    assert found is not None
    assert (found.page, found.lsn) == (D, newer)


def test_what_does_not_match_the_record_is_not_taken_for_the_page(fs: SimulatedFileSystem) -> None:
    log, _, newer = interleaved(fs)
    assert find_page(log.files, 5, 4, record_of(B, 4, newer)) is None
    assert find_page(log.files, 5, 5, record_of(C, 5, newer)) is None


def test_what_is_older_than_the_record_is_not_taken_for_the_page(fs: SimulatedFileSystem) -> None:
    log, _, newer = interleaved(fs)
    assert find_page(log.files, 5, 4, record_of(D, 4, newer + 8)) is None


def test_what_nobody_may_see_yet_heals_nothing(fs: SimulatedFileSystem) -> None:
    """A write whose COMMIT is in the log already is still under way, or is not even durable."""
    log, older, newer = interleaved(fs)
    for found in (
        find_page(log.files, 5, 4, record_of(C, 4, older), unsettled=(1, 7)),
        find_page(log.files, 5, 4, record_of(C, 4, older), durable=newer),
    ):
        assert found is not None
        assert (found.page, found.lsn) == (C, older)


@pytest.mark.parametrize("lost", [None, LOST_RECORD], ids=["never written", "lost"])
def test_without_a_record_the_newest_image_counts(fs: SimulatedFileSystem, lost: PageRecord | None) -> None:
    log, _, newer = interleaved(fs)
    found = find_page(log.files, 5, 4, lost)
    assert found is not None
    assert (found.page, found.lsn) == (D, newer)
    assert find_page(log.files, 5, 6, lost) is None
    assert find_page(log.files, 6, 3, lost) is None


def test_the_log_does_not_have_what_a_bulk_append_wrote(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    write(log, 1, 5, 0, [A, B], 2)
    bulk = log.buffer.insert_commit(2, 5, 1, 2, 3, bulk=True).lsn
    flush(log)
    close(log)
    assert find_page(log.files, 5, 1, record_of(C, 1, bulk)) is None
    assert find_page(log.files, 5, 1, None) is None
    assert find_page(log.files, 5, 0, None) is not None


def test_a_log_that_no_longer_reaches_back_heals_nothing(fs: SimulatedFileSystem) -> None:
    log, _, newer = interleaved(fs)
    assert find_page(log.files, 5, 4, record_of(C, 4, newer + 8)) is None
    assert find_page(log.files, 5, 4, record_of(C, 4, 99 * SIZE)) is None
    assert find_page(log.files, 5, 4, None, durable=99 * SIZE) is None
    for segment in log.files.segments():
        fs.unlink(log.files.path(segment))
    assert find_page(files_of(fs), 5, 4, None) is None


def test_a_log_that_contradicts_itself_heals_nothing(fs: SimulatedFileSystem) -> None:
    bare(fs, 1)
    image = forge(fs, START, PageImage(1, 5, 0, PAGE))
    forge(fs, image, Commit(1, 5, START, 0, 2, 2), prev_lsn=START)  # it commits two pages, and has one of them
    assert find_page(files_of(fs), 5, 0, record_of(PAGE, 0, image)) is None
    assert find_page(files_of(fs), 5, 0, None) is None


def long_log(fs: SimulatedFileSystem) -> StartedLog:
    """Page 0 is written as A in segment 1, as B in segment 2; page 1 in segment 3."""
    log = start(fs)
    for transaction, (pgid, content) in enumerate([(0, A), (0, B), (1, C)], 1):
        write(log, transaction, 5, pgid, [content], 2)
        log.buffer.switch_segment()
    flush(log)
    close(log)
    return log


def test_what_is_before_a_damaged_place_may_not_be_the_newest(fs: SimulatedFileSystem) -> None:
    log = long_log(fs)
    found = find_page(files_of(fs), 5, 0, None, durable=log.buffer.flushed)
    assert found is not None
    assert found.page == B
    poke(fs, 2 * SIZE + 64 + 70, b"?")
    assert find_page(files_of(fs), 5, 0, None, durable=log.buffer.flushed) is None
    assert find_page(files_of(fs), 5, 1, None, durable=log.buffer.flushed) is not None
    poke(fs, 3 * SIZE + 64 + 70, b"?")
    assert find_page(files_of(fs), 5, 1, None, durable=log.buffer.flushed) is None


def test_a_segment_of_another_system_is_a_gap(fs: SimulatedFileSystem) -> None:
    log = long_log(fs)
    poke(fs, 2 * SIZE, encode_segment_header(SegmentHeader(1, 2, SYSTEM + 1, SIZE, 1)))
    assert find_page(files_of(fs), 5, 0, None, 3 * SIZE + 64, log.buffer.flushed) is None
    found = find_page(files_of(fs), 5, 1, None, 3 * SIZE + 64, log.buffer.flushed)
    assert found is not None
    assert found.page == C


def test_what_is_before_a_gap_may_not_be_the_newest(fs: SimulatedFileSystem) -> None:
    log = long_log(fs)
    fs.unlink(log.files.path(2))
    redo_lsn = 3 * SIZE + 64
    assert find_page(files_of(fs), 5, 0, None, redo_lsn, log.buffer.flushed) is None
    assert find_page(files_of(fs), 5, 1, None, redo_lsn, log.buffer.flushed) is not None


def test_a_log_that_is_recycled_meanwhile_heals_nothing(fs: SimulatedFileSystem) -> None:
    log = long_log(fs)
    files = files_of(fs)
    files.segments()
    fs.unlink(log.files.path(1))
    assert find_page(files, 5, 0, None, durable=log.buffer.flushed) is None
    assert find_page(files, 5, 0, record_of(A, 0, START), durable=log.buffer.flushed) is None
