"""Starting a log: new, after an orderly stop, after a crash, and when it must be refused."""

from __future__ import annotations

import errno
from random import Random

import pytest

from pfs.errors import (
    ControlFileDamaged,
    ForeignWalSegment,
    InvalidRequest,
    NoSpace,
    PfsError,
    ReadFailed,
    SyncFailed,
    WalDamaged,
    WalSegmentMissing,
)
from pfs.testing.file_system import Fault, SimulatedFileSystem
from pfs.wal.bodies import Create, Drop, Noop, Rename, SidecarImage
from pfs.wal.checkpoint import insert_checkpoint, record_checkpoint
from pfs.wal.control_file import CONTROL_FILE, IN_USE, MAKING, RECOVERING, STOPPED, ControlData, ControlFile
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.log_files import LogFiles
from pfs.wal.reader import LogReader, LogScan
from pfs.wal.recovery import Progress, StartedLog
from pfs.wal.redo import CatalogChange
from pfs.wal.segment_header import SegmentHeader, encode_segment_header
from tests.wal.logs import (
    PAGE,
    SIZE,
    START,
    SYSTEM,
    Recorder,
    close,
    control_of,
    flush,
    forge,
    poke,
    poke_control,
    start,
    write,
)


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def stop(log: StartedLog, counts: dict[int, int]) -> None:
    """End in order."""
    log.buffer.limit = NO_LIMIT
    redo = log.buffer.redo_point()
    place = insert_checkpoint(
        log.buffer, redo_lsn=redo, page_counts=counts, next_file_id=50, next_transaction=60, shutdown=True
    )
    flush(log)
    record_checkpoint(log.control, place, redo, log.buffer.flushed, shutdown=True)
    close(log)


def segment_path(number: int) -> str:
    return f"pfs_wal/{1:08X}{0:08X}{number:08X}"


def test_a_new_log_begins_in_segment_1(fs: SimulatedFileSystem) -> None:
    target = Recorder()
    log = start(fs, target, page_counts={16384: 3}, next_file_id=16385)
    assert (log.redo_lsn, log.page_counts, log.next_file_id, log.next_transaction) == (START, {16384: 3}, 16385, 1)
    assert log.buffer.flushed == log.buffer.inserted
    assert log.buffer.limit == 2 * SIZE
    assert log.files.segments() == [1]
    data = log.control.data
    assert (data.state, data.epoch, data.system_id, data.redo_lsn) == (IN_USE, 1, SYSTEM, START)
    names = [record.name for record in LogScan(LogReader(log.files), START)]
    assert names == ["EPOCH", "PAGE_COUNTS", "CHECKPOINT"]
    close(log)
    assert target.calls == []


def test_what_was_committed_is_written_once_and_the_rest_is_not(fs: SimulatedFileSystem) -> None:
    log = start(fs, page_counts={5: 1}, next_file_id=6)
    log.buffer.limit = NO_LIMIT
    log.buffer.insert(Create(6, 512, "six"))
    write(log, 1, 5, 0, [b"a" * 512], 1)
    second = write(log, 2, 5, 0, [b"b" * 512, b"c" * 512], 2)
    third = write(log, 3, 6, 0, [bytes(512)] * 100, 100)
    log.buffer.insert(SidecarImage(5, 0, bytes(512)))
    log.buffer.insert(Rename(5, "five"))
    log.buffer.insert_page(4, 5, 0, b"d" * 512)
    flush(log)
    close(log)
    target, told = Recorder(), []
    again = start(fs, target, progress=told.append)
    assert target.pages == {(5, 0): (b"b" * 512, second), (5, 1): (b"c" * 512, second)} | {
        (6, pgid): (bytes(512), third) for pgid in range(100)
    }
    assert target.page_counts == {5: 2, 6: 100}
    assert target.catalog == [CatalogChange(6, "six", 512, False), CatalogChange(5, "five", None, False)]
    assert target.blocks == [(5, 0, bytes(512))]
    assert [call for n, call in enumerate(target.calls) if call not in target.calls[:n]] == [
        "catalog", "block", "pages", "count", "sync",
    ]  # fmt: skip
    assert target.longest_run == 64
    assert (again.transactions, again.pages, again.next_file_id, again.next_transaction) == (5, 102, 7, 5)
    assert again.torn_bytes == 0
    assert again.wal_bytes > 9000
    assert again.buffer.epoch == 2
    phases = {progress.phase for progress in told}
    assert phases == {"reading the WAL", "writing pages"}
    assert told[-1] == Progress("writing pages", told[-1].total, told[-1].total)
    close(again)
    third_target = Recorder()
    close(start(fs, third_target))
    assert third_target.pages == {}


def test_after_an_orderly_stop_nothing_is_replayed(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    write(log, 1, 5, 0, [PAGE], 1)
    flush(log)
    counts = {file_id: file_id for file_id in range(1, 700)}  # more than one record, and more than one segment
    stop(log, counts)
    assert control_of(fs).state == STOPPED
    target = Recorder()
    log = start(fs, target)
    assert target.calls == []
    assert (log.pages, log.transactions, log.page_counts) == (0, 0, counts)
    assert (log.next_file_id, log.next_transaction) == (50, 60)
    assert log.control.data.state == IN_USE
    close(log)


def test_a_stop_after_which_the_log_goes_on_all_the_same_is_none(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    stop(log, {5: 0})
    log = start(fs)
    log.control.write(state=STOPPED)
    write(log, 70, 5, 0, [PAGE], 1)
    flush(log)
    close(log)
    target = Recorder()
    close(start(fs, target))
    assert list(target.pages) == [(5, 0)]


def test_a_checkpoint_is_recorded_only_when_it_is_durable(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    place = insert_checkpoint(log.buffer, redo_lsn=START, page_counts={}, next_file_id=1, next_transaction=1)
    with pytest.raises(InvalidRequest, match="flush it first"):
        record_checkpoint(log.control, place, START, log.buffer.flushed)
    close(log)


def test_each_start_has_an_epoch_of_its_own_even_one_that_fails(fs: SimulatedFileSystem) -> None:
    close(start(fs))

    class Failing(Recorder):
        def sync(self) -> None:
            raise NoSpace("full")

    for expected in (2, 3):
        with pytest.raises(NoSpace):
            start(fs, Failing())
        data = control_of(fs)
        assert (data.epoch, data.state) == (expected, RECOVERING)
    log = start(fs)
    assert log.buffer.epoch == 4
    close(log)


# ---------------------------------------------------------------------------------------------- tails


def test_a_torn_tail_is_kept_aside_and_erased(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    end = log.buffer.inserted
    close(log)
    behind = forge(fs, end + 64, Drop(3), durable_upto=end)
    target = Recorder()
    log = start(fs, target)
    close(log)
    assert log.torn_bytes == behind - end
    assert len(fs.durable_files[segment_path(1) + ".torn"]) == 128
    scan = LogScan(LogReader(log.files), START)
    assert [record.name for record in scan] == ["EPOCH", "CHECKPOINT"] * 2


def test_segments_of_a_torn_tail_are_set_aside_and_those_behind_them_removed(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    for segment in (2, 3, 4):
        log.files.prepare(segment, 1)
    end = log.buffer.inserted
    close(log)
    forge(fs, 3 * SIZE + 64, Drop(3), durable_upto=end)
    close(start(fs))
    assert [name for name in fs.listdir("pfs_wal") if name != "000000010000000000000001.torn"] == [
        "000000010000000000000001", "000000010000000000000002.torn", "000000010000000000000003.torn",
    ]  # fmt: skip


def test_segments_made_ahead_stay_if_they_follow_without_a_gap(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    for segment in (2, 3, 5):
        log.files.prepare(segment, 1)
    close(log)
    close(start(fs))
    assert LogFiles(fs, system_id=SYSTEM, segment_size=SIZE).segments() == [1, 2, 3]
    poke(fs, 2 * SIZE, b"damage")
    log = start(fs)
    assert log.files.segments() == [1]
    assert log.buffer.limit == 2 * SIZE
    close(log)


def test_the_log_goes_on_where_the_last_segment_has_no_header(fs: SimulatedFileSystem) -> None:
    """As after a crash, where the log had just reached a segment that is damaged now, with nothing durable in it."""
    log = start(fs)
    log.buffer.limit = NO_LIMIT
    log.buffer.insert(Noop(SIZE - 500))
    log.buffer.switch_segment()
    flush(log)
    position = log.buffer.next_lsn
    log.files.prepare(position // SIZE, 1)
    close(log)
    poke(fs, position - 64, b"damage")
    log = start(fs)
    assert log.redo_lsn == position
    close(log)
    poke(fs, 1 * SIZE, encode_segment_header(SegmentHeader(1, 1, SYSTEM, SIZE, 1)))
    close(start(fs))


def test_a_segment_with_records_and_without_a_header_is_refused_though_nobody_vouches_for_them(
    fs: SimulatedFileSystem,
) -> None:
    """They may have been acknowledged a moment before the crash, and no crash damages a header."""
    log = start(fs)
    log.buffer.limit = NO_LIMIT
    log.buffer.insert(Noop(SIZE - 500))
    log.buffer.switch_segment()
    flush(log)
    position = log.buffer.next_lsn
    log.files.prepare(position // SIZE, 1)
    close(log)
    forge(fs, position, Drop(3))
    poke(fs, position - 64, b"damage")
    before = fs.durable_files
    with pytest.raises(WalDamaged, match="no crash damages the header of a segment"):
        start(fs)
    assert fs.durable_files == before


def shorten(fs: SimulatedFileSystem, segment: int, length: int) -> None:
    fs.rot(segment_path(segment), fs.durable_files[segment_path(segment)][:length])


@pytest.mark.parametrize("length", [0, 64, 1000])
def test_a_segment_that_was_cut_where_the_log_ends_is_refused_though_nobody_vouches_for_it(
    fs: SimulatedFileSystem, length: int
) -> None:
    log = start(fs)
    log.buffer.limit = NO_LIMIT
    log.buffer.insert(Noop(SIZE - 500))
    log.buffer.switch_segment()
    log.buffer.insert(Drop(3))
    flush(log)
    close(log)
    shorten(fs, log.buffer.inserted // SIZE, length)
    before = fs.durable_files
    with pytest.raises(WalDamaged, match="no crash makes a segment shorter"):
        start(fs)
    assert fs.durable_files == before


def stopped(fs: SimulatedFileSystem, *ahead: int) -> StartedLog:
    """A log that was stopped in order, with segments made ahead."""
    log = start(fs)
    for segment in ahead:
        log.files.prepare(segment, 1)
    stop(log, {})
    return log


def test_a_stopped_log_whose_segment_was_cut_behind_its_end_gets_its_length_back(fs: SimulatedFileSystem) -> None:
    log = stopped(fs)
    assert log.buffer.inserted < 2 * SIZE - 500
    shorten(fs, 1, log.buffer.inserted % SIZE + 8)
    log = start(fs)
    log.files.check(1)
    assert (log.transactions, log.torn_bytes) == (0, 0)
    close(log)


def test_a_stopped_log_does_not_go_on_in_segments_that_were_damaged_since(fs: SimulatedFileSystem) -> None:
    for cut in (False, True):
        stopped(fs, 2, 3, 4)
        if cut:
            shorten(fs, 3, SIZE - 8)
        else:
            poke(fs, 3 * SIZE, b"damage")
        log = start(fs)
        assert log.files.segments() == [1, 2]
        assert log.buffer.limit == 3 * SIZE
        close(log)
    stopped(fs, 2, 3)
    poke(fs, 3 * SIZE, encode_segment_header(SegmentHeader(1, 3, SYSTEM + 1, SIZE, 1)))
    with pytest.raises(ForeignWalSegment, match="000000010000000000000003"):
        start(fs)


def test_what_only_the_cache_holds_after_a_failed_sync_is_written_again() -> None:
    fs = SimulatedFileSystem(failed_sync="keep")
    log = start(fs)
    commit = write(log, 1, 5, 0, [PAGE], 1)
    fs.faults = [Fault(errno.EIO, operation="fdatasync")]
    with pytest.raises(SyncFailed):
        flush(log)
    close(log)
    fs.faults = []
    assert fs.durable_files[segment_path(1)][commit - SIZE : commit - SIZE + 4] == bytes(4)
    target = Recorder()
    close(start(fs, target))
    assert list(target.pages) == [(5, 0)]
    assert fs.durable_files[segment_path(1)][commit - SIZE : commit - SIZE + 4] == b"\xf1\x57\xa1\x0d"
    crashed = fs.crash_image("none", Random(1))
    close(start(crashed))


def test_only_what_nobody_vouches_for_is_written_again(fs: SimulatedFileSystem) -> None:
    log = start(fs)
    write(log, 1, 5, 0, [PAGE] * 20, 20)
    flush(log)
    log.buffer.seal()
    sealed = log.buffer.flushed
    flush(log)
    close(log)
    fs.journal.clear()
    close(start(fs))
    writes = [
        entry.operation
        for entry in fs.journal
        if entry.operation.name == "pwritev" and "torn" not in entry.operation.path
    ]
    rewritten = [(w.path, w.offset, w.length) for w in writes if w.path.startswith("pfs_wal/0")]
    assert rewritten[0] == (segment_path(sealed // SIZE), sealed % SIZE, 64)
    assert rewritten[1][1] == sealed % SIZE + 64


# ---------------------------------------------------------------------------------------------- refusals


def crashed_log(fs: SimulatedFileSystem) -> StartedLog:
    """A log over several segments, ended without a checkpoint."""
    log = start(fs)
    for transaction in range(1, 9):
        write(log, transaction, 5, 0, [PAGE] * 2, 2)
        flush(log)
    close(log)
    return log


def unchanged_after(fs: SimulatedFileSystem, error: type[PfsError], match: str) -> None:
    before = fs.durable_files
    target = Recorder()
    with pytest.raises(error, match=match):
        start(fs, target)
    assert target.calls == []
    assert fs.durable_files == before
    assert not fs.open_descriptors


def test_damage_before_a_vouched_position_is_refused_and_nothing_is_changed(fs: SimulatedFileSystem) -> None:
    log = crashed_log(fs)
    vouched = LogScan(LogReader(log.files), log.redo_lsn)
    lsns = [record.lsn for record in vouched]
    for lsn in [lsn for lsn in lsns if lsn < vouched.vouched]:
        copy = fs.crash_image("all", Random(1))
        poke(copy, lsn + 20, b"\xff")
        unchanged_after(copy, WalDamaged, "LSN")
    copy = fs.crash_image("all", Random(1))
    poke(copy, lsns[-1] + 20, b"\xff")
    close(start(copy))


def test_a_missing_segment_is_refused_by_name(fs: SimulatedFileSystem) -> None:
    log = crashed_log(fs)
    segments = log.files.segments()
    assert len(segments) > 2
    for number in segments[:-1]:
        copy = fs.crash_image("all", Random(1))
        copy.unlink(segment_path(number))
        copy.sync_directory("pfs_wal")
        unchanged_after(copy, WalSegmentMissing, f"{segment_path(number)}' is missing")


def test_a_missing_directory_is_refused(fs: SimulatedFileSystem) -> None:
    close(start(fs))
    fs.rename("pfs_wal", "elsewhere")
    fs.sync_directory("")
    unchanged_after(fs, WalSegmentMissing, "restore the directory")


def test_a_segment_of_another_system_is_refused_by_name(fs: SimulatedFileSystem) -> None:
    crashed_log(fs)
    poke(fs, 2 * SIZE, encode_segment_header(SegmentHeader(1, 2, SYSTEM + 1, SIZE, 1)))
    unchanged_after(fs, ForeignWalSegment, segment_path(2))


def test_a_log_without_its_control_file_is_refused(fs: SimulatedFileSystem) -> None:
    crashed_log(fs)
    fs.unlink(CONTROL_FILE)
    fs.sync_directory("")
    unchanged_after(fs, ControlFileDamaged, "is missing, but there is a WAL")


def test_a_damaged_control_file_is_refused(fs: SimulatedFileSystem) -> None:
    close(start(fs))
    poke_control(fs, b"x", 40)
    close(start(fs))
    poke_control(fs, b"x", 40)
    poke_control(fs, b"x", 4096 + 40)
    unchanged_after(fs, ControlFileDamaged, "no slot")


def test_damage_among_the_page_counts_is_refused(fs: SimulatedFileSystem) -> None:
    log = start(fs, page_counts=dict.fromkeys(range(500), 1))
    close(log)
    counts = log.control.data.redo_lsn + 72
    for lsn in (counts, counts + 3000):
        copy = fs.crash_image("all", Random(1))
        poke(copy, lsn + 100, b"damage")
        unchanged_after(copy, WalDamaged, "control file says|no valid record")


def test_a_log_that_cannot_be_read_is_not_taken_for_a_short_one(fs: SimulatedFileSystem) -> None:
    crashed_log(fs)
    count = 0
    while True:
        count += 1
        copy = fs.crash_image("all", Random(1))
        copy.faults = [Fault(errno.EIO, operation="preadv", at=count)]
        try:
            close(start(copy))
        except ReadFailed:
            continue
        assert not copy.faults[0].struck
        break
    assert count > 5


# ---------------------------------------------------------------------------------------------- failures of starts


def test_a_log_that_was_not_made_to_the_end_is_made_again(fs: SimulatedFileSystem) -> None:
    images: list[SimulatedFileSystem] = []
    rng = Random(3)
    fs.on_operation = lambda _: images.extend(
        fs.crash_image(policy, rng) for policy in ("none", "all", "prefix", "subset", "torn")
    )
    close(start(fs))
    for image in images:
        image.on_operation = None
        log = start(image)
        assert log.buffer.flushed > START
        close(log)
    control = ControlFile(SimulatedFileSystem())
    control.create(ControlData(system_id=SYSTEM, segment_size=SIZE))
    assert control.data.state == MAKING


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_failure_of_a_start_is_an_error_of_ours_and_the_next_start_succeeds(number: int) -> None:
    for prepared in (False, True):
        count = 0
        while True:
            count += 1
            fs = SimulatedFileSystem(failed_sync="revert")
            expected: set[tuple[int, int]] = set()
            if prepared:
                crashed_log(fs)
                end = LogScan(LogReader(LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)), START)
                for _ in end:
                    pass
                forge(fs, end.end + 64, Drop(1))
                expected = {(5, 0), (5, 1)}
            fs.faults = [Fault(number, at=count)]
            try:
                log = start(fs)
            except PfsError:
                assert fs.faults[0].struck
                assert not fs.open_descriptors
            else:
                close(log)
                if not fs.faults[0].struck:
                    break
                continue  # what failed was of no consequence: the copy of a torn tail
            fs.faults = []
            target = Recorder()
            log = start(fs, target)
            close(log)
            assert set(target.pages) >= expected or log.redo_lsn > end.end
        assert count > 10


def test_a_segment_size_that_is_none_is_refused_before_anything_is_made(fs: SimulatedFileSystem) -> None:
    with pytest.raises(InvalidRequest, match="WAL segment size"):
        start(fs, segment_size=1000)
    assert fs.listdir("") == []


def test_the_segment_size_of_a_log_is_that_of_its_making(fs: SimulatedFileSystem) -> None:
    close(start(fs))
    log = start(fs, segment_size=1 << 20)
    assert log.files.segment_size == SIZE
    close(log)


def test_without_syncs_nothing_is_vouched_for(fs: SimulatedFileSystem) -> None:
    log = start(fs, sync_method="none")
    write(log, 1, 5, 0, [PAGE], 1)
    flush(log)
    place = log.buffer.seal()
    flush(log)
    close(log)
    assert LogReader(log.files).record_at(place.lsn).durable_upto == 0


# ---------------------------------------------------------------------------------------------- power cuts in recovery


@pytest.mark.parametrize(
    ("before", "now", "rewritten"),
    [
        (bytes(16), bytes(16), True),
        (b"a" * 16, b"a" * 16, True),
        (bytes(16), b"a" * 16, True),
        (b"a" * 16, bytes(16), True),
        (b"a" * 16, b"b" * 16, False),
    ],
)
def test_a_machine_started_anew_leaves_the_durable_log_alone(
    fs: SimulatedFileSystem, before: bytes, now: bytes, rewritten: bool
) -> None:
    log = start(fs, boot_id=before)
    position = write(log, 1, 5, 0, [PAGE], 1)
    flush(log)
    close(log)
    fs.journal.clear()
    log = start(fs, boot_id=now)
    close(log)
    writes = [entry.operation for entry in fs.journal if entry.operation.name == "pwritev"]
    touched = [each for each in writes if each.path == segment_path(1) and each.offset <= position % SIZE]
    assert bool(touched) is rewritten
    assert control_of(fs).boot_id == now


def test_what_the_control_file_says_was_durable_is_not_written_again(fs: SimulatedFileSystem) -> None:
    close(start(fs))
    end = control_of(fs).durable_hint % SIZE
    fs.journal.clear()
    close(start(fs))
    writes = [entry.operation for entry in fs.journal if entry.operation.name == "pwritev"]
    offsets = [each.offset for each in writes if each.path == segment_path(1)]
    assert offsets
    assert min(offsets) >= end


def test_recovery_logs_the_sidecar_blocks_that_it_is_about_to_change(fs: SimulatedFileSystem) -> None:
    log = start(fs, page_counts={5: 40, 7: 0})
    write(log, 1, 5, 33, [PAGE], 40)
    write(log, 2, 5, 0, [PAGE], 40)
    flush(log)
    close(log)

    class Watching(Recorder):
        """Knows what is in the log when the first page is written."""

        logged: tuple[tuple[int, int, bytes], ...] = ()

        def write_pages(self, file_id, pgid, pages, lsns) -> None:
            if not self.pages:
                image = fs.crash_image("none", Random(1))
                other = Recorder()
                close(start(image, other))
                self.logged = tuple(other.blocks)
            super().write_pages(file_id, pgid, pages, lsns)

    target = Watching()
    target.on_disk = {(5, 0): b"0" * 512, (5, 1): b"1" * 512}  # 7's is not valid
    close(start(fs, target))
    assert target.blocks == []
    assert target.logged == ((5, 0, b"0" * 512), (5, 1, b"1" * 512))
