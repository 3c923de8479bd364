"""`Scheduler`: scheduled actors on one thread, which waiting threads may spare.

The scheduler has a thread of its own.  It takes turns from `inline_queue` (pfs's own actors) under the *drive lock*,
and from `own_queue` (users' actors) without it, and sleeps when both are empty.

**Inline driving.**  A plain thread that waits for a reply (`wait`) tries to take the drive lock; if nobody has it, the
thread takes turns from `inline_queue` itself until its reply is there.  An idle system thus answers a call with no
thread switch at all (this is flat combining; Hendler and others, 2010).  If another thread drives, that thread handles
this caller's message too, and the caller sleeps on its reply.  Rules:

* Only actors with `inline = True` run on a borrowed thread.  Users' actors run on the scheduler's thread, outside the
  drive lock, so that a handler that wants a lock which a caller holds delays only users' actors, never the caller.
* A driver looks at its deadline, at due timers, at pending signals and at work for the scheduler's thread after every
  turn.  On leaving it works off a few turns more (the credits that follow a reply) and hands what remains to the
  scheduler's thread.
* The scheduler's thread never waits for the drive lock: while somebody drives, it serves users' actors.
* A caller that sleeps looks after `SLICE` seconds whether there is work that nobody drives, and then after twice as
  long each time, up to `LONGEST_SLICE`: the scheduler's thread may be held up in a user's handler.  This is a safety
  net for a broken rule (handlers do not block), not the way that replies arrive.

**Why the scheduler's thread does not sleep through work.**  `needs_wake` is true only while that thread is parked
(asleep, or about to be and having looked at the queues after setting it) and nobody drives.

* A sender puts its mailbox into a queue first and reads `needs_wake` second.  The thread says that it is parked and
  raises `needs_wake` first, and looks at the queues second.  Under the interpreter's lock one of the two sees the
  other.
* The thread raises `needs_wake` only with the drive lock in its hand.  If it cannot have it, somebody drives, and
  whoever drives lowers `needs_wake` when it begins and acts for the thread: after each turn it looks at `own_queue`,
  and after giving the lock back it reads whether the thread is parked, raises `needs_wake`, and looks at both queues.
* Whoever wakes the thread lowers both flags first and puts a token second; the thread looks at the queues after each
  token.  A superfluous token only makes it look once more.

Timers are the same with `next_due` for the queue and the time that the thread sleeps until for the flag.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from pfs.actors import interrupts
from pfs.actors.runtime import Runtime, ambient, set_default_factory
from pfs.actors.waiting import Waiter, handler_threads
from pfs.errors import SystemForked, SystemStopped, Timeout

if TYPE_CHECKING:
    from pfs.actors.blocking import BlockingActor
    from pfs.actors.reference import Ref, RefBase

logger = logging.getLogger("pfs.actors")

SLICE = 0.01
"""Seconds to a sleeping caller's first look for work that nobody drives."""

LONGEST_SLICE = 0.16
"""The most seconds between two such looks: many callers that wait for a slow disk must not keep each other awake."""

CLEAN_UP_TURNS = 16
"""Turns that a driver takes for others, at most, after its own reply has come."""

BATCH = 256
"""Turns that the scheduler's thread takes from one of its queues before it looks at the other."""

LAST_SECONDS = 0.5
"""Seconds that `stop` gives each thread to end when no time is left."""

AT_EXIT = 2.0
"""Seconds that a scheduler which nobody stopped gets at the interpreter's exit."""

_main_thread = threading.main_thread().ident
_all: weakref.WeakSet[Scheduler] = weakref.WeakSet()


class Scheduler(Runtime):
    """A running scheduler; `stop` ends its actors and its thread.

    `name` names the thread; `clock` gives seconds and never goes back; `budget` is the most messages that one actor
    handles in a turn.
    """

    def __init__(
        self, name: str = "pfs-scheduler", *, clock: Callable[[], float] = time.monotonic, budget: int = 64
    ) -> None:
        super().__init__(name, clock, budget)
        self._lock = _thread.allocate_lock()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._parked = False
        self._alarm = math.inf
        self._stopping = False
        self._stop_lock = _thread.allocate_lock()
        self._forked = False
        self._blocking_threads: set[threading.Thread] = set()
        self._defers_signals = interrupts.install(self._look_again)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _all.add(self)

    def __repr__(self) -> str:
        return f"<Scheduler {self.name}: {len(self.living)} actors>"

    # -- the scheduler's own thread

    def _run(self) -> None:
        ident = _thread.get_ident()
        handler_threads[ident] = self
        inline_queue, own_queue, lock = self.inline_queue, self.own_queue, self._lock
        try:
            while not self._stopping:
                self._parked = self.needs_wake = False
                try:
                    if inline_queue and lock.acquire(False):
                        try:
                            self._take_turns(inline_queue, BATCH)
                        finally:
                            lock.release()
                    self._take_turns(own_queue, BATCH)
                except Exception:  # not an actor's, whose exceptions stay in `turn`
                    logger.critical("%s goes on after a failure of its own:", self.name, exc_info=True)
                if not own_queue and not (inline_queue and not lock.locked()):
                    self._park()
        finally:
            del handler_threads[ident]

    def _take_turns(self, run_queue: Any, most: int) -> None:
        turn, popleft = self.turn, run_queue.popleft
        while run_queue and most:
            most -= 1
            turn(popleft())
            self.turns += 1
        if self._serious:  # an interrupt here is the actor's own: no thread drove on somebody's behalf
            self._serious.pop(_thread.get_ident(), None)
        now = self.clock()
        if now >= self.timers.next_due:
            self.fire_timers(now)

    def _park(self) -> None:
        self._parked = True
        if self._lock.acquire(False):
            self.needs_wake = True
            self._lock.release()
        self._alarm = due = self.timers.next_due
        if self.own_queue or self._stopping or (self.inline_queue and not self._lock.locked()):
            return
        if self.timers.next_due < due:  # set by somebody who read the last alarm
            return
        try:
            if due == math.inf:
                self._wakeups.get()
            else:
                self._wakeups.get(timeout=min(max(due - self.clock(), 0.0), threading.TIMEOUT_MAX))
        except queue.Empty:
            pass

    def wake(self) -> None:
        """Wake the scheduler's thread.  `SystemForked` in a forked child, where that thread does not exist."""
        if self._forked:
            raise SystemForked(_forked_message(self.name))
        self._parked = self.needs_wake = False
        self._wakeups.put(None)

    def _look_again(self) -> None:
        """Called after a signal: it may have struck a sender before it came to `wake`."""
        if self._parked and (self.inline_queue or self.own_queue) and not self._forked:
            self.wake()

    # -- callers

    def wait(self, waiter: Waiter, timeout: float | None, what_times_out: Callable[[], str]) -> None:
        ident = _thread.get_ident()
        if ident in handler_threads:
            self.refuse_in_handler("waiting for a reply")
        if self._forked:
            raise SystemForked(_forked_message(self.name))
        deadline = math.inf if timeout is None else self.clock() + timeout
        pause = SLICE
        while True:
            if self.inline_queue and self._drive(waiter, deadline, ident):
                return
            if waiter.done:
                return
            left = deadline - self.clock()
            if left <= 0.0:
                raise Timeout(f"{what_times_out()} within {timeout:g} seconds")
            if self.stopped:
                if waiter.sleep(SLICE):
                    return
                raise SystemStopped(f"{what_times_out()}: {self.name} is stopped")
            if waiter.sleep(min(pause, left)):
                return
            pause = min(2 * pause, LONGEST_SLICE)

    def _drive(self, waiter: Waiter, deadline: float, ident: int) -> bool:
        """Take turns on this thread until the waiter is finished, if nobody else drives; returns whether it is."""
        main = ident == _main_thread and interrupts.deferring
        chosen = ambient.runtime
        try:
            if chosen is not None:
                ambient.runtime = None  # what this thread chose is not what its actors choose
            if main:
                interrupts.start_driving()
            if not self._lock.acquire(False):
                return waiter.done
            try:
                self.needs_wake = False
                handler_threads[ident] = self
                self._turns_until(waiter, deadline, main, ident)
            finally:
                handler_threads.pop(ident, None)
                self._lock.release()
                if self._parked:
                    self.needs_wake = True
                    if self.inline_queue or self.own_queue or self.timers.next_due < self._alarm:
                        self.wake()
        finally:
            if chosen is not None:
                ambient.runtime = chosen
            if main:
                interrupts.stop_driving()
        if self._serious:
            serious = self._serious.pop(ident, None)
            if serious is not None:
                raise serious
        return waiter.done

    def _turns_until(self, waiter: Waiter, deadline: float, main: bool, ident: int) -> None:
        inline_queue, own_queue, serious = self.inline_queue, self.own_queue, self._serious
        popleft, turn, clock = inline_queue.popleft, self.turn, self.clock
        ref: Ref[Any] | None = None
        turns = 0
        extra = CLEAN_UP_TURNS
        try:
            while inline_queue:
                if waiter.done:
                    extra -= 1
                    if not extra:
                        break
                ref = popleft()
                turn(ref)
                ref = None
                turns += 1
                now = clock()
                if now >= self.timers.next_due:
                    self.fire_timers(now)
                if own_queue and self._parked:
                    self.wake()
                if now >= deadline or (serious and ident in serious) or (main and interrupts.pending()):
                    break
        finally:
            self.turns += turns
            if ref is not None:
                inline_queue.append(ref)  # something struck between taking the mailbox and its turn

    # -- blocking actors

    def make_blocking_ref(self, actor: BlockingActor) -> RefBase[Any]:
        from pfs.actors.blocking import BlockingRef

        return BlockingRef(actor, self)

    def launch_blocking(self, actor: BlockingActor) -> None:
        thread = threading.Thread(target=self._run_blocking, args=(actor,), name=actor._actor_ref.label, daemon=True)
        self._blocking_threads.add(thread)
        thread.start()

    def _run_blocking(self, actor: BlockingActor) -> None:
        try:
            actor._actor_loop()
        finally:
            self._blocking_threads.discard(threading.current_thread())

    def new_id(self) -> int:
        return int.from_bytes(os.urandom(8), "big")

    def may_run_here(self, inline: bool) -> bool:
        return inline or _thread.get_ident() == self._thread.ident

    # -- the end

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the actors, the last started first, then the thread.

        Each actor handles what it was sent before; one that has not stopped after `timeout` seconds in all is killed
        and logged.  A second call does nothing.
        """
        self.refuse_in_handler("Scheduler.stop()")
        with self._stop_lock:  # a second caller finds the work done
            if self.stopped:
                return
            deadline = self.clock() + timeout
            self.stop_actors(deadline)
            self.stopped = True
            for ref in list(self.living.values()):  # started at the last moment
                self.kill(ref)
            self._stopping = True
            self._wakeups.put(None)
            _all.discard(self)
            if self._defers_signals:
                interrupts.uninstall(self._look_again)
            for thread in [self._thread, *self._blocking_threads]:
                thread.join(max(deadline - self.clock(), LAST_SECONDS))
                if thread.is_alive():
                    logger.error("the thread %s is held up in an actor's handler and is left behind", thread.name)
            self._drain_late()

    def _drain_late(self) -> None:
        """Answer those who asked at the last moment."""
        for run_queue in (self.inline_queue, self.own_queue):
            while run_queue:
                self.turn(run_queue.popleft())

    def refuse_to_start(self, what: str) -> NoReturn:
        if self._forked:
            raise SystemForked(_forked_message(self.name))
        super().refuse_to_start(what)

    def _forbid(self) -> None:
        self._forked = self.stopped = True
        for ref in self.living.values():
            ref.forbid()


def _forked_message(name: str) -> str:
    return f"{name} was started by the parent of this process and does not run here; start a new one after the fork"


def _forbid_in_child() -> None:
    global _main_thread
    _main_thread = threading.main_thread().ident
    handler_threads.clear()
    interrupts.forget_drives()
    for scheduler in list(_all):
        scheduler._forbid()


def _stop_at_exit() -> None:
    for scheduler in list(_all):
        if not scheduler._forked:
            scheduler.stop(timeout=AT_EXIT)


os.register_at_fork(after_in_child=_forbid_in_child)
atexit.register(_stop_at_exit)
set_default_factory(lambda: Scheduler("pfs-default-scheduler"))
