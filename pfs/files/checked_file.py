"""`CheckedFile`: a page file whose every page is checked when it comes from the disk.

The pages are a relation's main fork, byte-exact; what proves them right is in the sidecar beside it.  A page that does
not match its record, or has none, is `PageCorrupt`, and costs only those who want that page.

Who writes keeps these rules (`pfs.actors.checkpointer` does): one thread writes a file at a time; a page is not read
while it is being written; and before the first change of a sidecar block after a checkpoint, the block is in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pfs.errors import InvalidRequest, PageCorrupt
from pfs.files.block_file import BlockFile
from pfs.files.sidecar_file import Blocks, SidecarFile
from pfs.wal.crc import crc32c
from pfs.wal.sidecar import (
    LOST_RECORD,
    RECORDS_PER_BLOCK,
    PageRecord,
    block_count,
    changed_block,
    locate,
    page_matches,
    page_record,
    read_record,
)


class _Bad(NamedTuple):
    """A page that is not what it should be."""

    pgid: int
    why: str


class CheckedFile:
    """A `BlockFile` over another and its sidecar (see the module).  title: the page file's name, for messages."""

    def __init__(self, pages: BlockFile, sidecar: SidecarFile, file_id: int, title: str) -> None:
        self.title = title
        self._pages = pages
        self._sidecar = sidecar
        self._file_id = file_id

    @property
    def name(self) -> str:
        return self._pages.name

    @property
    def block_size(self) -> int:
        return self._pages.block_size

    def block_count(self) -> int:
        return self._pages.block_count()

    # ------------------------------------------------------------------------------------------ reading

    def try_read(self, block: int, n: int) -> list[bytes] | None:
        first, count = _blocks_of(block, n)
        records = self._sidecar.try_read(first, count)
        if records is None:
            return None
        pages = self._pages.try_read(block, n)
        if pages is None or self._bad(block, pages, first, records) is not None:
            return None  # who reads it again will say what is wrong with it
        return pages

    def read(self, block: int, n: int) -> list[bytes]:
        """Raises `PageCorrupt` beside what `BlockFile.read` raises."""
        first, count = _blocks_of(block, n)
        pages = self._pages.read(block, n)
        bad = self._bad(block, pages, first, self._sidecar.read(first, count))
        if bad is not None:
            raise PageCorrupt(
                f"page {bad.pgid} of {self.title!r} (relation {self.name}) cannot be trusted: {bad.why}; if the log "
                "no longer has it, restore it from a backup, or write it anew"
            )
        return pages

    def page_record(self, pgid: int) -> PageRecord | None:
        """What the sidecar says of a page; None if it says that the page was never written."""
        number, slot = locate(pgid)
        block = self._sidecar.read(number, 1)[0]
        return LOST_RECORD if block is None else read_record(block, slot)

    def sidecar_blocks(self, numbers: Sequence[int]) -> Blocks:
        """Blocks of the sidecar, for their images in the log."""
        return [self._sidecar.read(number, 1)[0] for number in numbers]

    def _bad(self, block: int, pages: Sequence[bytes], first: int, blocks: Blocks) -> _Bad | None:
        for pgid, page in enumerate(pages, block):
            number, slot = locate(pgid)
            records = blocks[number - first]
            if records is None:
                return _Bad(pgid, f"block {number} of its sidecar {self._sidecar.path!r} is damaged")
            record = read_record(records, slot)
            if record is None:
                return _Bad(pgid, f"by its sidecar {self._sidecar.path!r} it was never written")
            if record.checksum is None:
                return _Bad(pgid, f"its record in the sidecar {self._sidecar.path!r} was lost")
            if not page_matches(record, page, self._file_id, pgid):
                return _Bad(pgid, f"it does not match its checksum in {self._sidecar.path!r}")
        return None

    # ------------------------------------------------------------------------------------------ writing

    def write(self, block: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        first, count = _blocks_of(block, len(pages))
        new = self.changed_blocks(block, pages, lsns, self._sidecar.read(first, count))
        self._pages.write(block, pages, lsns)
        self._sidecar.write(first, new)

    def changed_blocks(self, block: int, pages: Sequence[bytes], lsns: Sequence[int], old: Blocks) -> list[bytes]:
        """The sidecar blocks of a run of pages after it was written; `old`: as they are now."""
        if len(pages) != len(lsns):
            raise InvalidRequest(f"{len(pages)} pages and {len(lsns)} LSNs: give one for each page")
        file_id = self._file_id
        records = {
            pgid: page_record(crc32c(page), file_id, pgid, lsn)
            for pgid, (page, lsn) in enumerate(zip(pages, lsns, strict=True), block)
        }
        first = locate(block)[0]
        return [
            changed_block(
                content,
                file_id,
                number,
                {
                    pgid: records[pgid]
                    for pgid in range(number * RECORDS_PER_BLOCK, (number + 1) * RECORDS_PER_BLOCK)
                    if pgid in records
                },
            )
            for number, content in enumerate(old, first)
        ]

    def writeback(self, block: int, n: int) -> None:
        self._pages.writeback(block, n)

    def sync(self) -> None:
        self._pages.sync()
        self._sidecar.sync()

    def truncate(self, blocks: int) -> None:
        self._pages.truncate(blocks)
        self._sidecar.cut(block_count(blocks))

    def close(self) -> None:
        self._sidecar.close()
        self._pages.close()

    # ------------------------------------------------------------------------------------------ recovery

    def restore_sidecar_block(self, number: int, image: bytes) -> None:
        """Write a block of the sidecar if the one that is there is not valid."""
        if self._sidecar.read(number, 1)[0] is None:
            self._sidecar.write(number, [image])


def _blocks_of(pgid: int, n: int) -> tuple[int, int]:
    """The sidecar blocks of a run of pages: the first, and how many."""
    first = pgid // RECORDS_PER_BLOCK
    return first, (pgid + n - 1) // RECORDS_PER_BLOCK - first + 1
