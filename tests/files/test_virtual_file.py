"""One body of tests against physical files and virtual ones, on disk and in memory, over slots for all and for one."""

from __future__ import annotations

import itertools
import os

import pytest

from pfs.errors import AccessDenied, FileExists, FileMissing, InvalidRequest, OutOfRange
from pfs.files.posix import PosixFileSystem
from pfs.files.virtual_file import OpenOptions, VirtualFilePool
from pfs.testing.file_system import Fault, SimulatedFileSystem
from tests.files.physical import PhysicalFiles

NEW = OpenOptions(write=True, create=True, truncate=True)
READ = OpenOptions()
WRITE = OpenOptions(read=False, write=True)


def ticks():
    return itertools.count().__next__


@pytest.fixture(params=["physical", "disk", "disk, one slot", "memory", "memory, one slot", "memory, short transfers"])
def files(request, tmp_path):
    if request.param == "physical":
        yield PhysicalFiles(tmp_path)
        return
    fs = PosixFileSystem(tmp_path) if request.param.startswith("disk") else SimulatedFileSystem()
    with VirtualFilePool(fs, slots=1 if "one slot" in request.param else 10, clock=ticks()) as pool:
        other = pool.open("other", NEW)
        if "short" in request.param:
            # Only calls that are to go on by themselves are made short.
            fs.faults = [Fault(short=3, operation=call, forever=True, path="whole*") for call in ("preadv", "pwritev")]
        yield Evicting(pool, other)
        other.close()


class Evicting:
    """A pool that loses every file's descriptor before each opening, if it has one slot only."""

    def __init__(self, pool, other):
        self.pool = pool
        self.other = other

    def open(self, path, options, kind="data"):
        file = self.pool.open(path, options, kind)
        self.other.metadata()
        return file


def read_all(file, size=100, offset=0):
    buffer = bytearray(size)
    return bytes(buffer[: file.read_at(buffer, offset)])


def test_what_is_written_is_read_back(files):
    file = files.open("f", NEW)
    assert file.write_at(b"hello world", 0) == 11
    assert file.write_at(b"J", 0) == 1
    assert read_all(file) == b"Jello world"
    assert read_all(file, 5, 6) == b"world"
    assert read_all(file, 5, 9) == b"ld"
    assert read_all(file, 5, 11) == b""
    assert read_all(file, 5, 1000) == b""
    assert file.metadata().size == 11
    file.close()


def test_a_write_past_the_end_leaves_zeros_between(files):
    file = files.open("f", NEW)
    file.write_all_at(b"end", 10)
    assert read_all(file) == bytes(10) + b"end"
    file.close()


def test_exact_reads_fill_the_buffer_or_fail(files):
    file = files.open("whole", NEW)
    file.write_all_at(b"0123456789", 0)
    buffer = bytearray(4)
    file.read_exact_at(buffer, 6)
    assert buffer == b"6789"
    with pytest.raises(OutOfRange):
        file.read_exact_at(buffer, 7)
    with pytest.raises(OutOfRange):
        file.read_exact_at(buffer, 10)
    buffer = bytearray(b"xxxxxxxx")
    file.read_exact_at_n(buffer, 1, 7)
    assert buffer == b"1234567x"
    file.read_exact_at(bytearray(), 3)
    file.close()


def test_vectors_are_read_and_written_whole(files):
    file = files.open("whole", NEW)
    assert file.writev_at([b"abcd", bytearray(b"efg"), memoryview(b"hijklmnop")], 2) == 16
    first, second = bytearray(7), bytearray(20)
    assert file.readv_at([first, second], 1) == 17
    assert (first, second[:10]) == (b"\0abcdef", b"ghijklmnop")
    assert file.writev_at([], 0) == 0
    file.close()


def test_sequential_reads_and_writes_share_one_position(files):
    file = files.open("f", NEW)
    assert file.write(b"one") == 3
    file.write_all(b"two")
    assert file.position == 6
    assert file.seek(2) == 2
    buffer = bytearray(3)
    assert file.read(buffer) == 3
    assert buffer == b"etw"
    assert file.seek(-2, os.SEEK_CUR) == 3
    assert file.read_to_end() == b"two"
    assert file.read_to_end() == b""
    assert file.read(buffer) == 0
    assert file.seek(-6, os.SEEK_END) == 0
    assert file.seek(10, os.SEEK_END) == 16
    assert file.write(b"!") == 1
    assert file.metadata().size == 17
    assert file.write(b"") == 0
    file.close()


def test_a_seek_before_the_start_fails_and_leaves_the_position(files):
    file = files.open("f", NEW)
    file.write_all(b"12345")
    for offset, whence in [(-1, os.SEEK_SET), (-6, os.SEEK_CUR), (-6, os.SEEK_END)]:
        with pytest.raises(InvalidRequest):
            file.seek(offset, whence)
        assert file.position == 5
    file.close()


def test_read_to_end_reads_any_length(files):
    file = files.open("whole", NEW)
    content = bytes(range(256)) * 40
    file.write_all_at(content, 0)
    file.seek(100)
    assert file.read_to_end() == content[100:]
    assert file.position == len(content)
    file.close()


def test_appended_data_goes_to_the_end_wherever_the_position_is(files):
    file = files.open("f", NEW)
    file.write_all(b"start")
    file.close()
    file = files.open("f", OpenOptions(append=True))
    assert file.position == 0
    assert file.write(b" more") == 5
    assert file.position == 10
    file.seek(2)
    file.write_all(b"!")
    assert file.position == 11
    assert file.write(b"") == 0
    file.seek(0)
    assert file.read_to_end() == b"start more!"
    file.close()


def test_the_length_can_be_set_and_space_allocated(files):
    file = files.open("f", NEW)
    file.write_all_at(b"0123456789", 0)
    file.set_len(4)
    assert read_all(file) == b"0123"
    file.set_len(6)
    assert read_all(file) == b"0123\0\0"
    file.allocate(4, 4)
    assert read_all(file) == b"0123" + bytes(4)
    file.allocate(0, 3)
    assert file.metadata().size == 8
    file.write_all_at(b"xy", 7)
    assert file.metadata().size == 9
    file.close()


def test_rights_are_those_of_opening(files):
    files.open("f", NEW).close()
    file = files.open("f", WRITE)
    file.write_all_at(b"x", 0)
    for call in [
        lambda: file.read_at(bytearray(1), 0),
        lambda: file.readv_at([bytearray(1)], 0),
        lambda: file.read(bytearray(1)),
        file.read_to_end,
    ]:
        with pytest.raises(AccessDenied):
            call()
    file.close()
    file = files.open("f", READ)
    assert read_all(file) == b"x"
    for call in [
        lambda: file.write_at(b"y", 0),
        lambda: file.write_all_at(b"y", 0),
        lambda: file.writev_at([b"y"], 0),
        lambda: file.write(b"y"),
        lambda: file.set_len(0),
    ]:
        with pytest.raises(AccessDenied):
            call()
    assert read_all(file) == b"x"
    file.close()


def test_opening_creates_empties_and_refuses_as_asked(files):
    with pytest.raises(FileMissing):
        files.open("f", READ)
    with pytest.raises(FileMissing):
        files.open("f", WRITE)
    file = files.open("f", OpenOptions(write=True, create_new=True))
    file.write_all_at(b"first", 0)
    with pytest.raises(FileExists):
        files.open("f", OpenOptions(write=True, create_new=True))
    file.close()
    file = files.open("f", OpenOptions(write=True, create=True))
    assert read_all(file) == b"first"
    file.close()
    file = files.open("f", OpenOptions(write=True, truncate=True))
    assert read_all(file) == b""
    file.write_all_at(b"again", 0)
    assert read_all(file) == b"again", "a reopening does not truncate"
    file.close()


def test_syncs_hints_and_a_second_close_change_nothing(files):
    file = files.open("f", NEW)
    file.write_all_at(b"x", 0)
    file.sync_data()
    file.sync_all()
    file.advise(0, 0, os.POSIX_FADV_RANDOM)
    assert read_all(file) == b"x"
    file.close()
    file.close()
    assert file.closed


def test_a_removed_file_is_gone(files):
    file = files.open("f", NEW)
    file.write_all_at(b"x", 0)
    file.remove()
    assert file.closed
    with pytest.raises(FileMissing):
        files.open("f", READ)


def test_more_buffers_than_one_call_takes(files):
    if isinstance(files, PhysicalFiles):
        pytest.skip("physical files leave this to their user")
    file = files.open("f", NEW)
    assert file.writev_at([b"ab"] * 3000, 0) == 6000
    buffers = [bytearray(3) for _ in range(2000)]
    assert file.readv_at(buffers, 0) == 6000
    assert b"".join(buffers) == b"ab" * 3000
    file.close()
