"""Peers: other processes behind the same address, to which cancel requests are passed on that came to the wrong one.

A key of ours says who gave it: our peer_id in its first two bytes, least significant first, and in the two lowest
bits of the last byte how many more times a request with it may be passed on. Nothing else is asked of a peer.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from pooler.auth import LoginError
from pooler.channel import Channel, ConnectionClosed, while_there
from pooler.databases import PeerConfig
from pooler.dial import DialError, Target, send_cancel
from pooler.log import WARNING
from pooler.registry import CancelQueue
from pooler.settings import Settings
from pooler.tcp import SocketOptions

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

HOPS = 3
"""How often a request may be passed on; also the mask of where its key counts that."""


def new_key(peer_id: int) -> bytes:
    """A cancel key: eight random bytes, with peers marked as ours."""
    key = os.urandom(8)
    return peer_id.to_bytes(2, "little") + key[2:7] + bytes([key[7] | HOPS]) if peer_id else key


def origin(key: bytes) -> int:
    """Whose key this is, among peers."""
    return int.from_bytes(key[:2], "little")


def original(key: bytes) -> bytes:
    """The key as it was given to the client, before it was passed on."""
    return key[:7] + bytes([key[7] | HOPS])


def peer_size(bouncer: Bouncer, peer: PeerConfig) -> int:
    """How many requests may be on their way to a peer at a time."""
    return peer.pool_size or bouncer.config.settings.default_pool_size


async def forward(bouncer: Bouncer, channel: Channel, key: bytes) -> str:
    """Pass a request on to the peer whose key it shows; what the log says of it. Raises LoginError."""
    hops = key[7] & HOPS
    if not hops:
        raise LoginError("failed to forward cancel request because its TTL was exhausted", notify=False)
    peer = bouncer.config.peers.get(origin(key))
    if peer is None:
        raise LoginError("could not find peer to forward request to", notify=False)
    queue = bouncer.peer_queues.setdefault(peer.peer_id, CancelQueue())
    await take_turn(bouncer, channel, queue, peer_size(bouncer, peer))
    queue.active += 1
    try:
        async with asyncio.timeout(sending_time(bouncer.config.settings)):
            await _send(bouncer, peer, key[:7] + bytes([key[7] & ~HOPS | hops - 1]))
    except DialError as error:
        bouncer.say(WARNING, f"sending cancel request to peer {peer.peer_id} failed: {error}")
        raise LoginError("failed to send cancel request", notify=False) from None
    except TimeoutError:
        raise LoginError("cancel_wait_timeout", notify=False) from None
    finally:
        queue.active -= 1
        queue.done.set()
    return "successfully sent cancel request"


async def _send(bouncer: Bouncer, peer: PeerConfig, key: bytes) -> None:
    settings = bouncer.config.settings
    target = Target(
        host=peer.host,
        port=peer.port,
        addresses=await bouncer.dns.addresses(peer.host, peer.port),
        sslmode=settings.server_tls_sslmode,
        tls_context=bouncer.server_context,
        socket_options=SocketOptions.of(settings),
    )
    await send_cancel(target, key, loop=bouncer.loop)


def sending_time(settings: Settings) -> float | None:
    """Seconds that a request whose turn has come may take to get through."""
    return min((t for t in (settings.cancel_wait_timeout, settings.server_connect_timeout) if t), default=None)


async def take_turn(bouncer: Bouncer, channel: Channel, queue: CancelQueue, size: int) -> None:
    """Wait until fewer than `size` requests are on their way. Raises LoginError when that takes too long, or when the
    requester has left meanwhile."""
    queue.waiting += 1
    try:
        async with asyncio.timeout(bouncer.config.settings.cancel_wait_timeout or None):
            while queue.active >= max(1, size):
                queue.done.clear()
                await while_there(channel, queue.done.wait())
    except TimeoutError:
        raise LoginError("cancel_wait_timeout", notify=False) from None
    except ConnectionClosed:
        reason = "client gave up on cancel request, so we also give up forwarding to server"
        raise LoginError(reason, notify=False) from None
    finally:
        queue.waiting -= 1
