"""Reading a log that others write meanwhile, further and further.

A record that is being written looks, to whoever reads beside the writer, as damage does.  What tells them apart is what
vouches for it: what a record behind the end vouches for was durable before that record was found, so it can be read
now; if it still cannot, it is damaged.
"""

from __future__ import annotations

from typing import NamedTuple

from pfs.files.filesystem import FileSystem
from pfs.wal.bodies import CHECKPOINT, COMMIT, CREATE, Create
from pfs.wal.control_file import ControlData
from pfs.wal.log_files import LogFiles
from pfs.wal.lsn import SEGMENT_HEADER_SIZE
from pfs.wal.reader import LogReader, LogScan, check_tail
from pfs.wal.records import decode_body, decode_commit


class BulkAppended(NamedTuple):
    """Pages that were appended without images."""

    file_id: int
    pgid: int
    n: int


class GrowingLog:
    """The log of a directory from a redo point on, read further and further while it grows."""

    def __init__(self, fs: FileSystem, data: ControlData) -> None:
        self._data = data
        self._files = LogFiles(fs, system_id=data.system_id, segment_size=data.segment_size, timeline=data.timeline)
        self._reader = LogReader(self._files)
        self._scan = LogScan(self._reader, data.redo_lsn, data.epoch)
        self._bulk: list[BulkAppended] = []
        self.page_sizes: dict[int, int] = {}
        """Of files that were made since the redo point."""

    @property
    def end(self) -> int:
        """Up to where the log was read."""
        return self._scan.end

    @property
    def last_segment(self) -> int:
        """The last segment that a copy needs: after a SEGMENT_SWITCH the one that it leads to, though still empty."""
        last = self.end if self._scan.switched else self.end - SEGMENT_HEADER_SIZE - 1
        return last // self._data.segment_size

    def take_bulk(self) -> list[BulkAppended]:
        """The bulk appends that were found since the last call."""
        taken, self._bulk = self._bulk, []
        return taken

    def read_on(self, durable: int) -> None:
        """Read up to the end of the log, which is beyond everything that was durable when this was called.

        durable: so far it must be readable at least.  Raises `WalDamaged`, `WalSegmentMissing`, `ForeignWalSegment`.
        """
        scan = self._scan
        self._read()
        leftover = self._reader.look_ahead(scan.end, scan.epoch)
        if leftover.voucher is not None and self._read():
            leftover = leftover._replace(voucher=None)
        while scan.switched and scan.missing is not None and self._read():
            pass  # the segment that the log goes on in was made after the names were listed
        check_tail(self._files, scan, leftover, durable)

    def _read(self) -> bool:
        """Read on; whether there was more."""
        before = self._scan.end
        self._files.look_again()
        self._reader.forget()
        for record in self._scan:
            if record.type == COMMIT:
                commit = decode_commit(record)
                if commit.bulk:
                    self._bulk.append(BulkAppended(record.file_id, commit.pgid, commit.n))
            elif record.type == CREATE:
                body = decode_body(record)
                assert isinstance(body, Create)
                self.page_sizes[record.file_id] = body.page_size
        self._reader.forget()
        return self._scan.end > before

    def check_checkpoint(self) -> None:
        """Raise `WalDamaged` unless the checkpoint that the control file names is there."""
        self._reader.record_at(self._data.checkpoint_lsn, only=CHECKPOINT)

    def path(self, segment: int) -> str:
        return self._files.path(segment)

    def segment(self, number: int) -> memoryview:
        """The content of a segment that was read."""
        segment = self._files.read(number)
        assert segment is not None
        return segment.content
