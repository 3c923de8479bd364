"""Paths of a file system: relative, plain, and checked before anything is done with them."""

from __future__ import annotations

from functools import lru_cache

from pfs.errors import InvalidName

MAX_PATH = 4000
"""The longest path, in bytes of UTF-8 (Linux allows 4,096 with the root before it)."""
MAX_NAME = 255
"""The longest name of one file or directory, in bytes of UTF-8."""


def check_path(path: str) -> tuple[str, ...]:
    """The parts of a path; raises `InvalidName` if it is not a plain relative one."""
    if type(path) is not str:
        raise InvalidName(f"a path must be a str, not {type(path).__name__}")
    return _parts(path)


@lru_cache(maxsize=4096)  # the same few files are opened again and again
def _parts(path: str) -> tuple[str, ...]:
    if not path:
        raise InvalidName("a path must not be empty")
    if path[0] == "/":
        raise InvalidName(f"path {path!r} is absolute; it must be relative to the root of the file system")
    if "\0" in path:
        raise InvalidName(f"path {path!r} has a NUL character")
    parts = tuple(path.split("/"))
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise InvalidName(f"path {path!r} cannot be encoded as UTF-8") from None
    for part, length in zip(parts, lengths, strict=True):
        if part in ("", ".", ".."):
            raise InvalidName(f"path {path!r} has the part {part!r}; only plain names are allowed between slashes")
        if length > MAX_NAME:
            raise InvalidName(f"path {path[:60]!r}... has a name of {length} bytes; the limit is {MAX_NAME}")
    if sum(lengths) + len(parts) - 1 > MAX_PATH:
        raise InvalidName(f"path {path[:60]!r}... is longer than {MAX_PATH} bytes")
    return parts


def parent_of(path: str) -> str:
    """The directory that a path is in; `""` is the root."""
    return path.rpartition("/")[0]
