"""Strangers: connections that have not logged in, bounded in number and in the descriptors that they may take.

Where there are too many, the newest is let in and another one goes: one that has said nothing before one that has, one
that we wait for before one that waits for us, and of these the one that came first. The rule: what strangers cause to
be opened stays below `mark`; the descriptors above it are for servers, the log and the figures, and for the few
strangers who have to come in before they can be told that there is no room.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from pooler import kernel, wire
from pooler.config.whole import Config
from pooler.net.channel import Channel, hang_up
from pooler.pools.reasons import Reason
from pooler.pools.refusal import LoginError
from pooler.relay import Crowd, Visit
from pooler.relay.engine import clock

LEAST = 1000
"""Strangers there may be whatever max_client_conn says: clients come in bursts."""
FEW = 16
"""Strangers who may use descriptors above the mark."""
AHEAD = 8
"""Newcomers who wait for somebody to go, for whom no more are accepted."""
QUESTIONS = 8
"""Pairs of descriptors above the mark by which auth_query is asked."""
SPARE = 64
"""Descriptors for what is neither a client nor a server, those few strangers and questions among it."""
LOOKED_AT = 64
"""How many are looked at for one who does not wait for us."""
TIME_ENOUGH = 1_000_000
"""Microseconds in which a login is done."""
CROWDED = "no more connections allowed (too many that have not logged in)"
FULL = "no more connections allowed (file descriptor limit)"


class Strangers(Crowd):
    """Who has not logged in yet, and who of them goes when there are too many. Iteration is in the order of arrival."""

    silent: dict[int, Visit]
    """Who had said nothing when last looked at; each is younger than all in `heard`."""
    heard: dict[int, Visit]
    leaving: dict[int, Callable[[], None] | None]
    """Who has been told to go, and what is done when its descriptor is free."""

    def __init__(self, config: Config) -> None:
        self.few = FEW
        self._questions = 0
        """Pairs of descriptors above the mark."""
        self.measure(config)

    def measure(self, config: Config) -> None:
        """What the bounds are with this configuration."""
        self.most = max(LEAST, config.settings.max_client_conn)
        """How many there may be."""
        limit = kernel.limits()[0]
        self.mark = limit - min(expected_servers(config) + SPARE, limit // 2)
        """The first descriptor that is not for strangers."""

    def __len__(self) -> int:
        return len(self.silent) + len(self.heard)

    def __iter__(self) -> Iterator[Visit]:
        return chain(self.heard.values(), self.silent.values())

    def make_way(self, then: Callable[[], None] | None = None, *, besides: int = 0) -> bool:
        """Have one of them go, if there is one, and call `then` when that is done; not the one of the number
        `besides`."""
        visit = self._least_missed(besides)
        if visit is not None:
            self._send_away(visit, then)
        return visit is not None

    def _send_away(self, visit: Visit, then: Callable[[], None] | None) -> None:
        self.gone(visit)
        self.leaving[visit.arrival.number] = then
        visit.end(LoginError(CROWDED, wire.TOO_MANY_CONNECTIONS))

    def _least_missed(self, besides: int) -> Visit | None:
        while self.silent:
            number, visit = next(iter(self.silent.items()))
            if not visit.channel.heard and number != besides:
                return visit
            self.heard[number] = self.silent.pop(number)
        others = [visit for number, visit in islice(self.heard.items(), LOOKED_AT) if number != besides]
        waited_for = (visit for visit in others if not visit.channel.at_work)
        return next(waited_for, others[0] if others else None)

    @property
    def at_ease(self) -> bool:
        """Whether another one can be accepted before those who have to go are gone."""
        return len(self.leaving) < AHEAD

    # ---- what they take

    def check(self, channel: Channel) -> Coroutine[Any, Any, None] | None:
        """A stranger wants to become a client: it may (None), or has yet to get a descriptor below the mark."""
        return None if channel.fileno() < self.mark else self._find_room(channel)

    async def _find_room(self, channel: Channel) -> None:
        """If need be that of another stranger. Raises LoginError when there is none."""
        while channel.fileno() >= self.mark and channel.take_lowest() >= self.mark:
            found = self._dispensable()
            if found is None:
                raise LoginError(FULL, wire.TOO_MANY_CONNECTIONS)
            gone = asyncio.get_running_loop().create_future()
            self._send_away(found, partial(_take_over, channel, gone))
            await gone

    def _dispensable(self) -> Visit | None:
        """Of those below the mark one that has said nothing, or has had the time to log in: else of the many who want
        the last place each would lose it to the next."""
        looked_at = islice(chain(self.silent.values(), self.heard.values()), LOOKED_AT)
        below = [visit for visit in looked_at if visit.channel.fileno() < self.mark]
        silent = (visit for visit in below if not visit.channel.heard)
        late = clock() - TIME_ENOUGH
        return next(silent, next((visit for visit in below if visit.since < late), None))

    @contextlib.contextmanager
    def pair(self, number: int) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Two sockets for the question that has to be asked about the stranger of this number. Raises LoginError."""
        try:
            one, other = socket.socketpair()
        except OSError as error:
            raise LoginError(Reason.EXHAUSTED, log=f"cannot ask auth_query: {error.strerror}") from None
        above = other.fileno() >= self.mark
        if above and self._questions >= QUESTIONS:
            one.close()
            other.close()
            log = "cannot ask auth_query: too many questions for the file descriptor limit"
            raise LoginError(Reason.EXHAUSTED, log=log)
        self._questions += above
        for _ in range(2 * above):
            self.make_way(besides=number)
        try:
            yield one, other
        finally:
            self._questions -= above


def _take_over(channel: Channel, gone: asyncio.Future[None]) -> None:
    """At once: the next one who is accepted would have it."""
    if not gone.done():
        channel.take_lowest()
        gone.set_result(None)


class Spare:
    """The one descriptor that is left when there is no other: by it who waits to be accepted is told so."""

    def __init__(self) -> None:
        self._descriptor = -1

    def keep(self) -> None:
        """Have it, if it can be had."""
        if self._descriptor < 0:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give_up(self) -> bool:
        """Whether it was there."""
        if self._descriptor < 0:
            return False
        os.close(self._descriptor)
        self._descriptor = -1
        return True

    def turn_away(self, listener: socket.socket) -> bool:
        """Tell the next one who waits at this listener that there is no room; False when even that is too much."""
        try:
            return self.give_up() and _refuse(listener)
        finally:
            self.keep()


def _refuse(listener: socket.socket) -> bool:
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return True
    except OSError:
        return False
    sock.setblocking(False)
    with sock, contextlib.suppress(OSError):
        sock.send(wire.error_response("FATAL", wire.TOO_MANY_CONNECTIONS, FULL))
        hang_up(sock)
    return True


def expected_servers(config: Config) -> int:
    """The servers of all configured databases, if each is used by one user."""
    sizes = (database.pool_size for database in config.databases.values())
    return sum(config.settings.default_pool_size if size is None else size for size in sizes)
