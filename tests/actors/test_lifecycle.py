"""How actors begin, answer and end: checked start, delayed replies, SystemExit, kills."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest
from pykka._envelope import Envelope

import pfs.errors
from pfs.actors import (
    Actor,
    ActorKilled,
    BlockingActor,
    DelayedReply,
    Down,
    ReplyFuture,
    Scheduler,
    Waiter,
    runtime,
)
from tests.support import join, run_together, take, wait_for


class Caller:
    """Calls the function that it is sent with itself; answers with its result."""

    def on_receive(self, message: Callable[[Any], Any]) -> Any:
        return message(self)


class UsersActor(Caller, Actor):
    pass


class InlineActor(Caller, Actor):
    inline = True


class ThreadActor(Caller, BlockingActor):
    pass


class Inbox:
    """Where a plain thread hears of an actor's end."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[Down] = queue.SimpleQueue()

    def tell(self, message: Down) -> None:
        self.messages.put(message)

    def is_alive(self) -> bool:
        return True


ours = pytest.mark.parametrize("actor_class", [UsersActor, InlineActor, ThreadActor])


def watch(scheduler: Scheduler, ref: Any) -> Inbox:
    inbox = Inbox()
    scheduler.watch(ref, inbox)
    return inbox


# -- start


@ours
def test_start_raises_what_on_start_raised_and_leaves_no_actor(scheduler: Scheduler, actor_class: type) -> None:
    class Failing(actor_class):  # type: ignore[misc]
        def on_start(self) -> None:
            raise ValueError("no start")

        def on_failure(self, *_: Any) -> None:
            raise AssertionError("on_failure is not for on_start, as in Pykka")

    with pytest.raises(ValueError, match="no start"):
        scheduler.start(Failing)
    assert not scheduler.living
    assert not pykka.ActorRegistry.get_all()


@ours
def test_start_raises_what_init_raised(scheduler: Scheduler, actor_class: type) -> None:
    class Failing(actor_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            raise ValueError("no init")

    with pytest.raises(ValueError, match="no init"):
        scheduler.start(Failing)
    assert not scheduler.living


@ours
def test_start_of_an_actor_that_exits_in_on_start_raises_actor_dead_error(
    scheduler: Scheduler, actor_class: type
) -> None:
    class Exiting(actor_class):  # type: ignore[misc]
        def on_start(self) -> None:
            raise SystemExit(3)

    with pytest.raises(pykka.ActorDeadError) as caught:
        scheduler.start(Exiting)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert not scheduler.living


@ours
def test_start_returns_after_on_start(scheduler: Scheduler, actor_class: type) -> None:
    class Ready(actor_class):  # type: ignore[misc]
        ready = False

        def on_start(self) -> None:
            self.ready = True

    assert scheduler.start(Ready)._actor.ready  # type: ignore[attr-defined]


def test_an_actor_that_does_not_start_in_time_is_killed(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "START_TIMEOUT", 0.01)
    go_on = threading.Event()

    class Slow(ThreadActor):
        def on_start(self) -> None:
            wait_for(go_on)

    with pytest.raises(pfs.errors.Timeout):
        scheduler.start(Slow)
    assert not scheduler.living
    go_on.set()


@pytest.mark.parametrize("child_class", [UsersActor, InlineActor, ThreadActor])
@pytest.mark.parametrize("parent_class", [UsersActor, InlineActor])
def test_an_actor_started_inside_a_handler_starts_before_its_messages(
    scheduler: Scheduler, parent_class: type, child_class: type
) -> None:
    events: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Child(child_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.actor_ref.tell(lambda self: events.put("told in init"))

        def on_start(self) -> None:
            events.put("start")

    def start(self: Any) -> Any:
        ref = Child.start()
        ref.tell(lambda self: events.put("told after start"))
        return ref

    ref = scheduler.start(parent_class).ask(start, timeout=5)
    assert ref.scheduler is scheduler
    assert [take(events) for _ in range(3)] == ["start", "told in init", "told after start"]


@pytest.mark.parametrize("child_class", [UsersActor, InlineActor, ThreadActor])
@pytest.mark.parametrize("parent_class", [UsersActor, InlineActor])
def test_a_start_inside_a_handler_that_fails_is_raised_there_or_told_by_down(
    scheduler: Scheduler, parent_class: type, child_class: type, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(child_class):  # type: ignore[misc]
        def on_start(self) -> None:
            raise ValueError("no start")

        def on_failure(self, *_: Any) -> None:
            raise AssertionError("on_failure is not for on_start")

    inbox = Inbox()

    def start(self: Any) -> str:
        try:
            scheduler.watch(Failing.start(), inbox)
        except ValueError:
            return "raised"
        return "later"

    if scheduler.start(parent_class).ask(start, timeout=5) == "later":
        assert isinstance(take(inbox.messages).reason, ValueError)
        assert "could not start" in caplog.text


def test_a_message_that_finds_an_actor_before_its_start_waits_for_on_start(scheduler: Scheduler) -> None:
    """Anybody may find it in the registry, or be given its address by `__init__`."""
    entered, go_on, found = threading.Event(), threading.Event(), []

    class Early(InlineActor):
        started = False

        def __init__(self) -> None:
            super().__init__()
            found.append(self.actor_ref)
            entered.set()
            wait_for(go_on)

        def on_start(self) -> None:
            self.started = True

    starter = threading.Thread(target=lambda: scheduler.start(Early))
    starter.start()
    wait_for(entered)
    reply = found[0].ask(lambda self: self.started, block=False)
    go_on.set()
    assert reply.get(timeout=5) is True
    join(starter)


def test_an_actor_started_by_a_blocking_actor_lives_on_its_scheduler(scheduler: Scheduler) -> None:
    ref = scheduler.start(ThreadActor).ask(lambda self: UsersActor.start(), timeout=5)
    assert ref.scheduler is scheduler


def test_nothing_starts_on_a_stopped_scheduler() -> None:
    scheduler = Scheduler("gone")
    scheduler.stop()
    for actor_class in (UsersActor, ThreadActor):
        with pytest.raises(pfs.errors.SystemStopped, match="gone is stopped"):
            scheduler.start(actor_class)


def test_pykkas_own_hooks_are_not_for_scheduled_actors(scheduler: Scheduler) -> None:
    actor = scheduler.start(UsersActor)._actor  # type: ignore[attr-defined]
    with pytest.raises(NotImplementedError):
        actor._create_actor_inbox()
    with pytest.raises(NotImplementedError):
        actor._start_actor_loop()


# -- delayed replies


@ours
def test_an_answer_can_be_given_later(scheduler: Scheduler, actor_class: type) -> None:
    ref = scheduler.start(actor_class)
    reply = DelayedReply()
    future = ref.ask(lambda self: reply, block=False)
    ref.ask(lambda self: reply.set("later"), timeout=5)
    assert future.get(timeout=5) == "later"
    ref.ask(lambda self: reply.set("too late"), timeout=5)
    assert future.get(timeout=5) == "later"


def test_an_exception_can_be_given_later(scheduler: Scheduler) -> None:
    ref = scheduler.start(InlineActor)
    reply = DelayedReply()
    future = ref.ask(lambda self: reply, block=False)
    ref.tell(lambda self: reply.set_exception(ValueError("later")))
    with pytest.raises(ValueError, match="later"):
        future.get(timeout=5)


def test_an_answer_can_be_known_before_the_handler_returns_it(scheduler: Scheduler) -> None:
    def answer(self: Any) -> DelayedReply:
        reply = DelayedReply()
        reply.set("at once")
        return reply

    assert scheduler.start(InlineActor).ask(answer, timeout=5) == "at once"


def test_a_delayed_reply_to_a_message_that_was_told_does_nothing(scheduler: Scheduler) -> None:
    ref = scheduler.start(InlineActor)
    reply = DelayedReply()
    ref.tell(lambda self: reply)
    ref.ask(lambda self: reply.set("nobody"), timeout=5)
    assert reply.settled


@ours
@pytest.mark.parametrize("ending", ["stop", "kill", "fail"])
def test_who_waits_for_a_delayed_reply_hears_of_the_actors_end(
    scheduler: Scheduler, actor_class: type, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    ref: Any = scheduler.start(actor_class)
    reply = DelayedReply()
    future = ref.ask(lambda self: reply, block=False)
    ref.ask(lambda self: None, timeout=5)
    assert reply.is_alive()
    if ending == "stop":
        ref.stop(timeout=5)
    elif ending == "kill":
        ref.kill()
    else:
        ref.tell(lambda self: 1 // 0)
    with pytest.raises(pykka.ActorDeadError):
        future.get(timeout=5)
    assert not reply.is_alive()
    reply.set("too late")


def test_start_waits_for_a_delayed_on_start(scheduler: Scheduler) -> None:
    class Delayed(InlineActor):
        def on_start(self) -> Any:
            self.reply = DelayedReply()
            self.send_after(0.001, lambda self: self.ready())
            return self.reply

        def ready(self) -> None:
            self.is_ready = True
            self.reply.set()

    assert scheduler.start(Delayed)._actor.is_ready  # type: ignore[attr-defined]


def test_start_raises_what_ends_the_actor_before_its_delayed_on_start(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Delayed(InlineActor):
        def on_start(self) -> Any:
            self.send_after(0.001, lambda self: 1 // 0)
            return DelayedReply()

    with pytest.raises(ZeroDivisionError):
        scheduler.start(Delayed)


# -- the end


@ours
def test_system_exit_in_a_handler_answers_the_asker_and_ends_only_this_actor(
    scheduler: Scheduler, actor_class: type, caplog: pytest.LogCaptureFixture
) -> None:
    ref, other = scheduler.start(actor_class), scheduler.start(actor_class)
    inbox = watch(scheduler, ref)

    def leave(self: Any) -> None:
        raise SystemExit(2)

    with pytest.raises(pykka.ActorDeadError, match="was ended by SystemExit") as caught:
        ref.ask(leave, timeout=5)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert isinstance(take(inbox.messages).reason, SystemExit)
    assert other.ask(lambda self: "alive", timeout=5) == "alive"


@ours
@pytest.mark.parametrize("hook", ["on_stop", "on_failure"])
def test_even_system_exit_in_a_hook_leaves_the_end_complete(
    scheduler: Scheduler, actor_class: type, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(self: Any, *_: Any) -> None:
        raise SystemExit(2)

    ref = scheduler.start(type("Leaving", (actor_class,), {hook: leave}))
    inbox = watch(scheduler, ref)
    if hook == "on_stop":
        assert ref.stop(timeout=5) is True
        assert isinstance(take(inbox.messages).reason, SystemExit)
    else:
        ref.tell(lambda self: 1 // 0)
        assert isinstance(take(inbox.messages).reason, ZeroDivisionError)
    assert scheduler.start(actor_class).ask(lambda self: "alive", timeout=5) == "alive"
    assert not pykka.ActorRegistry.get_by_class_name("Leaving")


def test_an_interrupt_in_on_stop_ends_the_actor_and_reaches_the_driver(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupted(InlineActor):
        def on_stop(self) -> None:
            raise KeyboardInterrupt

    entered, go_on = threading.Event(), threading.Event()

    def hold(self: Any) -> None:
        entered.set()
        wait_for(go_on)

    ref = scheduler.start(Interrupted)
    inbox = watch(scheduler, ref)
    scheduler.start(UsersActor).tell(hold)  # so that this thread is the one that drives
    wait_for(entered)
    with pytest.raises(KeyboardInterrupt):
        ref.stop(timeout=5)
    go_on.set()
    assert isinstance(take(inbox.messages).reason, KeyboardInterrupt)


@ours
def test_a_killed_actor_handles_nothing_more_and_its_askers_are_answered(
    scheduler: Scheduler, actor_class: type
) -> None:
    entered, go_on, handled = threading.Event(), threading.Event(), []

    def hold(self: Any) -> None:
        entered.set()
        wait_for(go_on)

    ref: Any = scheduler.start(actor_class)
    inbox = watch(scheduler, ref)
    ref.tell(hold)
    wait_for(entered)
    ref.tell(handled.append)
    asked = ref.ask(handled.append, block=False)
    ref.kill()
    down = take(inbox.messages)
    assert (down.ref, type(down.reason)) == (ref, ActorKilled)
    assert ref.exit_reason is down.reason
    go_on.set()
    with pytest.raises(pykka.ActorDeadError):
        asked.get(timeout=5)
    ref.kill()
    scheduler.stop()
    assert handled == []
    assert inbox.messages.empty()


@pytest.mark.parametrize("outcome", ["returns", "raises", "exits"])
def test_who_asked_a_blocking_actor_that_is_killed_while_it_hangs_is_answered_at_once(
    scheduler: Scheduler, outcome: str
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang(self: Any) -> str:
        entered.set()
        wait_for(go_on)
        if outcome == "raises":
            raise ValueError("nobody hears it")
        if outcome == "exits":
            raise SystemExit
        return "nobody hears it"

    ref: Any = scheduler.start(ThreadActor)
    asked = ref.ask(hang, block=False)
    wait_for(entered)
    ref.kill()
    with pytest.raises(pykka.ActorDeadError):
        asked.get(timeout=5)
    go_on.set()


@ours
def test_an_idle_actor_can_be_killed(scheduler: Scheduler, actor_class: type) -> None:
    ref: Any = scheduler.start(actor_class)
    ref.ask(lambda self: None, timeout=5)
    ref.kill()
    assert ref.actor_stopped.wait(5)
    with pytest.raises(pykka.ActorDeadError):
        ref.ask(lambda self: None, timeout=5)


@ours
def test_an_actor_that_kills_itself_does_not_answer(scheduler: Scheduler, actor_class: type) -> None:
    ref: Any = scheduler.start(actor_class)
    asked = [ReplyFuture(scheduler, ref) for _ in range(2)]

    def die(self: Any) -> None:
        ref.actor_inbox.put(Envelope(lambda self: "asked before", reply_to=asked[0]))
        self.actor_ref.kill()
        ref.actor_inbox.put(Envelope(lambda self: "asked by somebody who had just looked", reply_to=asked[1]))

    ref.tell(die)
    assert ref.actor_stopped.wait(5)
    for future in asked:
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=5)


@ours
def test_an_actor_that_was_killed_does_not_end_a_second_time(scheduler: Scheduler, actor_class: type) -> None:
    ends: list[str] = []

    class Mortal(actor_class):  # type: ignore[misc]
        def on_failure(self, *_: Any) -> None:
            ends.append("failed")

        def on_stop(self) -> None:
            ends.append("stopped")

    def die(self: Any) -> None:
        self.actor_ref.kill()
        self._stop()
        raise ValueError("too late")

    ref: Any = scheduler.start(Mortal)
    inbox = watch(scheduler, ref)
    ref.tell(die)
    assert isinstance(take(inbox.messages).reason, ActorKilled)
    scheduler.stop()
    assert isinstance(ref.exit_reason, ActorKilled)
    assert ends == []


def test_of_many_that_end_an_actor_at_once_one_does(untraced_threads: None, scheduler: Scheduler) -> None:
    for _ in range(50):
        ref: Any = scheduler.start(ThreadActor)
        inbox = watch(scheduler, ref)
        run_together([ref.kill, ref.kill, ref.kill, lambda ref=ref: ref.stop(timeout=5)])
        take(inbox.messages)
        assert inbox.messages.empty()


def test_the_end_of_an_actor_can_be_waited_for_with_a_limit(scheduler: Scheduler) -> None:
    ref = scheduler.start(UsersActor)
    assert ref.actor_stopped.wait(0.01) is False
    ref.stop(timeout=5)
    assert ref.actor_stopped.wait(0.01) is True


# -- batches of blocking actors


class Batches(BlockingActor):
    def __init__(self, batches: queue.SimpleQueue[list[Any]]) -> None:
        super().__init__()
        self.batches = batches
        self.entered, self.go_on = threading.Event(), threading.Event()

    def on_batch(self, messages: list[Any]) -> None:
        self.batches.put(list(messages))
        if "hold" in messages:
            self.entered.set()
            wait_for(self.go_on)
        if "fail" in messages:
            raise ValueError("batch")
        if "stop" in messages:
            self.actor_ref.kill()

    def on_receive(self, message: Any) -> Any:
        self.batches.put([("asked", message)])
        return message


def held(scheduler: Scheduler, batches: queue.SimpleQueue[list[Any]]) -> Any:
    """A `Batches` actor that is held up, so that its next batch is what is sent now."""
    ref: Any = scheduler.start(Batches, batches)
    ref.tell("hold")
    wait_for(ref._actor.entered)
    return ref


def test_a_blocking_actor_is_given_its_whole_backlog_as_one_batch(scheduler: Scheduler) -> None:
    batches: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    ref = held(scheduler, batches)
    for number in range(5):
        ref.tell(number)
    asked = ref.ask("q", block=False)
    ref.tell(5)
    ref._actor.go_on.set()
    assert asked.get(timeout=5) == "q"
    assert [take(batches) for _ in range(4)] == [["hold"], [0, 1, 2, 3, 4], [("asked", "q")], [5]]


def test_a_batch_is_no_longer_than_its_limit(scheduler: Scheduler) -> None:
    batches: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    class Small(Batches):
        most_in_batch = 3

    ref: Any = scheduler.start(Small, batches)
    ref.tell("hold")
    wait_for(ref._actor.entered)
    for number in range(7):
        ref.tell(number)
    ref._actor.go_on.set()
    assert [take(batches) for _ in range(4)] == [["hold"], [0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("ending", ["fail", "stop"])
def test_asks_in_a_batch_that_ends_the_actor_get_actor_dead_error(
    scheduler: Scheduler, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    batches: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    ref = held(scheduler, batches)
    ref.tell(ending)
    asked = [ref.ask(number, block=False) for number in range(3)]
    ref.tell("dropped")
    ref._actor.go_on.set()
    for future in asked:
        with pytest.raises(pykka.ActorDeadError):
            future.get(timeout=5)
    assert [take(batches), take(batches)] == [["hold"], [ending]]
    assert batches.empty()


def test_a_waiter_can_be_used_again(scheduler: Scheduler) -> None:
    waiter = Waiter()
    assert waiter.sleep(0) is False
    for _ in range(3):
        threading.Thread(target=waiter.finish).start()
        assert waiter.sleep(5) is True
        waiter.finish()
        waiter.rearm()
        assert waiter.sleep(0.001) is False


def test_a_finisher_from_before_rearm_does_not_end_the_next_wait(scheduler: Scheduler) -> None:
    """It set `done`, the waiting thread took that, rearmed and sleeps again; only now it releases the sleeper."""
    waiter = Waiter()
    assert waiter.sleep(0.001) is False
    assert waiter._sleeper is not None
    waiter._sleeper.release()
    assert waiter.sleep(0.001) is False
    assert waiter.sleep(0.001) is False
    waiter._sleeper.release()
    finisher = threading.Thread(target=waiter.finish)
    finisher.start()
    assert waiter.sleep(None) is True
    join(finisher)
