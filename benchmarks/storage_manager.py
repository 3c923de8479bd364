"""Block reads through the storage manager, beside the bare system call on the same file.

The file is in the kernel's page cache, so what shows is what the layers above the system call cost: the checks and
segment arithmetic of the storage manager, and the virtual file.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Case, CaseSet, Options, rate
from pfs.files.magnetic_disk import MagneticDisk
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import Fork, RelationAddress, path
from pfs.files.storage_manager import Relation, StorageManager
from pfs.files.virtual_file import VirtualFile, VirtualFilePool

BLOCK_SIZE = 8192
STRIDE = 7919
"""A prime: the next block read is so many blocks further, which no read-ahead guesses."""
RUN = 64
ADDRESS = RelationAddress(1663, 5, 16384)

Read = Callable[[int, Sequence[bytearray]], object]


def through_manager(manager: StorageManager, relation: Relation) -> Read:
    def read(block: int, buffers: Sequence[bytearray]) -> None:
        manager.readv(relation, Fork.MAIN, block, buffers)

    return read


def inline(manager: StorageManager, relation: Relation) -> Read:
    def read(block: int, buffers: Sequence[bytearray]) -> None:
        if manager.try_readv_nowait(relation, Fork.MAIN, block, buffers) is None:
            manager.readv(relation, Fork.MAIN, block, buffers)

    return read


def through_virtual_file(file: VirtualFile) -> Read:
    def read(block: int, buffers: Sequence[bytearray]) -> None:
        file.readv_at(buffers, block * BLOCK_SIZE)

    return read


def raw(descriptor: int) -> Read:
    def read(block: int, buffers: Sequence[bytearray]) -> None:
        if os.preadv(descriptor, buffers, block * BLOCK_SIZE) != len(buffers) * BLOCK_SIZE:
            raise AssertionError(f"block {block} was read in part only")

    return read


def random_blocks(read: Read, blocks: int) -> Callable[[float], float]:
    """Blocks a second, one at a time, all over the file."""
    buffers = [bytearray(BLOCK_SIZE)]
    block = 0

    def step() -> None:
        nonlocal block
        block = (block + STRIDE) % blocks
        read(block, buffers)

    return lambda seconds: rate(step, seconds)


def runs_in_order(read: Read, blocks: int) -> Callable[[float], float]:
    """Blocks a second, 64 in a call, from the first to the last."""
    buffers = [bytearray(BLOCK_SIZE) for _ in range(RUN)]
    block = 0

    def step() -> None:
        nonlocal block
        read(block, buffers)
        block = (block + RUN) % blocks

    return lambda seconds: rate(step, seconds, RUN)


@contextmanager
def open_cases(options: Options, kind: Callable[[Read, int], Callable[[float], float]]) -> Iterator[Sequence[Case]]:
    blocks = RUN * (4 if options.quick else 128)
    with (
        tempfile.TemporaryDirectory(prefix="pfs-bench-") as directory,
        VirtualFilePool(PosixFileSystem(directory), clock=time.perf_counter) as pool,
    ):
        manager = StorageManager({"disk": MagneticDisk(pool)})
        relation = manager.open(ADDRESS, BLOCK_SIZE)
        manager.create(relation)
        for first in range(0, blocks, RUN):
            manager.extend(relation, Fork.MAIN, first, [os.urandom(RUN * BLOCK_SIZE)])
        descriptor = os.open(Path(directory) / path(ADDRESS), os.O_RDONLY)
        file = pool.open(path(ADDRESS))
        try:
            yield [
                Case("os.preadv", kind(raw(descriptor), blocks)),
                Case("VirtualFile.readv_at", kind(through_virtual_file(file), blocks)),
                Case("StorageManager.readv", kind(through_manager(manager, relation), blocks)),
                Case("StorageManager.try_readv_nowait", kind(inline(manager, relation), blocks)),
            ]
        finally:
            file.close()
            os.close(descriptor)
            manager.shutdown()


SETS = (
    CaseSet(
        "storage-manager-random",
        "Random blocks through the storage manager",
        lambda options: open_cases(options, random_blocks),
        unit="blocks/s",
        reference="os.preadv",
        note="One block of 8 KiB a call, from the page cache.",
    ),
    CaseSet(
        "storage-manager-scan",
        "A scan through the storage manager",
        lambda options: open_cases(options, runs_in_order),
        unit="blocks/s",
        reference="os.preadv",
        note=f"{RUN} blocks of 8 KiB a call, from the page cache.",
    ),
)
