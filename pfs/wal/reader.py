"""Reading the log: from a position to its end, and what the end is.

A record is valid if it is whole (`records.decode`: magic, length, checksum, its own position) and follows from the one
before it: it names it as its predecessor, and its epoch is not lower (nor higher than any that ever began).  The log
ends before the first position where no valid record is.

Why it ends there is the question that decides between cutting and refusing.  A crash leaves a *torn tail*: of the last
batches, never acknowledged, anything may be missing.  But if something vouches that the log was durable beyond that
position, then bytes were lost that were safe once, and cutting would lose acknowledged writes: that is *damage*.  Those
who vouch: a record found anywhere behind the end, whole and at its place, whose `durable_upto` lies beyond the end;
the CHECKPOINT that the control file names; and the control file's durable hint.

Segments vouch too.  Each gets its name only when it is whole and synced, and is never cut; so where the log ends in a
segment that is shorter, or in one whose header is not valid though records lie in it, that was no crash either.

Sources: Alagappan and others, "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018 (telling a crash from
corruption); PostgreSQL's `xlogreader.c` (validity by position, predecessor and checksum).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from pfs.errors import WalDamaged, WalSegmentMissing
from pfs.wal.bodies import SEGMENT_SWITCH
from pfs.wal.log_files import LogFiles, Segment
from pfs.wal.lsn import ALIGNMENT, SEGMENT_HEADER_SIZE, format_lsn
from pfs.wal.records import (
    HEADER_SIZE,
    MAGIC_BYTES,
    Record,
    decode,
    is_placed_at,
    seed_of,
)


class Leftover(NamedTuple):
    """What lies behind the end of the log and says that it belongs there.

    end: where the last of it ends, as far as its headers can be trusted; the end of the log if there is nothing.
    voucher: the first whole record that vouches for a position beyond the end of the log, if there is one.
    """

    end: int
    voucher: Record | None


class LogReader:
    """Reads the log of a data directory.  For one thread; reads whole segments, one at a time.

    Every call may raise `ReadFailed` and `ForeignWalSegment`.
    """

    def __init__(self, files: LogFiles) -> None:
        self._files = files
        self._size = files.segment_size
        self._seed = seed_of(files.system_id)
        self._segment: Segment | None = None

    # ------------------------------------------------------------------------------------------ one record

    def record_at(self, lsn: int, *, only: int | None = None) -> Record:
        """The record at a position, of type `only` if given.  Raises `WalSegmentMissing`, `WalDamaged`."""
        segment = self._read(lsn // self._size)
        if segment is None:
            raise self._missing(lsn)
        record = decode(segment.content, lsn % self._size, lsn, self._seed)
        if record is None or (only is not None and record.type != only):
            raise WalDamaged(
                f"there is no valid record{'' if only is None else ' of the wanted type'} at LSN {format_lsn(lsn)} "
                f"in WAL segment {self._files.path(segment.number)!r}, though one was durable there"
            )
        return record

    # ------------------------------------------------------------------------------------------ the end

    def look_ahead(self, end: int, epoch: int) -> Leftover:
        """Search everything behind the end of the log for records at their place, of this epoch or a later one.

        epoch: that of the last record of the log.
        """
        leftover_end = end
        first = end // self._size
        for number in self._files.segments():
            if number < first:
                continue
            segment = self._read(number)
            assert segment is not None
            view, base = segment.content, number * self._size
            content = view.obj
            assert isinstance(content, bytearray)
            offset = content.find(MAGIC_BYTES, max(end - base, SEGMENT_HEADER_SIZE))
            while offset >= 0:
                lsn = base + offset
                if offset % ALIGNMENT == 0 and is_placed_at(view, offset, lsn):
                    record = decode(view, offset, lsn, self._seed)
                    leftover_end = max(leftover_end, lsn + HEADER_SIZE if record is None else record.end)
                    if record is not None and record.epoch >= epoch and record.durable_upto > end:
                        return Leftover(leftover_end, record)
                offset = content.find(MAGIC_BYTES, offset + 1)
        return Leftover(leftover_end, None)

    def segment(self, number: int) -> Segment | None:
        """A segment's content; None if it does not exist.  The last one read is kept."""
        return self._read(number)

    def forget(self) -> None:
        """Drop the segment that is kept: it was changed."""
        self._segment = None

    @property
    def segment_size(self) -> int:
        return self._size

    @property
    def seed(self) -> int:
        return self._seed

    def _read(self, number: int) -> Segment | None:
        if self._segment is None or self._segment.number != number:
            self._segment = self._files.read(number)
        return self._segment

    def _missing(self, lsn: int) -> WalSegmentMissing:
        path = self._files.path(lsn // self._size)
        return WalSegmentMissing(
            f"WAL segment {path!r} is missing, and LSN {format_lsn(lsn)} in it is needed; put it back, or restore the "
            "directory from a backup"
        )


class LogScan:
    """The valid records from a position on: iterate it, then ask where it ended.

    To iterate it again is to go on from there, for when the log has grown (`LogReader.forget` comes first).

    start: where a record begins, or could begin: the end of a record will do, unless it is a SEGMENT_SWITCH.
    newest_epoch: no record of a later epoch is valid (the control file has the highest ever used).
    """

    def __init__(self, reader: LogReader, start: int, newest_epoch: int = 0xFFFFFFFF) -> None:
        self._reader = reader
        self._newest_epoch = newest_epoch
        self.end = start
        """Where the next record would be: after the last valid one."""
        self.prev_lsn = 0
        """The last valid record, 0 if there was none."""
        self.epoch = 0
        """The epoch of the last valid record."""
        self.vouched = 0
        """The highest `durable_upto` of a valid record: up to there the log is durable for certain."""
        self.records = 0
        """How many valid records there were."""
        self.reason = "nothing was read yet"
        """Why the scan ended, in words."""
        self.missing: int | None = None
        """The number of the segment where it ended because that does not exist."""
        self.short = False
        """Whether the segment where it ended is shorter than a segment is."""
        self.headless = False
        """Whether the header of the segment where it ended is not valid."""
        self.switched = False
        """Whether the last valid record is a SEGMENT_SWITCH, which is logged only once the next segment exists."""

    def __iter__(self) -> Generator[Record]:
        reader, seed, size = self._reader, self._reader.seed, self._reader.segment_size
        position = self.end
        self.missing, self.short, self.headless = None, False, False
        while True:
            offset = position % size
            if offset < SEGMENT_HEADER_SIZE:
                position += SEGMENT_HEADER_SIZE - offset
            elif offset + HEADER_SIZE > size:
                position += size - offset + SEGMENT_HEADER_SIZE
            self.end = position
            number = position // size
            segment = reader.segment(number)
            if segment is None:
                self.reason, self.missing = "the next segment does not exist", number
                return
            self.short, self.headless = len(segment.content) < size, segment.header is None
            if self.short:
                self.reason = f"its segment has {len(segment.content)} bytes, and not {size}"
            if self.headless:
                self.reason = "the header of its segment is not valid"
                return
            view, base = segment.content, number * size
            last = size - HEADER_SIZE
            while (offset := position - base) <= last:
                record = decode(view, offset, position, seed)
                if record is None:
                    if not self.short:
                        self.reason = "no whole record is there"
                    return
                if not self._follows(record):
                    return
                self.prev_lsn = record.lsn
                self.epoch = record.epoch
                self.switched = record.type == SEGMENT_SWITCH
                if record.durable_upto > self.vouched:
                    self.vouched = record.durable_upto
                self.records += 1
                position = record.end
                if record.type == SEGMENT_SWITCH:
                    position = base + size
                self.end = position
                yield record
                if record.type == SEGMENT_SWITCH:
                    break

    def _follows(self, record: Record) -> bool:
        if record.epoch > self._newest_epoch:
            self.reason = f"the record there is of epoch {record.epoch}, which never began"
        elif not self.records:
            return True
        elif record.prev_lsn != self.prev_lsn:
            self.reason = "the record there names another predecessor"
        elif record.epoch < self.epoch:
            self.reason = f"the record there is of epoch {record.epoch}, after epoch {self.epoch}"
        else:
            return True
        return False


def check_tail(files: LogFiles, scan: LogScan, leftover: Leftover, durable_hint: int) -> None:
    """Raise if a finished scan did not end where a crash can have ended the log.

    durable_hint: a position up to which the log was durable, from elsewhere (control file, last checkpoint).
    Raises `WalSegmentMissing` if a whole segment is not there, else `WalDamaged`.
    """
    end = scan.end
    voucher = leftover.voucher
    if voucher is not None:
        durable = (
            f"the record at {format_lsn(voucher.lsn)} says that it was durable to {format_lsn(voucher.durable_upto)}"
        )
    elif durable_hint > end:
        durable = f"the control file says that it was durable to {format_lsn(durable_hint)}"
    elif scan.missing is not None and scan.switched:
        durable = f"the record at {format_lsn(scan.prev_lsn)} says that the log goes on there"
    elif scan.short:
        durable = "no crash makes a segment shorter"
    elif scan.headless and leftover.end > end:
        durable = "there are records, and no crash damages the header of a segment"
    else:
        return
    consequence = "acknowledged writes would be lost, so nothing is changed"
    if scan.missing is not None:
        raise WalSegmentMissing(
            f"WAL segment {files.path(scan.missing)!r} is missing: {durable}; {consequence}; put the segment back, or "
            "restore the directory from a backup"
        )
    raise WalDamaged(
        f"the WAL cannot be read beyond LSN {format_lsn(end)} ({scan.reason}), but {durable}; {consequence}; repair "
        "the WAL, or restore the directory from a backup"
    )
