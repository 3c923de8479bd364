"""The read benchmarks run, every case of them."""

from __future__ import annotations

import pytest

from benchmarks.harness import CaseSet, Options, run_set
from benchmarks.reads import SETS


@pytest.mark.parametrize("case_set", SETS, ids=lambda case_set: case_set.name)
def test_every_case_measures_something(case_set: CaseSet) -> None:
    summary = run_set(case_set, Options(seconds=0.1, rounds=1, quick=True), seed=1)
    assert [(case.name, case.trouble) for case in summary.cases if case.trouble] == []
    assert all(case.median for case in summary.cases)
