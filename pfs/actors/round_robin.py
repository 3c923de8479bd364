"""Whose turn it is: round robin by session, then by request within the session.  Plain code.

A *ring* holds the sessions that have ready requests, and each session holds its ready requests in a ring of its own.
`next` takes the session at the front, and its request at the front; whoever serves a chunk of that request puts it
back with `add`, which is the back of both rings.  So with s ready sessions, the m-th ready request of its session is
served after at most m x s chunks, however large the requests of the others are (promise 2).

`FirstComeFirstServed` has the same face and is there for contrast: it serves one request to its end before the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

Session = TypeVar("Session", bound=Hashable)
Request = TypeVar("Request", bound=Hashable)


_Session = TypeVar("_Session", bound=Hashable, contravariant=True)


class ServiceOrder(Protocol[_Session, Request]):
    """What a page file server needs of an order of service."""

    def add(self, session: _Session, request: Request) -> None:
        """A request is ready (again)."""
        ...

    def next(self) -> Request | None:
        """Take the request whose turn it is; None if none is ready."""
        ...

    def discard(self, session: _Session, request: Request) -> None:
        """A request has ended; it need not be ready, and will not be added again.  Others may be next by that."""
        ...

    def __len__(self) -> int:
        """How many requests are ready."""
        ...


class RoundRobin(Generic[Session, Request]):
    """Sessions in turn, and within a session its requests in turn."""

    def __init__(self) -> None:
        self._ring: deque[Session] = deque()
        self._ready: dict[Session, deque[Request]] = {}
        self._members: set[Request] = set()

    def add(self, session: Session, request: Request) -> None:
        ready = self._ready.get(session)
        if ready is None:
            ready = self._ready[session] = deque()
            self._ring.append(session)
        ready.append(request)
        self._members.add(request)

    def next(self) -> Request | None:
        if not self._ring:
            return None
        session = self._ring.popleft()
        ready = self._ready[session]
        request = ready.popleft()
        self._members.discard(request)
        if ready:
            self._ring.append(session)
        else:
            del self._ready[session]
        return request

    def discard(self, session: Session, request: Request) -> None:
        if request not in self._members:
            return  # the usual case: it was taken by `next` and ended with that chunk
        self._members.discard(request)
        ready = self._ready[session]
        ready.remove(request)
        if not ready:
            del self._ready[session]
            self._ring.remove(session)

    def __len__(self) -> int:
        return len(self._members)


class FirstComeFirstServed(Generic[Session, Request]):
    """One request to its end before the next, in the order in which they were first added; for contrast only."""

    def __init__(self) -> None:
        self._arrived: dict[Request, int] = {}
        self._ready: dict[Request, None] = {}
        self._arrivals = 0

    def add(self, session: Session, request: Request) -> None:
        if request not in self._arrived:
            self._arrivals += 1
            self._arrived[request] = self._arrivals
        self._ready[request] = None

    def next(self) -> Request | None:
        if not self._ready:
            return None
        first = min(self._arrived, key=self._arrived.__getitem__)
        if first not in self._ready:
            return None  # it waits for its disk or its credit, and everybody waits for it
        del self._ready[first]
        return first

    def discard(self, session: Session, request: Request) -> None:
        self._ready.pop(request, None)
        self._arrived.pop(request, None)

    def __len__(self) -> int:
        return len(self._ready)
