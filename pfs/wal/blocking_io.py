"""Whole reads and writes over single system calls, and what their failures mean.

The WAL's few files stay open outside the pool of virtual files, so that nothing can close their descriptors; what that
pool does for others (going on after short transfers and EINTR, naming failures) is done here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from pfs.errors import WriteFailed
from pfs.files.failures import Deed, meaning
from pfs.files.filesystem import FileSystem, WriteBuffer

MAX_BUFFERS = 1024
"""The most buffers that one system call takes (`IOV_MAX`)."""


@contextmanager
def failing(deed: Deed, what: str) -> Generator[None]:
    """Turn an `OSError` of the block into the error of pfs that it stands for.  A failed read is `ReadFailed`."""
    try:
        yield
    except OSError as error:
        raise meaning(error, deed, what, recovering=True) from error


def sync_file(sync: Callable[[int], None], descriptor: int, path: str) -> None:
    """`fsync` or `fdatasync`.  Raises `SyncFailed`."""
    with failing("sync", f"sync {path!r}"):
        while True:
            try:
                sync(descriptor)
            except InterruptedError:
                continue
            return


def close_file(fs: FileSystem, descriptor: int) -> None:
    """Close a descriptor.  What had to be durable was synced before, so a close that fails has nothing to tell."""
    with suppress(OSError):
        fs.close(descriptor)


def read_fully(fs: FileSystem, descriptor: int, length: int, offset: int, path: str) -> bytearray:
    """Read `length` bytes, fewer at the end of the file."""
    buffer = bytearray(length)
    view = memoryview(buffer)
    done = 0
    while done < length:
        try:
            count = fs.preadv(descriptor, [view[done:]], offset + done)
        except InterruptedError:
            continue
        except OSError as error:
            what = f"read {length - done} bytes at {offset + done} of {path!r}"
            raise meaning(error, "read", what, recovering=True) from error
        if not count:
            view.release()
            del buffer[done:]
            break
        done += count
    return buffer


def read_whole(fs: FileSystem, path: str) -> bytes:
    """All of a file."""
    with failing("open", f"open {path!r}"):
        descriptor = fs.open(path, os.O_RDONLY)
    try:
        with failing("look", f"look at {path!r}"):
            size = fs.fstat(descriptor).size
        return bytes(read_fully(fs, descriptor, size, 0, path))
    finally:
        close_file(fs, descriptor)


def write_fully(fs: FileSystem, descriptor: int, buffers: Sequence[WriteBuffer], offset: int, path: str) -> None:
    """Write all buffers, one behind the other, in as few calls as there can be."""
    for first in range(0, len(buffers), MAX_BUFFERS):
        part = buffers[first : first + MAX_BUFFERS]
        length = sum(map(len, part))
        written = 0
        while True:
            what = f"write {length - written} bytes at {offset + written} of {path!r}"
            try:
                count = fs.pwritev(descriptor, part, offset + written)
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                raise meaning(error, "write", what) from error
            if not count:
                raise WriteFailed(f"could not {what}: the disk takes none")
            written += count
            if written == length:
                break
            part = [memoryview(b"".join(buffers[first : first + MAX_BUFFERS]))[written:]]
        offset += length
