"""SELECTs as the console sees them: what may be one, what it needs, and its answer, from a server of its own.

The views a statement names are made from one Snapshot in turns of the loop and sent to a session of that server, which
gives back columns and rows as they are sent on. The rule: a view is readable here by whoever may SHOW it
(`commands.permit`), and by nobody else, whatever a statement does: rows that were not permitted are not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from admin import commands, views
from admin.console.answers import Answer, Columns, Copy, paced
from admin.console.crew import Stay, stay
from admin.console.seats import Seated
from admin.fieldtypes import Row
from admin.sql import reading
from admin.sql.backend import Backend, Parameter, Refused, Told, packer
from admin.sql.reading import Reading
from admin.views import Shown, View
from pooler import lexer
from pooler.hints import hint
from pooler.lexer import Kind, Statement, Token
from pooler.verbs import CommandError, ConsoleSession, House

T = TypeVar("T")

SECONDS = 3.0
"""How long a statement may take, to be read and to be run."""
UNDEFINED_TABLE = "42P01"
MOST_TOKENS = 10_000
SHORT = 1000
"""Characters of a text that is taken apart in the loop: a command has a third of them."""

RELATIONS = {view.name.lower(): tuple(column.name for column in view.columns) for view in views.VIEWS}


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT. `parameters` are the type oids of $1, $2, ...; `columns` None for a COPY, which has data instead."""

    text: str
    reading: Reading
    parameters: tuple[int, ...]
    columns: Columns | None
    offset: int = 0
    """Where in the client's query the text begins, in characters."""

    @property
    def views(self) -> tuple[View, ...]:
        return tuple(views.BY_NAME[name.upper()] for name in self.reading.views)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and of whom; `parameters` are the session's."""

    session: ConsoleSession
    house: House
    parameters: Mapping[str, str]

    @property
    def is_admin(self) -> bool:
        return self.session.rights == "admin"

    async def stay(self, seconds: float) -> Stay:
        """A session with nothing of an earlier statement. Raises CommandError."""
        visit = await stay(self.session.user, self.session.canceled, seconds, first=self.is_admin)
        try:
            await visit.do(Backend.put_away)
        except BaseException:
            visit.leave()
            raise
        return visit

    def told(self, shown: Shown) -> Told:
        snapshot = shown.snapshot
        process = snapshot.process
        return Told(
            version=f"PostgreSQL {EMBEDDED} (the admin console of {process.name} {process.version}, "
            f"which speaks for {snapshot.pgbouncer_version})",
            now=snapshot.now,
            started=process.start_time,
            pid=process.pid,
            parameters=dict(self.parameters),
        )


EMBEDDED = "18"
"""Whose SQL and catalogue it is."""


# ---- reading


async def taken_apart(text: str) -> list[Statement]:
    """The statements of a text; a long one is looked at beside the loop. Raises CommandError, lexer.Unterminated."""
    try:
        if len(text) <= SHORT:
            return lexer.split(text)
        return await asyncio.to_thread(lexer.split, text, MOST_TOKENS)
    except lexer.TooMuch:
        raise CommandError(f"statement is too complex: more than {MOST_TOKENS} words and signs", "54001") from None


def unterminated(text: str) -> CommandError | None:
    """PostgreSQL's complaint about a query with a quote or comment that never ends; None when it begins as none."""
    said = lexer.spoken(text[:SHORT])
    if not said or said[0].kind is not Kind.WORD or said[0].value not in reading.QUERIES:
        return None
    last = next((token for token in lexer.pieces(text) if token.open), None)
    if last is None:
        return None
    return CommandError(f'unterminated {last.open} at or near "{last.text[:60]}"', "42601", position=last.start + 1)


async def read(statement: Statement, asker: Asker, oids: Sequence[int] | None, begin: int) -> Query | None:
    """The query a statement is, None when it is something else; `oids` are the types that the client gives to its
    parameters, None when it has none to give. The text it was taken from begins at `begin` in the client's query.
    Raises CommandError."""
    found = reading.read(statement.text, _within(statement), RELATIONS)
    if found is None:
        return None
    place = next((token for token in statement.tokens if token.kind is Kind.PARAMETER), None)
    if place is not None and oids is None:
        raise CommandError(f"there is no parameter {place.value}", "42P02", position=begin + place.start + 1)
    return await _read(Query(statement.text, found, (), None, begin + statement.start), oids or (), asker)


def _within(statement: Statement) -> Sequence[Token]:
    """Its tokens, with their places in its own text."""
    if not statement.start:
        return statement.tokens
    off = statement.start
    return [replace(token, start=token.start - off, end=token.end - off) for token in statement.tokens]


async def _read(query: Query, oids: Sequence[int], asker: Asker) -> Query:
    visit = await asker.stay(SECONDS)
    try:
        shape = await _step(visit, query, lambda backend: backend.read(query.reading.sql, oids))
    finally:
        visit.leave()
    return replace(query, parameters=shape.parameters, columns=shape.columns)


# ---- running


async def start(query: Query, parameters: Sequence[Parameter], results: Sequence[int], asker: Asker) -> Answer:
    """Run it up to its first rows, which come in the formats `results`. Raises CommandError."""
    for view in query.views:
        commands.permit(commands.Request(commands.BY_NAME[f"SHOW {view.name}"]), asker.session.rights)
    visit = await asker.stay(SECONDS)
    try:
        await _fill(visit, query, asker)
        return await (_copied(visit, query) if query.reading.copy else _selected(visit, query, parameters, results))
    except BaseException:
        visit.leave()
        raise


async def _selected(visit: Stay, query: Query, parameters: Sequence[Parameter], results: Sequence[int]) -> Answer:
    columns = await _step(visit, query, lambda backend: backend.run(query.reading.sql, parameters, results))
    rows = await _step(visit, query, Backend.more)
    batches: AsyncIterator[Sequence[Row]]
    if visit.finished:
        await _step(visit, query, Backend.put_away)
        visit.leave()
        batches = _one(rows)
    else:
        batches = Seated(visit.seat, _batches(visit, query, rows, Backend.more))
    wired = tuple(results)
    counted = query.reading.tag == "SELECT"
    return Answer(query.reading.tag, columns or (), batches, counted=counted, release=visit.leave, wired=wired)


async def _copied(visit: Stay, query: Query) -> Answer:
    head = await _step(visit, query, lambda backend: backend.copy_out(query.reading.sql))
    tag: list[str] = []
    batches = Seated(visit.seat, _batches(visit, query, [], Backend.copied, tag))
    return Answer("COPY", None, batches, release=visit.leave, copy=Copy(head, tag))


async def _fill(visit: Stay, query: Query, asker: Asker) -> None:
    """A transaction, and in it the rows of the views."""
    needs: frozenset[str] = frozenset().union(*(view.needs for view in query.views))
    house = await asker.house.prepared(needs)
    snapshot = house.snapshot(
        clients="clients" in needs, servers="servers" in needs, histograms="histograms" in needs
    )
    shown = Shown(snapshot, house)
    tables = {view.name.lower(): tuple((column.name, column.oid) for column in view.relation) for view in query.views}
    await _step(visit, query, lambda backend: backend.make(tables))
    await _step(visit, query, lambda backend: backend.begin(asker.told(shown), visit.left))
    for view in query.views:
        await _step(visit, query, partial(Backend.open_table, name=view.name.lower()))
        pack = packer([column.oid for column in view.relation])
        async for batch in paced(view.rows(shown, view.relation), asker.house.pace):
            await _step(visit, query, partial(Backend.fill, rows=pack(batch)))
        await _step(visit, query, Backend.close_table)
    await snapshot.release()


async def _one(rows: list[bytes]) -> AsyncIterator[Sequence[Row]]:
    yield rows


async def _batches(
    visit: Stay, query: Query, rows: list[bytes], more: Callable[[Backend], Coroutine[Any, Any, list[bytes]]],
    tag: list[str] | None = None,
) -> AsyncIterator[Sequence[Row]]:  # fmt: skip
    while True:
        if rows:
            yield rows
        if visit.finished:
            if tag is not None:
                tag.append(visit.tag)
            visit.leave()
            return
        rows = await _step(visit, query, more)


async def _step(visit: Stay, query: Query, work: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
    """Something of the session, whose complaint is told as one about the query the client sent."""
    try:
        return await visit.do(work)
    except Refused as refused:
        raise _complaint(refused, query) from None


def _complaint(refused: Refused, query: Query) -> CommandError:
    fields = refused.fields
    meant = fields.get("H", "") or _relation_meant(fields)
    place = query.reading.position(refused.position)
    return CommandError(
        fields.get("M", ""),
        refused.sqlstate,
        detail=fields.get("D", ""),
        hint=meant,
        position=place + query.offset if place else 0,
    )


def _relation_meant(fields: Mapping[str, str]) -> str:
    """PostgreSQL guesses columns, and no relations."""
    name = fields.get("M", "").partition('"')[2].partition('"')[0]
    return hint(name, RELATIONS) if fields.get("C") == UNDEFINED_TABLE else ""
