"""Triples from Python sources: what they say, and that nothing in a tree of sources can stop them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from examples.python_triples import Triple, extract, main, module_name, source_files, triples_of


def triples(source: str, module: str = "package.module", is_package: bool = False) -> set[Triple]:
    return set(triples_of(ast.parse(source), module, is_package))


def test_a_module_imports_modules() -> None:
    assert triples("import a, b.c as d\nfrom e.f import g\n") == {
        ("package.module", "imports", "a"),
        ("package.module", "imports", "b.c"),
        ("package.module", "imports", "e.f"),
    }


def test_relative_imports_are_resolved() -> None:
    source = "from . import a, b\nfrom .c import d\nfrom .. import e\n"
    assert {triple[2] for triple in triples(source, "top.package.module")} == {
        "top.package.a",
        "top.package.b",
        "top.package.c",
        "top.e",
    }
    assert {triple[2] for triple in triples("from . import a", "top.package", is_package=True)} == {"top.package.a"}
    assert {triple[2] for triple in triples("from . import a", "script")} == {"a"}


def test_an_import_from_nothing_says_nothing() -> None:
    node = ast.ImportFrom(module=None, names=[ast.alias("a")], level=0)
    assert list(triples_of(ast.Module(body=[node], type_ignores=[]), "m")) == []


def test_modules_classes_and_functions_define_what_is_in_them() -> None:
    source = "class A:\n    def f(self):\n        async def g(): pass\ndef h(): pass\n"
    assert triples(source, "m") == {
        ("m", "defines", "m.A"),
        ("m.A", "defines", "m.A.f"),
        ("m.A.f", "defines", "m.A.f.g"),
        ("m", "defines", "m.h"),
    }


def test_scopes_call_names_as_they_are_written() -> None:
    source = "top()\ndef f():\n    a.b.c(d())\n    x[0].method()\n    g().close()\n    (lambda: 0)()\n"
    assert {triple for triple in triples(source, "m") if triple[1] == "calls"} == {
        ("m", "calls", "top"),
        ("m.f", "calls", "a.b.c"),
        ("m.f", "calls", "d"),
        ("m.f", "calls", "method"),
        ("m.f", "calls", "g"),
        ("m.f", "calls", "close"),
    }


@pytest.mark.parametrize(
    ("path", "name"), [("a.py", "a"), ("a/b.py", "a.b"), ("a/__init__.py", "a"), ("__init__.py", "__init__")]
)
def test_a_module_is_named_after_its_path(path: str, name: str) -> None:
    assert module_name(Path(path)) == name


def make_tree(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_tree_is_read_in_one_order_tests_last_and_other_files_not_at_all(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        dict.fromkeys(("b.py", "a/z.py", "test/deep/a.py", "a/tests/t.py", "c.txt", "site-packages/d.py"), ""),
    )
    (tmp_path / "directory.py").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in source_files(tmp_path)]
    assert found == ["a/z.py", "b.py", "a/tests/t.py", "test/deep/a.py"]
    assert source_files(tmp_path / "nowhere") == []


def test_files_that_do_not_parse_are_left_out(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {
            "good.py": "import a",
            "syntax.py": "def",
            "null.py": b"import b\0",
            "coding.py": b"# coding: no-such-coding\n",
            "bytes.py": b"'\xff'",
            "deep.py": "-" * 100_000 + "1",
            "warns.py": "import c\n'\\d'\n",
        },
    )
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    assert extract(roots=[tmp_path]) == [("good", "imports", "a"), ("warns", "imports", "c")]


def test_whole_files_are_read_until_there_are_enough_triples(tmp_path: Path) -> None:
    make_tree(tmp_path / "first", {"a.py": "import x, y", "b.py": "import x, y"})
    make_tree(tmp_path / "second", {"c.py": "import x"})
    roots = [tmp_path / "first", tmp_path / "second"]
    seen: list[tuple[int, int]] = []
    found = extract(lambda count, wanted: seen.append((count, wanted)), enough=3, roots=roots)
    assert found == [("a", "imports", "x"), ("a", "imports", "y"), ("b", "imports", "x"), ("b", "imports", "y")]
    assert seen == [(2, 3), (4, 3)]
    assert len(extract(roots=roots)) == 5


def test_the_standard_library_has_triples_of_every_kind_always_the_same() -> None:
    found = extract(enough=5_000)
    assert len(found) >= 5_000
    assert {triple[1] for triple in found} == {"imports", "defines", "calls"}
    assert found == sorted(set(found))
    assert found == extract(enough=5_000)


def test_the_script_shows_its_progress_and_some_triples(capsys: pytest.CaptureFixture[str]) -> None:
    main(enough=500)
    progress, *shown = capsys.readouterr().out.rstrip().split("\n")
    assert progress.endswith("of 500 triples")
    assert 20 <= len(shown) <= 30
