"""What the tests of the actor runtime share: schedulers that are stopped, and the three kinds of actor."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from pfs.actors import Actor, BlockingActor, Scheduler

KINDS = [pykka.ThreadingActor, Actor, BlockingActor]


class FakeClock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """A running scheduler, stopped at the end."""
    made = Scheduler("test-scheduler")
    yield made
    made.stop(5.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def untraced_threads() -> Iterator[None]:
    """Threads that are started in the test are not measured by coverage.

    Python 3.11 spins for ever if two threads that coverage has measured with `concurrency = greenlet` end at the same
    moment: each leaves a pending call, and the tracer of one waits for the other's (seen with gdb in November 2026).
    """
    before = threading.gettrace()
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    threading.settrace(before)  # type: ignore[arg-type]


@pytest.fixture
def tiny_switch_interval(untraced_threads: None) -> Iterator[None]:
    """Threads change as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=KINDS, ids=["pykka", "scheduled", "blocking"])
def kind(request: pytest.FixtureRequest) -> type[pykka.Actor]:
    """Pykka's own class of actors and both of ours."""
    return request.param


@pytest.fixture
def start(scheduler: Scheduler, kind: type[pykka.Actor]) -> Iterator[Callable[..., Any]]:
    """`start(Behaviour, ...)` starts an actor of the kind with the behaviour of a plain class."""
    started: list[pykka.ActorRef[Any]] = []
    before = set(threading.enumerate())

    def start_kind(behaviour: type, *args: Any, **kwargs: Any) -> pykka.ActorRef[Any]:
        actor_class = type(behaviour.__name__, (behaviour, kind), {})
        with scheduler.ambient():
            ref = actor_class.start(*args, **kwargs)
        started.append(ref)
        return ref

    yield start_kind
    for ref in reversed(started):
        ref.stop(timeout=5.0)
    for thread in set(threading.enumerate()) - before:
        thread.join(5.0)
