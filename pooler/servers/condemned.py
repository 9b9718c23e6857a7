"""Servers that are condemned: logged in under facts that no longer hold, they go as soon as they are nobody's.

The rule: what was learnt from a pool's servers goes with the last one it is true of.
"""

from __future__ import annotations

from collections.abc import Iterable

from pooler.config.kinds import PoolMode
from pooler.log import LOG
from pooler.net.dns import ip
from pooler.pools.connection import ServerFacts
from pooler.pools.reasons import Reason
from pooler.pools.registry import MODES, PoolState
from pooler.pools.running import Running
from pooler.pools.verdict import Standing, standing_of
from pooler.relay import Server
from pooler.servers.opener import Opener


def may_go_now(server: Server) -> bool:
    """Whether a condemned server is nobody's, or with server_fast_close its session is between transactions."""
    if server.linked is None:
        return Standing.SPARE in standing_of(server)
    pool = server.pool
    return pool.fast_close and pool.mode == MODES[PoolMode.session] and server.is_clean


def condemn(running: Running, opener: Opener, name: str | None) -> None:
    """Have the servers of a database, or all, closed as soon as they are free, and let no login there go on. That the
    last one failed holds no more either."""
    for pool in running.registry.pools():
        if name is None or pool.database.name == name:
            outdate(running, pool, pool.engine.servers())
            opener.end_logins(pool, Reason.MOVED)
            pool.failure = pool.engine.failing = None


def outdate(running: Running, pool: PoolState, servers: Iterable[Server]) -> None:
    """Have these servers closed as soon as they are free."""
    pool.stir()
    for server in servers:
        server.close_needed = True
        if may_go_now(server):
            running.drop(server, Reason.OUTDATED)
    if not pool.usable:
        pool.greet_with(None)


def kill_pool(running: Running, opener: Opener, pool: PoolState, reason: Reason) -> None:
    """Drop all clients and servers at once, and forget what was learnt from those."""
    for client in pool.engine.clients():
        running.drop(client, reason)
    running.end_newcomers(pool, reason)
    running.end_servers(pool, reason)
    opener.end_logins(pool, reason)
    pool.greet_with(None)


def addresses_gone(running: Running, opener: Opener, host: str, gone: frozenset[str]) -> None:
    """A host's name has other addresses now: servers at the old ones go as soon as they are free."""
    running.say(LOG, f"{host} is no longer at {', '.join(sorted(gone))}")
    for pool in running.registry.pools():
        old = []
        for server in pool.engine.servers():
            about: ServerFacts = server.about
            if about.host == host and about.address is not None and ip(about.address) in gone:
                old.append(server)
        outdate(running, pool, old)
        if host in pool.database.config.hosts:
            opener.end_logins(pool, Reason.MOVED, at=gone)
