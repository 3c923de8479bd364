"""Old page versions that reads in progress still need.  Plain code.

A page file has a version number that each published write raises by one.  A read is of one version, its *snapshot*,
however long it takes: where a page was overwritten after the snapshot, the read must get the image from before.  The
store keeps such images, each with the version that superseded it, until no read in progress is as old as that.

Invariants: an image is kept only while there is a read in progress from before it was superseded; `kept_bytes` counts
them; the images of a page are in ascending order of the versions that superseded them, so the right one for snapshot s
is the first superseded after s.  (That may keep more than reads really need; `keep_only` clears up when room is short.)

Source: multi-version concurrency control as in Bernstein and Goodman, "Multiversion Concurrency Control", 1983.
"""

from __future__ import annotations

from collections import deque


class PageVersions:
    """The version store of one page file."""

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.saved = 0
        self._images: dict[int, deque[tuple[int, bytes]]] = {}
        self._order: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def save(self, pgid: int, superseded_at: int, image: bytes) -> None:
        """Keep a page's image from before the version `superseded_at`, which is not below those saved before."""
        self._images.setdefault(pgid, deque()).append((superseded_at, image))
        self._order.append((superseded_at, pgid))
        self.kept_bytes += len(image)
        self.saved += 1

    def find(self, pgid: int, snapshot: int) -> bytes | None:
        """The image of a page as of a snapshot, or None if the current page is right for it."""
        for superseded_at, image in self._images.get(pgid, ()):
            if superseded_at > snapshot:
                return image
        return None

    def forget_before(self, oldest_snapshot: int | None) -> None:
        """Drop the images that no read needs when the oldest read in progress is of this snapshot (None: no read)."""
        order = self._order
        while order and (oldest_snapshot is None or order[0][0] <= oldest_snapshot):
            _, pgid = order.popleft()
            images = self._images[pgid]
            _, image = images.popleft()
            self.kept_bytes -= len(image)
            if not images:
                del self._images[pgid]

    def needed(self, snapshot: int, pgid: int, end: int) -> set[tuple[int, int]]:
        """The images that a read of pages pgid .. end-1 as of a snapshot gets, as pairs (superseded at, pgid)."""
        found = set()
        for number in [each for each in self._images if pgid <= each < end]:
            superseded_at = next((version for version, _ in self._images[number] if version > snapshot), None)
            if superseded_at is not None:
                found.add((superseded_at, number))
        return found

    def keep_only(self, needed: set[tuple[int, int]]) -> None:
        """Drop all other images, also those that are younger than the oldest read in progress."""
        order, images = self._order, self._images
        self.kept_bytes, self._images, self._order = 0, {}, deque()
        for superseded_at, pgid in order:
            _, image = images[pgid].popleft()
            if (superseded_at, pgid) in needed:
                self._images.setdefault(pgid, deque()).append((superseded_at, image))
                self._order.append((superseded_at, pgid))
                self.kept_bytes += len(image)
