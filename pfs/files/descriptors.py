"""Few descriptors for many files: who may use a slot, who waits, and what is closed for whom.

A file is used through `pin` and `unpin`.  While its handle is good, that is two list operations and a
comparison, without a lock (see `pfs.files.slots`).  Otherwise its descriptor is closed and must be opened again:

1. The file is marked `changing`: whoever else wants it waits for that to end, so a file never has two descriptors.
   Who marks a file as changing owns its descriptor: nobody else opens or closes it.
2. A slot is taken: a free one, or one whose file has no I/O in flight; that file is marked `changing` too.  If there is
   none, the opener queues.  The queue is first come, first served, and nobody overtakes it but the users of files that
   are open; and a slot that is never free of users takes no new ones while somebody queues (it drains).
3. The file in the slot, if dirty, is synced, then its descriptor is closed.  No lock is held meanwhile.
4. The file is opened again by its path, with the flags that cannot change it, and must be the same device and inode.

So at most `limit` files have I/O in flight, however many clients there are.  A waiter waits for I/O calls, never for a
client's decision, so no wait is for ever.

Wake-ups are not lost: a waiter stands in the queue before it looks a last time for a free slot, and a user takes its pin
away before it looks at the queue.  One of them sees the other.

The mutex guards the bookkeeping: the table, the queues, `changing` and the lists of waiters.  It is never held across a
file call or a wait.

Dirt: `written` and `synced` of a file are tickets from one counter.  A write draws its ticket when it has returned
from the kernel; a sync notes `written` before it begins and sets `synced` to that when it has succeeded.  So a file is
dirty exactly while `written > synced`, whoever syncs and however syncs and writes overlap.  A name that was created,
renamed or removed makes its directory dirty in the same way, and the next sync of a file in it includes it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from pfs.errors import Busy, FatalError, FileClosed, FileReplaced, InvalidRequest, PfsError, SyncFailed, WriteFailed
from pfs.files.failures import NO_DESCRIPTORS, Deed, meaning
from pfs.files.filesystem import Condition, FileStat, FileSystem
from pfs.files.metrics import Metrics, Traffic
from pfs.files.open_options import OpenOptions
from pfs.files.paths import parent_of
from pfs.files.replacement import Replacement
from pfs.files.slots import Slot, SlotTable

Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=PfsError)

# Reopening a file that was there: all these say that it is no more.
_REPLACED = frozenset({errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO})


class OpenFile:
    """What is known of one open file, whether or not it has a descriptor at this moment.

    handle: where the descriptor is or was.  changing: see above.  waiters: those who wait for `changing` to end.
    size: a length that the file is known to have at least, if nobody else cuts it.  extending and extenders: whose turn
    it is to change the length.  failure: the fatal error after which nothing more is done with the file.
    temporary: it is to be removed on close, and never synced.
    """

    __slots__ = (
        "changing",
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
        self.changing = True
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


_NOWHERE: Slot[OpenFile] = Slot(-1)


class Waiter:
    """One who waits, until `wake` is called; may be given a slot."""

    __slots__ = ("_awake", "_condition", "slot")

    def __init__(self, condition: Condition, slot: Slot[OpenFile] | None = None) -> None:
        self._condition = condition
        self._awake = False
        self.slot = slot

    def wait(self) -> None:
        with self._condition:
            while not self._awake:
                self._condition.wait()

    def wake(self) -> None:
        with self._condition:
            self._awake = True
            self._condition.notify()


class DescriptorPool:
    """The open files of one file system and the slots that they share."""

    def __init__(
        self, fs: FileSystem, *, limit: int, policy: Replacement, clock: Callable[[], float], metrics: Metrics
    ) -> None:
        self.fs = fs
        self.metrics = metrics
        self.recovering = False
        self.touch = policy.touch
        self.dropped: deque[OpenFile] = deque()
        """Files whose last user went away without closing them; finalizers append here and do nothing else."""
        self.waiting: deque[Waiter] = deque()
        """Those who wait for any slot, in order."""
        self.closing: list[Waiter] = []
        """Those who wait for their own slot to have no users."""
        self.tickets = count(1)
        self._clock = clock
        self._fs_close = fs.close
        self._fs_reopen = fs.reopen
        self._reopens = metrics.open_after_replace
        self._replacements = metrics.close_by_replace
        self._table: SlotTable[OpenFile] = SlotTable(limit, policy)
        self._mutex = fs.mutex()
        self._files: dict[OpenFile, None] = {}
        self._draining: list[Slot[OpenFile]] = []
        self._reserved: list[Slot[OpenFile]] = []
        self._promised = 0
        self._directories: dict[str, int] = {}
        self._failures: dict[tuple[int, int], FatalError] = {}

    @property
    def limit(self) -> int:
        """The most descriptors that files and reservations have together."""
        return self._table.limit

    # ------------------------------------------------------------------------------------------ using a file

    def pin(self, file: OpenFile, deed: Deed) -> Slot[OpenFile]:
        """The slot with the file's descriptor, which stays open until `unpin`."""
        slot, tag = file.handle
        slot.pins.append(None)
        if slot.tag == tag:
            self.touch(slot.index)
            return slot
        return self.pin_slowly(file, deed, slot)

    def unpin(self, slot: Slot[OpenFile]) -> None:
        """The operation is over."""
        slot.pins.pop()
        if self.waiting or self.closing:
            self.offer(slot)

    def offer(self, slot: Slot[OpenFile]) -> None:
        """A pin is gone and somebody waits: serve them, or else see to it that this slot becomes free."""
        with self._mutex:
            self._serve()
            owner = slot.owner
            if self.waiting and slot.pins and slot.tag and owner is not None and not owner.changing:
                slot.drained = slot.tag
                slot.tag = 0
                owner.changing = True
                self._draining.append(slot)

    def pin_slowly(self, file: OpenFile, deed: Deed, stale: Slot[OpenFile]) -> Slot[OpenFile]:
        """Pin a file whose handle was no good, after `stale` was pinned in vain: wait, or open it again."""
        stale.pins.pop()
        if self.waiting or self.closing:
            self.offer(stale)
        if self.dropped:
            self.reap()
        while True:
            with self._mutex:
                if file.failure is not None or file.closed:
                    self.check(file)
                slot, tag = file.handle
                if slot.tag == tag:
                    slot.pins.append(None)
                    return slot
                if not file.changing:
                    file.changing = True
                    # (Slots drain only while somebody waits.)
                    taken = None if self.waiting else self._table.take()
                    break
                waiter = self._join(file)
            waiter.wait()
        try:
            slot = taken or self._queue()
            try:
                started = self._clock() if slot.owner is None else self._empty(slot)
                try:
                    descriptor = self._fs_reopen(file.path, file.flags, file.device, file.inode)
                except OSError as error:
                    descriptor = self._reopen(file, deed, error)
            except BaseException:
                self._put_back(slot)
                raise
        except BaseException:
            self._changed(file)
            raise
        timed = self._reopens
        timed.count += 1
        timed.seconds += self._clock() - started
        file.handle = self._table.fill(slot, file, descriptor)
        slot.pins.append(None)
        file.changing = False
        if file.waiters:
            self._changed(file)
        return slot

    def open(self, path: str, options: OpenOptions, traffic: Traffic, *, temporary: bool = False) -> OpenFile:
        """Open a file for the first time.  A file that failed before (same device and inode) fails again."""
        if self.dropped:
            self.reap()
        slot = self._take_slot()
        try:
            started = self._clock()
            descriptor = self.with_descriptors(
                lambda: self.fs.open(path, options.flags, options.mode), "open", f"open {path!r}"
            )
            timed = self.metrics.open
            timed.count += 1
            timed.seconds += self._clock() - started
            try:
                if (options.create or options.create_new) and not temporary:
                    self.name_changed(path)
                found = self.call(lambda: self.fs.fstat(descriptor), "look", f"look at {path!r}")
                failure = self._failures.get((found.device, found.inode))
                if failure is not None:
                    raise again(failure)
            except BaseException:
                self._close_descriptor(descriptor)
                raise
        except BaseException:
            self._put_back(slot)
            raise
        file = OpenFile(path, options.reopen_flags, found, traffic, temporary=temporary)
        if options.truncate:
            file.written = next(self.tickets)
        with self._mutex:
            file.handle = self._table.fill(slot, file, descriptor)
            self._files[file] = None
            file.changing = False
            self._serve()
        return file

    def close(self, file: OpenFile, *, discard: bool = False) -> None:
        """Wait until the file has no users, sync it if it is dirty, close it.  A second close does nothing.

        discard: do not sync.  Raises `SyncFailed`; the file is closed even so.
        """
        if not self._hold(file, closing=True):
            return
        try:
            slot = file.handle[0]
            if slot.owner is file:
                self._wait_for_users(slot)
                try:
                    if not discard:
                        self._sync_before_close(file, slot.descriptor)
                finally:
                    self._close_descriptor(slot.descriptor)
                    slot.owner = None
                    self._put_back(slot)
        finally:
            with self._mutex:
                self._files.pop(file, None)
            self._changed(file)
            if file.temporary:
                self.call(lambda: self.fs.unlink(file.path), "rename", f"remove {file.path!r}")

    def reap(self) -> None:
        """Close the files that were dropped."""
        while self.dropped:
            try:
                file = self.dropped.popleft()
            except IndexError:  # another thread was faster
                return
            self.metrics.dropped += 1
            self.close(file)

    def check(self, file: OpenFile) -> None:
        """Raises the file's failure, or `FileClosed` if it is closed."""
        if file.failure is not None:
            raise again(file.failure)
        if file.closed:
            raise FileClosed(f"{file.path!r} was used after it was closed")

    def files(self) -> list[OpenFile]:
        """The open files."""
        with self._mutex:
            return list(self._files)

    # ------------------------------------------------------------------------------------------ slots and waiting

    def _take(self) -> Slot[OpenFile] | None:
        """Under the mutex: take a slot; its file, if it has one, is changing from now on."""
        slot = self._table.take()
        if slot is not None and slot.drained:
            self._stop_draining(slot)
        return slot

    def _stop_draining(self, slot: Slot[OpenFile]) -> None:
        slot.drained = 0
        self._draining.remove(slot)

    def _take_slot(self) -> Slot[OpenFile]:
        """An empty slot, sooner or later."""
        with self._mutex:
            taken = None if self.waiting else self._take()
        return self._emptied(taken or self._queue())

    def _queue(self) -> Slot[OpenFile]:
        """Wait for a slot; first come, first served."""
        waiter = Waiter(self.fs.condition())
        self.metrics.slot_waits += 1
        with self._mutex:
            self.waiting.append(waiter)
            self._serve()
        try:
            waiter.wait()
        except BaseException:
            with self._mutex:
                if waiter.slot is None:
                    self.waiting.remove(waiter)
                    self._serve()
            if waiter.slot is not None:  # served at the last moment
                self._emptied(waiter.slot)
                self._put_back(waiter.slot)
            raise
        slot = waiter.slot
        assert slot is not None
        return slot

    def _serve(self) -> None:
        """Under the mutex: give slots to those who wait, as far as they go."""
        for waiter in self.closing[:]:
            if waiter.slot is not None and not waiter.slot.pins:
                self.closing.remove(waiter)
                waiter.wake()
        while self.waiting:
            slot = self._take()
            if slot is None:
                return
            waiter = self.waiting.popleft()
            waiter.slot = slot
            waiter.wake()
        for slot in self._draining:  # nobody waits any more
            owner = slot.owner
            assert owner is not None
            slot.tag, slot.drained = (slot.drained if owner.failure is None else 0), 0
            owner.changing = False
            _wake_all(owner.waiters)
        self._draining.clear()

    def _put_back(self, slot: Slot[OpenFile]) -> None:
        with self._mutex:
            self._table.put_back(slot)
            self._serve()

    def _join(self, file: OpenFile) -> Waiter:
        """Under the mutex: stand among those who wait until the file is not changing."""
        waiter = Waiter(self.fs.condition())
        file.waiters.append(waiter)
        if not file.changing:
            # It ended just now, without the mutex: whoever ended it may have looked at the waiters before.
            _wake_all(file.waiters)
        return waiter

    def _hold(self, file: OpenFile, *, closing: bool = False) -> bool:
        """Make a file `changing`, for us alone; False if it is closed."""
        while True:
            with self._mutex:
                if file.closed:
                    return False
                if not file.changing:
                    file.changing = True
                    file.closed = closing
                    return True
                waiter = self._join(file)
            waiter.wait()

    def _changed(self, file: OpenFile) -> None:
        with self._mutex:
            file.changing = False
            _wake_all(file.waiters)

    def _wait_for_users(self, slot: Slot[OpenFile]) -> None:
        """Keep new users from the slot of a file that is changing by our hand; wait for the last to leave."""
        with self._mutex:
            slot.tag = 0
            if not slot.pins:
                return
            waiter = Waiter(self.fs.condition(), slot)
            self.closing.append(waiter)
            self._serve()
        waiter.wait()

    def _emptied(self, slot: Slot[OpenFile]) -> Slot[OpenFile]:
        """A taken slot, emptied; it is put back if that fails."""
        try:
            if slot.owner is not None:
                self._empty(slot)
        except BaseException:
            self._put_back(slot)
            raise
        return slot

    def _empty(self, slot: Slot[OpenFile]) -> float:
        """Sync if need be and close what is in a taken slot; returns the time.  Raises `SyncFailed`; it is empty even so."""
        owner = slot.owner
        assert owner is not None
        try:
            if owner.written > owner.synced:
                self._sync_before_close(owner, slot.descriptor)
        finally:
            started = self._clock()
            try:
                self._fs_close(slot.descriptor)
            except OSError:
                self.metrics.close_errors += 1
            slot.owner = None
            owner.changing = False
            if owner.waiters:
                self._changed(owner)
            ended = self._clock()
            timed = self._replacements
            timed.count += 1
            timed.seconds += ended - started
        return ended

    def _reopen(self, file: OpenFile, deed: Deed, error: OSError) -> int:
        """Open a file again, after a first try ended in an error: as often as it is worth another try."""
        while True:
            self._reopen_failed(file, deed, error)
            try:
                return self._fs_reopen(file.path, file.flags, file.device, file.inode)
            except OSError as another:
                error = another

    def _reopen_failed(self, file: OpenFile, deed: Deed, error: OSError) -> None:
        """Return if it is worth another try, else raise."""
        if error.errno == errno.EINTR or (error.errno in NO_DESCRIPTORS and self._close_one()):
            return
        if error.errno in NO_DESCRIPTORS:
            raise meaning(error, "open", f"open {file.path!r} again") from error
        if error.errno in _REPLACED:
            raise self.failed(
                file, FileReplaced(f"{file.path!r} was removed or replaced while it was open: {error.strerror}")
            ) from error
        failure = meaning(error, deed, f"open {file.path!r} again", recovering=self.recovering)
        raise self.failed(file, failure) from error

    def _close_one(self) -> bool:
        """Close the descriptor of some file without users; False if there is none."""
        self.metrics.descriptor_shortages += 1
        with self._mutex:
            slot = self._table.take_occupied()
            if slot is None:
                return False
            if slot.drained:
                self._stop_draining(slot)
        self._put_back(self._emptied(slot))
        return True

    def _close_descriptor(self, descriptor: int) -> None:
        """Close; a failure is counted only: everything is synced by then, and the descriptor is gone in any case."""
        timed = self.metrics.close
        started = self._clock()
        try:
            self.fs.close(descriptor)
        except OSError:
            self.metrics.close_errors += 1
        timed.count += 1
        timed.seconds += self._clock() - started

    def reserve(self, n: int) -> None:
        """Take `n` slots out of use.  Raises `Busy` if fewer than one would be left for files."""
        with self._mutex:
            if self._promised + n > self._table.limit - 1:
                raise Busy(
                    f"cannot reserve {n} descriptors: {self._promised} of {self._table.limit} are reserved already, "
                    "and one must be left for files; raise the slots or the limit of open files (ulimit -n)"
                )
            self._promised += n
        taken = 0
        try:
            while taken < n:
                slot = self._take_slot()
                with self._mutex:
                    self._reserved.append(slot)
                taken += 1
        except BaseException:
            with self._mutex:
                self._promised -= n - taken
            self.release(taken)
            raise

    def release(self, n: int) -> None:
        """Give `n` reserved slots back.  Raises `InvalidRequest` if fewer are reserved."""
        with self._mutex:
            if n > len(self._reserved):
                raise InvalidRequest(f"cannot release {n} descriptors: only {len(self._reserved)} are reserved")
            self._promised -= n
            for _ in range(n):
                self._table.put_back(self._reserved.pop())
            self._serve()

    # ------------------------------------------------------------------------------------------ calls and failures

    def call(self, call: Callable[[], Result], deed: Deed, what: str) -> Result:
        """Make a call, again after EINTR; a failure becomes what it means."""
        while True:
            try:
                return call()
            except InterruptedError:
                continue
            except OSError as error:
                raise meaning(error, deed, what, recovering=self.recovering) from error

    def with_descriptors(self, call: Callable[[], Result], deed: Deed, what: str) -> Result:
        """The same for a call that needs a descriptor: if there is none, files are closed until there is."""
        while True:
            try:
                return call()
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno in NO_DESCRIPTORS and self._close_one():
                    continue
                raise meaning(error, deed, what) from error

    def call_on(self, file: OpenFile, call: Callable[[], Result], deed: Deed, what: str) -> Result:
        """Like `call`; a fatal failure is the file's."""
        try:
            return self.call(call, deed, what)
        except PfsError as error:
            self.failed(file, error)
            raise

    def stat_descriptor(self, file: OpenFile, descriptor: int) -> FileStat:
        """Size and identity of an open file."""
        return self.call(lambda: self.fs.fstat(descriptor), "look", f"look at {file.path!r}")

    def failed(self, file: OpenFile, failure: Failure) -> Failure:
        """After a fatal failure nothing more is done with the file, nor, if it may hold lies, with another opening of it.

        Returns the failure.
        """
        if not isinstance(failure, FatalError):
            return failure
        with self._mutex:
            file.failure = failure
            slot, tag = file.handle
            if slot.tag == tag:
                slot.tag = 0
            if isinstance(failure, (SyncFailed, WriteFailed)):
                self._failures[file.device, file.inode] = failure
        return failure

    # ------------------------------------------------------------------------------------------ syncs

    def sync(self, file: OpenFile, *, data_only: bool, names: bool = True) -> None:
        """Make the file durable, and with `names` those of its directory if they changed.  Raises `SyncFailed`."""
        slot = self.pin(file, "sync")
        try:
            self._sync_descriptor(file, slot.descriptor, self.fs.fdatasync if data_only else self.fs.fsync)
        finally:
            self.unpin(slot)
        if names:
            self.sync_directory(parent_of(file.path), only_if_changed=True)

    def _sync_descriptor(self, file: OpenFile, descriptor: int, sync: Callable[[int], None]) -> None:
        covered = file.written
        started = self._clock()
        while True:
            try:
                sync(descriptor)
                break
            except InterruptedError:
                continue
            except OSError as error:
                raise self.failed(file, _sync_failed(error, file.path)) from error
        timed = self.metrics.fsync
        timed.count += 1
        timed.seconds += self._clock() - started
        # A sync that began later may have finished first; going back would only cost one more sync.
        file.synced = max(file.synced, covered)

    def _sync_before_close(self, file: OpenFile, descriptor: int) -> None:
        if file.dirty and file.failure is None:
            self.metrics.syncs_by_replace += 1
            self._sync_descriptor(file, descriptor, self.fs.fdatasync)

    def sync_pending(self) -> int:
        """Sync every dirty file and every directory whose names changed; returns the number of files."""
        self.reap()
        synced = 0
        for file in self.files():
            if file.dirty:
                try:
                    self.sync(file, data_only=True)
                except FileClosed:
                    self._wait_for_close(file)
                else:
                    synced += 1
        with self._mutex:
            directories = list(self._directories)
        for directory in directories:
            self.sync_directory(directory, only_if_changed=True)
        return synced

    def _wait_for_close(self, file: OpenFile) -> None:
        """Closing a file syncs it: wait until that is done.  Raises the file's failure if it failed."""
        with self._mutex:
            waiter = self._join(file) if file.changing else None
        if waiter is not None:
            waiter.wait()
        if file.failure is not None:
            raise again(file.failure)

    def name_changed(self, path: str) -> None:
        """A name was created, renamed or removed."""
        with self._mutex:
            self._directories[parent_of(path)] = next(self.tickets)

    def sync_directory(self, directory: str, *, only_if_changed: bool = False) -> None:
        """Make the names in a directory durable.  Raises `SyncFailed`."""
        with self._mutex:
            ticket = self._directories.get(directory)
        if ticket is None and only_if_changed:
            return
        try:
            self.with_descriptors(
                lambda: self.fs.sync_directory(directory), "sync", f"sync the directory {directory or '.'!r}"
            )
        except SyncFailed as failure:
            # A directory that is gone has no names to keep; that it is gone is its parent's to remember.
            if not (only_if_changed and isinstance(failure.__cause__, FileNotFoundError)):
                raise
        with self._mutex:
            if ticket is not None and self._directories.get(directory) == ticket:
                del self._directories[directory]

    # ------------------------------------------------------------------------------------------ names and lengths

    def rename(self, source: str, destination: str) -> None:
        """Rename a file; open files of that path are found under the new one from now on."""
        held: list[OpenFile] = []
        try:
            for file in self.files():
                if file.path == source and self._hold(file):
                    held.append(file)
            self.with_descriptors(
                lambda: self.fs.rename(source, destination), "rename", f"rename {source!r} to {destination!r}"
            )
            for file in held:
                file.path = destination
        finally:
            for file in held:
                self._changed(file)
        self.name_changed(source)
        self.name_changed(destination)

    def unlink(self, path: str) -> None:
        """Remove a name; the next sync of the directory makes that durable."""
        self.with_descriptors(lambda: self.fs.unlink(path), "rename", f"remove {path!r}")
        self.name_changed(path)

    def remove(self, path: str) -> None:
        """Remove a name and make that durable."""
        self.unlink(path)
        self.sync_directory(parent_of(path))

    def begin_extending(self, file: OpenFile) -> None:
        """Wait for our turn to change the file's length; first come, first served."""
        with self._mutex:
            if not file.extending:
                file.extending = True
                return
            waiter = Waiter(self.fs.condition())
            file.extenders.append(waiter)
        waiter.wait()

    def end_extending(self, file: OpenFile) -> None:
        """The next one's turn."""
        with self._mutex:
            if file.extenders:
                file.extenders.popleft().wake()
            else:
                file.extending = False


def again(failure: PfsError) -> PfsError:
    """The same failure for another call: a new exception, as each collects its own traceback."""
    return type(failure)(*failure.args)


def _sync_failed(error: OSError, path: str) -> SyncFailed:
    failure = meaning(error, "sync", f"sync {path!r}")
    assert isinstance(failure, SyncFailed)
    return failure


def _wake_all(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
    waiters.clear()
