"""Stirring: whoever looks again and again need not look while nothing happens.

Looks are numbered by what had happened when they were made: where that number has not changed, nothing has, and what
the look before has seen still holds. The rule: sleeping costs nothing, and what wakes is the first thing that happens,
whatever it is. Timers do not count: what one of them does has its effects, and those do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count


class Stirring:
    """`happened` tells how much has happened by now, and `rest` has `stir` called with what happens next. Without them
    something always has, and nobody ever sleeps."""

    def __init__(self, happened: Callable[[], int] | None = None, rest: Callable[[], None] = lambda: None) -> None:
        self.happened = happened or count().__next__
        self._rest = rest
        self._sleepers: set[asyncio.Future[None]] = set()

    def stir(self) -> None:
        """Something happens."""
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    async def since(self, seen: int, seconds: float | None = None) -> None:
        """Until something has happened since `seen`, or `seconds` are over."""
        if self.happened() != seen:
            return
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.add(sleeper)
        self._rest()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await sleeper
        finally:
            self._sleepers.discard(sleeper)
