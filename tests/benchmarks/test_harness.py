"""The benchmark harness: its statistics, its table, its rounds, and its command line."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import machine
from benchmarks.harness import Case, CaseSet, Measurement, Options, Unavailable, fixed, rate, run_set
from benchmarks.summary import SetSummary, Target, markdown, number, summarize, verdict

rates = st.floats(min_value=1e-3, max_value=1e9)


# ------------------------------------------------------------------------------------------ statistics


@given(st.lists(rates, min_size=1))
def test_the_median_lies_between_the_least_and_the_greatest(values: list[float]) -> None:
    summary = summarize("case", values)
    assert (summary.lowest, summary.highest) == (min(values), max(values))
    assert summary.median is not None
    assert min(values) <= summary.median <= max(values)


@given(st.lists(st.tuples(rates, rates), min_size=1), st.floats(min_value=0.1, max_value=10))
def test_a_machine_that_slows_whole_rounds_does_not_move_the_ratio(
    rounds: list[tuple[float, float]], share: float
) -> None:
    summary = summarize("case", [speed * share for speed, _ in rounds], [speed for speed, _ in rounds])
    assert summary.ratio == pytest.approx(share)


def test_the_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    assert summarize("case", [1.0, 9.0, 4.0], [1.0, 3.0, 2.0]).ratio == 2.0
    assert summarize("cut short by an error", [1.0], [4.0, 1.0, 1.0]).ratio == 0.25


def test_a_case_without_values_has_no_numbers() -> None:
    summary = summarize("case", [], [1.0], target=Target(must=1), trouble="failed: ...", failed=True)
    assert (summary.median, summary.lowest, summary.ratio, summary.must_reached) == (None, None, None, None)


def test_details_are_medians_too() -> None:
    summary = summarize("case", [1, 1, 1], details=[{"p99": 3.0}, {"p99": 1.0}, {"p99": 2.0, "hits": 7.0}])
    assert summary.details == {"p99": 2.0, "hits": 7.0}


@pytest.mark.parametrize(
    ("target", "must", "goal"),
    [
        (Target(must=0.5, goal=0.8), True, False),  # ratio 0.6
        (Target(must=0.7, goal=None), False, None),
        (Target(must=60, goal=61, is_ratio=False), True, False),  # value 60
        (Target(must=0.6, goal=0.5, higher=False), True, False),
        (Target(must=59, goal=60, is_ratio=False, higher=False), False, True),
    ],
)
def test_targets_are_reached_or_not(target: Target, must: bool | None, goal: bool | None) -> None:
    summary = summarize("case", [60.0], [100.0], target=target)
    assert (summary.must_reached, summary.goal_reached) == (must, goal)


# ------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (168_432.1, "168,000"),
        (1000, "1,000"),
        (999.96, "1,000"),
        (45.678, "45.7"),
        (4.5, "4.50"),
        (0.6123, "0.612"),
        (0.000123456, "0.000123"),
        (0, "0"),
        (None, "-"),
    ],
)
def test_numbers_have_three_significant_figures(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_verdict_says_what_was_wanted() -> None:
    assert verdict(0.35, True) == "0.350 reached"
    assert verdict(0.35, False) == "0.350 NOT reached"
    assert verdict(0.35, None) == "0.350 ?"
    assert verdict(None, None) == ""


def test_the_table_shows_ratios_targets_and_troubles() -> None:
    summary = SetSummary(
        name="reads",
        title="Reads",
        unit="reads/s",
        reference="raw",
        note="Hot.",
        cases=[
            summarize("raw", [1000.0, 3000.0, 2000.0], [1000.0, 3000.0, 2000.0]),
            summarize("pfs", [600.0, 1800.0, 1200.0], [1000.0, 3000.0, 2000.0], target=Target(must=0.5, goal=0.8)),
            summarize("a|b", [], [], trouble="not available: no database"),
        ],
    )
    assert markdown(summary, "pinned to CPU 1").splitlines() == [
        "### Reads",
        "",
        "| case | reads/s | least to greatest | of raw |          must |              goal |",
        "|------|--------:|------------------:|-------:|--------------:|------------------:|",
        "| raw  |   2,000 |    1,000 to 3,000 |   1.00 |               |                   |",
        "| pfs  |   1,200 |      600 to 1,800 |  0.600 | 0.500 reached | 0.800 NOT reached |",
        "| a\\|b |       - |            - to - |      - |               |                   |",
        "",
        "a|b: not available: no database  ",
        "Medians; pinned to CPU 1. Hot.",
    ]


def test_columns_that_would_be_empty_are_left_out() -> None:
    summary = SetSummary("s", "S", "ops/s", None, "", [summarize("one", [5.0], details=[{"p99 us": 12.5}])])
    assert markdown(summary, "not pinned, 2 CPUs").splitlines()[2] == "| case | ops/s | least to greatest | p99 us |"


# ------------------------------------------------------------------------------------------ rounds


def recording(log: list[str], *names: str, reference: str | None = None) -> CaseSet:
    def case(name: str) -> Case:
        def run(_seconds: float) -> float:
            log.append(name)
            return 1.0

        return Case(name, run)

    return CaseSet("set", "Set", fixed(*map(case, names)), reference=reference)


def test_each_round_runs_every_case_once_in_an_order_that_the_seed_repeats() -> None:
    logs: list[list[str]] = []
    for seed in (1, 1, 2):
        log: list[str] = []
        run_set(recording(log, "a", "b", "c", "d"), Options(rounds=20), seed)
        logs.append(log)
    rounds = [logs[0][start : start + 4] for start in range(0, 80, 4)]
    assert all(sorted(names) == ["a", "b", "c", "d"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert logs[0] == logs[1] != logs[2]


def test_the_reference_is_run_though_only_others_were_asked_for() -> None:
    log: list[str] = []
    summary = run_set(recording(log, "a", "b", "raw", reference="raw"), Options(rounds=1), 1, lambda name: name == "b")
    assert sorted(log) == ["b", "raw"]
    assert [case.ratio for case in summary.cases] == [1.0, 1.0]


def failing_from(round_number: int, error: Exception) -> Callable[[float], float]:
    calls = iter(range(1, 1000))

    def run(_seconds: float) -> float:
        if next(calls) >= round_number:
            raise error
        return 1.0

    return run


def test_a_case_that_fails_spoils_only_itself() -> None:
    cases = fixed(
        Case("well", lambda seconds: seconds),
        Case("breaks in round 2", failing_from(2, LookupError("gone"))),
        Case("missing", failing_from(1, Unavailable("no such database"))),
        Case("stands still", lambda seconds: 0.0),
    )
    summary = run_set(CaseSet("set", "Set", cases, reference="well"), Options(seconds=0.5, rounds=3), 1)
    by_name = {case.name: case for case in summary.cases}
    assert by_name["well"].values == [0.5, 0.5, 0.5]
    assert (by_name["breaks in round 2"].values, by_name["breaks in round 2"].ratio) == ([1.0], 2.0)
    assert by_name["breaks in round 2"].trouble == "failed: LookupError: gone"
    assert by_name["missing"].trouble == "not available: no such database"
    assert by_name["stands still"].trouble is not None
    assert {case.name for case in summary.cases if case.failed} == {"breaks in round 2", "stands still"}


def test_cases_are_set_up_once_and_taken_down_after_the_last_round() -> None:
    log: list[str] = []

    @contextmanager
    def open_cases(options: Options) -> Iterator[Sequence[Case]]:
        log.append(f"up quick={options.quick}")
        yield [Case("a", lambda seconds: Measurement(1.0 + len(log), {"log": len(log)}))]
        log.append("down")

    summary = run_set(CaseSet("set", "Set", open_cases), Options(rounds=2, quick=True), 1)
    assert log == ["up quick=True", "down"]
    assert (summary.cases[0].values, summary.cases[0].details) == ([2.0, 2.0], {"log": 1})


def test_a_set_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="two cases have one name"):
        run_set(recording([], "a", "a"), Options(), 1)
    with pytest.raises(ValueError, match="its reference 'raw' is none of"):
        run_set(recording([], "a", reference="raw"), Options(), 1)


def test_a_rate_counts_operations_not_calls() -> None:
    calls: list[None] = []
    per_call = rate(lambda: calls.append(None), 0.001)
    assert calls
    assert per_call > 0
    assert rate(lambda: None, 0, batch=1_000_000) > 100_000


# ------------------------------------------------------------------------------------------ machine and command line


def test_pinning_holds_meanwhile_and_is_undone() -> None:
    before = os.sched_getaffinity(0)
    cpu = machine.default_cpu()
    with machine.pinned(cpu) as sentence:
        assert os.sched_getaffinity(0) == {cpu}
        assert sentence == f"pinned to CPU {cpu}"
    assert os.sched_getaffinity(0) == before
    with machine.pinned(None) as sentence:
        assert sentence == f"not pinned, {len(before)} CPUs"
    with pytest.raises(ValueError, match="CPU 99999 is not to be had"), machine.pinned(99999):
        pass


def test_the_file_system_is_that_of_the_longest_mount_point() -> None:
    mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nother /tmpfoo xfs rw 0 0\n"
    assert machine.file_system(Path("/tmp/x"), mounts) == "tmpfs"
    assert machine.file_system(Path("/home"), mounts) == "ext4"
    assert machine.file_system(Path("/home"), "") == "an unknown file system"


def test_the_processor_is_named() -> None:
    assert machine.processor("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n") == "Fast CPU @ 3 GHz"
    assert machine.processor("") != ""
    assert set(machine.facts()) >= {"date", "processor", "cores", "kernel", "python", "commit"}


@pytest.mark.parametrize(
    ("patterns", "set_name", "picked"),
    [
        ([], "reads", ["hit", "miss"]),
        (["reads"], "reads", ["hit", "miss"]),
        (["re*"], "reads", ["hit", "miss"]),
        (["reads/h*"], "reads", ["hit"]),
        (["writes", "reads/miss"], "reads", ["miss"]),
        (["writes"], "reads", None),
    ],
)
def test_sets_and_cases_are_picked_by_name(patterns: list[str], set_name: str, picked: list[str] | None) -> None:
    wanted = command.picks(patterns, set_name)
    assert (None if wanted is None else [case for case in ("hit", "miss") if wanted(case)]) == picked


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> list[CaseSet]:
    """What `discover` finds, for this test."""
    found: list[CaseSet] = []
    monkeypatch.setattr(command, "discover", lambda: (found, []))
    return found


def test_a_run_prints_tables_and_writes_all_numbers(
    sets: list[CaseSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []
    sets += [recording(log, "a", "raw", reference="raw"), CaseSet("never", "Never asked for", fixed())]
    assert command.main(["set", "--rounds", "3", "--seed", "7", "--pin", "none", "--output", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "### Set" in captured.out
    assert "Never" not in captured.out
    assert "(--seed 7)" in captured.out
    assert "not pinned" in captured.out
    assert "set: round 3 of 3: " in captured.err
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert content["seed"] == 7
    assert content["machine"]["cores"] == os.cpu_count()
    assert [case["values"] for case in content["sets"][0]["cases"]] == [[1.0] * 3, [1.0] * 3]


def test_files_are_made_in_the_directory_that_is_asked_for(
    sets: list[CaseSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    seen: list[str] = []

    def run(_seconds: float) -> float:
        seen.append(tempfile.gettempdir())
        return 1.0

    sets.append(CaseSet("set", "Set", fixed(Case("a", run))))
    place = tmp_path / "place"
    place.mkdir()
    arguments = ["set", "--quick", "--output", str(tmp_path / "results"), "--directory"]
    assert command.main([*arguments, str(place)]) == 0
    assert set(seen) == {str(place)}
    with pytest.raises(SystemExit, match="2"):
        command.main([*arguments, str(tmp_path / "none")])


def test_sets_are_pinned_unless_they_say_otherwise(
    sets: list[CaseSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, int] = {}

    def case(name: str) -> Case:
        def run(_seconds: float) -> float:
            seen[name] = len(os.sched_getaffinity(0))
            return 1.0

        return Case("only", run)

    sets += [
        CaseSet("one", "One", fixed(case("one"))),
        CaseSet("all", "All", fixed(case("all")), pinned=False),
    ]
    assert command.main(["--quick", "--output", str(tmp_path)]) == 0
    assert seen == {"one": 1, "all": len(os.sched_getaffinity(0))}
    assert f"pinned to CPU {machine.default_cpu()}" in capsys.readouterr().out


def test_missed_targets_never_fail_a_run_but_errors_do(
    sets: list[CaseSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = CaseSet("slow", "Slow", fixed(Case("a", lambda seconds: 1.0, must=2, target="value")))
    gone = CaseSet("gone", "Gone", fixed(Case("a", failing_from(1, Unavailable("no database")))))
    broken = CaseSet("broken", "Broken", fixed(Case("a", failing_from(1, LookupError("gone")))))
    sets += [slow, gone, broken]
    assert command.main(["slow", "gone", "--quick", "--output", str(tmp_path)]) == 0
    assert "2.00 NOT reached" in capsys.readouterr().out
    assert command.main(["slow", "broken", "--quick", "--output", str(tmp_path)]) == 1
    assert "failed: LookupError: gone" in capsys.readouterr().out


def test_a_set_that_cannot_be_set_up_does_not_stop_the_others(
    sets: list[CaseSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def raising(error: Exception) -> Iterator[Sequence[Case]]:
        raise error
        yield

    sets += [
        CaseSet("bad", "Bad", lambda options: raising(OSError("disk full"))),
        CaseSet("absent", "Absent", lambda options: raising(Unavailable("not installed"))),
        recording([], "a"),
    ]
    assert command.main(["--quick", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "Failed: OSError: disk full" in printed
    assert "Not available: not installed" in printed
    assert "### Set" in printed


def test_asking_for_what_does_not_exist_says_what_does(sets: list[CaseSet], capsys: pytest.CaptureFixture[str]) -> None:
    sets.append(recording([], "a"))
    assert command.main(["sett"]) == 2
    assert "nothing matches ['sett']; the sets are ['set']" in capsys.readouterr().err
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == ["set", "Set"]


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--pin", "all"]])
def test_senseless_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_all_sets_of_this_package_are_found_and_named_apart() -> None:
    sets, errors = command.discover()
    assert errors == []
    assert all(case_set.name and case_set.title for case_set in sets)
