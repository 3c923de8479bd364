"""The README's Python programs run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pfs
from pfs.actors import Waiter
from pfs.protocol import StreamEnd

README = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_ten_line_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAMS[0], "README.md", "exec"), {})
    with pfs.System(tmp_path / "data") as system:
        assert system.open("triples", create=False).page_count == 2


def test_the_options_are_those_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAMS[1], "README.md", "exec"), {})
    with pfs.System(tmp_path / "data") as system:
        assert system.open("triples", create=False).page_count == 1


def test_the_client_actor_counts_the_pages_of_a_file(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(PROGRAMS[2], "README.md", "exec"), names)
    counted: list[tuple[int, object]] = []
    finished = Waiter()

    def done(pages: int, message: object) -> None:
        counted.append((pages, message))
        finished.finish()

    with pfs.System(tmp_path) as system:
        file = system.open("pages", page_size=512)
        file.append(b"x" * 512 * 1000)
        system.start(names["Counter"], file, done)
        assert finished.sleep(30)
    [(pages, message)] = counted
    assert pages == 1000
    assert isinstance(message, StreamEnd)
