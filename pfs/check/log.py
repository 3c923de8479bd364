"""The control file and the log: is every record there that should be, and what does the log have to say of the pages?

The log is read once, from its oldest segment to its end.  Two things come of it:

* the plan of the recovery (`pfs.wal.redo`), from the redo point on: what the next start will write;
* the newest committed image of each page, from as far back as the log is whole.  If it is damaged before the redo
  point, recovery can do without; but only what is behind the damage can be trusted to be the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pfs.check.findings import Findings
from pfs.errors import (
    CorruptionFound,
    FileMissing,
    ForeignWalSegment,
    PfsError,
    ReadFailed,
    WalDamaged,
    WalSegmentMissing,
)
from pfs.files.filesystem import FileSystem
from pfs.wal.bodies import COMMIT
from pfs.wal.checkpoint import read_checkpoint
from pfs.wal.control_file import CONTROL_FILE, MAKING, STOPPED
from pfs.wal.log_files import WAL_DIRECTORY
from pfs.wal.log_view import LogView
from pfs.wal.lsn import SEGMENT_HEADER_SIZE, format_lsn
from pfs.wal.reader import LogScan
from pfs.wal.records import Record, decode_commit
from pfs.wal.recovery import Progress
from pfs.wal.redo import Plan, Redo
from pfs.wal.sidecar import locate


@dataclass
class LogFacts:
    """What a check of the log gives to the check of the page files."""

    state: int = 0
    """What the control file says; 0 if there is none, or it cannot be read."""
    view: LogView | None = None
    plan: Plan | None = None
    """What recovery will do; None if it will refuse."""
    newest: Plan = field(default_factory=Plan)
    """What a recovery from as far back as possible would do: it has the newest images."""
    stopped: bool = False
    """Whether the system was stopped in order, and so nothing will be recovered."""
    redo_lsn: int = 0
    end: int = 0
    """Where the log ends, as far as it can be read."""
    torn_bytes: int = 0

    def page_count(self, file_id: int) -> int | None:
        """How many pages a file has, by the log; None if that does not say."""
        if self.plan is None:
            return None
        return self.newest.page_counts.get(file_id, self.plan.page_counts.get(file_id))

    def is_made(self, file_id: int) -> bool:
        """Whether recovery makes a file that is missing."""
        change = self.plan.catalog.get(file_id) if self.plan is not None else None
        return change is not None and change.page_size is not None

    def is_recovered(self, file_id: int) -> bool:
        """Whether recovery sets the length of a file."""
        return self.plan is not None and not self.stopped and file_id in self.plan.page_counts


def check_log(fs: FileSystem, found: Findings, progress: Callable[[Progress], None]) -> LogFacts:
    """Check the control file and the log."""
    facts = LogFacts()
    try:
        view = facts.view = LogView(fs)
    except FileMissing:
        if _has_segments(fs):
            found.add("control file", CONTROL_FILE, "it is missing, but there is a log; restore it from a backup")
        else:
            facts.plan = Plan()  # a start makes a log, and changes no page
        return facts
    except PfsError as error:
        found.add("control file", CONTROL_FILE, str(error))
        return facts
    for number, slot in enumerate(view.slots):
        if slot is None:
            found.add(
                "control file",
                CONTROL_FILE,
                f"slot {number} is not valid: the last write was torn, or it was damaged since; the other one counts",
                damage=False,
                repairable=True,
            )
    facts.state = view.control.state
    if facts.state == MAKING:
        facts.plan = Plan()
        return facts
    facts.redo_lsn = facts.end = view.redo_lsn
    _Reading(view, facts, found, progress).read()
    _check_segments(view, facts, found)
    return facts


def _has_segments(fs: FileSystem) -> bool:
    return fs.exists(WAL_DIRECTORY) and any(len(name) == 24 for name in fs.listdir(WAL_DIRECTORY))


def _check_segments(view: LogView, facts: LogFacts, found: Findings) -> None:
    """Look at lengths and headers of all segments; the reading of the log looks at what is in them."""
    files = view.files
    oldest, last = view.oldest() // files.segment_size, facts.end // files.segment_size
    for number in files.segments():
        path = files.path(number)
        if number < oldest:
            message = "it is no part of the log any more, and waits to be recycled"
            found.add("left over", path, message, damage=False)
            continue
        try:
            files.check(number)
        except (WalDamaged, ForeignWalSegment, ReadFailed) as error:
            repairable = facts.plan is not None and number > last
            found.add("log segment", path, str(error), lsn=number * files.segment_size, repairable=repairable)


class _Reading:
    """One reading of the log, from its oldest segment to its end."""

    def __init__(self, view: LogView, facts: LogFacts, found: Findings, progress: Callable[[Progress], None]) -> None:
        self.view = view
        self.facts = facts
        self.found = found
        self.progress = progress

    def read(self) -> None:
        view, facts = self.view, self.facts
        size = view.files.segment_size
        try:
            _, checkpoint, page_counts = read_checkpoint(view.files, view.reader, view.control)
        except (WalDamaged, WalSegmentMissing, ForeignWalSegment, ReadFailed) as error:
            self._damage(view.control.checkpoint_lsn, str(error))
            return
        start = view.oldest()
        while True:
            redo, newest = Redo(view.redo_lsn), Redo(start)
            redo.start(checkpoint, page_counts)
            scan = view.scan(start)
            broken = self._scan(scan, redo, newest)
            if scan.end >= view.redo_lsn:
                break
            self._damage(scan.end, f"{broken or scan.reason}; recovery can do without what is there")
            start = min((scan.end // size + 1) * size + SEGMENT_HEADER_SIZE, view.redo_lsn)
        facts.end = scan.end
        if broken:
            self._damage(scan.end, broken)
            return
        try:
            end = view.end(scan)
        except (WalDamaged, WalSegmentMissing, ForeignWalSegment, ReadFailed) as error:
            self._damage(scan.end, str(error))
            return
        facts.plan, facts.newest = redo.plan(), newest.plan()
        facts.stopped = view.control.state == STOPPED and scan.prev_lsn == view.control.checkpoint_lsn
        facts.torn_bytes = end.torn_bytes

    def _scan(self, scan: LogScan, redo: Redo, newest: Redo) -> str:
        """Read to the end; why not, if it cannot be read further or contradicts itself."""
        redo_lsn, start, size = self.view.redo_lsn, scan.end, self.view.files.segment_size
        total = self.view.files.end_of_segments() - start
        segment = 0
        try:
            for record in scan:
                newest.add(record)
                if record.type == COMMIT:
                    _forget_images(newest.plan(), record)
                if record.lsn >= redo_lsn:
                    redo.add(record)
                if record.lsn // size != segment:
                    segment = record.lsn // size
                    self.progress(Progress("reading the WAL", record.lsn - start, total))
        except (CorruptionFound, ForeignWalSegment, ReadFailed) as error:
            return str(error)
        self.progress(Progress("reading the WAL", total, total))
        return ""

    def _damage(self, lsn: int, message: str) -> None:
        path = self.view.files.path(lsn // self.view.files.segment_size)
        self.found.add("log", path, f"at LSN {format_lsn(lsn)}: {message}", lsn=lsn)


def _forget_images(plan: Plan, record: Record) -> None:
    """A bulk append makes older images of the sidecar blocks that it wrote worthless."""
    commit = decode_commit(record)
    if commit.bulk:
        first, last = locate(commit.pgid)[0], locate(commit.pgid + commit.n - 1)[0]
        for key, lsn in list(plan.sidecar_blocks.items()):
            if key[0] == commit.file_id and first <= key[1] <= last and lsn < commit.first_lsn:
                del plan.sidecar_blocks[key]
