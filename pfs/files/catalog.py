"""The catalog: the names that users give to page files.

A page file is the main fork of a relation, `base/5/16384` and so on; the catalog says which name means which relation,
and with which page size.  Its content and format are `pfs.files.catalog_table`; this module keeps it on disk.

What a crash can leave:

* The catalog's file is replaced as a whole: there is the old one or the new one.
* Creation makes the relation's file and syncs it, then writes the catalog.  Dropping writes the catalog, then removes
  the files.  So every name has its file; what may be left over are files without a name, `strays`.
* The catalog is there before the first relation is.  If it is missing though there are relations, it was lost, and that
  is an error rather than an empty catalog, which would make all of them strays.

The number that a page file had, or that a stray has, is never given to another page file, so files left by a crash
never become part of one.
"""

from __future__ import annotations

from contextlib import suppress

from pfs.errors import CatalogDamaged, FileMissing, PageFileNotFound, PageSizeMismatch, RequestError
from pfs.files import relation
from pfs.files.catalog_table import DATABASE, CatalogEntry, CatalogTable, check_name, decode, encode
from pfs.files.exclusive import Exclusive
from pfs.files.filesystem import FileSystem
from pfs.files.relation import DEFAULT_TABLESPACE, RelationAddress
from pfs.files.segments import DEFAULT_BLOCK_SIZE
from pfs.files.storage_manager import StorageManager
from pfs.files.virtual_file import VirtualFilePool
from pfs.wal.blocking_io import read_whole

__all__ = ["Catalog", "CatalogEntry"]

CATALOG_FILE = "pfs.catalog"
TEMPORARY_FILE = "pfs.catalog.new"
"""Where the next catalog is written, before it takes the place of the present one."""

PAGE_FILES = relation.directory(RelationAddress(DEFAULT_TABLESPACE, DATABASE, 1))
"""The directory that holds the files of all page files."""


def read_catalog(fs: FileSystem) -> CatalogTable | None:
    """The catalog as it is on disk, without changing anything; None if there is none.  Raises `CatalogDamaged`."""
    try:
        return decode(read_whole(fs, CATALOG_FILE), CATALOG_FILE)
    except FileMissing:
        return None


class Catalog:
    """The page files of a data directory.  Thread-safe; every call may block.

    Errors common to all changes, which then have not happened: `InvalidName`, `NoSpace`, `Busy`; and the fatal errors
    of `pfs.files.virtual_file`, after which only a new start can tell.
    Raises on construction: `CatalogDamaged`.
    """

    def __init__(self, pool: VirtualFilePool, manager: StorageManager) -> None:
        self._pool = pool
        self._manager = manager
        self._lock = Exclusive(pool.fs)
        self._table = self._load()
        for parsed in map(relation.parse_file_name, self._files()):
            if parsed is not None:
                self._table = self._table.above(parsed.number)

    def get(self, name: str) -> CatalogEntry:
        """Raises `InvalidName`, `PageFileNotFound`."""
        return self._table.get(name)

    def names(self) -> list[str]:
        """All names, sorted by code points."""
        return sorted(self._table.entries)

    def entries(self) -> list[CatalogEntry]:
        """All page files, sorted by name."""
        table = self._table
        return [table.entries[name] for name in sorted(table.entries)]

    def open(self, name: str, *, create: bool, page_size: int | None = None) -> CatalogEntry:
        """The page file of this name; with `create` it is made if there is none.

        page_size: what it must have, or gets; None for any, and for 8192 bytes.
        Raises `PageFileNotFound`, `PageSizeMismatch`, `InvalidRequest` (a page size that none can have).
        """
        with self._lock:
            entry = self._table.entries.get(check_name(name))
            if entry is None and not create:
                raise PageFileNotFound(f"there is no page file {name!r}, and it was not to be created")
            if entry is None:
                return self._create(name, DEFAULT_BLOCK_SIZE if page_size is None else page_size)
        if page_size is not None and page_size != entry.page_size:
            raise PageSizeMismatch(f"page file {name!r} has pages of {entry.page_size} bytes, not {page_size!r}")
        return entry

    def create(self, name: str, page_size: int = DEFAULT_BLOCK_SIZE) -> CatalogEntry:
        """Make an empty page file.  Raises `PageFileExists`, `InvalidRequest` (the page size)."""
        with self._lock:
            return self._create(name, page_size)

    def _create(self, name: str, page_size: int) -> CatalogEntry:
        table = self._table.created(name, page_size)
        entry = table.entries[name]
        # Whatever comes of it, this number is used up.
        self._table = self._table.above(entry.number)
        try:
            opened = self._manager.open(entry.address, page_size)
            try:
                self._manager.create(opened)
                self._manager.immedsync(opened)
            finally:
                self._manager.close(opened)
            self._save(table)
        except RequestError:
            self._remove_files(entry)
            raise
        return entry

    def check_rename(self, name: str, new_name: str) -> None:
        """Raise what stands against a rename: `InvalidName`, `PageFileNotFound`, `PageFileExists`."""
        self._table.renamed(name, new_name)

    def rename(self, name: str, new_name: str) -> None:
        """Give a page file another name.  Raises `PageFileNotFound`, `PageFileExists`."""
        with self._lock:
            self._save(self._table.renamed(name, new_name))

    def drop(self, name: str) -> None:
        """Delete a page file.  Raises `PageFileNotFound`.  Files that cannot be removed now become strays."""
        with self._lock:
            entry = self._table.get(name)
            self._save(self._table.dropped(name))
            self._remove_files(entry)

    def sync_names(self) -> None:
        """Make durable that there are the files that there are.

        For a start behind a process that was killed: it sees names that no sync has covered yet, and what it writes to
        such a file would be lost with the name.
        """
        parts = PAGE_FILES.split("/")
        for end in range(len(parts), -1, -1):
            self._pool.sync_directory("/".join(parts[:end]))

    def strays(self) -> list[str]:
        """Paths of relations' files that belong to no page file, as a crash may leave them."""
        with self._lock:
            return self._strays()

    def remove_strays(self) -> list[str]:
        """Remove the files that `strays` names, durably; returns their paths."""
        with self._lock:
            strays = self._strays()
            for path in reversed(strays):  # a relation's later segments before its first
                self._pool.remove(path)
            return strays

    # ------------------------------------------------------------------------------------------ files

    def _strays(self) -> list[str]:
        known = {entry.number for entry in self._table.entries.values()}
        files = self._files()
        parsed = sorted(found for found in map(relation.parse_file_name, files) if found)
        sidecars = sorted(number for number in map(relation.parse_sidecar_name, files) if number)
        names = [relation.file_name(*found) for found in parsed if found.number not in known]
        names += [relation.sidecar_name(number) for number in sidecars if number not in known]
        return [f"{PAGE_FILES}/{name}" for name in names]

    def _files(self) -> list[str]:
        try:
            return self._pool.list(PAGE_FILES)
        except FileMissing:
            return []

    def _remove_files(self, entry: CatalogEntry) -> None:
        with suppress(RequestError):
            with suppress(FileMissing):
                self._pool.remove(relation.sidecar_path(entry.address))
            self._manager.unlink(entry.address)

    def _load(self) -> CatalogTable:
        try:
            with self._pool.open(CATALOG_FILE, kind="catalog") as file:
                return decode(file.read_to_end(), CATALOG_FILE)
        except FileMissing:
            pass
        found = [name for name in self._files() if relation.parse_file_name(name)]
        if found:
            raise CatalogDamaged(
                f"the catalog {CATALOG_FILE!r} is missing, but {PAGE_FILES!r} holds {len(found)} files of relations "
                f"({found[0]!r}, ...); restore it from a backup"
            )
        table = CatalogTable()
        self._save(table)
        return table

    def _save(self, table: CatalogTable) -> None:
        """Make this the catalog.  Raises `NoSpace`, `Busy`: then it is not."""
        self._pool.crashsafe_overwrite(CATALOG_FILE, TEMPORARY_FILE, encode(table))
        self._table = table
