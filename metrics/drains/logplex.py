"""`https://` drains in Logplex's form: frames of octet-counted syslog lines, POSTed one after another.

<LEN> <PRI>1 TIME host <source> <process> - <text>\\n        no STRUCTURED-DATA: Logplex's documented
deviation

A frame is about 100 kB at most. 2xx means delivered; 4xx but 429 means never try again; all else is tried
twice more under the same frame id. What is given up is counted into the L10 notice that opens the next
frame.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote
from uuid import uuid4

from metrics.drains.delivery import REQUEST_SECONDS, Drain, Undelivered, syslog_line
from metrics.drains.post import Connection
from metrics.drains.sink import BUFFER, Loss
from metrics.heroku import LogLine
from pooler.rounds import Rounds

BODY_BYTES = 100_000
RETRIES = 2
RETRY_PAUSE = 1.0
"""Before the first retry; twice as long before the second."""
HOSTNAME = "host"
PORTS = {"https": 443, "http": 80}
SAFE = "/%:@!$&'()*+,;=?"
"""Characters of a path and query that stay as the operator wrote them."""
USER_AGENT = "Logplex/pooler"


@dataclass(frozen=True, slots=True)
class Frame:
    """One request, the same in every attempt."""

    id: str
    count: int
    body: bytes


class LogplexDrain(Drain):
    def __init__(self, url: SplitResult, rounds: Rounds) -> None:
        super().__init__(url, PORTS[url.scheme], rounds)
        self._tls = url.scheme == "https"
        query = f"?{quote(url.query, SAFE)}" if url.query else ""
        self._path = quote(url.path or "/", SAFE) + query
        self._headers = _headers(url, self.token)
        self._connection: Connection | None = None

    async def _send_some(self) -> None:
        loss = self._backlog.untold
        lines = self._backlog.take(BUFFER, BODY_BYTES, lambda line: len(encoded(line)))
        self._in_flight = len(lines)
        delivered = False
        try:
            delivered = await self._deliver(_frame(lines, loss))
        finally:
            self._in_flight = 0
            if not delivered:
                self._backlog.lose(lines)
        if delivered:
            self._delivered += len(lines)
            self._backlog.told(loss, lines[-1].when)

    async def _deliver(self, frame: Frame) -> bool:
        """All attempts at one frame: True when the other side took it."""
        for attempt in range(1 + RETRIES):
            if attempt:
                self._retries += 1
                await self._pause(RETRY_PAUSE * attempt)
                if self._closing.is_set():
                    return False
            try:
                status = await self._post(frame)
            except Undelivered as failure:
                self._hang_up()
                self._last_error = str(failure)
                continue
            if 200 <= status < 300:
                self._last_error = ""
                return True
            self._last_error = f"answered {status}"
            if 400 <= status < 500 and status != 429:
                return False
        return False

    async def _post(self, frame: Frame) -> int:
        """One attempt. A kept connection that turns out to be closed is replaced and does not count as
        one."""
        headers = (
            *self._headers,
            ("Logplex-Msg-Count", str(frame.count)),
            ("Logplex-Frame-Id", frame.id),
            ("Content-Length", str(len(frame.body))),
        )
        kept = self._connection is not None and self._connection.reusable
        if not kept:
            self._hang_up()
            self._connection = Connection(*await self._connect(self._tls))
        assert self._connection is not None
        self._state = "connected"
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._connection.post(self._path, headers, frame.body)
        except TimeoutError:
            raise Undelivered(f"no answer within {REQUEST_SECONDS:.0f} s") from None
        except Undelivered:
            if not kept or self._connection.answered:
                raise
        self._hang_up()
        return await self._post(frame)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _frame(lines: list[LogLine], loss: Loss | None) -> Frame:
    notice = [loss.notice(lines[0].when)] if loss else []
    return Frame(uuid4().hex, len(notice) + len(lines), b"".join(map(encoded, (*notice, *lines))))


def encoded(line: LogLine) -> bytes:
    return syslog_line(line, HOSTNAME, "-")


def _headers(url: SplitResult, token: str) -> tuple[tuple[str, str], ...]:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname or ""
    headers = [
        ("Host", f"{host}:{url.port}" if url.port else host),
        ("Content-Type", "application/logplex-1"),
        ("Logplex-Drain-Token", token),
        ("User-Agent", USER_AGENT),
    ]
    if url.username is not None or url.password is not None:
        pair = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
        headers.append(("Authorization", "Basic " + base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()))
    return tuple(headers)
