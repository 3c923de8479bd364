"""`SimulatedScheduler`: the same actors, one thread, a seeded choice at every step, and virtual time.

At each step one of the things that could happen next is chosen with a random source made from the seed: a turn of a
mailbox that has messages, the completion of a file call that a blocking actor or process is in, or, now and then, the
next timer.  When nothing else can happen the clock jumps to the next timer; when there is none either and somebody
still waits for a reply, that is a deadlock, reported with who waits for whom (`DeadlockFound`).  A run is a function
of its seed: `trace_hash` says so.

A blocking actor runs here as a coroutine (a greenlet).  Every file call on a `SimulatedFileSystem` that is made with
`on_operation=scheduler.file_call` is a scheduling point: the coroutine is set aside and goes on at a later step, so
that other actors run and messages arrive during the call.  `spawn` runs a test's own function in the same way: it may
use waiting calls as a plain thread does.

The ideas are those of FoundationDB's and TigerBeetle's simulators.
"""

from __future__ import annotations

import _thread
import hashlib
import random
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import greenlet

from pfs.actors import lifecycle
from pfs.actors.reference import Ref
from pfs.actors.runtime import Runtime, handler_threads
from pfs.actors.waiting import Waiter
from pfs.errors import DeadlockFound, Timeout

if TYPE_CHECKING:
    from pfs.actors.blocking import BlockingActor

STEP = 1e-6
"""Virtual seconds that a step takes."""

TIMER_ODDS = 64
"""One step in so many fires the next timer although other things could happen."""


class _Coroutine:
    """A blocking actor's batch, or a process of the test, that may be set aside."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.greenlet = greenlet.greenlet(body)
        self.ready: Callable[[], bool] | None = None
        """What it waits for, None if it may go on at any step."""
        self.waits_for = "its turn"


class SimulatedScheduler(Runtime):
    """A scheduler whose every run is a function of `seed` (see the module)."""

    def __init__(self, seed: int, *, budget: int = 64) -> None:
        self._now = 0.0
        super().__init__(f"simulation-{seed}", lambda: self._now, budget)
        self.seed = seed
        self.random = random.Random(seed)
        self.steps = 0
        self._most_messages = budget
        self._hash = hashlib.blake2b(digest_size=16)
        self._coroutines: list[_Coroutine] = []
        self._busy: dict[Ref[Any], _Coroutine] = {}
        self._current: _Coroutine | None = None
        self._hub: greenlet.greenlet | None = None
        self._tracers: list[Callable[[Ref[Any], Any], None]] = []
        self.trace = self._note_message

    # -- the trace

    def trace_hash(self) -> str:
        """Equal for two runs that did the same in the same order."""
        return self._hash.hexdigest()

    def note(self, what: str) -> None:
        """Add something that happened to the trace."""
        self._hash.update(what.encode())
        self._hash.update(b"\n")

    def add_tracer(self, tracer: Callable[[Ref[Any], Any], None]) -> None:
        """Have `tracer(ref, message)` called with each message that is handled."""
        self._tracers.append(tracer)

    def _note_message(self, ref: Ref[Any], message: Any) -> None:
        self.note(f"{ref.label} {type(message).__name__}")
        for tracer in self._tracers:
            tracer(ref, message)

    # -- steps

    def run(self, until: Callable[[], bool] | None = None, max_steps: int = 1_000_000) -> int:
        """Take steps until `until()` is true or nothing can happen any more; returns their number.

        `DeadlockFound` if nothing can happen and `until` is given and false, or somebody still waits.
        """
        first = self.steps
        while until is None or not until():
            if not self.step():
                waiting = self.who_waits()
                if until is not None or waiting:
                    raise DeadlockFound(self._deadlock("the run is not finished", waiting))
                break
            if self.steps - first >= max_steps:
                raise DeadlockFound(f"seed {self.seed}: no end after {max_steps} steps")
        return self.steps - first

    def step(self) -> bool:
        """Do one of the things that can happen; returns False if there is none."""
        resumable = [each for each in self._coroutines if each.ready is None or each.ready()]
        mailboxes = len(self.inline_queue) + len(self.own_queue)
        choices = mailboxes + len(resumable)
        timers = len(self.timers)
        if not choices and not timers:
            return False
        self.steps += 1
        self._now += STEP
        if not choices or (timers and self.random.randrange(TIMER_ODDS) == 0):
            self._now = max(self._now, self.timers.next_due)
        if self.timers.next_due <= self._now:
            self.fire_timers(self._now)
            return True
        if not choices:
            return True
        choice = self.random.randrange(choices)
        with self.ambient():
            if choice < mailboxes:
                self._mailbox_turn(choice)
            else:
                self._resume(resumable[choice - mailboxes])
        return True

    def _mailbox_turn(self, choice: int) -> None:
        run_queue = self.inline_queue
        if choice >= len(run_queue):
            choice -= len(run_queue)
            run_queue = self.own_queue
        ref = run_queue[choice]
        del run_queue[choice]
        self.turns += 1
        if getattr(ref._actor, "blocking", False):
            self._blocking_turn(ref)
            return
        self.budget = self.random.choice((1, 1, 2, 8, self._most_messages))
        ident = _thread.get_ident()
        handler_threads[ident] = self
        try:
            self.turn(ref)
        finally:
            del handler_threads[ident]

    def _blocking_turn(self, ref: Ref[Any]) -> None:
        ref.queued = False
        if ref in self._busy:
            return  # it looks at its mailbox when its batch is done
        batch = list(ref.items)
        ref.items.clear()
        if not batch:
            return
        actor: BlockingActor = ref._actor  # type: ignore[assignment]

        def body() -> None:
            for message in batch:
                self._note_message(ref, message)
            try:
                actor.handle_batch(batch)
            finally:
                ref.reductions += len(batch)
                del self._busy[ref]
                if ref.items and ref.is_alive():
                    ref.post_again()
                elif ref.items:
                    lifecycle.drain(ref)

        coroutine = _Coroutine(ref.label, body)
        self._busy[ref] = coroutine
        self._coroutines.append(coroutine)

    def _resume(self, coroutine: _Coroutine) -> None:
        self.note(f"resume {coroutine.name}")
        before, self._current = self._current, coroutine
        outer, self._hub = self._hub, greenlet.getcurrent()
        coroutine.greenlet.parent = self._hub
        coroutine.ready = None
        try:
            coroutine.greenlet.switch()
        finally:
            self._current, self._hub = before, outer
            if coroutine.greenlet.dead:
                self._coroutines.remove(coroutine)

    def _set_aside(self, ready: Callable[[], bool] | None, waits_for: str) -> None:
        """Leave the current coroutine; comes back at a later step, when `ready()`."""
        coroutine = self._current
        assert coroutine is not None
        assert self._hub is not None
        coroutine.ready = ready
        coroutine.waits_for = waits_for
        self._hub.switch()
        coroutine.waits_for = "its turn"

    # -- scheduling points

    def file_call(self, operation: Any) -> None:
        """The hook for `SimulatedFileSystem(on_operation=...)`: a coroutine is set aside before its file call."""
        if self._in_coroutine():
            self._set_aside(None, f"the end of {operation}")
        self.note(f"file {operation}")

    def _in_coroutine(self) -> bool:
        return self._current is not None and greenlet.getcurrent() is self._current.greenlet

    def wait_until(self, ready: Callable[[], bool], waits_for: str) -> None:
        """Wait, as a coroutine or as the test itself, until something is true."""
        if ready():
            return
        if self._in_coroutine():
            self._set_aside(ready, waits_for)
            return
        self.refuse_in_handler(waits_for)
        while not ready():
            if not self.step():
                raise DeadlockFound(self._deadlock(waits_for, self.who_waits()))

    def spawn(self, function: Callable[[], None], name: str = "process") -> Callable[[], bool]:
        """Run a function as a process of the simulation, like a plain thread; returns whether it has ended."""
        coroutine = _Coroutine(name, function)
        self._coroutines.append(coroutine)
        return lambda: bool(coroutine.greenlet.dead)

    # -- what Runtime leaves open

    def wake(self) -> None:
        pass  # the test takes the steps

    def wait(self, waiter: Waiter, timeout: float | None, what_times_out: Callable[[], str]) -> None:
        if timeout is None:
            self.wait_until(lambda: waiter.done, waiter.describe())
            return
        deadline = self._now + timeout
        wake_up = self.send_after(timeout, _Nobody(), None)  # so that the clock reaches the deadline
        self.wait_until(lambda: waiter.done or self._now >= deadline, waiter.describe())
        wake_up.cancel()
        if not waiter.done:
            raise Timeout(f"{what_times_out()} within {timeout:g} seconds")

    def refuse_in_handler(self, what: str) -> None:
        if not self._in_coroutine():
            super().refuse_in_handler(what)

    def make_blocking_ref(self, actor: BlockingActor) -> Ref[Any]:
        return Ref(actor, self, self.own_queue)

    def launch_blocking(self, actor: BlockingActor) -> None:
        pass  # its mailbox is in the run queue when it has messages

    def may_run_here(self, inline: bool) -> bool:
        return True

    # -- the end

    def who_waits(self) -> list[str]:
        """Everything that waits for something, one line each."""
        lines = [f"{each.name} waits for {each.waits_for}" for each in self._coroutines]
        lines += [f"{ref.label} has {len(ref.items)} messages" for ref in self._with_messages()]
        return lines

    def _with_messages(self) -> Iterable[Ref[Any]]:
        return [ref for ref in self.living.values() if isinstance(ref, Ref) and ref.items]

    def _deadlock(self, what: str, waiting: list[str]) -> str:
        return f"seed {self.seed}, step {self.steps}: nothing can happen; {what}; " + "; ".join(waiting)

    def stop(self, timeout: float = 10.0) -> None:
        """Stop all actors, the last started first."""
        if self.stopped:
            return
        self.stop_actors(self._now + timeout)
        self.stopped = True

    def abandon(self) -> None:
        """End everything where it stands, as a crash would: no actor's code runs any more, except `finally` blocks."""
        for ref in list(self.living.values()):
            ref.kill()
        for coroutine in list(self._coroutines):
            if coroutine.greenlet:
                coroutine.greenlet.throw()
        self._coroutines.clear()
        self.inline_queue.clear()
        self.own_queue.clear()
        self.stopped = True

    def condition(self) -> SimulatedCondition:
        """The lock for code that waits under this scheduler (`SimulatedFileSystem(condition=...)`)."""
        return SimulatedCondition(self)


class _Nobody:
    """Where the messages go that only move the clock."""

    def tell(self, message: Any) -> None:
        pass

    def is_alive(self) -> bool:
        return True


class SimulatedCondition:
    """`threading.Condition` among the coroutines of one simulation; re-entrant as that one is."""

    def __init__(self, scheduler: SimulatedScheduler) -> None:
        self._scheduler = scheduler
        self._owner: object | None = None
        self._depth = 0
        self._waiting: list[list[bool]] = []

    def __enter__(self) -> bool:
        me = greenlet.getcurrent()
        if self._owner is not me:
            self._scheduler.wait_until(lambda: self._owner is None, "a lock")
            self._owner = me
        self._depth += 1
        return True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        assert self._owner is greenlet.getcurrent()
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = self._scheduler
        assert self._owner is greenlet.getcurrent()
        depth, self._depth, self._owner = self._depth, 0, None
        told = [False]
        self._waiting.append(told)
        deadline = None if timeout is None else scheduler.now() + timeout
        if timeout is not None:
            scheduler.send_after(timeout, _Nobody(), None)
        scheduler.wait_until(
            lambda: self._owner is None and (told[0] or (deadline is not None and scheduler.now() >= deadline)),
            "a condition",
        )
        if told in self._waiting:
            self._waiting.remove(told)
        self._owner, self._depth = greenlet.getcurrent(), depth
        return told[0]

    def notify(self, n: int = 1) -> None:
        for told in self._waiting[:n]:
            told[0] = True
        del self._waiting[:n]

    def notify_all(self) -> None:
        self.notify(len(self._waiting))
