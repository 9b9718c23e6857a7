"""Who is there: databases, users and pools as they run, each with the part of the configuration it needs.

Pure bookkeeping, without I/O: the relay's `Pool` holds the connections, these hold what Python decides by. The rule:
a limit or a timeout is asked here, where the global, the database's and the user's settings meet, and nowhere else.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field

from pooler import relay
from pooler.config.databases import DatabaseConfig, OwnTls, UserConfig
from pooler.config.kinds import PoolMode
from pooler.config.policy import Fate, Policy
from pooler.config.whole import Config
from pooler.net.credentials import EMPTY, NOTHING, Credentials
from pooler.net.tls import ServerTls
from pooler.pools.connection import ClientFacts
from pooler.pools.refusal import LoginError
from pooler.pools.verdict import Wish
from pooler.pools.welcome import Manners, Welcome
from pooler.routines import Inquiry
from pooler.stats import ZERO, Counters
from pooler.values import dataclass

MODES = {PoolMode.session: 0, PoolMode.transaction: 1, PoolMode.statement: 2}
"""As the relay numbers them."""


NO_MANNERS = Manners("", 0)
OURS_RETRY = 0.5
"""Seconds until another attempt where the last one failed for want of something of ours: others may have some then."""
_births = itertools.count(1)
"""Numbers for pools and databases: what comes again under a name that was there before has another."""


@dataclass(slots=True)
class User(relay.Counted):
    """One user's connections over all databases. `config` is its entry in [users], if it has one."""

    name: str
    config: UserConfig | None = None
    pools: list[PoolState] = field(default_factory=list)

    @property
    def servers(self) -> int:
        return sum(pool.connections for pool in self.pools)


@dataclass(slots=True)
class Database(relay.Counted):
    """One entry of [databases] at work."""

    config: DatabaseConfig
    paused: bool = False
    """By a PAUSE or KILL that named it; one of everything is the bouncer's."""
    disabled: bool = False
    removed: bool = False
    """It has left the configuration: nobody comes in, and it is forgotten when the last connection has ended."""
    pools: dict[str, PoolState] = field(default_factory=dict)
    last_used: float = 0.0
    """Or made."""
    born: int = field(default_factory=_births.__next__)
    retired: Counters = ZERO
    """What its pools that are gone have counted."""
    inquiry: Inquiry = field(default_factory=Inquiry)
    """What is known of its own code."""
    own_tls: tuple[OwnTls, ServerTls] | None = None
    """What was made of `config.tls`."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def tls(self) -> ServerTls | None:
        """How its servers are spoken to, if not like all others. Raises TlsProblem."""
        wanted = self.config.tls
        if wanted is None:
            return None
        if self.own_tls is None or self.own_tls[0] != wanted:
            self.own_tls = wanted, ServerTls.of(wanted)
        return self.own_tls[1]

    @property
    def servers(self) -> int:
        return sum(pool.connections for pool in self.pools.values())


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
    arrival: ClientFacts
    own: bool = False
    """It waits for a server of its own, for replication; the pool's are nothing to it."""
    claim: Callable[[], None] | None = None
    """Called when there may be room for that server: takes it."""
    refused: LoginError | None = None
    """Why it is turned away, also when what it waited for has come just before."""

    def give_up(self, why: LoginError) -> None:
        """Turn the client away, as long as it has not been handed over."""
        self.refused = self.refused or why
        if not self.ready.done():
            self.ready.set_exception(why)

    def check(self) -> None:
        """Its waiting is over: raises LoginError when it has been turned away before anything came of that."""
        if self.refused is not None:
            raise self.refused


@dataclass(slots=True)
class PoolState:
    """One pool: (database, user). Times are monotonic seconds."""

    database: Database
    user: User
    engine: relay.Pool
    credentials: Credentials = NOTHING
    opening: int = 0
    listening: int = 0
    """Listening servers that are logged in as this pool's user, or log in (servers/hubs.py): they count for the limits
    of its database and user, not for its size."""
    last_attempt: float = -1e9
    failure: LoginError | None = None
    """Why the last attempt to open a server failed; None when it did not."""
    ours: bool = False
    """It failed for want of what this process has no more of: the server has no part in it."""
    crowded: bool = False
    """PostgreSQL has refused another server, while there are some that clients can have."""
    elsewhere: bool = False
    """While none can be opened here, or is not soon, other workers have some that can come here."""
    manners: Manners = NO_MANNERS
    """What its clients are told of how they are treated."""
    welcome: Welcome | None = None
    """What clients are told of the first server; None until it has logged in."""
    newcomers: dict[int, Waiter] = field(default_factory=dict)
    cancels: CancelQueue = field(default_factory=CancelQueue)
    last_used: float = 0.0
    in_use: bool = False
    """Whether it had servers or clients when the janitor looked last."""
    next_host: int = 0
    told_pins: set[int] = field(default_factory=set)
    """Clients of whose idle pinned servers the log knows."""
    born: int = field(default_factory=_births.__next__)
    forgotten: bool = False

    @property
    def name(self) -> str:
        """As the log has it."""
        return f"{self.database.name}/{self.user.name}"

    def stir(self) -> None:
        """Something has happened that the janitor may have to look at."""
        self.engine.stir()

    def expect(self, number: int, waiter: Waiter) -> None:
        """A newcomer waits here, until `expect_no_more`."""
        self.newcomers[number] = waiter
        self.stir()

    def expect_no_more(self, number: int) -> None:
        del self.newcomers[number]
        self.stir()

    @property
    def counters(self) -> Counters:
        return Counters(*self.engine.counted())

    def take_host(self) -> str:
        """The host for the next server: in turn, or the same until it fails with load_balance_hosts=disable."""
        config = self.database.config
        hosts = config.hosts or ("",)
        host = hosts[self.next_host % len(hosts)]
        if config.load_balance_hosts != "disable":
            self.next_host += 1
        return host

    def host_failed(self, turn: int) -> None:
        """The next attempt goes to the next host, if it would go to that of this one's turn."""
        if self.database.config.load_balance_hosts == "disable" and self.next_host == turn:
            self.next_host += 1

    @property
    def servers(self) -> int:
        """Server connections, those logging in included."""
        return self.engine.server_count + self.opening

    @property
    def connections(self) -> int:
        """To PostgreSQL, whatever for."""
        return self.servers + self.listening

    @property
    def usable(self) -> bool:
        """Whether it has a server that somebody may still get."""
        return any(not server.close_needed for server in self.engine.servers())

    def greet_with(self, welcome: Welcome | None) -> None:
        """This is what who comes in is told from now on; None: a server has to be asked first."""
        self.welcome = welcome
        self.engine.told = welcome.facts if welcome is not None else None

    @property
    def clients(self) -> int:
        return self.engine.active_clients.count + self.engine.waiting_clients.count + len(self.newcomers)

    @property
    def waiting(self) -> int:
        return self.engine.waiting_clients.count + sum(not w.ready.done() for w in self.newcomers.values())

    @property
    def wanting(self) -> bool:
        """Whether anybody waits for whom no server of the pool is about to be free."""
        if self.engine.missing:
            return True
        return self.welcome is None and any(not (w.own or w.ready.done()) for w in self.newcomers.values())

    def oldest_wait(self, now: float) -> float:
        """Seconds that the longest waiting client has waited; 0 with nobody waiting."""
        since = min((w.since for w in self.newcomers.values()), default=now)
        return max(self.engine.oldest_wait / 1e6, now - since)


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """What [users] says of those who wait and of those who are idle, in one look for all of them."""

    idle: Mapping[str, float]
    """client_idle_timeout of those who have one of their own."""
    least_idle: float
    """No client is idle for too long before this; 0: none ever is."""
    least_patience: float
    """The shortest query_wait_timeout of all users and of the settings; 0: there is none."""

    @classmethod
    def of(cls, config: Config) -> OwnLimits:
        users, settings = config.users.values(), config.settings
        idle = {user.name: user.client_idle_timeout for user in users if user.client_idle_timeout is not None}
        waits = (settings.query_wait_timeout, *(user.query_wait_timeout for user in users))
        return cls(idle, _least((settings.client_idle_timeout, *idle.values())), _least(waits))


def _least(limits: Iterable[float | None]) -> float:
    return min((limit for limit in limits if limit and limit > 0), default=0.0)


class Registry(relay.Counting):
    """All databases, users and pools, and the limits that hold for them. `clock`: monotonic seconds. Its `clients` are
    those of all databases and of the console, logged in or waiting for a first server; `on_left` is called with the
    database and the user of one that is counted out."""

    config: Config
    databases: dict[str, Database]
    users: dict[str, User]

    def __init__(self, config: Config, selector: relay.Relay, clock: Callable[[], float]) -> None:
        self._relay = selector
        self._clock = clock
        self.config = config
        """The one in force."""
        self._looked = config, OwnLimits.of(config)
        self.paused = False
        """Everything is, by a PAUSE that named no database."""
        self.retired = ZERO
        """What databases that are gone have counted."""
        self.part = 0, 1
        """Which of how many workers this is: what a pool is to have is shared among them."""

    @property
    def _own(self) -> OwnLimits:
        """What the configuration in force says, looked through once."""
        if self._looked[0] is not self.config:
            self._looked = self.config, OwnLimits.of(self.config)
        return self._looked[1]

    # ---- who is there

    def find(self, name: str) -> DatabaseConfig | None:
        """The entry for a client's database: the one at work, else that of the configuration."""
        known = self.databases.get(name)
        return known.config if known is not None and not known.removed else self.config.find_database(name)

    def database(self, config: DatabaseConfig) -> Database:
        """The entry at work for `config`, made on first use."""
        found = self.databases.get(config.name)
        if found is None:
            found = self.databases[config.name] = Database(config, last_used=self._clock())
        return found

    def pool(self, database: Database, user: str, *, forced: bool = True) -> PoolState:
        """The pool of this database and login user, made on first use; `forced`: of the database's own user, if any."""
        name = database.config.user or user if forced else user
        found = database.pools.get(name)
        if found is None:
            made = relay.Pool(self._relay, database.name, name)
            found = PoolState(database, self.user(name), made, last_used=self._clock())
            made.owner = found
            made.paused = database.paused or self.paused
            self.apply(found)
            database.pools[name] = found
            found.user.pools.append(found)
        return found

    def has(self, pool: PoolState) -> bool:
        """Whether it has not been forgotten."""
        database = pool.database
        return self.databases.get(database.name) is database and database.pools.get(pool.user.name) is pool

    def forget_pool(self, pool: PoolState) -> None:
        """Drop a pool that nobody uses. Its counts stay with its database."""
        pool.forgotten = True
        pool.database.retired += pool.counters
        del pool.database.pools[pool.user.name]
        pool.user.pools.remove(pool)
        self.forget_if_unused(pool.user)

    def forget_database(self, database: Database) -> None:
        for pool in list(database.pools.values()):
            self.forget_pool(pool)
        self.retired += database.retired
        del self.databases[database.name]

    def pools(self) -> Iterator[PoolState]:
        for database in list(self.databases.values()):
            yield from list(database.pools.values())

    def user(self, name: str) -> User:
        user = self.users.get(name)
        if user is None:
            user = self.users[name] = User(name, self.config.users.get(name))
        return user

    def forget_if_unused(self, user: User) -> None:
        """Names come from clients, with auth_type any from anybody: who has nothing here is not kept."""
        if not (user.clients or user.pools or user.config):
            self.users.pop(user.name, None)

    # ---- limits and timeouts of a pool

    def pool_size(self, pool: PoolState) -> int:
        """0: no limit."""
        own = pool.user.config.pool_size if pool.user.config else None
        return _first(own, pool.database.config.pool_size, self.config.settings.default_pool_size)

    def reserve_size(self, pool: PoolState) -> int:
        own = pool.user.config.reserve_pool_size if pool.user.config else None
        return _first(own, pool.database.config.reserve_pool_size, self.config.settings.reserve_pool_size)

    def min_pool_size(self, config: DatabaseConfig) -> int:
        return _first(config.min_pool_size, self.config.settings.min_pool_size)

    def database_limit(self, database: Database) -> int:
        return _first(database.config.max_db_connections, self.config.settings.max_db_connections)

    def user_limit(self, user: User) -> int:
        own = user.config.max_user_connections if user.config else None
        return _first(own, self.config.settings.max_user_connections)

    def database_client_limit(self, database: Database) -> int:
        own = database.config.max_db_client_connections
        return self.config.settings.max_db_client_connections if own is None else own

    def user_client_limit(self, user: User) -> int:
        own = user.config.max_user_client_connections if user.config else None
        return self.config.settings.max_user_client_connections if own is None else own

    def pool_mode(self, pool: PoolState) -> PoolMode:
        own = pool.user.config.pool_mode if pool.user.config else None
        return own or pool.database.config.pool_mode or self.config.settings.pool_mode

    def session_policy(self, pool: PoolState) -> Policy:
        """What becomes of session state there."""
        own = pool.user.config.session_state if pool.user.config else None
        return own or pool.database.config.session_state or self.config.own.session_state

    def max_pinned(self, size: int) -> int:
        """Of a pool of this size; below 0: no limit. Where there may be any each worker has one: its clients could
        never keep a server otherwise."""
        most = self.config.own.max_pinned
        if most < 0:
            most = max(1, size // 2) if size else -1
        number, workers = self.part
        return max(1, (most + workers - 1 - number) // workers) if most > 0 else most

    def own_manners(self) -> Manners:
        """As a pool's, of a client whose server is its own."""
        return Manners(PoolMode.session.value, self.config.settings.max_prepared_statements)

    def server_lifetime(self, database: Database) -> float:
        given = database.config.server_lifetime
        return self.config.settings.server_lifetime if given is None else given

    def patience(self, database: Database, user: str) -> float:
        """How long a client of this login user may wait (query_wait_timeout); 0: for ever."""
        entry = self.config.users.get(user)
        own = entry.query_wait_timeout if entry else None
        given = database.config.query_wait_timeout if own is None else own
        return self.config.settings.query_wait_timeout if given is None else max(given, 0.0)

    def least_patience(self, database: Database) -> float:
        """No client of any user is told off before it has waited for so long; 0: none ever is."""
        return _least((database.config.query_wait_timeout, self._own.least_patience))

    @property
    def least_idle(self) -> float:
        """No client of any user is idle for too long before this; 0: none ever is."""
        return self._own.least_idle

    def idle_limit(self, user: str) -> float:
        """client_idle_timeout of this login user; 0: none."""
        return max(self._own.idle.get(user, self.config.settings.client_idle_timeout), 0.0)

    def credentials(self, pool: PoolState) -> Credentials:
        """What this pool can show to a server: what was configured, else what its clients have proved with."""
        config, user = pool.database.config, pool.user.name
        if config.user == user and config.password is not None:
            return Credentials(password=config.password)
        secrets = self.config.secrets if config.secrets is None else config.secrets
        known = Credentials.of(secrets.get(user)).joined(pool.credentials)
        return EMPTY if known == NOTHING else known

    def timeout(self, pool: PoolState, name: str) -> float:
        """A timeout that users may have of their own: query_timeout, idle_transaction_timeout, ...; 0: none."""
        own: float | None = getattr(pool.user.config, name, None)
        shared: float = getattr(self.config.settings, name)
        return shared if own is None else max(own, 0.0)

    def login_retry(self, *, ours: bool) -> float:
        """Seconds from an attempt that failed to the next one. `ours`: see `PoolState.ours`."""
        given = self.config.settings.server_login_retry
        return min(given, OURS_RETRY) if ours else given

    def wish(self, pool: PoolState, now: float) -> Wish:
        """The facts by which `pool.verdict` says whether a server may be opened."""
        settings = self.config.settings
        retry = pool.last_attempt + self.login_retry(ours=pool.ours) - now if pool.failure else 0.0
        return Wish(
            servers=pool.servers,
            opening=pool.opening,
            retry_in=retry,
            pool_size=self.pool_size(pool),
            reserve_size=self.reserve_size(pool),
            reserve_timeout=settings.reserve_pool_timeout,
            oldest_wait=pool.oldest_wait(now),
            greets=pool.welcome is not None,
            database_servers=pool.database.servers,
            database_limit=self.database_limit(pool.database),
            user_servers=pool.user.servers,
            user_limit=self.user_limit(pool.user),
        )

    # ---- what the relay has to know

    def apply(self, pool: PoolState) -> bool:
        """Tell the relay's pool what the configuration says now. Whether its servers may hold session state of a time
        when nobody looked for it."""
        settings, engine = self.config.settings, pool.engine
        session, cared_for = engine.mode == MODES[PoolMode.session], engine.kept | engine.refused
        mode = self.pool_mode(pool)
        pool.manners = Manners(mode.value, settings.max_prepared_statements)
        engine.mode = MODES[mode]
        engine.max_prepared = settings.max_prepared_statements
        engine.round_robin = settings.server_round_robin
        engine.reset_query = settings.server_reset_query.encode()
        engine.reset_always = settings.server_reset_query_always
        engine.check_query = check_query(settings.server_check_query)
        engine.check_delay = int(settings.server_check_delay * 1e6)
        engine.lifetime = int(self.server_lifetime(pool.database) * 1e6)
        size = self.pool_size(pool)
        engine.lifetime_gap = engine.lifetime // size if size else 0
        policy = self.session_policy(pool)
        engine.kept, engine.refused = policy.mask(Fate.keep), policy.mask(Fate.refuse)
        engine.max_pinned = self.max_pinned(size)
        engine.refuse_simple = settings.disable_pqexec
        engine.fast_close = settings.server_fast_close
        engine.full = False
        engine.rejuvenate()
        engine.resume()
        if session and engine.mode != MODES[PoolMode.session]:
            cared_for = 0
        return bool((engine.kept | engine.refused) & ~cared_for)


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
