"""The janitor: three times a second it looks at every pool for what has lasted too long.

Each duty is one function over one pool; the relay finds the connections, the registry knows the limits, the bouncer
ends what has to end. Durations are seconds; 0 is no limit. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pooler import wire
from pooler.auth import LoginError
from pooler.log import LOG, WARNING
from pooler.registry import PoolState
from pooler.snapshot import TOTAL, breathing, pool_counters

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

PERIOD = 1 / 3
QUEUED = "No server connection available in postgres backend, client being queued"


async def sweep_forever(bouncer: Bouncer) -> None:
    while True:
        await asyncio.sleep(PERIOD)
        sweep(bouncer)


def sweep(bouncer: Bouncer) -> None:
    """One round."""
    keep_forced_pools(bouncer)
    for pool in breathing(bouncer, bouncer.registry.pools()):
        if pool.engine.server_count or pool.clients:
            pool.last_used = pool.database.last_used = bouncer.loop.time()
            for duty in DUTIES:
                duty(bouncer, pool)
        keep_minimum(bouncer, pool)
    forget_idle(bouncer)
    end_slow_logins(bouncer)
    tell_of_the_ring(bouncer)


def tell_of_the_ring(bouncer: Bouncer) -> None:
    """Once, when the relay had to do without io_uring from some moment on."""
    reason = bouncer.relay.no_ring
    if reason != bouncer.no_ring:
        bouncer.no_ring = reason
        bouncer.say(WARNING, f"io_uring failed, each send is a system call of its own from now on: {reason}")


# ---- clients


def end_slow_logins(bouncer: Bouncer) -> None:
    """client_login_timeout, for those who have not proved who they are."""
    limit = bouncer.config.settings.client_login_timeout
    if limit:
        for visit in list(bouncer.logging_in.values()):
            if _age(bouncer, visit.since) <= limit:
                break
            visit.time_out()


def end_long_waits(bouncer: Bouncer, pool: PoolState) -> None:
    """query_wait_timeout, for queued clients and for those who wait to be welcomed."""
    limit = bouncer.registry.timeout(pool, "query_wait_timeout")
    now = bouncer.loop.time()
    if limit and pool.oldest_wait(now) > limit:
        for client in pool.engine.waiting_clients.all():
            if client.wait_us <= limit * 1e6:
                break
            bouncer.tally("timeout", pool.database.name, "query_wait_timeout")
            bouncer.relay.drop(client, "query_wait_timeout")
        _end_newcomers(pool, now - limit, "query_wait_timeout")
    limit = bouncer.config.settings.client_login_timeout
    if limit:
        _end_newcomers(pool, now - limit, "client_login_timeout (server down)")


def _end_newcomers(pool: PoolState, before: float, reason: str) -> None:
    for waiter in pool.newcomers.values():
        if waiter.since < before:
            waiter.give_up(LoginError(reason))


def notify_queued(bouncer: Bouncer, pool: PoolState) -> None:
    """query_wait_notify: tell a client once that it is queued."""
    limit = bouncer.config.settings.query_wait_notify
    if not limit or pool.engine.oldest_wait < limit * 1e6:
        return
    for client in pool.engine.waiting_clients.all():
        if client.wait_us < limit * 1e6:
            break
        if not client.notified:
            client.notified = True
            client.send(wire.notice_response("NOTICE", "00000", QUEUED))


def end_idle_clients(bouncer: Bouncer, pool: PoolState) -> None:
    shared, users = bouncer.config.settings.client_idle_timeout, bouncer.config.users
    own = {name: user.client_idle_timeout for name, user in users.items() if user.client_idle_timeout}
    shortest = min((limit for limit in (shared, *own.values()) if limit), default=0)
    for client in pool.engine.idle_clients(int(shortest * 1e6)) if shortest else ():
        limit = own.get(client.about.user, shared)
        if limit and _age(bouncer, client.request_us) > limit:
            bouncer.tally("timeout", pool.database.name, "client_idle_timeout")
            bouncer.relay.drop(client, "client_idle_timeout")


# ---- servers


def end_long_queries(bouncer: Bouncer, pool: PoolState) -> None:
    """query_timeout, idle_transaction_timeout, transaction_timeout."""
    names = ("query_timeout", "idle_transaction_timeout", "transaction_timeout")
    limits = [int(bouncer.registry.timeout(pool, name) * 1e6) for name in names]
    if any(limits):
        for server, reason in pool.engine.long_servers(*limits):
            bouncer.tally("timeout", pool.database.name, reason)
            bouncer.relay.drop(server, reason)


def retire_servers(bouncer: Bouncer, pool: PoolState) -> None:
    """Free servers that are idle or alive for too long, or too many since a limit was lowered."""
    settings, registry = bouncer.config.settings, bouncer.registry
    surplus = pool.servers - registry.pool_size(pool) - registry.reserve_size(pool)
    spare = pool.servers - registry.min_pool_size(pool.database)
    for server in (*pool.engine.used_servers.all(), *reversed(pool.engine.idle_servers.all())):
        if server.close_needed:
            reason = "database configuration changed"
        elif surplus > 0:
            reason = "too many servers in the pool"
        elif settings.server_idle_timeout and spare > 0 and server.idle_us > settings.server_idle_timeout * 1e6:
            reason = "server idle timeout"
        elif pool.engine.retires(server):
            reason = "server lifetime over"
        else:
            continue
        surplus, spare = surplus - 1, spare - 1
        bouncer.relay.drop(server, reason)


def _age(bouncer: Bouncer, since_us: int) -> float:
    return (bouncer.relay.now - since_us) / 1e6


def age_idle(bouncer: Bouncer, pool: PoolState) -> None:
    pool.engine.age_idle()


def consider_waiting(bouncer: Bouncer, pool: PoolState) -> None:
    """The reserve opens by the clock, and a neighbour's limit may have eased."""
    if pool.waiting:
        bouncer.opener.consider(pool)


def refresh_names(bouncer: Bouncer, pool: PoolState) -> None:
    """Servers whose host has moved are found out without a new connection being needed."""
    for host in pool.database.config.hosts:
        bouncer.dns.refresh(host)


DUTIES: tuple[Callable[[Bouncer, PoolState], None], ...] = (
    end_long_waits,
    notify_queued,
    end_idle_clients,
    end_long_queries,
    retire_servers,
    age_idle,
    consider_waiting,
    refresh_names,
)


def keep_forced_pools(bouncer: Bouncer) -> None:
    """A database with a fixed user and a min_pool_size has its pool before the first client comes."""
    for config in bouncer.config.databases.values():
        if config.user is not None and (config.min_pool_size or bouncer.config.settings.min_pool_size):
            bouncer.pool(bouncer.database(config), config.user)


def keep_minimum(bouncer: Bouncer, pool: PoolState) -> None:
    """min_pool_size, once the pool is in use, or from the start if its user is fixed."""
    least = bouncer.registry.min_pool_size(pool.database)
    in_use = pool.clients or pool.database.config.user is not None
    if least and in_use and pool.servers < min(least, bouncer.registry.pool_size(pool)):
        bouncer.opener.consider(pool, needed=True)


def forget_idle(bouncer: Bouncer) -> None:
    """autodb_idle_timeout and pool_idle_timeout."""
    settings, now = bouncer.config.settings, bouncer.loop.time()
    for pool in bouncer.registry.pools():
        idle = 0 if pool.servers or pool.clients or pool.cancels.active else now - pool.last_used
        if settings.pool_idle_timeout and idle > settings.pool_idle_timeout:
            who = f"user {pool.user.name} on db {pool.database.name}"
            bouncer.say(LOG, f"cleaning up idle pool for {who} because: pool idle timeout (age= {int(idle)})")
            bouncer.forget_pool(pool)
    for database in list(bouncer.registry.databases.values()):
        # A question of auth_query counts for its pool, not for its database.
        unused = not (database.servers or database.clients or any(pool.clients for pool in database.pools.values()))
        timeout = settings.autodb_idle_timeout
        if database.config.auto and unused and timeout and now - database.last_used > timeout:
            bouncer.say_dropping(database)
            bouncer.forget_database(database)


# ---- the averages


async def turn_forever(bouncer: Bouncer) -> None:
    """Each stats_period: turn the averages' window, write the `stats:` line, feed the history."""
    while True:
        await bouncer.sleep_period()
        bouncer.relay.end_period()
        bouncer.window.turn(time.time(), pool_counters(bouncer))
        snapshot = bouncer.snapshot(histograms=True)
        bouncer.history.record(snapshot, bouncer.relay.pace)
        if bouncer.config.settings.log_stats:
            bouncer.say(LOG, stats_line(bouncer))


def stats_line(bouncer: Bouncer) -> str:
    """The line of averages over exactly the last period, all databases together."""
    a = bouncer.window.last_period(TOTAL)
    return (
        f"stats: {a.xact_count} xacts/s, {a.query_count} queries/s, {a.client_parse_count} client parses/s, "
        f"{a.server_parse_count} server parses/s, {a.bind_count} binds/s, in {a.bytes_received} B/s, "
        f"out {a.bytes_sent} B/s, xact {a.xact_time} us, query {a.query_time} us, wait {a.wait_time} us"
    )

