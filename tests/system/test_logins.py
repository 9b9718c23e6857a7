"""Who gets in, by which method, and what those are told who do not: clients at the pooler, the pooler at servers.

Where PgBouncer 1.18 can do it, it has to give the same answer.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fixtures import account, stream
from tests.fixtures.authority import Authority
from tests.fixtures.bouncer import version
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream

METHODS = ["plain_user", "md5_user", "scram_user"]


def target(cluster: Cluster, **more: object) -> dict[str, str]:
    known = {"host": cluster.host, "port": cluster.port, "dbname": "app", **more}
    return {"app": " ".join(f"{key}='{value}'" for key, value in known.items())}


def refusal(bouncer: Bouncer, **parameters: Any) -> str:
    """What libpq was told."""
    with pytest.raises(psycopg.OperationalError) as caught:
        bouncer.connect(**parameters)
    return str(caught.value)


def secret(cluster: Cluster, role: str) -> str:
    """As PostgreSQL stores it."""
    stored: str = cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))[0][0]
    return stored


@pytest.mark.parametrize("role", METHODS)
@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
def test_plain_secrets_serve_every_method(start_either: StartBouncer, auth_type: str, role: str) -> None:
    """The client logs in as auth_type asks, the pooler as PostgreSQL asks for that role."""
    bouncer = start_either(auth_type=auth_type)
    assert bouncer.sql("SELECT current_user", user=role) == [(role,)]
    told = "SASL authentication failed" if auth_type == "scram-sha-256" else "password authentication failed"
    assert told in refusal(bouncer, user=role, password="wrong")


def test_md5_secrets(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(auth_type="md5", users={"md5_user": secret(cluster, "md5_user")})
    assert bouncer.sql("SELECT current_user", user="md5_user") == [("md5_user",)]
    assert "password authentication failed" in refusal(bouncer, user="md5_user", password="wrong")


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256"])
def test_scram_secrets_are_passed_through_to_the_server(
    start_either: StartBouncer, cluster: Cluster, auth_type: str
) -> None:
    """The pooler never learns the password: it logs in with the keys of the client's own login."""
    bouncer = start_either(auth_type=auth_type, users={"scram_user": secret(cluster, "scram_user")})
    assert bouncer.sql("SELECT current_user", user="scram_user") == [("scram_user",)]
    assert "authentication failed" in refusal(bouncer, user="scram_user", password="wrong")


LONG = (65_000, 65_535)
"""Bytes of passwords, as of cloud providers' tokens. PgBouncer takes them since 1.26, the longest excepted."""


@pytest.mark.slow
@pytest.mark.parametrize("size", LONG)
@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
def test_long_passwords_of_clients(start_either: StartBouncer, cluster: Cluster, auth_type: str, size: int) -> None:
    """Who stands below them in auth_file comes in too."""
    users = {"long": "x" * size, "longer": "x" * 70_000, "below": "y"}
    if size == LONG[0]:
        del users["longer"]
    bouncer = start_either(auth_type=auth_type, databases=target(cluster, user="trusty"), users=users)
    skip_if_old(bouncer, size)
    for user in ("long", "below"):
        assert bouncer.sql("SELECT 1", user=user, password=users[user]) == [(1,)]
    assert "authentication failed" in refusal(bouncer, user="long", password="x" * (size - 1) + "y")
    if "longer" in users:
        assert "password too long in auth file" in bouncer.log_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", LONG)
@pytest.mark.parametrize("kind", ["md5", "scram-sha-256"])
def test_long_passwords_for_servers(start_either: StartBouncer, cluster: Cluster, kind: str, size: int) -> None:
    role = {"md5": "md5_user", "scram-sha-256": "scram_other"}[kind]
    password = "s" * size
    cluster.sql(f"SET password_encryption = '{kind}'; ALTER ROLE {role} PASSWORD '{password}'")
    try:
        named = start_either(auth_type="any", databases=target(cluster, user=role, password=password))
        skip_if_old(named, size)
        assert named.sql("SELECT current_user", user="anybody") == [(role,)]
        known = start_either(auth_type="trust", users={role: password})
        assert known.sql("SELECT current_user", user=role) == [(role,)]
    finally:
        cluster.sql(f"SET password_encryption = '{kind}'; ALTER ROLE {role} PASSWORD '{PASSWORDS[role]}'")


@pytest.mark.parametrize("size", LONG)
def test_long_passwords_by_auth_query(start_either: StartBouncer, cluster: Cluster, size: int) -> None:
    query = f"SELECT 'trusty'::text, repeat('x', {size})::text WHERE $1 = 'trusty'"
    bouncer = start_either(auth_type="plain", auth_user="postgres", auth_query=query, users={"postgres": ""})
    skip_if_old(bouncer, LONG[1])
    assert bouncer.sql("SELECT 1", user="trusty", password="x" * size) == [(1,)]


def skip_if_old(bouncer: Bouncer, size: int) -> None:
    if bouncer.name == "pgbouncer" and (size > LONG[0] or version() < "PgBouncer 1.26"):
        pytest.skip("this PgBouncer does not take them")


@pytest.mark.slow
def test_trust_and_any(start_either: StartBouncer, cluster: Cluster) -> None:
    trusting = start_either(auth_type="trust")
    assert trusting.sql("SELECT current_user", user="scram_user", password="not asked") == [("scram_user",)]
    anybody = start_either(auth_type="any", databases=target(cluster, user="trusty"))
    assert anybody.sql("SELECT current_user", user="whoever") == [("trusty",)]


@pytest.mark.slow
def test_a_user_nobody_knows(start_either: StartBouncer) -> None:
    for auth_type in ("md5", "scram-sha-256", "plain"):
        bouncer = start_either(auth_type=auth_type)
        assert "authentication failed" in refusal(bouncer, user="stranger", password="guess")


def test_a_database_nobody_knows(start_either: StartBouncer) -> None:
    bouncer = start_either()
    assert "no such database: nowhere" in refusal(bouncer, dbname="nowhere")


def test_a_database_postgresql_does_not_know(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(databases=target(cluster, dbname="missing"), server_login_retry=1)
    assert 'database "missing" does not exist' in refusal(bouncer)


def test_the_fallback_database(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(databases={"*": f"host={cluster.host} port={cluster.port}"})
    assert bouncer.sql("SELECT current_database()", dbname="other") == [("other",)]


def test_a_forced_user_and_password(start_either: StartBouncer, cluster: Cluster) -> None:
    forced = target(cluster, user="scram_other", password=PASSWORDS["scram_other"])
    bouncer = start_either(databases=forced)
    assert bouncer.sql("SELECT current_user", user="trusty") == [("scram_other",)]


def test_a_wrong_server_password_is_told_to_the_client(start_either: StartBouncer, cluster: Cluster) -> None:
    wrong = target(cluster, user="scram_other", password="wrong")
    bouncer = start_either(databases=wrong, server_login_retry=1)
    assert "password authentication failed" in refusal(bouncer)


def test_auth_query(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(
        auth_type="scram-sha-256",
        auth_user="postgres",
        auth_query="SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
        users={"postgres": ""},
    )
    assert bouncer.sql("SELECT current_user", user="scram_user") == [("scram_user",)]
    assert "authentication failed" in refusal(bouncer, user="scram_user", password="wrong")
    told = refusal(bouncer, user="stranger", password="guess")
    assert "authentication failed" in told or (bouncer.name == "pgbouncer" and "no such user" in told)


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_tls_from_clients(start_either: StartBouncer, cluster: Cluster, mode: str) -> None:
    bouncer = start_either(
        auth_type="scram-sha-256",
        client_tls_sslmode=mode,
        client_tls_cert_file=cluster.server_pair.cert,
        client_tls_key_file=cluster.server_pair.key,
    )
    verified: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": cluster.authority.root}
    assert bouncer.sql("SELECT 1", user="scram_user", **verified) == [(1,)]
    if mode == "require":
        assert "SSL required" in refusal(bouncer, user="scram_user", sslmode="disable")
    else:
        assert bouncer.sql("SELECT 1", user="scram_user", sslmode="disable") == [(1,)]


def test_no_tls_where_it_is_disabled(start_either: StartBouncer) -> None:
    bouncer = start_either()
    assert "server does not support SSL" in refusal(bouncer, sslmode="require")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_client_certificates_are_verified(start_either: StartBouncer, cluster: Cluster, mode: str) -> None:
    bouncer = start_either(
        client_tls_sslmode=mode,
        client_tls_ca_file=cluster.authority.root,
        client_tls_cert_file=cluster.server_pair.cert,
        client_tls_key_file=cluster.server_pair.key,
    )
    ours, foreign = cluster.client_pair, Authority(bouncer.directory, "foreign").sign("cert_user", file="foreign_user")
    account.own(foreign.key)
    known = {"user": "trusty", "sslmode": "require"}
    assert bouncer.sql("SELECT 1", sslcert=ours.cert, sslkey=ours.key, **known) == [(1,)]
    assert "certificate" in refusal(bouncer, **known)
    assert "ca" in refusal(bouncer, sslcert=foreign.cert, sslkey=foreign.key, **known)


def test_auth_type_cert(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(
        auth_type="cert",
        client_tls_sslmode="verify-full",
        client_tls_ca_file=cluster.authority.root,
        client_tls_cert_file=cluster.server_pair.cert,
        client_tls_key_file=cluster.server_pair.key,
        databases=target(cluster, user="trusty"),
        users={"cert_user": "", "trusty": ""},
    )
    pair: dict[str, Any] = {
        "sslcert": cluster.client_pair.cert,
        "sslkey": cluster.client_pair.key,
        "sslmode": "require",
    }
    assert bouncer.sql("SELECT current_user", user="cert_user", **pair) == [("trusty",)]
    assert "certificate authentication failed" in refusal(bouncer, user="trusty", **pair)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_tls_to_servers(start_either: StartBouncer, cluster: Cluster, mode: str) -> None:
    assert cluster.tls, "this PostgreSQL was built without TLS: install Debian's postgresql"
    bouncer = start_either(server_tls_sslmode=mode, server_tls_ca_file=cluster.authority.root)
    used = bouncer.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", user="tls_user")
    assert used == [(True,)]


@pytest.mark.slow
def test_a_server_of_another_authority_is_refused(start_either: StartBouncer, cluster: Cluster) -> None:
    foreign = Authority(cluster.directory, "unknown authority")
    bouncer = start_either(
        server_tls_sslmode="verify-ca", server_tls_ca_file=foreign.root, server_login_retry=1, query_wait_timeout=2
    )
    assert refusal(bouncer)
    assert not bouncer.log_text().count("SSL established")


def test_no_tls_to_a_server_that_wants_it(start_either: StartBouncer) -> None:
    bouncer = start_either(server_tls_sslmode="disable", server_login_retry=1, query_wait_timeout=2)
    assert "pg_hba.conf rejects connection" in refusal(bouncer, user="tls_user")


def test_nonsense_instead_of_a_login(start_either: StartBouncer) -> None:
    bouncer = start_either()
    for first in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x04", b"\xff" * 8, stream.startup({}), b""):
        with Stream(("127.0.0.1", bouncer.port)) as one:
            one.send(first)
            one.socket.shutdown(1)
            assert one.ended()
    assert bouncer.sql("SELECT 1") == [(1,)]


def test_an_old_protocol_is_refused(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with Stream(("127.0.0.1", bouncer.port)) as one:
        one.send(stream.startup({"user": "postgres"}, protocol=0x20000))
        assert [m.error["M"] for m in one.rest() if m.type == "E"] == ["old V2 protocol not supported"]


@pytest.mark.slow
@pytest.mark.parametrize("auth_type", ["trust", "plain"])
def test_who_gets_no_server_is_not_let_in_first(start_same: StartBouncer, cluster: Cluster, auth_type: str) -> None:
    """AuthenticationOk comes with the welcome, so that a client is not told twice how its login ended."""
    bouncer = start_same(
        databases=target(cluster, dbname="no_such") | {"dead": "host=127.0.0.1 port=1 dbname=app"},
        auth_type=auth_type,
        query_wait_timeout=1,
    )
    for dbname, why in (("app", 'database "no_such" does not exist'), ("dead", "query_wait_timeout")):
        with Stream(("127.0.0.1", bouncer.port)) as one:
            one.send(stream.startup({"user": "plain_user", "database": dbname}))
            if auth_type == "plain":
                one.send(stream.message("p", PASSWORDS["plain_user"].encode() + b"\0"))
            told = one.rest()
        assert [m.error["M"] for m in told if m.type == "E"] == [why]
        assert not [m for m in told if m.type == "R" and m.body == b"\0\0\0\0"]


def test_who_has_no_password_shows_an_empty_one(start_same: StartBouncer, cluster: Cluster) -> None:
    """PostgreSQL says itself what is wrong, and all see it."""
    entries = {role: target(cluster, user=role)["app"] for role in METHODS}
    bouncer = start_same(databases=entries, users={"postgres": "", "md5_user": ""})
    for role in METHODS:
        why = f'password authentication failed for user "{role}"'
        if role == "plain_user":
            why = "empty password returned by client"
        assert why in refusal(bouncer, dbname=role)
        bouncer.wait_log(rf"S-\S+ {role}/{role}@\S+ closing because: {why}")


def test_a_secret_that_does_not_fit_is_named(start_same: StartBouncer, cluster: Cluster) -> None:
    known = {"scram_user": secret(cluster, "md5_user"), "md5_user": secret(cluster, "scram_user"), "postgres": ""}
    bouncer = start_same(databases={role: target(cluster, user=role)["app"] for role in known}, users=known)
    for role, method in (("scram_user", "SCRAM"), ("md5_user", "MD5")):
        assert "server login failed: wrong password type" in refusal(bouncer, dbname=role)
        label = rf"S-\S+ {role}/{role}@\S+"
        bouncer.wait_log(rf"ERROR {label} cannot do {method} authentication: wrong password type")
        bouncer.wait_log(rf"LOG {label} closing because: failed to answer authreq")


def test_auth_type_any_names_no_database(start_same: StartBouncer) -> None:
    """A database that does not exist has no forced user either."""
    bouncer = start_same(auth_type="any")
    for dbname in ("app", "no_such"):
        assert "bouncer config error" in refusal(bouncer, dbname=dbname)
    bouncer.wait_log("ERROR C-.* auth_type=any requires forced user")
