"""Repair: pages whose content is proven are logged again, and recovery writes them.

A page is proven by its newest committed image in the log, or by an image of its record that it matches.  It becomes a
transaction of its own at the end of the log, and then the directory is recovered, as after any crash.  So a repair that
is itself cut short does no harm, and there is no second way of writing pages, sidecars and control files.

The order: files that are too short are made long enough for recovery to accept them, if the log has all pages that they
lack; recovery; the pages logged; recovery again, which writes them; strays removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from pfs.check.pages import DamagedPage
from pfs.files.catalog_table import CatalogEntry
from pfs.files.filesystem import FileSystem
from pfs.files.redo_target import StoreRedoTarget
from pfs.files.relation import Fork, directory, path
from pfs.files.segments import SegmentLayout
from pfs.files.store import PageFileStore
from pfs.wal.blocking_io import close_file, failing
from pfs.wal.bodies import PAGE_IMAGE
from pfs.wal.checkpoint import insert_checkpoint, record_checkpoint
from pfs.wal.control_file import CONTROL_FILE
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.reader import LogReader
from pfs.wal.records import image_page
from pfs.wal.recovery import Progress, StartedLog, flush_log, start_log

_PAGES_PER_TRANSACTION = 64


def repair(
    fs: FileSystem,
    damaged: Sequence[DamagedPage],
    *,
    segment_bytes: int,
    progress: Callable[[Progress], None],
) -> None:
    """Recover the directory, write the damaged pages again, remove strays; the directory is stopped in order then.

    Raises what `PageFileStore` and `start_log` raise.
    """
    short = {page.entry.number: page for page in damaged if page.is_missing}
    with closing(PageFileStore(fs, clock=lambda: 0.0, segment_bytes=segment_bytes)) as store:
        for page in short.values():
            _lengthen(fs, page.entry, page.page_count, SegmentLayout(page.entry.page_size, segment_bytes))
        if fs.exists(CONTROL_FILE):
            log = _start(store, progress)
            try:
                _log_pages(log, damaged)
            finally:
                _close(log)
            log = _start(store, progress)
            try:
                _stop(log)
            finally:
                _close(log)
        store.catalog.remove_strays()


def _lengthen(fs: FileSystem, entry: CatalogEntry, page_count: int, layout: SegmentLayout) -> None:
    """Let the segments of a page file have the lengths of so many pages; those that are longer stay so."""
    place = directory(entry.address)
    with failing("rename", f"make room in {place!r}"):
        for parent in ("base", place):
            if not fs.exists(parent):
                fs.mkdir(parent)
    for segment in range(layout.active_segments(page_count)):
        name = path(entry.address, Fork.MAIN, segment)
        with failing("resize", f"lengthen {name!r}"):
            descriptor = fs.open(name, os.O_RDWR | os.O_CREAT)
            try:
                if fs.fstat(descriptor).size < layout.segment_length(segment, page_count):
                    fs.ftruncate(descriptor, layout.segment_length(segment, page_count))
                fs.fsync(descriptor)
            finally:
                close_file(fs, descriptor)
    with failing("sync", f"sync directory {place!r}"):
        for parent in ("", "base", place):
            fs.sync_directory(parent)


def _start(store: PageFileStore, progress: Callable[[Progress], None]) -> StartedLog:
    log = start_log(store.file_system, StoreRedoTarget(store), new_system_id=lambda: 0, progress=progress)
    log.buffer.limit = NO_LIMIT  # segments are made as they are needed
    return log


def _log_pages(log: StartedLog, damaged: Sequence[DamagedPage]) -> None:
    reader = LogReader(log.files)
    for number, run in enumerate(_runs(damaged)):
        transaction = log.next_transaction + number
        for index, page in enumerate(run):
            source = page.source
            content = source if isinstance(source, bytes) else image_page(reader.record_at(source, only=PAGE_IMAGE))
            log.buffer.insert_page(transaction, page.entry.number, index, content)
        first = run[0]
        page_count = log.page_counts.get(first.entry.number, first.page_count)
        log.buffer.insert_commit(transaction, first.entry.number, first.pgid, len(run), page_count)
        flush_log(log.files, log.buffer)


def _runs(damaged: Sequence[DamagedPage]) -> Iterator[list[DamagedPage]]:
    """Neighbouring pages, as many together as one transaction takes."""
    run: list[DamagedPage] = []
    for page in damaged:
        follows = run and (page.entry, page.pgid) == (run[-1].entry, run[-1].pgid + 1)
        if run and (not follows or len(run) == _PAGES_PER_TRANSACTION):
            yield run
            run = []
        run.append(page)
    if run:
        yield run


def _stop(log: StartedLog) -> None:
    buffer = log.buffer
    redo_lsn = buffer.next_lsn
    place = insert_checkpoint(
        buffer,
        redo_lsn=redo_lsn,
        page_counts=log.page_counts,
        next_file_id=log.next_file_id,
        next_transaction=log.next_transaction,
        shutdown=True,
    )
    flush_log(log.files, buffer)
    record_checkpoint(log.control, place, redo_lsn, buffer.flushed, shutdown=True)


def _close(log: StartedLog) -> None:
    log.files.close()
    log.control.close()
