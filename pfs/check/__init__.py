"""Is everything in a data directory as it should be?  And what is not, can the log repair it?

`check` looks at every file of a directory that nobody uses: control file, log, catalog, page files and their sidecars,
slots, and what does not belong there.  It changes nothing, unless it is to repair.

What counts as damage is what a crash cannot explain.  A directory that was not stopped in order has torn files and
pages that were not written yet; the log has them, and recovery will write them.  So the plan of the recovery is worked
out first, and what it will write is not judged by what is on disk.

Pages are judged by more than their checksum.  A page that is valid by itself, but older than its newest image in the
log, is one whose last write the disk lost.  (An older lost write, of which the log has no image any more, cannot be
told from a page that was not written since.)

    findings.py    what was found, as data
    log.py         the control file and the log; the plan of the recovery; the newest images that the log has
    pages.py       page files: sizes, page counts, sidecars, pages
    strays.py      files that do not belong there
    repair.py      writing again what the log has
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pfs.check.findings import Finding, Findings, Recovery, Report
from pfs.check.log import LogFacts, check_log
from pfs.check.pages import DamagedPage, check_pages
from pfs.check.repair import repair as carry_repair_out
from pfs.check.strays import check_strays
from pfs.errors import FatalError, FileDamaged, PfsError
from pfs.files.catalog import CATALOG_FILE, PAGE_FILES, read_catalog
from pfs.files.catalog_table import CatalogTable
from pfs.files.filesystem import FileSystem
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import parse_file_name
from pfs.files.store import lock_directory
from pfs.wal.blocking_io import close_file
from pfs.wal.control_file import STATE_NAMES
from pfs.wal.recovery import Progress

__all__ = ["Finding", "Progress", "Recovery", "Report", "check"]


def check(
    directory: str | os.PathLike[str] | FileSystem,
    *,
    repair: bool = False,
    segment_bytes: int = 1 << 30,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Look at every file of a data directory, which nobody may use meanwhile; with `repair`, mend what the log has.

    segment_bytes: of the page files' segments, as in `SystemOptions`.  Repairing recovers the directory first, as every
    start does; what it could not mend is still in the report.

    Raises `DirectoryLocked`; if the lock or a directory cannot be read, what that is; and when repairing, `NoSpace`.
    Whatever else cannot be read is a finding.
    """
    if isinstance(directory, (str, os.PathLike)):
        fs: FileSystem = PosixFileSystem(directory)
        name = os.fspath(directory)
    else:
        fs, name = directory, "a simulated disk"
    tell = progress or _nobody
    report, damaged = _look(fs, name, segment_bytes, tell)
    if not repair or not any(finding.repairable for finding in report.findings):
        return report
    for finding in report.findings:
        if finding.kind == "page count":
            report.obstacle = f"{finding.path}: {finding.message}; recovery would cut them off: look at them first"
            return report
    obstacle = ""
    try:
        carry_repair_out(fs, damaged, segment_bytes=segment_bytes, progress=tell)
    except (FatalError, FileDamaged) as error:  # recovery refuses, and says why
        obstacle = str(error)
    after, _ = _look(fs, name, segment_bytes, tell)
    after.repaired = [each for each in report.findings if each.repairable and not _is_among(each, after.findings)]
    after.obstacle = obstacle
    return after


def _look(
    fs: FileSystem, name: str, segment_bytes: int, progress: Callable[[Progress], None]
) -> tuple[Report, list[DamagedPage]]:
    lock = lock_directory(fs, name)
    try:
        found = Findings()
        saved = _check_catalog(fs, found)
        log = check_log(fs, found, progress)
        catalog = saved if saved is None else _recovered(saved, log, found)
        report = Report(state=STATE_NAMES.get(log.state, "unknown") if log.state else "there is no log")
        damaged = check_pages(fs, catalog, log, found, report, segment_bytes, progress) if catalog else []
        check_strays(fs, catalog, log, found)
    finally:
        close_file(fs, lock)
    report.findings = found.all
    if log.end and log.plan is not None and not log.stopped:
        report.recovery = Recovery(
            wal_bytes=log.end - log.redo_lsn,
            transactions=log.plan.transactions,
            pages=log.plan.page_total,
            torn_bytes=log.torn_bytes,
        )
    return report, damaged


def _check_catalog(fs: FileSystem, found: Findings) -> CatalogTable | None:
    try:
        catalog = read_catalog(fs)
        if catalog is None and fs.exists(PAGE_FILES) and any(map(parse_file_name, fs.listdir(PAGE_FILES))):
            found.add("catalog", CATALOG_FILE, "it is missing, but there are page files; restore it from a backup")
    except PfsError as error:
        found.add("catalog", CATALOG_FILE, str(error))
        return None
    return catalog


def _recovered(catalog: CatalogTable, log: LogFacts, found: Findings) -> CatalogTable:
    """The catalog as recovery will make it: its file is as old as a checkpoint."""
    if log.plan is None:
        return catalog
    try:
        catalog = catalog.after(log.plan.catalog.values())
    except PfsError as error:
        found.add("catalog", CATALOG_FILE, str(error))
        return catalog
    missing = sorted(log.plan.page_counts.keys() - catalog.by_number().keys())
    if missing:
        message = f"it lacks page files whose pages the log counts, of ids {', '.join(map(str, missing))}"
        found.add("catalog", CATALOG_FILE, f"{message}: it is not the one that belongs to this log")
    return catalog


def _is_among(finding: Finding, others: list[Finding]) -> bool:
    return any(
        (finding.kind, finding.path) == (each.kind, each.path)
        and finding.pgid < each.pgid + max(each.n, 1)
        and each.pgid < finding.pgid + max(finding.n, 1)
        for each in others
    )


def _nobody(_: Progress) -> None:
    """Nobody wants to know."""
