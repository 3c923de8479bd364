"""The fairness demo: what the recorder makes of turns, and what each order of service does to scripted clients."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

import fairness
from fairness_clients import Recorder
from fairness_report import Served
from fairness_script import Script, parse

SMALL = """
[data]
pages = 2000
page_size = 512
[server]
chunk = 4
block = 2
credits = 8
[[clients]]
name = "scan"
kind = "scan"
count = 2
requests = 6
[[clients]]
name = "reader"
kind = "read"
count = 8
requests = 6
think = [0.0, 0.001]
[[clients]]
name = "appender"
kind = "append"
requests = 5
pages = 3
[[clients]]
name = "slow"
kind = "scan"
pages = 6
pause = 0.001
[[clients]]
name = "mortal"
kind = "read"
pages = 8
requests = 2
dies = 4
"""


class Clock:
    """Time that passes by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def run_small(order: fairness.Order, directory: Path) -> tuple[Script, fairness.Run]:
    script = parse(SMALL)
    return script, fairness.run(script, order, str(directory), quiet())


def by_request(events: list[Served]) -> dict[object, list[Served]]:
    requests: dict[object, list[Served]] = {}
    for event in events:
        requests.setdefault(event.request, []).append(event)
    return requests


# ------------------------------------------------------------------------------------------ the recorder


def test_a_wait_begins_when_the_request_is_sent_and_then_behind_its_last_chunk() -> None:
    clock = Clock()
    recorder = Recorder(block=2, credits=4, clock=clock)
    recorder.served(10, None, 99, 1)  # somebody else's
    recorder.ready(1, "anna", True)
    clock.now = 5.0
    recorder.served(13, None, 1, 4)
    recorder.served(15, None, 1, 4)
    assert recorder.events == [Served("anna", 1, 11, 13, 0.0, 5.0, 4), Served("anna", 1, 14, 15, 5.0, 5.0, 4)]


def test_a_consumer_that_gives_no_credit_does_not_wait() -> None:
    clock = Clock()
    recorder = Recorder(block=2, credits=2, clock=clock)
    recorder.ready(1, "slow", True)
    recorder.served(1, None, 1, 4)  # two data messages: no credit is left
    recorder.served(7, None, 99, 1)
    clock.now = 8.0
    recorder.gave_credit(1)
    recorder.served(9, None, 1, 2)
    assert recorder.events[-1] == Served("slow", 1, 8, 9, 8.0, 8.0, 2)


def test_a_request_that_has_ended_is_forgotten() -> None:
    recorder = Recorder(2, 2, Clock())
    recorder.ready(1, "anna", False)
    recorder.ended(1)
    recorder.served(1, None, 1, 4)
    assert recorder.events == []


# ------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("order", list(fairness.TITLES))
def test_every_client_gets_all_that_it_asked_for(order: fairness.Order, tmp_path: Path) -> None:
    script, done = run_small(order, tmp_path)
    groups = {group.client: group for group in done.groups}
    assert set(groups) == {"2 x scan", "8 x reader", "appender", "slow", "mortal"}
    for group, requests, pages in [
        ("2 x scan", 12, 12 * script.data.pages),
        ("8 x reader", 48, 48),
        ("appender", 5, 15),
        ("slow", 1, 6),
    ]:
        assert (groups[group].requests, groups[group].pages) == (requests, pages)
    assert 8 + 4 <= groups["mortal"].pages <= 8 + 8  # the server may have served more before it knew
    assert len(done.shares) == 13


def test_round_robin_lets_nobody_wait_for_more_than_one_chunk_of_each_other_client(tmp_path: Path) -> None:
    script, done = run_small("round_robin", tmp_path)
    clients = sum(client.count for client in script.clients)
    # A request that is sent while the server is in its turn may find so many small chunks served before it is seen.
    unseen = script.server.chunk
    longest = max(done.events, key=lambda event: event.turn - event.ready_turn)
    assert longest.turn - longest.ready_turn <= clients + unseen, longest


def test_first_come_first_served_ends_a_request_before_it_begins_the_next(tmp_path: Path) -> None:
    _, done = run_small("first_come_first_served", tmp_path)
    changes = sum(earlier.request != later.request for earlier, later in pairwise(done.events))
    assert changes == len(by_request(done.events)) - 1


def test_a_client_that_finds_wrong_pages_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "make_page", lambda number, size: bytes(size))
    with pytest.raises(fairness.RunFailed, match="scan 0: page 0 has not the content"):
        fairness.run(
            parse('[data]\npages = 4\n[[clients]]\nname = "scan"\nkind = "scan"'), "round_robin", str(tmp_path), quiet()
        )


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def small_script(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_the_command_shows_a_table_for_each_order_and_the_contrast(
    small_script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fairness.main([str(small_script), "--seed", "5"]) == 0
    output = capsys.readouterr().out
    assert "13 client actors, one page file of 2,000 pages, seed 5" in output
    assert output.count("Jain's index of the shares") == 2
    assert "Served round robin" in output
    assert "Served first come, first served" in output
    assert "99 of 100" in output
    assert "\x1b" not in output


def test_the_command_runs_one_order_alone(small_script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fairness.main([str(small_script), "--order", "round_robin"]) == 0
    assert "first come" not in capsys.readouterr().out


def test_on_a_terminal_bars_show_how_far_the_clients_are(small_script: Path) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    assert fairness.main([str(small_script), "--order", "round_robin"], terminal) == 0
    assert "━" in screen.getvalue()
    assert "/48" in screen.getvalue()


def test_a_wrong_script_ends_the_command_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("seed = 1")
    assert fairness.main([str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: there are no clients: add at least one [[clients]]\n"


def test_a_failed_run_ends_the_command_with_status_1(
    small_script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "make_page", lambda number, size: bytes(size))
    assert fairness.main([str(small_script)]) == 1
    assert "has not the content that was written" in capsys.readouterr().err


def test_ctrl_c_ends_the_command_without_a_traceback(
    small_script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(bars: object, done: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("progress.Bars.show", interrupt)
    monkeypatch.setattr(fairness, "LOOK", 0.0)
    assert fairness.main([str(small_script)]) == 130
    assert capsys.readouterr().err == "\nstopped\n"
