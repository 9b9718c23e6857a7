"""The fixtures themselves, with Debian's pgbouncer as the pooler: what the system tests stand on holds
alone.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.proxy import TO_CLIENT, FaultProxy
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import until


@pytest.mark.parametrize("role", sorted(PASSWORDS))
def test_every_role_logs_in_directly_with_its_password(cluster: Cluster, role: str) -> None:
    with cluster.connect("app", role, host=cluster.host, password=PASSWORDS[role]) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_a_wrong_password_is_refused_where_one_is_asked(cluster: Cluster) -> None:
    for role in ("plain_user", "md5_user", "scram_user"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            cluster.connect("app", role, host=cluster.host, password="wrong")


def test_cluster_offers_tls_and_checks_client_certificates(cluster: Cluster) -> None:
    if not cluster.tls:
        pytest.skip("this PostgreSQL was built without TLS")
    verified = {"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full"}
    verified["sslrootcert"] = str(cluster.authority.root)
    with cluster.connect("app", "tls_user", **verified) as connection:
        used = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert used == (True,)
    pair = {"sslcert": cluster.client_pair.cert, "sslkey": cluster.client_pair.key}
    with cluster.connect("app", "cert_user", **verified, **pair) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("cert_user",)
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        cluster.connect("app", "cert_user", **verified)


def test_pgbouncer_is_started_asked_and_stopped(start_pgbouncer: StartBouncer) -> None:
    bouncer = start_pgbouncer(default_pool_size=3)
    assert bouncer.sql("SELECT 1") == [(1,)]
    assert bouncer.psql("-c", "SELECT 'psql'").strip() == "psql"
    assert bouncer.pool()["sv_idle"] == 1
    assert {row["key"]: row["value"] for row in bouncer.admin("SHOW CONFIG")}["default_pool_size"] == "3"
    bouncer.wait_log(r"login attempt: db=app user=postgres")
    bouncer.stop()
    assert bouncer.process is not None
    assert bouncer.process.returncode is not None


@pytest.mark.parametrize("piece", [None, 1])
@pytest.mark.parametrize("role", ["postgres", "plain_user", "md5_user", "scram_user"])
def test_stream_logs_in_by_every_method(cluster: Cluster, role: str, piece: int | None) -> None:
    with Stream((cluster.host, cluster.port), piece=piece) as client:
        client.login("app", role, PASSWORDS.get(role, ""))
        assert client.rows("SELECT current_user, NULL") == [[role.encode(), None]]
        assert client.parameters["server_encoding"] == "UTF8"
        client.send(stream.parse("SELECT $1::int + 1", "s"), stream.bind(["41"], "s"))
        client.send(stream.execute(), stream.sync())
        assert [m.values for m in client.until() if m.type == "D"] == [[b"42"]]


def test_stream_cancels_by_pid_and_key(cluster: Cluster) -> None:
    with Stream((cluster.host, cluster.port)).login() as client:
        client.send(stream.query("SELECT pg_sleep(60)"))
        active = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
        until(lambda: cluster.sql(active, (client.pid,)))
        stream.cancel((cluster.host, cluster.port), client.pid, client.key)
        assert [m.error["C"] for m in client.until() if m.type == "E"] == ["57014"]


StartProxy = Callable[[int], FaultProxy]


def test_proxy_passes_large_results_whole(cluster: Cluster, start_proxy: StartProxy) -> None:
    proxy = start_proxy(cluster.port)
    with Stream(("127.0.0.1", proxy.port)).login() as client:
        assert len(client.rows("SELECT repeat('x', 8000000)")[0][0] or b"") == 8_000_000
        assert proxy.passed(TO_CLIENT) > 8_000_000
        assert proxy.links() == 1
    until(lambda: proxy.links() == 0)


def test_proxy_stalls_and_resumes(cluster: Cluster, start_proxy: StartProxy) -> None:
    proxy = start_proxy(cluster.port)
    with Stream(("127.0.0.1", proxy.port)).login() as client:
        proxy.stall(TO_CLIENT)
        client.send(stream.query("SELECT 'late'"))
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.read()
        proxy.resume()
        client.socket.settimeout(20)
        assert [m.values for m in client.until() if m.type == "D"] == [[b"late"]]


def test_proxy_drips(cluster: Cluster, start_proxy: StartProxy) -> None:
    proxy = start_proxy(cluster.port)
    proxy.drip(1)
    secret = PASSWORDS["scram_user"]
    with Stream(("127.0.0.1", proxy.port)).login(user="scram_user", password=secret) as client:
        assert client.rows("SELECT 'drop by drop'") == [[b"drop by drop"]]


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_proxy_breaks_links(cluster: Cluster, start_proxy: StartProxy, fault: str) -> None:
    proxy = start_proxy(cluster.port)
    with Stream(("127.0.0.1", proxy.port)).login() as client:
        getattr(proxy, fault)()
        with pytest.raises(Ended):
            client.read()
    assert proxy.links() == 0


def test_proxy_refuses_and_accepts_again(cluster: Cluster, start_proxy: StartProxy) -> None:
    proxy = start_proxy(cluster.port)
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        Stream(("127.0.0.1", proxy.port))
    proxy.accept()
    with Stream(("127.0.0.1", proxy.port)).login() as client:
        assert client.rows("SELECT 1") == [[b"1"]]


def test_proxy_blackhole_answers_nothing(cluster: Cluster, start_proxy: StartProxy) -> None:
    proxy = start_proxy(cluster.port)
    proxy.blackhole()
    with Stream(("127.0.0.1", proxy.port), timeout=0.2) as client:
        client.send(stream.startup({"user": "postgres"}))
        with pytest.raises(TimeoutError):
            client.read()
