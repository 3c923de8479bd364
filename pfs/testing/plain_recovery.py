"""Recovery of a crash image by the plain code, without actors, and what must hold of it.

`recover_twice` recovers an image, lets it crash at once, and recovers it again.  That must find the same pages and
leave the data files byte for byte as they are; and since nothing that was not synced is left for the second, it shows
too that the first made durable whatever it says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from random import Random
from types import TracebackType
from typing import NamedTuple

from pfs.check import check
from pfs.errors import DeadlockFound
from pfs.files.store import PageFileStore
from pfs.storage import recover
from pfs.system import SystemOptions
from pfs.testing.crash_model import Pages
from pfs.testing.disk import CrashPolicy
from pfs.testing.file_system import Operation, SimulatedFileSystem

NEW_SYSTEM_ID = 77
"""The id of a log that is made, which recovery does if it finds an empty directory."""

_NO_DATA = ("pfs_wal/", "pfs_control", "pfs.lock", ".pfs-engine-test")


class PowerCut(BaseException):
    """Everything ends here."""


class Found(NamedTuple):
    """What a recovery found."""

    contents: dict[str, Pages]
    """The page files."""
    transactions: int
    """How many transactions it carried out."""
    left: SimulatedFileSystem
    """What is there after a crash at its end, of which all is lost that was not synced."""


def recover_once(fs: SimulatedFileSystem, options: SystemOptions) -> Found:
    """Recover what a file system holds."""
    with ExitStack() as closing:
        store = PageFileStore(
            fs, clock=lambda: 0.0, descriptors=options.descriptors, segment_bytes=options.segment_bytes
        )
        closing.callback(forget, store)
        started = recover(store, options.wal, lambda: NEW_SYSTEM_ID)
        closing.callback(started.control.close)
        closing.callback(started.files.close)
        contents: dict[str, Pages] = {}
        for entry in store.catalog.entries():
            file = store.open(entry, started.page_counts[entry.number], repair=False)
            count = file.block_count()
            contents[entry.name] = tuple(file.read(0, count)) if count else ()
        return Found(contents, started.transactions, detached(fs.crash_image("none", Random(0))))


def forget(store: PageFileStore) -> None:
    """Leave a store as a crash does; its disk is looked at no more."""
    with suppress(BaseException):
        store.close()
    for file in store._pool._descriptors.files():
        file.closed = True  # else it would warn that it has not been closed


class Again(NamedTuple):
    """What a recovery of what another has left came to."""

    contents: dict[str, Pages]
    transactions: int
    data_files: dict[str, bytes]
    """Afterwards."""


def recover_twice(
    fs: SimulatedFileSystem, options: SystemOptions, known: dict[int, Again], *, same_bytes: bool = True
) -> dict[str, Pages]:
    """Recover, crash, recover again; the page files found.  Raises `AssertionError` if the second changes anything.

    known: the second recoveries so far, by the identity of what they began with; what differs in its end only, as a
    torn tail does, leaves the same.  same_bytes: the second may not even change data files where nobody sees it.
    """
    first = recover_once(fs, options)
    before = data_files(first.left)
    identity = first.left.identity()
    second = known.get(identity)
    if second is None:
        contents, transactions, left = recover_once(first.left, options)
        second = known[identity] = Again(contents, transactions, data_files(left))
    if second.contents != first.contents:
        raise AssertionError("the second recovery finds other pages than the first")
    if second.transactions:
        raise AssertionError(f"the second recovery carries out {second.transactions} transactions anew")
    after = second.data_files
    if same_bytes and before != after:
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        raise AssertionError(f"the second recovery changed {', '.join(changed)}")
    return first.contents


def check_files(fs: SimulatedFileSystem, options: SystemOptions) -> str:
    """The damage that `pfs check` finds before recovery or after it; empty if there is none, as after every crash."""
    for when in ("before", "after"):
        damage = [each for each in check(fs, segment_bytes=options.segment_bytes).findings if each.damage]
        if damage:
            return f"{when} recovery: {'; '.join(map(str, damage))}"
        fs = recover_once(fs, options).left
    return ""


def recover_and_crash(
    fs: SimulatedFileSystem, options: SystemOptions, operations: int, policy: CrashPolicy, random: Random
) -> SimulatedFileSystem | None:
    """Recover, and crash before the operation of that number; what is left, None if there were not so many."""
    seen = 0
    left: SimulatedFileSystem | None = None

    def crash(operation: Operation) -> None:
        nonlocal left, seen
        seen += 1
        if seen > operations:
            left = left or detached(fs.crash_image(policy, random))
            raise PowerCut

    detached(fs, crash)
    try:
        recover_once(fs, options)
    except (PowerCut, DeadlockFound):  # who tidies up may wait for what was cut off
        if left is None:
            raise
    return left


def detached(fs: SimulatedFileSystem, on_operation: Callable[[Operation], None] | None = None) -> SimulatedFileSystem:
    """An image without the hook and the locks of the simulation that it was taken in."""
    fs.on_operation, fs.make_condition = on_operation, _Alone
    return fs


class _Alone:
    """The lock of somebody who is alone: it is always free, and nobody will ever notify."""

    def __enter__(self) -> bool:
        return True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        raise DeadlockFound("recovery waits, and nobody else is there")

    def notify(self, n: int = 1) -> None:
        pass

    def notify_all(self) -> None:
        pass


def data_files(fs: SimulatedFileSystem) -> dict[str, bytes]:
    """What is durable of all files but the log's own and those that mean nothing."""
    return {path: content for path, content in fs.durable_files.items() if not path.startswith(_NO_DATA)}
