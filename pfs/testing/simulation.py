"""A whole `System` under random clients, on a disk that fails: one seed, one run, and every promise checked.

`run_seed` builds a system on a `SimulatedFileSystem` under a `SimulatedScheduler`, with sizes and limits that the seed
chooses as small as they go; lets random clients (`pfs.testing.clients`) at it for some steps; has them finish; and
stops the system, or lets it crash.  What is checked on the way and at the end:

* every request of a living client ends, in exactly one answer (a hang is a deadlock, which the scheduler finds);
* reads, writes, appends and truncations do what they should (`pfs.testing.history`);
* whatever survives a crash at any moment, a system that is started on it has of each page file a prefix of its commits,
  and in that all that was acknowledged as durable; also if it crashes while it recovers; and it goes on from there;
* after a panic nothing is acknowledged and no write begins; after a clean stop nothing is replayed;
* turns are fair (`FairOrder`), and memory stays within every limit;
* when nobody asks for anything, nothing is kept: no reservation, cut, old page, wait, pin;
* after the stop no actor and no descriptor is left.

Replay a seed with `python -m pfs.testing.simulation --seed N`, many with `--seeds A..B`; `--verbose` prints the trace.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, cast

import msgspec

from pfs.actors.page_file_server import PageFileServer
from pfs.actors.requests import ServerOptions
from pfs.check import check
from pfs.errors import IdleTooLong, SyncFailed
from pfs.page_file import PageFile
from pfs.protocol import DataWriteEnd, Start
from pfs.system import System
from pfs.testing.clients import Begin, Finish, Habits, RandomClient, World, thread_process
from pfs.testing.disk import CrashPolicy
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.history import FileModel, History, Line, Request, describe_page, make_page
from pfs.testing.limit_checks import check_limits, check_quiet
from pfs.testing.observed_system import FairOrder, ObservedSystem
from pfs.testing.plain_recovery import recover_and_crash
from pfs.testing.plans import EXCUSES, PAGE_SIZE, Plan, faults, plan
from pfs.testing.quiet import quiet
from pfs.testing.scheduler import SimulatedScheduler

STEPS = 500
"""Steps in which clients make requests; finishing takes as many again."""
POLICIES: tuple[CrashPolicy, ...] = ("none", "all", "prefix", "subset", "torn")
CHECKED_ACKNOWLEDGEMENTS = 40
"""One in so many acknowledgements is followed by a crash, of which the system itself is not told."""
CHECKED_STEPS = 300
"""One in so many steps is too."""
MOST_STEPS = 50_000
"""A run that has not ended after so many goes round in circles."""


@dataclass
class Report:
    """What came of a run; `violations` are the promises that it broke."""

    seed: int
    plan: Plan
    steps: int = 0
    trace_hash: str = ""
    violations: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    error: Exception | None = None
    """What ended the run before its time."""

    def __str__(self) -> str:
        lines = [f"seed={self.seed} steps={self.steps} trace={self.trace_hash} {self.plan}"]
        lines += [f"  broken: {violation}" for violation in self.violations[:10]]
        lines.append(f"  replay: python -m pfs.testing.simulation --seed {self.seed}")
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------ a run


class Moment(NamedTuple):
    """A disk after a crash, and for each page file the states that it may have then."""

    image: SimulatedFileSystem
    policy: CrashPolicy
    allowed: dict[str, list[list[bytes]]]


class Simulation:
    """One run (see the module)."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.plan = plan(seed)
        self.random = Random(f"run {seed}")
        self.scheduler = SimulatedScheduler(seed)
        if trace is not None:
            _print_trace(self.scheduler, trace)
        self.fs = SimulatedFileSystem(
            on_operation=self.scheduler.file_call,
            condition=self.scheduler.condition,
            page_cache=cast(Any, self.plan.page_cache),
            failed_sync=cast(Any, self.plan.failed_sync),
        )
        self.history = History(self.plan.options.server.credits, self.scheduler.note)
        self.history.on_acknowledged = self._check_acknowledged
        self.system = ObservedSystem(self.fs, self.plan.options, self.scheduler)
        self.system.history = self.history
        self.servers: list[PageFileServer] = []
        log_files = self.system._storage.started.files
        self._watch_changes(log_files, "the log", "write")
        self._moments: list[Moment] = []
        self.world = self._make_world()
        self._ends: list[Callable[[], bool]] = []

    def run(self, steps: int) -> Report:
        """Run to the end; returns what came of it."""
        report = Report(self.seed, self.plan)
        history = self.history
        try:
            self._run(steps)
            history.check_linearizable()
        except Exception as error:
            report.error = error
            history.violate(f"the run was ended by {type(error).__name__}: {error}")
        finally:
            report.steps = self.scheduler.steps
            report.trace_hash = self.scheduler.trace_hash()
            self.scheduler.abandon()
        report.violations, report.events = history.violations, history.events
        return report

    def _make_world(self) -> World:
        files = []
        for number in range(self.plan.page_files):
            name = f"file-{number}"
            self.history.files[name] = FileModel(name, [])
            file = self.system.open(name, page_size=PAGE_SIZE)
            pages = [make_page(PAGE_SIZE, number, 0, 0, index) for index in range(self.random.randint(1, 20))]
            while file.page_count < len(pages):
                with suppress(IdleTooLong):  # the clock may leap here too
                    file.append(pages[file.page_count :][:8])
            files.append(file)
            opened = self.system._store.open_files[file._state.file_id]
            self._watch_changes(opened, opened.name, "write", "truncate")
            server = cast(PageFileServer, file.server._actor)
            server._core.order = FairOrder(server._core.order, self.history)
            self.servers.append(server)
        server_options = self.plan.options.server
        staging = min(server_options.session_staging_bytes, server_options.staging_bytes) // PAGE_SIZE
        return World(self.history, files, PAGE_SIZE, staging, server_options.credits)

    def _watch_changes(self, owner: Any, name: str, *changes: str) -> None:
        """After a panic no change of a file may begin (one that has begun makes its few system calls)."""

        def watched(change: Callable[..., None], what: str) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                if self.system.failed is not None:
                    self.history.violate(f"{what} of {name} was begun after the panic")
                change(*arguments)

            return call

        for each in changes:
            setattr(owner, each, watched(getattr(owner, each), each))

    def _start_clients(self) -> None:
        random, world = self.random, self.world
        for number in range(1, self.plan.clients + 1):
            line = Line(self.history, f"client-{number}")
            habits = Habits(
                most_open=random.randint(1, 4),
                slow=random.choice((0.0, 0.3)),
                withhold=random.choice((0.0, 0.0, 0.2)),
                cancel=random.choice((0.0, 0.02, 0.1)),
                lie=random.choice((0.0, 0.0, 0.0, 0.3)),
                die=random.choice((0.0, 0.0, 0.02)),
            )
            seed = Random(f"client {number} of {self.seed}")
            ref = self.scheduler.start(RandomClient, number, line, world, habits, seed)
            line.connect(ref)
            world.lines.append(line)
            ref.tell(Begin())
        for number in range(self.plan.threads):
            name = f"thread-{number}"
            body = thread_process(100 + number, world, Random(f"{name} of {self.seed}"), lambda: not world.finishing)
            self._ends.append(self.scheduler.spawn(self._thread(name, body), name))

    def _thread(self, name: str, body: Callable[[], None]) -> Callable[[], None]:
        def until_its_end() -> None:
            body()
            self.system.end_thread(name)

        return until_its_end

    def _run(self, steps: int) -> None:
        scheduler, history = self.scheduler, self.history
        self._start_clients()
        self.fs.faults = faults(self.plan.trouble, self.random)
        if self.plan.trouble == "full":
            used = sum(map(len, self.fs.crash_image("all", Random(0)).durable_files.values()))
            self.fs.capacity = used + self.random.choice((0, 20 * PAGE_SIZE, self.plan.options.wal.segment_bytes))
        crash_at = self.random.randint(1, steps) if self.plan.end == "crash" else None
        for step in range(steps):
            if step == crash_at:
                self._check_crash()
                return
            if not scheduler.step():
                break
            if step % 8 == 0:
                check_limits(self.system, self.servers, self.plan, len(self.fs.open_descriptors), history.violate)
            if self.random.randrange(CHECKED_STEPS) == 0:
                self._moments.append(self._moment(self.random.choice(POLICIES)))
            while self._moments:
                self._check_moment(self._moments.pop())
        self.fs.capacity = None
        self.world.finishing = True
        for line in self.world.lines:
            if line.is_alive():
                line._target.tell(Finish())
        for file in self.world.files:
            if file.server.is_alive():
                file.server.tell(Start())
        scheduler.run(lambda: not history.owes() and all(ended() for ended in self._ends), MOST_STEPS)
        scheduler.run(max_steps=MOST_STEPS)
        if self.system.failed is None:
            check_quiet(self.system, self.servers, history.violate)
        counts = [file.page_count for file in self.world.files]
        try:
            self.system.stop()
        except SyncFailed:
            history.events["sync failed in stop"] += 1  # as it must say if the last syncs of all fail
            if self.plan.trouble != "sync":
                raise
        self._check_stopped(counts)

    # -- checks

    def _contents(self, durable: bool = False) -> dict[str, bytes]:
        """What the disk holds of each page file, its segments put together."""
        disk = self.fs.durable_files if durable else self.fs.crash_image("all", Random(0)).durable_files
        return self._put_together(disk, self.world.files)

    def _put_together(self, disk: dict[str, bytes], files: Sequence[PageFile]) -> dict[str, bytes]:
        """The content of page files by name; where a segment is short and not the last there are zeros."""
        contents = {}
        for file in files:
            path, segment = f"base/5/{file._state.file_id}", 1
            content = disk.get(path, b"")
            while f"{path}.{segment}" in disk:
                more = disk[f"{path}.{segment}"]
                if more:
                    content = content.ljust(segment * self.plan.options.segment_bytes, b"\0") + more
                segment += 1
            contents[file.name] = content
        return contents

    def _check_acknowledged(self, request: Request, answer: DataWriteEnd) -> None:
        if (
            request.message.durability == "wal"
            and hasattr(self, "world")
            and self.random.randrange(CHECKED_ACKNOWLEDGEMENTS) == 0
        ):
            self._moments.append(self._moment(self.random.choice(POLICIES)))

    def _moment(self, policy: CrashPolicy) -> Moment:
        """What may be left if everything ends now."""
        self.history.events[f"crash {policy}"] += 1
        allowed = {}
        for file, server in zip(self.world.files, self.servers, strict=True):
            states = self.history.durable_states(file.name)
            for request in server._writes._publishing:  # committed, and not acknowledged
                pages, new = states[-1], self.history.requests[request.ref].pages
                states.append([*pages[: request.pgid], *new, *pages[request.pgid + request.n :]])
            if server._writes.tail < len(states[-1]):  # a truncation is on its way
                states.append(states[-1][: server._writes.tail])
            allowed[file.name] = states
        return Moment(self.fs.crash_image(policy, self.random), policy, allowed)

    def _check_moment(self, moment: Moment) -> None:
        """Start a system on what is left, perhaps letting it crash once more while it recovers, and let it go on."""
        image = moment.image
        image.capacity = None
        if self.random.random() < 0.5:
            image = self._crash_in_recovery(image)
        self._check_files(image, f"after a crash ({moment.policy})")
        found = {}
        with self._started(image) as system:
            for name, states in moment.allowed.items():
                file = system.open(name, create=False)
                pages = file.read(0, file.page_count) if file.page_count else []
                if pages not in states:
                    seen, meant = (", ".join(map(describe_page, each)) for each in (pages, states[0]))
                    self.history.violate(
                        f"{name!r} after a crash ({moment.policy}): not durable, or no prefix of the commits: got "
                        f"{seen}; right would be {meant}, or one of the {len(states) - 1} states after it"
                    )
                    return
                new = [make_page(PAGE_SIZE, 99, 0, 0, index) for index in range(3)]
                file.append(new)
                if pages:
                    file.write(0, new[:1])
                found[name] = [*new[: min(1, len(pages))], *pages[1:], *new]
        with self._started(image) as system:
            started = system._storage.started
            if started.transactions or started.pages:
                self.history.violate(f"{started.transactions} transactions were replayed after a clean stop")
            for name, pages in found.items():
                if system.open(name, create=False).read(0, len(pages)) != pages:
                    self.history.violate(f"{name!r} is not the same when it is opened anew")
        self._check_files(image, "after a clean stop")
        self.history.events["recovered"] += 1

    def _check_files(self, image: SimulatedFileSystem, when: str) -> None:
        """What a crash leaves is no damage: recovery mends it."""
        image.on_operation = None
        for finding in check(image, segment_bytes=self.plan.options.segment_bytes).findings:
            if finding.damage:
                self.history.violate(f"damage {when}: {finding}")

    def _crash_in_recovery(self, image: SimulatedFileSystem) -> SimulatedFileSystem:
        """Recover a disk that ends at some operation; returns what may be left then."""
        policy = self.random.choice(POLICIES)
        operations = self.random.randrange(60)
        left = recover_and_crash(image, self.plan.options, operations, policy, self.random)
        if left is None:  # it needed fewer operations
            return image
        self.history.events["crash in recovery"] += 1
        return left

    @contextmanager
    def _started(self, image: SimulatedFileSystem) -> Iterator[System]:
        """A system on a disk, stopped in order at the end."""
        scheduler = SimulatedScheduler(self.seed)
        image.on_operation, image.make_condition = scheduler.file_call, scheduler.condition
        options = msgspec.structs.replace(self.plan.options, server=ServerOptions())
        try:
            with System(image, options, runtime=scheduler) as system:
                yield system
        finally:
            scheduler.abandon()

    def _check_stopped(self, counts: Sequence[int]) -> None:
        history, system = self.history, self.system
        if self.scheduler.living:
            history.violate(f"actors are left: {[ref.label for ref in self.scheduler.living.values()]}")
        if self.fs.open_descriptors:
            history.violate(f"descriptors are left: {self.fs.open_descriptors}")
        if self.scheduler.who_waits():
            history.violate(f"left: {self.scheduler.who_waits()}")
        excuses = self._excuses()
        if system.failed is not None:
            excuses.add("SystemFailed")
            if self.plan.trouble not in ("sync", "write"):
                history.violate(f"the system failed without a reason: {system.failed}")
        self._excuse_large_writes()
        history.check_requests(excuses)
        durable = self._contents(durable=True)
        if system.failed is not None:
            self._check_moment(self._moment(self.random.choice(POLICIES)))
            return
        for (name, content), count in zip(durable.items(), counts, strict=True):
            if content != b"".join(history.files[name].pages):
                history.violate(f"the disk does not hold the pages of {name!r} after a clean stop")
            if count != len(history.files[name].pages):
                history.violate(f"{name!r} has {count} pages, not {len(history.files[name].pages)}")
        if self.seed % 4 == 0:
            self._check_moment(self._moment("none"))

    def _check_crash(self) -> None:
        """The system ends here."""
        moment = self._moment(self.random.choice(POLICIES))
        self.scheduler.abandon()
        self._check_moment(moment)
        self._excuse_large_writes()
        self.history.check_requests(self._excuses() | {"SystemFailed"})

    def _excuse_large_writes(self) -> None:
        """A write that is larger than the log may be told so."""
        log = self.system._storage.log
        begun, in_one_step = log.segment_bytes, log.segment_bytes + log.image_cost(PAGE_SIZE)
        most = log.most_bytes - log.buffer.reserve - begun - in_one_step
        for request in self.history.requests.values():
            if len(request.pages) * log.image_cost(PAGE_SIZE) > most:
                request.excuses.add("NoSpace")

    def _excuses(self) -> set[str]:
        """What anybody may be told in this run."""
        excuses = EXCUSES.get(self.plan.trouble, set()) | {"SnapshotTooOld"}
        if self.plan.options.server.session_requests == 2:
            excuses.add("Busy")
        if self.plan.options.server.idle_seconds < 1.0:
            excuses.add("IdleTooLong")  # the clock leaps
        if self.history.events["Stop"]:
            excuses.add("ServerInactive")
        if any(not line.is_alive() for line in self.world.lines):
            excuses.add("SessionEnded")
        return excuses


def _print_trace(scheduler: SimulatedScheduler, trace: Callable[[str], None]) -> None:
    note = scheduler.note

    def note_and_print(what: str) -> None:
        trace(f"{scheduler.steps} {scheduler.now():.6f} {what}")
        note(what)

    scheduler.note = note_and_print  # type: ignore[method-assign]


def run_seed(seed: int, steps: int = STEPS, trace: Callable[[str], None] | None = None) -> Report:
    """Run one seed; `trace` is called with each line of the trace."""
    with quiet():
        return Simulation(seed, trace).run(steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m pfs.testing.simulation", description="Run seeds of the simulation."
    )
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--seeds", default="0..99", help="a range of seeds A..B, both included (default: 0..99)")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps in which clients make requests")
    parser.add_argument("--verbose", action="store_true", help="print the trace")
    options = parser.parse_args(arguments)
    first, last = (options.seed, options.seed) if options.seed is not None else map(int, options.seeds.split(".."))
    broken, steps, events = 0, 0, Counter[str]()
    for seed in range(first, last + 1):
        report = run_seed(seed, options.steps, print if options.verbose else None)
        steps += report.steps
        events += report.events
        if report.violations:
            broken += 1
            print(report)
            if report.error is not None and options.seed is not None:
                traceback.print_exception(report.error)
    print(f"{last - first + 1} seeds, {steps} steps, {broken} of them broke a promise; events: {dict(events)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
