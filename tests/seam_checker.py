"""Finds, in Python source, what reaches past the seams: the file system, clock, chance, threads, other processes.

The check reads the syntax tree only.  It follows imports under any name (`import os as o`, `from os import open as x`),
and it looks at every mention, not only at calls, so that `clock = time.monotonic` or `Lock = threading.Lock` count too.
Annotations are passed over: to name a type makes nothing.  A watched module handed on as a value (`getattr(os, name)`)
counts as well.

What it cannot see: methods of objects that came in as arguments (a `pathlib.Path`), except for method names that only
files have; and what a library does inside.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import NamedTuple

FILES, CLOCK, CHANCE, THREADS, OUTSIDE = "files", "clock", "chance", "threads", "outside"
CATEGORIES = frozenset({FILES, CLOCK, CHANCE, THREADS, OUTSIDE})


class Finding(NamedTuple):
    """One mention of something beyond a seam."""

    line: int
    name: str
    """The full name, whatever the source calls it."""
    category: str


class Watched(NamedTuple):
    """A module of the standard library and what in it is harmless."""

    category: str
    harmless: frozenset[str] = frozenset()
    """Names that may be used anywhere; a trailing `*` stands for any rest."""
    only: frozenset[str] = frozenset()
    """If not empty, just these names are watched."""


_OS_HARMLESS = (
    "O_* SEEK_* RWF_* POSIX_FADV_* EX_* name sep fspath fsencode fsdecode PathLike strerror error environ getenv "
    "cpu_count getpid register_at_fork path.join path.split path.splitext path.basename path.dirname path.normpath "
    "path.isabs path.commonpath path.relpath path.sep"
)
_THREAD_MAKERS = (
    "Thread Timer Lock RLock Condition Event Semaphore BoundedSemaphore Barrier local _start_new_thread stack_size "
    "_allocate_lock settrace setprofile excepthook"
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WATCHED = {
    "os": Watched(FILES, harmless=_names(_OS_HARMLESS)),
    "posix": Watched(FILES),
    "io": Watched(FILES, only=_names("open open_code FileIO OpenWrapper")),
    "codecs": Watched(FILES, only=_names("open")),
    "pathlib": Watched(FILES, harmless=_names("PurePath PurePosixPath PureWindowsPath")),
    "shutil": Watched(FILES, harmless=_names("Error")),
    "tempfile": Watched(FILES),
    "mmap": Watched(FILES),
    "glob": Watched(FILES, harmless=_names("escape has_magic")),
    "fcntl": Watched(FILES),
    "fileinput": Watched(FILES),
    "linecache": Watched(FILES),
    "sqlite3": Watched(FILES),
    "shelve": Watched(FILES),
    "dbm": Watched(FILES),
    "resource": Watched(FILES, harmless=_names("RLIMIT_*")),
    "ctypes": Watched(FILES),
    "time": Watched(CLOCK, harmless=_names("struct_time")),
    "datetime": Watched(CLOCK, only=_names("datetime.now datetime.utcnow datetime.today date.today")),
    "sched": Watched(CLOCK),
    "random": Watched(CHANCE),
    "secrets": Watched(CHANCE),
    "uuid": Watched(CHANCE, only=_names("uuid1 uuid3 uuid4 uuid5 uuid6 uuid7 uuid8 getnode")),
    "threading": Watched(THREADS, only=_names(_THREAD_MAKERS)),
    "_thread": Watched(THREADS, harmless=_names("get_ident get_native_id error LockType")),
    "queue": Watched(THREADS, harmless=_names("Empty Full ShutDown")),
    "_queue": Watched(THREADS, harmless=_names("Empty")),
    "concurrent.futures": Watched(THREADS, harmless=_names("Future CancelledError TimeoutError")),
    "asyncio": Watched(THREADS, only=_names("to_thread run new_event_loop Runner")),
    "multiprocessing": Watched(OUTSIDE),
    "subprocess": Watched(OUTSIDE, harmless=_names("PIPE DEVNULL STDOUT *Error TimeoutExpired")),
    "socket": Watched(OUTSIDE, harmless=_names("AF_* SOCK_* error timeout gaierror herror")),
    "socketserver": Watched(OUTSIDE),
    "select": Watched(OUTSIDE),
    "selectors": Watched(OUTSIDE),
    "signal": Watched(OUTSIDE, harmless=_names("SIG* Signals Handlers")),
}

_IN_OS = {
    OUTSIDE: _names(
        "_exit abort execl execle execlp execlpe execv execve execvp execvpe fork forkpty kill killpg popen "
        "posix_spawn posix_spawnp spawnl spawnle spawnlp spawnv spawnve spawnvp system wait waitpid waitid wait3 wait4"
    ),
    CHANCE: _names("urandom getrandom"),
    CLOCK: _names("times"),
}
"""What of `os` is not a matter of files."""

BUILTINS = {"open": FILES, "input": OUTSIDE, "__import__": OUTSIDE, "eval": OUTSIDE, "exec": OUTSIDE}
DYNAMIC = {"importlib.import_module", "importlib.__import__"}

FILE_METHODS = _names(
    "read_text read_bytes write_text write_bytes iterdir rglob is_file is_dir is_symlink is_fifo hardlink_to "
    "symlink_to link_to lstat"
)
"""Methods that only paths have: calling one reaches a file whatever the object is called."""


def check(source: str, filename: str = "<source>") -> list[Finding]:
    """All that `source` mentions beyond the seams, by line; SyntaxError if it is not Python."""
    tree = ast.parse(source, filename)
    imports = _Imports()
    imports.visit(tree)
    mentions = _Mentions(imports.aliases, _bound_at_top(tree))
    mentions.visit(tree)
    return sorted({*imports.findings, *mentions.findings})


def category_of(name: str) -> str | None:
    """The category of a full dotted name, None if it is harmless or unknown."""
    if name in DYNAMIC:
        return OUTSIDE
    if name.startswith("builtins."):
        return BUILTINS.get(name.removeprefix("builtins."))
    for module in _prefixes(name):
        watched = WATCHED.get(module)
        if watched is None:
            continue
        rest = name[len(module) + 1 :]
        if not rest:
            return watched.category
        if module == "os":
            for category, names in _IN_OS.items():
                if rest in names:
                    return category
        if watched.only:
            return watched.category if rest in watched.only or _parent(rest) in watched.only else None
        return None if any(_matches(rest, pattern) for pattern in watched.harmless) else watched.category
    return None


def _prefixes(name: str) -> Iterator[str]:
    """`a.b.c` itself, then `a.b`, then `a`."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _matches(name: str, pattern: str) -> bool:
    """Whether the name, or the name that it is an attribute of, fits the pattern (one `*` at either end)."""
    for candidate in _prefixes(name):
        if pattern.endswith("*") and candidate.startswith(pattern[:-1]):
            return True
        if pattern.startswith("*") and candidate.endswith(pattern[1:]):
            return True
        if candidate == pattern:
            return True
    return False


def _bound_at_top(tree: ast.Module) -> frozenset[str]:
    """Builtin names that the module itself gives another meaning to."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(names & set(dir(builtins)))


class _Imports(ast.NodeVisitor):
    """Which local name stands for which full name, wherever in the module it is imported."""

    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        self.findings: list[Finding] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname:
                self.aliases[alias.asname] = alias.name
            else:
                top = alias.name.partition(".")[0]
                self.aliases[top] = top

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or not node.module:
            return
        for alias in node.names:
            if alias.name == "*" and node.module in WATCHED:
                self.findings.append(Finding(node.lineno, f"{node.module}.*", WATCHED[node.module].category))
            self.aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"


class _Mentions(ast.NodeVisitor):
    """Every mention of a watched name outside annotations."""

    def __init__(self, aliases: dict[str, str], rebound: frozenset[str]) -> None:
        self._aliases = aliases
        self._rebound = rebound
        self.findings: list[Finding] = []

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            return
        full = self._aliases.get(node.id)
        if full is None and node.id in BUILTINS and node.id not in self._rebound:
            full = f"builtins.{node.id}"
        if full is not None:
            self._note(node, full)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        full = self._full_name(node)
        if full is None:
            self.generic_visit(node)
        else:
            self._note(node, full)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in FILE_METHODS and self._full_name(function) is None:
            self.findings.append(Finding(node.lineno, f".{function.attr}()", FILES))
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        """An argument's annotation makes nothing."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for child in [*node.decorator_list, node.args, *node.body]:
            self.visit(child)

    def _full_name(self, node: ast.Attribute) -> str | None:
        parts = [node.attr]
        value = node.value
        while isinstance(value, ast.Attribute):
            parts.append(value.attr)
            value = value.value
        if not isinstance(value, ast.Name):
            return None
        root = self._aliases.get(value.id)
        if root is None:
            return None
        return ".".join([root, *reversed(parts)])

    def _note(self, node: ast.expr, full: str) -> None:
        category = category_of(full)
        if category is not None:
            self.findings.append(Finding(node.lineno, full, category))
