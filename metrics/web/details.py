"""What the page's tabs ask for while they are open: clients, servers, session state, events, log, configuration, a
pool's past.

Each is a table in JSON, its columns and then its rows, written piece by piece: ten thousand clients are more than may
be put together in one turn. Sorting and searching are the browser's. The rule: what is secret is masked by who gives it
to us, and nothing here changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

from metrics.source import Source, take
from metrics.web.feed import Feed
from metrics.web.recent import COLUMNS, PoolKey, of_name, past
from pooler.stats import ADMIN_DATABASE, HistorySample, Snapshot

HistoryReader = Callable[[], Iterable[HistorySample]]
Rows = Callable[[], Iterable[Sequence[Any]]]
PIECE = 100
"""Rows that are written at once."""

SOCKET = (
    "ptr", "database", "user", "state", "addr", "port", "application_name", "connect_time", "request_time", "wait_us",
    "link", "remote_pid", "tls", "prepared_statements", "replication",
)  # fmt: skip
SESSION = (
    "database", "user", "application_name", "addr", "port", "id", "kind", "fate", "statement", "since", "pinned_us",
    "server",
)  # fmt: skip
SETTING = ("section", "key", "value", "default", "changeable")
LINE = ("number", "time", "level", "text")
DATABASE = ("host", "port", "dbname", "pool_size", "pool_mode", "max_db_connections")


@dataclass(frozen=True, slots=True)
class Told:
    """What the figures do not hold, each asked for when it is looked at; None where the pooler is not ours."""

    where: str = ""
    """Host and port, by which one pooler is told from another."""
    history: HistoryReader | None = None
    settings: Rows | None = None
    """Rows of SETTING."""
    log: Callable[[int], Iterable[Sequence[Any]]] | None = None
    """Rows of LINE, those after the given number."""
    everywhere: Callable[[], bool] = lambda: False
    """Whether the tables are shown beyond loopback."""
    sessions: Rows = tuple
    """Rows of SESSION."""


@dataclass(frozen=True, slots=True)
class Table:
    """What one tab is given."""

    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]
    snapshot: Snapshot | None = None
    """To be released when all is written."""

    def pieces(self) -> Iterator[bytes]:
        head = {"columns": self.columns} | ({} if self.snapshot is None else {"t": self.snapshot.now})
        yield json.dumps(head)[:-1].encode() + b',"rows":['
        rows, comma = iter(self.rows), ""
        while piece := list(islice(rows, PIECE)):
            yield (comma + ",".join(map(_dumped, piece))).encode("utf-8", "backslashreplace")
            comma = ","
        yield b"]}"


def _dumped(row: Sequence[Any]) -> str:
    return json.dumps(row, separators=(",", ":"))


class Details:
    """The tables, by their names."""

    def __init__(self, source: Source, feed: Feed, told: Told) -> None:
        self._source = source
        self._feed = feed
        self._told = told

    async def named(self, name: str, after: int = 0) -> Table | None:
        """Of clients, servers, sessions, configuration, or the log's lines `after` one; None for any other name."""
        match name:
            case "clients":
                snapshot = await take(self._source, clients=True)
                return Table(SOCKET, map(attrgetter(*SOCKET), snapshot.clients), snapshot)
            case "servers":
                snapshot = await take(self._source, servers=True)
                return Table(SOCKET, map(attrgetter(*SOCKET), snapshot.servers), snapshot)
            case "configuration":
                snapshot = await take(self._source)
                settings = self._told.settings() if self._told.settings is not None else ()
                return Table(SETTING, [*settings, *_databases(snapshot)], snapshot)
            case "sessions":
                snapshot = await take(self._source)
                return Table(SESSION, self._told.sessions(), snapshot)
            case "log" if self._told.log is not None:
                return Table(LINE, self._told.log(after))
        return None

    def events(self) -> Table:
        return Table(self._feed.happened.COLUMNS, self._feed.happened.rows())

    def past(self, key: PoolKey) -> Table:
        """Of a pool, or of all. The hour is known by database, so it is a pool's only where that is the only one."""
        samples = self._told.history() if self._told.history is not None else ()
        database, user = key
        alone = self._feed.users_of(database) <= {user}
        known = of_name(samples, database) if alone else ()
        return Table(COLUMNS, past(known, self._feed.recent.rows(key)))


def chunks(rows: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The same as values of a stream; there is at least one, which says that what came before it is over."""
    left, first = iter(rows), True
    while (piece := list(islice(left, PIECE))) or first:
        yield {"columns": COLUMNS, "rows": piece, "first": first}
        first = False


def _databases(snapshot: Snapshot) -> Iterator[Sequence[Any]]:
    for stat in snapshot.databases:
        if stat.name == ADMIN_DATABASE:
            continue
        values = (
            stat.host, stat.port, stat.database, stat.pool_size, stat.pool_mode, stat.max_connections or None,
        )  # fmt: skip
        words = (f"{name}={value}" for name, value in zip(DATABASE, values, strict=True) if value is not None)
        yield "databases", stat.name, " ".join(words), "", ""
