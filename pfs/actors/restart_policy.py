"""What a supervisor decides, without actors: a table of children that turns events into orders.

Events are methods of `ChildTable` (`begin`, `started`, `down`, ...); each returns the orders that follow from it
(`Start`, `Stop`, `Ready`, `Finished`), to be carried out in that order.  The strategy is Erlang's one_for_one: a child
that ends is restarted alone, or not at all:

=========== ================= =================
restart     normal stop       any other reason
=========== ================= =================
permanent   restarted         restarted
transient   kept, not running restarted
temporary   forgotten         forgotten
=========== ================= =================

More than `max_restarts` restarts within `period` seconds are too many: then, as when it is stopped, the supervisor
stops its children, in the reverse of the order in which they were added, one after the other, and ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pykka

from pfs.errors import ChildNotFound, InvalidRequest, StartFailed, TooManyRestarts

Restart = Literal["permanent", "transient", "temporary"]
Shutdown = float | Literal["brutal_kill", "infinity"]
State = Literal["waiting", "starting", "running", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How a child is started, restarted and stopped.

    id: its name within the supervisor.  actor_class, args, kwargs: what is started.  restart: see the module.
    shutdown: the seconds that it has for stopping before it is killed, `"brutal_kill"` for none, `"infinity"` for no
    limit; by default 5, for a supervisor `"infinity"`.  `InvalidRequest` for a value that can never be right.
    """

    id: str
    actor_class: type[pykka.Actor]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    restart: Restart = "permanent"
    shutdown: Shutdown | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise InvalidRequest(f"a child's id is a string that is not empty, not {self.id!r}")
        if not (isinstance(self.actor_class, type) and issubclass(self.actor_class, pykka.Actor)):
            raise InvalidRequest(f"child {self.id!r}: {self.actor_class!r} is not a class of actors")
        if self.restart not in ("permanent", "transient", "temporary"):
            raise InvalidRequest(
                f"child {self.id!r}: restart is permanent, transient or temporary, not {self.restart!r}"
            )
        if self.shutdown not in (None, "brutal_kill", "infinity") and not _is_duration(self.shutdown):
            raise InvalidRequest(
                f"child {self.id!r}: shutdown is seconds, 'brutal_kill' or 'infinity', not {self.shutdown!r}"
            )


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


class Start(NamedTuple):
    """Start this child."""

    id: str


class Stop(NamedTuple):
    """Stop this child, within its time limit."""

    id: str


class Ready(NamedTuple):
    """The children that the supervisor began with are running."""


class Finished(NamedTuple):
    """No child is left and none will come: end, with this error if there is one."""

    error: Exception | None


Order = Start | Stop | Ready | Finished


class RestartHistory:
    """When children were restarted: says when it was too often."""

    def __init__(self, max_restarts: int, period: float) -> None:
        if not isinstance(max_restarts, int) or isinstance(max_restarts, bool) or max_restarts < 0:
            raise InvalidRequest(f"max_restarts is a number of restarts (0 or more), not {max_restarts!r}")
        if not _is_duration(period) or not period:
            raise InvalidRequest(f"period is a number of seconds above 0, not {period!r}")
        self.max_restarts = max_restarts
        self.period = period
        self._times: deque[float] = deque()

    def add(self, now: float) -> bool:
        """Note a restart at `now` (seconds); returns whether it is still within the limit."""
        self._times.append(now)
        while self._times[0] < now - self.period:
            self._times.popleft()
        return len(self._times) <= self.max_restarts


@dataclass(slots=True)
class Child:
    """A child's entry in the table."""

    spec: ChildSpec
    state: State
    start: Literal["first", "added", "asked", "again"]
    """Which kind of start was the last.  If it fails: the supervisor's own start fails; the child is forgotten; the
    child is kept; it is one more failure of a child that should be running."""


class ChildTable:
    """The children of one supervisor and what is to be done about them (see the module)."""

    def __init__(self, max_restarts: int, period: float) -> None:
        self.children: dict[str, Child] = {}
        """In the order in which they were added."""
        self.closing = False
        self._history = RestartHistory(max_restarts, period)
        self._waiting: deque[str] = deque()
        self._is_ready = False
        self._error: Exception | None = None

    # -- requests

    def begin(self, specs: Iterable[ChildSpec]) -> list[Order]:
        """Start these, each when the one before is running."""
        for spec in specs:
            self._insert(Child(spec, "waiting", "first"))
            self._waiting.append(spec.id)
        return self._start_next()

    def add(self, spec: ChildSpec) -> list[Order]:
        """Start one more; `StartFailed` if its id is in use or the supervisor is stopping."""
        self._refuse_when_closing(spec.id)
        child = Child(spec, "stopped", "added")
        self._insert(child)
        return self._start(child, "added")

    def restart(self, child_id: str) -> list[Order]:
        """Start a child that is not running; `ChildNotFound`, `StartFailed`."""
        child = self.find(child_id)
        self._refuse_when_closing(child_id)
        if child.state != "stopped":
            raise StartFailed(f"child {child_id!r} is {child.state}; terminate it first")
        return self._start(child, "asked")

    def terminate(self, child_id: str) -> list[Order]:
        """Stop a child; a temporary one is forgotten then; `ChildNotFound`."""
        child = self.find(child_id)
        if child.state in ("starting", "running"):
            child.state = "stopping"
            return [Stop(child_id)]
        if child.state == "waiting":
            self._set_stopped(child)
        return []

    def delete(self, child_id: str) -> None:
        """Forget a child that is not running; `ChildNotFound`, `InvalidRequest` if it is not stopped."""
        child = self.find(child_id)
        if child.state != "stopped":
            raise InvalidRequest(f"child {child_id!r} is {child.state}; terminate it before deleting it")
        del self.children[child_id]

    def close(self, error: Exception | None = None) -> list[Order]:
        """Stop all children, the last first, then end; the first call's error is the one that counts."""
        if self.closing:
            return []
        self.closing = True
        self._error = error
        return self._stop_next()

    def find(self, child_id: str) -> Child:
        """A child's entry; `ChildNotFound`."""
        child = self.children.get(child_id)
        if child is None:
            raise ChildNotFound(f"there is no child {child_id!r}")
        return child

    # -- what happened

    def started(self, child_id: str) -> list[Order]:
        """A child's `on_start` has ended well."""
        child = self.children[child_id]
        if child.state != "starting":
            return []  # it is to stop already
        child.state = "running"
        return self._start_next() if child.start == "first" else []

    def down(self, child_id: str, reason: BaseException | None, now: float) -> list[Order]:
        """A child has ended, or could not be started; `now` in seconds."""
        child = self.children[child_id]
        before, kind = child.state, child.start
        if self.closing:
            child.state = "stopped"
            return self._stop_next()
        if before == "starting" and kind != "again":
            return self._could_not_start(child, reason)
        done = child.spec.restart == "temporary" or (child.spec.restart == "transient" and reason is None)
        if before == "stopping" or done:
            self._set_stopped(child)
            return self._start_next() if before == "stopping" and kind == "first" else []
        if self._history.add(now):
            return self._start(child, "again")
        child.state = "stopped"
        error = TooManyRestarts(
            f"child {child_id!r} ended ({reason!r}), and there were more than {self._history.max_restarts} restarts "
            f"within {self._history.period:g} seconds"
        )
        error.__cause__ = reason
        return self.close(error)

    # -- steps

    def _insert(self, child: Child) -> None:
        child_id = child.spec.id
        if child_id in self.children:
            state = self.children[child_id].state
            raise StartFailed(f"child {child_id!r} exists ({state}); restart it, or delete it first")
        self.children[child_id] = child

    def _refuse_when_closing(self, child_id: str) -> None:
        if self.closing:
            raise StartFailed(f"child {child_id!r} cannot be started: the supervisor is stopping")

    def _start(self, child: Child, kind: Literal["first", "added", "asked", "again"]) -> list[Order]:
        child.state = "starting"
        child.start = kind
        return [Start(child.spec.id)]

    def _start_next(self) -> list[Order]:
        while self._waiting:
            child = self.children.get(self._waiting.popleft())
            if child is not None and child.state == "waiting":
                return self._start(child, "first")
        if self._is_ready:
            return []
        self._is_ready = True
        return [Ready()]

    def _could_not_start(self, child: Child, reason: BaseException | None) -> list[Order]:
        child.state = "stopped"
        if child.start == "first":
            error = StartFailed(f"child {child.spec.id!r} could not be started: {reason!r}")
            error.__cause__ = reason
            return self.close(error)
        if child.start == "added":
            del self.children[child.spec.id]
        return []

    def _set_stopped(self, child: Child) -> None:
        child.state = "stopped"
        if child.spec.restart == "temporary":
            del self.children[child.spec.id]

    def _stop_next(self) -> list[Order]:
        while self.children:
            child_id, child = next(reversed(self.children.items()))
            if child.state == "stopping":
                return []  # the one before it waits for its end
            if child.state in ("starting", "running"):
                child.state = "stopping"
                return [Stop(child_id)]
            del self.children[child_id]
        return [Finished(self._error)]
