"""What the live page is fed with: one JSON value a second from a Snapshot, made once for all viewers.

Nothing runs while nobody looks. A viewer that reads slowly skips values, it never queues them. Every rate
and every quantile covers the time since the value before, so the page shows what happens now and not an
average since start.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from metrics.heroku import CONSOLE, gain
from metrics.source import Source, Unavailable, take
from pooler.stats import ZERO, Counters, Distributions, Histogram, PoolStat, Snapshot, merge

TICK_SECONDS = 1.0
MAX_SHARE = 0.1
"""Of the time, at most, goes into making values: with thousands of pools the ticks become longer."""
MAX_POOLS = 200
"""Pools shown one by one, the busiest; all are in the sums."""
MAX_ROWS = 6000
"""Of history, for a page that is opened: an hour of a hundred databases."""
ALL = ""
"""The name of the samples of all databases together."""
QUANTILES = (0.5, 0.95, 0.99)

Json = dict[str, Any]
PoolKey = tuple[str, str]
Gain = tuple[Counters, Distributions]


class HistorySample(Protocol):
    """One database over one period, as the pooler's history ring keeps it."""

    @property
    def time(self) -> float: ...
    @property
    def database(self) -> str: ...
    @property
    def tps(self) -> float: ...
    @property
    def qps(self) -> float: ...
    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def avg_query_time(self) -> int: ...
    @property
    def avg_wait_time(self) -> int: ...
    @property
    def cl_active(self) -> int: ...
    @property
    def cl_waiting(self) -> int: ...
    @property
    def sv_active(self) -> int: ...
    @property
    def sv_idle(self) -> int: ...
    @property
    def pool_size(self) -> int: ...
    @property
    def query_times(self) -> tuple[int, ...]:
        """p50, p95 and p99; empty when nothing happened or nothing is known."""

    @property
    def wait_times(self) -> tuple[int, ...]: ...


HistoryReader = Callable[[], Iterable[HistorySample]]

COLUMNS = (
    "time", "database", "tps", "qps", "bytes_received", "bytes_sent", "avg_query_time", "avg_wait_time",
    "cl_active", "cl_waiting", "sv_active", "sv_idle", "pool_size", "query_times", "wait_times",
)  # fmt: skip
"""Of a history sample, as the page gets it: a list per sample in this order."""


def history_value(samples: Iterable[HistorySample]) -> Json:
    """The last hour for a page that has just been opened; a sample without a name is of all databases together. The
    console database is not traffic."""
    known = [sample for sample in samples if sample.database != CONSOLE]
    kept = _busiest(known) if len(known) > MAX_ROWS else {sample.database for sample in known}
    rows = [[getattr(sample, name) for name in COLUMNS] for sample in known if sample.database in kept]
    return {"columns": list(COLUMNS), "rows": rows}


def _busiest(samples: list[HistorySample]) -> set[str]:
    """The databases with the most queries, as many as MAX_ROWS has room for; the nameless sum is always one."""
    queries: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for sample in samples:
        queries[sample.database] += round(sample.qps) + 1
        rows[sample.database] += 1
    room, kept = MAX_ROWS - rows[ALL], {ALL}
    for name, _ in queries.most_common():
        room -= rows[name] if name else 0
        if room < 0:
            break
        kept.add(name)
    return kept


def value_of(snapshot: Snapshot, before: Snapshot | None) -> Json:
    """One tick: the pooled databases' pools, their sums, and the pooler's state."""
    seconds = snapshot.now - before.now if before else 0.0
    old = {_key(pool): pool for pool in before.pools} if before else {}
    pools = [pool for pool in snapshot.pools if pool.database != CONSOLE]
    gains = {_key(pool): _gained(pool, old.get(_key(pool)), before is not None) for pool in pools}
    shown = sorted(pools, key=lambda pool: _weight(pool, gains[_key(pool)][0]), reverse=True)[:MAX_POOLS]
    spread = [gained for _, gained in gains.values()]
    return {
        "t": snapshot.now,
        "about": _about(snapshot),
        "databases": [[d.name, d.paused, d.disabled] for d in snapshot.databases if d.name != CONSOLE],
        "all": _entry(pools, _database_gains(snapshot, before), spread, seconds),
        "pools": [_pool_entry(pool, gains[_key(pool)], seconds) for pool in shown],
        "hidden": len(pools) - len(shown),
    }


def _database_gains(snapshot: Snapshot, before: Snapshot | None) -> Counters:
    """Of all databases together: a PgBouncer that is not ours counts by database only."""
    if before is None:
        return ZERO
    old = {stat.name: stat.counters for stat in before.databases}
    stats = [stat for stat in snapshot.databases if stat.name != CONSOLE]
    return sum((_since(stat.counters, old.get(stat.name, ZERO)) for stat in stats), ZERO)


def _since(now: Counters, before: Counters) -> Counters:
    """What was gained; all of it when the counts went back, since they began anew."""
    gained = now - before
    return now if min(gained.query_count, gained.xact_count, gained.bytes_received) < 0 else gained


def _key(pool: PoolStat) -> PoolKey:
    return pool.database, pool.user


def _gained(pool: PoolStat, old: PoolStat | None, had_before: bool) -> Gain:
    """Since the tick before; nothing at the first tick, which has no time it could be spread over."""
    if not had_before:
        return ZERO, Distributions()
    counters = _since(pool.counters, old.counters) if old else pool.counters
    if not counters.query_count and not counters.server_assignment_count:
        return counters, Distributions()
    return counters, gain(pool, old)


def _weight(pool: PoolStat, counters: Counters) -> tuple[int, int, int]:
    return pool.cl_waiting, counters.query_count, pool.cl_active


def _about(snapshot: Snapshot) -> Json:
    process = snapshot.process
    state = "suspended" if snapshot.suspended else "paused" if snapshot.paused else "active"
    return {
        "name": process.name,
        "version": process.version,
        "started": process.start_time,
        "resident": process.resident_bytes,
        "max_clients": snapshot.max_client_conn,
        "state": state,
    }


def _pool_entry(pool: PoolStat, gained: Gain, seconds: float) -> Json:
    entry = _entry([pool], gained[0], [gained[1]], seconds)
    if pool.counters == ZERO:
        entry.update(dict.fromkeys(("tps", "qps", "recv", "sent")))
    return {"db": pool.database, "user": pool.user, "mode": pool.pool_mode, **entry}


def _entry(pools: list[PoolStat], counters: Counters, spread: list[Distributions], seconds: float) -> Json:
    return {
        "size": sum(pool.pool_size for pool in pools),
        "ca": sum(pool.cl_active for pool in pools),
        "cw": sum(pool.cl_waiting for pool in pools),
        "sa": sum(pool.sv_active for pool in pools),
        "si": sum(pool.sv_idle + pool.sv_used + pool.sv_tested for pool in pools),
        "sl": sum(pool.sv_login for pool in pools),
        "maxwait": max((pool.maxwait_us for pool in pools), default=0),
        "tps": _rate(counters.xact_count, seconds),
        "qps": _rate(counters.query_count, seconds),
        "recv": _rate(counters.bytes_received, seconds),
        "sent": _rate(counters.bytes_sent, seconds),
        "query": _times(counters.query_time, counters.query_count, (part.query for part in spread)),
        "xact": _times(counters.xact_time, counters.xact_count, (part.xact for part in spread)),
        "wait": _times(counters.wait_time, counters.server_assignment_count, (part.wait for part in spread)),
    }


def _times(total: int, count: int, parts: Iterable[Histogram]) -> list[int | None] | None:
    """[mean, p50, p95, p99] in microseconds; quantiles None without histograms; None when nothing happened,
    which is not the same as zero."""
    whole = merge(parts)
    if not count:
        return None
    quantiles = whole.quantiles(QUANTILES) if whole.counts and whole.count else (None,) * len(QUANTILES)
    return [total // count, *quantiles]


def _rate(count: int, seconds: float) -> float | None:
    """None for the first tick, which has no time it could be spread over."""
    return round(count / seconds, 1) if seconds > 0 else None


def sse(event: str, value: Json) -> bytes:
    """One server-sent event. JSON has no line breaks of its own, so `data:` stays one line."""
    return f"event: {event}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class Feed:
    """The ticks, while there are viewers."""

    def __init__(self, source: Source, tick: float = TICK_SECONDS) -> None:
        self._source = source
        self._tick = tick
        self._viewers: set[asyncio.Queue[bytes]] = set()
        self._task: asyncio.Task[None] | None = None
        self._last: bytes | None = None

    @asynccontextmanager
    async def viewer(self) -> AsyncIterator[asyncio.Queue[bytes]]:
        """A queue of encoded events, never more than one in it."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._viewers.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live page feed")
        elif self._last is not None:
            queue.put_nowait(self._last)
        try:
            yield queue
        finally:
            self._viewers.discard(queue)
            if not self._viewers and self._task is not None:
                self._task.cancel()
                self._task = self._last = None

    async def _run(self) -> None:
        before: Snapshot | None = None
        while True:
            began = time.monotonic()
            try:
                snapshot = await take(self._source, histograms=True)
                event = sse("tick", value_of(snapshot, before))
                before = snapshot
            except Unavailable as reason:
                event = sse("down", {"t": time.time(), "reason": str(reason)})
                before = None
            self._show(event)
            spent = time.monotonic() - began
            await asyncio.sleep(max(self._tick - spent, spent / MAX_SHARE, 0))

    def _show(self, event: bytes) -> None:
        self._last = event
        for queue in self._viewers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
