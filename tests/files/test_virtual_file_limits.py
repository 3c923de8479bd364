"""Real limits and real failures of the kernel: few descriptors, small files, a full disk, injected errors."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time

import pytest

from pfs.errors import NoSpace
from pfs.files.posix import PosixFileSystem
from pfs.files.virtual_file import OpenOptions, VirtualFilePool
from tests.privileges import skip_without_strace, small_disk
from tests.support import run_python, untraced_environment

NEW = OpenOptions(write=True, create=True, truncate=True)

CHILD = """
import resource, sys, time
from pfs.files.posix import PosixFileSystem
from pfs.files.virtual_file import OpenOptions, VirtualFilePool
NEW = OpenOptions(write=True, create=True, truncate=True)
def make_pool(**more):
    return VirtualFilePool(PosixFileSystem(sys.argv[1]), clock=time.monotonic, **more)
"""


def run_child(source, root):
    done = run_python(CHILD + source, os.fspath(root))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_hundred_files_work_under_a_limit_of_24_descriptors(tmp_path):
    source = """
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
with make_pool() as pool:
    files = [pool.open(f"f{number}", NEW) for number in range(100)]
    for number, file in enumerate(files):
        file.write_all_at(b"%d" % number, 0)
    for number, file in enumerate(files):
        assert file.read_to_end() == b"%d" % number
    pool.durable_rename("f0", "g0")
    pool.crashsafe_overwrite("g1", "t", b"content")
    print(pool.slots, pool.stats()["slots_in_use"])
    pool.close()
"""
    assert run_child(source, tmp_path).split() == ["12", "11"]


def test_descriptors_that_others_took_are_lived_with(tmp_path):
    source = """
import os
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
with make_pool() as pool:
    files = [pool.open(f"f{number}", NEW) for number in range(30)]
    others = []
    try:
        while True:
            others.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for number, file in enumerate(files):
        file.write_all_at(b"%d" % number, 0)
    while len(others) > 5:
        os.close(others.pop())
    for number, file in enumerate(files):
        assert file.read_to_end() == b"%d" % number
    print(pool.stats()["slots_in_use"])
    pool.close()
"""
    assert int(run_child(source, tmp_path)) <= 12


def test_a_file_at_the_limit_of_its_size_is_no_space_and_keeps_what_it_had(tmp_path):
    source = """
from pfs.errors import NoSpace
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
with make_pool() as pool:
    file = pool.open("f", NEW)
    file.write_all_at(bytes(6000), 0)
    for call in [
        lambda: file.write_all_at(b"x" * 8192, 6000),
        lambda: file.write_all_at(b"x", 10000),
        lambda: file.set_len(10001),
        lambda: file.allocate(0, 10001),
    ]:
        try:
            call()
        except NoSpace as error:
            assert "EFBIG" in str(error), error
        else:
            raise AssertionError("there was space")
        assert file.metadata().size == 6000
    assert file.write_at(b"x" * 8192, 6000) == 4000
    file.sync_all()
    file.close()
"""
    run_child(source, tmp_path)


def test_a_full_disk_is_no_space_and_writing_resumes_when_there_is_room():
    with small_disk("1m") as root, VirtualFilePool(PosixFileSystem(root), slots=2, clock=time.monotonic) as pool:
        file, other, third = (pool.open(name, NEW) for name in ("f", "other", "third"))
        file.write_all_at(bytes(700_000), 0)
        other.write_all_at(bytes(200_000), 0)
        for call in [
            lambda: file.write_all_at(bytes(300_000), 700_000),
            lambda: file.writev_at([bytes(100_000)] * 3, 650_000),
            lambda: file.allocate(0, 1_500_000),
        ]:
            with pytest.raises(NoSpace, match="ENOSPC"):
                call()
            assert file.metadata().size == 700_000
        with pytest.raises(NoSpace):
            pool.crashsafe_overwrite("third", "temporary", bytes(300_000))
        assert pool.list("") == ["f", "other", "third"]
        file.read_exact_at(bytearray(700_000), 0)
        other.remove()
        file.write_all_at(bytes(300_000), 700_000)
        assert file.metadata().size == 1_000_000
        file.close()
        third.close()


def test_the_process_limit_of_descriptors_is_the_budget(tmp_path):
    with VirtualFilePool(PosixFileSystem(tmp_path), slots=1 << 30, clock=time.monotonic, engine="psync") as pool:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert pool.slots == soft - min(64, soft // 2)


# ---------------------------------------------------------------------------------------------- injected by strace

WORK = """
from pfs.errors import PfsError
try:
    with make_pool(slots=2, engine="psync") as pool:
        print("acknowledged", end=" ")
        files = [pool.open(f"f{number}", NEW) for number in range(4)]
        for number, file in enumerate(files):
            file.write_all_at(b"%d" % number * 8192, 0)
        for number, file in enumerate(files):
            file.sync_data()
        for number, file in enumerate(files):
            buffer = bytearray(8192)
            file.read_exact_at(buffer, 0)
            assert buffer == b"%d" % number * 8192
        pool.crashsafe_overwrite("catalog", "t", b"content")
        print("all", end=" ")
        for file in files:
            file.close()
    print("nothing")
except PfsError as error:
    print(type(error).__name__)
sys.stdout.flush()
import os
os._exit(0)
"""

INJECTIONS = [
    *[(f"fdatasync:error={code}:when={when}", "SyncFailed") for code in ("EIO", "ENOSPC") for when in (1, 3, 6)],
    *[(f"fsync:error={code}:when={when}", "SyncFailed") for code in ("EIO", "EDQUOT") for when in (1, 2)],
    *[(f"pwritev:error={code}:when={when}", "WriteFailed") for code in ("EIO", "EROFS", "EACCES") for when in (1, 5)],
    *[(f"pwritev:error={code}:when={when}", "NoSpace") for code in ("ENOSPC", "EFBIG", "EDQUOT") for when in (1, 4)],
    *[(f"preadv:error=EIO:when={when}", "PageIOError") for when in (1, 4)],
    ("pwritev:retval=0:when=1", "WriteFailed"),
    ("rename:error=EIO:when=1", "WriteFailed"),
    ("pwritev:error=EINTR:when=1..4", "nothing"),
    ("preadv:error=EINTR:when=1..3", "nothing"),
    ("fdatasync:error=EINTR:when=2", "nothing"),
    ("posix_fadvise:error=EIO:when=1", "nothing"),
]


@pytest.mark.parametrize(("injection", "expected"), INJECTIONS, ids=[injection for injection, _ in INJECTIONS])
def test_an_error_that_the_kernel_gives_means_what_it_should(tmp_path, injection, expected):
    skip_without_strace()
    root, trace = tmp_path / "root", tmp_path / "trace"
    root.mkdir()
    call = injection.split(":")[0]
    calls = {"pwritev": "pwritev,pwritev2", "preadv": "preadv,preadv2", "rename": "rename,renameat,renameat2"}
    calls["posix_fadvise"] = "fadvise64"
    names = calls.get(call, call)
    command = ["strace", "-f", "--seccomp-bpf", "-o", os.fspath(trace), "-e", f"trace={names},fsync,fdatasync"]
    command += [
        "-e",
        f"inject={names}{injection[len(call) :]}",
        sys.executable,
        "-W",
        "error",
        "-c",
        CHILD + WORK,
        root,
    ]
    done = subprocess.run(command, env=untraced_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[-1] == expected, (done.stdout, done.stderr, trace.read_text())
    assert ("all" in words) == (expected == "nothing")
    if expected == "nothing":
        assert {name: (root / name).read_bytes() for name in os.listdir(root)} == {
            "catalog": b"content",
            **{f"f{number}": b"%d" % number * 8192 for number in range(4)},
        }
    if expected == "SyncFailed":
        syncs = re.findall(r"(?:fsync|fdatasync)\((\d+)\) += (\S+)", trace.read_text())
        failed = [place for place, (_, result) in enumerate(syncs) if result == "-1"]
        assert failed, "the injected error did not strike"
