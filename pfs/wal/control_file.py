"""The control file: where recovery begins.

`pfs_control` has 8 KiB and two slots of 512 bytes, at 0 and at 4096.  Each write goes to the slot that the last write
did not go to, and is synced; the valid slot with the higher sequence number counts.  So a torn write leaves the slot
before it, even where a disk has sectors of 4 KiB, and no rename is needed.

    offset  size
         0     8  magic, "PFSCNTRL"
         8     4  version of all formats in the directory
        12     4  state: 1 being made, 2 in use, 3 recovering, 4 stopped in order
        16     8  sequence number of this write; slot = sequence number mod 2
        24     8  system id
        32     4  timeline
        36     4  epoch, the highest ever used
        40     4  id of the checksum (1: CRC-32C)
        44     4  segment size of the WAL
        48     8  LSN of the last CHECKPOINT record
        56     8  redo LSN: where recovery begins
        64     8  durable hint: the log was durable up to here
        72    16  boot id of the machine when it was last started here, zeros if not known
        88   420  zeros
       508     4  CRC-32C of bytes 0 to 507

Invariants: `sequence`, `epoch` and `durable_hint` never decrease; what a slot names was durable before it was written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pfs.errors import BackupUnfinished, ControlFileDamaged, FileMissing
from pfs.files.filesystem import FileSystem
from pfs.wal.blocking_io import close_file, failing, read_fully, sync_file, write_fully
from pfs.wal.crc import CRC32C_ID, crc32c

CONTROL_FILE: Final = "pfs_control"
TEMPORARY_FILE: Final = "pfs_control.new"
MAGIC: Final = b"PFSCNTRL"
VERSION: Final = 1
SLOT_SIZE: Final = 512
SLOT_OFFSETS: Final = (0, 4096)
FILE_SIZE: Final = 8192

UNFINISHED_BACKUP: Final = b"PFSBACKU: this is a backup that did not get to its end; remove it.\n".ljust(
    FILE_SIZE, b"\0"
)
"""What stands in place of the control file until a backup is whole."""

MAKING: Final = 1
IN_USE: Final = 2
RECOVERING: Final = 3
STOPPED: Final = 4

STATE_NAMES: Final = {MAKING: "being made", IN_USE: "in use", RECOVERING: "recovering", STOPPED: "stopped in order"}

_FIELDS = struct.Struct("<8sIIQQIIIIQQQ16s420x")
_CRC = struct.Struct("<I")


class ControlData(msgspec.Struct, frozen=True, kw_only=True):
    """What a slot says (see the module)."""

    system_id: int
    segment_size: int
    state: int = MAKING
    timeline: int = 1
    epoch: int = 1
    crc_id: int = CRC32C_ID
    checkpoint_lsn: int = 0
    redo_lsn: int = 0
    durable_hint: int = 0
    boot_id: bytes = bytes(16)
    sequence: int = 1
    version: int = VERSION


def encode_slot(data: ControlData) -> bytes:
    """The 512 bytes of a slot."""
    fields = _FIELDS.pack(
        MAGIC,
        data.version,
        data.state,
        data.sequence,
        data.system_id,
        data.timeline,
        data.epoch,
        data.crc_id,
        data.segment_size,
        data.checkpoint_lsn,
        data.redo_lsn,
        data.durable_hint,
        data.boot_id,
    )
    return fields + _CRC.pack(crc32c(fields))


def decode_slot(slot: bytes) -> ControlData | None:
    """What a slot says; None if it is not valid."""
    if len(slot) != SLOT_SIZE or crc32c(slot[: _FIELDS.size]) != _CRC.unpack_from(slot, _FIELDS.size)[0]:
        return None
    magic, version, state, sequence, system_id, timeline, epoch, crc_id, segment_size, *rest = _FIELDS.unpack_from(slot)
    if magic != MAGIC:
        return None
    checkpoint_lsn, redo_lsn, durable_hint, boot_id = rest
    return ControlData(
        system_id=system_id,
        segment_size=segment_size,
        state=state,
        timeline=timeline,
        epoch=epoch,
        crc_id=crc_id,
        checkpoint_lsn=checkpoint_lsn,
        redo_lsn=redo_lsn,
        durable_hint=durable_hint,
        boot_id=boot_id,
        sequence=sequence,
        version=version,
    )


def read_slots(fs: FileSystem, path: str = CONTROL_FILE) -> list[ControlData | None]:
    """What the slots of a control file say, None for one that is not valid; the file is opened for reading only.

    Raises `FileMissing`, `BackupUnfinished`.
    """
    with failing("open", f"open {path!r}"):
        descriptor = fs.open(path, os.O_RDONLY)
    try:
        return _decoded(bytes(read_fully(fs, descriptor, FILE_SIZE, 0, path)))
    finally:
        close_file(fs, descriptor)


def newest_slot(slots: Sequence[ControlData | None], path: str = CONTROL_FILE) -> ControlData:
    """The slot that counts.  Raises `ControlFileDamaged`."""
    valid = [slot for slot in slots if slot is not None]
    if not valid:
        raise ControlFileDamaged(
            f"no slot of {path!r} is valid: it was damaged, or is not a control file; restore the directory from a "
            "backup"
        )
    newest = max(valid, key=lambda slot: slot.sequence)
    if newest.version != VERSION or newest.crc_id != CRC32C_ID:
        raise ControlFileDamaged(
            f"{path!r} says that the directory has formats of version {newest.version} and checksum {newest.crc_id}; "
            f"this pfs knows version {VERSION} and checksum {CRC32C_ID}: use the pfs that wrote it"
        )
    return newest


def check_no_unfinished_backup(fs: FileSystem, path: str = CONTROL_FILE) -> None:
    """Raise `BackupUnfinished` if the directory is what an interrupted or failed backup left."""
    with suppress(FileMissing):
        read_slots(fs, path)


def _decoded(content: bytes) -> list[ControlData | None]:
    if content == UNFINISHED_BACKUP:
        raise BackupUnfinished(
            "this directory is a backup that was interrupted or failed, and not whole: remove it, and make the backup "
            "again"
        )
    return [decode_slot(content[offset : offset + SLOT_SIZE]) for offset in SLOT_OFFSETS]


class ControlFile:
    """The control file of a data directory.  For one thread at a time; every call may block.

    A failed read is `ReadFailed`; a failed write or sync `WriteFailed` or `SyncFailed`, after which only a new start
    can tell what is in the file; `create` may also raise `NoSpace`, and then there is no control file.
    """

    def __init__(self, fs: FileSystem, path: str = CONTROL_FILE) -> None:
        self._fs = fs
        self.path = path
        self._data: ControlData | None = None
        self._descriptor: int | None = None

    @property
    def data(self) -> ControlData:
        """What was read or written last."""
        assert self._data is not None, "read() or create() comes first"
        return self._data

    def exists(self) -> bool:
        with failing("look", f"look for {self.path!r}"):
            return self._fs.exists(self.path)

    def create(self, data: ControlData) -> None:
        """Make the file, whole or not at all; there must be none."""
        first, second = SLOT_OFFSETS
        content = bytearray(FILE_SIZE)
        for offset in (first, second):
            content[offset : offset + SLOT_SIZE] = encode_slot(data)
        fs = self._fs
        with failing("rename", f"create {self.path!r}"):
            descriptor = fs.open(TEMPORARY_FILE, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            write_fully(fs, descriptor, [bytes(content)], 0, TEMPORARY_FILE)
            sync_file(fs.fsync, descriptor, TEMPORARY_FILE)
        finally:
            close_file(fs, descriptor)
        with failing("rename", f"rename {TEMPORARY_FILE!r} to {self.path!r}"):
            fs.rename(TEMPORARY_FILE, self.path)
        with failing("sync", "sync the data directory"):
            fs.sync_directory("")
        self._data = data

    def read(self) -> ControlData:
        """The newest valid slot.  Raises `ControlFileDamaged`, `BackupUnfinished`."""
        content = bytes(read_fully(self._fs, self._opened(), FILE_SIZE, 0, self.path))
        newest = newest_slot(_decoded(content), self.path)
        self._data = newest
        return newest

    def write(self, **changes: int | bytes) -> ControlData:
        """Change fields (by name, as in `ControlData`), durably.  Returns what the file says now."""
        data = msgspec.structs.replace(self.data, **changes, sequence=self.data.sequence + 1)
        write_fully(self._fs, self._opened(), [encode_slot(data)], SLOT_OFFSETS[data.sequence % 2], self.path)
        sync_file(self._fs.fdatasync, self._opened(), self.path)
        self._data = data
        return data

    def close(self) -> None:
        """Close the descriptor, which reading or writing opens and keeps."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            close_file(self._fs, descriptor)

    def _opened(self) -> int:
        if self._descriptor is None:
            with failing("open", f"open {self.path!r}"):
                self._descriptor = self._fs.open(self.path, os.O_RDWR)
        return self._descriptor
