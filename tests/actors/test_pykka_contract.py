"""Pykka's API, one body of tests for Pykka's own actors and both of ours."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry

from tests.support import run_together, take, wait_for

Start = Callable[..., pykka.ActorRef[Any]]


class Echo:
    """Answers with what it is sent; raises exceptions that it is sent."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message


class Recorder:
    """Puts what it is told, and what happens to it, into a queue."""

    def __init__(self, events: queue.SimpleQueue[Any]) -> None:
        super().__init__()
        self.events = events

    def on_start(self) -> None:
        self.events.put("start")

    def on_receive(self, message: Any) -> None:
        self.events.put(message)
        if isinstance(message, BaseException):
            raise message

    def on_stop(self) -> None:
        self.events.put("stop")

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        self.events.put(("failure", exception_type, exception_value, traceback is not None))


class Account:
    """Used through proxies."""

    currency = "EUR"

    def __init__(self, balance: int = 0) -> None:
        super().__init__()
        self.balance = balance
        self.owner = pykka.traversable(Owner())

    def pay_in(self, amount: int, *, times: int = 1) -> int:
        self.balance += amount * times
        return self.balance

    def overdraw(self) -> None:
        raise ValueError("no money")

    def who_am_i(self) -> Any:
        return self.actor_ref  # type: ignore[attr-defined]


class Owner:
    name = "Joe"

    def shout(self) -> str:
        return self.name.upper()


@pytest.fixture
def events() -> queue.SimpleQueue[Any]:
    return queue.SimpleQueue()


def test_start_gives_the_address_of_a_living_actor(start: Start) -> None:
    ref = start(Echo)
    assert isinstance(ref, pykka.ActorRef)
    assert ref.is_alive()
    assert ref.actor_class.__name__ == "Echo"
    assert ref.actor_urn.startswith("urn:uuid:")
    assert ref.actor_urn in str(ref)
    assert not ref.actor_stopped.is_set()


def test_two_actors_have_different_urns(start: Start) -> None:
    assert start(Echo).actor_urn != start(Echo).actor_urn


def test_ask_gives_the_handlers_answer(start: Start) -> None:
    assert start(Echo).ask({"a": 1}, timeout=5) == {"a": 1}


def test_ask_without_blocking_gives_a_future(start: Start) -> None:
    future = start(Echo).ask("x", block=False)
    assert isinstance(future, pykka.Future)
    assert future.get(timeout=5) == "x"
    assert future.get(timeout=5) == "x"


def test_messages_of_one_sender_are_handled_in_order_after_on_start(
    start: Start, events: queue.SimpleQueue[Any]
) -> None:
    ref = start(Recorder, events)
    for number in range(100):
        ref.tell(number)
    assert [take(events) for _ in range(101)] == ["start", *range(100)]


def test_messages_that_init_sends_are_handled_after_on_start(start: Start, events: queue.SimpleQueue[Any]) -> None:
    class Hasty(Recorder):
        def __init__(self, events: queue.SimpleQueue[Any]) -> None:
            super().__init__(events)
            self.actor_ref.tell("hasty")  # type: ignore[attr-defined]

    start(Hasty, events)
    assert [take(events), take(events)] == ["start", "hasty"]


def test_an_exception_under_ask_goes_to_the_asker_and_the_actor_lives_on(start: Start) -> None:
    ref = start(Echo)
    with pytest.raises(ValueError, match="bad"):
        ref.ask(ValueError("bad"), timeout=5)
    assert ref.ask("still here", timeout=5) == "still here"


def test_an_exception_under_tell_ends_the_actor_with_on_failure(
    start: Start, events: queue.SimpleQueue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    ref = start(Recorder, events)
    error = ValueError("bad")
    ref.tell(error)
    assert [take(events), take(events), take(events)] == ["start", error, ("failure", ValueError, error, True)]
    assert ref.actor_stopped.wait(5)
    assert not ref.is_alive()
    assert "Unhandled exception" in caplog.text


def test_an_exception_in_on_failure_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Echo):
        def on_failure(self, *_: Any) -> None:
            raise KeyError("on_failure too")

    logged = threading.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and isinstance(record.exc_info[1], KeyError):
                logged.set()

    notice = Notice()
    loggers = [logging.getLogger("pykka"), logging.getLogger("pfs.actors")]
    for logger in loggers:
        logger.addHandler(notice)
    try:
        ref = start(Clumsy)
        ref.tell(ValueError("bad"))
        wait_for(logged, what="the log line of on_failure")
    finally:
        for logger in loggers:
            logger.removeHandler(notice)
    assert ref.actor_stopped.wait(5)
    with pytest.raises(ActorDeadError):
        ref.ask("x", timeout=5)


def test_stop_handles_what_was_sent_before_and_calls_on_stop(start: Start, events: queue.SimpleQueue[Any]) -> None:
    ref = start(Recorder, events)
    ref.tell(1)
    ref.tell(2)
    assert ref.stop(timeout=5) is True
    assert [take(events) for _ in range(4)] == ["start", 1, 2, "stop"]
    assert not ref.is_alive()
    assert ref.stop(timeout=5) is False


def test_stop_without_blocking_gives_a_future(start: Start) -> None:
    assert start(Echo).stop(block=False).get(timeout=5) is True


def test_an_actor_can_stop_itself(start: Start, events: queue.SimpleQueue[Any]) -> None:
    class Suicidal(Recorder):
        def on_receive(self, message: Any) -> None:
            self.stop()  # type: ignore[attr-defined]

    ref = start(Suicidal, events)
    ref.tell("go")
    assert [take(events), take(events)] == ["start", "stop"]
    assert ref.actor_stopped.wait(5)


def test_an_exception_in_on_stop_is_logged_and_the_actor_is_gone(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(Echo):
        def on_stop(self) -> None:
            raise KeyError("on_stop")

    ref = start(Clumsy)
    assert ref.stop(timeout=5) is True
    assert not ref.is_alive()
    assert "on_stop" in caplog.text


def test_who_asks_or_tells_a_dead_actor_gets_actor_dead_error(start: Start) -> None:
    ref = start(Echo)
    ref.stop(timeout=5)
    with pytest.raises(ActorDeadError):
        ref.tell("x")
    with pytest.raises(ActorDeadError):
        ref.ask("x", timeout=5)
    with pytest.raises(ActorDeadError):
        ref.ask("x", block=False).get(timeout=5)
    with pytest.raises(ActorDeadError):
        ref.proxy()


def test_asks_behind_a_stop_get_actor_dead_error(start: Start) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Echo):
        def on_receive(self, message: Any) -> Any:
            entered.set()
            wait_for(go_on)

    ref = start(Slow)
    ref.tell("hold")
    wait_for(entered)
    first_stop = ref.stop(block=False)
    asked = ref.ask("late", block=False)
    second_stop = ref.stop(block=False)
    go_on.set()
    assert first_stop.get(timeout=5) is True
    with pytest.raises(ActorDeadError):
        asked.get(timeout=5)
    assert second_stop.get(timeout=5) is True


def test_ask_times_out(start: Start) -> None:
    go_on = threading.Event()

    class Slow(Echo):
        def on_receive(self, message: Any) -> Any:
            wait_for(go_on)

    ref = start(Slow)
    with pytest.raises(pykka.Timeout):
        ref.ask("x", timeout=0.01)
    go_on.set()


def test_a_message_that_nobody_handles_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Silent:
        pass

    assert start(Silent).ask("what?", timeout=5) is None
    assert "Unexpected message received" in caplog.text


def test_the_inbox_takes_envelopes_as_pykkas_own_does(start: Start, events: queue.SimpleQueue[Any]) -> None:
    from pykka._envelope import Envelope

    ref = start(Recorder, events)
    ref.actor_inbox.put(Envelope("by hand"))
    assert [take(events), take(events)] == ["start", "by hand"]


# -- proxies


def test_a_proxy_calls_methods(start: Start) -> None:
    account = start(Account, 5).proxy()
    assert account.pay_in(10, times=2).get(timeout=5) == 25


def test_a_proxy_reads_and_sets_attributes(start: Start) -> None:
    account = start(Account).proxy()
    assert account.currency.get(timeout=5) == "EUR"
    account.balance = 7
    assert account.balance.get(timeout=5) == 7


def test_a_proxy_passes_exceptions_on(start: Start) -> None:
    account = start(Account).proxy()
    with pytest.raises(ValueError, match="no money"):
        account.overdraw().get(timeout=5)
    assert account.balance.get(timeout=5) == 0


def test_a_proxy_traverses_attributes_that_are_marked(start: Start) -> None:
    account = start(Account).proxy()
    assert account.owner.shout().get(timeout=5) == "JOE"
    account.owner.name = "Sue"
    assert account.owner.name.get(timeout=5) == "Sue"


def test_a_proxy_call_may_be_told(start: Start) -> None:
    account = start(Account).proxy()
    account.pay_in.defer(3)
    assert account.balance.get(timeout=5) == 3


def test_a_proxy_call_that_raises_when_told_ends_the_actor(start: Start) -> None:
    ref = start(Account)
    ref.proxy().overdraw.defer()
    assert ref.actor_stopped.wait(5)


def test_a_proxy_says_what_is_not_there(start: Start) -> None:
    with pytest.raises(AttributeError, match="riches"):
        _ = start(Account).proxy().riches


def test_an_actor_sees_its_own_inbox_and_whether_it_is_stopped(start: Start) -> None:
    class Introvert(Echo):
        def on_receive(self, message: Any) -> Any:
            return self.actor_inbox.empty(), self.actor_stopped.is_set()  # type: ignore[attr-defined]

    assert start(Introvert).ask("x", timeout=5) == (True, False)


def test_an_actor_knows_its_own_address(start: Start) -> None:
    ref = start(Account)
    assert ref.proxy().who_am_i().get(timeout=5) is ref
    assert ref.proxy().actor_urn.get(timeout=5) == ref.actor_urn


# -- futures


def test_futures_map_filter_and_reduce(start: Start) -> None:
    ref = start(Echo)
    numbers = ref.ask([1, 2, 3, 4], block=False)
    assert numbers.map(len).get(timeout=5) == 4
    assert list(numbers.filter(lambda n: n % 2 == 0).get(timeout=5)) == [2, 4]
    assert numbers.reduce(lambda a, b: a + b).get(timeout=5) == 10


def test_futures_join(start: Start) -> None:
    ref = start(Echo)
    first, *others = [ref.ask(n, block=False) for n in range(3)]
    assert list(first.join(*others).get(timeout=5)) == [0, 1, 2]
    assert list(pykka.get_all([first, *others], timeout=5)) == [0, 1, 2]


def test_a_future_is_set_once(start: Start) -> None:
    future = start(Echo).ask("x", block=False)
    assert future.get(timeout=5) == "x"
    with pytest.raises(queue.Full):
        future.set("y")
    with pytest.raises(queue.Full):
        future.set_exception((ValueError, ValueError(), None))
    with pytest.raises(queue.Full):
        future.set_get_hook(lambda timeout: "z")


def test_a_future_of_ones_own_passes_values_and_exceptions(start: Start) -> None:
    make = start(Echo).actor_class._create_future
    value = make()
    with pytest.raises(pykka.Timeout):
        value.get(timeout=0)
    value.set("v")
    assert value.get(timeout=0) == "v"
    try:
        raise ValueError("kept")
    except ValueError:
        failure = make()
        failure.set_exception()
    for _ in range(2):
        with pytest.raises(ValueError, match="kept"):
            failure.get(timeout=0)
    bare = make()
    bare.set_exception((KeyError, None, None))
    with pytest.raises(KeyError):
        bare.get()


def test_a_future_wakes_all_threads_that_wait_for_it(start: Start) -> None:
    future = start(Echo).actor_class._create_future()
    ready = threading.Barrier(4)

    def wait() -> Any:
        ready.wait(10)
        return future.get(timeout=10)

    def give() -> Any:
        ready.wait(10)
        future.set("for all")
        return "for all"

    assert run_together([wait, wait, wait, give]) == ["for all"] * 4


# -- the registry


def test_the_registry_knows_living_actors_only(start: Start) -> None:
    ref = start(Echo)
    assert ref in ActorRegistry.get_all()
    assert ActorRegistry.get_by_urn(ref.actor_urn) is ref
    assert ActorRegistry.get_by_class(ref.actor_class) == [ref]
    assert ref in ActorRegistry.get_by_class_name("Echo")
    ref.stop(timeout=5)
    assert ActorRegistry.get_by_urn(ref.actor_urn) is None


def test_the_registry_broadcasts(start: Start, events: queue.SimpleQueue[Any]) -> None:
    ref = start(Recorder, events)
    start(Recorder, events)
    assert [take(events), take(events)] == ["start", "start"]
    ActorRegistry.broadcast("all", target_class=Recorder.__name__)
    assert [take(events), take(events)] == ["all", "all"]
    ActorRegistry.broadcast("some", target_class=ref.actor_class)
    assert take(events) == "some"


def test_the_registry_stops_all_last_started_first(start: Start, events: queue.SimpleQueue[Any]) -> None:
    class Named(Recorder):
        def __init__(self, events: queue.SimpleQueue[Any], name: str) -> None:
            super().__init__(events)
            self.name = name

        def on_start(self) -> None:
            pass

        def on_stop(self) -> None:
            self.events.put(self.name)

    for name in "abc":
        start(Named, events, name)
    assert all(ActorRegistry.stop_all(timeout=5))
    assert [take(events) for _ in range(3)] == ["c", "b", "a"]
