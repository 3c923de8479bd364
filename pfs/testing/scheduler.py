"""`SimulatedScheduler`: the same actors, one thread, a seeded choice at every step, and virtual time.

At each step one of the things that could happen next is chosen with a random source made from the seed: a turn of a
mailbox that has messages, or the completion of a file call that a blocking actor or process is in.  Some actors, as
the seed will have it, are slow, and so are some disks.  A step takes a microsecond of virtual time, and now and then,
while timers are pending, the clock leaps ahead by up to a second, as if everybody had been slow; timers that are due
by then fire.  When nothing else can happen the clock jumps to the next timer; when there is none either and somebody
still waits for a reply, that is a deadlock, reported with who waits for whom (`DeadlockFound`).  A run is a function
of its seed: `trace_hash` says so.

A blocking actor runs here as a coroutine (a greenlet).  Every file call on a `SimulatedFileSystem` that is made with
`on_operation=scheduler.file_call` is a scheduling point: the coroutine is set aside and goes on at a later step, so
that other actors run and messages arrive during the call.  `spawn` runs a test's own function in the same way: it may
use waiting calls as a plain thread does.

What holds for every step: no step begins inside another; a handler of a scheduled actor is never set aside; a
coroutine is set aside only in a file call, a wait for a reply, or a wait for a lock or condition.

The ideas are those of FoundationDB's and TigerBeetle's simulators.
"""

from __future__ import annotations

import _thread
import hashlib
import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import greenlet
from pykka._envelope import Envelope

from pfs.actors import lifecycle
from pfs.actors.reference import Ref, RefBase
from pfs.actors.runtime import Runtime, ambient, handler_threads
from pfs.actors.waiting import Waiter, answer_ended
from pfs.errors import CallInHandler, DeadlockFound, Timeout
from pfs.testing.condition import SimulatedCondition

if TYPE_CHECKING:
    from pfs.actors.blocking import BlockingActor

STEP = 1e-6
"""Virtual seconds that a step takes."""

LEAP_ODDS = 64
"""While timers are pending, the clock leaps ahead in one step of so many."""

LEAPS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Virtual seconds that the clock may leap: so much slower than the rest an actor or a disk may be."""

PACES = (1.0, 1.0, 1.0, 0.25, 0.03)
"""How willingly an actor, its file calls, or a process goes on when chosen; drawn once for each in a run."""

TRIES = 16
"""How often it is chosen anew, at most, because those chosen were slow."""


class _Coroutine:
    """A blocking actor's batch, or a process of the test, that may be set aside."""

    def __init__(self, name: str, body: Callable[[], None], batch: Iterable[Any] = ()) -> None:
        self.name = name
        self.greenlet = greenlet.greenlet(body)
        self.ready: Callable[[], bool] | None = None
        """What it waits for, None if it may go on at any step."""
        self.waits_for: Callable[[], str] = _its_turn
        self.batch = tuple(batch)
        """The messages that a blocking actor is handling."""

    def __str__(self) -> str:
        return self.name


def _its_turn() -> str:
    return "its turn"


class SimulatedScheduler(Runtime):
    """A scheduler whose every run is a function of `seed` (see the module).

    `budget` is the most messages that one actor handles in a turn; the seed chooses smaller ones too.
    """

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
        self._paces: dict[object, float] = {}
        self._stepping = False
        self._abandoned = False
        self._tracers: list[Callable[[Ref[Any], Any], None]] = []
        self.trace = self._note_message

    # -- the trace

    def trace_hash(self) -> str:
        """Equal for two runs that did the same in the same order."""
        return self._hash.hexdigest()

    def note(self, what: str) -> None:
        """Add something that happened to the trace.  It must be the same in every replay: no `id()`, no URN."""
        self._hash.update(f"{what}\n".encode())

    def add_tracer(self, tracer: Callable[[Ref[Any], Any], None]) -> None:
        """Have `tracer(ref, message)` called with each message just before it is handled.

        It runs inside the actor's turn: what it raises is taken for the actor's own failure.
        """
        self._tracers.append(tracer)

    def _note_message(self, ref: Ref[Any], message: Any) -> None:
        self.note(f"{ref.label} {type(message).__name__}")
        for tracer in self._tracers:
            tracer(ref, message)

    # -- steps

    def run(self, until: Callable[[], bool] | None = None, max_steps: int = 1_000_000) -> int:
        """Take steps until `until()` is true or nothing can happen any more; returns their number.

        `DeadlockFound` if nothing can happen and `until` is given and false, or somebody still waits; also after
        `max_steps` steps.
        """
        first = self.steps
        while until is None or not until():
            if not self.step():
                waiting = self.who_waits()
                if until is not None or waiting:
                    raise DeadlockFound(self._deadlock("the run is not finished"))
                break
            if self.steps - first >= max_steps:
                raise DeadlockFound(
                    f"seed {self.seed}: no end after {max_steps} steps; " + ("; ".join(self.who_waits()))
                )
        return self.steps - first

    def step(self) -> bool:
        """Do one of the things that can happen; returns False if there is none.

        What a process raises comes out here, and so does an interrupt (Ctrl-C) that struck in a handler.
        """
        if self._stepping:
            raise CallInHandler("a step of the simulation was asked for inside a step")
        self._stepping = True
        before, ambient.runtime = ambient.runtime, self
        try:
            return self._step()
        finally:
            ambient.runtime = before
            self._stepping = False
            if self._serious:
                raise self._serious.popitem()[1]

    def _step(self) -> bool:
        resumable = [each for each in self._coroutines if each.ready is None or each.ready()]
        mailboxes = len(self.inline_queue) + len(self.own_queue)
        choices = mailboxes + len(resumable)
        timers = self.timers
        if not choices:
            return self._jump()
        self.steps += 1
        self._now += STEP
        if timers.next_due != math.inf:
            if self.random.randrange(LEAP_ODDS) == 0:
                self._now += self.random.choice(LEAPS)
            if timers.next_due <= self._now:
                self.fire_timers(self._now)
                return True
        choice = self._choose(mailboxes, resumable)
        if choice < mailboxes:
            self._mailbox_turn(choice)
        else:
            self._resume(resumable[choice - mailboxes])
        return True

    def _choose(self, mailboxes: int, resumable: list[_Coroutine]) -> int:
        """One of the things that can happen: those of slow actors more seldom, or late messages would be too rare."""
        choices = mailboxes + len(resumable)
        inline, paces, chance = len(self.inline_queue), self._paces, self.random.random
        choice = 0
        for _ in range(TRIES if choices > 1 else 0):
            choice = int(chance() * choices)
            if choice < inline:
                who: object = self.inline_queue[choice].number
            elif choice < mailboxes:
                who = self.own_queue[choice - inline].number
            else:
                who = resumable[choice - mailboxes].name
            pace = paces.get(who)
            if pace is None:
                pace = paces[who] = self.random.choice(PACES)
            if pace == 1.0 or chance() < pace:
                break
        return choice

    def _jump(self) -> bool:
        """Go ahead to the next timer; returns False if there is none."""
        due = self.timers.next_due <= self._now
        self.fire_timers(self._now)  # also throws out the cancelled ones that come first
        if due:
            return True
        if self.timers.next_due == math.inf:
            return False
        self.steps += 1
        self._now = max(self._now, self.timers.next_due)
        self.fire_timers(self._now)
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
        if ref in self._busy or not ref.items:
            return  # if it is busy it looks at its mailbox when its batch is done
        actor: BlockingActor = ref._actor  # type: ignore[assignment]
        # A thread may wake at the first message, or so late that all have come.
        n = self.random.choice((1, len(ref.items), len(ref.items)))
        batch = [ref.items.popleft() for _ in range(min(n, actor.most_in_batch))]

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
            reason = ref.exit_reason
            if reason is not None and lifecycle.is_serious(reason) and not isinstance(reason, greenlet.GreenletExit):
                raise reason  # an interrupt is for whoever runs the simulation

        coroutine = _Coroutine(ref.label, body, batch)
        self._busy[ref] = coroutine
        self._coroutines.append(coroutine)

    def _resume(self, coroutine: _Coroutine) -> None:
        self.note(f"resume {coroutine.name}")
        self._current = coroutine
        self._hub = greenlet.getcurrent()
        coroutine.greenlet.parent = self._hub
        coroutine.ready = None
        try:
            coroutine.greenlet.switch()
        finally:
            self._current = self._hub = None
            if coroutine.greenlet.dead:
                self._coroutines.remove(coroutine)

    def _set_aside(self, ready: Callable[[], bool] | None, waits_for: Callable[[], str]) -> None:
        """Leave the current coroutine; comes back at a later step, when `ready()`."""
        coroutine = self._current
        assert coroutine is not None
        assert self._hub is not None
        coroutine.ready = ready
        coroutine.waits_for = waits_for
        self._hub.switch()
        coroutine.waits_for = _its_turn

    # -- scheduling points

    def file_call(self, operation: object) -> None:
        """The hook for `SimulatedFileSystem(on_operation=...)`: a coroutine is set aside before its file call."""
        if self._in_coroutine():
            self._set_aside(None, lambda: f"the end of {operation}")
        self.note(f"file {operation}")

    def _in_coroutine(self) -> bool:
        return self._current is not None and greenlet.getcurrent() is self._current.greenlet

    def who_runs(self) -> object:
        """What runs at this moment, for locks: a coroutine, "a handler" of a scheduled actor, or "the test"."""
        if self._in_coroutine():
            return self._current
        return "a handler" if _thread.get_ident() in handler_threads else "the test"

    def wait_until(self, ready: Callable[[], bool], waits_for: Callable[[], str]) -> None:
        """Wait, as a coroutine or as the test itself, until something is true; `waits_for()` says what."""
        if ready():
            return
        if self._in_coroutine():
            self._set_aside(ready, waits_for)
            return
        self.refuse_in_handler(waits_for())
        if self._abandoned:
            raise greenlet.GreenletExit
        while not ready():
            if not self.step():
                raise DeadlockFound(self._deadlock(f"the test waits for {waits_for()}"))

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
            self.wait_until(lambda: waiter.done, waiter.describe)
            return
        if not self.wait_at_most(timeout, lambda: waiter.done, waiter.describe):
            raise Timeout(f"{what_times_out()} within {timeout:g} seconds")

    def wait_at_most(self, timeout: float, ready: Callable[[], bool], waits_for: Callable[[], str]) -> bool:
        """Wait until something is true, at most so many seconds; returns whether it is."""
        deadline = self._now + timeout
        wake_up = self.send_after(timeout, _Nobody(), None)  # so that the clock reaches the deadline
        try:
            self.wait_until(lambda: ready() or self._now >= deadline, waits_for)
        finally:
            wake_up.cancel()
        return ready()

    def refuse_in_handler(self, what: str) -> None:
        if not self._in_coroutine():
            super().refuse_in_handler(what)

    def make_blocking_ref(self, actor: BlockingActor) -> Ref[Any]:
        return Ref(actor, self, self.own_queue)

    def launch_blocking(self, actor: BlockingActor) -> None:
        pass  # its mailbox is in the run queue when it has messages

    def new_id(self) -> int:
        return self.random.getrandbits(64)

    def may_run_here(self, inline: bool) -> bool:
        return True

    def kill(self, ref: RefBase[Any]) -> None:
        super().kill(ref)
        busy = self._busy.get(ref)  # type: ignore[call-overload]
        for message in busy.batch if busy is not None else ():
            if type(message) is Envelope and message.reply_to is not None:
                answer_ended(message, ref)  # it may be held up in its handler for ever; no effect if it has answered

    # -- the end

    def who_waits(self) -> list[str]:
        """Everything that waits for something, one line each."""
        lines = [f"{each.name} waits for {each.waits_for()}" for each in self._coroutines]
        lines += [f"{ref.label} has {len(ref.items)} messages" for ref in self._with_messages()]
        return lines

    def _with_messages(self) -> Iterable[Ref[Any]]:
        return [ref for ref in self.living.values() if isinstance(ref, Ref) and ref.items]

    def _deadlock(self, what: str) -> str:
        return "; ".join([f"seed {self.seed}, step {self.steps}: nothing can happen; {what}", *self.who_waits()])

    def stop(self, timeout: float = 10.0) -> None:
        """Stop all actors, the last started first, and wait for the file calls that they are in."""
        if self.stopped:
            return
        deadline = self._now + timeout
        self.stop_actors(deadline)
        left = max(deadline - self._now, STEP)
        self.wait_at_most(left, lambda: not self._busy, lambda: "the blocking actors' last calls")
        self.stopped = True

    def abandon(self) -> None:
        """End everything where it stands, as a crash would: no actor's code runs any more, except `finally` blocks.

        Those may still make file calls, so take the disk's crash image before.
        """
        self._abandoned = True
        for ref in list(self.living.values()):
            ref.kill()
        for coroutine in list(self._coroutines):
            if coroutine.greenlet:
                coroutine.greenlet.parent = greenlet.getcurrent()
                coroutine.greenlet.throw()
        self._coroutines.clear()
        self._busy.clear()
        self.inline_queue.clear()
        self.own_queue.clear()
        self.stopped = True

    @property
    def abandoned(self) -> bool:
        """Whether `abandon` was called."""
        return self._abandoned

    def condition(self) -> SimulatedCondition:
        """The lock for code that waits under this scheduler (`SimulatedFileSystem(condition=...)`)."""
        return SimulatedCondition(self)


class _Nobody:
    """Where the messages go that only move the clock."""

    def tell(self, message: object) -> None:
        pass

    def is_alive(self) -> bool:
        return True
