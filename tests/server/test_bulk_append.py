"""Large appends: written once, straight to the data file, and there as a whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from pfs.actors.requests import ServerOptions
from pfs.errors import Cancelled, IdleTooLong, NoSpace, ProtocolError, WrongPageLength
from pfs.protocol import DataAppend, Done, StreamReady, Sync, Truncate
from pfs.system import System, SystemOptions
from pfs.testing.disk import CrashPolicy
from pfs.testing.faults import Fault
from tests.server.harness import PAGE_SIZE, SMALL, Client, World, page, recovered, tags

Make = Callable[..., World]

BULK = msgspec.structs.replace(SMALL, bulk_bytes=40 * PAGE_SIZE, idle_seconds=100.0)
"""40 pages or more are a bulk append."""


def numbered(name: str, n: int) -> list[bytes]:
    return [page(f"{name}{number}") for number in range(n)]


def test_a_bulk_append_is_like_any_other(make_world: Make) -> None:
    world = make_world(20, BULK)
    client = Client(world)
    ref = client.append(numbered("b", 100))
    world.settle()
    assert (client.written(ref).pgid, client.written(ref).n) == (20, 100)
    assert client.written(ref).lsn
    read = client.read(10, 110)
    world.settle()
    assert tags(client.whole(read)) == [*map(str, range(10, 20)), *(f"b{number}" for number in range(100))]


def test_its_pages_are_written_once_and_not_logged(make_world: Make) -> None:
    world = make_world(0, BULK)
    client = Client(world)
    before = world.log.buffer.inserted
    client.append(numbered("b", 310))
    world.settle()
    assert world.log.buffer.inserted - before < 310 * PAGE_SIZE // 10
    assert len(world.storage.dirty) == 0


@pytest.mark.parametrize("there", [0, 1, 30, 31, 32, 61, 62])
@pytest.mark.parametrize("policy", ["none", "torn", "garbage"])
def test_it_is_durable_when_it_is_acknowledged_wherever_it_begins(
    make_world: Make, there: int, policy: CrashPolicy
) -> None:
    world = make_world(there, BULK)
    client = Client(world)
    client.append(numbered("b", 70))
    world.settle()
    expected = [*map(str, range(there)), *(f"b{number}" for number in range(70))]
    assert recovered(world.disk.crash_image(policy, Random(there)), world.system_options) == expected
    after = client.append(numbered("after", 3))
    change = client.write(there + 69, [page("changed")])
    world.settle()
    world.checkpoint()
    client.written(after), client.written(change)
    expected = [*expected[:-1], "changed", "after0", "after1", "after2"]
    assert recovered(world.disk.crash_image(policy, Random(there)), world.system_options) == expected


def test_what_a_crash_finds_before_its_commit_is_cut_off(make_world: Make) -> None:
    world = make_world(20, BULK)
    world.hold("sync")
    Client(world).append(numbered("b", 100))
    world.settle()
    for policy in ("none", "all", "prefix", "subset", "torn"):
        policy_image = world.disk.crash_image(policy, Random(3))  # type: ignore[arg-type]
        assert recovered(policy_image, world.system_options) in (
            [*map(str, range(20))],
            [*map(str, range(20)), *(f"b{number}" for number in range(100))],
        )
    world.let_go()
    world.settle()


def test_at_most_its_credits_are_staged_however_long_it_is(make_world: Make) -> None:
    world = make_world(
        0, msgspec.structs.replace(BULK, staging_bytes=64 * PAGE_SIZE, session_staging_bytes=64 * PAGE_SIZE)
    )
    client = Client(world)
    world.hold("write")
    ref = client.append(numbered("b", 1000))
    world.settle()
    room = (BULK.credits * BULK.block + 30) * PAGE_SIZE
    assert world.stat().counters["staged_bytes"] == room
    assert sum(len(each.pages) for each in world.server._actor._requests()) <= room // PAGE_SIZE
    world.let_go()
    world.settle()
    assert client.written(ref).n == 1000
    assert world.stat().counters["staged_bytes"] == 0


def test_appends_and_truncations_wait_for_it_and_overwrites_do_not(make_world: Make) -> None:
    world = make_world(20, BULK)
    client, other = Client(world), Client(world)
    world.hold("write")
    bulk = client.append(numbered("b", 60))
    world.settle()
    small = other.append([page("small")])
    cut = other.ask_for(Truncate, 15)
    behind = other.append(numbered("second", 50))
    overwrite = other.write(3, [page("new")])
    world.settle()
    assert [client.end(bulk), other.end(small), other.end(cut), other.end(behind)] == [None] * 4
    assert other.written(overwrite)
    world.let_go()
    world.settle()
    assert client.written(bulk).pgid == 20
    assert other.got(cut, Done)
    assert (other.written(behind).pgid, other.written(small).pgid) == (15, 65)
    read = other.read(0, 66)
    world.settle()
    kept = [*map(str, range(3)), "new", *map(str, range(4, 15))]
    assert tags(other.whole(read)) == [*kept, *(f"second{number}" for number in range(50)), "small"]
    assert world.durable() == tags(other.whole(read))


def give_up_by_cancelling(world: Any, client: Client, ref: int) -> None:
    client.cancel(ref)


def give_up_by_too_few_pages(world: Any, client: Client, ref: int) -> None:
    client.send_end(ref, 100)


def give_up_by_a_wrong_page(world: Any, client: Client, ref: int) -> None:
    client.send(ref, (b"short",))


def give_up_by_silence(world: Any, client: Client, ref: int) -> None:
    world.pass_time(2 * BULK.idle_seconds)


@pytest.mark.parametrize(
    ("give_up", "error"),
    [
        (give_up_by_cancelling, Cancelled),
        (give_up_by_too_few_pages, ProtocolError),
        (give_up_by_a_wrong_page, WrongPageLength),
        (give_up_by_silence, IdleTooLong),
    ],
)
def test_given_up_it_leaves_nothing_behind(make_world: Make, give_up: Any, error: type) -> None:
    world = make_world(20, BULK)
    client, other = Client(world), Client(world)
    ref = client.ask_for(DataAppend, 100)
    world.settle()
    for first in range(0, 2 * BULK.credits * BULK.block, BULK.block):
        client.send(ref, tuple(numbered("b", 100)[first : first + BULK.block]))
        world.settle()
    waiting = other.append([page("next")])
    world.settle()
    assert world.file.block_count() > 20
    give_up(world, client, ref)
    world.settle()
    assert isinstance(client.error(ref), error)
    assert other.written(waiting).pgid == 20
    assert world.stat().counters["staged_bytes"] == 0
    assert world.durable() == [*map(str, range(20)), "next"]
    world.checkpoint()
    assert world.on_disk() == [*map(str, range(20)), "next"]


def test_given_up_before_its_turn_it_was_never_there(make_world: Make) -> None:
    world = make_world(20, BULK)
    client, other = Client(world), Client(world)
    world.hold("write")
    first = client.append(numbered("b", 60))
    world.settle()
    second = other.append(numbered("c", 60))
    world.settle()
    other.cancel(second)
    world.settle()
    assert isinstance(other.error(second), Cancelled)
    assert not other.got(second, StreamReady)
    world.let_go()
    world.settle()
    assert client.written(first).pgid == 20
    assert world.state.page_count == 80


def test_one_that_begins_is_given_up_without_a_cut(make_world: Make) -> None:
    world = make_world(20, BULK)
    client, other = Client(world), Client(world)
    ref = client.ask_for(DataAppend, 100)
    world.settle()
    client.cancel(ref)
    after = other.append([page("x")])
    world.settle()
    assert isinstance(client.error(ref), Cancelled)
    assert other.written(after).pgid == 20


def test_its_writers_death_gives_it_up(make_world: Make) -> None:
    world = make_world(20, BULK)
    client, other = Client(world), Client(world)
    world.hold("write")
    client.append(numbered("b", 100))
    world.settle()
    client.die()
    world.settle()
    world.let_go()
    after = other.append([page("x")])
    world.settle()
    assert other.written(after).pgid in (20, 120)
    assert world.stat().counters["staged_bytes"] == 0


def test_all_collected_it_ends_as_it_ends(make_world: Make) -> None:
    world = make_world(20, BULK)
    client = Client(world)
    ref = client.append(numbered("b", 40))
    world.until(lambda: any(each.state == "collected" for each in world.server._actor._requests()))
    client.cancel(ref)
    world.settle()
    assert client.written(ref).pgid == 20


def test_without_space_it_fails_and_the_file_is_as_before(make_world: Make) -> None:
    world = make_world(20, BULK)
    client = Client(world)
    world.disk.capacity = world.disk._used() + 30 * PAGE_SIZE
    ref = client.append(numbered("b", 300))
    world.settle()
    assert isinstance(client.error(ref), NoSpace)
    read = client.read(0, 20)
    world.settle()
    assert tags(client.whole(read)) == [*map(str, range(20))]
    world.disk.capacity = None
    again = client.append(numbered("b", 300))
    world.settle()
    assert client.written(again).pgid == 20
    assert not world.panics


def test_a_sync_that_fails_ends_the_system(make_world: Make) -> None:
    world = make_world(20, BULK)
    client = Client(world)
    world.disk.faults = [Fault(errno.EIO, operation="fdatasync", path="base/5/*", forever=True)]
    ref = client.append(numbered("b", 100))
    world.settle()
    assert world.panics
    assert client.end(ref) is not None
    assert not client.got(ref, type(None))
    assert recovered(world.disk.crash_image("none", Random(1)), world.system_options) == [*map(str, range(20))]


def test_a_stop_waits_for_it_to_be_cut_off(make_world: Make) -> None:
    world = make_world(20, BULK)
    client = Client(world)
    ref = client.ask_for(DataAppend, 100)
    world.settle()
    for first in range(0, 40, BULK.block):
        client.send(ref, tuple(numbered("b", 100)[first : first + BULK.block]))
        world.settle()
    world.stop()
    assert world.data_file() == [*map(str, range(20))]


def test_memory_durability_is_the_same_for_it(make_world: Make) -> None:
    world = make_world(0, BULK)
    client = Client(world)
    ref = client.append(numbered("b", 100), durability="memory")
    world.settle()
    assert client.written(ref).n == 100
    assert world.durable() == [f"b{number}" for number in range(100)]
    synced = client.ask_for(Sync)
    world.settle()
    assert client.got(synced, Done)


def test_a_plain_thread_appends_more_than_staging_holds(tmp_path: Any) -> None:

    options = SystemOptions(
        server=ServerOptions(staging_bytes=1 << 20, session_staging_bytes=1 << 20, bulk_bytes=1 << 18)
    )
    pages = [b"%04d" % number * 128 for number in range(5000)]
    with System(tmp_path, options) as system:
        file = system.open("large", page_size=512)
        assert file.append(pages) == 0
        assert file.append(pages) == 5000
    with System(tmp_path, options) as system:
        assert list(system.open("large").stream()) == pages + pages
        assert system.stats()["wal"]["replayed_pages"] == 0


def test_the_disk_begins_to_write_each_piece_out_before_it_is_synced(make_world: Make) -> None:
    world = make_world(0, BULK)
    client = Client(world)
    before = len(world.disk.journal)
    ref = client.append(numbered("b", 100))
    world.settle()
    assert client.written(ref).n == 100
    done = [each.operation for each in world.disk.journal[before:] if each.operation.path.startswith("base/5/")]
    hinted = [(each.offset, each.length) for each in done if each.name == "fadvise"]
    assert hinted[0][0] == 0
    assert [start + length for start, length in hinted[:-1]] == [start for start, _ in hinted[1:]]
    assert sum(hinted[-1]) == 100 * PAGE_SIZE
    assert [each.name for each in done].index("fdatasync") > max(
        number for number, each in enumerate(done) if each.name == "fadvise"
    )
