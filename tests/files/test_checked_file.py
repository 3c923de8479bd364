"""Pages are checked against the sidecar when they come from the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidRequest, NoSpace, PageCorrupt, PageIOError
from pfs.files.checked_file import CheckedFile
from pfs.files.relation import parse_sidecar_name, sidecar_name
from pfs.files.store import PageFileStore
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.sidecar import EMPTY_BLOCK, LOST_RECORD
from tests.files.stores import PAGE, closed, made, opened

SIDECAR = "base/5/16384_sum"
DATA = "base/5/16384"


def page(number: int) -> bytes:
    return b"%08d" % number * (PAGE // 8)


def pages(first: int, n: int) -> list[bytes]:
    return [page(number) for number in range(first, first + n)]


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def store(fs: SimulatedFileSystem) -> Iterator[PageFileStore]:
    store = PageFileStore(fs, clock=lambda: 0.0)
    yield store
    store.close()


def new(store: PageFileStore) -> CheckedFile:
    made(store)
    return opened(store)


@pytest.fixture
def file(store: PageFileStore) -> CheckedFile:
    """A page file of 70 pages: three blocks of its sidecar."""
    file = new(store)
    file.write(0, pages(0, 70), [100] * 70)
    return file


def poke(fs: SimulatedFileSystem, path: str, data: bytes, offset: int) -> None:
    descriptor = fs.open(path, os.O_RDWR)
    fs.pwritev(descriptor, [data], offset)
    fs.close(descriptor)


def test_pages_are_read_as_they_were_written(file: CheckedFile) -> None:
    assert file.read(0, 70) == pages(0, 70)
    file.write(30, pages(900, 3), [200] * 3)
    assert file.read(29, 5) == [page(29), *pages(900, 3), page(33)]
    record = file.page_record(31)
    assert record is not None
    assert record.lsn == 200


def test_a_changed_byte_is_noticed_and_costs_that_page_only(fs: SimulatedFileSystem, file: CheckedFile) -> None:
    poke(fs, DATA, b"?", 40 * PAGE + 17)
    with pytest.raises(PageCorrupt, match=r"page 40 of 'names' \(relation 1663/5/16384\).*does not match its checksum"):
        file.read(0, 70)
    assert file.read(0, 40) + file.read(41, 29) == [*pages(0, 40), *pages(41, 29)]
    assert file.try_read(40, 1) is None


def test_a_page_at_another_place_is_noticed(fs: SimulatedFileSystem, file: CheckedFile) -> None:
    poke(fs, DATA, page(3), 4 * PAGE)
    with pytest.raises(PageCorrupt, match="page 4 "):
        file.read(4, 1)


def test_a_page_of_an_earlier_time_is_noticed(fs: SimulatedFileSystem, file: CheckedFile) -> None:
    file.write(4, [page(99)], [300])
    poke(fs, DATA, page(4), 4 * PAGE)
    with pytest.raises(PageCorrupt, match="page 4 "):
        file.read(4, 1)


def test_zeros_of_a_hole_are_not_taken_for_a_page(fs: SimulatedFileSystem, file: CheckedFile) -> None:
    poke(fs, DATA, bytes(PAGE), 80 * PAGE)
    again = PageFileStore(fs.crash_image("all", None), clock=lambda: 0.0)  # type: ignore[arg-type]
    with pytest.raises(PageCorrupt, match=r"page 75 .* never written"):
        opened(again).read(75, 1)
    again.close()


def test_a_file_without_its_sidecar_has_no_page_to_be_trusted(fs: SimulatedFileSystem, store: PageFileStore) -> None:
    file = new(store)
    assert file.sidecar_blocks([0, 7]) == [EMPTY_BLOCK, EMPTY_BLOCK]
    file.write(0, pages(0, 2), [1, 1])
    closed(store)
    fs.unlink(SIDECAR)
    store.forget_sidecars()
    again = opened(store)
    with pytest.raises(PageCorrupt, match="never written"):
        again.read(0, 1)
    again.truncate(1)
    assert again.try_read(0, 1) is None


def test_a_damaged_block_costs_its_own_pages_until_they_are_written_again(
    fs: SimulatedFileSystem, store: PageFileStore, file: CheckedFile
) -> None:
    poke(fs, SIDECAR, b"?", 512 + 100)
    store.forget_sidecars()
    assert file.sidecar_blocks([0, 1, 2])[1] is None
    assert file.page_record(40) == LOST_RECORD
    with pytest.raises(PageCorrupt, match=r"page 31 .*block 1 of its sidecar 'base/5/16384_sum' is damaged"):
        file.read(0, 70)
    file.write(40, [page(40)], [400])
    assert file.read(0, 31) + file.read(40, 1) + file.read(62, 8) == [*pages(0, 31), page(40), *pages(62, 8)]
    with pytest.raises(PageCorrupt, match=r"page 41 .*was lost"):
        file.read(40, 2)
    file.write(31, pages(31, 31), [500] * 31)
    assert file.read(0, 70) == pages(0, 70)


def test_a_block_is_restored_only_if_it_is_damaged(
    fs: SimulatedFileSystem, store: PageFileStore, file: CheckedFile
) -> None:
    [image] = file.sidecar_blocks([1])
    assert image is not None
    file.write(40, [page(41)], [400])
    file.restore_sidecar_block(1, image)
    assert file.read(40, 1) == [page(41)]
    poke(fs, SIDECAR, b"?", 512 + 100)
    store.forget_sidecars()
    file.restore_sidecar_block(1, image)
    assert file.read(41, 3) == pages(41, 3)
    assert file.sidecar_blocks([1]) == [image]


def test_what_is_cut_off_is_written_anew_later(fs: SimulatedFileSystem, file: CheckedFile) -> None:
    file.truncate(40)
    assert fs.stat(SIDECAR).size == 2 * 512
    file.truncate(40)
    file.write(40, pages(200, 40), [600] * 40)
    assert file.read(0, 80) == [*pages(0, 40), *pages(200, 40)]
    file.truncate(0)
    assert fs.stat(SIDECAR).size == 0


def test_a_write_that_finds_no_space_for_the_sidecar_is_made_again(
    fs: SimulatedFileSystem, store: PageFileStore, file: CheckedFile
) -> None:
    fs.faults = [Fault(errno.ENOSPC, operation="pwritev", path=SIDECAR)]
    with pytest.raises(NoSpace):
        file.write(60, pages(60, 40), [700] * 40)
    assert file.read(0, 60) == pages(0, 60)
    file.write(60, pages(60, 40), [700] * 40)
    assert file.read(60, 40) == pages(60, 40)


def test_a_sidecar_that_cannot_be_made_for_want_of_space_is_made_later(
    fs: SimulatedFileSystem, store: PageFileStore
) -> None:
    file = new(store)
    fs.faults = [Fault(errno.ENOSPC, operation="open", path=SIDECAR, at=2)]
    with pytest.raises(NoSpace):
        file.write(0, pages(0, 1), [1])
    file.write(0, pages(0, 1), [1])
    assert file.read(0, 1) == pages(0, 1)


def test_a_sidecar_that_cannot_be_read_is_an_error_of_the_read(
    fs: SimulatedFileSystem, store: PageFileStore, file: CheckedFile
) -> None:
    store.forget_sidecars()
    fs.faults = [Fault(errno.EIO, operation="preadv", path=SIDECAR)]
    with pytest.raises(PageIOError):
        file.read(0, 1)
    assert file.read(0, 1) == pages(0, 1)


def test_a_sidecar_that_cannot_be_opened_leaves_nothing_open(fs: SimulatedFileSystem, store: PageFileStore) -> None:
    new(store).write(0, pages(0, 1), [1])
    closed(store)
    fs.faults = [Fault(errno.ENOSPC, operation="open", path=SIDECAR)]
    with pytest.raises(NoSpace):
        opened(store)
    assert opened(store).read(0, 1) == pages(0, 1)


def test_a_block_that_is_written_while_it_is_read_is_read_again(
    fs: SimulatedFileSystem, store: PageFileStore, file: CheckedFile
) -> None:
    """Another thread writes a page whose record is in the block that is being read."""
    written: list[str] = []

    def write_meanwhile(operation: object) -> None:
        name, path = operation.name, operation.path  # type: ignore[attr-defined]
        if name.startswith("preadv") and path == SIDECAR and name not in written:
            written.append(name)
            file.write(4, [page(44)], [800])

    fs.on_operation = write_meanwhile
    store.forget_sidecars()
    assert file.read(3, 1) == pages(3, 1)
    store.forget_sidecars()
    assert file.try_read(3, 1) is None
    fs.on_operation = None
    assert len(written) == 2
    assert file.read(3, 2) == [page(3), page(44)]


def test_a_block_being_written_is_looked_up_in_memory(
    fs: SimulatedFileSystem, store: PageFileStore, file: CheckedFile
) -> None:
    seen: list[list[bytes]] = []

    def read_meanwhile(operation: object) -> None:
        name, path = operation.name, operation.path  # type: ignore[attr-defined]
        if name == "pwritev" and path == SIDECAR:
            seen.append(file.read(3, 1))

    store.forget_sidecars()
    fs.on_operation = read_meanwhile
    file.write(4, [page(44)], [800])
    fs.on_operation = None
    assert seen == [pages(3, 1)]


def test_each_page_has_an_lsn(file: CheckedFile) -> None:
    with pytest.raises(InvalidRequest, match="2 pages and 1 LSNs"):
        file.write(0, pages(0, 2), [1])


def test_what_is_synced_survives_a_crash(fs: SimulatedFileSystem, file: CheckedFile) -> None:
    file.sync()
    again = PageFileStore(fs.crash_image("none", None), clock=lambda: 0.0)  # type: ignore[arg-type]
    assert opened(again).read(0, 70) == pages(0, 70)
    again.close()


def test_a_dropped_page_file_leaves_no_sidecar(fs: SimulatedFileSystem, store: PageFileStore) -> None:
    new(store).write(0, pages(0, 1), [1])
    store.remove(store.catalog.get("names"))
    assert fs.listdir("base/5") == []


def test_a_sidecar_without_its_page_file_is_a_stray(fs: SimulatedFileSystem, store: PageFileStore) -> None:
    new(store)
    descriptor = fs.open("base/5/16999_sum", os.O_RDWR | os.O_CREAT)
    fs.close(descriptor)
    store.catalog.remove_strays()
    assert fs.listdir("base/5") == ["16384"]


@given(st.integers(1, 2**32 - 1))
def test_the_name_of_a_sidecar_says_whose_it_is(number: int) -> None:
    assert parse_sidecar_name(sidecar_name(number)) == number


@pytest.mark.parametrize("name", ["16384", "16384_fsm", "16384_fsm_sum", "16384.1_sum", "_sum", "0_sum", "16384_sum.1"])
def test_other_names_are_no_sidecars(name: str) -> None:
    assert parse_sidecar_name(name) is None
