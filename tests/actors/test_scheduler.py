"""A scheduler's life: stop in order and in time, several at once, forks, exits, Pythons without the lock."""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Any

import pykka
import pytest

import pfs.errors
from pfs.actors import Actor, BlockingActor, ReplyFuture, Scheduler, Waiter, current_runtime, default_runtime, scheduler
from tests.support import join, run_python, run_together, take, wait_for

Events = queue.SimpleQueue[str]


class Noted:
    """Says when it stops."""

    def __init__(self, name: str, events: Events) -> None:
        super().__init__()
        self.name = name
        self.events = events

    def on_receive(self, message: Any) -> Any:
        return message()

    def on_stop(self) -> None:
        self.events.put(self.name)


class UsersActor(Noted, Actor):
    pass


class InlineActor(Noted, Actor):
    inline = True


class ThreadActor(Noted, BlockingActor):
    pass


@pytest.fixture
def events() -> Events:
    return queue.SimpleQueue()


def drained(events: Events) -> list[str]:
    found = []
    while not events.empty():
        found.append(events.get())
    return found


# -- stop


def test_stop_stops_the_last_started_first(events: Events) -> None:
    made = Scheduler()
    for name, actor_class in zip("abcdef", [UsersActor, InlineActor, ThreadActor] * 2, strict=True):
        made.start(actor_class, name, events)
    made.stop()
    assert drained(events) == list("fedcba")
    assert made.stopped
    assert not made.living
    made.stop()


def test_stop_lets_each_actor_handle_what_it_was_sent_before(events: Events) -> None:
    made = Scheduler()
    refs = [made.start(actor_class, "end", events) for actor_class in (UsersActor, InlineActor, ThreadActor)]
    for ref in refs:
        for _ in range(300):
            ref.tell(lambda: events.put("message"))
    made.stop()
    assert sorted(drained(events)) == ["end"] * 3 + ["message"] * 900


def test_stop_stops_actors_that_are_started_while_it_stops(events: Events) -> None:
    class Late(UsersActor):
        def on_stop(self) -> None:
            InlineActor.start("born late", self.events)
            super().on_stop()

    made = Scheduler()
    made.start(Late, "late", events)
    made.stop()
    assert drained(events) == ["late", "born late"]


def test_an_actor_that_does_not_stop_in_time_is_killed_and_the_others_are_stopped(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    made = Scheduler()
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        wait_for(go_on)

    made.start(InlineActor, "first", events)
    hanging = made.start(ThreadActor, "never", events)
    made.start(InlineActor, "last", events)
    hanging.tell(hang)
    wait_for(entered)
    seen: list[list[str]] = []

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(drained(events))
            go_on.set()

    logger = logging.getLogger("pfs.actors")
    notice = Notice()
    logger.addHandler(notice)
    try:
        made.stop(timeout=0.05)
    finally:
        logger.removeHandler(notice)
    assert not hanging.is_alive()
    assert not made.living
    assert seen[0] == ["last"]
    assert "did not stop in time and is killed" in caplog.text


def test_a_users_handler_that_hangs_does_not_keep_stop_from_returning(
    events: Events, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LAST_SECONDS", 0.01)
    made = Scheduler()
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        wait_for(go_on)

    ref = made.start(UsersActor, "never", events)
    ref.tell(hang)
    wait_for(entered)
    late = ref.ask(int, block=False)
    made.stop(timeout=0.01)
    assert "is left behind" in caplog.text
    with pytest.raises(pykka.ActorDeadError):
        late.get(timeout=5)
    go_on.set()
    join(made._thread)


def test_two_threads_may_stop_a_scheduler_and_both_return_when_it_is_stopped(events: Events) -> None:
    made = Scheduler()
    made.start(ThreadActor, "a", events)

    def stop() -> tuple[bool, int]:
        made.stop()
        return made.stopped, len(made.living)

    assert run_together([stop, stop, stop]) == [(True, 0)] * 3


def test_a_waiting_thread_hears_that_the_scheduler_stopped() -> None:
    made = Scheduler()
    future = ReplyFuture(made)
    entered = threading.Event()

    def wait() -> str:
        entered.set()
        with pytest.raises(pfs.errors.SystemStopped, match="is stopped"):
            future.get(timeout=30)
        return "heard"

    def stop() -> str:
        wait_for(entered)
        made.stop()
        return "stopped"

    assert run_together([wait, stop]) == ["heard", "stopped"]


def test_what_is_asked_of_a_stopped_scheduler_gets_an_error_at_once(events: Events) -> None:
    made = Scheduler()
    ref = made.start(UsersActor, "a", events)
    made.stop()
    with pytest.raises(pykka.ActorDeadError):
        ref.ask(int, timeout=5)
    with pytest.raises(pfs.errors.SystemStopped):
        made.wait(Waiter(), 5, lambda: "nothing")
    finished = Waiter()
    finished.finish()
    made.wait(finished, 5, lambda: "nothing")


def test_a_failure_of_the_schedulers_own_does_not_end_its_thread(
    events: Events, caplog: pytest.LogCaptureFixture, clock: Any
) -> None:
    broken: list[bool] = []

    def moody_clock() -> float:
        if broken and threading.current_thread() is made._thread:
            broken.clear()
            raise ValueError("the clock broke")
        return clock()  # type: ignore[no-any-return]

    made = Scheduler(clock=moody_clock)
    try:
        ref = made.start(UsersActor, "a", events)
        ref.ask(int, timeout=5)
        broken.append(True)
        ref.tell(int)
        assert ref.ask(lambda: "alive", timeout=5) == "alive"
    finally:
        made.stop()
    assert "goes on after a failure of its own" in caplog.text


# -- inspection


def test_stats_tell_of_each_living_actor(scheduler: Scheduler, events: Events) -> None:
    refs = [scheduler.start(actor_class, "a", events) for actor_class in (UsersActor, InlineActor, ThreadActor)]
    for ref in refs:
        for _ in range(3):
            ref.ask(int, timeout=5)
    stats = scheduler.stats()
    assert list(stats) == ["UsersActor-1", "InlineActor-2", "ThreadActor-3"]
    for ref in refs:
        entry = stats[ref.label]
        assert entry["class"] == ref.actor_class.__name__
        assert entry["mailbox"] == 0
        assert entry["reductions"] in (2, 3)  # a reply may be read before its turn is counted
        assert entry["high_water"] == 1
    refs[0].stop(timeout=5)
    assert "UsersActor-1" not in scheduler.stats()
    assert repr(scheduler) == "<Scheduler test-scheduler: 2 actors>"


# -- several schedulers


def test_two_schedulers_do_not_touch_each_other(events: Events) -> None:
    first, second = Scheduler("first"), Scheduler("second")
    try:
        with second.ambient():
            theirs = UsersActor.start("theirs", events)
        mine = first.start(UsersActor, "mine", events)
        assert (mine.scheduler, theirs.scheduler) == (first, second)
        assert mine.ask(threading.current_thread, timeout=5) is first._thread
        assert theirs.ask(threading.current_thread, timeout=5) is second._thread
        assert mine.ask(current_runtime, timeout=5) is first
        first.stop()
        assert theirs.ask(lambda: "alive", timeout=5) == "alive"
    finally:
        first.stop()
        second.stop()


def test_actors_without_a_scheduler_live_on_the_default_one_which_is_made_anew(events: Events) -> None:
    ref = UsersActor.start("a", events)
    made = default_runtime()
    assert isinstance(made, Scheduler)
    try:
        assert ref.scheduler is made
        assert default_runtime() is made
        assert ThreadActor.start("b", events).scheduler is made
    finally:
        made.stop()
    again = default_runtime()
    try:
        assert again is not made
        assert UsersActor.start("c", events).ask(lambda: 1, timeout=5) == 1
    finally:
        again.stop()  # type: ignore[attr-defined]


# -- processes

PREAMBLE = """
import os, signal, sys, threading
import pykka
from pfs.actors import *
from pfs.errors import *

class Echo(Actor):
    def on_receive(self, message):
        return message() if callable(message) else message

class InlineEcho(Echo):
    inline = True

class ThreadEcho(BlockingActor):
    def on_receive(self, message):
        return message
"""


def test_a_forked_child_gets_a_clear_error_and_can_start_a_scheduler_of_its_own() -> None:
    source = (
        PREAMBLE
        + """
scheduler = Scheduler("parents")
refs = [scheduler.start(each) for each in (Echo, InlineEcho, ThreadEcho)]
default = Echo.start()
for ref in refs:
    assert ref.ask("x") == "x"

def refused(what, call):
    try:
        call()
    except SystemForked as error:
        assert "start a new one after the fork" in str(error), error
    else:
        raise AssertionError(what)

child = os.fork()
if child == 0:
    status = 1
    try:
        for ref in refs:
            for _ in range(2):
                refused("tell", lambda: ref.tell("x"))
                refused("ask", lambda: ref.ask("x", timeout=5))
                refused("ask later", lambda: ref.ask("x", block=False))
                refused("stop", lambda: ref.stop(timeout=5))
        refused("start", lambda: scheduler.start(Echo))
        refused("start blocking", lambda: scheduler.start(ThreadEcho))
        refused("wait", lambda: scheduler.wait(Waiter(), 5, lambda: ""))
        refused("default", lambda: default.tell("x"))
        scheduler.stop()
        mine = Scheduler("childs")
        assert mine.start(InlineEcho).ask("y", timeout=5) == "y"
        assert mine.start(Echo).ask("y", timeout=5) == "y"
        assert mine.start(ThreadEcho).ask("y", timeout=5) == "y"
        assert Echo.start().ask("z", timeout=5) == "z"
        assert mine.start(Echo).actor_urn != refs[0].actor_urn
        mine.stop()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
for ref in refs:
    assert ref.ask("x", timeout=5) == "x"
scheduler.stop()
print("fine")
"""
    )
    done = run_python(source)
    assert done.stdout == "fine\n", done.stderr
    assert done.returncode == 0


def test_a_fork_inside_a_handler_leaves_a_child_that_is_no_longer_in_one() -> None:
    source = (
        PREAMBLE
        + """
scheduler = Scheduler()

def fork():
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        assert Scheduler().start(InlineEcho).ask("y", timeout=5) == "y"
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)

assert scheduler.start(InlineEcho).ask(fork, timeout=20) == 0
scheduler.stop()
print("fine")
"""
    )
    done = run_python(source)
    assert done.stdout == "fine\n", done.stderr


def test_a_scheduler_that_nobody_stopped_is_stopped_at_exit() -> None:
    source = (
        PREAMBLE
        + """
class Last(Actor):
    def on_stop(self):
        print("stopped", flush=True)

Scheduler().start(Last)
Last.start()
"""
    )
    done = run_python(source)
    assert (done.stdout, done.returncode) == ("stopped\nstopped\n", 0), done.stderr


def test_a_handler_that_hangs_does_not_keep_the_process_from_ending() -> None:
    source = (
        PREAMBLE
        + """
import logging
import pfs.actors.scheduler
pfs.actors.scheduler.AT_EXIT = 0.05
pfs.actors.scheduler.LAST_SECONDS = 0.05
entered = threading.Event()

def hang():
    entered.set()
    threading.Event().wait()

Scheduler().start(Echo).tell(hang)
entered.wait()
"""
    )
    done = run_python(source)
    assert done.returncode == 0
    assert "is killed" in done.stderr


def test_ctrl_c_ends_a_program_that_waits_in_a_drive() -> None:
    source = (
        PREAMBLE
        + """
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it, as `nohup` does
scheduler = Scheduler()

class Storm(Actor):
    inline = True
    def on_receive(self, message):
        self.actor_ref.tell(message)

ref = scheduler.start(Storm)
ref.tell("on")
threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    scheduler.wait(Waiter(), 30, lambda: "nothing")
except KeyboardInterrupt:
    print("interrupted", ref.is_alive())
ref.kill()
scheduler.stop()
"""
    )
    done = run_python(source)
    assert done.stdout == "interrupted True\n", done.stderr


def test_a_python_without_the_interpreters_lock_is_refused() -> None:
    source = """
import sys
sys._is_gil_enabled = lambda: False
try:
    import pfs.actors
except Exception as error:
    print(type(error).__name__, error)
"""
    done = run_python(source)
    assert done.stdout.startswith("UnsupportedPython pfs relies on the interpreter's lock"), done.stderr
    assert "PYTHON_GIL=1" in done.stdout


def test_urns_tell_actors_of_different_processes_apart(scheduler: Scheduler, events: Events) -> None:
    here = scheduler.start(UsersActor, "a", events).actor_urn
    there = run_python(PREAMBLE + "print(Scheduler().start(Echo).actor_urn)").stdout.strip()
    assert there.startswith("urn:uuid:")
    assert here != there
    assert os.getpid() > 0
    assert len(here) == len(there)


def test_messages_of_a_scheduler_are_taken_while_it_is_asked_for_stats(scheduler: Scheduler, events: Events) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            scheduler.start(InlineActor, "x", events).stop(timeout=5)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            scheduler.stats()
    finally:
        stop.set()
        join(thread)
    assert take(events) == "x"
