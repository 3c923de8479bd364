"""The buffer pool's page table: hits, single flight, writes beside reads, truncation, memory."""

from __future__ import annotations

import tracemalloc
from collections import defaultdict

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pfs.cache.page_table import COUNTERS, MAX_PAGES, PAGE_OVERHEAD, Fetch, Outcome, PageTable, page_charge
from pfs.errors import InvalidRequest, OutOfRange, PageCorrupt, PageIOError, PfsError, ProtocolError, WrongPageLength

PAGE = 16
FILE = 3


def page(text: str) -> bytes:
    return text.encode().ljust(PAGE, b".")


def pages(*texts: str) -> list[bytes]:
    return [page(text) for text in texts]


def table_of(count: int) -> PageTable[str]:
    return PageTable(count * (PAGE + PAGE_OVERHEAD))


def runs(fetches: list[Fetch]) -> list[tuple[int, int, int]]:
    return [(fetch.file_id, fetch.pgid, fetch.n) for fetch in fetches]


def fetch(table: PageTable[str], waiter: str, pgid: int, n: int, file_id: int = FILE) -> list[Fetch]:
    return table.begin_fetch(waiter, file_id, pgid, table.lookup(file_id, pgid, n))


def served(waiter: str, *texts: str) -> Outcome[str]:
    return Outcome(waiter, pages(*texts), None)


# ---------------------------------------------------------------------------------------------- reading


def test_a_page_that_was_read_is_a_hit_until_it_is_evicted() -> None:
    table = table_of(2)
    assert table.hit(FILE, 5) is None
    (read,) = fetch(table, "a", 5, 1)
    assert table.complete(read, pages("5")) == [served("a", "5")]
    assert table.hit(FILE, 5) == page("5")
    table.publish(FILE, 6, pages("6"))
    assert table.hit(FILE, 5) == page("5")
    table.publish(FILE, 7, pages("7"))
    assert table.lookup(FILE, 5, 3) == [page("5"), None, page("7")]


def test_a_page_that_is_forgotten_is_read_again_and_its_neighbours_are_not() -> None:
    table = table_of(3)
    table.publish(FILE, 5, pages("5", "6", "7"))
    table.forget(FILE, 6)
    table.forget(FILE, 9)  # which is not there
    assert table.lookup(FILE, 5, 3) == [page("5"), None, page("7")]


def test_pages_of_the_same_number_in_two_files_are_two_pages() -> None:
    table = table_of(9)
    table.publish(1, 0, pages("one"))
    table.publish(2, 0, pages("two"))
    assert (table.hit(1, 0), table.hit(2, 0), table.hit(0, 0)) == (page("one"), page("two"), None)


def test_a_run_with_hits_inside_is_read_around_them() -> None:
    table = table_of(9)
    table.publish(FILE, 11, pages("11"))
    table.publish(FILE, 13, pages("13"))
    fetches = fetch(table, "a", 10, 6)
    assert runs(fetches) == [(FILE, 10, 1), (FILE, 12, 1), (FILE, 14, 2)]
    assert table.complete(fetches[2], pages("14", "15")) == []
    assert table.complete(fetches[0], pages("10")) == []
    assert table.complete(fetches[1], pages("12")) == [served("a", "10", "11", "12", "13", "14", "15")]


def test_a_miss_by_two_readers_is_one_disk_read() -> None:
    table = table_of(9)
    (first,) = fetch(table, "a", 0, 4)
    second = fetch(table, "b", 2, 4)
    assert runs(second) == [(FILE, 4, 2)]
    assert fetch(table, "c", 3, 1) == []
    assert table.stats()["joins"] == 3
    assert table.complete(first, pages("0", "1", "2", "3")) == [served("a", "0", "1", "2", "3"), served("c", "3")]
    assert table.complete(second[0], pages("4", "5")) == [served("b", "2", "3", "4", "5")]


def test_one_waiter_may_wait_for_two_runs() -> None:
    table = table_of(9)
    (one,) = fetch(table, "a", 0, 1)
    (two,) = fetch(table, "a", 8, 1)
    assert table.complete(two, pages("8")) == [served("a", "8")]
    assert table.complete(one, pages("0")) == [served("a", "0")]


@pytest.mark.parametrize("capacity", [0, 1, 4])
def test_a_run_larger_than_the_pool_is_served_whole(capacity: int) -> None:
    table = table_of(capacity)
    texts = [str(number) for number in range(64)]
    fetches = fetch(table, "scan", 0, 64)
    assert runs(fetches) == [(FILE, 0, 64)]
    assert table.complete(fetches[0], pages(*texts)) == [served("scan", *texts)]
    stats = table.stats()
    assert stats["pages"] == capacity
    assert stats["evictions"] == 64 - capacity


def test_waiting_for_nothing_is_refused() -> None:
    table = table_of(9)
    table.publish(FILE, 0, pages("0"))
    with pytest.raises(InvalidRequest, match="all there"):
        fetch(table, "a", 0, 1)


def test_a_failed_read_fails_its_waiters_once_and_no_others() -> None:
    table = table_of(9)
    fetches = fetch(table, "a", 0, 2)
    table.publish(FILE, 3, pages("3"))
    other = fetch(table, "b", 1, 4)
    error = PageIOError("pages 0 to 1 cannot be read")
    assert table.fail(fetches[0], error) == [Outcome("a", [], error), Outcome("b", [], error)]
    assert table.complete(other[0], pages("2")) == []
    assert table.complete(other[1], pages("4")) == []
    assert table.hit(FILE, 4) == page("4")
    assert table.stats()["failed"] == 2
    assert runs(fetch(table, "c", 0, 1)) == [(FILE, 0, 1)], "a page whose read failed can be read again"


def test_one_bad_page_fails_only_those_who_need_it() -> None:
    table = table_of(9)
    (read,) = fetch(table, "a", 0, 3)
    fetch(table, "b", 0, 1)
    fetch(table, "c", 2, 1)
    error = PageCorrupt("page 1 of file 3")
    outcomes = table.complete(read, [page("0"), error, page("2")])
    assert outcomes == [served("b", "0"), Outcome("a", [], error), served("c", "2")]
    assert table.lookup(FILE, 0, 3) == [page("0"), None, page("2")]


def test_a_fetch_completed_twice_changes_nothing_the_second_time() -> None:
    table = table_of(9)
    (read,) = fetch(table, "a", 0, 1)
    table.complete(read, pages("0"))
    assert table.complete(read, pages("other")) == []
    assert table.hit(FILE, 0) == page("0")


# ---------------------------------------------------------------------------------------------- writing


def test_a_published_page_takes_the_place_of_the_old_one() -> None:
    table = table_of(9)
    table.publish(FILE, 0, pages("old", "old"))
    table.publish(FILE, 1, pages("new"))
    assert table.lookup(FILE, 0, 2) == pages("old", "new")
    assert table.stats()["pages"] == 2


def test_bytes_read_before_a_publication_are_never_installed() -> None:
    table = table_of(9)
    (read,) = fetch(table, "a", 0, 3)
    assert table.publish(FILE, 1, pages("new")) == []
    assert table.complete(read, pages("0", "stale", "2")) == [served("a", "0", "new", "2")]
    assert table.hit(FILE, 1) == page("new")
    assert table.stats()["stale"] == 1


def test_a_stale_read_is_void_even_when_the_published_page_is_gone_and_read_anew() -> None:
    table = table_of(0)
    (before,) = fetch(table, "a", 0, 1)
    assert table.publish(FILE, 0, pages("new")) == [served("a", "new")]
    (after,) = fetch(table, "b", 0, 1)
    assert table.complete(before, pages("stale")) == []
    assert table.complete(after, pages("new")) == [served("b", "new")]


def test_a_read_beside_a_write_waits_for_the_write() -> None:
    table = table_of(9)
    (read,) = fetch(table, "before", 0, 1)
    table.begin_write(FILE, 0, 2)
    assert fetch(table, "beside", 0, 2) == []
    assert table.complete(read, pages("torn")) == []
    assert table.hit(FILE, 0) is None
    assert table.publish(FILE, 0, pages("new", "new")) == [served("before", "new"), served("beside", "new", "new")]
    assert table.stats()["in_flight"] == 0


def test_hits_get_the_old_page_until_the_new_one_is_published() -> None:
    table = table_of(9)
    table.publish(FILE, 0, pages("old"))
    table.begin_write(FILE, 0, 1)
    assert table.hit(FILE, 0) == page("old")
    table.publish(FILE, 0, pages("new"))
    assert table.hit(FILE, 0) == page("new")


def test_a_write_that_is_given_up_fails_who_waited_and_keeps_the_old_page() -> None:
    table = table_of(9)
    table.publish(FILE, 1, pages("old"))
    table.begin_write(FILE, 0, 2)
    fetch(table, "a", 0, 1)
    (unconcerned,) = fetch(table, "b", 5, 1)
    error = PageIOError("no")
    assert table.abandon_write(FILE, 0, 9, error) == [Outcome("a", [], error)]
    assert table.hit(FILE, 1) == page("old")
    assert table.complete(unconcerned, pages("5")) == [served("b", "5")]
    assert runs(fetch(table, "c", 0, 1)) == [(FILE, 0, 1)]


def test_overlapping_writes_are_refused_and_change_nothing() -> None:
    table = table_of(9)
    table.begin_write(FILE, 2, 2)
    with pytest.raises(ProtocolError, match="page 2 of file 3"):
        table.begin_write(FILE, 1, 3)
    assert runs(fetch(table, "a", 1, 1)) == [(FILE, 1, 1)]


# ---------------------------------------------------------------------------------------------- truncation


def test_truncation_forgets_pages_and_fails_who_waits_for_them() -> None:
    table = table_of(9)
    table.publish(FILE, 0, pages("0", "1", "2"))
    table.publish(FILE + 1, 2, pages("other"))
    (read,) = fetch(table, "a", 2, 3)
    (kept,) = fetch(table, "b", MAX_PAGES - 1, 1, file_id=FILE - 1)
    error = OutOfRange("file 3 was cut to 2 pages")
    assert table.discard(FILE, 2, error) == [Outcome("a", [], error)]
    assert table.lookup(FILE, 0, 3) == [page("0"), page("1"), None]
    assert table.hit(FILE + 1, 2) == page("other")
    assert table.complete(read, pages("stale", "stale")) == []
    assert table.hit(FILE, 3) is None
    assert table.complete(kept, pages("kept")) == [served("b", "kept")]


def test_a_dropped_file_leaves_nothing_behind() -> None:
    table = table_of(9)
    table.publish(FILE, 0, pages("0", "1"))
    table.begin_write(FILE, 1, 1)
    table.discard(FILE, 0, OutOfRange("dropped"))
    stats = table.stats()
    assert (stats["pages"], stats["bytes"], stats["in_flight"]) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------- memory and counters


def test_a_smaller_pool_gives_memory_back_at_once() -> None:
    table = table_of(9)
    table.publish(FILE, 0, pages("0", "1", "2"))
    table.resize(page_charge(page("")))
    assert table.lookup(FILE, 0, 3) == [None, None, page("2")]


@pytest.mark.parametrize("page_size", [512, 8192])
def test_the_bytes_charged_are_the_bytes_kept_alive(page_size: int) -> None:
    count = 3000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        table: PageTable[str] = PageTable(1 << 30)
        for number in range(count):
            table.publish(FILE, number, [bytes(page_size)])
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    charged = table.stats()["bytes"]
    assert 0.9 * charged < kept <= charged


def test_every_counter_has_a_help_text() -> None:
    assert list(table_of(1).stats()) == list(COUNTERS)


def test_counters_say_what_happened() -> None:
    table = table_of(2)
    (read,) = fetch(table, "a", 0, 2)
    table.complete(read, pages("0", "1"))
    table.publish(FILE, 2, pages("2"))
    table.hit(FILE, 2)
    fetch(table, "b", 9, 1)
    assert table.stats() == {
        "hits": 1,
        "misses": 3,
        "joins": 0,
        "fetched": 2,
        "published": 1,
        "stale": 0,
        "failed": 0,
        "evictions": 1,
        "pages": 2,
        "bytes": 2 * (PAGE + PAGE_OVERHEAD),
        "capacity": 2 * (PAGE + PAGE_OVERHEAD),
        "in_flight": 1,
    }


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("file_id", "pgid", "n"),
    [(-1, 0, 1), (True, 0, 1), ("1", 0, 1), (1, -1, 1), (1, False, 1), (1, MAX_PAGES, 1), (1, 0, -1), (1, 0, True)],
)
def test_runs_that_cannot_be_are_refused(file_id: int, pgid: int, n: int) -> None:
    with pytest.raises(InvalidRequest, match="file"):
        table_of(1).begin_write(file_id, pgid, n)


def test_pages_must_be_objects_of_their_own() -> None:
    table = table_of(9)
    block = bytes(2 * PAGE)
    (read,) = fetch(table, "a", 0, 2)
    with pytest.raises(InvalidRequest, match="memoryview"):
        table.publish(FILE, 0, [memoryview(block)[:PAGE]])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="bytearray"):
        table.complete(read, [page("0"), bytearray(PAGE)])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="1 results"):
        table.complete(read, pages("0"))
    assert table.complete(read, pages("0", "1")) == [served("a", "0", "1")], "the refused calls changed nothing"


def test_pages_published_together_have_one_length() -> None:
    table = table_of(9)
    with pytest.raises(WrongPageLength, match="16 and 15"):
        table.publish(FILE, 0, [bytes(16), bytes(15)])
    assert table.stats()["pages"] == 0


# ---------------------------------------------------------------------------------------------- against a model


class PageTableMachine(RuleBasedStateMachine):
    """Readers, writers, truncations and evictions in any order, against the pages that are true at each moment.

    `disk` is what the disk holds and `history` the pages that were the published ones, by step.  Bytes that are read
    while a write is under way come back torn; a read takes its bytes when it starts or when it completes.
    """

    FILES = 2
    PAGES = 6
    files = st.integers(0, FILES - 1)
    starts = st.integers(0, PAGES - 1)
    lengths = st.integers(1, PAGES)

    def __init__(self) -> None:
        super().__init__()
        self.table: PageTable[int] = table_of(4)  # type: ignore[assignment]
        self.step = 0
        self.disk = {(f, p): page(f"{f}/{p}/0") for f in range(self.FILES) for p in range(self.PAGES)}
        self.history = defaultdict(list, {key: [(0, content)] for key, content in self.disk.items()})
        self.reads: list[tuple[Fetch, list[bytes]]] = []
        self.writing: list[tuple[int, int, int]] = []
        self.waits: dict[int, tuple[int, int, int, int]] = {}
        self.next_waiter = 0

    def clip(self, start: int, n: int) -> int:
        return min(n, self.PAGES - start)

    def being_written(self, file_id: int, pgid: int) -> bool:
        return any(f == file_id and start <= pgid < start + n for f, start, n in self.writing)

    def read_disk(self, read: Fetch) -> list[bytes]:
        return [
            page("TORN") if self.being_written(read.file_id, p) else self.disk[read.file_id, p]
            for p in range(read.pgid, read.pgid + read.n)
        ]

    def check(self, outcomes: list[Outcome[int]]) -> None:
        for outcome in outcomes:
            since, file_id, start, n = self.waits.pop(outcome.waiter)
            if outcome.error is None:
                assert len(outcome.pages) == n
                for number, content in enumerate(outcome.pages, start):
                    assert content in self.true_since(file_id, number, since)

    def true_since(self, file_id: int, pgid: int, since: int) -> list[bytes]:
        history = self.history[file_id, pgid]
        older = [content for step, content in history if step <= since]
        return older[-1:] + [content for step, content in history if step > since]

    @rule(file_id=files, start=starts, n=lengths)
    def read(self, file_id: int, start: int, n: int) -> None:
        self.step += 1
        n = self.clip(start, n)
        found = self.table.lookup(file_id, start, n)
        for number, content in enumerate(found, start):
            assert content in (None, self.history[file_id, number][-1][1])
        if None not in found:
            return
        self.waits[self.next_waiter] = (self.step, file_id, start, n)
        for fetch in self.table.begin_fetch(self.next_waiter, file_id, start, found):
            for number in range(fetch.pgid, fetch.pgid + fetch.n):
                assert not self.being_written(file_id, number)
            self.reads.append((fetch, self.read_disk(fetch)))
        self.next_waiter += 1

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), late=st.booleans(), broken=st.booleans())
    def complete(self, data: st.DataObject, late: bool, broken: bool) -> None:
        self.step += 1
        fetch, early_bytes = self.reads.pop(data.draw(st.integers(0, len(self.reads) - 1)))
        results: list[bytes | PfsError] = list(self.read_disk(fetch) if late else early_bytes)
        if broken:
            results[data.draw(st.integers(0, fetch.n - 1))] = PageIOError("read failed")
        self.check(self.table.complete(fetch, results))

    @rule(file_id=files, start=starts, n=lengths)
    def begin_write(self, file_id: int, start: int, n: int) -> None:
        self.step += 1
        n = self.clip(start, n)
        if any(self.being_written(file_id, number) for number in range(start, start + n)):
            with pytest.raises(ProtocolError):
                self.table.begin_write(file_id, start, n)
            return
        self.table.begin_write(file_id, start, n)
        self.writing.append((file_id, start, n))

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), given_up=st.booleans())
    def end_write(self, data: st.DataObject, given_up: bool) -> None:
        self.step += 1
        file_id, start, n = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        if given_up:
            self.check(self.table.abandon_write(file_id, start, n, PageIOError("write given up")))
            return
        new = [page(f"{file_id}/{number}/{self.step}") for number in range(start, start + n)]
        for number, content in enumerate(new, start):
            self.disk[file_id, number] = content
            self.history[file_id, number].append((self.step, content))
        self.check(self.table.publish(file_id, start, new))

    @rule(file_id=files, start=starts)
    def truncate_and_grow_again(self, file_id: int, start: int) -> None:
        self.step += 1
        self.writing = [write for write in self.writing if write[0] != file_id]
        self.check(self.table.abandon_write(file_id, 0, self.PAGES, PageIOError("truncated")))
        self.check(self.table.discard(file_id, start, OutOfRange("truncated")))
        for number in range(start, self.PAGES):
            assert self.table.hit(file_id, number) is None
            self.disk[file_id, number] = page(f"{file_id}/{number}/{self.step}")
            self.history[file_id, number].append((self.step, self.disk[file_id, number]))

    @rule(count=st.integers(0, 12))
    def resize(self, count: int) -> None:
        self.table.resize(count * (PAGE + PAGE_OVERHEAD))

    @invariant()
    def every_page_in_the_table_is_the_true_one_and_the_budget_holds(self) -> None:
        for (file_id, number), history in self.history.items():
            found = self.table.hit(file_id, number)
            assert found in (None, history[-1][1])
        stats = self.table.stats()
        assert stats["bytes"] == stats["pages"] * (PAGE + PAGE_OVERHEAD) <= stats["capacity"]

    def teardown(self) -> None:
        """Everything under way ends, and then nobody waits any longer."""
        while self.reads:
            fetch, content = self.reads.pop()
            self.check(self.table.complete(fetch, content))
        for file_id, start, n in self.writing:
            self.check(self.table.abandon_write(file_id, start, n, PageIOError("the end")))
        assert self.waits == {}
        assert self.table.stats()["in_flight"] == 0


TestPageTableAgainstAModel = PageTableMachine.TestCase
