"""Healing: the newest committed image of a page, found in the log, for a page that is damaged on disk.

If the sidecar still says which COMMIT the page is of, only that transaction is read.  If not, the whole log is, from
its oldest segment on: the last committed image that it has of a page is the newest there is, as the log holds
everything that was committed since it begins; unless a bulk append, which logs no images, wrote the page later.  Where
the log is damaged or has a gap, only what is behind that counts: what is before it may not be the newest.

Nothing is found if the log no longer reaches back so far.  What is found for a record is checked against it.
"""

from __future__ import annotations

from typing import NamedTuple

from pfs.errors import FatalError, FileMissing
from pfs.wal.bodies import COMMIT, PAGE_IMAGE
from pfs.wal.log_files import LogFiles
from pfs.wal.lsn import SEGMENT_HEADER_SIZE
from pfs.wal.reader import LogReader, LogScan
from pfs.wal.records import decode_commit, image_index, image_page
from pfs.wal.redo import Redo
from pfs.wal.sidecar import PageRecord, page_matches


class FoundPage(NamedTuple):
    """A page as a committed transaction wrote it, with the LSNs of its COMMIT and of its first record."""

    page: bytes
    lsn: int
    first_lsn: int


def find_page(
    files: LogFiles, file_id: int, pgid: int, record: PageRecord | None, *, redo_lsn: int, durable: int
) -> FoundPage | None:
    """The page that a sidecar record is of, or (no record, or one that was lost) the newest; None if it is not there.

    redo_lsn: where recovery would begin; durable: the log is durable up to here, and so must be there.
    May block, and read the whole log.  The log may be in use meanwhile.
    """
    try:
        if record is None or record.checksum is None:
            return _newest(files, file_id, pgid, redo_lsn, durable)
        found = _image_of(LogReader(files), record.lsn, pgid)
    except (FatalError, FileMissing):  # a log that is damaged too, or is no longer there, heals nothing
        return None
    if found is None or not page_matches(record, found.page, file_id, pgid):
        return None
    return found


def _image_of(reader: LogReader, commit_lsn: int, pgid: int) -> FoundPage | None:
    commit = decode_commit(reader.record_at(commit_lsn, only=COMMIT))
    index = pgid - commit.pgid
    for record in LogScan(reader, commit.first_lsn):
        if record.lsn >= commit_lsn:
            break
        if record.type == PAGE_IMAGE and record.transaction == commit.transaction and image_index(record) == index:
            return FoundPage(image_page(record), commit_lsn, commit.first_lsn)
    return None


def _newest(files: LogFiles, file_id: int, pgid: int, redo_lsn: int, durable: int) -> FoundPage | None:
    """The newest committed image of a page.

    Only a part of the log without a gap up to its end can tell which is the newest.
    """
    reader = LogReader(files)
    start = files.oldest(redo_lsn)
    while start < durable:
        redo = Redo(start)
        scan = LogScan(reader, start)
        for record in scan:
            redo.add(record)
        if scan.end >= durable:
            source = redo.plan().pages.get(file_id, {}).get(pgid)
            if source is None:
                return None
            commit = decode_commit(reader.record_at(source.commit_lsn, only=COMMIT))
            page = image_page(reader.record_at(source.image_lsn, only=PAGE_IMAGE))
            return FoundPage(page, source.commit_lsn, commit.first_lsn)
        start = (scan.end // files.segment_size + 1) * files.segment_size + SEGMENT_HEADER_SIZE
    return None
