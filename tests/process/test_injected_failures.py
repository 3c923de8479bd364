"""The kernel fails, or kills, a real server at a chosen system call on a chosen file (`strace -e inject`).

Each case starts a server under strace, has it write, checkpoint and truncate, and says how that ends; then another
server, without strace, opens the directory, and has everything that was acknowledged, and nothing that was refused.

`when` counts the calls of each thread for itself: the log, the control file and the data files are written by threads
of their own, and all of them by the main thread while the system starts.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import pytest

from tests.privileges import skip_without_strace
from tests.process.clients import FILES, Client, found_in, prepare
from tests.process.known import Known
from tests.process.served import ServedProcess

Begin = Literal["stopped", "crashed"]
"""What the server finds: a directory that was stopped in order, or one that it has to recover."""

STEPS = 24
CHECKPOINT_AFTER = 6
"""So many requests are followed by a checkpoint."""


class Refused(NamedTuple):
    """The start fails with this error."""

    error: str


class Fails(NamedTuple):
    """The system fails; the error says why."""

    why: str


class Costs(NamedTuple):
    """Some requests fail with these errors, and later ones do not."""

    errors: frozenset[str]


class Killed(NamedTuple):
    """The process is gone."""


Outcome = Refused | Fails | Costs | Killed
UNHARMED = Costs(frozenset())
KILLED = Killed()


class Case(NamedTuple):
    where: str
    """Which files: `log` (segments), `new` (segments in the making), `names` (the log's directory), `control`, `data`,
    `any`."""
    injection: str
    begin: Begin
    outcome: Outcome
    sync_method: str = "fdatasync"
    steps: int = STEPS
    """Requests of its client."""

    def __str__(self) -> str:
        return f"{self.where}-{self.injection}-{self.begin}-{self.sync_method}"


def each(
    where: str,
    call: str,
    faults: str,
    whens: str,
    begin: Begin,
    outcome: Outcome,
    sync_method: str = "fdatasync",
    steps: int = STEPS,
) -> list[Case]:
    """A case for each fault and each `when`."""
    return [
        Case(where, f"{call}:{fault}:when={when}", begin, outcome, sync_method, steps)
        for fault in faults.split()
        for when in whens.split()
    ]


LOG_SYNC = Fails("could not sync 'pfs_wal/")
LOG_WRITE = Fails("could not write .* of 'pfs_wal/")
DATA = Fails("of a page file|'base/")

CASES = [
    # commits
    *each("log", "fdatasync", "error=EIO", "6 7 9 12", "stopped", LOG_SYNC),
    *each("log", "fdatasync", "error=ENOSPC error=EDQUOT", "8", "stopped", LOG_SYNC),
    *each("log", "fsync", "error=EIO", "6 9", "stopped", LOG_SYNC, "fsync"),
    *each("log", "pwritev", "error=EIO error=EROFS", "6 9", "stopped", LOG_WRITE),
    *each("log", "pwritev", "error=EIO", "7", "stopped", LOG_WRITE, "O_DSYNC"),
    *each("log", "pwritev", "error=ENOSPC error=EFBIG", "8", "stopped", LOG_WRITE),
    *each("log", "pwritev", "retval=0", "8", "stopped", LOG_WRITE),
    *each("log", "pwritev", "error=EINTR", "1..20+3", "stopped", UNHARMED),
    *each("log", "pwritev", "signal=SIGKILL", "6 8 11", "stopped", KILLED),
    *each("log", "fdatasync", "signal=SIGKILL", "6 8 11", "stopped", KILLED),
    *each("log", "pwritev", "signal=SIGKILL", "7", "stopped", KILLED, "O_DSYNC"),
    # segments of the log: made, used again
    *each("new", "pwritev", "error=EIO", "1", "stopped", Fails("'pfs_wal/xlogtemp")),
    *each("new", "fdatasync", "error=EIO", "1", "stopped", Fails("'pfs_wal/xlogtemp")),
    *each("new", "pwritev", "error=ENOSPC error=EINTR", "1", "stopped", UNHARMED),
    *each("new", "fdatasync", "signal=SIGKILL", "1", "stopped", KILLED),
    *each("names", "rename", "error=EIO", "1", "stopped", Fails("could not rename")),
    *each("names", "rename", "signal=SIGKILL", "1", "stopped", KILLED),
    *each("names", "rename", "error=ENOSPC error=EMFILE", "1", "stopped", UNHARMED),
    *each("names", "fsync", "error=EIO", "1", "stopped", Fails("could not sync directory 'pfs_wal'")),
    # (strace counts the calls of each thread; the one that starts the system opens seven segments)
    *each("names", "openat", "error=EMFILE error=ENFILE", "8 9", "stopped", UNHARMED, steps=4 * STEPS),
    # checkpoints
    *each("control", "fdatasync", "error=EIO", "3 4", "stopped", Fails("could not sync 'pfs_control'")),
    *each("control", "pwritev", "error=EIO error=ENOSPC", "3", "stopped", Fails("could not write .* 'pfs_control'")),
    *each("control", "pwritev", "signal=SIGKILL", "3", "stopped", KILLED),
    *each("control", "fdatasync", "signal=SIGKILL", "3", "stopped", KILLED),
    *each("data", "fdatasync", "error=EIO", "1 2", "stopped", DATA),
    *each("data", "pwritev", "error=EIO error=EACCES", "1", "stopped", DATA),
    *each("data", "pwritev", "error=ENOSPC error=EINTR", "1", "stopped", UNHARMED),
    *each("data", "pwritev", "signal=SIGKILL", "1 2 4", "stopped", KILLED),
    *each("data", "fdatasync", "signal=SIGKILL", "1", "stopped", KILLED),
    *each("data", "ftruncate", "error=EIO", "1", "stopped", DATA),
    *each("data", "ftruncate", "error=ENOSPC", "1", "stopped", UNHARMED),
    # reads
    *each("data", "preadv", "error=EIO", "1..2", "stopped", Costs(frozenset({"PageIOError"}))),
    *each("data", "preadv", "error=EINTR", "2", "stopped", UNHARMED),
    # starts
    *each("log", "fdatasync", "error=EIO", "1 2", "stopped", Refused("SyncFailed")),
    *each("log", "preadv", "error=EIO", "1", "stopped", Refused("ReadFailed")),
    *each("control", "preadv", "error=EIO", "1", "stopped", Refused("ReadFailed")),
    *each("control", "pwritev", "error=EIO", "1", "stopped", Refused("WriteFailed")),
    *each("any", "openat", "error=EMFILE", "1 2 8 10 13", "stopped", Refused("Busy")),
    *each("any", "openat", "error=EACCES", "1", "stopped", Refused("AccessDenied")),
    *each("any", "openat", "error=EIO", "2", "stopped", Refused("PageIOError")),
    # recoveries
    *each("log", "fdatasync", "error=EIO", "1 2", "crashed", Refused("SyncFailed")),
    *each("log", "pwritev", "error=EIO", "1 2", "crashed", Refused("WriteFailed")),
    *each("log", "pwritev", "signal=SIGKILL", "1 2 3", "crashed", KILLED),
    *each("log", "preadv", "error=EIO", "2", "crashed", Refused("ReadFailed")),
    *each("names", "fsync", "error=EIO", "1", "crashed", Refused("SyncFailed")),
    *each("names", "openat", "error=EMFILE", "3", "crashed", Refused("Busy")),
    *each("control", "fdatasync", "error=EIO", "1 2", "crashed", Refused("SyncFailed")),
    *each("control", "pwritev", "signal=SIGKILL", "1 2", "crashed", KILLED),
    *each("data", "fdatasync", "error=EIO", "1", "crashed", Refused("SyncFailed")),
    *each("data", "pwritev", "error=EIO", "1", "crashed", Refused("WriteFailed")),
    *each("data", "pwritev", "error=ENOSPC", "1", "crashed", Refused("NoSpace")),
    *each("data", "pwritev", "signal=SIGKILL", "1 3", "crashed", KILLED),
    *each("data", "fdatasync", "signal=SIGKILL", "1 3", "crashed", KILLED),
    *each("any", "openat", "error=ENFILE", "20 25 30", "crashed", Refused("Busy")),
]

ALIASES = {
    "pwritev": "pwritev,pwritev2",
    "preadv": "preadv,preadv2",
    "rename": "rename,renameat,renameat2",
}


def options(sync_method: str = "fdatasync") -> dict[str, Any]:
    return {
        "buffer_bytes": 0,
        "descriptors": 5,
        "segment_bytes": 256 << 10,
        "call_timeout": 30,
        "wal": {"segment_bytes": 64 << 10, "most_bytes": 512 << 10, "sync_method": sync_method},
    }


def paths(directory: Path, where: str) -> list[Path]:
    """The files that are meant; of the log also those that will be made."""
    log = directory / "pfs_wal"
    names = [f"{1:08X}{number:016X}" for number in range(1, 40)]
    files = {
        "log": [log / name for name in names],
        "new": [log / f"xlogtemp.{name}" for name in names],
        "names": [log],
        "control": [directory / "pfs_control"],
        "data": sorted((directory / "base" / "5").iterdir()),
    }
    if where == "any":
        return [directory, *directory.rglob("*")]
    return files[where]


def strace(case: Case, directory: Path, trace: Path) -> list[str]:
    call, _, rest = case.injection.partition(":")
    calls = ALIASES.get(call, call)
    command = ["strace", "-f", "-qq", "-ttt", "-o", str(trace)]
    command += ["-e", f"trace={calls},fsync,fdatasync", "-e", f"inject={calls}:{rest}"]
    if "signal" not in rest:
        command.append("--seccomp-bpf")  # much faster, but signals are not injected with it
    for path in paths(directory, case.where):
        command += ["-P", str(path)]
    return command


class Prepared(NamedTuple):
    directory: Path
    found: Mapping[str, list[str]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Begin, Prepared]]:
    """A directory of each kind, to be copied, and what is in it."""
    directories: dict[Begin, Prepared] = {}
    for begin in ("stopped", "crashed"):
        directory = tmp_path_factory.mktemp(begin) / "data"
        known = Known(FILES)
        served = ServedProcess(directory, options())
        prepare(served, known)
        client = Client(served, known, 0, Random(1), ())
        assert all(client.step() for _ in range(20))
        found = found_in(served)
        if begin == "stopped":
            served.stop()
        else:
            served.kill()
        directories[begin] = Prepared(directory, found)
    yield directories
    for each_prepared in directories.values():
        shutil.rmtree(each_prepared.directory)


class Watched:
    """A served process; remembers when what was sent and answered."""

    def __init__(self, served: ServedProcess) -> None:
        self.served = served
        self.errors: Counter[str] = Counter()
        self.messages: list[str] = []
        self.last_was_good = True
        self.acknowledged: list[tuple[float, float]] = []
        """When each durable change was sent and acknowledged."""

    def ask(self, **command: Any) -> dict[str, Any] | None:
        sent = time.time()
        reply = self.served.ask(**command)
        if reply is None:
            return None
        self.last_was_good = "error" not in reply
        if "error" in reply:
            self.errors[reply["error"]] += 1
            self.messages.append(reply["message"])
        elif command["do"] in ("append", "write", "truncate", "sync") and command.get("durability") != "memory":
            self.acknowledged.append((sent, time.time()))
        return reply


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_failing_call_costs_what_it_must_and_nothing_that_was_acknowledged(
    case: Case, prepared: dict[Begin, Prepared], tmp_path: Path
) -> None:
    skip_without_strace()
    directory, trace = tmp_path / "data", tmp_path / "trace"
    shutil.copytree(prepared[case.begin].directory, directory)
    known = Known(FILES)
    known.start_from(prepared[case.begin].found)
    served = ServedProcess(directory, options(case.sync_method), before=strace(case, directory, trace))
    watched = Watched(served)
    try:
        if served.ready.get("ready"):
            write(watched, known, case.steps)
    finally:
        status = end(served)
    log = trace.read_text()
    check_outcome(case.outcome, served, watched, status)
    assert "(INJECTED)" in log or status == -9, f"nothing was injected:\n{log[-3000:]}"
    if case.outcome == LOG_SYNC:
        check_acknowledgements(watched, log)
    again = ServedProcess(directory, options())
    try:
        assert again.ready.get("ready"), again.ready
        known.check(found_in(again))
    finally:
        again.stop()


def write(watched: Watched, known: Known, steps: int) -> None:
    """One client's requests, and checkpoints between them, until the process ends."""
    expected = {"SystemFailed", "PageIOError", "NoSpace", "Busy"}
    client = Client(watched, known, 0, Random(7), expected)
    for number in range(1, steps + 1):
        if not client.step():
            return
        if number % CHECKPOINT_AFTER == 0 and watched.ask(client="0", do="checkpoint") is None:
            return
    for pgid in range(0, known.page_count("shared"), 40):
        if watched.ask(client="0", do="read", file="shared", pgid=pgid, n=1) is None:
            return


def end(served: ServedProcess) -> int:
    """Let it stop, if it is still there, and wait for it; its exit status."""
    if served.ready.get("ready"):
        served.ask(client="end", do="stop")
    return served.end()


def check_outcome(outcome: Outcome, served: ServedProcess, watched: Watched, status: int) -> None:
    told = f"{served.ready}, {watched.errors}, status {status}, {served.errors[-2000:]}"
    match outcome:
        case Refused(error):
            assert served.ready.get("error") == error, told
            assert status == 1, told
        case Killed():
            assert status == -9, told
        case Fails(why):
            assert set(watched.errors) == {"SystemFailed"}, told
            assert re.search(why, watched.messages[0]), watched.messages[0]
            assert not watched.last_was_good, "a system that has failed stays so"
            assert status == 0, told
        case Costs(errors):
            assert set(watched.errors) == errors, told
            assert watched.last_was_good, told
            assert status == 0, told


def check_acknowledgements(watched: Watched, log: str) -> None:
    """Nothing was acknowledged after the failed sync of the log, unless a sync before it had made it durable."""
    syncs = [line.split(maxsplit=2) for line in log.splitlines() if "sync(" in line]
    failed = min(float(when) for _, when, call in syncs if "INJECTED" in call)
    good = [float(when) for _, when, call in syncs if float(when) < failed]
    for sent, answered in watched.acknowledged:
        assert answered < failed or any(sent < when for when in good), "acknowledged after a failed sync"


def test_there_are_enough_cases() -> None:
    assert len(set(CASES)) == len(CASES) >= 60
    assert {case.begin for case in CASES} == {"stopped", "crashed"}
