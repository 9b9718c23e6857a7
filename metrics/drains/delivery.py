"""What network drains have in common: the buffer, the task that empties it, and the figures about it.

A drain is its own task, started by its first line. `emit` only ever appends; whatever happens to the other
side happens to the task, and is told by `stats`, never raised. Errors are told without the URL, which holds
passwords.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from urllib.parse import SplitResult, unquote
from uuid import NAMESPACE_URL, uuid5

from metrics.drains.sink import Backlog
from metrics.heroku import LogLine, stamp
from pooler.rounds import Rounds, described
from pooler.stats import DrainStat

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 5.0

LOCAL0_INFO = 16 * 8 + 6
LOCAL5_WARNING = 21 * 8 + 4


class Undelivered(Exception):
    """An attempt failed; the message says how."""


class Drain:
    """A sink over the network. Subclasses say in `_send_some` how the oldest lines are delivered."""

    def __init__(self, url: SplitResult, default_port: int, rounds: Rounds) -> None:
        self._rounds = rounds
        self.kind = url.scheme
        self.host = url.hostname or ""
        self.port = url.port or default_port
        self.token = drain_token(url)
        self._target = target(url)
        self._backlog = Backlog()
        self._more = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._state = "idle"
        self._in_flight = 0
        self._delivered = 0
        self._retries = 0
        self._last_error = ""

    def emit(self, lines: Sequence[LogLine]) -> None:
        if self._closing.is_set():
            self._backlog.lose(lines)
            return
        self._backlog.push(lines)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"drain {self._target}")
        self._more.set()

    def reopen(self) -> None:
        """Nothing of a network drain is rotated."""

    def stats(self) -> DrainStat:
        return DrainStat(
            self.kind, self._target, self._state, len(self._backlog) + self._in_flight, self._delivered,
            self._backlog.dropped, self._retries, self._last_error,
        )  # fmt: skip

    async def close(self, timeout: float = 1.0) -> None:
        self._closing.set()
        self._more.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._backlog.lose(self._backlog.take(len(self._backlog)))
        self._state = "closed"

    async def _run(self) -> None:
        try:
            await self._rounds.forever("drain", self._until_lines, self._deliver_some, until=self._is_done)
        finally:
            self._hang_up()

    def _is_done(self) -> bool:
        return self._closing.is_set() and not self._backlog

    async def _until_lines(self) -> None:
        if not self._backlog:
            self._more.clear()
            await self._more.wait()

    async def _deliver_some(self) -> None:
        """What fails here, beyond what a drain knows to deal with, costs the lines it had taken and the connection."""
        if not self._backlog:
            return
        try:
            await self._send_some()
        except Exception as error:
            self._last_error, self._state = described(error), "waiting"
            self._hang_up()
            raise

    async def _send_some(self) -> None:
        """Deliver the oldest lines. Whatever happens, each is delivered or counted as lost."""
        raise TypeError("a drain says how it sends")

    def _hang_up(self) -> None:
        """Drop the connection, if there is one."""

    async def _pause(self, seconds: float) -> None:
        """Before the next attempt; cut short by `close`."""
        self._state = "waiting"
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _connect(self, tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._state = "connecting"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(
                    self.host, self.port, ssl=verified() if tls else None,
                    server_hostname=self.host if tls else None,
                )  # fmt: skip
        except TimeoutError:
            raise Undelivered(f"no connection within {CONNECT_SECONDS:.0f} s") from None
        except ssl.SSLCertVerificationError as error:
            raise Undelivered(f"certificate refused: {error.verify_message}") from error
        except (OSError, UnicodeError) as error:
            raise Undelivered(reason(error)) from error


@cache
def verified() -> ssl.SSLContext:
    """The system's certificates (SSL_CERT_FILE and SSL_CERT_DIR say otherwise), names checked, TLS 1.2 and
    up."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def target(url: SplitResult) -> str:
    """The drain as views and metrics name it: paths and queries often hold a token, so they are not shown."""
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = f":{url.port}" if url.port else ""
    more = "/..." if url.path.strip("/") or url.query else ""
    return f"{url.scheme}://{host}{port}{more}"


def drain_token(url: SplitResult) -> str:
    """A name for the drain that stays the same over restarts: d.<uuid>, from the URL without its password."""
    name = f"{url.scheme}://{unquote(url.username or '')}@{url.hostname}:{url.port}{url.path}"
    return f"d.{uuid5(NAMESPACE_URL, name)}"


def syslog_line(line: LogLine, hostname: str, after: str) -> bytes:
    """One octet-counted message; `after` is what stands between PROCID and the text."""
    priority = LOCAL5_WARNING if line.process == "logplex" else LOCAL0_INFO
    text = " ".join(line.body.splitlines())
    header = f"<{priority}>1 {stamp(line.when)} {hostname} {line.source} {line.process} {after}"
    message = f"{header} {text}\n".encode("utf-8", "backslashreplace")
    return b"%d %b" % (len(message), message)
