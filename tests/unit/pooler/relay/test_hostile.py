"""Peers that mean harm or have lost their mind: lengths, floods, drips, rubbish. Each harms itself only.

A stage fails on any Fault, so each of these tests also says: no exception in the relay, whatever comes.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import Backend
from tests.unit.pooler.relay.test_stream import BACKEND, CONVERSATION, FRONTEND
from tests.unit.stage import DEFAULTS, Peer, Stage, linked, stage

READY = wire.ready_for_query()
DONE = wire.command_complete("SELECT 1") + READY
ASK = wire.query("SELECT 1")
LENGTHS = [0, 1, 2, 3, 4, 5, 6, 255, 65_536, 2**30, 2**30 + 1, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]


def resident() -> int:
    """Bytes of memory in use by this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"needs {count} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def undisturbed(s: Stage, peer: Peer) -> None:
    peer.send(ASK)
    s.settle()
    assert peer.take().endswith(DONE)


# ---- lengths


@pytest.mark.parametrize("kind", "QPBDECSFHXdcfpv\0\xff")
@pytest.mark.parametrize("inside", [False, True])
def test_a_client_may_say_any_length(kind: str, inside: bool) -> None:
    for length in LENGTHS:
        with stage() as s:
            other = s.client()
            client = s.client()
            s.server(Backend())
            if inside:
                client.send(wire.query("BEGIN"))
                s.settle()
            client.send(kind.encode("latin-1") + struct.pack("!I", length) + b"S" + b"x" * 1000)
            s.settle()
            assert sum(client.conn.pending[::2]) < 200_000
            if not client.conn.is_lost:
                client.close()
                s.settle()
            s.server(Backend())
            undisturbed(s, other)


@pytest.mark.parametrize("kind", "ZSCEDTNA123tnIsGHWdcKRVv\0\xff")
@pytest.mark.parametrize("state", ["busy", "idle", "setting"])
def test_a_server_may_say_any_length(kind: str, state: str) -> None:
    for length in LENGTHS:
        with stage() as s:
            server = s.server()
            client = s.client((*DEFAULTS[:4], b"other name")) if state == "setting" else s.client()
            if state != "idle":
                client.send(ASK)
                s.settle()
            server.send(kind.encode("latin-1") + struct.pack("!I", length) + b"I" + b"x" * 1000)
            s.settle()
            assert sum(server.conn.pending[::2]) < 200_000
            other = s.client()
            s.server(Backend())
            s.server(Backend())
            undisturbed(s, other)


def test_max_packet_size_ends_whoever_sends_more() -> None:
    with stage() as s:
        s.relay.max_packet = 1000
        server, client = s.server(), s.client()
        client.send(wire.query("x" * (1000 - 6)))
        s.settle()
        server.send(DONE)
        s.settle()
        assert client.take().endswith(DONE)
        client.send(wire.query("x" * (1001 - 6)))
        s.settle()
        assert s.reasons == ["bad packet header: '51000003e8787878'"]


@pytest.mark.parametrize("at_work", [True, False])
def test_max_packet_size_ends_servers_too(at_work: bool) -> None:
    """Also one that says something unasked."""
    with stage() as s:
        s.relay.max_packet = 1000
        server, client = s.server(), s.client()
        for size, ends in ((1000, False), (1001, True)):
            if at_work:
                client.send(wire.query("SELECT 1"))
                s.settle()
            server.send(wire.message(b"N", b"x" * (size - 5)))
            s.settle()
            assert s.reasons == ["bad pkt header"] * (1 + at_work) * ends
            if at_work and not ends:
                server.send(wire.command_complete("SELECT 1"), wire.ready_for_query())
                s.settle()


def test_what_a_client_may_not_send_is_named_in_the_log() -> None:
    for sent, refused, reason, named in (
        (b"Z\0\0\0\5I", False, "unknown pkt", "unknown pkt from client: 90/0x5a"),
        (b"p\0\0\0\5\0", False, "unknown pkt", "unknown pkt from client: 112/0x70"),
        (wire.query("SELECT 1"), True, "PQexec disallowed", 'client used "Query" packet type'),
    ):
        for at_work in (False, True):
            with stage() as s:
                s.server(Backend())
                client = s.client()
                if at_work:
                    client.send(wire.parse("", "BEGIN") + wire.flush())
                    s.settle()
                s.pool.refuse_simple = refused
                client.send(sent)
                s.settle()
                assert s.reasons[0] == reason
                assert s.said == [named]


# ---- memory


def test_a_claim_of_a_gigabyte_costs_nothing_until_it_comes() -> None:
    with stage() as s:
        s.server()
        before = resident()
        for _ in range(50):
            client = s.client()
            client.send(b"P\x3f\xff\xff\xffname\0SELECT")
            s.settle()
        assert resident() - before < 20_000_000


def test_a_drip_of_single_bytes_costs_little() -> None:
    with many_descriptors(3000), stage() as s:
        clients = [s.client() for _ in range(1000)]
        before = resident()
        for byte in b"Q\0\0\0":
            for client in clients:
                client.send(bytes([byte]))
            s.turn()
        s.settle()
        assert resident() - before < 10_000_000


def test_room_for_a_long_parse_is_given_back() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(wire.parse("a", "x" * 30_000_000) + b"S\0\0")
        s.settle()
        assert len(server.take()) > 30_000_000
        server.send(wire.parse_complete())
        s.settle()
        client.send(b"\0\4" + wire.close(b"S", "a") + b"S\0\0")
        s.settle()
        assert client.conn.pending[0] == 3
        server.send(READY + wire.close_complete())
        s.settle()
        assert server.take()


NEVER_ANSWERED = [wire.message(b"c"), wire.message(b"f", b"x\0"), wire.flush(), wire.message(b"d", b"x")]


@pytest.mark.parametrize("message", NEVER_ANSWERED)
def test_messages_that_are_never_answered_leave_no_trace(message: bytes) -> None:
    """In a transaction, where they are passed on."""
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(wire.command_complete("BEGIN") + wire.ready_for_query(b"T"))
        s.settle()
        before = resident()
        for _ in range(100):
            client.send(message * 10_000)
            s.settle()
            server.inbox.clear()
        assert resident() - before < 10_000_000
        client.send(ASK)
        s.settle()
        server.send(DONE)
        s.settle()
        assert linked(client) is None


def test_pipelined_syncs_are_owed_until_the_server_is_slow_no_longer() -> None:
    """What a client can make us note down is bounded by what the sockets hold."""
    with stage() as s:
        server, client = s.server(), s.client()
        server.reading = False
        client.unsent += wire.sync() * 4_000_000
        before = resident()
        s.settle()
        assert len(client.unsent) > 15_000_000
        assert resident() - before < 30_000_000
        assert server.conn.pending[2] < 200_000


# ---- floods


REFUSED = [wire.message(b"B", b"nope"), wire.query("x"), wire.message(b"D", b"S"), b"Q\0\0\0\1x"]


@pytest.mark.parametrize("request_", REFUSED)
def test_a_queue_of_clients_that_are_lost_in_their_turn_is_worked_off_without_a_deep_stack(request_: bytes) -> None:
    with many_descriptors(6000), stage() as s:
        s.pool.refuse_simple = True
        for _ in range(2000):
            s.client().send(request_)
        s.settle()
        s.server(Backend())
        s.settle()
        assert len(s.lost) == 2000
        assert s.states == "0a 0w / 0a 1i 0u 0t 0c"


@pytest.mark.slow
def test_clients_that_come_and_go_leave_nothing_behind() -> None:
    """Neither descriptors nor references: `about` is held by every connection."""
    about = object()
    key = 0
    with stage() as s:
        s.server(Backend())
        for round_ in range(3):
            descriptors, references = len(os.listdir("/proc/self/fd")), sys.getrefcount(about)
            for _ in range(1000):
                key += 1
                near, far = s.pair()
                conn = s.relay.adopt_client(
                    s.pool, key, near.detach(), None, b"", DEFAULTS, about, key.to_bytes(8, "big")
                )
                peer = s.joined(far, conn)
                peer.send(wire.parse("a", f"TEXT {key % 7}") + wire.bind("", "a", []) + wire.execute("") + wire.sync())
                s.settle()
                assert peer.take().endswith(DONE)
                far.close()
                s.settle()
                s.peers.remove(peer)
                del conn, peer
            s.lost.clear()
            gc.collect()
            if round_:
                assert len(os.listdir("/proc/self/fd")) == descriptors
                assert sys.getrefcount(about) == references


@pytest.mark.slow
def test_servers_that_come_and_go_leave_nothing_behind() -> None:
    about = object()
    with stage() as s:
        client = s.client()
        for round_ in range(3):
            descriptors, references = len(os.listdir("/proc/self/fd")), sys.getrefcount(about)
            for number in range(300):
                near, far = s.pair()
                conn = s.relay.adopt_server(s.pool, number, near.detach(), None, b"", DEFAULTS, about, 1, b"12345678")
                peer = s.joined(far, conn, Backend())
                if number % 3 == 0:
                    client.send(wire.parse("a", f"T {number}") + wire.sync() + wire.close(b"S", "a") + wire.sync())
                s.settle()
                if number % 2:
                    s.relay.drop(conn, "test")
                far.close()
                s.settle()
                s.peers.remove(peer)
                del conn, peer
            s.lost.clear()
            gc.collect()
            if round_:
                assert len(os.listdir("/proc/self/fd")) == descriptors
                assert sys.getrefcount(about) == references


def test_an_adoption_that_fails_leaves_nothing_behind() -> None:
    with stage() as s:
        near, far = s.pair()
        near.close()
        far.close()
        for adopt in (s.relay.adopt_client, s.relay.adopt_server):
            rest = (DEFAULTS, None, b"12345678") if adopt == s.relay.adopt_client else (DEFAULTS, None, 1, b"12345678")
            with pytest.raises(OSError, match="descriptor"):
                adopt(s.pool, 1, 9999, None, b"", *rest)
        assert s.states == "0a 0w / 0a 0i 0u 0t 0c"
        assert s.relay.find(b"12345678") is None


# ---- rubbish


def rubbish(draw: random.Random, messages: list[bytes]) -> bytes:
    """Random bytes, random messages, real messages, and real messages with something changed."""
    data = bytearray()
    for _ in range(draw.randint(1, 8)):
        kind = draw.random()
        if kind < 0.1:
            data += draw.randbytes(draw.randint(1, 40))
        elif kind < 0.3:
            body = draw.randbytes(draw.choice([0, 1, 5, 40, 3000]))
            data += bytes([draw.choice(b"QPBDECSFHXdcfZSCEDTNA123tnIGHWV")]) + struct.pack("!I", len(body) + 4) + body
        else:
            message = bytearray(draw.choice(messages))
            if kind < 0.6 and message:
                message[draw.randrange(len(message))] ^= 1 << draw.randrange(8)
            data += message
    return bytes(data[: draw.randint(1, len(data))] if draw.random() < 0.2 else data)


CLIENT_MESSAGES = [
    *FRONTEND.values(),
    CONVERSATION,
    wire.parse("n", "SHARED one"),
    wire.bind("", "n", ["v"]),
    wire.close(b"S", "n"),
    wire.query("BEGIN"),
    wire.query("COPY IN 1"),
    wire.query("SET TimeZone='x'"),
    wire.message(b"d", b"row"),
    wire.message(b"c"),
    wire.flush(),
]
SERVER_MESSAGES = [*BACKEND.values(), READY, DONE, wire.command_complete("DISCARD ALL"), wire.close_complete()]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), mode=st.sampled_from([engine.TRANSACTION, engine.SESSION, engine.STATEMENT]))
def test_rubbish_from_both_sides_reaches_no_bystander(seed: int, mode: int) -> None:
    """Clients and servers of one pool say anything; a client and a server of another pool go on as ever."""
    draw = random.Random(seed)
    with stage(mode, max_prepared=2, check_query=b"SELECT 7", reset_query=b"DISCARD ALL") as s:
        quiet = s.another_pool(mode=engine.TRANSACTION, max_prepared=10)
        s.server(Backend(), pool=quiet)
        bystander = s.client(pool=quiet)
        for _ in range(15):
            there = [peer for peer in s.peers if peer.conn.pool is s.pool and not peer.conn.is_lost]
            clients = [peer for peer in there if isinstance(peer.conn, engine.Client)]
            servers = [peer for peer in there if isinstance(peer.conn, engine.Server)]
            if len(clients) < 3:
                clients.append(s.client((*DEFAULTS[:4], draw.choice([b"", b"x"]))))
            if len(servers) < 3:
                servers.append(s.server(draw.choice([None, Backend()])))
            draw.choice(clients).send(rubbish(draw, CLIENT_MESSAGES))
            lying = [server for server in servers if server.backend is None]
            if lying and draw.random() < 0.6:
                draw.choice(lying).send(rubbish(draw, SERVER_MESSAGES))
            if draw.random() < 0.2:
                s.pool.age_idle()
            for server in servers:
                if server.backend is not None and server.conn.is_lost:
                    server.backend = None
            survive(s)
            assert all(sum(p.conn.pending[::2]) < 400_000 for p in s.peers if not p.conn.is_lost)
        undisturbed(s, bystander)


def survive(s: Stage) -> None:
    """Settle; a backend that is sent nonsense closes its connection."""
    while True:
        try:
            return s.settle()
        except (KeyError, ValueError, IndexError, wire.ProtocolError, AssertionError) as error:
            mad = [p for p in s.peers if p.backend is not None and not p.ended and p.sock.fileno() >= 0]
            if not mad or isinstance(error, AssertionError):
                raise
            for peer in mad:
                if peer.conn.pool is s.pool:
                    peer.backend = None
                    peer.sock.close()
