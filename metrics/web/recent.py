"""What the page shows of the time before it was opened: the last minutes by the second, the hour by the period.

A page is opened because something has just happened, so the feed keeps its ticks whether anybody looks or not. Rows
are packed, and a pool that does nothing costs no more than its name; what is kept is bounded in time and in pools. The
rule: a row covers the `seconds` before its `time`, and where there is no row nothing is known.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from math import isnan, nan
from typing import Any

from pooler.stats import ADMIN_DATABASE, Event, HistorySample

SPAN = 360.0
"""Seconds of ticks: five minutes, and as much as a sample of the hour may reach into them."""
MOST_POOLS = 200
"""Pools that are kept of one tick, the busiest."""
TREND = 60
"""Ticks of a trend."""
ALL = ("", "")
"""The key of all pools together."""
TROUBLES = frozenset({"error", "timeout", "round"})
"""Kinds of events that somebody should look at."""
OF_LATE = 300.0

PoolKey = tuple[str, str]
Row = list[Any]

PLAIN = ("tps", "qps", "recv", "sent", "ca", "cw", "sa", "si", "size")
SPREAD = ("query", "wait")
"""Each a mean and QUANTILES, or None."""
COLUMNS = ("time", "seconds", *PLAIN, *SPREAD)
"""Of a row, as the page gets it."""
_PACKED = struct.Struct(f"<{len(PLAIN) + 4 * len(SPREAD)}f")
_NONE = (None,) * 4


class Recent:
    """The ticks of the last minutes."""

    def __init__(self) -> None:
        self._ticks: deque[tuple[float, float, dict[PoolKey, bytes]]] = deque()

    def keep(self, now: float, seconds: float, entries: Mapping[PoolKey, Mapping[str, Any]]) -> None:
        """One tick. A clock that was set back leaves nothing that would be in the future."""
        before = self._ticks[-1][2] if self._ticks else {}
        packed: dict[PoolKey, bytes] = {}
        for key, entry in entries.items():
            known, row = before.get(key), _pack(entry)
            packed[key] = known if known == row else row
        while self._ticks and not now - SPAN <= self._ticks[0][0] < now:
            self._ticks.popleft()
        while self._ticks and self._ticks[-1][0] >= now:
            self._ticks.pop()
        self._ticks.append((now, seconds, packed))

    def keep_again(self, now: float, seconds: float) -> None:
        """One more tick, which is like the one before."""
        self._ticks.append((now, seconds, self._ticks[-1][2]))

    def rows(self, key: PoolKey) -> list[Row]:
        """Oldest first."""
        return [
            [time, round(seconds, 3), *_unpack(entries[key])]
            for time, seconds, entries in self._ticks
            if key in entries
        ]

    def trends(self) -> tuple[list[float], list[Row]]:
        """The times of the last ticks, and of each pool its transactions per second then."""
        ticks = list(self._ticks)[-TREND:]
        keys = ticks[-1][2] if ticks else {}
        rows = [[*key, [_first(entries.get(key)) for _, _, entries in ticks]] for key in keys if key != ALL]
        return [time for time, _, _ in ticks], rows


def _pack(entry: Mapping[str, Any]) -> bytes:
    values = [entry[name] for name in PLAIN]
    for name in SPREAD:
        values.extend(entry[name] or _NONE)
    return _PACKED.pack(*(nan if value is None else value for value in values))


def _unpack(packed: bytes) -> Iterator[Any]:
    values = [_figure(value) for value in _PACKED.unpack(packed)]
    yield from values[: len(PLAIN)]
    for place in range(len(PLAIN), len(values), 4):
        yield None if values[place] is None else values[place : place + 4]


def _figure(value: float) -> float | int | None:
    if isnan(value):
        return None
    return int(value) if value.is_integer() else round(value, 1)


def _first(packed: bytes | None) -> float | int | None:
    return None if packed is None else _figure(_PACKED.unpack_from(packed)[0])


def past(samples: Iterable[HistorySample], recent: list[Row]) -> Iterator[Row]:
    """The hour's samples of one name up to where the ticks begin, and the ticks from there."""
    began = recent[0][0] - recent[0][1] if recent else float("inf")
    last = 0.0
    for sample in samples:
        if sample.time - sample.seconds < began:
            yield _row_of(sample)
            last = sample.time
    yield from (row for row in recent if row[0] > last)


def _row_of(sample: HistorySample) -> Row:
    query = [sample.avg_query_time, *(sample.query_times or _NONE[1:])] if sample.qps else None
    wait = [sample.avg_wait_time, *(sample.wait_times or _NONE[1:])] if sample.tps else None
    return [
        sample.time, sample.seconds, sample.tps, sample.qps, sample.bytes_received, sample.bytes_sent,
        sample.cl_active, sample.cl_waiting, sample.sv_active, sample.sv_idle, sample.pool_size, query, wait,
    ]  # fmt: skip


class Happened:
    """The pooler's counts of rare things: how often of late, and when last. What it had counted before it was first
    asked has no time."""

    COLUMNS = ("kind", "database", "reason", "count", "recent", "last")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] | None = None
        self._last: dict[tuple[str, str, str], float] = {}
        self._gains: deque[tuple[float, tuple[str, str, str], int]] = deque()

    def keep(self, now: float, events: Iterable[Event]) -> None:
        counts = {(event.kind, event.database, event.reason): event.count for event in events}
        for key, count in counts.items() if self._counts is not None else ():
            gained = count - (self._counts or {}).get(key, 0)
            if gained > 0:
                self._last[key] = now
                self._gains.append((now, key, gained))
        self._counts = counts
        self._last = {key: time for key, time in self._last.items() if key in counts}
        while self._gains and self._gains[0][0] < now - OF_LATE:
            self._gains.popleft()

    def troubles(self) -> int:
        """How many of late."""
        return sum(gained for _, (kind, _, _), gained in self._gains if kind in TROUBLES)

    def rows(self) -> list[Row]:
        """In COLUMNS; what happened last comes first."""
        recent: Counter[tuple[str, str, str]] = Counter()
        for _, key, gained in self._gains:
            recent[key] += gained
        rows = [[*key, count, recent[key], self._last.get(key)] for key, count in (self._counts or {}).items()]
        return sorted(rows, key=lambda row: (-(row[5] or 0), row[:3]))


def of_name(samples: Iterable[HistorySample], name: str) -> Iterator[HistorySample]:
    """Those of one database; without a name those of all together. The console is no traffic."""
    return (sample for sample in samples if sample.database == name and name != ADMIN_DATABASE)
