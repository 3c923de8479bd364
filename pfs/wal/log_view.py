"""A log opened for looking at: nothing is changed and nothing locked.

So it can be looked at while a system uses it, or after recovery refused it.  Of a log in use one sees what was written
when each segment was read; segments that are recycled meanwhile are an error, and the look can be repeated.

What can be looked at is more than what recovery needs: the log from its oldest segment on.  The oldest is found from
the redo point backwards, since what lies before a gap is not connected to the log any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pfs.errors import InvalidRequest, WalDamaged, WalSegmentMissing
from pfs.files.filesystem import FileSystem
from pfs.wal.control_file import CONTROL_FILE, MAKING, STOPPED, ControlData, newest_slot, read_slots
from pfs.wal.log_files import LogFiles
from pfs.wal.lsn import SEGMENT_HEADER_SIZE, first_lsn, format_lsn
from pfs.wal.reader import LogReader, LogScan, check_tail


class LogEnd(NamedTuple):
    """Where the log ends, and why there."""

    lsn: int
    reason: str
    torn_bytes: int
    """How much lies behind the end that a crash left; recovery cuts it off."""


@dataclass
class LogView:
    """The log of a data directory (see the module).  Raises `FileMissing`, `ControlFileDamaged`.

    Every call may block and raise `ReadFailed`, `ForeignWalSegment`.
    """

    fs: FileSystem
    slots: list[ControlData | None] = field(init=False)
    """What the slots of the control file say; None for one that is not valid."""
    control: ControlData = field(init=False)
    files: LogFiles = field(init=False)
    reader: LogReader = field(init=False)

    def __post_init__(self) -> None:
        self.slots = read_slots(self.fs)
        self.control = control = newest_slot(self.slots, CONTROL_FILE)
        self.files = LogFiles(
            self.fs, system_id=control.system_id, segment_size=control.segment_size, timeline=control.timeline
        )
        self.reader = LogReader(self.files)

    @property
    def redo_lsn(self) -> int:
        """Where recovery begins."""
        return self.control.redo_lsn or first_lsn(self.files.segment_size)

    def oldest(self) -> int:
        """Where the first record is of those that lead to the redo point without a gap."""
        return self.files.oldest(self.redo_lsn)

    def start_for(self, lsn: int) -> int:
        """Where to begin reading in order to meet all records from a position on: there, or not far before it.

        Raises `WalSegmentMissing`; `InvalidRequest` if the position is behind all segments.
        """
        oldest, size = self.oldest(), self.files.segment_size
        if lsn <= oldest:
            return oldest
        if lsn >= self.files.end_of_segments():
            raise InvalidRequest(
                f"LSN {format_lsn(lsn)} is behind the last WAL segment, which ends at "
                f"{format_lsn(self.files.end_of_segments())}"
            )
        try:
            return self.reader.record_at(lsn).lsn
        except WalDamaged:  # no record begins there
            return lsn // size * size + SEGMENT_HEADER_SIZE

    def scan(self, start: int | None = None) -> LogScan:
        """The records from a position on; without one, from the redo point."""
        return LogScan(self.reader, self.redo_lsn if start is None else start, self.control.epoch)

    def end(self, scan: LogScan) -> LogEnd:
        """What the end of a finished scan is.  Raises `WalDamaged`, `WalSegmentMissing` if there was more of it."""
        if not scan.records:  # it may have begun behind the end
            scan = self.scan()
            for _ in scan:
                pass
        control = self.control
        if control.state == MAKING:
            return LogEnd(scan.end, "it is being made", 0)
        if control.state == STOPPED and scan.prev_lsn == control.checkpoint_lsn:
            return LogEnd(scan.end, "the system was stopped in order", 0)
        leftover = self.reader.look_ahead(scan.end, scan.epoch)
        try:
            check_tail(self.files, scan, leftover, max(control.durable_hint, control.checkpoint_lsn + 1))
        except (WalDamaged, WalSegmentMissing):
            if not self._has_grown(scan):
                raise
            return LogEnd(scan.end, "the system that uses the log had not written more when it was read", 0)
        return LogEnd(scan.end, scan.reason, leftover.end - scan.end)

    def _has_grown(self, scan: LogScan) -> bool:
        """True if by now the log goes on where a scan ended: it is in use."""
        now = LogView(self.fs)
        record = next(iter(now.scan(scan.end)), None)
        return record is not None and record.prev_lsn == scan.prev_lsn and record.epoch >= scan.epoch
