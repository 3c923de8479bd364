"""`Exclusive`: a lock that may be held across I/O.

A mutex must not be: in a simulation other actors run during I/O, and one that wanted the mutex would stop the only
thread there is.  Who wants an `Exclusive` waits through the file system's condition, where a simulation lets others
run.
"""

from __future__ import annotations

from types import TracebackType

from pfs.files.filesystem import FileSystem


class Exclusive:
    """A context manager that one thread or actor holds at a time.  Not reentrant."""

    __slots__ = ("_condition", "_held")

    def __init__(self, fs: FileSystem) -> None:
        self._condition = fs.condition()
        self._held = False

    def __enter__(self) -> None:
        with self._condition:
            while self._held:
                self._condition.wait()
            self._held = True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._condition:
            self._held = False
            self._condition.notify()
