"""What `pooler top` shows at one instant, as frozen values, and how answers become them.

The feed makes a Frame a second and hands it to the screen whole; nothing of it changes afterwards. Rates
come from two samples of the counters; where PgBouncer counts per database only (STATS), a database's
pools share the figure and their rows say so. Times are microseconds, waits seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pooler.readback import UNCOUNTED, ShowRow
from pooler.stats import DatabaseStat, PoolStat, same

Key = tuple[str, str]
"""A pool: database and user."""

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
    xact_p99: float | None = None
    wait_p99: float | None = None
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
    clients: tuple[ShowRow, ...] = ()
    servers: tuple[ShowRow, ...] = ()
    taken: float = 0.0
    """Seconds that the answer took."""
    every: float = 0.0
    told: frozenset[str] = frozenset()
    """The views of which this console has told more about these rows: TRANSACTIONS, how old they are, as `xact_us`;
    SESSION_STATE, what is left in the session, as `session_state`, and for how long that has kept a server, as
    `pinned_us`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is counted when it happens. `last` is when the count was last seen to have grown, 0 for not yet;
    `recent` by how much in the last minute."""

    kind: str
    database: str
    reason: str
    count: int
    recent: int = 0
    last: float = 0.0

    @property
    def text(self) -> str:
        return f"{self.kind} {self.database} {self.reason}".lower()


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything on the screen."""

    now: float = 0.0
    taken: float = 0.0
    """When its figures were told; that is some time ago while there is no connection."""
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
    events: tuple[Event, ...] = ()
    counted: bool = False
    """Whether this console counts events."""
    delay: float = 1.0
    beside: tuple[Frame, ...] = ()
    """Of all the poolers that are watched, this one included; empty while it is the only one."""

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


def rates(now: DatabaseStat, before: DatabaseStat | None, seconds: float) -> Rates | None:
    """None for the first sample, and when they are no longer of the same thing, as after a restart."""
    known = same(now, before) if now.born != UNCOUNTED else None
    gained = now.counters.since(known.counters) if known is not None else None
    if gained is None or seconds <= 0:
        return None
    return Rates(
        tps=gained.xact_count / seconds,
        qps=gained.query_count / seconds,
        received=gained.bytes_received / seconds,
        sent=gained.bytes_sent / seconds,
        query_us=gained.query_time / seconds,
        avg_query=gained.query_time / gained.query_count if gained.query_count else float(now.averages.query_time),
    )


def pool_row(
    pool: PoolStat, database: DatabaseStat | None, rate: Rates | None, *, shared: bool, avg: float | None, paused: bool
) -> PoolRow:
    """A row from a pool's figures and what else is known of its database. `avg` is the mean query of the window that
    percentiles are of; where there are none to stand beside it, it is that of the last interval."""
    return PoolRow(
        database=pool.database,
        user=pool.user,
        mode=pool.pool_mode,
        active=pool.cl_active,
        waiting=pool.cl_waiting,
        busy=pool.sv_active,
        idle=pool.sv_idle + pool.sv_used,
        opening=pool.sv_login + pool.sv_tested,
        limit=pool.pool_size + pool.reserve_pool_size,
        maxwait=pool.maxwait_us / 1e6,
        tps=rate.tps if rate else None,
        shared=shared,
        avg_query=avg if avg is not None else rate.avg_query if rate else 0.0,
        p99=None,
        paused=paused or (database is not None and database.paused),
        disabled=database is not None and database.disabled,
    )


def mean_query(databases: Iterable[DatabaseStat]) -> float:
    """Of all these databases, over their last periods."""
    found = [(stat.averages.query_time, max(stat.averages.query_count, 1)) for stat in databases]
    count = sum(count for time, count in found if time)
    return sum(time * count for time, count in found) / count if count else 0.0


def totals(
    rows: Iterable[PoolRow], by_database: Iterable[Rates | None], trend: Trend, waits: Trend, avg: float | None = None
) -> Totals:
    """Sums over pools, and over databases for what is counted per database; `avg` as for `pool_row`."""
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
        avg_query=avg if avg is not None else spent / qps if qps else 0.0,
        maxwait=max((row.maxwait for row in pools), default=0.0),
        trend=trend,
        waits=waits,
    )
