"""Whatever a client sends, it gets a clear error, nothing is lost, and the server still serves a good client.

The numbers in brackets are those of the list of black-box bad inputs, "Actor protocol".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import pytest

from pfs.actors.requests import ServerOptions
from pfs.errors import (
    Busy,
    InvalidRequest,
    OutOfRange,
    ProtocolError,
    RequestError,
    RequestTooLarge,
    ServerInactive,
    SessionEnded,
    WrongPageLength,
)
from pfs.protocol import (
    Cancel,
    DataAppend,
    DataPages,
    DataRead,
    DataReadEnd,
    DataWrite,
    Done,
    Empty,
    RequestFailed,
    Start,
    Stat,
    Stop,
    StreamEnd,
    StreamReady,
    Sync,
)
from tests.server.harness import PAGE_SIZE, Client, World, page, tags

Make = Callable[..., World]

BEFORE = list("01234567")


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(8)


def check_nothing_changed(world: World) -> None:
    """The file is as it was, and all clients that come are served."""
    reader = Client(world)
    ref = reader.read(0, world.state.page_count)
    world.settle()
    assert tags(reader.whole(ref)) == BEFORE
    assert world.on_disk() == BEFORE
    assert world.stat().counters["staged_bytes"] == 0
    world.serves_a_good_client()


WRONG_PGIDS = [-1, 1 << 63, 1 << 32, True, False, 1.0, "1", None, b"1", [], Ellipsis]


@pytest.mark.parametrize("pgid", WRONG_PGIDS, ids=repr)
@pytest.mark.parametrize("kind", ["read", "write"])
def test_56_a_page_number_that_can_never_be_right_is_refused(world: World, kind: str, pgid: Any) -> None:
    client = Client(world)
    ref = client.read(pgid, 1) if kind == "read" else client.ask_for(DataWrite, pgid, 1)
    world.settle()
    assert isinstance(client.error(ref), InvalidRequest)
    assert "pgid" in str(client.error(ref))
    check_nothing_changed(world)


@pytest.mark.parametrize("n", [0, -1, 10**12, True, 1.5, "2", None, {}], ids=repr)
@pytest.mark.parametrize("kind", ["read", "write", "append"])
def test_57_a_count_that_can_never_be_right_is_refused(world: World, kind: str, n: Any) -> None:
    client = Client(world)
    arguments = {"read": (DataRead, 0, n), "write": (DataWrite, 0, n), "append": (DataAppend, n)}[kind]
    ref = client.ask_for(*arguments)
    world.settle()
    assert isinstance(client.error(ref), InvalidRequest)
    assert repr(n) in str(client.error(ref))
    check_nothing_changed(world)


@pytest.mark.parametrize(("pgid", "n"), [(8, 1), (0, 9), (7, 2), (100, 1), (0, 1 << 31)])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_range_not_wholly_inside_the_file_is_refused_before_the_first_page(
    world: World, kind: str, pgid: int, n: int
) -> None:
    client = Client(world)
    ref = client.read(pgid, n) if kind == "read" else client.ask_for(DataWrite, pgid, n)
    world.settle()
    assert isinstance(client.error(ref), OutOfRange)
    assert "'triples'" in str(client.error(ref))
    assert "8 pages" in str(client.error(ref))
    assert not client.got(ref, (DataPages, StreamReady))
    check_nothing_changed(world)


@pytest.mark.parametrize("length", [0, PAGE_SIZE - 1, PAGE_SIZE + 1, 2 * PAGE_SIZE])
@pytest.mark.parametrize("append", [False, True])
def test_58_a_page_of_another_length_fails_its_write(world: World, length: int, append: bool) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, 2) if append else client.ask_for(DataWrite, 0, 2)
    world.settle()
    client.send(ref, (page("x"), b"x" * length))
    world.settle()
    assert isinstance(client.error(ref), WrongPageLength)
    assert str(length) in str(client.error(ref))
    assert str(PAGE_SIZE) in str(client.error(ref))
    check_nothing_changed(world)


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize(("announced", "sent", "end"), [(3, 2, 3), (3, 2, 2), (3, 3, 2), (3, 3, 4), (3, 0, 0),
                                                          (3, 3, True), (1, 1, True), (3, 3, 3.0)])  # fmt: skip
def test_59_an_end_that_does_not_agree_with_what_was_announced_and_came_changes_nothing(
    world: World, append: bool, announced: int, sent: int, end: Any
) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, announced) if append else client.ask_for(DataWrite, 0, announced)
    world.settle()
    for _ in range(sent):
        client.send(ref, (page("x"),))
    client.send_end(ref, end)
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    check_nothing_changed(world)


def test_59_more_pages_than_announced_fail_the_write(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataWrite, 0, 3)
    world.settle()
    client.send(ref, (page("x"),) * 2)
    client.send(ref, (page("x"),) * 2)
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    assert "4 pages came, 3 were announced" in str(client.error(ref))
    check_nothing_changed(world)


def test_60_a_second_end_never_makes_a_second_answer(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataWrite, 0, 2)
    world.settle()
    client.send(ref, (page("0"), page("1")))
    for _ in range(3):
        client.send_end(ref, 2)
    world.settle()
    assert client.end(ref) is not None
    client.send_end(ref, 2)
    world.settle()
    assert client.end(ref) is not None
    check_nothing_changed(world)


@pytest.mark.parametrize("pgid", [1, 7, -1, True, "0", 0.0])
def test_pages_that_do_not_follow_each_other_fail_their_write(world: World, pgid: Any) -> None:
    client = Client(world)
    ref = client.ask_for(DataWrite, 0, 2)
    world.settle()
    client.send(ref, (page("x"),), pgid=pgid)
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    check_nothing_changed(world)


def test_an_append_cannot_say_where_its_pages_go(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, 1)
    world.settle()
    client.send(ref, (page("x"),), pgid=0)
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    check_nothing_changed(world)


def test_61_two_writes_on_one_stream_are_told_apart(world: World) -> None:
    client = Client(world)
    first, second = client.ask_for(DataWrite, 0, 2), client.ask_for(DataWrite, 2, 2)
    world.settle()
    assert client.stream(first) is client.stream(second)
    for tag in "ab":
        client.send(first, (page(f"first {tag}"),))
        client.send(second, (page(f"second {tag}"),))
    client.send_end(second, 2)
    client.send_end(first, 2)
    world.settle()
    client.written(first)
    client.written(second)
    reader = Client(world)
    ref = reader.read(0, 4)
    world.settle()
    assert tags(reader.whole(ref)) == ["first a", "first b", "second a", "second b"]


def test_a_ref_in_use_is_refused_and_the_first_request_goes_on(world: World) -> None:
    client = Client(world, credit=False)
    ref = client.read(0, 8)
    world.settle()
    client.ask_for(DataAppend, 1, ref=ref)
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    client.messages.clear()
    client.give_credit(ref, len(client.owed[ref]))
    world.settle()
    assert isinstance(client.end(ref), DataReadEnd)
    check_nothing_changed(world)


@pytest.mark.parametrize("ref", [None, "1", True, 1.0, [], {}], ids=repr)
@pytest.mark.parametrize("kind", [DataRead, DataWrite, DataAppend])
def test_a_ref_that_is_no_int_is_refused(world: World, kind: Any, ref: Any) -> None:
    client = Client(world)
    numbers = (1,) if kind is DataAppend else (0, 1)
    world.server.tell(kind(ref, client.ref, *numbers))
    world.server.tell(Cancel(ref, client.ref))
    world.settle()
    [failed] = client.messages
    assert isinstance(failed.error, InvalidRequest)
    check_nothing_changed(world)


def test_62_a_request_of_a_dead_client_costs_nothing(world: World) -> None:
    client = Client(world)
    client.die()
    client.read(0, 8)
    client.append([page("x")])
    world.settle()
    assert world.stat().counters["sessions"] == 0
    check_nothing_changed(world)


@pytest.mark.parametrize("n", [0, -1, 4, 1 << 64, True, 1.0, None, "1"], ids=repr)
def test_63_credit_that_was_never_out_fails_the_read(world: World, n: Any) -> None:
    client = Client(world, credit=False)
    ref = client.read(0, 8)
    world.settle()
    client.owed[ref][0].tell(Empty(ref, n))
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    assert "credit" in str(client.error(ref))
    check_nothing_changed(world)


def test_63_a_writer_that_gives_itself_credit_is_found_out(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, 8)
    world.settle()
    client.send(ref, (page("x"),))
    client.stream(ref).tell(Empty(ref))
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    check_nothing_changed(world)


def test_data_without_credit_fails_the_write(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, 100)
    world.settle()
    stream = client.stream(ref)
    for _ in range(200):
        stream.tell(DataPages(ref, stream, None, ()))
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    assert "credit" in str(client.error(ref))
    check_nothing_changed(world)


def test_64_a_buffer_that_changes_after_it_was_sent_does_not_change_the_write(world: World) -> None:
    client = Client(world)
    buffer = bytearray(page("0"))
    ref = client.ask_for(DataWrite, 0, 1)
    world.settle()
    client.send(ref, [buffer])
    world.settle()
    buffer[:] = page("evil")
    client.send_end(ref, 1)
    world.settle()
    client.written(ref)
    check_nothing_changed(world)


class LiesAboutItsLength(bytes):
    def __len__(self) -> int:
        return PAGE_SIZE


class LiesAboutItsItems(tuple[bytes, ...]):
    def __len__(self) -> int:
        return 1


class RaisesOnUse:
    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"no {name} for you")

    def __len__(self) -> NoReturn:
        raise RuntimeError("no length for you")

    def __iter__(self) -> NoReturn:
        raise RuntimeError("no items for you")


EVIL_PAGES = [
    (LiesAboutItsLength(b"short"),),
    LiesAboutItsItems((page("x"),) * 100),
    (page("x"),) * 3,
    ("x" * PAGE_SIZE,),
    (None,),
    (7,),
    (RaisesOnUse(),),
    RaisesOnUse(),
    page("x"),
    iter([page("x")]),
    None,
    5,
    {0: page("x")},
]


@pytest.mark.parametrize("pages", EVIL_PAGES, ids=lambda pages: type(pages).__name__)
def test_65_pages_that_lie_or_are_none_fail_their_write(world: World, pages: Any) -> None:
    client = Client(world)
    ref = client.ask_for(DataWrite, 0, 4)
    world.settle()
    client.send(ref, pages)
    world.settle()
    assert isinstance(client.error(ref), (ProtocolError, WrongPageLength))
    check_nothing_changed(world)


def test_65_a_bytes_subclass_of_the_right_length_is_taken_as_the_bytes_it_holds(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataWrite, 0, 1)
    world.settle()
    client.send(ref, (LiesAboutItsLength(page("0")),))
    client.send_end(ref, 1)
    world.settle()
    client.written(ref)
    check_nothing_changed(world)


class Unknown(msgspec.Struct, frozen=True):
    ref: int
    client: Any


class OwnRead(DataRead, frozen=True):
    """A subclass may be anything."""


def test_66_a_message_that_nobody_knows_is_answered_if_it_says_whose_it_is(world: World) -> None:
    client = Client(world)
    world.server.tell(Unknown(5, client.ref))
    world.server.tell(OwnRead(6, client.ref, 0, 1))
    world.settle()
    for ref in (5, 6):
        assert isinstance(client.error(ref), ProtocolError)
    assert "Unknown" in str(client.error(5))
    check_nothing_changed(world)


FROM_NOBODY = [
    None, 5, "DataRead", {"command": "data_read"}, RaisesOnUse(), Unknown(1, "me"), StreamEnd(1, 1), Empty(1),
    DataPages(1, None, 0, ()),
]  # fmt: skip


@pytest.mark.parametrize("message", FROM_NOBODY, ids=lambda message: type(message).__name__)
def test_66_a_message_from_nobody_is_counted_and_dropped(world: World, message: Any) -> None:
    before = world.stat().counters["dropped"]
    world.server.tell(message)
    world.settle()
    assert world.stat().counters["dropped"] == before + 1
    check_nothing_changed(world)


def test_66_an_ask_with_an_unknown_message_is_answered_with_the_error(world: World) -> None:
    future = world.server.ask("what is this?", block=False)
    world.settle()
    assert isinstance(future.get().error, ProtocolError)


@pytest.mark.parametrize("kind", [DataRead, DataWrite, DataAppend, Sync, Stat, Cancel])
@pytest.mark.parametrize("client", [None, 5, "me", [], {}, RaisesOnUse(), object], ids=lambda c: type(c).__name__)
def test_a_client_that_cannot_be_told_anything_is_dropped(world: World, kind: Any, client: Any) -> None:
    numbers = {DataRead: (0, 1), DataWrite: (0, 1), DataAppend: (1,)}.get(kind, ())
    world.server.tell(kind(1, client, *numbers))
    world.settle()
    check_nothing_changed(world)


class BrokenAddress:
    """An address that cannot be told anything, though it says that it can."""

    def tell(self, message: object) -> NoReturn:
        raise RuntimeError("its event loop is closed")

    def is_alive(self) -> bool:
        return True


@pytest.mark.leaks_allowed("the looks at a foreign address go on until the scheduler stops")
def test_an_address_that_raises_costs_only_its_own_requests(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broken = BrokenAddress()
    client = Client(world)
    for message in (DataRead(1, broken, 0, 8), DataRead(2, broken, 9, 9), DataAppend(3, broken, 1)):
        world.server.tell(message)
    ref = client.read(0, 8, to=broken)
    world.until(lambda: client.end(ref) is not None)
    assert isinstance(client.error(ref), SessionEnded)
    own = client.read(0, 8)
    world.until(lambda: client.end(own) is not None)
    assert not world.panics
    assert "could not be told" in caplog.text


@pytest.mark.parametrize("to", [5, "consumer", [], RaisesOnUse()], ids=lambda to: type(to).__name__)
def test_a_consumer_that_cannot_be_told_anything_is_refused(world: World, to: Any) -> None:
    client = Client(world)
    ref = client.read(0, 1, to=to)
    world.settle()
    assert isinstance(client.error(ref), InvalidRequest)
    check_nothing_changed(world)


@pytest.mark.parametrize("chunk", [0, -1, True, 2.0, "4", 1 << 40], ids=repr)
def test_a_chunk_that_can_never_be_right_is_refused(world: World, chunk: Any) -> None:
    client = Client(world)
    ref = client.read(0, 1, chunk=chunk)
    world.settle()
    assert isinstance(client.error(ref), InvalidRequest)
    check_nothing_changed(world)


@pytest.mark.parametrize("durability", ["", "WAL", "disk", None, True, b"wal", []], ids=repr)
def test_a_durability_that_does_not_exist_is_refused(world: World, durability: Any) -> None:
    client = Client(world)
    refs = [
        client.ask_for(DataWrite, 0, 1, durability=durability),
        client.ask_for(DataAppend, 1, durability=durability),
    ]
    world.settle()
    for ref in refs:
        assert isinstance(client.error(ref), InvalidRequest)
    check_nothing_changed(world)


def test_67_an_append_at_the_largest_size_is_refused_naming_the_limit(world: World) -> None:
    client = Client(world)
    world.state.page_count = (1 << 32) - 2
    refs = [client.ask_for(DataAppend, 1), client.ask_for(DataAppend, 2)]
    world.settle()
    assert client.got(refs[0], StreamReady)
    assert isinstance(client.error(refs[1]), RequestTooLarge)
    assert str((1 << 32) - 1) in str(client.error(refs[1]))
    client.cancel(refs[0])
    world.settle()
    world.state.page_count = 8
    check_nothing_changed(world)


# -- messages on streams


def test_data_for_a_ref_that_no_stream_knows_is_answered(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, 1)
    world.settle()
    stream = client.stream(ref)
    for wrong in (999, None, [], "1"):
        stream.tell(DataPages(wrong, stream, None, (page("x"),)))
        stream.tell(StreamEnd(wrong, 1))
        stream.tell(Empty(wrong))
    stream.tell("nonsense")
    world.settle()
    failures = [each for each in client.messages if type(each) is RequestFailed]
    assert len(failures) == 8
    assert all(isinstance(each.error, ProtocolError) for each in failures)
    client.cancel(ref)
    world.settle()
    check_nothing_changed(world)


def test_a_data_message_that_names_another_stream_fails_its_write(world: World) -> None:
    client = Client(world)
    ref = client.ask_for(DataAppend, 1)
    world.settle()
    client.stream(ref).tell(DataPages(ref, client.ref, None, (page("x"),)))
    world.settle()
    assert isinstance(client.error(ref), ProtocolError)
    check_nothing_changed(world)


def test_a_client_that_sends_on_the_stream_of_its_own_read_spoils_only_that_read(world: World) -> None:
    client, other = Client(world, credit=False), Client(world)
    spoilt = client.read(0, 8)
    world.settle()
    stream = client.owed[spoilt][0]
    stream.tell(StreamEnd(spoilt, 1))
    client.give_credit(spoilt, 3)
    world.settle()
    for _ in range(3):
        stream.tell(DataPages(spoilt, stream, 0, ()))
    world.settle()
    failed = [each for each in client.got(spoilt) if type(each) is RequestFailed]
    assert len(failed) == 1
    ref = other.read(0, 8)
    world.settle()
    other.whole(ref)
    check_nothing_changed(world)


@pytest.mark.parametrize("which", ["read", "write"])
def test_a_client_that_kills_its_stream_loses_its_requests_there_and_gets_a_new_stream(
    world: World, which: str
) -> None:
    client = Client(world, credit=False)
    read = client.read(0, 8)
    write = client.ask_for(DataAppend, 1)
    world.settle()
    victim = client.owed[read][0] if which == "read" else client.stream(write)
    victim.kill()
    client.ask_for(Cancel, ref=12345)
    world.settle()
    lost, kept = (read, write) if which == "read" else (write, read)
    assert isinstance(client.error(lost), SessionEnded)
    assert client.end(kept) is None
    for ref in (read, write):
        client.cancel(ref)
    client.credit = True
    again, more = client.read(0, 8), client.write(0, [page("0")])
    world.settle()
    client.whole(again)
    client.written(more)
    check_nothing_changed(world)


def test_data_sent_before_its_stream_is_ready_ends_the_request_with_one_answer(make_world: Make) -> None:
    room = ServerOptions(chunk=4, block=2, credits=3, idle_seconds=1e12, staging_bytes=4 * PAGE_SIZE)
    world = make_world(8, room)
    first, hasty = Client(world), Client(world)
    held = first.ask_for(DataAppend, 3)
    known = hasty.ask_for(DataAppend, 1)
    world.settle()
    waiting = hasty.ask_for(DataAppend, 2)
    hasty.send(waiting, (page("x"),) * 2, stream=hasty.stream(known))
    hasty.send(waiting, (page("x"),) * 2, stream=hasty.stream(known))
    world.settle()
    failures = [type(each.error) for each in hasty.got(waiting, RequestFailed)]
    assert failures == [ProtocolError, ProtocolError], "one for the request, one for what came when there was none"
    first.cancel(held)
    hasty.cancel(known)
    world.settle()
    check_nothing_changed(world)


# -- states and limits


def test_a_client_with_too_many_open_requests_is_busy_and_others_are_not(make_world: Make) -> None:
    world = make_world(8, ServerOptions(chunk=4, block=2, credits=1, idle_seconds=1e12, session_requests=3))
    greedy, modest = Client(world, credit=False), Client(world)
    refs = [greedy.read(0, 8) for _ in range(3)]
    world.settle()
    refused = greedy.read(0, 1)
    ref = modest.read(0, 8)
    world.settle()
    assert isinstance(greedy.error(refused), Busy)
    assert "3" in str(greedy.error(refused))
    modest.whole(ref)
    greedy.cancel(refs[0])
    allowed = greedy.read(0, 1)
    world.settle()
    assert greedy.end(allowed) is not None
    check_nothing_changed(world)


def test_an_inactive_server_refuses_requests_until_it_is_started(world: World) -> None:
    client = Client(world, credit=False)
    parked, collecting = client.read(0, 8), client.ask_for(DataAppend, 1)
    world.settle()
    stopped = client.ask_for(Stop)
    world.settle()
    assert client.end(stopped) == Done(stopped)
    for ref in (parked, collecting):
        assert isinstance(client.error(ref), ServerInactive)
    refused = [client.read(0, 1), client.ask_for(DataAppend, 1), client.ask_for(DataWrite, 0, 1)]
    stat = client.ask_for(Stat)
    synced = client.ask_for(Sync)
    world.settle()
    for ref in refused:
        assert isinstance(client.error(ref), ServerInactive)
    assert client.end(stat).active is False
    assert client.end(synced) == Done(synced)
    again = client.ask_for(Stop)
    started = client.ask_for(Start)
    world.settle()
    assert client.end(again) == Done(again)
    assert client.end(started) == Done(started)
    check_nothing_changed(world)


def test_start_and_stop_without_a_client_are_obeyed_in_silence(world: World) -> None:
    world.server.tell(Stop())
    world.server.tell(Start())
    world.settle()
    check_nothing_changed(world)


@pytest.mark.parametrize("held", ["sync"])
def test_a_stop_is_done_when_what_is_being_applied_has_ended(make_world: Make, held: str) -> None:
    world = make_world(8, pool_pages=0)
    client = Client(world)
    world.hold(held)
    ref = client.write(0, [page("x")] * 8)
    world.settle()
    stopped = client.ask_for(Stop)
    world.settle()
    assert client.end(stopped) is None
    world.let_go()
    client.written(ref)
    assert client.end(stopped) == Done(stopped)


def test_stat_tells_what_the_server_has_done(world: World) -> None:
    client = Client(world)
    client.read(0, 8)
    client.append([page("x")] * 2)
    world.settle()
    stat = world.stat()
    assert (stat.name, stat.page_size, stat.page_count, stat.active) == ("triples", PAGE_SIZE, 10, True)
    counters = stat.counters
    assert counters["pages_read"] == 8
    assert counters["pages_written"] == 2
    assert counters["requests"] == 2
    assert counters["failed"] == 0
    assert counters["syncs"] == 0
    assert counters["version"] == 1
    future = world.server.ask(Stat(0, None), block=False)
    world.settle()
    assert future.get().page_count == 10


# -- the server's own end


@pytest.mark.parametrize("how", ["stop", "fail"])
def test_when_the_server_ends_every_request_is_answered_and_nothing_is_left(
    make_world: Make, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(8, pool_pages=0)
    client = Client(world, credit=False)
    world.hold("sync")
    refs = [client.read(0, 8), client.ask_for(DataAppend, 1), client.append([page("x")])]
    world.settle()
    refs += [client.ask_for(Sync), client.ask_for(Stop)]
    world.settle()
    refs = refs[2:]
    if how == "stop":
        world.server.stop(block=False)
    else:
        world.server._actor._handlers[Stat] = lambda message: 1 / 0
        world.server.tell(Stat(0, None))
    refs += [client.read(0, 1), client.ask_for(DataAppend, 1), client.ask_for(Sync)]
    world.settle()
    for ref in refs:
        assert isinstance(client.error(ref), SessionEnded if how == "stop" else Exception)
    assert not world.server.is_alive()
    assert len(world.panics) == (how == "fail")
    assert all(entry["class"] != "Stream" for entry in world.scheduler.stats().values())


WRONG_OPTIONS = [
    {"chunk": 0}, {"chunk": True}, {"block": 0}, {"credits": 0}, {"credits": 1.5}, {"session_requests": 0},
    {"staging_bytes": -1}, {"version_bytes": -1}, {"session_staging_bytes": None}, {"idle_seconds": 0},
    {"idle_seconds": float("nan")}, {"idle_seconds": True},
    {"read_idle_seconds": -1}, {"read_idle_seconds": "1"}, {"order": "lottery"},
]  # fmt: skip


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=repr)
def test_options_that_can_never_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        ServerOptions(**options)
