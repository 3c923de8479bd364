"""Retention slots: named positions from which somebody still needs the log.

A slot is a file, `pfs_slots/<name>`.  Whoever keeps a copy of the log elsewhere (a storage node, a backup) makes one,
and advances it as it takes the log over; the segments from there on stay (`pfs.wal.retention`).  A slot that would hold
back too much is *lost*: its file says so, so that its owner learns that it must begin anew.

Names: 1 to 63 of the characters a-z, 0-9, `_` and `-`.  The file has 8 KiB with two records, at 0 and at 4096, which
are written by turns and synced, as those of the control file are (`pfs.wal.control_file`):

    offset  size
         0     8  magic, "PFSWSLOT"
         8     4  version, 1
        12     4  state: 1 held, 2 lost
        16     8  sequence number of this write; record = sequence number mod 2
        24     8  LSN from which the log is needed
        32     8  lost: the redo LSN when it was given up; else 0
        40     4  flags: 1 temporary
        44    16  zeros
        60     4  CRC-32C of bytes 0 to 59

The valid record with the higher sequence number counts.  A torn advance leaves the position before it, which holds
back more and never less; and neither advancing nor giving up needs space on the disk.  A file without a valid record is
one whose making was cut short, or was damaged: it holds nothing back.

A *temporary* slot is held only as long as whoever made it has its file locked, so one of a process that was killed goes
away by itself.

Slots are made and advanced by any process, while a system checkpoints; so the order in `create` matters: the slot is
there before the control file is looked at again.  A checkpoint looks at the slots after it wrote the control file.  If
`create` still sees a redo point that is not past the slot, the checkpoint sees the slot.

Source of the idea: PostgreSQL's replication slots and `max_slot_wal_keep_size`.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from typing import Final, Literal

import msgspec

from pfs.errors import (
    FileExists,
    FileMissing,
    InvalidName,
    InvalidRequest,
    RequestError,
    SlotExists,
    SlotLost,
    SlotNotFound,
)
from pfs.files.filesystem import FileSystem
from pfs.wal.blocking_io import close_file, failing, read_fully, sync_file, write_fully
from pfs.wal.control_file import newest_slot, read_slots
from pfs.wal.crc import crc32c
from pfs.wal.lsn import format_lsn

SLOT_DIRECTORY: Final = "pfs_slots"
MAGIC: Final = b"PFSWSLOT"
VERSION: Final = 1
RECORD_SIZE: Final = 64
RECORD_OFFSETS: Final = (0, 4096)
FILE_SIZE: Final = 8192
TEMPORARY: Final = 1

HELD: Final = 1
LOST: Final = 2

_FIELDS = struct.Struct("<8sIIQQQI16x")
_CRC = struct.Struct("<I")
_NAME = re.compile(r"[a-z0-9_-]{1,63}")


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A slot as its file says.

    `lsn`: from where on the log is needed (0 if the file is damaged); `state`: `"held"`, `"lost"` or `"damaged"`;
    `lost_at`: the redo LSN when it was lost, else 0; `temporary`: whether it ends with who made it.
    """

    name: str
    lsn: int = 0
    state: Literal["held", "lost", "damaged"] = "damaged"
    lost_at: int = 0
    temporary: bool = False
    sequence: int = 0


def check_slot_name(name: str) -> str:
    """Return a name that a slot can have, else raise `InvalidName`."""
    if type(name) is not str or _NAME.fullmatch(name) is None:
        raise InvalidName(f"slot name {name!r}: must be 1 to 63 of the characters a-z, 0-9, '_' and '-'")
    return name


def encode_slot(slot: Slot) -> bytes:
    """The 64 bytes of a record."""
    state = HELD if slot.state == "held" else LOST
    fields = _FIELDS.pack(MAGIC, VERSION, state, slot.sequence, slot.lsn, slot.lost_at, int(slot.temporary))
    return fields + _CRC.pack(crc32c(fields))


def decode_slot(name: str, content: bytes | bytearray) -> Slot:
    """What the file of a slot says."""
    newest = Slot(name=name)
    for offset in RECORD_OFFSETS:
        record = content[offset : offset + RECORD_SIZE]
        if len(record) != RECORD_SIZE or crc32c(record[: _FIELDS.size]) != _CRC.unpack_from(record, _FIELDS.size)[0]:
            continue
        magic, version, state, sequence, lsn, lost_at, flags = _FIELDS.unpack_from(record)
        if magic == MAGIC and version == VERSION and sequence > newest.sequence:
            newest = Slot(
                name=name,
                lsn=lsn,
                state="held" if state == HELD else "lost",
                lost_at=lost_at,
                temporary=bool(flags & TEMPORARY),
                sequence=sequence,
            )
    return newest


class SlotFiles:
    """The slots of a data directory.  Any process may use it; every call may block.

    Errors of all calls: `ReadFailed`, `WriteFailed`, `SyncFailed`, `Busy` (no descriptor).
    """

    def __init__(self, fs: FileSystem, directory: str = SLOT_DIRECTORY) -> None:
        self._fs = fs
        self.directory = directory
        self._locked: dict[str, int] = {}

    def all(self) -> list[Slot]:
        """The slots, by name."""
        with failing("look", f"list {self.directory!r}"):
            try:
                names = self._fs.listdir(self.directory)
            except FileNotFoundError:
                return []
        slots = []
        for name in filter(_NAME.fullmatch, names):
            with suppress(SlotNotFound):  # it was dropped just now
                slots.append(self.get(name))
        return slots

    def get(self, name: str) -> Slot:
        """Raises `InvalidName`, `SlotNotFound`."""
        descriptor = self._open(check_slot_name(name))
        try:
            return decode_slot(name, read_fully(self._fs, descriptor, FILE_SIZE, 0, self._path(name)))
        finally:
            close_file(self._fs, descriptor)

    def create(self, name: str, lsn: int | None = None, *, temporary: bool = False) -> Slot:
        """Make a slot, durably; the log from there on will not be removed.

        lsn: None for the redo point, which is as far back as the log can be had.
        Raises `InvalidName`, `InvalidRequest`, `SlotExists`, `NoSpace`, and `SlotLost` if the log from `lsn` on need
        not be there any more; then there is no slot.  Raises `ControlFileDamaged`.
        """
        check_slot_name(name)
        _check_lsn(1 if lsn is None else lsn)
        slot = self._make(name, self._redo_lsn() if lsn is None else lsn, temporary)
        try:
            while (redo := self._redo_lsn()) > slot.lsn:
                if lsn is not None:
                    raise SlotLost(
                        f"slot {name!r} cannot begin at LSN {format_lsn(lsn)}: the log before {format_lsn(redo)} is "
                        "not kept; begin there, with a new copy of everything"
                    )
                # A checkpoint may have given it up meanwhile, as what it asked for was gone before it was there.
                sequence = self.get(name).sequence
                slot = self._write(msgspec.structs.replace(slot, lsn=redo, sequence=sequence))
        except BaseException:
            with suppress(SlotNotFound):
                self.drop(name)
            raise
        return slot

    def advance(self, name: str, lsn: int) -> Slot:
        """The log before `lsn` is not needed any more.

        Raises `SlotNotFound`, `SlotLost`, `InvalidRequest` (an LSN before the slot's).
        """
        _check_lsn(lsn)
        slot = check_held(self.get(name))
        if lsn < slot.lsn:
            raise InvalidRequest(
                f"slot {name!r} is at LSN {format_lsn(slot.lsn)} and cannot go back to {format_lsn(lsn)}: the log "
                "before it may be gone"
            )
        return self._write(msgspec.structs.replace(slot, lsn=lsn))

    def lose(self, slot: Slot, redo_lsn: int) -> bool:
        """Give a slot up, durably: what it needs may be removed then.  False if it is not as it was, so not lost."""
        try:
            if self.get(slot.name) != slot:
                return False
            self._write(msgspec.structs.replace(slot, state="lost", lost_at=redo_lsn))
        except SlotNotFound:
            return False
        return True

    def drop(self, name: str) -> None:
        """Remove a slot, durably, whatever its state.  Raises `SlotNotFound`."""
        self._unlink(check_slot_name(name))
        if name in self._locked:  # not before: who gets the lock takes the slot for abandoned
            close_file(self._fs, self._locked.pop(name))
        self._sync_directory()

    def drop_if_abandoned(self, slot: Slot) -> bool:
        """Remove a temporary slot of a process that has ended; whether it was one."""
        if not slot.temporary:
            return False
        try:
            descriptor = self._open(slot.name)
        except SlotNotFound:
            return False
        try:
            with failing("open", f"lock {self._path(slot.name)!r}"):
                self._fs.lock(descriptor)
            if not self._is_at_its_path(slot.name, descriptor):  # another one has its name by now
                return False
            self._unlink(slot.name)
        except RequestError:
            return False
        finally:
            close_file(self._fs, descriptor)
        self._sync_directory()
        return True

    # ------------------------------------------------------------------------------------------ files

    def _redo_lsn(self) -> int:
        return newest_slot(read_slots(self._fs)).redo_lsn

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def _is_at_its_path(self, name: str, descriptor: int) -> bool:
        with failing("look", f"look at slot {name!r}"):
            mine, there = self._fs.fstat(descriptor), self._fs.stat(self._path(name))
        return (mine.device, mine.inode) == (there.device, there.inode)

    def _unlink(self, name: str) -> None:
        try:
            with failing("rename", f"remove slot {name!r}"):
                self._fs.unlink(self._path(name))
        except FileMissing:
            raise _not_found(name) from None

    def _open(self, name: str) -> int:
        try:
            with failing("open", f"open slot {name!r}"):
                return self._fs.open(self._path(name), os.O_RDWR)
        except FileMissing:
            raise _not_found(name) from None

    def _make(self, name: str, lsn: int, temporary: bool) -> Slot:
        fs, path = self._fs, self._path(name)
        with failing("rename", f"make directory {self.directory!r}"), suppress(FileExistsError):
            fs.mkdir(self.directory)
        with failing("sync", "sync the data directory"):
            fs.sync_directory("")
        try:
            with failing("rename", f"create {path!r}"):
                descriptor = fs.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExists:
            raise SlotExists(f"there is a slot {name!r} already; choose another name, or drop it first") from None
        slot = Slot(name=name, lsn=lsn, state="held", temporary=temporary, sequence=2)
        try:
            if temporary:  # before the file says so
                with failing("open", f"lock {path!r}"):
                    fs.lock(descriptor)
            write_fully(fs, descriptor, [encode_slot(slot).ljust(FILE_SIZE, b"\0")], 0, path)
            sync_file(fs.fsync, descriptor, path)
            self._sync_directory()
        except BaseException:
            close_file(fs, descriptor)
            with suppress(OSError):
                fs.unlink(path)
            raise
        if temporary:
            self._locked[name] = descriptor
        else:
            close_file(fs, descriptor)
        return slot

    def _write(self, slot: Slot) -> Slot:
        slot = msgspec.structs.replace(slot, sequence=slot.sequence + 1)
        path = self._path(slot.name)
        descriptor = self._open(slot.name)
        try:
            write_fully(self._fs, descriptor, [encode_slot(slot)], RECORD_OFFSETS[slot.sequence % 2], path)
            sync_file(self._fs.fdatasync, descriptor, path)
        finally:
            close_file(self._fs, descriptor)
        return slot

    def _sync_directory(self) -> None:
        with failing("sync", f"sync directory {self.directory!r}"):
            self._fs.sync_directory(self.directory)


def check_held(slot: Slot) -> Slot:
    """Return a slot that holds the log back, else raise `SlotLost`."""
    if slot.state == "lost":
        raise SlotLost(
            f"slot {slot.name!r} was given up when recovery began at LSN {format_lsn(slot.lost_at)}: it needed the log "
            f"from {format_lsn(slot.lsn)} on, more than could be kept for it; drop it, and begin anew with a copy of "
            "everything (slot_bytes is the limit)"
        )
    if slot.state == "damaged":
        raise SlotLost(f"the file of slot {slot.name!r} is damaged, so it holds nothing back; drop it, and begin anew")
    return slot


def _not_found(name: str) -> SlotNotFound:
    return SlotNotFound(f"there is no slot {name!r}")


def _check_lsn(lsn: int) -> None:
    if type(lsn) is not int or not 0 < lsn < 1 << 64:
        raise InvalidRequest(f"LSN {lsn!r}: must be an int from 1 to 2^64 - 1")
