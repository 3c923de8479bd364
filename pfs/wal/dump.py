"""The log as text and as numbers: what `pfs wal dump` and `pfs wal stat` print."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pfs.wal.bodies import (
    COMMIT,
    NO_REQUEST,
    PAGE_IMAGE,
    Checkpoint,
    Commit,
    Create,
    Epoch,
    Noop,
    PageCounts,
    PageImage,
    Rename,
    SidecarImage,
    Truncate,
)
from pfs.wal.lsn import format_lsn
from pfs.wal.records import COMPRESSED, ZERO, Record, decode_body

Fields = dict[str, str | int | bool | list[list[int]]]


def select(records: Iterable[Record], *, stop: int | None = None, file_id: int | None = None) -> Iterator[Record]:
    """Those records that begin before `stop` and concern the file; without these, all."""
    for record in records:
        if stop is not None and record.lsn >= stop:
            return
        if file_id is None or record.file_id == file_id:
            yield record


def fields(record: Record) -> Fields:
    """What a record says, by name; LSNs as text, pages left out."""
    found: Fields = {
        "lsn": format_lsn(record.lsn),
        "end": format_lsn(record.end),
        "prev_lsn": format_lsn(record.prev_lsn),
        "durable_upto": format_lsn(record.durable_upto),
        "epoch": record.epoch,
        "type": record.name,
        "length": record.length,
    }
    if record.transaction:
        found["transaction"] = record.transaction
    if record.file_id:
        found["file_id"] = record.file_id
    body = decode_body(record)
    match body:
        case PageImage():
            found |= {"index": body.index, "page_size": len(body.page), "stored_bytes": len(record.data)}
            found |= {"zero": bool(record.flags & ZERO), "compressed": bool(record.flags & COMPRESSED)}
        case Commit():
            found |= {"first_lsn": format_lsn(body.first_lsn), "pgid": body.pgid, "n": body.n}
            found |= {"page_count": body.page_count, "request_id": body.request_id.hex(), "bulk": body.bulk}
        case Create():
            found |= {"page_size": body.page_size, "name": body.name}
        case Rename():
            found["name"] = body.name
        case Truncate():
            found["page_count"] = body.page_count
        case Checkpoint():
            found |= {"redo_lsn": format_lsn(body.redo_lsn), "page_counts_lsn": format_lsn(body.page_counts_lsn)}
            found |= {"next_file_id": body.next_file_id, "next_transaction": body.next_transaction}
            found["shutdown"] = body.shutdown
        case PageCounts():
            found["counts"] = [[file_id, count] for file_id, count in body.counts]
        case Epoch():
            found["previous"] = body.previous
        case Noop():
            found["size"] = body.size
        case SidecarImage():
            found["block"] = body.block
        case _:
            pass
    return found


def json_line(record: Record) -> str:
    """A record as one line of JSON."""
    return json.dumps(fields(record), ensure_ascii=False)


def human_line(record: Record) -> str:
    """A record as one line for people."""
    found = fields(record)
    head = f"{found.pop('lsn'):>17}  {found.pop('type'):<14} {found.pop('length'):>7}"
    for name in ("end", "prev_lsn", "durable_upto", "epoch"):
        del found[name]
    rest = (
        f"{name} {value!r}" if name == "name" else f"{name} {value}"
        for name, value in found.items()
        if value is not False and value != NO_REQUEST.hex()
    )
    return f"{head}  {', '.join(rest)}".rstrip()


@dataclass
class LogStatistics:
    """Numbers of a part of the log.  Bytes include headers and padding."""

    records: Counter[str] = field(default_factory=Counter)
    """Records by type."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Bytes by type."""
    file_bytes: Counter[int] = field(default_factory=Counter)
    """Bytes by file id."""
    zero_pages: int = 0
    compressed_pages: int = 0
    largest_transaction: int = 0
    """Pages of the largest transaction that committed."""
    first_lsn: int = 0
    end_lsn: int = 0

    def add(self, record: Record) -> None:
        """Count a record."""
        size = record.end - record.lsn
        self.records[record.name] += 1
        self.bytes[record.name] += size
        if record.file_id:
            self.file_bytes[record.file_id] += size
        if record.type == PAGE_IMAGE:
            self.zero_pages += record.flags & ZERO
            self.compressed_pages += bool(record.flags & COMPRESSED)
        elif record.type == COMMIT:
            body = decode_body(record)
            assert isinstance(body, Commit)
            self.largest_transaction = max(self.largest_transaction, body.n)
        self.first_lsn = self.first_lsn or record.lsn
        self.end_lsn = record.end


def statistics(records: Iterable[Record]) -> LogStatistics:
    """Count all records."""
    result = LogStatistics()
    for record in records:
        result.add(record)
    return result
