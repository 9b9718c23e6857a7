"""A stage for the relay: one Relay and one pool, with clients and scripted servers on socketpairs, and no event loop.

`Stage.settle` drives `relay.select(0)` until nothing moves any more; what the relay posts is handled as the bouncer
handles it (log, farewell, close). A server that has a `Backend` answers by itself; any other says what a test sends.
The rule: a stage that ends with a Fault event, or with descriptors it did not have before, fails the test.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pooler import wire
from pooler.relay import NARROW, engine
from pooler.relay.engine import Client, Conn, Pool, Relay, Server
from pooler.relay.events import (
    ClientLost,
    ClientSaid,
    Event,
    Fault,
    ServerFact,
    ServerLost,
    ServerReady,
    ServerSaid,
    WantServer,
)
from pooler.relay.records import State, StatementTable
from tests.unit.backend import Backend
from tests.unit.pairs import tcp_pair

TRACKED = (b"client_encoding", b"DateStyle", b"TimeZone", b"standard_conforming_strings", b"application_name")
DEFAULTS: tuple[bytes | None, ...] = (b"UTF8", b"ISO, MDY", b"UTC", b"on", b"")
KEYS = itertools.count(1)
QUIET_SECONDS = 0.004


class Peer:
    """The far end of a connection of the relay. `reading` False: it lets its answers lie. `half`: the rest of a message
    that it has begun, behind which all else has to wait."""

    def __init__(self, sock: socket.socket, conn: Conn, backend: Backend | None = None) -> None:
        self.sock = sock
        self.conn = conn
        self.backend = backend
        self.inbox = bytearray()
        self.unsent = bytearray()
        self.half = b""
        self.waiting = bytearray()
        self.spoke_unasked = False
        self.reading = True
        self.ended = False

    def send(self, *parts: bytes) -> None:
        """Queue the bytes: they go out as the socket takes them, now and at each turn."""
        (self.waiting if self.half else self.unsent).extend(b"".join(parts))
        self.push()

    def begin(self, message: bytes, cut: int) -> None:
        """Send the first `cut` bytes of it."""
        self.spoke_unasked = True
        self.send(message[:cut])
        self.half = message[cut:]

    def finish(self) -> None:
        """Send the rest of what was begun, and what has had to wait for that."""
        rest, self.half = self.half, b""
        self.send(rest, bytes(self.waiting))
        self.waiting.clear()

    def push(self) -> bool:
        """Whether anything went out."""
        if not self.unsent or self.sock.fileno() < 0:
            return False
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            return False
        except OSError:
            self.unsent.clear()
            return False
        del self.unsent[:sent]
        return sent > 0

    def pull(self, limit: int = 1 << 20) -> bool:
        """Take what has come; whether anything did. A backend answers at once."""
        if not self.reading or self.ended or self.sock.fileno() < 0:
            return False
        try:
            data = self.sock.recv(limit)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return True
        self.inbox += data
        if self.backend is not None:
            self.send(self.backend.feed(data))
            if self.backend.ended:
                self.close()
        return True

    def take(self) -> bytes:
        """What has come since the last time."""
        data = bytes(self.inbox)
        self.inbox.clear()
        return data

    def close(self) -> None:
        self.push()
        self.sock.close()


class Stage:
    """A relay, its pool, and all who play on it. `lost`: (connection, reason, told) in order. `tcp`: over the
    loopback, not over unix sockets;
    `io_uring`: what a turn sends leaves together, where the kernel can. `narrow`: servers may be pulled, as those that
    `dial` connected to on this host."""

    def __init__(
        self,
        mode: int = engine.TRANSACTION,
        max_prepared: int = 200,
        *,
        tcp: bool = False,
        io_uring: bool = True,
        narrow: bool = False,
        **settings: Any,
    ) -> None:
        self.tcp, self.io_uring, self.narrow = tcp, io_uring, narrow
        self.relay = Relay(TRACKED, io_uring)
        self.settings = {"mode": mode, "max_prepared": max_prepared, **settings}
        self.pool = self.another_pool(**self.settings)
        self.peers: list[Peer] = []
        self.lost: list[tuple[Conn, str, bool]] = []
        self.said: list[str] = []
        self.facts: list[tuple[bytes, bytes]] = []
        self.ready: list[Server] = []
        self.wanted = 0

    def another_pool(self, **settings: Any) -> Pool:
        pool = Pool(self.relay, "db", "user")
        for name, value in settings.items():
            setattr(pool, name, value)
        return pool

    # ---- who is there

    def client(
        self,
        params: Sequence[bytes | None] = DEFAULTS,
        *,
        leftover: bytes = b"",
        pool: Pool | None = None,
        about: object = None,
    ) -> Peer:
        near, far = self.pair()
        number = next(KEYS)
        conn = self.relay.adopt_client(
            pool or self.pool, number, near.detach(), None, leftover, params, about, number.to_bytes(8, "big")
        )
        return self.joined(far, conn)

    def server(
        self,
        backend: Backend | None = None,
        params: Sequence[bytes | None] = DEFAULTS,
        *,
        leftover: bytes = b"",
        pool: Pool | None = None,
        about: object = None,
    ) -> Peer:
        near, far = self.pair()
        if self.narrow:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        number = next(KEYS)
        conn = self.relay.adopt_server(
            pool or self.pool, number, near.detach(), None, leftover, params, about, number, b"12345678"
        )
        return self.joined(far, conn, backend)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """(the relay's end, ours), both non-blocking."""
        near, far = tcp_pair() if self.tcp else socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        return near, far

    def joined(self, far: socket.socket, conn: Conn, backend: Backend | None = None) -> Peer:
        peer = Peer(far, conn, backend)
        self.peers.append(peer)
        return peer

    # ---- time

    def turn(self, timeout: float = 0) -> bool:
        """One look of the relay at its sockets; whether it had anything to tell."""
        self.relay.select(timeout)
        events, self.relay.events = self.relay.events, []
        for event in events:
            self.handle(event)
        return bool(events)

    def handle(self, event: Event) -> None:
        match event:
            case Fault():
                raise AssertionError(event)
            case WantServer():
                self.wanted += 1
            case ServerReady(server):
                self.ready.append(server)
            case ServerSaid(_, text) | ClientSaid(_, text):
                self.said.append(text)
            case ServerFact(_, name, value):
                self.facts.append((name, value))
            case ServerLost(server, reason, tell):
                self.lost.append((server, reason, tell))
                server.finish(wire.terminate())
            case ClientLost(client, reason, tell):
                self.lost.append((client, reason, tell))
                client.finish(farewell(reason) if tell else b"")

    def settle(self) -> None:
        """Until nothing has moved for three turns; over TCP the kernel gets a moment in each."""
        still = 0
        while still < 3:
            moved = self.turn(QUIET_SECONDS if self.tcp and still else 0)
            for peer in self.peers:
                moved |= peer.push()
                moved |= peer.pull()
            still = 0 if moved else still + 1

    # ---- the end

    def restart(self) -> None:
        """As an online restart does it: everything goes to a new relay, in whatever state it is."""
        while self.turn():
            pass
        conns: list[Conn] = [*self.pool.servers(), *self.pool.clients()]
        table: StatementTable = {}
        states = [engine.record(conn, table) for conn in conns]
        descriptors = [os.dup(conn.fd) for conn in conns]
        old, last = self.relay, engine.last_statement(self.relay)
        for conn in conns:
            engine.abandon(conn)
        self.relay, paused = Relay(TRACKED, self.io_uring), self.pool.paused
        self.pool = self.another_pool(**self.settings, paused=paused)
        self.take_over(conns, states, descriptors, table, last)
        old.select(0)
        old.close()

    def take_over(
        self,
        conns: list[Conn],
        states: list[State],
        descriptors: list[int],
        table: StatementTable,
        last: int,
    ) -> None:
        engine.number_statements_from(self.relay, last)
        known = {number: engine.statement(self.relay, number, *rest) for number, rest in table.items()}
        peers = {id(peer.conn): peer for peer in self.peers}
        servers: dict[int, Server] = {}
        for conn, state, descriptor in zip(conns, states, descriptors, strict=True):
            if isinstance(conn, Server):
                server = engine.revive_server(self.pool, descriptor, state, state["params"], None, known)
                servers[server.id] = peers[id(conn)].conn = server
            else:
                client = engine.revive_client(self.pool, descriptor, state, state["params"], None, known)
                peers[id(conn)].conn = client
                if state["server"] is not None:
                    engine.link_again(client, servers[state["server"]])
        self.pool.resume()

    def close(self) -> None:
        for pool in {peer.conn.pool for peer in self.peers}:
            for conn in (*pool.clients(), *pool.servers()):
                self.relay.drop(conn, "test over", False)
        self.turn()
        for peer in self.peers:
            peer.sock.close()
        self.relay.close()

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.lost]

    @property
    def states(self) -> str:
        """Counts of the pool: clients active and waiting; servers active, idle, used, tested, being canceled."""
        p = self.pool
        clients = f"{p.active_clients.count}a {p.waiting_clients.count}w"
        lists = (p.active_servers, p.idle_servers, p.used_servers, p.tested_servers, p.canceled_servers)
        return f"{clients} / " + " ".join(f"{each.count}{name}" for each, name in zip(lists, "aiutc", strict=True))


@contextmanager
def stage(mode: int = engine.TRANSACTION, **settings: Any) -> Iterator[Stage]:
    """A stage for one test."""
    made = Stage(mode, **settings)
    try:
        yield made
    finally:
        made.close()


def farewell(reason: str) -> bytes:
    """What the bouncer tells a client it closes."""
    return wire.error_response("FATAL", wire.PROTOCOL_VIOLATION, reason)


def linked(client: Peer) -> Server | None:
    assert isinstance(client.conn, Client)
    return client.conn.linked
