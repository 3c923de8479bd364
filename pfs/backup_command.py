"""`pfs backup DIR DEST`: copy a data directory, also while a system uses it (`pfs.backup`)."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pfs.answers import Answer, add_directory, check_directory
from pfs.backup import backup_directory
from pfs.wal.lsn import format_lsn
from pfs.wal.recovery import Progress

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def backup(asked: argparse.Namespace) -> Answer:
    check_directory(asked.directory)
    shown = _Shown()
    try:
        report = backup_directory(asked.directory, asked.destination, shown.show)
    finally:
        shown.end()
    text = (
        f"{report.bytes:,} bytes copied to {asked.destination!r}: {report.files:,} data files, and the WAL up to "
        f"LSN {format_lsn(report.end_lsn)}; to open it is to restore it"
    )
    value = {
        "destination": asked.destination,
        "bytes": report.bytes,
        "files": report.files,
        "redo_lsn": format_lsn(report.redo_lsn),
        "end_lsn": format_lsn(report.end_lsn),
    }
    return Answer(text, value)


class _Shown:
    """How far it is, in one line that changes, if a person looks on."""

    def __init__(self) -> None:
        self._wanted = sys.stderr.isatty()
        self._line = ""

    def show(self, progress: Progress) -> None:
        line = f"{progress.phase}: {progress.done >> 20:,} of {progress.total >> 20:,} MiB"
        if self._wanted and line != self._line:
            print(f"\r{line:{len(self._line)}}", end="", file=sys.stderr, flush=True)
            self._line = line

    def end(self) -> None:
        if self._line:
            print(file=sys.stderr)


def add_backup_command(commands: Commands) -> None:
    """Add the command of this module to the command line."""
    text = "copy a data directory, also while it is used; opening the copy restores it"
    sub = commands.add_parser("backup", help=text, description=text[0].upper() + text[1:] + ".")
    sub.set_defaults(run=backup)
    add_directory(sub)
    sub.add_argument("destination", metavar="DEST", help="a directory that does not exist, or is empty")
    sub.add_argument("--json", action="store_true", help="answer in JSON")
