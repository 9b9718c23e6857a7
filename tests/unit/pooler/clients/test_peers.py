"""Keys that say who gave them, and requests that go on to their peer: how often, to whom, and how many at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from pooler import wire
from pooler.clients.peers import HOPS, forward, new_key, origin, original, peer_size, sending_time, turn
from pooler.config.databases import PeerConfig
from pooler.config.whole import Config, parse
from pooler.net.channel import Channel
from pooler.pools.refusal import LoginError
from pooler.pools.registry import CancelQueue
from tests.unit.pooler.house.test_bouncer import House


class Place(House):
    """With one peer, number 7, at `port`."""

    def config(self, port: int) -> Config:
        peers = f"[peers]\n7=host=127.0.0.1 port={port}\n"
        return parse(f"[pgbouncer]\npeer_id=2\n[databases]\napp=host=127.0.0.1\n{peers}")


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


@pytest.mark.parametrize("number", [1, 256, 16383, 65535])
def test_a_key_says_whose_it_is(number: int) -> None:
    key = new_key(number)
    assert origin(key) == number
    assert key[7] & HOPS == HOPS
    passed_on = key[:7] + bytes([key[7] & ~HOPS | 1])
    assert original(passed_on) == key
    assert len(new_key(0)) == 8


def key_of(number: int, hops: int) -> bytes:
    key = new_key(number)
    return key[:7] + bytes([key[7] & ~HOPS | hops])


def meets(place: Place, key: bytes) -> LoginError:
    async def go() -> None:
        with pytest.raises(LoginError) as caught:
            await forward(place.bouncer.running, place.bouncer.dns, None, key)  # type: ignore[arg-type]
        found.append(caught.value)

    found: list[LoginError] = []
    place.run(go())
    assert not found[0].notify
    return found[0]


def test_a_request_that_has_gone_far_enough_or_knows_no_peer_ends_here(place: Place) -> None:
    assert "TTL was exhausted" in meets(place, key_of(7, 0)).message
    assert meets(place, key_of(8, 2)).message == "could not find peer to forward request to"


def test_a_request_goes_on_with_one_hop_less() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place(listener.getsockname()[1])
        listener.setblocking(False)
        ours, theirs = socket.socketpair()
        heard: list[bytes] = []

        async def peer() -> None:
            sock, _ = await place.loop.sock_accept(listener)
            with sock:
                heard.append(await place.loop.sock_recv(sock, 100))

        async def go() -> None:
            channel = Channel(ours, place.loop)
            answering = asyncio.ensure_future(peer())
            words = await forward(place.bouncer.running, place.bouncer.dns, channel, key)
            assert words == "successfully sent cancel request"
            await answering
            channel.abort()

        key = key_of(7, 2)
        place.run(go())
        theirs.close()
        assert heard == [wire.cancel_request(key[:7] + bytes([key[7] & ~HOPS | 1]))]
        assert not place.bouncer.running.peer_queues
        place.close()


def test_as_many_at_a_time_as_its_size(place: Place) -> None:
    settings = place.bouncer.config.settings
    assert peer_size(settings, PeerConfig(7)) == settings.default_pool_size
    assert peer_size(settings, PeerConfig(7, pool_size=0)) == 0
    queue = CancelQueue(active=1)
    ours, theirs = socket.socketpair()

    async def go() -> None:
        channel = Channel(ours, place.loop)
        over = asyncio.Event()

        async def go_through() -> None:
            async with turn(settings, channel, queue, 1):
                await over.wait()

        waits = asyncio.ensure_future(go_through())
        await asyncio.sleep(0)
        assert (queue.waiting, waits.done()) == (1, False)
        queue.active = 0
        queue.done.set()
        while queue.waiting:
            await asyncio.sleep(0)
        assert queue.active == 1
        over.set()
        await waits
        assert queue.active == 0
        queue.active = 1
        leaves = asyncio.ensure_future(go_through())
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(LoginError, match="client gave up on cancel request"):
            await leaves
        assert queue.waiting == 0
        channel.abort()

    place.run(go())


@pytest.mark.parametrize(
    ("wait", "connect", "time"), [("10", "15", 10), ("0", "15", 15), ("10", "0", 10), ("0", "0", None)]
)
def test_a_request_on_its_way_has_the_shorter_of_two_times(wait: str, connect: str, time: float | None) -> None:
    config = parse(f"[pgbouncer]\ncancel_wait_timeout={wait}\nserver_connect_timeout={connect}\n[databases]\n")
    assert sending_time(config.settings) == time
