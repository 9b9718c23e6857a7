"""What the janitor does when: each duty under a clock that the test moves, on pools whose connections are as old as the
test says. That no duty keeps another from its turn is in test_goes_on, what is forgotten in test_unused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.databases import DatabaseConfig, UserConfig
from pooler.config.whole import Config, compose
from pooler.house.janitor import QUEUED, Janitor
from pooler.pools import registry
from pooler.pools.connection import ClientFacts
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState, Waiter
from pooler.pools.running import Phase
from tests.unit.pooler.house.test_bouncer import PEER, House

NOW = 5000.0
NEVER = 1 << 62


@dataclass
class Conn:
    """A connection that has been idle, or has waited, for so many seconds."""

    about: Any = None
    id: int = 0
    idle: float = 0.0
    waits: float = 0.0
    close_needed: bool = False
    notified: bool = False
    old: bool = False
    sent: list[bytes] = field(default_factory=list)

    @property
    def wait_us(self) -> int:
        return int(self.waits * 1e6)

    @property
    def idle_us(self) -> int:
        return int(self.idle * 1e6)

    @property
    def request_us(self) -> int:
        return int((NOW - self.idle) * 1e6)

    def send(self, data: bytes) -> None:
        self.sent.append(data)


class Listed:
    def __init__(self, *conns: Conn) -> None:
        self.conns = list(conns)

    @property
    def count(self) -> int:
        return len(self.conns)

    def all(self) -> list[Conn]:
        return list(self.conns)


class Engine:
    """The relay's pool, as far as the janitor looks at it."""

    def __init__(self) -> None:
        self.waiting_clients, self.active_clients = Listed(), Listed()
        self.used_servers, self.idle_servers = Listed(), Listed()
        self.rival = 0
        self.paused = False
        self.long: list[tuple[Conn, str]] = []
        self.silent: list[tuple[Conn, str]] = []
        self.asked: list[tuple[int, ...]] = []
        self.pins: list[tuple[Any, int]] = []
        self.drawn: list[int] = []

    @property
    def oldest_wait(self) -> int:
        return max((client.wait_us for client in self.waiting_clients.all()), default=0)

    @property
    def server_count(self) -> int:
        return self.used_servers.count + self.idle_servers.count

    def idle_clients(self, limit: int) -> list[Conn]:
        self.asked.append((limit,))
        return [client for client in self.active_clients.all() if client.idle_us > limit]

    def next_idle_client(self, limit: int) -> int:
        left = [limit - client.idle_us for client in self.active_clients.all()]
        return min((us for us in left if us >= 0), default=NEVER)

    def next_long_server(self, *limits: int) -> int:
        return NEVER

    def ages_in(self) -> int:
        return NEVER

    def retires_in(self, server: Conn) -> int:
        return NEVER

    def age_idle(self) -> None:
        pass

    def long_servers(self, *limits: int) -> list[tuple[Conn, str]]:
        self.asked.append(limits)
        return self.long

    def idle_pins(self, limit: int) -> list[tuple[Any, int]]:
        return [(server, idle) for server, idle in self.pins if idle > limit]

    def release_sequences(self, limit: int) -> int:
        self.drawn.append(limit)
        return NEVER

    def hanging(self, limit: int) -> list[tuple[Conn, str]]:
        self.asked.append((limit,))
        return self.silent

    def retires(self, server: Conn) -> bool:
        return server.old


class Place(House):
    """One pool of `bob` on `app`; what is dropped is written down."""

    users: tuple[UserConfig, ...] = ()
    own: Mapping[str, str] = {}
    database = DatabaseConfig("app", hosts=("127.0.0.1",))

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        super().__init__()
        self.dropped: list[tuple[Conn, Reason]] = []
        self.bouncer.running.drop = lambda conn, reason: self.dropped.append((conn, reason))  # type: ignore
        self.state = PoolState(
            self.entry(), self.bouncer.running.registry.user("bob"), Engine()  # type: ignore
        )

    def config(self, port: int) -> Config:
        return compose(self.settings, [self.database], own=self.own, users=self.users)

    @property
    def janitor(self) -> Janitor:
        return self.bouncer.janitor

    @property
    def engine(self) -> Any:
        return self.state.engine

    def waiter(self, since: float, user: str = "bob", *, own: bool = False) -> Waiter:
        number = len(self.state.newcomers) + 1
        arrival = ClientFacts(PEER, "app", user, number=number)
        made = self.state.newcomers[number] = Waiter(since, self.loop.create_future(), arrival, own=own)
        return made

    def why(self, waiter: Waiter) -> str:
        """What the waiter was told; nothing as long as it waits."""
        error = waiter.ready.exception() if waiter.ready.done() else None
        return error.message if isinstance(error, LoginError) else ""

    @property
    def timeouts(self) -> dict[Reason, int]:
        return {why: count for (kind, _, why), count in self.bouncer.running.tallies.items() if kind is Kind.TIMEOUT}


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Place] = []

    def place(
        *users: UserConfig,
        database: DatabaseConfig = Place.database,
        own: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Place:
        kind = type("Made", (Place,), {"users": users, "database": database, "own": own or {}})
        made.append(kind(**settings))
        return made[-1]

    yield place
    for one in made:
        one.close()


def client(user: str = "bob", **facts: Any) -> Conn:
    return Conn(ClientFacts(PEER, "app", user), **facts)


# ---- who logs in, who waits


def test_a_login_has_its_time_and_a_cancel_request_its_own(make: Any) -> None:
    place, told = make(client_login_timeout="60"), []
    for number, (age, cancels) in enumerate(((70.0, False), (65.0, True), (61.0, False), (59.0, False))):
        place.bouncer.strangers.come(
            SimpleNamespace(
                arrival=SimpleNamespace(number=number),
                since=int((NOW - age) * 1e6),
                cancels=cancels,
                end=lambda why, number=number: told.append((number, why.message)),
            )
        )
    place.janitor.end_slow_logins(NOW)
    assert told == [(0, "client_login_timeout"), (2, "client_login_timeout")]
    place.bouncer.strangers.silent.clear()


def test_each_waits_as_long_as_its_own_user_may(make: Any) -> None:
    place = make(UserConfig("anna", query_wait_timeout=5.0), UserConfig("zoe", query_wait_timeout=-1.0),
                 query_wait_timeout="20", client_login_timeout="0")  # fmt: skip
    bob, anna, zoe = client("bob", waits=19), client("anna", waits=6), client("zoe", waits=900)
    place.engine.waiting_clients = Listed(zoe, bob, anna)
    newcomers = [place.waiter(NOW - age, user) for user, age in (("bob", 21), ("bob", 19), ("anna", 6), ("zoe", 900))]
    place.janitor.end_long_waits(place.state, NOW)
    assert place.dropped == [(anna, Reason.QUERY_WAIT)]
    assert place.timeouts == {Reason.QUERY_WAIT: 1}
    assert [place.why(waiter) for waiter in newcomers] == ["query_wait_timeout", "", "query_wait_timeout", ""]


def test_who_waits_for_a_first_server_has_the_time_of_a_login(make: Any) -> None:
    place = make(query_wait_timeout="0", client_login_timeout="60")
    early, late = place.waiter(NOW - 59), place.waiter(NOW - 61)
    place.janitor.end_long_waits(place.state, NOW)
    assert (place.why(early), place.why(late)) == ("", "client_login_timeout (server down)")


def test_a_query_that_waits_has_the_time_of_a_query(make: Any) -> None:
    place = make(query_timeout="10")
    old, new = client(waits=11), client(waits=9)
    place.engine.waiting_clients = Listed(old, new)
    waiter, late = place.waiter(NOW - 9), place.waiter(NOW - 10.5)
    place.janitor.end_queries_that_wait(place.state, NOW)
    assert place.dropped == [(old, Reason.QUERY_WAITS)]
    assert (place.why(waiter), place.why(late)) == ("", "query_timeout")


def test_who_is_queued_is_told_once(make: Any) -> None:
    place = make(query_wait_notify="5")
    old, new = client(waits=5), client(waits=4)
    place.engine.waiting_clients = Listed(old, new)
    for _ in range(2):
        place.janitor.notify_queued(place.state, NOW)
    assert len(old.sent) == 1
    assert QUEUED.encode() in old.sent[0]
    assert new.sent == []


def test_who_is_idle_goes_by_its_own_limit(make: Any) -> None:
    place = make(UserConfig("anna", client_idle_timeout=3.0), UserConfig("zoe", client_idle_timeout=-1.0),
                 client_idle_timeout="30")  # fmt: skip
    gone, stays = [client("bob", idle=31), client("anna", idle=4)], [client("bob", idle=29), client("zoe", idle=900)]
    place.engine.active_clients = Listed(*gone, *stays)
    place.janitor.end_idle_clients(place.state, NOW)
    assert place.dropped == [(conn, Reason.CLIENT_IDLE) for conn in gone]
    assert place.engine.asked == [(3_000_000,)]
    assert place.timeouts == {Reason.CLIENT_IDLE: 2}


def test_nobody_is_asked_for_where_nobody_has_a_limit(make: Any) -> None:
    place = make()
    for duty in ("end_idle_clients", "end_long_queries"):
        getattr(place.janitor, duty)(place.state, NOW)
    assert place.engine.asked == []


def test_the_users_are_looked_through_with_the_configuration_and_not_in_each_round(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make(UserConfig("anna", client_idle_timeout=3.0))
    looks = 0
    look = registry.OwnLimits.of

    def counted(config: Config) -> registry.OwnLimits:
        nonlocal looks
        looks += 1
        return look(config)

    monkeypatch.setattr(registry.OwnLimits, "of", counted)
    for expected in (0, 1):
        for _ in range(3):
            place.janitor.end_idle_clients(place.state, NOW)
            place.bouncer.running.registry.least_patience(place.state.database)
        assert looks == expected
        place.bouncer.running.registry.config = dataclasses.replace(place.bouncer.config)


def test_at_an_orderly_end_nobody_waits_for_a_server(make: Any) -> None:
    place = make()
    waiter, own = place.waiter(NOW), place.waiter(NOW, own=True)
    place.janitor.end_what_waits_in_vain(place.state, NOW)
    assert place.why(waiter) == ""
    place.bouncer.running.phase = Phase.WAIT_FOR_SERVERS
    place.janitor.end_what_waits_in_vain(place.state, NOW)
    assert (place.why(waiter), place.why(own)) == ("server shutting down", "")


# ---- servers


def test_what_takes_too_long_at_a_server_ends(make: Any) -> None:
    place = make(UserConfig("bob", transaction_timeout=7.0), query_timeout="2", idle_transaction_timeout="3")
    server = Conn()
    place.engine.long = [(server, "idle transaction timeout")]
    place.janitor.end_long_queries(place.state, NOW)
    assert place.engine.asked == [(2_000_000, 3_000_000, 7_000_000)]
    assert place.dropped == [(server, Reason.TRANSACTION_IDLE)]
    assert place.timeouts == {Reason.TRANSACTION_IDLE: 1}


def pinned(idle: float, *, close_needed: bool = False) -> tuple[Any, int]:
    """A server that stays with its client, and for how long it was asked for nothing."""
    held = client(idle=idle)
    held.id = int(idle)
    return SimpleNamespace(linked=held, close_needed=close_needed), int(idle * 1e6)


def test_a_pinned_server_is_told_of_once_and_ends_by_the_limit(make: Any) -> None:
    place, limited = make(), make(own={"pin_timeout": "60"})
    (short, _), (long, _) = place.engine.pins = [pinned(59), pinned(61)]
    for _ in range(2):
        place.janitor.end_idle_pins(place.state, NOW)
    assert place.dropped == []
    assert place.state.told_pins == {long.linked.id}
    limited.engine.pins = place.engine.pins
    limited.janitor.end_idle_pins(limited.state, NOW)
    assert limited.dropped == [(long.linked, Reason.PIN_IDLE)]
    assert short.linked not in [conn for conn, _ in limited.dropped]


def test_servers_that_stay_for_a_sequence_go_by_their_limit(make: Any) -> None:
    place = make(own={"sequence_timeout": "2.5"})
    place.janitor.release_sequences(place.state, NOW)
    assert place.engine.drawn == [2_500_000]


@pytest.mark.parametrize("why", ["pause", "obsolete", "end", "nothing"])
def test_what_is_to_end_waits_for_a_pinned_server_for_a_while_only(make: Any, why: str) -> None:
    place = make()
    place.engine.pins = [pinned(9, close_needed=why == "obsolete"), pinned(11, close_needed=why == "obsolete")]
    if why == "pause":
        place.engine.paused = True
    if why == "end":
        place.bouncer.running.phase = Phase.WAIT_FOR_SERVERS
    place.janitor.end_idle_pins(place.state, NOW)
    assert [conn for conn, _ in place.dropped] == ([] if why == "nothing" else [place.engine.pins[1][0].linked])


def test_free_servers_go_each_for_its_reason(make: Any) -> None:
    place = make(default_pool_size="4", server_idle_timeout="600", min_pool_size="1")
    condemned, spare, stale, lived, last = (
        Conn(close_needed=True), Conn(), Conn(idle=601), Conn(old=True), Conn(idle=601),
    )  # fmt: skip
    place.engine.used_servers, place.engine.idle_servers = Listed(condemned), Listed(last, lived, stale, spare)
    place.janitor.retire_servers(place.state, NOW)
    assert place.dropped == [
        (condemned, Reason.OUTDATED), (stale, Reason.SERVER_IDLE), (lived, Reason.LIFETIME), (last, Reason.SERVER_IDLE),
    ]  # fmt: skip
    place.dropped.clear()
    place.engine.used_servers, place.engine.idle_servers = Listed(), Listed(*(Conn() for _ in range(6)))
    place.janitor.retire_servers(place.state, NOW)
    assert [reason for _, reason in place.dropped] == [Reason.SURPLUS] * 2


def test_a_server_that_says_nothing_keeps_nobody_waiting(make: Any) -> None:
    place = make(server_connect_timeout="15")
    place.engine.silent = [(Conn(), "test query failed")]
    place.janitor.end_hanging_tests(place.state, NOW)
    assert place.dropped == []
    place.engine.rival = 1
    place.janitor.end_hanging_tests(place.state, NOW)
    place.engine.rival = 0
    place.waiter(NOW)
    place.janitor.end_hanging_tests(place.state, NOW)
    assert [reason for _, reason in place.dropped] == [Reason.TEST_FAILED] * 2
    assert place.engine.asked == [(15_000_000,)] * 2


# ---- when something is to be done next

LIMITED = {"pin_timeout": "70"}


@pytest.mark.parametrize(
    ("own", "paused", "idle", "left"),
    [
        ({}, False, 20.0, 40.0),  # until it is told
        ({}, False, 61.0, inf),  # it has been told
        ({}, True, 4.0, 6.0),  # until its grace is over
        (LIMITED, False, 20.0, 40.0),
        (LIMITED, False, 61.0, 9.0),
        (LIMITED, True, 4.0, 6.0),
    ],
)
def test_pins_are_due_at_the_next_of_their_times(
    make: Any, own: dict[str, str], paused: bool, idle: float, left: float
) -> None:
    place = make(own=own)
    place.engine.paused = paused
    place.engine.pins = [pinned(idle)]
    assert place.janitor.end_idle_pins(place.state, NOW) == NOW + left
    assert place.dropped == []


def test_a_user_who_may_be_idle_for_longer_is_due_later(make: Any) -> None:
    place = make(UserConfig("anna", client_idle_timeout=50.0), UserConfig("zoe", client_idle_timeout=0.0),
                 client_idle_timeout="20")  # fmt: skip
    for idle, due in (
        ({"bob": 5.0}, NOW + 15),
        ({"anna": 30.0}, NOW + 20),
        ({"anna": 30.0, "bob": 5.0}, NOW + 15),
        ({"zoe": 900.0, "anna": 45.0}, NOW + 5),
    ):
        place.engine.active_clients = Listed(*(client(user, idle=time) for user, time in idle.items()))
        assert place.janitor.end_idle_clients(place.state, NOW) == due
    place.engine.active_clients = Listed(client("zoe", idle=900.0))
    assert place.janitor.end_idle_clients(place.state, NOW) > NOW + 1e9
    assert place.dropped == []


def test_servers_are_due_when_the_first_that_may_go_is(make: Any) -> None:
    place = make(server_idle_timeout="30")
    place.engine.idle_servers = Listed(Conn(idle=10), Conn(idle=25))
    assert place.janitor.retire_servers(place.state, NOW) == NOW + 5
    place.engine.retires_in = lambda server: 2_000_000
    assert place.janitor.retire_servers(place.state, NOW) == NOW + 2
    kept = make(server_idle_timeout="30", min_pool_size="2")
    kept.engine.idle_servers = Listed(Conn(idle=10), Conn(idle=45))
    assert kept.janitor.retire_servers(kept.state, NOW) > NOW + 1e9
    assert place.dropped == kept.dropped == []


# ---- what is kept, and for how long


def test_a_pool_that_is_kept_is_opened_up_to_its_least(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = replace(Place.database, user="bob", min_pool_size=2)
    place, asked = make(database=kept), []
    opener = place.bouncer.opener
    monkeypatch.setattr(opener, "consider", lambda pool, needed=False: asked.append((pool.name, needed)))
    place.janitor.keep_forced_pools()
    (pool,) = place.bouncer.running.registry.pools()
    place.janitor.keep_minimum(pool, NOW)
    pool.opening = 2
    place.janitor.keep_minimum(pool, NOW)
    assert asked == [("app/bob", True)]
    pool.opening = 0


class All:
    """The other workers, as far as the janitor asks."""

    def __init__(self) -> None:
        self.number: int | None = None

    def count(self, pool: PoolState) -> int | None:
        return self.number


def test_a_minimum_is_of_all_workers_together(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened or closed for it before it is known how many there are."""
    place, asked = make(database=replace(Place.database, user="bob", min_pool_size=2), server_idle_timeout="30"), []
    running, everybody = place.bouncer.running, All()
    monkeypatch.setattr(place.bouncer.opener, "consider", lambda pool, needed: asked.append(everybody.number))
    monkeypatch.setattr(running, "colleagues", everybody)
    place.engine.idle_servers = Listed(Conn(idle=45), Conn(idle=45), Conn(idle=45))
    dropped = []
    for everybody.number in (None, 1, 2, 4, 9):
        place.janitor.keep_minimum(place.state, NOW)
        place.janitor.retire_servers(place.state, NOW)
        dropped.append(len(place.dropped))
        place.dropped.clear()
    assert asked == [1]
    assert dropped == [0, 0, 0, 2, 3]


def test_an_idle_pool_goes_when_its_time_is_over_by_the_clock_that_it_is_given(make: Any) -> None:
    place = make(pool_idle_timeout="50")
    pool = place.bouncer.running.registry.pool(place.state.database, "bob")
    place.janitor.sweep(pool.last_used + 50)
    assert list(place.bouncer.running.registry.pools()) == [pool]
    place.janitor.sweep(pool.last_used + 50.5)
    assert not list(place.bouncer.running.registry.pools())
    assert place.log.having("cleaning up idle pool for user bob on db app", "(age= 50s)")


def test_a_round_says_when_a_pool_was_used(make: Any) -> None:
    place = make()
    pool = place.bouncer.running.registry.pool(place.state.database, "bob")
    later = place.bouncer.running.now() + 1000
    place.janitor.sweep(later)
    assert pool.last_used < later
    pool.expect(1, Waiter(later, place.loop.create_future(), ClientFacts(PEER, "app", "bob", number=1)))
    pool.opening = 1
    place.janitor.sweep(later)
    assert (pool.last_used, pool.database.last_used) == (later, later)
    pool.newcomers.clear()
    pool.opening = 0
