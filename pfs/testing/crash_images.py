"""Crash images: which to take, and what must hold of each.

Identical images are recovered once; what is found is compared with what the model (`pfs.testing.crash_model`) allows
at the moment at which each was taken.  On each distinct image:

* the plain recovery code runs twice, and the second changes nothing (`pfs.testing.plain_recovery`);
* for one in `NESTED`, recovery is cut off at some operation, what is left of that is an image too; and `pfs check`
  finds no damage, before recovery and after it;
* one in `SYSTEMS` is kept for a whole system (`pfs.testing.crash_run`).

One policy more than a disk knows: `kill` ends the process alone, so that nothing is lost yet; recovery then works on
files of which the cache holds more than the disk, and the crash comes after it.
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple, get_args

from pfs.testing.crash_model import CrashModel, Pages
from pfs.testing.disk import CrashPolicy
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.plain_recovery import Again, check_files, recover_and_crash, recover_twice
from pfs.testing.quiet import quiet
from pfs.testing.workloads import Workload

Policy = Literal[CrashPolicy, "kill"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

DRAWS: dict[Policy, int] = {"prefix": 1, "subset": 2, "torn": 2, "garbage": 1}
"""Images of one moment under one policy; 1 where nothing is left to chance."""
SYSTEMS = 50
"""One in so many distinct images is given to a whole system."""
NESTED = 10
"""For one in so many, recovery itself crashes."""
DEEPEST = 3
"""Crashes, one in the recovery from another."""
OPERATIONS_OF_RECOVERY = 80
"""Within so many operations recovery is cut off."""

AFTER_RECOVERY: tuple[CrashPolicy, ...] = ("none", "all", "prefix", "subset", "torn", "size")
"""Not "garbage": behind a process that was killed, recovery writes the end of the log again (`pfs.wal.recovery`), and a
crash then that puts random bytes in the place of durable ones is more than is promised."""


class Finding(NamedTuple):
    """A promise that was broken; `replay` is the command that shows it again."""

    replay: str
    operation: str
    what: str

    def __str__(self) -> str:
        return f"{self.what}\n  before {self.operation}\n  replay: {self.replay}"


@dataclass
class Report:
    """What came of a campaign."""

    findings: list[Finding] = field(default_factory=list)
    images: int = 0
    """Distinct crash images, each recovered by the plain code."""
    systems: int = 0
    """Images that a whole system was started on."""
    events: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        events = " ".join(f"{name}={number}" for name, number in sorted(self.events.items()))
        return f"images={self.images} systems={self.systems} findings={len(self.findings)} {events}"


class Moment(NamedTuple):
    """Where a crash image comes from: also the seed of all that is chosen for it."""

    workload: Workload
    replay: str
    operation: str
    same_bytes: bool = True
    """Whether a second recovery may not change data files at all (`recover_twice`)."""

    def within(self, operation: str) -> Moment:
        return self._replace(operation=f"{self.operation}; {operation}")


class Kept(NamedTuple):
    """An image for a system, with what may be found on it."""

    image: SimulatedFileSystem
    model: CrashModel
    at: Moment
    random: Random
    """For all that is chosen from here on."""


class CrashImages:
    """Recovers crash images, each distinct one once (see the module).  For use inside `crashing()`.

    draws: how many times the images of `DRAWS`.
    """

    def __init__(self, report: Report | None = None, *, draws: int = 1) -> None:
        self.report = report or Report()
        self.for_systems: list[Kept] = []
        self._draws = draws
        self._recovered: dict[int, dict[str, Pages] | str] = {}
        self._again: dict[int, Again] = {}
        self._pages: dict[bytes, bytes] = {}

    def to_take(self, unsynced: int) -> Iterator[tuple[Policy, int]]:
        """Which images to take of a disk with so many changes that no sync covers: policies and draws."""
        for policy in POLICIES if unsynced else POLICIES[:1]:
            if unsynced > 1 or policy not in ("prefix", "subset"):  # of one change there are none and all
                for draw in range(self._draws * DRAWS[policy] if policy in DRAWS else 1):
                    yield policy, draw

    def check(self, image: SimulatedFileSystem, model: CrashModel, at: Moment, depth: int = 0) -> None:
        """Recover an image, if that was not done yet, and compare.  `depth`: how many crashes were before this one."""
        identity = image.identity()
        found = self._recovered.get(identity)
        if found is None:
            self.report.images += 1
            random = Random(f"{at.replay} {depth}")
            if depth < DEEPEST and random.randrange(SYSTEMS) == 0:
                self.for_systems.append(Kept(image.killed_image(), model.copy(), at, random))
            if depth < DEEPEST and random.randrange(NESTED) == 0:
                self._crash_in_recovery(image.killed_image(), model, at, random, depth)
                self._check_files(image.killed_image(), at)
            found = self._recovered[identity] = self._recover(image, at)
        wrong = found if isinstance(found, str) else model.check(found)
        if wrong is not None:
            self.found(at, wrong)

    def found(self, at: Moment, what: str) -> None:
        """A promise is broken."""
        self.report.findings.append(Finding(at.replay, at.operation, what))

    def _recover(self, image: SimulatedFileSystem, at: Moment) -> dict[str, Pages] | str:
        try:
            found = recover_twice(image, at.workload.options, self._again, same_bytes=at.same_bytes)
        except Exception as error:
            return f"recovery failed: {type(error).__name__}: {error}"
        pages = self._pages
        return {name: tuple([pages.setdefault(page, page) for page in each]) for name, each in found.items()}

    def _crash_in_recovery(
        self, image: SimulatedFileSystem, model: CrashModel, at: Moment, random: Random, depth: int
    ) -> None:
        cut, policy = random.randrange(OPERATIONS_OF_RECOVERY), random.choice(AFTER_RECOVERY)
        try:
            left = recover_and_crash(image, at.workload.options, cut, policy, random)
        except Exception:
            return  # as it will without the crash
        if left is not None:
            self.report.events["crashes in recovery"] += 1
            self.check(left, model, at.within(f"operation {cut} of its recovery, {policy}"), depth + 1)

    def _check_files(self, image: SimulatedFileSystem, at: Moment) -> None:
        self.report.events["checks"] += 1
        damage = check_files(image, at.workload.options)
        if damage:
            self.found(at, f"pfs check: {damage}")


@contextmanager
def crashing() -> Iterator[None]:
    """Disks fail and systems end half-way here: neither that nor what they leave open need be told."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
