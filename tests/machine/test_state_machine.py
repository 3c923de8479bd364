"""A whole system against a dictionary, with crashes: 500 examples of 50 rules, and some that are new in every run.

More: `python -m pfs.testing.state_machine --examples 10000 --seed 1`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from pfs.actors.requests import WriteRequest
from pfs.actors.write_service import WriteService
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_file_state import PageFileState
from pfs.files.catalog import Catalog
from pfs.files.storage_manager import StorageManager
from pfs.files.store import PageFileStore
from pfs.testing import state_machine
from pfs.testing.state_machine import Machine, run
from pfs.wal import redo
from pfs.wal.log_files import LogFiles

pytestmark = pytest.mark.timeout(600)

EXAMPLES, STEPS = 500, 50
PARTS = 10

EVENTS = (
    *("append", "write", "read", "truncate", "OutOfRange", "InvalidRequest"),
    *("crash all", "crash in append", "crash in recovery", "commits lost"),
)
"""What must happen in every part, or it would show less than it seems to."""


@pytest.mark.untraced
@pytest.mark.parametrize("part", range(PARTS))
def test_no_example_breaks_a_promise(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "events", type(Machine.events)())
    run(EXAMPLES // PARTS, STEPS, seed=part)
    print(dict(Machine.events))
    assert [event for event in EVENTS if not Machine.events[event]] == []


def test_no_new_example_breaks_a_promise(seed: int) -> None:
    run(20, STEPS, seed=seed)


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    commit = WriteService._commit

    def commit_and_publish(self: WriteService, request: WriteRequest) -> None:
        really, request.durability = request.durability, "memory"
        commit(self, request)
        request.durability = really

    patch.setattr(WriteService, "_commit", commit_and_publish)


def never_sync_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogFiles, "sync", lambda self: None)


def never_sync_the_data(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageFileStore, "make_durable", lambda self, table: self.catalog.save(table))


def forget_truncations_in_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(redo.Redo, "_change", lambda self, record: None)


def forget_one_dirty_page_in_fifty(patch: pytest.MonkeyPatch) -> None:
    put, number = DirtyPages.put, count()

    def put_most(self: DirtyPages, *arguments: Any) -> None:
        if next(number) % 50:
            put(self, *arguments)

    patch.setattr(DirtyPages, "put", put_most)


def show_the_newest_page_whatever_the_cut(patch: pytest.MonkeyPatch) -> None:
    resolve = PageFileState.resolve
    patch.setattr(PageFileState, "resolve", lambda self, snapshot, pgid, n: resolve(self, self.version, pgid, n))


def keep_the_catalog_in_memory(patch: pytest.MonkeyPatch) -> None:
    save, number = Catalog.save, count(1)

    def save_most(self: Catalog, table: Any) -> None:
        if next(number) % 5:
            save(self, table)
        self._saved = table

    patch.setattr(Catalog, "save", save_most)


def leave_the_pages_when_a_file_is_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StorageManager, "truncate", lambda self, relation, blocks: None)


KNOCK_OUTS = [
    acknowledge_before_the_sync,
    never_sync_the_log,
    never_sync_the_data,
    forget_truncations_in_recovery,
    forget_one_dirty_page_in_fifty,
    show_the_newest_page_whatever_the_cut,
    keep_the_catalog_in_memory,
    leave_the_pages_when_a_file_is_cut,
]


@pytest.mark.untraced
@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    knock_out(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011  # what is wrong first differs from one to the other
        run(200, STEPS, seed=5, shrink=False)
    assert "replay: python -m pfs.testing.state_machine --examples 200 --steps 50 --seed 5" in capsys.readouterr().out


def test_the_command_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert state_machine.main(["--examples", "3", "--steps", "5", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("3 examples; events: {")
