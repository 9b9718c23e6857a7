"""A coroutine carried on without a task of asyncio's: what a login needs of one, at a fraction of the price.

Its first steps are somebody else's: it comes to be where the coroutine first has to wait, and takes every further step
in the callback of what it awaits: a future, or the relay's Wait. For everybody else it is a future: it can be waited for
and cancelled. The rule: inside there is no current task, so whatever asks for one (asyncio.timeout) is awaited as a task
of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any


class LightTask(asyncio.Future[None]):
    """A coroutine at work that has come to `awaited` (None: it only lets others go first). One of `tasks` until it
    has ended."""

    def __init__(
        self,
        coroutine: Coroutine[asyncio.Future[Any] | None, None, None],
        awaited: asyncio.Future[Any] | None,
        tasks: set[Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self._coroutine = coroutine
        self._context = copy_context()
        self._waits_for: asyncio.Future[Any] | None = None
        self._to_be_cancelled = False
        self._tasks = tasks
        tasks.add(self)
        self._await(awaited)

    def cancel(self, msg: Any = None) -> bool:
        """As a task's: CancelledError is raised inside, which may take it or end by it."""
        if self.done():
            return False
        if self._waits_for is None or not self._waits_for.cancel(msg):
            self._to_be_cancelled = True
        return True

    def _go_on(self, awaited: asyncio.Future[Any] | None = None) -> None:
        """The steps up to the next thing that has to be awaited, or to the end."""
        self._waits_for = None
        try:
            awaited = self._step()
        except BaseException as end:
            self._tasks.discard(self)
            self._end(end)
        else:
            self._await(awaited)

    def _end(self, end: BaseException) -> None:
        if isinstance(end, StopIteration):
            self.set_result(None)
        elif isinstance(end, asyncio.CancelledError):
            super().cancel()
        else:
            self.set_exception(end)
            if not isinstance(end, Exception):
                raise end

    def _step(self) -> asyncio.Future[Any] | None:
        if self._to_be_cancelled:
            self._to_be_cancelled = False
            return self._coroutine.throw(asyncio.CancelledError())
        return self._coroutine.send(None)

    def _await(self, awaited: asyncio.Future[Any] | None) -> None:
        if awaited is None:
            # asyncio.sleep(0): only the others' turn.
            self.get_loop().call_soon(self._go_on, context=self._context)
            return
        awaited._asyncio_future_blocking = False
        self._waits_for = awaited
        awaited.add_done_callback(self._go_on, context=self._context)
