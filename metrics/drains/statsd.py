"""StatsD push: `statsd://HOST[:8125]` among the drains, off unless named. One set of figures per database and period.

Gauges are the keys of the log line, ours included; counters are what was gained since the push before. Plain StatsD has
the database in the name, `?format=dogstatsd` in a tag. UDP is told to nobody: what the kernel refuses is counted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult, parse_qs

from metrics.drains.delivery import reason, target
from metrics.drains.sink import DrainError
from metrics.heroku import EXTRA_KEYS, KEYS, LogLine, Share, shares
from pooler.rounds import Rounds
from pooler.stats import DrainStat, Snapshot, gained

PORT = 8125
PACKET_BYTES = 1432
"""What fits into an Ethernet frame, as StatsD clients cut it."""
FORMATS = ("statsd", "dogstatsd")

COUNTS = {
    "transactions": "xact_count",
    "queries": "query_count",
    "received_bytes": "bytes_received",
    "sent_bytes": "bytes_sent",
    "wait_us": "wait_time",
    "logins": "client_login_count",
}
"""Name in StatsD to field of Counters."""


class StatsdPush(asyncio.DatagramProtocol):
    """A sink of figures, not of lines."""

    def __init__(self, url: SplitResult, rounds: Rounds) -> None:
        self._rounds = rounds
        self._address = url.hostname or "", url.port or PORT
        self._target = target(url)
        asked = parse_qs(url.query)
        self._format = asked.get("format", ["statsd"])[-1]
        self._prefix = asked.get("prefix", ["pooler"])[-1]
        if self._format not in FORMATS:
            raise DrainError(f"statsd format {self._format!r} is unknown: use {' or '.join(FORMATS)}")
        self._before: Snapshot | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._task: asyncio.Task[None] | None = None
        self._delivered = self._dropped = 0
        self._last_error = ""
        self._closed = False

    def push(self, snapshot: Snapshot) -> None:
        lines = list(self.lines(snapshot))
        self._before = snapshot
        if self._closed or (self._task is not None and not self._task.done()):
            self._dropped += len(lines)
            return
        self._task = asyncio.get_running_loop().create_task(self._pushed(lines), name="statsd push")

    def lines(self, snapshot: Snapshot) -> Iterator[str]:
        """`name:value|type`, gauges first, for each pooled database."""
        before = {stat.name: stat for stat in self._before.databases} if self._before else None
        for share in shares(snapshot, extra=True, since=self._before):
            yield from (self._line(key, share, read(share), "g") for key, read in (*KEYS, *EXTRA_KEYS))
            if before is not None:
                counters = gained(share.stat, before.get(share.stat.name))
                for name, field in COUNTS.items():
                    yield self._line(name, share, getattr(counters, field), "c")

    def _line(self, name: str, share: Share, value: int, kind: str) -> str:
        database = clean(share.stat.name)
        if self._format == "dogstatsd":
            return f"{self._prefix}.{name}:{value}|{kind}|#database:{database}"
        return f"{self._prefix}.{database}.{name}:{value}|{kind}"

    async def _pushed(self, lines: list[str]) -> None:
        """Each line is delivered or counted as dropped, whatever happens."""
        before = self._delivered
        try:
            await self._rounds.once("statsd", self._send(lines))
        finally:
            self._dropped += len(lines) - (self._delivered - before)

    async def _send(self, lines: list[str]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._transport is None:
                self._transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=self._address)
        except (OSError, UnicodeError) as error:
            self._last_error = reason(error)
            return
        self._last_error = ""
        for packet in packets(lines):
            self._transport.sendto(packet)
        self._delivered += len(lines)

    def error_received(self, exc: Exception) -> None:
        """The kernel says nobody listens there."""
        self._last_error = reason(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """The next push has to open another."""
        self._transport = None
        if exc is not None:
            self._last_error = reason(exc)

    def emit(self, lines: Sequence[LogLine]) -> None:
        """Lines are for others."""

    def reopen(self) -> None:
        """Nothing to rotate."""

    def stats(self) -> DrainStat:
        state = "closed" if self._closed else "waiting" if self._last_error else "connected"
        return DrainStat("statsd", self._target, state, 0, self._delivered, self._dropped, 0, self._last_error)

    async def close(self, timeout: float = 1.0) -> None:
        self._closed = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()


def clean(name: str) -> str:
    """A database's name as one word of a metric's name, or a tag's value."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name) or "_"


def packets(lines: list[str]) -> Iterator[bytes]:
    """As many lines to a packet as fit."""
    packet = b""
    for line in lines:
        data = line.encode()
        if packet and len(packet) + 1 + len(data) > PACKET_BYTES:
            yield packet
            packet = b""
        packet = packet + b"\n" + data if packet else data
    if packet:
        yield packet
