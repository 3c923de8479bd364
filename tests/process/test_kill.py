"""A process that serves page files is killed again and again; all that it acknowledged is there, and half of nothing.

Each test kills one directory's server `PFS_KILLS` times (50): at a random moment while four clients append, overwrite,
truncate and read; or in the middle of its n-th call that changes files, which may be in the recovery of the last kill.
The options are others after each start.  `PFS_SEED=3 PFS_KILLS=1000 pytest tests/process/test_kill.py` makes one longer
run; since threads and a kill have moments of their own, a seed repeats the options and requests, not the interleaving.

The cache of the operating system survives a kill: what survives a power cut is shown in `test_power_cut.py` and, with
the simulated disk, in `tests/wal/test_crash_campaign.py`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from random import Random

import pytest

from tests.process.clients import FILES, Clients, found_in, prepare, random_options
from tests.process.known import Known
from tests.process.served import ServedProcess, ServerEnded

KILLS = int(os.environ.get("PFS_KILLS", "50"))
SEEDS = [int(os.environ["PFS_SEED"], 0)] if "PFS_SEED" in os.environ else range(1, 7)
PAGES_FOR_A_KILL = 340
"""How many pages are acknowledged, on average, before a kill: six times 50 kills have 100,000."""


class Loop:
    """Starts, kills and checks one directory."""

    def __init__(self, directory: Path, seed: int, kills: int) -> None:
        self.directory = directory
        self.random = Random(seed)
        self.kills = kills
        self.known = Known(FILES)
        self.transactions = 0
        self.in_start = 0
        self.at_a_call = 0

    def run(self) -> None:
        for number in range(self.kills):
            self.one_life(self.kills - number)
        last = ServedProcess(self.directory, random_options(self.random))
        self.check(last)
        last.stop()
        clean = ServedProcess(self.directory, random_options(self.random))
        assert clean.ready["wal"]["replayed_transactions"] == 0, "a clean stop leaves nothing to recover"
        self.check(clean)
        clean.stop()

    def one_life(self, kills_left: int) -> None:
        random, known = self.random, self.known
        kill_at = random.choice((None, None, random.randrange(1, 40), random.randrange(20, 250)))
        if kills_left == 1:
            kill_at = None  # it gets as far as it should
        served = ServedProcess(self.directory, random_options(random), kill_at=kill_at)
        try:
            assert served.ready or kill_at, served.end_of_errors()
            if not served.ready:
                self.in_start += 1
                return
            try:
                self.check(served)
                prepare(served, known)
            except ServerEnded:
                assert kill_at, served.errors
                self.at_a_call += 1
                return
            missing = max(self.kills * PAGES_FOR_A_KILL - known.acknowledged, 0)
            more = missing if kills_left == 1 else random.randrange(2 * missing // kills_left + 100)
            enough = known.acknowledged + max(more, 1)
            clients = Clients(served, known, random)
            while known.acknowledged < enough and served.process.poll() is None:
                threading.Event().wait(0.001)
            threading.Event().wait(random.random() * 0.003)
            self.at_a_call += served.process.poll() is not None
            served.kill()
            clients.join()
        finally:
            served.kill()

    def check(self, served: ServedProcess) -> None:
        assert served.ready, served.end_of_errors()
        assert served.ready.get("ready"), f"it does not start: {served.ready}"
        self.transactions += served.ready["wal"]["replayed_transactions"]
        self.known.check(found_in(served))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_process_keeps_what_it_acknowledged_and_no_half_of_a_request(tmp_path: Path, seed: int) -> None:
    print(f"replay: PFS_SEED={seed} PFS_KILLS={KILLS} pytest tests/process/test_kill.py")
    loop = Loop(tmp_path / "data", seed, KILLS)
    loop.run()
    print(
        f"{KILLS} kills, {loop.at_a_call} of them at a call and {loop.in_start} in a start; "
        f"{loop.known.acknowledged:,} pages acknowledged; {loop.transactions:,} transactions recovered"
    )
    assert loop.transactions > 0
    if KILLS >= 50:
        assert loop.in_start
        assert loop.at_a_call
        assert loop.known.acknowledged >= KILLS * PAGES_FOR_A_KILL
