"""The files of one data directory: what `System` opens, and what stands in its way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfs.errors import AccessDenied, Busy, CatalogDamaged, DirectoryLocked, FileExists, PageIOError, SyncFailed
from pfs.files.store import PageFileStore
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem

PAGE = 512


def open_store(disk: SimulatedFileSystem | Path) -> PageFileStore:
    return PageFileStore(disk, clock=lambda: 0.0, segment_bytes=4 * PAGE)


@pytest.fixture
def disk() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def store(disk: SimulatedFileSystem) -> Iterator[PageFileStore]:
    store = open_store(disk)
    yield store
    store.close()


def test_a_page_file_says_where_it_is_and_how_large_its_pages_are(store: PageFileStore) -> None:
    opened = store.open("names", create=True, page_size=PAGE, repair=False)
    assert opened.page_size == opened.file.block_size == PAGE
    assert str(opened.file_id) in opened.file.name
    assert opened.file.block_count() == 0


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
    store.close_file("nobody")
    store.open("names", create=True, page_size=PAGE, repair=False)
    store.close_file("names")
    store.close_file("names")
    assert store.names() == ["names"]


def test_a_closed_store_leaves_nothing_open_and_the_directory_free(disk: SimulatedFileSystem) -> None:
    for _ in range(2):
        store = open_store(disk)
        store.open("names", create=True, page_size=PAGE, repair=False)
        store.close()
        assert not disk.open_descriptors


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
    disk = SimulatedFileSystem(faults=[Fault(errno.EIO, operation="sync_directory", path="", at=3, forever=True)])
    store = open_store(disk)
    with pytest.raises(SyncFailed):
        store.open("names", create=True, page_size=PAGE, repair=False)
    after = disk.killed_image()
    store.close()
    after.faults = []
    assert b"names" not in after.durable_files["pfs.catalog"]
    store = open_store(after)
    assert store.names() == ["names"]
    store.sync_names()
    assert b"names" in after.durable_files["pfs.catalog"]
    store.close()
