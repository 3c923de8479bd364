"""Block numbers and segment files: plain arithmetic.

A fork is a run of blocks numbered from 0, cut into segment files that hold `blocks_per_segment` blocks each, so that no
file grows past a limit (1 GiB by default).  Block b is in segment b // blocks_per_segment.

    segments of 4 blocks    |0 1 2 3|4 5 6 7|8 9      10 blocks: two full segments and an active one of 2
    read of 6 from block 2      2 3 |4 5 6 7|         two runs: (segment 0, from its block 2, 2), (segment 1, from 0, 4)

Invariant: the runs of a range are in order, gap-free, each inside one segment, and together the range.

Limits are PostgreSQL's: a block number has 32 bits and the highest value means "no block", so the last block is
2^32 - 2 and a fork has at most 2^32 - 1 blocks (32 TiB of 8 KiB blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pfs.errors import InvalidRequest

MIN_BLOCK_SIZE = 512
MAX_BLOCK_SIZE = 64 * 1024
DEFAULT_BLOCK_SIZE = 8 * 1024
DEFAULT_SEGMENT_SIZE = 1024**3

MAX_BLOCKS = 2**32 - 1
"""The most blocks that a fork can have; the last block is one less."""


class SegmentRun(NamedTuple):
    """A part of a range of blocks that lies in one segment."""

    segment: int
    offset: int
    """Where it begins in the segment file, in bytes."""
    first: int
    """Which block of the range it begins with, counted from 0."""
    blocks: int


def check_block_size(size: int) -> int:
    """Return the size if it is a power of two from 512 to 65,536, else raise `InvalidRequest`."""
    if type(size) is not int or not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE or size & (size - 1):
        raise InvalidRequest(f"block size {size!r}: must be a power of two from {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE}")
    return size


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """How a fork of blocks of `block_size` bytes is cut into segments of `segment_size` bytes.

    Raises:
        InvalidRequest: the block size is not a power of two from 512 to 65,536, or the segment size is not a positive
            multiple of it.
    """

    block_size: int = DEFAULT_BLOCK_SIZE
    segment_size: int = DEFAULT_SEGMENT_SIZE

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if type(self.segment_size) is not int or self.segment_size < 1 or self.segment_size % self.block_size:
            raise InvalidRequest(
                f"segment size {self.segment_size!r}: must be a positive multiple of the block size {self.block_size}"
            )

    @property
    def blocks_per_segment(self) -> int:
        return self.segment_size // self.block_size

    def locate(self, block: int) -> tuple[int, int]:
        """The segment that holds a block, and the block's offset in it in bytes."""
        segment, inside = divmod(block, self.blocks_per_segment)
        return segment, inside * self.block_size

    def runs(self, block: int, count: int) -> list[SegmentRun]:
        """A range of `count` blocks from `block` on, as one run for each segment that it touches."""
        runs = []
        first = 0
        while first < count:
            segment, offset = self.locate(block + first)
            fitting = min(count - first, (self.segment_size - offset) // self.block_size)
            runs.append(SegmentRun(segment, offset, first, fitting))
            first += fitting
        return runs

    def active_segments(self, blocks: int) -> int:
        """How many segments a fork of so many blocks has; an empty fork still has its segment 0."""
        return max(1, -(-blocks // self.blocks_per_segment))

    def segment_length(self, segment: int, blocks: int) -> int:
        """The length in bytes of one segment of a fork of so many blocks (0 for one beyond its end)."""
        inside = blocks - segment * self.blocks_per_segment
        return min(max(inside, 0), self.blocks_per_segment) * self.block_size
