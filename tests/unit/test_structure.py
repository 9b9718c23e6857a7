"""The house rules that a machine can check: who imports whom, how long things are, what they are called, and
what stands at the top level. Imports are read with `ast`, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests import TREE

PACKAGES = ("pooler", "admin", "metrics")

TOP_LEVEL = {"pyproject.toml", "README.md", "pooler", "admin", "metrics", "tests"}
"""Besides names that begin with a dot."""

COMPOSITION = ("pooler/__main__.py", "pooler/commands/")
"""Where all three packages may meet."""

ALLOWED = {
    "metrics": {"pooler.stats"},
    "admin": {"pooler.stats", "pooler.config", "pooler.wire", "pooler.channel", "pooler.verbs"},
}
"""What a package may import of `pooler`. `admin` and `metrics` import nothing of each other."""

INTERACTIVE = ("admin/repl", "admin/top")
"""Clients of the console: they share with it the tables they complete from, and no other server code."""
SHARED_WITH_CLIENTS = {Path("admin/commands.py"), Path("admin/views.py")}

EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
LONGEST_FILE = 700
LONGEST_FUNCTION = 80


def tracked() -> list[Path]:
    """Files git knows or would add, relative to the tree; without git (an unpacked archive) all there are."""
    listed = subprocess.run(
        ["git", "-C", str(TREE), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else _walk()
    return sorted(path for path in map(Path, names) if (TREE / path).is_file())


def _walk() -> list[str]:
    return [
        str(p.relative_to(TREE))
        for top in TOP_LEVEL
        for p in (TREE / top).rglob("*")
        if "__pycache__" not in p.parts
    ]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".pxi"}]
PYTHON = [path for path in SOURCES if path.suffix in {".py", ".pyi"}]


def modules_imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of each import in the file; `from a import b` counts as a and as a.b."""
    package = list(path.with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse((TREE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}" if base else alias.name) for alias in node.names)


def imports_of(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Those imports of `path` that are `package` or lie in it."""
    for line, module in modules_imported(path):
        if module == package or module.startswith(package + "."):
            yield line, module


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def in_package(package: str) -> list[Path]:
    return [path for path in PYTHON if path.parts[0] == package]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_front_imports_only_what_it_may_of_pooler(package: str) -> None:
    wrong = [
        f"{path}:{line} imports {module}"
        for path in in_package(package)
        for line, module in imports_of(path, "pooler")
        if not within(module, ALLOWED[package])
    ]
    assert not wrong


@pytest.mark.parametrize(("package", "other"), [("admin", "metrics"), ("metrics", "admin")])
def test_the_fronts_do_not_import_each_other(package: str, other: str) -> None:
    assert not [f"{path}:{line}" for path in in_package(package) for line, _ in imports_of(path, other)]


def test_pooler_imports_no_front_but_where_it_is_composed() -> None:
    wrong = [
        f"{path}:{line} imports {module}"
        for path in in_package("pooler")
        if not str(path).startswith(COMPOSITION)
        for front in ("admin", "metrics")
        for line, module in imports_of(path, front)
    ]
    assert not wrong


def reached_from(starts: list[Path]) -> set[Path]:
    """Modules of `admin` that these import, directly or through others, themselves included."""
    files = {module_name(path): path for path in in_package("admin")}
    reached, todo = set(starts), list(starts)
    while todo:
        for _, module in imports_of(todo.pop(), "admin"):
            path = files.get(module) or files.get(module.rpartition(".")[0])
            if path and path not in reached and path not in SHARED_WITH_CLIENTS:
                reached.add(path)
                todo.append(path)
    return reached


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_interactive_console_imports_no_server_code() -> None:
    starts = [path for path in in_package("admin") if str(path).startswith(INTERACTIVE)]
    reached = reached_from(starts)
    assert not [f"{path}:{line} imports {m}" for path in reached for line, m in imports_of(path, "pooler")]
    assert Path("admin/console.py") not in reached


def test_no_product_code_imports_tests() -> None:
    assert not [
        f"{p}:{line}" for name in PACKAGES for p in in_package(name) for line, _ in imports_of(p, "tests")
    ]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_is_of_one_idea(path: Path) -> None:
    assert path.stem.strip("_") not in EMPTY_NAMES, "a name that says nothing"
    assert (TREE / path).read_text().count("\n") <= LONGEST_FILE


@pytest.mark.parametrize("path", [p for p in PYTHON if p.suffix == ".py"], ids=str)
def test_functions_are_short_and_modules_introduce_themselves(path: Path) -> None:
    tree = ast.parse((TREE / path).read_text())
    long = [
        f"{path}:{node.lineno} {node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long
    assert ast.get_docstring(tree) or not tree.body, "no module docstring"


def test_the_top_level_is_what_was_agreed() -> None:
    assert {path.parts[0] for path in FILES if not path.parts[0].startswith(".")} <= TOP_LEVEL


def test_what_is_installed_is_complete() -> None:
    """A package or a data file that pyproject.toml forgets is missed only by those who install."""
    import pooler

    installed = Path(pooler.__file__ or "").resolve().parents[1]
    assert not [str(path) for path in FILES if path.parts[0] in PACKAGES and not (installed / path).exists()]


def test_every_dependency_is_declared() -> None:
    """What another package happens to bring along may be gone tomorrow."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {re.split(r"[^\w.-]", name)[0].lower().replace("_", "-") for name in wanted}
    known = packages_distributions()
    missing = set()
    for path in (p for name in PACKAGES for p in in_package(name) if p.suffix == ".py"):
        for _, module in modules_imported(path):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            names = {name.lower().replace("_", "-") for name in known.get(top, [])}
            if names and not names & declared:
                missing.add(f"{path} imports {top} of {', '.join(names)}")
    assert not missing


def test_nothing_is_left_for_later() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    left = [
        f"{path}: {word}"
        for path in SOURCES
        for word in words
        if path.parts[0] in PACKAGES and word in (TREE / path).read_text()
    ]
    assert not left


def test_the_import_reader_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above are worth what this reader sees."""
    monkeypatch.setitem(globals(), "TREE", tmp_path)
    (tmp_path / "admin").mkdir()
    source = """
import pooler.pool as p
from pooler import wire
def f():
    from pooler.relay import x
from . import views
from ..pooler import dial
"""
    (tmp_path / "admin" / "one.py").write_text(source)
    seen = [module for _, module in modules_imported(Path("admin/one.py"))]
    assert seen == ["pooler.pool", "pooler.wire", "admin.views", "pooler.dial", "pooler.relay.x"]
    assert within("pooler.stats.Snapshot", {"pooler.stats"})
    assert not within("pooler.statsmore", {"pooler.stats"})
