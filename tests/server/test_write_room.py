"""Who may log how much: the shares of writes, against what they add up to."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pfs.actors.write_room import Share, Waiter, WriteRoom
from pfs.cache.dirty_pages import DirtyPages
from pfs.wal.shared_log import SharedLog


class Log:
    """A log of which the test says how much is free."""

    def __init__(self, free: int = 1 << 40) -> None:
        self.free = free
        self.is_filling = False
        self.wants_clean_pages = False


def made(limit: int, log: Log | None = None) -> tuple[WriteRoom, DirtyPages, Any]:
    log, dirty = log or Log(), DirtyPages()
    stand_in: Any = log
    assert hasattr(SharedLog, "free")
    return WriteRoom(dirty, stand_in, limit), dirty, stand_in


def waiter(token: object) -> Waiter:
    address: Any = "server"
    return Waiter(address, token)


def test_log_that_a_write_has_not_inserted_yet_is_kept_for_it() -> None:
    room, _, log = made(1 << 30, Log(free=10_000))
    first, second, third = Share(5, 512, 1000), Share(4, 512, 1000), Share(5, 512, 1000)
    assert room.ask(first, waiter(1))
    assert room.ask(second, waiter(2))
    assert not room.ask(third, waiter(3))
    room.logged(first, 5)
    log.free -= 5000
    assert room.grant() == []
    log.free += 5000  # a checkpoint was made
    assert room.grant() == [waiter(3)]
    for share in (first, second, third):
        room.give_back(share)
    assert room.promised == room.waiting == 0


def test_a_write_that_is_larger_than_the_log_passes_when_it_is_alone() -> None:
    room, _, _ = made(1 << 30, Log(free=-1))
    first, second = Share(5, 512, 1000), Share(5, 512, 1000)
    assert room.ask(first, waiter(1))
    assert not room.ask(second, waiter(2))
    room.give_back(first)
    assert room.grant() == [waiter(2)]


def test_who_waits_is_refused_once_and_may_ask_again() -> None:
    room, dirty, _ = made(512)
    dirty.put(1, 0, b"x" * 512, 8, 8)
    share = Share(1, 512, 1000)
    assert not room.ask(share, waiter(1))
    assert room.wants_clean_pages
    assert room.refuse() == [waiter(1)]
    assert room.refuse() == []
    room.give_back(share)  # it was never granted
    assert room.promised == 0
    dirty.discard(1, 0)
    assert room.ask(Share(1, 512, 1000), waiter(2))


def test_servers_are_held_back_while_the_log_is_filling_unless_the_data_files_have_no_space() -> None:
    room, _, log = made(1 << 30)
    server: Any = "server"
    assert not room.holds_back(server)
    log.is_filling = True
    assert room.wants_clean_pages
    assert room.holds_back(server)
    assert room.let_go() == []
    log.is_filling = False
    assert room.let_go() == ["server"]
    assert room.let_go() == []
    log.is_filling = True
    others: list[Any] = [f"server {number}" for number in range(20)]
    assert all(room.holds_back(each) for each in [*others, others[0]])
    room.no_space = True
    assert room.let_go() == others
    assert not room.holds_back(server)


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "publish", "clean", "fail"]), st.integers(1, 12)), max_size=80),
    st.integers(0, 20),
)
def test_dirty_and_promised_pages_stay_within_the_limit_or_are_one_writes_alone(
    steps: list[tuple[str, int]], limit: int
) -> None:
    room, dirty, _ = made(limit * 512)
    asked: list[Share] = []
    shares: dict[int, Share] = {}
    page = lsn = 0
    for what, number in steps:
        under_way = [share for share in asked if share.granted]
        if what == "ask":
            share = Share(number, 512, 600)
            shares[len(shares)] = share
            asked.append(share)
            granted = room.ask(share, waiter(len(shares) - 1))
            assert granted is share.granted
        elif what == "clean":
            for run in dirty.take(number, lsn + 1):
                dirty.written(run)
        elif under_way:
            share = under_way[number % len(under_way)]
            if what == "publish":
                lsn += 8
                for _ in range(share.data // 512):
                    dirty.put(1, page, bytes(512), lsn, lsn)
                    page += 1
            room.give_back(share)
            asked.remove(share)
        for each in room.grant():
            assert shares[each.token].granted
        waiting = [share for share in asked if not share.granted]
        assert len(waiting) == room.waiting
        under_way = [share for share in asked if share.granted]
        assert room.promised == sum(share.data for share in under_way)
        largest = max((share.data for share in shares.values()), default=0)
        assert dirty.bytes + room.promised <= max(limit * 512, largest)
        if waiting:  # the first in the line has a reason
            assert dirty.bytes + room.promised > 0
            assert dirty.bytes + room.promised + waiting[0].data > limit * 512
