"""TLS inside the relay: clients and servers whose records are cut and joined at will."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler import wire
from tests.unit.backend import Backend
from tests.unit.pairs import Contexts
from tests.unit.pooler.relay.test_stream import CONVERSATION
from tests.unit.stage import DEFAULTS, KEYS, Stage, farewell, linked, stage
from tests.unit.tls_stage import TlsPeer, TlsStage

READY = wire.ready_for_query()
DONE = wire.command_complete("SELECT 1") + READY
ASK = wire.query("SELECT 1")


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    directory: Path = tmp_path_factory.mktemp("tls")
    return Contexts(directory)


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(params=[True, False], ids=["direct", "by Python"])
def tls(s: Stage, contexts: Contexts, request: pytest.FixtureRequest) -> TlsStage:
    s.relay.tls_direct = request.param
    return TlsStage(s, contexts)


@pytest.mark.parametrize("piece", [1 << 30, 1, 7, 100, 1000])
@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_a_whole_conversation(s: Stage, tls: TlsStage, who: str, piece: int) -> None:
    """Records cut into pieces of the ciphertext."""
    server = tls.server(Backend()) if who != "client" else s.server(Backend())
    client = tls.client() if who != "server" else s.client()
    for peer in (server, client):
        if isinstance(peer, TlsPeer):
            peer.piece = piece
    assert client.conn.has_tls == (who != "server")
    client.send(CONVERSATION)
    s.settle()
    assert client.take() == Backend().feed(CONVERSATION)
    assert s.states == "1a 0w / 0a 1i 0u 0t 0c"
    assert s.pool.counted()[3] == len(CONVERSATION)


def test_openssl_is_called_directly_where_it_can_be(s: Stage, tls: TlsStage) -> None:
    assert tls.client().conn.is_direct is s.relay.tls_direct


def test_bios_of_another_object_are_not_touched(s: Stage, tls: TlsStage) -> None:
    """What is read out of Python's objects is used only when it fits together."""
    near, _ = tls.ends(client_is_near=False)
    other, _ = tls.ends(client_is_near=False)
    for parts in ((near.parts[0], *other.parts[1:]), (near.parts[0], near.parts[1], other.parts[2])):
        sock, ours = s.pair()
        conn = s.relay.adopt_client(s.pool, next(KEYS), sock.detach(), parts, b"", DEFAULTS, None, b"k" * 8)
        ours.close()
        assert not conn.is_direct


def test_a_record_for_every_byte(s: Stage, tls: TlsStage) -> None:
    tls.server(Backend())
    client = tls.client()
    for i in range(len(CONVERSATION)):
        client.send(CONVERSATION[i : i + 1])
        if i % 3 == 0:
            s.settle()
    s.settle()
    assert client.take() == Backend().feed(CONVERSATION)


def test_many_records_in_one_read(s: Stage, tls: TlsStage) -> None:
    tls.server(Backend())
    client = tls.client()
    for i in range(500):
        client.end.ssl.write(wire.query(f"SELECT {i}"))
    s.settle()
    assert client.take() == Backend().feed(b"".join(wire.query(f"SELECT {i}") for i in range(500)))


def test_bytes_that_came_with_the_handshake_are_not_forgotten(s: Stage, tls: TlsStage) -> None:
    tls.server(Backend())
    client = tls.client(early=ASK)
    s.settle()
    assert client.take().endswith(DONE)


@pytest.mark.parametrize("length", [16_000, 16_384, 16_385, 65_531, 65_536, 131_072, 3_000_000])
def test_long_messages_both_ways(s: Stage, tls: TlsStage, length: int) -> None:
    server, client = tls.server(), tls.client()
    sql, row = wire.query("q" * length), wire.data_row(["r" * length])
    client.send(sql)
    s.settle()
    assert server.take() == sql
    server.send(row + DONE)
    s.settle()
    assert client.take() == row + DONE
    assert linked(client) is None
    assert client.conn.pending == server.conn.pending == (0, 0, 0)


def test_a_client_that_does_not_read_stops_its_server(s: Stage, tls: TlsStage) -> None:
    server, client = tls.server(), tls.client()
    client.send(ASK)
    s.settle()
    client.reading = False
    result = wire.data_row(["r" * 1000]) * 10_000 + DONE
    server.send(result)
    s.settle()
    assert len(server.cipher_out) > 5_000_000
    assert client.conn.pending[2] < 200_000
    assert server.conn.pending[0] < 200_000
    client.reading = True
    s.settle()
    assert client.take() == result
    assert client.conn.pending[2] == 0


def test_a_server_that_does_not_read_stops_its_client(s: Stage, tls: TlsStage) -> None:
    server, client = tls.server(), tls.client()
    client.send(wire.query("COPY t FROM STDIN"))
    s.settle()
    server.send(wire.message(b"G", b"\0\0\0"))
    s.settle()
    server.take()
    server.reading = False
    data = wire.message(b"d", b"r" * 1000) * 10_000 + wire.message(b"c")
    client.send(data)
    s.settle()
    assert len(client.cipher_out) > 5_000_000
    assert max(server.conn.pending) < 200_000
    server.reading = True
    s.settle()
    assert server.take() == data


def test_named_statements_and_parameters(s: Stage, tls: TlsStage) -> None:
    tls.server(Backend())
    tokyo = tls.client(params=(b"UTF8", b"ISO, MDY", b"Asia/Tokyo", b"on", b"app"))
    tokyo.send(wire.parse("a", "SHARED") + wire.bind("", "a", ["v" * 200_000]) + wire.execute("") + wire.sync())
    tokyo.send(wire.query("SHOW TimeZone"))
    s.settle()
    seen = tokyo.take()
    assert b"Asia/Tokyo" in seen
    assert b"200000" in seen


# ---- ends


@pytest.mark.parametrize("notify", [True, False])
def test_a_client_that_goes(s: Stage, tls: TlsStage, notify: bool) -> None:
    tls.server(Backend())
    client = tls.client()
    client.send(ASK)
    s.settle()
    if notify:
        with pytest.raises(ssl.SSLWantReadError):
            client.end.ssl.unwrap()
        client.push()
    else:
        client.close()
    s.settle()
    assert s.reasons == ["client unexpected eof"]
    assert s.pool.idle_servers.count == 1


def test_a_client_that_says_goodbye_is_told_the_end(s: Stage, tls: TlsStage) -> None:
    client = tls.client()
    client.send(wire.terminate())
    s.settle()
    assert s.reasons == ["client close request"]
    assert client.notified
    assert client.ended


@pytest.mark.parametrize("goodbye", [b"", wire.terminate(), ASK + wire.terminate()])
def test_a_client_that_goes_while_it_waits(s: Stage, tls: TlsStage, goodbye: bytes) -> None:
    client = tls.client()
    client.send(ASK)
    s.settle()
    assert client.conn.state_name == "waiting"
    client.send(goodbye)
    with pytest.raises(ssl.SSLWantReadError):
        client.end.ssl.unwrap()
    client.push()
    client.close()
    s.settle()
    assert len(s.lost) == 1
    assert s.states == "0a 0w / 0a 0i 0u 0t 0c"


def test_a_server_that_goes(s: Stage, tls: TlsStage) -> None:
    server, client = tls.server(), tls.client()
    client.send(ASK)
    s.settle()
    server.close()
    s.settle()
    assert client.take() == farewell("server conn crashed?")
    assert client.notified
    assert client.ended


def test_a_server_is_told_the_end(s: Stage, tls: TlsStage) -> None:
    server = tls.server()
    s.relay.drop(server.conn, "server idle timeout")
    s.settle()
    assert server.take() == wire.terminate()
    assert server.notified
    assert server.ended


@pytest.mark.parametrize("rubbish", [b"\0" * 50, b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\x00\x20" + b"x" * 32, ASK])
@pytest.mark.parametrize("who", ["client", "server"])
def test_what_is_not_tls_ends_its_connection_only(s: Stage, tls: TlsStage, who: str, rubbish: bytes) -> None:
    server, client, other = tls.server(), tls.client(), tls.client()
    (client if who == "client" else server).sock.send(rubbish)
    s.settle()
    assert len(s.lost) == 1
    (tls.server(Backend()) if who == "server" else server).backend = Backend()
    other.send(ASK)
    s.settle()
    assert other.take().endswith(DONE)


def test_a_record_spoilt_on_the_way_ends_its_connection(s: Stage, tls: TlsStage) -> None:
    tls.server(Backend())
    client = tls.client()
    client.end.ssl.write(ASK)
    record = bytearray(client.end.outgoing.read())
    record[-1] ^= 1
    client.sock.send(record)
    s.settle()
    assert s.reasons == ["client unexpected eof"]


def test_stray_bytes_of_a_tls_server_reach_nobody(s: Stage, tls: TlsStage) -> None:
    server, client, other = tls.server(), tls.client(), tls.client()
    client.send(ASK)
    other.send(ASK)
    s.settle()
    server.send(DONE + DONE)
    s.settle()
    assert client.take() == DONE
    assert other.take() == b""
    assert s.reasons == ["idle server got dirty"]


@pytest.mark.parametrize("together", [True, False])
def test_stray_bytes_in_a_record_of_their_own(s: Stage, tls: TlsStage, together: bool) -> None:
    """Two records that came in one read: the second waits inside OpenSSL when the first has been handed on."""
    server, client, other = tls.server(), tls.client(), tls.client()
    client.send(ASK)
    other.send(ASK)
    s.settle()
    server.end.ssl.write(wire.data_row(["r" * 16_300]) * 4 + DONE)
    server.end.ssl.write(wire.data_row(["stray"]))
    if not together:
        server.piece = 100
    s.settle()
    assert client.take() == wire.data_row(["r" * 16_300]) * 4 + DONE
    assert b"stray" not in other.take()


def narrow(fd: int) -> None:
    """Room for a few kB in what is sent to the far end."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)


def send_records(s: Stage, peer: TlsPeer, data: bytes) -> None:
    """In records of 10 kB: of six of them a read takes five, and OpenSSL keeps one."""
    for at in range(0, len(data), 10_000):
        peer.end.ssl.write(data[at : at + 10_000])
    while peer.push():
        pass
    for _ in range(3):
        s.turn()


def test_what_came_while_its_client_was_full_is_read_when_that_has_drained(s: Stage, tls: TlsStage) -> None:
    """The kernel tells once. OpenSSL may have a record left then, so that the next read does not ask the kernel."""
    server, client = tls.server(), s.client()
    narrow(client.conn.fd)
    client.send(ASK)
    s.settle()
    client.reading = False
    rows = wire.data_row(["r" * 1000]) * 60
    send_records(s, server, rows)
    assert client.conn.pending[2]
    send_records(s, server, rows + DONE)
    assert server.conn.is_deaf
    assert server.conn.unread
    client.reading = True
    s.settle()
    assert client.take() == rows + rows + DONE
    assert linked(client) is None


def test_an_upload_to_a_server_that_was_full_comes_to_its_end(s: Stage, tls: TlsStage) -> None:
    server, client = s.server(), tls.client()
    narrow(server.conn.fd)
    client.send(wire.query("COPY t FROM STDIN"))
    s.settle()
    server.send(wire.message(b"G", b"\0\0\0"))
    s.settle()
    server.take()
    server.reading = False
    rows = wire.message(b"d", b"r" * 1000) * 60
    send_records(s, client, rows)
    send_records(s, client, rows + wire.message(b"c"))
    assert client.conn.is_deaf
    assert client.conn.unread
    server.reading = True
    s.settle()
    assert server.take() == rows + rows + wire.message(b"c")
