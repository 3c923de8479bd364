"""The sidecar of a page file on disk (`pfs.wal.sidecar` has its format), with the blocks of it that are in memory.

Pages of a file are read by several threads, also by one that must never wait, while one thread writes other pages of
it, whose records may be in the same blocks.  So that nobody reads a block half written, or keeps an old one:

* a block that is being written is looked up in memory, before the write begins and until it has returned;
* what was read from disk counts, and is kept, only if no write of this file began or ended meanwhile;
* nothing waits for a disk while it holds the mutex.

Only valid blocks are kept, of all files of a store together as many as the cache's capacity allows.  The file is made
with the first block written, and a block beyond its end, or in a hole, is one of zeros: never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pfs.cache.lru import LruCache
from pfs.errors import FileMissing
from pfs.files.exclusive import Exclusive
from pfs.files.open_options import OpenOptions
from pfs.files.virtual_file import VirtualFile, VirtualFilePool
from pfs.wal.sidecar import BLOCK_SIZE, EMPTY_BLOCK, block_is_valid

CACHE_BYTES = 4 << 20
"""Memory for sidecar blocks: for about 200,000 pages."""

_BLOCK_CHARGE = BLOCK_SIZE + 200
_EXISTING = OpenOptions(write=True)
_PERHAPS_NEW = OpenOptions(write=True, create=True)

Blocks = list[bytes | None]
"""Consecutive blocks of a sidecar; None where what is on disk is not valid."""


class SidecarCache:
    """Sidecar blocks in memory, of all page files of a store.  capacity: bytes."""

    def __init__(self, pool: VirtualFilePool, capacity: int = CACHE_BYTES) -> None:
        self.mutex = pool.fs.mutex()
        self.blocks: LruCache[tuple[int, int], bytes] = LruCache(capacity, lambda _: _BLOCK_CHARGE)
        """By file id and number; changed under the mutex only."""


class SidecarFile:
    """The sidecar of one page file (see the module).  `write` and `cut` are for one thread at a time."""

    def __init__(self, pool: VirtualFilePool, path: str, file_id: int, cache: SidecarCache) -> None:
        self.path = path
        self._pool = pool
        self._file_id = file_id
        self._cache = cache
        self._opening = Exclusive(pool.fs)
        self._file: VirtualFile | None = None
        self._changes = 0
        """Raised when a write begins, and when it ends."""
        self._writing: dict[int, bytes] = {}

    def open_existing(self) -> None:
        """Open the file if it is there, so that the first `try_read` need not fail."""
        self._open(create=False)

    def read(self, first: int, n: int) -> Blocks:
        """Blocks first .. first+n-1.  Raises `PageIOError`, `Busy`."""
        while True:
            found, changes = self._in_memory(first, n)
            if None not in found:
                return found
            buffer = bytearray(n * BLOCK_SIZE)
            file = self._open(create=False)
            if file is not None:
                file.readv_at((buffer,), first * BLOCK_SIZE)
            blocks = self._checked(first, buffer, changes)
            if blocks is not None:
                return blocks

    def try_read(self, first: int, n: int) -> Blocks | None:
        """The same if nobody has to wait for it, else None."""
        found, changes = self._in_memory(first, n)
        if None not in found:
            return found
        file = self._file
        buffer = bytearray(n * BLOCK_SIZE)
        if file is None or file.try_readv_at_nowait((buffer,), first * BLOCK_SIZE) != len(buffer):
            return None
        return self._checked(first, buffer, changes)

    def write(self, first: int, blocks: Sequence[bytes]) -> None:
        """Write whole blocks; on `NoSpace` what is on disk is as it was, or as it is to be."""
        cache = self._cache
        numbered = dict(enumerate(blocks, first))
        with cache.mutex:
            self._changes += 1
            self._writing = numbered
        written = False
        try:
            file = self._open(create=True)
            assert file is not None
            file.write_all_at(b"".join(blocks), first * BLOCK_SIZE)
            written = True
        finally:
            with cache.mutex:
                self._changes += 1
                self._writing = {}
                for number, block in numbered.items():
                    if written:
                        cache.blocks.insert((self._file_id, number), block)
                    else:
                        cache.blocks.remove((self._file_id, number))

    def cut(self, n: int) -> None:
        """Keep the first n blocks only."""
        file = self._open(create=False)
        if file is None:
            return
        cache = self._cache
        end = -(-file.metadata().size // BLOCK_SIZE)
        if end <= n:
            return
        file.set_len(n * BLOCK_SIZE)
        with cache.mutex:
            self._changes += 1
            for number in range(n, end):
                cache.blocks.remove((self._file_id, number))

    def sync(self) -> None:
        """Make durable what was written."""
        if self._file is not None:
            self._file.sync_data()

    def close(self) -> None:
        """Sync what is not, and close; the next use opens the file again."""
        with self._opening:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _in_memory(self, first: int, n: int) -> tuple[Blocks, int]:
        cache, file_id = self._cache, self._file_id
        with cache.mutex:
            get, writing = cache.blocks.get, self._writing
            found = [writing.get(number) or get((file_id, number)) for number in range(first, first + n)]
            return found, self._changes

    def _checked(self, first: int, buffer: bytearray, changes: int) -> Blocks | None:
        """The blocks that were read, kept for the next time; None if one of the file was being written."""
        view = memoryview(buffer)
        blocks: Blocks = []
        for number, offset in enumerate(range(0, len(buffer), BLOCK_SIZE), first):
            block = bytes(view[offset : offset + BLOCK_SIZE])
            if block == EMPTY_BLOCK:
                block = EMPTY_BLOCK  # one object for all of them
            blocks.append(block if block_is_valid(block, self._file_id, number) else None)
        cache = self._cache
        with cache.mutex:
            if changes != self._changes:
                return None
            for number, valid in enumerate(blocks, first):
                if valid is not None:
                    cache.blocks.insert((self._file_id, number), valid)
        return blocks

    def _open(self, *, create: bool) -> VirtualFile | None:
        """The open file; None if it does not exist and is not to be made."""
        file = self._file
        if file is not None:
            return file
        options = _PERHAPS_NEW if create else _EXISTING
        with self._opening, suppress(*(() if create else (FileMissing,))):
            self._file = self._file or self._pool.open(self.path, options, kind="sidecar")
        return self._file
