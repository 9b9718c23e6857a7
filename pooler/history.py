"""The last hour, one sample per period and database, and the latencies of the last periods.

Fed with a Snapshot (with histograms) once per stats_period and asked by the views; it measures nothing,
starts no task and reads no clock. What it holds is bounded: samples older than an hour go, and never more
than MAX_SAMPLES stay however short the period and however many the databases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from pooler.relay.engine import plain
from pooler.stats import ZERO, Counters, Distributions, Histogram, PoolStat, Snapshot, merge
from pooler.values import dataclass

QUANTILES = (0.5, 0.95, 0.99)
ALL = ""
"""The name under which `sums` keeps all databases together; no database has it."""
SPAN = 3600.0
"""Seconds a sample is kept."""
MAX_SAMPLES = 50_000

CONSOLE = "pgbouncer"
"""The admin database, whose queries are not traffic."""

PoolKey = tuple[str, str]
"""(database, user)."""


@dataclass(frozen=True, slots=True)
class HistorySample:
    """One database over one period that ended at `time` and lasted `seconds`. Rates are per second, times in
    microseconds; the counts of clients and servers are those at the period's end."""

    time: float
    database: str
    seconds: float
    tps: float
    qps: float
    bytes_received: int
    bytes_sent: int
    avg_xact_time: int
    avg_query_time: int
    avg_wait_time: int
    cl_active: int
    cl_waiting: int
    sv_active: int
    sv_idle: int
    sv_total: int
    maxwait_us: int
    pool_size: int = 0
    query_times: tuple[int, ...] = ()
    """QUANTILES of the period's queries in microseconds; empty when there was none."""
    wait_times: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """What one database or pool took in the last `seconds`; `user` is empty for a whole database."""

    database: str
    user: str
    seconds: float
    distributions: Distributions


@dataclass(frozen=True, slots=True)
class _Mark:
    """What had been counted when a period ended."""

    time: float
    counters: Mapping[str, Counters]
    distributions: Mapping[PoolKey, Distributions]


class History:
    """`record` once per period; `samples`, `by_database` and `by_pool` whenever asked."""

    def __init__(self, now: float) -> None:
        self._samples: deque[HistorySample] = deque(maxlen=MAX_SAMPLES)
        self._sums: deque[HistorySample] = deque(maxlen=MAX_SAMPLES)
        self._old = self._new = _Mark(now, {}, {})

    def record(self, snapshot: Snapshot, pace: Callable[[], None] = lambda: None) -> None:
        """End a period at `snapshot.now`. A snapshot no later than the last one is no period and is
        ignored. `pace` is called often: there may be thousands of databases."""
        seconds = snapshot.now - self._new.time
        if seconds <= 0:
            return
        gains: dict[PoolKey, Distributions] = {}
        for pool in snapshot.pools:
            gains[_key(pool)] = self._gain(pool)
            pace()
        span = _Span(snapshot.now, seconds, gains)
        pools = _by_database(snapshot.pools)
        whole = ZERO
        for database in snapshot.databases:
            gained = _gained(database.counters, self._new.counters.get(database.name, ZERO))
            whole += gained if database.name != CONSOLE else ZERO
            self._samples.append(plain(_sample(span, database.name, gained, pools.get(database.name, ()))))
            pace()
        pooled = [pool for pool in snapshot.pools if pool.database != CONSOLE]
        self._sums.append(_sample(span, ALL, whole, pooled))
        self._old, self._new = self._new, _mark(snapshot)
        for kept in (self._samples, self._sums):
            while kept and kept[0].time < snapshot.now - SPAN:
                kept.popleft()

    def _gain(self, pool: PoolStat) -> Distributions:
        now, before = pool.distributions or Distributions(), self._new.distributions.get(_key(pool))
        return now if before is None else _difference(now, before)

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
        seconds = snapshot.now - self._old.time
        for pool in snapshot.pools:
            yield Latency(pool.database, pool.user, seconds, self._since(pool))

    def by_database(self, snapshot: Snapshot) -> Iterator[Latency]:
        """The same, one for each database that has pools."""
        seconds = snapshot.now - self._old.time
        for name, pools in _by_database(snapshot.pools).items():
            yield Latency(name, "", seconds, _merged(self._since(pool) for pool in pools))

    def _since(self, pool: PoolStat) -> Distributions:
        now = pool.distributions or Distributions()
        before = self._old.distributions.get((pool.database, pool.user))
        return now if before is None else _difference(now, before)


def _by_database(pools: Iterable[PoolStat]) -> dict[str, list[PoolStat]]:
    groups: dict[str, list[PoolStat]] = {}
    for pool in pools:
        groups.setdefault(pool.database, []).append(pool)
    return groups


def _mark(snapshot: Snapshot) -> _Mark:
    return _Mark(
        snapshot.now,
        {database.name: database.counters for database in snapshot.databases},
        {(pool.database, pool.user): pool.distributions for pool in snapshot.pools if pool.distributions},
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """A period that has just ended, and what each pool's distributions gained in it."""

    now: float
    seconds: float
    gains: Mapping[PoolKey, Distributions]


def _key(pool: PoolStat) -> PoolKey:
    return pool.database, pool.user


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


def _gained(now: Counters, before: Counters) -> Counters:
    """The difference; all of `now` when the counts went back, since the database was removed and came
    again."""
    if now is before:
        return ZERO
    return now if now.bytes_received < before.bytes_received else now - before


def _per(total: int, count: int) -> int:
    return total // count if count > 0 else 0


def _difference(now: Distributions, before: Distributions) -> Distributions:
    if now.query.count < before.query.count or now.wait.count < before.wait.count:
        return now
    return Distributions(
        now.wait - before.wait, now.query - before.query, now.xact - before.xact, now.login - before.login
    )


def _merged(parts: Iterable[Distributions]) -> Distributions:
    whole = tuple(parts)
    return Distributions(
        merge(part.wait for part in whole),
        merge(part.query for part in whole),
        merge(part.xact for part in whole),
        merge(part.login for part in whole),
    )
