"""Peers that do not read, and peers that go: what is buffered is bounded, what was sent arrives, nothing is left over.

Over unix sockets and over TCP, whose ends differ: a close with unread bytes is a reset.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from pooler import wire
from tests.unit.backend import Backend
from tests.unit.stage import Peer, Stage, farewell, linked, stage

READY = wire.ready_for_query()
DONE = wire.command_complete("SELECT 1") + READY
ASK = wire.query("SELECT 1")
BOUND = 200_000
"""Bytes that one connection may hold back: a read buffer and what it was when it was rewritten."""


@pytest.fixture(params=["unix", "tcp", "tcp, without io_uring", "tcp, narrow"])
def s(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind = request.param
    with stage(tcp="tcp" in kind, io_uring="without" not in kind, narrow="narrow" in kind) as made:
        yield made


def held_back(*peers: Peer) -> int:
    return max(max(peer.conn.pending[0], peer.conn.pending[2]) for peer in peers)


def reset(peer: Peer) -> None:
    """Close so that the other side gets a reset."""
    if peer.sock.family != socket.AF_UNIX:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


def settle_reset(s: Stage) -> None:
    """A reset arrives when the kernel says so."""
    for _ in range(3):
        s.settle()


# ---- peers that do not read


@pytest.mark.parametrize("row", [60, 8_000, 3_000_000])
def test_a_client_that_does_not_read_stops_its_server(s: Stage, row: int) -> None:
    server, client, other = s.server(), s.client(), s.client()
    client.send(ASK)
    s.settle()
    s.server(Backend())
    client.reading = False
    result = wire.data_row(["r" * row]) * (30_000_000 // (row + 11)) + DONE
    server.send(result)
    s.settle()
    assert len(server.unsent) > 10_000_000
    assert held_back(client, server) < BOUND
    other.send(wire.query("SELECT 2"))
    s.settle()
    assert other.take().endswith(READY)
    client.reading = True
    s.settle()
    assert client.take() == result
    assert linked(client) is None
    assert held_back(client, server) == 0


@pytest.mark.parametrize("piece", [60, 8_000, 3_000_000])
def test_a_server_that_does_not_read_stops_its_client(s: Stage, piece: int) -> None:
    server, client = s.server(), s.client()
    client.send(wire.query("COPY t FROM STDIN"))
    s.settle()
    server.send(wire.message(b"G", b"\0\0\0"))
    s.settle()
    server.take()
    server.reading = False
    data = wire.message(b"d", b"r" * piece) * (30_000_000 // (piece + 5)) + wire.message(b"c")
    client.send(data)
    s.settle()
    assert len(client.unsent) > 10_000_000
    assert held_back(client, server) < BOUND
    server.reading = True
    s.settle()
    assert server.take() == data
    server.send(wire.command_complete("COPY 1") + READY)
    s.settle()
    assert linked(client) is None


def test_both_stall_and_both_go_on(s: Stage) -> None:
    """A full pipe in both directions at once is no deadlock of ours."""
    server, client = s.server(Backend()), s.client()
    asked = b"".join(wire.query(f"BIG 2000 t{i};{'x' * 2000}") for i in range(3000))
    client.reading = server.reading = False
    client.send(asked)
    s.settle()
    assert held_back(client, server) < BOUND
    server.reading = True
    s.settle()
    assert held_back(client, server) < BOUND
    client.reading = True
    s.settle()
    assert client.take() == Backend().feed(asked)


@pytest.mark.slow
def test_a_few_bytes_of_bind_that_cost_a_long_parse_each(s: Stage) -> None:
    """Statements that evict each other are sent again with every use: no more of them than the server takes."""
    s.pool.max_prepared = 1
    server, client = s.server(Backend()), s.client()
    long = 1_000_000
    for name in "ab":
        client.send(wire.parse(name, f"TEXT {name} " + "x" * long) + wire.sync())
    s.settle()
    client.take()
    server.reading = False
    uses = b"".join(wire.bind("", name, []) + wire.execute("") + wire.sync() for name in "ab" * 50)
    client.send(uses)
    s.settle()
    assert held_back(client, server) < 15 * long
    server.reading = True
    s.settle()
    assert client.take().count(READY) == 100
    assert held_back(client, server) == 0


def test_a_slow_reader_gets_all_in_order(s: Stage) -> None:
    s.server(Backend())
    client = s.client()
    asked = b"".join(wire.query(f"BIG 30000 t{i}") for i in range(50))
    client.send(asked)
    client.reading = False
    for _ in range(2000):
        s.turn()
        for peer in s.peers:
            peer.push()
            peer.pull()
        client.reading = True
        client.pull(1000)
        client.reading = False
    client.reading = True
    s.settle()
    assert client.take() == Backend().feed(asked)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_long_result_that_pauses_is_not_kept_back_while_the_loop_is_busy(narrow: bool) -> None:
    """Long results are read lazily; with a loop that never waits the tail has to come all the same."""
    with stage(tcp=True, narrow=narrow) as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        for part in [wire.data_row(["r" * 1000]) * 1000] * 9 + [DONE]:
            server.send(part)
            stop = s.relay.stamp() + 2_000_000
            while len(client.inbox) < len(part) and s.relay.stamp() < stop:
                s.turn()
                server.push()
                client.pull()
            assert client.take() == part


# ---- peers that go


def test_a_client_that_goes_idle_or_not(s: Stage) -> None:
    idle, polite = s.client(), s.client()
    idle.close()
    polite.send(wire.terminate())
    s.settle()
    assert s.reasons == ["client unexpected eof", "client close request"] or s.reasons == [
        "client close request",
        "client unexpected eof",
    ]
    assert polite.ended
    assert polite.take() == b""


@pytest.mark.parametrize("how", ["close", "half", "reset", "farewell"])
def test_a_client_that_goes_while_it_waits_is_no_longer_waited_for(s: Stage, how: str) -> None:
    client, other = s.client(), s.client()
    client.send(ASK)
    s.settle()
    other.send(ASK)
    s.settle()
    if how == "half":
        client.sock.shutdown(socket.SHUT_WR)
    elif how == "farewell":
        client.send(wire.terminate())
        client.close()
    elif how == "reset":
        reset(client)
    else:
        client.close()
    settle_reset(s)
    assert len(s.lost) == 1
    assert s.states == "0a 1w / 0a 0i 0u 0t 0c"
    s.server(Backend())
    s.settle()
    assert other.take().endswith(READY)


def test_a_client_that_asks_more_and_goes_while_it_waits_takes_no_server(s: Stage) -> None:
    client = s.client()
    client.send(ASK)
    s.settle()
    client.send(ASK * 3 + wire.terminate())
    client.close()
    settle_reset(s)
    server = s.server(Backend())
    s.settle()
    assert s.states == "0a 0w / 0a 1i 0u 0t 0c"
    assert server.take() == b""


def test_what_one_client_that_has_hung_up_makes_us_hold_is_bounded(s: Stage) -> None:
    client = s.client()
    client.send(ASK)
    s.settle()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    client.send(wire.query("x" * 3_000_000))
    client.sock.shutdown(socket.SHUT_WR)
    settle_reset(s)
    assert client.conn.pending[0] < BOUND


def test_a_client_that_goes_with_its_query_under_way_takes_the_server_along(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    client.close()
    s.settle()
    assert s.reasons == ["client unexpected eof", "client disconnect while server was not ready"]
    assert server.take() == ASK + wire.terminate()


def test_a_client_that_goes_in_a_transaction_takes_the_server_along(s: Stage) -> None:
    s.server(Backend())
    client = s.client()
    client.send(wire.query("BEGIN"))
    s.settle()
    client.close()
    s.settle()
    assert s.reasons == ["client unexpected eof", "client disconnect while server was not ready"]


@pytest.mark.parametrize("left", [1, 2, 4, 5, 6, 30])
def test_half_a_message_is_never_finished_by_a_farewell(s: Stage, left: int) -> None:
    """Terminate behind a cut Query would be read as the end of its text, and be run."""
    server, client = s.server(), s.client()
    sql = wire.query("DELETE FROM t WHERE name = 'abcdefghijklmnopqrstuvwxyz'")
    client.send(sql[:-left])
    s.settle()
    client.close()
    s.settle()
    assert server.take() == sql[:-left]
    assert server.ended


def test_half_a_message_is_not_finished_by_another_end_of_the_server_either(s: Stage) -> None:
    server, client = s.server(), s.client()
    sql = wire.query("DELETE FROM t WHERE name = 'abc'")
    client.send(sql[:-3])
    s.settle()
    s.relay.drop(server.conn, "query timeout")
    s.settle()
    assert server.take() == sql[:-3]
    assert b"query timeout" in client.take()


def test_what_stands_in_the_way_of_a_farewell_goes_first_or_it_is_not_said(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(wire.query("COPY t FROM STDIN"))
    s.settle()
    server.send(wire.message(b"G", b"\0\0\0"))
    s.settle()
    server.reading = False
    client.send(wire.message(b"d", b"r" * 1000) * 5000)
    s.settle()
    client.close()
    settle_reset(s)
    s.relay.drop(server.conn, "test")
    s.settle()
    server.reading = True
    settle_reset(s)
    assert not server.take().endswith(wire.terminate())


@pytest.mark.parametrize("cut", [1, 3, 5, 6, 50, 1005])
def test_a_server_that_dies_in_a_row_is_not_told_of_inside_the_row(s: Stage, cut: int) -> None:
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    row = wire.data_row(["r" * 1000])
    server.send(row + row[:cut])
    s.settle()
    server.close()
    settle_reset(s)
    seen = client.take()
    assert client.ended
    if cut < 5:
        # Of a header nothing was passed on: the client can be told.
        assert seen == row + farewell("server conn crashed?")
    else:
        assert seen == row + row[:cut]


def test_a_client_dropped_in_a_row_is_not_told_inside_the_row(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    row = wire.data_row(["r" * 1000])
    server.send(row + row[:500])
    s.settle()
    s.relay.drop(client.conn, "admin forced disconnect")
    s.settle()
    assert client.take() == row + row[:500]


def test_the_last_words_of_a_server_reach_its_client(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    words = wire.data_row(["r" * 300_000]) + wire.error_response("FATAL", "57P01", "terminating connection")
    server.send(words)
    if not server.unsent:
        server.close()
    s.settle()
    server.close()
    settle_reset(s)
    assert client.take() == words
    assert client.ended


def test_the_last_words_reach_a_client_that_reads_late(s: Stage) -> None:
    """The server is gone long before its client has read what it said."""
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    client.reading = False
    rows = wire.data_row(["r" * 1000]) * 3000
    server.send(rows)
    s.settle()
    while server.unsent:
        client.reading = True
        client.pull(5000)
        client.reading = False
        s.turn()
        server.push()
    server.close()
    client.reading = True
    settle_reset(s)
    seen = client.take()
    assert seen == rows + farewell("server conn crashed?")


def test_a_server_lost_while_its_client_does_not_read(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    client.reading = False
    server.send(wire.data_row(["r" * 1000]) * 20_000)
    s.settle()
    reset(server)
    settle_reset(s)
    client.reading = True
    settle_reset(s)
    assert client.ended
    assert s.states == "0a 0w / 0a 0i 0u 0t 0c"


def test_a_client_lost_while_its_server_is_kept_waiting(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(ASK)
    s.settle()
    client.reading = False
    server.send(wire.data_row(["r" * 1000]) * 20_000)
    s.settle()
    reset(client)
    settle_reset(s)
    assert s.states == "0a 0w / 0a 0i 0u 0t 0c"
    assert s.reasons[0] == "client unexpected eof"


def test_a_client_lost_while_it_is_kept_waiting_by_its_server(s: Stage) -> None:
    server, client = s.server(), s.client()
    client.send(wire.query("COPY t FROM STDIN"))
    s.settle()
    server.send(wire.message(b"G", b"\0\0\0"))
    s.settle()
    server.reading = False
    client.send(wire.message(b"d", b"r" * 1000) * 20_000)
    s.settle()
    reset(client)
    settle_reset(s)
    server.reading = True
    settle_reset(s)
    assert s.states == "0a 0w / 0a 0i 0u 0t 0c"


def test_an_idle_server_that_goes_is_gone_before_it_is_given_out(s: Stage) -> None:
    server, client = s.server(), s.client()
    server.close()
    s.settle()
    client.send(ASK)
    s.settle()
    assert client.conn.state_name == "waiting"
    assert s.reasons == ["server conn crashed?"]


def test_an_idle_server_says_why_it_goes(s: Stage) -> None:
    server, client = s.server(), s.client()
    server.send(wire.error_response("FATAL", "57P01", "terminating connection due to administrator command"))
    client.send(ASK)
    s.settle()
    words = "FATAL: terminating connection due to administrator command (57P01)"
    assert s.said == [f"got packet 'E' from server when not linked: {words}"]
    assert client.conn.is_lost or client.conn.state_name == "waiting"


def test_both_ends_go_in_the_same_turn(s: Stage) -> None:
    """The second is lost by the first one's event, with an event of its own still in the batch."""
    pairs = []
    for _ in range(20):
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        pairs.append((server, client))
    for server, client in pairs:
        server.close()
        client.close()
    settle_reset(s)
    assert len(s.lost) == 40
    assert s.states == "0a 0w / 0a 0i 0u 0t 0c"


def test_a_long_parse_that_comes_in_pieces_is_not_moved_with_each_of_them(s: Stage) -> None:
    """Its room doubles: of 21 MB in hundreds of pieces, what is here is moved a few times."""
    server, client = s.server(), s.client()
    parse, rooms = wire.parse("name", "x" * (21 << 20)), set()
    client.send(parse)
    while client.unsent:
        s.turn()
        client.push()
        rooms.add(client.conn.room)
    while len(server.inbox) < len(parse):
        s.turn()
        server.pull()
    assert len(rooms) < 15
