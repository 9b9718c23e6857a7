"""SELECT over SHOW views: an SQLite database in memory that lives for one statement.

For consoles that have no SELECT themselves, that is PgBouncer's; our own server has a SELECT of its own, with
more of PostgreSQL in it. Nothing here knows a wire: the caller hands in a `Source` that gives the columns and
rows of a view by name, and only the views a statement names are asked for. The rule: a statement may read and
do nothing else (SQLite's authorizer decides, no parser of ours), and it ends within `Limits` of time, memory
and rows.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from admin.repl.words import Kind, tokens

INT4, INT8, TEXT, NUMERIC, FLOAT8, BYTEA = 23, 20, 25, 1700, 701, 17
"""Type oids of PostgreSQL that views and results have."""

NUMBERS = frozenset({INT4, INT8, NUMERIC, FLOAT8, 21, 700})

AFFINITY = {INT4: "INTEGER", INT8: "INTEGER", NUMERIC: "NUMERIC", FLOAT8: "REAL", BYTEA: "BLOB"}
DECLARED = {"INTEGER": INT8, "NUMERIC": NUMERIC, "REAL": FLOAT8, "BLOB": BYTEA, "TEXT": TEXT}

READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
"""What the authorizer lets pass; everything else SQLite can do (write, attach, pragma, ...) it denies."""

HEAP_BYTES = 256 << 20
"""SQLite's memory over the whole process: a join that wants more fails instead of taking the host down."""

STEPS = 5_000
"""Virtual machine instructions between two looks at the clock: well under a millisecond."""


class SqlError(Exception):
    """A statement that cannot be answered; `message` and `sqlstate` are fit for the client."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Relation:
    """Columns as (name, type oid), and rows of plain values: str, int, float, bytes or None."""

    columns: tuple[tuple[str, int], ...]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one statement may take: seconds of running, and rows of answer."""

    seconds: float = 2.0
    rows: int = 200_000


Source = Callable[[str], Relation | None]
"""The view of that (lower case) name, or None when there is no such view."""

Function = tuple[int, Callable[..., Any]]
"""Number of arguments, and the callable."""

_NO_TABLE = re.compile(r"no such table: (?:main\.|temp\.)?(.+)$")


def select(
    sql: str,
    source: Source,
    params: Sequence[Any] = (),
    *,
    limits: Limits = Limits(),
    functions: Mapping[str, Function] | None = None,
    schemas: Sequence[str] = ("public", "pg_catalog", "information_schema"),
) -> Relation:
    """Answer one SELECT; `$1`, `$2`, ... take their values from `params`. Raises SqlError, nothing else."""
    sql = in_sqlite(sql)
    database = _open(functions or {}, schemas)
    try:
        bound = {str(place): value for place, value in enumerate(params, 1)}
        _load_tables(database, sql, bound, source)
        _restrict(database, limits.seconds)
        declared = _declared_types(database, sql) if not params else None
        names, rows = _run(database, sql, bound, limits.rows)
        return Relation(tuple(zip(names, _types(len(names), rows, declared), strict=True)), rows)
    except sqlite3.Error as error:
        raise _translate(error) from None
    except MemoryError:
        raise SqlError("the statement needs too much memory", "53200") from None
    finally:
        database.set_progress_handler(None, 0)
        database.close()


_SHORTHAND = re.compile(
    r"\s*show\s+([a-z_][a-z_0-9]*|\"[^\"]+\")\s+((?:where|group|having|order|limit|offset)\b.*)$", re.I | re.S
)


def from_shorthand(statement: str) -> str | None:
    """`SHOW POOLS WHERE …` (or ORDER BY, LIMIT, …) as the SELECT it stands for; None for any other."""
    found = _SHORTHAND.match(statement)
    return f"SELECT * FROM {found[1]} {found[2]}" if found else None


def in_sqlite(sql: str) -> str:
    """Two habits of PostgreSQL's that SQLite lacks: ILIKE is its LIKE, and a `::type` is not needed."""
    said = list(tokens(sql))
    kept: list[str] = []
    place = 0
    while place < len(said):
        token = said[place]
        if [one.text for one in said[place : place + 2]] == [":", ":"] and len(said) > place + 2:
            place += 3
            continue
        kept.append("LIKE" if token.kind is Kind.WORD and token.upper == "ILIKE" else token.text)
        place += 1
    return "".join(kept)


def _open(functions: Mapping[str, Function], schemas: Sequence[str]) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.execute(f"PRAGMA hard_heap_limit={HEAP_BYTES}")
    database.execute("PRAGMA temp_store=FILE")
    for schema in schemas:
        database.execute(f"ATTACH ':memory:' AS {quote(schema)}")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 16 << 20)
    database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1 << 20)
    database.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
    for name, (arguments, function) in functions.items():
        database.create_function(name, arguments, function)
    return database


def _load_tables(database: sqlite3.Connection, sql: str, bound: Mapping[str, Any], source: Source) -> None:
    """Compile the statement (without running it) until every table it names is there."""
    asked: set[str] = set()
    while True:
        try:
            database.set_authorizer(_authorize)
            database.execute("EXPLAIN " + sql, bound).close()
            return
        except sqlite3.OperationalError as error:
            missing = _NO_TABLE.match(str(error))
            if missing is None or missing[1] in asked:
                raise
            name = missing[1]
        asked.add(name)
        database.set_authorizer(None)
        schema, _, plain = name.rpartition(".")
        relation = source(plain.lower())
        if relation is None:
            raise SqlError(f'relation "{name}" does not exist', "42P01")
        _create(database, f"{quote(schema or 'main')}.{quote(plain)}", relation)


def _create(database: sqlite3.Connection, table: str, relation: Relation) -> None:
    columns = ", ".join(f"{quote(name)} {AFFINITY.get(oid, 'TEXT')}" for name, oid in relation.columns)
    database.execute(f"CREATE TABLE {table} ({columns})")
    places = ", ".join("?" * len(relation.columns))
    database.execute("BEGIN")
    database.executemany(f"INSERT INTO {table} VALUES ({places})", relation.rows)
    database.execute("COMMIT")


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _authorize(action: int, *_: str | None) -> int:
    if action in READING:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _restrict(database: sqlite3.Connection, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    database.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)


def _declared_types(database: sqlite3.Connection, sql: str) -> list[int | None] | None:
    """Types of the answer's columns as far as they are columns of views."""
    database.set_authorizer(None)
    try:
        database.execute(f"CREATE TEMP VIEW answer AS {sql}")
        found = database.execute("PRAGMA temp.table_info(answer)").fetchall()
        return [DECLARED.get(row[2]) for row in found]
    except sqlite3.Error:
        return None  # EXPLAIN and the like cannot be a view; the values tell
    finally:
        database.set_authorizer(_authorize)


def _run(
    database: sqlite3.Connection, sql: str, bound: Mapping[str, Any], most: int
) -> tuple[list[str], list[tuple[Any, ...]]]:
    cursor = database.execute(sql, bound)
    names = [column[0] for column in cursor.description or ()]
    rows = cursor.fetchmany(most + 1)
    if len(rows) > most:
        raise SqlError(f"the answer has more than {most} rows: add a LIMIT", "54000")
    return names, rows


def _types(width: int, rows: Sequence[Sequence[Any]], declared: list[int | None] | None) -> list[int]:
    """Type oids of the answer: declared ones where known, else what the first value of the column is."""
    known = declared if declared is not None and len(declared) == width else [None] * width
    return [oid if oid is not None else _type_of_values(rows, place) for place, oid in enumerate(known)]


def _type_of_values(rows: Sequence[Sequence[Any]], place: int) -> int:
    kinds = {type(row[place]) for row in rows if row[place] is not None}
    if kinds == {int}:
        return INT8
    if kinds and kinds <= {int, float}:
        return FLOAT8
    return BYTEA if kinds == {bytes} else TEXT


_STATES: tuple[tuple[str, str], ...] = (
    ("not authorized", "25006"),
    ("authorization denied", "25006"),
    ("prohibited", "25006"),
    ("no such column", "42703"),
    ("ambiguous column", "42702"),
    ("no such function", "42883"),
    ("interrupted", "57014"),
    ("one statement at a time", "42601"),
    ("bindings", "08P01"),
    ("binding", "08P01"),
)


def _translate(error: sqlite3.Error) -> SqlError:
    """SQLite's message with the SQLSTATE that PostgreSQL has for it."""
    text = str(error)
    state = next((state for part, state in _STATES if part in text), "42601")
    if state == "25006":
        return SqlError("only SELECT is possible over the views", state)
    if state == "57014":
        return SqlError("the statement took too long and was stopped", state)
    return SqlError(text, state)
