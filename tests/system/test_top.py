"""`pooler top` in a real terminal, over our pooler and over Debian's PgBouncer, with clients that work and wait."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.bouncer import version
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.terminal import Terminal, pooler_command

Open = Callable[..., Terminal]


def console(bouncer: Bouncer) -> str:
    return f"postgresql://postgres@127.0.0.1:{bouncer.port}/"


@pytest.fixture
def open_top(tmp_path: Path) -> Iterator[Open]:
    """open_top(bouncer, columns=, lines=) -> a Terminal with `pooler top` in it."""
    opened: list[Terminal] = []

    def start(bouncer: Bouncer, *arguments: str, **options: Any) -> Terminal:
        url = console(bouncer)
        opened.append(Terminal(pooler_command("top", url, "-d", "0.3", *arguments), tmp_path, **options))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Closes clients at the end, whatever they wait for."""
    with ExitStack() as stack:
        yield stack


def hold(stack: ExitStack, bouncer: Bouncer, dbname: str, count: int) -> list[psycopg.Connection[Any]]:
    """Clients that each sit in a transaction, or in the queue for one."""
    found = []
    for number in range(count):
        connection = bouncer.connect(dbname, application_name=f"holder {number}")
        stack.callback(connection.close)
        connection.pgconn.send_query(b"BEGIN; SELECT 1")
        found.append(connection)
    return found


@pytest.fixture(params=["pooler", pytest.param("pgbouncer", marks=pytest.mark.slow)])
def bouncer(request: pytest.FixtureRequest) -> Bouncer:
    """A pooler with two servers to a pool: ours, then PgBouncer 1.18."""
    start: StartBouncer = request.getfixturevalue(f"start_{request.param}")
    return start(default_pool_size=2)


def test_top(bouncer: Bouncer, open_top: Open, clients: ExitStack) -> None:
    hold(clients, bouncer, "app", 3)
    bouncer.sql("SELECT 1", dbname="other")
    terminal = open_top(bouncer, columns=150, lines=24)
    terminal.wait(r"^ ● 127\.0\.0\.1:\d+/pgbouncer  PgBouncer 1\.\d+\.\d .*every 0\.3 s  \d\d:\d\d:\d\d")
    terminal.wait(r"^ clients 2 active 1 waiting \| servers 2 busy 1 idle of 4 +waiting ")
    terminal.wait(r"^ \d+ tps  \d+ qps \| avg query .* \| max wait \d.*tps ")
    terminal.wait(r"^ +database▲ +user +active +wait servers +tps ")
    terminal.wait(r"^[ >]+app +postgres +2 +1 █+ 2\+0/2 ")
    terminal.wait(r"^[ >]+other +postgres +0 +0 [█▒·]+ 0\+1/2 ")
    terminal.wait(r"[1-9][\d.]* (ms|s) transaction$")

    terminal.type("/other")
    terminal.wait(r"^ filter: other")
    terminal.press("Enter")
    terminal.wait_gone(r"^[ >]+app ")
    terminal.press("Escape")
    terminal.wait(r"^[ >]+app ")
    terminal.type("s")
    terminal.wait(r"wait▼")

    terminal.press("Enter")
    terminal.wait(r"^ app / postgres  transaction")
    terminal.wait(r"^  clients 3   servers 2   waiting 1$")
    terminal.wait(r"waiting +[\d.]+ (ms|s) +127\.0\.0\.1:\d+ +holder 2 ")
    terminal.press("Tab")
    terminal.wait(r"active .* holder 0 ")
    terminal.press("Down", "Enter")
    terminal.wait(r" application_name  holder [01]$")
    terminal.wait(r"^ linked to server .* active")
    terminal.press("Escape")
    terminal.wait(r" clients 3 ")
    terminal.press("Escape")
    terminal.wait(r"wait▼")
    terminal.type("?")
    terminal.wait(r"PAUSE, RESUME, KILL the database")
    terminal.press("q")
    assert terminal.status() == 0


@pytest.mark.slow
def test_pause_and_resume_with_a_confirmation(bouncer: Bouncer, open_top: Open) -> None:
    bouncer.sql("SELECT 1")
    terminal = open_top(bouncer, columns=100, lines=20)
    terminal.wait(r"^[ >]+app ")
    terminal.type("p")
    terminal.wait(r"^ PAUSE app: lets running work end, then holds new work back\. Sure\? \[y/N\]")
    terminal.type("n")
    terminal.wait(r"^ not done")
    terminal.type("p")
    terminal.wait(r"Sure\?")
    terminal.type("y")
    terminal.wait(r"^ PAUSE app: done")
    terminal.wait(r"^[ >]+app paused ")
    assert paused(bouncer)
    terminal.type("r")
    terminal.wait(r"RESUME app: .*Sure\?")
    terminal.type("y")
    terminal.wait(r"^ RESUME app: done")
    terminal.wait_gone(r"^[ >]+app paused ")
    assert not paused(bouncer)


def paused(bouncer: Bouncer) -> bool:
    return any(row["name"] == "app" and row["paused"] for row in bouncer.admin("SHOW DATABASES"))


@pytest.mark.slow
def test_killing_a_client(start_pooler: StartBouncer, open_top: Open, clients: ExitStack) -> None:
    bouncer = start_pooler(default_pool_size=2)
    victim = hold(clients, bouncer, "app", 1)[0]
    terminal = open_top(bouncer, columns=120, lines=24)
    terminal.wait(r"^[ >]+app ")
    terminal.press("Enter")
    terminal.wait(r"active .* holder 0")
    terminal.type("x")
    terminal.wait(r"^ KILL_CLIENT \d+: drops postgres@app 127\.0\.0\.1:\d+ in whatever it does\. Sure\?")
    terminal.type("y")
    terminal.wait(r"^ KILL_CLIENT \d+: done")
    terminal.wait(r" clients 0 ")
    while victim.pgconn.get_result():
        pass
    with pytest.raises(psycopg.OperationalError):
        victim.execute("SELECT 1")


CLICK = "\x1b[<0;{column};{line}M\x1b[<0;{column};{line}m"
"""A terminal's report of a click at a column and line from 1."""


@pytest.mark.slow
def test_sizes_and_mouse(start_pooler: StartBouncer, open_top: Open, clients: ExitStack) -> None:
    bouncer = start_pooler(default_pool_size=2)
    terminal = open_top(bouncer, columns=80, lines=24)
    terminal.wait(r"^ no pools yet[\s\S]*q quit$")
    assert " of 0" not in terminal.screen()
    hold(clients, bouncer, "app", 2)
    bouncer.sql("SELECT 1", dbname="other")
    heads = {(120, 40): "tps, 1 min", (200, 50): "waiting, 1 min", (40, 12): r"wait +tps$", (80, 24): r"tps max wait$"}
    for (columns, lines), head in heads.items():
        terminal.resize(columns, lines)
        terminal.wait(rf"^ database▲ .*{head}")
        terminal.wait(r"^>app .*\n other [\s\S]* 1 of 2 pools, by name[\s\S]* \? help  q quit *$")
        row = terminal.wait(r"^.*>app.*$", colours=True)[0]
        assert re.search("\x1b\\[[0-9;]*7m[^█▒]*>app", row), "in reverse video"
        colours = re.findall("\x1b\\[[0-9;]*7m(?:\x1b\\[[^m]*m)*(?:\x1b\\[3[0-7]m)", row)
        assert not colours, "which keeps no colour of a cell"
    terminal.type(CLICK.format(column=3, line=7))
    terminal.wait(r"^>other ")
    terminal.type(CLICK.format(column=3, line=6))
    terminal.wait(r"^>app ")
    terminal.type(CLICK.format(column=3, line=6))
    terminal.wait(r"^ app / postgres ")


@pytest.mark.slow
def test_events_and_ages(start_pooler: StartBouncer, open_top: Open, clients: ExitStack) -> None:
    bouncer = start_pooler(default_pool_size=2, query_wait_timeout=1)
    hold(clients, bouncer, "app", 2)
    terminal = open_top(bouncer, columns=80, lines=24)
    terminal.wait(r"^>app ")
    terminal.press("Enter")
    terminal.wait(r" xact age [\s\S]*active +0 +\d[\d.]* (ms|s) ")
    with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
        bouncer.connect("app").execute("SELECT 1")
    terminal.type("e")
    terminal.wait(r"^.*\d\d:\d\d:\d\d +1 +1 \w+ +app +.*query_wait_timeout")
    terminal.press("Escape")
    terminal.wait(r"^ app / postgres ")


@pytest.mark.slow
def test_percentiles_where_the_server_has_them(start_pooler: StartBouncer, open_top: Open) -> None:
    bouncer = start_pooler()
    bouncer.sql("SELECT pg_sleep(0.02)")
    terminal = open_top(bouncer, columns=150, lines=20)
    terminal.wait(r"^ +database.* p99 ")
    terminal.wait(r"^[ >]+app .* [23]\d\.\d ms ")


@pytest.mark.slow
def test_narrow_wide_and_a_lost_connection(start_pgbouncer: StartBouncer, open_top: Open) -> None:
    bouncer = start_pgbouncer()
    bouncer.sql("SELECT 1")
    terminal = open_top(bouncer, columns=60, lines=12)
    terminal.wait(r"^ +database▲ .*active +wait .*max wait")
    assert "mode" not in terminal.screen()
    terminal.resize(160, 30)
    terminal.wait(r"^ +database▲ .*tps, 1 min .*waiting, 1 min .*mode")
    terminal.resize(30, 6)
    terminal.wait(r"^[ >]+app ")
    terminal.resize(100, 20)
    bouncer.stop()
    terminal.wait(r"^ ● .*not connected, trying: ")
    terminal.wait(r"^[ >]+app ")
    bouncer.start()
    terminal.wait(rf"^ ● 127\.0\.0\.1:\d+/pgbouncer  {re.escape(version())}")
    terminal.press("C-c")
    assert terminal.status() == 0


@pytest.mark.slow
def test_ascii_and_no_colours(start_pgbouncer: StartBouncer, open_top: Open) -> None:
    bouncer = start_pgbouncer()
    bouncer.sql("SELECT 1")
    terminal = open_top(bouncer, "--ascii", columns=130, lines=12, env={"NO_COLOR": "1"})
    terminal.wait(r"^ \* 127\.0\.0\.1:")
    terminal.wait(r"^>app +postgres +0 +0 [=#.]+ ")
    assert terminal.screen().isascii()
    assert "\x1b[3" not in terminal.screen(colours=True).replace("\x1b[39m", "")


@pytest.mark.slow
def test_several_poolers(start_pooler: StartBouncer, start_pgbouncer: StartBouncer, open_top: Open) -> None:
    ours, theirs = start_pooler(), start_pgbouncer()
    theirs.sql("SELECT 1", dbname="other")
    terminal = open_top(ours, console(theirs), columns=120, lines=24)
    terminal.wait(rf"^ 1 127\.0\.0\.1:{ours.port} [\d-]+ tps \| 2 127\.0\.0\.1:{theirs.port} \d+ tps")
    terminal.wait(r"^ no pools yet")
    terminal.type("2")
    terminal.wait(r"^>other ")
    theirs.stop()
    terminal.wait(rf"2 127\.0\.0\.1:{theirs.port} not connected")
    terminal.type("1")
    terminal.wait(rf"^ ● 127\.0\.0\.1:{ours.port}/pgbouncer  PgBouncer")


@pytest.mark.slow
def test_what_a_client_has_left_in_its_session(start_pooler: StartBouncer, open_top: Open) -> None:
    bouncer = start_pooler(sections={"pooler": {"session_state": "keep"}})
    with bouncer.connect("app") as client:
        client.execute("SET application_name = 'settler'")
        client.execute("SET work_mem = '9MB'")
        client.execute("CREATE TEMPORARY TABLE mine ()")
        terminal = open_top(bouncer, columns=120, lines=24)
        terminal.wait(r"^>app ")
        terminal.press("Enter")
        terminal.wait(r"^ +id state .* session[\s\S]*settler +setting follows, ")
        terminal.press("Enter")
        terminal.wait(r" session_state  setting follows, temp pins")
