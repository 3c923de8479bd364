"""What recovery does to the page files: `pfs.wal.recovery`'s `RedoTarget` over a `PageFileStore`.

The catalog is made durable by itself before anything of a new file is logged, so recovery finds every file that a
COMMIT names, unless it was dropped later: then what is logged of it is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence

from pfs.errors import CorruptionFound
from pfs.files.checked_file import CheckedFile
from pfs.files.store import PageFileStore
from pfs.wal.redo import CatalogChange
from pfs.wal.sidecar import EMPTY_BLOCK


class StoreRedoTarget:
    """The page files of a store, as recovery changes them."""

    def __init__(self, store: PageFileStore) -> None:
        self._store = store
        self._known = store.page_files().keys()

    def change_catalog(self, changes: Sequence[CatalogChange]) -> None:
        """Nothing: the catalog has its own file, and what it says is newer than the log."""

    def read_sidecar_block(self, file_id: int, block: int) -> bytes | None:
        file = self._file(file_id)
        return EMPTY_BLOCK if file is None else file.sidecar_blocks([block])[0]

    def restore_sidecar_block(self, file_id: int, block: int, image: bytes) -> None:
        file = self._file(file_id)
        if file is not None:
            file.restore_sidecar_block(block, image)

    def write_pages(self, file_id: int, pgid: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        file = self._file(file_id)
        if file is not None:
            file.write(pgid, pages, lsns)

    def set_page_count(self, file_id: int, page_count: int) -> None:
        file = self._file(file_id)
        if file is None:
            return
        found = file.block_count()
        if found < page_count:
            raise CorruptionFound(
                f"page file {file.name} has {found} pages, and {page_count} were committed: pages are lost; restore it "
                "from a backup"
            )
        if found > page_count:
            file.truncate(page_count)

    def sync(self) -> None:
        self._store.sync()
        self._store.close_all()
        self._store.sync_names()

    def _file(self, file_id: int) -> CheckedFile | None:
        return self._store.open_by_id(file_id) if file_id in self._known else None
