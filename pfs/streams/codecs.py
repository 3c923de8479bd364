"""Element codecs: what a page means to those who do not handle whole pages.

A codec packs elements into pages and unpacks them.  `PageCodec` is for users whose element is the page itself;
`TripleCodec` packs triples (subject, predicate, object), each three strings.

A triple page, byte by byte; numbers are unsigned and little-endian:

    offset  size  field
    0       4     magic, the bytes "PFS3"
    4       2     version, 1
    6       2     count, the number of triples
    8       4     used, the number of bytes of header and triples
    12      -     count triples, each:
                      2  length of the subject in bytes
                      2  length of the predicate in bytes
                      2  length of the object in bytes
                      -  subject, predicate, object in UTF-8, one after the other, each of its length
    used    -     zeros up to the page size

Triples are packed greedily: each goes into the current page if it fits, else that page is closed and a new one begun; a
triple never crosses pages.  The order is kept, and UTF-8 bytes sort as Python strings do, so that sorted triples
make sorted pages, which can be searched by the first triple of each.

A page decodes to the triples that were packed, or it is `InvalidPage`: magic, version, count, every length, `used`,
the padding and the encoding must all agree.  A byte changed inside a string, to another that is valid there, cannot be
seen here; the checksum that pfs keeps beside each page is for that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeAlias, TypeVar

from pfs.errors import InvalidPage, InvalidRequest, TripleTooLarge, WrongPageLength

Element = TypeVar("Element")

Page: TypeAlias = bytes | bytearray | memoryview
"""A page as it is handed around: one-dimensional, of single bytes."""

Triple: TypeAlias = tuple[str, str, str]
"""Subject, predicate, object."""

MIN_PAGE_SIZE: Final = 512
MAX_PAGE_SIZE: Final = 64 * 1024

MAGIC: Final = b"PFS3"
VERSION: Final = 1
PAGE_HEADER: Final = struct.Struct("<4sHHI")
TRIPLE_HEADER: Final = struct.Struct("<HHH")


class ElementCodec(Protocol[Element]):
    """Packs elements into pages of one size, and back."""

    @property
    def page_size(self) -> int:
        """Bytes in every page."""
        ...

    def encode(self, elements: Iterable[Element]) -> Iterator[bytes]:
        """Pack elements into pages, in order; each page is given as soon as it is complete."""
        ...

    def decode(self, page: Page) -> list[Element]:
        """The elements of one page, in order; `InvalidPage` if it is not one of this codec's."""
        ...


class PageCodec:
    """The codec for which an element is a page.

    Args:
        page_size: bytes in a page: a power of two from 512 to 65,536.

    Raises:
        InvalidRequest: there is no such page size.
    """

    __slots__ = ("_page_size",)

    def __init__(self, page_size: int) -> None:
        self._page_size = _checked_page_size(page_size)

    @property
    def page_size(self) -> int:
        """Bytes in every page."""
        return self._page_size

    def encode(self, elements: Iterable[Page]) -> Iterator[bytes]:
        """Each page as a `bytes` of its own.

        Raises:
            WrongPageLength: a page is not of the page size.
            InvalidRequest: a page is not bytes-like.
        """
        for number, page in enumerate(elements):
            if not isinstance(page, Page):
                raise InvalidRequest(f"page {number} is a {type(page).__name__}: give a bytes-like object")
            data = bytes(page)
            if len(data) != self._page_size:
                raise WrongPageLength(f"page {number} has {len(data)} bytes: the page size is {self._page_size}")
            yield data

    def decode(self, page: Page) -> list[bytes]:
        """The page itself, as the only element.

        Raises:
            InvalidPage: it is not of the page size.
        """
        return [_checked_page(page, self._page_size)]


class TripleEncoder:
    """Packs triples into pages one at a time; made by `TripleCodec.encoder`."""

    __slots__ = ("_count", "_page_size", "_parts", "_used")

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._begin_page()

    def add(self, triple: Triple) -> bytes | None:
        """Pack one more triple; returns the page that it did not fit into any more, if so.

        Raises:
            TripleTooLarge: it does not fit into a page of its own.  The encoder is as it was.
            InvalidRequest: it is not three strings, or one that UTF-8 cannot encode.  The encoder is as it was.
        """
        if not isinstance(triple, tuple):
            raise InvalidRequest(f"{_shortened(triple)} is not a triple: give a tuple of three strings")
        try:
            subject, predicate, object_ = triple
            first, second, third = subject.encode(), predicate.encode(), object_.encode()
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidRequest(f"{_shortened(triple)} is not a triple of three strings: {error}") from None
        size = TRIPLE_HEADER.size + len(first) + len(second) + len(third)
        page = None
        if self._used + size > self._page_size:
            room = self._page_size - PAGE_HEADER.size
            if size > room:
                raise TripleTooLarge(
                    f"triple {_shortened(triple)} takes {size} bytes: "
                    f"a page of {self._page_size} has room for {room}; use larger pages"
                )
            page = self._close_page()
        self._parts.append(TRIPLE_HEADER.pack(len(first), len(second), len(third)) + first + second + third)
        self._used += size
        return page

    def finish(self) -> bytes | None:
        """The last page, if any triple waits for one.  The encoder can then be used again from the start."""
        return self._close_page() if self._parts else None

    def _begin_page(self) -> None:
        self._parts: list[bytes] = []
        self._used = PAGE_HEADER.size

    def _close_page(self) -> bytes:
        header = PAGE_HEADER.pack(MAGIC, VERSION, len(self._parts), self._used)
        page = b"".join((header, *self._parts)).ljust(self._page_size, b"\0")
        self._begin_page()
        return page


class TripleCodec:
    """The codec for triples packed into pages; the module's text has the layout.

    Args:
        page_size: bytes in a page: a power of two from 512 to 65,536.

    Raises:
        InvalidRequest: there is no such page size.
    """

    __slots__ = ("_page_size",)

    def __init__(self, page_size: int) -> None:
        self._page_size = _checked_page_size(page_size)

    @property
    def page_size(self) -> int:
        """Bytes in every page."""
        return self._page_size

    def encoder(self) -> TripleEncoder:
        """An encoder to which triples are given one at a time."""
        return TripleEncoder(self._page_size)

    def encode(self, elements: Iterable[Triple]) -> Iterator[bytes]:
        """Pack triples into pages, in order; only the last page may have room for the triple that would follow.

        Raises:
            TripleTooLarge: a triple does not fit into a page.
            InvalidRequest: an element is not a triple of strings that UTF-8 can encode.
        """
        encoder = self.encoder()
        for triple in elements:
            page = encoder.add(triple)
            if page is not None:
                yield page
        page = encoder.finish()
        if page is not None:
            yield page

    def decode(self, page: Page) -> list[Triple]:
        """The triples of a page, in order.

        Raises:
            InvalidPage: it is not a triple page of this page size, or is damaged.
        """
        data, count, used = self._open(page)
        triples: list[Triple] = []
        unpack = TRIPLE_HEADER.unpack_from
        at = PAGE_HEADER.size
        try:
            for _ in range(count):
                first, second, third = unpack(data, at)
                subject = at + TRIPLE_HEADER.size
                predicate = subject + first
                object_ = predicate + second
                at = object_ + third
                triples.append(
                    (data[subject:predicate].decode(), data[predicate:object_].decode(), data[object_:at].decode())
                )
        except (struct.error, UnicodeDecodeError) as error:
            raise InvalidPage(f"triple {len(triples)} of {count} in the page, near byte {at}: {error}") from None
        if at != used:
            raise InvalidPage(f"the page's {count} triples end at byte {at}, but its header says {used}")
        if data.count(0, used) != self._page_size - used:
            raise InvalidPage(f"the page's padding, from byte {used} on, is not all zeros")
        return triples

    def first_triple(self, page: Page) -> Triple | None:
        """The first triple of a page, `None` if it has none, without decoding the rest: for binary search.

        Raises:
            InvalidPage: it is not a triple page of this page size, or its header or first triple is damaged.
        """
        data, count, used = self._open(page)
        if count == 0:
            return None
        subject = PAGE_HEADER.size + TRIPLE_HEADER.size
        first, second, third = TRIPLE_HEADER.unpack_from(data, PAGE_HEADER.size)
        predicate = subject + first
        object_ = predicate + second
        end = object_ + third
        if end > used:
            raise InvalidPage(f"the page's first triple ends at byte {end}, but all of them at {used}")
        try:
            return data[subject:predicate].decode(), data[predicate:object_].decode(), data[object_:end].decode()
        except UnicodeDecodeError as error:
            raise InvalidPage(f"the page's first triple is not UTF-8: {error}") from None

    def _open(self, page: Page) -> tuple[bytes, int, int]:
        """The page's bytes, its count and its used bytes, when the header is right."""
        data = _checked_page(page, self._page_size)
        magic, version, count, used = PAGE_HEADER.unpack_from(data)
        if magic != MAGIC:
            raise InvalidPage(f"the page begins with {magic!r}: a triple page begins with {MAGIC!r}")
        if version != VERSION:
            raise InvalidPage(f"the page has version {version} of triple pages: this is version {VERSION}")
        if not PAGE_HEADER.size + count * TRIPLE_HEADER.size <= used <= self._page_size:
            raise InvalidPage(f"the page's header says {count} triples in {used} bytes, which cannot be")
        return data, count, used


def _checked_page(page: Page, page_size: int) -> bytes:
    if not isinstance(page, Page):
        raise InvalidPage(f"a page is a {type(page).__name__}: give a bytes-like object")
    data = bytes(page)
    if len(data) != page_size:
        raise InvalidPage(f"the page has {len(data)} bytes: the page size is {page_size}")
    return data


def _checked_page_size(page_size: int) -> int:
    if type(page_size) is not int or not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE or page_size & (page_size - 1):
        raise InvalidRequest(
            f"page size {page_size!r}: give a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE} bytes"
        )
    return page_size


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
