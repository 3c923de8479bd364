"""Few descriptors for many files: opening, closing for others, opening again, and syncing before it is too late.

A file is used through `pin` and `unpin`.  While its handle is good, that is two list operations and a comparison,
without a lock (`pfs.files.slots` says why that is safe).  Otherwise its descriptor was closed and is opened again:

1. We take the file's turn, so that nobody else opens or closes it.
2. We take a slot (`pfs.files.slot_queue`), which may mean to wait; with an occupied one we have its file's turn too.
3. The file in the slot, if dirty, is synced, then its descriptor is closed, and its turn ends.
4. Our file is opened by its path with the flags that cannot change it, and must be the same device and inode.

So at most `limit` files have I/O in flight, however many clients there are.  Who waits for a slot waits for I/O calls,
never for a client's decision.  Nobody who has a slot waits for a turn, so there is no deadlock.

Dirt: `written` and `synced` of a file are tickets from one counter.  A write draws its ticket when it has returned from
the kernel; a sync notes `written` before it begins and sets `synced` to that when it has succeeded.  So a file is dirty
exactly while `written > synced`, however syncs and writes overlap.  A name that was created, renamed or removed makes
its directory dirty in the same way, and the next sync of a file in it includes it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from pfs.errors import Busy, FatalError, FileClosed, FileReplaced, InvalidRequest, PfsError, SyncFailed, WriteFailed
from pfs.files.failures import NO_DESCRIPTORS, Deed, meaning
from pfs.files.filesystem import FileStat, FileSystem
from pfs.files.metrics import Metrics, Timed, Traffic
from pfs.files.open_file import OpenFile, Waiter, again
from pfs.files.open_options import OpenOptions
from pfs.files.paths import parent_of
from pfs.files.slot_queue import SlotQueue
from pfs.files.slots import NO_TAG, Slot, SlotTable

Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=PfsError)

# Reopening a file that was there: all these say that it is no more.
_REPLACED = frozenset({errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO})


class DescriptorPool:
    """The open files of one file system and the slots that they share."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        table: SlotTable[OpenFile],
        queue: SlotQueue,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.fs = fs
        self.metrics = metrics
        self.queue = queue
        self.recovering = False
        self.dropped: deque[OpenFile] = deque()
        """Files whose last user went away without closing them; finalizers append here and do nothing else."""
        self.tickets = count(1)
        self.touch = table.touch
        self._table = table
        self._clock = clock
        self._take = table.take
        self._close = fs.close
        self._reopen = fs.reopen
        self._reopens = metrics.open_after_replace
        self._replacements = metrics.close_by_replace
        self._mutex = fs.mutex()
        self._files: dict[OpenFile, None] = {}
        self._reserved: list[Slot[OpenFile]] = []
        self._promised = 0
        self._directories: dict[str, int] = {}
        self._failures: dict[tuple[int, int], FatalError] = {}

    # ------------------------------------------------------------------------------------------ using a file

    def pin(self, file: OpenFile, deed: Deed) -> Slot[OpenFile]:
        """The slot with the file's descriptor, which stays open until `queue.unpin`."""
        slot, tag = file.handle
        slot.pins.append(None)
        if slot.tag == tag:
            self.touch(slot.index)
            return slot
        return self.pin_slowly(file, deed, slot)

    def pin_slowly(self, file: OpenFile, deed: Deed, stale: Slot[OpenFile]) -> Slot[OpenFile]:
        """Pin a file whose handle was no good, after `stale` was pinned in vain: open it again, if nobody else did."""
        stale.pins.pop()
        queue = self.queue
        if queue.waiting or queue.closing:
            queue.offer(stale)
        if self.dropped:
            self.reap()
        try:
            file.turn.pop()
        except IndexError:
            file.begin_turn(self.fs)
        try:
            if file.failure is not None or file.closed:
                file.check()
            slot, tag = file.handle
            if slot.tag != tag:
                slot = (None if queue.waiting else self._take()) or queue.take()
                try:
                    started = self._clock() if slot.owner is None else self._empty(slot)
                    try:
                        descriptor = self._reopen(file.path, file.flags, file.device, file.inode)
                    except OSError as error:
                        descriptor = self._reopen_again(file, deed, error)
                except BaseException:
                    queue.put_back(slot)
                    raise
                timed = self._reopens
                timed.count += 1
                timed.seconds += self._clock() - started
                file.handle = self._table.fill(slot, file, descriptor)
            slot.pins.append(None)
            return slot
        finally:
            file.turn.append(None)
            if file.waiters:
                file.wake()

    def open(self, path: str, options: OpenOptions, traffic: Traffic, *, temporary: bool = False) -> OpenFile:
        """Open a file for the first time.  A file that failed before (same device and inode) fails again."""
        if self.dropped:
            self.reap()
        slot = self._take_empty()
        try:
            started = self._clock()
            descriptor = self.with_descriptors(
                lambda: self.fs.open(path, options.flags, options.mode), "open", f"open {path!r}"
            )
            self._count(self.metrics.open, started)
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
            self.queue.put_back(slot)
            raise
        file = OpenFile(path, options.reopen_flags, found, traffic, temporary=temporary)
        if options.truncate:
            file.written = next(self.tickets)
        with self._mutex:
            self._files[file] = None
        file.handle = self._table.fill(slot, file, descriptor)
        file.end_turn()
        return file

    def close(self, file: OpenFile, *, discard: bool = False) -> None:
        """Wait until the file has no users, sync it if it is dirty, close it.  A second close does nothing.

        discard: do not sync.  Raises `SyncFailed`; the file is closed even so.
        """
        file.begin_turn(self.fs)
        try:
            if file.closed:
                return
            file.closed = True
            slot = file.handle[0]
            try:
                if slot.owner is file:
                    self.queue.wait_for_users(slot)
                    try:
                        if not discard:
                            self._sync_before_close(file, slot.descriptor)
                    finally:
                        self._close_descriptor(slot.descriptor)
                        slot.owner = None
                        self.queue.put_back(slot)
            finally:
                with self._mutex:
                    del self._files[file]
                if file.temporary:
                    self.call(lambda: self.fs.unlink(file.path), "rename", f"remove {file.path!r}")
        finally:
            file.end_turn()

    def reap(self) -> None:
        """Close the files that were dropped."""
        while self.dropped:
            try:
                file = self.dropped.popleft()
            except IndexError:  # another thread was faster
                return
            self.metrics.dropped += 1
            self.close(file)

    def files(self) -> list[OpenFile]:
        """The open files."""
        with self._mutex:
            return list(self._files)

    # ------------------------------------------------------------------------------------------ slots

    def _take_empty(self) -> Slot[OpenFile]:
        """An empty slot, sooner or later."""
        return self._emptied(self.queue.take())

    def _emptied(self, slot: Slot[OpenFile]) -> Slot[OpenFile]:
        """A taken slot, emptied; it is put back if that fails."""
        try:
            if slot.owner is not None:
                self._empty(slot)
        except BaseException:
            self.queue.put_back(slot)
            raise
        return slot

    def _empty(self, slot: Slot[OpenFile]) -> float:
        """Close what is in a taken slot, for another; returns the time.  After `SyncFailed`, too, it is empty.

        (Written out, not composed, as every miss comes by here.)
        """
        owner = slot.owner
        assert owner is not None
        try:
            if owner.written > owner.synced:
                self._sync_before_close(owner, slot.descriptor)
        finally:
            clock = self._clock
            started = clock()
            try:
                self._close(slot.descriptor)
            except OSError:
                self.metrics.close_errors += 1
            slot.owner = None
            owner.turn.append(None)
            if owner.waiters:
                owner.wake()
            timed = self._replacements
            timed.count += 1
            ended = clock()
            timed.seconds += ended - started
        return ended

    def _sync_before_close(self, file: OpenFile, descriptor: int) -> None:
        if file.dirty and file.failure is None:
            self.metrics.syncs_before_close += 1
            self._sync_descriptor(file, descriptor, self.fs.fdatasync)

    def _close_descriptor(self, descriptor: int) -> None:
        """Close; a failure is counted only: everything is synced by then, and the descriptor is gone in any case."""
        started = self._clock()
        try:
            self._close(descriptor)
        except OSError:
            self.metrics.close_errors += 1
        self._count(self.metrics.close, started)

    def _count(self, timed: Timed, started: float) -> None:
        timed.count += 1
        timed.seconds += self._clock() - started

    def _reopen_again(self, file: OpenFile, deed: Deed, error: OSError) -> int:
        """Open a file again, after a first try ended in an error: as often as it is worth another try."""
        while error.errno == errno.EINTR or (error.errno in NO_DESCRIPTORS and self._close_one()):
            try:
                return self._reopen(file.path, file.flags, file.device, file.inode)
            except OSError as another:
                error = another
        if error.errno in NO_DESCRIPTORS:
            raise meaning(error, "open", f"open {file.path!r} again") from error
        if error.errno in _REPLACED:
            replaced = FileReplaced(f"{file.path!r} was removed or replaced while it was open: {error.strerror}")
            raise self.failed(file, replaced) from error
        failure = meaning(error, deed, f"open {file.path!r} again", recovering=self.recovering)
        raise self.failed(file, failure) from error

    def _close_one(self) -> bool:
        """Close the descriptor of some file without users; False if there is none."""
        self.metrics.descriptor_shortages += 1
        slot = self.queue.take_occupied()
        if slot is None:
            return False
        self.queue.put_back(self._emptied(slot))
        return True

    def reserve(self, n: int) -> None:
        """Take `n` slots out of use.  Raises `Busy` if fewer than one would be left for files."""
        with self._mutex:
            if self._promised + n >= self._table.limit:
                raise Busy(
                    f"cannot reserve {n} descriptors: {self._promised} of {self._table.limit} are reserved already, "
                    "and one must be left for files; raise the slots or the limit of open files (ulimit -n)"
                )
            self._promised += n
        taken = 0
        try:
            while taken < n:
                slot = self._take_empty()
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
            slots = [self._reserved.pop() for _ in range(n)]
        for slot in slots:
            self.queue.put_back(slot)

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
        """After a fatal failure nothing more is done with the file, nor with another opening of what may hold lies.

        Returns the failure.
        """
        if not isinstance(failure, FatalError):
            return failure
        file.failure = failure  # first this, then the tag: see `slots.show`
        slot, tag = file.handle
        if slot.tag == tag:
            slot.tag = NO_TAG
        if isinstance(failure, (SyncFailed, WriteFailed)):
            with self._mutex:
                self._failures[file.device, file.inode] = failure
        return failure

    # ------------------------------------------------------------------------------------------ syncs

    def sync(self, file: OpenFile, *, data_only: bool, names: bool = True) -> None:
        """Make the file durable, and with `names` those of its directory if they changed.  Raises `SyncFailed`."""
        slot = self.pin(file, "sync")
        try:
            self._sync_descriptor(file, slot.descriptor, self.fs.fdatasync if data_only else self.fs.fsync)
        finally:
            self.queue.unpin(slot)
        if names:
            self.sync_directory(parent_of(file.path))

    def _sync_descriptor(self, file: OpenFile, descriptor: int, sync: Callable[[int], None]) -> None:
        covered = file.written
        started = self._clock()
        self.call_on(file, lambda: sync(descriptor), "sync", f"sync {file.path!r}")
        self._count(self.metrics.fsync, started)
        # A sync that began later may have finished first.
        file.synced = max(file.synced, covered)

    def sync_pending(self) -> int:
        """Sync every dirty file and every directory whose names changed; returns the number of files."""
        self.reap()
        synced = 0
        for file in self.files():
            if file.dirty:
                try:
                    self.sync(file, data_only=True)
                except FileClosed:
                    continue  # closing it has synced it, and is over, for it had the turn
                synced += 1
        with self._mutex:
            directories = list(self._directories)
        for directory in directories:
            self.sync_directory(directory)
        return synced

    def name_changed(self, path: str) -> None:
        """A name was created, renamed or removed."""
        with self._mutex:
            self._directories[parent_of(path)] = next(self.tickets)

    def sync_directory(self, directory: str) -> None:
        """Make the names in a directory durable, if any changed since it was synced.  Raises `SyncFailed`."""
        with self._mutex:
            ticket = self._directories.get(directory)
        if ticket is None:
            return
        try:
            self.with_descriptors(
                lambda: self.fs.sync_directory(directory), "sync", f"sync the directory {directory or '.'!r}"
            )
        except SyncFailed as failure:
            # A directory that is gone has no names to keep; that it is gone is its parent's to remember.
            if not isinstance(failure.__cause__, FileNotFoundError):
                raise
        with self._mutex:
            if self._directories.get(directory) == ticket:
                del self._directories[directory]

    # ------------------------------------------------------------------------------------------ names and lengths

    def rename(self, source: str, destination: str) -> None:
        """Rename a file; open files of that path are found under the new one from now on."""
        held: list[OpenFile] = []
        try:
            for file in self.files():
                if file.path == source:
                    file.begin_turn(self.fs)
                    held.append(file)
            self.with_descriptors(
                lambda: self.fs.rename(source, destination), "rename", f"rename {source!r} to {destination!r}"
            )
            for file in held:
                file.path = destination
        finally:
            for file in held:
                file.end_turn()
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
        try:
            waiter.wait_for_ever()
        except BaseException:
            with self._mutex:
                given = waiter not in file.extenders
                if not given:
                    file.extenders.remove(waiter)
            if given:
                self.end_extending(file)
            raise

    def end_extending(self, file: OpenFile) -> None:
        """The next one's turn."""
        with self._mutex:
            if file.extenders:
                file.extenders.popleft().wake()
            else:
                file.extending = False
