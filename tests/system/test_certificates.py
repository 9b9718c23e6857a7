"""Whom a certificate names, as PgBouncer has it: users who come with one, and servers that are verified by name."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from cryptography import x509

from tests.fixtures import account, stream
from tests.fixtures.authority import Authority, Pair
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until


class Case(NamedTuple):
    """A certificate's common names and alternative names, and who of those who claim it is for them is right."""

    common: Sequence[str]
    names: Sequence[str | x509.GeneralName] = ()
    right: Sequence[str] = ()
    wrong: Sequence[str] = ()

    def sign(self, authority: Authority, file: str) -> Pair:
        pair = authority.sign(*self.common or ("",), names=self.names, file=file)
        account.own(pair.key)
        return pair


DIRECTORY = x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")]))
USERS = {
    "common name": Case(["alice"], right=["alice", "Alice", "ALICE"], wrong=["bob", "alice2"]),
    "capitals": Case(["ALICE"], right=["alice", "ALICE"]),
    "several common names": Case(["alice", "bob", "carol"], right=["alice"], wrong=["bob", "carol"]),
    "alternative": Case(["other"], ["alice"], right=["alice", "ALICE", "other"]),
    "both": Case(["alice"], ["bob"], right=["alice", "bob"]),
    "capital alternative": Case(["x"], ["ALICE.EXAMPLE.COM"], right=["alice.example.com"]),
    "wildcard": Case(
        ["x"], ["*.example.com"], ["alice.example.com", "x"], ["a.b.example.com", "example.com", ".example.com"]
    ),
    "wildcard of a top domain": Case(["x"], ["*.com"], wrong=["example.com"]),
    "part of a label": Case(["x"], ["al*.example.com"], wrong=["alice.example.com"]),
    "inner wildcard": Case(["x"], ["a.*.com"], wrong=["a.example.com"]),
    "common wildcard": Case(["*.example.com"], right=["alice.example.com", "*.example.com"]),
    "star": Case(["*"], right=["*"], wrong=["alice"]),
    "alternative star": Case(["x"], ["*"], wrong=["alice"]),
    "address": Case(["x"], ["10.0.0.1", "::1"], right=["10.0.0.1", "::1", "0:0:0:0:0:0:0:1"], wrong=["10.0.0.2"]),
    "common address": Case(["10.0.0.1"], right=["10.0.0.1"]),
    "address as a name": Case(["x"], [x509.DNSName("10.0.0.1")], wrong=["10.0.0.1"]),
    "mail": Case(["x"], [x509.RFC822Name("alice@example.com")], wrong=["alice@example.com"]),
    "uri": Case(["x"], [x509.UniformResourceIdentifier("alice")], wrong=["alice"]),
    "directory": Case(["x"], [DIRECTORY], wrong=["alice"]),
    "beyond ascii": Case(["älice"], right=["älice"], wrong=["ÄLICE"]),
    "blank": Case(["alice b"], right=["alice b"], wrong=["alice"]),
    "dot": Case(["x"], ["alice.example.com."], wrong=["alice.example.com"]),
    "no common name": Case([], ["alice"], right=["alice"]),
    "no name": Case([], [], wrong=["alice"]),
}
FAILED = "certificate authentication failed"


def tls_settings(cluster: Cluster, mode: str) -> dict[str, object]:
    return {
        "client_tls_sslmode": mode,
        "client_tls_cert_file": cluster.server_pair.cert,
        "client_tls_key_file": cluster.server_pair.key,
        "client_tls_ca_file": cluster.authority.root,
    }


def attempt(bouncer: Bouncer, user: str, pair: Pair | None = None, sslmode: str = "require") -> str:
    """Nothing, or why the login failed."""
    files = {"sslcert": pair.cert, "sslkey": pair.key} if pair else {"sslcert": "/none"}
    try:
        bouncer.connect(user=user, sslmode=sslmode, **files).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def pairs(cluster: Cluster) -> Mapping[str, Pair]:
    """The certificates of USERS."""
    return {name: case.sign(cluster.authority, f"user {name}") for name, case in USERS.items()}


def as_trusty(cluster: Cluster) -> dict[str, str]:
    return {"app": f"host={cluster.host} port={cluster.port} dbname=app user=trusty"}


@pytest.mark.slow
def test_users(start_either: StartBouncer, cluster: Cluster, pairs: Mapping[str, Pair]) -> None:
    everybody = {user for case in USERS.values() for user in (*case.right, *case.wrong)}
    bouncer = start_either(
        **tls_settings(cluster, "verify-full"),
        auth_type="cert",
        users=dict.fromkeys(sorted(everybody), ""),
        databases=as_trusty(cluster),
    )
    for name, case in USERS.items():
        got = {user: attempt(bouncer, user, pairs[name]) for user in (*case.right, *case.wrong)}
        assert [user for user, why in got.items() if not why] == list(case.right), (name, got)
        assert all(FAILED in why for why in got.values() if why)
    bouncer.wait_log(r"ERROR C-\S+ app/bob@\S+ TLS certificate name mismatch")


MAP = """\
m alice app_user
m carol bob
m ALICE alice2
m other carol
m *.example.com three
m x four
m nobody all
"""
"""Names in certificates are compared by the same rule; one with a wildcard is found by its own text too."""


@pytest.mark.parametrize(
    ("certificate", "right", "wrong"),
    [
        ("common name", ["app_user", "alice2"], ["alice", "bob"]),
        ("capitals", ["app_user", "alice2"], ["alice"]),
        ("several common names", ["app_user"], ["bob"]),
        ("alternative", ["app_user", "carol"], ["alice"]),
        ("common wildcard", ["three"], ["four"]),
        ("wildcard", ["three", "four"], ["app_user"]),
        ("no common name", ["app_user"], ["three"]),
        ("no name", [], ["app_user"]),
    ],
)
def test_ident_maps(
    start_either: StartBouncer,
    cluster: Cluster,
    pairs: Mapping[str, Pair],
    certificate: str,
    right: list[str],
    wrong: list[str],
) -> None:
    everybody = ("alice", "alice2", "app_user", "bob", "carol", "three", "four")
    bouncer = start_either(
        run=False,
        **tls_settings(cluster, "verify-ca"),
        users=dict.fromkeys(everybody, ""),
        databases=as_trusty(cluster),
    )
    with_rules(bouncer, "hostssl all all 127.0.0.1/32 cert map=m", MAP)
    got = {user: attempt(bouncer, user, pairs[certificate]) for user in (*right, *wrong)}
    assert [user for user, why in got.items() if not why] == right, got
    assert all(FAILED in why for why in got.values() if why)
    bouncer.wait_log(rf"ERROR C-\S+ app/{wrong[0]}@\S+ ident map: m does not have a match")


def with_rules(bouncer: Bouncer, rules: str, ident: str = "") -> Bouncer:
    """Started, with these HBA rules."""
    for name, text in (("hba", rules + "\n"), ("ident", ident)):
        (bouncer.directory / name).write_text(text)
        bouncer.settings[f"auth_{name}_file"] = bouncer.directory / name
    bouncer.settings["auth_type"] = "hba"
    return bouncer.start()


RULES = """\
hostssl   all cert_user 127.0.0.1/32 cert
hostnossl all cert_user 127.0.0.1/32 trust
host      all trusty    127.0.0.1/32 cert
host      all all       127.0.0.1/32 trust
"""
"""So that one and the same port has users who need a certificate and users who need none."""


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_hba_rules_that_ask_for_a_certificate(
    start_either: StartBouncer, cluster: Cluster, tmp_path: Path, mode: str
) -> None:
    """Every mode asks for one, and one that is shown has to be good; none is missed where nothing needs it."""
    bouncer = start_either(run=False, **tls_settings(cluster, mode), databases=as_trusty(cluster))
    with_rules(bouncer, RULES)
    needed, plain = mode.startswith("verify"), mode in ("allow", "prefer")
    good, foreign = cluster.client_pair, Authority(tmp_path, "another").sign("cert_user")
    expired = cluster.authority.sign("cert_user", expired=True, file="expired")
    assert attempt(bouncer, "cert_user", good) == ""
    assert attempt(bouncer, "postgres", good) == ""
    assert FAILED in attempt(bouncer, "trusty", good)
    for pair, alert in ((foreign, "unknown ca"), (expired, "certificate expired")):
        assert alert in attempt(bouncer, "cert_user", pair)
        assert alert in attempt(bouncer, "postgres", pair)
    bouncer.wait_log("TLS handshake error: handshake failed: .*certificate verify failed")
    without = "certificate required" if needed else FAILED
    assert without in attempt(bouncer, "cert_user")
    assert ("certificate required" in attempt(bouncer, "postgres")) is needed
    assert (attempt(bouncer, "cert_user", sslmode="disable") == "") is plain
    assert (FAILED if plain else "SSL required") in attempt(bouncer, "trusty", sslmode="disable")
    if plain:
        bouncer.wait_log(r"ERROR C-\S+ app/trusty@\S+ TLS connection required")
        bouncer.wait_log(r"ERROR C-\S+ app/cert_user@\S+ TLS client certificate required")


def test_without_authorities_the_system_s_count(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(**tls_settings(cluster, "verify-ca") | {"client_tls_ca_file": ""})
    assert "unknown ca" in attempt(bouncer, "postgres", cluster.client_pair)
    assert "certificate required" in attempt(bouncer, "postgres")


def test_without_authorities_nobody_is_asked_who_need_not_show_one(
    start_pooler: StartBouncer, cluster: Cluster
) -> None:
    """PgBouncer asks, trusts the system's authorities, and refuses a libpq that has some certificate in its home."""
    settings = tls_settings(cluster, "prefer") | {"client_tls_ca_file": ""}
    bouncer = with_rules(start_pooler(run=False, **settings, databases=as_trusty(cluster)), RULES)
    assert attempt(bouncer, "postgres", cluster.client_pair) == ""
    assert FAILED in attempt(bouncer, "cert_user", cluster.client_pair)


def test_a_session_that_is_resumed_has_the_certificate_it_began_with(
    start_either: StartBouncer, cluster: Cluster
) -> None:
    """And none that began under other authorities is resumed."""
    bouncer = start_either(**tls_settings(cluster, "verify-full"), auth_type="cert", databases=as_trusty(cluster))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cluster.authority.root)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its sessions are there right after the handshake
    context.load_cert_chain(cluster.client_pair.cert, cluster.client_pair.key)
    began: ssl.SSLSession | None = None

    def login(user: str) -> tuple[bool, str]:
        """Whether the session was resumed, and the type of the answer."""
        nonlocal began
        with Stream(("127.0.0.1", bouncer.port)) as client:
            client.send(stream.request(stream.SSL_REQUEST))
            assert client.read_bytes(1) == b"S"
            secret = context.wrap_socket(client.socket, server_hostname="localhost", session=began)
            began, client.socket = secret.session, secret
            client.send(stream.startup({"user": user, "database": "app"}))
            return bool(secret.session_reused), client.read().type

    assert login("cert_user") == (False, "R")
    assert login("cert_user") == (True, "R")
    assert login("postgres") == (True, "E")
    bouncer.settings["client_tls_ca_file"] = Authority(cluster.directory, "another").root
    bouncer.write()
    bouncer.signal(signal.SIGHUP)

    def refused() -> bool:
        try:
            login("cert_user")
        except ssl.SSLError as error:
            return "unknown ca" in str(error)
        return False

    until(refused, "the other authority to count")


# ---- servers

HOSTS = ("localhost", "LOCALHOST", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "127.0.0.2,127.0.0.1")
SERVERS = {
    "name": Case(["x"], ["localhost"], ["localhost", "LOCALHOST"]),
    "capitals": Case(["x"], ["LOCALHOST"], ["localhost", "LOCALHOST"]),
    "address": Case(["x"], ["127.0.0.1"], ["127.0.0.1", "127.0.0.2,127.0.0.1"]),
    "address 6": Case(["x"], ["::1"], ["::1", "0:0:0:0:0:0:0:1"]),
    "common name": Case(["localhost"], [], ["localhost", "LOCALHOST"]),
    "common capitals": Case(["LOCALHOST"], [], ["localhost", "LOCALHOST"]),
    "common address": Case(["127.0.0.1"], [], ["127.0.0.1", "127.0.0.2,127.0.0.1"]),
    "common address 6": Case(["::1"], [], ["::1"]),
    "first of several": Case(["localhost", "x"], [], ["localhost", "LOCALHOST"]),
    "second of several": Case(["x", "localhost"]),
    "common beside others": Case(["localhost"], ["other"], ["localhost", "LOCALHOST"]),
    "address beside others": Case(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1", "127.0.0.2,127.0.0.1"]),
    "address as a name": Case(["x"], [x509.DNSName("127.0.0.1")]),
    "wildcard": Case(["x"], ["*.localhost", "*", "*.0.0.1"]),
    "dot": Case(["x"], ["localhost."]),
}


class Servers:
    """What a pooler dials: a TLS server for each certificate, which refuses every login it hears of."""

    def __init__(self, pairs: Mapping[str, Pair]) -> None:
        self.reached: set[str] = set()
        """The databases asked for."""
        self.ports: dict[str, int] = {}
        self._listeners = []
        for name, pair in pairs.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.cert, pair.key)
            listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=50)
            self._listeners.append(listener)
            self.ports[name] = listener.getsockname()[1]
            threading.Thread(target=self._listen, args=(listener, context), daemon=True).start()

    def _listen(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain, context), daemon=True).start()

    def _serve(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        plain.settimeout(10)
        try:
            with plain:
                first = plain.recv(8)
                if not first:
                    return  # nobody waited for it any more
                assert first == stream.request(stream.SSL_REQUEST)
                plain.sendall(b"S")
                with context.wrap_socket(plain, server_side=True) as secret:
                    asked = secret.recv(4096)
                    found = re.search(rb"\0database\0([^\0]+)\0", asked)
                    if found:
                        self.reached.add(found[1].decode())
                        fields = b"SFATAL\0C28000\0Mreached\0\0"
                        secret.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)
        except OSError:
            return  # the name was wrong

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@pytest.fixture
def certified(cluster: Cluster) -> Iterator[Servers]:
    """A server for each of SERVERS."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    made = Servers({name: case.sign(cluster.authority, f"server {name}") for name, case in SERVERS.items()})
    yield made
    made.close()


@pytest.mark.slow
def test_servers_by_name(start_either: StartBouncer, cluster: Cluster, certified: Servers) -> None:
    databases = {
        entry(name, host): f"host={host} port={certified.ports[name]} dbname={entry(name, host)}"
        for name in SERVERS
        for host in HOSTS
    }
    bouncer = start_either(
        databases=databases,
        server_tls_sslmode="verify-full",
        server_tls_ca_file=cluster.authority.root,
        server_login_retry=0.2,  # the next of several hosts is tried then
        max_client_conn=200,
    )
    with ExitStack() as stack:
        for name in databases:
            client = stack.enter_context(Stream(("127.0.0.1", bouncer.port)))
            client.send(stream.startup({"user": "postgres", "database": name}))

        right = {entry(name, host) for name, case in SERVERS.items() for host in case.right}

        def decided() -> bool:
            log = bouncer.log.read_text()
            crashed = set(re.findall(r"S-\S+ (\S+)/postgres@\S+ closing because: server conn crashed\?", log))
            return certified.reached >= right and crashed >= databases.keys() - right

        until(decided, "every server to be reached or refused")
    got = {name: [host for host in HOSTS if entry(name, host) in certified.reached] for name in SERVERS}
    assert got == {name: list(case.right) for name, case in SERVERS.items()}
    bouncer.wait_log("TLS handshake error: name `localhost' not present in server certificate")


def entry(name: str, host: str) -> str:
    """The database for this certificate and host, in letters that an ini file reads as they are."""
    return re.sub(r"[^a-zA-Z0-9]", "_", f"{name}/{host}")
