"""Full disks and the limits of a process: requests fail with the right error or wait, reads go on, writing resumes.

Whatever happens, what was acknowledged is there after a kill, and nothing of what was refused.
"""

from __future__ import annotations

import resource
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.privileges import run, skip, small_disk
from tests.process.clients import FILES, PAGE_SIZE, Client, found_in, prepare
from tests.process.known import Known
from tests.process.served import ServedProcess

MOST_REQUESTS = 3000
"""After so many requests something should have happened."""

KIB = 1024


def options(**wal: Any) -> dict[str, Any]:
    more = {"segment_bytes": 64 * KIB, "most_bytes": 512 * KIB, "checkpoint_bytes": 200 * KIB} | wal
    return {"buffer_bytes": 64 * KIB, "segment_bytes": 1 << 30, "call_timeout": 30, "wal": more}


class Writer:
    """One client of a served process: it writes until it is refused, or until it is not refused any more."""

    def __init__(self, directory: Path, options: dict[str, Any], *, before: Sequence[str] = (), seed: int = 1) -> None:
        self.directory = directory
        self.options = options
        self.known = Known(FILES)
        self.served = ServedProcess(directory, options, before=before)
        assert self.served.ready.get("ready"), self.served.ready
        prepare(self.served, self.known)
        self.refused: Counter[str] = Counter()
        self._client = Client(self, self.known, 0, Random(seed), {"NoSpace", "Busy"})

    def ask(self, **command: Any) -> dict[str, Any] | None:
        reply = self.served.ask(**command)
        if reply is not None and "error" in reply:
            self.refused[reply["error"]] += 1
        return reply

    def steps(self, n: int) -> None:
        """So many requests, writes and reads; those that are refused are counted."""
        for _ in range(n):
            assert self._client.step(), self.served.end_of_errors()

    def until_refused(self, error: str) -> None:
        for _ in range(MOST_REQUESTS):
            self._append()
            if self.refused[error]:
                return
        raise AssertionError(f"nothing was refused with {error}: {self.refused}")

    def until_not_refused(self) -> None:
        """Writing resumes by itself: nobody starts anything anew."""
        for _ in range(MOST_REQUESTS):
            before = self.refused.total()
            self._append()
            if self.refused.total() == before:
                return
        raise AssertionError(f"writing does not resume: {self.refused}")

    def _append(self) -> None:
        assert self._client.write("shared", "append", self._client.texts(64)), self.served.end_of_errors()

    def reads(self) -> None:
        """Every page that was acknowledged can be read."""
        n = self.known.page_count("shared")
        for pgid in range(0, n, 64):
            count = min(64, n - pgid)
            reply = self.served.do(client="0", do="read", file="shared", pgid=pgid, n=count)
            self.known.check_read("shared", pgid, reply["pages"])

    def kill_and_check(self) -> None:
        self.served.kill()
        again = ServedProcess(self.directory, self.options)
        assert again.ready.get("ready"), again.ready
        self.known.check(found_in(again))
        again.stop()

    def raise_limit(self, which: int, limit: int) -> None:
        """Another limit for the process, while it runs."""
        hard = resource.prlimit(self.served.process.pid, which)[1]
        resource.prlimit(self.served.process.pid, which, (limit, hard))


def limited(**limits: int) -> list[str]:
    """What a command line begins with so that the process has these soft limits (`prlimit --fsize`, `--nofile`)."""
    refused = run(["prlimit", "--version"])
    if refused is not None:
        skip(f"a process cannot be started under limits: {refused}")
    return ["prlimit", *(f"--{name}={limit}:" for name, limit in limits.items())]


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    started: list[Writer] = []
    yield started
    for writer in started:
        writer.served.kill()


# ---------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize(
    "wal",
    [{}, {"compress": True}, {"sync_method": "O_DSYNC"}, {"batch_requests": 1}, {"checkpoint_bytes": 2 << 20}],
    ids=lambda wal: "-".join(f"{name}={value}" for name, value in wal.items()) or "as-usual",
)
def test_a_full_disk_refuses_writes_serves_reads_and_writing_resumes_when_there_is_room(
    wal: dict[str, Any], writers: list[Writer]
) -> None:
    with small_disk("4m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        writer = Writer(disk / "data", options(**wal))
        writers.append(writer)
        writer.steps(20)
        writer.until_refused("NoSpace")
        writer.steps(12)
        writer.reads()
        ballast.unlink()
        writer.until_not_refused()
        writer.steps(10)
        writer.reads()
        assert set(writer.refused) == {"NoSpace"}
        writer.kill_and_check()


def test_a_disk_that_is_full_when_the_process_is_killed_is_recovered(writers: list[Writer]) -> None:
    with small_disk("3m") as disk:
        writer = Writer(disk / "data", options())
        writers.append(writer)
        writer.until_refused("NoSpace")
        writer.served.kill()
        full = ServedProcess(disk / "data", options())
        if "error" in full.ready:
            assert full.ready["error"] == "NoSpace"
            full.end()
        else:
            writer.known.check(found_in(full))
            full.kill()
        assert run(["mount", "-o", "remount,size=8m", str(disk)]) is None
        writer.kill_and_check()


def test_a_disk_that_is_filled_and_freed_again_and_again_loses_nothing(writers: list[Writer]) -> None:
    with small_disk("4m") as disk:
        writer = Writer(disk / "data", options())
        writers.append(writer)
        for number in range(4):
            ballast = disk / f"ballast {number}"
            with ballast.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(64 * KIB))
                        file.flush()
                except OSError:
                    pass
            writer.refused.clear()
            writer.until_refused("NoSpace")
            writer.reads()
            try:
                ballast.unlink()
            finally:
                writer.until_not_refused()
        writer.kill_and_check()


# ---------------------------------------------------------------------------------------------- files of limited size


@pytest.mark.parametrize("limit", [100 * KIB, 128 * KIB + 100])
def test_a_page_file_at_the_largest_size_that_the_process_may_write_is_no_space(
    limit: int, tmp_path: Path, writers: list[Writer]
) -> None:
    writer = Writer(tmp_path / "data", options(), before=limited(fsize=limit))
    writers.append(writer)
    writer.until_refused("NoSpace")
    writer.steps(8)
    writer.reads()
    writer.raise_limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    writer.until_not_refused()
    writer.reads()
    assert set(writer.refused) == {"NoSpace"}
    writer.kill_and_check()


def test_a_limit_below_the_size_of_a_log_segment_is_no_space_at_the_start(tmp_path: Path) -> None:
    refused = ServedProcess(tmp_path / "data", options(), before=limited(fsize=40 * KIB))
    assert refused.ready["error"] == "NoSpace"
    assert "EFBIG" in refused.ready["message"]
    assert refused.end() == 1
    served = ServedProcess(tmp_path / "data", options())
    assert served.ready["ready"]
    served.stop()


# ---------------------------------------------------------------------------------------------- few descriptors


@pytest.mark.parametrize("descriptors", [None, 2, 1000])
def test_24_descriptors_are_enough_for_40_page_files(
    descriptors: int | None, tmp_path: Path, writers: list[Writer]
) -> None:
    few = options() | {"descriptors": descriptors, "buffer_bytes": 0}
    writer = Writer(tmp_path / "data", few, before=limited(nofile=24))
    writers.append(writer)
    names = [f"file {number}" for number in range(40)]
    for name in names:
        writer.served.do(client="0", do="open", file=name, page_size=PAGE_SIZE)
        writer.served.do(client="0", do="append", file=name, pages=[name, "second"])
    writer.steps(50)
    writer.served.do(client="0", do="checkpoint")
    for name in names:
        assert writer.served.do(client="0", do="read", file=name, pgid=0, n=2)["pages"] == [name, "second"]
    assert not writer.refused
    writer.kill_and_check()


@pytest.mark.parametrize("left", [0, 1, 3])
def test_descriptors_that_are_taken_away_cost_time_or_busy_and_nothing_else(
    left: int, tmp_path: Path, writers: list[Writer]
) -> None:
    writer = Writer(tmp_path / "data", options() | {"descriptors": 4, "buffer_bytes": 0})
    writers.append(writer)
    writer.steps(20)
    in_use = max(int(path.name) for path in Path(f"/proc/{writer.served.process.pid}/fd").iterdir()) + 1
    writer.raise_limit(resource.RLIMIT_NOFILE, in_use + left)
    working = threading.Thread(target=writer.steps, args=(60,))
    working.start()
    working.join(1)
    writer.raise_limit(resource.RLIMIT_NOFILE, 1000)
    working.join()
    assert set(writer.refused) <= {"Busy"}
    writer.until_not_refused()
    writer.reads()
    writer.kill_and_check()
