"""Monitors tell of an end exactly once, names find living actors, timers tell later."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest

import pfs.errors
from pfs.actors import Actor, ActorKilled, BlockingActor, Down, Scheduler, foreign
from pfs.actors.timers import PURGE_FROM, Timer, TimerQueue
from tests.support import run_together, take, wait_for


class Caller:
    def on_receive(self, message: Callable[[Any], Any]) -> Any:
        return message(self)


class UsersActor(Caller, Actor):
    pass


class InlineActor(Caller, Actor):
    inline = True


class ThreadActor(Caller, BlockingActor):
    pass


class PykkaActor(Caller, pykka.ThreadingActor):
    pass


class Watcher:
    """What an actor hears."""

    def __init__(self, heard: queue.SimpleQueue[Any]) -> None:
        super().__init__()
        self.heard = heard

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.heard.put(message)
        return None


class UsersWatcher(Watcher, Actor):
    pass


class InlineWatcher(Watcher, Actor):
    inline = True


class ThreadWatcher(Watcher, BlockingActor):
    pass


@pytest.fixture
def heard() -> queue.SimpleQueue[Any]:
    return queue.SimpleQueue()


@pytest.fixture(params=[UsersWatcher, InlineWatcher, ThreadWatcher])
def watcher(request: pytest.FixtureRequest, scheduler: Scheduler, heard: queue.SimpleQueue[Any]) -> Any:
    return scheduler.start(request.param, heard)


ENDINGS: dict[str, tuple[Callable[[Any], object], type | None]] = {
    "stop": (lambda ref: ref.stop(timeout=5), None),
    "failure": (lambda ref: ref.tell(lambda self: 1 // 0), ZeroDivisionError),
    "kill": (lambda ref: ref.kill(), ActorKilled),
}


# -- monitors


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("target_class", [UsersActor, InlineActor, ThreadActor])
def test_down_tells_who_ended_and_why_once(
    scheduler: Scheduler,
    watcher: Any,
    heard: queue.SimpleQueue[Any],
    target_class: type,
    ending: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end, reason = ENDINGS[ending]
    ref = scheduler.start(target_class)
    watcher.ask(lambda self: self.monitor(ref), timeout=5)
    watcher.ask(lambda self: self.monitor(ref), timeout=5)
    end(ref)
    down = take(heard)
    assert isinstance(down, Down)
    assert down.ref is ref
    assert down.reason is None if reason is None else isinstance(down.reason, reason)
    watcher.ask(lambda self: self.monitor(ref), timeout=5)
    assert take(heard) == down, "who watches an actor that has ended is told at once, with the same reason"
    watcher.ask(lambda self: None, timeout=5)
    assert heard.empty()


def test_demonitor_takes_a_monitor_back(scheduler: Scheduler, watcher: Any, heard: queue.SimpleQueue[Any]) -> None:
    ref = scheduler.start(UsersActor)
    watcher.ask(lambda self: self.demonitor(ref), timeout=5)
    watcher.ask(lambda self: self.monitor(ref), timeout=5)
    watcher.ask(lambda self: self.demonitor(ref), timeout=5)
    ref.stop(timeout=5)
    watcher.ask(lambda self: None, timeout=5)
    assert heard.empty()


def test_who_watches_during_on_failure_hears_the_true_reason(
    scheduler: Scheduler, watcher: Any, heard: queue.SimpleQueue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(ThreadActor):
        def on_failure(self, *_: Any) -> None:
            entered.set()
            wait_for(go_on)

    ref = scheduler.start(Slow)
    ref.tell(lambda self: 1 // 0)
    wait_for(entered)
    assert not ref.is_alive()
    watcher.ask(lambda self: self.monitor(ref), timeout=5)
    assert heard.empty()
    go_on.set()
    assert isinstance(take(heard).reason, ZeroDivisionError)


def test_down_is_told_exactly_once_when_the_target_dies_on_another_thread_at_that_moment(
    tiny_switch_interval: None, scheduler: Scheduler, heard: queue.SimpleQueue[Any]
) -> None:
    watcher: Any = scheduler.start(UsersWatcher, heard)
    for _ in range(150):
        ref: Any = scheduler.start(ThreadActor)
        other: Any = scheduler.start(InlineWatcher, heard)
        watches = [lambda ref=ref, who=who: scheduler.watch(ref, who) for who in (watcher, other)]
        run_together([watches[0], ref.kill, watches[1]])
        assert [take(heard).ref, take(heard).ref] == [ref, ref]
        watcher.ask(lambda self: None, timeout=5)
        other.ask(lambda self: None, timeout=5)
        assert heard.empty()
        other.stop(timeout=5)


def test_a_watcher_that_is_gone_or_broken_does_not_keep_the_others_from_hearing(
    scheduler: Scheduler, watcher: Any, heard: queue.SimpleQueue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def tell(self, message: Any) -> None:
            raise ValueError("broken watcher")

        def is_alive(self) -> bool:
            return True

    ref, gone = scheduler.start(UsersActor), scheduler.start(UsersActor)
    watcher.ask(lambda self: self.monitor(ref), timeout=5)
    scheduler.watch(ref, gone)  # type: ignore[arg-type]
    scheduler.watch(ref, Broken())
    gone.stop(timeout=5)
    ref.stop(timeout=5)
    assert take(heard).ref is ref
    assert "broken watcher" in caplog.text


def test_pykkas_own_actors_can_be_watched(
    scheduler: Scheduler, watcher: Any, heard: queue.SimpleQueue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "FOREIGN_INTERVAL", 0.001)
    first, second, third = PykkaActor.start(), PykkaActor.start(), PykkaActor.start()
    for ref in (first, second, third):
        watcher.ask(lambda self, ref=ref: self.monitor(ref), timeout=5)
        watcher.ask(lambda self, ref=ref: self.monitor(ref), timeout=5)
    watcher.ask(lambda self: self.demonitor(second), timeout=5)
    second.stop(timeout=5)
    first.stop(timeout=5)
    down = take(heard)
    assert down.ref is first
    assert isinstance(down.reason, pykka.ActorDeadError)
    watcher.ask(lambda self: self.monitor(first), timeout=5)
    assert take(heard).ref is first
    third.stop(timeout=5)
    assert take(heard).ref is third
    assert heard.empty()


def test_the_watcher_of_pykkas_actors_forgets_watchers_that_are_gone(
    scheduler: Scheduler, heard: queue.SimpleQueue[Any]
) -> None:
    target = PykkaActor.start()
    gone = scheduler.start(UsersWatcher, heard)
    scheduler.watch(target, gone)  # type: ignore[arg-type]
    gone.stop(timeout=5)
    looker: Any = scheduler.whereis(foreign.NAME)
    looker.ask(foreign._Look(), timeout=5)
    assert looker.proxy()._actor._watched == {}
    target.stop(timeout=5)


def test_two_threads_that_watch_pykkas_actors_first_at_the_same_moment_get_one_watcher(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(2)
    original = scheduler.start

    def start_together(*args: Any) -> Any:
        barrier.wait(5)
        return original(*args)

    monkeypatch.setattr(scheduler, "start", start_together)
    found = run_together([lambda: foreign.watcher_of(scheduler)] * 2)
    assert found[0] is found[1]
    assert list(scheduler.living.values()) == [found[0]]


# -- names


def test_a_name_finds_a_living_actor_and_only_a_living_one(scheduler: Scheduler) -> None:
    ref: Any = scheduler.start(UsersActor)
    scheduler.register("clerk", ref)
    scheduler.register("clerk", ref)
    assert scheduler.whereis("clerk") is ref
    assert scheduler.whereis("nobody") is None
    ref.stop(timeout=5)
    assert scheduler.whereis("clerk") is None
    assert scheduler._names == {}
    assert scheduler._named == {}


def test_a_name_is_one_living_actors_at_a_time(scheduler: Scheduler) -> None:
    first: Any = scheduler.start(UsersActor)
    second: Any = scheduler.start(UsersActor)
    scheduler.register("clerk", first)
    with pytest.raises(pfs.errors.NameTaken, match="'clerk' is registered for UsersActor-1"):
        scheduler.register("clerk", second)
    scheduler.register("boss", first)
    first.kill()
    scheduler.register("clerk", second)
    assert scheduler.whereis("clerk") is second
    assert scheduler.whereis("boss") is None


def test_a_name_can_be_freed(scheduler: Scheduler) -> None:
    ref: Any = scheduler.start(UsersActor)
    scheduler.register("clerk", ref)
    scheduler.register("boss", ref)
    scheduler.unregister("clerk")
    scheduler.unregister("nobody")
    assert scheduler.whereis("clerk") is None
    assert scheduler.whereis("boss") is ref
    scheduler.unregister("boss")
    assert scheduler._named == {}


def test_an_actor_that_has_ended_gets_no_name(scheduler: Scheduler) -> None:
    ref: Any = scheduler.start(UsersActor)
    ref.stop(timeout=5)
    with pytest.raises(pykka.ActorDeadError):
        scheduler.register("clerk", ref)
    assert scheduler.whereis("clerk") is None
    assert scheduler._named == {}


def test_two_schedulers_have_names_of_their_own(scheduler: Scheduler) -> None:
    other = Scheduler()
    try:
        mine: Any = scheduler.start(UsersActor)
        theirs: Any = other.start(UsersActor)
        scheduler.register("clerk", mine)
        other.register("clerk", theirs)
        assert scheduler.whereis("clerk") is mine
        assert other.whereis("clerk") is theirs
        assert mine.actor_urn != theirs.actor_urn
    finally:
        other.stop()


# -- timers


class Nobody:
    def tell(self, message: Any) -> None:
        raise AssertionError

    def is_alive(self) -> bool:
        return True


def test_due_timers_come_in_order_of_time_then_of_making() -> None:
    timers = TimerQueue()
    assert timers.next_due == math.inf
    for due, message in [(3.0, "c"), (1.0, "a"), (2.0, "b1"), (2.0, "b2"), (9.0, "z")]:
        timers.add(Timer(due, Nobody(), message))
    assert timers.next_due == 1.0
    assert timers.take_due(0.5) == []
    assert [timer.message for timer in timers.take_due(3.0)] == ["a", "b1", "b2", "c"]
    assert timers.next_due == 9.0
    assert len(timers) == 1


def test_a_cancelled_timer_is_never_due() -> None:
    timers = TimerQueue()
    first, second = Timer(1.0, Nobody(), "a"), Timer(2.0, Nobody(), "b")
    timers.add(first)
    timers.add(second)
    first.cancel()
    first.cancel()
    assert len(timers) == 1
    assert timers.take_due(5.0) == [second]
    second.cancel()
    assert timers.next_due == math.inf


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = TimerQueue()
    kept = Timer(1e6, Nobody(), "kept")
    timers.add(kept)
    for number in range(10_000):
        timer = Timer(1e3 + number, Nobody(), number)
        timers.add(timer)
        timer.cancel()
    assert len(timers._heap) <= 2 * PURGE_FROM + 2
    assert timers.take_due(1e7) == [kept]


def test_timers_follow_the_schedulers_clock(heard: queue.SimpleQueue[Any], clock: Any) -> None:
    scheduler = Scheduler(clock=clock)
    try:
        ref: Any = scheduler.start(InlineWatcher, heard)
        users: Any = scheduler.start(UsersWatcher, heard)
        ref.ask(lambda self: self.send_after(5.0, "own"), timeout=5)
        scheduler.send_after(4.0, users, "users'")
        cancelled = scheduler.send_after(3.0, ref, "cancelled")
        ref.ask(lambda self: None)
        assert heard.empty()
        assert scheduler.now() == 1000.0
        cancelled.cancel()
        clock.now += 4.5
        ref.ask(lambda self: None)
        assert take(heard) == "users'"
        clock.now += 1
        ref.ask(lambda self: None)
        assert take(heard) == "own"
        cancelled.cancel()
        assert heard.empty()
    finally:
        clock.now = 0.0
        scheduler.stop()


def test_timers_fire_while_nobody_drives(scheduler: Scheduler, heard: queue.SimpleQueue[Any]) -> None:
    ref: Any = scheduler.start(UsersWatcher, heard)
    scheduler.send_after(30.0, ref, "late")
    scheduler.send_after(0.002, ref, "second")
    scheduler.send_after(0.001, ref, "first")
    scheduler.send_after(-5, ref, "at once")
    assert [take(heard), take(heard), take(heard)] == ["at once", "first", "second"]


def test_a_timer_may_name_another_target_and_one_that_is_gone_or_broken(
    scheduler: Scheduler, heard: queue.SimpleQueue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    ref: Any = scheduler.start(UsersActor)
    target: Any = scheduler.start(UsersWatcher, heard)
    gone: Any = scheduler.start(UsersActor)
    gone.stop(timeout=5)
    ref.ask(lambda self: self.send_after(0, "nobody", gone), timeout=5)
    ref.ask(lambda self: self.send_after(0, "broken", Nobody()), timeout=5)
    ref.ask(lambda self: self.send_after(0.001, "hello", target), timeout=5)
    assert take(heard) == "hello"
    assert "could not be told 'broken'" in caplog.text


@pytest.mark.parametrize("delay", [math.nan, True, "1", None])
def test_a_delay_that_is_not_a_number_is_refused(scheduler: Scheduler, delay: Any) -> None:
    with pytest.raises(pfs.errors.InvalidRequest, match="is not a number of seconds"):
        scheduler.send_after(delay, Nobody(), "x")


def test_a_timer_in_the_far_future_does_not_disturb_the_scheduler(scheduler: Scheduler) -> None:
    ref: Any = scheduler.start(UsersActor)
    for delay in (math.inf, 1e300, 1e12):
        scheduler.send_after(delay, ref, "never")
        assert ref.ask(lambda self: "fine", timeout=5) == "fine"
