"""The rows of SHOW read back as figures: what a console of any version since PgBouncer 1.8 tells, by column name.

For whoever watches a pooler from outside, in a terminal or as a metrics front: each asks in its own way, and what the
answers mean is here. Nothing is asked here, and no clock is read. What a version does not tell is zero or empty.
PgBouncer counts by database, so a pool has counters of its own only if it is the one pool of its database. The rule:
columns of SHOW are turned into values of `pooler.stats` in this module and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pooler.stats import (
    UNKNOWN,
    ZERO,
    Averages,
    Counters,
    DatabaseStat,
    HistorySample,
    ListItem,
    PoolStat,
    ProcessStat,
    Snapshot,
    SocketStat,
)

ShowRow = Mapping[str, Any]
"""A row as SHOW gives it, by column."""

TOTALS = {
    "server_assignment_count": "total_server_assignment_count",
    "xact_count": "total_xact_count",
    "query_count": "total_query_count",
    "bytes_received": "total_received",
    "bytes_sent": "total_sent",
    "xact_time": "total_xact_time",
    "query_time": "total_query_time",
    "wait_time": "total_wait_time",
    "client_parse_count": "total_client_parse_count",
    "server_parse_count": "total_server_parse_count",
    "bind_count": "total_bind_count",
    "client_login_count": "total_client_login_count",
}
"""Field of Counters to column of SHOW STATS."""
AVERAGES = {field: column.replace("total_", "avg_") for field, column in TOTALS.items()} | {
    "bytes_received": "avg_recv"
}

POOL_COUNTS = (
    "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active",
    "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login",
)  # fmt: skip


UNCOUNTED = -1
"""The number of a pool or database whose counts are not told, so that it is another one when they are."""


class Readings:
    """What a console has told so far, view by view, and when; the next Snapshot is made of it. Times are of a clock
    that is never set back."""

    def __init__(self) -> None:
        self._rows: dict[str, Sequence[ShowRow]] = {}
        self._told: dict[str, float] = {}
        self._lacking: set[str] = set()

    def due(self, views: Iterable[str], now: float, within: float = 0.0) -> list[str]:
        """Those that are to be asked for: what was told of them is older than `within`, and the console has them."""
        return [
            view
            for view in views
            if view not in self._lacking and (view not in self._told or now - self._told[view] > within or not within)
        ]

    def take(self, view: str, rows: Sequence[ShowRow], now: float) -> None:
        self._rows[view], self._told[view] = rows, now

    def lack(self, view: str) -> None:
        """The console has no such view."""
        self._lacking.add(view)

    def forget(self, *views: str) -> None:
        """What was told of these; of all, without a name."""
        for view in views or tuple(self._rows):
            self._rows.pop(view, None)
            self._told.pop(view, None)

    def rows(self, view: str) -> Sequence[ShowRow]:
        return self._rows.get(view, ())

    def snapshot(self, now: float, steady: float | None = None) -> Snapshot:
        """Of all that was told, at `now` by the wall clock."""
        return snapshot_of(self._rows, now, steady)


def snapshot_of(answers: Mapping[str, Sequence[ShowRow]], now: float, steady: float | None = None) -> Snapshot:
    """`answers` are rows by view, in upper case."""
    config = {row["key"]: row["value"] for row in answers.get("CONFIG", ())}
    state = {row["key"]: row["value"] == "yes" for row in answers.get("STATE", ())}
    version = next((str(row["version"]) for row in answers.get("VERSION", ())), "")
    databases = tuple(_databases(answers.get("DATABASES", ()), answers.get("STATS", ())))
    return Snapshot(
        now=now,
        databases=databases,
        pools=_pools(answers.get("POOLS", ()), databases),
        users=(),
        lists=tuple(ListItem(str(row["list"]), number(row, "items")) for row in answers.get("LISTS", ())),
        peers=(),
        mem=(),
        dns_hosts=(),
        events=(),
        active=state.get("active", True),
        paused=state.get("paused", bool(databases) and all(stat.paused for stat in databases)),
        suspended=state.get("suspended", False),
        max_client_conn=number(config, "max_client_conn"),
        max_user_connections=number(config, "max_user_connections"),
        stats_period=number(config, "stats_period") or 60,
        process=ProcessStat("PgBouncer", version.removeprefix("PgBouncer "), "", "", 0, 0.0, 0.0, 0, 0, 0),
        clients=tuple(_socket(row, "C") for row in answers.get("CLIENTS", ())),
        servers=tuple(_socket(row, "S") for row in answers.get("SERVERS", ())),
        steady=steady,
        pgbouncer_version=version,
    )


def number(row: ShowRow, column: str) -> int:
    """An int from whatever the console sent; 0 for NULL, for nothing, and for what is no number."""
    try:
        return int(row.get(column) or 0)
    except (TypeError, ValueError):
        return 0


def text(row: ShowRow, column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value)


def waited_us(row: ShowRow, column: str) -> int:
    """Microseconds of a wait: a column of whole seconds and, since PgBouncer 1.8, another with what is beyond them."""
    return number(row, column) * 1_000_000 + number(row, f"{column}_us")


def sample_of(row: ShowRow) -> HistorySample:
    """A row of SHOW HISTORY, but for its percentiles. Raises ValueError for one without a time."""
    moment = row["time"] if isinstance(row["time"], datetime) else datetime.fromisoformat(str(row["time"]))
    facts: dict[str, Any] = {name: float(row.get(name) or 0) for name in ("seconds", "tps", "qps")}
    facts |= {name: number(row, name) for name in SAMPLED}
    when = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return HistorySample(time=when.timestamp(), database=str(row["database"]), **facts)


SAMPLED = (
    "bytes_received", "bytes_sent", "avg_xact_time", "avg_query_time", "avg_wait_time", "cl_active", "cl_waiting",
    "sv_active", "sv_idle", "sv_total", "maxwait_us", "pool_size",
)  # fmt: skip
"""Whole numbers of a sample, by column."""


def _databases(rows: Iterable[ShowRow], stats: Iterable[ShowRow]) -> Iterable[DatabaseStat]:
    """Those that SHOW DATABASES lists, and those that have come since and are counted already."""
    counted = {str(row["database"]): row for row in stats}
    for row in rows:
        yield _database(row, counted.pop(str(row["name"]), None))
    for name, row in counted.items():
        yield _database({"name": name}, row)


def _database(row: ShowRow, stats: ShowRow | None) -> DatabaseStat:
    averages = Averages(**{field: number(stats, column) for field, column in AVERAGES.items()}) if stats else None
    return DatabaseStat(
        name=str(row["name"]),
        host=text(row, "host"),
        port=number(row, "port"),
        database=text(row, "database") or "",
        force_user=text(row, "force_user"),
        pool_size=number(row, "pool_size"),
        min_pool_size=number(row, "min_pool_size"),
        reserve_pool_size=number(row, "reserve_pool_size") or number(row, "reserve_pool"),
        server_lifetime=number(row, "server_lifetime"),
        pool_mode=text(row, "pool_mode"),
        load_balance_hosts=text(row, "load_balance_hosts"),
        max_connections=number(row, "max_connections"),
        current_connections=number(row, "current_connections"),
        max_client_connections=number(row, "max_client_connections"),
        current_client_connections=number(row, "current_client_connections"),
        paused=bool(number(row, "paused")),
        disabled=bool(number(row, "disabled")),
        counters=Counters(**{field: number(stats, column) for field, column in TOTALS.items()}) if stats else ZERO,
        averages=averages or Averages(),
        last_period=averages or Averages(),
        born=UNKNOWN if stats else UNCOUNTED,
    )


def _pools(rows: Iterable[ShowRow], databases: Iterable[DatabaseStat]) -> tuple[PoolStat, ...]:
    rows = list(rows)
    of = {stat.name: stat for stat in databases}
    pools_of = Counter(str(row["database"]) for row in rows)
    return tuple(_pool(row, of.get(str(row["database"])), alone=pools_of[str(row["database"])] == 1) for row in rows)


def _pool(row: ShowRow, database: DatabaseStat | None, alone: bool) -> PoolStat:
    known = database if alone else None
    counts: dict[str, Any] = {name: number(row, name) for name in POOL_COUNTS}
    facts: dict[str, Any] = {
        "maxwait_us": waited_us(row, "maxwait"),
        "pool_mode": text(row, "pool_mode") or "",
        "load_balance_hosts": text(row, "load_balance_hosts"),
        "pool_size": database.pool_size if database else 0,
        "reserve_pool_size": database.reserve_pool_size if database else 0,
        "counters": known.counters if known else ZERO,
        "averages": known.averages if known else Averages(),
        "born": known.born if known else UNCOUNTED,
    }
    return PoolStat(str(row["database"]), str(row["user"]), **counts, **facts)


def _socket(row: ShowRow, kind: str) -> SocketStat:
    return SocketStat(
        type=kind,
        user=text(row, "user") or "",
        database=text(row, "database") or "",
        replication=text(row, "replication") or "none",
        state=text(row, "state") or "",
        addr=text(row, "addr") or "",
        port=number(row, "port"),
        local_addr=text(row, "local_addr") or "",
        local_port=number(row, "local_port"),
        connect_time=0.0,
        request_time=0.0,
        wait_us=waited_us(row, "wait"),
        close_needed=bool(number(row, "close_needed")),
        ptr=text(row, "ptr") or "",
        link=text(row, "link") or "",
        remote_pid=number(row, "remote_pid"),
        tls=text(row, "tls") or "",
        application_name=text(row, "application_name") or "",
        prepared_statements=number(row, "prepared_statements"),
        id=number(row, "id"),
    )
