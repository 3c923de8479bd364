"""Healing: the newest committed image of a page, found in the log, for a page that is damaged on disk.

The page and its sidecar record do not match: either may be what was damaged, and a record that is whole may be of an
earlier time, where the disk lost a write of its block.  So what the record says is no guide to the page.  The log is:
it holds everything that was committed since it begins, so the last committed image that it has of a page is the newest
there is; unless a bulk append, which logs no images, wrote the page later.  If the record names a COMMIT that the log
still has, the log from that transaction on is read first, and all of it only if the page is not found there: what
committed later may have begun earlier.

Only a part of the log that leads to its end without a gap can tell which image is the newest.  Where it is damaged, is
missing, or is of another system, only what is behind that counts.

Nothing is found if the log no longer reaches back so far.  An image that is older than the record, or that is of the
same COMMIT and does not match it, is not taken: the log lacks what the record is of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from pfs.errors import FatalError, FileMissing, ForeignWalSegment
from pfs.wal.bodies import COMMIT, PAGE_IMAGE
from pfs.wal.log_files import LogFiles
from pfs.wal.lsn import SEGMENT_HEADER_SIZE
from pfs.wal.reader import LogReader, LogScan
from pfs.wal.records import decode_commit, image_page
from pfs.wal.redo import Redo
from pfs.wal.sidecar import PageRecord, page_matches


class FoundPage(NamedTuple):
    """A page as a committed transaction wrote it, with the LSNs of its COMMIT and of its first record."""

    page: bytes
    lsn: int
    first_lsn: int


def find_page(
    files: LogFiles,
    file_id: int,
    pgid: int,
    record: PageRecord | None,
    *,
    redo_lsn: int,
    durable: int,
    unsettled: Collection[int] = (),
) -> FoundPage | None:
    """The newest committed page of a number; None if the log does not have it.

    record: what the sidecar says of it.  redo_lsn: where recovery would begin.  durable: the log is durable up to here,
    so it must be there, and what is behind it does not count.  unsettled: transactions before that which nobody may see
    yet, though their COMMIT may be there.

    May block, and read the whole log.  The log may be in use meanwhile.
    """
    reader = LogReader(files)
    found = None
    try:
        for start in _starts(files, reader, record, redo_lsn):
            found = _newest(files, reader, start, file_id, pgid, durable, unsettled)
            if found is not None:
                break
    except (FatalError, FileMissing):  # a log that contradicts itself, or is no longer there, heals nothing
        return None
    if found is None or record is None or record.checksum is None or record.lsn < found.lsn:
        return found
    return found if record.lsn == found.lsn and page_matches(record, found.page, file_id, pgid) else None


def _starts(files: LogFiles, reader: LogReader, record: PageRecord | None, redo_lsn: int) -> Iterator[int]:
    """Where to begin reading: where the record's transaction does, if the log has that; and where the log does."""
    if record is not None and record.checksum is not None:
        commit = None
        with suppress(FatalError):  # it is older than the log, or where that is damaged
            commit = decode_commit(reader.record_at(record.lsn, only=COMMIT))
        if commit is not None:
            yield commit.first_lsn
    yield files.oldest(redo_lsn)


def _newest(
    files: LogFiles, reader: LogReader, start: int, file_id: int, pgid: int, durable: int, unsettled: Collection[int]
) -> FoundPage | None:
    """The newest committed image of a page, in the longest part of the log that leads to its end."""
    while start < durable:
        redo = Redo(start)
        scan = LogScan(reader, start)
        try:
            for record in scan:
                if record.lsn >= durable:
                    break
                if record.transaction not in unsettled:
                    redo.add(record)
        except ForeignWalSegment:
            pass  # a gap
        if scan.end >= durable:
            source = redo.plan().pages.get(file_id, {}).get(pgid)
            if source is None:
                return None
            commit = decode_commit(reader.record_at(source.commit_lsn, only=COMMIT))
            page = image_page(reader.record_at(source.image_lsn, only=PAGE_IMAGE))
            return FoundPage(page, source.commit_lsn, commit.first_lsn)
        start = (scan.end // files.segment_size + 1) * files.segment_size + SEGMENT_HEADER_SIZE
    return None
