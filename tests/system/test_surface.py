"""The surface, side by side with the newest PgBouncer that can be had: what a login is told, what the console answers,
column by column, row by row, tag by tag, NOTICE by NOTICE.

The rule: what the real one says is right. What we say beside it stands in OURS, and nothing else may differ.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream

Said = tuple[str, object]


def spoken(message: Message) -> Said:
    """What a message says, without the field V that PgBouncer leaves out, and keys that are another each time."""
    match message.type:
        case "E" | "N":
            return message.type, {field: text for field, text in message.error.items() if field != "V"}
        case "T":
            return "T", columns(message.body)
        case "D":
            return "D", message.values
        case "K":
            return "K", None
        case _:
            return message.type, message.body


def columns(body: bytes) -> list[tuple[bytes, int, int]]:
    """(name, oid, length) of each column of a RowDescription."""
    (count,), at, found = struct.unpack_from("!H", body), 2, []
    for _ in range(count):
        end = body.index(b"\0", at)
        _, _, oid, length = struct.unpack_from("!IhIh", body, end + 1)
        found.append((body[at:end], oid, length))
        at = end + 19
    return found


def login(bouncer: Bouncer, database: str = "app", **parameters: str) -> list[Said]:
    """All that a client is told before its first query."""
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.send(stream.startup({"user": SUPERUSER, "database": database} | parameters))
        return [spoken(message) for message in client.until("Z", "E")]


def answers(bouncer: Bouncer, *queries: str, user: str = SUPERUSER) -> dict[str, list[Said]]:
    with Stream(("127.0.0.1", bouncer.port)) as console:
        console.send(stream.startup({"user": user, "database": ADMIN}))
        console.until()
        return {query: [spoken(message) for message in console.query(query)] for query in queries}


def both(start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer, **settings: Any) -> tuple[Bouncer, Bouncer]:
    return start_pooler(**settings), start_newest_pgbouncer(**settings)


# ---- logins

LOGINS: list[tuple[dict[str, Any], list[dict[str, str]]]] = [
    (
        {},
        [
            {},
            *({"replication": word} for word in ("database", "f", "maybe", "Database")),
            {"application_name": "n" * 65_000},
            {"search_path": "a, b", "scram_iterations": "5000", "default_transaction_read_only": "on"},
            {"session_authorization": "trusty", "IntervalStyle": "iso_8601", "options": "-c TimeZone=Asia/Tokyo"},
            {"geqo": "off"},
            {"options": "-c geqo=off"},
            {"options": "-c=off"},
        ],
    ),
    ({"pool_mode": "session", "max_prepared_statements": 0}, [{"application_name": "told"}]),
    (
        {"user_settings": {SUPERUSER: "pool_mode=statement"}, "login_notify_message": "be welcome"},
        [{"client_encoding": "LATIN1", "datestyle": "German"}],
    ),
    ({"track_extra_parameters": "work_mem, intervalstyle, Search_Path"}, [{"work_mem": "5MB"}, {}]),
    (
        {"ignore_startup_parameters": "search_path, DateStyle, application_name, geqo"},
        [
            {"search_path": "a"},
            {"options": "-c search_path=a"},
            {"DateStyle": "German"},
            {"datestyle": "German"},
            {"application_name": "heard all the same"},
            {"options": "-c application_name=unheard"},
            {"options": "-c="},
        ],
    ),
    ({"ignore_startup_parameters": "options"}, [{"options": "-c DateStyle=German -c geqo=off"}]),
]


@pytest.mark.parametrize(("settings", "clients"), LOGINS, ids=[" ".join(settings) or "plain" for settings, _ in LOGINS])
def test_a_login_is_told_the_same(
    start_pooler: StartBouncer,
    start_newest_pgbouncer: StartBouncer,
    settings: dict[str, Any],
    clients: list[dict[str, str]],
) -> None:
    ours, theirs = both(start_pooler, start_newest_pgbouncer, **settings)
    for parameters in clients:
        assert login(ours, **parameters) == login(theirs, **parameters), parameters
    assert login(ours, ADMIN) == login(theirs, ADMIN)


def test_a_client_is_told_what_the_pooler_is(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(max_prepared_statements=7, user_settings={"trusty": "pool_mode=session"})
    for user, mode in ((SUPERUSER, "transaction"), ("trusty", "session")):
        with Stream(("127.0.0.1", bouncer.port)).login(user=user) as client:
            told = {name: value for name, value in client.parameters.items() if name.startswith("pgbouncer.")}
        assert told == {
            "pgbouncer.version": "1.26.1",
            "pgbouncer.max_prepared_statements": "7",
            "pgbouncer.pool_mode": mode,
        }


def test_a_change_of_manners_is_told_to_the_next_client(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler()
    for mode, most in (("session", 0), ("transaction", 9)):
        bouncer.admin(f"SET pool_mode = {mode}")
        bouncer.admin(f"SET max_prepared_statements = {most}")
        with Stream(("127.0.0.1", bouncer.port)).login() as client:
            assert client.parameters["pgbouncer.pool_mode"] == mode
            assert client.parameters["pgbouncer.max_prepared_statements"] == str(most)


@pytest.mark.slow
def test_what_a_pooler_behind_us_is_is_not_told(start_pooler: StartBouncer) -> None:
    behind = start_pooler(pool_mode="session", max_prepared_statements=3)
    databases = {"app": f"host=127.0.0.1 port={behind.port}"}
    bouncer = start_pooler(databases=databases, server_tls_sslmode="disable")
    told = [body for kind, body in login(bouncer) if kind == "S" and str(body).startswith("b'pgbouncer.")]
    assert told == [
        b"pgbouncer.version\x001.26.1\0",
        b"pgbouncer.max_prepared_statements\x00200\0",
        b"pgbouncer.pool_mode\0transaction\0",
    ]


# ---- the console


def test_each_view_has_the_same_columns(start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer) -> None:
    views = (
        "VERSION STATS STATS_TOTALS STATS_AVERAGES TOTALS POOLS PEER_POOLS CLIENTS SERVERS SOCKETS ACTIVE_SOCKETS "
        "DATABASES USERS LISTS PEERS CONFIG STATE MEM DNS_HOSTS DNS_ZONES"
    )
    queries = [f"SHOW {view}" for view in views.split()]
    ours, theirs = (answers(each, *queries) for each in both(start_pooler, start_newest_pgbouncer))
    for query in queries:
        mine, real = ([said for said in each[query] if said[0] != "D"] for each in (ours, theirs))
        assert mine == real, query


NAMED = ("STATS", "STATS_TOTALS", "STATS_AVERAGES", "TOTALS", "LISTS", "STATE", "USERS", "DATABASES")
"""Views whose rows are the same, by their first column."""


def test_the_rows_are_the_same(start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer) -> None:
    pair = both(start_pooler, start_newest_pgbouncer)
    for bouncer in pair:
        bouncer.sql("SELECT 1")
    for view in NAMED:
        ours, theirs = ([next(iter(row.values())) for row in bouncer.admin(f"SHOW {view}")] for bouncer in pair)
        assert ours == theirs, view
    ours, theirs = (bouncer.admin("SHOW POOLS") for bouncer in pair)
    assert ours == theirs
    ours, theirs = (
        [{name: row[name] for name in ("type", "user", "database", "replication", "state", "tls")} for row in rows]
        for rows in (bouncer.admin("SHOW CLIENTS") + bouncer.admin("SHOW SERVERS") for bouncer in pair)
    )
    assert ours == theirs


PLACES = {"auth_file", "conffile", "listen_port", "logfile", "pidfile", "unix_socket_dir"}
"""Settings that are another for each process of the tests."""


def test_config_is_the_same(start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer) -> None:
    ours, theirs = (
        [row if row["key"] not in PLACES else {**row, "value": ""} for row in bouncer.admin("SHOW CONFIG")]
        for bouncer in both(start_pooler, start_newest_pgbouncer)
    )
    assert ours == theirs


def test_help_begins_as_theirs(start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer) -> None:
    (ours,), (theirs,) = (
        [said for kind, said in answers(bouncer, "SHOW HELP")["SHOW HELP"] if kind == "N"]
        for bouncer in both(start_pooler, start_newest_pgbouncer)
    )
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert ours["D"].startswith(theirs["D"] + "\n")
    assert ours | {"D": ""} == theirs | {"D": ""}


COMMANDS = (
    *("SHOW client_encoding", "SHOW default_transaction_isolation", "SHOW standard_conforming_strings"),
    *("SHOW datestyle", "SHOW timezone", "SHOW extra_float_digits", "SHOW EXTRA_FLOAT_DIGITS"),
    *("SET client_encoding = 'UTF8'", "SET datestyle = ISO", "SET extra_float_digits = 3", "SET timezone TO 'CET'"),
    *("RESUME", "RESUME app", "RESUME nowhere", "RESUME pgbouncer", "PAUSE pgbouncer", "PAUSE nowhere"),
    *("ENABLE", "ENABLE pgbouncer", "ENABLE nowhere", "ENABLE app", "DISABLE", "DISABLE pgbouncer", "DISABLE nowhere"),
    *("KILL pgbouncer", "KILL nowhere", "RECONNECT", "RECONNECT app", "RECONNECT pgbouncer", "RECONNECT nowhere"),
    *("WAIT_CLOSE", "WAIT_CLOSE app", "WAIT_CLOSE pgbouncer", "WAIT_CLOSE nowhere"),
    *("KILL_CLIENT", "KILL_CLIENT x", "KILL_CLIENT 4711", "SHUTDOWN nothing", "SHOW nothing", "nothing at all"),
    *("PAUSE", "PAUSE", "PAUSE app", "KILL", "KILL app", "RESUME app", "RESUME", "PAUSE app", "PAUSE app", "RESUME"),
    *("RESUME app", "KILL app", "RESUME app", "RELOAD", "SET nothing = 1", "SET pool_mode = 'nothing'"),
    *("SET log_stats = 0", "SET login_notify_message = 'hello you'", "SET server_lifetime = 17", "SELECT version"),
)


@pytest.mark.slow
def test_commands_are_answered_in_the_same_words(
    start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer
) -> None:
    ours, theirs = both(start_pooler, start_newest_pgbouncer)
    for command in COMMANDS:
        mine, real = (without_detail(answers(each, command)[command]) for each in (ours, theirs))
        assert mine == real, command


def without_detail(answer: list[Said]) -> list[Said]:
    """We say why a SET is refused; PgBouncer tells its log."""
    return [
        (kind, {field: text for field, text in said.items() if field != "D"} if isinstance(said, dict) else said)
        for kind, said in answer
    ]


def test_stats_users_are_answered_in_the_same_words(
    start_pooler: StartBouncer, start_newest_pgbouncer: StartBouncer
) -> None:
    pair = both(start_pooler, start_newest_pgbouncer, stats_users="trusty")
    commands = ("SHOW VERSION", "SET extra_float_digits = 2", "SET log_stats = 0", "KILL_CLIENT 3", "RELOAD", "PAUSE")
    ours, theirs = (answers(each, *commands, user="trusty") for each in pair)
    assert ours == theirs


@pytest.mark.slow
def test_logins_are_counted(start_same: StartBouncer) -> None:
    bouncer = start_same(stats_period=1)
    for _ in range(3):
        bouncer.sql("SELECT 1")
    bouncer.wait_log(r"LOG stats: .* 0 binds/s, [1-9]\d* client logins/s, in \d+ B/s")
    counted = {row["database"]: int(row["client_login_count"]) for row in bouncer.admin("SHOW STATS_TOTALS")}
    assert counted == {"app": 3, ADMIN: 1}
    totals = {row["name"]: int(row["value"]) for row in bouncer.admin("SHOW TOTALS")}
    assert totals["total_client_login_count"] == 5


# ---- waiting


@pytest.mark.parametrize("kind", ["", "database"])
def test_the_wait_for_a_first_server_counts(start_same: StartBouncer, kind: str) -> None:
    bouncer = start_same(users={SUPERUSER: ""}, min_pool_size=0)

    def counted() -> tuple[int, int]:
        row = next(row for row in bouncer.admin("SHOW STATS_TOTALS") if row["database"] == "app")
        return int(row["server_assignment_count"]), int(row["wait_time"])

    more = {"replication": kind} if kind else {}
    with Stream(("127.0.0.1", bouncer.port)).login(**more):
        assignments, waited = counted()
        assert waited > 0
        with Stream(("127.0.0.1", bouncer.port)).login(**more) as client:
            client.query("SHOW server_version")
            # The next one finds what there is to be told; one of replication needs a server of its own.
            more_assignments, waited_again = counted()
            assert (waited_again > waited) is bool(kind)
    # A server of its own is assigned to nobody.
    assert (assignments, more_assignments) == ((0, 0) if kind else (0, 1))


@pytest.mark.slow
def test_how_long_a_client_may_wait_is_its_own_users(start_same: StartBouncer, cluster: Cluster) -> None:
    """Not the forced user's, whose servers it waits for."""
    at = f"host={cluster.host} port={cluster.port} dbname=app"
    bouncer = start_same(
        databases={"app": f"{at} user={SUPERUSER}"},
        default_pool_size=1,
        query_wait_timeout=100,
        user_settings={"trusty": "query_wait_timeout=1"},
    )
    address = ("127.0.0.1", bouncer.port)
    with Stream(address).login() as holder, Stream(address).login(user="trusty") as waiter, Stream(address) as patient:
        patient.login()
        holder.query("BEGIN")
        patient.send(stream.query("SELECT 'patient'"))
        waiter.send(stream.query("SELECT 1"))
        (refused,) = [message.error for message in waiter.until("E")]
        assert refused["M"] == "query_wait_timeout"
        holder.query("COMMIT")
        assert [m.values for m in patient.until() if m.type == "D"] == [[b"patient"]]
