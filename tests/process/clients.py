"""Clients of a served process that write until it ends, and what they know: shared by all tests that end it badly."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from random import Random
from typing import Any, Protocol

from tests.process.known import Kind, Known, Request
from tests.process.served import ServedProcess

CLIENTS = 4
PAGE_SIZE = 512
CONTESTED_PAGES = 8

FILES: dict[str, Kind] = {
    "shared": "shared",
    "contested": "contested",
    **{f"private {number}": "private" for number in range(CLIENTS)},
}


def random_options(random: Random) -> dict[str, Any]:
    """Options of a system; the sizes of segments of log and files are those of the directory."""
    return {
        "buffer_bytes": random.choice((0, 64 << 10, 64 << 20)),
        "dirty_bytes": random.choice((4 << 10, 256 << 10, 32 << 20)),
        "descriptors": random.choice((2, 5, 100)),
        "segment_bytes": 256 << 10,
        "read_workers": random.choice((1, 2)),
        "write_workers": random.choice((1, 2)),
        "wal": {
            "segment_bytes": 64 << 10,
            "most_bytes": random.choice((512 << 10, 4 << 20)),
            "checkpoint_bytes": random.choice((100 << 10, 300 << 10, 2 << 20)),
            "checkpoint_seconds": random.choice((0.05, 300.0)),
            "batch_bytes": random.choice((4 << 10, 64 << 10, 1 << 20)),
            "batch_requests": random.choice((1, 3, 256)),
            "sync_method": random.choice(("fdatasync", "fsync", "O_DSYNC")),
            "compress": random.random() < 0.5,
        },
        "server": {
            "chunk": random.choice((1, 5, 64)),
            "block": random.choice((1, 16)),
            "credits": random.choice((1, 8)),
        },
    }


def prepare(served: ServedProcess, known: Known) -> None:
    """Make the page files, durably, or open them."""
    for name in FILES:
        opened = served.do(client="begin", do="open", file=name, page_size=PAGE_SIZE)
        if FILES[name] == "contested" and not opened["page_count"]:
            request = known.begin(name, "write", [f"begin {index}" for index in range(CONTESTED_PAGES)])
            known.end(request, served.do(client="begin", do="append", file=name, pages=request.texts))


def found_in(served: ServedProcess) -> dict[str, list[str]]:
    """All pages of all page files; a file that a crash did not let come into being has none."""
    found = {}
    for name in FILES:
        n = served.do(client="check", do="open", file=name, page_size=PAGE_SIZE)["page_count"]
        found[name] = served.do(client="check", do="read", file=name, pgid=0, n=n)["pages"] if n else []
    return found


class Asked(Protocol):
    """What a client sends its commands to."""

    def ask(self, **command: Any) -> dict[str, Any] | None: ...


class Client:
    """Writes and reads until the process ends, or a request fails in a way that nobody expected."""

    def __init__(self, served: Asked, known: Known, number: int, random: Random, expected: Iterable[str]) -> None:
        self.name = str(number)
        self.private = f"private {number}"
        self.mark = f"{random.getrandbits(32):x}"
        self.served = served
        self.known = known
        self.random = random
        self.expected = frozenset(expected)
        self.number = 0

    def run(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """One request; False if the process has ended."""
        dice = self.random.random()
        if dice < 0.35:
            return self.write("shared", "append", self.texts(self.random.choice((1, 3, 20, 64))))
        if dice < 0.45:
            return self.write("contested", "write", self.texts(CONTESTED_PAGES), pgid=0)
        if dice < 0.55:
            return self.read()
        return self.change_own()

    def change_own(self) -> bool:
        random = self.random
        count = self.known.page_count(self.private)
        dice = random.random()
        if count > 300 or (count and dice < 0.1):
            return self.send("truncate", self.private, n=random.randrange(count), texts=[])
        if dice < 0.2:
            return self.send("sync", self.private, texts=[])
        if count and dice < 0.6:
            pgid = random.randrange(count)
            n = random.randint(1, min(count - pgid, 20))
            return self.write(self.private, "write", self.texts(n), pgid=pgid)
        return self.write(self.private, "append", self.texts(random.choice((1, 2, 10, 40))))

    def texts(self, n: int) -> list[str]:
        self.number += 1
        return [f"{self.mark}.{self.name}.{self.number}.{index}" for index in range(n)]

    def write(self, file: str, do: str, texts: list[str], pgid: int | None = None) -> bool:
        in_memory = self.random.random() < 0.3
        return self.send(do, file, texts=texts, pgid=pgid, durability="memory" if in_memory else "wal")

    def send(
        self, do: str, file: str, *, texts: list[str], pgid: int | None = None, n: int = 0, durability: str = "wal"
    ) -> bool:
        request = self.known.begin(file, do, texts, pgid=pgid, n=n, durable=durability == "wal")
        command: dict[str, Any] = {"do": do, "file": file}
        if texts:
            command |= {"pages": texts, "durability": durability}
        if pgid is not None:
            command["pgid"] = pgid
        if do == "truncate":
            command["n"] = n
        return self.answered(request, self.served.ask(client=self.name, **command))

    def answered(self, request: Request, reply: dict[str, Any] | None) -> bool:
        self.known.end(request, reply)
        if reply is not None and "error" in reply:
            assert reply["error"] in self.expected, f"{request} was answered with {reply}"
        return reply is not None

    def read(self) -> bool:
        file = self.random.choice(("shared", self.private, "contested"))
        count = self.known.page_count(file) if file != "contested" else CONTESTED_PAGES
        if not count:
            return True
        pgid = self.random.randrange(count) if file != "contested" else 0
        n = min(count - pgid, 30)
        reply = self.served.ask(client=self.name, do="read", file=file, pgid=pgid, n=n)
        if reply is None:
            return False
        if "error" in reply:
            assert reply["error"] in self.expected, f"a read of {file!r} was answered with {reply}"
        else:
            self.known.check_read(file, pgid, reply["pages"])
        return True


class Clients:
    """Several clients, each in a thread of its own."""

    def __init__(self, served: ServedProcess, known: Known, random: Random, expected: Iterable[str] = ()) -> None:
        expected = list(expected)
        self.failures: list[BaseException] = []
        self._clients = [Client(served, known, number, Random(random.random()), expected) for number in range(CLIENTS)]
        self._served = served
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self._clients]
        for thread in self._threads:
            thread.start()

    def _run(self, client: Client) -> None:
        try:
            client.run()
        except BaseException as failure:
            self.failures.append(failure)
            self._served.process.kill()

    def join(self) -> None:
        """Wait for the end of all, which is that of the process; raises what one of them found wrong."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client waits for an answer that does not come"
        for failure in self.failures:
            raise failure
