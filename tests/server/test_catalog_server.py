"""Creating, renaming and dropping page files: what others see of it, what stands in its way, what is left."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from pfs.actors import Actor
from pfs.actors.catalog_server import CreateEntry, DropEntry, RenameEntry
from pfs.actors.checkpointer import MakeCheckpoint
from pfs.errors import (
    Cancelled,
    CorruptionFound,
    NoSpace,
    PageFileExists,
    PageFileNotFound,
    PageSizeMismatch,
    ServerInactive,
    SystemFailed,
    Timeout,
)
from pfs.protocol import Cancel, Done, Start, Stop, Sync
from pfs.system import System, SystemOptions
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.bodies import Noop
from pfs.wal.records import HEADER_SIZE
from pfs.wal.shared_log import WalOptions
from tests.server.harness import NAME, PAGE_SIZE, SMALL_LOG, Client, World, page, start, tags

Make = Callable[..., World]
SMALLEST_LOG = WalOptions(
    segment_bytes=8 << 10, most_bytes=32 << 10, checkpoint_bytes=1 << 30, checkpoint_seconds=1e12, batch_bytes=2000
)


def ask(world: World, client: Client, kind: Any, *arguments: Any) -> int:
    """Have the catalog changed; returns the request's ref."""
    ref = world.next_ref()
    world.storage.catalog.tell(kind(ref, client.ref, *arguments))
    world.settle()
    return ref


def give_up(world: World, client: Client, ref: int) -> None:
    world.storage.catalog.tell(Cancel(ref, client.ref))
    world.settle()


def names_after_a_crash(world: World) -> list[str]:
    image = world.disk.crash_image("none", Random(1))
    with start(image, SimulatedScheduler(1), world.system_options) as system:
        return system.names()


def be_impatient(world: World) -> None:
    """From now on calls of plain threads wait only a second."""
    world.system.options = msgspec.structs.replace(world.system.options, call_timeout=1.0)


# ------------------------------------------------------------------------------------------ what is promised


def test_a_change_is_acknowledged_when_its_record_is_durable_and_not_before(make_world: Make) -> None:
    world = make_world(1)
    client = Client(world)
    entry = world.storage.store.catalog.make_file("new", PAGE_SIZE)
    world.hold("sync")
    for change in ((CreateEntry, entry), (RenameEntry, NAME, "other"), (DropEntry, "new")):
        before = names_after_a_crash(world)
        ref = ask(world, client, *change)
        assert client.end(ref) is None
        assert names_after_a_crash(world) == before
        world.let_go()
        assert type(client.end(ref)) is Done
        assert names_after_a_crash(world) == world.system.names() != before
        world.hold("sync")


def test_page_files_that_were_not_opened_keep_their_pages_and_numbers_over_any_number_of_starts(tmp_path: Path) -> None:
    with System(tmp_path) as system:
        for name in "abc":
            system.open(name, page_size=PAGE_SIZE).append([page(name)] * 3)
        system.drop("c")
    for number in range(3):
        with System(tmp_path) as system:
            assert system.open(f"new {number}")._state.file_id == 16387 + number
            system.checkpoint()
    with System(tmp_path) as system:
        for name in "ab":
            assert tags(system.open(name).read(0, 3)) == [name] * 3


def test_opening_finds_creates_or_says_what_is_wrong(make_world: Make) -> None:
    system = make_world().system
    with pytest.raises(PageFileNotFound, match="'a'"):
        system.open("a", create=False)
    with pytest.raises(PageFileNotFound, match="'a'"):
        system.open("a", read_only=True)
    assert system.open("a").page_size == 8192
    assert system.open("b", page_size=1024).page_size == 1024
    assert system.open("b", create=False).page_size == 1024
    for create in (True, False):
        with pytest.raises(PageSizeMismatch, match="'b' has pages of 1024 bytes, not 512"):
            system.open("b", create=create, page_size=512)
    with pytest.raises(PageFileExists):
        system.rename("a", "b")
    with pytest.raises(PageFileNotFound):
        system.rename("c", "d")


# ------------------------------------------------------------------------------------------ rename


def test_a_renamed_page_file_goes_on_under_its_new_name(make_world: Make) -> None:
    world = make_world(20)
    system, file = world.system, world.page_file
    stream = file.stream()
    first = next(stream)
    system.rename(NAME, "other")
    assert tags([first, *stream]) == [str(number) for number in range(20)]
    assert file.name == "other"
    assert file.append([page("more")]) == 20
    assert system.open("other").server is file.server
    assert system.whereis("pfs.server.other") is file.server
    assert system.whereis(f"pfs.server.{NAME}") is None
    assert list(system.stats()["files"]) == ["other"]
    new = system.open(NAME, page_size=PAGE_SIZE)
    assert new.page_count == 0
    assert system.whereis(f"pfs.server.{NAME}") is new.server


def test_a_name_that_an_actor_of_somebody_elses_has_is_left_to_it(make_world: Make) -> None:
    world = make_world(1)
    stranger = world.scheduler.start(Actor)
    world.scheduler.register("pfs.server.other", stranger)
    world.system.rename(NAME, "other")
    assert world.system.whereis("pfs.server.other") is stranger
    assert tags(world.page_file.read(0)) == ["0"]


def test_a_page_file_that_is_not_open_is_renamed_and_dropped_too(make_world: Make) -> None:
    world = make_world(3)
    image = world.disk.crash_image("none", Random(0))
    with start(image, SimulatedScheduler(1), world.system_options) as system:
        system.rename(NAME, "other")
        assert tags(system.open("other").read(0, 3)) == ["0", "1", "2"]
    with start(image, SimulatedScheduler(1), world.system_options) as system:
        system.drop("other")
        assert system.names() == []
    assert image.listdir("base/5") == []


# ------------------------------------------------------------------------------------------ drop


def test_the_files_of_a_dropped_page_file_go_with_the_next_checkpoint(make_world: Make) -> None:
    world = make_world(9)
    Client(world).append([page("dirty")])
    world.settle()
    assert len(world.storage.dirty) == 1
    world.system.drop(NAME)
    assert len(world.storage.dirty) == 0
    assert world.storage.table.stats()["pages"] == 0
    assert world.disk.listdir("base/5") == ["16384", "16384_sum"]
    assert names_after_a_crash(world) == []
    world.checkpoint()
    assert world.disk.listdir("base/5") == []
    assert world.storage.open_files == {}


def test_a_checkpoint_that_began_before_the_drop_leaves_the_files(make_world: Make) -> None:
    world = make_world()
    world.system.open("other", page_size=PAGE_SIZE).append([page("x")])
    world._hold_up(world.storage.store.catalog, "save", "save")
    client, other = Client(world), Client(world)
    world.hold("save")
    client.append([page("dirty")])
    world.settle()
    checkpoint = world.next_ref()
    world.storage.checkpointer.tell(MakeCheckpoint(other.ref, checkpoint))
    world.settle()
    ref = ask(world, client, DropEntry, NAME)
    assert type(client.end(ref)) is Done
    world.let_go()
    assert other.end(checkpoint) is not None
    assert "16384" in world.disk.listdir("base/5")
    world.checkpoint()
    assert "16384" not in world.disk.listdir("base/5")


def test_a_checkpoint_saves_no_name_whose_record_is_not_durable(make_world: Make) -> None:
    world = make_world(1)
    world.system.rename(NAME, "before")
    world._hold_up(world.storage.store.catalog, "save", "save")
    client = Client(world)
    world.hold("save")
    world.storage.checkpointer.tell(MakeCheckpoint(None))
    world.until(lambda: "save" in world.calls)
    world.hold("sync")
    world.storage.catalog.tell(RenameEntry(world.next_ref(), client.ref, "before", "after"))
    world.until(lambda: "after" in world.storage.store.catalog.table.entries)
    world.held.discard("save")
    world.until(lambda: b'"before"' in world.disk.durable_files["pfs.catalog"])
    world.settle()
    assert names_after_a_crash(world) == ["before"]
    world.let_go()
    assert names_after_a_crash(world) == ["after"]


def test_a_page_file_is_dropped_while_its_pages_are_being_written(make_world: Make) -> None:
    world = make_world(dirty_bytes=1)
    client = Client(world)
    world.hold("write")
    client.append([page("x")] * 6)
    world.settle()
    assert world.storage.dirty.writes_under_way(16384) > 0
    ref = ask(world, client, DropEntry, NAME)
    assert type(client.end(ref)) is Done
    world.let_go()
    world.checkpoint()
    assert world.disk.listdir("base/5") == []
    assert not world.panics
    world.system.open("new", page_size=PAGE_SIZE).append([page("y")])


def test_the_log_does_not_speak_of_a_page_file_behind_its_drop(make_world: Make) -> None:
    world = make_world(dirty_bytes=1)
    client = Client(world)
    world._hold_up(world.file, "sidecar_blocks", "sidecar_blocks")
    world.hold("sidecar_blocks")
    client.append([page("x")] * 6)
    world.settle()
    assert "sidecar_blocks" in world.calls
    ref = ask(world, client, DropEntry, NAME)
    assert type(client.end(ref)) is Done
    world.storage.checkpointer.tell(MakeCheckpoint(None))  # its redo point is past the DROP
    world.settle()
    world.let_go()
    assert names_after_a_crash(world) == []
    world.checkpoint()
    assert world.disk.listdir("base/5") == []


def test_what_is_being_logged_ends_before_the_drop_and_nothing_is_taken_up_after_it(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    world.hold("sync")
    written, read = client.write(0, [page("x")]), client.read(0, 3)
    world.settle()
    dropped = ask(world, client, DropEntry, NAME)
    refused = client.append([page("late")])
    world.settle()
    assert isinstance(client.error(refused), ServerInactive)
    assert client.end(dropped) is None
    assert world.system._store.catalog.names() == [NAME]
    world.let_go()
    client.written(written)
    assert client.end(read) is not None
    assert type(client.end(dropped)) is Done
    assert not world.server.is_alive()


def test_a_server_that_is_started_again_while_its_file_is_dropped_is_stopped_again(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    world.hold("sync")
    first = client.write(0, [page("x")])
    world.settle()
    dropped = ask(world, client, DropEntry, NAME)
    client.ask_for(Start)
    second = client.append([page("y")])
    world.settle()
    world.let_go()
    client.written(first)
    assert type(client.end(dropped)) is Done
    assert client.end(second) is not None
    assert names_after_a_crash(world) == []


def test_no_server_starts_again_once_the_drop_is_in_the_log(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    world.hold("sync")
    dropped = ask(world, client, DropEntry, NAME)
    started = client.ask_for(Start)
    appended = client.append([page("y")])
    world.settle()
    assert isinstance(client.error(started), PageFileNotFound)
    assert isinstance(client.error(appended), ServerInactive)
    world.let_go()
    assert type(client.end(dropped)) is Done


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_page_file_whose_server_has_ended_can_be_dropped(make_world: Make, how: str, when: str) -> None:
    world = make_world(3)
    client = Client(world)
    if when == "meanwhile":
        world.hold("sync")
        client.write(0, [page("x")])
        world.settle()
        ref = ask(world, client, DropEntry, NAME)
        assert client.end(ref) is None
    world.server.kill() if how == "kill" else world.server.stop(block=False)
    world.let_go()
    if when == "before":
        ref = ask(world, client, DropEntry, NAME)
    assert type(client.end(ref)) is Done
    assert world.system.names() == []


def test_a_file_that_cannot_be_removed_is_removed_by_the_next_start(make_world: Make) -> None:
    world = make_world(3)
    world.disk.faults.append(Fault(errno.ENOSPC, operation="unlink", path="base/5/16384"))
    world.system.drop(NAME)
    world.checkpoint()
    assert not world.panics
    assert world.disk.listdir("base/5") == ["16384"]
    world.system.stop()
    start(world.disk, SimulatedScheduler(1), world.system_options).stop()
    assert world.disk.listdir("base/5") == []


# ------------------------------------------------------------------------------------------ giving up


def test_a_drop_that_was_given_up_while_writes_end_leaves_the_page_file_as_it_was(make_world: Make) -> None:
    world = make_world(3)
    be_impatient(world)
    client = Client(world)
    world.hold("sync")
    written = client.write(0, [page("x")])
    world.settle()
    with pytest.raises(Timeout):
        world.system.drop(NAME)
    world.let_go()
    client.written(written)
    assert world.system.names() == [NAME]
    assert world.page_file.append([page("y")]) == 3
    assert tags(world.page_file.read(0, 4)) == ["x", "1", "2", "y"]


def test_a_drop_that_was_given_up_when_it_was_logged_goes_on_to_its_end(make_world: Make) -> None:
    world = make_world(3)
    be_impatient(world)
    world.hold("sync")
    with pytest.raises(Timeout):
        world.system.drop(NAME)
    with pytest.raises(Timeout):
        world.system.names()
    world.let_go()
    assert world.system.names() == []
    assert world.system.open(NAME, page_size=PAGE_SIZE).page_count == 0


@pytest.mark.parametrize("durable", [True, False])
def test_a_creation_that_was_given_up_is_known_before_the_name_is_used_again(make_world: Make, durable: bool) -> None:
    world = make_world()
    be_impatient(world)
    world.hold("sync")
    with pytest.raises(Timeout):
        world.system.open("new")
    world.let_go()
    if durable:
        world.checkpoint()
    file = world.system.open("new", page_size=8192)
    assert names_after_a_crash(world) == ["new", NAME]
    assert file.append([bytes(8192)]) == 0


def test_a_server_that_was_inactive_stays_so_when_the_drop_is_given_up(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    world.hold("sync")
    client.write(0, [page("x")])
    world.settle()
    client.ask_for(Stop)
    ref = ask(world, client, DropEntry, NAME)
    give_up(world, client, ref)
    assert isinstance(client.error(ref), Cancelled)
    world.let_go()
    refused = client.read(0)
    world.settle()
    assert isinstance(client.error(refused), ServerInactive)


def test_changes_are_made_one_after_the_other_and_those_that_wait_can_be_given_up(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    world.hold("sync")
    refs = [ask(world, client, RenameEntry, before, after) for before, after in ((NAME, "b"), ("b", "c"), ("c", "d"))]
    synced = ask(world, client, Sync)
    give_up(world, client, refs[1])
    give_up(world, client, 12345)
    assert [client.end(ref) is None for ref in (*refs, synced)] == [True, False, True, True]
    give_up(world, client, refs[0])
    world.let_go()
    assert type(client.end(refs[0])) is Done
    assert isinstance(client.error(refs[1]), Cancelled)
    assert isinstance(client.error(refs[2]), PageFileNotFound)
    assert type(client.end(synced)) is Done
    assert world.system.names() == ["b"]


# ------------------------------------------------------------------------------------------ no space, failures


@pytest.mark.parametrize(
    "change",
    [
        lambda system: system.open("new", page_size=PAGE_SIZE),
        lambda system: system.rename(*system.names(), "other"),
        lambda system: system.drop(*system.names()),
    ],
    ids=["create", "rename", "drop"],
)
def test_without_space_nothing_is_changed_and_later_it_can_be(
    make_world: Make, change: Callable[[System], object]
) -> None:
    world = make_world(3, wal=SMALLEST_LOG)
    for path in ("pfs_wal/xlogtemp.*", "base/*"):  # no more segments, and no checkpoint that would free one
        world.disk.faults.append(Fault(errno.ENOSPC, operation="pwritev", path=path, forever=True))
    world.page_file.append([page("dirty")])

    def rename_for_ever() -> None:
        while True:
            world.system.rename(*world.system.names(), f"name {world.log.buffer.records}")

    with pytest.raises(NoSpace):
        rename_for_ever()
    while world.log.buffer.room >= HEADER_SIZE:  # there may be room for a shorter record
        world.log.buffer.insert(Noop())
    [name] = world.system.names()
    reserve = world.log.buffer.reserve
    with pytest.raises(NoSpace):
        change(world.system)
    assert world.system.names() == [name]
    assert world.disk.listdir("base/5") == ["16384", "16384_sum"]
    assert world.log.buffer.reserve == reserve
    assert tags(world.page_file.read(0, 4)) == ["0", "1", "2", "dirty"]
    world.disk.faults.clear()
    world.system.checkpoint()
    change(world.system)
    assert world.system.names() != [name]


def test_a_change_that_finds_no_room_waits_for_a_checkpoint_that_makes_some(make_world: Make) -> None:
    world = make_world(wal=SMALLEST_LOG)
    for _ in range(200):
        world.system.rename(NAME, "other")
        world.system.rename("other", NAME)
    assert world.system.stats()["wal"]["checkpoints"] > 0
    assert not world.panics


def test_a_catalog_that_cannot_be_saved_only_delays_the_checkpoint(make_world: Make) -> None:
    world = make_world(3)
    world.system.rename(NAME, "other")
    world.disk.faults.append(Fault(errno.ENOSPC, operation="pwritev", path="pfs.catalog.new"))
    world.system.checkpoint()
    assert b"other" in world.disk.durable_files["pfs.catalog"]
    assert not world.panics


def test_who_waits_for_a_change_when_the_system_fails_is_told(make_world: Make) -> None:
    world = make_world(3)
    client = Client(world)
    world.disk.faults.append(Fault(errno.EIO, operation="fdatasync", path="pfs_wal/*", forever=True))
    refs = []
    for kind, *arguments in ((RenameEntry, NAME, "b"), (DropEntry, "b"), (Sync,)):
        refs.append(world.next_ref())
        world.storage.catalog.tell(kind(refs[-1], client.ref, *arguments))
    world.settle()
    assert world.panics
    for ref in refs:
        assert isinstance(client.error(ref), SystemFailed)


def test_a_catalog_server_whose_own_code_fails_ends_the_system_and_leaves_nobody_waiting(make_world: Make) -> None:
    world = make_world(3)
    world.storage.catalog._actor._decide = lambda message: 1 / 0
    with pytest.raises(SystemFailed, match="division by zero"):
        world.system.drop(NAME)
    assert world.panics


def test_a_checkpointer_whose_own_code_fails_ends_the_system_and_leaves_nobody_waiting(make_world: Make) -> None:
    world = make_world(3)
    world.storage.checkpointer._actor._flushed = lambda token: 1 / 0
    with pytest.raises(SystemFailed, match="division by zero"):
        world.system.checkpoint()
    assert world.panics


def test_a_system_whose_last_change_is_not_known_stops_without_a_last_checkpoint(make_world: Make) -> None:
    world = make_world(3)
    be_impatient(world)
    world.hold("sync")
    with pytest.raises(Timeout):
        world.system.rename(NAME, "other")
    image = world.disk.crash_image("none", Random(0))
    world.held.clear()
    world.system.stop()
    with start(world.disk, SimulatedScheduler(1), world.system_options) as system:
        assert system.names() == ["other"]
    with start(image, SimulatedScheduler(1), world.system_options) as system:
        assert system.names() == [NAME]


# ------------------------------------------------------------------------------------------ what is found at the start


def stopped(pages: int) -> SimulatedFileSystem:
    """A disk with a page file of so many pages, of a system that was stopped in order."""
    world = World(pages)
    world.stop()
    return world.disk


def reopened(disk: SimulatedFileSystem) -> System:
    return start(disk, SimulatedScheduler(1), SystemOptions(wal=SMALL_LOG))


def set_length(disk: SimulatedFileSystem, path: str, length: int) -> None:
    disk.on_operation = None
    descriptor = disk.open(path, 2)
    disk.ftruncate(descriptor, length)
    disk.close(descriptor)


def test_a_page_file_that_has_lost_pages_is_not_opened_and_others_are() -> None:
    disk = stopped(5)
    set_length(disk, "base/5/16384", 3 * PAGE_SIZE)
    with reopened(disk) as system:
        for repair in (False, True):
            with pytest.raises(CorruptionFound, match="has 3 pages, and 5 were committed"):
                system.open(NAME, repair=repair)
        assert system.open("other").append([bytes(8192)]) == 0


def test_pages_lost_by_a_page_file_that_nobody_has_opened_since_are_missed_too() -> None:
    disk = stopped(5)
    for _ in range(2):
        reopened(disk).stop()  # makes a checkpoint, which counts the pages of all page files
    set_length(disk, "base/5/16384", 3 * PAGE_SIZE)
    with reopened(disk) as system, pytest.raises(CorruptionFound, match="has 3 pages, and 5 were committed"):
        system.open(NAME)


def test_pages_that_were_never_committed_are_cut_off_when_the_page_file_is_opened() -> None:
    disk = stopped(5)
    set_length(disk, "base/5/16384", 9 * PAGE_SIZE)
    with reopened(disk) as system:
        file = system.open(NAME)
        assert file.page_count == 5
        assert file.append([page("next")]) == 5
        assert tags(file.read(0, 6)) == ["0", "1", "2", "3", "4", "next"]


def test_a_catalog_that_is_older_than_the_log_is_refused_before_it_makes_strays_of_files() -> None:
    disk = stopped(5)
    old = disk.durable_files["pfs.catalog"]
    with reopened(disk) as system:
        system.open("newer").append([bytes(8192)])
    disk.on_operation = None
    descriptor = disk.open("pfs.catalog", 2)
    disk.ftruncate(descriptor, 0)
    disk.pwritev(descriptor, [old], 0)
    disk.close(descriptor)
    before = disk.listdir("base/5")
    with pytest.raises(CorruptionFound, match="page file 16385, which the catalog does not have"):
        reopened(disk)
    assert disk.listdir("base/5") == before


def test_page_files_that_were_there_before_the_log_are_taken_over() -> None:
    disk = stopped(5)
    disk.on_operation = None
    disk.unlink("pfs_control")
    for name in disk.listdir("pfs_wal"):
        disk.unlink(f"pfs_wal/{name}")
    for _ in range(2):
        with reopened(disk) as system:
            assert system.open(NAME).page_count == 5
            assert system.open("new")._state.file_id == 16385
