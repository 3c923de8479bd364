"""The real file system: each call is one system call on files below a root directory.

How a path is kept below the root: `open` and every call that takes a path walk to the parent directory one name at a
time, each opened relative to the one before and never through a symbolic link, then act on the last name relative to
that.  So nobody can lead a call out of the root, not even by swapping a directory for a link while it runs.  Links are
followed only where the caller said so (`follow_links_under`, for tablespaces); what they lead to is then trusted.

`reopen` takes the direct way: it opens the path as it is and compares device and inode with those of the file that was
open before.  Wherever the path may lead now, only the very same file passes.  That saves the walk on the one call that
is made again and again.

Nothing is cached, so nothing goes stale, and there is nothing to close.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat as stat_bits
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from uuid import UUID

from pfs.errors import InvalidName, NotRegularFile
from pfs.files.filesystem import Condition, FileStat, Mutex, ReadBuffer
from pfs.files.paths import check_path, parent_of

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORY = os.O_CLOEXEC | os.O_DIRECTORY | os.O_RDONLY
_WALK = os.O_CLOEXEC | os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
_NOWAIT = getattr(os, "RWF_NOWAIT", None)
_UNLIMITED = 1 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_open = os.open
_fstat = os.fstat


class PosixFileSystem:
    """The files below `root`, an existing directory.  Implements `pfs.files.filesystem.FileSystem`.

    follow_links_under: directories (relative paths) whose direct entries may be symbolic links to directories
    anywhere, such as `("pg_tblspc",)`; `""` is the root.  Every other symbolic link is refused with `InvalidName`.
    """

    def __init__(self, root: str | os.PathLike[str], *, follow_links_under: Sequence[str] = ()) -> None:
        self.root = os.path.realpath(root)
        if not os.path.isdir(self.root):
            raise NotADirectoryError(errno.ENOTDIR, "the root of a file system must be a directory", self.root)
        self._prefix = self.root.rstrip("/") + "/"
        self._follow = frozenset(follow_links_under)

    @classmethod
    def made(cls, root: str | os.PathLike[str]) -> PosixFileSystem:
        """The files below `root`, which is made, with its parents, if it is missing."""
        os.makedirs(root, mode=0o700, exist_ok=True)
        return cls(root)

    # Calls on descriptors are the system's own: a wrapper around each would cost a tenth of a cached read.
    close = staticmethod(os.close)
    preadv = staticmethod(os.preadv)
    pwritev = staticmethod(os.pwritev)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(os.fdatasync)
    ftruncate = staticmethod(os.ftruncate)
    fallocate = staticmethod(os.posix_fallocate)
    fadvise = staticmethod(os.posix_fadvise)

    def preadv_nowait(self, descriptor: int, buffers: Sequence[ReadBuffer], offset: int, /) -> int:
        """As in the protocol; `OSError(EOPNOTSUPP)` too where the system knows no such reads."""
        if _NOWAIT is None:
            raise OSError(errno.EOPNOTSUPP, "this system has no reads from the page cache only")
        return os.preadv(descriptor, buffers, offset, _NOWAIT)

    def open(self, path: str, flags: int, mode: int = 0o600, /) -> int:
        """Open a regular file below the root.  Raises `NotRegularFile`, `InvalidName`, `OSError`."""
        with self._at(path) as (parent, name):
            try:
                descriptor = os.open(name, flags | _OPEN, mode, dir_fd=parent)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise InvalidName(f"{path!r} is a symbolic link; links are not followed") from None
                # EISDIR: a directory opened for writing.  ENXIO: a FIFO without a reader, or a socket.
                if error.errno in (errno.EISDIR, errno.ENXIO):
                    raise NotRegularFile(f"{path!r} is not a regular file") from None
                raise
        if not stat_bits.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotRegularFile(f"{path!r} is not a regular file")
        return descriptor

    def reopen(self, path: str, flags: int, device: int, inode: int, /) -> int:
        """Open the very same file again; `OSError(ESTALE)` if another is there now."""
        descriptor = _open(self._prefix + path, flags | _OPEN)
        found = _fstat(descriptor)
        if found.st_ino != inode or found.st_dev != device:
            os.close(descriptor)
            raise OSError(errno.ESTALE, "another file is at this path now", path)
        return descriptor

    def fstat(self, descriptor: int, /) -> FileStat:
        return _file_stat(os.fstat(descriptor))

    def stat(self, path: str, /) -> FileStat:
        with self._at(path) as (parent, name):
            found = os.stat(name, dir_fd=parent, follow_symlinks=self._may_follow(path))
        if stat_bits.S_ISLNK(found.st_mode):
            raise InvalidName(f"{path!r} is a symbolic link; links are not followed")
        return _file_stat(found)

    def exists(self, path: str, /) -> bool:
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def listdir(self, path: str, /) -> list[str]:
        with self._directory(path) as descriptor:
            return sorted(os.listdir(descriptor))

    def mkdir(self, path: str, mode: int = 0o700, /) -> None:
        with self._at(path) as (parent, name):
            os.mkdir(name, mode, dir_fd=parent)

    def rmdir(self, path: str, /) -> None:
        with self._at(path) as (parent, name):
            os.rmdir(name, dir_fd=parent)

    def rename(self, source: str, destination: str, /) -> None:
        with self._at(source) as (parent, name), self._at(destination) as (new_parent, new_name):
            os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=new_parent)

    def unlink(self, path: str, /) -> None:
        with self._at(path) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def sync_directory(self, path: str, /) -> None:
        with self._directory(path) as descriptor:
            os.fsync(descriptor)

    def lock(self, descriptor: int, /) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def condition(self) -> Condition:
        return threading.Condition(threading.Lock())

    def mutex(self) -> Mutex:
        return threading.Lock()

    def boot_id(self) -> bytes:
        try:
            with open(_BOOT_ID) as file:
                return UUID(file.read().strip()).bytes
        except (OSError, ValueError):
            return bytes(16)

    def descriptor_limit(self) -> int:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return _UNLIMITED if soft == resource.RLIM_INFINITY else soft

    # ------------------------------------------------------------------------------------------ the walk

    def _may_follow(self, path: str) -> bool:
        return parent_of(path) in self._follow

    @contextmanager
    def _at(self, path: str) -> Generator[tuple[int, str]]:
        """The parent directory of a path, open, and the last name in it."""
        *directories, name = check_path(path)
        with self._directory("/".join(directories), _WALK) as parent:
            yield parent, name

    @contextmanager
    def _directory(self, path: str, flags: int = _DIRECTORY) -> Generator[int]:
        """A directory below the root, open; `""` is the root."""
        parts = check_path(path) if path else []
        descriptor = os.open(self.root, _WALK if parts else flags)
        try:
            for index, part in enumerate(parts):
                step = flags if index == len(parts) - 1 else _WALK
                if not self._may_follow("/".join(parts[: index + 1])):
                    step |= os.O_NOFOLLOW
                inner = self._step(descriptor, part, step, path)
                descriptor, outer = inner, descriptor
                os.close(outer)
            yield descriptor
        finally:
            os.close(descriptor)

    def _step(self, parent: int, name: str, flags: int, path: str) -> int:
        try:
            return os.open(name, flags, dir_fd=parent)
        except NotADirectoryError:
            # A link, too, is "not a directory" when it may not be followed.
            if stat_bits.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode):
                raise InvalidName(f"{name!r} in {path!r} is a symbolic link; links are not followed") from None
            raise


def _file_stat(found: os.stat_result) -> FileStat:
    return FileStat(
        found.st_size,
        found.st_dev,
        found.st_ino,
        stat_bits.S_ISREG(found.st_mode),
        stat_bits.S_ISDIR(found.st_mode),
    )
