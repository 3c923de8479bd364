"""The file seam: the one interface through which pfs reaches a disk.

Everything in pfs that touches a file calls a `FileSystem`; nothing else may call `os.open`, `open()` and the like
(`tests/test_seams.py` checks it).  `PosixFileSystem` is the real one; `pfs.testing.SimulatedFileSystem` is a disk in
memory that fails, and later loses, what a test tells it to.

Rules that both keep:

* A file system has a root directory; every path is relative to it (`"base/5/16384"`), with `/` between parts.  A path
  that is empty, absolute, has `.`/`..`/empty parts or a NUL is `InvalidName`; so is one that leads out of the
  root through a symbolic link.
* Descriptors are small ints, valid only for the file system that gave them.
* Calls are single system calls: short reads and writes are the caller's to continue, and failures are plain `OSError`
  with an errno.  What an errno means is decided above (`pfs.files.failures`).
* `condition()` gives the lock that code above may wait on; in the simulation it is one that lets other actors run.
  Only its `wait` may let others run; entering a free one and notifying never do.
* `mutex()` gives a lock for a few steps of bookkeeping.  It is never held across a file call or a wait, where the
  simulation lets other actors run.
* A file call may let other actors run before it acts, so nobody may hold half-changed state across one.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

ReadBuffer = bytearray | memoryview
"""What can be read into: it must be writable and contiguous."""
WriteBuffer = bytes | bytearray | memoryview
"""What can be written from: it must be contiguous."""


class FileStat(NamedTuple):
    """What pfs wants to know of a file."""

    size: int
    device: int
    inode: int
    is_file: bool
    is_directory: bool


class Mutex(Protocol):
    """A lock for bookkeeping: the part of `threading.Lock` that pfs uses."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class Condition(Protocol):
    """A lock that can be waited on: the part of `threading.Condition` that pfs uses."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    def wait(self, timeout: float | None = None) -> bool: ...

    def notify(self, n: int = 1) -> None: ...

    def notify_all(self) -> None: ...


class FileSystem(Protocol):
    """One small set of calls, each one system call.  All may raise `OSError`; paths may raise `InvalidName`."""

    def open(self, path: str, flags: int, mode: int = 0o600, /) -> int:
        """Open a regular file (never blocking, `O_CLOEXEC`); a directory, FIFO or device is `NotRegularFile`."""
        ...

    def reopen(self, path: str, flags: int, device: int, inode: int, /) -> int:
        """Open again a file that `open` opened before: `OSError(ESTALE)` if the path now leads to another file.

        `path` must be one that `open` accepted.  Comparing the file makes checking the way to it needless: that is what
        makes this the cheaper call."""
        ...

    def close(self, descriptor: int, /) -> None: ...

    def preadv(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int:
        """Read into the buffers; returns the bytes read, 0 at the end of the file."""
        ...

    def preadv_nowait(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int:
        """The same from the kernel's page cache only: `BlockingIOError` where a disk would be waited for,
        `OSError(EOPNOTSUPP)` where the file system cannot tell."""
        ...

    def pwritev(self, descriptor: int, buffers: Sequence[WriteBuffer], offset: int, /) -> int:
        """Write the buffers at an offset; returns the bytes written, which may be fewer."""
        ...

    def fsync(self, descriptor: int, /) -> None: ...

    def fdatasync(self, descriptor: int, /) -> None: ...

    def ftruncate(self, descriptor: int, length: int, /) -> None: ...

    def fallocate(self, descriptor: int, offset: int, length: int, /) -> None:
        """Make the range take up space (`posix_fallocate`); grows the file if need be."""
        ...

    def fadvise(self, descriptor: int, offset: int, length: int, advice: int, /) -> None: ...

    def fstat(self, descriptor: int, /) -> FileStat: ...

    def stat(self, path: str, /) -> FileStat: ...

    def exists(self, path: str, /) -> bool: ...

    def listdir(self, path: str, /) -> list[str]:
        """The names in a directory (`""` is the root), sorted."""
        ...

    def mkdir(self, path: str, mode: int = 0o700, /) -> None: ...

    def rmdir(self, path: str, /) -> None: ...

    def rename(self, source: str, destination: str, /) -> None: ...

    def unlink(self, path: str, /) -> None: ...

    def sync_directory(self, path: str, /) -> None:
        """Make the names in a directory durable (`""` is the root)."""
        ...

    def lock(self, descriptor: int, /) -> None:
        """Take an exclusive advisory lock without waiting; `BlockingIOError` if another open file has it."""
        ...

    def condition(self) -> Condition: ...

    def mutex(self) -> Mutex: ...

    def boot_id(self) -> bytes:
        """16 bytes that differ after each start of the machine, which empties its cache; zeros if that is not known."""
        ...

    def descriptor_limit(self) -> int:
        """How many descriptors this process may have open (`RLIMIT_NOFILE`)."""
        ...
