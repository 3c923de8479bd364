"""The `pfs` command: what it answers, as text and as JSON, and how it refuses."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pfs
from pfs.cli import hex_lines, main

Pfs = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with the page file "a": three pages of 512 bytes."""
    directory = tmp_path / "data"
    with pfs.System(directory) as system:
        system.open("a", page_size=512).append([bytes([number]) * 512 for number in (1, 2, 3)])
    return directory


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Pfs:
    """Run the command; returns what it prints, after a look at exit status and stderr."""

    def call(*arguments: object, status: int = 0, error: str = "") -> str:
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        if status == 1:
            assert captured.err.startswith("pfs: ") or "] pfs: " in captured.err
            assert captured.err.count("\n") == 1
        assert error in captured.err
        assert error or not captured.err
        return captured.out

    return call


def type_in(monkeypatch: pytest.MonkeyPatch, typed: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))


# ------------------------------------------------------------------------------------------ looking


def test_ls_lists_the_page_files(data: Path, run: Pfs) -> None:
    run("create", data, "much longer name")
    assert run("ls", data).splitlines() == [
        "name              pages  page size  bytes",
        "a                     3        512  1,536",
        "much longer name      0      8,192      0",
    ]


def test_ls_of_an_empty_directory_says_so(data: Path, run: Pfs) -> None:
    run("drop", data, "a", "--yes")
    assert run("ls", data) == "no page files\n"
    assert json.loads(run("ls", data, "--json")) == []


def test_ls_and_stat_answer_in_json(data: Path, run: Pfs) -> None:
    row = {"name": "a", "page_count": 3, "page_size": 512, "bytes": 1536}
    assert json.loads(run("ls", data, "--json")) == [row]
    assert json.loads(run("stat", data, "a", "--json")) == row
    whole = json.loads(run("stat", data, "--json"))
    assert whole == {"directory": str(data), "page_files": 1, "damaged": 0, "page_count": 3, "bytes": 1536}


def test_stat_shows_one_page_file_or_all(data: Path, run: Pfs) -> None:
    assert run("stat", data, "a").splitlines() == [
        "name        a",
        "page count  3",
        "page size   512",
        "bytes       1,536",
    ]
    assert "page files  1" in run("stat", data)


def test_a_damaged_page_file_does_not_hide_the_others(data: Path, run: Pfs) -> None:
    run("create", data, "b")
    (torn,) = [path for path in data.rglob("*") if path.is_file() and path.stat().st_size == 1536]
    with torn.open("ab") as file:
        file.write(b"torn")
    a, b = json.loads(run("ls", data, "--json"))
    assert (a["name"], list(a), b["page_count"]) == ("a", ["name", "error"], 0)
    assert "1540" in a["error"] or "1,540" in a["error"]
    assert a["error"] in run("ls", data)
    assert json.loads(run("stat", data, "--json"))["damaged"] == 1
    run("stat", data, "a", status=1, error=a["error"])


# ------------------------------------------------------------------------------------------ changing


def test_create_makes_the_directory_too(tmp_path: Path, run: Pfs) -> None:
    place = tmp_path / "new" / "place"
    place.parent.mkdir()
    assert run("create", place, "b", "--page-size", 4096) == "'b' created, with pages of 4096 bytes\n"
    assert json.loads(run("stat", place, "b", "--json"))["page_size"] == 4096


def test_create_refuses_a_name_that_is_taken(data: Path, run: Pfs) -> None:
    run("create", data, "a", status=1, error="there is a page file 'a' already")


def test_rename_keeps_the_pages(data: Path, run: Pfs) -> None:
    assert run("rename", data, "a", "b") == "'a' is now 'b'\n"
    assert json.loads(run("stat", data, "b", "--json"))["page_count"] == 3
    run("stat", data, "a", status=1, error="'a'")


def test_rename_refuses_a_name_that_is_taken(data: Path, run: Pfs) -> None:
    run("create", data, "b")
    run("rename", data, "a", "b", status=1, error="'b'")
    assert json.loads(run("stat", data, "a", "--json"))["page_count"] == 3


def test_drop_asks_first(data: Path, run: Pfs, monkeypatch: pytest.MonkeyPatch) -> None:
    for typed in (b"n\n", b"\n", b""):
        type_in(monkeypatch, typed)
        run("drop", data, "a", status=1, error="'a' was not deleted")
    type_in(monkeypatch, b"y\n")
    assert run("drop", data, "a", error="Delete 'a' for ever?") == "'a' deleted\n"
    assert run("ls", data) == "no page files\n"


def test_drop_does_not_ask_about_what_is_not_there(data: Path, run: Pfs) -> None:
    run("drop", data, "b", status=1, error="pfs: ")


# ------------------------------------------------------------------------------------------ pages in and out


def test_what_append_puts_in_read_gives_back(
    data: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    source = tmp_path / "pages"
    source.write_bytes(bytes(range(256)) * 2 * 5000)  # more than one request of `append`
    assert main(["append", str(data), "a", str(source)]) == 0
    assert capfdbinary.readouterr().out == b"5,000 pages appended, from page 3 on\n"
    assert main(["read", str(data), "a", "2"]) == 0
    assert capfdbinary.readouterr().out == b"\3" * 512
    assert main(["read", str(data), "a", "3", "5000"]) == 0
    assert capfdbinary.readouterr().out == source.read_bytes()


def test_append_takes_the_standard_input(data: Path, run: Pfs, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"x" * 1024)
    assert json.loads(run("append", data, "a", "-", "--json")) == {"name": "a", "pgid": 3, "n": 2}
    type_in(monkeypatch, b"")
    assert run("append", data, "a", "-") == "nothing to append\n"


def test_append_of_a_file_that_is_not_whole_pages_appends_nothing(data: Path, tmp_path: Path, run: Pfs) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 1000)
    run("append", data, "a", tmp_path / "odd", status=1, error="1,000 bytes, not a whole number of pages of 512")
    assert json.loads(run("stat", data, "a", "--json"))["page_count"] == 3


@pytest.mark.parametrize(("length", "appended"), [(100, 0), (1100, 2)])
def test_append_says_what_it_appended_before_the_input_ended_within_a_page(
    data: Path, run: Pfs, monkeypatch: pytest.MonkeyPatch, length: int, appended: int
) -> None:
    type_in(monkeypatch, b"x" * length)
    run("append", data, "a", "-", status=1, error=f"{appended} pages were appended, from page 3 on")
    assert json.loads(run("stat", data, "a", "--json"))["page_count"] == 3 + appended


def test_append_makes_no_page_file_and_names_a_file_that_is_missing(data: Path, run: Pfs) -> None:
    run("append", data, "b", "/dev/null", status=1, error="'b'")
    run("append", data, "a", data / "missing", status=1, error="missing")


def test_read_shows_pages_in_hexadecimal(data: Path, run: Pfs) -> None:
    lines = run("read", data, "a", "1", "--hex").splitlines()
    assert len(lines) == 32
    assert lines[1] == "0000000210  02 02 02 02 02 02 02 02  02 02 02 02 02 02 02 02  |................|"
    assert list(hex_lines(b" Az~\x7f\xff", 16)) == ["0000000010  20 41 7a 7e 7f ff    | Az~..|"]


def test_read_past_the_end_is_refused(data: Path, run: Pfs) -> None:
    run("read", data, "a", "3", status=1, error="'a'")
    run("read", data, "a", "0", "4", status=1, error="'a'")
    run("read", data, "a", "0", "0", status=1, error="n must be")


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "command", [["ls"], ["stat"], ["rename", "a", "b"], ["drop", "a"], ["append", "a", "f"], ["read", "a", "0"]]
)
def test_only_create_makes_a_directory(command: list[str], tmp_path: Path, run: Pfs) -> None:
    place = tmp_path / "none"
    run(command[0], place, *command[1:], status=1, error=f"there is no directory '{place}'")
    assert not place.exists()


def test_a_directory_of_something_else_is_left_as_it_is(tmp_path: Path, run: Pfs) -> None:
    run("ls", tmp_path, status=1, error="is no data directory of pfs")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_refused(data: Path, run: Pfs) -> None:
    with pfs.System(data):
        run("ls", data, status=1, error="in use")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["what"],
        ["ls"],
        ["ls", "d", "e"],
        ["create", "d"],
        ["create", "d", "n", "--page-size", "x"],
        ["read", "d", "n", "-1"],
        ["read", "d", "n", "1.5"],
        ["read", "d", "n", "٣"],
    ],
)
def test_bad_usage_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pfs")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"pfs {pfs.__version__}\n"


def test_ctrl_c_ends_with_status_130(data: Path, run: Pfs, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pfs.System, "names", interrupt)
    assert run("ls", data, status=130) == ""


# ------------------------------------------------------------------------------------------ as a process


def test_it_runs_as_a_module(data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pfs", "ls", str(data)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split() == ["a", "3", "512", "1,536"]


def test_a_reader_that_goes_away_gets_no_traceback(data: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").write_bytes(bytes(4 << 20))
    assert main(["append", str(data), "a", str(tmp_path / "pages")]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "pfs", "read", str(data), "a", "0", "8000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(512) == b"\1" * 512
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
