"""`pfs wal dump`, `pfs wal stat`: what they show, and how they refuse."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import pfs
from pfs.cli import main
from pfs.system import SystemOptions
from pfs.wal.lsn import parse_lsn
from pfs.wal.segment_header import SegmentHeader, encode_segment_header
from pfs.wal.shared_log import WalOptions

Pfs = Callable[..., str]

OPTIONS = SystemOptions(wal=WalOptions(segment_bytes=64 << 10))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with two page files, stopped in order; its log is one segment."""
    directory = tmp_path / "data"
    with pfs.System(directory) as system:
        fill(system)
    return directory


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A data directory with the same page files, as it was before it was stopped; its log has small segments."""
    directory = tmp_path / "before"
    with pfs.System(directory, options=OPTIONS) as system:
        fill(system)
        fill(system)
        return copied(directory, tmp_path / "crashed")


def fill(system: pfs.System) -> None:
    a = system.open("a", page_size=4096)
    b = system.open("b", page_size=512)
    for number in range(20):
        a.append([bytes([number + 1]) * 4096, bytes(4096)])
        b.append([b"b" * 512])


def copied(directory: Path, copy: Path) -> Path:
    shutil.copytree(directory, copy)
    return copy


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Pfs:
    """Run the command; returns what it prints, after a look at exit status and stderr."""

    def call(*arguments: object, status: int = 0, error: str = "") -> str:
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        if error:
            assert captured.err.startswith("pfs: ")
            assert captured.err.count("\n") == 1
        assert error in captured.err
        assert error or not captured.err
        return captured.out

    return call


def dumped(run: Pfs, *arguments: object) -> list[dict[str, object]]:
    """The records and the end, without those records that come and go with the time."""
    lines = [json.loads(line) for line in run("wal", "dump", *arguments, "--json").splitlines()]
    return [line for line in lines if line.get("type") not in ("SEAL", "SIDECAR_IMAGE")]


def segments(data: Path) -> list[Path]:
    return sorted((data / "pfs_wal").iterdir())


def segment_of(data: Path, lsn: int) -> Path:
    return data / "pfs_wal" / f"{1:08X}{lsn >> 16:016X}"


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


def test_dump_shows_the_log_from_its_oldest_record_and_why_it_ends(data: Path, run: Pfs) -> None:
    *records, end = dumped(run, data)
    assert [record["type"] for record in records if record["type"] not in ("COMMIT", "PAGE_IMAGE")] == [
        "EPOCH", "CHECKPOINT", "CREATE", "CREATE", "PAGE_COUNTS", "CHECKPOINT",
    ]  # fmt: skip
    assert sum(record["type"] == "COMMIT" for record in records) == 40
    assert end == {"end": records[-1]["end"], "reason": "the system was stopped in order", "torn_bytes": 0}
    lines = run("wal", "dump", data).splitlines()
    assert len(lines) > len(records)
    assert lines[0].split()[:2] == [records[0]["lsn"], "EPOCH"]
    assert lines[-1].split(maxsplit=1) == [end["end"], "end: the system was stopped in order"]


def test_dump_shows_what_concerns_one_file(data: Path, run: Pfs) -> None:
    of_b = dumped(run, data, "--file", "b")
    assert {record["file_id"] for record in of_b[:-1]} == {16385}
    assert [record["type"] for record in of_b[:-1]].count("CREATE") == 1
    assert len(of_b) == 41 + 1
    assert dumped(run, data, "--file", "16385") == of_b
    assert len(dumped(run, data, "--file", "99999")) == 1
    run("wal", "dump", data, "--file", "c", status=1, error="there is no page file 'c'")


def test_a_file_whose_name_is_a_number_goes_before_the_id(data: Path, run: Pfs) -> None:
    run("rename", data, "b", "16384")
    assert {record["file_id"] for record in dumped(run, data, "--file", "16384")[:-1]} == {16385}


def test_dump_shows_a_range_of_positions(data: Path, run: Pfs) -> None:
    everything = dumped(run, data)
    first, stop = (parse_lsn(str(everything[number]["lsn"])) for number in (70, 75))
    *records, end = dumped(run, data, "--from", everything[70]["lsn"], "--to", everything[75]["lsn"])
    assert records == everything[70:75]
    assert end == {"end": everything[75]["lsn"], "reason": "that is where --to is", "torn_bytes": 0}
    assert dumped(run, data, "--from", first - 8, "--to", stop - 7) == [*records, {**end, "end": end_text(stop - 7)}]
    assert dumped(run, data, "--from", 0, "--to", "F/0") == everything
    run("wal", "dump", data, "--from", "here", status=1, error="'here' is no LSN")
    run("wal", "dump", data, "--from", "F/0", status=1, error="behind the last WAL segment")


def end_text(lsn: int) -> str:
    return f"0/{lsn:08X}"


def test_dump_says_how_much_a_crash_left_behind_the_end(crashed: Path, run: Pfs) -> None:
    last = dumped(run, crashed, "--file", "b")[-2]
    assert last["type"] == "COMMIT"
    lsn = parse_lsn(str(last["lsn"]))
    flip(segment_of(crashed, lsn), lsn % (64 << 10) + 80)
    end = dumped(run, crashed)[-1]
    assert (end["end"], end["reason"]) == (last["lsn"], "no whole record is there")
    assert f"{end['torn_bytes']} bytes behind it were left by a crash" in run("wal", "dump", crashed)


def test_stat_adds_the_log_up(data: Path, run: Pfs) -> None:
    records = dumped(run, data)[:-1]
    found = json.loads(run("wal", "stat", data, "--json"))
    assert found["state"] == "stopped in order"
    assert (found["valid_slots"], found["epoch"], found["segment_size"]) == (2, 1, 16 << 20)
    assert (found["segments"], found["first_segment"]) == (len(segments(data)), segments(data)[0].name)
    assert (found["first_lsn"], found["end_lsn"]) == (records[0]["lsn"], records[-1]["end"])
    assert (found["zero_pages"], found["largest_transaction"], found["bytes_to_recover"]) == (20, 2, 0)
    assert {row["type"]: row["records"] for row in found["types"]} | Counter(record["type"] for record in records) == {
        row["type"]: row["records"] for row in found["types"]
    }
    assert [(row["file"], row["file_id"]) for row in found["files"]] == [("a", 16384), ("b", 16385)]
    text = run("wal", "stat", data)
    assert "state                stopped in order\n" in text
    assert re.search(r"^COMMIT +40 +4,480$", text, re.MULTILINE)
    assert "\na       16384" in text


def test_without_a_catalog_the_log_can_still_be_seen(data: Path, run: Pfs) -> None:
    flip(data / "pfs.catalog", 3)
    assert [row["file"] for row in json.loads(run("wal", "stat", data, "--json"))["files"]] == ["a", "b"]
    assert len(dumped(run, data, "--file", "16385")) == 42
    (data / "pfs.catalog").unlink()
    assert len(dumped(run, data, "--file", "16385")) == 42


def test_the_log_can_be_seen_while_the_directory_is_in_use(data: Path, run: Pfs) -> None:
    with pfs.System(data) as system:
        system.open("b").append([b"c" * 512])
        assert json.loads(run("wal", "stat", data, "--json"))["state"] == "in use"
        assert b"c" * 512 in segments(data)[0].read_bytes()
        assert dumped(run, data, "--file", "b")[-2]["type"] == "COMMIT"


@pytest.mark.parametrize("command", ["dump", "stat"])
def test_a_log_that_cannot_be_read_is_one_clear_line(crashed: Path, run: Pfs, command: str) -> None:
    first, second = segments(crashed)[:2]
    whole = second.read_bytes()
    flip(second, 70)
    run("wal", command, crashed, status=1, error="the WAL cannot be read beyond LSN 0/00020040")
    second.write_bytes(encode_segment_header(SegmentHeader(1, 2, 77, 64 << 10, 1)) + whole[64:])
    run("wal", command, crashed, status=1, error=f"WAL segment 'pfs_wal/{second.name}' is not of this directory")
    second.unlink()
    run("wal", command, crashed, status=1, error=f"WAL segment 'pfs_wal/{second.name}' is missing")
    second.write_bytes(whole)
    run("wal", command, crashed)
    first.unlink()
    run("wal", command, crashed, status=1, error=f"WAL segment 'pfs_wal/{first.name}' is missing")


@pytest.mark.parametrize("command", ["dump", "stat"])
def test_a_damaged_control_file_is_one_clear_line(data: Path, run: Pfs, command: str) -> None:
    flip(data / "pfs_control", 9)
    run("wal", command, data)
    flip(data / "pfs_control", 4099)
    run("wal", command, data, status=1, error="no slot of 'pfs_control' is valid")
    (data / "pfs_control").unlink()
    run("wal", command, data, status=1, error="'pfs_control'")


# ------------------------------------------------------------------------------------------ check


def test_check_of_a_directory_in_order_says_so(data: Path, run: Pfs) -> None:
    assert run("check", data) == "stopped in order; 2 page files, 60 pages checked: no damage\n"
    found = json.loads(run("check", data, "--json"))
    assert (found["damaged"], found["findings"], found["pages"], found["recovery"]) == (False, [], 60, None)


def test_check_says_what_a_crash_left_to_recover(crashed: Path, run: Pfs) -> None:
    first, second = run("check", crashed).splitlines()
    assert first.startswith("not stopped in order: the next start recovers 82 transactions with 120 pages from ")
    assert second == "in use; 2 page files, 0 pages checked: no damage"
    recovery = json.loads(run("check", crashed, "--json"))["recovery"]
    assert (recovery["transactions"], recovery["pages"], recovery["torn_bytes"]) == (82, 120, 0)
    last = dumped(run, crashed, "--file", "b")[-2]
    lsn = parse_lsn(str(last["lsn"]))
    flip(segment_of(crashed, lsn), lsn % (64 << 10) + 80)
    assert "bytes that a crash left behind it" in run("check", crashed)
    run("check", crashed, "--repair")


def test_check_names_damage_and_repairs_what_it_can(data: Path, run: Pfs) -> None:
    path = data / "base" / "5" / "16384"
    whole = path.read_bytes()
    for page in (2, 3, 7):
        flip(path, page * 4096 + 9)
    (data / "notes").write_text("mine")
    assert run("check", data, status=1, error="").splitlines() == [
        "repairable  base/5/16384 ('a') pages 2 to 3: page: it does not match its checksum",
        "repairable  base/5/16384 ('a') page 7: page: it does not match its checksum",
        "note        notes: unknown file: it is none of pfs's files",
        "stopped in order; 2 page files, 60 pages checked: 2 findings of damage",
    ]
    found = json.loads(run("check", data, "--json", status=1))
    assert [(each["pgid"], each["n"], each["repairable"]) for each in found["findings"]] == [
        (2, 2, True), (7, 1, True), (0, 0, False),
    ]  # fmt: skip
    assert found["damaged"]
    assert run("check", data, "--repair").splitlines() == [
        "repaired    base/5/16384 ('a') pages 2 to 3: page: it does not match its checksum",
        "repaired    base/5/16384 ('a') page 7: page: it does not match its checksum",
        "note        notes: unknown file: it is none of pfs's files",
        "stopped in order; 2 page files, 60 pages checked: no damage",
    ]
    assert path.read_bytes() == whole
    run("check", data)


def test_check_says_why_nothing_could_be_repaired(data: Path, run: Pfs) -> None:
    with pfs.System(data) as system:
        system.open("a").write(0, [b"c" * 4096])
        crashed = copied(data, data.parent / "crashed")
    path = crashed / "base" / "5" / "16384"
    path.write_bytes(path.read_bytes()[: 30 * 4096])
    log = (crashed / "pfs_wal" / segments(crashed)[0].name).read_bytes()
    first = log.index(bytes([16]) * 4096)  # of pages that are cut off
    flip(segments(crashed)[0], first)
    (crashed / "base" / "5" / "20000").touch()
    run("check", crashed, status=1)
    lines = run("check", crashed, "--repair", status=1).splitlines()
    assert any(line.startswith("damage      base/5/16384 ('a') pages 30 to 39: page missing: ") for line in lines)
    assert any("nothing was repaired: " in line and "40 were committed" in line for line in lines)
    assert lines[-1].endswith(" findings of damage")


def test_check_refuses_what_it_cannot_look_at_with_a_status_of_its_own(data: Path, tmp_path: Path, run: Pfs) -> None:
    with pfs.System(data):
        run("check", data, status=2, error="is in use by another System, of this process or another")
    run("check", tmp_path / "no", status=2, error="there is no directory")
    with pytest.raises(SystemExit) as ended:
        run("check", data, "--mend")
    assert ended.value.code == 2


def test_check_shows_progress_on_a_terminal(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["check", str(data)]) == 0
    captured = capsys.readouterr()
    assert "checking pages: 100 %" in captured.err
    assert "reading the WAL: 100 %" in captured.err
    assert captured.err.endswith("\r\033[K")
    assert captured.out.endswith("no damage\n")


def test_only_a_data_directory_has_a_log(tmp_path: Path, run: Pfs) -> None:
    run("wal", "stat", tmp_path / "no", status=1, error="there is no directory")
    run("wal", "dump", tmp_path, status=1, error="no data directory of pfs")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        run("wal")
