"""What 0, a negative number and none at all mean in each limit and timeout, for all, for a database and for a user: a
table, shown by behaviour and, as a slow test, by PgBouncer's.

How each text is read is in tests/unit/pooler/config (test_whole.py, test_databases.py); here is what follows from it.
All cases of a table run at once, on one pooler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

OWN = {"trusty": "0", "plain_user": "-1", "md5_user": "3"}
"""What a setting of a user's own says in these tests; the superuser has none."""
SLOW = pytest.mark.slow
LASTING = 0.7
"""Seconds for which a state has to stay as it is: longer than the reserve waits, and a round of the janitor's."""


def databases(cluster: Cluster, key: str, values: tuple[str, ...], more: str = "") -> dict[str, str]:
    at = f"host={cluster.host} port={cluster.port} dbname=app {more}"
    return {"unset": at} | {f"db{value}": f"{at} {key}={value}" for value in values}


def users(key: str, values: Mapping[str, str]) -> dict[str, str]:
    return {user: f"{key}={value}" for user, value in values.items()}


def lasting(observe: Callable[[], Any]) -> Any:
    """What `observe` says once it says the same for LASTING seconds."""
    seen: list[Any] = [None, 0.0]

    def same() -> bool:
        now = observe()
        if now != seen[0]:
            seen[:] = now, time.monotonic()
        return bool(time.monotonic() - seen[1] > LASTING)

    until(same, "a state that lasts")
    return seen[0]


def servers_at_work(bouncer: Bouncer, pools: list[tuple[str, str]], clients: int) -> dict[tuple[str, str], int]:
    """How many servers each of the pools (database, user) opens for so many clients in a transaction."""
    with ExitStack() as stack:
        for database, user in pools:
            for _ in range(clients):
                client = stack.enter_context(Stream(("127.0.0.1", bouncer.port)))
                client.login(database, user)
                client.send(stream.query("BEGIN"))
        found: dict[tuple[str, str], int] = lasting(lambda: by_pool(bouncer, "sv_active"))
        waiting = by_pool(bouncer, "cl_waiting")
        assert all(found[pool] + waiting[pool] == clients for pool in pools)
        return found


def by_pool(bouncer: Bouncer, column: str) -> dict[tuple[str, str], int]:
    rows = [row for row in bouncer.admin("SHOW POOLS") if row["database"] != "pgbouncer"]
    return {(row["database"], row["user"]): row[column] for row in rows}


# ---- sizes

ALL = 4
"""Clients of each pool; more servers than that are no use to anybody."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (2, {"unset": 2, "db0": ALL, "db-1": 2, "db3": 3}),
        (0, {"unset": ALL, "db0": ALL, "db-1": ALL, "db3": 3}),
        pytest.param(-1, {"unset": ALL, "db0": ALL, "db-1": ALL, "db3": 3}, marks=SLOW),
    ],
)
def test_pool_size_of_a_database(
    start_same: StartBouncer, cluster: Cluster, shared: int, expected: dict[str, int]
) -> None:
    bouncer = start_same(databases=databases(cluster, "pool_size", ("0", "-1", "3")), default_pool_size=shared)
    found = servers_at_work(bouncer, [(name, SUPERUSER) for name in expected], ALL)
    assert found == {(name, SUPERUSER): size for name, size in expected.items()}


@pytest.mark.slow
def test_pool_size_of_a_user(start_same: StartBouncer, cluster: Cluster) -> None:
    """0 is no limit, -1 is what the database has."""
    bouncer = start_same(
        databases=databases(cluster, "pool_size", ("0", "1")),
        user_settings=users("pool_size", OWN),
        default_pool_size=2,
    )
    expected = {
        ("unset", SUPERUSER): 2,
        ("unset", "trusty"): ALL,
        ("unset", "plain_user"): 2,
        ("unset", "md5_user"): 3,
        ("db0", "plain_user"): ALL,
        ("db0", "md5_user"): 3,
        ("db1", "trusty"): ALL,
        ("db1", "plain_user"): 1,
    }
    assert servers_at_work(bouncer, list(expected), ALL) == expected


RESERVE = 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "timeout", "expected"),
    [
        (1, RESERVE, {"unset": 2, "db0": 1, "db-1": 2, "db2": 3}),
        pytest.param(0, RESERVE, {"unset": 1, "db0": 1, "db-1": 1, "db2": 3}, marks=SLOW),
        pytest.param(-1, RESERVE, {"unset": 1, "db0": 1, "db-1": 1, "db2": 3}, marks=SLOW),
        (1, 0, {"unset": 1, "db0": 1, "db-1": 1, "db2": 1}),
    ],
)
def test_reserve_of_a_database(
    start_same: StartBouncer, cluster: Cluster, shared: int, timeout: float, expected: dict[str, int]
) -> None:
    bouncer = start_same(
        databases=databases(cluster, "reserve_pool_size", ("0", "-1", "2")),
        default_pool_size=1,
        reserve_pool_size=shared,
        reserve_pool_timeout=timeout,
    )
    found = servers_at_work(bouncer, [(name, SUPERUSER) for name in expected], ALL)
    assert found == {(name, SUPERUSER): size for name, size in expected.items()}


@pytest.mark.slow
def test_reserve_of_a_user(start_same: StartBouncer, cluster: Cluster) -> None:
    """0 is none, -1 is what the database has."""
    bouncer = start_same(
        databases=databases(cluster, "reserve_pool_size", ("2",)),
        user_settings=users("reserve_pool_size", OWN),
        default_pool_size=1,
        reserve_pool_timeout=RESERVE,
    )
    expected = {("db2", SUPERUSER): 3, ("db2", "trusty"): 1, ("db2", "plain_user"): 3, ("unset", "md5_user"): 4}
    assert servers_at_work(bouncer, list(expected), ALL) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "size", "expected"),
    [
        (2, 20, {"unset": 2, "db0": 1, "db-1": 2, "db3": 3}),
        pytest.param(-1, 20, {"unset": 1, "db0": 1, "db-1": 1, "db3": 3}, marks=SLOW),
        (2, 0, {"unset": 1, "db0": 1, "db-1": 1, "db3": 1}),
    ],
)
def test_least_size(
    start_same: StartBouncer, cluster: Cluster, shared: int, size: int, expected: dict[str, int]
) -> None:
    """Never more than pool_size says; of no limit that is none."""
    bouncer = start_same(
        databases=databases(cluster, "min_pool_size", ("0", "-1", "3")), min_pool_size=shared, default_pool_size=size
    )
    with ExitStack() as stack:
        for name in expected:
            client = stack.enter_context(Stream(("127.0.0.1", bouncer.port))).login(name)
            client.query("SELECT 1")
        found = lasting(lambda: by_pool(bouncer, "sv_idle"))
    assert found == {(name, SUPERUSER): count for name, count in expected.items()}


# ---- limits of servers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "shared", "expected"),
    [
        ("max_db_connections", 1, {"unset": 1, "db0": 1, "db-1": 1, "db2": 2}),
        pytest.param("max_db_connections", 0, {"unset": ALL, "db0": ALL, "db-1": ALL, "db2": 2}, marks=SLOW),
        pytest.param("max_db_connections", -1, {"unset": ALL, "db0": ALL, "db-1": ALL, "db2": 2}, marks=SLOW),
    ],
)
def test_servers_of_a_database(
    start_same: StartBouncer, cluster: Cluster, key: str, shared: int, expected: dict[str, int]
) -> None:
    bouncer = start_same(databases=databases(cluster, key, ("0", "-1", "2")), **{key: shared})
    found = servers_at_work(bouncer, [(name, SUPERUSER) for name in expected], ALL)
    assert found == {(name, SUPERUSER): count for name, count in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (1, {SUPERUSER: 1, "trusty": 1, "plain_user": 1, "md5_user": 3}),
        pytest.param(0, {SUPERUSER: ALL, "trusty": ALL, "plain_user": ALL, "md5_user": 3}, marks=SLOW),
    ],
)
def test_servers_of_a_user(
    start_same: StartBouncer, cluster: Cluster, shared: int, expected: dict[str, int]
) -> None:
    key = "max_user_connections"
    bouncer = start_same(databases=databases(cluster, key, ()), user_settings=users(key, OWN), **{key: shared})
    found = servers_at_work(bouncer, [("unset", user) for user in expected], ALL)
    assert found == {("unset", user): count for user, count in expected.items()}


# ---- limits of clients


def admitted(bouncer: Bouncer, stack: ExitStack, database: str, user: str = SUPERUSER) -> int:
    """How many of three clients are let in."""
    count = 0
    for _ in range(3):
        try:
            stack.enter_context(bouncer.connect(database, user))
            count += 1
        except psycopg.OperationalError as error:
            assert "connections" in str(error)  # noqa: PT017
    return count


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (1, {"unset": 1, "db0": 1, "db-1": 1, "db2": 2}),
        (0, {"unset": 3, "db0": 3, "db-1": 3, "db2": 2}),
        (-1, {"unset": 3, "db0": 3, "db-1": 3, "db2": 2}),
    ],
)
def test_clients_of_a_database(
    start_same: StartBouncer, cluster: Cluster, shared: int, expected: dict[str, int]
) -> None:
    key = "max_db_client_connections"
    bouncer = start_same(databases=databases(cluster, key, ("0", "-1", "2")), **{key: shared})
    with ExitStack() as stack:
        assert {name: admitted(bouncer, stack, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (1, {"scram_user": 1, "trusty": 1, "plain_user": 1, "md5_user": 3}),
        (0, {"scram_user": 3, "trusty": 3, "plain_user": 3, "md5_user": 3}),
    ],
)
def test_clients_of_a_user(
    start_same: StartBouncer, cluster: Cluster, shared: int, expected: dict[str, int]
) -> None:
    key = "max_user_client_connections"
    bouncer = start_same(databases=databases(cluster, key, ()), user_settings=users(key, OWN), **{key: shared})
    with ExitStack() as stack:
        assert {user: admitted(bouncer, stack, "unset", user) for user in expected} == expected


@pytest.mark.parametrize("limit", [0, -1])
def test_no_client_at_all(start_same: StartBouncer, limit: int) -> None:
    bouncer = start_same(max_client_conn=limit)
    with pytest.raises(psycopg.OperationalError, match=r"no more connections allowed \(max_client_conn\)"):
        bouncer.connect()
    assert bouncer.admin("SHOW VERSION")


# ---- times


def outcomes(bouncer: Bouncer, work: Callable[[Stream], None], who: list[str]) -> dict[str, str]:
    """What each of the users is told when it goes on after `work`, which is longer than a second and shorter than 3."""
    found = {}
    with ExitStack() as stack:
        clients = {u: stack.enter_context(Stream(("127.0.0.1", bouncer.port))).login("unset", u) for u in who}
        for client in clients.values():
            work(client)
        end = time.monotonic() + 1.7
        until(lambda: time.monotonic() > end, "the time")
        for user, client in clients.items():
            try:
                client.send(stream.query("SELECT 7"))
                said = client.until("Z", "E")
                if said[-1].type == "Z" and not any(m.type == "D" and m.values == [b"7"] for m in said):
                    said = client.until("Z", "E")
                found[user] = said[-1].error["M"] if said[-1].type == "E" else ""
            except stream.Ended:
                found[user] = "ended"
    return found


TIMES: list[tuple[str, Callable[[Stream], object], str]] = [
    ("query_timeout", lambda client: client.send(stream.query("SELECT pg_sleep(1.9)")), "query timeout"),
    ("idle_transaction_timeout", lambda client: client.query("BEGIN"), "idle transaction timeout"),
    ("transaction_timeout", lambda client: client.query("BEGIN"), "transaction timeout"),
    ("client_idle_timeout", lambda client: client.query("SELECT 1"), "client_idle_timeout"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "work", "reason"), TIMES, ids=[key for key, _, _ in TIMES])
@pytest.mark.parametrize("shared", [1, 0])
def test_times_of_a_user(
    start_same: StartBouncer,
    cluster: Cluster,
    key: str,
    work: Callable[[Stream], None],
    reason: str,
    shared: int,
) -> None:
    """0 is as good as none of its own, a negative one is never; fractions are cut off."""
    own = {"trusty": "0", "plain_user": "-1", "md5_user": "30", "scram_user": "1", "scram_other": "0.9"}
    bouncer = start_same(
        databases=databases(cluster, key, ()), user_settings=users(key, own), **{key: shared}
    )
    if bouncer.name == "pgbouncer" and (key, shared) == ("client_idle_timeout", 0):
        pytest.skip("PgBouncer 1.26 ends clients of users who have no limit, once another user has one")
    of_all = reason if shared else ""
    expected = {SUPERUSER: of_all, "trusty": of_all, "scram_other": of_all}
    expected |= {"plain_user": "", "md5_user": "", "scram_user": reason}
    assert outcomes(bouncer, work, list(expected)) == expected


@pytest.mark.slow
def test_how_long_a_client_waits(start_same: StartBouncer, cluster: Cluster) -> None:
    """0 and negative ones are never, for a database and for a user."""
    key, forced = "query_wait_timeout", f"pool_size=1 user={SUPERUSER}"
    bouncer = start_same(
        databases=databases(cluster, key, ("0", "-1", "30"), forced),
        user_settings=users(key, {"trusty": "0", "plain_user": "-1", "md5_user": "30", "scram_user": "1"}),
        **{key: 1},
    )
    expected = {
        ("unset", SUPERUSER): key,
        ("unset", "trusty"): "",
        ("unset", "plain_user"): "",
        ("unset", "md5_user"): "",
        ("db0", SUPERUSER): "",
        ("db0", "scram_user"): key,
        ("db-1", SUPERUSER): "",
        ("db30", SUPERUSER): "",
        ("db30", "scram_user"): key,
    }
    with ExitStack() as stack:
        clients = {}
        for database in dict.fromkeys(name for name, _ in expected):
            holder = stack.enter_context(Stream(("127.0.0.1", bouncer.port))).login(database)
            holder.query("BEGIN")
        for database, user in expected:
            client = stack.enter_context(Stream(("127.0.0.1", bouncer.port))).login(database, user)
            client.send(stream.query("SELECT 1"))
            clients[database, user] = client
        refused = [pool for pool, reason in expected.items() if reason]
        for pool in refused:
            assert clients[pool].until("E")[-1].error["M"] == key
        assert lasting(lambda: sum(by_pool(bouncer, "cl_waiting").values())) == len(expected) - len(refused)


@pytest.mark.parametrize(
    ("shared", "own", "other"),
    [
        ("0", None, True),
        ("3600", "0", False),
        ("3600", "-1", False),
        ("0", "3600", False),
        ("0", "0", True),
        ("inf", None, True),
        ("nan", None, False),
        ("1e11", None, False),
    ],
)
def test_how_long_a_server_lives(
    start_same: StartBouncer, cluster: Cluster, shared: str, own: str | None, other: bool
) -> None:
    """For all, 0 is: used once. For a database it is as good as none of its own."""
    at = f"host={cluster.host} port={cluster.port} dbname=app"
    bouncer = start_same(
        databases={"app": f"{at} server_lifetime={own}" if own else at}, server_lifetime=shared, default_pool_size=1
    )
    with bouncer.connect() as client:
        pids = [client.execute("SELECT pg_backend_pid()").fetchone() for _ in range(3)]
    assert (len(set(pids)) > 1) == other


@pytest.mark.slow
def test_a_database_made_for_a_client_goes_at_once(start_same: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_same(
        databases={"*": f"host={cluster.host} port={cluster.port}"}, autodb_idle_timeout=0, server_idle_timeout=0.3
    )
    bouncer.sql("SELECT 1")
    until(lambda: [row["name"] for row in bouncer.admin("SHOW DATABASES")] == ["pgbouncer"], "the database to go")


@pytest.mark.slow
def test_an_idle_pool_stays_or_goes(start_same: StartBouncer) -> None:
    bouncer = start_same(server_idle_timeout=0.3, pool_idle_timeout=0)
    bouncer.sql("SELECT 1")
    until(lambda: not bouncer.pool()["sv_idle"], "the server to go")
    assert ("app", SUPERUSER) in lasting(lambda: by_pool(bouncer, "sv_idle"))
    bouncer.admin("SET pool_idle_timeout = 1")
    bouncer.wait_log(r"cleaning up idle pool for user postgres on db app because: pool idle timeout \(age= [12]s\)")
    assert by_pool(bouncer, "sv_idle") == {}


@pytest.mark.slow
@pytest.mark.parametrize("period", [0, pytest.param(-1, marks=SLOW)])
def test_who_is_queued_need_not_be_told(start_same: StartBouncer, period: int) -> None:
    bouncer = start_same(query_wait_notify=period, default_pool_size=1, query_wait_timeout=1)
    with Stream(("127.0.0.1", bouncer.port)).login() as holder, Stream(("127.0.0.1", bouncer.port)).login() as waiter:
        holder.query("BEGIN")
        waiter.send(stream.query("SELECT 1"))
        assert [message.type for message in waiter.until("E")] == ["E"]


def test_a_port_has_16_bits(start_same: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_same(databases={"app": f"host={cluster.host} port={cluster.port + 65536}"})
    assert bouncer.sql("SELECT 1") == [(1,)]
    row = next(row for row in bouncer.admin("SHOW DATABASES") if row["name"] == "app")
    assert row["port"] == cluster.port + 65536
