"""The roll: which clients are still there, asked of all workers before one more is refused for those that they have.

A worker's word that a client has gone may be under way, or yet to be said; in one process who has gone is counted out
before others come in. The rule: what was sent to a worker before the call is heard when it is over, and it is over
after PATIENCE whoever hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from pooler.workers.exchange import Holder
from pooler.workers.line import LineClosed

PATIENCE = 0.1
"""Seconds for the workers to answer."""


class Roll:
    """`workers` by number; `keep` has a coroutine done."""

    def __init__(
        self, workers: Mapping[int, Holder], keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        self._workers = workers
        self._keep = keep
        self._calling = asyncio.Lock()
        self._begun = 0
        self._over = 0
        """Calls; and the last of them that has come to its end."""
        self._late: dict[int, asyncio.Task[None]] = {}
        """What workers have yet to answer that were not waited for any more: they are not asked again before."""

    async def call(self) -> None:
        """All who are refused at once need one: the first that has begun behind them."""
        came = self._begun
        async with self._calling:
            if self._over <= came:
                self._begun += 1
                begun = self._begun
                await self._ask()
                self._over = begun

    async def _ask(self) -> None:
        self._late = {number: task for number, task in self._late.items() if not task.done()}
        asked = {
            number: self._keep(self._hear(worker))
            for number, worker in self._workers.items()
            if not worker.silent and number not in self._late
        }
        if asked:
            await asyncio.wait(asked.values(), timeout=PATIENCE)
        self._late |= {number: task for number, task in asked.items() if not task.done()}

    async def _hear(self, worker: Holder) -> None:
        with suppress(LineClosed):
            # Its clients are gone with it.
            await worker.line.ask("roll")
