"""The figures at an instant that the test chooses: ages, waits and averages go by it, and by nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pooler.house.snapshot import LOST_LINES, TOTAL
from pooler.pools.connection import ClientFacts
from pooler.pools.reasons import Kind, Reason
from pooler.pools.registry import Waiter
from pooler.pools.running import Phase
from pooler.relay.engine import Instant
from pooler.stats import Counters, DrainStat, Event
from pooler.verbs import ConsoleSession
from tests.unit.pooler.house.test_bouncer import PEER, House, arrival, dialled

WALL = 1_800_000_000.0


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def at(house: House, seconds: float) -> Instant:
    """So long after the house was made, by both clocks."""
    return Instant(WALL + seconds, int((house.bouncer.running.now() + seconds) * 1e6))


def test_who_waits_has_waited_up_to_the_instant(house: House) -> None:
    pool, running = house.pool(), house.bouncer.running
    facts = ClientFacts(PEER, "app", "bob", number=7)
    pool.newcomers[7] = Waiter(running.now(), house.loop.create_future(), facts)
    taken = house.bouncer.figures.take(at(house, 12), clients=True)
    shown = next(stat for stat in taken.pools if stat.database == "app")
    assert shown.cl_waiting == 1
    assert shown.maxwait_us == pytest.approx(12e6, abs=1e5)
    (row,) = taken.clients
    assert (row.state, row.id, row.user, row.replication) == ("waiting", 7, "bob", "none")
    assert row.connect_time == pytest.approx(WALL, abs=0.1)
    assert row.wait_us == pytest.approx(12e6, abs=1e5)
    assert taken.now == WALL + 12
    pool.newcomers.clear()


def test_clients_and_servers_have_rows_only_where_they_are_asked_for(house: House) -> None:
    house.client(arrival(house))
    house.server(dialled())
    taken = house.bouncer.figures.take(at(house, 0))
    assert (taken.clients, taken.servers) == ((), ())
    taken = house.bouncer.figures.take(at(house, 0), clients=True, servers=True)
    assert [(row.type, row.state, row.user) for row in (*taken.clients, *taken.servers)] == [
        ("C", "idle", "bob"), ("S", "idle", "bob"),
    ]  # fmt: skip


def test_the_averages_are_of_the_time_since_the_window_turned(house: House) -> None:
    figures, now = house.bouncer.figures, house.bouncer.running.now()
    figures.window.turn(now, {TOTAL: Counters()})
    figures.window.turn(now + 10, {TOTAL: Counters(query_count=50)})
    assert figures.window.last_period(TOTAL).query_count == 5


@pytest.mark.parametrize("state", ["serving", "paused", "suspended", "ending"])
def test_what_holds_of_everything_is_shown(house: House, state: str) -> None:
    running = house.bouncer.running
    running.registry.paused = state == "paused"
    running.relay.suspended = state == "suspended"
    if state == "ending":
        running.phase = Phase.WAIT_FOR_CLIENTS
    taken = house.bouncer.figures.take(at(house, 0))
    assert taken.active is (state == "serving")
    assert (taken.paused, taken.suspended) == (state == "paused", state == "suspended")
    running.relay.suspended = False


def test_consoles_are_clients_of_the_admin_database(house: House) -> None:
    from pooler.pools.running import ConsoleClient

    running, facts = house.bouncer.running, ClientFacts(PEER, "pgbouncer", "eve", number=3)
    since = int(running.now() * 1e6)
    running.consoles[3] = ConsoleClient(ConsoleSession("eve", "stats"), facts, since, None)  # type: ignore[arg-type]
    running.console_logins = 4
    taken = house.bouncer.figures.take(at(house, 5), clients=True)
    admin = taken.pools[-1]
    assert (admin.database, admin.cl_active, admin.counters.client_login_count) == ("pgbouncer", 1, 4)
    (row,) = taken.clients
    assert (row.database, row.user, row.state) == ("pgbouncer", "eve", "idle")
    assert row.connect_time == pytest.approx(WALL, abs=0.1)
    running.consoles.clear()


def test_events_are_words_and_counts_in_order(house: House) -> None:
    house.pool()
    running = house.bouncer.running
    running.tally(Kind.LOGIN, "", Reason.REFUSED)
    running.tally(Kind.DISCONNECT, "app", Reason.CLIENT_EOF)
    running.tally(Kind.DISCONNECT, "app", Reason.CLIENT_EOF)
    running.rounds.failed("janitor", ValueError("a bug"))
    house.log.lost = 3
    events = house.bouncer.figures.take(at(house, 0)).events
    assert events == (
        Event("disconnect", "app", "client unexpected eof", 2),
        Event("login", "", "refused", 1),
        Event("round", "", "janitor", 1),
        Event("round", "", LOST_LINES, 3),
    )
    assert all(type(word) is str for event in events for word in (event.kind, event.database, event.reason))


def test_drains_tell_for_themselves(house: House) -> None:
    rows = [DrainStat("file", name, "idle", 0, 0, 0, 0, "") for name in ("a", "b")]
    house.bouncer.figures.drain_sources += [lambda: rows[:1], lambda: rows[1:]]
    assert house.bouncer.figures.take(at(house, 0)).drains == tuple(rows)


def test_descriptors_are_those_that_listen_and_those_that_could_be_handed_over(house: House) -> None:
    client, server = house.client(arrival(house)), house.server(dialled())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        house.bouncer.listeners.append(listener)
        rows = list(house.bouncer.descriptors())
        assert [(row.fd, row.task) for row in rows] == [
            (listener.fileno(), "pooler"), (client.fd, "client"), (server.fd, "server"),
        ]  # fmt: skip
        assert (rows[0].addr, rows[0].port) == listener.getsockname()
