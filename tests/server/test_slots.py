"""Retention slots of a whole system: who holds the log back, how much, and that writers never pay for it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from pfs.errors import InvalidRequest, SlotExists, SlotLost, SlotNotFound, SystemStopped
from pfs.wal.log_files import LogFiles
from pfs.wal.reader import LogReader, LogScan
from pfs.wal.slots import SlotFiles
from tests.server.harness import NEVER, SMALL_LOG, Client, World, page, recovered

SEGMENT = 16 << 10
TINY_LOG = msgspec.structs.replace(
    SMALL_LOG, segment_bytes=SEGMENT, most_bytes=8 * SEGMENT, checkpoint_bytes=2 * SEGMENT, checkpoint_seconds=NEVER
)
MakeWorld = Callable[..., World]


def append(world: World, appends: int) -> None:
    """Append that often 20 pages, more than half a segment, each time durably."""
    client = Client(world)
    for number in range(appends):
        ref = client.append([page(f"{number}.{index}") for index in range(20)])
        world.settle()
        client.written(ref)
    client.die()


def log_files(world: World) -> LogFiles:
    """The log as another process sees it."""
    started = world.storage.started.files
    return LogFiles(world.disk, system_id=started.system_id, segment_size=SEGMENT)


def test_a_slot_keeps_the_log_from_its_position_on_through_checkpoints(make_world: MakeWorld) -> None:
    world = make_world(wal=TINY_LOG)
    slot = world.system.create_slot("node")
    append(world, 60)
    assert world.storage.stats()["checkpoints"] > 10
    held = world.storage.stats()["slot_bytes"]
    assert held > TINY_LOG.most_bytes, "what a slot holds back is not counted as log since the last checkpoint"
    assert log_files(world).segments()[0] == slot.lsn // SEGMENT
    scan = LogScan(LogReader(log_files(world)), slot.lsn)
    assert sum(record.name == "COMMIT" for record in scan) == 60
    world.system.advance_slot("node", world.log.buffer.flushed)
    world.checkpoint()
    assert log_files(world).segments()[0] == world.log.redo_lsn // SEGMENT
    assert world.storage.stats()["slot_bytes"] == 0


def test_a_slot_past_slot_bytes_is_lost_and_its_owner_is_told(make_world: MakeWorld) -> None:
    world = make_world(wal=msgspec.structs.replace(TINY_LOG, slot_bytes=10 * SEGMENT))
    world.system.create_slot("slow")
    append(world, 60)
    assert len(log_files(world).segments()) < 10 + 8 + 2
    assert world.storage.stats()["slots_lost"] == 1
    assert world.system.stats()["wal"]["slots_lost"] == 1
    [slot] = world.system.slots()
    assert (slot.name, slot.state) == ("slow", "lost")
    with pytest.raises(SlotLost, match="'slow'"):
        world.system.advance_slot("slow", slot.lsn)
    world.system.drop_slot("slow")
    assert world.system.slots() == []
    assert not world.panics


def test_a_full_disk_gives_a_slot_up_before_it_refuses_a_write(make_world: MakeWorld) -> None:
    world = make_world(wal=msgspec.structs.replace(TINY_LOG, most_bytes=12 * SEGMENT))
    world.system.create_slot("node")
    append(world, 30)
    pages = world.page_file.page_count
    world.checkpoint()
    world.disk.capacity = world.disk._used() + 4 * SEGMENT
    append(world, 8)
    assert world.page_file.page_count == pages + 160
    assert [slot.state for slot in world.system.slots()] == ["lost"]
    world.disk.capacity = None
    assert len(world.durable()) == pages + 160
    assert not world.panics


def test_slots_are_refused_with_a_reason(make_world: MakeWorld) -> None:
    world = make_world(wal=TINY_LOG)
    system = world.system
    system.create_slot("a")
    with pytest.raises(SlotExists):
        system.create_slot("a")
    for call in (system.create_slot, system.advance_slot):
        with pytest.raises(InvalidRequest, match="durable only to"):
            call("b", world.log.buffer.flushed + 1)
    with pytest.raises(SlotNotFound):
        system.drop_slot("b")
    append(world, 10)
    world.checkpoint()
    with pytest.raises(SlotLost, match="'c'"):
        system.create_slot("c", SEGMENT + 64)
    assert system.create_slot("d", world.log.buffer.flushed).lsn == world.log.buffer.flushed
    assert [slot.name for slot in system.slots()] == ["a", "d"]
    system.stop()
    with pytest.raises(SystemStopped):
        system.slots()


def test_a_slot_outlives_a_stop_and_a_crash(make_world: MakeWorld) -> None:
    world = make_world(wal=TINY_LOG)
    slot = world.system.create_slot("node")
    append(world, 20)
    files = log_files(world)
    crashed = world.disk.crash_image("none", Random(1))
    assert len(recovered(crashed, world.system_options)) == 400
    world.stop()
    for disk in (crashed, world.disk):
        assert LogFiles(disk, system_id=files.system_id, segment_size=SEGMENT).segments()[0] == slot.lsn // SEGMENT
        assert SlotFiles(disk).get("node") == slot
