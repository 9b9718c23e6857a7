"""A server of a client's own: when it takes room, what becomes of that when it does not come to it, and what it is
asked for. Servers are logged in to at a PostgreSQL by script.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pooler.clients.login import Admitted
from pooler.clients.replication import OwnServer, own_server, replication_target, unless
from pooler.config.kinds import LoadBalanceHosts
from pooler.net.channel import Channel, ConnectionClosed
from pooler.pools.connection import Replication
from pooler.pools.reasons import Kind
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState, Waiter
from tests.fixtures.understudy import HANG, IN, Understudy, refusal
from tests.unit.pooler.house.test_bouncer import arrival, dialled
from tests.unit.pooler.servers.test_opener import Place, until


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
        place.run(scene(place))

    yield run
    for place in places:
        place.close()


def admitted(replication: Replication = Replication.PHYSICAL, **more: Any) -> Admitted:
    return Admitted(None, "bob", replication=replication, **more)


class Asker:
    """A client that wants a server of its own."""

    def __init__(self, place: Place) -> None:
        ours, self.far = socket.socketpair()
        self.place, self.pool = place, place.pool()
        self.channel = Channel(ours, place.loop)
        self.waiter = Waiter(place.bouncer.running.now(), place.loop.create_future(), arrival(place), own=True)
        self.asking: asyncio.Future[OwnServer] = asyncio.ensure_future(
            own_server(place.bouncer.opener, self.channel, self.pool, self.waiter, admitted())
        )

    async def ends(self) -> BaseException | None:
        await asyncio.wait([self.asking])
        self.channel.abort()
        self.far.close()
        return self.asking.exception()


def settled(pool: PoolState) -> bool:
    return (pool.opening, pool.newcomers) == (0, {})


def test_a_server_of_its_own_counts_from_when_there_was_room(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        asker = Asker(place)
        own = await asker.asking
        assert asker.pool.opening == 1
        assert own.reported["server_version"]
        own.forget()
        assert settled(asker.pool)
        await asker.ends()

    play(scene)


def test_it_waits_until_there_is_room_and_takes_that_first(play: Callable[..., None]) -> None:
    async def scene(place: Place) -> None:
        holder = place.come("bob")
        holder.say(b"Q\0\0\0\x0aBEGIN\0")
        await until(lambda: holder.linked)
        asker = Asker(place)
        await asyncio.sleep(0)
        assert (asker.pool.opening, asker.asking.done()) == (0, False)
        holder.say(b"Q\0\0\0\x0bCOMMIT\0")
        (await asker.asking).forget()
        assert place.log.having("closing because: evicted for pool_size")
        await asker.ends()

    play(scene, default_pool_size="1")


@pytest.mark.parametrize("welcome", [True, False])
def test_the_pools_size_holds_for_them_whatever_is_known_of_its_servers(
    play: Callable[..., None], welcome: bool
) -> None:
    """PgBouncer 1.26.1, run: of four with pool_size 2, two get a server, whether the pool has had one before or not."""

    async def scene(place: Place) -> None:
        pool = place.pool()
        if not welcome:
            pool.greet_with(None)
        askers = [Asker(place) for _ in range(3)]
        if not welcome:
            # The place has made it known again.
            pool.greet_with(None)
        await until(lambda: sum(asker.asking.done() for asker in askers) == 2)
        await asyncio.sleep(0)
        assert (pool.opening, askers[2].asking.done()) == (2, False)
        for asker in askers[:2]:
            (await asker.asking).forget()
        (await askers[2].asking).forget()
        for asker in askers:
            await asker.ends()

    play(scene, default_pool_size="2")


def test_who_leaves_meanwhile_takes_its_room_along(play: Callable[..., None], understudy: Understudy) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        asker = Asker(place)
        await until(lambda: understudy.kept)
        assert asker.pool.opening == 1
        asker.far.close()
        assert isinstance(await asker.ends(), ConnectionClosed)
        assert settled(asker.pool)
        assert place.log.having("closing because: replication client was closed")

    play(scene)


def test_what_the_server_says_against_it_is_what_the_client_hears(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        understudy.login = refusal("53300", "too many walsenders")
        asker = Asker(place)
        error = await asker.ends()
        assert isinstance(error, LoginError)
        assert (error.message, error.sqlstate, error.detail) == ("login failed", "53300", "too many walsenders")
        assert settled(asker.pool)

    play(scene)


def test_a_login_that_was_ended_is_begun_again(play: Callable[..., None], understudy: Understudy) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        asker = Asker(place)
        await until(lambda: understudy.kept)
        control = place.bouncer.control
        control.begin_pause([asker.pool.database])
        await until(lambda: asker.pool.opening == 0)
        assert not asker.asking.done()
        understudy.login = IN
        control.end_pause([asker.pool.database])
        (await asker.asking).forget()
        await asker.ends()

    play(scene)


def test_who_waits_for_room_is_given_a_server_where_they_are_by_then(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        place.log.configure = lambda settings: None  # type: ignore[attr-defined]
        entry = place.pool().database
        place.bouncer.control.begin_pause([entry])
        asker = Asker(place)
        await asyncio.sleep(0)
        assert asker.pool.opening == 0
        with Understudy() as elsewhere:
            place.bouncer.reconfiguration.adopt(place.config(elsewhere.port))
            place.bouncer.control.end_pause([entry])
            (await asker.asking).forget()
            assert (understudy.came, elsewhere.came) == (0, 1)
        await asker.ends()

    play(scene)


@pytest.mark.parametrize("how", ["leaves", "gives up", "is refused"])
def test_only_a_server_that_fails_leads_to_the_next_host(
    play: Callable[..., None], understudy: Understudy, how: str
) -> None:
    async def scene(place: Place) -> None:
        pool = place.pool()
        pool.database.config = replace(pool.database.config, load_balance_hosts=LoadBalanceHosts.disable)
        understudy.login = HANG if how != "is refused" else refusal("53300", "too many walsenders")
        asker = Asker(place)
        if how != "is refused":
            await until(lambda: understudy.kept)
        if how == "leaves":
            asker.far.close()
        elif how == "gives up":
            asker.waiter.give_up(LoginError("query_wait_timeout"))
        await asker.ends()
        assert pool.next_host == (how == "is refused")
        errors = {kind for kind, _, _ in place.bouncer.running.tallies if kind is Kind.ERROR}
        assert bool(errors) is (how == "is refused")

    play(scene)


def test_two_who_fail_at_the_same_host_lead_to_the_next_one_not_past_it(
    play: Callable[..., None], understudy: Understudy
) -> None:
    async def scene(place: Place) -> None:
        pool = place.pool()
        pool.database.config = replace(pool.database.config, load_balance_hosts=LoadBalanceHosts.disable)
        understudy.login = HANG
        askers = [Asker(place), Asker(place)]
        await until(lambda: len(understudy.kept) == 2)
        understudy.leave()
        for asker in askers:
            await asker.ends()
        assert pool.next_host == 1

    play(scene)


def test_who_is_told_to_give_up_does(play: Callable[..., None], understudy: Understudy) -> None:
    async def scene(place: Place) -> None:
        understudy.login = HANG
        asker = Asker(place)
        await until(lambda: understudy.kept)
        asker.waiter.give_up(LoginError("query_wait_timeout"))
        error = await asker.ends()
        assert isinstance(error, LoginError)
        assert error.message == "query_wait_timeout"
        assert settled(asker.pool)

    play(scene)


def test_what_comes_first_counts() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        never: asyncio.Future[None] = loop.create_future()

        async def work() -> int:
            return 3

        assert await unless(never, work()) == 3
        ended: asyncio.Future[None] = loop.create_future()
        ended.set_exception(LoginError("enough"))
        with pytest.raises(LoginError, match="enough"):
            await unless(ended, asyncio.Event().wait())

    asyncio.run(go())


@pytest.mark.parametrize("kind", [Replication.PHYSICAL, Replication.LOGICAL])
def test_it_asks_for_what_the_client_asks_for(play: Callable[..., None], kind: Replication) -> None:
    async def scene(place: Place) -> None:
        place.server(dialled())
        wants = admitted(kind, parameters={"application_name": "wal"}, startup_options="-c x=1")
        target = replication_target(place.bouncer.opener, place.pool(), wants)
        assert target.replication is kind
        assert target.parameters == {"application_name": "wal", "options": "-c x=1"}
        port = place.bouncer.config.databases["app"].port
        assert (target.host, target.port, target.user) == ("127.0.0.1", port, "bob")

    play(scene)
