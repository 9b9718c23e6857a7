"""Running: what is in force and what has happened, for everybody who works in the pooler.

The registry with the configuration, the relay, the loop and its clock, the log and the counts of what is rare, and
whether the end has begun. It decides nothing: who opens servers, lets clients in or carries out commands takes it by
name, and beside it whatever else it needs. The rule: a connection's end is logged before its peer is told.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum

from pooler import relay, wire
from pooler.config.databases import DatabaseConfig, PeerConfig
from pooler.config.whole import Config
from pooler.log import ERROR, LOG, WARNING, Log
from pooler.net.channel import MAX_LENGTH
from pooler.net.tls import ServerTls, Tls
from pooler.pools.colleagues import Colleagues
from pooler.pools.connection import ClientFacts, client_label
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import CancelQueue, Database, PoolState, Registry
from pooler.relay.engine import Instant
from pooler.rounds import Rounds
from pooler.stirring import Stirring
from pooler.values import dataclass
from pooler.verbs import ConsoleSession

ADMIN_SHUTDOWN = "57P01"
"""As PostgreSQL ends its clients: drivers take it for a lost connection."""
FAREWELL = "server closed the connection unexpectedly: the pooler is shutting down"
"""PgBouncer says nothing at a fast exit, and this is what libpq then says: who looks for that finds it."""


class Phase(Enum):
    """How far the end has come, in PgBouncer's words; the value is what is waited for."""

    SERVING = "nothing"
    DRAINING = "balancers"
    """They are told that this one is not ready, and who comes meanwhile is served."""
    WAIT_FOR_SERVERS = "servers"
    WAIT_FOR_CLIENTS = "clients"
    IMMEDIATE = "now"


@dataclass(slots=True)
class ConsoleClient:
    """A client of the admin database, which never enters the relay."""

    session: ConsoleSession
    facts: ClientFacts
    since: int
    """On the relay's clock."""
    task: asyncio.Task[None]


class Running:
    """What is shared. `now` is the loop's monotonic clock, in seconds, and the relay's in microseconds is the same one;
    `wall` is the time of day."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        selector: relay.Relay,
        log: Log,
        *,
        now: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.loop = loop
        self.relay = selector
        self.log_file = log
        self.now = now or loop.time
        self.wall = wall
        self.start = wall()
        self.stirring = Stirring(lambda: selector.happened, selector.rest)
        """Whether anything has happened: what is in the relay's hands, or asks the loop for something."""
        selector.on_stir(self.stirring.stir)
        self.rounds = Rounds(lambda text: self.say(ERROR, text))
        self.registry = Registry(config, selector, self.now)
        self.tls = Tls.off()
        """What is in force; the settings may already ask for something that cannot be had yet."""
        self.phase = Phase.SERVING
        self.on_phase: list[Callable[[Phase], None]] = []
        """Called when somebody asks for the end, with what is to be waited for."""
        self.consoles: dict[int, ConsoleClient] = {}
        self.console_logins = 0
        """Since the start."""
        self.console_askers = 0
        """Of those sessions the ones that have ever asked something."""
        self.neighbours: Mapping[int, PeerConfig] = {}
        """Peers that were found by name, by their numbers."""
        self.neighbour_id = 0
        """This process's own number among them; 0: it is not sought by name."""
        self.peer_queues: dict[int, CancelQueue] = {}
        self.tallies: Counter[tuple[Kind, str, Reason]] = Counter()
        self.changed = asyncio.Event()
        """Set whenever something ends, or another thing changes that somebody may wait for."""
        self.colleagues: Colleagues | None = None
        """The other workers of the service; None: there are none."""
        self.number_from(1)

    @property
    def config(self) -> Config:
        """The one in force."""
        return self.registry.config

    @property
    def peer_id(self) -> int:
        """The number of this process among its peers; 0: none."""
        return self.registry.config.settings.peer_id or self.neighbour_id

    @property
    def peers(self) -> Mapping[int, PeerConfig]:
        """All of them, by their numbers: [peers], and those that were found by name."""
        return {**self.neighbours, **self.config.peers} if self.neighbours else self.config.peers

    def instruct_relay(self) -> None:
        """What of the settings is the relay's as a whole."""
        self.relay.max_packet = min(self.config.settings.max_packet_size, MAX_LENGTH)
        self.relay.wordy = self.log_file.wordy

    def instant(self) -> Instant:
        """Now, on the clocks of the wall and of the relay."""
        self.relay.stamp()
        return Instant(self.wall(), int(self.now() * 1e6))

    def number_from(self, first: int, step: int = 1) -> None:
        """Numbers below `first` were given by the process whose place this one takes, and those between two steps are
        others'."""
        self.next_number = itertools.count(first, step).__next__
        """The id of the next connection: a client's, a server's or a console's."""

    # ---- the end

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self.ending = phase is Phase.IMMEDIATE
        """Whether this is the end: whatever is closed now is closed for that, and has no line of its own."""
        self.shutting = phase not in (Phase.SERVING, Phase.DRAINING)
        """Whether the end has begun, and nobody new comes in."""

    @property
    def leaving(self) -> bool:
        """Whether somebody has asked for the end."""
        return self.phase is not Phase.SERVING

    def shut_down(self, phase: Phase) -> None:
        """Begin to stop: at once, or when the servers or the clients are gone."""
        self.phase = phase
        for pool in self.registry.pools():
            pool.stir()
        for listener in self.on_phase:
            listener(phase)

    # ---- the log

    def say(self, level: str, text: str) -> None:
        self.log_file.line(level, text)

    def tally(self, kind: Kind, database: str, reason: Reason) -> None:
        """Count something rare, for its database as long as that is there: names come from strangers, too."""
        known = database if database in self.registry.databases else ""
        self.tallies[kind, known, reason] += 1

    def say_connected(self, text: str) -> None:
        if self.config.settings.log_connections:
            self.say(LOG, text)

    def say_closing(self, label: str, reason: str, since_us: int) -> None:
        if self.config.settings.log_disconnections and not self.ending:
            age = max(0, self.relay.now - since_us) // 1_000_000
            self.say(LOG, f"{label} closing because: {reason} (age={age}s)")

    def say_error(self, label: str, message: str) -> None:
        if self.config.settings.log_pooler_errors and not self.ending:
            self.say(WARNING, f"{label} pooler error: {message}")

    def say_dropping(self, database: Database) -> None:
        why = "as it does not exist anymore or inactive auto-database"
        self.say(WARNING, f"dropping database '{database.name}' {why}")

    def fault(self, connection: relay.Client | relay.Server | relay.Newcomer, error: Exception) -> None:
        database = "" if isinstance(connection, relay.Newcomer) else connection.pool.database
        self.tally(Kind.ERROR, database, Reason.FAULT)
        self.say(ERROR, f"fault on connection {connection.id}: {type(error).__name__}: {error}")

    # ---- pools

    def database(self, name: str, asker: ClientFacts | None = None) -> Database | None:
        """The entry at work of this name, made on first use, which may be that of a client. None when there is none,
        or no longer: whoever has waited since it was found asks again."""
        config = self.registry.find(name)
        return None if config is None else self.entry(config, asker)

    def entry(self, config: DatabaseConfig, asker: ClientFacts | None = None) -> Database:
        """The same of an entry that was found in this turn."""
        known = self.registry.databases.get(config.name)
        if known is not None:
            return known
        if config.auto:
            who = f"{client_label(asker)} " if asker is not None else ""
            self.say(LOG, f"{who}registered new auto-database: {config.name}")
        return self.registry.database(config)

    def forget_database(self, database: Database) -> None:
        """Drop a database that nobody uses. What was counted of it counts on for all that are gone."""
        self.registry.forget_database(database)
        for kind, name, reason in [key for key in self.tallies if key[1] == database.name]:
            self.tallies[kind, "", reason] += self.tallies.pop((kind, name, reason))

    def forget_removed(self, database: Database) -> None:
        """A database that left the configuration goes when its last connection has ended: the janitor asks again."""
        here = self.registry.databases.get(database.name) is database
        if here and database.removed and not (database.clients or database.servers):
            self.forget_database(database)

    def server_tls(self, database: Database | None = None) -> ServerTls:
        """How servers are spoken to now, those of `database` or all others; the log hears once of files that cannot be
        used."""
        own = database.tls if database is not None else None
        found = own or self.tls.server
        if problem := found.look():
            self.say(WARNING, f"TLS setup failed: {problem}")
        return found

    def drop(self, connection: relay.Conn, reason: Reason) -> None:
        self.relay.drop(connection, reason.value)

    def evict(self, server: relay.Server, reason: Reason) -> None:
        """It goes for somebody who waits elsewhere."""
        self.relay.evict(server, reason.value)

    def end_servers(self, pool: PoolState, reason: Reason) -> None:
        for server in pool.engine.servers():
            self.drop(server, reason)

    def end_waiting(self, pool: PoolState, why: LoginError) -> None:
        """Whoever waits for one of the pool's servers, in the queue or to be welcomed, is told why none will come."""
        for waiter in pool.newcomers.values():
            if not waiter.own:
                waiter.give_up(why)
        for client in pool.engine.waiting_clients.all():
            self.relay.drop(client, why.message, sqlstate=why.sqlstate)

    def end_newcomers(self, pool: PoolState, reason: str) -> None:
        """Turn away those who wait to be welcomed."""
        for waiter in pool.newcomers.values():
            waiter.give_up(LoginError(FAREWELL, ADMIN_SHUTDOWN) if self.ending else LoginError(reason))

    def farewell(self, reason: str, sqlstate: str | None = None) -> bytes:
        """What a client is told last."""
        if self.ending:
            return wire.error_response("FATAL", ADMIN_SHUTDOWN, FAREWELL)
        return wire.error_response("FATAL", sqlstate or wire.PROTOCOL_VIOLATION, reason)
