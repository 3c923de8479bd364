"""Monitors: who wants to be told when an actor ends.

`watch(target, watcher)` makes the runtime tell `watcher` one `Down(ref, reason)` when `target` ends, or at once if it
has ended already.  Watching twice is the same as watching once.  A `Watched` thing keeps its watchers in a dict; each
watcher is told by whoever removes it from there, and removal is one atomic step, so that it is told exactly once,
also when the target dies on another thread at that moment.

Pykka's own actors have no hook for their end: they are looked at every `FOREIGN_INTERVAL` seconds by the scheduler of
the watcher.
"""

from __future__ import annotations

import _thread
import logging
import os
from typing import Any, Protocol, runtime_checkable

import msgspec
import pykka

logger = logging.getLogger("pfs.actors")

FOREIGN_INTERVAL = 0.25
"""Seconds between looks at watched actors of Pykka's own classes."""


@runtime_checkable
class Address(Protocol):
    """Whatever messages can be told to: an actor's ref, or the reply slot of a plain thread."""

    def tell(self, message: Any) -> None: ...

    def is_alive(self) -> bool: ...


def tell_if_alive(address: Address, message: Any) -> None:
    """Tell a message to whoever wants to know; nothing happens if it has ended."""
    try:
        address.tell(message)
    except pykka.ActorDeadError:
        pass


class Down(msgspec.Struct, frozen=True, gc=False):
    """The runtime tells a watcher that an actor has ended.

    `ref` is what was watched; `reason` is None after a normal stop, else the exception that ended it
    (`pykka.ActorDeadError` if it had ended before it was watched and the reason is no longer known).
    """

    ref: Any
    reason: BaseException | None


_making_a_dict = _thread.allocate_lock()
os.register_at_fork(
    before=_making_a_dict.acquire, after_in_parent=_making_a_dict.release, after_in_child=_making_a_dict.release
)
_NOT_ENDED: Any = type("NotEnded", (), {})()


class Watched:
    """Something whose end others may watch."""

    __slots__ = ("_exit_reason", "_watchers")

    def __init__(self) -> None:
        self._watchers: dict[Address, None] | None = None
        self._exit_reason: BaseException | None = _NOT_ENDED

    @property
    def exit_reason(self) -> BaseException | None:
        """Why this ended; None after a normal stop, and before the end."""
        reason = self._exit_reason
        return None if reason is _NOT_ENDED else reason

    def is_alive(self) -> bool:
        raise NotImplementedError

    def watch(self, watcher: Address) -> None:
        """Tell `watcher` a `Down` when this ends.

        Whoever is here before the exit reason is set is told by `tell_watchers`; after that, by this call: between
        `is_alive()` becoming false and the end of `on_stop` or `on_failure` the reason is not known yet.
        """
        if self._watchers is None:
            with _making_a_dict:
                if self._watchers is None:
                    self._watchers = {}
        self._watchers[watcher] = None
        if self._exit_reason is not _NOT_ENDED:
            self._tell_down(watcher)

    def unwatch(self, watcher: Address) -> None:
        """Take `watch` back.  A `Down` that is on its way still arrives."""
        if self._watchers is not None:
            self._watchers.pop(watcher, None)

    def tell_watchers(self, reason: BaseException | None) -> None:
        """Called once, after `is_alive()` has become false."""
        self._exit_reason = reason
        while self._watchers:
            try:
                watcher, _ = self._watchers.popitem()
            except KeyError:
                return
            _send_down(watcher, Down(self, reason))

    def _tell_down(self, watcher: Address) -> None:
        assert self._watchers is not None
        try:
            del self._watchers[watcher]
        except KeyError:
            return  # whoever ended the target has told it
        _send_down(watcher, Down(self, self.exit_reason))


def _send_down(watcher: Address, down: Down) -> None:
    try:
        watcher.tell(down)
    except pykka.ActorDeadError:
        pass  # the watcher is gone as well
    except Exception:
        logger.exception("%s could not be told %s:", watcher, down)  # the others must still be told
