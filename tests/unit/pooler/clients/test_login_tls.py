"""`login` over TLS: asked for, taken directly, required, and with certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from pooler import wire
from pooler.clients.login import Admitted, Cancel
from pooler.net.channel import Channel
from tests.unit.housed import Client, House, bytes_client, client, outcome, refusal, unix_meet
from tests.unit.pairs import Contexts, run


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


def over_tls(contexts: Contexts, play: Client, *, direct: bool = False, **more: bool) -> Client:
    async def wrapped(channel: Channel) -> None:
        if not direct:
            await channel.send(wire.ssl_request())
            assert await channel.read_exactly(1) == b"S"
        context = contexts.client(**more)
        await channel.start_tls(context, server_side=False, server_hostname="localhost")
        await play(channel)

    return wrapped


def tls_house(contexts: Contexts, **settings: str) -> House:
    house = House(**settings)
    house.tls_context = contexts.server()
    house.must_use_tls = True
    return house


@pytest.mark.parametrize("direct", [False, True])
def test_login_over_tls(contexts: Contexts, direct: bool) -> None:
    house = tls_house(contexts)
    admitted = outcome(house, over_tls(contexts, client(), direct=direct))
    assert isinstance(admitted, Admitted)
    assert admitted.tls.startswith("TLSv1.3/")
    assert house.lines == [f"login attempt: db=app user=bob tls={admitted.tls} replication=no"]


def test_tls_that_is_required(contexts: Contexts) -> None:
    assert refusal(tls_house(contexts), client()).message == "SSL required"


def test_cancel_requests_need_no_tls(contexts: Contexts) -> None:
    assert outcome(tls_house(contexts), bytes_client(wire.cancel_request(bytes(8)))) == Cancel(bytes(8))


def test_direct_tls_need_not_name_the_protocol(contexts: Contexts) -> None:
    assert isinstance(outcome(tls_house(contexts), over_tls(contexts, client(), direct=True, alpn=False)), Admitted)


def test_tls_inside_tls(contexts: Contexts) -> None:
    async def again(channel: Channel) -> None:
        await channel.send(wire.ssl_request())
        await channel.read_exactly(1)

    assert refusal(tls_house(contexts), over_tls(contexts, again)).message == "SSL req inside SSL"


def test_plaintext_behind_the_request_is_an_attack(contexts: Contexts) -> None:
    injected = wire.ssl_request() + wire.startup_message({"user": "bob"})
    error = refusal(tls_house(contexts), bytes_client(injected))
    assert error.message == "received unencrypted data after SSL request"


def test_a_failed_handshake(contexts: Contexts) -> None:
    house = tls_house(contexts)
    for data in (wire.ssl_request(), b"\x16\x03\x01\x00\x05hello"):

        async def play(channel: Channel, data: bytes = data) -> None:
            await channel.send(data)
            await channel.read_exactly(1)
            await channel.send(b"\x16\x03\x01\x00\x05hello")
            await channel.read_exactly(100)

        error = refusal(house, play)
        assert (error.message, error.notify) == ("failed to accept SSL", False)
    assert all(line.startswith("TLS handshake error: handshake failed: ") for line in house.lines)


@pytest.mark.parametrize(("user", "cert", "ok"), [("bob", True, True), ("eve", True, False), ("bob", False, False)])
def test_certificates(contexts: Contexts, user: str, cert: bool, ok: bool) -> None:
    house = tls_house(contexts, auth_type="cert")
    assert house.tls_context is not None
    house.tls_context.load_verify_locations(contexts.authority.root)
    house.tls_context.verify_mode = ssl.CERT_OPTIONAL
    play = over_tls(contexts, client(user=user), cert=cert)
    if ok:
        assert isinstance(outcome(house, play), Admitted)
    else:
        assert refusal(house, play).message == "certificate authentication failed"


def test_no_tls_on_unix_sockets(contexts: Contexts, tmp_path: Path) -> None:
    async def play(channel: Channel) -> None:
        await channel.send(wire.ssl_request())
        assert await channel.read_exactly(1) == b"N"
        await client()(channel)

    assert isinstance(run(unix_meet(tls_house(contexts), play, tmp_path)), Admitted)
