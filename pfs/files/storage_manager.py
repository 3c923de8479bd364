"""The storage manager: blocks of relations, wherever they are kept.

A thin layer between those who think in relations, forks and block numbers (page file servers, recovery, storage nodes)
and an implementation that knows where the bytes are.  As PostgreSQL's `smgr.c` does with its table `f_smgr`, it reaches
an implementation through one small table of functions: `StorageFunctions` for a kind of storage as a whole,
`OpenRelation` for one relation that is open there.  `pfs.files.magnetic_disk` is the implementation on disk.

What this layer does for all of them: it checks arguments, so that an implementation sees only valid ones; and it lets
everyone who opens the same relation share one `OpenRelation`, so that all see the same number of blocks at once.

    f_smgr            here                                 f_smgr            here
    smgr_init         the implementation's own start       smgr_read(v)      read, readv, try_readv_nowait
    smgr_shutdown     shutdown                             smgr_write(v)     write, writev
    smgr_open         open                                 smgr_writeback    writeback
    smgr_close        close                                smgr_nblocks      nblocks
    smgr_create       create                               smgr_truncate     truncate
    smgr_exists       exists                               smgr_immedsync    immedsync
    smgr_unlink       unlink                               smgr_registersync registersync
    smgr_extend       extend                               (checkpointer)    sync
    smgr_zeroextend   zero_extend                          smgr_prefetch     prefetch

Who may do what at once: any number of threads may read a relation while one thread changes it.  Its user lets only one
change be made at a time; should he not, changes of the length still wait for each other.  A read that runs beside a
write of the same block may see a part of it (that is the disk's way; a buffer pool above keeps them apart).

Errors common to all functions: `InvalidRequest` (a wrong type, a negative block), `FileClosed` (the relation's handle
was closed), `FileMissing` (the fork does not exist), `Busy` (no descriptor to be had), and the fatal errors of
`pfs.files.virtual_file`.

Source: PostgreSQL's `smgr.c` and `md.c`; "External Storage Manager in IvorySQL Database" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from pfs.errors import FileClosed, InvalidRequest, PageSizeMismatch, RequestTooLarge, WrongPageLength
from pfs.files.filesystem import FileSystem, ReadBuffer, WriteBuffer
from pfs.files.relation import Fork, RelationAddress
from pfs.files.segments import DEFAULT_BLOCK_SIZE, DEFAULT_SEGMENT_SIZE, MAX_BLOCKS, MIN_BLOCK_SIZE, SegmentLayout

ALL_FORKS = tuple(Fork)


class OpenRelation(Protocol):
    """What an implementation does with one open relation.  Arguments are valid; `count` is that of the buffers' blocks.

    The meaning of each function is that of the `StorageManager` method of its name.
    """

    @property
    def address(self) -> RelationAddress: ...

    @property
    def layout(self) -> SegmentLayout: ...

    def check(self, *, repair: bool) -> None:
        """Look at all forks that exist.  Raises `FileDamaged`, or with `repair` cuts torn tails."""
        ...

    def close(self) -> None: ...

    def create(self, fork: Fork, *, exist_ok: bool) -> None: ...

    def unlink(self, forks: Sequence[Fork]) -> None: ...

    def nblocks(self, fork: Fork) -> int: ...

    def readv(
        self, fork: Fork, block: int, buffers: Sequence[ReadBuffer], count: int, *, in_recovery: bool
    ) -> None: ...

    def try_readv_nowait(self, fork: Fork, block: int, buffers: Sequence[ReadBuffer], count: int) -> bool: ...

    def writev(
        self, fork: Fork, block: int, buffers: Sequence[WriteBuffer], count: int, *, skip_sync: bool
    ) -> None: ...

    def extend(
        self, fork: Fork, block: int, buffers: Sequence[WriteBuffer], count: int, *, skip_sync: bool
    ) -> None: ...

    def zero_extend(self, fork: Fork, block: int, count: int, *, skip_sync: bool) -> None: ...

    def truncate(self, blocks: Mapping[Fork, int], *, in_recovery: bool) -> None: ...

    def prefetch(self, fork: Fork, block: int, count: int) -> None: ...

    def writeback(self, fork: Fork, block: int, count: int) -> None: ...

    def immedsync(self, fork: Fork) -> None: ...

    def registersync(self, fork: Fork) -> None: ...


class StorageFunctions(Protocol):
    """What an implementation does as a whole."""

    @property
    def fs(self) -> FileSystem:
        """Where locks come from."""
        ...

    def open(self, address: RelationAddress, layout: SegmentLayout) -> OpenRelation: ...

    def exists(self, address: RelationAddress, fork: Fork) -> bool: ...

    def sync(self) -> int: ...

    def shutdown(self) -> None: ...


class Relation:
    """A handle on an open relation, made by `StorageManager.open`."""

    __slots__ = ("address", "block_size", "closed", "opened")

    def __init__(self, opened: OpenRelation) -> None:
        self.address = opened.address
        self.block_size = opened.layout.block_size
        self.opened = opened
        self.closed = False

    def __repr__(self) -> str:
        return f"Relation({self.address}, block_size={self.block_size}{', closed' if self.closed else ''})"


class _Shared:
    """An open relation, and how many handles there are on it."""

    __slots__ = ("handles", "opened")

    def __init__(self, opened: OpenRelation) -> None:
        self.opened = opened
        self.handles = 0


class StorageManager:
    """Blocks of relations.

    Args:
        implementations: the kinds of storage by name, for instance `{"disk": MagneticDisk(pool)}`.
        choose: which of them keeps a relation; the first one, if not given.
        segment_size: bytes of a segment file, a multiple of every block size used.  Files of one segment size are
            not to be opened with another: PostgreSQL's and pfs's own are of 1 GiB.
    """

    def __init__(
        self,
        implementations: Mapping[str, StorageFunctions],
        *,
        choose: Callable[[RelationAddress], str] | None = None,
        segment_size: int = DEFAULT_SEGMENT_SIZE,
    ) -> None:
        if not implementations:
            raise InvalidRequest("a storage manager needs at least one implementation")
        first = next(iter(implementations))
        self._implementations = dict(implementations)
        self._choose = choose or (lambda address: first)
        self._segment_size = SegmentLayout(MIN_BLOCK_SIZE, segment_size).segment_size
        self._relations: dict[RelationAddress, _Shared] = {}
        self._mutex = self._implementations[first].fs.mutex()
        self._stopped = False

    # ------------------------------------------------------------------------------------------ relations

    def open(self, address: RelationAddress, block_size: int = DEFAULT_BLOCK_SIZE, *, repair: bool = False) -> Relation:
        """A handle on a relation, which need not exist yet (`create` makes its forks).

        repair: cut a torn tail (less than a block) off each fork that has one.
        Raises `PageSizeMismatch` (it is open with another block size), `FileDamaged` (a file's size is not a
        multiple of the block size, or beyond the segment size).
        """
        implementation = self._implementation(address)
        layout = SegmentLayout(block_size, self._segment_size)
        with self._mutex:
            if self._stopped:
                raise FileClosed("the storage manager is shut down; no relation can be opened")
            shared = self._relations.get(address)
            if shared is None:
                shared = self._relations[address] = _Shared(implementation.open(address, layout))
            elif shared.opened.layout != layout:
                raise PageSizeMismatch(
                    f"relation {address} is open with blocks of {shared.opened.layout.block_size} bytes, "
                    f"not {block_size}"
                )
            shared.handles += 1
        relation = Relation(shared.opened)
        try:
            shared.opened.check(repair=repair)
        except BaseException:
            self.close(relation)
            raise
        return relation

    def close(self, relation: Relation) -> None:
        """Give a handle back; with the last one the relation's files are synced if need be, and closed.  Idempotent."""
        with self._mutex:
            if relation.closed:
                return
            relation.closed = True
            shared = self._relations.get(relation.address)
            if shared is None or shared.opened is not relation.opened:  # shut down
                return
            shared.handles -= 1
            if shared.handles:
                return
            del self._relations[relation.address]
        relation.opened.close()

    def create(self, relation: Relation, fork: Fork = Fork.MAIN, *, exist_ok: bool = False) -> None:
        """Make an empty fork.  Raises `FileExists` unless `exist_ok`, `NoSpace`.  Durable after the next sync of it."""
        self._opened(relation, fork).create(fork, exist_ok=exist_ok)

    def exists(self, address: RelationAddress, fork: Fork = Fork.MAIN) -> bool:
        """True if the fork exists."""
        _check_fork(fork)
        return self._implementation(address).exists(address, fork)

    def unlink(self, address: RelationAddress, forks: Sequence[Fork] = ALL_FORKS) -> None:
        """Remove the files of forks, at once and durably; what does not exist is passed over.

        Handles on the relation stay good (a fork can be created again); what is pending for the forks is forgotten.
        A removal that must wait for a checkpoint is made by calling this after it.
        """
        for fork in forks:
            _check_fork(fork)
        implementation = self._implementation(address)
        with self._mutex:
            shared = self._relations.get(address)
        if shared is not None:
            shared.opened.unlink(forks)
            return
        opened = implementation.open(address, SegmentLayout(MIN_BLOCK_SIZE, self._segment_size))
        try:
            opened.unlink(forks)
        finally:
            opened.close()

    def nblocks(self, relation: Relation, fork: Fork = Fork.MAIN) -> int:
        """How many blocks a fork has: looked up once, then kept right by every extension and truncation."""
        return self._opened(relation, fork).nblocks(fork)

    # ------------------------------------------------------------------------------------------ blocks

    def read(self, relation: Relation, fork: Fork, block: int) -> bytearray:
        """One block.  Raises `OutOfRange`, `PageIOError`."""
        buffer = bytearray(relation.block_size)
        self.readv(relation, fork, block, (buffer,))
        return buffer

    def readv(
        self,
        relation: Relation,
        fork: Fork,
        block: int,
        buffers: Sequence[ReadBuffer],
        *,
        in_recovery: bool = False,
    ) -> None:
        """Fill the buffers, each of one or more whole blocks, with the blocks from `block` on.

        in_recovery: blocks past the end read as zeros, as the log may mention what was truncated later.
        Raises `OutOfRange` (before anything is read), `PageIOError`, `WrongPageLength`.
        """
        opened = self._opened(relation, fork)
        count = _blocks_in(buffers, relation.block_size, writable=True)
        opened.readv(fork, _check_range(block, count), buffers, count, in_recovery=in_recovery)

    def try_readv_nowait(self, relation: Relation, fork: Fork, block: int, buffers: Sequence[ReadBuffer]) -> int | None:
        """The same without ever waiting: the number of blocks read, or None if some are not to be had at once.

        After None the buffers' content is undefined; call `readv` where blocking is allowed.
        """
        opened = self._opened(relation, fork)
        count = _blocks_in(buffers, relation.block_size, writable=True)
        return count if opened.try_readv_nowait(fork, _check_range(block, count), buffers, count) else None

    def write(self, relation: Relation, fork: Fork, block: int, data: WriteBuffer, *, skip_sync: bool = False) -> None:
        """Overwrite one block.  Raises as `writev`."""
        self.writev(relation, fork, block, (data,), skip_sync=skip_sync)

    def writev(
        self,
        relation: Relation,
        fork: Fork,
        block: int,
        buffers: Sequence[WriteBuffer],
        *,
        skip_sync: bool = False,
    ) -> None:
        """Overwrite existing blocks, from `block` on, with the buffers, each of one or more whole blocks.

        skip_sync: the caller sees to the sync (`immedsync`); else the next `sync` covers the files written.
        Raises `OutOfRange` (before anything is written), `WrongPageLength`, `NoSpace`, `WriteFailed`.
        """
        opened = self._opened(relation, fork)
        count = _blocks_in(buffers, relation.block_size)
        opened.writev(fork, _check_range(block, count), buffers, count, skip_sync=skip_sync)

    def extend(
        self,
        relation: Relation,
        fork: Fork,
        block: int,
        buffers: Sequence[WriteBuffer],
        *,
        skip_sync: bool = False,
    ) -> None:
        """Add blocks at or past the end; the gap, if any, is filled with zeros.  All are added or, on `NoSpace`
        or `Busy`, none; what then can neither be added nor be taken back is behind the end, until the fork's length
        changes or it is closed.

        Raises `OutOfRange` (the block exists: write it), `RequestTooLarge` (a fork has at most 2^32 - 1 blocks),
        `WrongPageLength`, `NoSpace`, `WriteFailed`.
        """
        opened = self._opened(relation, fork)
        count = _blocks_in(buffers, relation.block_size)
        opened.extend(fork, _check_range(block, count), buffers, count, skip_sync=skip_sync)

    def zero_extend(self, relation: Relation, fork: Fork, block: int, count: int, *, skip_sync: bool = False) -> None:
        """The same with `count` blocks of zeros, for which disk space is allocated.  Raises as `extend`."""
        opened = self._opened(relation, fork)
        _check_count(count)
        opened.zero_extend(fork, _check_range(block, count), count, skip_sync=skip_sync)

    def truncate(self, relation: Relation, blocks: Mapping[Fork, int], *, in_recovery: bool = False) -> None:
        """Cut forks to these numbers of blocks.  Segments left over stay, empty, and are used again.

        in_recovery: a fork that is shorter already is left as it is.
        Raises `OutOfRange` (longer than the fork is; nothing was changed), `WriteFailed`.
        """
        for fork, n in blocks.items():
            _check_fork(fork)
            if type(n) is not int or not 0 <= n <= MAX_BLOCKS:
                raise InvalidRequest(f"cannot truncate to {n!r} blocks: must be an int from 0 to {MAX_BLOCKS}")
        self._opened(relation, Fork.MAIN).truncate(blocks, in_recovery=in_recovery)

    def prefetch(self, relation: Relation, fork: Fork, block: int, count: int = 1) -> None:
        """Tell the kernel that these blocks will be read soon.  Blocks past the end are passed over."""
        opened = self._opened(relation, fork)
        _check_count(count)
        opened.prefetch(fork, _check_range(block, count), count)

    def writeback(self, relation: Relation, fork: Fork, block: int, count: int = 1) -> None:
        """Tell the kernel to begin writing these blocks out, so that a later sync has less to do.  No promise.

        Said with `POSIX_FADV_DONTNEED`, as PostgreSQL does where it has no `sync_file_range`: what is clean already
        leaves the kernel's cache.
        """
        opened = self._opened(relation, fork)
        _check_count(count)
        opened.writeback(fork, _check_range(block, count), count)

    # ------------------------------------------------------------------------------------------ durability

    def immedsync(self, relation: Relation, fork: Fork = Fork.MAIN) -> None:
        """Make a fork durable now: every segment, and the files' names.  Raises `SyncFailed`."""
        self._opened(relation, fork).immedsync(fork)

    def registersync(self, relation: Relation, fork: Fork = Fork.MAIN) -> None:
        """Have the next `sync` cover every segment of a fork, written by us or not."""
        self._opened(relation, fork).registersync(fork)

    def sync(self) -> int:
        """At a checkpoint: make durable all that was written or registered before this call.

        Returns how many files were synced.  If it fails, all that was not synced is still pending.
        Raises `SyncFailed`.
        """
        return sum(implementation.sync() for implementation in self._implementations.values())

    def shutdown(self) -> None:
        """Sync and close everything, even what comes after a failure.  A second call does nothing."""
        with self._mutex:
            stopped, self._stopped = self._stopped, True
            opened = [shared.opened for shared in self._relations.values()]
            self._relations.clear()
        if stopped:
            return
        with ExitStack() as stack:
            for relation in opened:
                stack.callback(relation.close)
            for implementation in self._implementations.values():
                stack.callback(implementation.shutdown)  # called first, while the files to sync are open

    # ------------------------------------------------------------------------------------------ checks

    def _implementation(self, address: RelationAddress) -> StorageFunctions:
        if not isinstance(address, RelationAddress):
            raise InvalidRequest(f"a relation is named by a RelationAddress, not {type(address).__name__}")
        return self._implementations[self._choose(address)]

    def _opened(self, relation: Relation, fork: Fork) -> OpenRelation:
        if relation.closed or self._stopped:
            raise FileClosed(f"relation {relation.address} was used after it was closed")
        _check_fork(fork)
        return relation.opened


def _check_fork(fork: Fork) -> None:
    if type(fork) is not Fork:
        raise InvalidRequest(f"a fork is one of Fork.MAIN, FSM, VM and INIT, not {fork!r}")


def _check_count(count: int) -> None:
    if type(count) is not int or not 1 <= count <= MAX_BLOCKS:
        raise InvalidRequest(f"block count {count!r}: must be an int from 1 to {MAX_BLOCKS}")


def _check_range(block: int, count: int) -> int:
    if type(block) is not int or not 0 <= block < MAX_BLOCKS:
        raise InvalidRequest(f"block {block!r}: must be an int from 0 to {MAX_BLOCKS - 1}")
    if block + count > MAX_BLOCKS:
        raise RequestTooLarge(f"blocks {block} to {block + count - 1}: the highest block of a fork is {MAX_BLOCKS - 1}")
    return block


def _blocks_in(
    buffers: Sequence[ReadBuffer] | Sequence[WriteBuffer], block_size: int, *, writable: bool = False
) -> int:
    """How many blocks the buffers hold.  Raises `InvalidRequest`, `WrongPageLength`."""
    if not isinstance(buffers, (list, tuple)) or not buffers:
        raise InvalidRequest("buffers must be given as a list or tuple of at least one")
    total = 0
    for buffer in buffers:
        kind = type(buffer)
        if kind is bytearray or (kind is bytes and not writable):
            length = len(buffer)
        elif isinstance(buffer, memoryview) and buffer.c_contiguous and not (writable and buffer.readonly):
            length = buffer.nbytes
        else:
            wanted = "a bytearray or writable memoryview" if writable else "bytes, bytearray or a memoryview"
            raise InvalidRequest(f"a buffer must be {wanted} of contiguous bytes, not {kind.__name__}")
        if not length or length % block_size:
            raise WrongPageLength(f"a buffer of {length} bytes is not whole blocks of {block_size} bytes")
        total += length
    return total // block_size
