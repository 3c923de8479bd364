"""A pytest plugin that holds folders to their least coverage, before pytest prints its closing line.

`coverage_gates` in setup.cfg lists folders (or files) with a percentage.  It is demanded twice: of the branches alone,
and of the lines alone; coverage's own total mixes both, so that many plain lines could hide branches never taken.
A gate whose folder has no measured files yet is passed over and said to be so.

`make test` turns it on with `--coverage-gates=FILE`, where FILE is what `--cov-report=json:FILE` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Gate(NamedTuple):
    folder: str
    percent: float


class Coverage(NamedTuple):
    """Counts of one folder."""

    files: int
    lines: int
    covered_lines: int
    branches: int
    covered_branches: int

    @property
    def line_percent(self) -> float:
        return 100.0 * self.covered_lines / self.lines if self.lines else 100.0

    @property
    def branch_percent(self) -> float:
        return 100.0 * self.covered_branches / self.branches if self.branches else 100.0


def parse_gates(lines: Sequence[str]) -> list[Gate]:
    """Gates from the lines of the setting; ValueError for a line that is not a folder and a percentage."""
    gates = []
    for line in lines:
        folder, _, percent = line.rpartition(" ")
        if not folder or not 0 <= float(percent) <= 100:
            raise ValueError(f"coverage_gates: {line!r} is not a folder and a percentage from 0 to 100")
        gates.append(Gate(folder.strip(), float(percent)))
    return gates


def folder_coverage(report: Mapping[str, Any], folder: str) -> Coverage:
    """The counts of all files below `folder` in a JSON report of coverage."""
    summaries = [file["summary"] for name, file in report["files"].items() if name.startswith(folder)]
    return Coverage(
        files=len(summaries),
        lines=sum(summary["num_statements"] for summary in summaries),
        covered_lines=sum(summary["covered_lines"] for summary in summaries),
        branches=sum(summary["num_branches"] for summary in summaries),
        covered_branches=sum(summary["covered_branches"] for summary in summaries),
    )


def judge(report: Mapping[str, Any], gates: Sequence[Gate]) -> tuple[list[str], bool]:
    """One line for each gate, and whether all are kept."""
    if not report["meta"]["branch_coverage"]:
        return ["branches were not measured: nothing of the package was run, or its settings are not read"], False
    lines, kept = [], True
    for gate in gates:
        coverage = folder_coverage(report, gate.folder)
        if not coverage.files:
            lines.append(f"{gate.folder}: no measured files yet")
            continue
        enough = min(coverage.branch_percent, coverage.line_percent) >= gate.percent
        kept = kept and enough
        lines.append(
            f"{gate.folder}: branches {coverage.branch_percent:.2f} %, lines {coverage.line_percent:.2f} %, "
            f"at least {gate.percent:g} % wanted: {'ok' if enough else 'TOO LITTLE'}"
        )
    return lines, kept


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("coverage_gates", "folders and their least coverage in percent", type="linelist", default=[])
    parser.addoption("--coverage-gates", metavar="FILE", help="JSON coverage report to hold against coverage_gates")


class _Verdict:
    """What was found, kept from the end of the session to the summary."""

    lines: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--coverage-gates")
    if path is None or hasattr(session.config, "workerinput"):
        return
    gates = parse_gates(session.config.getini("coverage_gates"))
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        _Verdict.lines, kept = [f"no coverage report: {error}"], False
    else:
        _Verdict.lines, kept = judge(report, gates)
    if not kept and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _Verdict.lines:
        terminalreporter.section("coverage gates")
        for line in _Verdict.lines:
            terminalreporter.write_line(line)
