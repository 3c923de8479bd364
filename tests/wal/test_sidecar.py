"""The sidecar: a record a page, blocks of 31, and what each of them proves."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.wal.crc import crc32c
from pfs.wal.sidecar import (
    BLOCK_SIZE,
    EMPTY_BLOCK,
    RECORDS_PER_BLOCK,
    PageRecord,
    block_count,
    block_is_valid,
    changed_block,
    locate,
    page_matches,
    page_record,
    read_record,
)
from tests.wal import independent

PAGE = bytes(range(256)) * 2
numbers = st.integers(0, 2**64 - 1)


def sealed(file_id: int = 7, number: int = 3) -> bytes:
    record = page_record(crc32c(PAGE), file_id, 97, 0x1000040)
    return changed_block(EMPTY_BLOCK, file_id, number, {number * 31 + 4: record})


def test_the_bytes_of_a_block_are_where_the_formats_document_puts_them() -> None:
    block = bytes(sealed())
    crc, version, number = struct.unpack("<2IQ", block[:16])
    assert (version, number) == (1, 3)
    assert crc == independent.crc32c(block[4:] + struct.pack("<Q", 7))
    checksum, flags, lsn = struct.unpack("<2IQ", block[16 + 64 : 16 + 80])
    assert (flags, lsn) == (1, 0x1000040)
    assert checksum == independent.crc32c(PAGE + struct.pack("<3Q", 7, 97, 0x1000040))
    assert not any(block[16 : 16 + 64] + block[16 + 80 :])


def test_pages_and_blocks() -> None:
    assert RECORDS_PER_BLOCK == 31
    assert [locate(pgid) for pgid in (0, 30, 31, 97)] == [(0, 0), (0, 30), (1, 0), (3, 4)]
    assert [block_count(n) for n in (0, 1, 31, 32)] == [0, 1, 1, 2]


@given(numbers, numbers, numbers, st.binary(min_size=1, max_size=64))
def test_a_page_matches_its_record_and_nothing_else_does(file_id: int, pgid: int, lsn: int, page: bytes) -> None:
    record = page_record(crc32c(page), file_id, pgid, lsn)
    assert page_matches(record, page, file_id, pgid)
    assert not page_matches(record, page, file_id ^ 1, pgid)
    assert not page_matches(record, page, file_id, pgid ^ 2)
    assert not page_matches(record._replace(lsn=lsn ^ 1), page, file_id, pgid)
    assert not page_matches(record, bytes([page[0] ^ 1]) + page[1:], file_id, pgid)


records_by_pgid = st.dictionaries(
    st.integers(62, 92), st.builds(PageRecord, st.integers(0, 2**32 - 1), numbers), max_size=31
)


@given(records_by_pgid, records_by_pgid)
def test_records_are_read_as_they_were_put(first: dict[int, PageRecord], second: dict[int, PageRecord]) -> None:
    block = changed_block(changed_block(EMPTY_BLOCK, 7, 2, first), 7, 2, second)
    assert {pgid: read_record(block, pgid - 62) for pgid in range(62, 93)} == {
        pgid: second.get(pgid, first.get(pgid)) for pgid in range(62, 93)
    }
    assert block_is_valid(block, 7, 2)


def test_a_page_never_written_is_known_as_such() -> None:
    assert read_record(EMPTY_BLOCK, 0) is None
    assert read_record(sealed(), 3) is None
    assert read_record(changed_block(EMPTY_BLOCK, 7, 0, {0: PageRecord(0, 0)}), 0) == PageRecord(0, 0)


def test_a_block_made_anew_for_a_damaged_one_matches_no_page_but_those_that_were_written() -> None:
    block = changed_block(None, 7, 3, {97: page_record(crc32c(PAGE), 7, 97, 40)})
    assert block_is_valid(block, 7, 3)
    for pgid in range(93, 124):
        record = read_record(block, pgid - 93)
        assert record is not None
        assert page_matches(record, PAGE, 7, pgid) == (pgid == 97)


def test_no_bit_of_a_block_changes_unnoticed() -> None:
    block = sealed()
    assert block_is_valid(block, 7, 3)
    for position in range(BLOCK_SIZE):
        damaged = bytearray(block)
        damaged[position] ^= 4
        assert not block_is_valid(damaged, 7, 3), position


@pytest.mark.parametrize(("file_id", "number"), [(8, 3), (7, 4)])
def test_a_block_at_the_wrong_place_is_not_valid(file_id: int, number: int) -> None:
    assert not block_is_valid(sealed(), file_id, number)


def test_a_block_of_zeros_is_one_that_was_never_written_and_half_a_block_is_none() -> None:
    assert block_is_valid(EMPTY_BLOCK, 7, 3)
    assert not block_is_valid(sealed()[:-1], 7, 3)
