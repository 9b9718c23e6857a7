"""What a console sends: collected while it is small, sent when the client is to see it.

The rule: whoever writes an answer awaits here between batches, so a client that does not read stops its own
answer and nothing else.
"""

from __future__ import annotations

from pooler.net.channel import Channel

ENOUGH = 16 * 1024
"""Bytes that are worth a send of their own."""


class Outbox:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._held = bytearray()

    async def put(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= ENOUGH:
            await self.flush()

    async def flush(self) -> None:
        if self._held:
            data, self._held = bytes(self._held), bytearray()
            await self._channel.send(data)
