"""What is known of one open file, and how one waits for it."""

from __future__ import annotations

from collections import deque

from pfs.errors import FatalError, FileClosed, PfsError
from pfs.files.filesystem import Condition, FileStat, FileSystem
from pfs.files.metrics import Traffic
from pfs.files.slots import Slot


class Waiter:
    """One who waits until `wake` is called; `slot` is what is waited for, or what was given."""

    __slots__ = ("_awake", "_condition", "slot")

    def __init__(self, condition: Condition, slot: Slot[OpenFile] | None = None) -> None:
        self._condition = condition
        self._awake = False
        self.slot = slot

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be woken, at most `timeout` seconds; True if that came."""
        with self._condition:
            if not self._awake:
                self._condition.wait(timeout)
            return self._awake

    def wait_for_ever(self) -> None:
        with self._condition:
            while not self._awake:
                self._condition.wait()

    def wake(self) -> None:
        with self._condition:
            self._awake = True
            self._condition.notify()


class OpenFile:
    """One open file, whether or not it has a descriptor at this moment.

    handle: where the descriptor is or was (`pfs.files.slots`).  turn and waiters: whose turn it is to change the
    file, and who waits for it.  size: a length that the file is known to have at least, if nobody else cuts
    it.  extending and extenders: whose turn it is to change the length.  written and synced: see
    `pfs.files.descriptors`. failure: the fatal error after which nothing more is done with the file.  temporary: it
    is to be removed on close, and never synced.  Made with the turn taken.
    """

    __slots__ = (
        "closed",
        "device",
        "extenders",
        "extending",
        "failure",
        "flags",
        "handle",
        "inode",
        "path",
        "size",
        "synced",
        "temporary",
        "traffic",
        "turn",
        "waiters",
        "written",
    )

    def __init__(self, path: str, flags: int, found: FileStat, traffic: Traffic, *, temporary: bool) -> None:
        self.path = path
        self.flags = flags
        self.device = found.device
        self.inode = found.inode
        self.size = found.size
        self.traffic = traffic
        self.temporary = temporary
        self.handle: tuple[Slot[OpenFile], int] = (_NOWHERE, -1)
        self.turn: list[None] = []
        self.waiters: list[Waiter] = []
        self.extending = False
        self.extenders: deque[Waiter] = deque()
        self.written = 0
        self.synced = 0
        self.failure: FatalError | None = None
        self.closed = False

    @property
    def dirty(self) -> bool:
        """True if something was written that no sync covers."""
        return self.written > self.synced and not self.temporary

    def check(self) -> None:
        """Raises the file's failure, or `FileClosed` if it is closed."""
        if self.failure is not None:
            raise again(self.failure)
        if self.closed:
            raise FileClosed(f"{self.path!r} was used after it was closed")

    def begin_turn(self, fs: FileSystem) -> None:
        """Take the turn, waiting until it is free."""
        while True:
            try:
                self.turn.pop()
                return
            except IndexError:
                pass
            waiter = Waiter(fs.condition())
            self.waiters.append(waiter)
            if self.turn:
                # It became free just now: who gave it back may have looked at the waiters before.
                self.wake()
            waiter.wait_for_ever()

    def end_turn(self) -> None:
        """Give the turn back."""
        self.turn.append(None)
        if self.waiters:
            self.wake()

    def wake(self) -> None:
        """Wake those who wait for the turn."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.wake()


_NOWHERE: Slot[OpenFile] = Slot(-1)


def again(failure: PfsError) -> PfsError:
    """The same failure for another call: a new exception, as each collects its own traceback."""
    return type(failure)(*failure.args)
