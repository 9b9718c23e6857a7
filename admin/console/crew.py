"""Who answers SELECTs: a throw-away server, started when needed, its sessions kept warm, and ended for certain.

A statement is a visitor's program: it may run for ever, or want all memory there is. PostgreSQL bounds both; should it
not, its process is ended by a signal, and should that not help, the server is, with all that it took. The rule: a
session has one statement at a time, and is ended, not waited for, when that is given up or over its time. The next has
another one.
"""

from __future__ import annotations

import asyncio
import atexit
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from admin.console.seats import Seat, Seats
from admin.sql.backend import Backend, Gone, Refused
from admin.sql.server import Server, Unavailable
from pooler.verbs import CommandError

T = TypeVar("T")

MOST = 4
"""Statements at once, a session for each."""
PATIENCE = 10.0
WAIT = 15.0
GRACE = 1.0
"""Seconds beyond a statement's own before its process is ended: mostly it ends by itself, and the session stays."""
IDLE_SECONDS = 60.0
"""After which a session that nobody needs is ended, unless it is the last."""
REAP_SECONDS, FULL_SECONDS = 0.1, 0.02
"""Between two looks at those that are to end, and two attempts where they have all places still."""
FULL = "53300"
ENDING = "57P"
"""How the states begin with which a server that ends refuses a session."""
STUBBORN = 3.0
"""Seconds for a process that was told to end, before the server is ended for its sake."""


class Crew:
    """The server, its sessions, and the seats of those who may have one."""

    def __init__(self) -> None:
        self.seats = Seats(MOST, patience=PATIENCE, wait=WAIT)
        self.idle: list[Backend] = []
        self.server: Server | None = None
        self._starting: asyncio.Task[Server] | None = None
        self._ending: list[tuple[Backend, Server | None, float]] = []
        """Sessions whose processes are to end, of which server, and since when they may take no longer (monotonic)."""
        self._look: asyncio.TimerHandle | None = None
        """The next one at them."""
        self._ended: list[Server] = []
        atexit.register(self.close)

    @property
    def running(self) -> bool:
        return self.server is not None

    async def worker(self, user: str) -> Backend:
        """A session of that user's which is ready; to be had with a seat. Raises CommandError."""
        for backend in reversed(self.idle):
            if backend.user == user:
                self.idle.remove(backend)
                if backend.lives():
                    return backend
                self.end(backend)
        while len(self.idle) >= MOST:
            self.end(self.idle.pop(0))
        found = await self._connected(user) or await self._connected(user)
        if found is None:
            raise CommandError("PostgreSQL for the statement has ended unexpectedly", "58000")
        found.user = user
        return found

    async def _connected(self, user: str) -> Backend | None:
        """None: the server has ended since it was looked at, or is about to, and the next one is another."""
        server, until = await self._running(), monotonic() + STUBBORN
        while True:
            try:
                return await server.connect(user)
            except (Gone, OSError):
                self._end_server(server)
            except Refused as refused:
                if refused.sqlstate == FULL and monotonic() < until:
                    # Those that are about to end have their places still.
                    await asyncio.sleep(FULL_SECONDS)
                    continue
                if not refused.sqlstate.startswith(ENDING):
                    raise CommandError(str(refused), refused.sqlstate) from None
                self._end_server(server)
            return None

    async def _running(self) -> Server:
        if self.server is not None and self.server.lives():
            return self.server
        if self._starting is None or self._starting.get_loop() is not asyncio.get_running_loop():
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> Server:
        if self.server is not None:
            self._end_server(self.server)
        try:
            server = Server()
        except (OSError, subprocess.SubprocessError) as error:
            self._starting = None
            raise CommandError(f"cannot start PostgreSQL for the statement: {_why(error)}", "53000") from None
        try:
            await server.ready()
        except Unavailable as error:
            self._end_server(server)
            raise CommandError(f"PostgreSQL for the statement does not start: {error}", "58000") from None
        except BaseException:
            self._end_server(server)
            raise
        finally:
            self._starting = None
        self.server = server
        return server

    def give_back(self, backend: Backend) -> None:
        """It waits to be asked: whatever it still has of its last statement ends with the next."""
        if backend.busy:
            self.end(backend)
            return
        loop = asyncio.get_running_loop()
        backend.idle_since = loop.time()
        self.idle.append(backend)
        if len(self.idle) > 1:
            loop.call_later(IDLE_SECONDS, self._thin, loop.time())

    def _thin(self, before: float) -> None:
        """End those that nobody has needed since: they are at the end of the list that none is taken from."""
        while len(self.idle) > 1 and self.idle[0].idle_since <= before:
            self.end(self.idle.pop(0))

    def end(self, backend: Backend) -> None:
        """Have its process end, and see that it does."""
        backend.end()
        self._ending.append((backend, self.server, monotonic() + STUBBORN))
        self._bury()

    def _bury(self) -> None:
        left: list[tuple[Backend, Server | None, float]] = []
        for backend, server, until in self._ending:
            if backend.gone() or server is None or not server.lives():
                continue
            if monotonic() > until:
                self._end_server(server)
            else:
                left.append((backend, server, until))
        self._ending = left
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if left:
            with suppress(RuntimeError):  # without a loop everything ends anyway
                self._look = asyncio.get_running_loop().call_later(REAP_SECONDS, self._bury)

    def give_up(self) -> None:
        """A session was lost: PostgreSQL ends with it, since memory is shared, and the next gets another."""
        if self.server is not None:
            self._end_server(self.server)

    def _end_server(self, server: Server) -> None:
        server.end()
        self._ended = [each for each in self._ended if each.lives()] + [server]
        if self.server is server:
            self.server = None
            idle, self.idle = self.idle, []
            for backend in idle:
                backend.end()

    def close(self) -> None:
        """End the server, and wait until it is gone."""
        self._ending = []
        if self.server is not None:
            self._end_server(self.server)
        for server in self._ended:
            server.bury()
        self._ended = []


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or "it is gone"


CREW = Crew()


class Canceled(CommandError):
    """By a cancel request."""

    def __init__(self) -> None:
        super().__init__("canceling statement due to user request", "57014")


class Overdue(CommandError):
    """A statement that has taken all its time."""

    def __init__(self) -> None:
        super().__init__("canceling statement due to statement timeout", "57014")


class Stay:
    """One statement's time with a session: until `leave`, or its seat is taken away, or the session ends."""

    def __init__(self, seat: Seat, worker: Backend, canceled: asyncio.Event, seconds: float) -> None:
        self.seat = seat
        self._worker: Backend | None = worker
        self._canceled = canceled
        self.left = seconds
        """Of what it may take."""
        seat.on_leave = self._part

    async def do(self, work: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        """Something of the session, within what is left of the time; a cancel request is heeded meanwhile, and it is
        ended when that is given up. Raises CommandError."""
        self.seat.check()
        worker = self._worker
        assert worker is not None
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.left + GRACE):
                return await unless(self._canceled, work(worker))
        except TimeoutError:
            self._kill()
            raise Overdue from None
        except (Canceled, asyncio.CancelledError):
            self._kill()
            raise
        except Gone:
            self._kill()
            CREW.give_up()
            raise CommandError("the statement's process has ended unexpectedly", "58000") from None
        finally:
            self.left -= asyncio.get_running_loop().time() - began

    @property
    def finished(self) -> bool:
        """Whether the answer has no more rows."""
        return self._worker is None or self._worker.finished

    @property
    def tag(self) -> str:
        assert self._worker is not None
        return self._worker.tag

    def leave(self) -> None:
        """The session may serve others: it waits to be asked."""
        self.seat.leave()

    def _part(self) -> None:
        if self._worker is not None:
            CREW.give_back(self._worker)
            self._worker = None

    def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            CREW.end(worker)
        self.leave()


async def stay(user: str, canceled: asyncio.Event, seconds: float, *, first: bool) -> Stay:
    """A session for a statement of that user's that may take so long; administrators come `first`. Raises
    CommandError."""
    return await unless(canceled, _seated(user, canceled, seconds, first), Stay.leave)


async def _seated(user: str, canceled: asyncio.Event, seconds: float, first: bool) -> Stay:
    seat = await CREW.seats.take(first=first)
    try:
        return Stay(seat, await CREW.worker(user), canceled, seconds)
    except BaseException:
        seat.leave()
        raise


async def unless(
    canceled: asyncio.Event, work: Coroutine[Any, Any, T], undo: Callable[[T], object] = lambda found: None
) -> T:
    """What comes of `work`, which is given up at a cancel request. What it has found when nobody wants it any more is
    undone. Raises Canceled."""
    task, cancel = asyncio.ensure_future(work), asyncio.ensure_future(canceled.wait())
    try:
        await asyncio.wait((task, cancel), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Canceled
    except (Canceled, asyncio.CancelledError):
        task.add_done_callback(partial(_undone, undo))
        await _ended(task)
        raise
    finally:
        cancel.cancel()


def _undone(undo: Callable[[T], object], task: asyncio.Future[T]) -> None:
    if not task.cancelled() and task.exception() is None:
        undo(task.result())


async def _ended(task: asyncio.Future[Any]) -> None:
    """End it, however often that is to be given up meanwhile: what it watches must not be closed before."""
    task.cancel()
    again: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            again = error
    if again is not None:
        raise again
