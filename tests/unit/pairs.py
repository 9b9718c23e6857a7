"""Two connected sockets and a loop: how tests of `channel`, `login` and `dial` talk to them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from pooler.net.channel import Channel, ConnectionClosed
from tests.fixtures.authority import Authority, Pair
from tests.fixtures.waiting import DEADLINE

T = TypeVar("T")


def run(main: Awaitable[T]) -> T:
    """The result of `main` in a loop of its own, within the deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE):
            return await main

    return asyncio.run(bounded())


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """(client, server) over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


def channels(pair: tuple[socket.socket, socket.socket] | None = None) -> tuple[Channel, Channel]:
    """A Channel on each end of a pair: the one under test second."""
    loop = asyncio.get_running_loop()
    client, server = pair or tcp_pair()
    return Channel(client, loop), Channel(server, loop)


async def send_pieces(channel: Channel, data: bytes, size: int = 1) -> None:
    """Send so that the other side sees every piece by itself, as far as a kernel allows."""
    for at in range(0, len(data), size):
        await channel.send(data[at : at + size])
        await asyncio.sleep(0)


async def read_all(channel: Channel) -> bytes:
    """Everything until the other side closes."""
    data = b""
    try:
        while True:
            data += await channel.read_exactly(max(channel.buffered, 1))
    except ConnectionClosed:
        return data


class Contexts:
    """TLS contexts for both sides, and the files they came from."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.pair: Pair = self.authority.sign("localhost", names=("localhost", "127.0.0.1"))
        self.user_pair: Pair = self.authority.sign("bob")

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pair.cert, self.pair.key)
        context.set_alpn_protocols(["postgresql"])
        return context

    def client(self, *, alpn: bool = True, cert: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority.root)
        if cert:
            context.load_cert_chain(self.user_pair.cert, self.user_pair.key)
        if alpn:
            context.set_alpn_protocols(["postgresql"])
        return context
