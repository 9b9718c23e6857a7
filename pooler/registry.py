"""Who is there: databases, users and pools as they run, each with the part of the configuration it needs.

Pure bookkeeping, without I/O: the relay's `Pool` holds the connections, these hold what Python decides by. The rule:
a limit or a timeout is asked here, where the global, the database's and the user's settings meet, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING

from pooler import relay
from pooler.auth import NOTHING, Credentials
from pooler.config import Config
from pooler.databases import DatabaseConfig, UserConfig
from pooler.kinds import PoolMode
from pooler.pool import Wish
from pooler.values import dataclass

if TYPE_CHECKING:
    from pooler.auth import LoginError
    from pooler.login import Attempt
    from pooler.welcome import Welcome

MODES = {PoolMode.session: 0, PoolMode.transaction: 1, PoolMode.statement: 2}
"""As the relay numbers them."""


@dataclass(slots=True)
class User:
    """One user's connections over all databases. `config` is its entry in [users], if it has one."""

    name: str
    config: UserConfig | None = None
    clients: int = 0
    pools: list[PoolState] = field(default_factory=list)

    @property
    def servers(self) -> int:
        return sum(pool.servers for pool in self.pools)


@dataclass(slots=True)
class Database:
    """One entry of [databases] at work."""

    config: DatabaseConfig
    paused: bool = False
    """By a PAUSE or KILL that named it; one of everything is the bouncer's."""
    disabled: bool = False
    removed: bool = False
    """It has left the configuration: nobody comes in, and it is forgotten when the last connection has ended."""
    clients: int = 0
    pools: dict[str, PoolState] = field(default_factory=dict)
    last_used: float = 0.0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def servers(self) -> int:
        return sum(pool.servers for pool in self.pools.values())


@dataclass(slots=True)
class CancelQueue:
    """Cancel requests on their way to the servers of one pool, or to one peer: a few at a time, the others wait."""

    waiting: int = 0
    active: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Waiter:
    """A client whose login is done but for the welcome, which takes a first server."""

    since: float
    ready: asyncio.Future[None]
    arrival: Attempt
    own: bool = False
    """It waits for a server of its own, for replication; the pool's are nothing to it."""

    def give_up(self, why: LoginError) -> None:
        """Turn the client away, unless its waiting is over already."""
        if not self.ready.done():
            self.ready.set_exception(why)


@dataclass(slots=True)
class PoolState:
    """One pool: (database, user). Times are monotonic seconds."""

    database: Database
    user: User
    engine: relay.Pool
    credentials: Credentials = NOTHING
    opening: int = 0
    last_attempt: float = -1e9
    failure: LoginError | None = None
    """Why the last attempt to open a server failed; None when it did not."""
    welcome: Welcome | None = None
    """What clients are told of the first server; None until it has logged in."""
    newcomers: dict[int, Waiter] = field(default_factory=dict)
    cancels: CancelQueue = field(default_factory=CancelQueue)
    last_used: float = 0.0
    next_host: int = 0

    def take_host(self) -> str:
        """The host for the next server: in turn, or the same until it fails with load_balance_hosts=disable."""
        config = self.database.config
        hosts = config.hosts or ("",)
        host = hosts[self.next_host % len(hosts)]
        if config.load_balance_hosts != "disable":
            self.next_host += 1
        return host

    def host_failed(self) -> None:
        """The next attempt goes to the next host."""
        if self.database.config.load_balance_hosts == "disable":
            self.next_host += 1

    @property
    def servers(self) -> int:
        """Server connections, those logging in included."""
        return self.engine.server_count + self.opening

    @property
    def clients(self) -> int:
        return self.engine.active_clients.count + self.engine.waiting_clients.count + len(self.newcomers)

    @property
    def waiting(self) -> int:
        return self.engine.waiting_clients.count + sum(not w.ready.done() for w in self.newcomers.values())

    @property
    def wanting(self) -> bool:
        """Whether anybody waits for one of the pool's servers."""
        if self.engine.waiting_clients.count:
            return True
        return any(not (waiter.own or waiter.ready.done()) for waiter in self.newcomers.values())

    def oldest_wait(self, now: float) -> float:
        """Seconds that the longest waiting client has waited; 0 with nobody waiting."""
        since = min((w.since for w in self.newcomers.values()), default=now)
        return max(self.engine.oldest_wait / 1e6, now - since)


class Registry:
    """All databases, users and pools, and the limits that hold for them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.databases: dict[str, Database] = {}
        self.users: dict[str, User] = {}
        self.clients = 0
        """Of all databases: logged in, or waiting for a first server."""

    def pools(self) -> Iterator[PoolState]:
        for database in list(self.databases.values()):
            yield from list(database.pools.values())

    def user(self, name: str) -> User:
        user = self.users.get(name)
        if user is None:
            user = self.users[name] = User(name, self.config.users.get(name))
        return user

    def count_in(self, database: Database, user: User) -> None:
        """One more client."""
        self.clients += 1
        database.clients += 1
        user.clients += 1

    def count_out(self, database: Database, user: User) -> None:
        self.clients -= 1
        database.clients -= 1
        user.clients -= 1

    # ---- limits and timeouts of a pool

    def pool_size(self, pool: PoolState) -> int:
        own = pool.user.config.pool_size if pool.user.config else None
        return _first(own, pool.database.config.pool_size, self.config.settings.default_pool_size)

    def reserve_size(self, pool: PoolState) -> int:
        own = pool.user.config.reserve_pool_size if pool.user.config else None
        return _first(own, pool.database.config.reserve_pool_size, self.config.settings.reserve_pool_size)

    def min_pool_size(self, database: Database) -> int:
        return _first(database.config.min_pool_size, self.config.settings.min_pool_size)

    def database_limit(self, database: Database) -> int:
        return _first(database.config.max_db_connections, self.config.settings.max_db_connections)

    def user_limit(self, user: User) -> int:
        own = user.config.max_user_connections if user.config else None
        return _first(own, self.config.settings.max_user_connections)

    def database_client_limit(self, database: Database) -> int:
        return _first(database.config.max_db_client_connections, self.config.settings.max_db_client_connections)

    def user_client_limit(self, user: User) -> int:
        own = user.config.max_user_client_connections if user.config else None
        return _first(own, self.config.settings.max_user_client_connections)

    def pool_mode(self, pool: PoolState) -> PoolMode:
        own = pool.user.config.pool_mode if pool.user.config else None
        return own or pool.database.config.pool_mode or self.config.settings.pool_mode

    def server_lifetime(self, database: Database) -> float:
        given = database.config.server_lifetime
        return self.config.settings.server_lifetime if given is None else given

    def timeout(self, pool: PoolState, name: str) -> float:
        """A timeout that users and databases may have of their own (0 is as good as none, as in PgBouncer):
        query_timeout, query_wait_timeout, ..."""
        for entry in (pool.user.config, pool.database.config):
            value: float | None = getattr(entry, name, None)
            if value:
                return value
        shared: float = getattr(self.config.settings, name)
        return shared

    def wish(self, pool: PoolState, now: float) -> Wish:
        """The facts by which `pool.verdict` says whether a server may be opened."""
        settings = self.config.settings
        retry = pool.last_attempt + settings.server_login_retry - now if pool.failure else 0.0
        return Wish(
            servers=pool.servers,
            opening=pool.opening,
            retry_in=retry,
            pool_size=self.pool_size(pool),
            reserve_size=self.reserve_size(pool),
            reserve_timeout=settings.reserve_pool_timeout,
            oldest_wait=pool.oldest_wait(now),
            known=pool.welcome is not None,
            database_servers=pool.database.servers,
            database_limit=self.database_limit(pool.database),
            user_servers=pool.user.servers,
            user_limit=self.user_limit(pool.user),
        )

    # ---- what the relay has to know

    def apply(self, pool: PoolState) -> None:
        """Tell the relay's pool what the configuration says now."""
        settings, engine = self.config.settings, pool.engine
        engine.mode = MODES[self.pool_mode(pool)]
        engine.max_prepared = settings.max_prepared_statements
        engine.round_robin = settings.server_round_robin
        engine.reset_query = settings.server_reset_query.encode()
        engine.reset_always = settings.server_reset_query_always
        engine.check_query = check_query(settings.server_check_query)
        engine.check_delay = int(settings.server_check_delay * 1e6)
        engine.lifetime = int(self.server_lifetime(pool.database) * 1e6)
        engine.lifetime_gap = engine.lifetime // max(1, self.pool_size(pool))
        engine.refuse_simple = settings.disable_pqexec
        engine.fast_close = settings.server_fast_close
        engine.full = False


def check_query(text: str) -> bytes | None:
    """The query that shows a server to be alive; None when there is no check."""
    if not text:
        return None
    return b"" if text == "<empty>" else text.encode()


def _first(*values: int | None) -> int:
    """The first that was given; the last always is."""
    for value in values:
        if value is not None:
            return value
    raise ValueError("nothing was given")
