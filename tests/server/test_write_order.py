"""`WriteOrder`: who may begin, as plain code; beside it a model that says the rules in other words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.actors.write_order import WriteOrder

Order = WriteOrder[str, str]


@pytest.fixture
def order() -> Order:
    return WriteOrder()


def begun(order: Order) -> list[str]:
    """All that begins now, however often one has to ask for it."""
    names: list[str] = []
    while beginning := order.next():
        names += beginning
    return names


def test_writes_and_appends_begin_at_once_beside_each_other(order: Order) -> None:
    assert order.ask("write", append=False)
    assert order.ask("append", append=True)
    assert order.under_way == 2
    assert begun(order) == []


def test_a_truncation_begins_when_all_that_was_under_way_has_ended(order: Order) -> None:
    order.ask("first", append=False)
    order.ask("second", append=True)
    order.ask_alone("cut", overwrites_go_on=False)
    assert begun(order) == []
    order.ended("first")
    assert begun(order) == []
    order.ended("second")
    assert begun(order) == ["cut"]


def test_nothing_begins_while_a_truncation_waits_or_is_under_way(order: Order) -> None:
    order.ask("early", append=False)
    order.ask_alone("cut", overwrites_go_on=False)
    assert not order.ask("write", append=False)
    order.ended("early")
    assert begun(order) == ["cut"]
    assert not order.ask("append", append=True)
    order.ended_alone("cut")
    assert begun(order) == ["write", "append"]
    assert order.under_way == 2


def test_overwrites_go_on_beside_a_bulk_append_and_appends_do_not(order: Order) -> None:
    order.ask_alone("bulk", overwrites_go_on=True)
    assert begun(order) == ["bulk"]
    assert order.ask("write", append=False)
    assert not order.ask("append", append=True)
    order.ended_alone("bulk")
    assert begun(order) == ["append"]


def test_overwrites_that_waited_for_a_bulk_append_to_begin_go_on_when_it_has(order: Order) -> None:
    order.ask("early", append=True)
    order.ask_alone("bulk", overwrites_go_on=True)
    assert not order.ask("append", append=True)
    assert not order.ask("write", append=False)
    order.ended("early")
    assert begun(order) == ["bulk", "write"]


def test_what_begins_alone_goes_one_by_one_and_before_the_writes_that_wait(order: Order) -> None:
    order.ask("early", append=False)
    for name in ("first", "second"):
        order.ask_alone(name, overwrites_go_on=False)
    order.ask("write", append=False)
    order.ended("early")
    assert begun(order) == ["first"]
    order.ended_alone("first")
    assert begun(order) == ["second"]
    order.ended_alone("second")
    assert begun(order) == ["write"]


def test_a_truncation_waits_for_overwrites_that_began_beside_a_bulk_append(order: Order) -> None:
    order.ask_alone("bulk", overwrites_go_on=True)
    assert begun(order) == ["bulk"]
    order.ask("write", append=False)
    order.ask_alone("cut", overwrites_go_on=False)
    order.ended_alone("bulk")
    assert begun(order) == []
    order.ended("write")
    assert begun(order) == ["cut"]


def test_who_gives_up_while_it_waits_never_begins(order: Order) -> None:
    order.ask("early", append=False)
    order.ask_alone("gives up", overwrites_go_on=True)
    order.ask_alone("cut", overwrites_go_on=False)
    order.ask("gives up too", append=False)
    order.ask("write", append=False)
    order.ended_alone("gives up")
    order.ended("gives up too")
    order.ended("early")
    assert begun(order) == ["cut"]
    order.ended_alone("cut")
    assert begun(order) == ["write"]


def test_who_ends_without_having_asked_changes_nothing(order: Order) -> None:
    order.ask("early", append=False)
    order.ended("a stranger")
    order.ended_alone("another")
    assert order.under_way == 1


class Model:
    """The same with a list of what waits and a list of what is under way: (name, kind)."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, str]] = []
        self.running: list[tuple[str, str]] = []

    def may_begin(self, kind: str) -> bool:
        running = {each for _, each in self.running}
        if kind in ("cut", "bulk"):
            return not running
        if "bulk" in running:
            return kind == "write"
        return "cut" not in running and not any(each in ("cut", "bulk") for _, each in self.waiting)

    def begin(self) -> list[str]:
        names: list[str] = []
        while True:
            alone = [each for each in self.waiting if each[1] in ("cut", "bulk")][:1]
            others = [each for each in self.waiting if each[1] in ("write", "append")]
            found = next((each for each in alone + others if self.may_begin(each[1])), None)
            if found is None:
                return names
            self.waiting.remove(found)
            self.running.append(found)
            names.append(found[0])


@given(st.data())
def test_the_order_is_that_of_the_rules(data: st.DataObject) -> None:
    order: Order = WriteOrder()
    model = Model()
    for number in range(data.draw(st.integers(1, 30), "steps")):
        ending = model.waiting + model.running
        kind = data.draw(st.sampled_from(["write", "append", "cut", "bulk"] + ["end"] * bool(ending)), "step")
        if kind == "end":
            each = data.draw(st.sampled_from(ending), "which")
            (model.waiting if each in model.waiting else model.running).remove(each)
            (order.ended_alone if each[1] in ("cut", "bulk") else order.ended)(each[0])
            expected, got = model.begin(), begun(order)
        else:
            model.waiting.append((f"{kind} {number}", kind))
            expected = model.begin()
            if kind in ("cut", "bulk"):
                order.ask_alone(f"{kind} {number}", overwrites_go_on=kind == "bulk")
                got = begun(order)
            else:
                got = [f"{kind} {number}"] * order.ask(f"{kind} {number}", append=kind == "append")
                assert begun(order) == []
        assert got == expected
        assert order.under_way == sum(each in ("write", "append") for _, each in model.running)
