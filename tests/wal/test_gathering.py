"""When the next batch of the log waits for those who were told just now, and when it leaves."""

from __future__ import annotations

import pytest

from pfs.wal.gathering import PAUSE, Gathering

DELAY = 0.005


def test_nobody_is_waited_for_before_the_first_batch() -> None:
    assert Gathering(DELAY).wait(logged=1, now=0.0) == 0.0


def test_without_a_commit_delay_nobody_is_waited_for() -> None:
    gathering = Gathering(0.0)
    gathering.completed(told=32, logged=64, now=10.0, seconds=0.004)
    assert gathering.wait(logged=64, now=10.0) == 0.0


def test_who_is_alone_never_waits() -> None:
    gathering = Gathering(DELAY)
    gathering.completed(told=1, logged=1, now=10.0, seconds=0.004)
    assert gathering.wait(logged=2, now=10.0) == 0.0


def test_a_batch_waits_until_as_many_have_come_as_were_told() -> None:
    gathering = Gathering(DELAY)
    gathering.completed(told=32, logged=64, now=10.0, seconds=0.004)
    assert gathering.wait(logged=64, now=10.0) == pytest.approx(0.002)
    assert gathering.wait(logged=95, now=10.001) == pytest.approx(0.001)
    assert gathering.wait(logged=96, now=10.001) == 0.0


def test_a_batch_waits_at_most_half_as_long_as_the_last_one_took() -> None:
    gathering = Gathering(DELAY)
    gathering.completed(told=32, logged=64, now=10.0, seconds=0.004)
    assert gathering.wait(logged=90, now=10.002) == 0.0


def test_a_very_slow_disk_makes_no_long_wait() -> None:
    gathering = Gathering(DELAY)
    gathering.completed(told=32, logged=64, now=10.0, seconds=60.0)
    assert gathering.wait(logged=64, now=10.0) == pytest.approx(DELAY)


def test_after_a_wait_in_vain_the_next_batches_leave_at_once() -> None:
    gathering = Gathering(DELAY)
    gathering.completed(told=32, logged=64, now=10.0, seconds=0.004)
    assert gathering.wait(logged=79, now=10.002) == 0.0  # 15 of 32 came
    for number in range(PAUSE):
        now = 11.0 + number
        gathering.completed(told=32, logged=100, now=now, seconds=0.004)
        assert gathering.wait(logged=100, now=now) == 0.0
    gathering.completed(told=32, logged=100, now=99.0, seconds=0.004)
    assert gathering.wait(logged=100, now=99.0) > 0.0


def test_a_wait_in_which_half_of_them_came_was_not_in_vain() -> None:
    gathering = Gathering(DELAY)
    gathering.completed(told=32, logged=64, now=10.0, seconds=0.004)
    assert gathering.wait(logged=80, now=10.002) == 0.0
    gathering.completed(told=32, logged=100, now=11.0, seconds=0.004)
    assert gathering.wait(logged=100, now=11.0) > 0.0
