"""Real triples for examples: what Python's standard library says about itself.

Every machine that runs pfs has them: the standard library's own sources, read with `ast`.

    (module, "imports", module)             ("asyncio.events", "imports", "contextvars")
    (scope, "defines", function or class)   ("asyncio.events", "defines", "asyncio.events.Handle")
    (scope, "calls", name)                  ("asyncio.events.Handle.cancel", "calls", "self._loop.get_debug")

A scope is a module, class or function, by its dotted name.  A name that is called is given as it is written; of a
call on something that has no name (`f().close()`) only the last part.  Calls in decorators and default values count
as calls of the function that they belong to.

Names come from the files alone: nothing is imported or run.  Files that do not parse (the library's tests have
some on purpose) are left out.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Triple = tuple[str, str, str]

Progress = Callable[[int, int], None]
"""Called after each file with the triples so far and the number that is wanted."""

ENOUGH = 150_000
NOT_SOURCES = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}


def extract(
    progress: Progress | None = None, *, enough: int = ENOUGH, roots: Sequence[Path] | None = None
) -> list[Triple]:
    """Triples of Python sources, sorted, each once.

    Whole files are read until there are `enough` triples: the library proper (some 70,000), then its own tests (200,000
    more), and then the packages installed in this environment, as some distributions leave the tests out.

    Args:
        progress: told after each file.
        enough: stop when there are so many.
        roots: the trees to read, if not those of this Python.

    Returns:
        `enough` triples and the rest of the last file's, or all that there are.
    """
    if roots is None:
        roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    triples: set[Triple] = set()
    for root in roots:
        for path in source_files(root):
            if len(triples) >= enough:
                break
            tree = parse(path)
            if tree is not None:
                triples.update(triples_of(tree, module_name(path.relative_to(root)), path.name == "__init__.py"))
            if progress is not None:
                progress(len(triples), enough)
    return sorted(triples)


def source_files(root: Path) -> list[Path]:
    """The Python files of a tree, in the same order everywhere: tests after all others."""
    files: list[Path] = []
    tests: list[Path] = []
    pending = [(root, files)] if root.is_dir() else []
    while pending:
        directory, found = pending.pop()
        for entry in directory.iterdir():
            if entry.suffix == ".py" and entry.is_file():
                found.append(entry)
            elif entry.is_dir() and not entry.is_symlink() and entry.name not in NOT_SOURCES:
                pending.append((entry, tests if entry.name in TESTS else found))
    return sorted(files) + sorted(tests)


def module_name(path: Path) -> str:
    """The dotted name of a module, from its path below the root of its tree."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def parse(path: Path) -> ast.Module | None:
    """A file's syntax tree, or None if it cannot be read or parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old sources have escapes that newer Pythons warn of
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def triples_of(tree: ast.Module, module: str, is_package: bool = False) -> Iterator[Triple]:
    """The triples of one module, in no particular order, some of them more than once."""
    package = module if is_package else module.rpartition(".")[0]
    pending: list[tuple[ast.AST, str]] = [(tree, module)]
    while pending:
        node, scope = pending.pop()
        kind = type(node)
        if kind is ast.Name or kind is ast.Constant:
            continue
        if isinstance(node, ast.Call):
            name = called_name(node.func)
            if name:
                yield scope, "calls", name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{scope}.{node.name}"
            yield scope, "defines", inner
            scope = inner
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield module, "imports", alias.name
        elif isinstance(node, ast.ImportFrom):
            for name in imported_modules(node, package):
                yield module, "imports", name
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                pending.append((value, scope))
            elif isinstance(value, list):
                pending.extend([(item, scope) for item in value if isinstance(item, ast.AST)])


def called_name(function: ast.expr) -> str:
    """`a.b.c` as it is written; of anything but a plain chain of names the last attribute, or nothing."""
    parts: list[str] = []
    node = function
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
        return ".".join(reversed(parts))
    return parts[0] if parts else ""


def imported_modules(node: ast.ImportFrom, package: str) -> list[str]:
    """The modules that a `from ... import` names; `from . import x` is taken to mean the module x of the package."""
    if not node.level:
        return [node.module] if node.module else []
    parents = package.split(".") if package else []
    base = parents[: len(parents) - node.level + 1]
    if node.module:
        return [".".join([*base, node.module])]
    return [".".join([*base, alias.name]) for alias in node.names]


def main(enough: int = ENOUGH) -> None:
    """Extract, and show every so many of them."""
    found = extract(lambda count, wanted: print(f"\r{count} of {wanted} triples", end="", flush=True), enough=enough)
    print()
    for triple in found[:: max(1, len(found) // 20)]:
        print(*triple)


if __name__ == "__main__":
    main()
