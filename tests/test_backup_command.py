"""`pfs backup`: what it answers and shows, and how it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import pfs
from pfs.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with pfs.System(tmp_path / "data") as system:
        system.open("a").append([b"a" * 8192] * 300)
    return tmp_path / "data"


def test_backup_says_what_was_copied(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pfs.System(data) as system:
        assert main(["backup", str(data), str(tmp_path / "first")]) == 0
        assert main(["backup", str(data), str(tmp_path / "second"), "--json"]) == 0
        assert system.slots() == []
    text, line = capsys.readouterr().out.splitlines()
    assert "bytes copied" in text
    answer = json.loads(line)
    assert answer["destination"] == str(tmp_path / "second")
    assert answer["bytes"] > 300 * 8192
    for copy in ("first", "second"):
        with pfs.System(tmp_path / copy) as system:
            assert system.open("a", create=False).page_count == 300


def test_backup_refuses_in_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, destination, message in (
        (tmp_path / "none", tmp_path / "copy", "no directory"),
        (tmp_path, tmp_path / "copy", "no data directory"),
        (data, data / "copy", "in the data directory"),
        (data, data.parent, "must be empty"),
    ):
        assert main(["backup", str(source), str(destination)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("pfs: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err


def test_backup_shows_a_person_how_far_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["backup", str(data), str(tmp_path / "copy")]) == 0
    shown = capsys.readouterr().err
    assert "\rcopying page files: 2 of 2 MiB" in shown
    assert "\rcopying the WAL: " in shown
    assert shown.endswith("\n")
