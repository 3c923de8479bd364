"""Whether the next batch of the log waits a moment for those whose last commit has just become durable.

A client that commits one request after the other comes back as soon as it is told.  If the next batch, of what came
while the last one was written, left at once, it would leave without all of those who were told just now: the clients
fall into two groups that take turns, and each sync serves half of them.  So the next batch waits until as many
requests have come as were told, but at most half as long as the last batch took, and never longer than the option
`commit_delay` says: at worst a batch comes half a sync later, at best each serves twice as many.  If fewer than half
come in that time, nobody is waited for in the next `PAUSE` batches.  There is no wait at all for who is alone: it is
told, it comes back, and all have come.

By default `commit_delay` is 0.0, and no batch ever waits.

Plain code.  (PostgreSQL's option of that name waits in every commit, for just the time that somebody has chosen.)
"""

from __future__ import annotations

SHARE = 0.5
"""The part of the last batch's time that the next one may wait."""

PAUSE = 32
"""Batches without a wait after one that was in vain."""


class Gathering:
    """What is known of the last batch.  Times are seconds of any clock; counts are of all requests ever logged.

    `commit_delay`: the longest wait, however slow the disk.
    """

    def __init__(self, commit_delay: float) -> None:
        self._commit_delay = commit_delay
        self._goal = 0
        self._enough = 0
        self._until = 0.0
        self._pause = 0

    def completed(self, told: int, logged: int, now: float, seconds: float) -> None:
        """A batch of `told` requests has become durable, and took so long; `logged` requests are logged by now."""
        if not self._commit_delay:
            return
        if self._pause:
            self._pause -= 1
            self._goal = 0
            return
        self._goal = logged + told
        self._enough = logged + (told + 1) // 2
        self._until = now + min(SHARE * seconds, self._commit_delay)

    def wait(self, logged: int, now: float) -> float:
        """How many seconds the next batch should still wait; 0.0: it should leave now."""
        left = self._until - now
        if logged >= self._goal or left <= 0.0:
            if logged < self._enough and self._goal:
                self._pause = PAUSE
            self._goal = 0
            return 0.0
        return left
