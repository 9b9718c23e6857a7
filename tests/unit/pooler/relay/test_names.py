"""The database's own code in the relay: names found in texts as a regular expression finds them, in pieces too, and the
questions of Python's that a free server answers.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from pooler import wire
from pooler.relay.engine import CALLED, TRANSACTION, WRITES, WRITTEN, Names, Server
from pooler.relay.events import CodeMade, Event, ServerAnswered
from pooler.touches import Effect, Held, Touch
from tests.unit.backend import Backend
from tests.unit.stage import Peer, Stage, stage

KEPT = sum(Held)
LOCKS = Touch(Held.LOCK, Held.LOCK, "")


def expected(names: list[tuple[bytes, int]], text: bytes) -> int:
    found = 0
    for name, meaning in names:
        if re.search(rb"(?<![A-Za-z0-9_$])" + re.escape(name) + rb"(?![A-Za-z0-9_$])", text, re.IGNORECASE):
            found |= meaning
    return found


@pytest.mark.parametrize("seed", range(30))
def test_names_are_found_between_edges_in_any_case(seed: int) -> None:
    chance = random.Random(seed)
    words = [bytes(chance.choices(b"ab_1", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 12))]
    names = [(word, chance.choice((CALLED, WRITTEN, WRITES))) for word in words]
    automaton = Names(names)
    for _ in range(300):
        text = bytes(chance.choices(b"abAB_1 .(\xc3x", k=chance.randint(0, 14)))
        assert automaton.hits(text) == expected(names, text), (names, text)


def test_more_names_than_there_are_places_for_are_refused() -> None:
    with pytest.raises(ValueError, match="too many names"):
        Names([(b"x" * 1000, CALLED)] * 70)


def events_of(s: Stage) -> list[Event]:
    """All that the relay posts until nothing moves."""
    found: list[Event] = []
    handle = s.handle
    s.handle = lambda event: (found.append(event), handle(event))[1]  # type: ignore[method-assign,func-returns-value]
    s.settle()
    s.handle = handle  # type: ignore[method-assign]
    return found


def answers(found: list[Event]) -> list[ServerAnswered]:
    return [event for event in found if isinstance(event, ServerAnswered)]


def keeping(**more: Any) -> dict[str, Any]:
    return {"kept": KEPT, "unread": False, **more}


def test_a_question_is_answered_by_a_free_server() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server = s.server(Backend())
        s.pool.ask(b"SELECT 1")
        assert s.pool.tested_servers.count == 1
        (answer,) = answers(events_of(s))
        assert answer.server is server.conn
        assert answer.question == b"SELECT 1"
        assert answer.error is None
        assert s.pool.idle_servers.count == 1


def test_a_question_waits_for_the_next_server_that_comes_free() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        s.server(Backend())
        client = s.client()
        client.sock.send(wire.query("BEGIN"))
        s.settle()
        s.pool.ask(b"SELECT 1")
        assert not answers(events_of(s))
        client.sock.send(wire.query("COMMIT"))
        assert len(answers(events_of(s))) == 1
        client.sock.send(wire.query("SELECT 1"))
        assert not answers(events_of(s))
        assert s.pool.idle_servers.count == 1


def test_a_question_that_fails_costs_no_server() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server = s.server()
        s.pool.ask(b"SELECT 1")
        s.settle()
        server.send(wire.error_response("ERROR", "42501", "permission denied") + wire.ready_for_query())
        (answer,) = answers(events_of(s))
        assert "permission denied" in (answer.error or "")
        assert s.pool.idle_servers.count == 1
        assert not s.lost


def test_a_paused_pool_asks_nothing() -> None:
    with stage(TRANSACTION, **keeping(paused=True)) as s:
        s.server(Backend())
        s.pool.ask(b"SELECT 1")
        assert s.pool.tested_servers.count == 0


def tagged(s: Stage, server: Peer, client: Peer, tag: str) -> list[CodeMade]:
    client.sock.send(wire.query("SELECT 1"))
    s.settle()
    server.sock.send(wire.command_complete(tag) + wire.ready_for_query())
    return [event for event in events_of(s) if isinstance(event, CodeMade)]


@pytest.mark.parametrize(
    ("tag", "made"),
    [
        ("CREATE FUNCTION", True),
        ("CREATE TABLE", True),
        ("ALTER TABLE", True),
        ("CREATE MATERIALIZED VIEW", True),
        ("CREATE EXTENSION", True),
        ("CREATE INDEX", False),
        ("ALTER SEQUENCE", False),
        ("CREATE DATABASE", False),
        ("ALTER ROLE", False),
        ("COMMIT", False),
        ("COPY 10000000000", False),
        ("DROP FUNCTION", False),
    ],
)
def test_what_is_made_is_told_and_everything_is_looked_at(tag: str, made: bool) -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, client = s.server(), s.client()
        assert bool(tagged(s, server, client, tag)) is made
        assert s.pool.unread is made
        assert isinstance(server.conn, Server)


def test_nothing_is_told_where_nobody_cares() -> None:
    with stage(TRANSACTION, unread=False) as s:
        server, client = s.server(), s.client()
        assert not tagged(s, server, client, "CREATE FUNCTION")
        assert not s.pool.unread


def looked(s: Stage, server: Peer, client: Peer, message: bytes) -> bool:
    """Whether the server is asked something when it has answered."""
    client.sock.send(message)
    s.settle()
    server.take()
    server.sock.send(wire.command_complete("SELECT 1") + wire.ready_for_query())
    s.settle()
    asked = b"pg_catalog" in server.take()
    if asked:
        server.sock.send(wire.command_complete("SELECT 0") + wire.ready_for_query())
        s.settle()
    return asked


def test_a_text_that_calls_is_looked_at_and_others_are_not() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, client = s.server(), s.client()
        names = Names([(b"leaves", CALLED), (b"held", WRITTEN), (b"insert", WRITES)])
        s.pool.know({"leaves": [Effect(LOCKS, False)], "held": [Effect(LOCKS, True)]}, names)
        assert looked(s, server, client, wire.query("SELECT Leaves()"))
        assert not looked(s, server, client, wire.query("SELECT leaves_not()"))
        assert not looked(s, server, client, wire.query("SELECT * FROM held"))
        assert looked(s, server, client, wire.query("insert into HELD values (1)"))
        s.pool.know(None, None)
        assert not looked(s, server, client, wire.query("SELECT Leaves()"))
        s.pool.unread = True
        assert looked(s, server, client, wire.query("SELECT 1"))


def test_a_statement_is_judged_by_what_is_known_when_it_is_bound() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, client = s.server(), s.client()
        prepared = wire.parse("n", "SELECT leaves()") + wire.bind("", "n", []) + wire.execute("") + wire.sync()
        client.sock.send(prepared)
        s.settle()
        done = wire.bind_complete() + wire.command_complete("SELECT 1") + wire.ready_for_query()
        server.sock.send(wire.parse_complete() + wire.parameter_description([]) + wire.no_data() + done)
        s.settle()
        assert s.pool.idle_servers.count == 1
        s.pool.know({"leaves": [Effect(LOCKS, False)]}, Names([(b"leaves", CALLED)]))
        client.sock.send(wire.bind("", "n", []) + wire.execute("") + wire.sync())
        s.settle()
        server.take()
        server.sock.send(done)
        s.settle()
        assert b"pg_locks" in server.take()


def test_a_transaction_that_was_open_when_something_was_made_is_looked_at() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, client = s.server(), s.client()
        client.sock.send(wire.query("BEGIN"))
        s.settle()
        server.sock.send(wire.command_complete("BEGIN") + wire.ready_for_query(b"T"))
        s.settle()
        assert tagged(s, s.server(), s.client(), "CREATE FUNCTION")
        s.pool.unread = False
        assert looked(s, server, client, wire.query("COMMIT"))


def test_a_server_that_is_lost_may_have_made_something() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, client = s.server(), s.client()
        client.sock.send(wire.query("BEGIN"))
        s.settle()
        server.sock.send(wire.command_complete("CREATE FUNCTION") + wire.ready_for_query(b"T"))
        s.settle()
        assert not s.pool.unread
        server.close()
        assert any(isinstance(event, CodeMade) for event in events_of(s))
        assert s.pool.unread


def test_a_temporary_table_is_nobody_elses() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, client = s.server(), s.client()
        client.sock.send(wire.query("CREATE TEMP TABLE t ()"))
        s.settle()
        server.sock.send(wire.command_complete("CREATE TABLE") + wire.ready_for_query())
        assert not any(isinstance(event, CodeMade) for event in events_of(s))
        assert not s.pool.unread
