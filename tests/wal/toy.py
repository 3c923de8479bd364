"""A toy database over the log: just enough of a system to crash it at every file operation.

It keeps all pages in memory, logs every change, writes dirty pages when told, and checkpoints when told; one thread,
blocking.  `ToyStore` is its data files, and the `RedoTarget` that recovery writes to.  `state_on_disk` reads
everything back and checks every page against its sidecar.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from weakref import WeakKeyDictionary

from pfs.errors import CorruptionFound
from pfs.files.filesystem import FileSystem
from pfs.wal import sidecar
from pfs.wal.bodies import Create, Drop, Rename, SidecarImage, Truncate
from pfs.wal.checkpoint import insert_checkpoint, record_checkpoint
from pfs.wal.crc import crc32c
from pfs.wal.log_buffer import NO_LIMIT
from pfs.wal.recovery import StartedLog, start_log
from pfs.wal.redo import CatalogChange

CATALOG = "toy.catalog"
State = dict[str, tuple[bytes, ...]]


_boots: WeakKeyDictionary[FileSystem, bytes] = WeakKeyDictionary()
_boot_numbers = count(1)


def boot_id_of(fs: FileSystem) -> bytes:
    """One for each simulated machine: what finds a crash image has started anew."""
    if fs not in _boots:
        _boots[fs] = next(_boot_numbers).to_bytes(16, "little")
    return _boots[fs]


class ToyStore:
    """Data files `f<id>` with sidecars `f<id>.sum`, and a catalog that is replaced as a whole."""

    def __init__(self, fs: FileSystem) -> None:
        self.fs = fs
        self.catalog: dict[int, tuple[str, int]] = {}
        self.blocks: dict[tuple[int, int], bytes] = {}
        self.unsynced: set[str] = set()
        self.calls: list[str] = []
        if fs.exists(CATALOG):
            for line in self.read(CATALOG).decode().splitlines():
                file_id, page_size, name = line.split(" ", 2)
                self.catalog[int(file_id)] = (name, int(page_size))

    # -- files

    def read(self, path: str) -> bytes:
        descriptor = self.fs.open(path, os.O_RDONLY)
        try:
            buffer = bytearray(self.fs.fstat(descriptor).size)
            self.fs.preadv(descriptor, [buffer], 0)
            return bytes(buffer)
        finally:
            self.fs.close(descriptor)

    def write(self, path: str, data: bytes, offset: int) -> None:
        descriptor = self.fs.open(path, os.O_RDWR)
        try:
            assert self.fs.pwritev(descriptor, [data], offset) == len(data)
        finally:
            self.fs.close(descriptor)
        self.unsynced.add(path)

    def sync(self) -> None:
        self.calls.append("sync")
        for path in sorted(self.unsynced):
            if self.fs.exists(path):
                descriptor = self.fs.open(path, os.O_RDWR)
                try:
                    self.fs.fsync(descriptor)
                finally:
                    self.fs.close(descriptor)
        self.unsynced.clear()

    def save_catalog(self) -> None:
        for file_id in self.catalog:
            for path in (f"f{file_id}", f"f{file_id}.sum"):
                if not self.fs.exists(path):
                    self.fs.close(self.fs.open(path, os.O_RDWR | os.O_CREAT))
        lines = [f"{file_id} {page_size} {name}\n" for file_id, (name, page_size) in sorted(self.catalog.items())]
        self.fs.close(self.fs.open(CATALOG + ".new", os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        self.write(CATALOG + ".new", "".join(lines).encode(), 0)
        self.sync()
        self.fs.rename(CATALOG + ".new", CATALOG)
        self.fs.sync_directory("")

    def remove_strays(self) -> None:
        for name in self.fs.listdir(""):
            if name[0] == "f" and int(name[1:].partition(".")[0]) not in self.catalog:
                self.fs.unlink(name)

    # -- what recovery and the database write

    def change_catalog(self, changes: Sequence[CatalogChange]) -> None:
        self.calls.append("change_catalog")
        for change in changes:
            if change.dropped:
                self.catalog.pop(change.file_id, None)
            elif change.page_size is not None:
                self.catalog[change.file_id] = (change.name or "", change.page_size)
            else:
                self.catalog[change.file_id] = (change.name or "", self.catalog[change.file_id][1])
        names = [name for name, _ in self.catalog.values()]
        assert len(names) == len(set(names)), f"a name twice: {self.catalog}"
        self.save_catalog()

    def read_sidecar_block(self, file_id: int, block: int) -> bytes | None:
        if not self.fs.exists(f"f{file_id}.sum"):
            return sidecar.EMPTY_BLOCK
        content = (
            self.read(f"f{file_id}.sum")[block * sidecar.BLOCK_SIZE :][: sidecar.BLOCK_SIZE] or sidecar.EMPTY_BLOCK
        )
        return content if sidecar.block_is_valid(content, file_id, block) else None

    def restore_sidecar_block(self, file_id: int, block: int, image: bytes) -> None:
        self.calls.append("restore_sidecar_block")
        assert sidecar.block_is_valid(image, file_id, block)
        content = self.read(f"f{file_id}.sum")[block * sidecar.BLOCK_SIZE :][: sidecar.BLOCK_SIZE]
        if sidecar.block_is_valid(content or sidecar.EMPTY_BLOCK, file_id, block):
            return
        self.blocks[file_id, block] = image
        self.write(f"f{file_id}.sum", image, block * sidecar.BLOCK_SIZE)

    def write_pages(self, file_id: int, pgid: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        self.calls.append("write_pages")
        page_size = self.catalog[file_id][1]
        assert len(pages) == len(lsns)
        assert all(len(page) == page_size for page in pages)
        self.write(f"f{file_id}", b"".join(pages), pgid * page_size)
        touched = set()
        for number, (page, lsn) in enumerate(zip(pages, lsns, strict=True), pgid):
            block = sidecar.locate(number)[0]
            record = sidecar.page_record(crc32c(page), file_id, number, lsn)
            changed = sidecar.changed_block(self.block(file_id, block), file_id, block, {number: record})
            self.blocks[file_id, block] = changed
            touched.add(block)
        self.write_blocks(file_id, touched)

    def set_page_count(self, file_id: int, page_count: int) -> None:
        self.calls.append("set_page_count")
        page_size = self.catalog[file_id][1]
        size = self.fs.stat(f"f{file_id}").size
        if size < page_count * page_size:
            raise CorruptionFound(f"f{file_id} has {size} bytes, {page_count} pages of {page_size} are committed")
        descriptor = self.fs.open(f"f{file_id}", os.O_RDWR)
        self.fs.ftruncate(descriptor, page_count * page_size)
        self.fs.close(descriptor)
        self.unsynced.add(f"f{file_id}")
        descriptor = self.fs.open(f"f{file_id}.sum", os.O_RDWR)
        self.fs.ftruncate(descriptor, sidecar.block_count(page_count) * sidecar.BLOCK_SIZE)
        self.fs.close(descriptor)
        self.unsynced.add(f"f{file_id}.sum")
        for key in [key for key in self.blocks if key[0] == file_id and key[1] >= sidecar.block_count(page_count)]:
            del self.blocks[key]

    def block(self, file_id: int, number: int) -> bytes:
        found = self.blocks.get((file_id, number))
        if found is None:
            content = self.read(f"f{file_id}.sum")[number * sidecar.BLOCK_SIZE :][: sidecar.BLOCK_SIZE]
            found = content or sidecar.EMPTY_BLOCK
            # A torn block that recovery has no image of would be found here.
            assert sidecar.block_is_valid(found, file_id, number), f"sidecar block {number} of f{file_id}"
            self.blocks[file_id, number] = found
        return found

    def write_blocks(self, file_id: int, numbers: set[int]) -> None:
        for number in sorted(numbers):
            self.write(f"f{file_id}.sum", self.block(file_id, number), number * sidecar.BLOCK_SIZE)


def state_on_disk(store: ToyStore, page_counts: dict[int, int]) -> State:
    """Everything that is there, by name; every page checked."""
    state: State = {}
    for file_id, (name, page_size) in store.catalog.items():
        content = store.read(f"f{file_id}")
        n = page_counts[file_id]
        assert len(content) == n * page_size, f"f{file_id} has {len(content)} bytes for {n} pages"
        pages = tuple(content[k * page_size : (k + 1) * page_size] for k in range(n))
        for pgid, page in enumerate(pages):
            block, slot = sidecar.locate(pgid)
            record = sidecar.read_record(store.block(file_id, block), slot)
            assert record is not None, f"page {pgid} of f{file_id} was never written"
            assert sidecar.page_matches(record, page, file_id, pgid), f"page {pgid} of f{file_id} does not match"
        state[name] = pages
    return state


class ToyDatabase:
    """The database.  Changes are made by `commit`, `create`, ...; they are acknowledged when `flush` returns."""

    def __init__(
        self, fs: FileSystem, segment_size: int = 8192, page_size: int = 512, batch_bytes: int = 1 << 20
    ) -> None:
        self.fs = fs
        self.page_size = page_size
        self.store = ToyStore(fs)
        self.log: StartedLog = start_log(
            fs,
            self.store,
            new_system_id=lambda: 0x1122334455667788,
            segment_size=segment_size,
            batch_bytes=batch_bytes,
            boot_id=boot_id_of(fs),
        )
        self.buffer = self.log.buffer
        self.buffer.limit = NO_LIMIT
        self.next_file_id = self.log.next_file_id
        self.next_transaction = self.log.next_transaction
        self.page_counts = dict(self.log.page_counts)
        self.names = {file_id: name for file_id, (name, _) in self.store.catalog.items()}
        on_disk = state_on_disk(self.store, self.page_counts)
        self.pages = {file_id: list(on_disk[name]) for file_id, name in self.names.items()}
        self.dirty: dict[tuple[int, int], int] = {}
        self.logged_blocks: set[tuple[int, int]] = set()
        self.catalog_changes: list[CatalogChange] = []
        self.states: list[State] = [self.state()]
        self.acked = 0
        self.unacked: list[tuple[int, int]] = []
        self.acknowledged_lsn = 0

    def state(self) -> State:
        return {name: tuple(self.pages[file_id]) for file_id, name in self.names.items()}

    def _changed(self, end: int) -> None:
        self.states.append(self.state())
        self.unacked.append((end, len(self.states) - 1))

    # -- changes

    def begin(self) -> int:
        self.next_transaction += 1
        return self.next_transaction - 1

    def log_page(self, transaction: int, file_id: int, index: int, page: bytes) -> None:
        self.buffer.insert_page(transaction, file_id, index, page)

    def commit(self, transaction: int, file_id: int, pgid: int | None, pages: Sequence[bytes]) -> None:
        held = self.pages[file_id]
        pgid = len(held) if pgid is None else pgid
        count = max(len(held), pgid + len(pages))
        place = self.buffer.insert_commit(transaction, file_id, pgid, len(pages), count)
        for number, page in enumerate(pages, pgid):
            held[number : number + 1] = [page]
            self.dirty[file_id, number] = place.lsn
        self.page_counts[file_id] = count
        self.buffer.settle(transaction)
        self._changed(place.end)

    def write(self, file_id: int, pgid: int | None, pages: Sequence[bytes]) -> None:
        transaction = self.begin()
        for index, page in enumerate(pages):
            self.log_page(transaction, file_id, index, page)
        self.commit(transaction, file_id, pgid, pages)

    def create(self, name: str) -> int:
        file_id = self.next_file_id
        self.next_file_id += 1
        place = self.buffer.insert(Create(file_id, self.page_size, name))
        self.names[file_id] = name
        self.pages[file_id] = []
        self.page_counts[file_id] = 0
        self.catalog_changes.append(CatalogChange(file_id, name, self.page_size, False))
        self._changed(place.end)
        return file_id

    def rename(self, file_id: int, name: str) -> None:
        place = self.buffer.insert(Rename(file_id, name))
        self.names[file_id] = name
        self.catalog_changes.append(CatalogChange(file_id, name, None, False))
        self._changed(place.end)

    def drop(self, file_id: int) -> None:
        place = self.buffer.insert(Drop(file_id))
        del self.names[file_id], self.pages[file_id], self.page_counts[file_id]
        self.dirty = {key: lsn for key, lsn in self.dirty.items() if key[0] != file_id}
        self.catalog_changes.append(CatalogChange(file_id, None, None, True))
        self._changed(place.end)

    def truncate(self, file_id: int, n: int) -> None:
        place = self.buffer.insert(Truncate(file_id, n))
        del self.pages[file_id][n:]
        self.page_counts[file_id] = n
        self.dirty = {key: lsn for key, lsn in self.dirty.items() if key[0] != file_id or key[1] < n}
        self._changed(place.end)

    # -- durability

    def flush(self) -> None:
        files = self.log.files
        size = files.segment_size
        for segment in range(self.buffer.flushed // size, self.buffer.next_lsn // size + 1):
            files.prepare(segment, self.buffer.epoch)  # a SEGMENT_SWITCH is never durable before the next segment
        while (batch := self.buffer.next_batch()) is not None:
            files.write(batch)
            self.buffer.batch_written(batch)
            files.sync()
            self.buffer.batch_flushed(batch)
            while self.unacked and self.unacked[0][0] <= self.buffer.flushed:
                self.acked = self.unacked.pop(0)[1]

    def _log_blocks(self, file_id: int, pgids: Sequence[int]) -> None:
        blocks = {sidecar.locate(pgid)[0] for pgid in pgids}
        for number in sorted(blocks):
            if (file_id, number) not in self.logged_blocks:
                self.buffer.insert(SidecarImage(file_id, number, self.store.block(file_id, number)))
                self.logged_blocks.add((file_id, number))

    def clean(self, keys: Sequence[tuple[int, int]]) -> None:
        """Write dirty pages of files that the catalog on disk has; their log comes first."""
        keys = [key for key in keys if key[0] in self.store.catalog and key in self.dirty]
        for file_id, pgid in keys:
            self._log_blocks(file_id, [pgid])
        self.flush()
        for file_id, pgid in keys:
            lsn = self.dirty.pop((file_id, pgid))
            assert lsn < self.buffer.flushed
            self.store.write_pages(file_id, pgid, [self.pages[file_id][pgid]], [lsn])

    def checkpoint(self, *, shutdown: bool = False) -> None:
        redo = self.buffer.redo_point()
        self.flush()
        if self.catalog_changes:
            self.store.change_catalog(self.catalog_changes)
            self.catalog_changes = []
        self.clean(sorted(self.dirty))
        for file_id, page_count in self.page_counts.items():
            self._log_blocks(file_id, [page_count])
            self.flush()
            self.store.set_page_count(file_id, page_count)
        self.logged_blocks.clear()
        self.store.sync()
        if shutdown:
            redo = self.buffer.redo_point()
        place = insert_checkpoint(
            self.buffer,
            redo_lsn=redo,
            page_counts=self.page_counts,
            next_file_id=self.next_file_id,
            next_transaction=self.next_transaction,
            shutdown=shutdown,
        )
        self.flush()
        record_checkpoint(self.log.control, place, redo, self.buffer.flushed, shutdown=shutdown)
        segment = self.buffer.inserted // self.log.files.segment_size
        self.log.files.recycle(redo // self.log.files.segment_size, segment + 1, self.buffer.epoch)
        self.store.remove_strays()

    def close(self) -> None:
        self.log.files.close()
        self.log.control.close()
