"""A data directory belongs to one process, and its log is whole and its own: else it is refused, with the reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pfs
from pfs import cli
from pfs.errors import DirectoryLocked, ForeignWalSegment, PfsError, WalSegmentMissing
from tests.process.served import ServedProcess

SEGMENT = 64 << 10
OPTIONS = {"wal": {"segment_bytes": SEGMENT}}
PAGES = 400
"""So many pages take up several segments of the log."""


def crashed(directory: Path) -> list[str]:
    """Make a directory whose log was never checkpointed, and kill its server; the texts of its pages."""
    served = ServedProcess(directory, OPTIONS)
    served.do(client="a", do="open", file="f", page_size=512)
    texts = [f"page {number}" for number in range(PAGES)]
    for begin in range(0, PAGES, 40):
        served.do(client="a", do="append", file="f", pages=texts[begin : begin + 40])
    served.kill()
    return texts


def pages_of(served: ServedProcess) -> list[str]:
    texts: list[str] = served.do(client="a", do="read", file="f", pgid=0, n=PAGES)["pages"]
    return texts


def segments(directory: Path) -> list[Path]:
    """The segments that hold log, in order: those made ahead are full of zeros."""
    names = sorted((directory / "pfs_wal").iterdir())
    return [path for path in names if any(path.read_bytes()[64:])]


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(directory: Path, error: type[PfsError], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused to a `System`, to the command and to a server, with the name."""
    with pytest.raises(error, match=name):
        pfs.System(directory)
    assert cli.main(["ls", str(directory)]) == 1
    assert name in capsys.readouterr().err
    served = ServedProcess(directory, OPTIONS)
    assert served.ready["error"] == error.__name__
    assert name in served.ready["message"]
    assert served.end() == 1


def refused_and_left_alone(
    directory: Path, error: type[PfsError], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, and nothing in the directory is changed."""
    before = contents(directory)
    refused(directory, error, name, capsys)
    assert contents(directory) == before


# ---------------------------------------------------------------------------------------------- two processes


def test_a_second_process_is_refused_while_the_first_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "data"
    crashed(directory)
    first = ServedProcess(directory, OPTIONS)
    try:
        assert first.ready["ready"]
        refused(directory, DirectoryLocked, str(directory), capsys)
        first.do(client="a", do="append", file="f", pages=["more"])
    finally:
        first.kill()
    with pfs.System(directory) as system:
        assert system.open("f").page_count == PAGES + 1


@pytest.mark.parametrize("call", [2, 4, 6, 8])
def test_a_second_process_is_refused_while_the_first_recovers(
    call: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "data"
    texts = crashed(directory)
    command = [sys.executable, "-m", "pfs.testing.server", str(directory), json.dumps(OPTIONS), f"{call}:SIGSTOP"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        try:
            os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)  # it is in the middle of its recovery
            refused(directory, DirectoryLocked, str(directory), capsys)
            first.send_signal(signal.SIGCONT)
            assert first.stdout is not None
            assert json.loads(first.stdout.readline())["ready"]
        finally:
            first.kill()
    again = ServedProcess(directory, OPTIONS)
    assert pages_of(again) == texts
    again.stop()


# ---------------------------------------------------------------------------------------------- segments of the log


def test_a_missing_segment_is_named_and_nothing_is_changed_until_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "data"
    texts = crashed(directory)
    holding = segments(directory)
    assert len(holding) >= 4
    for segment in holding:
        away = tmp_path / segment.name
        segment.rename(away)
        refused_and_left_alone(directory, WalSegmentMissing, segment.name, capsys)
        away.rename(segment)
    again = ServedProcess(directory, OPTIONS)
    assert pages_of(again) == texts
    again.stop()


def test_a_segment_of_another_system_is_named_and_nothing_is_changed_until_the_right_one_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, other = tmp_path / "data", tmp_path / "other"
    texts = crashed(directory)
    crashed(other)
    for segment in segments(directory):
        away = tmp_path / segment.name
        segment.rename(away)
        shutil.copy(other / "pfs_wal" / segment.name, segment)
        refused_and_left_alone(directory, ForeignWalSegment, segment.name, capsys)
        away.rename(segment)
    again = ServedProcess(directory, OPTIONS)
    assert pages_of(again) == texts
    again.stop()
