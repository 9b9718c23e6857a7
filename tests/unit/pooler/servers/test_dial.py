"""`dial` against a scripted server: each way to log in and to refuse, and servers that lie or vanish."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pooler import wire
from pooler.config.kinds import SslMode
from pooler.net.address import Address
from pooler.net.channel import Channel
from pooler.net.dialerror import DialError
from pooler.net.tcp import SocketOptions
from pooler.pools.connection import Replication
from pooler.relay import NARROW
from pooler.servers.dial import Dialed, Target, dial, resolve, send_cancel
from tests.unit.dialling import FIRST, KEY, READY, Server, connect, dialed, failure, says, stay, with_server
from tests.unit.pairs import Contexts, read_all, run


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

    connect(play, parameters={"application_name": "app", "options": "-c x=y"}, replication=Replication.PHYSICAL)
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
    assert connect(says(READY.replace(wire.backend_key_data(KEY), wire.backend_key_data(key)))).cancel_key == key


def test_a_server_without_a_key() -> None:
    got = connect(says(READY.replace(wire.backend_key_data(KEY), b"")))
    assert (got.pid, got.cancel_key) == (0, b"")


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


def test_a_connect_query_that_fails_stops_nothing() -> None:
    answer = wire.error_response("ERROR", "42601", "syntax error") + wire.ready_for_query()
    got = connect(lambda channel: query_server(channel, answer), connect_query="set x = 1")
    assert got.complaint == "ERROR: syntax error"


@pytest.mark.parametrize(
    "answer",
    [
        wire.message(b"G", b"\0\0\0"),
        wire.command_complete("BEGIN") + wire.ready_for_query(b"T"),
        wire.error_response("ERROR", "42601", "syntax error") + wire.ready_for_query(b"E"),
    ],
)
def test_a_connect_query_that_cannot_be_used(answer: bytes) -> None:
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


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_tls(contexts: Contexts, mode: str) -> None:
    got = connect(tls_server(contexts), sslmode=SslMode(mode), tls_context=contexts.client())
    assert got.tls.startswith("TLSv1.3/")


@pytest.mark.parametrize(("mode", "message"), [("allow", ""), ("prefer", ""), ("require", "server refused SSL")])
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
        (b"N" + READY, "received unencrypted data after SSL response"),
        (b"", "server conn crashed?"),
    ],
)
@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_answers_to_an_ssl_request_that_are_none(contexts: Contexts, mode: str, answer: bytes, message: str) -> None:
    async def server(channel: Channel) -> None:
        await channel.read_startup()
        await channel.send(answer)
        if answer:
            await stay(channel)

    error = failure(server, sslmode=SslMode(mode), tls_context=contexts.client())
    assert (error.message, error.fields) == (message, None)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_certificate_for_another_name(contexts: Contexts, mode: str) -> None:
    async def use(target: Target) -> Dialed:
        address = Address(socket.AF_INET, ("127.0.0.1", target.port))
        return await dialed(replace(target, host="db.example.com", addresses=(address,)))

    context = contexts.client()
    context.check_hostname = False
    work = with_server(tls_server(contexts), use, sslmode=SslMode(mode), tls_context=context)
    if mode == "verify-ca":
        assert run(work).tls
        return
    with pytest.raises(DialError) as caught:
        run(work)
    assert caught.value.message == "server conn crashed?"
    assert str(caught.value) == "TLS handshake error: name `db.example.com' not present in server certificate"


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_tls_that_is_wanted_and_cannot_be_had(mode: str) -> None:
    """Nothing is sent in plain that was meant to be encrypted."""
    heard: list[bytes] = []

    async def server(channel: Channel) -> None:
        heard.append(await channel.read_startup())
        await channel.send(b"S")
        heard.append(await read_all(channel))

    error = failure(server, sslmode=SslMode(mode), tls_problem="no key")
    assert (error.message, str(error)) == ("sslreq processing failed", "TLS connect error: no key")
    assert heard == [wire.ssl_request()[4:], b""]


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
        addresses = tuple(Address(socket.AF_INET, ("127.0.0.1", port)) for port in (closed_port(), target.port))
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


def test_a_cancel_request_that_is_cut_off() -> None:
    """A reset is nobody's word that it has been carried out."""

    async def server(channel: Channel) -> None:
        await channel.read_startup()
        with socket.socket(fileno=os.dup(channel.fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(channel.detach().fd)

    async def use(target: Target) -> None:
        await send_cancel(target, KEY, loop=asyncio.get_running_loop())

    with pytest.raises(DialError, match="failed cancel request: Connection reset by peer"):
        run(with_server(server, use))


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
    assert failure(says(wire.authentication_ok() + huge)).message == "bad pkt header"
