"""Twenty thousand damages of everything on the disk, none silently wrong; and that it is noticed when a check is off.

More of it by hand: `python -m pfs.testing.damage --flips 2000000 --seed 7`.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from pfs.check import Report as CheckReport
from pfs.check import check
from pfs.errors import ForeignWalSegment, OutOfRange, PageCorrupt, WalDamaged
from pfs.files import checked_file, sidecar_file
from pfs.testing import damage, damages
from pfs.testing.crash_images import crashing
from pfs.testing.damage import Report, _OpenDirectory, _Trial, run
from pfs.testing.damage_judge import Expected, Opened, compare, expect
from pfs.testing.damages import Damage, header_flips
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.rotting_directories import NAMES, Rotting, directory
from pfs.wal import reader, recovery
from pfs.wal.bodies import TYPE_NAMES
from pfs.wal.crc import crc32c
from pfs.wal.heal import FoundPage, find_page
from pfs.wal.log_files import LogFiles
from pfs.wal.reader import Leftover, LogReader, LogScan
from pfs.wal.records import FIXED_SIZES, HEADER_SIZE, Record, decode
from pfs.wal.sidecar import PageRecord
from tests.simulation.untraced import run_untraced

pytestmark = pytest.mark.timeout(600)

FLIPS = 4_100
"""How many damages of each directory are tried."""
SHARE = 3_350
"""So many of them must be distinct."""


def test_the_parts_come_to_twenty_thousand_damages() -> None:
    assert len(NAMES) * SHARE >= 20_000


@pytest.mark.parametrize("name", NAMES)
def test_no_damage_of_anything_on_the_disk_is_silently_wrong(name: str) -> None:
    numbers = run_untraced("pfs.testing.damage", "--directory", name, "--flips", str(FLIPS))
    assert numbers["damages"] >= SHARE, numbers
    assert numbers["findings"] == 0
    assert min(numbers[kind] for kind in ("corrupt", "healed", "refused", "systems", "checks")) > 0, numbers


def test_every_byte_of_a_header_of_every_type_is_damaged() -> None:
    flips = {each.what.split(" at ")[0] for name in NAMES for each in header_flips(directory(name), Random(1))}
    for kind, name in TYPE_NAMES.items():
        assert {f"byte {offset} of the {name}" for offset in range(HEADER_SIZE + FIXED_SIZES[kind])} <= flips


@pytest.mark.parametrize("kind", [*damages._OF_PAGES, *damages._OF_THE_REST], ids=lambda kind: kind.__name__[1:])
def test_each_kind_of_damage_is_what_it_says(kind: Callable[[Any], Damage]) -> None:
    """It concerns files that are there, and those of pages and sidecars keep their lengths."""
    for name in ("stopped", "crashed"):
        rotting = directory(name)
        for seed in range(20):
            found = kind(damages._Disk(rotting, rotting.files, Random(seed)))
            assert found.what
            assert found.changes.keys() <= rotting.files.keys()
            if kind in damages._OF_PAGES:
                for path, content in found.changes.items():
                    assert content is not None
                    assert len(content) == len(rotting.files[path])


@pytest.mark.parametrize("kind", [*damages._OF_PAGES, *damages._OF_THE_REST], ids=lambda kind: kind.__name__[1:])
def test_whatever_is_damaged_before_a_start_is_right_healed_or_said(
    kind: Callable[[Any], Damage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plain code, twice; by a whole system, which goes on; by a check; and after its repair."""
    for name in ("AGAIN", "SYSTEMS", "CHECKS"):
        monkeypatch.setattr(damage, name, 1)
    report = Report()
    for name in ("crashed", "stopped"):
        rotting = directory(name)
        with crashing(), _OpenDirectory(rotting) as opened:
            for seed in range(2):
                found = kind(damages._Disk(rotting, rotting.files, Random(seed)))
                _Trial(rotting, opened, report, f"seed {seed}")._strike(found, Random(seed))
    assert [str(finding) for finding in report.findings] == []
    assert report.events["checks"] == report.events["systems"] == 4


def test_the_same_seed_is_the_same_run() -> None:
    first, second = (run("restarted", 2, 40, 1000) for _ in range(2))
    assert (first.damages, first.events) == (second.damages, second.events)
    assert first.findings == []
    assert first.events["open"] > 20


def test_the_command_runs_what_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--flips", "12"], ["--seed", "4", "--directory", "torn", "--first", "2000", "--flips", "12"]):
        assert damage.main(arguments) == 0
        assert re.search(r"^damages=\d+ findings=0 ", capsys.readouterr().out.splitlines()[-1])


# ------------------------------------------------------------------------------------------------ the judge


def as_committed(rotting: Rotting) -> Opened:
    return Opened({name: list(pages) for name, pages in rotting.last.contents.items()})


def judged(rotting: Rotting, opened: Opened, expected: Expected | None = None) -> str | None:
    return compare(opened, expected or Expected(rotting.last), Counter())


def test_the_judge_takes_nothing_but_what_was_committed_or_an_error_about_the_damage() -> None:
    rotting = directory("stopped")
    assert judged(rotting, as_committed(rotting)) is None
    opened = as_committed(rotting)
    del opened.contents["small"]
    assert "right would be" in str(judged(rotting, opened))
    opened = as_committed(rotting)
    opened.contents["small"] = OutOfRange("no")
    assert "cannot be opened: OutOfRange" in str(judged(rotting, opened))
    opened = as_committed(rotting)
    pages = opened.contents["small"]
    assert isinstance(pages, list)
    pages.pop()
    assert "'small' has 5 pages, right would be 6" in str(judged(rotting, opened))
    assert "not an error of ours: KeyError" in str(judged(rotting, Opened(refused=KeyError(1))))
    assert "refused: WalDamaged" in str(judged(rotting, Opened(refused=WalDamaged("no"))))
    must = Expected(rotting.last, must_refuse=True, refusals=(WalDamaged,))
    assert judged(rotting, Opened(refused=WalDamaged("yes")), must) is None
    assert "it starts, and had to be refused with WalDamaged" in str(judged(rotting, as_committed(rotting), must))


def test_the_judge_knows_which_page_may_be_lost_and_which_must_be_healed() -> None:
    rotting = directory("stopped")
    number = rotting.last.numbers["small"]
    for page, expected, wrong in (
        (b"?" * 512, Expected(rotting.last), "is wrong: it holds 3f3f"),
        (PageCorrupt("?"), Expected(rotting.last), "cannot be read: PageCorrupt"),
        (PageCorrupt("?"), Expected(rotting.last, suspects={(number, 1)}), None),
        (OutOfRange("?"), Expected(rotting.last, suspects={(number, 1)}), "cannot be read: OutOfRange"),
        (PageCorrupt("?"), Expected(rotting.last, suspects={(number, 1)}, healed={(number, 1)}), "not healed"),
        (b"?" * 512, Expected(rotting.last, stale={(number, 1): b"?" * 512}), None),
        (b"!" * 512, Expected(rotting.last, stale={(number, 1): b"?" * 512}), "is wrong"),
    ):
        opened = as_committed(rotting)
        pages = opened.contents["small"]
        assert isinstance(pages, list)
        pages[1] = page
        found = judged(rotting, opened, expected)
        assert (found is None) if wrong is None else (wrong in str(found)), found


def test_the_judge_cuts_the_log_only_where_nothing_vouches_for_it() -> None:
    """A damaged COMMIT behind the SEAL: what it committed may go, and what was acknowledged before it may not."""
    rotting = directory("unvouched")
    record = rotting.log[-1]
    path, offset = rotting.segments[record.lsn // 8192], record.lsn % 8192

    def damaged(offset: int) -> Damage:
        content = rotting.files[path]
        return Damage("", {path: content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]})

    expected = expect(rotting, damaged(offset))
    assert not expected.must_refuse
    assert expected.state == rotting.states[-2]
    vouched = next(each for each in rotting.log if each.lsn >= rotting.control.redo_lsn)
    path = rotting.segments[vouched.lsn // 8192]
    assert expect(rotting, damaged(vouched.lsn % 8192)).must_refuse


def test_what_a_system_served_and_wrote_must_be_there_after_its_crash() -> None:
    rotting = directory("stopped")
    a, b, c = (letter * 512 for letter in (b"a", b"b", b"c"))
    before, added = Opened({"small": [a, PageCorrupt("?")]}), {"small": [c]}
    with crashing(), _OpenDirectory(rotting) as opened:
        for after, wrong in (
            (Opened({"small": [a, b, c]}), None),
            (Opened(refused=WalDamaged("no")), "refused: WalDamaged"),
            (Opened({"small": OutOfRange("no")}), "has not the pages that it had"),
            (Opened({"small": [a, b]}), "has not the pages that it had"),
            (Opened({"small": [b, b, c]}), "page 0 of 'small' is not what it was"),
            (Opened({"small": [a, b, PageCorrupt("no")]}), "page 2 of 'small' is not what it was"),
        ):
            report = Report()
            _Trial(rotting, opened, report, "")._compare_grown(Damage("", {}), before, added, after)
            assert [wrong in str(finding) for finding in report.findings if wrong] == ([] if wrong is None else [True])


# ------------------------------------------------------------------------------------------------ rules switched off


def trust_every_page(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checked_file, "page_matches", lambda *_: True)


def trust_every_block_of_a_sidecar(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sidecar_file, "block_is_valid", lambda *_: True)


def trust_the_checksum_of_every_record(patch: pytest.MonkeyPatch) -> None:
    def decode_anything(view: memoryview, offset: int, lsn: int, seed: int) -> Record | None:
        content = bytearray(view)
        if offset + HEADER_SIZE <= len(content):
            length, kind = struct.unpack_from("<IB", content, offset + 8)
            start = offset + HEADER_SIZE + (FIXED_SIZES[kind] if kind < len(FIXED_SIZES) else 0)
            crc = crc32c(content[offset + 8 : start], crc32c(content[start : offset + length])) ^ seed
            struct.pack_into("<I", content, offset + 4, crc)
        return decode(memoryview(content), offset, lsn, seed)

    patch.setattr(reader, "decode", decode_anything)


def heal_with_what_the_record_names(patch: pytest.MonkeyPatch) -> None:
    def older(files: LogFiles, file_id: int, pgid: int, record: PageRecord | None, **where: int) -> FoundPage | None:
        if record is not None and record.checksum is not None:
            where["durable"] = min(where["durable"], record.lsn + 112)
        return find_page(files, file_id, pgid, record, **where)

    patch.setattr(damage, "find_page", older)


def heal_across_gaps_of_the_log(patch: pytest.MonkeyPatch) -> None:
    def before_the_gap(files: LogFiles, file_id: int, pgid: int, record: PageRecord | None, **where: int) -> Any:
        scan = LogScan(LogReader(files), files.oldest(where["redo_lsn"]))
        with suppress(ForeignWalSegment):
            for _ in scan:
                pass
        found = find_page(files, file_id, pgid, None, redo_lsn=where["redo_lsn"], durable=scan.end)
        return found or find_page(files, file_id, pgid, record, **where)

    patch.setattr(damage, "find_page", before_the_gap)
    patch.setattr(damage, "OPEN", 0)
    patch.setattr(damages, "_OF_THE_REST", {damages._log_and_page: 1})


def cut_the_log_whoever_vouches_for_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery, "check_tail", lambda *_: None)


def ask_nobody_behind_the_end_of_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogReader, "look_ahead", lambda self, end, epoch: Leftover(end, None))


def take_segments_of_other_systems(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogFiles, "_check_header", lambda *_: None)


def take_short_segments_for_the_work_of_a_crash(patch: pytest.MonkeyPatch) -> None:
    check_tail = recovery.check_tail

    def lenient(files: LogFiles, scan: LogScan, leftover: Leftover, durable_hint: int) -> None:
        scan.short = False
        check_tail(files, scan, leftover, durable_hint)

    patch.setattr(recovery, "check_tail", lenient)


def write_on_in_segments_that_nobody_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(damage, "SYSTEMS", 1)
    patch.setattr(recovery._Start, "_clear_following", lambda *_: None)


def never_sync_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(damage, "SYSTEMS", 1)
    patch.setattr(LogFiles, "sync", lambda self: None)


def find_nothing_in_a_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(damage, "CHECKS", 1)
    patch.setattr(damage, "check", lambda *_, **__: CheckReport(state="in use"))


def repair_by_writing_zeros(patch: pytest.MonkeyPatch) -> None:
    def repaired(fs: SimulatedFileSystem, *, segment_bytes: int, repair: bool = False) -> CheckReport:
        if repair:
            fs.rot("base/5/16384", bytes(len(fs.durable_files["base/5/16384"])))
        return check(fs, segment_bytes=segment_bytes)

    patch.setattr(damage, "CHECKS", 1)
    patch.setattr(damage, "check", repaired)


def go_round_in_circles(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(damage, "MOST_OPERATIONS", 50)


KNOCK_OUTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, int]] = {
    trust_every_page: ("stopped", 150),
    trust_every_block_of_a_sidecar: ("stopped", 150),
    trust_the_checksum_of_every_record: ("restarted", 0),
    heal_with_what_the_record_names: ("crashed", 800),
    heal_across_gaps_of_the_log: ("crashed", 825),
    cut_the_log_whoever_vouches_for_it: ("crashed", 0),
    ask_nobody_behind_the_end_of_the_log: ("crashed", 0),
    take_segments_of_other_systems: ("crashed", 1550),
    take_short_segments_for_the_work_of_a_crash: ("unvouched", 900),
    write_on_in_segments_that_nobody_looked_at: ("stopped", 200),
    never_sync_the_log: ("stopped", 200),
    find_nothing_in_a_check: ("stopped", 0),
    repair_by_writing_zeros: ("stopped", 150),
    go_round_in_circles: ("stopped", 0),
}
"""With the directory in which it shows, and the number of a damage from which on it does soon."""


@pytest.mark.untraced
@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, start = KNOCK_OUTS[knock_out]
    directory(name)
    knock_out(monkeypatch)
    tried = 0
    for first in range(start, FLIPS, 25):
        report = run(name, 1, 25, first)
        tried += len(report.damages)
        if report.findings:
            break
    else:
        pytest.fail(f"{tried} damages did not notice it")
    print(f"noticed after {tried} damages: {report.findings[0]}")
    found = re.search(r"replay: python -m pfs.testing.damage (--seed \d+ .*)", str(report.findings[0]))
    assert found is not None
    assert damage.main(found[1].split()) == 1, "the command shows it again"
    monkeypatch.undo()
    assert damage.main(found[1].split()) == 0
    capsys.readouterr()
