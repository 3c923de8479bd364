"""Small logs on a simulated disk, for tests of reading and recovery."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.bodies import Body
from pfs.wal.control_file import CONTROL_FILE, ControlData, ControlFile
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.log_files import LogFiles
from pfs.wal.reader import LogReader, LogScan
from pfs.wal.records import Record, Stamp, encode, seed_of
from pfs.wal.recovery import StartedLog, start_log
from pfs.wal.redo import CatalogChange

SIZE = 4096
SYSTEM = 77
START = SIZE + 64
PAGE = b"p" * 512


class Recorder:
    """A `RedoTarget` that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.catalog: list[CatalogChange] = []
        self.blocks: list[tuple[int, int, bytes]] = []
        self.pages: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.page_counts: dict[int, int] = {}
        self.longest_run = 0
        self.on_disk: dict[tuple[int, int], bytes] = {}

    def change_catalog(self, changes: Sequence[CatalogChange]) -> None:
        self.calls.append("catalog")
        self.catalog += changes

    def read_sidecar_block(self, file_id: int, block: int) -> bytes | None:
        return self.on_disk.get((file_id, block))

    def restore_sidecar_block(self, file_id: int, block: int, image: bytes) -> None:
        self.calls.append("block")
        self.blocks.append((file_id, block, image))

    def write_pages(self, file_id: int, pgid: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        self.calls.append("pages")
        self.longest_run = max(self.longest_run, len(pages))
        for number, (page, lsn) in enumerate(zip(pages, lsns, strict=True), pgid):
            assert (file_id, number) not in self.pages, "a page is written twice"
            self.pages[file_id, number] = (page, lsn)

    def set_page_count(self, file_id: int, page_count: int) -> None:
        self.calls.append("count")
        self.page_counts[file_id] = page_count

    def sync(self) -> None:
        self.calls.append("sync")


def start(fs: SimulatedFileSystem, target: Recorder | None = None, **options: object) -> StartedLog:
    """Start the log of a directory, with segments of 4 KiB if it is new."""
    settings = {"new_system_id": lambda: SYSTEM, "segment_size": SIZE} | options
    return start_log(fs, target or Recorder(), **settings)  # type: ignore[arg-type]


def close(log: StartedLog) -> None:
    log.files.close()
    log.control.close()


def flush(log: StartedLog) -> None:
    """Make everything inserted durable, with as many segments as that takes."""
    while (batch := log.buffer.next_batch()) is not None:
        for part in batch.parts:
            log.files.prepare(part.segment, log.buffer.epoch)
        log.files.write(batch)
        log.files.sync()
        log.buffer.batch_flushed(batch)


def write(log: StartedLog, transaction: int, file_id: int, pgid: int, pages: Sequence[bytes], page_count: int) -> int:
    """Log a transaction, whole; the LSN of its COMMIT."""
    log.buffer.limit = NO_LIMIT
    for index, page in enumerate(pages):
        log.buffer.insert_page(transaction, file_id, index, page)
    place = log.buffer.insert_commit(transaction, file_id, pgid, len(pages), page_count)
    log.buffer.settle(transaction)
    return place.lsn


def forge(
    fs: SimulatedFileSystem,
    lsn: int,
    body: Body,
    *,
    claims: int | None = None,
    prev_lsn: int = 0,
    durable_upto: int = 0,
    epoch: int = 1,
    system: int = SYSTEM,
) -> int:
    """Write a record at a position, by hand; where it ends.  claims: the LSN that it says it has."""
    stamp = Stamp(lsn if claims is None else claims, prev_lsn, durable_upto, epoch, seed_of(system))
    raw = b"".join(encode(stamp, body))
    poke(fs, lsn, raw)
    return lsn + len(raw)


def poke(fs: SimulatedFileSystem, lsn: int, data: bytes) -> None:
    """Overwrite bytes at a position of the log."""
    files = LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)
    segment, offset = divmod(lsn, SIZE)
    descriptor = fs.open(files.path(segment), os.O_RDWR)
    fs.pwritev(descriptor, [data], offset)
    fs.fsync(descriptor)
    fs.close(descriptor)


def poke_control(fs: SimulatedFileSystem, data: bytes, offset: int) -> None:
    descriptor = fs.open(CONTROL_FILE, os.O_RDWR)
    fs.pwritev(descriptor, [data], offset)
    fs.fsync(descriptor)
    fs.close(descriptor)


def bare(fs: SimulatedFileSystem, *segments: int) -> LogReader:
    """A reader over empty segments, for forged records."""
    files = LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)
    files.make_directory()
    for segment in segments:
        files.prepare(segment, 1)
    return LogReader(files)


def scanned(reader: LogReader, start: int = START, newest_epoch: int = 99) -> tuple[list[Record], LogScan]:
    reader.forget()
    scan = LogScan(reader, start, newest_epoch)
    return list(scan), scan


def control_of(fs: SimulatedFileSystem) -> ControlData:
    control = ControlFile(fs)
    try:
        return control.read()
    finally:
        control.close()
