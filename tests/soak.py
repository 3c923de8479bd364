"""All fault levers, with new seeds, for as long as asked: `python -m tests.soak --hours 8` (`make soak HOURS=8`).

The levers are commands of their own, which CI runs with fixed seeds; here they run round after round, each round with
seeds of its own.  What fails is printed with the command that does it again, and does not stop the rest.  The exit
status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SEEDS_A_ROUND = 1000
LONGEST = 1800
"""Seconds after which a command counts as hung."""
SWEEP_PARTS = 40


class Command(NamedTuple):
    """What to run: arguments for Python, and what it is to find in its environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str] = {}

    def __str__(self) -> str:
        settings = "".join(f"{name}={value} " for name, value in self.environment.items())
        return f"{settings}python {' '.join(self.arguments)}"


def simulation(seed: int) -> Command:
    return Command(("-m", "pfs.testing.simulation", "--seeds", f"{seed}..{seed + 199}"))


def campaign(seed: int) -> Command:
    return Command(("-m", "pfs.testing.campaign", "--seeds", f"{seed}..{seed + 9}"))


def sweep(seed: int) -> Command:
    part = seed // SEEDS_A_ROUND % SWEEP_PARTS
    return Command(("-m", "pfs.testing.error_sweep", "--part", f"{part}/{SWEEP_PARTS}"))


def damage(seed: int) -> Command:
    return Command(("-m", "pfs.testing.damage", "--flips", "60000", "--seed", str(seed)))


def linearizability(seed: int) -> Command:
    return Command(("-m", "pfs.testing.recorded_clients", "{directory}", "--seed", str(seed), "--seeds", "2"))


def state_machine(seed: int) -> Command:
    return Command(("-m", "pfs.testing.state_machine", "--examples", "200", "--seed", str(seed)))


def kills(seed: int) -> Command:
    return Command(("-m", "pytest", "tests/process/test_kill.py"), {"PFS_SEED": str(seed), "PFS_KILLS": "100"})


def power_cuts(seed: int) -> Command:
    return Command(("-m", "pytest", "tests/process/test_power_cut.py"), {"PFS_SEED": str(seed), "PFS_CUTS": "6"})


def backups(seed: int) -> Command:
    tests = ("tests/test_backup.py", "tests/process/test_backup.py")
    return Command(("-m", "pytest", *tests), {"PFS_SEED": str(seed), "PFS_BACKUP_SEEDS": "200"})


LEVERS: dict[str, Callable[[int], Command]] = {
    "simulation": simulation,
    "campaign": campaign,
    "sweep": sweep,
    "damage": damage,
    "linearizability": linearizability,
    "state machine": state_machine,
    "kills": kills,
    "power cuts": power_cuts,
    "backups": backups,
}


def run(command: Command) -> str | None:
    """Run a command; what it printed if it failed, None if it did not."""
    with tempfile.TemporaryDirectory(prefix="pfs-soak-") as directory:
        arguments = [argument.format(directory=directory) for argument in command.arguments]
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LONGEST,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {LONGEST} seconds"
    return done.stdout if done.returncode else None


def soak(hours: float, workers: int, seed: int, levers: Sequence[str]) -> int:
    """Run the levers until the time is up; what has begun is finished.  Returns the exit status."""
    until = time.monotonic() + hours * 3600
    started = time.monotonic()
    todo = ((lever, LEVERS[lever](seed + number * SEEDS_A_ROUND)) for number in count() for lever in levers)
    under_way: dict[Future[str | None], tuple[str, Command]] = {}
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    print(f"soak: {', '.join(levers)} for {hours:g} h with {workers} workers; seeds from {seed} on", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        while under_way or time.monotonic() < until:
            while len(under_way) < workers and time.monotonic() < until:
                lever, command = next(todo)
                under_way[pool.submit(run, command)] = (lever, command)
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                lever, command = under_way.pop(future)
                output = future.result()
                (passed if output is None else failed)[lever] += 1
                minutes = (time.monotonic() - started) / 60
                print(f"{minutes:7.1f} min  {'passed' if output is None else 'FAILED'}  {command}", flush=True)
                if output is not None:
                    print("\n".join(f"    {line}" for line in output.splitlines()[-40:]), flush=True)
    for lever in levers:
        print(f"{lever:<16} {passed[lever]} passed, {failed[lever]} failed")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Run all fault levers for some hours.")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=2, help="commands that run side by side (default: 2)")
    parser.add_argument("--seed", type=int, help="where the seeds begin (default: the time)")
    parser.add_argument("--lever", choices=LEVERS, action="append", help="only this one; may be given several times")
    asked = parser.parse_args(arguments)
    seed = int(time.time()) if asked.seed is None else asked.seed
    return soak(asked.hours, asked.workers, seed, asked.lever or list(LEVERS))


if __name__ == "__main__":
    sys.exit(main())
