"""The janitor: three times a second it looks at every pool for what has lasted too long.

Each duty is one method over one pool; the relay finds the connections, the registry knows the limits. Durations are
seconds; 0 is no limit. Nothing here waits or looks at a clock: `now` is an argument. The rule: a duty that fails keeps
no other duty and no other pool from theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pooler import wire
from pooler.clients.strangers import Strangers
from pooler.log import LOG, WARNING
from pooler.net.dns import Dns
from pooler.pools.connection import client_label
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState
from pooler.pools.running import Phase, Running
from pooler.relay import Conn
from pooler.servers.opener import Opener

PERIOD = 1 / 3
PIN_TOLD = 60.0
"""After so long the log hears of a pinned server that is idle."""
PIN_GRACE = 10.0
"""For so long a pinned server that is idle may hold up what is to end."""
QUEUED = "No server connection available in postgres backend, client being queued"


class Limits(dict[str, float]):
    """A limit by user, asked for once in a round: ten thousand who wait have few names."""

    def __init__(self, of: Callable[[str], float]) -> None:
        super().__init__()
        self._of = of

    def __missing__(self, user: str) -> float:
        limit = self[user] = self._of(user)
        return limit


class Janitor:
    """Looks after everybody's limits."""

    def __init__(self, running: Running, opener: Opener, dns: Dns, strangers: Strangers) -> None:
        self._running = running
        self._opener = opener
        self._dns = dns
        self._strangers = strangers
        self._no_ring = running.relay.no_ring
        """Why io_uring is not used, as far as the log knows."""

    async def sweep_forever(self) -> None:
        running = self._running
        await running.rounds.forever("janitor", lambda: asyncio.sleep(PERIOD), lambda: self.sweep(running.now()))

    def sweep(self, now: float) -> None:
        """One round."""
        attempt, registry = self._running.rounds.attempt, self._running.registry
        attempt("keep_forced_pools", self.keep_forced_pools)
        for pool in registry.pools():
            self._running.relay.pace()
            if pool.engine.server_count or pool.clients:
                pool.last_used = pool.database.last_used = now
                for duty in DUTIES:
                    attempt(duty.__name__, duty, self, pool, now)
            attempt("keep_minimum", self.keep_minimum, pool)
        for chore in CHORES:
            attempt(chore.__name__, chore, self, now)

    def tell_of_the_ring(self, now: float) -> None:
        """Once, when the relay had to do without io_uring from some moment on."""
        running = self._running
        reason = running.relay.no_ring
        if reason != self._no_ring:
            self._no_ring = reason
            running.say(WARNING, f"io_uring failed, each send is a system call of its own from now on: {reason}")

    def catch_up_the_log(self, now: float) -> None:
        """Lines that there was no room for may have some by now, without another line that asks for it."""
        self._running.log_file.catch_up()

    # ---- clients

    def forget_removed(self, now: float) -> None:
        """Databases that have left the configuration."""
        running = self._running
        for database in list(running.registry.databases.values()):
            if database.removed:
                running.forget_removed(database)

    def end_slow_logins(self, now: float) -> None:
        """client_login_timeout, for those who have not proved who they are."""
        running = self._running
        limit = running.config.settings.client_login_timeout
        if limit:
            for visit in list(self._strangers):
                if now - visit.since / 1e6 <= limit:
                    break
                if not visit.cancels:
                    visit.end(LoginError("client_login_timeout"))

    def end_long_waits(self, pool: PoolState, now: float) -> None:
        """query_wait_timeout, each by its own login user's, for who is queued and for who waits to be welcomed."""
        running = self._running
        registry = running.registry
        limits = Limits(lambda user: registry.patience(pool.database, user))
        least = registry.least_patience(pool.database) if pool.engine.oldest_wait else 0
        for client in pool.engine.waiting_clients.all() if least and pool.engine.oldest_wait > least * 1e6 else ():
            limit = limits[client.about.user]
            if limit and client.wait_us > limit * 1e6:
                self._too_long(pool, client, Reason.QUERY_WAIT)
        login = running.config.settings.client_login_timeout
        for waiter in pool.newcomers.values():
            limit, age = limits[waiter.arrival.user], now - waiter.since
            if limit and age > limit:
                waiter.give_up(LoginError(Reason.QUERY_WAIT))
            elif login and age > login:
                waiter.give_up(LoginError("client_login_timeout (server down)"))

    def end_what_waits_in_vain(self, pool: PoolState, now: float) -> None:
        """At an orderly end no server is given any more; those who are there may still ask for one."""
        running = self._running
        if running.phase is Phase.WAIT_FOR_SERVERS:
            running.end_waiting(pool, LoginError(Reason.SERVER_SHUTTING))

    def end_queries_that_wait(self, pool: PoolState, now: float) -> None:
        """query_timeout counts from when a query comes, or who needs a first server, whatever it waits for."""
        running = self._running
        limit = running.registry.timeout(pool, "query_timeout")
        if not limit or pool.oldest_wait(now) <= limit:
            return
        for client in pool.engine.waiting_clients.all():
            if client.wait_us <= limit * 1e6:
                break
            self._too_long(pool, client, Reason.QUERY_WAITS)
        for waiter in pool.newcomers.values():
            if now - waiter.since > limit:
                waiter.give_up(LoginError(Reason.QUERY_WAITS))

    def notify_queued(self, pool: PoolState, now: float) -> None:
        """query_wait_notify: tell a client once that it is queued."""
        running = self._running
        limit = running.config.settings.query_wait_notify
        if not limit or pool.engine.oldest_wait < limit * 1e6:
            return
        for client in pool.engine.waiting_clients.all():
            if client.wait_us < limit * 1e6:
                break
            if not client.notified:
                client.notified = True
                client.send(wire.notice_response("NOTICE", "00000", QUEUED))

    def end_idle_clients(self, pool: PoolState, now: float) -> None:
        registry = self._running.registry
        least = registry.least_idle
        for client in pool.engine.idle_clients(int(least * 1e6)) if least else ():
            limit = registry.idle_limit(client.about.user)
            if limit and now - client.request_us / 1e6 > limit:
                self._too_long(pool, client, Reason.CLIENT_IDLE)

    def _too_long(self, pool: PoolState, connection: Conn, reason: Reason) -> None:
        self._running.tally(Kind.TIMEOUT, pool.database.name, reason)
        self._running.drop(connection, reason)

    # ---- servers

    def end_long_queries(self, pool: PoolState, now: float) -> None:
        """query_timeout, idle_transaction_timeout, transaction_timeout."""
        running = self._running
        names = ("query_timeout", "idle_transaction_timeout", "transaction_timeout")
        limits = [int(running.registry.timeout(pool, name) * 1e6) for name in names]
        if any(limits):
            for server, reason in pool.engine.long_servers(*limits):
                self._too_long(pool, server, Reason(reason))

    def end_idle_pins(self, pool: PoolState, now: float) -> None:
        """pin_timeout; and what is to end (PAUSE, RECONNECT, RELOAD, SHUTDOWN) does not wait for them for ever."""
        running = self._running
        limit = running.config.own.pin_timeout
        ending = pool.engine.paused or running.shutting
        told, pool.told_pins = pool.told_pins, set()
        for server, idle_us in pool.engine.idle_pins(int(min(limit or PIN_GRACE, PIN_GRACE) * 1e6)):
            idle, client = idle_us / 1e6, server.linked
            if client is None:
                continue
            if (limit and idle > limit) or ((ending or server.close_needed) and idle > PIN_GRACE):
                self._too_long(pool, client, Reason.PIN_IDLE)
            elif idle > PIN_TOLD:
                pool.told_pins.add(client.id)
                if client.id not in told:
                    label = client_label(client.about)
                    running.say(LOG, f"{label} keeps its server and has asked for nothing for {idle:.0f} s")

    def retire_servers(self, pool: PoolState, now: float) -> None:
        """Free servers that are idle or alive for too long, or too many since a limit was lowered."""
        running = self._running
        settings, registry = running.config.settings, running.registry
        size = registry.pool_size(pool)
        surplus = pool.servers - size - registry.reserve_size(pool) if size else 0
        spare = pool.servers - registry.min_pool_size(pool.database.config)
        for server in (*pool.engine.used_servers.all(), *reversed(pool.engine.idle_servers.all())):
            if server.close_needed:
                reason = Reason.OUTDATED
            elif surplus > 0:
                reason = Reason.SURPLUS
            elif settings.server_idle_timeout and spare > 0 and server.idle_us > settings.server_idle_timeout * 1e6:
                reason = Reason.SERVER_IDLE
            elif pool.engine.retires(server):
                reason = Reason.LIFETIME
            else:
                continue
            surplus, spare = surplus - 1, spare - 1
            running.drop(server, reason)

    def age_idle(self, pool: PoolState, now: float) -> None:
        pool.engine.age_idle()

    def consider_waiting(self, pool: PoolState, now: float) -> None:
        """The reserve opens by the clock, and a server that is tested may have been silent for too long."""
        if pool.waiting:
            pool.engine.resume()
            self._opener.consider(pool)

    def end_hanging_tests(self, pool: PoolState, now: float) -> None:
        """A server that does not answer a query of ours, or stops in the middle of a message to nobody, for as long as
        a login may take keeps nobody from another one, here or in a pool under the same limits."""
        running = self._running
        limit = running.config.settings.server_connect_timeout
        if limit and (pool.waiting or pool.engine.rival):
            for server, reason in pool.engine.hanging(int(limit * 1e6)):
                running.drop(server, Reason(reason))

    def refresh_names(self, pool: PoolState, now: float) -> None:
        """Servers whose host has moved are found out without a new connection being needed."""
        for host in pool.database.config.hosts:
            self._dns.refresh(host)

    def keep_forced_pools(self) -> None:
        """A database with a fixed user and a min_pool_size has its pool before the first client comes."""
        running = self._running
        for config in running.config.databases.values():
            if config.user is not None and running.registry.min_pool_size(config):
                database = running.database(config.name)
                assert database is not None
                running.registry.pool(database, config.user)

    def _is_kept(self, pool: PoolState) -> bool:
        """Whether it has servers of its own without clients: see `keep_forced_pools` and `keep_minimum`."""
        forced = pool.database.config.user == pool.user.name
        return forced and self._running.registry.min_pool_size(pool.database.config) > 0

    def keep_minimum(self, pool: PoolState) -> None:
        """min_pool_size, once the pool is in use, or from the start if its user is fixed."""
        running = self._running
        least = running.registry.min_pool_size(pool.database.config)
        in_use = pool.clients or pool.database.config.user is not None
        if least and in_use and pool.servers < min(least, running.registry.pool_size(pool)):
            self._opener.consider(pool, needed=True)

    def forget_idle(self, now: float) -> None:
        """autodb_idle_timeout and pool_idle_timeout."""
        running = self._running
        settings = running.config.settings
        for pool in running.registry.pools():
            if self._is_kept(pool):
                continue
            idle = 0 if pool.servers or pool.clients or pool.cancels.active else now - pool.last_used
            if settings.pool_idle_timeout and idle > settings.pool_idle_timeout:
                who = f"user {pool.user.name} on db {pool.database.name}"
                running.say(LOG, f"cleaning up idle pool for {who} because: pool idle timeout (age= {int(idle)}s)")
                running.registry.forget_pool(pool)
        for database in list(running.registry.databases.values()):
            # A question of auth_query counts for its pool, not for its database.
            unused = not (database.servers or database.clients or any(pool.clients for pool in database.pools.values()))
            timeout = settings.autodb_idle_timeout
            if database.paused or database.disabled:
                # An administrator's word holds until the next one.
                database.last_used = now
            if database.config.auto and unused and now - database.last_used > timeout:
                running.say_dropping(database)
                running.forget_database(database)


DUTIES: tuple[Callable[[Janitor, PoolState, float], None], ...] = (
    Janitor.end_what_waits_in_vain,
    Janitor.end_queries_that_wait,
    Janitor.end_long_waits,
    Janitor.notify_queued,
    Janitor.end_idle_clients,
    Janitor.end_long_queries,
    Janitor.end_idle_pins,
    Janitor.retire_servers,
    Janitor.age_idle,
    Janitor.end_hanging_tests,
    Janitor.consider_waiting,
    Janitor.refresh_names,
)

CHORES: tuple[Callable[[Janitor, float], None], ...] = (
    Janitor.forget_idle,
    Janitor.forget_removed,
    Janitor.end_slow_logins,
    Janitor.tell_of_the_ring,
    Janitor.catch_up_the_log,
)
"""What is done once in a round, after the pools."""
