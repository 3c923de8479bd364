"""Retention slots: their files, what a crash or a fault leaves of them, and which segments they keep."""

from __future__ import annotations

import errno
import logging
import os
from random import Random
from typing import Any, get_args

import pytest

from pfs.errors import (
    FatalError,
    InvalidName,
    InvalidRequest,
    NoSpace,
    PfsError,
    SlotExists,
    SlotLost,
    SlotNotFound,
    SyncFailed,
    WriteFailed,
)
from pfs.testing.file_system import CrashPolicy, Fault, Operation, SimulatedFileSystem
from pfs.wal.control_file import IN_USE, ControlData, ControlFile
from pfs.wal.log_files import LogFiles
from pfs.wal.retention import Retention, judge
from pfs.wal.slots import RECORD_OFFSETS, Slot, SlotFiles, check_held, encode_slot
from tests.wal.independent import crc32c as independent_crc
from tests.wal.logs import PAGE, SIZE, START, SYSTEM, close, flush, start, write

REDO = 5 * SIZE + 100


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return directory()


def directory(**options: Any) -> SimulatedFileSystem:
    """A disk with a control file whose redo point is in segment 5."""
    fs = SimulatedFileSystem(**options)
    control = ControlFile(fs)
    control.create(ControlData(system_id=SYSTEM, segment_size=SIZE, state=IN_USE, redo_lsn=REDO))
    control.close()
    return fs


def move_redo(fs: SimulatedFileSystem, lsn: int) -> None:
    control = ControlFile(fs)
    control.read()
    control.write(redo_lsn=lsn)
    control.close()


def content(fs: SimulatedFileSystem, path: str) -> bytes:
    descriptor = fs.open(path, os.O_RDONLY)
    buffer = bytearray(fs.fstat(descriptor).size)
    fs.preadv(descriptor, [buffer], 0)
    fs.close(descriptor)
    return bytes(buffer)


def overwrite(fs: SimulatedFileSystem, path: str, data: bytes, offset: int) -> None:
    descriptor = fs.open(path, os.O_RDWR)
    fs.pwritev(descriptor, [data], offset)
    fs.close(descriptor)


# ------------------------------------------------------------------------------------------ one slot


def test_a_slot_is_found_by_every_process_until_it_is_dropped(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    assert slots.all() == []
    slots.create("node-1", REDO + 8)
    slots.create("backup_2")
    other = SlotFiles(fs)
    assert [(slot.name, slot.lsn, slot.state) for slot in other.all()] == [
        ("backup_2", REDO, "held"),
        ("node-1", REDO + 8, "held"),
    ]
    other.drop("backup_2")
    assert [slot.name for slot in slots.all()] == ["node-1"]
    with pytest.raises(SlotNotFound, match="backup_2"):
        slots.get("backup_2")
    with pytest.raises(SlotNotFound, match="backup_2"):
        slots.drop("backup_2")
    with pytest.raises(SlotNotFound, match="backup_2"):
        slots.advance("backup_2", REDO)


def test_a_slot_only_moves_forward(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    slots.create("node", REDO)
    slots.advance("node", REDO)
    slots.advance("node", REDO + 800)
    with pytest.raises(InvalidRequest, match="0/00005064"):
        slots.advance("node", REDO)
    assert slots.get("node").lsn == REDO + 800


@pytest.mark.parametrize("name", ["", "A", "a.b", "a/b", "..", "a" * 64, "é", "a\n", 3, None, b"a"])
def test_a_name_that_no_slot_can_have_is_refused(fs: SimulatedFileSystem, name: Any) -> None:
    for call in (SlotFiles(fs).create, SlotFiles(fs).get, SlotFiles(fs).drop):
        with pytest.raises(InvalidName, match="slot name"):
            call(name)


@pytest.mark.parametrize("lsn", [0, -1, 1 << 64, True, 1.0, "1"])
def test_an_lsn_that_cannot_be_is_refused(fs: SimulatedFileSystem, lsn: Any) -> None:
    slots = SlotFiles(fs)
    with pytest.raises(InvalidRequest, match="LSN"):
        slots.create("a", lsn)
    slots.create("a")
    with pytest.raises(InvalidRequest, match="LSN"):
        slots.advance("a", lsn)


def test_a_name_is_given_once(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    slots.create("a", REDO + 8)
    with pytest.raises(SlotExists, match="'a'"):
        slots.create("a")
    assert slots.get("a").lsn == REDO + 8


def test_a_slot_for_log_that_is_not_kept_is_not_made(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    with pytest.raises(SlotLost, match="0/00005064"):
        slots.create("a", REDO - 8)
    assert slots.all() == []
    assert not fs.open_descriptors


def test_a_slot_follows_a_checkpoint_that_ends_while_it_is_made(fs: SimulatedFileSystem) -> None:
    moves = [REDO + 8, REDO + 16]

    def checkpoint(operation: Operation) -> None:
        if moves and (operation.name, operation.path) == ("preadv", "pfs_control") and fs.exists("pfs_slots/a"):
            fs.on_operation = None
            move_redo(fs, moves.pop(0))
            fs.on_operation = checkpoint

    fs.on_operation = checkpoint
    assert SlotFiles(fs).create("a").lsn == REDO + 16
    assert not moves
    moves = [REDO + 24]
    with pytest.raises(SlotLost):
        SlotFiles(fs).create("b", REDO + 20)


def test_a_slot_that_is_given_up_while_it_is_made_is_made_all_the_same(fs: SimulatedFileSystem) -> None:
    def give_up(operation: Operation) -> None:
        if (operation.name, operation.path) == ("preadv", "pfs_control") and fs.exists("pfs_slots/a"):
            fs.on_operation = None
            move_redo(fs, REDO + 8)
            assert SlotFiles(fs).lose(SlotFiles(fs).get("a"), REDO + 8)

    fs.on_operation = give_up
    assert SlotFiles(fs).create("a").lsn == REDO + 8
    assert SlotFiles(fs).get("a").state == "held"


def test_a_lost_slot_says_so_to_its_owner(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    slot = slots.create("a", temporary=False)
    slots.lose(slot, REDO + 4096)
    found = slots.get("a")
    assert (found.state, found.lsn, found.lost_at) == ("lost", REDO, REDO + 4096)
    with pytest.raises(SlotLost, match=r"0/00006064.*0/00005064"):
        slots.advance("a", REDO + 8000)
    slots.drop("a")


def test_the_file_is_as_the_formats_say(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    slots.lose(slots.create("a", REDO + 8), 0x0102030405060708)
    found = content(fs, "pfs_slots/a")
    assert len(found) == 8192
    record = found[4096:4160]
    assert record[:60] == (
        b"PFSWSLOT" + b"\1\0\0\0" + b"\2\0\0\0" + b"\3" + bytes(7)
        + (REDO + 8).to_bytes(8, "little") + b"\10\7\6\5\4\3\2\1" + bytes(20)
    )  # fmt: skip
    assert record[60:] == independent_crc(record[:60]).to_bytes(4, "little")
    slots.create("b", temporary=True)
    assert content(fs, "pfs_slots/b")[40:44] == b"\1\0\0\0"
    slots.drop("b")


def test_a_damaged_slot_is_listed_and_holds_nothing(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    for name in ("flipped", "empty", "other"):
        slots.create(name)
    overwrite(fs, "pfs_slots/flipped", b"\xff", 30)
    descriptor = fs.open("pfs_slots/empty", os.O_RDWR | os.O_TRUNC)
    fs.close(descriptor)
    forged = encode_slot(Slot(name="x", lsn=1, state="held", sequence=9))
    for wrong in (b"XXXXXXXX" + forged[8:60], forged[:8] + b"\2" + forged[9:60]):
        overwrite(fs, "pfs_slots/other", wrong + independent_crc(wrong).to_bytes(4, "little"), 4096)
        assert slots.get("other").sequence == 2
    assert [(slot.name, slot.state, slot.lsn) for slot in slots.all()] == [
        ("empty", "damaged", 0),
        ("flipped", "damaged", 0),
        ("other", "held", REDO),
    ]
    with pytest.raises(SlotLost, match="damaged"):
        slots.advance("flipped", REDO)
    slots.drop("flipped")


@pytest.mark.parametrize("policy", get_args(CrashPolicy))
def test_a_crash_at_any_operation_leaves_the_old_position_or_the_new(policy: CrashPolicy, seed: int) -> None:
    fs = directory(keep_journal=False)
    rng = Random(seed)
    slots = SlotFiles(fs)
    acknowledged = [0]
    images = []

    def crash(_: Operation) -> None:
        image = fs.crash_image(policy, rng)
        image.on_operation = None
        images.append((acknowledged[0], image))

    fs.on_operation = crash
    slots.create("a", REDO)
    acknowledged[0] = REDO
    for step in range(1, 5):
        slots.advance("a", REDO + step * 8)
        acknowledged[0] = REDO + step * 8
    assert len(images) > 20
    for known, image in images:
        found = SlotFiles(image).all()
        if not known:
            assert [slot.state for slot in found] in ([], ["damaged"], ["held"])
        else:
            [slot] = found
            assert slot.state == "held"
            assert known <= slot.lsn <= known + 8, (known, slot)


def test_a_slot_that_cannot_be_made_is_not_there() -> None:
    for number in range(1, 40):
        fs = directory(faults=[])
        fault = Fault(errno.ENOSPC if number % 2 else errno.EIO, at=number)
        fs.faults.append(fault)
        try:
            SlotFiles(fs).create("a", temporary=True)
        except PfsError:
            fs.faults.clear()
            slots = SlotFiles(fs)
            assert all(slot.state != "held" for slot in slots.all() if not slots.drop_if_abandoned(slot))
            assert fs.open_descriptors == {}
        if not fault.struck:
            break
    else:
        raise AssertionError("the faults never end")


@pytest.mark.parametrize(
    ("operation", "number", "kind"),
    [("pwritev", errno.ENOSPC, NoSpace), ("pwritev", errno.EIO, WriteFailed), ("fdatasync", errno.EIO, SyncFailed)],
)
def test_an_advance_that_fails_says_so(
    fs: SimulatedFileSystem, operation: str, number: int, kind: type[PfsError]
) -> None:
    slots = SlotFiles(fs)
    slots.create("a")
    fs.faults.append(Fault(number, operation=operation))
    with pytest.raises(kind):
        slots.advance("a", REDO + 8)
    assert fs.open_descriptors == {}


def test_a_slot_that_is_dropped_while_slots_are_listed_is_not_among_them(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    slots.create("a")
    slots.create("b")

    def drop(operation: Operation) -> None:
        if operation.name == "open":
            fs.on_operation = None
            slots.drop("a")

    fs.on_operation = drop
    assert [slot.name for slot in SlotFiles(fs).all()] == ["b"]


# ------------------------------------------------------------------------------------------ temporary slots


def test_a_temporary_slot_is_held_as_long_as_its_maker_lives(fs: SimulatedFileSystem) -> None:
    maker, other = SlotFiles(fs), SlotFiles(fs)
    slot = maker.create("a", temporary=True)
    assert not other.drop_if_abandoned(slot)
    assert not other.drop_if_abandoned(other.create("b"))
    assert [slot.name for slot in maker.all()] == ["a", "b"]
    [descriptor] = fs.open_descriptors
    fs.close(descriptor)  # as the end of its process does
    assert other.drop_if_abandoned(slot)
    assert [slot.name for slot in maker.all()] == ["b"]
    assert not other.drop_if_abandoned(slot)


@pytest.mark.parametrize("moment", ["open", "lock"])
def test_a_slot_that_gets_the_name_of_an_ended_one_is_not_taken_for_that(fs: SimulatedFileSystem, moment: str) -> None:
    maker, other = SlotFiles(fs), SlotFiles(fs)
    slot = maker.create("a", temporary=True)

    def replace(operation: Operation) -> None:
        if operation.name == moment and operation.path == "pfs_slots/a":
            fs.on_operation = None
            maker.drop("a")
            maker.create("a", REDO + 8, temporary=True)

    fs.on_operation = replace
    assert not other.drop_if_abandoned(slot)
    assert fs.on_operation is None
    assert other.get("a").lsn == REDO + 8
    maker.drop("a")


def test_a_slot_is_gone_before_its_lock_is(fs: SimulatedFileSystem) -> None:
    maker, other = SlotFiles(fs), SlotFiles(fs)
    slot = maker.create("a", temporary=True)
    found = []

    def look(operation: Operation) -> None:
        fs.on_operation = None
        found.append(other.drop_if_abandoned(slot))
        fs.on_operation = look

    fs.on_operation = look
    maker.drop("a")
    assert found
    assert not any(found)


def test_the_maker_of_a_temporary_slot_drops_it(fs: SimulatedFileSystem) -> None:
    slots = SlotFiles(fs)
    slots.create("a", temporary=True)
    slots.drop("a")
    assert fs.open_descriptors == {}
    assert slots.all() == []


# ------------------------------------------------------------------------------------------ what is kept


def held(name: str, lsn: int) -> Slot:
    return Slot(name=name, lsn=lsn, state="held", sequence=2)


def test_the_log_stays_from_the_redo_point_or_the_oldest_slot_on() -> None:
    assert judge([], 9, 3, SIZE, 100 * SIZE) == (9, [])
    slots = [held("ahead", 20 * SIZE), held("a", 6 * SIZE + 5), held("b", 4 * SIZE)]
    assert judge(slots, 9, 3, SIZE, 100 * SIZE) == (4, [])


def test_a_slot_that_holds_back_more_than_the_limit_or_what_is_gone_is_lost() -> None:
    exact, over, gone = held("exact", 6 * SIZE), held("over", 6 * SIZE - 1), held("gone", 2 * SIZE)
    assert judge([exact, over], 9, 3, SIZE, 3 * SIZE) == (6, [over])
    assert judge([gone], 9, 3, SIZE, 100 * SIZE) == (9, [gone])


class Log:
    """Segments 1 to 8 of a log whose redo point is in segment 5."""

    def __init__(self, slot_bytes: int = 100 * SIZE) -> None:
        self.fs = directory()
        self.files = LogFiles(self.fs, system_id=SYSTEM, segment_size=SIZE)
        self.files.make_directory()
        for segment in range(1, 9):
            self.files.prepare(segment, 1)
        self.slots = SlotFiles(self.fs)
        self.retention = Retention(self.files, SlotFiles(self.fs), slot_bytes)

    def hold(self, name: str, segment: int, **options: Any) -> None:
        slot = self.slots.create(name, **options)
        self.slots._write(Slot(name=name, lsn=segment * SIZE, state="held", sequence=slot.sequence))

    def segments(self) -> list[int]:
        return LogFiles(self.fs, system_id=SYSTEM, segment_size=SIZE).segments()


def test_a_checkpoint_recycles_what_no_slot_needs(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    log.hold("a", 3)
    assert log.retention.recycle(REDO, 9, 1) == 10 * SIZE
    assert log.segments() == [3, 4, 5, 6, 7, 8, 9]
    assert (log.retention.held_bytes, log.retention.lost) == (2 * SIZE, 0)
    log.slots.advance("a", 4 * SIZE)
    log.retention.recycle(REDO, 9, 1)
    assert log.segments() == [4, 5, 6, 7, 8, 9]
    log.slots.drop("a")
    log.retention.recycle(REDO, 9, 1)
    assert log.segments() == [5, 6, 7, 8, 9]
    assert (log.retention.held_bytes, log.retention.lost, caplog.records) == (0, 0, [])


def test_a_slot_past_its_limit_is_given_up_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(slot_bytes=SIZE)
    log.hold("a", 3)
    log.hold("b", 4)
    log.retention.recycle(REDO, 9, 1)
    assert log.segments() == [4, 5, 6, 7, 8, 9]
    assert [(slot.name, slot.state, slot.lost_at) for slot in log.slots.all()] == [
        ("a", "lost", REDO),
        ("b", "held", 0),
    ]
    assert log.retention.lost == 1
    [record] = caplog.records
    assert (record.name, record.levelno) == ("pfs", logging.WARNING)
    assert "slot 'a' at LSN 0/00003000 is lost" in record.message
    log.retention.recycle(REDO, 9, 1)
    assert log.retention.lost == 1


def test_a_lost_or_damaged_slot_holds_nothing() -> None:
    log = Log()
    log.hold("lost", 2)
    log.slots.lose(log.slots.get("lost"), REDO)
    log.hold("damaged", 2)
    for offset in RECORD_OFFSETS:
        overwrite(log.fs, "pfs_slots/damaged", b"\xff", offset)
    log.retention.recycle(REDO, 9, 1)
    assert log.segments() == [5, 6, 7, 8, 9]
    assert sorted(slot.state for slot in log.slots.all()) == ["damaged", "lost"]


def test_an_abandoned_temporary_slot_is_dropped() -> None:
    log = Log()
    log.slots.create("a", temporary=True)
    log.retention.recycle(REDO, 9, 1)
    assert [slot.name for slot in log.slots.all()] == ["a"]
    for descriptor in list(log.fs.open_descriptors):
        log.fs.close(descriptor)
    log.retention.recycle(REDO, 9, 1)
    assert log.slots.all() == []


def test_a_full_disk_gives_up_the_oldest_slot_and_uses_its_log_again(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    log.hold("a", 2)
    log.hold("also-a", 2)
    log.hold("b", 4)
    log.retention.recycle(REDO, 20, 1)
    assert log.segments() == [2, 3, 4, 5, 6, 7, 8, 9]
    log.fs.capacity = log.fs._used()
    log.retention.prepare(10, 1, REDO)
    assert log.segments() == [4, 5, 6, 7, 8, 9, 10]
    assert {slot.name: slot.state for slot in log.slots.all()} == {"a": "lost", "also-a": "lost", "b": "held"}
    assert "the disk has no space" in caplog.text
    log.retention.prepare(11, 1, REDO)
    log.fs.capacity = log.fs._used()
    log.retention.prepare(12, 1, REDO)
    assert log.segments() == [5, 6, 7, 8, 9, 10, 11, 12]
    with pytest.raises(NoSpace):
        log.retention.prepare(13, 1, REDO)


def test_a_slot_that_holds_nothing_back_is_not_given_up_for_space() -> None:
    log = Log()
    log.hold("a", 5)
    log.retention.recycle(REDO, 5, 1)
    log.fs.capacity = log.fs._used()
    with pytest.raises(NoSpace):
        log.retention.prepare(9, 1, REDO)
    assert log.slots.get("a").state == "held"


def test_a_slot_that_is_dropped_while_it_is_given_up_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(slot_bytes=SIZE)
    log.hold("a", 2)
    really = SlotFiles.all

    def gone(slots: SlotFiles) -> list[Slot]:
        found = really(slots)
        for slot in found:
            if slot.name == "a":
                log.slots.drop(slot.name)
        return found

    monkeypatch.setattr(SlotFiles, "all", gone)
    log.retention.recycle(REDO, 9, 1)
    assert log.segments() == [5, 6, 7, 8, 9]
    assert log.retention.lost == 0


def test_a_slot_that_moves_on_while_it_is_given_up_is_not_lost() -> None:
    log = Log(slot_bytes=SIZE)
    log.hold("a", 2)

    def advance(operation: Operation) -> None:
        if operation.name == "open" and operation.path == "pfs_slots/a" and log.fs.open_descriptors == {}:
            log.fs.on_operation = None
            log.slots.advance("a", 4 * SIZE)

    judged = log.slots.get("a")
    log.fs.on_operation = advance
    assert not log.slots.lose(judged, REDO)
    log.retention.recycle(REDO, 9, 1)
    assert log.segments() == [4, 5, 6, 7, 8, 9]
    assert log.slots.get("a").state == "held"


def test_a_sync_that_fails_while_a_slot_is_given_up_removes_no_log() -> None:
    log = Log(slot_bytes=SIZE)
    log.hold("a", 2)
    log.fs.faults.append(Fault(errno.EIO, operation="fdatasync", path="pfs_slots/a"))
    with pytest.raises(FatalError):
        log.retention.recycle(REDO, 9, 1)
    assert log.segments() == list(range(1, 9))


def test_a_start_removes_nothing_that_a_slot_needs() -> None:
    fs = SimulatedFileSystem()
    log = start(fs)
    slot = SlotFiles(fs).create("a")
    assert slot.lsn == START
    for number in range(1, 30):
        write(log, number, 5, number - 1, [PAGE], number)
    flush(log)
    close(log)
    for _ in range(3):
        log = start(fs)
        flush(log)
        close(log)
    log = start(fs)
    assert log.redo_lsn // SIZE > 4
    assert log.files.segments()[:4] == [1, 2, 3, 4]
    Retention(log.files, SlotFiles(fs), 1 << 30).recycle(log.redo_lsn, 100, 1)
    assert log.files.segments()[0] == 1
    close(log)
    assert check_held(SlotFiles(fs).get("a")) == slot
