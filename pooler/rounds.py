"""Rounds: what is done again and again, and must not end because it failed once.

The janitor's looks at the pools, the periods of the statistics, log lines on their way, looks at a state: each round
that fails is counted, told, and followed by the next. It is told at once the first time; what goes on failing is told
by its number, once in TELL_SECONDS, however often it fails. The rule: nothing that is said or measured can end what is
done. Names of rounds are words of ours, for they are labels in the metrics.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

from pooler.values import dataclass

TELL_SECONDS = 60.0
REST = 1.0
"""Seconds of rest after a failure: the pause may be none as long as there is work."""

T = TypeVar("T")


@dataclass(slots=True)
class Trouble:
    """One kind of failure of one round; times are the clock's."""

    told: float
    last: float
    text: str
    untold: int = 0


class Rounds:
    """The failures of all rounds of one process. Threads may tell of theirs as well."""

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._lock = threading.RLock()
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """How many rounds have failed, by their names."""
        with self._lock:
            return dict(self._counts)

    def failed(self, name: str, error: BaseException, text: str = "") -> None:
        """One has failed. `text` is what the log is told the first time, instead of the error. Raises nothing."""
        try:
            with self._lock:
                self._failed(name, error, text)
        except Exception:
            # No memory to tell that there is no memory: the count, which comes first, is all there is.
            return

    def _failed(self, name: str, error: BaseException, text: str) -> None:
        self._counts[name] += 1
        now, kind = self._clock(), (name, f"{type(error).__name__} {getattr(error, 'errno', '')}")
        known = self._troubles.get(kind)
        if known is None:
            told = text or f"fault in {name}: {described(error)}"
            self._troubles[kind] = Trouble(now, now, told)
            self._say(told)
        else:
            known.untold, known.last = known.untold + 1, now
            self._tell(known, now)

    @property
    def troubled(self) -> bool:
        """Whether something has failed that there may be more to tell of."""
        return bool(self._troubles)

    def tell(self) -> None:
        """Tell what is due; called with every round. What has not failed for TELL_SECONDS is over."""
        if self._troubles:
            with self._lock:
                now = self._clock()
                for kind, trouble in list(self._troubles.items()):
                    self._tell(trouble, now)
                    if not trouble.untold and now - trouble.last >= TELL_SECONDS:
                        del self._troubles[kind]

    def _tell(self, trouble: Trouble, now: float) -> None:
        if trouble.untold and now - trouble.told >= TELL_SECONDS:
            times = f"{trouble.untold} more {'time' if trouble.untold == 1 else 'times'}"
            seconds, trouble.untold, trouble.told = now - trouble.told, 0, now
            self._say(f"{trouble.text} ({times} in the last {seconds:.0f} s)")

    def attempt(self, name: str, work: Callable[..., T], *arguments: Any) -> T | None:
        """One step of a round: what it returns, or None when it failed."""
        try:
            return work(*arguments)
        except Exception as error:
            self.failed(name, error)
            return None

    async def forever(
        self,
        name: str,
        pause: Callable[[], Awaitable[object]],
        work: Callable[[], Awaitable[object] | object],
        *,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Pause and work, in turn, until cancelled, or until there is no more to do."""
        while not until():
            try:
                await pause()
                done = work()
                if isawaitable(done):
                    await done
            except Exception as error:
                self.failed(name, error)
                await self._rest()
            self.tell()

    async def _rest(self) -> None:
        try:
            await asyncio.sleep(REST)
        except Exception:
            # No timer to be had: the others' turn at least.
            await asyncio.sleep(0)

    async def once(self, name: str, work: Awaitable[object]) -> None:
        """What is done once, beside other things that go on without it."""
        try:
            await work
        except Exception as error:
            self.failed(name, error)

    # ---- what nobody has caught

    def watch_over(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Hear of what fails in callbacks of the loop, in tasks that nobody waits for, in threads and finalizers."""
        if loop is not None:
            loop.set_exception_handler(self._in_loop)
        threading.excepthook = self._in_thread
        sys.unraisablehook = self._in_finalizer

    def _in_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(context["message"])
        name = _name_of(context)
        self.failed(name or "callback", error, "" if name else f"{context['message']}: {described(error)}")

    def _in_thread(self, facts: threading.ExceptHookArgs) -> None:
        if facts.exc_value is not None:
            self.failed(f"thread {facts.thread.name.split()[0] if facts.thread else ''}", facts.exc_value)

    def _in_finalizer(self, facts: Any) -> None:
        if facts.exc_value is not None:
            self.failed(getattr(facts.object, "__qualname__", "finalizer"), facts.exc_value)


def _name_of(context: dict[str, Any]) -> str:
    """A function of ours or of a library, if it was one: what it was called with does not belong into a log."""
    handle, future = context.get("handle"), context.get("future") or context.get("task")
    callback: Any = getattr(handle, "_callback", None)
    while hasattr(callback, "func"):
        callback = callback.func
    subject = future.get_coro() if isinstance(future, asyncio.Task) else callback
    return getattr(subject, "__qualname__", "")


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def in_the_log_of(name: str) -> Rounds:
    """For a package that is used without a pooler: failures go to Python's logging."""
    return Rounds(logging.getLogger(name).error)
