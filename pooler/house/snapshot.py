"""One Snapshot out of the registry and the relay's counts. Reads only; what it returns is plain data.

Rows of clients and servers are made only when asked for. Ten thousand of them take longer than traffic may wait, so
the relay makes them itself, and takes breath after every few; connections that end meanwhile simply show their
last state.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import TypeVar

from pooler import __version__, wire
from pooler.clients.peers import peer_size
from pooler.clients.strangers import Strangers
from pooler.config.databases import RESERVED, DatabaseConfig, PeerConfig
from pooler.house.sessions import Sessions
from pooler.house.untouched import Untouched
from pooler.net.address import Peer
from pooler.net.credentials import NOTHING, Credentials
from pooler.net.dns import Dns
from pooler.pools.connection import ClientFacts, pointer
from pooler.pools.registry import CancelQueue, Database, PoolState, User, Waiter
from pooler.pools.running import Running
from pooler.relay import Client, Pool, Server
from pooler.relay.engine import OWED_BYTES, Held, Instant, Statement, owed, plain, socket_rows
from pooler.servers.hubs import LISTENING, NAME, Hubs, Line
from pooler.servers.opener import Opener
from pooler.stats import (
    ZERO,
    Counters,
    DatabaseStat,
    DescriptorStat,
    Distributions,
    DnsHost,
    DrainStat,
    Event,
    Histogram,
    ListItem,
    LoopStat,
    MemStat,
    PeerStat,
    PoolStat,
    ProcessStat,
    Snapshot,
    SocketStat,
    UserStat,
    Window,
)

PYTHON = ".".join(map(str, sys.version_info[:3]))
MACHINE = os.uname()
BUILD = f"CPython on {MACHINE.sysname} {MACHINE.machine}"
ADMIN_POOL_SIZE = 2
LOST_LINES = "log line"
"""Among the events: lines that the log has lost."""
TOTAL = "all"
"""The window's key for all pools together."""
SHOWN_PARAMETERS = {
    b"client_encoding": "client_encoding",
    b"standard_conforming_strings": "std_strings",
    b"DateStyle": "datestyle",
    b"TimeZone": "timezone",
}
"""Tracked parameters that SHOW FDS has, and its names for them."""
SOCKET_FIELDS = tuple(field.name for field in fields(SocketStat))
T = TypeVar("T")


class Figures:
    """Everything that is counted, as it is at an instant."""

    def __init__(
        self,
        running: Running,
        opener: Opener,
        hubs: Hubs,
        dns: Dns,
        strangers: Strangers,
        listeners: Sequence[socket.socket],
        sessions: Sessions,
    ) -> None:
        self._running = running
        self._sessions = sessions
        self._opener = opener
        self._hubs = hubs
        self._dns = dns
        self._strangers = strangers
        self._listeners = listeners
        self.window = Window(running.now())
        """Of the averages; it turns at the end of each period."""
        self.drain_sources: list[Callable[[], Iterable[DrainStat]]] = []
        """What the log drains have to say, for SHOW DRAINS."""
        self.untouched = Untouched(running, self._untouched)
        self.used_only = False
        """A worker leaves databases and users that nobody has used there to the desk, which knows them as well."""

    @property
    def client_count(self) -> int:
        """All clients, those of the console too: logged in or logging in."""
        return self._running.registry.clients + len(self._strangers)

    def take(
        self, instant: Instant, *, clients: bool = False, servers: bool = False, histograms: bool = False
    ) -> Snapshot:
        """Everything any front shows, as it is at this instant."""
        running = self._running
        settings, registry, part = running.config.settings, running.registry, self._part
        pools = tuple(self._pool(pool, instant, histograms) for pool in self._breathing(registry.pools()))
        databases = tuple(self._databases(pools, instant))
        return Snapshot(
            now=instant.wall,
            databases=databases,
            pools=(*pools, self._admin_pool(instant)),
            users=part(self._users),
            lists=part(self._lists),
            peers=part(self._peers),
            mem=part(self._mem),
            dns_hosts=part(self._dns_hosts),
            events=part(self._events),
            active=not (registry.paused or running.relay.suspended or running.leaving),
            paused=registry.paused,
            suspended=running.relay.suspended,
            max_client_conn=settings.max_client_conn,
            max_user_connections=settings.max_user_connections,
            stats_period=settings.stats_period,
            process=process_stat(running.start),
            clients=list(self._client_rows(instant)) if clients else (),
            servers=list(self._server_rows(instant)) if servers else (),
            drains=part(self._drains),
            loop=LoopStat(*running.relay.longest_turn, running.relay.no_ring),
            total=sum(_counted(databases), registry.retired),
            steady=steady(instant),
        )

    def _breathing(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, one by one; the relay may breathe before each."""
        running = self._running
        for item in items:
            running.relay.pace()
            yield item

    def _part(self, make: Callable[[], Iterable[T]]) -> tuple[T, ...]:
        """Rows that no others depend on: a fault in them is told, and they are absent."""
        running = self._running
        rows = running.rounds.attempt(f"figures{make.__name__}", lambda: tuple(make()))
        return () if rows is None else rows

    def counters(self) -> dict[object, Counters]:
        """Counts of all pools and databases by their numbers, and of all together: what averages are made of. What is
        gone is in the sums, so that these only grow."""
        running = self._running
        registry = running.registry
        counted: dict[object, Counters] = {TOTAL: registry.retired}
        for database in list(registry.databases.values()):
            counted[database.born] = database.retired
            counted[TOTAL] += database.retired
        for pool in self._breathing(registry.pools()):
            counters = counted[pool.born] = pool.counters
            counted[pool.database.born] += counters
            counted[TOTAL] += counters
        counted[RESERVED] = console = self._console_counters()
        counted[TOTAL] += console
        return counted

    def _console_counters(self) -> Counters:
        """Of the admin database. What is asked there is no work of the pooler's: of each session one question counts,
        as in PgBouncer."""
        running = self._running
        asked = running.console_askers
        return Counters(xact_count=asked, query_count=asked, client_login_count=running.console_logins)

    def _peers(self) -> Iterator[PeerStat]:
        running = self._running
        return (self._peer(peer) for peer in running.peers.values())

    def _dns_hosts(self) -> Iterable[DnsHost]:
        return self._dns.rows()

    def _drains(self) -> Iterator[DrainStat]:
        return (row for source in self.drain_sources for row in source())

    def _events(self) -> Iterator[Event]:
        """What the bouncer has counted, rounds that failed, and what the log could not write."""
        running = self._running
        events = [Event(kind.value, name, why.value, count) for (kind, name, why), count in running.tallies.items()]
        events += self._sessions.events()
        events += (Event("round", "", name, count) for name, count in running.rounds.counts().items())
        if running.log_file.lost:
            events.append(Event("round", "", LOST_LINES, running.log_file.lost))
        return iter(sorted(events, key=attrgetter("kind", "database", "reason")))

    def _peer(self, peer: PeerConfig) -> PeerStat:
        running = self._running
        queue = running.peer_queues.get(peer.peer_id, CancelQueue())
        return PeerStat(
            peer.peer_id,
            peer.host,
            peer.port,
            peer_size(running.config.settings, peer),
            cl_active_cancel_req=queue.active,
            cl_waiting_cancel_req=queue.waiting,
            sv_active_cancel=queue.active,
        )

    # ---- pools and databases

    def _pool(self, pool: PoolState, instant: Instant, histograms: bool) -> PoolStat:
        running = self._running
        registry, engine = running.registry, pool.engine
        counters = pool.counters
        return PoolStat(
            database=pool.database.name,
            user=pool.user.name,
            cl_active=engine.active_clients.count,
            cl_waiting=pool.waiting,
            cl_active_cancel_req=pool.cancels.active,
            cl_waiting_cancel_req=pool.cancels.waiting,
            sv_active=engine.active_servers.count,
            sv_active_cancel=pool.cancels.active,
            sv_being_canceled=engine.canceled_servers.count,
            sv_idle=engine.idle_servers.count,
            sv_used=engine.used_servers.count,
            sv_tested=engine.tested_servers.count,
            sv_login=pool.opening,
            maxwait_us=int(pool.oldest_wait(steady(instant)) * 1e6),
            pool_mode=str(registry.pool_mode(pool)),
            load_balance_hosts=_balance(pool.database.config),
            pool_size=registry.pool_size(pool),
            reserve_pool_size=registry.reserve_size(pool),
            counters=counters,
            averages=self.window.live(steady(instant), pool.born, counters),
            distributions=_distributions(pool) if histograms else None,
            born=pool.born,
        )

    def _admin_pool(self, instant: Instant) -> PoolStat:
        running = self._running
        counters = self._console_counters()
        nothing = dict.fromkeys(
            ("cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active", "sv_active_cancel",
             "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login", "maxwait_us"), 0,
        )  # fmt: skip
        return PoolStat(
            database=RESERVED,
            user=RESERVED,
            cl_active=len(running.consoles),
            pool_mode="statement",
            load_balance_hosts=None,
            pool_size=ADMIN_POOL_SIZE,
            reserve_pool_size=0,
            counters=counters,
            averages=self.window.live(steady(instant), RESERVED, counters),
            distributions=None,
            **nothing,
        )

    def _databases(self, pools: Iterable[PoolStat], instant: Instant) -> Iterator[DatabaseStat]:
        running = self._running
        config, registry = running.config, running.registry
        sums: dict[str, Counters] = {}
        for pool in pools:
            sums[pool.database] = sums.get(pool.database, ZERO) + pool.counters
        configured = () if self.used_only else config.databases
        names = dict.fromkeys((*configured, *registry.databases))
        for name in self._breathing(names):
            database = registry.databases.get(name)
            if database is None:
                yield self.untouched.row(config.databases[name])
                continue
            counted = sums.get(name, ZERO)
            counters = counted + database.retired if database.retired is not ZERO else counted
            yield plain(self._database(database, counters, instant))
        yield self._admin_database(instant)

    def _untouched(self, config: DatabaseConfig) -> DatabaseStat:
        return plain(self._database(Database(config), ZERO, self._running.instant()))

    def _database(self, database: Database, counters: Counters, instant: Instant) -> DatabaseStat:
        running = self._running
        registry, settings, config = running.registry, running.config.settings, database.config
        given = (config.pool_size, config.reserve_pool_size)
        size, reserve = (
            value if value is not None else shared
            for value, shared in zip(given, (settings.default_pool_size, settings.reserve_pool_size), strict=True)
        )
        return DatabaseStat(
            name=database.name,
            host=config.host,
            port=config.port,
            database=config.dbname or config.name,
            force_user=config.user,
            pool_size=size,
            min_pool_size=registry.min_pool_size(database.config),
            reserve_pool_size=reserve,
            server_lifetime=int(registry.server_lifetime(database)),
            pool_mode=str(config.pool_mode) if config.pool_mode else None,
            load_balance_hosts=_balance(config),
            max_connections=registry.database_limit(database),
            current_connections=database.servers,
            max_client_connections=registry.database_client_limit(database),
            current_client_connections=database.clients,
            paused=database.paused,
            disabled=database.disabled,
            counters=counters,
            averages=self.window.live(steady(instant), database.born, counters),
            last_period=self.window.last_period(database.born),
            born=database.born,
        )

    def _admin_database(self, instant: Instant) -> DatabaseStat:
        running = self._running
        settings, counters = running.config.settings, self._console_counters()
        return DatabaseStat(
            name=RESERVED,
            host=None,
            port=settings.listen_port,
            database=RESERVED,
            force_user=RESERVED,
            pool_size=ADMIN_POOL_SIZE,
            min_pool_size=0,
            reserve_pool_size=0,
            server_lifetime=int(settings.server_lifetime),
            pool_mode="statement",
            load_balance_hosts=None,
            max_connections=0,
            current_connections=0,
            max_client_connections=settings.max_db_client_connections,
            current_client_connections=len(running.consoles),
            paused=False,
            disabled=False,
            counters=counters,
            averages=self.window.live(steady(instant), RESERVED, counters),
            last_period=self.window.last_period(RESERVED),
        )

    def _user_names(self) -> Mapping[str, None]:
        config = self._running.config
        configured = () if self.used_only else (*config.secrets, *config.users, RESERVED)
        return dict.fromkeys((*configured, *self._running.registry.users))

    def _users(self) -> Iterator[UserStat]:
        running = self._running
        config, registry = running.config, running.registry
        for name in self._breathing(self._user_names()):
            entry, user = config.users.get(name), registry.user(name) if name in registry.users else None
            yield UserStat(
                name=name,
                pool_size=entry.pool_size if entry else None,
                reserve_pool_size=entry.reserve_pool_size if entry else None,
                pool_mode=str(entry.pool_mode) if entry and entry.pool_mode else None,
                max_user_connections=_limit(
                    entry.max_user_connections if entry else None, config.settings.max_user_connections
                ),
                current_connections=user.servers if user else 0,
                max_user_client_connections=_limit(
                    entry.max_user_client_connections if entry else None, config.settings.max_user_client_connections
                ),
                current_client_connections=user.clients if user else 0,
            )

    def _lists(self) -> Iterator[ListItem]:
        running = self._running
        config, registry = running.config, running.registry
        pools = list(registry.pools())
        counts = {
            "databases": len({*config.databases, *registry.databases}) + 1,
            "users": len(self._user_names()),
            "peers": len(running.peers),
            "pools": len(pools) + 1,
            "peer_pools": len(running.peers),
            "free_clients": 0,
            "used_clients": self.client_count,
            "login_clients": len(self._strangers),
            "free_servers": 0,
            "used_servers": sum(pool.connections for pool in pools),
            "dns_names": len(self._dns.names),
            "dns_zones": 0,
            "dns_queries": self._dns.queries,
            "dns_pending": self._dns.pending,
        }
        return (ListItem(name, count) for name, count in counts.items())

    def _mem(self) -> Iterator[MemStat]:
        """PgBouncer's kinds of objects, in its order, and statements. `size` is the object's own, without what it names
        (texts of statements, values of parameters); a buffer's is the average one's. Nothing is kept in store, so
        nothing is `free`."""
        running = self._running
        registry, relay = running.registry, running.relay
        pools = list(registry.pools())
        servers = [server for pool in pools for server in pool.engine.servers()]
        buffers = [one.buffers for pool in pools for one in (*pool.engine.clients(), *pool.engine.servers())]
        buffered, count = sum(size for _, size in buffers), sum(number for number, _ in buffers)
        for name, size, used in (
            ("user_cache", User.__basicsize__, len(registry.users)),
            ("credentials_cache", Credentials.__basicsize__, sum(pool.credentials != NOTHING for pool in pools)),
            ("db_cache", Database.__basicsize__, len(registry.databases)),
            ("peer_cache", PeerConfig.__basicsize__, len(running.peers)),
            ("peer_pool_cache", CancelQueue.__basicsize__, len(running.peer_queues)),
            ("pool_cache", Pool.__basicsize__, len(pools)),
            ("outstanding_request_cache", OWED_BYTES, owed(servers)),
            ("server_cache", Server.__basicsize__, sum(pool.servers for pool in pools)),
            ("client_cache", Client.__basicsize__, self.client_count),
            ("iobuf_cache", buffered // max(count, 1), count),
            ("var_list_cache", tuple.__basicsize__ + 8 * len(relay.tracked_names), relay.param_set_count),
            ("prepared_statement_cache", Statement.__basicsize__, relay.statement_count),
            ("server_prepared_statement_cache", Held.__basicsize__, sum(server.prepared_count for server in servers)),
        ):
            yield MemStat(name, size, used, 0, size * used)

    # ---- descriptors

    def descriptors(self) -> Iterator[DescriptorStat]:
        """As PgBouncer lists them: what listens, and each connection that could be handed over; none with TLS."""
        running = self._running
        for listener in self._listeners:
            name = listener.getsockname()
            unix = listener.family == socket.AF_UNIX
            port = running.config.settings.listen_port if unix else name[1]
            yield DescriptorStat(listener.fileno(), "pooler", "unix" if unix else name[0], port)
        for pool in running.registry.pools():
            connections: list[Client | Server] = [*pool.engine.clients(), *pool.engine.servers()]
            for connection in connections:
                if not connection.has_tls:
                    yield self._descriptor(pool, connection)

    def _descriptor(self, pool: PoolState, connection: Client | Server) -> DescriptorStat:
        running = self._running
        about: ClientFacts = connection.about
        client = isinstance(connection, Client)
        values = zip(running.relay.tracked_names, connection.parameters, strict=True)
        known = ((SHOWN_PARAMETERS[name], value) for name, value in values if value and name in SHOWN_PARAMETERS)
        shown = {name: wire.decode(value) for name, value in known}
        return DescriptorStat(
            connection.fd,
            "client" if client else "server",
            about.peer.addr,
            about.peer.port,
            about.user if client else pool.user.name,
            pool.database.name,
            connection.linked.fd if connection.linked is not None else 0,
            **shown,
        )

    # ---- clients and servers

    def _client_rows(self, instant: Instant) -> Iterator[SocketStat]:
        running = self._running
        for pool in running.registry.pools():
            yield from socket_rows(running.relay, pool.engine.clients(), SocketStat, SOCKET_FIELDS, pointer, instant)
            for waiter in pool.newcomers.values():
                yield self._newcomer(pool, waiter, instant)
        for console in running.consoles.values():
            yield _plain_row(console.facts, "idle", instant.wall_of(console.since), console.session.user)

    def _newcomer(self, pool: PoolState, waiter: Waiter, instant: Instant) -> SocketStat:
        waited = steady(instant) - waiter.since
        return _plain_row(waiter.arrival, "waiting", instant.wall - waited, waiter.arrival.user, int(waited * 1e6))

    def _server_rows(self, instant: Instant) -> Iterator[SocketStat]:
        running = self._running
        for pool in running.registry.pools():
            user, database = pool.user.name, pool.database.name
            servers = pool.engine.servers()
            yield from socket_rows(running.relay, servers, SocketStat, SOCKET_FIELDS, pointer, instant, user, database)
        for attempt in self._opener.attempts:
            user, database, replication = attempt.pool.user.name, attempt.pool.database.name, attempt.target.replication
            arrival = ClientFacts(attempt.peer, database, user, replicates=replication, number=attempt.number)
            row = _plain_row(arrival, "new", instant.wall_of(attempt.since), user)
            yield replace(row, type="S")
        for hub in self._hubs:
            if hub.line is not None and hub.pool is not None:
                yield self._listening_server(hub.line, hub.pool, instant)

    def _listening_server(self, line: Line, pool: PoolState, instant: Instant) -> SocketStat:
        about, number = line.about, line.attempt.number
        arrival = ClientFacts(about.peer, pool.database.name, pool.user.name, about.tls, number=number)
        row = _plain_row(arrival, LISTENING, instant.wall_of(line.attempt.since), pool.user.name)
        return replace(row, type="S", remote_pid=line.dialed.pid, application_name=NAME)


def _counted(databases: Iterable[DatabaseStat]) -> Iterator[Counters]:
    """What all that have counted anything have counted; the console is no work of the pooler's."""
    return (row.counters for row in databases if row.counters is not ZERO and row.name != RESERVED)


def steady(instant: Instant) -> float:
    """On the clock of the averages' window."""
    return instant.stamp / 1e6


def _distributions(pool: PoolState) -> Distributions:
    return Distributions(*(Histogram(counts, total) for counts, total in pool.engine.histograms()))


def _balance(config: DatabaseConfig) -> str | None:
    if len(config.hosts) < 2:
        return None
    return str(config.load_balance_hosts or "round-robin")


def _limit(own: int | None, shared: int) -> int:
    return shared if own is None else own


def _plain_row(arrival: ClientFacts, state: str, since: float, user: str, wait_us: int = 0) -> SocketStat:
    """A client that is not in the relay."""
    peer: Peer = arrival.peer
    return SocketStat(
        type="C",
        user=user,
        database=arrival.database,
        replication=arrival.replication,
        state=state,
        addr=peer.addr,
        port=peer.port,
        local_addr=peer.local_addr,
        local_port=peer.local_port,
        connect_time=since,
        request_time=since,
        wait_us=wait_us,
        close_needed=False,
        ptr=pointer(arrival.number),
        link="",
        remote_pid=max(peer.pid, 0),
        tls=arrival.tls,
        application_name="",
        prepared_statements=0,
        id=arrival.number,
    )


# ---- the process


def process_stat(start: float) -> ProcessStat:
    """The process itself, from the operating system's accounts. With no descriptors left some cannot be read."""
    return ProcessStat(
        name="pooler",
        version=__version__,
        python=PYTHON,
        build=BUILD,
        pid=os.getpid(),
        start_time=start,
        cpu_seconds=_if_had(cpu_seconds),
        resident_bytes=_if_had(resident_bytes),
        open_fds=_if_had(open_files),
        max_fds=_if_had(most_files),
    )


Figure = TypeVar("Figure", int, float)


def _if_had(read: Callable[[], Figure]) -> Figure | None:
    try:
        return read()
    except (OSError, ValueError, IndexError):
        return None


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Descriptors in use. Since Linux 6.2 the directory's size is their number; before, they have to be listed."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def most_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
