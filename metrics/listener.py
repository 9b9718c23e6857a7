"""An ASGI application on a port, by uvicorn inside the running loop.

Signals stay the pooler's, requests are not logged, and a reader that takes nothing is dropped by the
kernel. A port that cannot be had is an HttpError with one clear sentence. What uvicorn has to say goes to
`warn`, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from metrics.patience import Patience

if TYPE_CHECKING:
    from starlette.applications import Starlette

UNREAD_SECONDS = 60
"""How long the kernel keeps what a client does not read or acknowledge."""
MAX_CONNECTIONS = 512
CLOSE_SECONDS = 0.5

LOG = logging.getLogger("metrics.http")


class HttpError(Exception):
    """The HTTP server cannot start; the message says why and what to do."""


class HttpServer:
    """A server that listens; `address` is where."""

    def __init__(self, server: Any, task: asyncio.Task[None], sockets: list[socket.socket], streams: Any) -> None:
        self._server = server
        self._task = task
        self._streams = streams
        self.address: tuple[str, int] = sockets[0].getsockname()[:2]

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening, end the streams, drop what does not end by itself."""
        if self._streams is not None:
            self._streams.close()
        self._server.should_exit = True
        self._server.ended.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(self._task)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await self._task


async def serve_http(
    app: Starlette,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    warn: Callable[[str], object] = LOG.warning,
) -> HttpServer:
    """Listen and return; the server runs as a task. `host` may be empty or `*` for all addresses, port 0
    any."""
    import uvicorn

    sockets = bind(host, port)
    _route_log(warn)
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", interface="asgi3", access_log=False, log_config=None,
        server_header=False, limit_concurrency=MAX_CONNECTIONS, proxy_headers=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    config.load()
    config.ssl = tls

    class Server(uvicorn.Server):
        ended = asyncio.Event()

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

        async def main_loop(self) -> None:
            """One turn a second, for the date header, instead of ten."""
            patience = Patience()
            while not await self.on_tick(0):
                for connection in patience.weary(self.server_state.connections, time.monotonic()):
                    connection.transport.abort()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self.ended.wait()

    server = Server(config)
    streams = getattr(app.state, "streams", None)
    if streams is not None:
        streams.abort = lambda client: _abort(server, client)
    task = asyncio.create_task(server.serve(sockets=sockets), name="http server")
    while not server.started and not task.done():
        await asyncio.sleep(0)
    if task.done():
        await task
    return HttpServer(server, task, sockets, streams)


def _abort(server: Any, client: tuple[str, int] | None) -> None:
    for connection in list(server.server_state.connections):
        if connection.client == client:
            connection.transport.abort()


def address_of(text: str) -> tuple[str, int]:
    """HOST:PORT or [IPV6]:PORT; a PORT alone is on loopback, *:PORT on all addresses."""
    host, _, port = text.rpartition(":")
    host = host or "127.0.0.1"
    if not (port.isdecimal() and int(port) < 65536):
        raise HttpError(f"{text!r} is no address: HOST:PORT is wanted, such as 127.0.0.1:9127")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets for every address `host` has; all or HttpError."""
    where = f"{host or '*'}:{port}"
    wanted = None if host in ("", "*") else host
    try:
        found = socket.getaddrinfo(wanted, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise HttpError(f"cannot serve HTTP on {where}: {_reason(error)}") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        sockets.append(sock)
        try:
            _prepare(sock)
            if port == 0 and len(sockets) > 1:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sock.bind(address)
            sock.listen(128)
        except OSError as error:
            for opened in sockets:
                opened.close()
            hint = "; choose another with --http HOST:PORT" if error.errno == errno.EADDRINUSE else ""
            raise HttpError(f"cannot serve HTTP on {where}: {_reason(error)}{hint}") from error
    return sockets


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _OneLine(logging.Handler):
    """uvicorn's warnings as single lines; an exception is named, its traceback is not shown."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().splitlines()[0]
        error = record.exc_info[1] if record.exc_info else None
        self._warn(f"http: {text}: {type(error).__name__}: {error}" if error else f"http: {text}")


def _route_log(warn: Callable[[str], object]) -> None:
    log = logging.getLogger("uvicorn.error")
    log.handlers = [_OneLine(warn)]
    log.propagate = False
