"""A `System` in a process of its own, driven over pipes: `python -m pfs.testing.server DIRECTORY [OPTIONS [KILL]]`.

The first line is `{"ready": true, "wal": {...}}`, or, if the directory cannot be opened, `{"error": class, "message":
...}`, and the process ends with status 1.  With `KILL`, such as `12` or `12:SIGSTOP`, the process sends itself SIGKILL
or that signal in the middle of its twelfth call that changes files (`pfs.testing.kill_points`).

One command a line on standard input, one reply a line on standard output, both JSON.  Each command has an `id`, which
its reply repeats, and runs in a thread of the `client` that it names, so that clients wait for the disk beside each
other; the commands of one client are carried out in order.

    {"id": 1, "client": "a", "do": "open", "file": "f", "page_size": 512}      -> {"id": 1, "page_count": 0}
    {"id": 2, "client": "a", "do": "append", "file": "f", "pages": ["..."]}    -> {"id": 2, "pgid": 0}
    {"id": 3, "client": "b", "do": "write", "file": "f", "pgid": 0, "pages": ["..."]}    -> {"id": 3}
    {"id": 4, "client": "b", "do": "read", "file": "f", "pgid": 0, "n": 1}     -> {"id": 4, "pages": ["..."]}
    {"id": 5, "client": "b", "do": "sync", "file": "f"}                        -> {"id": 5}
    {"id": 6, "client": "b", "do": "truncate", "file": "f", "n": 1}            -> {"id": 6}
    {"id": 7, "client": "b", "do": "checkpoint"}                               -> {"id": 7}
    {"id": 8, "client": "b", "do": "stat"}                                     -> {"id": 8, "wal": {...}, ...}
    {"id": 9, "client": "b", "do": "stop"}                                     -> {"id": 9}, and the process ends

`append` and `write` may say `"durability": "memory"`.  A page is given as a short text, which is repeated to fill it
(`fill`), and read as that text (or, if the page is not such a repetition, as `"torn"`).  A command that fails is
answered with `{"id": ..., "error": class, "message": ...}`.
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
from pfs.files.posix import PosixFileSystem
from pfs.system import System, SystemOptions
from pfs.testing.kill_points import signalled_at

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

    def __init__(self, system: System) -> None:
        self._system = system
        self._clients: dict[str, SimpleQueue[dict[str, Any] | None]] = {}
        self._threads: list[Thread] = []

    def run(self) -> None:
        """Carry out commands until "stop" or the end of the input."""
        reply({"ready": True, "wal": self._system.stats()["wal"]})
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "stop":
                self._stop()
                reply({"id": command["id"]})
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
                answer = self._carry_out(command)
            except PfsError as error:
                answer = refusal(error)
            reply({"id": command["id"], **answer})

    def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "stat":
            return self._system.stats()
        if command["do"] == "checkpoint":
            self._system.checkpoint()
            return {}
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
            case "truncate":
                file.truncate(command["n"])
                return {}
            case unknown:
                return {"error": "ProtocolError", "message": f"unknown command {unknown!r}"}

    def _stop(self) -> None:
        for queue in self._clients.values():
            queue.put(None)
        for thread in self._threads:
            thread.join()
        self._system.stop()


_writing = Lock()


def reply(answer: dict[str, Any]) -> None:
    """Write one line."""
    line = json.dumps(answer, default=str) + "\n"
    with _writing:
        sys.stdout.write(line)
        sys.stdout.flush()


def refusal(error: PfsError) -> dict[str, Any]:
    """What is answered instead of a result."""
    return {"error": type(error).__name__, "message": str(error)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a directory, perhaps `SystemOptions` as JSON, perhaps where it is killed."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    at, _, name = given[2].partition(":") if len(given) == 3 else ("", "", "")
    if not 1 <= len(given) <= 3 or (len(given) == 3 and not at.isdecimal()):
        print("usage: python -m pfs.testing.server DIRECTORY [OPTIONS AS JSON [CALL[:SIGNAL]]]", file=sys.stderr)
        return 2
    options = msgspec.json.decode(given[1], type=SystemOptions) if len(given) > 1 else SystemOptions()
    try:
        directory = signalled_at(PosixFileSystem.made(given[0]), int(at), name or "SIGKILL") if at else given[0]
        served = Served(System(directory, options))
    except PfsError as error:
        reply(refusal(error))
        return 1
    served.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
