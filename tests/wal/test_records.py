"""Records: their bytes, read back by other code; and that no byte of one can change unnoticed."""

from __future__ import annotations

import zlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import CorruptionFound, InvalidRequest
from pfs.wal import bodies
from pfs.wal.bodies import (
    Body,
    Checkpoint,
    Commit,
    Create,
    Drop,
    Epoch,
    Noop,
    PageCounts,
    PageImage,
    Rename,
    Seal,
    SegmentSwitch,
    SidecarImage,
    Truncate,
)
from pfs.wal.crc import crc32c, zero_page, zero_page_crc
from pfs.wal.records import (
    COMPRESSED,
    ZERO,
    Image,
    Stamp,
    decode,
    decode_body,
    decode_page_counts,
    encode,
    encode_page_image,
    encoded_size,
    image_page,
    page_data,
    seed_of,
)
from tests.wal import independent

SYSTEM = 0x0123456789ABCDEF
STAMP = Stamp(lsn=0x1000040, prev_lsn=0x1000000, durable_upto=0xFFFFF8, epoch=7, seed=seed_of(SYSTEM))
REQUEST = bytes(range(16))
PAGE = bytes(range(256)) * 2

EXAMPLES: list[tuple[Body, dict[str, object]]] = [
    (PageImage(5, 16384, 2, PAGE), {"kind": 1, "transaction": 5, "file_id": 16384, "fixed": (2, 512), "data": PAGE}),
    (
        Commit(5, 16384, 0x1000008, 90, 3, 93, REQUEST, True),
        {"kind": 2, "flags": 1, "transaction": 5, "file_id": 16384, "fixed": (0x1000008, 90, 3, 93, REQUEST)},
    ),
    (Create(16385, 4096, "naïve"), {"kind": 3, "file_id": 16385, "fixed": (4096,), "data": "naïve".encode()}),
    (Rename(16385, "b"), {"kind": 4, "file_id": 16385, "data": b"b"}),
    (Drop(16385), {"kind": 5, "file_id": 16385, "data": b""}),
    (Truncate(16385, 17), {"kind": 6, "file_id": 16385, "fixed": (17,)}),
    (Checkpoint(64, 72, 16386, 9, True), {"kind": 7, "flags": 1, "fixed": (64, 72, 16386, 9)}),
    (PageCounts(((1, 2), (3, 4))), {"kind": 8, "data": b"".join(n.to_bytes(8, "little") for n in (1, 2, 3, 4))}),
    (Epoch(6), {"kind": 9, "fixed": (6,)}),
    (SegmentSwitch(), {"kind": 10, "file_id": 0, "data": b""}),
    (Noop(5), {"kind": 11, "data": bytes(5)}),
    (Seal(), {"kind": 12, "data": b""}),
    (SidecarImage(16385, 3, PAGE), {"kind": 13, "file_id": 16385, "fixed": (3,), "data": PAGE}),
]

GOLDEN = {
    "PageImage": (
        "f157a10dac2165ff480200000100000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "050000000000000000400000000000000200000000020000"
    ),
    "Commit": (
        "f157a10df1b305eb700000000201000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "0500000000000000004000000000000008000001000000005a0000000000000003000000000000005d00000000000000"
        "000102030405060708090a0b0c0d0e0f"
    ),
    "Create": (
        "f157a10d5f6a2f2d4e0000000300000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "0000000000000000014000000000000000100000000000006e61c3af76650000"
    ),
    "Rename": (
        "f157a10d66750c6f410000000400000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000001400000000000006200000000000000"
    ),
    "Drop": (
        "f157a10d0ed7deea400000000500000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "00000000000000000140000000000000"
    ),
    "Truncate": (
        "f157a10d43d0b3e1480000000600000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000001400000000000001100000000000000"
    ),
    "Checkpoint": (
        "f157a10d784a2922600000000701000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000000000000000000004000000000000000480000000000000002400000000000000900000000000000"
    ),
    "PageCounts": (
        "f157a10d23c036d8600000000800000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000000000000000000000100000000000000020000000000000003000000000000000400000000000000"
    ),
    "Epoch": (
        "f157a10d9f8d4014480000000900000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000000000000000000000600000000000000"
    ),
    "SegmentSwitch": (
        "f157a10d73f1439b400000000a00000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "00000000000000000000000000000000"
    ),
    "Noop": (
        "f157a10d5b1a7c56450000000b00000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000000000000000000000000000000000000"
    ),
    "Seal": (
        "f157a10d9c51114c400000000c00000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "00000000000000000000000000000000"
    ),
    "SidecarImage": (
        "f157a10d7a787923480200000d00000040000001000000000000000100000000f8ffff00000000000700000000000000"
        "000000000000000001400000000000000300000000000000"
    ),
}
"""The bytes of each example (`PAGE` cut off), written down once: a change of them is a change of the format."""


def encoded(body: Body, stamp: Stamp = STAMP) -> bytes:
    return b"".join(encode(stamp, body))


def read(raw: bytes, stamp: Stamp = STAMP) -> Body | None:
    record = decode(memoryview(raw), 0, stamp.lsn, stamp.seed)
    return None if record is None else decode_body(record)


@pytest.mark.parametrize(("body", "expected"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_other_code_reads_every_field_where_the_formats_document_puts_it(
    body: Body, expected: dict[str, object]
) -> None:
    common = {"flags": 0, "lsn": 0x1000040, "prev_lsn": 0x1000000, "durable_upto": 0xFFFFF8, "epoch": 7}
    found = independent.read_record(encoded(body), SYSTEM)
    assert {name: found[name] for name in common | expected} == common | expected


@pytest.mark.parametrize("body", [body for body, _ in EXAMPLES], ids=lambda body: type(body).__name__)
def test_the_bytes_of_a_record_never_change(body: Body) -> None:
    assert encoded(body).removesuffix(PAGE).hex() == GOLDEN[type(body).__name__]


@pytest.mark.parametrize("body", [body for body, _ in EXAMPLES], ids=lambda body: type(body).__name__)
def test_no_bit_of_a_record_changes_unnoticed(body: Body) -> None:
    raw = encoded(body)
    length = int.from_bytes(raw[8:12], "little")
    assert read(raw) == body
    for position in range(length):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[position] ^= 1 << bit
            assert read(bytes(damaged)) is None, f"byte {position}, bit {bit}"


@pytest.mark.parametrize("body", [body for body, _ in EXAMPLES], ids=lambda body: type(body).__name__)
def test_a_record_that_is_cut_off_anywhere_is_none(body: Body) -> None:
    raw = encoded(body)
    length = int.from_bytes(raw[8:12], "little")
    assert all(read(raw[:end]) is None for end in range(length))


def test_every_type_has_an_example_and_a_name() -> None:
    assert sorted(body.type for body, _ in EXAMPLES) == sorted(bodies.TYPE_NAMES)


def test_a_record_is_valid_at_its_own_position_only() -> None:
    raw = memoryview(encoded(Seal()))
    assert decode(raw, 0, STAMP.lsn, STAMP.seed) is not None
    assert decode(raw, 0, STAMP.lsn + 8, STAMP.seed) is None


def test_a_record_of_another_system_is_not_valid() -> None:
    assert read(encoded(Seal(), STAMP._replace(seed=seed_of(SYSTEM + 1)))) is None


def test_a_record_that_vouches_for_itself_is_not_valid() -> None:
    assert read(encoded(Seal(), STAMP._replace(durable_upto=STAMP.lsn))) == Seal()
    assert read(encoded(Seal(), STAMP._replace(durable_upto=STAMP.lsn + 8))) is None


numbers = st.integers(0, 2**64 - 1)
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=100)
pages = st.sampled_from([512, 1024]).flatmap(
    lambda size: st.one_of(st.just(bytes(size)), st.binary(min_size=size, max_size=size))
)
any_body = st.one_of(
    st.builds(PageImage, numbers, numbers, st.integers(0, 2**32 - 1), pages),
    st.builds(
        Commit, numbers, numbers, numbers, numbers, numbers, numbers, st.binary(min_size=16, max_size=16), st.booleans()
    ),
    st.builds(Create, numbers, st.integers(0, 2**32 - 1), names),
    st.builds(Rename, numbers, names),
    st.builds(Drop, numbers),
    st.builds(Truncate, numbers, numbers),
    st.builds(Checkpoint, numbers, numbers, numbers, numbers, st.booleans()),
    st.builds(PageCounts, st.lists(st.tuples(numbers, numbers), max_size=20).map(tuple)),
    st.builds(Epoch, st.integers(0, 2**32 - 1)),
    st.just(SegmentSwitch()),
    st.builds(Noop, st.integers(0, 100)),
    st.just(Seal()),
    st.builds(SidecarImage, numbers, numbers, st.binary(min_size=512, max_size=512)),
)
stamps = st.builds(
    lambda lsn, prev, durable, epoch, seed: Stamp(lsn, prev, min(durable, lsn), epoch, seed),
    numbers, numbers, numbers, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
)  # fmt: skip


@given(any_body, stamps)
def test_what_is_encoded_is_decoded(body: Body, stamp: Stamp) -> None:
    raw = encoded(body, stamp)
    assert len(raw) % 8 == 0
    if not isinstance(body, PageImage):
        assert len(raw) == encoded_size(body)
    record = decode(memoryview(b"12345678" + raw + b"rest"), 8, stamp.lsn, stamp.seed)
    assert record is not None
    assert decode_body(record) == body
    assert (record.lsn, record.prev_lsn, record.durable_upto, record.epoch) == stamp[:4]
    assert record.end == stamp.lsn + len(raw)


# ---------------------------------------------------------------------------------------------- images


def image_of(page: bytes, *, compress: bool = False, crc: int | None = None) -> list[bytes]:
    return encode_page_image(STAMP, 1, 2, 0, len(page), page_data(page, crc, compress=compress))


def test_a_page_goes_into_the_log_without_a_copy() -> None:
    buffers = image_of(PAGE)
    assert buffers[1] is PAGE
    assert image_of(PAGE, crc=crc32c(PAGE)) == buffers


def test_a_page_of_zeros_takes_no_room() -> None:
    assert list(map(len, image_of(bytes(8192)))) == [72]
    record = decode(memoryview(image_of(bytes(8192))[0]), 0, STAMP.lsn, STAMP.seed)
    assert record is not None
    assert record.flags == ZERO
    assert image_page(record) == bytes(8192)
    assert zero_page_crc(8192) == zero_page_crc(8192) == crc32c(zero_page(8192))


def test_a_page_is_compressed_only_where_that_saves_room() -> None:
    page = b"ab" * 4096
    (packed,) = image_of(page, compress=True)
    assert len(packed) < 200
    assert len(packed) % 8 == 0
    record = decode(memoryview(packed), 0, STAMP.lsn, STAMP.seed)
    assert record is not None
    assert record.flags == COMPRESSED
    assert image_page(record) == page
    noise = Random(1).randbytes(512)
    assert image_of(noise, compress=True)[1] is noise


@pytest.mark.parametrize("data", [b"no zlib stream", zlib.compress(bytes(511)), zlib.compress(bytes(100_000))])
def test_compressed_data_that_gives_no_page_is_corruption(data: bytes) -> None:
    raw = b"".join(encode_page_image(STAMP, 1, 2, 0, 512, Image(COMPRESSED, data, crc32c(data))))
    record = decode(memoryview(raw), 0, STAMP.lsn, STAMP.seed)
    assert record is not None
    with pytest.raises(CorruptionFound, match="512 bytes"):
        image_page(record)


def test_page_counts_that_end_within_a_pair_are_corruption() -> None:
    raw = bytearray(encoded(Noop(12)))
    record = decode(memoryview(raw), 0, STAMP.lsn, STAMP.seed)
    assert record is not None
    with pytest.raises(CorruptionFound, match="within a pair"):
        decode_page_counts(record)


def test_the_size_of_a_page_image_is_not_asked_here() -> None:
    with pytest.raises(InvalidRequest, match="PageImage"):
        encoded_size(PageImage(1, 2, 3, PAGE))


def test_crc32c_is_the_well_known_one() -> None:
    assert crc32c(b"123456789") == independent.crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283
