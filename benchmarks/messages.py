"""Messages and actors beside Pykka's `ThreadingActor`: hops, asks, and how many actors there can be at what price."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pykka

from benchmarks.harness import Case, CaseSet, Measurement, Options, rate
from pfs.actors import Actor, BlockingActor, Scheduler

TIMEOUT = 60.0
ROOT = Path(__file__).parent.parent


class _Ball(Protocol):
    def tell(self, message: Any) -> None: ...


class _Player:
    """Throws the ball back until it has been thrown often enough, then sets the event that came with it."""

    def on_receive(self, message: tuple[int, _Ball, _Ball, threading.Event]) -> None:
        left, me, other, done = message
        if left:
            other.tell((left - 1, other, me, done))
        else:
            done.set()


class _Echo:
    def on_receive(self, message: Any) -> Any:
        return message


class PykkaPlayer(_Player, pykka.ThreadingActor):
    pass


class ScheduledPlayer(_Player, Actor):
    pass


class BlockingPlayer(_Player, BlockingActor):
    pass


class PykkaEcho(_Echo, pykka.ThreadingActor):
    pass


class ScheduledEcho(_Echo, Actor):
    pass


class InlineEcho(_Echo, Actor):
    inline = True


class BlockingEcho(_Echo, BlockingActor):
    pass


def _start(scheduler: Scheduler, actor_class: type[pykka.Actor]) -> pykka.ActorRef[Any]:
    with scheduler.ambient():
        return actor_class.start()


@contextmanager
def _two(scheduler: Scheduler, actor_class: type[pykka.Actor]) -> Iterator[list[pykka.ActorRef[Any]]]:
    refs = [_start(scheduler, actor_class) for _ in range(2)]
    try:
        yield refs
    finally:
        for ref in refs:
            ref.stop(timeout=TIMEOUT)


def _hops(scheduler: Scheduler, actor_class: type[pykka.Actor], most: int) -> Callable[[float], float]:
    """Hops a second of one ball between two actors."""

    def throw(refs: Sequence[pykka.ActorRef[Any]], hops: int) -> None:
        done = threading.Event()
        refs[0].tell((hops, refs[0], refs[1], done))
        if not done.wait(TIMEOUT):
            raise TimeoutError(f"{hops} hops took more than {TIMEOUT:g} seconds")

    def run(seconds: float) -> float:
        with _two(scheduler, actor_class) as refs:
            throw(refs, most // 10)
            return rate(lambda: throw(refs, most), seconds, batch=most)

    return run


def _asks(scheduler: Scheduler, actor_class: type[pykka.Actor]) -> Callable[[float], float]:
    """Round trips a second between a plain thread and an actor."""

    def run(seconds: float) -> float:
        with _two(scheduler, actor_class) as refs:
            ask = refs[0].ask
            return rate(lambda: ask(1, timeout=TIMEOUT), seconds)

    return run


@contextmanager
def _open_hops(options: Options) -> Iterator[Sequence[Case]]:
    scheduler = Scheduler("bench")
    few, many = (200, 2_000) if options.quick else (2_000, 100_000)
    try:
        yield [
            Case("pykka.ThreadingActor", _hops(scheduler, PykkaPlayer, few)),
            Case("BlockingActor", _hops(scheduler, BlockingPlayer, few)),
            Case("Actor", _hops(scheduler, ScheduledPlayer, many), must=1 / 1.5e-6, target="value"),
        ]
    finally:
        scheduler.stop(TIMEOUT)


@contextmanager
def _open_asks(_options: Options) -> Iterator[Sequence[Case]]:
    scheduler = Scheduler("bench")
    try:
        yield [
            Case("pykka.ThreadingActor", _asks(scheduler, PykkaEcho)),
            Case("BlockingActor", _asks(scheduler, BlockingEcho)),
            Case("Actor", _asks(scheduler, ScheduledEcho)),
            Case("Actor, inline", _asks(scheduler, InlineEcho)),
        ]
    finally:
        scheduler.stop(TIMEOUT)


def _resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _crowd(actor_class: type[pykka.Actor], count: int) -> Callable[[float], Measurement]:
    """Actors started a second, with the memory that each takes; in a new process, whose memory nobody has used yet."""
    source = f"from benchmarks import messages; messages.start_crowd(messages.{actor_class.__name__}, {count})"

    def run(_seconds: float) -> Measurement:
        done = subprocess.run(
            [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        seconds, each = json.loads(done.stdout)
        return Measurement(count / seconds, {"actors": count, "seconds": seconds, "bytes each": each})

    return run


def start_crowd(actor_class: type[pykka.Actor], count: int) -> None:
    """What the new process does: prints the seconds taken and the bytes each; the actors end with the process."""
    scheduler = Scheduler("bench")
    refs = [_start(scheduler, actor_class)]
    gc.collect()
    before = _resident()
    begin = time.perf_counter()
    with scheduler.ambient():
        refs.extend(actor_class.start() for _ in range(count))
    seconds = time.perf_counter() - begin
    each = (_resident() - before) / count
    if refs[-1].ask("alive", timeout=TIMEOUT) != "alive":
        raise AssertionError("the last actor does not answer")
    print(json.dumps([seconds, each]), flush=True)
    os._exit(0)


@contextmanager
def _open_crowds(options: Options) -> Iterator[Sequence[Case]]:
    few, many = (20, 200) if options.quick else (1_000, 100_000)
    yield [
        Case(f"pykka.ThreadingActor, {few:,}", _crowd(PykkaEcho, few)),
        Case(f"BlockingActor, {few:,}", _crowd(BlockingEcho, few)),
        Case(f"Actor, {many:,}", _crowd(ScheduledEcho, many), must=20_000, target="value"),
    ]


SETS = [
    CaseSet(
        "hops",
        "Message hops: two actors that throw one ball",
        _open_hops,
        unit="hops/s",
        reference="pykka.ThreadingActor",
        note="Each hop wakes an actor that is idle.  To reach: 1.5 us a hop.",
    ),
    CaseSet(
        "asks",
        "Asks of a plain thread: one round trip after the other",
        _open_asks,
        unit="asks/s",
        reference="pykka.ThreadingActor",
        note="An inline actor's handler runs on the asking thread, without a thread switch.",
    ),
    CaseSet(
        "crowd",
        "Live actors: started a second, and what each costs",
        _open_crowds,
        unit="actors/s",
        note="To reach: 100,000 live actors in under 5 s at 4 KB each at most.  "
        "A ThreadingActor is a thread, whose stack counts here only as far as it was touched.",
    ),
]
