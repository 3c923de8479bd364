"""The checks that guard all other tests: leaks are found, and told well."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

import pykka
import pytest

from tests import leaks
from tests.conftest import seed_from
from tests.support import join, run_python, run_together, take, wait_for

ROOT = Path(__file__).parent.parent


def test_nothing_left_is_no_leak() -> None:
    before = leaks.snapshot()
    assert leaks.leaks_since(before) == []


def test_an_open_descriptor_is_found_and_named(tmp_path: Path) -> None:
    before = leaks.snapshot()
    descriptor = os.open(tmp_path / "left-open", os.O_CREAT | os.O_RDWR)
    try:
        (line,) = leaks.leaks_since(before)
    finally:
        os.close(descriptor)
    assert line.startswith(f"descriptor still open: {descriptor} ")
    assert line.endswith("left-open")
    assert leaks.leaks_since(before) == []


def test_a_descriptor_that_came_to_stand_for_another_file_is_found(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "first", os.O_CREAT | os.O_RDWR)
    before = leaks.snapshot()
    os.close(descriptor)
    other = os.open(tmp_path / "second", os.O_CREAT | os.O_RDWR)
    assert other == descriptor
    try:
        assert [line.endswith("second") for line in leaks.leaks_since(before)] == [True]
    finally:
        os.close(other)


def test_closing_a_descriptor_of_somebody_else_is_found() -> None:
    reading, writing = os.pipe()
    before = leaks.snapshot()
    os.close(reading)
    assert leaks.leaks_since(before) == [f"descriptor closed that was not the test's: {reading}"]
    os.close(writing)


def test_a_thread_that_still_runs_is_found_and_named() -> None:
    release = threading.Event()
    before = leaks.snapshot()
    thread = threading.Thread(target=release.wait, args=(10,), name="lingerer")
    thread.start()
    assert leaks.leaks_since(before, grace=0.01) == ["thread still running: lingerer (daemon=False)"]
    release.set()
    join(thread)


def test_a_thread_that_is_ending_is_waited_for() -> None:
    release = threading.Event()

    class EndsWhenWaitedFor(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            release.set()
            super().join(timeout)

    before = leaks.snapshot()
    EndsWhenWaitedFor(target=release.wait, args=(10,)).start()
    assert leaks.leaks_since(before) == []


def test_a_living_actor_is_found_and_can_be_stopped() -> None:
    before = leaks.snapshot()
    reference = pykka.ThreadingActor.start()
    found = leaks.leaks_since(before, grace=0.01)
    assert found[0] == f"actor still registered: {reference.actor_urn}"
    leaks.stop_leaked_actors(before)
    assert not reference.is_alive()
    assert leaks.leaks_since(before) == []


LEAKING_TESTS = """
import os, threading
import pykka, pytest

def test_leaves_a_descriptor():
    os.pipe()

@pytest.mark.leaks_allowed("shows the marker")
def test_may_leave_a_descriptor():
    os.pipe()

@pytest.mark.leaks_allowed
def test_gives_no_reason():
    pass

def test_leaves_an_actor():
    pykka.ThreadingActor.start()

def test_after_it_is_not_blamed():
    pass

def test_with_seed(seed):
    assert seed < 0
"""


@pytest.fixture(scope="module")
def leaking_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("leaking")
    (folder / "test_leaking.py").write_text(LEAKING_TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = leaks_allowed(reason): x\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rA", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PFS_SEED": "0x2a"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return run.stdout + run.stderr


def test_a_test_that_leaks_fails_and_the_next_is_not_blamed(leaking_run: str) -> None:
    def outcome(name: str) -> str:
        return " ".join(sorted(re.findall(rf"^(PASSED|FAILED|ERROR) \S+::{name}\b", leaking_run, re.M)))

    assert outcome("test_leaves_a_descriptor") == "ERROR PASSED", leaking_run
    assert outcome("test_may_leave_a_descriptor") == "PASSED"
    assert outcome("test_gives_no_reason") == "ERROR"
    assert outcome("test_leaves_an_actor") == "ERROR PASSED"
    assert outcome("test_after_it_is_not_blamed") == "PASSED"
    assert "test_leaves_a_descriptor leaves 2 thing(s) behind" in leaking_run


def test_a_failed_test_with_a_seed_tells_how_to_replay_it(leaking_run: str) -> None:
    assert "replay: PFS_SEED=42 pytest 'test_leaking.py::test_with_seed'" in leaking_run


def test_a_seed_that_is_no_number_is_refused() -> None:
    assert seed_from("17") == 17
    assert seed_from("0x11") == 17
    with pytest.raises(pytest.UsageError, match="PFS_SEED='many'"):
        seed_from("many")


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"the flood did not happen within 0\.01 s; threads now: "):
        wait_for(threading.Event(), 0.01, "the flood")

    class Never:
        def get(self, block: bool = True, timeout: float | None = None) -> int:
            raise queue.Empty

    with pytest.raises(AssertionError, match=r"the answer did not come within 1 s"):
        take(Never(), 1, "the answer")


def test_an_error_in_one_of_many_threads_reaches_the_test() -> None:
    def fail() -> int:
        raise LookupError("in the thread")

    assert run_together([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(LookupError, match="in the thread"):
        run_together([lambda: 1, fail])


def test_a_child_process_hands_back_its_status_and_output() -> None:
    child = run_python("import sys; print('out', sys.argv[1]); sys.exit(3)", "argument")
    assert (child.returncode, child.stdout) == (3, "out argument\n")
    with pytest.raises(AssertionError, match=r"still ran after 0\.2 s"):
        run_python("import threading; threading.Event().wait()", seconds=0.2)
