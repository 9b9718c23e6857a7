"""Replication connections: one client, one server of its own, for as long as both live.

Nothing is pooled: the server is dialled with the client's own startup parameters and never serves anybody else. It
counts for the limits of its pool, database and user like any server. The rule: the two end together.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from pooler.auth import LoginError
from pooler.channel import Channel, while_there
from pooler.dial import Dialed, DialError, Target
from pooler.login import Admitted
from pooler.opener import Opener, Opening
from pooler.pool import Verdict, verdict
from pooler.registry import PoolState, Waiter
from pooler.relay import Client

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

T = TypeVar("T")

LOOK_AGAIN = 0.3
"""Seconds between two looks at the limits while one of them stands in the way."""
ALLOWED = (Verdict.OPEN, Verdict.RESERVE)


async def own_server(bouncer: Bouncer, channel: Channel, pool: PoolState, waiter: Waiter, admitted: Admitted) -> Own:
    """A server for the client of `waiter`, logged in and counted as opening until `Own.adopt`. Raises LoginError, and
    ConnectionClosed when the client leaves meanwhile."""
    own = Own(bouncer, pool, admitted)
    pool.newcomers[own.attempt.number] = waiter
    try:
        await while_there(channel, own.open(waiter))
    except BaseException:
        own.forget()
        raise
    finally:
        del pool.newcomers[own.attempt.number]
        # An end that comes too late to matter must not be reported as one that nobody has heard of.
        if not waiter.ready.cancel() and not waiter.ready.cancelled():
            waiter.ready.exception()
    return own


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


class Own:
    """The way to a server that belongs to one client."""

    def __init__(self, bouncer: Bouncer, pool: PoolState, admitted: Admitted) -> None:
        self.bouncer = bouncer
        self.pool = pool
        self.attempt = Opening(bouncer, pool, replication_target(bouncer.opener, pool, admitted))
        self.dialed: Dialed | None = None
        self._counted = False

    @property
    def reported(self) -> dict[str, str]:
        """What the server said of itself, for the client's welcome."""
        assert self.dialed is not None
        return self.dialed.parameters

    async def open(self, waiter: Waiter) -> None:
        """Wait until the limits allow one more server, then log in. Raises LoginError."""
        while not self._may_open():
            await asyncio.wait({waiter.ready}, timeout=LOOK_AGAIN)
            if waiter.ready.done():
                waiter.ready.result()
        self._counted = True
        self.pool.opening += 1
        try:
            self.dialed = await unless(waiter.ready, self.attempt.dial())
        except DialError as error:
            self.attempt.say_failed(error)
            raise LoginError(error.message, error.sqlstate) from None
        except (LoginError, asyncio.CancelledError):
            self.attempt.say_failed(DialError("replication client was closed", stage="login"))
            raise

    def _may_open(self) -> bool:
        """Whether there is room, made by closing an idle server if need be."""
        bouncer, pool = self.bouncer, self.pool
        if pool.engine.paused:
            return False
        while True:
            wish = bouncer.registry.wish(pool, bouncer.loop.time())
            answer = verdict(dataclasses.replace(wish, opening=0, retry_in=0.0))
            if answer in ALLOWED or not bouncer.opener.evict(pool, answer, own=True):
                return answer in ALLOWED

    def adopt(self, client: Client) -> None:
        """Give the server to its client, which the relay has taken over in this very turn. Raises what
        `adopt_server` raises."""
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
        if self._counted:
            self._counted = False
            self.pool.opening -= 1


def replication_target(opener: Opener, pool: PoolState, admitted: Admitted) -> Target:
    """As the pool's other servers, but with everything the client asks for."""
    target = opener.target(pool)
    options = {"options": admitted.startup_options} if admitted.startup_options else {}
    own = {**admitted.parameters, **options}
    return dataclasses.replace(
        target,
        parameters={**own, **target.parameters},
        replication=admitted.replication,
        connect_query=target.connect_query if admitted.replication == "logical" else None,
    )

