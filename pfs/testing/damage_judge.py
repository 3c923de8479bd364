"""What a damaged directory may answer: every page as it was committed, or a typed error that is about the damage.

`expect` works out from the bytes that changed, with what is known of the directory and none of the code that is tested:

* the log: which of its records from the redo point on are not whole any more.  If anything that is still there vouches
  that the log was durable beyond the first of them, the start must be refused; else everything from there on is cut.
* pages and sidecars: which pages may be lost.  They must be healed if their newest image is in the log; any other page
  must be right, and what recovery writes again must be right too.
* what nobody can tell: a page that was put back together with its record of that time.  They match each other; only a
  log that still has a newer image knows, which reading does not ask.  `pfs check` does, and must find it.

`compare` holds that against what an opening found.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pfs.errors import (
    CatalogDamaged,
    ControlFileDamaged,
    CorruptionFound,
    FileDamaged,
    FileMissing,
    ForeignWalSegment,
    PageCorrupt,
    PfsError,
    WalDamaged,
    WalSegmentMissing,
)
from pfs.testing.damages import Changes, Damage
from pfs.testing.rotting_directories import SEGMENT, Key, Rotting, State, images_from
from pfs.wal.bodies import SEGMENT_SWITCH
from pfs.wal.control_file import SLOT_OFFSETS, SLOT_SIZE, STOPPED, ControlData
from pfs.wal.crc import crc32c
from pfs.wal.lsn import SEGMENT_HEADER_SIZE
from pfs.wal.records import Record
from pfs.wal.sidecar import BLOCK_SIZE, RECORDS_PER_BLOCK

OF_THE_LOG = (WalDamaged, WalSegmentMissing, ForeignWalSegment)
OF_LENGTHS = (CorruptionFound, FileDamaged, FileMissing)

_HEADER = struct.Struct("<8sIIQQI")
_PAGE_RECORD = struct.Struct("<IIQ")


@dataclass
class Opened:
    """What an opening found: page files with pages or errors in their places, or why there are none."""

    contents: dict[str, list[bytes | PfsError] | PfsError] = field(default_factory=dict)
    refused: BaseException | None = None


@dataclass
class Expected:
    """What may be found (see the module)."""

    state: State
    must_refuse: bool = False
    refusals: tuple[type[PfsError], ...] = ()
    """With these a start may be refused, or must be."""
    suspects: set[Key] = field(default_factory=set)
    """Pages that may be lost."""
    healed: set[Key] = field(default_factory=set)
    """Those of them that must not be."""
    stale: dict[Key, bytes] = field(default_factory=dict)
    """Pages that nobody can tell from right ones, and what they hold."""
    lost_writes: set[Key] = field(default_factory=set)
    """Those of them of which the log has a newer image, so that `pfs check` finds them."""
    files: set[int] = field(default_factory=set)
    """Page files whose length or name is damaged: they may be refused."""

    def refuse(self, *errors: type[PfsError]) -> None:
        self.must_refuse = True
        self.refusals += errors


def expect(directory: Rotting, damage: Damage, *, is_open: bool = False) -> Expected:
    """What may be found after a damage; `is_open`: it strikes when the directory was recovered already."""
    changes = damage.changes
    expected = Expected(directory.last)
    if "pfs.catalog" in changes:
        is_earlier = changes["pfs.catalog"] in [files["pfs.catalog"] for files in directory.earlier]
        expected.refuse(*(OF_LENGTHS if is_earlier else (CatalogDamaged,)))  # it lacks page files, or has those dropped
    if "pfs_control" in changes:
        _expect_of_control(directory, changes["pfs_control"], expected)
    log = {number: path for number, path in directory.segments.items() if path in changes}
    if log:
        _expect_of_log(directory, log, changes, expected)
    _expect_of_pages(directory, changes, expected, max(log, default=0), is_open)
    return expected


def compare(opened: Opened, expected: Expected, counts: Counter[str]) -> str | None:
    """What is wrong with what was found, None if nothing is; what is right is counted."""
    if opened.refused is not None:
        error = opened.refused
        if not isinstance(error, PfsError):
            return f"it is not an error of ours: {type(error).__name__}: {error}"
        if not isinstance(error, expected.refusals):
            return f"the start is refused: {type(error).__name__}: {error}"
        counts["refused"] += 1
        return None
    if expected.must_refuse:
        return f"it starts, and had to be refused with {' or '.join(each.__name__ for each in expected.refusals)}"
    wanted = expected.state.contents
    if sorted(opened.contents) != sorted(wanted):
        return f"the page files are {sorted(opened.contents)}, right would be {sorted(wanted)}"
    for name, pages in wanted.items():
        number = expected.state.numbers[name]
        found = opened.contents[name]
        if isinstance(found, PfsError):
            if number not in expected.files or not isinstance(found, OF_LENGTHS):
                return f"{name!r} cannot be opened: {type(found).__name__}: {found}"
            counts["file refused"] += 1
            continue
        if len(found) != len(pages):
            return f"{name!r} has {len(found)} pages, right would be {len(pages)}"
        for pgid, (page, right) in enumerate(zip(found, pages, strict=True)):
            if page is not right and page != right:
                wrong = _judge_page((number, pgid), page, expected, counts)
                if wrong is not None:
                    return f"page {pgid} of {name!r} {wrong}"
    counts["healed"] += len(expected.healed)
    return None


def _judge_page(key: Key, page: bytes | PfsError, expected: Expected, counts: Counter[str]) -> str | None:
    if isinstance(page, PfsError):
        if not isinstance(page, PageCorrupt) or key not in expected.suspects:
            return f"cannot be read: {type(page).__name__}: {page}"
        if key in expected.healed:
            return f"is not healed, though the log has it: {page}"
        counts["corrupt"] += 1
        return None
    if expected.stale.get(key) == page:
        counts["undetectable"] += 1
        return None
    return f"is wrong: it holds {page[:8].hex()}..."


# ---------------------------------------------------------------------------------------------- the control file


def _expect_of_control(directory: Rotting, content: bytes | None, expected: Expected) -> None:
    before = directory.files["pfs_control"]
    newest, slots = directory.control, list(directory.slots)
    for number, offset in enumerate(SLOT_OFFSETS):
        if content is None or content[offset : offset + SLOT_SIZE] != before[offset : offset + SLOT_SIZE]:
            slots[number] = None
    left: ControlData | None = max(filter(None, slots), key=lambda slot: slot.sequence, default=None)
    if left is None:
        expected.refuse(ControlFileDamaged)
    elif left != newest and (left.redo_lsn // SEGMENT not in directory.segments or left.epoch < newest.epoch):
        expected.refusals += OF_THE_LOG  # an older slot needs older log, and knows of no later start


# ---------------------------------------------------------------------------------------------- the log


def _expect_of_log(directory: Rotting, log: dict[int, str], changes: Changes, expected: Expected) -> None:
    control, end = directory.control, directory.log[-1].end
    redo_segment, last_segment = control.redo_lsn // SEGMENT, directory.log[-1].lsn // SEGMENT
    headers = {number: _header_state(directory, number, changes[path]) for number, path in log.items()}
    broken = [
        record
        for record in directory.log
        if record.lsn >= control.redo_lsn
        and (headers.get(record.lsn // SEGMENT) in ("damaged", "missing") or not _is_whole(directory, record, changes))
    ]
    foreign = [number for number, state in headers.items() if state == "foreign" and number >= redo_segment]
    if foreign:
        expected.refusals += (ForeignWalSegment,)
    if any(number <= (broken[0].lsn if broken else end) // SEGMENT for number in foreign):
        expected.refuse(*OF_THE_LOG)
        return
    if not broken:
        content = changes[log[last_segment]] if last_segment in log else None
        if content is not None and len(content) < SEGMENT and control.state != STOPPED:
            expected.refuse(WalDamaged)  # no crash makes a segment shorter
        return
    first = broken[0]
    before = next((record for record in reversed(directory.log) if record.lsn < first.lsn), None)
    behind = [
        record
        for lsn, record in directory.placed.items()
        if lsn > first.lsn and headers.get(lsn // SEGMENT) != "foreign" and _is_whole(directory, record, changes)
    ]
    content = changes.get(directory.segments[first.lsn // SEGMENT])
    if (
        max(control.durable_hint, control.checkpoint_lsn + 1) > first.lsn
        or any(record.durable_upto > first.lsn for record in behind)
        or (before is not None and before.type == SEGMENT_SWITCH and headers.get(first.lsn // SEGMENT) == "missing")
        or (content is not None and len(content) < SEGMENT)
        or (headers.get(first.lsn // SEGMENT) == "damaged" and behind)
    ):
        expected.refuse(*OF_THE_LOG)
        return
    if headers.get(first.lsn // SEGMENT) == "damaged":
        expected.refusals += (WalDamaged,)
    assert before is not None
    expected.state = directory.state_at(before.end)


def _header_state(directory: Rotting, number: int, content: bytes | None) -> str:
    """Of a segment of the log: missing, damaged, foreign, or right."""
    if content is None:
        return "missing"
    header = content[:SEGMENT_HEADER_SIZE]
    if len(header) < SEGMENT_HEADER_SIZE or crc32c(header[:60]) != int.from_bytes(header[60:], "little"):
        return "damaged"
    magic, version, timeline, segment, system_id, size = _HEADER.unpack_from(header)
    if magic != b"PFSWALSG":
        return "damaged"
    ours = (version, timeline, segment, system_id, size) == (1, 1, number, directory.control.system_id, SEGMENT)
    return "right" if ours else "foreign"


def _is_whole(directory: Rotting, record: Record, changes: Changes) -> bool:
    path = directory.segments[record.lsn // SEGMENT]
    if path not in changes:
        return True
    content, offset = changes[path], record.lsn % SEGMENT
    end = offset + record.length
    return content is not None and content[offset:end] == directory.files[path][offset:end]


# ---------------------------------------------------------------------------------------------- pages and sidecars


def _expect_of_pages(
    directory: Rotting, changes: Changes, expected: Expected, last_damaged: int, is_open: bool
) -> None:
    state, control = expected.state, directory.control
    names = {number: name for name, number in state.numbers.items()}
    written: Mapping[Key, Record] = {}
    if control.state != STOPPED and not is_open:
        written = images_from(directory.name, control.redo_lsn)
    for path, content in changes.items():
        number = _number_of(path)
        if number not in names:
            continue
        pages = state.contents[names[number]]
        before = directory.files[path]
        if (content is None or len(content) != len(before)) and not path.endswith("_sum"):
            expected.files.add(number)
            expected.refusals += OF_LENGTHS
            expected.suspects |= {(number, pgid) for pgid in range(len(pages))} - written.keys()
        for pgid in _pages_of(directory, path, before, content or b"", len(pages[0])):
            if pgid < len(pages) and (number, pgid) not in written:
                expected.suspects.add((number, pgid))
    if not expected.suspects:
        return
    images = images_from(directory.name, (last_damaged + 1) * SEGMENT if last_damaged else 0)
    for key in sorted(expected.suspects):
        on_disk = _matching_page(directory, changes, key, len(state.contents[names[key[0]]][0]))
        if on_disk is not None:
            page, lsn = on_disk
            if page != state.contents[names[key[0]]][key[1]]:
                expected.stale[key] = page
                if key in images and images[key].lsn > lsn:
                    expected.lost_writes.add(key)
        elif key in images and key[0] not in expected.files:
            expected.healed.add(key)


def _number_of(path: str) -> int:
    """The page file that a file belongs to; 0 if it is none's."""
    if not path.startswith("base/5/"):
        return 0
    return int(path.removeprefix("base/5/").removesuffix("_sum").split(".")[0])


def _pages_of(directory: Rotting, path: str, before: bytes, after: bytes, page_size: int) -> list[int]:
    """The pages that a change of a file concerns."""
    unit = BLOCK_SIZE if path.endswith("_sum") else page_size
    changed = [
        place // unit
        for place in range(0, max(len(before), len(after)), unit)
        if before[place : place + unit] != after[place : place + unit]
    ]
    if path.endswith("_sum"):
        return [pgid for block in changed for pgid in range(block * RECORDS_PER_BLOCK, (block + 1) * RECORDS_PER_BLOCK)]
    _, _, segment = path.partition(".")
    first = int(segment or 0) * (directory.options.segment_bytes // page_size)
    return [first + number for number in changed]


def _matching_page(directory: Rotting, changes: Changes, key: Key, page_size: int) -> tuple[bytes, int] | None:
    """A page as it is on the disk, with the LSN of its record, if that proves it."""
    number, pgid = key
    segment, place = divmod(pgid * page_size, directory.options.segment_bytes)
    main = f"base/5/{number}.{segment}" if segment else f"base/5/{number}"
    page = _content(directory, changes, main)[place : place + page_size]
    block_number, slot = divmod(pgid, RECORDS_PER_BLOCK)
    block = _content(directory, changes, f"base/5/{number}_sum")[block_number * BLOCK_SIZE :][:BLOCK_SIZE]
    if len(page) < page_size or len(block) < BLOCK_SIZE:
        return None
    if crc32c(struct.pack("<Q", number), crc32c(block[4:])) != int.from_bytes(block[:4], "little"):
        return None
    if struct.unpack_from("<IQ", block, 4) != (1, block_number):
        return None
    checksum, flags, lsn = _PAGE_RECORD.unpack_from(block, 16 + slot * 16)
    if flags != 1 or crc32c(struct.pack("<QQQ", number, pgid, lsn), crc32c(page)) != checksum:
        return None
    return page, lsn


def _content(directory: Rotting, changes: Changes, path: str) -> bytes:
    return (changes[path] if path in changes else directory.files.get(path)) or b""
