"""Data directories for `pfs.testing.damage`, and what is known of each: all that it may ever answer.

Each is made by a whole `System` on a simulated disk, one request after the other, and left in some way:

    stopped     stopped in order, twice
    compressed  the same, with compressed images; a slot holds its log back over all checkpoints
    crashed     a crash with committed and vouched log behind the redo point, in several segments; a slot holds its log
                back over all checkpoints
    torn        the same, and behind it a last batch of which the crash left a part
    unvouched   the same, and behind it acknowledged requests that no record vouches for yet
    restarted   a crash soon after a start, with every type of record behind the redo point

Page files of three page sizes, with one sidecar block and with several; with pages of zeros, bulk appends, truncations,
renamed and dropped files.  What is known of them is kept independent of the code that recovers: the states after each
request, and the log as a list of whole records, with a reading of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from pfs.actors.requests import ServerOptions
from pfs.files.store import PageFileStore
from pfs.storage import recover
from pfs.system import System, SystemOptions
from pfs.testing.crash_images import crashing
from pfs.testing.file_system import Operation, SimulatedFileSystem
from pfs.testing.plain_recovery import detached
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.bodies import (
    COMMIT,
    CREATE,
    DROP,
    PAGE_IMAGE,
    RENAME,
    SEGMENT_SWITCH,
    TRUNCATE,
    Noop,
    Seal,
)
from pfs.wal.control_file import SLOT_OFFSETS, SLOT_SIZE, ControlData, decode_slot
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.lsn import ALIGNMENT, SEGMENT_HEADER_SIZE, parse_segment_name
from pfs.wal.records import (
    HEADER_SIZE,
    Record,
    decode,
    decode_body,
    decode_commit,
    image_index,
    seed_of,
)
from pfs.wal.recovery import flush_log
from pfs.wal.shared_log import WalOptions

SEGMENT = 8 << 10
"""Bytes of a log segment."""

Pages = tuple[bytes, ...]
Contents = Mapping[str, Pages]
Key = tuple[int, int]
"""A page: file id and pgid."""


def options(*, compress: bool = False) -> SystemOptions:
    """A system whose log and checkpoints are as the preparation wants them."""
    return SystemOptions(
        buffer_bytes=1 << 20,
        descriptors=40,
        segment_bytes=16 << 10,
        read_workers=1,
        write_workers=1,
        call_timeout=1e9,
        dirty_bytes=1 << 20,
        server=ServerOptions(bulk_bytes=10 << 10, chunk=8, block=8),
        wal=WalOptions(
            segment_bytes=SEGMENT,
            most_bytes=256 << 10,
            checkpoint_bytes=1 << 20,
            checkpoint_seconds=1e6,
            compress=compress,
        ),
    )


class State(NamedTuple):
    """The page files after a request, of which the log has the last record before `lsn`."""

    lsn: int
    contents: Contents
    numbers: Mapping[str, int]


class Rotting(NamedTuple):
    """A directory, and what is known of it (see the module)."""

    name: str
    disk: SimulatedFileSystem
    options: SystemOptions
    files: Mapping[str, bytes]
    """What is on the disk."""
    segments: Mapping[int, str]
    """The paths of the log's segments, by number, in order."""
    earlier: tuple[Mapping[str, bytes], ...]
    """What was on it at earlier moments."""
    states: tuple[State, ...]
    """After each request; the last of `torn` was never acknowledged."""
    last: State
    """What is there if nothing is damaged."""
    slots: tuple[ControlData | None, ...]
    """What the slots of the control file say."""
    control: ControlData
    """What counts of that."""
    placed: Mapping[int, Record]
    """All whole records, by LSN, also those behind the end of the log."""
    log: tuple[Record, ...]
    """The records of the log, from its oldest segment to its end."""

    def copy(self) -> SimulatedFileSystem:
        """The directory, to be damaged."""
        return self.disk.killed_image()

    def state_at(self, end: int) -> State:
        """What is there if the log ends at a position."""
        return _state_at(self.states, self.log, end)


def _state_at(states: Sequence[State], log: Sequence[Record], end: int) -> State:
    lsn = max((record.lsn for record in log if record.end <= end and _is_request(record)), default=0)
    if lsn == 0:  # nothing that the log still has
        first = next((record.lsn for record in log if _is_request(record)), end)
        return [state for state in states if state.lsn <= first][-1]
    return next(state for state in states if state.lsn > lsn)


def _is_request(record: Record) -> bool:
    return record.type in (COMMIT, CREATE, RENAME, DROP, TRUNCATE)


def segment_paths(files: Mapping[str, bytes]) -> dict[int, str]:
    """The paths of the log's segments, by number, in order."""
    found = {}
    for path in sorted(files):
        parsed = parse_segment_name(path.removeprefix("pfs_wal/"), SEGMENT) if path.startswith("pfs_wal/") else None
        if parsed is not None:
            found[parsed.segment] = path
    return found


@cache
def images_from(name: str, lsn: int) -> Mapping[Key, Record]:
    """The newest committed images of pages in the log of a directory from a position on (`committed_images`)."""
    return committed_images([record for record in directory(name).log if record.lsn >= lsn])


def committed_images(records: Sequence[Record]) -> dict[Key, Record]:
    """The newest committed images of pages in a part of the log, each as the record of its COMMIT.

    A transaction that began before that part is older than any in it, as far as anybody can tell: its pages have none.
    """
    found: dict[Key, Record] = {}
    images: dict[int, set[int]] = {}
    for record in records:
        if record.type == PAGE_IMAGE:
            images.setdefault(record.transaction, set()).add(image_index(record))
        elif record.type == COMMIT:
            commit = decode_commit(record)
            mine = images.pop(record.transaction, set())
            for index in range(commit.n):
                found.pop((record.file_id, commit.pgid + index), None)
            if commit.first_lsn >= records[0].lsn:
                found |= {(record.file_id, commit.pgid + index): record for index in mine}
        elif record.type in (TRUNCATE, DROP):
            body = decode_body(record)
            count = getattr(body, "page_count", 0)
            for key in [key for key in found if key[0] == record.file_id and key[1] >= count]:
                del found[key]
    return found


# ---------------------------------------------------------------------------------------------- making them


class _Maker:
    """Makes one directory: requests to a system, and the states that they lead to."""

    def __init__(self, seed: int, compress: bool) -> None:
        self.options = options(compress=compress)
        self.disk = SimulatedFileSystem(keep_journal=False)
        self.random = Random(f"directory {seed}")
        self.contents: dict[str, Pages] = {}
        self.numbers: dict[str, int] = {}
        self.states = [State(0, {}, {})]
        self.earlier: list[Mapping[str, bytes]] = []
        self.start(seed)

    def start(self, seed: int) -> None:
        self.scheduler = SimulatedScheduler(seed)
        self.disk.make_condition, self.disk.on_operation = self.scheduler.condition, self.scheduler.file_call
        self.system = System(self.disk, self.options, runtime=self.scheduler)

    def stop(self) -> None:
        self.system.stop()
        self.scheduler.abandon()

    def restart(self, seed: int) -> None:
        self.stop()
        self.earlier.append(self.disk.durable_files)
        self.start(seed)

    def crash(self) -> None:
        """Leave the system as it is, and go on with what is durable."""
        self.disk = detached(self.disk.crash_image("none", Random(0)))
        self.scheduler.abandon()

    def page(self, size: int) -> bytes:
        """A new page: text or noise; one in six is all zeros."""
        kind = self.random.randrange(6)
        if kind == 0:
            return bytes(size)
        return self.random.randbytes(size) if kind < 3 else self.random.randbytes(8) * (size // 8)

    def pages(self, name: str, n: int) -> list[bytes]:
        return [self.page(self.system.open(name).page_size) for _ in range(n)]

    def create(self, name: str, page_size: int) -> None:
        self.system.open(name, page_size=page_size)
        number = self.system._store.catalog.get(name).number
        self._now({**self.contents, name: ()}, {**self.numbers, name: number})

    def append(self, name: str, n: int) -> None:
        pages = self.pages(name, n)
        self.system.open(name).append(pages)
        self._now({**self.contents, name: self.contents[name] + tuple(pages)})

    def write(self, name: str, pgid: int, n: int = 1) -> None:
        pages, before = self.pages(name, n), self.contents[name]
        self.system.open(name).write(pgid, pages)
        self._now({**self.contents, name: before[:pgid] + tuple(pages) + before[pgid + n :]})

    def truncate(self, name: str, n: int) -> None:
        self.system.open(name).truncate(n)
        self._now({**self.contents, name: self.contents[name][:n]})

    def rename(self, name: str, new_name: str) -> None:
        self.system.rename(name, new_name)
        contents, numbers = dict(self.contents), dict(self.numbers)
        contents[new_name], numbers[new_name] = contents.pop(name), numbers.pop(name)
        self._now(contents, numbers)

    def drop(self, name: str) -> None:
        self.system.drop(name)
        without = {key: pages for key, pages in self.contents.items() if key != name}
        self._now(without, {key: self.numbers[key] for key in without})

    def checkpoint(self) -> None:
        self.system.checkpoint()
        self.earlier.append(self.disk.durable_files)

    def seal(self) -> None:
        """Wait until a record vouches for all that was acknowledged."""
        self.scheduler.wait_at_most(1.0, lambda: False, lambda: "the seal")

    def expect(self, contents: dict[str, Pages]) -> None:
        """Note a state that a request will lead to which is never acknowledged."""
        self.states.append(State(1 << 63, contents, self.numbers))

    def _now(self, contents: dict[str, Pages], numbers: dict[str, int] | None = None) -> None:
        self.contents = contents
        self.numbers = self.numbers if numbers is None else numbers
        self.states.append(State(self.system.stats()["wal"]["inserted"], contents, self.numbers))

    def made(self, name: str) -> Rotting:
        files = self.disk.durable_files
        slots = tuple(decode_slot(files["pfs_control"][offset : offset + SLOT_SIZE]) for offset in SLOT_OFFSETS)
        control = max((slot for slot in slots if slot is not None), key=lambda slot: slot.sequence)
        placed = _placed(files, seed_of(control.system_id))
        log = tuple(_log(placed, files, control.redo_lsn))
        return Rotting(
            name=name,
            disk=self.disk,
            options=self.options,
            files=files,
            segments=segment_paths(files),
            earlier=tuple(self.earlier),
            states=tuple(self.states),
            last=_state_at(self.states, log, log[-1].end),
            slots=slots,
            control=control,
            placed=placed,
            log=log,
        )


def _placed(files: Mapping[str, bytes], seed: int) -> dict[int, Record]:
    found = {}
    for number, path in segment_paths(files).items():
        view = memoryview(files[path])
        for offset in range(SEGMENT_HEADER_SIZE, len(view) - HEADER_SIZE + 1, ALIGNMENT):
            record = decode(view, offset, number * SEGMENT + offset, seed)
            if record is not None:
                found[record.lsn] = record
    return found


def _log(placed: Mapping[int, Record], files: Mapping[str, bytes], redo_lsn: int) -> Iterator[Record]:
    """The records from the oldest segment on that lead to the redo point, each after its predecessor."""
    numbers = segment_paths(files)
    first = redo_lsn // SEGMENT
    while first - 1 in numbers and (first - 1) * SEGMENT + SEGMENT_HEADER_SIZE in placed:
        first -= 1
    position = first * SEGMENT + SEGMENT_HEADER_SIZE
    last = None
    while True:
        record = placed.get(position)
        if record is None or (last is not None and record.prev_lsn != last):
            return
        yield record
        last = record.lsn
        position = record.end
        if record.type == SEGMENT_SWITCH or position % SEGMENT + HEADER_SIZE > SEGMENT or not position % SEGMENT:
            position = (record.lsn // SEGMENT + 1) * SEGMENT + SEGMENT_HEADER_SIZE


def _fill(maker: _Maker, *, slot: bool = False) -> None:
    """Page files of all kinds, and a history: each checkpoint leaves an earlier state of the disk.

    slot: the log is held back from the beginning on.
    """
    if slot:
        maker.system.create_slot("copy")
    maker.create("small", 512)
    maker.append("small", 5)
    maker.create("wide", 4096)
    maker.append("wide", 2)
    maker.create("long", 512)
    maker.append("long", 3)
    maker.append("long", 62)  # a bulk append: the first pages, which share a block, are logged, and others not
    maker.create("middle", 1024)
    maker.append("middle", 9)
    maker.create("doomed", 512)
    maker.append("doomed", 2)
    maker.checkpoint()
    maker.write("long", 0)
    maker.write("long", 29, 5)
    maker.write("small", 1, 2)
    maker.rename("middle", "renamed")
    maker.drop("doomed")
    maker.checkpoint()
    maker.write("long", 30)
    maker.write("wide", 1)
    maker.truncate("renamed", 6)
    maker.append("renamed", 3)
    maker.write("small", 2)
    maker.checkpoint()


def _work(maker: _Maker) -> None:
    """More of everything behind the last checkpoint: records of every type that requests lead to."""
    maker.create("new", 512)
    maker.append("new", 4)
    maker.write("long", 1)
    maker.write("long", 60, 4)
    maker.append("small", 2)
    maker.rename("new", "newer")
    maker.create("dropped", 1024)
    maker.append("dropped", 1)
    maker.drop("dropped")
    maker.append("long", 20)  # a bulk append
    maker.truncate("renamed", 4)
    maker.write("wide", 0)
    maker.write("renamed", 1)
    maker.append("wide", 1)


def _compressed(maker: _Maker) -> None:
    _stopped(maker, slot=True)


def _stopped(maker: _Maker, *, slot: bool = False) -> None:
    _fill(maker, slot=slot)
    maker.restart(2)
    maker.write("long", 31, 2)
    maker.append("small", 1)
    maker.stop()
    maker.disk = detached(maker.disk.crash_image("none", Random(0)))


def _crashed(maker: _Maker) -> None:
    _fill(maker, slot=True)
    _work(maker)
    maker.seal()
    maker.crash()


def _torn(maker: _Maker) -> None:
    """A crash before the sync of a last write: the disk has got to some of its sectors."""
    _fill(maker)
    _work(maker)
    maker.seal()
    pages = maker.pages("small", 6)
    taken: list[SimulatedFileSystem] = []

    def before(operation: Operation) -> None:
        if operation.name == "fdatasync" and operation.path.startswith("pfs_wal/") and not taken:
            for draw in range(100):  # until it is one that the end of the log can be told from
                image = maker.disk.crash_image("torn", Random(draw))
                if b"".join(pages[1:5]) not in b"".join(image.durable_files.values()):
                    taken.append(image)
                    break
        maker.scheduler.file_call(operation)

    maker.disk.on_operation = before
    maker.expect({**maker.contents, "small": (*maker.contents["small"], *pages)})
    maker.system.open("small").append(pages)
    maker.scheduler.abandon()
    maker.disk = detached(taken[0])


def _unvouched(maker: _Maker) -> None:
    _fill(maker)
    _work(maker)
    maker.seal()
    maker.write("small", 0)
    maker.append("newer", 2)
    maker.crash()


def _restarted(maker: _Maker) -> None:
    _fill(maker)
    maker.restart(3)
    _work(maker)
    maker.seal()
    maker.crash()
    store = PageFileStore(maker.disk, clock=lambda: 0.0, segment_bytes=maker.options.segment_bytes)
    log = recover(store, maker.options.wal, lambda: 0)
    log.buffer.limit = NO_LIMIT
    names = {number: name for name, number in maker.numbers.items()}
    for transaction, (number, name) in enumerate(sorted(names.items()), log.next_transaction):
        page = bytes([transaction]) * store.catalog.get(name).page_size
        pages = maker.contents[name]
        log.buffer.insert_page(transaction, number, 0, page)
        log.buffer.insert(Noop(50))
        place = log.buffer.insert_commit(transaction, number, 1, 1, len(pages))
        maker.contents = {**maker.contents, name: (pages[0], page, *pages[2:])}
        maker.states.append(State(place.end, maker.contents, maker.numbers))
        flush_log(log.files, log.buffer)
    log.buffer.insert(Seal())
    flush_log(log.files, log.buffer)
    log.files.close()
    log.control.close()
    store.close()
    maker.disk = detached(maker.disk.crash_image("none", Random(0)))


_MAKERS: dict[str, tuple[Callable[[_Maker], None], bool]] = {
    "stopped": (_stopped, False),
    "compressed": (_compressed, True),
    "crashed": (_crashed, False),
    "torn": (_torn, False),
    "unvouched": (_unvouched, True),
    "restarted": (_restarted, False),
}

NAMES = tuple(_MAKERS)


@cache
def directory(name: str) -> Rotting:
    """One of the directories, made once in a process."""
    with crashing():
        return _made(name)


def _made(name: str) -> Rotting:
    make, compress = _MAKERS[name]
    maker = _Maker(1, compress)
    make(maker)
    return maker.made(name)
