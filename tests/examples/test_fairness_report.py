"""The fairness report: waits, shares, Jain's index, and a table for terminals and files alike."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from examples.fairness_report import (
    Served,
    Waits,
    jains_index,
    percentile,
    ready_turns,
    report,
    report_groups,
    show,
    waits,
)


def served(client: str, ready_turn: int, turn: int, request: int = 1) -> Served:
    return Served(client, request, ready_turn, turn, ready_turn / 100, turn / 100, 4)


def test_a_wait_is_counted_from_ready_to_served_in_turns_and_in_seconds() -> None:
    (anna,) = report([served("anna", 3, 3), served("anna", 4, 14, request=2), served("anna", 15, 15, request=2)])
    assert (anna.client, anna.requests, anna.chunks, anna.pages) == ("anna", 2, 3, 12)
    assert anna.turns == Waits(0, 10, 10)
    assert anna.seconds == pytest.approx(Waits(0, 0.1, 0.1))
    assert anna.share == 3 / 13


def test_under_round_robin_shares_are_equal_whatever_the_clients_ask_for() -> None:
    events = []
    for turn in range(0, 300, 3):
        events.append(served("scan", max(0, turn - 2), turn, request=0))
        events.append(served("reader", max(0, turn - 1), turn + 1, request=turn))
        events.append(served("appender", turn, turn + 2, request=1))
    clients = report(events)
    assert [client.client for client in clients] == ["appender", "reader", "scan"]
    assert [client.requests for client in clients] == [1, 100, 1]
    assert all(client.share == pytest.approx(1 / 3, rel=0.01) for client in clients)
    assert jains_index([client.share for client in clients]) > 0.999


def test_under_first_come_first_served_who_came_behind_a_scan_has_almost_nothing() -> None:
    events = [served("scan", turn, turn) for turn in range(100)]
    events += [served("reader a", 0, 100), served("reader b", 0, 101)]
    reader_a, reader_b, scan = report(events)
    assert (scan.share, reader_a.share, reader_b.share) == (1.0, 1 / 101, 1 / 102)
    assert reader_b.turns.largest == 101
    assert jains_index([scan.share, reader_a.share, reader_b.share]) < 0.36


def test_a_group_has_the_waits_of_all_its_clients_and_the_mean_of_their_shares() -> None:
    events = [served("scan", 0, 0), served("a 1", 0, 1), served("a 2", 0, 3, request=2), served("a 2", 4, 4, request=3)]
    scan, group = report_groups(events, lambda client: client.partition(" ")[0])
    assert (scan.client, scan.share) == ("scan", 1.0)
    assert (group.client, group.requests, group.chunks, group.pages) == ("2 x a", 3, 3, 12)
    assert group.turns == Waits(1, 3, 3)
    assert group.share == pytest.approx((1 / 2 + 2 / 5) / 2)


def test_turns_are_counted_once_for_requests_that_are_ready_together() -> None:
    assert ready_turns([served("a", 0, 9), served("a", 2, 5), served("a", 8, 11), served("a", 20, 20)]) == 13


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=20))
def test_turns_with_something_ready_are_those_of_the_union(spans: list[tuple[int, int]]) -> None:
    union = {turn for first, length in spans for turn in range(first, first + length + 1)}
    assert ready_turns([served("a", first, first + length) for first, length in spans]) == len(union)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300), st.sampled_from([1, 50, 99, 100]))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[int], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def test_of_one_wait_all_percentiles_are_that_wait() -> None:
    assert waits([7]) == Waits(7, 7, 7)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_jains_index_is_between_1_by_n_and_1(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jains_index(values) <= 1 + 1e-9


def test_jains_index_at_its_ends() -> None:
    assert jains_index([5, 5, 5, 5]) == 1
    assert jains_index([0, 0, 8, 0]) == 0.25
    assert jains_index([]) == jains_index([0, 0]) == 1


def test_the_table_is_plain_text_in_a_file_and_cuts_no_name() -> None:
    output = io.StringIO()
    name = "a reader with quite a long name, number 17"
    show("Round robin", report([served(name, 0, 10)]), Console(file=output, width=140))
    lines = output.getvalue().splitlines()
    assert lines[0].strip() == "Round robin"
    row = next(line for line in lines if name in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *(name, "1", "1", "4"),
        *("10", "10", "10"),
        *("100.00", "100.00", "100.00"),
        "0.091",
    ]
    assert lines[-1] == "Jain's index of the shares: 1.000"
    assert "\x1b" not in output.getvalue()


def test_the_table_goes_to_standard_output_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a reader with a rather long name"
    show("First come, first served", report([served(name, 0, 0)]))
    printed = capsys.readouterr().out
    assert "First come, first served" in printed
    assert name in printed
    assert "\x1b" not in printed


def test_a_terminal_keeps_its_own_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "300")
    name = "x" * 130
    show("Round robin", report([served(name, 0, 0)]))
    printed = capsys.readouterr().out
    assert name in printed
    assert "\x1b" in printed, "a terminal gets styles"
