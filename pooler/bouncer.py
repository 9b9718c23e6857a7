"""The bouncer: what logins, consoles, the janitor and the relay have in common, in one place.

It owns the registry, the log, the counts of rare events and the current configuration, answers what a login asks
(login.House) and what a console asks (verbs.House), and turns the relay's events into log lines, farewells and new
servers. It moves no bytes and watches no socket. The rule: a connection's end is logged before its peer is told.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from pooler import relay, wire
from pooler.auth import Credentials, LoginError
from pooler.channel import Channel, Peer
from pooler.config import Changes, Config
from pooler.databases import DatabaseConfig
from pooler.dns import Dns, ip
from pooler.history import History
from pooler.labels import Asker, Dial, client_label, server_label
from pooler.log import ERROR, LOG, WARNING, Log
from pooler.login import Attempt
from pooler.lookup import Lookup
from pooler.opener import Opener
from pooler.registry import CancelQueue, Database, PoolState, Registry
from pooler.relay import engine
from pooler.snapshot import descriptors, take_snapshot
from pooler.stats import DescriptorStat, DrainStat, Snapshot, Window
from pooler.users import Secret, SecretKind
from pooler.values import dataclass
from pooler.verbs import ConsoleSession, House, Verb

if TYPE_CHECKING:
    from pooler.door import Visit

Console = Callable[[Channel, ConsoleSession, House], Awaitable[None]]


@dataclass(slots=True)
class ConsoleClient:
    """A client of the admin database, which never enters the relay."""

    session: ConsoleSession
    attempt: Attempt
    since: int
    """On the relay's clock."""
    task: asyncio.Task[None]


class Bouncer:
    """See the module. `start` is the wall clock's, all other times are the loop's monotonic seconds."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, selector: relay.Relay, log: Log) -> None:
        self.config = config
        self.loop = loop
        self.relay = selector
        self.no_ring = selector.no_ring
        """Why io_uring is not used, as far as the log knows."""
        self.log_file = log
        self.start = time.time()
        self.registry = Registry(config)
        self.opener = Opener(self)
        self.lookup = Lookup(self)
        self.dns = Dns(loop, lambda: self.config.settings, self.say, self.addresses_gone)
        self.tls_context: ssl.SSLContext | None = None
        self.server_context: ssl.SSLContext | None = None
        self.plain_on_loopback_only = False
        self.paused = False
        self.shutting = ""
        self.consoles: dict[int, ConsoleClient] = {}
        self.logging_in: dict[int, Visit] = {}
        """In the order of their arrival."""
        self.window = Window(self.start)
        self.history = History(self.start)
        self.peer_queues: dict[int, CancelQueue] = {}
        self.tallies: Counter[tuple[str, str, str]] = Counter()
        self.changed = asyncio.Event()
        self.on_change: list[Callable[[Changes], None]] = []
        """Called after a RELOAD or SET with what it changed."""
        self.drains: Callable[[], tuple[DrainStat, ...]] = lambda: ()
        """What the log drains have to say, for SHOW DRAINS."""
        self.listeners: Callable[[], Iterable[socket.socket]] = lambda: ()
        """The sockets that listen."""
        self.on_shutdown: Callable[[str], None] = lambda how: None
        self._numbers = itertools.count(1)
        selector.on_events(lambda: loop.call_soon(self.handle_events))

    # ---- log

    def next_number(self) -> int:
        """The id of the next connection: a client's, a server's or a console's."""
        return next(self._numbers)

    def number_from(self, first: int) -> None:
        """Numbers below `first` were given by the process whose place this one takes."""
        self._numbers = itertools.count(first)

    def say(self, level: str, text: str) -> None:
        self.log_file.line(level, text)

    def log(self, attempt: Attempt, level: str, text: str) -> None:
        """login.House: a line about a client that logs in."""
        self.say(level, f"{client_label(attempt)} {text}")

    def tally(self, kind: str, database: str, reason: str) -> None:
        """Count something rare; `reason` is one of our own words."""
        self.tallies[kind, database, reason] += 1

    # ---- login.House

    def tls_required(self, peer: Peer) -> bool:
        if self.config.settings.client_tls_sslmode.rank >= REQUIRE:
            return True
        return self.plain_on_loopback_only and not is_loopback(peer.addr)

    def find_database(self, name: str) -> DatabaseConfig | None:
        known = self.registry.databases.get(name)
        return known.config if known is not None and not known.removed else self.config.find_database(name)

    def usual_kind(self) -> SecretKind:
        first = next(iter(self.config.secrets.values()), None)
        return self.lookup.kind or (first.kind if first is not None else SecretKind.scram)

    async def find_secret(self, database: DatabaseConfig | None, attempt: Attempt, channel: Channel) -> Secret | None:
        known = self.config.secrets.get(attempt.user)
        return known if known is not None else await self.lookup.secret(database, attempt, channel)

    def check_room(self) -> None:
        limit = self.config.settings.max_client_conn
        if limit and self.client_count > limit:
            raise LoginError("no more connections allowed (max_client_conn)")

    def check_limits(self, database: DatabaseConfig, user: str) -> None:
        if self.shutting:
            raise LoginError("pooler is shutting down")
        found = self.registry.databases.get(database.name)
        if found is not None and found.disabled:
            raise LoginError(f'database "{database.name}" is disabled')
        if found is not None:
            limit = self.registry.database_client_limit(found)
            if limit and found.clients >= limit:
                raise LoginError("client connections exceeded (max_db_client_connections)")
        owner = self.registry.user(user)
        limit = self.registry.user_client_limit(owner)
        if limit and owner.clients >= limit:
            raise LoginError("client connections exceeded (max_user_client_connections)")

    @property
    def client_count(self) -> int:
        """All clients but those of the console: logged in or logging in."""
        return self.registry.clients + len(self.logging_in)

    # ---- pools

    def database(self, config: DatabaseConfig) -> Database:
        """The entry at work for `config`, made on first use."""
        found = self.registry.databases.get(config.name)
        if found is None:
            found = self.registry.databases[config.name] = Database(config)
            if config.auto:
                self.say(LOG, f"registered new auto-database: {config.name}")
        return found

    def pool(self, database: Database, user: str, *, forced: bool = True) -> PoolState:
        """The pool of this database and login user, made on first use; `forced`: of the database's own user, if any."""
        name = database.config.user or user if forced else user
        found = database.pools.get(name)
        if found is None:
            made = relay.Pool(self.relay, database.name, name)
            found = PoolState(database, self.registry.user(name), made)
            made.owner = found
            made.paused = database.paused or self.paused
            self.registry.apply(found)
            database.pools[name] = found
            found.user.pools.append(found)
        return found

    def forget_pool(self, pool: PoolState) -> None:
        """Drop a pool that nobody uses."""
        del pool.database.pools[pool.user.name]
        pool.user.pools.remove(pool)

    def say_dropping(self, database: Database) -> None:
        why = "as it does not exist anymore or inactive auto-database"
        self.say(WARNING, f"dropping database '{database.name}' {why}")

    def forget_database(self, database: Database) -> None:
        for pool in list(database.pools.values()):
            self.forget_pool(pool)
        del self.registry.databases[database.name]

    def forget_removed(self, database: Database) -> None:
        """A database that left the configuration goes when its last connection has ended."""
        if not database.removed:
            return
        if database.clients or database.servers:
            self.loop.call_later(0.1, self.forget_removed, database)
        elif self.registry.databases.get(database.name) is database:
            self.forget_database(database)

    def addresses_gone(self, host: str, gone: frozenset[str]) -> None:
        """A host's name has other addresses now: servers at the old ones go as soon as they are free."""
        self.say(LOG, f"{host} is no longer at {', '.join(sorted(gone))}")
        for pool in self.registry.pools():
            for server in pool.engine.servers():
                about: Dial = server.about
                if about.host == host and about.address is not None and ip(about.address) in gone:
                    server.close_needed = True

    def end_newcomers(self, pool: PoolState, reason: str) -> None:
        """Turn away those who wait to be welcomed."""
        for waiter in pool.newcomers.values():
            waiter.give_up(LoginError(reason))

    def shut_down(self, how: str) -> None:
        """Begin to stop: `now`, or when the `servers` or the `clients` are gone."""
        self.shutting = how
        self.on_shutdown(how)

    def credentials(self, pool: PoolState) -> Credentials:
        """What this pool can show to a server: what was configured, else what its clients have proved with."""
        config = pool.database.config
        if config.user == pool.user.name and config.password is not None:
            return Credentials(password=config.password)
        stored = Credentials.of(self.config.secrets.get(pool.user.name))
        return stored.joined(pool.credentials)

    # ---- events of the relay

    def handle_events(self) -> None:
        """Everything the relay has posted since the last turn, in order."""
        events, self.relay.events = self.relay.events, []
        for kind, *facts in events:
            try:
                HANDLERS[kind](self, *facts)
            except Exception as error:
                self.event_failed(HANDLERS[kind].__name__, facts[0], error)

    def event_failed(self, event: str, subject: relay.Pool | relay.Conn, error: Exception) -> None:
        """A bug of ours, or no memory: what the event was about ends, and the others go on."""
        pool = subject if isinstance(subject, relay.Pool) else subject.pool
        self.tally("error", pool.database if pool else "", "event")
        self.say(ERROR, f"fault in {event}: {type(error).__name__}: {error}")
        if isinstance(subject, relay.Client | relay.Server):
            if subject.is_lost:
                subject.finish(b"")
            else:
                self.relay.drop(subject, "failure")
        # Who waits for an end or for room may have missed it.
        self.changed.set()

    def wants_server(self, pool: relay.Pool) -> None:
        # Whoever was turned away does not wait, but has asked for another attempt.
        self.opener.consider(pool.owner, needed=pool.failing is not None)

    def client_lost(self, client: relay.Client, reason: str, tell: bool) -> None:
        if isinstance(client.about, Asker):
            client.about.lost = reason
            return client.finish(b"")
        pool: PoolState = client.pool.owner
        self.registry.count_out(pool.database, self.registry.user(client.about.user))
        label = client_label(client.about) if tell or self.config.settings.log_disconnections else ""
        self.say_closing(label, reason, client.connect_us)
        self.tally("disconnect", pool.database.name, reason_word(reason))
        farewell = b""
        if tell:
            self.say_error(label, reason)
            farewell = wire.error_response("FATAL", wire.PROTOCOL_VIOLATION, reason)
        client.finish(farewell)
        self.changed.set()

    def server_lost(self, server: relay.Server, reason: str, tell: bool) -> None:
        pool: PoolState = server.pool.owner
        self.say_closing(server_label(pool, server.about.peer, server.id), reason, server.connect_us)
        self.tally("close", pool.database.name, reason_word(reason))
        server.finish(wire.terminate())
        self.opener.room_made(pool)
        self.changed.set()

    def server_ready(self, server: relay.Server) -> None:
        """A server came free in a paused pool."""
        if not server.is_lost and server.pool.paused and server.state_name == "idle":
            self.relay.drop(server, "pause mode")

    def server_said(self, server: relay.Server, text: str) -> None:
        label = server_label(server.pool.owner, server.about.peer, server.id)
        self.say(WARNING, f"{label} got packet 'E' from server when not linked: {text}")

    def fault(self, connection: relay.Client | relay.Server | relay.Newcomer, error: Exception) -> None:
        self.tally("error", connection.pool.database if connection.pool else "", "fault")
        self.say(ERROR, f"fault on connection {connection.id}: {type(error).__name__}: {error}")

    def say_closing(self, label: str, reason: str, since_us: int) -> None:
        if self.config.settings.log_disconnections:
            age = max(0, self.relay.now - since_us) // 1_000_000
            self.say(LOG, f"{label} closing because: {reason} (age={age}s)")

    def say_error(self, label: str, message: str) -> None:
        if self.config.settings.log_pooler_errors:
            self.say(WARNING, f"{label} pooler error: {message}")

    # ---- verbs.House

    def descriptors(self) -> Iterable[DescriptorStat]:
        return descriptors(self)

    def snapshot(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        return take_snapshot(self, clients=clients, servers=servers, histograms=histograms)

    async def perform(self, verb: Verb) -> None:
        from pooler.control import perform

        await perform(self, verb)

    async def sleep_period(self) -> None:
        """Until the next stats_period ends."""
        await asyncio.sleep(self.config.settings.stats_period)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after every end of a connection."""
        self.handle_events()
        while not condition():
            self.changed.clear()
            await self.changed.wait()


HANDLERS: dict[int, Callable[..., None]] = {
    engine.WANT_SERVER: Bouncer.wants_server,
    engine.CLIENT_LOST: Bouncer.client_lost,
    engine.SERVER_LOST: Bouncer.server_lost,
    engine.SERVER_READY: Bouncer.server_ready,
    engine.SERVER_SAID: Bouncer.server_said,
    engine.FAULT: Bouncer.fault,
}
REQUIRE = 3
"""Rank of sslmode require."""


def reason_word(reason: str) -> str:
    """The part of a reason that is ours: without what a server or a client said in it."""
    return reason.partition(":")[0]


def is_loopback(address: str) -> bool:
    return address == "unix" or address == "::1" or address.startswith("127.")
