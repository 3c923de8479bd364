"""The counters of virtual files, declared once: name, kind and help.

Operations have a count and the seconds spent in them.  They are counted without a lock, each by one addition that the
interpreter does not interrupt.  How many slots are in use is never kept, only derived: opens minus closes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A metric's declaration."""

    name: str
    kind: Literal["operation", "counter", "gauge", "bytes"]
    help: str


METRICS = (
    Metric("open", "operation", "files opened for the first time"),
    Metric("open_after_replace", "operation", "files opened again after their descriptor had been given to another"),
    Metric("close", "operation", "descriptors closed because their file was closed"),
    Metric("close_by_replace", "operation", "descriptors closed to make room for another file"),
    Metric("read", "operation", "read calls"),
    Metric("write", "operation", "write calls"),
    Metric("seek", "operation", "seeks"),
    Metric("fsync", "operation", "syncs of files, data-only ones included"),
    Metric("metadata", "operation", "questions for a file's size and identity"),
    Metric("set_len", "operation", "changes of a file's length, and allocations"),
    Metric("nowait_hits", "counter", "inline reads that the page cache answered"),
    Metric("nowait_misses", "counter", "inline reads that would have had to wait"),
    Metric("slot_waits", "counter", "operations that waited for a slot because all had I/O in flight"),
    Metric("descriptor_shortages", "counter", "EMFILE and ENFILE answers, each met by closing another file"),
    Metric("syncs_before_close", "counter", "dirty files synced because their descriptor was about to be closed"),
    Metric("close_errors", "counter", "close calls that failed after everything was synced; harmless"),
    Metric("dropped", "counter", "virtual files that were dropped without close"),
    Metric("slots_in_use", "gauge", "descriptors open for virtual files: opens minus closes"),
    Metric("read_bytes", "bytes", "bytes read, by kind of file"),
    Metric("written_bytes", "bytes", "bytes written, by kind of file"),
)


class Timed:
    """A count of operations and the seconds they took."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


class Traffic:
    """Bytes moved for one kind of file."""

    __slots__ = ("read", "written")

    def __init__(self) -> None:
        self.read = 0
        self.written = 0


class Metrics:
    """The metrics of one pool.  Attributes are the names in `METRICS`; `traffic` finds the bytes of a kind."""

    def __init__(self) -> None:
        self.open = Timed()
        self.open_after_replace = Timed()
        self.close = Timed()
        self.close_by_replace = Timed()
        self.read = Timed()
        self.write = Timed()
        self.seek = Timed()
        self.fsync = Timed()
        self.metadata = Timed()
        self.set_len = Timed()
        self.nowait_hits = 0
        self.nowait_misses = 0
        self.slot_waits = 0
        self.descriptor_shortages = 0
        self.syncs_before_close = 0
        self.close_errors = 0
        self.dropped = 0
        self._kinds: dict[str, Traffic] = {}

    def traffic(self, kind: str) -> Traffic:
        """The bytes of a kind of file; made when first asked for."""
        return self._kinds.setdefault(kind, Traffic())

    @property
    def slots_in_use(self) -> int:
        opened = self.open.count + self.open_after_replace.count
        return opened - self.close.count - self.close_by_replace.count

    def stats(self) -> dict[str, int | float]:
        """All values: `NAME` for counts, `NAME_seconds` for times, `read_bytes.KIND` and `written_bytes.KIND`."""
        values: dict[str, int | float] = {}
        for metric in METRICS:
            if metric.kind == "operation":
                timed: Timed = getattr(self, metric.name)
                values[metric.name] = timed.count
                values[f"{metric.name}_seconds"] = timed.seconds
            elif metric.kind != "bytes":
                values[metric.name] = getattr(self, metric.name)
        for kind, traffic in sorted(self._kinds.items()):
            values[f"read_bytes.{kind}"] = traffic.read
            values[f"written_bytes.{kind}"] = traffic.written
        return values
