"""data_write and data_append through the messages: room, credits, order, durability, and what an end means."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest

from pfs.actors.requests import LARGEST_PGID, ServerOptions
from pfs.errors import (
    Cancelled,
    IdleTooLong,
    NoSpace,
    OutOfRange,
    PageIOError,
    ProtocolError,
    RequestTooLarge,
    ServerInactive,
    SystemFailed,
)
from pfs.protocol import (
    DataAppend,
    DataPages,
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
from pfs.testing.faults import Fault
from tests.server.harness import NEVER, PAGE_SIZE, PATH, SMALL, Client, World, page, tags

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
    assert client.written(ref) == DataWriteEnd(ref, 2, n, 1)
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


@pytest.mark.parametrize("held", ["read", "write", "sync"])
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


def test_a_collected_write_that_waits_for_one_that_overlaps_can_be_cancelled(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    world.hold("write")
    first, second = client.write(0, [page("a")] * 4), client.write(0, [page("b")] * 4)
    world.settle()
    assert client.end(first) is client.end(second) is None
    late = client.write(0, [page("c")] * 4)
    world.settle()
    ends = {}
    for ref in (first, second, late):
        client.cancel(ref)
    world.settle()
    world.let_go()
    ends = [type(client.end(ref)).__name__ for ref in (first, second, late)]
    assert sorted(ends) == ["DataWriteEnd", "RequestFailed", "RequestFailed"]
    assert len(set(everything(world))) == 1


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
    assert world.calls.count("sync") == 2
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
    world.hold("write")
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
    world.hold("write")
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


def test_an_append_without_space_changes_nothing_and_later_work_goes_on(make_world: Make) -> None:
    world = make_world(4, capacity_pages=12)
    client = Client(world)
    ref = client.append([page("x")] * 20)
    world.settle()
    assert isinstance(client.error(ref), NoSpace)
    assert world.on_disk() == list("0123")
    assert everything(world) == list("0123")
    again = client.append([page("y")] * 8)
    world.settle()
    assert client.written(again).pgid == 4
    assert everything(world) == [*"0123", *["y"] * 8]
    assert not world.panics


@pytest.mark.parametrize("seed", range(30))
def test_appends_that_run_out_of_space_together_all_end_and_leave_no_gap(make_world: Make, seed: int) -> None:
    world = make_world(2, seed=seed, capacity_pages=20)
    clients = [Client(world) for _ in range(5)]
    durabilities = ["disk", "memory"]
    refs = [
        (
            client,
            client.append([page(f"{which}.{k}") for k in range(3 + 3 * which)], durability=durabilities[which % 2]),
        )
        for which, client in enumerate(clients)
    ]
    world.settle()
    expected = ["0", "1"]
    done = sorted((client.end(ref).pgid, which) for which, (client, ref) in enumerate(refs)
                  if type(client.end(ref)) is DataWriteEnd)  # fmt: skip
    for pgid, which in done:
        assert pgid == len(expected)
        expected += [f"{which}.{k}" for k in range(3 + 3 * which)]
    for client, ref in refs:
        if type(client.end(ref)) is not DataWriteEnd:
            assert isinstance(client.error(ref), NoSpace)
    assert everything(world) == expected
    assert world.on_disk() == expected
    assert not world.panics
    world.disk.capacity = None
    world.serves_a_good_client()


def test_an_append_that_comes_while_failed_ones_are_being_undone_begins_where_they_began(make_world: Make) -> None:
    world = make_world(8)
    clients = [Client(world) for _ in range(3)]
    stuck = {"a", "b"}
    write = world.file.write

    def write_or_fail(block: int, pages: Sequence[bytes]) -> None:
        which = tags(pages)[0]
        world.scheduler.wait_until(
            lambda: which not in stuck, lambda: "what is held by the test" if which in stuck else "its turn"
        )
        if which == "a":
            raise NoSpace("the disk is full")
        write(block, pages)

    world.file.write = write_or_fail  # type: ignore[method-assign]
    first = clients[0].append([page("a")] * 4)
    world.settle()
    second = clients[1].append([page("b")] * 4)
    world.settle()
    stuck.remove("a")
    world.settle()
    assert isinstance(clients[0].error(first), NoSpace)
    assert clients[1].end(second) is None
    third = clients[2].append([page("c")] * 2)
    world.settle()
    stuck.clear()
    world.settle()
    assert isinstance(clients[1].error(second), NoSpace)
    assert clients[2].written(third).pgid == 8
    assert everything(world) == [*"01234567", "c", "c"]
    assert world.on_disk() == [*"01234567", "c", "c"]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_overwrite_without_space_puts_the_old_pages_back(make_world: Make, at: int) -> None:
    world = make_world(16, pool_pages=0)
    client = Client(world)
    world.disk.faults.append(Fault(error=errno.ENOSPC, operation="pwritev", at=at))
    ref = client.write(0, [page("x")] * 16)
    other = client.write(2, [page("y")] * 2)
    world.settle()
    ends = sorted(type(client.end(each)).__name__ for each in (ref, other))
    assert ends == ["DataWriteEnd", "RequestFailed"]
    expected = list(map(str, range(16)))
    if type(client.end(other)) is DataWriteEnd:
        assert isinstance(client.error(ref), NoSpace)
        expected[2:4] = ["y", "y"]
    else:
        expected = ["x"] * 16
    assert everything(world) == expected
    assert world.on_disk() == expected
    assert not world.panics
    world.serves_a_good_client()


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
    assert isinstance(client.error(written), PageIOError), "the old page would be lost to readers"
    world.disk.on_operation = world.scheduler.file_call
    assert everything(world) == list("01234567")
    world.serves_a_good_client()


@pytest.mark.parametrize("where", [0, 4, 8])
def test_an_overwrite_whose_later_old_page_cannot_be_read_leaves_all_as_it_was(make_world: Make, where: int) -> None:
    world = make_world(12, pool_pages=0)
    client = Client(world)
    world.disk.faults.append(Fault(error=errno.EIO, operation="preadv", at=1 + where // 4, forever=True))
    ref = client.write(0, [page("x")] * 12)
    world.settle()
    assert isinstance(client.error(ref), PageIOError)
    world.disk.faults.clear()
    assert everything(world) == list(map(str, range(12)))
    assert world.on_disk() == list(map(str, range(12)))
    world.serves_a_good_client()


@pytest.mark.parametrize("operation", ["pwritev", "fdatasync"])
def test_a_write_or_sync_that_fails_is_the_end_of_the_system(make_world: Make, operation: str) -> None:
    world = make_world(20)
    writer, reader, caller, waiter = Client(world), Client(world, credit=False), Client(world), Client(world)
    parked = reader.read(0, 20)
    collecting = waiter.ask_for(DataAppend, 4)
    world.settle()
    world.hold("write")
    refs = [writer.write(0, [page("x")] * 4), writer.append([page("y")] * 4)]
    world.settle()
    calls = [caller.ask_for(Sync), caller.ask_for(Truncate, 3), caller.ask_for(Stop)]
    world.settle()
    world.disk.faults.append(Fault(error=errno.EIO, operation=operation))
    world.let_go()
    assert len(world.panics) >= 1
    for client, ref in [(writer, ref) for ref in refs] + [(caller, ref) for ref in calls]:
        assert isinstance(client.error(ref), SystemFailed)
    # The Stop had ended these before the disk failed.
    assert isinstance(reader.error(parked), ServerInactive)
    assert isinstance(waiter.error(collecting), ServerInactive)
    written = sum(entry.operation.name == "pwritev" for entry in world.disk.journal)
    later = Client(world)
    refused = [
        later.read(0),
        later.write(0, [page("z")]),
        later.append([page("z")]),
        *(later.ask_for(kind) for kind in (Sync, Stop)),
        later.ask_for(Truncate, 1),
    ]
    world.settle()
    for ref in refused:
        assert isinstance(later.error(ref), SystemFailed)
    assert sum(entry.operation.name == "pwritev" for entry in world.disk.journal) == written


# -- limits


def test_an_append_past_the_largest_page_number_is_refused(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    ref = client.ask_for(DataAppend, LARGEST_PGID)
    world.settle()
    assert isinstance(client.error(ref), RequestTooLarge)
    assert str(LARGEST_PGID + 1) in str(client.error(ref))


def test_data_after_the_end_fails_a_write_that_waits_and_no_write_twice(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    world.hold("write")
    first = client.write(0, [page("a")] * 4)
    world.settle()
    second = client.write(0, [page("b")] * 4)
    world.settle()
    for ref in (first, second):
        client.send(ref, (page("late"),), stream=client._streams[ref])
        client._streams[ref].tell(DataPages(ref, client._streams[ref], 0, (page("late"),)))
    world.settle()
    assert isinstance(client.error(second), ProtocolError)
    world.let_go()
    client.written(first)
    assert everything(world) == ["a"] * 4
