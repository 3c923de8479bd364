"""`make soak`: the levers' commands run, and what fails is told with the command that does it again."""

from __future__ import annotations

import pytest

from tests import soak


def test_it_runs_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fine = soak.Command(("-c", "print('fine')"))
    broken = soak.Command(
        ("-c", "import os, sys; print('seed', os.environ['PFS_SEED']); sys.exit(1)"), {"PFS_SEED": "7"}
    )
    monkeypatch.setattr(soak, "LEVERS", {"fine": lambda seed: fine, "broken": lambda seed: broken})
    assert soak.soak(0.2 / 3600, 1, 5, ["fine"]) == 0
    assert soak.soak(0.2 / 3600, 2, 5, ["fine", "broken"]) == 1
    output = capsys.readouterr().out
    assert "FAILED  PFS_SEED=7 python -c" in output
    assert "    seed 7" in output


@pytest.mark.parametrize("lever", soak.LEVERS)
def test_each_lever_is_a_command_that_exists(lever: str) -> None:
    command = soak.LEVERS[lever](1)
    if "pytest" in command.arguments:
        helped = soak.Command((*command.arguments, "--collect-only"), command.environment)
    else:
        helped = soak.Command((*command.arguments[:2], "--help"))
    assert soak.run(helped) is None


def test_what_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "LONGEST", 0.1)
    assert "did not end" in str(soak.run(soak.Command(("-c", "import signal; signal.pause()"))))
