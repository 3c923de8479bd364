"""`python -m benchmarks`: run the benchmark sets, Markdown to stdout, JSON to `bench-results/`, progress to stderr."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import benchmarks
from benchmarks import machine
from benchmarks.harness import CaseSet, Options, Unavailable, run_set
from benchmarks.summary import SetSummary, markdown

QUICK = Options(seconds=0.05, rounds=2, quick=True)


def discover() -> tuple[list[CaseSet], list[str]]:
    """All sets that modules of this package define, and what went wrong while they were imported.

    ValueError if two sets have one name.
    """
    sets: list[CaseSet] = []
    errors: list[str] = []
    for module_info in pkgutil.iter_modules(benchmarks.__path__):
        if module_info.name == "__main__":
            continue
        try:
            module = importlib.import_module(f"benchmarks.{module_info.name}")
        except Exception as error:
            errors.append(f"benchmarks/{module_info.name}.py cannot be imported: {type(error).__name__}: {error}")
            continue
        sets += getattr(module, "SETS", [])
    names = [case_set.name for case_set in sets]
    if len(set(names)) != len(names):
        raise ValueError(f"two benchmark sets have one name: {sorted(names)}")
    return sets, errors


def picks(patterns: Sequence[str], set_name: str) -> Callable[[str], bool] | None:
    """Which cases of a set the patterns (`set` or `set/case`, with `*`) ask for; None if none of that set."""
    if not patterns:
        return lambda case: True
    parts = [pattern.partition("/") for pattern in patterns]
    case_patterns = [case if slash else "*" for name, slash, case in parts if fnmatchcase(set_name, name)]
    if not case_patterns:
        return None
    return lambda case: any(fnmatchcase(case, pattern) for pattern in case_patterns)


def parse_pin(text: str) -> int | None:
    """`none` for no pinning, else the number of a CPU."""
    if text == "none":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of a CPU nor 'none'")
    return int(text)


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and less than a day")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def directory(text: str) -> str:
    """A directory that exists, as an absolute path."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return str(Path(text).resolve())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run benchmarks side by side, in interleaved rounds; report medians and ratios.",
    )
    parser.add_argument("pattern", nargs="*", help="sets to run, or set/case, with * (default: all)")
    parser.add_argument("--list", action="store_true", help="list the sets and end")
    parser.add_argument("--rounds", type=count, help="rounds of each set (default: 5)")
    parser.add_argument("--seconds", type=positive, help="seconds for each case in each round (default: 1)")
    parser.add_argument("--quick", action="store_true", help="only see that everything runs; the numbers mean little")
    parser.add_argument("--seed", type=int, help="seed of the order of cases (default: a fresh one, shown)")
    parser.add_argument(
        "--pin", type=parse_pin, default=..., metavar="CPU", help="CPU to run on, or 'none' (default: as each set says)"
    )
    parser.add_argument(
        "--directory",
        type=directory,
        metavar="DIR",
        help="where files are made (default: the system's for temporary ones)",
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder for JSON (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if all ran, whatever they reached; 1 if a case or set failed; 2 if nothing was to be run."""
    asked = arguments(argv)
    if asked.directory:
        tempfile.tempdir = asked.directory
    sets, errors = discover()
    for error in errors:
        print(error, file=sys.stderr)
    if asked.list:
        for case_set in sets:
            print(f"{case_set.name:20} {case_set.title}")
        return 1 if errors else 0
    base = QUICK if asked.quick else Options()
    options = Options(asked.seconds or base.seconds, asked.rounds or base.rounds, asked.quick)
    chosen = [(case_set, wanted) for case_set in sets if (wanted := picks(asked.pattern, case_set.name))]
    if not chosen:
        print(f"nothing matches {asked.pattern}; the sets are {[one.name for one in sets]}", file=sys.stderr)
        return 2
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    facts = machine.facts()
    print(machine.describe(facts))
    print(f"\n{options.rounds} rounds of {options.seconds:g} s a case, in shuffled order (--seed {seed}).")
    if options.quick:
        print("A quick run, to see that all works: its numbers mean little.")
    summaries: list[tuple[SetSummary, str]] = []
    failed = bool(errors)
    for case_set, wanted in chosen:
        cpu = (machine.default_cpu() if case_set.pinned else None) if asked.pin is ... else asked.pin
        try:
            with machine.pinned(cpu) as pinning:
                summary = run_set(case_set, options, seed, wanted, show_progress)
        except Unavailable as missing:
            print(f"\n### {case_set.title}\n\nNot available: {missing}", flush=True)
            continue
        except Exception as error:
            failed = True
            print(f"\n### {case_set.title}\n\nFailed: {type(error).__name__}: {error}", flush=True)
            continue
        finally:
            show_progress("")
        summaries.append((summary, pinning))
        failed = failed or any(case.failed for case in summary.cases)
        print(f"\n{markdown(summary, pinning)}", flush=True)
    path = save(asked.output, facts, options, seed, summaries)
    print(f"written to {path}", file=sys.stderr)
    return 1 if failed else 0


def save(
    folder: Path, facts: machine.Facts, options: Options, seed: int, summaries: Sequence[tuple[SetSummary, str]]
) -> Path:
    """Write all numbers, each round's too, to a new JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{seed}.json"
    content = {
        "machine": facts,
        "options": asdict(options),
        "seed": seed,
        "sets": [{**asdict(summary), "pinning": pinning} for summary, pinning in summaries],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def show_progress(text: str) -> None:
    """One line that is written over on a terminal; one line each elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit("\nstopped")
