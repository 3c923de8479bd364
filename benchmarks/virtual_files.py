"""Virtual files: what it costs to have 2,000 files open over 128 descriptors, and what many clients do to it.

Three questions, each beside what one would write without this layer:

* Random reads of many files over few descriptors by one thread: beside a dictionary of descriptors in
  least-recently-used order, opening and closing for each read, and (where the system allows it) all files open.  With
  a warm kernel, opening each time beats any cache of descriptors on uniform picks; it is there for honesty.
* More clients than slots: the rate must not collapse.
* Reads that the disk must serve, by 16 clients and by one: waiting for the disk must overlap as it does for bare
  threads.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from benchmarks.harness import Case, CaseSet, Measurement, Options
from pfs.files.posix import PosixFileSystem
from pfs.files.replacement import ReplacementName
from pfs.files.virtual_file import VirtualFile, VirtualFilePool

PAGE = 8192
PAGES = 16
SLOTS = 128
CLIENT_SLOTS = 16
CLIENT_FILES = 200
COLD_CLIENTS = 16
SEED = 20240613

Pick = tuple[int, int]
"""A file's number and a byte position in it."""


@contextmanager
def many_files(number: int) -> Iterator[Path]:
    """A directory of files of 16 pages, written to the disk."""
    with tempfile.TemporaryDirectory(prefix="pfs-bench-") as name:
        root = Path(name)
        content = os.urandom(PAGE * PAGES)
        for file in range(number):
            (root / f"f{file}").write_bytes(content)
        os.sync()
        yield root


def picks(files: int, number: int, skewed: bool) -> list[Pick]:
    """Random pages; skewed: four of five in one file of five."""
    rng = random.Random(SEED)
    hot = files // 5
    found = []
    for _ in range(number):
        if not skewed:
            file = rng.randrange(files)
        elif rng.random() < 0.8:
            file = rng.randrange(hot)
        else:
            file = rng.randrange(hot, files)
        found.append((file, rng.randrange(PAGES) * PAGE))
    return found


# ---------------------------------------------------------------------------------------------- one thread, many files


def repeat(read: Callable[[Sequence[Pick]], None], chosen: Sequence[Pick]) -> Callable[[float], float]:
    """Reads a second, going through the picks again and again, a thousand at a time."""

    def measure(seconds: float) -> float:
        begin = time.perf_counter()
        done = 0
        while (now := time.perf_counter()) - begin < seconds or not done:
            start = done % len(chosen)
            part = chosen[start : start + 1000]
            read(part)
            done += len(part)
        return done / (now - begin)

    return measure


def dictionary_of_descriptors(paths: Sequence[str]) -> Callable[[Sequence[Pick]], None]:
    descriptors: OrderedDict[int, int] = OrderedDict()

    def read(chosen: Sequence[Pick]) -> None:
        for file, offset in chosen:
            descriptor = descriptors.get(file)
            if descriptor is None:
                if len(descriptors) >= SLOTS:
                    os.close(descriptors.popitem(last=False)[1])
                descriptor = descriptors[file] = os.open(paths[file], os.O_RDONLY | os.O_CLOEXEC)
            else:
                descriptors.move_to_end(file)
            os.pread(descriptor, PAGE, offset)

    return read


def open_each_time(paths: Sequence[str]) -> Callable[[Sequence[Pick]], None]:
    def read(chosen: Sequence[Pick]) -> None:
        for file, offset in chosen:
            descriptor = os.open(paths[file], os.O_RDONLY | os.O_CLOEXEC)
            os.pread(descriptor, PAGE, offset)
            os.close(descriptor)

    return read


def all_open(descriptors: Sequence[int]) -> Callable[[Sequence[Pick]], None]:
    def read(chosen: Sequence[Pick]) -> None:
        for file, offset in chosen:
            os.pread(descriptors[file], PAGE, offset)

    return read


def virtual_files(files: Sequence[VirtualFile]) -> Callable[[Sequence[Pick]], None]:
    buffer = bytearray(PAGE)

    def read(chosen: Sequence[Pick]) -> None:
        for file, offset in chosen:
            files[file].read_at(buffer, offset)

    return read


@contextmanager
def opened_pool(
    root: Path, slots: int, files: int, replacement: ReplacementName = "clock"
) -> Iterator[list[VirtualFile]]:
    fs = PosixFileSystem(root)
    with VirtualFilePool(fs, slots=slots, clock=time.perf_counter, engine="psync", replacement=replacement) as pool:
        yield [pool.open(f"f{file}") for file in range(files)]


def few_descriptors(skewed: bool) -> Callable[[Options], Iterator[list[Case]]]:
    def open_cases(options: Options) -> Iterator[list[Case]]:
        files = 300 if options.quick else 2000
        chosen = picks(files, 1000 if options.quick else 50_000, skewed)
        with (
            many_files(files) as root,
            opened_pool(root, SLOTS, files, "clock") as by_clock,
            opened_pool(root, SLOTS, files, "lru") as by_recency,
        ):
            paths = [str(root / f"f{file}") for file in range(files)]
            descriptors = [os.open(path, os.O_RDONLY) for path in paths]
            try:
                yield [
                    Case("dictionary of descriptors, LRU", repeat(dictionary_of_descriptors(paths), chosen)),
                    Case("open, read, close", repeat(open_each_time(paths), chosen)),
                    Case("all files open", repeat(all_open(descriptors), chosen)),
                    Case("virtual files, clock sweep", repeat(virtual_files(by_clock), chosen), must=0.6, goal=0.8),
                    Case("virtual files, LRU", repeat(virtual_files(by_recency), chosen)),
                ]
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    return open_cases


# ---------------------------------------------------------------------------------------------- many clients


def run_clients(number: int, work: Callable[[int, threading.Event], int], seconds: float) -> float:
    """Reads a second of so many threads; `work` gets the client's number and returns how often it read."""
    stop = threading.Event()
    ready = threading.Barrier(number + 1)
    counts = [0] * number

    def client(place: int) -> None:
        ready.wait()
        counts[place] = work(place, stop)

    threads = [threading.Thread(target=client, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def clients_over_slots(
    root: Path, clients: int, pattern: Literal["own file", "random files"]
) -> Callable[[float], Measurement]:
    """Many threads over 16 slots: each with a file of its own, or all over 200 files."""

    def measure(seconds: float) -> Measurement:
        with opened_pool(root, CLIENT_SLOTS, CLIENT_FILES) as files:
            counts: list[int] = []

            def work(place: int, stop: threading.Event) -> int:
                rng = random.Random(place)
                buffer = bytearray(PAGE)
                done = 0
                while not stop.is_set():
                    file = files[place] if pattern == "own file" else files[rng.randrange(CLIENT_FILES)]
                    file.read_at(buffer, rng.randrange(PAGES) * PAGE)
                    done += 1
                counts.append(done)
                return done

            value = run_clients(clients, work, seconds)
            return Measurement(value, {"fewest reads of a client": min(counts), "most": max(counts)})

    return measure


@contextmanager
def more_clients_than_slots(_options: Options) -> Iterator[list[Case]]:
    with many_files(CLIENT_FILES) as root:
        yield [
            Case("8 clients, random files", clients_over_slots(root, 8, "random files")),
            Case("64 clients, random files", clients_over_slots(root, 64, "random files"), must=0.5),
        ]


@contextmanager
def more_files_than_slots(_options: Options) -> Iterator[list[Case]]:
    with many_files(CLIENT_FILES) as root:
        yield [
            Case("8 clients, each its file", clients_over_slots(root, 8, "own file")),
            Case("64 clients, each its file", clients_over_slots(root, 64, "own file"), must=0.5),
        ]


# ---------------------------------------------------------------------------------------------- cold reads


def cold_ratio(
    root: Path, files: int, reader: Callable[[int, bytearray, int], object]
) -> Callable[[float], Measurement]:
    """How many times as fast 16 clients read what is not in the page cache as one does."""

    def forget() -> None:
        for file in range(files):
            descriptor = os.open(root / f"f{file}", os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def reads_a_second(clients: int) -> float:
        forget()
        # Every page once, dealt out to the clients in an order that no read-ahead guesses.
        pages = [(file, page * PAGE) for file in range(files) for page in range(PAGES)]
        random.Random(SEED).shuffle(pages)

        def work(place: int, stop: threading.Event) -> int:
            buffer = bytearray(PAGE)
            mine = pages[place::clients]
            for file, offset in mine:
                reader(file, buffer, offset)
            return len(mine)

        return run_clients(clients, work, 0)

    def measure(_seconds: float) -> Measurement:
        one, many = reads_a_second(1), reads_a_second(COLD_CLIENTS)
        return Measurement(many / one, {"reads/s, 1 client": one, "reads/s, 16 clients": many})

    return measure


@contextmanager
def cold_reads(options: Options) -> Iterator[list[Case]]:
    files = 8 if options.quick else 64
    with many_files(files) as root, opened_pool(root, files, files) as virtual:
        descriptors = [os.open(root / f"f{file}", os.O_RDONLY) for file in range(files)]
        for descriptor, file in zip(descriptors, virtual, strict=True):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            file.advise(0, 0, os.POSIX_FADV_RANDOM)

        def raw(file: int, buffer: bytearray, offset: int) -> int:
            return os.preadv(descriptors[file], (buffer,), offset)

        def through_virtual_files(file: int, buffer: bytearray, offset: int) -> int:
            return virtual[file].read_at(buffer, offset)

        try:
            yield [
                Case("bare threads", cold_ratio(root, files, raw)),
                Case("virtual files", cold_ratio(root, files, through_virtual_files), must=0.6),
            ]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


DICTIONARY = "dictionary of descriptors, LRU"
SETS = [
    CaseSet(
        "files-uniform",
        "2,000 files over 128 descriptors, uniform random reads",
        contextmanager(few_descriptors(skewed=False)),
        unit="reads/s",
        reference=DICTIONARY,
    ),
    CaseSet(
        "files-skewed",
        "2,000 files over 128 descriptors, 80 % of the reads in 20 % of the files",
        contextmanager(few_descriptors(skewed=True)),
        unit="reads/s",
        reference=DICTIONARY,
    ),
    CaseSet(
        "clients-random",
        "Clients over 16 slots, all over 200 files",
        more_clients_than_slots,
        unit="reads/s",
        reference="8 clients, random files",
        pinned=False,
    ),
    CaseSet(
        "clients-own",
        "Clients over 16 slots, each with a file of its own",
        more_files_than_slots,
        unit="reads/s",
        reference="8 clients, each its file",
        pinned=False,
    ),
    CaseSet(
        "cold-reads",
        "Reads from the disk: rate of 16 clients over rate of one",
        cold_reads,
        unit="times",
        reference="bare threads",
        pinned=False,
    ),
]
