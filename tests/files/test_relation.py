"""Addresses of relations and the names of their files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidName, InvalidRequest
from pfs.files import relation
from pfs.files.relation import FileName, Fork, RelationAddress

NUMBERS = st.integers(1, relation.MAX_NUMBER)
FORKS = st.sampled_from(Fork)


@pytest.mark.parametrize(
    ("address", "fork", "segment", "expected"),
    [
        (RelationAddress(1663, 5, 16384), Fork.MAIN, 0, "base/5/16384"),
        (RelationAddress(1663, 5, 16384), Fork.MAIN, 1, "base/5/16384.1"),
        (RelationAddress(1663, 5, 16384), Fork.FSM, 0, "base/5/16384_fsm"),
        (RelationAddress(1663, 5, 16384), Fork.VM, 12, "base/5/16384_vm.12"),
        (RelationAddress(1663, 5, 16384), Fork.INIT, 0, "base/5/16384_init"),
        (RelationAddress(1664, 0, 1262), Fork.MAIN, 0, "global/1262"),
        (RelationAddress(16390, 5, 16391), Fork.MAIN, 3, "pg_tblspc/16390/PFS_1/5/16391.3"),
    ],
)
def test_files_are_named_as_postgresql_lays_them_out(address, fork, segment, expected):
    assert relation.path(address, fork, segment) == expected


def test_the_version_directory_of_a_tablespace_can_be_postgresqls():
    address = RelationAddress(16390, 5, 16391)
    assert relation.path(address, version_directory="PG_15_202209061") == "pg_tblspc/16390/PG_15_202209061/5/16391"
    assert relation.check_version_directory("PG_15_202209061") == "PG_15_202209061"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", 3, None])
def test_a_version_directory_that_is_not_one_name_is_refused(name):
    with pytest.raises(InvalidName, match="version directory"):
        relation.check_version_directory(name)


@given(NUMBERS, FORKS, st.integers(0, relation.MAX_NUMBER))
def test_a_file_name_parses_to_what_it_was_made_of(number, fork, segment):
    assert relation.parse_file_name(relation.file_name(number, fork, segment)) == FileName(number, fork, segment)


@given(st.from_regex(r"[0-9]{1,11}(_[a-z]{1,4})?(\.[0-9]{1,11})?", fullmatch=True) | st.text())
def test_each_file_has_only_one_name(name):
    parsed = relation.parse_file_name(name)
    assert parsed is None or relation.file_name(*parsed) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "0", "-1", "016384", "4294967296", "\N{FULLWIDTH DIGIT ONE}6384", "16384\n", "t3_16384", "pfs_catalog"),
        *("16384.", "16384.0", "16384.01", "16384.4294967296", "16384.1.1", "16384_main", "16384_fsm_vm"),
    ],
)
def test_a_name_that_is_not_a_relations_does_not_parse(name):
    assert relation.parse_file_name(name) is None


@pytest.mark.parametrize("bad", [0, -1, 2**32, True, 1.0, "5", None])
def test_a_number_of_an_address_must_be_an_int_of_32_bits(bad):
    with pytest.raises(InvalidRequest, match="tablespace"):
        RelationAddress(bad, 5, 16384)
    with pytest.raises(InvalidRequest, match="database"):
        RelationAddress(1663, bad, 16384)
    with pytest.raises(InvalidRequest, match="relation number"):
        RelationAddress(1663, 5, bad)


@pytest.mark.parametrize("database", [5, False])
def test_a_shared_relation_belongs_to_no_database(database):
    with pytest.raises(InvalidRequest, match="database"):
        RelationAddress(relation.GLOBAL_TABLESPACE, database, 1262)


def test_an_address_prints_as_its_numbers():
    assert str(RelationAddress(1663, 5, 16384)) == "1663/5/16384"
