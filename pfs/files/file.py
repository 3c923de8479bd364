"""A virtual file: one that can be used at any time, though its descriptor may be closed at this moment.

Below it a `DescriptorPool` closes the descriptor when others need it, and opens the file again when it is used
(`pfs.files.descriptors` has the whole story).  What the user of a virtual file can rely on:

* Rights are those of opening, whatever happened to the descriptor since.  A file that was removed or replaced
  underneath is never silently another file: it is `FileReplaced`.
* Nothing written is forgotten: a dirty file is synced before its descriptor is closed, for whatever reason.
* After a write or sync that failed, the file does nothing more but raise that failure, and so does every other opening
  of it through the same pool (`pfs.files.failures` says which errno means what).
* The logical position lives here, as descriptors are only ever used with explicit offsets.
* Writes that make the file longer, and changes of its length, take turns within one virtual file, so that the size can
  be restored when there is no space for the whole of it.  Two virtual files of one file do not take turns.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from pfs.errors import (
    AccessDenied,
    InvalidRequest,
    OutOfRange,
    WriteFailed,
)
from pfs.files.buffers import MAX_BUFFERS, MAX_OFFSET, behind, check_offset, check_range, total_size
from pfs.files.descriptors import DescriptorPool
from pfs.files.engine import Engine
from pfs.files.failures import meaning
from pfs.files.filesystem import FileStat, ReadBuffer, WriteBuffer
from pfs.files.length_change import LengthChange
from pfs.files.open_file import OpenFile
from pfs.files.open_options import OpenOptions

Buffer = TypeVar("Buffer", bound=ReadBuffer | WriteBuffer)


class VirtualFile:
    """A file that can be used at any time, though its descriptor may be closed at this moment.

    Made by a `VirtualFilePool`.  Positioned calls (`*_at`), syncs and `metadata` may be made by many threads at once;
    the sequential calls share one position and are for one thread at a time.  Every call may raise `FileClosed`,
    `AccessDenied`, `InvalidRequest` (bad offset, length or type; nothing changed), `Busy` (no descriptor to be had),
    and after a fatal error `WriteFailed`, `SyncFailed` or `FileReplaced` for ever.
    """

    __slots__ = (
        "_clock",
        "_descriptors",
        "_engine",
        "_file",
        "_metrics",
        "_options",
        "_position",
        "_preadv",
        "_queue",
        "_reads",
        "_touch",
        "_traffic",
    )

    def __init__(
        self,
        descriptors: DescriptorPool,
        file: OpenFile,
        options: OpenOptions,
        engine: Engine,
        clock: Callable[[], float],
    ) -> None:
        self._descriptors = descriptors
        self._file = file
        self._options = options
        self._engine = engine
        self._clock = clock
        self._position = 0
        # Kept at hand for reading, the one path where an attribute more can be measured.
        self._metrics = descriptors.metrics
        self._reads = descriptors.metrics.read
        self._traffic = file.traffic
        self._preadv = descriptors.fs.preadv
        self._touch = descriptors.touch
        self._queue = descriptors.queue

    @property
    def path(self) -> str:
        """The path by which the file is opened again; it follows `VirtualFilePool.durable_rename`."""
        return self._file.path

    @property
    def options(self) -> OpenOptions:
        """The options of the first opening."""
        return self._options

    @property
    def closed(self) -> bool:
        """True after `close`, `remove`, or the closing of the pool."""
        return self._file.closed

    @property
    def dirty(self) -> bool:
        """True if a write has returned that no sync covers yet; never for a temporary file."""
        return self._file.dirty

    def __repr__(self) -> str:
        return f"<VirtualFile {self._file.path!r}{' closed' if self._file.closed else ''}>"

    def __enter__(self) -> VirtualFile:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A finalizer may run anywhere, with any lock held: it only leaves a note for the next who passes by.
        file = self._file
        if not file.closed:
            self._descriptors.dropped.append(file)
            warnings.warn(f"virtual file {file.path!r} was dropped without close", ResourceWarning, stacklevel=2)

    # ------------------------------------------------------------------------------------------ positioned reads

    def read_at(self, buffer: ReadBuffer, offset: int) -> int:
        """One read into `buffer`; returns the bytes read, 0 at the end of the file.  Raises `PageIOError`."""
        return self._read((buffer,), offset)

    def read_exact_at(self, buffer: ReadBuffer, offset: int) -> None:
        """Fill `buffer`, continuing short reads.  Raises `OutOfRange` if the file ends before."""
        total = total_size((buffer,))
        count = self._read((buffer,), offset)
        if count < total:
            count = self._read_on((buffer,), offset, count, total)
            if count < total:
                raise OutOfRange(
                    f"{self.path!r} ends at {offset + count}, before the end of the {total} bytes at {offset}"
                )

    def read_exact_at_n(self, buffer: ReadBuffer, offset: int, count: int) -> None:
        """Fill the first `count` bytes of `buffer` (1 <= count <= its length)."""
        total = total_size((buffer,))
        if type(count) is not int or not 1 <= count <= total:
            raise InvalidRequest(f"count must be an int from 1 to the buffer's length {total}, not {count!r}")
        self.read_exact_at(memoryview(buffer).cast("B")[:count], offset)

    def readv_at(self, buffers: Sequence[ReadBuffer], offset: int) -> int:
        """Fill the buffers one after another, continuing short reads; fewer bytes mean the end of the file."""
        total = total_size(buffers)
        count = self._read(buffers if len(buffers) <= MAX_BUFFERS else buffers[:MAX_BUFFERS], offset)
        return count if count == total else self._read_on(buffers, offset, count, total)

    def try_readv_at_nowait(self, buffers: Sequence[ReadBuffer], offset: int) -> int | None:
        """Read what the kernel has in its page cache, without ever waiting; the slot is pinned meanwhile.

        Returns the bytes read (fewer if only a first part is cached, 0 at the end of the file), or None if nothing can
        be said without waiting (not cached, descriptor closed, engine `psync`): then call `readv_at` where blocking is
        allowed.
        """
        file = self._file
        check_offset(offset)
        total_size(buffers)
        slot, tag = file.handle
        slot.pins.append(None)
        try:
            if slot.tag != tag:
                file.check()
                count = None
            else:
                self._touch(slot.index)
                count = self._engine.try_read(slot.descriptor, buffers, offset)
        except (OSError, TypeError, BufferError) as error:
            raise self._read_failed(error, buffers, offset) from error
        finally:
            self._queue.unpin(slot)
        if count is None:
            self._metrics.nowait_misses += 1
        else:
            self._metrics.nowait_hits += 1
            self._traffic.read += count
        return count

    def _read(self, buffers: Sequence[ReadBuffer], offset: int) -> int:
        """One system call's read.  This is the hot path: the steps of `DescriptorPool.pin` are written out."""
        if type(offset) is not int or offset < 0:
            check_offset(offset)
        file = self._file
        slot, tag = file.handle
        pins = slot.pins
        pins.append(None)
        if slot.tag == tag:
            self._touch(slot.index)
        else:
            slot = self._descriptors.pin_slowly(file, "read", slot)
            pins = slot.pins
        clock = self._clock
        started = clock()
        try:
            count = self._preadv(slot.descriptor, buffers, offset)
        except Exception as error:
            count = self._read_again(error, slot.descriptor, buffers, offset)
        finally:
            pins.pop()
            queue = self._queue
            if queue.waiting or queue.closing:
                queue.offer(slot)
        reads = self._reads
        reads.seconds += clock() - started
        reads.count += 1
        self._traffic.read += count
        return count

    def _read_again(self, error: Exception, descriptor: int, buffers: Sequence[ReadBuffer], offset: int) -> int:
        """After EINTR, until something else comes of it."""
        while isinstance(error, InterruptedError):
            try:
                return self._preadv(descriptor, buffers, offset)
            except Exception as another:
                error = another
        raise self._read_failed(error, buffers, offset) from error

    def _read_failed(self, error: Exception, buffers: Sequence[ReadBuffer], offset: int) -> Exception:
        """What a failed read stands for."""
        if isinstance(error, OSError):
            if error.errno == errno.EBADF and not self._options.read:
                return AccessDenied(f"{self.path!r} is not open for reading")
            recovering = self._descriptors.recovering
            return meaning(error, "read", f"read at {offset} of {self.path!r}", recovering=recovering)
        if isinstance(error, (TypeError, BufferError, OverflowError, ValueError)):
            return InvalidRequest(f"cannot read at {offset!r} into these buffers: {error}")
        return error

    def _read_on(self, buffers: Sequence[ReadBuffer], offset: int, count: int, total: int) -> int:
        """Continue a short read until all is filled or the file ends; returns the bytes read in all."""
        while 0 < count < total:
            more = self._read(behind(buffers, count), offset + count)
            if not more:
                break
            count += more
        return count

    # ------------------------------------------------------------------------------------------ positioned writes

    def write_at(self, data: WriteBuffer, offset: int) -> int:
        """One write; returns the bytes written, which may be fewer.  Raises `NoSpace`, `WriteFailed`."""
        return self._write((data,), offset, whole=False)

    def write_all_at(self, data: WriteBuffer, offset: int) -> None:
        """Write all of `data`, continuing short writes.  On `NoSpace` the file has its former size again.

        (What lay in the range before may be overwritten in part even so.)
        """
        self._write((data,), offset, whole=True)

    def writev_at(self, buffers: Sequence[WriteBuffer], offset: int) -> int:
        """Write all the buffers one after another, as `write_all_at` does; returns their total length."""
        return self._write(buffers, offset, whole=True)

    def _write(self, buffers: Sequence[WriteBuffer], offset: int, *, whole: bool) -> int:
        total = total_size(buffers)
        check_range(offset, total)
        if self._options.append:
            raise InvalidRequest(f"{self.path!r} is open for appending: it cannot be written at an offset; use write")
        file = self._begin_change()
        if not total:
            return 0
        descriptors = self._descriptors
        if offset + total > file.size:
            return self._write_longer(buffers, offset, total, whole)[1]
        slot = descriptors.pin(file, "write")
        try:
            return self._write_pieces(slot.descriptor, buffers, offset, total, whole)
        finally:
            descriptors.queue.unpin(slot)

    def _write_longer(
        self, buffers: Sequence[WriteBuffer], offset: int | None, total: int, whole: bool
    ) -> tuple[int, int]:
        """A write that may make the file longer; at the end if `offset` is None.  Returns where it began, and bytes."""
        with LengthChange(self._descriptors, self._file, "write") as change:
            if offset is None:
                offset = change.before
                check_range(offset, total)
            count = self._write_pieces(change.descriptor, buffers, offset, total, whole)
            change.grown_to(offset + count)
        return offset, count

    def _write_pieces(
        self, descriptor: int, buffers: Sequence[WriteBuffer], offset: int, total: int, whole: bool
    ) -> int:
        descriptors, file = self._descriptors, self._file
        pwritev = descriptors.fs.pwritev
        done = 0
        clock = self._clock
        started = clock()
        try:
            while True:
                try:
                    count = pwritev(descriptor, buffers[:MAX_BUFFERS], offset + done)
                except InterruptedError:
                    continue
                except OSError as error:
                    what = f"write {total} bytes at {offset} of {file.path!r}"
                    failure = meaning(error, "write", what)
                    raise descriptors.failed(file, failure) from error
                if not count:
                    what = f"could not write {total} bytes at {offset} of {file.path!r}: the disk takes none"
                    raise descriptors.failed(file, WriteFailed(what))
                done += count
                if done >= total or not whole:
                    return done
                buffers = behind(buffers, count)
        finally:
            # Only now, with the pin still held: a sync that begins from here on covers it, one before may not have.
            file.written = next(descriptors.tickets)
            timed = self._metrics.write
            timed.seconds += clock() - started
            timed.count += 1
            self._traffic.written += done

    def _begin_change(self) -> OpenFile:
        if not self._options.writable:
            raise AccessDenied(f"{self.path!r} is not open for writing")
        self._file.check()
        return self._file

    # ------------------------------------------------------------------------------------------ sequential

    @property
    def position(self) -> int:
        """Where the next sequential read or write begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position (`os.SEEK_SET`, `SEEK_CUR`, `SEEK_END`) and return it.

        A position before 0 is `InvalidRequest` and leaves the position as it was; one past the end is allowed.
        """
        started = self._clock()
        self._file.check()
        if type(offset) is not int:
            raise InvalidRequest(f"a seek offset must be an int, not {offset!r}")
        if whence == os.SEEK_SET:
            base = 0
        elif whence == os.SEEK_CUR:
            base = self._position
        elif whence == os.SEEK_END:
            base = self.metadata().size
        else:
            raise InvalidRequest(f"whence must be os.SEEK_SET, SEEK_CUR or SEEK_END, not {whence!r}")
        if not 0 <= base + offset <= MAX_OFFSET:
            raise InvalidRequest(f"cannot seek to {base + offset} in {self.path!r}: positions are 0 to 2**63 - 1")
        self._position = base + offset
        timed = self._metrics.seek
        timed.count += 1
        timed.seconds += self._clock() - started
        return self._position

    def read(self, buffer: ReadBuffer) -> int:
        """One read at the position, which moves on; returns the bytes read, 0 at the end of the file."""
        count = self._read((buffer,), self._position)
        self._position += count
        return count

    def read_to_end(self) -> bytes:
        """All from the position to the end of the file."""
        parts = []
        while True:
            rest = self.metadata().size - self._position
            buffer = bytearray(max(rest, 0) + 1)  # one more, to meet the end without another round
            count = self.readv_at((buffer,), self._position)
            self._position += count
            parts.append(bytes(memoryview(buffer)[:count]))
            if count < len(buffer):
                return b"".join(parts)

    def write(self, data: WriteBuffer) -> int:
        """One write at the position (at the end for a file opened with append); returns the bytes written."""
        return self._write_next(data, whole=False)

    def write_all(self, data: WriteBuffer) -> None:
        """Write all of `data` at the position (at the end for a file opened with append)."""
        self._write_next(data, whole=True)

    def _write_next(self, data: WriteBuffer, *, whole: bool) -> int:
        if not self._options.append:
            count = self._write((data,), self._position, whole=whole)
            self._position += count
            return count
        total = total_size((data,))
        self._begin_change()
        if not total:
            return 0
        start, count = self._write_longer((data,), None, total, whole)
        self._position = start + count
        return count

    # ------------------------------------------------------------------------------------------ the file as a whole

    def metadata(self) -> FileStat:
        """Size and identity of the file."""
        descriptors = self._descriptors
        started = self._clock()
        slot = descriptors.pin(self._file, "look")
        try:
            found = descriptors.stat_descriptor(self._file, slot.descriptor)
        finally:
            descriptors.queue.unpin(slot)
        timed = self._metrics.metadata
        timed.count += 1
        timed.seconds += self._clock() - started
        return found

    def set_len(self, length: int) -> None:
        """Truncate, or extend with zeros.  Raises `NoSpace`, `WriteFailed`."""
        check_range(length, 0)
        file = self._begin_change()
        fs = self._descriptors.fs
        with LengthChange(self._descriptors, file, "resize") as change:
            # Before the call: who writes past the new end from now on makes the file longer, and takes turns.
            file.size = min(file.size, length)
            self._resize(
                lambda: fs.ftruncate(change.descriptor, length), f"set the length of {file.path!r} to {length}"
            )
            file.size = length

    def allocate(self, offset: int, length: int) -> None:
        """Make sure the range has disk space; the file grows if need be.  On `NoSpace` its size is the former."""
        check_range(offset, length)
        if not length:
            raise InvalidRequest("cannot allocate 0 bytes; length must be at least 1")
        file = self._begin_change()
        fs = self._descriptors.fs
        with LengthChange(self._descriptors, file, "resize") as change:
            what = f"allocate {length} bytes at {offset} of {file.path!r}"
            self._resize(lambda: fs.fallocate(change.descriptor, offset, length), what)
            change.grown_to(offset + length)

    def _resize(self, call: Callable[[], None], what: str) -> None:
        descriptors, file = self._descriptors, self._file
        started = self._clock()
        try:
            descriptors.call_on(file, call, "resize", what)
        finally:
            file.written = next(descriptors.tickets)
            timed = self._metrics.set_len
            timed.count += 1
            timed.seconds += self._clock() - started

    def advise(self, offset: int, length: int, advice: int) -> None:
        """`posix_fadvise` (`os.POSIX_FADV_...`; length 0 is to the end).  A hint: that it fails is of no account."""
        check_range(offset, length)
        if type(advice) is not int:
            raise InvalidRequest(f"advice must be one of os.POSIX_FADV_..., not {advice!r}")
        descriptors = self._descriptors
        slot = descriptors.pin(self._file, "look")
        try:
            descriptors.fs.fadvise(slot.descriptor, offset, length, advice)
        except OSError:
            pass
        finally:
            descriptors.queue.unpin(slot)

    def sync_all(self) -> None:
        """Make durable all that was written, and the file's name if it is new.  Raises `SyncFailed` (fatal)."""
        self._descriptors.sync(self._file, data_only=False)

    def sync_data(self) -> None:
        """The same without metadata that reading does not need."""
        self._descriptors.sync(self._file, data_only=True)

    def close(self) -> None:
        """Wait for operations in flight, sync if dirty, give the descriptor back.  A second close does nothing.

        Raises `SyncFailed`; the file is closed even so.  A temporary file is removed.
        """
        self._descriptors.close(self._file)

    def remove(self) -> None:
        """Close without syncing, remove the file, and make that durable."""
        file = self._file
        file.check()
        self._descriptors.close(file, discard=True)
        if not file.temporary:
            self._descriptors.remove(file.path)
