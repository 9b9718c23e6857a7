"""What DEALLOCATE ALL and DISCARD ALL take away, on both sides, and what is prepared around them."""

from __future__ import annotations

import pytest

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import Backend, plain
from tests.unit.pooler.relay.test_prepared import READY, answer, kinds, prepare, use
from tests.unit.stage import stage

PARSED = wire.parse_complete() + wire.parameter_description([]) + wire.no_data()
"""The answer to a Parse of a name, and to the Describe that the relay sends behind it."""


@pytest.mark.parametrize("sql", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_deallocate_all_forgets_on_both_sides(sql: str) -> None:
    with stage() as s:
        server = s.server(Backend())
        one, two = s.client(), s.client()
        answer(s, one, prepare("a", "SHARED"))
        answer(s, two, prepare("a", "SHARED"))
        answer(s, one, wire.query(sql))
        assert one.conn.prepared_count == server.conn.prepared_count == 0
        assert kinds(answer(s, one, prepare("a", "SHARED two"))) == "1Z"
        assert b"SHARED|" in answer(s, two, use("a"))


def test_what_is_prepared_behind_a_deallocate_in_the_same_batch_stays() -> None:
    """The server has it: to forget that would make the next who prepares the same text fail."""
    with stage() as s:
        server, one, two = s.server(Backend()), s.client(), s.client()
        answer(s, one, prepare("old", "SHARED one"))
        assert kinds(answer(s, one, wire.query("DEALLOCATE ALL") + prepare("new", "SHARED two"))) == "CZ1Z"
        assert one.conn.prepared_count == server.conn.prepared_count == 1
        assert kinds(answer(s, two, prepare("x", "SHARED two") + use("x"))) == "1Z2DCZ"
        assert kinds(answer(s, one, use("new"))) == "2DCZ"


@pytest.mark.parametrize("most", [200, 1])
def test_what_is_skipped_behind_a_deallocate_brings_nothing_back(most: int) -> None:
    """Neither to the server, whose next client would be told of a statement that is not there, nor to the client."""
    with stage(max_prepared=most) as s:
        server, one, two = s.server(Backend()), s.client(), s.client()
        answer(s, two, prepare("b", "SHARED two"))
        answer(s, one, prepare("a", "SHARED one") + prepare("c", "SHARED two"))
        failing = wire.bind("", "nobody's", [])
        skipped = wire.parse("x", "SHARED two") + wire.parse("y", "SHARED three") + wire.close(b"S", "a") + wire.sync()
        assert kinds(answer(s, one, wire.query("DEALLOCATE ALL") + failing + skipped)) == "CZEZ"
        assert one.conn.prepared_count == server.conn.prepared_count == 0
        assert kinds(answer(s, two, use("b"))) == "2DCZ"
        assert kinds(answer(s, one, prepare("a", "SHARED four") + use("a"))) == "1Z2DCZ"


TAKING_AWAY = {
    "a Query": wire.query("DISCARD ALL"),
    "an Execute": wire.parse("", "DISCARD ALL") + wire.bind("", "", []) + wire.execute("") + wire.sync(),
    "an Execute without a Sync": wire.parse("", "DEALLOCATE ALL") + wire.bind("", "", []) + wire.execute(""),
    "one that fails": wire.query("ERROR DISCARD ALL"),
    "two": wire.query("DISCARD ALL") + wire.query("SELECT 1"),
}


@pytest.mark.parametrize("how", TAKING_AWAY)
@pytest.mark.parametrize("sql", ["SHARED one", "SHARED two"])
def test_a_name_that_may_be_free_by_then_is_taken_when_that_is_known(how: str, sql: str) -> None:
    """The Parse waits for the answer to what goes before it, which is asked for if need be."""
    program = TAKING_AWAY[how] + prepare("a", sql) + use("a")
    direct = Backend()
    direct.feed(prepare("a", "SHARED one"))
    with stage() as s:
        s.server(Backend())
        client = s.client()
        answer(s, client, prepare("a", "SHARED one"))
        got = plain(answer(s, client, program))
        wanted = direct.feed(program)
        if how == "one that fails":
            # The DETAIL is ours.
            assert kinds(got) == kinds(wanted) == "EZEZ2DCZ"
        else:
            assert got == wanted
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_it_waits_as_well_while_it_is_not_known_how_much_a_failed_copy_has_read() -> None:
    """Of two Syncs the COPY may have swallowed the first: the ledger has two guesses."""
    copying = wire.parse("", "COPY t FROM STDIN") + wire.bind("", "", []) + wire.execute("")
    refused = wire.parse_complete() + wire.bind_complete() + wire.message(b"G", b"\0\0\0")
    refused += wire.error_response("ERROR", "P0001", "refused")
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(prepare("a", "SHARED one"))
        s.settle()
        server.take()
        server.send(PARSED + READY)
        s.settle()
        client.take()
        ends = wire.sync() + wire.message(b"c") + wire.sync()
        client.send(copying + ends + wire.query("DISCARD ALL") + prepare("a", "SHARED two"))
        s.settle()
        assert server.take() == copying + ends + wire.query("DISCARD ALL")
        server.send(refused)
        s.settle()
        assert server.take() == b""
        server.send(READY + READY + wire.command_complete("DISCARD ALL") + READY)
        s.settle()
        assert b"SHARED two" in server.take()
        server.send(PARSED + READY)
        s.settle()
        assert kinds(client.take()) == "12GEZZCZ1Z"


def test_so_it_is_when_the_query_that_takes_it_away_is_answered_in_part() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(prepare("a", "SHARED one"))
        s.settle()
        server.send(PARSED + READY)
        s.settle()
        client.send(wire.query("SELECT; DISCARD ALL"))
        s.settle()
        server.send(wire.command_complete("SELECT 0"))
        s.settle()
        server.take()
        client.send(prepare("a", "SHARED two"))
        s.settle()
        assert server.take() == b""
        server.send(wire.command_complete("DISCARD ALL") + READY)
        s.settle()
        assert kinds(server.take()) == "PDS"
        client.take()
        server.send(PARSED + READY)
        s.settle()
        assert kinds(client.take()) == "1Z"
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_so_it_is_behind_a_copy_that_failed_somewhere() -> None:
    """With several guesses at what the server does: it is urged, and then knows better."""
    with stage(max_prepared=1) as s:
        s.server(Backend())
        client = s.client()
        answer(s, client, prepare("a", "SHARED one"))
        run = wire.bind("", "", []) + wire.execute("")
        copy = wire.parse("", "COPY IN") + run + wire.sync() + wire.message(b"d", b"bad") + wire.sync() + wire.sync()
        taking = wire.parse("", "DISCARD ALL") + run + wire.parse("b", "SHARED two")
        assert kinds(answer(s, client, copy + taking[:10])) == "12GEZZ"
        assert kinds(answer(s, client, taking[10:] + prepare("a", "SHARED one") + use("a"))) == "12C11Z2DCZ"
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


@pytest.mark.parametrize("tag", ["DISCARD ALX", "DEALLOCATE ALX", "SELECT 1234", "SELECT 1234567"])
def test_other_tags_of_the_same_length_forget_nothing(tag: str) -> None:
    with stage() as s:
        backend = Backend()
        server, client = s.server(backend), s.client()
        answer(s, client, prepare("a", "SHARED"))
        server.backend = None
        client.send(wire.query("x"))
        s.settle()
        server.send(wire.command_complete(tag) + READY)
        s.settle()
        assert client.conn.prepared_count == 1


@pytest.mark.parametrize("tag", ["PREPARE", "DEALLOCATE"])
def test_nobody_makes_another_run_a_text_of_his_by_a_name_of_ours(tag: str) -> None:
    """DEALLOCATE "PGBOUNCER_1"; PREPARE "PGBOUNCER_1" AS …, in SQL: nobody believes any more that it is what it was."""
    with stage() as s:
        backend = Backend()
        server, client, other = s.server(backend), s.client(), s.client()
        answer(s, client, prepare("a", "SHARED"))
        server.backend = None
        other.send(wire.query("x"))
        s.settle()
        backend.statements["PGBOUNCER_1"] = "SOMETHING else"
        server.take()
        server.send(wire.command_complete(tag) + READY)
        s.settle()
        server.backend = backend
        for _ in range(2):
            assert b"SHARED" in answer(s, client, use("a"))
        assert backend.statements == {"PGBOUNCER_1": "SHARED"}


@pytest.mark.parametrize("query", [b"DISCARD ALL", b"discard  all", b"DEALLOCATE ALL", b"SELECT 1; DEALLOCATE ALL"])
def test_what_a_reset_query_takes_away_is_told_by_the_servers_answer(query: bytes) -> None:
    with stage(engine.TRANSACTION, reset_query=query.upper(), reset_always=True) as s:
        server, client = s.server(Backend()), s.client()
        for i in range(3):
            assert kinds(answer(s, client, (prepare("a", "SHARED") if i == 0 else b"") + use("a"))).endswith("2DCZ")
        assert server.conn.prepared_count == 0


def test_a_reset_query_that_only_speaks_of_it_takes_nothing_away() -> None:
    with stage(engine.TRANSACTION, reset_query=b"SELECT DISCARD ALL", reset_always=True) as s:
        server, client = s.server(Backend()), s.client()
        answer(s, client, prepare("a", "SHARED") + use("a"))
        assert server.conn.prepared_count == 1
        assert kinds(answer(s, client, use("a"))) == "2DCZ"


# ---- what passes unnamed, unchanged, in pieces
