"""Watching actors of Pykka's own classes, which have no hook for their end: one small actor looks at them."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pykka

from pfs.actors.actor import Actor
from pfs.actors.monitors import FOREIGN_INTERVAL, Address, Down, tell_if_alive
from pfs.actors.reference import Ref
from pfs.actors.runtime import Runtime
from pfs.errors import NameTaken

NAME = "pfs.foreign-watcher"


class Watch(msgspec.Struct, frozen=True):
    """`watcher` wants a `Down` of `target`."""

    target: pykka.ActorRef[Any]
    watcher: Address


class Unwatch(msgspec.Struct, frozen=True):
    """`watcher` no longer wants a `Down` of `target`."""

    target: pykka.ActorRef[Any]
    watcher: Address


class _Look(msgspec.Struct, frozen=True):
    """It is time to look at the targets."""


class ForeignWatcher(Actor):
    """Looks at each watched actor every `FOREIGN_INTERVAL` seconds while there is one."""

    inline = True

    def __init__(self) -> None:
        super().__init__()
        self._watched: dict[tuple[pykka.ActorRef[Any], Address], None] = {}
        self._looking = False

    def on_receive(self, message: Any) -> None:
        match message:
            case Watch(target, watcher):
                self._watched[(target, watcher)] = None
            case Unwatch(target, watcher):
                self._watched.pop((target, watcher), None)
            case _Look():
                self._looking = False
                self._look()
        if self._watched and not self._looking:
            self._looking = True
            self.send_after(0.0 if isinstance(message, Watch) else FOREIGN_INTERVAL, _Look())

    def _look(self) -> None:
        for target, watcher in list(self._watched):
            if target.is_alive() and watcher.is_alive():
                continue
            del self._watched[(target, watcher)]
            tell_if_alive(watcher, Down(target, pykka.ActorDeadError(f"{target} has ended; Pykka does not tell why")))


def watcher_of(runtime: Runtime) -> Address:
    """The watcher of a runtime, started when it is first needed."""
    known = runtime.whereis(NAME)
    if known is not None:
        return known
    ref = cast("Ref[ForeignWatcher]", runtime.start(ForeignWatcher))
    try:
        runtime.register(NAME, ref)
    except NameTaken:  # another thread was faster
        ref.kill()
        return watcher_of(runtime)
    runtime.supervised.add(ref)  # a supervisor that stops needs it to hear of the end of its children
    return ref
