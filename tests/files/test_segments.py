"""Block numbers to segment files and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidRequest
from pfs.files.segments import MAX_BLOCKS, SegmentLayout

LAYOUTS = st.builds(
    lambda size, blocks: SegmentLayout(size, size * blocks),
    st.sampled_from([512, 1024, 8192, 65536]),
    st.integers(1, 9),
)


@given(LAYOUTS, st.integers(0, 60), st.integers(0, 60))
def test_the_runs_of_a_range_are_the_range(layout, block, count):
    blocks = []
    for run in layout.runs(block, count):
        assert run.blocks > 0
        assert run.offset + run.blocks * layout.block_size <= layout.segment_size
        assert run.first == len(blocks)
        start = run.segment * layout.blocks_per_segment + run.offset // layout.block_size
        blocks += range(start, start + run.blocks)
    assert blocks == list(range(block, block + count))
    segments = [run.segment for run in layout.runs(block, count)]
    assert segments == sorted(set(segments))


@given(LAYOUTS, st.integers(0, 60))
def test_the_segments_of_a_fork_hold_its_blocks(layout, blocks):
    active = layout.active_segments(blocks)
    lengths = [layout.segment_length(segment, blocks) for segment in range(active + 2)]
    assert sum(lengths) == blocks * layout.block_size
    assert all(length == layout.segment_size for length in lengths[: active - 1])
    assert lengths[active:] == [0, 0]
    assert lengths[active - 1] > 0 or blocks == 0


def test_the_default_is_blocks_of_8_kib_in_segments_of_1_gib():
    layout = SegmentLayout()
    assert layout.blocks_per_segment == 131072
    assert layout.locate(131072) == (1, 0)
    assert layout.locate(MAX_BLOCKS - 1) == (32767, 131070 * 8192)


@pytest.mark.parametrize("size", [0, 511, 256, 1000, 131072, -512, True, 512.0, "512", None])
def test_a_block_size_that_is_not_a_power_of_two_in_the_limits_is_refused(size):
    with pytest.raises(InvalidRequest, match="block size"):
        SegmentLayout(size, 1024**3)


@pytest.mark.parametrize("size", [0, -8192, 8191, 12288, True, 8192.0, None])
def test_a_segment_size_that_is_not_a_multiple_of_the_block_size_is_refused(size):
    with pytest.raises(InvalidRequest, match="segment size"):
        SegmentLayout(8192, size)
