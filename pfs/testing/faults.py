"""Faults for the simulated file system: rules that say which operation fails, and how.

A rule counts the operations that match it and strikes at the k-th, once or from then on.  Rules are plain data with a
counter; the file system asks each of them before every operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple


class Operation(NamedTuple):
    """One call of a file system, as hooks, faults and the journal see it.

    offset and length are 0 where they mean nothing; `path` is the one that the descriptor was opened by.
    """

    sequence: int
    name: str
    path: str
    offset: int
    length: int


@dataclass
class Fault:
    """Fail the `at`-th matching operation (counted from 1), or with `forever` that one and all after it.

    error: an errno to raise.  short: transfer that many bytes fewer instead (but at least one); for reads and writes.
    operation: a call's name, such as `"pwritev"`, or None for any.  path: a shell pattern for the path, or None.
    """

    error: int = 0
    short: int = 0
    at: int = 1
    forever: bool = False
    operation: str | None = None
    path: str | None = None
    seen: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)
    first: Operation | None = field(default=None, init=False)
    """What it struck first."""

    def strikes(self, operation: Operation) -> bool:
        """True if this operation is to fail.  Counts it."""
        if self.operation is not None and self.operation != operation.name:
            return False
        if self.path is not None and not fnmatchcase(operation.path, self.path):
            return False
        self.seen += 1
        if self.seen == self.at or (self.forever and self.seen > self.at):
            self.struck += 1
            self.first = self.first or operation
            return True
        return False
