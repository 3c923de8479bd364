"""Timers: messages that are told later.  Plain code; the runtime owns the clock and asks what is due."""

from __future__ import annotations

import _thread
import heapq
import math
from itertools import count
from typing import Any

from pfs.actors.monitors import Address

PURGE_FROM = 64
"""Cancelled timers are thrown out when there are more than this many and they are more than half of all."""


class Timer:
    """One message to be told at `due` (seconds on the runtime's clock), unless cancelled before."""

    __slots__ = ("cancelled", "due", "message", "queue", "target")

    def __init__(self, due: float, target: Address, message: Any) -> None:
        self.due = due
        self.target = target
        self.message = message
        self.cancelled = False
        self.queue: TimerQueue | None = None
        """Where the timer is pending."""

    def cancel(self) -> None:
        """Take it back; no effect once the message has been told."""
        if not self.cancelled:
            self.cancelled = True
            queue = self.queue
            if queue is not None:
                queue.note_cancelled()


class TimerQueue:
    """All pending timers of a runtime; used by several threads."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._lock = _thread.allocate_lock()
        self._cancelled = 0
        self.next_due = math.inf
        """When the earliest timer is due, a hint that may be too early (a cancelled timer), never too late."""

    def add(self, timer: Timer) -> None:
        with self._lock:
            timer.queue = self
            heapq.heappush(self._heap, (timer.due, next(self._order), timer))
            self.next_due = self._heap[0][0]

    def note_cancelled(self) -> None:
        """A pending timer was cancelled: keep what such timers cost below what the others cost."""
        with self._lock:
            self._cancelled += 1
            if self._cancelled > PURGE_FROM and self._cancelled * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if not entry[2].cancelled]
                heapq.heapify(self._heap)
                self._cancelled = 0
                self.next_due = self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float) -> list[Timer]:
        """Remove and return the timers that are due, in order of time, then of making."""
        due: list[Timer] = []
        with self._lock:
            heap = self._heap
            while heap and (heap[0][0] <= now or heap[0][2].cancelled):
                timer = heapq.heappop(heap)[2]
                timer.queue = None
                if timer.cancelled:
                    self._cancelled = max(self._cancelled - 1, 0)
                else:
                    due.append(timer)
            self.next_due = heap[0][0] if heap else math.inf
        return due

    def __len__(self) -> int:
        with self._lock:
            return sum(not timer.cancelled for _, _, timer in self._heap)
