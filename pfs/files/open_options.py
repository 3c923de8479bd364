"""How a file is opened, and how it is opened again.

The first opening may create, create anew or truncate; a reopening after an eviction must never do so, or it would
destroy the file it is to find.  `reopen_flags` is what is left of the flags then.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pfs.errors import InvalidRequest

_ONCE = os.O_CREAT | os.O_EXCL | os.O_TRUNC
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_APPEND


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """The options of one opening: the names and rules of Rust's `std::fs::OpenOptions`, but `read` is the default.

    read: the file can be read.  write: it can be written.  append: every write goes to the end (implies writing).
    create: make the file if it is missing.  create_new: make it, or fail with `FileExists`.  truncate: empty it.
    custom_flags: further `O_` flags, kept for every reopening.  mode: permissions of a file that is made.
    Raises `InvalidRequest` for combinations that can never work.
    """

    read: bool = True
    write: bool = False
    append: bool = False
    create: bool = False
    create_new: bool = False
    truncate: bool = False
    custom_flags: int = 0
    mode: int = 0o600

    def __post_init__(self) -> None:
        for name in ("read", "write", "append", "create", "create_new", "truncate"):
            if type(getattr(self, name)) is not bool:
                raise InvalidRequest(f"OpenOptions.{name} must be True or False, not {getattr(self, name)!r}")
        for name in ("custom_flags", "mode"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise InvalidRequest(f"OpenOptions.{name} must be an int of at least 0, not {value!r}")
        if self.mode > 0o7777:
            raise InvalidRequest(f"OpenOptions.mode {self.mode:#o} has bits above 0o7777")
        if self.custom_flags & (_ONCE | _ACCESS):
            raise InvalidRequest("OpenOptions.custom_flags must not hold access, append, create or truncate flags")
        if not (self.read or self.writable):
            raise InvalidRequest("a file must be opened with read, write or append")
        if (self.create or self.create_new or self.truncate) and not self.writable:
            raise InvalidRequest("create, create_new and truncate need write or append")
        if self.truncate and self.append and not self.create_new:
            raise InvalidRequest("truncate and append cannot be had together")

    @property
    def writable(self) -> bool:
        """True if the file can be written in some way."""
        return self.write or self.append

    @property
    def flags(self) -> int:
        """The `O_` flags of the first opening."""
        flags = self.reopen_flags
        if self.create_new:
            flags |= os.O_CREAT | os.O_EXCL
        else:
            if self.create:
                flags |= os.O_CREAT
            if self.truncate:
                flags |= os.O_TRUNC
        return flags

    @property
    def reopen_flags(self) -> int:
        """The `O_` flags of every later opening: the same rights, and nothing that changes the file."""
        flags = self.custom_flags
        if self.read:
            flags |= os.O_RDWR if self.writable else os.O_RDONLY
        else:
            flags |= os.O_WRONLY
        if self.append:
            flags |= os.O_APPEND
        return flags
