"""What recovery does to the page files of a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pfs.errors import CorruptionFound
from pfs.files.redo_target import StoreRedoTarget
from pfs.files.store import PageFileStore
from pfs.testing.file_system import SimulatedFileSystem

PAGE = 512


@pytest.fixture
def store() -> Iterator[PageFileStore]:
    store = PageFileStore(SimulatedFileSystem(), clock=lambda: 0.0, segment_bytes=4 * PAGE)
    yield store
    store.close()


def made(store: PageFileStore, name: str = "names") -> int:
    opened = store.open(name, create=True, page_size=PAGE, repair=False)
    store.close_file(name)
    return opened.file_id


def content(store: PageFileStore, name: str = "names") -> list[bytes]:
    file = store.open(name, create=False, page_size=None, repair=False).file
    pages = file.read(0, file.block_count()) if file.block_count() else []
    store.close_file(name)
    return pages


def test_pages_are_written_wherever_they_belong_and_the_file_grows(store: PageFileStore) -> None:
    file_id = made(store)
    target = StoreRedoTarget(store)
    target.write_pages(file_id, 5, [b"b" * PAGE], [80])
    target.write_pages(file_id, 0, [b"a" * PAGE] * 5, [40] * 5)
    target.set_page_count(file_id, 6)
    target.sync()
    assert content(store) == [b"a" * PAGE] * 5 + [b"b" * PAGE]


def test_what_lies_beyond_the_page_count_is_cut(store: PageFileStore) -> None:
    file_id = made(store)
    target = StoreRedoTarget(store)
    target.write_pages(file_id, 0, [b"a" * PAGE] * 7, [40] * 7)
    target.set_page_count(file_id, 2)
    target.sync()
    assert content(store) == [b"a" * PAGE] * 2


def test_fewer_pages_than_were_committed_are_corruption(store: PageFileStore) -> None:
    file_id = made(store)
    target = StoreRedoTarget(store)
    with pytest.raises(CorruptionFound, match="has 0 pages, and 3 were committed"):
        target.set_page_count(file_id, 3)
    target.sync()


def test_what_is_logged_of_a_dropped_file_is_passed_over(store: PageFileStore) -> None:
    file_id = made(store)
    store.drop("names")
    target = StoreRedoTarget(store)
    target.write_pages(file_id, 0, [b"a" * PAGE], [40])
    target.set_page_count(file_id, 1)
    target.sync()
    assert store.names() == []


def test_there_are_no_sidecars_to_restore_or_catalog_changes_to_make(store: PageFileStore) -> None:
    file_id = made(store)
    target = StoreRedoTarget(store)
    target.change_catalog([])
    target.restore_sidecar_block(file_id, 0, bytes(512))
    assert target.read_sidecar_block(file_id, 0) is None
    target.sync()
    assert store.names() == ["names"]
