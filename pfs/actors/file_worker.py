"""`VirtualFileWorker`: the actors that wait for disks, so that nobody else has to.

A worker is a blocking actor that carries out block reads, writes, syncs and truncations and tells the result to
`reply_to`.  It decides nothing: every failure goes to whoever waits, as the error in the reply.  Workers share the
virtual files of the system; reads have workers of their own, so that a slow sync does not hold them up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pykka

from pfs.actors import Address, BlockingActor
from pfs.errors import FatalError, PfsError
from pfs.files.block_file import BlockFile


class ReadBlocks(msgspec.Struct, frozen=True, gc=False):
    """Read n blocks; replied with `BlocksRead`."""

    file: BlockFile
    block: int
    n: int
    reply_to: Address
    token: Any


class WriteBlocks(msgspec.Struct, frozen=True, gc=False):
    """Write blocks; replied with `BlocksWritten`."""

    file: BlockFile
    block: int
    pages: tuple[bytes, ...]
    reply_to: Address
    token: Any


class SyncBlocks(msgspec.Struct, frozen=True, gc=False):
    """Make all that was written to a file durable; replied with `BlocksWritten`."""

    file: BlockFile
    reply_to: Address
    token: Any


class TruncateBlocks(msgspec.Struct, frozen=True, gc=False):
    """Cut a file to n blocks, if it has more, and make that durable; replied with `BlocksWritten`."""

    file: BlockFile
    n: int
    reply_to: Address
    token: Any


class BlocksRead(msgspec.Struct, frozen=True, gc=False):
    """The blocks that were asked for, in order; in place of one that could not be read, why."""

    token: Any
    pages: list[bytes | PfsError]


class BlocksWritten(msgspec.Struct, frozen=True, gc=False):
    """A write, sync or truncation has ended; `error` is None if it succeeded."""

    token: Any
    error: PfsError | None


class VirtualFileWorker(BlockingActor):
    """Carries out what may wait for a disk (see the module)."""

    def on_receive(self, message: Any) -> None:
        match message:
            case ReadBlocks(file, block, n, reply_to, token):
                _reply(reply_to, BlocksRead(token, _read(file, block, n)))
            case WriteBlocks(file, block, data, reply_to, token):
                _reply(reply_to, BlocksWritten(token, _attempt(lambda: file.write(block, data))))
            case SyncBlocks(file, reply_to, token):
                _reply(reply_to, BlocksWritten(token, _attempt(file.sync)))
            case TruncateBlocks(file, n, reply_to, token):
                _reply(reply_to, BlocksWritten(token, _attempt(lambda: _truncate(file, n))))


def _read(file: BlockFile, block: int, n: int) -> list[bytes | PfsError]:
    pages: list[bytes | PfsError] = []
    error = _attempt(lambda: pages.extend(file.read(block, n)))
    if error is None:
        return pages
    if n == 1 or isinstance(error, FatalError):
        return [error] * n
    for number in range(block, block + n):  # one bad block must not cost its neighbours
        pages += _read(file, number, 1)
    return pages


def _truncate(file: BlockFile, n: int) -> None:
    if n < file.block_count():
        file.truncate(n)
    file.sync()


def _attempt(call: Callable[[], None]) -> PfsError | None:
    try:
        call()
    except PfsError as error:
        return error
    except Exception as error:  # what nobody foresaw must not leave somebody waiting
        failure = FatalError(f"a file call failed in a way that was not foreseen: {error!r}")
        failure.__cause__ = error
        return failure
    return None


def _reply(reply_to: Address, reply: Any) -> None:
    try:
        reply_to.tell(reply)
    except pykka.ActorDeadError:
        pass  # whoever asked is gone, and its requests with it
