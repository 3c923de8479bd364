"""Relations and the names of their files: where PostgreSQL would put them.

A relation (a table, an index, a page file of pfs) is addressed by three numbers: tablespace, database and relation
number.  It has up to four forks, each a run of blocks of its own, kept in one or more segment files.  This module
turns an address into file names and back; it touches no file.

    tablespace           directory
    1663 (pg_default)    base/<database>
    1664 (pg_global)     global                      database is 0: shared by all databases of the cluster
    any other            pg_tblspc/<tablespace>/<version directory>/<database>

    file in it           holds
    16384                main fork, segment 0
    16384.1              main fork, segment 1
    16384_fsm            free space map, segment 0
    16384_vm.2           visibility map, segment 2
    16384_init           what an unlogged relation is reset to after a crash
    16384_sum            the sidecar of a page file (`pfs.wal.sidecar`), which is no fork: one file, however long

The version directory lets two releases share one tablespace; PostgreSQL 15 calls its own `PG_15_202209061`.
PostgreSQL's relations of temporary tables (`t3_16384`) have no address here: they do not outlive a session.

Invariant: `parse_file_name(file_name(n, f, s)) == (n, f, s)`, and no other string parses, so each file has one name.

Source: PostgreSQL's `relpath.c` (layout) and `relfilenode.h` (addresses).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple

from pfs.errors import InvalidName, InvalidRequest

DEFAULT_TABLESPACE = 1663
"""`pg_default`: the relations below `base/`."""

GLOBAL_TABLESPACE = 1664
"""`pg_global`: the relations that all databases share, in `global/`."""

FIRST_NORMAL_NUMBER = 16384
"""Lower relation numbers are for the system's own relations."""

MAX_NUMBER = 2**32 - 1
"""Object numbers have 32 bits; 0 is never valid, except as the database of shared relations."""

VERSION_DIRECTORY = "PFS_1"
"""The version directory of pfs's own tablespaces."""


SIDECAR_SUFFIX = "_sum"
"""How the name of a page file's sidecar ends."""


class Fork(enum.IntEnum):
    """The forks of a relation, with PostgreSQL's fork numbers."""

    MAIN = 0
    FSM = 1
    VM = 2
    INIT = 3


class FileName(NamedTuple):
    """What the name of a relation's file says."""

    number: int
    fork: Fork
    segment: int


_SUFFIXES = {Fork.MAIN: "", Fork.FSM: "_fsm", Fork.VM: "_vm", Fork.INIT: "_init"}
_FORKS = {suffix: fork for fork, suffix in _SUFFIXES.items()}
_FILE_NAME = re.compile(r"([1-9][0-9]{0,9})(_fsm|_vm|_init|)(?:\.([1-9][0-9]{0,9}))?")


@dataclass(frozen=True, slots=True, order=True)
class RelationAddress:
    """The address of a relation: three numbers from 1 to 2^32 - 1 (database 0 exactly when the tablespace is global).

    Raises:
        InvalidRequest: a number is not an int, or is out of its range.
    """

    tablespace: int
    database: int
    number: int

    def __post_init__(self) -> None:
        for field, value in (("tablespace", self.tablespace), ("relation number", self.number)):
            if type(value) is not int or not 1 <= value <= MAX_NUMBER:
                raise InvalidRequest(f"{field} {value!r}: must be an int from 1 to {MAX_NUMBER}")
        lowest, highest = (0, 0) if self.tablespace == GLOBAL_TABLESPACE else (1, MAX_NUMBER)
        if type(self.database) is not int or not lowest <= self.database <= highest:
            raise InvalidRequest(
                f"database {self.database!r} of tablespace {self.tablespace}: must be an int from {lowest} to {highest}"
            )

    def __str__(self) -> str:
        return f"{self.tablespace}/{self.database}/{self.number}"


def check_version_directory(name: str) -> str:
    """Return the name if it can be one part of a path, else raise `InvalidName`."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidName(f"version directory {name!r}: must be one name, without '/' and NUL")
    return name


def directory(address: RelationAddress, version_directory: str = VERSION_DIRECTORY) -> str:
    """The directory of a relation's files, relative to the root."""
    if address.tablespace == DEFAULT_TABLESPACE:
        return f"base/{address.database}"
    if address.tablespace == GLOBAL_TABLESPACE:
        return "global"
    return f"pg_tblspc/{address.tablespace}/{version_directory}/{address.database}"


def file_name(number: int, fork: Fork, segment: int = 0) -> str:
    """The name of one segment file inside its directory."""
    name = f"{number}{_SUFFIXES[fork]}"
    return f"{name}.{segment}" if segment else name


def path(
    address: RelationAddress, fork: Fork = Fork.MAIN, segment: int = 0, version_directory: str = VERSION_DIRECTORY
) -> str:
    """The path of one segment file, relative to the root: `base/5/16384_fsm.1`."""
    return f"{directory(address, version_directory)}/{file_name(address.number, fork, segment)}"


def parse_file_name(name: str) -> FileName | None:
    """The inverse of `file_name`; None for a name that is not a relation's."""
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        return None
    number, segment = int(match[1]), int(match[3] or 0)
    if number > MAX_NUMBER or segment > MAX_NUMBER:
        return None
    return FileName(number, _FORKS[match[2]], segment)


def sidecar_name(number: int) -> str:
    """The name of a page file's sidecar inside its directory."""
    return f"{number}{SIDECAR_SUFFIX}"


def sidecar_path(address: RelationAddress, version_directory: str = VERSION_DIRECTORY) -> str:
    """The path of a page file's sidecar, relative to the root."""
    return f"{directory(address, version_directory)}/{sidecar_name(address.number)}"


def parse_sidecar_name(name: str) -> int | None:
    """The relation number in the name of a sidecar; None for a name that is not one's."""
    parsed = parse_file_name(name.removesuffix(SIDECAR_SUFFIX)) if name.endswith(SIDECAR_SUFFIX) else None
    return parsed.number if parsed is not None and parsed[1:] == (Fork.MAIN, 0) else None
