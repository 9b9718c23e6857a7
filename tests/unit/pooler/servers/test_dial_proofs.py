"""What `dial` shows to a server as a proof, and servers that ask for what they must not get."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from pooler import wire
from pooler.net import scram
from pooler.net.channel import Channel
from pooler.net.credentials import Credentials
from pooler.net.dialerror import DialError
from pooler.servers.dial import Dialed, Target, dial
from tests.unit.dialling import (
    FIRST,
    KEY,
    PASSWORD,
    READY,
    VERIFIER,
    Server,
    ask,
    dialed,
    failure,
    says,
    stay,
    with_server,
)
from tests.unit.pairs import read_all, run


async def clear_server(channel: Channel) -> None:
    await channel.read_startup()
    assert await ask(channel, wire.authentication_cleartext()) == PASSWORD.encode() + b"\0"
    await channel.send(READY)
    await stay(channel)


async def md5_server(channel: Channel) -> None:
    await channel.read_startup()
    got = await ask(channel, wire.authentication_md5(b"salt"))
    inner = hashlib.md5(f"{PASSWORD}bob".encode()).hexdigest().encode()
    assert got == b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode() + b"\0"
    await channel.send(READY)
    await stay(channel)


async def scram_server(channel: Channel) -> None:
    await channel.read_startup()
    exchange = scram.ServerExchange(VERIFIER)
    got = await ask(channel, wire.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]))
    mechanism, data = wire.read_sasl_initial_response(got)
    assert mechanism == "SCRAM-SHA-256"
    proof = await ask(channel, wire.authentication_sasl_continue(exchange.first(data)))
    try:
        last = exchange.final(proof)
    except scram.ScramError:
        await channel.send(wire.error_response("FATAL", "28P01", "password authentication failed"))
        return
    await channel.send(wire.authentication_sasl_final(last) + READY)
    await stay(channel)


MD5 = Credentials(md5="md5" + hashlib.md5(f"{PASSWORD}bob".encode()).hexdigest())
KEYS = Credentials(keys=scram.derive_keys(PASSWORD, VERIFIER.salt, VERIFIER.iterations))


@pytest.mark.parametrize(
    ("server", "credentials"),
    [
        (clear_server, Credentials(PASSWORD)),
        (md5_server, Credentials(PASSWORD)),
        (md5_server, MD5),
        (scram_server, Credentials(PASSWORD)),
        (scram_server, KEYS),
        (scram_server, KEYS.joined(MD5)),
    ],
)
def test_proofs(server: Server, credentials: Credentials) -> None:
    async def use(target: Target) -> Dialed:
        return await dialed(replace(target, credentials=credentials))

    assert isinstance(run(with_server(server, use)), Dialed)


@pytest.mark.parametrize(
    ("server", "credentials", "method"),
    [
        (clear_server, MD5, "clear-text"),
        (clear_server, KEYS, "clear-text"),
        (md5_server, KEYS, "MD5"),
        (scram_server, MD5, "SCRAM"),
    ],
)
def test_a_secret_of_the_wrong_kind(server: Server, credentials: Credentials, method: str) -> None:
    async def use(target: Target) -> Dialed:
        return await dialed(replace(target, credentials=credentials))

    with pytest.raises(DialError) as caught:
        run(with_server(server, use))
    assert caught.value.message == "server login failed: wrong password type"
    assert caught.value.stage == "login"
    assert caught.value.log == f"cannot do {method} authentication: wrong password type"
    assert (caught.value.level, caught.value.closing) == ("ERROR", "failed to answer authreq")


def test_scram_with_a_verifier_whose_keys_nobody_has_shown() -> None:
    """The log says what is missing, in PgBouncer's words."""

    async def use(target: Target) -> Dialed:
        return await dialed(replace(target, credentials=Credentials(verifier=True)))

    with pytest.raises(DialError) as caught:
        run(with_server(scram_server, use))
    assert caught.value.message == "server login failed: wrong password type"
    assert caught.value.log == (
        "cannot do SCRAM authentication: password is SCRAM secret but client authentication did not provide SCRAM keys"
    )


def test_a_wrong_password_gives_the_server_s_own_words() -> None:
    async def use(target: Target) -> Dialed:
        return await dialed(replace(target, credentials=Credentials("wrong")))

    with pytest.raises(DialError) as caught:
        run(with_server(scram_server, use))
    error = caught.value
    assert (error.message, error.sqlstate, error.stage) == (
        "password authentication failed",
        "28P01",
        "login",
    )
    assert error.fields is not None
    assert error.fields["S"] == "FATAL"


def scram_liar(*, final: bytes | None, continue_: Callable[[bytes], bytes] | None = None) -> Server:
    """Does not know the password: sends `final` for the proof."""

    async def play(channel: Channel) -> None:
        await channel.read_startup()
        _, data = wire.read_sasl_initial_response(await ask(channel, FIRST))
        nonce = data.partition(b"r=")[2]
        first = continue_(nonce) if continue_ else b"r=%bx,s=c2FsdA==,i=10" % nonce
        await ask(channel, wire.authentication_sasl_continue(first))
        await channel.send((wire.authentication_sasl_final(final) if final is not None else b"") + READY)
        await stay(channel)

    return play


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (scram_liar(final=b"v=" + b"A" * 43 + b"="), "server login failed: invalid server signature"),
        (scram_liar(final=b"nonsense"), "server login failed: failed to verify server signature"),
        (scram_liar(final=None), "server login failed: failed to verify server signature"),
        (
            scram_liar(final=b"", continue_=lambda nonce: b"r=other,s=c2FsdA==,i=10"),
            "failed to answer authreq",
        ),
        (
            scram_liar(final=b"", continue_=lambda n: b"r=%bx,s=AA==,i=99999999" % n),
            "failed to answer authreq",
        ),
        (
            says(wire.authentication_sasl(["SCRAM-SHA-512"])),
            "server login failed: none of the server's SASL authentication mechanisms are supported",
        ),
        (says(FIRST, FIRST), "failed to answer authreq"),
        (says(FIRST, wire.authentication_cleartext()), "failed to answer authreq"),
        (says(FIRST, wire.authentication_md5(b"salt")), "failed to answer authreq"),
        (says(wire.authentication_cleartext(), FIRST), "failed to answer authreq"),
        (says(*[wire.authentication_cleartext()] * 2), "failed to answer authreq"),
        (says(*[wire.authentication_md5(b"salt")] * 2), "failed to answer authreq"),
        (says(FIRST, READY), "server login failed: failed to verify server signature"),
        (says(wire.authentication_sasl_final(b"v=x")), "failed to answer authreq"),
        (says(wire.authentication_sasl_continue(b"r=x")), "failed to answer authreq"),
        (says(wire.message(b"R", b"\0\0\0\7")), "failed to answer authreq"),
        (says(wire.authentication_md5(b"sal")), "server login failed: wrong password type"),
        (says(wire.message(b"R", b"\0")), "bad packet"),
        (says(wire.ready_for_query()), "unknown pkt from server"),
        (says(wire.backend_key_data(KEY)), "unknown pkt from server"),
        (says(wire.authentication_ok() + wire.authentication_ok()), "unknown pkt from server"),
        (says(wire.authentication_ok() + wire.backend_key_data(b"short")), "bad cancel key"),
        (says(wire.authentication_ok() + wire.message(b"S", b"x")), "broken ParameterStatus packet"),
        (says(wire.authentication_ok() + wire.data_row(["x"])), "unknown pkt from server"),
        (says(wire.authentication_ok() + wire.ready_for_query(b"T")), "bad packet"),
        (says(b"R\xff\xff\xff\xff"), "bad pkt header"),
        (says(b"R\x80\0\0\0"), "bad pkt header"),
        (says(b"HTTP/1.1 400 Bad Request\r\n"), "bad pkt header"),
        (says(wire.authentication_ok() + wire.parameter_status("a", "b") * 2000), "bad packet"),
        (says(wire.notice_response("NOTICE", "00000", "hello") * 2001), "bad packet"),
        (says(wire.authentication_ok() + wire.parameter_status("a", "b" * 800_000) * 3), "bad packet"),
    ],
)
def test_servers_that_are_none(server: Server, message: str) -> None:
    error = failure(server)
    assert error.message == message
    assert error.stage == "login"
    assert PASSWORD not in str(error)


ITERATIONS = "malformed SCRAM message (invalid iteration count)"


@pytest.mark.parametrize(
    ("server", "detail"),
    [
        (scram_liar(final=None, continue_=lambda n: b"r=%bx,s=AA==,i=1000001" % n), ITERATIONS),
        (scram_liar(final=None, continue_=lambda n: b"r=%bx,s=AA==,i=4294971392" % n), ITERATIONS),
        (scram_liar(final=None, continue_=lambda n: b"s=AA==,i=4096"), "malformed server-first-message"),
        (says(FIRST, FIRST), "protocol error: duplicate AuthenticationSASL message from server"),
        (
            says(wire.authentication_sasl_final(b"v=x")),
            "protocol error: AuthenticationSASLFinal without prior AuthenticationSASLContinue",
        ),
        (
            says(wire.authentication_sasl_continue(b"r=x")),
            "protocol error: AuthenticationSASLContinue without prior AuthenticationSASL",
        ),
        *(
            (says(wire.message(b"R", struct.pack("!i", code))), f"unknown/unsupported auth method: {code % 2**32}")
            for code in (1, 2, 4, 6, 7, 8, 9, 13, 99, -1)
        ),
    ],
)
def test_authentication_that_is_none(server: Server, detail: str) -> None:
    """In PgBouncer's words, but for one."""
    error = failure(server)
    assert (error.message, error.detail) == ("failed to answer authreq", detail)


def test_a_server_gets_one_proof() -> None:
    """Each could cost a million iterations; and who has begun with SCRAM does not get the password itself."""
    got: list[bytes] = []

    async def greedy(channel: Channel) -> None:
        await channel.read_startup()
        _, data = wire.read_sasl_initial_response(await ask(channel, FIRST))
        nonce = data.partition(b"r=")[2]
        for number in range(3):
            got.append(await ask(channel, wire.authentication_sasl_continue(b"r=%b%d,s=AA==,i=9" % (nonce, number))))

    error = failure(greedy)
    assert error.detail == "received second AuthenticationSASLContinue"
    assert len(got) == 1


@pytest.mark.parametrize("second", [wire.authentication_cleartext(), wire.authentication_md5(b"salt")])
def test_no_weaker_proof_after_a_stronger_one(second: bytes) -> None:
    got: list[bytes] = []

    async def greedy(channel: Channel) -> None:
        await channel.read_startup()
        await ask(channel, FIRST)
        got.append(await ask(channel, second))

    assert "after 10" in failure(greedy).detail
    assert not got


def test_a_long_complaint_is_cut() -> None:
    error = failure(says(wire.error_response("FATAL", "28000", "x" * 100_000)))
    assert error.message == "x" * 2000


@pytest.mark.parametrize("cut", range(0, len(READY), 7))
def test_a_server_that_vanishes(cut: int) -> None:
    async def play(channel: Channel) -> None:
        await channel.read_startup()
        await channel.send(READY[:cut])

    assert failure(play).message == "server conn crashed?"


def test_an_error_gives_all_its_fields() -> None:
    error = failure(says(wire.error_response("FATAL", "53300", "too many clients", detail="d", hint="h")))
    assert (error.message, error.sqlstate) == ("too many clients", "53300")
    assert error.fields == {
        "S": "FATAL", "V": "FATAL", "C": "53300", "M": "too many clients", "D": "d", "H": "h",
    }  # fmt: skip


def test_a_dial_that_is_given_up_leaves_no_socket() -> None:
    seen: list[bytes] = []

    async def silent(channel: Channel) -> None:
        await channel.read_startup()
        seen.append(await read_all(channel))

    async def use(target: Target) -> None:
        task = asyncio.create_task(dial(target, loop=asyncio.get_running_loop()))
        while not task.done() and not seen:
            await asyncio.sleep(0.001)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(with_server(silent, use))
