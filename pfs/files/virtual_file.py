"""The pool of virtual files: opens them, renames and removes files with the syncs this needs, and keeps the budget.

The budget of descriptors is `min(slots, RLIMIT_NOFILE - 64)`, so that the rest of the process has some; `reserve`
takes more out of it for sockets and the WAL.  When the system has none to give even so (EMFILE, ENFILE), a file
without I/O in flight is closed for it, and only if there is none the caller gets `Busy`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from types import TracebackType

from pfs.errors import FatalError, FileClosed, FileExists, FileMissing, InvalidRequest, NotRegularFile, PfsError
from pfs.files.descriptors import DescriptorPool
from pfs.files.engine import EngineName, choose_engine
from pfs.files.file import VirtualFile
from pfs.files.filesystem import FileStat, FileSystem, WriteBuffer
from pfs.files.metrics import Metrics
from pfs.files.open_file import OpenFile
from pfs.files.open_options import OpenOptions
from pfs.files.paths import check_path, parent_of
from pfs.files.replacement import ReplacementName, make_replacement
from pfs.files.slot_queue import SlotQueue
from pfs.files.slots import SlotTable

__all__ = ["OpenOptions", "VirtualFile", "VirtualFilePool"]

DEFAULT_SLOTS = 1000
"""Slots of a pool, if neither its user nor the limit of open files says less (PostgreSQL's `max_files_per_process`)."""
SPARE_DESCRIPTORS = 64
"""Descriptors of the process that a pool leaves to others; half of all where there are fewer than twice as many."""
TEMPORARY_PREFIX = ".pfs-temporary-"
"""How the names of temporary files begin.  None outlives its pool, except after a crash: `remove_leftovers`."""

_READ_ONLY = OpenOptions()
_CREATE = OpenOptions(read=False, write=True, create=True, truncate=True)
_CREATE_NEW = OpenOptions(read=False, write=True, create_new=True)
_TEMPORARY = OpenOptions(write=True, create_new=True)


class VirtualFilePool:
    """Opens virtual files over a bounded number of descriptors of one `FileSystem`.

    slots: the most descriptors to use, files and reservations together; None for as many as is reasonable.
    clock: seconds, for the metrics.  engine: `"nowait"`, `"psync"`, or `"auto"` for the first of them that passes its
    self-test (`engine_message` says what came of it).  replacement: `"clock"` or `"lru"`.
    Raises `InvalidRequest`.  Safe for many threads.
    """

    def __init__(
        self,
        fs: FileSystem,
        *,
        slots: int | None = None,
        clock: Callable[[], float],
        engine: EngineName = "auto",
        replacement: ReplacementName = "clock",
    ) -> None:
        if slots is not None and (type(slots) is not int or slots < 1):
            raise InvalidRequest(f"slots must be None or an int of at least 1, not {slots!r}")
        if replacement not in ("clock", "lru"):
            raise InvalidRequest(f"unknown replacement {replacement!r}; there are 'clock' and 'lru'")
        self.fs = fs
        self.slots = slot_budget(fs.descriptor_limit(), slots)
        self._engine, self.engine_message = choose_engine(fs, engine)
        self._clock = clock
        self._metrics = Metrics()
        table: SlotTable[OpenFile] = SlotTable(self.slots, make_replacement(replacement))
        queue = SlotQueue(fs, table, clock, self._metrics)
        self._descriptors = DescriptorPool(fs, table=table, queue=queue, clock=clock, metrics=self._metrics)
        self._temporary_numbers = count(1)
        self._closed = False

    def __enter__(self) -> VirtualFilePool:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def engine(self) -> str:
        """The I/O engine in use: `"nowait"` or `"psync"`."""
        return self._engine.name

    @property
    def recovering(self) -> bool:
        """True during recovery, when a read that fails is fatal (`ReadFailed`); set by whoever recovers."""
        return self._descriptors.recovering

    @recovering.setter
    def recovering(self, recovering: bool) -> None:
        self._descriptors.recovering = recovering

    # ------------------------------------------------------------------------------------------ opening

    def open(self, path: str, options: OpenOptions = _READ_ONLY, kind: str = "data") -> VirtualFile:
        """Open a file (for reading unless the options say more).  `kind` names it in the byte metrics.

        Raises `FileMissing`, `FileExists`, `InvalidName`, `NotRegularFile`, `AccessDenied`, `NoSpace`, `Busy`.
        """
        return self._open(path, options, kind)

    def open_with_options(self, path: str, options: OpenOptions, kind: str = "data") -> VirtualFile:
        """The same with the options spelled out."""
        return self._open(path, options, kind)

    def create(self, path: str, kind: str = "data") -> VirtualFile:
        """Open for writing only; the file is made if it is missing, emptied if not."""
        return self._open(path, _CREATE, kind)

    def temporary(self, directory: str = "", kind: str = "temporary") -> VirtualFile:
        """A new file for reading and writing that vanishes on close; it is never synced."""
        while True:
            name = f"{TEMPORARY_PREFIX}{next(self._temporary_numbers)}"
            with suppress(FileExists):  # left over from a crash
                return self._open(f"{directory}/{name}" if directory else name, _TEMPORARY, kind, temporary=True)

    def _open(self, path: str, options: OpenOptions, kind: str, *, temporary: bool = False) -> VirtualFile:
        if self._closed:
            raise FileClosed(f"the pool is closed; {path!r} cannot be opened")
        if not isinstance(options, OpenOptions):
            raise InvalidRequest(f"options must be OpenOptions, not {type(options).__name__}")
        check_path(path)
        file = self._descriptors.open(path, options, self._metrics.traffic(kind), temporary=temporary)
        return VirtualFile(self._descriptors, file, options, self._engine, self._clock)

    # ------------------------------------------------------------------------------------------ names

    def crashsafe_overwrite(self, final_path: str, temporary_path: str, content: WriteBuffer) -> None:
        """Replace a file's whole content: after a crash it has the old content or the new; durable on return.

        The content goes to `temporary_path` (of the same file system; a file left over there is replaced), is synced
        and renamed.  If that fails the old content stays, and the temporary file is removed if that can be done.
        """
        check_path(final_path)
        with suppress(FileMissing):
            self._descriptors.unlink(temporary_path)
        file = self._open(temporary_path, _CREATE_NEW, "data")
        try:
            file.write_all_at(content, 0)
            self._descriptors.sync(file._file, data_only=False, names=False)
        except BaseException as error:  # an interrupt too must not leave it open
            with suppress(PfsError):
                self._descriptors.close(file._file, discard=True)
                if isinstance(error, PfsError) and not isinstance(error, FatalError):
                    self._descriptors.unlink(temporary_path)
            raise
        file.close()
        self._rename(temporary_path, final_path)

    def durable_rename(self, source: str, destination: str) -> None:
        """Rename a file with every sync that this needs: after a crash `destination` is one of the two, whole.

        Virtual files open on `source` follow it; those open on a replaced `destination` fail with `FileReplaced` when
        they are opened again.  Raises `FileMissing` without a `source`.
        """
        check_path(destination)
        self._sync_path(source)
        if self.exists(destination):
            self._sync_path(destination)
        self._rename(source, destination)

    def _sync_path(self, path: str) -> None:
        with self._open(path, _READ_ONLY, "data") as file:
            self._descriptors.sync(file._file, data_only=False, names=False)

    def _rename(self, source: str, destination: str) -> None:
        self._descriptors.rename(source, destination)
        # The new name first: if the crash comes between the two there are both names, not none.
        self._descriptors.sync_directory(parent_of(destination))
        if parent_of(source) != parent_of(destination):
            self._descriptors.sync_directory(parent_of(source))

    def remove(self, path: str) -> None:
        """Remove a file and make that durable.  Raises `FileMissing`."""
        check_path(path)
        self._descriptors.remove(path)

    def remove_leftovers(self, directory: str = "") -> int:
        """Remove the temporary files that a crash left in a directory; returns their number.

        For the start, before this pool or another has made any there.
        """
        names = [name for name in self.list(directory) if name.startswith(TEMPORARY_PREFIX)]
        for name in names:
            self._descriptors.unlink(f"{directory}/{name}" if directory else name)
        return len(names)

    def make_directory(self, path: str) -> None:
        """Make a directory and its missing parents, durably; one that exists is no error.

        Raises `NotRegularFile` if a file is in the way.
        """
        parts = check_path(path)
        for end in range(1, len(parts) + 1):
            self._make_one_directory("/".join(parts[:end]))

    def _make_one_directory(self, path: str) -> None:
        descriptors = self._descriptors
        try:
            descriptors.with_descriptors(lambda: self.fs.mkdir(path), "rename", f"make the directory {path!r}")
        except FileExists:
            if not self.stat(path).is_directory:
                raise NotRegularFile(f"{path!r} is a file; a directory of that name cannot be made") from None
            return
        descriptors.name_changed(path)
        descriptors.sync_directory(parent_of(path))

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory, durably.  Raises `FileMissing`, and `FileExists` if it is not empty."""
        check_path(path)
        descriptors = self._descriptors
        descriptors.with_descriptors(lambda: self.fs.rmdir(path), "rename", f"remove the directory {path!r}")
        descriptors.name_changed(path)
        descriptors.sync_directory(parent_of(path))

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable, whichever process changed them; no error if there is none.

        Raises `SyncFailed`.
        """
        self._descriptors.name_changed(f"{path}/." if path else ".")
        self._descriptors.sync_directory(path)

    def stat(self, path: str) -> FileStat:
        """Size and identity of a file or directory.  Raises `FileMissing`."""
        return self._descriptors.with_descriptors(lambda: self.fs.stat(path), "look", f"look at {path!r}")

    def exists(self, path: str) -> bool:
        """True if there is a file or directory of that name."""
        return self._descriptors.with_descriptors(lambda: self.fs.exists(path), "look", f"look for {path!r}")

    def list(self, path: str) -> list[str]:
        """The names in a directory (`""` is the root), sorted.  Raises `FileMissing`."""
        return self._descriptors.with_descriptors(
            lambda: self.fs.listdir(path), "look", f"list the directory {path or '.'!r}"
        )

    # ------------------------------------------------------------------------------------------ the budget, the whole

    def reserve(self, n: int) -> None:
        """Take `n` descriptors out of the budget for other uses (sockets, WAL); closes files for them.

        Raises `Busy` if that would leave none for files.
        """
        _check_count(n)
        self._descriptors.reserve(n)

    def release(self, n: int) -> None:
        """Give `n` reserved descriptors back.  Raises `InvalidRequest` if fewer are reserved."""
        _check_count(n)
        self._descriptors.release(n)

    def sync_pending(self) -> int:
        """Sync every file with unsynced writes and every directory with new names; returns how many files it synced."""
        return self._descriptors.sync_pending()

    def stats(self) -> dict[str, int | float]:
        """Counters by name, as `pfs.files.metrics` declares them."""
        self._descriptors.reap()
        return self._metrics.stats()

    def close(self) -> None:
        """Close every file (dirty ones are synced first), then raise the first failure if there was one."""
        self._closed = True
        failures: list[PfsError] = []
        descriptors = self._descriptors
        for close in [descriptors.reap, *[lambda file=file: descriptors.close(file) for file in descriptors.files()]]:
            try:
                close()
            except PfsError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]


def slot_budget(descriptor_limit: int, wanted: int | None) -> int:
    """How many slots to have under a limit of open files, if `wanted` are asked for (None: `DEFAULT_SLOTS`).

    Some descriptors are left to the rest of the process: `SPARE_DESCRIPTORS`, or half of them where there are few.
    """
    spare = min(SPARE_DESCRIPTORS, descriptor_limit // 2)
    return max(1, min(DEFAULT_SLOTS if wanted is None else wanted, descriptor_limit - spare))


def _check_count(n: int) -> None:
    if type(n) is not int or n < 0:
        raise InvalidRequest(f"a number of descriptors must be an int of at least 0, not {n!r}")
