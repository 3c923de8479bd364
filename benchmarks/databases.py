"""The databases that durable commits are compared with, each used as its users would best do it from Python threads.

All keep pages of 8 KiB under their numbers, and a commit replaces one page and is durable when it returns.  What is not
installed says so: `Unavailable`, and the others are measured.
"""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Unavailable

Put = Callable[[int, bytes], object]
"""Replaces the page of this number, durably."""


@dataclass(frozen=True)
class Database:
    """An open database that holds pages; `client()` gives each thread its own way in.

    `load`: put so many pages, from number 0, made durable once.  `rest`: do the housekeeping that is due, so that it is
    not done while something else is measured.
    """

    client: Callable[[], Put]
    load: Callable[[Sequence[bytes]], object]
    rest: Callable[[], object]


def package(name: str, of: str) -> Any:
    """An installed package, or `Unavailable`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{of} needs the Python package {name!r} (pip install 'pfs[bench]'): {error}") from error


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


@contextmanager
def sqlite(directory: Path) -> Iterator[Database]:
    """A connection each.  A lock hands the only write transaction on: SQLite's own waiting is polling."""
    lock = threading.Lock()
    connections: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(directory / "pages.db", isolation_level=None, check_same_thread=False)
        connections.append(connection)
        connection.execute("pragma journal_mode = wal").fetchall()
        connection.execute("pragma synchronous = full")
        return connection

    own = connect()
    own.execute("create table pages (id integer primary key, page blob)")

    def client() -> Put:
        execute = connect().execute

        def put(number: int, page: bytes) -> None:
            with lock:
                execute("update pages set page = ? where id = ?", (page, number))

        return put

    def load(pages: Sequence[bytes]) -> None:
        own.execute("begin")
        own.executemany("insert or replace into pages values (?, ?)", enumerate(pages))
        own.execute("commit")

    try:
        yield Database(client, load, lambda: own.execute("pragma wal_checkpoint(truncate)").fetchall())
    finally:
        for connection in connections:
            connection.close()


@contextmanager
def lmdb(directory: Path) -> Iterator[Database]:
    module = package("lmdb", "LMDB")
    with closing(module.open(str(directory), map_size=1 << 30)) as environment:

        def put(number: int, page: bytes) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(key(number), page)

        def load(pages: Sequence[bytes]) -> None:
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti((key(number), page) for number, page in enumerate(pages))

        yield Database(lambda: put, load, lambda: None)


@contextmanager
def rocksdb(directory: Path) -> Iterator[Database]:
    module = package("rocksdict", "RocksDB")
    sync = module.WriteOptions()
    sync.sync = True
    with closing(module.Rdict(str(directory), module.Options(raw_mode=True))) as database:

        def put(number: int, page: bytes) -> None:
            database.put(key(number), page, write_opt=sync)

        def load(pages: Sequence[bytes]) -> None:
            batch = module.WriteBatch(raw_mode=True)
            for number, page in enumerate(pages):
                batch.put(key(number), page)
            database.write(batch, write_opt=sync)

        yield Database(lambda: put, load, database.flush)


POSTGRESQL_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{directory}'
shared_buffers = 256MB
max_wal_size = 4GB
max_connections = 100
autovacuum = off
"""
"""Durable as it comes (fsync, synchronous_commit, full_page_writes are on); the vacuum is part of `rest`."""


class Cluster:
    """A PostgreSQL cluster of its own, on a Unix socket; as root it runs as the user `postgres`, as it must."""

    def __init__(self, directory: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
        program = shutil.which("initdb") or (found[-1] if found else None)
        if program is None:
            raise Unavailable("PostgreSQL is not installed (Debian, Ubuntu: apt install postgresql)")
        self._programs = Path(program).resolve().parent
        self._directory = directory
        self._user: str | None = None
        if os.geteuid() == 0:
            self._user = "postgres"
            owner = pwd.getpwnam(self._user)
            os.chown(directory, owner.pw_uid, owner.pw_gid)
            for parent in directory.parents:  # temporary directories are their maker's alone
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "--pgdata=data", "--auth=trust", "--username=pfs", "--encoding=UTF8", "--no-locale")
        with (directory / "data" / "postgresql.conf").open("a") as file:
            file.write(POSTGRESQL_SETTINGS.format(directory=directory))
        self._run("pg_ctl", "start", "--pgdata=data", "--wait", "--silent", "--log=log")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )

    def close(self) -> None:
        self._run("pg_ctl", "stop", "--pgdata=data", "--wait", "--silent", "--mode=fast")


@contextmanager
def postgresql(directory: Path) -> Iterator[Database]:
    """A connection each; the statement is prepared, the page goes and is kept as it is."""
    psycopg = package("psycopg", "PostgreSQL")
    connections: list[Any] = []

    def connect() -> Any:
        connections.append(psycopg.connect(host=str(directory), user="pfs", dbname="postgres", autocommit=True))
        return connections[-1]

    with closing(Cluster(directory)):
        try:
            own = connect()
            own.execute("create table pages (id bigint primary key, page bytea)")
            own.execute("alter table pages alter column page set storage external")

            def client() -> Put:
                execute = connect().cursor().execute

                def put(number: int, page: bytes) -> None:
                    execute("update pages set page = %b where id = %s", (page, number), prepare=True)

                return put

            def load(pages: Sequence[bytes]) -> None:
                with own.cursor().copy("copy pages from stdin with (format binary)") as copy:
                    copy.set_types(["int8", "bytea"])
                    for row in enumerate(pages):
                        copy.write_row(row)

            def rest() -> None:
                own.execute("vacuum pages")
                own.execute("checkpoint")

            yield Database(client, load, rest)
        finally:
            for connection in connections:
                connection.close()


DATABASES = {"SQLite": sqlite, "LMDB": lmdb, "RocksDB": rocksdb, "PostgreSQL": postgresql}
