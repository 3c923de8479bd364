"""Short workloads for crash campaigns: what clients ask of a `System`, as plain data.

Two kinds:

* `sequences`: every sequence of up to three actions of a small alphabet, on a directory with two page files that was
  stopped in order.  Bugs of file systems and databases after a crash were all found by few operations on few files
  (Mohan and others, "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
* `random_workload`: what a seed chooses: up to three clients at once, sizes and limits as small as they go, so that
  segments, batches, checkpoints and evictions come by the dozen; on an empty directory.

An action says which page file and which page by a fraction, so that it can be carried out whatever is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Literal, NamedTuple

from pfs.actors.requests import ServerOptions
from pfs.protocol import Durability
from pfs.system import SystemOptions
from pfs.wal.shared_log import WalOptions

PAGE_SIZE = 512

Kind = Literal["append", "write", "truncate", "sync", "checkpoint", "create", "rename", "drop", "reopen"]


class Action(NamedTuple):
    """One thing that a client does.

    `n`: pages written; `file`: which of the client's page files, 0.0 the oldest to below 1.0 the newest; `at`: which
    page, or what part of its pages a file keeps.  `create` makes a page file and appends to it; `reopen` stops the
    system in order and starts another.
    """

    kind: Kind
    n: int = 1
    durability: Durability = "wal"
    file: float = 0.99
    at: float = 0.0

    def __str__(self) -> str:
        if self.kind in ("append", "write"):
            return f"{self.kind} {self.n} at {self.at:.2f} of {self.file:.2f} ({self.durability})"
        return f"{self.kind} {self.file:.2f}" + (f" at {self.at:.2f}" if self.kind == "truncate" else "")


class Workload(NamedTuple):
    """Actions, and the system that they are for.

    `replay`: the arguments of `python -m pfs.testing.campaign` that name it.  `seed`: of the scheduler.  `clients`: the
    actions of each of the clients that are there at once.  `prepared`: on a directory that has two page files already.
    `images_from`: the action (of a single client) from which on crash images are taken; before it there are others'.
    """

    replay: str
    seed: int
    options: SystemOptions
    clients: tuple[tuple[Action, ...], ...]
    prepared: bool = False
    images_from: int = 0


ALPHABET: dict[str, Action] = {
    "append": Action("append", n=3),
    "append-memory": Action("append", n=2, durability="memory"),
    "write": Action("write", n=2),
    "write-memory": Action("write", durability="memory", at=0.99),
    "truncate": Action("truncate", at=0.4),
    "sync": Action("sync"),
    "checkpoint": Action("checkpoint"),
    "create": Action("create", n=2),
    "rename": Action("rename"),
    "drop": Action("drop"),
    "reopen": Action("reopen"),
}
"""The actions that sequences are made of."""

LONGEST = 3
"""Actions in a sequence."""

SMALL = SystemOptions(
    buffer_bytes=5 * (PAGE_SIZE + 200),
    descriptors=4,
    segment_bytes=4 * PAGE_SIZE,
    read_workers=1,
    write_workers=1,
    call_timeout=1e9,
    dirty_bytes=4 * PAGE_SIZE,
    wal=WalOptions(segment_bytes=4 << 10, most_bytes=32 << 10, checkpoint_bytes=16 << 10, checkpoint_seconds=1000.0),
)
"""A system in which everything is small, for sequences."""


def sequence(names: tuple[str, ...], seed: int = 0) -> Workload:
    """The sequence of these actions; its crash images are those of the last one, as it extends a shorter sequence."""
    return Workload(
        replay=f"--sequence {','.join(names)}" + (f" --scheduler {seed}" if seed else ""),
        seed=seed,
        options=SMALL,
        clients=(tuple(ALPHABET[name] for name in names),),
        prepared=True,
        images_from=len(names) - 1,
    )


def sequences(first: str, longest: int = LONGEST, seed: int = 0) -> Iterator[Workload]:
    """All sequences of 1 to `longest` actions that begin with this one, the shorter first."""
    for length in range(longest):
        for more in product(ALPHABET, repeat=length):
            yield sequence((first, *more), seed)


_KINDS: tuple[Kind, ...] = (
    *("append", "append", "append", "append", "write", "write", "write", "write"),
    *("truncate", "sync", "checkpoint", "create", "rename", "drop"),
)


def random_workload(seed: int) -> Workload:
    """What a seed chooses."""
    random = Random(f"workload {seed}")
    choose = random.choice
    options = SystemOptions(
        buffer_bytes=choose((0, 2, 5, 1000)) * (PAGE_SIZE + 200),
        descriptors=choose((1, 2, 3, 20)),
        segment_bytes=choose((2, 4, 8, 1024)) * PAGE_SIZE,
        read_workers=choose((1, 2)),
        write_workers=choose((1, 2)),
        call_timeout=1e9,
        dirty_bytes=choose((1, 4, 10_000)) * PAGE_SIZE,
        server=ServerOptions(chunk=choose((1, 2, 5)), block=choose((1, 2, 4)), credits=choose((1, 2, 3))),
        wal=WalOptions(
            segment_bytes=choose((4, 4, 8)) << 10,
            most_bytes=choose((16, 32, 128)) << 10,
            checkpoint_bytes=choose((4, 8, 16, 100)) << 10,
            checkpoint_seconds=choose((0.01, 1000.0)),
            batch_bytes=choose((1, 2000, 1 << 20)),
            batch_requests=choose((1, 3, 256)),
            sync_method=choose(("fdatasync", "fdatasync", "fsync", "O_DSYNC")),
            compress=choose((False, False, True)),
            commit_delay=choose((0.0, 0.005)),
        ),
    )
    count = choose((1, 1, 2, 3))
    clients = []
    for _ in range(count):
        kinds: list[Kind] = ["create", *random.choices(_KINDS, k=random.randint(4, 14) // count + 2)]
        if count == 1 and random.random() < 0.5:
            kinds.insert(random.randint(1, len(kinds)), "reopen")
        clients.append(tuple(_random_action(kind, random) for kind in kinds))
    return Workload(f"--seed {seed}", seed, options, tuple(clients))


def _random_action(kind: Kind, random: Random) -> Action:
    return Action(
        kind,
        n=random.choice((1, 1, 2, 3, 5, 9)),
        durability=random.choice(("wal", "wal", "memory")),
        file=random.random(),
        at=random.random(),
    )
