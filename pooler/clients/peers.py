"""Peers: other processes behind the same address, to which cancel requests are passed on that came to the wrong one.

A key of ours says who gave it: our peer_id in its first two bytes, least significant first, and in the two lowest
bits of the last byte how many more times a request with it may be passed on. Nothing else is asked of a peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pooler.config.databases import PeerConfig
from pooler.config.settings import Settings
from pooler.log import WARNING
from pooler.net.channel import Channel, ConnectionClosed, while_there
from pooler.net.dialerror import DialError
from pooler.net.dns import Dns
from pooler.net.tcp import SocketOptions
from pooler.pools.refusal import LoginError
from pooler.pools.registry import CancelQueue
from pooler.pools.running import Running
from pooler.relay.engine import random_bytes
from pooler.servers.dial import Target, send_cancel

HOPS = 3
"""How often a request may be passed on; also the mask of where its key counts that."""


def new_key(peer_id: int) -> bytes:
    """A cancel key: eight random bytes, with peers marked as ours."""
    key = random_bytes(8)
    return peer_id.to_bytes(2, "little") + key[2:7] + bytes([key[7] | HOPS]) if peer_id else key


def origin(key: bytes) -> int:
    """Whose key this is, among peers."""
    return int.from_bytes(key[:2], "little")


def original(key: bytes) -> bytes:
    """The key as it was given to the client, before it was passed on."""
    return key[:7] + bytes([key[7] | HOPS])


def peer_size(settings: Settings, peer: PeerConfig) -> int:
    """How many requests may be on their way to a peer at a time; 0: no limit."""
    return settings.default_pool_size if peer.pool_size is None else peer.pool_size


async def forward(running: Running, dns: Dns, channel: Channel, key: bytes) -> str:
    """Pass a request on to the peer whose key it shows; what the log says of it. Raises LoginError."""
    hops = key[7] & HOPS
    if not hops:
        raise LoginError("failed to forward cancel request because its TTL was exhausted", notify=False)
    peer = running.peers.get(origin(key))
    if peer is None:
        raise LoginError("could not find peer to forward request to", notify=False)
    queue = running.peer_queues.setdefault(peer.peer_id, CancelQueue())
    size = peer_size(running.config.settings, peer)
    try:
        async with turn(running.config.settings, channel, queue, size):
            async with asyncio.timeout(sending_time(running.config.settings)):
                await _send(running, dns, peer, key[:7] + bytes([key[7] & ~HOPS | hops - 1]))
    except DialError as error:
        running.say(WARNING, f"sending cancel request to peer {peer.peer_id} failed: {error}")
        raise LoginError("failed to send cancel request", notify=False) from None
    except TimeoutError:
        raise LoginError("cancel_wait_timeout", notify=False) from None
    finally:
        if not (queue.active or queue.waiting):
            running.peer_queues.pop(peer.peer_id, None)
    return "successfully sent cancel request"


async def _send(running: Running, dns: Dns, peer: PeerConfig, key: bytes) -> None:
    tls = running.server_tls()
    target = Target(
        host=peer.host,
        port=peer.port,
        addresses=await dns.addresses(peer.host, peer.port),
        sslmode=tls.mode,
        tls_context=tls.context,
        tls_problem=tls.problem,
        socket_options=SocketOptions.of(running.config.settings),
    )
    await send_cancel(target, key, loop=running.loop)


def sending_time(settings: Settings) -> float | None:
    """Seconds that a request whose turn has come may take to get through."""
    return min((t for t in (settings.cancel_wait_timeout, settings.server_connect_timeout) if t), default=None)


@asynccontextmanager
async def turn(settings: Settings, channel: Channel | None, queue: CancelQueue, size: int) -> AsyncIterator[None]:
    """Be one of at most `size` requests that are on their way; 0: there may be any number. Raises LoginError when the
    wait for that takes too long, or when the requester has left meanwhile; None: it is not here."""
    await _take_turn(settings, channel, queue, size)
    queue.active += 1
    try:
        yield
    finally:
        queue.active -= 1
        queue.done.set()


async def _take_turn(settings: Settings, channel: Channel | None, queue: CancelQueue, size: int) -> None:
    queue.waiting += 1
    try:
        async with asyncio.timeout(settings.cancel_wait_timeout or None):
            while size and queue.active >= size:
                queue.done.clear()
                done = queue.done.wait()
                await (done if channel is None else while_there(channel, done))
    except TimeoutError:
        raise LoginError("cancel_wait_timeout", notify=False) from None
    except ConnectionClosed:
        reason = "client gave up on cancel request, so we also give up forwarding to server"
        raise LoginError(reason, notify=False) from None
    finally:
        queue.waiting -= 1
