"""What a seed of the simulation chooses: sizes and limits as small as they go, how many clients, and what fails.

Plain code: the same seed gives the same plan and the same faults.
"""

from __future__ import annotations

import errno
from random import Random
from typing import NamedTuple

from pfs.actors.requests import ServerOptions
from pfs.system import SystemOptions
from pfs.testing.faults import Fault
from pfs.wal.shared_log import WalOptions

PAGE_SIZE = 512


class Plan(NamedTuple):
    """What a seed chooses.

    `trouble`: the kind of failure of the disk (`TROUBLES`); `end`: how the run ends (`ENDS`).
    """

    options: SystemOptions
    page_files: int
    clients: int
    threads: int
    trouble: str
    end: str
    page_cache: str
    failed_sync: str


TROUBLES = ["none", "none", "read", "space", "full", "descriptors", "sync", "write", "short", "interrupt"]
ENDS = ["stop", "stop", "stop", "crash"]


def plan(seed: int) -> Plan:
    """Sizes, limits and failures for a seed."""
    random = Random(f"plan {seed}")
    choose = random.choice
    trouble = choose(TROUBLES)
    block, chunk = choose((1, 2, 3, 4)), choose((1, 2, 3, 5, 8))
    staging = choose((16, 24, 64))
    server = ServerOptions(
        chunk=chunk,
        block=block,
        credits=choose((1, 1, 2, 3)),
        staging_bytes=staging * PAGE_SIZE,
        session_staging_bytes=choose((staging, staging * 2 // 3)) * PAGE_SIZE,
        bulk_bytes=choose((1 << 20, 1 << 20, 3 * PAGE_SIZE, 0)),
        version_bytes=choose((2, 8, 64, 64)) * PAGE_SIZE,
        idle_seconds=(idle_seconds := choose((0.5, 1000.0))),
        read_idle_seconds=idle_seconds,
        session_requests=choose((2, 10_000, 10_000)),
    )
    options = SystemOptions(
        buffer_bytes=choose((0, 2, 5, 20, 1000)) * (PAGE_SIZE + 200),
        descriptors=choose((1, 2, 3, 20)),
        segment_bytes=choose((4, 8, 1024)) * PAGE_SIZE,
        read_workers=choose((1, 2)),
        write_workers=choose((1, 2)),
        call_timeout=1e9,
        server=server,
        dirty_bytes=choose((1, 8, 10_000)) * PAGE_SIZE,
        wal=WalOptions(
            segment_bytes=choose((4, 8, 32)) << 10,
            most_bytes=choose((32, 128, 1024)) << 10,
            checkpoint_bytes=choose((8, 16, 100)) << 10,
            checkpoint_seconds=choose((0.01, 1.0, 1000.0)),
            batch_bytes=choose((1, 2000, 1 << 20)),
            batch_requests=choose((1, 3, 256)),
            compress=choose((False, True)),
            commit_delay=choose((0.0, 0.005)),
        ),
    )
    return Plan(
        options=options,
        page_files=choose((2, 3) if trouble in ("sync", "write") else (1, 1, 2, 3)),
        clients=random.randint(2, 8),
        threads=choose((0, 1, 2)),
        trouble=trouble,
        end=choose(ENDS),
        page_cache=choose(("warm", "cold", "none")),
        failed_sync=choose(("keep", "revert")),
    )


def faults(trouble: str, random: Random) -> list[Fault]:
    """The failures of a kind, at moments that the random source chooses."""
    at, data = random.randint(1, 40), "base/*"
    any_file = random.choice((data, "pfs_wal/*"))

    def fail(error: int, *calls: str, times: int = 1, every: int = 1, path: str | None = data) -> list[Fault]:
        return [
            Fault(error=error, operation=call, at=at + every * k, path=path) for k in range(times) for call in calls
        ]

    match trouble:
        case "read":
            at = at % 10 + 1
            return fail(errno.EIO, "preadv", "preadv_nowait", times=12, every=3)
        case "space":
            failures = fail(errno.ENOSPC, "pwritev", times=5, every=5)
            at = max(at // 10, 1)
            return failures + fail(errno.ENOSPC, "pwritev", times=5, every=2, path="pfs_wal/xlogtemp.*")
        case "descriptors":
            return fail(random.choice((errno.EMFILE, errno.ENFILE)), "reopen", times=6, every=3)
        case "sync":
            at = max(at // 3, 1)
            return fail(errno.EIO, "fdatasync", path=any_file)
        case "write":
            return fail(random.choice((errno.EIO, errno.EROFS)), "pwritev", path=any_file)
        case "interrupt":
            return fail(errno.EINTR, "preadv", "pwritev", "fdatasync", "reopen", times=5, every=2)
        case "short":
            lengths = [random.randint(1, 900) for _ in range(20)]
            return [
                Fault(short=length, operation=call, at=at + k)
                for k, length in enumerate(lengths)
                for call in ("preadv", "pwritev")
            ]
    return []


EXCUSES = {
    "read": {"PageIOError"},
    "space": {"NoSpace"},
    "full": {"NoSpace"},
    "descriptors": {"Busy", "NoSpace"},
}
"""What anybody may be told because of a kind of trouble."""
