"""Who gets which server, and when it is free again: queue, link and release, seen from both ends of the relay."""

from __future__ import annotations

import pytest

from pooler import wire
from pooler.relay import engine
from tests.unit.backend import Backend
from tests.unit.stage import Peer, Stage, linked, stage

ASK = wire.query("SELECT 1")
READY = wire.ready_for_query()
DONE = wire.command_complete("SELECT 1") + READY


def waiters(s: Stage, count: int) -> list[Peer]:
    """Clients that ask in this order."""
    made = []
    for i in range(count):
        client = s.client()
        client.send(wire.query(f"SELECT {i}"))
        s.settle()
        made.append(client)
    return made


def test_a_query_finds_its_way_and_its_server_is_free_again() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        assert server.take() == ASK
        assert s.states == "1a 0w / 1a 0i 0u 0t 0c"
        server.send(DONE)
        s.settle()
        assert client.take() == DONE
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_the_first_to_wait_is_the_first_served() -> None:
    with stage() as s:
        clients = waiters(s, 4)
        assert s.states == "0a 4w / 0a 0i 0u 0t 0c"
        server = s.server()
        for i, client in enumerate(clients):
            s.settle()
            assert server.take() == wire.query(f"SELECT {i}")
            assert linked(client) is server.conn
            server.send(DONE)
        s.settle()
        assert [client.take() for client in clients] == [DONE] * 4


def test_who_comes_later_does_not_overtake_those_who_wait() -> None:
    with stage() as s:
        server = s.server()
        busy, waiting = waiters(s, 2)
        late = s.client()
        server.take()
        server.send(DONE)
        late.send(ASK)
        s.settle()
        assert linked(waiting) is server.conn
        assert late.conn.state_name == "waiting"
        assert busy.conn.state_name == "idle"


@pytest.mark.parametrize(("round_robin", "expected"), [(False, [2, 2, 2]), (True, [0, 1, 2])])
def test_the_last_server_freed_is_the_first_used_unless_they_take_turns(round_robin: bool, expected: list[int]) -> None:
    with stage(round_robin=round_robin) as s:
        servers = [s.server(Backend()) for _ in range(3)]
        client = s.client()
        used = []
        for _ in range(3):
            client.send(ASK)
            s.settle()
            used += [i for i, server in enumerate(servers) if server.take()]
        assert used == expected


def test_each_new_waiter_asks_for_a_server_until_the_pool_is_full() -> None:
    with stage() as s:
        waiters(s, 3)
        assert s.wanted == 3
        s.pool.full = True
        waiters(s, 3)
        assert s.wanted == 3


def test_clients_of_one_pool_never_get_a_server_of_another() -> None:
    with stage() as s:
        other = s.another_pool(mode=engine.TRANSACTION)
        server = s.server(Backend(), pool=other)
        client = s.client()
        client.send(ASK)
        s.settle()
        assert not server.take()
        assert client.conn.state_name == "waiting"


# ---- when a server is free


@pytest.mark.parametrize("status", [b"T", b"E"])
def test_a_server_in_a_transaction_stays(status: bytes) -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(wire.command_complete("BEGIN") + wire.ready_for_query(status))
        s.settle()
        assert linked(client) is server.conn
        client.send(ASK)
        s.settle()
        server.send(DONE)
        s.settle()
        assert s.pool.idle_servers.count == 1


def test_a_server_that_owes_more_answers_stays() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK * 3)
        s.settle()
        for left in (2, 1, 0):
            server.send(DONE)
            s.settle()
            assert (linked(client) is not None) == bool(left)
        assert client.take() == DONE * 3


def test_extended_messages_without_their_sync_hold_the_server() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        one = wire.parse("", "SELECT 1") + wire.bind("", "", []) + wire.execute("") + wire.sync()
        client.send(one + wire.parse("", "SELECT 2") + wire.flush())
        s.settle()
        server.send(wire.parse_complete() + wire.bind_complete() + DONE + wire.parse_complete())
        s.settle()
        assert linked(client) is server.conn
        client.send(wire.sync())
        s.settle()
        server.send(READY)
        s.settle()
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_a_query_ends_an_extended_exchange_that_had_no_sync() -> None:
    """PostgreSQL commits at the Query's end; waiting for a Sync that may never come would keep the server."""
    with stage() as s:
        s.server(Backend())
        client = s.client()
        client.send(wire.parse("", "SELECT 1") + wire.bind("", "", []) + wire.execute("") + ASK)
        s.settle()
        assert client.take().endswith(READY)
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_a_half_sent_message_holds_the_server() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK + wire.query("SELECT 22")[:-3])
        s.settle()
        server.send(DONE)
        s.settle()
        assert linked(client) is server.conn
        client.send(wire.query("SELECT 22")[-3:])
        s.settle()
        assert server.take() == ASK + wire.query("SELECT 22")
        server.send(DONE)
        s.settle()
        assert linked(client) is None


def test_a_cut_header_is_no_part_of_a_message_yet() -> None:
    """What has not been sent to the server does not bind it."""
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK + b"Q\0\0")
        s.settle()
        server.send(DONE)
        s.settle()
        assert linked(client) is None
        client.send(b"\0\x0dSELECT 2\0")
        s.settle()
        assert server.take() == ASK + wire.query("SELECT 2")


def test_an_early_answer_to_a_message_under_way_frees_the_server_when_the_message_ends() -> None:
    """A COPY that fails answers before the client's CopyData is whole; the end of it is what the server waits for."""
    with stage() as s:
        server, client = s.server(), s.client()
        row = wire.message(b"d", b"r" * 100)
        client.send(wire.query("COPY t FROM STDIN"))
        s.settle()
        server.send(wire.message(b"G", b"\0\0\0"))
        s.settle()
        client.send(row[:50])
        s.settle()
        server.send(wire.error_response("ERROR", "22P04", "bad row") + READY)
        s.settle()
        assert linked(client) is server.conn
        client.send(row[50:])
        s.settle()
        assert s.states == "1a 0w / 0a 1i 0u 0t 0c"
        client.send(wire.message(b"c") + ASK)
        s.settle()
        assert server.take().endswith(row + ASK)


def test_an_early_answer_does_not_free_a_server_before_all_is_sent_to_it() -> None:
    with stage() as s:
        server, client, other = s.server(), s.client(), s.client()
        row = wire.message(b"d", b"r" * 3_000_000)
        client.send(wire.query("COPY t FROM STDIN"))
        s.settle()
        server.send(wire.message(b"G", b"\0\0\0"))
        s.settle()
        server.reading = False
        client.send(row)
        s.settle()
        server.send(wire.error_response("ERROR", "22P04", "bad row") + READY)
        other.send(ASK)
        s.settle()
        assert linked(client) is server.conn
        server.reading = True
        s.settle()
        assert server.take().endswith(row + ASK)
        assert linked(other) is server.conn


@pytest.mark.parametrize("stray", [wire.ready_for_query(), wire.command_complete("X"), b"Z\0\0\0"])
def test_what_follows_the_last_answer_reaches_nobody(stray: bytes) -> None:
    with stage() as s:
        server, client, other = s.server(), s.client(), s.client()
        client.send(ASK)
        other.send(ASK)
        s.settle()
        server.send(DONE + stray)
        s.settle()
        assert client.take() == DONE
        assert other.take() == b""
        if len(stray) > 4:
            assert s.reasons == ["idle server got dirty"]
            assert other.conn.state_name == "waiting"
        else:
            assert linked(other) is None
        assert server.take() in (ASK, ASK + wire.terminate())


def test_what_follows_a_read_that_was_full_reaches_nobody_either() -> None:
    """The relay reads 64 kB at a time: an answer that ends with such a piece is not the end of what has come."""
    with stage() as s:
        server, client, other = s.server(), s.client(), s.client()
        client.send(ASK)
        other.send(ASK)
        s.settle()
        answer = wire.data_row(["r" * (65_536 - len(DONE) - 11)]) + DONE
        assert len(answer) == 65_536
        server.send(answer + wire.data_row(["stray"]))
        s.settle()
        assert client.take() == answer
        assert s.reasons == ["idle server got dirty"]
        assert other.take() == b""


def test_notices_behind_the_last_answer_are_dropped_and_the_server_stays() -> None:
    with stage() as s:
        server, client, other = s.server(), s.client(), s.client()
        client.send(ASK)
        other.send(ASK)
        s.settle()
        notice = wire.notice_response("WARNING", "01000", "late")
        server.send(DONE + notice[:7])
        s.settle()
        assert linked(other) is None
        server.send(notice[7:])
        s.settle()
        assert client.take() == DONE
        assert linked(other) is server.conn
        server.send(DONE)
        s.settle()
        assert other.take() == DONE


def test_a_server_that_speaks_behind_its_login_is_not_given_to_anybody_before_it_is_read() -> None:
    with stage() as s:
        (client,) = waiters(s, 1)
        notice = wire.notice_response("WARNING", "01000", "hello")
        good = s.server(leftover=notice)
        s.settle()
        assert linked(client) is good.conn
        good.send(DONE)
        s.settle()
        assert client.take() == DONE
        client.send(ASK)
        s.settle()
        late = s.client()
        late.send(ASK)
        s.settle()
        s.server(leftover=DONE)
        s.settle()
        assert s.reasons == ["idle server got dirty"]
        assert late.take() == b""


def test_a_server_login_leftover_in_two_parts() -> None:
    with stage() as s:
        (client,) = waiters(s, 1)
        notice = wire.notice_response("WARNING", "01000", "hello")
        server = s.server(leftover=notice[:9])
        s.settle()
        assert linked(client) is None
        server.send(notice[9:])
        s.settle()
        assert linked(client) is server.conn
        assert client.take() == b""


# ---- modes


def test_session_mode_keeps_the_server_until_the_client_leaves() -> None:
    with stage(engine.SESSION) as s:
        server, client, other = s.server(Backend()), s.client(), s.client()
        client.send(ASK)
        s.settle()
        other.send(ASK)
        s.settle()
        assert linked(client) is server.conn
        assert other.conn.state_name == "waiting"
        client.send(wire.terminate())
        s.settle()
        assert linked(other) is server.conn
        assert other.take().endswith(READY)


def test_statement_mode_refuses_transaction_blocks() -> None:
    with stage(engine.STATEMENT) as s:
        s.server(Backend())
        client = s.client()
        client.send(wire.query("SELECT 1"), wire.query("BEGIN"))
        s.settle()
        assert s.reasons == ["transaction blocks not allowed in statement pooling mode"] * 2
        done, refused = client.take().split(b"Z\0\0\0\5I")
        assert done.endswith(b"SELECT 1\0")
        assert refused.startswith(b"E"), "an answer to what was not allowed"
        assert b"transaction blocks not allowed" in refused


def test_statement_mode_frees_the_server_after_each_statement() -> None:
    with stage(engine.STATEMENT) as s:
        s.server(Backend())
        one, other = s.client(), s.client()
        for client in (one, other, one):
            client.send(ASK)
            s.settle()
            assert client.take().endswith(READY)


def test_the_reset_query_runs_between_two_clients() -> None:
    with stage(engine.SESSION, reset_query=b"DISCARD ALL") as s:
        server, one, other = s.server(), s.client(), s.client()
        one.send(ASK)
        other.send(ASK)
        s.settle()
        server.send(DONE)
        s.settle()
        server.take()
        one.send(wire.terminate())
        s.settle()
        assert server.take() == wire.query("DISCARD ALL")
        assert s.states == "0a 1w / 0a 0i 0u 1t 0c"
        server.send(wire.command_complete("DISCARD ALL") + READY)
        s.settle()
        assert server.take() == ASK
        server.send(DONE)
        s.settle()
        assert other.take() == DONE


@pytest.mark.parametrize("answer", [wire.error_response("ERROR", "XX000", "no") + READY, wire.ready_for_query(b"T")])
def test_a_failed_reset_query_ends_the_server(answer: bytes) -> None:
    with stage(engine.TRANSACTION, reset_query=b"DISCARD ALL", reset_always=True) as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(DONE)
        s.settle()
        server.send(answer)
        s.settle()
        assert s.reasons == ["reset query failed"]


def test_a_server_free_for_long_is_tested_before_use() -> None:
    with stage(check_query=b"SELECT 7") as s:
        server = s.server()
        s.pool.age_idle()
        assert s.states == "0a 0w / 0a 0i 1u 0t 0c"
        client = s.client()
        client.send(ASK)
        s.settle()
        assert server.take() == wire.query("SELECT 7")
        assert client.conn.state_name == "waiting"
        server.send(DONE)
        s.settle()
        assert server.take() == ASK
        assert client.take() == b""


def test_a_server_that_fails_its_check_is_ended_and_the_next_is_tried() -> None:
    with stage(check_query=b"SELECT 7") as s:
        servers = [s.server(), s.server()]
        s.pool.age_idle()
        client = s.client()
        client.send(ASK)
        s.settle()
        tested = next(server for server in servers if server.take())
        tested.send(wire.error_response("FATAL", "57P01", "going") + READY)
        s.settle()
        assert s.reasons == ["test query failed"]
        left = next(server for server in servers if server is not tested)
        assert left.take() == wire.query("SELECT 7")
        left.send(DONE)
        s.settle()
        assert linked(client) is left.conn


def test_a_used_server_is_tested_for_those_who_wait_although_no_other_comes() -> None:
    """When the tested one is lost, the next is tested without a new client having to ask."""
    with stage(check_query=b"SELECT 7") as s:
        servers = [s.server(), s.server()]
        s.pool.age_idle()
        client = s.client()
        client.send(ASK)
        s.settle()
        tested = next(server for server in servers if server.take())
        tested.close()
        s.settle()
        left = next(server for server in servers if server is not tested)
        assert left.take() == wire.query("SELECT 7")


# ---- pause, limits, ends


def test_a_paused_pool_lets_nobody_in_until_it_is_resumed() -> None:
    with stage() as s:
        server = s.server()
        (busy,) = waiters(s, 1)
        s.pool.paused = True
        (waiting,) = waiters(s, 1)
        assert s.wanted == 0
        server.send(DONE)
        s.settle()
        assert s.ready == [server.conn]
        assert busy.take() == DONE
        assert linked(waiting) is None
        s.pool.paused = False
        s.pool.resume()
        s.settle()
        assert linked(waiting) is server.conn


def test_servers_that_have_to_go_are_not_used_again() -> None:
    with stage() as s:
        old, new = s.server(), s.server()
        for server in (old, new):
            server.conn.close_needed = True
        client = s.client()
        client.send(ASK)
        s.settle()
        assert s.reasons == ["obsolete connection"] * 2
        assert client.conn.state_name == "waiting"


def test_a_server_past_its_lifetime_goes_when_it_is_released() -> None:
    with stage(lifetime=1) as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(DONE)
        s.settle()
        assert s.reasons == ["server lifetime over"]
        assert client.take() == DONE


def test_suspended_nothing_moves_and_then_all_does() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        s.relay.suspended = True
        server.send(DONE)
        other = s.client()
        other.send(ASK)
        client.send(ASK)
        s.settle()
        assert client.take() == other.take() == b""
        s.relay.suspended = False
        for conn in (*s.pool.clients(), *s.pool.servers()):
            conn.carry_on()
        s.settle()
        assert client.take() == DONE
        assert server.take() == ASK * 2


def test_a_failing_pool_turns_clients_away_at_once() -> None:
    with stage() as s:
        s.pool.failing = "server login has been failing"
        client = s.client()
        client.send(ASK)
        s.settle()
        assert b"server login has been failing" in client.take()
        assert client.ended
        assert s.wanted == 1


def test_a_server_with_a_cancel_request_on_its_way_waits_for_it() -> None:
    with stage() as s:
        server, client, other = s.server(), s.client(), s.client()
        client.send(ASK)
        other.send(ASK)
        s.settle()
        assert isinstance(server.conn, engine.Server)
        server.conn.cancel_begins()
        server.conn.cancel_begins()
        server.send(DONE)
        s.settle()
        assert s.pool.canceled_servers.count == 1
        assert linked(other) is None
        server.conn.cancel_ends()
        assert linked(other) is None
        server.conn.cancel_ends()
        s.settle()
        assert linked(other) is server.conn


def test_what_is_to_be_asked_meanwhile_is_asked_behind_the_cancel_request() -> None:
    """The server was nobody's for good: from being cancelled nothing led to a question."""
    with stage() as s:
        server, client, other = s.server(Backend()), s.client(), s.client()
        server.reading = False
        client.send(ASK)
        s.settle()
        assert isinstance(server.conn, engine.Server)
        server.conn.cancel_begins()
        server.reading = True
        s.settle()
        s.pool.ask(b"SELECT 'asked'")
        other.send(ASK)
        s.settle()
        assert (s.pool.canceled_servers.count, s.pool.waiting_clients.count) == (1, 1)
        server.conn.cancel_ends()
        s.settle()
        assert b"'asked'" in server.take()
        assert (s.pool.idle_servers.count, s.pool.waiting_clients.count) == (1, 0)


def test_a_cancelled_wait_is_answered_and_the_next_request_is_another() -> None:
    with stage() as s:
        client = s.client()
        client.send(wire.parse("", "SELECT 1") + wire.sync() + ASK)
        s.settle()
        assert isinstance(client.conn, engine.Client)
        error = wire.error_response("ERROR", "57014", "canceling statement due to user request")
        assert client.conn.cancel_queued(error)
        s.settle()
        assert client.take() == error + READY
        assert client.conn.state_name == "waiting"
        server = s.server(Backend())
        s.settle()
        assert server.take() == ASK
        assert not client.conn.cancel_queued(error)


@pytest.mark.parametrize("part", [b"Q\0\0\0\x20SELECT", wire.parse("", "SELECT 1"), b""])
def test_a_request_that_is_not_here_whole_cannot_be_dropped(part: bytes) -> None:
    with stage() as s:
        client = s.client()
        client.send(part)
        s.settle()
        assert isinstance(client.conn, engine.Client)
        assert not client.conn.cancel_queued(b"")
        s.settle()
        assert not s.lost


@pytest.mark.parametrize(
    ("limits", "reason"),
    [((1, 0, 0), "query timeout"), ((0, 1, 0), "idle transaction timeout"), ((0, 0, 1), "transaction timeout")],
)
def test_the_long_ones_are_found_by_limit(limits: tuple[int, int, int], reason: str) -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        assert not s.pool.long_servers(*limits)
        client.send(ASK)
        s.settle()
        if reason == "idle transaction timeout":
            server.send(wire.command_complete("BEGIN") + wire.ready_for_query(b"T"))
            s.settle()
        before = s.relay.stamp()
        while s.relay.stamp() < before + 2:
            pass
        assert s.pool.long_servers(*limits) == [(server.conn, reason)]
        assert not s.pool.long_servers(*(limit * 10**9 for limit in limits))


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (wire.parse("", "SELECT 1") + wire.bind("", "", []) + wire.execute("") + wire.flush(), b""),
        (wire.parse("", "SELECT 1") + wire.flush(), b""),
        (ASK, wire.row_description([("a", 25)])),
        (wire.query("COPY t FROM STDIN"), wire.message(b"G", b"\0\0\0")),
        (wire.query("COPY t FROM STDIN") + wire.message(b"d", b"row"), wire.message(b"G", b"\0\0\0")),
    ],
)
def test_a_transaction_at_work_is_not_idle(said: bytes, answered: bytes) -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(wire.command_complete("BEGIN") + wire.ready_for_query(b"T"))
        s.settle()
        client.send(said)
        server.send(answered)
        s.settle()
        later = s.relay.stamp() + 1000
        while s.relay.stamp() < later:
            pass
        assert not s.pool.long_servers(0, 500, 0)


def test_a_transaction_is_idle_since_the_last_answer() -> None:
    """Without a Sync as well, when all is answered."""
    with stage() as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(wire.command_complete("BEGIN") + wire.ready_for_query(b"T"))
        s.settle()
        client.send(wire.parse("", "SELECT 1") + wire.flush())
        s.settle()
        server.send(wire.parse_complete())
        s.settle()
        assert not s.pool.long_servers(0, 10**9, 0)
        later = s.relay.stamp() + 1000
        while s.relay.stamp() < later:
            pass
        assert s.pool.long_servers(0, 500, 0) == [(server.conn, "idle transaction timeout")]


@pytest.mark.parametrize("mode", [engine.TRANSACTION, engine.STATEMENT])
@pytest.mark.parametrize("kind", [b"A", b"N"])
def test_who_has_begun_to_read_a_message_is_left_when_it_has_all_of_it(mode: int, kind: bytes) -> None:
    """One that nobody has asked for, too long to be here whole; nothing is owed, and the client ends a message of its
    own meanwhile, by which alone the server would be free."""
    said = wire.message(kind, b"\0\0\0\1channel\0" + b"x" * 200_000 + b"\0")
    stray = wire.message(b"d", b"a row of no COPY")
    with stage(mode) as s:
        server, client, other = s.server(), s.client(), s.client()
        client.send(ASK + stray[:7])
        s.settle()
        server.send(DONE)
        s.settle()
        assert (server.take()[: len(ASK)], client.take()) == (ASK, DONE)
        heard = bytearray()
        for part, more in ((said[:600], b""), (said[600:150_000], stray[7:]), (said[150_000:], b"")):
            assert linked(client) is server.conn
            server.send(part)
            s.settle()
            client.send(more)
            s.settle()
            heard += client.take()
        assert heard == said
        assert s.states == "2a 0w / 0a 1i 0u 0t 0c"
        server.take()
        other.send(ASK)
        s.settle()
        assert server.take() == ASK
        assert other.take() == b""
