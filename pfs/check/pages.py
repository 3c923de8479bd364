"""Page files: are their files as long as they should be, and is every page the one that it should be?

What recovery will write, or cut off, is not judged.  A sidecar block that recovery will restore is judged as it will be
then.  Everything else must be on the disk: each page that was committed, with a record that it matches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from pfs.check.findings import Findings, Kind, Report
from pfs.check.log import LogFacts
from pfs.errors import PfsError, ReadFailed
from pfs.files.catalog import PAGE_FILES
from pfs.files.catalog_table import CatalogEntry, CatalogTable
from pfs.files.filesystem import FileSystem
from pfs.files.relation import Fork, parse_file_name, path, sidecar_path
from pfs.files.segments import SegmentLayout
from pfs.wal.blocking_io import close_file, failing, read_fully
from pfs.wal.bodies import SIDECAR_IMAGE
from pfs.wal.lsn import format_lsn
from pfs.wal.recovery import Progress
from pfs.wal.sidecar import (
    BLOCK_SIZE,
    RECORDS_PER_BLOCK,
    PageRecord,
    block_count,
    block_is_valid,
    locate,
    page_matches,
    read_record,
)

_BLOCKS_PER_READ = 128


class DamagedPage(NamedTuple):
    """A page that is to be written again, with what is proven to be its content."""

    entry: CatalogEntry
    pgid: int
    page_count: int
    """Of its file."""
    is_missing: bool
    """Whether its file ends before it."""
    source: int | bytes
    """The LSN of its newest image; or the page itself, as it is on disk and matches an image of its record."""


def check_pages(
    fs: FileSystem,
    catalog: CatalogTable,
    log: LogFacts,
    found: Findings,
    report: Report,
    segment_bytes: int,
    progress: Callable[[Progress], None],
) -> list[DamagedPage]:
    """Check all page files; the damaged pages that can be repaired."""
    entries = sorted(catalog.entries.values(), key=lambda entry: entry.number)
    sizes = _segment_sizes(fs)
    total = sum(sum(sizes.get(entry.number, {}).values()) for entry in entries)
    damaged: list[DamagedPage] = []
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress(Progress("checking pages", min(done, total), total))

    for entry in entries:
        with ExitStack() as undo:
            layout = SegmentLayout(entry.page_size, segment_bytes)
            file = _PageFile(fs, entry, sizes.get(entry.number, {}), log, found, layout, advance, undo)
            try:
                file.check()
            except (PfsError, OSError) as error:
                found.add("unreadable", path(entry.address), str(error), page_file=entry.name)
            damaged += file.damaged
            report.pages += file.pages_read
    report.page_files = len(entries)
    progress(Progress("checking pages", total, total))
    return damaged


def _segment_sizes(fs: FileSystem) -> dict[int, dict[int, int]]:
    """The lengths of all segment files, by page file and segment."""
    sizes: dict[int, dict[int, int]] = {}
    if fs.exists(PAGE_FILES):
        for name in fs.listdir(PAGE_FILES):
            parsed = parse_file_name(name)
            if parsed is not None and parsed.fork is Fork.MAIN:
                sizes.setdefault(parsed.number, {})[parsed.segment] = fs.stat(f"{PAGE_FILES}/{name}").size
    return sizes


class _PageFile:
    """The check of one page file."""

    def __init__(
        self,
        fs: FileSystem,
        entry: CatalogEntry,
        sizes: dict[int, int],
        log: LogFacts,
        found: Findings,
        layout: SegmentLayout,
        advance: Callable[[int], None],
        undo: ExitStack,
    ) -> None:
        self.fs = fs
        self.entry = entry
        self.file_id = entry.number
        self.log = log
        self.found = found
        self.layout = layout
        self.undo = undo
        self.damaged: list[DamagedPage] = []
        self.pages_read = 0
        plan = log.plan
        self.written = plan.pages.get(self.file_id, {}) if plan else {}
        """The pages that recovery will write."""
        self.newest = log.newest.pages.get(self.file_id, {})
        self.sizes = sizes
        self.advance = advance
        self.page_count = 0
        self.can_fill = False
        self._descriptors: dict[int, int] = {}

    def check(self) -> None:
        log, sizes = self.log, self.sizes
        on_disk = self._count_blocks()
        wanted = log.page_count(self.file_id)
        self.page_count = count = on_disk if wanted is None else wanted
        self.can_fill = self._has_all_missing()
        if 0 not in sizes and not log.is_made(self.file_id):
            self._add("file missing", "the catalog has it, but it is not there", repairable=self.can_fill)
        self._check_sizes(on_disk)
        if on_disk > count and not log.is_recovered(self.file_id):
            self._add(
                "page count", f"it has {on_disk} pages, and {count} were committed", pgid=count, n=on_disk - count
            )
        self._check_blocks()

    # ------------------------------------------------------------------------------------------ sizes

    def _count_blocks(self) -> int:
        """How many pages the file has for a system that opens it: up to the first segment that is not full."""
        blocks = segment = 0
        while segment in self.sizes and blocks == segment * self.layout.blocks_per_segment:
            blocks += self.sizes[segment] // self.layout.block_size
            segment += 1
        return blocks

    def _check_sizes(self, on_disk: int) -> None:
        layout = self.layout
        active = layout.active_segments(max(self.page_count, on_disk))
        for segment, size in sorted(self.sizes.items()):
            place = path(self.entry.address, Fork.MAIN, segment)
            if size > layout.segment_size:
                message = f"it has {size} bytes, more than the {layout.segment_size} of a segment"
                self._add("file size", message, place=place)
            elif size % layout.block_size and not self.log.is_recovered(self.file_id):
                message = f"it has {size} bytes, not a multiple of the page size {layout.block_size}"
                is_cut = self.log.page_count(self.file_id) == on_disk and segment == active - 1
                self._add("file size", message, place=place, repairable=is_cut)
            elif size and segment >= active:
                message = f"it holds {size} bytes behind the end of the page file"
                self.found.add("left over", place, message, damage=False, page_file=self.entry.name)

    def _is_on_disk(self, pgid: int) -> bool:
        segment, offset = self.layout.locate(pgid)
        return self.sizes.get(segment, 0) >= offset + self.layout.block_size

    def _has_all_missing(self) -> bool:
        """Whether the log has all pages that are missing."""
        return self.log.plan is not None and all(
            pgid in self.newest or pgid in self.written for pgid in range(self.page_count) if not self._is_on_disk(pgid)
        )

    # ------------------------------------------------------------------------------------------ sidecar blocks

    def _check_blocks(self) -> None:
        blocks = block_count(self.page_count)
        place = sidecar_path(self.entry.address)
        descriptor = None
        if self.fs.exists(place):
            with failing("open", f"open {place!r}"):
                descriptor = self.fs.open(place, os.O_RDONLY)
            self.undo.callback(close_file, self.fs, descriptor)
        for first in range(0, blocks, _BLOCKS_PER_READ):
            n = min(_BLOCKS_PER_READ, blocks - first)
            content = bytearray(n * BLOCK_SIZE)
            if descriptor is not None:
                read = read_fully(self.fs, descriptor, n * BLOCK_SIZE, first * BLOCK_SIZE, place)
                content[: len(read)] = read
            for number in range(n):
                block = bytes(content[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE])
                self._check_block(first + number, block)
            self.advance(n * RECORDS_PER_BLOCK * self.layout.block_size)

    def _check_block(self, number: int, block: bytes) -> None:
        first = number * RECORDS_PER_BLOCK
        pgids = range(first, min(first + RECORDS_PER_BLOCK, self.page_count))
        judged = [pgid for pgid in pgids if pgid not in self.written]
        if not judged:
            return
        pages = self._read(pgids)
        if not block_is_valid(block, self.file_id, number):
            restored = self._restored(number)
            if restored is None:
                self._judge_without_block(number, judged, pages)
                return
            block = restored
        for pgid in judged:
            self._judge(pgid, pages.get(pgid), read_record(block, pgid - first))

    def _restored(self, number: int) -> bytes | None:
        """A sidecar block as recovery will restore it; None if it will not."""
        plan = self.log.plan
        return None if plan is None else self._block_at(plan.sidecar_blocks.get((self.file_id, number)))

    def _block_at(self, lsn: int | None) -> bytes | None:
        """The image of a sidecar block in the log."""
        if lsn is None or self.log.view is None:
            return None
        return bytes(self.log.view.reader.record_at(lsn, only=SIDECAR_IMAGE).data)

    def _proof(self, pgid: int) -> PageRecord | None:
        """The record of a page in the newest image of its sidecar block that the log has."""
        number, slot = locate(pgid)
        image = self._block_at(self.log.newest.sidecar_blocks.get((self.file_id, number)))
        return None if image is None else read_record(image, slot)

    def _judge_without_block(self, number: int, judged: list[int], pages: dict[int, bytes | PfsError]) -> None:
        for pgid in judged:
            self._add(
                "sidecar block",
                f"block {number} does not match its checksum, so its pages cannot be checked",
                place=sidecar_path(self.entry.address),
                pgid=pgid,
                n=1,
                repairable=self._can_repair(pgid, pages.get(pgid), self._proof(pgid)),
            )

    # ------------------------------------------------------------------------------------------ pages

    def _read(self, pgids: range) -> dict[int, bytes | PfsError]:
        """Pages as they are on disk, in as few calls as there can be; those that are missing are left out."""
        pages: dict[int, bytes | PfsError] = {}
        size = self.layout.block_size
        for run in self.layout.runs(pgids.start, len(pgids)):
            length = min(self.sizes.get(run.segment, 0) - run.offset, run.blocks * size)
            if length < size:
                continue
            first = pgids.start + run.first
            place = path(self.entry.address, Fork.MAIN, run.segment)
            try:
                content = memoryview(read_fully(self.fs, self._descriptor(run.segment), length, run.offset, place))
            except ReadFailed:
                for index in range(length // size):
                    pages[first + index] = self._read_one(first + index, run.segment, place)
                continue
            for index in range(len(content) // size):
                pages[first + index] = bytes(content[index * size : (index + 1) * size])
        self.pages_read += len(pages)
        return pages

    def _read_one(self, pgid: int, segment: int, place: str) -> bytes | PfsError:
        _, offset = self.layout.locate(pgid)
        try:
            return bytes(read_fully(self.fs, self._descriptor(segment), self.layout.block_size, offset, place))
        except ReadFailed as error:
            return error

    def _descriptor(self, segment: int) -> int:
        if segment not in self._descriptors:
            place = path(self.entry.address, Fork.MAIN, segment)
            with failing("open", f"open {place!r}"):
                descriptor = self._descriptors[segment] = self.fs.open(place, os.O_RDONLY)
            self.undo.callback(close_file, self.fs, descriptor)
        return self._descriptors[segment]

    def _judge(self, pgid: int, page: bytes | PfsError | None, record: PageRecord | None) -> None:
        wrong = self._what_is_wrong(pgid, page, record)
        if wrong is not None:
            kind, message = wrong
            proof = self._proof(pgid) if kind == "page record" else None
            repairable = kind != "page from elsewhere" and self._can_repair(pgid, page, proof)
            self._add(kind, message, pgid=pgid, n=1, repairable=repairable)

    def _what_is_wrong(
        self, pgid: int, page: bytes | PfsError | None, record: PageRecord | None
    ) -> tuple[Kind, str] | None:
        if page is None:
            return "page missing", f"it was committed, but the file ends before it ({self._count_blocks()} pages)"
        if isinstance(page, PfsError):
            return "unreadable", str(page)
        if record is None:
            return "page record", "it was committed, but by the sidecar it was never written"
        if record.checksum is None:
            return "page record", "its record in the sidecar was lost"
        if not _matches(record, page, self.file_id, pgid):
            return "page", "it does not match its checksum"
        newest = self.newest.get(pgid)
        if newest is not None and record.lsn < newest.commit_lsn:
            return "lost write", "it is valid, but older than its newest image in the log: the disk lost a write"
        if self.log.plan is not None and self.log.end and record.lsn >= self.log.end:
            end = format_lsn(self.log.end)
            return "page from elsewhere", f"it was written at an LSN behind the end of the log ({end}): log was lost"
        return None

    def _can_repair(self, pgid: int, page: bytes | PfsError | None, record: PageRecord | None) -> bool:
        """Whether the content of a page is proven; it is noted then.

        record: from the newest image of its sidecar block, where only that can prove what is on disk.
        """
        if page is None and not self.can_fill:
            return False
        source: int | bytes
        newest = self.newest.get(pgid)
        if newest is not None:
            source = newest.image_lsn
        elif isinstance(page, bytes) and _matches(record, page, self.file_id, pgid):
            source = page
        else:
            return False
        self.damaged.append(DamagedPage(self.entry, pgid, self.page_count, page is None, source))
        return True

    def _add(
        self, kind: Kind, message: str, *, place: str = "", pgid: int = 0, n: int = 0, repairable: bool = False
    ) -> None:
        if not place:
            place = path(self.entry.address, Fork.MAIN, self.layout.locate(pgid)[0])
        self.found.add(kind, place, message, page_file=self.entry.name, pgid=pgid, n=n, repairable=repairable)


def _matches(record: PageRecord | None, page: bytes, file_id: int, pgid: int) -> bool:
    return record is not None and record.checksum is not None and page_matches(record, page, file_id, pgid)
