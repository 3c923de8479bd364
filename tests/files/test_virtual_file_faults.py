"""Every failure of the disk at every call: the right error, nothing acknowledged that is not so, nothing leaked."""

from __future__ import annotations

import errno
import itertools
import os

import pytest

from pfs.errors import (
    AccessDenied,
    FatalError,
    InvalidRequest,
    NoSpace,
    PageIOError,
    PfsError,
    ReadFailed,
    SyncFailed,
    WriteFailed,
)
from pfs.files.virtual_file import OpenOptions, VirtualFilePool
from pfs.testing.file_system import Fault, SimulatedFileSystem

NEW = OpenOptions(write=True, create=True, truncate=True)
UPDATE = OpenOptions(write=True)


def make_pool(fs, slots=3):
    return VirtualFilePool(fs, slots=slots, clock=itertools.count().__next__, engine="psync")


@pytest.fixture
def fs():
    return SimulatedFileSystem()


@pytest.fixture
def pool(fs):
    with make_pool(fs) as pool:
        yield pool
        fs.faults = []


def fail(fs, operation, code, **more):
    fs.faults = [Fault(error=code, operation=operation, **more)]


# ---------------------------------------------------------------------------------------------- fatal failures


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM])
def test_after_a_failed_write_the_file_does_nothing_more_through_any_opening(fs, pool, code):
    file, reader, other = pool.open("f", NEW), pool.open("f"), pool.open("g", NEW)
    file.write_all_at(b"old", 0)
    file.sync_all()
    fail(fs, "pwritev", code)
    with pytest.raises(WriteFailed, match=r"could not write 3 bytes at 0 of 'f'.*only recovery can tell"):
        file.write_all_at(b"new", 0)
    operations = fs.operations
    buffer = bytearray(3)
    for call in [
        lambda: file.write_all_at(b"new", 0),
        lambda: file.read_at(buffer, 0),
        lambda: file.try_readv_at_nowait([buffer], 0),
        lambda: file.set_len(0),
        file.sync_all,
        file.sync_data,
        file.metadata,
        lambda: file.seek(0),
        pool.sync_pending,
        file.remove,
    ]:
        with pytest.raises(WriteFailed):
            call()
    assert fs.operations == operations
    with pytest.raises(WriteFailed):
        pool.open("f")
    assert reader.read_at(buffer, 0) == 3, "an opening from before may read what there is"
    other.write_all_at(b"fine", 0)
    file.close()
    reader.close()
    other.close()


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBADF])
def test_a_failed_sync_is_never_tried_again(fs, pool, call, code):
    file = pool.open("f", NEW)
    file.write_all_at(b"x", 0)
    fail(fs, call, code)
    sync = file.sync_all if call == "fsync" else file.sync_data
    for _ in range(3):
        with pytest.raises(SyncFailed, match="may be lost"):
            sync()
    with pytest.raises(SyncFailed):
        pool.sync_pending()
    with pytest.raises(SyncFailed):
        pool.open("f", UPDATE)
    file.close()
    assert [entry.operation.name for entry in fs.journal].count(call) == 1
    assert fs.durable_files == {}


def test_a_sync_that_fails_when_a_file_makes_room_fails_both(fs):
    with make_pool(fs, 1) as pool:
        dirty = pool.open("dirty", NEW)
        dirty.write_all_at(b"x", 0)
        fail(fs, "fdatasync", errno.EIO)
        with pytest.raises(SyncFailed, match="sync 'dirty'"):
            pool.open("other", NEW)
        assert fs.open_descriptors == {}
        with pytest.raises(SyncFailed):
            dirty.metadata()
        other = pool.open("other", NEW)
        with pytest.raises(SyncFailed):
            dirty.read_at(bytearray(1), 0)
        other.write_all_at(b"y", 0)
        third = pool.open("third", NEW)
        fail(fs, "fdatasync", errno.EIO)
        third.write_all_at(b"z", 0)
        with pytest.raises(SyncFailed, match="sync 'third'"):
            other.metadata()
        assert other.metadata().size == 1, "it was not this file that failed"
        for file in (dirty, other, third):
            file.close()
    assert fs.open_descriptors == {}


def test_a_sync_that_fails_on_closing_is_told_and_the_file_is_closed_even_so(fs, pool):
    file = pool.open("f", NEW)
    file.write_all_at(b"x", 0)
    fail(fs, "fdatasync", errno.EIO)
    with pytest.raises(SyncFailed):
        file.close()
    assert file.closed
    file.close()
    assert fs.open_descriptors == {}
    with pytest.raises(SyncFailed):
        pool.open("f")


def test_closing_the_pool_closes_all_though_one_fails(fs):
    pool = make_pool(fs)
    files = [pool.open(name, NEW) for name in "abc"]
    for file in files:
        file.write_all_at(b"x", 0)
    fail(fs, "fdatasync", errno.EIO)
    with pytest.raises(SyncFailed, match="sync 'a'"):
        pool.close()
    assert fs.open_descriptors == {}
    assert all(file.closed for file in files)


def test_a_file_that_failed_and_lost_its_slot_is_closed_without_another_sync(fs):
    with make_pool(fs, 1) as pool:
        file = pool.open("f", NEW)
        file.write_all_at(b"x", 0)
        fail(fs, "pwritev", errno.EIO)
        with pytest.raises(WriteFailed):
            file.write_all_at(b"y", 0)
        other = pool.open("other", NEW)
        assert [entry.operation.name for entry in fs.journal].count("fdatasync") == 0
        file.close()
        other.close()


def test_a_directory_that_cannot_be_synced_is_fatal(fs, pool):
    file = pool.open("f", NEW)
    fail(fs, "sync_directory", errno.EIO)
    with pytest.raises(SyncFailed, match=r"sync the directory '\.'"):
        file.sync_all()
    fail(fs, "sync_directory", errno.ENOSPC)
    with pytest.raises(SyncFailed):
        pool.remove("f")
    file.close()


# ---------------------------------------------------------------------------------------------- reads


def test_a_failed_read_fails_that_request_only(fs, pool):
    file = pool.open("f", NEW)
    file.write_all_at(b"0123456789", 0)
    fail(fs, "preadv", errno.EIO)
    buffer = bytearray(4)
    with pytest.raises(PageIOError, match="could not read at 2 of 'f'"):
        file.read_exact_at(buffer, 2)
    file.read_exact_at(buffer, 2)
    assert buffer == b"2345"
    assert len(fs.open_descriptors) == 1
    file.close()


def test_a_failed_read_in_recovery_is_fatal(fs, pool):
    file = pool.open("f", NEW)
    pool.recovering = True
    fail(fs, "preadv", errno.EIO)
    with pytest.raises(ReadFailed, match="recovery cannot go on"):
        file.read_at(bytearray(1), 0)
    pool.recovering = False
    assert not pool.recovering
    assert file.read_at(bytearray(1), 0) == 0
    file.close()


def test_what_a_buffer_raises_is_not_taken_for_the_disk(fs, pool):
    class Strange(Exception):
        pass

    def strange(operation):
        raise Strange

    file = pool.open("f", NEW)
    fs.on_operation = strange
    with pytest.raises(Strange):
        file.read_at(bytearray(1), 0)
    fs.on_operation = None
    file.close()


# ---------------------------------------------------------------------------------------------- space


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_without_space_the_file_has_its_former_size_again(fs, pool, code):
    file = pool.open("f", NEW)
    file.write_all_at(b"0123456789", 0)
    fs.faults = [Fault(short=6, operation="pwritev"), Fault(error=code, operation="pwritev", at=2)]
    with pytest.raises(NoSpace):
        file.write_all_at(b"abcdefgh", 8)
    assert file.metadata().size == 10
    assert file.read_to_end() == b"01234567ab", "what was there before may be overwritten"
    fail(fs, "pwritev", code)
    with pytest.raises(NoSpace):
        file.write_all_at(b"x", 3)
    fail(fs, "fallocate", code)
    with pytest.raises(NoSpace):
        file.allocate(0, 100)
    fail(fs, "ftruncate", code)
    with pytest.raises(NoSpace):
        file.set_len(100)
    assert file.metadata().size == 10
    file.write_all_at(b"goes on", 10)
    assert file.metadata().size == 17
    file.close()


def test_a_real_disk_that_fills_up_takes_nothing_by_half():
    fs = SimulatedFileSystem(capacity=1000)
    with make_pool(fs) as pool:
        file = pool.open("f", NEW)
        file.write_all_at(bytes(900), 0)
        appending = pool.open("g", OpenOptions(append=True, create=True))
        appending.write_all(bytes(60))
        for call in [
            lambda: file.write_all_at(bytes(200), 900),
            lambda: file.writev_at([bytes(100), bytes(100)], 850),
            lambda: file.allocate(0, 1001),
            lambda: appending.write_all(bytes(41)),
        ]:
            with pytest.raises(NoSpace):
                call()
            assert (file.metadata().size, appending.metadata().size) == (900, 60)
        assert appending.position == 60
        assert file.write_at(bytes(200), 900) == 40, "one write takes what fits and says so"
        appending.close()
        file.close()


@pytest.mark.parametrize("operation", ["fstat", "ftruncate"])
def test_a_size_that_cannot_be_restored_is_fatal(fs, pool, operation):
    file = pool.open("f", NEW)
    fs.faults = [
        Fault(short=6, operation="pwritev"),
        Fault(error=errno.ENOSPC, operation="pwritev", at=2),
        Fault(error=errno.ENOSPC, operation=operation, at=2 if operation == "fstat" else 1),
    ]
    with pytest.raises(WriteFailed, match="restore the length 0 of 'f'"):
        file.write_all_at(b"abcdefgh", 0)
    with pytest.raises(WriteFailed):
        file.metadata()
    file.close()


def test_an_allocation_that_the_disk_does_not_know_is_refused(fs, pool):
    file = pool.open("f", NEW)
    fail(fs, "fallocate", errno.EOPNOTSUPP)
    with pytest.raises(InvalidRequest):
        file.allocate(0, 10)
    assert file.metadata().size == 0
    file.close()


def test_a_write_that_moves_nothing_is_fatal(fs, pool):
    file = pool.open("f", NEW)
    file.write_all_at(b"123", 0)
    fs.pwritev = lambda descriptor, buffers, offset: 0
    with pytest.raises(WriteFailed, match="the disk takes none"):
        file.write_all_at(b"x", 0)
    del fs.pwritev
    file.close()


# ---------------------------------------------------------------------------------------------- opening


def test_a_failure_to_open_again_is_that_of_the_deed(fs):
    with make_pool(fs, 1) as pool:
        files = {name: pool.open(name, NEW) for name in ("read", "write", "sync", "last")}
        for name, call, expected in [
            ("read", lambda: files["read"].read_at(bytearray(1), 0), PageIOError),
            ("write", lambda: files["write"].write_at(b"x", 0), WriteFailed),
            ("sync", files["sync"].sync_all, SyncFailed),
        ]:
            fail(fs, "reopen", errno.EIO)
            with pytest.raises(expected, match=f"open '{name}' again"):
                call()
        assert files["read"].read_at(bytearray(1), 0) == 0
        for file in files.values():
            file.close()


def test_a_file_that_cannot_be_opened_leaves_its_slot_to_others(fs):
    with make_pool(fs, 1) as pool:
        for operation, code, expected in [
            ("open", errno.EACCES, AccessDenied),
            ("fstat", errno.EIO, PageIOError),
            ("open", errno.ENOSPC, NoSpace),
        ]:
            fail(fs, operation, code)
            with pytest.raises(expected):
                pool.open("f", NEW)
            assert fs.open_descriptors == {}
        file = pool.open("f", NEW)
        fail(fs, "fstat", errno.EIO)
        with pytest.raises(PageIOError):
            file.write_all_at(b"x", 0)
        file.write_all_at(b"x", 0)
        file.close()


def test_a_length_is_not_held_by_who_could_not_open_the_file(fs):
    with make_pool(fs, 1) as pool:
        file, other = pool.open("f", NEW), pool.open("g", NEW)
        fail(fs, "reopen", errno.ENOMEM)
        with pytest.raises(WriteFailed):
            file.write_all_at(b"x", 0)
        assert not file._file.extending
        file.close()
        other.close()


# ---------------------------------------------------------------------------------------------- harmless failures


def test_eintr_is_retried_everywhere(fs, pool):
    names = ["open", "fstat", "pwritev", "preadv", "fsync", "fdatasync", "ftruncate", "fallocate", "sync_directory"]
    names += ["rename", "unlink", "mkdir", "stat", "listdir"]
    fs.faults = [Fault(error=errno.EINTR, operation=name, at=at) for name in names for at in (1, 2)]
    file = pool.open("f", NEW)
    file.write_all_at(b"0123", 0)
    buffer = bytearray(4)
    file.read_exact_at(buffer, 0)
    assert buffer == b"0123"
    file.set_len(3)
    file.allocate(0, 4)
    file.sync_all()
    file.write_all_at(b"x", 0)
    file.sync_data()
    file.close()
    pool.durable_rename("f", "g")
    pool.make_directory("d")
    assert pool.list("") == ["d", "g"]
    assert pool.exists("g")
    pool.remove("g")
    assert all(fault.struck for fault in fs.faults)


def test_eintr_on_opening_again_and_on_reading_twice_is_retried(fs):
    with make_pool(fs, 1) as pool:
        file, other = pool.open("f", NEW), pool.open("g", NEW)
        fs.faults = [Fault(error=errno.EINTR, operation="reopen", at=at) for at in (1, 2)]
        fs.faults += [Fault(error=errno.EINTR, operation="preadv", at=at) for at in (1, 2)]
        fs.faults += [Fault(error=errno.EIO, operation="preadv", at=3)]
        with pytest.raises(PageIOError):
            file.read_at(bytearray(1), 0)
        assert file.read_at(bytearray(1), 0) == 0
        file.close()
        other.close()


def test_a_close_or_hint_that_fails_is_of_no_account(fs):
    with make_pool(fs, 1) as pool:
        fs.faults = [Fault(error=errno.EIO, operation=name, forever=True) for name in ("close", "fadvise")]
        file = pool.open("f", NEW)
        file.write_all_at(b"x", 0)
        file.advise(0, 0, os.POSIX_FADV_WILLNEED)
        other = pool.open("g", NEW)
        other.close()
        assert pool.stats()["close_errors"] == 2
        assert file.metadata().size == 1
        file.close()
    assert fs.open_descriptors == {}


# ---------------------------------------------------------------------------------------------- the exhaustive sweep


def workload_of_many_files(pool, acknowledged):
    """Writes, syncs and reads of five files over two slots."""
    files = {}
    try:
        for number in range(5):
            path = f"f{number}"
            files[path] = pool.open(path, NEW)
            files[path].write_all_at(b"%d" % number * 700, 0)
        for path, file in files.items():
            file.sync_data()
            acknowledged[path] = path[1:].encode() * 700
        for path, file in files.items():
            buffer = bytearray(700)
            file.read_exact_at(buffer, 0)
            assert buffer == path[1:].encode() * 700
            acknowledged.pop(path)
            file.writev_at([b"ab", b"cd" * 300], 350)
            file.set_len(800)
        pool.sync_pending()
        for path in files:
            acknowledged[path] = path[1:].encode() * 350 + b"ab" + b"cd" * 224
    finally:
        for file in files.values():
            acknowledged.pop(file.path, None) if file.dirty else None
            try:
                file.close()
            except FatalError:
                pass


def workload_of_names(pool, acknowledged):
    """Directories, overwrites, renames, removals."""
    pool.make_directory("d/e")
    for round_number in range(3):
        content = b"%d" % round_number * 600
        acknowledged.pop("d/catalog", None)
        pool.crashsafe_overwrite("d/catalog", "d/catalog.tmp", content)
        acknowledged["d/catalog"] = content
    acknowledged.pop("d/catalog")
    pool.durable_rename("d/catalog", "d/e/moved")
    acknowledged["d/e/moved"] = content
    pool.create("d/removed").close()
    pool.remove("d/removed")


def workload_of_appends(pool, acknowledged):
    """Sequential appends with syncs, and a temporary file beside."""
    log = pool.open("log", OpenOptions(append=True, create=True))
    work = pool.temporary()
    try:
        content = b""
        for number in range(6):
            acknowledged.pop("log", None)
            log.write_all(b"%d" % number * 100)
            content += b"%d" % number * 100
            work.write_all_at(content, 0)
            log.sync_all()
            acknowledged["log"] = content
        log.seek(0)
        assert log.read_to_end() == content
    finally:
        for file in (log, work):
            try:
                file.close()
            except PfsError:
                pass


WORKLOADS = [workload_of_many_files, workload_of_names, workload_of_appends]
CODES = [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EINTR, errno.EMFILE]


def run(workload, fault, failed_sync="keep"):
    """One run with one fault; checks all that must hold whatever fails.  Returns the fault's strikes."""
    fs = SimulatedFileSystem(faults=[fault], failed_sync=failed_sync)
    pool = make_pool(fs, 2)
    acknowledged: dict[str, bytes] = {}
    failure = None
    try:
        workload(pool, acknowledged)
    except PfsError as error:
        failure = error
    try:
        pool.close()
    except PfsError as error:
        failure = failure or error
    where = f"{workload.__name__}, {fault}"
    assert fs.open_descriptors == {}, f"descriptors leaked: {where}"
    stats = pool.stats()
    assert stats["slots_in_use"] == 0, where
    durable = fs.durable_files
    for path, content in acknowledged.items():
        assert durable.get(path) == content, f"{path} was acknowledged and is not durable: {where}"
    after_sync_failure(fs, where)
    if not fault.struck or fault.error in (0, errno.EINTR):
        assert failure is None, f"a harmless fault did harm: {where}: {failure!r}"
    return fault.struck


def after_sync_failure(fs, where):
    """A file whose sync failed is never synced again, nor written."""
    failed = set()
    for operation, result in fs.journal:
        if operation.name in ("fsync", "fdatasync", "pwritev"):
            assert operation.path not in failed, f"{operation} after a failed sync: {where}"
        if operation.name in ("fsync", "fdatasync") and result not in ("ok", "EINTR"):
            failed.add(operation.path)


@pytest.mark.untraced
@pytest.mark.parametrize("workload", WORKLOADS)
def test_any_error_at_any_call_loses_nothing_that_was_acknowledged(workload):
    fs = SimulatedFileSystem()
    with make_pool(fs, 2) as pool:
        workload(pool, {})
    calls = fs.operations
    assert calls > 40
    struck = 0
    for k in range(1, calls + 1):
        for code in CODES:
            struck += run(workload, Fault(error=code, at=k)) > 0
            if code != errno.EINTR:
                struck += run(workload, Fault(error=code, at=k, forever=True)) > 0
        struck += run(workload, Fault(error=errno.EIO, at=k), failed_sync="revert") > 0
        struck += run(workload, Fault(short=1, at=k)) > 0
        struck += run(workload, Fault(short=1 << 20, at=k, forever=True)) > 0
    assert struck == calls * (2 * len(CODES) - 1 + 3)
