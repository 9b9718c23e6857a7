"""TLS between clients and the pooler, by libpq: sslmodes, certificates, HBA rules, direct TLS, reload, and
HBA's other ways in.

Where PgBouncer 1.18 has the feature, the test runs against it too.
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures import account, stream
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

Start = Callable[..., Bouncer]
NO_RULE = ("no authentication method is found", "login rejected")
"""Of 1.25 and of 1.18."""


def tls_settings(cluster: Cluster, mode: str = "require") -> dict[str, object]:
    return {
        "client_tls_sslmode": mode,
        "client_tls_cert_file": cluster.server_pair.cert,
        "client_tls_key_file": cluster.server_pair.key,
        "client_tls_ca_file": cluster.authority.root,
    }


@pytest.fixture
def start(start_either: StartBouncer, cluster: Cluster) -> Start:
    """A bouncer that speaks TLS to its clients."""

    def begin(mode: str = "require", **more: object) -> Bouncer:
        return start_either(**tls_settings(cluster, mode) | more)

    return begin


def cipher(bouncer: Bouncer, user: str = "postgres") -> str:
    """What the log says of the last login's TLS."""
    found = bouncer.wait_log(rf"login attempt: db=app user={user} tls=(\S+)")
    return found[1]


def refused(bouncer: Bouncer, **parameters: Any) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        bouncer.sql("SELECT 1", **parameters)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_tls_for_those_who_want_it(start: Start, mode: str) -> None:
    bouncer = start(mode)
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    assert cipher(bouncer).startswith("TLSv1.3")
    if mode == "require":
        assert "SSL required" in refused(bouncer, sslmode="disable")
    else:
        assert bouncer.sql("SELECT 1", sslmode="disable") == [(1,)]


def test_a_bouncer_without_tls(start_either: StartBouncer) -> None:
    bouncer = start_either()
    assert "does not support SSL" in refused(bouncer, sslmode="require")
    assert bouncer.sql("SELECT 1", sslmode="prefer") == [(1,)]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_server_s_certificate_is_checked(start: Start, cluster: Cluster, host: str) -> None:
    bouncer = start()
    parameters: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": cluster.authority.root, "host": host}
    assert bouncer.sql("SELECT 1", hostaddr="127.0.0.1", **parameters) == [(1,)]


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_client_certificates(start: Start, cluster: Cluster, mode: str) -> None:
    bouncer = start(mode)
    pair: dict[str, Any] = {"sslcert": cluster.client_pair.cert, "sslkey": cluster.client_pair.key}
    assert bouncer.sql("SELECT 1", sslmode="require", **pair) == [(1,)]
    assert "certificate required" in refused(bouncer, sslmode="require")


def test_auth_type_cert(start: Start, cluster: Cluster) -> None:
    users = {"cert_user": "", "postgres": ""}
    server = f"host={cluster.host} port={cluster.port} dbname=app user=trusty"
    bouncer = start("verify-full", auth_type="cert", users=users, databases={"app": server})
    pair: dict[str, Any] = {"sslcert": cluster.client_pair.cert, "sslkey": cluster.client_pair.key}
    pair["sslmode"] = "require"
    with bouncer.connect(user="cert_user", **pair) as connection:
        assert connection.info.user == "cert_user"
    assert "certificate authentication failed" in refused(bouncer, user="postgres", **pair)


def test_plaintext_behind_the_request_is_an_attack(start: Start) -> None:
    bouncer = start("prefer")
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.send(stream.request(stream.SSL_REQUEST), stream.startup({"user": "postgres", "database": "app"}))
        heard = client.rest()
    assert "login attempt" not in bouncer.log_text(), heard


# ---- what only newer ones have


def test_what_is_not_tls_is_refused_and_others_are_served(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """1.18 now and then logs the failure and keeps the connection."""
    bouncer = start_pooler(**tls_settings(cluster, "prefer"))
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.send(stream.request(stream.SSL_REQUEST))
        assert client.read_bytes(1) == b"S"
        client.send(b"this is no handshake" * 10)
        client.rest()
    assert bouncer.sql("SELECT 1") == [(1,)]


def test_direct_tls(start_pooler: StartBouncer, cluster: Cluster) -> None:
    if psycopg.pq.version() < 170000:
        pytest.skip("this libpq knows no sslnegotiation=direct")
    bouncer = start_pooler(**tls_settings(cluster))
    assert bouncer.sql("SELECT 1", sslmode="require", sslnegotiation="direct") == [(1,)]
    assert cipher(bouncer).startswith("TLSv1.3/")


def test_direct_tls_without_its_protocol_s_name(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(**tls_settings(cluster))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cluster.authority.root)
    with (
        socket.create_connection(("127.0.0.1", bouncer.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(stream.startup({"user": "postgres", "database": "app"}))
        assert b"direct TLS connection without ALPN" in client.recv(1000)


def test_newer_protocols(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler()
    if psycopg.pq.version() >= 180000:
        assert bouncer.sql("SELECT 1", max_protocol_version="latest") == [(1,)]
    with Stream(("127.0.0.1", bouncer.port)) as client:
        wanted = {"user": "postgres", "database": "app", "_pq_.tag": "x"}
        client.send(stream.startup(wanted, stream.PROTOCOL_3_0 + 2))
        got = client.read()
        assert (got.type, got.body) == ("v", b"\0\3\0\0" + b"\0\0\0\1" + b"_pq_.tag\0")
        client.until("Z")


def test_a_new_certificate_counts_after_a_reload(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(run=False, **tls_settings(cluster))
    own = cluster.authority.sign("localhost", names=("localhost",), file="replaced")
    account.own(own.key)
    bouncer.start()

    def serial() -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cluster.authority.root)
        with Stream(("127.0.0.1", bouncer.port)) as client:
            client.start_tls(context)
            assert isinstance(client.socket, ssl.SSLSocket)
            certificate = client.socket.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    before = serial()
    with bouncer.connect(sslmode="require") as kept:
        bouncer.settings["client_tls_cert_file"] = own.cert
        bouncer.settings["client_tls_key_file"] = own.key
        bouncer.write()
        bouncer.admin("RELOAD")
        until(lambda: serial() != before, "the new certificate")
        assert kept.execute("SELECT 1").fetchone() == (1,)


def test_a_reload_with_a_broken_certificate_keeps_the_old_one(
    start_pooler: StartBouncer, cluster: Cluster, tmp_path: Path
) -> None:
    bouncer = start_pooler(**tls_settings(cluster))
    (tmp_path / "broken").write_text("no certificate")
    bouncer.settings["client_tls_cert_file"] = tmp_path / "broken"
    bouncer.write()
    with contextlib.suppress(psycopg.Error):
        bouncer.admin("RELOAD")
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    bouncer.wait_log("client_tls_cert_file|client_tls_key_file|TLS")


# ---- HBA


def hba(bouncer: Bouncer, text: str) -> None:
    path = bouncer.directory / "hba.conf"
    path.write_text(text)
    bouncer.settings |= {"auth_type": "hba", "auth_hba_file": path}


def test_hba_rules(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(run=False, **tls_settings(cluster, "prefer"))
    hba(
        bouncer,
        """
        local   all  all                       trust
        hostssl all  postgres    127.0.0.1/32  trust
        host    all  scram_user  127.0.0.1/32  scram-sha-256
        host    app  md5_user    127.0.0.1/32  md5
        host    all  trusty      127.0.0.1/32  reject
        """,
    )
    bouncer.start()
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    assert refused(bouncer, sslmode="disable").endswith(NO_RULE)
    assert bouncer.sql("SELECT 1", user="scram_user") == [(1,)]
    assert "SASL authentication failed" in refused(bouncer, user="scram_user", password="wrong")
    assert bouncer.sql("SELECT 1", user="md5_user") == [(1,)]
    assert refused(bouncer, user="md5_user", dbname="other").endswith(NO_RULE)
    assert "login rejected" in refused(bouncer, user="trusty")
    assert bouncer.sql("SELECT 1", user="trusty", host=bouncer.directory) == [(1,)]


def test_peer(start_pooler: StartBouncer, cluster: Cluster) -> None:
    me = getpass.getuser()
    bouncer = start_pooler(run=False, users=PASSWORDS | {me: "", "postgres": ""})
    hba(bouncer, "local all all peer\nhost all all 127.0.0.1/32 trust\n")
    bouncer.databases["app"] = f"host={cluster.host} port={cluster.port} dbname=app user=trusty"
    bouncer.start()
    assert bouncer.sql("SELECT 1", user=me, host=bouncer.directory) == [(1,)]
    assert "unix socket login rejected" in refused(bouncer, user="trusty", host=bouncer.directory)


def test_an_ident_map(start_pooler: StartBouncer, cluster: Cluster) -> None:
    me = getpass.getuser()
    bouncer = start_pooler(run=False)
    hba(bouncer, "local all all peer map=house\nhost all all 127.0.0.1/32 trust\n")
    ident = bouncer.directory / "ident.conf"
    ident.write_text(f"house {me} trusty\n")
    bouncer.settings["auth_ident_file"] = ident
    bouncer.start()
    assert bouncer.sql("SELECT 1", user="trusty", host=bouncer.directory) == [(1,)]
    assert "unix socket login rejected" in refused(bouncer, user="postgres", host=bouncer.directory)
