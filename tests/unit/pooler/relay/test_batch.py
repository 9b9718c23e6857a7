"""What one turn sends leaves together, in one system call: whole, in order, to whom it belongs, and nothing is left
behind when the turn is over. The same with and without io_uring.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from pooler import wire
from pooler.relay import engine
from pooler.relay.engine import Relay
from tests.fixtures.waiting import until
from tests.unit.backend import Backend
from tests.unit.stage import Peer, Stage, stage

BATCH = 64
"""Pieces that a turn puts off, as in engine.pxd."""
PIECE = 8192
READY = wire.ready_for_query()


def offers_io_uring() -> bool:
    with Relay() as relay:
        return relay.no_ring == ""


needs_ring = pytest.mark.skipif(not offers_io_uring(), reason="this kernel offers no io_uring")


@pytest.fixture(params=[pytest.param(True, id="together"), pytest.param(False, id="one by one")])
def s(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(engine.SESSION, tcp=True, io_uring=request.param) as made:
        yield made


def ask(number: int, size: int = 0) -> bytes:
    return wire.query(f"SELECT {number} {'x' * size}")


def answer(number: int, size: int = 0) -> bytes:
    return wire.data_row([f"{number} {'y' * size}"]) + wire.command_complete("SELECT 1") + READY


def couples(s: Stage, count: int) -> list[tuple[Peer, Peer]]:
    """(client, server), each client with a server of its own to which its first query has come."""
    clients = [s.client() for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(ask(number))
        s.turn()
    servers = [s.server() for _ in range(count)]
    s.settle()
    assert [server.take() for server in servers] == [ask(number) for number in range(count)]
    return list(zip(clients, servers, strict=True))


@pytest.mark.parametrize("count", [1, 2, BATCH, BATCH + 1, 3 * BATCH])
def test_all_queries_and_all_answers_of_a_turn_arrive(s: Stage, count: int) -> None:
    pairs = couples(s, count)
    for _ in range(2):
        for number, (client, server) in enumerate(pairs):
            server.send(answer(number))
            client.send(ask(number + count))
        s.settle()
        for number, (client, _) in enumerate(pairs):
            assert client.take() == answer(number)
        asked = b"".join(sorted(server.take() for _, server in pairs))
        assert asked == b"".join(sorted(ask(number + count) for number in range(count)))
    assert s.lost == []


@pytest.mark.parametrize("size", [PIECE // 2 - 60, PIECE // 2, PIECE - 14, PIECE, 3 * PIECE])
def test_what_is_too_long_to_be_put_off_does_not_overtake_what_was(s: Stage, size: int) -> None:
    """Renamed messages go out in several writes of one turn, which do not all fit."""
    pairs = couples(s, 2)
    shared = s.another_pool(mode=engine.TRANSACTION, max_prepared=200)
    server, client = s.server(Backend(), pool=shared), s.client(pool=shared)
    text = "z" * size
    asked = b"".join(
        wire.parse(f"s{n}", f"SELECT {n} {text}") + wire.bind("", f"s{n}", []) + wire.execute("") for n in range(40)
    )
    client.send(asked + wire.sync())
    for number, (_, other) in enumerate(pairs):
        other.send(answer(number, size))
    s.settle()
    assert server.conn.prepared_count == 40
    assert client.take() == Backend().feed(asked + wire.sync())
    assert [client.take() for client, _ in pairs] == [answer(0, size), answer(1, size)]


def narrow(*peers: Peer) -> None:
    """Few bytes fit between the relay and these."""
    for peer in peers:
        peer.reading = False
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.socket(fileno=os.dup(peer.conn.fd)) as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@pytest.mark.slow
def test_those_who_do_not_read_get_all_of_it_later_and_nobody_waits_for_them(s: Stage) -> None:
    pairs = couples(s, 8)
    slow = pairs[:4]
    narrow(*(client for client, _ in slow))
    row = wire.data_row(["r" * 1500])
    sent = 0
    while not all(client.conn.pending[2] for client, _ in slow):
        for _, server in pairs:
            server.send(row)
        s.turn(0.01)
        sent += 1
        assert sent < 10_000
    assert max(client.conn.pending[2] for client, _ in slow) <= 2 * len(row)
    assert not any(client.conn.pending[2] for client, _ in pairs[4:])
    for client, server in pairs:
        server.send(wire.command_complete("SELECT 1") + READY)
        client.reading = True
    whole = row * sent + wire.command_complete("SELECT 1") + READY

    def arrived() -> bool:
        s.settle()
        return all(len(client.inbox) >= len(whole) for client, _ in pairs)

    until(arrived)
    assert [client.take() == whole for client, _ in pairs] == [True] * 8


def test_who_is_gone_when_its_answer_leaves_harms_nobody(s: Stage) -> None:
    pairs = couples(s, 6)
    for number, (client, server) in enumerate(pairs):
        if number % 2:
            client.sock.close()
        server.send(answer(number))
    s.settle()
    assert [client.take() for client, _ in pairs[::2]] == [answer(number) for number in (0, 2, 4)]
    assert set(s.reasons) <= {"client unexpected eof", "client disconnect while server was not ready"}
    assert sum(peer.conn.is_lost for pair in pairs[1::2] for peer in pair[:1]) == 3


@pytest.mark.parametrize("size", [0, 2 * PIECE])
@pytest.mark.parametrize("io_uring", [True, False])
def test_who_can_be_sent_nothing_is_not_kept_for_ever(io_uring: bool, size: int) -> None:
    """Over a unix socket: it has shut what it reads, and says nothing more itself, so that no end of its is seen."""
    with stage(engine.SESSION, io_uring=io_uring) as s:
        pairs = couples(s, 3)
        client, server = pairs[1]
        client.reading = False
        client.sock.shutdown(socket.SHUT_RD)
        for number, (_, each) in enumerate(pairs):
            each.send(answer(number, size))
        s.settle()
        assert s.reasons == ["client unexpected eof"]
        assert client.conn.is_lost
        assert not server.conn.is_lost
        assert [each.take() for each, _ in pairs[::2]] == [answer(0, size), answer(2, size)]
        assert s.states == "2a 0w / 2a 1i 0u 0t 0c"


def test_an_answer_that_was_put_off_comes_before_the_farewell(s: Stage) -> None:
    """A server answers in part and is gone, and another does something in the same turn."""
    (client, server), (other, others) = couples(s, 2)
    row = wire.data_row(["a row"])
    others.send(answer(1))
    server.send(row + b"E\0\0\0\3")
    s.settle()
    got = client.take()
    assert got.startswith(row + b"E")
    assert b"bad pkt header" in got
    assert other.take() == answer(1)


def test_a_client_that_goes_after_its_query_leaves_nothing_behind(s: Stage) -> None:
    """The server gets the query whole, or is not asked at all; it is not given to another."""
    pairs = couples(s, 4)
    for number, (_, server) in enumerate(pairs):
        server.send(answer(number))
    s.settle()
    for number, (client, _) in enumerate(pairs):
        client.take()
        client.send(ask(10 + number) + (wire.terminate() if number % 2 else b""))
    s.settle()
    asked = {server.take() for _, server in pairs}
    assert {ask(10), ask(12)} <= asked
    assert s.reasons.count("client close request") == 2
    assert s.states == "2a 0w / 2a 0i 0u 0t 0c", s.reasons


@needs_ring
def test_a_ring_that_the_kernel_takes_back_costs_nobody_a_byte() -> None:
    """Its descriptor becomes another file's: what was put off is sent one by one, and so is all that follows."""
    before = rings()
    with stage(engine.SESSION, tcp=True) as s:
        (ring,) = rings() - before
        pairs = couples(s, 4)
        assert s.relay.no_ring == ""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, ring)
        os.close(null)
        for round_ in range(2):
            for number, (_, server) in enumerate(pairs):
                server.send(answer(number, round_))
            s.settle()
            assert [client.take() for client, _ in pairs] == [answer(number, round_) for number in range(4)]
            for number, (client, _) in enumerate(pairs):
                client.send(ask(number, round_))
            s.settle()
            assert sorted(server.take() for _, server in pairs) == [ask(number, round_) for number in range(4)]
        assert s.relay.no_ring == os.strerror(errno.EOPNOTSUPP)
    assert rings() == before


@needs_ring
def test_a_ring_that_does_nothing_is_given_up() -> None:
    """Its descriptor becomes that of another ring, which has nothing to send."""
    before = rings()
    with stage(engine.SESSION, tcp=True) as s, Relay() as other:
        mine, idle = sorted(rings() - before)
        assert (s.relay.no_ring, other.no_ring) == ("", "")
        pairs = couples(s, 3)
        os.dup2(idle, mine)
        for number, (_, server) in enumerate(pairs):
            server.send(answer(number))
        s.settle()
        assert [client.take() for client, _ in pairs] == [answer(number) for number in range(3)]
        assert s.relay.no_ring == os.strerror(errno.EIO)


def rings() -> set[int]:
    """Descriptors of io_uring."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(int(name))
        except FileNotFoundError:
            continue
    return found


def test_a_relay_says_why_it_has_no_ring() -> None:
    with Relay(io_uring=False) as relay:
        assert relay.no_ring == "switched off"
    relay = Relay()
    relay.close()
    assert relay.no_ring == "closed"


@needs_ring
def test_a_process_without_descriptors_to_spare_sends_one_by_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        # One for epoll.
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        with Relay() as relay:
            assert relay.no_ring == "Too many open files"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
