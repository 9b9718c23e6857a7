"""The online restart (-R): a new process goes on with the sockets and connections of the old one.

`surrender` is the old process's side; `receive` and `Inheritance.adopt` are the new one's. Listening sockets
and all connections without TLS change hands, with everything the relay knows of them, in the middle of a query too;
what uses TLS ends with the old process. The rule: until the new process has said that it has everything, the old one
has given up nothing; until the old one has let go, the new one touches nothing. The world stands still for no longer
than the new process gets on: one that stalls is awaited beside the traffic, or given up in half a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from pooler import wire
from pooler.clients.door import SUCCESSOR
from pooler.config.databases import RESERVED, DatabaseConfig
from pooler.config.whole import made_with
from pooler.log import ERROR, LOG, WARNING
from pooler.net.address import Address, Peer
from pooler.net.channel import Channel
from pooler.net.credentials import Credentials
from pooler.net.scram import Keys
from pooler.pools.connection import ClientFacts, QuestionFacts, Replication, ServerFacts, ServerState
from pooler.pools.reasons import Reason
from pooler.pools.registry import PoolState, Registry
from pooler.pools.running import Running
from pooler.pools.welcome import Welcome
from pooler.process.passing import Fact, Passage, PassingError
from pooler.relay import Client, Conn, Server, engine
from pooler.relay.records import State, StatementTable
from pooler.servers.condemned import outdate
from pooler.servers.dial import Dialed
from pooler.servers.hubs import Hub, Hubs, Line
from pooler.servers.opener import Opener, Opening
from pooler.values import dataclass

TIMEOUT = 20.0
"""Seconds for which the new process waits for the old one, and the old one for a sign of life."""
STALL = 0.5
"""Seconds in which nothing moves while the world stands still."""
STANDSTILL, EACH, PER_BYTE = 1.0, 0.001, 1e-7
"""Seconds that it may stand still, and more for each connection and for each byte of the prepared statements."""
LOOK = 0.005
TAKEN, GONE = "taken", "gone"
PART, END = "part", "end"
"""Before what another process of the same service had, and behind everything."""


# ---- the old process


async def admit(loop: asyncio.AbstractEventLoop, sock: socket.socket, greeting: bytes) -> Passage:
    """Let the new process in and wait until it has taken note of that: it is alive then. Raises PassingError."""
    sock.setblocking(False)
    try:
        async with asyncio.timeout(TIMEOUT):
            await loop.sock_sendall(sock, greeting)
            while unread(sock):
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise PassingError("no answer in time") from None
    except OSError as error:
        raise PassingError(error.strerror or "it is gone") from None
    return Passage(sock, STALL)


def unread(sock: socket.socket) -> int:
    """What the other side of a Unix socket has yet to read, in the kernel's bytes. Raises OSError."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def surrender(
    running: Running, hubs: Hubs, listeners: Sequence[socket.socket], paths: Sequence[object], line: Passage
) -> None:
    """Hand everything over, and let go of it. When this returns, our copies of what was taken are closed; if it raises
    PassingError, nothing has changed."""
    own = Belongings(running, hubs)
    line.hurry(*own.patience)
    own.put(line, listeners, paths)
    agree(line)
    line.put({"kind": GONE})
    own.let_go()


def agree(line: Passage) -> None:
    """That was everything. Returns when the new process has it. Raises PassingError."""
    line.put({"kind": END})
    fact, _ = line.take()
    if fact != {"kind": TAKEN}:
        raise PassingError("the new process does not want them")


def patience(connections: int, reading: int) -> tuple[float, float]:
    """Seconds for all of it, and for a moment in which nothing moves. `reading`: bytes that are to be read through."""
    took = PER_BYTE * reading
    return STANDSTILL + EACH * connections + took, STALL + took


class Belongings:
    """All that this process has to hand over, as it is now: what is put is good until something else has a turn."""

    def __init__(self, running: Running, hubs: Hubs) -> None:
        self._running = running
        self._hubs = hubs
        self._connections = [c for c in all_connections(running.registry) if may_go(c)]
        self._table: StatementTable = {}
        self._states = [engine.record(connection, self._table) for connection in self._connections]
        self.patience = patience(len(self._states), sum(len(body) for body, *_ in self._table.values()))

    def put(self, line: Passage, listeners: Sequence[socket.socket] = (), paths: Sequence[object] = ()) -> None:
        """Raises PassingError."""
        line.put(_house(self._running, list(paths), self._table))
        for listener in listeners:
            line.put({"kind": "listener"}, listener.fileno())
        for pool in self._running.registry.pools():
            line.put(_pool(pool))
        for hub in self._hubs:
            line.put(_hub(hub), hub.line.channel.fileno() if hub.may_go() and hub.line is not None else None)
        for connection, state in zip(self._connections, self._states, strict=True):
            line.put(_connection(connection, state), connection.fd)

    def let_go(self) -> None:
        """Another process has it."""
        for hub in self._hubs:
            hub.give_away()
        for connection in self._connections:
            engine.abandon(connection)


def all_connections(registry: Registry) -> list[Conn]:
    """Servers first: a client's record names its server."""
    pools = [pool.engine for pool in registry.pools()]
    servers: list[Conn] = [server for pool in pools for server in pool.servers()]
    return servers + [client for pool in pools for client in pool.clients()]


def may_go(connection: Conn) -> bool:
    """Whether a connection can be handed over: not with TLS, not the question of a login that ends here, and not when
    that holds for whom it is linked to."""
    linked: Conn | None = connection.linked if isinstance(connection, Client | Server) else None
    both = (connection, linked) if linked is not None else (connection,)
    if isinstance(connection, Server) and connection.cancels:
        return False
    return not any(one.has_tls or isinstance(one.about, QuestionFacts) for one in both)


def _house(running: Running, paths: list[object], table: StatementTable) -> Fact:
    databases = running.registry.databases.values()
    return {
        "kind": "house",
        "tracked": list(running.relay.tracked_names),
        "next": running.next_number(),
        "last_statement": engine.last_statement(running.relay),
        "statements": [(number, *rest) for number, rest in table.items()],
        "paths": paths,
        "paused": running.registry.paused,
        "tls": tls_facts(running),
        "databases": [(database.name, database.paused, database.disabled) for database in databases],
    }


def tls_facts(running: Running) -> list[str]:
    """What servers are dialled with, those of all databases that say nothing else."""
    return [str(fact) for fact in running.tls.server.facts]


def _pool(pool: PoolState) -> Fact:
    known = pool.credentials
    keys = (known.keys.client_key, known.keys.server_key) if known.keys else None
    return {
        "kind": "pool",
        "database": pool.database.name,
        "user": pool.user.name,
        "place": place(pool.database.config),
        "reported": dict(pool.welcome.reported) if pool.welcome else None,
        "credentials": (known.password, known.md5, keys),
    }


def _hub(hub: Hub) -> Fact:
    """With what it has heard and not dealt with, if its connection goes too."""
    fact: Fact = {
        "kind": "hub",
        "database": hub.database.name,
        "host": hub.host,
        "marker": hub.engine.marker,
        "listened": bool(hub.engine.channels),
    }
    line = hub.line
    if line is None or hub.pool is None or not hub.may_go():
        return fact
    peer, address = line.about.peer, line.dialed.address
    return fact | {
        "user": hub.pool.user.name,
        "place": place(hub.database.config),
        "there": sorted(hub.engine.there),
        "heard": hub.passing + line.channel.ahead,
        "peer": (peer.addr, peer.port, peer.local_addr, peer.local_port, peer.pid, peer.uid, peer.gid),
        "address": (address.family, address.sockaddr),
        "number": line.attempt.number,
        "since": line.attempt.since,
        "pid": line.dialed.pid,
        "cancel_key": line.dialed.cancel_key,
    }


def place(config: DatabaseConfig) -> list[Any]:
    """What a database's servers are made with, as it comes out of a frame: with something else they are to be closed,
    as after a RELOAD."""
    return [list(fact) if isinstance(fact, tuple) else fact for fact in made_with(config)]


def _connection(connection: Conn, state: State) -> Fact:
    about: ClientFacts = connection.about
    peer = about.peer
    fact: Fact = {
        "kind": "client" if isinstance(connection, Client) else "server",
        "database": connection.pool.database,
        "user": connection.pool.user,
        "peer": (peer.addr, peer.port, peer.local_addr, peer.local_port, peer.pid, peer.uid, peer.gid),
        "about": (about.database, about.user, about.replication),
        "state": state,
    }
    if isinstance(about, ServerFacts):
        fact["dial"] = (about.host, (about.address.family, about.address.sockaddr) if about.address else None)
    return fact


# ---- the new process


def receive(sock: socket.socket) -> Inheritance:
    """Log in at the old process and take what it has. When this returns it has let go. Raises PassingError."""
    line = Passage(sock, TIMEOUT)
    parameters = {"user": RESERVED, "database": RESERVED, "application_name": SUCCESSOR}
    try:
        sock.settimeout(TIMEOUT)
        sock.sendall(wire.startup_message(parameters))
        answer = sock.recv(len(wire.authentication_ok()), socket.MSG_WAITALL)
    except OSError as error:
        raise PassingError(error.strerror or "no answer") from None
    if answer != wire.authentication_ok():
        raise PassingError("the old process does not let us in: we must run as the same system user")
    heir = Inheritance(line)
    try:
        heir.fetch()
    except BaseException:
        heir.close()
        raise
    return heir


@dataclass(slots=True)
class Part:
    """What one process of the old service had. A service of one has one; else the first is that of the desk."""

    house: Fact = field(default_factory=dict)
    pools: list[Fact] = field(default_factory=list)
    hubs: list[tuple[Fact, int | None]] = field(default_factory=list)
    connections: list[tuple[Fact, int]] = field(default_factory=list)


class Inheritance:
    """What the old process has handed over, until it is at work here."""

    def __init__(self, line: Passage) -> None:
        self.line = line
        self.listeners: list[socket.socket] = []
        self.parts = [Part()]

    @property
    def house(self) -> Fact:
        return self.parts[0].house

    @property
    def connections(self) -> list[tuple[Fact, int]]:
        return [one for part in self.parts for one in part.connections]

    def fetch(self) -> None:
        """Everything, up to the old process's word that it has let go. Raises PassingError."""
        while True:
            fact, descriptor = self.line.take()
            kind, part = fact.get("kind"), self.parts[-1]
            if kind == END:
                break
            if kind == "hub":
                part.hubs.append((fact, descriptor))
            elif descriptor is None:
                self._keep(kind, fact)
            elif kind == "listener":
                self.listeners.append(socket.socket(fileno=descriptor))
            else:
                part.connections.append((fact, descriptor))
        self.line.put({"kind": TAKEN})
        if self.line.take()[0] != {"kind": GONE}:
            raise PassingError("the old process did not let go")

    def _keep(self, kind: object, fact: Fact) -> None:
        if kind == "house":
            self.parts[-1].house = fact
        elif kind == "pool":
            self.parts[-1].pools.append(fact)
        elif kind == PART:
            self.parts.append(Part())
        else:
            raise PassingError("not a pooler that can be taken over")

    def hubs(self) -> list[tuple[Fact, int | None]]:
        """Those of all parts: the connection is the first's, and who listens may be any other's."""
        found: dict[tuple[str, str], tuple[Fact, int | None]] = {}
        for fact, descriptor in [one for part in self.parts for one in part.hubs]:
            known, _ = found.setdefault((fact["database"], fact["host"]), (fact, descriptor))
            known["listened"] = known["listened"] or fact["listened"]
        return list(found.values())

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        for _, descriptor in (*self.connections, *[hub for part in self.parts for hub in part.hubs]):
            if descriptor is not None:
                os.close(descriptor)

    def adopt(self, running: Running, opener: Opener, hubs: Hubs) -> None:
        """Go on with all of it."""
        adoption = Adoption(running, opener, hubs, self.house)
        adoption.number(self.parts)
        for part in self.parts:
            adoption.pauses(part.house)
            for fact in part.pools:
                adoption.pool(fact)
        for fact, listening in self.hubs():
            adoption.hub(fact, listening)
        for part in self.parts:
            adoption.connect(part)
        adoption.go_on()

    async def old_process_gone(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until nothing of the old process is left: its other ports are free then."""
        self.line.sock.setblocking(False)
        while await loop.sock_recv(self.line.sock, 1024):
            pass


class Adoption:
    """Connections made again in this process."""

    def __init__(self, running: Running, opener: Opener, hubs: Hubs, house: Fact) -> None:
        self.running = running
        self.opener = opener
        self.hubs = hubs
        self.house = house
        self.servers: dict[int, Server] = {}
        self.moved: dict[tuple[str, str], PoolState] = {}
        """Pools whose servers would be made otherwise by the configuration of today."""
        self.secured = house.get("tls") == tls_facts(running)
        self.statements: dict[int, engine.Statement] = {}
        """Of the part that is at hand."""
        self._named: dict[int, engine.Statement] = {}
        """Of all parts: of those that have a name on servers no two have the same number."""

    def number(self, parts: Sequence[Part]) -> None:
        """New ones come behind all that were numbered."""
        self.running.number_from(max(part.house["next"] for part in parts), self.house.get("step", 1))
        last = max(part.house["last_statement"] for part in parts)
        engine.number_statements_from(self.running.relay, last)

    def connect(self, part: Part) -> None:
        running, self.house = self.running, part.house
        engine.begin_part(running.relay)
        self.statements = {number: self._statement(number, *rest) for number, *rest in self.house["statements"]}
        for fact, descriptor in part.connections:
            try:
                made = self._connection(fact, descriptor)
            except Exception as error:
                running.say(ERROR, f"cannot go on with a {fact['kind']}: {type(error).__name__}: {error}")
                os.close(descriptor)
                made = None
            if made is None:
                self._is_not(fact)
                continue
            try:
                self._settle(made, fact)
            except Exception as error:
                # Its descriptor is the relay's by now.
                running.fault(made, error)
                running.drop(made, Reason.FAILURE)

    def _statement(self, number: int, *rest: Any) -> engine.Statement:
        known = self._named.get(number)
        if known is None:
            known = engine.statement(self.running.relay, number, *rest)
            if number > 0:
                self._named[number] = known
        return known

    def _is_not(self, fact: Fact) -> None:
        """It has ended here, and was counted by all."""
        if fact["kind"] == "client" and self.running.colleagues is not None:
            self.running.colleagues.left(fact["database"], fact["about"][1])

    def go_on(self) -> None:
        running = self.running
        for pool in self.moved.values():
            outdate(running, pool, pool.engine.servers())
        for server in self.servers.values():
            if server.state_name == ServerState.ACTIVE and server.linked is None:
                running.drop(server, Reason.QUERY_IN_PROGRESS)
        for pool in running.registry.pools():
            pool.engine.resume()
            self.opener.consider(pool)

    def pauses(self, house: Fact) -> None:
        running = self.running
        running.registry.paused = running.registry.paused or house["paused"]
        for name, paused, disabled in house["databases"]:
            database = running.database(name)
            if database is not None:
                database.paused, database.disabled = paused, disabled

    def _pool_of(self, fact: Fact) -> PoolState | None:
        database = self.running.database(fact["database"])
        if database is None:
            return None
        own = database.config.secrets
        if own is not None and fact["user"] not in own:
            # A credential that is no longer one.
            return None
        return self.running.registry.pool(database, fact["user"], forced=False)

    def pool(self, fact: Fact) -> None:
        pool = self._pool_of(fact)
        if pool is None:
            return
        password, md5, keys = fact["credentials"]
        pool.credentials = Credentials(password, md5, Keys(*keys) if keys else None).joined(pool.credentials)
        if fact["place"] != place(pool.database.config) or not self.secured:
            self.moved[pool.database.name, pool.user.name] = pool
        elif fact["reported"] is not None:
            pool.greet_with(Welcome(fact["reported"], self.running.relay.tracked_names))
            if self.running.colleagues is not None:
                self.running.colleagues.learned(pool, fact["reported"])

    def hub(self, fact: Fact, descriptor: int | None) -> None:
        """A listening server, with its connection, if that was handed over and is still one of today's."""
        database = self.running.database(fact["database"])
        pool = self._pool_of(fact) if descriptor is not None else None
        if database is not None:
            hub = self.hubs.make(database, fact["host"], fact["marker"])
            if "at" in fact:
                # Another process of the service has the connection.
                hub.engine.connected(tuple(fact["at"]))
                hub.engine.there.update(fact["there"])
            if pool is not None and descriptor is not None and self._as_before(fact):
                hub.go_on_with(self._line(pool, fact, descriptor), fact["there"])
                return
            if fact["listened"]:
                hub.has_missed()
        if descriptor is not None:
            os.close(descriptor)

    def _as_before(self, fact: Fact) -> bool:
        """Whether this process would make it in the same way."""
        database = self.running.database(fact["database"])
        return database is not None and fact["place"] == place(database.config) and self.secured

    def _line(self, pool: PoolState, fact: Fact, descriptor: int) -> Line:
        channel = Channel(socket.socket(fileno=descriptor), self.running.loop)
        channel.put_back(fact["heard"])
        attempt = Opening(self.opener, pool, self.opener.target(pool, fact["host"]))
        attempt.number, attempt.since, attempt.peer = fact["number"], fact["since"], Peer(*fact["peer"])
        family, sockaddr = fact["address"]
        address = Address(family, sockaddr if isinstance(sockaddr, str) else tuple(sockaddr))
        dialed = Dialed(channel, {}, fact["pid"], fact["cancel_key"], address, "")
        line = Line(attempt, dialed, attempt.about(dialed), asyncio.Event())
        line.answered.set()
        return line

    def _connection(self, fact: Fact, descriptor: int) -> Client | Server | None:
        """The connection as the relay has it; None where it ends here, with its descriptor. If it raises, that is still
        ours."""
        pool = self._pool_of(fact)
        if pool is None:
            last = wire.terminate()
            if fact["kind"] == "client":
                last = wire.error_response("FATAL", wire.PROTOCOL_VIOLATION, Reason.OUTDATED)
            with socket.socket(fileno=descriptor) as sock, contextlib.suppress(OSError):
                sock.send(last, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return None
        os.set_blocking(descriptor, False)
        params = self._tracked(fact["state"]["params"])
        revive = self._client if fact["kind"] == "client" else self._server
        return revive(pool, descriptor, fact, params)

    def _tracked(self, values: list[bytes | None]) -> list[bytes | None]:
        """Values of the tracked parameters, in the order that this process has them in."""
        given = dict(zip(self.house["tracked"], values, strict=True))
        return [given.get(name) for name in self.running.relay.tracked_names]

    def _server(self, pool: PoolState, descriptor: int, fact: Fact, params: list[bytes | None]) -> Server:
        database, user, replication = fact["about"]
        host, where = fact["dial"]
        about = ServerFacts(Peer(*fact["peer"]), database, user, replicates=Replication(replication), host=host)
        if where is not None:
            there = where[1] if isinstance(where[1], str) else tuple(where[1])
            about.address = Address(where[0], there)
        state = fact["state"] | {"told": self._tracked(fact["state"]["told"])}
        return engine.revive_server(pool.engine, descriptor, state, params, about, self.statements)

    def _client(self, pool: PoolState, descriptor: int, fact: Fact, params: list[bytes | None]) -> Client:
        # Of one that knew nothing of session state, all values are those of the startup.
        said = fact["state"]
        state = said | {"base_params": self._tracked(said.get("base_params", said["params"]))}
        database, user, replication = fact["about"]
        peer, wants = Peer(*fact["peer"]), Replication(replication)
        arrival = ClientFacts(peer, database, user, replicates=wants, number=state["id"])
        return engine.revive_client(pool.engine, descriptor, state, params, arrival, self.statements)

    def _settle(self, made: Client | Server, fact: Fact) -> None:
        """What becomes of a connection that the relay has."""
        running = self.running
        if isinstance(made, Server):
            pool: PoolState = made.pool.owner
            made.close_needed = made.close_needed or (pool.database.name, pool.user.name) in self.moved
            self.servers[made.id] = made
            if running.colleagues is not None:
                running.colleagues.opened(made.about.place, made.pid)
        elif isinstance(made, Client):
            pool = made.pool.owner
            running.registry.count_in(pool.database, running.registry.user(made.about.user))
            number = fact["state"]["server"]
            server = self.servers.get(number)
            if server is not None:
                engine.link_again(made, server)
            elif number is not None:
                running.drop(made, Reason.SERVER_CRASHED)


# ---- words


def say_taken(running: Running, heir: Inheritance) -> None:
    for listener in heir.listeners:
        name = listener.getsockname()
        shown = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
        running.say(LOG, f"got pooler socket: {shown}")
    clients = sum(fact["kind"] == "client" for fact, _ in heir.connections)
    servers = len(heir.connections) - clients
    running.say(LOG, f"took over {clients} clients and {servers} servers from the old process")


def say_kept(running: Running, error: PassingError) -> None:
    running.say(WARNING, f"the new process did not take over: {error}")
