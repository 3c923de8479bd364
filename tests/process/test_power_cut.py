"""The power of a real disk is cut while clients write, and in recoveries; what was acknowledged is there afterwards.

`PFS_SEED=7 PFS_CUTS=100 pytest tests/process/test_power_cut.py` makes a longer run on each file system.  Where
no disk can be made (it takes root, loop devices and mkfs) the tests are skipped and say why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.process.clients import FILES, Clients, found_in, prepare, random_options
from tests.process.known import Known
from tests.process.power import KINDS, PoweredDisk
from tests.process.served import ServedProcess

CUTS = int(os.environ.get("PFS_CUTS", "6"))
SEED = int(os.environ.get("PFS_SEED", "1"), 0)

WITHOUT_POWER = ("SystemFailed", "PageIOError", "NoSpace")
"""What requests are answered with on a disk that takes and gives nothing."""


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PoweredDisk]:
    disk = PoweredDisk(tmp_path, KINDS[request.param])
    yield disk
    disk.unmount()


class Loop:
    """Power on, power off."""

    def __init__(self, disk: PoweredDisk, seed: int) -> None:
        self.disk = disk
        self.directory = disk.root / "data"
        self.random = Random(seed)
        self.known = Known(FILES)
        self.transactions = 0
        self.in_starts = 0

    def run(self, cuts: int) -> None:
        for number in range(cuts):
            self.disk.mount()
            if number % 3 == 2:
                self.cut_in_start()
            else:
                self.cut_while_clients_write()
            self.disk.unmount()
        self.disk.mount()
        last = ServedProcess(self.directory, random_options(self.random))
        self.check(last)
        last.stop()
        self.disk.unmount()

    def cut_while_clients_write(self) -> None:
        random, known = self.random, self.known
        served = ServedProcess(self.directory, random_options(random))
        try:
            self.check(served)
            prepare(served, known)
            enough = known.acknowledged + random.randrange(1, 800)
            clients = Clients(served, known, random, expected=WITHOUT_POWER)
            while known.acknowledged < enough and not clients.failures:
                threading.Event().wait(0.001)
            threading.Event().wait(random.random() * 0.01)
            self.disk.cut()
            threading.Event().wait(random.random() * 0.05)
        finally:
            served.kill()
        clients.join()

    def cut_in_start(self) -> None:
        """The process that starts may or may not get to its end; the next one has to recover what is left."""
        cut = threading.Timer(0.1 + self.random.random() * 0.1, self.disk.cut)
        cut.start()
        served = ServedProcess(self.directory, random_options(self.random))
        cut.join()
        self.in_starts += not served.ready.get("ready")
        served.kill()

    def check(self, served: ServedProcess) -> None:
        assert served.ready, served.end_of_errors()
        assert served.ready.get("ready"), f"it does not start: {served.ready}"
        self.transactions += served.ready["wal"]["replayed_transactions"]
        self.known.check(found_in(served))


def test_what_was_acknowledged_is_there_when_the_power_is_back(disk: PoweredDisk) -> None:
    print(f"replay: PFS_SEED={SEED} PFS_CUTS={CUTS} pytest tests/process/test_power_cut.py")
    loop = Loop(disk, SEED)
    loop.run(CUTS)
    print(
        f"{CUTS} power cuts, {loop.in_starts} of them before a start was done; "
        f"{loop.known.acknowledged:,} pages acknowledged; {loop.transactions:,} transactions recovered"
    )
    assert loop.transactions > 0


def test_a_cut_loses_what_was_not_synced_and_only_that(disk: PoweredDisk) -> None:
    disk.mount()
    for name, synced in (("kept", True), ("lost", False)):
        with (disk.root / name).open("wb") as file:
            file.write(b"x" * 5000)
            file.flush()
            if synced:
                os.fsync(file.fileno())
    disk.cut()
    with pytest.raises(OSError, match="Input/output error"):
        (disk.root / "after").touch()
    disk.unmount()
    disk.mount()
    assert (disk.root / "kept").read_bytes() == b"x" * 5000
    lost = disk.root / "lost"
    assert not lost.exists() or lost.read_bytes() != b"x" * 5000
    disk.unmount()
