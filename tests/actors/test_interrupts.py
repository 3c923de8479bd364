"""Ctrl-C and other signals while the main thread drives: no actor is left half-way, and no signal is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from pfs.actors import Actor, Scheduler, Waiter, interrupts
from tests.support import join, run_together, untraced_environment, wait_for

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread only"
)


class Ledger(Actor):
    """Takes from one side and gives to the other, with a call in between."""

    inline = True

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.given = 0

    def on_receive(self, message: Callable[[], object]) -> tuple[int, int]:
        self.taken += 1
        message()
        sum(range(50))
        self.given += 1
        return self.taken, self.given


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers of the signals that the tests use back."""
    used = [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    before = {signum: signal.getsignal(signum) for signum in used}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


class Rung(Exception):
    """What the tests' signal handlers raise."""


def ring(signum: int, frame: Any) -> None:
    raise Rung(signal.Signals(signum).name)


@pytest.fixture
def wrapped(handlers: None) -> Iterator[Scheduler]:
    """A scheduler made after SIGINT and SIGUSR1 had handlers that raise."""
    signal.signal(signal.SIGUSR1, ring)
    made = Scheduler("test-scheduler")
    yield made
    made.stop(5.0)


def test_ctrl_c_in_a_handler_is_deferred_until_the_drive_ends(wrapped: Scheduler) -> None:
    ref = wrapped.start(Ledger)
    with pytest.raises(KeyboardInterrupt):
        ref.ask(lambda: signal.raise_signal(signal.SIGINT), timeout=5)
    assert ref.is_alive()
    assert ref.ask(int, timeout=5) == (2, 2)


def test_a_signal_handler_that_raises_is_deferred_too(wrapped: Scheduler) -> None:
    ref = wrapped.start(Ledger)
    with pytest.raises(Rung, match="SIGUSR1"):
        ref.ask(lambda: signal.raise_signal(signal.SIGUSR1), timeout=5)
    assert ref.ask(int, timeout=5) == (2, 2)


def test_a_deferred_signal_handler_that_returns_leaves_the_call_as_it_was(handlers: None) -> None:
    seen: list[tuple[int, bool]] = []
    signal.signal(signal.SIGUSR1, lambda signum, frame: seen.append((signum, interrupts.driving)))
    scheduler = Scheduler()
    try:
        ref = scheduler.start(Ledger)
        assert ref.ask(lambda: signal.raise_signal(signal.SIGUSR1), timeout=5) == (1, 1)
        assert seen == [(signal.SIGUSR1, False)]
    finally:
        scheduler.stop()


def test_of_several_deferred_signals_all_handlers_are_called(wrapped: Scheduler) -> None:
    ref = wrapped.start(Ledger)

    def both() -> None:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises((KeyboardInterrupt, Rung)) as caught:
        ref.ask(both, timeout=5)
    assert {type(caught.value), type(caught.value.__context__)} == {KeyboardInterrupt, Rung}
    assert not interrupts.pending()
    assert ref.ask(int, timeout=5) == (2, 2)


def test_ctrl_c_while_the_main_thread_drives_an_endless_storm_ends_the_wait(wrapped: Scheduler) -> None:
    class Storm(Actor):
        inline = True

        def on_receive(self, message: Any) -> None:
            self.actor_ref.tell(message + 1)
            if message == 1000:
                signal.raise_signal(signal.SIGINT)

    ref = wrapped.start(Storm)
    ref.tell(0)
    with pytest.raises(KeyboardInterrupt):
        wrapped.wait(Waiter(), 30, lambda: "nothing came")
    assert ref.is_alive()
    ref.kill()


def test_ctrl_c_while_the_main_thread_sleeps_on_a_reply_comes_at_once(wrapped: Scheduler) -> None:
    asleep = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    class Slow(Actor):
        def on_receive(self, message: Any) -> None:
            signal.pthread_kill(main, signal.SIGINT)
            wait_for(asleep)

    ref = wrapped.start(Slow)
    with pytest.raises(KeyboardInterrupt):
        ref.ask("x", timeout=30)
    asleep.set()


STRIKING = """
import signal, sys
from pfs.actors import Actor, Scheduler, Waiter

class Rung(Exception):
    pass

class Ledger(Actor):
    inline = True
    taken = given = 0

    def on_receive(self, message):
        self.taken += 1
        message()
        sum(range(50))
        self.given += 1
        return self.taken, self.given

class Users(Ledger):
    inline = False

strikes = 0

def strike(signum, frame):
    global strikes
    strikes += 1
    raise Rung

signal.signal(signal.SIGALRM, strike)
scheduler = Scheduler()
ledger, users = scheduler.start(Ledger), scheduler.start(Users)
"""


def run_struck(source: str) -> None:
    """Run a program into which a timer strikes again and again.

    In a process of its own, and without measuring coverage: coverage's lock does not survive being struck.
    """
    command = [sys.executable, "-W", "error", "-c", STRIKING + source]
    done = subprocess.run(command, env=untraced_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_signals_at_random_moments_leave_no_actor_half_way_and_no_call_hanging() -> None:
    run_struck("""
answers = []

while strikes < 500:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + strikes % 7 * 0.00003)
        while True:
            answers.append(ledger.ask(int, timeout=10))
            users.tell(int)
    except Rung:
        pass
assert all(taken == given for taken, given in answers)
for ref in (ledger, users):
    taken, given = ref.ask(int, timeout=10)
    assert taken == given
scheduler.stop()
print("fine")
""")


def test_a_signal_that_strikes_a_sender_between_its_steps_leaves_no_message_unhandled() -> None:
    """`tell` puts the message first and wakes the scheduler's thread second; an exception may strike between them."""
    run_struck("""
told = []
while strikes < 400:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        while True:
            users.tell(int)
            done = Waiter()
            users.tell(done.finish)
            done.sleep(5)  # now the scheduler's thread sleeps, and the next message must wake it
    except Rung:
        done = Waiter()
        users.tell(done.finish)
        assert done.sleep(5), "a message was told and nobody was woken"
scheduler.stop()
print("fine")
""")


@pytest.mark.parametrize("inline", [True, False])
def test_a_message_whose_sender_was_struck_before_it_woke_anybody_is_handled(wrapped: Scheduler, inline: bool) -> None:
    ref: Any = wrapped.start(type("Struck", (Ledger,), {"inline": inline}))
    for _ in range(20):
        ref.ask(int, timeout=5)
        handled = threading.Event()
        ref.post(handled.set)  # `tell` up to where it wakes the scheduler's thread
        with pytest.raises(Rung):
            signal.raise_signal(signal.SIGUSR1)
        wait_for(handled)


def test_a_signal_handler_installed_later_is_the_actors_failure_and_is_raised_again(
    wrapped: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    signal.signal(signal.SIGUSR2, ring)
    ref, other = wrapped.start(Ledger), wrapped.start(Ledger)
    with pytest.raises(Rung, match="SIGUSR2"):
        ref.ask(lambda: signal.raise_signal(signal.SIGUSR2), timeout=5)
    assert other.ask(int, timeout=5) == (1, 1)


def test_an_interrupt_that_strikes_in_a_handler_ends_that_actor_and_reaches_the_driver(
    wrapped: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """As from a handler installed later that raises what is no `Exception`."""
    signal.signal(signal.SIGUSR2, signal.default_int_handler)
    ref, other = wrapped.start(Ledger), wrapped.start(Ledger)
    ref.tell(lambda: signal.raise_signal(signal.SIGUSR2))
    try:
        other.ask(int, timeout=5)
        other.ask(int, timeout=5)
    except KeyboardInterrupt:
        pass
    assert ref.actor_stopped.wait(5)
    assert other.ask(int, timeout=5)[0] in (1, 2, 3)


def test_an_interrupt_in_an_asked_handler_answers_the_asker_and_reaches_the_driver(
    wrapped: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    ref = wrapped.start(Ledger)

    def interrupt() -> None:
        raise KeyboardInterrupt

    reply = ref.ask(interrupt, block=False)
    with pytest.raises((KeyboardInterrupt, pykka.ActorDeadError)):  # the first if this thread drove
        reply.get(timeout=5)
    assert ref.actor_stopped.wait(5)
    with pytest.raises(pykka.ActorDeadError, match="was ended by KeyboardInterrupt"):
        reply.get(timeout=5)


def test_an_interrupt_on_the_schedulers_thread_is_not_raised_to_a_driver(
    wrapped: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    class Users(Ledger):
        inline = False

    def interrupt() -> None:
        raise KeyboardInterrupt

    inline = wrapped.start(Ledger)
    for _ in range(50):
        users = wrapped.start(Users)
        users.tell(interrupt)
        inline.ask(int, timeout=5)
        assert users.actor_stopped.wait(5)
    assert len(set(inline.ask(int, timeout=5))) == 1


def test_signal_handlers_are_put_back_when_the_last_scheduler_stops(handlers: None) -> None:
    signal.signal(signal.SIGUSR1, ring)
    first, second = Scheduler(), Scheduler()
    assert signal.getsignal(signal.SIGUSR1) is not ring
    first.stop()
    assert signal.getsignal(signal.SIGUSR1) is not ring
    second.stop()
    assert signal.getsignal(signal.SIGUSR1) is ring
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not interrupts.deferring


def test_a_handler_that_somebody_set_meanwhile_is_left_alone(handlers: None) -> None:
    scheduler = Scheduler()
    signal.signal(signal.SIGINT, ring)
    scheduler.stop()
    assert signal.getsignal(signal.SIGINT) is ring


def test_a_wrapper_that_somebody_kept_still_calls_its_handler(handlers: None) -> None:
    signal.signal(signal.SIGUSR1, ring)
    scheduler = Scheduler()
    kept = signal.getsignal(signal.SIGUSR1)
    scheduler.stop()
    signal.signal(signal.SIGUSR1, kept)
    with pytest.raises(Rung):
        signal.raise_signal(signal.SIGUSR1)


def test_a_scheduler_made_on_another_thread_leaves_signals_alone(handlers: None) -> None:
    made = run_together([lambda: Scheduler("elsewhere")])[0]
    try:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ref = made.start(Ledger)
        with pytest.raises((KeyboardInterrupt, pykka.ActorDeadError)):
            ref.ask(lambda: signal.raise_signal(signal.SIGINT), timeout=5)
        assert made.start(Ledger).ask(int, timeout=5) == (1, 1)
    finally:
        made.stop()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_scheduler_that_another_thread_stops_leaves_wrappers_that_the_next_one_takes_over(handlers: None) -> None:
    scheduler = Scheduler()
    join_stop = threading.Thread(target=scheduler.stop)
    join_stop.start()
    join(join_stop)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    Scheduler().stop()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_asyncio_run_works_with_wrapped_handlers(wrapped: Scheduler) -> None:
    ref = wrapped.start(Ledger)

    async def call() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: ref.ask(int, timeout=5))

    assert asyncio.run(call()) == (1, 1)
