"""Fixtures and settings of all tests: no leaks, replayable seeds, Hypothesis profiles."""

from __future__ import annotations

import gc
import os
import secrets
import sys
from collections.abc import Generator, Iterator

import coverage
import hypothesis
import pytest

from tests import leaks

pytest_plugins = ["tests.coverage_gates"]

# Tests start hundreds of Python processes, each of which would compile all that it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# "ci" tries the same examples on every run.  "random" tries new ones; its seed is in the header of the report.
hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "random", derandomize=False, deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ci")

SEED_BITS = 32


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the "random" profile a seed that can be told, unless one was given; workers get it from the controller."""
    wants_seed = config.getoption("--hypothesis-profile", None) == "random"
    if wants_seed and config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbits(SEED_BITS))


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay to the end: no garbage collection need look at them."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.getoption("--hypothesis-profile", None) != "random":
        return None
    return f"replay: --hypothesis-profile=random --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    header = pytest_report_header(config)
    if header is not None and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(header)  # the report's header is not shown under -q


def seed_from(value: str | None) -> int:
    """The seed that PFS_SEED holds (decimal or 0x...), a fresh one if it is not set."""
    if value is None:
        return secrets.randbits(SEED_BITS)
    try:
        return int(value, 0)
    except ValueError:
        raise pytest.UsageError(f"PFS_SEED={value!r} is not a number; give decimal digits or 0x...") from None


SEED = pytest.StashKey[int]()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of everything random in this test: PFS_SEED, or a fresh one that a failure prints."""
    number = seed_from(os.environ.get("PFS_SEED"))
    request.node.stash[SEED] = number
    return number


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    number = item.stash.get(SEED, None)
    if report.failed and number is not None:
        report.sections.append(("seed", f"replay: PFS_SEED={number} pytest '{item.nodeid}'"))
    return report


@pytest.fixture(autouse=True)
def _untraced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pause coverage for a test marked `untraced`.

    The levers run the same lines a million times, two to four times slower under the tracer, and what they happen to
    reach should not count: the lines of pfs are to be covered by tests that say what each is for.
    """
    paused: list[coverage.Coverage] = []
    while request.node.get_closest_marker("untraced") and (measuring := coverage.Coverage.current()) is not None:
        measuring.stop()  # in a worker there are two, and that of the process goes on when that of the tests stops
        paused.append(measuring)
    yield
    for measuring in reversed(paused):
        measuring.start()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_by_wider_fixtures() -> Iterator[None]:
    """The same check over the whole run, for the actors that fixtures of a module or the session leave."""
    before = leaks.snapshot()
    yield
    found = [line for line in leaks.leaks_since(before) if line.startswith("actor still")]
    if found:
        pytest.fail("the run ends with actors that nobody stopped:\n" + "\n".join(found))


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a descriptor, thread or actor behind, and stop the actors."""
    allowed = request.node.get_closest_marker("leaks_allowed")
    if allowed is not None and not (allowed.args or allowed.kwargs.get("reason")):
        pytest.fail("leaks_allowed needs the reason: @pytest.mark.leaks_allowed('why')")
    before = leaks.snapshot()
    yield
    found = leaks.leaks_since(before)
    leaks.stop_leaked_actors(before)
    if found and allowed is None:
        pytest.fail(
            f"{request.node.nodeid} leaves {len(found)} thing(s) behind; stop or close each before the test ends:\n"
            + "\n".join(f"  {line}" for line in found),
            pytrace=False,
        )
