"""The actor runtime: Erlang-style actors on Pykka's hooks.

`Actor` is run by a `Scheduler`, many on one thread; `BlockingActor` has a thread of its own.  Both have Pykka's API.
Beyond it: `monitor` and `Down`, names, timers, checked start, and supervisors.
"""

from pfs.actors.actor import Actor
from pfs.actors.blocking import BlockingActor
from pfs.actors.lifecycle import ActorKilled
from pfs.actors.monitors import Address, Down
from pfs.actors.reference import Ref, RefBase
from pfs.actors.runtime import Runtime, current_runtime, default_runtime
from pfs.actors.scheduler import Scheduler
from pfs.actors.timers import Timer
from pfs.actors.waiting import ReplyFuture, Waiter

__all__ = [
    "Actor",
    "ActorKilled",
    "Address",
    "BlockingActor",
    "Down",
    "Ref",
    "RefBase",
    "ReplyFuture",
    "Runtime",
    "Scheduler",
    "Timer",
    "Waiter",
    "current_runtime",
    "default_runtime",
]
