"""The segments of the log as files: made ahead, written, synced, read, used again.

    pfs_wal/000000010000000000000001    a segment; the newest ones may lie ahead of the log, prepared
    pfs_wal/xlogtemp.<segment>          a segment in the making
    pfs_wal/<segment>.torn              what recovery found behind the end of the log, kept for whoever wants to look

A segment gets its name when it is whole: filled with zeros (or an old one with a new header), synced, renamed, and the
directory synced.  So writing the log changes no size and no name, and its sync writes nothing but the log.  What an old
one holds need not be erased, as its records say where they belong.

Plain blocking code.  One thread may write and sync while another makes, recycles and removes segments; no more than one
of each.  The descriptors of what is written are kept open, outside the pool of virtual files.  Errors:
`NoSpace` (from making a segment, which then does not exist), `Busy` (no descriptor is to be had: the same call can be
made again), `WriteFailed`, `SyncFailed`, `ReadFailed`, `ForeignWalSegment`; after any other than the first two only a
new start can tell what is in the files.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from pfs.errors import ForeignWalSegment, InvalidRequest, PfsError, WalDamaged
from pfs.files.failures import NO_DESCRIPTORS, Deed, meaning
from pfs.files.filesystem import FileSystem, WriteBuffer
from pfs.wal.blocking_io import close_file, failing, read_fully, sync_file, write_fully
from pfs.wal.log_buffer import Batch
from pfs.wal.lsn import SEGMENT_HEADER_SIZE, check_segment_size, parse_segment_name, segment_name
from pfs.wal.segment_header import VERSION, SegmentHeader, decode_segment_header, encode_segment_header

WAL_DIRECTORY = "pfs_wal"

SyncMethod = Literal["fdatasync", "fsync", "O_DSYNC", "none"]
"""How a batch becomes durable: by a call after the write; by the write itself; or never, which is for loads that can be
repeated: after a power cut the directory may be useless."""

SYNC_METHODS: tuple[SyncMethod, ...] = ("fdatasync", "fsync", "O_DSYNC", "none")

_ZEROS = bytes(1 << 20)


class Segment(NamedTuple):
    """A segment's content.  Without a valid header its records may be right all the same."""

    number: int
    content: memoryview
    header: SegmentHeader | None


class LogFiles:
    """The log of one data directory (see the module)."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        system_id: int,
        segment_size: int,
        timeline: int = 1,
        sync_method: SyncMethod = "fdatasync",
        directory: str = WAL_DIRECTORY,
    ) -> None:
        if sync_method not in SYNC_METHODS:
            raise InvalidRequest(f"unknown sync method {sync_method!r}; there are {', '.join(SYNC_METHODS)}")
        self._fs = fs
        self.system_id = system_id
        self.segment_size = check_segment_size(segment_size)
        self.timeline = timeline
        self.sync_method = sync_method
        self.directory = directory
        self._open: dict[int, int] = {}
        self._unsynced: set[int] = set()
        self._existing: set[int] | None = None
        self._names_changed = False

    # ------------------------------------------------------------------------------------------ names

    def name(self, segment: int) -> str:
        """The file name of a segment."""
        return segment_name(self.timeline, segment, self.segment_size)

    def path(self, segment: int) -> str:
        return f"{self.directory}/{self.name(segment)}"

    def make_directory(self) -> None:
        """Make the log's directory if there is none."""
        fs = self._fs
        with failing("rename", f"make directory {self.directory!r}"):
            if not fs.exists(self.directory):
                fs.mkdir(self.directory)
        with failing("sync", "sync the data directory"):
            fs.sync_directory("")

    def segments(self) -> list[int]:
        """The numbers of the existing segments of this timeline, in order; none if there is no directory."""
        return sorted(self._numbers())

    def end_of_segments(self) -> int:
        """The LSN where the last existing segment ends: the limit of the log buffer."""
        return (max(self._numbers(), default=0) + 1) * self.segment_size

    def look_again(self) -> None:
        """Forget which segments there are: another process makes and recycles them."""
        self._existing = None

    def _numbers(self) -> set[int]:
        if self._existing is None:
            with failing("look", f"list {self.directory!r}"):
                try:
                    names = self._fs.listdir(self.directory)
                except FileNotFoundError:
                    names = []
            parsed = [parse_segment_name(name, self.segment_size) for name in names]
            self._existing = {found.segment for found in parsed if found and found.timeline == self.timeline}
        return self._existing

    # ------------------------------------------------------------------------------------------ making

    def prepare(self, segment: int, epoch: int) -> None:
        """Make a segment full of zeros, durably; no effect if it exists.  Raises `NoSpace`, `Busy`."""
        if segment in self._numbers():
            if self._names_changed:  # since an attempt to sync the directory found no descriptor for it
                self._sync_directory()
            return
        temporary = self._temporary(segment)
        try:
            self._fill(temporary, segment, epoch)
        except PfsError:
            self._try_unlink(temporary)
            raise
        self._rename(temporary, segment)
        self._sync_directory()

    def recycle(self, before: int, upto: int, epoch: int) -> None:
        """Use the segments below number `before` again, as the next after the last; remove what would be beyond `upto`.

        The caller knows that nothing needs them.  An old segment first gets the header of what it will be, then that
        name, in one rename: under a name that is part of the log, the header is always right, and so is the length.
        """
        old = [segment for segment in self.segments() if segment < before]
        following = max(max(self._numbers(), default=0) + 1, before + 1)
        for segment in old:
            self._close(segment)
            path = self.path(segment)
            if following > upto or self._size(path) != self.segment_size:
                self._unlink(segment)
                continue
            descriptor = self._open_file(path, os.O_RDWR)
            try:
                write_fully(self._fs, descriptor, [self._header(following, epoch)], 0, path)
                self._sync_descriptor(descriptor, path)
            finally:
                close_file(self._fs, descriptor)
            self._rename(path, following)
            self._numbers().discard(segment)
            following += 1
        if self._names_changed:
            self._sync_directory()

    def remove_leftovers(self) -> None:
        """Remove segments that a crash left in the making."""
        with failing("look", f"list {self.directory!r}"):
            names = self._fs.listdir(self.directory)
        for name in names:
            if name.startswith("xlogtemp."):
                with failing("rename", f"remove {name!r}"):
                    self._fs.unlink(f"{self.directory}/{name}")

    def _fill(self, path: str, segment: int, epoch: int) -> None:
        descriptor = self._open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            header = self._header(segment, epoch)
            whole, rest = divmod(self.segment_size - len(header), len(_ZEROS))
            write_fully(self._fs, descriptor, [header, *[_ZEROS] * whole, _ZEROS[:rest]], 0, path)
            self._sync_descriptor(descriptor, path)
        finally:
            close_file(self._fs, descriptor)

    def _header(self, segment: int, epoch: int) -> bytes:
        return encode_segment_header(SegmentHeader(self.timeline, segment, self.system_id, self.segment_size, epoch))

    # ------------------------------------------------------------------------------------------ writing

    def write(self, batch: Batch) -> None:
        """Write a batch; with `"O_DSYNC"` it is durable then.  Its segments must exist."""
        for segment, offset, buffers in batch.parts:
            self._write(segment, offset, buffers)

    def sync(self) -> None:
        """Make all that was written durable, as the sync method says.  A failure must never be tried again."""
        if self.sync_method in ("fdatasync", "fsync"):
            for segment in sorted(self._unsynced):
                self._sync_descriptor(self._open[segment], self.path(segment))
        newest = max(self._unsynced, default=0)
        for segment in [each for each in list(self._open) if each < newest]:
            self._close(segment)  # the log has left it
        self._unsynced.clear()

    def rewrite(self, lsn: int, data: WriteBuffer) -> None:
        """Write bytes at a position, all in one segment: for recovery."""
        segment, offset = divmod(lsn, self.segment_size)
        self._write(segment, offset, [data])

    def _write(self, segment: int, offset: int, buffers: list[bytes] | list[WriteBuffer]) -> None:
        descriptor = self._open.get(segment)
        if descriptor is None:
            flags = os.O_RDWR | (os.O_DSYNC if self.sync_method == "O_DSYNC" else 0)
            descriptor = self._open[segment] = self._open_file(self.path(segment), flags)
        self._unsynced.add(segment)
        write_fully(self._fs, descriptor, buffers, offset, self.path(segment))

    # ------------------------------------------------------------------------------------------ reading

    def read(self, segment: int) -> Segment | None:
        """A segment's whole content; None if it does not exist.

        Raises `ForeignWalSegment` if its header is whole, and says that the file is something else.
        """
        if segment not in self._numbers():
            return None
        path = self.path(segment)
        descriptor = self._open_file(path, os.O_RDONLY)
        try:
            content = memoryview(read_fully(self._fs, descriptor, self.segment_size, 0, path))
        finally:
            close_file(self._fs, descriptor)
        header = decode_segment_header(content[:SEGMENT_HEADER_SIZE])
        if header is not None:
            self._check_header(header, segment, path)
        return Segment(segment, content, header)

    def check(self, segment: int) -> None:
        """Look at the length and the header of a segment.  Raises `WalDamaged`, `ForeignWalSegment`."""
        path = self.path(segment)
        size = self._size(path)
        if size != self.segment_size:
            raise WalDamaged(f"WAL segment {path!r} has {size} bytes, and not {self.segment_size}")
        header = self._read_header(segment)
        if header is None:
            raise WalDamaged(f"the header of WAL segment {path!r} is not valid")
        self._check_header(header, segment, path)

    def oldest(self, redo_lsn: int) -> int:
        """Where the first record is of those that lead to the redo point without a gap."""
        number = redo_lsn // self.segment_size
        existing = set(self._numbers())
        while number - 1 in existing and not self.is_being_recycled(number - 1):
            number -= 1
        return number * self.segment_size + SEGMENT_HEADER_SIZE

    def is_being_recycled(self, segment: int) -> bool:
        """True if a crash may have ended `recycle` between giving an old segment its new header and its new name.

        So it is with one whose header says that it comes later in the log, and with one whose header is not valid,
        unless the segment before it is there still: the oldest goes first.  Such a segment is no part of the log.
        """
        header = self._read_header(segment)
        if header is None:
            if segment - 1 not in self._numbers():
                return True
            segment -= 1
            header = self._read_header(segment)
        return header is not None and header.system_id == self.system_id and header.segment > segment

    def _read_header(self, segment: int) -> SegmentHeader | None:
        path = self.path(segment)
        descriptor = self._open_file(path, os.O_RDONLY)
        try:
            return decode_segment_header(read_fully(self._fs, descriptor, SEGMENT_HEADER_SIZE, 0, path))
        finally:
            close_file(self._fs, descriptor)

    def _check_header(self, header: SegmentHeader, segment: int, path: str) -> None:
        for what, found, wanted in (
            ("formats of version", header.version, VERSION),
            ("system id", header.system_id, self.system_id),
            ("timeline", header.timeline, self.timeline),
            ("segment size", header.segment_size, self.segment_size),
            ("segment number", header.segment, segment),
        ):
            if found != wanted:
                raise ForeignWalSegment(
                    f"WAL segment {path!r} is not of this directory: it has {what} {found}, and {wanted} is wanted; "
                    "restore the segment that belongs there"
                )

    # ------------------------------------------------------------------------------------------ taking away

    def remove(self, segment: int) -> None:
        """Remove a segment; durable after `sync_names`."""
        self._close(segment)
        self._unlink(segment)

    def set_aside(self, segment: int) -> None:
        """Rename a segment so that it is not part of the log any more: `<name>.torn`; durable after `sync_names`."""
        self._close(segment)
        with failing("rename", f"rename {self.path(segment)!r}"):
            self._fs.rename(self.path(segment), f"{self.path(segment)}.torn")
        self._numbers().discard(segment)

    def save_torn(self, segment: int, data: WriteBuffer) -> None:
        """Keep bytes that recovery is about to erase, in `<name>.torn`, if there is space for them."""
        path = f"{self.path(segment)}.torn"
        try:
            descriptor = self._open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                write_fully(self._fs, descriptor, [data], 0, path)
                self._sync_descriptor(descriptor, path)
            finally:
                close_file(self._fs, descriptor)
        except PfsError:
            self._try_unlink(path)  # nothing depends on the copy

    def sync_names(self) -> None:
        """Make removals and renames durable."""
        self._sync_directory()

    def close(self) -> None:
        """Close all descriptors; what is not synced stays so."""
        for segment in list(self._open):
            self._close(segment)

    # ------------------------------------------------------------------------------------------ single calls

    def _size(self, path: str) -> int:
        with failing("look", f"look at {path!r}"):
            return self._fs.stat(path).size

    def _temporary(self, segment: int) -> str:
        return f"{self.directory}/xlogtemp.{self.name(segment)}"

    def _open_file(self, path: str, flags: int) -> int:
        with failing("open", f"open {path!r}"):
            return self._fs.open(path, flags)

    def _close(self, segment: int) -> None:
        descriptor = self._open.pop(segment, None)
        if descriptor is not None:
            close_file(self._fs, descriptor)

    def _rename(self, temporary: str, segment: int) -> None:
        with failing("rename", f"rename {temporary!r} to {self.path(segment)!r}"):
            self._fs.rename(temporary, self.path(segment))
        self._names_changed = True
        self._numbers().add(segment)

    def _unlink(self, segment: int) -> None:
        with failing("rename", f"remove {self.path(segment)!r}"):
            self._fs.unlink(self.path(segment))
        self._names_changed = True
        self._numbers().discard(segment)

    def _try_unlink(self, path: str) -> None:
        try:
            self._fs.unlink(path)
        except OSError:
            pass  # it is removed at the next start

    def _sync_directory(self) -> None:
        try:
            self._fs.sync_directory(self.directory)
        except OSError as error:
            deed: Deed = "open" if error.errno in NO_DESCRIPTORS else "sync"  # without one, no sync was tried
            raise meaning(error, deed, f"sync directory {self.directory!r}") from error
        self._names_changed = False

    def _sync_descriptor(self, descriptor: int, path: str) -> None:
        sync_file(self._fs.fdatasync if self.sync_method == "fdatasync" else self._fs.fsync, descriptor, path)
