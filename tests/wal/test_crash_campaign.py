"""A crash at every file operation: what was acknowledged is there, what is there was written, and nothing is torn.

Each workload of the toy database runs once.  Before each of its file operations a crash image is taken under each
policy, recovered, and compared with the states that the database went through: the state found must be one from the
last acknowledged to the last logged.  Then it is written to, crashed and recovered again.  Identical images count once.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import get_args

import pytest

from pfs.testing.file_system import CrashPolicy, Operation, SimulatedFileSystem
from tests.wal.toy import State, ToyDatabase

POLICIES: tuple[CrashPolicy, ...] = get_args(CrashPolicy)


def fingerprint(fs: SimulatedFileSystem) -> bytes:
    digest = blake2b(digest_size=16)
    for path, content in sorted(fs.durable_files.items()):
        digest.update(path.encode() + len(content).to_bytes(8, "little") + content)
    return digest.digest()


class Campaign:
    """Takes images of a running database and recovers each."""

    def __init__(self, seed: int, check: Callable[[SimulatedFileSystem, int, list[State], Random], None]) -> None:
        self.rng = Random(seed)
        self.seen: set[bytes] = set()
        self.images = 0
        self.check = check
        self.database: ToyDatabase | None = None
        self.fs = SimulatedFileSystem(keep_journal=False, on_operation=self._before)
        self.where = ""

    def _before(self, operation: Operation) -> None:
        if operation.name in ("open", "close", "stat", "fstat", "preadv", "listdir"):
            return
        for policy in POLICIES:
            image = self.fs.crash_image(policy, self.rng)
            image.on_operation = None
            states = [{}] if self.database is None else self.database.states
            acked = 0 if self.database is None else self.database.acked
            mark = fingerprint(image) + acked.to_bytes(4, "little") + len(states).to_bytes(4, "little")
            if mark in self.seen:
                continue
            self.seen.add(mark)
            self.images += 1
            self.where = f"{policy} before {operation}"
            self.check(image, acked, states, self.rng)


def recovered(fs: SimulatedFileSystem, acked: int, states: list[State]) -> ToyDatabase:
    database = ToyDatabase(fs)
    database.close()
    allowed = states[acked:]
    assert database.states[0] in allowed, (
        f"state {database.states[0].keys()} is none of the {len(allowed)} from {acked} on"
        + (f", but the earlier {states.index(database.states[0])}" if database.states[0] in states else "")
    )
    return database


def run_workload(campaign: Campaign, rng: Random, steps: int) -> None:
    database = campaign.database = ToyDatabase(campaign.fs, batch_bytes=rng.choice([1, 2000, 1 << 20]))
    open_transactions: list[tuple[int, int, list[bytes]]] = []
    serial = 0

    def page() -> bytes:
        nonlocal serial
        serial += 1
        return bytes(512) if rng.random() < 0.1 else serial.to_bytes(4, "little") * 128

    for _ in range(steps):
        ids = list(database.names)
        deed = rng.choice("aaawwwwwccitrdeekkkfglm") if ids else "n"
        file_id = rng.choice(ids) if ids else 0
        held = database.pages.get(file_id, [])
        if deed == "n" or (deed == "m" and len(ids) < 4):
            serial += 1
            database.create(f"file-{serial}")
        elif deed == "a" or (deed == "w" and not held):
            database.write(file_id, None, [page() for _ in range(rng.randint(1, 5))])
        elif deed == "w":
            pgid = rng.randrange(len(held))
            database.write(file_id, pgid, [page() for _ in range(rng.randint(1, min(3, len(held) - pgid)))])
        elif deed == "i":  # the pages of a transaction, long before its end
            transaction = database.begin()
            pages = [page() for _ in range(rng.randint(1, 3))]
            for index, each in enumerate(pages):
                database.log_page(transaction, file_id, index, each)
            open_transactions.append((transaction, file_id, pages))
        elif deed == "c" and open_transactions:
            transaction, owner, pages = open_transactions.pop(rng.randrange(len(open_transactions)))
            if owner in database.names and rng.random() < 0.8:
                room = len(database.pages[owner]) - len(pages)
                over = rng.randint(0, room) if room >= 0 and rng.random() < 0.6 else None
                database.commit(transaction, owner, over, pages)
            else:
                database.buffer.settle(transaction)
        elif deed == "t":
            database.truncate(file_id, rng.randint(0, len(held)))
        elif deed == "r":
            serial += 1
            database.rename(file_id, f"file-{serial}")
        elif deed == "d" and len(ids) > 1:
            database.drop(file_id)
        elif deed == "e":
            keys = sorted(database.dirty)
            database.clean(rng.sample(keys, min(len(keys), 3)))
        elif deed == "k":
            database.checkpoint()
        elif deed == "g":
            database.buffer.switch_segment()
        elif deed == "l":
            database.buffer.seal()
        if deed == "f" or rng.random() < 0.5:
            database.flush()
    database.checkpoint(shutdown=True)
    database.close()


def lives_on(image: SimulatedFileSystem, acked: int, states: list[State], rng: Random) -> None:
    """Recover, write more, crash, recover again."""
    database = recovered(image, acked, states)
    again = recovered(image, 0, [database.states[0]])
    assert again.log.transactions == again.log.pages == 0
    second = ToyDatabase(image)
    file_id = second.create("after the crash")
    second.write(file_id, None, [b"x" * 512, b"y" * 512])
    second.flush()
    second.write(file_id, 1, [b"z" * 512])
    crash = image.crash_image(rng.choice(POLICIES), rng)
    second.close()
    recovered(crash, second.acked, second.states)


@pytest.mark.untraced
@pytest.mark.parametrize("number", range(6))
def test_what_was_acknowledged_survives_a_crash_at_any_operation(seed: int, number: int) -> None:
    campaign = Campaign(seed + number, lives_on)
    rng = Random(seed * 31 + number)
    try:
        run_workload(campaign, rng, 25)
    except Exception as error:
        raise AssertionError(f"seed {seed}, workload {number}, image {campaign.images}: {campaign.where}") from error
    assert campaign.images > 50


@pytest.mark.untraced
def test_a_crash_at_any_operation_of_recovery_changes_nothing(seed: int) -> None:
    pending: list[tuple[SimulatedFileSystem, int, list[State]]] = []

    def keep_some(image: SimulatedFileSystem, acked: int, states: list[State], rng: Random) -> None:
        if campaign.images % 20 == 0:
            pending.append((image, acked, list(states)))

    campaign = Campaign(seed, keep_some)
    run_workload(campaign, Random(seed), 60)
    assert len(pending) > 5, campaign.images
    images = 0
    for image, acked, states in pending[:20]:
        rng = Random(seed)
        plain = recovered(image.crash_image("all", rng), acked, states).states[0]
        crashes: list[SimulatedFileSystem] = []

        def take(_: Operation, image: SimulatedFileSystem = image, crashes: list = crashes, rng: Random = rng) -> None:
            crash = image.crash_image(rng.choice(POLICIES), rng)
            crash.on_operation = None
            crashes.append(crash)

        image.on_operation = take
        recovered(image, 0, [plain])
        for crash in crashes:
            images += 1
            recovered(crash, 0, [plain])
    assert images > 100
