"""A coroutine carried on without a task of asyncio's: what a login needs of one, at a fraction of the price.

It takes its first steps at once, and every further one in the callback of what it awaits: a future, or the relay's
Wait. For everybody else it is a future: it can be waited for and cancelled. The rule: inside there is no current task,
so whatever asks for one (asyncio.timeout) is awaited as a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any


class LightTask(asyncio.Future[None]):
    """A coroutine at work. `start` it outside of any task."""

    def __init__(
        self, coroutine: Coroutine[asyncio.Future[Any] | None, None, None], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self._coroutine = coroutine
        self._context = copy_context()
        self._waits_for: asyncio.Future[Any] | None = None
        self._to_be_cancelled = False

    def start(self) -> None:
        self._context.run(self._go_on)

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
        except StopIteration:
            self.set_result(None)
        except asyncio.CancelledError:
            super().cancel()
        except BaseException as error:
            self.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._await(awaited)

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
