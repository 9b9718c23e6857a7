"""What the live page is fed with: one JSON value a second from a Snapshot, made once for all viewers.

The ticks go on while nobody looks, and are kept for who comes next; then they may cost less, and those of a time in
which nothing happens are made when it is over, out of the one before. A viewer that reads slowly skips values, it never
queues them. Every rate and every quantile covers the time since the value before, so the page shows what happens now
and not an average since start. The rule: traffic passes between any two pools.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from math import inf
from operator import attrgetter
from typing import Any

from metrics.source import Source, Unavailable, take
from metrics.web.recent import ALL, MOST_POOLS, SPAN, Happened, PoolKey, Recent
from pooler.rounds import Rounds, in_the_log_of
from pooler.stats import (
    ADMIN_DATABASE,
    QUANTILES,
    ZERO,
    Counters,
    Distributions,
    Histogram,
    PoolStat,
    Snapshot,
    gained,
    gained_in_all,
    gained_spread,
    merge,
    seconds_between,
)
from pooler.stirring import Stirring

TICK_SECONDS = 1.0
MAX_SHARE, UNWATCHED_SHARE = 0.1, 0.02
"""Of the time, at most, goes into making values: with thousands of pools the ticks become longer."""
MAX_POOLS = 500
"""Pools shown one by one, the busiest; all are in the sums."""

Json = dict[str, Any]
Gain = tuple[Counters, Distributions]
Pace = Callable[[], None]


def no_pace() -> None:
    """Nobody waits for the turn."""


def value_of(snapshot: Snapshot, before: Snapshot | None, pace: Pace = no_pace) -> Json:
    """One tick: the pooled databases' pools, their sums, and the pooler's state."""
    seconds = seconds_between(snapshot, before) if before else 0.0
    old = {_key(pool): pool for pool in before.pools} if before else {}
    pools = [pool for pool in snapshot.pools if pool.database != ADMIN_DATABASE]
    gains: dict[PoolKey, Gain] = {}
    for pool in pools:
        pace()
        gains[_key(pool)] = _gained(pool, old.get(_key(pool)), before is not None)
    shown = sorted(pools, key=lambda pool: _weight(pool, gains[_key(pool)][0]), reverse=True)[:MAX_POOLS]
    entries: list[Json] = []
    for pool in shown:
        pace()
        entries.append(_pool_entry(pool, gains[_key(pool)], seconds))
    spread = [distributions for _, distributions in gains.values()]
    return {
        "t": snapshot.now,
        "s": round(seconds, 3),
        "about": _about(snapshot),
        "databases": _databases(snapshot),
        "all": _entry(pools, gained_in_all(snapshot, before) if before else ZERO, spread, seconds, pace),
        "pools": entries,
        "hidden": len(pools) - len(shown),
    }


def _databases(snapshot: Snapshot) -> Json:
    pooled = [stat for stat in snapshot.databases if stat.name != ADMIN_DATABASE]
    return {
        "count": len(pooled),
        "paused": [stat.name for stat in pooled if stat.paused],
        "disabled": [stat.name for stat in pooled if stat.disabled],
    }


def _key(pool: PoolStat) -> PoolKey:
    return pool.database, pool.user


def _gained(pool: PoolStat, old: PoolStat | None, had_before: bool) -> Gain:
    """Since the tick before; nothing at the first tick, which has no time it could be spread over."""
    if not had_before:
        return ZERO, Distributions()
    counters = gained(pool, old)
    if not counters.query_count and not counters.server_assignment_count:
        return counters, Distributions()
    return counters, gained_spread(pool, old)


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


def _pool_entry(pool: PoolStat, gain: Gain, seconds: float) -> Json:
    entry = _entry([pool], gain[0], [gain[1]], seconds)
    if pool.counters == ZERO:
        entry.update(dict.fromkeys(("tps", "qps", "recv", "sent")))
    return {"db": pool.database, "user": pool.user, "mode": pool.pool_mode, **entry}


def _entry(
    pools: list[PoolStat], counters: Counters, spread: list[Distributions], seconds: float, pace: Pace = no_pace
) -> Json:
    def times(total: int, count: int, kind: Callable[[Distributions], Histogram]) -> list[int | None] | None:
        pace()
        return _times(total, count, map(kind, spread))

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
        "query": times(counters.query_time, counters.query_count, attrgetter("query")),
        "wait": times(counters.wait_time, counters.server_assignment_count, attrgetter("wait")),
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
    """The ticks. `unwatched` is the time between two while nobody looks; `run` goes on for ever."""

    def __init__(
        self,
        source: Source,
        tick: float = TICK_SECONDS,
        *,
        unwatched: float = TICK_SECONDS,
        rounds: Rounds | None = None,
        pace: Pace = no_pace,
        stirring: Stirring | None = None,
    ) -> None:
        self._stirring = stirring or Stirring()
        self._seen = -1
        """What had happened at the last look."""
        self._dozing = False
        """Whether nothing has happened since, as far as is known."""
        self._rounds = rounds or in_the_log_of("metrics")
        self._source = source
        self._tick = tick
        self._unwatched = unwatched
        self._pace = pace
        self._spent = 0.0
        self._due = -inf
        self._before: Snapshot | None = None
        self._viewers: set[asyncio.Queue[bytes]] = set()
        self._watched = asyncio.Event()
        self._last: tuple[str, Json] | None = None
        self._recent = Recent()
        self._happened = Happened()

    @property
    def recent(self) -> Recent:
        self._catch_up()
        return self._recent

    @property
    def happened(self) -> Happened:
        self._catch_up()
        return self._happened

    @asynccontextmanager
    async def viewer(self) -> AsyncIterator[asyncio.Queue[bytes]]:
        """A queue of encoded events, never more than one in it."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._catch_up()
        if self._last is not None:
            queue.put_nowait(sse(*self._last))
        self._viewers.add(queue)
        self._watched.set()
        try:
            yield queue
        finally:
            self._viewers.discard(queue)

    def users_of(self, database: str) -> set[str]:
        """Those who have a pool there now, or have had one when there were figures last."""
        before = self._before
        return {pool.user for pool in before.pools if pool.database == database} if before is not None else set()

    async def run(self) -> None:
        await self._rounds.forever("live page", self._until_due, self._look)

    async def _until_due(self) -> None:
        """Sooner when somebody has come meanwhile, and not at all while nothing happens."""
        if not self._viewers and self._before is not None:
            self._dozing = True
            try:
                await self._stirring.since(self._seen)
                self._catch_up()
            finally:
                self._dozing = False
        while (left := self._next() - time.monotonic()) > 0:
            self._watched.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._watched.wait()

    def _next(self) -> float:
        if not self._viewers:
            return self._due + self._while_unwatched
        return self._due + max(self._tick, self._spent / MAX_SHARE)

    @property
    def _while_unwatched(self) -> float:
        """Seconds of a tick."""
        return max(self._unwatched, self._spent / UNWATCHED_SHARE)

    def _catch_up(self) -> None:
        """The ticks that are over by now of a time in which nothing has happened."""
        seconds, before = self._while_unwatched, self._before
        ticks = int((time.monotonic() - self._due) / seconds) if self._dozing else 0
        if ticks < 1 or before is None:
            return
        self._due += ticks * seconds
        now = time.time() - (time.monotonic() - self._due)
        steady = None if before.steady is None else before.steady + ticks * seconds
        self._before = replace(before, now=now, steady=steady)
        previous = replace(before, now=now - seconds, steady=None if steady is None else steady - seconds)
        value = value_of(self._before, previous, self._pace)
        kept = min(ticks, int(SPAN / seconds) + 1)
        self._keep(replace(before, now=now - (kept - 1) * seconds), value)
        for left in reversed(range(kept - 1)):
            self._recent.keep_again(now - left * seconds, seconds)
        self._happened.keep(now, before.events)
        self._show("tick", value | {"troubles": self._happened.troubles()})

    async def _look(self) -> None:
        """One tick. Viewers are told when there are no figures, and why; what is wrong with us is for the log."""
        self._due = began = time.monotonic()
        self._seen = self._stirring.happened()
        try:
            snapshot = await take(self._source, histograms=True)
            value = value_of(snapshot, self._before, self._pace)
            self._keep(snapshot, value)
            self._before = snapshot
            self._show("tick", value | {"troubles": self._happened.troubles()})
        except Exception as error:
            self._before = None
            why = str(error) if isinstance(error, Unavailable) else "the figures cannot be had, see the log"
            self._show("down", {"t": time.time(), "reason": why})
            if not isinstance(error, Unavailable):
                raise
        self._spent = time.monotonic() - began

    def _keep(self, snapshot: Snapshot, value: Json) -> None:
        self._happened.keep(snapshot.now, snapshot.events)
        if value["s"] > 0:
            entries = {(entry["db"], entry["user"]): entry for entry in value["pools"][:MOST_POOLS]}
            self._recent.keep(snapshot.now, value["s"], entries | {ALL: value["all"]})

    def _show(self, kind: str, value: Json) -> None:
        self._last = kind, value
        event = sse(kind, value) if self._viewers else b""
        for queue in self._viewers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
