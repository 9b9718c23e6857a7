"""The relay's socket for a client that logs in, and what a task waits on for its bytes."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest

from pooler import wire
from pooler.net.address import Peer
from pooler.net.channel import Channel, ConnectionClosed
from pooler.relay import Newcomer, Relay, Wait
from pooler.relay.events import Fault
from tests.fixtures.waiting import DEADLINE, until
from tests.unit.pairs import send_pieces


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as made:
        yield made


def accepted(relay: Relay, address: str = "127.0.0.1") -> tuple[socket.socket, Newcomer]:
    """(client, what the relay accepted)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family, dualstack_ipv6=address == "::") as listener:
        host = "127.0.0.1" if address == "::" else address
        client = socket.create_connection((host, listener.getsockname()[1]))
        newcomer = until(lambda: relay.accept(listener.fileno()), "the connection")
    assert newcomer is not None
    return client, newcomer


def on_relay(main: Callable[[Relay], Awaitable[None]]) -> None:
    """Run `main` in a loop whose selector is a Relay, within the deadline."""
    relay = Relay()
    loop = asyncio.SelectorEventLoop(relay)

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main(relay)

    try:
        loop.run_until_complete(bounded())
    finally:
        loop.close()


# ---- the socket


def test_nobody_waits(relay: Relay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        assert relay.accept(listener.fileno()) is None


def test_what_is_no_listener(relay: Relay) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        relay.accept(-1)


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_addresses_of_both_sides(relay: Relay, address: str) -> None:
    """A client with an IPv4 address is shown by it, even on an IPv6 socket."""
    client, newcomer = accepted(relay, address)
    with client:
        assert newcomer.remote == client.getsockname()
        assert newcomer.local == client.getpeername()
        os.close(newcomer.detach())


def test_an_ipv6_client(relay: Relay) -> None:
    client, newcomer = accepted(relay, "::1")
    with client:
        assert newcomer.remote == client.getsockname()[:2]


def test_receive_tells_nothing_from_the_end(relay: Relay) -> None:
    client, newcomer = accepted(relay)
    assert newcomer.receive(10) is None
    client.sendall(b"twelve bytes")
    assert until(lambda: newcomer.receive(6), "bytes") == b"twelve"
    assert newcomer.receive(100) == b" bytes"
    client.close()
    assert until(lambda: newcomer.receive(10) == b"", "the end")


def test_a_reset_is_an_error(relay: Relay) -> None:
    client, newcomer = accepted(relay)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        until(lambda: newcomer.receive(10), "the reset")
    with pytest.raises(OSError, match="Broken pipe"):
        newcomer.send(b"x")


def test_send_takes_what_the_socket_takes(relay: Relay) -> None:
    client, newcomer = accepted(relay)
    with client:
        assert newcomer.send(b"hello") == 5
        assert client.recv(10) == b"hello"
        while newcomer.send(b"x" * 100_000):
            pass


def test_options_reach_the_socket(relay: Relay) -> None:
    client, newcomer = accepted(relay)
    with client:
        newcomer.tune(((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),))
        with pytest.raises(OSError, match="Protocol not available"):
            newcomer.tune(((socket.IPPROTO_TCP, 12345, 1),))
        with socket.socket(fileno=newcomer.detach()) as mine:
            assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_one_that_is_forgotten_is_closed(relay: Relay) -> None:
    client, newcomer = accepted(relay)
    del newcomer
    with client:
        assert client.recv(1) == b""


# ---- a Channel on it


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_channel_on_it(size: int) -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        loop = asyncio.get_running_loop()
        mine, theirs = Channel(client, loop), Channel(newcomer, loop)
        assert theirs.peer == Peer(*client.getsockname(), *client.getpeername())
        sending = asyncio.create_task(send_pieces(mine, wire.query("select 1") + wire.sync() + b"behind", size))
        assert await theirs.read_message() == (b"Q", b"select 1\0")
        await theirs.send(wire.ready_for_query())
        assert await mine.read_message() == (b"Z", b"I")
        assert await theirs.read_message() == (b"S", b"")
        await sending
        mine.abort()
        assert await theirs.read_exactly(6) == b"behind"
        with pytest.raises(ConnectionClosed):
            await theirs.peek()
        theirs.abort()

    on_relay(main)


def test_bytes_that_nobody_waits_for_stay_where_they_are() -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        channel = Channel(newcomer, asyncio.get_running_loop())
        waiting = asyncio.create_task(channel.peek())
        await asyncio.sleep(0)
        client.sendall(b"a")
        assert await waiting == ord("a")
        client.sendall(b"b" * 100_000)
        for _ in range(3):
            await asyncio.sleep(0)
        assert channel.buffered < 100_000
        assert await channel.read_exactly(100_001) == b"a" + b"b" * 100_000
        channel.abort()
        client.close()

    on_relay(main)


def test_a_reader_that_was_cancelled_does_not_take_the_next_one_with_it() -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        channel = Channel(newcomer, asyncio.get_running_loop())
        first = asyncio.create_task(channel.peek())
        await asyncio.sleep(0)
        second = asyncio.create_task(channel.peek())
        first.cancel()
        await asyncio.wait({first})
        client.sendall(b"x")
        assert await second == ord("x")
        channel.abort()
        client.close()

    on_relay(main)


def test_a_peer_that_does_not_drain_is_waited_for() -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        loop = asyncio.get_running_loop()
        mine, theirs = Channel(client, loop), Channel(newcomer, loop)
        waiting = asyncio.create_task(theirs.peek())
        big = os.urandom(20_000_000)
        sending = asyncio.ensure_future(theirs.send(big))
        assert await mine.read_exactly(len(big)) == big
        await sending
        await mine.send(b"x")
        assert await waiting == ord("x")
        mine.abort()
        theirs.abort()

    on_relay(main)


def test_a_peer_that_has_reset_is_told_of_by_its_error() -> None:
    """Once: the kernel tells an error of a socket to the first who asks, and another one to the next."""

    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        channel = Channel(newcomer, asyncio.get_running_loop())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionClosed, match="Connection reset by peer") as raised:
            await channel.send(b"x")
        assert not raised.value.orderly
        channel.abort()

    on_relay(main)


def test_a_closed_coroutine_is_not_woken() -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        channel = Channel(newcomer, asyncio.get_running_loop())
        reading = channel.peek()
        assert isinstance(reading.send(None), Wait)
        reading.close()
        client.sendall(b"x")
        await asyncio.sleep(0.05)
        assert await channel.peek() == ord("x")
        assert relay.events == []
        channel.abort()
        client.close()

    on_relay(main)


def test_more_hosts_than_are_remembered_are_told_right(relay: Relay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for number in range(1, 1100):
            host = f"127.0.{number >> 8}.{number & 255}"
            with socket.create_connection(address, source_address=(host, 0)) as client:
                newcomer = until(lambda: relay.accept(listener.fileno()), "the connection")
                assert newcomer is not None
                assert newcomer.remote == client.getsockname()


def test_what_was_put_goes_out_before_anything_is_waited_for() -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)
        loop = asyncio.get_running_loop()
        mine, theirs = Channel(client, loop), Channel(newcomer, loop)
        theirs.put(b"one, ")
        theirs.put(b"two, ")
        waiting = asyncio.create_task(theirs.peek())
        assert await mine.read_exactly(10) == b"one, two, "
        waiting.cancel()
        theirs.put(b"three")
        assert theirs.detach().unsent == b"three"
        mine.abort()

    on_relay(main)


def test_taking_breath_in_one_task_starts_no_other() -> None:
    """A console's command lets the relay breathe while others log in: they go on afterwards, and lose nothing."""

    async def main(relay: Relay) -> None:
        loop = asyncio.get_running_loop()
        pairs = [accepted(relay) for _ in range(3)]
        order: list[str] = []

        async def serve(newcomer: Newcomer) -> None:
            channel = Channel(newcomer, loop)
            name = await channel.read_exactly(3)
            for _ in range(3):
                relay.breathe()
                order.append(name.decode())
            channel.abort()

        tasks = [asyncio.create_task(serve(newcomer)) for _, newcomer in pairs]
        await asyncio.sleep(0)
        for number, (client, _) in enumerate(pairs):
            client.sendall(b"no%d" % number)
        await asyncio.gather(*tasks)
        assert sorted(order) == ["no0"] * 3 + ["no1"] * 3 + ["no2"] * 3
        assert [order[at] for at in (0, 3, 6)] == [order[at] for at in (2, 5, 8)]
        assert not relay.events
        for client, _ in pairs:
            client.close()

    on_relay(main)


def test_a_fault_is_told_and_harms_nobody_else() -> None:
    async def main(relay: Relay) -> None:
        client, newcomer = accepted(relay)

        def broken() -> None:
            raise ZeroDivisionError

        newcomer.watch(broken)
        with client:
            client.sendall(b"x")
            while not relay.events:
                await asyncio.sleep(0.001)
            event = relay.events.pop()
            assert isinstance(event, Fault)
            assert (event.connection, type(event.error)) == (newcomer, ZeroDivisionError)

    on_relay(main)


# ---- Wait


def test_a_task_goes_on_at_once() -> None:
    async def main(relay: Relay) -> None:
        loop = asyncio.get_running_loop()
        wait = Wait(loop)
        seen: list[str] = []

        async def work() -> None:
            await wait
            seen.append("went on")

        def end() -> None:
            wait.end()
            seen.append("ended")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        loop.call_soon(end)
        await task
        await asyncio.sleep(0)
        assert seen == ["went on", "ended"]
        assert wait.done

    on_relay(main)


def test_a_wait_that_is_cancelled() -> None:
    async def main(relay: Relay) -> None:
        wait = Wait(asyncio.get_running_loop())

        async def work() -> None:
            await wait

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wait.done

    on_relay(main)
