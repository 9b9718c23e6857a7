"""What a console's client sends, read ahead by a task of its own.

Reading ahead is how a session that waits (PAUSE, WAIT_CLOSE) notices that its client has left. The queue is
short: a client that floods is read no faster than it is answered. The rule: messages come out in order, and
the end (end of file, Terminate, a broken message) comes out last.
"""

from __future__ import annotations

import asyncio
import contextlib

from pooler.channel import Channel, ConnectionClosed
from pooler.wire import ProtocolError

AHEAD = 8
"""Messages read before they are wanted."""
MAX_MESSAGE = 1 << 20
"""Longest message, in bytes: no command comes near it."""


class Inbox:
    """`gone` is done as soon as the client is known to have left, even if messages before that are still
    unread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._queue: asyncio.Queue[tuple[bytes, bytes] | Exception] = asyncio.Queue(AHEAD)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while True:
                kind, body = await self._channel.read_message(MAX_MESSAGE)
                if kind == b"X":
                    raise ConnectionClosed("client close request")
                await self._queue.put((kind, body))
        except ConnectionClosed as end:
            self._leave()
            await self._queue.put(end)
        except ProtocolError as error:
            await self._queue.put(error)

    def _leave(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    async def next(self) -> tuple[bytes, bytes]:
        """The next message. Raises ConnectionClosed, ProtocolError."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    @property
    def empty(self) -> bool:
        """Nothing was read that waits to be answered."""
        return self._queue.empty()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._leave()
