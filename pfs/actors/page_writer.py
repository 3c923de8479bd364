"""Writes dirty pages to their data files, a few groups at a time.  A part of the `Checkpointer`.

A *group* is runs of pages of one file, in the order of their pages.  Its way: the sidecar blocks that it changes, of
which the log has no image yet, are read; their images are logged and made durable (`pfs.wal.sidecar` says why); a
worker writes the pages.  A group that cannot go on ends, and its pages stay dirty.

The log reaches the disk before the data: `DirtyPages.take` gives only pages whose COMMIT is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain, groupby
from typing import Any

import msgspec

from pfs.actors import Address
from pfs.actors.file_worker import Carry
from pfs.actors.wal_server import RoomMade, WalFlush
from pfs.cache.dirty_pages import DirtyPages, DirtyRun
from pfs.errors import NoSpace, PfsError
from pfs.files.checked_file import CheckedFile
from pfs.files.sidecar_file import Blocks
from pfs.wal.bodies import SidecarImage
from pfs.wal.shared_log import SharedLog
from pfs.wal.sidecar import locate
from pfs.wal.sidecar_images import SidecarImages

GROUPS_IN_FLIGHT = 4
"""How many groups of pages are on their way to the disk at a time."""

GROUP_PAGES = 64
"""The most pages of a group: what goes to a worker in one message, since each costs two changes of threads."""

Group = tuple[DirtyRun, ...]
"""Runs of one file that are written together, in the order of their pages."""


class Written(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a group has been written."""

    group: Group


class BlocksRead(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: sidecar blocks are read, whose images a group needs in the log."""

    group: Group
    blocks: tuple[int, ...]


class ImagesFlushed(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: the images that a group needs are durable."""

    group: Group


class LogFlushed(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: the log of dirty pages is durable, so that they may be written."""


class PageWriter:
    """Has groups of dirty pages written (see the module).

    `owner`: the actor to which all answers go, which hands those with a token of this module on.
    """

    def __init__(
        self,
        owner: Address,
        dirty: DirtyPages,
        log: SharedLog,
        files: dict[int, CheckedFile],
        wal: Address,
        writer_of: Callable[[int], Address],
        images: SidecarImages,
    ) -> None:
        self._owner = owner
        self._dirty = dirty
        self._log = log
        self._files = files
        self._wal = wal
        self._writer_of = writer_of
        self._images = images
        self._flushing = False
        self.in_flight = 0
        """How many groups are on their way."""
        self.pages_written = 0

    def write(self, below: int | None) -> None:
        """Send more groups on their way, oldest pages first; `below`: only of pages whose `first_lsn` is below this."""
        while self.in_flight < GROUPS_IN_FLIGHT:
            runs = self._dirty.take(GROUP_PAGES, self._log.buffer.flushed, below)
            if not runs:
                self._flush_first()
                return
            runs.sort(key=_place)
            for _, group in groupby(runs, _file_id):
                self.in_flight += 1
                self._send(tuple(group))

    def carried(self, token: Written | BlocksRead, result: Any, error: PfsError | None) -> None:
        """A worker's answer to what was sent with one of these tokens.

        Raises the worker's error, or `NoSpace` if the log has no room for images; the pages of the group stay dirty.
        """
        if error is None:
            try:
                if isinstance(token, BlocksRead):
                    self._log_blocks(token, result)
                else:
                    self._written(token.group)
                return
            except NoSpace as no_space:
                error = no_space
        # Also the runs that were written before one that could not be.
        self._end(token.group, self._dirty.not_written)
        raise error

    def flushed(self, token: ImagesFlushed | LogFlushed) -> None:
        """The log is as durable as was asked with one of these tokens."""
        if isinstance(token, ImagesFlushed):
            self._write_logged(token.group)
        else:
            self._flushing = False

    def _flush_first(self) -> None:
        """No page may be written now: if none is on its way, that is because their log is not flushed."""
        if len(self._dirty) and not self.in_flight and not self._flushing:
            self._flushing = True
            self._wal.tell(WalFlush(None, self._owner, LogFlushed()))

    def _send(self, group: Group) -> None:
        flushed = self._log.buffer.flushed
        assert all(max(run.lsns) < flushed for run in group), "a page must not reach the disk before its log"
        file_id = group[0].file_id
        missing = self._images.missing(file_id, _blocks_of(group))
        if missing:
            call = partial(self._files[file_id].sidecar_blocks, missing)
            self._writer_of(file_id).tell(Carry(call, self._owner, BlocksRead(group, missing)))
        else:
            self._write_logged(group)

    def _log_blocks(self, token: BlocksRead, blocks: Blocks) -> None:
        file_id = token.group[0].file_id
        if file_id not in self._log.page_counts:
            # Dropped meanwhile: behind its DROP the log must not speak of it, and its pages are dirty no more.
            self._end(token.group, self._dirty.written)
            return
        missing = self._images.missing(file_id, token.blocks)  # another group may have logged some meanwhile
        buffer = self._log.buffer
        if buffer.room < len(missing) * buffer.slot and not all(map(self._dirty.unchanged, token.group)):
            # The slots that were kept for these images may have gone with the pages (`pfs.wal.checkpoint_room`).
            self._end(token.group, self._dirty.not_written)
            return
        for number, block in zip(token.blocks, blocks, strict=True):
            if number in missing:
                end = 0  # a block that is damaged has nothing to lose
                if block is not None:
                    end = buffer.insert_reserved(SidecarImage(file_id, number, block)).end
                self._images.add(file_id, number, end)
        self._write_logged(token.group)

    def _write_logged(self, group: Group) -> None:
        file_id = group[0].file_id
        end = self._images.end(file_id, _blocks_of(group))
        if end > self._log.buffer.flushed:
            self._wal.tell(WalFlush(end, self._owner, ImagesFlushed(group)))
            return
        call = partial(_write_group, self._files[file_id], group, self._owner.is_alive)
        self._writer_of(file_id).tell(Carry(call, self._owner, Written(group)))

    def _written(self, group: Group) -> None:
        was_short = self._log.wants_clean_pages
        self._end(group, self._dirty.written)
        self.pages_written += sum(len(run.pages) for run in group)
        if was_short:
            self._wal.tell(RoomMade())

    def _end(self, group: Group, end_of_run: Callable[[DirtyRun], None]) -> None:
        self.in_flight -= 1
        for run in group:
            end_of_run(run)


def _place(run: DirtyRun) -> tuple[int, int]:
    return run.file_id, run.pgid


def _file_id(run: DirtyRun) -> int:
    return run.file_id


def _blocks_of(group: Group) -> list[int]:
    """The sidecar blocks that a group changes, each once."""
    blocks = (range(locate(run.pgid)[0], locate(run.pgid + len(run.pages) - 1)[0] + 1) for run in group)
    return list(dict.fromkeys(chain.from_iterable(blocks)))


def _write_group(file: CheckedFile, group: Group, alive: Callable[[], bool]) -> None:
    for run in group:
        if alive():  # else the system has failed meanwhile, and nothing more may be written
            file.write(run.pgid, run.pages, run.lsns)
