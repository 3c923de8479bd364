"""The files of one data directory: what `System` opens, and what stands in its way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfs.errors import (
    AccessDenied,
    Busy,
    CatalogDamaged,
    CorruptionFound,
    DirectoryLocked,
    FileExists,
    PageIOError,
    SyncFailed,
)
from pfs.files.catalog import CatalogEntry
from pfs.files.checked_file import CheckedFile
from pfs.files.store import PageFileStore
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from tests.files import stores
from tests.files.stores import PAGE


def open_store(disk: SimulatedFileSystem | Path) -> PageFileStore:
    return PageFileStore(disk, clock=lambda: 0.0, segment_bytes=4 * PAGE)


def made(store: PageFileStore, pages: int = 0) -> CatalogEntry:
    """A page file that is not open, of so many pages."""
    entry = stores.made(store)
    if pages:
        stores.opened(store).write(0, [bytes(PAGE)] * pages, [1] * pages)
        stores.closed(store)
    return entry


def opened(store: PageFileStore) -> CheckedFile:
    return store.open(made(store), 0, repair=False)


@pytest.fixture
def disk() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def store(disk: SimulatedFileSystem) -> Iterator[PageFileStore]:
    store = open_store(disk)
    yield store
    store.close()


def test_a_page_file_says_where_it_is_and_how_large_its_pages_are(store: PageFileStore) -> None:
    entry = made(store)
    file = store.open(entry, 0, repair=False)
    assert file.block_size == PAGE
    assert str(entry.number) in file.name
    assert file.block_count() == 0
    assert store.open_files == {entry.number: file}


def test_pages_that_were_never_committed_are_cut_when_a_file_is_opened(store: PageFileStore) -> None:
    entry = made(store, 7)
    assert store.open(entry, 6, repair=False).block_count() == 6


def test_a_file_with_fewer_pages_than_were_committed_is_not_opened(
    disk: SimulatedFileSystem, store: PageFileStore
) -> None:
    entry = made(store, 7)
    before = disk.open_descriptors
    with pytest.raises(CorruptionFound, match="has 7 pages, and 8 were committed"):
        store.open(entry, 8, repair=True)
    assert disk.open_descriptors == before
    assert store.open_files == {}
    assert store.open(entry, 7, repair=False).block_count() == 7


@pytest.mark.parametrize("is_open", [False, True])
def test_removing_a_page_file_removes_all_its_files(
    disk: SimulatedFileSystem, store: PageFileStore, is_open: bool
) -> None:
    entry = made(store, 9)
    if is_open:
        store.open(entry, 9, repair=False)
    assert disk.listdir("base/5") == ["16384", "16384.1", "16384.2", "16384_sum"]
    store.remove(entry)
    assert disk.listdir("base/5") == []
    assert store.open_files == {}


def test_a_directory_in_use_is_refused_and_left_as_it_is(disk: SimulatedFileSystem, store: PageFileStore) -> None:
    before = disk.open_descriptors
    with pytest.raises(DirectoryLocked, match=r"pfs\.lock"):
        open_store(disk)
    assert disk.open_descriptors == before


def test_a_store_that_cannot_be_opened_unlocks_the_directory(disk: SimulatedFileSystem) -> None:
    open_store(disk).close()
    descriptor = disk.open("pfs.catalog", 2)
    disk.pwritev(descriptor, [b"?"], 0)
    disk.close(descriptor)
    for _ in range(2):
        with pytest.raises(CatalogDamaged):
            open_store(disk)
    assert not disk.open_descriptors


def test_a_lock_that_fails_leaves_no_descriptor_open() -> None:
    disk = SimulatedFileSystem(faults=[Fault(errno.ENOLCK, operation="lock")])
    with pytest.raises(PageIOError, match=r"could not lock 'pfs\.lock' in 'a simulated disk': No locks"):
        open_store(disk)
    assert not disk.open_descriptors


def test_a_directory_that_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    for code, refusal in [(errno.EMFILE, Busy), (errno.EACCES, AccessDenied), (errno.EIO, PageIOError)]:
        disk = SimulatedFileSystem(faults=[Fault(code, operation="open", path="pfs.lock")])
        with pytest.raises(refusal, match=r"could not open 'pfs\.lock' in 'a simulated disk'"):
            open_store(disk)
    (tmp_path / "file").touch()
    with pytest.raises(FileExists, match=f"could not open the data directory '{tmp_path}/file'"):
        open_store(tmp_path / "file")


def test_closing_a_file_that_is_not_open_does_nothing(store: PageFileStore) -> None:
    store.close_file(7)
    opened(store)
    stores.closed(store)
    stores.closed(store)
    assert store.catalog.names() == ["names"]


def test_a_closed_store_leaves_nothing_open_and_the_directory_free(disk: SimulatedFileSystem) -> None:
    store = open_store(disk)
    opened(store)
    store.close()
    assert not disk.open_descriptors
    open_store(disk).close()
    assert not disk.open_descriptors


def test_what_was_written_and_the_catalog_are_durable_together(disk: SimulatedFileSystem, store: PageFileStore) -> None:
    file = opened(store)
    file.write(0, [b"x" * PAGE], [1])
    table = store.catalog.table.renamed("names", "others")
    store.make_durable(table)
    assert disk.durable_files["base/5/16384"] == b"x" * PAGE
    assert b"others" in disk.durable_files["pfs.catalog"]


def test_a_missing_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a" / "b")
    assert store.name == str(tmp_path / "a" / "b")
    store.close()
    assert (tmp_path / "a" / "b" / "pfs.lock").exists()


def test_a_lock_that_cannot_be_closed_is_given_up_all_the_same() -> None:
    disk = SimulatedFileSystem(faults=[Fault(errno.EIO, operation="close", path="pfs.lock", forever=True)])
    store = open_store(disk)
    store.close()
    assert not disk.open_descriptors


def test_names_that_a_killed_process_left_can_be_made_durable() -> None:
    disk = SimulatedFileSystem()
    store = open_store(disk)
    made(store)
    disk.faults.append(Fault(errno.EIO, operation="sync_directory", path="", forever=True))
    with pytest.raises(SyncFailed):
        store.make_durable(store.catalog.table.renamed("names", "others"))
    after = disk.killed_image()
    store.close()
    after.faults = []
    assert b"others" not in after.durable_files["pfs.catalog"]
    store = open_store(after)
    assert store.catalog.names() == ["others"]
    store.catalog.sync_names()
    assert b"others" in after.durable_files["pfs.catalog"]
    store.close()
