"""`python -m pfs.testing.server` does what it is told, says what went wrong, and dies at the call that was named."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

import pfs
from pfs.files.posix import PosixFileSystem
from pfs.testing import server
from pfs.testing.kill_points import killed_at
from tests.process.served import ServedProcess


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str], *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """The replies to these commands, of a server in this process."""
    lines = "".join(json.dumps({"id": number, "client": "a"} | each) + "\n" for number, each in enumerate(commands))
    output = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    monkeypatch.setattr("sys.stdout", output)
    status = server.main(arguments)
    replies = [json.loads(line) for line in output.getvalue().splitlines()]
    assert status == (1 if "error" in replies[0] else 0)
    return replies


def test_it_carries_out_commands_and_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_file = {"file": "f", "pgid": 0}
    replies = run(
        monkeypatch,
        [str(tmp_path), '{"buffer_bytes": 0}'],
        {"do": "open", "file": "f", "page_size": 512},
        {"do": "append", "file": "f", "pages": ["a", "b", "c"], "durability": "memory"},
        {"do": "write", **on_file, "pages": ["d"]},
        {"do": "sync", "file": "f"},
        {"do": "truncate", "file": "f", "n": 2},
        {"do": "checkpoint"},
        {"do": "read", **on_file, "n": 2},
        {"do": "read", **on_file, "n": 3},
        {"do": "dance", "file": "f"},
        {"do": "stat"},
    )
    ready, opened, appended, written, synced, truncated, checkpointed, read, beyond, unknown, stat = replies
    assert ready["ready"]
    assert ready["wal"]["replayed_transactions"] == 0
    assert opened == {"id": 0, "page_count": 0}
    assert appended == {"id": 1, "pgid": 0}
    assert [written, synced, truncated, checkpointed] == [{"id": 2}, {"id": 3}, {"id": 4}, {"id": 5}]
    assert read == {"id": 6, "pages": ["d", "b"]}
    assert beyond["error"] == "OutOfRange"
    assert "2 pages" in beyond["message"]
    assert unknown["error"] == "ProtocolError"
    assert stat["wal"]["checkpoints"] == 1


def test_stop_ends_it_before_the_end_of_its_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    append = {"do": "append", "file": "f", "pages": ["a"]}
    assert run(monkeypatch, [str(tmp_path)], append, {"do": "stop"}, append)[1:] == [{"id": 0, "pgid": 0}, {"id": 1}]


def test_a_directory_that_cannot_be_opened_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pfs.System(tmp_path):
        (refusal,) = run(monkeypatch, [str(tmp_path)])
    assert refusal["error"] == "DirectoryLocked"
    assert str(tmp_path) in refusal["message"]


@pytest.mark.parametrize("arguments", [[], ["a", "{}", "b"], ["a", "{}", "1", "2"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_a_page_that_is_not_one_text_is_torn() -> None:
    page = server.fill("text", 512)
    assert server.text_of(page) == "text"
    assert server.text_of(page[:-1] + b"x") == "torn"


class Killed(BaseException):
    """Instead of the end of the process."""


def kill() -> None:
    raise Killed


def test_the_call_that_was_named_is_the_last_and_a_write_is_half_done(tmp_path: Path) -> None:
    def work(at: int) -> bytes:
        fs = killed_at(PosixFileSystem(tmp_path), at, kill)
        descriptor = fs.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            fs.fstat(descriptor)
            fs.pwritev(descriptor, [b"ab", b"cd"], 0)
            fs.fsync(descriptor)
            fs.pwritev(descriptor, [b"ef", b"gh"], 0)
        except Killed:
            pass
        finally:
            fs.close(descriptor)
        return (tmp_path / "f").read_bytes()

    with pytest.raises(Killed):
        work(1)
    assert killed_at(PosixFileSystem(tmp_path), 1, kill).listdir("") == []
    assert [work(at) for at in (2, 3, 4, 5)] == [b"ab", b"abcd", b"efcd", b"efgh"]


def test_a_process_told_to_kill_itself_does(tmp_path: Path) -> None:
    served = ServedProcess(tmp_path / "data", kill_at=3)
    assert served.ready == {}
    assert served.end() == -9
    assert served.errors == ""
    again = ServedProcess(tmp_path / "data")
    assert again.ready["ready"]
    again.stop()
