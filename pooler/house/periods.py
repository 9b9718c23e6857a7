"""The periods of the statistics: at the end of each stats_period the averages' window turns, the history is fed, and
the `stats:` line is written. The rule: a step that fails keeps no other step from its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from pooler.config.whole import Changes
from pooler.history import History
from pooler.house.snapshot import TOTAL
from pooler.log import LOG
from pooler.pools.running import Running
from pooler.relay.engine import Instant
from pooler.stats import Counters, Snapshot, Window


class Counted(Protocol):
    """What periods are made of."""

    @property
    def window(self) -> Window: ...

    def take(self, instant: Instant, *, histograms: bool = False) -> Snapshot: ...

    def counters(self) -> dict[object, Counters]: ...


class Periods:
    """One after the other, each as long as the configuration says."""

    def __init__(self, running: Running, figures: Counted, history: History) -> None:
        self._running = running
        self.figures = figures
        """Of what is counted here, or in all workers."""
        self._history = history
        self._other = asyncio.Event()
        """The period is another one now."""
        self.before: Callable[[], Awaitable[object]] | None = None
        """Done at the end of each, before it is told: where figures have to be fetched, or prepared."""

    def changed(self, found: Changes) -> None:
        if "stats_period" in found.settings:
            self._other.set()

    async def turn_forever(self) -> None:
        running = self._running
        await running.rounds.forever("statistics", self.sleep, lambda: self.turn(running.now()))

    async def sleep(self) -> None:
        """Until the next one ends, also when it becomes another one meanwhile."""
        running = self._running
        began = running.now()
        while (left := began + running.config.settings.stats_period - running.now()) > 0:
            self._other.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._other.wait()
        if self.before is not None:
            await self.before()

    def turn(self, now: float) -> None:
        """The end of one period."""
        for step in STEPS:
            self._running.rounds.attempt(step.__name__, step, self, now)

    def end_period(self, now: float) -> None:
        self._running.relay.end_period()

    def turn_window(self, now: float) -> None:
        self.figures.window.turn(now, self.figures.counters())

    def feed_history(self, now: float) -> None:
        running = self._running
        self._history.record(self.figures.take(running.instant(), histograms=True), running.relay.pace)

    def say_averages(self, now: float) -> None:
        if self._running.config.settings.log_stats:
            self._running.say(LOG, stats_line(self.figures.window))


STEPS = (Periods.end_period, Periods.turn_window, Periods.feed_history, Periods.say_averages)


def stats_line(window: Window) -> str:
    """The line of averages over exactly the last period, all databases together."""
    a = window.last_period(TOTAL)
    return (
        f"stats: {a.xact_count} xacts/s, {a.query_count} queries/s, {a.client_parse_count} client parses/s, "
        f"{a.server_parse_count} server parses/s, {a.bind_count} binds/s, "
        f"{a.client_login_count} client logins/s, in {a.bytes_received} B/s, out {a.bytes_sent} B/s, "
        f"xact {a.xact_time} us, query {a.query_time} us, wait {a.wait_time} us"
    )

