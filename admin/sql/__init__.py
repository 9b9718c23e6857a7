"""SQL over the console's views: PostgreSQL's SELECT, answered by SQLite in memory over tables filled from a Snapshot.

`rewrite` turns PostgreSQL's spelling into SQLite's, `inference` knows types, `functions` and `catalogue` are what a
PostgreSQL server has and SQLite has not, `engine` runs the statement within bounds, `select` is the front of it all.
The rule: SQLite decides what a statement means; nothing here plans or evaluates SQL itself. All of it is imported
with the first SELECT of the process, in a thread (`load`): it takes longer than traffic may wait.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import Sequence

from admin.answers import Answer, Columns
from admin.fieldtypes import Value
from admin.lexer import Kind, Statement
from admin.sql.query import Asker, Query

__all__ = ["Asker", "Query", "describe", "load", "might_be", "read", "start", "with_parameters"]

OPENERS = frozenset({"select", "with", "values", "table", "(", "show", "declare"})
"""First words of what may be, or hold, a query."""

_FRONT = "admin.sql.select"


def might_be(statement: Statement) -> bool:
    """Whether `read` could take this statement for a query; `SHOW x` never is one."""
    first, width = statement.tokens[0], len(statement.tokens)
    return first.kind is not Kind.QUOTED and first.value in OPENERS and width > 1 + (first == "show")


async def load() -> None:
    """Make the functions below quick."""
    if _FRONT not in sys.modules:
        await asyncio.to_thread(importlib.import_module, _FRONT)
        gc.freeze()  # it stays: no collection need look at it again


def read(statement: Statement) -> Query | None:
    """The query a statement is, None when it is something else. Raises CommandError."""
    if not might_be(statement):
        return None
    from admin.sql import select

    return select.read(statement)


def with_parameters(query: Query, oids: Sequence[int]) -> Query:
    """The query with parameters of the types the client says they have."""
    from admin.sql import select

    return select.with_parameters(query, oids)


async def describe(query: Query, asker: Asker) -> Columns:
    """Columns of the answer before the parameters are known. Raises CommandError."""
    from admin.sql import select

    return await select.describe(query, asker)


async def start(query: Query, parameters: Sequence[Value], asker: Asker) -> Answer:
    """Run it up to its first rows. Raises CommandError."""
    from admin.sql import select

    return await select.start(query, parameters, asker)
