"""The last hour, one sample per period and database, and the latencies of the last periods.

Fed with a Snapshot (with histograms) once per stats_period and asked by the views; it measures nothing,
starts no task and reads no clock. What it holds is bounded: samples older than an hour go, and never more
than MAX_SAMPLES stay however short the period and however many the databases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from pooler.relay.engine import plain
from pooler.stats import (
    ADMIN_DATABASE,
    QUANTILES,
    ZERO,
    Counters,
    DatabaseStat,
    Distributions,
    Histogram,
    HistorySample,
    PoolStat,
    Snapshot,
    gained,
    gained_in_all,
    gained_spread,
    merge,
    merged,
    seconds_between,
)
from pooler.values import dataclass

ALL = ""
"""The name under which `sums` keeps all databases together; no database has it."""
SPAN = 3600.0
"""Seconds a sample is kept."""
MAX_SAMPLES = 50_000

PoolKey = tuple[str, str]
"""(database, user)."""
Stat = TypeVar("Stat", PoolStat, DatabaseStat)


@dataclass(frozen=True, slots=True)
class Latency:
    """What one database or pool took in the last `seconds`; `user` is empty for a whole database."""

    database: str
    user: str
    seconds: float
    distributions: Distributions


class History:
    """`record` once per period; `samples`, `by_database` and `by_pool` whenever asked."""

    def __init__(self, now: float) -> None:
        self._samples: deque[HistorySample] = deque(maxlen=MAX_SAMPLES)
        self._sums: deque[HistorySample] = deque(maxlen=MAX_SAMPLES)
        self._began = now
        self._old: Snapshot | None = None
        self._new: Snapshot | None = None

    def record(self, snapshot: Snapshot, pace: Callable[[], None] = lambda: None) -> None:
        """End a period at `snapshot.now`. A snapshot no later than the last one is no period and is
        ignored. `pace` is called often: there may be thousands of databases."""
        seconds = self._seconds(snapshot, self._new)
        if seconds <= 0:
            return
        gains: dict[PoolKey, Distributions] = {}
        for pool, before in _beside(snapshot.pools, self._new.pools if self._new else (), _key):
            gains[_key(pool)] = gained_spread(pool, before)
            pace()
        span = _Span(snapshot.now, seconds, gains)
        pools = _by_database(snapshot.pools)
        for database, earlier in _beside(snapshot.databases, self._new.databases if self._new else (), _name):
            counters = gained(database, earlier)
            self._samples.append(plain(_sample(span, database.name, counters, pools.get(database.name, ()))))
            pace()
        whole = gained_in_all(snapshot, self._new or replace(snapshot, databases=(), total=ZERO))
        pooled = [pool for pool in snapshot.pools if pool.database != ADMIN_DATABASE]
        self._sums.append(_sample(span, ALL, whole, pooled))
        self._old, self._new = self._new, _kept(snapshot)
        for kept in (self._samples, self._sums):
            while kept and kept[0].time < snapshot.now - SPAN:
                kept.popleft()

    def _seconds(self, snapshot: Snapshot, mark: Snapshot | None) -> float:
        return snapshot.now - self._began if mark is None else seconds_between(snapshot, mark)

    def sums(self) -> tuple[HistorySample, ...]:
        """Of all pooled databases together, oldest first."""
        return tuple(self._sums)

    def everything(self) -> tuple[HistorySample, ...]:
        """The samples and, under the name ALL, their sums."""
        return (*self._samples, *self._sums)

    def samples(self) -> tuple[HistorySample, ...]:
        """Oldest first; databases in the order of their snapshot."""
        return tuple(self._samples)

    def by_pool(self, snapshot: Snapshot) -> Iterator[Latency]:
        """Latencies of each pool of `snapshot` (taken with histograms) since the mark before the last one:
        like SHOW STATS' averages they cover one to two periods, and what happened just now is in them."""
        seconds = self._seconds(snapshot, self._old)
        for pool, before in _beside(snapshot.pools, self._old.pools if self._old else (), _key):
            yield Latency(pool.database, pool.user, seconds, gained_spread(pool, before))

    def by_database(self, snapshot: Snapshot) -> Iterator[Latency]:
        """The same, one for each database that has pools."""
        parts: dict[str, list[Distributions]] = {}
        for latency in self.by_pool(snapshot):
            parts.setdefault(latency.database, []).append(latency.distributions)
        for name, gains in parts.items():
            yield Latency(name, "", self._seconds(snapshot, self._old), merged(gains))


def _beside(
    now: Iterable[Stat], before: Iterable[Stat], key: Callable[[Stat], object]
) -> Iterator[tuple[Stat, Stat | None]]:
    """Each with what had its name before."""
    known = {key(stat): stat for stat in before}
    return ((stat, known.get(key(stat))) for stat in now)


def _kept(snapshot: Snapshot) -> Snapshot:
    """What a mark needs of it."""
    return replace(
        snapshot, users=(), lists=(), peers=(), mem=(), dns_hosts=(), events=(), clients=(), servers=(), drains=()
    )


def _by_database(pools: Iterable[PoolStat]) -> dict[str, list[PoolStat]]:
    groups: dict[str, list[PoolStat]] = {}
    for pool in pools:
        groups.setdefault(pool.database, []).append(pool)
    return groups


@dataclass(frozen=True, slots=True)
class _Span:
    """A period that has just ended, and what each pool's distributions gained in it."""

    now: float
    seconds: float
    gains: Mapping[PoolKey, Distributions]


def _key(pool: PoolStat) -> PoolKey:
    return pool.database, pool.user


def _name(database: DatabaseStat) -> str:
    return database.name


def _sample(span: _Span, name: str, gained: Counters, pools: Iterable[PoolStat]) -> HistorySample:
    seconds, pools = span.seconds, tuple(pools)
    gains = [span.gains[_key(pool)] for pool in pools]
    return HistorySample(
        time=span.now,
        database=name,
        seconds=round(seconds, 3),
        tps=round(gained.xact_count / seconds, 3),
        qps=round(gained.query_count / seconds, 3),
        bytes_received=round(gained.bytes_received / seconds),
        bytes_sent=round(gained.bytes_sent / seconds),
        avg_xact_time=_per(gained.xact_time, gained.xact_count),
        avg_query_time=_per(gained.query_time, gained.query_count),
        avg_wait_time=_per(gained.wait_time, gained.server_assignment_count),
        cl_active=sum(pool.cl_active for pool in pools),
        cl_waiting=sum(pool.cl_waiting for pool in pools),
        sv_active=sum(pool.sv_active for pool in pools),
        sv_idle=sum(pool.sv_idle for pool in pools),
        sv_total=sum(_servers(pool) for pool in pools),
        maxwait_us=max((pool.maxwait_us for pool in pools), default=0),
        pool_size=sum(pool.pool_size for pool in pools),
        query_times=_times(merge(gain.query for gain in gains)),
        wait_times=_times(merge(gain.wait for gain in gains)),
    )


def _times(spread: Histogram) -> tuple[int, ...]:
    return spread.quantiles(QUANTILES) if spread.counts and spread.count else ()


def _servers(pool: PoolStat) -> int:
    cancels = pool.sv_active_cancel + pool.sv_being_canceled
    return pool.sv_active + pool.sv_idle + pool.sv_used + pool.sv_tested + pool.sv_login + cancels


def _per(total: int, count: int) -> int:
    return total // count if count > 0 else 0
