"""The shape of the source: nothing reaches past the seams, imports point downwards, nothing names where it was made.

A new entry in `SEAMS` needs a reason that a reader believes.  Everything else gets its clock, its chance, its files and
its threads handed in, so that the simulation can replace them.
"""

from __future__ import annotations

import ast
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.seam_checker import CATEGORIES, CHANCE, CLOCK, FILES, OUTSIDE, THREADS, category_of, check

ROOT = Path(__file__).parent.parent


class Seam(NamedTuple):
    categories: frozenset[str]
    reason: str


def seam(*categories: str, reason: str) -> Seam:
    return Seam(frozenset(categories), reason)


SEAMS = {
    "pfs/files/posix.py": seam(FILES, THREADS, reason="the real file system, and the condition that it hands out"),
    "pfs/actors/scheduler.py": seam(
        THREADS, CLOCK, CHANCE, reason="its own thread, the real clock, ids for directories"
    ),
    "pfs/actors/blocking.py": seam(THREADS, reason="a blocking actor is a thread with a queue"),
    "pfs/actors/runtime.py": seam(THREADS, reason="which runtime this thread is in; locks around starting"),
    "pfs/actors/waiting.py": seam(THREADS, reason="the lock that a plain thread waits on for its reply"),
    "pfs/actors/monitors.py": seam(THREADS, reason="who watches whom is changed from any thread"),
    "pfs/actors/timers.py": seam(THREADS, reason="timers are set from any thread"),
    "pfs/system.py": seam(THREADS, reason="each plain thread has its own client address"),
    "pfs/actors/reference.py": seam(CHANCE, reason="actor URNs are unique across processes; no decision reads them"),
    "pfs/actors/interrupts.py": seam(OUTSIDE, reason="Ctrl-C is deferred while a thread drives the scheduler"),
    "pfs/testing/*": seam(*CATEGORIES, reason="the simulation is what stands behind the seams in tests"),
    "pfs/answers.py": seam(FILES, reason="whether a directory is a data directory, before one is opened"),
    "pfs/cli.py": seam(FILES, reason="the command looks at directories and reads the files that it is given"),
}


def package_modules() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "pfs").rglob("*.py"))


def allowed_in(module: str) -> frozenset[str]:
    return frozenset().union(*(seam.categories for name, seam in SEAMS.items() if fnmatchcase(module, name)))


def test_nothing_reaches_past_the_seams() -> None:
    strays = [
        f"{module}:{finding.line}: {finding.name} ({finding.category})"
        for module in package_modules()
        for finding in check((ROOT / module).read_text(), module)
        if finding.category not in allowed_in(module)
    ]
    assert not strays, "have it handed in through a seam instead (see SEAMS):\n" + "\n".join(strays)


def test_no_module_is_allowed_more_than_it_uses() -> None:
    unused = []
    for module in package_modules():
        if module in SEAMS:
            used = {finding.category for finding in check((ROOT / module).read_text(), module)}
            unused += [f"{module}: {category}" for category in sorted(SEAMS[module].categories - used)]
    assert not unused, "take these out of SEAMS:\n" + "\n".join(unused)


# ------------------------------------------------------------------------------------------ the checker itself


@pytest.mark.parametrize(
    ("source", "name", "category"),
    [
        ("import os\nos.open('f', 0)", "os.open", FILES),
        ("import os as o\no.pread(1, 2, 3)", "os.pread", FILES),
        ("from os import open as x\nx('f', 0)", "os.open", FILES),
        ("import os.path\nos.path.exists('f')", "os.path.exists", FILES),
        ("from os import path\npath.getsize('f')", "os.path.getsize", FILES),
        ("def f():\n    import os\n    os.fsync(3)", "os.fsync", FILES),
        ("import os\nwriter = os.pwrite", "os.pwrite", FILES),
        ("import os\ngetattr(os, 'o' + 'pen')", "os", FILES),
        ("import threading\ngetattr(threading, 'Lock')()", "threading", THREADS),
        ("from os import *", "os.*", FILES),
        ("open('f')", "builtins.open", FILES),
        ("import builtins\nbuiltins.open('f')", "builtins.open", FILES),
        ("import io\nio.open('f')", "io.open", FILES),
        ("from io import FileIO as Raw\nRaw('f')", "io.FileIO", FILES),
        ("import pathlib\npathlib.Path('f').stat()", "pathlib.Path", FILES),
        ("def f(path): return path.read_bytes()", ".read_bytes()", FILES),
        ("import mmap\nmmap.mmap(3, 0)", "mmap.mmap", FILES),
        ("import tempfile as t\nt.mkdtemp()", "tempfile.mkdtemp", FILES),
        ("from shutil import rmtree\nrmtree('d')", "shutil.rmtree", FILES),
        ("import fcntl\nfcntl.flock(3, 2)", "fcntl.flock", FILES),
        ("from time import monotonic\nmonotonic()", "time.monotonic", CLOCK),
        ("import time\ndef f(clock=time.monotonic): ...", "time.monotonic", CLOCK),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now", CLOCK),
        ("import datetime as d\nd.date.today()", "datetime.date.today", CLOCK),
        ("import random\nrandom.random()", "random.random", CHANCE),
        ("from random import Random as R\nR(1)", "random.Random", CHANCE),
        ("import os\nos.urandom(8)", "os.urandom", CHANCE),
        ("from uuid import uuid4\nuuid4()", "uuid.uuid4", CHANCE),
        ("import secrets\nsecrets.token_bytes()", "secrets.token_bytes", CHANCE),
        ("import threading\nthreading.Thread(target=f).start()", "threading.Thread", THREADS),
        ("import threading\nclass C(threading.local): ...", "threading.local", THREADS),
        ("from threading import Lock as L\nlock = L()", "threading.Lock", THREADS),
        ("import _thread\n_thread.start_new_thread(f, ())", "_thread.start_new_thread", THREADS),
        ("import queue\nqueue.SimpleQueue()", "queue.SimpleQueue", THREADS),
        (
            "from concurrent import futures\nfutures.ThreadPoolExecutor()",
            "concurrent.futures.ThreadPoolExecutor",
            THREADS,
        ),
        ("import os\nos._exit(70)", "os._exit", OUTSIDE),
        ("import os\nos.fork()", "os.fork", OUTSIDE),
        ("import subprocess\nsubprocess.run([])", "subprocess.run", OUTSIDE),
        ("import socket\nsocket.socket()", "socket.socket", OUTSIDE),
        ("import importlib\nimportlib.import_module('o' + 's')", "importlib.import_module", OUTSIDE),
        ("__import__('os')", "builtins.__import__", OUTSIDE),
    ],
)
def test_the_checker_finds_it_under_any_name(source: str, name: str, category: str) -> None:
    assert [(finding.name, finding.category) for finding in check(source)] == [(name, category)]


@pytest.mark.parametrize(
    "source",
    [
        "import os\nflags = os.O_RDWR | os.O_CREAT\nname = os.path.join('a', 'b')\npid = os.getpid()",
        "import threading\nme = threading.get_ident()",
        "import threading\ndef f(lock: threading.Lock) -> threading.Thread | None: ...",
        "import random\nclass C:\n    source: random.Random\n    def f(self, chance: random.Random) -> None: ...",
        "import queue\ntry: ...\nexcept queue.Empty: ...",
        "from datetime import datetime\nlater = datetime(2020, 1, 1)",
        "def f(files): return files.open('name', 0)",
        "class C:\n    def open(self): ...\n    def f(self): self.open()",
        "def open(name): ...\nopen('x')",
        "from pathlib import PurePosixPath\nPurePosixPath('a') / 'b'",
        "from time import struct_time as s\nx = s",
        "def f(status): return status.is_file",
    ],
)
def test_the_checker_lets_harmless_mentions_pass(source: str) -> None:
    assert check(source) == []


def test_names_that_nobody_watches_have_no_category() -> None:
    assert category_of("collections.deque") is None
    assert category_of("ostrich.open") is None


# ------------------------------------------------------------------------------------------ import direction

LAYERS = [
    {"errors", "protocol"},
    {"cache", "files", "wal", "streams"},
    {"actors"},
    {"backup", "calls", "check", "page_file", "storage", "system"},
    {"isam", "node", "aio"},
    {"__init__"},
    {"answers", "backup_command", "offline_commands", "cli", "__main__"},
]
"""From the bottom to the top; a module imports from its own layer and those below."""

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

SIDEWAYS_AND_UP = {("streams", "actors"): "a stream is itself an actor"}

KNOW_NO_ACTOR = {"cache", "files", "wal"}


def room_of(module: str) -> str:
    """`pfs.files.posix` is in the room `files`, `pfs.errors` in `errors`, `pfs` itself in `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_modules(source: str, module: str, is_package: bool, known: frozenset[str]) -> list[tuple[int, str]]:
    """Line and full name of each module that the source imports, at whatever depth, relative imports resolved."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((node.lineno, full if full in known else base))
    return found


def complaint(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, None if it may."""
    importing, room = room_of(importer), room_of(imported)
    if imported.partition(".")[0] == "pykka" and importing in KNOW_NO_ACTOR:
        return "knows no actor"
    if imported.partition(".")[0] != "pfs" or importing == "testing":
        return None
    if room == "testing":
        return "nothing but tests imports pfs.testing"
    if importing not in LEVEL or room not in LEVEL:
        return f"{importing if importing not in LEVEL else room} is in no layer; add it to LAYERS"
    if LEVEL[room] > LEVEL[importing] and (importing, room) not in SIDEWAYS_AND_UP:
        return "points upwards"
    return None


def dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_imports_point_downwards() -> None:
    paths = package_modules()
    known = frozenset(map(dotted, paths))
    wrong = [
        f"{path}:{line}: import of {imported} {why}"
        for path in paths
        for line, imported in imported_modules(
            (ROOT / path).read_text(), dotted(path), path.endswith("__init__.py"), known
        )
        if (why := complaint(dotted(path), imported))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported", "right"),
    [
        ("pfs.actors.scheduler", "pfs.errors", True),
        ("pfs.actors.pool", "pfs.files.virtual_file", True),
        ("pfs.streams.stream", "pfs.actors", True),
        ("pfs.system", "pfs.actors.runtime", True),
        ("pfs.testing.scheduler", "pfs.system", True),
        ("pfs.cli", "pfs", True),
        ("pfs.files.posix", "os", True),
        ("pfs.files.posix", "pfs.actors", False),
        ("pfs.cache.lru", "pykka", False),
        ("pfs.errors", "pfs.files", False),
        ("pfs.actors.server", "pfs.system", False),
        ("pfs.actors.server", "pfs", False),
        ("pfs.system", "pfs.testing.scheduler", False),
        ("pfs.newroom.module", "pfs.errors", False),
    ],
)
def test_a_wrong_direction_is_told_from_a_right_one(importer: str, imported: str, right: bool) -> None:
    assert (complaint(importer, imported) is None) == right


def test_relative_imports_and_submodules_are_resolved() -> None:
    known = frozenset({"pfs", "pfs.actors", "pfs.actors.a", "pfs.files", "pfs.errors"})
    source = "from . import a\nfrom .. import files\nfrom pfs import errors, System\nfrom .a import name"
    names = [name for _, name in imported_modules(source, "pfs.actors.b", False, known)]
    assert names == ["pfs.actors.a", "pfs.files", "pfs.errors", "pfs", "pfs.actors.a"]
    assert [name for _, name in imported_modules("from .a import x", "pfs.actors", True, known)] == ["pfs.actors.a"]


# ------------------------------------------------------------------------------------------ nothing names its workshop

WORKSHOP = re.compile(
    "|".join(
        [
            r"/wo" + r"rk/(main|\.lib|sha" + r"red)",
            r"\bsha" + r"red/(seeds|design|reliab|models|hooks)",
            r"\.\./sha" + r"red\b",
            r"\b(relia" + r"bility|mod" + r"els|des" + r"ign)\.md\b",
            r"\bse" + r"eds?[ /]0\d\d\b",
            r"\b\d{3}_[0-9a-f]{16}\b",
            r"\bissues " + r"show\b",
            r"/tmp/bri" + r"ef",
        ]
    )
)
"""Paths and file numbers of the place where pfs was written, in pieces so that this file holds none of them."""


def committed_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: nothing tells which files are committed")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_nothing_committed_names_the_place_where_it_was_written() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in committed_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (match := WORKSHOP.search(line))
    ]
    assert not named, "say it without the path:\n" + "\n".join(named)


@pytest.mark.parametrize(
    "text",
    [
        "see ../sha" + "red/des" + "ign.md",
        "cd /wo" + "rk/main",
        "as se" + "ed 004 says",
        "004_" + "0123456789abcdef.txt",
        "relia" + "bility.md 5.3",
    ],
)
def test_such_a_name_is_recognised(text: str) -> None:
    assert WORKSHOP.search(text)


@pytest.mark.parametrize("text", ["a shared/exclusive lock", "PFS_SEED=4", "docs/architecture.md", "network/main"])
def test_ordinary_words_are_not(text: str) -> None:
    assert not WORKSHOP.search(text)
