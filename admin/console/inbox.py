"""What a console's client sends, read ahead by a task of its own.

Reading ahead is how a session that waits (PAUSE, WAIT_CLOSE) notices that its client has left. The rules: messages come
out in order, and the end (end of file, Terminate, a broken message) comes out last; a client that floods is read no
faster than it is answered; and of a message that is too long nothing is kept but its length.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import NamedTuple

from pooler.net.channel import Channel, ConnectionClosed
from pooler.wire import BadHeader, ProtocolError

AHEAD = 8
"""Messages read before they are wanted."""
AHEAD_BYTES = 64 << 10
"""How long they may be together, when there is more than one."""
LONGEST = 64 << 10
"""Bytes of a message that is read: no command comes near it, and few queries of programs."""
LONGEST_SKIPPED = 1 << 30
"""As long as a message of PostgreSQL's can be; what claims to be longer is no message."""
LONG = frozenset({b"Q", b"P", b"B", b"F"})
"""Types of messages that hold a text or values, and may so be too long; others are no messages then."""
SKIP = 64 << 10
SHOWN = 8
"""First bytes of a broken message that are told."""

_HEAD = struct.Struct("!ci")


class Message(NamedTuple):
    """`body` is None when it was too long, at `size` bytes."""

    kind: bytes
    body: bytes | None
    size: int


class Inbox:
    """`gone` is done as soon as the client is known to have left, even if messages before that are still
    unread; `left` is called then if nothing is unread or unanswered. `longest`: max_packet_size as it is now."""

    def __init__(self, channel: Channel, longest: Callable[[], int], left: Callable[[], None]) -> None:
        self._channel = channel
        self._longest = longest
        self._left = left
        self._wanted = False
        """Whether the next message is waited for."""
        self._queue: asyncio.Queue[Message | Exception] = asyncio.Queue(AHEAD)
        self._held = 0
        self._room = asyncio.Event()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while True:
                message = await self._read()
                if message.kind == b"X":
                    raise ConnectionClosed("client close request")
                await self._put(message)
        except ConnectionClosed as end:
            self._leave()
            if self._wanted and self.empty:
                self._left()
            await self._queue.put(end)
        except ProtocolError as error:
            await self._queue.put(error)

    async def _read(self) -> Message:
        head = await self._channel.read_exactly(_HEAD.size)
        kind, length = _HEAD.unpack(head)
        size = length - 4
        if size < 0 or size > (LONGEST_SKIPPED if kind in LONG else LONGEST) or len(head) + size > self._longest():
            more = await self._channel.read_exactly(min(SHOWN - len(head), self._channel.buffered))
            raise BadHeader(head + more)
        if size <= LONGEST:
            return Message(kind, await self._channel.read_exactly(size), size)
        for start in range(0, size, SKIP):
            await self._channel.read_exactly(min(SKIP, size - start))
        return Message(kind, None, size)

    async def _put(self, message: Message) -> None:
        self._room.clear()
        if self._held and self._held + message.size > AHEAD_BYTES:
            await self._room.wait()
        self._held += message.size if message.body is not None else 0
        await self._queue.put(message)

    def _leave(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    async def next(self) -> Message:
        """The next message. Raises ConnectionClosed, ProtocolError."""
        self._wanted = True
        item = await self._queue.get()
        self._wanted = False
        if isinstance(item, Exception):
            raise item
        if item.body is not None:
            self._held -= item.size
        if not self._held:
            self._room.set()
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
