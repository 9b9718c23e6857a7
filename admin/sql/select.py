"""SELECT over the views: from a statement to an Answer.

The views a statement names become tables, filled from one Snapshot in turns of the loop; SQLite then runs
the statement in a thread of its own, so that neither a large view nor a slow join holds up traffic. The
rule: a view is readable here by whoever may SHOW it (`commands.permit`), and by nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TypeVar

from admin import commands, lexer
from admin.answers import Answer, Columns, Row, no_rows, paced
from admin.fieldtypes import BYTEA, FLOAT8, INT2, INT4, INT8, OID, TEXT, Value
from admin.lexer import Kind, Statement, Token
from admin.sql import catalogue
from admin.sql.catalogue import Catalogue, looks_like_catalogue, relation_oids
from admin.sql.engine import Engine
from admin.sql.functions import PLAIN, Facts, session_functions
from admin.sql.inference import Scope, parameter_types, type_of
from admin.sql.query import Asker, Query
from admin.sql.rewrite import CALLS, WHOLE_ROW, Known, name_of, render, tables_named, unnested
from admin.sql.tree import Item, Node, first_items, grow
from admin.views import BY_NAME, Shown, View
from pooler.verbs import CommandError, ConsoleSession

T = TypeVar("T")

OPENERS = frozenset({"select", "with", "values", "table", "("})
CLAUSES = frozenset({"where", "group", "having", "order", "limit", "offset", "fetch", "window"})


# ---- reading


def read(statement: Statement) -> Query | None:
    """The query a statement is, None when it is something else. Raises CommandError."""
    tokens = statement.tokens
    tag = "SELECT"
    if tokens[0] == "show":
        if (shorthand := _shorthand(tokens)) is None:
            return None
        tokens, tag = shorthand, "SHOW"
    elif tokens[0].kind is Kind.QUOTED or tokens[0].value not in OPENERS or _bare(tokens):
        return None
    return replace(_query(tokens, {}), tag=tag)


def _about_catalogue(query: Query) -> bool:
    """Whether it names a relation of PostgreSQL's catalogue, known here or not."""
    following = (*query.tokens[1:], query.tokens[-1])
    return any(
        token.kind in (Kind.WORD, Kind.QUOTED) and looks_like_catalogue(token.value) and after != "("
        for token, after in zip(query.tokens, following, strict=True)
    )


def _bare(tokens: Sequence[Token]) -> bool:
    """`SELECT foo`: PgBouncer's other spelling of SHOW, with a view that is none."""
    word = tokens[1] if len(tokens) == 2 and tokens[0] == "select" else None
    known = ("user", "null", "true", "false", *CALLS)
    return word is not None and word.kind in (Kind.WORD, Kind.QUOTED) and word.value not in known


def _shorthand(tokens: Sequence[Token]) -> tuple[Token, ...] | None:
    """`SHOW POOLS WHERE ...` as the SELECT it stands for."""
    if len(tokens) < 3 or tokens[1].value.upper() not in BY_NAME or tokens[2].value not in CLAUSES:
        return None
    return (*lexer.tokenize("SELECT * FROM"), *tokens[1:])


def with_parameters(query: Query, oids: Sequence[int]) -> Query:
    """The query with parameters of the types the client says they have."""
    if tuple(oids) == query.parameters:
        return query
    return replace(_query(query.tokens, dict(enumerate(oids, 1))), tag=query.tag, parameters=tuple(oids))


def _query(tokens: tuple[Token, ...], told: Mapping[int, int]) -> Query:
    names = _names(tokens)
    views = tuple(view for name, view in BY_NAME.items() if name.lower() in names)
    catalogues = tuple(table for name, table in catalogue.BY_NAME.items() if name in names)
    tables = _columns(views, catalogues)
    types: dict[str, int] = {}
    for columns in tables.values():
        for name, oid in columns:
            types.setdefault(name.lower(), oid)
    bare = Query(tokens, "", "", (), Scope(types, told), views, catalogues, tuple(told.values()))
    try:
        return _translated(bare, tables)
    except CommandError:
        if _about_catalogue(bare):
            return bare
        raise


def _translated(query: Query, tables: Mapping[str, Columns]) -> Query:
    nodes = grow(query.tokens)
    scope = query.scope
    found = parameter_types(nodes, scope)
    highest = max((int(token.text[1:]) for token in query.tokens if token.kind is Kind.PARAMETER), default=0)
    if highest > 1000:
        raise CommandError("too many parameters", "54000")
    parameters = tuple(scope.parameters.get(number) or found.get(number, TEXT) for number in range(1, highest + 1))
    scope = Scope(scope.columns, dict(enumerate(parameters, 1)))
    columns = {name: tuple(column for column, _ in both) for name, both in tables.items()}
    known = Known(scope, {**columns, **tables_named(nodes, columns)}, unnested(nodes))
    return replace(
        query,
        text=render(nodes, known),
        shape_text=render(_without_parameters(query.tokens), known),
        items=tuple(first_items(nodes)),
        scope=scope,
        parameters=parameters,
    )


def _names(tokens: Sequence[Token]) -> set[str]:
    """Every name that may be a table's; a schema's information_schema stays with its table."""
    words = [token for token in tokens if token.kind in (Kind.WORD, Kind.QUOTED)]
    plain = {token.value.lower() for token in words}
    return plain | {f"information_schema.{name}" for name in plain if "information_schema" in plain}


def _columns(views: Sequence[View], catalogues: Sequence[Catalogue]) -> dict[str, Columns]:
    return {view.name.lower(): tuple((c.name, c.oid) for c in view.columns) for view in views} | {
        table.name: table.columns for table in catalogues
    }


def _without_parameters(tokens: Sequence[Token]) -> tuple[Node, ...]:
    null = Token(Kind.WORD, "NULL", "null", 0, 0)
    return grow(null if token.kind is Kind.PARAMETER else token for token in tokens)


# ---- running


async def describe(query: Query, asker: Asker) -> Columns:
    """Columns of the answer before the parameters are known: the statement is run with NULL for each."""
    answer = await start(query, (None,) * len(query.parameters), asker)
    answer.release()
    return answer.columns or ()


async def start(query: Query, parameters: Sequence[Value], asker: Asker) -> Answer:
    """Run it up to its first rows. Raises CommandError."""
    for view in query.views:
        commands.permit(commands.Request(commands.BY_NAME[f"SHOW {view.name}"]), asker.session.rights)
    try:
        return await _started(query, parameters, asker)
    except CommandError as error:
        if _about_catalogue(query) and error.sqlstate in UNANSWERABLE:
            return _unanswered(query)
        raise


UNANSWERABLE = frozenset({"42601", "42P01", "42703", "42883", "42704", "0A000", "42702"})
"""A catalogue query that fails so asks for something that does not exist here."""


def _unanswered(query: Query) -> Answer:
    with contextlib.suppress(CommandError):
        items = query.items or tuple(first_items(grow(query.tokens)))
        names = tuple((_label(item), TEXT) for item in items)
        return Answer(query.tag, names, no_rows(), counted=query.tag == "SELECT")
    raise CommandError("syntax error in a query of the catalogue", "42601")


async def _started(query: Query, parameters: Sequence[Value], asker: Asker) -> Answer:
    needs: frozenset[str] = frozenset().union(*(view.needs for view in query.views))
    snapshot = asker.house.snapshot(
        clients="clients" in needs, servers="servers" in needs, histograms="histograms" in needs
    )
    shown = Shown(snapshot, asker.house)
    facts = _facts(asker, shown)
    thread = _Thread(asker.session)
    engine = await thread.do(lambda: _engine(query, facts))
    thread.engine = engine
    try:
        shape = await thread.do(lambda: engine.shape(query.shape_text or "SELECT"))
        await _fill(engine, query, shown, facts)
        await snapshot.release()
        await thread.do(lambda: engine.run(query.text, parameters))
        first = await thread.do(engine.fetch)
    except BaseException:
        thread.end()
        raise
    columns = _answer_columns(query, shape, first)
    counted = query.tag == "SELECT"
    return Answer(query.tag, columns, _batches(thread, first), counted=counted, release=thread.end)


def _engine(query: Query, facts: Facts) -> Engine:
    engine = Engine((*PLAIN, *session_functions(facts)))
    for name, columns in _columns(query.views, query.catalogues).items():
        engine.create(name, columns)
    return engine


async def _fill(engine: Engine, query: Query, shown: Shown, facts: Facts) -> None:
    wanted = _wanted(query)
    for view in query.views:
        columns = [column for column in view.columns if wanted is None or column.name in wanted]
        columns = columns or [view.columns[0]]
        names = [column.name for column in columns]
        async for batch in paced(view.rows(shown, columns)):
            engine.fill(view.name.lower(), names, batch)
    for table in query.catalogues:
        names = [name for name, _ in table.columns]
        async for batch in paced(table.tuples(facts)):
            engine.fill(table.name, names, batch)


def _wanted(query: Query) -> set[str] | None:
    """Names of the columns the statement may read; None for all, since a star or a whole row is asked for."""
    for before, token in pairwise((*query.tokens[:1], *query.tokens)):
        if token == "*" and before in ("select", "distinct", "all", ",", "."):
            return None
        if token.value in WHOLE_ROW or token in ("table", "natural"):
            return None
    return {token.value.lower() for token in query.tokens if token.kind in (Kind.WORD, Kind.QUOTED)}


async def _batches(thread: _Thread, first: list[Row]) -> AsyncIterator[Sequence[Row]]:
    try:
        batch = first
        while batch:
            yield batch
            batch = await thread.do(thread.fetch)
    finally:
        thread.end()


def _facts(asker: Asker, shown: Shown) -> Facts:
    snapshot = shown.snapshot
    process = snapshot.process
    version = (
        f"PostgreSQL 14.0 (the admin console of {process.name} {process.version}, "
        f"which speaks for {snapshot.pgbouncer_version})"
    )
    return Facts(
        user=asker.session.user,
        version=version,
        now=snapshot.now,
        started=process.start_time,
        pid=process.pid,
        parameters=dict(asker.parameters),
        regclasses=relation_oids(),
    )


# ---- columns of the answer

_REPEATED = re.compile(r":\d+$")
INTEGERS = frozenset({INT2, INT4, INT8, OID})


def _label(item: Item) -> str:
    last = item.nodes[-1] if item.nodes else None
    plain = last.value if isinstance(last, Token) else "?column?"
    return item.alias or name_of(item.nodes) or plain


def _answer_columns(query: Query, shape: Sequence[tuple[str, int | None]], rows: Sequence[Row]) -> Columns:
    items = _matched(query.items, len(shape))
    columns = []
    for place, ((name, declared), item) in enumerate(zip(shape, items, strict=True)):
        label = (
            _REPEATED.sub("", name) if item is None else item.alias or name_of(item.nodes) or _REPEATED.sub("", name)
        )
        oid = declared
        if oid is None:
            static = type_of(item.nodes, query.scope) if item is not None else None
            oid = _fitting(static, {type(row[place]) for row in rows} - {type(None)})
        columns.append((label, oid))
    return tuple(columns)


def _matched(items: Sequence[Item], width: int) -> list[Item | None]:
    """The item behind each column of the answer; None for those that come of a star."""
    stars = [place for place, item in enumerate(items) if item.star]
    if not stars:
        return list(items) if len(items) == width else [None] * width
    head, tail = items[: stars[0]], items[stars[-1] + 1 :]
    middle = width - len(head) - len(tail)
    return [*head, *[None] * middle, *tail] if middle >= 0 else [None] * width


def _fitting(static: int | None, kinds: set[type]) -> int:
    """The static type when the values found are of it, else the values' own."""
    if static in INTEGERS and not kinds <= {int}:
        static = None
    if static == FLOAT8 and not kinds <= {int, float}:
        static = None
    if static is not None:
        return static
    if kinds == {int}:
        return INT8
    if kinds and kinds <= {int, float}:
        return FLOAT8
    return BYTEA if kinds == {bytes} else TEXT


# ---- threads


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="console-sql")


class _Thread:
    """Work on one Engine outside the loop; a cancel request of its session stops it."""

    def __init__(self, session: ConsoleSession) -> None:
        self._session = session
        self.engine: Engine | None = None

    def fetch(self) -> list[Row]:
        assert self.engine is not None
        return self.engine.fetch()

    async def do(self, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(_threads(), work)
        watch = asyncio.ensure_future(self._session.canceled.wait())
        try:
            await asyncio.wait((future, watch), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                self._stop()
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stop()
            await asyncio.wait((future,))
            raise
        finally:
            watch.cancel()

    def _stop(self) -> None:
        if self.engine is not None:
            self.engine.stop()

    def end(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()
