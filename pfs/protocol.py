"""The messages between clients, page file servers and streams.

Every message is an immutable struct that carries the `ref` of its request, so that one client can have many requests
open.  A `ref` is an int that its client has not used for another request of the same server; `new_ref()` makes one
that is unique in the process.  A *client*, and a consumer, is anything with `tell(message)` and `is_alive()`: an
actor's ref, or the reply slot of a plain thread.

A request's life, seen from the server:

* a read: *queued* -> *served* chunk by chunk (*parked* while its stream has no credit) -> ended;
* a write or append: *waiting* for room -> *collecting* pages (after `StreamReady`) -> *logging* -> *committed* ->
  ended.

Every request ends in exactly one of `DataReadEnd`, `DataWriteEnd`, `RequestFailed`.

`MESSAGES` is the table of sender, receiver, reply, errors and legal states.  The README shows it as `protocol_table()`
lays it out, and a test compares.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Literal, NamedTuple

import msgspec

from pfs.errors import PfsError

Durability = Literal["wal", "memory"]
"""`"wal"`: acknowledged when durable.  `"memory"`: acknowledged when applied; durable once a later sync passes it."""

new_ref = count(1).__next__


class DataRead(msgspec.Struct, frozen=True, gc=False):
    """Read `n` pages from `pgid` on; they come as `DataPages` to `to`, by default to the client.

    `chunk` is the most pages served in one turn (None: the server's default).
    """

    ref: int
    client: Any
    pgid: int
    n: int
    chunk: int | None = None
    to: Any = None


class DataWrite(msgspec.Struct, frozen=True, gc=False):
    """Write `n` pages over pgid .. pgid+n-1, all of which must exist."""

    ref: int
    client: Any
    pgid: int
    n: int
    durability: Durability = "wal"


class DataAppend(msgspec.Struct, frozen=True, gc=False):
    """Append `n` pages at the end of the page file."""

    ref: int
    client: Any
    n: int
    durability: Durability = "wal"


class StreamReady(msgspec.Struct, frozen=True, gc=False):
    """The write or append is admitted and its room reserved: send at most `credits` data messages of up to `block`
    pages on `stream` now, one more for each credit that comes back, and `StreamEnd` at last."""

    ref: int
    stream: Any
    credits: int
    block: int


class DataPages(msgspec.Struct, frozen=True, gc=False):
    """One data message: consecutive pages, the first of which is `pgid` (None in an append)."""

    ref: int
    stream: Any
    pgid: int | None
    pages: tuple[bytes, ...]


class Empty(msgspec.Struct, frozen=True, gc=False):
    """`n` empty wagons go back: the producer may send `n` data messages more.  Sent to the stream."""

    ref: int
    n: int = 1


class StreamEnd(msgspec.Struct, frozen=True, gc=False):
    """The last message of this ref on the stream; `n` is the number of pages that were sent.

    From a writer this is the notes' data_write_end: n must be what was announced and what came.
    """

    ref: int
    n: int


class DataReadEnd(msgspec.Struct, frozen=True, gc=False):
    """All `n` pages from `pgid` on were handed to the stream."""

    ref: int
    pgid: int
    n: int


class DataWriteEnd(msgspec.Struct, frozen=True, gc=False):
    """The write or append is applied, and durable as asked; an append's pages begin at `pgid`.

    `lsn` is the log sequence number of its COMMIT: writes took effect in the order of their LSNs.
    """

    ref: int
    pgid: int
    n: int
    lsn: int


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Give the request up.  It ends with `RequestFailed(Cancelled)`; a write that is being logged ends as it does.

    An unknown ref (the request may just have ended) is no error.
    """

    ref: int
    client: Any


class RequestFailed(msgspec.Struct, frozen=True, gc=False):
    """The request ended without effect; of a read, no more pages are sent, though those on the stream may still come.

    A read's consumer that is not the client is told the same, by the stream, behind the pages that it was sent.
    """

    ref: int
    error: PfsError


class Start(msgspec.Struct, frozen=True, gc=False):
    """Make an inactive server active.  Replied with `Done` if a client is given."""

    ref: int = 0
    client: Any = None


class Stop(msgspec.Struct, frozen=True, gc=False):
    """Make the server inactive: open requests fail with `ServerInactive`, but writes that are being logged end first.

    Replied with `Done` if a client is given.
    """

    ref: int = 0
    client: Any = None


class Sync(msgspec.Struct, frozen=True, gc=False):
    """Make everything that was acknowledged before durable.  Replied with `Done` or `RequestFailed`."""

    ref: int
    client: Any


class Stat(msgspec.Struct, frozen=True, gc=False):
    """Ask for the page count and counters.  Replied with `StatReply`."""

    ref: int
    client: Any


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Cut the page file to its first `n` pages (n <= page count), durably.  Replied with `Done` or `RequestFailed`."""

    ref: int
    client: Any
    n: int


class Done(msgspec.Struct, frozen=True, gc=False):
    """What was asked for is done."""

    ref: int


class StatReply(msgspec.Struct, frozen=True, gc=False):
    """The answer to `Stat`."""

    ref: int
    name: str
    page_size: int
    page_count: int
    active: bool
    counters: dict[str, int]


class MessageRow(NamedTuple):
    """One row of the protocol table."""

    message: type[msgspec.Struct]
    sender: str
    receiver: str
    reply: str
    errors: str
    states: str


_ALWAYS = "SessionEnded, SystemFailed"
_REQUEST_ERRORS = f"InvalidRequest, ProtocolError, ServerInactive, Busy, Cancelled, {_ALWAYS}"
_READ_ERRORS = f"OutOfRange, PageIOError, SnapshotTooOld, IdleTooLong, {_REQUEST_ERRORS}"
_APPEND_ERRORS = f"RequestTooLarge, WrongPageLength, IdleTooLong, NoSpace, {_REQUEST_ERRORS}"
_WRITE_ERRORS = f"OutOfRange, PageIOError, {_APPEND_ERRORS}"
_TRUNCATE_ERRORS = f"InvalidRequest, OutOfRange, ServerInactive, {_ALWAYS}"

MESSAGES: tuple[MessageRow, ...] = (
    MessageRow(DataRead, "client", "server", "DataPages to `to`, DataReadEnd", _READ_ERRORS, "active"),
    MessageRow(DataWrite, "client", "server", "StreamReady, DataWriteEnd", _WRITE_ERRORS, "active"),
    MessageRow(DataAppend, "client", "server", "StreamReady, DataWriteEnd", _APPEND_ERRORS, "active"),
    MessageRow(StreamReady, "server", "writer", "DataPages, StreamEnd", "", "collecting begins"),
    MessageRow(DataPages, "producer", "stream, consumer", "Empty", "ProtocolError", "served; collecting, with credit"),
    MessageRow(Empty, "consumer", "stream, producer", "", "ProtocolError", "after a data message"),
    MessageRow(StreamEnd, "producer", "stream, consumer", "", "ProtocolError", "after the last data message"),
    MessageRow(DataReadEnd, "server", "client", "", "", "read ends"),
    MessageRow(DataWriteEnd, "server", "client", "", "", "write or append ends"),
    MessageRow(Cancel, "client", "server", "RequestFailed", "", "any"),
    MessageRow(RequestFailed, "server", "client, `to`", "", "any RequestError, SystemFailed", "request ends"),
    MessageRow(Start, "client", "server", "Done", _ALWAYS, "any"),
    MessageRow(Stop, "client", "server", "Done", _ALWAYS, "any"),
    MessageRow(Sync, "client", "server", "Done", _ALWAYS, "any"),
    MessageRow(Truncate, "client", "server", "Done", _TRUNCATE_ERRORS, "active"),
    MessageRow(Stat, "client", "server", "StatReply", "SessionEnded", "any"),
    MessageRow(Done, "server", "client", "", "", "Start, Stop, Sync or Truncate ends"),
    MessageRow(StatReply, "server", "client", "", "", "Stat ends"),
)


def protocol_table() -> str:
    """`MESSAGES` in Markdown: one row a message, with its fields and the first sentence of its docstring."""
    lines = [
        "| message | from → to | fields | meaning | reply | errors | when |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in MESSAGES:
        fields = ", ".join(map(_field, msgspec.structs.fields(row.message)))
        meaning = " ".join((row.message.__doc__ or "").split("\n\n")[0].split())
        cells = (
            f"`{row.message.__name__}`",
            f"{row.sender} → {row.receiver}",
            fields,
            meaning,
            row.reply,
            row.errors,
            row.states,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _field(field: msgspec.structs.FieldInfo) -> str:
    return field.name if field.required else f"{field.name}={field.default!r}"
