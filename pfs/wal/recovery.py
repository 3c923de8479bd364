"""Starting the log of a data directory: making it, or recovering from whatever the last end left.

    1. the control file says where the last checkpoint is; its record and its page counts are read
    2. the log is read from the redo point to its end, and the plan of the redo worked out (`pfs.wal.redo`)
    3. the end is examined: a torn tail is cut, damage is refused (`pfs.wal.reader`)
    4. a new epoch is written to the control file: every start has its own, even one that fails half-way
    5. the tail is secured: what was torn is kept aside and erased; what is not vouched for as durable is written again
    6. the catalog is changed; EPOCH is logged, and the sidecar blocks that the next step changes, as they are now
    7. the plan is carried out on the data files, and they are synced
    8. CHECKPOINT is logged; the control file says that recovery begins at the EPOCH from now on

Up to step 8 nothing moves the redo point, so a crash anywhere in between begins again at 1 and arrives at the same
state.  Step 5 comes before step 7, since it makes the log durable before the data that follow from it; and it writes
again because, after a failed sync, what the system's cache holds of the log need not be on the disk, and no read can
tell (Rebello and others, "Can Applications Recover from fsync Failures?", USENIX ATC 2020).  It need not go back far:
the records themselves say how far the log was durable.  And if the machine was started anew since, the cache is empty,
what was read is on the disk, and it is left alone: to write over durable records would only put them at risk.

A directory that was stopped in order goes through the same steps, of which 7 is empty, and 5 only looks whether the
segments that were made ahead are as they should be, as the log is about to be written there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from pfs.errors import ControlFileDamaged, WalDamaged
from pfs.files.filesystem import FileSystem
from pfs.wal.bodies import PAGE_IMAGE, SIDECAR_IMAGE, Epoch, SidecarImage
from pfs.wal.checkpoint import insert_checkpoint, read_checkpoint, record_checkpoint
from pfs.wal.control_file import MAKING, RECOVERING, STOPPED, ControlData, ControlFile
from pfs.wal.log_buffer import LogBuffer
from pfs.wal.log_files import LogFiles, SyncMethod
from pfs.wal.lsn import DEFAULT_SEGMENT_SIZE, SEGMENT_HEADER_SIZE, check_segment_size, first_lsn
from pfs.wal.reader import Leftover, LogReader, LogScan, check_tail
from pfs.wal.records import image_page, seed_of
from pfs.wal.redo import CatalogChange, Plan, Redo
from pfs.wal.sidecar import locate

NO_BOOT_ID = bytes(16)
"""The boot id that says nothing."""

_PAGES_PER_CALL = 64


class RedoTarget(Protocol):
    """The data files, as recovery changes them.  Every call may block, and is carried out again after a crash.

    The order of calls: `change_catalog`, all of `read_sidecar_block`, then `restore_sidecar_block`, `write_pages`,
    `set_page_count`, `sync`.  Until `sync` returns nothing need be durable.  Errors are passed on.
    """

    def change_catalog(self, changes: Sequence[CatalogChange]) -> None:
        """Let files exist, bear names and be gone as said, at once; other files keep their names.

        A file that is to be made may exist, one that is dropped may be gone.
        """
        ...

    def read_sidecar_block(self, file_id: int, block: int) -> bytes | None:
        """One block of a file's sidecar as it is on disk: zeros if it or its file is not there, None if not valid."""
        ...

    def restore_sidecar_block(self, file_id: int, block: int, image: bytes) -> None:
        """Write one block of a file's sidecar, if the one that is there is not valid (`sidecar.block_is_valid`)."""
        ...

    def write_pages(self, file_id: int, pgid: int, pages: Sequence[bytes], lsns: Sequence[int]) -> None:
        """Write pages pgid, pgid + 1, ... with their LSNs, the sidecar with them; the file grows if need be."""
        ...

    def set_page_count(self, file_id: int, page_count: int) -> None:
        """Cut what lies beyond so many pages; raise `CorruptionFound` if there are fewer."""
        ...

    def sync(self) -> None:
        """Make everything durable."""
        ...


class Progress(NamedTuple):
    """How far recovery is: bytes of the log in this phase, done and (at most) to be done."""

    phase: str
    done: int
    total: int


class StartedLog(NamedTuple):
    """A log that is ready: all is durable, and the buffer inserts behind it."""

    control: ControlFile
    files: LogFiles
    buffer: LogBuffer
    redo_lsn: int
    page_counts: dict[int, int]
    next_file_id: int
    next_transaction: int
    transactions: int
    """How many transactions were found committed since the redo point."""
    pages: int
    """How many pages were written to data files."""
    wal_bytes: int
    """How much log was read from the redo point to the end."""
    torn_bytes: int
    """How much lay behind the end and was cut off."""


def start_log(
    fs: FileSystem,
    target: RedoTarget,
    *,
    new_system_id: Callable[[], int],
    segment_size: int = DEFAULT_SEGMENT_SIZE,
    sync_method: SyncMethod = "fdatasync",
    batch_bytes: int = 1 << 20,
    batch_requests: int = 256,
    compress: bool = False,
    page_counts: Mapping[int, int] | None = None,
    next_file_id: int = 1,
    boot_id: bytes = NO_BOOT_ID,
    progress: Callable[[Progress], None] | None = None,
) -> StartedLog:
    """Make the log of a directory that has none, or recover with the one that it has.

    new_system_id: gives 64 random bits, for a new log.  segment_size, page_counts, next_file_id: of a new log, for the
    page files that are there already; an existing one has its own.  boot_id: 16 bytes that differ after each start of
    the machine (not of a process), zeros if not known.  The rest is as for `LogBuffer` and `LogFiles`.

    Raises `ControlFileDamaged`, `WalDamaged`, `WalSegmentMissing`, `ForeignWalSegment`, `CorruptionFound`,
    `ReadFailed`, `WriteFailed`, `SyncFailed`, `NoSpace`, and what the target raises.  After any of them, a start can be
    tried again.
    """
    check_segment_size(segment_size)
    control = ControlFile(fs)
    if not control.exists():
        others = LogFiles(fs, system_id=0, segment_size=segment_size)
        if others.segments():
            raise ControlFileDamaged(
                f"the control file {control.path!r} is missing, but there is a WAL in {others.directory!r}; restore "
                "the directory from a backup"
            )
        control.create(ControlData(system_id=new_system_id(), segment_size=segment_size, boot_id=boot_id))

    def make_buffer(position: int, prev_lsn: int, epoch: int) -> LogBuffer:
        return LogBuffer(
            segment_size=control.data.segment_size,
            position=position,
            prev_lsn=prev_lsn,
            epoch=epoch,
            seed=seed_of(control.data.system_id),
            batch_bytes=batch_bytes,
            batch_requests=batch_requests,
            vouch=sync_method != "none",
            compress=compress,
        )

    with ExitStack() as undo:
        undo.callback(control.close)
        start = _Start(fs, control, target, sync_method, boot_id, progress)
        undo.callback(start.files.close)
        if start.data.state == MAKING:
            log = start.make(make_buffer, dict(page_counts or {}), next_file_id)
        else:
            log = start.recover(make_buffer)
        undo.pop_all()
    return log


def flush_log(files: LogFiles, buffer: LogBuffer) -> None:
    """Make all that was inserted durable, with new segments if need be: for whoever has the log alone."""
    size = files.segment_size
    for segment in range(buffer.flushed // size, (buffer.inserted - 1) // size + 1):
        files.prepare(segment, buffer.epoch)  # all of them first: a SEGMENT_SWITCH says that there is a next one
    while (batch := buffer.next_batch()) is not None:
        files.write(batch)
        files.sync()
        buffer.batch_flushed(batch)


class _Start:
    """The steps of a start."""

    def __init__(
        self,
        fs: FileSystem,
        control: ControlFile,
        target: RedoTarget,
        sync_method: SyncMethod,
        boot_id: bytes,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.control = control
        self.boot_id = boot_id
        self.target = target
        self.data = data = control.read()
        self.files = LogFiles(
            fs,
            system_id=data.system_id,
            segment_size=data.segment_size,
            timeline=data.timeline,
            sync_method=sync_method,
        )
        self.reader = LogReader(self.files)
        self.progress = progress or _nobody

    # ------------------------------------------------------------------------------------------ a new log

    def make(
        self, make_buffer: Callable[[int, int, int], LogBuffer], page_counts: dict[int, int], next_file_id: int
    ) -> StartedLog:
        files = self.files
        files.make_directory()
        files.remove_leftovers()
        for segment in files.segments():  # of an attempt that did not get to its end
            files.remove(segment)
        files.sync_names()
        plan = Plan()
        plan.page_counts.update(page_counts)
        plan.next_file_id = next_file_id
        buffer = make_buffer(first_lsn(files.segment_size), 0, self.data.epoch)
        redo_lsn = self._begin(buffer, plan, 0)
        return self._finish(buffer, plan, redo_lsn, 0, 0, 0)

    # ------------------------------------------------------------------------------------------ recovery

    def recover(self, make_buffer: Callable[[int, int, int], LogBuffer]) -> StartedLog:
        data, reader = self.data, self.reader
        record, checkpoint, page_counts = read_checkpoint(self.files, reader, data)
        redo = Redo(data.redo_lsn)
        redo.start(checkpoint, page_counts)
        scan = self._scan(redo)
        stopped = data.state == STOPPED and scan.prev_lsn == data.checkpoint_lsn
        leftover = Leftover(scan.end, None) if stopped else reader.look_ahead(scan.end, scan.epoch)
        if not stopped:
            check_tail(self.files, scan, leftover, max(data.durable_hint, record.end))
        epoch = data.epoch + 1
        self.files.remove_leftovers()
        self.control.write(state=RECOVERING, epoch=epoch, boot_id=self.boot_id)
        plan = redo.plan()
        if stopped:
            if self._clear_following(scan.end // self.files.segment_size, scan.end):
                self.files.sync_names()
        else:
            self._secure_tail(scan, leftover.end, max(data.durable_hint, record.end))
            if plan.catalog:
                self.target.change_catalog(list(plan.catalog.values()))
        buffer = make_buffer(scan.end, scan.prev_lsn, epoch)
        redo_lsn = self._begin(buffer, plan, data.epoch)
        if not stopped:
            self._carry_out(plan)
        pages = plan.page_total
        return self._finish(buffer, plan, redo_lsn, pages, scan.end - data.redo_lsn, leftover.end - scan.end)

    def _scan(self, redo: Redo) -> LogScan:
        """Read the log from the redo point to its end."""
        start = self.data.redo_lsn
        total = self.files.end_of_segments() - start
        scan = LogScan(self.reader, start, self.data.epoch)
        segment = 0
        for record in scan:
            redo.add(record)
            number = record.lsn // self.files.segment_size
            if number != segment:
                segment = number
                self.progress(Progress("reading the WAL", record.lsn - start, total))
        self.progress(Progress("reading the WAL", scan.end - start, scan.end - start))
        return scan

    def _secure_tail(self, scan: LogScan, leftover_end: int, durable: int) -> None:
        """Erase what is behind the end of the log, and make what is before it durable.

        durable: up to here it is for certain, as the control file says, besides what its own records say.
        """
        files, reader, size = self.files, self.reader, self.files.segment_size
        end = scan.end
        last = end // size
        segment = reader.segment(last)
        if segment is not None and segment.header is not None and leftover_end > end:
            torn = min(leftover_end, (last + 1) * size) - end
            files.save_torn(last, segment.content[end - last * size :][:torn])
            files.rewrite(end, bytes(torn))
        self._clear_following(last, leftover_end)
        files.sync_names()  # also what a process that was killed has made
        first = max(scan.vouched, self.data.redo_lsn, durable)
        if self.data.boot_id != self.boot_id and NO_BOOT_ID not in (self.data.boot_id, self.boot_id):
            first = end
        for number in range(first // size, (end - 1) // size + 1):
            segment = reader.segment(number)
            start, stop = max(first - number * size, SEGMENT_HEADER_SIZE), min(end - number * size, size)
            if segment is not None and start < stop:
                files.rewrite(number * size + start, segment.content[start:stop])
        files.sync()
        reader.forget()

    def _clear_following(self, last: int, leftover_end: int) -> bool:
        """Keep of the segments from the log's last one on only those that can be written as they are, without a gap.

        Returns whether any went.
        """
        files, size = self.files, self.files.segment_size
        usable, changed = True, False
        previous = last
        for number in [number for number in files.segments() if number >= last]:
            torn = number * size < leftover_end
            if number == last and self._complete(last):
                continue
            usable = usable and not torn and number <= previous + 1 and self._is_whole(number)
            previous = number
            if torn:
                files.set_aside(number)
            elif not usable:
                files.remove(number)
            changed = changed or torn or not usable
        return changed

    def _complete(self, number: int) -> bool:
        """Let the segment in which the log ends have its length; whether its header is valid, or nothing helps it."""
        segment = self.reader.segment(number)
        assert segment is not None
        missing = self.files.segment_size - len(segment.content)
        if segment.header is not None and missing:
            self.files.rewrite((number + 1) * self.files.segment_size - missing, bytes(missing))
        return segment.header is not None

    def _is_whole(self, number: int) -> bool:
        try:
            self.files.check(number)
        except WalDamaged:
            return False
        return True

    # ------------------------------------------------------------------------------------------ redo

    def _carry_out(self, plan: Plan) -> None:
        target, reader = self.target, self.reader
        for (file_id, block), lsn in sorted(plan.sidecar_blocks.items(), key=lambda item: item[1]):
            image = bytes(reader.record_at(lsn, only=SIDECAR_IMAGE).data)
            target.restore_sidecar_block(file_id, block, image)
        self._write_pages(plan)
        for file_id, page_count in plan.page_counts.items():
            target.set_page_count(file_id, page_count)
        target.sync()

    def _write_pages(self, plan: Plan) -> None:
        """Write the pages, a segment of the log at a time, and within one in the order of the data files."""
        size = self.files.segment_size
        wanted = sorted(
            (source.image_lsn // size, file_id, pgid, source)
            for file_id, pages in plan.pages.items()
            for pgid, source in pages.items()
        )
        total = len({entry[0] for entry in wanted}) * size
        run: list[bytes] = []
        lsns: list[int] = []
        run_file = run_end = done = 0
        segment = -1
        for number, file_id, pgid, source in wanted:
            if number != segment:
                segment = number
                self.progress(Progress("writing pages", done, total))
                done += size
            if run and (file_id != run_file or pgid != run_end or len(run) >= _PAGES_PER_CALL):
                self.target.write_pages(run_file, run_end - len(run), run, lsns)
                run, lsns = [], []
            run.append(image_page(self.reader.record_at(source.image_lsn, only=PAGE_IMAGE)))
            lsns.append(source.commit_lsn)
            run_file, run_end = file_id, pgid + 1
        if run:
            self.target.write_pages(run_file, run_end - len(run), run, lsns)
        self.progress(Progress("writing pages", total, total))

    # ------------------------------------------------------------------------------------------ the new epoch

    def _begin(self, buffer: LogBuffer, plan: Plan, previous_epoch: int) -> int:
        """Log EPOCH behind all, and the sidecar blocks that the redo changes, durably; where recovery begins after it.

        A block that is not valid has an image in the log already, from which it is restored.  An image of one that is
        valid may be older than the block (`pfs.wal.sidecar`), so it is logged as it is now.
        """
        redo_lsn = buffer.next_lsn
        buffer.insert_reserved(Epoch(previous_epoch))
        if self.data.state not in (MAKING, STOPPED):
            for file_id, block in _changed_blocks(plan):
                image = self.target.read_sidecar_block(file_id, block)
                if image is not None:
                    buffer.insert_reserved(SidecarImage(file_id, block, image))
        flush_log(self.files, buffer)
        return redo_lsn

    def _finish(
        self, buffer: LogBuffer, plan: Plan, redo_lsn: int, pages: int, wal_bytes: int, torn_bytes: int
    ) -> StartedLog:
        """Log CHECKPOINT, and let the control file point at it."""
        files = self.files
        place = insert_checkpoint(
            buffer,
            redo_lsn=redo_lsn,
            page_counts=plan.page_counts,
            next_file_id=plan.next_file_id,
            next_transaction=plan.next_transaction,
        )
        flush_log(self.files, buffer)
        buffer.limit = files.end_of_segments()
        record_checkpoint(self.control, place, redo_lsn, buffer.flushed)
        return StartedLog(
            control=self.control,
            files=files,
            buffer=buffer,
            redo_lsn=redo_lsn,
            page_counts=plan.page_counts,
            next_file_id=plan.next_file_id,
            next_transaction=plan.next_transaction,
            transactions=plan.transactions,
            pages=pages,
            wal_bytes=wal_bytes,
            torn_bytes=torn_bytes,
        )


def _changed_blocks(plan: Plan) -> list[tuple[int, int]]:
    """File id and number of the sidecar blocks that carrying out a plan may change."""
    return sorted({(file_id, locate(pgid)[0]) for file_id, pages in plan.pages.items() for pgid in pages})


def _nobody(_: Progress) -> None:
    """Nobody wants to know."""
