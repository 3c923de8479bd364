"""The `Model` that a system is compared with: which page files there are, and what a crash may take.  Plain code."""

from __future__ import annotations

from collections.abc import Iterator

from pfs.testing.crash_model import Pages

CREATED = -1
"""Stands for the number of a page file that is being made when everything ends."""


class Model:
    """What page files there are, what is in them, and what of that a crash may take.

    `pending`: the commits that need not be durable, oldest first: a file's number and its pages after the commit.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.page_sizes: dict[int, int] = {}
        self.now: dict[int, Pages] = {}
        self.durable: dict[int, Pages] = {}
        self.pending: list[tuple[int, Pages]] = []

    def create(self, name: str, page_size: int) -> None:
        number = len(self.page_sizes)
        self.numbers[name] = number
        self.page_sizes[number] = page_size
        self.now[number] = self.durable[number] = ()

    def pages(self, name: str) -> Pages:
        return self.now[self.numbers[name]]

    def commit(self, name: str, pages: Pages, *, durable: bool) -> None:
        """A file has these pages now."""
        number = self.numbers[name]
        self.now[number] = pages
        self.pending.append((number, pages))
        if durable:
            self.settle(len(self.pending))

    def settle(self, commits: int) -> None:
        """So many of the pending commits are durable."""
        self.durable.update(self.pending[:commits])
        del self.pending[:commits]

    def sync(self, name: str) -> None:
        """What was acknowledged of a file before is durable, and with it all that came before in the log."""
        commits = [at for at, (number, _) in enumerate(self.pending, 1) if number == self.numbers[name]]
        self.settle(max(commits, default=0))

    def after_crash(self, names: dict[str, int]) -> Iterator[dict[str, Pages]]:
        """All that the files of these names may be after a crash now."""
        state = dict(self.durable)
        for number, pages in [(CREATED, ()), *self.pending]:
            state[number] = pages
            yield {name: state.get(number, ()) for name, number in names.items()}

    def found(self, names: dict[str, int], files: dict[str, Pages]) -> None:
        """Go on with what was found after a crash."""
        self.numbers = dict(names)
        self.now = {number: files[name] for name, number in names.items()}
        self.durable = dict(self.now)
        self.pending.clear()
