"""Rows of the views out of the relay: what each connection shows, at one instant, and traffic while they are made."""

from __future__ import annotations

import re
import socket
from dataclasses import fields, make_dataclass

import pytest

from pooler import wire
from pooler.net.address import Peer as Address
from pooler.pools.connection import ClientFacts, pointer
from pooler.relay import Pool, Relay
from pooler.relay.engine import Conn, Instant, socket_rows
from pooler.stats import BUCKETS, Averages, Counters, SocketStat, Window
from tests import TREE
from tests.unit.stage import Stage, stage

FIELDS = tuple(field.name for field in fields(SocketStat))
ABOUT = ClientFacts(Address("10.0.0.7", 4000, "10.0.0.1", 6432), "shop", "anna", tls="TLSv1.3")
ASK = wire.query("SELECT 1")
DONE = wire.command_complete("SELECT 1") + wire.ready_for_query()


def rows(s: Stage, connections: list[Conn], at: Instant, *names: str) -> list[SocketStat]:
    return socket_rows(s.relay, connections, SocketStat, FIELDS, pointer, at, *names)


def test_a_client_and_its_server_show_each_other() -> None:
    with stage() as s:
        server, client = s.server(about=ABOUT), s.client(about=ABOUT)
        client.send(ASK)
        s.settle()
        at = Instant(1_000.0, s.relay.stamp() + 2_000_000)
        (mine,) = rows(s, [client.conn], at)
        (its,) = rows(s, [server.conn], at, "owner", "base")
        assert (mine.type, mine.user, mine.database, mine.state) == ("C", "anna", "shop", "active")
        assert (its.type, its.user, its.database, its.state) == ("S", "owner", "base", "active")
        assert (mine.link, its.link) == (its.ptr, mine.ptr)
        assert (mine.addr, mine.port, mine.tls, mine.remote_pid) == ("10.0.0.7", 4000, "TLSv1.3", 0)
        assert mine.connect_time <= 998.0
        assert mine.wait_us == 0


def test_who_waits_shows_since_when_at_the_instant() -> None:
    with stage() as s:
        client = s.client(about=ABOUT)
        client.send(ASK)
        s.settle()
        now = s.relay.stamp()
        first, later = (rows(s, [client.conn], Instant(0.0, now + after))[0] for after in (0, 5_000_000))
        assert first.state == "waiting"
        assert later.wait_us == first.wait_us + 5_000_000


def test_traffic_goes_on_while_rows_are_made() -> None:
    with stage() as s:
        server, client = s.server(about=ABOUT), s.client(about=ABOUT)
        client.send(ASK)
        found = rows(s, [client.conn] * 20_000, Instant(0.0, s.relay.stamp()))
        assert len(found) == 20_000
        assert found[0].state == "idle"
        assert found[-1].state == "active"
        server.pull()
        assert server.take() == ASK
        server.send(DONE)
        s.settle()
        assert client.take() == DONE


def test_averages_are_rates_but_for_times_which_are_means() -> None:
    gained = Counters(10, 20, 30, 4000, 5000, 600, 700, 80, 8, 10, 12, 14)
    assert Averages.over(gained, 2.0) == Averages(5, 10, 15, 2000, 2500, 30, 23, 8, 4, 5, 6, 7)
    assert Averages.over(Counters(xact_time=5), 1.0) == Averages()
    assert Averages.over(gained, 0.0) == Averages()


def test_the_last_period_is_worked_out_anew_at_each_turn() -> None:
    window = Window(0.0)
    window.turn(10.0, {"a": Counters(xact_count=50)})
    assert window.last_period("a").xact_count == 5
    assert window.last_period("unknown") == Averages()
    window.turn(20.0, {"a": Counters(xact_count=150)})
    assert window.last_period("a").xact_count == 10


def test_a_field_that_nobody_fills_in_is_a_clear_error() -> None:
    """It was a crash: values were copied by their position, one more than there were."""
    wider = make_dataclass("Wider", [*FIELDS, ("rtt_us", int, 0)], slots=True, frozen=True)
    narrower = make_dataclass("Narrower", [name for name in FIELDS if name != "tls"], slots=True, frozen=True)
    with stage() as s:
        client, at = s.client(about=ABOUT), Instant(0.0, s.relay.stamp())
        for row, words in (
            (wider, "Wider has fields that the relay does not fill in: rtt_us"),
            (narrower, "Narrower has no field for what the relay fills in: .*tls"),
        ):
            names = tuple(field.name for field in fields(row))
            with pytest.raises(TypeError, match=words):
                socket_rows(s.relay, [client.conn], row, names, pointer, at)
            assert socket_rows(s.relay, [], row, names, pointer, at) == []


@pytest.mark.parametrize("tracked", [(b"application_name",), (b"TimeZone", b"application_name"), (b"TimeZone",), ()])
def test_the_name_of_an_application_is_found_wherever_it_is_tracked(tracked: tuple[bytes, ...]) -> None:
    relay = Relay(tracked)
    near, far = socket.socketpair()
    near.setblocking(False)
    values = [b"shop" if name == b"application_name" else b"UTC" for name in tracked]
    client = relay.adopt_client(Pool(relay, "a", "b"), 1, near.detach(), None, b"", values, ABOUT, bytes(8))
    (row,) = socket_rows(relay, [client], SocketStat, FIELDS, pointer, Instant(0.0, relay.stamp()))
    assert row.application_name == ("shop" if b"application_name" in tracked else "")
    relay.drop(client, "the end")
    client.finish(b"")
    relay.close()
    far.close()


def test_the_number_of_buckets_is_one_fact() -> None:
    pool = Pool(Relay(), "a", "b")
    for microseconds in (0, 31, 2**40, 2**62):
        pool.login_took(microseconds)
    counts, total = pool.histograms()[3]
    assert len(counts) == BUCKETS
    assert sum(counts) == 4
    assert total == 31 + 2**40 + 2**62
    again = re.compile(r"calloc\(1024|1024 \* sizeof\(uint64_t\)|return 1023")
    assert not [path for path in (TREE / "pooler" / "relay").glob("*.pxi") if again.search(path.read_text())]
