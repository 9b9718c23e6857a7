"""The answers of SHOW commands as a Snapshot: what a PgBouncer of any version since 1.8 tells, by column
name.

The console's rows come in as mappings; nothing is asked here. What a version does not tell is zero or
empty. PgBouncer counts by database, so a pool has counters of its own only if it is the one pool of its
database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pooler.stats import (
    ZERO,
    Averages,
    Counters,
    DatabaseStat,
    ListItem,
    PoolStat,
    ProcessStat,
    Snapshot,
    SocketStat,
)

Row = Mapping[str, Any]
Answers = Mapping[str, list[Row]]
"""View name (`pools`, `stats`, ...) to its rows."""

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


def snapshot_of(answers: Answers, now: float) -> Snapshot:
    stats = {row["database"]: row for row in answers["stats"]}
    config = {row["key"]: row["value"] for row in answers["config"]}
    state = {row["key"]: row["value"] == "yes" for row in answers.get("state", ())}
    version = str(answers["version"][0]["version"])
    databases = tuple(_database(row, stats.get(row["name"])) for row in answers["databases"])
    return Snapshot(
        now=now,
        databases=databases,
        pools=_pools(answers["pools"], databases),
        users=(),
        lists=tuple(ListItem(str(row["list"]), number(row, "items")) for row in answers["lists"]),
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
        clients=tuple(map(_client, answers.get("clients", ()))),
        pgbouncer_version=version,
    )


def number(row: Row, column: str) -> int:
    """An int from whatever the console sent; 0 for NULL, for nothing, and for what is no number."""
    try:
        return int(row.get(column) or 0)
    except (TypeError, ValueError):
        return 0


def text(row: Row, column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value)


def _database(row: Row, stats: Row | None) -> DatabaseStat:
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
    )


def _pools(rows: Iterable[Row], databases: Iterable[DatabaseStat]) -> tuple[PoolStat, ...]:
    rows = list(rows)
    of = {stat.name: stat for stat in databases}
    pools_of = Counter(str(row["database"]) for row in rows)
    return tuple(_pool(row, of.get(str(row["database"])), alone=pools_of[str(row["database"])] == 1) for row in rows)


def _pool(row: Row, database: DatabaseStat | None, alone: bool) -> PoolStat:
    known = database if alone else None
    counts: dict[str, Any] = {name: number(row, name) for name in POOL_COUNTS}
    facts: dict[str, Any] = {
        "maxwait_us": number(row, "maxwait") * 1_000_000 + number(row, "maxwait_us"),
        "pool_mode": text(row, "pool_mode") or "",
        "load_balance_hosts": text(row, "load_balance_hosts"),
        "pool_size": database.pool_size if database else 0,
        "reserve_pool_size": database.reserve_pool_size if database else 0,
        "counters": known.counters if known else ZERO,
        "averages": known.averages if known else Averages(),
    }
    return PoolStat(str(row["database"]), str(row["user"]), **counts, **facts)


def _client(row: Row) -> SocketStat:
    return SocketStat(
        type="C",
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
        wait_us=number(row, "wait") * 1_000_000 + number(row, "wait_us"),
        close_needed=bool(number(row, "close_needed")),
        ptr=text(row, "ptr") or "",
        link=text(row, "link") or "",
        remote_pid=number(row, "remote_pid"),
        tls=text(row, "tls") or "",
        application_name=text(row, "application_name") or "",
        prepared_statements=number(row, "prepared_statements"),
        id=number(row, "id"),
    )
