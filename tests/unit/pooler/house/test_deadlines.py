"""That the janitor, which looks only when something has happened or is due, is not late: every time limit, on a bouncer
in which nothing happens until the limit is over, with the servers of an understudy. And how often it looks meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.databases import DatabaseConfig
from pooler.config.whole import Config, compose
from pooler.house.janitor import LONGEST, PERIOD, Janitor
from pooler.net.dns import Name
from pooler.pools.registry import Waiter
from pooler.servers.condemned import outdate
from tests.fixtures.understudy import Understudy
from tests.unit.pooler.house.test_bouncer import arrival
from tests.unit.pooler.servers.test_opener import ASK, BEGIN, COMMIT, Comer, Place, until

LIMIT = 0.6
MOST = LONGEST / 6
"""Seconds that a busy machine may be late by: a limit that nobody knew of would be found out after LONGEST."""


class Quiet(Place):
    """With a `*`, where what is made by it can be forgotten."""

    def config(self, port: int) -> Config:
        made = [DatabaseConfig(name, hosts=("127.0.0.1",), port=port) for name in ("app", "*")]
        usual = {"auth_type": "trust", "pool_mode": "transaction", "server_check_query": "", "server_lifetime": "3600"}
        return compose({**usual, "server_idle_timeout": "0", **self.settings}, made)


@dataclass
class Watch:
    """How often the janitor has looked: rounds, and pools in them."""

    rounds: list[float] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made, one_round, look = Watch(), Janitor._round, Janitor.look

    def watched_round(self: Janitor, now: float) -> Iterator[None]:
        made.rounds.append(now)
        return one_round(self, now)

    def watched_look(self: Janitor, pool: Any, now: float) -> None:
        made.pools.append(pool.name)
        look(self, pool, now)

    monkeypatch.setattr(Janitor, "_round", watched_round)
    monkeypatch.setattr(Janitor, "look", watched_look)
    return made


@pytest.fixture
def understudy() -> Iterator[Understudy]:
    with Understudy() as made:
        yield made


@pytest.fixture
def play(understudy: Understudy) -> Iterator[Callable[..., None]]:
    """play(scene, **settings): run scene(place), with its janitor at work."""
    places: list[Quiet] = []

    def run(scene: Callable[[Quiet], Coroutine[Any, Any, None]], **settings: str) -> None:
        place = Quiet(understudy, **settings)
        places.append(place)
        place.run(whole(place, scene))

    async def whole(place: Quiet, scene: Callable[[Quiet], Coroutine[Any, Any, None]]) -> None:
        async with at_work(place):
            await scene(place)
        for task in list(place.bouncer.opener.tasks):
            task.cancel()
        await asyncio.gather(*place.bouncer.opener.tasks, return_exceptions=True)

    yield run
    for place in places:
        assert not place.log.having("ERROR"), place.log.lines
        place.close()


@asynccontextmanager
async def at_work(place: Quiet) -> Any:
    work = place.loop.create_task(place.bouncer.janitor.sweep_forever())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def served(place: Quiet, *messages: bytes) -> Comer:
    """A client who has asked, and has been answered."""
    client = place.come("bob")
    client.say(*messages or (ASK,))
    await until(lambda: client.heard().endswith((b"I", b"T")))
    return client


# ---- the limits

Happening = Callable[[Quiet], Coroutine[Any, Any, Callable[[], object]]]
"""Brings about that a limit begins to count, and returns how it is seen that it is over."""


async def client_idle(place: Quiet) -> Callable[[], object]:
    client = await served(place)
    return lambda: client.conn.is_lost


async def server_idle(place: Quiet) -> Callable[[], object]:
    client = await served(place)
    pool = client.pool
    await until(lambda: not client.linked and pool.servers == 1)
    return lambda: pool.servers == 0


async def server_ages(place: Quiet) -> Callable[[], object]:
    client = await served(place)
    return lambda: client.pool.engine.used_servers.count


async def transaction_idle(place: Quiet) -> Callable[[], object]:
    client = await served(place, BEGIN)
    return lambda: client.conn.is_lost


async def query_runs(place: Quiet) -> Callable[[], object]:
    place.understudy.mute.add(1)
    client = place.come("bob")
    client.say(ASK)
    await until(lambda: client.linked)
    return lambda: client.conn.is_lost


async def pool_idle(place: Quiet) -> Callable[[], object]:
    pool = place.pool("anna")
    return lambda: not place.bouncer.running.registry.has(pool)


async def database_idle(place: Quiet) -> Callable[[], object]:
    place.entry("wild")
    return lambda: "wild" not in place.bouncer.running.registry.databases


async def login_slow(place: Quiet) -> Callable[[], object]:
    told: list[str] = []
    since = place.relay.stamp()
    visit: Any = SimpleNamespace(
        arrival=SimpleNamespace(number=1), since=since, cancels=False, end=lambda why: told.append(why.message)
    )
    place.bouncer.strangers.come(visit)
    place.loop.call_soon_threadsafe(lambda: None)  # whoever comes in comes by a socket
    return lambda: told and place.bouncer.strangers.silent.pop(1, True)


async def waits_long(place: Quiet) -> Callable[[], object]:
    pool = place.pool()
    waiter = Waiter(place.bouncer.running.now(), place.loop.create_future(), arrival(place))
    pool.expect(1, waiter)

    def over() -> bool:
        if waiter.ready.done() and pool.newcomers:
            assert waiter.ready.exception()
            pool.expect_no_more(1)
        return not pool.newcomers

    return over


async def name_old(place: Quiet) -> Callable[[], object]:
    client, looked_up = await served(place), []
    dns = place.bouncer.dns
    dns.look_up = lambda name: looked_up.append(name) or ()  # type: ignore[func-returns-value]
    client.pool.database.config = replace(client.pool.database.config, hosts=("work.test",))
    dns.names["work.test"] = Name(until=place.loop.time() + LIMIT)
    client.pool.stir()
    return lambda: looked_up


LIMITS: tuple[tuple[Happening, dict[str, str]], ...] = (
    (client_idle, {"client_idle_timeout": "0.6"}),
    (server_idle, {"server_idle_timeout": "0.6"}),
    (server_idle, {"server_lifetime": "0.6"}),
    (server_ages, {"server_check_delay": "0.6", "server_check_query": "select 1"}),
    (transaction_idle, {"idle_transaction_timeout": "0.6"}),
    (transaction_idle, {"transaction_timeout": "0.6"}),
    (query_runs, {"query_timeout": "0.6"}),
    (pool_idle, {"pool_idle_timeout": "0.6"}),
    (database_idle, {"autodb_idle_timeout": "0.6"}),
    (login_slow, {"client_login_timeout": "0.6"}),
    (waits_long, {"query_wait_timeout": "0.6"}),
    (name_old, {}),
)


@pytest.mark.slow
@pytest.mark.parametrize(("happening", "settings"), LIMITS, ids=[f"{h.__name__} {' '.join(s)}" for h, s in LIMITS])
def test_a_limit_is_kept_although_nothing_happens(
    play: Callable[..., None], watch: Watch, happening: Happening, settings: dict[str, str]
) -> None:
    async def scene(place: Quiet) -> None:
        began = place.loop.time()
        over = await happening(place)
        counts = place.loop.time()
        await until(over)
        ended = place.loop.time()
        assert ended - began >= LIMIT
        assert ended - counts < MOST
        # One when it began to count, one when it is over, those in which a waiter is looked after, and what they did.
        assert len(watch.rounds) <= 3 + (ended - began) / PERIOD

    play(scene, **settings)


# ---- none that is not needed


@pytest.mark.slow
def test_where_nothing_is_due_nothing_is_looked_at(play: Callable[..., None], watch: Watch) -> None:
    async def scene(place: Quiet) -> None:
        clients = [await served(place) for _ in range(5)]
        await asyncio.sleep(3 * PERIOD)
        before = len(watch.rounds)
        await asyncio.sleep(4 * PERIOD)
        assert len(watch.rounds) == before
        clients[0].say(ASK)
        await until(lambda: len(watch.rounds) > before)

    names = ("client_idle_timeout", "query_timeout", "idle_transaction_timeout", "autodb_idle_timeout")
    play(scene, **dict.fromkeys(names, "3600"))


@pytest.mark.slow
def test_a_pool_in_which_nothing_happens_is_left_alone_while_others_are_busy(
    play: Callable[..., None], watch: Watch
) -> None:
    async def scene(place: Quiet) -> None:
        calm = place.come("anna")
        calm.say(ASK)
        await until(lambda: calm.heard().endswith(b"I"))
        busy = await served(place)
        await asyncio.sleep(3 * PERIOD)
        watch.pools.clear()
        for _ in range(20):
            busy.say(ASK)
            await asyncio.sleep(0.05)
        assert set(watch.pools) == {"app/bob"}

    play(scene)


@pytest.mark.slow
def test_rounds_are_a_period_apart_however_much_happens(play: Callable[..., None], watch: Watch) -> None:
    async def scene(place: Quiet) -> None:
        client = await served(place)
        end = place.loop.time() + 4 * PERIOD
        while place.loop.time() < end:
            client.say(ASK)
            await asyncio.sleep(0.002)
            if client.heard():
                client.far.recv(4096)
        assert len(watch.rounds) >= 2
        gaps = [later - sooner for sooner, later in itertools.pairwise(watch.rounds)]
        assert min(gaps) >= PERIOD - 0.01

    play(scene)


# ---- what changes meanwhile


@pytest.mark.slow
def test_a_limit_that_becomes_shorter_is_kept(play: Callable[..., None]) -> None:
    async def scene(place: Quiet) -> None:
        place.log.configure = lambda settings: None  # type: ignore[attr-defined]
        client = await served(place)
        await asyncio.sleep(2 * PERIOD)
        place.settings = {"client_idle_timeout": "1"}
        place.bouncer.reconfiguration.adopt(place.config(place.understudy.port))
        began = place.loop.time()
        await until(lambda: client.conn.is_lost)
        assert place.loop.time() - began < MOST

    play(scene, client_idle_timeout="3600")


@pytest.mark.slow
def test_who_asks_again_begins_anew(play: Callable[..., None]) -> None:
    async def scene(place: Quiet) -> None:
        client = await served(place)
        for _ in range(4):
            await asyncio.sleep(0.5)
            client.say(ASK)
            await asyncio.sleep(0.01)
        assert not client.conn.is_lost
        await until(lambda: client.conn.is_lost)

    play(scene, client_idle_timeout="1")


@pytest.mark.parametrize("told", ["begin_pause", "reconnect", "shut_after_clients", "removed newcomer", "room_made"])
def test_what_is_told_by_an_operator_or_by_python_has_the_pool_looked_at(play: Callable[..., None], told: str) -> None:
    """A server that is in use may have to go soon (`end_idle_pins`), or the pool is unused from now on."""

    async def scene(place: Quiet) -> None:
        client = await served(place, BEGIN)
        pool, control = client.pool, place.bouncer.control
        waiter = Waiter(0.0, place.loop.create_future(), arrival(place))
        pool.expect(1, waiter)
        work: dict[str, Callable[[], object]] = {
            "begin_pause": lambda: control.begin_pause([pool.database]),
            "reconnect": lambda: outdate(place.bouncer.running, pool, pool.engine.servers()),
            "shut_after_clients": control.shut_after_clients,
            "removed newcomer": lambda: pool.expect_no_more(1),
            "room_made": lambda: place.bouncer.opener.room_made(pool),
        }
        place.relay.take_stirred()
        work[told]()
        assert pool.engine in place.relay.take_stirred()
        pool.newcomers.clear()
        waiter.ready.cancel()

    play(scene)


@pytest.mark.slow
def test_a_minimum_that_is_not_there_is_asked_for_in_every_round(play: Callable[..., None]) -> None:
    async def scene(place: Quiet) -> None:
        client = await served(place)
        pool = client.pool
        await until(lambda: pool.engine.server_count == 2)
        place.understudy.leave()
        await until(lambda: pool.servers == 0)
        await until(lambda: pool.engine.server_count == 2)

    play(scene, min_pool_size="2")


@pytest.mark.slow
def test_a_transaction_that_ends_is_not_taken_for_one_that_idles(play: Callable[..., None]) -> None:
    async def scene(place: Quiet) -> None:
        client = await served(place, BEGIN)
        await asyncio.sleep(0.3)
        client.say(COMMIT)
        await asyncio.sleep(1)
        assert not client.conn.is_lost

    play(scene, idle_transaction_timeout="0.6")
