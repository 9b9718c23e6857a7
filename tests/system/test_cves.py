"""The holes that PgBouncer had and we must not have, each tried in several ways.

Where the text of a CVE says what it was, its test is named after that. Of CVE-2026-6664 to 6666 is known what the
releases mended: lengths, terminators and SASL messages that lie, and a server's answers that do. Whatever the bytes,
the sender is refused or let go, and a client that was there before goes on.
"""

from __future__ import annotations

import base64
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
import pytest
from scramp import ScramClient

from admin.commands import COMMANDS
from pooler.net.dns import system_addresses
from tests.bench.measure import processor
from tests.fixtures import stream
from tests.fixtures.bouncer import version
from tests.fixtures.cluster import PASSWORDS, SUPERUSER, Cluster
from tests.fixtures.liar import READY, Caller, Liar, StartLiar
from tests.fixtures.liar import SASL as ASK_SASL
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Stream
from tests.fixtures.waiting import until

STATS = "app_user"
OPEN = {"SHOW", "SELECT"}
EXAMPLES = {"KILL_CLIENT": "1", "SET": "max_client_conn = 1"}
IN = b"R\0\0\0\x08\0\0\0\0"
"""AuthenticationOk."""
HBA = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 {method}\n"


def asking(start: StartBouncer, *, method: str = "scram-sha-256", **settings: object) -> Bouncer:
    """A pooler that knows its auth_user alone."""
    known = {"auth_type": "hba", "auth_user": "postgres", "users": {"postgres": ""}}
    bouncer = start(run=False, **known | settings)
    hba = bouncer.directory / "hba.conf"
    hba.write_text(HBA.format(method=method))
    bouncer.settings["auth_hba_file"] = hba
    return bouncer.start()


@contextmanager
def unharmed(bouncer: Bouncer, user: str = "scram_user") -> Iterator[None]:
    """A client in a transaction goes on, others come in, and the process is idle and no larger afterwards."""
    with bouncer.connect(user=user) as witness:
        witness.execute("BEGIN")
        before = bouncer.resident()
        yield
        assert witness.execute("SELECT 1").fetchone() == (1,)

        def is_idle() -> bool:
            spent = processor(bouncer.pid).total
            assert witness.execute("SELECT 2 FROM pg_sleep(0.1)").fetchone() == (2,)
            return processor(bouncer.pid).total - spent < 0.09

        until(is_idle)
        assert bouncer.resident() < before + (32 << 20)
    assert bouncer.sql("SELECT 1", user=user) == [(1,)]


def test_cve_2026_6667_no_command_but_show_is_a_stats_users(start_pooler: StartBouncer) -> None:
    """One forgotten check of many; ours is a column of the table, so the table is gone through."""
    pooler = start_pooler(stats_users=STATS, users={STATS: "", SUPERUSER: ""})
    names = sorted({command.name.split()[0] for command in COMMANDS} - OPEN)
    assert {"KILL", "KILL_CLIENT", "SHUTDOWN", "RELOAD", "PAUSE", "SET"} <= set(names)
    with pooler.connect() as client, pooler.connect(ADMIN, STATS, cursor_factory=psycopg.ClientCursor) as console:
        client.execute("BEGIN")
        number = next(row["id"] for row in pooler.admin("SHOW CLIENTS") if row["database"] == "app")
        examples = EXAMPLES | {"KILL_CLIENT": str(number)}
        for name in names:
            words = []
            for argument in (examples.get(name, "app"), ""):
                with pytest.raises(psycopg.Error) as caught:
                    console.execute(f"{name} {argument}".strip().encode())
                words.append(caught.value.diag.message_primary or "")
            assert "admin access needed" in words, name
        assert client.execute("SELECT 1").fetchone() == (1,)
        client.execute("COMMIT")


def packet(body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!I", len(body) + 4 if length is None else length) + body


def startup(body: bytes) -> bytes:
    return packet(struct.pack("!I", 196608) + body)


ANYBODY = startup(b"user\0scram_user\0database\0app\0\0")
FIRST = {
    "length 0": packet(b"", 0),
    "length 7": packet(b"abc", 7),
    "length 2 GB": packet(b"x", 0x7FFFFFFF),
    "negative length": packet(b"x", 0xFFFFFFFF),
    "no terminator": startup(b"user\0scram_user"),
    "no last terminator": startup(b"user\0scram_user\0database\0app\0"),
    "a name without value": startup(b"user\0"),
    "nothing": startup(b""),
    "one terminator": startup(b"\0"),
    "more behind the end": startup(b"user\0scram_user\0\0database\0app\0\0"),
    "options without end": startup(b"user\0scram_user\0options\0-c \\\0\0"),
    "a very long user": startup(b"user\0" + b"u" * 9000 + b"\0\0"),
    "bytes that are no text": startup(b"user\0\xff\xfe\xc0\0database\0\x80\0\0"),
    "short cancel": packet(struct.pack("!I", 80877102)),
    "long cancel": packet(struct.pack("!I", 80877102) + bytes(600)),
}


def message(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    return kind + packet(body, length)


def initial(mechanism: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return message(b"p", mechanism + struct.pack("!I", size & 0xFFFFFFFF) + data)


HELLO = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
SASL = {
    "length 0": message(b"p", b"", 0),
    "length 3": message(b"p", b"", 3),
    "negative length": message(b"p", b"SCRAM-SHA-256\0", 0xFFFFFFFF),
    "length 1 GB": message(b"p", b"SCRAM-SHA-256\0", 1 << 30),
    "empty": message(b"p", b""),
    "mechanism without terminator": message(b"p", b"SCRAM-SHA-256"),
    "mechanism and nothing": message(b"p", b"SCRAM-SHA-256\0"),
    "mechanism and half a length": message(b"p", b"SCRAM-SHA-256\0\0\0"),
    "data shorter than said": initial(b"SCRAM-SHA-256\0", HELLO, 5000),
    "data longer than said": initial(b"SCRAM-SHA-256\0", HELLO, 3),
    "data of length -1": initial(b"SCRAM-SHA-256\0", b"", -1),
    "data of length -2": initial(b"SCRAM-SHA-256\0", HELLO, -2),
    "another mechanism": initial(b"SCRAM-SHA-1\0", HELLO),
    "plus without TLS": initial(b"SCRAM-SHA-256-PLUS\0", b"p=tls-unique" + HELLO[1:]),
    "no data": initial(b"SCRAM-SHA-256\0", b""),
    "commas": initial(b"SCRAM-SHA-256\0", b",,,,,,,,"),
    "no nonce": initial(b"SCRAM-SHA-256\0", b"n,,n=,r="),
    "an end of string within": initial(b"SCRAM-SHA-256\0", b"n,,n=\0,r=abc\0def"),
    "a long nonce": initial(b"SCRAM-SHA-256\0", HELLO + b"x" * 100_000),
    "another message": message(b"Q", b"SELECT 1\0"),
}
NONCE = HELLO.partition(b"r=")[2]
FINAL = {
    "empty": b"",
    "no proof": b"c=biws,r=abc",
    "proof that is no base64": b"c=biws,r=abc,p=%%%%",
    "a short proof": b"c=biws,r=abc,p=AA==",
    "a long proof": b"c=biws,r=abc,p=" + b"QUFB" * 5000,
    "an end of string": b"c=biws\0,r=abc,p=AA==",
    "extensions": b"c=biws,r=abc,m=x,p=AA==",
    "no nonce": b"c=biws,p=AA==",
    "nothing but the binding": b"c=biws",
    "a nonce without value": b"c=biws,r,p=AA==",
    "an empty nonce": b"c=biws,r=,p=AA==",
    "the nonce at the end": b"c=biws,p=AA==,r=abc",
}


def said(bouncer: Bouncer, *pieces: bytes) -> bytes:
    """All that the pooler answers to these bytes before it closes; it must close by itself. It may do so before it has
    read all of them, which this side learns by a reset at any later step."""
    answers = b""
    with socket.create_connection(("127.0.0.1", bouncer.port), 10) as sock:
        with suppress(ConnectionError):
            for number, piece in enumerate(pieces):
                if number:
                    answers += sock.recv(65536)
                sock.sendall(piece)
        with suppress(OSError):
            # Not connected any more, if it was reset.
            sock.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while data := sock.recv(65536):
                answers += data
    return answers


def test_cve_2026_6664_to_6666_lengths_and_terminators_that_lie(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(auth_type="scram-sha-256")
    with unharmed(pooler):
        for name, data in FIRST.items():
            assert IN not in said(pooler, data), name
        for name, data in SASL.items():
            assert IN not in said(pooler, ANYBODY, data), name
        for name, data in FINAL.items():
            first = initial(b"SCRAM-SHA-256\0", HELLO)
            assert IN not in said(pooler, ANYBODY, first, message(b"p", data)), name


def test_passwords_without_end(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(auth_type="md5", users={"md5_user": "secret", SUPERUSER: ""})
    known = startup(b"user\0md5_user\0database\0app\0\0")
    for body in (b"", b"\0", b"md5", b"md5" + b"0" * 32, b"secret", b"x" * 100_000, b"md5" + b"0" * 31 + b"\0\0"):
        assert IN not in said(pooler, known, message(b"p", body))


BROKEN = {
    "Parse without end": message(b"P", b"name"),
    "Parse without query": message(b"P", b"name\0"),
    "Parse with half a count": message(b"P", b"name\0SELECT 1\0\0"),
    "Parse with too many types": message(b"P", b"name\0SELECT 1\0\xff\xff"),
    "Bind without end": message(b"B", b"portal"),
    "Bind without statement": message(b"B", b"\0"),
    "Bind of nothing": message(b"B", b""),
    "Describe of nothing": message(b"D", b""),
    "Describe without end": message(b"D", b"Sname"),
    "Close without end": message(b"C", b"Sname"),
    "Query without end": message(b"Q", b"SELECT 1"),
    "Query of nothing": message(b"Q", b""),
    "length 0": message(b"Q", b"", 0),
    "length 3": message(b"P", b"", 3),
    "negative length": message(b"P", b"x\0", 0xFFFFFFFF),
    "length 2 GB": message(b"P", b"x\0", 0x7FFFFFFF),
    "no such message": message(b"\x01", b""),
}


def test_messages_that_lie_behind_the_login(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(default_pool_size=2)
    login = startup(b"user\0postgres\0database\0app\0\0")
    with pooler.connect(prepare_threshold=0) as witness:
        witness.execute("BEGIN")
        for name, data in BROKEN.items():
            for _ in range(2):
                said(pooler, login, data + message(b"S", b""))
            assert witness.execute("SELECT %s::int", (5,)).fetchone() == (5,), name
        witness.execute("COMMIT")
        until(lambda: pooler.pool()["cl_active"] == 1)
        assert pooler.sql("SELECT 1") == [(1,)]


# ---- by its number


@pytest.mark.parametrize("auth_type", ["trust", "md5", "scram-sha-256", "plain"])
def test_cve_2015_4054_a_password_before_the_startup_packet(start_pooler: StartBouncer, auth_type: str) -> None:
    """There was nobody yet whose password it could be."""
    pooler = start_pooler(auth_type=auth_type)
    with unharmed(pooler):
        for body in (b"", b"\0", b"secret\0", b"md5" + b"0" * 32 + b"\0", b"SCRAM-SHA-256\0\0\0\0\x03n,,", b"x" * 9000):
            told = said(pooler, message(b"p", body))
            assert b"client password pkt before startup packet" in told
            refused = said(pooler, stream.request(stream.SSL_REQUEST), message(b"p", body))
            assert refused.startswith(b"N")
            assert b"client password pkt before startup packet" in refused
        for length in (0, 3, 0x7FFFFFFF, 0xFFFFFFFF):
            assert IN not in said(pooler, message(b"p", b"x", length))


@pytest.mark.parametrize("method", ["plain", "md5", "scram-sha-256"])
def test_cve_2015_6817_who_is_not_found_is_not_the_auth_user(
    start_pooler: StartBouncer, cluster: Cluster, method: str
) -> None:
    """Whoever the query did not know came in as auth_user."""
    own = PASSWORDS["scram_other"]
    query = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"
    pooler = asking(
        start_pooler,
        method=method,
        auth_query=query,
        users={"postgres": own},
    )
    for user in ("nobody", "", "postgres ", "POSTGRES", "$1", "' OR ''='"):
        for password in (own, "", "x"):
            with Stream(("127.0.0.1", pooler.port)) as client, pytest.raises((AssertionError, Ended)):
                client.login(user=user, password=password)
    with Stream(("127.0.0.1", pooler.port)) as client:
        client.login(user="scram_user", password=PASSWORDS["scram_user"])
        assert client.rows("SELECT current_user") == [[b"scram_user"]]


def test_cve_2021_3672_what_a_name_server_says_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """c-ares passed on names that were none; of an answer only addresses are used here."""
    names = ["evil\0.example", "a" * 70_000, "<script>", "../../etc/passwd", "\udcff"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, name, (f"127.0.0.{n}", 0)) for n, name in enumerate(names, 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert [str(address) for address in system_addresses("db")] == [f"127.0.0.{n}:0" for n in range(1, 6)]


@pytest.mark.parametrize("mode", ["disable", "allow", "require"])
def test_cve_2021_3935_plaintext_behind_a_request_for_encryption(
    start_either: StartBouncer, cluster: Cluster, mode: str
) -> None:
    """A man in the middle sends a login and a query behind the client's request, to be taken as if they came by TLS."""
    pair = cluster.server_pair
    files = {"client_tls_cert_file": pair.cert, "client_tls_key_file": pair.key} if mode != "disable" else {}
    bouncer = start_either(client_tls_sslmode=mode, **files)
    login = stream.startup({"user": "postgres", "database": "app"})
    for request in (stream.SSL_REQUEST, stream.GSSENC_REQUEST):
        for behind in (login, login + stream.query("SELECT 1"), b"\0", b"\x16\x03\x01\0\x05", b"p\0\0\0\x05\0"):
            told = said(bouncer, stream.request(request) + behind)
            assert IN not in told
    bouncer.wait_log("received unencrypted data after SSL request")
    with Stream(("127.0.0.1", bouncer.port)) as one:
        if mode != "disable":
            one.start_tls()
        assert one.login().rows("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("behind", [READY, ASK_SASL, b"E\0\0\0\5\0", b"x"])
def test_cve_2021_3935_plaintext_behind_the_servers_answer(
    start_pooler: StartBouncer, cluster: Cluster, behind: bytes
) -> None:
    """The same on the way to servers: what stands behind the `S` came before there was any TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        databases = {"app": f"host=127.0.0.1 port={listener.getsockname()[1]}"}
        pooler = start_pooler(databases=databases, server_tls_sslmode="require", query_wait_timeout=1)
        client = stack.enter_context(Stream(("127.0.0.1", pooler.port)))
        client.send(ANYBODY)
        sock, _ = listener.accept()
        with sock:
            assert sock.recv(8) == stream.request(stream.SSL_REQUEST)
            sock.sendall(b"S" + behind)
            pooler.wait_log("closing because: received unencrypted data after SSL response")
            assert sock.recv(100) == b""


def test_cve_2025_2291_an_expired_password(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """The default query knows rolvaliduntil."""
    pooler = asking(start_pooler)
    cluster.sql("DROP ROLE IF EXISTS expiring; CREATE ROLE expiring LOGIN PASSWORD 'x'")
    for until_when, lets_in in (("infinity", True), ("2020-01-01", False), ("-infinity", False), ("2999-01-01", True)):
        cluster.sql(f"ALTER ROLE expiring VALID UNTIL '{until_when}'")
        with Stream(("127.0.0.1", pooler.port)) as client:
            if lets_in:
                assert client.login(user="expiring", password="x").rows("SELECT current_user") == [[b"expiring"]]
            else:
                with pytest.raises(AssertionError, match="SASL authentication failed"):
                    client.login(user="expiring", password="x")


@pytest.mark.parametrize("auth_dbname", ["", "other"])
@pytest.mark.parametrize("tracked", ["search_path", "search_path, role, session_authorization"])
def test_cve_2025_12819_a_strangers_parameters_stay_outside(
    start_pooler: StartBouncer, cluster: Cluster, tracked: str, auth_dbname: str
) -> None:
    """They do not reach the server that runs auth_query, not by name and not by options."""
    for database in ("app", "other"):
        cluster.sql(
            "DROP SCHEMA IF EXISTS evil CASCADE; CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;"
            "CREATE VIEW evil.pg_authid AS SELECT 'scram_user'::name AS rolname, 'evil' AS rolpassword,"
            " NULL::timestamptz AS rolvaliduntil, true AS rolcanlogin; GRANT SELECT ON evil.pg_authid TO PUBLIC",
            dbname=database,
        )
    query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"
    pooler = asking(start_pooler, track_extra_parameters=tracked, auth_query=query, auth_dbname=auth_dbname)
    evil = "evil, pg_catalog"
    for parameters in (
        {"search_path": evil},
        {"SEARCH_PATH": evil},
        {"options": f"-csearch_path={evil}".replace(" ", "\\ ")},
        {"options": "-c search_path=evil,pg_catalog"},
        {"options": "--search-path=evil,pg_catalog"},
        {"application_name": "x'; SET search_path = evil, pg_catalog; --", "search_path": evil},
    ):
        for _ in range(2):
            with Stream(("127.0.0.1", pooler.port)) as client, pytest.raises(AssertionError, match="SASL"):
                client.login(user="scram_user", password="evil", **parameters)
    with pooler.connect("app", "scram_user", options="-csearch_path=evil") as inside:
        assert inside.execute("SHOW search_path").fetchall() == [("evil",)]
    assert pooler.sql("SELECT current_user", user="scram_user") == [("scram_user",)]


HUGE = (0x7FFFFFFF, 0x80000000, 0x80000001, 0xC0000000, 0xFFFFFFF0, 0xFFFFFFFF)


@pytest.mark.parametrize("most", [2147483647, 2147483649, 4294967295])
def test_cve_2026_6668_and_107348_lengths_over_2_gb(start_pooler: StartBouncer, most: int) -> None:
    """A buffer that was to grow so far was made larger until it had wrapped around, whatever max_packet_size allows;
    before the login, within it and behind it."""
    pooler = start_pooler(auth_type="scram-sha-256", max_packet_size=most)
    data = b"x" * (1 << 20)
    with pooler.connect(user="scram_user") as witness:
        witness.execute("BEGIN")
        before, spent = pooler.resident(), processor(pooler.pid).total
        for length in HUGE:
            flood(pooler, packet(data, length))
            flood(pooler, ANYBODY + message(b"p", data, length))
            flood(pooler, ANYBODY + initial(b"SCRAM-SHA-256\0", data, length))
            for kind in (b"Q", b"P", b"B", b"d", b"F"):
                with Stream(("127.0.0.1", pooler.port)) as client:
                    client.login(user="scram_user", password=PASSWORDS["scram_user"])
                    flood(pooler, message(kind, data, length), client.socket)
            assert witness.execute("SELECT 1").fetchone() == (1,), hex(length)
        assert pooler.resident() < before + (64 << 20)
        assert processor(pooler.pid).total - spent < 10


def flood(bouncer: Bouncer, data: bytes, sock: socket.socket | None = None) -> None:
    """Send as much of `data` as is taken, and go."""
    with suppress(ConnectionError), sock or socket.create_connection(("127.0.0.1", bouncer.port), 10) as sender:
        sender.sendall(data)


@pytest.mark.slow
@pytest.mark.parametrize("length", HUGE)
@pytest.mark.parametrize("before", [b"", READY[:9]], ids=["at once", "behind AuthenticationOk"])
def test_cve_2026_6668_and_107348_a_servers_lengths(
    start_pooler: StartBouncer, start_liar: StartLiar, cluster: Cluster, length: int, before: bytes
) -> None:
    def play(caller: Caller) -> None:
        caller.say(before + b"S" + struct.pack("!I", length) + b"x" * 1000)
        caller.stay()

    with hostile(start_pooler, start_liar(play), cluster) as pooler:
        pooler.wait_log("closing because: bad pkt header")


@contextmanager
def hostile(start: StartBouncer, liar: Liar, cluster: Cluster) -> Iterator[Bouncer]:
    """A pooler with a client of the liar waiting, and others unharmed."""
    app = f"host={cluster.host} port={cluster.port} dbname=app"
    databases = {"app": app, "evil": f"{liar.dsn} user=scram_user password=secret"}
    pooler = start(databases=databases, server_login_retry=0.1, server_tls_sslmode="disable")
    with unharmed(pooler), Stream(("127.0.0.1", pooler.port)) as client:
        client.send(startup(b"user\0trusty\0database\0evil\0\0"))
        yield pooler


SERVER_FIRST: dict[str, Callable[[bytes], bytes]] = {
    "no nonce": lambda nonce: b"s=c2FsdA==,i=4096",
    "an empty nonce": lambda nonce: b"r=,s=c2FsdA==,i=4096",
    "another nonce": lambda nonce: b"r=abc,s=c2FsdA==,i=4096",
    "a salt of megabytes": lambda nonce: b"r=%bx,s=%b,i=4096" % (nonce, b"QUFB" * 300_000),
    "no salt": lambda nonce: b"r=%bx,i=4096" % nonce,
    "nothing": lambda nonce: b"",
    "an end of string": lambda nonce: b"r=%bx\0,s=c2FsdA==,i=4096" % nonce,
    "an error": lambda nonce: b"e=other-error",
    "no iterations": lambda nonce: b"r=%bx,s=c2FsdA==" % nonce,
    "iterations below nought": lambda nonce: b"r=%bx,s=c2FsdA==,i=-1" % nonce,
    "a million and one iterations": lambda nonce: b"r=%bx,s=c2FsdA==,i=1000001" % nonce,
    "two billion iterations": lambda nonce: b"r=%bx,s=c2FsdA==,i=2147483647" % nonce,
    "2^32 + 4096 iterations": lambda nonce: b"r=%bx,s=c2FsdA==,i=4294971392" % nonce,
}
ERRORS = {
    "without an SQLSTATE": b"E\0\0\0\x0bMgone\0\0",
    "without a field": b"E\0\0\0\5\0",
    "without an end": b"E\0\0\0\x0aSFATAL",
    "of nothing": b"E\0\0\0\4",
}


@pytest.mark.slow
@pytest.mark.parametrize("said_first", SERVER_FIRST)
def test_cve_2026_6664_to_6666_and_6669_scram_of_a_server(
    start_pooler: StartBouncer, start_liar: StartLiar, cluster: Cluster, said_first: str
) -> None:
    def play(caller: Caller) -> None:
        first = SERVER_FIRST[said_first](caller.nonce())
        caller.say(message(b"R", struct.pack("!I", 11) + first))
        caller.stay()

    liar = start_liar(play)
    with hostile(start_pooler, liar, cluster) as pooler:
        pooler.wait_log("closing because: (failed to answer authreq|bad pkt header|bad packet)")
        until(lambda: liar.calls >= 2)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_cve_2026_6664_to_6666_errors_of_a_server(
    start_pooler: StartBouncer, start_liar: StartLiar, cluster: Cluster, error: str
) -> None:
    def play(caller: Caller) -> None:
        caller.say(ERRORS[error])
        caller.stay()

    with hostile(start_pooler, start_liar(play), cluster) as pooler:
        pooler.wait_log("S-.*evil/scram_user.* closing because: ")


@pytest.mark.slow
def test_cve_2026_6669_a_million_iterations_hold_nobody_up(
    start_pooler: StartBouncer, start_liar: StartLiar, cluster: Cluster
) -> None:
    """That many are allowed, and take a third of a second. It was done in the event loop."""

    def play(caller: Caller) -> None:
        # Other keys each time: those that are known cost nothing.
        first = b"r=%bx,s=%b,i=1000000" % (caller.nonce(), base64.b64encode(b"salt %d" % liar.calls))
        caller.say(message(b"R", struct.pack("!I", 11) + first))
        caller.hear()

    liar = start_liar(play)
    with hostile(start_pooler, liar, cluster) as pooler, pooler.connect(user="trusty") as client:
        longest = []
        for _ in range(3):
            calls, gaps = liar.calls, [0.0]
            while liar.calls == calls:
                began = time.monotonic()
                client.execute("SELECT 1")
                gaps.append(time.monotonic() - began)
            longest.append(max(gaps))
        assert min(longest) < 0.15, longest


def skip_if_older(bouncer: Bouncer) -> None:
    """PgBouncer 1.26.1 has mended it."""
    if bouncer.name == "pgbouncer" and version() < "PgBouncer 1.26.1":
        pytest.skip("this PgBouncer has the hole")


def test_cve_2026_19888_a_final_message_without_a_nonce(start_either: StartBouncer) -> None:
    pooler = start_either(auth_type="scram-sha-256")
    skip_if_older(pooler)
    proof = b"p=" + b"A" * 43 + b"="
    without = [
        b"c=biws," + proof,
        b"c=biws,r=," + proof,
        b"c=biws,r," + proof,
        b"r=" + NONCE + b"," + proof,
        b"c=biws,x=abc," + proof,
        b"c=biws,,r=" + NONCE + b"," + proof,
        proof,
        b"c=biws",
        b"c=biws,",
        b",,,",
        b"c=,r=,p=",
    ]
    with unharmed(pooler):
        for final in without:
            told = said(pooler, ANYBODY, initial(b"SCRAM-SHA-256\0", HELLO), message(b"p", final))
            assert b"SASL authentication failed" in told, final
            assert IN not in told


NAMELESS = (
    b"-c=", b"-c =x", b"--=x", b"--=", b"-c =", b"-c timezone=UTC -c =x", b"-c=x -c=y", b"-c \\=", b"-c==",
)  # fmt: skip


@pytest.mark.parametrize("ignored", ["", "extra_float_digits", "extra_float_digits, search_path", "options"])
def test_cve_2026_107349_an_option_without_a_name(start_either: StartBouncer, ignored: str) -> None:
    """It was looked for in ignore_startup_parameters for ever, before any login."""
    pooler = start_either(auth_type="scram-sha-256", ignore_startup_parameters=ignored)
    skip_if_older(pooler)
    with unharmed(pooler):
        for options in NAMELESS:
            told = said(pooler, startup(b"user\0scram_user\0database\0app\0options\0" + options + b"\0\0"))
            assert (b"unsupported startup parameter in options: \0" in told) == (ignored != "options"), options


@pytest.mark.parametrize("auth_type", ["scram-sha-256", "md5", "plain"])
@pytest.mark.parametrize("database", [b"app", b"nowhere"])
def test_cve_2026_107350_a_second_startup_packet(start_either: StartBouncer, auth_type: str, database: bytes) -> None:
    """Sent during the login of a database that did not exist, it let its sender in as the user it named."""
    pooler = start_either(auth_type=auth_type)
    skip_if_older(pooler)
    mine = startup(b"user\0plain_user\0database\0" + database + b"\0\0")
    other = startup(b"user\0postgres\0database\0app\0\0")
    query = message(b"Q", b"SELECT current_user\0")
    first = initial(b"SCRAM-SHA-256\0", HELLO)
    with unharmed(pooler):
        for pieces in (
            (mine, other),
            (mine, other + query),
            (mine + other,),
            (mine, first, other),
            (mine, first, other + query),
            (mine, first + other),
            (mine, other, first),
            (mine, other, message(b"p", PASSWORDS["plain_user"].encode() + b"\0")),
            (mine, startup(b"user\0pgbouncer\0database\0pgbouncer\0\0")),
            (mine, stream.request(stream.SSL_REQUEST)),
            (mine, stream.request(stream.CANCEL_REQUEST, b"12345678")),
        ):
            assert IN not in said(pooler, *pieces), pieces


def test_cve_2026_107350_nor_does_a_right_proof_lead_to_another_user(start_either: StartBouncer) -> None:
    """Somebody who knows one password names another user half-way."""
    pooler = start_either(auth_type="plain")
    mine = startup(b"user\0plain_user\0database\0nowhere\0\0")
    password = message(b"p", PASSWORDS["plain_user"].encode() + b"\0")
    assert b"no such database: nowhere" in said(pooler, mine, password + startup(b"user\0postgres\0database\0app\0\0"))


SECOND = (b"user\0postgres\0database\0app\0\0", b"user\0scram_other\0database\0pgbouncer\0\0")


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("database", ["app", "nowhere"])
@pytest.mark.parametrize("when", ["first", "challenged"])
def test_cve_2026_107350_a_second_one_within_a_right_proof(
    start_pooler: StartBouncer, database: str, second: bytes, when: str
) -> None:
    """With the right password of one user, and another's startup packet in the middle of the proof."""
    pooler = start_pooler(auth_type="scram-sha-256", users=PASSWORDS | {SUPERUSER: "secret"}, admin_users="scram_other")
    with Stream(("127.0.0.1", pooler.port)) as client:
        client.send(stream.startup({"user": "scram_user", "database": database}))
        proof = ScramClient(["SCRAM-SHA-256"], "scram_user", PASSWORDS["scram_user"])
        first = proof.get_client_first().encode()
        client.until("R")
        if when == "first":
            client.send(startup(second))
        client.send(initial(b"SCRAM-SHA-256\0", first))
        with suppress(Ended):
            answer = client.until("R", "E")[-1]
            if answer.type == "R":
                proof.set_server_first(answer.body[4:].decode())
                client.send(startup(second), message(b"p", proof.get_client_final().encode()))
        told = client.rest()
    assert not any(one.type == "R" and one.body == bytes(4) for one in told)
    assert not any(one.type == "Z" for one in told)
