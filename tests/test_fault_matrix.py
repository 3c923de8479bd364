"""The fault matrix of docs/faults.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS = [line for line in (ROOT / "docs/faults.md").read_text().splitlines() if line.startswith("| ")]
HEADINGS = ("| fault |",)


def functions() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    return found


def test_every_row_names_tests_that_exist() -> None:
    rows = [row for row in ROWS if not row.startswith(HEADINGS)]
    known = functions()
    assert len(rows) > 25
    missing = {row.split("|")[1].strip(): re.findall(r"`(test_\w+)`", row.split("|")[3]) for row in rows}
    assert [fault for fault, tests in missing.items() if not tests] == []
    assert {fault: [test for test in tests if test not in known] for fault, tests in missing.items()} == {
        fault: [] for fault in missing
    }
