"""Room for what writers send: the staging budget.  Plain code.

A write reserves the bytes of all its pages before its first credit, so that the memory of a server is bounded whatever
its clients announce (promise 3).  Reservations are granted first come, first served, within a limit for each session:
one that must wait for room holds up those behind it, so that a large write is not starved by small ones; one that must
wait for its own session's limit holds up that session's later ones and nobody else.

Invariants: the granted bytes are at most `budget` in all, and at most `session_limit` for a session.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from pfs.errors import RequestTooLarge

Session = TypeVar("Session", bound=Hashable)
Request = TypeVar("Request", bound=Hashable)


class Reservations(Generic[Session, Request]):
    """Who has how many bytes of the budget, and who waits."""

    def __init__(self, budget: int, session_limit: int) -> None:
        self.budget = budget
        self.session_limit = min(session_limit, budget)
        self.reserved = 0
        self._granted: dict[Request, tuple[Session, int]] = {}
        self._by_session: dict[Session, int] = {}
        self._waiting: dict[Request, tuple[Session, int]] = {}

    def ask(self, session: Session, request: Request, size: int) -> bool:
        """Ask for `size` bytes; returns whether they are granted now (else `release` names the request later).

        Raises `RequestTooLarge` if they can never be granted.
        """
        if size > self.session_limit:
            raise RequestTooLarge(
                f"the request needs {size} bytes of staging; the limit is {self.session_limit} for a session "
                f"(budget {self.budget}): send it in parts, or raise `staging_bytes`"
            )
        mine = self._by_session.get(session, 0) + size
        if not self._waiting and mine <= self.session_limit and self.reserved + size <= self.budget:
            self.reserved += size
            self._by_session[session] = mine
            self._granted[request] = (session, size)
            return True
        self._waiting[request] = (session, size)
        return request in self._grant()

    def release(self, request: Request) -> list[Request]:
        """A request gives its room back, or no longer waits; returns the requests that are granted room by that."""
        self._waiting.pop(request, None)
        granted = self._granted.pop(request, None)
        if granted is not None:
            session, size = granted
            self.reserved -= size
            self._by_session[session] -= size
            if not self._by_session[session]:
                del self._by_session[session]
        return self._grant()

    def _grant(self) -> list[Request]:
        now: list[Request] = []
        if not self._waiting:
            return now
        held_up: set[Session] = set()
        for request, (session, size) in self._waiting.items():
            if session in held_up or self._by_session.get(session, 0) + size > self.session_limit:
                held_up.add(session)
                continue
            if self.reserved + size > self.budget:
                break
            self.reserved += size
            self._by_session[session] = self._by_session.get(session, 0) + size
            self._granted[request] = (session, size)
            now.append(request)
        for request in now:
            del self._waiting[request]
        return now

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return len(self._waiting)
