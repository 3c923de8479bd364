"""No wake-up is lost, whatever the moment: a message is sent at every single line of the scheduler's own steps.

Threads rarely meet in the few steps where a wake-up could be lost, so here they are made to: a trace function stops
the traced thread before a given line and does there what another thread might do at that moment.  One run for each
line, and nobody helps afterwards: if the message is not handled, its wake-up was lost.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from pfs.actors import Actor, Scheduler, Waiter, reference, runtime, scheduler, waiting

TRACED = {module.__file__ for module in (scheduler, runtime, reference, waiting)}
MOST_LINES = 400


class Caller(Actor):
    def on_receive(self, message: Callable[[], Any]) -> Any:
        return message()


class InlineCaller(Caller):
    inline = True


class Interference:
    """A trace function that does something before the `at`-th line of the traced modules."""

    def __init__(self) -> None:
        self.lines = 0
        self.at = 0
        self.act: Callable[[], object] | None = None
        self.where = ""

    def arm(self, at: int, act: Callable[[], object]) -> None:
        self.lines, self.at, self.act = 0, at, act

    def disarm(self) -> bool:
        """Whether the line was never reached."""
        act, self.act = self.act, None
        return act is not None

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Interference | None:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line" and self.act is not None:
            self.lines += 1
            if self.lines == self.at:
                act, self.act = self.act, None
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                act()
        return self


@contextmanager
def traced_scheduler(interference: Interference) -> Iterator[Scheduler]:
    """A scheduler whose own thread is traced."""
    before = threading.gettrace()
    threading.settrace(interference)
    try:
        made = Scheduler("traced")
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.stop(5.0)


def settle(made: Scheduler, looks: int = 50_000_000) -> None:
    """Wait until the scheduler's thread has gone to sleep, or so many looks long."""
    for _ in range(looks):
        if made._parked and not made.inline_queue and not made.own_queue:
            return


@pytest.mark.parametrize("told_class", [Caller, InlineCaller, None], ids=["users", "inline", "same"])
@pytest.mark.parametrize("first_class", [Caller, InlineCaller])
def test_a_message_sent_at_any_line_of_the_schedulers_thread_is_handled(
    untraced_threads: None, first_class: type[Actor], told_class: type[Actor] | None
) -> None:
    interference = Interference()
    with traced_scheduler(interference) as made:
        first = made.start(first_class)
        told = first if told_class is None else made.start(told_class)
        for at in range(1, MOST_LINES):
            settle(made)
            handled = Waiter()
            interference.arm(at, lambda handled=handled: told.tell(handled.finish))
            first.tell(int)
            if not handled.sleep(0.001):
                settle(made)  # the message was sent and handled, or there are no so many lines
                if interference.disarm():
                    break
                assert handled.sleep(2), f"the message that was sent before {interference.where} is not handled"
        else:
            raise AssertionError("there are always more lines")
        assert at > 20


@pytest.mark.parametrize("same", [True, False])
def test_a_timer_set_at_any_line_of_the_schedulers_thread_fires(untraced_threads: None, same: bool) -> None:
    interference = Interference()
    with traced_scheduler(interference) as made:
        first = made.start(Caller)
        for at in range(1, MOST_LINES):
            settle(made)
            fired = Waiter()
            late = made.send_after(1e6, first, int) if same else None
            interference.arm(at, lambda fired=fired: made.send_after(0.0, first, fired.finish))
            first.tell(int)
            if not fired.sleep(0.02):
                settle(made)
                if interference.disarm():
                    break
                assert fired.sleep(2), f"the timer that was set before {interference.where} does not fire"
            if late is not None:
                late.cancel()
        assert at > 20


@pytest.mark.parametrize("told_class", [Caller, InlineCaller, None], ids=["users", "inline", "same"])
def test_a_message_sent_at_any_line_of_a_driving_thread_is_handled(
    untraced_threads: None, told_class: type[Actor] | None
) -> None:
    interference = Interference()
    made = Scheduler("driven")
    before = sys.gettrace()
    try:
        driven = made.start(InlineCaller)
        told = driven if told_class is None else made.start(told_class)
        for at in range(1, MOST_LINES):
            settle(made)
            handled = Waiter()
            interference.arm(at, lambda handled=handled: told.tell(handled.finish))
            sys.settrace(interference)
            try:
                driven.ask(int, timeout=10)
            finally:
                sys.settrace(before)
            if interference.disarm():
                break
            assert handled.sleep(2), f"the message that was sent before {interference.where} is not handled"
        assert at > 40
    finally:
        sys.settrace(before)
        made.stop(5.0)


@pytest.mark.parametrize("told_class", [Caller, InlineCaller])
def test_the_schedulers_thread_may_fall_asleep_at_any_line_of_a_sender(
    untraced_threads: None, told_class: type[Actor]
) -> None:
    """Before each line of `tell` the scheduler's thread is woken by others, works, and goes to sleep again."""
    interference = Interference()
    made = Scheduler("sleepy")
    before = sys.gettrace()
    other, told = made.start(Caller), made.start(told_class)

    worked = Waiter()

    def work_and_sleep() -> None:
        other.tell(worked.finish)
        if worked.sleep(0.02):  # not if this sender is just about to wake the thread for everybody
            settle(made, 1_000_000)

    try:
        for at in range(1, MOST_LINES):
            settle(made)
            handled = Waiter()
            worked.rearm()
            interference.arm(at, work_and_sleep)
            sys.settrace(interference)
            try:
                told.tell(handled.finish)
            finally:
                sys.settrace(before)
            assert handled.sleep(2), f"the message is not handled (the thread slept before {interference.where})"
            if interference.disarm():
                break
            assert worked.sleep(2), f"the other message is not handled (the sender stood before {interference.where})"
        assert at > 5
    finally:
        sys.settrace(before)
        made.stop(5.0)
