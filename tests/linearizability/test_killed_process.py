"""Whole requests to a process that is killed and started again: linearizable, with those whose outcome nobody knows.

Each life of the process is one history.  It ends with what is found after the next start; what was under way at the
kill took effect before that or not at all.  There are no LSNs here: the full search judges.  `PFS_SEED=7 PFS_KILLS=100
pytest tests/linearizability/test_killed_process.py` runs longer.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from random import Random

from pfs.testing.linearizability import Operation, search
from tests.process.clients import random_options
from tests.process.served import ServedProcess

SEED = int(os.environ.get("PFS_SEED", "1"), 0)
KILLS = int(os.environ.get("PFS_KILLS", "12"))
CLIENTS = 4
PAGE_SIZE = 512
PAGES = 12
"""So many pages the file is cut to at the begin of each life: few, so that requests meet."""


class Life:
    """One process from its start to its kill; `operations` is its history."""

    moment = count(1).__next__

    def __init__(self, served: ServedProcess, random: Random, mark: str) -> None:
        self.served = served
        self.operations: list[Operation] = []
        self._mark = mark
        self._threads = [
            threading.Thread(target=self._client, args=(str(number), Random(random.random())))
            for number in range(CLIENTS)
        ]

    def run(self, requests: int) -> None:
        """Let clients work until about so many requests have ended, then kill."""
        for thread in self._threads:
            thread.start()
        while len(self.operations) < requests and self.served.process.poll() is None:
            threading.Event().wait(0.0005)
        self.served.kill()
        for thread in self._threads:
            thread.join()

    def _client(self, name: str, random: Random) -> None:
        for number in count():
            kind = random.choice(("read", "read", "write", "append"))
            n = random.choice((1, 2, 3))
            pgid = random.randrange(PAGES - n + 1)
            texts = [f"{self._mark}.{name}.{number}.{index}" for index in range(n)]
            started = self.moment()
            if kind == "read":
                reply = self.served.ask(client=name, do="read", file="f", pgid=pgid, n=n)
            elif kind == "write":
                reply = self.served.ask(client=name, do="write", file="f", pgid=pgid, pages=texts)
            else:
                reply = self.served.ask(client=name, do="append", file="f", pages=texts)
            ended = self.moment()
            if reply is None:
                if kind == "write":
                    self.operations.append(Operation("write", pgid, n, tuple(texts), started, None, 0, name))
                elif kind == "append":
                    self.operations.append(Operation("append", -1, n, tuple(texts), started, None, 0, name))
                return
            assert "error" not in reply, reply
            at = reply["pgid"] if kind == "append" else pgid
            seen = tuple(reply["pages"] if kind == "read" else texts)
            self.operations.append(Operation(kind, at, n, seen, started, ended, 0, name))  # type: ignore[arg-type]


def whole(served: ServedProcess) -> tuple[str, ...]:
    """All pages of the file."""
    n = served.do(client="check", do="open", file="f", page_size=PAGE_SIZE)["page_count"]
    return tuple(served.do(client="check", do="read", file="f", pgid=0, n=n)["pages"]) if n else ()


def test_requests_to_a_process_that_is_killed_are_linearizable(tmp_path: Path) -> None:
    random = Random(SEED)
    happened: Counter[str] = Counter()
    history: list[Operation] = []
    before: tuple[str, ...] = ()
    for kill in range(KILLS + 1):
        served = ServedProcess(tmp_path / "data", random_options(random))
        try:
            found = whole(served)
            started, ended, counted = Life.moment(), Life.moment(), Life.moment()
            history.append(Operation("read", 0, len(found), found, started, ended))
            history.append(Operation("count", 0, len(found), (), counted, Life.moment()))
            right = search(history, before)
            replay = f"replay: PFS_SEED={SEED} PFS_KILLS={KILLS} pytest {__file__}"
            assert right, "\n".join([f"kill {kill}: not linearizable; before: {before}", *map(str, history), replay])
            if kill == KILLS:
                served.stop()
                break
            served.do(client="check", do="truncate", file="f", n=min(len(found), PAGES))
            if len(found) < PAGES:
                texts = [f"begin {kill}.{index}" for index in range(PAGES - len(found))]
                served.do(client="check", do="append", file="f", pages=texts)
            before = whole(served)
            life = Life(served, random, f"{SEED}.{kill}")
            life.run(random.randint(20, 250))
            history = life.operations
            happened += Counter(operation.kind for operation in history)
            happened["unknown"] += sum(operation.ended is None for operation in history)
        finally:
            if served.process.poll() is None:
                served.kill()
    print(dict(happened))
    assert min(happened[what] for what in ("read", "write", "append", "unknown")) >= KILLS
