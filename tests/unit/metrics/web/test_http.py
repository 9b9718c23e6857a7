"""The HTTP front on a real port: answers, streams, slow readers, a busy port, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import uvicorn

from metrics.heroku import LogLine
from metrics.period import Reporter
from metrics.source import Unavailable
from metrics.web.details import Told
from metrics.web.http import build_app, serve_http
from metrics.web.listener import HttpError, HttpServer, address_of
from pooler.stats import HistorySample, Snapshot
from tests.fixtures.figures import database, pool, snapshot, soon


@asynccontextmanager
async def serving(source: Any = None, **more: Any) -> AsyncIterator[tuple[HttpServer, Reporter]]:
    told: list[str] = []
    source = source or (lambda **_: snapshot())
    reporter = Reporter(source)
    server = await serve_http(build_app(source, reporter, **more), "127.0.0.1", 0, warn=told.append)
    try:
        yield server, reporter
    finally:
        await server.close()
    assert told == []


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scene()

    asyncio.run(bounded())


async def get(server: HttpServer, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    def ask() -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(*server.address, timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
        connection.close()
        return found

    return await asyncio.to_thread(ask)


@asynccontextmanager
async def streaming(server: HttpServer, path: str) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    try:
        yield reader
    finally:
        writer.close()


async def chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


def test_a_scrape_negotiates_its_format() -> None:
    async def scene() -> None:
        async with serving() as (server, _):
            status, headers, text = await get(server, "/metrics")
            assert status == 200
            assert headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "\npgbouncer_databases_pool_size{" in text
            _, headers, text = await get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
            assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert text.endswith("# EOF\n")

    play(scene)


def test_health_and_readiness() -> None:
    state: dict[str, Any] = {"answer": snapshot()}

    def source(**_: bool) -> Snapshot:
        if isinstance(state["answer"], Exception):
            raise state["answer"]
        found: Snapshot = state["answer"]
        return found

    async def scene() -> None:
        async with serving(source) as (server, _):
            assert (await get(server, "/healthz"))[::2] == (200, "ok\n")
            assert (await get(server, "/readyz"))[::2] == (200, "ready\n")
            state["answer"] = snapshot(paused=True)
            assert (await get(server, "/readyz"))[::2] == (503, "not ready: paused\n")
            state["answer"] = snapshot(active=False)
            assert (await get(server, "/readyz"))[::2] == (503, "not ready: shutting down\n")
            state["answer"] = Unavailable("nobody there")
            assert (await get(server, "/readyz"))[::2] == (503, "not ready: nobody there\n")
            assert (await get(server, "/healthz"))[0] == 200
            assert (await get(server, "/metrics"))[2].endswith("pgbouncer_up 0.0\n")

    play(scene)


def test_logs_with_their_filters() -> None:
    async def scene() -> None:
        apps = {"shop": ("b", "c")}
        async with serving(addons=apps.get) as (server, reporter):
            reporter.publish([LogLine(n, f"m{n}", addon="abc"[n % 3]) for n in range(9)])
            reporter.publish([LogLine(9, "up", source="app", process="pooler")])

            async def messages(query: str) -> list[str]:
                status, headers, text = await get(server, f"/logs?json&{query}")
                assert (status, headers["content-type"]) == (200, "application/x-ndjson")
                return [json.loads(line)["message"] for line in text.splitlines()]

            assert await messages("n=2") == ["m8", "up"]
            assert await messages("n=2&source=heroku-pgbouncer") == ["m7", "m8"]
            assert await messages("n=3&app=shop") == ["m5", "m7", "m8"]
            assert len(await messages("n=0")) == 0
            assert len(await messages("")) == 10
            assert (await get(server, "/logs?app=nope"))[0] == 404
            assert (await get(server, "/logs?n=-1"))[0] == 400
            assert (await get(server, "/logs?n=99999999999999999999"))[0] == 400
            text = (await get(server, "/logs?n=1"))[2]
            assert text == "1970-01-01T00:00:09.000000+00:00 app[pooler]: up\n"

    play(scene)


def test_a_tail_goes_on_until_its_reader_leaves() -> None:
    async def scene() -> None:
        async with serving() as (server, reporter):
            reporter.publish([LogLine(0, "before")])
            async with streaming(server, "/logs?tail&n=1") as reader:
                assert (await chunk(reader)).endswith(b": before\n")
                await soon(lambda: reporter._followers, "the follower")
                reporter.publish([LogLine(1, "after")])
                assert (await chunk(reader)).endswith(b": after\n")
            await soon(lambda: not reporter._followers, "the follower to leave")

    play(scene)


def test_an_idle_tail_for_machines_shows_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.web.http.BEAT_SECONDS", 0.01)

    async def scene() -> None:
        async with serving() as (server, reporter), streaming(server, "/logs?tail&json") as reader:
            assert await chunk(reader) == b"\n"
            reporter.publish([LogLine(1, 'a "b"')])
            while (line := await chunk(reader)) == b"\n":
                pass
            assert json.loads(line)["message"] == 'a "b"'

    play(scene)


def test_events_begin_with_the_past_and_go_on_with_ticks() -> None:
    past = HistorySample(
        time=1.0, database="", seconds=1.0, tps=2.5, qps=3.0, bytes_received=4, bytes_sent=5, avg_xact_time=0,
        avg_query_time=6, avg_wait_time=7, cl_active=8, cl_waiting=9, sv_active=10, sv_idle=11, sv_total=21,
        maxwait_us=0, pool_size=12, query_times=(13, 14, 15),
    )  # fmt: skip
    told = Told("db:6432", lambda: (past, replace(past, database="app"), replace(past, database="pgbouncer")))

    async def scene() -> None:
        async with serving(told=told) as (server, _), streaming(server, "/events") as reader:
            said = []
            for _ in range(4):
                kind, data = (await chunk(reader)).decode().split("\n")[:2]
                said.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert [kind for kind, _ in said] == ["hello", "past", "trends", "tick"]
        hello, rows, _, tick = (value for _, value in said)
        assert hello == {"where": "db:6432", "log": False}
        none = [None, None, None]
        assert rows["rows"] == [[1.0, 1.0, 2.5, 3.0, 4, 5, 8, 9, 10, 11, 12, [6, 13, 14, 15], [7, *none]]]
        assert [(p["db"], p["user"], p["ca"]) for p in tick["pools"]] == [("app", "u", 56)]
        assert tick["all"]["tps"] is None

    play(scene)


def test_the_page_says_what_it_may_do() -> None:
    async def scene() -> None:
        async with serving() as (server, _):
            status, headers, text = await get(server, "/")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'sha256-")
            assert "unsafe" not in policy
            leads = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)|url\(([^)]*)|@import\s+(\S+)", text)
            places = {place for found in leads for place in found if place}
            assert {place for place in places if not place.startswith(("#", "data:"))} == {"metrics", "logs", "readyz"}
            assert text.count("<script>") == policy.split(";")[1].count("sha256-") == 6
            assert text.count("<style>") == policy.split(";")[2].count("sha256-") == 2
            assert "uPlot (v1.6.32)" in text
            assert "Copyright (c) 2022 Leon Sorokin" in text
            assert "<!-- scripts -->" not in text

    play(scene)


def test_paths_that_are_not_ours_go_to_the_other_application() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        await PlainTextResponse(f"other {scope['path']}")(scope, receive, send)

    async def scene() -> None:
        async with serving() as (server, _):
            assert (await get(server, "/apps/x"))[0] == 404
        async with serving(fallback=other) as (server, _):
            assert (await get(server, "/apps/x"))[2] == "other /apps/x"
            assert (await get(server, "/healthz"))[2] == "ok\n"

    play(scene)


@pytest.mark.slow
def test_a_scrape_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.web.http.SCRAPE_SECONDS", 0.3)
    many = snapshot(
        databases=tuple(database(f"database_{n}") for n in range(2000)),
        pools=tuple(pool(f"database_{n}") for n in range(2000)),
    )

    async def scene() -> None:
        async with serving(lambda **_: many) as (server, _):
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(deaf, server.address)
                await loop.sock_sendall(deaf, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await get(server, "/healthz"))[0] == 200
                connections = server._server.server_state.connections
                await soon(lambda: not connections, "the connection to be dropped")
            monkeypatch.setattr("metrics.web.http.SCRAPE_SECONDS", 60)
            assert (await get(server, "/metrics"))[2].count("\npgbouncer_databases_pool_size{") == 2000

    play(scene)


def test_the_server_ends_at_once_whoever_is_still_there() -> None:
    async def scene() -> None:
        told: list[str] = []
        reporter = Reporter(lambda **_: snapshot())
        app = build_app(lambda **_: snapshot(), reporter)
        server = await serve_http(app, "127.0.0.1", 0, warn=told.append)
        async with streaming(server, "/logs?tail&n=0") as reader, streaming(server, "/events") as events:
            idle, writer = await asyncio.open_connection(*server.address)
            await chunk(events)
            async with asyncio.timeout(5):
                await server.close()
            assert await reader.read() == b"0\r\n\r\n"
            assert await idle.read() == b""
            writer.close()
        assert told == []

    play(scene)


def test_streams_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.web.http.MAX_STREAMS", 1)

    async def scene() -> None:
        async with serving() as (server, _), streaming(server, "/logs?tail") as _reader:
            status, headers, _text = await get(server, "/events")
            assert (status, headers["retry-after"]) == (503, "10")

    play(scene)


def test_a_fault_in_a_handler_is_one_line_and_a_500() -> None:
    async def scene() -> None:
        told: list[str] = []

        def source(**_: bool) -> Snapshot:
            raise RuntimeError("a bug")

        server = await serve_http(build_app(source), "127.0.0.1", 0, warn=told.append)
        status, _, text = await get(server, "/metrics")
        assert (status, "bug" in text, "Traceback" in text) == (500, False, False)
        assert told == ["http: Exception in ASGI application: RuntimeError: a bug"]
        await server.close()

    play(scene)


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_clear_sentence() -> None:
    async def scene() -> None:
        async with serving() as (server, _):
            with pytest.raises(HttpError) as caught:
                await serve_http(build_app(lambda **_: snapshot()), *server.address)
            port = server.address[1]
            assert str(caught.value) == (
                f"cannot serve HTTP on 127.0.0.1:{port}: Address already in use; choose another with --http HOST:PORT"
            )
            with pytest.raises(HttpError, match=r"cannot serve HTTP on 192\.0\.2\.1:80: "):
                await serve_http(build_app(lambda **_: snapshot()), "192.0.2.1", 80)

    play(scene)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9127", ("127.0.0.1", 9127)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("127.0.0.1", 80)),
        ("80", ("127.0.0.1", 80)),
        ("*:80", ("*", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "localhost:http", "localhost:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(HttpError, match="is no address"):
        address_of(text)


@pytest.mark.parametrize("path", ["/", "/metrics", "/logs", "/events", "/page/clients", "/page/log"])
def test_a_web_page_of_another_name_reads_nothing_on_loopback(path: str) -> None:
    async def scene() -> None:
        async with serving() as (server, _):
            for stranger in ("evil.example", "evil.example:9127", "localhost.evil.example", "127.0.0.1.evil.example"):
                status, _, text = await get(server, path, Host=stranger)
                assert (status, "Host: localhost" in text) == (421, True), stranger
            assert (await get(server, "/healthz", Host="probe.example"))[0] == 200
            for own in ("localhost:9127", "127.0.0.1", "[::1]:9127", "app.localhost", socket.gethostname(), "10.0.0.7"):
                if path != "/events":
                    assert (await get(server, path, Host=own))[0] != 421, own

    play(scene)


@pytest.mark.slow
def test_who_never_finishes_a_request_is_ended_and_a_stream_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.web.patience.READ_SECONDS", 1.0)
    unfinished = [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
    ]

    async def scene() -> None:
        async with serving() as (server, reporter), streaming(server, "/logs?tail") as stream:
            slow = [await asyncio.open_connection(*server.address) for _ in unfinished]
            for (_, writer), text in zip(slow, unfinished, strict=True):
                writer.write(text)
            for reader, writer in slow:
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
                writer.close()
            reporter.publish([LogLine(1, "still here")])
            while b"still here" not in await chunk(stream):
                pass

    play(scene)


@pytest.mark.slow
def test_a_request_whose_thread_is_stuck_does_not_hold_up_the_end() -> None:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse

    stuck, released = threading.Event(), threading.Event()

    def work() -> None:
        stuck.set()
        released.wait(60)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await run_in_threadpool(work)
        await PlainTextResponse("late")(scope, receive, send)

    async def scene() -> None:
        server = await serve_http(build_app(lambda **_: snapshot(), fallback=application), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.to_thread(stuck.wait, 20)
        began = asyncio.get_running_loop().time()
        await server.close(0.3)
        assert asyncio.get_running_loop().time() - began < 5
        assert await reader.read() == b""
        writer.close()
        released.set()

    try:
        play(scene)
    finally:
        released.set()


@pytest.mark.slow
def test_while_nobody_is_here_nothing_turns_and_who_comes_has_the_right_date(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, tick = 0, uvicorn.Server.on_tick

    async def counted(self: uvicorn.Server, counter: int) -> bool:
        nonlocal turns
        turns += 1
        return await tick(self, counter)

    monkeypatch.setattr(uvicorn.Server, "on_tick", counted)

    async def scene() -> None:
        server = await serve_http(build_app(lambda **_: snapshot()), "127.0.0.1", 0)
        await asyncio.sleep(2.5)
        assert turns == 1
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        date = next(line.partition(": ")[2] for line in head.splitlines() if line.lower().startswith("date:"))
        assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 1.5
        before = turns
        await asyncio.sleep(2.5)
        assert 2 <= turns - before <= 3
        writer.close()
        await server.close()

    asyncio.run(scene())
