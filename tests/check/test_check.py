"""A check of a data directory: each kind of damage, made on purpose, is found, named, and repaired where it can be."""

from __future__ import annotations

import errno
import struct
from random import Random
from typing import get_args

import pytest

from pfs.check import Finding, Progress, Report, check
from pfs.errors import DirectoryLocked, NoSpace
from pfs.files.catalog import TEMPORARY_FILE
from pfs.testing.disk import CrashPolicy
from pfs.testing.faults import Fault, Operation
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.bodies import Create, Drop, Rename
from pfs.wal.control_file import MAKING, ControlData, ControlFile
from pfs.wal.log_files import LogFiles
from pfs.wal.log_view import LogView
from pfs.wal.recovery import flush_log
from pfs.wal.segment_header import SegmentHeader, encode_segment_header
from pfs.wal.sidecar import LOST, WRITTEN
from pfs.wal.slots import SlotFiles
from tests.check.directories import PAGES, SEGMENT, WAL_SEGMENT, A, B, Directory, close, made, made_in, page

A_PATH, A_SUM, B_PATH = "base/5/16384", "base/5/16384_sum", "base/5/16385"
LOG = "pfs_wal/000000010000000000000001"


def checked(directory: Directory, *, repair: bool = False) -> Report:
    report = check(directory.fs, repair=repair, segment_bytes=SEGMENT)
    assert not directory.fs.open_descriptors
    return report


def only(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def assert_repaired(directory: Directory, wanted: dict[str, bytes], *findings: Finding) -> None:
    """The repair leaves the pages as wanted and nothing to find; and so does the next start."""
    report = checked(directory, repair=True)
    assert (report.findings, report.repaired, report.obstacle) == ([], list(findings), "")
    assert report.state == "stopped in order"
    assert directory.pages() == wanted
    directory.session()
    assert directory.pages() == wanted
    assert checked(directory).findings == []


def record(number: int, field: str) -> int:
    """Where a field of the sidecar record of a page is."""
    block, slot = divmod(number, 31)
    return block * 512 + 16 + slot * 16 + {"checksum": 0, "flags": 4, "lsn": 8}[field]


def reseal(directory: Directory, path: str, file_id: int) -> None:
    """Make the changed blocks of a sidecar valid again."""
    from pfs.wal.crc import crc32c

    content = bytearray(directory.read(path))
    for offset in range(0, len(content), 512):
        crc = crc32c(struct.pack("<Q", file_id), crc32c(content[offset + 4 : offset + 512]))
        struct.pack_into("<I", content, offset, crc)
    directory.put(path, bytes(content))


# ------------------------------------------------------------------------------------------ nothing wrong


def test_a_directory_in_order_has_nothing_to_find_and_is_not_changed() -> None:
    directory = made()
    before = directory.fs.durable_files
    report = checked(directory)
    assert report == Report(state="stopped in order", page_files=2, pages=PAGES + 3)
    assert not report.damaged
    assert checked(directory, repair=True) == report
    assert directory.fs.durable_files == before


def test_what_recovery_will_write_is_no_damage() -> None:
    directory = made(stop=False)
    report = checked(directory)
    assert (report.state, report.findings) == ("in use", [])
    assert report.recovery is not None
    assert (report.recovery.transactions, report.recovery.pages, report.recovery.torn_bytes) == (5, PAGES + 3, 0)
    assert report.recovery.wal_bytes > PAGES * 512
    directory.session()
    assert checked(directory).findings == []


def test_a_torn_page_of_a_write_that_recovery_repeats_is_no_damage() -> None:
    directory = made()
    directory.session((A, 5, [page(5, 1), page(6, 1)], PAGES), stop=False)
    directory.change(A_PATH, 5 * 512 + 100, page(5, 1)[:100])
    assert checked(directory).findings == []
    directory.flip(A_PATH, 7 * 512)
    assert (only(checked(directory)).kind, only(checked(directory)).pgid) == ("page", 7)


def test_a_torn_sidecar_block_that_recovery_restores_is_judged_as_it_will_be() -> None:
    directory = made()
    directory.session((A, 5, [page(5, 1)], PAGES), stop=False)
    with_image = directory.fs.crash_image("all", Random(0))
    with pytest.raises(_PowerCutError):
        _cut_power_after(directory, "fdatasync", A_SUM)
    directory.flip(A_SUM, 100)
    assert checked(directory).findings == []
    directory.flip(A_PATH, 7 * 512)
    assert (only(checked(directory)).kind, only(checked(directory)).pgid) == ("page", 7)
    directory.fs = with_image  # no image yet: the records of the other pages are lost
    directory.flip(A_SUM, 100)
    findings = checked(directory).findings
    assert [(each.kind, each.pgid, each.n) for each in findings] == [("sidecar block", 0, 5), ("sidecar block", 6, 25)]


class _PowerCutError(Exception):
    pass


def _cut_power_after(directory: Directory, name: str, path: str) -> None:
    """Start the directory, and let everything end after an operation; what was written counts."""
    fs = directory.fs
    met = False

    def watch(operation: Operation) -> None:
        nonlocal met
        if met:
            raise _PowerCutError
        met = (operation.name, operation.path) == (name, path)

    fs.on_operation = watch
    try:
        directory.session()
    finally:
        fs.on_operation = None
        directory.fs = fs.crash_image("all", Random(0))


def test_a_sidecar_block_all_of_whose_pages_recovery_writes_is_not_judged() -> None:
    directory = made()
    directory.session((B, 0, [page(n, 8, 1024) for n in range(3)], 3), stop=False)
    directory.flip("base/5/16385_sum", 100)
    assert checked(directory).findings == []


def test_pages_that_recovery_cuts_off_are_no_damage() -> None:
    directory = made()
    directory.session((A, 0, [page(0)], PAGES), stop=False)
    directory.put(A_PATH + ".2", directory.read(A_PATH + ".2") + bytes(512 + 7))
    assert checked(directory).findings == []


def test_a_directory_in_use_is_refused() -> None:
    directory = made()
    store = directory.store()
    with pytest.raises(DirectoryLocked, match="in use by another System"):
        check(directory.fs)
    store.close()
    checked(directory)


def test_progress_is_told() -> None:
    told: list[Progress] = []
    check(made().fs, segment_bytes=SEGMENT, progress=told.append)
    assert {each.phase for each in told} == {"reading the WAL", "checking pages"}
    assert all(0 <= each.done <= each.total for each in told)
    assert told[-1] == Progress("checking pages", PAGES * 512 + 3 * 1024, PAGES * 512 + 3 * 1024)


# ------------------------------------------------------------------------------------------ pages


def test_a_page_that_does_not_match_its_checksum_is_named_and_repaired() -> None:
    directory = made()
    whole = directory.pages()
    directory.flip(A_PATH + ".1", 3 * 512 + 99)
    finding = only(checked(directory))
    assert (finding.kind, finding.path, finding.page_file) == ("page", A_PATH + ".1", "a")
    assert (finding.pgid, finding.n, finding.damage, finding.repairable) == (19, 1, True, True)
    assert_repaired(directory, whole, finding)


def test_neighbouring_pages_with_the_same_fault_are_one_finding() -> None:
    directory = made()
    whole = directory.pages()
    for number in (2, 3, 4, 9):
        directory.flip(A_PATH, number * 512)
    first, second = checked(directory).findings
    assert [(each.pgid, each.n) for each in (first, second)] == [(2, 3), (9, 1)]
    assert checked(directory, repair=True).repaired == [first, second]
    assert directory.pages() == whole


def test_a_page_at_the_wrong_place_is_found_though_it_is_whole() -> None:
    directory = made()
    whole = directory.pages()
    directory.change(A_PATH, 0, page(1) + page(0))
    finding = only(checked(directory))
    assert (finding.kind, finding.pgid, finding.n) == ("page", 0, 2)
    assert_repaired(directory, whole, finding)


def test_a_page_that_the_log_no_longer_has_cannot_be_repaired_and_is_left_as_it_is() -> None:
    directory = made()
    directory.session((A, 0, [page(0, 1)], PAGES))
    directory.session(*((B, 0, [bytes([n]) * 1024] * 3, 3) for n in range(10)))
    directory.forget_log()
    directory.flip(A_PATH, 7 * 512)
    directory.flip(B_PATH, 1)
    damaged = directory.read(A_PATH)
    lost, mended = checked(directory).findings
    assert (lost.page_file, lost.pgid, lost.repairable) == ("a", 7, False)
    assert (mended.page_file, mended.pgid, mended.repairable) == ("b", 0, True)
    report = checked(directory, repair=True)
    assert (report.findings, report.repaired, report.damaged) == ([lost], [mended], True)
    assert directory.read(A_PATH) == damaged


def test_a_write_that_the_disk_lost_is_found_by_the_log() -> None:
    directory = made()
    before = directory.files()
    directory.session((A, 35, [page(35, 1)], PAGES))
    whole = directory.pages()
    for path in (A_PATH + ".2", A_SUM):
        directory.put(path, before[path])
    finding = only(checked(directory))
    assert (finding.kind, finding.pgid, finding.n) == ("lost write", 35, 1)
    assert_repaired(directory, whole, finding)


def test_a_page_from_behind_the_end_of_the_log_says_that_log_was_lost() -> None:
    directory = made()
    log_before = {path: directory.read(path) for path in (LOG, "pfs_control")}
    directory.session((A, 35, [page(35, 1)], PAGES))
    for path, content in log_before.items():
        directory.put(path, content)
    finding = only(checked(directory))
    assert (finding.kind, finding.pgid, finding.repairable) == ("page from elsewhere", 35, False)
    assert checked(directory, repair=True).findings == [finding]


def test_a_page_that_cannot_be_read_is_named_and_the_others_are_checked() -> None:
    directory = made()
    directory.flip(A_PATH, 9 * 512)

    def fail(operation: Operation) -> None:
        if operation.name == "preadv" and operation.path == A_PATH:
            end = operation.offset + operation.length
            directory.fs.faults = [Fault(errno.EIO)] if operation.offset <= 4 * 512 < end else []

    directory.fs.on_operation = fail
    unreadable, page_9 = check(directory.fs, segment_bytes=SEGMENT).findings
    assert (unreadable.kind, unreadable.pgid, unreadable.n) == ("unreadable", 4, 1)
    assert (page_9.kind, page_9.pgid) == ("page", 9)


def test_a_file_that_cannot_be_opened_does_not_hide_the_others() -> None:
    directory = made()
    directory.flip(B_PATH, 0)
    directory.fs.faults = [Fault(errno.EACCES, operation="open", path=A_SUM, forever=True)]
    unreadable, page_0 = checked(directory).findings
    assert (unreadable.kind, unreadable.page_file) == ("unreadable", "a")
    assert (page_0.kind, page_0.page_file) == ("page", "b")


# ------------------------------------------------------------------------------------------ sidecars


def test_a_damaged_sidecar_block_is_named_with_its_pages_and_repaired() -> None:
    directory = made()
    whole = directory.pages()
    directory.flip(A_SUM, 512 + 77)
    finding = only(checked(directory))
    assert (finding.kind, finding.path, finding.pgid, finding.n) == ("sidecar block", A_SUM, 31, 9)
    assert_repaired(directory, whole, finding)


def test_pages_of_a_damaged_block_are_proven_by_an_image_of_it_that_the_log_has() -> None:
    directory = made()
    directory.session(*((B, 0, [bytes([n]) * 1024] * 3, 3) for n in range(10)))
    directory.forget_log()
    directory.session((A, 33, [page(33, 1)], PAGES))  # block 1 was logged as it was before
    whole = directory.pages()
    directory.flip(A_SUM, 512 + 77)
    directory.flip(A_PATH + ".2", 3 * 512)
    proven, lost, more = checked(directory).findings
    assert [(each.kind, each.pgid, each.n, each.repairable) for each in (proven, lost, more)] == [
        ("sidecar block", 31, 4, True),
        ("sidecar block", 35, 1, False),
        ("sidecar block", 36, 4, True),
    ]
    report = checked(directory, repair=True)
    assert report.repaired == [proven, more]
    assert (only(report).kind, only(report).pgid, only(report).n) == ("page record", 35, 1)
    directory.change(A_PATH + ".2", 3 * 512, whole[A_PATH + ".2"][3 * 512 : 4 * 512])
    report = checked(directory, repair=True)
    assert (report.findings, [each.pgid for each in report.repaired]) == ([], [35])
    assert directory.pages() == whole


def test_an_image_of_a_block_from_before_a_bulk_append_proves_nothing() -> None:
    directory = made()
    directory.session((A, 33, [page(33, 1)], PAGES), stop=False)
    directory.session((A, 34, [page(34, 1)], PAGES))
    with_image = directory.fs.crash_image("all", Random(0))
    directory.flip(A_SUM, 512 + 77)
    assert only(checked(directory)).repairable
    directory.fs = with_image
    store = directory.store()
    log = directory.start(store)
    log.buffer.insert_commit(log.next_transaction, A, 35, 5, PAGES, bulk=True)
    flush_log(log.files, log.buffer)
    close(log)
    store.close()
    directory.session()
    assert checked(directory).findings == []
    directory.flip(A_SUM, 512 + 77)
    assert [(each.pgid, each.n, each.repairable) for each in checked(directory).findings] == [
        (31, 4, True),
        (35, 5, False),
    ]


def test_a_sidecar_that_is_gone_is_made_again() -> None:
    directory = made()
    whole = directory.pages()
    directory.fs.unlink(A_SUM)
    findings = checked(directory).findings
    assert [(each.kind, each.pgid, each.n) for each in findings] == [
        ("page record", 0, 16),
        ("page record", 16, 16),
        ("page record", 32, 8),
    ]
    assert all("never written" in each.message for each in findings)
    assert_repaired(directory, whole, *findings)


def test_a_record_that_was_lost_is_found() -> None:
    directory = made()
    whole = directory.pages()
    directory.change(A_SUM, record(8, "checksum"), struct.pack("<IIQ", 0, LOST, 0))
    reseal(directory, A_SUM, A)
    finding = only(checked(directory))
    assert (finding.kind, finding.pgid, finding.n) == ("page record", 8, 1)
    assert "lost" in finding.message
    assert_repaired(directory, whole, finding)


def test_records_behind_the_last_page_mean_nothing() -> None:
    directory = made()
    directory.change(A_SUM, record(PAGES, "checksum"), struct.pack("<IIQ", 5, WRITTEN, 5))
    reseal(directory, A_SUM, A)
    directory.put(A_SUM, directory.read(A_SUM) + b"x" * 512)
    assert checked(directory).findings == []


# ------------------------------------------------------------------------------------------ lengths of files


def test_pages_that_are_missing_at_the_end_are_named_and_repaired() -> None:
    directory = made()
    whole = directory.pages()
    directory.cut(A_PATH + ".2", 3 * 512)
    finding = only(checked(directory))
    assert (finding.kind, finding.path, finding.pgid, finding.n) == ("page missing", A_PATH + ".2", 35, 5)
    assert_repaired(directory, whole, finding)


def test_a_segment_that_is_missing_in_the_middle_is_made_again() -> None:
    directory = made()
    whole = directory.pages()
    directory.fs.unlink(A_PATH + ".1")
    findings = checked(directory).findings
    assert [(each.kind, each.pgid, each.n) for each in findings] == [("page missing", 16, 16)]
    assert_repaired(directory, whole, findings[0])


def test_what_is_behind_the_end_stays_when_a_file_is_lengthened() -> None:
    directory = made()
    whole = directory.pages()
    directory.put(A_PATH + ".3", b"x" * 512)
    directory.fs.unlink(A_PATH + ".1")
    report = checked(directory, repair=True)
    assert [each.kind for each in report.repaired] == ["page missing"]
    assert [each.kind for each in report.findings] == ["left over"]
    assert directory.pages() == whole | {A_PATH + ".3": b"x" * 512}


def test_a_page_file_whose_files_are_gone_is_made_again() -> None:
    directory = made()
    whole = directory.pages()
    for path in list(directory.files()):
        directory.fs.unlink(path)
    directory.fs.rmdir("base/5")
    directory.fs.rmdir("base")
    findings = checked(directory).findings
    assert [(each.kind, each.page_file, each.pgid, each.n) for each in findings] == [
        ("file missing", "a", 0, 0),
        ("page missing", "a", 0, 16),
        ("page missing", "a", 16, 16),
        ("page missing", "a", 32, 8),
        ("file missing", "b", 0, 0),
        ("page missing", "b", 0, 3),
    ]
    report = checked(directory, repair=True)
    assert (report.findings, report.repaired) == ([], findings)
    assert directory.pages() == whole


def test_a_file_is_lengthened_only_if_the_log_has_all_that_is_missing() -> None:
    directory = made()
    directory.session(*((B, 0, [bytes([n]) * 1024] * 3, 3) for n in range(10)), (A, 39, [page(39)], PAGES))
    directory.forget_log()
    directory.cut(A_PATH + ".2", 6 * 512)
    directory.flip(B_PATH, 0)
    missing, page_0 = checked(directory).findings
    assert (missing.kind, missing.pgid, missing.n, missing.repairable) == ("page missing", 38, 2, False)
    report = checked(directory, repair=True)
    assert report.damaged
    assert len(directory.read(A_PATH + ".2")) == 6 * 512
    assert page_0.repairable


def test_missing_pages_of_a_directory_that_recovery_refuses_are_all_reported() -> None:
    directory = made()
    directory.session(*((B, 0, [bytes([n]) * 1024] * 3, 3) for n in range(10)), (A, 0, [page(0)], PAGES))
    directory.forget_log()
    directory.session((B, 0, [b"c" * 1024], 3), (A, 1, [page(1, 1)], PAGES), stop=False)
    directory.cut(A_PATH + ".2", 6 * 512)
    directory.flip(B_PATH, 1024)
    before = checked(directory)
    assert [(each.kind, each.repairable) for each in before.findings] == [("page missing", False), ("page", True)]
    report = checked(directory, repair=True)
    assert report.findings == before.findings
    assert report.repaired == []
    assert "38 pages, and 40 were committed" in report.obstacle


def test_pages_beyond_those_that_were_committed_are_damage_and_stay() -> None:
    directory = made()
    directory.put(A_PATH + ".2", directory.read(A_PATH + ".2") + bytes(1024))
    finding = only(checked(directory))
    assert (finding.kind, finding.pgid, finding.n, finding.repairable) == ("page count", PAGES, 2, False)
    assert checked(directory, repair=True).findings == [finding]
    directory.flip(A_PATH, 0)
    report = checked(directory, repair=True)
    assert "recovery would cut them off" in report.obstacle
    assert [each.repairable for each in report.findings] == [False, True]
    assert len(directory.read(A_PATH + ".2")) == 10 * 512


def test_a_length_that_is_no_multiple_of_the_page_size_is_damage_after_a_stop() -> None:
    directory = made()
    directory.put(A_PATH + ".2", directory.read(A_PATH + ".2") + b"torn")
    finding = only(checked(directory))
    assert (finding.kind, finding.path) == ("file size", A_PATH + ".2")
    assert "4100 bytes, not a multiple of the page size 512" in finding.message
    whole = directory.pages() | {A_PATH + ".2": directory.read(A_PATH + ".2")[:-4]}
    assert_repaired(directory, whole, finding)


def test_a_segment_that_is_longer_than_a_segment_can_be_is_damage() -> None:
    directory = made()
    directory.put(A_PATH, directory.read(A_PATH) + bytes(512))
    kinds = {each.kind: each for each in checked(directory).findings}
    assert "more than the 8192 of a segment" in kinds["file size"].message


def test_bytes_in_a_segment_behind_the_end_are_said() -> None:
    directory = made()
    directory.put(A_PATH + ".3", b"x" * 512)
    directory.put(A_PATH + ".4", b"")
    finding = only(checked(directory))
    assert (finding.kind, finding.path, finding.damage) == ("left over", A_PATH + ".3", False)


def test_the_length_of_a_file_of_which_the_log_says_nothing_is_taken_as_it_is() -> None:
    directory = made()
    store = directory.store()
    made_in(store, "c", 512)
    store.close()
    assert checked(directory).findings == []
    directory.put("base/5/16386", bytes(512))
    finding = only(checked(directory))
    assert (finding.kind, finding.page_file) == ("page record", "c")
    directory.put("base/5/16386", bytes(7))
    finding = only(checked(directory))
    assert (finding.kind, finding.repairable) == ("file size", False)


# ------------------------------------------------------------------------------------------ control file and log


def test_one_slot_of_the_control_file_may_be_torn_and_is_made_again() -> None:
    for offset in (9, 4096 + 9):
        directory = made()
        directory.flip("pfs_control", offset)
        report = checked(directory)
        assert (only(report).kind, only(report).damage, report.damaged) == ("control file", False, False)
        assert checked(directory, repair=True).findings == []


def test_a_control_file_without_a_valid_slot_is_damage() -> None:
    directory = made()
    for offset in (9, 4096 + 9):
        directory.flip("pfs_control", offset)
    finding = only(checked(directory))
    assert (finding.kind, finding.repairable) == ("control file", False)
    assert "no slot" in finding.message


def test_a_control_file_that_is_missing_is_damage_only_if_there_is_a_log() -> None:
    directory = made()
    directory.fs.unlink("pfs_control")
    finding = only(checked(directory))
    assert finding.kind == "control file"
    assert "it is missing, but there is a log" in finding.message
    directory.fs.unlink(LOG)
    assert checked(directory).findings == []
    assert checked(directory).state == "there is no log"
    directory.put("base/5/99999", b"")
    report = checked(directory, repair=True)
    assert (report.findings, [each.path for each in report.repaired]) == ([], ["base/5/99999"])


def test_an_empty_directory_is_in_order() -> None:
    fs = SimulatedFileSystem()
    assert check(fs) == Report(state="there is no log")


def test_of_a_log_that_is_being_made_nothing_is_wanted() -> None:
    fs = SimulatedFileSystem()
    control = ControlFile(fs)
    control.create(ControlData(system_id=77, segment_size=WAL_SEGMENT, state=MAKING))
    control.close()
    report = check(fs)
    assert (report.state, report.findings) == ("being made", [])


def long_log() -> Directory:
    """A log of several segments, of which recovery needs only a part."""
    directory = made()
    directory.session(*((A, n, [page(n, 3)] * 20, PAGES) for n in range(10)))
    directory.session(*((A, n, [page(n, 4)] * 20, PAGES) for n in range(8)), stop=False)
    return directory


def test_damage_in_the_log_that_recovery_needs_is_damage() -> None:
    directory = long_log()
    view = LogView(directory.fs)
    place = list(view.scan())[5].lsn
    path = view.files.path(place // WAL_SEGMENT)
    directory.flip(path, place % WAL_SEGMENT + 70)
    report = checked(directory)
    kinds = {each.kind: each for each in report.findings}
    assert (kinds["log"].path, kinds["log"].lsn, kinds["log"].repairable) == (path, place, False)
    assert "acknowledged writes would be lost" in kinds["log"].message
    assert report.recovery is None
    assert checked(directory, repair=True).damaged


def test_damage_in_the_log_before_the_redo_point_costs_only_what_is_before_it() -> None:
    directory = long_log()
    view = LogView(directory.fs)
    assert view.redo_lsn // WAL_SEGMENT > 3
    directory.flip(view.files.path(2), 70)
    report = checked(directory)
    finding = only(report)
    assert (finding.kind, finding.path, finding.lsn) == ("log", view.files.path(2), 2 * WAL_SEGMENT + 64)
    assert "recovery can do without" in finding.message
    assert report.recovery is not None


def test_damage_in_the_segment_of_the_redo_point_but_before_it() -> None:
    directory = made()
    directory.flip(LOG, 64 + 70)
    finding = only(checked(directory))
    assert (finding.kind, finding.lsn) == ("log", WAL_SEGMENT + 64)
    directory.flip(A_PATH, 0)
    assert [each.repairable for each in checked(directory).findings if each.kind == "page"] == [False]


def test_a_torn_tail_is_part_of_the_recovery_and_no_damage() -> None:
    directory = made(stop=False)
    view = LogView(directory.fs)
    last = list(view.scan())[-1]
    directory.flip(LOG, last.lsn % WAL_SEGMENT + 70)
    report = checked(directory)
    assert report.findings == []
    assert report.recovery is not None
    assert (report.recovery.torn_bytes, report.recovery.transactions) == (64, 4)


def test_a_segment_that_is_missing_or_of_another_system_is_named() -> None:
    directory = long_log()
    view = LogView(directory.fs)
    number = view.redo_lsn // WAL_SEGMENT + 1
    path = view.files.path(number)
    header = encode_segment_header(SegmentHeader(1, number, 78, WAL_SEGMENT, 1))
    whole = directory.read(path)
    directory.change(path, 0, header)
    findings = [each for each in checked(directory).findings if each.path == path]
    assert {each.kind for each in findings} == {"log", "log segment"}
    assert all("system id 78, and 77 is wanted" in each.message for each in findings)
    assert not any(each.repairable for each in findings)
    directory.fs.unlink(path)
    (finding,) = [each for each in checked(directory).findings if each.kind == "log"]
    assert f"{path!r} is missing" in finding.message
    directory.put(path, whole)
    assert checked(directory).findings == []


def test_a_checkpoint_that_cannot_be_read_is_damage() -> None:
    directory = made()
    lsn = LogView(directory.fs).control.checkpoint_lsn
    directory.flip(LOG, lsn % WAL_SEGMENT + 70)
    (finding,) = checked(directory).findings
    assert (finding.kind, finding.lsn) == ("log", lsn)


def test_a_log_that_contradicts_itself_is_damage() -> None:
    directory = made()
    store = directory.store()
    log = directory.start(store)
    log.buffer.insert_page(99, A, 0, page(0))
    log.buffer.insert_commit(99, A, 0, 3, PAGES)
    flush_log(log.files, log.buffer)
    close(log)
    store.close()
    (finding,) = checked(directory).findings
    assert finding.kind == "log"
    assert "contradicts itself" in finding.message


def test_segments_made_ahead_that_are_damaged_are_removed() -> None:
    directory = made()
    files = LogFiles(directory.fs, system_id=77, segment_size=WAL_SEGMENT)
    for number in (2, 3, 4):
        files.prepare(number, 1)
    directory.flip(files.path(2), 5)
    directory.cut(files.path(3), 1000)
    report = checked(directory)
    assert [(each.kind, each.path, each.repairable) for each in report.findings] == [
        ("log segment", files.path(2), True),
        ("log segment", files.path(3), True),
    ]
    assert checked(directory, repair=True).repaired == report.findings
    assert directory.fs.listdir("pfs_wal") == [files.name(1)]


def test_segments_that_wait_to_be_recycled_are_said() -> None:
    directory = long_log()
    view = LogView(directory.fs)
    directory.change(view.files.path(1), 0, encode_segment_header(SegmentHeader(1, 99, 77, WAL_SEGMENT, 1)))
    finding = only(checked(directory))
    assert (finding.kind, finding.path, finding.damage) == ("left over", view.files.path(1), False)


# ------------------------------------------------------------------------------------------ catalog, strays


def test_a_damaged_catalog_is_damage() -> None:
    directory = made()
    directory.flip("pfs.catalog", 20)
    assert (only(checked(directory)).kind, checked(directory).page_files) == ("catalog", 0)
    directory.fs.unlink("pfs.catalog")
    assert "it is missing, but there are page files" in only(checked(directory)).message


def test_changes_of_the_catalog_that_recovery_repeats_are_no_damage() -> None:
    directory = made()
    store = directory.store()
    log = directory.start(store)
    log.buffer.insert(Create(B + 1, 512, "c"))
    directory.log_write(log, B + 1, 0, [page(0)], 1)
    log.buffer.insert(Rename(A, "renamed"))
    log.buffer.insert(Drop(B))
    flush_log(log.files, log.buffer)
    close(log)
    store.close()
    assert [(each.kind, each.path) for each in checked(directory).findings] == [
        ("stray", B_PATH),
        ("stray", "base/5/16385_sum"),
    ]
    assert checked(directory).page_files == 2
    directory.flip(A_PATH, 0)
    assert [each.page_file for each in checked(directory).findings if each.damage] == ["renamed"]


def test_what_belongs_to_nothing_is_said_and_what_is_pfs_s_own_removed() -> None:
    directory = made()
    strays = ["base/5/20000", "base/5/20000.1", "base/5/20000_sum", "pfs_wal/xlogtemp.000000010000000000000002"]
    others = {
        "base/5/16384_fsm": "unknown file",
        "base/5/notes": "unknown file",
        "notes": "unknown file",
        "pfs.catalog.new": "left over",
        "pfs_control.new": "left over",
        "pfs_wal/000000010000000000000001.torn": "left over",
        "pfs_wal/000000020000000000000001": "left over",
        "pfs_wal/notes": "unknown file",
    }
    for path in [*strays, *others]:
        directory.put(path, b"x")
    directory.fs.mkdir("more")
    directory.put("more/inside", b"x")
    report = checked(directory)
    others["more"] = "unknown file"
    assert {each.path: each.kind for each in report.findings if not each.repairable} == others
    assert sorted(each.path for each in report.findings if each.repairable) == strays
    assert not report.damaged
    after = checked(directory, repair=True)
    assert sorted(each.path for each in after.repaired) == strays
    assert {each.path for each in after.findings} == {*others} - {TEMPORARY_FILE}  # the catalog was written anew
    assert TEMPORARY_FILE in others


def test_a_slot_without_a_valid_record_is_said() -> None:
    directory = made()
    slots = SlotFiles(directory.fs)
    slots.create("good")
    slots.create("bad")
    directory.flip("pfs_slots/bad", 20)
    directory.put("pfs_slots/Not a slot", b"")
    other, damaged = checked(directory).findings
    assert (other.path, other.kind, other.damage) == ("pfs_slots/Not a slot", "slot", False)
    assert (damaged.path, damaged.kind, damaged.damage) == ("pfs_slots/bad", "slot", False)


# ------------------------------------------------------------------------------------------ repairing


def test_a_repair_without_space_loses_nothing() -> None:
    directory = made()
    whole = directory.pages()
    for number in range(PAGES):
        directory.flip(A_PATH + ("", ".1", ".2")[number // 16], number % 16 * 512)
    damaged = directory.pages()
    directory.fs.faults = [Fault(errno.ENOSPC, operation="pwritev", path="pfs_wal/xlogtemp*", forever=True)]
    with pytest.raises(NoSpace):
        check(directory.fs, repair=True, segment_bytes=SEGMENT)
    assert not directory.fs.open_descriptors
    assert directory.pages() == damaged
    directory.fs.faults = []
    assert checked(directory, repair=True).findings == []
    assert directory.pages() == whole


def damaged_everywhere() -> tuple[Directory, dict[str, bytes]]:
    directory = made()
    whole = directory.pages()
    directory.flip(A_PATH, 3 * 512)
    directory.flip(A_SUM, 512 + 40)
    directory.cut(B_PATH, 1024)
    directory.put("base/5/20000", b"x")
    return directory, whole


@pytest.mark.untraced
@pytest.mark.parametrize("policy", get_args(CrashPolicy))
def test_a_repair_can_be_cut_short_at_any_moment(policy: CrashPolicy) -> None:
    for left in range(0, 400, 5):
        directory, whole = damaged_everywhere()
        fs = directory.fs
        count = left

        def count_down(_: Operation) -> None:
            nonlocal count
            count -= 1
            if count < 0:
                raise _PowerCutError

        fs.on_operation = count_down
        ended = True
        try:
            check(fs, repair=True, segment_bytes=SEGMENT)
        except _PowerCutError:
            ended = False
        fs.on_operation = None
        directory.fs = fs.crash_image(policy, Random(left))
        report = checked(directory, repair=True)
        assert {each.kind for each in report.findings} <= {"left over"}, f"cut after {left} operations, {policy}"
        assert directory.pages() == whole, f"cut after {left} operations, {policy}"
        assert checked(directory, repair=True).repaired == []
    assert ended, "the last one was not cut short"
