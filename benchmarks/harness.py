"""A small harness that measures things side by side, so that a noisy machine is noisy to all of them alike.

The cases of a set are run in rounds.  Each round runs every case once, in an order shuffled anew; what is reported is
the median over the rounds, with least and greatest.  A case is compared with the set's reference case: the ratio is
taken within each round, and the median of these ratios is reported, which cancels most of what the machine did
meanwhile.  Targets ("must", "goal") are shown as reached or not; they never fail a run.

To add a benchmark, put a module into `benchmarks/` that defines `SETS`:

    @contextmanager
    def open_cases(options: Options) -> Iterator[list[Case]]:
        with make_something(small=options.quick) as thing:           # set up once, used by all rounds
            yield [
                Case("raw", lambda seconds: rate(thing.raw, seconds)),
                Case("pfs", lambda seconds: rate(thing.through_pfs, seconds), must=0.6, goal=0.8),
            ]

    SETS = [CaseSet("reads", "Single-page reads", open_cases, unit="reads/s", reference="raw")]

A case's `run` is told for how many seconds it should measure (it may take a fixed count instead, where that makes more
sense) and returns a number in the set's unit, or a `Measurement` with further numbers.  `rate` calls a function over
and over and returns calls a second.  What cannot run here raises `Unavailable` with the reason: shown, but no failure.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.summary import CaseSummary, SetSummary, Target, summarize


class Unavailable(Exception):
    """A case cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Options:
    """What the caller asked for, for those who set cases up."""

    seconds: float = 1.0
    rounds: int = 5
    quick: bool = False
    """Only see that everything runs: little data will do."""


@dataclass(frozen=True)
class Measurement:
    """One run's number in the set's unit, and others worth keeping (`{"p99 us": 12.5}`)."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"measured {self.value}; only positive finite numbers can be compared")


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    `must` and `goal` are targets: ratios to the reference, or values in the set's unit with `target="value"`.
    """

    name: str
    run: Callable[[float], float | Measurement]
    must: float | None = None
    goal: float | None = None
    target: Literal["ratio", "value"] = "ratio"


@dataclass(frozen=True)
class CaseSet:
    """Cases that are compared with each other."""

    name: str
    """Short, for the command line."""
    title: str
    open_cases: Callable[[Options], AbstractContextManager[Sequence[Case]]]
    unit: str = "ops/s"
    reference: str | None = None
    """The name of the case that the others are divided by."""
    higher_is_better: bool = True
    pinned: bool = True
    """Whether to run on one CPU by default: right for message passing, wrong for what needs two."""
    note: str = ""
    """A sentence below the table: what was measured, and how."""


Progress = Callable[[str], None]


def fixed(*cases: Case) -> Callable[[Options], AbstractContextManager[Sequence[Case]]]:
    """`open_cases` for cases that need no set-up."""

    @contextmanager
    def open_cases(_options: Options) -> Iterator[Sequence[Case]]:
        yield cases

    return open_cases


def rate(call: Callable[[], object], seconds: float, batch: int = 1) -> float:
    """Operations a second of a function that does `batch` operations, called over and over for `seconds`."""
    clock = time.perf_counter
    calls = 0
    begin = clock()
    end = begin + seconds
    while True:
        call()
        calls += 1
        now = clock()
        if now >= end:
            return calls * batch / (now - begin)


def run_set(
    case_set: CaseSet,
    options: Options,
    seed: int,
    wanted: Callable[[str], bool] = lambda name: True,
    progress: Progress = lambda text: None,
) -> SetSummary:
    """Run a set's cases in interleaved rounds.

    `wanted` picks cases by name; the reference is always run.  A case that raises is left out of the later rounds, and
    its error is in the summary.  ValueError if two cases have one name or the reference is none of them.
    """
    order = random.Random(f"{seed} {case_set.name}")
    values: dict[str, list[Measurement]] = {}
    troubles: dict[str, str] = {}
    unavailable: set[str] = set()
    with case_set.open_cases(options) as all_cases:
        names = [case.name for case in all_cases]
        if len(set(names)) != len(names):
            raise ValueError(f"set {case_set.name!r}: two cases have one name: {names}")
        if case_set.reference is not None and case_set.reference not in names:
            raise ValueError(f"set {case_set.name!r}: its reference {case_set.reference!r} is none of {names}")
        cases = [case for case in all_cases if wanted(case.name) or case.name == case_set.reference]
        for case in cases:
            values[case.name] = []
        for number in range(1, options.rounds + 1):
            for case in order.sample(cases, len(cases)):
                if case.name in troubles:
                    continue
                progress(f"{case_set.name}: round {number} of {options.rounds}: {case.name}")
                gc.collect()
                try:
                    result = case.run(options.seconds)
                    values[case.name].append(result if isinstance(result, Measurement) else Measurement(result))
                except Unavailable as missing:
                    troubles[case.name] = f"not available: {missing}"
                    unavailable.add(case.name)
                except Exception as error:
                    troubles[case.name] = f"failed: {type(error).__name__}: {error}"
    return SetSummary(
        name=case_set.name,
        title=case_set.title,
        unit=case_set.unit,
        reference=case_set.reference,
        note=case_set.note,
        cases=[_summary(case, case_set, values, troubles, unavailable) for case in cases],
    )


def _summary(
    case: Case,
    case_set: CaseSet,
    values: Mapping[str, Sequence[Measurement]],
    troubles: Mapping[str, str],
    unavailable: set[str],
) -> CaseSummary:
    return summarize(
        name=case.name,
        values=[measurement.value for measurement in values[case.name]],
        # A case in trouble misses all later rounds, so the n-th values of two cases are always of the same round.
        reference_values=[measurement.value for measurement in values.get(case_set.reference or "", [])],
        details=[measurement.details for measurement in values[case.name]],
        target=Target(case.must, case.goal, is_ratio=case.target == "ratio", higher=case_set.higher_is_better),
        trouble=troubles.get(case.name),
        failed=case.name in troubles and case.name not in unavailable,
    )
