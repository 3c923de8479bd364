"""A file system whose process is killed in the middle of the n-th call that changes files.

Where a kill from outside comes at some moment, this one comes at any step that one can name: between the write of a
batch and its sync, half-way through a write, before a rename, in the recovery of what an earlier kill left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, cast

from pfs.files.filesystem import FileSystem, WriteBuffer

CHANGES = frozenset(
    {"pwritev", "fsync", "fdatasync", "ftruncate", "fallocate", "mkdir", "rmdir", "rename", "unlink", "sync_directory"}
)
"""The calls that count, and `open` where it creates a file."""


def killed_at(fs: FileSystem, at: int, kill: Callable[[], None]) -> FileSystem:
    """`fs`, which calls `kill` in the middle of its call number `at` (from 1) that changes files.

    A write has then written its first half; any other call has done nothing yet.
    """
    return cast(FileSystem, _KilledAt(fs, at, kill))


def signalled_at(fs: FileSystem, at: int, name: str) -> FileSystem:
    """The same, where this process sends itself the signal of that name: SIGKILL, or SIGSTOP to be held up there."""
    number = signal.Signals[name]
    return killed_at(fs, at, lambda: os.kill(os.getpid(), number))


class _KilledAt:
    def __init__(self, fs: FileSystem, at: int, kill: Callable[[], None]) -> None:
        self._fs = fs
        self._at = at
        self._kill = kill
        self._next = count(1).__next__

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._fs, name)
        if name == "pwritev":
            return self._write
        if name == "open":
            return self._open
        return partial(self._change, call) if name in CHANGES else call

    def _change(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if self._next() == self._at:
            self._kill()
        return call(*arguments)

    def _open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_CREAT and self._next() == self._at:
            self._kill()
        return self._fs.open(path, flags, mode)

    def _write(self, descriptor: int, buffers: Sequence[WriteBuffer], offset: int) -> int:
        if self._next() == self._at:
            content = b"".join(buffers)
            self._fs.pwritev(descriptor, [content[: len(content) // 2]], offset)
            self._kill()  # if it returns, all is written in the end
        return self._fs.pwritev(descriptor, buffers, offset)
