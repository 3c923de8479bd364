"""Physical files with the face of virtual ones, for tests that run one body against both."""

from __future__ import annotations

import errno
import os

from pfs.errors import AccessDenied, FileExists, FileMissing, InvalidRequest, OutOfRange


class PhysicalFiles:
    """As `VirtualFilePool`: opens files below a directory, each with a descriptor of its own until it is closed."""

    def __init__(self, root):
        self.root = os.fspath(root)

    def open(self, path, options, kind="data"):
        try:
            descriptor = os.open(os.path.join(self.root, path), options.flags, options.mode)
        except FileNotFoundError as error:
            raise FileMissing(path) from error
        except FileExistsError as error:
            raise FileExists(path) from error
        return PhysicalFile(os.path.join(self.root, path), descriptor, options)


class PhysicalFile:
    def __init__(self, path, descriptor, options):
        self.path = path
        self.descriptor = descriptor
        self.options = options
        self.closed = False

    def _call(self, call, *arguments):
        try:
            return call(self.descriptor, *arguments)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise AccessDenied(self.path) from error
            if error.errno == errno.EINVAL:
                raise (InvalidRequest if self.options.writable else AccessDenied)(self.path) from error
            raise

    def read_at(self, buffer, offset):
        return self._call(os.preadv, [buffer], offset)

    def readv_at(self, buffers, offset):
        return self._call(os.preadv, buffers, offset)

    def read_exact_at(self, buffer, offset):
        if self._call(os.preadv, [buffer], offset) < len(buffer):
            raise OutOfRange(self.path)

    def read_exact_at_n(self, buffer, offset, count):
        self.read_exact_at(memoryview(buffer)[:count], offset)

    def write_at(self, data, offset):
        return self._call(os.pwritev, [data], offset)

    def write_all_at(self, data, offset):
        assert self.write_at(data, offset) == len(data)

    def writev_at(self, buffers, offset):
        return self._call(os.pwritev, buffers, offset)

    @property
    def position(self):
        return os.lseek(self.descriptor, 0, os.SEEK_CUR)

    def seek(self, offset, whence=os.SEEK_SET):
        return self._call(os.lseek, offset, whence)

    def read(self, buffer):
        return self._call(os.readv, [buffer])

    def read_to_end(self):
        parts = []
        while part := self._call(os.read, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    def write(self, data):
        return self._call(os.write, data)

    def write_all(self, data):
        assert self.write(data) == len(data)

    def metadata(self):
        return _Size(os.fstat(self.descriptor).st_size)

    def set_len(self, length):
        self._call(os.ftruncate, length)

    def allocate(self, offset, length):
        self._call(os.posix_fallocate, offset, length)

    def advise(self, offset, length, advice):
        self._call(os.posix_fadvise, offset, length, advice)

    def sync_all(self):
        os.fsync(self.descriptor)

    def sync_data(self):
        os.fdatasync(self.descriptor)

    def remove(self):
        self.close()
        os.unlink(self.path)

    def close(self):
        if not self.closed:
            self.closed = True
            os.close(self.descriptor)


class _Size:
    def __init__(self, size):
        self.size = size
