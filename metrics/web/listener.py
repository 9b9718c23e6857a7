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

from metrics.web.patience import Patience
from pooler.rounds import Rounds, described

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from metrics.web.doorman import Doorman

UNREAD_SECONDS = 60
"""How long the kernel keeps what a client does not read or acknowledge."""
CLOSE_SECONDS = 0.5

LOG = logging.getLogger("metrics.web.http")


class HttpError(Exception):
    """The HTTP server cannot start; the message says why and what to do."""


class HttpServer:
    """A server that listens; `address` is where."""

    def __init__(
        self, server: Any, task: asyncio.Task[None], door: Doorman, streams: Any, beside: asyncio.Task[None] | None
    ) -> None:
        self._server = server
        self._door = door
        self._task = task
        self._streams = streams
        self._beside = beside
        self.address = door.address

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop listening, end the streams, drop what does not end by itself. A request whose thread is stuck is left
        to its fate."""
        self._door.close()
        if self._beside is not None:
            self._beside.cancel()
        if self._streams is not None:
            self._streams.close()
        self._server.should_exit = True
        self._door.stirred.set()
        await asyncio.wait((self._task,), timeout=min(seconds, CLOSE_SECONDS))
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.wait((self._task,), timeout=seconds)
        if self._task.done():
            self._task.result()


async def serve_http(
    app: Starlette,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    warn: Callable[[str], object] = LOG.warning,
    rounds: Rounds | None = None,
    pace: Callable[[], None] = lambda: None,
    kept: Callable[[int], bool] = lambda descriptor: False,
) -> HttpServer:
    """Listen and return; the server runs as a task. `host` may be empty or `*` for all addresses, port 0
    any. `pace` is called between all steps of reading, which are short. `kept` tells which descriptors are kept for
    others than HTTP. What the application does beside answering, `app.state.beside`, goes on until the end."""
    import uvicorn

    from metrics.web.doorman import Doorman
    from metrics.web.requests import protocol

    heard = rounds or Rounds(warn)
    door = Doorman(bind(host, port), tls, kept, heard)
    talks = protocol(pace, door.gone)
    strangers = Rounds(warn)
    _route_log(heard, strangers)
    config = uvicorn.Config(
        app, http=talks, ws="none", lifespan="off", interface="asgi3", access_log=False,
        log_config=None, server_header=False, proxy_headers=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    config.load()

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

        async def main_loop(self) -> None:
            """One turn a second, for the date header, instead of ten; and none while nobody is here."""
            patience = Patience()

            async def turn() -> None:
                await self.on_tick(0)
                for connection in patience.weary(self.server_state.connections, time.monotonic()):
                    connection.transport.abort()
                strangers.tell()
                door.stirred.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1 if door.crowd or strangers.troubled else None):
                        await door.stirred.wait()

            await heard.forever("http", lambda: asyncio.sleep(0), turn, until=lambda: self.should_exit)

    server = Server(config)
    streams = getattr(app.state, "streams", None)
    if streams is not None:
        streams.abort = lambda client: _abort(server, client)
    # It listens by our door alone.
    task = asyncio.create_task(server.serve(sockets=[]), name="http server")
    while not server.started and not task.done():
        await asyncio.sleep(0)
    if task.done():
        door.close()
        await task
    state = server.lifespan.state
    door.open(lambda: talks(config=config, server_state=server.server_state, app_state=state))
    work = getattr(app.state, "beside", None)
    beside = None if work is None else asyncio.create_task(work(), name="beside http")
    return HttpServer(server, task, door, streams, beside)


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
    """uvicorn's warnings as single lines; an exception is named, its traceback is not shown. Each is told once, then by
    its number. A fault of ours is one of `rounds`; what `strangers` have done wrong is none, and neither is one who
    leaves before all was said."""

    def __init__(self, rounds: Rounds, strangers: Rounds) -> None:
        super().__init__(logging.WARNING)
        self._rounds = rounds
        self._strangers = strangers

    def emit(self, record: logging.LogRecord) -> None:
        from starlette.requests import ClientDisconnect

        text = record.getMessage().splitlines()[0]
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            self._strangers.failed(text, ValueError(text), f"http: {text}")
        elif not isinstance(error, ClientDisconnect):
            self._rounds.failed("http", error, f"http: {text}: {described(error)}")


def _route_log(rounds: Rounds, strangers: Rounds) -> None:
    log = logging.getLogger("uvicorn.error")
    log.handlers = [_OneLine(rounds, strangers)]
    log.propagate = False
