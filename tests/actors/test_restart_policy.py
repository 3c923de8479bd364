"""What a supervisor decides, without actors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pfs.actors import Actor
from pfs.actors.restart_policy import ChildSpec, ChildTable, Finished, Ready, RestartHistory, Start, Stop
from pfs.errors import ChildNotFound, InvalidRequest, StartFailed, TooManyRestarts

ERROR = ValueError("broken")


def spec(child_id: str, restart: Any = "permanent") -> ChildSpec:
    return ChildSpec(child_id, Actor, restart=restart)


def running(*specs: ChildSpec, max_restarts: int = 3) -> ChildTable:
    """A table whose children all run."""
    table = ChildTable(max_restarts, 5.0)
    orders = table.begin(specs)
    for each in specs:
        assert orders == [Start(each.id)]
        orders = table.started(each.id)
    assert orders == [Ready()]
    return table


# -- specs


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": 7},
        {"actor_class": int},
        {"actor_class": "Actor"},
        {"restart": "always"},
        {"shutdown": -1},
        {"shutdown": True},
        {"shutdown": "later"},
        {"shutdown": float("nan")},
        {"shutdown": float("inf")},
    ],
    ids=str,
)
def test_a_spec_that_can_never_be_right_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ChildSpec(**{"id": "a", "actor_class": Actor, **wrong})


@pytest.mark.parametrize("shutdown", [None, 0, 1.5, "brutal_kill", "infinity"])
def test_time_limits_are_seconds_or_one_of_two_words(shutdown: Any) -> None:
    assert ChildSpec("a", Actor, shutdown=shutdown).shutdown == shutdown


@pytest.mark.parametrize(("max_restarts", "period"), [(-1, 5), (True, 5), (1.5, 5), (1, 0), (1, -1), (1, True)])
def test_an_intensity_that_can_never_be_right_is_refused(max_restarts: Any, period: Any) -> None:
    with pytest.raises(InvalidRequest):
        RestartHistory(max_restarts, period)


# -- restart intensity


def test_restarts_within_the_period_are_counted_and_older_ones_forgotten() -> None:
    history = RestartHistory(2, 10.0)
    assert [history.add(now) for now in (0.0, 1.0, 2.0)] == [True, True, False]
    assert history.add(11.5) is True
    assert history.add(12.5) is True, "those before 2.5 no longer count"
    assert history.add(12.6) is False


@given(st.lists(st.floats(0, 3), max_size=40), st.integers(0, 5), st.floats(0.5, 5))
def test_a_restart_is_allowed_if_and_only_if_there_are_at_most_so_many_in_the_period_before_it(
    gaps: list[float], most: int, period: float
) -> None:
    history = RestartHistory(most, period)
    times: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        assert history.add(now) == (sum(time >= now - period for time in times) <= most)


# -- what to do on Down


@pytest.mark.parametrize(
    ("restart", "reason", "restarted", "kept"),
    [
        ("permanent", None, True, True),
        ("permanent", ERROR, True, True),
        ("transient", None, False, True),
        ("transient", ERROR, True, True),
        ("temporary", None, False, False),
        ("temporary", ERROR, False, False),
    ],
)
def test_who_is_restarted(restart: Any, reason: BaseException | None, restarted: bool, kept: bool) -> None:
    table = running(spec("a"), spec("b", restart))
    assert table.down("b", reason, 0.0) == ([Start("b")] if restarted else [])
    assert ("b" in table.children) == kept
    assert table.children["a"].state == "running"


def test_too_many_restarts_stop_the_children_in_reverse_order_and_then_the_supervisor() -> None:
    table = running(spec("a"), spec("b"), spec("c"), max_restarts=1)
    assert table.down("b", ERROR, 0.0) == [Start("b")]
    assert table.started("b") == []
    assert table.down("b", ERROR, 1.0) == [Stop("c")]
    assert table.down("c", None, 1.0) == [Stop("a")]
    [finished] = table.down("a", None, 1.0)
    assert isinstance(finished, Finished)
    assert isinstance(finished.error, TooManyRestarts)
    assert finished.error.__cause__ is ERROR
    assert "child 'b'" in str(finished.error)
    assert "more than 1 restarts within 5 seconds" in str(finished.error)


def test_a_restart_that_fails_to_start_counts_as_one_more() -> None:
    table = running(spec("a"), max_restarts=2)
    assert table.down("a", ERROR, 0.0) == [Start("a")]
    assert table.down("a", ERROR, 0.0) == [Start("a")]
    [finished] = table.down("a", ERROR, 0.0)
    assert isinstance(finished, Finished)
    assert isinstance(finished.error, TooManyRestarts)


# -- the beginning


def test_children_are_started_one_after_the_other() -> None:
    table = ChildTable(3, 5.0)
    assert table.begin([spec("a"), spec("b")]) == [Start("a")]
    assert [child.state for child in table.children.values()] == ["starting", "waiting"]
    assert table.started("a") == [Start("b")]
    assert table.started("b") == [Ready()]


def test_without_children_a_supervisor_is_ready_at_once() -> None:
    assert ChildTable(3, 5.0).begin([]) == [Ready()]


def test_if_a_first_child_cannot_start_those_before_it_are_stopped_and_the_start_fails() -> None:
    table = ChildTable(3, 5.0)
    table.begin([spec("a"), spec("b"), spec("c")])
    table.started("a")
    assert table.down("b", ERROR, 0.0) == [Stop("a")]
    [finished] = table.down("a", None, 0.0)
    assert isinstance(finished, Finished)
    assert isinstance(finished.error, StartFailed)
    assert finished.error.__cause__ is ERROR


def test_a_first_child_that_is_terminated_before_its_turn_is_passed_over() -> None:
    table = ChildTable(3, 5.0)
    table.begin([spec("a"), spec("b"), spec("c", "temporary"), spec("d")])
    assert table.terminate("b") == []
    assert table.terminate("c") == []
    assert "c" not in table.children
    with pytest.raises(StartFailed, match="waiting"):
        table.restart("d")
    assert table.started("a") == [Start("d")]


def test_a_first_child_that_is_terminated_while_it_starts_does_not_keep_the_next_from_starting() -> None:
    table = ChildTable(3, 5.0)
    table.begin([spec("a"), spec("b")])
    assert table.terminate("a") == [Stop("a")]
    assert table.started("a") == []
    assert table.down("a", None, 0.0) == [Start("b")]


def test_two_children_of_one_id_are_refused() -> None:
    with pytest.raises(StartFailed, match="child 'a' exists"):
        ChildTable(3, 5.0).begin([spec("a"), spec("a")])


# -- requests


def test_a_child_that_is_added_and_cannot_start_is_forgotten() -> None:
    table = running()
    assert table.add(spec("a")) == [Start("a")]
    assert table.down("a", ERROR, 0.0) == []
    assert table.children == {}


def test_a_child_that_is_started_again_on_request_and_cannot_is_kept() -> None:
    table = running(spec("a", "transient"))
    table.down("a", None, 0.0)
    assert table.restart("a") == [Start("a")]
    assert table.down("a", ERROR, 0.0) == []
    assert table.children["a"].state == "stopped"


def test_a_terminated_child_is_not_restarted() -> None:
    table = running(spec("a"), spec("b", "temporary"))
    for child_id in "ab":
        assert table.terminate(child_id) == [Stop(child_id)]
        assert table.terminate(child_id) == []
        assert table.down(child_id, ERROR, 0.0) == []
    assert list(table.children) == ["a"]
    assert table.terminate("a") == []
    assert table.restart("a") == [Start("a")]


def test_requests_that_do_not_fit_the_childs_state_are_refused() -> None:
    table = running(spec("a"))
    with pytest.raises(StartFailed, match="child 'a' exists"):
        table.add(spec("a"))
    with pytest.raises(StartFailed, match="is running"):
        table.restart("a")
    with pytest.raises(InvalidRequest, match="terminate it before"):
        table.delete("a")
    for request in (table.restart, table.terminate, table.delete):
        with pytest.raises(ChildNotFound, match="'nobody'"):
            request("nobody")


def test_a_stopped_child_can_be_deleted_and_its_id_used_again() -> None:
    table = running(spec("a"))
    table.terminate("a")
    table.down("a", None, 0.0)
    table.delete("a")
    assert table.add(spec("a")) == [Start("a")]


def test_a_supervisor_that_is_stopping_starts_nothing() -> None:
    table = running(spec("a"), spec("b"))
    assert table.close() == [Stop("b")]
    with pytest.raises(StartFailed, match="stopping"):
        table.add(spec("c"))
    with pytest.raises(StartFailed, match="stopping"):
        table.restart("a")
    assert table.close(ERROR) == []
    assert table.down("a", ERROR, 0.0) == []
    assert table.down("b", None, 0.0) == [Finished(None)]


def test_closing_waits_for_a_child_that_is_being_terminated() -> None:
    table = running(spec("a"), spec("b"))
    assert table.terminate("b") == [Stop("b")]
    assert table.close() == []
    assert table.down("b", None, 0.0) == [Stop("a")]


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Whatever comes in whatever order: orders fit the children, and closing comes to an end."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ChildTable(3, 5.0)
        self.alive: set[str] = set()
        self.now = 0.0
        self.finished = False
        self.added = 0
        self.obey(self.table.begin([spec("x"), spec("y", "transient")]))

    def obey(self, orders: list[Any]) -> None:
        for order in orders:
            assert not self.finished
            if isinstance(order, Start):
                assert order.id not in self.alive
                assert not self.table.closing
                self.alive.add(order.id)
            elif isinstance(order, Stop):
                assert order.id in self.alive
            elif isinstance(order, Finished):
                assert not self.alive
                self.finished = True

    @precondition(lambda self: not self.table.closing)
    @rule(restart=st.sampled_from(["permanent", "transient", "temporary"]))
    def add(self, restart: Any) -> None:
        self.added += 1
        self.obey(self.table.add(spec(str(self.added), restart)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), reason=st.sampled_from([None, ERROR]), gap=st.floats(0, 4))
    def down(self, data: Any, reason: Any, gap: float) -> None:
        self.now += gap
        child_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.remove(child_id)
        self.obey(self.table.down(child_id, reason, self.now))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def started(self, data: Any) -> None:
        child_id = data.draw(st.sampled_from(sorted(self.alive)))
        if self.table.children[child_id].state == "starting":
            self.obey(self.table.started(child_id))

    @precondition(lambda self: self.table.children)
    @rule(data=st.data(), what=st.sampled_from(["terminate", "restart", "delete"]))
    def request(self, data: Any, what: str) -> None:
        child_id = data.draw(st.sampled_from(sorted(self.table.children)))
        try:
            self.obey(getattr(self.table, what)(child_id) or [])
        except (StartFailed, InvalidRequest):
            pass

    @rule()
    def close(self) -> None:
        self.obey(self.table.close())

    @invariant()
    def who_is_alive_is_in_the_table(self) -> None:
        active = {
            child_id
            for child_id, child in self.table.children.items()
            if child.state in ("starting", "running", "stopping")
        }
        assert active == self.alive

    def teardown(self) -> None:
        self.obey(self.table.close())
        while not self.finished:
            stopping = [child_id for child_id in self.alive if self.table.children[child_id].state == "stopping"]
            assert stopping, "a closing supervisor always waits for somebody"
            self.alive.remove(stopping[0])
            self.obey(self.table.down(stopping[0], None, self.now))


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
