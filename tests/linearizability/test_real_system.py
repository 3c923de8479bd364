"""Whole requests of threads and actors on a real `System` are linearizable: 80,000 of them here, on a real disk.

(The simulation judges its histories in the same way, some 20,000 requests more: `tests/simulation`.)  One longer run:
`python -m pfs.testing.recorded_clients DIRECTORY --seed 1 --operations 1000000`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pfs.actors.write_service import WriteService
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_file_state import PageFileState
from pfs.cache.page_table import PageTable
from pfs.errors import PageCorrupt, WrongPageLength
from pfs.testing import recorded_clients
from pfs.testing.recorded_clients import Recording, main, mark_of, record

pytestmark = pytest.mark.timeout(600)

SEEDS = range(1, 9)
OPERATIONS = 10_000
"""For each seed."""


def run(tmp_path: Path, seed: int, operations: int = OPERATIONS) -> tuple[Recording, list[str]]:
    recording = record(tmp_path / str(seed), seed, operations)
    return recording, recording.violations()


@pytest.mark.untraced
@pytest.mark.parametrize("first", SEEDS[::2])
def test_whole_requests_are_linearizable(first: int, tmp_path: Path) -> None:
    happened: Counter[str] = Counter()
    for seed in (first, first + 1):
        recording, violations = run(tmp_path, seed)
        assert not violations, "\n".join(violations[-10:])
        pool, wal, files = (recording.stats[key] for key in ("buffer_pool", "wal", "files"))
        happened["operations"] += recording.operations
        happened["excused"] += sum(recorder.excused for recorder in recording.recorders)
        happened["evictions"] += pool["evictions"]
        happened["pages read back"] += pool["fetched"]
        happened["checkpoints"] += wal["checkpoints"]
        happened["old versions"] += sum(file["old_versions_saved"] for file in files.values())
        for recorder in recording.recorders:
            happened += Counter(operation.kind for operation in recorder.operations)
    print(dict(happened))
    assert happened["operations"] >= 2 * OPERATIONS
    assert happened["excused"] < happened["operations"] // 100
    for what in ("evictions", "pages read back", "write", "append", "count", "refused"):
        assert happened[what] > 200, what
    assert happened["old versions"] > 10
    assert happened["checkpoints"] > 1


def show_the_newest_page_whatever_the_cut(patch: pytest.MonkeyPatch) -> None:
    resolve = PageFileState.resolve
    patch.setattr(PageFileState, "resolve", lambda self, snapshot, pgid, n: resolve(self, self.version, pgid, n))


def forget_one_dirty_page_in_fifty(patch: pytest.MonkeyPatch) -> None:
    put, number = DirtyPages.put, count()

    def put_most(self: DirtyPages, *arguments: Any) -> None:
        if next(number) % 50:
            put(self, *arguments)

    patch.setattr(DirtyPages, "put", put_most)


def leave_one_old_page_in_fifty_in_the_pool(patch: pytest.MonkeyPatch) -> None:
    publish, number = PageTable.publish, count()

    def publish_most(self: PageTable[Any], *arguments: Any) -> Any:
        return publish(self, *arguments) if next(number) % 50 else []

    patch.setattr(PageTable, "publish", publish_most)


def begin_one_append_in_fifty_a_page_too_early(patch: pytest.MonkeyPatch) -> None:
    commit, number = WriteService._commit, count(1)

    def commit_early(self: WriteService, request: Any) -> None:
        if next(number) % 50 == 0:
            self.tail -= 1
        commit(self, request)

    patch.setattr(WriteService, "_commit", commit_early)


PLANTED: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    show_the_newest_page_whatever_the_cut: "not one cut",
    forget_one_dirty_page_in_fifty: "",
    leave_one_old_page_in_fifty_in_the_pool: "",
    begin_one_append_in_fifty_a_page_too_early: "the file ended at page",
}


@pytest.mark.untraced
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_planted_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch)
    for seed in range(10):
        try:
            _, violations = run(tmp_path, seed, 3000)
        except PageCorrupt:
            # Of a page that never reached the disk the sidecar says so, before anybody can read something wrong.
            assert plant is forget_one_dirty_page_in_fifty
            return
        if [violation for violation in violations if PLANTED[plant] in violation]:
            assert f"--seed {seed} --operations 3" in violations[-1]
            return
    pytest.fail("not found in 10 seeds")


def test_the_command_says_what_it_judged_and_how_to_do_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(tmp_path / "right"), "--seed", "3", "--seeds", "2", "--operations", "100"]) == 0
    output = capsys.readouterr().out
    assert "seed=3: " in output
    assert "seed=4: " in output
    assert "replay" not in output
    begin_one_append_in_fifty_a_page_too_early(monkeypatch)
    assert main([str(tmp_path / "wrong"), "--operations", "1000"]) == 1
    assert "replay: python -m pfs.testing.recorded_clients" in capsys.readouterr().out


def test_a_request_that_fails_as_none_may_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_pages = recorded_clients.Recorder.new_pages

    def one_byte_short(self: recorded_clients.Recorder, client: int, n: int) -> list[bytes]:
        pages = new_pages(self, client, n)
        return [pages[0][:-1], *pages[1:]] if Random(client).random() < 0.5 else pages

    monkeypatch.setattr(recorded_clients.Recorder, "new_pages", one_byte_short)
    with pytest.raises(WrongPageLength):
        record(tmp_path, 1, 500)


def test_a_torn_page_is_no_mark() -> None:
    assert mark_of(b"0123456789abcdef" * 32) == b"0123456789abcdef"
    torn = b"0123456789abcdef" * 31 + b"0123456789abcdeX"
    assert mark_of(torn) == torn
