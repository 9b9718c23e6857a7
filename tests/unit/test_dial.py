"""`dial` against a scripted server: each way to log in and to refuse, and servers that lie or vanish."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pooler import scram, wire
from pooler.auth import Credentials
from pooler.channel import Channel, ConnectionClosed
from pooler.dial import Address, Dialed, DialError, Target, dial, resolve, send_cancel
from pooler.kinds import SslMode
from pooler.relay import NARROW
from pooler.tcp import SocketOptions

from .pairs import Contexts, read_all, run, send_pieces

PASSWORD = "correct horse"
KEY = b"\0\0\x30\x39secret"
READY = (
    wire.authentication_ok()
    + wire.parameter_status("server_version", "18.0")
    + wire.parameter_status("TimeZone", "UTC")
    + wire.notice_response("NOTICE", "00000", "hello")
    + wire.backend_key_data(KEY)
    + wire.ready_for_query()
)
Server = Callable[[Channel], Awaitable[None]]
VERIFIER = scram.make_verifier(PASSWORD, 10)


async def with_server(server: Server, use: Callable[[Target], Awaitable[object]], **more: object) -> object:
    """What `use` returns or raises for a target at which `server` answers each connection."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    target = Target("127.0.0.1", port, "app", "bob", Credentials(PASSWORD), **more)  # type: ignore[arg-type]
    tasks: list[asyncio.Task[None]] = []

    async def answer(channel: Channel) -> None:
        try:
            await server(channel)
        except ConnectionClosed:
            return
        finally:
            channel.abort()

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            tasks.append(asyncio.create_task(answer(Channel(sock, loop))))

    accepting = asyncio.create_task(accept())
    try:
        return await use(target)
    finally:
        accepting.cancel()
        listener.close()
        await asyncio.gather(*tasks, accepting, return_exceptions=True)


async def dialed(target: Target) -> Dialed:
    result = await dial(target, loop=asyncio.get_running_loop())
    result.channel.abort()
    return result


def connect(server: Server, **more: object) -> Dialed:
    result = run(with_server(server, dialed, **more))
    assert isinstance(result, Dialed)
    return result


def failure(server: Server, **more: object) -> DialError:
    with pytest.raises(DialError) as caught:
        run(with_server(server, dialed, **more))
    return caught.value


async def stay(channel: Channel) -> None:
    """Read until the other side closes."""
    await read_all(channel)


def says(*parts: bytes, piece: int = 1 << 20) -> Server:
    """Reads the startup packet, sends `parts`, one for each message that comes."""

    async def play(channel: Channel) -> None:
        await channel.read_startup()
        for number, part in enumerate(parts):
            if number:
                await channel.read_message()
            await send_pieces(channel, part, piece)
        await stay(channel)

    return play


@pytest.mark.parametrize("piece", [1, 1000])
def test_a_server_that_trusts(piece: int) -> None:
    got = connect(says(READY, piece=piece))
    assert got.parameters == {"server_version": "18.0", "TimeZone": "UTC"}
    assert (got.pid, got.cancel_key, got.tls) == (12345, KEY, "")
    assert str(got.address).startswith("127.0.0.1:")


def test_what_the_startup_packet_asks() -> None:
    asked: list[object] = []

    async def play(channel: Channel) -> None:
        asked.append(wire.parse_startup(await channel.read_startup()))
        await channel.send(READY)
        await stay(channel)

    connect(play, parameters={"application_name": "app", "options": "-c x=y"}, replication="physical")
    assert asked == [
        wire.Startup(
            0,
            {
                "user": "bob",
                "database": "app",
                "application_name": "app",
                "options": "-c x=y",
                "replication": "yes",
            },
        )
    ]


@pytest.mark.parametrize("size", [8, 36, 260])
def test_keys_of_any_length(size: int) -> None:
    key = bytes(range(1, 5)) + b"k" * (size - 4)
    assert (
        connect(says(READY.replace(wire.backend_key_data(KEY), wire.backend_key_data(key)))).cancel_key == key
    )


def test_a_server_without_a_key() -> None:
    got = connect(says(READY.replace(wire.backend_key_data(KEY), b"")))
    assert (got.pid, got.cancel_key) == (0, b"")


# ---- proofs


async def ask(channel: Channel, request: bytes) -> bytes:
    await channel.send(request)
    kind, body = await channel.read_message()
    assert kind == b"p"
    return body


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
    ("server", "credentials"),
    [(clear_server, MD5), (clear_server, KEYS), (md5_server, KEYS), (scram_server, MD5)],
)
def test_a_secret_of_the_wrong_kind(server: Server, credentials: Credentials) -> None:
    async def use(target: Target) -> Dialed:
        return await dialed(replace(target, credentials=credentials))

    with pytest.raises(DialError) as caught:
        run(with_server(server, use))
    assert caught.value.message == "server login failed: wrong password type"
    assert caught.value.stage == "login"


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


FIRST = wire.authentication_sasl(["SCRAM-SHA-256"])


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
        (says(FIRST, FIRST), "bad packet"),
        (says(FIRST, READY), "server login failed: failed to verify server signature"),
        (says(wire.authentication_sasl_final(b"v=x")), "bad packet"),
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
        (says(b"R\xff\xff\xff\xff"), "bad packet header: '52ffffffff'"),
        (says(b"HTTP/1.1 400 Bad Request\r\n"), "bad packet header: '485454502f312e31'"),
        (says(wire.authentication_ok() + wire.parameter_status("a", "b") * 2000), "unknown pkt from server"),
    ],
)
def test_servers_that_are_none(server: Server, message: str) -> None:
    error = failure(server)
    assert error.message == message
    assert error.stage == "login"
    assert PASSWORD not in str(error)


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


# ---- connect_query


async def query_server(channel: Channel, answer: bytes) -> None:
    await channel.read_startup()
    await channel.send(READY)
    assert await channel.read_message() == (b"Q", b"set x = 1\0")
    await channel.send(answer)
    await stay(channel)


def test_connect_query() -> None:
    answer = (
        wire.row_description([("a", 25)])
        + wire.data_row(["x" * 100_000])
        + wire.parameter_status("TimeZone", "CET")
        + wire.command_complete("SELECT 1")
        + wire.ready_for_query()
    )
    got = connect(lambda channel: query_server(channel, answer), connect_query="set x = 1")
    assert got.parameters["TimeZone"] == "CET"


@pytest.mark.parametrize(
    "answer",
    [
        wire.error_response("ERROR", "42601", "syntax error") + wire.ready_for_query(),
        wire.message(b"G", b"\0\0\0"),
    ],
)
def test_a_connect_query_that_fails(answer: bytes) -> None:
    error = failure(lambda channel: query_server(channel, answer), connect_query="set x = 1")
    assert (error.message, error.stage) == ("exec_on_connect query failed", "login")


# ---- TLS


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


def tls_server(contexts: Contexts) -> Server:
    async def play(channel: Channel) -> None:
        assert wire.parse_startup(await channel.read_startup()) == wire.SSLRequest()
        await channel.send(b"S")
        await channel.start_tls(contexts.server(), server_side=True)
        await says(READY)(channel)

    return play


async def answers_ssl(channel: Channel, answer: bytes) -> None:
    await channel.read_startup()
    await channel.send(answer)
    await says(READY)(channel)


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_tls(contexts: Contexts, mode: str) -> None:
    got = connect(tls_server(contexts), sslmode=SslMode(mode), tls_context=contexts.client())
    assert got.tls.startswith("TLSv1.3/")


@pytest.mark.parametrize(("mode", "message"), [("prefer", ""), ("require", "server refused SSL")])
def test_a_server_without_tls(contexts: Contexts, mode: str, message: str) -> None:
    options = {"sslmode": SslMode(mode), "tls_context": contexts.client()}

    def server(channel: Channel) -> Awaitable[None]:
        return answers_ssl(channel, b"N")

    if message:
        assert failure(server, **options).message == message
    else:
        assert connect(server, **options).tls == ""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"E", "bad sslreq answer"),
        (wire.error_response("FATAL", "53300", "an injected error"), "bad sslreq answer"),
        (b"S" + READY, "received unencrypted data after SSL response"),
        (b"", "server conn crashed?"),
    ],
)
@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_answers_to_an_ssl_request_that_are_none(
    contexts: Contexts, mode: str, answer: bytes, message: str
) -> None:
    async def server(channel: Channel) -> None:
        await channel.read_startup()
        await channel.send(answer)
        if answer:
            await stay(channel)

    error = failure(server, sslmode=SslMode(mode), tls_context=contexts.client())
    assert (error.message, error.fields) == (message, None)


def test_a_certificate_for_another_name(contexts: Contexts) -> None:
    async def use(target: Target) -> Dialed:
        address = Address(socket.AF_INET, ("127.0.0.1", target.port))
        return await dialed(replace(target, host="db.example.com", addresses=(address,)))

    options = {"sslmode": SslMode.verify_full, "tls_context": contexts.client()}
    with pytest.raises(DialError) as caught:
        run(with_server(tls_server(contexts), use, **options))
    assert caught.value.message == "TLS startup failed"
    assert "certificate verify failed" in caught.value.detail


def test_allow_comes_back_with_tls_when_plain_is_refused(contexts: Contexts) -> None:
    refused = wire.error_response("FATAL", "28000", "no pg_hba.conf entry, no encryption")
    starts: list[object] = []

    async def server(channel: Channel) -> None:
        packet = wire.parse_startup(await channel.read_startup())
        starts.append(type(packet))
        if isinstance(packet, wire.SSLRequest):
            await channel.send(b"S")
            await channel.start_tls(contexts.server(), server_side=True)
            await says(READY)(channel)
        await channel.send(refused)

    got = connect(server, sslmode=SslMode.allow, tls_context=contexts.client())
    assert got.tls
    assert starts == [wire.Startup, wire.SSLRequest]


def test_tls_that_is_required_and_not_configured() -> None:
    assert failure(says(READY), sslmode=SslMode.require).message == "TLS startup failed"


# ---- connect and resolve


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_port_where_nobody_listens() -> None:
    target = Target("127.0.0.1", closed_port())
    with pytest.raises(DialError) as caught:
        run(dialed_later(target))
    assert (caught.value.message, caught.value.stage) == ("connect failed", "connect")
    assert caught.value.detail == f"127.0.0.1:{target.port}: Connection refused"


async def dialed_later(target: Target) -> Dialed:
    return await dialed(target)


def test_the_next_address_is_tried() -> None:
    async def use(target: Target) -> Dialed:
        addresses = tuple(
            Address(socket.AF_INET, ("127.0.0.1", port)) for port in (closed_port(), target.port)
        )
        return await dialed(replace(target, addresses=addresses))

    assert isinstance(run(with_server(says(READY), use)), Dialed)


def test_unix_sockets_speak_no_tls(tmp_path: Path, contexts: Contexts) -> None:
    async def main() -> Dialed:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / ".s.PGSQL.5432"))
            listener.listen()
            listener.setblocking(False)
            mode = SslMode.require
            target = Target(str(tmp_path), 5432, user="bob", sslmode=mode, tls_context=contexts.client())
            dialing = asyncio.create_task(dial(target, loop=loop))
            server = Channel((await loop.sock_accept(listener))[0], loop)
            packet = wire.parse_startup(await server.read_startup())
            assert packet == wire.Startup(0, {"user": "bob", "database": "bob"})
            await server.send(READY)
            got = await dialing
            got.channel.abort()
            server.abort()
            return got

    assert str(run(main()).address) == str(tmp_path / ".s.PGSQL.5432")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("/run/pg", (socket.AF_UNIX, "/run/pg/.s.PGSQL.5432")),
        ("@pg", (socket.AF_UNIX, "\0pg/.s.PGSQL.5432")),
        ("127.0.0.2", (socket.AF_INET, ("127.0.0.2", 5432))),
        ("::1", (socket.AF_INET6, ("::1", 5432, 0, 0))),
        ("fe80::1%999", (socket.AF_INET6, ("fe80::1", 5432, 0, 999))),
    ],
)
def test_addresses_that_need_no_lookup(host: str, address: tuple[int, object]) -> None:
    async def main() -> tuple[Address, ...]:
        return await resolve(host, 5432, asyncio.get_running_loop())

    assert run(main()) == (address,)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address(socket.AF_UNIX, "\0pg/.s.PGSQL.1"), "@pg/.s.PGSQL.1"),
        (Address(socket.AF_INET6, ("::1", 1, 0, 0)), "[::1]:1"),
    ],
)
def test_addresses_in_the_log(address: Address, text: str) -> None:
    assert str(address) == text


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "a..b"])
def test_names_that_lead_nowhere(host: str) -> None:
    async def main() -> None:
        await resolve(host, 5432, asyncio.get_running_loop())

    with pytest.raises(DialError) as caught:
        run(main())
    assert (caught.value.message, caught.value.stage) == ("server DNS lookup failed", "connect")


def test_localhost_is_found() -> None:
    async def main() -> tuple[Address, ...]:
        return await resolve("localhost", 5432, asyncio.get_running_loop())

    assert Address(socket.AF_INET, ("127.0.0.1", 5432)) in run(main())


def test_socket_options() -> None:
    options = SocketOptions(True, 3, 60, 10, 5000, 65536)
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        options.apply(tcp)
        options.apply(unix)
        wanted = {
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
            (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 60,
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 10,
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 5000,
        }
        assert {option: tcp.getsockopt(*option) for option in wanted} == wanted


@pytest.mark.parametrize(("asked", "got"), [(0, 2 * NARROW), (50_000, 100_000)])
def test_a_server_on_this_host_has_the_window_that_can_be_pulled(asked: int, got: int) -> None:
    """Unless a size was asked for. The kernel doubles what it is told."""

    async def use(target: Target) -> int:
        result = await dial(target, loop=asyncio.get_running_loop())
        with socket.socket(fileno=os.dup(result.channel.fileno())) as sock:
            result.channel.abort()
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    assert run(with_server(says(READY), use, socket_options=SocketOptions(socket_buffer=asked))) == got


@pytest.mark.parametrize(
    ("sockaddr", "local"),
    [(("127.0.0.1", 1), True), (("::1", 1, 0, 0), True), (("10.0.0.1", 1), False), (("fe80::1%lo", 1, 0, 1), False)],
)
def test_loopback_addresses(sockaddr: Any, local: bool) -> None:
    assert Address(socket.AF_INET if "." in sockaddr[0] else socket.AF_INET6, sockaddr).is_loopback is local
    assert not Address(socket.AF_UNIX, "/tmp/.s.PGSQL.5432").is_loopback


# ---- cancel


def test_a_cancel_request_waits_until_the_server_has_it() -> None:
    heard: list[object] = []

    async def server(channel: Channel) -> None:
        heard.append(wire.parse_startup(await channel.read_startup()))

    async def use(target: Target) -> None:
        await send_cancel(target, KEY, loop=asyncio.get_running_loop())

    run(with_server(server, use))
    assert heard == [wire.CancelRequest(KEY)]


def test_a_cancel_request_over_tls(contexts: Contexts) -> None:
    heard: list[object] = []

    async def server(channel: Channel) -> None:
        await channel.read_startup()
        await channel.send(b"S")
        await channel.start_tls(contexts.server(), server_side=True)
        heard.append(wire.parse_startup(await channel.read_startup()))

    async def use(target: Target) -> None:
        await send_cancel(target, KEY, loop=asyncio.get_running_loop())

    run(with_server(server, use, sslmode=SslMode.require, tls_context=contexts.client()))
    assert heard == [wire.CancelRequest(KEY)]


def test_a_cancel_request_that_is_answered() -> None:
    async def use(target: Target) -> None:
        await send_cancel(target, KEY, loop=asyncio.get_running_loop())

    with pytest.raises(DialError, match="failed cancel request"):
        run(with_server(says(b"what?"), use))


# ---- any server


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.sampled_from([b"", READY[:9], FIRST, wire.authentication_md5(b"salt")]),
    data=st.binary(max_size=200),
)
def test_any_bytes_end_in_a_server_or_an_error(start: bytes, data: bytes) -> None:
    async def server(channel: Channel) -> None:
        await channel.read_startup()
        await channel.send(start + data)

    assert failure(server).stage == "login"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, len(READY) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_ends_in_a_server_or_an_error(at: int, byte: int) -> None:
    data = bytearray(READY)
    data[at] = byte

    async def server(channel: Channel) -> None:
        await channel.read_startup()
        await channel.send(bytes(data))

    async def use(target: Target) -> bool:
        try:
            return bool(await dialed(target))
        except DialError as error:
            return bool(error.message)

    assert run(with_server(server, use))


def test_a_length_that_promises_more_than_comes_is_not_believed() -> None:
    huge = b"S" + struct.pack("!I", 2**31 - 1)
    assert failure(says(wire.authentication_ok() + huge)).message.startswith("bad packet header")
