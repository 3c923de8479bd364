"""I/O engines: how a read gets at its bytes without holding up who must not wait.

* `psync`: every read may block, so an actor sends it to a worker thread.
* `nowait`: a read is first tried inline against the kernel's page cache (`preadv2` with `RWF_NOWAIT`); only one that
  would wait for the disk goes to a worker.  A hand-over to a thread costs more than a cached read.

A plain blocking read is the same call in both.  Which engine is to be had depends on the kernel and on the file
system of the root, so it is found out by trying.  io_uring and direct I/O are left out: Python has no well-kept package
for them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

from pfs.errors import InvalidRequest, PfsError
from pfs.files.filesystem import FileSystem, ReadBuffer

EngineName = Literal["auto", "nowait", "psync"]

PROBE = ".pfs-engine-test"
"""The file of the self-test, in the root; removed again at once."""

_WOULD_WAIT = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINTR})


class Engine(Protocol):
    """What an engine does."""

    name: str

    def try_read(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int | None:
        """Read what can be had without waiting: the bytes read, or None if nothing can be.  Raises `OSError`."""
        ...


class PsyncEngine:
    """Nothing is ever tried inline."""

    name = "psync"

    def try_read(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int | None:
        return None


class NowaitEngine:
    """Reads from the page cache inline.  A file system that cannot tell counts as one that would wait."""

    name = "nowait"

    def __init__(self, fs: FileSystem) -> None:
        self._preadv_nowait = fs.preadv_nowait

    def try_read(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int | None:
        try:
            return self._preadv_nowait(descriptor, buffers, offset)
        except OSError as error:
            if error.errno in _WOULD_WAIT:
                return None
            raise


class Choice(NamedTuple):
    """An engine, and in words why it is this one."""

    engine: Engine
    message: str


def choose_engine(fs: FileSystem, wanted: EngineName = "auto") -> Choice:
    """Choose an engine: `"auto"` takes `nowait` where the self-test passes, else `psync`.

    Raises `InvalidRequest` if `"nowait"` is asked for and not to be had.
    """
    if wanted == "psync":
        return Choice(PsyncEngine(), "I/O engine psync, as asked")
    if wanted not in ("auto", "nowait"):
        raise InvalidRequest(f"unknown I/O engine {wanted!r}; there are 'auto', 'nowait' and 'psync'")
    obstacle = _self_test(fs)
    if obstacle is None:
        return Choice(NowaitEngine(fs), "I/O engine nowait: its self-test passed")
    if wanted == "nowait":
        raise InvalidRequest(f"the I/O engine nowait is not to be had here: {obstacle}; use 'auto' or 'psync'")
    return Choice(PsyncEngine(), f"I/O engine psync, because nowait is not to be had: {obstacle}")


def _self_test(fs: FileSystem) -> str | None:
    """Write a file and read it back from the page cache; what went wrong, or None."""
    try:
        descriptor = fs.open(PROBE, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    except (OSError, PfsError) as error:
        return f"the self-test could not make a file: {error}"
    try:
        fs.pwritev(descriptor, (b"pfs",), 0)
        buffer = bytearray(3)
        fs.preadv_nowait(descriptor, (buffer,), 0)
    except OSError as error:
        return f"the self-test failed: {error}"
    finally:
        # The test has its answer, whatever comes of tidying up; a file left behind is overwritten by the next test.
        with suppress(OSError):
            fs.close(descriptor)
        with suppress(OSError):
            fs.unlink(PROBE)
    return None if buffer == b"pfs" else f"the self-test read {bytes(buffer)!r} instead of b'pfs'"
