"""Clients that log in on sockets of the relay's, when things happen at the same time: several in one batch of events,
events inside of other work, cancellations; their sockets by themselves are in test_newcomer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pooler.net.channel import Channel, ConnectionClosed
from pooler.relay import Newcomer, Relay, Wait
from pooler.relay.events import Fault
from tests.fixtures.waiting import DEADLINE
from tests.unit.pooler.relay.test_selector import run_in_loop


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def arrive(relay: Relay, listener: socket.socket) -> tuple[socket.socket, Newcomer]:
    """(the client's socket, what was accepted)."""
    client = socket.create_connection(listener.getsockname())
    newcomer = relay.accept(listener.fileno())
    assert newcomer is not None
    return client, newcomer


def look(relay: Relay) -> None:
    """A turn of the relay, long enough for what is on its way."""
    relay.select(0.05)


def test_it_is_told_of_bytes_until_it_wants_no_more(listener: socket.socket) -> None:
    with Relay() as relay:
        client, newcomer = arrive(relay, listener)
        calls: list[int] = []
        with client:
            newcomer.watch(lambda: calls.append(1))
            look(relay)
            assert calls == []
            client.send(b"x")
            look(relay)
            look(relay)
            assert calls == [1, 1]
            newcomer.unwatch()
            look(relay)
            newcomer.unwatch()
            assert calls == [1, 1]
            newcomer.watch(lambda: calls.append(2))
            look(relay)
            assert calls == [1, 1, 2]
            newcomer.unwatch()


def test_who_is_watched_stays_though_nobody_else_keeps_it(listener: socket.socket) -> None:
    """The kernel has its address: an event for it may be on its way."""
    with Relay() as relay:
        client, newcomer = arrive(relay, listener)
        calls: list[Newcomer] = []
        newcomer.watch(lambda: calls.append(1))  # type: ignore[arg-type]
        del newcomer
        gc.collect()
        with client:
            client.send(b"x")
            look(relay)
            assert calls


def test_one_may_end_another_in_the_middle_of_a_batch(listener: socket.socket) -> None:
    with Relay() as relay:
        there = [arrive(relay, listener) for _ in range(20)]
        newcomers: list[Any] = [newcomer for _, newcomer in there]
        calls: list[int] = []

        def end_all_others(own: int) -> None:
            calls.append(own)
            for i, other in enumerate(newcomers):
                if i != own and other is not None:
                    other.unwatch()
                    newcomers[i] = None
            gc.collect()

        for i, newcomer in enumerate(newcomers):
            newcomer.watch(lambda i=i: end_all_others(i))
        del newcomer
        clients = [client for client, _ in there]
        there.clear()
        for client in clients:
            client.send(b"x")
        look(relay)
        assert len(calls) == 1
        left = next(newcomer for newcomer in newcomers if newcomer is not None)
        left.unwatch()
        for client in clients:
            client.close()


def test_an_exception_in_the_callback_ends_the_watch_and_nothing_else(listener: socket.socket) -> None:
    with Relay() as relay:
        client, newcomer = arrive(relay, listener)

        def fail() -> None:
            raise RuntimeError("a bug")

        with client:
            newcomer.watch(fail)
            client.send(b"x")
            look(relay)
            look(relay)
        assert len(relay.events) == 1
        event = relay.events.pop()
        assert isinstance(event, Fault)
        assert (event.connection, str(event.error)) == (newcomer, "a bug")


# ---- tasks


async def accepted(relay: Relay, listener: socket.socket) -> tuple[socket.socket, Channel]:
    client, newcomer = arrive(relay, listener)
    client.setblocking(False)
    return client, Channel(newcomer, asyncio.get_running_loop())


def test_bytes_that_come_while_another_task_takes_breath_are_not_lost(listener: socket.socket) -> None:
    """Long work lets the relay forward what is ready; a task cannot go on inside of another one: it does so later."""

    async def main(relay: Relay) -> None:
        client, channel = await accepted(relay, listener)
        with client:
            reading = asyncio.create_task(channel.read_message())
            await asyncio.sleep(0)
            client.send(b"Q\0\0\0\x06x\0")
            for _ in range(10):
                relay.breathe()
            assert relay.events == []
            assert not reading.done()
            assert await reading == (b"Q", b"x\0")
        await channel.close()

    run_in_loop(main)


def test_who_came_in_behind_an_end_is_heard_next_though_others_end_without_an_end(listener: socket.socket) -> None:
    """Nobody hears of the events here: there is one in each look. A breath in between changes nothing."""
    with Relay() as relay:
        client, newcomer = arrive(relay, listener)
        calls: list[int] = []
        with client:
            newcomer.watch(lambda: calls.append(1))
            client.send(b"x")
            relay.events.append(Fault(newcomer, Exception("an end")))
            relay.select(DEADLINE)
            assert calls == []
            relay.breathe()
            relay.select(0)
            assert calls == [1]
            # Not if it is watched no more by then.
            relay.select(0)
            newcomer.unwatch()
            relay.select(0)
            assert calls == [1, 1]
            relay.events.clear()


def test_a_task_that_waits_can_be_cancelled_and_timed_out(listener: socket.socket) -> None:
    async def main(relay: Relay) -> None:
        client, channel = await accepted(relay, listener)
        with client:
            reading = asyncio.create_task(channel.read_message())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await channel.read_message()
            client.send(b"Q\0\0\0\x06x\0")
            assert await channel.read_message() == (b"Q", b"x\0")
        await channel.close()

    run_in_loop(main)


def test_bytes_and_a_cancellation_in_the_same_turn(listener: socket.socket) -> None:
    async def main(relay: Relay) -> None:
        for order in (0, 1):
            client, channel = await accepted(relay, listener)
            with client:
                reading = asyncio.create_task(channel.read_message())
                await asyncio.sleep(0)
                if order:
                    reading.cancel()
                client.send(b"Q\0\0\0\x06x\0")
                if not order:
                    await asyncio.sleep(0)
                    reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await asyncio.wait_for(reading, DEADLINE) == (b"Q", b"x\0")
            await channel.close()

    run_in_loop(main)


def test_a_wait_ends_once() -> None:
    async def main(relay: Relay) -> None:
        wait = Wait(asyncio.get_running_loop())

        async def waiting() -> str:
            await wait
            return "done"

        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(wait.end)
        assert await task == "done"
        assert wait.done

    run_in_loop(main)


def test_a_storm_of_newcomers_leaves_no_descriptor(listener: socket.socket) -> None:
    async def main(relay: Relay) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for how in range(60):
            client, channel = await accepted(relay, listener)
            reading = asyncio.create_task(channel.read_message())
            if how % 3:
                await asyncio.sleep(0)
            client.close()
            if how % 2:
                reading.cancel()
            with contextlib.suppress(ConnectionClosed, asyncio.CancelledError):
                await reading
            channel.abort()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before

    run_in_loop(main)


def test_a_newcomer_is_no_connection_of_the_query_phase(listener: socket.socket) -> None:
    """What is done with those would read fields that it does not have."""
    with Relay() as relay:
        client, newcomer = arrive(relay, listener)
        with client, pytest.raises(TypeError):
            relay.drop(newcomer, "no")  # type: ignore[arg-type]
