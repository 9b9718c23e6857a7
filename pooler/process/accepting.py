"""Accepting: the one loop that takes clients from listening sockets, whichever door they lead to.

It binds nothing and knows nothing of clients. The rule: a socket that is watched is watched until it is let go, and a
listener from which nobody can be accepted stays readable: each look at it leads to fewer who wait there or can come, or
else to a rest, without which the loop would do nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol

from pooler.clients.strangers import Spare, Strangers
from pooler.kernel import is_ours
from pooler.net.channel import Channel
from pooler.pools.running import Running
from pooler.relay import LightTask, Newcomer, Porch

PAUSE = 0.1
"""Seconds of rest; PgBouncer's five are an age to who waits."""
THEIRS = frozenset(
    (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
     errno.EHOSTUNREACH, errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
)  # fmt: skip
"""Errors of the connection that was to be accepted (accept(2)); the next one may be a good one."""


class Entrance(Protocol):
    def arrived(self, sock: socket.socket | Newcomer) -> bool:
        """A client has been accepted; False when the next one should be accepted in another turn."""


class Named(Protocol):
    """Who knows databases by other names."""

    aliases: Mapping[str, str]


class Way(Entrance, Protocol):
    """The entrance of a port, and what goes on behind it."""

    tasks: set[LightTask | asyncio.Task[None]]
    on_successor: Callable[[Channel], Coroutine[Any, Any, None]] | None

    @property
    def reception(self) -> Named: ...


class Acceptor:
    """The loop. Sockets are non-blocking, TCP or Unix; closing them is their owners' affair, after `release`."""

    def __init__(self, running: Running, strangers: Strangers) -> None:
        self._running = running
        self._strangers = strangers
        self._porches: dict[socket.socket, Porch] = {}
        self._held = False
        self._spare = Spare()

    def watch(self, listener: socket.socket, door: Entrance) -> None:
        """From now on, whoever comes to `listener` arrives at `door`."""
        accept = partial(accept_unix, listener) if listener.family == socket.AF_UNIX else None
        refused = partial(self._refused, listener)
        self._porches[listener] = Porch(self._running.relay, listener, door, accept, THEIRS, refused, self._failed)
        self._spare.keep()
        self._go_on(listener)

    def release(self, listener: socket.socket) -> None:
        """Let go of a listener; it need not be watched."""
        porch = self._porches.pop(listener, None)
        if porch is not None:
            self._running.loop.remove_reader(listener)
            porch.close()
        if not self._porches:
            self._spare.give_up()

    @property
    def watched(self) -> tuple[socket.socket, ...]:
        return tuple(self._porches)

    def hold(self) -> None:
        """Accept nobody until `go_on`."""
        self._held = True
        for listener in self._porches:
            self._running.loop.remove_reader(listener)

    def go_on(self) -> None:
        self._held = False
        for listener in self._porches:
            self._go_on(listener)

    def _go_on(self, listener: socket.socket) -> None:
        if listener not in self._porches or self._held:
            return
        try:
            self._running.loop.add_reader(listener, self._porches[listener].take)
        except OSError as error:
            # No room in the kernel for another that is watched.
            self._rest(listener, error, "listening")

    def _failed(self, error: Exception) -> None:
        """A bug of ours: who came is lost, and others may come."""
        self._running.loop.call_exception_handler({"message": "a client could not be let in", "exception": error})

    def _refused(self, listener: socket.socket, error: OSError) -> None:
        """The system does not give us who waits there: one who has not logged in may have to go for that, else the
        newcomer is told that there is no room. It does not look first whether anybody waits."""
        full = is_ours(error)
        if full and not somebody_waits(listener):
            return
        if full and (self._strangers.make_way() or self._spare.turn_away(listener)):
            self._running.rounds.failed("accept", error, f"accept() failed: {os.strerror(error.errno or 0)}")
        else:
            self._rest(listener, error, "accept()")

    def _rest(self, listener: socket.socket, error: OSError, what: str) -> None:
        self._running.rounds.failed("accept", error, f"{what} failed: {os.strerror(error.errno or 0)}")
        self._running.loop.remove_reader(listener)
        self._running.loop.call_later(PAUSE, self._go_on, listener)


def somebody_waits(listener: socket.socket) -> bool:
    look = select.poll()
    look.register(listener, select.POLLIN)
    return bool(look.poll(0))


def accept_unix(listener: socket.socket) -> socket.socket | None:
    """As the relay accepts on TCP: None when nobody is waiting, or OSError."""
    try:
        return listener.accept()[0]
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
