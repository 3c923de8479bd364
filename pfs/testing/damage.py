"""Damage: one thing after another is damaged on the disk of a prepared directory, and nothing wrong may come of it.

    python -m pfs.testing.damage --flips 20000 --seed 1                 damages, spread over all directories
    python -m pfs.testing.damage --seed 1 --directory torn --flips 1 --first 31        one, as a failure says

The directories are those of `pfs.testing.rotting_directories`, the damages those of `pfs.testing.damages`, and what may
be found is worked out by `pfs.testing.damage_judge`: right pages, or typed errors about the damage; never other bytes
than were written, never a committed transaction lost that the log vouches for, never an exception of another kind.

Each damage is of one directory and has a number there: first come the bytes of record headers, one after the other,
then what the seed and the number choose.  Of those, the damages of pages and sidecars mostly strike a directory that is
open already, which costs a tenth (a start reads neither); the others come before a start, and then

* the plain recovery code opens the directory, and every page of every file is read and healed, as servers do;
* for one in `AGAIN`, what it leaves is opened once more: the same is found;
* for one in `SYSTEMS`, a whole `System` starts, reads everything, writes more, and crashes; then nothing is missing;
* for one in `CHECKS`, `pfs check` must find what cannot be read, or what the log knows to be older than it should be,
  and its repair must not make anything worse.

What no reading can find is counted as `undetectable`: where the disk lost a write of a page and that of its sidecar
record too, what is there is valid.  `pfs check` finds it as long as the log has a newer image, and nothing does then.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from pfs.check import check
from pfs.errors import PageCorrupt, PfsError
from pfs.files.checked_file import CheckedFile
from pfs.files.store import PageFileStore
from pfs.storage import recover
from pfs.system import System
from pfs.testing.crash_images import crashing
from pfs.testing.damage_judge import OF_LENGTHS, Expected, Opened, compare, expect
from pfs.testing.damages import Damage, header_flips, other_damage, page_damage
from pfs.testing.file_system import Operation, SimulatedFileSystem
from pfs.testing.plain_recovery import detached
from pfs.testing.rotting_directories import NAMES, Rotting, directory
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.heal import find_page
from pfs.wal.recovery import StartedLog
from pfs.wal.sidecar import PageRecord

OPEN = 0.92
"""So many of the damages chosen by chance strike pages and sidecars of a directory that is open."""
PAGES = 0.1
"""So many of the others strike them before a start."""
AGAIN = 20
SYSTEMS = 100
CHECKS = 40
MOST_OPERATIONS = 20_000
"""File operations of one opening; with more it goes round in circles."""


class Endless(Exception):
    """An opening does not come to an end."""


class Finding(NamedTuple):
    """A promise that was broken; `replay` is the command that shows it again."""

    replay: str
    damage: str
    what: str

    def __str__(self) -> str:
        return f"{self.what}\n  after: {self.damage}\n  replay: {self.replay}"


@dataclass
class Report:
    """What came of a run."""

    findings: list[Finding] = field(default_factory=list)
    damages: set[int] = field(default_factory=set)
    """The distinct ones, as hashes."""
    events: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        events = " ".join(f"{name.replace(' ', '_')}={number}" for name, number in sorted(self.events.items()))
        return f"damages={len(self.damages)} findings={len(self.findings)} {events}"


def run(name: str, seed: int, flips: int, first: int = 0, report: Report | None = None) -> Report:
    """Try damages of one directory: those of numbers first .. first + flips - 1."""
    report = Report() if report is None else report
    with crashing():
        rotting = directory(name)
        headers = header_flips(rotting, Random(f"{seed} {name}"))
        with _OpenDirectory(rotting) as opened:
            for number in range(first, first + flips):
                random = Random(f"{seed} {name} {number}")
                _Trial(rotting, opened, report, f"--seed {seed} --directory {name} --first {number} --flips 1").run(
                    random, headers[number] if number < len(headers) else None
                )
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m pfs.testing.damage", description="Damage everything on the disk.")
    parser.add_argument("--seed", type=int, default=1, help="what chance chooses (default: %(default)s)")
    parser.add_argument("--flips", type=int, default=20_000, help="how many damages (default: %(default)s)")
    parser.add_argument("--directory", choices=NAMES, help="of one directory only (default: spread over all)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, in each directory")
    options = parser.parse_args(arguments)
    names = NAMES if options.directory is None else (options.directory,)
    report = Report()
    print(f"seed {options.seed}: {', '.join(names)}", flush=True)
    for name in names:
        before = len(report.findings)
        run(name, options.seed, -(-options.flips // len(names)), options.first, report)
        for finding in report.findings[before:]:
            print(finding, flush=True)
    print(report)
    return 1 if report.findings else 0


class _Trial:
    """One damage of one directory."""

    def __init__(self, rotting: Rotting, opened: _OpenDirectory, report: Report, arguments: str) -> None:
        self._rotting = rotting
        self._opened = opened
        self._report = report
        self._replay = f"python -m pfs.testing.damage {arguments}"

    def run(self, random: Random, damage: Damage | None) -> None:
        is_open = damage is None and random.random() < OPEN
        directory = self._opened.as_found if is_open else self._rotting
        choose = page_damage if is_open or random.random() < PAGES else other_damage
        damage = damage or choose(directory, random)
        while all(directory.files.get(path) == content for path, content in damage.changes.items()):
            damage = choose(directory, random)  # zeros in the place of zeros
        self._report.damages.add(hash((self._rotting.name, is_open, *damage.changes.items())))
        if is_open:
            self._strike_open(damage)
        else:
            self._strike(damage, random)

    def _strike_open(self, damage: Damage) -> None:
        self._report.events["open"] += 1
        expected = expect(self._opened.as_found, damage, is_open=True)
        self._judge(damage, "", self._opened.struck_by(damage), expected)

    def _strike(self, damage: Damage, random: Random) -> None:
        image = self._rotting.copy()
        for path, content in damage.changes.items():
            image.rot(path, content)
        expected = expect(self._rotting, damage)
        again, system, checked = (random.randrange(n) == 0 for n in (AGAIN, SYSTEMS, CHECKS))
        kept = image.killed_image() if system or checked else image
        in_log = any(path.startswith(("pfs_wal", "pfs_control")) for path in damage.changes)
        opened = open_plainly(image, self._rotting, None if in_log else self._opened.known)
        if not self._judge(damage, "", opened, expected):
            return
        if again and opened.refused is None:
            self._report.events["opened again"] += 1
            self._judge(damage, "opened again: ", open_plainly(_left(image), self._rotting), expected)
        if system:
            self._report.events["systems"] += 1
            self._start_a_system(damage, kept.killed_image(), expected, random)
        if checked:
            self._report.events["checks"] += 1
            self._check(damage, kept, opened, expected)

    def _judge(self, damage: Damage, when: str, opened: Opened, expected: Expected) -> bool:
        wrong = compare(opened, expected, self._report.events)
        if wrong is not None:
            self._found(damage, f"{when}{wrong}")
        return wrong is None

    def _found(self, damage: Damage, what: str) -> None:
        self._report.findings.append(Finding(self._replay, f"{self._rotting.name}: {damage.what}", what))

    # -- a whole system

    def _start_a_system(self, damage: Damage, image: SimulatedFileSystem, expected: Expected, random: Random) -> None:
        scheduler = SimulatedScheduler(random.randrange(1 << 30))
        image.make_condition, image.on_operation = scheduler.condition, scheduler.file_call
        try:
            system = System(image, self._rotting.options, runtime=scheduler)
        except Exception as error:
            scheduler.abandon()
            self._judge(damage, "a system: ", Opened(refused=error), expected)
            return
        opened = Opened()
        added: dict[str, list[bytes]] = {}
        try:
            for name in system.names():
                opened.contents[name] = _read_by(system, name)
            if self._judge(damage, "a system: ", opened, expected):
                for name, found in opened.contents.items():
                    if not isinstance(found, PfsError):
                        file = system.open(name)
                        added[name] = [random.randbytes(file.page_size) for _ in range(12)]
                        file.append(added[name])
        except Exception as error:
            self._found(damage, f"a system: {type(error).__name__}: {error}")
        left = _left(image)
        scheduler.abandon()
        if added:
            after = open_plainly(left, self._rotting)
            if not (expected.files and isinstance(after.refused, OF_LENGTHS)):  # what it left out, a recovery needs
                self._compare_grown(damage, opened, added, after)

    def _compare_grown(self, damage: Damage, before: Opened, added: dict[str, list[bytes]], after: Opened) -> None:
        """After a crash: everything that the system served, and all that it wrote."""
        if after.refused is not None:
            self._found(damage, f"after a system's crash: refused: {type(after.refused).__name__}: {after.refused}")
            return
        for name, more in added.items():
            first, then = before.contents[name], after.contents[name]
            assert not isinstance(first, PfsError)
            if isinstance(then, PfsError) or len(then) != len(first) + len(more):
                self._found(damage, f"after a system's crash: {name!r} has not the pages that it had")
                return
            for pgid, (served, found) in enumerate(zip([*first, *more], then, strict=True)):
                if not isinstance(served, PfsError) and served != found:
                    self._found(
                        damage, f"after a system's crash: page {pgid} of {name!r} is not what it was: {found!r:.200}"
                    )
                    return

    # -- pfs check

    def _check(self, damage: Damage, image: SimulatedFileSystem, opened: Opened, expected: Expected) -> None:
        size = self._rotting.options.segment_bytes
        try:
            report = check(image.killed_image(), segment_bytes=size)
            if not report.damaged and (opened.refused is not None or not _is_readable(opened)):
                self._found(damage, "pfs check finds nothing wrong, but not everything can be read")
            if not report.damaged and expected.lost_writes:
                self._found(damage, f"pfs check does not find lost writes: {sorted(expected.lost_writes)}")
            check(image, segment_bytes=size, repair=True)
        except PfsError:
            return
        except Exception as error:
            self._found(damage, f"pfs check fails: {type(error).__name__}: {error}")
            return
        after = open_plainly(_left(image), self._rotting)
        if opened.refused is not None and after.refused is None and expected.must_refuse:
            self._found(damage, "after a repair it starts, and had to be refused")
            return
        self._judge(damage, "after a repair: ", after, expected)


# ---------------------------------------------------------------------------------------------- opening

Healed = dict[tuple[int, int, PageRecord | None], bytes | None]
"""What the log was found to have for a page of a file with such a record; as long as the log stays the same."""


def open_plainly(fs: SimulatedFileSystem, rotting: Rotting, known: Healed | None = None) -> Opened:
    """Recover a directory by the plain code, and read every page.  known: what its log has, as far as that is known."""
    left = MOST_OPERATIONS

    def count(_: Operation) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Endless(f"{MOST_OPERATIONS} file operations, and no end")

    detached(fs, count)
    found = Opened()
    try:
        with _Opening(fs, rotting, {} if known is None else known) as opening:
            for entry in opening.store.catalog.entries():
                try:
                    file = opening.store.open(entry, opening.started.page_counts[entry.number], repair=False)
                except PfsError as error:
                    found.contents[entry.name] = error
                else:
                    found.contents[entry.name] = opening.read(file, entry.number)
    except Exception as error:
        return Opened(refused=error)
    return found


class _Opening:
    """A directory opened by the plain code."""

    store: PageFileStore
    started: StartedLog

    def __init__(self, fs: SimulatedFileSystem, rotting: Rotting, known: Healed) -> None:
        self._fs = fs
        self._rotting = rotting
        self._known = known
        self._undo = ExitStack()

    def __enter__(self) -> _Opening:
        with ExitStack() as undo:
            options = self._rotting.options
            self.store = store = PageFileStore(
                self._fs, clock=lambda: 0.0, descriptors=options.descriptors, segment_bytes=options.segment_bytes
            )
            undo.callback(store.close)
            self.started = recover(store, options.wal, lambda: 77)
            undo.callback(self.started.control.close)
            undo.callback(self.started.files.close)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def read(self, file: CheckedFile, number: int) -> list[bytes | PfsError]:
        """Every page, healed from the log if need be, as the buffer pool does; an error in the place of any other."""
        count = file.block_count()
        return self._read(file, number, 0, count) if count else []

    def _read(self, file: CheckedFile, number: int, first: int, n: int) -> list[bytes | PfsError]:
        try:
            return list(file.read(first, n))
        except PageCorrupt as error:
            if n == 1:
                return [self._heal(file, number, first, error)]
            half = n // 2
            return self._read(file, number, first, half) + self._read(file, number, first + half, n - half)

    def _heal(self, file: CheckedFile, number: int, pgid: int, error: PfsError) -> bytes | PfsError:
        record, log = file.page_record(pgid), self.started
        key = (number, pgid, record)
        if key not in self._known:
            found = find_page(log.files, number, pgid, record, redo_lsn=log.redo_lsn, durable=log.buffer.flushed)
            self._known[key] = None if found is None else found.page
        return self._known[key] or error


class _OpenDirectory(_Opening):
    """A directory that was recovered, and stays open while its pages and sidecars are damaged."""

    def __init__(self, rotting: Rotting) -> None:
        super().__init__(detached(rotting.copy()), rotting, {})
        self.as_found = rotting
        self.known = self._known

    def __enter__(self) -> _OpenDirectory:
        super().__enter__()
        for entry in self.store.catalog.entries():
            self.store.open(entry, self.started.page_counts[entry.number], repair=False)
        files = self._fs.durable_files
        self.as_found = self._rotting._replace(files=files, earlier=(*self._rotting.earlier, self._rotting.files))
        self._files = files
        self._whole = self._read_all()
        return self

    def struck_by(self, damage: Damage) -> Opened:
        """What is read while there is a damage of pages and sidecars."""
        for path, content in damage.changes.items():
            self._fs.rot(path, content)
        self.store.forget_sidecars()
        try:
            numbers = {path.removeprefix("base/5/").removesuffix("_sum").split(".")[0] for path in damage.changes}
            return Opened(self._whole | self._read_all({int(number) for number in numbers}))
        except Exception as error:
            return Opened(refused=error)
        finally:
            for path in damage.changes:
                self._fs.rot(path, self._files[path])

    def _read_all(self, numbers: set[int] | None = None) -> dict[str, list[bytes | PfsError] | PfsError]:
        return {
            entry.name: self.read(self.store.open_files[entry.number], entry.number)
            for entry in self.store.catalog.entries()
            if numbers is None or entry.number in numbers
        }


def _read_by(system: System, name: str) -> list[bytes | PfsError] | PfsError:
    try:
        file = system.open(name)
    except PfsError as error:
        return error
    pages: list[bytes | PfsError] = []
    for pgid in range(file.page_count):
        try:
            pages += file.read(pgid)
        except PfsError as error:
            pages.append(error)
    return pages


def _is_readable(opened: Opened) -> bool:
    return all(
        not isinstance(pages, PfsError) and not any(isinstance(page, PfsError) for page in pages)
        for pages in opened.contents.values()
    )


def _left(fs: SimulatedFileSystem) -> SimulatedFileSystem:
    return detached(fs.crash_image("none", Random(0)))


if __name__ == "__main__":
    sys.exit(main())
