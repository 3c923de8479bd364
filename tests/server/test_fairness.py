"""Promise 2, measured through the server: with s ready sessions the m-th request of its session waits m x s chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from pfs.actors.requests import ServerOptions
from pfs.protocol import DataPages
from tests.server.harness import NEVER, SMALL, Client, World, page

Make = Callable[..., World]

PLENTY = ServerOptions(chunk=4, block=2, credits=1000, idle_seconds=NEVER)


def in_memory(world: World) -> None:
    """Load all pages, so that only turns decide who is served."""
    client = Client(world)
    client.read(0, world.state.page_count)
    world.settle()
    client.die()
    world.settle()
    world.served.clear()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("scans", [1, 3, 8])
def test_a_small_read_beside_large_scans_waits_at_most_m_times_s_chunks(
    make_world: Make, seed: int, scans: int
) -> None:
    world = make_world(200, PLENTY, seed=seed)
    in_memory(world)
    scanners = [Client(world) for _ in range(scans)]
    for scanner in scanners:
        scanner.read(0, 200)
    world.until(lambda: len(world.served) >= scans)
    small = Client(world)
    m = 5
    refs = [small.read(number) for number in range(m)]
    world.until(lambda: _has_taken_up(world, small, m))
    begin = len(world.served) - sum(client is small.ref for client, _, _ in world.served)
    world.settle()
    chunks = [(client, ref) for client, ref, _ in world.served]
    sessions = scans + 1
    for number, ref in enumerate(refs, 1):
        waited = chunks.index((small.ref, ref)) - begin
        assert waited <= number * sessions, (number, waited)
    assert sum(pages for _, _, pages in world.served) == 200 * scans + m


def _has_taken_up(world: World, client: Client, n: int) -> bool:
    session = world.server._actor._sessions.get(client.ref)
    served = sum(each is client.ref for each, _, _ in world.served)
    return (len(session.requests) if session is not None else 0) + served >= n


@pytest.mark.parametrize("seed", range(5))
def test_sessions_get_equal_shares_however_many_requests_each_has(make_world: Make, seed: int) -> None:
    world = make_world(400, PLENTY, seed=seed)
    in_memory(world)
    one, many = Client(world), Client(world)
    one.read(0, 400)
    for _ in range(20):
        many.read(0, 400)
    world.until(lambda: _has_taken_up(world, many, 20))
    world.served.clear()
    world.until(lambda: len(world.served) >= 60)
    shares = Counter(client for client, _, _ in world.served)
    assert abs(shares[one.ref] - shares[many.ref]) <= 1
    for client in (one, many):
        client.die()


def test_requests_of_one_session_are_served_in_turns(make_world: Make) -> None:
    world = make_world(100, PLENTY)
    in_memory(world)
    client = Client(world)
    refs = [client.read(0, 100) for _ in range(4)]
    world.until(lambda: _has_taken_up(world, client, 4))
    world.served.clear()
    world.until(lambda: len(world.served) >= 20)
    shares = Counter(ref for _, ref, _ in world.served)
    assert max(shares.values()) - min(shares[ref] for ref in refs) <= 1
    client.die()


def test_long_writes_are_applied_a_chunk_a_turn_between_the_reads_of_others(make_world: Make) -> None:
    world = make_world(1200, PLENTY)
    in_memory(world)
    writer, reader = Client(world), Client(world)
    written = writer.write(0, [page("x")] * 1000)
    world.until(lambda: any(client is writer.ref for client, _, _ in world.served))
    ref = reader.read(1000, 100)
    world.settle()
    assert max(pages for _, _, pages in world.served) <= PLENTY.chunk
    of_writer = [at for at, (client, _, _) in enumerate(world.served) if client is writer.ref]
    of_reader = [at for at, (client, _, _) in enumerate(world.served) if client is reader.ref]
    assert of_writer[0] < of_reader[0] < of_writer[-1]
    writer.written(written)
    reader.whole(ref)


def test_first_come_first_served_serves_one_request_to_its_end_before_the_next(make_world: Make) -> None:
    options = ServerOptions(chunk=4, block=2, credits=1000, idle_seconds=NEVER, order="first_come_first_served")
    world = make_world(60, options)
    in_memory(world)
    clients = [Client(world) for _ in range(3)]
    for client in clients:
        client.read(0, 60)
    world.settle()
    order = [client for client, _, _ in world.served]
    assert order == sorted(order, key=order.index)
    for client in clients:
        assert len([each for each in client.messages if type(each) is DataPages]) == 30


@pytest.mark.parametrize("how", ["cancel", "die", "credit"])
def test_first_come_first_served_goes_on_when_the_one_that_held_up_all_has_ended(make_world: Make, how: str) -> None:
    options = ServerOptions(chunk=4, block=2, credits=2, idle_seconds=NEVER, order="first_come_first_served")
    world = make_world(60, options)
    in_memory(world)
    slow, quick = Client(world, credit=False), Client(world)
    first = slow.read(0, 60)
    world.settle()
    second = quick.read(0, 60)
    world.settle()
    assert quick.end(second) is None, "everybody waits for a slow consumer"
    if how == "cancel":
        slow.cancel(first)
    elif how == "die":
        slow.die()
    else:
        while slow.end(first) is None:
            slow.give_credit(first, len(slow.owed[first]))
            world.settle()
    world.settle()
    quick.whole(second)


def test_the_observer_is_told_of_each_chunk_and_of_nothing_else(make_world: Make) -> None:
    world = make_world(10, SMALL)
    client = Client(world)
    ref, wrong = client.read(0, 10), client.read(5, 10)
    written = client.append([page("x")] * 5)
    world.settle()
    client.whole(ref)
    client.error(wrong)
    pages: Counter[int] = Counter()
    for who, which, n in world.served:
        assert who is client.ref
        pages[which] += n
    assert pages == {ref: 10, written: 5}
