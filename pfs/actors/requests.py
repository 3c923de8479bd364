"""What a page file server keeps of its clients: sessions and their open requests; and the checks of their messages.

Plain code.  A session is all that the server keeps for one client; it ends when the client ends.  A request is in the
session's `requests` from its message until its one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from pfs.actors.write_room import Share
from pfs.cache.page_file_state import Cut
from pfs.errors import InvalidRequest, ProtocolError, RequestTooLarge, WrongPageLength
from pfs.protocol import DataAppend, DataRead, DataWrite

LARGEST_PGID = (1 << 32) - 2
"""The largest page number, as in PostgreSQL's storage manager, which the files below are laid out like."""


class ServerOptions(msgspec.Struct, frozen=True):
    """The limits of a page file server.

    `chunk`: the most pages served in one turn; `block`: the most pages in a data message; `credits`: the most data
    messages of a transfer on their way; `staging_bytes` and `session_staging_bytes`: room for what writers send, in
    all and for a session; `bulk_bytes`: appends of so much, or more, are bulk appends, which need less room and no
    log; `version_bytes`: room for old page versions; `idle_seconds`: how long a writer may send nothing before its
    room lapses; `read_idle_seconds`: how long a reader may give no credit before its read is given up and the old
    pages that it holds go (`math.inf`: for ever), an hour by default, since it costs only those, and who streams
    may have much to do with each block of pages; `session_requests`: the most open requests of a client; `order`: who
    is served next (`"first_come_first_served"` is there for contrast).
    """

    chunk: int = 64
    block: int = 16
    credits: int = 8
    staging_bytes: int = 256 << 20
    session_staging_bytes: int = 128 << 20
    bulk_bytes: int = 8 << 20
    version_bytes: int = 128 << 20
    idle_seconds: float = 60.0
    read_idle_seconds: float = 3600.0
    session_requests: int = 10_000
    order: Literal["round_robin", "first_come_first_served"] = "round_robin"

    def __post_init__(self) -> None:
        for name in ("chunk", "block", "credits", "session_requests"):
            check_number(name, getattr(self, name), 1, LARGEST_PGID)
        for name in ("staging_bytes", "session_staging_bytes", "bulk_bytes", "version_bytes"):
            check_number(name, getattr(self, name), 0, 1 << 62)
        for name in ("idle_seconds", "read_idle_seconds"):
            seconds = getattr(self, name)
            if type(seconds) not in (int, float) or not seconds > 0:
                raise InvalidRequest(f"{name} must be a number above 0, not {seconds!r}")
        if self.order not in ("round_robin", "first_come_first_served"):
            raise InvalidRequest(f'order must be "round_robin" or "first_come_first_served", not {self.order!r}')


class Session:
    """All that a server keeps for one client."""

    __slots__ = ("client", "read_stream", "requests", "write_stream")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.requests: dict[int, ReadRequest | WriteRequest] = {}
        self.read_stream: Any = None
        self.write_stream: Any = None


class ReadRequest(Cut):
    """A data_read in progress.

    It is in the server's order of service exactly when it has credit, is not waiting for pages, and is not ended.
    """

    __slots__ = ("chunk", "credit", "ended", "loaded", "pgid", "ref", "session", "stream")

    def __init__(self, session: Session, message: DataRead, chunk: int, credit: int) -> None:
        super().__init__(message.pgid, message.pgid + message.n)
        self.session = session
        self.ref = message.ref
        self.pgid = message.pgid
        self.chunk = chunk
        self.credit = credit
        self.stream: Any = None
        self.loaded: list[bytes] | None = None
        self.ended = False


WriteState = Literal["waiting", "collecting", "collected", "logging", "committed", "given up", "ended"]


class WriteRequest:
    """A data_write or data_append in progress; `pgid` is -1 until an append's place is known.

    `state` goes waiting (for room) -> collecting -> collected -> logging -> committed (its COMMIT is in the log) ->
    ended; every state may go to ended.  A bulk append that is given up has first to be cut off.
    """

    __slots__ = (
        "append",
        "commit_end",
        "durability",
        "first_lsn",
        "images",
        "last_heard",
        "loading",
        "logged",
        "lsn",
        "n",
        "pages",
        "pgid",
        "received",
        "ref",
        "session",
        "share",
        "state",
        "stream",
        "transaction",
    )

    def __init__(self, session: Session, message: DataWrite | DataAppend) -> None:
        self.session = session
        self.ref = message.ref
        self.append = type(message) is DataAppend
        self.pgid: int = -1 if isinstance(message, DataAppend) else message.pgid
        self.n = message.n
        self.durability = message.durability
        self.pages: list[bytes] = []
        self.received = 0
        """How many pages have come."""
        self.last_heard = 0.0
        self.stream: Any = None
        self.state: WriteState = "waiting"
        self.transaction = 0
        self.share: Share | None = None
        """Its share of the dirty bytes and the log."""
        self.logged = 0
        self.lsn = self.first_lsn = 0
        self.commit_end = 0
        """Where the log must be durable to before the write is published; 0 with durability "memory"."""
        self.loading = 0
        self.images: dict[int, bytes] = {}
        """Old images that were loaded from disk for reads in progress."""

    def collect(self, pgid: int | None, pages: Sequence[Any], page_size: int, block: int) -> None:
        """Take one data message; raises what is wrong with it and then takes nothing."""
        if type(pages) not in (tuple, list) or len(pages) > block:
            raise ProtocolError(f"request {self.ref}: a data message holds at most {block} pages, in a tuple")
        pages = tuple(pages)
        expected = None if self.append else self.pgid + self.received
        if pgid is not None and (type(pgid) is not int or pgid != expected):
            raise ProtocolError(
                f"request {self.ref}: pages from {pgid!r} came where {expected} was expected (an append's have no pgid)"
            )
        if self.received + len(pages) > self.n:
            raise ProtocolError(f"request {self.ref}: {self.received + len(pages)} pages came, {self.n} were announced")
        self.pages += [immutable_page(page, page_size) for page in pages]
        self.received += len(pages)

    def check_end(self, n: Any) -> None:
        """Its writer says that it has sent n pages, and that they are all; raises `ProtocolError` if they are not."""
        if type(n) is not int or n != self.n or self.received != self.n:
            raise ProtocolError(
                f"request {self.ref}: {self.n} pages were announced, {self.received} came, and StreamEnd says {n!r}"
            )

    @property
    def published_pages(self) -> list[bytes]:
        """The pages that are in memory when it is published: all, but for a bulk append."""
        return self.pages


def immutable_page(page: Any, page_size: int) -> bytes:
    """A page as exact `bytes`: others' buffers are copied, since they could change or lie later."""
    if type(page) is not bytes:
        try:
            page = memoryview(page).tobytes()
        except Exception as error:  # a class with a buffer of its own may raise anything
            raise ProtocolError(f"a page must be a bytes-like object, not {type(page).__name__}") from error
    if len(page) != page_size:
        raise WrongPageLength(f"a page of {len(page)} bytes was sent; the page size is {page_size}")
    return page  # type: ignore[no-any-return]


def check_number(name: str, value: Any, least: int, most: int) -> None:
    """Raise `InvalidRequest` unless `value` is an int (a bool is none) between the two, inclusive."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{name} must be an int from {least} to {most}, not {value!r}")


def check_read(message: DataRead) -> None:
    check_number("pgid", message.pgid, 0, LARGEST_PGID)
    check_number("n", message.n, 1, LARGEST_PGID + 1)
    if message.chunk is not None:
        check_number("chunk", message.chunk, 1, LARGEST_PGID)
    if message.to is not None and not is_address(message.to):
        raise InvalidRequest(f"`to` must be an actor's ref, not {message.to!r}")


def check_write(message: DataWrite | DataAppend) -> None:
    if isinstance(message, DataWrite):
        check_number("pgid", message.pgid, 0, LARGEST_PGID)
    check_number("n", message.n, 1, LARGEST_PGID + 1)
    durability: Any = message.durability
    if type(durability) is not str or durability not in ("wal", "memory"):
        raise InvalidRequest(f'durability must be "wal" or "memory", not {message.durability!r}')


def check_growth(name: str, page_count: int, n: int) -> None:
    """Raise `RequestTooLarge` if a page file of so many pages cannot have n more."""
    if page_count + n > LARGEST_PGID + 1:
        raise RequestTooLarge(
            f"{name!r} has {page_count} pages; {n} more would pass the limit of {LARGEST_PGID + 1} pages for a file"
        )


def is_address(client: Any) -> bool:
    """Whether messages can be told to it."""
    try:
        hash(client)
        return callable(getattr(client, "tell", None)) and callable(getattr(client, "is_alive", None))
    except Exception:
        return False
