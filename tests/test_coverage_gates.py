"""The coverage gates: what they count, and when they say no."""

from __future__ import annotations

import pytest

from tests.coverage_gates import Gate, folder_coverage, judge, parse_gates


def report(branch_coverage: bool = True, **files: tuple[int, int, int, int]) -> dict[str, object]:
    """Files by name (`__` for `/`): statements, covered statements, branches, covered branches."""
    keys = ("num_statements", "covered_lines", "num_branches", "covered_branches")
    return {
        "meta": {"branch_coverage": branch_coverage},
        "files": {
            name.replace("__", "/"): {"summary": dict(zip(keys, counts, strict=True))} for name, counts in files.items()
        },
    }


def test_a_folder_is_the_sum_of_its_files() -> None:
    coverage = folder_coverage(report(pfs__a=(10, 5, 4, 4), pfs__b__c=(30, 25, 4, 2), other=(9, 0, 9, 0)), "pfs/")
    assert (coverage.files, coverage.line_percent, coverage.branch_percent) == (2, 75.0, 75.0)


def test_plain_lines_do_not_hide_branches_never_taken() -> None:
    lines, kept = judge(report(pfs__a=(1000, 1000, 10, 5)), [Gate("pfs/", 92)])
    assert not kept
    assert lines == ["pfs/: branches 50.00 %, lines 100.00 %, at least 92 % wanted: TOO LITTLE"]


def test_exactly_enough_is_enough() -> None:
    assert judge(report(pfs__a=(100, 92, 100, 92)), [Gate("pfs/", 92)])[1]
    assert not judge(report(pfs__a=(100, 91, 100, 92)), [Gate("pfs/", 92)])[1]


def test_each_gate_counts_for_itself() -> None:
    lines, kept = judge(
        report(pfs__files__a=(9, 9, 2, 1), pfs__b=(991, 991, 998, 998)), [Gate("pfs/", 92), Gate("pfs/files/", 100)]
    )
    assert not kept
    assert [line.endswith("ok") for line in lines] == [True, False]


def test_a_folder_without_files_is_said_to_be_empty() -> None:
    assert judge(report(pfs__a=(1, 1, 0, 0)), [Gate("pfs/wal/", 100)]) == (["pfs/wal/: no measured files yet"], True)


def test_a_report_without_branches_keeps_no_gate() -> None:
    assert judge(report(branch_coverage=False, pfs__a=(1, 1, 0, 0)), [Gate("pfs/", 92)])[1] is False


def test_a_gate_that_is_no_folder_and_percentage_is_refused() -> None:
    assert parse_gates(["pfs/ 92", "pfs/files/  100"]) == [Gate("pfs/", 92.0), Gate("pfs/files/", 100.0)]
    for line in ["pfs/", "pfs/ 101", "pfs/ many"]:
        with pytest.raises(ValueError, match=r"pfs/|many"):
            parse_gates([line])
