"""What every place for log lines has in common: a bounded buffer that counts what it loses, and its L10
notice.

A sink takes lines at once and never makes its caller wait; it delivers them on a task or thread of its own.
When it cannot keep up the oldest lines go, and the next thing it delivers is Logplex's notice of how many and
since when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from metrics.heroku import LogLine, stamp
from pooler.stats import DrainStat, Snapshot
from pooler.values import dataclass

BUFFER = 1024
"""Logplex's buffer of a drain, in messages."""


class DrainError(Exception):
    """A drain that cannot be opened; the message is fit for the operator and holds no password."""


class Sink(Protocol):
    def emit(self, lines: Sequence[LogLine]) -> None:
        """Take the lines; never waits, never raises for what the other side does."""

    def reopen(self) -> None:
        """The log was rotated (HUP)."""

    def stats(self) -> DrainStat: ...

    async def close(self, timeout: float = 1.0) -> None:
        """Deliver what is buffered if that is possible in `timeout` seconds, then stop."""


@runtime_checkable
class Pusher(Protocol):
    """A sink that wants the figures themselves as well; like `emit`, never waits."""

    def push(self, snapshot: Snapshot) -> None: ...


@dataclass(frozen=True, slots=True)
class Loss:
    """How many lines were dropped, and when the first of them was written."""

    count: int
    since: float

    def notice(self, when: float) -> LogLine:
        text = f"Error L10 (output buffer overflow): {self.count} messages dropped since {stamp(self.since)}."
        return LogLine(when, text, source="heroku", process="logplex")


class Backlog:
    """Lines not delivered yet, at most `limit`, and what was lost that nobody has been told of."""

    def __init__(self, limit: int = BUFFER) -> None:
        self._lines: deque[LogLine] = deque()
        self._limit = limit
        self._untold: Loss | None = None
        self.dropped = 0
        """All lines ever lost."""

    def __len__(self) -> int:
        return len(self._lines)

    def push(self, lines: Sequence[LogLine]) -> None:
        for line in lines:
            if len(self._lines) >= self._limit:
                self.lose([self._lines.popleft()])
            self._lines.append(line)

    def take(self, most: int, room: int | None = None, size: Callable[[LogLine], int] | None = None) -> list[LogLine]:
        """The oldest lines: at most `most`, and beyond the first no more than fit into `room` by `size`."""
        taken: list[LogLine] = []
        while self._lines and len(taken) < most:
            if room is not None and size is not None:
                room -= size(self._lines[0])
                if room < 0 and taken:
                    break
            taken.append(self._lines.popleft())
        return taken

    def lose(self, lines: Sequence[LogLine]) -> None:
        """Count lines that were given up."""
        if not lines:
            return
        self.dropped += len(lines)
        before = self._untold or Loss(0, lines[0].when)
        self._untold = Loss(before.count + len(lines), before.since)

    @property
    def untold(self) -> Loss | None:
        return self._untold

    def told(self, loss: Loss | None, now: float) -> None:
        """The notice of `loss` was delivered; what was lost after it was made is still owed."""
        if loss is None or self._untold is None:
            return
        left = self._untold.count - loss.count
        self._untold = Loss(left, now) if left > 0 else None
