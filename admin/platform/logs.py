"""Log sessions: an address from which an app's log can be read once or followed, as Heroku's Logplex gives
them out.

The lines themselves are kept by whoever writes them (the metrics package's reporter); here is decided who may
read which: those about the databases attached to the app, and those about the pooler itself. An address is
unguessable and good for a few minutes; whoever has it needs no token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

SESSION_SECONDS = 300.0
"""How long a session's address may wait for its reader."""

MOST_SESSIONS = 1000
"""Addresses given out and not read yet; the oldest go first."""

MOST_LINES = 1500
"""Lines of the past that a session begins with at most, as Logplex does."""


class LogLine(Protocol):
    """What a session needs of a line: whom it is from, which database it is about, how `heroku logs` shows
    it."""

    @property
    def source(self) -> str: ...
    @property
    def process(self) -> str: ...
    @property
    def addon(self) -> str: ...
    @property
    def text(self) -> str: ...


class Source(Protocol):
    """Where lines come from: the last ones, and those to come for the length of a `with` block."""

    def tail(self, count: int) -> Sequence[LogLine]: ...
    def follow(self) -> AbstractContextManager[AsyncIterator[LogLine]]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines a session shows. `addons` are the names of the app's databases; a filter of None shows
    everything."""

    addons: frozenset[str]
    source: str | None = None
    process: str | None = None
    lines: int = 100
    tail: bool = False

    def shows(self, line: LogLine) -> bool:
        return (
            (not line.addon or line.addon in self.addons)
            and self.source in (None, line.source)
            and self.process in (None, line.process)
        )


class Sessions:
    """The addresses given out, and the streams behind them."""

    def __init__(self, source: Source | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._open: dict[str, tuple[float, Wanted]] = {}

    def open(self, wanted: Wanted) -> str:
        """A new session's key."""
        now = self._clock()
        self._open = {key: kept for key, kept in self._open.items() if now - kept[0] < SESSION_SECONDS}
        while len(self._open) >= MOST_SESSIONS:
            del self._open[next(iter(self._open))]
        key = secrets.token_urlsafe(24)
        self._open[key] = (now, wanted)
        return key

    def find(self, key: str) -> Wanted | None:
        found = self._open.get(key)
        return None if found is None or self._clock() - found[0] > SESSION_SECONDS else found[1]

    async def stream(self, wanted: Wanted) -> AsyncIterator[str]:
        """The session's lines as text: those of the past, then, when it follows, those to come without
        end."""
        if self._source is None:
            return
        if not wanted.tail:
            for line in self._past(self._source, wanted):
                yield line.text
            return
        with self._source.follow() as coming:
            for line in self._past(self._source, wanted):
                yield line.text
            async for line in coming:
                if wanted.shows(line):
                    yield line.text

    def _past(self, source: Source, wanted: Wanted) -> Sequence[LogLine]:
        count = min(wanted.lines, MOST_LINES)
        shown = [line for line in source.tail(MOST_LINES) if wanted.shows(line)]
        return shown[-count:] if count > 0 else []
