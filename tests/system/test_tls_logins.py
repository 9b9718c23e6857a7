"""TLS between clients and the pooler, by libpq: sslmodes, certificates, HBA rules, direct TLS, reload, and
HBA's other ways in.

Where PgBouncer has the feature, the test runs against it too.
"""

from __future__ import annotations

import getpass
import socket
import ssl
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.authority import Pair
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import DEADLINE

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


@pytest.mark.parametrize(
    ("curve", "protocol", "said"),
    [
        ("auto", "tlsv1.2", r"TLSv1\.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=X25519"),
        ("secp384r1", "tlsv1.2", r"TLSv1\.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=secp384r1"),
        ("prime256v1", "tlsv1.3", r"TLSv1\.3/TLS_AES_256_GCM_SHA384"),
    ],
)
def test_what_the_log_says_of_tls(start: Start, curve: str, protocol: str, said: str) -> None:
    bouncer = start(client_tls_ecdhcurve=curve, client_tls_protocols=protocol)
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    bouncer.wait_log(rf"login attempt: db=app user=postgres tls={said} replication=no")


@pytest.mark.parametrize("protocol", ["tlsv1.2", "tlsv1.3"])
def test_what_the_log_says_of_a_server_s_tls(start_either: StartBouncer, protocol: str) -> None:
    bouncer = start_either(server_tls_protocols=protocol)
    assert bouncer.sql("SELECT 1") == [(1,)]
    suites = {"tlsv1.2": "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384", "tlsv1.3": "TLSv1.3/TLS_AES_256_GCM_SHA384"}
    bouncer.wait_log(f"SSL established: {suites[protocol]}\n")


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


class Returning:
    """A client that keeps its TLS session and comes back with it. `pair`: its certificate, if it has one."""

    def __init__(self, bouncer: Bouncer, protocol: ssl.TLSVersion, pair: Pair | None = None) -> None:
        self.port = bouncer.port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.context.minimum_version = self.context.maximum_version = protocol
        if pair is not None:
            self.context.load_cert_chain(pair.cert, pair.key)
        self.session: ssl.SSLSession | None = None

    def come(self, user: str) -> tuple[bool, str]:
        """(whether the session was taken up again, the type of the last message of the login)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as plain:
            plain.sendall(stream.request(stream.SSL_REQUEST))
            assert plain.recv(1) == b"S"
            with self.context.wrap_socket(plain, session=self.session) as line:
                line.sendall(stream.startup({"user": user, "database": "app"}))
                said = b""
                while not said.endswith(b"Z\0\0\0\x05I") and (data := line.recv(8192)):
                    said += data
                self.session = line.session
                return bool(line.session_reused), "Z" if said.endswith(b"I") else said[:1].decode()


@pytest.mark.parametrize("protocol", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_taken_up_again(start: Start, protocol: ssl.TLSVersion) -> None:
    client = Returning(start(), protocol)
    assert [client.come("postgres") for _ in range(3)] == [(False, "Z"), (True, "Z"), (True, "Z")]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_taken_up_again_by_another_worker(
    start_pooler: StartBouncer, cluster: Cluster, protocol: ssl.TLSVersion
) -> None:
    """And none of before another configuration, which may trust others."""
    bouncer = start_pooler(**tls_settings(cluster), sections={"pooler": {"workers": 3}})
    client = Returning(bouncer, protocol)
    assert [client.come("postgres") for _ in range(4)] == [(False, "Z"), *[(True, "Z")] * 3]
    bouncer.admin("RELOAD")
    assert [client.come("postgres") for _ in range(3)] == [(False, "Z"), (True, "Z"), (True, "Z")]


@pytest.mark.parametrize("protocol", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_that_is_taken_up_again_has_its_certificate(
    start: Start, cluster: Cluster, protocol: ssl.TLSVersion
) -> None:
    """And no other: who comes back as another user is refused."""
    server = f"host={cluster.host} port={cluster.port} dbname=app user=trusty"
    users = {"cert_user": "", "postgres": ""}
    bouncer = start("verify-full", auth_type="cert", users=users, databases={"app": server})
    client = Returning(bouncer, protocol, cluster.client_pair)
    assert [client.come("cert_user") for _ in range(2)] == [(False, "Z"), (True, "Z")]
    assert client.come("postgres") == (True, "E")


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


def test_direct_tls(start: Start) -> None:
    if psycopg.pq.version() < 170000:
        pytest.skip("this libpq knows no sslnegotiation=direct")
    bouncer = start()
    assert bouncer.sql("SELECT 1", sslmode="require", sslnegotiation="direct") == [(1,)]
    assert cipher(bouncer).startswith("TLSv1.3/")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("named", [[], ["postgresql"], ["h2", "postgresql"], ["h2"], ["http/1.1", "h2"]])
def test_who_names_protocols_names_postgresql(start: Start, named: list[str], direct: bool) -> None:
    """So that no browser can be led here; who names none is let in, also without asking for TLS first."""
    bouncer, context = start(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if named:
        context.set_alpn_protocols(named)
    with Stream(("127.0.0.1", bouncer.port)) as client:
        if not direct:
            client.send(stream.request(stream.SSL_REQUEST))
            assert client.read_bytes(1) == b"S"
        if named and "postgresql" not in named:
            with pytest.raises(ssl.SSLError, match="no application protocol"):
                context.wrap_socket(client.socket, server_hostname="localhost")
            bouncer.wait_log("TLS handshake error: handshake failed: .*no application protocol")
        else:
            client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
            client.login()


@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_unix_sockets_need_and_have_no_tls(start: Start, mode: str) -> None:
    bouncer = start(mode)
    bouncer.wait_log("process up")  # the socket's file is there a moment before anybody listens at it
    with Stream(f"{bouncer.directory}/.s.PGSQL.{bouncer.port}") as client:
        client.send(stream.request(stream.SSL_REQUEST))
        assert client.read_bytes(1) == b"N"
        client.login()


@pytest.mark.parametrize("first", [stream.GSSENC_REQUEST, stream.SSL_REQUEST])
def test_gssapi_is_not_offered_and_tls_is(start: Start, first: int) -> None:
    """In either order: within TLS the other request is refused as well."""
    bouncer = start()
    with Stream(("127.0.0.1", bouncer.port)) as client:
        if first == stream.GSSENC_REQUEST:
            client.send(stream.request(first))
            assert client.read_bytes(1) == b"N"
            client.start_tls()
        else:
            client.start_tls()
            client.send(stream.request(stream.GSSENC_REQUEST))
            assert client.read_bytes(1) == b"N"
        client.login()


@pytest.mark.parametrize("what", ["SSL request", "GSSAPI encryption request"])
def test_plaintext_behind_any_request_for_encryption(start: Start, what: str) -> None:
    bouncer = start("prefer")
    code = stream.SSL_REQUEST if what.startswith("SSL") else stream.GSSENC_REQUEST
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.send(stream.request(code) + stream.startup({"user": "postgres", "database": "app"}))
        [answer] = client.rest()
        assert (answer.error["C"], answer.error["M"]) == ("08P01", f"received unencrypted data after {what}")


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_servers_are_asked_for_tls_first(start_either: StartBouncer, mode: str) -> None:
    bouncer = start_either(server_tls_sslmode=mode)
    assert bouncer.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]


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
    bouncer.wait_log("process up")  # the socket is there a moment after the port
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
    bouncer.wait_log("process up")  # the socket is there a moment after the port
    assert bouncer.sql("SELECT 1", user="trusty", host=bouncer.directory) == [(1,)]
    assert "unix socket login rejected" in refused(bouncer, user="postgres", host=bouncer.directory)
