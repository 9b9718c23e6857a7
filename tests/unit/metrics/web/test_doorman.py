"""Who comes in to the HTTP server when there are too many, from accept on: before TLS is agreed on as well."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrics.web import doorman
from metrics.web.http import build_app
from metrics.web.listener import HttpServer, serve_http
from pooler import kernel
from tests.fixtures.authority import Authority
from tests.fixtures.figures import snapshot, soon

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def nobody_elses(descriptor: int) -> bool:
    return False


def play(
    scene: Callable[[HttpServer], Any], *, tls: ssl.SSLContext | None = None, kept: Callable[[int], bool] = nobody_elses
) -> list[str]:
    """What the log was told."""
    told: list[str] = []

    async def bounded() -> None:
        async with asyncio.timeout(60):
            app = build_app(lambda **_: snapshot())
            server = await serve_http(app, "127.0.0.1", 0, tls=tls, warn=told.append, kept=kept)
            try:
                await scene(server)
            finally:
                await server.close()

    asyncio.run(bounded())
    return told


async def guests(server: HttpServer, count: int) -> list[Ends]:
    """So many who say nothing; all have been accepted."""
    found: list[Ends] = []
    for _ in range(count):
        found.append(await asyncio.open_connection(*server.address))
        await soon(lambda: len(server._door._guests) == len(found), "it to be accepted")
    return found


async def asked(server: HttpServer, tls: ssl.SSLContext | None = None) -> bytes:
    reader, writer = await asyncio.open_connection(*server.address, ssl=tls)
    writer.write(GET)
    try:
        return await reader.read()
    finally:
        writer.close()


def leave(ends: list[Ends]) -> None:
    for _, writer in ends:
        writer.close()


@pytest.fixture
def https(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's context, and a client's that trusts it."""
    authority = Authority(tmp_path)
    pair = authority.sign("localhost", names=("localhost", "127.0.0.1"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pair.cert, pair.key)
    return server, ssl.create_default_context(cafile=authority.root)


def test_who_has_not_even_begun_with_tls_counts_and_goes_first(
    monkeypatch: pytest.MonkeyPatch, https: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    monkeypatch.setattr(doorman, "most", lambda: 3)

    async def scene(server: HttpServer) -> None:
        silent = await guests(server, 3)
        assert b" 200 OK" in await asked(server, https[1])
        assert await silent[0][0].read() == b""
        assert not silent[1][0].at_eof()
        leave(silent)
        await soon(lambda: not server._door._guests, "nobody to be counted")

    assert play(scene, tls=https[0]) == []


def test_what_is_no_tls_is_counted_no_longer(https: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def scene(server: HttpServer) -> None:
        assert b" 200 OK" not in await asked(server)
        await soon(lambda: not server._door._guests, "nobody to be counted")

    assert play(scene, tls=https[0]) == []


def test_descriptors_that_are_kept_for_others_are_taken_by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "FEW", 2)

    async def scene(server: HttpServer) -> None:
        silent = await guests(server, 2)
        assert b" 200 OK" in await asked(server)
        assert await silent[0][0].read() == b""
        leave(silent)

    assert play(scene, kept=lambda descriptor: True) == []


def test_with_all_at_work_the_newcomer_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "most", lambda: 1)

    async def scene(server: HttpServer) -> None:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await asked(server) == b""
        assert await reader.readuntil(b"\n")
        writer.close()

    assert play(scene) == []


@pytest.mark.parametrize(("limit", "most"), [(20, 8), (64, 8), (256, 32), (1024, 128), (1 << 30, 512)])
def test_there_may_be_as_many_as_an_eighth_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, limit: int, most: int
) -> None:
    monkeypatch.setattr(kernel, "limits", lambda: (limit, limit))
    assert doorman.most() == most


def watched_instead(door: Any, listener: Any) -> None:
    """From now on the door accepts at this one, which stands for its own."""
    door._loop.remove_reader(listener.fileno())
    door._sockets = [listener]
    door._loop.add_reader(listener, door._accept, listener)


def test_without_a_descriptor_one_goes_and_accepting_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it cannot be watched the first time."""
    monkeypatch.setattr(doorman, "REST", 0.01)

    async def scene(server: HttpServer) -> None:
        silent = await guests(server, 1)
        door: Any = server._door
        watched_instead(door, Full(door._sockets[0]))
        monkeypatch.setattr(door._loop, "add_reader", Failing(door._loop.add_reader, OSError(errno.ENOSPC, "no space")))
        assert b" 200 OK" in await asked(server)
        assert await silent[0][0].read() == b""
        leave(silent)

    assert play(scene) == ["http: accept() failed: Too many open files", "fault in http: OSError: [Errno 28] no space"]


@pytest.mark.parametrize("where", ["_made", "_let_in"])
def test_who_cannot_be_let_in_is_let_go_and_the_next_comes_in(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bug of ours, or no memory."""

    async def scene(server: HttpServer) -> None:
        door: Any = server._door
        if where == "_made":
            monkeypatch.setattr(door, "_made", Failing(door._made, MemoryError("for nobody")))
        else:
            failing = Failing(door._loop.connect_accepted_socket, MemoryError("for nobody"))
            monkeypatch.setattr(door._loop, "connect_accepted_socket", failing)
        assert await asked(server) == b""
        assert not door._guests
        assert b" 200 OK" in await asked(server)

    (told,) = play(scene)
    assert told.startswith("fault in http: MemoryError")


class Failing:
    """Fails the first time it is called."""

    def __init__(self, really: Callable[..., Any], error: Exception) -> None:
        self.really = really
        self.errors = [error]

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self.errors:
            raise self.errors.pop()
        return self.really(*given, **named)


class Full:
    """A listener of a process that has no descriptor left the first time."""

    def __init__(self, listener: Any) -> None:
        self.listener = listener
        self.fileno, self.close = listener.fileno, listener.close
        self.accept = Failing(listener.accept, OSError(errno.EMFILE, "Too many open files"))
