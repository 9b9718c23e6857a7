"""SCRAM-SHA-256 in both roles: against RFC 7677's example, against itself, and against liars."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooler.clients.auth import StandIn
from pooler.config.users import Likeness, Secret, parse_scram
from pooler.net import derivation, scram
from pooler.net.scram import ClientExchange, Keys, ScramError, ServerExchange
from pooler.relay.engine import random_bytes
from tests.unit.pairs import run

VERIFIER = scram.make_verifier("pencil", 10)


def proof(client: ClientExchange, server_first: bytes, password: str = "pencil") -> bytes:
    """client-final-message of who knows the password."""
    salt, iterations = client.take(server_first)
    return client.final(scram.derive_keys(password, salt, iterations))


def converse(server: ServerExchange, password: str = "pencil", keys: Keys | None = None) -> None:
    client = ClientExchange()
    first = server.first(client.first())
    if keys is None:
        final = proof(client, first, password)
    else:
        client.take(first)
        final = client.final(keys)
    client.finish(server.final(final))


def test_the_example_of_rfc_7677() -> None:
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    first = b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    verifier = scram.make_verifier("pencil", 4096, base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    server = ServerExchange(verifier)
    server.binding, server.nonce = b"n,,", nonce
    server.told = b"n=user,r=rOprNGfwEbeRWgbNEkqO," + first
    proof = b"c=biws,r=" + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    assert server.final(proof) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_password_opens_its_verifier() -> None:
    server = ServerExchange(VERIFIER)
    converse(server)
    assert server.client_key is not None


def test_keys_learnt_from_a_login_open_the_same_verifier_elsewhere() -> None:
    first = ServerExchange(VERIFIER)
    converse(first)
    assert first.client_key is not None
    learnt = Keys(first.client_key, VERIFIER.server_key)
    converse(ServerExchange(VERIFIER), keys=learnt)
    other = scram.make_verifier("pencil", 10)
    with pytest.raises(ScramError, match="proof does not match"):
        converse(ServerExchange(other), keys=learnt)


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=40))
def test_any_password_opens_its_verifier(password: str) -> None:
    verifier = scram.make_verifier(password, 1)
    converse(ServerExchange(verifier), password)
    assert run(derivation.fits(password, verifier))
    assert not run(derivation.fits(password + "x", verifier))


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("plain", b"plain"),
        ("I\u00adX", b"IX"),
        ("\u2168", b"IX"),
        ("\u00a0", b" "),
        ("\u0007é", "\u0007é".encode()),
        ("\u00ad", "\u00ad".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_saslprep_and_the_passwords_it_refuses(password: str, prepared: bytes) -> None:
    assert scram.prepare(password) == prepared


def test_the_text_of_a_verifier_is_postgresqls() -> None:
    text = scram.verifier_text(VERIFIER)
    assert text.startswith("SCRAM-SHA-256$10:")
    assert parse_scram(text) == VERIFIER


def test_a_wrong_password_and_an_unknown_user_look_the_same() -> None:
    like = Likeness.of(Secret("somebody else", scram.verifier_text(VERIFIER)))
    one, again, other = StandIn("nobody", like), StandIn("nobody", like), StandIn("no one", like)
    assert one.scram is not None
    assert one.scram == again.scram
    assert other.scram is not None
    assert one.scram.salt != other.scram.salt
    assert (one.scram.iterations, len(one.scram.salt)) == (10, 16)
    complaints = []
    for verifier in (VERIFIER, one.scram):
        with pytest.raises(ScramError) as caught:
            converse(ServerExchange(verifier), "wrong")
        complaints.append(caught.value.message)
    assert complaints == ["proof does not match"] * 2


def test_secrets_show_in_no_repr() -> None:
    keys = Keys(b"ClientKey", b"ServerKey")
    assert "ClientKey" not in repr(keys)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,n=,r=\xff",
        b"n,,r=x,n=",
        b"n,a=admin,n=,r=abc",
        b"p=tls-server-end-point,,n=,r=abc",
        b"x,,n=,r=abc",
        b"n,,m=ext,n=,r=abc",
        b"n,,n=,r=abc,m=ext",
        b"n,,n=,x",
    ],
)
def test_client_first_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(ScramError):
        ServerExchange(VERIFIER).first(message)


@pytest.mark.parametrize("flag", [b"n", b"y"])
def test_channel_binding_that_the_client_can_but_was_not_offered(flag: bytes) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange()
    final = proof(client, server.first(flag + client.first()[1:]))
    if flag == b"n":
        server.final(final)
    else:
        with pytest.raises(ScramError, match="channel binding"):
            server.final(final)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c=biws", b"c=eSws"),
        (b"c=biws", b"c=!!"),
        (b"c=biws,", b""),
        (b",r=", b",r=x"),
        (b",p=", b",q="),
        (b",p=", b",p=AAAA"),
        (b",p=", b",m=x,p="),
    ],
)
def test_client_final_messages_that_are_none(old: bytes, new: bytes) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange()
    final = proof(client, server.first(client.first()))
    with pytest.raises(ScramError):
        server.final(final.replace(old, new, 1))
    assert server.client_key is None


def server_first(nonce: bytes, salt: bytes = b"c2FsdA==", iterations: bytes = b"10") -> bytes:
    return b"r=%b,s=%b,i=%b" % (nonce, salt, iterations)


@pytest.mark.parametrize("iterations", [b"0", b"-1", b"1000001", b"4294967297", b"999999999999", b"4096x", b"x", b""])
def test_iteration_counts_a_client_does_not_accept(iterations: bytes) -> None:
    """CVE-2026-6669: PgBouncer's bound, and its words."""
    client = ClientExchange()
    nonce = client.first().partition(b"r=")[2]
    with pytest.raises(ScramError, match=r"malformed SCRAM message \(invalid iteration count\)"):
        client.take(server_first(nonce + b"server", iterations=iterations))


def test_the_highest_iteration_count_a_client_accepts() -> None:
    client = ClientExchange()
    nonce = client.first().partition(b"r=")[2]
    assert client.take(server_first(nonce + b"server", iterations=b"1000000")) == (b"salt", 1_000_000)


def test_a_server_speaks_first_once() -> None:
    client = ClientExchange()
    nonce = client.first().partition(b"r=")[2]
    client.take(server_first(nonce + b"one"))
    with pytest.raises(ScramError, match="received second AuthenticationSASLContinue"):
        client.take(server_first(nonce + b"two"))


def test_nonces_and_salts_a_client_does_not_accept() -> None:
    client = ClientExchange()
    nonce = client.first().partition(b"r=")[2]
    for bad in (nonce, b"another", nonce + b"\x00"):
        with pytest.raises(ScramError, match="nonce"):
            client.take(server_first(bad))
    for salt in (b"", b"!", base64.b64encode(bytes(2000))):
        with pytest.raises(ScramError):
            client.take(server_first(nonce + b"x", salt=salt))
    for message in (b"", b"r=x", b"m=ext,r=x,s=x,i=1", b"e=other-error"):
        with pytest.raises(ScramError):
            client.take(message)


@pytest.mark.parametrize("final", [b"", b"v=", b"v=AAAA", b"e=invalid-proof", b"x=y", b"v"])
def test_a_server_that_does_not_know_us(final: bytes) -> None:
    client, server = ClientExchange(), ServerExchange(VERIFIER)
    server.final(proof(client, server.first(client.first())))
    with pytest.raises(ScramError):
        client.finish(final)


def test_the_server_proof_cannot_come_before_ours() -> None:
    with pytest.raises(ScramError):
        ClientExchange().finish(b"v=" + base64.b64encode(bytes(32)))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(one: bytes, other: bytes) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange()
    for step, data in (
        (server.first, one),
        (server.final, other),
        (client.take, one),
        (client.finish, other),
    ):
        with contextlib.suppress(ScramError):
            step(data)


@given(st.lists(st.sampled_from([b"n,,n=,r=a", b"c=biws", b"r=", b",", b"p=AAAA", b"v=", b"s=", b"i=4096", b"="])))
def test_any_attributes_are_answered_or_refused(parts: list[bytes]) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange()
    server.first(b"n,,n=,r=a")
    for step in (server.final, client.take, client.finish):
        with pytest.raises(ScramError):
            step(b"".join(parts))


def test_bytes_that_nobody_can_guess_are_given_once() -> None:
    """Of one draw of the kernel's as of several: each eight of them are others, and none are zeros."""
    drawn = [random_bytes(8) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert bytes(8) not in drawn
    assert [len(random_bytes(count)) for count in (0, 1, 18, 1024)] == [0, 1, 18, 1024]
    for count in (-1, 1025):
        with pytest.raises(ValueError, match=str(count)):
            random_bytes(count)
