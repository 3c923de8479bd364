"""Copying a data directory while it is used: consistent, and restored by opening it.

The copy is made beside whoever writes, in this process or another, without their help:

    1. a slot holds the log back from the redo point on; the control file is read after that (`pfs.wal.slots`)
    2. the catalog and the data files are copied as they are: pages may be torn, half a request may be there, files may
       be missing, sizes may not fit
    3. the log is read up to its end
    4. pages that were appended in bulk since the redo point are copied again; and 3 again, until there are no new ones
    5. the log is copied from the redo point to that end, and read again from the copy
    6. the control file is written as it was read in 1

Opening the copy is a recovery from the redo point, and that makes it consistent: whatever was written to a data file
while it was copied, or since the checkpoint, has its full image in the log behind the redo point; and it was in the
log, durably, before it reached the file, so before the end that is found in 3.  The same is true of the catalog.  Bulk
appends have no images; but their pages are in the file before their COMMIT is in the log, so they are copied once more
after their COMMIT was seen.  What else happens to these pages meanwhile has images in the log behind, which is why 3 is
repeated.  Files are cut and removed only after the log says so, durably, and the end of the log is looked for after
that.

So the copy holds everything that was durable when the copying began, and it is a state that the directory went
through.  It has the system id of its source.  Slots are not copied.

Until step 6 there is a mark in place of the control file, and whoever opens the directory gets `BackupUnfinished`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

import msgspec

from pfs.errors import Busy, FileExists, FileMissing, InvalidRequest, PfsError, SlotExists, SlotLost, SlotNotFound
from pfs.files import relation
from pfs.files.catalog import CATALOG_FILE
from pfs.files.catalog_table import DATABASE, decode, encode
from pfs.files.filesystem import FileStat, FileSystem, WriteBuffer
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import DEFAULT_TABLESPACE, Fork, RelationAddress
from pfs.files.store import LOCK_FILE
from pfs.wal.blocking_io import close_file, failing, read_fully, read_whole, write_fully
from pfs.wal.control_file import (
    CONTROL_FILE,
    IN_USE,
    STOPPED,
    UNFINISHED_BACKUP,
    ControlData,
    ControlFile,
    newest_slot,
    read_slots,
)
from pfs.wal.growing_log import BulkAppended, GrowingLog
from pfs.wal.log_files import WAL_DIRECTORY
from pfs.wal.lsn import format_lsn
from pfs.wal.recovery import NO_BOOT_ID, Progress
from pfs.wal.sidecar import BLOCK_SIZE, locate
from pfs.wal.slots import Slot, SlotFiles, check_held

DATA_DIRECTORY = "base"
CHUNK = 1 << 20
"""Bytes that are copied at a time."""
MOST_ROUNDS = 100
"""So often bulk appends are copied after; the next round is shorter, as it has less to copy."""


class BackupReport(NamedTuple):
    """What was copied."""

    redo_lsn: int
    """Where the recovery of the copy begins."""
    end_lsn: int
    """Where the log of the copy ends: everything that was logged before it is in the copy."""
    files: int
    bytes: int


def backup_directory(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    progress: Callable[[Progress], None] | None = None,
) -> BackupReport:
    """Copy a data directory to another, which must not exist or be empty; see `backup`."""
    try:
        root = PosixFileSystem(source)
    except NotADirectoryError:
        raise FileMissing(f"there is no directory {os.fspath(source)!r}") from None
    check_source(root, os.fspath(source))
    return backup(root, destination_in(destination, root), progress)


def destination_in(destination: str | os.PathLike[str], source: FileSystem) -> PosixFileSystem:
    """The directory for a backup, made if it is missing, durably; its parent must exist.

    Raises `FileMissing`; `FileExists` if it is no directory; `InvalidRequest` if it lies in the source.
    """
    path = os.fspath(destination)
    parent_path, name = os.path.split(os.path.normpath(path))
    if name in ("", ".", ".."):
        parent_path, name = path, ""
    try:
        parent = PosixFileSystem(parent_path or ".")
    except NotADirectoryError:
        raise FileMissing(f"there is no directory {parent_path!r} to make {name!r} in") from None
    root = os.path.join(parent.root, name) if name else parent.root
    if isinstance(source, PosixFileSystem) and os.path.commonpath([source.root, root]) == source.root:
        raise InvalidRequest(f"the destination {path!r} lies in the data directory itself: choose another place")
    if name:
        with failing("rename", f"make directory {path!r}"), suppress(FileExistsError):
            parent.mkdir(name)
        with failing("sync", f"sync directory {parent.root!r}"):
            parent.sync_directory("")
    try:
        return PosixFileSystem(root)
    except NotADirectoryError:
        raise FileExists(f"the destination {path!r} exists, and is no directory") from None


def check_source(source: FileSystem, name: str) -> None:
    """Raise `FileMissing` unless there is a data directory, `BackupUnfinished` if it is the rest of a backup."""
    try:
        read_slots(source)
    except FileMissing:
        raise FileMissing(f"{name!r} is no data directory of pfs: it has no {CONTROL_FILE}") from None


def backup(
    source: FileSystem, destination: FileSystem, progress: Callable[[Progress], None] | None = None
) -> BackupReport:
    """Copy a data directory, which others may use meanwhile, to an empty one.

    Raises `FileExists` (the destination is not empty); `NoSpace`; `SlotLost` (more was written meanwhile than a slot
    may hold back); `Busy` (the directory is being opened, or was opened anew meanwhile; no descriptor); and what damage
    in the log raises (`WalDamaged`, `WalSegmentMissing`, `ForeignWalSegment`, `ControlFileDamaged`), `CatalogDamaged`,
    `ReadFailed`, `WriteFailed`, `SyncFailed`.  After any of them the destination is not a data directory: remove it.
    """
    with failing("look", "list the destination"):
        found = destination.listdir("")
    if found:
        raise FileExists(f"the destination of a backup must be empty, and has {found[0]!r}: choose another place")
    slots = SlotFiles(source)
    slot = _make_slot(slots)
    try:
        with ExitStack() as stack:
            return _Backup(source, destination, slot, progress or _nobody, stack).run()
    except PfsError:
        _check_slot(slots, slot)  # else it would be told as damage that the log is gone
        raise
    finally:
        with suppress(SlotNotFound):
            slots.drop(slot.name)


class _Backup:
    """The steps of a backup."""

    def __init__(
        self,
        source: FileSystem,
        destination: FileSystem,
        slot: Slot,
        progress: Callable[[Progress], None],
        stack: ExitStack,
    ) -> None:
        self._source = source
        self._destination = destination
        self._slot = slot
        self._progress = progress
        self._stack = stack
        self._control = self._read_control()
        self._log = GrowingLog(source, self._control)
        self._directories = {""}
        self._files = 0
        self._bytes = 0

    def run(self) -> BackupReport:
        self._claim()
        catalog = decode(read_whole(self._source, CATALOG_FILE), CATALOG_FILE)
        self._write(CATALOG_FILE, [encode(catalog)])
        self._copy_files()
        self._read_log()
        self._copy_bulk_appends({entry.number: entry.page_size for entry in catalog.entries.values()})
        self._copy_log()
        for path in sorted(self._directories, reverse=True):
            with failing("sync", f"sync directory {path!r} of the backup"):
                self._destination.sync_directory(path)
        _check_slot(SlotFiles(self._source), self._slot)
        self._finish()
        return BackupReport(self._control.redo_lsn, self._log.end, self._files, self._bytes)

    def _claim(self) -> None:
        """Lock the destination, and mark it as unfinished, before anything in it looks like data."""
        fs = self._destination
        with failing("open", f"create {LOCK_FILE!r} in the backup"):
            descriptor = fs.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._stack.callback(close_file, fs, descriptor)
        with failing("open", f"lock {LOCK_FILE!r} in the backup"):
            fs.lock(descriptor)
        self._write(CONTROL_FILE, [UNFINISHED_BACKUP])
        with failing("sync", "sync the directory of the backup"):
            fs.sync_directory("")

    def _finish(self) -> None:
        """Put the control file in place of the mark.  What the disk of the copy was when, its recovery cannot know."""
        control = ControlFile(self._destination)
        control.create(msgspec.structs.replace(self._control, boot_id=NO_BOOT_ID))

    def _read_control(self) -> ControlData:
        data = newest_slot(read_slots(self._source))
        if data.state not in (IN_USE, STOPPED):
            raise Busy(
                "the directory is being opened, or was left by a start that did not end: open it, then make the backup"
            )
        return data

    # ------------------------------------------------------------------------------------------ data files

    def _copy_files(self) -> None:
        paths = list(self._data_files(DATA_DIRECTORY))
        total, done = sum(map(self._size, paths)), 0
        for path in paths:
            self._make_directories(path)
            for count in self._copy(path, 0, None):
                done += count
                self._progress(Progress("copying page files", done, max(total, done)))
        self._files = len(paths)

    def _data_files(self, path: str) -> Iterator[str]:
        with suppress(FileMissing):
            with failing("look", f"list {path!r}"):
                names = self._source.listdir(path)
            for name in names:
                inner = f"{path}/{name}"
                found = self._look(inner)
                if found is not None and found.is_directory:
                    yield from self._data_files(inner)
                elif relation.parse_file_name(name) or relation.parse_sidecar_name(name):
                    yield inner

    def _copy_bulk_appends(self, page_sizes: Mapping[int, int]) -> None:
        """Copy what was appended in bulk, and read the log behind it.  page_sizes: of files in the catalog, by id."""
        for _ in range(MOST_ROUNDS):
            appended = self._log.take_bulk()
            if not appended:
                return
            for each in appended:
                page_size = page_sizes.get(each.file_id) or self._log.page_sizes.get(each.file_id)
                if page_size is not None:  # else it was dropped since
                    self._copy_bulk(each, page_size)
            self._read_log()
        raise Busy(f"after {MOST_ROUNDS} rounds there are still new bulk appends: make the backup when there are less")

    def _copy_bulk(self, bulk: BulkAppended, page_size: int) -> None:
        """Copy the pages of a bulk append, and their part of the sidecar, as far as they are still there."""
        address = RelationAddress(DEFAULT_TABLESPACE, DATABASE, bulk.file_id)
        first, end = bulk.pgid * page_size, (bulk.pgid + bulk.n) * page_size
        segment_size = self._segment_size(address) or end
        for segment in range((end - 1) // segment_size + 1):
            path = relation.path(address, Fork.MAIN, segment)
            start = segment * segment_size
            if start + segment_size <= first:
                self._lengthen(path, segment_size)
            else:
                self._copy_again(path, max(first - start, 0), min(end - start, segment_size))
        first_block, last_block = locate(bulk.pgid)[0], locate(bulk.pgid + bulk.n - 1)[0]
        self._copy_again(relation.sidecar_path(address), first_block * BLOCK_SIZE, (last_block + 1) * BLOCK_SIZE)

    def _segment_size(self, address: RelationAddress) -> int | None:
        """How large the segment files of a relation are; None if all of it is in the first.

        All but the last are full, and they are cut from the last backwards; so the first one is full if the second one
        holds anything, and if the first one did not change meanwhile.
        """
        first, second = (relation.path(address, Fork.MAIN, segment) for segment in (0, 1))
        while True:
            before, behind, after = self._size(first), self._size(second), self._size(first)
            if before == after:
                return before if behind else None

    def _size(self, path: str) -> int:
        found = self._look(path)
        return 0 if found is None else found.size

    def _look(self, path: str) -> FileStat | None:
        try:
            with failing("look", f"look at {path!r}"):
                return self._source.stat(path)
        except FileMissing:
            return None

    def _lengthen(self, path: str, length: int) -> None:
        """Let a segment before those of a bulk append be full, as it was; the log has what is missing in it.

        Segments behind one that is not full are no part of a relation.
        """
        target = self._open_target(path, os.O_RDWR | os.O_CREAT)
        try:
            with failing("resize", f"lengthen {path!r} in the backup"):
                if self._destination.fstat(target).size < length:
                    self._destination.ftruncate(target, length)
            self._sync(target, path)
        finally:
            close_file(self._destination, target)

    def _copy_again(self, path: str, start: int, end: int) -> None:
        self._make_directories(path)
        for count in self._copy(path, start, end):
            self._progress(Progress("copying bulk appends", count, count))

    def _copy(self, path: str, start: int, end: int | None) -> Iterator[int]:
        """Copy a range of a file, or all of it, as far as it is there; gives the bytes of each step."""
        fs = self._source
        try:
            with failing("open", f"open {path!r}"):
                descriptor = fs.open(path, os.O_RDONLY)
        except FileMissing:
            return  # it was removed just now
        try:
            target = self._open_target(path, os.O_RDWR | os.O_CREAT)
            try:
                while end is None or start < end:
                    length = CHUNK if end is None else min(CHUNK, end - start)
                    chunk = read_fully(fs, descriptor, length, start, path)
                    if not chunk:
                        break
                    write_fully(self._destination, target, [chunk], start, path)
                    start += len(chunk)
                    self._bytes += len(chunk)
                    yield len(chunk)
                self._sync(target, path)
            finally:
                close_file(self._destination, target)
        finally:
            close_file(fs, descriptor)

    # ------------------------------------------------------------------------------------------ the log

    def _read_log(self) -> None:
        now = self._read_control()
        if now.epoch != self._control.epoch:
            raise Busy("the directory was opened anew while it was copied: make the backup again")
        self._log.read_on(now.durable_hint)

    def _copy_log(self) -> None:
        log, data = self._log, self._control
        size, end = data.segment_size, log.end
        first = data.redo_lsn // size
        for number in range(first, log.last_segment + 1):
            content = log.segment(number)
            self._make_directories(f"{WAL_DIRECTORY}/{number}")
            length = min(end - number * size, size)
            self._write(log.path(number), [content[:length], bytes(size - length)])
            done = number * size + length - first * size
            self._progress(Progress("copying the WAL", done, end - first * size))
        copy = GrowingLog(self._destination, data)
        copy.read_on(end)
        copy.check_checkpoint()

    # ------------------------------------------------------------------------------------------ the destination

    def _make_directories(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            inner = "/".join(parts[:depth])
            if inner not in self._directories:
                with failing("rename", f"make directory {inner!r} in the backup"):
                    self._destination.mkdir(inner)
                self._directories.add(inner)

    def _open_target(self, path: str, flags: int) -> int:
        with failing("open", f"create {path!r} in the backup"):
            return self._destination.open(path, flags)

    def _write(self, path: str, content: list[WriteBuffer]) -> None:
        """Write a whole file, durably."""
        target = self._open_target(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            write_fully(self._destination, target, content, 0, path)
            self._sync(target, path)
        finally:
            close_file(self._destination, target)
        self._bytes += sum(map(len, content))

    def _sync(self, target: int, path: str) -> None:
        with failing("sync", f"sync {path!r} in the backup"):
            self._destination.fsync(target)


def _make_slot(slots: SlotFiles) -> Slot:
    number = 1
    while True:
        try:
            return slots.create(f"backup-{number}", temporary=True)
        except SlotExists:
            number += 1


def _check_slot(slots: SlotFiles, slot: Slot) -> None:
    """Raise `SlotLost` unless the log is still held back."""
    try:
        found = slots.get(slot.name)
    except SlotNotFound:
        raise SlotLost(f"slot {slot.name!r} of this backup was dropped meanwhile: make the backup again") from None
    if check_held(found).lsn != slot.lsn:
        raise SlotLost(
            f"slot {slot.name!r} of this backup is at LSN {format_lsn(found.lsn)}, and was at {format_lsn(slot.lsn)}: "
            "somebody else has changed it; make the backup again"
        )


def _nobody(_: Progress) -> None:
    """Nobody wants to know."""
