"""A Source that asks a PgBouncer over the wire: SHOW commands by psycopg on one connection that is made
again as needed.

Askers within CACHE_SECONDS of one another share an answer, so the page, a scrape and the log line cost the
console one round of questions. The password of the URL is psycopg's to keep: it is in no message of ours.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from metrics.rows import Answers, Row, snapshot_of
from metrics.source import Unavailable
from pooler.stats import Snapshot

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ALWAYS = ("version", "lists", "config", "databases", "stats", "pools")
OPTIONAL = ("state",)
"""Younger than the oldest version we read."""
CACHE_SECONDS = 0.5
ANSWER_SECONDS = 10.0
CONNECT_SECONDS = 5


class BadUrl(Exception):
    """A connection string that cannot be read; the message does not repeat it."""


def console_conninfo(url: str) -> dict[str, Any]:
    """libpq's parameters for the console `url` leads to; database `pgbouncer` unless it names another."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(url)
    except ProgrammingError as error:
        raise BadUrl("not a connection string: expected postgres://user@host:port/pgbouncer") from error
    if not all(port.isdecimal() for port in str(given.get("port") or "0").split(",")):
        raise BadUrl("not a connection string: its port is not a number")
    defaults = {
        "dbname": "pgbouncer",
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "pooler metrics",
    }
    return defaults | {key: value for key, value in given.items() if value is not None}


class Inquiry:
    """The answers of one console."""

    def __init__(self, conninfo: dict[str, Any]) -> None:
        self._conninfo = conninfo
        self._connection: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()
        self._last: Snapshot | None = None
        self._last_at = 0.0
        self._with_clients = False
        self._absent: set[str] = set()

    async def __call__(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        async with self._lock:
            fresh = time.monotonic() - self._last_at < CACHE_SECONDS
            if self._last is None or not fresh or (clients and not self._with_clients):
                self._last = None
                self._last = snapshot_of(await self._ask(clients), time.time())
                self._last_at, self._with_clients = time.monotonic(), clients
            return self._last

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ask(self, clients: bool) -> Answers:
        import psycopg

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._answers(clients)
        except TimeoutError:
            await self.close()
            raise Unavailable(f"the console did not answer within {ANSWER_SECONDS:.0f} s") from None
        except psycopg.Error as error:
            await self.close()
            raise Unavailable(" ".join(str(error).split())) from error

    async def _answers(self, clients: bool) -> Answers:
        if self._connection is None or self._connection.closed:
            self._connection = await _connect(self._conninfo)
        views = (*ALWAYS, *(["clients"] if clients else []))
        answers = {view: await _rows(self._connection, view) for view in views}
        for view in OPTIONAL:
            if view not in self._absent:
                found = await self._optional(self._connection, view)
                answers |= {view: found} if found is not None else {}
        return answers

    async def _optional(self, connection: AsyncConnection[Any], view: str) -> list[Row] | None:
        """None, and not asked again, when this version has no such view."""
        import psycopg

        try:
            return await _rows(connection, view)
        except psycopg.DatabaseError:
            if connection.closed:
                raise
            self._absent.add(view)
            return None


async def _connect(conninfo: dict[str, Any]) -> AsyncConnection[Any]:
    from psycopg import AsyncClientCursor, AsyncConnection

    connection: AsyncConnection[Any] = await AsyncConnection.connect(
        **conninfo, autocommit=True, prepare_threshold=None, cursor_factory=AsyncClientCursor
    )
    return connection


async def _rows(connection: AsyncConnection[Any], view: str) -> list[Row]:
    from psycopg.rows import dict_row

    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"SHOW {view.upper()}".encode())
        return list(await cursor.fetchall())
