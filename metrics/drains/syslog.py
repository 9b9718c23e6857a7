"""`syslog://` and `syslog+tls://` drains: RFC 5424 messages with RFC 6587 octet counting over one TCP
connection.

<LEN> <PRI>1 TIME <drain token> <source> <process> - - <text>\\n

Syslog acknowledges nothing: a line counts as delivered when the kernel has taken it. A batch during which
the connection failed is sent again on the next one, so a receiver may see lines twice but not miss them
silently.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import SplitResult

from metrics.drains.delivery import REQUEST_SECONDS, Drain, Undelivered, reason, syslog_line
from pooler.rounds import Rounds

PORTS = {"syslog": 514, "syslog+tls": 6514}
BATCH_LINES = 64
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class SyslogDrain(Drain):
    def __init__(self, url: SplitResult, rounds: Rounds) -> None:
        super().__init__(url, PORTS[url.scheme], rounds)
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None
        self._next_pause = FIRST_PAUSE

    async def _send_some(self) -> None:
        """Deliver the oldest lines, however many connections it takes."""
        loss = self._backlog.untold
        lines = self._backlog.take(BATCH_LINES)
        self._in_flight = len(lines)
        delivered = False
        try:
            told = ([loss.notice(lines[0].when)] if loss else []) + lines
            delivered = await self._carried(b"".join(syslog_line(line, self.token, "- -") for line in told))
        finally:
            self._in_flight = 0
            if not delivered:
                self._backlog.lose(lines)
        if delivered:
            self._delivered += len(lines)
            self._backlog.told(loss, lines[-1].when)

    async def _carried(self, data: bytes) -> bool:
        """All attempts: False when the drain was closed over them."""
        while not await self._sent(data):
            if self._closing.is_set():
                return False
        return True

    async def _sent(self, data: bytes) -> bool:
        """One attempt; after a failed one the pause before the next has passed."""
        try:
            await self._write(data)
        except Undelivered as failure:
            self._hang_up()
            self._last_error = str(failure)
            self._retries += 1
            await self._pause(self._next_pause)
            self._next_pause = min(self._next_pause * 2, LONGEST_PAUSE)
            return False
        self._last_error = ""
        self._next_pause = FIRST_PAUSE
        return True

    async def _write(self, data: bytes) -> None:
        if self._writer is None or (self._watch is not None and self._watch.done()):
            self._hang_up()
            reader, self._writer = await self._connect(tls=self.kind == "syslog+tls")
            self._writer.transport.set_write_buffer_limits(high=0)
            self._watch = asyncio.create_task(_until_closed(reader))
        self._state = "connected"
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise Undelivered(f"nothing was read for {REQUEST_SECONDS:.0f} s") from None
        except OSError as error:
            raise Undelivered(reason(error)) from error

    def _hang_up(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._writer is not None:
            if self._closing.is_set():
                self._writer.close()
            else:
                self._writer.transport.abort()
        self._watch = self._writer = None


async def _until_closed(reader: asyncio.StreamReader) -> None:
    """A receiver has nothing to say; that it went must be known before the next line is written to it."""
    with suppress(OSError):
        while await reader.read(4096):
            pass
