"""The actor runtime: Erlang-style actors on Pykka's hooks.

`Actor` is run by a `Scheduler`, many on one thread; `BlockingActor` has a thread of its own.  Both have Pykka's API.
Beyond it: `monitor` and `Down`, names, timers, checked start, and supervisors.
"""

from pfs.actors.actor import Actor
from pfs.actors.blocking import BlockingActor
from pfs.actors.lifecycle import ActorKilled
from pfs.actors.monitors import Address, Down
from pfs.actors.reference import Ref, RefBase
from pfs.actors.replies import DelayedReply
from pfs.actors.restart_policy import ChildSpec
from pfs.actors.runtime import Runtime, current_runtime, default_runtime
from pfs.actors.scheduler import Scheduler
from pfs.actors.supervisor import (
    ChildCount,
    ChildInfo,
    CountChildren,
    DeleteChild,
    RestartChild,
    StartChild,
    Supervisor,
    SupervisorReply,
    TerminateChild,
    WhichChildren,
)
from pfs.actors.timers import Timer
from pfs.actors.waiting import ReplyFuture, Waiter

__all__ = [
    "Actor",
    "ActorKilled",
    "Address",
    "BlockingActor",
    "ChildCount",
    "ChildInfo",
    "ChildSpec",
    "CountChildren",
    "DelayedReply",
    "DeleteChild",
    "Down",
    "Ref",
    "RefBase",
    "ReplyFuture",
    "RestartChild",
    "Runtime",
    "Scheduler",
    "StartChild",
    "Supervisor",
    "SupervisorReply",
    "TerminateChild",
    "Timer",
    "Waiter",
    "WhichChildren",
    "current_runtime",
    "default_runtime",
]
