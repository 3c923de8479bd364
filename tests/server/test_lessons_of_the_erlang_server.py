"""What the Erlang page file server got wrong, one test a row, in the order of the table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from pfs.errors import FileDamaged, OutOfRange, SessionEnded
from pfs.files.store import PageFileStore
from pfs.protocol import Cancel, DataPages, DataRead, DataWrite, Start, Stat
from pfs.testing.file_system import SimulatedFileSystem
from tests.server.harness import PAGE_SIZE, SMALL, Client, World, page, tags

Make = Callable[..., World]


@pytest.mark.parametrize("seed", range(10))
def test_1_messages_of_any_kind_during_a_long_read_never_stop_the_server(make_world: Make, seed: int) -> None:
    world = make_world(200, seed=seed)
    reader, other = Client(world), Client(world)
    ref = reader.read(0, 200)
    kinds: list[Callable[[], Any]] = [
        lambda: world.server.tell("nonsense"),
        lambda: other.ask_for(Stat),
        lambda: other.ask_for(Start),
        lambda: world.server.tell(Cancel(777, other.ref)),
        lambda: other.read(10_000, 1),
    ]
    while reader.end(ref) is None:
        kinds[world.scheduler.steps % len(kinds)]()
        for _ in range(5):
            world.scheduler.step()
    world.settle()
    assert len(reader.whole(ref)) == 200


def test_2_a_write_of_one_page_leaves_the_next_page_as_it_was(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    client.write(1, [page("w")])
    world.settle()
    assert world.on_disk() == ["0", "w", "2", "3"]


def test_3_a_write_across_the_end_is_refused_before_anything_is_changed(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    ref = client.write(2, [page("w")] * 3)
    world.settle()
    assert isinstance(client.error(ref), OutOfRange)
    assert world.on_disk() == list("0123")
    assert "write" not in world.calls


def test_4_an_append_of_three_pages_counts_as_three(make_world: Make) -> None:
    world = make_world(1)
    client = Client(world)
    client.append([page("a"), page("b"), page("c")])
    world.settle()
    assert world.stat().page_count == 4
    ref = client.read(1, 3)
    world.settle()
    assert tags(client.whole(ref)) == ["a", "b", "c"]


def test_5_a_torn_tail_is_found_when_the_file_is_opened() -> None:
    disk = SimulatedFileSystem()
    store = PageFileStore(disk, clock=lambda: 0.0)
    entry = store.catalog.make_file("triples", PAGE_SIZE)
    file = store.open(entry, 0, repair=False)
    file.write(0, [page("a"), page("b")], [1, 1])
    file.sync()
    store.close()
    path = f"base/5/{entry.number}"
    descriptor = disk.open(path, 2)
    disk.pwritev(descriptor, [b"torn"], 2 * PAGE_SIZE)
    disk.close(descriptor)
    store = PageFileStore(disk, clock=lambda: 0.0)
    with pytest.raises(FileDamaged, match=f"{2 * PAGE_SIZE + 4} bytes.*{PAGE_SIZE}") as found:
        store.open(entry, 2, repair=False)
    assert path in str(found.value)
    assert store.open(entry, 2, repair=True).block_count() == 2
    store.close()


def test_6_two_reads_by_one_client_are_told_apart(make_world: Make) -> None:
    world = make_world(80)
    client = Client(world)
    refs = {client.read(first, 20): first for first in (0, 20, 40, 60)}
    world.settle()
    order = [each.ref for each in client.messages if type(each) is DataPages]
    assert order != sorted(order), "they were served in turns"
    for ref, first in refs.items():
        assert tags(client.whole(ref)) == [str(number) for number in range(first, first + 20)]


def test_7_a_receiver_that_does_not_exist_costs_only_its_own_requests(make_world: Make) -> None:
    world = make_world(8)
    client, ghost = Client(world), Client(world)
    ghost.die()
    refs = [client.read(0, 8, to=ghost.ref), client.read(0, 8)]
    world.server.tell(DataRead(1, ghost.ref, 0, 8))
    world.server.tell(DataWrite(2, ghost.ref, 0, 8))
    world.settle()
    assert isinstance(client.error(refs[0]), SessionEnded)
    client.whole(refs[1])
    world.serves_a_good_client()


def test_8_a_slow_client_never_gets_more_than_its_credits_into_its_mailbox(make_world: Make) -> None:
    world = make_world(2_000)
    slow = Client(world, credit=False)
    ref = slow.read(0, 2_000)
    for _ in range(50):
        world.settle()
        assert len(slow.owed[ref]) == SMALL.credits
        slow.give_credit(ref)
    assert slow.most_owed == SMALL.credits
    slow.die()


def test_9_every_request_is_answered_and_a_write_is_durable_when_it_is(make_world: Make) -> None:
    world = make_world(4)
    client = Client(world)
    refs = [client.read(0, 4), client.read(4, 1), client.write(0, [page("x")]), client.append([page("y")])]
    written = refs[2:]
    world.until(lambda: all(client.end(ref) is not None for ref in written))
    assert world.durable() == ["x", "1", "2", "3", "y"]
    world.settle()
    assert all(client.end(ref) is not None for ref in refs)


def test_10_no_page_is_ever_formatted_for_the_log(make_world: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = make_world(20)
    client = Client(world)
    secret = b"secret content".ljust(PAGE_SIZE, b"!")
    client.write(0, [secret])
    client.read(0, 20)
    client.append([secret, b"secret content, too short"])
    world.settle()
    assert "secret content" not in caplog.text
