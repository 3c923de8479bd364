"""Options of opening and paths: what is refused before anything is touched."""

from __future__ import annotations

import os

import pytest

from pfs.errors import InvalidName, InvalidRequest
from pfs.files.open_options import OpenOptions
from pfs.files.paths import check_path, parent_of


def test_reopening_keeps_rights_and_custom_flags_and_strips_what_changes_the_file():
    options = OpenOptions(write=True, create=True, truncate=True, custom_flags=os.O_NOATIME)
    assert options.flags == os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOATIME
    assert options.reopen_flags == os.O_RDWR | os.O_NOATIME


def test_create_new_wins_over_create_and_truncate():
    options = OpenOptions(read=False, write=True, create=True, truncate=True, create_new=True)
    assert options.flags == os.O_WRONLY | os.O_CREAT | os.O_EXCL
    assert options.reopen_flags == os.O_WRONLY


def test_append_is_kept_for_every_opening():
    assert OpenOptions(append=True).reopen_flags == os.O_RDWR | os.O_APPEND
    assert OpenOptions(read=False, append=True).flags == os.O_WRONLY | os.O_APPEND


@pytest.mark.parametrize(
    "wrong",
    [
        {"read": 1},
        {"write": "yes"},
        {"custom_flags": True},
        {"custom_flags": -1},
        {"custom_flags": os.O_CREAT},
        {"custom_flags": os.O_RDWR},
        {"mode": 0o10000},
        {"mode": 6.0},
        {"read": False},
        {"create": True},
        {"create_new": True},
        {"truncate": True},
        {"append": True, "truncate": True},
    ],
)
def test_options_that_can_never_work_are_refused(wrong):
    with pytest.raises(InvalidRequest):
        OpenOptions(**wrong)


@pytest.mark.parametrize(
    "path",
    [
        *["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "a/./b", "a//b", "a/", "a\0b", "\udc80"],
        *["x" * 256, "\u00e9" * 128, "/".join(["x" * 200] * 21), 7, None, b"a", True],
    ],
)
def test_paths_that_are_not_plain_and_relative_are_refused(path):
    with pytest.raises(InvalidName):
        check_path(path)


def test_a_plain_path_is_split_into_its_parts():
    assert check_path("base/5/16384.1") == ("base", "5", "16384.1")
    assert check_path("x" * 255) == ("x" * 255,)
    assert parent_of("base/5/16384") == "base/5"
    assert parent_of("catalog") == ""
