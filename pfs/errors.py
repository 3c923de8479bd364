"""Every error that pfs raises or sends: one class a reason.

All are children of `PfsError`.  A message names the file, page, size or limit concerned and says what to do.
Errors travel inside messages (`RequestFailed.error`), so they hold nothing but their message and plain values.

Three kinds are told apart by their middle class:

* `RequestError`: the request was wrong or could not be served; nothing has changed; the server lives on.
* `FatalError`: data on disk can no longer be trusted to be what was written.  The `System` panics.
* the rest: the state of a system, an actor or a call (`Timeout`, `SystemStopped`, `CallInHandler`, ...).
"""

from __future__ import annotations

import pykka


class PfsError(Exception):
    """The parent of all errors of pfs."""


# ---------------------------------------------------------------------------------------------- calls and systems


class Timeout(PfsError, pykka.Timeout):
    """A call's deadline passed.  The request was cancelled; if it may have been carried out, the message says so."""


class CallInHandler(PfsError):
    """A waiting call was made inside an actor's handler, where it could never return.  Send a message instead."""


class SystemForked(PfsError):
    """A system was used in a forked child process.  Make a new `System` there, on another directory."""


class SystemStopped(PfsError):
    """The system is stopped or stopping."""


class SystemFailed(PfsError):
    """The system has panicked (see `cause`); only a new `System` on the directory, which recovers, serves again."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause = cause


class UnsupportedPython(PfsError):
    """This interpreter lacks what pfs relies on (the global interpreter lock)."""


# ---------------------------------------------------------------------------------------------- actors


class StartFailed(PfsError):
    """An actor or child could not be started; the cause is chained."""


class ChildNotFound(PfsError):
    """A supervisor has no child of this id."""


class TooManyRestarts(PfsError):
    """A supervisor gave up: its children ended more often than its restart intensity allows; the cause is chained."""


class NameTaken(PfsError):
    """A name is registered for another living actor."""


class DeadlockFound(PfsError):
    """The simulation has nothing to run and a reply is still owed; the message says who waits for whom."""


class StreamEmpty(PfsError):
    """An empty queue was read."""


class StreamClosed(PfsError):
    """A queue or stream has ended and takes or gives nothing more."""


class NotThisQueueType(PfsError):
    """The operation does not exist for a queue of this type (for instance `get` from an output queue)."""


# ---------------------------------------------------------------------------------------------- requests


class RequestError(PfsError):
    """A request failed without effect."""


class InvalidRequest(RequestError):
    """A field has the wrong type or a value that can never be right (negative pgid, n < 1, a bool for a number)."""


class ProtocolError(RequestError):
    """A message that is not legal in this state: unknown ref, data after the end, wrong counts, unknown class."""


class OutOfRange(RequestError):
    """A page range is not wholly inside the page file."""


class WrongPageLength(RequestError):
    """A page's length is not the page size of the file."""


class RequestTooLarge(RequestError):
    """A request exceeds a limit that the message names."""


class Cancelled(RequestError):
    """The client gave the request up."""


class SessionEnded(RequestError):
    """The client died, or the page file server stopped, before the request was finished."""


class ServerInactive(RequestError):
    """The page file server is stopped (`Stop`) and takes no requests until `Start`."""


class Busy(RequestError):
    """A limit on concurrent use is reached; the same request can succeed later."""


class IdleTooLong(RequestError):
    """A writer sent nothing, or a reader gave no credit, for so long that its request was given up."""


class SnapshotTooOld(RequestError):
    """A read in progress needed more old page versions than the version store may keep."""


class ReadOnly(RequestError):
    """A change was asked of a page file, file or system that is open for reading only."""


class PageIOError(RequestError):
    """The disk failed to read pages; other pages are not concerned."""


class PageCorrupt(RequestError):
    """A page does not match its checksum."""


class NoSpace(RequestError):
    """No space is left on the device, or a quota or file size limit is reached.  Reads go on."""


class TripleTooLarge(RequestError):
    """A triple does not fit into one page."""


class InvalidPage(RequestError):
    """A page does not hold what its codec expects (for instance packed triples)."""


# ---------------------------------------------------------------------------------------------- names and files


class InvalidName(RequestError):
    """A name of a page file or path is not allowed: empty, too long, `..`, absolute, NUL, or leads out of the root."""


class PageFileNotFound(RequestError):
    """No page file of this name, and it was not to be created."""


class PageFileExists(RequestError):
    """A page file of this name exists already."""


class PageSizeMismatch(RequestError):
    """The page size given is not the page size of the file."""


class FileDamaged(RequestError):
    """A file's size is not a multiple of its page size.  `repair=True` cuts the torn tail."""


class DirectoryLocked(RequestError):
    """Another process, or another System of this one, uses the data directory."""


class NotRegularFile(RequestError):
    """A directory, FIFO, device or socket stands where a file should be."""


class FileClosed(RequestError):
    """A virtual file or descriptor was used after it was closed."""


class AccessDenied(RequestError):
    """A file was used in a way that it was not opened for (for instance read through a write-only file)."""


class FileMissing(RequestError):
    """A file or relation fork that should exist does not."""


class FileExists(RequestError):
    """A file or relation fork that was to be created new exists."""


# ---------------------------------------------------------------------------------------------- slots of the log


class SlotExists(RequestError):
    """A retention slot of this name exists already."""


class SlotNotFound(RequestError):
    """There is no retention slot of this name."""


class SlotLost(RequestError):
    """The log that a retention slot needs is not kept any more; its owner must begin anew."""


# ---------------------------------------------------------------------------------------------- fatal


class FatalError(PfsError):
    """Something after which nothing more may be written or acknowledged: the system panics."""


class WriteFailed(FatalError):
    """The disk refused a write (EIO, EROFS, EACCES): what the file holds now is not known."""


class ReadFailed(FatalError):
    """The disk failed to read during recovery, which cannot go on without those bytes."""


class SyncFailed(FatalError):
    """A sync failed: the kernel may have dropped the data, and a repeated sync would lie."""


class FileReplaced(FatalError):
    """A file was removed or replaced by another while pfs had it open."""


class CatalogDamaged(FatalError):
    """The catalog of page files cannot be read or fails its checksum."""


class WalDamaged(FatalError):
    """The WAL is damaged at a place that was durable once: not the work of a crash, so nothing is cut off silently."""


class WalSegmentMissing(FatalError):
    """A WAL segment that recovery needs is not there."""


class ForeignWalSegment(FatalError):
    """A WAL segment belongs to another system, or to another version of pfs."""


class ControlFileDamaged(FatalError):
    """The control file is missing though there is a WAL, or none of its slots is valid, or it is of another version."""


class BackupUnfinished(FatalError):
    """The directory is what an interrupted or failed backup left."""


class CorruptionFound(FatalError):
    """Files of the system contradict each other or fail a checksum where no repair is possible."""
