"""Who gets a server when one comes free, and whose logins end: on a bouncer without a janitor, so that what happens is
what an event brings about, at once. Servers are logged in to at a PostgreSQL by script.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pooler import wire
from pooler.config.databases import DatabaseConfig
from pooler.config.whole import Config, compose
from pooler.net.address import Address
from pooler.pools.connection import ServerFacts
from pooler.pools.reasons import Kind, Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState, Waiter
from pooler.pools.verdict import Verdict
from pooler.pools.welcome import Welcome
from pooler.relay import Client, Server
from pooler.relay.events import ServerFact, ServerReady
from pooler.servers.condemned import addresses_gone, condemn, outdate
from tests.fixtures.understudy import HANG, IN, Understudy, refusal
from tests.unit.faults import Bug, fails
from tests.unit.pooler.house.test_bouncer import PEER, REPORTED, House, arrival, dialled

BEGIN, COMMIT, ASK = wire.query("BEGIN"), wire.query("COMMIT"), wire.query("SELECT 1")


class Place(House):
    """A house whose servers are the understudy's, with `settings`."""

    def __init__(self, understudy: Understudy, **settings: str) -> None:
        self.understudy, self.settings = understudy, settings
        super().__init__(understudy.port)

    def config(self, port: int) -> Config:
        database = DatabaseConfig("app", hosts=("127.0.0.1",), port=port)
        usual = {"auth_type": "trust", "server_login_retry": "0.05", "pool_mode": "transaction"}
        return compose({**usual, **self.settings}, [database])

    def pool(self, user: str = "bob") -> PoolState:
        pool = self.bouncer.running.registry.pool(self.entry(), user)
        if pool.welcome is None:
            pool.greet_with(Welcome(REPORTED, self.relay.tracked_names))
        return pool

    def come(self, user: str) -> Comer:
        pool, (fd, far) = self.pool(user), self.pair()
        self.bouncer.running.registry.count_in(pool.database, self.bouncer.running.registry.user(user))
        number = self.bouncer.running.next_number()
        about = arrival(self)
        about.user = user
        conn = self.relay.adopt_client(pool.engine, number, fd, None, b"", [None] * 5, about, number.to_bytes(8, "big"))
        return Comer(conn, far, pool)


class Comer:
    """A client, and its far end."""

    def __init__(self, conn: Client, far: socket.socket, pool: PoolState) -> None:
        self.conn, self.far, self.pool = conn, far, pool

    def say(self, *messages: bytes) -> None:
        self.far.sendall(b"".join(messages))

    def heard(self) -> bytes:
        """What has come so far, and stays there."""
        # A socket with a timeout waits for it first, whatever the flags say, and the loop with it.
        return self.far.recv(4096, socket.MSG_PEEK) if select.select([self.far], [], [], 0)[0] else b""

    @property
    def waits(self) -> bool:
        return self.conn.state_name == "waiting"

    @property
    def linked(self) -> bool:
        return self.conn.linked is not None


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture
def understudy() -> Iterator[Understudy]:
    with Understudy() as made:
        yield made


@pytest.fixture
def play(understudy: Understudy) -> Iterator[Callable[..., None]]:
    """play(scene, **settings): run scene(place) to its end."""
    places: list[Place] = []

    def run(scene: Callable[[Place], Coroutine[Any, Any, None]], **settings: str) -> None:
        place = Place(understudy, **settings)
        places.append(place)
        place.run(whole(place, scene))

    async def whole(place: Place, scene: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
        await scene(place)
        for task in list(place.bouncer.opener.tasks):
            task.cancel()
        await asyncio.gather(*place.bouncer.opener.tasks, return_exceptions=True)

    yield run
    for place in places:
        assert not place.log.having("ERROR"), place.log.lines
        place.close()


# ---- what comes free


@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_the_neighbour_who_waits_has_it_without_a_janitor(play: Callable[..., None], limit: str) -> None:
    async def scene(place: Place) -> None:
        holder, waits = place.come("bob"), place.come("anna")
        if limit == "max_user_connections":
            waits.pool.user.pools.remove(waits.pool)
            waits.pool.user = holder.pool.user
            holder.pool.user.pools.append(waits.pool)
        for _ in range(3):
            holder.say(BEGIN)
            await until(lambda: holder.linked)
            waits.say(ASK)
            await until(lambda: waits.waits)
            holder.say(COMMIT)
            await until(lambda: not waits.waits)
        assert len(place.log.having(f"closing because: evicted for {limit}")) >= 5

    play(scene, **{limit: "1"})


def waits(client: Any) -> bool:
    return bool(client.waits)


def handed_on(last: Any, others: Iterable[Any]) -> bool:
    return not last.linked and any(each.linked for each in others)


def test_the_longest_waiting_is_the_first_served_in_whichever_pool(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        holder, *others = [place.come(name) for name in ("bob", "zoe", "anna", "bob", "zoe")]
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        for other in others:
            other.say(BEGIN)
            await until(partial(waits, other))
        last = holder
        for other in others:
            last.say(COMMIT)
            await until(partial(handed_on, last, others))
            assert [each for each in others if each.linked] == [other]
            last = other

    play(scene, max_db_connections="1")


def test_a_replication_client_takes_room_that_is_made_in_its_own_pool(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        holder, answers = place.come("bob"), []
        pool, opener = holder.pool, place.bouncer.opener
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        waiter = Waiter(place.loop.time(), place.loop.create_future(), arrival(place), own=True)
        waiter.claim = lambda: answers.append(opener.room(pool, own=True))
        pool.newcomers[1] = waiter
        opener.consider(pool)
        assert answers == [Verdict.FULL]
        holder.say(COMMIT)
        await until(lambda: len(answers) > 1)
        assert answers[1] is Verdict.OPEN
        await until(lambda: place.log.having("closing because: evicted for pool_size"))
        del pool.newcomers[1]

    play(scene, default_pool_size="1")


def test_room_that_a_failed_login_leaves_is_a_neighbours(play: Callable[..., None], understudy: Understudy) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        first, second = place.come("bob"), place.come("anna")
        first.say(ASK)
        await until(lambda: understudy.kept)
        second.say(BEGIN)
        await until(lambda: second.waits)
        understudy.login = IN
        understudy.leave()
        await until(lambda: second.linked)
        assert first.waits
        second.say(COMMIT)
        await until(lambda: not first.waits)

    play(scene, max_db_connections="1", server_login_retry="0.2")


def test_a_fault_while_a_neighbour_is_asked_leaves_nobody_waiting(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(place: Place) -> None:
        holder, waits, own = place.come("bob"), place.come("anna"), place.come("bob")
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        waits.say(ASK)
        await until(lambda: waits.waits)
        own.say(ASK)
        await until(lambda: own.waits)
        monkeypatch.setattr(place.bouncer.opener, "consider", fails)
        server = holder.conn.linked
        holder.say(COMMIT)
        await until(lambda: not own.waits)
        assert place.log.having("ERROR", "server_ready", Bug.__name__)
        assert server is not None
        place.log.lines.clear()
        monkeypatch.undo()

    play(scene, max_db_connections="1")


def spare(place: Place) -> Server:
    return place.server(dialled())


def test_of_spare_servers_the_longest_free_goes_and_one_that_is_tested_last(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        pool, opener = place.pool(), place.bouncer.opener
        pool.engine.check_query = b"SELECT 7"
        tested, old = spare(place), spare(place)
        place.relay.stamp()
        while place.relay.stamp() <= old.request_us + 1000:
            pass
        new = spare(place)
        tested.check()
        gone: list[bool | list[bool]] = []
        for _ in range(3):
            gone.append(opener._evict([pool], Verdict.DATABASE_FULL))
            place.bouncer.events.handle()
            gone.append([server.is_lost for server in (old, new, tested)])
        assert gone == [True, [True, False, False], True, [True, True, False], True, [True, True, True]]
        assert not opener._evict([pool], Verdict.DATABASE_FULL)

    play(scene)


def test_a_server_that_is_tested_for_somebody_stays(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        pool, opener = place.pool(), place.bouncer.opener
        pool.engine.check_query, pool.engine.check_delay = b"SELECT 7", 0
        server, client = spare(place), place.come("bob")
        pool.engine.age_idle()
        client.say(ASK)
        await until(lambda: client.waits)
        assert server.state_name == "tested"
        assert not opener._evict([pool], Verdict.DATABASE_FULL)

    play(scene)


# ---- logins that end


def test_a_pause_ends_a_login_and_is_no_failure(play: Callable[..., None], understudy: Understudy) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        client = place.come("bob")
        client.say(ASK)
        await until(lambda: understudy.kept)
        pool, bouncer = client.pool, place.bouncer
        assert (pool.opening, pool.servers) == (1, 1)
        bouncer.control.begin_pause([pool.database])
        await bouncer.events.until(lambda: pool.servers == 0)
        assert place.log.having("closing because: pause mode")
        assert pool.failure is None
        assert pool.engine.failing is None
        assert not bouncer.opener.attempts
        understudy.login = IN
        bouncer.control.end_pause([pool.database])
        await until(lambda: not client.waits)

    play(scene, server_connect_timeout="60")


def test_a_login_that_was_to_begin_when_the_pause_came_does_not(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        client = place.come("bob")
        client.say(ASK)
        place.relay.select(0)
        place.bouncer.events.handle()
        pool = client.pool
        assert pool.opening == 1
        place.bouncer.control.begin_pause([pool.database])
        await place.bouncer.events.until(lambda: pool.servers == 0)
        assert understudy.came == 0

    play(scene)


def test_a_login_is_begun_anew_when_the_servers_are_others(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        client = place.come("bob")
        client.say(ASK)
        await until(lambda: understudy.kept)
        understudy.login = IN
        condemn(place.bouncer.running, place.bouncer.opener, "app")
        await until(lambda: not client.waits)
        assert place.log.having("closing because: connect string changed")

    play(scene, server_connect_timeout="60", server_login_retry="60")


def test_that_the_last_login_failed_is_forgotten_when_the_servers_are_others(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        understudy.login = refusal("57P03", "the database system is starting up")
        client = place.come("bob")
        client.say(ASK)
        await until(lambda: client.pool.failure)
        understudy.login = IN
        condemn(place.bouncer.running, place.bouncer.opener, "app")
        assert client.pool.failure is None
        assert client.pool.engine.failing is None
        place.bouncer.opener.consider(client.pool)
        await until(lambda: not client.waits)

    play(scene, server_login_retry="60")


def test_a_pause_closes_what_is_nobodys_and_waits_for_nothing_else(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        pool, bouncer = place.pool(), place.bouncer
        pool.engine.check_query, pool.engine.check_delay = b"SELECT 7", 0
        tested, used, holder = spare(place), spare(place), place.come("bob")
        pool.engine.age_idle()
        tested.check()
        idle = spare(place)
        states = [server.state_name for server in (tested, used, idle)]
        assert states == ["tested", "used", "idle"]
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        bouncer.control.begin_pause([pool.database])
        assert (tested.is_lost, used.is_lost, idle.is_lost) == (True, True, False)
        assert pool.servers == 1

    play(scene)


def test_a_database_that_is_removed_takes_its_logins_along(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        client = place.come("bob")
        client.say(ASK)
        await until(lambda: understudy.kept)
        bouncer = place.bouncer
        place.log.configure = lambda settings: None  # type: ignore[attr-defined]
        bouncer.reconfiguration.adopt(compose(place.settings, []))
        bouncer.events.handle()
        assert client.conn.is_lost
        await until(lambda: not understudy.kept)
        bouncer.janitor.sweep(bouncer.running.now())
        assert not bouncer.running.registry.databases

    play(scene, server_connect_timeout="60")


def test_nothing_opens_for_a_database_that_is_removed(play: Callable[..., None], understudy: Understudy) -> None:
    """Not for its minimum, not at the time for another attempt, not for who wants a server alone."""

    async def scene(place: Place) -> None:
        pool, opener = place.pool(), place.bouncer.opener
        pool.database.config = replace(pool.database.config, user="bob", min_pool_size=2)
        claims: list[object] = []
        waits = waiting(place, pool)
        waits.claim = lambda: claims.append(waits)
        pool.database.removed = True
        place.bouncer.janitor.keep_minimum(pool, place.bouncer.running.now())
        opener._again(pool)
        assert (pool.opening, claims) == (0, [])
        pool.database.removed = False
        place.bouncer.janitor.keep_minimum(pool, place.bouncer.running.now())
        assert (pool.opening, claims) == (1, [waits])
        pool.database.removed = True
        await asyncio.gather(*opener.tasks)
        assert (pool.opening, understudy.came) == (0, 0)
        pool.newcomers.clear()

    play(scene)


# ---- what goes wrong on our side


def waiting(place: Place, pool: PoolState) -> Waiter:
    """Somebody who waits to be welcomed."""
    facts = arrival(place)
    made = pool.newcomers[facts.number] = Waiter(place.bouncer.running.now(), place.loop.create_future(), facts)
    return made


def test_who_waits_to_be_welcomed_waits_for_a_server_that_is_there(
    play: Callable[..., None], understudy: Understudy
) -> None:
    """The first one is logged in, and the relay does not take it."""

    async def scene(place: Place) -> None:
        pool = place.pool()
        pool.greet_with(None)
        place.relay.refused = ("server",)
        waits = waiting(place, pool)
        place.bouncer.opener.consider(pool)
        await until(lambda: place.log.having("ERROR", "No space left on device"))
        assert pool.welcome is None
        assert not waits.ready.done()
        place.relay.refused = ()
        await waits.ready
        assert understudy.came == 2
        assert pool.welcome is not None
        assert (pool.failure, pool.engine.failing) == (None, None)
        pool.newcomers.clear()
        place.log.lines.clear()

    play(scene, server_login_retry="0.05")


@pytest.mark.parametrize("step", ["target", "_opened"])
def test_what_fails_on_our_side_is_tried_again_no_sooner_than_what_fails_on_theirs(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def scene(place: Place) -> None:
        opener, client = place.bouncer.opener, place.come("bob")
        monkeypatch.setattr(opener, step, fails)
        client.say(ASK)
        await until(lambda: place.log.having("ERROR", "cannot open a server: Bug"))
        await asyncio.gather(*opener.tasks)
        for _ in range(3):
            opener.consider(client.pool)
            opener.room_made(client.pool)
        assert opener.room(client.pool) is Verdict.LATER
        assert client.pool.opening == 0
        assert len(place.log.having("ERROR")) == 1
        assert client.pool.failure is not None
        assert "bouncer resources exhaustion" in client.pool.failure.message
        monkeypatch.undo()
        place.ahead = 61
        opener.consider(client.pool)
        await until(lambda: client.linked or not client.waits)
        assert client.pool.failure is None
        place.log.lines.clear()

    play(scene, server_login_retry="60")


# ---- what is told to those who wait


def test_a_refusal_is_told_only_where_no_server_is_left(play: Callable[..., None], understudy: Understudy) -> None:
    async def scene(place: Place) -> None:
        holder, waits = place.come("bob"), place.come("bob")
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        understudy.login = refusal("53300", "sorry, too many clients already")
        waits.say(ASK)
        came = understudy.came
        await until(lambda: understudy.came >= came + 3)
        assert waits.waits
        assert len(place.log.having("login failed: FATAL sorry, too many clients already")) == 1
        assert len(place.log.having("app/bob has 1 servers and gets no more: clients wait as in a full pool")) == 1
        assert place.bouncer.running.tallies[Kind.ERROR, "app", Reason.SERVER_CROWDED] >= 2
        assert place.bouncer.running.tallies[Kind.ERROR, "app", Reason.SERVER_LOGIN] == 0
        server = holder.conn.linked
        assert server is not None
        server.close_needed = True
        await until(lambda: waits.conn.is_lost)
        await until(lambda: b"C53300\0Msorry, too many clients already\0" in waits.heard())
        assert place.bouncer.running.tallies[Kind.DISCONNECT, "app", Reason.SERVER_FAILED] == 1
        assert holder.linked

    play(scene)


def test_a_pool_that_gets_no_more_has_not_failed(play: Callable[..., None], understudy: Understudy) -> None:
    """When a server of its own has ended another is opened at once, and nobody hears of a failure that was none."""

    async def scene(place: Place) -> None:
        holder, waits = place.come("bob"), place.come("bob")
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        understudy.login = refusal("53300", 'too many connections for role "bob"')
        waits.say(BEGIN)
        await until(lambda: place.log.having("gets no more"))
        assert waits.pool.engine.failing is None
        understudy.login = IN
        server = holder.conn.linked
        assert server is not None
        place.bouncer.running.drop(server, Reason.FORCED)
        await until(lambda: waits.linked)
        assert not waits.pool.crowded
        understudy.login = refusal("53300", 'too many connections for role "bob"')
        late = place.come("bob")
        late.say(ASK)
        await until(lambda: len(place.log.having("gets no more")) == 2)
        assert late.waits

    play(scene, server_login_retry="60")


# ---- what is known of servers


def test_a_fact_is_told_to_who_comes_in(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        pool, server = place.pool(), spare(place)

        def say(name: bytes, value: bytes) -> None:
            place.relay.events.append(ServerFact(server, name, value))
            place.bouncer.events.handle()

        before = pool.welcome
        assert before is not None
        say(b"in_hot_standby", b"on")
        assert pool.welcome is not None
        assert pool.welcome.reported == {**REPORTED, "in_hot_standby": "on"}
        assert pool.engine.told == {**before.facts, b"in_hot_standby": b"on"}
        assert pool.welcome.of_standby
        server.close_needed = True
        say(b"in_hot_standby", b"off")
        assert pool.welcome.of_standby

    play(scene)


def test_what_is_known_goes_with_the_last_server_it_is_true_of(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        pool, bouncer = place.pool(), place.bouncer
        outdate(bouncer.running, pool, [spare(place)])
        assert pool.welcome is None
        assert pool.engine.told is None
        pool = place.pool()
        one, _ = spare(place), spare(place)
        outdate(bouncer.running, pool, [one])
        assert pool.welcome is not None
        assert pool.engine.told is not None

    play(scene)


def test_a_name_that_has_moved_takes_what_is_known_along(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        pool = place.pool()
        where = [Address(socket.AF_INET, (f"127.0.0.{last}", 5432)) for last in (1, 2)]
        one, other = [
            place.server(ServerFacts(PEER, "app", "bob", host="db", address=address)) for address in where
        ]
        addresses_gone(place.bouncer.running, place.bouncer.opener, "db", frozenset({"127.0.0.1"}))
        assert (one.is_lost, other.is_lost, pool.welcome is None) == (True, False, False)
        addresses_gone(place.bouncer.running, place.bouncer.opener, "db", frozenset({"127.0.0.2"}))
        assert (other.is_lost, pool.welcome) == (True, None)
        place.bouncer.events.handle()

    play(scene)


# ---- the janitor


def test_who_asks_at_the_end_is_told_in_the_next_round(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        holder, late = place.come("bob"), place.come("bob")
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        place.bouncer.control.shut_after_servers()
        late.say(ASK)
        await until(lambda: late.waits)
        place.bouncer.janitor.sweep(place.bouncer.running.now())
        place.bouncer.events.handle()
        assert late.conn.is_lost
        await until(lambda: b"Mserver shutting down\0" in late.heard())
        assert holder.linked

    play(scene)


def test_a_server_that_is_ready_in_a_pool_that_waits_for_nothing_is_left_alone(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        server = spare(place)
        place.relay.events.append(ServerReady(server))
        place.bouncer.events.handle()
        assert server.state_name == "idle"

    play(scene)


# ---- by the clock


def begun(place: Place) -> int:
    """How many logins have begun since this was asked last."""
    count = len(place.bouncer.opener.tasks)
    for task in list(place.bouncer.opener.tasks):
        task.cancel()
    for pool in place.bouncer.running.registry.pools():
        pool.opening = 0
    place.bouncer.opener.tasks.clear()
    return count


def test_after_a_failure_nothing_is_tried_until_its_time_is_over(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        opener, pool = place.bouncer.opener, place.pool()
        opener.consider(pool, needed=True)
        assert begun(place) == 1
        pool.failure = LoginError("it was not there")
        for ahead, tries in ((14.0, 0), (15.5, 1), (16.0, 0)):
            place.ahead = ahead
            opener.consider(pool, needed=True)
            assert begun(place) == tries, ahead

    play(scene, server_login_retry="15")


def test_the_reserve_is_opened_when_somebody_has_waited_long_enough(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        opener, pool = place.bouncer.opener, place.pool()
        holder = place.come("bob")
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        begun(place)
        waiter = Waiter(place.bouncer.running.now(), place.loop.create_future(), arrival(place))
        pool.newcomers[1] = waiter
        pool.greet_with(None)
        pool.greet_with(Welcome(REPORTED, place.relay.tracked_names))
        for ahead, verdict in ((4.0, Verdict.FULL), (5.5, Verdict.RESERVE)):
            place.ahead = ahead
            assert opener.room(pool) is verdict
        del pool.newcomers[1]

    play(scene, default_pool_size="1", reserve_pool_size="1", reserve_pool_timeout="5")


def test_who_has_waited_longest_is_asked_first_in_whichever_pool(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(place: Place) -> None:
        opener, now, asked = place.bouncer.opener, place.bouncer.running.now(), []
        for user, waits in (("bob", 1.0), ("anna", 3.0), ("zoe", 2.0)):
            place.pool(user).newcomers[1] = Waiter(now - waits, place.loop.create_future(), arrival(place))
        monkeypatch.setattr(opener, "consider", lambda pool: asked.append(pool.user.name))
        opener.room_made(place.pool("bob"))
        assert asked == ["anna", "zoe", "bob"]
        for user in ("bob", "anna", "zoe"):
            place.pool(user).newcomers.clear()

    play(scene)
