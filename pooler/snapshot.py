"""One Snapshot out of the bouncer's registry and the relay's counts. Reads only; what it returns is plain data.

Rows of clients and servers are made only when asked for. Ten thousand of them take longer than traffic may wait, so
the relay makes them itself, and takes breath after every few; connections that end meanwhile simply show their
last state.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from pooler import __version__, wire
from pooler.channel import Peer
from pooler.databases import RESERVED, DatabaseConfig, PeerConfig
from pooler.labels import Arrival, pointer
from pooler.login import Attempt
from pooler.peers import peer_size
from pooler.registry import CancelQueue, Database, PoolState, User, Waiter
from pooler.relay import Client, Pool, Server
from pooler.relay.engine import Held, Instant, Statement, plain, socket_rows
from pooler.stats import (
    ZERO,
    Averages,
    Counters,
    DatabaseStat,
    DescriptorStat,
    Distributions,
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
)

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

ADMIN_POOL_SIZE = 2
TOTAL = ("", "")
"""The window's key for all pools together; no pool has empty names."""


def take_snapshot(bouncer: Bouncer, *, clients: bool, servers: bool, histograms: bool) -> Snapshot:
    """Everything any front shows, now."""
    settings, registry = bouncer.config.settings, bouncer.registry
    instant = Instant(time.time(), bouncer.relay.stamp())
    pools = tuple(_pool(bouncer, pool, instant, histograms) for pool in breathing(bouncer, registry.pools()))
    return Snapshot(
        now=instant.wall,
        databases=tuple(_databases(bouncer, pools, instant)),
        pools=(*pools, _admin_pool(bouncer)),
        users=tuple(_users(bouncer)),
        lists=tuple(_lists(bouncer)),
        peers=tuple(_peer(bouncer, peer) for peer in bouncer.config.peers.values()),
        mem=tuple(_mem(bouncer)),
        dns_hosts=bouncer.dns.rows(),
        events=tuple(Event(*key, count) for key, count in sorted(bouncer.tallies.items())),
        active=not (bouncer.paused or bouncer.relay.suspended or bouncer.shutting),
        paused=bouncer.paused,
        suspended=bouncer.relay.suspended,
        max_client_conn=settings.max_client_conn,
        max_user_connections=settings.max_user_connections,
        stats_period=settings.stats_period,
        process=process_stat(bouncer.start),
        clients=list(_client_rows(bouncer, instant)) if clients else (),
        servers=list(_server_rows(bouncer, instant)) if servers else (),
        drains=bouncer.drains(),
        loop=LoopStat(*bouncer.relay.longest_turn, bouncer.relay.no_ring),
    )


T = TypeVar("T")


def breathing(bouncer: Bouncer, items: Iterable[T]) -> Iterator[T]:
    """`items`, one by one; the relay may breathe before each."""
    for item in items:
        bouncer.relay.pace()
        yield item


def pool_counters(bouncer: Bouncer) -> dict[object, Counters]:
    """Counts of all pools by (database, user), and of all databases by name: what the averages are made of."""
    counted: dict[object, Counters] = {}
    for pool in breathing(bouncer, bouncer.registry.pools()):
        counters = Counters(*pool.engine.counted())
        counted[pool.database.name, pool.user.name] = counters
        counted[pool.database.name] = counted.get(pool.database.name, ZERO) + counters
        counted[TOTAL] = counted.get(TOTAL, ZERO) + counters
    return counted


def _peer(bouncer: Bouncer, peer: PeerConfig) -> PeerStat:
    queue = bouncer.peer_queues.get(peer.peer_id, CancelQueue())
    return PeerStat(
        peer.peer_id,
        peer.host,
        peer.port,
        peer_size(bouncer, peer),
        cl_active_cancel_req=queue.active,
        cl_waiting_cancel_req=queue.waiting,
        sv_active_cancel=queue.active,
    )


# ---- pools and databases


def _pool(bouncer: Bouncer, pool: PoolState, instant: Instant, histograms: bool) -> PoolStat:
    registry, engine = bouncer.registry, pool.engine
    counters = Counters(*engine.counted())
    key = (pool.database.name, pool.user.name)
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
        maxwait_us=int(pool.oldest_wait(bouncer.loop.time()) * 1e6),
        pool_mode=str(registry.pool_mode(pool)),
        load_balance_hosts=_balance(pool.database.config),
        pool_size=registry.pool_size(pool),
        reserve_pool_size=registry.reserve_size(pool),
        counters=counters,
        averages=bouncer.window.live(instant.wall, key, counters),
        distributions=_distributions(pool) if histograms else None,
    )


def _distributions(pool: PoolState) -> Distributions:
    return Distributions(*(Histogram(counts, total) for counts, total in pool.engine.histograms()))


def _balance(config: DatabaseConfig) -> str | None:
    if len(config.hosts) < 2:
        return None
    return str(config.load_balance_hosts or "round-robin")


def _admin_pool(bouncer: Bouncer) -> PoolStat:
    nothing = dict.fromkeys(
        ("cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active", "sv_active_cancel",
         "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login", "maxwait_us"), 0,
    )  # fmt: skip
    return PoolStat(
        database=RESERVED,
        user=RESERVED,
        cl_active=len(bouncer.consoles),
        pool_mode="statement",
        load_balance_hosts=None,
        pool_size=ADMIN_POOL_SIZE,
        reserve_pool_size=0,
        counters=ZERO,
        averages=Averages(),
        distributions=None,
        **nothing,
    )


def _databases(bouncer: Bouncer, pools: Iterable[PoolStat], instant: Instant) -> Iterator[DatabaseStat]:
    config, registry = bouncer.config, bouncer.registry
    sums: dict[str, Counters] = {}
    for pool in pools:
        sums[pool.database] = sums.get(pool.database, ZERO) + pool.counters
    names = dict.fromkeys((*config.databases, *registry.databases))
    for name in breathing(bouncer, names):
        database = registry.databases.get(name) or Database(config.databases[name])
        yield plain(_database(bouncer, database, sums.get(name, ZERO), instant))
    yield _admin_database(bouncer)


def _database(bouncer: Bouncer, database: Database, counters: Counters, instant: Instant) -> DatabaseStat:
    registry, settings, config = bouncer.registry, bouncer.config.settings, database.config
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
        min_pool_size=registry.min_pool_size(database),
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
        averages=bouncer.window.live(instant.wall, database.name, counters),
        last_period=bouncer.window.last_period(database.name),
    )


def _admin_database(bouncer: Bouncer) -> DatabaseStat:
    settings = bouncer.config.settings
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
        max_client_connections=0,
        current_client_connections=len(bouncer.consoles),
        paused=False,
        disabled=False,
        counters=ZERO,
        averages=Averages(),
        last_period=Averages(),
    )


def _users(bouncer: Bouncer) -> Iterator[UserStat]:
    config, registry = bouncer.config, bouncer.registry
    for name in breathing(bouncer, dict.fromkeys((*config.secrets, *config.users, *registry.users, RESERVED))):
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


def _limit(own: int | None, shared: int) -> int:
    return shared if own is None else own


def _lists(bouncer: Bouncer) -> Iterator[ListItem]:
    config, registry = bouncer.config, bouncer.registry
    pools = list(registry.pools())
    users = {*config.secrets, *config.users, *registry.users, RESERVED}
    counts = {
        "databases": len({*config.databases, *registry.databases}) + 1,
        "users": len(users),
        "peers": len(config.peers),
        "pools": len(pools) + 1,
        "peer_pools": len(config.peers),
        "free_clients": 0,
        "used_clients": bouncer.client_count + len(bouncer.consoles),
        "login_clients": len(bouncer.logging_in),
        "free_servers": 0,
        "used_servers": sum(pool.servers for pool in pools),
        "dns_names": len(bouncer.dns.names),
        "dns_zones": 0,
        "dns_queries": bouncer.dns.queries,
        "dns_pending": bouncer.dns.pending,
    }
    return (ListItem(name, count) for name, count in counts.items())


def _mem(bouncer: Bouncer) -> Iterator[MemStat]:
    """PgBouncer's kinds of objects, as far as there are such here. `size` is the object's own, without what it names
    (texts of statements, unsent bytes). Nothing is kept in store, so nothing is `free`."""
    registry = bouncer.registry
    pools = list(registry.pools())
    prepared = sum(server.prepared_count for pool in pools for server in pool.engine.servers())
    for name, kind, used in (
        ("user_cache", User, len(registry.users)),
        ("db_cache", Database, len(registry.databases)),
        ("peer_cache", PeerConfig, len(bouncer.config.peers)),
        ("pool_cache", Pool, len(pools)),
        ("server_cache", Server, sum(pool.servers for pool in pools)),
        ("client_cache", Client, bouncer.client_count),
        ("prepared_statement_cache", Statement, bouncer.relay.statement_count),
        ("server_prepared_statement_cache", Held, prepared),
    ):
        yield MemStat(name, kind.__basicsize__, used, 0, kind.__basicsize__ * used)


# ---- descriptors

SHOWN_PARAMETERS = {
    b"client_encoding": "client_encoding",
    b"standard_conforming_strings": "std_strings",
    b"DateStyle": "datestyle",
    b"TimeZone": "timezone",
}
"""Tracked parameters that SHOW FDS has, and its names for them."""


def descriptors(bouncer: Bouncer) -> Iterator[DescriptorStat]:
    """As PgBouncer lists them: what listens, and each connection that could be handed over; none with TLS."""
    for listener in bouncer.listeners():
        name = listener.getsockname()
        unix = listener.family == socket.AF_UNIX
        port = bouncer.config.settings.listen_port if unix else name[1]
        yield DescriptorStat(listener.fileno(), "pooler", "unix" if unix else name[0], port)
    for pool in bouncer.registry.pools():
        connections: list[Client | Server] = [*pool.engine.clients(), *pool.engine.servers()]
        for connection in connections:
            if not connection.has_tls:
                yield _descriptor(bouncer, pool, connection)


def _descriptor(bouncer: Bouncer, pool: PoolState, connection: Client | Server) -> DescriptorStat:
    about: Attempt = connection.about
    client = isinstance(connection, Client)
    values = zip(bouncer.relay.tracked_names, connection.parameters, strict=True)
    return DescriptorStat(
        connection.fd,
        "client" if client else "server",
        about.peer.addr,
        about.peer.port,
        about.user if client else pool.user.name,
        pool.database.name,
        connection.linked.fd if connection.linked is not None else 0,
        **{SHOWN_PARAMETERS[name]: wire.decode(value) for name, value in values if value and name in SHOWN_PARAMETERS},
    )


# ---- clients and servers


SOCKET_FIELDS = tuple(field.name for field in fields(SocketStat))


def _client_rows(bouncer: Bouncer, instant: Instant) -> Iterator[SocketStat]:
    for pool in bouncer.registry.pools():
        yield from socket_rows(bouncer.relay, pool.engine.clients(), SocketStat, SOCKET_FIELDS, pointer, instant)
        for waiter in pool.newcomers.values():
            yield _newcomer(pool, waiter, bouncer, instant)
    for console in bouncer.consoles.values():
        yield _plain_row(console.attempt, "active", instant.wall_of(console.since), console.session.user)


def _newcomer(pool: PoolState, waiter: Waiter, bouncer: Bouncer, instant: Instant) -> SocketStat:
    waited = bouncer.loop.time() - waiter.since
    return _plain_row(waiter.arrival, "waiting", instant.wall - waited, waiter.arrival.user, int(waited * 1e6))


def _plain_row(arrival: Attempt, state: str, since: float, user: str, wait_us: int = 0) -> SocketStat:
    """A client that is not in the relay."""
    peer: Peer = arrival.peer
    number = arrival.number if isinstance(arrival, Arrival) else 0
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
        ptr=pointer(number),
        link="",
        remote_pid=max(peer.pid, 0),
        tls=arrival.tls,
        application_name="",
        prepared_statements=0,
        id=number,
    )


def _server_rows(bouncer: Bouncer, instant: Instant) -> Iterator[SocketStat]:
    for pool in bouncer.registry.pools():
        user, database = pool.user.name, pool.database.name
        servers = pool.engine.servers()
        yield from socket_rows(bouncer.relay, servers, SocketStat, SOCKET_FIELDS, pointer, instant, user, database)
    for attempt in bouncer.opener.attempts:
        user, database, replication = attempt.pool.user.name, attempt.pool.database.name, attempt.target.replication
        arrival = Arrival(attempt.peer, database, user, replication=replication, number=attempt.number)
        row = _plain_row(arrival, "new", instant.wall_of(attempt.since), user)
        yield replace(row, type="S", close_needed=attempt.close_needed)


# ---- the process


def process_stat(start: float) -> ProcessStat:
    """The process itself, from the operating system's accounts."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return ProcessStat(
        name="pooler",
        version=__version__,
        python=platform.python_version(),
        build=f"{platform.python_implementation()} on {platform.system()} {platform.machine()}",
        pid=os.getpid(),
        start_time=start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        open_fds=open_files(),
        max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def open_files() -> int:
    """Descriptors in use. Since Linux 6.2 the directory's size is their number; before, they have to be listed."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
