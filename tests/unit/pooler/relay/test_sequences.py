"""currval and lastval in the relay: who asks, who has drawn, who keeps its server; and how many are pinned at most."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from pooler import touches, wire
from pooler.relay.engine import TRANSACTION
from pooler.sessions import TAKEN_BACK, asks_whose
from pooler.touches import Held
from tests.unit.stage import Peer, Stage, stage

INSERT, LASTVAL, OTHER = "INSERT INTO t VALUES (1)", "SELECT lastval()", "SELECT 1"
NEVER = 1 << 62


def keeping(**settings: Any) -> dict[str, Any]:
    return {"kept": sum(Held), "unread": False, **settings}


def run(s: Stage, client: Peer, server: Peer, text: str, tag: str = "SELECT 1", status: bytes = b"I") -> bytes:
    """Ask this, and have it answered; what the server got."""
    client.send(wire.query(text))
    s.settle()
    got = server.take()
    if got == wire.query("DISCARD SEQUENCES;"):
        server.send(wire.command_complete("DISCARD SEQUENCES") + wire.ready_for_query())
        s.settle()
        got += server.take()
    server.send(wire.command_complete(tag) + wire.ready_for_query(status))
    s.settle()
    return got


def begun(s: Stage) -> tuple[Peer, Peer, Peer]:
    """A server that two clients have had, and these."""
    server, one, two = s.server(), s.client(), s.client()
    for client in (one, two):
        run(s, client, server, INSERT, "INSERT 0 1")
    assert s.pool.recalls == 0
    return server, one, two


def refused(got: bytes) -> bool:
    return b"POOLER_REFUSES_128" in got


def test_the_first_that_asks_for_what_others_may_have_drawn_finds_it_forgotten() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one, two = begun(s)
        assert run(s, one, server, LASTVAL) == wire.query("DISCARD SEQUENCES;") + wire.query(LASTVAL)
        assert run(s, one, server, LASTVAL) == wire.query(LASTVAL)
        assert run(s, one, server, OTHER) == wire.query(OTHER)
        assert run(s, two, server, OTHER) == wire.query("DISCARD SEQUENCES;") + wire.query(OTHER)


def test_who_was_alone_there_is_answered() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one = s.server(), s.client()
        run(s, one, server, INSERT, "INSERT 0 1")
        assert run(s, one, server, LASTVAL) == wire.query(LASTVAL)


def test_behind_what_was_drawn_in_the_same_transaction_it_is_answered_and_nothing_stays() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one, two = begun(s)
        run(s, one, server, "BEGIN", "BEGIN", b"T")
        run(s, one, server, INSERT, "INSERT 0 1", b"T")
        assert not refused(asked(s, one, server, OWN))
        run(s, one, server, "COMMIT", "COMMIT")
        run(s, two, server, INSERT, "INSERT 0 1")
        assert s.pool.pinned_count == 0
        assert s.pool.idle_servers.count == 1


OWN, ANOTHERS = ("1", "1"), ("1", "1,2")


def rows(locks: tuple[str, ...]) -> bytes:
    """The answer to which sequences the transaction has touched, its own question in between."""
    before, after = locks
    return wire.data_row([before, "t"]) + wire.data_row(["5"]) + wire.data_row([after, "t"])


def asked(s: Stage, client: Peer, server: Peer, said: tuple[str, str] | bytes, *, restart: bool = False) -> bytes:
    """Ask for the last value, in a transaction; what the server gets when it has `said` this of whose it is."""
    client.send(wire.query(LASTVAL))
    s.settle()
    assert server.take() == wire.query((asks_whose(LASTVAL.encode()) or b"").decode())
    if restart:
        s.restart()
    if isinstance(said, bytes):
        server.send(said + wire.ready_for_query(b"E"))
        s.settle()
        assert server.take() == wire.query(TAKEN_BACK.decode())
        server.send(wire.command_complete("RELEASE") + wire.ready_for_query(b"T"))
    else:
        server.send(rows(said) + wire.command_complete("RELEASE") + wire.ready_for_query(b"T"))
    s.settle()
    got = server.take()
    server.send(wire.command_complete("SELECT 1") + wire.ready_for_query(b"T"))
    s.settle()
    return got


NOTHING_DRAWN = wire.data_row(["1", "t"]) + wire.error_response("ERROR", "55000", "not yet defined")
NO_RIGHT = wire.error_response("ERROR", "42501", "permission denied")


@pytest.mark.parametrize(("said", "own"), [(OWN, True), (ANOTHERS, False), (NOTHING_DRAWN, True), (NO_RIGHT, False)])
@pytest.mark.parametrize("restart", [False, True])
def test_whose_it_is_the_server_says_once(said: tuple[str, str] | bytes, own: bool, restart: bool) -> None:
    """What it has refused it is not asked again: to ask has marked it as the transaction's."""
    with stage(TRANSACTION, **keeping()) as s:
        server, one, two = begun(s)
        run(s, one, server, "BEGIN", "BEGIN", b"T")
        run(s, one, server, INSERT, "INSERT 0 1", b"T")
        assert refused(asked(s, one, server, said, restart=restart)) is not own
        if own and not restart:
            assert not refused(asked(s, one, server, OWN))
        elif not own:
            assert refused(run(s, one, server, LASTVAL, status=b"T"))
        run(s, one, server, "COMMIT", "COMMIT")
        run(s, two, server, OTHER)


STOPPED = [("57014", "canceling statement"), ("55P03", "lock timeout"), ("40P01", "deadlock detected")]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("code", "words"), STOPPED)
def test_what_stops_the_question_stops_the_statement(code: str, words: str, *, late: bool, restart: bool) -> None:
    """Be it while the question is taken back. Its words are the client's, once; nobody learns anything by it."""
    told = wire.error_response("ERROR", code, words)
    with stage(TRANSACTION, **keeping()) as s:
        server, one = in_transaction(s)
        one.send(wire.query(LASTVAL))
        s.settle()
        server.take()
        if late:
            server.send(NO_RIGHT + wire.ready_for_query(b"E"))
            s.settle()
            assert server.take() == wire.query(TAKEN_BACK.decode())
        server.send(told + wire.ready_for_query(b"E"))
        s.settle()
        assert refused(server.take())
        one.take()
        if restart:
            s.restart()
        server.send(wire.error_response("ERROR", "42601", "POOLER_REFUSES_128") + wire.ready_for_query(b"E"))
        s.settle()
        assert one.take() == told + wire.ready_for_query(b"E")
        assert s.pool.recalls == 0
        assert run(s, one, server, LASTVAL, status=b"E") == wire.query(LASTVAL)
        run(s, one, server, "ROLLBACK TO a", "ROLLBACK", b"T")
        assert refused(run(s, one, server, LASTVAL, status=b"T"))
        run(s, one, server, "ROLLBACK", "ROLLBACK")


def test_the_servers_farewell_within_the_question_is_its_clients() -> None:
    told = wire.error_response("FATAL", "57P01", "terminating connection due to administrator command")
    with stage(TRANSACTION, **keeping()) as s:
        server, one = in_transaction(s)
        one.send(wire.query(LASTVAL))
        s.settle()
        one.take()
        server.send(told)
        server.close()
        s.settle()
        assert one.take() == told


def in_transaction(s: Stage) -> tuple[Peer, Peer]:
    """A client that has drawn in one, and its server, on which others were."""
    server, one, _ = begun(s)
    run(s, one, server, "BEGIN", "BEGIN", b"T")
    run(s, one, server, INSERT, "INSERT 0 1", b"T")
    return server, one


def test_what_locks_without_a_draw_does_so_behind_what_is_still_to_end() -> None:
    """The end of the transaction before, which is told later, is no word on it."""
    unset = "SELECT setval('s', 1, false)"
    with stage(TRANSACTION, **keeping()) as s:
        server, one = in_transaction(s)
        one.send(*map(wire.query, ("COMMIT", "BEGIN", unset, LASTVAL)))
        s.settle()
        assert server.take() == b"".join(map(wire.query, ("COMMIT", "BEGIN", unset)))
        for tag, status in (("COMMIT", b"I"), ("BEGIN", b"T"), ("SELECT 1", b"T")):
            server.send(wire.command_complete(tag) + wire.ready_for_query(status))
        s.settle()
        assert refused(server.take())
        server.send(wire.error_response("ERROR", "42601", "POOLER_REFUSES_128") + wire.ready_for_query(b"E"))
        s.settle()
        run(s, one, server, "ROLLBACK", "ROLLBACK")


@pytest.mark.parametrize("state", ["23505", "22012", "25P02", "2200H", "42501"])
def test_what_has_failed_may_have_locked_it(state: str) -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one = in_transaction(s)
        one.send(wire.query("SELECT f()"))
        s.settle()
        server.send(wire.error_response("ERROR", state, "for this or that") + wire.ready_for_query(b"E"))
        s.settle()
        server.take()
        run(s, one, server, "ROLLBACK TO a", "ROLLBACK", b"T")
        one.send(wire.query(LASTVAL))
        s.settle()
        assert refused(server.take()) is (state in ("2200H", "42501"))


def test_nothing_is_asked_in_the_middle_of_a_message_of_the_server_s() -> None:
    """The rest of it would be taken for a part of the answer."""
    told = wire.notice_response("NOTICE", "00000", "x" * 300_000)
    with stage(TRANSACTION, **keeping()) as s:
        server, one = in_transaction(s)
        one.take()
        server.begin(told, 200_000)
        s.settle()
        one.send(wire.query(LASTVAL))
        s.settle()
        assert refused(server.take())
        server.finish()
        s.settle()
        assert one.take() == told


def test_who_waits_for_that_answer_waits_no_longer_than_for_any() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one = in_transaction(s)
        one.send(wire.query(LASTVAL))
        s.settle()
        assert not refused(server.take())
        later = s.relay.stamp() + 1000
        while s.relay.stamp() < later:
            pass
        assert s.pool.long_servers(1000, 0, 0) == [(server.conn, "query timeout")]
        assert s.pool.long_servers(0, 0, 1000) == [(server.conn, "transaction timeout")]
        assert not s.pool.long_servers(0, 500, 0)


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL search_path = a; SELECT lastval()",
        "SELECT set_config('search_path', 'a', true), currval('s')",
    ],
)
def test_what_another_one_may_be_meant_by_is_not_asked_for(text: str) -> None:
    assert asks_whose(text.encode()) is None


def test_behind_one_that_was_set_the_last_one_is_not_asked_for() -> None:
    assert asks_whose(b"SELECT lastval()", sets_one=True) is None
    assert asks_whose(b"SELECT currval('s'), pg_catalog.lastval()", sets_one=True) is None
    assert asks_whose(b"SELECT currval('lastval()')", sets_one=True)


def test_in_a_failed_transaction_the_server_says_so_and_nothing_is_learnt_of_it() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one, two = begun(s)
        run(s, one, server, "BEGIN", "BEGIN", b"T")
        run(s, one, server, INSERT, "INSERT 0 1", b"T")
        run(s, one, server, "SELECT 1/0", status=b"E")
        assert run(s, one, server, LASTVAL, status=b"E") == wire.query(LASTVAL)
        assert s.pool.recalls == 0
        assert refused(run(s, one, server, f"ROLLBACK; {LASTVAL}", status=b"E"))
        one.send(wire.query("ROLLBACK") + wire.query(LASTVAL))
        s.settle()
        assert server.take() == wire.query("ROLLBACK")
        server.send(wire.command_complete("ROLLBACK") + wire.ready_for_query())
        s.settle()
        assert server.take() == wire.query("DISCARD SEQUENCES;")
        server.send(wire.command_complete("DISCARD SEQUENCES") + wire.ready_for_query())
        s.settle()
        assert server.take() == wire.query(LASTVAL)
        server.send(wire.error_response("ERROR", "55000", "not yet defined") + wire.ready_for_query())
        s.settle()
        run(s, two, server, OTHER)


def test_who_was_elsewhere_meanwhile_finds_nothing_of_before() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        first, one = s.server(), s.client()
        run(s, one, first, LASTVAL)
        run(s, one, first, OTHER)
        second, two = s.server(), s.client()
        assert run(s, one, second, OTHER) == wire.query(OTHER)
        assert run(s, two, second, "BEGIN", "BEGIN", b"T").startswith(wire.query("DISCARD SEQUENCES;"))
        assert run(s, one, first, OTHER) == wire.query("DISCARD SEQUENCES;") + wire.query(OTHER)
        assert run(s, one, first, OTHER) == wire.query(OTHER)


def test_who_draws_keeps_its_server_for_the_next_transaction() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one, _ = begun(s)
        run(s, one, server, LASTVAL)
        for text, tag, stays in (
            (INSERT, "INSERT 0 1", 1),
            (LASTVAL, "SELECT 1", 1),
            (LASTVAL, "SELECT 1", 1),
            (OTHER, "SELECT 1", 0),
            (LASTVAL, "SELECT 1", 0),
            ("SELECT nextval('s')", "SELECT 1", 1),
            ("DISCARD SEQUENCES", "DISCARD SEQUENCES", 0),
            ("COPY t FROM STDIN", "COPY 5", 1),
        ):
            run(s, one, server, text, tag)
            assert s.pool.pinned_count == stays, text
        assert s.pool.release_sequences(1 << 40) < 1 << 40
        assert s.pool.pinned_count == 1
        assert s.pool.release_sequences(0) == NEVER
        assert (s.pool.pinned_count, s.pool.idle_servers.count) == (0, 1)
        run(s, one, server, INSERT, "INSERT 0 1")
        one.close()
        s.settle()
        assert (s.pool.pinned_count, s.pool.idle_servers.count) == (0, 1)


def test_where_too_many_are_pinned_who_draws_does_not_stay() -> None:
    with stage(TRANSACTION, **keeping(max_pinned=0)) as s:
        server, one, _ = begun(s)
        run(s, one, server, LASTVAL)
        run(s, one, server, INSERT, "INSERT 0 1")
        assert s.pool.pinned_count == 0


def test_what_stays_does_so_behind_a_restart() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one, two = begun(s)
        run(s, one, server, LASTVAL)
        run(s, one, server, INSERT, "INSERT 0 1")
        s.restart()
        assert s.pool.pinned_count == 1
        assert run(s, one, server, LASTVAL) == wire.query(LASTVAL)
        run(s, one, server, OTHER)
        assert run(s, two, server, OTHER).startswith(wire.query("DISCARD SEQUENCES;"))


@pytest.mark.parametrize("kept", [0, sum(Held) - Held.SEQUENCE])
def test_where_it_leaks_nothing_is_done(kept: int) -> None:
    with stage(TRANSACTION, **keeping(kept=kept)) as s:
        server, one, two = begun(s)
        assert run(s, one, server, LASTVAL) == wire.query(LASTVAL)
        run(s, one, server, INSERT, "INSERT 0 1")
        assert run(s, two, server, OTHER) == wire.query(OTHER)
        assert s.pool.pinned_count == 0


def test_of_transactions_that_run_at_once_no_more_pin_than_may() -> None:
    """Each counts from its statement on, not only when it has been looked at."""
    lock = "SELECT pg_advisory_lock(1)"
    with stage(TRANSACTION, **keeping(max_pinned=1)) as s:
        pairs = [(s.server(), s.client()) for _ in range(3)]
        servers = [server for server, _ in pairs]
        for _, client in pairs:
            client.send(wire.query(lock))
        s.settle()
        assert sum(b"POOLER_REFUSES_8" in server.take() for server in servers) == 2
        assert s.pool.pinned_count == 1


def test_who_has_touched_and_left_nothing_makes_room() -> None:
    with stage(TRANSACTION, **keeping(max_pinned=1)) as s:
        server, one = s.server(), s.client()
        run(s, one, server, "SELECT pg_advisory_lock(1)")
        assert s.pool.pinned_count == 1
        assert b"pg_locks" in server.take()
        server.send(wire.command_complete("SELECT 0") + wire.ready_for_query())
        s.settle()
        assert s.pool.pinned_count == 0


LONG = "WITH a AS (SELECT 1) INSERT INTO t SELECT 1 FROM a -- " + 2000 * "x"
USUAL = {
    "SELECT x FROM t WHERE y = 1": 0,
    "UPDATE t SET x = 2": 0,
    INSERT: 0,
    INSERT + ";": 0,
    "/* made; by 'x */ " + INSERT: 0,
    "WITH a AS (SELECT 1) INSERT INTO t SELECT 1 FROM a": 1,
    LONG: 1,
    "SELECT 'the table ;', 1 -- " + 2000 * "x": 1,
    "BEGIN; CREATE TABLE u AS SELECT 1": 1,
}


@pytest.mark.parametrize("text", USUAL, ids=range(len(USUAL)))
def test_a_text_is_read_by_python_once_at_most(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    judge = Mock(side_effect=touches.judge)
    monkeypatch.setattr(touches, "judge", judge)
    with stage(TRANSACTION, **keeping()) as s:
        server, one = s.server(), s.client()
        for _ in range(3):
            assert run(s, one, server, text) == wire.query(text)
        assert judge.call_count == USUAL[text]


def test_what_stands_for_a_long_text_stands_for_no_other() -> None:
    with stage(TRANSACTION, **keeping()) as s:
        server, one = s.server(), s.client()
        for text in (LONG, LONG[:-1] + "\nSELECT pg_advisory_lock(1)"):
            assert run(s, one, server, text, "INSERT 0 1") == wire.query(text)
            assert bool(server.take()) is ("lock" in text)
