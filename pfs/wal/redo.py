"""What the log says about the data files, worked out before any of them is touched.

Records are added in log order; the result is a *plan*: for each file what it is called, whether it is gone, how many
pages it has, and for each page that a committed transaction wrote since the redo point, where the newest image is.  So
recovery writes each page once, whatever happened to it, and carrying a plan out twice changes nothing.

* Only a COMMIT makes a transaction's images count, and its place decides between two transactions that wrote the same
  page, not the places of the images.  What has no COMMIT is ignored.
* A transaction whose first record is before the redo point was settled when that was chosen, as the redo point is never
  past the first record of an unsettled one.  So its pages are in the data files, and newer than any image that a COMMIT
  before its own has.  The same holds for the pages of a bulk append that have no image in its transaction.
* A page's LSN is that of its COMMIT.  It is durable only with that, and it grows whenever the page changes.
* CREATE, RENAME, DROP and TRUNCATE count by themselves.  The plan holds the names that files have in the end, so that
  a chain of renames is one change of the catalog, and no name is ever taken twice on the way.
* The last image of each sidecar block counts (`pfs.wal.sidecar` says why the last one).

Memory: about 200 bytes a page written since the redo point; the images stay in the log.
"""

from __future__ import annotations

from typing import NamedTuple

from pfs.errors import CorruptionFound
from pfs.wal.bodies import (
    CHECKPOINT,
    COMMIT,
    CREATE,
    DROP,
    PAGE_IMAGE,
    RENAME,
    SIDECAR_IMAGE,
    TRUNCATE,
    Checkpoint,
    Create,
    Rename,
    SidecarImage,
    Truncate,
)
from pfs.wal.lsn import format_lsn
from pfs.wal.records import Record, decode_body, decode_checkpoint, decode_commit, image_index


class PageSource(NamedTuple):
    """Where the newest image of a page is."""

    image_lsn: int
    commit_lsn: int


class CatalogChange(NamedTuple):
    """How a file differs from what the catalog may say.

    name: its name, None if that did not change.  page_size: given if the file was made since the redo point.
    dropped: it is gone, and so is all that belongs to it.
    """

    file_id: int
    name: str | None
    page_size: int | None
    dropped: bool


class Plan:
    """What to do to the data files (see the module).  Filled by `Redo`."""

    def __init__(self) -> None:
        self.catalog: dict[int, CatalogChange] = {}
        """Changes by file id, in the order in which the files were first concerned."""
        self.pages: dict[int, dict[int, PageSource]] = {}
        """By file id and pgid."""
        self.page_counts: dict[int, int] = {}
        """By file id: of every file whose page count is known."""
        self.sidecar_blocks: dict[tuple[int, int], int] = {}
        """By file id and block: the LSN of its image."""
        self.next_file_id = 1
        self.next_transaction = 1
        self.transactions = 0
        """How many committed transactions there were since the redo point."""
        self.uncommitted: set[int] = set()
        """Transactions that never committed."""

    @property
    def page_total(self) -> int:
        """How many pages are to be written."""
        return sum(map(len, self.pages.values()))


class Redo:
    """Works the plan out.  redo_lsn: where the records begin.

    `start` takes what the checkpoint says, then `add` takes each record from the redo point on, in order; then `plan`.
    """

    def __init__(self, redo_lsn: int) -> None:
        self._redo_lsn = redo_lsn
        self._plan = Plan()
        self._open: dict[int, dict[int, int]] = {}

    def start(self, checkpoint: Checkpoint, page_counts: dict[int, int]) -> None:
        """Begin with the state that the last checkpoint recorded."""
        self._plan.page_counts.update(page_counts)
        self._plan.next_file_id = checkpoint.next_file_id
        self._plan.next_transaction = checkpoint.next_transaction

    def add(self, record: Record) -> None:
        """Take the next record.  Raises `CorruptionFound` if it contradicts those before it."""
        kind = record.type
        if kind == PAGE_IMAGE:
            images = self._open.get(record.transaction)
            if images is None:
                images = self._open[record.transaction] = {}
                self._plan.next_transaction = max(self._plan.next_transaction, record.transaction + 1)
            images[image_index(record)] = record.lsn
        elif kind == COMMIT:
            self._commit(record)
        elif kind in (CREATE, RENAME, DROP, TRUNCATE):
            self._change(record)
            self._plan.transactions += 1
        elif kind == CHECKPOINT:  # one that the control file does not know: only its ids are news
            checkpoint = decode_checkpoint(record)
            self._plan.next_file_id = max(self._plan.next_file_id, checkpoint.next_file_id)
            self._plan.next_transaction = max(self._plan.next_transaction, checkpoint.next_transaction)
        elif kind == SIDECAR_IMAGE:
            image = decode_body(record)
            assert isinstance(image, SidecarImage)
            if not self._dropped(image.file_id):
                self._plan.sidecar_blocks[image.file_id, image.block] = record.lsn

    def plan(self) -> Plan:
        """The plan of all records added."""
        self._plan.uncommitted = set(self._open)
        return self._plan

    def _commit(self, record: Record) -> None:
        plan = self._plan
        commit = decode_commit(record)
        transaction, file_id = record.transaction, record.file_id
        images = self._open.pop(transaction, {})
        plan.next_transaction = max(plan.next_transaction, transaction + 1)
        plan.transactions += 1
        if self._dropped(file_id):
            raise self._contradiction(record, f"commits pages of file {file_id}, which was dropped before")
        pages = plan.pages.setdefault(file_id, {})
        first = commit.pgid
        settled = commit.first_lsn < self._redo_lsn
        if commit.bulk or settled:
            for pgid in range(first, first + commit.n) if commit.n < len(pages) else list(pages):
                if first <= pgid < first + commit.n:
                    pages.pop(pgid, None)
        if settled:
            pass
        elif commit.bulk:
            if images and max(images) >= commit.n:
                raise self._contradiction(record, f"commits {commit.n} pages, and has an image of number {max(images)}")
            for index, lsn in images.items():
                pages[first + index] = PageSource(lsn, record.lsn)
        elif len(images) != commit.n or max(images) != commit.n - 1:
            raise self._contradiction(record, f"commits {commit.n} pages, and {len(images)} images of it are there")
        else:
            for index, lsn in images.items():
                pages[first + index] = PageSource(lsn, record.lsn)
        plan.page_counts[file_id] = commit.page_count

    def _change(self, record: Record) -> None:
        plan = self._plan
        file_id = record.file_id
        before = plan.catalog.get(file_id)
        if before is not None and before.dropped:
            raise self._contradiction(record, f"changes file {file_id}, which was dropped before")
        body = decode_body(record)
        if isinstance(body, Create):
            plan.catalog[file_id] = CatalogChange(file_id, body.name, body.page_size, False)
            plan.page_counts[file_id] = 0
            plan.next_file_id = max(plan.next_file_id, file_id + 1)
        elif isinstance(body, Rename):
            page_size = None if before is None else before.page_size
            plan.catalog[file_id] = CatalogChange(file_id, body.name, page_size, False)
        elif isinstance(body, Truncate):
            plan.page_counts[file_id] = body.page_count
            pages = plan.pages.get(file_id)
            if pages is not None:
                for pgid in [pgid for pgid in pages if pgid >= body.page_count]:
                    del pages[pgid]
        else:
            plan.catalog[file_id] = CatalogChange(file_id, None, None, True)
            plan.pages.pop(file_id, None)
            plan.page_counts.pop(file_id, None)
            for key in [key for key in plan.sidecar_blocks if key[0] == file_id]:
                del plan.sidecar_blocks[key]

    def _dropped(self, file_id: int) -> bool:
        change = self._plan.catalog.get(file_id)
        return change is not None and change.dropped

    def _contradiction(self, record: Record, what: str) -> CorruptionFound:
        return CorruptionFound(
            f"the {record.name} of transaction {record.transaction} at LSN {format_lsn(record.lsn)} {what}: the WAL "
            "contradicts itself; restore the directory from a backup"
        )
