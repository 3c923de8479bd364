"""A change of a file's length: a turn of its own, and the former length again if there is no space."""

from __future__ import annotations

from types import TracebackType

from pfs.errors import NoSpace
from pfs.files.descriptors import DescriptorPool
from pfs.files.failures import Deed
from pfs.files.open_file import OpenFile


class LengthChange:
    """Our turn to change a file's length: its descriptor, pinned, and its size before.

    If there is no space, the file gets that size back.
    """

    def __init__(self, descriptors: DescriptorPool, file: OpenFile, deed: Deed) -> None:
        self._descriptors = descriptors
        self._file = file
        self._deed = deed

    def __enter__(self) -> LengthChange:
        descriptors, file = self._descriptors, self._file
        descriptors.begin_extending(file)
        try:
            self._slot = descriptors.pin(file, self._deed)
            try:
                self.descriptor = self._slot.descriptor
                self.before = descriptors.stat_descriptor(file, self.descriptor).size
            except BaseException:
                descriptors.queue.unpin(self._slot)
                raise
        except BaseException:
            descriptors.end_extending(file)
            raise
        return self

    def grown_to(self, size: int) -> None:
        """The file is at least so long now."""
        self._file.size = max(self.before, size)

    def _restore(self) -> None:
        fs = self._descriptors.fs
        if fs.fstat(self.descriptor).size > self.before:
            fs.ftruncate(self.descriptor, self.before)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        descriptors, file = self._descriptors, self._file
        try:
            if isinstance(exc, NoSpace):
                what = f"restore the length {self.before} of {file.path!r}"
                descriptors.call_on(file, self._restore, "restore", what)
        finally:
            descriptors.queue.unpin(self._slot)
            descriptors.end_extending(file)
