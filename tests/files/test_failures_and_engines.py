"""The decisions in plain code: what an errno means, which slot goes, which engine reads, what is counted."""

from __future__ import annotations

import errno
import os
import threading
from typing import get_args

import pytest

from pfs import errors
from pfs.files.engine import PROBE, choose_engine
from pfs.files.failures import Deed, meaning
from pfs.files.metrics import METRICS, Metrics
from pfs.files.open_file import OpenFile
from pfs.files.replacement import ClockSweep, LeastRecentlyUsed, make_replacement
from pfs.files.slots import NO_TAG, SlotTable
from pfs.files.virtual_file import slot_budget
from pfs.testing.file_system import Fault, SimulatedFileSystem

NO_SPACE = ("ENOSPC", "EDQUOT", "EFBIG")
EVERY_ERRNO = sorted(set(errno.errorcode) - {errno.EINTR})

EXPECTED = {
    **{("write", name): errors.NoSpace for name in NO_SPACE},
    **{("resize", name): errors.NoSpace for name in NO_SPACE},
    **{("open", name): errors.NoSpace for name in NO_SPACE},
    **{("rename", name): errors.NoSpace for name in NO_SPACE},
    **{("write", name): errors.WriteFailed for name in ("EIO", "EROFS", "EACCES", "EBADF")},
    **{("resize", name): errors.WriteFailed for name in ("EIO", "EROFS", "EACCES")},
    **{("rename", name): errors.WriteFailed for name in ("EIO", "EROFS", "EACCES")},
    ("resize", "EOPNOTSUPP"): errors.InvalidRequest,
    ("read", "EIO"): errors.PageIOError,
    ("read", "EINVAL"): errors.InvalidRequest,
    ("look", "EIO"): errors.PageIOError,
    ("look", "ENOENT"): errors.FileMissing,
    ("open", "EIO"): errors.PageIOError,
    ("open", "ENOENT"): errors.FileMissing,
    ("open", "EEXIST"): errors.FileExists,
    ("open", "EACCES"): errors.AccessDenied,
    ("open", "EROFS"): errors.AccessDenied,
    ("open", "EMFILE"): errors.Busy,
    ("open", "ENFILE"): errors.Busy,
    ("open", "ENAMETOOLONG"): errors.InvalidName,
    ("rename", "ENOENT"): errors.FileMissing,
    ("rename", "ENOTEMPTY"): errors.FileExists,
}


@pytest.mark.parametrize(("deed", "name"), EXPECTED)
def test_an_errno_means_what_the_table_says(deed, name):
    error = OSError(getattr(errno, name), "")
    failure = meaning(error, deed, "write 8192 bytes at 0 of 'base/5/1'")
    assert type(failure) is EXPECTED[deed, name]
    assert f"({errno.errorcode[error.errno]})" in str(failure)
    assert str(failure).startswith("could not write 8192 bytes at 0 of 'base/5/1': ")


@pytest.mark.parametrize("number", EVERY_ERRNO)
def test_every_failed_sync_and_restore_is_fatal_and_no_failed_read_is(number):
    error = OSError(number, "")
    assert type(meaning(error, "sync", "")) is errors.SyncFailed
    assert type(meaning(error, "restore", "")) is errors.WriteFailed
    assert isinstance(meaning(error, "write", ""), (errors.WriteFailed, errors.NoSpace))
    for deed in ("open", "look", "read"):
        assert isinstance(meaning(error, deed, ""), errors.RequestError)


def test_a_failed_read_is_fatal_in_recovery_and_nothing_else_changes_there():
    error = OSError(errno.EIO, "")
    assert type(meaning(error, "read", "", recovering=True)) is errors.ReadFailed
    assert type(meaning(error, "look", "", recovering=True)) is errors.PageIOError
    assert type(meaning(OSError(errno.EINVAL, ""), "read", "", recovering=True)) is errors.InvalidRequest


def test_an_error_without_errno_has_a_meaning_too():
    for deed in get_args(Deed):
        assert "no errno" in str(meaning(OSError("odd"), deed, "do something"))


# ---------------------------------------------------------------------------------------------------- replacement


def everything(index):
    return True


def used(policy, *indexes):
    for index in indexes:
        policy.touch(index)


def test_least_recently_used_gives_the_one_not_used_for_longest():
    policy = make_replacement("lru")
    assert isinstance(policy, LeastRecentlyUsed)
    policy.resize(3)
    used(policy, 0, 1, 2, 0)
    assert policy.victim(everything) == 1
    policy.filled(1)
    assert policy.victim(everything) == 2
    assert policy.victim(lambda index: index == 0) == 0
    assert policy.victim(lambda index: False) is None


def test_the_clock_passes_over_what_was_used_since_it_came_by():
    policy = make_replacement("clock")
    assert isinstance(policy, ClockSweep)
    policy.resize(3)
    used(policy, 0, 2)
    assert policy.victim(everything) == 1
    assert policy.victim(everything) == 0, "2 has had its second chance, 0 is next and was passed over once"
    used(policy, 1)
    policy.filled(1)
    assert policy.victim(everything) == 1, "what is filled counts as not used yet"
    assert policy.victim(lambda index: False) is None


def test_the_clock_offers_every_slot_before_it_gives_up():
    policy = ClockSweep()
    policy.resize(4)
    used(policy, 0, 1, 2, 3)
    offered = []
    assert policy.victim(lambda index: offered.append(index)) is None
    assert offered == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------- slots


class Owner:
    def __init__(self):
        self.turn = [None]
        self.failure = None

    def end_turn(self):
        self.turn.append(None)


def filled(table, owner):
    owner.turn.pop()
    handle = table.fill(table.take(), owner, 7)
    owner.end_turn()
    return handle


def test_a_slot_gets_a_new_tag_with_every_filling():
    table = SlotTable(1, ClockSweep())
    slot, first = filled(table, Owner())
    assert table.take() is slot
    slot.owner = None
    table.put_back(slot)
    assert filled(table, Owner()) == (slot, first + 1)


def test_who_takes_an_occupied_slot_has_its_owners_turn_and_nobody_uses_it_meanwhile():
    table = SlotTable(1, ClockSweep())
    owner = Owner()
    slot, _ = filled(table, owner)
    assert table.take() is slot
    assert (slot.tag, owner.turn, slot.owner) == (NO_TAG, [], owner)
    assert table.take() is None
    assert table.take_occupied() is None


def test_a_slot_that_is_pinned_or_whose_file_is_changing_is_never_taken():
    table = SlotTable(2, LeastRecentlyUsed())
    pinned, changing = Owner(), Owner()
    slot, tag = filled(table, pinned)
    filled(table, changing)
    slot.pins.append(None)
    changing.turn.pop()
    assert table.take() is None
    assert slot.tag == tag
    changing.end_turn()
    assert table.take().owner is changing


class Interrupted(list):
    """A list that runs something between a look at it and a step on it, as another thread would."""

    def __init__(self, entries, between):
        super().__init__(entries)
        self.between = between

    def pop(self):
        self.between()
        return super().pop()


def test_a_pin_that_comes_while_the_slot_is_hidden_is_seen():
    table = SlotTable(1, ClockSweep())
    owner = Owner()
    slot, tag = filled(table, owner)
    owner.turn = Interrupted(owner.turn, lambda: slot.pins.append(None))
    assert table.take() is None
    assert (slot.tag, len(owner.turn)) == (tag, 1)


def test_a_slot_hidden_while_its_owner_fails_stays_hidden():
    table = SlotTable(1, ClockSweep())
    owner = Owner()
    slot, _ = filled(table, owner)

    def pin_and_fail():
        slot.pins.append(None)
        owner.failure = errors.WriteFailed("x")

    owner.turn = Interrupted(owner.turn, pin_and_fail)
    assert table.take() is None
    assert slot.tag == NO_TAG


def test_a_slot_that_changes_hands_just_before_is_let_be():
    table = SlotTable(1, LeastRecentlyUsed())
    owner, other = Owner(), Owner()
    slot, tag = filled(table, owner)
    owner.turn = Interrupted(owner.turn, lambda: setattr(slot, "owner", other))
    assert table.take() is None
    assert (slot.tag, len(owner.turn)) == (tag, 1)


def test_a_turn_and_a_free_slot_that_another_thread_takes_first_are_missed_quietly():
    table = SlotTable(1, ClockSweep())
    table._free = Interrupted(table._free, lambda: table._free.clear())
    assert table.take() is None
    table = SlotTable(1, ClockSweep())
    owner = Owner()
    filled(table, owner)
    owner.turn = Interrupted(owner.turn, lambda: owner.turn.clear())
    assert table.take() is None


# ---------------------------------------------------------------------------------------------------- engines


def test_nowait_is_chosen_where_its_self_test_passes():
    fs = SimulatedFileSystem()
    choice = choose_engine(fs)
    assert choice.engine.name == "nowait"
    assert "passed" in choice.message
    assert fs.listdir("") == []
    assert fs.open_descriptors == {}


@pytest.mark.parametrize(
    "fs",
    [
        SimulatedFileSystem(page_cache="none"),
        SimulatedFileSystem(faults=[Fault(error=errno.EROFS, operation="open", forever=True)]),
        SimulatedFileSystem(faults=[Fault(error=errno.ENOSPC, operation="pwritev", forever=True)]),
        SimulatedFileSystem(faults=[Fault(short=2, operation="preadv_nowait", forever=True)]),
        SimulatedFileSystem(
            faults=[
                Fault(error=errno.EIO, operation=operation, forever=True)
                for operation in ("preadv_nowait", "close", "unlink")
            ]
        ),
    ],
    ids=["no such reads", "read only", "full", "wrong answer", "nothing works"],
)
def test_psync_takes_its_place_elsewhere_and_says_why(fs):
    choice = choose_engine(fs)
    assert choice.engine.name == "psync"
    assert "nowait is not to be had: the self-test" in choice.message
    assert choice.engine.try_read(3, [bytearray(1)], 0) is None
    with pytest.raises(errors.InvalidRequest, match="not to be had here"):
        choose_engine(fs, "nowait")


def test_a_directory_in_the_way_of_the_self_test_means_psync():
    fs = SimulatedFileSystem()
    fs.mkdir(PROBE)
    assert choose_engine(fs).engine.name == "psync"


def test_psync_is_had_for_the_asking_without_a_test():
    fs = SimulatedFileSystem()
    assert choose_engine(fs, "psync").message == "I/O engine psync, as asked"
    assert fs.operations == 0
    with pytest.raises(errors.InvalidRequest, match="unknown I/O engine"):
        choose_engine(fs, "io_uring")


def test_what_nowait_cannot_have_at_once_is_none_and_real_errors_are_raised():
    fs = SimulatedFileSystem()
    engine = choose_engine(fs).engine
    descriptor = fs.open("f", os.O_RDWR | os.O_CREAT)
    fs.pwritev(descriptor, [b"x"], 0)
    assert engine.try_read(descriptor, [bytearray(4)], 0) == 1
    for code in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINTR):
        fs.faults = [Fault(error=code)]
        assert engine.try_read(descriptor, [bytearray(4)], 0) is None
    fs.faults = [Fault(error=errno.EIO)]
    with pytest.raises(OSError, match="Input/output"):
        engine.try_read(descriptor, [bytearray(4)], 0)


# ---------------------------------------------------------------------------------------------------- the rest


def test_every_declared_metric_has_a_value_and_help():
    metrics = Metrics()
    metrics.open.count, metrics.close_by_replace.count = 5, 3
    metrics.traffic("data").read += 10
    assert metrics.traffic("data") is metrics.traffic("data")
    stats = metrics.stats()
    for metric in METRICS:
        assert metric.help
        assert metric.name in stats or metric.kind == "bytes"
        assert (f"{metric.name}_seconds" in stats) == (metric.kind == "operation")
    assert stats["slots_in_use"] == 2
    assert (stats["read_bytes.data"], stats["written_bytes.data"]) == (10, 0)


@pytest.mark.parametrize(
    ("limit", "wanted", "slots"),
    [(1024, None, 960), (20000, None, 1000), (1 << 20, 5000, 5000), (1024, 5000, 960), (24, None, 12), (1, None, 1)],
)
def test_the_budget_leaves_descriptors_to_the_rest_of_the_process(limit, wanted, slots):
    assert slot_budget(limit, wanted) == slots


def test_who_waits_for_a_turn_that_ends_at_that_moment_does_not_wait_for_ever():
    fs = SimulatedFileSystem()
    found = fs.fstat(fs.open("f", os.O_RDWR | os.O_CREAT))
    file = OpenFile("f", 0, found, Metrics().traffic("data"), temporary=False)

    class EndsMeanwhile(list):
        def append(self, waiter):
            super().append(waiter)
            file.turn.append(None)  # as another thread does that has looked at the waiters before

    file.waiters = EndsMeanwhile()
    thread = threading.Thread(target=file.begin_turn, args=(fs,))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert file.turn == []
