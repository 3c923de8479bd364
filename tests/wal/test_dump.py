"""The log as text and numbers."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from pfs.errors import ControlFileDamaged
from pfs.testing.file_system import SimulatedFileSystem
from pfs.wal.bodies import Create, Drop, Noop, Rename, Seal, SidecarImage, Truncate
from pfs.wal.dump import fields, human_line, json_line, select, statistics
from pfs.wal.log_view import LogView
from pfs.wal.lsn import parse_lsn
from tests.wal.logs import PAGE, START, close, flush, poke_control, start, write


@pytest.fixture
def fs() -> SimulatedFileSystem:
    fs = SimulatedFileSystem()
    log = start(fs, page_counts={5: 1}, compress=True)
    write(log, 1, 5, 0, [PAGE, bytes(512)], 2)
    image = SidecarImage(5, 0, bytes(512))
    for body in (Create(6, 512, "täble"), Rename(6, "b"), Truncate(5, 1), image, Noop(3), Seal(), Drop(6)):
        log.buffer.insert(body)
    log.buffer.switch_segment()
    log.buffer.insert_commit(2, 5, 1, 9, 10, bulk=True)
    flush(log)
    close(log)
    return fs


def test_every_record_is_shown_with_what_it_says(fs: SimulatedFileSystem) -> None:
    shown = [json.loads(json_line(record)) for record in LogView(fs).scan()]
    by_type = {line["type"]: line for line in shown}
    assert [line["type"] for line in shown] == [
        "EPOCH", "PAGE_COUNTS", "CHECKPOINT", "PAGE_IMAGE", "PAGE_IMAGE", "COMMIT", "CREATE", "RENAME", "TRUNCATE",
        "SIDECAR_IMAGE", "NOOP", "SEAL", "DROP", "SEGMENT_SWITCH", "COMMIT",
    ]  # fmt: skip
    assert by_type["PAGE_COUNTS"]["counts"] == [[5, 1]]
    assert by_type["CHECKPOINT"]["redo_lsn"] == "0/00001040"
    assert by_type["CREATE"] | {"page_size": 512, "name": "täble", "file_id": 6} == by_type["CREATE"]
    assert by_type["TRUNCATE"]["page_count"] == 1
    assert by_type["EPOCH"]["previous"] == 0
    assert by_type["NOOP"]["size"] == 3
    assert by_type["SIDECAR_IMAGE"]["block"] == 0
    assert shown[3] | {"index": 0, "compressed": True, "zero": False, "transaction": 1} == shown[3]
    assert shown[4] | {"index": 1, "page_size": 512, "stored_bytes": 0, "zero": True} == shown[4]
    assert shown[5] | {"pgid": 0, "n": 2, "page_count": 2, "bulk": False, "first_lsn": shown[3]["lsn"]} == shown[5]
    assert shown[-1]["bulk"] is True
    for line, following in pairwise(shown):
        assert following["prev_lsn"] == line["lsn"]
        assert parse_lsn(line["end"]) <= parse_lsn(following["lsn"])


def test_a_line_for_people_leaves_out_what_is_the_same_everywhere(fs: SimulatedFileSystem) -> None:
    lines = [human_line(record) for record in LogView(fs).scan()]
    assert lines[0] == "       0/00001040  EPOCH               72  previous 0"
    assert lines[7] == "       0/00001298  RENAME              65  file_id 6, name 'b'"
    assert lines[11].endswith("SEAL                64")


def test_records_are_chosen_by_file_and_position(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    assert [record.name for record in select(view.scan(), file_id=6)] == ["CREATE", "RENAME", "DROP"]
    everything = list(view.scan())
    stop = everything[5].lsn
    assert [record.lsn for record in select(view.scan(), stop=stop)] == [record.lsn for record in everything[:5]]
    assert [record.lsn for record in view.scan(stop)] == [record.lsn for record in everything[5:]]


def test_the_numbers_add_up(fs: SimulatedFileSystem) -> None:
    view = LogView(fs)
    records = list(view.scan())
    found = statistics(records)
    assert sum(found.records.values()) == len(records) == 15
    assert sum(found.bytes.values()) == sum(record.end - record.lsn for record in records)
    assert (found.zero_pages, found.compressed_pages, found.largest_transaction) == (1, 1, 9)
    assert (found.first_lsn, found.end_lsn) == (START, records[-1].end)
    assert set(found.file_bytes) == {5, 6}
    assert found.bytes["SEGMENT_SWITCH"] == 64
    assert fields(records[-2])["type"] == "SEGMENT_SWITCH"


def test_without_a_valid_control_file_nothing_is_shown(fs: SimulatedFileSystem) -> None:
    for offset in (100, 4196):
        poke_control(fs, b"x", offset)
    with pytest.raises(ControlFileDamaged):
        LogView(fs)
    assert not fs.open_descriptors
