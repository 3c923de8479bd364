"""Positions, segment names, and what fits into a segment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidRequest
from pfs.wal.log_buffer import COMMIT_SIZE
from pfs.wal.lsn import (
    SEGMENT_HEADER_SIZE,
    aligned,
    check_page_fits,
    check_segment_size,
    first_lsn,
    format_lsn,
    largest_page,
    parse_lsn,
    parse_segment_name,
    segment_name,
    segment_of,
)
from pfs.wal.records import HEADER_SIZE, PAGE_IMAGE_SIZE

MIB = 1 << 20
SIZES = st.sampled_from([1 << shift for shift in range(12, 31)])


@pytest.mark.parametrize(
    ("lsn", "name"),
    [
        (16 * MIB, "000000010000000000000001"),
        (255 * 16 * MIB, "0000000100000000000000FF"),
        (1 << 32, "000000010000000100000000"),
        ((1 << 64) - 1, "00000001FFFFFFFF000000FF"),
    ],
)
def test_segments_have_the_names_that_postgresql_gives_them(lsn: int, name: str) -> None:
    assert segment_name(1, segment_of(lsn, 16 * MIB), 16 * MIB) == name


@given(SIZES, st.integers(1, 2**32 - 1), st.integers(1, 2**30))
def test_a_segment_name_is_read_back(size: int, timeline: int, segment: int) -> None:
    assert parse_segment_name(segment_name(timeline, segment, size), size) == (timeline, segment)


@pytest.mark.parametrize(
    "name",
    [
        "000000010000000000000000",
        "000000000000000000000001",
        "000000010000000000000100",
        "00000001000000000000000a",
        "00000001000000000000001",
        "000000010000000000000001.torn",
        "xlogtemp.000000010000000000000001",
    ],
)
def test_nothing_else_is_a_segment_name(name: str) -> None:
    assert parse_segment_name(name, 16 * MIB) is None


@given(st.integers(0, 2**64 - 1))
def test_an_lsn_is_read_back(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn
    assert parse_lsn(str(lsn)) == parse_lsn(hex(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "1/", "g/0", "-1", "1/123456789", str(1 << 64), "0/1/2"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no LSN"):
        parse_lsn(text)


def test_the_first_record_is_behind_the_header_of_segment_1() -> None:
    assert first_lsn(16 * MIB) == 16 * MIB + SEGMENT_HEADER_SIZE
    assert [aligned(n) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]


@pytest.mark.parametrize("size", [0, 2048, 16 * MIB + 1, 3 << 20, 2 << 30, True, 16.0])
def test_a_segment_size_that_is_none_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequest, match="power of two from 4096"):
        check_segment_size(size)


def test_a_page_that_does_not_fit_into_a_segment_is_refused_before_anything_is_written() -> None:
    assert check_page_fits(8192, 16384) == 8192
    with pytest.raises(InvalidRequest, match="at most 8192 bytes; use larger segments"):
        check_page_fits(16384, 16384)
    with pytest.raises(InvalidRequest, match="power of two"):
        check_page_fits(1000, 16384)


@given(SIZES)
def test_the_largest_page_leaves_room_for_its_commit_and_the_switch(size: int) -> None:
    needed = SEGMENT_HEADER_SIZE + PAGE_IMAGE_SIZE + largest_page(size) + COMMIT_SIZE + HEADER_SIZE
    assert needed <= size
    assert largest_page(size) >= 512
