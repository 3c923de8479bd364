"""`PageFileStore`: the files of one data directory, as `System` needs them.

It puts together what lies below: the file system, the virtual files over few descriptors, the storage manager whose
relations page files are, and the catalog that maps names to relations.  It also holds the lock on the directory.  Plain
blocking code, without actors; its users call it from threads that may block.

What is in a data directory:

    pfs.lock        locked while a system uses the directory
    pfs.catalog     the names (pfs.files.catalog)
    base/5/16384    the pages of page files, laid out as PostgreSQL lays out relations (pfs.files.relation)
    base/5/16384_sum    checksum and LSN of each page (pfs.wal.sidecar)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from pfs.errors import DirectoryLocked
from pfs.files.catalog import Catalog
from pfs.files.checked_file import CheckedFile
from pfs.files.failures import meaning
from pfs.files.filesystem import Condition, FileSystem
from pfs.files.magnetic_disk import MagneticDisk
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import Fork, RelationAddress, sidecar_path
from pfs.files.sidecar_file import CACHE_BYTES, SidecarCache, SidecarFile
from pfs.files.storage_manager import Relation, StorageManager
from pfs.files.virtual_file import VirtualFilePool
from pfs.wal.control_file import check_no_unfinished_backup

LOCK_FILE = "pfs.lock"


class OpenedFile(NamedTuple):
    """A page file that is open."""

    file_id: int
    page_size: int
    file: CheckedFile


class RelationFile:
    """A relation's main fork as a `BlockFile`."""

    def __init__(self, manager: StorageManager, relation: Relation) -> None:
        self._manager = manager
        self.relation = relation

    @property
    def name(self) -> str:
        return str(self.relation.address)

    @property
    def block_size(self) -> int:
        return self.relation.block_size

    def block_count(self) -> int:
        return self._manager.nblocks(self.relation)

    def try_read(self, block: int, n: int) -> list[bytes] | None:
        buffers = [bytearray(self.relation.block_size) for _ in range(n)]
        if self._manager.try_readv_nowait(self.relation, Fork.MAIN, block, buffers) is None:
            return None
        return [bytes(buffer) for buffer in buffers]

    def read(self, block: int, n: int) -> list[bytes]:
        buffers = [bytearray(self.relation.block_size) for _ in range(n)]
        self._manager.readv(self.relation, Fork.MAIN, block, buffers)
        return [bytes(buffer) for buffer in buffers]

    def write(self, block: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        existing = max(min(self.block_count() - block, len(pages)), 0)
        if existing:
            self._manager.writev(self.relation, Fork.MAIN, block, pages[:existing])
        if existing < len(pages):
            self._manager.extend(self.relation, Fork.MAIN, block + existing, pages[existing:])

    def sync(self) -> None:
        self._manager.immedsync(self.relation)

    def truncate(self, blocks: int) -> None:
        self._manager.truncate(self.relation, {Fork.MAIN: blocks})

    def close(self) -> None:
        self._manager.close(self.relation)


def lock_directory(fs: FileSystem, name: str) -> int:
    """Lock a data directory, until the descriptor that is returned is closed.  name: for messages.

    Raises `DirectoryLocked`, or what it means that the file cannot be opened.
    """
    try:
        descriptor = fs.open(LOCK_FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise meaning(error, "open", f"open {LOCK_FILE!r} in {name!r}") from error
    try:
        fs.lock(descriptor)
    except OSError as error:
        unlock_directory(fs, descriptor)
        if not isinstance(error, BlockingIOError):
            raise meaning(error, "open", f"lock {LOCK_FILE!r} in {name!r}") from error
        raise DirectoryLocked(
            f"{name} is in use by another System, of this process or another ({LOCK_FILE} is locked): stop it, or use "
            "another directory"
        ) from None
    return descriptor


def unlock_directory(fs: FileSystem, descriptor: int) -> None:
    """Unlock what `lock_directory` has locked."""
    with suppress(OSError):  # it is closed all the same
        fs.close(descriptor)


class PageFileStore:
    """The files of one data directory (see the module).

    `directory`: a path, made if it is missing, or a `FileSystem`; `clock`: seconds, for the metrics.

    Raises `DirectoryLocked`, `BackupUnfinished`, `CatalogDamaged`, and what opening and reading files raises.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | FileSystem,
        *,
        clock: Callable[[], float],
        descriptors: int | None = None,
        segment_bytes: int = 1 << 30,
    ) -> None:
        self._fs: FileSystem
        if isinstance(directory, (str, os.PathLike)):
            self.name = os.fspath(directory)
            try:
                self._fs = PosixFileSystem.made(self.name)
            except OSError as error:
                raise meaning(error, "open", f"open the data directory {self.name!r}") from error
        else:
            self.name = "a simulated disk"
            self._fs = directory
        self._lock_descriptor = lock_directory(self._fs, self.name)
        try:
            check_no_unfinished_backup(self._fs)
            self._pool = VirtualFilePool(self._fs, slots=descriptors, clock=clock)
            self._manager = StorageManager({"disk": MagneticDisk(self._pool)}, segment_size=segment_bytes)
            self._catalog = Catalog(self._pool, self._manager)
            self._sidecars = SidecarCache(self._pool)
        except BaseException:
            unlock_directory(self._fs, self._lock_descriptor)
            raise
        self._open: dict[str, CheckedFile] = {}
        self._open_by_id: dict[int, CheckedFile] = {}

    @property
    def file_system(self) -> FileSystem:
        """The files that the log and the control file are made of."""
        return self._fs

    def page_files(self) -> dict[int, int]:
        """Page size of every page file, by id."""
        return {entry.number: entry.page_size for entry in self._catalog.entries()}

    def open_by_id(self, file_id: int) -> CheckedFile:
        """A page file for recovery, open until `close_all`; a torn tail is cut, since the log has what is missing."""
        if file_id not in self._open_by_id:
            entry = next(each for each in self._catalog.entries() if each.number == file_id)
            self._open_by_id[file_id] = self._checked(entry.name, entry.address, entry.page_size, repair=True)
        return self._open_by_id[file_id]

    def close_all(self) -> None:
        """Sync and close the page files that were opened by id, also what a process that was killed wrote to them."""
        while self._open_by_id:
            file = self._open_by_id.popitem()[1]
            try:
                file.sync()
            finally:
                file.close()

    def _checked(self, name: str, address: RelationAddress, page_size: int, *, repair: bool) -> CheckedFile:
        pages = RelationFile(self._manager, self._manager.open(address, page_size, repair=repair))
        sidecar = SidecarFile(self._pool, sidecar_path(address), address.number, self._sidecars)
        try:
            sidecar.open_existing()
        except BaseException:
            pages.close()
            raise
        return CheckedFile(pages, sidecar, address.number, name)

    def forget_sidecars(self) -> None:
        """Read the sidecars from the disk again: somebody else has changed them."""
        self._sidecars.blocks.resize(0)
        self._sidecars.blocks.resize(CACHE_BYTES)

    def sync(self) -> None:
        """Make everything that was written to page files durable."""
        self._manager.sync()
        self._pool.sync_pending()

    def sync_names(self) -> None:
        """Make durable that there are the files that there are, whichever process made them."""
        self._catalog.sync_names()

    def remove_strays(self) -> None:
        """Remove the files of page files that were dropped."""
        self._catalog.remove_strays()

    def condition(self) -> Condition:
        """A lock for code that waits."""
        return self._fs.condition()

    def open(self, name: str, *, create: bool, page_size: int | None, repair: bool) -> OpenedFile:
        """Open a page file that is not open, or make it; errors as `System.open` says."""
        entry = self._catalog.open(name, create=create, page_size=page_size)
        file = self._open[name] = self._checked(name, entry.address, entry.page_size, repair=repair)
        return OpenedFile(entry.address.number, entry.page_size, file)

    def close_file(self, name: str) -> None:
        """Close an open page file; no effect if it is not open."""
        file = self._open.pop(name, None)
        if file is not None:
            file.close()

    def names(self) -> list[str]:
        return self._catalog.names()

    def drop(self, name: str) -> None:
        """Delete a page file that is not open."""
        self._catalog.drop(name)

    def check_rename(self, name: str, new_name: str) -> None:
        """Raise what stands against the rename."""
        self._catalog.check_rename(name, new_name)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a page file that is not open."""
        self._catalog.rename(name, new_name)

    def stats(self) -> dict[str, int | float]:
        return self._pool.stats()

    def close(self) -> None:
        """Sync and close everything, and unlock the directory."""
        with ExitStack() as stack:  # the directory is unlocked, whatever fails before
            stack.callback(unlock_directory, self._fs, self._lock_descriptor)
            stack.callback(self._pool.close)
            stack.callback(self._manager.shutdown)
            for name in list(self._open):
                stack.callback(self.close_file, name)
            for file in self._open_by_id.values():
                stack.callback(file.close)
