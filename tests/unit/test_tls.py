"""TLS contexts from settings: modes, versions, ciphers, certificates, and what is wrong said by setting."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from pooler import tls
from pooler.channel import Channel, TlsFailed
from pooler.config import compose
from pooler.settings import Settings
from pooler.tls import TlsProblem

from .pairs import Contexts, channels, run


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


async def shake(server: Settings, client: Settings, name: str = "localhost") -> tuple[Channel, Channel]:
    """(our side as a client, our side as a server); raises what either side raises first."""
    one, other = channels()
    accepting, dialling = tls.client_context(server), tls.server_context(client)
    assert accepting is not None
    assert dialling is not None
    results = await asyncio.gather(
        one.start_tls(dialling, server_side=False, server_hostname=name),
        other.start_tls(accepting, server_side=True),
        return_exceptions=True,
    )
    # A TLS 1.3 client is done before the server has judged its certificate.
    if not any(results):
        await asyncio.gather(one.send(b"ping"), other.read_exactly(4))
    for channel in (one, other):
        channel.abort()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return one, other


def test_disabled_is_no_context() -> None:
    assert tls.client_context(of()) is None
    assert tls.server_context(of(server_tls_sslmode="disable")) is None
    assert tls.server_context(of()) is not None


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_verify_full_by_name_and_by_address(server: Settings, client: Settings, name: str) -> None:
    run(shake(server, client, name))


def test_verify_full_refuses_another_name_and_verify_ca_does_not(server: Settings, client: Settings) -> None:
    with pytest.raises(TlsFailed, match="certificate verify failed"):
        run(shake(server, client, "db.example.com"))
    run(shake(server, replace(client, server_tls_sslmode=client.server_tls_sslmode.verify_ca), "other"))


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_weaker_modes_verify_nothing(server: Settings, mode: str) -> None:
    run(shake(server, of(server_tls_sslmode=mode), "whatever"))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_client_certificates(server: Settings, client: Settings, contexts: Contexts, mode: str) -> None:
    strict = replace(server, client_tls_sslmode=server.client_tls_sslmode.__class__(mode))
    pair = contexts.user_pair
    with_pair = replace(client, server_tls_cert_file=str(pair.cert), server_tls_key_file=str(pair.key))
    run(shake(strict, with_pair))
    with pytest.raises(TlsFailed, match="peer did not return a certificate"):
        run(shake(strict, client))


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("secure", {"tlsv1.2", "tlsv1.3"}),
        ("default", {"tlsv1.2", "tlsv1.3"}),
        ("all", set(tls.VERSIONS)),
        ("legacy", set(tls.VERSIONS)),
        ("tlsv1.2", {"tlsv1.2"}),
        ("tlsv1.2,tlsv1.3", {"tlsv1.2", "tlsv1.3"}),
        ("TLSv1.3 : tlsv1.2", {"tlsv1.2", "tlsv1.3"}),
        ("all:!tlsv1.0", {"tlsv1.1", "tlsv1.2", "tlsv1.3"}),
        ("!tlsv1.3", {"tlsv1.0", "tlsv1.1", "tlsv1.2"}),
    ],
)
def test_protocols(text: str, versions: set[str]) -> None:
    assert tls.protocols(text) == versions


@pytest.mark.parametrize("text", ["sslv3", "", "secure,!tlsv1.2,!tlsv1.3", "!"])
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


def test_a_list_with_a_gap(server: Settings) -> None:
    context = tls.client_context(replace(server, client_tls_protocols="tlsv1.1,tlsv1.3"))
    assert context is not None
    assert context.options & ssl.OP_NO_TLSv1_2


@pytest.mark.parametrize("word", ["default", "secure", "fast", "normal", "all", "HIGH:!aNULL"])
def test_words_for_ciphers(server: Settings, client: Settings, word: str) -> None:
    run(shake(replace(server, client_tls_ciphers=word), client))


def test_no_session_tickets_and_no_renegotiation(server: Settings) -> None:
    context = tls.client_context(server)
    assert context is not None
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"client_tls_protocols": "sslv3"}, "invalid client_tls_protocols: unknown TLS version sslv3"),
        ({"client_tls_ciphers": "nonsense"}, "invalid client_tls_ciphers: "),
        ({"client_tls_ca_file": "/none/ca"}, "invalid client_tls_ca_file: No such file or directory"),
        ({"client_tls_cert_file": "/none/c"}, "invalid client_tls_cert_file: No such file or directory"),
        ({"client_tls_key_file": "/none/k"}, "invalid client_tls_key_file: No such file or directory"),
        ({"client_tls_dheparams": "/none/dh"}, "invalid client_tls_dheparams: No such file or directory"),
        ({"client_tls_ecdhcurve": "nonsense"}, "invalid client_tls_ecdhcurve: "),
        (
            {"client_tls_key_file": ""},
            "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be",
        ),
    ],
)
def test_what_is_wrong_is_said_by_setting(server: Settings, change: dict[str, str], message: str) -> None:
    with pytest.raises(TlsProblem) as caught:
        tls.client_context(replace(server, **change))  # type: ignore[arg-type]
    assert caught.value.message.startswith(message)


def test_a_key_of_another_certificate(server: Settings, contexts: Contexts) -> None:
    with pytest.raises(TlsProblem, match="invalid client_tls_key_file: "):
        tls.client_context(replace(server, client_tls_key_file=str(contexts.user_pair.key)))


def test_a_file_that_is_no_certificate(client: Settings, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not PEM")
    with pytest.raises(TlsProblem, match="invalid server_tls_ca_file: "):
        tls.server_context(replace(client, server_tls_ca_file=str(tmp_path / "text")))


def test_what_python_cannot_do_is_said(client: Settings) -> None:
    assert tls.warnings(client) == ()
    asked = replace(client, client_tls13_ciphers="TLS_AES_128_GCM_SHA256")
    able = hasattr(ssl.SSLContext, "set_ciphersuites")
    assert bool(tls.warnings(asked)) is not able


@pytest.mark.parametrize(("word", "works"), [("auto", True), ("none", True), ("prime256v1", True)])
def test_curves(server: Settings, word: str, works: bool) -> None:
    assert (tls.client_context(replace(server, client_tls_ecdhcurve=word)) is not None) is works
