"""A real file system on a loop device whose power can be cut: what was not synced is gone.

The cut is the file system's own shutdown call with NOLOGFLUSH, as the file system testers' xfstests use it.  From then
on every call fails with EIO; nothing more goes to the device, neither dirty pages of the cache nor the part of the
journal that was not committed.  What was synced, or happened to be written back before, is there when the device is
mounted again and its journal replayed.  (The device is a file: that a disk may lose what it said was flushed is not
shown, and not promised.)
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.privileges import run, skip

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number: _IOR('X', 125, __u32)."""
_NOLOGFLUSH = struct.pack("I", 2)


class Kind(NamedTuple):
    """A file system, made by `mkfs` on a device of `size` bytes, mounted with `options`."""

    mkfs: tuple[str, ...]
    size: int
    options: str = ""


_EXT4 = ("mkfs.ext4", "-q", "-F", "-b", "4096")
KINDS = {
    "ext4": Kind(_EXT4, 64 << 20, ""),
    "ext4 that does not order data before names": Kind(_EXT4, 64 << 20, "data=writeback"),
    "ext4 that delays no allocation": Kind(_EXT4, 64 << 20, "nodelalloc"),
    "xfs": Kind(("mkfs.xfs", "-q"), 300 << 20),
}


class PoweredDisk:
    """A file system of one kind in `directory`.  Skips the test where there can be none."""

    def __init__(self, directory: Path, kind: Kind) -> None:
        self._image = directory / "image"
        self.root = directory / "mounted"
        self._kind = kind
        self._directory = directory
        self._mounted = False
        self.root.mkdir()
        with self._image.open("wb") as image:
            image.truncate(kind.size)
        self._or_skip([*kind.mkfs, str(self._image)])

    def _or_skip(self, command: list[str]) -> None:
        refused = run(command)
        if refused is not None:
            skip(f"power cuts cannot be made here: {' '.join(command[:3])} ...: {refused}")

    def mount(self) -> None:
        """Turn the power on."""
        options = f"loop,{self._kind.options}".rstrip(",")
        self._or_skip(["mount", "-o", options, str(self._image), str(self.root)])
        self._mounted = True

    def cut(self) -> None:
        """Cut the power."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mine, outside = os.fstat(descriptor).st_dev, self._directory.stat().st_dev
            assert self._mounted
            assert mine != outside, "this is not the disk that was made for it"
            fcntl.ioctl(descriptor, _SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Take the disk off; nobody may use it any more."""
        if self._mounted:
            subprocess.run(["umount", str(self.root)], check=True)
            self._mounted = False
