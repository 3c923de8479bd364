"""What an errno means: one table from the deed that failed and its errno to an error of pfs.

The rule behind the table: a failed read or lookup has changed nothing, so it fails that request only.  A failed write
may have changed anything, and after a failed sync the kernel may have dropped what was written while the next sync says
"done" (Rebello and others, "Can Applications Recover from fsync Failures?", USENIX ATC 2020); both are fatal, and no
retry can mend them.  Running out of space is no damage: it is `NoSpace`, and the caller restores the file's size.

EINTR means nothing and is retried where it occurs; EMFILE and ENFILE are answered by closing another file first.
"""

from __future__ import annotations

import errno
import os
from typing import Literal

from pfs.errors import (
    AccessDenied,
    Busy,
    FileExists,
    FileMissing,
    InvalidName,
    InvalidRequest,
    NoSpace,
    NotRegularFile,
    PageIOError,
    PfsError,
    ReadFailed,
    SyncFailed,
    WriteFailed,
)

Deed = Literal["open", "look", "read", "write", "resize", "restore", "rename", "sync"]
"""What was being done: opening; asking about a file or directory; reading; writing; changing a size; giving a file its
former size back after a write that failed; changing names (create, rename, remove); syncing."""

NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
"""No descriptor is to be had: close one and try again."""

_NO_SPACE: dict[int, type[PfsError]] = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), NoSpace)
_BUSY: dict[int, type[PfsError]] = dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), Busy)
_NAMES: dict[int, type[PfsError]] = {
    errno.ENOENT: FileMissing,
    errno.ENOTDIR: FileMissing,
    errno.EEXIST: FileExists,
    errno.ENOTEMPTY: FileExists,
    errno.ENAMETOOLONG: InvalidName,
    errno.ELOOP: InvalidName,
    errno.EISDIR: NotRegularFile,
}
_DENIED: dict[int, type[PfsError]] = dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY), AccessDenied
)
# Arguments that the kernel refuses before it does anything.
_REFUSED: dict[int, type[PfsError]] = {errno.EINVAL: InvalidRequest}

_MEANING: dict[Deed, tuple[dict[int, type[PfsError]], type[PfsError]]] = {
    "open": ({**_NAMES, **_DENIED, **_NO_SPACE, **_BUSY, **_REFUSED}, PageIOError),
    "look": ({**_NAMES, **_DENIED, **_BUSY}, PageIOError),
    "read": (_REFUSED | _BUSY, PageIOError),
    "write": (_NO_SPACE, WriteFailed),
    "resize": ({**_NO_SPACE, errno.EOPNOTSUPP: InvalidRequest, **_REFUSED}, WriteFailed),
    "restore": ({}, WriteFailed),
    "rename": ({**_NAMES, **_NO_SPACE, **_BUSY, **_REFUSED}, WriteFailed),
    "sync": ({}, SyncFailed),
}

_ADVICE: dict[type[PfsError], str] = {
    AccessDenied: "check the owner and mode of the file and how its file system is mounted",
    Busy: "raise the limit of open files (ulimit -n) or the memory of this machine, or try again later",
    FileExists: "choose another name or remove what is there",
    FileMissing: "there is no such file",
    InvalidName: "the name cannot be used",
    InvalidRequest: "the system refuses these arguments; nothing was changed",
    NoSpace: "free space, or raise the quota or file size limit; reading goes on",
    NotRegularFile: "only regular files can be opened",
    PageIOError: "the disk may be failing; other requests are not concerned",
    ReadFailed: "recovery cannot go on without these bytes; check the disk",
    SyncFailed: "what was written since the last sync may be lost; only recovery can tell",
    WriteFailed: "what the file holds now is not known; only recovery can tell",
}


def meaning(error: OSError, deed: Deed, what: str, *, recovering: bool = False) -> PfsError:
    """The error that a failed call stands for.

    what: the deed in words, with file, offset and length, such as `"read 8192 bytes at 0 of 'base/5/1'"`.
    recovering: a read that fails during recovery is fatal (`ReadFailed`), as there is nothing to serve without it.
    """
    number = error.errno or 0
    table, otherwise = _MEANING[deed]
    kind = table.get(number, otherwise)
    if recovering and deed == "read" and kind is PageIOError:
        kind = ReadFailed
    name = errno.errorcode.get(number, "no errno")
    return kind(f"could not {what}: {os.strerror(number)} ({name}); {_ADVICE[kind]}")
