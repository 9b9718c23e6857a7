"""`Channel`: framing whole and byte by byte, TLS, peers that vanish or lie, and what `detach` hands over."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from pooler import wire
from pooler.net.address import Peer
from pooler.net.channel import Channel, ConnectionClosed, TlsFailed
from pooler.wire import ProtocolError
from tests.unit.pairs import Contexts, channels, read_all, run, send_pieces, tcp_pair


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_in_pieces_of_any_size(size: int) -> None:
    async def main() -> None:
        client, server = channels()
        startup = wire.startup_message({"user": "bob"})
        stream = startup + wire.query("select 1") + wire.sync() + b"behind"
        sending = asyncio.create_task(send_pieces(client, stream, size))
        assert await server.peek() == 0
        assert await server.read_startup() == startup[4:]
        assert await server.read_message() == (b"Q", b"select 1\0")
        assert await server.read_message() == (b"S", b"")
        await sending
        assert await server.read_exactly(6) == b"behind"
        assert server.buffered == 0
        client.abort()
        server.abort()

    run(main())


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\x08\0\0\0"])
def test_end_of_file_in_the_startup_packet(data: bytes) -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(data)
        await client.close()
        with pytest.raises(ConnectionClosed):
            await server.read_startup()
        server.abort()

    run(main())


def test_a_reset_is_a_closed_connection() -> None:
    async def main() -> None:
        client, server = tcp_pair()
        channel = Channel(server, asyncio.get_running_loop())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionClosed, match="Connection reset"):
            await channel.read_message()
        channel.abort()

    run(main())


@pytest.mark.parametrize("length", [0, 7, 65_536, 0xFFFFFFFF])
def test_startup_lengths_that_cannot_be(length: int) -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(struct.pack("!II", length, 196608))
        with pytest.raises(ProtocolError, match="bad packet header: "):
            await server.read_startup()
        client.abort()
        server.abort()

    run(main())


@pytest.mark.parametrize("length", [0, 3, 101, 0x7FFFFFFF, 0xFFFFFFFF])
def test_message_lengths_that_cannot_be(length: int) -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(b"Q" + struct.pack("!I", length))
        with pytest.raises(ProtocolError, match=f"bad packet header: '51{length:08x}'"):
            await server.read_message(max_size=100)
        client.abort()
        server.abort()

    run(main())


def test_peer_of_a_tcp_connection() -> None:
    async def main() -> None:
        client, server = channels()
        name = client.peer
        assert server.peer == Peer("127.0.0.1", name.local_port, "127.0.0.1", name.port)
        assert str(server.peer) == f"127.0.0.1:{name.local_port}"
        assert not server.peer.is_unix
        client.abort()
        server.abort()

    run(main())


def test_peer_of_a_unix_connection(tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / ".s.PGSQL.6432")
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(path)
            listener.listen()
            client.connect(path)
            channel = Channel(listener.accept()[0], asyncio.get_running_loop())
            assert channel.peer == Peer("unix", 6432, "unix", 6432, os.getpid(), os.geteuid(), os.getegid())
            assert str(channel.peer) == f"unix({os.getpid()}):6432"
            assert channel.peer.in_full == f"unix({os.getpid()}@{socket.gethostname()}):6432"
            channel.abort()

    run(main())


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (Peer("::1", 5, "::1", 6), "[::1]:5"),
        (Peer("10.0.0.1", 5, "", 6), "10.0.0.1:5"),
        (Peer("unix", 5, "unix", 5), "unix:5"),
    ],
)
def test_peer_in_the_words_of_the_log(peer: Peer, text: str) -> None:
    assert str(peer) == text


# ---- TLS


async def tls_pair(contexts: Contexts) -> tuple[Channel, Channel]:
    client, server = channels()
    await asyncio.gather(
        client.start_tls(contexts.client(), server_side=False, server_hostname="localhost"),
        server.start_tls(contexts.server(), server_side=True),
    )
    return client, server


def test_tls_carries_both_directions(contexts: Contexts) -> None:
    async def main() -> None:
        client, server = await tls_pair(contexts)
        big = os.urandom(300_000)
        assert server.tls == client.tls != ""
        assert server.tls.startswith("TLSv1.3/")
        sending = asyncio.ensure_future(client.send(wire.message(b"d", big)))
        assert await server.read_message() == (b"d", big)
        await sending
        await server.send(b"Z\0\0\0\5I")
        assert await client.read_message() == (b"Z", b"I")
        assert server.peer_certificate() is None
        assert client.peer_certificate() is not None
        await client.close()
        with pytest.raises(ConnectionClosed):
            await server.read_message()
        server.abort()

    run(main())


def test_plaintext_before_the_handshake_is_refused(contexts: Contexts) -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(wire.ssl_request() + b"injected")
        await server.read_startup()
        with pytest.raises(ProtocolError, match="unencrypted data"):
            await server.start_tls(contexts.server(), server_side=True)
        client.abort()
        server.abort()

    run(main())


def test_what_is_not_tls_fails_the_handshake(contexts: Contexts) -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(b"\x16this is no TLS record at all")
        with pytest.raises(TlsFailed) as caught:
            await server.start_tls(contexts.server(), server_side=True)
        assert caught.value.message
        client.abort()
        server.abort()

    run(main())


def test_a_certificate_nobody_vouches_for(contexts: Contexts, tmp_path: Path) -> None:
    stranger = Contexts(tmp_path)

    async def main() -> None:
        client, server = channels()
        results = await asyncio.gather(
            client.start_tls(stranger.client(), server_side=False, server_hostname="localhost"),
            server.start_tls(contexts.server(), server_side=True),
            return_exceptions=True,
        )
        assert all(isinstance(result, TlsFailed) for result in results)
        assert "certificate verify failed" in str(results[0])
        client.abort()
        server.abort()

    run(main())


@pytest.mark.parametrize("name", ["", ".example.com", "a" * 70 + ".example.com"])
def test_names_no_certificate_can_have(contexts: Contexts, name: str) -> None:
    async def main() -> None:
        client, server = channels()
        server.abort()
        with pytest.raises((TlsFailed, ConnectionClosed)):
            await client.start_tls(contexts.client(), server_side=False, server_hostname=name)
        client.abort()

    run(main())


def test_a_peer_that_leaves_during_the_handshake(contexts: Contexts) -> None:
    async def main() -> None:
        client, server = channels()
        await client.close()
        with pytest.raises(ConnectionClosed):
            await server.start_tls(contexts.server(), server_side=True)
        server.abort()

    run(main())


def test_garbage_inside_a_tls_session_closes_it(contexts: Contexts) -> None:
    async def main() -> None:
        client, server = await tls_pair(contexts)
        fd = client.detach().fd
        with socket.socket(fileno=fd) as raw:
            raw.setblocking(True)
            raw.sendall(b"x" * 100)
            with pytest.raises(ConnectionClosed):
                await server.read_message()
        server.abort()

    run(main())


# ---- the end


def test_detach_hands_everything_over() -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(b"Q\0\0\0\4" + b"pipelined")
        await server.read_message()
        rest = server.detach()
        assert rest.tls is None
        with socket.socket(fileno=rest.fd) as sock:
            sock.setblocking(True)
            sock.sendall(b"still open")
            assert await client.read_exactly(10) == b"still open"
        assert rest.leftover == b"pipelined"
        assert server.closed
        with pytest.raises(ConnectionClosed):
            await server.send(b"x")
        server.abort()
        client.abort()

    run(main())


def test_detach_during_tls(contexts: Contexts) -> None:
    async def main() -> None:
        client, server = await tls_pair(contexts)
        await client.send(b"S\0\0\0\4" + b"left over")
        await server.read_message()
        rest = server.detach()
        assert rest.tls is not None
        tls, _, outgoing = rest.tls
        with socket.socket(fileno=rest.fd) as sock:
            sock.setblocking(True)
            tls.write(b"from the relay")  # type: ignore[attr-defined]
            sock.sendall(outgoing.read())  # type: ignore[attr-defined]
            assert await client.read_exactly(14) == b"from the relay"
        assert rest.leftover == b"left over"
        client.abort()

    run(main())


def test_an_error_reaches_a_peer_whose_bytes_were_never_read() -> None:
    async def main() -> None:
        client, server = channels()
        await client.send(b"x" * 50_000)
        await server.peek()
        await server.send(b"farewell")
        await server.close()
        assert await read_all(client) == b"farewell"
        client.abort()

    run(main())


def test_close_is_idempotent() -> None:
    async def main() -> None:
        client, server = channels()
        await server.close()
        await server.close()
        server.abort()
        assert server.closed
        with pytest.raises(ConnectionClosed):
            await server.read_message()
        assert await read_all(client) == b""
        client.abort()

    run(main())
