"""What a test may leave behind: nothing.  Open descriptors, threads and actors before and after it are compared.

Comparing, rather than expecting none, keeps out what is not the test's: the threads of pytest-xdist and
pytest-timeout, the descriptors of output capture, and what fixtures of a wider scope hold.
"""

from __future__ import annotations

import gc
import os
import threading
from typing import NamedTuple

import pykka

GRACE = 2.0
"""Seconds in all that threads which are already ending are waited for."""


class Snapshot(NamedTuple):
    """What a process holds at one moment."""

    descriptors: dict[int, tuple[int, int]]
    """Descriptor to device and inode: a name may change while a file is open."""
    threads: frozenset[threading.Thread]
    actors: frozenset[str]
    """URNs of the actors in Pykka's registry."""


def snapshot() -> Snapshot:
    return Snapshot(
        descriptors=_descriptors(),
        threads=frozenset(threading.enumerate()),
        actors=frozenset(reference.actor_urn for reference in pykka.ActorRegistry.get_all()),
    )


def leaks_since(before: Snapshot, grace: float = GRACE) -> list[str]:
    """What is there now and was not before, one line each; empty if nothing is.

    Threads get `grace` seconds in all to end, since a thread that was told to stop may still be on its way out.
    """
    new_threads = frozenset(threading.enumerate()) - before.threads - {threading.current_thread()}
    share = grace / max(1, len(new_threads))
    for thread in new_threads:
        thread.join(share)
    now = snapshot()
    if now != before:
        # Exceptions caught by `pytest.raises` keep a test's variables alive in reference cycles.
        gc.collect()
        now = snapshot()
    return [*_new_actors(before, now), *_new_threads(before, now), *_new_descriptors(before, now)]


def stop_leaked_actors(before: Snapshot, seconds: float = GRACE) -> None:
    """Stop the actors that were not there before, so that the next test is not blamed for them."""
    for reference in pykka.ActorRegistry.get_all():
        if reference.actor_urn not in before.actors:
            try:
                reference.stop(block=True, timeout=seconds)
            except Exception as error:
                print(f"could not stop {reference}: {error!r}")


def _new_actors(before: Snapshot, now: Snapshot) -> list[str]:
    return [f"actor still registered: {urn}" for urn in sorted(now.actors - before.actors)] + [
        f"actor of a wider fixture gone: {urn}" for urn in sorted(before.actors - now.actors)
    ]


def _new_threads(before: Snapshot, now: Snapshot) -> list[str]:
    new = [thread for thread in now.threads - before.threads if thread.is_alive()]
    return [f"thread still running: {thread.name} (daemon={thread.daemon})" for thread in sorted(new, key=_name)]


def _new_descriptors(before: Snapshot, now: Snapshot) -> list[str]:
    leaked = [
        f"descriptor still open: {descriptor} -> {_target(descriptor)}"
        for descriptor, identity in sorted(now.descriptors.items())
        if before.descriptors.get(descriptor) != identity
    ]
    missing = sorted(before.descriptors.keys() - now.descriptors.keys())
    return leaked + [f"descriptor closed that was not the test's: {descriptor}" for descriptor in missing]


def _name(thread: threading.Thread) -> str:
    return thread.name


def _descriptors() -> dict[int, tuple[int, int]]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the descriptor of this very listing
            continue
        found[int(name)] = (status.st_dev, status.st_ino)
    return found


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "closed meanwhile"
