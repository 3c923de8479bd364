"""Ways in which a disk may damage a directory: what `pfs.testing.damage` tries.

A damage says what each file that it concerns holds afterwards; None: the file is gone.  Two kinds:

* of pages and their sidecars, where a file keeps its length.  These may strike while a directory is open too, as
  nothing but reading the page finds them.
* of everything else, which a start must find: the log, the control file, the catalog, lengths and names of files.

`header_flips` goes through every byte of the header and the fixed part of one record of each type behind the redo
point; the others are chosen by chance.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from pfs.testing.rotting_directories import SEGMENT, Rotting
from pfs.wal.bodies import TYPE_NAMES
from pfs.wal.control_file import SLOT_OFFSETS, SLOT_SIZE
from pfs.wal.crc import crc32c
from pfs.wal.lsn import SEGMENT_HEADER_SIZE
from pfs.wal.records import FIXED_SIZES, HEADER_SIZE
from pfs.wal.sidecar import BLOCK_SIZE, RECORDS_PER_BLOCK

SECTOR = 512

Files = Mapping[str, bytes]
Changes = dict[str, bytes | None]


class Damage(NamedTuple):
    """What happens to the files of a directory; `what` says it in words."""

    what: str
    changes: Changes


def header_flips(directory: Rotting, random: Random) -> list[Damage]:
    """Each byte of the header and fixed part of one record of each type behind the redo point, with other bits."""
    found = {record.type: record for record in directory.log if record.lsn >= directory.control.redo_lsn}
    flips = []
    for kind, record in sorted(found.items()):
        path = directory.segments[record.lsn // SEGMENT]
        for offset in range(HEADER_SIZE + FIXED_SIZES[kind]):
            content = _flipped(directory.files[path], record.lsn % SEGMENT + offset, random.randint(1, 255))
            flips.append(Damage(f"byte {offset} of the {TYPE_NAMES[kind]} at LSN {record.lsn}", {path: content}))
    return flips


def page_damage(directory: Rotting, random: Random) -> Damage:
    """Something happens to pages or to blocks of sidecars."""
    return _chosen(_OF_PAGES, directory, random)


def other_damage(directory: Rotting, random: Random) -> Damage:
    """Something happens to the log, to other files, or to lengths and names."""
    return _chosen(_OF_THE_REST, directory, random)


def _chosen(kinds: Mapping[Callable[[_Disk], Damage], int], directory: Rotting, random: Random) -> Damage:
    (kind,) = random.choices(list(kinds), list(kinds.values()))
    return kind(_Disk(directory, directory.files, random))


def _flipped(content: bytes, offset: int, bits: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ bits]) + content[offset + 1 :]


def _put(content: bytes, offset: int, part: bytes) -> bytes:
    return content[:offset] + part + content[offset + len(part) :]


class _Disk(NamedTuple):
    """What a damage is chosen from."""

    directory: Rotting
    files: Files
    random: Random

    def page_file(self) -> tuple[str, int, int]:
        """The path of a file with pages, their size, and how many there are."""
        state = self.directory.last
        sizes = {f"base/5/{number}": len(state.contents[name][0]) for name, number in state.numbers.items()}
        paths = [path for path in self.files if path.split(".")[0] in sizes and self.files[path]]
        path = self.random.choice(paths)
        size = sizes[path.split(".")[0]]
        return path, size, len(self.files[path]) // size

    def sidecar(self) -> str:
        return self.random.choice([path for path in self.files if path.endswith("_sum") and self.files[path]])

    def segment(self) -> str:
        return self.random.choice(list(self.directory.segments.values()))

    def used_segment(self) -> str:
        """One from the redo point to the end of the log."""
        log, redo_lsn = self.directory.log, self.directory.control.redo_lsn
        return self.random.choice(
            [p for n, p in self.directory.segments.items() if redo_lsn // SEGMENT <= n <= log[-1].lsn // SEGMENT]
        )

    def record_bytes(self) -> tuple[str, int]:
        """A byte of a record behind the redo point."""
        records = [record for record in self.directory.log if record.lsn >= self.directory.control.redo_lsn]
        record = self.random.choice(records)
        offset = record.lsn % SEGMENT + self.random.randrange(record.length)
        return self.directory.segments[record.lsn // SEGMENT], offset

    def spoil(self, path: str, what: str = "") -> Damage:
        """A bit, a byte, or a sector of a file."""
        content, random = self.files[path], self.random
        offset = random.randrange(len(content))
        kind = random.choice(("bit", "bit", "byte", "byte", "noise", "noise", "zeros"))
        if kind == "bit":
            bit = random.randrange(8)
            return Damage(f"bit {bit} of byte {offset} of {path}", {path: _flipped(content, offset, 1 << bit)})
        if kind == "byte":
            return Damage(f"byte {offset} of {path}", {path: _flipped(content, offset, random.randint(1, 255))})
        first = offset // SECTOR * SECTOR
        length = min(SECTOR, len(content) - first)
        sector = random.randbytes(length) if kind == "noise" else bytes(length)
        return Damage(f"sector {first // SECTOR} of {path} is {kind}", {path: _put(content, first, sector)})

    def earlier(self, path: str, offset: int, size: int) -> bytes | None:
        """What was at a place at an earlier moment, other than now."""
        now = self.files[path][offset : offset + size]
        found = {files[path][offset : offset + size] for files in self.directory.earlier if path in files}
        found = {part for part in found if len(part) == size and part != now}
        return self.random.choice(sorted(found)) if found else None


# ---------------------------------------------------------------------------------------------- pages and sidecars


def _page(disk: _Disk) -> Damage:
    return disk.spoil(disk.page_file()[0])


def _sidecar(disk: _Disk) -> Damage:
    return disk.spoil(disk.sidecar())


def _page_and_sidecar(disk: _Disk) -> Damage:
    path, _, _ = disk.page_file()
    first, sidecar = disk.spoil(path), path.split(".")[0] + "_sum"
    second = disk.spoil(sidecar)
    return Damage(f"{first.what}; {second.what}", first.changes | second.changes)


def _swapped(disk: _Disk) -> Damage:
    path, size, count = disk.page_file()
    content = disk.files[path]
    a, b = disk.random.randrange(count), disk.random.randrange(count)
    pages = [content[number * size : (number + 1) * size] for number in (a, b)]
    return Damage(
        f"pages {a} and {b} of {path} are swapped", {path: _put(_put(content, a * size, pages[1]), b * size, pages[0])}
    )


def _misdirected(disk: _Disk) -> Damage:
    path, size, count = disk.page_file()
    source, _, _ = disk.page_file()
    a, b = disk.random.randrange(count), disk.random.randrange(len(disk.files[source]) // SECTOR)
    page = disk.files[source][b * SECTOR :][:size]
    return Damage(
        f"page {a} of {path} is overwritten by what is at sector {b} of {source}",
        {path: _put(disk.files[path], a * size, page)},
    )


def _misdirected_block(disk: _Disk) -> Damage:
    path, source = disk.sidecar(), disk.sidecar()
    a, b = (disk.random.randrange(len(disk.files[each]) // BLOCK_SIZE) for each in (path, source))
    block = disk.files[source][b * BLOCK_SIZE :][:BLOCK_SIZE]
    return Damage(
        f"block {a} of {path} is overwritten by block {b} of {source}",
        {path: _put(disk.files[path], a * BLOCK_SIZE, block)},
    )


def _stale(disk: _Disk) -> Damage:
    """A page, its sidecar block, or both, are as they were: the disk has lost writes."""
    for _ in range(50):
        path, size, count = disk.page_file()
        number, _, segment = path.partition(".")
        sidecar = f"{number}_sum"
        index = disk.random.randrange(count)
        pgid = index + (int(segment) if segment else 0) * (disk.directory.options.segment_bytes // size)
        page = disk.earlier(path, index * size, size)
        place = pgid // RECORDS_PER_BLOCK * BLOCK_SIZE
        block = disk.earlier(sidecar, place, BLOCK_SIZE)
        old_page = {path: _put(disk.files[path], index * size, page)} if page is not None else {}
        old_block = {sidecar: _put(disk.files[sidecar], place, block)} if block is not None else {}
        kind = disk.random.randrange(3)
        if kind == 0 and old_page:
            return Damage(f"page {pgid} of {number} is as it was", {**old_page})
        if kind == 1 and old_block:
            return Damage(f"the sidecar block of page {pgid} of {number} is as it was", {**old_block})
        if kind == 2 and old_page and old_block:
            return Damage(f"page {pgid} of {number} and its sidecar block are as they were", {**old_page, **old_block})
    return _page(disk)


_OF_PAGES: dict[Callable[[_Disk], Damage], int] = {
    _page: 20,
    _sidecar: 14,
    _page_and_sidecar: 6,
    _swapped: 3,
    _misdirected: 3,
    _misdirected_block: 1,
    _stale: 4,
}
"""With how often each is chosen."""


# ---------------------------------------------------------------------------------------------- everything else


def _log_record(disk: _Disk) -> Damage:
    path, offset = disk.record_bytes()
    bits = disk.random.choice((1 << disk.random.randrange(8), disk.random.randint(1, 255)))
    return Damage(f"byte {offset} of {path}", {path: _flipped(disk.files[path], offset, bits)})


def _log_anywhere(disk: _Disk) -> Damage:
    return disk.spoil(disk.random.choice((disk.segment, disk.used_segment))())


def _log_cut(disk: _Disk) -> Damage:
    path = disk.random.choice((disk.segment, disk.used_segment))()
    length = disk.random.choice(
        (0, SEGMENT_HEADER_SIZE, disk.random.randrange(SEGMENT), disk.record_bytes()[1] // 8 * 8)
    )
    return Damage(f"{path} is cut to {length} bytes", {path: disk.files[path][:length]})


def _log_gone(disk: _Disk) -> Damage:
    path = disk.random.choice((disk.segment, disk.used_segment))()
    return Damage(f"{path} is gone", {path: None})


def _log_header(disk: _Disk) -> Damage:
    """A header with one field forged, its checksum right or wrong."""
    path = disk.random.choice((disk.segment, disk.used_segment))()
    content, random = disk.files[path], disk.random
    name, offset, size = random.choice(
        (
            ("magic", 0, 8),
            ("version", 8, 4),
            ("timeline", 12, 4),
            ("number", 16, 8),
            ("system id", 24, 8),
            ("size", 32, 4),
            ("epoch", 36, 4),
            ("zeros", 40, 20),
        )
    )
    value = int.from_bytes(content[offset : offset + size], "little")
    forged = random.choice((value + 1, value ^ (1 << random.randrange(size * 8)), random.getrandbits(size * 8)))
    header = _put(content[:60], offset, (forged % (1 << size * 8)).to_bytes(size, "little"))
    right = random.random() < 0.6
    crc = struct.pack("<I", crc32c(header)) if right else content[60:64]
    return Damage(
        f"the {name} in the header of {path} is forged, its checksum is {'right' if right else 'wrong'}",
        {path: header + crc + content[64:]},
    )


def _log_earlier(disk: _Disk) -> Damage:
    """A segment, or a sector of it, as it was."""
    path = disk.random.choice((disk.segment, disk.used_segment))()
    whole = disk.earlier(path, 0, SEGMENT)
    if whole is None:
        return _log_anywhere(disk)
    if disk.random.random() < 0.5:
        return Damage(f"{path} is as it was", {path: whole})
    different = [
        at for at in range(0, SEGMENT, SECTOR) if whole[at : at + SECTOR] != disk.files[path][at : at + SECTOR]
    ]
    at = disk.random.choice(different)
    return Damage(
        f"sector {at // SECTOR} of {path} is as it was", {path: _put(disk.files[path], at, whole[at : at + SECTOR])}
    )


def _log_swapped(disk: _Disk) -> Damage:
    a, b = disk.used_segment(), disk.segment()
    return Damage(f"{a} and {b} are swapped", {a: disk.files[b], b: disk.files[a]})


def _log_and_page(disk: _Disk) -> Damage:
    """The log before the redo point, and a page that it may have to heal."""
    number = disk.directory.control.redo_lsn // SEGMENT
    older = [path for segment, path in disk.directory.segments.items() if segment < number]
    page = disk.random.choice((_page, _sidecar, _stale))(disk)
    if not older:
        return page
    path = disk.random.choice(older)
    kind = disk.random.randrange(3)
    if kind == 0:
        content = bytearray(disk.files[path])
        struct.pack_into("<Q", content, 24, 1)  # of another system
        struct.pack_into("<I", content, 60, crc32c(bytes(content[:60])))
        log = Damage(f"{path} is of another system", {path: bytes(content)})
    elif kind == 1:
        log = Damage(f"{path} is gone", {path: None})
    else:
        log = disk.spoil(path)
    return Damage(f"{page.what}; {log.what}", page.changes | log.changes)


def _control(disk: _Disk) -> Damage:
    content, random = disk.files["pfs_control"], disk.random
    numbers = random.choice(((0,), (1,), (0, 1)))
    for number in numbers:
        offset = SLOT_OFFSETS[number] + random.randrange(SLOT_SIZE)
        content = _flipped(content, offset, random.randint(1, 255))
    return Damage(f"a byte in each of the slots {numbers} of the control file", {"pfs_control": content})


def _control_sector(disk: _Disk) -> Damage:
    return disk.spoil("pfs_control")


def _control_cut(disk: _Disk) -> Damage:
    length = disk.random.choice((0, 511, 512, 4096, 4607, 4608, 8191))
    return Damage(f"the control file is cut to {length} bytes", {"pfs_control": disk.files["pfs_control"][:length]})


def _control_of_another_version(disk: _Disk) -> Damage:
    content = disk.files["pfs_control"]
    for offset in SLOT_OFFSETS:
        slot = _put(content[offset : offset + 508], disk.random.choice((8, 40)), struct.pack("<I", 9))
        content = _put(content, offset, slot + struct.pack("<I", crc32c(slot)))
    return Damage("the control file is of another version", {"pfs_control": content})


def _catalog(disk: _Disk) -> Damage:
    return disk.spoil("pfs.catalog")


def _catalog_cut(disk: _Disk) -> Damage:
    content = disk.files["pfs.catalog"]
    length = disk.random.randrange(len(content))
    return Damage(f"the catalog is cut to {length} bytes", {"pfs.catalog": content[:length]})


def _catalog_earlier(disk: _Disk) -> Damage:
    """The catalog of an earlier checkpoint; page files were made or dropped since."""
    found = {files["pfs.catalog"] for files in disk.directory.earlier} - {disk.files["pfs.catalog"]}
    catalog = disk.random.choice(sorted(found))
    return Damage(f"the catalog is as it was, of {len(catalog)} bytes", {"pfs.catalog": catalog})


def _gone(disk: _Disk) -> Damage:
    path = disk.random.choice(("pfs.catalog", "pfs_control", "pfs.lock", disk.page_file()[0], disk.sidecar()))
    return Damage(f"{path} is gone", {path: None})


def _lock(disk: _Disk) -> Damage:
    content = disk.random.randbytes(disk.random.randint(1, 20))
    return Damage(f"the lock file holds {content.hex()}", {"pfs.lock": content})


def _slot(disk: _Disk) -> Damage:
    slots = [path for path in disk.files if path.startswith("pfs_slots/")]
    return disk.spoil(disk.random.choice(slots)) if slots else _lock(disk)


def _pages_cut(disk: _Disk) -> Damage:
    path = disk.random.choice((disk.page_file()[0], disk.sidecar()))
    length = disk.random.randrange(len(disk.files[path]))
    return Damage(f"{path} is cut to {length} bytes", {path: disk.files[path][:length]})


def _pages_longer(disk: _Disk) -> Damage:
    path = disk.random.choice((disk.page_file()[0], disk.sidecar()))
    more = disk.random.randbytes(disk.random.choice((1, 511, 512, 1024)))
    return Damage(f"{path} has {len(more)} bytes more", {path: disk.files[path] + more})


_OF_THE_REST: dict[Callable[[_Disk], Damage], int] = {
    _log_record: 10,
    _log_anywhere: 6,
    _log_header: 6,
    _log_cut: 4,
    _log_gone: 1,
    _log_earlier: 2,
    _log_swapped: 1,
    _log_and_page: 6,
    _control: 3,
    _control_sector: 2,
    _control_cut: 1,
    _control_of_another_version: 1,
    _catalog: 2,
    _catalog_cut: 1,
    _catalog_earlier: 1,
    _gone: 1,
    _lock: 1,
    _slot: 2,
    _pages_cut: 3,
    _pages_longer: 2,
}
