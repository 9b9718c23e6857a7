"""Replication through the pooler: one client, one server of its own, PostgreSQL's own tools in every pool mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import account, stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")

MODES = ("session", "transaction", "statement")


def replicating(start: StartBouncer, cluster: Cluster, **settings: Any) -> Bouncer:
    at = f"host={cluster.host} port={cluster.port}"
    return start(
        **{"databases": {"app": at, "replication": at}, "users": {"replicator": "", "postgres": "", "trusty": ""}}
        | settings
    )


def tool(cluster: Cluster, bouncer: Bouncer, name: str, *arguments: str | Path) -> list[str | Path]:
    at = ["-h", "127.0.0.1", "-p", str(bouncer.port), "-U", "replicator", "-w"]
    return [cluster.bin / name, *at, *arguments]


def logged_in(bouncer: Bouncer, kind: str = "database", dbname: str = "app", **more: str) -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login(dbname, "replicator", replication=kind, **more)


@pytest.mark.parametrize("mode", MODES)
def test_pg_receivewal(start_pooler: StartBouncer, cluster: Cluster, mode: str) -> None:
    bouncer = replicating(start_pooler, cluster, pool_mode=mode)
    place = bouncer.directory / "wal"
    place.mkdir()
    with (bouncer.directory / "receivewal.out").open("wb") as output:
        process = account.spawn(tool(cluster, bouncer, "pg_receivewal", "-D", place, "-n"), output)
        try:
            until(lambda: list(place.iterdir()), "a WAL file")
            client, server = rows(bouncer)
            assert (client["replication"], server["replication"]) == ("physical", "physical")
            assert (client["database"], client["user"], client["link"]) == ("replication", "replicator", server["ptr"])
            assert bouncer.pool("replication", "replicator")["sv_active"] == 1
        finally:
            process.terminate()
            process.wait(20)
    until(lambda: bouncer.pool("replication", "replicator")["sv_active"] == 0)
    why = "client disconnect while server was not ready"
    bouncer.wait_log(rf"S-\w+: replication/replicator@\S+ closing because: {why} \(age=")
    bouncer.wait_log(r"login attempt: db=replication user=replicator tls=no replication=yes")


def rows(bouncer: Bouncer) -> list[dict[str, Any]]:
    """The replication connections: clients, then servers."""
    both = bouncer.admin("SHOW CLIENTS") + bouncer.admin("SHOW SERVERS")
    return [row for row in both if row["replication"] != "none"]


def test_pg_basebackup(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = replicating(start_pooler, cluster, default_pool_size=2)
    account.run(tool(cluster, bouncer, "pg_basebackup", "-t", "blackhole", "-X", "fetch", "-c", "fast", "-v"))
    until(lambda: bouncer.pool("replication", "replicator")["sv_active"] == 0)


def test_pg_recvlogical(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = replicating(start_pooler, cluster)
    slot = ["-d", "app", "--slot", "through_pooler"]
    account.run(tool(cluster, bouncer, "pg_recvlogical", *slot, "--create-slot", "-P", "test_decoding"))
    try:
        cluster.sql(
            "SET synchronous_commit = on; CREATE TABLE IF NOT EXISTS streamed (a int);INSERT INTO streamed VALUES (42)",
            dbname="app",
        )
        end = str(cluster.sql("SELECT pg_current_wal_lsn()::text")[0][0])
        text = account.run(
            tool(cluster, bouncer, "pg_recvlogical", *slot, "--start", "-f", "-", "--endpos", end, "--no-loop")
        )
        assert "table public.streamed: INSERT: a[integer]:42" in text
    finally:
        until(lambda: dropped(cluster), "the slot to be free")


def dropped(cluster: Cluster) -> bool:
    query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active"
    cluster.sql(query)
    return not cluster.sql("SELECT 1 FROM pg_replication_slots")


@pytest.mark.parametrize("mode", MODES)
def test_a_server_of_its_own(start_pooler: StartBouncer, cluster: Cluster, mode: str) -> None:
    """Dialled with the client's options; kept over transactions; never given to anybody else."""
    bouncer = replicating(start_pooler, cluster, pool_mode=mode, default_pool_size=3)
    with logged_in(bouncer, options="-c work_mem=7MB", application_name="walker") as client:
        assert client.parameters["application_name"] == "walker"
        assert client.rows("SHOW work_mem") == [[b"7MB"]]
        pid = client.rows("SELECT pg_backend_pid()")
        if mode != "statement":
            client.query("BEGIN")
            client.query("COMMIT")
        bouncer.sql("SELECT 1", user="replicator")
        assert client.rows("SELECT pg_backend_pid()") == pid
        until(lambda: bouncer.pool("app", "replicator")["sv_idle"] == 1)
        row = bouncer.pool("app", "replicator")
        assert (row["cl_active"], row["sv_active"]) == (1, 1)
        [client_row, _] = rows(bouncer)
        assert (client_row["replication"], client_row["application_name"]) == ("logical", "walker")
    until(lambda: int(pid[0][0] or 0) not in cluster.backends("app"))
    assert bouncer.pool("app", "replicator")["sv_active"] == 0


def test_the_two_end_together(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = replicating(start_pooler, cluster)
    with logged_in(bouncer) as client:
        pid = int(client.rows("SELECT pg_backend_pid()")[0][0] or 0)
        cluster.sql("SELECT pg_terminate_backend(%s)", (pid,))
        assert client.ended()
    with logged_in(bouncer) as client:
        client.query("SELECT 1")
        bouncer.admin("KILL_CLIENT " + str(rows(bouncer)[0]["id"]))
        assert [m.error["M"] for m in client.rest() if m.type == "E"] == ["admin forced disconnect"]
    until(lambda: not rows(bouncer))


def test_cancel(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = replicating(start_pooler, cluster)
    with logged_in(bouncer) as client:
        client.send(stream.query("SELECT pg_sleep(600)"))
        until(lambda: cluster.sql("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'"))
        stream.cancel(("127.0.0.1", bouncer.port), client.pid, client.key)
        assert [m.error["C"] for m in client.until() if m.type == "E"] == ["57014"]


@pytest.mark.slow
def test_limits_hold(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = replicating(start_pooler, cluster, default_pool_size=1, query_wait_timeout=0.5)
    bouncer.sql("SELECT 1", user="replicator")
    with logged_in(bouncer):
        bouncer.wait_log(r"S-\S+ app/replicator@\S+ closing because: evicted")
        with pytest.raises(AssertionError, match="query_wait_timeout"):
            logged_in(bouncer)
    with logged_in(bouncer) as client:
        assert client.rows("SELECT 1") == [[b"1"]]


@pytest.mark.slow
def test_a_server_that_does_not_answer(
    start_pooler: StartBouncer, cluster: Cluster, start_proxy: Callable[[int], FaultProxy]
) -> None:
    """The client may leave, be ended or run out of time while its server logs in."""
    proxy = start_proxy(cluster.port)
    proxy.stall()
    databases = {"app": f"host=127.0.0.1 port={proxy.port}"}
    bouncer = replicating(start_pooler, cluster, databases=databases, query_wait_timeout=0.5)
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.send(stream.startup({"user": "replicator", "database": "app", "replication": "database"}))
        until(lambda: [row["state"] for row in rows(bouncer)] == ["waiting", "new"])
    bouncer.wait_log(r"S-\S+ app/replicator@\S+ closing because: replication client was closed")
    with pytest.raises(AssertionError, match="query_wait_timeout"):
        logged_in(bouncer)
    until(lambda: not rows(bouncer))
    assert sum(row["sv_login"] for row in bouncer.admin("SHOW POOLS")) == 0
    proxy.resume()
    with logged_in(bouncer) as client:
        assert client.rows("SELECT 1") == [[b"1"]]


def test_who_may(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """HBA has a database of its own for physical replication; PostgreSQL's refusals reach the client."""
    bouncer = replicating(start_pooler, cluster, run=False, auth_type="hba")
    hba = bouncer.directory / "hba.conf"
    hba.write_text("host replication replicator 127.0.0.1/32 trust\nhost app,pgbouncer all 127.0.0.1/32 trust\n")
    bouncer.settings["auth_hba_file"] = hba
    bouncer.start()
    logged_in(bouncer, "true").socket.close()
    logged_in(bouncer, "database").socket.close()
    with pytest.raises(AssertionError, match="no authentication method is found"):
        Stream(("127.0.0.1", bouncer.port)).login("app", "postgres", replication="on")
    with pytest.raises(AssertionError, match="must be superuser or replication role"):
        Stream(("127.0.0.1", bouncer.port)).login("app", "trusty", replication="database")
    # What was counted for it is not: it would keep the pool from any other server.
    assert sum(row["sv_login"] for row in bouncer.admin("SHOW POOLS")) == 0
    with Stream(("127.0.0.1", bouncer.port)).login("app", "trusty") as client:
        assert client.rows("SELECT 1") == [[b"1"]]


@pytest.mark.one_process("who has come first is known within a worker")
def test_pool_size_holds_for_those_who_come_first(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """Nobody has been greeted yet, which is no reason to give all of them a server at once."""
    bouncer = replicating(start_pooler, cluster, default_pool_size=2)
    came = [Stream(("127.0.0.1", bouncer.port)) for _ in range(4)]
    try:
        for client in came:
            client.send(stream.startup({"user": "replicator", "database": "app", "replication": "database"}))
        until(lambda: bouncer.pool("app", "replicator")["sv_active"] == 2, "two of them to have a server")
        assert bouncer.log.read_text().count("new connection to server") == 2
        for client in came:
            client.until()
            client.socket.close()
    finally:
        for client in came:
            client.socket.close()
