"""What an operator can do, verb by verb: what is refused with which words, what holds afterwards, and when the answer
comes. No janitor works here, and the clock stands where the test has put it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pooler import wire
from pooler.house import control
from pooler.pools.connection import ClientFacts
from pooler.pools.refusal import LoginError
from pooler.pools.registry import Waiter
from pooler.pools.running import Phase
from pooler.relay import Client
from pooler.verbs import CommandError, Remark, Verb
from tests.unit.pooler.house.test_bouncer import PEER, House, arrival, dialled, ended


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def does(house: House, name: str, argument: str | None = None, value: str | None = None) -> Remark | None:
    """The verb carried out at once, to its end."""
    found: list[Remark | None] = []

    async def go() -> None:
        found.append(await house.bouncer.perform(Verb(name, argument, value)))

    house.run(go())
    return found[0]


def refusal(house: House, *verb: str) -> str:
    with pytest.raises(CommandError) as caught:
        does(house, *verb)
    return caught.value.message


def waiter(house: House) -> Waiter:
    """Somebody whose login is done but for the welcome."""
    facts = ClientFacts(PEER, "app", "bob", number=house.bouncer.running.next_number())
    made = Waiter(house.bouncer.running.now(), house.loop.create_future(), facts)
    house.pool().newcomers[facts.number] = made
    return made


def told(one: Waiter) -> str:
    error = one.ready.exception()
    assert isinstance(error, LoginError)
    return error.message


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (("DANCE",), "invalid command 'DANCE', use SHOW HELP;"),
        (("PAUSE", "nothere"), "no such database: nothere"),
        (("PAUSE", "pgbouncer"), "cannot pause admin db: pgbouncer"),
        (("KILL", "pgbouncer"), "cannot kill admin db: pgbouncer"),
        (("DISABLE", "pgbouncer"), "cannot disable admin db: pgbouncer"),
        (("DISABLE",), "a database is required"),
        (("RESUME",), "pooler is not paused"),
        (("RESUME", "app"), "database app is not paused"),
        (("RESUME", "nothere"), "no such database: nothere"),
        (("KILL_CLIENT", "-1"), "invalid client pointer supplied"),
        (("KILL_CLIENT", "12"), "client not found"),
        (("RELOAD",), "RELOAD failed, see logs for additional details"),
        (("SET", "listen_port", "1"), "SET failed"),
        (("WAIT_CLOSE", "nothere"), "no such database: nothere"),
        (("RECONNECT", "nothere"), "no such database: nothere"),
    ],
)
def test_what_is_refused_is_refused_in_words(house: House, verb: tuple[str, ...], words: str) -> None:
    assert refusal(house, *verb) == words


@pytest.mark.parametrize("first", ["PAUSE", "SUSPEND"])
@pytest.mark.parametrize("second", control.HOLDING)
def test_while_everything_stands_still_nothing_more_is_held(house: House, first: str, second: str) -> None:
    house.pool()
    does(house, first)
    assert refusal(house, second, "app") == f"already {'paused' if first == 'PAUSE' else 'suspended'}"
    does(house, "RESUME")
    assert not house.bouncer.control.halted()
    assert not house.pool().engine.paused


def test_who_has_got_what_it_waited_for_and_is_not_handed_over_yet_can_still_be_turned_away(house: House) -> None:
    one = waiter(house)
    one.ready.set_result(None)
    one.check()
    one.give_up(LoginError("database removed"))
    one.give_up(LoginError("too late"))
    with pytest.raises(LoginError, match="database removed"):
        one.check()


def test_a_pause_is_answered_when_the_last_server_is_gone(house: House) -> None:
    server, client = house.server(dialled()), house.client(arrival(house))
    house.far[1].sendall(wire.query("BEGIN"))
    house.relay.select(0)
    assert client.linked is server

    async def go() -> None:
        pausing = asyncio.ensure_future(house.bouncer.perform(Verb("PAUSE", "app")))
        await asyncio.sleep(0)
        assert house.pool().engine.paused
        assert not pausing.done()
        house.relay.drop(server, "test")
        await pausing

    house.run(go())
    assert house.pool().servers == 0


def test_a_pause_that_is_resumed_is_answered_as_well(house: House) -> None:
    house.server(dialled())
    house.client(arrival(house))
    house.far[1].sendall(wire.query("BEGIN"))
    house.relay.select(0)

    async def go() -> None:
        for name in ("app", None):
            pausing = asyncio.ensure_future(house.bouncer.perform(Verb("PAUSE", name)))
            await asyncio.sleep(0)
            await house.bouncer.perform(Verb("RESUME", name))
            await pausing

    house.run(go())


def test_what_was_paused_by_its_name_is_resumed_by_its_name(house: House) -> None:
    house.pool()
    does(house, "PAUSE", "app")
    does(house, "PAUSE")
    does(house, "RESUME")
    assert house.pool().engine.paused
    does(house, "RESUME", "app")
    assert not house.pool().engine.paused


def test_nothing_is_suspended_while_a_database_is_paused(house: House) -> None:
    house.pool()
    does(house, "PAUSE", "app")
    assert refusal(house, "SUSPEND") == "cannot suspend with paused databases"


def slow_client(house: House) -> Client:
    """One that takes nothing, with more to take than goes at once."""
    registry = house.bouncer.running.registry
    registry.config = replace(registry.config, settings=replace(registry.config.settings, suspend_timeout=0.05))
    client = house.client(arrival(house))
    client.send(bytes(16 << 20))
    house.relay.select(0)
    assert house.bouncer.control.unsent() == [client]
    return client


def test_who_does_not_take_everything_in_time_is_dropped_by_a_suspend(house: House) -> None:
    client = slow_client(house)
    does(house, "SUSPEND")
    assert client.is_lost


@pytest.mark.parametrize("how", ["RESUME", "SIGUSR2"])
@pytest.mark.parametrize("again", [False, True])
def test_a_suspend_that_is_over_drops_nobody(house: House, how: str, again: bool) -> None:
    client, service = slow_client(house), house.service()
    running = house.bouncer.running

    async def go() -> None:
        suspending = asyncio.ensure_future(house.bouncer.perform(Verb("SUSPEND")))
        await asyncio.sleep(0)
        assert running.relay.suspended
        if how == "RESUME":
            await house.bouncer.perform(Verb("RESUME"))
        else:
            service._resume()
        second = asyncio.ensure_future(house.bouncer.perform(Verb("SUSPEND"))) if again else None
        await suspending
        assert not client.is_lost
        if second is not None:
            await second
            assert client.is_lost

    house.run(go())
    assert running.relay.suspended is again


def test_the_last_console_takes_a_suspend_along(house: House) -> None:
    running = house.bouncer.running
    does(house, "SUSPEND")
    running.consoles[1] = object()  # type: ignore[assignment]
    house.bouncer.control.console_gone()
    assert running.relay.suspended
    del running.consoles[1]
    house.bouncer.control.console_gone()
    assert not running.relay.suspended
    assert house.log.having("admin disappeared when suspended, doing RESUME")


def test_who_has_not_been_welcomed_is_not_let_in_where_it_is_disabled(house: House) -> None:
    waits = waiter(house)
    does(house, "DISABLE", "app")
    assert told(waits) == 'database "app" is disabled'
    assert house.pool().database.disabled
    does(house, "ENABLE", "app")
    assert not house.pool().database.disabled
    house.pool().newcomers.clear()


def test_a_kill_ends_everybody_and_has_to_be_resumed_by_name(house: House) -> None:
    house.client(arrival(house))
    house.server(dialled())
    waits = waiter(house)
    does(house, "KILL")
    house.bouncer.events.handle()
    assert told(waits) == "database removed"
    house.pool().newcomers.clear()
    assert b"database removed" in ended(house.far[0])
    assert ended(house.far[1]) == wire.terminate()
    assert house.pool().database.paused
    assert not house.bouncer.running.registry.paused
    assert refusal(house, "RESUME") == "pooler is not paused"
    does(house, "RESUME", "app")
    assert not house.pool().engine.paused


def test_one_client_is_killed_by_its_number_wherever_it_is(house: House) -> None:
    client, waits = house.client(arrival(house)), waiter(house)
    does(house, "KILL_CLIENT", str(client.id))
    house.bouncer.events.handle()
    assert b"admin forced disconnect" in ended(house.far[0])
    does(house, "KILL_CLIENT", str(waits.arrival.number))
    assert told(waits) == "admin forced disconnect"
    house.pool().newcomers.clear()


def test_wait_close_is_answered_when_the_condemned_are_gone(house: House) -> None:
    server = house.server(dialled())
    house.client(arrival(house))
    house.far[1].sendall(wire.query("BEGIN"))
    house.relay.select(0)

    async def go() -> None:
        await house.bouncer.perform(Verb("RECONNECT", "app"))
        assert server.close_needed
        waiting = asyncio.ensure_future(house.bouncer.perform(Verb("WAIT_CLOSE", "app")))
        await asyncio.sleep(0)
        assert not waiting.done()
        house.relay.drop(server, "test")
        await waiting

    house.run(go())


# ---- the end


@pytest.mark.parametrize(
    ("mode", "phase"),
    [("WAIT_FOR_SERVERS", Phase.WAIT_FOR_SERVERS), ("wait_for_clients", Phase.WAIT_FOR_CLIENTS)],
)
def test_an_orderly_end_begins_and_who_waits_is_told(house: House, mode: str, phase: Phase) -> None:
    heard: list[Phase] = []
    house.bouncer.running.on_phase.append(heard.append)
    waits = waiter(house)
    does(house, "SHUTDOWN", mode)
    assert heard == [house.bouncer.running.phase] == [phase]
    servers = phase is Phase.WAIT_FOR_SERVERS
    assert told(waits) == ("server shutting down" if servers else "pooler is shutting down")
    assert house.bouncer.running.registry.paused is servers
    house.pool().newcomers.clear()


def test_who_waits_for_clients_instead_lets_the_servers_go_on(house: House) -> None:
    house.pool()
    does(house, "SHUTDOWN", "WAIT_FOR_SERVERS")
    assert house.pool().engine.paused
    assert refusal(house, "RESUME") == "pooler is shutting down"
    does(house, "SHUTDOWN", "WAIT_FOR_CLIENTS")
    assert not house.pool().engine.paused


@pytest.mark.parametrize("then", ["", "SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"])
def test_clients_come_in_until_balancers_know(then: str) -> None:
    """Meanwhile clients come in as ever; another word for the end is taken at once."""
    house = House()
    running, heard = house.bouncer.running, list[Phase]()
    own = replace(running.config.own, drain_delay=0.05)
    running.registry.config = replace(running.config, own=own)
    running.on_phase.append(heard.append)
    waits = waiter(house)

    async def go() -> None:
        await house.bouncer.perform(Verb("SHUTDOWN", "WAIT_FOR_CLIENTS"))
        assert (running.leaving, running.shutting, heard) == (True, False, [])
        assert not house.bouncer.snapshot().active
        assert not waits.ready.done()
        if then:
            await house.bouncer.perform(Verb(*then.split()))
        async with asyncio.timeout(10):
            while not heard:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.06)

    house.run(go())
    assert heard == [Phase.WAIT_FOR_SERVERS if then.endswith("SERVERS") else Phase.WAIT_FOR_CLIENTS]
    assert told(waits)
    assert house.log.having("not ready any more; nobody new is let in after 0.05 s")
    house.pool().newcomers.clear()
    house.close()


def test_an_end_at_once_is_no_answer(house: House) -> None:
    async def go() -> None:
        asked: Coroutine[Any, Any, Any] = house.bouncer.perform(Verb("SHUTDOWN"))
        asking = asyncio.ensure_future(asked)
        await asyncio.sleep(0)
        assert house.bouncer.running.ending
        assert not asking.done()
        asking.cancel()
        await asyncio.wait([asking])

    house.run(go())


# ---- settings


def test_a_setting_is_in_force_and_a_bad_one_changes_nothing(house: House) -> None:
    house.log.configure = lambda settings: None  # type: ignore[attr-defined]
    assert does(house, "SET", "default_pool_size", "7") is None
    assert house.bouncer.config.settings.default_pool_size == 7
    with pytest.raises(CommandError) as caught:
        does(house, "SET", "default_pool_size", "many")
    assert caught.value.message == "SET failed"
    assert "default_pool_size" in caught.value.detail
    assert house.bouncer.config.settings.default_pool_size == 7
