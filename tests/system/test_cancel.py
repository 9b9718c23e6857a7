"""Cancel requests: the right backend, never another client's query, nothing left behind."""

from __future__ import annotations

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until

SLEEP = stream.query("SELECT pg_sleep(600)")
ACTIVE = (
    "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND state = 'active' AND query LIKE 'SELECT pg_sleep(600)%'"
)


def address(bouncer: Bouncer) -> tuple[str, int]:
    return ("127.0.0.1", bouncer.port)


def codes(answer: list[Message]) -> list[str]:
    return [m.error["C"] for m in answer if m.type == "E"]


def test_a_running_query_is_cancelled_and_the_client_goes_on(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with Stream(address(bouncer)).login() as client:
        client.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        stream.cancel(address(bouncer), client.pid, client.key)
        assert codes(client.until()) == ["57014"]
        assert client.rows("SELECT 'goes on'") == [[b"goes on"]]


def test_only_the_one_that_was_meant(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with Stream(address(bouncer)).login() as meant, Stream(address(bouncer)).login() as other:
        for client in (meant, other):
            client.send(SLEEP)
        until(lambda: len(cluster.sql(ACTIVE)) == 2)
        stream.cancel(address(bouncer), meant.pid, meant.key)
        assert codes(meant.until()) == ["57014"]
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), other.pid, other.key)
        assert codes(other.until()) == ["57014"]


def test_a_wrong_key_cancels_nothing(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with Stream(address(bouncer)).login() as client:
        client.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        stream.cancel(address(bouncer), client.pid, bytes(b ^ 0xFF for b in client.key))
        stream.cancel(address(bouncer), client.pid ^ 1, client.key)
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), client.pid, client.key)
        assert codes(client.until()) == ["57014"]


def test_an_idle_clients_request_touches_nobody(start_either: StartBouncer, cluster: Cluster) -> None:
    """The server the idle client used last now works for another."""
    bouncer = start_either(default_pool_size=1)
    with Stream(address(bouncer)).login() as idle, Stream(address(bouncer)).login() as busy:
        idle.query("SELECT 1")
        busy.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        stream.cancel(address(bouncer), idle.pid, idle.key)
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), busy.pid, busy.key)
        assert codes(busy.until()) == ["57014"]
        assert idle.rows("SELECT 'untouched'") == [[b"untouched"]]


def test_a_request_for_a_waiting_client_touches_nobody_else(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=1)
    with Stream(address(bouncer)).login() as busy, Stream(address(bouncer)).login() as waiting:
        busy.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        waiting.send(stream.query("SELECT 'waited'"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        stream.cancel(address(bouncer), waiting.pid, waiting.key)
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), busy.pid, busy.key)
        assert codes(busy.until()) == ["57014"]


def test_many_requests_leave_nothing_behind(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=2)
    with Stream(address(bouncer)).login() as client:
        for _ in range(20):
            client.send(SLEEP)
            until(lambda: cluster.sql(ACTIVE))
            stream.cancel(address(bouncer), client.pid, client.key)
            assert codes(client.until()) == ["57014"]
        until(lambda: bouncer.pool()["sv_active"] == 0)
        row = bouncer.pool()
    assert row["cl_waiting"] == 0
    until(lambda: len(cluster.backends("app")) <= 2)
