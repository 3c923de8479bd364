"""Which sidecar blocks have an image in the log since the last checkpoint wrote its last block, and where it ends.

Plain code, shared by the checkpointer, which logs images and changes blocks, and by bulk appends, which write blocks
of their own without logging them: these must be logged again when somebody else changes them.
"""

from __future__ import annotations

from collections.abc import Iterable


class SidecarImages:
    """Where the images of blocks end in the log, by file id and block (see the module)."""

    def __init__(self) -> None:
        self._ends: dict[int, dict[int, int]] = {}

    def missing(self, file_id: int, blocks: Iterable[int]) -> tuple[int, ...]:
        """Those of the blocks that have no image."""
        known = self._ends.get(file_id, {})
        return tuple(block for block in blocks if block not in known)

    def add(self, file_id: int, block: int, end: int) -> None:
        """A block was logged; its image is durable when the log is, up to `end`."""
        self._ends.setdefault(file_id, {})[block] = end

    def end(self, file_id: int, blocks: Iterable[int]) -> int:
        """How far the log must be durable before the blocks, all of which have images, may be changed."""
        known = self._ends[file_id]
        return max(known[block] for block in blocks)

    def forget(self, file_id: int, from_block: int = 0) -> None:
        """The images of a file's blocks from one on do not count any more."""
        known = self._ends.get(file_id, {})
        for block in [block for block in known if block >= from_block]:
            del known[block]

    def clear(self) -> None:
        """A checkpoint has written its last block: whatever changes from here on may not be synced by it."""
        self._ends.clear()
