"""What becomes of TLS settings that SET, RELOAD and SIGHUP change: what is said, what is kept, what is in force.

PgBouncer is the oracle where its behaviour is the wanted one. Where it is not (a RELOAD that fails has changed
everything else; files of the servers' side are taken unseen) the pooler stands alone.
"""

from __future__ import annotations

import shutil
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures import account
from tests.fixtures.authority import Pair
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.said import console, say
from tests.fixtures.stream import Stream, startup
from tests.fixtures.waiting import until

NOT_APPLIED = "TLS settings could not be applied, still using old configuration"
NOT_RELOADED = "RELOAD failed, see logs for additional details"


@pytest.fixture(scope="module")
def other(cluster: Cluster) -> Pair:
    """Another certificate of the same name, and its key."""
    pair = cluster.authority.sign("localhost", names=("localhost", "127.0.0.1"), file="other")
    account.own(pair.key)
    return pair


Start = Callable[..., Bouncer]


def settings(cluster: Cluster, mode: str = "require") -> dict[str, object]:
    return {
        "client_tls_sslmode": mode,
        "client_tls_cert_file": cluster.server_pair.cert,
        "client_tls_key_file": cluster.server_pair.key,
        "client_tls_ca_file": cluster.authority.root,
    }


def shown(bouncer: Bouncer, *keys: str) -> list[str | None]:
    with console(bouncer) as connection:
        rows = {row[0]: row[1] for row in connection.execute(b"SHOW CONFIG")}
    return [rows[key] for key in keys]


def serial(bouncer: Bouncer, cluster: Cluster) -> int:
    """Of the certificate that clients are shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cluster.authority.root)
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.start_tls(context)
        assert isinstance(client.socket, ssl.SSLSocket)
        return number(client.socket.getpeercert())


def number(certificate: Any) -> int:
    return int(certificate["serialNumber"], 16)


def serial_of(pair: Pair) -> int:
    return number(ssl._ssl._test_decode_cert(str(pair.cert)))  # type: ignore[attr-defined]


# ---- SET


@pytest.mark.parametrize("order", [("key", "cert"), ("cert", "key")])
def test_a_key_and_its_certificate_one_after_the_other(
    start_either: StartBouncer, cluster: Cluster, other: Pair, order: tuple[str, str]
) -> None:
    bouncer = start_either(**settings(cluster))
    first, second = ((f"client_tls_{name}_file", str(getattr(other, name))) for name in order)
    before = serial(bouncer, cluster)
    said = say(bouncer, f"SET {first[0]} = '{first[1]}'")
    assert (said.tag, said.texts) == (f"SET {first[0]}={first[1]}", [NOT_APPLIED])
    assert shown(bouncer, first[0]) == [first[1]]
    assert serial(bouncer, cluster) == before
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    said = say(bouncer, f"SET {second[0]} = '{second[1]}'")
    assert (said.tag, said.texts) == (f"SET {second[0]}={second[1]}", [])
    assert shown(bouncer, first[0], second[0]) == [first[1], second[1]]
    assert serial(bouncer, cluster) == serial_of(other) != before
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]


WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tls_protocols": (
        ("", "all", "secure", "default", "tlsv1", "TLSv1.2", "tlsv1.2:tlsv1.3", "tlsv1.2, tlsv1.3", "all:!tlsv1.3",
         "!tlsv1.3", "tlsv1.0,tlsv1.2"),
        ("legacy", "sslv3", "tlsv1.2 tlsv1.3", "tlsv1.2,,tlsv1.3", ",", "!"),
    ),
    "tls_ciphers": (
        ("", "default", "Secure", "fast", "normal", "HIGH:!aNULL", "ALL", "nonsense:HIGH"),
        ("all", "legacy", "compat", "nonsense", "TLS_AES_128_GCM_SHA256"),
    ),
    "tls_dheparams": (("", "auto", "none", "AUTO"), ("legacy", "2048", "/none")),
    "tls_ecdhcurve": (("", "auto", "None", "prime256v1", "secp384r1"), ("nonsense", "P-256", "prime256v1:secp384r1")),
    "tls13_ciphers": (("", "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256:nonsense"), ("nonsense", "default")),
}  # fmt: skip
"""Setting -> words that are good and words that are not."""


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_words(start_either: StartBouncer, cluster: Cluster, name: str) -> None:
    """Each is kept; a NOTICE says that it is not in force."""
    bouncer, key = start_either(**settings(cluster)), f"client_{name}"
    good, bad = WORDS[name]
    applied = {}
    for word in (*good, *bad):
        said = say(bouncer, f"SET {key} = '{word}'")
        assert said.tag == f"SET {key}={word}"
        assert shown(bouncer, key) == [word]
        assert said.texts in ([], [NOT_APPLIED])
        applied[word] = not said.texts
        assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    assert applied == dict.fromkeys(good, True) | dict.fromkeys(bad, False)


@pytest.mark.parametrize("name", ["tls_protocols", "tls_ciphers"])
def test_words_of_the_servers_side(start_either: StartBouncer, name: str) -> None:
    bouncer, key = start_either(), f"server_{name}"
    good, bad = WORDS[name]
    applied = {word: not say(bouncer, f"SET {key} = '{word}'").texts for word in (*good, *bad)}
    assert applied == dict.fromkeys(good, True) | dict.fromkeys(bad, False)
    assert bouncer.sql("SELECT 1") == [(1,)]


@pytest.fixture
def files(cluster: Cluster, tmp_path: Path, other: Pair) -> dict[str, Path]:
    """Files that cannot be used, by what is the matter with them."""
    directory = cluster.directory / "unusable"
    directory.mkdir(exist_ok=True)
    made = {name: directory / name for name in ("empty", "text", "directory")}
    made["empty"].write_text("")
    made["text"].write_text("not PEM")
    made["directory"].mkdir(exist_ok=True)
    account.own(directory, *made.values())
    return made | {"missing": directory / "missing", "another": other.key, "none": Path()}


def unusable(files: dict[str, Path], what: str) -> str:
    return "" if what == "none" else str(files[what])


MATTERS = ("missing", "empty", "text", "directory", "another", "none")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["key", "cert", "ca"])
def test_files_by_set(start_either: StartBouncer, cluster: Cluster, files: dict[str, Path], name: str) -> None:
    """Authorities need not be named, since nobody has to show a certificate here."""
    bouncer, key = start_either(**settings(cluster)), f"client_tls_{name}_file"
    good = shown(bouncer, key)[0]
    for what in MATTERS:
        said = say(bouncer, f"SET {key} = '{unusable(files, what)}'")
        expected = [] if (name, what) == ("ca", "none") else [NOT_APPLIED]
        assert (said.texts, shown(bouncer, key)) == (expected, [unusable(files, what)]), what
        if bouncer.name == "pooler":
            assert all(key in (detail or "") for detail in said.details)
        assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
        said = say(bouncer, f"SET {key} = '{good}'")
        assert said.texts == []


@pytest.mark.parametrize("name", ["key", "cert", "ca"])
def test_files_of_the_servers_side_by_set(
    start_pooler: StartBouncer, cluster: Cluster, other: Pair, files: dict[str, Path], name: str
) -> None:
    """PgBouncer takes them unseen and has no server from then on."""
    pair = {"server_tls_cert_file": other.cert, "server_tls_key_file": other.key}
    bouncer = start_pooler(server_tls_sslmode="verify-ca", server_tls_ca_file=cluster.authority.root, **pair)
    key = f"server_tls_{name}_file"
    with bouncer.connect() as client:
        for what in MATTERS:
            if (name, what) in {("ca", "none"), ("key", "another")}:
                continue  # the system's authorities; the right key
            said = say(bouncer, f"SET {key} = '{unusable(files, what)}'")
            assert said.texts == [NOT_APPLIED], what
            assert key in (said.details[0] or "")
            assert condemned(bouncer) in ([], [0])
            assert client.execute("SELECT 1").fetchone() == (1,)
        bouncer.admin("RECONNECT")
        assert client.execute(SECURED).fetchone() == (True, serial_of(other))


SECURED = "SELECT ssl, client_serial FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
"""The second is the number of the certificate that PostgreSQL was shown."""


def condemned(bouncer: Bouncer) -> list[Any]:
    """close_needed of every server."""
    with console(bouncer) as connection:
        cursor = connection.execute(b"SHOW SERVERS")
        assert cursor.description
        place = [column.name for column in cursor.description].index("close_needed")
        return [row[place] for row in cursor]


def test_a_mode_without_its_files_is_not_in_force(start_either: StartBouncer) -> None:
    """It would lock everybody out."""
    bouncer = start_either()
    said = say(bouncer, "SET client_tls_sslmode = require")
    assert (said.tag, said.texts) == ("SET client_tls_sslmode=require", [NOT_APPLIED])
    assert shown(bouncer, "client_tls_sslmode") == ["require"]
    assert bouncer.sql("SELECT 1", sslmode="disable") == [(1,)]


def test_a_mode_that_comes_before_its_files(start_either: StartBouncer, cluster: Cluster, other: Pair) -> None:
    bouncer = start_either()
    changes = {"sslmode": "require", "key_file": other.key, "cert_file": other.cert}
    said = [say(bouncer, f"SET client_tls_{name} = '{value}'") for name, value in changes.items()]
    assert [answer.texts for answer in said] == [[NOT_APPLIED], [NOT_APPLIED], []]
    assert serial(bouncer, cluster) == serial_of(other)
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        bouncer.sql("SELECT 1", sslmode="disable")


def test_a_word_that_is_none_is_refused(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(**settings(cluster))
    said = say(bouncer, "SET client_tls_sslmode = nonsense")
    assert said.error is not None
    assert said.error.message_primary == "SET failed"
    assert shown(bouncer, "client_tls_sslmode") == ["require"]
    if bouncer.name == "pooler":
        assert "client_tls_sslmode" in (said.error.message_detail or "")


def test_clients_stay_when_the_mode_changes(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(**settings(cluster, "prefer"))
    with bouncer.connect(sslmode="disable") as plain, bouncer.connect(sslmode="require") as secret:
        for mode in ("require", "verify-full", "disable"):
            assert say(bouncer, f"SET client_tls_sslmode = '{mode}'").texts == []
            assert plain.execute("SELECT 1").fetchone() == (1,)
            assert secret.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            bouncer.sql("SELECT 1", sslmode="require")


# ---- RELOAD and SIGHUP

BAD = {
    "client_tls_key_file": "/none/key",
    "client_tls_cert_file": "/none/cert",
    "client_tls_ca_file": "/none/ca",
    "client_tls_ciphers": "nonsense",
    "client_tls13_ciphers": "nonsense",
    "client_tls_protocols": "sslv3",
    "client_tls_ecdhcurve": "nonsense",
    "client_tls_dheparams": "2048",
    "server_tls_ciphers": "nonsense",
    "server_tls_protocols": "sslv3",
}
BAD_SERVER_FILES = {
    "server_tls_key_file": "/none/key",
    "server_tls_cert_file": "/none/cert",
    "server_tls_ca_file": "/none/ca",
    "server_tls13_ciphers": "nonsense",
}
"""PgBouncer takes these unseen."""


def encrypted(bouncer: Bouncer) -> bool:
    """Whether a new server is spoken to over TLS."""
    say(bouncer, "RECONNECT")
    sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    return bool(bouncer.sql(sql, sslmode="require")[0][0])


@pytest.mark.parametrize("key", BAD)
def test_a_reload_with_bad_tls(start_either: StartBouncer, cluster: Cluster, key: str) -> None:
    bouncer = start_either(**settings(cluster), server_tls_sslmode="require", query_wait_timeout=33)
    before, kept = shown(bouncer, key, "query_wait_timeout"), dict(bouncer.settings)
    # Without TLS to servers PgBouncer would not even look at what is of their side.
    mode = "disable" if key.startswith("client") else "require"
    bouncer.settings |= {key: BAD[key], "server_tls_sslmode": mode, "query_wait_timeout": 77}
    bouncer.write()
    said = say(bouncer, "RELOAD")
    assert said.error is not None
    assert (said.error.sqlstate, said.error.message_primary) == ("F0000", NOT_RELOADED)
    bouncer.wait_log("TLS configuration could not be reloaded, keeping old configuration")
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    assert encrypted(bouncer)
    if bouncer.name == "pooler":
        assert shown(bouncer, key, "query_wait_timeout") == before
        assert key.replace("ecdhcurve", "ecdhecurve") in (said.error.message_detail or "")
    # Where the default is nothing at all PgBouncer does not go back to it by itself.
    bouncer.settings = kept | {key: before[0] or ""}
    bouncer.write()
    assert say(bouncer, "RELOAD").tag == "RELOAD"


@pytest.mark.parametrize("key", BAD_SERVER_FILES)
def test_a_reload_with_unusable_files_of_the_servers_side(
    start_pooler: StartBouncer, cluster: Cluster, other: Pair, key: str
) -> None:
    pair = {"server_tls_cert_file": other.cert, "server_tls_key_file": other.key}
    bouncer = start_pooler(
        **settings(cluster), server_tls_sslmode="verify-ca", server_tls_ca_file=cluster.authority.root, **pair
    )
    with bouncer.connect(sslmode="require") as client:
        client.execute("SELECT 1")
        before = shown(bouncer, key, "query_wait_timeout")
        bouncer.settings |= {key: BAD_SERVER_FILES[key], "query_wait_timeout": 77}
        bouncer.write()
        said = say(bouncer, "RELOAD")
        assert said.error is not None
        assert (said.error.sqlstate, said.error.message_primary) == ("F0000", NOT_RELOADED)
        assert key in (said.error.message_detail or "")
        assert shown(bouncer, key, "query_wait_timeout") == before
        assert condemned(bouncer) == [0]
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert encrypted(bouncer)


def test_a_signal_is_like_a_reload(start_pooler: StartBouncer, cluster: Cluster, other: Pair) -> None:
    bouncer = start_pooler(**settings(cluster), query_wait_timeout=33)
    kept = dict(bouncer.settings)
    bouncer.settings |= {"client_tls_key_file": "/none/key", "query_wait_timeout": 77}
    bouncer.write()
    bouncer.signal(signal.SIGHUP)
    bouncer.wait_log('TLS setup failed: failed to load private key file "/none/key": No such file or directory')
    bouncer.wait_log("TLS configuration could not be reloaded, keeping old configuration")
    assert shown(bouncer, "client_tls_key_file", "query_wait_timeout") == [str(cluster.server_pair.key), "33"]
    assert bouncer.sql("SELECT 1", sslmode="require") == [(1,)]
    bouncer.settings = kept | {"client_tls_key_file": other.key, "client_tls_cert_file": other.cert}
    bouncer.write()
    bouncer.signal(signal.SIGHUP)
    until(lambda: serial(bouncer, cluster) == serial_of(other), "the other certificate")


def test_a_reload_that_fails_otherwise_says_why(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(**settings(cluster))
    bouncer.settings |= {"client_tls_sslmode": "nonsense", "server_tls_sslmode": "weird"}
    bouncer.write()
    said = say(bouncer, "RELOAD")
    assert said.error is not None
    detail = said.error.message_detail or ""
    assert [key in detail for key in ("client_tls_sslmode", "server_tls_sslmode")] == [True, True]


# ---- files that are replaced in place


@pytest.fixture
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that PgBouncer can read."""
    path = cluster.directory / tmp_path_factory.mktemp("place").name
    path.mkdir()
    account.own(path)
    return path


def put(source: Path, target: Path) -> Path:
    """Into place at once, as those do who renew certificates."""
    unfinished = target.with_suffix(".new")
    shutil.copy(source, unfinished)
    account.own(unfinished)
    return unfinished.replace(target)


def test_a_client_s_certificate_in_place_waits_for_a_reload(
    start_either: StartBouncer, cluster: Cluster, other: Pair, place: Path
) -> None:
    pair = cluster.server_pair
    cert, key = put(pair.cert, place / "cert"), put(pair.key, place / "key")
    bouncer = start_either(**settings(cluster) | {"client_tls_cert_file": cert, "client_tls_key_file": key})
    with bouncer.connect(sslmode="require") as kept:
        put(other.cert, cert)
        put(other.key, key)
        assert serial(bouncer, cluster) == serial_of(pair)
        assert say(bouncer, "RELOAD").tag == "RELOAD"
        assert serial(bouncer, cluster) == serial_of(other)
        assert kept.execute("SELECT 1").fetchone() == (1,)


def test_the_servers_side_follows_its_files(
    start_either: StartBouncer, cluster: Cluster, other: Pair, place: Path
) -> None:
    pair = cluster.client_pair
    cert, key = put(pair.cert, place / "cert"), put(pair.key, place / "key")
    bouncer = start_either(server_tls_sslmode="require", server_tls_cert_file=cert, server_tls_key_file=key)
    with bouncer.connect() as client:
        assert client.execute(SECURED).fetchone() == (True, serial_of(pair))
        put(other.cert, cert)
        put(other.key, key)
        assert client.execute(SECURED).fetchone() == (True, serial_of(pair))
        say(bouncer, "RECONNECT")
        assert client.execute(SECURED).fetchone() == (True, serial_of(other))


def test_half_a_renewal_of_the_servers_side_does_no_harm(
    start_pooler: StartBouncer, cluster: Cluster, other: Pair, place: Path
) -> None:
    """PgBouncer would have no server until the key has come."""
    pair = cluster.client_pair
    cert, key = put(pair.cert, place / "cert"), put(pair.key, place / "key")
    bouncer = start_pooler(server_tls_sslmode="require", server_tls_cert_file=cert, server_tls_key_file=key)
    with bouncer.connect() as client:
        client.execute("SELECT 1")
        put(other.cert, cert)
        for _ in range(2):
            say(bouncer, "RECONNECT")
            assert client.execute(SECURED).fetchone() == (True, serial_of(pair))
        assert bouncer.log.read_text().count("TLS setup failed") == 1
        put(other.key, key)
        say(bouncer, "RECONNECT")
        assert client.execute(SECURED).fetchone() == (True, serial_of(other))


@pytest.mark.slow
def test_a_start_without_the_servers_authorities(start_either: StartBouncer, cluster: Cluster, place: Path) -> None:
    """They may come later; nothing goes out unverified until then."""
    root = place / "root"
    bouncer = start_either(server_tls_sslmode="verify-ca", server_tls_ca_file=root, server_login_retry=1)
    with Stream(("127.0.0.1", bouncer.port)) as client:
        client.send(startup({"user": "postgres", "database": "app"}))
        bouncer.wait_log("TLS connect error: failed to load CA: ")
        bouncer.wait_log(r"S-\S+ app/postgres@\S+ closing because: sslreq processing failed")
        put(cluster.authority.root, root)
        client.until("Z")
    assert bouncer.sql("SELECT 1") == [(1,)]


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_authorities_that_nobody_asks(start_either: StartBouncer, mode: str) -> None:
    bouncer = start_either(server_tls_sslmode=mode, server_tls_ca_file="/none/ca")
    assert bouncer.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(mode != "disable",)]
    assert say(bouncer, "RELOAD").tag == "RELOAD"


# ---- servers that were dialled with other settings


def changes(cluster: Cluster) -> dict[str, str]:
    return {
        "server_tls_sslmode": "require",
        "server_tls_protocols": "tlsv1.2",
        "server_tls_ciphers": "HIGH",
        "server_tls_ca_file": str(cluster.authority.root),
    }


@pytest.mark.parametrize("how", ["SET", "RELOAD"])
@pytest.mark.parametrize("key", ["sslmode", "protocols", "ciphers", "ca_file"])
def test_servers_of_other_settings_are_retired(
    start_either: StartBouncer, cluster: Cluster, key: str, how: str
) -> None:
    key = f"server_tls_{key}"
    assert_retired(start_either(), key, changes(cluster)[key], how)


@pytest.mark.parametrize("how", ["SET", "RELOAD"])
def test_servers_of_other_tls13_ciphers_are_retired(start_pooler: StartBouncer, how: str) -> None:
    """PgBouncer 1.26.1 forgets these."""
    bouncer = start_pooler()
    assert_retired(bouncer, "server_tls13_ciphers", "TLS_AES_128_GCM_SHA256", how)
    cipher = "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert bouncer.sql(cipher) == [("TLS_AES_128_GCM_SHA256",)]


def assert_retired(bouncer: Bouncer, key: str, value: str, how: str) -> None:
    """An idle server at once, a busy one when it comes free; with the same settings none."""
    pid = "SELECT pg_backend_pid()"
    with bouncer.connect() as client, bouncer.connect() as busy:
        busy.execute("BEGIN")
        before = {client.execute(pid).fetchone(), busy.execute(pid).fetchone()}
        say(bouncer, "RELOAD")
        assert {client.execute(pid).fetchone(), busy.execute(pid).fetchone()} == before
        if how == "SET":
            assert say(bouncer, f"SET {key} = '{value}'").texts == []
        else:
            bouncer.settings[key] = value
            bouncer.write()
            assert say(bouncer, "RELOAD").tag == "RELOAD"
        bouncer.wait_log("closing because: database configuration changed")
        assert condemned(bouncer) == [1]
        assert busy.execute(pid).fetchone() in before
        busy.execute("COMMIT")
        assert {client.execute(pid).fetchone(), busy.execute(pid).fetchone()}.isdisjoint(before)


def test_files_replaced_in_place_retire_servers_at_a_reload(
    start_pooler: StartBouncer, cluster: Cluster, other: Pair, place: Path
) -> None:
    """PgBouncer compares their names only."""
    pair = cluster.client_pair
    cert, key = put(pair.cert, place / "cert"), put(pair.key, place / "key")
    bouncer = start_pooler(server_tls_sslmode="require", server_tls_cert_file=cert, server_tls_key_file=key)
    with bouncer.connect() as client:
        assert client.execute(SECURED).fetchone() == (True, serial_of(pair))
        put(other.cert, cert)
        put(other.key, key)
        assert say(bouncer, "RELOAD").tag == "RELOAD"
        assert client.execute(SECURED).fetchone() == (True, serial_of(other))


def test_a_client_s_settings_retire_no_server(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(**settings(cluster))
    pid = "SELECT pg_backend_pid()"
    with bouncer.connect(sslmode="require") as client:
        before = client.execute(pid).fetchone()
        say(bouncer, "SET client_tls_protocols = 'tlsv1.2'")
        assert client.execute(pid).fetchone() == before
