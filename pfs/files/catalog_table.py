"""The catalog's content: which page file has which relation number and page size.  Plain code, no I/O.

A `CatalogTable` is never changed; a change gives a new one, which becomes the catalog in the step that logs the change.
`after` does again what the log says that was changed.

The file is text, so that a person can read it: lines of JSON, each ended by a newline.

    {"format":"pfs catalog","version":1,"entries":2,"next_number":16387}
    {"name":"names","number":16386,"page_size":4096}
    {"name":"triples","number":16384,"page_size":8192}
    {"crc32":"5d0c3a1f"}

The first line is the header, then comes a line for each page file, in order of names, and last the CRC-32 (that of
zlib, eight hexadecimal digits) of all bytes before its line.  A file that is not exactly so is damaged.

Names.  1 to 255 bytes of UTF-8 in Unicode's normalization form C; no `/`, no control characters (NUL is one), not `.`
or `..`.  Case counts.  A name in another form (macOS keyboards and file dialogs make such) is refused, not changed: two
names that look the same are never two page files, and a name means the same wherever it is compared.

Invariants: names are valid and distinct; numbers are distinct, from 16384 up and below `next_number`; `next_number`
never goes down, so a number is never used twice.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import msgspec

from pfs.errors import (
    CatalogDamaged,
    CorruptionFound,
    InvalidName,
    PageFileExists,
    PageFileNotFound,
    PfsError,
    RequestTooLarge,
)
from pfs.files.relation import DEFAULT_TABLESPACE, FIRST_NORMAL_NUMBER, MAX_NUMBER, RelationAddress
from pfs.files.segments import check_block_size
from pfs.wal.redo import CatalogChange

DATABASE = 5
"""The database that page files are relations of."""

MAX_NAME = 255
"""The longest name of a page file, in bytes of UTF-8."""


class CatalogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One page file."""

    name: str
    number: int
    page_size: int

    @property
    def address(self) -> RelationAddress:
        """The relation that holds its pages."""
        return RelationAddress(DEFAULT_TABLESPACE, DATABASE, self.number)


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["pfs catalog"]
    version: Literal[1]
    entries: int
    next_number: int


class _Trailer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    crc32: str


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """Page files by name, and the lowest relation number that was never given away."""

    entries: Mapping[str, CatalogEntry] = field(default_factory=lambda: MappingProxyType({}))
    next_number: int = FIRST_NORMAL_NUMBER

    def by_number(self) -> dict[int, CatalogEntry]:
        """All page files, by number."""
        return {entry.number: entry for entry in self.entries.values()}

    def get(self, name: str) -> CatalogEntry:
        """The page file of this name.  Raises `InvalidName`, `PageFileNotFound`."""
        entry = self.entries.get(check_name(name))
        if entry is None:
            raise PageFileNotFound(f"there is no page file {name!r}")
        return entry

    def check_absent(self, name: str) -> None:
        """Raise `InvalidName` or `PageFileExists` unless a page file could get this name."""
        if check_name(name) in self.entries:
            raise PageFileExists(f"there is a page file {name!r} already; choose another name or drop it first")

    def created(self, name: str, page_size: int) -> CatalogTable:
        """With a new page file, of number `next_number`.

        Raises `InvalidName`, `PageFileExists`, `InvalidRequest` (the page size), `RequestTooLarge` (no number is left).
        """
        return self.added(new_entry(name, self.next_number, page_size))

    def added(self, entry: CatalogEntry) -> CatalogTable:
        """With a new page file, whose number was never used.  Raises `InvalidName`, `PageFileExists`."""
        self.check_absent(entry.name)
        return CatalogTable({**self.entries, entry.name: entry}, max(self.next_number, entry.number + 1))

    def renamed(self, name: str, new_name: str) -> CatalogTable:
        """With a page file under another name.  Raises `InvalidName`, `PageFileNotFound`, `PageFileExists`."""
        entry = self.get(name)
        self.check_absent(new_name)
        entries = {**self.entries, new_name: CatalogEntry(new_name, entry.number, entry.page_size)}
        del entries[name]
        return CatalogTable(entries, self.next_number)

    def dropped(self, name: str) -> CatalogTable:
        """Without a page file.  Raises `InvalidName`, `PageFileNotFound`."""
        self.get(name)
        return CatalogTable({key: entry for key, entry in self.entries.items() if key != name}, self.next_number)

    def after(self, changes: Iterable[CatalogChange]) -> CatalogTable:
        """With everything done that the log says, of which nothing, a part or all may have been done already.

        Each change says what came of a page file in the end, and those that were not changed have kept their names.
        Raises `CorruptionFound` if the table is not one that these changes were made to.
        """
        entries = self.by_number()
        made = self.next_number
        for change in changes:
            before = entries.pop(change.file_id, None)
            made = max(made, change.file_id + 1)
            if change.dropped:
                continue
            page_size = before.page_size if before is not None else change.page_size
            if change.name is None or page_size is None:
                raise _contradicted(f"page file {change.file_id}, which was renamed, is missing")
            entries[change.file_id] = CatalogEntry(change.name, change.file_id, page_size)
        by_name = {entry.name: entry for entry in entries.values()}
        for entry in entries.values():
            if by_name[entry.name] is not entry:
                raise _contradicted(
                    f"page files {entry.number} and {by_name[entry.name].number} are both {entry.name!r}"
                )
        return CatalogTable(by_name, made)

    def above(self, number: int) -> CatalogTable:
        """With all further numbers above this one, which was found in use on disk."""
        return CatalogTable(self.entries, max(self.next_number, number + 1))


def new_entry(name: str, number: int, page_size: int) -> CatalogEntry:
    """An entry for a page file.  Raises `InvalidName`, `InvalidRequest` (the page size), `RequestTooLarge`."""
    check_name(name)
    check_block_size(page_size)
    if number > MAX_NUMBER:
        raise RequestTooLarge(f"page file {name!r} cannot be made: all relation numbers to {MAX_NUMBER} are used")
    return CatalogEntry(name, number, page_size)


def check_name(name: str) -> str:
    """Return a name that a page file can have, else raise `InvalidName`."""
    if type(name) is not str:
        raise InvalidName(f"the name of a page file must be a str, not {type(name).__name__}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName(f"name {name!r} cannot be encoded as UTF-8") from None
    if not 1 <= length <= MAX_NAME:
        raise InvalidName(f"name {name[:40]!r} has {length} bytes of UTF-8; it must have 1 to {MAX_NAME}")
    if name in (".", "..") or "/" in name or any(unicodedata.category(character) == "Cc" for character in name):
        raise InvalidName(f"name {name!r} must not be '.' or '..' and must not have '/' or control characters")
    if not unicodedata.is_normalized("NFC", name):
        raise InvalidName(f"name {name!r} is not in normalization form C; use unicodedata.normalize('NFC', name)")
    return name


def encode(table: CatalogTable) -> bytes:
    """The content of the catalog's file."""
    entries = [table.entries[name] for name in sorted(table.entries)]
    header = _Header("pfs catalog", 1, len(entries), table.next_number)
    body = b"".join(msgspec.json.encode(line) + b"\n" for line in (header, *entries))
    return body + msgspec.json.encode(_Trailer(_crc(body))) + b"\n"


def decode(data: bytes, path: str) -> CatalogTable:
    """The inverse of `encode`; `path` is for the message.  Raises `CatalogDamaged`."""
    body, last = data[: data.rfind(b"\n", 0, -1) + 1], data[data.rfind(b"\n", 0, -1) + 1 :]
    if last != msgspec.json.encode(_Trailer(_crc(body))) + b"\n":
        raise _damaged(path, "its last line is not the checksum of the rest")
    first, *lines = body.splitlines() or [b""]
    try:
        header = msgspec.json.decode(first, type=_Header)
        entries = [msgspec.json.decode(line, type=CatalogEntry) for line in lines]
        table = CatalogTable({check_name(entry.name): entry for entry in entries}, header.next_number)
        for entry in entries:
            check_block_size(entry.page_size)
    except (msgspec.MsgspecError, UnicodeDecodeError, PfsError) as error:
        raise _damaged(path, str(error)) from error
    numbers = {entry.number for entry in entries}
    if not len(numbers) == len(table.entries) == header.entries:
        raise _damaged(path, f"it has {len(table.entries)} names and {len(numbers)} numbers, not {header.entries}")
    if not all(FIRST_NORMAL_NUMBER <= number < header.next_number <= MAX_NUMBER + 1 for number in numbers):
        raise _damaged(path, f"a number is not from {FIRST_NORMAL_NUMBER} to below {header.next_number}")
    return table


def _crc(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"


def _damaged(path: str, reason: str) -> CatalogDamaged:
    return CatalogDamaged(f"the catalog {path!r} is damaged ({reason}); restore it from a backup")


def _contradicted(what: str) -> CorruptionFound:
    return CorruptionFound(f"the catalog contradicts the WAL: {what}; restore the directory from a backup")
