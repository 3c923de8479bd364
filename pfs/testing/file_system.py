"""A simulated file system: `FileSystem` over a disk in memory, with faults, a journal and scheduling points.

What it is for: every failure that a disk can have, at any chosen call, and the same run again from the same seed.

* `on_operation` is called before each operation acts.  A simulation may switch to another actor there; so nothing is
  held half-changed across it, and a descriptor is looked up only afterwards (it may have been closed meanwhile).
* Then the fault rules are asked.  An error strikes before the operation has any effect, with two exceptions: a failed
  `close` has closed the descriptor, and a failed sync has lost what it was to make durable, as on Linux.
* Then the operation acts, in one step, and its result goes into the journal; `trace_hash` sums the journal up.
* `crash_image` gives the file system that may be found after a crash at this moment.

Descriptors are given lowest free number first, as POSIX does, so that a stale one reaches another file and shows.
It is for one thread at a time, or for several under the interpreter's lock: each operation is one step for a scheduler,
not for threads, unless they stay on different files.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from random import Random
from typing import Literal, NamedTuple, NoReturn

from pfs.errors import NotRegularFile
from pfs.files.filesystem import Condition, FileStat, Mutex, ReadBuffer, WriteBuffer
from pfs.files.paths import check_path, parent_of
from pfs.testing.disk import CrashPolicy, Directory, Disk, Entry, File, Node, Resize, Write
from pfs.testing.faults import Fault, Operation

__all__ = ["CrashPolicy", "Fault", "JournalEntry", "Operation", "SimulatedFileSystem"]

_DEVICE = 77
_MAX_BUFFERS = 1024
_MAX_OFFSET = (1 << 63) - 1
_FIRST_DESCRIPTOR = 3
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class JournalEntry(NamedTuple):
    """An operation and what came of it: a count, `"ok"`, or the name of an errno."""

    operation: Operation
    result: int | str


class _Open(NamedTuple):
    """An open file description."""

    path: str
    file: File
    flags: int


class SimulatedFileSystem:
    """A file system in memory.  Implements `pfs.files.filesystem.FileSystem`.

    descriptors: how many may be open at once, then `EMFILE`.  capacity: bytes of all files, then `ENOSPC`.
    file_size_limit: bytes of one file, then `EFBIG`.  page_cache: what `preadv_nowait` finds: `"warm"` everything,
    `"cold"` nothing (`EAGAIN`), `"none"` says `EOPNOTSUPP`.  failed_sync: whether the cache keeps or reverts what a
    failed sync lost.  keep_journal: False for long runs, which then have no trace hash.
    """

    def __init__(
        self,
        *,
        faults: Iterable[Fault] = (),
        descriptors: int = 1024,
        capacity: int | None = None,
        file_size_limit: int | None = None,
        page_cache: Literal["warm", "cold", "none"] = "warm",
        failed_sync: Literal["keep", "revert"] = "keep",
        keep_journal: bool = True,
        on_operation: Callable[[Operation], None] | None = None,
        condition: Callable[[], Condition] | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.faults = list(faults)
        self.descriptors = descriptors
        self.capacity = capacity
        self.file_size_limit = file_size_limit
        self.page_cache = page_cache
        self.failed_sync = failed_sync
        self.keep_journal = keep_journal
        self.on_operation = on_operation
        self.journal: list[JournalEntry] = []
        self.operations = 0
        self._syncs = 0
        self.make_condition = condition
        """What `condition()` calls; None for real ones."""
        self._disk = disk or Disk()
        self._open: dict[int, _Open] = {}
        self._locks: dict[int, int] = {}

    # ------------------------------------------------------------------------------------------ what tests ask

    @property
    def open_descriptors(self) -> dict[int, str]:
        """The open descriptors and the paths they were opened by."""
        return {descriptor: opened.path for descriptor, opened in self._open.items()}

    @property
    def durable_files(self) -> dict[str, bytes]:
        """What is there for certain after a crash: paths and contents."""
        found: dict[str, bytes] = {}
        _collect(self._disk.root, "", found)
        return found

    def trace_hash(self) -> str:
        """A hash of the journal: equal runs have equal hashes."""
        digest = blake2b(digest_size=16)
        for operation, result in self.journal:
            digest.update(repr((*operation, result)).encode())
        return digest.hexdigest()

    def crash_image(self, policy: CrashPolicy, rng: Random) -> SimulatedFileSystem:
        """A new file system with what may survive a crash now; no descriptors, locks, faults or journal.

        With `"prefix"`, `"subset"`, `"torn"` and `"garbage"`, `rng` chooses.  This file system is not touched.
        """
        return self._on(self._disk.crashed(policy, rng))

    def killed_image(self) -> SimulatedFileSystem:
        """A new file system as another process finds it when this one was killed: nothing is lost, yet.

        What no sync has covered may still be lost by a crash of the new one.
        """
        return self._on(self._disk.killed())

    def rot(self, path: str, content: bytes | None) -> None:
        """Let the disk hold something else of a file than what was written: no operation does it, and none is needed.

        None: the file is gone.  Who has it open finds what it holds now, as with a disk that rots.
        """
        *parents, name = check_path(path)
        directory = self._disk.root
        for parent in parents:
            inner = directory.entries[parent]
            assert isinstance(inner, Directory)
            directory = inner
        if content is None:
            del directory.entries[name], directory.durable[name]
        else:
            file = directory.entries[name]
            assert isinstance(file, File)
            file.pending.clear()
            file.content[:] = file.durable[:] = content

    def identity(self) -> int:
        """A hash of all files and names, and of what of them is durable; not the same in another process."""
        return self._disk.identity()

    @property
    def changes(self) -> int:
        """Grows with each change and each sync: while it stays the same, crash images stay the same."""
        return self._disk.sequence + self._syncs

    @property
    def unsynced(self) -> int:
        """How many changes a crash may take: of names, and of the files that have names."""
        return self._disk.unsynced()

    def _on(self, disk: Disk) -> SimulatedFileSystem:
        return SimulatedFileSystem(
            descriptors=self.descriptors,
            capacity=self.capacity,
            file_size_limit=self.file_size_limit,
            page_cache=self.page_cache,
            failed_sync=self.failed_sync,
            keep_journal=self.keep_journal,
            on_operation=self.on_operation,
            condition=self.make_condition,
            disk=disk,
        )

    # ------------------------------------------------------------------------------------------ operations

    def _begin(self, name: str, path: str, offset: int = 0, length: int = 0) -> tuple[Operation, int]:
        """Announce an operation; returns it and the bytes a fault takes off it.  Raises what a fault says."""
        self.operations += 1
        operation = Operation(self.operations, name, path, offset, length)
        if self.on_operation is not None:
            self.on_operation(operation)
        if not self.faults:
            return operation, 0
        striking = [fault for fault in self.faults if fault.strikes(operation)]  # every rule counts every operation
        for fault in striking:
            if fault.error:
                self._fail(operation, fault.error)
        return operation, max((fault.short for fault in striking), default=0)

    def _end(self, operation: Operation, result: int | str = "ok") -> None:
        if self.keep_journal:
            self.journal.append(JournalEntry(operation, result))

    def _fail(self, operation: Operation, error: int) -> NoReturn:
        self._end(operation, errno.errorcode.get(error, str(error)))
        raise OSError(error, os.strerror(error), operation.path)

    def _path_of(self, descriptor: int) -> str:
        opened = self._open.get(descriptor)
        return opened.path if opened is not None else ""

    def _described(self, operation: Operation, descriptor: int, *, write: bool = False, read: bool = False) -> _Open:
        opened = self._open.get(descriptor)
        if opened is None:
            self._fail(operation, errno.EBADF)
        access = opened.flags & _ACCESS
        if (write and access == os.O_RDONLY) or (read and access == os.O_WRONLY):
            self._fail(operation, errno.EBADF)
        return opened

    def _find(self, operation: Operation, path: str) -> Node:
        node: Node = self._disk.root
        for part in check_path(path) if path else ():
            if not isinstance(node, Directory):
                self._fail(operation, errno.ENOTDIR)
            found = node.entries.get(part)
            if found is None:
                self._fail(operation, errno.ENOENT)
            node = found
        return node

    def _find_directory(self, operation: Operation, path: str) -> Directory:
        node = self._find(operation, path)
        if not isinstance(node, Directory):
            self._fail(operation, errno.ENOTDIR)
        return node

    def open(self, path: str, flags: int, mode: int = 0o600, /) -> int:
        name = check_path(path)[-1]
        operation, _ = self._begin("open", path)
        directory = self._find_directory(operation, parent_of(path))
        node = directory.entries.get(name)
        if node is None and not flags & os.O_CREAT:
            self._fail(operation, errno.ENOENT)
        if node is not None and flags & os.O_CREAT and flags & os.O_EXCL:
            self._fail(operation, errno.EEXIST)
        if isinstance(node, Directory):
            self._end(operation, "not a regular file")
            raise NotRegularFile(f"{path!r} is not a regular file")
        if len(self._open) >= self.descriptors:
            self._fail(operation, errno.EMFILE)
        if node is None:
            node = self._disk.new_file()
            self._disk.set_names(Entry(directory, name, node))
        elif flags & os.O_TRUNC and node.content:
            node.change(Resize(self._disk.next_sequence(), 0))
        return self._give(operation, path, node, flags)

    def reopen(self, path: str, flags: int, device: int, inode: int, /) -> int:
        operation, _ = self._begin("reopen", path)
        node = self._find(operation, path)
        if not isinstance(node, File) or node.inode != inode or device != _DEVICE:
            self._fail(operation, errno.ESTALE)
        if len(self._open) >= self.descriptors:
            self._fail(operation, errno.EMFILE)
        return self._give(operation, path, node, flags)

    def _give(self, operation: Operation, path: str, file: File, flags: int) -> int:
        descriptor = _FIRST_DESCRIPTOR
        while descriptor in self._open:
            descriptor += 1
        self._open[descriptor] = _Open(path, file, flags)
        self._end(operation, descriptor)
        return descriptor

    def close(self, descriptor: int, /) -> None:
        try:
            operation, _ = self._begin("close", self._path_of(descriptor))
        except OSError:
            self._forget(descriptor)
            raise
        self._described(operation, descriptor)
        self._forget(descriptor)
        self._end(operation)

    def _forget(self, descriptor: int) -> None:
        opened = self._open.pop(descriptor, None)
        if opened is not None and self._locks.get(opened.file.inode) == descriptor:
            del self._locks[opened.file.inode]

    def preadv(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int:
        return self._read("preadv", descriptor, buffers, offset)

    def preadv_nowait(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int:
        return self._read("preadv_nowait", descriptor, buffers, offset)

    def _read(self, name: str, descriptor: int, buffers: Sequence[ReadBuffer], offset: int) -> int:
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        length = sum(map(len, views))
        operation, short = self._begin(name, self._path_of(descriptor), offset, length)
        opened = self._described(operation, descriptor, read=True)
        self._check_range(operation, offset, length, len(views))
        if name == "preadv_nowait" and self.page_cache != "warm":
            self._fail(operation, errno.EAGAIN if self.page_cache == "cold" else errno.EOPNOTSUPP)
        count = _shortened(min(length, max(0, len(opened.file.content) - offset)), short)
        done = 0
        for view in views:
            part = opened.file.content[offset + done : offset + min(count, done + len(view))]
            view[: len(part)] = part
            done += len(part)
        self._end(operation, count)
        return count

    def pwritev(self, descriptor: int, buffers: Sequence[WriteBuffer], offset: int, /) -> int:
        data = b"".join(buffers)
        operation, short = self._begin("pwritev", self._path_of(descriptor), offset, len(data))
        opened = self._described(operation, descriptor, write=True)
        self._check_range(operation, offset, len(data), len(buffers))
        file = opened.file
        if opened.flags & os.O_APPEND:
            offset = len(file.content)
        count = _shortened(len(data), short)
        room = self._room(file, offset + count)
        if room < offset + count:
            count = room - offset
            if count <= 0:
                self._refuse(operation, file, offset + 1)
        if count:
            file.change(Write(self._disk.next_sequence(), offset, data[:count]))
            if opened.flags & os.O_DSYNC:
                file.sync()
                self._syncs += 1
        self._end(operation, count)
        return count

    def fsync(self, descriptor: int, /) -> None:
        self._sync("fsync", descriptor)

    def fdatasync(self, descriptor: int, /) -> None:
        self._sync("fdatasync", descriptor)

    def _sync(self, name: str, descriptor: int) -> None:
        try:
            operation, _ = self._begin(name, self._path_of(descriptor))
        except OSError as error:
            opened = self._open.get(descriptor)
            if opened is not None and error.errno != errno.EINTR:
                opened.file.lose_pending(revert=self.failed_sync == "revert")
                self._syncs += 1
            raise
        self._described(operation, descriptor).file.sync()
        self._syncs += 1
        self._end(operation)

    def ftruncate(self, descriptor: int, length: int, /) -> None:
        operation, _ = self._begin("ftruncate", self._path_of(descriptor), 0, length)
        file = self._described(operation, descriptor, write=True).file
        self._check_range(operation, length, 0, 0)
        # A file may grow with a hole past the capacity, as on a real disk; only the limit of its size holds.
        if self.file_size_limit is not None and length > max(self.file_size_limit, len(file.content)):
            self._fail(operation, errno.EFBIG)
        if length != len(file.content):
            file.change(Resize(self._disk.next_sequence(), length))
        self._end(operation)

    def fallocate(self, descriptor: int, offset: int, length: int, /) -> None:
        operation, _ = self._begin("fallocate", self._path_of(descriptor), offset, length)
        file = self._described(operation, descriptor, write=True).file
        self._check_range(operation, offset, length, 0)
        if not length:
            self._fail(operation, errno.EINVAL)
        end = offset + length
        if self._room(file, end) < end:
            self._refuse(operation, file, end)
        if end > len(file.content):
            file.change(Resize(self._disk.next_sequence(), end))
        self._end(operation)

    def fadvise(self, descriptor: int, offset: int, length: int, advice: int, /) -> None:
        operation, _ = self._begin("fadvise", self._path_of(descriptor), offset, length)
        self._described(operation, descriptor)
        self._end(operation)

    def fstat(self, descriptor: int, /) -> FileStat:
        operation, _ = self._begin("fstat", self._path_of(descriptor))
        return self._stat(operation, self._described(operation, descriptor).file)

    def stat(self, path: str, /) -> FileStat:
        check_path(path)
        operation, _ = self._begin("stat", path)
        return self._stat(operation, self._find(operation, path))

    def _stat(self, operation: Operation, node: Node) -> FileStat:
        self._end(operation)
        if isinstance(node, File):
            return FileStat(len(node.content), _DEVICE, node.inode, True, False)
        return FileStat(0, _DEVICE, node.inode, False, True)

    def exists(self, path: str, /) -> bool:
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def listdir(self, path: str, /) -> list[str]:
        operation, _ = self._begin("listdir", path)
        names = sorted(self._find_directory(operation, path).entries)
        self._end(operation, len(names))
        return names

    def mkdir(self, path: str, mode: int = 0o700, /) -> None:
        name = check_path(path)[-1]
        operation, _ = self._begin("mkdir", path)
        directory = self._find_directory(operation, parent_of(path))
        if name in directory.entries:
            self._fail(operation, errno.EEXIST)
        self._disk.set_names(Entry(directory, name, self._disk.new_directory()))
        self._end(operation)

    def rmdir(self, path: str, /) -> None:
        name = check_path(path)[-1]
        operation, _ = self._begin("rmdir", path)
        if self._find_directory(operation, path).entries:
            self._fail(operation, errno.ENOTEMPTY)
        self._disk.set_names(Entry(self._find_directory(operation, parent_of(path)), name, None))
        self._end(operation)

    def rename(self, source: str, destination: str, /) -> None:
        name, new_name = check_path(source)[-1], check_path(destination)[-1]
        operation, _ = self._begin("rename", f"{source} -> {destination}")
        node = self._find(operation, source)
        directory = self._find_directory(operation, parent_of(source))
        new_directory = self._find_directory(operation, parent_of(destination))
        there = new_directory.entries.get(new_name)
        if isinstance(there, Directory) and isinstance(node, File):
            self._fail(operation, errno.EISDIR)
        if isinstance(there, File) and isinstance(node, Directory):
            self._fail(operation, errno.ENOTDIR)
        if isinstance(node, Directory) and destination.startswith(source + "/"):
            self._fail(operation, errno.EINVAL)
        if isinstance(there, Directory) and there is not node and there.entries:
            self._fail(operation, errno.ENOTEMPTY)
        if there is not node:
            self._disk.set_names(Entry(directory, name, None), Entry(new_directory, new_name, node))
        self._end(operation)

    def unlink(self, path: str, /) -> None:
        name = check_path(path)[-1]
        operation, _ = self._begin("unlink", path)
        if not isinstance(self._find(operation, path), File):
            self._fail(operation, errno.EISDIR)
        self._disk.set_names(Entry(self._find_directory(operation, parent_of(path)), name, None))
        self._end(operation)

    def sync_directory(self, path: str, /) -> None:
        operation, _ = self._begin("sync_directory", path)
        self._disk.sync_directory(self._find_directory(operation, path))
        self._syncs += 1
        self._end(operation)

    def lock(self, descriptor: int, /) -> None:
        operation, _ = self._begin("lock", self._path_of(descriptor))
        inode = self._described(operation, descriptor).file.inode
        if self._locks.setdefault(inode, descriptor) != descriptor:
            self._fail(operation, errno.EWOULDBLOCK)
        self._end(operation)

    def condition(self) -> Condition:
        return threading.Condition(threading.Lock()) if self.make_condition is None else self.make_condition()

    def mutex(self) -> Mutex:
        # A real lock serves in a simulation too: it is never held where another actor could want it.
        return threading.Lock()

    def boot_id(self) -> bytes:
        return self._disk.boot.to_bytes(16, "little")

    def descriptor_limit(self) -> int:
        return self.descriptors

    # ------------------------------------------------------------------------------------------ limits

    def _check_range(self, operation: Operation, offset: int, length: int, buffers: int) -> None:
        if offset < 0 or length < 0 or offset + length > _MAX_OFFSET or buffers > _MAX_BUFFERS:
            self._fail(operation, errno.EINVAL)

    def _room(self, file: File, end: int) -> int:
        """How long the file may become, at most `end`."""
        if self.capacity is not None and end > len(file.content):
            end = min(end, len(file.content) + max(0, self.capacity - self._used()))
        if self.file_size_limit is not None:
            end = min(end, max(self.file_size_limit, len(file.content)))
        return end

    def _refuse(self, operation: Operation, file: File, end: int) -> NoReturn:
        limit = self.file_size_limit
        self._fail(operation, errno.EFBIG if limit is not None and end > limit else errno.ENOSPC)

    def _used(self) -> int:
        files = {opened.file.inode: opened.file for opened in self._open.values()}
        directories = [self._disk.root]
        while directories:
            for node in directories.pop().entries.values():
                if isinstance(node, File):
                    files[node.inode] = node
                else:
                    directories.append(node)
        return sum(len(file.content) for file in files.values())


def _shortened(count: int, short: int) -> int:
    """A short transfer still moves something: 0 would mean the end of the file."""
    return max(min(count, 1), count - short)


def _collect(directory: Directory, prefix: str, found: dict[str, bytes]) -> None:
    for name, node in directory.durable.items():
        if isinstance(node, File):
            found[prefix + name] = bytes(node.durable)
        else:
            _collect(node, f"{prefix}{name}/", found)
