"""A server process is killed while its clients append, again and again; whatever it acknowledged is there afterwards.

Each round starts `crash_server.py` in a process of its own, notes every append that it acknowledges, and kills it
(SIGKILL: it can do nothing about it) after a random number of them.  The next process that opens the directory has to
recover, and then to show all pages: each acknowledged append where it was said to be, every other append whole or not
at all.

    python examples/crashes.py          # this part of the demo alone
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from progress import console_for

SERVER = Path(__file__).with_name("crash_server.py")

_LAST_PAGE = re.compile(r"page (\d+) of \1$")


class CrashFailed(Exception):
    """A page is lost, or there is half an append; the message says which."""


class Appends:
    """What was acknowledged: the text of each page, by number."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.acknowledged = 0
        """Pages in all."""

    def note(self, pgid: int, texts: list[str]) -> None:
        """An append was acknowledged: its pages begin at `pgid`."""
        self.texts.update(enumerate(texts, pgid))
        self.acknowledged += len(texts)

    def check(self, found: list[str]) -> int:
        """Compare with what is there now; how many new pages are there that nobody was told of.

        Raises `CrashFailed`.
        """
        for pgid, text in self.texts.items():
            if found[pgid : pgid + 1] != [text]:
                there = found[pgid] if pgid < len(found) else "nothing"
                raise CrashFailed(f"page {pgid} was acknowledged as {text!r}; there is {there!r}")
        begin = 0
        for pgid, text in enumerate(found, 1):
            if _LAST_PAGE.search(text):
                self._check_append(found[begin:pgid], begin)
                begin = pgid
        if begin < len(found):
            raise CrashFailed(f"the append at page {begin} is there by half: {found[begin:]}")
        more = len(found) - len(self.texts)
        self.texts = dict(enumerate(found))  # what was recovered stays
        return more

    def _check_append(self, texts: list[str], begin: int) -> None:
        name, _, _ = texts[0].rpartition("page")
        n = len(texts)
        if texts != [f"{name}page {index} of {n}" for index in range(1, n + 1)]:
            raise CrashFailed(f"the append at page {begin} is there by half: {texts}")


@contextmanager
def server(directory: Path, seed: str) -> Iterator[subprocess.Popen[str]]:
    """A server process; it is killed when the block ends, however that comes about."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(directory), seed],
        stdin=subprocess.PIPE,  # if this process is killed itself, the server's input ends
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends the other
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a server says about its start.  Raises `CrashFailed` if it did not get so far."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith("\n"):
        raise CrashFailed("the server process ended before it had opened its directory")
    started: dict[str, Any] = json.loads(line)
    return started


def note_and_kill(process: subprocess.Popen[str], appends: Appends, after: int) -> None:
    """Note what is acknowledged; kill the process after so many appends, and note what it had told until then."""
    assert process.stdout is not None
    for number, line in enumerate(process.stdout, 1):
        if number == after:
            process.kill()
        if line.endswith("\n"):  # the last one may be cut off
            appends.note(**json.loads(line))


def run(kills: int, seed: int, console: Console) -> None:
    """Kill a server so often, and say how it went.  Raises `CrashFailed`."""
    chance = random.Random(seed)
    appends = Appends()
    console.print(
        f"\nCrashes: a server process is killed {kills} times while clients append, and started again each time"
    )
    with tempfile.TemporaryDirectory(prefix="pfs-crashes-") as name:
        directory = Path(name)
        for number in range(kills + 1):
            with server(directory, f"{seed}.{number}") as process:
                started = first_line(process)
                more = appends.check(started["texts"])
                if number:
                    found, seconds = len(started["texts"]), started["seconds"]
                    console.print(
                        f"  kill {number}: recovered in {seconds:.2f} s; {found:6,} pages found: "
                        f"all {appends.acknowledged:6,} acknowledged so far, and {more:2} that were on their way",
                        markup=False,
                        soft_wrap=True,
                    )
                if number < kills:
                    note_and_kill(process, appends, chance.randrange(100, 1000))
    console.print(
        f"  {appends.acknowledged:,} pages acknowledged, {appends.acknowledged:,} found; no append was there by half"
    )


def main() -> int:
    """Exit status: 0 if nothing was lost, 1 if something was, 130 after Ctrl-C."""
    try:
        run(5, random.randrange(1 << 32), console_for(sys.stdout))
    except CrashFailed as error:
        print(f"something is wrong: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
