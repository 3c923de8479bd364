"""Plain threads that wait for a reply drive the scheduler: what runs on them, what reaches them, when they leave."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pykka
import pytest

import pfs.errors
from pfs.actors import Actor, BlockingActor, ReplyFuture, Scheduler, Waiter
from pfs.actors.waiting import handler_threads
from tests.support import join, run_together, wait_for


class InlineActor(Actor):
    """Calls the function that it is sent; answers with its result."""

    inline = True

    def on_receive(self, message: Any) -> Any:
        return message()


class UsersActor(Actor):
    """The same, as users' own actors are."""

    def on_receive(self, message: Any) -> Any:
        return message()


class BlockingCaller(BlockingActor):
    def on_receive(self, message: Any) -> Any:
        return message()


@contextmanager
def held_up(scheduler: Scheduler) -> Iterator[None]:
    """The scheduler's own thread is inside a user's handler during the block."""
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        wait_for(go_on)

    ref = scheduler.start(UsersActor)
    ref.tell(hold)
    wait_for(entered)
    try:
        yield
    finally:
        go_on.set()
        ref.stop(timeout=5)


def test_an_idle_system_answers_on_the_callers_own_thread(scheduler: Scheduler) -> None:
    ref = scheduler.start(InlineActor)
    with held_up(scheduler):
        assert ref.ask(_thread.get_ident, timeout=5) == _thread.get_ident()


def test_a_users_actor_always_runs_on_the_schedulers_thread(scheduler: Scheduler) -> None:
    users, inline = scheduler.start(UsersActor), scheduler.start(InlineActor)
    threads = {users.ask(_thread.get_ident, timeout=5) for _ in range(100) if inline.ask(int, timeout=5) == 0}
    assert threads == {scheduler._thread.ident}


def test_a_caller_that_holds_a_lock_which_a_users_actor_wants_is_answered(scheduler: Scheduler) -> None:
    lock = threading.Lock()
    users, inline = scheduler.start(UsersActor), scheduler.start(InlineActor)
    entered = threading.Event()

    def want_the_lock() -> None:
        entered.set()
        with lock:
            pass

    with lock:
        users.tell(want_the_lock)
        wait_for(entered)
        assert [inline.ask(lambda: "answered", timeout=5) for _ in range(10)] == ["answered"] * 10
    assert users.ask(lambda: "got it", timeout=5) == "got it"


def test_a_users_actor_told_from_a_handler_on_a_borrowed_thread_is_run_though_the_caller_never_comes_back(
    scheduler: Scheduler,
) -> None:
    users, inline = scheduler.start(UsersActor), scheduler.start(InlineActor)
    for _ in range(200):
        ran = threading.Event()
        inline.ask(lambda: users.tell(ran.set), timeout=5)  # noqa: B023
        wait_for(ran, what="the message to the user's actor")


def test_a_users_actor_is_run_while_another_thread_drives_without_end(scheduler: Scheduler) -> None:
    """The caller waits for the user's actor, and others keep the inline queue full: it must not starve."""
    users = scheduler.start(UsersActor)
    done = threading.Event()

    class Storm(Actor):
        inline = True

        def on_receive(self, message: Any) -> None:
            if not done.is_set():
                self.actor_ref.tell("again")

    storm: Any = scheduler.start(Storm)
    inline: Any = scheduler.start(InlineActor)
    users.ask(int, timeout=5)
    reply = Waiter()

    def begin() -> None:
        storm.tell("go")
        users.tell(finish)

    def finish() -> None:
        done.set()
        reply.finish()

    inline.post(begin)  # wakes nobody: this thread is the one that drives
    scheduler.wait(reply, 10, lambda: "the user's actor did not answer")
    assert done.is_set()


def test_a_timer_set_on_a_borrowed_thread_fires_though_nobody_drives_later(scheduler: Scheduler) -> None:
    inline = scheduler.start(InlineActor)
    for _ in range(20):
        fired = threading.Event()
        inline.ask(lambda: scheduler.send_after(0.001, inline, fired.set), timeout=5)  # noqa: B023
        wait_for(fired, what="the timer")


def test_many_threads_call_at_once_and_each_gets_its_own_answer(untraced_threads: None, scheduler: Scheduler) -> None:
    refs = [scheduler.start(InlineActor) for _ in range(4)]

    def call(number: int) -> list[int]:
        return [
            refs[(number + step) % 4].ask(lambda answer=number * 1000 + step: answer, timeout=30) for step in range(300)
        ]

    answers = run_together([lambda number=number: call(number) for number in range(16)])
    assert answers == [[number * 1000 + step for step in range(300)] for number in range(16)]


def test_inline_actors_are_never_run_by_two_threads_at_once(untraced_threads: None, scheduler: Scheduler) -> None:
    inside: list[int] = []
    overlaps: list[int] = []

    def step() -> None:
        inside.append(1)
        if len(inside) > 1:
            overlaps.append(len(inside))
        sum(range(200))
        inside.pop()

    refs = [scheduler.start(InlineActor) for _ in range(3)]
    users = scheduler.start(UsersActor)

    def call(number: int) -> None:
        for count in range(200):
            refs[count % 3].ask(step, timeout=30)
            users.tell(lambda: refs[0].tell(step))

    run_together([lambda number=number: call(number) for number in range(6)])
    users.ask(int, timeout=30)
    assert refs[0].ask(lambda: len(inside), timeout=30) == 0
    assert overlaps == []


def test_an_exception_under_tell_never_reaches_the_thread_that_happens_to_drive(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    failing, inline = scheduler.start(InlineActor), scheduler.start(InlineActor)
    with held_up(scheduler):
        failing.tell(lambda: 1 // 0)
        assert inline.ask(lambda: "fine", timeout=5) == "fine"
        assert not failing.is_alive()
    assert "ZeroDivisionError" in caplog.text


def test_an_exception_under_ask_reaches_only_the_asker(scheduler: Scheduler) -> None:
    ref = scheduler.start(InlineActor)
    with held_up(scheduler):
        other = ref.ask(lambda: 1 // 0, block=False)
        assert ref.ask(lambda: "fine", timeout=5) == "fine"
        with pytest.raises(ZeroDivisionError):
            other.get(timeout=5)
        assert ref.is_alive()


CALLS: dict[str, Callable[[Scheduler, Any], Any]] = {
    "ask": lambda scheduler, ref: ref.ask(int),
    "ask of a blocking actor": lambda scheduler, ref: scheduler.start(BlockingCaller).ask(int),
    "get": lambda scheduler, ref: ref.ask(int, block=False).get(),
    "a proxy's get": lambda scheduler, ref: ref.proxy().actor_urn.get(),
    "stop": lambda scheduler, ref: ref.stop(),
    "actor_stopped.wait": lambda scheduler, ref: ref.actor_stopped.wait(),
    "a future of one's own": lambda scheduler, ref: ReplyFuture().get(),
    "Scheduler.stop": lambda scheduler, ref: scheduler.stop(),
    "Scheduler.wait": lambda scheduler, ref: scheduler.wait(Waiter(), None, lambda: ""),
}


@pytest.mark.parametrize("actor_class", [InlineActor, UsersActor])
@pytest.mark.parametrize("what", CALLS)
def test_a_waiting_call_inside_a_handler_is_an_error_at_once(
    scheduler: Scheduler, actor_class: type[Actor], what: str
) -> None:
    caller, other = scheduler.start(actor_class), scheduler.start(InlineActor)
    with pytest.raises(pfs.errors.CallInHandler, match="inside an actor's handler"):
        caller.ask(lambda: CALLS[what](scheduler, other), timeout=5)
    assert other.is_alive()
    assert caller.is_alive()


def test_a_reply_that_is_there_already_can_be_read_inside_a_handler(scheduler: Scheduler) -> None:
    caller, other = scheduler.start(InlineActor), scheduler.start(InlineActor)
    reply = other.ask(lambda: 7, block=False)
    assert reply.get(timeout=5) == 7
    assert caller.ask(lambda: reply.get(), timeout=5) == 7


def test_a_blocking_actor_may_ask(scheduler: Scheduler) -> None:
    inline, users = scheduler.start(InlineActor), scheduler.start(UsersActor)
    blocking = scheduler.start(BlockingCaller)
    assert blocking.ask(lambda: inline.ask(lambda: "a"), timeout=5) == "a"
    assert blocking.ask(lambda: users.ask(lambda: "b"), timeout=5) == "b"


def test_a_driver_leaves_at_its_deadline_and_others_are_still_served(scheduler: Scheduler) -> None:
    class Storm(Actor):
        inline = True

        def on_receive(self, message: Any) -> None:
            self.actor_ref.tell("again")

    storm, inline = scheduler.start(Storm), scheduler.start(InlineActor)
    with held_up(scheduler):
        storm.tell("go")
        with pytest.raises(pfs.errors.Timeout, match=r"within 0\.05 seconds"):
            scheduler.wait(Waiter(), 0.05, lambda: "nothing came")
        assert inline.ask(lambda: "served", timeout=5) == "served"
    storm.kill()


def test_timeout_is_pfs_timeout_and_pykkas(scheduler: Scheduler) -> None:
    ref = scheduler.start(UsersActor)
    with held_up(scheduler), pytest.raises(pfs.errors.Timeout, match="UsersActor-1") as caught:
        ref.ask(int, timeout=0.01)
    assert isinstance(caught.value, pykka.Timeout)


def test_work_that_a_driver_leaves_is_done_by_the_schedulers_thread(scheduler: Scheduler) -> None:
    done = threading.Event()
    remaining = [1000]

    class Chain(Actor):
        inline = True

        def on_receive(self, message: Any) -> None:
            remaining[0] -= 1
            if remaining[0]:
                self.actor_ref.tell("next")
            else:
                done.set()

    chain, inline = scheduler.start(Chain), scheduler.start(InlineActor)
    inline.ask(lambda: chain.tell("first"), timeout=5)
    wait_for(done, what="the chain's end")


def test_a_caller_is_served_while_the_schedulers_thread_is_held_up_and_the_driver_has_gone(
    untraced_threads: None,
    scheduler: Scheduler,
) -> None:
    """Callers that sleep because another thread drove look again by themselves."""
    inline = scheduler.start(InlineActor)
    with held_up(scheduler):
        answers = run_together([lambda: [inline.ask(int, timeout=10) for _ in range(100)]] * 8)
    assert answers == [[0] * 100] * 8


def test_a_thread_that_waits_for_a_blocking_actor_drives_meanwhile(scheduler: Scheduler) -> None:
    inline, blocking = scheduler.start(InlineActor), scheduler.start(BlockingCaller)
    with held_up(scheduler):
        heard = threading.Event()

        def tell_and_wait() -> str:
            inline.tell(heard.set)
            wait_for(heard)
            return "heard"

        assert blocking.ask(tell_and_wait, timeout=10) == "heard"


def test_after_a_drive_the_thread_is_a_plain_thread_again(scheduler: Scheduler) -> None:
    ref = scheduler.start(InlineActor)
    ref.ask(int, timeout=5)
    with pytest.raises(ZeroDivisionError):
        ref.ask(lambda: 1 // 0, timeout=5)
    assert _thread.get_ident() not in handler_threads
    assert ref.ask(lambda: "again", timeout=5) == "again"


def test_two_schedulers_drive_on_one_thread_without_touching_each_other(scheduler: Scheduler) -> None:
    other = Scheduler("other-scheduler")
    try:
        mine, theirs = scheduler.start(InlineActor), other.start(InlineActor)
        with pytest.raises(pfs.errors.CallInHandler):
            mine.ask(lambda: theirs.ask(int), timeout=5)
        assert mine.ask(lambda: theirs.tell(int), timeout=5) is None
        with other.ambient():
            born = mine.ask(lambda: InlineActor.start(), timeout=5)
        assert born.scheduler is scheduler, "an actor starts its own on its own scheduler, whoever drives"
        other.stop()
        assert mine.ask(lambda: "alive", timeout=5) == "alive"
    finally:
        other.stop()


def test_a_thread_may_wait_while_many_others_drive_and_leave(untraced_threads: None, scheduler: Scheduler) -> None:
    """Drives that begin and end all the time never leave the scheduler's thread asleep on a user's message."""
    users, inline = scheduler.start(UsersActor), scheduler.start(InlineActor)
    stop = threading.Event()

    def drive() -> None:
        while not stop.is_set():
            inline.ask(int, timeout=30)

    drivers = [threading.Thread(target=drive) for _ in range(3)]
    for thread in drivers:
        thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(300):
            answered = threading.Event()
            users.tell(answered.set)
            wait_for(answered, what="the user's actor")
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in drivers:
            join(thread)
