"""The feed over a console of a table."""

from __future__ import annotations

import pytest

from admin.client.answers import Answer
from admin.client.link import CannotConnect, Lost
from admin.top.feed import Feed
from tests.fixtures.waiting import until
from tests.unit.admin.top.serving import ADDRESS, serving
from tests.unit.repl_console import HELP_1_18, HELP_OURS, POOLS, Console, replace_link, rows


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


def test_the_mean_is_of_the_window_that_the_percentiles_are_of(console: Console, feed: Feed) -> None:
    """Where there are none it is of the last interval, so that something is told at once."""
    feed.start()
    until(lambda: feed.frame.totals.tps, "a rate")
    assert feed.frame.rows[0].avg_query == 5.0, "as SHOW STATS has it"
    assert feed.frame.rows[0].p99 == 4321.0
    assert feed.frame.totals.avg_query == 5.0


def test_how_old_transactions_are(monkeypatch: pytest.MonkeyPatch) -> None:
    console = serving(replace_link(monkeypatch, Console(HELP_OURS + "\tSHOW TRANSACTIONS|EVENTS\n")))
    clients, servers = console.answers["SHOW CLIENTS"], console.answers["SHOW SERVERS"]
    assert isinstance(clients, Answer)
    assert isinstance(servers, Answer)
    link = clients.names.index("link")
    held = [
        (*row[:link], f"0xS{number}" if number else "", *row[link + 1 :]) for number, row in enumerate(clients.rows)
    ]
    console.answers["SHOW CLIENTS"] = Answer(clients.columns, held)
    console.answers["SHOW SERVERS"] = Answer(
        servers.columns, [(*row[:10], f"0xS{n}", *row[11:]) for n, row in enumerate(servers.rows, 1)]
    )
    console.answers["SHOW TRANSACTIONS"] = rows("id xact_us", (2, 9_000_000), (1, 5))
    console.answers["SHOW EVENTS"] = rows("kind database reason count", ("error", "app", "r", 3))
    feed = Feed(ADDRESS, delay=0.01)
    feed.start()
    try:
        feed.show_detail(("app", "alice"))
        until(lambda: feed.frame.detail, "the detail")
        detail = feed.frame.detail
        assert detail is not None
        assert detail.told == {"TRANSACTIONS"}
        assert [(row["id"], row["xact_us"]) for row in detail.clients] == [(2, 9_000_000), (1, 5), (0, 0)]
        assert [row["xact_us"] for row in detail.servers] == [9_000_000, 5]
        assert [(event.reason, event.count) for event in feed.frame.events] == [("r", 3)]
        assert feed.frame.counted
    finally:
        feed.stop()
        feed.join()


def test_what_sessions_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    console = serving(replace_link(monkeypatch, Console(HELP_OURS + "\tSHOW SESSION_STATE\n")))
    servers = console.answers["SHOW SERVERS"]
    assert isinstance(servers, Answer)
    pid = servers.names.index("remote_pid")
    held = [(*row[:pid], 4711 + number, *row[pid + 1 :]) for number, row in enumerate(servers.rows)]
    console.answers["SHOW SERVERS"] = Answer(servers.columns, held)
    console.answers["SHOW SESSION_STATE"] = rows(
        "id kind fate pinned_us server",
        (1, "setting", "follows", None, None), (1, "temp", "pins", 3_000_000, 4712),
        (99, "role", "follows", None, None),
    )  # fmt: skip
    feed = Feed(ADDRESS, delay=0.01)
    feed.start()
    try:
        feed.show_detail(("app", "alice"))
        until(lambda: feed.frame.detail, "the detail")
        detail = feed.frame.detail
        assert detail is not None
        assert detail.told == {"SESSION_STATE"}
        told = {row["id"]: (row.get("session_state"), row.get("pinned_us")) for row in detail.clients}
        left = ("setting follows, temp pins", 3_000_000)
        assert told == {0: (None, None), 1: left, 2: (None, None)}
        assert [row.get("session_state") for row in detail.servers] == [None, left[0]]
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
