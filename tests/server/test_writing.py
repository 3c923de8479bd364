"""data_write and data_append through the messages: room, credits, order, durability, and what an end means."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from pfs.actors.checkpointer import MakeCheckpoint
from pfs.actors.requests import LARGEST_PGID, ServerOptions
from pfs.errors import (
    Cancelled,
    IdleTooLong,
    NoSpace,
    OutOfRange,
    PageIOError,
    RequestTooLarge,
    SystemFailed,
)
from pfs.protocol import (
    DataAppend,
    DataReadEnd,
    DataWrite,
    DataWriteEnd,
    Done,
    Empty,
    RequestFailed,
    Stop,
    StreamReady,
    Sync,
    Truncate,
)
from pfs.system import System, SystemOptions
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.shared_log import WalOptions
from tests.server.harness import (
    NAME,
    NEVER,
    PAGE_SIZE,
    PATH,
    SMALL,
    SMALL_LOG,
    Client,
    World,
    page,
    recovered,
    start,
    tags,
)

Make = Callable[..., World]


def roomy(pages: int, session: int | None = None, **others: object) -> ServerOptions:
    """Options with room for so many staged pages, in all and for a session."""
    return ServerOptions(
        chunk=4,
        block=2,
        credits=3,
        idle_seconds=others.get("idle_seconds", NEVER),  # type: ignore[arg-type]
        staging_bytes=pages * PAGE_SIZE,
        session_staging_bytes=(pages if session is None else session) * PAGE_SIZE,
    )


def everything(world: World) -> list[str]:
    reader = Client(world)
    ref = reader.read(0, world.state.page_count)
    world.settle()
    return tags(reader.whole(ref))


# -- the plain case


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17])
def test_a_write_of_n_pages_changes_those_n_pages_and_no_others(make_world: Make, n: int) -> None:
    world = make_world(20)
    client = Client(world)
    ref = client.write(2, [page(f"w{number}") for number in range(n)])
    world.settle()
    end = client.written(ref)
    assert (end.pgid, end.n) == (2, n)
    expected = list(map(str, range(20)))
    expected[2 : 2 + n] = [f"w{number}" for number in range(n)]
    assert everything(world) == expected
    assert world.on_disk() == expected


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_an_append_of_n_pages_makes_the_file_n_pages_longer(make_world: Make, n: int) -> None:
    world = make_world(3)
    client = Client(world)
    ref = client.append([page(f"a{number}") for number in range(n)])
    world.settle()
    assert client.written(ref).pgid == 3
    assert everything(world) == ["0", "1", "2", *(f"a{number}" for number in range(n))]


def test_the_first_append_makes_an_empty_file(make_world: Make) -> None:
    world = make_world()
    world.serves_a_good_client()
    assert world.state.page_count == 3


@pytest.mark.parametrize("seed", range(5))
def test_appends_of_many_clients_get_contiguous_disjoint_ranges(make_world: Make, seed: int) -> None:
    world = make_world(2, seed=seed)
    clients = [Client(world) for _ in range(8)]
    refs = [(client, client.append([page(f"{which}.{k}") for k in range(1 + which * 2)]), which)
            for which, client in enumerate(clients)]  # fmt: skip
    world.settle()
    ends = sorted((client.written(ref).pgid, 1 + which * 2, which) for client, ref, which in refs)
    assert [at for at, _, _ in ends] == [2 + sum(n for _, n, _ in ends[:before]) for before in range(len(ends))]
    expected = ["0", "1"] + [f"{which}.{k}" for _, n, which in ends for k in range(n)]
    assert everything(world) == expected


@pytest.mark.parametrize("seed", range(5))
def test_writes_that_overlap_take_effect_one_after_the_other(make_world: Make, seed: int) -> None:
    world = make_world(12, seed=seed)
    writers = [Client(world) for _ in range(5)]
    refs = [(writer, writer.write(which, [page(which)] * 8)) for which, writer in enumerate(writers)]
    world.settle()
    expected = list(map(str, range(12)))
    for which in [which for _, which in sorted((w.written(ref).lsn, which) for which, (w, ref) in enumerate(refs))]:
        expected[which : which + 8] = [str(which)] * 8
    assert everything(world) == expected
    assert world.durable() == expected


def test_writes_that_do_not_overlap_share_a_sync(make_world: Make) -> None:
    world = make_world(40)
    writers = [Client(world) for _ in range(10)]
    world.hold("sync")
    refs = [(writer, writer.write(which * 4, [page("x")] * 4)) for which, writer in enumerate(writers)]
    world.settle()
    world.let_go()
    for writer, ref in refs:
        writer.written(ref)
    assert world.calls.count("sync") <= 4


def test_one_client_can_have_many_requests_open(make_world: Make) -> None:
    world = make_world(10)
    client = Client(world)
    refs = [client.append([page(k)]) for k in range(10)] + [client.write(k, [page("w")]) for k in range(10)]
    reads = [client.read(k) for k in range(10)]
    world.settle()
    for ref in refs:
        client.written(ref)
    for ref in reads:
        client.whole(ref)
    assert world.state.page_count == 20


# -- credits and collecting


def test_a_writer_gets_credits_and_one_more_for_each_message_taken(make_world: Make) -> None:
    world = make_world()
    client = Client(world)
    ref = client.ask_for(DataAppend, 8)
    world.settle()
    [ready] = client.got(ref, StreamReady)
    assert (ready.credits, ready.block) == (SMALL.credits, SMALL.block)
    client.send(ref, (page(0), page(1)))
    world.settle()
    assert [each.n for each in client.got(ref, Empty)] == [1]
    for first in (2, 4, 6):
        client.send(ref, (page(first), page(first + 1)))
    world.settle()
    client.send_end(ref, 8)
    world.settle()
    client.written(ref)
    assert len(client.got(ref, Empty)) == 3, "after the last page there is nothing to give credit for"


def test_a_data_message_may_be_empty(make_world: Make) -> None:
    world = make_world()
    client = Client(world)
    ref = client.ask_for(DataAppend, 1)
    world.settle()
    client.send(ref, ())
    client.send(ref, (page("x"),))
    client.send_end(ref, 1)
    world.settle()
    client.written(ref)


def test_pages_are_copied_from_buffers_that_may_change_later(make_world: Make) -> None:
    world = make_world()
    client = Client(world)
    ref = client.ask_for(DataAppend, 2)
    world.settle()
    buffer = bytearray(page("before"))
    client.send(ref, (buffer, memoryview(buffer)))
    world.settle()
    buffer[:5] = b"after"
    client.send_end(ref, 2)
    world.settle()
    client.written(ref)
    assert everything(world) == ["before", "before"]


# -- room


def test_room_is_given_in_the_order_of_asking(make_world: Make) -> None:
    world = make_world(0, roomy(10))
    clients = [Client(world) for _ in range(4)]
    refs = [clients[0].ask_for(DataAppend, 6)]
    world.settle()
    for client, n in zip(clients[1:], (8, 2, 2), strict=True):
        refs.append(client.ask_for(DataAppend, n))
        world.settle()
    assert [bool(client.got(ref, StreamReady)) for client, ref in zip(clients, refs, strict=True)] == [
        True, False, False, False,
    ]  # fmt: skip
    clients[0].cancel(refs[0])
    world.settle()
    assert [bool(client.got(ref, StreamReady)) for client, ref in zip(clients, refs, strict=True)] == [
        True, True, True, False,
    ]  # fmt: skip
    clients[1].cancel(refs[1])
    world.settle()
    assert clients[3].got(refs[3], StreamReady)


def test_a_session_at_its_limit_holds_up_only_itself(make_world: Make) -> None:
    world = make_world(0, roomy(10, 4))
    greedy, modest = Client(world), Client(world)
    refs = [greedy.ask_for(DataAppend, n) for n in (3, 2, 1)]
    world.settle()
    other = modest.ask_for(DataAppend, 4)
    world.settle()
    assert modest.got(other, StreamReady)
    assert [bool(greedy.got(ref, StreamReady)) for ref in refs] == [True, False, False]
    greedy.cancel(refs[0])
    world.settle()
    assert [bool(greedy.got(ref, StreamReady)) for ref in refs[1:]] == [True, True]


@pytest.mark.parametrize("kind", ["write", "append"])
def test_a_write_larger_than_the_room_is_refused_at_once_naming_the_limit(make_world: Make, kind: str) -> None:
    world = make_world(50, roomy(10, 8))
    client = Client(world)
    ref = client.ask_for(DataWrite, 0, 9) if kind == "write" else client.ask_for(DataAppend, 9)
    world.settle()
    assert isinstance(client.error(ref), RequestTooLarge)
    assert str(8 * PAGE_SIZE) in str(client.error(ref))
    world.serves_a_good_client()


@pytest.mark.parametrize("how", ["cancel", "die", "wrong", "end", "stop", "idle"])
def test_room_comes_free_however_a_writer_ends(make_world: Make, how: str) -> None:
    world = make_world(0, roomy(4, idle_seconds=60.0 if how == "idle" else NEVER))
    first, second = Client(world), Client(world)
    ref = first.ask_for(DataAppend, 4)
    world.until(lambda: bool(first.got(ref, StreamReady)))
    first.send(ref, (page("lost"),))
    waiting = second.append([page("next")] * 4)
    world.settle()
    assert not second.got(waiting, StreamReady)
    match how:
        case "cancel":
            first.cancel(ref)
        case "die":
            first.die()
        case "wrong":
            first.send(ref, (page("x"), b"short"))
        case "end":
            first.send(ref, (page("x"),))
            first.send(ref, (page("x"), page("x")))
            first.send_end(ref, 4)
        case "stop":
            first.ask_for(Stop)
        case "idle":
            world.pass_time(100.0)
    world.settle()
    if how == "stop":
        assert "inactive" in str(second.error(waiting)) or "stopped" in str(second.error(waiting))
    else:
        second.written(waiting)
    assert world.stat().counters["staged_bytes"] == 0
    assert world.stat().counters["writes_waiting"] == 0


def test_an_idle_writers_reservation_lapses(make_world: Make) -> None:
    world = make_world(0, roomy(4, idle_seconds=60.0))
    client = Client(world)
    ref = client.ask_for(DataAppend, 4)
    world.until(lambda: bool(client.got(ref, StreamReady)))
    world.pass_time(200.0)
    assert isinstance(client.error(ref), IdleTooLong)
    assert "60 seconds" in str(client.error(ref))


def test_a_writer_that_waited_long_for_room_has_the_whole_idle_time_from_then_on(make_world: Make) -> None:
    world = make_world(0, roomy(4, idle_seconds=60.0))
    first, second = Client(world), Client(world)
    ref = first.ask_for(DataAppend, 4)
    world.until(lambda: bool(first.got(ref, StreamReady)))
    waiting = second.ask_for(DataAppend, 4)
    world.pass_time(200.0)
    assert isinstance(first.error(ref), IdleTooLong)
    ready_for = world.scheduler.now()
    assert second.got(waiting, StreamReady)
    world.until(lambda: second.end(waiting) is not None)
    assert world.scheduler.now() - ready_for < 200
    third = Client(world)
    slow = third.ask_for(DataAppend, 4)
    world.until(lambda: bool(third.got(slow, StreamReady)))
    for _ in range(4):
        world.pass_time(40.0)
        third.send(slow, (page("x"),))
    world.settle()
    third.send_end(slow, 4)
    world.settle()
    third.written(slow)


# -- ending half-way


@pytest.mark.parametrize("append", [False, True])
def test_what_a_dead_writer_had_sent_is_dropped(make_world: Make, append: bool) -> None:
    world = make_world(4)
    client = Client(world)
    ref = client.ask_for(DataAppend, 4) if append else client.ask_for(DataWrite, 0, 4)
    world.settle()
    client.send(ref, (page("x"), page("x")))
    world.settle()
    client.die()
    world.settle()
    assert everything(world) == list("0123")
    assert world.stat().counters["staged_bytes"] == 0
    world.serves_a_good_client()


def test_a_dead_clients_session_and_streams_are_gone(make_world: Make) -> None:
    world = make_world(100)
    streams = lambda: sum(entry["class"] == "Stream" for entry in world.scheduler.stats().values())  # noqa: E731
    client = Client(world, credit=False)
    client.read(0, 100)
    client.ask_for(DataAppend, 4)
    world.settle()
    assert streams() == 2
    sessions = world.stat().counters["sessions"]
    client.die()
    world.settle()
    assert streams() == 0
    assert world.stat().counters["sessions"] <= sessions


@pytest.mark.parametrize("held", ["sync"])
def test_a_write_that_is_being_applied_is_finished_though_its_client_cancels_or_dies(
    make_world: Make, held: str
) -> None:
    world = make_world(8, pool_pages=0)
    client, other = Client(world), Client(world)
    world.hold(held)
    ref = client.write(0, [page("x")] * 8)
    appended = other.append([page("y")] * 8)
    world.settle()
    client.cancel(ref)
    other.die()
    world.settle()
    assert client.end(ref) is None
    world.let_go()
    client.written(ref)
    assert world.state.page_count == 16, appended
    world.serves_a_good_client()


def test_a_cancelled_request_ends_once_with_cancelled(make_world: Make) -> None:
    world = make_world(100, roomy(4))
    client = Client(world, credit=False)
    parked = client.read(0, 100)
    queued = client.read(0, 1)
    collecting = client.ask_for(DataAppend, 4)
    waiting = client.ask_for(DataAppend, 4)
    world.until(lambda: bool(client.got(collecting, StreamReady)))
    world.settle()
    for ref in (parked, collecting, waiting):
        client.cancel(ref)
        client.cancel(ref)
    client.cancel(queued)
    client.cancel(12345)
    world.settle()
    for ref in (parked, collecting, waiting):
        assert isinstance(client.error(ref), Cancelled)
    assert isinstance(client.end(queued), DataReadEnd)


# -- durability


def test_a_write_is_durable_when_its_end_comes(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    ref = client.write(0, [page("x")] * 4)
    world.until(lambda: client.end(ref) is not None)
    assert world.durable() == ["x"] * 4
    world.settle()


def test_a_memory_write_is_acknowledged_without_a_sync_and_durable_after_one(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    world.hold("sync")
    ref = client.write(0, [page("x")] * 4, durability="memory")
    appended = client.append([page("y")], durability="memory")
    world.settle()
    client.written(ref)
    assert client.written(appended).pgid == 4
    assert everything(world) == ["x"] * 4 + ["y"]
    assert world.durable() == list("0123")
    synced = client.ask_for(Sync)
    world.settle()
    assert client.end(synced) is None
    world.let_go()
    assert client.end(synced) == Done(synced)
    assert world.durable() == ["x"] * 4 + ["y"]


def test_a_sync_that_comes_during_a_sync_gets_one_of_its_own(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    world.hold("sync")
    first = client.ask_for(Sync)
    world.settle()
    ref = client.write(0, [page("x")] * 4, durability="memory")
    world.settle()
    second = client.ask_for(Sync)
    world.settle()
    world.let_go()
    client.written(ref)
    assert client.end(first) == Done(first)
    assert client.end(second) == Done(second)
    assert world.durable() == ["x"] * 4


def test_a_memory_append_behind_a_disk_append_is_published_after_it(make_world: Make) -> None:
    world = make_world(1)
    client = Client(world)
    world.hold("sync")
    first = client.append([page("a")])
    world.settle()
    second = client.append([page("b")], durability="memory")
    world.settle()
    assert client.end(second) is None
    world.let_go()
    assert (client.written(first).pgid, client.written(second).pgid) == (1, 2)
    assert everything(world) == ["0", "a", "b"]


# -- truncation


def test_a_truncation_is_durable_when_done_and_later_appends_begin_there(make_world: Make) -> None:
    world = make_world(10)
    client = Client(world)
    ref = client.ask_for(Truncate, 4)
    world.settle()
    assert client.end(ref) == Done(ref)
    assert world.durable() == list("0123")
    appended = client.append([page("new")])
    world.settle()
    assert client.written(appended).pgid == 4
    assert everything(world) == [*"0123", "new"]


def test_a_truncation_waits_for_what_is_being_applied_and_holds_up_what_is_not(make_world: Make) -> None:
    world = make_world(8)
    client = Client(world)
    world.hold("sync")
    early = client.write(4, [page("early")] * 4)
    world.settle()
    cut = client.ask_for(Truncate, 4)
    world.settle()
    inside, outside = client.write(0, [page("in")] * 4), client.write(4, [page("out")] * 4)
    appended = client.append([page("new")])
    world.settle()
    assert [client.end(ref) for ref in (early, cut, inside, outside, appended)] == [None] * 5
    world.let_go()
    client.written(early)
    assert client.end(cut) == Done(cut)
    client.written(inside)
    assert isinstance(client.error(outside), OutOfRange)
    assert client.written(appended).pgid == 4
    assert everything(world) == ["in"] * 4 + ["new"]


def test_many_writes_that_a_truncation_has_made_wrong_all_fail_each_alone(make_world: Make) -> None:
    world = make_world(8, seed=3)
    client = Client(world)
    world.hold("sync")
    early = client.write(0, [page("early")])
    world.settle()
    cut, again = client.ask_for(Truncate, 4), client.ask_for(Truncate, 2)
    refs = [client.write(4, [page("x")]) for _ in range(1500)]
    world.settle()
    assert all(client.end(ref) is None for ref in (cut, again, refs[0], refs[-1]))
    world.let_go()
    client.written(early)
    assert client.end(cut) == Done(cut)
    assert client.end(again) == Done(again)
    ends = {message.ref: message for message in client.messages if type(message) is RequestFailed}
    assert all(isinstance(ends[ref].error, OutOfRange) for ref in refs)
    world.serves_a_good_client()


def test_a_truncation_that_an_earlier_one_has_made_wrong_fails(make_world: Make) -> None:
    world = make_world(8)
    client = Client(world)
    world.hold("sync")
    early = client.write(0, [page("early")])
    world.settle()
    cut = client.ask_for(Truncate, 2)
    wrong = [client.ask_for(Truncate, 4) for _ in range(1500)]
    held = client.append([page("held")])
    world.settle()
    world.let_go()
    assert client.end(cut) == Done(cut)
    assert all(isinstance(client.error(ref), OutOfRange) for ref in (wrong[0], wrong[-1]))
    assert client.written(early).n == 1
    assert client.written(held).pgid == 2


def test_reads_of_what_is_cut_off_fail_and_others_go_on(make_world: Make) -> None:
    world = make_world(40)
    reader = Client(world, credit=False)
    inside, across = reader.read(0, 20), reader.read(10, 30)
    world.settle()
    cut = Client(world).ask_for(Truncate, 20)
    world.settle()
    assert "cut off" in str(reader.error(across)), cut
    while reader.end(inside) is None:
        world.settle()
        reader.give_credit(inside, len(reader.owed[inside]))
    world.settle()
    assert tags(reader.whole(inside)) == list(map(str, range(20)))


def test_a_read_from_disk_of_what_is_cut_off_meanwhile_fails(make_world: Make) -> None:
    world = make_world(8)
    reader = Client(world)
    world.hold("read")
    ref = reader.read(4, 4)
    world.settle()
    cut = reader.ask_for(Truncate, 4)
    world.settle()
    assert reader.end(cut) == Done(cut)
    reader.error(ref)
    appended = reader.append([page("new")] * 4)
    world.let_go()
    reader.written(appended)
    assert everything(world) == [*"0123", *["new"] * 4]


@pytest.mark.parametrize("n", [-1, 11, True, 3.0, None, "3", 1 << 63])
def test_a_wrong_truncation_changes_nothing(make_world: Make, n: object) -> None:
    world = make_world(10)
    client = Client(world)
    ref = client.ask_for(Truncate, n)
    world.settle()
    client.error(ref)
    assert world.state.page_count == 10
    world.serves_a_good_client()


# -- no space


# -- a disk that fails


def test_a_page_that_cannot_be_read_fails_its_request_and_its_neighbours_are_served(make_world: Make) -> None:
    world = make_world(8, pool_pages=0)

    def broken(operation: object) -> None:
        world.scheduler.file_call(operation)
        assert hasattr(operation, "name")
        offset, length = operation.offset, operation.length  # type: ignore[attr-defined]
        if operation.name in ("preadv", "preadv_nowait") and offset <= 3 * PAGE_SIZE < offset + length:
            raise OSError(errno.EIO, "broken", operation.path)  # type: ignore[attr-defined]

    world.disk.on_operation = broken
    client, other = Client(world), Client(world)
    refs = [client.read(0, 8), *(other.read(k) for k in range(8))]
    world.settle()
    assert isinstance(client.error(refs[0]), PageIOError)
    for number, ref in enumerate(refs[1:]):
        if number == 3:
            assert isinstance(other.error(ref), PageIOError)
            assert PATH in str(other.error(ref))
        else:
            assert tags(other.whole(ref)) == [str(number)]
    written = client.write(2, [page("x")] * 3)
    world.settle()
    client.written(written)
    world.disk.on_operation = world.scheduler.file_call
    assert everything(world) == [*"01", *"xxx", *"567"]
    world.serves_a_good_client()


# -- limits


def test_an_append_past_the_largest_page_number_is_refused(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    ref = client.ask_for(DataAppend, LARGEST_PGID)
    world.settle()
    assert isinstance(client.error(ref), RequestTooLarge)
    assert str(LARGEST_PGID + 1) in str(client.error(ref))


# -- the log


def logged(world: World, client: Client, n: int) -> list[int]:
    """So many writes of 4 pages that have been committed and wait for the log."""
    refs = [client.write(0, [page(k)] * 4) for k in range(n)]
    world.settle()
    return refs


def test_nothing_is_acknowledged_nor_seen_before_the_log_is_durable(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    world.hold("sync")
    ref = client.write(0, [page("x")] * 4)
    world.settle()
    assert client.end(ref) is None
    assert everything(world) == list("0123")
    world.let_go()
    client.written(ref)
    assert everything(world) == ["x"] * 4


def test_many_writers_share_a_sync(make_world: Make) -> None:
    world = make_world(4)
    clients = [Client(world) for _ in range(16)]
    world.hold("sync")
    refs = [(client, client.append([page("x")])) for client in clients]
    world.settle()
    before = world.calls.count("sync")
    world.let_go()
    for client, ref in refs:
        client.written(ref)
    assert before == 1
    assert world.calls.count("sync") <= 3


def two_writers_at_a_slow_disk(world: World) -> tuple[Client, Client, int]:
    """One writer has just been told, after a sync that took a second; the other one's write came meanwhile."""
    one, other = Client(world), Client(world)
    world.hold("sync")
    first = one.write(0, [page("a")])
    world.settle()
    second = other.write(1, [page("b")])
    world.pass_time(1.0)
    assert world.calls.count("sync") == 1
    world.held.clear()
    world.until(lambda: one.end(first) is not None)
    return one, other, second


PATIENT = msgspec.structs.replace(SMALL_LOG, commit_delay=0.005)


def test_the_next_batch_waits_for_who_was_told_just_now_if_it_is_to(make_world: Make) -> None:
    syncs = []
    for seed in range(10):
        world = make_world(4, seed=seed, wal=PATIENT)
        one, other, second = two_writers_at_a_slow_disk(world)
        third = one.write(2, [page("c")])
        world.settle()
        other.written(second)
        one.written(third)
        syncs.append(world.calls.count("sync"))
    assert syncs.count(2) > 6, syncs  # in the others the clock leapt


def test_no_batch_waits_by_default(make_world: Make) -> None:
    for seed in range(10):
        world = make_world(4, seed=seed)
        one, other, second = two_writers_at_a_slow_disk(world)
        third = one.write(2, [page("c")])
        world.settle()
        other.written(second)
        one.written(third)
        assert world.calls.count("sync") == 3


def test_the_next_batch_does_not_wait_long_for_who_does_not_come(make_world: Make) -> None:
    world = make_world(4, wal=PATIENT)
    _, other, second = two_writers_at_a_slow_disk(world)
    begin = world.scheduler.now()
    world.until(lambda: other.end(second) is not None)
    assert world.calls.count("sync") == 2
    assert world.scheduler.now() - begin < 1.5  # the clock leaps by up to a second


def test_commits_take_effect_in_their_order_in_the_log(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    refs = logged(world, client, 6)
    ends = sorted((client.written(ref).lsn, k) for k, ref in enumerate(refs))
    assert everything(world) == [str(ends[-1][1])] * 4
    assert len({lsn for lsn, _ in ends}) == 6


def test_a_log_without_descriptors_for_long_costs_only_time(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    shortages = [
        Fault(errno.EMFILE, operation=operation, path=path, at=at)
        for operation, path in (("open", "pfs_wal/0*"), ("rename", "pfs_wal/*"), ("sync_directory", "pfs_wal"))
        for at in range(1, 80)
    ]
    world.disk.faults = list(shortages)
    refs = []
    for number in range(60):
        refs += logged(world, client, 5)
        if number % 10 == 9:
            made = world.next_ref()
            world.storage.checkpointer.tell(MakeCheckpoint(client.ref, made))
            refs.append(made)
    world.scheduler.run(until=lambda: all(client.end(ref) is not None for ref in refs))
    assert not world.panics
    struck = {fault.operation for fault in shortages if fault.struck}
    assert struck == {"open", "rename", "sync_directory"}
    world.disk.faults = []
    world.serves_a_good_client()


@pytest.mark.parametrize("operation", ["pwritev", "fdatasync"])
def test_a_log_that_cannot_be_written_or_synced_ends_the_system_and_nothing_is_acknowledged(
    make_world: Make, operation: str
) -> None:
    world = make_world(20)
    writer, reader, waiter = Client(world), Client(world, credit=False), Client(world)
    parked, collecting = reader.read(0, 20), waiter.ask_for(DataAppend, 4)
    world.settle()
    world.disk.faults.append(Fault(error=errno.EIO, operation=operation, path="pfs_wal/*"))
    refs = [writer.write(0, [page("x")] * 4), writer.append([page("y")] * 4)]
    world.settle()
    assert world.panics
    for client, ref in [*((writer, ref) for ref in refs), (reader, parked), (waiter, collecting)]:
        assert isinstance(client.error(ref), SystemFailed)
    written = len([entry for entry in world.disk.journal if entry.operation.name in ("pwritev", "fdatasync")])
    later = Client(world)
    refused = [later.read(0), later.append([page("z")]), later.ask_for(Sync), later.ask_for(Truncate, 1)]
    world.settle()
    for ref in refused:
        assert isinstance(later.error(ref), SystemFailed)
    assert written == len([each for each in world.disk.journal if each.operation.name in ("pwritev", "fdatasync")])
    assert world.durable("all")[4:20] == list(map(str, range(4, 20)))


def test_without_space_for_a_segment_writes_fail_reads_go_on_and_later_there_is_space(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    for path in ("pfs_wal/xlogtemp.*", "base/*"):  # if only the log had no space, checkpoints would make some
        world.disk.faults.append(Fault(error=errno.ENOSPC, operation="pwritev", path=path, forever=True))
    refs = []
    for _ in range(30):
        refs.append(client.append([page("x")] * 20))
        world.pass_time(3.0)
    ends = [client.end(ref) for ref in refs]
    done = [end for end in ends if type(end) is DataWriteEnd]
    failed = [ref for ref, end in zip(refs, ends, strict=True) if type(end) is not DataWriteEnd]
    assert done
    assert failed
    assert all(isinstance(client.error(ref), NoSpace) for ref in failed)
    expected = [*"0123", *["x"] * 20 * len(done)]
    assert everything(world) == expected
    assert world.durable() == expected
    world.disk.faults.clear()
    world.serves_a_good_client()


def test_a_write_larger_than_the_whole_log_fails_and_the_next_one_does_not(make_world: Make) -> None:
    world = make_world(0, wal=msgspec.structs.replace(SMALL_LOG, segment_bytes=4096, most_bytes=4096))
    client = Client(world)
    ref = client.append([page("x")] * 100)
    world.settle()
    assert isinstance(client.error(ref), NoSpace)
    assert "most_bytes" in str(client.error(ref))
    for _ in range(20):
        world.serves_a_good_client()


def test_data_files_without_space_keep_their_pages_in_memory_until_there_is_some(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    ref = client.append([page("x")] * 8)
    world.settle()
    client.written(ref)
    world.disk.faults.append(Fault(error=errno.ENOSPC, operation="pwritev", path="base/*", forever=True))
    made = world.next_ref()
    world.storage.checkpointer.tell(MakeCheckpoint(client.ref, made))
    world.settle()
    assert client.end(made) is None
    assert everything(world) == [*"0123", *["x"] * 8]
    assert world.durable() == [*"0123", *["x"] * 8]
    assert not world.panics
    world.disk.faults.clear()
    world.pass_time(5.0)
    assert client.end(made) is not None
    assert world.data_file() == [*"0123", *["x"] * 8]


def test_a_log_that_grows_is_checkpointed_and_stays_within_its_limit(make_world: Make) -> None:
    world = make_world(4, wal=msgspec.structs.replace(SMALL_LOG, checkpoint_bytes=100 << 10, most_bytes=512 << 10))
    client = Client(world)
    for k in range(100):
        ref = client.write(0, [page(k)] * 4)
        appended = client.append([page(k)] * 20)
        world.until(lambda ref=ref, appended=appended: bool(client.end(ref) and client.end(appended)))
        client.written(ref)
    world.settle()
    assert world.storage.stats()["checkpoints"] >= 5
    segments = [path for path in world.disk.durable_files if path.startswith("pfs_wal/")]
    assert len(segments) * (64 << 10) <= (512 << 10) + 3 * (64 << 10)
    assert world.log.fill_ratio <= 1.0
    assert world.durable() == everything(world)


def test_a_log_is_checkpointed_after_a_time_if_anything_was_written(make_world: Make) -> None:
    world = make_world(4, wal=msgspec.structs.replace(SMALL_LOG, checkpoint_seconds=100.0))
    world.pass_time(1000.0)
    assert world.storage.stats()["checkpoints"] == 0
    client = Client(world)
    client.write(0, [page("x")] * 4)
    world.pass_time(1000.0)
    assert world.storage.stats()["checkpoints"] == 1
    assert world.data_file() == ["x"] * 4


def test_a_checkpoint_longer_than_the_time_between_two_is_waited_for_without_asking(make_world: Make) -> None:
    world = make_world(4, wal=msgspec.structs.replace(SMALL_LOG, checkpoint_seconds=0.01))
    client = Client(world)
    client.write(0, [page("x")] * 4)
    world.hold("write")
    world.pass_time(1.0)
    client.write(0, [page("y")] * 4)
    before = world.storage.checkpointer.reductions
    world.pass_time(100.0)
    assert world.storage.checkpointer.reductions - before < 10
    world.let_go()
    world.pass_time(1.0)
    assert world.storage.stats()["checkpoints"] == 2
    assert world.data_file() == ["y"] * 4


def test_more_dirty_pages_than_wanted_are_written_back_without_a_checkpoint(make_world: Make) -> None:
    world = make_world(4, dirty_bytes=16 * PAGE_SIZE)
    client = Client(world)
    for _ in range(10):
        client.append([page("x")] * 10)
        world.settle()
    stats = world.storage.stats()
    assert stats["checkpoints"] == 0
    assert stats["dirty_bytes"] <= 16 * PAGE_SIZE
    assert stats["pages_written_back"] >= 80
    assert everything(world) == [*"0123", *["x"] * 100]


def test_pages_reach_the_data_file_only_after_their_log(make_world: Make) -> None:
    world = make_world(4, dirty_bytes=0)
    client = Client(world)
    world.hold("sync")
    ref = client.write(0, [page("x")] * 4, durability="memory")
    world.settle()
    client.written(ref)
    assert world.data_file() == list("0123")
    synced = client.ask_for(Sync)
    world.let_go()
    assert client.end(synced) == Done(synced)
    world.checkpoint()
    assert world.data_file() == ["x"] * 4


def test_a_truncation_that_a_checkpoint_overtakes_is_not_forgotten(make_world: Make) -> None:
    world = make_world(10)
    client = Client(world)
    world.hold("truncate")
    cut = client.ask_for(Truncate, 4)
    world.settle()
    assert client.end(cut) is None
    world.storage.checkpointer.tell(MakeCheckpoint(None))
    world.settle()
    assert world.durable() == list("0123")
    world.let_go()
    assert client.end(cut) == Done(cut)


def test_a_clean_stop_leaves_nothing_to_replay(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    client.append([page("x")] * 30)
    world.settle()
    world.stop()
    again = start(world.disk, SimulatedScheduler(5), world.system_options)
    assert (again._storage.started.transactions, again._storage.started.pages) == (0, 0)
    again.stop()


def test_a_start_after_a_power_cut_leaves_the_durable_log_alone(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    ref = client.write(0, [page("x")] * 4)
    world.settle()
    client.written(ref)
    image = world.disk.crash_image("none", Random(1))
    assert recovered(image, world.system_options) == ["x"] * 4
    writes = [entry.operation for entry in image.journal if entry.operation.name == "pwritev"]
    offsets = [each.offset for each in writes if each.path.endswith("000000010000000000000001")]
    assert offsets
    assert min(offsets) >= world.log.buffer.flushed % (64 << 10)


def test_old_pages_that_only_the_disk_has_are_read_before_they_are_overwritten(make_world: Make) -> None:
    world = make_world(20, pool_pages=0)
    reader, writer = Client(world, credit=False), Client(world)
    ref = reader.read(0, 20)
    world.settle()
    written = writer.write(0, [page("new")] * 20)
    world.settle()
    writer.written(written)
    while reader.end(ref) is None:
        world.settle()
        reader.give_credit(ref, len(reader.owed[ref]))
    world.settle()
    assert tags(reader.whole(ref)) == list(map(str, range(20)))


@pytest.mark.parametrize("what", ["open", "rename", "drop"])
def test_a_change_of_names_that_fails_half_way_ends_the_system(make_world: Make, what: str) -> None:
    world = make_world(4)
    world.disk.faults.append(Fault(error=errno.EIO, operation="fdatasync", path="pfs_wal/*"))
    changes: dict[str, Callable[[], object]] = {
        "open": lambda: world.system.open("another"),
        "rename": lambda: world.system.rename(NAME, "renamed"),
        "drop": lambda: world.system.drop(NAME),
    }
    with pytest.raises(SystemFailed, match=r"could not sync 'pfs_wal"):
        changes[what]()
    with pytest.raises(SystemFailed):
        world.system.names()


def test_a_catalog_that_cannot_be_synced_at_a_checkpoint_ends_the_system(make_world: Make) -> None:
    world = make_world(4)
    world.disk.faults.append(Fault(error=errno.EIO, operation="fsync", path="pfs.catalog*"))
    world.system.open("another")
    with pytest.raises(SystemFailed, match=r"could not sync 'pfs\.catalog"):
        world.system.checkpoint()


def test_a_system_whose_log_fails_while_it_starts_is_not_there_and_leaves_nothing_open() -> None:
    # The first segment is made by recovery, the second by the first of the actors, while the others are started.
    disk = SimulatedFileSystem(faults=[Fault(errno.EIO, operation="fdatasync", path="pfs_wal/xlogtemp.*2")])
    scheduler = SimulatedScheduler(0)
    disk.make_condition, disk.on_operation = scheduler.condition, scheduler.file_call
    tiny = WalOptions(segment_bytes=4 << 10, most_bytes=32 << 10)
    with pytest.raises(SystemFailed, match="could not sync"):
        System(disk, SystemOptions(wal=tiny), runtime=scheduler)
    assert not disk.open_descriptors
    assert not scheduler.living
    scheduler = SimulatedScheduler(0)
    disk.make_condition, disk.on_operation = scheduler.condition, scheduler.file_call
    with System(disk, SystemOptions(wal=tiny), runtime=scheduler) as system:
        assert system.names() == []
