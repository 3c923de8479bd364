"""Commands of `pfs` that work on the files of a data directory, below the page files: `wal dump`, `wal stat`, `check`.

They open no `System`.  Those of the log change and lock nothing, so they work beside a system that uses the directory,
and on a log that recovery refuses.  A check wants the directory for itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from pfs.answers import Answer, add_directory, check_directory, properties, table
from pfs.check import Finding, Progress, check
from pfs.errors import CatalogDamaged, PageFileNotFound
from pfs.files.catalog import read_catalog
from pfs.files.posix import PosixFileSystem
from pfs.wal.bodies import CREATE, DROP, RENAME, Create, Rename
from pfs.wal.control_file import STATE_NAMES, STOPPED
from pfs.wal.dump import Fields, human_line, json_line, select, statistics
from pfs.wal.log_view import LogView
from pfs.wal.lsn import format_lsn, parse_lsn
from pfs.wal.records import Record, decode_body

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def wal_dump(asked: argparse.Namespace) -> None:
    check_directory(asked.directory)
    fs = PosixFileSystem(asked.directory)
    view = LogView(fs)
    file_id = None if asked.file is None else _file_id(fs, view, asked.file)
    first = view.oldest() if asked.first is None else view.start_for(parse_lsn(asked.first))
    wanted = first if asked.first is None else parse_lsn(asked.first)
    stop = None if asked.stop is None else parse_lsn(asked.stop)
    line = json_line if asked.json else human_line
    scan = view.scan(first)
    for record in select(scan, stop=stop, file_id=file_id):
        if record.lsn >= wanted:
            print(line(record))
    if stop is not None and scan.end > stop:
        end, reason, torn = stop, "that is where --to is", 0
    else:
        end, reason, torn = view.end(scan)
    if asked.json:
        print(json.dumps({"end": format_lsn(end), "reason": reason, "torn_bytes": torn}))
    else:
        behind = f"; {torn:,} bytes behind it were left by a crash" if torn else ""
        print(f"{format_lsn(end):>17}  end: {reason}{behind}")


def wal_stat(asked: argparse.Namespace) -> Answer:
    check_directory(asked.directory)
    fs = PosixFileSystem(asked.directory)
    view = LogView(fs)
    scan = view.scan(view.oldest())
    names = _catalog_names(fs)
    found = statistics(_noting_names(scan, names))
    end = view.end(scan)
    control, numbers = view.control, view.files.segments()
    value: dict[str, object] = {
        "state": STATE_NAMES.get(control.state, f"unknown ({control.state})"),
        "valid_slots": sum(slot is not None for slot in view.slots),
        "system_id": f"{control.system_id:016x}",
        "timeline": control.timeline,
        "epoch": control.epoch,
        "redo_lsn": format_lsn(control.redo_lsn),
        "checkpoint_lsn": format_lsn(control.checkpoint_lsn),
        "durable_hint": format_lsn(control.durable_hint),
        "first_lsn": format_lsn(found.first_lsn),
        "end_lsn": format_lsn(end.lsn),
        "end_reason": end.reason,
        "torn_bytes": end.torn_bytes,
        "bytes_to_recover": end.lsn - view.redo_lsn if control.state != STOPPED else 0,
        "segment_size": control.segment_size,
        "segments": len(numbers),
        "first_segment": view.files.name(numbers[0]) if numbers else "",
        "last_segment": view.files.name(numbers[-1]) if numbers else "",
        "zero_pages": found.zero_pages,
        "compressed_pages": found.compressed_pages,
        "largest_transaction": found.largest_transaction,
    }
    lines = [properties(value)]
    types: list[Fields] = [
        {"type": name, "records": count, "bytes": found.bytes[name]} for name, count in found.records.most_common()
    ]
    files: list[Fields] = [
        {"file": names.get(file_id, ""), "file_id": file_id, "bytes": size}
        for file_id, size in found.file_bytes.most_common()
    ]
    for rows in (types, files):
        if rows:
            cells = [tuple(key.replace("_", " ") for key in rows[0])]
            cells += [tuple(_cell(key, value) for key, value in row.items()) for row in rows]
            lines += ["", table(cells)]
    return Answer("\n".join(lines), value | {"types": types, "files": files})


def check_files(asked: argparse.Namespace) -> Answer:
    check_directory(asked.directory)
    progress = show_progress if sys.stderr.isatty() else None
    report = check(asked.directory, repair=asked.repair, progress=progress)
    if progress is not None:
        print(end="\r\033[K", file=sys.stderr)
    lines = [f"{_degree(finding, 'repaired'):10}  {_line(finding)}" for finding in report.repaired]
    lines += [f"{_degree(finding):10}  {_line(finding)}" for finding in report.findings]
    if report.obstacle:
        lines.append(f"nothing was repaired: {report.obstacle}")
    if report.recovery is not None:
        recovery = report.recovery
        lines.append(
            f"not stopped in order: the next start recovers {recovery.transactions:,} transactions with "
            f"{recovery.pages:,} pages from {recovery.wal_bytes:,} bytes of log"
            + (
                f", and cuts off {recovery.torn_bytes:,} bytes that a crash left behind it"
                if recovery.torn_bytes
                else ""
            )
        )
    found = sum(finding.damage for finding in report.findings)
    verdict = f"{found:,} findings of damage" if found else "no damage"
    lines.append(f"{report.state}; {report.page_files:,} page files, {report.pages:,} pages checked: {verdict}")
    return Answer("\n".join(lines), msgspec.to_builtins(report) | {"damaged": report.damaged}, int(report.damaged))


def _degree(finding: Finding, repaired: str = "") -> str:
    return repaired or ("note" if not finding.damage else "repairable" if finding.repairable else "damage")


def _line(finding: Finding) -> str:
    where = finding.path
    if finding.page_file:
        where += f" ({finding.page_file!r})"
    if finding.n == 1:
        where += f" page {finding.pgid}"
    elif finding.n:
        where += f" pages {finding.pgid} to {finding.pgid + finding.n - 1}"
    return f"{where}: {finding.kind}: {finding.message}"


def show_progress(progress: Progress) -> None:
    """A line on stderr that is written over by the next."""
    percent = 100 * progress.done // progress.total if progress.total else 100
    print(f"\r\033[K{progress.phase}: {percent} %", end="", file=sys.stderr, flush=True)


def _cell(key: str, value: object) -> str:
    return f"{value:,}" if type(value) is int and key != "file_id" else str(value)


def _catalog_names(fs: PosixFileSystem) -> dict[int, str]:
    """The names of page files by id, as the last checkpoint saved them; none if the catalog cannot be read."""
    try:
        catalog = read_catalog(fs)
    except CatalogDamaged:
        catalog = None
    return {entry.number: entry.name for entry in catalog.entries.values()} if catalog else {}


def _noting_names(records: Iterable[Record], names: dict[int, str]) -> Iterator[Record]:
    """The same records; what they say of names is noted on the way, so that it is as at the end of the log at last."""
    for record in records:
        if record.type in (CREATE, RENAME):
            body = decode_body(record)
            assert isinstance(body, Create | Rename)
            names[record.file_id] = body.name
        elif record.type == DROP:
            names.pop(record.file_id, None)
        yield record


def _file_id(fs: PosixFileSystem, view: LogView, name_or_id: str) -> int:
    """The id of a page file given by its name, or else by its id, which may be that of a file since dropped."""
    names = _catalog_names(fs)
    deque(_noting_names(view.scan(view.oldest()), names), maxlen=0)
    for file_id, name in names.items():
        if name == name_or_id:
            return file_id
    if name_or_id.isascii() and name_or_id.isdecimal():
        return int(name_or_id)
    raise PageFileNotFound(f"there is no page file {name_or_id!r}; one that was dropped is found by its id")


# ------------------------------------------------------------------------------------------ the command line


def add_offline_commands(commands: Commands) -> None:
    """Add the commands of this module to the command line."""
    wal = commands.add_parser("wal", help="look at the write-ahead log", description="Look at the write-ahead log.")
    wal_commands = wal.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sub = _add(wal_commands, "dump", wal_dump, "show the records of the log, and why it ends where it does")
    sub.add_argument("--file", metavar="FILE", help="only what concerns this page file, given by its name or id")
    sub.add_argument("--from", dest="first", metavar="LSN", help="from here on (default: all that there is)")
    sub.add_argument("--to", dest="stop", metavar="LSN", help="only what begins before")
    sub = _add(commands, "check", check_files, "look for damage in a directory that is not in use")
    sub.add_argument("--repair", action="store_true", help="recover it, and write again what the log still has")
    sub.set_defaults(status_if_refused=2)
    _add(wal_commands, "stat", wal_stat, "show counts and bytes of the log, and the state of the control file")


def _add(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], Answer | None], text: str
) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    sub.set_defaults(run=run)
    add_directory(sub)
    sub.add_argument("--json", action="store_true", help="answer in JSON")
    return sub
