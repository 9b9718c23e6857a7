"""The online restart (-R): a new process goes on with the sockets and connections of the old one.

`surrender` is the old process's side; `receive` and `Inheritance.adopt` are the new one's. Listening sockets
and all connections without TLS change hands, with everything the relay knows of them, in the middle of a query too;
what uses TLS ends with the old process. The rule: until the new process has said that it has everything, the old one
has given up nothing; until the old one has let go, the new one touches nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pooler import relay, wire
from pooler.auth import Credentials
from pooler.channel import Peer
from pooler.databases import RESERVED, DatabaseConfig
from pooler.dial import Address
from pooler.door import SUCCESSOR
from pooler.labels import Arrival, Asker, Dial
from pooler.log import ERROR, LOG, WARNING
from pooler.login import Attempt
from pooler.passing import Fact, Line, PassingError
from pooler.registry import PoolState
from pooler.relay import Client, Conn, Server, engine
from pooler.scram import Keys
from pooler.welcome import Welcome

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

TIMEOUT = 20.0
"""Seconds either side waits for the other."""
TAKEN, GONE = "taken", "gone"


# ---- the old process


def surrender(bouncer: Bouncer, listeners: Sequence[socket.socket], paths: Sequence[object], line: Line) -> None:
    """Hand everything over. When this returns, our copies of what was taken are closed; if it raises PassingError,
    nothing has changed."""
    connections = [c for c in all_connections(bouncer) if may_go(c)]
    table: dict[int, tuple[bytes, bool]] = {}
    states = [engine.record(connection, table) for connection in connections]
    line.put(_house(bouncer, list(paths), table))
    for listener in listeners:
        line.put({"kind": "listener"}, listener.fileno())
    for pool in bouncer.registry.pools():
        line.put(_pool(pool))
    for connection, state in zip(connections, states, strict=True):
        line.put(_connection(connection, state), connection.fd)
    line.put({"kind": "end"})
    fact, _ = line.take()
    if fact != {"kind": TAKEN}:
        raise PassingError("the new process does not want them")
    for connection in connections:
        engine.abandon(connection)


def all_connections(bouncer: Bouncer) -> list[Conn]:
    """Servers first: a client's record names its server."""
    pools = [pool.engine for pool in bouncer.registry.pools()]
    servers: list[Conn] = [server for pool in pools for server in pool.servers()]
    return servers + [client for pool in pools for client in pool.clients()]


def may_go(connection: Conn) -> bool:
    """Whether a connection can be handed over: not with TLS, not the question of a login that ends here, and not when
    that holds for whom it is linked to."""
    linked: Conn | None = connection.linked if isinstance(connection, Client | Server) else None
    both = (connection, linked) if linked is not None else (connection,)
    if isinstance(connection, Server) and connection.cancels:
        return False
    return not any(one.has_tls or isinstance(one.about, Asker) for one in both)


def _house(bouncer: Bouncer, paths: list[object], table: Mapping[int, tuple[bytes, bool]]) -> Fact:
    databases = bouncer.registry.databases.values()
    return {
        "kind": "house",
        "tracked": list(bouncer.relay.tracked_names),
        "next": bouncer.next_number(),
        "last_statement": engine.last_statement(bouncer.relay),
        "statements": [(number, body, shared) for number, (body, shared) in table.items()],
        "paths": paths,
        "paused": bouncer.paused,
        "databases": [(database.name, database.paused, database.disabled) for database in databases],
    }


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


def place(config: DatabaseConfig) -> list[Any]:
    """Where a database's servers are: with another place they are to be closed."""
    return [list(config.hosts), config.port, config.dbname or config.name, config.user]


def _connection(connection: Conn, state: engine.State) -> Fact:
    about: Attempt = connection.about
    peer = about.peer
    fact: Fact = {
        "kind": "client" if isinstance(connection, Client) else "server",
        "database": connection.pool.database,
        "user": connection.pool.user,
        "peer": (peer.addr, peer.port, peer.local_addr, peer.local_port, peer.pid, peer.uid, peer.gid),
        "about": (about.database, about.user, about.replication),
        "state": state,
    }
    if isinstance(about, Dial):
        fact["dial"] = (about.host, (about.address.family, about.address.sockaddr) if about.address else None)
    return fact


# ---- the new process


def receive(sock: socket.socket) -> Inheritance:
    """Log in at the old process and take what it has. When this returns it has let go. Raises PassingError."""
    line = Line(sock, TIMEOUT)
    parameters = {"user": RESERVED, "database": RESERVED, "application_name": SUCCESSOR}
    try:
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


class Inheritance:
    """What the old process has handed over, until it is at work here."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.house: Fact = {}
        self.listeners: list[socket.socket] = []
        self.pools: list[Fact] = []
        self.connections: list[tuple[Fact, int]] = []

    def fetch(self) -> None:
        """Everything, up to the old process's word that it has let go. Raises PassingError."""
        while True:
            fact, descriptor = self.line.take()
            kind = fact.get("kind")
            if kind == "end":
                break
            if descriptor is None:
                self._keep(kind, fact)
            elif kind == "listener":
                self.listeners.append(socket.socket(fileno=descriptor))
            else:
                self.connections.append((fact, descriptor))
        self.line.put({"kind": TAKEN})
        if self.line.take()[0] != {"kind": GONE}:
            raise PassingError("the old process did not let go")

    def _keep(self, kind: object, fact: Fact) -> None:
        if kind == "house":
            self.house = fact
        elif kind == "pool":
            self.pools.append(fact)
        else:
            raise PassingError("not a pooler that can be taken over")

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        for _, descriptor in self.connections:
            os.close(descriptor)

    def adopt(self, bouncer: Bouncer) -> None:
        """Go on with all of it."""
        Adoption(bouncer, self.house).run(self.pools, self.connections)

    async def old_process_gone(self, bouncer: Bouncer) -> None:
        """Until nothing of the old process is left: its other ports are free then."""
        self.line.sock.setblocking(False)
        while await bouncer.loop.sock_recv(self.line.sock, 1024):
            pass


class Adoption:
    """Connections made again in this process."""

    def __init__(self, bouncer: Bouncer, house: Fact) -> None:
        self.bouncer = bouncer
        self.house = house
        self.servers: dict[int, Server] = {}
        self.moved: set[tuple[str, str]] = set()
        """Pools whose servers are somewhere else by the configuration of today."""
        selector = bouncer.relay
        engine.number_statements_from(selector, house["last_statement"])
        self.statements = {
            number: engine.statement(selector, number, body, shared) for number, body, shared in house["statements"]
        }

    def run(self, pools: Iterable[Fact], connections: Iterable[tuple[Fact, int]]) -> None:
        bouncer = self.bouncer
        bouncer.number_from(self.house["next"])
        self._pauses()
        for fact in pools:
            self._pool(fact)
        for fact, descriptor in connections:
            try:
                self._connection(fact, descriptor)
            except Exception as error:
                bouncer.say(ERROR, f"cannot go on with a {fact['kind']}: {type(error).__name__}: {error}")
                os.close(descriptor)
        for server in self.servers.values():
            if server.state_name == "active" and server.linked is None:
                bouncer.relay.drop(server, "client disconnected with query in progress")
        for pool in bouncer.registry.pools():
            pool.engine.resume()
            bouncer.opener.consider(pool)

    def _pauses(self) -> None:
        bouncer = self.bouncer
        bouncer.paused = self.house["paused"]
        for name, paused, disabled in self.house["databases"]:
            config = bouncer.find_database(name)
            if config is not None:
                database = bouncer.database(config)
                database.paused, database.disabled = paused, disabled

    def _pool_of(self, fact: Fact) -> PoolState | None:
        config = self.bouncer.find_database(fact["database"])
        if config is None:
            return None
        return self.bouncer.pool(self.bouncer.database(config), fact["user"], forced=False)

    def _pool(self, fact: Fact) -> None:
        pool = self._pool_of(fact)
        if pool is None:
            return
        password, md5, keys = fact["credentials"]
        pool.credentials = Credentials(password, md5, Keys(*keys) if keys else None)
        if fact["place"] != place(pool.database.config):
            self.moved.add((pool.database.name, pool.user.name))
        elif fact["reported"] is not None:
            pool.welcome = Welcome(fact["reported"], self.bouncer.relay.tracked_names)

    def _connection(self, fact: Fact, descriptor: int) -> None:
        pool = self._pool_of(fact)
        if pool is None:
            last = wire.terminate()
            if fact["kind"] == "client":
                last = wire.error_response("FATAL", wire.PROTOCOL_VIOLATION, "database configuration changed")
            with socket.socket(fileno=descriptor) as sock, contextlib.suppress(OSError):
                sock.send(last, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return
        os.set_blocking(descriptor, False)
        state = fact["state"]
        given = dict(zip(self.house["tracked"], state["params"], strict=True))
        params = [given.get(name) for name in self.bouncer.relay.tracked_names]
        revive = self._client if fact["kind"] == "client" else self._server
        revive(pool, descriptor, fact, params)

    def _server(self, pool: PoolState, descriptor: int, fact: Fact, params: list[bytes | None]) -> None:
        database, user, replication = fact["about"]
        host, where = fact["dial"]
        about = Dial(Peer(*fact["peer"]), database, user, replication=replication, host=host)
        if where is not None:
            there = where[1] if isinstance(where[1], str) else tuple(where[1])
            about.address = Address(where[0], there)
        server = engine.revive_server(pool.engine, descriptor, fact["state"], params, about, self.statements)
        server.close_needed = server.close_needed or (pool.database.name, pool.user.name) in self.moved
        self.servers[server.id] = server

    def _client(self, pool: PoolState, descriptor: int, fact: Fact, params: list[bytes | None]) -> None:
        bouncer, state = self.bouncer, fact["state"]
        database, user, replication = fact["about"]
        arrival = Arrival(Peer(*fact["peer"]), database, user, replication=replication, number=state["id"])
        client: relay.Client = engine.revive_client(pool.engine, descriptor, state, params, arrival, self.statements)
        bouncer.registry.count_in(pool.database, bouncer.registry.user(user))
        server = self.servers.get(state["server"])
        if server is not None:
            engine.tie(client, server)
        elif state["server"] is not None:
            bouncer.relay.drop(client, "server conn crashed?")


# ---- words


def say_taken(bouncer: Bouncer, heir: Inheritance) -> None:
    for listener in heir.listeners:
        name = listener.getsockname()
        shown = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
        bouncer.say(LOG, f"got pooler socket: {shown}")
    clients = sum(fact["kind"] == "client" for fact, _ in heir.connections)
    servers = len(heir.connections) - clients
    bouncer.say(LOG, f"took over {clients} clients and {servers} servers from the old process")


def say_kept(bouncer: Bouncer, error: PassingError) -> None:
    bouncer.say(WARNING, f"the new process did not take over: {error}")
