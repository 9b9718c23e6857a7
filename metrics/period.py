"""Once a period: a Snapshot becomes log lines, and the lines go to the sinks, the ring and whoever follows.

`Reporter` decides when; `metrics.heroku` says what a line is and the sinks where it goes. Nothing here waits
for a sink or a follower. The first lines come a second after the start, and from then on every period; those of the
first traffic come in between and shift nothing; they are not looked for while nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType

from metrics.drains.sink import Pusher, Sink
from metrics.heroku import LogLine, log_lines
from metrics.source import Source, Unavailable, take
from pooler.rounds import Rounds, in_the_log_of
from pooler.stats import ADMIN_DATABASE, DrainStat, Snapshot
from pooler.stirring import Stirring

LOG = logging.getLogger("metrics")

PERIOD = 60.0
LOOK_SECONDS = 1.0
"""How often traffic is looked for until there has been some."""
KEEP_LINES = 1500
"""`heroku logs` keeps as many."""
BATCH_LINES = 256
"""More lines than this at once are handed out in parts, so that a drain's buffer can empty in between."""
BATCH_PAUSE = 0.2


class Follower:
    """Lines from now on, for one reader; a reader that falls `limit` lines behind misses the oldest."""

    def __init__(self, leave: Callable[[Follower], None], limit: int = KEEP_LINES) -> None:
        self._lines: deque[LogLine] = deque(maxlen=limit)
        self._more = asyncio.Event()
        self._leave = leave
        self.missed = 0

    def push(self, line: LogLine) -> None:
        self.missed += len(self._lines) == self._lines.maxlen
        self._lines.append(line)
        self._more.set()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> LogLine:
        while not self._lines:
            self._more.clear()
            await self._more.wait()
        return self._lines.popleft()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self)


class Rhythm:
    """Decides when to look at the figures and when to report them. Times are the caller's, in seconds."""

    def __init__(self, period: float, now: float) -> None:
        self.period = period
        self.next_look = self.regular = now + LOOK_SECONDS
        """`regular`: when to report in any case."""
        self._last: float | None = None
        self._seen = False

    def decide(self, now: float, traffic: bool) -> bool:
        """Called at every look, with whether there has ever been traffic: True to report."""
        began = traffic and not self._seen
        self._seen = self._seen or traffic
        due = self._last is None or now >= self._last + self.period
        if due:
            on_time = self._last is not None and now < self._last + 2 * self.period
            self._last = self._last + self.period if on_time and self._last is not None else now
        assert self._last is not None
        self.regular = self._last + self.period
        self.next_look = self.regular if self._seen else min(self.regular, now + LOOK_SECONDS)
        return due or began


class Reporter:
    """The lines of one source, for all sinks."""

    def __init__(
        self,
        source: Source,
        sinks: Iterable[Sink] = (),
        *,
        period: float = PERIOD,
        extra: bool = False,
        keep: int = KEEP_LINES,
        warn: Callable[[str], object] = LOG.warning,
        rounds: Rounds | None = None,
        stirring: Stirring | None = None,
    ) -> None:
        self._rounds = rounds or in_the_log_of("metrics")
        self._stirring = stirring or Stirring()
        self._looked = -1
        """What had happened when it looked last."""
        self._source = source
        self.set_sinks(sinks)
        self._rhythm = Rhythm(period, time.monotonic())
        self._extra = extra
        self._ring: deque[LogLine] = deque(maxlen=keep)
        self._followers: list[Follower] = []
        self._before: Snapshot | None = None
        self._changed = asyncio.Event()
        self._warn = warn
        self._missing = ""

    async def run(self) -> None:
        """Report until cancelled."""
        await self._rounds.forever("metrics", self._until_look, self._look)

    async def _look(self) -> None:
        self._looked = self._stirring.happened()
        snapshot = await self._take()
        if snapshot is None:
            self._rhythm.next_look = time.monotonic() + LOOK_SECONDS
        elif self._rhythm.decide(time.monotonic(), has_traffic(snapshot)):
            await self.report(snapshot)

    async def report(self, snapshot: Snapshot) -> None:
        """Make the lines of one snapshot and hand them out, and push the figures where they are wanted."""
        for sink in self._sinks:
            if isinstance(sink, Pusher):
                self._rounds.attempt("push", sink.push, snapshot)
        batch: list[LogLine] = []
        for line in log_lines(snapshot, self._extra, self._before):
            batch.append(line)
            if len(batch) == BATCH_LINES:
                self.publish(batch)
                batch = []
                await asyncio.sleep(BATCH_PAUSE)
        self.publish(batch)
        self._before = snapshot if self._extra else None

    def publish(self, lines: Sequence[LogLine]) -> None:
        """Hand lines to every sink, the ring and all followers; not only the reporter has some."""
        for sink in self._sinks:
            self._rounds.attempt("drain", sink.emit, lines)
        self._ring.extend(lines)
        for follower in self._followers:
            for line in lines:
                follower.push(line)

    def tail(self, count: int) -> list[LogLine]:
        """The last `count` lines, oldest first."""
        return list(self._ring)[-count:] if count > 0 else []

    def follow(self) -> Follower:
        """Use it in `with`: it leaves when the block does."""
        follower = Follower(self._followers.remove)
        self._followers.append(follower)
        return follower

    def set_period(self, period: float) -> None:
        """A new period counts from the last lines; with 0 there are none until there is another one."""
        self._rhythm.next_look += period - self._rhythm.period
        self._rhythm.regular += period - self._rhythm.period
        self._rhythm.period = period
        self._changed.set()

    def set_extra(self, extra: bool) -> None:
        self._extra = extra

    def set_sinks(self, sinks: Iterable[Sink]) -> None:
        """Replace the sinks (after a reload); closing the old ones is the caller's."""
        self._sinks = list(sinks)
        self._pushes = any(isinstance(sink, Pusher) for sink in self._sinks)

    def reopen(self) -> None:
        for sink in self._sinks:
            self._rounds.attempt("drain", sink.reopen)

    def stats(self) -> tuple[DrainStat, ...]:
        return tuple(sink.stats() for sink in self._sinks)

    async def close(self, timeout: float = 1.0) -> None:
        """Flush and stop all sinks, together in at most `timeout` seconds."""
        await asyncio.gather(*(self._rounds.once("drain", sink.close(timeout)) for sink in self._sinks))

    async def _until_look(self) -> None:
        if self._rhythm.period and self._rhythm.next_look < self._rhythm.regular:
            await self._stirring.since(self._looked, self._rhythm.regular - time.monotonic())
        while (left := self._left()) is None or left > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _left(self) -> float | None:
        """Seconds until the next look; None: with a period of 0 there is none."""
        return self._rhythm.next_look - time.monotonic() if self._rhythm.period else None

    async def _take(self) -> Snapshot | None:
        """The figures, or None when the source has none; that is told once, not every second."""
        try:
            snapshot = await take(self._source, histograms=self._extra or self._pushes)
        except Unavailable as reason:
            if str(reason) != self._missing:
                self._warn(f"no metrics: {reason}")
            self._missing = str(reason)
            return None
        self._missing = ""
        return snapshot


def has_traffic(snapshot: Snapshot) -> bool:
    return any(stat.counters.query_count for stat in snapshot.databases if stat.name != ADMIN_DATABASE)
