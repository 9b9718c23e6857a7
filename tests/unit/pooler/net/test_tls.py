"""TLS contexts from settings: modes, versions, ciphers, certificates, and what is wrong said by setting."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from pooler.config.settings import Settings
from pooler.config.whole import compose
from pooler.net import tls
from pooler.net.channel import TlsFailed
from pooler.net.tls import TlsProblem
from tests.fixtures.authority import Pair
from tests.unit.pairs import Contexts, channels, run


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


def of(**texts: str) -> Settings:
    return compose(texts).settings


@pytest.fixture(scope="module")
def server(contexts: Contexts) -> Settings:
    """We take clients."""
    return of(
        client_tls_sslmode="require",
        client_tls_cert_file=str(contexts.pair.cert),
        client_tls_key_file=str(contexts.pair.key),
        client_tls_ca_file=str(contexts.authority.root),
    )


@pytest.fixture(scope="module")
def client(contexts: Contexts) -> Settings:
    """We dial servers."""
    return of(server_tls_sslmode="verify-full", server_tls_ca_file=str(contexts.authority.root))


async def shake(server: Settings, client: Settings, name: str = "localhost", *, by_name: bool = False) -> str:
    """A handshake of our side as a client with our side as a server; what was agreed on. Raises what either side raises
    first."""
    one, other = channels()
    accepting, dialling = tls.client_context(server), tls.server_context(client)
    assert accepting is not None
    assert dialling is not None
    results = await asyncio.gather(
        one.start_tls(dialling, server_side=False, server_hostname=name, verify_name=by_name),
        other.start_tls(accepting, server_side=True),
        return_exceptions=True,
    )
    try:
        # A TLS 1.3 client is done before the server has judged its certificate.
        if not any(results):
            await asyncio.gather(one.send(b"ping"), other.read_exactly(4))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return other.tls
    finally:
        for channel in (one, other):
            channel.abort()


def test_disabled_is_no_context() -> None:
    assert tls.client_context(of()) is None
    assert tls.server_context(of(server_tls_sslmode="disable")) is None
    assert tls.server_context(of()) is not None


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_by_name_and_by_address(server: Settings, client: Settings, name: str) -> None:
    run(shake(server, client, name, by_name=True))


def test_another_name_is_refused_where_names_count(server: Settings, client: Settings) -> None:
    with pytest.raises(TlsFailed) as caught:
        run(shake(server, client, "db.example.com", by_name=True))
    assert caught.value.message == "name `db.example.com' not present in server certificate"
    run(shake(server, client, "db.example.com"))


def test_a_name_that_nobody_vouches_for_is_none(server: Settings) -> None:
    """Without verification there is no certificate to look at."""
    with pytest.raises(TlsFailed, match="not present"):
        run(shake(server, of(server_tls_sslmode="require"), by_name=True))


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_weaker_modes_verify_nothing(server: Settings, mode: str) -> None:
    run(shake(server, of(server_tls_sslmode=mode), "whatever"))


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_client_certificates(
    server: Settings, client: Settings, contexts: Contexts, tmp_path: Path, mode: str
) -> None:
    """Asked for in every mode, judged when given, needed in the last two."""
    strict = replace(server, client_tls_sslmode=server.client_tls_sslmode.__class__(mode))
    known, stranger = contexts.user_pair, Contexts(tmp_path).user_pair

    def with_pair(pair: Pair) -> Settings:
        return replace(client, server_tls_cert_file=str(pair.cert), server_tls_key_file=str(pair.key))

    run(shake(strict, with_pair(known)))
    with pytest.raises(TlsFailed, match="certificate verify failed"):
        run(shake(strict, with_pair(stranger)))
    if mode.startswith("verify"):
        with pytest.raises(TlsFailed, match="peer did not return a certificate"):
            run(shake(strict, client))
    else:
        run(shake(strict, client))


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("secure", {"tlsv1.2", "tlsv1.3"}),
        ("default", {"tlsv1.2", "tlsv1.3"}),
        ("all", set(tls.VERSIONS)),
        ("tlsv1", set(tls.VERSIONS)),
        ("", {"tlsv1.2", "tlsv1.3"}),
        (" tlsv1.2, \ttlsv1.3", {"tlsv1.2", "tlsv1.3"}),
        ("tlsv1.2", {"tlsv1.2"}),
        ("tlsv1.2,tlsv1.3", {"tlsv1.2", "tlsv1.3"}),
        ("TLSv1.3: tlsv1.2", {"tlsv1.2", "tlsv1.3"}),
        ("all:!tlsv1.0", {"tlsv1.1", "tlsv1.2", "tlsv1.3"}),
        ("!tlsv1.3", {"tlsv1.0", "tlsv1.1", "tlsv1.2"}),
    ],
)
def test_protocols(text: str, versions: set[str]) -> None:
    assert tls.protocols(text) == versions


NO_PROTOCOLS = ("sslv3", "legacy", "secure,!tlsv1.2,!tlsv1.3", "!", ",", "tlsv1.2,,tlsv1.3", "tlsv1.2 tlsv1.3")


@pytest.mark.parametrize("text", NO_PROTOCOLS)
def test_protocols_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="TLS version"):
        tls.protocols(text)


def test_the_version_is_the_one_both_allow(server: Settings, client: Settings) -> None:
    async def main() -> str:
        accepting = tls.client_context(replace(server, client_tls_protocols="tlsv1.2"))
        dialling = tls.server_context(client)
        assert accepting is not None
        assert dialling is not None
        one, other = channels()
        await asyncio.gather(
            one.start_tls(dialling, server_side=False, server_hostname="localhost"),
            other.start_tls(accepting, server_side=True),
        )
        version = other.tls
        one.abort()
        other.abort()
        return version

    assert run(main()).startswith("TLSv1.2/")
    newest = replace(client, server_tls_protocols="tlsv1.3")
    with pytest.raises(TlsFailed):
        run(shake(replace(server, client_tls_protocols="tlsv1.2"), newest))


@pytest.mark.parametrize(
    ("chosen", "offered"),
    [
        ("tlsv1.1,tlsv1.3", ("tlsv1.3", "tlsv1.3")),
        ("tlsv1.0,tlsv1.2,tlsv1.3", ("tlsv1.2", "tlsv1.3")),
        ("all", ("tlsv1.0", "tlsv1.3")),
        ("tlsv1.1", ("tlsv1.1", "tlsv1.1")),
    ],
)
def test_what_is_older_than_a_gap_is_left_out(chosen: str, offered: tuple[str, str]) -> None:
    assert tls.span(tls.protocols(chosen)) == offered


def test_a_list_with_a_gap(server: Settings, client: Settings) -> None:
    """OpenSSL takes the older end of such a list, which no cipher of today can be used with."""
    assert run(shake(replace(server, client_tls_protocols="tlsv1.0,tlsv1.2"), client)).startswith("TLSv1.2/")


@pytest.mark.parametrize("word", ["", "default", "Secure", "fast", "normal", "ALL", "HIGH:!aNULL"])
def test_words_for_ciphers(server: Settings, client: Settings, word: str) -> None:
    run(shake(replace(server, client_tls_ciphers=word), client))


def test_no_renegotiation(server: Settings) -> None:
    context = tls.client_context(server)
    assert context is not None
    assert context.options & ssl.OP_NO_RENEGOTIATION


TO_ALLOW = "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"client_tls_protocols": "sslv3"}, "invalid client_tls_protocols: sslv3"),
        ({"client_tls_ciphers": "nonsense"}, "invalid client_tls_ciphers: nonsense"),
        ({"client_tls_ciphers": "all"}, "invalid client_tls_ciphers: all"),
        ({"client_tls_dheparams": "/none/dh"}, "invalid client_tls_dheparams: /none/dh"),
        ({"client_tls_dheparams": "legacy"}, "invalid client_tls_dheparams: legacy"),
        ({"client_tls_ecdhcurve": "nonsense"}, "invalid client_tls_ecdhecurve: nonsense"),
        ({"client_tls_key_file": ""}, TO_ALLOW),
        ({"client_tls_cert_file": ""}, TO_ALLOW),
    ],
)
def test_what_is_wrong_is_said_by_setting(server: Settings, change: dict[str, str], message: str) -> None:
    with pytest.raises(TlsProblem) as caught:
        tls.client_context(replace(server, **change))  # type: ignore[arg-type]
    assert (caught.value.message, caught.value.log) == (message, message)


BAD_FILES = {
    "missing": "No such file or directory",
    "directory": "Is a directory",
    "empty": None,
    "text": None,
}
"""-> the reason, where it is the same for every kind of file."""


@pytest.fixture
def bad(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / str(request.param)
    if request.param == "directory":
        path.mkdir()
    elif request.param != "missing":
        path.write_text("" if request.param == "empty" else "not PEM")
    return path


@pytest.mark.parametrize("bad", BAD_FILES, indirect=True)
@pytest.mark.parametrize(
    ("name", "failed", "why"),
    [
        ("ca_file", "failed to load CA", "no certificate or crl found"),
        ("cert_file", 'failed to load certificate file "{}"', "there is no certificate in it"),
        ("key_file", 'failed to load private key file "{}"', "there is no private key in it"),
    ],
)
@pytest.mark.parametrize("side", ["client", "server"])
def test_files_that_cannot_be_used(
    server: Settings, client: Settings, contexts: Contexts, bad: Path, side: str, name: str, failed: str, why: str
) -> None:
    pair, key = contexts.user_pair, f"{side}_tls_{name}"
    settings = replace(client, server_tls_cert_file=str(pair.cert), server_tls_key_file=str(pair.key))
    if side == "client":
        settings = server
    settings = replace(settings, **{key: str(bad)})  # type: ignore[arg-type]
    with pytest.raises(TlsProblem) as caught:
        tls.renew(settings)
    message = f"{failed.format(bad)}: {BAD_FILES[bad.name] or why} ({key})"
    assert (caught.value.message, caught.value.log) == (message, f"TLS setup failed: {message}")


def test_a_key_of_another_certificate(server: Settings, contexts: Contexts) -> None:
    key = contexts.user_pair.key
    with pytest.raises(TlsProblem) as caught:
        tls.client_context(replace(server, client_tls_key_file=str(key)))
    expected = f'failed to load private key file "{key}": key values mismatch (client_tls_key_file)'
    assert caught.value.message == expected


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    server: Settings, contexts: Contexts, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = contexts.authority.sign("localhost", file="encrypted", password="secret words")
    with pytest.raises(TlsProblem, match="the key is encrypted, and nobody is here to ask for its password"):
        tls.client_context(replace(server, client_tls_cert_file=str(pair.cert), client_tls_key_file=str(pair.key)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["cert_file", "key_file"])
def test_half_a_pair(client: Settings, contexts: Contexts, missing: str) -> None:
    """Of the clients' side, which cannot do without, `tls_problems` says it."""
    pair = {"cert_file": contexts.user_pair.cert, "key_file": contexts.user_pair.key, missing: ""}
    settings = replace(client, **{f"server_tls_{name}": str(path) for name, path in pair.items()})  # type: ignore[arg-type]
    with pytest.raises(TlsProblem, match=f"private/public key mismatch: server_tls_{missing} is not set"):
        tls.renew(settings)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_authorities_are_not_read_where_nothing_is_verified(mode: str) -> None:
    tls.renew(of(server_tls_sslmode=mode, server_tls_ca_file="/none/ca"))


@pytest.mark.parametrize("word", ["auto", "AUTO", "none", "", "prime256v1", "secp384r1"])
def test_curves(server: Settings, client: Settings, word: str) -> None:
    run(shake(replace(server, client_tls_ecdhcurve=word), client))


@pytest.mark.parametrize("word", ["auto", "None", ""])
def test_dheparams(server: Settings, client: Settings, word: str) -> None:
    run(shake(replace(server, client_tls_dheparams=word), client))


# ---- TLS 1.3 ciphers


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"])
def test_tls13_ciphers_are_in_force(server: Settings, client: Settings, side: str, suite: str) -> None:
    """Which Python's ssl cannot set."""
    settings = {"client": server, "server": client}
    settings[side] = replace(settings[side], **{f"{side}_tls13_ciphers": suite})  # type: ignore[arg-type]
    assert run(shake(settings["client"], settings["server"])) == f"TLSv1.3/{suite}"


def test_a_list_of_tls13_ciphers(server: Settings, client: Settings) -> None:
    """One that nobody knows is passed over, as in PgBouncer."""
    asked = replace(server, client_tls13_ciphers="nonsense:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256")
    only = replace(client, server_tls13_ciphers="TLS_CHACHA20_POLY1305_SHA256")
    assert run(shake(asked, only)) == "TLSv1.3/TLS_CHACHA20_POLY1305_SHA256"
    with pytest.raises(TlsFailed):
        run(shake(asked, replace(client, server_tls13_ciphers="TLS_AES_256_GCM_SHA384")))


@pytest.mark.parametrize("side", ["client", "server"])
def test_tls13_ciphers_that_are_none(server: Settings, side: str) -> None:
    with pytest.raises(TlsProblem) as caught:
        tls.renew(replace(server, **{f"{side}_tls13_ciphers": "nonsense"}))  # type: ignore[arg-type]
    words = "failed to set the TLSv1.3 cipher suites: no such cipher"
    assert caught.value.log == f"TLS setup failed: {words} ({side}_tls13_ciphers)"


# ---- ALPN


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ([], None),
        (["postgresql"], "postgresql"),
        (["h2", "postgresql", "http/1.1"], "postgresql"),
        (["h2"], ""),
        (["postgresql2"], ""),
        (["postgresq"], ""),
        (["x" * 255, "\npostgresql"], ""),
    ],
)
def test_who_names_protocols_names_ours(
    server: Settings, contexts: Contexts, named: list[str], chosen: str | None
) -> None:
    accepting = tls.client_context(server)
    assert accepting is not None
    dialling = contexts.client(alpn=False)
    if named:
        dialling.set_alpn_protocols(named)
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = accepting.wrap_bio(one, other, server_side=True)
    theirs = dialling.wrap_bio(other, one, server_hostname="localhost")
    if chosen == "":
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            shaken(theirs, ours)
    else:
        shaken(theirs, ours)
        assert theirs.selected_alpn_protocol() == ours.selected_alpn_protocol() == chosen


def shaken(*ends: ssl.SSLObject) -> None:
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


# ---- what is in force


@pytest.fixture
def live(contexts: Contexts, tmp_path: Path) -> Settings:
    """Files of the servers' side that may be replaced."""
    pair = contexts.user_pair
    for name, path in (("ca", contexts.authority.root), ("cert", pair.cert), ("key", pair.key)):
        (tmp_path / name).write_bytes(path.read_bytes())
    return of(
        server_tls_sslmode="verify-ca",
        server_tls_ca_file=str(tmp_path / "ca"),
        server_tls_cert_file=str(tmp_path / "cert"),
        server_tls_key_file=str(tmp_path / "key"),
    )


def test_files_replaced_in_place_count_for_the_next_server(live: Settings, contexts: Contexts, tmp_path: Path) -> None:
    made = tls.ServerTls(live)
    first = made.context
    assert made.look() == ""
    assert made.context is first
    other = contexts.authority.sign("bob", file="renewed")
    # One after the other: in between they are no pair, and what was made before goes on.
    (tmp_path / "cert").write_bytes(other.cert.read_bytes())
    assert "key values mismatch" in made.look()
    assert made.look() == ""
    assert (made.context, made.problem) == (first, "")
    (tmp_path / "key").write_bytes(other.key.read_bytes())
    assert made.look() == ""
    assert made.context is not None
    assert made.context is not first


def test_a_start_does_without_the_files_of_the_servers_side(live: Settings, contexts: Contexts, tmp_path: Path) -> None:
    (tmp_path / "ca").unlink()
    made = tls.start(live).server
    assert made.context is None
    assert made.problem.startswith("failed to load CA: No such file")
    (tmp_path / "ca").write_bytes(contexts.authority.root.read_bytes())
    assert made.look() == ""
    assert made.context is not None
    assert made.problem == ""


@pytest.mark.parametrize("change", [{"server_tls_protocols": "sslv3"}, {"server_tls_ciphers": "nonsense"}])
def test_a_start_does_not_do_without_sense(live: Settings, change: dict[str, str]) -> None:
    with pytest.raises(TlsProblem):
        tls.start(replace(live, **change))  # type: ignore[arg-type]


def test_what_makes_servers_outdated(live: Settings, contexts: Contexts, tmp_path: Path) -> None:
    before = tls.ServerTls(live).facts
    assert tls.ServerTls(live).facts == before
    for change in (
        {"server_tls_sslmode": live.server_tls_sslmode.verify_full},
        {"server_tls_protocols": "tlsv1.3"},
        {"server_tls_ciphers": "HIGH"},
        {"server_tls13_ciphers": "TLS_AES_128_GCM_SHA256"},
        {"server_tls_ca_file": str(contexts.authority.root)},
    ):
        assert tls.ServerTls(replace(live, **change)).facts != before, change
    assert tls.ServerTls(replace(live, client_tls_protocols="tlsv1.3")).facts == before
    (tmp_path / "ca").write_bytes(contexts.authority.root.read_bytes() * 2)
    assert tls.ServerTls(live).facts != before


def test_without_tls_nothing_of_it_makes_servers_outdated() -> None:
    off = of(server_tls_sslmode="disable")
    assert tls.ServerTls(off).facts == tls.ServerTls(replace(off, server_tls_ciphers="HIGH")).facts
