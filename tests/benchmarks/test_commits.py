"""The benchmarks of durable commits, recovery and starts run, every case of them that is installed."""

from __future__ import annotations

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


def test_an_interval_without_a_checkpoint_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "LEAST_SECONDS", 0.0)
    case_set = next(each for each in commits.SETS if each.name == "commits-1")
    options = Options(seconds=100.0, quick=True)  # so checkpoints are far apart

    with case_set.open_cases(options) as cases:
        case = next(each for each in cases if each.name == "pfs, actors")
        with pytest.raises(RuntimeError, match=r"no checkpoint was made within 0\.05 s"):
            case.run(0.05)


def test_a_database_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(Unavailable, match=r"Nothing needs the Python package 'no_such_package' \(pip install"):
        databases.package("no_such_package", "Nothing")
