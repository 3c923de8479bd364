"""What clients of a server know of its page files, and what may therefore be found after a crash.

Every page has a text of its own, so what is found says which request it is of.  Requests are ordered by when they were
sent and when their answers came, nothing else; the rules, for the state after a crash:

* *Durable*: an acknowledged request is there, unless its durability was "memory" and no request sent after its answer
  was acknowledged as durable.
* *Atomic*: of every request all is there, or nothing.
* *No holes*: if a request is there, so is every one that was answered before it was sent.
* *Nothing else*: a request that was answered with an error is not there, and no page is there that nobody wrote.

There are three kinds of page file.  Of a `shared` one, all clients append to its end.  A `private` one has one client
that appends, overwrites and truncates, one request after the other: what is found is one of the states that it went
through.  A `contested` one has a fixed size and is overwritten as a whole, by all clients at once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

Kind = Literal["shared", "private", "contested"]

UNKNOWN_OUTCOME = frozenset({"SystemFailed", "SystemStopped", "Timeout"})
"""Errors after which a request may have been carried out all the same; after all others it was not."""


@dataclass(eq=False)
class Request:
    """One request, and what is known of its outcome."""

    file: str
    do: str
    texts: list[str]
    pgid: int | None
    n: int
    durable: bool
    sent: int
    answered: int | None = None
    outcome: Literal["unknown", "acknowledged", "refused"] = "unknown"

    def __str__(self) -> str:
        what = f"{self.do} of {self.texts[0]!r}... ({len(self.texts)} pages)" if self.texts else f"{self.do} {self.n}"
        how = "durable" if self.durable else "in memory"
        return f"{what} in {self.file!r} at {self.pgid}, {how}, {self.outcome} ({self.sent} to {self.answered})"


class Contradiction(AssertionError):
    """What was found is not what may be found."""


class Known:
    """The requests since the last check, and what was found then.  For any number of threads."""

    def __init__(self, files: Mapping[str, Kind]) -> None:
        self.kinds = dict(files)
        self.acknowledged = 0
        """Pages in all."""
        self._lock = threading.Lock()
        self._next = count().__next__
        self._base: dict[str, list[str]] = {name: [] for name in files}
        self._requests: list[Request] = []
        self._last_durable_sent = -1
        self._written: dict[str, set[str]] = {name: set() for name in files}

    def start_from(self, found: Mapping[str, Sequence[str]]) -> None:
        """The pages that are there before the first request."""
        for file in self.kinds:
            self._base[file] = list(found[file])
            self._written[file] = set(found[file])

    # ------------------------------------------------------------------------------------------ requests

    def begin(
        self,
        file: str,
        do: str,
        texts: Sequence[str] = (),
        *,
        pgid: int | None = None,
        n: int = 0,
        durable: bool = True,
    ) -> Request:
        """A request is about to be sent."""
        with self._lock:
            request = Request(file, do, list(texts), pgid, n, durable, self._next())
            self._requests.append(request)
            self._written[file].update(texts)
            return request

    def end(self, request: Request, reply: Mapping[str, Any] | None) -> bool:
        """Its answer came, or (None) none will; whether it was acknowledged."""
        with self._lock:
            if reply is None:
                return False
            request.answered = self._next()
            if "error" in reply:
                if reply["error"] not in UNKNOWN_OUTCOME:
                    request.outcome = "refused"
                return False
            request.outcome = "acknowledged"
            request.pgid = reply.get("pgid", request.pgid)
            self.acknowledged += len(request.texts)
            return True

    def check_read(self, file: str, pgid: int, pages: Sequence[str]) -> None:
        """A read during the run: nothing but what was written there, and of one's own file just that."""
        with self._lock:
            if self.kinds[file] == "private":
                wanted = self._states(file)[-1][pgid : pgid + len(pages)]
                if list(pages) != wanted:
                    raise Contradiction(f"{file!r} at {pgid} was read as {pages}, and {wanted} was written")
            if self.kinds[file] == "contested":
                wholes = [self._base[file], *(each.texts for each in self._of(file))]
                if list(pages) not in wholes:
                    raise Contradiction(f"{file!r} was read as {pages}: pages of several requests")
            strange = [text for text in pages if text not in self._written[file]]
            if strange:
                raise Contradiction(f"{file!r} from {pgid} on was read with {strange}, which nobody wrote")

    def page_count(self, file: str) -> int:
        """How many pages a private file has, or how many at least a shared one."""
        with self._lock:
            if self.kinds[file] == "private":
                return len(self._states(file)[-1])
            ends = [
                each.pgid + len(each.texts)
                for each in self._of(file)
                if each.pgid is not None and each.outcome == "acknowledged"
            ]
            return max([len(self._base[file]), *ends])

    # ------------------------------------------------------------------------------------------ copies

    def now(self) -> int:
        """This moment, for `as_of`."""
        with self._lock:
            return self._next()

    def as_of(self, moment: int, *, synced: bool = False) -> Known:
        """What is known of a copy that was begun at a moment and has ended by now, to be checked as after a crash.

        What was acknowledged as durable before that must be there (`synced`: whatever was acknowledged); the rest may
        be, without holes.
        """
        copy = Known(self.kinds)
        with self._lock:
            copy._base = dict(self._base)
            copy._requests = [
                replace(each, durable=(each.durable or synced) and each.answered is not None and each.answered < moment)
                for each in self._requests
            ]
        return copy

    # ------------------------------------------------------------------------------------------ after a crash

    def check(self, found: Mapping[str, Sequence[str]]) -> None:
        """Raise `Contradiction` unless this may be found; from now on it is what is there."""
        there: set[Request] = set()
        gone: set[Request] = set()
        durable = [each.sent for each in self._requests if each.durable and each.outcome == "acknowledged"]
        self._last_durable_sent = max(durable, default=-1)
        for file, kind in self.kinds.items():
            pages = list(found[file])
            if kind == "shared":
                self._check_shared(file, pages, there, gone)
            elif kind == "private":
                self._check_private(file, pages, there, gone)
            else:
                self._check_contested(file, pages, there, gone)
        for request in gone:
            if self._is_durable(request):
                raise Contradiction(f"acknowledged and gone: {request}")
        self._check_holes(there, gone)
        self._requests.clear()
        self.start_from(found)

    def _check_holes(self, there: set[Request], gone: set[Request]) -> None:
        if not there:
            return
        last = max(there, key=lambda each: each.sent)
        for request in gone:
            acknowledged = request.outcome == "acknowledged"
            if acknowledged and request.answered is not None and request.answered < last.sent:
                raise Contradiction(f"a hole: gone is {request}; there is {last}")

    def _is_durable(self, request: Request) -> bool:
        if request.outcome != "acknowledged":
            return False
        assert request.answered is not None
        return request.durable or request.answered < self._last_durable_sent

    def _of(self, file: str) -> list[Request]:
        return [each for each in self._requests if each.file == file]

    def _check_shared(self, file: str, found: list[str], there: set[Request], gone: set[Request]) -> None:
        base = self._base[file]
        if found[: len(base)] != base:
            at = next((at for at, text in enumerate(base) if found[at : at + 1] != [text]), len(found))
            raise Contradiction(f"{file!r} has {found[at : at + 3]} at {at}; {base[at : at + 3]} was there before")
        by_first = {each.texts[0]: each for each in self._of(file) if each.texts}
        at = len(base)
        while at < len(found):
            request = by_first.pop(found[at], None)
            if request is None or found[at : at + len(request.texts)] != request.texts:
                raise Contradiction(f"{file!r} has {found[at : at + 3]} at {at}: a part of {request}, or nobody's")
            if request.outcome == "refused" or request.pgid not in (None, at):
                raise Contradiction(f"{file!r} has at {at}: {request}")
            there.add(request)
            at += len(request.texts)
        gone.update(by_first.values())

    def _states(self, file: str) -> list[list[str]]:
        """The states that a private file goes through if nothing is lost."""
        pages = self._base[file]
        states = [pages]
        for request in self._of(file):
            if request.outcome != "refused":
                pages = _changed(pages, request)
            states.append(pages)
        return states

    def _check_private(self, file: str, found: list[str], there: set[Request], gone: set[Request]) -> None:
        requests, states = self._of(file), self._states(file)
        fits = [number for number, state in enumerate(states) if state == found]
        if not fits:
            raise Contradiction(
                f"{file!r} is in none of the states that it went through: it has {len(found)} pages, {found[:3]}...; "
                f"at last it had {len(states[-1])}, {states[-1][:3]}..., after {', '.join(map(str, requests[-3:]))}"
            )
        # Truncated to what it was before, a file is in the same state twice.
        there.update(requests[: fits[0]])
        gone.update(each for each in requests[fits[-1] :] if each.outcome != "refused")

    def _check_contested(self, file: str, found: list[str], there: set[Request], gone: set[Request]) -> None:
        requests = self._of(file)
        if found == self._base[file]:
            gone.update(each for each in requests if each.outcome != "refused")
            return
        winner = next((each for each in requests if each.texts == found), None)
        if winner is None or winner.outcome == "refused":
            raise Contradiction(f"{file!r} has {found}: pages of several requests, or of {winner}")
        there.add(winner)
        for each in requests:  # one that began after the winner had ended would have overwritten it
            if each.outcome == "acknowledged" and winner.answered is not None and winner.answered < each.sent:
                gone.add(each)


def _changed(pages: list[str], request: Request) -> list[str]:
    if request.do == "append":
        return pages + request.texts
    if request.do == "truncate":
        return pages[: request.n]
    if request.do == "write":
        assert request.pgid is not None
        return pages[: request.pgid] + request.texts + pages[request.pgid + len(request.texts) :]
    return pages
