"""SELECT over SHOW views for a console that has no SELECT itself, that is PgBouncer's: PostgreSQL's answer, over what
SHOW gives.

Nothing here knows a wire: the caller hands in what shows a view by name. PostgreSQL itself says which relations it
misses, and those are asked for. The rule: a statement reads and does nothing else, and ends within bounds of time,
memory and rows; it runs in a throw-away server of who typed it (`admin.sql`).
"""

from __future__ import annotations

import asyncio
import atexit
import re
from collections.abc import Callable, Sequence
from typing import Any

from admin.client.answers import Answer, Column
from admin.client.link import CommandFailed, reader
from admin.fieldtypes import NUMBERS, TEXT
from admin.sql import reading
from admin.sql.backend import Backend, Columns, Gone, Refused, Told, packer
from admin.sql.reading import Reading
from admin.sql.server import Server, Unavailable
from admin.sql.spelling import declared, quoted
from pooler import lexer
from pooler.lexer import Kind, Token, Unterminated
from pooler.wire import read_data_row

SECONDS = 2.0
"""That a statement may take."""
GRACE = 1.0
"""Seconds more, before the server is ended for its sake."""
MOST_ROWS = 200_000
"""Of an answer: more are no table that a person reads."""
MOST_VIEWS = 50
UNDEFINED_TABLE = "42P01"
_MISSING = re.compile(r'relation "(?:public\.)?(.+)" does not exist')

Show = Callable[[str], Answer | None]
"""The view of that (lower case) name, or None when there is no such view."""


def answer(
    statement: str, show: Show, told: Told, user: str, *, seconds: float = SECONDS, most: int = MOST_ROWS
) -> Answer | None:
    """The answer to a SELECT; None when the statement is none. Raises CommandFailed, and whatever `show` raises."""
    try:
        tokens = lexer.tokenize(statement)
    except Unterminated as error:
        raise CommandFailed(error.message, "42601") from None
    if not _is_query(tokens):
        return None
    shown: dict[str, Answer] = {}
    first = reading.clauses_of(tokens)
    if first is not None:
        view = show(first)
        if view is None:
            return None
        shown[first] = view
    try:
        return asyncio.run(_PRESS.answer(_Statement(statement, tokens, show, shown, most), told, user, seconds))
    except Refused as refused:
        raise _complaint(refused) from None
    except TimeoutError:
        _PRESS.close()
        raise CommandFailed("canceling statement due to statement timeout", "57014") from None
    except (Gone, OSError, Unavailable) as error:
        _PRESS.close()
        raise CommandFailed(f"PostgreSQL for the statement cannot be had: {error}", "58000") from None


def _is_query(tokens: Sequence[Token]) -> bool:
    if len(tokens) < 2 or tokens[0].kind is Kind.QUOTED or any(token == ";" for token in tokens[:-1]):
        return False
    synonym = len(tokens) == 2 and tokens[0] == "select" and tokens[1].kind is Kind.WORD  # of SHOW
    return not synonym and (tokens[0].value in reading.QUERIES or reading.clauses_of(tokens) is not None)


class _Statement:
    """One SELECT, and what was shown for it."""

    def __init__(self, text: str, tokens: Sequence[Token], show: Show, shown: dict[str, Answer], most: int) -> None:
        self._text, self._tokens, self._show, self._most = text, tokens, show, most
        self._shown = shown

    def read(self) -> Reading:
        found = reading.read(self._text, self._tokens, {name: view.names for name, view in self._shown.items()})
        assert found is not None
        return found

    async def answer(self, backend: Backend, told: Told, seconds: float) -> Answer:
        await backend.put_away()
        await backend.begin(told, seconds)
        for name, given in list(self._shown.items()):
            await _make(backend, name, given)
        while True:
            found = self.read()
            try:
                return await self._run(backend, found)
            except Refused as refused:
                missing = _MISSING.fullmatch(str(refused)) if refused.sqlstate == UNDEFINED_TABLE else None
                view: Answer | None = self._show(missing[1]) if missing and missing[1] not in self._shown else None
                if missing is None or view is None or len(self._shown) == MOST_VIEWS:
                    raise _complaint(refused) from None
                self._shown[missing[1]] = view
                await backend.do("ROLLBACK TO SAVEPOINT before")
                await _make(backend, missing[1], view)

    async def _run(self, backend: Backend, found: Reading) -> Answer:
        await backend.do("SAVEPOINT before")
        shape = await backend.read(found.sql, ())
        if shape.parameters:
            raise CommandFailed("there is no parameter for every $ of the statement", "42P02")
        columns = await backend.run(found.sql, (), ()) or ()
        readers = [reader(oid) for _, oid in columns]
        rows: list[tuple[Any, ...]] = []
        while not backend.finished:
            for row in await backend.more():
                values = read_data_row(row[5:])
                rows.append(tuple(None if v is None else read(v) for read, v in zip(readers, values, strict=True)))
            if len(rows) > self._most:
                raise CommandFailed(f"the answer has more than {self._most} rows: add a LIMIT", "54000")
        return Answer(tuple(Column(name, oid) for name, oid in columns), rows, "SELECT")


async def _make(backend: Backend, name: str, view: Answer) -> None:
    """A table with the rows of the view, until the transaction ends."""
    columns: Columns = tuple((column.name, column.oid if column.oid in NUMBERS else TEXT) for column in view.columns)
    await backend.do(f"CREATE TABLE public.{quoted(name)} ({declared(columns)})")
    await backend.open_table(name, "public")
    await backend.fill(packer([oid for _, oid in columns])(view.rows))
    await backend.close_table()


class _Press:
    """The server of this process, started for the first statement."""

    def __init__(self) -> None:
        self._server: Server | None = None
        atexit.register(self.close)

    async def answer(self, statement: _Statement, told: Told, user: str, seconds: float) -> Answer:
        if self._server is None or not self._server.lives():
            self._server = Server(views=False)
            await self._server.ready()
        backend = await self._server.connect(user)
        try:
            async with asyncio.timeout(seconds + GRACE):
                return await statement.answer(backend, told, seconds)
        finally:
            backend.end()

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.end()
            server.bury()


_PRESS = _Press()


def _complaint(refused: Refused) -> CommandFailed:
    fields = refused.fields
    return CommandFailed(
        fields.get("M", ""),
        refused.sqlstate,
        detail=fields.get("D", ""),
        hint=fields.get("H", ""),
    )
