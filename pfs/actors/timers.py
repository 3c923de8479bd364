"""Timers: messages that are told later.  Plain code; the runtime owns the clock and asks what is due."""

from __future__ import annotations

import _thread
import heapq
import math
from itertools import count
from typing import Any

from pfs.actors.monitors import Address


class Timer:
    """One message to be told at `due` (seconds on the runtime's clock), unless cancelled before."""

    __slots__ = ("cancelled", "due", "message", "target")

    def __init__(self, due: float, target: Address, message: Any) -> None:
        self.due = due
        self.target = target
        self.message = message
        self.cancelled = False

    def cancel(self) -> None:
        """Take it back; no effect once the message has been told."""
        self.cancelled = True


class TimerQueue:
    """All pending timers of a runtime; used by several threads."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._lock = _thread.allocate_lock()
        self.next_due = math.inf
        """When the earliest timer is due, a hint that may be too early (a cancelled timer), never too late."""

    def add(self, timer: Timer) -> None:
        with self._lock:
            heapq.heappush(self._heap, (timer.due, next(self._order), timer))
            self.next_due = self._heap[0][0]

    def take_due(self, now: float) -> list[Timer]:
        """Remove and return the timers that are due, in order of time, then of making."""
        due: list[Timer] = []
        with self._lock:
            heap = self._heap
            while heap and (heap[0][0] <= now or heap[0][2].cancelled):
                timer = heapq.heappop(heap)[2]
                if not timer.cancelled:
                    due.append(timer)
            self.next_due = heap[0][0] if heap else math.inf
        return due

    def __len__(self) -> int:
        with self._lock:
            return sum(not timer.cancelled for _, _, timer in self._heap)
