"""The error sweep at the size that CI runs it: every operation of four scenarios fails, in every way.

By hand: `python -m pfs.testing.error_sweep`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pfs.errors import SyncFailed
from pfs.files.catalog_table import CatalogTable
from pfs.files.store import PageFileStore
from pfs.testing import error_sweep
from pfs.testing.error_sweep import FAILURES, operations, run, scenarios
from pfs.wal.log_files import LogFiles
from tests.simulation.untraced import run_untraced

pytestmark = pytest.mark.timeout(600)

MODULE = "pfs.testing.error_sweep"

PARTS = [
    *[("start", "0/1"), ("recovery", "0/1"), ("plain recovery", "0/1")],
    *[("writes", f"{part}/4") for part in range(4)],
]


@pytest.mark.parametrize(("scenario", "part"), PARTS)
def test_every_operation_may_fail_in_every_way(scenario: str, part: str) -> None:
    numbers = run_untraced(MODULE, "--scenario", scenario, "--part", part)
    calls = len(operations(scenario))
    assert calls >= 80
    assert numbers["runs"] >= calls // int(part[-1]) * 12, numbers
    assert numbers["findings"] == 0
    assert numbers["images"] > 30


def test_all_scenarios_are_swept() -> None:
    assert {name for name, _ in PARTS} == scenarios().keys()
    assert len(FAILURES) == 19


def test_a_sweep_does_what_it_is_told_and_ends_when_its_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["start"], part=(3, 40)).findings == []
    assert run(budget_seconds=0).events["runs"] == 1
    for arguments in (
        ["--scenario", "plain recovery", "--part", "5/40"],
        ["--operation", "40", "--failure", "ENOSPC forever keep"],
    ):
        assert error_sweep.main(arguments) == 0
        assert "findings=0" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ rules switched off


def sync_again_when_it_failed(patch: pytest.MonkeyPatch) -> None:
    sync = LogFiles.sync

    def sync_until_it_works(self: LogFiles) -> None:
        try:
            sync(self)
        except SyncFailed:
            sync(self)

    patch.setattr(LogFiles, "sync", sync_until_it_works)


def trust_what_the_cache_has_of_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogFiles, "rewrite", lambda self, position, data: None)


def go_on_when_data_files_were_not_synced(patch: pytest.MonkeyPatch) -> None:
    make_durable = PageFileStore.make_durable

    def make_durable_or_not(self: PageFileStore, table: CatalogTable) -> None:
        try:
            make_durable(self, table)
        except SyncFailed:
            self.catalog.save(table)

    patch.setattr(PageFileStore, "make_durable", make_durable_or_not)


KNOCK_OUTS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    sync_again_when_it_failed,
    trust_what_the_cache_has_of_the_log,
    go_on_when_data_files_were_not_synced,
)


@pytest.mark.untraced
@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    syncs = [number for number, name in enumerate(operations("writes"), 1) if name == "fdatasync"]
    knock_out(monkeypatch)
    for number in syncs:
        arguments = ["--scenario", "writes", "--operation", str(number), "--failure", "EIO once keep"]
        if error_sweep.main(arguments) == 1:
            output = capsys.readouterr().out
            assert re.search(r"replay: python -m pfs.testing.error_sweep --scenario 'writes' --operation \d+", output)
            monkeypatch.undo()
            assert error_sweep.main(arguments) == 0
            capsys.readouterr()
            return
    pytest.fail(f"{len(syncs)} failed syncs did not notice it")
