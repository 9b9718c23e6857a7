"""The life of an app's process: start, watch for releases, restart when one changes its config vars, and end
in the right order.

With a private pooler: pooler first, then the app; app first, then the pooler. Either's exit ends both. A
signal to us is a signal to the app, with the grace time and SIGKILL after it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from admin.platform.running.private import PrivatePooler
from admin.platform.running.process import Process
from pooler.ending import loop_without_ties
from pooler.rounds import Rounds

POLL_SECONDS = 0.4
"""Between two looks for a release."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the process is started with at one release."""

    version: int
    environment: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Supervisor:
    """`look` reads the present Setup; `pool` says whether a private pooler goes with it."""

    command: Sequence[str]
    look: Callable[[], Setup]
    pool: bool
    grace: float
    restarts: bool
    say: Callable[[str], None]
    _signal: asyncio.Future[int] | None = None

    def run(self) -> int:
        with asyncio.Runner(loop_factory=loop_without_ties) as runner:
            return runner.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        self._signal = loop.create_future()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        setup = self.look()
        while True:
            status, again = await self._once(setup)
            if again is None:
                return status
            setup = again

    def _signalled(self, number: int) -> None:
        """Remember the first signal. With a terminal, its Ctrl-C has reached the app already, and only the
        app decides."""
        shared = number == signal.SIGINT and sys.stdin.isatty()
        if self._signal is not None and not self._signal.done() and not shared:
            self._signal.set_result(number)

    async def _once(self, setup: Setup) -> tuple[int, Setup | None]:
        """One life: the exit status, and the next Setup when a release ended it."""
        pooler = await PrivatePooler.start(setup.environment) if self.pool else None
        try:
            environment = {**setup.environment, **(pooler.variables if pooler else {})}
            app = await Process.start(self.command, environment, own_group=not sys.stdin.isatty())
            try:
                return await self._watch(app, pooler, setup)
            finally:
                await app.stop(self.grace)
        finally:
            if pooler is not None:
                await pooler.stop()

    async def _watch(self, app: Process, pooler: PrivatePooler | None, setup: Setup) -> tuple[int, Setup | None]:
        assert self._signal is not None
        exits = _task(app.wait())
        falls = _task(pooler.process.wait()) if pooler is not None else None
        release = _task(self._release(setup)) if self.restarts else None
        waited: list[asyncio.Future[Any]] = [task for task in (exits, falls, release, self._signal) if task is not None]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._signal.done():
                return await app.stop(self.grace, self._signal.result()), None
            if exits.done():
                return exits.result(), None
            if falls is not None and falls.done():
                self.say(f"the private pooler ended with status {falls.result()}; stopping the command")
                await app.stop(self.grace)
                return falls.result() or 1, None
            assert release is not None
            news = release.result()
            self.say(f"v{news.version} changed the config vars; restarting")
            status = await app.stop(self.grace)
            return status, None if self._signal.done() else news
        finally:
            for task in (exits, falls, release):
                if task is not None:
                    task.cancel()

    async def _release(self, setup: Setup) -> Setup:
        """The next Setup whose environment is another. A look that fails is told, and ends nothing."""
        found = setup

        async def look() -> None:
            nonlocal found
            found = await asyncio.to_thread(self.look)

        await Rounds(self.say).forever(
            "release",
            lambda: asyncio.sleep(POLL_SECONDS),
            look,
            until=lambda: found.environment != setup.environment,
        )
        return found


def _task(coroutine: Coroutine[Any, Any, Any] | Awaitable[Any]) -> asyncio.Future[Any]:
    return asyncio.ensure_future(coroutine)
