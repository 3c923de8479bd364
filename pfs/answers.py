"""What the commands of `pfs` share: how they answer, and what they ask of a directory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pfs.errors import FileMissing
from pfs.files.store import LOCK_FILE


class Answer(NamedTuple):
    """What a command has to say: as text, and as a value for `--json`; and the exit status."""

    text: str
    value: object
    status: int = 0


def check_directory(directory: Path) -> None:
    """Raise `FileMissing` unless this is a data directory: only `create` makes one."""
    if not directory.is_dir():
        raise FileMissing(f"there is no directory {str(directory)!r}; pfs create makes one")
    if not (directory / LOCK_FILE).is_file():
        raise FileMissing(f"{str(directory)!r} is no data directory of pfs: it has no {LOCK_FILE}")


def add_directory(command: argparse.ArgumentParser) -> None:
    """Add the argument that all commands have."""
    command.add_argument("directory", type=Path, metavar="DIR", help="the data directory")


def properties(values: Mapping[str, object]) -> str:
    """A name and its value a line."""
    names = [name.replace("_", " ") for name in values]
    width = max(map(len, names))
    return "\n".join(
        f"{name:{width}}  {value:,}" if type(value) is int else f"{name:{width}}  {value}"
        for name, value in zip(names, values.values(), strict=True)
    )


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns below each other, the first to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
