"""The catalog: the names that users give to page files.

A page file is the main fork of a relation, `base/5/16384` and so on; the catalog says which name means which relation,
and with which page size.  Its content and format are `pfs.files.catalog_table`; this module keeps it on disk.

While a system runs, `Catalog.table` is the truth; it is replaced in the step that logs a change
(`pfs.actors.catalog_server`).  The catalog's file is as old as the last checkpoint, or a little newer: each checkpoint
saves the table as it was at its redo point, after the log before that is durable, and recovery does again what the log
says since.  What a crash can leave:

* The catalog's file is replaced as a whole: there is the old one or the new one.
* A relation's file is made, durably, before its CREATE is logged, and removed after a checkpoint past its DROP.  So
  every name has its file; what may be left over are files without a name, `strays`.
* The catalog is there before the first relation is.  If it is missing though there are relations, it was lost, and that
  is an error rather than an empty catalog, which would make all of them strays.

The number that a page file had, or that a stray has, is never given to another page file, so files left by a crash
never become part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pfs.errors import CatalogDamaged, FileMissing, RequestError
from pfs.files import relation
from pfs.files.catalog_table import DATABASE, CatalogEntry, CatalogTable, decode, encode, new_entry
from pfs.files.filesystem import FileSystem
from pfs.files.relation import DEFAULT_TABLESPACE, RelationAddress
from pfs.files.storage_manager import StorageManager
from pfs.files.virtual_file import VirtualFilePool
from pfs.wal.blocking_io import read_whole
from pfs.wal.redo import CatalogChange

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
    """The page files of a data directory.  All but `get`, `names` and `entries` may block.

    Any thread may look; `make_file` and `remove_file` may be called by several threads at once, `save` by one.
    Errors common to all that block: `NoSpace`, `Busy`; and the fatal errors of `pfs.files.virtual_file`.
    Raises on construction: `CatalogDamaged`.
    """

    def __init__(self, pool: VirtualFilePool, manager: StorageManager) -> None:
        self._pool = pool
        self._manager = manager
        self._mutex = pool.fs.mutex()
        self._saved = self._load()
        self.table = self._saved
        """What is so now; replaced, never changed."""
        for parsed in map(relation.parse_file_name, self._files()):
            if parsed is not None:
                self.table = self.table.above(parsed.number)
        self._next_number = self.table.next_number

    # ------------------------------------------------------------------------------------------ names

    def get(self, name: str) -> CatalogEntry:
        """Raises `InvalidName`, `PageFileNotFound`."""
        return self.table.get(name)

    def names(self) -> list[str]:
        """All names, sorted by code points."""
        return sorted(self.table.entries)

    def entries(self) -> list[CatalogEntry]:
        """All page files, sorted by name."""
        table = self.table
        return [table.entries[name] for name in sorted(table.entries)]

    @property
    def next_number(self) -> int:
        """The lowest number that no page file ever had, and no file that was made to become one."""
        return max(self._next_number, self.table.next_number)

    def redo(self, changes: Sequence[CatalogChange]) -> None:
        """Let the table be as the log says, and those made since have their files.  Raises `CorruptionFound`."""
        self.table = self.table.after(changes)
        made = {change.file_id for change in changes if change.page_size is not None}
        for entry in self.entries():
            if entry.number in made:
                self._make_file(entry, exist_ok=True)

    def save(self, table: CatalogTable) -> None:
        """Replace the catalog's file, if it says anything else.  Whether it did or failed, `table` stays the truth."""
        if table != self._saved:
            self._pool.crashsafe_overwrite(CATALOG_FILE, TEMPORARY_FILE, encode(table))
            self._saved = table

    def sync_names(self) -> None:
        """Make durable that there are the files that there are.

        For a start behind a process that was killed: it sees names that no sync has covered yet, and what it writes to
        such a file would be lost with the name.
        """
        parts = PAGE_FILES.split("/")
        for end in range(len(parts), -1, -1):
            self._pool.sync_directory("/".join(parts[:end]))

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
        self._pool.crashsafe_overwrite(CATALOG_FILE, TEMPORARY_FILE, encode(table))
        return table

    # ------------------------------------------------------------------------------------------ files

    def make_file(self, name: str, page_size: int) -> CatalogEntry:
        """Make the file of a page file to be, empty and durable: a stray until the entry is in the table.

        Raises what stands against the name: `InvalidName`, `PageFileExists`; `InvalidRequest` (the page size).
        """
        self.table.check_absent(name)
        with self._mutex:
            entry = new_entry(name, self.next_number, page_size)
            self._next_number = entry.number + 1  # whatever comes of it, this number is used up
        try:
            self._make_file(entry, exist_ok=False)
        except RequestError:
            self.remove_file(entry)
            raise
        return entry

    def _make_file(self, entry: CatalogEntry, *, exist_ok: bool) -> None:
        opened = self._manager.open(entry.address, entry.page_size, repair=exist_ok)
        try:
            self._manager.create(opened, exist_ok=exist_ok)
            self._manager.immedsync(opened)
        finally:
            self._manager.close(opened)

    def remove_file(self, entry: CatalogEntry) -> None:
        """Remove the files of what is no page file any more, or never became one.

        Those that cannot be removed now stay as strays; only fatal errors are raised.
        """
        with suppress(RequestError):
            with suppress(FileMissing):
                self._pool.remove(relation.sidecar_path(entry.address))
            self._manager.unlink(entry.address)

    def strays(self) -> list[str]:
        """Paths of relations' files that belong to no page file, as a crash may leave them."""
        known = {entry.number for entry in self.table.entries.values()}
        files = self._files()
        parsed = sorted(found for found in map(relation.parse_file_name, files) if found)
        sidecars = sorted(number for number in map(relation.parse_sidecar_name, files) if number)
        names = [relation.file_name(*found) for found in parsed if found.number not in known]
        names += [relation.sidecar_name(number) for number in sidecars if number not in known]
        return [f"{PAGE_FILES}/{name}" for name in names]

    def remove_strays(self) -> list[str]:
        """Remove the files that `strays` names, durably; returns their paths.  Not while `make_file` may run."""
        strays = self.strays()
        for path in reversed(strays):  # a relation's later segments before its first
            self._pool.remove(path)
        return strays

    def _files(self) -> list[str]:
        try:
            return self._pool.list(PAGE_FILES)
        except FileMissing:
            return []
