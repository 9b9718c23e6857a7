"""One account of a pool's servers: what each state counts for stands in a table, and whoever counts agrees with it. Who
waits is given what is about to be free, and no more is asked for than is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pooler import wire
from pooler.pools.verdict import STANDING, Standing, standing
from pooler.relay import engine
from tests.unit.backend import Backend
from tests.unit.pooler.relay.test_link import ASK, DONE, waiters
from tests.unit.stage import Peer, Stage, linked, stage

CHECK = wire.query("SELECT 7")
NOTICE = wire.notice_response("NOTICE", "00000", "a word for nobody")
HOUR = 3_600_000_000


def checked(delay: int = HOUR, **more: Any) -> dict[str, Any]:
    return {"check_query": b"SELECT 7", "check_delay": delay, **more}


def used(s: Stage, count: int = 1) -> list[Peer]:
    """Servers that have been free for so long that they have to be tested."""
    made = [s.server() for _ in range(count)]
    s.pool.check_delay = 0
    s.pool.age_idle()
    s.pool.check_delay = HOUR
    return made


def idle(s: Stage) -> None:
    s.server()


def being_tested(s: Stage) -> None:
    (server,) = used(s)
    assert isinstance(server.conn, engine.Server)
    server.conn.check()


def active(s: Stage) -> None:
    server = s.server()
    waiters(s, 1)
    server.take()


def being_canceled(s: Stage) -> None:
    server, (client,) = s.server(), waiters(s, 1)
    assert isinstance(server.conn, engine.Server)
    server.conn.cancel_begins()
    server.send(DONE)
    s.settle()
    client.take()


MADE: dict[str, Callable[[Stage], object]] = {
    "idle": idle,
    "used": used,
    "tested": being_tested,
    "active": active,
    "being_canceled": being_canceled,
}


def test_the_table_knows_all_states() -> None:
    with stage() as s:
        assert set(STANDING) == {*s.pool.server_lists, "new"}
    assert set(MADE) == set(STANDING) - {"new"}


@pytest.mark.parametrize("state", MADE)
def test_the_relays_sums_are_those_of_the_table(state: str) -> None:
    with stage(**checked()) as s:
        MADE[state](s)
        (server,) = s.pool.servers()
        assert server.state_name == state
        assert s.pool.server_lists[state].all() == [server]
        assert s.pool.server_count == (Standing.ROOM in STANDING[state])
        for what in Standing:
            assert standing(s.pool, what) == [server] * (what in STANDING[state])
        s.wanted = 0
        waiters(s, 1)
        served = state == "idle"
        assert s.pool.missing == s.wanted == (not served and Standing.COMING not in STANDING[state])


# ---- no more than are missing


def test_as_many_are_tested_as_wait_and_none_is_asked_for() -> None:
    with stage(**checked()) as s:
        servers = used(s, 3)
        clients = waiters(s, 2)
        assert s.states == "0a 2w / 0a 0i 1u 2t 0c"
        assert s.wanted == 0
        for server in servers:
            if server.take() == CHECK:
                server.send(DONE)
        s.settle()
        assert {linked(client) for client in clients} < {server.conn for server in servers}
        assert s.states == "2a 0w / 2a 0i 1u 0t 0c"


def test_of_three_one_is_dead_and_three_are_served() -> None:
    with stage(**checked()) as s:
        servers, clients = used(s, 3), waiters(s, 3)
        assert s.states == "0a 3w / 0a 0i 0u 3t 0c"
        dead, *living = servers
        for _ in range(2):
            for server in living:
                if server.take():
                    server.send(DONE)
            s.settle()
        for server in living:
            server.send(DONE) if server.take() else None
        s.settle()
        assert sum(client.take() == DONE for client in clients) == 3
        assert dead.conn.state_name == "tested"
        assert s.wanted == 0


def test_beside_a_server_that_is_reset_only_the_second_who_waits_asks_for_another() -> None:
    with stage(engine.SESSION, reset_query=b"DISCARD ALL") as s:
        server, (first,) = s.server(), waiters(s, 1)
        server.send(DONE)
        s.settle()
        first.close()
        s.settle()
        assert s.states == "0a 0w / 0a 0i 0u 1t 0c"
        s.wanted = 0
        waiters(s, 1)
        assert (s.wanted, s.pool.missing) == (0, 0)
        waiters(s, 1)
        assert (s.wanted, s.pool.missing) == (1, 1)


def test_a_test_that_is_not_answered_keeps_nobody_waiting() -> None:
    with stage(**checked()) as s:
        used(s)
        waiters(s, 1)
        assert s.wanted == 0
        s.relay.patience = -1
        s.pool.resume()
        s.settle()
        assert (s.wanted, s.pool.missing) == (1, 1)


def test_the_next_is_tested_when_the_first_does_not_answer() -> None:
    with stage(**checked()) as s:
        used(s, 2)
        waiters(s, 1)
        assert s.states == "0a 1w / 0a 0i 1u 1t 0c"
        s.relay.patience = -1
        s.pool.resume()
        s.settle()
        assert s.states == "0a 1w / 0a 0i 0u 2t 0c"
        assert s.wanted == 0


def test_a_hanging_test_or_reset_is_found() -> None:
    with stage(engine.SESSION, reset_query=b"DISCARD ALL", **checked()) as s:
        used(s)
        waiters(s, 1)
        assert s.pool.hanging(HOUR) == []
        assert s.pool.hanging(-1) == [(s.pool.servers()[0], "test query failed")]
        server = s.server()
        s.settle()
        server.send(DONE)
        s.settle()
        s.relay.drop(s.pool.clients()[0], "goes")
        s.settle()
        assert s.pool.hanging(-1)[-1] == (server.conn, "reset query failed")


def test_a_server_in_the_middle_of_a_message_is_about_to_be_free() -> None:
    with stage() as s:
        server = s.server()
        server.send(NOTICE[:9])
        s.settle()
        (client,) = waiters(s, 1)
        assert (s.wanted, s.pool.missing) == (0, 0)
        assert s.states == "0a 1w / 0a 1i 0u 0t 0c"
        server.send(NOTICE[9:])
        s.settle()
        assert linked(client) is server.conn


def test_one_that_stops_there_keeps_nobody_waiting() -> None:
    with stage() as s:
        s.server().send(NOTICE[:9])
        s.settle()
        waiters(s, 1)
        s.relay.patience = -1
        s.pool.resume()
        s.settle()
        assert (s.wanted, s.pool.missing) == (1, 1)


INCOMPLETE = "incomplete packet from server"


def test_one_that_stops_there_is_found_when_it_has_been_silent_for_too_long() -> None:
    """Idle, or not yet released: a notice behind its ReadyForQuery."""
    with stage() as s:
        idle, server = s.server(), s.server()
        idle.send(NOTICE[:9])
        s.settle()
        (client,) = waiters(s, 1)
        assert linked(client) is server.conn
        assert s.pool.hanging(-1) == [(idle.conn, INCOMPLETE)]
        server.send(DONE + NOTICE[:3])
        s.settle()
        assert linked(client) is None
        assert s.states == "1a 0w / 1a 1i 0u 0t 0c"
        assert s.pool.hanging(HOUR) == []
        assert s.pool.hanging(-1) == [(server.conn, INCOMPLETE), (idle.conn, INCOMPLETE)]
        idle.send(NOTICE[9:])
        server.send(NOTICE[3:])
        s.settle()
        assert s.pool.hanging(-1) == []
        assert s.states == "1a 0w / 0a 2i 0u 0t 0c"


# ---- server_check_delay


def test_with_no_delay_a_server_is_tested_before_every_use() -> None:
    with stage(**checked(delay=0)) as s:
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        assert server.take() == ASK  # it has just logged in
        for _ in range(2):
            server.send(DONE)
            s.settle()
            assert server.conn.state_name == "used"
            client.send(ASK)
            s.settle()
            assert server.take() == CHECK
            server.send(DONE)
            s.settle()
            assert server.take() == ASK
        assert s.wanted == 0


def test_with_no_delay_a_reset_is_test_enough() -> None:
    with stage(reset_query=b"DISCARD ALL", reset_always=True, **checked(delay=0)) as s:
        server, client = s.server(Backend()), s.client()
        client.send(ASK)
        s.settle()
        assert server.take() == ASK + wire.query("DISCARD ALL")
        assert server.conn.state_name == "idle"


def test_a_server_that_needs_no_test_any_more_is_free() -> None:
    for changed in ({"check_query": None}, {"check_delay": 2 * HOUR}):
        with stage(**checked()) as s:
            (server,) = used(s)
            for name, value in changed.items():
                setattr(s.pool, name, value)
            s.pool.rejuvenate()
            (client,) = waiters(s, 1)
            assert linked(client) is server.conn


def test_one_may_be_tested_although_nobody_waits() -> None:
    with stage(**checked()) as s:
        used(s, 2)
        s.pool.try_one()
        s.pool.try_one()
        assert s.states == "0a 0w / 0a 0i 1u 1t 0c"
        s.pool.paused = True
        s.relay.drop(s.pool.server_lists["tested"].all()[0], "gone")
        s.pool.try_one()
        assert s.states == "0a 0w / 0a 0i 1u 0t 0c"


# ---- for a neighbour


def test_what_comes_free_is_first_offered_to_a_neighbour_who_has_waited_for_longer() -> None:
    with stage() as s:
        server, (client,) = s.server(), waiters(s, 1)
        s.pool.rival = s.relay.stamp()
        (later,) = waiters(s, 1)
        server.take()
        server.send(DONE)
        client.send(ASK)
        s.settle()
        assert s.ready == [server.conn]
        assert s.states == "0a 2w / 0a 1i 0u 0t 0c", "taken before the neighbour was asked"
        s.pool.resume()
        s.settle()
        assert linked(later) is server.conn
        server.send(DONE)
        s.settle()
        assert linked(client) is server.conn, "the neighbour is asked again, although it has not said so"


def test_who_has_waited_for_longer_than_the_neighbour_is_served() -> None:
    with stage() as s:
        server, (first, second) = s.server(), waiters(s, 2)
        s.pool.rival = s.relay.stamp()
        server.send(DONE)
        s.settle()
        assert linked(second) is server.conn
        assert not s.ready
        server.send(DONE)
        s.settle()
        assert s.ready == [server.conn]
        assert first.take() == DONE


def test_a_server_that_ends_while_a_neighbour_is_asked_stops_nobody() -> None:
    with stage() as s:
        server, _ = s.server(), waiters(s, 1)
        s.pool.rival = s.relay.stamp()
        server.send(DONE)
        s.settle()
        s.relay.drop(server.conn, "evicted")
        (client,) = waiters(s, 1)
        other = s.server()
        s.pool.resume()
        s.settle()
        assert linked(client) is other.conn


# ---- facts


TOLD = {b"in_hot_standby": b"on", b"IntervalStyle": b"postgres", b"TimeZone": b"UTC"}
OFF = wire.parameter_status("in_hot_standby", "off")
STYLE = wire.parameter_status("IntervalStyle", "iso_8601")


@pytest.mark.parametrize("state", ["idle", "tested"])
def test_what_a_server_says_that_is_nobodys_is_a_fact(state: str) -> None:
    with stage(**checked()) as s:
        s.pool.told = TOLD
        server = s.server() if state == "idle" else used(s)[0]
        if state == "tested":
            s.pool.try_one()
        assert server.conn.state_name == state
        server.send(OFF, STYLE, wire.parameter_status("TimeZone", "UTC"))
        s.settle()
        assert s.facts == [(b"in_hot_standby", b"off"), (b"IntervalStyle", b"iso_8601")]


def test_of_what_comes_for_a_client_only_that_is_a_fact_which_no_client_sets() -> None:
    with stage() as s:
        s.pool.told = TOLD
        server, client = s.server(), s.client()
        client.send(ASK)
        s.settle()
        server.send(STYLE, OFF, wire.parameter_status("TimeZone", "Asia/Tokyo"), DONE)
        s.settle()
        assert s.facts == [(b"in_hot_standby", b"off")]
        assert client.take().startswith(STYLE + OFF)


def test_a_server_that_has_to_go_and_a_pool_without_a_greeting_have_no_facts() -> None:
    with stage() as s:
        old, new = s.server(), s.server()
        old.send(OFF)
        s.settle()
        s.pool.told = TOLD
        new.conn.close_needed = True
        new.send(OFF)
        s.settle()
        assert s.facts == []


# ---- words


def test_a_client_may_be_told_the_servers_own_sqlstate() -> None:
    with stage() as s:
        one, other = s.client(), s.client()
        s.relay.drop(one.conn, 'role "bob" is not permitted to log in', sqlstate="28000")
        s.relay.drop(other.conn, "query_wait_timeout")
        events = s.relay.events
        assert [event[1:] for event in events] == [
            ('role "bob" is not permitted to log in', True, "28000"),
            ("query_wait_timeout", True, None),
        ]
        s.settle()
