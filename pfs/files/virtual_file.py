"""Virtual files: any number of open files over a bounded number of descriptors.

STUB: the signatures are settled, the code follows.  Build on these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal

from pfs.files.filesystem import FileStat, FileSystem
from pfs.files.open_options import OpenOptions

__all__ = ["OpenOptions", "VirtualFile", "VirtualFilePool"]

ReadBuffer = bytearray | memoryview
WriteBuffer = bytes | bytearray | memoryview


class VirtualFile:
    """A file that can be used at any time, though its descriptor may be closed at this moment.

    Made by a `VirtualFilePool`.  Positioned calls (`*_at`), syncs and `metadata` may be made by many threads at once;
    the sequential calls share one position and are for one thread at a time.  Every call may raise `FileClosed`,
    `AccessDenied`, `InvalidRequest` (bad offset, length or type; nothing changed), `Busy` (no descriptor to be had),
    and after a fatal error `WriteFailed`, `SyncFailed` or `FileReplaced` for ever.
    """

    @property
    def path(self) -> str: ...

    @property
    def closed(self) -> bool: ...

    # ---------------------------------------------------------------------------- positioned reads
    def read_at(self, buffer: ReadBuffer, offset: int) -> int:
        """One read into `buffer`; returns the bytes read, 0 at the end.  Raises `PageIOError`."""
        raise NotImplementedError

    def read_exact_at(self, buffer: ReadBuffer, offset: int) -> None:
        """Fill `buffer`, continuing short reads.  Raises `OutOfRange` if the file ends before."""
        raise NotImplementedError

    def read_exact_at_n(self, buffer: ReadBuffer, offset: int, count: int) -> None:
        """Fill the first `count` bytes of `buffer` (1 <= count <= its length)."""
        raise NotImplementedError

    def readv_at(self, buffers: Sequence[ReadBuffer], offset: int) -> int:
        """Fill the buffers one after another, continuing short reads; returns fewer bytes only at the end of the file."""
        raise NotImplementedError

    def try_readv_at_nowait(self, buffers: Sequence[ReadBuffer], offset: int) -> int | None:
        """Read what the kernel has in its page cache, without ever waiting; the slot is pinned meanwhile.

        Returns the bytes read (fewer if only a first part is cached, 0 at the end of the file), or None if nothing can be said
        without waiting (not cached, descriptor closed, engine `psync`): then call `readv_at` where blocking is allowed."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------- positioned writes
    def write_at(self, data: WriteBuffer, offset: int) -> int:
        """One write; returns the bytes written, which may be fewer.  Raises `NoSpace`, `WriteFailed`."""
        raise NotImplementedError

    def write_all_at(self, data: WriteBuffer, offset: int) -> None:
        """Write all of `data`, continuing short writes.  On `NoSpace` the file has its former size again."""
        raise NotImplementedError

    def writev_at(self, buffers: Sequence[WriteBuffer], offset: int) -> int:
        """Write all the buffers one after another, continuing short writes; returns their total length."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------- sequential
    @property
    def position(self) -> int: ...

    def read(self, buffer: ReadBuffer) -> int:
        raise NotImplementedError

    def read_to_end(self) -> bytes:
        raise NotImplementedError

    def write(self, data: WriteBuffer) -> int:
        raise NotImplementedError

    def write_all(self, data: WriteBuffer) -> None:
        raise NotImplementedError

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position (`os.SEEK_SET`, `SEEK_CUR`, `SEEK_END`) and return it; before 0 is `InvalidRequest`."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------- the file as a whole
    def metadata(self) -> FileStat:
        raise NotImplementedError

    def set_len(self, length: int) -> None:
        """Truncate, or extend with zeros."""
        raise NotImplementedError

    def allocate(self, offset: int, length: int) -> None:
        """Make sure the range has disk space; the file grows if need be."""
        raise NotImplementedError

    def advise(self, offset: int, length: int, advice: int) -> None:
        """`posix_fadvise` (`os.POSIX_FADV_...`); a hint, its failure is ignored."""
        raise NotImplementedError

    def sync_all(self) -> None:
        """Make data, metadata and, for a file that this pool created, its name durable.  Raises `SyncFailed` (fatal)."""
        raise NotImplementedError

    def sync_data(self) -> None:
        """The same without metadata that reading does not need."""
        raise NotImplementedError

    @property
    def dirty(self) -> bool:
        """True if a write has returned that no sync covers yet."""
        raise NotImplementedError

    def close(self) -> None:
        """Sync if dirty, give the descriptor back.  A second close does nothing."""
        raise NotImplementedError

    def remove(self) -> None:
        """Close without syncing, unlink, and make the removal durable."""
        raise NotImplementedError

    def __enter__(self) -> VirtualFile:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class VirtualFilePool:
    """Opens virtual files over at most `slots` descriptors of one `FileSystem`."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        slots: int | None = None,
        clock: Callable[[], float],
        engine: Literal["auto", "nowait", "psync"] = "auto",
        replacement: Literal["lru", "clock"] = "lru",
    ) -> None:
        self.fs = fs

    def open(self, path: str, options: OpenOptions = OpenOptions(), kind: str = "data") -> VirtualFile:  # noqa: B008
        """Open a file (for reading unless the options say more).  `kind` names it in the byte metrics.

        Raises `FileMissing`, `FileExists`, `InvalidName`, `NotRegularFile`, `AccessDenied`, `NoSpace`, `Busy`."""
        raise NotImplementedError

    def open_with_options(self, path: str, options: OpenOptions, kind: str = "data") -> VirtualFile:
        raise NotImplementedError

    def create(self, path: str, kind: str = "data") -> VirtualFile:
        """Open for writing; made if missing, emptied if not."""
        raise NotImplementedError

    def temporary(self, directory: str = "", kind: str = "temporary") -> VirtualFile:
        """A new file for reading and writing that vanishes on close; it is never synced."""
        raise NotImplementedError

    def crashsafe_overwrite(self, final_path: str, temporary_path: str, content: WriteBuffer) -> None:
        """Replace a file's whole content: after a crash it has the old content or the new, durable on return."""
        raise NotImplementedError

    def durable_rename(self, source: str, destination: str) -> None:
        """Rename with every sync it needs; virtual files open on `source` follow it."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """Unlink a file and make that durable.  Raises `FileMissing`."""
        raise NotImplementedError

    def make_directory(self, path: str) -> None:
        """Make a directory and its missing parents, durably; one that exists is no error."""
        raise NotImplementedError

    def exists(self, path: str) -> bool:
        raise NotImplementedError

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted; `FileMissing` if there is none."""
        raise NotImplementedError

    def reserve(self, n: int) -> None:
        """Take `n` descriptors out of the budget for other uses (sockets, WAL); closes files for it.  Raises `Busy`."""
        raise NotImplementedError

    def release(self, n: int) -> None:
        """Give `n` reserved descriptors back."""
        raise NotImplementedError

    def sync_pending(self) -> int:
        """Sync every file with unsynced writes and every directory with new names; returns how many files it synced."""
        raise NotImplementedError

    def stats(self) -> dict[str, int | float | str]:
        """Counters by name, as `pfs.files.metrics` declares them."""
        raise NotImplementedError

    def close(self) -> None:
        """Close every file (dirty ones are synced first)."""
        raise NotImplementedError
