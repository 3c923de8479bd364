"""The real file system: nothing leads out of the root, nothing blocks, only regular files are opened."""

from __future__ import annotations

import errno
import os
import resource
import socket

import pytest

from pfs.errors import InvalidName, NotRegularFile
from pfs.files import posix
from pfs.files.posix import PosixFileSystem

BAD_PATHS = ["", "/etc/passwd", "../x", "a/../b", "a\0b", "a//b", "x" * 256]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def fs(root):
    return PosixFileSystem(root)


def put(fs, path, content=b""):
    descriptor = fs.open(path, os.O_RDWR | os.O_CREAT)
    if content:
        assert fs.pwritev(descriptor, [content], 0) == len(content)
    return descriptor


def test_what_is_written_is_read(fs):
    fs.mkdir("base")
    fs.mkdir("base/5")
    descriptor = put(fs, "base/5/16384", b"0123456789")
    first, second = bytearray(4), bytearray(10)
    assert fs.preadv(descriptor, [first, second], 0) == 10
    assert (first, second[:6]) == (b"0123", b"456789")
    fs.ftruncate(descriptor, 3)
    fs.fallocate(descriptor, 0, 5)
    fs.fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    fs.fsync(descriptor)
    fs.fdatasync(descriptor)
    found = fs.fstat(descriptor)
    assert (found.size, found.is_file, found.is_directory) == (5, True, False)
    assert found == fs.stat("base/5/16384")
    fs.close(descriptor)
    fs.sync_directory("base/5")
    fs.sync_directory("")
    assert fs.stat("base").is_directory
    assert fs.listdir("base/5") == ["16384"]
    assert fs.listdir("") == ["base"]
    fs.rename("base/5/16384", "base/kept")
    assert not fs.exists("base/5/16384")
    assert fs.exists("base/kept")
    assert not fs.exists("base/kept/below")
    fs.unlink("base/kept")
    fs.rmdir("base/5")
    assert fs.listdir("base") == []


def test_descriptors_are_not_inherited(fs):
    descriptor = put(fs, "f")
    assert not os.get_inheritable(descriptor)
    fs.close(descriptor)


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_bad_path_is_refused_by_every_call_that_takes_one(fs, path):
    calls = [
        lambda: fs.open(path, os.O_RDONLY),
        lambda: fs.stat(path),
        lambda: fs.exists(path),
        lambda: fs.mkdir(path),
        lambda: fs.rmdir(path),
        lambda: fs.unlink(path),
        lambda: fs.rename(path, "b"),
        lambda: fs.rename("b", path),
    ]
    if path:
        calls += [lambda: fs.listdir(path), lambda: fs.sync_directory(path)]
    for call in calls:
        with pytest.raises(InvalidName):
            call()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device"])
def test_what_is_not_a_regular_file_is_refused_without_blocking(fs, root, kind, flags):
    path = root / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))
    else:
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device node needs root")
    with pytest.raises(NotRegularFile):
        fs.open("thing", flags)


@pytest.mark.parametrize("target", ["outside", "root/inside"])
def test_a_symbolic_link_is_refused_wherever_it_stands_on_a_path(fs, root, tmp_path, target):
    (tmp_path / "outside").mkdir()
    (root / "inside").mkdir()
    (tmp_path / target / "f").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / target)
    (root / "inside/file_link").symlink_to(tmp_path / target / "f")
    for call in [
        lambda: fs.open("link/f", os.O_RDONLY),
        lambda: fs.open("link/new", os.O_RDWR | os.O_CREAT),
        lambda: fs.open("inside/file_link", os.O_RDONLY),
        lambda: fs.open("inside/file_link", os.O_RDWR | os.O_CREAT),
        lambda: fs.stat("link"),
        lambda: fs.stat("link/f"),
        lambda: fs.listdir("link"),
        lambda: fs.sync_directory("link"),
        lambda: fs.unlink("link/f"),
        lambda: fs.mkdir("link/d"),
        lambda: fs.rename("link/f", "g"),
    ]:
        with pytest.raises(InvalidName):
            call()
    assert (tmp_path / target / "f").read_bytes() == b"secret"
    assert sorted(os.listdir(tmp_path / target)) == sorted({"f"} | ({"file_link"} if "inside" in target else set()))


def test_links_are_followed_where_the_caller_said_so_and_not_below(root, tmp_path):
    space = tmp_path / "space"
    (space / "PG_15").mkdir(parents=True)
    (space / "PG_15/f").write_bytes(b"there")
    (space / "more").symlink_to(tmp_path)
    (root / "pg_tblspc").mkdir()
    (root / "pg_tblspc/16500").symlink_to(space)
    fs = PosixFileSystem(root, follow_links_under=("pg_tblspc",))
    descriptor = fs.open("pg_tblspc/16500/PG_15/f", os.O_RDONLY)
    found = fs.fstat(descriptor)
    fs.close(descriptor)
    assert found == fs.stat("pg_tblspc/16500/PG_15/f")
    assert fs.stat("pg_tblspc/16500").is_directory
    assert fs.listdir("pg_tblspc/16500") == ["PG_15", "more"]
    descriptor = fs.reopen("pg_tblspc/16500/PG_15/f", os.O_RDONLY, found.device, found.inode)
    fs.close(descriptor)
    with pytest.raises(InvalidName):
        fs.listdir("pg_tblspc/16500/more")


def test_a_file_where_a_directory_should_be_is_told_from_a_link(fs):
    fs.close(put(fs, "f"))
    with pytest.raises(NotADirectoryError):
        fs.open("f/g", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        fs.listdir("f")


def test_reopening_finds_the_same_file_or_nothing(fs, root):
    fs.close(put(fs, "f", b"old"))
    found = fs.stat("f")
    descriptor = fs.reopen("f", os.O_RDONLY, found.device, found.inode)
    assert fs.fstat(descriptor) == found
    fs.close(descriptor)
    fs.rename("f", "g")
    fs.close(put(fs, "f", b"new"))
    for device, inode in [(found.device, found.inode), (found.device + 1, fs.stat("f").inode)]:
        with pytest.raises(OSError, match="another file") as raised:
            fs.reopen("f", os.O_RDONLY, device, inode)
        assert raised.value.errno == errno.ESTALE
    fs.unlink("f")
    (root / "f").symlink_to(root / "g")
    with pytest.raises(OSError, match="symbolic links") as raised:
        fs.reopen("f", os.O_RDONLY, found.device, found.inode)
    assert raised.value.errno == errno.ELOOP


def test_other_errors_of_opening_are_the_systems_own(fs):
    with pytest.raises(FileNotFoundError):
        fs.open("missing", os.O_RDONLY)
    fs.close(put(fs, "f"))
    with pytest.raises(FileExistsError):
        fs.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL)


def test_a_lock_is_held_by_one_open_file_at_a_time(fs):
    first, second = put(fs, "lock"), put(fs, "lock")
    fs.lock(first)
    with pytest.raises(BlockingIOError):
        fs.lock(second)
    fs.close(first)
    fs.lock(second)
    fs.close(second)


def test_reads_from_the_page_cache_say_so_where_the_system_has_none(fs, monkeypatch):
    monkeypatch.setattr(posix, "_NOWAIT", None)
    with pytest.raises(OSError, match="page cache") as raised:
        fs.preadv_nowait(0, [bytearray(1)], 0)
    assert raised.value.errno == errno.EOPNOTSUPP


def test_the_boot_id_is_that_of_the_machine_or_says_nothing(fs, monkeypatch, tmp_path):
    assert len(fs.boot_id()) == 16
    assert fs.boot_id() == fs.boot_id()
    known = tmp_path / "boot_id"
    monkeypatch.setattr(posix, "_BOOT_ID", str(known))
    assert fs.boot_id() == bytes(16)
    known.write_text("no UUID")
    assert fs.boot_id() == bytes(16)
    known.write_text("c0ffee00-0000-4000-8000-000000000001\n")
    assert fs.boot_id().hex() == "c0ffee00000040008000000000000001"


def test_the_limit_of_descriptors_is_that_of_the_process(fs, monkeypatch):
    assert fs.descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert fs.descriptor_limit() == 1 << 20


def test_the_root_must_be_a_directory(root):
    (root / "f").write_bytes(b"")
    for path in (root / "f", root / "missing"):
        with pytest.raises(NotADirectoryError):
            PosixFileSystem(path)


def test_conditions_and_mutexes_are_locks(fs):
    with fs.mutex(), fs.condition() as held:
        assert held


def test_a_root_can_be_made_with_its_parents(tmp_path):
    fs = PosixFileSystem.made(tmp_path / "a/b")
    assert fs.listdir("") == []
    assert PosixFileSystem.made(tmp_path / "a/b").root == fs.root


def test_reads_from_the_page_cache_find_what_was_just_written_where_the_system_has_them(fs):
    descriptor = put(fs, "f", b"cached")
    buffer = bytearray(6)
    try:
        count = fs.preadv_nowait(descriptor, [buffer], 0)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip(f"no such reads on this file system: {error}")
    finally:
        fs.close(descriptor)
    assert buffer[:count] == b"cached"[:count]
