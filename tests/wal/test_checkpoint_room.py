"""The room that is kept in the log for checkpoints: whatever is inserted, one always fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidRequest, NoSpace
from pfs.wal.bodies import Drop, Noop, SidecarImage
from pfs.wal.checkpoint import insert_checkpoint
from pfs.wal.checkpoint_room import HEALED_AT_ONCE, LARGEST_RESERVED, reserve_size, slot_size
from pfs.wal.log_buffer import LogBuffer
from pfs.wal.lsn import first_lsn
from pfs.wal.records import encoded_size
from pfs.wal.shared_log import SharedLog, WalOptions

IMAGE = SidecarImage(7, 0, bytes(512))


def made(segment_size: int, segments: int, files: int = 1, dirty: set[int] | None = None) -> LogBuffer:
    buffer = LogBuffer(
        segment_size=segment_size,
        position=first_lsn(segment_size),
        prev_lsn=0,
        epoch=1,
        seed=7,
        limit=(1 + segments) * segment_size,
        reserve=reserve_size(segment_size, files),
    )
    buffer.dirty = dirty if dirty is not None else set()
    return buffer


def fill(buffer: LogBuffer, leave: int = 0) -> None:
    """Insert until there is room for so many bytes at most beside what is kept for checkpoints."""
    while buffer.room >= 64 + leave:
        before_the_end = -buffer.inserted % buffer._segment_size
        try:
            buffer.insert(Noop(max(min(buffer.room - leave, before_the_end, 900) - 64, 0)))
        except NoSpace:  # there is a little at the end of a segment
            return


def copied(buffer: LogBuffer) -> LogBuffer:
    """Another buffer that stands where this one does."""
    return LogBuffer(
        segment_size=buffer._segment_size,
        position=buffer.next_lsn,
        prev_lsn=0,
        epoch=1,
        seed=7,
        limit=buffer.limit,
        reserve=buffer.reserve,
    )


def checkpoint(buffer: LogBuffer, files: int) -> None:
    insert_checkpoint(
        buffer,
        redo_lsn=buffer.redo_point(),
        page_counts=dict.fromkeys(range(1, files + 1), 5),
        next_file_id=1,
        next_transaction=1,
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["page", "page", "page", "commit", "publish", "give up", "small", "clean", "seal", "fill", "heal"]
        ),
        st.integers(0, 5),
        st.sampled_from([0, 1, 512, 512, 1024, 2048]),
    ),
    max_size=80,
)


@given(STEPS, st.sampled_from([4096, 4096, 8192, 16384]), st.integers(8, 13), st.integers(0, 70), st.booleans())
def test_a_checkpoint_of_all_dirty_pages_fits_at_any_moment(
    steps: list[tuple[str, int, int]], segment_size: int, segments: int, files: int, images_last: bool
) -> None:
    dirty: set[int] = set()
    buffer = made(segment_size, segments, files, dirty)
    log = SharedLog(buffer, WalOptions(segment_bytes=segment_size), segment_size, buffer.inserted, 1, {})
    pages: dict[int, list[int]] = {}
    for kind, number, size in steps:
        try:
            if kind == "page":
                index = len(pages.get(number, ()))
                buffer.insert_page(number, 7, index, b"p" * size if size > 1 else bytes(512))
                pages.setdefault(number, []).append(7 * number + index % 7)
            elif kind == "commit":
                buffer.insert_commit(number, 7, 0, 1, 1)
            elif kind == "publish":
                dirty.update(pages.pop(number, ()))
                buffer.settle(number)
            elif kind == "give up":
                pages.pop(number, None)
                buffer.settle(number)
            elif kind == "small":
                buffer.insert(Drop(number) if size else Noop(97 * number))
            elif kind == "seal":
                buffer.seal()
            elif kind == "fill":
                fill(buffer, 240 * number)
            elif kind == "heal":
                for pgid in range(100, 100 + 9 * number):
                    if log.has_room_to_heal:
                        dirty.add(pgid)
            elif dirty:
                dirty.pop()
        except NoSpace:
            pass
        assert buffer.debt == slot_size(segment_size) * (len(dirty) + sum(map(len, pages.values())))
        healed = sum(pgid >= 100 for pgid in dirty)
        assert buffer.room >= -min(healed, HEALED_AT_ONCE) * buffer.slot
        last = copied(buffer)
        if images_last:
            checkpoint(last, files)
        for _ in range(len(dirty) + sum(map(len, pages.values()))):
            last.insert_reserved(IMAGE)
        checkpoint(last, files)
        if not images_last:
            checkpoint(last, files)


@pytest.mark.parametrize("segment_size", [4096, 8192, 1 << 16])
@pytest.mark.parametrize("files", [0, 1, 26, 27, 58, 59, 1000])
def test_a_checkpoint_fits_into_a_log_that_is_full_to_the_last_byte(segment_size: int, files: int) -> None:
    segments = reserve_size(segment_size, files) // segment_size + 8
    for pages in range(40):
        dirty = set(range(pages))
        buffer = made(segment_size, segments, files, dirty)
        fill(buffer)
        checkpoint(buffer, files)  # that frees nothing
        while dirty:
            buffer.insert_reserved(IMAGE)
            dirty.pop()
        checkpoint(buffer, files)
        with pytest.raises(NoSpace):
            buffer.insert(Noop(900))


def test_no_record_that_uses_the_reserve_is_larger_than_an_image() -> None:
    assert encoded_size(IMAGE) == LARGEST_RESERVED == 584
    with pytest.raises(InvalidRequest, match="at most 584 bytes"):
        made(4096, 4).insert_reserved(Noop(521))


@pytest.mark.parametrize("segment_size", [4096, 8192, 1 << 20, 16 << 20])
def test_a_slot_is_an_image_and_its_share_of_what_segments_leave_unused(segment_size: int) -> None:
    images = (segment_size - 64) // 584
    assert slot_size(segment_size) * images >= segment_size
    assert (slot_size(segment_size) - 8) * images < segment_size


def test_the_log_of_a_page_takes_its_slot_until_it_is_given_up_or_written() -> None:
    dirty: set[int] = set()
    buffer = made(1 << 20, 2, dirty=dirty)
    room = buffer.room
    buffer.insert_page(1, 7, 0, b"p" * 512)
    buffer.insert_page(2, 7, 0, b"p" * 512)
    assert buffer.room == room - 2 * 584 - 2 * buffer.slot
    buffer.settle(2)
    assert buffer.room == room - 2 * 584 - buffer.slot
    dirty.add(3)
    buffer.settle(1)
    assert buffer.debt == buffer.slot
    dirty.clear()
    assert buffer.room == room - 2 * 584


def test_there_is_no_seal_where_there_is_no_room() -> None:
    buffer = made(4096, 5)
    while buffer.room >= 64:
        buffer.insert(Drop(1))
    while (batch := buffer.next_batch()) is not None:
        buffer.batch_flushed(batch)
    assert not buffer.wants_seal
    with pytest.raises(NoSpace):
        buffer.seal()
    buffer.limit = 7 * 4096
    assert buffer.wants_seal


@pytest.mark.parametrize("size", [512, 1024, 2048])
@pytest.mark.parametrize("before", range(0, 4032, 56))
def test_where_there_is_room_a_page_of_any_size_fits(size: int, before: int) -> None:
    buffer = made(4096, 9)
    log = SharedLog(buffer, WalOptions(segment_bytes=4096, batch_bytes=1), 4096, buffer.inserted, 1, {})
    log.keep_room_for(3)
    if before:
        buffer.insert(Noop(before - 64) if before >= 64 else Noop(0))
    index = 0
    while log.has_room:
        buffer.insert_page(1, 7, index, b"p" * size)
        index += 1
    assert index
