"""The records and the control slot of a checkpoint, made and read back.

The order that whoever makes a checkpoint keeps, and that makes it safe at every moment of it:

1. take `LogBuffer.redo_point()`; everything settled before it is in the buffer pool;
2. write and sync what was dirty then: pages, sidecar blocks, file sizes, names;
3. `insert_checkpoint`, and wait until its record is durable;
4. `record_checkpoint`: from here on recovery begins at the new redo point;
5. recycle the segments below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from pfs.errors import InvalidRequest
from pfs.wal.bodies import CHECKPOINT, PAGE_COUNTS, Checkpoint, PageCounts
from pfs.wal.checkpoint_room import PAIRS_PER_RECORD
from pfs.wal.control_file import IN_USE, STOPPED, ControlData, ControlFile
from pfs.wal.log_buffer import LogBuffer, Place
from pfs.wal.log_files import LogFiles
from pfs.wal.lsn import format_lsn
from pfs.wal.reader import Leftover, LogReader, LogScan, check_tail
from pfs.wal.records import Record, decode_checkpoint, decode_page_counts


def insert_checkpoint(
    buffer: LogBuffer,
    *,
    redo_lsn: int,
    page_counts: Mapping[int, int],
    next_file_id: int,
    next_transaction: int,
    shutdown: bool = False,
) -> Place:
    """Log PAGE_COUNTS records and a CHECKPOINT; the place of the latter.

    redo_lsn: what `LogBuffer.redo_point()` was when the checkpoint began; for a shutdown, what it is now.
    page_counts: of every file, by id, as of now: after all COMMITs in the log, durable or not.  All in one step, as
    `checkpoint_room` supposes.  Raises `NoSpace`.
    """
    first = 0
    pairs = iter(page_counts.items())
    while part := tuple(islice(pairs, PAIRS_PER_RECORD)):
        place = buffer.insert_reserved(PageCounts(part))
        first = first or place.lsn
    return buffer.insert_reserved(Checkpoint(redo_lsn, first, next_file_id, next_transaction, shutdown))


def record_checkpoint(
    control: ControlFile, place: Place, redo_lsn: int, durable: int, *, shutdown: bool = False
) -> ControlData:
    """Have recovery begin at a checkpoint whose record, at `place`, is durable.

    durable: everything before it is (`LogBuffer.flushed`); at least `place.end`.  shutdown: no record follows.
    """
    if durable < place.end:
        raise InvalidRequest(
            f"the checkpoint at LSN {format_lsn(place.lsn)} is durable only to {format_lsn(durable)}: flush it first"
        )
    state = STOPPED if shutdown else IN_USE
    return control.write(state=state, checkpoint_lsn=place.lsn, redo_lsn=redo_lsn, durable_hint=durable)


def read_checkpoint(
    files: LogFiles, reader: LogReader, control: ControlData
) -> tuple[Record, Checkpoint, dict[int, int]]:
    """The record of the last checkpoint, what it says, and the page counts that it recorded, by file id.

    Raises `WalDamaged`, `WalSegmentMissing`, `ForeignWalSegment`, `ReadFailed`.
    """
    record = reader.record_at(control.checkpoint_lsn, only=CHECKPOINT)
    checkpoint = decode_checkpoint(record)
    counts: dict[int, int] = {}
    if checkpoint.page_counts_lsn:
        scan = LogScan(reader, checkpoint.page_counts_lsn, control.epoch)
        for each in scan:
            if each.type == PAGE_COUNTS:
                counts.update(decode_page_counts(each))
            if each.lsn == control.checkpoint_lsn:
                break
        else:
            check_tail(files, scan, Leftover(scan.end, None), control.checkpoint_lsn + 1)
    return record, checkpoint, counts
