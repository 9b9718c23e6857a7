"""Responses written piece by piece: bounded in time or endless, and ended when the reader goes or the
pooler stops.

An ASGI response that waits for its source and for the reader's leaving at once, so that an idle tail does
not outlive its reader. What a reader does not take stays in its socket: there is never more than one piece
in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


ClientAddress = tuple[str, int] | None


class Streams:
    """All responses under way, at most `most` endless ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._endless = 0
        self._writers: set[asyncio.Future[None]] = set()
        self.closing = False
        self.abort: Callable[[ClientAddress], None] = lambda client: None
        """Set by the listener: drops the connection from an address."""

    def bounded(
        self,
        parts: AsyncIterator[bytes],
        content_type: str,
        seconds: float,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Response:
        """An answer with an end; cut off when its reader takes longer than `seconds` for it."""
        return _Stream(self, parts, content_type, dict(headers), seconds)

    def endless(self, parts: AsyncIterator[bytes], content_type: str, headers: Mapping[str, str]) -> Response:
        if self.closing or self._endless >= self._most:
            return PlainTextResponse("too many streams, come back later\n", 503, {"retry-after": "10"})
        return _Stream(self, parts, content_type, dict(headers), None)

    @contextmanager
    def counted(self, writer: asyncio.Future[None], endless: bool) -> Iterator[None]:
        self._writers.add(writer)
        self._endless += endless
        try:
            yield
        finally:
            self._writers.discard(writer)
            self._endless -= endless

    async def cut(self, client: ClientAddress) -> None:
        """Drop the connection of a reader that does not read: nothing more can be sent there."""
        self.abort(client)
        await asyncio.sleep(0.01)

    def close(self) -> None:
        """End them all: the pooler stops."""
        self.closing = True
        for writer in self._writers:
            writer.cancel()


class _Stream(Response):
    def __init__(
        self,
        streams: Streams,
        parts: AsyncIterator[bytes],
        content_type: str,
        headers: dict[str, str],
        seconds: float | None,
    ) -> None:
        self._streams = streams
        self._parts = parts
        self._seconds = seconds
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({**headers, "content-type": content_type})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(_left(receive))
        both: set[asyncio.Future[None]] = {writer, leaving}
        with self._streams.counted(writer, endless=self._seconds is None):
            try:
                await asyncio.wait(both, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                unfinished, left = not writer.done(), leaving.done()
                await _stop(both)
        if unfinished and not left:
            await self._streams.cut(scope["client"])
        elif not writer.cancelled() and (error := writer.exception()):
            raise error

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for part in self._parts:
                if part:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except asyncio.CancelledError:
            if not self._streams.closing:
                raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(tasks: set[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def beating(parts: AsyncIterator[bytes], seconds: float, beat: bytes) -> AsyncIterator[bytes]:
    """The same parts, with a `beat` whenever there was none for so long: the reader sees we are alive."""
    step: asyncio.Future[bytes] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(anext(parts))
            done, _ = await asyncio.wait({step}, timeout=seconds)
            if not done:
                yield beat
                continue
            try:
                part = step.result()
            except StopAsyncIteration:
                return
            finally:
                step = None
            yield part
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
