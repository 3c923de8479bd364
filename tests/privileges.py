"""What some tests want that not every machine allows: tracing, mounting.  Without it they say why they are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest


def skip(reason: str) -> NoReturn:
    """Skip the test; pytest lists the reason in its summary."""
    pytest.skip(reason)


def run(command: Sequence[str]) -> str | None:
    """Run a command; what it complained of if it failed, else None."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"{command[0]} failed" if done.returncode else None


@cache
def _why_no_strace() -> str | None:
    failing = ["-e", "trace=close", "-e", "inject=close:error=EIO:when=9999"]
    return run(["strace", "-f", "--seccomp-bpf", "-o", os.devnull, *failing, "true"])


def skip_without_strace() -> None:
    """Skip the test if strace cannot inject errors here."""
    reason = _why_no_strace()
    if reason is not None:
        skip(f"no errors can be injected: {reason}")


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system in memory of that size (as `mount -o size=` takes it); skips where it cannot be mounted."""
    with tempfile.TemporaryDirectory() as directory:
        refused = run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory])
        if refused is not None:
            skip(f"a small tmpfs cannot be mounted here: {refused}")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)
