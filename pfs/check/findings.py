"""What a check found, as data: what is wrong, where, and whether the log can repair it."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal[
    "control file",
    "log",
    "log segment",
    "catalog",
    "slot",
    "file missing",
    "file size",
    "page count",
    "page missing",
    "page",
    "lost write",
    "page record",
    "sidecar block",
    "page from elsewhere",
    "unreadable",
    "stray",
    "unknown file",
    "left over",
]
"""What is wrong.

`"page"` does not match its checksum; `"lost write"`: it is older than its newest image in the log; `"page record"`: the
sidecar has no record of it, or lost it; `"page from elsewhere"`: its LSN is one that the log never reached; `"stray"`:
a file of a page file that is gone; `"left over"`: what a crash or a recovery left, and what does no harm.
"""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be.

    path: the file, relative to the data directory.  damage: False for what is only said.  repairable: the log has what
    is needed, or it can be removed without loss.  page_file: the name of the page file concerned, if it is one.
    pgid, n: the pages concerned; n is 0 if none are.  lsn: the position in the log, 0 if it is not about one.
    """

    kind: Kind
    path: str
    message: str
    damage: bool = True
    repairable: bool = False
    page_file: str = ""
    pgid: int = 0
    n: int = 0
    lsn: int = 0


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What the next start has to do: log to read, transactions and pages to write, and a torn tail to cut off."""

    wal_bytes: int
    transactions: int
    pages: int
    torn_bytes: int


class Report(msgspec.Struct, kw_only=True):
    """The outcome of a check.

    state: what the control file says.  recovery: None if the directory was stopped in order, or cannot be recovered.
    repaired: what was found and is mended now.  obstacle: why nothing could be repaired.
    """

    state: str
    findings: list[Finding] = []
    repaired: list[Finding] = []
    recovery: Recovery | None = None
    obstacle: str = ""
    page_files: int = 0
    pages: int = 0
    """How many pages were read and checked."""

    @property
    def damaged(self) -> bool:
        """Whether there is damage now."""
        return any(finding.damage for finding in self.findings)


class Findings:
    """Findings as they are made.  Neighbouring pages with the same fault become one finding."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def add(
        self,
        kind: Kind,
        path: str,
        message: str,
        *,
        damage: bool = True,
        repairable: bool = False,
        page_file: str = "",
        pgid: int = 0,
        n: int = 0,
        lsn: int = 0,
    ) -> None:
        """Add what was found."""
        last = self.all[-1] if self.all else None
        finding = Finding(
            kind=kind,
            path=path,
            message=message,
            damage=damage,
            repairable=repairable,
            page_file=page_file,
            pgid=pgid,
            n=n,
            lsn=lsn,
        )
        if last is not None and n and last.n and pgid == last.pgid + last.n:
            joined = msgspec.structs.replace(finding, pgid=last.pgid, n=last.n)
            if joined == last:
                self.all[-1] = msgspec.structs.replace(last, n=last.n + n)
                return
        self.all.append(finding)
