"""What recovery does to the page files: `pfs.wal.recovery`'s `RedoTarget` over a `PageFileStore`.

The catalog is never newer than the durable log, and after `change_catalog` it is as the log says.  So it has every file
of which pages or a page count are logged; if not, it was not the one that belongs to this log.
"""

from __future__ import annotations

from collections.abc import Sequence

from pfs.errors import CorruptionFound
from pfs.files.checked_file import CheckedFile
from pfs.files.store import PageFileStore, set_page_count
from pfs.wal.redo import CatalogChange


class StoreRedoTarget:
    """The page files of a store, as recovery changes them."""

    def __init__(self, store: PageFileStore) -> None:
        self._store = store
        self._entries = store.catalog.table.by_number()

    def change_catalog(self, changes: Sequence[CatalogChange]) -> None:
        self._store.catalog.redo(changes)
        self._entries = self._store.catalog.table.by_number()

    def read_sidecar_block(self, file_id: int, block: int) -> bytes | None:
        return self._file(file_id).sidecar_blocks([block])[0]

    def restore_sidecar_block(self, file_id: int, block: int, image: bytes) -> None:
        self._file(file_id).restore_sidecar_block(block, image)

    def write_pages(self, file_id: int, pgid: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        self._file(file_id).write(pgid, pages, lsns)

    def set_page_count(self, file_id: int, page_count: int) -> None:
        set_page_count(self._file(file_id), page_count)

    def sync(self) -> None:
        """Make everything durable; the catalog last."""
        self._store.close_all()
        self._store.make_durable(self._store.catalog.table)
        self._store.catalog.sync_names()

    def _file(self, file_id: int) -> CheckedFile:
        """A page file, open; a torn tail is cut, since the log has what is missing."""
        entry = self._entries.get(file_id)
        if entry is None:
            raise CorruptionFound(
                f"the WAL has pages of page file {file_id}, which the catalog does not have: it is not the catalog "
                "that belongs to this WAL; restore the directory from a backup"
            )
        return self._store.open_files.get(file_id) or self._store.open_any(entry, repair=True)
