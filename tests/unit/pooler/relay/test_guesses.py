"""What is asked, and what is done, where several guesses are left at how much a COPY that failed has read."""

from __future__ import annotations

import time

import pytest

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import Backend
from tests.unit.pooler.relay.test_prepared import READY, answer, kinds, prepare, use
from tests.unit.stage import stage

SYNC = wire.sync()
GIVEN = wire.parse_complete() + wire.bind_complete() + wire.message(b"G", b"\0\0\0")
FAILED = wire.error_response("ERROR", "22000", "no")


def copying(*ahead: bytes) -> bytes:
    return b"".join((wire.parse("", "COPY IN"), wire.bind("", "", []), wire.execute(""), SYNC, *ahead))


def test_a_sync_tells_that_all_is_over_where_a_query_might_be_data() -> None:
    """It has swallowed the first Sync; by the other guess a Query, which may be a COPY, is still to be answered."""
    with stage() as s:
        s.server(Backend())
        client = s.client()
        burst = copying(wire.message(b"d", b"bad"), wire.parse("n0", "SHARED one"), SYNC, wire.query("ERROR"))
        assert kinds(answer(s, client, burst)) == "12GEZEZ"
        told = answer(s, client, use("n0"))
        assert kinds(told) == "EZ"
        assert b"C26000\0" in told
        assert not s.lost
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_an_error_is_no_answer_to_that_sync() -> None:
    """It has answered the first Sync, and the Query fails: what is said to our question comes behind that."""
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(copying(wire.parse("n0", "BROKEN"), SYNC, wire.query("ERROR")))
        s.settle()
        server.take()
        server.send(GIVEN + FAILED + READY + FAILED + READY)
        s.settle()
        assert kinds(client.take()) == "12GEZEZ"
        client.send(use("n0"))
        s.settle()
        assert server.take() == SYNC
        server.send(FAILED + READY + READY)
        s.settle()
        assert kinds(client.take()) == "EZ"
        assert kinds(server.take()) == "BES"
        server.send(FAILED + READY)
        s.settle()
        assert kinds(client.take()) == "EZ"
        assert not s.lost
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_what_a_deallocation_may_have_taken_is_prepared_anew() -> None:
    """By one guess the statement is parsed behind the DEALLOCATE ALL that is heard of, by the other ahead of it."""
    with stage() as s:
        server, client, other = s.server(Backend()), s.client(), s.client()
        burst = copying(
            wire.message(b"f", b"no\0"),
            wire.parse("n2", "BROKEN"),
            wire.query("DEALLOCATE ALL;ERROR"),
            SYNC,
            wire.parse("n1", "SHARED one"),
            wire.query("DEALLOCATE ALL"),
        )
        assert kinds(answer(s, client, burst)) == "12GEZ1CZ"
        assert engine.record(server.conn, {})["unsure"]
        assert s.pool.long_servers(1, 0, 1) == []
        time.sleep(0.001)
        s.turn()
        assert s.pool.long_servers(0, 1, 0) == [(server.conn, "idle transaction timeout")]
        assert b"SHARED one" in answer(s, client, use("n1"))
        assert kinds(answer(s, other, prepare("mine", "SHARED one") + use("mine"))) == "1Z2DCZ"
        assert not s.lost


@pytest.mark.parametrize("closes", ["never", "at once", "later"])
def test_who_leaves_while_its_server_is_asked_leaves_the_server_to_others(closes: str) -> None:
    """The first Sync has been swallowed or not: we ask, and the client goes in the same breath."""
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(copying(wire.message(b"d", b"bad"), wire.message(b"c"), SYNC, SYNC))
        s.settle()
        server.take()
        server.send(GIVEN + FAILED + READY + READY)
        s.settle()
        assert kinds(client.take()) == "12GEZZ"
        question = server.take()
        assert kinds(question) == "Q"
        client.send(wire.terminate())
        if closes == "later":
            s.settle()
        if closes != "never":
            client.sock.close()
        s.settle()
        assert not s.lost
        marker = question[question.index(b'"') + 1 :].partition(b'"')[0]
        server.send(wire.message(b"T", b"\0\1" + marker + b"\0" + b"\0" * 18) + wire.message(b"D", b"\0\0"))
        server.send(wire.command_complete("SELECT 1") + READY)
        s.settle()
        assert s.reasons == ["client close request"]
        assert s.states == "0a 0w / 0a 1i 0u 0t 0c"


def test_who_leaves_while_its_server_is_asked_and_gone_is_gone() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(copying(wire.message(b"d", b"bad"), wire.message(b"c"), SYNC, SYNC))
        s.settle()
        server.send(GIVEN + FAILED + READY + READY)
        s.settle()
        client.send(wire.terminate())
        s.settle()
        server.sock.close()
        s.settle()
        assert s.states == "0a 0w / 0a 0i 0u 0t 0c"
