"""`SimulatedCondition`: the lock that code may wait on, under `SimulatedScheduler`.

It is as strict as the real one: not re-entrant, and of use only to who holds it.  What would stop a thread for ever is
reported here.  A handler of a scheduled actor may enter it when it is free, and is refused when it is not.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pfs.errors import DeadlockFound

if TYPE_CHECKING:
    from pfs.testing.scheduler import SimulatedScheduler


class SimulatedCondition:
    """`threading.Condition(threading.Lock())` among the coroutines of one simulation.

    Not re-entrant, as the real one is not: whoever enters twice is told at once that it waits for itself.
    """

    def __init__(self, scheduler: SimulatedScheduler) -> None:
        self._scheduler = scheduler
        self._owner: object | None = None
        self._waiting: list[list[bool]] = []

    def __enter__(self) -> bool:
        scheduler = self._scheduler
        me = scheduler.who_runs()
        if self._owner is me and not scheduler.abandoned:
            raise DeadlockFound(f"seed {scheduler.seed}, step {scheduler.steps}: {me} waits for a lock that it holds")
        scheduler.wait_until(lambda: self._owner is None, lambda: f"a lock that {self._owner} holds")
        self._owner = me
        return True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._check_owner()
        self._owner = None

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock up until notified, or for `timeout` seconds; returns whether it was notified."""
        self._check_owner()
        scheduler = self._scheduler
        me, self._owner = self._owner, None
        told = [False]
        self._waiting.append(told)
        try:
            if timeout is None:
                scheduler.wait_until(lambda: told[0], lambda: "a condition's notification")
            else:
                scheduler.wait_at_most(timeout, lambda: told[0], lambda: "a condition's notification")
        finally:
            if not told[0]:
                self._waiting.remove(told)
            if not scheduler.abandoned:
                scheduler.wait_until(lambda: self._owner is None, lambda: f"a lock that {self._owner} holds")
            self._owner = me
        return told[0]

    def notify(self, n: int = 1) -> None:
        """Let the n that have waited longest go on."""
        self._check_owner()
        for told in self._waiting[:n]:
            told[0] = True
        del self._waiting[:n]

    def notify_all(self) -> None:
        """Let all who wait go on."""
        self.notify(len(self._waiting))

    def _check_owner(self) -> None:
        scheduler = self._scheduler
        if self._owner is not scheduler.who_runs() and not scheduler.abandoned:
            raise RuntimeError(f"{scheduler.who_runs()} uses a lock that {self._owner or 'nobody'} holds")
