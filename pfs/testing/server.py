"""A `System` in a process of its own, driven over pipes: `python -m pfs.testing.server DIRECTORY [OPTIONS]`.

One command a line on standard input, one reply a line on standard output, both JSON.  Each command has an `id`, which
its reply repeats, and runs in a thread of the `client` that it names, so that clients wait for the disk beside each
other; the commands of one client are carried out in order.

    {"id": 1, "client": "a", "do": "open", "file": "f", "page_size": 512}      -> {"id": 1, "page_count": 0}
    {"id": 2, "client": "a", "do": "append", "file": "f", "pages": ["..."]}    -> {"id": 2, "pgid": 0}
    {"id": 3, "client": "b", "do": "write", "file": "f", "pgid": 0, "pages": ["..."]}    -> {"id": 3}
    {"id": 4, "client": "b", "do": "read", "file": "f", "pgid": 0, "n": 1}     -> {"id": 4, "pages": ["..."]}
    {"id": 5, "client": "b", "do": "sync", "file": "f"}                        -> {"id": 5}
    {"id": 6, "client": "b", "do": "stat"}                                     -> {"id": 6, "wal": {...}, ...}
    {"id": 7, "client": "b", "do": "stop"}                                     -> {"id": 7}, and the process ends

A page is given as a short text, which is repeated to fill it (`fill`), and read as that text (or, if the page is not
such a repetition, as `"torn"`).  A command that fails is answered with `{"id": ..., "error": class, "message": ...}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import msgspec

from pfs.errors import PfsError
from pfs.system import System, SystemOptions

TEXT = 32
"""Bytes of the text that a page repeats."""


def fill(text: str, page_size: int) -> bytes:
    """The page that a text stands for."""
    return text.encode().ljust(TEXT) * (page_size // TEXT)


def text_of(page: bytes) -> str:
    """The text that a page repeats, or "torn"."""
    part = page[:TEXT]
    return part.decode(errors="replace").rstrip() if part * (len(page) // TEXT) == page else "torn"


class Served:
    """The system and its clients' threads."""

    def __init__(self, directory: str, options: SystemOptions) -> None:
        self._system = System(directory, options)
        self._clients: dict[str, SimpleQueue[dict[str, Any] | None]] = {}
        self._threads: list[Thread] = []
        self._writing = Lock()

    def run(self) -> None:
        """Carry out commands until "stop" or the end of the input."""
        self._reply({"ready": True, "wal": self._system.stats()["wal"]})
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "stop":
                self._stop()
                self._reply({"id": command["id"]})
                return
            self._client(command["client"]).put(command)
        self._stop()

    def _client(self, name: str) -> SimpleQueue[dict[str, Any] | None]:
        if name not in self._clients:
            queue = self._clients[name] = SimpleQueue()
            self._threads.append(Thread(target=self._serve, args=(queue,), name=name, daemon=True))
            self._threads[-1].start()
        return self._clients[name]

    def _serve(self, queue: SimpleQueue[dict[str, Any] | None]) -> None:
        while (command := queue.get()) is not None:
            try:
                reply = self._carry_out(command)
            except PfsError as error:
                reply = {"error": type(error).__name__, "message": str(error)}
            self._reply({"id": command["id"], **reply})

    def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "stat":
            return self._system.stats()
        file = self._system.open(command["file"], page_size=command.get("page_size"))
        durability = command.get("durability", "wal")
        pages = [fill(text, file.page_size) for text in command.get("pages", ())]
        match command["do"]:
            case "open":
                return {"page_count": file.page_count}
            case "append":
                return {"pgid": file.append(pages, durability=durability)}
            case "write":
                file.write(command["pgid"], pages, durability=durability)
                return {}
            case "read":
                return {"pages": [text_of(page) for page in file.read(command["pgid"], command["n"])]}
            case "sync":
                file.sync()
                return {}
            case unknown:
                return {"error": "ProtocolError", "message": f"unknown command {unknown!r}"}

    def _reply(self, reply: dict[str, Any]) -> None:
        line = json.dumps(reply, default=str) + "\n"
        with self._writing:
            sys.stdout.write(line)
            sys.stdout.flush()

    def _stop(self) -> None:
        for queue in self._clients.values():
            queue.put(None)
        for thread in self._threads:
            thread.join()
        self._system.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a directory, and perhaps `SystemOptions` as JSON."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) not in (1, 2):
        print("usage: python -m pfs.testing.server DIRECTORY [OPTIONS AS JSON]", file=sys.stderr)
        return 2
    options = msgspec.json.decode(given[1], type=SystemOptions) if len(given) == 2 else SystemOptions()
    Served(given[0], options).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
