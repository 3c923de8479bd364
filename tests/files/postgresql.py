"""A PostgreSQL cluster of a test's own: in a temporary directory, on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
fsync = off
autovacuum = off
max_wal_size = 8GB
shared_buffers = 64MB
allow_in_place_tablespaces = on
"""


def find_binaries() -> Path | None:
    """The newest installed server's programs, if there are any."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = shutil.which("initdb")
    if found:
        candidates.append(Path(found).resolve())
    return candidates[-1].parent if candidates else None


def version_directory(binaries: Path, directory: Path) -> str:
    """The version directory of its tablespaces, from what pg_controldata says of a cluster."""
    output = subprocess.run([binaries / "pg_controldata", directory], capture_output=True, text=True, check=True).stdout
    catalog_version = next(
        line.split()[-1] for line in output.splitlines() if line.startswith("Catalog version number")
    )
    return f"PG_{(directory / 'PG_VERSION').read_text().strip()}_{catalog_version}"


class PostgreSQL:
    """One cluster.  PostgreSQL refuses to run as root, so then it runs as the user `postgres`."""

    def __init__(self, binaries: Path, home: Path) -> None:
        self._binaries = binaries
        self._home = home
        self.data = home / "data"
        self._user: str | None = None
        if os.geteuid() == 0:
            self._user = "postgres"
            owner = pwd.getpwnam(self._user)
            os.chown(home, owner.pw_uid, owner.pw_gid)
        self.run(
            "initdb", "--pgdata", str(self.data), "--data-checksums", "--no-sync", "--auth=trust", "--username=pfs"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(sockets=home))

    def run(self, program: str, *arguments: str, text: str | None = None) -> str:
        """Run one of its programs; its output.  AssertionError with all it said if it fails."""
        result = subprocess.run(
            [self._binaries / program, *arguments],
            user=self._user,
            cwd=self._home,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert result.returncode == 0, f"{program} failed:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def start(self) -> None:
        # The server keeps its standard output open, so it must not be a pipe that we wait on.
        self.run("pg_ctl", "start", "--pgdata", str(self.data), "--wait", "--silent", "--log", str(self._home / "log"))

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "--pgdata", str(self.data), "--wait", "--silent", "--mode=fast")

    def running(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def query(self, statements: str) -> list[list[str]]:
        """Run statements; the rows of their results as texts."""
        output = self.run(
            *("psql", "--host", str(self._home), "--username=pfs", "--dbname=postgres", "--no-psqlrc", "--quiet"),
            *("--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"),
            text=statements,
        )
        return [line.split("|") for line in output.splitlines() if line]

    def check(self) -> None:
        """Check every page's checksum; the cluster must be stopped."""
        self.run("pg_checksums", "--check", "--pgdata", str(self.data))


def rows_as_numbers(rows: Sequence[Sequence[str]]) -> list[list[int]]:
    return [[int(value) for value in row] for row in rows]
