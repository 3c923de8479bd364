"""The simulated disk behaves as a real one, fails on command, and loses in a crash what was not synced."""

from __future__ import annotations

import errno
import os
from random import Random

import pytest

from pfs.errors import InvalidName, NotRegularFile
from pfs.testing.file_system import Fault, SimulatedFileSystem

RDWR = os.O_RDWR | os.O_CREAT


def code_of(call):
    try:
        call()
    except OSError as error:
        return error.errno
    raise AssertionError("no OSError was raised")


def contents(fs, prefix=""):
    found = {}
    for name in fs.listdir(prefix.rstrip("/")):
        path = prefix + name
        if fs.stat(path).is_directory:
            found |= contents(fs, path + "/")
        else:
            descriptor = fs.open(path, os.O_RDONLY)
            buffer = bytearray(fs.fstat(descriptor).size)
            fs.preadv(descriptor, [buffer], 0)
            fs.close(descriptor)
            found[path] = bytes(buffer)
    return found


def test_files_hold_what_is_written_and_holes_are_zeros():
    fs = SimulatedFileSystem()
    descriptor = fs.open("f", RDWR)
    assert fs.pwritev(descriptor, [b"abc", bytearray(b"de")], 4) == 5
    first, second = bytearray(6), bytearray(9)
    assert fs.preadv(descriptor, [first, second], 1) == 8
    assert (first, second) == (b"\0\0\0abc", b"de" + bytes(7))
    assert fs.preadv(descriptor, [first], 100) == 0
    fs.ftruncate(descriptor, 6)
    fs.fallocate(descriptor, 4, 6)
    fs.fallocate(descriptor, 0, 2)
    fs.ftruncate(descriptor, 10)
    fs.fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    assert fs.fstat(descriptor) == fs.stat("f")
    assert fs.pwritev(descriptor, [b""], 50) == 0
    assert contents(fs) == {"f": b"\0\0\0\0ab\0\0\0\0"}


def test_flags_are_honoured():
    fs = SimulatedFileSystem()
    assert code_of(lambda: fs.open("f", os.O_RDONLY)) == errno.ENOENT
    writer = fs.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert code_of(lambda: fs.open("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)) == errno.EEXIST
    reader = fs.open("f", os.O_RDONLY)
    appender = fs.open("f", os.O_WRONLY | os.O_APPEND)
    assert code_of(lambda: fs.pwritev(reader, [b"x"], 0)) == errno.EBADF
    assert code_of(lambda: fs.preadv(writer, [bytearray(1)], 0)) == errno.EBADF
    fs.pwritev(writer, [b"one"], 0)
    fs.pwritev(appender, [b"two"], 0)
    assert contents(fs) == {"f": b"onetwo"}
    fs.close(fs.open("f", os.O_WRONLY | os.O_TRUNC))
    fs.close(fs.open("f", os.O_WRONLY | os.O_TRUNC))
    assert contents(fs) == {"f": b""}


def test_descriptors_are_reused_lowest_first_and_limited():
    fs = SimulatedFileSystem(descriptors=3)
    first, second, _third = (fs.open(name, RDWR) for name in "abc")
    assert code_of(lambda: fs.open("a", RDWR)) == errno.EMFILE
    found = fs.stat("a")
    assert code_of(lambda: fs.reopen("a", RDWR, found.device, found.inode)) == errno.EMFILE
    fs.close(second)
    fs.close(first)
    assert fs.open("d", RDWR) == first
    assert fs.open_descriptors == {first: "d", 5: "c"}
    assert fs.descriptor_limit() == 3
    for call in (fs.close, fs.fsync, fs.fstat):
        assert code_of(lambda call=call: call(99)) == errno.EBADF


def test_an_open_file_outlives_its_name():
    fs = SimulatedFileSystem()
    descriptor = fs.open("f", RDWR)
    fs.pwritev(descriptor, [b"kept"], 0)
    found = fs.fstat(descriptor)
    fs.unlink("f")
    buffer = bytearray(4)
    assert fs.preadv(descriptor, [buffer], 0) == 4
    assert not fs.exists("f")
    fs.close(fs.open("f", RDWR))
    assert code_of(lambda: fs.reopen("f", os.O_RDWR, found.device, found.inode)) == errno.ESTALE


def test_directories_behave_as_they_should():
    fs = SimulatedFileSystem()
    fs.mkdir("d")
    fs.mkdir("d/e")
    fs.close(fs.open("f", RDWR))
    assert fs.stat("d").is_directory
    assert code_of(lambda: fs.mkdir("d")) == errno.EEXIST
    assert code_of(lambda: fs.mkdir("x/y")) == errno.ENOENT
    assert code_of(lambda: fs.mkdir("f/y")) == errno.ENOTDIR
    assert code_of(lambda: fs.rmdir("d")) == errno.ENOTEMPTY
    assert code_of(lambda: fs.rmdir("f")) == errno.ENOTDIR
    assert code_of(lambda: fs.unlink("d")) == errno.EISDIR
    assert code_of(lambda: fs.stat("f/below")) == errno.ENOTDIR
    assert not fs.exists("f/below")
    with pytest.raises(NotRegularFile):
        fs.open("d", os.O_RDONLY)
    with pytest.raises(InvalidName):
        fs.open("../f", os.O_RDONLY)
    assert code_of(lambda: fs.rename("missing", "g")) == errno.ENOENT
    assert code_of(lambda: fs.rename("f", "d")) == errno.EISDIR
    assert code_of(lambda: fs.rename("d", "f")) == errno.ENOTDIR
    assert code_of(lambda: fs.rename("d", "d/e/d")) == errno.EINVAL
    fs.mkdir("h")
    assert code_of(lambda: fs.rename("h", "d")) == errno.ENOTEMPTY
    fs.rename("h", "d/e")
    fs.rename("f", "f")
    fs.rename("f", "d/g")
    assert fs.listdir("d") == ["e", "g"]
    fs.rmdir("d/e")
    assert fs.listdir("") == ["d"]


def test_a_lock_is_held_by_one_open_file_and_ends_with_it():
    fs = SimulatedFileSystem()
    first, second = fs.open("f", RDWR), fs.open("f", RDWR)
    fs.lock(first)
    fs.lock(first)
    with pytest.raises(BlockingIOError):
        fs.lock(second)
    fs.close(first)
    fs.lock(second)


def test_wrong_ranges_are_refused_as_the_kernel_does():
    fs = SimulatedFileSystem()
    descriptor = fs.open("f", RDWR)
    for call in [
        lambda: fs.preadv(descriptor, [bytearray(1)], -1),
        lambda: fs.preadv(descriptor, [bytearray(1)], (1 << 63) - 1),
        lambda: fs.preadv(descriptor, [bytearray(1)] * 1025, 0),
        lambda: fs.pwritev(descriptor, [b"x"], -1),
        lambda: fs.ftruncate(descriptor, -1),
        lambda: fs.fallocate(descriptor, 0, 0),
    ]:
        assert code_of(call) == errno.EINVAL


def test_a_full_disk_takes_what_fits_then_nothing():
    fs = SimulatedFileSystem(capacity=10)
    fs.mkdir("d")
    descriptor = fs.open("d/f", RDWR)
    assert fs.pwritev(descriptor, [bytes(8)], 0) == 8
    assert fs.pwritev(descriptor, [bytes(8)], 8) == 2
    assert code_of(lambda: fs.pwritev(descriptor, [b"x"], 10)) == errno.ENOSPC
    assert code_of(lambda: fs.fallocate(descriptor, 0, 11)) == errno.ENOSPC
    assert fs.pwritev(descriptor, [b"over"], 0) == 4
    fs.unlink("d/f")
    assert code_of(lambda: fs.pwritev(fs.open("g", RDWR), [b"x"], 0)) == errno.ENOSPC, "the open file holds the space"
    fs.close(descriptor)
    assert fs.pwritev(fs.open("g", RDWR), [b"x"], 0) == 1


def test_a_file_reaches_its_size_limit_and_no_further():
    fs = SimulatedFileSystem(file_size_limit=10)
    descriptor = fs.open("f", RDWR)
    assert fs.pwritev(descriptor, [bytes(20)], 0) == 10
    assert code_of(lambda: fs.pwritev(descriptor, [b"x"], 10)) == errno.EFBIG
    assert code_of(lambda: fs.ftruncate(descriptor, 11)) == errno.EFBIG
    assert code_of(lambda: fs.fallocate(descriptor, 5, 6)) == errno.EFBIG


def test_the_page_cache_can_be_warm_cold_or_mute():
    for state, code in [("cold", errno.EAGAIN), ("none", errno.EOPNOTSUPP)]:
        fs = SimulatedFileSystem(page_cache=state)
        descriptor = fs.open("f", RDWR)
        assert code_of(lambda fs=fs, descriptor=descriptor: fs.preadv_nowait(descriptor, [bytearray(1)], 0)) == code


def test_a_fault_strikes_the_kth_matching_operation_once_or_for_ever():
    once = Fault(error=errno.EIO, operation="pwritev", path="*.wal", at=2)
    ever = Fault(error=errno.ENOSPC, operation="ftruncate", at=1, forever=True)
    short = Fault(short=3, operation="preadv", at=2)
    fs = SimulatedFileSystem(faults=[once, ever, short])
    data, wal = fs.open("a.data", RDWR), fs.open("a.wal", RDWR)
    for descriptor in (data, data, wal):
        fs.pwritev(descriptor, [b"12345"], 0)
    assert code_of(lambda: fs.pwritev(wal, [b"xx"], 0)) == errno.EIO
    fs.pwritev(wal, [b"678"], 5)
    assert contents(fs) == {"a.data": b"12345", "a.wal": b"12345" + bytes(3)}, "the second read is short"
    assert code_of(lambda: fs.ftruncate(wal, 0)) == errno.ENOSPC
    assert code_of(lambda: fs.ftruncate(wal, 0)) == errno.ENOSPC
    assert (once.struck, ever.struck, short.struck) == (1, 2, 1)


def test_a_short_transfer_still_moves_something():
    fs = SimulatedFileSystem(faults=[Fault(short=100, forever=True)])
    descriptor = fs.open("f", RDWR)
    assert fs.pwritev(descriptor, [b"abc"], 0) == 1
    assert fs.preadv(descriptor, [bytearray(3)], 0) == 1
    assert fs.preadv(descriptor, [bytearray(3)], 1) == 0


def test_a_close_that_fails_has_closed():
    fs = SimulatedFileSystem(faults=[Fault(error=errno.EIO, operation="close")])
    descriptor = fs.open("f", RDWR)
    assert code_of(lambda: fs.close(descriptor)) == errno.EIO
    assert fs.open_descriptors == {}


@pytest.mark.parametrize("mode", ["keep", "revert"])
def test_after_a_failed_sync_the_next_one_lies(mode):
    fs = SimulatedFileSystem(faults=[Fault(error=errno.EIO, operation="fsync", at=2)], failed_sync=mode)
    descriptor = fs.open("f", RDWR)
    fs.pwritev(descriptor, [b"old"], 0)
    fs.fsync(descriptor)
    fs.sync_directory("")
    fs.pwritev(descriptor, [b"new"], 0)
    assert code_of(lambda: fs.fsync(descriptor)) == errno.EIO
    fs.fsync(descriptor)
    assert fs.durable_files == {"f": b"old"}
    assert contents(fs) == {"f": b"new" if mode == "keep" else b"old"}


def test_a_sync_that_fails_on_a_closed_descriptor_or_by_eintr_loses_nothing():
    fs = SimulatedFileSystem(faults=[Fault(error=errno.EINTR, operation="fsync"), Fault(error=errno.EIO, at=5)])
    descriptor = fs.open("f", RDWR)
    fs.pwritev(descriptor, [b"x"], 0)
    assert code_of(lambda: fs.fsync(descriptor)) == errno.EINTR
    fs.sync_directory("")
    assert code_of(lambda: fs.fsync(99)) == errno.EIO
    fs.fdatasync(descriptor)
    assert fs.durable_files == {"f": b"x"}


def test_a_hook_comes_before_each_operation_acts():
    seen = []
    fs = SimulatedFileSystem(on_operation=lambda operation: seen.append((operation.name, fs_has("f"))))

    def fs_has(name):
        return name in fs._disk.root.entries

    fs.close(fs.open("f", RDWR))
    assert seen == [("open", False), ("close", True)]


def test_equal_runs_have_equal_traces_and_others_have_not():
    def run(data):
        fs = SimulatedFileSystem(faults=[Fault(error=9999, at=3)])
        descriptor = fs.open("f", RDWR)
        fs.pwritev(descriptor, [data], 0)
        assert code_of(lambda: fs.fsync(descriptor)) == 9999
        return fs

    assert run(b"x").trace_hash() == run(b"y").trace_hash() != run(b"xx").trace_hash()
    assert [(entry.operation.name, entry.result) for entry in run(b"x").journal] == [
        ("open", 3),
        ("pwritev", 1),
        ("fsync", "9999"),
    ]
    quiet = SimulatedFileSystem(keep_journal=False)
    quiet.mkdir("d")
    assert quiet.journal == []
    assert quiet.operations == 1


def test_conditions_come_from_the_factory():
    made = []
    fs = SimulatedFileSystem(condition=lambda: made.append(1) or "condition")
    assert fs.condition() == "condition"
    with SimulatedFileSystem().condition(), fs.mutex():
        pass


def prepared():
    fs = SimulatedFileSystem()
    fs.mkdir("d")
    fs.sync_directory("")
    for name in ("d/kept", "d/renamed", "d/removed"):
        descriptor = fs.open(name, RDWR)
        fs.pwritev(descriptor, [b"o" * 2000], 0)
        fs.fsync(descriptor)
        fs.close(descriptor)
    fs.sync_directory("d")
    descriptor = fs.open("d/kept", os.O_RDWR)
    fs.pwritev(descriptor, [b"n" * 2000], 100)
    fs.ftruncate(descriptor, 1500)
    fs.rename("d/renamed", "moved")
    fs.unlink("d/removed")
    fs.close(fs.open("new", RDWR))
    return fs


OLD = {"d/kept": b"o" * 2000, "d/renamed": b"o" * 2000, "d/removed": b"o" * 2000}
NEW = {"d/kept": b"o" * 100 + b"n" * 1400, "moved": b"o" * 2000, "new": b""}


def test_a_crash_takes_nothing_or_all_that_was_not_synced():
    fs = prepared()
    assert fs.durable_files == OLD
    before = contents(fs)
    assert contents(fs.crash_image("none", Random(1))) == OLD
    assert contents(fs.crash_image("all", Random(1))) == NEW == before
    assert contents(fs) == before, "the disk that crashed is not touched"
    image = fs.crash_image("all", Random(1))
    assert image.open_descriptors == {}
    assert contents(image.crash_image("none", Random(1))) == NEW, "what a crash left is durable"


@pytest.mark.parametrize("policy", ["prefix", "subset", "torn"])
def test_a_crash_may_leave_any_part_of_it(policy):
    fs = prepared()
    images = [contents(fs.crash_image(policy, Random(seed))) for seed in range(300)]
    if policy != "torn":
        assert OLD in images
        assert NEW in images
    distinct = {tuple(sorted(image.items())) for image in images}
    assert len(distinct) > 5
    for image in images:
        assert ("moved" in image) != ("d/renamed" in image), "a rename is one step"
    torn = [image["d/kept"] for image in images if set(image["d/kept"][:1500]) == set(b"on")]
    mixed = [kept for kept in torn if b"no" in kept]
    assert bool(mixed) == (policy == "torn"), "only a torn write leaves old sectors after new ones"


def test_changes_of_one_name_are_never_put_in_another_order():
    fs = SimulatedFileSystem()
    fs.mkdir("d")
    fs.close(fs.open("f", RDWR))
    fs.rename("f", "g")
    fs.rename("g", "d/h")
    left = {tuple(contents(fs.crash_image("subset", Random(seed)))) for seed in range(60)}
    assert left == {(), ("f",), ("g",), ("d/h",)}
    fs.sync_directory("d")
    assert fs.crash_image("none", Random(0)).listdir("") == []
    fs.sync_directory("")
    assert fs.durable_files == {"d/h": b""}


def test_syncing_one_directory_keeps_the_names_of_the_other_pending():
    fs = SimulatedFileSystem()
    fs.mkdir("a")
    fs.mkdir("b")
    fs.sync_directory("")
    for name in ("a/f", "b/g"):
        descriptor = fs.open(name, RDWR)
        fs.close(descriptor)
    fs.sync_directory("a")
    assert fs.durable_files == {"a/f": b""}


def test_a_write_to_a_file_opened_with_o_dsync_is_durable_at_once():
    fs = SimulatedFileSystem()
    descriptor = fs.open("f", RDWR | os.O_DSYNC)
    fs.sync_directory("")
    fs.pwritev(descriptor, [b"x"], 0)
    assert fs.durable_files == {"f": b"x"}


def test_a_crash_may_leave_sizes_without_the_bytes():
    image = contents(prepared().crash_image("size", Random(1)))
    assert image.keys() == NEW.keys()
    assert image["d/kept"] == OLD["d/kept"][:1500], "nothing of what was written over it"
    fs = SimulatedFileSystem()
    fs.pwritev(fs.open("f", RDWR), [b"abc"], 4)
    assert contents(fs.crash_image("size", Random(1))) == {"f": bytes(7)}


def test_the_end_of_the_process_loses_nothing_and_makes_nothing_durable():
    fs = prepared()
    image = fs.killed_image()
    assert image.open_descriptors == {}
    assert contents(image) == NEW
    assert image.durable_files == OLD
    assert contents(image.crash_image("none", Random(1))) == OLD
    descriptor = image.open("d/kept", os.O_RDWR)
    image.fsync(descriptor)
    image.sync_directory("")
    image.sync_directory("d")
    assert image.durable_files == NEW
    assert fs.durable_files == OLD, "the disk that it was copied from is not touched"
    assert (fs.boot_id(), fs.crash_image("all", Random(1)).boot_id()) == (image.boot_id(), (2).to_bytes(16, "little"))


def test_disks_that_cannot_be_told_apart_have_one_identity():
    fs = prepared()
    assert fs.identity() == fs.killed_image().identity()
    lost, kept = fs.crash_image("none", Random(1)), fs.crash_image("all", Random(1))
    assert len({fs.identity(), lost.identity(), kept.identity()}) == 3
    assert kept.identity() == fs.crash_image("all", Random(2)).identity()


def test_changes_that_no_sync_covers_are_counted():
    fs = SimulatedFileSystem()
    assert (fs.unsynced, fs.changes) == (0, 0)
    descriptor = fs.open("f", RDWR)
    fs.pwritev(descriptor, [b"abc"], 0)
    assert (fs.unsynced, fs.changes) == (2, 2)
    fs.preadv(descriptor, [bytearray(3)], 0)
    fs.fdatasync(descriptor)
    assert (fs.unsynced, fs.changes) == (1, 3)
    fs.sync_directory("")
    assert (fs.unsynced, fs.changes) == (0, 4)
