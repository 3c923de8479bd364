"""The crash campaign: short workloads, a crash at every file operation, and recovery of all that may be left.

A workload (`pfs.testing.workloads`) runs once on a `System` on a simulated disk.  Before each file operation that finds
the disk or the model changed, and after each acknowledgement, crash images are taken under every policy, several where
chance decides (`pfs.testing.crash_images`).

    python -m pfs.testing.campaign --seeds 0..99          random workloads
    python -m pfs.testing.campaign --first append         all sequences that begin with an action
    python -m pfs.testing.campaign --hours 8              random workloads, and all sequences under other schedules
    python -m pfs.testing.campaign --seed 7 --moment 31 --policy torn --draw 2      one image, as a failure says

Everything is a function of the workload, the moment, the policy and the draw; so a failure can be replayed by itself.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

from pfs.testing.crash_images import POLICIES, CrashImages, Finding, Policy, Report, crashing
from pfs.testing.crash_run import run_workload, start_systems
from pfs.testing.workloads import ALPHABET, LONGEST, Workload, random_workload, sequence, sequences


def run(
    workloads: Iterable[Workload],
    *,
    budget_seconds: float = math.inf,
    draws: int = 1,
    together: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Run workloads until there are no more, or the time is up; returns what came of them.

    together: they begin alike, so identical images are looked for among all of them; it takes memory.
    """
    report = Report()
    end = time.monotonic() + budget_seconds
    images = CrashImages(report, draws=draws)
    with crashing():
        for workload in workloads:
            before = len(report.findings)
            if not together:
                images = CrashImages(report, draws=draws)
            run_workload(images, workload)
            start_systems(images)
            if on_finding is not None:
                for finding in report.findings[before:]:
                    on_finding(finding)
            if time.monotonic() > end:
                break
    return report


def run_one(workload: Workload, moment: int, policy: Policy, draw: int) -> Report:
    """Run a workload, and recover one crash image."""
    images = CrashImages()
    with crashing():
        run_workload(images, workload, (moment, policy, draw))
        start_systems(images)
    return images.report


def endless(seed: int = 0) -> Iterator[Workload]:
    """Workloads without end: random ones from a seed on, and all sequences under one schedule after another."""
    seeds = count(seed)
    for scheduler in count(1):
        for first in ALPHABET:
            for workload in sequences(first, seed=scheduler):
                yield workload
                yield random_workload(next(seeds))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m pfs.testing.campaign", description="Crash at every operation.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one random workload")
    which.add_argument("--seeds", help="random workloads A..B, both included")
    which.add_argument("--sequence", help=f"one sequence of actions: {', '.join(ALPHABET)}")
    which.add_argument("--first", choices=ALPHABET, help="all sequences that begin with this action")
    which.add_argument("--hours", type=float, help="all kinds, for so long")
    parser.add_argument("--longest", type=int, default=LONGEST, help="actions of a sequence (default: %(default)s)")
    parser.add_argument("--scheduler", type=int, default=0, help="the seed of a sequence's schedule")
    parser.add_argument("--draws", type=int, default=1, help="so many times the images of each policy")
    parser.add_argument("--moment", type=int, help="only the image of this moment")
    parser.add_argument("--policy", choices=POLICIES, help="and of this policy", default="none")
    parser.add_argument("--draw", type=int, default=0, help="and of this draw")
    options = parser.parse_args(arguments)
    if options.moment is not None:
        report = run_one(_workloads(options)[0], options.moment, options.policy, options.draw)
        for finding in report.findings:
            print(finding)
    else:
        report = run(
            endless() if options.hours is not None else _workloads(options),
            budget_seconds=math.inf if options.hours is None else options.hours * 3600,
            draws=options.draws,
            together=options.first is not None,
            on_finding=lambda finding: print(finding, flush=True),
        )
    print(report)
    return 1 if report.findings else 0


def _workloads(options: argparse.Namespace) -> Sequence[Workload]:
    if options.sequence is not None:
        return [sequence(tuple(options.sequence.split(",")), options.scheduler)]
    if options.first is not None:
        return list(sequences(options.first, options.longest, options.scheduler))
    if options.seed is not None:
        return [random_workload(options.seed)]
    first, _, last = options.seeds.partition("..")
    return [random_workload(seed) for seed in range(int(first), int(last) + 1)]


if __name__ == "__main__":
    sys.exit(main())
