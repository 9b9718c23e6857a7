"""A scripted server, and what comes of dialling it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from pooler import wire
from pooler.net import scram
from pooler.net.channel import Channel, ConnectionClosed
from pooler.net.credentials import Credentials
from pooler.net.dialerror import DialError
from pooler.servers.dial import Dialed, Target, dial
from tests.unit.pairs import read_all, run, send_pieces

PASSWORD = "correct horse"
KEY = b"\0\0\x30\x39secret"
READY = (
    wire.authentication_ok()
    + wire.parameter_status("server_version", "18.0")
    + wire.parameter_status("TimeZone", "UTC")
    + wire.notice_response("NOTICE", "00000", "hello")
    + wire.backend_key_data(KEY)
    + wire.ready_for_query()
)
FIRST = wire.authentication_sasl(["SCRAM-SHA-256"])
Server = Callable[[Channel], Awaitable[None]]
VERIFIER = scram.make_verifier(PASSWORD, 10)


T = TypeVar("T")


async def with_server(server: Server, use: Callable[[Target], Awaitable[T]], **more: object) -> T:
    """What `use` returns or raises for a target at which `server` answers each connection."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    target = Target("127.0.0.1", port, "app", "bob", Credentials(PASSWORD), **more)  # type: ignore[arg-type]
    tasks: list[asyncio.Task[None]] = []

    async def answer(channel: Channel) -> None:
        try:
            await server(channel)
        except ConnectionClosed:
            return
        finally:
            channel.abort()

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            tasks.append(asyncio.create_task(answer(Channel(sock, loop))))

    accepting = asyncio.create_task(accept())
    try:
        return await use(target)
    finally:
        accepting.cancel()
        listener.close()
        await asyncio.gather(*tasks, accepting, return_exceptions=True)


async def dialed(target: Target) -> Dialed:
    result = await dial(target, loop=asyncio.get_running_loop())
    result.channel.abort()
    return result


def connect(server: Server, **more: object) -> Dialed:
    result = run(with_server(server, dialed, **more))
    assert isinstance(result, Dialed)
    return result


def failure(server: Server, **more: object) -> DialError:
    with pytest.raises(DialError) as caught:
        run(with_server(server, dialed, **more))
    return caught.value


async def stay(channel: Channel) -> None:
    """Read until the other side closes."""
    await read_all(channel)


def says(*parts: bytes, piece: int = 1 << 20) -> Server:
    """Reads the startup packet, sends `parts`, one for each message that comes."""

    async def play(channel: Channel) -> None:
        await channel.read_startup()
        for number, part in enumerate(parts):
            if number:
                await channel.read_message()
            await send_pieces(channel, part, piece)
        await stay(channel)

    return play


async def ask(channel: Channel, request: bytes) -> bytes:
    await channel.send(request)
    kind, body = await channel.read_message()
    assert kind == b"p"
    return body
