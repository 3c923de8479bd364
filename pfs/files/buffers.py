"""What calls of a virtual file are given: offsets, lengths and buffers; checked, and cut where a write stopped."""

from __future__ import annotations

from collections.abc import Sequence

from pfs.errors import InvalidRequest
from pfs.files.filesystem import WriteBuffer

MAX_OFFSET = (1 << 63) - 1
"""The last byte position that a file can have."""
MAX_BUFFERS = 1024
"""The most buffers that one system call takes (`IOV_MAX`); more are passed on in several calls."""


def check_offset(offset: int) -> None:
    """Raises `InvalidRequest` unless there may be such a position."""
    if type(offset) is not int or not 0 <= offset <= MAX_OFFSET:
        raise InvalidRequest(f"an offset must be an int from 0 to 2**63 - 1, not {offset!r}")


def check_range(offset: int, length: int) -> None:
    """Raises `InvalidRequest` unless there may be so many bytes there."""
    check_offset(offset)
    if type(length) is not int or length < 0:
        raise InvalidRequest(f"a length must be an int of at least 0, not {length!r}")
    if offset + length > MAX_OFFSET:
        raise InvalidRequest(f"{length} bytes at {offset} end past the last position 2**63 - 1")


def total_size(buffers: Sequence[WriteBuffer]) -> int:
    """The bytes in all buffers.  Raises `InvalidRequest` for what is not a contiguous buffer."""
    if type(buffers) is not tuple and type(buffers) is not list:
        raise InvalidRequest(f"buffers must be a list or tuple, not {type(buffers).__name__}")
    total = 0
    for buffer in buffers:
        if type(buffer) is bytearray or type(buffer) is bytes:
            total += len(buffer)
        elif type(buffer) is memoryview and buffer.contiguous:
            total += buffer.nbytes
        else:
            raise InvalidRequest(
                f"a buffer must be bytes, a bytearray or a contiguous memoryview, not {type(buffer).__name__}"
            )
    return total


def behind(buffers: Sequence[WriteBuffer], count: int) -> list[memoryview]:
    """What is left of the buffers after their first `count` bytes."""
    left = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if count < len(view):
            left.append(view[count:])
        count = max(0, count - len(view))
    return left
