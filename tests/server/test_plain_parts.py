"""The parts that decide, without actors: order of service, reservations, old versions, cuts, credit accounts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.actors.reservations import Reservations
from pfs.actors.round_robin import FirstComeFirstServed, RoundRobin
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_file_state import Cut, PageFileState
from pfs.cache.page_table import PageTable
from pfs.cache.versions import PageVersions
from pfs.errors import OutOfRange, ProtocolError, RequestTooLarge
from pfs.streams.transfers import Transfer

# -- round robin


@given(st.data())
def test_round_robin_serves_the_mth_request_of_its_session_within_m_times_s_chunks(data: st.DataObject) -> None:
    order: RoundRobin[str, tuple[str, int]] = RoundRobin()
    left: dict[tuple[str, int], int] = {}
    ready: dict[str, list[tuple[str, int]]] = {}
    waiting: dict[tuple[str, int], tuple[int, int, int]] = {}
    """Of each ready request: its rank m when it became ready, the most sessions ready since, chunks served since."""
    number = 0

    def add(request: tuple[str, int]) -> None:
        order.add(request[0], request)
        mine = ready.setdefault(request[0], [])
        mine.append(request)
        waiting[request] = (len(mine), 0, 0)
        for each, (m, s, served) in waiting.items():
            waiting[each] = (m, max(s, len(ready)), served)

    for step in data.draw(st.lists(st.sampled_from(["new", "serve", "serve", "discard"]), max_size=60)):
        if step == "new":
            number += 1
            request = (data.draw(st.sampled_from("abcd")), number)
            left[request] = data.draw(st.integers(1, 8))
            add(request)
        elif step == "serve":
            request_or_none = order.next()
            assert (request_or_none is None) == (not waiting)
            if request_or_none is None:
                continue
            request = request_or_none
            for each, (m, s, served) in waiting.items():
                waiting[each] = (m, s, served + 1)
            m, s, served = waiting.pop(request)
            assert served <= m * s, (request, m, s, served)
            _remove(ready, request)
            left[request] -= 1
            if left[request]:
                add(request)
            else:
                order.discard(request[0], request)
        elif left:
            request = data.draw(st.sampled_from(sorted(left)))
            order.discard(request[0], request)
            if request in waiting:
                del waiting[request]
                _remove(ready, request)
            del left[request]
        assert len(order) == len(waiting)
        assert bool(order) == bool(waiting)


def _remove(ready: dict[str, list[tuple[str, int]]], request: tuple[str, int]) -> None:
    ready[request[0]].remove(request)
    if not ready[request[0]]:
        del ready[request[0]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_first_come_first_served_finishes_one_before_the_next(chunks: list[int]) -> None:
    order: FirstComeFirstServed[str, int] = FirstComeFirstServed()
    left = dict(enumerate(chunks))
    for request in left:
        order.add("session", request)
    served = []
    while (request_or_none := order.next()) is not None:
        served.append(request_or_none)
        left[request_or_none] -= 1
        if left[request_or_none]:
            order.add("session", request_or_none)
        else:
            order.discard("session", request_or_none)
    assert served == [request for request, n in enumerate(chunks) for _ in range(n)]
    assert len(order) == 0


def test_first_come_first_served_lets_all_wait_for_the_first() -> None:
    order: FirstComeFirstServed[str, str] = FirstComeFirstServed()
    order.add("a", "first")
    order.add("b", "second")
    assert order.next() == "first"
    assert len(order) == 1
    assert order.next() is None
    order.add("a", "first")
    assert order.next() == "first"
    order.discard("a", "first")
    assert order.next() == "second"


# -- reservations


class NaiveReservations:
    """The rules said plainly: look at all who wait, in order; grant whoever may be granted."""

    def __init__(self, budget: int, limit: int) -> None:
        self.budget, self.limit = budget, min(limit, budget)
        self.granted: dict[int, tuple[str, int]] = {}
        self.waiting: list[tuple[int, str, int]] = []

    def used(self, session: str | None = None) -> int:
        return sum(size for who, size in self.granted.values() if session in (None, who))

    def settle(self) -> set[int]:
        now = set()
        blocked = set()
        for request, session, size in list(self.waiting):
            if session in blocked or self.used(session) + size > self.limit:
                blocked.add(session)
            elif self.used() + size > self.budget:
                break
            else:
                self.granted[request] = (session, size)
                self.waiting.remove((request, session, size))
                now.add(request)
        return now


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_reservations_keep_to_the_budget_and_the_order(budget: int, limit: int, data: st.DataObject) -> None:
    room: Reservations[str, int] = Reservations(budget, limit)
    naive = NaiveReservations(budget, limit)
    number = 0
    for step in data.draw(st.lists(st.sampled_from(["ask", "ask", "release"]), max_size=40)):
        if step == "ask":
            number += 1
            session, size = data.draw(st.sampled_from("abc")), data.draw(st.integers(1, 13))
            if size > min(limit, budget):
                with pytest.raises(RequestTooLarge):
                    room.ask(session, number, size)
                continue
            naive.waiting.append((number, session, size))
            granted = room.ask(session, number, size)
            assert naive.settle() == ({number} if granted else set())
        elif number:
            request = data.draw(st.integers(1, number))
            naive.granted.pop(request, None)
            naive.waiting = [each for each in naive.waiting if each[0] != request]
            assert set(room.release(request)) == naive.settle()
        assert room.reserved == naive.used() <= budget
        assert all(naive.used(session) <= naive.limit for session in "abc")
        assert room.waiting == len(naive.waiting)
    for request in range(1, number + 1):
        room.release(request)
    assert room.reserved == 0
    assert room.waiting == 0


def test_a_reservation_that_can_never_be_granted_names_the_limit() -> None:
    with pytest.raises(RequestTooLarge, match=r"8 bytes.*limit is 5.*staging_bytes"):
        Reservations[str, str](10, 5).ask("a", "r", 8)


# -- credit


@given(st.integers(1, 6), st.lists(st.one_of(st.just("send"), st.integers(-2, 9)), max_size=50))
def test_credit_is_neither_made_nor_lost(limit: int, steps: list[str | int]) -> None:
    transfer = Transfer(1, None, None, limit)
    out = 0
    for step in steps:
        if step == "send":
            if out == limit:
                with pytest.raises(ProtocolError, match="without credit"):
                    transfer.spend()
            else:
                transfer.spend()
                out += 1
        elif isinstance(step, int) and 1 <= step <= out:
            transfer.give_back(step)
            out -= step
        else:
            with pytest.raises(ProtocolError, match="given back"):
                transfer.give_back(step)
        assert transfer.credit == limit - out


@pytest.mark.parametrize("n", [True, 1.0, "1", None])
def test_credit_is_an_int(n: Any) -> None:
    transfer = Transfer(1, None, None, 2)
    transfer.spend()
    with pytest.raises(ProtocolError):
        transfer.give_back(n)


# -- old versions


@given(st.data())
def test_the_version_store_finds_what_a_list_of_all_versions_finds(data: st.DataObject) -> None:
    store = PageVersions()
    history: dict[int, list[tuple[int, bytes]]] = {}
    """page -> (version since which it has this image, image)."""
    version = 0
    snapshots = [0]
    for pgid in range(4):
        history[pgid] = [(0, b"%d:0" % pgid)]
    for step in data.draw(st.lists(st.sampled_from(["write", "snapshot", "forget", "tidy"]), max_size=40)):
        if step == "write":
            version += 1
            for pgid in data.draw(st.sets(st.integers(0, 3), min_size=1)):
                store.save(pgid, version, history[pgid][-1][1])
                history[pgid].append((version, b"%d:%d" % (pgid, version)))
        elif step == "snapshot":
            snapshots.append(version)
        elif step == "forget" and snapshots:
            snapshots.remove(data.draw(st.sampled_from(snapshots)))
            store.forget_before(min(snapshots, default=None))
        elif step == "tidy":
            store.keep_only(set().union(*(store.needed(snapshot, 0, 4) for snapshot in snapshots)))
        for snapshot in snapshots:
            for pgid, images in history.items():
                right = [image for since, image in images if since <= snapshot][-1]
                found = store.find(pgid, snapshot)
                assert (images[-1][1] if found is None else found) == right
        if not snapshots:
            store.forget_before(None)
            assert (len(store), store.kept_bytes) == (0, 0)


# -- cuts


PAGES = 6


@given(st.data())
def test_every_cut_sees_the_file_as_it_was_whatever_is_written_evicted_or_given_up(data: st.DataObject) -> None:
    """Against a model that copies the whole file for each cut."""
    table: PageTable[Any] = PageTable(data.draw(st.sampled_from([0, 800, 100_000])))
    limit = data.draw(st.sampled_from([0, 1200, 100_000]))
    dirty = DirtyPages()
    state = PageFileState("file", 1, 512, PAGES, table, dirty, limit)
    disk = [_image(number, 0) for number in range(PAGES)]
    current = list(disk)
    cuts: dict[Cut, list[bytes]] = {}
    lsn = 0
    for step in range(data.draw(st.integers(0, 40))):
        match data.draw(st.sampled_from(["open", "advance", "publish", "write back", "append", "truncate"])):
            case "open" if current:
                first = data.draw(st.integers(0, len(current) - 1))
                cut = Cut(first, data.draw(st.integers(first + 1, len(current))))
                state.open_cut(cut)
                cuts[cut] = list(current)
            case "advance" if cuts:
                cut = data.draw(st.sampled_from(list(cuts)))
                assert cut.snapshot is not None
                n = data.draw(st.integers(1, cut.end - cut.next))
                pages = state.resolve(cut.snapshot, cut.next, n)
                if None in pages:
                    fetched = state.table.begin_fetch("waiter", 1, cut.next, pages)
                    outcomes = [
                        outcome
                        for fetch in fetched
                        for outcome in table.complete(fetch, disk[fetch.pgid : fetch.pgid + fetch.n])
                    ]
                    pages = [*outcomes[-1].pages]
                assert pages == cuts[cut][cut.next : cut.next + n]
                cut.next += n
                if cut.next == cut.end:
                    state.close_cut(cut)
                    del cuts[cut]
            case "publish" if current:
                first = data.draw(st.integers(0, len(current) - 1))
                n = data.draw(st.integers(1, len(current) - first))
                new = [_image(number, step + 1) for number in range(first, first + n)]
                lsn += 1
                images = {pgid: disk[pgid] for pgid in state.missing_images(first, n)}
                _, failed = state.publish(first, new, lsn, lsn, images)
                current[first : first + n] = new
                for cut in failed:
                    assert "version_bytes" in str(state.snapshot_too_old(cut))
                    assert set(range(cut.next, cut.end)) & set(range(PAGES + 40)), "it needed nothing"
                    del cuts[cut]
            case "write back":
                for run in dirty.take(data.draw(st.integers(1, 8)), lsn + 1):
                    disk.extend([b""] * (run.pgid + len(run.pages) - len(disk)))
                    disk[run.pgid : run.pgid + len(run.pages)] = run.pages
                    dirty.written(run)
            case "append":
                lsn += 1
                new = [_image(len(current), step + 1)]
                state.publish(len(current), new, lsn, lsn, {})
                current += new
            case "truncate" if current:
                n = data.draw(st.integers(0, len(current)))
                _, failed = state.truncate(n)
                del disk[n:], current[n:]
                assert set(failed) == {cut for cut in cuts if cut.end > n}
                for cut in failed:
                    del cuts[cut]
        assert state.page_count == len(current)
        assert state.versions.kept_bytes <= limit
        if not cuts:
            assert state.versions.kept_bytes == 0
        with pytest.raises(OutOfRange):
            state.check_range(0, len(current) + 1)


def _image(number: int, version: int) -> bytes:
    return (b"%d:%d" % (number, version)).ljust(512)


def test_a_cut_gets_its_own_image_though_its_page_is_being_overwritten_for_the_second_time() -> None:
    state = PageFileState("file", 1, 512, 1, PageTable(0), DirtyPages(), 100_000)
    old, young = Cut(0, 1), Cut(0, 1)
    state.open_cut(old)
    first, second, third = (_image(0, version) for version in range(3))
    state.publish(0, [second], 1, 1, {0: first})
    state.open_cut(young)
    assert state.missing_images(0, 1) == []
    state.publish(0, [third], 2, 2, {})
    assert [state.resolve(snapshot, 0, 1) for snapshot in range(3)] == [[first], [second], [third]]


def test_a_read_from_disk_that_a_write_overtakes_gets_the_old_page_and_leaves_nothing_behind() -> None:
    table: PageTable[Any] = PageTable(0)
    state = PageFileState("file", 1, 512, 1, table, DirtyPages(), 100_000)
    state.open_cut(Cut(0, 1))
    [fetch] = table.begin_fetch("reader", 1, 0, state.resolve(0, 0, 1))
    [outcome], _ = state.publish(0, [_image(0, 1)], 1, 1, {0: _image(0, 0)})
    assert (outcome.waiter, outcome.pages, outcome.error) == ("reader", [_image(0, 0)], None)
    assert table.complete(fetch, [_image(0, 1)]) == []
    assert table.stats()["fetched"] == 0


def test_a_cut_that_needs_no_old_page_is_not_failed_for_those_that_do() -> None:
    state = PageFileState("file", 1, 512, 10, PageTable(100_000), DirtyPages(), 512)
    idle, old, young = Cut(8, 10), Cut(0, 4), Cut(2, 4)
    for cut in (idle, old, young):
        state.open_cut(cut)
    assert state.missing_images(2, 2) == [2, 3]
    _, failed = state.publish(2, [b"y" * 512] * 2, 1, 1, dict.fromkeys((2, 3), b"x" * 512))
    assert failed == [old, young]
    state.close_cut(idle)
    state.close_cut(idle)
    assert state.versions.kept_bytes == 0


def test_old_pages_that_only_an_ended_younger_read_needed_do_not_cost_an_older_one_its_life() -> None:
    state = PageFileState("file", 1, 512, 10, PageTable(100_000), DirtyPages(), 2 * 512)
    older, younger = Cut(0, 2), Cut(4, 6)
    state.open_cut(older)
    state.open_cut(younger)
    for first in (4, 0):
        if first == 0:
            state.close_cut(younger)
        images = dict.fromkeys(state.missing_images(first, 2), b"x" * 512)
        _, failed = state.publish(first, [b"y" * 512] * 2, 1, 1, images)
        assert failed == []
    assert state.resolve(older.snapshot or 0, 0, 2) == [b"x" * 512] * 2
