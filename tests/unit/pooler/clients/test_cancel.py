"""A cancel request finds whom its key is of: a console, a client that is queued, a server that is busy, or nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pooler import wire
from pooler.config.databases import DatabaseConfig
from pooler.config.whole import Config, compose
from pooler.net.address import Address
from pooler.net.channel import Channel
from pooler.pools.connection import ClientFacts, ServerFacts
from pooler.pools.refusal import LoginError
from pooler.pools.running import ConsoleClient
from pooler.relay import Client
from pooler.verbs import ConsoleSession
from tests.unit.pooler.house.test_bouncer import PEER, House, arrival


class Place(House):
    def config(self, port: int) -> Config:
        database = DatabaseConfig("app", hosts=("127.0.0.1",), port=port)
        return compose({"auth_type": "trust", "log_disconnections": "1", "default_pool_size": "1"}, [database])

    def asks(self, key: bytes) -> None:
        """Somebody asks for it, and stays to the end of the request."""
        ours, theirs = socket.socketpair()

        async def go() -> None:
            channel = Channel(ours, self.loop)
            try:
                await self.bouncer.canceller.cancel(channel, ClientFacts(PEER, number=99), key)
            finally:
                channel.abort()
                theirs.close()

        self.run(go())

    def key(self, client: Client) -> bytes:
        return client.id.to_bytes(8, "big")


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def test_a_key_that_nobody_has_is_no_answer(place: Place) -> None:
    for key in (b"12345678", b"123456789abc"):
        with pytest.raises(LoginError, match="failed cancel request") as caught:
            place.asks(key)
        assert not caught.value.notify


def test_a_console_is_told_by_its_event(place: Place) -> None:
    session = ConsoleSession("eve", "admin", cancel_key=b"consoles")
    facts = ClientFacts(PEER, "pgbouncer", "eve")
    place.bouncer.running.consoles[1] = ConsoleClient(session, facts, 0, None)  # type: ignore[arg-type]
    place.asks(b"consoles")
    assert session.canceled.is_set()
    assert place.log.having("closing because: cancel request for console client")
    place.bouncer.running.consoles.clear()


def test_a_client_that_is_queued_is_answered_by_us(place: Place) -> None:
    client = place.client(arrival(place))
    place.far[0].sendall(wire.query("SELECT 1"))
    place.relay.select(0)
    assert client.state_name == "waiting"
    place.asks(place.key(client))
    assert place.log.having("closing because: cancel request for queued client")
    place.relay.select(0)
    assert b"C57014\0Mcanceling statement due to user request\0" in place.far[0].recv(4096)


def test_a_client_that_asks_for_nothing_is_left_alone(place: Place) -> None:
    place.asks(place.key(place.client(arrival(place))))
    assert place.log.having("app/bob@127.0.0.1:1 closing because: cancel request for idle client")


@pytest.mark.parametrize("answers", [True, False])
def test_a_busy_server_is_asked_by_its_own_key_and_kept_until_that_has_had_its_effect(answers: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.setblocking(False)
        place = Place(port)
        heard: list[bytes] = []
        facts = ServerFacts(
            PEER, "app", "bob", host="127.0.0.1", address=Address(socket.AF_INET, ("127.0.0.1", port))
        )
        server, client = place.server(facts), place.client(arrival(place))
        place.far[1].sendall(wire.query("BEGIN"))
        place.relay.select(0)
        assert client.linked is server

        async def postgres() -> None:
            sock, _ = await place.loop.sock_accept(listener)
            with sock:
                heard.append(await place.loop.sock_recv(sock, 100))
                assert (server.cancels, place.pool().cancels.active) == (1, 1)
                if not answers:
                    await place.loop.sock_sendall(sock, b"no")

        async def go() -> None:
            answering = asyncio.ensure_future(postgres())
            await asyncio.to_thread(lambda: None)
            ours, theirs = socket.socketpair()
            channel = Channel(ours, place.loop)
            await place.bouncer.canceller.cancel(channel, ClientFacts(PEER, number=99), place.key(client))
            await answering
            channel.abort()
            theirs.close()

        place.run(go())
        assert heard == [wire.cancel_request(b"12345678")]
        assert (server.cancels, place.pool().cancels.active) == (0, 0)
        assert server.close_needed is not answers
        words = "successfully sent cancel request" if answers else "failed to send cancel request"
        assert place.log.having("C-0x", f"closing because: {words}")
        place.close()


def test_a_request_that_waits_for_a_set_of_ours_is_on_its_way(place: Place) -> None:
    server = SimpleNamespace(is_aligning=True, is_clean=True)
    client: Any = SimpleNamespace(linked=server, is_lost=False)
    queue = place.pool().cancels
    pairs = [socket.socketpair() for _ in range(2)]

    async def go() -> None:
        channels = [Channel(ours, place.loop) for ours, _ in pairs]
        asking = [
            asyncio.ensure_future(place.bouncer.canceller._forward(channel, client, place.pool()))
            for channel in channels
        ]
        while not queue.waiting:
            await asyncio.sleep(0)
        assert (queue.active, queue.waiting) == (1, 1)
        server.is_aligning = False
        assert set(await asyncio.gather(*asking)) == {"not sending cancel request for client that is now idle"}
        assert (queue.active, queue.waiting) == (0, 0)
        for channel in channels:
            channel.abort()

    place.run(go())
    for _, theirs in pairs:
        theirs.close()


def test_who_has_no_server_any_more_when_its_turn_comes_is_not_canceled(place: Place) -> None:
    server, client = place.server(ServerFacts(PEER, "app", "bob", host="127.0.0.1")), place.client(arrival(place))
    place.far[1].sendall(wire.query("BEGIN"))
    place.relay.select(0)
    assert client.linked is server
    queue = place.pool().cancels
    queue.active = 1
    ours, theirs = socket.socketpair()

    async def go() -> None:
        channel = Channel(ours, place.loop)
        asking = asyncio.ensure_future(
            place.bouncer.canceller.cancel(channel, ClientFacts(PEER, number=99), place.key(client))
        )
        while not queue.waiting:
            await asyncio.sleep(0)
        place.relay.drop(client, "test")
        queue.active = 0
        queue.done.set()
        await asking
        channel.abort()
        theirs.close()

    place.run(go())
    assert place.log.having("closing because: not sending cancel request for client that is now idle")
