"""A directory is copied while another process writes to it; each copy has what was acknowledged before it was begun.

`PFS_SEED=3 pytest tests/process/test_backup.py` repeats the options and requests of a run, not its interleaving.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from random import Random

import pytest

from pfs.backup import backup_directory
from pfs.files.posix import PosixFileSystem
from pfs.wal.slots import SlotFiles
from tests.process.clients import FILES, PAGE_SIZE, Clients, found_in, prepare, random_options
from tests.process.known import Known
from tests.process.served import ServedProcess

SEEDS = [int(os.environ["PFS_SEED"], 0)] if "PFS_SEED" in os.environ else range(1, 5)
COPIES = 4


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_made_while_another_process_writes_have_what_was_acknowledged(tmp_path: Path, seed: int) -> None:
    print(f"replay: PFS_SEED={seed} pytest {__file__}")
    random = Random(seed)
    options = random_options(random)
    options["wal"] |= {"checkpoint_bytes": 100 << 10, "most_bytes": 512 << 10}
    options["server"]["bulk_bytes"] = random.choice((10 * PAGE_SIZE, 8 << 20))
    known = Known(FILES)
    served = ServedProcess(tmp_path / "data", options)
    copies = []
    try:
        prepare(served, known)
        clients = Clients(served, known, random)
        for number in range(COPIES):
            enough = known.acknowledged + 500
            while known.acknowledged < enough and served.process.poll() is None:
                threading.Event().wait(0.001)
            begun = known.now()
            before = served.do(client="watch", do="stat")["wal"]["checkpoints"]
            report = backup_directory(tmp_path / "data", tmp_path / f"copy {number}")
            after = served.do(client="watch", do="stat")["wal"]["checkpoints"]
            copies.append((tmp_path / f"copy {number}", known.as_of(begun), report, after - before))
        served.kill()
        clients.join()
    finally:
        served.kill()
    assert SlotFiles(PosixFileSystem(tmp_path / "data")).all() == []
    for directory, as_of_copy, report, checkpoints in copies:
        print(f"{directory.name}: {report}, {checkpoints} checkpoints meanwhile")
        restored = ServedProcess(directory, options)
        try:
            as_of_copy.check(found_in(restored))
        finally:
            restored.kill()
