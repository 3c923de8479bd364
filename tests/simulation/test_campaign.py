"""The crash campaign at the size that CI runs it, and that it notices when a rule is broken.

More of it by hand: `python -m pfs.testing.campaign --hours 8`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from pfs.actors.write_service import WriteService
from pfs.cache.dirty_pages import DirtyPages
from pfs.files.catalog import Catalog
from pfs.files.descriptors import DescriptorPool
from pfs.files.store import PageFileStore
from pfs.testing import campaign
from pfs.testing.campaign import run
from pfs.testing.workloads import ALPHABET, random_workload, sequence, sequences
from pfs.wal.log_files import LogFiles
from tests.simulation.untraced import run_untraced

pytestmark = pytest.mark.timeout(600)

MODULE = "pfs.testing.campaign"

SHARES = {
    "append": 4100,
    "append-memory": 5400,
    "write": 4800,
    "write-memory": 4700,
    "truncate": 3550,
    "sync": 4100,
    "checkpoint": 3900,
    "create": 4300,
    "rename": 4150,
    "drop": 4350,
    "reopen": 4150,
}
"""The distinct crash images that all sequences with this first action must come to."""
SEEDS = range(1, 11)
SEEDS_AT_ONCE = 5
SHARE_OF_SEEDS = 1500
"""And each five random workloads."""


def test_the_parts_come_to_fifty_thousand_images() -> None:
    assert SHARES.keys() == ALPHABET.keys()
    assert sum(SHARES.values()) + len(SEEDS) // SEEDS_AT_ONCE * SHARE_OF_SEEDS >= 50_000


@pytest.mark.parametrize("first", ALPHABET)
def test_every_sequence_of_three_actions_survives_a_crash_at_any_operation(first: str) -> None:
    numbers = run_untraced(MODULE, "--first", first)
    assert numbers["workloads"] == 1 + 11 + 11 * 11
    assert numbers["images"] >= SHARES[first], numbers
    assert numbers["systems"] >= numbers["images"] // 75


@pytest.mark.parametrize("first", SEEDS[::SEEDS_AT_ONCE])
def test_random_workloads_survive_a_crash_at_any_operation(first: int) -> None:
    numbers = run_untraced(MODULE, "--seeds", f"{first}..{first + SEEDS_AT_ONCE - 1}")
    assert numbers["images"] >= SHARE_OF_SEEDS, numbers
    assert numbers["systems"] >= numbers["images"] // 75


def test_a_workload_has_the_same_images_every_time() -> None:
    first, second = run([random_workload(2)]), run([random_workload(2)])
    assert (first.images, first.events) == (second.images, second.events)
    assert first.images > 100
    assert first.findings == []
    assert first.events["crashes in recovery"] > 5
    assert first.events["checks"] > 5


@pytest.mark.untraced
def test_identical_images_of_several_workloads_count_once() -> None:
    workloads = [sequence(("append",)), sequence(("append",)), sequence(("append", "write"))]
    apart, together = run(workloads), run(workloads, together=True)
    assert apart.images > together.images > run(workloads[:1]).images


def test_a_run_ends_when_its_time_is_up() -> None:
    assert run(sequences("sync"), budget_seconds=0).events["workloads"] == 1
    assert [each.replay for each in islice(campaign.endless(5), 3)] == [
        "--sequence append --scheduler 1",
        "--seed 5",
        "--sequence append,append --scheduler 1",
    ]


def test_the_command_runs_what_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--seed", "2", "--moment", "5"],
        ["--sequence", "drop,create"],
        ["--first", "drop", "--longest", "1"],
        ["--hours", "0"],
        ["--seeds", "2..2"],
    ):
        assert campaign.main(arguments) == 0
        assert re.search(r"^images=\d+ systems=\d+ findings=0 .*workloads=1$", capsys.readouterr().out)


# ------------------------------------------------------------------------------------------------ rules switched off


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    commit = WriteService._commit

    def commit_and_publish(self: WriteService, request: Any) -> None:
        really, request.durability = request.durability, "memory"
        commit(self, request)
        request.durability = really

    patch.setattr(WriteService, "_commit", commit_and_publish)


def write_pages_before_their_log(patch: pytest.MonkeyPatch) -> None:
    take = DirtyPages.take
    patch.setattr(DirtyPages, "take", lambda self, most, flushed, below=None: take(self, most, 1 << 63, below))


def never_sync_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogFiles, "sync", lambda self: None)


def never_sync_data_files_at_a_checkpoint(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageFileStore, "make_durable", lambda self, table: self.catalog.save(table))


def never_sync_the_names_of_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DescriptorPool, "sync_directory", lambda self, directory: None)


def never_sync_the_names_of_segments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogFiles, "_sync_directory", lambda self: None)


def trust_the_names_that_a_killed_process_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalog, "sync_names", lambda self: None)


KNOCK_OUTS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    acknowledge_before_the_sync,
    write_pages_before_their_log,
    never_sync_the_log,
    never_sync_data_files_at_a_checkpoint,
    never_sync_the_names_of_files,
    never_sync_the_names_of_segments,
    trust_the_names_that_a_killed_process_left,
)


@pytest.mark.untraced
@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    knock_out(monkeypatch)
    images = 0
    for seed in range(1, 21):  # of random workloads the first is by far the longest
        report = run([random_workload(seed)])
        images += report.images
        if report.findings:
            break
    else:
        pytest.fail(f"{images} images did not notice it")
    print(f"noticed after {images} images: {report.findings[0]}")
    found = re.search(r"replay: python -m pfs.testing.campaign (--seed \d+ --moment .*)", str(report.findings[0]))
    assert found is not None
    assert campaign.main(found[1].split()) == 1, "the command shows it again"
    monkeypatch.undo()
    assert campaign.main(found[1].split()) == 0
    capsys.readouterr()
