"""What page files may hold after a crash: the model that a crash campaign compares with.

The model is told when something is asked for (`begin`), and what came of it.  From that follows what a crash may leave:

* the steps that were acknowledged, in that order, without a gap; at least those that were acknowledged as durable, or
  that a later durable step, a sync or a checkpoint has made durable;
* and behind all of these any of the steps that are still under way, each whole or not at all, in any order.

Changes of names are durable by themselves: they are all there, whichever pages are.

With one client at a time (`ordered`) the steps of all page files are one sequence, so what a crash leaves of one file
must go with what it leaves of another.  With several the order is known within each file only.

Plain code: no system, no disk.  Pages are compared by content, so a workload writes no page twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import permutations
from typing import Literal, NamedTuple, TypeVar

Pages = tuple[bytes, ...]
Contents = Mapping[str, Pages]
"""Page files by name."""


class Step(NamedTuple):
    """One change, of the page file that the model knows by a number.

    `pages` go to `pgid` and after; None: to the end.  `n`: the page count of a truncation.  `name`: of a creation or
    renaming.
    """

    kind: Literal["write", "truncate", "create", "rename", "drop"]
    file: int
    pgid: int | None = None
    pages: Pages = ()
    n: int = 0
    name: str = ""

    @property
    def is_of_names(self) -> bool:
        return self.kind in ("create", "rename", "drop")

    def __str__(self) -> str:
        match self.kind:
            case "write" if self.pgid is None:
                return f"append {len(self.pages)} to {self.file}"
            case "write":
                return f"write {len(self.pages)} at {self.pgid} of {self.file}"
            case "truncate":
                return f"cut {self.file} to {self.n}"
        return f"{self.kind} {self.file} {self.name}".rstrip()


State = TypeVar("State")
_Files = dict[int, Pages]
_Names = dict[int, str]


def _with_pages(files: _Files, step: Step) -> _Files | None:
    """The files after a step; None if there are not the pages that it changes."""
    before = files.get(step.file, ())
    if step.kind == "truncate":
        return {**files, step.file: before[: step.n]} if step.n <= len(before) else None
    if step.pgid is None:
        return {**files, step.file: before + step.pages}
    end = step.pgid + len(step.pages)
    return {**files, step.file: before[: step.pgid] + step.pages + before[end:]} if end <= len(before) else None


def _with_name(names: _Names, step: Step) -> _Names:
    if step.kind == "drop":
        return {number: name for number, name in names.items() if number != step.file}
    return {**names, step.file: step.name}


def _orders(state: State, steps: list[Step], apply: Callable[[State, Step], State | None]) -> Iterator[State]:
    """A state, and all that come of it by any of the steps in any order."""
    for n in range(len(steps) + 1):
        for order in permutations(steps, n):
            after: State | None = state
            for step in order:
                after = apply(after, step) if after is not None else None
            if after is not None:
                yield after


class CrashModel:
    """The page files of one data directory (see the module).

    contents: what is there, durably, in the beginning.  ordered: one client at a time.
    """

    def __init__(self, contents: Contents | None = None, *, ordered: bool = True) -> None:
        self.ordered = ordered
        first = dict(contents or {})
        self._names: _Names = dict(enumerate(first, 1))
        self._next_file = len(first) + 1
        self._steps: list[Step] = []
        self._states: list[_Files] = [dict(enumerate(first.values(), 1))]
        self._durable = 0
        self._durable_of: dict[int, int] = {}
        self._under_way: dict[object, Step] = {}

    # -- what a workload asks

    def files(self) -> dict[int, str]:
        """The numbers and names of the page files that there are, the oldest first."""
        return dict(self._names)

    def pages(self, file: int) -> Pages:
        """What a page file holds after everything that was acknowledged."""
        return self._states[-1].get(file, ())

    def contents(self) -> dict[str, Pages]:
        """All page files after everything that was acknowledged."""
        return {name: self.pages(number) for number, name in self._names.items()}

    def new_file(self) -> int:
        """A number for a page file that is to be created."""
        self._next_file += 1
        return self._next_file - 1

    @property
    def committed(self) -> int:
        """How many steps of pages were acknowledged."""
        return len(self._steps)

    # -- what happens

    def begin(self, token: object, step: Step) -> None:
        """Something is asked for; `token` is the key of its outcome."""
        self._under_way[token] = step

    def acknowledged(self, token: object, *, durable: bool) -> None:
        """It was done; `durable`: it was said to be, with everything before it."""
        step = self._under_way.pop(token)
        if step.is_of_names:
            self._names = _with_name(self._names, step)
            return
        after = _with_pages(self._states[-1], step)
        assert after is not None, f"{step} was acknowledged, with {len(self.pages(step.file))} pages there"
        self._steps.append(step)
        self._states.append(after)
        if durable:
            self.synced(step.file, len(self._steps))

    def refused(self, token: object) -> None:
        """It was not done, and that was said."""
        self._under_way.pop(token, None)

    def synced(self, file: int | None, committed: int) -> None:
        """The first so many steps are durable, as far as they are of a file (None: of all)."""
        if self.ordered:
            # one log: with the last step of the file everything before it is durable
            if file is not None:
                mine = [number for number, step in enumerate(self._steps[:committed], 1) if step.file == file]
                committed = mine[-1] if mine else 0
            self._durable = max(self._durable, committed)
        elif file is None:
            self._durable = max(self._durable, committed)
        else:
            self._durable_of[file] = max(self._durable_of.get(file, 0), committed)

    def copy(self) -> CrashModel:
        """The same model, which goes on by itself."""
        other = CrashModel(ordered=self.ordered)
        other._names, other._next_file = self._names, self._next_file
        other._steps, other._states = self._steps.copy(), self._states.copy()
        other._durable, other._durable_of = self._durable, self._durable_of.copy()
        other._under_way = self._under_way.copy()
        return other

    def outcome_unknown(self) -> list[Step]:
        """The steps that were asked for and have no outcome."""
        return list(self._under_way.values())

    # -- what is right after a crash

    def check(self, found: Contents) -> str | None:
        """None if a crash now may leave this; else what is wrong."""
        names_right = False
        of_names = [step for step in self._under_way.values() if step.is_of_names]
        for names in _orders(self._names, of_names, _with_name):
            if sorted(names.values()) == sorted(found):
                names_right = True
                if self._pages_are_right({number: found[name] for number, name in names.items()}):
                    return None
        if not names_right:
            return f"the page files are {sorted(found)}, right would be {sorted(self._names.values())}"
        return self._describe(found)

    def _pages_are_right(self, found: _Files) -> bool:
        under_way = [step for step in self._under_way.values() if not step.is_of_names]
        if self.ordered:
            return any(
                all(files.get(number, ()) == pages for number, pages in found.items())
                for files in self._candidates(self._durable, under_way)
            )
        for number, pages in found.items():
            durable = max(self._durable, self._durable_of.get(number, 0))
            mine = [step for step in under_way if step.file == number]
            if all(files.get(number, ()) != pages for files in self._candidates(durable, mine)):
                return False
        return True

    def _candidates(self, durable: int, under_way: list[Step]) -> Iterator[_Files]:
        yield from _orders(self._states[-1], under_way, _with_pages)
        yield from reversed(self._states[durable:-1])

    def _describe(self, found: Contents) -> str:
        lines = [f"no prefix of {len(self._steps)} steps with the first {self._durable} of them:"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self._steps, 1)]
        lines += [f"  under way: {step}" for step in self._under_way.values()]
        for name, pages in found.items():
            lines.append(f"  found {name!r}: {describe(pages)}")
        for number, name in self._names.items():
            states = {describe(files.get(number, ())) for files in self._states[self._durable :]}
            lines.append(f"  right {name!r}: {' or '.join(sorted(states))}")
        return "\n".join(lines)


def describe(pages: Iterable[bytes]) -> str:
    """The first bytes of each page, in hexadecimal; `torn` for one that does not repeat them."""
    words = []
    for page in pages:
        word = page[:4].lstrip(b"\0").hex() or "0"
        words.append(word if page == page[:4] * (len(page) // 4) else f"torn({word})")
    return "[" + " ".join(words) + "]"
