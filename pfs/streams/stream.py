"""`Stream`: the actor between a producer and its consumer, one for a session and direction.

Picture a circular train.  The producer fills a wagon (`DataPages`) and sends it through the stream to the consumer;
the empty wagon comes back through the stream (`Empty`).  A transfer begins with `credits` empty wagons at the
producer, so never more than that many data messages are on their way, whatever the consumer does; nobody polls.
`StreamEnd` travels behind the data, so it cannot overtake it.

A session keeps its stream and uses it for all its requests of that direction; a transfer is told apart by its ref.
The server opens a transfer (`OpenTransfer`) and may close it before its end (`CloseTransfer`); then a consumer that is
not the client is told `RequestFailed`, behind the data, so that it does not wait for more.  The stream tells the server
`TransferFailed` when one end breaks the rules or is gone:

* a data message without credit or after the end, or credits that were never out: the request ends with
  `ProtocolError`, unless it has ended already, or is a write that is being applied;
* the consumer died: its transfers end with `SessionEnded`.

Credits for a transfer that has ended are dropped: they may have been on their way.  Data for a ref that the stream has
never heard of ends the request, if there is one that still waits; the client gets one `RequestFailed(ProtocolError)`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from pfs.actors import Actor, Address, Down
from pfs.errors import PfsError, ProtocolError, SessionEnded
from pfs.protocol import DataPages, Empty, RequestFailed, StreamEnd
from pfs.streams.transfers import Transfer

REMEMBERED = 256
"""How many ended transfers a stream remembers, to tell late messages from wrong ones."""


class OpenTransfer(msgspec.Struct, frozen=True, gc=False):
    """The server opens a transfer from `producer` to `consumer`, one of which is the server itself."""

    ref: int
    producer: Address
    consumer: Address
    credits: int


class CloseTransfer(msgspec.Struct, frozen=True, gc=False):
    """The server ends a transfer before its `StreamEnd`, because its request has failed with this error."""

    ref: int
    error: PfsError


class TransferFailed(msgspec.Struct, frozen=True, gc=False):
    """The stream tells the server that a transfer of this client has ended before its `StreamEnd`.

    `opened`: False if the server never opened it: then the ref is that of a request that still waits, or of none.
    """

    client: Address
    ref: int
    error: PfsError
    opened: bool = True


class Received(msgspec.Struct, frozen=True, gc=False):
    """What a stream passes on to the server: a writer's `DataPages` or `StreamEnd`, or a reader's `Empty`.

    Refs are unique only for each client, so the client goes with it.
    """

    client: Address
    message: DataPages | StreamEnd | Empty


class Stream(Actor):
    """One direction of one session (see the module).

    `server` and `client` are the two ends; `client` is told of data with an unknown ref.
    """

    inline = True

    def __init__(self, server: Address, client: Address) -> None:
        super().__init__()
        self._server = server
        self._client = client
        self._transfers: dict[int, Transfer] = {}
        self._ended: deque[int] = deque(maxlen=REMEMBERED)
        self._watched: set[Address] = set()

    def on_receive(self, message: Any) -> None:
        kind = type(message)
        if kind is DataPages:
            self._data(message)
        elif kind is Empty:
            self._empty(message)
        elif kind is StreamEnd:
            self._end(message)
        elif kind is OpenTransfer:
            self._open(message)
        elif kind is CloseTransfer:
            self._close(message)
        elif kind is Down:
            self._down(message.ref)

    def on_stop(self) -> None:
        for end in self._watched:
            self.scheduler.unwatch(end, self._actor_ref)

    def _open(self, message: OpenTransfer) -> None:
        end = message.consumer
        if end is not self._server and end is not self._client and end not in self._watched:
            self._watched.add(end)
            self.scheduler.watch(end, self._actor_ref)
        self._transfers[message.ref] = Transfer(message.ref, message.producer, message.consumer, message.credits)

    def _data(self, message: DataPages) -> None:
        ref = message.ref
        transfer = self._transfers.get(ref) if type(ref) is int else None
        if transfer is None:
            self._unknown(ref)
            return
        try:
            if message.stream is not self._actor_ref:
                raise ProtocolError(f"request {message.ref}: a data message names another stream than it was sent on")
            transfer.spend()
        except ProtocolError as error:
            self._fail(transfer, error)
            return
        self._pass_on(transfer, transfer.consumer, message)

    def _empty(self, message: Empty) -> None:
        transfer = self._transfer(message.ref)
        if transfer is None:
            return
        try:
            transfer.give_back(message.n)
        except ProtocolError as error:
            self._fail(transfer, error)
            return
        self._pass_on(transfer, transfer.producer, message)

    def _end(self, message: StreamEnd) -> None:
        transfer = self._transfer(message.ref)
        if transfer is None:
            self._unknown(message.ref)
            return
        self._forget(message.ref)
        self._pass_on(transfer, transfer.consumer, message)

    def _close(self, message: CloseTransfer) -> None:
        transfer = self._transfers.get(message.ref)
        if transfer is None:
            return
        self._forget(message.ref)
        self._tell_consumer(transfer, message.error)

    def _transfer(self, ref: Any) -> Transfer | None:
        return self._transfers.get(ref) if type(ref) is int else None

    def _pass_on(self, transfer: Transfer, end: Address, message: Any) -> None:
        try:
            end.tell(Received(self._client, message) if end is self._server else message)
        except Exception as error:
            self._fail(transfer, SessionEnded(f"request {transfer.ref}: {end} has ended or cannot be told: {error}"))

    def _fail(self, transfer: Transfer, error: PfsError) -> None:
        self._forget(transfer.ref)
        self._tell_consumer(transfer, error)
        _told(self._server, TransferFailed(self._client, transfer.ref, error))

    def _tell_consumer(self, transfer: Transfer, error: PfsError) -> None:
        """The client is told of a failed request by the server; another consumer hears of it here."""
        if transfer.consumer is not self._client and transfer.consumer is not self._server:
            _told(transfer.consumer, RequestFailed(transfer.ref, error))

    def _forget(self, ref: int) -> None:
        if self._transfers.pop(ref, None) is not None:
            self._ended.append(ref)

    def _unknown(self, ref: Any) -> None:
        if type(ref) is int and ref in self._ended:
            error = ProtocolError(f"request {ref}: data or a StreamEnd came after the end of its transfer")
            _told(self._server, TransferFailed(self._client, ref, error))
            return
        error = ProtocolError(f"request {ref!r}: data came for a transfer that is not open: wait for StreamReady")
        if type(ref) is int:  # the server knows whether it is the ref of an open request, which then ends by this
            _told(self._server, TransferFailed(self._client, ref, error, opened=False))
        else:
            _told(self._client, RequestFailed(ref, error))

    def _down(self, end: Address) -> None:
        self._watched.discard(end)
        for transfer in list(self._transfers.values()):
            if end is transfer.consumer:
                self._fail(transfer, SessionEnded(f"request {transfer.ref}: {end} has ended"))


def _told(end: Address, message: Any) -> Exception | None:
    """Tell a message; returns why that was not possible (an address of others' making may raise anything)."""
    try:
        end.tell(message)
    except Exception as error:
        return error
    return None
