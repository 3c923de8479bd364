"""What recovery does to the page files of a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pfs.errors import CorruptionFound
from pfs.files.redo_target import StoreRedoTarget
from pfs.files.store import PageFileStore
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.redo import CatalogChange
from pfs.wal.sidecar import EMPTY_BLOCK
from tests.files.stores import PAGE, content, made


@pytest.fixture
def store() -> Iterator[PageFileStore]:
    store = PageFileStore(SimulatedFileSystem(), clock=lambda: 0.0, segment_bytes=4 * PAGE)
    yield store
    store.close()


def damage(store: PageFileStore, file_id: int) -> None:
    """Change a byte of the first block of a sidecar, behind the store's back."""
    fs = store.file_system
    descriptor = fs.open(f"base/5/{file_id}_sum", 2)
    fs.pwritev(descriptor, [b"?"], 20)
    fs.close(descriptor)
    store.forget_sidecars()


def test_pages_are_written_wherever_they_belong_and_the_file_grows(store: PageFileStore) -> None:
    file_id = made(store).number
    target = StoreRedoTarget(store)
    target.write_pages(file_id, 5, [b"b" * PAGE], [80])
    target.write_pages(file_id, 0, [b"a" * PAGE] * 5, [40] * 5)
    target.set_page_count(file_id, 6)
    target.sync()
    assert content(store) == [b"a" * PAGE] * 5 + [b"b" * PAGE]


def test_what_lies_beyond_the_page_count_is_cut(store: PageFileStore) -> None:
    file_id = made(store).number
    target = StoreRedoTarget(store)
    target.write_pages(file_id, 0, [b"a" * PAGE] * 7, [40] * 7)
    target.set_page_count(file_id, 2)
    target.sync()
    assert content(store) == [b"a" * PAGE] * 2


def test_fewer_pages_than_were_committed_are_corruption(store: PageFileStore) -> None:
    file_id = made(store).number
    target = StoreRedoTarget(store)
    with pytest.raises(CorruptionFound, match="has 0 pages, and 3 were committed"):
        target.set_page_count(file_id, 3)
    target.sync()


def test_the_catalog_is_as_the_log_says_and_durable_when_the_redo_is(store: PageFileStore) -> None:
    file_id = made(store).number
    target = StoreRedoTarget(store)
    target.change_catalog(
        [CatalogChange(file_id, "others", None, False), CatalogChange(file_id + 1, "new", 512, False)]
    )
    assert target.read_sidecar_block(file_id + 1, 0) == EMPTY_BLOCK
    target.write_pages(file_id + 1, 0, [b"a" * PAGE], [40])
    target.set_page_count(file_id + 1, 1)
    target.sync()
    assert content(store, "new") == [b"a" * PAGE]
    disk = store.file_system
    assert isinstance(disk, SimulatedFileSystem)
    assert b'"new"' in disk.durable_files["pfs.catalog"]
    assert b'"others"' in disk.durable_files["pfs.catalog"]


def test_a_sidecar_block_is_restored_only_if_it_is_damaged(store: PageFileStore) -> None:
    file_id = made(store).number
    target = StoreRedoTarget(store)
    assert target.read_sidecar_block(file_id, 0) == EMPTY_BLOCK
    target.write_pages(file_id, 0, [b"a" * PAGE] * 3, [40] * 3)
    image = target.read_sidecar_block(file_id, 0)
    assert image is not None
    target.restore_sidecar_block(file_id, 0, EMPTY_BLOCK)
    assert target.read_sidecar_block(file_id, 0) == image
    target.set_page_count(file_id, 3)
    target.sync()
    damage(store, file_id)
    again = StoreRedoTarget(store)
    assert again.read_sidecar_block(file_id, 0) is None
    again.restore_sidecar_block(file_id, 0, image)
    again.sync()
    assert content(store) == [b"a" * PAGE] * 3


def test_pages_of_a_file_that_the_catalog_does_not_have_are_corruption(store: PageFileStore) -> None:
    target = StoreRedoTarget(store)
    for call in (
        lambda: target.read_sidecar_block(16384, 0),
        lambda: target.restore_sidecar_block(16384, 0, EMPTY_BLOCK),
        lambda: target.write_pages(16384, 0, [b"a" * PAGE], [40]),
        lambda: target.set_page_count(16384, 0),
    ):
        with pytest.raises(CorruptionFound, match="page file 16384, which the catalog does not have"):
            call()
    target.sync()
