"""Looking at a log: where its oldest part begins, where it ends and why, also while it is in use or damaged."""

from __future__ import annotations

import contextlib
import errno

import pytest

from pfs.errors import FileMissing, ForeignWalSegment, InvalidRequest, WalDamaged, WalSegmentMissing
from pfs.files.catalog import CATALOG_FILE, read_catalog
from pfs.files.store import PageFileStore
from pfs.testing.faults import Fault, Operation
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.bodies import Noop
from pfs.wal.checkpoint import insert_checkpoint, record_checkpoint
from pfs.wal.control_file import MAKING, ControlData, ControlFile, read_slots
from pfs.wal.log_files import LogFiles
from pfs.wal.log_view import LogView
from pfs.wal.reader import LogScan
from pfs.wal.recovery import StartedLog
from pfs.wal.segment_header import SegmentHeader, encode_segment_header
from tests.wal.logs import PAGE, SIZE, START, SYSTEM, close, flush, poke, poke_control, start, write


def checkpoint(log: StartedLog, *, shutdown: bool = False) -> int:
    """Checkpoint all that there is; the redo LSN."""
    redo_lsn = log.buffer.next_lsn if shutdown else log.buffer.redo_point()
    place = insert_checkpoint(
        log.buffer, redo_lsn=redo_lsn, page_counts={5: 1}, next_file_id=6, next_transaction=99, shutdown=shutdown
    )
    flush(log)
    record_checkpoint(log.control, place, redo_lsn, log.buffer.flushed, shutdown=shutdown)
    return redo_lsn


@pytest.fixture
def fs() -> SimulatedFileSystem:
    """A log of about five segments, with a checkpoint in the fourth."""
    fs = SimulatedFileSystem()
    log = start(fs)
    for number in range(1, 31):
        write(log, number, 5, 0, [PAGE], 1)
        flush(log)
        if number == 20:
            checkpoint(log)
    close(log)
    return fs


def finished(view: LogView, start: int | None = None) -> LogScan:
    scan = view.scan(start)
    for _ in scan:
        pass
    return scan


def header(segment: int, system_id: int = SYSTEM) -> bytes:
    return encode_segment_header(SegmentHeader(1, segment, system_id, SIZE, 1))


def test_looking_changes_and_locks_nothing(fs: SimulatedFileSystem) -> None:
    fs.faults += [
        Fault(errno.EIO, operation=name, forever=True) for name in ("pwritev", "lock", "rename", "unlink", "fsync")
    ]
    before = fs.durable_files
    view = LogView(fs)
    assert view.end(finished(view, view.oldest())).reason == "no whole record is there"
    assert fs.durable_files == before
    assert not fs.open_descriptors


def test_the_oldest_record_leads_to_the_redo_point(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    assert view.oldest() == START
    whole = finished(view, view.oldest())
    assert whole.records > finished(view).records
    assert whole.end == finished(view).end


def test_what_is_before_a_gap_is_no_part_of_the_log(fs: SimulatedFileSystem) -> None:
    fs.unlink(LogFiles(fs, system_id=SYSTEM, segment_size=SIZE).path(2))
    assert LogView(fs).oldest() == 3 * SIZE + 64


@pytest.mark.parametrize("content", [header(9), b"torn"], ids=["the new header", "a torn header"])
def test_a_segment_whose_recycling_a_crash_cut_short_is_no_part_of_the_log(
    fs: SimulatedFileSystem, content: bytes
) -> None:
    poke(fs, SIZE, content)
    assert LogView(fs).oldest() == 2 * SIZE + 64


def test_a_segment_after_one_that_waits_for_its_new_name_may_be_torn_too(fs: SimulatedFileSystem) -> None:
    poke(fs, SIZE, header(9))
    poke(fs, 2 * SIZE, b"torn")
    assert LogView(fs).oldest() == 3 * SIZE + 64


def test_a_damaged_header_behind_a_whole_segment_is_not_the_work_of_recycling(fs: SimulatedFileSystem) -> None:
    poke(fs, 2 * SIZE, b"flip")
    view = LogView(fs)
    assert view.oldest() == START
    with pytest.raises(WalDamaged, match=r"header of its segment"):
        view.end(finished(view, view.oldest()))


def test_a_segment_of_another_system_is_refused_by_its_name(fs: SimulatedFileSystem) -> None:
    poke(fs, 2 * SIZE, header(9, system_id=SYSTEM + 1))
    view = LogView(fs)
    with pytest.raises(ForeignWalSegment, match=r"000000010000000000000002.*system id 78, and 77"):
        finished(view, view.oldest())


def test_reading_can_begin_anywhere_in_the_log(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    record = list(view.scan())[2]
    assert view.start_for(record.lsn) == record.lsn
    assert view.start_for(record.lsn + 8) == record.lsn // SIZE * SIZE + 64
    assert view.start_for(5) == view.oldest()
    with pytest.raises(InvalidRequest, match="behind the last WAL segment"):
        view.start_for(view.files.end_of_segments())


def test_a_torn_tail_is_an_end_and_its_bytes_are_counted(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    last = list(view.scan())[-1]
    poke(fs, last.lsn + 8, b"torn")
    view = LogView(fs)
    end = view.end(finished(view))
    assert (end.lsn, end.reason) == (last.lsn, "no whole record is there")
    assert end.torn_bytes > 0


def test_damage_before_what_is_vouched_for_is_no_end(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    poke(fs, list(view.scan())[4].lsn + 30, b"flip")
    view = LogView(fs)
    with pytest.raises(WalDamaged):
        view.end(finished(view))


def test_a_missing_segment_is_named(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    number = view.redo_lsn // SIZE + 1
    assert number < view.end(finished(view)).lsn // SIZE
    fs.unlink(view.files.path(number))
    view = LogView(fs)
    with pytest.raises(WalSegmentMissing, match=f"00000000{number:08X}"):
        view.end(finished(view))


def test_where_a_scan_met_nothing_the_end_is_that_of_the_log(fs: SimulatedFileSystem) -> None:
    LogFiles(fs, system_id=SYSTEM, segment_size=SIZE).prepare(9, 1)
    view = LogView(fs)
    scan = finished(view, view.start_for(9 * SIZE + 64))
    assert scan.records == 0
    assert view.end(scan) == view.end(finished(view))


def test_the_end_after_a_stop_in_order_is_known_without_looking_further(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    checkpoint(log, shutdown=True)
    close(log)
    view = LogView(fs)
    assert view.end(finished(view)) == (log.buffer.flushed, "the system was stopped in order", 0)


def test_a_log_that_is_being_made_has_nothing_to_vouch_for() -> None:
    fs = SimulatedFileSystem()
    control = ControlFile(fs)
    control.create(ControlData(system_id=SYSTEM, segment_size=SIZE, state=MAKING))
    control.close()
    view = LogView(fs)
    assert view.oldest() == START
    assert view.end(finished(view)) == (START, "it is being made", 0)


def test_a_log_that_grows_while_it_is_read_is_not_damaged() -> None:
    fs = SimulatedFileSystem()
    log = start(fs)
    view = LogView(fs)
    scan = finished(view)

    def grow() -> None:
        for _ in range(3):
            log.buffer.insert(Noop(8))
            flush(log)

    read_again = False

    def when_read_again(operation: Operation) -> None:
        nonlocal read_again
        if operation.name == "preadv" and not read_again:
            read_again = True
            grow()

    fs.on_operation = when_read_again
    view.reader.forget()
    end = view.end(scan)
    assert read_again
    assert (end.lsn, end.torn_bytes) == (scan.end, 0)
    assert "uses the log" in end.reason
    close(log)


def test_of_two_slots_the_one_that_is_not_valid_is_known(fs: SimulatedFileSystem) -> None:
    poke_control(fs, b"flip", 100)
    slots = LogView(fs).slots
    assert [slot is None for slot in slots] == [True, False]
    assert read_slots(fs) == slots


def test_without_a_control_file_there_is_nothing_to_see() -> None:
    with pytest.raises(FileMissing, match="pfs_control"):
        LogView(SimulatedFileSystem())


def test_without_a_catalog_there_are_no_names() -> None:
    fs = SimulatedFileSystem()
    assert read_catalog(fs) is None
    assert not fs.exists(CATALOG_FILE)


def test_the_catalog_is_read_as_it_is() -> None:
    fs = SimulatedFileSystem()
    with contextlib.closing(PageFileStore(fs, clock=lambda: 0.0)) as store:
        store.make_durable(store.catalog.table.created("a", 512))
    catalog = read_catalog(fs)
    assert catalog is not None
    assert [entry.number for entry in catalog.entries.values()] == [16384]
