"""The control file and the segment header: their bytes, and which slot counts."""

from __future__ import annotations

import errno
import os
import struct
from random import Random

import pytest

from pfs.errors import ControlFileDamaged, NoSpace, ReadFailed, SyncFailed, WriteFailed
from pfs.testing.file_system import Fault, SimulatedFileSystem
from pfs.wal.control_file import (
    CONTROL_FILE,
    FILE_SIZE,
    IN_USE,
    MAKING,
    SLOT_SIZE,
    STOPPED,
    ControlData,
    ControlFile,
    decode_slot,
    encode_slot,
)
from pfs.wal.segment_header import SegmentHeader, decode_segment_header, encode_segment_header
from tests.wal import independent

DATA = ControlData(
    system_id=0x1122334455667788,
    segment_size=16 << 20,
    state=IN_USE,
    epoch=3,
    checkpoint_lsn=0x1000100,
    redo_lsn=0x1000040,
    durable_hint=0x1000160,
    boot_id=b"boot" * 4,
    sequence=8,
)


def write_raw(fs: SimulatedFileSystem, data: bytes, offset: int) -> None:
    descriptor = fs.open(CONTROL_FILE, os.O_RDWR)
    fs.pwritev(descriptor, [data], offset)
    fs.fsync(descriptor)
    fs.close(descriptor)


def read_again(fs: SimulatedFileSystem) -> ControlData:
    control = ControlFile(fs)
    try:
        return control.read()
    finally:
        control.close()


def test_the_bytes_of_a_slot_are_where_the_formats_document_puts_them() -> None:
    slot = encode_slot(DATA)
    assert len(slot) == 512
    assert struct.unpack("<8s2I2Q4I3Q16s", slot[:88]) == (
        b"PFSCNTRL", 1, 2, 8, 0x1122334455667788, 1, 3, 1, 16 << 20, 0x1000100, 0x1000040, 0x1000160, b"boot" * 4,
    )  # fmt: skip
    assert slot[88:508] == bytes(420)
    assert int.from_bytes(slot[508:], "little") == independent.crc32c(slot[:508])
    assert decode_slot(slot) == DATA


def test_the_bytes_of_a_segment_header_are_where_the_formats_document_puts_them() -> None:
    header = SegmentHeader(1, 5, 0x1122334455667788, 16 << 20, 7)
    raw = encode_segment_header(header)
    assert struct.unpack("<8s2I2Q2I20s", raw[:60]) == (
        b"PFSWALSG", 1, 1, 5, 0x1122334455667788, 16 << 20, 7, bytes(20),
    )  # fmt: skip
    assert int.from_bytes(raw[60:], "little") == independent.crc32c(raw[:60])
    assert decode_segment_header(raw) == header


def test_no_bit_of_a_slot_or_segment_header_changes_unnoticed() -> None:
    slot, header = encode_slot(DATA), encode_segment_header(SegmentHeader(1, 5, 6, 4096, 7))
    for position in range(SLOT_SIZE):
        damaged = bytearray(slot)
        damaged[position] ^= 0x10
        assert decode_slot(bytes(damaged)) is None
    for position in range(64):
        damaged = bytearray(header)
        damaged[position] ^= 0x10
        assert decode_segment_header(damaged) is None
    assert decode_slot(slot[:-1]) is None
    assert decode_segment_header(header[:-1]) is None


def test_a_whole_slot_with_another_magic_is_none() -> None:
    raw = b"PFSOTHER" + encode_slot(DATA)[8:508]
    assert decode_slot(raw + independent.crc32c(raw).to_bytes(4, "little")) is None


def test_what_is_written_is_read_and_the_slots_take_turns() -> None:
    fs = SimulatedFileSystem()
    control = ControlFile(fs)
    assert not control.exists()
    control.create(ControlData(system_id=5, segment_size=4096))
    assert control.exists()
    assert control.data.state == MAKING
    for number in range(2, 6):
        assert control.write(state=IN_USE, epoch=number).sequence == number
        assert read_again(fs) == control.data
    assert control.write(state=STOPPED).epoch == 5
    control.close()
    control.close()
    content = fs.durable_files[CONTROL_FILE]
    assert len(content) == FILE_SIZE
    slots = [decode_slot(content[:512]), decode_slot(content[4096:4608])]
    assert [slot.sequence for slot in slots if slot] == [6, 5]


def test_a_torn_write_leaves_the_slot_before_it() -> None:
    fs = SimulatedFileSystem()
    control = ControlFile(fs)
    control.create(ControlData(system_id=5, segment_size=4096))
    control.write(epoch=2)
    control.write(epoch=3)
    control.close()
    write_raw(fs, b"torn", 4096 + 100)  # sequence 3
    assert read_again(fs).epoch == 2
    write_raw(fs, b"torn", 100)
    with pytest.raises(ControlFileDamaged, match="no slot"):
        read_again(fs)


@pytest.mark.parametrize(("field", "value"), [("version", 2), ("crc_id", 9)])
def test_formats_that_nobody_knows_are_refused(field: str, value: int) -> None:
    fs = SimulatedFileSystem()
    ControlFile(fs).create(ControlData(system_id=5, segment_size=4096, **{field: value}))
    with pytest.raises(ControlFileDamaged, match="use the pfs that wrote it"):
        read_again(fs)


def test_a_control_file_is_there_whole_or_not_at_all_after_a_crash() -> None:
    images: list[SimulatedFileSystem] = []
    rng = Random(1)
    fs = SimulatedFileSystem()
    fs.on_operation = lambda _: images.extend(
        fs.crash_image(policy, rng) for policy in ("none", "all", "subset", "torn")
    )
    ControlFile(fs).create(ControlData(system_id=5, segment_size=4096))
    fs.on_operation = None
    for image in [*images, fs.crash_image("none", rng)]:
        image.on_operation = None
        if ControlFile(image).exists():
            assert read_again(image).system_id == 5
    assert ControlFile(fs.crash_image("none", rng)).exists()


def test_each_failure_has_its_name() -> None:
    fs = SimulatedFileSystem(faults=[Fault(errno.ENOSPC, operation="pwritev")])
    with pytest.raises(NoSpace):
        ControlFile(fs).create(ControlData(system_id=5, segment_size=4096))
    assert not ControlFile(fs).exists()
    control = ControlFile(fs)
    control.create(ControlData(system_id=5, segment_size=4096))
    fs.faults = [Fault(errno.EIO, operation="preadv")]
    with pytest.raises(ReadFailed):
        read_again(fs)
    fs.faults = [Fault(errno.EIO, operation="pwritev")]
    with pytest.raises(WriteFailed):
        control.write(epoch=2)
    fs.faults = [Fault(errno.EIO, operation="fdatasync")]
    with pytest.raises(SyncFailed):
        control.write(epoch=2)
    assert control.data.epoch == 1
    control.close()
