"""data_read through the messages: chunks, credits, consumers, and the one consistent cut."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from pfs.actors.requests import ServerOptions
from pfs.errors import Cancelled, IdleTooLong, OutOfRange, SessionEnded, SnapshotTooOld
from pfs.protocol import DataPages, DataReadEnd, RequestFailed, StreamEnd, Truncate
from tests.server.harness import NEVER, PAGE_SIZE, SMALL, Client, World, page, tags

Make = Callable[..., World]


def test_a_read_gets_its_pages_in_order_and_then_its_two_ends(make_world: Make) -> None:
    world = make_world(20)
    client = Client(world)
    ref = client.read(3, 11)
    world.settle()
    assert tags(client.whole(ref)) == [str(number) for number in range(3, 14)]
    kinds = [type(each) for each in client.got(ref)]
    assert kinds[-1] in (StreamEnd, DataReadEnd)
    data = client.got(ref, DataPages)
    assert [each.pgid for each in data] == [3, 5, 7, 9, 11, 13]
    assert kinds.index(StreamEnd) > max(at for at, kind in enumerate(kinds) if kind is DataPages)


@pytest.mark.parametrize("chunk", [1, 3, 4, None])
def test_each_turn_serves_at_most_a_chunk(make_world: Make, chunk: int | None) -> None:
    world = make_world(30)
    client = Client(world)
    ref = client.read(0, 30, chunk=chunk)
    world.settle()
    assert len(client.whole(ref)) == 30
    assert max(pages for _, _, pages in world.served) <= (chunk or SMALL.chunk)
    assert sum(pages for _, _, pages in world.served) == 30


def test_pages_that_are_in_memory_and_pages_on_disk_come_as_one_read(make_world: Make) -> None:
    world = make_world(10)
    client = Client(world)
    client.read(2, 1)
    client.read(5, 2)
    world.settle()
    ref = client.read(0, 10)
    world.settle()
    assert tags(client.whole(ref)) == [str(number) for number in range(10)]


def test_a_miss_by_two_readers_is_one_disk_read(make_world: Make) -> None:
    world = make_world(1)
    readers = [Client(world) for _ in range(5)]
    world.hold("read")
    refs = [reader.read(0) for reader in readers]
    world.settle()
    world.let_go()
    assert [tags(reader.whole(ref)) for reader, ref in zip(readers, refs, strict=True)] == [["0"]] * 5
    assert world.calls.count("read") == 1


def test_what_the_kernel_has_cached_is_read_without_a_worker(make_world: Make) -> None:
    world = make_world(6, page_cache="warm")
    client = Client(world)
    ref = client.read(0, 6)
    world.settle()
    assert tags(client.whole(ref)) == list("012345")
    assert "read" not in world.calls


def test_a_pool_that_holds_nothing_serves_all_the_same(make_world: Make) -> None:
    world = make_world(20, pool_pages=0)
    client = Client(world)
    ref = client.read(0, 20)
    world.settle()
    assert tags(client.whole(ref)) == [str(number) for number in range(20)]


def test_two_reads_of_one_client_are_told_apart_by_their_refs(make_world: Make) -> None:
    world = make_world(40)
    client = Client(world)
    first, second = client.read(0, 20), client.read(20, 20)
    world.settle()
    assert tags(client.whole(first)) == [str(number) for number in range(20)]
    assert tags(client.whole(second)) == [str(number) for number in range(20, 40)]


# -- credits


def test_a_consumer_that_gives_no_credit_has_at_most_its_credits_in_its_inbox(make_world: Make) -> None:
    world = make_world(100)
    client = Client(world, credit=False)
    ref = client.read(0, 100)
    world.settle()
    assert len(client.got(ref, DataPages)) == SMALL.credits
    assert client.end(ref) is None
    client.give_credit(ref, 2)
    world.settle()
    assert len(client.got(ref, DataPages)) == SMALL.credits + 2


def test_a_parked_read_costs_nobody_a_turn(make_world: Make) -> None:
    world = make_world(100)
    parked = Client(world, credit=False)
    for _ in range(5):
        parked.read(0, 100)
    world.settle()
    assert world.stat().counters["ready"] == 0
    steps, turns = world.scheduler.steps, world.stat().counters["turns"]
    world.settle()
    assert world.scheduler.steps - steps < 10, "the server polls"
    world.served.clear()
    other = Client(world)
    ref = other.read(0, 1)
    world.settle()
    other.whole(ref)
    assert [client for client, _, _ in world.served] == [other.ref]
    assert world.stat().counters["turns"] - turns == 1


def test_a_parked_read_goes_on_where_it_was_when_credit_comes(make_world: Make) -> None:
    world = make_world(30)
    client = Client(world, credit=False)
    ref = client.read(0, 30)
    while client.end(ref) is None:
        world.settle()
        client.give_credit(ref, len(client.owed[ref]))
    world.settle()
    assert tags(client.whole(ref)) == [str(number) for number in range(30)]
    assert client.most_owed == SMALL.credits


def test_credit_that_comes_while_pages_are_being_loaded_is_kept(make_world: Make) -> None:
    world = make_world(30, ServerOptions(chunk=2, block=2, credits=2, idle_seconds=NEVER), pool_pages=0)
    client = Client(world, credit=False)
    ref = client.read(0, 12)
    world.until(lambda: len(client.got(ref, DataPages)) >= 1)
    world.hold("read")
    world.settle()
    client.give_credit(ref, 1)
    world.settle()
    world.let_go()
    assert len(client.got(ref, DataPages)) == 3


# -- another consumer than the client


def test_pages_go_to_the_consumer_and_the_end_to_the_client(make_world: Make) -> None:
    world = make_world(20)
    client, consumer = Client(world), Client(world)
    ref = client.read(0, 20, to=consumer.ref)
    world.settle()
    assert tags(consumer.pages(ref)) == [str(number) for number in range(20)]
    assert [type(each) for each in client.got(ref)] == [DataReadEnd]
    assert len(consumer.got(ref, StreamEnd)) == 1


def test_a_consumer_that_dies_ends_the_reads_for_it_and_no_others(make_world: Make) -> None:
    world = make_world(50)
    client, consumer = Client(world), Client(world, credit=False)
    doomed, own = client.read(0, 50, to=consumer.ref), client.read(0, 50)
    world.until(lambda: len(consumer.messages) > 0)
    consumer.die()
    world.settle()
    assert isinstance(client.error(doomed), SessionEnded)
    assert len(client.whole(own)) == 50
    world.serves_a_good_client()


def test_a_consumer_that_is_dead_already_fails_the_read(make_world: Make) -> None:
    world = make_world(5)
    client, consumer = Client(world), Client(world)
    consumer.die()
    ref = client.read(0, 5, to=consumer.ref)
    world.settle()
    assert isinstance(client.end(ref), (RequestFailed, DataReadEnd))
    assert isinstance(client.error(ref), SessionEnded)


@pytest.mark.parametrize("how", ["cancel", "die"])
def test_a_consumer_is_told_when_its_read_fails(make_world: Make, how: str) -> None:
    world = make_world(50)
    client, consumer = Client(world), Client(world, credit=False)
    ref = client.read(0, 50, to=consumer.ref)
    world.settle()
    client.cancel(ref) if how == "cancel" else client.die()
    world.settle()
    assert isinstance(consumer.error(ref), Cancelled if how == "cancel" else SessionEnded)
    assert type(consumer.messages[-1]) is RequestFailed


# -- consumers that give no credit for too long

PATIENT = msgspec.structs.replace(SMALL, read_idle_seconds=60.0)


def test_a_read_whose_consumer_gives_no_credit_is_given_up_and_its_old_pages_go(make_world: Make) -> None:
    world = make_world(20, PATIENT)
    reader, writer = Client(world, credit=False), Client(world)
    ref = reader.read(0, 20)
    world.settle()
    written = writer.write(0, [page("new")] * 20)
    world.settle()
    writer.written(written)
    assert world.stat().counters["old_version_bytes"] == 14 * PAGE_SIZE
    world.pass_time(59.0)
    assert reader.end(ref) is None
    world.pass_time(31.0)
    assert isinstance(reader.error(ref), IdleTooLong)
    assert "6 of 20 pages were sent, and then no credit came for 60 seconds" in str(reader.error(ref))
    assert world.stat().counters["old_version_bytes"] == 0
    assert not world.state._cuts
    reader.give_credit(ref, 3)  # too late, and of no account
    world.settle()
    assert len(reader.got(ref, DataPages)) == SMALL.credits
    world.serves_a_good_client()


def test_a_slow_consumer_has_the_whole_idle_time_for_each_credit(make_world: Make) -> None:
    world = make_world(20, PATIENT)
    reader = Client(world, credit=False)
    ref = reader.read(0, 20)
    while reader.end(ref) is None:
        world.pass_time(55.0)
        reader.give_credit(ref, 1)
        world.settle()
    assert tags(reader.whole(ref)) == list(map(str, range(20)))
    assert world.scheduler.now() > 5 * 55.0


def test_a_read_that_waits_for_a_slow_disk_is_not_idle(make_world: Make) -> None:
    world = make_world(20, PATIENT, pool_pages=0)
    reader = Client(world, credit=False)
    ref = reader.read(0, 12)
    world.settle()
    assert world.stat().counters["reads_without_credit"] == 1
    world.hold("read")
    reader.give_credit(ref, 3)
    world.pass_time(500.0)
    assert world.stat().counters["reads_without_credit"] == 0
    world.let_go()
    assert tags(reader.whole(ref)) == list(map(str, range(12)))


def test_another_consumer_that_gives_no_credit_is_told_as_well_as_the_client(make_world: Make) -> None:
    world = make_world(20, PATIENT)
    client, consumer = Client(world), Client(world, credit=False)
    ref = client.read(0, 20, to=consumer.ref)
    world.pass_time(100.0)
    assert isinstance(client.error(ref), IdleTooLong)
    assert isinstance(consumer.error(ref), IdleTooLong)


def test_reads_that_were_parked_later_are_given_up_later(make_world: Make) -> None:
    world = make_world(20, PATIENT)
    first, second = Client(world, credit=False), Client(world, credit=False)
    early, ended = first.read(0, 20), first.read(0, 20)
    world.pass_time(50.0)
    late = second.read(0, 20)
    world.settle()
    assert world.stat().counters["reads_without_credit"] == 3
    first.cancel(ended)
    world.settle()
    assert world.stat().counters["reads_without_credit"] == 2
    world.pass_time(45.0)
    assert isinstance(first.error(early), IdleTooLong)
    assert isinstance(first.error(ended), Cancelled)
    assert second.end(late) is None
    world.pass_time(60.0)
    assert isinstance(second.error(late), IdleTooLong)
    assert world.stat().counters["failed"] == 3


def test_a_thread_that_streams_slowly_gets_all_pages_with_the_options_that_nobody_set(make_world: Make) -> None:
    world = make_world(200, ServerOptions())
    got: list[bytes] = []

    def stream_slowly() -> None:
        for number, data in enumerate(world.page_file.stream()):
            got.append(data)
            if number % ServerOptions().block == 0:
                world.scheduler.wait_at_most(3000.0, lambda: False, lambda: "slow work")

    done = world.scheduler.spawn(stream_slowly, "slow")
    world.pass_time(100_000.0)
    assert done()
    assert tags(got) == list(map(str, range(200)))


def test_a_thread_that_leaves_a_stream_for_too_long_gets_what_had_come_and_then_the_error(make_world: Make) -> None:
    world = make_world(200, PATIENT)
    got: list[bytes] = []
    errors: list[str] = []

    def stream_and_leave() -> None:
        try:
            for data in world.page_file.stream():
                got.append(data)
                if len(got) == 1:
                    world.scheduler.wait_at_most(3000.0, lambda: False, lambda: "slow work")
        except IdleTooLong as error:
            errors.append(str(error))

    done = world.scheduler.spawn(stream_and_leave, "slow")
    world.pass_time(10_000.0)
    assert done()
    assert "raise `read_idle_seconds`" in errors[0]
    assert tags(got) == list(map(str, range(len(got))))
    assert 1 < len(got) < 20


# -- one consistent cut


@pytest.mark.parametrize("pool_pages", [0, 2, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_a_read_is_one_cut_though_writes_are_applied_between_its_chunks(
    make_world: Make, pool_pages: int, seed: int
) -> None:
    world = make_world(24, pool_pages=pool_pages, seed=seed)
    reader, writer = Client(world, credit=False), Client(world)
    ref = reader.read(0, 24)
    for version in ("a", "b", "c"):
        world.until(lambda: bool(reader.owed.get(ref)))
        written = writer.write(0, [page(f"{version}{number}") for number in range(24)])
        world.settle()
        writer.written(written)
        reader.give_credit(ref, len(reader.owed[ref]))
    while reader.end(ref) is None:
        world.settle()
        reader.give_credit(ref, len(reader.owed[ref]))
    world.settle()
    assert tags(reader.whole(ref)) == [str(number) for number in range(24)]
    later = writer.read(0, 24)
    world.settle()
    assert tags(writer.whole(later)) == [f"c{number}" for number in range(24)]
    assert world.state.versions.kept_bytes == 0


def test_a_reader_keeps_no_old_pages_that_it_has_been_sent(make_world: Make) -> None:
    world = make_world(10)
    reader, writer = Client(world, credit=False), Client(world)
    reader.read(0, 10)
    world.settle()  # six pages are on their way
    writer.write(0, [page("new")] * 6)
    world.settle()
    assert world.stat().counters["old_version_bytes"] == 0
    writer.write(6, [page("new")] * 4)
    world.settle()
    assert world.stat().counters["old_version_bytes"] == 4 * PAGE_SIZE


def test_past_the_version_stores_bound_only_the_oldest_read_that_needs_it_fails(make_world: Make) -> None:
    world = make_world(40, version_bytes=12 * PAGE_SIZE)
    untouched, oldest, second = (Client(world, credit=False) for _ in range(3))
    writer = Client(world)
    elsewhere = untouched.read(20, 10)
    world.settle()
    first = oldest.read(0, 16)
    world.settle()
    writer.write(0, [page("a")] * 16)
    world.settle()
    later = second.read(0, 16)
    world.settle()
    assert all(client.end(ref) is None for client, ref in ((untouched, elsewhere), (oldest, first), (second, later)))
    writer.write(0, [page("b")] * 16)
    world.settle()
    assert isinstance(oldest.error(first), SnapshotTooOld)
    assert "version_bytes" in str(oldest.error(first))
    for client, ref, expected in ((second, later, ["a"] * 16), (untouched, elsewhere, list(map(str, range(20, 30))))):
        while client.end(ref) is None:
            world.settle()
            client.give_credit(ref, len(client.owed[ref]))
        world.settle()
        assert tags(client.whole(ref)) == expected


def test_a_slow_reader_never_holds_up_a_writer(make_world: Make) -> None:
    world = make_world(20, version_bytes=0)
    reader, writer = Client(world, credit=False), Client(world)
    ref = reader.read(0, 20)
    world.settle()
    written = writer.write(0, [page("new")] * 20)
    world.settle()
    writer.written(written)
    assert isinstance(reader.error(ref), SnapshotTooOld)


def test_whoever_has_its_end_of_write_finds_the_write_in_every_later_read(make_world: Make) -> None:
    world = make_world(8, pool_pages=2)
    writer, reader = Client(world), Client(world)
    for version in range(10):
        written = writer.write(2, [page(f"v{version}")] * 4)
        world.until(lambda written=written: writer.end(written) is not None)
        ref = reader.read(0, 8)
        world.until(lambda ref=ref: reader.end(ref) is not None and len(reader.pages(ref)) == 8)
        assert tags(reader.pages(ref)) == ["0", "1", *[f"v{version}"] * 4, "6", "7"]
    world.settle()


def test_a_write_that_is_not_published_is_not_seen(make_world: Make) -> None:
    world = make_world(8, pool_pages=2)
    writer, reader = Client(world), Client(world)
    world.hold("sync")
    written = writer.write(0, [page("new")] * 8)
    world.settle()
    ref = reader.read(0, 8)
    world.settle()
    assert tags(reader.whole(ref)) == list("01234567")
    assert writer.end(written) is None
    world.let_go()
    writer.written(written)


def test_a_read_under_way_from_disk_gets_the_old_page_when_a_write_overtakes_it(make_world: Make) -> None:
    world = make_world(4, pool_pages=0)
    reader, writer = Client(world), Client(world)
    world.hold("read")
    ref = reader.read(0, 4)
    world.settle()
    world.held.clear()
    written = writer.write(0, [page("new")] * 4)
    world.settle()
    writer.written(written)
    assert tags(reader.whole(ref)) in (list("0123"), ["new"] * 4)


def test_a_read_that_waited_for_its_first_pages_is_a_cut_of_when_it_asked_for_them(make_world: Make) -> None:
    world = make_world(8)
    reader, writer = Client(world), Client(world)
    reader.read(3, 5)
    world.settle()
    world.hold("read")
    ref = reader.read(0, 8)
    world.settle()
    written = writer.write(3, [page("new")] * 5)
    world.settle()
    writer.written(written)
    world.let_go()
    assert tags(reader.whole(ref)) == list("01234567")


def test_reads_that_find_their_pages_missing_use_up_the_turn_of_the_server(make_world: Make) -> None:
    world = make_world(40)
    turns: list[object] = []
    world.scheduler.add_tracer(lambda ref, message: turns.append(ref) if type(message).__name__ == "Turn" else None)
    clients = [Client(world) for _ in range(40)]
    world.hold("read")
    for number, client in enumerate(clients):
        client.read(number)
    world.settle()
    assert len(turns) >= 40 / SMALL.chunk, "other messages wait for a bounded time"
    world.let_go()


def test_a_read_that_is_queued_when_the_file_is_cut_fails_whole(make_world: Make) -> None:
    queued = 0
    for seed in range(20):
        world = make_world(20, seed=seed, pool_pages=0)
        reader, cutter = Client(world), Client(world)
        cut = cutter.ask_for(Truncate, 5)
        world.until(lambda world=world: world.calls.count("sync") > 0)
        ref = reader.read(10, 10)
        world.settle()
        assert cutter.end(cut) is not None
        if isinstance(reader.end(ref), DataReadEnd):
            assert tags(reader.whole(ref)) == list(map(str, range(10, 20)))
        elif not isinstance(reader.error(ref), SnapshotTooOld):
            queued += 1
            assert isinstance(reader.error(ref), OutOfRange)
        again = reader.read(10, 10)
        world.settle()
        assert isinstance(reader.error(again), OutOfRange)
    assert queued
