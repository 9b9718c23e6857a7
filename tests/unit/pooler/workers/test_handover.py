"""A server that goes from one relay to another, between clients: what it has is known there, and nothing else is."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from pooler import wire
from pooler.relay import Server, engine
from pooler.relay.records import StatementTable
from pooler.workers.handover import number_statements
from tests.unit.backend import Backend
from tests.unit.stage import DEFAULTS, Peer, Stage, stage

DONE = wire.command_complete("SELECT 1") + wire.ready_for_query()


def prepare(name: str, sql: str) -> bytes:
    return wire.parse(name, sql) + wire.sync()


def use(name: str, value: str = "v") -> bytes:
    return wire.bind("", name, [value]) + wire.execute("") + wire.sync()


def answer(s: Stage, client: Peer, data: bytes) -> bytes:
    client.send(data)
    s.settle()
    return client.take()


def names(server: Peer) -> dict[str, str]:
    assert server.backend is not None
    return server.backend.statements


def server_of(peer: Peer) -> Server:
    assert isinstance(peer.conn, Server)
    return peer.conn


@contextmanager
def stages(count: int = 2) -> Iterator[Sequence[Stage]]:
    """As many workers."""
    made = [Stage(engine.TRANSACTION, max_prepared=200) for _ in range(count)]
    for number, s in enumerate(made):
        number_statements(s.relay, number, count, 0)
    try:
        yield made
    finally:
        for s in made:
            s.close()


def hand_over(peer: Peer, one: Stage, other: Stage) -> None:
    conn = server_of(peer)
    assert engine.may_pass(conn)
    table: StatementTable = {}
    state, descriptor = engine.record(conn, table), os.dup(conn.fd)
    engine.abandon(conn)
    known = {number: engine.same_statement(other.relay, number, *rest) for number, rest in table.items()}
    peer.conn = engine.receive_server(other.pool, descriptor, state, state["params"], None, known)
    one.peers.remove(peer)
    other.peers.append(peer)
    other.pool.resume()
    one.settle()
    other.settle()


def test_who_waits_there_is_served_by_it() -> None:
    with stages() as (one, other):
        server, here, there = one.server(Backend()), one.client(), other.client()
        number = server.conn.id
        answer(one, here, wire.query("SELECT 1"))
        assert answer(other, there, wire.query("WAITS")) == b""
        hand_over(server, one, other)
        assert b"WAITS" in there.take()
        assert (one.states, other.states) == ("1a 0w / 0a 0i 0u 0t 0c", "1a 0w / 0a 1i 0u 0t 0c")
        assert server.conn.id == number
        assert one.lost == other.lost == []


def test_its_statements_are_known_there_and_once_it_is_back() -> None:
    with stages() as (one, other):
        server, here, there = one.server(Backend()), one.client(), other.client()
        answer(one, here, prepare("mine", "SHARED"))
        for _ in range(3):
            hand_over(server, one, other)
            answer(other, there, prepare("yours", "SHARED"))
            assert b"SHARED" in answer(other, there, use("yours"))
            hand_over(server, other, one)
            assert b"SHARED" in answer(one, here, use("mine"))
        assert list(names(server).values()) == ["SHARED"]
        assert one.pool.counted()[9] + other.pool.counted()[9] == 1


@pytest.mark.parametrize("first", [0, 1])
def test_two_workers_that_have_named_a_text_come_to_name_it_alike(first: int) -> None:
    with stages() as (one, other):
        servers = [s.server(Backend()) for s in (one, other)]
        for s in (one, other):
            answer(s, s.client(), prepare("a", "SHARED"))
        assert names(servers[0]).keys().isdisjoint(names(servers[1]))
        ways = [(servers[0], one, other), (servers[1], other, one)]
        for way in (ways[first], ways[1 - first]):
            hand_over(*way)
        before = [dict(names(server)) for server in servers]
        for s in (one, other):
            client = s.client()
            answer(s, client, prepare("b", "SHARED"))
            assert b"SHARED" in answer(s, client, use("b"))
        lower = min((key for found in before for key in found), key=lambda name: int(name.split("_")[1]))
        assert all(lower in names(server) for server in servers)


def test_the_statement_without_a_name_is_whose_it_was_made_by() -> None:
    """Numbers of who made it are each relay's own."""
    with stages() as (one, other):
        server, here, there = one.server(Backend()), one.client(), other.client()
        other_server = other.server(Backend())
        answer(other, there, wire.parse("", "THERE") + wire.sync())
        answer(one, here, wire.parse("", "HERE") + wire.sync())
        hand_over(server, one, other)
        other.relay.drop(other_server.conn, "gone", False)
        other.settle()
        assert b"THERE" in answer(other, there, use(""))


def test_a_client_finds_its_settings_wherever_the_server_has_been() -> None:
    with stages() as (one, other):
        server = one.server(Backend())
        here, there = one.client(), other.client((*DEFAULTS[:4], b"there"))
        answer(one, here, wire.query("SET application_name = 'here'"))
        hand_over(server, one, other)
        answer(other, there, wire.query("SELECT 1"))
        assert server.backend is not None
        assert server.backend.parameters["application_name"] == "there"
        hand_over(server, other, one)
        answer(one, here, wire.query("SELECT 1"))
        assert server.backend.parameters["application_name"] == "here"


def in_transaction(s: Stage, server: Peer) -> None:
    s.client().send(wire.query("BEGIN"))


def owing(s: Stage, server: Peer) -> None:
    server.backend = None
    s.client().send(wire.query("SELECT 1"))


def condemned(s: Stage, server: Peer) -> None:
    server.conn.close_needed = True


def cancelled(s: Stage, server: Peer) -> None:
    server_of(server).cancel_begins()


def speaking(s: Stage, server: Peer) -> None:
    server.begin(wire.notice_response("NOTICE", "00000", "half"), 3)


def under_test(s: Stage, server: Peer) -> None:
    server.backend = None
    s.pool.check_query = b"SELECT 1"
    server_of(server).check()


def whole_sessions(s: Stage, server: Peer) -> None:
    s.pool.mode = engine.SESSION


def bound(s: Stage, server: Peer) -> None:
    s.pool.mode = engine.SESSION
    s.client().send(wire.query("SELECT 1"))


WAYS = (in_transaction, owing, condemned, cancelled, speaking, under_test, whole_sessions, bound)


@pytest.mark.parametrize("unfit", WAYS)
def test_one_that_is_not_free_stays(unfit: Callable[[Stage, Peer], None]) -> None:
    with stage() as s:
        server = s.server(Backend())
        assert engine.may_pass(server_of(server))
        unfit(s, server)
        s.settle()
        assert not engine.may_pass(server_of(server))


def test_a_server_that_is_lost_stays() -> None:
    with stage() as s:
        server = s.server(Backend())
        server.close()
        s.settle()
        assert not engine.may_pass(server_of(server))


def test_numbers_are_no_other_workers_and_no_earlier_lifes() -> None:
    found = set()
    for life in range(3):
        with stages(3) as all_of_them:
            for number, s in enumerate(all_of_them):
                number_statements(s.relay, number, 3, life)
                server, client = s.server(Backend()), s.client()
                for text in range(4):
                    answer(s, client, prepare(f"s{text}", f"TEXT {text}"))
                found |= set(names(server))
    assert len(found) == 3 * 3 * 4


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_said_between_moves_everybody_has_its_own(seed: int) -> None:
    """Three workers, two servers that go about; texts are few, and each client's names its own. A `Backend` refuses
    what PostgreSQL would."""
    draw = random.Random(seed)
    with stages(3) as workers:
        where = [(workers[0].server(Backend()), 0), (workers[1].server(Backend()), 1)]
        clients = {(number, place): workers[number].client() for number in range(3) for place in range(2)}
        known: dict[tuple[int, int], dict[str, str]] = {key: {} for key in clients}
        for _ in range(120):
            if draw.random() < 0.4:
                server, at = where.pop(0)
                to = draw.choice([number for number in range(3) if number != at])
                hand_over(server, workers[at], workers[to])
                where.append((server, to))
                continue
            key = draw.choice([key for key in clients if any(at == key[0] for _, at in where)])
            s, client, name = workers[key[0]], clients[key], draw.choice("abc")
            if name not in known[key]:
                known[key][name] = f"TEXT {draw.randrange(4)}"
                assert answer(s, client, prepare(name, known[key][name]))[:1] == b"1"
            assert known[key][name].encode() in answer(s, client, use(name))
        assert all(s.lost == [] for s in workers)
