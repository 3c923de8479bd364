"""What tests of the storage manager begin with: one over a simulated or a real disk, with tiny segments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from pfs.files.filesystem import FileSystem
from pfs.files.magnetic_disk import MagneticDisk
from pfs.files.relation import Fork, RelationAddress
from pfs.files.storage_manager import StorageManager
from pfs.files.virtual_file import VirtualFilePool

SIZE = 512
"""Bytes of a block in most tests."""
PER_SEGMENT = 4
"""Blocks of a segment in most tests."""
ADDRESS = RelationAddress(1663, 5, 16384)
MAIN = Fork.MAIN


class Storage(NamedTuple):
    fs: FileSystem
    pool: VirtualFilePool
    disk: MagneticDisk
    manager: StorageManager


@contextmanager
def storage_on(
    fs: FileSystem, *, slots: int | None = None, segment_size: int = SIZE * PER_SEGMENT
) -> Iterator[Storage]:
    """A storage manager on a file system, shut down at the end."""
    with VirtualFilePool(fs, slots=slots, clock=monotonic) as pool:
        disk = MagneticDisk(pool)
        manager = StorageManager({"disk": disk}, segment_size=segment_size)
        try:
            yield Storage(fs, pool, disk, manager)
        finally:
            manager.shutdown()


def block(fill: int, size: int = SIZE) -> bytes:
    """A block of one byte value, which tells it from others."""
    return bytes([fill % 256]) * size


def blocks(first: int, count: int) -> list[bytes]:
    """Blocks filled with consecutive byte values."""
    return [block(first + index) for index in range(count)]


def content(manager: StorageManager, relation, fork: Fork = MAIN) -> list[bytes]:
    """Every block of a fork."""
    return [bytes(manager.read(relation, fork, number)) for number in range(manager.nblocks(relation, fork))]
