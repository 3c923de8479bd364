"""Relations on disk: the storage manager's implementation over virtual files, as PostgreSQL's `md.c` does it.

A fork is kept in segment files (`pfs.files.segments`), which from the first on are

* active: full ones, then exactly one that is not full, perhaps empty, or none (if the last full one has no successor).
  The fork ends with the first segment that is not full; a missing segment ends it too.
* inactive: all after that.  Truncation leaves them behind, cut to length 0, because a reader may have them open; the
  extension that reaches one uses it again.  Whatever an inactive segment holds (a crash can leave the length of one
  file on disk and lose that of the file before it) is not part of the fork, and is cut off before it is used, and
  before the segment in front of it is full.

How readers and one writer get along.  What is known of a fork is one immutable `Extent`, its open files and its number
of blocks, replaced in one step.  A reader takes the extent as it is, without a lock, and works with that.  A writer
makes blocks before it publishes the extent that has them, and publishes the extent without them before it cuts them.
So a reader never looks for a block that is not made yet.  One that a truncation overtakes may have read too little, or
the zeros that the kernel leaves behind the cut; it looks at the number of cuts before and after, and reads again.
Files in an extent stay open until the relation is closed or the fork unlinked.  The first measuring of a fork, and
every change of its length, hold the fork's `lock`, which waits through the file system's condition and so is held
across I/O in a simulation too.

Pending syncs are kept by segment file, not by open file: they outlast the closing of a relation.  `sync` takes the set
away first, so that what is written meanwhile is pending for the next one, and puts back what it did not sync.  A
segment is registered after its write has returned, so a sync that begins in between leaves it pending.

An extension that fails for want of space or of a descriptor is taken back.  If that cannot be done either, the fork has
an *overhang*: whole blocks behind its end that nobody asked for.  Nobody reads them, and they are cut before the fork
changes its length again, or when it is closed.  Should they still be there when it is opened, it has them as blocks:
who knows how many there should be (a log, a catalog) cuts the rest.

Shrinking and unlinking begin at the last segment, so whatever a crash leaves of them is a fork with an end, never one
with a hole.  Not here: relations of temporary tables, and unlinking that waits for a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple, TypeVar

from pfs.errors import FatalError, FileClosed, FileDamaged, FileMissing, OutOfRange, RequestError, SyncFailed
from pfs.files import relation as names
from pfs.files.buffers import MAX_BUFFERS
from pfs.files.exclusive import Exclusive
from pfs.files.filesystem import FileSystem, ReadBuffer, WriteBuffer
from pfs.files.relation import Fork, RelationAddress
from pfs.files.segments import SegmentLayout, SegmentRun
from pfs.files.virtual_file import OpenOptions, VirtualFile, VirtualFilePool

_EXISTING = OpenOptions(write=True)
_PERHAPS_NEW = OpenOptions(write=True, create=True)
_NEW = OpenOptions(write=True, create_new=True)


Buffer = TypeVar("Buffer", bound=ReadBuffer | WriteBuffer)


class Extent(NamedTuple):
    """What is known of a fork: open files of its segments 0, 1, ... (all active ones; then perhaps inactive ones)."""

    segments: tuple[VirtualFile, ...]
    blocks: int
    cuts: int
    """How often the fork was made shorter since it was measured."""


class SegmentTag(NamedTuple):
    """What a pending sync is for."""

    address: RelationAddress
    fork: Fork
    segment: int


class _OpenFork:
    """One fork of an open relation.  `extent` is None while nothing is known of it; it is set under `lock` only."""

    __slots__ = ("extent", "fork", "lock", "overhang")

    def __init__(self, fork: Fork, fs: FileSystem) -> None:
        self.fork = fork
        self.lock = Exclusive(fs)
        self.extent: Extent | None = None
        self.overhang = False
        """Whether there may be something behind the last block, of an extension that could not be taken back."""

    def was_cut_since(self, extent: Extent) -> bool:
        """True if what was read by this extent may be from a part that a truncation has cut off meanwhile."""
        now = self.extent
        return now is not None and now.cuts != extent.cuts


class MagneticDisk:
    """Relations in segment files below the root of a pool's file system.  Implements `StorageFunctions`.

    version_directory: the one of tablespaces other than the default; PostgreSQL 15's is `PG_15_202209061`.
    """

    def __init__(self, pool: VirtualFilePool, *, version_directory: str = names.VERSION_DIRECTORY) -> None:
        self.fs = pool.fs
        self.pool = pool
        self._version_directory = names.check_version_directory(version_directory)
        self._mutex = pool.fs.mutex()
        self._pending: dict[SegmentTag, VirtualFile] = {}
        self._syncing: dict[SegmentTag, VirtualFile] = {}
        self._sync_lock = Exclusive(pool.fs)

    def open(self, address: RelationAddress, layout: SegmentLayout) -> MagneticDiskRelation:
        return MagneticDiskRelation(self, address, layout)

    def exists(self, address: RelationAddress, fork: Fork) -> bool:
        return self.pool.exists(self.path(SegmentTag(address, fork, 0)))

    def path(self, tag: SegmentTag) -> str:
        """The path of a segment file."""
        return names.path(tag.address, tag.fork, tag.segment, self._version_directory)

    def register(self, tag: SegmentTag, file: VirtualFile) -> None:
        """Have the next `sync` cover a file that was just written."""
        with self._mutex:
            self._pending[tag] = file

    def forget(self, tag: SegmentTag) -> None:
        """Drop what is pending for a file that is about to be removed, from a sync in progress too."""
        with self._mutex:
            self._pending.pop(tag, None)
            self._syncing.pop(tag, None)

    def sync(self) -> int:
        """As `StorageManager.sync`.  One at a time; a second one waits for the first."""
        synced = 0
        with self._sync_lock:
            with self._mutex:
                self._syncing, self._pending = self._pending, {}
            try:
                for tag, file in list(self._syncing.items()):
                    if tag in self._syncing:
                        synced += self._sync_segment(tag, file)
                    with self._mutex:
                        self._syncing.pop(tag, None)
            finally:
                with self._mutex:
                    self._pending = self._syncing | self._pending
                    self._syncing = {}
        return synced

    def _sync_segment(self, tag: SegmentTag, file: VirtualFile) -> bool:
        """Sync one file; False if it was removed meanwhile."""
        try:
            file.sync_data()
        except FileClosed:
            pass
        else:
            return True
        # Closing the relation has synced what was written through it, but not what was only registered.
        path = self.path(tag)
        try:
            with self.pool.open(path, _EXISTING) as reopened:
                reopened.sync_data()
        except FileMissing as error:
            if tag not in self._syncing:
                return False
            raise SyncFailed(
                f"{path!r} is gone, and with it writes that were to be synced; pfs did not remove it"
            ) from error
        return True

    def shutdown(self) -> None:
        self.sync()


class MagneticDiskRelation:
    """An open relation on disk.  Implements `OpenRelation`; what its functions promise is said at `StorageManager`."""

    def __init__(self, disk: MagneticDisk, address: RelationAddress, layout: SegmentLayout) -> None:
        self.address = address
        self.layout = layout
        self._disk = disk
        self._blocks_per_segment = layout.blocks_per_segment
        self._forks = tuple(_OpenFork(fork, disk.fs) for fork in Fork)

    # ------------------------------------------------------------------------------------------ opening and closing

    def check(self, *, repair: bool) -> None:
        for state in self._forks:
            if self._disk.exists(self.address, state.fork):
                self._measured(state, repair=repair)

    def close(self) -> None:
        with ExitStack() as stack:
            for state in self._forks:
                with state.lock:
                    for file in state.extent.segments if state.extent else ():
                        stack.callback(file.close)  # all are closed, though one may fail
                    if state.extent and state.overhang:
                        stack.callback(self._cut_overhang_if_possible, state, state.extent)  # and before that
                    state.extent = None

    def create(self, fork: Fork, *, exist_ok: bool) -> None:
        tag = SegmentTag(self.address, fork, 0)
        path = self._disk.path(tag)
        self._disk.pool.make_directory(path.rpartition("/")[0])
        state = self._forks[fork]
        with state.lock:
            if exist_ok and (state.extent or self._disk.pool.exists(path)):
                return
            file = self._disk.pool.open(path, _NEW)
            state.extent = Extent((file,), 0, 0)
            self._disk.register(tag, file)

    def unlink(self, forks: Sequence[Fork]) -> None:
        # The main fork goes last: as long as anything of the relation is there, it is.
        for fork in sorted(forks, reverse=True):
            state = self._forks[fork]
            with state.lock:
                files, blocks, cuts = state.extent or Extent((), 0, 0)
                count = len(files)
                while self._disk.pool.exists(self._path(fork, count)):
                    count += 1
                for segment in reversed(range(count)):
                    tag = SegmentTag(self.address, fork, segment)
                    self._disk.forget(tag)
                    if segment < len(files):
                        # What is left is a whole fork, should the next removal fail.
                        left = min(blocks, segment * self.layout.blocks_per_segment)
                        state.extent = Extent(files[:segment], left, cuts + 1) if segment else None
                        files[segment].remove()
                    else:
                        self._disk.pool.remove(self._disk.path(tag))

    # ------------------------------------------------------------------------------------------ extents

    def _path(self, fork: Fork, segment: int) -> str:
        return self._disk.path(SegmentTag(self.address, fork, segment))

    def _extent(self, fork: Fork) -> Extent:
        state = self._forks[fork]
        return state.extent or self._measured(state)

    def _measured(self, state: _OpenFork, *, repair: bool = False) -> Extent:
        with state.lock:
            return self._known(state, repair=repair)

    def _known(self, state: _OpenFork, *, repair: bool = False) -> Extent:
        """Under the lock: the extent, measured if need be."""
        if state.extent is None:
            state.extent = self._measure(state.fork, repair=repair)
        return state.extent

    def _measure(self, fork: Fork, *, repair: bool) -> Extent:
        """Open the active segments and count their blocks.  Raises `FileMissing`, `FileDamaged`."""
        segments: list[VirtualFile] = []
        blocks = 0
        try:
            while blocks == len(segments) * self.layout.blocks_per_segment:
                try:
                    segments.append(self._disk.pool.open(self._path(fork, len(segments)), _EXISTING))
                except FileMissing:
                    if not segments:
                        raise
                    break
                blocks += self._blocks_of(segments[-1], repair=repair)
        except BaseException:
            for file in segments:
                file.close()
            raise
        return Extent(tuple(segments), blocks, 0)

    def _blocks_of(self, file: VirtualFile, *, repair: bool) -> int:
        size = file.metadata().size
        blocks, torn = divmod(size, self.layout.block_size)
        if size > self.layout.segment_size:
            raise FileDamaged(
                f"file {file.path!r} has {size} bytes, more than the {self.layout.segment_size} of a segment: it was "
                "written with another segment size"
            )
        if torn and not repair:
            raise FileDamaged(
                f"file {file.path!r} has {size} bytes, not a multiple of the block size {self.layout.block_size}; "
                f"repair=True cuts the last {torn}"
            )
        if torn:
            file.set_len(blocks * self.layout.block_size)
        return blocks

    def _runs(
        self, block: int, count: int, buffers: Sequence[Buffer]
    ) -> Sequence[tuple[SegmentRun, Sequence[Buffer | memoryview]]]:
        """The runs of a range, with the buffers of each."""
        segment, inside = divmod(block, self._blocks_per_segment)
        size = self.layout.block_size
        if inside + count <= self._blocks_per_segment:  # nearly always: spare it the arithmetic of the rest
            return ((SegmentRun(segment, inside * size, 0, count), buffers),)
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        blocks = [view[start : start + size] for view in views for start in range(0, len(view), size)]
        runs = self.layout.runs(block, count)
        return [(run, blocks[run.first : run.first + run.blocks]) for run in runs]

    # ------------------------------------------------------------------------------------------ reading

    def nblocks(self, fork: Fork) -> int:
        return self._extent(fork).blocks

    def readv(self, fork: Fork, block: int, buffers: Sequence[ReadBuffer], count: int, *, in_recovery: bool) -> None:
        while True:
            extent = self._extent(fork)
            if block + count > extent.blocks and not in_recovery:
                raise self._out_of_range(fork, block, count, extent.blocks)
            complete = True
            for run, views in self._runs(block, count, buffers):
                read = 0
                if run.segment < len(extent.segments):
                    read = extent.segments[run.segment].readv_at(views, run.offset)
                if read < run.blocks * self.layout.block_size:
                    complete = False
                    _zero_from(views, read)
            if not self._forks[fork].was_cut_since(extent):
                break
        if not (complete or in_recovery):
            raise OutOfRange(
                f"{self._path(fork, 0)!r} ends before block {block + count - 1}, though it had {extent.blocks} blocks: "
                "somebody else has cut it"
            )

    def try_readv_nowait(self, fork: Fork, block: int, buffers: Sequence[ReadBuffer], count: int) -> bool:
        state = self._forks[fork]
        extent = state.extent
        if extent is None or count > MAX_BUFFERS:
            return False
        if block + count > extent.blocks:
            raise self._out_of_range(fork, block, count, extent.blocks)
        for run, views in self._runs(block, count, buffers):
            wanted = run.blocks * self.layout.block_size
            if extent.segments[run.segment].try_readv_at_nowait(views, run.offset) != wanted:
                return False
        return not state.was_cut_since(extent)

    def prefetch(self, fork: Fork, block: int, count: int) -> None:
        self._advise(fork, block, count, os.POSIX_FADV_WILLNEED)

    def _advise(self, fork: Fork, block: int, count: int, advice: int) -> None:
        extent = self._extent(fork)
        for run in self.layout.runs(block, min(count, extent.blocks - block)):
            extent.segments[run.segment].advise(run.offset, run.blocks * self.layout.block_size, advice)

    def _out_of_range(self, fork: Fork, block: int, count: int, blocks: int) -> OutOfRange:
        last = block + count - 1
        return OutOfRange(
            f"blocks {block} to {last} of {self._path(fork, 0)!r} do not all exist: it has {blocks} blocks"
        )

    # ------------------------------------------------------------------------------------------ writing

    def writev(self, fork: Fork, block: int, buffers: Sequence[WriteBuffer], count: int, *, skip_sync: bool) -> None:
        extent = self._extent(fork)
        if block + count > extent.blocks:
            raise self._out_of_range(fork, block, count, extent.blocks)
        for run, views in self._runs(block, count, buffers):
            file = extent.segments[run.segment]
            try:
                file.writev_at(views, run.offset)
            finally:
                if not skip_sync:
                    self._disk.register(SegmentTag(self.address, fork, run.segment), file)

    def extend(self, fork: Fork, block: int, buffers: Sequence[WriteBuffer], count: int, *, skip_sync: bool) -> None:
        def write(segments: Sequence[VirtualFile]) -> None:
            for run, views in self._runs(block, count, buffers):
                segments[run.segment].writev_at(views, run.offset)

        self._grow(fork, block, count, write, skip_sync=skip_sync)

    def zero_extend(self, fork: Fork, block: int, count: int, *, skip_sync: bool) -> None:
        def allocate(segments: Sequence[VirtualFile]) -> None:
            for run in self.layout.runs(block, count):
                segments[run.segment].allocate(run.offset, run.blocks * self.layout.block_size)

        self._grow(fork, block, count, allocate, skip_sync=skip_sync)

    def _grow(
        self, fork: Fork, block: int, count: int, fill: Callable[[Sequence[VirtualFile]], None], *, skip_sync: bool
    ) -> None:
        """Make the fork `block + count` blocks long; `fill` makes the last `count`, what is before them is zeros."""
        state = self._forks[fork]
        with state.lock:
            old = self._known(state)
            self._cut_overhang(state, old)
            if block < old.blocks:
                raise OutOfRange(
                    f"block {block} of {self._path(fork, 0)!r} exists already (it has {old.blocks}): write it instead"
                )
            segments = list(old.segments)
            blocks = old.blocks
            first = self.layout.active_segments(blocks) - 1
            target = self.layout.locate(block)[0]
            last = self.layout.locate(block + count - 1)[0]
            try:
                for segment in range(first, last + 1):
                    if segment > first:
                        self._activate(fork, segment, segments)
                    if segment < target:
                        segments[segment].set_len(self.layout.segment_size)
                if (block + count) % self._blocks_per_segment == 0:
                    self._empty_next(fork, last + 1, segments)
                fill(segments)
                blocks = block + count
            except FatalError:
                raise
            except BaseException:
                state.overhang = True
                self._cut_overhang_if_possible(state, Extent(tuple(segments), blocks, old.cuts))
                raise
            finally:
                state.extent = Extent(tuple(segments), blocks, old.cuts)
                if not skip_sync:
                    for segment in range(first, min(last + 1, len(segments))):
                        self._disk.register(SegmentTag(self.address, fork, segment), segments[segment])

    def _activate(self, fork: Fork, segment: int, segments: list[VirtualFile]) -> None:
        """Have a segment open and empty that so far was inactive or missing."""
        if segment == len(segments):
            segments.append(self._disk.pool.open(self._path(fork, segment), _PERHAPS_NEW))
        if segments[segment].metadata().size:
            segments[segment].set_len(0)

    def _empty_next(self, fork: Fork, segment: int, segments: list[VirtualFile]) -> None:
        """Have an inactive segment, if there is one, hold nothing: the one before it is about to be full."""
        if segment == len(segments):
            if not self._disk.pool.exists(self._path(fork, segment)):
                return
            segments.append(self._disk.pool.open(self._path(fork, segment), _EXISTING))
        if segments[segment].metadata().size:
            segments[segment].set_len(0)
            self._disk.register(SegmentTag(self.address, fork, segment), segments[segment])

    def _cut_overhang(self, state: _OpenFork, extent: Extent) -> None:
        """Cut what an extension has left behind the last block of a fork, if one has; from the last segment on."""
        if not state.overhang:
            return
        for segment in range(len(extent.segments) - 1, self.layout.active_segments(extent.blocks) - 2, -1):
            file = extent.segments[segment]
            try:
                file.set_len(self.layout.segment_length(segment, extent.blocks))
            finally:
                self._disk.register(SegmentTag(self.address, state.fork, segment), file)
        state.overhang = False

    def _cut_overhang_if_possible(self, state: _OpenFork, extent: Extent) -> None:
        """The same; without space or a descriptor it stays, to be cut at the next chance."""
        with suppress(RequestError):
            self._cut_overhang(state, extent)

    def truncate(self, blocks: Mapping[Fork, int], *, in_recovery: bool) -> None:
        with ExitStack() as locks:
            cuts = []
            for fork, wanted in sorted(blocks.items()):
                state = self._forks[fork]
                locks.enter_context(state.lock)
                extent = self._known(state)
                self._cut_overhang(state, extent)
                if wanted > extent.blocks and not in_recovery:
                    raise OutOfRange(
                        f"cannot truncate {self._path(fork, 0)!r} to {wanted} blocks: it has only {extent.blocks}"
                    )
                if wanted < extent.blocks:
                    cuts.append((state, extent, wanted))
            for state, extent, wanted in cuts:
                self._cut(state, extent, wanted)

    def _cut(self, state: _OpenFork, extent: Extent, wanted: int) -> None:
        """Truncate a fork, from the last segment on backwards; if that fails half-way, the rest is still the fork."""
        state.extent = Extent(extent.segments, wanted, extent.cuts + 1)
        last = self.layout.active_segments(extent.blocks) - 1
        for segment in range(last, self.layout.active_segments(wanted) - 2, -1):
            file = extent.segments[segment]
            try:
                file.set_len(self.layout.segment_length(segment, wanted))
            except BaseException:
                left = min(extent.blocks, (segment + 1) * self.layout.blocks_per_segment)
                state.extent = Extent(extent.segments, left, extent.cuts + 1)
                raise
            finally:
                self._disk.register(SegmentTag(self.address, state.fork, segment), file)

    def writeback(self, fork: Fork, block: int, count: int) -> None:
        self._advise(fork, block, count, os.POSIX_FADV_DONTNEED)

    # ------------------------------------------------------------------------------------------ durability

    def immedsync(self, fork: Fork) -> None:
        for file in self._extent(fork).segments:
            file.sync_data()

    def registersync(self, fork: Fork) -> None:
        for segment, file in enumerate(self._extent(fork).segments):
            self._disk.register(SegmentTag(self.address, fork, segment), file)


def _zero_from(buffers: Sequence[ReadBuffer], start: int) -> None:
    """Fill with zeros what a read of `start` bytes has left."""
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        view[min(start, len(view)) :] = bytes(max(len(view) - start, 0))
        start = max(start - len(view), 0)
