"""The house rules that a machine can check: who imports whom, how long things are, what they are called, what is
used, what is tested, and what stands at the top level. Imports are read with `ast`, so an import inside a function
counts too, and so does one for the type checker alone.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests import TREE
from tests.unit.covered import TESTED_ELSEWHERE

PACKAGES = ("pooler", "admin", "metrics")

TOP_LEVEL = {"pyproject.toml", "README.md", "pooler", "admin", "metrics", "tests"}
"""Besides names that begin with a dot."""

COMPOSITION = ("pooler/__main__.py", "pooler/commands/")
"""Where all three packages may meet."""

BELOW_ALL = {
    "pooler.stats", "pooler.readback", "pooler.places", "pooler.rounds", "pooler.outlet", "pooler.ending",
    "pooler.kernel", "pooler.lexer", "pooler.hints", "pooler.programs", "pooler.stirring",
    "pooler.values",
}  # fmt: skip
ALLOWED = {
    "metrics": BELOW_ALL,
    "admin": BELOW_ALL | {"pooler.config.whole", "pooler.wire", "pooler.net.channel", "pooler.verbs"},
}
"""What a package may import of `pooler`. `admin` and `metrics` import nothing of each other."""

INTERACTIVE = ("admin/client", "admin/repl", "admin/top")
"""Clients of the console: they share with it the tables they complete from, and no other server code."""
SHARED_WITH_CLIENTS = {Path("admin/commands.py"), Path("admin/views.py")}
OF_POOLER_FOR_CLIENTS = {
    "pooler.stats", "pooler.readback", "pooler.places", "pooler.wire", "pooler.lexer", "pooler.ending",
}  # fmt: skip
"""What is counted and shown, where a person's files are, how values are spelled, how a program ends: contracts, and no
server code."""

FLOORS: tuple[tuple[str, ...], ...] = (
    (
        *("pooler.values", "pooler.places", "pooler.aside", "pooler.ending"),
        *("pooler.outlet", "pooler.kernel", "pooler.hints"),
    ),
    ("pooler.programs",),
    ("pooler.wire", "pooler.stats", "pooler.rounds", "pooler.stirring", "pooler.lexer"),
    ("pooler.touches",),
    ("pooler.sessions",),
    ("pooler.routines",),
    ("pooler.readback",),
    ("pooler.relay",),
    ("pooler.config",),
    ("pooler.history", "pooler.log"),
    ("pooler.verbs",),
    ("pooler.net",),
    ("pooler.pools",),
    ("pooler.servers",),
    ("pooler.clients",),
    ("pooler.house",),
    ("pooler.process",),
    ("pooler.workers",),
    ("pooler.deploy",),
    ("pooler.commands",),
    ("pooler.__main__",),
)
"""From bottom to top: base modules one by one, wings whole. A module imports of its own wing, and what lies below."""

TOP = {"pooler.house.bouncer": ("pooler.commands.serve", "pooler.commands.crew", "pooler.commands.worker")}
"""What composes a wing, and the only ones above it that may know of it."""

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


@cache
def modules_imported(path: Path) -> list[tuple[int, str]]:
    """(line, dotted module) of each import in the file; `from a import b` counts as a and as a.b."""
    return list(_imports(path, ast.parse((TREE / path).read_text())))


def _imports(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    package = list(path.with_suffix("").parts[:-1])
    for node in ast.walk(tree):
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


@pytest.mark.slow
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
    assert not [
        f"{path}:{line} imports {m}"
        for path in reached
        for line, m in imports_of(path, "pooler")
        if not within(m, OF_POOLER_FOR_CLIENTS)
    ]
    assert Path("admin/console/session.py") not in reached


def test_the_two_applications_stand_on_what_every_client_needs() -> None:
    for wing, others in (("client", ("repl", "top")), ("repl", ("top",)), ("top", ("repl",))):
        paths = [path for path in in_package("admin") if str(path).startswith(f"admin/{wing}/")]
        assert paths
        found = [f"{p}:{line}" for other in others for p in paths for line, _ in imports_of(p, f"admin.{other}")]
        assert not found


@pytest.mark.slow
def test_what_makes_and_runs_a_server_for_sql_is_in_a_process_of_its_own() -> None:
    """Of it the pooler has only how it is started and spoken to."""
    outside = [path for path in in_package("admin") if not str(path).startswith("admin/sql/")]
    found = [(path, module) for path in outside for _, module in imports_of(path, "admin.sql")]
    spoken_to = {f"admin.sql.{name}" for name in ("backend", "server", "reading", "spelling")}
    assert found
    assert not [f"{path} imports {module}" for path, module in found if not within(module, spoken_to)]


@pytest.mark.slow
def test_no_product_code_imports_tests() -> None:
    assert not [
        f"{p}:{line}" for name in PACKAGES for p in in_package(name) for line, _ in imports_of(p, "tests")
    ]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_is_of_one_idea(path: Path) -> None:
    assert path.stem.strip("_") not in EMPTY_NAMES, "a name that says nothing"
    assert (TREE / path).read_text().count("\n") <= LONGEST_FILE


@pytest.mark.slow
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


CYTHON = [path for path in SOURCES if path.suffix in {".pyx", ".pxi"}]
BLOCK = re.compile(r"(?P<indent> *)(?:async def|def|cdef|cpdef)\b(?P<head>.*)")
NAME = re.compile(r"(\w+) *\(")


def cython_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, number of lines) of each function in a Cython source: a `def`, `cdef` or `cpdef` whose head
    goes on over brackets and ends with a colon, and what is indented below."""
    lines = text.splitlines()
    for first, line in enumerate(lines):
        found = BLOCK.match(line)
        name = NAME.search(found["head"]) if found else None
        if found is None or name is None or re.match(r" class |[^(]*=", found["head"]):
            continue
        last, depth = first, 0
        for place in range(first, len(lines)):
            depth += lines[place].count("(") - lines[place].count(")")
            if depth <= 0:
                last = place
                break
        if not lines[last].split("#")[0].rstrip().endswith(":"):
            continue
        deeper = len(found["indent"]) + 1
        for place in range(last + 1, len(lines)):
            if lines[place].strip() and not lines[place].startswith(" " * deeper):
                break
            last = place if lines[place].strip() else last
        yield name[1], first + 1, last - first + 1


@pytest.mark.parametrize("path", CYTHON, ids=str)
def test_functions_of_the_relay_are_short(path: Path) -> None:
    functions = list(cython_functions((TREE / path).read_text()))
    assert not [
        f"{path}:{line} {name}: {length}"
        for name, line, length in functions
        if length > LONGEST_FUNCTION
    ]


def test_the_reader_of_cython_sees_every_form() -> None:
    source = """
cdef extern from "x.h":
    int there(int a) nogil
cdef int one(self) except -1:
    return 1

    # still one
cdef class C:
    cdef int plain
    cdef ssize_t two(self, int a,
                     int b) noexcept:
        return 2
    @property
    def three(self): return 3
cdef tuple T = (call(1),
    2)
async def four():

    await x
"""
    assert list(cython_functions(source)) == [("one", 4, 4), ("two", 10, 3), ("four", 17, 3)]


# ---- floors


def floor_of(module: str) -> tuple[int, str]:
    """Where a module lies, and in which wing."""
    for height, wings in enumerate(FLOORS):
        for wing in wings:
            if module == wing or module.startswith(wing + "."):
                return height, wing
    raise AssertionError(f"{module} has no place in FLOORS")


MODULES = {module_name(path): path for name in PACKAGES for path in in_package(name) if path.suffix == ".py"}


def uses(module: str) -> set[str]:
    """The modules of ours that a module imports, but for the package itself, which says the version only."""
    found = set()
    for name in PACKAGES:
        for _, target in imports_of(MODULES[module], name):
            known = target if target in MODULES else target.rpartition(".")[0]
            if known in MODULES and known != module:
                found.add(known)
    return found - {"pooler"}


def test_every_arrow_points_down() -> None:
    wrong = []
    for module in MODULES:
        if not module.startswith("pooler."):
            continue
        height, wing = floor_of(module)
        for target in uses(module):
            if target.startswith("pooler.") and floor_of(target)[1] != wing and floor_of(target)[0] >= height:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_what_composes_is_known_to_nobody_below() -> None:
    wrong = [
        f"{module} imports {top}"
        for top, above in TOP.items()
        for module in MODULES
        if top in uses(module) and not module.startswith(above)
    ]
    assert not wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One way round for each module from which a way leads back to itself."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append(way[way.index(module) :])
        elif module not in done:
            for target in sorted(graph[module] & graph.keys()):
                walk(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_no_modules_need_each_other() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
    assert circles({module: uses(module) for module in MODULES}) == []


# ---- what is used, what is tested, what is said once


def defined(tree: ast.Module) -> Iterator[str]:
    """Names at the top level of a module that it gives itself; what is decorated may be known to its decorator."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.decorator_list:
                yield node.name
        elif isinstance(node, ast.Assign):
            yield from (n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def words(tree: ast.Module) -> Iterator[str]:
    """Names that a module makes use of; those in texts as well, by which some are looked up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


LOOKED_UP = ("admin/platform/cli/", "admin/platform/migrations/")
"""Whose functions are found by names that are put together: by the table of the CLI's commands, and by alembic."""


@pytest.mark.slow
def test_what_is_defined_is_used() -> None:
    used: set[str] = set()
    given: list[tuple[Path, str]] = []
    for path in SOURCES:
        text = (TREE / path).read_text()
        if path.suffix not in {".py", ".pyi"}:
            used.update(re.findall(r"[A-Za-z_]\w*", text))
            continue
        tree = ast.parse(text)
        used.update(words(tree))
        if path.parts[0] in PACKAGES and path.suffix == ".py" and not str(path).startswith(LOOKED_UP):
            given += [(path, name) for name in defined(tree) if not name.startswith("__")]
    assert not [f"{path}: {name}" for path, name in given if name not in used]


def mirror(path: Path) -> Path:
    return Path("tests", "unit", *path.parts[:-1], f"test_{path.stem}.py")


def test_every_module_has_its_test() -> None:
    python = [path for name in PACKAGES for path in in_package(name) if path.suffix == ".py"]
    modules = [path for path in python if path.name != "__init__.py"]
    own = {str(path) for path in modules if mirror(path) in FILES}
    assert {str(path) for path in modules} - own - set(TESTED_ELSEWHERE) == set(), "neither a test nor a row"
    assert set(TESTED_ELSEWHERE) & own == set(), "a row, and a test of its own"
    assert set(TESTED_ELSEWHERE) - set(map(str, modules)) == set(), "a row, and no module"
    assert {test for test in TESTED_ELSEWHERE.values() if Path(test) not in FILES} == set(), "no such test"


def test_a_shared_fact_is_written_down_once() -> None:
    """A text of some length that two modules give a name each is one fact in two places."""
    found: dict[object, list[str]] = {}
    for path in in_package("pooler"):
        for node in ast.parse((TREE / path).read_text()).body:
            given = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            value = given.value if isinstance(given, ast.Constant) else None
            if isinstance(value, str | bytes) and len(value) > 4:
                found.setdefault(value, []).append(f"{path}")
    found["pgbouncer"].remove("pooler/clients/pam.py")  # PAM's name for the service, by chance the admin database's
    assert {value: places for value, places in found.items() if len(places) > 1} == {}


def test_docstrings_say_what_a_thing_is() -> None:
    assert not [f"{path}" for path in in_package("pooler") if "See the " + "module" in (TREE / path).read_text()]


def test_the_top_level_is_what_was_agreed() -> None:
    assert {path.parts[0] for path in FILES if not path.parts[0].startswith(".")} <= TOP_LEVEL


def test_what_is_installed_is_complete() -> None:
    """A package or a data file that pyproject.toml forgets is missed only by those who install."""
    import pooler

    installed = Path(pooler.__file__ or "").resolve().parents[1]
    assert not [str(path) for path in FILES if path.parts[0] in PACKAGES and not (installed / path).exists()]


@pytest.mark.slow
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


ONE_DEFINITION = {
    "pgbouncer": {
        "pooler/stats.py": "the console's database",
        "pooler/config/settings.py": "job_name and syslog_ident are so by default",
        "pooler/config/whole.py": "the ini file's section",
        "pooler/clients/pam.py": "PAM's service",
        "metrics/catalog.py": "what the names of figures begin with",
    },
    "XDG_STATE_HOME": {"pooler/places.py": "where state is kept"},
    "/var/lib/pooler": {"pooler/places.py": "where root's is"},
}
"""Text that stands for a fact, and the files where it is that fact's one definition, or is another fact."""


@pytest.mark.slow
@pytest.mark.parametrize("fact", ONE_DEFINITION)
def test_a_shared_fact_has_one_definition(fact: str) -> None:
    found = {
        str(path)
        for package in PACKAGES
        for path in in_package(package)
        for node in ast.walk(ast.parse((TREE / path).read_text()))
        if isinstance(node, ast.Constant) and node.value == fact
    }
    assert found == ONE_DEFINITION[fact].keys()


def test_nothing_is_left_for_later() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    left = [
        f"{path}: {word}"
        for path in SOURCES
        for word in words
        if path.parts[0] in PACKAGES and word in (TREE / path).read_text()
    ]
    assert not left


@pytest.mark.slow
def test_the_import_reader_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above are worth what this reader sees."""
    monkeypatch.setitem(globals(), "TREE", tmp_path)
    (tmp_path / "admin").mkdir()
    source = """
import pooler.pools.verdict as p
from pooler import wire
def f():
    from pooler.relay import x
from . import views
from ..pooler.servers import dial
"""
    (tmp_path / "admin" / "one.py").write_text(source)
    seen = [module for _, module in modules_imported(Path("admin/one.py"))]
    assert seen == ["pooler.pools.verdict", "pooler.wire", "admin.views", "pooler.servers.dial", "pooler.relay.x"]
    assert within("pooler.stats.Snapshot", {"pooler.stats"})
    assert not within("pooler.statsmore", {"pooler.stats"})
