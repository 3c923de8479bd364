"""How long a start takes: after a crash, by the size of the log; and after an orderly stop, with many files."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pfs
from benchmarks.commits import IMAGES, PAGE_SIZE, PAGES, STRIDE
from benchmarks.harness import Case, CaseSet, Measurement, Options
from pfs.wal.shared_log import WalOptions

MIB = 1 << 20
TRANSACTION = 16
"""Pages in each write that is recovered."""

FILES = 1000


def crashed(directory: Path, image: Path, log_bytes: int) -> int:
    """Make an image of a directory whose log holds about so many bytes since its last checkpoint; the bytes it holds.

    A copy made while nothing is written is what a crash of the process would leave.
    """
    wal = WalOptions(checkpoint_bytes=1 << 40, checkpoint_seconds=1e9, most_bytes=1 << 40)
    with pfs.System(directory, pfs.SystemOptions(wal=wal)) as system:
        file = system.open("pages", page_size=PAGE_SIZE)
        for _ in range(0, PAGES, 256):
            file.append([IMAGES[0]] * 256)
        system.checkpoint()
        number = 0
        while (log := system.stats()["wal"])["inserted"] - log["redo"] < log_bytes:
            number += 1
            first = number * STRIDE % (PAGES - TRANSACTION)
            pages = [IMAGES[(number + page) % len(IMAGES)] for page in range(TRANSACTION)]
            file.write(first, pages, durability="memory")
        file.sync()
        shutil.copytree(directory, image)
        return int(log["inserted"] - log["redo"])


def copy_durably(source: Path, target: Path) -> None:
    """A copy that no later sync has to write out."""
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def recovering(image: Path, log_bytes: int) -> Callable[[float], Measurement]:
    def measure(_seconds: float) -> Measurement:
        directory = image.with_name("copy")
        copy_durably(image, directory)
        begin = time.perf_counter()
        with pfs.System(directory) as system:
            seconds = time.perf_counter() - begin
            if not system.stats()["wal"]["replayed_transactions"]:
                raise AssertionError("nothing was recovered")
        shutil.rmtree(directory)
        return Measurement(log_bytes / MIB / seconds, {"s": seconds, "MiB of log": log_bytes / MIB})

    return measure


@contextmanager
def recoveries(options: Options) -> Iterator[list[Case]]:
    sizes = (4, 16) if options.quick else (64, 256)
    with tempfile.TemporaryDirectory(prefix="pfs-bench-") as root:
        cases = []
        for size in sizes:
            place = Path(root) / str(size)
            place.mkdir()
            held = crashed(place / "data", place / "image", size * MIB)
            shutil.rmtree(place / "data")
            cases.append(Case(f"{size} MiB of log", recovering(place / "image", held), 100, 400, target="value"))
        yield cases


@contextmanager
def starts(options: Options) -> Iterator[list[Case]]:
    count = 20 if options.quick else FILES
    with tempfile.TemporaryDirectory(prefix="pfs-bench-") as root:
        names = [f"file-{number}" for number in range(count)]
        with pfs.System(root) as system:
            for name in names:
                system.open(name).append([IMAGES[0]])

        def start(opened: int) -> Callable[[float], float]:
            def measure(_seconds: float) -> float:
                begin = time.perf_counter()
                with pfs.System(root) as system:
                    for name in names[:opened]:
                        system.open(name)
                    seconds = time.perf_counter() - begin
                    if system.names() != sorted(names):
                        raise AssertionError("the files are not those that were made")
                return seconds

            return measure

        yield [
            Case("started", start(0), 2.0, 0.5, target="value"),
            Case("started and all opened", start(count), 2.0, 0.5, target="value"),
        ]


SETS = [
    CaseSet(
        "recovery",
        "Recovery after a crash: log since the checkpoint read and done again",
        recoveries,
        unit="MiB/s",
        note=f"Writes of {TRANSACTION} pages of {PAGE_SIZE} bytes; everything is in the kernel's page cache; the time "
        "is that of `System(directory)`.",
    ),
    CaseSet(
        "start",
        "Start after an orderly stop, with 1,000 page files",
        starts,
        unit="s",
        higher_is_better=False,
        note="One page each.",
    ),
]
