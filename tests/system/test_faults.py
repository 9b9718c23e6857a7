"""What goes wrong between a pooler and its neighbours: the other side is told, nothing leaks, the pool recovers.

Each test runs against PgBouncer too; the standing fear is that a client receives bytes meant for another.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import free_port, until

pytestmark = pytest.mark.usefixtures("cleared")

StartProxy = Callable[[int], FaultProxy]
SLEEP = stream.query("SELECT pg_sleep(600)")
ACTIVE = (
    "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND state = 'active' AND query LIKE 'SELECT pg_sleep(600)%'"
)


def client(bouncer: Bouncer) -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login()


def through(proxy: FaultProxy) -> dict[str, str]:
    """[databases] that reach PostgreSQL through `proxy`."""
    return {"app": f"host=127.0.0.1 port={proxy.port} dbname=app"}


def last_error(one: Stream) -> str:
    """The message with which the pooler lets a client go; empty if it just closes."""
    return next((m.error["M"] for m in reversed(one.rest()) if m.type == "E"), "")


def works(bouncer: Bouncer) -> bool:
    """Whether a new client is served."""
    try:
        with client(bouncer) as one:
            return one.rows("SELECT 'works'") == [[b"works"]]
    except (AssertionError, Ended, OSError):
        return False


def test_a_server_killed_under_a_query(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=2)
    with client(bouncer) as victim, client(bouncer) as bystander:
        victim.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        cluster.sql(ACTIVE.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"))
        told = [m.error["M"] for m in victim.rest() if m.type == "E"]
        assert told[0] == "terminating connection due to administrator command"
        assert bystander.rows("SELECT 1") == [[b"1"]]
    assert works(bouncer)


def test_a_server_killed_while_idle_is_not_noticed(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=2)
    with client(bouncer) as one:
        one.query("SELECT 1")
        assert cluster.terminate("app") == 1
        until(lambda: bouncer.pool()["sv_idle"] == 0)
        assert one.rows("SELECT 2") == [[b"2"]]


@pytest.mark.slow
def test_a_backend_that_crashes_takes_only_connections_with_it(
    start_either: StartBouncer, own_cluster: Cluster
) -> None:
    """SIGKILL of one backend makes PostgreSQL restart all of them."""
    bouncer = start_either(server=own_cluster, server_login_retry=0.3)
    with client(bouncer) as one:
        one.query("BEGIN")
        os.kill(own_cluster.backends("app")[0], signal.SIGKILL)
        assert one.ended()
    until(lambda: works(bouncer), "the pool to recover")


@pytest.mark.slow
def test_postgresql_restarts(start_either: StartBouncer, own_cluster: Cluster) -> None:
    bouncer = start_either(server=own_cluster, server_login_retry=0.3)
    with client(bouncer) as idle, client(bouncer) as busy:
        idle.query("SELECT 1")
        busy.query("BEGIN")
        own_cluster.restart(signal.SIGINT)
        assert last_error(busy)
        until(lambda: works(bouncer), "the pool to recover")
        assert idle.rows("SELECT 'still here'") == [[b"still here"]]


@pytest.mark.slow
def test_a_client_that_came_while_postgresql_was_away_is_served(
    start_either: StartBouncer, own_cluster: Cluster
) -> None:
    bouncer = start_either(server=own_cluster, server_login_retry=0.3)
    assert works(bouncer)
    with client(bouncer) as one:
        own_cluster.stop()
        until(lambda: bouncer.pool()["sv_idle"] == 0)
        one.send(stream.query("SELECT 'waited'"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        own_cluster.start()
        assert [m.values for m in one.until() if m.type == "D"] == [[b"waited"]]


@pytest.mark.slow
@pytest.mark.one_process("each worker tries to log in by itself, and who asks first there waits; see test_handover")
def test_queries_are_turned_away_while_postgresql_is_away(start_either: StartBouncer, own_cluster: Cluster) -> None:
    """Who asks first waits; once an attempt has failed the others come in, and are told with their first query."""
    bouncer = start_either(server=own_cluster, server_login_retry=0.3)
    assert works(bouncer)
    own_cluster.stop()
    until(lambda: bouncer.pool()["sv_idle"] == 0)
    with client(bouncer) as waiting:
        waiting.send(stream.query("SELECT 'waited'"))
        bouncer.wait_log("closing because: connect failed")
        with client(bouncer) as one:
            one.send(stream.query("SELECT 1"))
            assert any("server login has been failing" in m.error["M"] for m in one.rest() if m.type == "E")
        own_cluster.start()
        assert [m.values for m in waiting.until() if m.type == "D"] == [[b"waited"]]
    assert works(bouncer)


@pytest.mark.slow
def test_nobody_listens_where_the_database_should_be(start_either: StartBouncer) -> None:
    nowhere = f"host=127.0.0.1 port={free_port()} dbname=app"
    bouncer = start_either(databases={"app": nowhere}, server_login_retry=0.3, query_wait_timeout=1)
    with pytest.raises(
        psycopg.OperationalError, match=r"connect failed|server login has been failing|query_wait_timeout"
    ):
        bouncer.connect()


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_the_network_breaks_in_a_result(
    start_either: StartBouncer, cluster: Cluster, start_proxy: StartProxy, fault: str
) -> None:
    proxy = start_proxy(cluster.port)
    bouncer = start_either(databases=through(proxy), server_login_retry=0.3)
    with client(bouncer) as one:
        one.send(stream.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        assert one.read().type == "T"
        getattr(proxy, fault)()
        assert one.ended()
    assert works(bouncer)


@pytest.mark.slow
def test_a_server_that_never_answers_a_login(
    start_either: StartBouncer, cluster: Cluster, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(cluster.port)
    proxy.blackhole()
    bouncer = start_either(databases=through(proxy), server_connect_timeout=1, server_login_retry=1)
    with Stream(("127.0.0.1", bouncer.port)) as one:
        one.send(stream.startup({"user": "postgres", "database": "app"}))
        bouncer.wait_log("connect timeout")
        proxy.resume()
        one.answer_login("postgres", "")
        assert one.rows("SELECT 1") == [[b"1"]]


def test_dripping_servers_and_clients(start_either: StartBouncer, cluster: Cluster, start_proxy: StartProxy) -> None:
    behind = start_proxy(cluster.port)
    bouncer = start_either(databases=through(behind))
    before = start_proxy(bouncer.port)
    with Stream(("127.0.0.1", before.port)).login() as one:
        behind.drip(1)
        before.drip(1)
        one.send(stream.parse("SELECT $1::text"), stream.bind(["drop by drop"]), stream.execute(), stream.sync())
        assert [m.values for m in one.until() if m.type == "D"] == [[b"drop by drop"]]
        assert len(one.rows("SELECT n, repeat('x', 300) FROM generate_series(1, 20) n")) == 20


@pytest.mark.slow
def test_a_stalled_client_disturbs_nobody(start_either: StartBouncer) -> None:
    """It has asked for much and reads nothing."""
    bouncer = start_either(default_pool_size=2)
    with client(bouncer) as stalled, client(bouncer) as other:
        stalled.send(stream.query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)"))
        until(lambda: bouncer.pool()["sv_active"] == 1)
        for _ in range(20):
            assert other.rows("SELECT 1") == [[b"1"]]
        assert len([m for m in stalled.until() if m.type == "D"]) == 200_000


def test_clients_that_vanish_leave_no_trace_in_others(start_either: StartBouncer, cluster: Cluster) -> None:
    """Ten clients ask for their own number; half of them vanish without reading the answer, again and again."""
    bouncer = start_either(default_pool_size=3)
    with ExitStack() as stack:
        steady = [stack.enter_context(client(bouncer)) for _ in range(5)]
        for turn in range(20):
            vanishing = [client(bouncer) for _ in range(5)]
            for number, one in enumerate([*steady, *vanishing]):
                one.send(stream.query(f"SELECT {number}, repeat('{number}', 20000)"))
            for one in vanishing:
                one.socket.close()
            for number, one in enumerate(steady):
                row = next(m.values for m in one.until() if m.type == "D")
                assert row == [str(number).encode(), str(number).encode() * 20000], f"turn {turn}"
        until(lambda: bouncer.pool()["sv_active"] == 0)
        assert bouncer.pool()["cl_active"] == 5
    until(lambda: len(cluster.backends("app")) <= 3)


def no_idle_server(bouncer: Bouncer, cluster: Cluster) -> bool:
    """Whether the pooler has none left, after PostgreSQL ended those there are."""
    cluster.terminate("app")
    return bool(bouncer.pool()["sv_idle"] == 0)


@pytest.mark.slow
def test_no_descriptor_leaks(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=2)
    assert works(bouncer)

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{bouncer.pid}/fd"))

    before = descriptors()
    for turn in range(30):
        with client(bouncer) as one:
            if turn % 3 == 0:
                one.query("BEGIN")
            elif turn % 3 == 1:
                one.send(stream.query("SELECT repeat('x', 100000)"))
            else:
                until(lambda: no_idle_server(bouncer, cluster))
    until(lambda: descriptors() <= before + 2, "descriptors to be closed")
