"""`make demo`: its look-ups find what is there, it notices what is wrong, and it tells a person how it went."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import crashes
import demo
import pfs
from pfs.streams.codecs import Triple, TripleCodec
from triple_clients import look_up

SMALL = ["--triples", "300", "--clients", "12", "--look-ups", "5", "--scans", "2", "--no-fairness", "--no-kills"]

names = st.sampled_from(["", "a", "aa", "ab", "b", "ba", "z", "é", "\U0001f600"])
triples = st.tuples(names, names, st.integers(0, 200).map("long ".__mul__).map(lambda text: text[:400]))


def search(pages: Sequence[bytes], key: str, codec: TripleCodec) -> list[Triple]:
    steps = look_up(key, len(pages), codec)
    page: bytes | None = None
    while True:
        try:
            page = pages[next(steps) if page is None else steps.send(page)]
        except StopIteration as end:
            found: list[Triple] = end.value
            return found


@given(st.lists(triples, max_size=80).map(sorted), names)
def test_a_look_up_finds_all_triples_of_a_key_wherever_pages_end(stored: list[Triple], key: str) -> None:
    codec = TripleCodec(512)
    assert search(list(codec.encode(stored)), key, codec) == [triple for triple in stored if triple[0] == key]


def test_a_look_up_reads_few_pages() -> None:
    codec = TripleCodec(512)
    pages = list(codec.encode((f"{number:06}", "is", "a number") for number in range(30_000)))
    asked: list[int] = []

    class Counted(list[bytes]):
        def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
            asked.append(index)
            return super().__getitem__(index)

    assert search(Counted(pages), "012345", codec) == [("012345", "is", "a number")]
    assert len(pages) > 1000
    assert len(asked) <= len(pages).bit_length() + 2


# ------------------------------------------------------------------------------------------ the program


def test_the_demo_says_what_it_did_and_that_all_answers_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(SMALL) == 0
    output = capsys.readouterr().out
    assert "60 look-ups" in output
    assert "all answers are right" in output
    assert output.rstrip().endswith("every answer was right.")
    assert "\x1b" not in output


def test_on_a_terminal_bars_show_how_far_the_demo_is() -> None:
    screen = io.StringIO()
    assert demo.main(SMALL, Console(file=screen, force_terminal=True, width=120)) == 0
    assert "look-ups" in screen.getvalue()
    assert "━" in screen.getvalue()


def test_with_directory_the_page_files_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "kept"
    assert demo.main([*SMALL, "--directory", str(place)]) == 0
    assert f"pfs ls {place}" in capsys.readouterr().out
    with pfs.System(place) as system:
        assert system.names() == ["by object", "by subject"]
        stored = [
            triple for page in system.open("by subject").stream() for triple in TripleCodec(demo.PAGE_SIZE).decode(page)
        ]
    assert len(stored) >= 300
    assert stored == sorted(set(stored))


def test_a_directory_with_page_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pfs.System(tmp_path) as system:
        system.open("mine")
    assert demo.main([*SMALL, "--directory", str(tmp_path)]) == 1
    assert "has page files already: mine" in capsys.readouterr().err


Change = Callable[[demo.Index], demo.Index]


def _one_answer_too_many(index: demo.Index) -> demo.Index:
    more = {key: [*found, found[0]] for key, found in index.by_key.items()}
    return demo.Index(index.name, index.triples, more)


def _another_answer(index: demo.Index) -> demo.Index:
    other = {key: [*found[:-1], ("x", "y", "z")] for key, found in index.by_key.items()}
    return demo.Index(index.name, index.triples, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [(_one_answer_too_many, "were expected"), (_another_answer, "other triples for")],
)
def test_a_wrong_answer_ends_the_demo_with_status_1(
    change: Change, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = demo.indexes_of
    monkeypatch.setattr(demo, "indexes_of", lambda triples: [change(index) for index in right(triples)])
    assert demo.main(SMALL) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("the demo failed: ")
    assert message in captured.err
    assert "every answer was right" not in captured.out


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (lambda triples: [*triples, ("~", "~", "~")], "a scan ended 1 triples too early"),
        (lambda triples: triples[:-1], "a scan found other triples than were put in"),
        (lambda triples: triples[::-1], "a scan found other triples than were put in, near triple 0"),
    ],
)
def test_a_scan_that_finds_other_triples_fails(
    expected: Callable[[list[Triple]], list[Triple]], message: str, tmp_path: Path
) -> None:
    (index, _) = demo.indexes_of([(f"s{number:03}", "p", "o") for number in range(500)])
    small = demo.Demo(demo.Size(clients=1, look_ups=1, scans=1), 1, Console(file=io.StringIO()))
    with pfs.System(tmp_path) as system:
        small.load(system, [index])
        small.use(system, [index])
        with pytest.raises(demo.DemoFailed, match=message):
            small.use(system, [demo.Index(index.name, expected(index.triples), index.by_key)])


def test_ctrl_c_ends_the_demo_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.Group, "wait", interrupt)
    assert demo.main(SMALL) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_the_demo_ends_by_killing_a_server_that_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([*SMALL[:-1], "--kills", "2"]) == 0
    output = capsys.readouterr().out
    last = re.search(r"kill 2: recovered in .* ([\d,]+) pages found: all +([\d,]+) acknowledged so far", output)
    assert last is not None, output
    assert f"{last[2]} pages acknowledged, {last[2]} found" in output
    assert output.rstrip().endswith("every answer was right.")


def test_a_lost_page_ends_the_demo_with_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = crashes.first_line

    def all_lost(process: subprocess.Popen[str]) -> dict[str, Any]:
        return {**right(process), "texts": []}

    monkeypatch.setattr(crashes, "first_line", all_lost)
    assert demo.main([*SMALL[:-1], "--kills", "1"]) == 1
    captured = capsys.readouterr()
    assert re.match(r"the demo failed: page \d+ was acknowledged as .*; there is 'nothing'", captured.err)
    assert "every answer was right" not in captured.out


def append(name: str, n: int) -> list[str]:
    return [f"{name}, page {index} of {n}" for index in range(1, n + 1)]


def test_the_check_after_a_kill_finds_what_is_lost_or_there_by_half() -> None:
    one, two, three = append("client 1, append 1", 2), append("client 2, append 1", 1), append("client 1, append 2", 3)
    for found, more in ([*one, *two], 0), ([*one, *two, *three], 3):
        appends = crashes.Appends()
        appends.note(0, one)
        appends.note(2, two)
        assert appends.check(found) == more
        assert appends.check(found) == 0
    for found, message in [
        ([*one], "page 2 was acknowledged"),
        ([*two, *one], "page 0 was acknowledged"),
        ([*one, *two, *three[:2]], "at page 3 is there by half"),
        ([*one, *two, *three[1:]], "at page 3 is there by half"),
        ([*one, *two, three[0], three[2]], "at page 3 is there by half"),
    ]:
        appends = crashes.Appends()
        appends.note(0, one)
        appends.note(2, two)
        with pytest.raises(crashes.CrashFailed, match=message):
            appends.check(found)


def test_ctrl_c_leaves_no_server_behind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def interrupt(process: subprocess.Popen[str], *_: object) -> None:
        started.append(process)
        assert process.poll() is None
        raise KeyboardInterrupt

    monkeypatch.setattr(crashes, "note_and_kill", interrupt)
    assert demo.main([*SMALL[:-1], "--kills", "2"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"
    assert [process.returncode for process in started] == [-9]


def test_a_server_whose_demo_is_gone_ends(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, crashes.SERVER, tmp_path, "seed"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert crashes.first_line(process)["texts"] == []
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("wrong", [["--triples", "0"], ["--clients", "many"], ["--look-ups", "-1"], ["--what"]])
def test_a_wrong_command_line_ends_with_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        demo.main(wrong)
    assert end.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_the_demo_runs_as_make_demo_calls_it() -> None:
    program = Path(demo.__file__)
    done = subprocess.run(
        [sys.executable, program, *SMALL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=program.parent.parent,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "all answers are right" in done.stdout
