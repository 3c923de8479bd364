"""Which segments of the log stay, which are used again, and which slots are given up for it.

What recovery needs always stays: everything from the redo point on.  What slots need (`pfs.wal.slots`) stays too, up to
`slot_bytes` before the redo point; a slot that needs more is lost.  Two numbers bound the disk that the log takes:
`most_bytes` from the redo point on, `slot_bytes` before it.  They are counted apart, so slots never make the log full.

Writers come before slots.  If the disk has no space for the next segment, the slot that needs the oldest log is given
up, and what it held back becomes that segment; and so on, until there is one or no slot is left.  A slot's owner can
begin anew; a write that was refused for want of space cannot.

Plain blocking code, for one thread: whoever makes and recycles segments (`pfs.wal.log_files`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from pfs.errors import NoSpace
from pfs.wal.log_files import LogFiles
from pfs.wal.lsn import format_lsn
from pfs.wal.slots import Slot, SlotFiles

logger = logging.getLogger("pfs")


class Verdict(NamedTuple):
    """What to do about the slots."""

    first: int
    """The number of the first segment that must stay."""
    lost: list[Slot]
    """Slots to give up."""


def judge(slots: Iterable[Slot], redo_segment: int, oldest: int, segment_size: int, slot_bytes: int) -> Verdict:
    """Decide about the slots that are held.  redo_segment: of the redo point; oldest: the first segment that exists."""
    first = redo_segment
    lost = []
    for slot in slots:
        segment = slot.lsn // segment_size
        if segment >= redo_segment:
            continue
        if segment < oldest or (redo_segment - segment) * segment_size > slot_bytes:
            lost.append(slot)
        else:
            first = min(first, segment)
    return Verdict(first, lost)


class Retention:
    """Makes and recycles segments, with regard to slots (see the module)."""

    def __init__(self, files: LogFiles, slots: SlotFiles, slot_bytes: int) -> None:
        self._files = files
        self._slots = slots
        self._slot_bytes = slot_bytes
        self.held_bytes = 0
        """How much log before the redo point slots held back at the last checkpoint."""
        self.lost = 0
        """How many slots were given up."""

    def recycle(self, redo_lsn: int, upto: int, epoch: int) -> int:
        """Use the segments again that neither recovery nor a slot needs, as segments up to number `upto`.

        The control file says already that recovery begins at `redo_lsn`.  Returns the LSN where the segments end.
        Errors as `LogFiles.recycle` and `SlotFiles` say.
        """
        files = self._files
        redo_segment = redo_lsn // files.segment_size
        oldest = min(files.segments(), default=0)
        while True:
            first, lost = judge(self._held(), redo_segment, oldest, files.segment_size, self._slot_bytes)
            for slot in lost:
                self._lose(slot, redo_lsn, f"it needs more than slot_bytes={self._slot_bytes} before that")
            if not lost:  # else one may have been changed just now
                break
        self.held_bytes = max(redo_segment - max(first, oldest), 0) * files.segment_size
        files.recycle(first, upto, epoch)
        return files.end_of_segments()

    def prepare(self, segment: int, epoch: int, redo_lsn: int) -> None:
        """Make a segment; if there is no space, from what slots hold back.  Raises `NoSpace` if that is not enough."""
        files = self._files
        while True:
            try:
                files.prepare(segment, epoch)
                return
            except NoSpace:
                held = self._held()
                oldest = min(held, key=lambda slot: slot.lsn, default=None)
                if oldest is None or oldest.lsn // files.segment_size >= redo_lsn // files.segment_size:
                    raise
                self._lose(oldest, redo_lsn, "the disk has no space for more log")
                self.recycle(redo_lsn, segment, epoch)

    def _held(self) -> list[Slot]:
        slots = self._slots
        return [slot for slot in slots.all() if not slots.drop_if_abandoned(slot) and slot.state == "held"]

    def _lose(self, slot: Slot, redo_lsn: int, reason: str) -> None:
        if self._slots.lose(slot, redo_lsn):
            self.lost += 1
            logger.warning(
                "slot %r at LSN %s is lost: recovery begins at %s, and %s",
                slot.name,
                format_lsn(slot.lsn),
                format_lsn(redo_lsn),
                reason,
            )
