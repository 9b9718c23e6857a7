"""Cancel requests: from a key to the right query, and to no other.

A request is passed on only while the client that owns the key is linked and busy, and the server that gets it is kept
from everybody else until the request has taken effect (`cancel_begins`, `cancel_ends`). A client that is only queued
gets its answer from us. Requests for servers are limited in number and in the time they may wait.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from pooler import wire
from pooler.auth import LoginError
from pooler.channel import Channel
from pooler.dial import DialError, send_cancel
from pooler.labels import Arrival, client_label, server_label
from pooler.log import LOG, WARNING
from pooler.peers import forward, origin, original, sending_time, take_turn
from pooler.registry import PoolState
from pooler.relay import Client, Server

if TYPE_CHECKING:
    from pooler.bouncer import Bouncer

QUERY_CANCELED = "57014"


async def cancel(bouncer: Bouncer, channel: Channel, arrival: Arrival, key: bytes) -> None:
    """Do what a cancel request asks; the requester learns nothing, as PostgreSQL has it."""
    since = bouncer.relay.now
    ours = bouncer.config.settings.peer_id
    if ours and len(key) == 8:
        if origin(key) != ours:
            return bouncer.say_closing(client_label(arrival), await forward(bouncer, channel, key), since)
        key = original(key)
    for console in bouncer.consoles.values():
        if console.session.cancel_key == key:
            console.session.canceled.set()
            return bouncer.say_closing(client_label(arrival), "cancel request for console client", since)
    client = bouncer.relay.find(key) if len(key) == 8 else None
    if client is None:
        raise LoginError("failed cancel request", notify=False)
    pool: PoolState = client.pool.owner
    arrival.database, arrival.user = client.about.database, client.about.user
    if client.cancel_queued(wire.error_response("ERROR", QUERY_CANCELED, "canceling statement due to user request")):
        reason = "cancel request for queued client"
    elif client.linked is None:
        reason = "cancel request for idle client"
    else:
        reason = await _forward(bouncer, channel, client, pool)
    bouncer.say_closing(client_label(arrival), reason, since)


async def _forward(bouncer: Bouncer, channel: Channel, client: Client, pool: PoolState) -> str:
    """Wait for a slot, then hand the request to the client's server, if it is still busy with it."""
    await take_turn(bouncer, channel, pool.cancels, bouncer.registry.pool_size(pool))
    server = client.linked
    if client.is_lost or server is None or server.is_clean:
        return "not sending cancel request for client that is now idle"
    return await _send(bouncer, pool, server)


async def _send(bouncer: Bouncer, pool: PoolState, server: Server) -> str:
    label = server_label(pool, server.about.peer, server.id)
    peer = server.about.peer
    target = bouncer.opener.target(pool, server.about.host)
    pool.cancels.active += 1
    server.cancel_begins()
    try:
        async with asyncio.timeout(sending_time(bouncer.config.settings)):
            there = dataclasses.replace(target, addresses=(server.about.address,))
            await send_cancel(there, server.cancel_key, loop=bouncer.loop)
    except DialError as error:
        server.close_needed = server.close_needed or error.stage != "connect"
        bouncer.say(WARNING, f"{label} sending cancel request failed: {error} ({peer})")
        return "failed to send cancel request"
    except TimeoutError:
        # It may have been sent and take effect at any time: whoever got this server next would be hit.
        server.close_needed = True
        bouncer.say(WARNING, f"{label} sending cancel request failed: cancel_wait_timeout ({peer})")
        return "cancel_wait_timeout"
    else:
        bouncer.say(LOG, f"{label} closing because: successfully sent cancel request (age=0s)")
        return "successfully sent cancel request"
    finally:
        pool.cancels.active -= 1
        pool.cancels.done.set()
        server.cancel_ends()
