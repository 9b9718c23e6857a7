"""A Source that asks a PgBouncer over the wire: SHOW commands by psycopg on one connection that is made
again as needed.

Askers within CACHE_SECONDS of one another share an answer, so the page, a scrape and the log line cost the
console one round of questions. The password of the URL is psycopg's to keep: it is in no message of ours.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from metrics.source import Unavailable
from pooler.readback import Readings, ShowRow
from pooler.stats import ADMIN_DATABASE, Snapshot

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ALWAYS = ("VERSION", "LISTS", "CONFIG", "DATABASES", "STATS", "POOLS")
OPTIONAL = ("STATE",)
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
        "dbname": ADMIN_DATABASE,
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
        self._with: frozenset[str] = frozenset()
        """Views that the last answers hold beside those that are always asked for."""
        self._readings = Readings()

    def settings(self) -> list[tuple[Any, ...]]:
        """Rows of SHOW CONFIG, as it was told last."""
        rows = self._readings.rows("CONFIG")
        return [("PgBouncer", *(row.get(name) for name in ("key", "value", "default", "changeable"))) for row in rows]

    async def __call__(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        more = frozenset(view for view, wanted in (("CLIENTS", clients), ("SERVERS", servers)) if wanted)
        async with self._lock:
            fresh = time.monotonic() - self._last_at < CACHE_SECONDS
            if self._last is None or not fresh or not more <= self._with:
                self._last = None
                await self._ask(more)
                self._last = self._readings.snapshot(time.time(), time.monotonic())
                self._last_at, self._with = time.monotonic(), more
            return self._last

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ask(self, more: frozenset[str]) -> None:
        import psycopg

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._read(more)
        except TimeoutError:
            await self.close()
            raise Unavailable(f"the console did not answer within {ANSWER_SECONDS:.0f} s") from None
        except psycopg.Error as error:
            await self.close()
            raise Unavailable(" ".join(str(error).split())) from error

    async def _read(self, more: frozenset[str]) -> None:
        """One round of questions."""
        if self._connection is None or self._connection.closed:
            self._connection = await _connect(self._conninfo)
        self._readings.forget()
        for view in self._readings.due((*ALWAYS, *OPTIONAL, *sorted(more)), time.monotonic()):
            rows = await self._rows(self._connection, view)
            if rows is not None:
                self._readings.take(view, rows, time.monotonic())

    async def _rows(self, connection: AsyncConnection[Any], view: str) -> list[ShowRow] | None:
        """None, and not asked for again, when this version has no such view."""
        import psycopg
        from psycopg.rows import dict_row

        try:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(f"SHOW {view}".encode())
                return list(await cursor.fetchall())
        except psycopg.DatabaseError:
            if connection.closed or view not in OPTIONAL:
                raise
            self._readings.lack(view)
            return None


async def _connect(conninfo: dict[str, Any]) -> AsyncConnection[Any]:
    from psycopg import AsyncClientCursor, AsyncConnection

    connection: AsyncConnection[Any] = await AsyncConnection.connect(
        **conninfo, autocommit=True, prepare_threshold=None, cursor_factory=AsyncClientCursor
    )
    return connection
