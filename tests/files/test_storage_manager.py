"""The storage manager on disk: what its functions promise, on a simulated disk with segments of 4 blocks."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pfs.errors import (
    AccessDenied,
    FileClosed,
    FileDamaged,
    FileExists,
    FileMissing,
    InvalidRequest,
    NoSpace,
    OutOfRange,
    PageSizeMismatch,
    RequestTooLarge,
    SyncFailed,
    WriteFailed,
    WrongPageLength,
)
from pfs.files.magnetic_disk import MagneticDisk
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import Fork, RelationAddress
from pfs.files.storage_manager import StorageManager
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from tests.files.relations import ADDRESS, MAIN, PER_SEGMENT, SIZE, block, blocks, content, storage_on
from tests.support import run_together, wait_for

ZEROS = bytes(SIZE)


@pytest.fixture
def fs():
    return SimulatedFileSystem()


@pytest.fixture
def storage(fs):
    with storage_on(fs) as made:
        yield made


@pytest.fixture
def manager(storage):
    return storage.manager


@pytest.fixture
def relation(manager):
    """An open relation with an empty main fork."""
    opened = manager.open(ADDRESS, SIZE)
    manager.create(opened)
    return opened


def file_sizes(fs, directory="base/5"):
    return {name: fs.stat(f"{directory}/{name}").size for name in fs.listdir(directory)}


def put_file(fs, path, data):
    """Write a file as somebody else would, past the storage manager."""
    for end in range(path.count("/")):
        directory = "/".join(path.split("/")[: end + 1])
        if not fs.exists(directory):
            fs.mkdir(directory)
    descriptor = fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    fs.pwritev(descriptor, [data], 0)
    fs.close(descriptor)


def operations(fs, name):
    return [(entry.operation.path, entry.operation.length) for entry in fs.journal if entry.operation.name == name]


# ------------------------------------------------------------------------------------------ reading and writing


def test_blocks_read_back_as_they_were_written_across_segments(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 11))
    assert content(manager, relation) == blocks(1, 11)
    assert file_sizes(fs) == {"16384": 4 * SIZE, "16384.1": 4 * SIZE, "16384.2": 3 * SIZE}
    manager.writev(relation, MAIN, 2, blocks(101, 7))
    manager.write(relation, MAIN, 0, bytearray(block(77)))
    assert content(manager, relation) == [block(77), block(2), *blocks(101, 7), block(10), block(11)]


def test_a_run_costs_one_call_for_each_segment(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 11))
    fs.journal.clear()
    manager.writev(relation, MAIN, 1, blocks(1, 10))
    manager.readv(relation, MAIN, 1, [bytearray(SIZE) for _ in range(10)])
    runs = [("base/5/16384", 3 * SIZE), ("base/5/16384.1", 4 * SIZE), ("base/5/16384.2", 3 * SIZE)]
    assert operations(fs, "pwritev") == operations(fs, "preadv") == runs


def test_a_buffer_may_hold_many_blocks(manager, relation):
    whole = b"".join(blocks(1, 11))
    manager.extend(relation, MAIN, 0, [whole[: 3 * SIZE], memoryview(whole)[3 * SIZE :]])
    first, rest = bytearray(6 * SIZE), bytearray(5 * SIZE)
    manager.readv(relation, MAIN, 0, [first, memoryview(rest)])
    assert first + rest == whole


def test_more_buffers_than_one_system_call_takes_are_read_and_written(fs):
    with storage_on(fs, segment_size=SIZE * 2000) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        manager.extend(relation, MAIN, 0, blocks(0, 2500))
        buffers = [bytearray(SIZE) for _ in range(2500)]
        manager.readv(relation, MAIN, 0, buffers)
        assert buffers == blocks(0, 2500)
        assert manager.try_readv_nowait(relation, MAIN, 0, buffers) is None


@pytest.mark.parametrize(("first", "count"), [(3, 1), (0, 4), (2, 2), (2**32 - 2, 1)])
def test_a_read_or_write_past_the_end_is_out_of_range_and_changes_nothing(manager, relation, first, count):
    manager.extend(relation, MAIN, 0, blocks(1, 3))
    buffers = [bytearray(block(9)) for _ in range(count)]
    for call in (manager.readv, manager.writev, manager.try_readv_nowait):
        with pytest.raises(OutOfRange, match=f"blocks {first} to {first + count - 1} of 'base/5/16384'.*has 3 blocks"):
            call(relation, MAIN, first, buffers)
    assert buffers == [block(9)] * count
    assert content(manager, relation) == blocks(1, 3)


@pytest.mark.parametrize("existing", [0, 2, 4, 6])
def test_in_recovery_blocks_past_the_end_read_as_zeros(manager, relation, existing):
    if existing:
        manager.extend(relation, MAIN, 0, blocks(1, existing))
    buffers = [bytearray(block(9)) for _ in range(10)]
    manager.readv(relation, MAIN, 0, buffers, in_recovery=True)
    assert buffers == [*blocks(1, existing), *[ZEROS] * (10 - existing)]
    assert manager.nblocks(relation) == existing


def test_in_recovery_a_large_buffer_is_zeroed_from_where_the_fork_ends(manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 2))
    buffer = bytearray(b"x" * 3 * SIZE)
    manager.readv(relation, MAIN, 1, [buffer], in_recovery=True)
    assert buffer == block(2) + 2 * ZEROS


@pytest.mark.parametrize("read", ["preadv", "preadv_nowait"])
@pytest.mark.parametrize("left", [1, 5])
def test_a_read_that_a_truncation_overtakes_is_out_of_range(fs, manager, relation, read, left):
    manager.extend(relation, MAIN, 0, blocks(1, 6))

    def truncate_before_second_read(operation):
        if operation.name == read and operation.path.endswith(".1"):
            fs.on_operation = None
            manager.truncate(relation, {MAIN: left})

    fs.on_operation = truncate_before_second_read
    if read == "preadv_nowait":
        assert manager.try_readv_nowait(relation, MAIN, 0, [bytearray(6 * SIZE)]) is None
    with pytest.raises(OutOfRange, match=rf"blocks 0 to 5 .* has {left} blocks"):
        manager.readv(relation, MAIN, 0, [bytearray(6 * SIZE)])


@pytest.mark.parametrize("read", ["preadv", "preadv_nowait"])
def test_a_read_that_a_truncation_and_an_extension_overtake_has_the_new_blocks(fs, manager, relation, read):
    manager.extend(relation, MAIN, 0, blocks(1, 6))

    def renew_before_second_read(operation):
        if operation.name == read and operation.path.endswith(".1"):
            fs.on_operation = None
            manager.truncate(relation, {MAIN: 1})
            manager.extend(relation, MAIN, 1, blocks(52, 5))

    fs.on_operation = renew_before_second_read
    buffers = [bytearray(SIZE) for _ in range(6)]
    if read == "preadv" or manager.try_readv_nowait(relation, MAIN, 0, buffers) is None:
        manager.readv(relation, MAIN, 0, buffers)
    assert buffers == [block(1), *blocks(52, 5)]


def test_a_file_that_somebody_else_cut_is_out_of_range(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 6))
    put_file(fs, "base/5/16384.1", block(5))
    with pytest.raises(OutOfRange, match="'base/5/16384' ends before block 5, though it had 6 blocks"):
        manager.readv(relation, MAIN, 4, [bytearray(2 * SIZE)])


def test_reads_from_the_page_cache_never_wait(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 6))
    buffers = [bytearray(SIZE) for _ in range(6)]
    assert manager.try_readv_nowait(relation, MAIN, 0, buffers) == 6
    assert buffers == blocks(1, 6)
    fs.page_cache = "cold"
    assert manager.try_readv_nowait(relation, MAIN, 0, buffers) is None


def test_a_fork_whose_size_is_not_known_yet_is_not_looked_at_inline(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 1))
    manager.close(relation)
    again = manager.open(ADDRESS, SIZE)
    put_file(fs, "base/5/16384_fsm", ZEROS)
    before = fs.operations
    assert manager.try_readv_nowait(again, Fork.FSM, 0, [bytearray(SIZE)]) is None
    assert fs.operations == before
    manager.readv(again, Fork.FSM, 0, [bytearray(SIZE)])
    assert manager.try_readv_nowait(again, Fork.FSM, 0, [bytearray(SIZE)]) == 1


def test_a_block_of_which_only_a_part_is_cached_is_not_had_inline(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 2))
    fs.faults.append(Fault(short=100, operation="preadv_nowait"))
    assert manager.try_readv_nowait(relation, MAIN, 0, [bytearray(2 * SIZE)]) is None


# ------------------------------------------------------------------------------------------ extending


@pytest.mark.parametrize("existing", [0, 1, 3, 4, 5, 8])
@pytest.mark.parametrize("gap", [0, 1, 2, 4, 9])
@pytest.mark.parametrize("added", [1, 3, 6])
def test_extending_past_the_end_fills_the_gap_with_zeros(fs, manager, relation, existing, gap, added):
    if existing:
        manager.extend(relation, MAIN, 0, blocks(1, existing))
    manager.extend(relation, MAIN, existing + gap, blocks(50, added))
    expected = [*blocks(1, existing), *[ZEROS] * gap, *blocks(50, added)]
    assert manager.nblocks(relation) == len(expected)
    assert content(manager, relation) == expected
    manager.close(relation)
    assert content(manager, manager.open(ADDRESS, SIZE)) == expected
    assert sum(file_sizes(fs).values()) == len(expected) * SIZE


def test_zero_extension_adds_zeros_and_allocates_them(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 2))
    manager.zero_extend(relation, MAIN, 3, 7)
    assert content(manager, relation) == [*blocks(1, 2), *[ZEROS] * 8]
    assert [path for path, _ in operations(fs, "fallocate")] == ["base/5/16384", "base/5/16384.1", "base/5/16384.2"]


def test_a_block_that_exists_cannot_be_extended(manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 3))
    with pytest.raises(OutOfRange, match=r"block 2 of 'base/5/16384' exists already \(it has 3\): write it"):
        manager.extend(relation, MAIN, 2, blocks(9, 2))
    with pytest.raises(OutOfRange, match="exists already"):
        manager.zero_extend(relation, MAIN, 0, 5)
    assert content(manager, relation) == blocks(1, 3)


def test_a_fork_has_at_most_2_to_the_32_minus_1_blocks(manager, relation):
    manager.open(ADDRESS, SIZE)
    for extend in (
        lambda: manager.extend(relation, MAIN, 2**32 - 2, blocks(1, 2)),
        lambda: manager.zero_extend(relation, MAIN, 0, 2**32),
        lambda: manager.zero_extend(relation, MAIN, 1, 2**32 - 1),
    ):
        with pytest.raises((RequestTooLarge, InvalidRequest), match=r"429496729[45]"):
            extend()
    with pytest.raises(InvalidRequest, match="4294967294"):
        manager.extend(relation, MAIN, 2**32 - 1, blocks(1, 1))
    assert manager.nblocks(relation) == 0


def test_the_last_block_of_the_longest_fork_can_be_used():
    fs = SimulatedFileSystem(keep_journal=False)
    with storage_on(fs, segment_size=2**32 * SIZE) as storage:
        relation = storage.manager.open(ADDRESS, SIZE)
        storage.manager.create(relation)
        storage.manager.truncate(relation, {MAIN: 0})
        with pytest.raises(RequestTooLarge):
            storage.manager.zero_extend(relation, MAIN, 2**32 - 2, 2)


def test_a_write_that_fails_in_an_extension_is_fatal_and_leaves_the_known_blocks(fs):
    with storage_on(fs) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        manager.extend(relation, MAIN, 0, blocks(1, 2))
        fs.faults.append(Fault(errno.EIO, operation="pwritev", path="*.1"))
        with pytest.raises(WriteFailed):
            manager.extend(relation, MAIN, 2, blocks(3, 5))
        assert manager.nblocks(relation) == 2
        with pytest.raises(WriteFailed):
            manager.shutdown()


def test_an_extension_that_the_disk_refuses_to_take_back_is_fatal(fs):
    with storage_on(fs) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        fs.faults += [
            Fault(errno.ENOSPC, operation="open", path="*.1"),
            Fault(errno.EIO, operation="ftruncate", at=2),
        ]
        with pytest.raises(WriteFailed, match="set the length of 'base/5/16384' to 0"):
            manager.extend(relation, MAIN, 5, blocks(3, 1))
        with pytest.raises(WriteFailed):
            manager.shutdown()


def extend_without_space(fs, manager, relation):
    """Two blocks, and an extension of nine that writes a whole segment, finds no space, and cannot be taken back."""
    manager.extend(relation, MAIN, 0, blocks(1, 2))
    fs.faults += [
        Fault(errno.ENOSPC, operation="pwritev", path="*.2"),
        Fault(errno.ENOSPC, operation="ftruncate", forever=True),
    ]
    with pytest.raises(NoSpace, match=r"base/5/16384\.2"):
        manager.extend(relation, MAIN, 2, blocks(50, 9))
    assert file_sizes(fs) == {"16384": 4 * SIZE, "16384.1": 4 * SIZE, "16384.2": 0}
    assert content(manager, relation) == blocks(1, 2)


def test_what_an_extension_leaves_that_cannot_be_taken_back_is_cut_before_the_next(fs, manager, relation):
    extend_without_space(fs, manager, relation)
    for call in (
        lambda: manager.extend(relation, MAIN, 2, blocks(3, 1)),
        lambda: manager.zero_extend(relation, MAIN, 2, 1),
        lambda: manager.truncate(relation, {MAIN: 2}),
    ):
        with pytest.raises(NoSpace, match="set the length"):
            call()
        assert content(manager, relation) == blocks(1, 2)
    fs.faults.clear()
    manager.write(relation, MAIN, 1, block(9))
    manager.extend(relation, MAIN, 6, blocks(7, 1))
    assert content(manager, relation) == [*blocks(1, 1), block(9), *[ZEROS] * 4, *blocks(7, 1)]
    assert file_sizes(fs) == {"16384": 4 * SIZE, "16384.1": 3 * SIZE, "16384.2": 0}


def test_what_an_extension_leaves_that_cannot_be_taken_back_is_cut_by_a_truncation(fs, manager, relation):
    extend_without_space(fs, manager, relation)
    manager.sync()
    fs.faults.clear()
    manager.truncate(relation, {MAIN: 2})
    assert file_sizes(fs) == {"16384": 2 * SIZE, "16384.1": 0, "16384.2": 0}
    manager.sync()
    assert {path: len(data) for path, data in fs.durable_files.items() if path.startswith("base/5/16384")} == {
        "base/5/16384": 2 * SIZE,
        "base/5/16384.1": 0,
        "base/5/16384.2": 0,
    }
    before = operations(fs, "ftruncate")
    manager.truncate(relation, {MAIN: 2})
    assert operations(fs, "ftruncate") == before  # nothing is left to be cut


def test_what_an_extension_leaves_that_cannot_be_taken_back_is_cut_when_the_relation_is_closed(fs, manager, relation):
    extend_without_space(fs, manager, relation)
    fs.faults.clear()
    manager.close(relation)
    assert file_sizes(fs) == {"16384": 2 * SIZE, "16384.1": 0, "16384.2": 0}
    assert content(manager, manager.open(ADDRESS, SIZE)) == blocks(1, 2)


def test_what_cannot_even_be_cut_when_the_relation_is_closed_are_whole_blocks_when_it_is_opened(fs, manager, relation):
    extend_without_space(fs, manager, relation)
    manager.close(relation)
    again = manager.open(ADDRESS, SIZE)
    assert content(manager, again) == [*blocks(1, 2), *blocks(50, 6)]
    fs.faults.clear()
    manager.truncate(again, {MAIN: 2})
    assert content(manager, again) == blocks(1, 2)


@pytest.mark.parametrize("capacity", range(0, 12 * SIZE, 300))
@pytest.mark.parametrize("gap", [0, 3])
def test_an_extension_without_space_leaves_the_fork_as_it_was(capacity, gap):
    fs = SimulatedFileSystem()
    with storage_on(fs) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        manager.extend(relation, MAIN, 0, blocks(1, 2))
        fs.capacity = 2 * SIZE + capacity
        failed = []
        for call in (
            lambda: manager.extend(relation, MAIN, 2 + gap, blocks(50, 9)),
            lambda: manager.zero_extend(relation, MAIN, 2 + gap, 9),
        ):
            try:
                call()
            except Exception as error:
                failed.append(type(error).__name__)
                assert content(manager, relation) == blocks(1, 2)
                assert sum(file_sizes(fs).values()) == 2 * SIZE
            else:
                manager.truncate(relation, {MAIN: 2})
        assert failed == ["NoSpace"] * len(failed)
        assert failed or capacity >= 9 * SIZE
        fs.capacity = None
        manager.extend(relation, MAIN, 2, blocks(3, 9))
        assert content(manager, relation) == blocks(1, 11)


# ------------------------------------------------------------------------------------------ truncating and segments


@pytest.mark.parametrize("before", range(13))
@pytest.mark.parametrize("after", range(13))
def test_truncation_leaves_inactive_segments_empty_and_they_are_used_again(fs, manager, relation, before, after):
    if before:
        manager.extend(relation, MAIN, 0, blocks(1, before))
    if after > before:
        with pytest.raises(OutOfRange, match=f"to {after} blocks: it has only {before}"):
            manager.truncate(relation, {MAIN: after})
        manager.truncate(relation, {MAIN: after}, in_recovery=True)
        assert manager.nblocks(relation) == before
        return
    names = file_sizes(fs).keys()
    manager.truncate(relation, {MAIN: after})
    assert manager.nblocks(relation) == after
    assert content(manager, relation) == blocks(1, after)
    sizes = file_sizes(fs)
    assert sizes.keys() == names
    assert sum(sizes.values()) == after * SIZE
    with pytest.raises(OutOfRange):
        manager.read(relation, MAIN, after)
    manager.extend(relation, MAIN, after + 1, blocks(50, 9))
    assert content(manager, relation) == [*blocks(1, after), ZEROS, *blocks(50, 9)]


@pytest.mark.parametrize("left", [0, SIZE, 4 * SIZE])
@pytest.mark.parametrize("known", [False, True])
def test_a_fork_that_just_fills_its_last_segment_does_not_take_in_the_one_behind(fs, manager, relation, left, known):
    """A crash can leave the length of one file on disk, and lose that of the file before it."""
    manager.extend(relation, MAIN, 0, blocks(1, 7 if known else 3))
    if known:
        manager.truncate(relation, {MAIN: 3})
    put_file(fs, "base/5/16384.1", bytes(left))
    assert manager.nblocks(relation) == 3
    manager.extend(relation, MAIN, 3, blocks(4, 1))
    assert manager.nblocks(relation) == 4
    manager.sync()
    manager.close(relation)
    assert manager.nblocks(manager.open(ADDRESS, SIZE)) == 4
    assert len(fs.durable_files["base/5/16384.1"]) == 0


def test_several_forks_are_truncated_at_once_or_none(manager, relation):
    for fork in (Fork.FSM, Fork.VM):
        manager.create(relation, fork)
    for fork, count in ((MAIN, 9), (Fork.FSM, 5), (Fork.VM, 2)):
        manager.extend(relation, fork, 0, blocks(1, count))
    with pytest.raises(OutOfRange):
        manager.truncate(relation, {MAIN: 1, Fork.FSM: 1, Fork.VM: 3})
    with pytest.raises(FileMissing):
        manager.truncate(relation, {MAIN: 1, Fork.INIT: 0})
    assert [manager.nblocks(relation, fork) for fork in (MAIN, Fork.FSM, Fork.VM)] == [9, 5, 2]
    manager.truncate(relation, {Fork.VM: 1, MAIN: 6, Fork.FSM: 5})
    assert [manager.nblocks(relation, fork) for fork in (MAIN, Fork.FSM, Fork.VM)] == [6, 5, 1]


@pytest.mark.parametrize("struck", [1, 2, 3])
def test_a_truncation_that_cannot_go_on_leaves_a_fork_with_the_blocks_that_are_still_there(
    fs, manager, relation, struck
):
    manager.extend(relation, MAIN, 0, blocks(1, 11))
    fs.faults.append(Fault(errno.ENOSPC, at=struck, operation="ftruncate"))
    with pytest.raises(Exception, match="could not"):
        manager.truncate(relation, {MAIN: 1})
    left = {1: 11, 2: 8, 3: 4}[struck]
    assert content(manager, relation) == blocks(1, left)
    manager.truncate(relation, {MAIN: 1})
    assert content(manager, relation) == blocks(1, 1)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_middle_segment_ends_the_relation(fs, manager, relation, missing):
    manager.extend(relation, MAIN, 0, blocks(1, 16))
    manager.close(relation)
    manager.sync()
    fs.unlink(f"base/5/16384.{missing}")
    again = manager.open(ADDRESS, SIZE)
    assert content(manager, again) == blocks(1, missing * PER_SEGMENT)


def test_what_lies_in_segments_after_the_end_never_comes_back(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 12))
    manager.close(relation)
    put_file(fs, "base/5/16384.1", block(5))  # a crash kept the length of the third segment, not of the second
    again = manager.open(ADDRESS, SIZE)
    assert manager.nblocks(again) == 5
    manager.extend(again, MAIN, 10, [block(99)])
    assert content(manager, again) == [*blocks(1, 5), *[ZEROS] * 5, block(99)]


def test_filling_a_segment_does_not_bring_back_what_lies_in_the_next(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 12))
    manager.close(relation)
    put_file(fs, "base/5/16384.1", block(5))
    again = manager.open(ADDRESS, SIZE)
    manager.extend(again, MAIN, 5, blocks(20, 3))
    assert content(manager, again) == [*blocks(1, 5), *blocks(20, 3)]
    manager.close(again)
    assert manager.nblocks(manager.open(ADDRESS, SIZE)) == 8


def test_the_number_of_blocks_is_looked_up_once_and_stays_right(fs, manager, relation):
    other = manager.open(ADDRESS, SIZE)
    manager.extend(relation, MAIN, 0, blocks(1, 6))
    before = fs.operations
    assert (manager.nblocks(relation), manager.nblocks(other)) == (6, 6)
    assert fs.operations == before
    manager.truncate(other, {MAIN: 3})
    assert manager.nblocks(relation) == 3
    manager.zero_extend(other, MAIN, 3, 4)
    assert manager.nblocks(relation) == 7


def test_a_real_file_system_gives_the_same(tmp_path):
    with storage_on(PosixFileSystem(tmp_path)) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        manager.extend(relation, MAIN, 3, blocks(1, 7))
        manager.zero_extend(relation, MAIN, 10, 3)
        manager.prefetch(relation, MAIN, 0, 13)
        manager.writeback(relation, MAIN, 0, 13)
        manager.truncate(relation, {MAIN: 11})
        assert content(manager, relation) == [*[ZEROS] * 3, *blocks(1, 7), ZEROS]
        assert manager.sync() == 4
    files = sorted((tmp_path / "base" / "5").iterdir())
    assert [(file.name, file.stat().st_size // SIZE) for file in files] == [
        *(("16384", 4), ("16384.1", 4), ("16384.2", 3), ("16384.3", 0))
    ]
    assert b"".join(file.read_bytes() for file in files) == b"".join([*[ZEROS] * 3, *blocks(1, 7), ZEROS])


# ------------------------------------------------------------------------------------------ relations and forks


def test_forks_are_independent_runs_of_blocks(fs, manager, relation):
    for number, fork in enumerate(Fork):
        manager.create(relation, fork, exist_ok=True)
        manager.extend(relation, fork, 0, blocks(10 * number, number + 1))
    for number, fork in enumerate(Fork):
        assert content(manager, relation, fork) == blocks(10 * number, number + 1)
    assert file_sizes(fs) == {
        "16384": SIZE,
        "16384_fsm": 2 * SIZE,
        "16384_vm": 3 * SIZE,
        "16384_init": 4 * SIZE,
    }


def test_relations_live_in_the_directories_of_their_tablespaces(fs, manager):
    for address in (RelationAddress(1664, 0, 1262), RelationAddress(16390, 7, 16391)):
        manager.create(manager.open(address, SIZE))
        assert manager.exists(address)
    assert fs.exists("global/1262")
    assert fs.exists("pg_tblspc/16390/PFS_1/7/16391")


def test_a_fork_is_created_once(manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 3))
    with pytest.raises(FileExists, match="base/5/16384"):
        manager.create(relation)
    manager.create(relation, exist_ok=True)
    manager.close(relation)
    again = manager.open(ADDRESS, SIZE)
    manager.create(again, exist_ok=True)
    with pytest.raises(FileExists):
        manager.create(again)
    assert content(manager, again) == blocks(1, 3)


def test_a_fork_left_by_another_run_is_found_when_it_may_exist(fs, manager):
    relation = manager.open(ADDRESS, SIZE)
    put_file(fs, "base/5/16384", block(7))
    manager.create(relation, exist_ok=True)
    assert content(manager, relation) == [block(7)]


def test_a_fork_that_was_never_created_is_missing(manager, relation):
    assert manager.exists(ADDRESS)
    assert not manager.exists(ADDRESS, Fork.FSM)
    for call in (
        lambda: manager.nblocks(relation, Fork.FSM),
        lambda: manager.read(relation, Fork.FSM, 0),
        lambda: manager.readv(relation, Fork.FSM, 0, [bytearray(SIZE)], in_recovery=True),
        lambda: manager.writev(relation, Fork.FSM, 0, blocks(1, 1)),
        lambda: manager.extend(relation, Fork.FSM, 0, blocks(1, 1)),
        lambda: manager.truncate(relation, {Fork.FSM: 0}),
        lambda: manager.immedsync(relation, Fork.FSM),
        lambda: manager.registersync(relation, Fork.FSM),
        lambda: manager.prefetch(relation, Fork.FSM, 0),
    ):
        with pytest.raises(FileMissing, match="16384_fsm"):
            call()


@pytest.mark.parametrize("opened", [True, False])
def test_unlinking_removes_every_segment_of_every_fork(fs, manager, relation, opened):
    manager.create(relation, Fork.VM)
    manager.extend(relation, MAIN, 0, blocks(1, 11))
    manager.extend(relation, Fork.VM, 0, blocks(1, 5))
    manager.truncate(relation, {MAIN: 2})
    if not opened:
        manager.close(relation)
    manager.unlink(ADDRESS)
    assert fs.listdir("base/5") == []
    assert "base/5/16384" not in fs.durable_files
    assert not manager.exists(ADDRESS)
    manager.unlink(ADDRESS)  # nothing is there: nothing to do
    removed = [path for path, _ in operations(fs, "unlink") if path.startswith("base")]
    assert removed == [f"base/5/16384{rest}" for rest in ("_vm.1", "_vm", ".2", ".1", "")]


def test_one_fork_can_be_unlinked_and_created_again(fs, manager, relation):
    other = manager.open(ADDRESS, SIZE)
    manager.extend(relation, MAIN, 0, blocks(1, 3))
    manager.create(relation, Fork.FSM)
    manager.extend(relation, Fork.FSM, 0, blocks(1, 6))
    manager.unlink(ADDRESS, [Fork.FSM])
    with pytest.raises(FileMissing):
        manager.nblocks(other, Fork.FSM)
    manager.create(other, Fork.FSM)
    assert manager.nblocks(relation, Fork.FSM) == 0
    assert content(manager, relation) == blocks(1, 3)


def test_segments_that_nobody_has_opened_are_unlinked_too(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 2))
    put_file(fs, "base/5/16384.1", block(1))
    put_file(fs, "base/5/16384.2", block(1))
    manager.unlink(ADDRESS)
    assert fs.listdir("base/5") == []


def test_an_unlinking_that_fails_leaves_a_fork_with_an_end(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 11))
    fs.faults.append(Fault(errno.EBUSY, at=2, operation="unlink", path="base/*"))
    with pytest.raises(Exception, match="could not remove"):
        manager.unlink(ADDRESS)
    assert content(manager, relation) == blocks(1, 4)
    manager.unlink(ADDRESS)
    assert fs.listdir("base/5") == []


def test_a_relation_has_one_block_size_at_a_time(manager, relation):
    with pytest.raises(PageSizeMismatch, match="1663/5/16384 is open with blocks of 512 bytes, not 1024"):
        manager.open(ADDRESS, 1024)
    manager.close(relation)
    assert manager.open(ADDRESS, 1024).block_size == 1024


@pytest.mark.parametrize("size", [512, 1024, 8192, 65536])
def test_blocks_may_have_512_bytes_to_64_kib(fs, size):
    with storage_on(fs, segment_size=size * 2) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, size)
        manager.create(relation)
        manager.extend(relation, MAIN, 0, [block(1, size), block(2, size), block(3, size)])
        assert content(manager, relation) == [block(1, size), block(2, size), block(3, size)]


@pytest.mark.parametrize("fork", list(Fork))
def test_a_torn_tail_is_reported_at_open_and_cut_on_demand(fs, manager, fork):
    suffix = {MAIN: "", Fork.FSM: "_fsm", Fork.VM: "_vm", Fork.INIT: "_init"}[fork]
    put_file(fs, f"base/5/16384{suffix}", b"".join(blocks(1, 4)))
    put_file(fs, f"base/5/16384{suffix}.1", block(5) + b"torn")
    with pytest.raises(FileDamaged, match=rf"'base/5/16384{suffix}.1' has 516 bytes.*block size 512.*repair=True"):
        manager.open(ADDRESS, SIZE)
    assert file_sizes(fs)[f"16384{suffix}.1"] == 516
    relation = manager.open(ADDRESS, SIZE, repair=True)
    assert content(manager, relation, fork) == blocks(1, 5)
    assert file_sizes(fs)[f"16384{suffix}.1"] == SIZE
    assert [name for name in fs.open_descriptors.values() if name.endswith("16384")].count("base/5/16384") <= 1


def test_a_segment_that_is_too_long_is_reported_not_cut(fs, manager):
    put_file(fs, "base/5/16384", b"".join(blocks(1, 5)))
    for repair in (False, True):
        with pytest.raises(FileDamaged, match="'base/5/16384' has 2560 bytes, more than the 2048 of a segment"):
            manager.open(ADDRESS, SIZE, repair=repair)
    assert file_sizes(fs) == {"16384": 5 * SIZE}


def test_a_closed_handle_is_of_no_use_but_another_on_the_relation_is(manager, relation):
    other = manager.open(ADDRESS, SIZE)
    manager.close(relation)
    manager.close(relation)
    for call in (lambda: manager.nblocks(relation), lambda: manager.extend(relation, MAIN, 0, blocks(1, 1))):
        with pytest.raises(FileClosed, match="1663/5/16384"):
            call()
    manager.extend(other, MAIN, 0, blocks(1, 1))
    assert repr(relation) == "Relation(1663/5/16384, block_size=512, closed)"
    assert repr(other) == "Relation(1663/5/16384, block_size=512)"


def test_the_last_handle_closes_the_files(fs, manager, relation):
    other = manager.open(ADDRESS, SIZE)
    manager.create(relation, Fork.VM)
    manager.extend(relation, MAIN, 0, blocks(1, 6))
    manager.close(relation)
    assert fs.open_descriptors
    manager.close(other)
    assert not fs.open_descriptors


def test_after_shutdown_nothing_is_open_and_everything_is_durable(fs):
    with storage_on(fs) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        manager.extend(relation, MAIN, 0, blocks(1, 5))
        manager.shutdown()
        assert not fs.open_descriptors
        assert fs.durable_files["base/5/16384"] + fs.durable_files["base/5/16384.1"] == b"".join(blocks(1, 5))
        with pytest.raises(FileClosed):
            manager.nblocks(relation)
        with pytest.raises(FileClosed, match="shut down"):
            manager.open(ADDRESS, SIZE)
        manager.close(relation)
        manager.shutdown()


def test_each_relation_is_kept_by_the_implementation_that_is_chosen_for_it(fs, storage):
    other_fs = SimulatedFileSystem()
    with storage_on(other_fs) as other:
        manager = StorageManager(
            {"here": storage.disk, "there": other.disk},
            choose=lambda address: "there" if address.database == 9 else "here",
            segment_size=SIZE * PER_SEGMENT,
        )
        for database in (5, 9):
            relation = manager.open(RelationAddress(1663, database, 16384), SIZE)
            manager.create(relation)
            manager.extend(relation, MAIN, 0, blocks(database, 1))
        assert manager.sync() == 2
        manager.shutdown()
    assert fs.durable_files["base/5/16384"] == block(5)
    assert other_fs.durable_files["base/9/16384"] == block(9)


# ------------------------------------------------------------------------------------------ durability


def test_a_checkpoint_syncs_each_written_segment_once(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 9))
    for _ in range(5):
        manager.write(relation, MAIN, 1, block(9))
        manager.write(relation, MAIN, 8, block(9))
    fs.journal.clear()
    assert manager.sync() == 3
    assert sorted(path for path, _ in operations(fs, "fdatasync")) == [
        f"base/5/16384{rest}" for rest in ("", ".1", ".2")
    ]
    assert fs.durable_files["base/5/16384.2"] == block(9)
    assert manager.sync() == 0


def test_a_checkpoint_covers_created_truncated_and_closed_files(fs, manager, relation):
    manager.create(relation, Fork.FSM)
    manager.extend(relation, MAIN, 0, blocks(1, 9))
    manager.sync()
    manager.truncate(relation, {MAIN: 1})
    manager.close(relation)
    manager.sync()
    assert {name: len(data) for name, data in fs.durable_files.items() if name.startswith("base")} == {
        "base/5/16384": SIZE,
        "base/5/16384.1": 0,
        "base/5/16384.2": 0,
        "base/5/16384_fsm": 0,
    }


def test_writes_that_their_user_syncs_are_not_pending(fs, manager, relation):
    manager.sync()
    manager.extend(relation, MAIN, 0, blocks(1, 5), skip_sync=True)
    manager.writev(relation, MAIN, 0, blocks(5, 5), skip_sync=True)
    manager.zero_extend(relation, MAIN, 5, 1, skip_sync=True)
    assert manager.sync() == 0
    manager.immedsync(relation)
    assert fs.durable_files["base/5/16384"] == b"".join(blocks(5, 4))
    assert fs.durable_files["base/5/16384.1"] == block(9) + ZEROS


def test_what_another_run_wrote_can_be_registered(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 5))
    manager.sync()
    manager.registersync(relation)
    manager.close(relation)
    fs.journal.clear()
    assert manager.sync() == 2
    assert sorted(path for path, _ in operations(fs, "fdatasync")) == ["base/5/16384", "base/5/16384.1"]


def test_what_is_unlinked_is_not_synced(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 5))
    manager.unlink(ADDRESS)
    fs.journal.clear()
    assert manager.sync() == 0
    assert operations(fs, "fdatasync") == []


def test_what_is_unlinked_during_a_checkpoint_is_passed_over(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 9))

    def unlink_at_first_sync(operation):
        if operation.name == "fdatasync":
            fs.on_operation = None
            threading.Thread(target=unlink).start()
            wait_for(unlinked)

    def unlink():
        manager.unlink(RelationAddress(1663, 5, 16400))
        unlinked.set()

    unlinked = threading.Event()
    second = manager.open(RelationAddress(1663, 5, 16400), SIZE)
    manager.create(second)
    manager.extend(second, MAIN, 0, blocks(1, 9))
    fs.on_operation = unlink_at_first_sync
    assert manager.sync() == 3
    assert manager.sync() == 0


def test_a_file_unlinked_while_a_checkpoint_opens_it_is_passed_over(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 1))
    manager.sync()
    manager.registersync(relation)
    manager.close(relation)

    def unlink_before_open(operation):
        if operation.name == "open":
            fs.on_operation = None
            manager.unlink(ADDRESS)

    fs.on_operation = unlink_before_open
    assert manager.sync() == 0


def test_a_file_that_vanished_with_unsynced_writes_is_fatal(fs, manager, relation):
    manager.sync()
    manager.registersync(relation)
    manager.close(relation)
    fs.unlink("base/5/16384")
    with pytest.raises(SyncFailed, match=r"'base/5/16384' is gone.*pfs did not remove it"):
        manager.sync()
    with pytest.raises(SyncFailed):
        manager.shutdown()


def test_what_a_failed_checkpoint_did_not_sync_is_still_pending(fs, manager):
    for number in range(16384, 16389):
        relation = manager.open(RelationAddress(1663, 5, number), SIZE)
        manager.create(relation)
        manager.registersync(relation)
        manager.close(relation)
    fs.faults.append(Fault(errno.EACCES, at=3, operation="open"))
    with pytest.raises(AccessDenied):
        manager.sync()
    assert manager.sync() == 3


def test_a_file_whose_sync_failed_is_never_synced_as_if_it_had_not(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 1))
    fs.faults.append(Fault(errno.EIO, operation="fdatasync"))
    for _ in range(2):
        with pytest.raises(SyncFailed):
            manager.sync()
    with pytest.raises(SyncFailed):
        manager.immedsync(relation)
    with pytest.raises(SyncFailed):
        manager.shutdown()
    assert [entry.result for entry in fs.journal if entry.operation.name == "fdatasync"] == ["EIO"]


def test_prefetch_and_writeback_advise_the_kernel_about_existing_blocks(fs, manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 6))
    fs.journal.clear()
    manager.prefetch(relation, MAIN, 3, 100)
    manager.writeback(relation, MAIN, 5)
    manager.prefetch(relation, MAIN, 6)
    expected = [("base/5/16384", SIZE), ("base/5/16384.1", 2 * SIZE), ("base/5/16384.1", SIZE)]
    assert operations(fs, "fadvise") == expected


# ------------------------------------------------------------------------------------------ many threads


def test_readers_beside_one_who_extends_and_truncates_see_whole_blocks_only(tmp_path):
    """Each block is filled with one byte value that its number gives, so a wrong, torn or unmade block shows."""
    with storage_on(PosixFileSystem(tmp_path), slots=3) as storage:
        manager = storage.manager
        relation = manager.open(ADDRESS, SIZE)
        manager.create(relation)
        done = threading.Event()

        def change():
            try:
                for cycle in range(30):
                    size = manager.nblocks(relation)
                    manager.extend(relation, MAIN, size, [block(1 + number) for number in range(size, size + 7)])
                    if cycle % 3 == 2:
                        manager.truncate(relation, {MAIN: 5})
                    if cycle % 10 == 9:
                        manager.sync()
            finally:
                done.set()
            return 0

        def read():
            read = 0
            finished = False
            while not finished:
                finished = done.is_set()
                count = max(manager.nblocks(relation), 1)
                buffers = [bytearray(SIZE) for _ in range(count)]
                try:
                    if manager.try_readv_nowait(relation, MAIN, 0, buffers) is None:
                        manager.readv(relation, MAIN, 0, buffers)
                except OutOfRange:  # empty, or truncated since we asked
                    continue
                assert buffers == [block(1 + number) for number in range(count)]
                read += count
            return read

        _, *read_by_each = run_together([change, read, read, read])
        assert all(read_by_each)


def test_the_size_of_a_fork_is_measured_by_one_of_many_who_ask(tmp_path):
    with storage_on(PosixFileSystem(tmp_path)) as storage:
        relation = storage.manager.open(ADDRESS, SIZE)
        storage.manager.create(relation)
        storage.manager.extend(relation, MAIN, 0, blocks(1, 13))
    fs = PosixFileSystem(tmp_path)
    with storage_on(fs) as storage:
        manager = storage.manager
        found = run_together([lambda: manager.nblocks(manager.open(ADDRESS, SIZE))] * 8)
        assert found == [13] * 8
        assert storage.pool.stats()["open"] == 4


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("bad", [-1, 2**32 - 1, 2**64, True, 1.0, "1", None])
def test_a_block_number_must_be_an_int_of_32_bits(manager, relation, bad):
    manager.extend(relation, MAIN, 0, blocks(1, 3))
    for call in (
        lambda: manager.read(relation, MAIN, bad),
        lambda: manager.readv(relation, MAIN, bad, [bytearray(SIZE)], in_recovery=True),
        lambda: manager.try_readv_nowait(relation, MAIN, bad, [bytearray(SIZE)]),
        lambda: manager.write(relation, MAIN, bad, block(1)),
        lambda: manager.extend(relation, MAIN, bad, blocks(1, 1)),
        lambda: manager.zero_extend(relation, MAIN, bad, 1),
        lambda: manager.prefetch(relation, MAIN, bad),
        lambda: manager.writeback(relation, MAIN, bad),
    ):
        with pytest.raises(InvalidRequest, match="block"):
            call()
    assert content(manager, relation) == blocks(1, 3)


@pytest.mark.parametrize("bad", [0, -1, 2**32, True, 1.0, "1", None])
def test_a_number_of_blocks_must_be_an_int_of_at_least_1(manager, relation, bad):
    for call in (
        lambda: manager.zero_extend(relation, MAIN, 0, bad),
        lambda: manager.prefetch(relation, MAIN, 0, bad),
        lambda: manager.writeback(relation, MAIN, 0, bad),
    ):
        with pytest.raises(InvalidRequest, match="count"):
            call()


@pytest.mark.parametrize("bad", [-1, 2**32, True, 1.0, "1", None])
def test_the_length_to_truncate_to_must_be_an_int_of_32_bits(manager, relation, bad):
    with pytest.raises(InvalidRequest, match="truncate"):
        manager.truncate(relation, {MAIN: bad})


def test_a_read_past_the_highest_block_is_refused_in_recovery_too(manager, relation):
    with pytest.raises(RequestTooLarge, match="4294967294"):
        manager.readv(relation, MAIN, 2**32 - 2, [bytearray(2 * SIZE)], in_recovery=True)


@pytest.mark.parametrize("length", [0, 1, SIZE - 1, SIZE + 1])
def test_a_buffer_must_hold_whole_blocks(manager, relation, length):
    manager.extend(relation, MAIN, 0, blocks(1, 3))
    for call in (manager.readv, manager.writev, manager.try_readv_nowait):
        with pytest.raises(WrongPageLength, match=f"{length} bytes .* blocks of 512"):
            call(relation, MAIN, 0, [bytearray(SIZE), bytearray(length)])
    with pytest.raises(WrongPageLength):
        manager.extend(relation, MAIN, 3, [bytearray(length)])
    assert content(manager, relation) == blocks(1, 3)


@pytest.mark.parametrize(
    "buffers", [[], (), b"x" * SIZE, iter([block(1)]), ["x" * SIZE], [None], [memoryview(bytes(2 * SIZE))[::2]], None]
)
def test_buffers_must_be_a_list_of_bytes(manager, relation, buffers):
    for call in (manager.readv, manager.writev, manager.extend):
        with pytest.raises(InvalidRequest, match="buffer"):
            call(relation, MAIN, 0, buffers)
    assert manager.nblocks(relation) == 0


def test_a_buffer_to_read_into_must_be_writable(manager, relation):
    manager.extend(relation, MAIN, 0, blocks(1, 1))
    for buffer in (bytes(SIZE), memoryview(bytes(SIZE))):
        with pytest.raises(InvalidRequest, match="writable"):
            manager.readv(relation, MAIN, 0, [buffer])


@pytest.mark.parametrize("bad", [0, 1, "main", None, True])
def test_a_fork_must_be_a_fork(manager, relation, bad):
    for call in (
        lambda: manager.nblocks(relation, bad),
        lambda: manager.exists(ADDRESS, bad),
        lambda: manager.unlink(ADDRESS, [bad]),
        lambda: manager.truncate(relation, {bad: 0}),
        lambda: manager.create(relation, bad),
    ):
        with pytest.raises(InvalidRequest, match=r"Fork\.MAIN"):
            call()


def test_a_relation_must_be_named_by_its_address(manager):
    for bad in ((1663, 5, 16384), "base/5/16384", None):
        for call in (manager.open, manager.exists, manager.unlink):
            with pytest.raises(InvalidRequest, match="RelationAddress"):
                call(bad)


def test_sizes_are_checked_when_they_are_set(storage, manager):
    for size in (1000, 0, True, 131072):
        with pytest.raises(InvalidRequest, match="block size"):
            manager.open(ADDRESS, size)
    with pytest.raises(InvalidRequest, match="multiple of the block size 4096"):
        manager.open(ADDRESS, 4096)
    for size in (0, 1000, -512, True, 512.0):
        with pytest.raises(InvalidRequest, match="segment size"):
            StorageManager({"disk": storage.disk}, segment_size=size)
    with pytest.raises(InvalidRequest, match="implementation"):
        StorageManager({})
    with pytest.raises(Exception, match="version directory"):
        MagneticDisk(storage.pool, version_directory="../etc")
