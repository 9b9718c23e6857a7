"""What `pooler top` shows at one instant, as frozen values, and how answers become them.

The feed makes a Frame a second and hands it to the screen whole; nothing of it changes afterwards. Rates
come from two samples of the counters; where PgBouncer counts per database only (STATS), a database's
pools share the figure and their rows say so. Times are microseconds, waits seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from admin.repl.background import ADMIN_DATABASE

Key = tuple[str, str]
"""A pool: database and user."""

Record = Mapping[str, Any]
Trend = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One pool."""

    database: str
    user: str
    mode: str
    active: int
    waiting: int
    busy: int
    idle: int
    opening: int
    limit: int
    maxwait: float
    tps: float | None
    shared: bool
    """The database has several pools: what PgBouncer counts by database is not this pool's alone."""
    avg_query: float
    p99: float | None
    paused: bool
    disabled: bool
    tps_shared: bool = False
    """The tps is the whole database's, since the console does not tell how its pools share it."""
    trend: Trend = ()
    waits: Trend = ()

    @property
    def key(self) -> Key:
        return self.database, self.user

    @property
    def full(self) -> bool:
        """Whether clients wait because every server allowed is busy."""
        return self.waiting > 0 and self.busy >= self.limit > 0


@dataclass(frozen=True, slots=True)
class Totals:
    """All pools together."""

    active: int = 0
    waiting: int = 0
    busy: int = 0
    idle: int = 0
    limit: int = 0
    tps: float | None = None
    qps: float | None = None
    received: float | None = None
    sent: float | None = None
    avg_query: float = 0.0
    maxwait: float = 0.0
    trend: Trend = ()
    waits: Trend = ()


@dataclass(frozen=True, slots=True)
class Detail:
    """The connections of one pool; `clients` and `servers` are rows of SHOW CLIENTS and SHOW SERVERS."""

    key: Key
    clients: tuple[Record, ...] = ()
    servers: tuple[Record, ...] = ()
    taken: float = 0.0
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything on the screen."""

    now: float = 0.0
    label: str = ""
    version: str = ""
    connected: bool = False
    trouble: str = ""
    state: str = ""
    rows: tuple[PoolRow, ...] = ()
    totals: Totals = field(default_factory=Totals)
    span: float = 0.0
    """Seconds that the trends cover."""
    percentiles: bool = False
    detail: Detail | None = None
    delay: float = 1.0

    def row(self, key: Key | None) -> PoolRow | None:
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True, slots=True)
class Rates:
    """A database's figures per second between two samples of STATS."""

    tps: float
    qps: float
    received: float
    sent: float
    query_us: float
    """Microseconds spent in queries per second."""
    avg_query: float


def rates(before: Record | None, now: Record, seconds: float) -> Rates | None:
    """None for the first sample. A counter that went back means that the pooler restarted: no rate either."""
    if before is None or seconds <= 0:
        return None
    gained = {name: now[name] - before[name] for name in _COUNTED}
    if any(value < 0 for value in gained.values()):
        return None
    queries, spent = gained["total_query_count"], gained["total_query_time"]
    return Rates(
        tps=gained["total_xact_count"] / seconds,
        qps=queries / seconds,
        received=gained["total_received"] / seconds,
        sent=gained["total_sent"] / seconds,
        query_us=spent / seconds,
        avg_query=spent / queries if queries else float(now["avg_query_time"]),
    )


_COUNTED = ("total_xact_count", "total_query_count", "total_received", "total_sent", "total_query_time")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one database, from SHOW DATABASES."""

    size: int
    paused: bool
    disabled: bool


def limits(databases: Iterable[Record]) -> dict[str, Limits]:
    return {
        row["name"]: Limits(
            row["pool_size"] + row.get("reserve_pool_size", row.get("reserve_pool", 0)),
            row.get("paused") == 1,
            row.get("disabled") == 1,
        )
        for row in databases
    }


NO_LIMITS = Limits(0, False, False)


def pool_row(
    pool: Record, found: Limits, rate: Rates | None, *, shared: bool, p99: float | None, paused: bool
) -> PoolRow:
    """A row from one of SHOW POOLS and what else is known of its database."""
    return PoolRow(
        database=pool["database"],
        user=pool["user"],
        mode=pool["pool_mode"],
        active=pool["cl_active"],
        waiting=pool["cl_waiting"],
        busy=pool["sv_active"],
        idle=pool["sv_idle"] + pool["sv_used"],
        opening=pool["sv_login"] + pool["sv_tested"],
        limit=found.size,
        maxwait=pool["maxwait"] + pool.get("maxwait_us", 0) / 1e6,
        tps=rate.tps if rate else None,
        shared=shared,
        avg_query=rate.avg_query if rate else 0.0,
        p99=p99,
        paused=found.paused or paused,
        disabled=found.disabled,
    )


def totals(rows: Iterable[PoolRow], by_database: Iterable[Rates | None], trend: Trend, waits: Trend) -> Totals:
    """Sums over pools, and over databases for what is counted per database."""
    pools, known = list(rows), [rate for rate in by_database if rate is not None]
    qps = sum(rate.qps for rate in known)
    spent = sum(rate.query_us for rate in known)
    return Totals(
        active=sum(row.active for row in pools),
        waiting=sum(row.waiting for row in pools),
        busy=sum(row.busy for row in pools),
        idle=sum(row.idle for row in pools),
        limit=sum(row.limit for row in pools),
        tps=sum(rate.tps for rate in known) if known else None,
        qps=qps if known else None,
        received=sum(rate.received for rate in known) if known else None,
        sent=sum(rate.sent for rate in known) if known else None,
        avg_query=spent / qps if qps else 0.0,
        maxwait=max((row.maxwait for row in pools), default=0.0),
        trend=trend,
        waits=waits,
    )


def pooled(records: Iterable[Record], name: str = "database") -> list[Record]:
    """Without the console's own row."""
    return [row for row in records if row[name] != ADMIN_DATABASE]
