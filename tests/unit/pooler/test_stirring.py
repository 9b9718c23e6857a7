"""Who sleeps while nothing happens, and what wakes: on the relay's own loop, since it is the relay that tells."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

from pooler.relay.engine import Pool, Relay
from pooler.stirring import Stirring
from tests.fixtures.waiting import DEADLINE


def run(scene: Callable[[Relay, Stirring], Awaitable[None]]) -> None:
    relay = Relay()
    stirring = Stirring(lambda: relay.happened, relay.rest)
    relay.on_stir(stirring.stir)

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await scene(relay, stirring)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(relay)) as runner:
        runner.run(bounded())


def test_timers_and_the_turns_of_tasks_wake_nobody() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        seen = stirring.happened()
        sleeper = asyncio.create_task(stirring.since(seen))
        for pause in (0, 0, 0.001, 0.01, 0.05):
            await asyncio.sleep(pause)
        assert not sleeper.done()
        assert stirring.happened() == seen
        sleeper.cancel()

    run(scene)


def test_what_comes_by_a_socket_wakes_all_who_sleep() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        one, two = socket.socketpair()
        with one, two:
            asyncio.get_running_loop().add_reader(one, one.recv, 10)
            sleepers = [asyncio.create_task(stirring.since(stirring.happened())) for _ in range(3)]
            await asyncio.sleep(0.01)
            assert not any(sleeper.done() for sleeper in sleepers)
            two.send(b"x")
            await asyncio.gather(*sleepers)
            asyncio.get_running_loop().remove_reader(one)

    run(scene)


def test_what_another_thread_asks_for_wakes() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, time.sleep, 0.05)
        await stirring.since(stirring.happened())
        await work

    run(scene)


def test_what_happens_in_a_pool_wakes_also_when_it_is_a_timer_that_does_it() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        pool = Pool(relay, "app", "bob")
        asyncio.get_running_loop().call_later(0.02, pool.stir)
        seen = stirring.happened()
        await stirring.since(seen)
        assert stirring.happened() > seen
        assert relay.take_stirred() == [pool]

    run(scene)


def test_who_has_not_seen_the_last_does_not_sleep() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        seen = stirring.happened()
        Pool(relay, "app", "bob").stir()
        await stirring.since(seen, 3600)

    run(scene)


def test_nobody_sleeps_for_longer_than_it_wants_to() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        began = time.monotonic()
        for _ in range(3):
            await stirring.since(stirring.happened(), 0.02)
        assert time.monotonic() - began >= 0.06

    run(scene)


def test_where_nobody_tells_nobody_sleeps() -> None:
    async def scene(relay: Relay, stirring: Stirring) -> None:
        blind = Stirring()
        for _ in range(3):
            await blind.since(blind.happened(), 3600)

    run(scene)
