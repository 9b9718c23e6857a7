"""Replication connections: one client, one server of its own, for as long as both live.

Nothing is pooled: the server is dialled with the client's own startup parameters and never serves anybody else. It
counts for the limits of its pool, database and user like any server, from when there was room for it. The rule: the two
end together.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from typing import Any, TypeVar

from pooler.clients.login import Admitted
from pooler.net.channel import Channel, while_there
from pooler.net.dialerror import DialError
from pooler.pools.connection import Replication
from pooler.pools.reasons import Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState, Waiter
from pooler.pools.verdict import ALLOWED
from pooler.relay import Client
from pooler.servers.dial import Dialed, Target
from pooler.servers.opener import Ended, Opener, Opening

T = TypeVar("T")


async def own_server(
    opener: Opener, channel: Channel, pool: PoolState, waiter: Waiter, admitted: Admitted
) -> OwnServer:
    """A server for the client of `waiter`, logged in and counted as opening until it is adopted. Raises LoginError, and
    ConnectionClosed when the client leaves meanwhile."""
    own, number = OwnServer(opener, pool, admitted), waiter.arrival.number
    pool.expect(number, waiter)
    try:
        await while_there(channel, own.open(waiter))
        waiter.check()
    except BaseException:
        # Whoever still waits is given the room that it leaves.
        _waits_no_more(pool, number, waiter)
        own.forget()
        raise
    _waits_no_more(pool, number, waiter)
    return own


def _waits_no_more(pool: PoolState, number: int, waiter: Waiter) -> None:
    pool.expect_no_more(number)
    # An end that comes too late to matter must not be reported as one that nobody has heard of.
    if not waiter.ready.cancel() and not waiter.ready.cancelled():
        waiter.ready.exception()


async def unless(ended: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or the exception of `ended` if that comes first."""
    task = asyncio.ensure_future(work)
    try:
        both: set[asyncio.Future[Any]] = {task, ended}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class OwnServer:
    """The way to a server that belongs to one client."""

    def __init__(self, opener: Opener, pool: PoolState, admitted: Admitted) -> None:
        self._opener = opener
        self.pool = pool
        self.admitted = admitted
        self.attempt: Opening | None = None
        """The last one: each begins when there is room, with what holds then."""
        self.dialed: Dialed | None = None
        self._room = asyncio.Event()
        """It is counted as opening."""

    @property
    def reported(self) -> dict[str, str]:
        """What the server said of itself, for the client's welcome."""
        assert self.dialed is not None
        return self.dialed.parameters

    def _begin(self) -> Opening:
        return Opening(self._opener, self.pool, replication_target(self._opener, self.pool, self.admitted))

    async def open(self, waiter: Waiter) -> None:
        """Wait until the limits allow one more server, then log in. Raises LoginError."""
        waiter.claim = self.claim
        while self.dialed is None:
            self.claim()
            await unless(waiter.ready, self._room.wait())
            attempt = self.attempt = self._begin()
            try:
                self.dialed = await unless(waiter.ready, attempt.dial())
            except Ended as error:
                # The pool is paused, or its servers are to be others: there will be another time.
                attempt.say_ended(error)
                self.forget()
            except DialError as error:
                attempt.say_failed(error)
                self.pool.host_failed(attempt.turn)
                if error.fields is None:
                    raise LoginError(error.message, error.sqlstate) from None
                raise LoginError(Reason.LOGIN_FAILED, error.sqlstate, detail=error.message) from None
            except (LoginError, asyncio.CancelledError):
                # No fault of the server's.
                attempt.say_ended(Ended(Reason.REPLICATION_LEFT.value, stage="login"))
                raise

    def claim(self) -> None:
        """Take room for one more server if there is some, made by closing a spare one if need be."""
        opener, pool = self._opener, self.pool
        if not self._room.is_set() and not opener.rests(pool) and opener.room(pool, own=True) in ALLOWED:
            pool.opening += 1
            self._room.set()

    def adopt(self, client: Client) -> None:
        """Give the server to its client, which the relay has taken over in this very turn. Raises what
        `adopt_server` raises."""
        assert self.attempt is not None
        assert self.dialed is not None
        self.attempt.say_opened(self.dialed)
        self.attempt.adopt(self.dialed, client)
        self.dialed = None
        self.forget()

    def forget(self) -> None:
        """Count it no longer as opening; close what was opened and not given away."""
        if self.dialed is not None:
            self.dialed.channel.abort()
            self.dialed = None
        if self._room.is_set():
            self._room.clear()
            self.pool.opening -= 1
            self._opener.running.changed.set()
            self._opener.room_made(self.pool)


def replication_target(opener: Opener, pool: PoolState, admitted: Admitted) -> Target:
    """As the pool's other servers, but with everything the client asks for."""
    target = opener.target(pool)
    options = {"options": admitted.startup_options} if admitted.startup_options else {}
    own = {**admitted.parameters, **options}
    return dataclasses.replace(
        target,
        parameters={**own, **target.parameters},
        replication=admitted.replication,
        connect_query=target.connect_query if admitted.replication is Replication.LOGICAL else None,
    )

