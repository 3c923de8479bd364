"""`BlockFile`: what a page file server needs of the file below it, whatever that is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class BlockFile(Protocol):
    """A file of equal blocks, numbered from 0.  Thread-safe; all but `try_read` may block.

    Errors: a read raises `PageIOError`, `PageCorrupt` or `OutOfRange`; a write or truncation `NoSpace`, or a
    `FatalError`; a sync a `FatalError`.
    """

    @property
    def name(self) -> str:
        """For messages: where the file is."""
        ...

    @property
    def block_size(self) -> int: ...

    def block_count(self) -> int: ...

    def try_read(self, block: int, n: int) -> list[bytes] | None:
        """The blocks if they can be had without waiting for a disk, else None."""
        ...

    def read(self, block: int, n: int) -> list[bytes]: ...

    def write(self, block: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        """Write blocks, with the LSNs of their commits; the file grows if they lie past its end."""
        ...

    def writeback(self, block: int, n: int) -> None:
        """Let the disk begin to write existing blocks out, so that a later sync has less to do.  A hint."""
        ...

    def sync(self) -> None:
        """Make everything written durable."""
        ...

    def truncate(self, blocks: int) -> None: ...

    def close(self) -> None: ...
