"""What faces strangers reads in proportion to what they send: each regular expression, and each reader written by hand,
is fed 64 kB of its worst. Growth is looked at, not seconds: twice the input takes about twice the steps.

Every regular expression of the product has a row here: how to feed it, or why no stranger can.
"""

from __future__ import annotations

import ast
import cProfile
import gc
import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from admin import commands
from admin.console import courtesies, cursors, queries
from admin.platform.api import ranges
from admin.platform.api.shapes import STRING, problem
from admin.platform.errors import PlatformError
from admin.platform.names import (
    valid_addon,
    valid_app,
    valid_attachment,
    valid_config_var,
    valid_credential,
    valid_pool,
)
from admin.platform.plans import plan_named
from admin.platform.urls import parse_url
from admin.sql import reading
from metrics import heroku
from metrics.drains import statsd
from metrics.web import guard, requests
from pooler import hints, lexer, wire
from pooler.clients import ldap, startup
from pooler.config import databases, hba, ini, kinds, users
from pooler.net import scram, tls
from pooler.pools.refusal import LoginError
from pooler.process import daemon
from pooler.verbs import CommandError
from tests import TREE
from tests.unit.test_structure import in_package

LARGE = 64 << 10
QUICK = 0.2
"""Seconds in which 64 kB are read anyhow: what grows in the square takes many of them."""
PATIENCE = 120
"""Seconds of processor time: beside others that work a test may take as long as it wants."""
COUNTED = 16 << 10
"""For which steps are counted, which takes long."""
REFUSALS = (ValueError, ArithmeticError, KeyError, CommandError, PlatformError, LoginError,
            RecursionError, wire.ProtocolError, hba.BadLine, databases.BadValue, scram.ScramError)  # fmt: skip

FRAGMENTS = (
    *("a", "A", "1", " ", "\t", "\n", ".", "..", "a.", "1.", "1:", "1:1", "a:", "@", "@a", "@a?", "@a/", "/", "//"),
    *("//a:", "?", "#", "[", "]", "[]", "(", ")", "{", "}", "[{", '"', '""', 'a"', "'", "''", "a'", "\\", "\\\\"),
    *('\\"', "%", "%1", "%1$", "$", "$1", "$a$", "$a", "-", "--", "- ", "+", "-+", "*", "/*", "*/", "=", "a=", "a=1;"),
    *(";", ",", "a,", "a ", "1 ", "e", "1e", "1e1", "E'", "_", "é", 'near "', "|", "^", "::", "a::a", "0x", "\x00"),
    *("md5", "password", "AM", "YYYY", "~", "\x1b[", "\u2028"),
)
ENDS = ("", "\x00")


def refused(call: Callable[[Any], object], given: Any) -> None:
    try:
        call(given)
    except REFUSALS:
        return


def seconds(call: Callable[[Any], object], given: Any) -> float:
    """Of this thread's processor time, the least of three."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        refused(call, given)
        taken.append(time.thread_time() - began)
        if taken[-1] < QUICK:
            break
    return min(taken)


def grows_straight(call: Callable[[Any], object], made: Callable[[int], Any]) -> None:
    """Quick with 64 kB; else a quarter of it takes no less than an eighth of the time."""
    whole = seconds(call, made(LARGE))
    if whole > QUICK:
        assert whole < 8 * seconds(call, made(LARGE // 4)) + QUICK, made(40)


def repeated(fragment: str, begin: str = "", end: str = "") -> Callable[[int], str]:
    return lambda size: begin + fragment * (size // len(fragment)) + end


@pytest.fixture(autouse=True)
def nothing_in_between() -> Iterator[None]:
    """No garbage is collected meanwhile; and what takes for ever fails, instead of taking for ever."""

    def overdue(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"this took more than {PATIENCE} seconds of processor time")

    before = signal.signal(signal.SIGPROF, overdue)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    gc.disable()
    yield
    gc.enable()
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


# ---- regular expressions


def module(name: str) -> Any:
    return importlib.import_module(name)


Feed = Callable[[Any], object]


def pattern(place: str, name: str, method: str = "match") -> Feed:
    """The expression itself, used as the product uses it."""
    used: Feed = getattr(getattr(module(place), name), method)
    return used


def removed(place: str, name: str) -> Feed:
    """The same, for one that is used to take something out."""
    found = getattr(module(place), name)
    return lambda text: found.sub("", text)


PATTERNS: dict[str, tuple[Feed, tuple[str, ...]] | str] = {
    # (how to feed it, beginnings that lead inside), or why nobody can
    "admin/commands.py:_COMMAND": (commands.parse, ("", "show ", '"', "kill ")),
    "admin/commands.py:_SET": (commands.parse, ("set ", "set a=", "set a='", 'set "', 'set a="')),
    "admin/console/interpreter.py:version_number": "the version is a constant of ours",
    "pooler/lexer.py:_expression": (
        lambda text: lexer._expression().match(text), ("", "'", '"', "E'", "$a", "1", "1.", "-", "a"),
    ),
    "pooler/lexer.py:_COMMENT_EDGE": (lexer.tokenize, ("/*",)),
    "pooler/lexer.py:_ESCAPE": (lexer.tokenize, ("E'",)),
    "pooler/touches.py:_HINT": (
        pattern("pooler.touches", "_HINT", "search"), ("", "set ", "set session ", "set_config('a", "set_config ("),
    ),
    "pooler/touches.py:_OWN_NAME": (pattern("pooler.touches", "_OWN_NAME", "fullmatch"), ("", "a.", "a.b", "é$")),
    "pooler/pools/encodings.py:_OTHERS": (removed("pooler.pools.encodings", "_OTHERS"), ("", "a", "-")),
    "pooler/routines.py:_RUN": (pattern("pooler.routines", "_RUN", "findall"), ("", "a", "a-")),
    "pooler/routines.py:_sql": "questions of our own",
    "pooler/sessions.py:_ESCAPED": (
        lambda text: module("pooler.sessions").unescaped(text.encode()), ("", "\\\\", "\\30"),
    ),
    "pooler/sessions.py:_call": (
        lambda text: module("pooler.sessions").asks_whose(f"select currval({text})".encode()), ("", "'s'", "'s'::text"),
    ),
    "pooler/sessions.py:_SPECIAL": (lambda text: module("pooler.sessions").given(b"a", text.encode()), ("", "\\", "é")),
    "admin/platform/api/description.py:_operation": "paths of our own endpoints",
    "admin/platform/api/description.py:_parameters": "paths of our own endpoints",
    "admin/platform/api/ranges.py:SHAPE": (
        pattern("admin.platform.api.ranges", "SHAPE"), ("", "id ", "id ]", "id ..;"),
    ),
    "admin/platform/api/ranges.py:parse_range": (
        lambda text: ranges.parse_range(text[:1000], ["id"]), ("", "id ..; ", "id ..; max="),
    ),
    "admin/platform/api/shapes.py:_string_problem": (
        lambda text: problem({**STRING, "maxLength": len(text)}, text), ("",),
    ),
    "admin/platform/names.py:APP": (valid_app, ("", "a")),
    "admin/platform/names.py:ADDON": (valid_addon, ("", "a")),
    "admin/platform/names.py:ATTACHMENT": (valid_attachment, ("", "A")),
    "admin/platform/names.py:CONFIG_VAR": (valid_config_var, ("", "A")),
    "admin/platform/names.py:CREDENTIAL": (valid_credential, ("",)),
    "admin/platform/names.py:NAMED_POOL": (valid_pool, ("", "a")),
    "admin/platform/plans.py:ADVANCED": (plan_named, ("", "advanced", "performance-")),
    "admin/platform/urls.py:HEAD": (pattern("admin.platform.urls", "HEAD"), ("", "postgres://", "postgres://u:")),
    "admin/platform/urls.py:PLACE": (
        pattern("admin.platform.urls", "PLACE"), ("", "[", "h", "h:5", "h/", "h/d?", "[::1]:5/d?"),
    ),
    "metrics/heroku.py:_PLAIN": (lambda text: heroku._PLAIN.match(text), ("", "a")),
    "metrics/web/page/__init__.py:_hashes": "the page is a file of ours",
    "metrics/web/requests.py:_HEAD_END": (lambda text: requests._HEAD_END.search(text.encode()), ("",)),
    "metrics/drains/statsd.py:clean": (statsd.clean, ("", "a")),
    "pooler/process/daemon.py:PID": (lambda text: daemon.PID.fullmatch(text.encode()), ("", "1")),
    "pooler/commands/embedded.py:_set_passwords": "what a PostgreSQL of our own says of two statements of ours",
    "pooler/commands/embedded.py:_raise_unless_port_taken": "what a PostgreSQL of our own says at its start",
    "pooler/config/databases.py:_ANY_KEY": (databases.shown, ("", "host=", "a ")),
    "pooler/config/ini.py:_INCLUDE": (ini.parse, ("%include ", "%include a")),
    "pooler/config/ini.py:_KEY": (ini.parse, ("", '"', "a")),
    "pooler/config/kinds.py:_INT": (pattern("pooler.config.kinds", "_INT", "fullmatch"), ("", "0x", "-")),
    "pooler/config/kinds.py:_TIME": (pattern("pooler.config.kinds", "_TIME", "fullmatch"), ("", "1", "1.")),
    "pooler/config/kinds.py:_NO_NUMBER": (pattern("pooler.config.kinds", "_NO_NUMBER", "fullmatch"), ("", "+")),
    "pooler/config/kinds.py:_ATOI": (pattern("pooler.config.kinds", "_ATOI"), ("", "+")),
    "pooler/config/kinds.py:_http_address": (kinds._http_address, ("", "a:", "[")),
    "pooler/config/kinds.py:_PASSWORD": (kinds.masked, ("",)),
    "pooler/config/kinds.py:_USERINFO": (kinds.masked, ("", "//", "//a:")),
    "pooler/clients/ldap.py:_COMMAS": (ldap.parse_options, ("", "ldapport=", '"')),
    "pooler/deploy/completion.py:FILES": "flags of our own commands",
    "pooler/deploy/completion.py:_MARKS": "flags of our own commands",
    "pooler/hints.py:_HEAD": (hints.escape_hint, ("", "a")),
    "pooler/hints.py:_ESCAPE": (hints.escape_hint, ("a://", "a://b:c")),
    "pooler/log.py:_CONNECTION": (pattern("pooler.log", "_CONNECTION"), ("", "C-0: ", "C-0: a/", "C-0: a/b@")),
    "pooler/log.py:_CONTROL": (removed("pooler.log", "_CONTROL"), ("",)),
    "pooler/net/scram.py:_PRINTABLE": (
        lambda text: pattern("pooler.net.scram", "_PRINTABLE", "fullmatch")(text.encode()), ("", "a"),
    ),
    "pooler/net/tls.py:protocols": (tls.protocols, ("", "all:", "tlsv1.3,")),
    "pooler/config/users.py:_SCRAM": (users.parse_scram, ("", "SCRAM-SHA-256$1:", "SCRAM-SHA-256$4096:aa$")),
    "pooler/config/users.py:_MD5": (pattern("pooler.config.users", "_MD5", "fullmatch"), ("", "md5")),
    "pooler/config/users.py:_LINE": (users.parse_users, ('"', '"a" "', '"a"')),
}  # fmt: skip

THE_PERSONS_OWN = ("admin/client/", "admin/repl/", "admin/top/", "admin/platform/cli/")
"""Programs of whoever calls them: what they read is that person's, and nobody else waits for them."""

FUNCTIONS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


def expressions(path: Path) -> Iterator[str]:
    """`file:name` of each regular expression in a file: the name it is given, or of the function it stands in."""
    tree = ast.parse((TREE / path).read_text())
    for top in tree.body:
        for node in _named(top):
            yield f"{path}:{node}"


def _named(top: ast.stmt, scope: str = "") -> Iterator[str]:
    name = scope
    if isinstance(top, ast.Assign | ast.AnnAssign) and not scope:
        target = top.targets[0] if isinstance(top, ast.Assign) else top.target
        name = ast.unparse(target)
    if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        name = top.name
    for node in ast.iter_child_nodes(top):
        yield from _named(node, name)  # type: ignore[arg-type]
    called = top.func if isinstance(top, ast.Call) else None
    if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "re" and called.attr in FUNCTIONS:
        yield name


def test_every_regular_expression_has_a_row() -> None:
    found = {
        key
        for package in ("pooler", "admin", "metrics")
        for path in in_package(package)
        if not str(path).startswith(THE_PERSONS_OWN)
        for key in expressions(path)
    }
    assert found == set(PATTERNS)


@pytest.mark.slow
def test_nothing_is_imported_from_re_by_name() -> None:
    """The test above sees `re.something` only."""
    for path in in_package("pooler") + in_package("admin") + in_package("metrics"):
        for node in ast.walk(ast.parse((TREE / path).read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "re"), path
            if isinstance(node, ast.Import):
                assert all(alias.name != "re" or alias.asname is None for alias in node.names), path


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, row in PATTERNS.items() if not isinstance(row, str)])
def test_a_regular_expression_takes_no_longer_than_it_has_to(key: str) -> None:
    row = PATTERNS[key]
    assert not isinstance(row, str)
    call, begins = row
    for begin in begins:
        for fragment in FRAGMENTS:
            for end in ENDS:
                grows_straight(call, repeated(fragment, begin, end))


@pytest.mark.slow
def test_the_measure_sees_what_grows_in_the_square() -> None:
    """The Range header as it was: `[a-z_]+` and what follows may share the letters in as many ways as there are."""
    import re

    old = re.compile(r"\s*([a-z_]+)\s*(\])?([^\]\[;,\s]*?)\.\.([^\]\[;,\s]*)(\[)?\s*(?:;(.*))?\Z")
    with pytest.raises(AssertionError):
        grows_straight(lambda text: old.match(text[: len(text) // 4]), repeated("a"))


# ---- readers written by hand


def steps(call: Callable[[Any], object], given: Any) -> int:
    """Lines of Python that are executed."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        refused(call, given)
    finally:
        sys.settrace(before)
    return count


def calls(call: Callable[[Any], object], given: Any) -> int:
    """Calls that are made, built-in functions' included: where there are many, and lines would take too long."""
    profile = cProfile.Profile()
    profile.runcall(refused, call, given)
    return sum(entry.callcount for entry in profile.getstats())


def all_of(*fragments: str, begin: str = "", end: str = "") -> tuple[Callable[[int], str], ...]:
    return tuple(repeated(fragment, begin, end) for fragment in fragments)


def read_parameters(options: str) -> None:
    list(startup.split_options(options))


def courtesy(text: str) -> None:
    courtesies.answer(lexer.tokenize("set " + text), dict, dict)


def query(text: str) -> None:
    reading.read(text, lexer.tokenize(text), {"pools": ("database", "user")})


def copied(text: str) -> None:
    words = f"copy pools ({text}) to stdout"
    reading.read(words, lexer.tokenize(words), {"pools": ("database", "user")})


def pairs(size: int) -> bytes:
    return wire.startup_message({f"a{number}": "b" for number in range(size // 9)})[8:]


def values(size: int) -> bytes:
    return wire.bind("", "", [None] * min(size // 4, 0x7FFF))[5:]


def declared(text: str) -> None:
    cursors.declaration("declare c cursor for " + text)


READERS: dict[str, tuple[Feed, tuple[Callable[[int], Any], ...]]] = {
    "lexer": (
        lexer.split,
        all_of("+", "-", "- ", "a", "a ", "a;", "'a'", '""', "/*", "/**/", "$a$", "$1", "1.", "("),
    ),
    "courtesies": (courtesy, all_of("a.", "a ", "session ", "'a',")),
    "SQL": (query, all_of("user ", "user(", ".user", "pools ", ",", begin="select 1 from pools where ")),
    "SQL, COPY": (copied, all_of("user ", "a,", "(")),
    "cursors": (declared, all_of("declare c cursor for ", "a ")),
    "ini": (
        ini.parse,
        all_of("[a]", "[", "a=1\n", "\n", ";", '""', "%include /nowhere\n", "[a] x=1\n", "a"),
    ),
    "HBA": (
        hba.parse_hba,
        all_of("host a a all md5\n", "a,", '"a"', '"', "#", "local all all md5\n", "host a,a a 1.2.3.4/8 md5\n", "@x,"),
    ),
    "ident": (lambda text: hba.parse_ident(text, "", []), all_of("m s u\n", '"', "a ")),
    "auth_file": (users.parse_users, all_of('"u" "p"\n', '"', ";\n")),
    "connection string": (databases.pairs, all_of("a=b ", "a='b' ", "a=''''", "a", " ", "'")),
    "options": (read_parameters, all_of("-c a=b ", "--a-b=c ", "\\ ", "-ca=b\\\\ ", " ")),
    "startup": (wire.parse_startup, (pairs, lambda size: b"\0\3\0\0" + b"\0" * size)),
    "bind": (wire.read_bind, (values,)),
    "error": (wire.error_fields, (lambda size: b"Mx\0" * (size // 3), lambda size: b"M" * size)),
    "SCRAM": (
        lambda data: scram.ClientExchange().take(data),
        (lambda size: b"r=a," * (size // 4), lambda size: b"r=" + b"a" * size, lambda size: b"," * size),
    ),
    "Range": (lambda text: ranges.parse_range(text, ["id"]), all_of("a", ";", "..", "max=1,", begin="id ..;")),
    "URL": (parse_url, all_of("@a?", "@", "@a/", "#@a?", begin="postgres://u:", end="#")),
    "Host": (guard.is_own, all_of("1.", "1:", "a.", "[")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_steps_in_proportion(name: str) -> None:
    call, texts = READERS[name]
    for made in texts:
        half, whole = steps(call, made(COUNTED // 2)), steps(call, made(COUNTED))
        assert whole <= 2.2 * half + 200, made(40)
        grows_straight(call, made)


def nested(inner: str, before: str, after: str, depth: int = 50) -> str:
    return before * depth + inner + after * depth


STATEMENTS: dict[str, Callable[[int], str]] = {
    "sums": repeated("+1", "select 1"),
    "signs": repeated("- ", "select 1 ", "1"),
    "names": repeated(".a", "select a"),
    "strings": repeated("||'a'", "select 'a'"),
    "LIKE and ESCAPE": repeated(" like 'a' and 1", "select 1", " escape 'x'"),
    "conditions": repeated(" and cl_active between 1 and 2", "select 1 from pools where 1"),
    "parameters": repeated("$1,", "select 1 where 1 in (", "$1)"),
    "compared parameters": repeated(" = $1", "select 1"),
    "ends": repeated(" = $1 end", "select 1"),
    "cases": repeated(" case when a then 'x' else 1 end,", "select", " 1"),
    "aliases": repeated("'a' b,", "select ", "1"),
    "casts": repeated(",'1'::int", "select 1"),
    "unions": repeated(" union all select a", "select 1"),
    "sub-selects": repeated(",(select a from pools)", "select 1"),
    "joins": repeated(" join pools", "select * from pools"),
    "tables": repeated(",(select * from pools) b", "select * from pools a"),
    "words": repeated("select ", "select "),
    "windows": repeated(",sum(a) over (order by a)", "select 1"),
    "whole rows": repeated(",row_to_json(pools)", "select 1", " from pools"),
    "arrays": repeated(",array[1,2]", "select 1"),
    "limits": repeated(" limit 1 offset 2", "select 1"),
    "deep sums": lambda size: nested("1" + "+1" * (size // 4), "select (1 + 'a' || (", "))", 25),
    "deep selects": lambda size: nested("pools" + " join pools" * (size // 20), "select * from (select * from ", ") a"),
    "deep rows": lambda size: nested("select " + "a," * (size // 4) + "a", "select * from (", ") b"),
    "deep cases": lambda size: nested("1" + "+1" * (size // 4), "select case when 'x' then ", " end"),
}  # fmt: skip
TOKENS = 4_000
"""Of the longer text: more than twice as many are refused before they are looked at."""


@pytest.mark.slow
@pytest.mark.parametrize("what", STATEMENTS)
def test_a_statement_is_read_in_proportion(what: str) -> None:
    made = STATEMENTS[what]
    size = next(size for size in range(2_000, 200_000, 500) if len(lexer.tokenize(made(size))) >= TOKENS)
    half, whole = (calls(query, made(part)) for part in (size // 2, size))
    assert whole <= 2.2 * half + 2_000
    assert whole < 400 * TOKENS


@pytest.mark.slow
def test_a_statement_of_more_words_is_refused_at_once() -> None:
    for fragment in FRAGMENTS:
        text = "select " + fragment * ((LARGE - 7) // len(fragment))
        assert calls(lambda given: lexer.split(given, queries.MOST_TOKENS), text) < 40 * LARGE


def test_the_steps_see_what_grows_in_the_square() -> None:
    def operators(text: str) -> None:
        while text:
            kept = text
            while len(kept) > 1 and kept[-1] == "+":
                kept = kept[:-1]
            text = text[len(kept) :]

    assert steps(operators, "+" * 400) > 3 * steps(operators, "+" * 200)


@pytest.mark.slow
def test_whatever_is_split_into_words_is_split_in_proportion() -> None:
    for fragment in FRAGMENTS:
        made = repeated(fragment)
        assert calls(lexer.tokenize, made(4_000)) <= 2.2 * calls(lexer.tokenize, made(2_000)) + 200, fragment


def test_settings_are_read_in_proportion() -> None:
    """A file may be as large as 32 MB: all of it, through the configuration's own reader."""
    from pooler.config.whole import parse

    def made(size: int) -> str:
        return "[pgbouncer]\n[databases]\n" + "".join(f"d{number} = host=h\n" for number in range(size // 16))

    assert calls(parse, made(LARGE)) <= 2.2 * calls(parse, made(LARGE // 2)) + 1_000
