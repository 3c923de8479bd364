"""The actors that wait for disks, and the pool that asks them, with a file that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pfs.actors import Actor
from pfs.actors.buffer_pool import BufferPool, LoadRuns, PagesLoaded, Waiting
from pfs.actors.checkpointer import MakeCheckpoint
from pfs.actors.file_worker import (
    BlocksRead,
    Carried,
    Carry,
    ReadBlocks,
    VirtualFileWorker,
)
from pfs.cache.page_table import PageTable
from pfs.errors import Busy, FatalError, OutOfRange, PageIOError, PfsError, SystemFailed, WriteFailed
from pfs.protocol import Truncate
from pfs.testing.scheduler import SimulatedScheduler
from tests.server.harness import PAGE_SIZE, Client, World, page, tags

Make = Callable[..., World]


class ToldFile:
    """A `BlockFile` in memory that raises what it is told to raise."""

    name = "told"
    block_size = PAGE_SIZE

    def __init__(self, blocks: int = 0) -> None:
        self.blocks = [page(number) for number in range(blocks)]
        self.raises: dict[str, list[BaseException]] = {}
        self.bad: set[int] = set()
        self.warm = False
        self.synced = 0

    def _do(self, call: str) -> None:
        if self.raises.get(call):
            raise self.raises[call].pop(0)

    def block_count(self) -> int:
        return len(self.blocks)

    def try_read(self, block: int, n: int) -> list[bytes] | None:
        self._do("try_read")
        return self.read(block, n) if self.warm else None

    def read(self, block: int, n: int) -> list[bytes]:
        self._do("read")
        if block + n > len(self.blocks):
            raise OutOfRange("past the end")
        if self.bad & set(range(block, block + n)):
            raise PageIOError(f"blocks {block} to {block + n - 1}")
        return self.blocks[block : block + n]

    def write(self, block: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        self._do("write")
        self.blocks[block : block + len(pages)] = pages

    def sync(self) -> None:
        self._do("sync")
        self.synced += 1

    def truncate(self, blocks: int) -> None:
        self._do("truncate")
        assert blocks < len(self.blocks), "a file is never cut to more than it has"
        del self.blocks[blocks:]

    def close(self) -> None:
        pass


def write_blocks(file: ToldFile, block: int, pages: Sequence[bytes], reply_to: Any, token: Any) -> Carry:
    return Carry(lambda: file.write(block, pages, [1] * len(pages)), reply_to, token)


def sync_blocks(file: ToldFile, reply_to: Any, token: Any) -> Carry:
    return Carry(file.sync, reply_to, token)


def truncate_blocks(file: ToldFile, blocks: int, reply_to: Any, token: Any) -> Carry:
    return Carry(lambda: file.truncate(blocks), reply_to, token)


class Recorder(Actor):
    def __init__(self, messages: list[Any]) -> None:
        super().__init__()
        self._messages = messages

    def on_receive(self, message: Any) -> None:
        self._messages.append(message)


class Place:
    """A worker, a pool, and somebody who is told what came of it."""

    def __init__(self) -> None:
        self.scheduler = SimulatedScheduler(3)
        self.told: list[Any] = []
        self.panics: list[BaseException] = []
        self.me: Any = self.scheduler.start(Recorder, self.told)
        self.worker: Any = self.scheduler.start(VirtualFileWorker)
        self.table: PageTable[Waiting] = PageTable(100_000)
        self.pool: Any = self.scheduler.start(BufferPool, self.table, [self.worker], self.panics.append)

    def answers(self, *messages: Any) -> list[Any]:
        self.told.clear()
        for message in messages:
            self.worker.tell(message)
        self.scheduler.run()
        return list(self.told)

    def load(self, file: ToldFile, *runs: tuple[int, int]) -> list[PagesLoaded]:
        """Have runs of pages loaded, each for a waiter of its own."""
        self.told.clear()
        for token, (first, n) in enumerate(runs):
            pages = self.table.lookup(7, first, n)
            fetches = self.table.begin_fetch(Waiting(self.me, token), 7, first, pages)
            self.pool.tell(LoadRuns(file, tuple(fetches)))
        self.scheduler.run()
        return sorted(self.told, key=lambda each: each.token)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.scheduler.stop()


def test_a_worker_does_what_it_is_asked_in_order_and_says_so(place: Place) -> None:
    file = ToldFile(3)
    answers = place.answers(
        write_blocks(file, 1, (page("x"), page("y"), page("z")), place.me, "write"),
        sync_blocks(file, place.me, "sync"),
        truncate_blocks(file, 2, place.me, "cut"),
        ReadBlocks(file, 0, 2, place.me, "read"),
    )
    assert answers[:3] == [Carried(token, None, None) for token in ("write", "sync", "cut")]
    assert isinstance(answers[3], BlocksRead)
    assert [page("0"), page("x")] == answers[3].pages
    assert file.synced == 1


def test_a_bad_block_costs_its_neighbours_nothing(place: Place) -> None:
    file = ToldFile(5)
    file.bad = {2}
    [answer] = place.answers(ReadBlocks(file, 0, 5, place.me, "read"))
    assert [isinstance(each, PageIOError) for each in answer.pages] == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("raised", "error"),
    [(FatalError("replaced"), FatalError), (ZeroDivisionError("a bug"), FatalError)],
)
def test_a_read_that_fails_in_an_unforeseen_way_is_fatal_for_all_its_blocks(
    place: Place, raised: Exception, error: type[PfsError]
) -> None:
    file = ToldFile(3)
    file.raises["read"] = [raised]
    [answer] = place.answers(ReadBlocks(file, 0, 3, place.me, "read"))
    assert [type(each) for each in answer.pages] == [error] * 3


@pytest.mark.parametrize("call", ["write", "sync", "truncate"])
@pytest.mark.parametrize("raised", [WriteFailed("broken"), ZeroDivisionError("a bug")], ids=["foreseen", "unforeseen"])
def test_a_change_that_fails_is_told_and_the_worker_lives_on(place: Place, call: str, raised: Exception) -> None:
    file = ToldFile(3)
    file.raises[call] = [raised]
    message: Any = {
        "write": write_blocks(file, 0, (page("x"),), place.me, 1),
        "sync": sync_blocks(file, place.me, 1),
        "truncate": truncate_blocks(file, 1, place.me, 1),
    }[call]
    [answer] = place.answers(message)
    assert isinstance(answer.error, FatalError)
    assert place.answers(message) == [Carried(1, None, None)]


def test_a_change_that_finds_no_descriptor_is_tried_again_until_there_is_one(place: Place) -> None:
    file = ToldFile(3)
    file.raises["write"] = [Busy("no descriptor")] * 3
    assert place.answers(write_blocks(file, 0, (page("x"),), place.me, 1)) == [Carried(1, None, None)]
    assert tags(file.blocks) == ["x", "1", "2"]


def test_a_change_that_never_finds_a_descriptor_is_given_up(place: Place) -> None:
    file = ToldFile(3)
    file.raises["write"] = [Busy("no descriptor")] * 100_000
    [answer] = place.answers(write_blocks(file, 0, (page("x"),), place.me, 1))
    assert isinstance(answer.error, Busy)


def test_whoever_asked_may_be_gone_when_the_answer_comes(place: Place) -> None:
    file = ToldFile(3)
    place.me.kill()
    assert place.answers(ReadBlocks(file, 0, 3, place.me, 1), sync_blocks(file, place.me, 1), "nonsense") == []
    assert place.load(file, (0, 2)) == []
    assert place.worker.is_alive()
    assert place.pool.is_alive()


# -- the pool


@pytest.mark.parametrize("warm", [False, True])
def test_the_pool_tells_each_waiter_its_pages(place: Place, warm: bool) -> None:
    file = ToldFile(200)
    file.warm = warm
    first, second, large = place.load(file, (0, 4), (2, 4), (50, 100))
    assert tags(first.pages) == list("0123")
    assert tags(second.pages) == list("2345")
    assert tags(large.pages) == list(map(str, range(50, 150)))
    assert first.error is second.error is large.error is None


@pytest.mark.parametrize("raised", [PageIOError("broken"), RuntimeError("a bug")], ids=["foreseen", "unforeseen"])
def test_what_cannot_be_read_at_once_is_read_by_a_worker_page_by_page(place: Place, raised: Exception) -> None:
    file = ToldFile(5)
    file.warm = True
    file.bad = {2}
    file.raises["try_read"] = [raised] * 3
    bad, good = place.load(file, (0, 3), (3, 2))
    assert isinstance(bad.error, PageIOError)
    assert tags(good.pages) == ["3", "4"]


def test_without_a_worker_a_read_fails_for_good(place: Place) -> None:
    place.worker.kill()
    [answer] = place.load(ToldFile(3), (0, 3))
    assert isinstance(answer.error, FatalError)


def test_the_pools_own_failure_is_told_upwards(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.pool.tell(LoadRuns(ToldFile(), ("no fetch",)))
    place.scheduler.run()
    assert len(place.panics) == 1


def test_a_pool_that_nobody_listens_to_fails_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = SimulatedScheduler(1)
    pool = scheduler.start(BufferPool, PageTable(0), [])
    pool.tell(LoadRuns(ToldFile(), ("no fetch",)))
    scheduler.run()
    assert not pool.is_alive()
    scheduler.stop()


# -- a server whose helpers are gone


@pytest.mark.parametrize("who", ["device", "wal", "pool", "readers"])
def test_a_server_without_its_helpers_fails_its_requests_instead_of_waiting(make_world: Make, who: str) -> None:
    world = make_world(8)
    victims = {"device": [world.device], "wal": [world.storage.wal], "pool": [world.pool], "readers": world.readers}
    for victim in victims[who]:
        victim.kill()
    client = Client(world)
    refs = [client.append([page("x")])] if who in ("device", "wal") else [client.read(0, 8)]
    world.settle()
    for ref in refs:
        assert isinstance(client.error(ref), SystemFailed)
    assert world.panics


def test_a_fatal_read_ends_the_system(make_world: Make) -> None:
    world = make_world(8)
    client = Client(world)
    world.file.read = lambda block, n: [][1]
    ref = client.read(0, 8)
    world.settle()
    assert isinstance(client.error(ref), SystemFailed)
    assert world.data_file() == list("01234567")


@pytest.mark.parametrize("call", ["write", "truncate"])
def test_a_disk_without_descriptors_for_long_costs_a_data_file_only_time(make_world: Make, call: str) -> None:
    world = make_world(8)
    client = Client(world)
    really, left = getattr(world.file, call), [200]

    def busy(*arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise Busy("no descriptor")
        really(*arguments)

    setattr(world.file, call, busy)
    refs = [client.append([page("x")])] if call == "write" else [client.ask_for(Truncate, 4)]
    world.settle()
    made = world.next_ref()
    world.storage.checkpointer.tell(MakeCheckpoint(client.ref, made))
    world.scheduler.run(until=lambda: all(client.end(ref) is not None for ref in [*refs, made]))
    assert not world.panics
    assert world.data_file() == ([*"01234567", "x"] if call == "write" else list("0123"))


@pytest.mark.parametrize("call", ["write", "truncate"])
def test_a_data_file_that_cannot_be_changed_ends_the_system(make_world: Make, call: str) -> None:
    world = make_world(8)
    client = Client(world)

    def fail(*arguments: Any) -> None:
        raise WriteFailed("broken")

    setattr(world.file, call, fail)
    written = client.write(0, [page("x")] * 2)
    world.settle()
    client.written(written)
    made = world.next_ref()
    message: Any = MakeCheckpoint(client.ref, made)
    if call == "truncate":
        made = client.ask_for(Truncate, 4)
    else:
        world.storage.checkpointer.tell(message)
    world.settle()
    assert isinstance(client.error(made), SystemFailed)
    assert world.panics
    assert world.durable() == (["x", "x", *"234567"] if call == "write" else ["x", "x", *"23"])
