"""The catalog of page files: names, its file, and what crashes and failures leave."""

from __future__ import annotations

import errno
import unicodedata
import zlib
from contextlib import nullcontext, suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import (
    CatalogDamaged,
    CorruptionFound,
    InvalidName,
    InvalidRequest,
    NoSpace,
    PageFileExists,
    PageFileNotFound,
    PfsError,
    RequestTooLarge,
)
from pfs.files.catalog import CATALOG_FILE, Catalog
from pfs.files.catalog_table import CatalogEntry, CatalogTable, check_name, decode, encode
from pfs.files.relation import MAX_NUMBER
from pfs.files.storage_manager import StorageManager
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.redo import CatalogChange
from tests.files.relations import MAIN, SIZE, block, storage_on
from tests.support import run_together

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=40).filter(
    lambda name: unicodedata.is_normalized("NFC", name) and name not in (".", "..") and len(name.encode()) <= 255
)
EXAMPLE = (
    b'{"format":"pfs catalog","version":1,"entries":2,"next_number":16387}\n'
    b'{"name":"names","number":16386,"page_size":4096}\n'
    b'{"name":"triples","number":16384,"page_size":8192}\n'
)


def signed(body: bytes) -> bytes:
    """A catalog file whose checksum is right."""
    return body + b'{"crc32":"%08x"}\n' % zlib.crc32(body)


def put(fs, path, data):
    with storage_on(fs) as storage, storage.pool.create(path) as file:
        file.write_all_at(data, 0)


def create(catalog: Catalog, name: str, page_size: int = 8192) -> CatalogEntry:
    """What a checkpoint makes of a CREATE."""
    entry = catalog.make_file(name, page_size)
    catalog.table = catalog.table.added(entry)
    catalog.save(catalog.table)
    return entry


def rename(catalog: Catalog, name: str, new_name: str) -> None:
    catalog.table = catalog.table.renamed(name, new_name)
    catalog.save(catalog.table)


def drop(catalog: Catalog, name: str) -> None:
    entry = catalog.get(name)
    catalog.table = catalog.table.dropped(name)
    catalog.save(catalog.table)
    catalog.remove_file(entry)


@pytest.fixture
def fs():
    return SimulatedFileSystem()


@pytest.fixture
def storage(fs):
    with storage_on(fs, segment_size=65536) as made:
        yield made


@pytest.fixture
def catalog(storage):
    return Catalog(storage.pool, storage.manager)


def reopened(storage) -> Catalog:
    return Catalog(storage.pool, storage.manager)


# ------------------------------------------------------------------------------------------ names


@given(NAMES)
def test_any_name_in_normal_form_without_slashes_and_control_characters_is_good(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["a", "Ä", "..a", "a b", "-x", "16384", "x" * 255, "ü" * 127, "\N{SNOWMAN}", "name.1"])
def test_names_are_free_within_the_rules(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/", "a\0", "a\nb", "\x7f", "\x85", "x" * 256, "ü" * 128, "\ud800"),
        *("A\N{COMBINING DIAERESIS}", "\N{ANGSTROM SIGN}", b"bytes", 7, None, True),
    ],
)
def test_a_bad_name_is_refused_by_everything_that_takes_one(catalog, name):
    create(catalog, "good")
    for call in (
        lambda: create(catalog, name),
        lambda: catalog.get(name),
        lambda: drop(catalog, name),
        lambda: rename(catalog, name, "other"),
        lambda: rename(catalog, "good", name),
    ):
        with pytest.raises(InvalidName):
            call()
    assert catalog.names() == ["good"]


# ------------------------------------------------------------------------------------------ create, rename, drop, list


def test_page_files_are_relations_numbered_from_16384_up(fs, catalog):
    assert [str(create(catalog, name).address) for name in ("b", "a", "B")] == [
        *("1663/5/16384", "1663/5/16385", "1663/5/16386")
    ]
    assert catalog.names() == ["B", "a", "b"]
    assert [(entry.name, entry.number, entry.page_size) for entry in catalog.entries()] == [
        *(("B", 16386, 8192), ("a", 16385, 8192), ("b", 16384, 8192))
    ]
    assert fs.listdir("base/5") == ["16384", "16385", "16386"]


def test_what_was_done_is_found_again(storage, catalog):
    create(catalog, "a", 512)
    create(catalog, "b", 65536)
    create(catalog, "c")
    rename(catalog, "a", "z")
    drop(catalog, "b")
    again = reopened(storage)
    assert again.entries() == catalog.entries()
    assert [(entry.name, entry.number, entry.page_size) for entry in again.entries()] == [
        *(("c", 16386, 8192), ("z", 16384, 512))
    ]


@pytest.mark.parametrize("size", [0, 511, 1000, 131072, -512, True, "512"])
def test_a_page_size_that_no_file_can_have_is_refused(fs, catalog, size):
    with pytest.raises(InvalidRequest, match="block size"):
        create(catalog, "a", size)
    assert catalog.names() == []
    assert catalog.strays() == []


def test_names_are_distinct_and_must_exist(catalog):
    create(catalog, "a")
    create(catalog, "b")
    for call in (
        lambda: create(catalog, "a"),
        lambda: rename(catalog, "a", "b"),
        lambda: rename(catalog, "a", "a"),
    ):
        with pytest.raises(PageFileExists):
            call()
    for call in (
        lambda: drop(catalog, "c"),
        lambda: rename(catalog, "c", "d"),
        lambda: catalog.get("c"),
    ):
        with pytest.raises(PageFileNotFound, match="'c'"):
            call()
    assert catalog.names() == ["a", "b"]


def test_a_renamed_page_file_keeps_its_pages(storage, catalog):
    manager = storage.manager
    entry = create(catalog, "a", SIZE)
    relation = manager.open(entry.address, SIZE)
    manager.extend(relation, MAIN, 0, [block(1)])
    rename(catalog, "a", "b")
    assert catalog.get("b").address == entry.address
    assert manager.read(relation, MAIN, 0) == block(1)


def test_dropping_removes_the_files_and_never_gives_their_number_again(fs, storage, catalog):
    create(catalog, "a", SIZE)
    create(catalog, "b", SIZE)
    relation = storage.manager.open(catalog.get("b").address, SIZE)
    storage.manager.extend(relation, MAIN, 0, [block(1)] * 9)
    storage.manager.close(relation)
    drop(catalog, "b")
    assert fs.listdir("base/5") == ["16384"]
    again = reopened(storage)
    assert create(again, "b", SIZE).number == 16386


def test_threads_may_make_files_at_once(storage, catalog):
    made = []
    run_together([lambda name=f"{number:02}": made.append(catalog.make_file(name, SIZE)) for number in range(12)])
    assert len({entry.number for entry in made}) == 12
    assert len(catalog.strays()) == 12


# ------------------------------------------------------------------------------------------ the file


def test_the_file_is_as_documented():
    table = decode(signed(EXAMPLE), "f")
    assert encode(table) == signed(EXAMPLE)
    assert {name: (entry.number, entry.page_size) for name, entry in table.entries.items()} == {
        "names": (16386, 4096),
        "triples": (16384, 8192),
    }
    assert table.next_number == 16387


@given(st.lists(NAMES, unique=True, max_size=8), st.data())
def test_a_table_reads_back_as_it_was_written(names, data):
    table = CatalogTable()
    for name in names:
        table = table.created(name, data.draw(st.sampled_from([512, 8192, 65536])))
    assert decode(encode(table), "f") == table


def test_every_flipped_bit_every_cut_and_every_longer_file_is_found():
    good = signed(EXAMPLE)
    for position in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            with pytest.raises(CatalogDamaged, match="catalog 'f' is damaged"):
                decode(bytes(bad), "f")
        with pytest.raises(CatalogDamaged):
            decode(good[:position], "f")
    for bad in (good + b"\n", good + good, b"\n" + good, good + b"\0"):
        with pytest.raises(CatalogDamaged):
            decode(bad, "f")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":1', b'"version":2'),
        (b'"format":"pfs catalog"', b'"format":"else"'),
        (b'"entries":2', b'"entries":3'),
        (b'"entries":2', b'"entries":true'),
        (b'"next_number":16387', b'"next_number":16386'),
        (b'"next_number":16387', b'"next_number":4294967297'),
        (b'"number":16384', b'"number":16386'),
        (b'"number":16384', b'"number":16383'),
        (b'"number":16384', b'"number":"16384"'),
        (b'"page_size":8192', b'"page_size":8191'),
        (b'"page_size":8192', b'"page_size":8192,"more":1'),
        (b',"page_size":8192', b""),
        (b'"name":"triples"', b'"name":"names"'),
        (b'"name":"triples"', b'"name":"a/b"'),
        (b'"name":"triples"', b'"name":"\xff"'),
        (EXAMPLE, b""),
        (EXAMPLE, b"\n"),
    ],
)
def test_a_file_that_contradicts_itself_is_damaged_though_its_checksum_is_right(old, new):
    body = EXAMPLE.replace(old, new)
    assert body != EXAMPLE
    with pytest.raises(CatalogDamaged):
        decode(signed(body), "f")


def test_a_damaged_catalog_names_its_file(fs, storage):
    put(fs, CATALOG_FILE, b"nonsense")
    with pytest.raises(CatalogDamaged, match=r"'pfs\.catalog' is damaged"):
        reopened(storage)


def test_a_lost_catalog_is_an_error_not_an_empty_one(fs, storage, catalog):
    create(catalog, "a")
    fs.unlink(CATALOG_FILE)
    with pytest.raises(
        CatalogDamaged, match=r"'pfs\.catalog' is missing, but 'base/5' holds 1 files of relations .'16384'"
    ):
        reopened(storage)


def test_numbers_end_at_32_bits():
    table = CatalogTable().above(MAX_NUMBER - 1).created("last", 512)
    assert decode(encode(table), "f") == table
    with pytest.raises(RequestTooLarge, match="4294967295"):
        table.created("one more", 512)


# ------------------------------------------------------------------------------------------ strays


def test_files_without_a_name_are_strays_and_can_be_removed(fs, storage, catalog):
    entry = create(catalog, "a", SIZE)
    for name in ("16500", "16500.1", "16400_fsm", "notes.txt", "PG_VERSION"):
        put(fs, f"base/5/{name}", block(1))
    assert catalog.strays() == ["base/5/16400_fsm", "base/5/16500", "base/5/16500.1"]
    again = reopened(storage)
    assert create(again, "b", SIZE).number == 16501
    assert again.remove_strays() == ["base/5/16400_fsm", "base/5/16500", "base/5/16500.1"]
    assert again.strays() == []
    assert fs.listdir("base/5") == [str(entry.number), "16501", "PG_VERSION", "notes.txt"]
    assert "base/5/16500" not in fs.durable_files


def test_a_file_for_which_there_is_no_space_leaves_nothing_but_its_number_used_up(fs, catalog):
    create(catalog, "a")
    fs.faults.append(Fault(errno.ENOSPC, operation="open", path="base/*"))
    with pytest.raises(NoSpace):
        catalog.make_file("b", SIZE)
    assert (catalog.names(), catalog.strays()) == (["a"], [])
    assert catalog.next_number == 16386
    assert create(catalog, "b").number == 16386


def test_a_catalog_that_cannot_be_saved_now_can_be_saved_later(fs, storage, catalog):
    create(catalog, "a")
    fs.faults.append(Fault(errno.ENOSPC, operation="pwritev"))
    with pytest.raises(NoSpace):
        rename(catalog, "a", "b")
    assert catalog.names() == ["b"]
    assert reopened(storage).names() == ["a"]
    catalog.save(catalog.table)
    assert reopened(storage).names() == ["b"]


def test_a_catalog_that_says_nothing_new_is_not_written(fs, catalog):
    create(catalog, "a")
    before = fs.operations
    catalog.save(catalog.table.renamed("a", "b").renamed("b", "a"))
    assert fs.operations == before


# ------------------------------------------------------------------------------------------ doing again what was logged


def change(number, name=None, page_size=None, *, dropped=False):
    return CatalogChange(number, name, page_size, dropped)


MADE, RENAMED, DROPPED = change(16384, "a", 512), change(16385, "c"), change(16386, dropped=True)


def table_of(*names, next_number=16384):
    """Of names and numbers."""
    entries = {name: CatalogEntry(name, number, 512) for name, number in names}
    return CatalogTable(entries, max(next_number, *(number + 1 for _, number in names)))


@pytest.mark.parametrize(
    "before",
    [
        table_of(("b", 16385), ("d", 16386)),
        table_of(("a", 16384), ("b", 16385), ("d", 16386)),
        table_of(("a", 16384), ("c", 16385), ("d", 16386)),
        table_of(("a", 16384), ("c", 16385), next_number=16387),
    ],
)
def test_however_many_of_the_changes_were_saved_all_are_there_in_the_end(before):
    done = before.after([MADE, RENAMED, DROPPED])
    assert done == table_of(("a", 16384), ("c", 16385), next_number=16387)
    assert done.after([MADE, RENAMED, DROPPED]) == done


def test_files_may_have_exchanged_their_names():
    before = table_of(("a", 16384), ("b", 16385), ("c", 16386))
    after = before.after([change(16384, "b"), change(16386, "a"), change(16385, dropped=True), change(16390, "c", 512)])
    assert after == table_of(("b", 16384), ("a", 16386), ("c", 16390))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([change(16390, "x")], "16390, which was renamed, is missing"),
        ([change(16384)], "16384, which was renamed, is missing"),
        ([change(16384, "b")], "16385 and 16384 are both 'b'"),
    ],
)
def test_changes_that_were_not_made_to_this_catalog_are_noticed(changes, message):
    with pytest.raises(CorruptionFound, match=message):
        table_of(("a", 16384), ("b", 16385)).after(changes)


def test_a_page_file_that_was_made_has_its_file_again(fs, storage, catalog):
    create(catalog, "a", SIZE)
    number = catalog.next_number
    for _ in range(2):
        catalog.redo([change(number, "b", SIZE), change(16384, "c")])
        assert catalog.names() == ["b", "c"]
        assert fs.durable_files[f"base/5/{number}"] == b""
    assert catalog.next_number == number + 1
    catalog.save(catalog.table)
    assert reopened(storage).entries() == catalog.entries()


def test_a_drop_whose_files_cannot_be_removed_leaves_strays(fs, catalog):
    create(catalog, "a")
    fs.faults.append(Fault(errno.ENOSPC, operation="unlink", path="base/*"))
    drop(catalog, "a")
    assert (catalog.names(), catalog.strays()) == ([], ["base/5/16384"])


def history(catalog: Catalog, manager: StorageManager) -> None:
    """A short life of a catalog."""
    create(catalog, "a", SIZE)
    relation = manager.open(catalog.get("a").address, SIZE)
    manager.extend(relation, MAIN, 0, [block(1)] * 6)
    manager.immedsync(relation)
    manager.close(relation)
    create(catalog, "b", SIZE)
    rename(catalog, "a", "c")
    drop(catalog, "b")


STATES: list[set[str]] = [set(), {"a"}, {"a", "b"}, {"b", "c"}, {"c"}]


@pytest.mark.parametrize("policy", ["none", "all", "prefix", "subset", "torn"])
def test_after_a_crash_at_any_operation_every_name_has_its_file(policy, seed):
    rng = Random(seed)
    images = []
    fs = SimulatedFileSystem(on_operation=lambda operation: images.append((operation, fs.crash_image(policy, rng))))
    with storage_on(fs) as storage:
        history(Catalog(storage.pool, storage.manager), storage.manager)
    fs.on_operation = None
    assert len(images) > 60
    reached = 0
    for operation, image in images:
        image.on_operation = None
        with storage_on(image) as storage:
            catalog = Catalog(storage.pool, storage.manager)
            state = STATES.index(set(catalog.names()))
            assert state >= reached, f"{operation}: what was durable is lost"
            reached = state if policy == "none" else reached
            for entry in catalog.entries():
                relation = storage.manager.open(entry.address, SIZE)
                count = storage.manager.nblocks(relation)
                assert count <= 6
                storage.manager.close(relation)
            if state >= 2:
                kept = storage.manager.open(catalog.get("c" if state > 2 else "a").address, SIZE)
                assert storage.manager.nblocks(kept) == 6
            catalog.remove_strays()
            assert catalog.strays() == []
            used = {entry.number for entry in catalog.entries()}
            assert create(catalog, "new", SIZE).number not in used
    assert reached == (len(STATES) - 1 if policy == "none" else 0)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EINTR, errno.EROFS])
def test_whichever_call_fails_a_change_happens_or_does_not(error):
    at = 0
    struck = True
    while struck:
        at += 1
        fault = Fault(error, at=at)
        fs = SimulatedFileSystem()
        with storage_on(fs) as storage:
            catalog = Catalog(storage.pool, storage.manager)
            fs.faults.append(fault)
            failed = None
            try:
                history(catalog, storage.manager)
            except PfsError as raised:
                failed = raised
            struck = bool(fault.struck)
            fs.faults.clear()
            names = set(catalog.names())
            assert names in STATES, (at, error)
            assert failed or names == STATES[-1]
            with suppress(PfsError) if failed else nullcontext():
                storage.manager.shutdown()
        image = fs.crash_image("all", Random(0))
        with storage_on(image) as storage:
            later = set(Catalog(storage.pool, storage.manager).names())
            assert later == names or (failed and later in STATES)
    assert at > 40
