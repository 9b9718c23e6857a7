"""`dial` and a real PostgreSQL: every way pg_hba.conf can ask, TLS modes, refusals, connect_query, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from pooler import wire
from pooler.config.kinds import SslMode
from pooler.config.users import parse_scram
from pooler.config.whole import compose
from pooler.net import scram, tls
from pooler.net.credentials import Credentials
from pooler.net.dialerror import DialError
from pooler.pools.connection import Replication
from pooler.servers.dial import Dialed, Target, dial, send_cancel
from tests.fixtures.cluster import PASSWORDS, Cluster
from tests.fixtures.waiting import DEADLINE, until


def target(cluster: Cluster, user: str, credentials: Credentials | None = None) -> Target:
    known = Credentials(PASSWORDS[user]) if user in PASSWORDS else Credentials()
    return Target(cluster.host, cluster.port, "app", user, credentials or known)


def with_tls(cluster: Cluster, wanted: Target, mode: str, *, cert: bool = False) -> Target:
    texts = {"server_tls_sslmode": mode, "server_tls_ca_file": str(cluster.authority.root)}
    if cert:
        pair = cluster.client_pair
        texts |= {"server_tls_cert_file": str(pair.cert), "server_tls_key_file": str(pair.key)}
    context = tls.server_context(compose(texts).settings)
    return replace(wanted, sslmode=SslMode(mode), tls_context=context)


def run(wanted: Target, use: Callable[[Dialed], Awaitable[object]] | None = None) -> Dialed:
    """Dial, use and close."""

    async def main() -> Dialed:
        async with asyncio.timeout(DEADLINE):
            got = await dial(wanted, loop=asyncio.get_running_loop())
            try:
                if use is not None:
                    await use(got)
            finally:
                got.channel.abort()
            return got

    return asyncio.run(main())


def refused(wanted: Target) -> DialError:
    with pytest.raises(DialError) as caught:
        run(wanted)
    return caught.value


async def ask(got: Dialed, sql: str) -> list[list[bytes | None]]:
    """The rows of a simple query."""
    await got.channel.send(wire.query(sql))
    rows: list[list[bytes | None]] = []
    while True:
        kind, body = await got.channel.read_message()
        if kind == b"D":
            rows.append(wire.read_data_row(body))
        elif kind == b"E":
            rows.append([wire.error_fields(body)["C"].encode()])
        elif kind == b"Z":
            return rows


@pytest.mark.parametrize("user", ["trusty", "plain_user", "md5_user", "scram_user"])
def test_every_way_to_be_asked(cluster: Cluster, user: str) -> None:
    names: list[object] = []

    async def use(got: Dialed) -> None:
        names.extend(await ask(got, "SELECT current_user, pg_backend_pid()"))

    got = run(target(cluster, user), use)
    assert names == [[user.encode(), str(got.pid).encode()]]
    assert got.parameters["server_encoding"] == "UTF8"
    assert {"server_version", "TimeZone", "DateStyle", "client_encoding"} <= set(got.parameters)


@pytest.mark.parametrize("user", ["plain_user", "md5_user", "scram_user"])
def test_a_wrong_password_in_the_server_s_words(cluster: Cluster, user: str) -> None:
    error = refused(target(cluster, user, Credentials("wrong")))
    assert error.message == f'password authentication failed for user "{user}"'
    assert (error.sqlstate, error.stage) == ("28P01", "login")


def test_a_database_that_does_not_exist(cluster: Cluster) -> None:
    error = refused(replace(target(cluster, "trusty"), dbname="nowhere"))
    assert (error.message, error.sqlstate) == ('database "nowhere" does not exist', "3D000")


def test_the_keys_of_a_client_s_login_open_the_server(cluster: Cluster) -> None:
    rows = cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_user'")
    verifier = parse_scram(rows[0][0])
    assert verifier is not None
    server, client = scram.ServerExchange(verifier), scram.ClientExchange()
    salt, iterations = client.take(server.first(client.first()))
    keys = scram.derive_keys(PASSWORDS["scram_user"], salt, iterations)
    client.finish(server.final(client.final(keys)))
    assert server.client_key is not None
    learnt = scram.Keys(server.client_key, verifier.server_key)
    run(target(cluster, "scram_user", Credentials(keys=learnt)))


def test_an_md5_secret_alone_opens_the_server(cluster: Cluster) -> None:
    rows = cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'md5_user'")
    run(target(cluster, "md5_user", Credentials(md5=rows[0][0])))


@pytest.mark.parametrize("password", ["pässwörd", "I\u00adX", "\u00aa\u2168", "tab\there", "x" * 65_535])
def test_passwords_beyond_ascii(cluster: Cluster, password: str) -> None:
    quoted = password.replace("'", "''")
    cluster.sql(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE scram_other PASSWORD '{quoted}'")
    try:
        run(target(cluster, "scram_other", Credentials(password)))
    finally:
        cluster.sql(f"ALTER ROLE scram_other PASSWORD '{PASSWORDS['scram_other']}'")


def test_our_verifiers_are_postgresql_s(cluster: Cluster) -> None:
    text = scram.verifier_text(scram.make_verifier("müde", 4096))
    cluster.sql(f"ALTER ROLE scram_other PASSWORD '{text}'")
    try:
        run(target(cluster, "scram_other", Credentials("müde")))
    finally:
        cluster.sql(f"ALTER ROLE scram_other PASSWORD '{PASSWORDS['scram_other']}'")


def test_over_the_unix_socket(cluster: Cluster) -> None:
    got = run(replace(target(cluster, "trusty"), host=str(cluster.socket_dir), sslmode=SslMode.require))
    assert got.channel.closed
    assert got.tls == ""


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_tls(cluster: Cluster, mode: str) -> None:
    if not cluster.tls:
        pytest.skip("this PostgreSQL is built without TLS")
    got = run(with_tls(cluster, target(cluster, "scram_user"), mode))
    assert got.tls.startswith("TLSv1.3/")


@pytest.mark.slow
def test_tls_where_the_server_has_none(own_cluster: Cluster) -> None:
    if own_cluster.tls:
        own_cluster.sql("ALTER SYSTEM SET ssl = off")
        own_cluster.reload()
        until(lambda: own_cluster.sql("SHOW ssl") == [("off",)], "TLS to be off")
    for mode in ("allow", "prefer"):
        assert run(with_tls(own_cluster, target(own_cluster, "trusty"), mode)).tls == ""
    error = refused(with_tls(own_cluster, target(own_cluster, "trusty"), "require"))
    assert error.message == "server refused SSL"


def test_a_client_certificate(cluster: Cluster) -> None:
    if not cluster.tls:
        pytest.skip("this PostgreSQL is built without TLS")
    run(with_tls(cluster, target(cluster, "cert_user"), "verify-full", cert=True))
    error = refused(with_tls(cluster, target(cluster, "cert_user"), "verify-full"))
    assert error.message == "connection requires a valid client certificate"


def test_startup_parameters(cluster: Cluster) -> None:
    parameters = {"application_name": "dial", "TimeZone": "Asia/Tokyo", "options": "-c geqo=off"}
    seen: list[object] = []

    async def use(got: Dialed) -> None:
        seen.extend(await ask(got, "SELECT current_setting('geqo')"))

    got = run(replace(target(cluster, "trusty"), parameters=parameters), use)
    assert got.parameters["TimeZone"] == "Asia/Tokyo"
    assert got.parameters["application_name"] == "dial"
    assert seen == [[b"off"]]


@pytest.mark.parametrize("kind", ["logical", "physical"])
def test_replication(cluster: Cluster, kind: str) -> None:
    seen: list[list[bytes | None]] = []

    async def use(got: Dialed) -> None:
        seen.extend(await ask(got, "IDENTIFY_SYSTEM"))

    run(replace(target(cluster, "replicator"), replication=Replication(kind)), use)
    assert len(seen[0]) == 4


def test_connect_query(cluster: Cluster) -> None:
    wanted = replace(target(cluster, "trusty"), connect_query="SET TimeZone = 'CET'; SELECT generate_series(1, 9)")
    assert run(wanted).parameters["TimeZone"] == "CET"
    assert "nothing" in run(replace(wanted, connect_query="SELECT nothing")).complaint


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_cancel(cluster: Cluster, mode: str) -> None:
    wanted = with_tls(cluster, target(cluster, "trusty"), mode)

    async def use(got: Dialed) -> None:
        sleeping = asyncio.create_task(ask(got, "SELECT pg_sleep(600)"))
        while not sleeping.done():
            await send_cancel(wanted, got.cancel_key, loop=asyncio.get_running_loop())
            await asyncio.wait({sleeping}, timeout=0.05)
        assert await sleeping == [[b"57014"]]

    run(wanted, use)
