"""The fairness demo: the same clients, served round-robin and, for contrast, first come, first served.

    python examples/fairness.py [examples/fairness.toml] [--seed N] [--order ...]

The clients are actors that a TOML file describes (`fairness.toml` beside this file, made to be edited): full scans,
many single-page readers, an appender, a slow consumer, clients that die half-way.  All of them use one page file.  For
each order of service a table shows how long they waited, in turns of the server and in milliseconds.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

import pfs
from fairness_clients import Recorder, ScriptedClient, make_page
from fairness_report import ClientReport, Served, jains_index, report, report_groups, show
from fairness_script import Script, ScriptError, load
from pfs.actors import Waiter
from progress import Bars, console_for

Order = Literal["round_robin", "first_come_first_served"]
TITLES: dict[Order, str] = {
    "round_robin": "round robin",
    "first_come_first_served": "first come, first served",
}
DEFAULT_SCRIPT = Path(__file__).with_name("fairness.toml")
LEGEND = """turns: how many turns of the server went to others between a request's readiness for a chunk and the chunk
ms:    the same wait in milliseconds
share: chunks served for each turn in which the client had something ready; Jain's index is 1 if all shares are equal
"""
LOOK = 0.05
"""Seconds between two looks at how far the clients are."""


class RunFailed(Exception):
    """A client did not get what it asked for."""


@dataclass(frozen=True)
class Run:
    """What happened under one order of service."""

    order: Order
    seconds: float
    events: list[Served]
    groups: list[ClientReport]
    shares: list[float]


def run(script: Script, order: Order, directory: str, console: Console) -> Run:
    """Run the script once, on a page file in `directory`; raises `RunFailed`."""
    recorder = Recorder(script.server.block, script.server.credits, time.perf_counter)
    server = pfs.ServerOptions(
        chunk=script.server.chunk, block=script.server.block, credits=script.server.credits, order=order
    )
    room = 2 * script.data.pages * script.data.page_size
    options = pfs.SystemOptions(buffer_bytes=max(room, 64 << 20), server=server)
    with pfs.System(directory, options, observer=recorder.served) as system:
        file = system.open(order, page_size=script.data.page_size)
        for first in range(0, script.data.pages, 256):
            numbers = range(first, min(first + 256, script.data.pages))
            file.append([make_page(number, file.page_size) for number in numbers], durability="memory")
        return _run(script, order, system, file, recorder, console)


def _run(
    script: Script, order: Order, system: pfs.System, file: pfs.PageFile, recorder: Recorder, console: Console
) -> Run:
    names = {f"{client.name} {number}": client for client in script.clients for number in range(client.count)}
    requests_done = dict.fromkeys((client.name for client in script.clients), 0)
    errors: list[BaseException] = []
    running = len(names)
    all_done = Waiter()

    def progressed(group: str) -> None:
        requests_done[group] += 1

    def finished(error: BaseException | None) -> None:
        nonlocal running
        running -= 1
        if error is not None:
            errors.append(error)
        if errors or not running:
            all_done.finish()

    with Bars(console, f"Requests served {TITLES[order]}") as bars:
        for client in script.clients:
            bars.add(client.name, client.count * client.requests)
        begin = time.perf_counter()
        for name, client in names.items():
            system.start(
                ScriptedClient,
                file.server,
                name,
                client,
                script.pages(client),
                script.data.pages,
                script.data.page_size,
                random.Random(f"{script.seed} {name}"),
                recorder,
                lambda group=client.name: progressed(group),
                finished,
            )
        while not all_done.sleep(LOOK):
            bars.show(requests_done)
        seconds = time.perf_counter() - begin
    if errors:
        raise RunFailed(str(errors[0]) or repr(errors[0])) from errors[0]
    return Run(
        order,
        seconds,
        recorder.events,
        report_groups(recorder.events, lambda name: names[name].name),
        [client.share for client in report(recorder.events)],
    )


def show_run(done: Run, console: Console) -> None:
    """The table of one run."""
    title = f"Served {TITLES[done.order]}: {len(done.events):,} chunks in {done.seconds:.1f} s"
    show(title, done.groups, console, done.shares)


def show_contrast(runs: Sequence[Run], console: Console) -> None:
    """What the order of service means to each group of clients."""
    table = Table(title="The wait for a chunk that 99 of 100 did not exceed, in ms", title_justify="left")
    table.add_column("client", no_wrap=True)
    for done in runs:
        table.add_column(TITLES[done.order], justify="right")
    waits = [{group.client: group.seconds.p99 for group in done.groups} for done in runs]
    for client in waits[0]:
        table.add_row(client, *(f"{wait.get(client, 0.0) * 1000:,.2f}" for wait in waits))
    table.add_section()
    table.add_row("Jain's index", *(f"{jains_index(done.shares):.3f}" for done in runs))
    console.print(table)


def compare(script: Script, orders: Sequence[Order], console: Console, directory: str | None = None) -> list[Run]:
    """Run the script under each order and show the tables; raises `RunFailed`."""
    runs = []
    for order in orders:
        with tempfile.TemporaryDirectory(prefix="pfs-fairness-", dir=directory) as place:
            runs.append(run(script, order, place, console))
        if len(runs) == 1:
            console.print(LEGEND)
        show_run(runs[-1], console)
        console.print()
    if len(runs) > 1:
        show_contrast(runs, console)
    return runs


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Exit status: 0; 1 if a client did not get what it asked for; 2 if the script is wrong; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("script", nargs="?", type=Path, default=DEFAULT_SCRIPT, help="TOML file (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of chance in the clients (default: as the script says)")
    parser.add_argument("--order", choices=list(TITLES), help="run only this one (default: one after the other)")
    asked = parser.parse_args(argv)
    console = console or console_for(sys.stdout)
    try:
        script = load(asked.script)
        if asked.seed is not None:
            script = replace(script, seed=asked.seed)
        clients = sum(client.count for client in script.clients)
        console.print(f"{clients:,} client actors, one page file of {script.data.pages:,} pages, seed {script.seed}\n")
        compare(script, [asked.order] if asked.order else list(TITLES), console)
    except ScriptError as error:
        print(error, file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
