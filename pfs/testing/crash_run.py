"""One run of a workload: a moment for each file operation and each acknowledgement, at which crash images are taken.

`run_workload` runs one on a disk.  `start_systems` starts a whole `System` on the images that were kept for that: what
it serves must be right, it makes two more writes, another crash is taken, and it is stopped in order.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from functools import cache
from random import Random

from pfs.system import System
from pfs.testing.crash_clients import WatchedSystem, Work
from pfs.testing.crash_images import AFTER_RECOVERY, DEEPEST, CrashImages, Kept, Moment, Policy
from pfs.testing.crash_model import CrashModel, Pages
from pfs.testing.file_system import Operation, SimulatedFileSystem
from pfs.testing.plain_recovery import detached, recover_once
from pfs.testing.scheduler import SimulatedScheduler
from pfs.testing.workloads import PAGE_SIZE, SMALL, Action, Workload

MOMENTS_OF_A_SYSTEM = 100
"""Within so many moments of a system that was started on an image it crashes again."""
MOST_MOMENTS = 50_000
"""Moments of a run; with more it goes round in circles."""

_MORE = (Action("append", n=2), Action("write", n=2), Action("create", durability="memory"))
"""What is written to a system that was started on an image."""
_SERIAL_OF_SYSTEMS = 1 << 20


def _pages(first: int, n: int) -> Pages:
    return tuple(number.to_bytes(4, "big") * (PAGE_SIZE // 4) for number in range(first, first + n))


PREPARED = {"older": _pages(1 << 16, 5), "newer": _pages(1 << 17, 3)}
"""The page files that sequences begin with."""

ToTake = Callable[[int, int], Iterable[tuple[Policy, int]]]
"""Which crash images to take: called with the moment and how many changes no sync covers."""


def run_workload(images: CrashImages, workload: Workload, only: tuple[int, Policy, int] | None = None) -> None:
    """Run a workload and recover its crash images, all or only that of one moment, policy and draw."""
    fs = prepared_disk() if workload.prepared else SimulatedFileSystem(keep_journal=False)
    model = CrashModel(PREPARED if workload.prepared else None, ordered=len(workload.clients) == 1)

    def to_take(moment: int, unsynced: int) -> Iterable[tuple[Policy, int]]:
        if only is None:
            return images.to_take(unsynced)
        return [only[1:]] if moment == only[0] else []

    images.report.events["workloads"] += 1
    _Run(images, fs, workload, to_take).run(model)


def start_systems(images: CrashImages) -> None:
    """Start a system on each of the images that were kept for that."""
    while images.for_systems:
        _start_a_system(images, images.for_systems.pop())


def _start_a_system(images: CrashImages, kept: Kept) -> None:
    image, model, at, random = kept
    images.report.systems += 1
    crash_at, policy = random.randint(1, MOMENTS_OF_A_SYSTEM), random.choice(AFTER_RECOVERY)

    def to_take(moment: int, unsynced: int) -> Iterable[tuple[Policy, int]]:
        return [(policy, 0)] if moment == crash_at else []

    workload = at.workload._replace(clients=(_MORE,), images_from=0)
    _Run(images, detached(image), workload, to_take, at.within("the writes of a system started on it")).run(model)


class _Run:
    """One run of a workload on a disk: a moment for each file operation and acknowledgement.

    `to_take` says which crash images to take.  `inside`: the crash image that the disk is; then what is
    there must be right first.
    """

    def __init__(
        self,
        images: CrashImages,
        fs: SimulatedFileSystem,
        workload: Workload,
        to_take: ToTake,
        inside: Moment | None = None,
    ) -> None:
        self._crash_images = images
        self._fs = fs
        self._workload = workload
        self._to_take = to_take
        self._inside = inside
        self._schedulers: list[SimulatedScheduler] = []
        self._model = CrashModel()
        self._moment = 0
        self._seen = (-1, -1)
        self._acknowledgements = 0
        self._taking = workload.images_from == 0
        self._broken = False

    def run(self, model: CrashModel) -> None:
        """From the start of the system to its end in order, and recovery after that."""
        try:
            self._run(model)
        except Exception as error:
            trace = "".join(traceback.format_tb(error.__traceback__)[-3:])
            self.violate(f"ended by {type(error).__name__}: {error}\n{trace}")
        finally:
            for scheduler in self._schedulers:
                scheduler.abandon()
            self._fs.on_operation = None

    def _run(self, model: CrashModel) -> None:
        self._model = model
        work = Work(model, self, self._start, serial=0 if self._inside is None else _SERIAL_OF_SYSTEMS)
        if self._inside is not None:
            found = work.read_all()
            wrong = model.check(found)
            if wrong is not None:
                self.violate(f"a system finds: {wrong}")
                return
            work.model = self._model = CrashModel(found)
        if self._model.ordered:
            for number, action in enumerate(self._workload.clients[0]):
                self._taking = number >= self._workload.images_from
                work.perform(0, action)
                work.check_reads()
        else:
            self._run_together(work)
        work.stop()
        self._take("the end")
        left = recover_once(detached(self._fs.crash_image("none", Random(0))), self._workload.options)
        if left.contents != self._model.contents():
            self.violate("the disk does not hold what was acknowledged when the system was stopped in order")
        if left.transactions:
            self.violate(f"{left.transactions} transactions are carried out anew after a stop in order")

    def _run_together(self, work: Work) -> None:
        ended = []
        for number, actions in enumerate(self._workload.clients):

            def body(number: int = number, actions: tuple[Action, ...] = actions) -> None:
                for action in actions:
                    work.perform(number, action)

            ended.append(self._schedulers[-1].spawn(body, f"client-{number}"))
        self._schedulers[-1].run(lambda: all(each() for each in ended))
        work.check_reads()

    def _start(self) -> WatchedSystem:
        scheduler = SimulatedScheduler(self._workload.seed + len(self._schedulers))
        self._schedulers.append(scheduler)
        self._fs.make_condition = scheduler.condition
        self._fs.on_operation = self._before
        return WatchedSystem(self._fs, self._workload.options, scheduler, self)

    # -- moments

    def _before(self, operation: Operation) -> None:
        self._schedulers[-1].file_call(operation)
        self._take(f"{operation.name} of {operation.path} at {operation.offset}, {operation.length} bytes")

    def acknowledged(self) -> None:
        self._acknowledgements += 1
        self._take("the operation after an acknowledgement")

    def violate(self, what: str) -> None:
        self._broken = True
        self._crash_images.found(self._at(("none", 0), "the end of it"), what)

    def _at(self, image: tuple[Policy, int], operation: str) -> Moment:
        if self._inside is not None:
            return self._inside.within(operation)
        policy, draw = image
        command = f"python -m pfs.testing.campaign {self._workload.replay}"
        return Moment(self._workload, f"{command} --moment {self._moment} --policy {policy} --draw {draw}", operation)

    def _take(self, operation: str) -> None:
        """Take the crash images of this moment, unless nothing has changed since the last."""
        self._moment += 1
        if self._moment > MOST_MOMENTS:
            raise RuntimeError(f"{MOST_MOMENTS} file operations, and no end")
        seen = (self._fs.changes, self._acknowledgements)
        if not self._taking or self._broken or seen == self._seen:
            return
        self._seen = seen
        before = len(self._crash_images.report.findings)
        for policy, draw in self._to_take(self._moment, self._fs.unsynced):
            at = self._at((policy, draw), operation)
            image = self._fs.killed_image() if policy == "kill" else self._fs.crash_image(policy, Random(at.replay))
            self._crash_images.check(detached(image), self._model, at, 0 if self._inside is None else DEEPEST)
            if len(self._crash_images.report.findings) > before:
                self._broken = True  # there would be hundreds of the same
                return


@cache
def _prepared() -> SimulatedFileSystem:
    """A directory with the page files of `PREPARED`, stopped in order."""
    fs = SimulatedFileSystem(keep_journal=False)
    scheduler = SimulatedScheduler(0)
    fs.make_condition, fs.on_operation = scheduler.condition, scheduler.file_call
    with System(fs, SMALL, runtime=scheduler) as system:
        for name, pages in PREPARED.items():
            system.open(name, page_size=PAGE_SIZE).append(pages)
    scheduler.abandon()
    return detached(fs.crash_image("none", Random(0)))


def prepared_disk() -> SimulatedFileSystem:
    """A copy of the directory that sequences begin with."""
    return _prepared().killed_image()
