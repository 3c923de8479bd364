"""A `System` in a simulation, and an order of service, that tell a `History` what happens in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from pfs.calls import Call, ReadCall, ThreadClient, WriteCall
from pfs.system import System, SystemOptions
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.history import History, Request
from pfs.testing.plans import PAGE_SIZE
from pfs.testing.scheduler import SimulatedScheduler


class ThreadLine(ThreadClient):
    """A plain thread's address; notes what is sent to it."""

    __slots__ = ("_history", "others")

    def __init__(self, name: str, history: History) -> None:
        super().__init__(name)
        self.others: set[int] = set()
        self._history = history

    def tell(self, message: Any) -> None:
        if message.ref not in self.others:
            self._history.told(self, message)
        super().tell(message)


class ObservedSystem(System):
    """A system that tells a history of its threads' calls and of its panic."""

    history: History

    def __init__(self, fs: SimulatedFileSystem, options: SystemOptions, runtime: SimulatedScheduler) -> None:
        self._scheduler = runtime
        self._lines: dict[str, ThreadLine] = {}
        super().__init__(fs, options, runtime=runtime)

    def thread_client(self) -> ThreadClient:
        name = str(self._scheduler.who_runs())
        if name not in self._lines:
            self._lines[name] = ThreadLine(name, self.history)
        return self._lines[name]

    def end_thread(self, name: str) -> None:
        """A process of the simulation has ended, as a thread would."""
        line = self._lines.pop(name, None)
        if line is not None:
            line.end()

    @contextmanager
    def open_call(self, server: Any, client: ThreadClient, call: Call, message: Any) -> Iterator[None]:
        self._check()
        file = next((each.state.name for each in self._served.values() if each.server is server), None)
        if file is None:  # a checkpoint, which is no client's request
            cast(ThreadLine, client).others.add(call.ref)
            with super().open_call(server, client, call, message):
                yield
            return
        request = Request(file, client, message, call._pages if isinstance(call, WriteCall) else ())
        request.manner = "thread"
        if len(request.pages) * PAGE_SIZE > self.options.server.session_staging_bytes:
            request.excuses.add("RequestTooLarge")
        self.history.send(request)
        with super().open_call(server, client, call, message):
            yield
        if isinstance(call, ReadCall) and call.error is None and call.pages != request.received:
            self.history.violate(f"{request}: read() returned other pages than were sent")

    def _give_up(self, server: Any, client: ThreadClient, call: Call) -> None:
        self.history.requests[call.ref].excuses.add("Cancelled")
        super()._give_up(server, client, call)

    def panic(self, cause: BaseException) -> None:
        if self._failed is None:
            self.history.panicked()
        super().panic(cause)


class FairOrder:
    """Stands between a server and its order of service, and counts how long each ready request waits.

    The promise: with s ready sessions the m-th ready request of its session waits at most m x s chunks.
    """

    def __init__(self, order: Any, history: History) -> None:
        self._order = order
        self._history = history
        self._waiting: dict[Any, list[int]] = {}
        """For each ready request: its session's number, m, the largest s so far, the chunks served meanwhile."""

    def add(self, session: Any, request: Any) -> None:
        self._order.add(session, request)
        mine = sum(waiting[0] == id(session) for waiting in self._waiting.values())
        self._waiting[request] = [id(session), mine + 1, 0, 0]
        ready = len({waiting[0] for waiting in self._waiting.values()})
        for waiting in self._waiting.values():
            waiting[2] = max(waiting[2], ready)

    def next(self) -> Any:
        request = self._order.next()
        if request is not None:
            for waiting in self._waiting.values():
                waiting[3] += 1
            _, m, s, waited = self._waiting.pop(request)
            if waited > m * s:
                self._history.violate(f"request {request.ref} waited {waited} chunks as number {m} of {s} sessions")
        return request

    def discard(self, session: Any, request: Any) -> None:
        self._order.discard(session, request)
        self._waiting.pop(request, None)

    def __len__(self) -> int:
        return len(self._order)
