"""Mailboxes and run queues: budget, order, no lost wake-up, late asks, the high-water mark."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pykka
import pytest

from pfs.actors import Actor, BlockingActor, Scheduler, Waiter
from tests.support import join, run_together, wait_for


class Counting:
    """Counts messages of each sender and finishes a waiter at the last; notes messages out of order."""

    def __init__(self, expected: int, done: Waiter) -> None:
        super().__init__()
        self.left = expected
        self.done = done
        self.last: dict[int, int] = {}
        self.disorder = 0

    def on_receive(self, message: tuple[int, int]) -> int:
        sender, number = message
        self.disorder += number != self.last.get(sender, -1) + 1
        self.last[sender] = number
        self.left -= 1
        if not self.left:
            self.done.finish()
        return number


class Counter(Counting, Actor):
    pass


class InlineCounter(Counting, Actor):
    inline = True


class BlockingCounter(Counting, BlockingActor):
    pass


@pytest.mark.parametrize(
    ("actor_class", "rounds", "each"),
    [(Counter, 40, 3000), (Counter, 150, 100), (InlineCounter, 40, 3000), (BlockingCounter, 20, 3000)],
)
def test_no_wake_up_is_lost_between_many_producers_and_the_scheduler(
    tiny_switch_interval: None, scheduler: Scheduler, actor_class: type, rounds: int, each: int
) -> None:
    """Each round ends with everything asleep, so that a lost wake-up would stay lost: the last message must come."""
    producers = 8
    for _ in range(rounds):
        done = Waiter()
        ref = scheduler.start(actor_class, producers * each, done)

        def produce(sender: int, ref: Any = ref) -> None:
            tell = ref.tell
            for number in range(each):
                tell((sender, number))

        threads = [threading.Thread(target=produce, args=(sender,)) for sender in range(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            join(thread, 60)
        assert done.sleep(20), f"{ref._actor.left} of {producers * each} messages were not handled"
        assert ref._actor.disorder == 0
        ref.stop(timeout=10)


def test_no_wake_up_is_lost_when_single_messages_meet_a_scheduler_that_falls_asleep(
    tiny_switch_interval: None, scheduler: Scheduler
) -> None:
    done = Waiter()
    users, inline = scheduler.start(Counter, -1, done), scheduler.start(InlineCounter, -1, done)
    heard = [Waiter(), Waiter()]

    class Bell(Actor):
        def on_receive(self, message: Waiter) -> None:
            message.finish()

    class InlineBell(Bell):
        inline = True

    bells = [scheduler.start(Bell), scheduler.start(InlineBell)]

    def ring(which: int) -> None:
        for number in range(3000):
            bells[which].tell(heard[which])
            assert heard[which].sleep(20), f"message {number} was not handled"
            heard[which].rearm()

    def ask(sender: int) -> None:
        for number in range(1500):
            assert users.ask((sender, number), timeout=20) == number
            assert inline.ask((sender, number), timeout=20) == number

    run_together([lambda: ring(0), lambda: ring(1), lambda: ask(0), lambda: ask(1)])


@pytest.mark.parametrize("inline", [False, True])
def test_no_wake_up_is_lost_by_one_sender_that_nobody_helps(
    tiny_switch_interval: None, scheduler: Scheduler, inline: bool
) -> None:
    """The next message comes just when the turn of the one before ends and the scheduler's thread goes to sleep.

    The sender does not sleep, so that it and the scheduler's thread take the interpreter's lock from each other.
    """
    heard = 0

    class Bell(Actor):
        def on_receive(self, message: int) -> None:
            nonlocal heard
            heard = message

    bell = scheduler.start(type("Bell", (Bell,), {"inline": inline}))
    for number in range(1, 8_001):
        bell.tell(number)
        for _ in range(number % 50):
            pass
        looks = 0
        while heard != number:
            looks += 1
            assert looks < 20_000_000, f"message {number} was not handled"


def test_no_wake_up_is_lost_between_many_askers(tiny_switch_interval: None, scheduler: Scheduler) -> None:
    refs = [scheduler.start(Counter, -1, Waiter()), scheduler.start(InlineCounter, -1, Waiter())]
    refs.append(scheduler.start(BlockingCounter, -1, Waiter()))

    def ask(sender: int) -> None:
        for number in range(400):
            for ref in refs:
                assert ref.ask((sender, number), timeout=20) == number

    run_together([lambda sender=sender: ask(sender) for sender in range(8)])


def test_a_storm_at_one_actor_does_not_starve_another(scheduler: Scheduler) -> None:
    """Another actor's message waits for the rest of the storm's turn and for one more, whatever the backlog."""
    order: list[str] = []
    entered, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    class Noted(Actor):
        def on_receive(self, message: str) -> None:
            if message == "hold":
                entered.set()
                wait_for(go_on)
            elif message == "end":
                finished.set()
            else:
                order.append(message)

    storm, other = scheduler.start(Noted), scheduler.start(Noted)
    storm.tell("hold")
    wait_for(entered)
    for _ in range(10 * scheduler.budget):
        storm.tell("storm")
    other.tell("other")
    storm.tell("end")
    go_on.set()
    wait_for(finished)
    assert order.index("other") < 2 * scheduler.budget
    assert order.count("storm") == 10 * scheduler.budget


def test_the_budget_can_be_chosen() -> None:
    scheduler = Scheduler(budget=2)
    try:
        order: list[str] = []
        done = threading.Event()

        class Noted(Actor):
            inline = True

            def on_receive(self, message: str) -> None:
                order.append(message)
                if message == "end":
                    done.set()

        refs = [scheduler.start(Noted), scheduler.start(Noted)]

        class Sender(Actor):
            inline = True

            def on_receive(self, message: Any) -> None:
                for _ in range(4):
                    refs[0].tell("a")
                for _ in range(4):
                    refs[1].tell("b")
                refs[1].tell("end")

        scheduler.start(Sender).tell("go")
        wait_for(done)
        assert order == ["a", "a", "b", "b", "a", "a", "b", "b", "end"]
    finally:
        scheduler.stop()


def test_a_mailbox_that_is_in_the_run_queue_twice_is_harmless(scheduler: Scheduler) -> None:
    """Two senders that both see the flag down both put an entry: the second turn finds what is left."""
    done = Waiter()
    ref = scheduler.start(InlineCounter, 3, done)
    for number in range(3):
        ref.items.append((0, number))
        ref.run_queue.append(ref)
    ref.run_queue.append(ref)
    assert ref.ask((1, 0), timeout=5) == 0
    assert done.done
    assert ref.ask((1, 1), timeout=5) == 1
    assert ref.proxy().disorder.get(timeout=5) == 0


def test_what_a_sender_puts_after_the_actors_end_is_drained(scheduler: Scheduler) -> None:
    """The sender looked at `is_alive` just before the end: a stopped mailbox stays drainable."""
    from pykka._envelope import Envelope

    from pfs.actors import ReplyFuture

    for actor_class in (Counter, InlineCounter):
        ref: Any = scheduler.start(actor_class, 1, Waiter())
        ref.stop(timeout=5)
        future = ReplyFuture(scheduler, ref)
        ref.put(Envelope((0, 0), reply_to=future))
        ref.put(Envelope((0, 0)))
        with pytest.raises(pykka.ActorDeadError, match="stopped before handling the message"):
            future.get(timeout=5)


class Mortal(Actor):
    ended = False
    handled_after_the_end = 0

    def on_receive(self, message: Any) -> Any:
        type(self).handled_after_the_end += self.ended
        return message

    def on_stop(self) -> None:
        self.ended = True


class InlineMortal(Mortal):
    inline = True


class BlockingMortal(BlockingActor):
    def on_receive(self, message: Any) -> Any:
        return message


@pytest.mark.parametrize("ending", ["stop", "kill"])
@pytest.mark.parametrize("actor_class", [Mortal, InlineMortal, BlockingMortal])
def test_asks_that_race_with_an_actors_end_are_answered_or_get_actor_dead_error(
    tiny_switch_interval: None, scheduler: Scheduler, actor_class: type, ending: str
) -> None:
    for _ in range(12):
        ref: Any = scheduler.start(actor_class)
        started = threading.Barrier(5)

        def ask(ref: Any = ref, started: threading.Barrier = started) -> str:
            started.wait(20)
            for number in range(2000):
                try:
                    assert ref.ask(number, timeout=20) == number
                except pykka.ActorDeadError:
                    return "dead"
            return "tired"

        def finish(ref: Any = ref, started: threading.Barrier = started) -> str:
            started.wait(20)
            for number in range(20):
                ref.ask(number, timeout=20)
            ref.stop(timeout=20) if ending == "stop" else ref.kill()
            return "ended"

        assert set(run_together([ask, ask, ask, ask, finish])) <= {"dead", "ended", "tired"}
        assert not ref.is_alive()
    assert getattr(actor_class, "handled_after_the_end", 0) == 0


@pytest.mark.parametrize("actor_class", [Counter, BlockingCounter])
def test_the_high_water_mark_is_counted_and_logged_once(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, actor_class: type
) -> None:
    class Marked(actor_class):  # type: ignore[misc]
        mailbox_mark = 100

        def on_receive(self, message: Any) -> Any:
            if message == "hold":
                entered.set()
                wait_for(go_on)
                return None
            return super().on_receive(message)

    ref: Any = scheduler.start(Marked, -1, Waiter())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            entered, go_on = threading.Event(), threading.Event()
            ref.tell("hold")
            wait_for(entered)
            for number in range(200):
                ref.tell((0, number))
            assert scheduler.stats()[ref.label]["mailbox"] == 200
            go_on.set()
            ref.ask((1, 0), timeout=5)
    lines = [record.getMessage() for record in caplog.records if "mailbox" in record.getMessage()]
    assert len(lines) == 1
    assert "(mark: 100)" in lines[0]
    stats = scheduler.stats()[ref.label]
    assert stats["class"] == "Marked"
    assert 200 - scheduler.budget <= stats["high_water"] <= 202, "it is looked at when a turn begins"
    assert stats["mailbox"] == 0
    ref.ask((1, 1), timeout=5)
    assert scheduler.stats()[ref.label]["reductions"] >= 402


def test_the_inbox_protocol_of_pykka_is_there(scheduler: Scheduler) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Held(Actor):
        def on_receive(self, message: Any) -> None:
            entered.set()
            wait_for(go_on)

    ref: Any = scheduler.start(Held)
    ref.tell("hold")
    wait_for(entered)
    inbox = ref.actor_inbox
    assert inbox.empty()
    ref.tell("told")
    future = ref.ask("asked", block=False)
    assert not inbox.empty()
    assert inbox.get().message == "told"
    envelope = inbox.get()
    assert (envelope.message, envelope.reply_to) == ("asked", future)
    go_on.set()


def test_a_trace_sees_each_message_before_it_is_handled(scheduler: Scheduler) -> None:
    seen: list[tuple[str, Any]] = []
    ref = scheduler.start(InlineCounter, -1, Waiter())
    scheduler.trace = lambda ref, message: seen.append((ref.label, message))
    ref.tell((0, 0))
    ref.ask((0, 1), timeout=5)
    scheduler.trace = None
    assert seen[0] == ("InlineCounter-1", (0, 0))
    assert seen[1][1].message == (0, 1)
