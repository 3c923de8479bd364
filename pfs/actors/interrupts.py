"""Signals must not strike inside an actor's handler.

A plain thread that waits for a reply drives the scheduler, so actors' handlers run on it.  If it is the main thread, a
Ctrl-C would raise `KeyboardInterrupt` in the middle of some actor's handler and leave it half-way.  While at least one
scheduler wants it, every Python signal handler that is installed is therefore wrapped once: if the signal comes while
the main thread drives, it is kept and its handler is called when the drive ends, a turn later at most; otherwise it is
called at once.  Then it may have struck a sender after it put its message and before it woke the scheduler's thread;
so the schedulers look for such work afterwards.  (A sender that is struck does not know whether its message is sent.)

Signal handlers can only be set on the main thread, so a scheduler made elsewhere does without unless another one was
made there.  An exception that strikes in a handler then is that actor's failure, and is raised again to the thread
that drove.  The same holds for a signal handler that the program installs later: install yours first.

What a program notices: `signal.getsignal` gives the wrapper, and `asyncio.run`, which cancels its task at Ctrl-C only
if it finds Python's own handler, raises `KeyboardInterrupt` instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_wrappers: dict[int, _Deferring] = {}
_users: list[Callable[[], None]] = []
_pending: list[tuple[_Deferring, int, FrameType | None]] = []
driving = False
"""Whether the main thread is driving a scheduler."""
deferring = False
"""Whether the handlers are wrapped."""


class _Deferring:
    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if driving:
            _pending.append((self, signum, frame))
        else:
            try:
                self.handler(signum, frame)
            finally:
                for look in _users.copy():
                    look()


def install(look: Callable[[], None]) -> bool:
    """Wrap the Python handlers of all signals; returns whether this thread may (only the main thread).

    `look` is called after each signal's handler: it wakes whoever should work.
    """
    global deferring
    if threading.current_thread() is not threading.main_thread():
        return False
    _users.append(look)
    deferring = True
    for signum in signal.valid_signals():
        handler = signal.getsignal(signum)
        if callable(handler) and not isinstance(handler, _Deferring):
            _wrappers[signum] = _Deferring(handler)
            signal.signal(signum, _wrappers[signum])
    return True


def uninstall(look: Callable[[], None]) -> None:
    """Put the handlers back when nobody wants the wrappers any more; others' later handlers are left alone.

    Called on another thread than the main one it cannot: the wrappers stay and do no harm, for they call what they
    wrap, until the next scheduler on the main thread takes them over.
    """
    global deferring
    _users.remove(look)
    if _users or threading.current_thread() is not threading.main_thread():
        return
    for signum, wrapper in list(_wrappers.items()):
        current: object = signal.getsignal(signum)
        if current is wrapper:
            signal.signal(signum, wrapper.handler)
    _wrappers.clear()
    deferring = False


def pending() -> bool:
    """Whether a signal waits for the end of the drive."""
    return bool(_pending)


def start_driving() -> None:
    global driving
    driving = True


def stop_driving() -> None:
    """End the main thread's drive and call the handlers of the signals that came; raises what they raise."""
    global driving
    driving = False
    while _pending:
        wrapper, signum, frame = _pending.pop(0)
        try:
            wrapper.handler(signum, frame)
        except BaseException:
            stop_driving()  # all are called; what the last one raises has the others as its context
            raise


def forget_drives() -> None:
    """Called in a forked child: nobody drives there."""
    global driving
    driving = False
    _pending.clear()
