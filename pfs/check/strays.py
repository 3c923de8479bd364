"""Files that belong to nothing: of page files that are gone, left by a crash, or not of pfs at all; and slots.

None of them is damage.  They are said, because somebody may wonder about the space; those of dropped page files are
removed by every start, and by a repair.
"""

from __future__ import annotations

from collections.abc import Iterator

from pfs.check.findings import Findings
from pfs.check.log import LogFacts
from pfs.errors import PfsError
from pfs.files.catalog import CATALOG_FILE, PAGE_FILES
from pfs.files.catalog import TEMPORARY_FILE as NEW_CATALOG
from pfs.files.catalog_table import CatalogTable
from pfs.files.filesystem import FileSystem
from pfs.files.relation import Fork, parse_file_name, parse_sidecar_name
from pfs.files.store import LOCK_FILE
from pfs.wal.blocking_io import read_whole
from pfs.wal.control_file import CONTROL_FILE
from pfs.wal.control_file import TEMPORARY_FILE as NEW_CONTROL_FILE
from pfs.wal.log_files import WAL_DIRECTORY
from pfs.wal.lsn import DEFAULT_SEGMENT_SIZE, parse_segment_name
from pfs.wal.slots import SLOT_DIRECTORY, check_slot_name, decode_slot

_BELONGS = {LOCK_FILE, CATALOG_FILE, CONTROL_FILE, "base", PAGE_FILES, WAL_DIRECTORY, SLOT_DIRECTORY}
_LEFT_OVER = {
    NEW_CATALOG: "a catalog that never became the catalog; the next change of the catalog writes over it",
    NEW_CONTROL_FILE: "a control file that never became the control file; nothing needs it",
}


def check_strays(fs: FileSystem, catalog: CatalogTable | None, log: LogFacts, found: Findings) -> None:
    """Look at every name in the directory."""
    numbers = None if catalog is None else {entry.number for entry in catalog.entries.values()}
    for path in _paths(fs, ""):
        place, _, name = path.rpartition("/")
        if path in _LEFT_OVER:
            found.add("left over", path, _LEFT_OVER[path], damage=False)
        elif place == WAL_DIRECTORY:
            _check_log_name(path, name, log, found)
        elif place == SLOT_DIRECTORY:
            _check_slot(fs, path, name, found)
        elif place == PAGE_FILES and _number(name) is not None:
            if numbers is not None and _number(name) not in numbers:
                message = "it belongs to no page file: one that was dropped, or whose creation was cut short"
                found.add("stray", path, message, damage=False, repairable=True)
        elif path not in _BELONGS:
            found.add("unknown file", path, "it is none of pfs's files", damage=False)


def _paths(fs: FileSystem, place: str) -> Iterator[str]:
    """All files, and the directories that do not belong there, which are not looked into."""
    for name in fs.listdir(place):
        path = f"{place}/{name}" if place else name
        if fs.stat(path).is_directory and path in _BELONGS:
            yield from _paths(fs, path)
        else:
            yield path


def _number(name: str) -> int | None:
    """The page file that a file belongs to by its name."""
    parsed = parse_file_name(name)
    if parsed is not None:
        return parsed.number if parsed.fork is Fork.MAIN else None
    return parse_sidecar_name(name)


def _check_log_name(path: str, name: str, log: LogFacts, found: Findings) -> None:
    control = None if log.view is None else log.view.control
    size = DEFAULT_SEGMENT_SIZE if control is None else control.segment_size
    parsed = parse_segment_name(name, size)
    if name.startswith("xlogtemp."):
        found.add(
            "left over", path, "a segment in the making; the next start removes it", damage=False, repairable=True
        )
    elif name.endswith(".torn"):
        message = "what a crash left behind the end of the log, kept for whoever wants to look; it can be deleted"
        found.add("left over", path, message, damage=False)
    elif parsed is None:
        found.add("unknown file", path, f"no segment of {size} bytes has such a name", damage=False)
    elif control is not None and parsed.timeline != control.timeline:
        message = f"a segment of timeline {parsed.timeline}, and the log is on {control.timeline}"
        found.add("left over", path, message, damage=False)


def _check_slot(fs: FileSystem, path: str, name: str, found: Findings) -> None:
    try:
        slot = decode_slot(check_slot_name(name), read_whole(fs, path))
    except PfsError as error:
        found.add("slot", path, str(error), damage=False)
        return
    if slot.state == "damaged":
        message = "it is damaged, or its making was cut short: it holds nothing back; drop it, and begin anew"
        found.add("slot", path, message, damage=False)
