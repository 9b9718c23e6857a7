"""Every view against PgBouncer 1.26's layout: names, types and order are an interface, values come from one
Snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from admin import views
from admin.views import BY_NAME, VIEWS, Shown, duration
from pooler.stats import ZERO, Averages, Counters, Distributions, LoopStat, PeerStat
from tests.fixtures.console import NOW, FakeHouse, connection, database, histogram, pool, snapshot

OIDS = {"s": 25, "i": 23, "q": 20, "N": 1700, "b": 17}

COUNTERS = (
    "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time "
    "client_parse_count server_parse_count bind_count client_login_count"
)
SOCKET = (
    "s:type s:user s:database s:replication s:state s:addr i:port s:local_addr i:local_port s:connect_time "
    "s:request_time i:wait i:wait_us i:close_needed s:ptr s:link i:remote_pid s:tls s:application_name "
    "i:prepared_statements i:id"
)
BUFFERS = " i:recv_pos i:pkt_pos i:pkt_remain i:send_pos i:send_remain i:pkt_avail i:send_avail"

LAYOUTS = {
    "VERSION": "s:version",
    "STATS": "s:database N:total_server_assignment_count N:total_xact_count N:total_query_count "
    "N:total_received "
    "N:total_sent N:total_xact_time N:total_query_time N:total_wait_time N:total_client_parse_count "
    "N:total_server_parse_count N:total_bind_count N:total_client_login_count "
    "N:avg_server_assignment_count N:avg_xact_count N:avg_query_count "
    "N:avg_recv N:avg_sent N:avg_xact_time N:avg_query_time N:avg_wait_time N:avg_client_parse_count "
    "N:avg_server_parse_count N:avg_bind_count N:avg_client_login_count",
    "STATS_TOTALS": "s:database " + " ".join(f"N:{name}" for name in COUNTERS.split()),
    "STATS_AVERAGES": "s:database "
    + " ".join(f"N:{name}" for name in COUNTERS.split()[:8])
    + " N:avg_client_parse_count N:avg_server_parse_count N:avg_bind_count N:avg_client_login_count",
    "TOTALS": "s:name N:value",
    "POOLS": "s:database s:user i:cl_active i:cl_waiting i:cl_active_cancel_req i:cl_waiting_cancel_req "
    "i:sv_active "
    "i:sv_active_cancel i:sv_being_canceled i:sv_idle i:sv_used i:sv_tested i:sv_login i:maxwait "
    "i:maxwait_us "
    "s:pool_mode s:load_balance_hosts",
    "PEER_POOLS": "i:peer_id i:cl_active_cancel_req i:cl_waiting_cancel_req i:sv_active_cancel i:sv_login",
    "CLIENTS": SOCKET,
    "SERVERS": SOCKET,
    "SOCKETS": SOCKET + BUFFERS,
    "ACTIVE_SOCKETS": SOCKET + BUFFERS,
    "DATABASES": "s:name s:host i:port s:database s:force_user i:pool_size i:min_pool_size "
    "i:reserve_pool_size "
    "i:server_lifetime s:pool_mode s:load_balance_hosts i:max_connections i:current_connections "
    "i:max_client_connections i:current_client_connections i:paused i:disabled",
    "USERS": "s:name s:pool_size s:reserve_pool_size s:pool_mode i:max_user_connections "
    "i:current_connections "
    "i:max_user_client_connections i:current_client_connections",
    "LISTS": "s:list i:items",
    "PEERS": "i:peer_id s:host i:port i:pool_size",
    "CONFIG": "s:key s:value s:default s:changeable",
    "STATE": "s:key s:value",
    "MEM": "s:name i:size i:used i:free i:memtotal",
    "DNS_HOSTS": "s:hostname q:ttl s:addrs",
    "DNS_ZONES": "s:zonename q:serial i:count",
    "FDS": "i:fd s:task s:user s:database s:addr i:port q:cancel i:link s:client_encoding s:std_strings "
    "s:datestyle "
    "s:timezone s:password b:scram_client_key b:scram_server_key",
}
"""PgBouncer 1.26.1; widths 25, 13, 17, 21, 17 and 8 are what fixed-width readers count on."""


def rows(name: str, house: FakeHouse | None = None) -> list[tuple[Any, ...]]:
    house = house or FakeHouse()
    return list(BY_NAME[name].rows(Shown(house.snap, house)))


def by_name(found: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Rows of a name and a value."""
    return {name: value for name, value in found}


def table(name: str, house: FakeHouse | None = None) -> list[dict[str, object]]:
    names = [column.name for column in BY_NAME[name].columns]
    return [dict(zip(names, row, strict=True)) for row in rows(name, house)]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_view_has_exactly_pgbouncers_columns(name: str) -> None:
    expected = [(word[2:], OIDS[word[0]]) for word in LAYOUTS[name].split()]
    assert [(column.name, column.oid) for column in BY_NAME[name].columns] == expected


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_view_reads_a_full_snapshot(view: object) -> None:
    name = view.name  # type: ignore[attr-defined]
    house = FakeHouse(snapshot(peers=(PeerStat(1, "a", 6432, 5),)))
    house.history.record(house.snap)
    assert all(len(row) == len(BY_NAME[name].columns) for row in rows(name, house))


def test_version() -> None:
    assert rows("VERSION") == [("PgBouncer 1.26.1",)]


def test_stats_are_the_counters_in_order() -> None:
    assert rows("STATS")[0] == ("blog", *range(11, 23), *range(101, 113))
    assert rows("STATS_TOTALS")[0] == ("blog", *range(11, 23))
    assert rows("STATS_AVERAGES")[0] == ("blog", *range(101, 113))


def test_rows_are_sorted_as_strcmp_sorts() -> None:
    names = ["b", "B", "a_", "aa", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a"]
    house = FakeHouse(snapshot(databases=tuple(map(database, names))))
    assert [row[0] for row in rows("DATABASES", house)] == sorted(names, key=str.encode)
    assert [row[:2] for row in rows("POOLS")] == [("blog", "amy"), ("blog", "zoe"), ("shop", "app")]


def test_totals_sum_counts_and_weigh_means() -> None:
    busy = database("a", counters=Counters(query_count=10), averages=Averages(query_count=30, query_time=100))
    calm = database("b", counters=Counters(query_count=5), averages=Averages(query_count=10, query_time=500))
    values = by_name(rows("TOTALS", FakeHouse(snapshot(databases=(busy, calm)))))
    assert len(values) == 24
    assert (values["total_query_count"], values["avg_query_count"], values["avg_query_time"]) == (15, 40, 200)
    assert list(values)[3:5] == ["total_client_bytes", "total_server_bytes"]
    assert list(values)[-2:] == ["avg_ps_bind_count", "avg_client_login_count"]


def test_maxwait_is_split_into_seconds_and_microseconds() -> None:
    shop = table("POOLS")[2]
    assert (shop["maxwait"], shop["maxwait_us"]) == (2, 500_000)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local zone is nine hours ahead."""
    monkeypatch.setenv("TZ", "XST-9")
    time.tzset()
    views._second.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    views._second.cache_clear()


@pytest.mark.usefixtures("far_east")
def test_clients_show_times_in_the_local_zone() -> None:
    client = table("CLIENTS")[0]
    assert client["connect_time"] == "2026-11-22 17:05:00 XST"
    assert (client["type"], client["id"], client["close_needed"]) == ("C", 1, 0)
    waiting = table("CLIENTS")[1]
    assert (waiting["state"], waiting["wait"], waiting["wait_us"]) == ("waiting", 2, 500_000)


def test_sockets_name_their_lists() -> None:
    assert [row["state"] for row in table("SOCKETS")] == [
        "cl_active", "cl_waiting", "cl_active", "sv_active", "sv_idle",
    ]  # fmt: skip
    assert [row["id"] for row in table("ACTIVE_SOCKETS")] == [1, 2, 101]


def test_users_show_sizes_as_text_or_nothing() -> None:
    amy, app = table("USERS")
    assert (amy["pool_size"], amy["reserve_pool_size"], amy["pool_mode"]) == (
        "        7",
        "        2",
        "session",
    )
    assert (app["pool_size"], app["reserve_pool_size"], app["pool_mode"]) == ("", "", None)


def test_config_is_alphabetical_with_defaults() -> None:
    config = table("CONFIG")
    keys = [row["key"] for row in config]
    assert keys == sorted(keys)  # type: ignore[type-var]
    wanted = next(row for row in config if row["key"] == "max_client_conn")
    assert wanted == {"key": "max_client_conn", "value": "100", "default": "100", "changeable": "yes"}


def test_state() -> None:
    house = FakeHouse(snapshot(active=False, paused=True))
    assert rows("STATE", house) == [("active", "no"), ("paused", "yes")]


def test_a_state_that_pgbouncer_has_no_more_has_a_row_while_it_lasts() -> None:
    house = FakeHouse(snapshot(active=False, suspended=True))
    assert rows("STATE", house) == [("active", "no"), ("paused", "no"), ("suspended", "yes")]


def test_stats_are_of_databases_that_have_had_a_pool() -> None:
    databases = (database("shop"), database("never", counters=ZERO), database("once"), database("fresh", counters=ZERO))
    house = FakeHouse(snapshot(databases=databases, pools=(pool("shop", "app"), pool("fresh", "app"))))
    for view in ("STATS", "STATS_TOTALS", "STATS_AVERAGES"):
        assert [row[0] for row in rows(view, house)] == ["fresh", "once", "shop"]
    assert [row[0] for row in rows("DATABASES", house)] == ["fresh", "never", "once", "shop"]


def test_about_says_who_we_are() -> None:
    about = by_name(rows("ABOUT"))
    assert (about["name"], about["version"], about["pid"]) == ("pooler", "0.1.0", "4711")
    assert about["uptime"] == "1 day 01:01:01"
    assert about["io_uring"] == "yes"


def test_about_says_why_sends_do_not_leave_together() -> None:
    house = FakeHouse(snapshot(loop=LoopStat(no_ring="Operation not permitted")))
    assert by_name(rows("ABOUT", house))["io_uring"] == "no (Operation not permitted)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "00:00:00"), (59.9, "00:00:59"), (86_400 * 2 + 3_601, "2 days 01:00:01")]
)
def test_a_duration_reads_like_an_interval(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_waiting_shows_the_longest_wait_first() -> None:
    clients = (
        connection("C", 1, state="waiting", wait_us=10),
        connection("C", 2, state="active"),
        connection("C", 3, state="waiting", wait_us=3_000_000, application_name="slow"),
    )
    waiting = table("WAITING", FakeHouse(snapshot(clients=clients)))
    assert [row["id"] for row in waiting] == [3, 1]
    assert waiting[0]["since"] == NOW - 3
    assert waiting[0]["application_name"] == "slow"


def test_transactions_are_those_that_hold_a_server_the_longest_first() -> None:
    clients = (
        connection("C", 1, state="active", link="s1", xact_us=10),
        connection("C", 2, state="waiting", xact_us=90_000_000),
        connection("C", 3, state="active", link="s2", xact_us=3_000_000, application_name="slow"),
        connection("C", 4, state="active", link="s2"),
    )
    servers = (connection("S", 8, ptr="s1", remote_pid=81), connection("S", 9, ptr="s2", remote_pid=91))
    found = table("TRANSACTIONS", FakeHouse(snapshot(clients=clients, servers=servers)))
    assert [(row["id"], row["server_pid"], row["xact_us"]) for row in found] == [(3, 91, 3_000_000), (1, 81, 10)]
    assert (found[0]["since"], found[0]["application_name"]) == (NOW - 3, "slow")


def test_latency_counts_only_what_the_window_saw() -> None:
    house = FakeHouse()
    house.history.record(house.snap)
    later = snapshot(
        now=NOW + 60,
        pools=(pool("shop", "app", distributions=_queries(100, 200, 300, 40_000, 7_000_000)),),
    )
    house.history.record(later)
    house.snap = snapshot(
        now=NOW + 70,
        pools=(pool("shop", "app", distributions=_queries(100, 200, 300, 40_000, 7_000_000, 20, 20)),),
    )
    (latency,) = table("LATENCY", house)
    assert (latency["database"], latency["seconds"], latency["query_count"]) == ("shop", 70.0, 3)
    assert latency["query_p50"] == 20
    assert 7_000_000 <= int(str(latency["query_max"])) <= 7_300_000
    assert latency["wait_count"] == 0


def _queries(*samples: int) -> Distributions:
    return Distributions(query=histogram(*samples), wait=histogram(5))
