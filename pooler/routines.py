"""What a database's own code (functions, triggers, views, defaults, policies) may leave behind in the session of
whoever calls it: asked of the server, and told as names to be watched for in the texts of its clients.

Rows in, SQL and names out; no I/O, no clock. Three questions: whether anything has changed (`changes`), the code that
may leave something (`sources`), and what calls that, by the server's own books (pg_depend) and, where those are silent,
by the name in a body (`callers`). The rule: what is said here is where to look (`touches`); so a name that may mean
something else costs a look. Nothing that a client may have put in the way is called, and nothing depends on what it has
set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from hashlib import blake2b

from pooler.sessions import Row, unescaped
from pooler.touches import Effect, Effects, Held, Touch, judge_body
from pooler.values import dataclass

LONGEST_SOURCE = 50_000
"""Characters of a body that are read; a longer one is taken for anything."""
MOST_NAMES = 2_000
"""More are not watched for: everything is looked at."""
NAMELESS = {"2605": "a cast", "2617": "an operator", "2616": "an operator class", "2603": "an operator class"}
"""What calls a function without a name in the text."""
EVENT_TRIGGER, FUNCTION = "3466", "1255"
_DDL = ("create", "alter", "drop", "comment", "grant", "revoke", "security", "reindex", "refresh", "import")
_RUNNERS = ("crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby", "xpath_table", "set_limit")
"""Functions in C that come with PostgreSQL and carry out a text, or set something."""
_LANGUAGES = {
    "plpython3u": "plpy",
    "plperl": "spi_",
    "plperlu": "spi_",
    "pltcl": "spi_",
    "pltclu": "spi_",
    "plv8": "plv8.",
}
"""By what a body in another language speaks to the server; one of a language that is not here may do anything."""
_SUSPICIOUS = (
    r"set_config|advisory|\mtemp|\mpg_temp|\mlisten\M|\mhold\M|\mexecute\M|\mdiscard\M|\mload\M|\mcall\M|\mreset\M"
    r'|\mprepare\M|deallocate|\mdo\M|u&"|_to_xml|ts_stat|ts_rewrite|pg_settings|currval|lastval|setval|\mrestart\M'
    r"|(^|;|>>|\*/|\n|\r|\mbegin|\mthen|\melse|\mloop)\s*set\M"
)
_CATALOGS = (
    *("pg_proc", "pg_trigger", "pg_rewrite", "pg_attrdef", "pg_constraint", "pg_policy", "pg_event_trigger"),
    *("pg_operator", "pg_cast", "pg_class", "pg_type", "pg_inherits"),
)
_FIRST_OWN = 16384
"""Numbers below are PostgreSQL's own (FirstNormalObjectId)."""


def _sql(text: str) -> bytes:
    """`{=}` and the like: PostgreSQL's own operators; `{oid}` and the like its types. (CASE x WHEN y looks for = by the
    path, which is its session's last client's: CASE WHEN x {=} y does not.)"""
    text = re.sub(r"\{([^\w{}]+)\}", r"OPERATOR(pg_catalog.\1)", text)
    return re.sub(r"\{(\w+)\}", r"pg_catalog.\1", text).encode()


def _text(expression: str) -> str:
    """Its bytes, whatever client_encoding says: UTF-8, where the server knows what it has."""
    encoding = "CASE WHEN {getdatabaseencoding}() {=} 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END"
    return f"{{encode}}({{convert_to}}({expression}, {encoding}), 'escape')"


def _pattern(pattern: str) -> str:
    return "E'" + pattern.replace("\\", "\\\\") + "'"


_OWN = f"{{>=}} {_FIRST_OWN}::{{oid}}"
_COUNTED = "{count}(*)::{text} {||} ',' {||} coalesce({sum}(xmin::{text}::{int8}), 0)::{text}"
_CHANGES = (
    "SELECT 'changes', NULL, NULL, {string_agg}(c, ' ') FROM ("
    + " UNION ALL ".join(
        f"SELECT {_COUNTED} FROM {{{name}}}" + ("" if name == "pg_inherits" else f" WHERE oid {_OWN}")
        for name in _CATALOGS
    )
    + ") AS counted(c)"
)
_CALLS = (
    "(SELECT ':(funcid (' {||} {string_agg}(oid::{text}, '|') {||} ')|relid ' {||} "
    "{to_regclass}('pg_catalog.pg_settings')::{oid}::{text} {||} ') ' FROM {pg_proc} WHERE oid {<} "
    f"{_FIRST_OWN}::{{oid}} AND proname {{~}} '^(set_config$|(query|table|schema|database)_to_xml|ts_stat$|ts_rewrite$|"
    "currval$|lastval$|setval$|pg_(try_)?advisory_(un)?lock)')"
)
_TREES = (
    (2618, "pg_rewrite", "ev_action", "{pg_get_ruledef}(t.oid)"),
    (2604, "pg_attrdef", "adbin", "{pg_get_expr}(adbin, adrelid)"),
    (2606, "pg_constraint", "conbin", "{pg_get_constraintdef}(t.oid)"),
    (2620, "pg_trigger", "tgqual", "{pg_get_triggerdef}(t.oid)"),
    (3256, "pg_policy", "polqual", "{pg_get_expr}(polqual, polrelid)"),
    (3256, "pg_policy", "polwithcheck", "{pg_get_expr}(polwithcheck, polrelid)"),
)
"""Expressions that the server keeps, and how it writes them."""
_LONG = f"{{left}}(source, {LONGEST_SOURCE + 1})"
_SOURCES = (
    "WITH own AS (SELECT p.oid, p.proname, l.lanname, CASE WHEN l.lanname {=} 'sql' AND p.prosrc {=} '' "
    "THEN {pg_get_functiondef}(p.oid) ELSE p.prosrc END AS source FROM {pg_proc} p JOIN {pg_language} l "
    "ON l.oid {=} p.prolang WHERE p.oid " + _OWN + " AND l.lanname {<>} 'internal') "
    "SELECT '1255', oid::{text}, lanname::{text}, " + _text(_LONG) + " FROM own WHERE CASE "
    "WHEN lanname {=} 'c' THEN proname::{text} {=} ANY (ARRAY[" + ",".join(f"'{name}'" for name in _RUNNERS) + "]) "
    "WHEN lanname {=} 'sql' OR lanname {=} 'plpgsql' THEN source {~*} " + _pattern(_SUSPICIOUS) + " ELSE true END"
    + "".join(
        f" UNION ALL SELECT '{number}', t.oid::{{text}}, 'sql', {_text(written)} FROM {{{name}}} t "
        f"WHERE t.oid {_OWN} AND {tree}::{{text}} {{~}} {_CALLS}"
        for number, name, tree, written in _TREES
    )
    + " UNION ALL " + _CHANGES
)  # fmt: skip


_ALONE = "SET LOCAL statement_timeout = '10s'; SET LOCAL jit = off; "
"""For one question, which is a transaction: whatever its session's last client has set."""


def changes() -> bytes:
    """Its one row tells of a change by being another."""
    return _sql(_ALONE + _CHANGES)


def sources() -> bytes:
    """Rows (class, number, language, source), and that of `changes`."""
    return _sql(_ALONE + _SOURCES)


_NAME = (
    "CASE WHEN hit.class {=} 1255::{oid} THEN (SELECT proname::{text} FROM {pg_proc} WHERE oid {=} hit.obj) "
    "WHEN hit.class {=} 1259::{oid} THEN (SELECT relname::{text} FROM {pg_class} WHERE oid {=} hit.obj) "
    "WHEN hit.class {=} 1247::{oid} THEN (SELECT typname::{text} FROM {pg_type} WHERE oid {=} hit.obj) END"
)
_STEPS = (
    # What the server's books say of what needs it; of a relation only rules of views and functions whose body it reads.
    "SELECT d.classid, d.objid, hit.w FROM {pg_depend} d "
    "WHERE d.refclassid {=} hit.class AND d.refobjid {=} hit.obj AND CASE "
    "WHEN hit.class {=} 1259::{oid} THEN d.classid {=} 2618::{oid} OR d.classid {=} 1255::{oid} "
    "WHEN hit.class {=} 1247::{oid} "
    "THEN d.classid {=} 1259::{oid} OR d.classid {=} 1255::{oid} OR d.classid {=} 1247::{oid} "
    "ELSE hit.class {=} 1255::{oid} OR hit.class {=} 2617::{oid} END",
    "SELECT 1259::{oid}, ev_class, hit.w OR ev_type {<>} '1' FROM {pg_rewrite} "
    "WHERE hit.class {=} 2618::{oid} AND oid {=} hit.obj",
    "SELECT 1259::{oid}, adrelid, true FROM {pg_attrdef} WHERE hit.class {=} 2604::{oid} AND oid {=} hit.obj",
    "SELECT 1259::{oid}, tgrelid, true FROM {pg_trigger} WHERE hit.class {=} 2620::{oid} AND oid {=} hit.obj",
    "SELECT 1259::{oid}, conrelid, true FROM {pg_constraint} WHERE hit.class {=} 2606::{oid} AND oid {=} hit.obj",
    "SELECT 1247::{oid}, contypid, false FROM {pg_constraint} WHERE hit.class {=} 2606::{oid} AND oid {=} hit.obj",
    "SELECT 1259::{oid}, polrelid, false FROM {pg_policy} WHERE hit.class {=} 3256::{oid} AND oid {=} hit.obj",
    "SELECT 1259::{oid}, indrelid, false FROM {pg_index} WHERE hit.class {=} 1259::{oid} AND indexrelid {=} hit.obj",
    "SELECT 1259::{oid}, inhparent, hit.w FROM {pg_inherits} WHERE hit.class {=} 1259::{oid} AND inhrelid {=} hit.obj",
    "SELECT 1259::{oid}, confrelid, true FROM {pg_constraint} "
    "WHERE hit.class {=} 1259::{oid} AND conrelid {=} hit.obj AND confrelid {<>} 0::{oid}",
    # Bodies that are texts.
    "SELECT 1255::{oid}, b.oid, false FROM (SELECT {lower}(" + _NAME + ")) AS called(name), bodies b "
    "WHERE {strpos}(b.body, name) {>} 0 AND (name {~} " + _pattern(r"\W") + " OR b.body {~} "
    "(" + _pattern(r"\m") + " {||} name {||} " + _pattern(r"\M") + ")) AND (b.writes OR NOT hit.w)",
)  # fmt: skip
_BODIES = (
    "SELECT oid, {lower}(prosrc), prosrc {~*} " + _pattern(r"\m(insert|update|delete|merge|copy|truncate)\M")
    + " FROM {pg_proc} WHERE oid " + _OWN + " AND prolang {<>} 12::{oid} AND prolang {<>} 13::{oid}"
)  # fmt: skip


def callers(seeds: Mapping[tuple[str, str], int]) -> bytes:
    """Rows (class, name, root, whether only a text that writes calls it) of the `seeds`, (class, number) -> root, and
    of all that calls them."""
    values = ",".join(f"({root}, {kind}::{{oid}}, {number}::{{oid}})" for (kind, number), root in seeds.items())
    return _sql(
        _ALONE + "WITH RECURSIVE bodies(oid, body, writes) AS MATERIALIZED (" + _BODIES
        + "), hit(root, class, obj, w) AS (SELECT root, class, obj, false FROM (VALUES " + values
        + ") AS seeds(root, class, obj) UNION SELECT hit.root, n.class, n.obj, n.w FROM hit CROSS JOIN LATERAL ("
        + " UNION ALL ".join(_STEPS)
        + ") AS n(class, obj, w)) SELECT DISTINCT class::{text}, " + _text(_NAME)
        + f", root::{{text}}, w::{{text}} FROM hit LIMIT {MOST_NAMES + 1}"
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Code:
    """What is known of a database's code. `obstacle`: why everything is to be looked at; empty where names tell."""

    effects: Effects
    obstacle: str = ""


NOTHING = Code({})


def judge_source(language: str, source: str) -> Touch | None:
    """What a body may leave behind."""
    if language in ("sql", "plpgsql") and len(source) <= LONGEST_SOURCE:
        return judge_body(source)
    marker = _LANGUAGES.get(language)
    if marker is not None and marker not in source and len(source) <= LONGEST_SOURCE:
        return None
    return Touch(Held.UNSEEN, Held.UNSEEN, "")


Judged = dict[tuple[bytes, bytes], Touch | None]
"""By language and source, as a digest."""


def read_sources(
    rows: Sequence[Row], before: Judged, pace: Callable[[], None]
) -> tuple[bytes, dict[tuple[str, str], int], list[Touch], Judged]:
    """Of the answer to `sources`: the row of `changes`; the seeds as `callers` takes them; the Touch of each root; what
    was judged, `before` or now. `pace` is called behind each."""
    judged: Judged = {}
    mark, seeds, roots = b"", {}, {}  # type: tuple[bytes, dict[tuple[str, str], int], dict[Touch, int]]
    for kind, number, language, source in rows:
        if kind == b"changes":
            mark = source or b""
        elif kind is not None and number is not None and language is not None and source is not None:
            key = language, blake2b(source).digest()
            if key in before:
                judged[key] = before[key]
            elif key not in judged:
                judged[key] = judge_source(language.decode(), unescaped(source).decode("utf-8", "replace"))
                pace()
            touch = judged[key]
            if touch is not None:
                seeds[kind.decode(), number.decode()] = roots.setdefault(touch, len(roots))
    return mark, seeds, list(roots), judged


def read_callers(rows: Sequence[Row], roots: Sequence[Touch]) -> Code:
    """Of the answer to `callers`."""
    if len(rows) > MOST_NAMES:
        return Code({}, "more names than are watched for")
    effects: defaultdict[str, list[Effect]] = defaultdict(list)
    for kind, name, root, written in rows:
        number, touch = (kind or b"").decode(), roots[int(root or 0)]
        if number in NAMELESS:
            return Code({}, f"{NAMELESS[number]} calls code that may leave something")
        called = unescaped(name).decode("utf-8", "replace").lower() if name is not None else ""
        if called and not watched(called):
            return Code({}, f"a name that cannot be watched for, {called}")
        for word in _DDL if number == EVENT_TRIGGER else (called,) if called else ():
            effects[word].append(Effect(touch, written == b"true", number == FUNCTION))
    return Code(dict(effects))


_RUN = re.compile(r"[A-Za-z0-9_$]+")


def watched(name: str) -> bytes:
    """The part of a name that is looked for in a text: its longest run of letters in ASCII."""
    return max(_RUN.findall(name), key=len, default="").lower().encode()


def patterns(effects: Effects) -> Iterator[tuple[bytes, bool]]:
    """What is looked for, and whether only in a text that writes."""
    for name, called in effects.items():
        yield watched(name), all(effect.written for effect in called)


class Step(Enum):
    """What is asked next."""

    CHANGES = auto()
    SOURCES = auto()
    CALLERS = auto()


class Inquiry:
    """What is asked about one database, and what is known of it. `current`: nothing has been made since, as far as is
    known."""

    def __init__(self) -> None:
        self.code = NOTHING
        self.current = False
        self.question: bytes | None = None
        """What is being asked."""
        self.asked = self.finished = float("-inf")
        """When it was asked; when the last one came to an end."""
        self.failing = False
        self._step = Step.SOURCES
        self._mark = b""
        self._judged: Judged = {}
        self._found: tuple[bytes, list[Touch]] = (b"", [])
        self._made = self._made_at_begin = 0

    def made(self) -> None:
        """There may be other code now."""
        self.current = False
        self._made += 1

    def begin(self, now: float) -> bytes:
        """The first question: whether anything has changed, if it is known what there was."""
        self._made_at_begin = self._made
        known = bool(self._mark)
        return self._ask(Step.CHANGES if known else Step.SOURCES, changes() if known else sources(), now)

    def _ask(self, step: Step, question: bytes, now: float) -> bytes:
        self._step, self.question, self.asked = step, question, now
        return question

    def answered(self, rows: Sequence[Row], now: float, pace: Callable[[], None]) -> bytes | None:
        """Goes on with the next question, or has come to an end: None. `pace` is called in long work."""
        match self._step:
            case Step.CHANGES:
                if rows[0][3] != self._mark:
                    return self._ask(Step.SOURCES, sources(), now)
            case Step.SOURCES:
                mark, seeds, roots, self._judged = read_sources(rows, self._judged, pace)
                self._found = mark, roots
                if seeds:
                    return self._ask(Step.CALLERS, callers(seeds), now)
                self._mark, self.code = mark, NOTHING
            case Step.CALLERS:
                self._mark, roots = self._found
                self.code = read_callers(rows, roots)
        self._end(now)
        self.failing = False
        self.current = self._made == self._made_at_begin
        return None

    def failed(self, why: str, now: float) -> None:
        """It cannot be told: everything is looked at."""
        self._mark, self.code, self.failing = b"", Code({}, why), True
        self._end(now)

    def _end(self, now: float) -> None:
        self.question, self.finished = None, now
