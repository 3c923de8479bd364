"""A reader of the log's formats that shares nothing with the code under test: written from docs/formats.md alone."""

from __future__ import annotations

import struct
from typing import Any


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit: polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


FIXED = {1: "<2I", 2: "<4Q16s", 3: "<I4x", 6: "<Q", 7: "<4Q", 9: "<I4x", 13: "<Q"}


def read_record(raw: bytes, system_id: int) -> dict[str, Any]:
    """The fields of one record; ValueError for what is wrong with it."""
    if raw[:4] != b"\xf1\x57\xa1\x0d":
        raise ValueError("magic")
    (crc, length) = struct.unpack("<2I", raw[4:12])
    kind, flags, zero = raw[12], raw[13], raw[14:16]
    lsn, prev_lsn, durable_upto = struct.unpack("<3Q", raw[16:40])
    epoch, zero2 = struct.unpack("<2I", raw[40:48])
    transaction, file_id = struct.unpack("<2Q", raw[48:64])
    pattern = FIXED.get(kind, "<")
    data_start = 64 + struct.calcsize(pattern)
    seed = crc32c(struct.pack("<Q", system_id))
    if crc32c(raw[data_start:length] + raw[8:data_start]) ^ seed != crc:
        raise ValueError("checksum")
    if zero != b"\0\0" or zero2 or any(raw[length:]) or len(raw) % 8:
        raise ValueError("padding")
    return {
        "kind": kind,
        "flags": flags,
        "lsn": lsn,
        "prev_lsn": prev_lsn,
        "durable_upto": durable_upto,
        "epoch": epoch,
        "transaction": transaction,
        "file_id": file_id,
        "fixed": struct.unpack(pattern, raw[64:data_start]),
        "data": raw[data_start:length],
    }
