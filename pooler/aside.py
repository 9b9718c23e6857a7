"""Work that would hold up the loop, done beside it: by a thread of its own that ends with it, and that nobody waits for
at the end. None is kept in store: while a process has several threads each of its system calls costs a little more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """What comes of `work`, or what it raises. Whoever gives this up gives up the thread as well."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(value: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is gone, and with it who wanted to know
            loop.call_soon_threadsafe(tell, value, failure)

    try:
        threading.Thread(target=run, name="aside", daemon=True).start()
    except RuntimeError:  # there may be no more threads
        return work()
    return await outcome
