"""The main job of pfs on real data, in under a minute: load, look up and scan by many actors, fairness, crashes.

1. Triples are taken from the sources of Python's standard library: who imports, defines and calls what.
2. Two actors append them, sorted, to two page files: by subject, and by object.
3. A thousand actors look names up by binary search over the sorted pages, while others scan the files from end to end.
   Every answer is checked against a plain dict.
4. The fairness demo (`fairness.py`) shows how long clients wait for each other.
5. A server process is killed at random while its clients append (`crashes.py`); what it acknowledged is there.

All pages go through the page file servers, and every client speaks their protocol.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import crashes
import fairness
import fairness_script
import pfs
import python_triples
from pfs.actors import Waiter
from pfs.errors import PfsError
from pfs.streams.codecs import Triple, TripleCodec
from progress import Bars, console_for
from triple_clients import Loader, LookUps, Scan

PAGE_SIZE = 8192
BATCH = 128
"""Pages that a loader appends in one request."""

LOOK = 0.05
"""Seconds between two looks at how far the clients are."""


class DemoFailed(Exception):
    """Something is not as it should be; the message says what."""


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    triples: int = 150_000
    clients: int = 1000
    look_ups: int = 15
    """Of each client."""
    scans: int = 4
    """Of each page file."""


@dataclass(frozen=True)
class Index:
    """The triples in one order: in a page file, and as they should be."""

    name: str
    triples: list[Triple]
    """Sorted; the element that they are ordered by comes first."""
    by_key: Mapping[str, Sequence[Triple]]


def indexes_of(triples: Sequence[Triple]) -> list[Index]:
    """The two orders that the demo keeps: by subject, and by object."""
    orders = {
        "by subject": sorted(triples),
        "by object": sorted((object_, predicate, subject) for subject, predicate, object_ in triples),
    }
    indexes = []
    for name, ordered in orders.items():
        by_key: dict[str, list[Triple]] = defaultdict(list)
        for triple in ordered:
            by_key[triple[0]].append(triple)
        indexes.append(Index(name, ordered, by_key))
    return indexes


class Group:
    """Clients that run at the same time: starts them, shows how far they are, and waits until all have ended."""

    def __init__(self, system: pfs.System) -> None:
        self._system = system
        self._running = 0
        self._all_started = False
        self._errors: list[BaseException] = []
        self._done = Waiter()

    def start(self, actor_class: type[Any], *arguments: Any) -> None:
        """Start a client, whose last argument is what it calls at its end."""
        self._running += 1
        self._system.start(actor_class, *arguments, self._finished)

    def wait(self, show: Callable[[], None]) -> None:
        """Wait for the end of all; raises `DemoFailed` as soon as one of them fails."""
        self._all_started = True
        while self._running and not self._errors and not self._done.sleep(LOOK):
            show()
        if self._errors:
            raise DemoFailed(str(self._errors[0]) or repr(self._errors[0])) from self._errors[0]

    def _finished(self, error: BaseException | None) -> None:
        self._running -= 1
        if error is not None:
            self._errors.append(error)
        if self._errors or (self._all_started and not self._running):
            self._done.finish()


class Demo:
    """The steps of the demo; each prints a line of what it did."""

    def __init__(self, size: Size, seed: int, console: Console) -> None:
        self._size = size
        self._seed = seed
        self._console = console

    def extract(self) -> list[Triple]:
        """Triples from the standard library's sources."""
        with Bars(self._console, "Reading the sources of Python's standard library") as bars, self._timed() as took:
            bars.add("triples", self._size.triples)
            triples = python_triples.extract(lambda count, _: bars.show({"triples": count}), enough=self._size.triples)
        self._say(f"{len(triples):,} triples: who imports, defines and calls what", took)
        return triples

    def load(self, system: pfs.System, indexes: Sequence[Index]) -> None:
        """Append each index to its page file; both at the same time."""
        codec = TripleCodec(PAGE_SIZE)
        pages = dict.fromkeys((index.name for index in indexes), 0)
        with Bars(self._console, "Appending them to page files") as bars, self._timed() as took:
            group = Group(system)
            for index in indexes:
                file = system.open(index.name, page_size=PAGE_SIZE)
                bytes_of_triples = sum(6 + len("".join(triple).encode()) for triple in index.triples)
                bars.add(f"{index.name}: pages", -(-bytes_of_triples // (PAGE_SIZE - 100)))

                def progress(count: int, name: str = index.name) -> None:
                    pages[name] = count

                group.start(Loader, file.server, index.triples, codec, BATCH, progress)
            group.wait(lambda: bars.show({f"{name}: pages": count for name, count in pages.items()}))
        total = sum(pages.values())
        parts = ", ".join(f"{count:,} {name}" for name, count in pages.items())
        self._say(f"{total:,} pages, durable on disk ({parts}): {total / took[0]:,.0f} pages/s", took)

    def use(self, system: pfs.System, indexes: Sequence[Index]) -> None:
        """Look up and scan, all at the same time; every answer is checked."""
        size = self._size
        codec = TripleCodec(PAGE_SIZE)
        look_ups_wanted = size.clients * size.look_ups
        triples_wanted = size.scans * sum(len(index.triples) for index in indexes)
        looked_up = pages_read = scanned = 0

        def answered(pages: int) -> None:
            nonlocal looked_up, pages_read
            looked_up += 1
            pages_read += pages

        def progress(triples: int) -> None:
            nonlocal scanned
            scanned += triples

        actors = size.clients + size.scans * len(indexes)
        title = f"{actors:,} actors look up and scan at the same time; every answer is checked"
        with Bars(self._console, title) as bars, self._timed() as took:
            bars.add("look-ups", look_ups_wanted)
            bars.add("triples scanned", triples_wanted)
            group = Group(system)
            for index in indexes:
                file = system.open(index.name)
                for _ in range(size.scans):
                    group.start(Scan, file.server, file.page_count, codec, index.triples, progress)
            for number in range(size.clients):
                index = indexes[number % len(indexes)]
                file = system.open(index.name)
                keys = self._keys(index, number)
                group.start(LookUps, file.server, keys, file.page_count, codec, index.by_key, answered)
            group.wait(lambda: bars.show({"look-ups": looked_up, "triples scanned": scanned}))
        if looked_up != look_ups_wanted or scanned != triples_wanted:
            raise DemoFailed(f"{looked_up} look-ups and {scanned} triples scanned are not all that were wanted")
        self._say(
            f"{looked_up:,} look-ups of {pages_read / looked_up:.0f} page reads each ({pages_read / took[0]:,.0f}/s), "
            f"{scanned:,} triples scanned: all answers are right",
            took,
        )

    def _keys(self, index: Index, number: int) -> list[str]:
        """What a client looks up: mostly names that are there, and one in ten that is not."""
        chance = random.Random(f"{self._seed} {number}")
        names = [chance.choice(index.triples)[0] for _ in range(self._size.look_ups)]
        return [name if chance.random() < 0.9 else f"{name}?" for name in names]

    @contextmanager
    def _timed(self) -> Iterator[list[float]]:
        took: list[float] = []
        begin = time.perf_counter()
        yield took
        took.append(time.perf_counter() - begin)

    def _say(self, what: str, took: Sequence[float]) -> None:
        self._console.print(f"  {what} [{took[0]:.1f} s]", markup=False, soft_wrap=True)


def run(directory: Path, size: Size, seed: int, script: fairness_script.Script | None, console: Console) -> None:
    """Run all steps in a directory; raises `DemoFailed`, `RunFailed`, `PfsError`."""
    demo = Demo(size, seed, console)
    triples = demo.extract()
    indexes = indexes_of(triples)
    with pfs.System(directory) as system:
        if system.names():
            raise DemoFailed(f"{directory} has page files already: {', '.join(system.names())}; name another directory")
        demo.load(system, indexes)
    with pfs.System(directory) as system:  # opened anew: what the clients find comes from the files
        demo.use(system, indexes)
    if script is not None:
        clients = sum(client.count for client in script.clients)
        console.print(f"\nFairness: {clients:,} clients of one page file, under two orders of service")
        fairness.compare(script, list(fairness.TITLES), console)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def count(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1,000,000")
        return int(text)

    usual = Size()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, help="keep the page files here (default: a temporary directory)")
    parser.add_argument("--triples", type=count, default=usual.triples, help="at least so many (default: %(default)s)")
    parser.add_argument("--clients", type=count, default=usual.clients, help="that look up (default: %(default)s)")
    parser.add_argument("--look-ups", type=count, default=usual.look_ups, help="of each (default: %(default)s)")
    parser.add_argument("--scans", type=count, default=usual.scans, help="of each page file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of chance in the clients (default: %(default)s)")
    parser.add_argument("--kills", type=count, default=5, help="of the server process (default: %(default)s)")
    parser.add_argument("--no-fairness", action="store_true", help="leave the fairness demo out")
    parser.add_argument("--no-kills", action="store_true", help="kill no server process")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Exit status: 0 if all answers are right, 1 if something is wrong, 130 after Ctrl-C."""
    asked = arguments(argv)
    console = console or console_for(sys.stdout)
    size = Size(asked.triples, asked.clients, asked.look_ups, asked.scans)
    begin = time.perf_counter()
    try:
        script = None if asked.no_fairness else fairness_script.load(fairness.DEFAULT_SCRIPT)
        if asked.directory is None:
            with tempfile.TemporaryDirectory(prefix="pfs-demo-") as directory:
                run(Path(directory), size, asked.seed, script, console)
        else:
            run(asked.directory, size, asked.seed, script, console)
        if not asked.no_kills:
            crashes.run(asked.kills, asked.seed, console)
        if asked.directory is not None:
            console.print(
                f"\nThe page files are in {asked.directory}; see them with: pfs ls {asked.directory}",
                markup=False,
                soft_wrap=True,
            )
    except (
        DemoFailed,
        crashes.CrashFailed,
        fairness.RunFailed,
        fairness_script.ScriptError,
        PfsError,
        OSError,
    ) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    console.print(f"\nDone in {time.perf_counter() - begin:.0f} s: every answer was right.")
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    sys.exit(main())
