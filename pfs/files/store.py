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

from pfs.errors import CorruptionFound, DirectoryLocked
from pfs.files.block_file import BlockFile
from pfs.files.catalog import Catalog, CatalogEntry
from pfs.files.catalog_table import CatalogTable
from pfs.files.checked_file import CheckedFile
from pfs.files.failures import meaning
from pfs.files.filesystem import Condition, FileSystem
from pfs.files.magnetic_disk import MagneticDisk
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import Fork, sidecar_path
from pfs.files.sidecar_file import CACHE_BYTES, SidecarCache, SidecarFile
from pfs.files.storage_manager import Relation, StorageManager
from pfs.files.virtual_file import VirtualFilePool
from pfs.wal.control_file import check_no_unfinished_backup

LOCK_FILE = "pfs.lock"


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

    def writeback(self, block: int, n: int) -> None:
        self._manager.writeback(self.relation, Fork.MAIN, block, n)

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
            self.catalog = Catalog(self._pool, self._manager)
            self._sidecars = SidecarCache(self._pool)
        except BaseException:
            unlock_directory(self._fs, self._lock_descriptor)
            raise
        self.open_files: dict[int, CheckedFile] = {}
        """By id."""

    @property
    def file_system(self) -> FileSystem:
        """The files that the log and the control file are made of."""
        return self._fs

    def forget_sidecars(self) -> None:
        """Read the sidecars from the disk again: somebody else has changed them."""
        self._sidecars.blocks.resize(0)
        self._sidecars.blocks.resize(CACHE_BYTES)

    def make_durable(self, table: CatalogTable) -> None:
        """Make everything that was written to page files durable, and the catalog as it was at some moment."""
        self._manager.sync()
        self._pool.sync_pending()
        self.catalog.save(table)

    def condition(self) -> Condition:
        """A lock for code that waits."""
        return self._fs.condition()

    def open(self, entry: CatalogEntry, page_count: int, *, repair: bool) -> CheckedFile:
        """Open a page file that is not open and has so many committed pages; what is beyond them is cut.

        Raises `FileDamaged` (a torn tail; with `repair` it is cut), `CorruptionFound` (fewer pages), `FileMissing`.
        """
        file = self.open_any(entry, repair=repair)
        try:
            set_page_count(file, page_count)
        except BaseException:
            self.close_file(entry.number)
            raise
        return file

    def open_any(self, entry: CatalogEntry, *, repair: bool) -> CheckedFile:
        """The same whatever pages it has, for recovery."""
        address = entry.address
        pages = RelationFile(self._manager, self._manager.open(address, entry.page_size, repair=repair))
        sidecar = SidecarFile(self._pool, sidecar_path(address), address.number, self._sidecars)
        try:
            sidecar.open_existing()
        except BaseException:
            pages.close()
            raise
        file = self.open_files[entry.number] = CheckedFile(pages, sidecar, address.number, entry.name)
        return file

    def remove(self, entry: CatalogEntry) -> None:
        """Remove the files of a page file that was dropped, open or not; nobody uses it any more."""
        self.close_file(entry.number)
        self.catalog.remove_file(entry)

    def close_file(self, file_id: int) -> None:
        """Close an open page file; no effect if it is not open."""
        file = self.open_files.pop(file_id, None)
        if file is not None:
            file.close()

    def close_all(self) -> None:
        """Sync and close all page files that are open, also what a process that was killed wrote to them."""
        for file_id, file in list(self.open_files.items()):
            try:
                file.sync()
            finally:
                self.close_file(file_id)

    def stats(self) -> dict[str, int | float]:
        return self._pool.stats()

    def close(self) -> None:
        """Sync and close everything, and unlock the directory."""
        with ExitStack() as stack:  # the directory is unlocked, whatever fails before
            stack.callback(unlock_directory, self._fs, self._lock_descriptor)
            stack.callback(self._pool.close)
            stack.callback(self._manager.shutdown)
            for file_id in list(self.open_files):
                stack.callback(self.close_file, file_id)


def set_page_count(file: BlockFile, page_count: int) -> None:
    """Cut what lies beyond the committed pages of a file.  Raises `CorruptionFound` if it has fewer."""
    found = file.block_count()
    if found < page_count:
        raise CorruptionFound(
            f"page file {file.name} has {found} pages, and {page_count} were committed: pages are lost; restore it "
            "from a backup"
        )
    if found > page_count:
        file.truncate(page_count)
