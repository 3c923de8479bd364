"""Room for writes: dirty bytes and the log have limits, disks are full; writers wait or are told, readers never do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from pfs.actors import Actor
from pfs.actors.checkpointer import MakeCheckpoint
from pfs.actors.wal_server import WalAppend, WalFlushed
from pfs.errors import Cancelled, NoSpace
from pfs.protocol import DataWriteEnd, RequestFailed, Stop, Truncate
from pfs.testing.faults import Fault
from pfs.wal.bodies import Drop, Noop
from pfs.wal.checkpoint_room import HEALED_AT_ONCE
from pfs.wal.shared_log import HOLD_BACK_AT, WalOptions
from pfs.wal.sidecar import RECORDS_PER_BLOCK
from tests.server.harness import NEVER, PAGE_SIZE, PATH, SMALL, SMALL_LOG, Client, World, page, recovered, tags

Make = Callable[..., World]

SEGMENT = 16 << 10
TINY_LOG = msgspec.structs.replace(
    SMALL_LOG, segment_bytes=SEGMENT, most_bytes=8 * SEGMENT, checkpoint_bytes=4 * SEGMENT, checkpoint_seconds=NEVER
)


def everything(world: World) -> list[str]:
    reader = Client(world)
    ref = reader.read(0, world.state.page_count)
    world.settle()
    return tags(reader.whole(ref))


def dirty(world: World) -> int:
    return world.storage.dirty.bytes // PAGE_SIZE


def fill_disk(world: World, free: int = 0) -> None:
    """Let the disk have only so many bytes more."""
    world.disk.capacity = world.disk._used() + free


def write_until_refused(world: World, client: Client, most: int = 200) -> tuple[int, int]:
    """Append 10 pages at a time until there is no space; how many appends succeeded, and the ref of the refused one."""
    for done in range(most):
        ref = client.append([page("x")] * 10)
        world.pass_time(3.0)
        if isinstance(client.end(ref), RequestFailed):
            return done, ref
        client.written(ref)
    raise AssertionError("the disk was never full")


# -- dirty bytes


def test_a_write_that_would_pass_the_dirty_limit_waits_until_pages_were_written(make_world: Make) -> None:
    world = make_world(4, dirty_bytes=40 * PAGE_SIZE)
    client = Client(world)
    world.hold("write")
    refs = [client.append([page(k)] * 10) for k in range(8)]
    world.settle()
    assert [client.end(ref) is not None for ref in refs] == [True] * 4 + [False] * 4
    assert dirty(world) == 40
    assert world.storage.stats()["writes_waiting_for_room"] == 4
    assert world.stat().counters["waited_for_room"] == 4
    assert everything(world) == [*"0123", *(str(k) for k in range(4) for _ in range(10))]
    turns = world.storage.checkpointer.reductions
    world.pass_time(1000.0)
    assert world.storage.checkpointer.reductions - turns < 5, "who waits is woken, and does not ask"
    world.let_go()
    assert [client.written(ref).n for ref in refs] == [10] * 8
    assert dirty(world) <= 40
    assert world.storage.stats()["promised_bytes"] == 0
    assert everything(world) == [*"0123", *(str(k) for k in range(8) for _ in range(10))]


def test_writes_get_room_in_the_order_in_which_they_asked(make_world: Make) -> None:
    world = make_world(4, dirty_bytes=40 * PAGE_SIZE)
    client, other = Client(world), Client(world)
    world.hold("write")
    first = client.append([page("a")] * 30)
    world.settle()
    large = client.append([page("b")] * 40)
    world.settle()
    small = other.append([page("c")])
    world.settle()
    assert [each is None for each in (client.end(first), client.end(large), other.end(small))] == [False, True, True]
    world.let_go()
    assert client.written(large).lsn < other.written(small).lsn


@pytest.mark.parametrize("dirty_pages", [0, 1, 99])
def test_a_write_larger_than_the_dirty_limit_passes_alone(make_world: Make, dirty_pages: int) -> None:
    world = make_world(4, dirty_bytes=dirty_pages * PAGE_SIZE)
    client = Client(world)
    refs = [client.append([page(k)] * 100) for k in range(3)]
    most = 0
    while not all(client.end(ref) for ref in refs):
        world.scheduler.step()
        most = max(most, dirty(world), world.storage.write_room.promised // PAGE_SIZE)
    assert most == 100
    assert everything(world) == [*"0123", *(str(k) for k in range(3) for _ in range(100))]


def test_an_overwrite_in_memory_durability_waits_for_dirty_room_without_a_deadlock(make_world: Make) -> None:
    world = make_world(40, dirty_bytes=20 * PAGE_SIZE)
    client = Client(world)
    refs = [client.write(k % 4 * 10, [page(k)] * 10, durability="memory") for k in range(40)]
    world.settle()
    assert all(type(client.end(ref)) is DataWriteEnd for ref in refs)
    assert everything(world) == [str(36 + k) for k in range(4) for _ in range(10)]


def test_a_truncation_and_a_stop_wait_for_writes_that_wait_for_dirty_room(make_world: Make) -> None:
    world = make_world(4, dirty_bytes=10 * PAGE_SIZE)
    client = Client(world)
    world.hold("write")
    refs = [client.append([page(k)] * 10) for k in range(3)]
    world.settle()
    cut, late = client.ask_for(Truncate, 6), client.append([page("late")])
    world.settle()
    assert [client.end(each) for each in (refs[1], cut, late)] == [None] * 3
    stop = client.ask_for(Stop)
    world.let_go()
    assert client.written(refs[2]).pgid == 24
    assert client.end(cut) is not None
    assert client.end(stop) is not None
    assert isinstance(client.end(late), RequestFailed)


def test_writers_at_the_dirty_limit_learn_that_a_data_file_has_no_space_and_readers_go_on(make_world: Make) -> None:
    world = make_world(4, dirty_bytes=40 * PAGE_SIZE)
    client = Client(world)
    world.disk.faults.append(Fault(error=errno.ENOSPC, operation="pwritev", path="base/*", forever=True))
    done, refused = write_until_refused(world, client)
    assert isinstance(client.error(refused), NoSpace)
    assert done == 4
    assert dirty(world) == 40
    assert everything(world) == [*"0123", *["x"] * 40]
    assert world.durable() == everything(world)
    world.disk.faults.clear()
    world.pass_time(3.0)
    world.serves_a_good_client()
    assert world.storage.stats()["writes_waiting_for_room"] == 0


# -- the log


def test_a_flood_of_writers_slows_down_before_a_small_log_is_full_and_nobody_fails(make_world: Make) -> None:
    world = make_world(4, wal=TINY_LOG)
    clients = [Client(world) for _ in range(20)]
    refs = [(client, client.append([page(k)] * 15)) for k in range(10) for client in clients]
    fullest = 0.0
    while not all(client.end(ref) for client, ref in refs):
        world.scheduler.step()
        fullest = max(fullest, world.log.fill_ratio)
    assert all(type(client.end(ref)) is DataWriteEnd for client, ref in refs)
    assert HOLD_BACK_AT < fullest < 1.2
    assert world.stat().counters["held_back"] > 0
    assert world.storage.stats()["checkpoints"] > 5
    assert len(everything(world)) == 4 + 20 * 10 * 15


def test_writers_are_held_back_while_a_checkpoint_is_slow_and_are_not_called_idle(make_world: Make) -> None:
    options = msgspec.structs.replace(SMALL, idle_seconds=5.0)
    world = make_world(4, options, wal=TINY_LOG)
    client = Client(world)
    world.hold("write")
    refs = [client.append([page(k)] * 15) for k in range(30)]
    world.settle()
    waiting = [ref for ref in refs if client.end(ref) is None]
    assert waiting
    late = client.append([page("late")] * 15)
    given_up = client.append([page("given up")] * 15)
    world.pass_time(100.0)
    assert [ref for ref in refs if client.end(ref) is None] == waiting
    assert client.got(late) == client.got(given_up) == []
    client.cancel(given_up)
    assert everything(world)[:4] == list("0123")
    assert isinstance(client.error(given_up), Cancelled)
    refs.append(late)
    world.let_go()
    world.pass_time(1.0)
    assert all(type(client.end(ref)) is DataWriteEnd for ref in refs)


def test_a_record_that_finds_no_room_waits_for_it(make_world: Make) -> None:
    world = make_world(4, wal=TINY_LOG)
    client, told = Client(world), []

    class Asker(Actor):
        def on_receive(self, message: object) -> None:
            told.append(message)

    world.hold("write")
    for k in range(30):
        client.append([page(k)] * 5)
    world.settle()
    while world.log.has_room:
        world.log.buffer.insert(Drop(1))
    world.storage.wal.tell(WalAppend((Drop(99999),), world.scheduler.start(Asker), "token"))
    world.settle()
    assert told == []
    world.let_go()
    assert [type(each) for each in told] == [WalFlushed]


# -- full disks: the rows of the fault matrix


def test_without_space_for_the_log_a_write_fails_before_its_commit_and_reads_go_on(make_world: Make) -> None:
    world = make_world(4, wal=TINY_LOG)
    client = Client(world)
    fill_disk(world)
    done, refused = write_until_refused(world, client)
    assert isinstance(client.error(refused), NoSpace)
    expected = [*"0123", *["x"] * 10 * done]
    assert everything(world) == expected
    assert world.durable() == expected
    assert not world.panics


def test_a_disk_without_space_for_more_log_is_written_on_as_long_as_checkpoints_make_room(make_world: Make) -> None:
    world = make_world(40, wal=TINY_LOG)
    client = Client(world)
    fill_disk(world)
    for k in range(60):
        ref = client.write(0, [page(k)] * 40)
        world.pass_time(1.0)
        client.written(ref)
    assert everything(world) == ["59"] * 40
    assert world.storage.stats()["checkpoints"] > 5


def test_a_full_disk_leaves_room_for_a_checkpoint(make_world: Make) -> None:
    world = make_world(400, wal=TINY_LOG)
    client = Client(world)
    world.hold("write")
    fill_disk(world)
    refs = [client.write(10 * k, [page("x")] * 10) for k in range(40)]
    world.pass_time(5.0)
    written = [ref for ref in refs if type(client.end(ref)) is DataWriteEnd]
    assert len(written) < len(refs)
    assert dirty(world) >= 10 * len(written)
    world.let_go()
    world.pass_time(1.0)
    world.checkpoint()
    assert dirty(world) == 0
    assert not world.panics
    assert world.data_file() == everything(world)


def test_checkpoints_that_free_no_log_never_use_up_the_room_of_one_that_does(make_world: Make) -> None:
    world = make_world(4, wal=TINY_LOG)
    buffer, transaction = world.log.buffer, world.log.next_transaction()
    buffer.insert_commit(transaction, world.state.file_id, 0, 0, 4)  # of no pages, and not settled
    fill_disk(world)
    while world.log.has_room or buffer.room >= 64:
        buffer.insert(Noop())
    for _ in range(100):
        world.checkpoint()
    assert not world.panics
    buffer.settle(transaction)
    world.checkpoint()
    assert world.log.has_room
    world.serves_a_good_client()


BLOCKS = 60
"""Sidecar blocks in the tests below; each image of one takes a slot of the log."""


def many_blocks(make_world: Make, wal: WalOptions = TINY_LOG, **options: Any) -> World:
    """A page file with so many sidecar blocks, none of which is in the log."""
    world = make_world(BLOCKS * RECORDS_PER_BLOCK, wal=wal, **options)
    world.checkpoint()
    return world


def change_a_page_of_each_block(world: World, client: Client, content: str) -> None:
    for block in range(BLOCKS):
        client.write(block * RECORDS_PER_BLOCK, [page(content)], durability="memory")
    world.settle()


def poke(world: World, pgid: int) -> None:
    """Damage a page on the disk."""
    watching, world.disk.on_operation = world.disk.on_operation, None
    descriptor = world.disk.open(PATH, os.O_RDWR)
    world.disk.pwritev(descriptor, [b"rot"], pgid * PAGE_SIZE + 99)
    world.disk.close(descriptor)
    world.disk.on_operation = watching


def hold_redo_point(world: World) -> int:
    """Begin a transaction that keeps the log from here on, until it is settled."""
    transaction: int = world.log.next_transaction()
    world.log.buffer.insert_commit(transaction, world.state.file_id, 0, 0, world.state.page_count)
    return transaction


def read_one(world: World, pgid: int) -> str:
    reader = Client(world)
    ref = reader.read(pgid, 1)
    world.settle()
    return tags(reader.whole(ref))[0]


def fill_log(world: World) -> None:
    """Leave nothing in the log but what is kept for checkpoints, and no space for more of it."""
    fill_disk(world)
    world.settle()
    buffer = world.log.buffer
    while buffer.room >= 64:
        buffer.insert(Noop(min(max(buffer.room - 64, 0), 900) if -buffer.inserted % SEGMENT > 1000 else 0))


@pytest.mark.parametrize("change", ["cut", "overwrite"])
def test_images_for_pages_that_were_changed_while_their_blocks_were_read_take_nobody_elses_room(
    make_world: Make, change: str
) -> None:
    world = many_blocks(make_world)
    client = Client(world)
    change_a_page_of_each_block(world, client, "old")
    world.hold("sidecar_blocks")
    checkpointer, checkpoint = world.storage.checkpointer._actor, world.next_ref()
    checkpointer.actor_ref.tell(MakeCheckpoint(client.ref, checkpoint))
    world.settle()
    assert "sidecar_blocks" in world.calls
    if change == "cut":
        client.ask_for(Truncate, 1)
        world.settle()
        assert dirty(world) == 1
    else:
        change_a_page_of_each_block(world, client, "new")
        assert dirty(world) == BLOCKS
    fill_log(world)
    world.let_go()
    while client.end(checkpoint) is None:
        world.scheduler.step()
        if checkpointer._phase in ("writing", "syncing") and not checkpointer.writer.in_flight:
            assert world.log.buffer.room >= 0  # all slots of the pages that are dirty are there
    assert not world.panics
    world.checkpoint()
    assert world.log.has_room
    world.serves_a_good_client()


def test_damaged_pages_for_which_the_log_has_no_slot_are_served_and_healed_when_there_is_one(make_world: Make) -> None:
    wal = msgspec.structs.replace(TINY_LOG, most_bytes=64 * SEGMENT)  # it is the disk that is full
    world = many_blocks(make_world, wal, dirty_bytes=2 * PAGE_SIZE)
    client, held = Client(world), hold_redo_point(world)
    change_a_page_of_each_block(world, client, "new")
    world.settle()
    pgids = [block * RECORDS_PER_BLOCK for block in range(BLOCKS)]
    clean = [pgid for pgid in pgids if world.storage.dirty.get(world.state.file_id, pgid) is None]
    assert len(clean) > 2 * HEALED_AT_ONCE
    for pgid in clean:
        poke(world, pgid)
    world.storage.table.resize(0)  # whatever is in memory goes
    world.storage.table.resize(world.system_options.buffer_bytes)
    fill_log(world)
    world.hold("write")
    before = dirty(world)
    for _ in range(2):
        assert [read_one(world, pgid) for pgid in clean] == ["new"] * len(clean)
        assert dirty(world) == before + HEALED_AT_ONCE
        assert world.log.buffer.room >= -HEALED_AT_ONCE * world.log.buffer.slot
    world.let_go()
    world.settle()
    assert dirty(world) <= 2
    world.disk.capacity = None
    world.serves_a_good_client()
    assert [read_one(world, pgid) for pgid in clean] == ["new"] * len(clean)
    world.log.buffer.settle(held)
    world.checkpoint()
    assert not world.panics
    assert world.data_file()[: BLOCKS * RECORDS_PER_BLOCK : RECORDS_PER_BLOCK] == ["new"] * BLOCKS


def test_a_log_that_is_full_can_be_made_shorter_though_more_damaged_pages_are_read_than_it_has_slots_for(
    make_world: Make,
) -> None:
    world = many_blocks(make_world, pool_pages=1, dirty_bytes=2 * PAGE_SIZE)
    client, held = Client(world), hold_redo_point(world)
    change_a_page_of_each_block(world, client, "new")
    for block in range(BLOCKS):
        poke(world, block * RECORDS_PER_BLOCK)
    world.storage.images.clear()  # as at the end of a checkpoint: each of them needs an image
    fill_log(world)
    for block in range(BLOCKS):
        assert read_one(world, block * RECORDS_PER_BLOCK) == "new"
    world.checkpoint()
    assert not world.panics
    world.log.buffer.settle(held)
    world.checkpoint()
    assert world.log.has_room
    world.serves_a_good_client()


def test_without_space_for_a_data_file_its_pages_stay_dirty_and_are_written_when_there_is_some(
    make_world: Make,
) -> None:
    world = make_world(4)
    client = Client(world)
    fill_disk(world)
    ref = client.append([page("x")] * 20)
    world.settle()
    client.written(ref)
    made = Client(world)
    checkpoint = world.next_ref()
    world.storage.checkpointer.tell(MakeCheckpoint(made.ref, checkpoint))
    world.pass_time(10.0)
    assert made.end(checkpoint) is None
    assert dirty(world) == 20
    assert world.data_file() == list("0123")
    assert everything(world) == world.durable() == [*"0123", *["x"] * 20]
    world.disk.capacity = None
    world.pass_time(5.0)
    assert made.end(checkpoint) is not None
    assert dirty(world) == 0
    assert world.data_file() == [*"0123", *["x"] * 20]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_pages_that_cannot_be_added_to_a_data_file_nor_taken_back_from_it_stay_dirty_until_there_is_space(
    make_world: Make, reason: int
) -> None:
    world = make_world(4, segment_bytes=8 * PAGE_SIZE)
    client, made = Client(world), Client(world)
    world.disk.faults += [
        Fault(error=reason, operation="pwritev", path=f"{PATH}.2"),
        Fault(error=reason, operation="ftruncate", path="base/*", forever=True),
    ]
    ref = client.append([page("x")] * 20)
    world.settle()
    client.written(ref)
    checkpoint = world.next_ref()
    world.storage.checkpointer.tell(MakeCheckpoint(made.ref, checkpoint))
    world.pass_time(10.0)
    assert made.end(checkpoint) is None
    assert world.data_file() == [*"0123", *["x"] * 4]  # of a segment: what is left of it cannot be cut
    assert dirty(world) == 20
    expected = [*"0123", *["x"] * 20]
    assert everything(world) == expected
    for policy in ("none", "all"):
        assert world.durable(policy) == expected
    world.disk.faults.clear()
    world.pass_time(5.0)
    assert made.end(checkpoint) is not None
    assert dirty(world) == 0
    assert world.data_file() == [*"0123", *["x"] * 4]
    world.serves_a_good_client()
    assert not world.panics


def test_a_bulk_append_that_can_neither_go_on_nor_be_taken_back_fails_and_leaves_nothing(make_world: Make) -> None:
    options = msgspec.structs.replace(SMALL, bulk_bytes=20 * PAGE_SIZE)
    world = make_world(4, options, segment_bytes=8 * PAGE_SIZE)
    client = Client(world)
    world.disk.faults += [
        Fault(error=errno.ENOSPC, operation="pwritev", path=f"{PATH}*", at=2, forever=True),
        Fault(error=errno.ENOSPC, operation="ftruncate", path="base/*", forever=True),
    ]
    ref = client.append([page("bulk")] * 40)
    world.pass_time(5.0)
    overwritten = client.write(0, [page("new")])
    world.pass_time(5.0)
    client.written(overwritten)
    expected = ["new", *"123"]
    assert everything(world) == expected
    for policy in ("none", "all"):
        assert world.durable(policy) == expected
    world.disk.faults.clear()
    world.pass_time(5.0)
    assert isinstance(client.error(ref), NoSpace)
    appended = client.append([page("x")] * 2)
    world.settle()
    client.written(appended)
    assert world.on_disk() == [*expected, "x", "x"]
    assert not world.panics


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_writing_resumes_by_itself_when_there_is_space(make_world: Make, reason: int) -> None:
    world = make_world(4, wal=TINY_LOG)
    client = Client(world)
    for path in ("base/*", "pfs_wal/xlogtemp.*"):
        world.disk.faults.append(Fault(error=reason, operation="pwritev", path=path, forever=True))
    done, refused = write_until_refused(world, client)
    assert isinstance(client.error(refused), NoSpace)
    for _ in range(3):
        again = client.append([page("y")] * 10)
        world.pass_time(3.0)
        assert isinstance(client.error(again), NoSpace)
    assert everything(world) == [*"0123", *["x"] * 10 * done]
    world.disk.faults.clear()
    world.pass_time(3.0)
    for _ in range(10):
        world.serves_a_good_client()
    assert world.on_disk()[: 4 + 10 * done] == [*"0123", *["x"] * 10 * done]
    assert not world.panics


def test_a_system_that_is_stopped_on_a_full_disk_has_everything_when_there_is_space_again(make_world: Make) -> None:
    world = make_world(4, wal=TINY_LOG)
    client = Client(world)
    fill_disk(world)
    done, _ = write_until_refused(world, client)
    expected = [*"0123", *["x"] * 10 * done]
    world.system.stop(timeout=5.0)
    image = world.disk.crash_image("none", Random(1))
    image.capacity = image._used()
    with pytest.raises(NoSpace):
        recovered(image, world.system_options)
    image.capacity = None
    assert recovered(image, world.system_options) == expected
