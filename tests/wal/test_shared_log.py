"""The limits of the log: its options, and when it wants a segment or a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from pfs.errors import InvalidRequest, NoSpace
from pfs.wal.log_buffer import LogBuffer
from pfs.wal.lsn import first_lsn
from pfs.wal.shared_log import LEAST_SEGMENTS, SharedLog, WalOptions

SEGMENT = 1 << 20
PAGE = 8192


def made(**options: Any) -> SharedLog:
    chosen = WalOptions(**{"segment_bytes": SEGMENT, "batch_bytes": 1 << 16, **options})
    position = first_lsn(SEGMENT)
    buffer = LogBuffer(
        segment_size=SEGMENT, position=position, prev_lsn=0, epoch=1, seed=7, limit=3 * SEGMENT, reserve=1024
    )
    return SharedLog(buffer, chosen, SEGMENT, position, 1, {})


def log_pages(log: SharedLog, transaction: int, n: int) -> None:
    for index in range(n):
        log.buffer.insert_page(transaction, 16384, index, bytes([index % 255 + 1]) * PAGE)


@pytest.mark.parametrize(
    "options",
    [
        {"segment_bytes": 1000},
        {"most_bytes": 0},
        {"checkpoint_bytes": True},
        {"batch_bytes": -1},
        {"batch_requests": 1.0},
        {"checkpoint_seconds": 0},
        {"checkpoint_seconds": "1"},
        {"commit_delay": -0.1},
        {"commit_delay": float("inf")},
        {"commit_delay": False},
        {"sync_method": "hope"},
    ],
    ids=repr,
)
def test_options_that_can_never_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options)).split("_")[0]):
        WalOptions(**options)


def test_the_log_may_always_take_up_a_few_segments() -> None:
    assert made(most_bytes=1).most_bytes == LEAST_SEGMENTS * SEGMENT + 1024
    assert made(most_bytes=100 * SEGMENT).most_bytes == 100 * SEGMENT


def test_the_fill_ratio_grows_with_what_is_logged_since_the_last_checkpoint() -> None:
    log = made(most_bytes=4 * SEGMENT)
    assert log.fill_ratio == 0.0
    log_pages(log, 1, 64)
    assert 0.1 < log.fill_ratio < 0.2
    log.redo_lsn = log.buffer.inserted
    assert log.fill_ratio == pytest.approx(64 * 592 / (4 * SEGMENT), rel=0.1)  # their images may be to come
    log.buffer.settle(1)
    assert log.fill_ratio == 0.0


def test_a_segment_is_wanted_ahead_of_the_log_and_not_beyond_its_limit() -> None:
    log = made(most_bytes=5 * SEGMENT)
    assert log.wants_segment
    assert log.next_segment == 3
    for segment in (3, 4, 5, 6):
        log.segment_made(segment)
    assert not log.wants_segment
    assert log.is_full
    log.segment_made(3)  # an older word changes nothing
    assert log.next_segment == 7


@pytest.mark.parametrize("files", [1, 1000, 30_000, 60_000, 90_000, 200_000])
def test_segments_are_wanted_until_there_is_room_beside_what_is_kept_for_checkpoints(files: int) -> None:
    log = made(most_bytes=5 * SEGMENT)
    log.keep_room_for(files)
    while log.wants_segment:
        log.segment_made(log.next_segment)
    assert log.has_room


def test_a_checkpoint_is_wanted_when_one_would_let_enough_log_be_forgotten() -> None:
    log = made(checkpoint_bytes=SEGMENT, most_bytes=100 * SEGMENT)
    log_pages(log, 1, 150)
    assert not log.wants_checkpoint  # the transaction holds the redo point
    log.buffer.settle(1)
    assert log.wants_checkpoint
    log.redo_lsn = log.buffer.redo_point()
    assert not log.wants_checkpoint


def test_a_full_log_that_one_transaction_holds_up_names_it() -> None:
    log = made(most_bytes=1, checkpoint_bytes=100 * SEGMENT)
    log_pages(log, 1, 1)
    assert not log.is_held_up_by(1)  # there is room
    log.segment_made(5)
    log_pages(log, 1, 570)
    assert log.is_full
    assert not log.has_room
    assert log.is_held_up_by(1)
    assert not log.is_held_up_by(2)
    assert not log.wants_checkpoint
    log.buffer.dirty = dirty = set(range(571))
    log.buffer.settle(1)
    assert not log.is_held_up_by(1)
    assert log.wants_checkpoint
    assert log.wants_clean_pages
    log_pages(log, 2, 1)
    assert not log.is_held_up_by(2)  # there will be room when pages were written
    dirty.clear()
    assert not log.wants_clean_pages
    assert log.has_room


def test_what_is_free_is_what_may_be_logged_before_a_checkpoint() -> None:
    log = made(most_bytes=8 * SEGMENT)
    before = log.free
    assert before == 8 * SEGMENT - 1024
    log_pages(log, 1, 10)
    assert before - log.free == log.buffer.inserted - log.redo_lsn + log.buffer.debt
    assert 0 <= 10 * log.image_cost(PAGE) - (before - log.free) < PAGE
    log.redo_lsn = log.buffer.inserted
    log.buffer.settle(1)
    assert log.free == before


def test_a_log_that_is_filling_wants_a_checkpoint() -> None:
    log = made(most_bytes=6 * SEGMENT, checkpoint_bytes=100 * SEGMENT)
    while log.is_short is False:
        log.segment_made(log.next_segment)
    log_pages(log, 1, 400)
    log.buffer.settle(1)
    assert not log.is_filling
    assert not log.wants_checkpoint
    log_pages(log, 2, 210)
    log.buffer.settle(2)
    assert log.is_filling
    assert log.wants_checkpoint


def test_a_disk_without_space_for_more_log_makes_it_short() -> None:
    log = made(most_bytes=100 * SEGMENT, checkpoint_bytes=100 * SEGMENT)
    log_pages(log, 1, 225)
    log.buffer.settle(1)
    assert not log.has_room
    assert not log.wants_checkpoint  # a segment will be made
    log.no_space = NoSpace("full")
    assert log.is_short
    assert log.wants_checkpoint
