"""The `pfs` command: look at the page files of a data directory, make, rename and drop them, put pages in and out.

Each of these opens a `System` on the directory, so no other may use it meanwhile.  Commands that look at what is below
the page files are in `pfs.offline_commands`.  Exit status: 0; 1 if pfs refuses or fails, with one line on stderr; 2 if
the command line is wrong; 130 after Ctrl-C.  Of `pfs check`: 1 if there is damage, 2 if nothing could be checked.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pfs import PageFile, System, __version__
from pfs.answers import Answer, add_directory, check_directory, properties, table
from pfs.backup_command import add_backup_command
from pfs.errors import InvalidRequest, PageFileExists, PfsError, WrongPageLength
from pfs.offline_commands import add_offline_commands

BATCH_BYTES = 1 << 20
"""How much `pfs append` sends in one request."""

_QUIET = logging.NullHandler()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (by default the process's); returns the exit status."""
    asked = parser().parse_args(argv)
    logging.getLogger("pfs").addHandler(_QUIET)  # what goes wrong is told once, on the last line
    try:
        run: Callable[[argparse.Namespace], Answer | None] = asked.run
        answer = run(asked)
        if answer is not None:
            print(json.dumps(answer.value) if asked.json else answer.text)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more; the interpreter would complain about it at exit
        return 1
    except (PfsError, OSError) as error:
        print(f"pfs: {' '.join(str(error).split())}", file=sys.stderr)
        return int(getattr(asked, "status_if_refused", 1))
    except KeyboardInterrupt:
        return 130
    return 0 if answer is None else answer.status


def on_system(
    command: Callable[[System, argparse.Namespace], Answer | None], asked: argparse.Namespace
) -> Answer | None:
    """Carry a command out on a `System` of its own."""
    if not asked.makes_directory:
        check_directory(asked.directory)
    with System(asked.directory) as system:
        return command(system, asked)


# ------------------------------------------------------------------------------------------ commands


def ls(system: System, _: argparse.Namespace) -> Answer:
    rows = [_entry(system, name) for name in system.names()]
    cells: list[tuple[str, ...]] = [("name", "pages", "page size", "bytes")]
    for row in rows:
        if "error" in row:
            cells.append((str(row["name"]), "", "", f"{row['error']}"))
        else:
            cells.append((str(row["name"]), *(f"{row[key]:,}" for key in ("page_count", "page_size", "bytes"))))
    return Answer(table(cells) if rows else "no page files", rows)


def stat(system: System, asked: argparse.Namespace) -> Answer:
    if asked.name is None:
        rows = [_entry(system, name) for name in system.names()]
        whole = [row for row in rows if "error" not in row]
        value: dict[str, object] = {
            "directory": str(asked.directory),
            "page_files": len(rows),
            "damaged": len(rows) - len(whole),
            "page_count": sum(int(str(row["page_count"])) for row in whole),
            "bytes": sum(int(str(row["bytes"])) for row in whole),
        }
    else:
        value = _describe(system.open(asked.name, create=False, read_only=True))
    return Answer(properties(value), value)


def create(system: System, asked: argparse.Namespace) -> Answer:
    if asked.name in system.names():
        raise PageFileExists(f"there is a page file {asked.name!r} already")
    file = system.open(asked.name, page_size=asked.page_size)
    return Answer(f"{asked.name!r} created, with pages of {file.page_size} bytes", _describe(file))


def rename(system: System, asked: argparse.Namespace) -> Answer:
    system.rename(asked.name, asked.new_name)
    return Answer(f"{asked.name!r} is now {asked.new_name!r}", {"name": asked.new_name, "was": asked.name})


def drop(system: System, asked: argparse.Namespace) -> Answer | None:
    if asked.name in system.names() and not asked.yes and not _confirmed(f"Delete {asked.name!r} for ever?"):
        raise InvalidRequest(f"{asked.name!r} was not deleted: answer y, or give --yes")
    system.drop(asked.name)
    return Answer(f"{asked.name!r} deleted", {"name": asked.name, "deleted": True})


def append(system: System, asked: argparse.Namespace) -> Answer:
    file = system.open(asked.name, create=False)
    first = file.page_count
    if str(asked.file) == "-":
        _append_all(file, sys.stdin.buffer)
    else:
        with asked.file.open("rb") as source:
            length = asked.file.stat().st_size
            if length % file.page_size:
                raise WrongPageLength(
                    f"{asked.file} has {length:,} bytes, not a whole number of pages of {file.page_size} bytes; "
                    "nothing was appended"
                )
            _append_all(file, source)
    n = file.page_count - first
    text = f"{n:,} pages appended, from page {first} on" if n else "nothing to append"
    return Answer(text, {"name": asked.name, "pgid": first, "n": n})


def _append_all(file: PageFile, source: BinaryIO) -> None:
    first = file.page_count
    size = max(BATCH_BYTES, file.page_size)
    while data := source.read(size):
        if rest := len(data) % file.page_size:
            if rest < len(data):
                file.append(data[:-rest])
            raise WrongPageLength(
                f"{rest} bytes are left over behind the last whole page of {file.page_size} bytes; "
                f"{file.page_count - first:,} pages were appended, from page {first} on"
            )
        file.append(data)


def read(system: System, asked: argparse.Namespace) -> None:
    file = system.open(asked.name, create=False, read_only=True)
    n = asked.n if asked.n is not None else 1
    place = asked.pgid * file.page_size
    for page in file.stream(asked.pgid, n):
        if asked.hex:
            for line in hex_lines(page, place):
                print(line)
        else:
            sys.stdout.buffer.write(page)
        place += len(page)
    sys.stdout.buffer.flush()


def hex_lines(page: bytes, place: int) -> Iterator[str]:
    """Sixteen bytes a line, in hexadecimal and as text; `place` is that of the first byte in the page file."""
    for start in range(0, len(page), 16):
        row = page[start : start + 16]
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{place + start:010x}  {row[:8].hex(' ')}  {row[8:].hex(' ')}  |{characters}|"


def _entry(system: System, name: str) -> dict[str, object]:
    """A page file's row; of one that cannot be opened the reason, so that it does not hide the others."""
    try:
        return _describe(system.open(name, create=False, read_only=True))
    except PfsError as error:
        return {"name": name, "error": str(error)}


def _describe(file: PageFile) -> dict[str, object]:
    return {
        "name": file.name,
        "page_count": file.page_count,
        "page_size": file.page_size,
        "bytes": file.page_count * file.page_size,
    }


def _confirmed(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# ------------------------------------------------------------------------------------------ the command line


def parser() -> argparse.ArgumentParser:
    """The command line of `pfs`."""
    top = argparse.ArgumentParser(prog="pfs", description="Page files in a data directory.")
    top.add_argument("--version", action="version", version=f"pfs {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str,
        command: Callable[[System, argparse.Namespace], Answer | None],
        text: str,
        makes_directory: bool = False,
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=partial(on_system, command), makes_directory=makes_directory, json=False)
        add_directory(sub)
        if command is not read:
            sub.add_argument("--json", action="store_true", help="answer in JSON")
        return sub

    add("ls", ls, "list the page files")
    sub = add("stat", stat, "show the size of one page file, or of all together")
    sub.add_argument("name", nargs="?", metavar="NAME")
    sub = add("create", create, "make a page file, and the directory if need be", makes_directory=True)
    sub.add_argument("name", metavar="NAME")
    sub.add_argument(
        "--page-size", type=_number, metavar="N", help="bytes: a power of two from 512 to 65536 (default: 8192)"
    )
    sub = add("rename", rename, "give a page file another name")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("new_name", metavar="NEW")
    sub = add("drop", drop, "delete a page file")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("--yes", action="store_true", help="do not ask")
    sub = add("append", append, "append the pages in a file, some at a time")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("file", type=Path, metavar="FILE", help="whole pages; - is the standard input")
    sub = add("read", read, "write pages to the standard output")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("pgid", type=_number, metavar="PGID", help="number of the first page, from 0")
    sub.add_argument("n", type=_number, nargs="?", metavar="N", help="how many pages (default: 1)")
    sub.add_argument("--hex", action="store_true", help="in hexadecimal and as text, sixteen bytes a line")
    add_backup_command(commands)
    add_offline_commands(commands)
    return top


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
