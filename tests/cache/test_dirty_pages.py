"""Dirty pages against a naive model: nothing is lost, nothing reaches the disk before its log."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pfs.cache.dirty_pages import DirtyPages, DirtyRun

FILES = st.integers(1, 2)
PGIDS = st.integers(0, 9)


class DirtyPagesMachine(RuleBasedStateMachine):
    """A log that grows, a disk, and the pages between them."""

    def __init__(self) -> None:
        super().__init__()
        self.dirty = DirtyPages()
        self.lsn = 8
        self.flushed = 8
        self.newest: dict[tuple[int, int], bytes] = {}
        self.disk: dict[tuple[int, int], bytes] = {}
        self.first: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        self.runs: list[DirtyRun] = []
        self.cut: set[int] = set()

    @rule(file_id=FILES, pgid=PGIDS, n=st.integers(1, 3))
    def publish(self, file_id: int, pgid: int, n: int) -> None:
        if file_id in self.cut and any(run.file_id == file_id for run in self.runs):
            return  # the file is to be cut when its writes have ended
        self.cut.discard(file_id)
        first_lsn, self.lsn = self.lsn, self.lsn + 8
        for number in range(pgid, pgid + n):
            page = b"%08d" % self.lsn
            self.dirty.put(file_id, number, page, self.lsn, first_lsn)
            self.newest[file_id, number] = page
            self.first.setdefault((file_id, number), []).append((first_lsn, page))
        self.lsn += 8

    @rule()
    def flush(self) -> None:
        self.flushed = self.lsn

    @rule(most=st.integers(1, 8), below=st.none() | st.integers(0, 400))
    def take(self, most: int, below: int | None) -> None:
        runs = self.dirty.take(most, self.flushed, below)
        assert sum(len(run.pages) for run in runs) <= most
        busy = {(run.file_id, run.pgid + number) for run in self.runs for number in range(len(run.pages))}
        for run in runs:
            assert len(run.pages) == len(run.lsns)
            for number, (page, lsn) in enumerate(zip(run.pages, run.lsns, strict=True)):
                key = (run.file_id, run.pgid + number)
                assert lsn < self.flushed
                assert key not in busy
                assert page == self.newest[key]
        self.runs += runs

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 100), fails=st.booleans())
    def end_of_a_write(self, which: int, fails: bool) -> None:
        run = self.runs.pop(which % len(self.runs))
        if fails:
            self.dirty.not_written(run)
            return
        for number, page in enumerate(run.pages):
            key = (run.file_id, run.pgid + number)
            if any(page == each for _, each in self.first.get(key, ())):
                self.disk[key] = page
                while self.first[key][0][1] != page:
                    self.first[key].pop(0)
                self.first[key].pop(0)
        self.dirty.written(run)

    @rule(file_id=FILES, pgid=PGIDS)
    def truncate(self, file_id: int, pgid: int) -> None:
        self.dirty.discard(file_id, pgid)
        self.cut.add(file_id)
        for places in (self.newest, self.disk, self.first):
            for key in [key for key in places if key[0] == file_id and key[1] >= pgid]:
                del places[key]  # type: ignore[attr-defined]

    @invariant()
    def the_newest_page_is_here_or_on_disk(self) -> None:
        for key, page in self.newest.items():
            assert (self.dirty.get(*key) or self.disk.get(key)) == page

    @invariant()
    def what_is_not_on_disk_can_be_made_again_from_the_log(self) -> None:
        oldest = self.dirty.oldest_first_lsn()
        for history in self.first.values():
            if history:
                assert oldest is not None
                assert oldest <= history[0][0]

    @invariant()
    def the_books_are_right(self) -> None:
        assert self.dirty.bytes == sum(len(page) for key, page in self.newest.items() if self.dirty.get(*key))
        for file_id in (1, 2):
            assert self.dirty.writes_under_way(file_id) == sum(run.file_id == file_id for run in self.runs)


TestDirtyPages = DirtyPagesMachine.TestCase


def test_neighbours_are_written_together() -> None:
    dirty = DirtyPages()
    for pgid in (3, 1, 2, 7):
        dirty.put(1, pgid, b"%d" % pgid, 8, 8)
    runs = dirty.take(10, 16)
    assert [(run.pgid, run.pages) for run in runs] == [(1, (b"1", b"2", b"3")), (7, (b"7",))]


def test_a_page_changed_while_it_is_written_stays_dirty() -> None:
    dirty = DirtyPages()
    dirty.put(1, 0, b"old", 8, 8)
    [run] = dirty.take(1, 100)
    dirty.put(1, 0, b"new", 24, 16)
    assert dirty.take(1, 100) == []
    dirty.written(run)
    assert dirty.get(1, 0) == b"new"
    assert dirty.oldest_first_lsn() == 16


@pytest.mark.parametrize("change", ["overwrite", "cut off"])
def test_a_run_is_unchanged_until_one_of_its_pages_is_overwritten_or_cut_off(change: str) -> None:
    dirty = DirtyPages()
    for pgid in range(3):
        dirty.put(1, pgid, b"old", 8, 8)
    [run] = dirty.take(3, 100)
    assert dirty.unchanged(run)
    if change == "overwrite":
        dirty.put(1, 1, b"new", 24, 16)
    else:
        dirty.discard(1, 2)
    assert not dirty.unchanged(run)
