"""What clients felt: waits, shares and Jain's index, computed from what a page file server did turn by turn.

Plain code for the fairness demo.  It is given one `Served` for each chunk that was served, and makes from them a
`ClientReport` for each client and one number for all.

A chunk's *wait* is the time from when its request was ready for it (the request had arrived, its last chunk had
been served, and there was credit) until it was served: in turns, of which those of others count, and in seconds.  A
consumer that gives no credit makes its own request not ready, so it does not wait in this sense.

A client's *share* is the number of its chunks served for each turn in which it had something ready: 1 if it was
served whenever it wanted, 0.1 if it got every tenth turn.  *Jain's index* over the shares, (sum x)^2 / (n sum x^2), is
1 when all clients have the same and 1/n when one has everything.  (R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of
Fairness and Discrimination for Resource Allocation in Shared Computer Systems, DEC-TR-301, 1984.)

Under round robin over s ready clients each share is about 1/s and the index near 1, whatever they ask for.  Under
first come, first served a long scan has share 1 and all who came behind it almost nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import mean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Served(NamedTuple):
    """One chunk served: in turn number `turn`, at `time` seconds; its request was ready from `ready_turn` on.

    `ready_turn` is the number of the first turn that could have served it, so `turn - ready_turn` turns went to others.
    """

    client: str
    request: Hashable
    ready_turn: int
    turn: int
    ready_time: float
    time: float
    pages: int


class Waits(NamedTuple):
    """Percentiles of waits, in turns or in seconds."""

    p50: float
    p99: float
    largest: float


class ClientReport(NamedTuple):
    """One client's part of the service."""

    client: str
    requests: int
    chunks: int
    pages: int
    turns: Waits
    seconds: Waits
    share: float


def report(events: Iterable[Served]) -> list[ClientReport]:
    """What each client felt, in the order of their names."""
    return [
        _report(client, served, len(served) / ready_turns(served))
        for client, served in sorted(_by(lambda client: client, events).items())
    ]


def report_groups(events: Sequence[Served], group: Callable[[str], str]) -> list[ClientReport]:
    """What the clients of each group felt together, in the order in which the groups were first served.

    `group` gives the group of a client.  A group's share is the mean of its clients' shares.
    """
    shares: dict[str, list[float]] = defaultdict(list)
    for client in report(events):
        shares[group(client.client)].append(client.share)
    return [
        _report(name if len(shares[name]) == 1 else f"{len(shares[name])} x {name}", served, mean(shares[name]))
        for name, served in _by(group, events).items()
    ]


def _by(group: Callable[[str], str], events: Iterable[Served]) -> dict[str, list[Served]]:
    groups: dict[str, list[Served]] = defaultdict(list)
    for event in events:
        groups[group(event.client)].append(event)
    return groups


def _report(client: str, served: Sequence[Served], share: float) -> ClientReport:
    return ClientReport(
        client=client,
        requests=len({event.request for event in served}),
        chunks=len(served),
        pages=sum(event.pages for event in served),
        turns=waits([event.turn - event.ready_turn for event in served]),
        seconds=waits([event.time - event.ready_time for event in served]),
        share=share,
    )


def waits(values: Sequence[float]) -> Waits:
    """The median, the 99th percentile and the largest of one value or more."""
    ordered = sorted(values)
    return Waits(percentile(ordered, 50), percentile(ordered, 99), ordered[-1])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the sorted values that at least `percent` percent of them do not exceed (nearest rank)."""
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def ready_turns(served: Iterable[Served]) -> int:
    """In how many turns a client had something ready, however many of its requests at once."""
    total = 0
    counted_to = -1
    for first, last in sorted((event.ready_turn, event.turn) for event in served):
        total += max(0, last - max(first - 1, counted_to))
        counted_to = max(counted_to, last)
    return total


def jains_index(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all values are equal, 1/n if all but one are 0.  Of no values it is 1."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def show(
    title: str, clients: Sequence[ClientReport], console: Console | None = None, shares: Sequence[float] | None = None
) -> None:
    """Print the table and the index, which is of `shares` if the table's rows are groups.

    Where the output is no terminal, `rich` leaves out colours and styles.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)  # a pipe has no width, and rich would cut names to fit 80 columns
    table = Table(title=title, title_justify="left")
    table.add_column("client", no_wrap=True)
    for heading in ("requests", "chunks", "pages", "turns p50", "p99", "max", "ms p50", "p99", "max", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for client in clients:
        table.add_row(
            client.client,
            f"{client.requests:,}",
            f"{client.chunks:,}",
            f"{client.pages:,}",
            *(f"{value:,.0f}" for value in client.turns),
            *(f"{value * 1000:,.2f}" for value in client.seconds),
            f"{client.share:.3f}",
        )
    console.print(table)
    index = jains_index([client.share for client in clients] if shares is None else shares)
    console.print(f"Jain's index of the shares: {index:.3f}")
