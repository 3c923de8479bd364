"""Which records are valid, where the log ends, and whether it may end there."""

from __future__ import annotations

import pytest

from pfs.errors import WalDamaged, WalSegmentMissing
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.bodies import DROP, SEAL, Drop, Epoch, Noop, PageImage, Seal, SegmentSwitch
from pfs.wal.log_files import LogFiles
from pfs.wal.reader import Leftover, check_tail
from tests.wal.logs import SIZE, START, SYSTEM, bare, forge, poke, scanned


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def test_the_log_is_read_to_its_end(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1, 2)
    second = forge(fs, START, Drop(1))
    third = forge(fs, second, Drop(2), prev_lsn=START, durable_upto=second)
    end = forge(fs, third, Drop(3), prev_lsn=second, durable_upto=START)
    records, scan = scanned(reader)
    assert [record.file_id for record in records] == [1, 2, 3]
    assert (scan.end, scan.prev_lsn, scan.epoch, scan.vouched, scan.records) == (end, third, 1, second, 3)
    assert scan.reason == "no whole record is there"
    assert scan.missing is None


def test_reading_may_begin_where_a_record_ends_in_the_last_bytes_of_a_segment(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1, 2)
    forge(fs, 2 * SIZE + 64, Drop(1))
    for position in (2 * SIZE - 56, 2 * SIZE, 2 * SIZE + 64):
        assert [record.lsn for record in scanned(reader, position)[0]] == [2 * SIZE + 64]


def test_a_switch_leads_to_the_next_segment_whatever_lies_behind_it(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1, 2)
    behind = forge(fs, START, SegmentSwitch())
    forge(fs, behind, Drop(9), prev_lsn=START)
    end = forge(fs, 2 * SIZE + 64, Drop(1), prev_lsn=START)
    records, scan = scanned(reader)
    assert [record.file_id for record in records] == [0, 1]
    assert scan.end == end


def test_behind_the_last_segment_the_log_ends(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    forge(fs, START, SegmentSwitch())
    _, scan = scanned(reader)
    assert (scan.end, scan.missing) == (2 * SIZE + 64, 2)


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        ({"claims": START}, "no whole record"),  # a stale record of a recycled segment
        ({"claims": START + 4096 + 64}, "no whole record"),
        ({"system": SYSTEM + 1}, "no whole record"),
        ({"prev_lsn": 8}, "another predecessor"),
        ({"epoch": 2}, "epoch 2, after epoch 3"),
        ({"epoch": 6}, "epoch 6, which never began"),
    ],
)
def test_a_forged_record_is_not_part_of_the_log(fs: SimulatedFileSystem, forgery: dict[str, int], reason: str) -> None:
    reader = bare(fs, 1)
    second = forge(fs, START, Drop(1), epoch=3)
    forge(fs, second, Drop(2), **({"prev_lsn": START, "epoch": 3} | forgery))
    records, scan = scanned(reader, newest_epoch=5)
    assert len(records) == 1
    assert scan.end == second
    assert reason in scan.reason


def test_the_epoch_may_rise_as_far_as_one_began(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    second = forge(fs, START, Drop(1), epoch=3)
    end = forge(fs, second, Epoch(3), prev_lsn=START, epoch=5)
    _, scan = scanned(reader, newest_epoch=5)
    assert (scan.end, scan.epoch) == (end, 5)


def test_a_segment_with_a_damaged_header_is_not_read(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    forge(fs, START, Drop(1))
    poke(fs, SIZE, b"damage")
    records, scan = scanned(reader)
    assert not records
    assert "header" in scan.reason


# ---------------------------------------------------------------------------------------------- torn or damaged


def test_a_torn_tail_is_told_from_damage_by_what_was_durable_when_a_later_record_was_made(
    fs: SimulatedFileSystem,
) -> None:
    reader = bare(fs, 1, 2)
    hole = forge(fs, START, Drop(1))
    behind = hole + 64
    far = 2 * SIZE + 512
    for position in (behind, far):
        end = forge(fs, position, Drop(3), prev_lsn=hole, durable_upto=hole)
        _, scan = scanned(reader)
        assert scan.end == hole
        assert reader.look_ahead(hole, 1) == Leftover(end, None)
        forge(fs, position, Drop(3), prev_lsn=hole, durable_upto=hole + 8)
        reader.forget()
        leftover = reader.look_ahead(hole, 1)
        assert leftover.voucher is not None
        assert leftover.voucher.lsn == position
        with pytest.raises(WalDamaged, match=f"beyond LSN 0/0000{hole:04X} .*acknowledged writes would be lost"):
            check_tail(LogFiles(fs, system_id=SYSTEM, segment_size=SIZE), scan, leftover, 0)
        poke(fs, position, bytes(64))
        reader.forget()
    assert reader.look_ahead(hole, 1) == Leftover(hole, None)


def test_nobody_vouches_who_is_stale_damaged_or_of_an_earlier_epoch(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    end = forge(fs, START, Drop(1), epoch=3)
    forge(fs, end + 64, Drop(2), claims=end, durable_upto=end, epoch=3)
    assert reader.look_ahead(end, 3) == Leftover(end, None)
    forge(fs, end + 128, Drop(2), durable_upto=end + 8, epoch=2)
    forge(fs, end + 256, Drop(2), durable_upto=end + 8, epoch=3)
    poke(fs, end + 256 + 50, b"damage")
    poke(fs, end + 400 + 4, b"\xf1\x57\xa1\x0d")  # not aligned
    poke(fs, 2 * SIZE - 8, b"\xf1\x57\xa1\x0d")  # no room for a header
    reader.forget()
    assert reader.look_ahead(end, 3) == Leftover(end + 256 + 64, None)


def test_a_page_that_holds_records_is_not_taken_for_the_log(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    lie = forge(fs, START + 72, Drop(2), durable_upto=START + 72, system=SYSTEM + 1)  # the client knows no system id
    stolen = bytes(fs.durable_files["pfs_wal/000000010000000000000001"][64 + 72 : 64 + 72 + 512])
    poke(fs, START, bytes(1024))
    forge(fs, START, PageImage(1, 1, 0, stolen))
    poke(fs, START, bytes(8))
    reader.forget()
    assert reader.look_ahead(START, 1).voucher is None
    assert lie


def test_the_control_file_vouches_too(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    end = forge(fs, START, Drop(1))
    _, scan = scanned(reader)
    files = LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)
    check_tail(files, scan, Leftover(end, None), end)
    with pytest.raises(WalDamaged, match="the control file says"):
        check_tail(files, scan, Leftover(end, None), end + 8)


def test_a_missing_segment_is_named(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1, 3)
    forge(fs, START, SegmentSwitch())
    forge(fs, 3 * SIZE + 64, Drop(1), durable_upto=3 * SIZE)
    _, scan = scanned(reader)
    leftover = reader.look_ahead(scan.end, 1)
    with pytest.raises(WalSegmentMissing, match="pfs_wal/000000010000000000000002' is missing"):
        check_tail(LogFiles(fs, system_id=SYSTEM, segment_size=SIZE), scan, leftover, 0)


def test_a_log_that_goes_on_in_a_segment_that_is_missing_has_not_ended(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1, 3)
    lsn = forge(fs, START, Drop(1))
    forge(fs, lsn, SegmentSwitch(), prev_lsn=START)
    _, scan = scanned(reader)
    files = LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)
    with pytest.raises(WalSegmentMissing, match=r"0002' is missing: the record at .* says that the log goes on there"):
        check_tail(files, scan, Leftover(scan.end, None), 0)
    _, scan = scanned(bare(fs, 2))
    check_tail(files, scan, Leftover(scan.end, None), 0)


def test_a_segment_that_is_shorter_than_it_was_made_is_damage(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    end = forge(fs, START, Drop(1))
    path = "pfs_wal/000000010000000000000001"
    fs.rot(path, fs.durable_files[path][: end % SIZE])
    records, scan = scanned(reader)
    assert (len(records), scan.reason) == (1, f"its segment has {end % SIZE} bytes, and not {SIZE}")
    files = LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)
    with pytest.raises(WalDamaged, match="no crash makes a segment shorter"):
        check_tail(files, scan, Leftover(end, None), 0)


def test_records_behind_a_damaged_header_are_damage_and_an_empty_segment_is_none(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    poke(fs, SIZE, b"damage")
    files = LogFiles(fs, system_id=SYSTEM, segment_size=SIZE)
    _, scan = scanned(reader)
    check_tail(files, scan, reader.look_ahead(scan.end, 1), 0)
    forge(fs, START, Drop(1))
    _, scan = scanned(reader)
    with pytest.raises(WalDamaged, match="no crash damages the header of a segment"):
        check_tail(files, scan, reader.look_ahead(scan.end, 1), 0)


# ---------------------------------------------------------------------------------------------- single records


def test_one_record_is_read_by_its_lsn(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    forge(fs, START, Drop(7))
    assert reader.record_at(START).file_id == 7
    assert reader.record_at(START, only=DROP).file_id == 7
    with pytest.raises(WalDamaged, match="of the wanted type"):
        reader.record_at(START, only=SEAL)
    with pytest.raises(WalDamaged, match="no valid record at LSN"):
        reader.record_at(START + 8)
    with pytest.raises(WalSegmentMissing, match="000000010000000000000004"):
        reader.record_at(4 * SIZE + 64)


def test_records_that_say_nothing_are_passed_over(fs: SimulatedFileSystem) -> None:
    reader = bare(fs, 1)
    second = forge(fs, START, Noop(100))
    forge(fs, second, Seal(), prev_lsn=START)
    assert [record.name for record in scanned(reader)[0]] == ["NOOP", "SEAL"]
