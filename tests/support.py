"""What tests wait with: every wait ends in the thing waited for, or in an error that says what did not happen.

No helper here sleeps or polls.  A test that needs to know when something has happened lets it set an event or put an
item into a queue, and waits on that.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Takeable(Protocol[T]):
    """`queue.Queue` and `queue.SimpleQueue` alike."""

    def get(self, block: bool = True, timeout: float | None = None) -> T: ...


def wait_for(event: threading.Event, seconds: float = 10, what: str = "the event") -> None:
    """Wait until `event` is set; AssertionError naming `what` after `seconds`."""
    if not event.wait(seconds):
        raise AssertionError(f"{what} did not happen within {seconds} s; {_threads()}")


def take(source: Takeable[T], seconds: float = 10, what: str = "the next item") -> T:
    """The next item of a queue; AssertionError naming `what` after `seconds`."""
    try:
        return source.get(timeout=seconds)
    except queue.Empty:
        raise AssertionError(f"{what} did not come within {seconds} s; {_threads()}") from None


def join(thread: threading.Thread, seconds: float = 10) -> None:
    """Wait for a thread's end; AssertionError if it still runs after `seconds`."""
    thread.join(seconds)
    if thread.is_alive():
        raise AssertionError(f"thread {thread.name!r} still runs after {seconds} s; {_threads()}")


def run_together(functions: Sequence[Callable[[], T]], seconds: float = 60) -> list[T]:
    """Call all functions at once, each in a thread of its own; their results in order.

    All start from one barrier.  If any raised, the first error (by position) is raised again with its traceback;
    AssertionError if one is not finished after `seconds`.
    """
    barrier = threading.Barrier(len(functions))
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def call(position: int, function: Callable[[], T]) -> None:
        try:
            barrier.wait(seconds)
            results[position] = function()
        except BaseException as error:
            errors[position] = error

    threads = [
        threading.Thread(target=call, args=(position, function), name=f"together-{position}", daemon=True)
        for position, function in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread, seconds)
    for position in sorted(errors):
        raise errors[position]
    return [results[position] for position in range(len(functions))]


def run_python(source: str, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python source in a child process, with warnings as errors; its exit status and output.

    For what would harm the test process itself: descriptor limits, forks, process exits.  AssertionError, with the
    output so far, if the child still runs after `seconds`.
    """
    command = [sys.executable, "-W", "error", "-c", source, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(
            f"the child process still ran after {seconds} s; output: {expired.stdout!r} errors: {expired.stderr!r}"
        ) from None


def untraced_environment() -> dict[str, str]:
    """The environment of a child process that is not to be measured for coverage, which makes it much slower."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def _threads() -> str:
    return "threads now: " + ", ".join(sorted(thread.name for thread in threading.enumerate()))
