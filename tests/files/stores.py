"""What tests of a data directory's files begin with: page files of a store, without a system around it."""

from __future__ import annotations

from pfs.files.catalog import CatalogEntry
from pfs.files.checked_file import CheckedFile
from pfs.files.store import PageFileStore

PAGE = 512


def made(store: PageFileStore, name: str = "names") -> CatalogEntry:
    """A page file, durable, empty, and not open."""
    entry = store.catalog.make_file(name, PAGE)
    store.catalog.table = store.catalog.table.added(entry)
    store.catalog.save(store.catalog.table)
    return entry


def opened(store: PageFileStore, name: str = "names") -> CheckedFile:
    """A page file, open, with whatever pages it has."""
    return store.open_any(store.catalog.get(name), repair=False)


def closed(store: PageFileStore, name: str = "names") -> None:
    store.close_file(store.catalog.get(name).number)


def content(store: PageFileStore, name: str = "names") -> list[bytes]:
    """The pages of a page file that is not open."""
    file = opened(store, name)
    pages = file.read(0, file.block_count()) if file.block_count() else []
    closed(store, name)
    return pages
