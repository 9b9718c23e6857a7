"""Limits and times: how many may come, how long they wait, how long a server lives. PgBouncer gives the same answers.

Times are fractions of a second where both poolers take them; their janitors look three times a second.
"""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")


def client(bouncer: Bouncer, **parameters: str) -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login(**parameters)


def farewell(one: Stream) -> str:
    """What the pooler says when it ends the connection."""
    return next((m.error["M"] for m in reversed(one.rest()) if m.type == "E"), "")


def test_max_client_conn(start_either: StartBouncer) -> None:
    bouncer = start_either(max_client_conn=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(client(bouncer))
        with pytest.raises(psycopg.OperationalError, match=r"no more connections allowed \(max_client_conn\)"):
            bouncer.connect()
    until(lambda: is_let_in(bouncer), "the end of the others to be noticed")


def is_let_in(bouncer: Bouncer) -> bool:
    try:
        return bouncer.sql("SELECT 1") == [(1,)]
    except psycopg.OperationalError as error:
        assert "(max_client_conn)" in str(error)  # noqa: PT017
        return False


@pytest.mark.parametrize("dbname", ["app", "nowhere"])
def test_too_many_are_told_so_before_they_are_asked_for_a_secret(start_either: StartBouncer, dbname: str) -> None:
    bouncer = start_either(max_client_conn=1, auth_type="md5")
    with (
        bouncer.connect(user="md5_user"),
        pytest.raises(psycopg.OperationalError, match=r"no more connections allowed \(max_client_conn\)"),
    ):
        bouncer.connect(dbname, "md5_user", password="wrong")


@pytest.mark.parametrize("limit", [{"default_pool_size": 2}, {"max_db_connections": 2}, {"max_user_connections": 2}])
def test_no_more_servers_than_allowed(start_either: StartBouncer, cluster: Cluster, limit: dict[str, int]) -> None:
    bouncer = start_either(**limit)
    with ExitStack() as stack:
        clients = [stack.enter_context(client(bouncer)) for _ in range(5)]
        for holder in clients[:2]:
            holder.query("BEGIN")
        for one in clients[2:]:
            one.send(stream.query("SELECT 1"))
        until(lambda: bouncer.pool()["cl_waiting"] == 3)
        assert len(cluster.backends("app")) == 2
        for holder in clients[:2]:
            holder.query("COMMIT")
        for one in clients[2:]:
            one.until()


@pytest.mark.slow
def test_min_pool_size_keeps_servers_ready(start_either: StartBouncer) -> None:
    bouncer = start_either(min_pool_size=3)
    with client(bouncer) as one:
        one.query("SELECT 1")
        until(lambda: bouncer.pool()["sv_idle"] >= 3)


@pytest.mark.slow
def test_the_reserve_helps_those_who_wait(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=1, reserve_pool_size=1, reserve_pool_timeout=0.3)
    with client(bouncer) as holder, client(bouncer) as other:
        holder.query("BEGIN")
        assert other.rows("SELECT 'by the reserve'") == [[b"by the reserve"]]
        assert len(cluster.backends("app")) == 2


@pytest.mark.slow
def test_query_wait_timeout(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1, query_wait_timeout=0.3)
    with client(bouncer) as holder, client(bouncer) as other:
        holder.query("BEGIN")
        other.send(stream.query("SELECT 1"))
        assert farewell(other) == "query_wait_timeout"
        assert holder.rows("SELECT 1") == [[b"1"]]


@pytest.mark.slow
def test_client_idle_timeout(start_either: StartBouncer) -> None:
    bouncer = start_either(client_idle_timeout=0.3)
    with client(bouncer) as one:
        assert farewell(one) == "client_idle_timeout"


@pytest.mark.slow
def test_idle_transaction_timeout(start_either: StartBouncer) -> None:
    bouncer = start_either(idle_transaction_timeout=0.3)
    with client(bouncer) as one:
        one.query("BEGIN")
        assert farewell(one) == "idle transaction timeout"
    until(lambda: bouncer.pool()["sv_active"] == 0)


@pytest.mark.slow
def test_query_timeout(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(query_timeout=0.3)
    with client(bouncer) as one:
        one.send(stream.query("SELECT pg_sleep(600)"))
        assert farewell(one) == "query timeout"
    cluster.terminate("app")


@pytest.mark.slow
def test_client_login_timeout(start_either: StartBouncer) -> None:
    bouncer = start_either(client_login_timeout=0.3)
    with Stream(("127.0.0.1", bouncer.port)) as one:
        assert farewell(one) == "client_login_timeout"


@pytest.mark.slow
def test_server_idle_timeout(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(server_idle_timeout=0.3)
    with client(bouncer) as one:
        one.query("SELECT 1")
        bouncer.wait_log("closing because: server idle timeout")
        until(lambda: not cluster.backends("app"))
        assert one.rows("SELECT 1") == [[b"1"]]


@pytest.mark.slow
def test_server_lifetime(start_either: StartBouncer) -> None:
    bouncer = start_either(server_lifetime=0.3)
    with client(bouncer) as one:
        first = one.rows("SELECT pg_backend_pid()")
        bouncer.wait_log("closing because: server lifetime over")
        assert one.rows("SELECT pg_backend_pid()") != first


@pytest.mark.slow
def test_transaction_timeout(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(transaction_timeout=0.3)
    with client(bouncer) as one:
        one.query("BEGIN")
        assert farewell(one) == "transaction timeout"


@pytest.mark.slow
def test_waiting_is_announced(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, query_wait_notify=1)
    with client(bouncer) as holder, client(bouncer) as other:
        holder.query("BEGIN")
        other.send(stream.query("SELECT 'served'"))
        notice = other.read()
        assert notice.type == "N"
        assert notice.error["M"] == "No server connection available in postgres backend, client being queued"
        holder.query("COMMIT")
        assert [m.values for m in other.until() if m.type == "D"] == [[b"served"]]


def test_a_database_and_a_user_have_limits_of_their_own(start_either: StartBouncer, cluster: Cluster) -> None:
    where = f"host={cluster.host} port={cluster.port}"
    bouncer = start_either(databases={"app": f"{where} pool_size=1", "other": where}, default_pool_size=5)
    with client(bouncer) as one, client(bouncer) as two:
        one.query("BEGIN")
        two.send(stream.query("SELECT 1"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        assert bouncer.sql("SELECT 1", dbname="other") == [(1,)]


def packets(size: int) -> tuple[bytes, bytes, bytes]:
    """A startup packet, a password and a query whose length fields say that."""
    known = {"user": "postgres", "database": "app"}
    rest = size - len(stream.startup(known | {"application_name": ""}))
    startup = stream.startup(known | {"application_name": "x" * rest})
    return startup, stream.message("p", b"x" * (size - 5) + b"\0"), stream.query("SHOW timezone;".ljust(size - 5))


def test_max_packet_size_holds_for_every_packet(start_same: StartBouncer) -> None:
    """Of a startup packet, a login, the console, a pool's client and its server; where there is a type, it counts."""
    bouncer = start_same(max_packet_size=600, auth_type="plain", users={"postgres": "secret"})
    address = ("127.0.0.1", bouncer.port)
    for length, fits in ((599, True), (601, False)):
        startup, password, query = packets(length)
        with Stream(address) as one, Stream(address) as other:
            one.send(startup)
            other.send(stream.startup({"user": "postgres", "database": "app"}))
            other.until("R")
            other.send(password)
            told = [first_error(one), first_error(other)]
        for dbname in (ADMIN, "app"):
            with Stream(address).login(dbname, password="secret") as one:
                one.send(query)
                told.append(first_error(one))
        with Stream(address).login(password="secret") as one:
            # A DataRow's length: itself, the number of columns, the column's length, and the column.
            one.send(stream.query(f"SELECT repeat('x', {length - 4 - 2 - 4})"))
            told.append(first_error(one))
        expected = [""] * 4 if fits else ["bad packet header"] * 3 + ["bad pkt header"]
        assert [text.partition(":")[0] for place, text in enumerate(told) if place != 1] == expected
        assert told[1].startswith("password authentication failed" if fits else "bad packet header")


def first_error(one: Stream) -> str:
    """What the pooler says against what was sent; nothing if it asks for a password or answers."""
    return next((m.error["M"] for m in one.until("R", "E", "Z") if m.type == "E"), "")
