"""SCRAM-SHA-256 in both roles: against RFC 7677's example, against itself, and against liars."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooler import scram
from pooler.scram import ClientExchange, Keys, ScramError, ServerExchange
from pooler.users import parse_scram

VERIFIER = scram.make_verifier("pencil", 10)


def converse(client: ClientExchange, server: ServerExchange) -> None:
    client.finish(server.final(client.final(server.first(client.first()))))


def test_the_example_of_rfc_7677() -> None:
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    first = b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    verifier = scram.make_verifier("pencil", 4096, base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    server = ServerExchange(verifier)
    server._gs2_header, server._nonce = b"n,,", nonce
    server._auth_message = b"n=user,r=rOprNGfwEbeRWgbNEkqO," + first
    proof = b"c=biws,r=" + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    assert server.final(proof) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_password_opens_its_verifier() -> None:
    server = ServerExchange(VERIFIER)
    converse(ClientExchange("pencil"), server)
    assert server.keys is not None


def test_keys_learnt_from_a_login_open_the_same_verifier_elsewhere() -> None:
    first = ServerExchange(VERIFIER)
    converse(ClientExchange("pencil"), first)
    converse(ClientExchange(keys=first.keys), ServerExchange(VERIFIER))
    other = scram.make_verifier("pencil", 10)
    with pytest.raises(ScramError, match="proof does not match"):
        converse(ClientExchange(keys=first.keys), ServerExchange(other))


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=40))
def test_any_password_opens_its_verifier(password: str) -> None:
    verifier = scram.make_verifier(password, 1)
    converse(ClientExchange(password), ServerExchange(verifier))
    assert scram.password_matches(password, verifier)


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
    mock = scram.mock_verifier(b"secret of the process", "nobody", 10)
    again = scram.mock_verifier(b"secret of the process", "nobody", 10)
    assert mock == again
    assert mock.salt != scram.mock_verifier(b"secret of the process", "somebody", 10).salt
    complaints = []
    for verifier in (VERIFIER, mock):
        with pytest.raises(ScramError) as caught:
            converse(ClientExchange("wrong"), ServerExchange(verifier))
        complaints.append(caught.value.message)
    assert complaints == ["proof does not match"] * 2


def test_secrets_show_in_no_repr() -> None:
    keys = Keys(b"ClientKey", b"ServerKey")
    assert "ClientKey" not in repr(keys)
    assert "pencil" not in repr(ClientExchange("pencil"))


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
    server = ServerExchange(VERIFIER)
    client = ClientExchange("pencil")
    first = server.first(flag + client.first()[1:])
    if flag == b"n":
        server.final(client.final(first))
    else:
        with pytest.raises(ScramError, match="channel binding"):
            server.final(client.final(first))


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
    server = ServerExchange(VERIFIER)
    client = ClientExchange("pencil")
    final = client.final(server.first(client.first()))
    with pytest.raises(ScramError):
        server.final(final.replace(old, new, 1))
    assert server.keys is None


def server_first(nonce: bytes, salt: bytes = b"c2FsdA==", iterations: bytes = b"10") -> bytes:
    return b"r=%b,s=%b,i=%b" % (nonce, salt, iterations)


@pytest.mark.parametrize("iterations", [b"0", b"-1", b"10000001", b"999999999999", b"x", b""])
def test_iteration_counts_a_client_does_not_accept(iterations: bytes) -> None:
    client = ClientExchange("pencil")
    nonce = client.first().partition(b"r=")[2]
    with pytest.raises(ScramError, match="iteration"):
        client.final(server_first(nonce + b"server", iterations=iterations))


def test_nonces_and_salts_a_client_does_not_accept() -> None:
    client = ClientExchange("pencil")
    nonce = client.first().partition(b"r=")[2]
    for bad in (nonce, b"another", nonce + b"\x00"):
        with pytest.raises(ScramError, match="nonce"):
            client.final(server_first(bad))
    for salt in (b"", b"!", base64.b64encode(bytes(2000))):
        with pytest.raises(ScramError):
            client.final(server_first(nonce + b"x", salt=salt))
    for message in (b"", b"r=x", b"m=ext,r=x,s=x,i=1", b"e=other-error"):
        with pytest.raises(ScramError):
            client.final(message)


@pytest.mark.parametrize("final", [b"", b"v=", b"v=AAAA", b"e=invalid-proof", b"x=y", b"v"])
def test_a_server_that_does_not_know_us(final: bytes) -> None:
    client, server = ClientExchange("pencil"), ServerExchange(VERIFIER)
    server.final(client.final(server.first(client.first())))
    with pytest.raises(ScramError):
        client.finish(final)


def test_the_server_proof_cannot_come_before_ours() -> None:
    with pytest.raises(ScramError):
        ClientExchange("pencil").finish(b"v=" + base64.b64encode(bytes(32)))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(one: bytes, other: bytes) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange("pencil")
    for step, data in (
        (server.first, one),
        (server.final, other),
        (client.final, one),
        (client.finish, other),
    ):
        with contextlib.suppress(ScramError):
            step(data)


@given(
    st.lists(
        st.sampled_from([b"n,,n=,r=a", b"c=biws", b"r=", b",", b"p=AAAA", b"v=", b"s=", b"i=4096", b"="])
    )
)
def test_any_attributes_are_answered_or_refused(parts: list[bytes]) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange("pencil")
    server.first(b"n,,n=,r=a")
    for step in (server.final, client.final, client.finish):
        with pytest.raises(ScramError):
            step(b"".join(parts))
