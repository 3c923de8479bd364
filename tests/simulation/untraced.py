"""Commands of `pfs.testing` in child processes that coverage does not measure.

The tracer makes a campaign three to four times slower, and it runs the same lines fifty thousand times; smaller runs
in the test process itself are what is measured.  The command is the one that a failure tells people to call.
"""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support import untraced_environment


def run_untraced(module: str, *arguments: str, seconds: float = 600) -> dict[str, int]:
    """Run `python -m module`; the numbers of its last line.  AssertionError, with its output, if it fails."""
    command = [sys.executable, "-W", "error", "-m", module, *arguments]
    done = subprocess.run(
        command, env=untraced_environment(), capture_output=True, text=True, timeout=seconds, check=False
    )
    output = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, f"{' '.join(command[3:])} ended with {done.returncode}:\n{output}"
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", output.strip().splitlines()[-1])}
