"""Cancel requests: from a key to the right query, and to no other.

A request is passed on only while the client that owns the key is linked and busy, and the server that gets it is kept
from everybody else until the request has taken effect (`cancel_begins`, `cancel_ends`). A client that is only queued
gets its answer from us. Requests for servers are limited in number and in the time they may wait.
"""

from __future__ import annotations

import asyncio
import dataclasses

from pooler import wire
from pooler.clients.peers import forward, origin, original, sending_time, turn
from pooler.log import WARNING
from pooler.net.channel import Channel
from pooler.net.dialerror import DialError
from pooler.net.dns import Dns
from pooler.pools.connection import ClientFacts, ServerState, client_label, server_label
from pooler.pools.reasons import Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.relay import Client, Server
from pooler.servers.dial import send_cancel
from pooler.servers.opener import Opener

QUERY_CANCELED = "57014"
CANCELED = "canceling statement due to user request"
LOOK = 0.001
"""Seconds between two looks at a server that sets parameters."""


class Canceller:
    """Carries out cancel requests."""

    def __init__(self, running: Running, opener: Opener, dns: Dns) -> None:
        self._running = running
        self._opener = opener
        self._dns = dns

    async def cancel(self, channel: Channel, arrival: ClientFacts, key: bytes) -> None:
        """Do what a cancel request asks; the requester learns nothing, as PostgreSQL has it."""
        running, since = self._running, self._running.relay.now
        ours = running.peer_id
        if ours and len(key) == 8:
            if origin(key) != ours:
                reason = await forward(running, self._dns, channel, key)
                return running.say_closing(client_label(arrival), reason, since)
            key = original(key)
        client = running.relay.find(key) if len(key) == 8 else None
        if client is not None:
            arrival.database, arrival.user = client.about.database, client.about.user
        known = await self.cancel_known(key, channel)
        if known is None and running.colleagues is not None:
            known = await running.colleagues.cancel(key)
        if known is None:
            raise LoginError("failed cancel request", notify=False)
        running.say_closing(client_label(arrival), known, since)

    async def cancel_known(self, key: bytes, channel: Channel | None = None) -> str | None:
        """Cancel what this key belongs to, if that is here; what became of it. `channel`: whoever asks for it, who may
        leave. Raises LoginError."""
        running = self._running
        for console in running.consoles.values():
            if console.session.cancel_key == key:
                console.session.canceled.set()
                return "cancel request for console client"
        client = running.relay.find(key) if len(key) == 8 else None
        if client is None:
            return None
        if client.cancel_queued(wire.error_response("ERROR", QUERY_CANCELED, CANCELED)):
            return "cancel request for queued client"
        if client.linked is None:
            return "cancel request for idle client"
        return await self._forward(channel, client, client.pool.owner)

    async def _forward(self, channel: Channel | None, client: Client, pool: PoolState) -> str:
        """Wait for a slot, then hand the request to the client's server, if it is still busy with it."""
        running = self._running
        settings = running.config.settings
        async with turn(settings, channel, pool.cancels, running.registry.pool_size(pool)):
            try:
                async with asyncio.timeout(settings.cancel_wait_timeout or None):
                    while (server := client.linked) is not None and server.is_aligning:
                        # A SET of ours must not be hit: the client would lose its connection by it. Nor a look at
                        # what is left: what the client has asked for behind it is meant.
                        await asyncio.sleep(LOOK)
            except TimeoutError:
                return "ignoring cancel request for server that is setting vars"
            if client.is_lost or server is None or server.is_clean:
                return "not sending cancel request for client that is now idle"
            return await self._send(pool, server)

    async def _send(self, pool: PoolState, server: Server) -> str:
        """PostgreSQL closes the connection of a request when it has sent the signal, and forgets a signal that finds no
        query: so the end of the stream is proof that no later query will be hit. Whatever else may have happened to the
        request, it can take effect at any time, and nobody else gets this server."""
        running, since = self._running, self._running.relay.stamp()
        target = self._opener.target(pool, server.about.host)
        label = server_label(pool.name, server.about.peer, running.next_number())

        def watch(channel: Channel) -> None:
            running.say_connected(f"{label} new connection to server{channel.peer.source}")

        server.cancel_begins()
        over = False
        try:
            async with asyncio.timeout(sending_time(running.config.settings)):
                there = dataclasses.replace(target, addresses=(server.about.address,))
                await send_cancel(there, server.cancel_key, loop=running.loop, watcher=watch)
            over = True
        except DialError as error:
            over = error.stage == "connect"
            running.say(WARNING, f"{label} sending cancel request failed: {error}")
            return "failed to send cancel request"
        except TimeoutError:
            running.say(WARNING, f"{label} sending cancel request failed: cancel_wait_timeout")
            return "cancel_wait_timeout"
        else:
            running.say_closing(label, "successfully sent cancel request", since)
            return "successfully sent cancel request"
        finally:
            server.close_needed = server.close_needed or not over
            server.cancel_ends()
            if server.close_needed and not server.is_lost and server.state_name == ServerState.IDLE:
                running.drop(server, Reason.CLOSE_NEEDED)
