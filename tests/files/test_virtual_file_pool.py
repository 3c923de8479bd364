"""The pool: never more descriptors than slots, nobody starved, nothing forgotten, nothing leaked."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import random
import threading
import warnings

import pytest

from pfs.errors import (
    AccessDenied,
    Busy,
    FileClosed,
    FileExists,
    FileMissing,
    FileReplaced,
    InvalidName,
    InvalidRequest,
    NoSpace,
    NotRegularFile,
    OutOfRange,
    PageIOError,
    SyncFailed,
)
from pfs.files import slot_queue
from pfs.files.posix import PosixFileSystem
from pfs.files.virtual_file import TEMPORARY_PREFIX, OpenOptions, VirtualFilePool
from pfs.testing.file_system import Fault, SimulatedFileSystem
from tests.support import join, run_together, wait_for

NEW = OpenOptions(write=True, create=True, truncate=True)


def ticks():
    return itertools.count().__next__


def make_pool(fs=None, slots=3, engine="psync", **more):
    return VirtualFilePool(fs or SimulatedFileSystem(), slots=slots, clock=ticks(), engine=engine, **more)


def content_of(pool, path):
    with pool.open(path) as file:
        return file.read_to_end()


@pytest.fixture(params=["clock", "lru"])
def replacement(request):
    return request.param


# ---------------------------------------------------------------------------------------------- few slots, many files


def test_a_hundred_files_work_over_ten_slots(tmp_path, replacement):
    before = len(os.listdir("/proc/self/fd"))
    with make_pool(PosixFileSystem(tmp_path), 10, replacement=replacement) as pool:
        files = [pool.open(f"f{number}", NEW) for number in range(100)]
        rng = random.Random(1)
        expected = [b""] * 100
        for _ in range(2000):
            number = rng.randrange(100)
            if rng.random() < 0.3:
                data = rng.randbytes(20)
                offset = rng.randrange(30)
                expected[number] = expected[number].ljust(offset, b"\0")
                expected[number] = expected[number][:offset] + data + expected[number][offset + 20 :]
                files[number].write_all_at(data, offset)
            buffer = bytearray(60)
            count = files[number].read_at(buffer, 0)
            assert buffer[:count] == expected[number]
            assert len(os.listdir("/proc/self/fd")) - before <= 11  # and the one that lists
        stats = pool.stats()
        assert stats["slots_in_use"] == 10
        assert stats["open"] == 100
        assert stats["open_after_replace"] == stats["close_by_replace"] - 90
        for file in files:
            file.close()
        assert pool.stats()["slots_in_use"] == 0
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.untraced
def test_a_hundred_threads_read_a_thousand_times_each(tmp_path):
    content = [bytes([number]) * 64 for number in range(40)]
    for number, part in enumerate(content):
        (tmp_path / f"f{number}").write_bytes(part)
    with make_pool(PosixFileSystem(tmp_path), 10) as pool:
        files = [pool.open(f"f{number}") for number in range(40)]

        def reader(seed):
            buffer = bytearray(64)
            for number in random.Random(seed).choices(range(40), k=1000):
                files[number].read_exact_at(buffer, 0)
                assert buffer == content[number], f"file {number} gave another's bytes"

        run_together([lambda seed=seed: reader(seed) for seed in range(100)])
        stats = pool.stats()
        assert stats["read"] == 100_000
        assert 0 < stats["slots_in_use"] <= 10
        for file in files:
            file.close()


def test_threads_that_write_sync_and_evict_each_other_lose_nothing(tmp_path):
    with make_pool(PosixFileSystem(tmp_path), 2) as pool:
        files = [pool.open(f"f{number}", NEW) for number in range(8)]

        def writer(number):
            for step in range(50):
                files[number].write_all_at(bytes([step]) * 10, step * 10)
                if step % 10 == 0:
                    files[(number + 1) % 8].sync_data()
                    pool.sync_pending()

        run_together([lambda number=number: writer(number) for number in range(8)])
        for file in files:
            buffer = bytearray(500)
            file.read_exact_at(buffer, 0)
            assert buffer == b"".join(bytes([step]) * 10 for step in range(50))
            file.close()


def test_the_least_recently_used_file_loses_its_descriptor():
    fs = SimulatedFileSystem()
    with make_pool(fs, 3, replacement="lru") as pool:
        files = {name: pool.open(name, NEW) for name in "abc"}
        files["a"].metadata()
        files["d"] = pool.open("d", NEW)
        assert sorted(fs.open_descriptors.values()) == ["a", "c", "d"]
        for file in files.values():
            file.close()
    assert fs.open_descriptors == {}


def test_a_file_that_is_used_again_keeps_its_descriptor_over_those_used_once():
    fs = SimulatedFileSystem()
    with make_pool(fs, 3, replacement="clock") as pool:
        files = [pool.open("hot", NEW)]
        for number in range(10):
            files[0].metadata()
            files.append(pool.open(f"cold{number}", NEW))
        assert "hot" in fs.open_descriptors.values()
        for file in files:
            file.close()


# ---------------------------------------------------------------------------------------------- waiting


class Gate:
    """Holds up chosen operations of a simulated file system until the test lets them go on."""

    def __init__(self):
        self.path = None
        self.arrived = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, operation):
        if operation.name == "preadv" and operation.path == self.path:
            self.arrived.release()
            assert self.go_on.acquire(timeout=20)


def start(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def reading(file):
    return lambda: file.read_at(bytearray(1), 0)


def is_waiting(pool, number):
    """Wait until so many stand in the queue."""
    deadline = threading.Event()
    for _ in range(2000):
        if len(pool._descriptors.queue.waiting) >= number:
            return
        deadline.wait(0.005)
    raise AssertionError(f"{number} waiters did not come to stand in the queue")


def test_a_slot_with_io_in_flight_is_never_closed_and_who_needs_one_waits():
    gate = Gate()
    fs = SimulatedFileSystem(on_operation=gate)
    with make_pool(fs, 2) as pool:
        files = {name: pool.open(name, NEW) for name in "abc"}
        files["a"].metadata()
        gate.path = "a"
        reader = start(reading(files["a"]))
        assert gate.arrived.acquire(timeout=10)
        for _ in range(5):
            files["b"].metadata()
            files["c"].metadata()
            assert "a" in fs.open_descriptors.values()
        gate.path = None
        gate.go_on.release()
        join(reader)
        for file in files.values():
            file.close()


def test_waiters_are_served_first_come_first_served(monkeypatch):
    monkeypatch.setattr(slot_queue, "LOOK_INTERVAL", 60)
    gate = Gate()
    fs = SimulatedFileSystem(on_operation=gate)
    with make_pool(fs, 1) as pool:
        pool._descriptors.queue._handover_interval = 0
        files = {name: pool.open(name, NEW) for name in "abcd"}
        files["a"].metadata()
        gate.path = "a"
        threads = [start(reading(files["a"]))]
        assert gate.arrived.acquire(timeout=10)
        order = []

        def use(name):
            files[name].metadata()
            order.append(name)

        for place, name in enumerate("cbd", 1):
            threads.append(start(lambda name=name: use(name)))
            is_waiting(pool, place)
        gate.path = None
        gate.go_on.release()
        for thread in threads:
            join(thread)
        reopened = [entry.operation.path for entry in fs.journal if entry.operation.name == "reopen"]
        assert reopened[-3:] == ["c", "b", "d"]
        assert sorted(order) == ["b", "c", "d"]
        assert pool.stats()["slot_waits"] == 3
        for file in files.values():
            file.close()


def test_overlapping_readers_of_one_file_cannot_starve_another(monkeypatch):
    monkeypatch.setattr(slot_queue, "LOOK_INTERVAL", 60)
    gate = Gate()
    with make_pool(SimulatedFileSystem(on_operation=gate), 1) as pool:
        pool._descriptors.queue._handover_interval = 0
        other, hot = pool.open("other", NEW), pool.open("hot", NEW)
        gate.path = "hot"
        first = start(reading(hot))
        assert gate.arrived.acquire(timeout=10)
        second = start(reading(hot))
        assert gate.arrived.acquire(timeout=10)
        waiter = start(other.metadata)
        is_waiting(pool, 1)
        gate.go_on.release()  # one of the two ends: the slot takes no new users from now on
        assert take_one_end(first, second)
        third = start(reading(hot))
        gate.path = None
        gate.go_on.release()
        for thread in (first, second, waiter, third):
            join(thread)
        assert hot.read_at(bytearray(1), 0) == 0
        for file in (other, hot):
            file.close()


def take_one_end(*threads):
    for _ in range(2000):
        if any(not thread.is_alive() for thread in threads):
            return True
        threads[0].join(0.005)
    return False


def test_a_slot_that_drained_for_somebody_who_was_served_elsewhere_is_used_again(monkeypatch):
    monkeypatch.setattr(slot_queue, "LOOK_INTERVAL", 60)
    gate = Gate()
    fs = SimulatedFileSystem(on_operation=gate)
    with make_pool(fs, 2) as pool:
        pool._descriptors.queue._handover_interval = 0
        third, slow, hot = pool.open("third", NEW), pool.open("slow", NEW), pool.open("hot", NEW)
        third.metadata()
        hot.metadata()
        slow.metadata()
        gate.path = "hot"
        readers = [start(reading(hot)), start(reading(hot))]
        assert gate.arrived.acquire(timeout=10)
        assert gate.arrived.acquire(timeout=10)
        gate.path = "slow"
        blocked = start(reading(slow))
        assert gate.arrived.acquire(timeout=10)
        waiter = start(third.metadata)
        is_waiting(pool, 1)
        gate.path = None
        queue = pool._descriptors.queue
        slot = hot._file.handle[0]
        with queue._mutex:
            queue._drain(slot)
            queue._drain(slot)  # once is enough
        assert hot._file.turn == []
        gate.go_on.release(3)
        for thread in (*readers, blocked, waiter):
            join(thread)
        assert queue._draining == []
        assert hot.metadata().size == 0
        for file in (third, slow, hot):
            file.close()


def test_who_runs_goes_on_running_for_a_while_though_others_wait(monkeypatch):
    """Without it every operation would cost two thread switches as soon as clients outnumber slots."""
    monkeypatch.setattr(slot_queue, "LOOK_INTERVAL", 60)
    gate = Gate()
    fs = SimulatedFileSystem(on_operation=gate)
    with make_pool(fs, 1) as pool:
        queue = pool._descriptors.queue
        files = {name: pool.open(name, NEW) for name in "abc"}
        queue._handover_interval = 1_000_000
        queue._next_handover = 1_000_000
        gate.path = "c"
        reader = start(reading(files["c"]))
        assert gate.arrived.acquire(timeout=10)
        waiter = start(files["a"].metadata)
        is_waiting(pool, 1)
        gate.path = None
        gate.go_on.release()
        join(reader)
        for _ in range(10):
            files["b"].metadata()
            files["c"].metadata()
        assert len(queue.waiting) == 1, "nobody has handed over yet"
        queue._handover_interval = queue._next_handover = 0
        files["b"].metadata()
        join(waiter)
        for file in files.values():
            file.close()


def test_who_waits_looks_for_himself_when_all_others_have_stopped():
    gate = Gate()
    with make_pool(SimulatedFileSystem(on_operation=gate), 1) as pool:
        a, b = pool.open("a", NEW), pool.open("b", NEW)
        pool._descriptors.queue._next_handover = 1_000_000_000
        gate.path = "b"
        reader = start(reading(b))
        assert gate.arrived.acquire(timeout=10)
        waiter = start(a.metadata)
        is_waiting(pool, 1)
        gate.go_on.release()
        join(reader)
        join(waiter)
        gate.path = None
        a.close()
        b.close()


def test_writes_that_make_a_file_longer_take_turns_and_the_first_come_is_first():
    arrived, go_on = threading.Event(), threading.Event()

    def hold(operation):
        if operation.name == "pwritev" and operation.offset == 0:
            arrived.set()
            assert go_on.wait(10)

    fs = SimulatedFileSystem(on_operation=hold)
    with make_pool(fs) as pool:
        file = pool.open("f", NEW)
        threads = [start(lambda: file.write_all_at(b"a" * 10, 0))]
        wait_for(arrived)
        for place, call in enumerate(
            [lambda: file.set_len(20), lambda: file.write_all_at(b"b", 30), lambda: file.allocate(0, 40)], 1
        ):
            threads.append(start(call))
            while len(file._file.extenders) < place:
                threads[-1].join(0.001)
        go_on.set()
        for thread in threads:
            join(thread)
        assert file.read_to_end() == b"a" * 10 + bytes(20) + b"b" + bytes(9)
        order = [entry.operation.name for entry in fs.journal if entry.operation.length]
        assert order[:4] == ["pwritev", "ftruncate", "pwritev", "fallocate"]
        file.close()


@pytest.mark.parametrize("given", [True, False])
def test_who_is_interrupted_while_waiting_to_make_a_file_longer_holds_up_nobody(given):
    condition = Interruptible()
    with make_pool(SimulatedFileSystem(condition=lambda: condition)) as pool:
        file = pool.open("f", NEW)
        pool._descriptors.begin_extending(file._file)
        condition.before = (lambda: pool._descriptors.end_extending(file._file)) if given else lambda: None
        with pytest.raises(KeyboardInterrupt):
            file.write_all_at(b"x", 0)
        if not given:
            pool._descriptors.end_extending(file._file)
        file.write_all_at(b"y", 0)
        assert file.read_to_end() == b"y"
        file.close()


def test_read_to_end_sees_what_is_appended_meanwhile():
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        file, writer = pool.open("f", NEW), pool.open("f", OpenOptions(append=True))
        file.write_all_at(b"first", 0)

        def append(operation):
            if operation.name == "preadv":
                fs.on_operation = None
                writer.write_all(b" second")

        fs.on_operation = append
        assert file.read_to_end() == b"first second"
        file.close()
        writer.close()


def test_a_slot_that_was_emptied_or_changed_hands_is_not_drained():
    with make_pool() as pool:
        queue = pool._descriptors.queue
        file, other = pool.open("f", NEW), pool.open("g", NEW)
        slot, tag = file._file.handle

        class ChangesHands(list):
            def pop(self):
                slot.owner = other._file
                return super().pop()

        file._file.turn = ChangesHands([None])
        queue._drain(slot)
        assert (len(file._file.turn), slot.tag) == (1, tag)
        slot.owner = None
        queue._drain(slot)
        assert queue._draining == []
        slot.owner = file._file
        file.close()
        other.close()


class Interruptible:
    """A condition whose waits raise, as Ctrl-C in a waiting thread does."""

    def __init__(self):
        self.before = lambda: None

    def __enter__(self):
        return True

    def __exit__(self, *exc):
        pass

    def wait(self, timeout=None):
        self.before()
        raise KeyboardInterrupt

    def notify(self, n=1):
        pass


@pytest.mark.parametrize("occupied", [True, False])
@pytest.mark.parametrize("served", [True, False])
def test_a_waiter_that_is_interrupted_leaves_the_queue_and_its_slot_to_others(served, occupied):
    condition = Interruptible()
    fs = SimulatedFileSystem(condition=lambda: condition)
    with make_pool(fs, 1) as pool:
        a, b = pool.open("a", NEW), pool.open("b", NEW)
        slot = b._file.handle[0]
        slot.pins.append(None)
        queue = pool._descriptors.queue

        def serve():
            slot.pins.clear()
            if not occupied:
                b.close()
            with queue._mutex:
                queue._serve()

        condition.before = serve if served else lambda: None
        with pytest.raises(KeyboardInterrupt):
            a.metadata()
        slot.pins.clear()
        assert not queue.waiting
        assert a.metadata().size == 0
        if not b.closed:
            assert b.metadata().size == 0
            b.close()
        a.close()
    assert fs.open_descriptors == {}


def test_closing_waits_for_the_operations_in_flight():
    gate = Gate()
    fs = SimulatedFileSystem(on_operation=gate)
    with make_pool(fs, 2) as pool:
        file = pool.open("a", NEW)
        file.write_all_at(b"x", 0)
        gate.path = "a"
        buffer = bytearray(1)
        reader = start(lambda: file.read_at(buffer, 0))
        assert gate.arrived.acquire(timeout=10)
        closing = threading.Event()
        closer = start(lambda: (closing.set(), file.close()))
        wait_for(closing)
        again = start(file.close)
        for _ in range(2000):
            if pool._descriptors.queue.closing:
                break
            closer.join(0.005)
        assert fs.open_descriptors, "not closed under the reader"
        gate.go_on.release()
        for thread in (reader, closer, again):
            join(thread)
        assert buffer == b"x"
        with pytest.raises(FileClosed):
            file.read_at(buffer, 0)
    assert fs.open_descriptors == {}


def test_two_who_want_the_same_closed_file_open_it_once():
    entered, go_on = threading.Event(), threading.Event()

    def hold(operation):
        if operation.name == "reopen" and operation.path == "a":
            entered.set()
            assert go_on.wait(10)

    fs = SimulatedFileSystem(on_operation=hold)
    with make_pool(fs, 2) as pool:
        files = [pool.open(name, NEW) for name in "abc"]
        first = start(files[0].metadata)
        wait_for(entered)
        second = start(files[0].metadata)
        for _ in range(2000):
            if files[0]._file.waiters:
                break
            second.join(0.005)
        go_on.set()
        join(first)
        join(second)
        assert pool.stats()["open_after_replace"] == 1
        for file in files:
            file.close()


# ---------------------------------------------------------------------------------------------- handles


def test_a_stale_handle_never_reaches_another_file():
    with make_pool(slots=1) as pool:
        old, new = pool.open("old", NEW), pool.open("new", NEW)
        old.write_all_at(b"old", 0)
        slot, tag = old._file.handle
        new.write_all_at(b"new", 0)
        assert new._file.handle[0] is slot
        assert slot.tag != tag
        buffer = bytearray(3)
        old.read_exact_at(buffer, 0)
        assert buffer == b"old"
        old.close()
        new.close()


def test_after_close_every_call_says_that_the_file_is_closed():
    with make_pool() as pool:
        file = pool.open("f", NEW)
        file.close()
        buffer = bytearray(1)
        for call in [
            lambda: file.read_at(buffer, 0),
            lambda: file.read_exact_at(buffer, 0),
            lambda: file.readv_at([buffer], 0),
            lambda: file.try_readv_at_nowait([buffer], 0),
            lambda: file.write_at(b"x", 0),
            lambda: file.write_at(b"", 0),
            lambda: file.write(b"x"),
            lambda: file.seek(0),
            lambda: file.read(buffer),
            file.read_to_end,
            file.metadata,
            lambda: file.set_len(0),
            lambda: file.allocate(0, 1),
            lambda: file.advise(0, 0, 0),
            file.sync_all,
            file.sync_data,
            file.remove,
        ]:
            with pytest.raises(FileClosed, match="'f' was used after it was closed"):
                call()
        assert repr(file) == "<VirtualFile 'f' closed>"


@pytest.mark.parametrize("what", ["removed", "replaced", "a directory now"])
def test_a_file_removed_or_replaced_underneath_is_a_fatal_error_that_says_so(what):
    fs = SimulatedFileSystem()
    with make_pool(fs, 1) as pool:
        file = pool.open("f", NEW)
        pool.open("other", NEW).close()
        fs.unlink("f")
        if what == "replaced":
            fs.close(fs.open("f", os.O_RDWR | os.O_CREAT))
        elif what == "a directory now":
            fs.mkdir("f")
        for _ in range(2):
            with pytest.raises(FileReplaced, match="'f' was removed or replaced while it was open"):
                file.read_at(bytearray(1), 0)
        file.close()


def test_a_link_put_in_the_place_of_a_file_is_a_replacement_too(tmp_path):
    with make_pool(PosixFileSystem(tmp_path), 1) as pool:
        file = pool.open("f", NEW)
        other = pool.open("other", NEW)
        os.rename(tmp_path / "f", tmp_path / "g")
        os.symlink(tmp_path / "g", tmp_path / "f")
        with pytest.raises(FileReplaced):
            file.metadata()
        file.close()
        other.close()


# ---------------------------------------------------------------------------------------------- dropped files


def test_a_file_dropped_without_close_warns_and_is_closed_by_the_next_who_passes(replacement):
    fs = SimulatedFileSystem()
    with make_pool(fs, 2, replacement=replacement) as pool:
        file = pool.open("f", NEW)
        file.write_all_at(b"kept", 0)
        before = fs.operations
        files = [file]
        del file
        with pytest.warns(ResourceWarning, match="'f' was dropped without close"):
            files.clear()
        assert fs.operations == before, "a finalizer does no I/O"
        assert pool.stats()["dropped"] == 1
        assert fs.open_descriptors == {}
        assert pool._descriptors.files() == []
        fs.sync_directory("")
        assert fs.durable_files == {"f": b"kept"}


def test_dropped_files_are_closed_on_the_way_of_other_calls():
    fs = SimulatedFileSystem()
    with make_pool(fs, 1) as pool:
        other = pool.open("other", NEW)
        for passing in (lambda: pool.open("third", NEW).close(), other.metadata, pool.sync_pending):
            drop_a_file(pool)
            passing()
            assert "f" not in fs.open_descriptors.values()
        pool._descriptors.dropped = Vanishing()
        pool.stats()
        other.close()


def drop_a_file(pool, *, temporary=False):
    files = [pool.temporary() if temporary else pool.open("f", NEW)]
    with pytest.warns(ResourceWarning):
        files.clear()


class Vanishing(list):
    """Looks full, but another thread has emptied it."""

    def __bool__(self):
        return True

    def popleft(self):
        raise IndexError


def test_a_temporary_file_vanishes_on_close_and_is_never_synced():
    fs = SimulatedFileSystem()
    fs.mkdir("d")
    with make_pool(fs, 1) as pool:
        first = pool.temporary("d")
        second = pool.temporary()
        first.write_all_at(b"work", 0)
        second.write_all_at(b"more", 0)
        assert not first.dirty
        assert pool.sync_pending() == 0
        buffer = bytearray(4)
        first.read_exact_at(buffer, 0)
        assert buffer == b"work"
        assert pool.list("d") == [f"{TEMPORARY_PREFIX}1"]
        first.close()
        second.remove()
        assert pool.list("d") == []
        assert pool.list("") == ["d"]
        drop_a_file(pool, temporary=True)
        pool.stats()
        assert pool.list("") == ["d"]
    assert not [entry for entry in fs.journal if "sync" in entry.operation.name]


def test_temporary_files_that_a_crash_left_are_passed_over_and_removed_on_request():
    fs = SimulatedFileSystem()
    fs.mkdir("d")
    for name in (f"{TEMPORARY_PREFIX}1", f"d/{TEMPORARY_PREFIX}7", "d/kept"):
        fs.close(fs.open(name, os.O_RDWR | os.O_CREAT))
    with make_pool(fs) as pool:
        with pool.temporary() as file:
            assert file.path == f"{TEMPORARY_PREFIX}2"
        assert pool.remove_leftovers() == 1
        assert pool.remove_leftovers("d") == 1
        assert pool.list("d") == ["kept"]


# ---------------------------------------------------------------------------------------------- the budget


def test_reserved_descriptors_come_out_of_the_budget():
    fs = SimulatedFileSystem()
    with make_pool(fs, 4) as pool:
        files = [pool.open(f"f{number}", NEW) for number in range(4)]
        pool.reserve(3)
        assert len(fs.open_descriptors) == 1
        for file in files:
            file.metadata()
        assert len(fs.open_descriptors) == 1
        with pytest.raises(Busy, match="3 of 4 are reserved already"):
            pool.reserve(1)
        pool.release(2)
        for file in files:
            file.metadata()
        assert len(fs.open_descriptors) == 3
        with pytest.raises(InvalidRequest, match="only 1 are reserved"):
            pool.release(2)
        for wrong in (-1, True, 1.0, "1"):
            with pytest.raises(InvalidRequest):
                pool.reserve(wrong)
            with pytest.raises(InvalidRequest):
                pool.release(wrong)
        pool.release(1)
        for file in files:
            file.close()


def test_a_reservation_that_fails_on_the_way_takes_nothing():
    fs = SimulatedFileSystem()
    with make_pool(fs, 3) as pool:
        files = [pool.open(f"f{number}", NEW) for number in range(3)]
        files[1].write_all_at(b"x", 0)
        fs.faults = [Fault(error=errno.EIO, operation="fdatasync")]
        with pytest.raises(SyncFailed):
            pool.reserve(2)
        pool.reserve(2)
        pool.release(2)
        for file in files:
            file.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_when_the_system_has_no_descriptor_another_file_is_closed_for_it(code):
    fs = SimulatedFileSystem()
    with make_pool(fs, 4) as pool:
        files = [pool.open(f"f{number}", NEW) for number in range(3)]
        fs.faults = [Fault(error=code, operation="open")]
        files.append(pool.open("f3", NEW))
        assert len(fs.open_descriptors) == 3
        fs.faults = [Fault(error=code, operation="reopen")]
        for file in files:
            file.metadata()
        fs.faults = [Fault(error=code, operation="sync_directory"), Fault(error=code, operation="listdir")]
        pool.sync_pending()
        assert len(pool.list("")) == 4
        assert pool.stats()["descriptor_shortages"] == 4
        for file in files:
            file.close()


@pytest.mark.parametrize("operation", ["open", "reopen", "stat"])
def test_when_there_is_no_file_left_to_close_it_is_busy(operation):
    fs = SimulatedFileSystem()
    with make_pool(fs, 1) as pool:
        file, other = pool.open("f", NEW), pool.open("g", NEW)
        fs.faults = [Fault(error=errno.EMFILE, operation=operation, forever=True)]
        calls = {"open": lambda: pool.open("h", NEW), "reopen": file.metadata, "stat": lambda: pool.stat("f")}
        with pytest.raises(Busy, match="ulimit"):
            calls[operation]()
        fs.faults = []
        assert file.metadata().size == 0
        file.close()
        other.close()
    assert fs.open_descriptors == {}


def test_a_disk_with_fewer_descriptors_than_slots_is_lived_with():
    fs = SimulatedFileSystem(descriptors=200)
    with make_pool(fs, 150) as pool:
        assert pool.slots == 136
        taken = [fs.open(f"taken{number}", os.O_RDWR | os.O_CREAT) for number in range(195)]
        files = [pool.open(f"f{number}", NEW) for number in range(20)]
        for number, file in enumerate(files):
            file.write_all_at(b"%d" % number, 0)
        for number, file in enumerate(files):
            assert file.read_to_end() == b"%d" % number
            file.close()
        for descriptor in taken:
            fs.close(descriptor)


# ---------------------------------------------------------------------------------------------- syncs and names


def test_a_dirty_file_is_synced_before_its_descriptor_goes():
    fs = SimulatedFileSystem()
    with make_pool(fs, 1) as pool:
        first = pool.open("first", NEW)
        first.write_all_at(b"precious", 0)
        assert first.dirty
        second = pool.open("second", OpenOptions(write=True, create=True))
        assert not first.dirty
        fs.sync_directory("")
        assert fs.durable_files["first"] == b"precious"
        assert pool.stats()["syncs_before_close"] == 1
        first.metadata()
        second.metadata()
        assert pool.stats()["syncs_before_close"] == 1, "a clean file is not synced again"
        second.set_len(5)
        second.close()
        assert fs.durable_files["second"] == bytes(5)
        first.close()


def test_pending_syncs_are_kept_by_file_and_names_by_directory():
    fs = SimulatedFileSystem()
    with make_pool(fs, 2) as pool:
        pool.make_directory("base/5")
        files = [pool.open(f"base/5/{number}", NEW) for number in range(5)]
        for file in files[:3]:
            file.write_all_at(b"x", 0)
        files[3].close()
        assert fs.durable_files == {}
        assert pool.sync_pending() == 2, "one was synced when its descriptor went"
        assert fs.durable_files == {f"base/5/{number}": b"x" * (number < 3) for number in range(5)}
        operations = fs.operations
        assert pool.sync_pending() == 0
        assert fs.operations == operations, "nothing is pending"
        for file in files:
            file.close()


def test_the_first_sync_of_a_new_file_makes_its_name_durable():
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        file = pool.open("f", NEW)
        file.write_all_at(b"x", 0)
        file.sync_data()
        assert fs.durable_files == {"f": b"x"}
        file.sync_all()
        assert [entry.operation.name for entry in fs.journal].count("sync_directory") == 1
        file.close()


def test_a_write_that_overlaps_a_sync_stays_dirty():
    started, go_on = threading.Event(), threading.Event()

    def hold(operation):
        if operation.name == "fsync":
            started.set()
            assert go_on.wait(10)

    with make_pool(SimulatedFileSystem(on_operation=hold)) as pool:
        file = pool.open("f", NEW)
        file.write_all_at(b"before", 0)
        syncer = start(file.sync_all)
        wait_for(started)
        file.write_all_at(b"during", 0)
        go_on.set()
        join(syncer)
        assert file.dirty
        file.sync_data()
        assert not file.dirty
        file.close()


def test_sync_pending_waits_for_a_close_that_is_under_way():
    started, go_on = threading.Event(), threading.Event()

    def hold(operation):
        if operation.name == "fdatasync":
            started.set()
            assert go_on.wait(10)

    fs = SimulatedFileSystem(on_operation=hold)
    with make_pool(fs) as pool:
        file = pool.open("f", NEW)
        file.write_all_at(b"x", 0)
        closer = start(file.close)
        wait_for(started)
        done = []
        syncer = start(lambda: done.append((pool.sync_pending(), fs.durable_files)))
        for _ in range(2000):
            if file._file.waiters:
                break
            syncer.join(0.005)
        assert done == []
        go_on.set()
        join(closer)
        join(syncer)
        assert done == [(0, {"f": b"x"})]


def test_a_name_made_while_its_directory_is_synced_is_synced_again():
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        first = pool.open("first", NEW)

        def make_another(operation):
            if operation.name == "sync_directory":
                fs.on_operation = None
                pool.create("second").close()

        fs.on_operation = make_another
        first.sync_all()
        syncs = [entry.operation.name for entry in fs.journal].count("sync_directory")
        pool.sync_pending()
        assert [entry.operation.name for entry in fs.journal].count("sync_directory") == syncs + 1
        first.close()


def test_a_directory_that_is_gone_needs_no_sync():
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        pool.make_directory("d")
        pool.open("d/f", NEW).close()
        fs.unlink("d/f")
        fs.rmdir("d")
        pool.sync_pending()


def test_an_overwrite_is_all_or_nothing_at_every_crash():
    reached = set()
    for stop in range(1, 40):
        images = []

        fs = SimulatedFileSystem()

        def stop_here(operation, fs=fs, stop=stop, images=images):
            if operation.sequence == stop:
                for policy in ("none", "all", "prefix", "subset", "torn"):
                    images.extend(fs.crash_image(policy, random.Random(seed)) for seed in range(5))

        with make_pool(fs) as pool:
            pool.crashsafe_overwrite("catalog", "catalog.tmp", b"old" * 500)
            fs.operations = 0
            fs.on_operation = stop_here
            pool.crashsafe_overwrite("catalog", "catalog.tmp", b"new" * 600)
            fs.on_operation = None
            if fs.operations < stop:
                break
        for image in images:
            image.on_operation = None
            with make_pool(image) as after:
                found = content_of(after, "catalog")
                assert found in (b"old" * 500, b"new" * 600), f"crash before operation {stop}"
                reached.add(found)
                after.crashsafe_overwrite("catalog", "catalog.tmp", b"later")
                assert content_of(after, "catalog") == b"later"
    assert len(reached) == 2
    assert fs.durable_files == {"catalog": b"new" * 600}


def test_an_overwrite_replaces_a_temporary_file_left_over():
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        pool.create("t").close()
        pool.crashsafe_overwrite("f", "t", memoryview(b"content"))
        assert pool.list("") == ["f"]
        assert fs.durable_files == {"f": b"content"}


@pytest.mark.parametrize("call", ["pwritev", "fsync"])
def test_an_overwrite_that_is_interrupted_leaves_the_old_content_and_no_file_open(call):
    fs = SimulatedFileSystem()

    def interrupt(operation):
        if operation.name == call:
            raise KeyboardInterrupt

    with make_pool(fs) as pool:
        pool.crashsafe_overwrite("f", "t", b"old")
        fs.on_operation = interrupt
        with pytest.raises(KeyboardInterrupt):
            pool.crashsafe_overwrite("f", "t", b"new")
        fs.on_operation = None
        assert not fs.open_descriptors
        assert content_of(pool, "f") == b"old"


def test_an_overwrite_that_finds_no_space_leaves_the_old_content():
    fs = SimulatedFileSystem(capacity=100)
    with make_pool(fs) as pool:
        pool.crashsafe_overwrite("f", "t", b"old")
        with pytest.raises(NoSpace):
            pool.crashsafe_overwrite("f", "t", bytes(200))
        assert pool.list("") == ["f"]
        assert content_of(pool, "f") == b"old"
        fs.faults = [Fault(error=errno.EIO, operation="fsync")]
        with pytest.raises(SyncFailed):
            pool.crashsafe_overwrite("f", "t", b"new")
        assert content_of(pool, "f") == b"old"
        for path in ("../x", "", "a//b"):
            with pytest.raises(InvalidName):
                pool.crashsafe_overwrite(path, "t", b"")
            with pytest.raises(InvalidName):
                pool.crashsafe_overwrite("f", path, b"")


def test_a_durable_rename_survives_and_open_files_follow_it():
    fs = SimulatedFileSystem()
    with make_pool(fs, 1) as pool:
        pool.make_directory("a")
        pool.make_directory("b")
        file = pool.open("a/f", NEW)
        file.write_all_at(b"moved", 0)
        pool.crashsafe_overwrite("b/g", "b/t", b"replaced")
        replaced = pool.open("b/g")
        pool.durable_rename("a/f", "b/g")
        assert fs.durable_files == {"b/g": b"moved"}
        assert file.path == "b/g"
        assert file.read_to_end() == b"moved"
        with pytest.raises(FileReplaced):
            replaced.read_to_end()
        with pytest.raises(FileMissing):
            pool.durable_rename("a/f", "b/h")
        pool.durable_rename("b/g", "b/h")
        assert file.path == "b/h"
        with pytest.raises(NotRegularFile):
            pool.durable_rename("a", "c")
        with pytest.raises(InvalidName):
            pool.durable_rename("b/h", "/h")
        file.close()
        replaced.close()


def test_names_are_made_and_removed_durably():
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        pool.make_directory("base/5")
        pool.make_directory("base/5")
        image = fs.crash_image("none", random.Random(0))
        assert image.listdir("base") == ["5"]
        pool.create("base/5/f").close()
        pool.sync_pending()
        assert pool.exists("base/5/f")
        assert pool.stat("base/5/f").is_file
        with pytest.raises(NotRegularFile):
            pool.make_directory("base/5/f/g")
        with pytest.raises(FileExists):
            pool.remove_directory("base/5")
        pool.remove("base/5/f")
        assert fs.durable_files == {}
        with pytest.raises(FileMissing):
            pool.remove("base/5/f")
        pool.remove_directory("base/5")
        assert fs.crash_image("none", random.Random(0)).listdir("base") == []
        assert not pool.exists("base/5")
        for call in (pool.stat, pool.list, pool.remove_directory, pool.open):
            with pytest.raises(FileMissing):
                call("missing")


# ---------------------------------------------------------------------------------------------- nowait


def test_an_inline_read_gives_what_is_cached_or_says_that_it_cannot():
    fs = SimulatedFileSystem()
    with make_pool(fs, 1, engine="nowait") as pool:
        assert pool.engine == "nowait"
        file = pool.open("f", NEW)
        file.write_all_at(b"cached", 0)
        first, second = bytearray(4), bytearray(4)
        assert file.try_readv_at_nowait([first, second], 0) == 6
        assert first + second[:2] == b"cached"
        assert file.try_readv_at_nowait([first], 6) == 0
        fs.page_cache = "cold"
        assert file.try_readv_at_nowait([first], 0) is None
        fs.page_cache = "warm"
        other = pool.open("g", NEW)
        operations = fs.operations
        assert file.try_readv_at_nowait([first], 0) is None
        assert fs.operations == operations, "a closed descriptor is not opened inline"
        stats = pool.stats()
        assert (stats["nowait_hits"], stats["nowait_misses"]) == (2, 2)
        file.close()
        other.close()


def test_an_inline_read_pins_its_slot():
    fs = SimulatedFileSystem()
    with make_pool(fs, 2, engine="nowait") as pool:
        file = pool.open("f", NEW)
        seen = []

        def look(operation):
            fs.on_operation = None
            others = [pool.open(name, NEW) for name in ("g", "h", "i")]
            seen.append("f" in fs.open_descriptors.values())
            for other in others:
                other.close()

        fs.on_operation = look
        assert file.try_readv_at_nowait([bytearray(1)], 0) == 0
        assert seen == [True]
        file.close()


def test_psync_never_reads_inline():
    with make_pool(engine="psync") as pool, pool.open("f", NEW) as file:
        assert pool.engine_message == "I/O engine psync, as asked"
        assert file.try_readv_at_nowait([bytearray(1)], 0) is None


def test_an_inline_read_fails_as_any_read_does():
    fs = SimulatedFileSystem()
    with make_pool(fs, engine="nowait") as pool:
        file = pool.open("f", OpenOptions(read=False, write=True, create=True))
        with pytest.raises(AccessDenied):
            file.try_readv_at_nowait([bytearray(1)], 0)
        with pytest.raises(InvalidRequest):
            file.try_readv_at_nowait([bytearray(1)], -1)
        with pool.open("f") as readable, pytest.raises(InvalidRequest):
            readable.try_readv_at_nowait([memoryview(b"x")], 0)
        fs.faults = [Fault(error=errno.EIO, operation="preadv_nowait")]
        with pytest.raises(PageIOError):
            file.try_readv_at_nowait([bytearray(1)], 0)
        file.close()


# ---------------------------------------------------------------------------------------------- the whole


def test_closing_the_pool_closes_every_file():
    fs = SimulatedFileSystem()
    pool = make_pool(fs)
    files = [pool.open(f"f{number}", NEW) for number in range(5)]
    files[4].write_all_at(b"x", 0)
    pool.close()
    pool.close()
    assert all(file.closed for file in files)
    assert fs.open_descriptors == {}
    fs.sync_directory("")
    assert fs.durable_files["f4"] == b"x"
    with pytest.raises(FileClosed, match="the pool is closed"):
        pool.open("f0")


def test_wrong_arguments_are_refused_and_change_nothing():
    fs = SimulatedFileSystem()
    for wrong in (0, -1, True, 1.5, "3"):
        with pytest.raises(InvalidRequest):
            make_pool(fs, slots=wrong)
    with pytest.raises(InvalidRequest):
        make_pool(fs, replacement="random")
    with make_pool(fs) as pool:
        with pytest.raises(InvalidRequest):
            pool.open("f", {"read": True})
        assert pool.list("") == []
        file = pool.open_with_options("f", NEW)
        assert file.options == NEW
        assert repr(file) == "<VirtualFile 'f'>"
        file.write_all_at(b"0123456789", 0)
        journal = list(fs.journal)
        for offset in (-1, True, 1.0, "0", None, 1 << 63, 1 << 70):
            for call in [
                lambda offset=offset: file.read_at(bytearray(2), offset),
                lambda offset=offset: file.readv_at([bytearray(2)], offset),
                lambda offset=offset: file.read_exact_at(bytearray(2), offset),
                lambda offset=offset: file.write_at(b"xx", offset),
                lambda offset=offset: file.set_len(offset),
                lambda offset=offset: file.allocate(offset, 1),
                lambda offset=offset: file.advise(offset, 1, 0),
            ]:
                with pytest.raises(InvalidRequest):
                    call()
        limit = (1 << 63) - 1
        for call in [
            lambda: file.write_at(b"xx", limit),
            lambda: file.allocate(limit, 1),
            lambda: file.allocate(0, -1),
            lambda: file.allocate(0, True),
            lambda: file.allocate(0, 0),
            lambda: file.advise(0, 0, "willneed"),
            lambda: file.seek(1.0),
            lambda: file.seek(True),
            lambda: file.seek(0, 7),
            lambda: file.seek(1 << 63),
            lambda: file.write_at("text", 0),
            lambda: file.write_at(None, 0),
            lambda: file.write_at(memoryview(b"0123")[::2], 0),
            lambda: file.writev_at(b"abc", 0),
            lambda: file.writev_at([b"abc", 3], 0),
            lambda: file.readv_at(bytearray(3), 0),
            lambda: file.read_exact_at(b"", "x"),
            lambda: file.read_exact_at_n(bytearray(3), 0, 4),
            lambda: file.read_exact_at_n(bytearray(3), 0, 0),
            lambda: file.read_exact_at_n(bytearray(3), 0, True),
        ]:
            with pytest.raises(InvalidRequest):
                call()
        # Reading past every limit is left to the kernel to refuse.
        assert {entry.operation.name for entry in fs.journal[len(journal) :]} == {"preadv"}
        for buffer in (b"immutable", "text", 7):
            with pytest.raises(InvalidRequest):
                file.read_at(buffer, 0)
        with pytest.raises(InvalidRequest):
            file.read_at(bytearray(2), limit)
        assert file.read_to_end() == b"0123456789"
        file.close()
        appending = pool.open("f", OpenOptions(append=True))
        with pytest.raises(InvalidRequest, match="open for appending"):
            appending.write_at(b"x", 0)
        appending.close()


@pytest.mark.parametrize("path", ["", "/f", "../f", "a/../f", "a\0b", 3])
def test_bad_paths_are_refused_before_anything_is_done(path):
    fs = SimulatedFileSystem()
    with make_pool(fs) as pool:
        for call in (pool.open, pool.create, pool.remove, pool.make_directory, pool.remove_directory):
            with pytest.raises(InvalidName):
                call(path)
    assert fs.operations == 0


def test_what_is_not_a_file_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with make_pool(PosixFileSystem(tmp_path)) as pool:
        for name in ("fifo", "directory"):
            for options in (OpenOptions(), NEW):
                with pytest.raises(NotRegularFile):
                    pool.open(name, options)
        assert pool.stats()["slots_in_use"] == 0


def test_operations_and_bytes_are_counted_by_kind():
    with make_pool() as pool:
        data, log = pool.open("data", NEW), pool.open("log", NEW, kind="wal")
        data.write_all_at(b"12345", 0)
        log.write_all_at(b"123", 0)
        data.read_at(bytearray(9), 0)
        data.seek(1)
        data.metadata()
        data.set_len(2)
        data.sync_all()
        with pytest.raises(OutOfRange):
            data.read_exact_at(bytearray(9), 0)
        stats = pool.stats()
        expected = {"open": 2, "write": 2, "seek": 1, "metadata": 1, "set_len": 1, "fsync": 1, "slots_in_use": 2}
        assert {name: stats[name] for name in expected} == expected
        assert stats["read_bytes.data"] == 7
        assert (stats["written_bytes.data"], stats["written_bytes.wal"]) == (5, 3)
        assert stats["write_seconds"] > 0
        data.close()
        log.close()


def test_no_warning_for_files_that_were_closed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool = make_pool()
        with pool.open("f", NEW):
            pass
        kept = pool.open("g", NEW)
        pool.close()
        del kept
        gc.collect()
