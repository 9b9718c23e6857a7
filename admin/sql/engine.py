"""One statement in SQLite: a database in memory that is filled, asked once, and forgotten.

Knows SQLite and nothing of views or sessions. The rule: a statement may read and do nothing else (SQLite's
authorizer decides), and it ends within bounds of time and memory, whatever it says. Calls may come from any
thread, one at a time.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from admin.fieldtypes import BOOL, BYTEA, CHAR, FLOAT8, INT4, INT8, JSON, NAME, NUMERIC, OID, TEXT, TIMESTAMPTZ
from admin.sql import aggregates
from admin.sql.functions import Function, FunctionError
from admin.sql.rewrite import bracketed
from pooler.verbs import CommandError

SECONDS = 3.0
"""How long a statement may run, in all."""
HEAP_BYTES = 192 << 20
"""SQLite's memory over the whole process."""
LONGEST_VALUE = 8 << 20
STEPS = 10_000
"""Virtual machine instructions between two looks at the clock: about a tenth of a millisecond."""
BATCH_ROWS, BATCH_BYTES = 64, 256 << 10

DECLARED = {
    INT4: "int4", INT8: "int8", OID: "oid_int", BOOL: "bool_int", TEXT: "text", NAME: "name_text", CHAR: "char_text",
    JSON: "json_text", NUMERIC: "numeric", FLOAT8: "float8", BYTEA: "bytea_blob", TIMESTAMPTZ: "timestamptz_real",
}  # fmt: skip
"""Types as columns declare them: names SQLite finds the right affinity in, and this module the oid again."""
OIDS = {name: oid for oid, name in DECLARED.items()}

READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})

Row = Sequence[Any]


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and second in FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY


FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})


class Engine:
    """See the module. Every method raises CommandError and nothing else."""

    def __init__(self, functions: Iterable[Function], seconds: float = SECONDS) -> None:
        self._left = seconds
        self._deadline = 0.0
        self._stopped = False
        self._failure: FunctionError | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._database.execute(f"PRAGMA hard_heap_limit={HEAP_BYTES}")
        self._database.execute("PRAGMA temp_store=MEMORY")
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        self._database.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 300)
        self._database.setlimit(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50)
        for function in functions:
            self._database.create_function(function.name, function.arguments, self._caught(function.call))
        self._database.execute("BEGIN")  # never ended: each INSERT would be a transaction of its own
        self._database.create_aggregate(aggregates.NAME, -1, self._gather())
        self._database.set_progress_handler(self._over, STEPS)

    def _caught(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """SQLite says only that a function failed; what it said is kept here."""

        def caught(*values: Any) -> Any:
            try:
                return call(*values)
            except FunctionError as error:
                self._failure = error
                raise

        return caught

    def _gather(self) -> Callable[[], Any]:
        engine = self

        class Caught(aggregates.Gather):
            def step(self, *given: Any) -> None:
                engine._caught(super().step)(*given)

            def finalize(self) -> str | None:
                text: str | None = engine._caught(super().finalize)()
                return text

        return Caught

    # ---- tables

    def create(self, name: str, columns: Iterable[tuple[str, int]]) -> None:
        declared = ", ".join(f"{bracketed(column)} {DECLARED.get(oid, 'text')}" for column, oid in columns)
        self._do(lambda: self._database.execute(f"CREATE TABLE {bracketed(name)} ({declared})"))

    def fill(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Rows that have values for some of the table's columns."""
        places = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {bracketed(name)} ({', '.join(map(bracketed, columns))}) VALUES ({places})"
        try:
            self._do(lambda: self._database.executemany(insert, rows))
        except CommandError:
            self._do(lambda: self._database.executemany(insert, [tuple(map(_plain, row)) for row in rows]))

    # ---- asking

    def shape(self, sql: str) -> list[tuple[str, int | None]]:
        """Names of the answer's columns, and types as far as they are columns of tables. `sql` has no
        parameters."""

        def look() -> list[tuple[str, int | None]]:
            self._database.execute(f"CREATE TEMP VIEW shape AS {sql}")
            found = self._database.execute("PRAGMA temp.table_info(shape)").fetchall()
            self._database.execute("DROP VIEW temp.shape")
            return [(row[1], OIDS.get(row[2])) for row in found]

        return self._do(look)

    def run(self, sql: str, parameters: Sequence[Any]) -> None:
        """Begin the statement; `fetch` gives its rows."""
        bound = {str(place): _plain(value) for place, value in enumerate(parameters, 1)}

        def begin() -> None:
            self._database.set_authorizer(_authorize)
            self._cursor = self._database.execute(sql, bound)

        self._do(begin)

    def fetch(self) -> list[Row]:
        """Some rows more; none when all were fetched."""

        def take() -> list[Row]:
            rows: list[Row] = []
            size = 0
            assert self._cursor is not None
            while len(rows) < BATCH_ROWS and size < BATCH_BYTES:
                row = self._cursor.fetchone()
                if row is None:
                    break
                rows.append(row)
                size += sum(len(value) for value in row if isinstance(value, str | bytes))
            return rows

        return self._do(take)

    def stop(self) -> None:
        """End what is running, from another thread."""
        self._stopped = True

    def close(self) -> None:
        self._database.set_progress_handler(None, 0)
        self._database.close()

    # ---- bounds

    def _over(self) -> bool:
        return self._stopped or time.monotonic() > self._deadline

    def _do(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        self._deadline = began + self._left
        try:
            return work()
        except sqlite3.Error as error:
            raise self._complaint(error) from None
        except (MemoryError, RecursionError):
            raise CommandError("the statement needs too much memory", "53200") from None
        except UnicodeError:
            raise CommandError('invalid byte sequence for encoding "UTF8"', "22021") from None
        except (OverflowError, sqlite3.Warning, ValueError):
            raise CommandError("value out of range", "22003") from None
        finally:
            self._left -= time.monotonic() - began

    def _complaint(self, error: sqlite3.Error) -> CommandError:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return CommandError(failure.message, failure.sqlstate)
        if self._stopped:
            return CommandError("canceling statement due to user request", "57014")
        text = str(error)
        for pattern, message, state in _COMPLAINTS:
            if (found := pattern.search(text)) is not None:
                return CommandError(message.format(*found.groups()), state)
        return CommandError(text, "42601")


T = TypeVar("T")

_COMPLAINTS = tuple(
    (re.compile(pattern), message, state)
    for pattern, message, state in (
        (r"no such table: (?:main\.|temp\.)?(.+)", 'relation "{}" does not exist', "42P01"),
        (r"no such column: (.+)", 'column "{}" does not exist', "42703"),
        (r"ambiguous column name: (.+)", 'column reference "{}" is ambiguous', "42702"),
        (r"no such function: (.+)", "function {} does not exist", "42883"),
        (r"wrong number of arguments to function (.+)\(\)", "function {} does not exist with these arguments", "42883"),
        (r'near "(.*)": syntax error', 'syntax error at or near "{}"', "42601"),
        (r"incomplete input", "syntax error at end of input", "42601"),
        (r"interrupted", "canceling statement due to statement timeout", "57014"),
        (r"not authorized|prohibited|authorization denied", "only SELECT is possible over the views", "25006"),
        (r"misuse of aggregate: (.+)", "aggregate functions are not allowed here: {}", "42803"),
        (r"misuse of window function (.+)", "window functions are not allowed here: {}", "42P20"),
        (
            r"(?i)too (?:big|many|large|deep|complex|long)|parser stack overflow|maximum depth",
            "statement is too complex",
            "54001",
        ),
        (r"binding parameter|bindings", "there is no parameter for every $ of the statement", "42P02"),
        (r"datatype mismatch", "invalid value for this place", "22023"),
        (r"out of memory", "the statement needs too much memory", "53200"),
        (r"one statement at a time", "cannot run several statements at once", "42601"),
        (r"user-defined (?:function|aggregate)", "invalid argument", "22023"),
        (r"integer overflow", "bigint out of range", "22003"),
    )
)


def _plain(value: Any) -> Any:
    """A value SQLite takes: no surrogates in text, no Decimal."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Decimal):
        whole = value == value.to_integral_value() if value.is_finite() else False
        return int(value) if whole and abs(value) < 1 << 63 else float(value)
    return value
