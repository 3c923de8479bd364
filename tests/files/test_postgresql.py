"""The storage manager on files that PostgreSQL has made, and PostgreSQL on files that the storage manager wrote."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import pytest

from pfs.errors import InvalidName, OutOfRange
from pfs.files.magnetic_disk import MagneticDisk, SegmentTag
from pfs.files.posix import PosixFileSystem
from pfs.files.relation import Fork, RelationAddress, parse_file_name
from pfs.files.segments import DEFAULT_SEGMENT_SIZE
from pfs.files.storage_manager import StorageManager
from pfs.files.virtual_file import VirtualFilePool
from tests.files.postgresql import PostgreSQL, find_binaries, rows_as_numbers, version_directory

BINARIES = find_binaries()
BLOCK = 8192
RUN = 64

pytestmark = [
    pytest.mark.skipif(
        BINARIES is None,
        reason="NOT TESTED AGAINST POSTGRESQL: it is not installed (apt-get install postgresql)",
    ),
    pytest.mark.timeout(900),
]

TABLES = """
    CREATE TABLE words (id int PRIMARY KEY, word text NOT NULL);
    INSERT INTO words SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
    CREATE INDEX words_by_word ON words (word);
    CREATE INDEX words_hashed ON words USING hash (word);
    DELETE FROM words WHERE id % 7 = 0;
    CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
    INSERT INTO scratch SELECT generate_series(1, 1000);
    CREATE TABLE empty (id int);
    VACUUM FREEZE words;
"""
QUESTIONS = """
    SELECT count(*), sum(id), md5(string_agg(word, ',' ORDER BY id)) FROM words;
    SET enable_seqscan = off;
    SELECT id FROM words WHERE word = md5('12345');
    SELECT count(*) FROM words WHERE word > '8';
    SELECT count(*) FROM scratch;
"""
SIZES = """
    SELECT CASE WHEN c.relisshared THEN 1664 WHEN c.reltablespace = 0 THEN 1663 ELSE c.reltablespace END,
           CASE WHEN c.relisshared THEN 0 ELSE (SELECT oid FROM pg_database WHERE datname = current_database()) END,
           pg_relation_filenode(c.oid), pg_relation_size(c.oid, 'main'), pg_relation_size(c.oid, 'fsm'),
           pg_relation_size(c.oid, 'vm'), pg_relation_size(c.oid, 'init')
      FROM pg_class c WHERE pg_relation_filenode(c.oid) IS NOT NULL AND c.relpersistence <> 't' ORDER BY c.oid;
"""


class Sizes(NamedTuple):
    """What PostgreSQL says of one relation: bytes by fork."""

    address: RelationAddress
    bytes_of: dict[Fork, int]


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name, since a socket's path is limited, that the server's user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="pfs-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def postgresql(home: Path) -> Iterator[PostgreSQL]:
    assert BINARIES is not None
    cluster = PostgreSQL(BINARIES, home)
    cluster.start()
    yield cluster
    if cluster.running():
        cluster.stop()


def sizes(postgresql: PostgreSQL) -> list[Sizes]:
    # All must be on disk before the server is asked how long the files are.
    rows = rows_as_numbers(postgresql.query("CHECKPOINT;" + SIZES))
    return [Sizes(RelationAddress(*row[:3]), dict(zip(Fork, row[3:], strict=True))) for row in rows]


def files_of(path: Path, segments: int) -> list[Path]:
    return [path if number == 0 else path.with_name(f"{path.name}.{number}") for number in range(segments)]


def read_all_and_write_back(postgresql: PostgreSQL, relations: list[Sizes]) -> int:
    """Read every block of every fork, compare it with the files, write it back; returns how many blocks there were."""
    assert BINARIES is not None
    before = {path: path.stat().st_ino for path in postgresql.data.rglob("*") if parse_file_name(path.name)}
    fs = PosixFileSystem(postgresql.data, follow_links_under=["pg_tblspc"])
    total = 0
    with VirtualFilePool(fs, slots=10, clock=monotonic) as pool:
        disk = MagneticDisk(pool, version_directory=version_directory(BINARIES, postgresql.data))
        manager = StorageManager({"disk": disk})
        for address, bytes_of in relations:
            relation = manager.open(address, BLOCK)
            for fork, size in bytes_of.items():
                assert manager.exists(address, fork) or size == 0
                if manager.exists(address, fork):
                    assert manager.nblocks(relation, fork) * BLOCK == size, (address, fork)
                    total += rewrite(manager, relation, fork, postgresql.data / disk.path(SegmentTag(address, fork, 0)))
            manager.close(relation)
        manager.sync()
        manager.shutdown()
    assert before == {path: path.stat().st_ino for path in postgresql.data.rglob("*") if parse_file_name(path.name)}
    return total


def rewrite(manager: StorageManager, relation, fork: Fork, path: Path) -> int:
    """Compare a fork with its files, read in the plainest way, then write each of its blocks anew."""
    blocks = manager.nblocks(relation, fork)
    segments = max(1, -(-blocks * BLOCK // DEFAULT_SEGMENT_SIZE))
    expected = 0
    for file in files_of(path, segments):
        with file.open("rb") as opened:
            while piece := opened.read(RUN * BLOCK):
                expected = zlib.crc32(piece, expected)
    read = 0
    for block in range(0, blocks, RUN):
        buffer = bytearray(min(RUN, blocks - block) * BLOCK)
        manager.readv(relation, fork, block, [buffer])
        read = zlib.crc32(buffer, read)
        # Written through different bytes, so that a write that did not happen would show.
        manager.writev(relation, fork, block, [bytes(len(buffer))])
        manager.writev(relation, fork, block, [buffer])
    assert read == expected, f"{path} differs from what the storage manager reads"
    with pytest.raises(OutOfRange):
        manager.read(relation, fork, blocks)
    return blocks


def test_postgresql_starts_on_blocks_that_went_through_the_storage_manager(postgresql):
    postgresql.query(TABLES)
    relations = sizes(postgresql)
    answers = postgresql.query(QUESTIONS)
    postgresql.stop()
    postgresql.check()
    assert len(relations) > 250
    assert {fork for _, bytes_of in relations for fork, size in bytes_of.items() if size} >= {
        Fork.MAIN,
        Fork.FSM,
        Fork.VM,
    }
    assert {address.tablespace for address, _ in relations} == {1663, 1664}
    assert read_all_and_write_back(postgresql, relations) > 1000
    postgresql.check()
    postgresql.start()
    assert postgresql.query(QUESTIONS) == answers
    assert sizes(postgresql) == relations


def test_a_relation_that_the_storage_manager_shortens_and_extends_is_postgresqls_still(postgresql):
    """Zero pages are free pages to PostgreSQL, so a fork may grow by them; cutting them off again changes nothing."""
    postgresql.query(TABLES)
    answers = postgresql.query(QUESTIONS)
    [[database, number]] = rows_as_numbers(
        postgresql.query(
            "SELECT oid, pg_relation_filenode('words') FROM pg_database WHERE datname = current_database()"
        )
    )
    [[pages]] = rows_as_numbers(postgresql.query("CHECKPOINT; SELECT pg_relation_size('words') / 8192"))
    postgresql.stop()
    with VirtualFilePool(PosixFileSystem(postgresql.data), clock=monotonic) as pool:
        manager = StorageManager({"disk": MagneticDisk(pool)})
        relation = manager.open(RelationAddress(1663, database, number), BLOCK)
        manager.zero_extend(relation, Fork.MAIN, pages, 30)
        manager.truncate(relation, {Fork.MAIN: pages + 10})
        manager.shutdown()
    postgresql.check()
    postgresql.start()
    assert postgresql.query("SELECT pg_relation_size('words') / 8192") == [[str(pages + 10)]]
    assert postgresql.query(QUESTIONS) == answers
    postgresql.query("INSERT INTO words SELECT n, 'new' FROM generate_series(50000, 60000) n")
    assert postgresql.query("SELECT count(*) FROM words WHERE word = 'new'") == [["10001"]]


def test_a_tablespace_of_postgresqls_is_reached_through_its_link(postgresql, home):
    location = home / "elsewhere"
    location.mkdir()
    os.chown(location, postgresql.data.stat().st_uid, postgresql.data.stat().st_gid)
    postgresql.query(f"CREATE TABLESPACE other LOCATION '{location}';")
    postgresql.query("CREATE TABLE moved TABLESPACE other AS SELECT n FROM generate_series(1, 5000) n; ANALYZE moved;")
    relations = [found for found in sizes(postgresql) if found.address.tablespace not in (1663, 1664)]
    [(address, bytes_of)] = relations
    assert bytes_of[Fork.MAIN] > 10 * BLOCK
    postgresql.stop()
    assert read_all_and_write_back(postgresql, relations) * BLOCK == sum(bytes_of.values())
    postgresql.check()
    postgresql.start()
    assert postgresql.query("SELECT sum(n) FROM moved") == [["12502500"]]
    with VirtualFilePool(PosixFileSystem(postgresql.data), clock=monotonic) as pool:
        assert BINARIES is not None
        disk = MagneticDisk(pool, version_directory=version_directory(BINARIES, postgresql.data))
        with pytest.raises(InvalidName, match="symbolic link"):  # unless links are allowed, none leads out of the root
            StorageManager({"disk": disk}).open(address, BLOCK)


@pytest.mark.slow
def test_a_table_of_more_than_a_gibibyte_is_one_relation_of_several_segments(postgresql):
    postgresql.query(
        """
        CREATE TABLE large (id int, filler text);
        ALTER TABLE large ALTER filler SET STORAGE PLAIN;
        INSERT INTO large SELECT n, repeat('x', 7900) FROM generate_series(1, 135000) n;
        CREATE INDEX large_by_id ON large (id);
        VACUUM FREEZE large;
        """
    )
    relations = sizes(postgresql)
    large = max(relations, key=lambda found: found.bytes_of[Fork.MAIN])
    assert large.bytes_of[Fork.MAIN] > DEFAULT_SEGMENT_SIZE
    questions = """
        SELECT count(*), sum(id), sum(length(filler)) FROM large;
        SELECT filler = repeat('x', 7900) FROM large WHERE id = 134999;
    """
    answers = postgresql.query(questions)
    postgresql.stop()
    segments = list((postgresql.data / "base" / str(large.address.database)).glob(f"{large.address.number}.*"))
    assert [path.suffix for path in segments] == [".1"]
    assert read_all_and_write_back(postgresql, relations) > 135000
    postgresql.check()
    postgresql.start()
    assert postgresql.query(questions) == answers
