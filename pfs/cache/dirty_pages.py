"""Pages that are newer in memory than on disk.  Plain code.

A write is published here when its commit record is in the log; the page stays here, whatever the page table evicts,
until it has been written to the data file.  So the newest version of a page is always to be had in two places: here and
in the log, or in the data file.

Invariants:

* Every entry has the LSN of the commit that made it (`lsn`), and the LSN from which the log must be kept to make it
  again (`first_lsn`, the first record of the transaction that made the *oldest* version not on disk).  A checkpoint
  with redo point r may be recorded when no entry has a `first_lsn` below r.
* A page is in at most one write at a time; while it is being written it stays, so nobody reads its bytes from disk.
  A page that is changed meanwhile stays dirty.
* `take` gives only pages whose COMMIT is flushed: the log reaches the disk before the data (write-ahead).  `flushed` is
  where the durable part of the log ends, so a COMMIT that begins there is not durable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple


class DirtyRun(NamedTuple):
    """Consecutive pages of one file to be written together; `lsns` are those of their commits."""

    file_id: int
    pgid: int
    pages: tuple[bytes, ...]
    lsns: tuple[int, ...]


class _Entry:
    __slots__ = ("first_lsn", "lsn", "next_first_lsn", "page", "writing")

    def __init__(self, page: bytes, lsn: int, first_lsn: int) -> None:
        self.page = page
        self.lsn = lsn
        self.first_lsn = first_lsn
        self.next_first_lsn = first_lsn
        """What `first_lsn` becomes when the version that is being written is on disk."""
        self.writing: bytes | None = None


class DirtyPages:
    """The dirty pages of all page files of a system, in the order in which they became dirty."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[int, int], _Entry] = OrderedDict()
        self._writing: dict[int, int] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, file_id: int, pgid: int) -> bytes | None:
        """The page if it is dirty."""
        entry = self._entries.get((file_id, pgid))
        return None if entry is None else entry.page

    def put(self, file_id: int, pgid: int, page: bytes, lsn: int, first_lsn: int) -> None:
        """A page has been published."""
        key = (file_id, pgid)
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry(page, lsn, first_lsn)
            self.bytes += len(page)
            return
        if entry.page is entry.writing:
            entry.next_first_lsn = first_lsn
        entry.page, entry.lsn = page, lsn

    def oldest_first_lsn(self) -> int | None:
        """From where the log is needed for the pages here; None if there are none."""
        return min((entry.first_lsn for entry in self._entries.values()), default=None)

    def take(self, most: int, flushed: int, below: int | None = None) -> list[DirtyRun]:
        """Up to `most` pages to be written, oldest first, each with its neighbours that are dirty too.

        `below`: only pages whose `first_lsn` is below this (and their neighbours).
        """
        runs: list[DirtyRun] = []
        taken = 0
        for key in list(self._candidates(flushed, below, most)):
            if taken >= most:
                break
            if self._entries[key].writing is not None:
                continue  # taken as a neighbour
            run = self._run_around(key, flushed, most - taken)
            taken += len(run.pages)
            runs.append(run)
        return runs

    def _candidates(self, flushed: int, below: int | None, most: int) -> Iterator[tuple[int, int]]:
        found = 0
        for key, entry in self._entries.items():
            if entry.writing is None and entry.lsn < flushed and (below is None or entry.first_lsn < below):
                yield key
                found += 1
                if found == most:
                    return

    def _run_around(self, key: tuple[int, int], flushed: int, most: int) -> DirtyRun:
        file_id, first = key
        while key[1] - first < most // 2 and self._may_take((file_id, first - 1), flushed):
            first -= 1
        end = key[1] + 1
        while end - first < most and self._may_take((file_id, end), flushed):
            end += 1
        pages: list[bytes] = []
        lsns: list[int] = []
        for pgid in range(first, end):
            entry = self._entries[(file_id, pgid)]
            entry.writing = entry.page
            pages.append(entry.page)
            lsns.append(entry.lsn)
        self._writing[file_id] = self._writing.get(file_id, 0) + 1
        return DirtyRun(file_id, first, tuple(pages), tuple(lsns))

    def _may_take(self, key: tuple[int, int], flushed: int) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.writing is None and entry.lsn < flushed

    def written(self, run: DirtyRun) -> None:
        """A run is in the data file (its sync is pending): what was not changed meanwhile is clean."""
        for key, entry, page in self._still_there(run):
            entry.writing = None
            if entry.page is page:
                del self._entries[key]
                self.bytes -= len(page)
            else:
                entry.first_lsn = entry.next_first_lsn
                self._entries.move_to_end(key)
        self._writing[run.file_id] -= 1

    def not_written(self, run: DirtyRun) -> None:
        """A run could not be written (no space): its pages stay dirty."""
        for _, entry, _ in self._still_there(run):
            entry.writing = None
        self._writing[run.file_id] -= 1

    def unchanged(self, run: DirtyRun) -> bool:
        """Whether the pages of a run that is being written are still those that are dirty: none was changed or cut."""
        return sum(entry.page is page for _, entry, page in self._still_there(run)) == len(run.pages)

    def _still_there(self, run: DirtyRun) -> Iterator[tuple[tuple[int, int], _Entry, bytes]]:
        for number, page in enumerate(run.pages):
            key = (run.file_id, run.pgid + number)
            entry = self._entries.get(key)
            if entry is not None and entry.writing is page:  # else it was discarded meanwhile
                yield key, entry, page

    def discard(self, file_id: int, from_pgid: int) -> None:
        """Forget a file's pages from a page on: it was truncated or dropped.

        Nothing of the file may be published before `writes_under_way` is 0, when the file itself can be cut.
        """
        for key in [key for key in self._entries if key[0] == file_id and key[1] >= from_pgid]:
            self.bytes -= len(self._entries.pop(key).page)

    def writes_under_way(self, file_id: int) -> int:
        """How many runs of a file are being written now."""
        return self._writing.get(file_id, 0)
