"""The error sweep: the k-th file operation fails, for every k, in every way, once or from then on.

After SQLite's tests of I/O errors (sqlite.org/testing.html): a scenario runs again and again, each time with one
failure, one operation later, until no operation is left to fail.  Of each run the same must hold:

* every call ends, in success or in an error of pfs, and every request in one answer;
* after a panic nothing is acknowledged; a failed sync is one, and so is every error that only recovery can mend;
* an interrupted call and a short transfer are nothing that anybody is told of;
* when the failure is over, a system that has not panicked writes again;
* every descriptor is closed in the end;
* a crash then, and a new start without a crash, both find what the model allows (`pfs.testing.crash_model`), and what a
  start finds is durable, also if a failed sync has left the cache with what the disk does not have.

    python -m pfs.testing.error_sweep                                      all of it
    python -m pfs.testing.error_sweep --scenario writes --operation 57 --failure "EIO once revert"     one run
"""

from __future__ import annotations

import argparse
import errno
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from random import Random
from typing import Literal, NamedTuple

from pfs.errors import FatalError, PfsError, SystemFailed
from pfs.testing.crash_clients import WatchedSystem, Watcher, Work
from pfs.testing.crash_images import CrashImages, Finding, Moment, Report, crashing
from pfs.testing.crash_model import CrashModel, Pages
from pfs.testing.crash_run import prepared_disk, start_systems
from pfs.testing.faults import Fault
from pfs.testing.file_system import Operation, SimulatedFileSystem
from pfs.testing.plain_recovery import detached, recover_once
from pfs.testing.scheduler import SimulatedScheduler
from pfs.testing.workloads import SMALL, Action, Workload

MOST_OPERATIONS = 20_000
"""File operations of a run; with more it tries again and again."""
SHORT, ALWAYS_SHORT = 700, 40
"""A short transfer lacks so many bytes; and if all are short, so that it does not go on byte by byte."""

_ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE)
_SYNCS = ("fsync", "fdatasync", "sync_directory")
_TRANSFERS = ("preadv", "preadv_nowait", "pwritev")
_INTERRUPTIBLE = (*_TRANSFERS, "fsync", "fdatasync")
"""Calls that POSIX systems interrupt; Python goes on with some others by itself (PEP 475)."""


class Failure(NamedTuple):
    """One way to fail.  `error`: an errno, 0 for a short transfer."""

    error: int
    forever: bool = False
    failed_sync: Literal["keep", "revert"] = "keep"

    @property
    def is_harmless(self) -> bool:
        """Whether nobody may be told of it."""
        return self.error in (0, errno.EINTR)

    def may_strike(self, operation: str) -> bool:
        """Whether it is another failure than the others if it strikes this operation first."""
        if not self.error:
            return operation in _TRANSFERS
        if self.error == errno.EINTR:
            return operation in _INTERRUPTIBLE
        return self.failed_sync == "keep" or self.forever or operation in _SYNCS

    def __str__(self) -> str:
        name = errno.errorcode[self.error] if self.error else "short"
        return f"{name} {'forever' if self.forever else 'once'} {self.failed_sync}"


FAILURES: dict[str, Failure] = {
    str(failure): failure
    for failure in (
        *(Failure(error, forever) for error in _ERRORS for forever in (False, True)),
        *(Failure(error, failed_sync="revert") for error in _ERRORS),
        Failure(errno.EIO, forever=True, failed_sync="revert"),
        Failure(errno.EINTR),  # no system interrupts for ever
        Failure(0),
        Failure(0, forever=True),
    )
}
"""By the words that name them."""


class Scenario(NamedTuple):
    """What fails: `actions` of one client on a copy of a disk that holds `contents`; None: plain recovery alone."""

    disk: Callable[[], SimulatedFileSystem]
    contents: dict[str, Pages]
    actions: tuple[Action, ...] | None


_WRITES = (
    Action("append", n=5),
    Action("write", n=2, durability="memory"),
    Action("checkpoint"),
    Action("truncate", at=0.5),
    Action("create", n=3),
    Action("write", n=2),
    Action("rename"),
    Action("append", n=2, durability="memory"),
    Action("sync"),
    Action("drop"),
    Action("append", n=9),
)


@cache
def scenarios() -> dict[str, Scenario]:
    """All scenarios by name: the first start, writes with a checkpoint, recovery in a start, and its plain code."""
    left = detached(_crashed())
    contents = recover_once(left.killed_image(), SMALL).contents
    prepared = recover_once(prepared_disk(), SMALL).contents
    return {
        "start": Scenario(lambda: SimulatedFileSystem(keep_journal=False), {}, (Action("create", n=2),)),
        "writes": Scenario(prepared_disk, prepared, _WRITES),
        "recovery": Scenario(left.killed_image, contents, (Action("append", n=2),)),
        "plain recovery": Scenario(left.killed_image, contents, None),
    }


def _crashed() -> SimulatedFileSystem:
    """A disk with much to recover, and a torn tail of the log."""
    fs = prepared_disk()
    images: list[SimulatedFileSystem] = []

    def before(operation: Operation) -> None:
        scheduler.file_call(operation)
        if operation.name == "fdatasync" and operation.path.startswith("pfs_wal/0"):
            images.append(fs.crash_image("torn", Random(1)))

    scheduler = SimulatedScheduler(0)
    fs.make_condition, fs.on_operation = scheduler.condition, before
    work = Work(CrashModel(recover_once(prepared_disk(), SMALL).contents), _Nobody(), lambda: _system(fs, scheduler))
    for action in (*_WRITES, *_WRITES[5:]):
        work.perform(0, action)
    scheduler.abandon()
    return images[-1]


class _Nobody:
    """Whom nothing concerns."""

    def acknowledged(self) -> None:
        pass

    def violate(self, what: str) -> None:
        raise AssertionError(what)


def _system(fs: SimulatedFileSystem, scheduler: SimulatedScheduler, watcher: Watcher | None = None) -> WatchedSystem:
    return WatchedSystem(fs, SMALL, scheduler, watcher or _Nobody())


# ------------------------------------------------------------------------------------------ one run


class _Run:
    """One run of a scenario in which one operation fails; a `Watcher`."""

    def __init__(self, images: CrashImages, name: str, scenario: Scenario, operation: int, failure: Failure | None):
        self.operations: list[str] = []
        self._images = images
        self._scenario = scenario
        self._failure = failure or Failure(0)
        command = f"python -m pfs.testing.error_sweep --scenario {name!r} --operation {operation}"
        self._at = Moment(
            Workload(name, 0, SMALL, ()), f"{command} --failure '{self._failure}'", f"the end, after {self._failure}"
        )
        self._fs = fs = scenario.disk()
        fs.failed_sync = self._failure.failed_sync
        error, short = (
            self._failure.error,
            0 if self._failure.error else ALWAYS_SHORT if self._failure.forever else SHORT,
        )
        self._fault = Fault(error, short, operation, self._failure.forever) if failure is not None else Fault(at=0)
        fs.faults = [self._fault]
        fs.on_operation = self._before
        self._scheduler = SimulatedScheduler(0)
        self._model = CrashModel(scenario.contents)
        self._fatal = False
        """Whether anybody was told that only recovery can tell."""

    def run(self) -> None:
        try:
            if self._scenario.actions is None:
                self._recover()
            else:
                self._fs.make_condition = self._scheduler.condition
                self._run(self._scenario.actions)
        except Exception as error:
            trace = "".join(traceback.format_tb(error.__traceback__)[-3:])
            self.violate(f"ended by {type(error).__name__}: {error}\n{trace}")
        finally:
            self._fs.on_operation = None
            self._scheduler.abandon()
        struck = self._fault.first
        if struck is not None:
            self._at = self._at.within(f"which struck {struck.name} of {struck.path} at {struck.offset}")
            if struck.name in _SYNCS and not self._fatal and not self._may_be_overcome(struck):
                self.violate(f"nothing came of a failed {struck.name}")
        self._check_disk()

    def _may_be_overcome(self, sync: Operation) -> bool:
        """Whether nobody need hear of a failed sync."""
        if self._failure.error == errno.EMFILE and sync.name == "sync_directory":
            return True  # the directory could not be opened, and another file can be closed for it
        return self._failure.is_harmless or sync.path.endswith(".torn")  # what nobody but people will read

    def acknowledged(self) -> None:
        pass

    def violate(self, what: str) -> None:
        self._images.found(self._at, what)

    def _before(self, operation: Operation) -> None:
        if self._scenario.actions is not None:
            self._scheduler.file_call(operation)
        self.operations.append(operation.name)
        if len(self.operations) > MOST_OPERATIONS:
            raise RuntimeError(f"{MOST_OPERATIONS} file operations, and no end")

    def _recover(self) -> None:
        try:
            recover_once(self._fs, SMALL)
        except PfsError as error:
            self._told(error)

    def _run(self, actions: Iterable[Action]) -> None:
        try:
            work = Work(self._model, self, lambda: _system(self._fs, self._scheduler, self))
        except PfsError as error:
            self._told(error)
            self._check_closed()
            return
        for action in actions:
            self._perform(work, action)
        if self._fault.struck and work.system.failed is None:
            self._fs.faults = []
            refused = work.errors.total()
            self._perform(work, Action("append"))
            if work.errors.total() > refused:
                self.violate(f"writing does not go on when the failure is over: {work.errors}")
        try:
            work.stop()
        except PfsError as error:
            self._told(error)
        if work.system.failed is not None:
            self._fatal = True
            if self._failure.is_harmless:
                self.violate(f"the system has failed: {work.system.failed}")
        if self._failure.is_harmless and work.errors:
            self.violate(f"somebody was told: {work.errors}")
        self._check_closed()

    def _perform(self, work: Work, action: Action) -> None:
        try:
            work.perform(0, action)
        except PfsError as error:
            self._told(error)

    def _told(self, error: PfsError) -> None:
        self._fatal = self._fatal or isinstance(error, (FatalError, SystemFailed))
        if self._failure.is_harmless:
            self.violate(f"somebody was told {type(error).__name__}: {error}")

    def _check_closed(self) -> None:
        if self._fs.open_descriptors:
            self.violate(f"descriptors are left: {self._fs.open_descriptors}")
        if self._scheduler.living:
            self.violate(f"actors are left: {[ref.label for ref in self._scheduler.living.values()]}")

    def _check_disk(self) -> None:
        """Start again, after a crash and without one, on a disk that does not fail any more."""
        random = Random(self._at.replay)
        self._fs.faults = []
        left = {
            "a crash": self._fs.crash_image("none", random),
            "a torn crash": self._fs.crash_image("torn", random),
            "no crash": self._fs.killed_image(),
        }
        # The sync of a data file that was cut may have failed.  Then the cache says that it is as short as it should
        # be, the disk has it longer, and nothing tells recovery; it is cut when it is recovered the next time.
        lost = self._failure.error not in (0, errno.EINTR) and self._fatal
        for what, image in left.items():
            at = self._at.within(f"{what}, and a new start")._replace(same_bytes=not (lost and what == "no crash"))
            self._images.check(detached(image), self._model, at)


# ------------------------------------------------------------------------------------------ all runs


def run(
    names: Iterable[str] | None = None,
    *,
    part: tuple[int, int] = (0, 1),
    budget_seconds: float = math.inf,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Sweep scenarios (None: all); `part` (i, n): only every n-th operation, from the i-th on.

    The report's `events["runs"]` counts the runs.
    """
    report = Report()
    end = time.monotonic() + budget_seconds
    checked = CrashImages(report)
    with crashing():
        for name, operation, failure in _runs(names or scenarios(), *part):
            before = len(report.findings)
            run_one(name, operation, failure, checked)
            if on_finding is not None:
                for finding in report.findings[before:]:
                    on_finding(finding)
            if time.monotonic() > end:
                break
        start_systems(checked)
    return report


def run_one(name: str, operation: int, failure: Failure, images: CrashImages) -> None:
    """Let one operation of a scenario fail, and check what comes of it."""
    images.report.events["runs"] += 1
    _Run(images, name, scenarios()[name], operation, failure).run()


def operations(name: str) -> list[str]:
    """The names of the file operations of a scenario in which nothing fails."""
    with crashing():
        run = _Run(CrashImages(), name, scenarios()[name], 0, None)
        run.run()
    return run.operations


def _runs(names: Iterable[str], first: int, step: int) -> Iterator[tuple[str, int, Failure]]:
    for name in names:
        calls = operations(name)
        for number in range(1 + first, len(calls) + 1, step):
            for failure in FAILURES.values():
                if failure.may_strike(calls[number - 1]):
                    yield name, number, failure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m pfs.testing.error_sweep", description="Let every operation fail.")
    parser.add_argument("--scenario", choices=scenarios(), help="only this one (default: all)")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th operation from the I-th on")
    parser.add_argument("--operation", type=int, help="only this operation")
    parser.add_argument("--failure", choices=FAILURES, default="EIO once keep", help="and this failure")
    options = parser.parse_args(arguments)
    if options.operation is not None:
        checked = CrashImages()
        with crashing():
            run_one(options.scenario or "writes", options.operation, FAILURES[options.failure], checked)
            start_systems(checked)
        report = checked.report
        print(*report.findings, sep="\n")
    else:
        first, _, step = options.part.partition("/")
        names = [options.scenario] if options.scenario is not None else None
        report = run(names, part=(int(first), int(step)), on_finding=lambda finding: print(finding, flush=True))
    print(report)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
