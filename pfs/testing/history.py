"""What the clients of a simulation send and receive, and which of the promises that breaks.

A `History` is told every request and every message that goes to a client, at the moment when the server or a stream
sends it (`Line` stands between).  It keeps a model of each page file from nothing but that:

* The commits of a file are its `DataWriteEnd`s and the `Done`s of truncations, in the order in which they were sent.
  That order must be the order of `lsn`; an append must begin where the file ended.
* A read is right if its pages are those of the file after some single commit: not before the last commit that was
  acknowledged when the read began, and not after a write that was asked for when the read had ended.
* A request that failed must have had a reason to: nobody is told `Cancelled` who did not cancel.

Pages are unique: what a page holds names the request that wrote it.  So a page that is wrong cannot go unseen.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pykka

from pfs.actors import Address, Down
from pfs.actors.monitors import Watched
from pfs.errors import OutOfRange, PfsError
from pfs.protocol import (
    DataAppend,
    DataPages,
    DataRead,
    DataReadEnd,
    DataWrite,
    DataWriteEnd,
    Done,
    RequestFailed,
    StatReply,
    StreamEnd,
    Sync,
    Truncate,
)
from pfs.testing.linearizability import Kind, Operation, check_by_lsn

MOST_TEARS = 4
"""Places where a page may be torn: short writes make two writes of one, and a crash chooses among them."""

_ANSWERS = (DataReadEnd, DataWriteEnd, RequestFailed, Done, StatReply)


class Request:
    """One request as its client sees it.

    `excuses`: the names of the errors that it may end in because of what its client does.  `manner`: how its client
    goes about it.  `owed`: how many answers are to come (a client may use a ref twice).
    """

    def __init__(self, file: str, client: Address, message: Any, pages: Sequence[bytes] = ()) -> None:
        self.file = file
        self.client = client
        self.message = message
        self.ref: int = message.ref
        self.pages = list(pages)
        self.excuses: set[str] = set()
        self.manner = ""
        self.owed = 1
        self.sent_at = 0
        self.answers: list[Any] = []
        self.commits_before = 0
        """How many commits of the file had been acknowledged when it was sent."""
        self.received: list[bytes] = []
        self.messages_out = 0
        """Data messages for which no credit has gone back."""
        self.ended_at: int | None = None
        """When the last message of a read that succeeded was sent to its consumer."""
        self.stream_ended = False
        self.committed_at = 0
        """When the end of a change that succeeded was sent."""
        self.written: DataWriteEnd | None = None

    @property
    def done(self) -> bool:
        return len(self.answers) >= self.owed

    @property
    def error(self) -> PfsError | None:
        """What it failed with."""
        answer = self.answers[0] if self.answers else None
        return answer.error if isinstance(answer, RequestFailed) else None

    def __str__(self) -> str:
        fields = [f"{name}={getattr(self.message, name)}" for name in ("pgid", "n") if hasattr(self.message, name)]
        return f"{type(self.message).__name__}({', '.join([f'ref={self.ref}', *fields])}) of {self.file!r}"


class Line(Watched):
    """The address of a client: notes what is sent to it, then passes it on to the client's actor."""

    __slots__ = ("__weakref__", "_history", "_target", "name")

    def __init__(self, history: History, name: str) -> None:
        super().__init__()
        self.name = name
        self._history = history
        self._target: Any = None

    def __str__(self) -> str:
        return self.name

    def connect(self, target: Any) -> None:
        """Say which actor is behind it; the line ends when that ends."""
        self._target = target
        target.watch(self)

    def tell(self, message: Any) -> None:
        if isinstance(message, Down) and message.ref is self._target:
            self.tell_watchers(message.reason)
            return
        self._history.told(self, message)
        if self._target is None:
            raise pykka.ActorDeadError(f"{self} is not connected")
        self._target.tell(message)

    def is_alive(self) -> bool:
        return self._target is not None and bool(self._target.is_alive())


class FileModel:
    """One page file: its content after each commit; `commits[k]` made `states[k + 1]` out of `states[k]`."""

    def __init__(self, name: str, pages: Sequence[bytes]) -> None:
        self.name = name
        self.states: list[list[bytes]] = [list(pages)]
        self.commits: list[Request] = []
        self.last_lsn = 0

    @property
    def pages(self) -> list[bytes]:
        """The pages after the last commit."""
        return self.states[-1]


class History:
    """All requests, all files, and the promises broken so far (see the module).

    `credits`: how many data messages of a transfer may be out.  `note`: called with each answer, in a form that is
    the same in every replay.
    """

    def __init__(self, credits: int, note: Callable[[str], None]) -> None:
        self.clock = 0
        self.requests: dict[int, Request] = {}
        self.files: dict[str, FileModel] = {}
        self.violations: list[str] = []
        self.events: Counter[str] = Counter()
        self.failed_at: int | None = None
        """When the system panicked."""
        self.on_acknowledged: Callable[[Request, DataWriteEnd], None] = lambda request, answer: None
        self._credits = credits
        self._note = note

    def violate(self, what: str) -> None:
        """A promise is broken."""
        self.violations.append(what)

    def panicked(self) -> None:
        """From now on nothing may be acknowledged."""
        self.failed_at = self.clock
        self.events["panic"] += 1

    # -- what clients send

    def send(self, request: Request) -> None:
        """A client is about to send a request (again, if it uses the ref twice)."""
        self.clock += 1
        if self.requests.setdefault(request.ref, request) is not request:
            raise AssertionError(f"ref {request.ref} is taken")
        request.sent_at = self.clock
        request.commits_before = len(self.files[request.file].commits)
        self.events[type(request.message).__name__] += 1

    def credit(self, ref: int, n: int = 1) -> None:
        """A consumer is about to give credits back."""
        self.requests[ref].messages_out -= n

    # -- what clients are sent

    def told(self, client: Address, message: Any) -> None:
        """A server or stream sends a message to a client."""
        self.clock += 1
        request = self.requests.get(message.ref)
        if request is None:
            self.violate(f"{client} was told {type(message).__name__} of ref {message.ref!r}, which nobody used")
        elif isinstance(message, (DataPages, StreamEnd)):
            if request.manner.startswith("forged"):
                pass  # it may come from the client itself, which has the stream's address
            elif isinstance(message, DataPages):
                self._data(request, message)
            else:
                self._stream_end(request, message)
        elif isinstance(message, RequestFailed) and client is not request.client:
            if client is not getattr(request.message, "to", None):
                self.violate(f"{client} was told of the end of {request}, which is not its own")
        elif isinstance(message, _ANSWERS):
            self._answer(request, message)

    def _data(self, request: Request, message: DataPages) -> None:
        expected = request.message.pgid + len(request.received)
        if message.pgid != expected:
            self.violate(f"{request}: pages from {message.pgid} came where {expected} was expected")
        if request.stream_ended:
            self.violate(f"{request}: data came after StreamEnd")
        request.received += message.pages
        request.messages_out += 1
        if request.messages_out > self._credits and isinstance(request.client, Line):
            self.violate(f"{request}: {request.messages_out} data messages are out with {self._credits} credits")

    def _stream_end(self, request: Request, message: StreamEnd) -> None:
        if request.stream_ended or message.n != request.message.n or len(request.received) != message.n:
            self.violate(f"{request}: StreamEnd({message.n}) came after {len(request.received)} pages")
        request.stream_ended = True
        request.ended_at = self.clock

    def _answer(self, request: Request, answer: Any) -> None:
        kind = type(answer.error).__name__ if isinstance(answer, RequestFailed) else type(answer).__name__
        self._note(f"answer {kind} {getattr(answer, 'pgid', '')} {getattr(answer, 'lsn', '')} to {request.sent_at}")
        self.events[kind] += 1
        request.answers.append(answer)
        if len(request.answers) > request.owed and request.manner.startswith("early") and kind == "ProtocolError":
            pass  # its data came when the request had ended: to the server that is data without a request
        elif len(request.answers) > request.owed:
            self.violate(f"{request} ({request.manner}): a second answer, {answer}, after {request.answers[0]}")
        elif isinstance(answer, DataWriteEnd):
            self._written(request, answer)
        elif isinstance(answer, Done) and isinstance(request.message, Truncate):
            self._truncated(request)
        promises = isinstance(answer, DataWriteEnd) or (
            isinstance(answer, Done) and isinstance(request.message, (Sync, Truncate))
        )
        if self.failed_at is not None and promises:
            self.violate(f"{request}: {kind} was sent after the system had panicked")

    def _written(self, request: Request, answer: DataWriteEnd) -> None:
        file, message = self.files[request.file], request.message
        if not isinstance(message, (DataWrite, DataAppend)):
            self.violate(f"{request}: answered by DataWriteEnd")
            return
        if answer.lsn <= file.last_lsn:
            self.violate(f"{request}: LSN {answer.lsn} after {file.last_lsn}: not in the order of the commits")
        file.last_lsn = answer.lsn
        before = file.pages
        pgid = message.pgid if isinstance(message, DataWrite) else len(before)
        if answer.pgid != pgid or answer.n != message.n or len(request.pages) != message.n:
            self.violate(
                f"{request}: DataWriteEnd(pgid={answer.pgid}, n={answer.n}), where {pgid} was expected and "
                f"{len(request.pages)} pages were meant to be written"
            )
        request.written = answer
        request.committed_at = self.clock
        file.commits.append(request)
        file.states.append([*before[:pgid], *request.pages, *before[pgid + len(request.pages) :]])
        self.on_acknowledged(request, answer)

    def _truncated(self, request: Request) -> None:
        file = self.files[request.file]
        request.committed_at = self.clock
        file.commits.append(request)
        file.states.append(file.pages[: request.message.n])

    # -- what must hold in the end

    def owes(self) -> list[Request]:
        """The requests of living clients that have not ended."""
        return [each for each in self.requests.values() if not each.done and each.client.is_alive()]

    def check_requests(self, excuses: set[str]) -> None:
        """Check what requests ended in; `excuses` are errors that anybody may be told in this run."""
        for request in self.requests.values():
            self._check_outcome(request, excuses)

    def _check_outcome(self, request: Request, excuses: set[str]) -> None:
        error = request.error
        if isinstance(error, OutOfRange):
            self._check_out_of_range(request)
        elif error is not None:
            name = type(error).__name__
            if name not in excuses and name not in request.excuses:
                self.violate(f"{request} ({request.manner}): {name} without a reason: {error}")
        if isinstance(request.message, DataRead) and request.stream_ended:
            self._check_read(request)

    def _candidates(self, request: Request, ended_at: int) -> list[list[bytes]]:
        """The states of the file that a request may have seen."""
        file = self.files[request.file]
        last = len(file.commits)
        for number, commit in enumerate(file.commits):
            if commit.sent_at > ended_at:
                last = number
                break
        return file.states[request.commits_before : last + 1]

    def _check_read(self, request: Request) -> None:
        assert request.ended_at is not None
        pgid, n = request.message.pgid, request.message.n
        states = self._candidates(request, request.ended_at)
        if not any(state[pgid : pgid + n] == request.received for state in states):
            seen = ", ".join(map(describe_page, request.received))
            meant = "; or ".join(", ".join(map(describe_page, state[pgid : pgid + n])) for state in states)
            self.violate(f"{request}: not the file as of one moment: got {seen}; right would be {meant}")

    def _check_out_of_range(self, request: Request) -> None:
        message = request.message
        states = self._candidates(request, self.clock)
        truncations = [
            each.message.n
            for each in self.requests.values()
            if each.file == request.file
            and isinstance(each.message, Truncate)
            and not (each.done and each.error is None)
        ]  # one that was cut short by a panic or a crash may have been seen
        counts = [*map(len, states), *truncations]
        if isinstance(message, Truncate):
            wrong = all(message.n <= count for count in counts)
        else:
            wrong = all(message.pgid + message.n <= count for count in counts)
        if wrong:
            self.violate(f"{request}: OutOfRange, but the file had {sorted(set(counts))} pages")

    def operations(self, name: str) -> list[Operation]:
        """What was seen of a page file, to be judged as a whole; a truncation's LSN is just above the last commit's."""
        found = []
        last_lsn = 0
        for commit in self.files[name].commits:
            message, pgid = commit.message, 0
            last_lsn += 1
            if commit.written is not None:
                last_lsn, pgid = commit.written.lsn, commit.written.pgid
            kind: Kind = "truncate" if isinstance(message, Truncate) else "append"
            if isinstance(message, DataWrite):
                kind = "write"
            pages = tuple(commit.pages)
            found.append(Operation(kind, pgid, message.n, pages, commit.sent_at, commit.committed_at, last_lsn))
        for request in self.requests.values():
            message, ended_at = request.message, request.ended_at
            if request.file == name and isinstance(message, DataRead) and ended_at is not None:
                pages = tuple(request.received)
                found.append(Operation("read", message.pgid, message.n, pages, request.sent_at, ended_at))
        return found

    def check_linearizable(self) -> None:
        """Judge each page file's history as a whole."""
        for name in self.files:
            operations = self.operations(name)
            self.events["operations judged"] += len(operations)
            self.violations += [f"{name!r}: {violation}" for violation in check_by_lsn(operations)]

    # -- what must survive a crash

    def durable_states(self, name: str) -> list[list[bytes]]:
        """The states that a page file may have after a crash now, if no commit is on its way: a copy of the list."""
        file = self.files[name]
        durable = 0
        for number, commit in enumerate(file.commits, 1):
            if isinstance(commit.message, Truncate) or commit.message.durability == "wal":
                durable = number
        for request in self.requests.values():
            if request.file == name and isinstance(request.message, Sync) and request.done and request.error is None:
                durable = max(durable, request.commits_before)
        return file.states[durable:]


def make_page(page_size: int, file: int, writer: int, number: int, index: int) -> bytes:
    """A page that says who wrote it: 16 bytes, repeated, so that a torn one shows."""
    return struct.pack("<4I", file, writer, number, index) * (page_size // 16)


def describe_page(page: bytes) -> str:
    """Who wrote a page."""
    if len(page) < 16:
        return "nothing"
    if page != page[:16] * (len(page) // 16):
        return "torn"
    file, writer, number, index = struct.unpack("<4I", page[:16])
    return f"{file}.{writer}.{number}.{index}"
