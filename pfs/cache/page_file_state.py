"""What a page file looks like to its readers: page count, version, and which image of a page is right for whom.

Plain code.  A read belongs to a *cut*: the version of the file that it sees, and the part of its range that it has not
been sent yet.  Four places may hold the image of a page that a cut sees, looked at in this order:

1. the version store: the page was overwritten after the cut;
2. the page table (pages in memory, any of which may be evicted);
3. the dirty pages (newer in memory than on disk);
4. the disk.

Invariants: `page_count` and `version` change only in `publish` and `truncate`, each one step; a page of an open cut
that is superseded goes to the version store in the same step, so `publish` wants the old images that are only on disk
in memory first (`missing_images`); no page is read from disk while it is dirty, so never while it is being overwritten
there.  What the version store may keep is bounded: past `versions_limit` bytes the oldest of the cuts that need some of
it are failed (`SnapshotTooOld`) until the rest fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_table import Outcome, PageTable
from pfs.cache.versions import PageVersions
from pfs.errors import OutOfRange, SnapshotTooOld


class Cut:
    """What one read in progress sees, and still has to be sent: pages `next` to `end` (exclusive)."""

    __slots__ = ("end", "next", "snapshot")

    def __init__(self, next_pgid: int, end: int) -> None:
        self.next = next_pgid
        self.end = end
        self.snapshot: int | None = None
        """The version seen; None before the first chunk."""


class PageFileState:
    """One page file as its server knows it (see the module)."""

    def __init__(
        self,
        name: str,
        file_id: int,
        page_size: int,
        page_count: int,
        table: PageTable[Any],
        dirty: DirtyPages,
        versions_limit: int,
    ) -> None:
        self.name = name
        self.file_id = file_id
        self.page_size = page_size
        self.page_count = page_count
        self.version = 0
        self.table = table
        self.dirty = dirty
        self.versions = PageVersions()
        self.versions_limit = versions_limit
        self._cuts: dict[Cut, None] = {}

    # -- reading

    def check_range(self, pgid: int, n: int) -> None:
        """Raise `OutOfRange` unless pages pgid .. pgid+n-1 exist."""
        if pgid + n > self.page_count:
            raise OutOfRange(
                f"pages {pgid} to {pgid + n - 1} of {self.name!r} were asked for; it has {self.page_count} pages"
            )

    def open_cut(self, cut: Cut) -> None:
        """Let a read see the file as it is now, until `close_cut`."""
        cut.snapshot = self.version
        self._cuts[cut] = None

    def close_cut(self, cut: Cut) -> None:
        """The read has ended; no effect if it has no open cut."""
        if cut in self._cuts:
            del self._cuts[cut]
            if len(self.versions):
                self.versions.forget_before(self._oldest_snapshot())

    def resolve(self, snapshot: int, pgid: int, n: int) -> list[bytes | None]:
        """The pages of a run as of a snapshot, None where the disk must be read."""
        pages = self.table.lookup(self.file_id, pgid, n)
        if None in pages and len(self.dirty):
            for number, page in enumerate(pages):
                if page is None:
                    pages[number] = self.dirty.get(self.file_id, pgid + number)
        if len(self.versions):
            find = self.versions.find
            for number in range(n):
                image = find(pgid + number, snapshot)
                if image is not None:
                    pages[number] = image
        return pages

    # -- writing

    def missing_images(self, pgid: int, n: int) -> list[int]:
        """The pages of a run whose present image an open cut needs and which are only on disk."""
        if not self._cuts:
            return []
        return [
            number
            for number in sorted(self._needed(pgid, pgid + n))
            if number < self.page_count and self._image(number) is None
        ]

    def cuts_of(self, pgid: int) -> list[Cut]:
        """The open cuts that still need a page."""
        return [cut for cut in self._cuts if cut.next <= pgid < cut.end]

    def publish(
        self,
        pgid: int,
        pages: Sequence[bytes],
        lsn: int,
        first_lsn: int,
        images: Mapping[int, bytes],
        page_count: int = 0,
    ) -> tuple[list[Outcome[Any]], list[Cut]]:
        """Make a write visible, whole, in this one step.

        `lsn` and `first_lsn`: of its commit and first record in the log.  `images`: those that were missing.
        `page_count`: what the file has at least then, as a bulk append's pages are on disk already.  Returns
        what `PageTable.publish` returns, and the cuts that were failed to keep the version store bounded.
        """
        self.version += 1
        end = pgid + len(pages)
        outcomes: list[Outcome[Any]] = []
        needed = sorted(self._needed(pgid, min(end, self.page_count))) if self._cuts else ()
        for number, image in [(number, self._image(number)) for number in needed]:
            if image is None:  # a read may be waiting for it again: `PageTable.publish` would give it the new page
                image = images[number]
                outcomes += self.table.publish(self.file_id, number, [image])
            self.versions.save(number, self.version, image)
        self.page_count = max(self.page_count, end, page_count)
        outcomes += self.table.publish(self.file_id, pgid, pages)
        for number, page in enumerate(pages, pgid):
            self.dirty.put(self.file_id, number, page, lsn, first_lsn)
        return outcomes, self._fail_oldest()

    def truncate(self, n: int) -> tuple[list[Outcome[Any]], list[Cut]]:
        """Cut the file to n pages.  Returns the ended waits for the cut pages, and the cuts that needed them."""
        self.version += 1
        self.page_count = n
        error = OutOfRange(f"{self.name!r} was truncated to {n} pages")
        outcomes = self.table.discard(self.file_id, n, error)
        self.dirty.discard(self.file_id, n)
        failed = [cut for cut in self._cuts if cut.end > n]
        for cut in failed:
            self.close_cut(cut)
        return outcomes, failed

    def snapshot_too_old(self, cut: Cut) -> SnapshotTooOld:
        """The error for a failed cut."""
        return SnapshotTooOld(
            f"the read of {self.name!r} up to page {cut.end - 1}, {cut.end - cut.next} pages of which were not sent "
            f"yet, sees version {cut.snapshot}, and the pages overwritten or cut off since no longer fit into the "
            f"version store ({self.versions_limit} bytes): read faster, in shorter parts, or raise `version_bytes`"
        )

    def _image(self, pgid: int) -> bytes | None:
        page = self.table.lookup(self.file_id, pgid, 1)[0]
        return self.dirty.get(self.file_id, pgid) if page is None else page

    def _needed(self, pgid: int, end: int) -> set[int]:
        needed: set[int] = set()
        for cut in self._cuts:
            needed.update(range(max(cut.next, pgid), min(cut.end, end)))
        return needed

    def _fail_oldest(self) -> list[Cut]:
        versions = self.versions
        if versions.kept_bytes <= self.versions_limit:
            return []
        needs = {cut: versions.needed(cut.snapshot or 0, cut.next, cut.end) for cut in self._cuts}
        failed: list[Cut] = []
        versions.keep_only(set().union(*needs.values()))
        while versions.kept_bytes > self.versions_limit:
            oldest = next(cut for cut, needed in needs.items() if needed)
            failed.append(oldest)
            del needs[oldest]
            self.close_cut(oldest)
            versions.keep_only(set().union(*needs.values()))
        return failed

    def _oldest_snapshot(self) -> int | None:
        for cut in self._cuts:  # in the order of their opening, so the first is the oldest
            return cut.snapshot
        return None
