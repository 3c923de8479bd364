"""Page files are made, renamed and dropped, and everything ends at some operation of the disk: what is there then.

A *life* is a short sequence of changes to a few names, drawn from a seed, on a system whose log and limits are so small
that pages are written back and checkpoints made meanwhile.  At each operation of the disk, for each crash policy, what
may be left is recovered: all changes that were acknowledged must be there, of the one under way all or nothing, and no
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import Any, NamedTuple

import pytest

from pfs.actors.catalog_server import CatalogServer, DropEntry
from pfs.actors.file_worker import Carry
from pfs.actors.wal_server import WalFlushed
from pfs.files.catalog import Catalog
from pfs.files.redo_target import StoreRedoTarget
from pfs.files.store import PageFileStore
from pfs.storage import recover as recover_store
from pfs.system import System, SystemOptions
from pfs.testing.disk import CrashPolicy
from pfs.testing.faults import Operation
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.shared_log import WalOptions

PAGE_SIZE = 512
SEGMENT = 4 << 10
POLICIES: tuple[CrashPolicy, ...] = ("none", "all", "prefix", "subset", "torn")
OPTIONS = SystemOptions(
    segment_bytes=4 * PAGE_SIZE,
    dirty_bytes=4 * PAGE_SIZE,
    descriptors=3,
    call_timeout=1e9,
    wal=WalOptions(
        segment_bytes=SEGMENT, most_bytes=64 << 10, checkpoint_bytes=SEGMENT, checkpoint_seconds=1e9, batch_bytes=2000
    ),
)

DEEDS = [*["create", "append"] * 3, *["rename", "drop"] * 2, "write", "truncate", "checkpoint", "restart"]

Pages = tuple[bytes, ...]
State = dict[str, Pages]
"""The page files and their pages."""


class Image(NamedTuple):
    """What a crash leaves, and which states it may stand for."""

    disk: SimulatedFileSystem
    allowed: tuple[State, ...]
    used: frozenset[int]
    """Numbers that page files have or had."""
    where: str


class Life:
    """A system on a simulated disk of which images are taken (see the module)."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.images: list[Image] = []
        self.taking: tuple[CrashPolicy, ...] = POLICIES
        self._seen: set[int] = set()
        self._states: list[State] = [{}]
        self._acknowledged = 0
        self._used: set[int] = set()
        self._numbers = count(1)
        self._deed = "start"
        self.scheduler = SimulatedScheduler(seed)
        self.disk = SimulatedFileSystem(keep_journal=False)
        self.disk.on_operation = self._before
        self.disk.make_condition = self.scheduler.condition
        self.system = System(self.disk, OPTIONS, runtime=self.scheduler)
        self._seed = seed

    def _before(self, operation: Operation) -> None:
        for policy in self.taking:
            image = self.disk.crash_image(policy, self.rng)
            content = hash(frozenset(image.durable_files.items()))
            key = hash((content, self._acknowledged, len(self._states)))
            if key not in self._seen:
                self._seen.add(key)
                image.on_operation, image.make_condition = None, None
                allowed = tuple(self._states[self._acknowledged :])
                where = (
                    f"{self._deed}, before operation {operation.sequence}, {operation.name} {operation.path}, {policy}"
                )
                self.images.append(Image(image, allowed, frozenset(self._used), where))
        self.scheduler.file_call(operation)

    def _do(self, deed: str, state: State, call: Callable[[], object]) -> None:
        self._deed = deed
        self._states.append(state)
        call()
        self._acknowledged = len(self._states) - 1

    # -- changes

    def create(self, name: str) -> None:
        def create() -> None:
            number = self.system.open(name, page_size=PAGE_SIZE)._state.file_id
            assert number not in self._used
            self._used.add(number)

        self._do(f"create {name}", {**self._now, name: ()}, create)

    def append(self, name: str, n: int) -> None:
        pages = tuple(self._page() for _ in range(n))
        file = self.system.open(name)
        self._do(f"append to {name}", {**self._now, name: self._now[name] + pages}, lambda: file.append(list(pages)))

    def write(self, name: str) -> None:
        before, page = self._now[name], self._page()
        at = self.rng.randrange(len(before))
        state = {**self._now, name: (*before[:at], page, *before[at + 1 :])}
        self._do(f"write to {name}", state, lambda: self.system.open(name).write(at, [page]))

    def truncate(self, name: str) -> None:
        n = self.rng.randint(0, len(self._now[name]))
        state = {**self._now, name: self._now[name][:n]}
        self._do(f"truncate {name}", state, lambda: self.system.open(name).truncate(n))

    def rename(self, name: str, new_name: str) -> None:
        state = {new_name if each == name else each: pages for each, pages in self._now.items()}
        self._do(f"rename {name} to {new_name}", state, lambda: self.system.rename(name, new_name))

    def drop(self, name: str) -> None:
        state = {each: pages for each, pages in self._now.items() if each != name}
        self._do(f"drop {name}", state, lambda: self.system.drop(name))

    def checkpoint(self) -> None:
        self._do("checkpoint", self._now, self.system.checkpoint)

    def restart(self) -> None:
        """Stop in order, and start anew: no page file is open then."""

        def restart() -> None:
            self.system.stop()
            self.scheduler.abandon()
            self.scheduler = SimulatedScheduler(self._seed)
            self.disk.make_condition = self.scheduler.condition
            self.system = System(self.disk, OPTIONS, runtime=self.scheduler)

        self._do("restart", self._now, restart)

    @property
    def _now(self) -> State:
        return self._states[-1]

    def _page(self) -> bytes:
        return b"%08d" % next(self._numbers) * (PAGE_SIZE // 8)

    # -- a whole life

    def change_something(self) -> None:
        rng, names = self.rng, sorted(self._now)
        free = [name for name in "abcd" if name not in names]
        deed = rng.choice(DEEDS)
        if deed == "create" and free:
            self.create(rng.choice(free))
        elif deed == "checkpoint":
            self.checkpoint()
        elif deed == "restart":
            self.restart()
        elif names:
            name = rng.choice(names)
            if deed == "append":
                self.append(name, rng.randint(1, 5))
            elif deed == "write" and self._now[name]:
                self.write(name)
            elif deed == "truncate":
                self.truncate(name)
            elif deed == "rename" and free:
                self.rename(name, rng.choice(free))
            elif deed == "drop":
                self.drop(name)

    def end(self) -> None:
        self._do("stop", self._now, self.system.stop)


def found_in(store: PageFileStore, counts: dict[int, int]) -> State:
    state: State = {}
    for entry in store.catalog.entries():
        file = store.open(entry, counts[entry.number], repair=False)
        state[entry.name] = tuple(file.read(0, file.block_count())) if file.block_count() else ()
    return state


def recover(disk: SimulatedFileSystem) -> tuple[State, set[int], int]:
    """What plain recovery finds: the state, the numbers in use, the next number; nothing is left open."""
    store = PageFileStore(disk, clock=lambda: 0.0, segment_bytes=OPTIONS.segment_bytes, descriptors=3)
    try:
        log = recover_store(store, OPTIONS.wal, lambda: 1)
        log.files.close()
        log.control.close()
        numbers = {entry.number for entry in store.catalog.entries()}
        assert numbers == log.page_counts.keys()
        next_number = store.catalog.next_number
        assert store.catalog.strays() == []
        return found_in(store, log.page_counts), numbers, next_number
    finally:
        store.close()


def check(image: Image, disk: SimulatedFileSystem | None = None) -> State:
    state, numbers, next_number = recover(disk or image.disk)
    assert state in image.allowed, (image.where, list(state), [list(each) for each in image.allowed])
    assert max(image.used | numbers, default=0) < next_number, image.where
    return state


@contextmanager
def started(disk: SimulatedFileSystem, seed: int) -> Iterator[System]:
    scheduler = SimulatedScheduler(seed)
    disk.on_operation, disk.make_condition = scheduler.file_call, scheduler.condition
    try:
        with System(disk, OPTIONS, runtime=scheduler) as system:
            yield system
    finally:
        scheduler.abandon()


def lives_on(image: Image, seed: int) -> None:
    """A whole system starts on an image, and page files are made, renamed and dropped again."""
    state = check(image, image.disk.crash_image("all", Random(0)))
    with started(image.disk, seed) as system:
        assert system.names() == sorted(state)
        for name, pages in state.items():
            file = system.open(name)
            assert tuple(file.read(0, file.page_count) if file.page_count else ()) == pages, image.where
        number = system.open("new", page_size=PAGE_SIZE)._state.file_id
        assert number not in image.used
        system.open("new").append([bytes(PAGE_SIZE)])
        if state:
            first, *others = sorted(state)
            system.rename(first, "renamed")
            for name in others:
                system.drop(name)
    again, _, _ = recover(image.disk)
    expected = {"new": (bytes(PAGE_SIZE),)}
    if state:
        expected["renamed"] = state[min(state)]
    assert again == expected
    paths = [path for path in image.disk.durable_files if path.startswith("base/")]
    left = {int(path.split("/")[-1].split(".")[0].removesuffix("_sum")) for path in paths}
    assert len(left) == len(again), "the files of dropped page files are gone"


def live(seed: int, whole_systems: int = 20) -> None:
    """A life, and a look at what each image of it holds; one in `whole_systems` by a whole system."""
    life = Life(seed)
    try:
        for _ in range(60):
            life.change_something()
        life.end()
        for index, image in enumerate(life.images):
            if index % whole_systems == 0:
                lives_on(image, seed)
            else:
                check(image)
    except Exception as error:
        raise AssertionError(f"life {seed}, which was to {life._deed}: {error!r}") from error
    finally:
        life.scheduler.abandon()
    assert len(life.images) > 200


@pytest.mark.untraced
@pytest.mark.parametrize("number", range(4))
def test_what_was_acknowledged_is_there_after_a_crash_at_any_operation(number: int, seed: int) -> None:
    live(seed + number)


@pytest.mark.untraced
def test_a_crash_at_any_operation_of_a_recovery_changes_nothing(seed: int) -> None:
    life = Life(seed)
    for _ in range(60):
        life.change_something()
    life.end()
    rng = Random(seed)
    crashes = 0
    for image in rng.sample(life.images, 4):
        plain = check(image, image.disk.crash_image("all", rng))
        later: list[Image] = []

        def take(operation: Operation, image: Image = image, later: list[Image] = later, plain: State = plain) -> None:
            crash = image.disk.crash_image(rng.choice(POLICIES), rng)
            crash.on_operation = None
            later.append(Image(crash, (plain,), image.used, f"{image.where}, then {operation.name} {operation.path}"))

        image.disk.on_operation = take
        check(image)
        for each in later:
            check(each)
        crashes += len(later)
    assert crashes > 100, f"PFS_SEED={seed}"


# ------------------------------------------------------------------------------------------ rules switched off


def answer_before_the_record_is_durable(patch: pytest.MonkeyPatch) -> None:
    log_change, on_receive = CatalogServer._log_change, CatalogServer.on_receive

    def log_and_answer(self: Any, change: Any) -> None:
        log_change(self, change)
        if change.lsn is not None:
            self._take_effect(change)

    def on_receive_but_flushed(self: Any, message: Any) -> None:
        on_receive(self, None if isinstance(message, WalFlushed) else message)

    patch.setattr(CatalogServer, "_log_change", log_and_answer)
    patch.setattr(CatalogServer, "on_receive", on_receive_but_flushed)


def never_save_the_catalog(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalog, "save", lambda self, table: None)


def forget_catalog_changes_in_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoreRedoTarget, "change_catalog", lambda self, changes: None)


def drop_files_before_the_record_is_durable(patch: pytest.MonkeyPatch) -> None:
    log_change = CatalogServer._log_change

    def log_and_remove(self: Any, change: Any) -> None:
        log_change(self, change)
        if change.lsn is not None and isinstance(change.message, DropEntry):
            keeper = self._checkpointer._actor._keeper
            keeper.tell(Carry(lambda: self._catalog.remove_file(change.entry), self._checkpointer, "removing"))

    patch.setattr(CatalogServer, "_log_change", log_and_remove)


KNOCK_OUTS = [
    answer_before_the_record_is_durable,
    never_save_the_catalog,
    forget_catalog_changes_in_recovery,
    drop_files_before_the_record_is_durable,
]


@pytest.mark.untraced
@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    knock_out(monkeypatch)
    for seed in range(20):
        try:
            live(seed, whole_systems=1 << 30)
        except AssertionError as error:
            print(f"noticed in life {seed}: {error}")
            return
    pytest.fail("20 lives did not notice it")
