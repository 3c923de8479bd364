"""Element codecs: what goes in comes out, and what is no triple page is `InvalidPage` and nothing else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidPage, InvalidRequest, TripleTooLarge, WrongPageLength
from pfs.streams.codecs import ElementCodec, Page, PageCodec, Triple, TripleCodec

PAGE_SIZE = 512
CODEC = TripleCodec(PAGE_SIZE)

texts = st.text(max_size=60)
triples = st.tuples(texts, texts, texts)
some_triples = st.lists(triples, min_size=1, max_size=12)


def one_page(*content: Triple) -> bytes:
    (page,) = CODEC.encode(content)
    return page


# ---------------------------------------------------------------------------------------------- round trip and packing


@given(st.lists(triples, max_size=80), st.sampled_from([512, 1024, 65536]))
def test_what_is_packed_comes_out_in_order(content: list[Triple], page_size: int) -> None:
    codec = TripleCodec(page_size)
    pages = list(codec.encode(content))
    assert [len(page) for page in pages] == [page_size] * len(pages)
    decoded = [codec.decode(page) for page in pages]
    assert [triple for page in decoded for triple in page] == content
    assert [codec.first_triple(page) for page in pages] == [page[0] for page in decoded]


@given(st.lists(triples, max_size=80))
def test_each_page_is_closed_only_when_the_next_triple_does_not_fit(content: list[Triple]) -> None:
    decoded = [CODEC.decode(page) for page in CODEC.encode(content)]
    for page, following in itertools.pairwise(decoded):
        assert len(list(CODEC.encode([*page, following[0]]))) == 2


@given(st.lists(triples, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_an_encoder_can_be_finished_at_any_time_and_used_again(content: list[Triple], finish: list[bool]) -> None:
    encoder = CODEC.encoder()
    pages = []
    for triple, last in zip(content, finish, strict=False):
        pages.append(encoder.add(triple))
        if last:
            pages.append(encoder.finish())
            assert encoder.finish() is None
    pages.append(encoder.finish())
    assert [triple for page in pages if page is not None for triple in CODEC.decode(page)] == content


def test_the_layout_is_the_documented_one() -> None:
    page = one_page(("ab", "", "ö"), ("x", "y", "z"))
    expected = (
        b"PFS3"
        b"\x01\x00"
        b"\x02\x00"
        b"\x1f\x00\x00\x00"
        + (b"\x02\x00" + b"\x00\x00" + b"\x02\x00" + b"ab" + "ö".encode())
        + (b"\x01\x00" + b"\x01\x00" + b"\x01\x00" + b"xyz")
    )
    assert len(expected) == 0x1F
    assert page == expected + bytes(PAGE_SIZE - len(expected))


@given(st.lists(triples, min_size=2, max_size=30))
def test_sorted_triples_make_pages_that_can_be_searched_by_their_first(content: list[Triple]) -> None:
    firsts = [CODEC.first_triple(page) for page in CODEC.encode(sorted(content))]
    present = [first for first in firsts if first is not None]
    assert present == sorted(present)
    assert len(present) == len(firsts)


def test_a_triple_may_fill_a_page_to_the_last_byte_and_no_further() -> None:
    room = PAGE_SIZE - 12 - 6
    triple = ("s" * (room - 2), "p", "o")
    assert CODEC.decode(one_page(triple)) == [triple]
    too_large = ("s" * (room - 1), "p", "o")
    with pytest.raises(TripleTooLarge, match=r"takes 501 bytes: a page of 512 has room for 500"):
        list(CODEC.encode([too_large]))
    with pytest.raises(TripleTooLarge):
        CODEC.encoder().add(("s" * 70_000, "p", "o"))


def test_a_refused_triple_leaves_the_encoder_as_it_was() -> None:
    encoder = CODEC.encoder()
    encoder.add(("s", "p", "o"))
    refused: list[object] = [("s" * 600, "p", "o"), ("s", "p"), ("s", "p", "\ud800"), ("s", b"p", "o"), "abc", None]
    for triple in refused:
        with pytest.raises((TripleTooLarge, InvalidRequest), match="triple"):
            encoder.add(triple)  # type: ignore[arg-type]
    encoder.add(("s", "p", "o2"))
    page = encoder.finish()
    assert page == one_page(("s", "p", "o"), ("s", "p", "o2"))


def test_a_long_triple_is_named_in_short() -> None:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.encoder().add(("s" * 5000, "p"))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_a_page_without_triples_is_legal() -> None:
    page = b"PFS3\x01\x00\x00\x00\x0c\x00\x00\x00".ljust(PAGE_SIZE, b"\0")
    assert CODEC.decode(page) == []
    assert CODEC.first_triple(page) is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pages_of_every_bytes_like_type_are_read(kind: type[bytes] | type[bytearray] | type[memoryview]) -> None:
    page: Page = kind(one_page(("s", "p", "o")))
    assert CODEC.decode(page) == [("s", "p", "o")]
    assert CODEC.first_triple(page) == ("s", "p", "o")


# ---------------------------------------------------------------------------------------------- damaged pages


def try_to_read(page: bytes) -> list[Triple] | None:
    """The decoded page, None if it is refused; any other error than `InvalidPage` comes through."""
    try:
        CODEC.first_triple(page)
    except InvalidPage:
        pass
    try:
        return CODEC.decode(page)
    except InvalidPage:
        return None


@given(some_triples, st.data())
def test_one_changed_byte_is_refused_or_stays_a_page_that_says_the_same_in_bytes(
    content: list[Triple], data: st.DataObject
) -> None:
    page = bytearray(next(CODEC.encode(content)))
    before = CODEC.decode(page)
    at = data.draw(st.integers(0, PAGE_SIZE - 1))
    page[at] ^= data.draw(st.integers(1, 255))
    after = try_to_read(bytes(page))
    if after is None:
        return
    # What is accepted packs to these very bytes again: nothing was skipped, invented or read past its end.
    assert next(CODEC.encode(after)) == bytes(page)
    assert 12 <= at < int.from_bytes(page[8:12], "little"), "headers and padding show every change"
    assert len(after) == len(before)


@given(some_triples, st.data())
def test_no_piece_of_garbage_raises_anything_else(content: list[Triple], data: st.DataObject) -> None:
    page = bytearray(next(CODEC.encode(content)))
    start = data.draw(st.integers(0, PAGE_SIZE - 1))
    garbage = data.draw(st.binary(max_size=PAGE_SIZE - start))
    page[start : start + len(garbage)] = garbage
    after = try_to_read(bytes(page))
    if after:
        assert next(CODEC.encode(after)) == bytes(page)


@given(some_triples, st.integers(0, PAGE_SIZE - 1), st.booleans())
def test_a_cut_page_is_refused_unless_only_padding_was_cut(content: list[Triple], length: int, padded: bool) -> None:
    page = next(CODEC.encode(content))
    before = CODEC.decode(page)
    cut = page[:length].ljust(PAGE_SIZE if padded else 0, b"\0")
    after = try_to_read(cut)
    if not padded:
        assert after is None
    elif after is not None:
        # Zeros in place of what was cut can only be taken for text where a string may hold them.
        assert cut == page or next(CODEC.encode(after)) == cut
        assert len(after) == len(before)


@pytest.mark.parametrize(
    ("at", "replacement", "reason"),
    [
        (0, b"XFS3", "begins with b'XFS3'"),
        (4, b"\x02", "version 2"),
        (6, b"\x00", "0 triples end at byte 12"),
        (6, b"\x02", "near byte 21|2 triples in 21 bytes"),
        (8, b"\x14", "triples end at byte 21, but its header says 20"),
        (8, b"\x00\x03", "1 triples in 768 bytes"),
        (12, b"\xff\xff", "triples end at byte"),
        (18, b"\xff", "near byte"),
        (500, b"\x01", "from byte 21 on, is not all zeros"),
    ],
)
def test_each_field_that_is_wrong_is_named(at: int, replacement: bytes, reason: str) -> None:
    page = bytearray(one_page(("s", "p", "o")))
    page[at : at + len(replacement)] = replacement
    with pytest.raises(InvalidPage, match=reason):
        CODEC.decode(page)


def test_a_triple_that_begins_past_the_end_of_the_page_is_refused() -> None:
    page = bytearray(one_page(("s" * 494, "", "")))
    page[6] = 2
    with pytest.raises(InvalidPage, match="triple 1 of 2"):
        CODEC.decode(page)


def test_the_first_triple_alone_is_checked_too() -> None:
    too_long = bytearray(one_page(("s", "p", "o")))
    too_long[12] = 2
    with pytest.raises(InvalidPage, match="first triple ends at byte 22"):
        CODEC.first_triple(too_long)
    not_utf8 = bytearray(one_page(("s", "p", "o")))
    not_utf8[18] = 0xFF
    with pytest.raises(InvalidPage, match="first triple is not UTF-8"):
        CODEC.first_triple(not_utf8)


def test_what_is_no_page_at_all_is_refused() -> None:
    for page in (
        b"",
        bytes(PAGE_SIZE),
        bytes(PAGE_SIZE * 2),
        one_page(("s", "p", "o"))[:-1],
        PAGE_SIZE,
        None,
        "x" * 512,
    ):
        for read in (CODEC.decode, CODEC.first_triple):
            with pytest.raises(InvalidPage):
                read(page)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- pages as elements


def test_the_page_codec_hands_pages_through() -> None:
    codec = PageCodec(512)
    pages = [bytes(512), b"x" * 512]
    assert list(codec.encode([bytearray(pages[0]), memoryview(pages[1])])) == pages
    assert codec.decode(memoryview(pages[1])) == [pages[1]]


def test_the_page_codec_refuses_pages_of_another_size() -> None:
    codec = PageCodec(512)
    with pytest.raises(WrongPageLength, match="page 1 has 511 bytes"):
        list(codec.encode([bytes(512), bytes(511)]))
    with pytest.raises(InvalidRequest, match="page 0 is a int"):
        list(codec.encode([512]))  # type: ignore[list-item]
    with pytest.raises(InvalidPage, match="513"):
        codec.decode(bytes(513))
    with pytest.raises(InvalidPage, match="NoneType"):
        codec.decode(None)  # type: ignore[arg-type]


def test_both_are_element_codecs() -> None:
    of_pages: ElementCodec[bytes] = PageCodec(1024)
    of_triples: ElementCodec[Triple] = TripleCodec(2048)
    assert (of_pages.page_size, of_triples.page_size) == (1024, 2048)


@pytest.mark.parametrize("page_size", [0, 256, 513, 1000, 131072, -512, True, 512.0, "512", None])
def test_a_page_size_that_cannot_be_is_refused(page_size: object) -> None:
    for codec in (PageCodec, TripleCodec):
        with pytest.raises(InvalidRequest, match="power of two from 512 to 65536"):
            codec(page_size)  # type: ignore[arg-type]
