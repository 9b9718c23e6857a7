"""The janitor looks after what has lasted too long: three times a second at most, and only where there may be some.

Each duty is one method over one pool; the relay finds the connections, the registry knows the limits. It returns when
it has something to do next, if nothing happens before: a pool is looked at then, and PERIOD after something has
happened in it. Durations are seconds; 0 is no limit. Duties neither wait nor look at a clock: `now` is an argument. The
rule: a duty that fails keeps no other duty and no other pool from theirs, and has its turn again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from math import inf

from pooler import wire
from pooler.clients.strangers import Strangers
from pooler.house.agenda import Agenda
from pooler.house.survey import Survey
from pooler.log import LOG, WARNING
from pooler.net.dns import Dns
from pooler.pools.connection import client_label
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState
from pooler.pools.running import Phase, Running
from pooler.relay import Conn, Pool
from pooler.servers.opener import Opener

PERIOD = 1 / 3
LONGEST = 60.0
"""Nothing is left alone for longer, whatever its duties say."""
GRAIN = 0.001
"""By so much later than its time is what is due found to be over."""
AT_ONCE = 200
"""Pools looked at before the loop has its turn."""
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

    def __init__(
        self, running: Running, opener: Opener, dns: Dns, strangers: Strangers, survey: Survey
    ) -> None:
        self._running = running
        self._opener = opener
        self._dns = dns
        self._strangers = strangers
        self._survey = survey
        self.keeps_ready = True
        """Whether there are pools here that are to have servers before anybody asks; a desk's workers have them."""
        self._no_ring = running.relay.no_ring
        """Why io_uring is not used, as far as the log knows."""
        self._agenda: Agenda[Pool] = Agenda()
        self._chores = 0.0
        """When there is a chore to do next, if nothing happens before."""
        self._looked = running.now()
        self._seen = -1
        """When the last round began, and what had happened by then."""

    async def sweep_forever(self) -> None:
        await self._running.rounds.forever("janitor", self._until_due, self._sweep_in_parts)

    async def _until_due(self) -> None:
        """PERIOD after something has happened, or when it is time; never sooner than PERIOD after the last round."""
        running = self._running
        await running.stirring.since(self._seen, max(self.due - running.now(), 0))
        stirred = running.now() + PERIOD if running.stirring.happened() != self._seen else inf
        await asyncio.sleep(max(min(stirred, max(self.due, self._looked + PERIOD)) - running.now(), 0))

    @property
    def due(self) -> float:
        """When there is something to look at, if nothing happens before."""
        return min(self._agenda.next, self._chores)

    async def _sweep_in_parts(self) -> None:
        for _ in self._round(self._running.now()):
            await asyncio.sleep(0)

    def sweep(self, now: float) -> None:
        """One round."""
        for _ in self._round(now):
            continue

    def _round(self, now: float) -> Iterator[None]:
        """Others may have their turn whenever it yields."""
        attempt, relay = self._running.rounds.attempt, self._running.relay
        self._looked, self._seen = now, self._running.stirring.happened()
        attempt("keep_forced_pools", self.keep_forced_pools)
        for stirred in relay.take_stirred():
            self._agenda.put(stirred, now)
        looked = 0
        while (pool := self._agenda.take(now)) is not None:
            relay.pace()
            self.look(pool.owner, now)
            looked += 1
            if looked % AT_ONCE == 0:
                yield
        self._chores = self._first(now, ((chore.__name__, chore, (self, now)) for chore in CHORES))

    def look(self, pool: PoolState, now: float) -> None:
        """At one pool, and when it is to be looked at again."""
        registry = self._running.registry
        used, before = bool(pool.engine.server_count or pool.clients), pool.in_use
        pool.in_use = used
        if used or before:
            pool.last_used = pool.database.last_used = now
        duties = (*DUTIES, *ALWAYS) if used else ALWAYS
        due = self._first(now, ((duty.__name__, duty, (self, pool, now)) for duty in duties))
        self._agenda.put(pool.engine, due if registry.has(pool) else inf)

    def _first(self, now: float, works: Iterable[tuple[str, Callable[..., float], tuple[object, ...]]]) -> float:
        """Have all of them done; when one of them is due next."""
        attempt, due = self._running.rounds.attempt, now + LONGEST
        for name, work, arguments in works:
            again = attempt(name, work, *arguments)
            due = min(due, now if again is None else again)
        return max(due + GRAIN, now + PERIOD)

    def tell_of_the_ring(self, now: float) -> float:
        """Once, when the relay had to do without io_uring from some moment on."""
        running = self._running
        reason = running.relay.no_ring
        if reason != self._no_ring:
            self._no_ring = reason
            running.say(WARNING, f"io_uring failed, each send is a system call of its own from now on: {reason}")
        return inf

    def catch_up_the_log(self, now: float) -> float:
        """Lines that there was no room for may have some by now, without another line that asks for it."""
        return inf if self._running.log_file.catch_up() else now

    def tell_of_rounds(self, now: float) -> float:
        """What goes on failing is told by its number, also when it is our turn that is the next one."""
        return now if self._running.rounds.troubled else inf

    # ---- clients

    def forget_removed(self, now: float) -> float:
        """Databases that have left the configuration."""
        running = self._running
        for database in list(running.registry.databases.values()):
            if database.removed:
                running.forget_removed(database)
        return inf

    def end_slow_logins(self, now: float) -> float:
        """client_login_timeout, for those who have not proved who they are."""
        running = self._running
        limit = running.config.settings.client_login_timeout
        for visit in list(self._strangers) if limit else ():
            if visit.cancels:
                continue
            if now - visit.since / 1e6 <= limit:
                return visit.since / 1e6 + limit
            visit.end(LoginError("client_login_timeout"))
        return inf

    def end_long_waits(self, pool: PoolState, now: float) -> float:
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
        return now if pool.newcomers or pool.waiting else inf

    def end_what_waits_in_vain(self, pool: PoolState, now: float) -> float:
        """At an orderly end no server is given any more; those who are there may still ask for one."""
        running = self._running
        if running.phase is Phase.WAIT_FOR_SERVERS:
            running.end_waiting(pool, LoginError(Reason.SERVER_SHUTTING))
        return inf

    def end_queries_that_wait(self, pool: PoolState, now: float) -> float:
        """query_timeout counts from when a query comes, or who needs a first server, whatever it waits for. As long as
        anybody waits `end_long_waits` has the pool looked at."""
        running = self._running
        limit = running.registry.timeout(pool, "query_timeout")
        if not limit or pool.oldest_wait(now) <= limit:
            return inf
        for client in pool.engine.waiting_clients.all():
            if client.wait_us <= limit * 1e6:
                break
            self._too_long(pool, client, Reason.QUERY_WAITS)
        for waiter in pool.newcomers.values():
            if now - waiter.since > limit:
                waiter.give_up(LoginError(Reason.QUERY_WAITS))
        return inf

    def notify_queued(self, pool: PoolState, now: float) -> float:
        """query_wait_notify: tell a client once that it is queued. See `end_queries_that_wait`."""
        running = self._running
        limit = running.config.settings.query_wait_notify
        if not limit or pool.engine.oldest_wait < limit * 1e6:
            return inf
        for client in pool.engine.waiting_clients.all():
            if client.wait_us < limit * 1e6:
                break
            if not client.notified:
                client.notified = True
                client.send(wire.notice_response("NOTICE", "00000", QUEUED))
        return inf

    def end_idle_clients(self, pool: PoolState, now: float) -> float:
        registry = self._running.registry
        least = int(registry.least_idle * 1e6)
        if not least:
            return inf
        due = now + pool.engine.next_idle_client(least) / 1e6
        for client in pool.engine.idle_clients(least):
            limit, since = registry.idle_limit(client.about.user), client.request_us / 1e6
            if limit and now - since > limit:
                self._too_long(pool, client, Reason.CLIENT_IDLE)
            elif limit:
                due = min(due, since + limit)
        return due

    def _too_long(self, pool: PoolState, connection: Conn, reason: Reason) -> None:
        self._running.tally(Kind.TIMEOUT, pool.database.name, reason)
        self._running.drop(connection, reason)

    # ---- servers

    def end_long_queries(self, pool: PoolState, now: float) -> float:
        """query_timeout, idle_transaction_timeout, transaction_timeout."""
        running = self._running
        names = ("query_timeout", "idle_transaction_timeout", "transaction_timeout")
        limits = [int(running.registry.timeout(pool, name) * 1e6) for name in names]
        if not any(limits):
            return inf
        for server, reason in pool.engine.long_servers(*limits):
            self._too_long(pool, server, Reason(reason))
        return now + pool.engine.next_long_server(*limits) / 1e6

    def end_idle_pins(self, pool: PoolState, now: float) -> float:
        """pin_timeout; and what is to end (PAUSE, RECONNECT, RELOAD, SHUTDOWN) does not wait for them for ever."""
        running = self._running
        limit = running.config.own.pin_timeout
        ending = pool.engine.paused or running.shutting
        told, pool.told_pins = pool.told_pins, set()
        due = inf
        for server, idle_us in pool.engine.idle_pins(0):
            idle, client = idle_us / 1e6, server.linked
            if client is None:
                continue
            most = min(limit or inf, PIN_GRACE if ending or server.close_needed else inf)
            due = min([due, *(now + time - idle for time in (most, PIN_TOLD) if time >= idle)])
            if idle > most:
                self._too_long(pool, client, Reason.PIN_IDLE)
            elif idle > PIN_TOLD:
                pool.told_pins.add(client.id)
                if client.id not in told:
                    label = client_label(client.about)
                    running.say(LOG, f"{label} keeps its server and has asked for nothing for {idle:.0f} s")
        return due

    def release_sequences(self, pool: PoolState, now: float) -> float:
        """sequence_timeout; what is to end waits for nobody's currval."""
        return now + pool.engine.release_sequences(int(self._running.config.own.sequence_timeout * 1e6)) / 1e6

    def retire_servers(self, pool: PoolState, now: float) -> float:
        """Free servers that are idle or alive for too long, or too many since a limit was lowered."""
        running = self._running
        settings, registry = running.config.settings, running.registry
        size = registry.pool_size(pool)
        surplus = pool.servers - size - registry.reserve_size(pool) if size else 0
        spare = self._above_minimum(pool)
        idle_limit, due = settings.server_idle_timeout * 1e6, inf
        for server in (*pool.engine.used_servers.all(), *reversed(pool.engine.idle_servers.all())):
            if server.close_needed:
                reason = Reason.OUTDATED
            elif surplus > 0:
                reason = Reason.SURPLUS
            elif idle_limit and spare > 0 and server.idle_us > idle_limit:
                reason = Reason.SERVER_IDLE
            elif pool.engine.retires(server):
                reason = Reason.LIFETIME
            else:
                spared = idle_limit - server.idle_us if idle_limit and spare > 0 else inf
                due = min(due, now + min(spared, pool.engine.retires_in(server)) / 1e6)
                continue
            surplus, spare = surplus - 1, spare - 1
            running.drop(server, reason)
        return due

    def age_idle(self, pool: PoolState, now: float) -> float:
        pool.engine.age_idle()
        return now + pool.engine.ages_in() / 1e6

    def consider_waiting(self, pool: PoolState, now: float) -> float:
        """The reserve opens by the clock, and a server that is tested may have been silent for too long."""
        if not pool.waiting:
            return inf
        pool.engine.resume()
        self._opener.consider(pool)
        return now

    def end_hanging_tests(self, pool: PoolState, now: float) -> float:
        """A server that does not answer a query of ours, or stops in the middle of a message to nobody, for as long as
        a login may take keeps nobody from another one, here or in a pool under the same limits."""
        running = self._running
        limit = running.config.settings.server_connect_timeout
        if not (limit and (pool.waiting or pool.engine.rival)):
            return inf
        for server, reason in pool.engine.hanging(int(limit * 1e6)):
            running.drop(server, Reason(reason))
        return now

    def refresh_names(self, pool: PoolState, now: float) -> float:
        """Servers whose host has moved are found out without a new connection being needed."""
        return min((self._dns.refresh(host) for host in pool.database.config.hosts), default=inf)

    def keep_forced_pools(self) -> None:
        """A database with a fixed user and a min_pool_size has its pool before the first client comes."""
        running = self._running
        for config in running.config.databases.values() if self.keeps_ready else ():
            if config.user is not None and running.registry.min_pool_size(config):
                database = running.database(config.name)
                assert database is not None
                running.registry.pool(database, config.user)

    def _is_kept(self, pool: PoolState) -> bool:
        """Whether it has servers of its own without clients: see `keep_forced_pools` and `keep_minimum`."""
        forced = pool.database.config.user == pool.user.name
        return forced and self._running.registry.min_pool_size(pool.database.config) > 0

    def survey_code(self, pool: PoolState, now: float) -> float:
        """What the database's own functions may leave behind in a session. Nothing happens, nobody asks."""
        self._survey.look_after(pool, now)
        return inf

    def keep_minimum(self, pool: PoolState, now: float) -> float:
        """min_pool_size, once the pool is in use, or from the start if its user is fixed."""
        running = self._running
        in_use = pool.clients or pool.database.config.user is not None
        if not (self.keeps_ready and in_use and pool.servers < running.registry.pool_size(pool)):
            return inf
        if self._above_minimum(pool) >= 0:
            return inf
        self._opener.consider(pool, needed=True)
        return now

    def _above_minimum(self, pool: PoolState) -> int:
        """How many servers there are more than min_pool_size, in all workers together; below 0: so many are missing.
        None are until we know."""
        least, colleagues = self._running.registry.min_pool_size(pool.database.config), self._running.colleagues
        if least <= 0 or colleagues is None:
            return pool.servers - least
        count = colleagues.count(pool)
        return 0 if count is None else count - least

    def forget_pool(self, pool: PoolState, now: float) -> float:
        """pool_idle_timeout."""
        running = self._running
        timeout = running.config.settings.pool_idle_timeout
        if not timeout or pool.connections or pool.clients or self._is_kept(pool):
            return inf
        idle = now - pool.last_used
        if pool.cancels.active or idle <= timeout:
            return max(now, pool.last_used + timeout)
        who = f"user {pool.user.name} on db {pool.database.name}"
        running.say(LOG, f"cleaning up idle pool for {who} because: pool idle timeout (age= {int(idle)}s)")
        running.registry.forget_pool(pool)
        return inf

    def forget_databases(self, now: float) -> float:
        """autodb_idle_timeout."""
        running, due = self._running, inf
        timeout = running.config.settings.autodb_idle_timeout
        for database in list(running.registry.databases.values()):
            if not database.config.auto:
                continue
            if database.paused or database.disabled:
                # An administrator's word holds until the next one.
                database.last_used = now
            # A question of auth_query counts for its pool, not for its database.
            elif database.servers or database.clients or any(pool.clients for pool in database.pools.values()):
                continue
            elif now - database.last_used <= timeout:
                due = min(due, database.last_used + timeout)
            else:
                running.say_dropping(database)
                running.forget_database(database)
        return due


DUTIES: tuple[Callable[[Janitor, PoolState, float], float], ...] = (
    Janitor.end_what_waits_in_vain,
    Janitor.end_queries_that_wait,
    Janitor.end_long_waits,
    Janitor.notify_queued,
    Janitor.end_idle_clients,
    Janitor.end_long_queries,
    Janitor.end_idle_pins,
    Janitor.release_sequences,
    Janitor.retire_servers,
    Janitor.age_idle,
    Janitor.end_hanging_tests,
    Janitor.consider_waiting,
    Janitor.survey_code,
    Janitor.refresh_names,
)
"""For a pool that has servers or clients."""

ALWAYS: tuple[Callable[[Janitor, PoolState, float], float], ...] = (
    Janitor.keep_minimum,
    Janitor.forget_pool,
)
"""For every pool."""

CHORES: tuple[Callable[[Janitor, float], float], ...] = (
    Janitor.forget_databases,
    Janitor.forget_removed,
    Janitor.end_slow_logins,
    Janitor.tell_of_the_ring,
    Janitor.catch_up_the_log,
    Janitor.tell_of_rounds,
)
"""What is done once in a round, after the pools."""
