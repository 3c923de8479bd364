"""What rounds of measurements come to: medians, spread, ratios, targets; and the table that shows them.

Plain code without clocks: numbers in, numbers and Markdown out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Target:
    """What a case must reach, and what would be good; a ratio to the reference or a value in the set's unit."""

    must: float | None = None
    goal: float | None = None
    is_ratio: bool = True
    higher: bool = True
    """Whether more is better."""

    def reached(self, wanted: float | None, found: float | None) -> bool | None:
        """None if nothing was wanted or nothing found."""
        if wanted is None or found is None:
            return None
        return found >= wanted if self.higher else found <= wanted


@dataclass(frozen=True)
class CaseSummary:
    """One row: a case over all rounds.  Without any values the numbers are None and `trouble` says why."""

    name: str
    values: Sequence[float]
    median: float | None
    lowest: float | None
    highest: float | None
    ratio: float | None
    """The median of the ratios to the reference, each within one round."""
    details: Mapping[str, float]
    """Medians of the further numbers."""
    target: Target
    must_reached: bool | None
    goal_reached: bool | None
    trouble: str | None
    """Why there are no values, or not all."""
    failed: bool
    """The case raised; a case that is not available here has not failed."""


@dataclass(frozen=True)
class SetSummary:
    """One table."""

    name: str
    title: str
    unit: str
    reference: str | None
    note: str
    cases: Sequence[CaseSummary]


def summarize(
    name: str,
    values: Sequence[float],
    reference_values: Sequence[float] = (),
    details: Sequence[Mapping[str, float]] = (),
    target: Target = Target(),
    trouble: str | None = None,
    failed: bool = False,
) -> CaseSummary:
    """A case's summary; the n-th values of case and reference are of the same round."""
    ratios = [mine / reference for mine, reference in zip(values, reference_values, strict=False)]
    middle = median(values) if values else None
    ratio = median(ratios) if ratios else None
    found = ratio if target.is_ratio else middle
    return CaseSummary(
        name=name,
        values=list(values),
        median=middle,
        lowest=min(values, default=None),
        highest=max(values, default=None),
        ratio=ratio,
        details=_medians(details),
        target=target,
        must_reached=target.reached(target.must, found),
        goal_reached=target.reached(target.goal, found),
        trouble=trouble,
        failed=failed,
    )


def _medians(details: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for detail in details for name in detail)
    return {name: median(detail[name] for detail in details if name in detail) for name in names}


# ---------------------------------------------------------------------------------------------- Markdown


def number(value: float | None) -> str:
    """A number with three significant figures and spaced thousands: `0.0123`, `4.56`, `168,000`; `-` for None."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def verdict(wanted: float | None, reached: bool | None) -> str:
    """A target and whether it was reached."""
    if wanted is None:
        return ""
    return f"{number(wanted)} {'?' if reached is None else 'reached' if reached else 'NOT reached'}"


def markdown(summary: SetSummary, pinning: str) -> str:
    """The set as a Markdown section; columns that would be empty are left out."""
    ratios = summary.reference is not None
    targets = any(case.target.must is not None or case.target.goal is not None for case in summary.cases)
    further = list(dict.fromkeys(name for case in summary.cases for name in case.details))
    header = ["case", summary.unit, "least to greatest"]
    header += [f"of {summary.reference}"] if ratios else []
    header += ["must", "goal"] if targets else []
    header += further
    rows = []
    for case in summary.cases:
        row = [case.name, number(case.median), f"{number(case.lowest)} to {number(case.highest)}"]
        row += [number(case.ratio)] if ratios else []
        if targets:
            row.append(verdict(case.target.must, case.must_reached))
            row.append(verdict(case.target.goal, case.goal_reached))
        row += [number(case.details.get(name)) for name in further]
        rows.append(row)
    lines = [f"### {summary.title}", "", *_table(header, rows), ""]
    lines += [f"{case.name}: {case.trouble}  " for case in summary.cases if case.trouble]
    lines.append(f"Medians; {pinning}." + (f" {summary.note}" if summary.note else ""))
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = (
        "|"
        + "|".join("-" * (width + 2) if column == 0 else "-" * (width + 1) + ":" for column, width in enumerate(widths))
        + "|"
    )
    return [line(cells[0]), rule, *map(line, cells[1:])]
