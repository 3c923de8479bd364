"""A disk that changes pages behind a system's back is noticed; what the log still has is healed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pfs.errors import PageCorrupt
from pfs.page_file import PageFile
from pfs.system import System, SystemOptions
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.shared_log import WalOptions
from tests.server.harness import PAGE_SIZE, page, tags

DATA = "base/5/16384"
SIDECAR = "base/5/16384_sum"
OPTIONS = SystemOptions(buffer_bytes=0, wal=WalOptions(segment_bytes=16384))


@contextmanager
def system_on(fs: SimulatedFileSystem) -> Iterator[System]:
    scheduler = SimulatedScheduler(7)
    fs.on_operation, fs.make_condition = scheduler.file_call, scheduler.condition
    with System(fs, OPTIONS, runtime=scheduler) as system:
        yield system
    fs.on_operation = None


def poke(fs: SimulatedFileSystem, path: str, data: bytes, offset: int) -> None:
    watching, fs.on_operation = fs.on_operation, None
    descriptor = fs.open(path, os.O_RDWR)
    fs.pwritev(descriptor, [data], offset)
    fs.close(descriptor)
    fs.on_operation = watching


def filled(system: System, n: int = 40) -> PageFile:
    file = system.open("triples", page_size=PAGE_SIZE)
    for first in range(0, n, 10):
        file.append([page(number) for number in range(first, first + 10)])
    system.checkpoint()
    return file


def test_a_damaged_page_is_healed_from_the_log_and_written_back() -> None:
    fs = SimulatedFileSystem()
    with system_on(fs) as system:
        file = filled(system, 10)
        poke(fs, DATA, b"rot", 4 * PAGE_SIZE + 99)
        assert tags(file.read(0, 10)) == [str(number) for number in range(10)]
        assert system.stats()["buffer_pool"]["healed"] == 1
        system.checkpoint()
        assert fs.crash_image("all", None).durable_files[DATA][4 * PAGE_SIZE : 5 * PAGE_SIZE] == page(4)  # type: ignore[arg-type]


def test_a_damaged_sidecar_block_is_healed_from_the_log() -> None:
    fs = SimulatedFileSystem()
    with system_on(fs) as system:
        file = filled(system, 10)
        poke(fs, SIDECAR, b"rot", 99)
        system._store.forget_sidecars()
        assert tags(file.read(0, 10)) == [str(number) for number in range(10)]
        assert system.stats()["buffer_pool"]["healed"] == 10
    with system_on(fs) as system:
        assert tags(system.open("triples").read(0, 10)) == [str(number) for number in range(10)]
        assert system.stats()["buffer_pool"]["damaged"] == 0


def test_what_the_log_has_no_more_is_an_error_of_that_page_only() -> None:
    fs = SimulatedFileSystem()
    with system_on(fs) as system:
        file = filled(system, 40)
        for number in range(200):
            file.write(30, [page(number)])
            if number % 20 == 0:
                system.checkpoint()
        poke(fs, DATA, b"rot", 4 * PAGE_SIZE + 99)
        with pytest.raises(PageCorrupt, match="page 4 of 'triples'"):
            file.read(0, 10)
        assert tags(file.read(5, 5)) == ["5", "6", "7", "8", "9"]
        assert system.stats()["buffer_pool"]["healed"] == 0
        file.write(4, [page("new")])
        system.checkpoint()
        assert tags(file.read(0, 6)) == ["0", "1", "2", "3", "new", "5"]


def test_a_page_that_is_written_while_its_old_image_is_sought_is_the_new_one() -> None:
    fs = SimulatedFileSystem()
    with system_on(fs) as system:
        file = filled(system, 10)
        poke(fs, DATA, b"rot", 4 * PAGE_SIZE + 99)
        scheduler = system.runtime
        answers: list[list[str]] = []
        assert isinstance(scheduler, SimulatedScheduler)
        done = [
            scheduler.spawn(lambda: answers.append(tags(file.read(4, 1))), "reader"),
            scheduler.spawn(lambda: file.write(4, [page("new")]), "writer"),
        ]
        scheduler.run()
        assert all(each() for each in done)
        assert answers in ([["4"]], [["new"]])
        assert tags(file.read(4, 1)) == ["new"]


def test_rot_is_noticed_after_a_restart_too() -> None:
    fs = SimulatedFileSystem()
    with system_on(fs) as system:
        filled(system, 10)
    poke(fs, DATA, bytes(512), 7 * PAGE_SIZE)
    with system_on(fs) as system:
        assert tags(system.open("triples").read(7, 1)) == ["7"]  # the log has it still
        assert system.stats()["buffer_pool"]["healed"] == 1
