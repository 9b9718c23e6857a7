"""The feed over a console of a table, and the whole program by its keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from admin.repl.address import Address
from admin.repl.answers import Answer
from admin.repl.link import CannotConnect, Lost
from admin.top.app import Top
from admin.top.cli import main
from admin.top.control import Screen
from admin.top.feed import Feed
from tests.fixtures.waiting import until
from tests.unit.repl_console import HELP_1_18, HELP_OURS, POOLS, Console, replace_link, rows

STATS = (
    "database total_xact_count total_query_count total_received total_sent total_query_time avg_query_time"
    " avg_xact_count"
)
CLIENTS = "type user database state addr port connect_time request_time wait wait_us ptr link remote_pid tls id"
ADDRESS = Address({"host": "h", "port": "1", "dbname": "pgbouncer"})


def connections(kind: str, count: int) -> Answer:
    return rows(
        CLIENTS,
        *(
            (kind, "alice", "app", "active", "::1", n, "2026", "2026", 0, 0, f"0x{kind}{n}", "", 0, "", n)
            for n in range(count)
        ),
    )


def serving(console: Console) -> Console:
    counts = iter(range(0, 10_000_000, 100))

    def stats() -> Answer:
        count = next(counts)
        return rows(STATS, ("app", count, count, count, count, count, 5, 1), ("pgbouncer", 9, 9, 9, 9, 9, 9, 9))

    console.answers |= {
        "SHOW STATS": stats,
        "SHOW DATABASES": rows(
            "name pool_size reserve_pool_size paused disabled",
            ("app", 20, 0, 0, 0), ("billing", 5, 1, 1, 0), ("pgbouncer", 2, 0, 0, 0),
        ),
        "SHOW STATE": rows("key value", ("active", "yes"), ("paused", "no")),
        "SHOW LATENCY": rows("database query_p99", ("app", 4321), ("billing", 1)),
        "SHOW CLIENTS": connections("C", 3),
        "SHOW SERVERS": connections("S", 2),
    }  # fmt: skip
    return console


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return serving(replace_link(monkeypatch, Console()))


@pytest.fixture
def feed(console: Console) -> Iterator[Feed]:
    made = Feed(ADDRESS, delay=0.01)
    yield made
    made.stop()
    if made.is_alive():
        made.join()


def test_frames(console: Console, feed: Feed) -> None:
    feed.start()
    until(lambda: feed.frame.totals.tps, "a rate")
    frame = feed.frame
    assert [(row.database, row.limit, row.paused, row.p99) for row in frame.rows] == [
        ("app", 20, False, 4321.0),
        ("billing", 6, True, 1.0),
    ]
    assert frame.totals.waiting == 2
    assert frame.percentiles
    assert "SHOW CLIENTS" not in console.asked, "no detail is shown"


def test_details_only_while_they_are_shown(console: Console, feed: Feed) -> None:
    feed.start()
    feed.show_detail(("app", "alice"))
    until(lambda: feed.frame.detail, "the detail")
    assert feed.frame.detail is not None
    assert len(feed.frame.detail.clients) == 3
    feed.show_detail(None)
    until(lambda: feed.frame.detail is None, "no detail")
    count = console.asked.count("SHOW CLIENTS")
    asked = len(console.asked)
    until(lambda: len(console.asked) > asked + 6, "more frames")
    assert console.asked.count("SHOW CLIENTS") == count


def test_clients_of_a_pool_whose_user_the_database_names(console: Console, feed: Feed) -> None:
    console.answers["SHOW DATABASES"] = rows(
        "name pool_size reserve_pool_size paused disabled force_user",
        ("app", 20, 0, 0, 0, "owner"), ("billing", 5, 1, 1, 0, None), ("pgbouncer", 2, 0, 0, 0, "pgbouncer"),
    )  # fmt: skip
    feed.start()
    feed.show_detail(("app", "owner"))
    until(lambda: feed.frame.detail, "the detail")
    assert feed.frame.detail is not None
    assert {client["user"] for client in feed.frame.detail.clients} == {"alice"}
    assert len(feed.frame.detail.clients) == 3


def test_an_old_console(monkeypatch: pytest.MonkeyPatch) -> None:
    console = serving(replace_link(monkeypatch, Console(HELP_1_18)))
    feed = Feed(ADDRESS, delay=0.01)
    feed.start()
    try:
        until(lambda: feed.frame.totals.tps, "a rate")
        assert not feed.frame.percentiles
        assert feed.frame.rows[0].p99 is None
        assert not {"SHOW LATENCY", "SHOW STATE", "SHOW HISTORY"} & set(console.asked)
    finally:
        feed.stop()
        feed.join()


def test_the_sparklines_begin_with_the_servers_history(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime, timedelta

    console = serving(replace_link(monkeypatch, Console(HELP_OURS + "\tSHOW HISTORY|POOL_LATENCY\n")))
    now = datetime.now(UTC)
    samples = [(str(now - timedelta(seconds=60 * n)), "app", 60.0, 7.0) for n in (200, 3, 2, 1)]
    console.answers["SHOW HISTORY"] = rows("time database seconds tps", *samples, ("no time", "app", 60.0, 7.0))
    console.answers["SHOW POOL_LATENCY"] = rows("database user query_p99 xact_count", ("app", "alice", 99, 5))
    feed = Feed(ADDRESS, delay=0.01)
    feed.start()
    try:
        until(lambda: feed.frame.rows, "a frame")
        row = feed.frame.rows[0]
        assert row.p99 == 99.0
        assert row.trend[5] == pytest.approx(7.0)
        assert feed.frame.rows[1].p99 is None
    finally:
        feed.stop()
        feed.join()


def test_pools_of_one_database_share_its_tps_as_the_console_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    console = serving(replace_link(monkeypatch, Console(HELP_OURS + "\tSHOW POOL_LATENCY\n")))
    console.answers["SHOW POOLS"] = Answer(POOLS.columns, [POOLS.rows[0], ("app", "zoe", *POOLS.rows[0][2:])])
    console.answers["SHOW POOL_LATENCY"] = rows(
        "database user query_p99 xact_count", ("app", "alice", 1, 300), ("app", "zoe", 1, 100)
    )
    feed = Feed(ADDRESS, delay=0.01)
    feed.start()
    try:
        until(lambda: feed.frame.totals.tps, "a rate")
        alice, zoe = feed.frame.rows
        assert alice.tps == pytest.approx(3 * (zoe.tps or 0.0))
        assert alice.tps == pytest.approx(0.75 * (feed.frame.totals.tps or 0.0))
        assert not alice.tps_shared
    finally:
        feed.stop()
        feed.join()


def test_a_lost_connection_is_made_again(console: Console, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.top.feed.RETRY_PERIOD", 0.01)
    feed.start()
    until(lambda: feed.frame.connected, "the connection")
    good = console.answers["SHOW POOLS"]
    console.refusals = [CannotConnect("refused")] * 3
    console.answers["SHOW POOLS"] = Lost("gone")
    until(lambda: feed.frame.trouble == "refused", "the trouble")
    assert not feed.frame.connected
    assert feed.frame.rows, "the last figures stay on the screen"
    console.answers["SHOW POOLS"] = good
    until(lambda: feed.frame.connected, "the connection again")
    assert feed.frame.trouble == ""


def test_the_program_by_its_keys(console: Console, feed: Feed) -> None:
    console.answers["PAUSE APP"] = Answer(tag="PAUSE")
    console.answers["KILL APP"] = Lost("gone")
    with create_pipe_input() as keyboard:
        top = Top(ADDRESS, feed, input=keyboard, output=DummyOutput())

        def press() -> None:
            until(lambda: feed.frame.rows, "the pools")
            steps: list[tuple[str, Any]] = [
                ("py", lambda: top.view.told == "PAUSE app: done"),
                ("Ky", lambda: top.view.told == "KILL app: gone"),
                ("+", lambda: top.view.told.startswith("every ")),
                ("\r", lambda: top.view.screen is Screen.POOL and feed.frame.detail),
                ("\t", lambda: top.view.tab == 0),
                ("\r", lambda: top.view.screen is Screen.CONNECTION),
                ("\x1b", lambda: top.view.screen is Screen.POOL),
                ("\x1b", lambda: top.view.screen is Screen.POOLS),
                ("\x1b[B", lambda: top.view.selected == ("billing", "bob")),
                ("/ap\x7fp\r", lambda: top.view.filter == "ap" and not top.view.typing),
                ("?", lambda: top.view.screen is Screen.HELP),
            ]
            for keys, seen in steps:
                keyboard.send_text(keys)
                until(seen, repr(keys))
            keyboard.send_text("q")

        typist = threading.Thread(target=press)
        typist.start()
        top.run()
        typist.join()
    assert "PAUSE app" in console.asked


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [(["nonsense"], 2, "is no URL"), (["h:1"], 2, "needs a terminal")],
)
def test_usage(arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--delay", "0"], ["--nonsense"], ["-d", "x"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
