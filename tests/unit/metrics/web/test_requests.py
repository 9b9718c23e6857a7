"""HTTP from strangers: what is read of it at once, how much there may be, and who goes when there are too many."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metrics.web import doorman, requests
from metrics.web.http import build_app
from metrics.web.listener import HttpServer, serve_http
from pooler.rounds import Rounds
from tests.fixtures.figures import snapshot, soon
from tests.fixtures.waiting import million_turns

LONGEST_STEP = 1.0
"""Of what a million turns of a loop take: this thread's processor time between two looks at the clock, of which a step
takes a tenth where nothing disturbs it."""


@pytest.fixture(autouse=True, scope="module")
def only_our_own_garbage() -> Iterator[None]:
    """What the other tests have left is not collected in our time; a pooler freezes what it has loaded as well."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Pace:
    """What the relay would be asked: how long it had to wait between two times."""

    def __init__(self) -> None:
        self.times = 0
        self.longest = 0.0
        self._last = time.thread_time()

    def __call__(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self.times, self._last = self.times + 1, now


@asynccontextmanager
async def serving(
    pace: Pace | None = None, rounds: Rounds | None = None, warn: Callable[[str], object] = lambda text: None
) -> AsyncIterator[HttpServer]:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        size = len(await Request(scope, receive).body())
        await PlainTextResponse(f"{size} bytes")(scope, receive, send)

    app = build_app(lambda **_: snapshot(), fallback=echo)
    server = await serve_http(app, "127.0.0.1", 0, warn=warn, pace=pace or Pace(), rounds=rounds)
    try:
        yield server
    finally:
        await server.close()


def play(scene: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(bounded())


async def answer(server: HttpServer, data: bytes, *, until: bytes = b"") -> bytes:
    """All that comes back; or up to the first `until`."""
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        writer.write(data)
        if until:
            return await reader.readuntil(until)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /any HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "served"),
    [
        (GET + b"X: y\r\n" * 100 + LAST, True),
        (GET + b"Cookie: " + b"c" * 15_000 + b"\r\n" + LAST, True),
        (GET + b"X: y\r\n" * 200 + LAST, False),
        (GET + b"a:\n" * 80_000 + LAST, False),
        (GET + b"Cookie: " + b"c" * 30_000 + b"\r\n" + LAST, False),
        (GET + b"Cookie: " + b"c" * 1_000_000, False),
        (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + LAST, False),
        (b"\n" * 100_000, False),
        (GET + LAST[:19] + b"\r\n" + GET + b"a:\n" * 80_000 + LAST, False),
    ],
    ids=[
        "a hundred headers", "a large cookie", "too many headers", "far too many", "too large a cookie",
        "one without end", "a path without end", "blank lines", "too many, pipelined",
    ],
)  # fmt: skip
def test_heads_are_bounded(head: bytes, served: bool) -> None:
    async def scene() -> None:
        pace = Pace()
        async with serving(pace) as server:
            said = await answer(server, head)
            assert said.count(b" 200 ") == served or b" 200 " not in said[-60:]
            assert (b"HTTP/1.1 400 " in said or not said) is not served
            assert pace.longest < LONGEST_STEP * million_turns()
            assert b" 200 OK" in await answer(server, GET + LAST)

    play(scene)


def test_requests_may_follow_one_another_without_waiting() -> None:
    async def scene() -> None:
        async with serving() as server:
            body = b"x" * 100_000
            post = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
            said = await answer(server, (GET + b"\r\n" + post) * 5 + GET + LAST)
            assert said.count(b"200 OK") == 11
            assert said.count(b"100000 bytes") == 5

    play(scene)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n",
        b"1;" + b"e" * 10_000 + b"\r\nx\r\n" + b"0\r\n\r\n",
        b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n0\r\n\r\n",
        b"1\r\nx\r\n0\r\n" + b"a:\n" * 5_000 + b"\n",
    ],
    ids=["the smallest chunks", "a long extension", "a large chunk", "a long trailer"],
)
def test_a_body_in_pieces_is_read_in_short_steps(body: bytes) -> None:
    async def scene() -> None:
        pace = Pace()
        async with serving(pace) as server:
            said = await answer(server, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body, until=b"bytes")
            assert b"200 OK" in said
            assert pace.longest < LONGEST_STEP * million_turns()

    play(scene)


@pytest.mark.parametrize(
    "body",
    [b"1\r\nx\r\n0\r\n" + b"a:\n" * 80_000, b"1;" + b"e" * 80_000, b"z\r\n"],
    ids=["a trailer without end", "an extension without end", "no chunk"],
)
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    async def scene() -> None:
        pace = Pace()
        async with serving(pace) as server:
            said = await answer(server, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
            assert b"200 OK" not in said
            assert pace.longest < LONGEST_STEP * million_turns()

    play(scene)


CHUNKED = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (GET + b"Content-Length: abc\r\n\r\n", b""),
        (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b""),
        (GET + b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b""),
        (b"GET /events HTTP/1.1\r\n" + CHUNKED + b"zz\r\n", b""),
        (b"GET /events HTTP/1.1\r\n" + CHUNKED, b"zz\r\n"),
        (b"GET /healthz HTTP/1.1\r\n" + CHUNKED, b"zz\r\n"),
        (b"POST /any HTTP/1.1\r\n" + CHUNKED + b"1\r\nx\r\n", b"zz\r\n"),
        (POST + b"Content-Length: 10\r\n\r\nabc", b""),
        (GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", b""),
    ],
    ids=[
        "a length that is none", "two lengths", "a length and chunks", "no chunk at once", "no chunk in a stream",
        "no chunk after the answer", "no chunk in a body", "a body that breaks off", "an upgrade",
    ],
)  # fmt: skip
def test_a_strangers_bad_request_is_no_fault_of_ours(first: bytes, then: bytes) -> None:
    faults: list[str] = []
    rounds = Rounds(faults.append)

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context)))
        async with serving(rounds=rounds) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(first)
            if then:
                said = reader.readuntil(b"\r\n\r\n") if b"/any" not in first else asyncio.sleep(0)
                await said
                writer.write(then)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            assert b" 200 OK" in await answer(server, GET + LAST)

    play(scene)
    assert faults == []


def test_many_bad_requests_are_one_line() -> None:
    told: list[str] = []

    async def scene() -> None:
        async with serving(warn=told.append) as server:
            for _ in range(20):
                assert b" 400 " in await answer(server, GET + b"Content-Length: abc\r\n\r\n")

    play(scene)
    assert told == ["http: Invalid HTTP request received."]


def test_of_too_many_connections_the_one_that_waits_the_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "most", lambda: 3)

    async def scene() -> None:
        async with serving() as server:
            stream, writing = await asyncio.open_connection(*server.address)
            writing.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await stream.readuntil(b"\r\n\r\n")
            silent = [await asyncio.open_connection(*server.address) for _ in range(2)]
            await soon(lambda: len(server._server.server_state.connections) == 3, "all to be there")
            assert b" 200 OK" in await answer(server, GET + LAST)
            assert await silent[0][0].read() == b""
            assert not silent[1][0].at_eof()
            assert await stream.readuntil(b"\n")
            for _, writer in (*silent, (stream, writing)):
                writer.close()

    play(scene)


def test_a_fault_in_reading_one_request_is_told_and_the_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bug of ours, or no memory: where reading goes on later, nobody else would see to the connection."""
    told: list[str] = []

    def heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        told.append(repr(context["exception"]))

    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    async def scene() -> None:
        wanted = asyncio.Event()

        async def takes_its_time(scope: Any, receive: Any, send: Any) -> None:
            await wanted.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        app = build_app(lambda **_: snapshot(), fallback=takes_its_time)
        server = await serve_http(app, "127.0.0.1", 0, warn=lambda text: None)
        asyncio.get_running_loop().set_exception_handler(heard)
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(POST + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000)
        connections = server._server.server_state.connections
        await soon(lambda: connections and all(each.flow.read_paused for each in connections), "its body to wait")
        with monkeypatch.context() as broken:
            broken.setattr(requests.Careful, "receive_data", fails)
            wanted.set()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert told == ["RuntimeError('a bug')"]
        assert b" 200 OK" in await answer(server, GET + LAST)
        writer.close()
        await server.close()

    play(scene)
