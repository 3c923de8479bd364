"""Is a history of whole requests linearizable?  Two judges that share nothing but the words of a history.

A *history* is what clients of one page file saw: operations, each with the moments of a logical clock at which it was
asked for and at which its end was known (every moment a number of its own, so that of two operations that do not
overlap it is known which came first).  It is linearizable if every operation can be given one moment between the two at
which it took effect as a whole: a read of many pages is one cut, a write of many is one step.

* `check_by_lsn` is given a witness: the LSN of each commit.  The commits in the order of their LSNs make the states of
  the file, and what is left is whether that order respects the order in time, and whether each read fits in: it shows
  the file after some prefix of the commits, which has every commit that was acknowledged before the read began, none
  that was asked for after it ended, and no less than a read that had ended before.  With a sort, that is linear.  Pages
  must be unique: no two operations write the same page contents.
* `search` is given nothing: it tries orders until one fits, with a memory of what it has tried.  That takes
  exponential time at worst and is for short histories: to judge the judge, and to judge what has no LSN, an operation
  whose outcome is *unknown* (a timeout, a crash): it may have taken effect once, at any moment after it began, or not
  at all.

After a crash an operation of unknown outcome takes effect before the crash or never.  So a history ends at each crash:
the first thing after it is a read of the whole file, and the next history begins with what that showed.

Sources: Herlihy and Wing, "Linearizability", 1990; Wing and Gong, "Testing and Verifying Concurrent Objects", 1993;
Lowe, "Testing for linearizability", 2017 (the memory); Aguilera and Frolund, "Strict linearizability and the power of
aborting", 2003 (crashes).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

Kind = Literal["read", "write", "append", "truncate", "count", "refused"]
CHANGES = ("write", "append", "truncate")


class Operation(NamedTuple):
    """One request and its outcome.

    kind: "count" was told that the file has `n` pages, "refused" that pages pgid .. pgid+n-1 are not all there;
    "truncate" cut the file to `n` pages.  pgid: of an append, where it was told to be (-1: not known).
    pages: the contents that were read, or were to be written, or something unique that stands for each.
    started, ended: moments; `ended` is None if the outcome is unknown, which makes sense for changes only.
    lsn: of a change whose end is known.
    """

    kind: Kind
    pgid: int
    n: int
    pages: tuple[Hashable, ...]
    started: int
    ended: int | None
    lsn: int = 0
    client: str = ""

    def __str__(self) -> str:
        end = "unknown" if self.ended is None else self.ended
        lsn = f", LSN {self.lsn:#x}" if self.lsn else ""
        return f"{self.kind}(pgid={self.pgid}, n={self.n}) by {self.client or 'a client'} [{self.started}, {end}]{lsn}"


# ------------------------------------------------------------------------------------------ with the witness


class _Life(NamedTuple):
    """A page holds a content after each of the commits first .. last (0: before all)."""

    first: int
    last: int


class _States:
    """The states of the file after each commit, as the life of each content."""

    def __init__(self, pages: Sequence[Hashable]) -> None:
        self.counts = [len(pages)]
        self.lives: dict[tuple[int, Hashable], _Life] = {}
        self.violations: list[str] = []
        self._now: list[tuple[Hashable, int]] = [(page, 0) for page in pages]

    def add(self, commit: Operation) -> None:
        """The next commit."""
        now, number = self._now, len(self.counts)
        count = len(now)
        if commit.kind == "truncate":
            if commit.n > count:
                self.violations.append(f"{commit}: the file had {count} pages")
            self._end(range(commit.n, count), number)
            del now[commit.n :]
        else:
            pgid = commit.pgid
            if commit.kind == "append" and pgid != count:
                self.violations.append(f"{commit}: the file ended at page {count} before it")
            elif commit.kind == "write" and pgid + commit.n > count:
                self.violations.append(f"{commit}: the file had {count} pages")
            if len(commit.pages) != commit.n:
                self.violations.append(f"{commit}: {len(commit.pages)} pages were meant to be written")
            self._end(range(pgid, min(pgid + len(commit.pages), count)), number)
            now.extend((object(), number) for _ in range(count, pgid + len(commit.pages)))
            now[pgid : pgid + len(commit.pages)] = [(page, number) for page in commit.pages]
        self.counts.append(len(now))

    def end(self) -> None:
        """There are no more commits."""
        self._end(range(len(self._now)), len(self.counts))

    def _end(self, pgids: Iterable[int], number: int) -> None:
        for pgid in pgids:
            page, since = self._now[pgid]
            if (pgid, page) in self.lives:
                raise ValueError(f"page {pgid} is written twice with the same content ({page!r}); make it unique")
            self.lives[pgid, page] = _Life(since, number - 1)


class _Bounds:
    """Between which commits an operation took effect, by time alone."""

    def __init__(self, commits: Sequence[Operation]) -> None:
        ended = sorted((each.ended or 0, number) for number, each in enumerate(commits, 1))
        started = sorted((each.started, number) for number, each in enumerate(commits, 1))
        self._ended = [moment for moment, _ in ended]
        self._started = [moment for moment, _ in started]
        self._highest = [0]
        for _, number in ended:
            self._highest.append(max(self._highest[-1], number))
        self._lowest = [len(commits) + 1]
        for _, number in reversed(started):
            self._lowest.append(min(self._lowest[-1], number))
        self._lowest.reverse()

    def least(self, started: int) -> int:
        """The last commit that was acknowledged before this moment (0: none)."""
        return self._highest[bisect_left(self._ended, started)]

    def most(self, ended: int) -> int:
        """The last commit before the first that was asked for after this moment."""
        return self._lowest[bisect_left(self._started, ended)] - 1


def check_by_lsn(operations: Iterable[Operation], pages: Sequence[Hashable] = ()) -> list[str]:
    """What contradicts linearizability, with the order of the LSNs as the witness (see the module); empty if nothing.

    `pages`: the contents of the file before.  Changes of unknown outcome are passed over, so that a read that shows one
    of them is a violation here: such a history is for `search`.  Raises `ValueError` if contents are not unique.
    """
    commits: list[Operation] = []
    moments: list[tuple[int, bool, Operation]] = []
    for each in operations:
        if each.ended is None:
            continue
        if each.kind in CHANGES:
            commits.append(each)
        else:
            moments += ((each.started, False, each), (each.ended, True, each))
    commits.sort(key=lambda each: each.lsn)
    states = _States(pages)
    latest: Operation | None = None
    before: Operation | None = None
    for commit in commits:
        states.add(commit)
        assert commit.ended is not None
        if before is not None and before.lsn == commit.lsn:
            states.violations.append(f"{commit} has the LSN of {before}")
        if latest is not None and latest.started > commit.ended:
            states.violations.append(f"{commit} had ended when {latest} was asked for, but has the higher LSN")
        if latest is None or commit.started > latest.started:
            latest = commit
        before = commit
    states.end()
    bounds = _Bounds(commits)
    seen = 0  # no later read may show an earlier state
    chosen: dict[int, int] = {}
    moments.sort(key=lambda moment: moment[0])
    for _, is_end, operation in moments:
        if is_end:
            seen = max(seen, chosen[operation.started])
        else:
            chosen[operation.started] = _place(operation, states, bounds, seen)
    return states.violations


def _place(read: Operation, states: _States, bounds: _Bounds, seen: int) -> int:
    """The first commit after which the read can have taken effect: later reads are freest then."""
    assert read.ended is not None
    least, most = bounds.least(read.started), bounds.most(read.ended)
    first = max(least, seen)
    if read.kind == "read":
        lives = [states.lives.get((pgid, page)) for pgid, page in enumerate(read.pages, read.pgid)]
        whole = [life for life in lives if life is not None]
        if len(whole) < len(lives) or len(lives) != read.n:
            found = [read.pgid + index for index, life in enumerate(lives) if life is None]
            states.violations.append(f"{read}: nobody wrote what it got of pages {found}, or it got too few")
            return seen
        begins, ends = max(life.first for life in whole), min(life.last for life in whole)
        place = max(first, begins)
        if place <= min(most, ends):
            return place
        shown = ", ".join(f"{pgid}: {life.first}-{life.last}" for pgid, life in enumerate(whole, read.pgid))
        if begins > ends:
            what = "not one cut"
        elif ends < least:
            what = f"stale: commit {least} was acknowledged before it began"
        elif begins > most:
            what = f"from the future: commit {most + 1} was asked for after it ended"
        else:
            what = f"older than what an earlier read showed, which is commit {seen}"
        states.violations.append(f"{read}: {what}; its pages are there after commits {shown}")
        return seen
    for place in range(first, most + 1):
        count = states.counts[place]
        if (count == read.n) if read.kind == "count" else (count < read.pgid + read.n):
            return place
    counts = sorted(set(states.counts[first : most + 1]))
    states.violations.append(f"{read}: the file had {counts} pages then")
    return seen


# ------------------------------------------------------------------------------------------ without


class SearchTooLong(Exception):
    """The search has tried as many configurations as it was allowed to."""


def search(
    operations: Iterable[Operation],
    pages: Sequence[Hashable] = (),
    *,
    by_lsn: bool = False,
    most_configurations: int = 1_000_000,
) -> bool:
    """Whether there is an order in which a history is right (see the module); for short ones.

    `by_lsn`: changes of known outcome take effect in the order of their LSNs only, which shortens the search.  Raises
    `SearchTooLong` after `most_configurations`.
    """
    waiting = sorted(operations, key=lambda each: each.started)
    ends = [each.ended for each in waiting]
    ranks = {each.lsn: rank for rank, each in enumerate(sorted(filter(_is_known_change, waiting), key=lambda o: o.lsn))}
    first: tuple[int, int, int, tuple[Hashable, ...]] = (0, 0, 0, tuple(pages))
    # A configuration: all before `low` are done, and those of `done`; so many changes of known LSN; the state.
    stack = [first]
    known = {first}
    while stack:
        low, done, changes, state = stack.pop()
        limit: int | None = None
        candidates: list[int] = []
        for index in range(low, len(waiting)):
            if limit is not None and waiting[index].started > limit:
                break
            if done >> (index - low) & 1:
                continue
            candidates.append(index)
            end = ends[index]
            if end is not None and (limit is None or end < limit):
                limit = end
        if limit is None:
            return True  # only operations of unknown outcome are left, which need not have happened
        for index in candidates:
            operation = waiting[index]
            if operation.started > limit:
                continue
            changes_after = changes
            if by_lsn and _is_known_change(operation):
                if ranks[operation.lsn] != changes:
                    continue
                changes_after += 1
            after = _applied(operation, state)
            if after is None:
                continue
            low_after, done_after = low, done | 1 << (index - low)
            while done_after & 1:
                low_after, done_after = low_after + 1, done_after >> 1
            configuration = (low_after, done_after, changes_after, after)
            if configuration not in known:
                known.add(configuration)
                stack.append(configuration)
        if len(known) > most_configurations:
            raise SearchTooLong(f"{len(known)} configurations of {len(waiting)} operations")
    return False


def _is_known_change(operation: Operation) -> bool:
    return operation.ended is not None and operation.kind in CHANGES


def _applied(operation: Operation, state: tuple[Hashable, ...]) -> tuple[Hashable, ...] | None:
    """The state after an operation; None if its outcome cannot be of this state."""
    kind, pgid, n, pages, count = operation.kind, operation.pgid, operation.n, operation.pages, len(state)
    if kind == "read":
        return state if state[pgid : pgid + n] == pages else None
    if kind == "append":
        return (*state, *pages) if pgid in (count, -1) else None
    if kind == "write":
        return (*state[:pgid], *pages, *state[pgid + n :]) if pgid + n <= count else None
    if kind == "truncate":
        return state[:n] if n <= count else None
    if kind == "count":
        return state if count == n else None
    return state if count < pgid + n else None
