"""One HTTP/1.1 connection that can POST, kept open between requests: h11 over asyncio's streams.

h11 (which uvicorn needs anyway) is the protocol; this is its I/O. There is no pool, no redirect, no proxy
and no decoding: a drain wants a status. An answer's body is read only to keep the connection, and not
beyond MAX_BODY.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import h11

from metrics.drains.delivery import Undelivered, reason

MAX_BODY = 64 * 1024


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.answered = False
        """Some of the answer to the last request has arrived."""

    @property
    def reusable(self) -> bool:
        """Idle, and not closed by the other side as far as is known."""
        return self._http.our_state is h11.IDLE and not self._reader.at_eof()

    async def post(self, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> int:
        """The status of the answer. Raises Undelivered; the caller bounds the time."""
        self.answered = False
        try:
            request = h11.Request(method="POST", target=path, headers=list(headers))
            self._writer.write((self._http.send(request) or b"") + (self._http.send(h11.Data(data=body)) or b""))
            self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
            await self._writer.drain()
            return await self._answer()
        except h11.RemoteProtocolError as error:
            raise Undelivered(f"not an HTTP answer: {error}") from error
        except h11.LocalProtocolError as error:
            raise Undelivered(f"not an HTTP request: {error}") from error
        except OSError as error:
            raise Undelivered(reason(error)) from error

    async def _answer(self) -> int:
        status, left = 0, MAX_BODY
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(16384)
                if not data and not self.answered:
                    raise Undelivered("connection closed without an answer")
                self.answered = True
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                left -= len(event.data)
                if left < 0:
                    self.close()
                    return status
            elif isinstance(event, h11.EndOfMessage):
                self._finish()
                return status
            elif isinstance(event, h11.ConnectionClosed):
                raise Undelivered("connection closed in the middle of an answer")

    def _finish(self) -> None:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()

    def close(self) -> None:
        self._writer.transport.abort()
