"""`VirtualFileWorker`: the actors that wait for disks, so that nobody else has to.

A worker is a blocking actor that carries out block reads, writes, syncs and truncations and tells the result to
`reply_to`.  Every failure goes to whoever waits, as the error in the reply; only a change for which there is no
descriptor to be had is tried again for a while.  Workers share the virtual files of the system; reads have workers of
their own, so that a slow sync does not hold them up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pfs.actors import Address, BlockingActor
from pfs.actors.monitors import tell_if_alive
from pfs.errors import Busy, FatalError, PfsError
from pfs.files.block_file import BlockFile

MOST_TRIES = 50
"""How often a change is tried when there is no descriptor to be had."""
RETRY_SECONDS = 0.02
"""Seconds between two tries."""


class ReadBlocks(msgspec.Struct, frozen=True, gc=False):
    """Read n blocks; replied with `BlocksRead`."""

    file: BlockFile
    block: int
    n: int
    reply_to: Address
    token: Any


class Carry(msgspec.Struct, frozen=True, gc=False):
    """Carry out a call that may wait for a disk; replied with `Carried`."""

    call: Callable[[], Any]
    reply_to: Address
    token: Any


class Carried(msgspec.Struct, frozen=True, gc=False):
    """The call has ended: its result, or the error that it raised."""

    token: Any
    result: Any
    error: PfsError | None


class TryAgain(msgspec.Struct, frozen=True, gc=False):
    """The worker to itself: there may be a descriptor by now."""

    change: Carry
    tries: int


class BlocksRead(msgspec.Struct, frozen=True, gc=False):
    """The blocks that were asked for, in order; in place of one that could not be read, why."""

    token: Any
    pages: list[bytes | PfsError]


class VirtualFileWorker(BlockingActor):
    """Carries out what may wait for a disk (see the module)."""

    def on_receive(self, message: Any) -> None:
        match message:
            case ReadBlocks(file, block, n, reply_to, token):
                tell_if_alive(reply_to, BlocksRead(token, _read(file, block, n)))
            case TryAgain(change, tries):
                self._carry_out(change, tries)
            case Carry():
                self._carry_out(message, 1)

    def _carry_out(self, change: Carry, tries: int) -> None:
        """Carry a call out; without a descriptor nothing has been changed, and there may be one a moment later."""
        results: list[Any] = []
        error = _attempt(lambda: results.append(change.call()))
        if isinstance(error, Busy) and tries < MOST_TRIES:
            self.send_after(RETRY_SECONDS, TryAgain(change, tries + 1))
        else:
            tell_if_alive(change.reply_to, Carried(change.token, results[0] if results else None, error))


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
