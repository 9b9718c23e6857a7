"""The figures that sparklines show: by pool and for all pools, tps and waiting clients over the last minutes.

Fed by each sample of the feed, and at the start by the server's own history, where it keeps one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from admin.top.model import Key, Trend
from admin.top.series import WINDOW, Series
from pooler.readback import ShowRow, sample_of
from pooler.stats import ADMIN_DATABASE


class Trends:
    """Series of every pool, and of all together."""

    def __init__(self) -> None:
        self._tps: dict[Key, Series] = {}
        self._waits: dict[Key, Series] = {}
        self._all_tps, self._all_waits = Series(), Series()
        self._past: dict[str, Series] = {}
        self._span = 0.0

    @property
    def empty(self) -> bool:
        return not self._all_tps.filled

    @property
    def span(self) -> float:
        """Seconds that the trends cover, all the same."""
        return self._span

    def remember(self, history: Iterable[ShowRow], now: float) -> None:
        """Begin with the rows of SHOW HISTORY that are young enough."""
        sums: dict[float, tuple[float, float]] = {}
        for row in history:
            try:
                past = sample_of(row)
            except ValueError:
                continue
            if past.time < now - WINDOW or past.database == ADMIN_DATABASE:
                continue
            self._past.setdefault(past.database, Series()).add(past.time, past.seconds, past.tps)
            sums[past.time] = past.seconds, sums.get(past.time, (0.0, 0.0))[1] + past.tps
        for end, (seconds, tps) in sorted(sums.items()):
            self._all_tps.add(end, seconds, tps)

    def sample(self, now: float, seconds: float, tps: Mapping[Key, float], waiting: Mapping[Key, int]) -> None:
        """Add what the pools did in the last `seconds`; a pool without a rate yet is not in `tps`."""
        for key, value in tps.items():
            if key not in self._tps:
                alone = sum(database == key[0] for database, _ in tps) == 1
                self._tps[key] = self._past.pop(key[0], Series()) if alone else Series()
            self._tps[key].add(now, seconds, value)
        for key, count in waiting.items():
            self._waits.setdefault(key, Series()).add(now, seconds, count)
        self._all_waits.add(now, seconds, sum(waiting.values()))
        self._span = max(self._all_tps.span(now), self._all_waits.span(now))
        self._forget(waiting)

    def sample_all(self, now: float, seconds: float, tps: float) -> None:
        """Add the sum over all pools; apart, since a database's pools may share one figure."""
        self._all_tps.add(now, seconds, tps)

    def of(self, key: Key, now: float) -> tuple[Trend, Trend]:
        """One pool's tps and waiting clients."""
        tps, waits = self._tps.get(key) or self._past.get(key[0]), self._waits.get(key)
        return (
            tps.buckets(now, self._span) if tps else (),
            waits.buckets(now, self._span) if waits else (),
        )

    def of_all(self, now: float) -> tuple[Trend, Trend]:
        return self._all_tps.buckets(now, self._span), self._all_waits.buckets(now, self._span)

    def _forget(self, present: Mapping[Key, int]) -> None:
        """Let go of pools long gone, once they are many."""
        if len(self._waits) > 2 * len(present) + 100:
            self._tps = {key: series for key, series in self._tps.items() if key in present}
            self._waits = {key: series for key, series in self._waits.items() if key in present}
