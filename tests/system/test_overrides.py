"""Limits and times of single databases and users, who goes first when there is no room, and what a socket is set to."""

from __future__ import annotations

import ctypes
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")


def client(bouncer: Bouncer, dbname: str = "app", user: str = "postgres") -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login(dbname, user)


def farewell(one: Stream) -> str:
    """What the pooler says when it ends the connection."""
    return next((m.error["M"] for m in reversed(one.rest()) if m.type == "E"), "")


def at(cluster: Cluster, more: str = "") -> str:
    return f"host={cluster.host} port={cluster.port} dbname=app {more}"


def refused(bouncer: Bouncer, dbname: str = "app", user: str = "postgres") -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        bouncer.connect(dbname, user)
    return re.sub(r"(?s).*failed: (FATAL:  )?", "", str(caught.value)).strip()


def comes_in(bouncer: Bouncer) -> bool:
    with suppress(AssertionError), client(bouncer):
        return True
    return False


StartProxy = Callable[[int], FaultProxy]
OF_USER = "max_user_connections=5 max_user_client_connections=6 pool_size=4 pool_mode=session"

# ---- clients


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_db_client_connections": 2}, "client connections exceeded (max_db_client_connections)"),
        ({"max_user_client_connections": 2}, "client connections exceeded (max_user_client_connections)"),
        ({"databases": "max_db_client_connections=2"}, "client connections exceeded (max_db_client_connections)"),
        (
            {"user_settings": {"postgres": "max_user_client_connections=2"}},
            "client connections exceeded (max_user_client_connections)",
        ),
    ],
)
def test_how_many_clients_may_come(
    start_pooler: StartBouncer, cluster: Cluster, settings: dict[str, object], reason: str
) -> None:
    more = str(settings.pop("databases", ""))
    bouncer = start_pooler(databases={"app": at(cluster, more)}, **settings)
    with client(bouncer), client(bouncer) as leaving:
        assert refused(bouncer) == reason
        leaving.send(stream.terminate())
        until(lambda: bouncer.pool()["cl_active"] == 1)
        # The console that looked is a client of this user as well, and goes in a moment.
        until(lambda: comes_in(bouncer))
    bouncer.wait_log(re.escape("app/postgres@127.0.0.1") + r"\S+ closing because: " + re.escape(reason))


def test_the_shown_limits(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(
        databases={"app": at(cluster, "max_db_connections=7 max_db_client_connections=8 reserve_pool=3")},
        user_settings={"postgres": OF_USER},
        max_db_connections=1,
        max_user_connections=1,
    )
    with client(bouncer) as one:
        one.query("SELECT 1")
        database = next(row for row in bouncer.admin("SHOW DATABASES") if row["name"] == "app")
        assert (database["max_connections"], database["current_connections"]) == (7, 1)
        assert (database["max_client_connections"], database["current_client_connections"]) == (8, 1)
        assert database["reserve_pool_size"] == 3
        user = next(row for row in bouncer.admin("SHOW USERS") if row["name"] == "postgres")
        assert (user["max_user_connections"], user["current_connections"]) == (5, 1)
        # The console that asks is one of them.
        assert (user["max_user_client_connections"], user["current_client_connections"]) == (6, 2)
        assert (user["pool_size"].strip(), user["pool_mode"]) == ("4", "session")
        assert bouncer.pool()["pool_mode"] == "session"


# ---- servers


@pytest.mark.parametrize(
    ("of_database", "of_user"), [("pool_size=1", ""), ("pool_size=9", "pool_size=1"), ("max_db_connections=1", "")]
)
def test_a_size_of_its_own(start_pooler: StartBouncer, cluster: Cluster, of_database: str, of_user: str) -> None:
    """The user's goes before the database's."""
    users = {"postgres": of_user} if of_user else {}
    bouncer = start_pooler(databases={"app": at(cluster, of_database)}, user_settings=users)
    with client(bouncer) as one, client(bouncer) as two:
        one.query("BEGIN")
        two.send(stream.query("SELECT 1"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        assert bouncer.pool()["sv_active"] == 1
        one.query("COMMIT")
        two.until()


@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_an_idle_server_of_a_neighbour_goes_for_one_who_waits(
    start_same: StartBouncer, cluster: Cluster, limit: str
) -> None:
    bouncer = start_same(databases={"app": at(cluster), "two": at(cluster)}, **{limit: 1})
    second = ("two", "postgres") if limit == "max_user_connections" else ("app", "trusty")
    with client(bouncer) as one, client(bouncer, *second) as two:
        one.query("SELECT 1")
        assert two.rows("SELECT 'has it'") == [[b"has it"]]
        bouncer.wait_log(rf"S-\S+ app/postgres@\S+ closing because: evicted for {limit} \(age=")
        one.query("SELECT 1")
        two.query("BEGIN")
        one.send(stream.query("SELECT 1"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        two.query("COMMIT")
        one.until()


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["database", "user"])
def test_a_reserve_of_its_own(start_pooler: StartBouncer, cluster: Cluster, whose: str) -> None:
    bouncer = start_pooler(
        databases={"app": at(cluster, "reserve_pool_size=1" if whose == "database" else "")},
        user_settings={"postgres": "reserve_pool_size=1"} if whose == "user" else {},
        default_pool_size=1,
        reserve_pool_timeout=0.3,
    )
    with client(bouncer) as one, client(bouncer) as two, client(bouncer) as three:
        one.query("BEGIN")
        two.query("BEGIN")
        bouncer.wait_log("WARNING .*taking connection from reserve_pool")
        three.send(stream.query("SELECT 1"))
        until(lambda: bouncer.pool()["maxwait_us"] > 600_000 or bouncer.pool()["maxwait"] > 0)
        assert bouncer.pool()["sv_active"] == 2
        two.query("COMMIT")
        three.until()


@pytest.mark.slow
def test_min_pool_size(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """From the start for a forced user; else as soon as the pool is in use."""
    databases = {"app": at(cluster, "min_pool_size=2 user=postgres"), "two": at(cluster, "min_pool_size=3")}
    bouncer = start_pooler(databases=databases)
    until(lambda: bouncer.pool()["sv_idle"] == 2)
    assert bouncer.pool("two")["sv_idle"] == 0
    with client(bouncer, "two"):
        until(lambda: bouncer.pool("two")["sv_idle"] == 3)


@pytest.mark.slow
def test_server_lifetime(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """A database's own; 0 of all is one use. A pool's servers do not all go at the same moment."""
    databases = {"app": at(cluster), "two": at(cluster, "server_lifetime=1")}
    bouncer = start_pooler(databases=databases, server_lifetime=0, default_pool_size=1)
    with client(bouncer) as one, client(bouncer, "two") as two:
        assert one.rows("SELECT pg_backend_pid()") != one.rows("SELECT pg_backend_pid()")
        bouncer.wait_log(r"S-\S+ app/postgres@\S+ closing because: server lifetime over \(age=0s\)")
        assert two.rows("SELECT pg_backend_pid()") == two.rows("SELECT pg_backend_pid()")
        bouncer.wait_log(r"S-\S+ two/postgres@\S+ closing because: server lifetime over \(age=1s\)")


@pytest.mark.slow
@pytest.mark.one_process("each worker has its own server retire, and spreads those that it has")
def test_servers_retire_one_after_the_other(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(server_lifetime=2, default_pool_size=2, min_pool_size=2)
    with client(bouncer) as one, client(bouncer) as two:
        for each in (one, two):
            each.query("BEGIN")
        for each in (one, two):
            each.query("COMMIT")
        ended = re.compile(r" \d\d:\d\d:(\d\d\.\d+) .*(S-\S+): .*server lifetime over \(age=[23]s\)")
        retired: dict[str, float] = {}

        def both() -> bool:
            retired.update({server: float(second) for second, server in ended.findall(bouncer.log_text())})
            return len(retired) >= 2

        until(both, "two servers to retire")
    first, second, *_ = retired.values()
    assert 0.9 < (second - first) % 60 < 1.9


def test_a_server_is_tested_before_it_is_used_again(start_either: StartBouncer) -> None:
    bouncer = start_either(server_check_delay=0, server_check_query="SELECT 'alive'")
    with client(bouncer) as one:
        one.query("SELECT 1")
        until(lambda: bouncer.pool()["sv_used"] == 1)
        assert one.rows("SELECT 'used'") == [[b"used"]]


def test_a_server_that_fails_its_test_goes(start_pooler: StartBouncer) -> None:
    """PgBouncer takes any answer for a sign of life."""
    bouncer = start_pooler(server_check_delay=0, server_check_query="SELECT no_such_column")
    with client(bouncer) as one:
        one.query("SELECT 1")
        until(lambda: bouncer.pool()["sv_used"] == 1)
        one.send(stream.query("SELECT 'on a new one'"))
        bouncer.wait_log(r"S-\S+ app/postgres@\S+ closing because: test query failed")
        assert any(m.type == "D" for m in one.until())


# ---- times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user_settings", "act", "reason"),
    [
        ("query_timeout=1", "SELECT pg_sleep(600)", "query timeout"),
        ("idle_transaction_timeout=1", "BEGIN", "idle transaction timeout"),
        ("transaction_timeout=1", "BEGIN", "transaction timeout"),
        ("client_idle_timeout=1", "SELECT 1", "client_idle_timeout"),
    ],
)
def test_a_users_own_time(
    start_pooler: StartBouncer, cluster: Cluster, user_settings: str, act: str, reason: str
) -> None:
    """Another user of the same database is left alone."""
    bouncer = start_pooler(user_settings={"trusty": user_settings})
    with client(bouncer, user="trusty") as own, client(bouncer) as other:
        other.query("BEGIN")
        own.send(stream.query(act))
        assert farewell(own) == reason
        assert other.rows("SELECT 'unhurt'") == [[b"unhurt"]]
    cluster.terminate("app")


@pytest.mark.slow
def test_client_idle_timeout_goes_by_the_user_who_logged_in(start_pooler: StartBouncer, cluster: Cluster) -> None:
    databases = {"app": at(cluster, "user=postgres")}
    bouncer = start_pooler(databases=databases, user_settings={"trusty": "client_idle_timeout=1"})
    with client(bouncer, user="trusty") as own, client(bouncer) as other:
        assert farewell(own) == "client_idle_timeout"
        assert other.rows("SELECT 1") == [[b"1"]]


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["database", "user"])
def test_a_query_wait_timeout_of_its_own(start_pooler: StartBouncer, cluster: Cluster, whose: str) -> None:
    bouncer = start_pooler(
        databases={"app": at(cluster, "query_wait_timeout=1" if whose == "database" else "")},
        user_settings={"postgres": "query_wait_timeout=1"} if whose == "user" else {},
        default_pool_size=1,
    )
    with client(bouncer) as one, client(bouncer) as two:
        one.query("BEGIN")
        two.send(stream.query("SELECT 1"))
        assert farewell(two) == "query_wait_timeout"


@pytest.mark.slow
def test_client_login_timeout_while_no_server_answers(start_either: StartBouncer) -> None:
    """The client has proved who it is, but there is nobody to welcome it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        databases = {"app": f"host=127.0.0.1 port={silent.getsockname()[1]}"}
        bouncer = start_either(databases=databases, client_login_timeout=1)
        with Stream(("127.0.0.1", bouncer.port)) as one:
            one.send(stream.startup({"user": "postgres", "database": "app"}))
            assert farewell(one) == "client_login_timeout (server down)"


@pytest.mark.slow
def test_cancel_wait_timeout(start_pooler: StartBouncer, cluster: Cluster, start_proxy: StartProxy) -> None:
    """A pool has `pool_size` requests on their way at a time, the others wait."""
    proxy = start_proxy(cluster.port)
    databases = {"app": f"host=127.0.0.1 port={proxy.port} dbname=app"}
    bouncer = start_pooler(databases=databases, cancel_wait_timeout=0.5, default_pool_size=1)
    with client(bouncer) as busy, ExitStack() as stack:
        busy.send(stream.query("SELECT pg_sleep(600)"))
        until(lambda: cluster.sql("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'"))
        proxy.stall()
        for _ in range(2):
            request = stack.enter_context(Stream(("127.0.0.1", bouncer.port)))
            request.send(stream.request(stream.CANCEL_REQUEST, busy.pid.to_bytes(4, "big") + busy.key))
        columns = ("cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel")
        until(lambda: [bouncer.pool().get(column) for column in columns] == [1, 1, 1])
        bouncer.wait_log("closing because: cancel_wait_timeout")
        proxy.resume()
        stream.cancel(("127.0.0.1", bouncer.port), busy.pid, busy.key)
        assert [m.error["C"] for m in busy.until() if m.type == "E"] == ["57014"]
    # The first request may still be on its way: nobody else gets this server.
    bouncer.wait_log(r"S-\S+ app/postgres@\S+ closing because: close_needed")


@pytest.mark.one_process("each worker opens one server at a time")
def test_waiting_for_the_first_server(start_pooler: StartBouncer, cluster: Cluster, start_proxy: StartProxy) -> None:
    """A client can be ended, and the place can change, while nobody answers there; then the new place is used."""
    proxy = start_proxy(cluster.port)
    proxy.stall()
    databases = {"app": f"host=127.0.0.1 port={proxy.port}"}
    bouncer = start_pooler(databases=databases, query_wait_timeout=60)
    with Stream(("127.0.0.1", bouncer.port)) as ended, Stream(("127.0.0.1", bouncer.port)) as served:
        for one in (ended, served):
            one.send(stream.startup({"user": "postgres", "database": "app"}))
        until(lambda: bouncer.pool()["cl_waiting"] == 2)
        assert [(row["state"], row["port"]) for row in bouncer.admin("SHOW SERVERS")] == [("new", proxy.port)]
        assert "sv_login" in {row["state"] for row in bouncer.admin("SHOW SOCKETS")}
        first = min(row["id"] for row in bouncer.admin("SHOW CLIENTS") if row["state"] == "waiting")
        bouncer.admin(f"KILL_CLIENT {first}")
        assert farewell(ended) == "admin forced disconnect"
        bouncer.databases["app"] = at(cluster)
        bouncer.write()
        bouncer.admin("RELOAD")
        proxy.resume()
        served.answer_login("postgres", "")
        assert served.rows("SELECT 1") == [[b"1"]]
    bouncer.wait_log(rf"S-\S+ app/postgres@127.0.0.1:{proxy.port} closing because: connect string changed")
    shown = {row["port"] for row in bouncer.admin("SHOW SERVERS")}
    assert shown == {cluster.port}


@pytest.mark.slow
def test_databases_of_the_fallback_entry_are_forgotten(start_pooler: StartBouncer, cluster: Cluster) -> None:
    databases = {"*": f"host={cluster.host} port={cluster.port}"}
    bouncer = start_pooler(databases=databases, autodb_idle_timeout=0.3, server_idle_timeout=0.3)
    bouncer.sql("SELECT 1", dbname="other")
    bouncer.wait_log("registered new auto-database: other")
    assert "other" in {row["name"] for row in bouncer.admin("SHOW DATABASES")}
    until(lambda: "other" not in {row["name"] for row in bouncer.admin("SHOW DATABASES")})
    assert bouncer.sql("SELECT 1", dbname="other") == [(1,)]


@pytest.mark.slow
def test_an_idle_pool_is_forgotten(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(pool_idle_timeout=0.3, server_idle_timeout=0.3)
    bouncer.sql("SELECT 1")
    bouncer.wait_log("cleaning up idle pool for user postgres on db app because: pool idle timeout")
    assert bouncer.sql("SELECT 1") == [(1,)]


# ---- sockets


PIDFD_GETFD = 438
"""Number of the system call."""


def tcp_sockets(pid: int) -> Iterator[socket.socket]:
    """Copies of another process's connected TCP sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    for name in os.listdir(f"/proc/{pid}/fd"):
        if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            continue
        copy = socket.socket(fileno=libc.syscall(PIDFD_GETFD, process, int(name), 0))
        if copy.family == socket.AF_INET and not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield copy
        else:
            copy.close()
    os.close(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="looking into another process needs root")
def test_sockets_are_set_up_as_told(start_pooler: StartBouncer) -> None:
    settings = {"tcp_keepcnt": 7, "tcp_keepidle": 77, "tcp_keepintvl": 17, "tcp_user_timeout": 7777}
    bouncer = start_pooler(**settings, tcp_keepalive=1)
    names = ("TCP_KEEPCNT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT")
    with ExitStack() as stack:
        one = stack.enter_context(client(bouncer))
        one.query("SELECT 1")
        sockets = [stack.enter_context(each) for pid in bouncer.pids for each in tcp_sockets(pid)]
        # The client's and the server's.
        assert len(sockets) == 2
        for each in sockets:
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            given = [each.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
            assert given == list(settings.values())
