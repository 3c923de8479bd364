"""Data directories on a simulated disk, made by the plain code that a system stands on, and damaged on purpose."""

from __future__ import annotations

import os
from contextlib import closing

from pfs.files.redo_target import StoreRedoTarget
from pfs.files.store import PageFileStore
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.checkpoint import insert_checkpoint, record_checkpoint
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.log_view import LogView
from pfs.wal.recovery import StartedLog, flush_log, start_log

WAL_SEGMENT = 32 << 10
SEGMENT = 16 * 512
A, B = 16384, 16385
PAGES = 40
"""Of page file "a": in three segments, with two sidecar blocks."""


class Directory:
    """A data directory with "a", 40 pages of 512 bytes, and "b", 3 pages of 1,024 bytes."""

    def __init__(self) -> None:
        self.fs = SimulatedFileSystem()
        self.transaction = 0

    # ------------------------------------------------------------------------------------------ making

    def session(self, *writes: tuple[int, int, list[bytes], int], stop: bool = True) -> None:
        """Recover, log writes (file id, pgid, pages, page count), and stop in order, or end as in a crash."""
        with closing(self.store()) as store:
            log = self.start(store)
            for write in writes:
                self.log_write(log, *write)
                flush_log(log.files, log.buffer)
            close(log)
            if stop:
                log = self.start(store)
                buffer, redo_lsn = log.buffer, log.buffer.next_lsn
                place = insert_checkpoint(
                    buffer,
                    redo_lsn=redo_lsn,
                    page_counts=log.page_counts,
                    next_file_id=1,
                    next_transaction=log.next_transaction,
                    shutdown=True,
                )
                flush_log(log.files, buffer)
                record_checkpoint(log.control, place, redo_lsn, buffer.flushed, shutdown=True)
                close(log)

    def store(self) -> PageFileStore:
        return PageFileStore(self.fs, clock=lambda: 0.0, segment_bytes=SEGMENT)

    def start(self, store: PageFileStore) -> StartedLog:
        log = start_log(self.fs, StoreRedoTarget(store), new_system_id=lambda: 77, segment_size=WAL_SEGMENT)
        log.buffer.limit = NO_LIMIT
        return log

    def log_write(self, log: StartedLog, file_id: int, pgid: int, pages: list[bytes], page_count: int) -> int:
        self.transaction = max(self.transaction + 1, log.next_transaction)
        for index, page in enumerate(pages):
            log.buffer.insert_page(self.transaction, file_id, index, page)
        place = log.buffer.insert_commit(self.transaction, file_id, pgid, len(pages), page_count)
        log.buffer.settle(self.transaction)
        return place.lsn

    def forget_log(self) -> None:
        """Remove what is before the redo point, as recycling does."""
        view = LogView(self.fs)
        for number in view.files.segments():
            if number < view.redo_lsn // WAL_SEGMENT:
                self.fs.unlink(view.files.path(number))

    # ------------------------------------------------------------------------------------------ damaging

    def read(self, path: str) -> bytes:
        descriptor = self.fs.open(path, os.O_RDONLY)
        buffer = bytearray(self.fs.fstat(descriptor).size)
        if buffer:
            self.fs.preadv(descriptor, [buffer], 0)
        self.fs.close(descriptor)
        return bytes(buffer)

    def put(self, path: str, content: bytes) -> None:
        """Let a file hold this and nothing else."""
        descriptor = self.fs.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if content:
            self.fs.pwritev(descriptor, [content], 0)
        self.fs.fsync(descriptor)
        self.fs.close(descriptor)

    def change(self, path: str, offset: int, content: bytes) -> None:
        old = self.read(path)
        self.put(path, old[:offset] + content + old[offset + len(content) :])

    def flip(self, path: str, offset: int) -> None:
        self.change(path, offset, bytes([self.read(path)[offset] ^ 0x40]))

    def cut(self, path: str, length: int) -> None:
        self.put(path, self.read(path)[:length])

    def files(self) -> dict[str, bytes]:
        """Page files and sidecars."""
        return {path: content for path, content in self.fs.durable_files.items() if path.startswith("base/")}

    def pages(self) -> dict[str, bytes]:
        """Page files alone: a sidecar changes when a page is written again as it was."""
        return {path: content for path, content in self.files().items() if not path.endswith("_sum")}


def page(number: int, round_: int = 0, size: int = 512) -> bytes:
    return bytes([number + 1, round_]) * (size // 2)


def made_in(store: PageFileStore, name: str, page_size: int) -> None:
    """Make a page file, of which the log says nothing."""
    entry = store.catalog.make_file(name, page_size)
    store.catalog.table = store.catalog.table.added(entry)
    store.make_durable(store.catalog.table)


def made(*, stop: bool = True) -> Directory:
    """A directory whose log still has everything."""
    directory = Directory()
    with closing(directory.store()) as store:
        made_in(store, "a", 512)
        made_in(store, "b", 1024)
    writes = [(A, first, [page(n) for n in range(first, first + 10)], first + 10) for first in range(0, PAGES, 10)]
    directory.session(*writes, (B, 0, [page(n, 7, 1024) for n in range(3)], 3), stop=stop)
    return directory


def close(log: StartedLog) -> None:
    log.files.close()
    log.control.close()
