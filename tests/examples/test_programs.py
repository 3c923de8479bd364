"""The quick start and the actor client run as they stand, and the actor client hears of what goes wrong."""

from __future__ import annotations

import runpy
from pathlib import Path

import pykka
import pytest

import actor_client
import pfs
from pfs.errors import OutOfRange, RequestTooLarge

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_quick_start_reads_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "quick_start.py"), run_name="__main__")
    assert capsys.readouterr().out == "6\nseven\n8\n100 pages of 8192 bytes\n"


def test_the_quick_start_has_about_ten_lines_of_code() -> None:
    lines = (EXAMPLES / "quick_start.py").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 10


def test_the_actor_client_reads_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "actor_client.py"), run_name="__main__")
    assert capsys.readouterr().out == "1000 pages written, from page 0 on\nthe numbers in them make 499500\n"


def test_the_actor_client_hears_why_its_read_failed(tmp_path: Path) -> None:
    with pfs.System(tmp_path) as system:
        file = system.open("empty", page_size=actor_client.PAGE_SIZE)
        done: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
        system.start(actor_client.Reader, file.server, 0, 1, done)
        with pytest.raises(OutOfRange, match="empty"):
            done.get(timeout=30)


def test_the_actor_client_hears_why_its_append_failed(tmp_path: Path) -> None:
    with pfs.System(tmp_path) as system:
        file = system.open("small", page_size=actor_client.PAGE_SIZE)
        done: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
        file.append([bytes(actor_client.PAGE_SIZE)])
        system.start(actor_client.Writer, file.server, (1 << 32) - 1, done)
        with pytest.raises(RequestTooLarge):
            done.get(timeout=30)
        assert file.page_count == 1
