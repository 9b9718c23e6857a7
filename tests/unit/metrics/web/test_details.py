"""The tables of the page's tabs: what is in them, in which pieces, and what is not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from metrics.source import Unavailable
from metrics.web.details import LINE, PIECE, SETTING, SOCKET, Table, Told, chunks
from metrics.web.http import build_app, serve_http
from metrics.web.listener import HttpServer
from pooler.history import History
from pooler.stats import Snapshot
from tests.fixtures.figures import client, database, pool, snapshot, soon
from tests.unit.metrics.web.test_http import get, play


@asynccontextmanager
async def serving(source: Any, told: Told | None = None) -> AsyncIterator[HttpServer]:
    server = await serve_http(build_app(source, told=told, unwatched=0.01), "127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.close()


async def rows(server: HttpServer, path: str) -> list[dict[str, Any]]:
    status, headers, text = await get(server, path)
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/json", "no-store"), text
    table = json.loads(text)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_a_table_is_written_in_pieces() -> None:
    table = Table(("n",), ([n] for n in range(2 * PIECE + 1)))
    pieces = list(table.pieces())
    assert len(pieces) == 1 + 3 + 1
    assert json.loads(b"".join(pieces)) == {"columns": ["n"], "rows": [[n] for n in range(2 * PIECE + 1)]}
    assert json.loads(b"".join(Table(("n",), ()).pieces())) == {"columns": ["n"], "rows": []}
    assert b"".join(Table(("n",), [["\ud800"]]).pieces())


def test_a_past_without_rows_is_told_as_well() -> None:
    assert [chunk["first"] for chunk in chunks([])] == [True]
    assert [len(chunk["rows"]) for chunk in chunks([[n] for n in range(PIECE + 1)])] == [PIECE, 1]


def test_clients_and_servers_have_their_tables() -> None:
    asked: list[dict[str, bool]] = []
    found = client("psql <b>", state="waiting", wait_us=2_500_000, link="0x9")

    def source(**wanted: bool) -> Snapshot:
        asked.append({name: value for name, value in wanted.items() if value})
        server = replace(found, type="S", ptr="0x9")
        return snapshot(clients=[found] if wanted["clients"] else (), servers=[server] if wanted["servers"] else ())

    async def scene() -> None:
        async with serving(source) as server:
            (row,) = await rows(server, "/page/clients")
            assert set(row) == set(SOCKET)
            assert (row["application_name"], row["wait_us"], row["link"]) == ("psql <b>", 2_500_000, "0x9")
            assert [row["ptr"] for row in await rows(server, "/page/servers")] == ["0x9"]
            assert {"clients": True} in asked
            assert {"servers": True} in asked

    play(scene)


def test_settings_databases_and_log_lines() -> None:
    lines = [(n, 1.0, "LOG", f"line {n}") for n in (1, 2, 3)]
    told = Told(
        settings=lambda: [("pgbouncer", "pool_mode", "transaction", "session", "yes")],
        log=lambda after: [line for line in lines if line[0] > after],
    )

    async def scene() -> None:
        async with serving(lambda **_: snapshot(), told) as server:
            settings = await rows(server, "/page/configuration")
            assert settings[0] == dict(zip(SETTING, told.settings()[0], strict=True))  # type: ignore[index,misc]
            assert [(row["key"], row["value"].split()[0]) for row in settings[1:]] == [("app", "host=10.0.0.5")]
            assert [row["number"] for row in await rows(server, "/page/log")] == [1, 2, 3]
            assert await rows(server, "/page/log?after=2") == [dict(zip(LINE, lines[2], strict=True))]
            assert len(await rows(server, "/page/log?after=x")) == 3

    play(scene)


def test_what_is_not_there_is_not_found() -> None:
    def gone(**_: bool) -> Snapshot:
        raise Unavailable("nobody there")

    async def scene() -> None:
        async with serving(gone) as server:
            assert (await get(server, "/page/log"))[0] == 404
            assert (await get(server, "/page/nothing"))[0] == 404
            assert (await get(server, "/page/clients"))[::2] == (503, "no figures: nobody there\n")
            assert await rows(server, "/page/events") == []

    play(scene)


@pytest.mark.parametrize(("host", "everywhere"), [("10.0.0.1", False), ("10.0.0.1", True), ("127.0.0.1", False)])
def test_what_the_console_tells_is_shown_on_loopback(host: str, everywhere: bool) -> None:
    app = build_app(lambda **_: snapshot(), told=Told(log=lambda after: (), everywhere=lambda: everywhere))

    async def status(path: str) -> int:
        found: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            found.append(message)

        scope: dict[str, Any] = {
            "type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"host", b"localhost")],
            "server": (host, 80), "client": ("127.0.0.1", 1), "app": app,
        }  # fmt: skip
        await app(scope, receive, send)
        return int(found[0]["status"])

    async def scene() -> None:
        shown = everywhere or host == "127.0.0.1"
        for name in ("clients", "servers", "configuration", "log"):
            assert await status(f"/page/{name}") == (200 if shown else 403), name
        assert (await status("/page/past"), await status("/page/events"), await status("/")) == (200, 200, 200)

    play(scene)


@pytest.mark.slow
def test_the_hour_is_a_pools_only_where_it_is_its_databases_only_one() -> None:
    ring = History(0.0)
    ring.record(snapshot(now=60.0))
    pools = [(pool("app", "one"),), (pool("app", "one"), pool("app", "two"))]
    state: dict[str, Any] = {"now": 1000.0, "pools": pools[0]}

    def source(**_: bool) -> Snapshot:
        state["now"] += 1
        return snapshot(now=state["now"], pools=state["pools"], databases=(database(),))

    async def scene() -> None:
        async with serving(source, Told(history=ring.everything)) as server:

            async def times(query: str) -> list[float]:
                return [row["time"] for row in await rows(server, f"/page/past{query}")]

            await soon(lambda: state["now"] > 1010, "some ticks")
            assert (await times("?database=app&user=one"))[0] == 60.0
            assert (await times(""))[0] == 60.0
            state["pools"] = pools[1]
            now = state["now"]
            await soon(lambda: state["now"] > now + 2, "both pools")
            assert (await times("?database=app&user=one"))[0] > 1000
            assert len(await times("?database=app&user=one")) > 5
            assert await times("?database=app&user=nobody") == []

    play(scene)
