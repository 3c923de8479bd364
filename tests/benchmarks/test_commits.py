"""The benchmarks of durable commits, recovery and starts run, every case of them that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import commits, databases, starts
from benchmarks.harness import CaseSet, Options, Unavailable, run_set


@pytest.mark.parametrize("case_set", [*commits.SETS, *starts.SETS], ids=lambda case_set: case_set.name)
def test_every_case_measures_something(case_set: CaseSet) -> None:
    summary = run_set(case_set, Options(seconds=0.19, rounds=1, quick=True), seed=1)
    missing = [case for case in summary.cases if (case.trouble or "").startswith("not available: ")]
    assert {case.name for case in missing} <= set(databases.DATABASES)
    assert [(case.name, case.trouble) for case in summary.cases if case.trouble and case not in missing] == []
    assert all(case.median for case in summary.cases if case not in missing)


def test_an_interval_has_a_whole_checkpoint_in_it(tmp_path: Path) -> None:
    made: list[int] = []
    with commits.opened_pfs(tmp_path / "data", pages=1) as (system, file):
        before = system.stats()["wal"]["checkpoints"]

        def run(seconds: float, meanwhile: commits.Meanwhile) -> float:
            file.write(0, [commits.IMAGES[1]])
            meanwhile(seconds)
            made.append(system.stats()["wal"]["checkpoints"] - before)
            return 1.0

        commits.measured(system, run)(0.01)
    assert made == [1]


def test_a_database_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(Unavailable, match=r"Nothing needs the Python package 'no_such_package' \(pip install"):
        databases.package("no_such_package", "Nothing")
