"""Segments as files: whole before they have a name, used again, and refused if they are somebody else's."""

from __future__ import annotations

import errno
import os
from random import Random

import pytest

from pfs.errors import Busy, ForeignWalSegment, InvalidRequest, NoSpace, ReadFailed, SyncFailed, WriteFailed
from pfs.testing.file_system import Fault, SimulatedFileSystem
from pfs.wal.bodies import Drop, Noop
from pfs.wal.log_buffer import Batch, BatchPart, LogBuffer
from pfs.wal.log_files import SYNC_METHODS, LogFiles, SyncMethod
from pfs.wal.segment_header import SegmentHeader, encode_segment_header

SIZE = 4096


def made(
    fs: SimulatedFileSystem, *segments: int, sync_method: SyncMethod = "fdatasync", system_id: int = 5
) -> LogFiles:
    files = LogFiles(fs, system_id=system_id, segment_size=SIZE, sync_method=sync_method)
    files.make_directory()
    for segment in segments:
        files.prepare(segment, 1)
    return files


def batch_of(*parts: BatchPart) -> Batch:
    return Batch(0, 0, list(parts), 1)


def put(fs: SimulatedFileSystem, path: str, data: bytes, offset: int = 0) -> None:
    descriptor = fs.open(path, os.O_RDWR | os.O_CREAT)
    fs.pwritev(descriptor, [data], offset)
    fs.close(descriptor)


def test_a_segment_is_whole_and_durable_when_it_has_its_name() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2)
    assert files.segments() == [1, 2]
    assert files.end_of_segments() == 3 * SIZE
    content = fs.durable_files["pfs_wal/000000010000000000000002"]
    assert content == encode_segment_header(SegmentHeader(1, 2, 5, SIZE, 1)) + bytes(SIZE - 64)
    operations = fs.operations
    files.prepare(2, 1)
    assert fs.operations == operations


@pytest.mark.parametrize("sync_method", SYNC_METHODS)
def test_a_batch_is_durable_as_the_method_says(sync_method: SyncMethod) -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2, sync_method=sync_method)
    batch = batch_of(BatchPart(1, 100, [b"one", b"two"]), BatchPart(2, 64, [b"three"]))
    fs.journal.clear()
    files.write(batch)
    files.sync()
    files.close()
    durable = fs.durable_files
    there = [
        durable["pfs_wal/000000010000000000000001"][100:106] == b"onetwo",
        durable["pfs_wal/000000010000000000000002"][64:69] == b"three",
    ]
    assert there == [sync_method != "none"] * 2
    syncs = [entry.operation.name for entry in fs.journal if "sync" in entry.operation.name]
    assert syncs == ([sync_method] * 2 if sync_method in ("fsync", "fdatasync") else [])


def test_one_gathered_write_and_one_sync_a_batch() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    files.write(batch_of(BatchPart(1, 64, [b"a"])))
    files.sync()
    fs.journal.clear()
    files.write(batch_of(BatchPart(1, 65, [b"b"] * 1000)))
    files.sync()
    assert [entry.operation.name for entry in fs.journal] == ["pwritev", "fdatasync"]
    files.close()


def test_more_buffers_than_one_call_takes_are_written_in_several() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    buffers = [bytes([index % 251]) for index in range(2500)]
    files.write(batch_of(BatchPart(1, 64, buffers)))
    segment = files.read(1)
    assert segment is not None
    assert segment.content[64:2564] == b"".join(buffers)
    files.close()


def test_short_and_interrupted_calls_are_gone_on_with() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    fs.faults = [
        Fault(short=1000, operation="pwritev"),
        Fault(errno.EINTR, operation="pwritev", at=2),
        Fault(errno.EINTR, operation="preadv", at=1),
        Fault(short=4000, operation="preadv", at=2),
        Fault(errno.EINTR, operation="fdatasync"),
    ]
    files.write(batch_of(BatchPart(1, 64, [b"x" * 800, b"y" * 700])))
    files.sync()
    segment = files.read(1)
    assert segment is not None
    assert segment.content[64:1564] == b"x" * 800 + b"y" * 700
    assert len(segment.content) == SIZE
    assert all(fault.struck for fault in fs.faults)
    files.close()


def test_the_log_leaves_a_segment_and_its_descriptor_behind() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2)
    files.write(batch_of(BatchPart(1, 64, [b"a"]), BatchPart(2, 64, [b"b"])))
    files.sync()
    assert list(fs.open_descriptors.values()) == ["pfs_wal/000000010000000000000002"]
    files.sync()
    files.close()
    assert not fs.open_descriptors


def test_old_segments_are_used_again_with_a_new_header() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2, 3)
    files.write(batch_of(BatchPart(1, 64, [b"old"])))
    files.recycle(3, 4, 9)
    assert files.segments() == [3, 4]
    assert fs.listdir("pfs_wal") == ["000000010000000000000003", "000000010000000000000004"]
    segment = files.read(4)
    assert segment is not None
    assert segment.header == SegmentHeader(1, 4, 5, SIZE, 9)
    assert segment.content[64:67] == b"old"
    assert fs.crash_image("none", Random(1)).listdir("pfs_wal") == fs.listdir("pfs_wal")
    operations = fs.operations
    files.recycle(3, 9, 9)
    assert fs.operations == operations
    files.close()


def test_an_old_segment_that_was_cut_is_not_used_again() -> None:
    """Where the log ends in a segment that is too short, it counts as damaged."""
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2, 3)
    fs.rot("pfs_wal/000000010000000000000001", bytes(SIZE - 8))
    files.recycle(3, 9, 9)
    assert files.segments() == [3, 4]
    files.check(4)
    assert fs.crash_image("none", Random(1)).listdir("pfs_wal") == fs.listdir("pfs_wal")


def test_a_crash_while_recycling_leaves_right_headers_under_every_name_of_the_log() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2, 3)
    rng = Random(1)
    images: list[SimulatedFileSystem] = []
    fs.on_operation = lambda _: images.extend(
        fs.crash_image(policy, rng) for policy in ("none", "all", "prefix", "subset", "torn")
    )
    files.recycle(3, 5, 9)
    files.close()
    for image in images:
        image.on_operation = None
        after = LogFiles(image, system_id=5, segment_size=SIZE)
        for number in after.segments():
            if number >= 3:
                segment = after.read(number)
                assert segment is not None
                assert segment.header is not None


def test_no_space_for_a_segment_leaves_nothing_behind() -> None:
    fs = SimulatedFileSystem(capacity=SIZE + 1000)
    files = made(fs, 1)
    with pytest.raises(NoSpace):
        files.prepare(2, 1)
    assert fs.listdir("pfs_wal") == ["000000010000000000000001"]
    fs.capacity = None
    files.prepare(2, 1)
    assert files.segments() == [1, 2]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_directory_that_is_not_synced_for_want_of_a_descriptor_is_synced_by_the_next_call(code: int) -> None:
    def busy() -> Fault:
        return Fault(code, operation="sync_directory", path="pfs_wal")

    fs = SimulatedFileSystem()
    files = made(fs, 1)
    fs.faults = [busy()]
    with pytest.raises(Busy):
        files.prepare(2, 1)
    assert len(fs.crash_image("none", Random(1)).listdir("pfs_wal")) == 1
    files.prepare(2, 1)
    assert len(fs.crash_image("none", Random(1)).listdir("pfs_wal")) == 2
    fs.faults = [busy()]
    with pytest.raises(Busy):
        files.recycle(2, 3, 1)
    files.recycle(2, 3, 1)
    assert fs.crash_image("none", Random(1)).listdir("pfs_wal") == fs.listdir("pfs_wal")
    fs.faults = [Fault(errno.EIO, operation="sync_directory", path="pfs_wal")]
    with pytest.raises(SyncFailed):
        files.prepare(4, 1)
    files.close()


def test_a_disk_that_takes_nothing_is_an_error_and_not_an_endless_loop() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    fs.pwritev = lambda descriptor, buffers, offset: 0
    with pytest.raises(WriteFailed, match=r"could not write 3 bytes at 64 of .*: the disk takes none"):
        files.write(batch_of(BatchPart(1, 64, [b"new"])))
    files.close()


def test_what_cannot_be_tidied_up_is_removed_at_the_next_start() -> None:
    fs = SimulatedFileSystem()
    files = made(fs)
    fs.faults = [Fault(errno.ENOSPC, operation="pwritev"), Fault(errno.EIO, operation="unlink")]
    with pytest.raises(NoSpace):
        files.prepare(1, 1)
    assert fs.listdir("pfs_wal") == ["xlogtemp.000000010000000000000001"]
    files.remove_leftovers()
    assert fs.listdir("pfs_wal") == []


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (SegmentHeader(1, 1, 6, SIZE, 1), "system id 6, and 5 is wanted"),
        (SegmentHeader(2, 1, 5, SIZE, 1), "timeline 2"),
        (SegmentHeader(1, 2, 5, SIZE, 1), "segment number 2"),
        (SegmentHeader(1, 1, 5, 8192, 1), "segment size 8192"),
        (SegmentHeader(1, 1, 5, SIZE, 1, 2), "formats of version 2"),
    ],
)
def test_a_segment_of_another_log_is_refused_with_its_name(header: SegmentHeader, what: str) -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    put(fs, "pfs_wal/000000010000000000000001", encode_segment_header(header))
    with pytest.raises(ForeignWalSegment, match=f"pfs_wal/000000010000000000000001.*{what}"):
        files.read(1)


def test_a_damaged_header_is_told_from_a_foreign_one() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    put(fs, "pfs_wal/000000010000000000000001", b"damage")
    segment = files.read(1)
    assert segment is not None
    assert segment.header is None
    assert files.read(2) is None


def test_a_segment_that_was_cut_is_read_as_far_as_it_goes() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    descriptor = fs.open("pfs_wal/000000010000000000000001", os.O_RDWR)
    fs.ftruncate(descriptor, 1000)
    fs.close(descriptor)
    segment = files.read(1)
    assert segment is not None
    assert len(segment.content) == 1000


def test_other_names_are_no_segments_and_no_directory_has_none() -> None:
    fs = SimulatedFileSystem()
    assert LogFiles(fs, system_id=5, segment_size=SIZE).segments() == []
    files = made(fs, 1)
    for name in ("README", "000000020000000000000001", "000000010000000000000001.torn"):
        put(fs, f"pfs_wal/{name}", b"x")
    assert LogFiles(fs, system_id=5, segment_size=SIZE).segments() == [1]
    files.make_directory()


def test_what_was_torn_is_kept_if_there_is_room_for_it() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    files.save_torn(1, b"torn")
    assert fs.stat("pfs_wal/000000010000000000000001.torn").size == 4
    fs.faults = [Fault(errno.ENOSPC, operation="pwritev")]
    files.save_torn(1, b"torn")
    assert not fs.exists("pfs_wal/000000010000000000000001.torn")


def test_each_failure_has_its_name() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1)
    batch = batch_of(BatchPart(1, 64, [b"x"]))
    fs.faults = [Fault(errno.EIO, operation="pwritev")]
    with pytest.raises(WriteFailed, match="pfs_wal/000000010000000000000001"):
        files.write(batch)
    fs.faults = [Fault(errno.EIO, operation="fdatasync")]
    files.write(batch)
    with pytest.raises(SyncFailed):
        files.sync()
    fs.faults = [Fault(errno.EIO, operation="preadv")]
    with pytest.raises(ReadFailed):
        files.read(1)
    files.close()
    with pytest.raises(InvalidRequest, match="fdatasync, fsync, O_DSYNC, none"):
        LogFiles(fs, system_id=5, segment_size=SIZE, sync_method="msync")  # type: ignore[arg-type]


def test_the_batches_of_a_log_buffer_can_be_written_as_they_are() -> None:
    fs = SimulatedFileSystem()
    files = made(fs, 1, 2)
    buffer = LogBuffer(
        segment_size=SIZE, position=SIZE + 64, prev_lsn=0, epoch=1, seed=0, limit=files.end_of_segments()
    )
    buffer.insert(Noop(3950))
    buffer.insert(Drop(3))
    batch = buffer.next_batch()
    assert batch is not None
    files.write(batch)
    files.sync()
    buffer.batch_flushed(batch)
    assert fs.durable_files["pfs_wal/000000010000000000000002"][64:68] == b"\xf1\x57\xa1\x0d"
    files.close()
