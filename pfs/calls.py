"""Calls: how a plain thread is a client of a page file server.

A call is one request seen from its client: a small state machine that is told the server's and stream's messages, and
a `Waiter` that is finished when the request has ended.  The thread that waits drives the scheduler meanwhile
(`pfs.actors.scheduler`), so most often it is the calling thread itself that runs these handlers; they never block.

`ThreadClient` is the client address of one thread: a session's owner, watched by servers, told apart from others.  It
ends with its thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from pfs.actors import Waiter
from pfs.actors.monitors import Watched, tell_if_alive
from pfs.errors import PfsError
from pfs.protocol import (
    DataPages,
    DataReadEnd,
    DataWriteEnd,
    Done,
    Empty,
    RequestFailed,
    StatReply,
    StreamEnd,
    StreamReady,
)


class ThreadClient(Watched):
    """The address of one plain thread for one system."""

    __slots__ = ("__weakref__", "_alive", "calls", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.calls: dict[int, Call] = {}
        self._alive = True

    def __str__(self) -> str:
        return f"thread {self.name}"

    def tell(self, message: Any) -> None:
        call = self.calls.get(message.ref)
        if call is not None:  # else it was cancelled, and the message was on its way
            call.receive(message)

    def is_alive(self) -> bool:
        return self._alive

    def end(self) -> None:
        """The thread has ended: every server that has a session for it is told."""
        self._alive = False
        self.tell_watchers(None)


class Call(Waiter):
    """One request; `error` is what ended it, None if it succeeded."""

    __slots__ = ("error", "ref")

    def __init__(self, ref: int) -> None:
        super().__init__()
        self.ref = ref
        self.error: PfsError | None = None

    def describe(self) -> str:
        return f"a thread waits for the end of request {self.ref} ({type(self).__name__})"

    def what_times_out(self) -> str:
        """What did not happen in time, and what that means."""
        return f"request {self.ref} ({type(self).__name__}) has not ended and was cancelled: it did not end"

    def receive(self, message: Any) -> None:
        raise NotImplementedError

    def fail(self, error: PfsError) -> None:
        self.error = error
        self.finish()


class ReadCall(Call):
    """A read of n pages, all of which are collected."""

    __slots__ = ("_ends", "_n", "pages")

    def __init__(self, ref: int, n: int) -> None:
        super().__init__(ref)
        self._n = n
        self._ends = 0
        self.pages: list[bytes] = []

    def receive(self, message: Any) -> None:
        kind = type(message)
        if kind is DataPages:
            self.pages += message.pages
            if len(self.pages) < self._n:
                tell_if_alive(message.stream, Empty(self.ref))
        elif kind is RequestFailed:
            self.fail(message.error)
        elif kind is StreamEnd or kind is DataReadEnd:
            self._ends += 1
            if self._ends == 2:
                self.finish()


class StreamCall(Call):
    """A read whose blocks are taken one by one; a credit goes back when a block has been taken.

    The waiter is finished anew with each block and with the end.
    """

    __slots__ = ("_blocks", "_ended", "_ends")

    def __init__(self, ref: int) -> None:
        super().__init__(ref)
        self._blocks: deque[DataPages] = deque()
        self._ends = 0
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended

    def receive(self, message: Any) -> None:
        kind = type(message)
        if kind is DataPages:
            self._blocks.append(message)
            self.finish()
        elif kind is RequestFailed:
            self._ended = True
            self.fail(message.error)
        elif kind is StreamEnd or kind is DataReadEnd:
            self._ends += 1
            if self._ends == 2:
                self._ended = True
                self.finish()

    def take(self) -> tuple[bytes, ...] | None:
        """The next block's pages, or None if none is here yet; then the waiter is ready to be waited on."""
        self.rearm()
        if not self._blocks:
            if self._ended:
                self.finish()
            return None
        block = self._blocks.popleft()
        if not self._ended:
            tell_if_alive(block.stream, Empty(self.ref))
        return block.pages


class WriteCall(Call):
    """A write or append: sends its pages under credit; `written` is the server's answer."""

    __slots__ = ("_block", "_credit", "_next", "_pages", "_pgid", "_stream", "written")

    def __init__(self, ref: int, pgid: int | None, pages: Sequence[bytes]) -> None:
        super().__init__(ref)
        self._pgid = pgid
        self._pages = pages
        self._next = 0
        self._credit = 0
        self._block = 1
        self._stream: Any = None
        self.written: DataWriteEnd | None = None

    def receive(self, message: Any) -> None:
        kind = type(message)
        if kind is StreamReady:
            self._stream, self._credit, self._block = message.stream, message.credits, message.block
            self._send()
        elif kind is Empty:
            self._credit += message.n
            self._send()
        elif kind is DataWriteEnd:
            self.written = message
            self.finish()
        elif kind is RequestFailed:
            self.fail(message.error)

    def what_times_out(self) -> str:
        if self._next < len(self._pages):
            return super().what_times_out()
        return (
            f"request {self.ref} ({type(self).__name__}) has been sent whole and may have been carried out; read the "
            "pages to know: no answer came"
        )

    def _send(self) -> None:
        pages, stream, n = self._pages, self._stream, len(self._pages)
        while self._credit and self._next < n:
            first = self._next
            self._next = min(first + self._block, n)
            self._credit -= 1
            pgid = None if self._pgid is None else self._pgid + first
            tell_if_alive(stream, DataPages(self.ref, stream, pgid, tuple(pages[first : self._next])))
            if self._next == n:
                tell_if_alive(stream, StreamEnd(self.ref, n))


class SimpleCall(Call):
    """A request with one answer: `Sync`, `Stat`, `Truncate`, `Start`, `Stop`."""

    __slots__ = ("answer",)

    def __init__(self, ref: int) -> None:
        super().__init__(ref)
        self.answer: Done | StatReply | None = None

    def receive(self, message: Any) -> None:
        if type(message) is RequestFailed:
            self.fail(message.error)
        else:
            self.answer = message
            self.finish()
