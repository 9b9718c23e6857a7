"""Who comes in to the HTTP server: bounded in number and descriptors, from accept on.

A connection counts from the moment it is accepted, whether TLS is agreed on yet or not. The rules: one who has not
finished asking goes when there are too many, the one who came first; and the descriptors that are kept for servers,
the log and the figures are taken by a few at the most.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence

from uvicorn.protocols.http.h11_impl import H11Protocol

from metrics.web.patience import READ_SECONDS, reading
from pooler import kernel
from pooler.rounds import Rounds

MOST_CONNECTIONS = 512
SHARE = 8
"""HTTP has one descriptor of so many at the most."""
FEW = 8
"""Connections there may be however few descriptors there are, and among those that are kept for others."""
AT_ONCE = 8
"""Accepted before others have their turn: no more than FEW, so that nobody has to go who came in the same turn."""
REST = 1.0
"""Seconds after the system has refused a connection."""


def most() -> int:
    return max(FEW, min(MOST_CONNECTIONS, kernel.limits()[0] // SHARE))


class Doorman:
    """See the module. `kept` tells whether a descriptor is kept for others."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
        kept: Callable[[int], bool],
        rounds: Rounds,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self.address: tuple[str, int] = sockets[0].getsockname()[:2]
        self._tls = tls
        self._kept = kept
        self._rounds = rounds
        self._most = most()
        self.stirred = asyncio.Event()
        """Set when somebody comes."""
        self._guests: dict[H11Protocol, tuple[asyncio.Task[None], bool]] = {}
        """In the order of arrival: who lets it in, and whether its descriptor is kept for others."""

    def open(self, made: Callable[[], H11Protocol]) -> None:
        """From now on; `made` makes who talks to a guest."""
        self._made = made
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Nobody comes in any more."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for task, _ in self._guests.values():
            task.cancel()

    @property
    def crowd(self) -> int:
        """How many are here."""
        return len(self._guests)

    def gone(self, guest: H11Protocol) -> None:
        self._guests.pop(guest, None)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rounds.failed("http", error, f"http: accept() failed: {os.strerror(error.errno or 0)}")
                self._loop.remove_reader(listener)
                self._loop.call_later(REST, self._go_on, listener)
                self._make_way()
                return
            try:
                sock.setblocking(False)
                self._arrived(sock)
            except Exception as error:
                sock.close()
                self._rounds.failed("http", error)

    def _go_on(self, listener: socket.socket) -> None:
        if listener.fileno() < 0:
            return
        try:
            self._loop.add_reader(listener, self._accept, listener)
        except Exception as error:
            self._rounds.failed("http", error)
            self._loop.call_later(REST, self._go_on, listener)

    def _arrived(self, sock: socket.socket) -> None:
        kept = self._kept(sock.fileno())
        crowded = kept and sum(other for _, other in self._guests.values()) >= FEW
        if (crowded or len(self._guests) >= self._most) and not self._make_way():
            sock.close()
            return
        self.stirred.set()
        guest = self._made()
        self._guests[guest] = self._loop.create_task(self._let_in(guest, sock), name="http connection"), kept

    async def _let_in(self, guest: H11Protocol, sock: socket.socket) -> None:
        patience = None if self._tls is None else READ_SECONDS
        try:
            await self._loop.connect_accepted_socket(lambda: guest, sock, ssl=self._tls, ssl_handshake_timeout=patience)
        except OSError:
            # Of its making: what it says is no TLS, or it has left.
            self.gone(guest)
        except Exception as error:
            self.gone(guest)
            self._rounds.failed("http", error)
            sock.close()
        except BaseException:
            self.gone(guest)
            raise

    def _make_way(self) -> bool:
        """Have one go; False when all of them wait for us."""
        guest = next(filter(reading, self._guests), None)
        if guest is None:
            return False
        task, _ = self._guests.pop(guest)
        if guest.transport is None:
            task.cancel()
        else:
            guest.transport.abort()
        return True
