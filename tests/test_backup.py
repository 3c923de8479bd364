"""Backups: copies made while others write are what a crash could have left; anything else is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

import pfs
from pfs.actors.requests import ServerOptions
from pfs.backup import backup, backup_directory
from pfs.check import check
from pfs.errors import (
    BackupUnfinished,
    Busy,
    CallInHandler,
    CatalogDamaged,
    ControlFileDamaged,
    DirectoryLocked,
    FileExists,
    FileMissing,
    InvalidRequest,
    NoSpace,
    PfsError,
    SlotLost,
    SystemStopped,
    WalDamaged,
    WalSegmentMissing,
)
from pfs.files.posix import PosixFileSystem
from pfs.page_file import PageFile
from pfs.system import System, SystemOptions
from pfs.testing.file_system import CrashPolicy, Fault, Operation, SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.testing.server import fill, text_of
from pfs.wal.bodies import Create
from pfs.wal.control_file import RECOVERING, ControlFile
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.recovery import Progress, start_log
from pfs.wal.shared_log import WalOptions
from pfs.wal.sidecar import locate
from pfs.wal.slots import SlotFiles
from tests.process.known import Kind, Known
from tests.server.harness import start
from tests.wal.logs import Recorder, flush

PAGE_SIZE = 512
POLICIES: tuple[CrashPolicy, ...] = ("none", "subset", "all")
SEEDS = range(int(os.environ.get("PFS_BACKUP_SEEDS", "8")))
OPTIONS = SystemOptions(
    buffer_bytes=16 << 10,
    dirty_bytes=8 << 10,
    segment_bytes=8 << 10,
    call_timeout=1e12,
    wal=WalOptions(segment_bytes=16 << 10, most_bytes=256 << 10, checkpoint_bytes=32 << 10, checkpoint_seconds=1e12),
)


def read_all(system: System, name: str) -> list[str]:
    file = system.open(name, page_size=PAGE_SIZE)
    return [text_of(page) for page in file.read(0, file.page_count)] if file.page_count else []


def opened(disk: SimulatedFileSystem, options: SystemOptions = OPTIONS) -> System:
    return start(disk, SimulatedScheduler(1), options)


# ------------------------------------------------------------------------------------------ while others write


class Writers:
    """Processes of a simulation that append, overwrite, truncate, and change names."""

    FILES: dict[str, Kind] = {"shared": "shared", "private 0": "private", "private 1": "private"}

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.scheduler = SimulatedScheduler(seed)
        self.disk = SimulatedFileSystem(keep_journal=False)
        bulk_bytes = self.random.choice((4 * PAGE_SIZE, 8 << 20))
        options = msgspec.structs.replace(OPTIONS, server=ServerOptions(bulk_bytes=bulk_bytes))
        self.system = start(self.disk, self.scheduler, options)
        self.known = Known(self.FILES)
        self.serial = 0

    def write(self, name: str, steps: int, random: Random) -> None:
        for _ in range(steps):
            count = self.known.page_count(name) if name != "shared" else 0
            dice = random.random()
            n = random.choice((1, 3, 12))
            durability = random.choice(("wal", "wal", "memory"))
            if count > 20 and dice < 0.15:
                request = self.known.begin(name, "truncate", n=random.randrange(count))
                self.open(name).truncate(request.n)
                self.known.end(request, {})
            elif count and dice < 0.5:
                pgid = random.randrange(count)
                self.send(name, "write", self.texts(name, min(n, count - pgid)), durability, pgid)
            else:
                self.send(name, "append", self.texts(name, n), durability)

    def change_names(self, steps: int, random: Random) -> None:
        """Make, rename and drop files, and tell of each change in "shared" when it is acknowledged."""
        for _ in range(steps):
            [name] = self.texts("made", 1)
            self.open(name).append([fill(name, PAGE_SIZE)])
            self.send("shared", "append", [name])
            if random.random() < 0.6:
                self.system.rename(name, f"renamed {name}")
                self.send("shared", "append", [f"renamed {name}"])
                if random.random() < 0.5:
                    self.system.drop(f"renamed {name}")
                    self.send("shared", "append", [f"dropped {name}"])

    def open(self, name: str) -> PageFile:
        return self.system.open(name, page_size=PAGE_SIZE)

    def texts(self, name: str, n: int) -> list[str]:
        self.serial += 1
        return [f"{name}.{self.serial}.{index}" for index in range(n)]

    def send(self, name: str, do: str, texts: list[str], durability: Any = "wal", pgid: int | None = None) -> None:
        request = self.known.begin(name, do, texts, pgid=pgid, durable=durability == "wal")
        pages = [fill(text, PAGE_SIZE) for text in texts]
        if pgid is None:
            pgid = self.open(name).append(pages, durability=durability)
        else:
            self.open(name).write(pgid, pages, durability=durability)
        self.known.end(request, {"pgid": pgid})

    def spawn(self, steps: int, files: int) -> list[Callable[[], bool]]:
        tasks = [partial(self.change_names, files, Random(self.random.random()))]
        tasks += [partial(self.write, name, steps, Random(self.random.random())) for name in self.FILES]
        return [self.scheduler.spawn(task) for task in tasks]


@pytest.mark.parametrize("number", SEEDS)
def test_a_copy_made_while_others_write_has_what_was_acknowledged_before_it(seed: int, number: int) -> None:
    seed += number
    print(f"replay: PFS_SEED={seed} (the first of {len(SEEDS)})")
    writers = Writers(seed)
    writers.scheduler.run(until=all_of(writers.spawn(6, 2)))
    copies: list[tuple[SimulatedFileSystem, Known]] = []

    def make_copies() -> None:
        for _ in range(2):
            copy = SimulatedFileSystem(keep_journal=False, on_operation=writers.scheduler.file_call)
            begun = writers.known.now()
            writers.system.backup(copy)
            copies.append((copy, writers.known.as_of(begun, synced=True)))

    checkpoints = writers.system.stats()["wal"]["checkpoints"]
    files = writers.random.choice((0, 15))
    writers.scheduler.run(until=all_of([*writers.spawn(40, files), writers.scheduler.spawn(make_copies)]))
    assert writers.system.stats()["wal"]["checkpoints"] > checkpoints
    assert writers.system.slots() == []
    writers.system.stop()
    assert len(copies) == 2
    for copy, known in copies:
        whole(copy)
        with opened(copy) as restored:
            found = {name: read_all(restored, name) for name in Writers.FILES}
            known.check(found)
            check_names(restored, found["shared"])
        assert not copy.open_descriptors
        whole(copy)
        with opened(copy) as restored:
            assert restored.stats()["wal"]["replayed_transactions"] == 0


def check_names(restored: System, told: list[str]) -> None:
    """A file has the name that it had last, or one that it got since and nothing in the copy tells of."""
    names = restored.names()
    for made in [text for text in told if text.startswith("made")]:
        there = [name for name in names if name.endswith(made)]
        if f"dropped {made}" in told:
            assert there == []
        elif f"renamed {made}" in told:
            assert there in ([], [f"renamed {made}"])
        else:
            assert there in ([made], [f"renamed {made}"])
        for name in there:
            assert read_all(restored, name) == [made]


def whole(disk: SimulatedFileSystem) -> None:
    """`pfs check` finds nothing wrong."""
    quiet(disk)
    report = check(disk, segment_bytes=OPTIONS.segment_bytes)
    assert not report.damaged, report.findings


def all_of(ended: list[Callable[[], bool]]) -> Callable[[], bool]:
    return lambda: all(each() for each in ended)


# ------------------------------------------------------------------------------------------ what a copy is


def stopped(pages: int = 40) -> SimulatedFileSystem:
    """A disk with the page file "f", after an orderly stop."""
    disk = SimulatedFileSystem(keep_journal=False)
    with opened(disk) as system:
        system.open("f", page_size=PAGE_SIZE).append([fill(f"{number}", PAGE_SIZE) for number in range(pages)])
    return quiet(disk)


def crashed(pages: int = 40) -> SimulatedFileSystem:
    """The same, after a crash that left everything in the log."""
    disk = SimulatedFileSystem(keep_journal=False)
    with opened(disk) as system:
        system.open("f", page_size=PAGE_SIZE).append([fill(f"{number}", PAGE_SIZE) for number in range(pages)])
        return quiet(disk.crash_image("all", Random(1)))


def quiet(disk: SimulatedFileSystem) -> SimulatedFileSystem:
    disk.on_operation = None
    return disk


def pages_of(disk: SimulatedFileSystem, name: str = "f") -> list[str]:
    with opened(disk) as system:
        return read_all(system, name)


NUMBERS = [f"{number}" for number in range(40)]


def test_a_stopped_directory_is_copied_and_nothing_is_replayed() -> None:
    copy = SimulatedFileSystem()
    told: list[Progress] = []
    report = backup(stopped(), copy, told.append)
    with opened(quiet(copy)) as restored:
        assert restored.stats()["wal"]["replayed_transactions"] == 0
        assert read_all(restored, "f") == NUMBERS
    assert report.files >= 3
    assert report.end_lsn > report.redo_lsn
    assert [each.phase for each in told if each.done == each.total] == ["copying page files", "copying the WAL"]
    assert told[-1].total == report.end_lsn - report.redo_lsn // (16 << 10) * (16 << 10)
    assert sum(len(content) for content in copy.durable_files.values()) >= report.bytes


def test_a_directory_that_a_crash_left_is_copied_as_it_is() -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    backup(disk, copy)
    with opened(copy) as restored:
        assert restored.stats()["wal"]["replayed_transactions"] > 0
        assert read_all(restored, "f") == NUMBERS
    assert pages_of(disk) == NUMBERS
    assert not disk.open_descriptors


def test_a_log_that_goes_on_in_an_empty_segment_is_copied_with_that_segment() -> None:
    disk, copy = SimulatedFileSystem(keep_journal=False), SimulatedFileSystem()
    with opened(disk) as system:
        file = system.open("f", page_size=PAGE_SIZE)
        file.append([fill(f"{number}", PAGE_SIZE) for number in range(40)])
        system._storage.log.buffer.switch_segment()
        file.sync()
        crashed = quiet(disk.crash_image("all", Random(1)))
    backup(crashed, copy)
    assert pages_of(copy) == pages_of(crashed) == NUMBERS


def test_slots_are_not_copied() -> None:
    disk, copy = stopped(), SimulatedFileSystem()
    SlotFiles(disk).create("node")
    SlotFiles(disk).create("backup-1")
    backup(disk, copy)
    assert [slot.name for slot in SlotFiles(disk).all()] == ["backup-1", "node"]
    assert SlotFiles(copy).all() == []


def test_an_empty_directory_of_page_files_is_copied() -> None:
    disk, copy = SimulatedFileSystem(), SimulatedFileSystem()
    opened(disk).stop()
    backup(quiet(disk), copy)
    with opened(copy) as restored:
        assert restored.names() == []


def test_a_torn_tail_is_not_copied() -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    end = backup(disk, SimulatedFileSystem()).end_lsn
    segment, offset = divmod(end, 16 << 10)
    overwrite(disk, f"pfs_wal/{1:08X}{0:08X}{segment:08X}", b"torn", offset)
    assert backup(disk, copy).end_lsn == end
    with opened(copy) as restored:
        assert restored._storage.started.torn_bytes == 0


def overwrite(disk: SimulatedFileSystem, path: str, data: bytes, offset: int) -> None:
    descriptor = disk.open(path, os.O_RDWR | os.O_CREAT)
    disk.pwritev(descriptor, [data], offset)
    disk.close(descriptor)


# ------------------------------------------------------------------------------------------ meanwhile


def during(disk: SimulatedFileSystem, name: str, path: str, deed: Callable[[], None], times: int = 1) -> None:
    """Do something before the first operations of this name on this path."""
    left = [times]

    def look(operation: Operation) -> None:
        if left[0] and (operation.name, operation.path) == (name, path):
            left[0] -= 1
            disk.on_operation = None
            deed()
            disk.on_operation = look

    disk.on_operation = look


@pytest.mark.parametrize("moment", ["pfs_control", "pfs.catalog", "base/5/16384", "base/5/16385"])
@pytest.mark.parametrize("changed", ["dropped", "renamed", "made", "longer", "shorter"])
def test_what_happens_to_page_files_meanwhile_is_in_the_copy_or_not(moment: str, changed: str) -> None:
    disk, copy = SimulatedFileSystem(keep_journal=False), SimulatedFileSystem()
    scheduler = SimulatedScheduler(1)
    system = start(disk, scheduler, OPTIONS)
    for name in ("f", "g"):
        system.open(name, page_size=PAGE_SIZE).append([fill(text, PAGE_SIZE) for text in NUMBERS])
    system.checkpoint()
    deeds: dict[str, Callable[[], object]] = {
        "dropped": lambda: system.drop("f"),
        "renamed": lambda: system.rename("f", "h"),
        "made": lambda: system.open("h", page_size=PAGE_SIZE).append([fill("h", PAGE_SIZE)]),
        "longer": lambda: system.open("f").append([fill(text, PAGE_SIZE) for text in NUMBERS]),
        "shorter": lambda: (system.open("f").truncate(16), system.checkpoint()),
    }

    def change() -> None:
        disk.on_operation = scheduler.file_call
        deeds[changed]()
        system.checkpoint()

    during(disk, "open", moment, change)
    backup(disk, copy)
    quiet(disk)
    disk.on_operation = scheduler.file_call
    system.stop()
    with opened(copy) as restored:
        names = restored.names()
        assert names in (["f", "g"], {"dropped": ["g"], "renamed": ["g", "h"], "made": ["f", "g", "h"]}.get(changed))
        assert read_all(restored, "g") == NUMBERS
        if "f" in names:
            after = {"longer": NUMBERS * 2, "shorter": NUMBERS[:16]}.get(changed, NUMBERS)
            assert read_all(restored, "f") in (NUMBERS, after)
        if "h" in names:
            assert read_all(restored, "h") == (NUMBERS if changed == "renamed" else ["h"])


def test_a_log_that_grows_while_its_end_is_looked_for_is_no_damage() -> None:
    disk, copy = SimulatedFileSystem(keep_journal=False), SimulatedFileSystem()
    scheduler = SimulatedScheduler(1)
    system = start(disk, scheduler, OPTIONS)
    file = system.open("f", page_size=PAGE_SIZE)
    file.append([fill("0", PAGE_SIZE)])
    segment = f"pfs_wal/{1:08X}{0:08X}{1:08X}"

    def append() -> None:
        disk.on_operation = scheduler.file_call
        for number in (1, 2, 3):
            file.append([fill(f"{number}", PAGE_SIZE)])

    reads = [0]

    def look(operation: Operation) -> None:
        if (operation.name, operation.path) == ("open", segment):
            reads[0] += 1
            if reads[0] == 2:  # the log was read, and what is behind its end is looked at
                append()
                disk.on_operation = None

    disk.on_operation = look
    backup(disk, copy)
    disk.on_operation = scheduler.file_call
    system.stop()
    assert pages_of(copy) == ["0", "1", "2", "3"]


def test_segments_that_are_made_while_the_log_is_read_are_found() -> None:
    disk, copy = SimulatedFileSystem(keep_journal=False), SimulatedFileSystem()
    scheduler = SimulatedScheduler(1)
    system = start(disk, scheduler, OPTIONS)
    file = system.open("f", page_size=PAGE_SIZE)

    def append() -> None:  # the names of the segments were listed just now
        last = system._storage.started.files.end_of_segments()
        disk.on_operation = scheduler.file_call
        while system._storage.log.buffer.inserted < last:
            file.append([fill("x", PAGE_SIZE)])

    during(disk, "open", f"pfs_wal/{1:08X}{0:08X}{1:08X}", append)
    backup(disk, copy)
    disk.on_operation = scheduler.file_call
    pages = file.page_count
    system.stop()
    assert pages_of(copy) == ["x"] * pages


def test_a_directory_that_is_opened_anew_meanwhile_is_refused() -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    during(disk, "open", "base/5/16384", lambda: opened(disk).stop())
    with pytest.raises(Busy, match="opened anew"):
        backup(disk, copy)
    refused(copy)
    assert pages_of(disk) == NUMBERS


def test_a_directory_that_is_being_opened_is_refused() -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    control = ControlFile(disk)
    control.read()
    control.write(state=RECOVERING)
    control.close()
    with pytest.raises(Busy, match="being opened"):
        backup(disk, copy)
    assert copy.durable_files == {}
    assert SlotFiles(disk).all() == []


@pytest.mark.parametrize(
    "deed",
    [
        lambda slots: slots.lose(slots.get("backup-1"), 1 << 20),
        lambda slots: slots.drop("backup-1"),
        lambda slots: slots.advance("backup-1", slots.get("backup-1").lsn + 8),
    ],
)
def test_a_backup_whose_slot_is_lost_says_so(deed: Callable[[SlotFiles], object]) -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    during(disk, "open", "base/5/16384", lambda: deed(SlotFiles(disk)) and None)  # type: ignore[func-returns-value]
    with pytest.raises(SlotLost, match="backup-1"):
        backup(disk, copy)
    refused(copy)
    assert SlotFiles(disk).all() == []


def test_a_log_that_is_gone_with_its_slot_is_told_as_that() -> None:
    disk, copy = crashed(), SimulatedFileSystem()

    def lose() -> None:
        slots = SlotFiles(disk)
        slots.lose(slots.get("backup-1"), 1 << 20)
        disk.unlink(f"pfs_wal/{1:08X}{0:08X}{1:08X}")

    during(disk, "open", "base/5/16384", lose)
    with pytest.raises(SlotLost, match="slot_bytes"):
        backup(disk, copy)


# ------------------------------------------------------------------------------------------ bulk appends


class BulkLog:
    """The log of a directory whose system is played by the test, for appends without images."""

    def __init__(self, disk: SimulatedFileSystem) -> None:
        self.disk = disk
        self.log = start_log(disk, Recorder(), new_system_id=lambda: 1)
        self.log.buffer.limit = NO_LIMIT
        self.transaction = self.log.next_transaction

    def flush(self) -> None:
        flush(self.log)

    def bulk_append(self, file_id: int, pgid: int, n: int, mark: str, page_size: int = PAGE_SIZE) -> None:
        """Pages and sidecar blocks reach the disk, then the COMMIT."""
        per_segment = OPTIONS.segment_bytes // page_size
        for number in range(pgid, pgid + n):
            segment, block = divmod(number, per_segment)
            path = f"base/5/{file_id}" + (f".{segment}" if segment else "")
            overwrite(self.disk, path, fill(f"{mark} {number}", page_size), block * page_size)
        first, last = locate(pgid)[0], locate(pgid + n - 1)[0]
        for block in range(first, last + 1):
            overwrite(self.disk, f"base/5/{file_id}_sum", f"{mark} {block}".encode().ljust(512), block * 512)
        self.transaction += 1
        self.log.buffer.insert_commit(self.transaction, file_id, pgid, n, pgid + n, bulk=True)
        self.log.buffer.settle(self.transaction)
        self.flush()

    def close(self) -> None:
        self.log.files.close()
        self.log.control.close()


def texts_in(copy: SimulatedFileSystem, path: str) -> list[str]:
    content = copy.durable_files[path]
    return [text_of(content[at : at + PAGE_SIZE]) for at in range(0, len(content), PAGE_SIZE)]


def test_pages_of_a_bulk_append_are_copied_after_their_commit() -> None:
    disk, copy = stopped(4), SimulatedFileSystem()
    log = BulkLog(disk)
    control = f"pfs_wal/{1:08X}{0:08X}{1:08X}"
    during(disk, "open", control, lambda: log.bulk_append(16384, 4, 40, "bulk"))
    report = backup(disk, copy)
    log.close()
    assert texts_in(copy, "base/5/16384") == ["0", "1", "2", "3", *(f"bulk {number}" for number in range(4, 16))]
    assert texts_in(copy, "base/5/16384.1") == [f"bulk {number}" for number in range(16, 32)]
    assert texts_in(copy, "base/5/16384.2") == [f"bulk {number}" for number in range(32, 44)]
    assert b"bulk 0" in copy.durable_files["base/5/16384_sum"]
    assert b"bulk 1" in copy.durable_files["base/5/16384_sum"]
    assert report.bytes > 40 * PAGE_SIZE


def test_a_bulk_append_while_another_is_copied_is_copied_too() -> None:
    disk, copy = stopped(4), SimulatedFileSystem()
    log = BulkLog(disk)
    log.bulk_append(16384, 4, 2, "first")

    def second() -> None:
        log.bulk_append(16384, 6, 30, "second")

    opens = [0]

    def look(operation: Operation) -> None:
        if (operation.name, operation.path) == ("open", "base/5/16384"):
            opens[0] += 1
            if opens[0] == 2:  # it is copied once more, after the COMMIT was seen
                disk.on_operation = None
                second()

    disk.on_operation = look
    backup(disk, copy)
    log.close()
    texts = [f"second {number}" for number in range(6, 36)]
    assert texts_in(copy, "base/5/16384")[4:] == ["first 4", "first 5", *texts[:10]]
    assert texts_in(copy, "base/5/16384.1") == texts[10:26]
    assert texts_in(copy, "base/5/16384.2") == texts[26:]


def test_bulk_appends_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, copy = stopped(4), SimulatedFileSystem()
    log = BulkLog(disk)
    pgids = iter(range(4, 1000, 2))
    monkeypatch.setattr("pfs.backup.MOST_ROUNDS", 5)

    def append() -> None:
        log.bulk_append(16384, next(pgids), 2, "more")

    during(disk, "open", "base/5/16384", append, times=100)
    with pytest.raises(Busy, match="5 rounds"):
        backup(disk, copy)
    log.close()
    refused(copy)


def test_segments_before_a_bulk_append_are_full_in_the_copy() -> None:
    """Recovery takes a relation to end with its first segment that is not full."""
    disk, copy = stopped(4), SimulatedFileSystem()
    log = BulkLog(disk)

    def append() -> None:
        for number in range(4, 16):
            overwrite(disk, "base/5/16384", fill(f"logged {number}", PAGE_SIZE), number * PAGE_SIZE)
        log.bulk_append(16384, 20, 3, "bulk")

    during(disk, "open", f"pfs_wal/{1:08X}{0:08X}{1:08X}", append)
    backup(disk, copy)
    log.close()
    assert len(texts_in(copy, "base/5/16384")) == 16
    assert texts_in(copy, "base/5/16384.1")[4:] == ["bulk 20", "bulk 21", "bulk 22"]


def test_a_bulk_append_to_a_file_that_was_dropped_or_cut_since_is_passed_over() -> None:
    disk, copy = stopped(4), SimulatedFileSystem()
    log = BulkLog(disk)

    def append() -> None:
        log.log.buffer.insert(Create(16400, 1024, "new"))
        log.bulk_append(16400, 0, 3, "new", 1024)
        log.bulk_append(16401, 0, 3, "dropped")
        log.bulk_append(16402, 0, 3, "unknown")
        log.bulk_append(16384, 4, 30, "cut")
        disk.unlink("base/5/16401")
        descriptor = disk.open("base/5/16384.1", os.O_RDWR)
        disk.ftruncate(descriptor, 0)
        disk.close(descriptor)

    during(disk, "open", f"pfs_wal/{1:08X}{0:08X}{1:08X}", append)
    backup(disk, copy)
    log.close()
    assert len(copy.durable_files["base/5/16400"]) == 3072
    assert "base/5/16401" not in copy.durable_files
    assert texts_in(copy, "base/5/16384")[4:] == [f"cut {number}" for number in range(4, 16)]


# ------------------------------------------------------------------------------------------ what fails


def refused(copy: SimulatedFileSystem) -> None:
    """Whoever opens it is told that it is not whole."""
    quiet(copy).faults.clear()
    copy.capacity = None
    before = copy.durable_files
    with pytest.raises(BackupUnfinished, match="remove it"):
        opened(copy)
    assert not copy.open_descriptors
    assert copy.durable_files == before


def test_a_backup_that_fails_at_any_operation_is_no_backup() -> None:
    disk = crashed(60)
    number = struck = 0
    while True:
        number += 1
        fault = Fault((errno.EIO, errno.ENOSPC, errno.EMFILE)[number % 3], at=number)
        copy = SimulatedFileSystem(faults=[fault], keep_journal=False)
        try:
            backup(disk, copy)
        except PfsError:
            assert not disk.open_descriptors
            assert not copy.open_descriptors
            assert SlotFiles(disk).all() == []
            copy.faults.clear()
            if len(copy.durable_files.get("pfs_control", b"")) == 8192:
                struck += 1
                try:
                    found = pages_of(copy)
                except BackupUnfinished:
                    continue
                assert found == [f"{each}" for each in range(60)], f"fault {number}"
            else:
                assert all(path in ("pfs.lock", "pfs_control") for path in copy.durable_files)
            continue
        struck_at_last = fault.struck
        quiet(copy).faults.clear()
        assert pages_of(copy) == [f"{each}" for each in range(60)], f"fault {number}"
        if not struck_at_last:  # else it did no harm, as one of `close`
            break
    assert struck > 30


def test_a_crash_at_any_operation_leaves_a_whole_backup_or_none(seed: int) -> None:
    disk = crashed(60)
    rng = Random(seed)
    images: list[SimulatedFileSystem] = []

    def crash(_: Operation) -> None:
        images.extend(quiet(copy.crash_image(policy, rng)) for policy in POLICIES)

    copy = SimulatedFileSystem(on_operation=crash, keep_journal=False)
    backup(disk, copy)
    whole = 0
    for image in [*images, copy.crash_image("none", rng)]:
        if set(image.durable_files) <= {"pfs.lock"}:
            continue
        try:
            found = pages_of(quiet(image))
        except (BackupUnfinished, ControlFileDamaged):
            continue
        if found or "base" in image.listdir(""):
            assert found == [f"{each}" for each in range(60)]
            whole += 1
    assert whole > 0
    assert len(images) > 100


def test_a_destination_that_is_full_is_no_backup() -> None:
    disk = crashed()
    for capacity in (0, 9000, 20_000, 40_000):
        copy = SimulatedFileSystem(capacity=capacity)
        with pytest.raises(NoSpace):
            backup(disk, copy)
        if capacity >= 9000:
            refused(copy)
    assert SlotFiles(disk).all() == []


def test_an_interrupt_leaves_no_slot_and_no_backup() -> None:
    disk, copy = crashed(), SimulatedFileSystem()

    def interrupt() -> None:
        raise KeyboardInterrupt

    during(disk, "open", "base/5/16384", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backup(disk, copy)
    assert SlotFiles(quiet(disk)).all() == []
    refused(copy)


def test_a_log_that_is_damaged_or_incomplete_is_not_copied() -> None:
    for damage, kind in ((b"\xff" * 64, WalDamaged), (None, WalSegmentMissing)):
        disk = crashed(200)
        path = f"pfs_wal/{1:08X}{0:08X}{3:08X}"
        if damage is None:
            disk.unlink(path)
        else:
            overwrite(disk, path, damage, 5000)
        copy = SimulatedFileSystem()
        with pytest.raises(kind):
            backup(disk, copy)
        refused(copy)
        assert SlotFiles(disk).all() == []


def test_a_damaged_catalog_is_not_copied() -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    overwrite(disk, "pfs.catalog", b"x", 5)
    with pytest.raises(CatalogDamaged):
        backup(disk, copy)
    refused(copy)


def test_a_copy_that_cannot_be_read_back_is_no_backup() -> None:
    disk, copy = crashed(), SimulatedFileSystem()
    segment = f"pfs_wal/{1:08X}{0:08X}{1:08X}"

    def spoil() -> None:
        overwrite(copy, segment, b"\xff", 300)

    opens = [0]

    def look(operation: Operation) -> None:
        if (operation.name, operation.path) == ("open", segment):
            opens[0] += 1
            if opens[0] == 2:  # to be read again
                copy.on_operation = None
                spoil()

    copy.on_operation = look
    with pytest.raises(WalDamaged):
        backup(disk, copy)
    refused(copy)


# ------------------------------------------------------------------------------------------ real directories


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with the page file "f"."""
    with System(tmp_path / "data") as system:
        system.open("f", page_size=PAGE_SIZE).append([fill(text, PAGE_SIZE) for text in NUMBERS])
    return tmp_path / "data"


def restored_pages(directory: Path) -> list[str]:
    with System(directory) as system:
        return read_all(system, "f")


@pytest.mark.parametrize("makes", [True, False])
def test_the_destination_is_made_or_is_empty(data: Path, tmp_path: Path, makes: bool) -> None:
    copy = tmp_path / "copy"
    if not makes:
        copy.mkdir()
    report = backup_directory(data, f"{copy}/" if makes else copy)
    assert report.bytes > 0
    assert restored_pages(copy) == restored_pages(data) == NUMBERS


def test_the_destination_may_be_where_one_is(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    backup_directory(data, ".")
    monkeypatch.chdir(tmp_path)
    backup_directory(str(data), "second")
    assert restored_pages(tmp_path / "copy") == restored_pages(tmp_path / "second") == NUMBERS


def test_a_destination_that_cannot_be_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    (tmp_path / "file").touch()
    for destination, kind, message in (
        (tmp_path / "full", FileExists, "something"),
        (tmp_path / "file", FileExists, "no directory"),
        (tmp_path / "missing" / "copy", FileMissing, "missing"),
        (data / "copy", InvalidRequest, "in the data directory"),
        (data, InvalidRequest, "in the data directory"),
        (data / "base" / ".." / "copy", InvalidRequest, "in the data directory"),
    ):
        before = sorted(path.name for path in data.rglob("*"))
        with pytest.raises(kind, match=message):
            backup_directory(data, destination)
        with System(data) as system, pytest.raises(kind, match=message):
            system.backup(destination)
        assert set(before) >= {path.name for path in data.rglob("*")} - {"pfs_slots"}


def test_a_source_that_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="no directory"):
        backup_directory(tmp_path / "missing", tmp_path / "copy")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileMissing, match="no data directory"):
        backup_directory(tmp_path / "other", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_an_unfinished_backup_is_neither_opened_nor_copied(data: Path, tmp_path: Path) -> None:
    destination = PosixFileSystem.made(tmp_path / "copy")

    def stop(_: Progress) -> None:
        with pytest.raises(DirectoryLocked):
            System(tmp_path / "copy")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(PosixFileSystem(data), destination, stop)
    with pytest.raises(BackupUnfinished):
        System(tmp_path / "copy")
    with pytest.raises(BackupUnfinished):
        backup_directory(tmp_path / "copy", tmp_path / "another")


def test_the_slot_of_a_backup_that_was_killed_goes_away(data: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pfs.files.posix import PosixFileSystem\n"
        "from pfs.wal.slots import SlotFiles\n"
        "SlotFiles(PosixFileSystem(sys.argv[1])).create('backup-1', temporary=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with System(data) as system:
        subprocess.run([sys.executable, "-c", program, str(data)], check=False)
        assert [slot.name for slot in system.slots()] == ["backup-1"]
        system.checkpoint()
        assert system.slots() == []


def test_a_system_backs_itself_up_while_it_is_used(data: Path, tmp_path: Path) -> None:
    with System(data) as system:
        system.open("f").append([fill("more", PAGE_SIZE)], durability="memory")
        system.backup(tmp_path / "copy")
        assert system.slots() == []
    assert restored_pages(tmp_path / "copy") == [*NUMBERS, "more"]
    with pytest.raises(SystemStopped):
        system.backup(tmp_path / "again")


def test_a_handler_makes_no_backup(data: Path, tmp_path: Path) -> None:
    class Asks(pfs.Actor):
        def on_receive(self, message: Any) -> Any:
            return system.backup(tmp_path / "copy")

    with System(data) as system:
        ref = system.start(Asks)
        with pytest.raises(CallInHandler):
            ref.ask("now")
        ref.stop()
