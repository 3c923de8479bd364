"""The machine that a benchmark ran on, and the CPUs that it may use."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

Facts = dict[str, str | int | float]


def facts() -> Facts:
    """Date, processor, cores, kernel, Python, load and version of pfs, as far as they can be told."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(_read("/proc/cpuinfo")),
        "cores": os.cpu_count() or 0,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "files": file_system(Path(tempfile.gettempdir()), _read("/proc/mounts")),
        "load before": round(os.getloadavg()[0], 2),
        "commit": commit(),
    }


def describe(machine: Facts) -> str:
    """One line for the report."""
    return (
        f"{machine['date']}; {machine['processor']}, {machine['cores']} cores; {machine['kernel']}; "
        f"{machine['python']}; files on {machine['files']}; commit {machine['commit']}; "
        f"load before the run {machine['load before']}"
    )


def file_system(directory: Path, mounts: str) -> str:
    """The kind of file system that a directory is on, by the text of /proc/mounts."""
    found, kind = "", "an unknown file system"
    for fields in map(str.split, mounts.splitlines()):
        if len(fields) > 2 and len(fields[1]) >= len(found) and directory.is_relative_to(fields[1]):
            found, kind = fields[1], fields[2]
    return kind


def processor(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, else what the platform says."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def commit() -> str:
    """The commit of the source, with `+` if files were changed since; `unknown` outside a git checkout."""
    root = Path(__file__).parent
    try:
        revision = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return revision + ("+" if changed else "")


@contextmanager
def pinned(cpu: int | None) -> Iterator[str]:
    """Keep this thread, and those that it starts, on one CPU meanwhile; gives the sentence for the report.

    None leaves the CPUs as they are.  ValueError, naming those to be had, if this process may not use `cpu`.
    """
    before = os.sched_getaffinity(0)
    if cpu is None:
        yield f"not pinned, {len(before)} CPUs"
        return
    if cpu not in before:
        raise ValueError(f"CPU {cpu} is not to be had; this process may use {sorted(before)}")
    os.sched_setaffinity(0, {cpu})
    try:
        yield f"pinned to CPU {cpu}"
    finally:
        os.sched_setaffinity(0, before)


def default_cpu() -> int:
    """The CPU to pin to if none is named: the last one, since the first often serves interrupts."""
    return max(os.sched_getaffinity(0))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    return run.stdout.strip()
