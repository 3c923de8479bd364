"""Every operation of short workloads fails in every way: what is left is a state that the workload went through."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import NamedTuple

import pytest

from pfs.errors import FatalError, FileMissing, PfsError
from pfs.files.relation import Fork
from pfs.files.storage_manager import Relation, StorageManager
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from tests.files.relations import ADDRESS, MAIN, SIZE, blocks, storage_on

FAULTS = {
    f"{errno.errorcode[number]} {often}": lambda at, number=number, often=often: Fault(
        number, at=at, forever=often == "forever"
    )
    for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EINTR)
    for often in ("once", "forever")
    if (number, often) != (errno.EINTR, "forever")  # what is interrupted for ever is retried for ever
} | {
    "short once": lambda at: Fault(short=SIZE + 100, at=at),
    "short forever": lambda at: Fault(short=100, at=at, forever=True),
}
ZEROS = bytes(SIZE)


class Step(NamedTuple):
    """A call, and the content of the main and fsm forks after it (None: there is none)."""

    call: Callable[[StorageManager, Relation], object]
    main: list[bytes] | None
    fsm: list[bytes] | None


WORKLOADS = {
    "growing": [
        Step(lambda m, r: m.create(r), [], None),
        Step(lambda m, r: m.extend(r, MAIN, 0, blocks(1, 3)), blocks(1, 3), None),
        Step(lambda m, r: m.extend(r, MAIN, 5, blocks(6, 4)), [*blocks(1, 3), ZEROS, ZEROS, *blocks(6, 4)], None),
        Step(lambda m, r: m.sync(), [*blocks(1, 3), ZEROS, ZEROS, *blocks(6, 4)], None),
        Step(lambda m, r: m.zero_extend(r, MAIN, 9, 1), [*blocks(1, 3), ZEROS, ZEROS, *blocks(6, 4), ZEROS], None),
    ],
    "shrinking": [
        Step(lambda m, r: m.create(r), [], None),
        Step(lambda m, r: m.create(r, Fork.FSM), [], []),
        Step(lambda m, r: m.extend(r, MAIN, 0, blocks(1, 9)), blocks(1, 9), []),
        Step(lambda m, r: m.extend(r, Fork.FSM, 0, blocks(1, 5)), blocks(1, 9), blocks(1, 5)),
        Step(lambda m, r: m.immedsync(r), blocks(1, 9), blocks(1, 5)),
        Step(lambda m, r: m.truncate(r, {MAIN: 3}), blocks(1, 3), blocks(1, 5)),
        Step(lambda m, r: m.extend(r, MAIN, 4, blocks(5, 2)), [*blocks(1, 3), ZEROS, *blocks(5, 2)], blocks(1, 5)),
    ],
    "removing": [
        Step(lambda m, r: m.create(r, Fork.FSM), None, []),
        Step(lambda m, r: m.extend(r, Fork.FSM, 0, blocks(1, 5)), None, blocks(1, 5)),
        Step(lambda m, r: m.sync(), None, blocks(1, 5)),
        Step(lambda m, r: m.unlink(ADDRESS), None, None),
        Step(lambda m, r: m.create(r, Fork.FSM), None, []),
        Step(lambda m, r: m.extend(r, Fork.FSM, 0, blocks(9, 1)), None, blocks(9, 1)),
    ],
}


def forks(manager: StorageManager, relation: Relation) -> list[list[bytes] | None]:
    """The content of the main and fsm forks."""
    found: list[list[bytes] | None] = []
    for fork in (MAIN, Fork.FSM):
        try:
            count = manager.nblocks(relation, fork)
            found.append([bytes(manager.read(relation, fork, number)) for number in range(count)])
        except FileMissing:
            found.append(None)
    return found


def is_part_of(found: list[bytes] | None, *states: list[bytes] | None) -> bool:
    """True if a fork is one of these states, or a part of the longest of them (a truncation or removal half-way)."""
    return any(
        found == state or (found is not None and state is not None and found == state[: len(found)]) for state in states
    )


@pytest.mark.untraced
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_whichever_operation_fails_a_call_happens_or_does_not(workload, kind):
    """A call that fails without being fatal has changed nothing, except that a cut or removal may be half-way."""
    steps = WORKLOADS[workload]
    at = 0
    struck = True
    while struck:
        at += 1
        fault = FAULTS[kind](at)
        fs = SimulatedFileSystem()
        with suppress(FatalError), storage_on(fs, slots=2) as storage:
            manager = storage.manager
            relation = manager.open(ADDRESS, SIZE)
            fs.faults.append(fault)
            state: list[list[bytes] | None] = [None, None]
            for number, step in enumerate(steps):
                where = f"{workload}, call {number}, operation {at}"
                failed = False
                try:
                    step.call(manager, relation)
                except FatalError:
                    break
                except PfsError:
                    failed = True
                struck_so_far, fs.faults = fs.faults, []
                after = forks(manager, relation)
                if failed:
                    for found, before, wanted in zip(after, state, [step.main, step.fsm], strict=True):
                        assert is_part_of(found, before, wanted), where
                    # The same call, made again in good times, succeeds, unless the failed one had all but happened.
                    with suppress(PfsError):
                        step.call(manager, relation)
                    after = forks(manager, relation)
                else:
                    fs.faults = struck_so_far
                state = [step.main, step.fsm]
                assert after == state, where
            fs.faults = []
        struck = bool(fault.struck)
    assert at > 15


@pytest.mark.untraced
@pytest.mark.parametrize("policy", ["none", "all", "prefix", "subset", "torn"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_after_a_crash_at_any_operation_the_relation_opens_with_what_was_synced(workload, policy, seed):
    """What a sync covered is there; of the rest there may be anything, but the files are a relation again."""
    rng = Random(seed)
    images: list[tuple[int, SimulatedFileSystem]] = []
    number = 0
    fs = SimulatedFileSystem(on_operation=lambda operation: images.append((number, fs.crash_image(policy, rng))))
    steps = WORKLOADS[workload]
    with storage_on(fs) as storage:
        relation = storage.manager.open(ADDRESS, SIZE)
        for number, step in enumerate(steps):  # noqa: B007 (read by the hook)
            step.call(storage.manager, relation)
        images.append((len(steps), fs.crash_image(policy, rng)))
    fs.on_operation = None
    synced = next(number for number, step in enumerate(steps) if "sync" in step.call.__code__.co_names[0])
    changes_later = {"growing": False, "shrinking": True, "removing": True}[workload]
    for at, image in images:
        image.on_operation = None
        with storage_on(image) as storage:
            relation = storage.manager.open(ADDRESS, SIZE, repair=True)
            main, fsm = forks(storage.manager, relation)
            if at > synced and not changes_later:
                assert main is not None
                assert main[:9] == steps[synced].main
            if at == synced + 1 and workload == "removing" and policy == "none":
                assert fsm is None or is_part_of(fsm, steps[synced].fsm)
            # And it can be used again, with nothing of its past showing through.
            storage.manager.create(relation, exist_ok=True)
            count = storage.manager.nblocks(relation)
            storage.manager.extend(relation, MAIN, count + 6, blocks(99, 1))
            assert forks(storage.manager, relation)[0] == [*(main or []), *[ZEROS] * 6, *blocks(99, 1)]
