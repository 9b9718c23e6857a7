"""Tracked parameters: a client's values go with it from server to server, and are what the server made of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pooler import wire
from pooler.relay.engine import Relay
from tests.unit.backend import Backend
from tests.unit.stage import DEFAULTS, TRACKED, Peer, Stage, linked, stage

READY = wire.ready_for_query()
ASK = wire.query("SELECT 1")
Values = list[bytes | None]


def values(**changed: bytes | None) -> Values:
    """The defaults but for these."""
    names = [name.decode() for name in TRACKED]
    assert set(changed) <= set(names)
    return [changed.get(name, default) for name, default in zip(names, DEFAULTS, strict=True)]


def setting(name: str, sql_value: str) -> bytes:
    return wire.query(f"SET {name}={sql_value};")


def answer(s: Stage, client: Peer, data: bytes) -> bytes:
    client.send(data)
    s.settle()
    return client.take()


def test_equal_values_cost_nothing() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        answer(s, client, ASK)
        assert server.take() == ASK
        assert client.conn.parameters is server.conn.parameters


def test_values_that_nobody_has_any_more_are_forgotten() -> None:
    """They come from clients: what ten thousand logins with long names leave behind is bounded in bytes."""
    with stage() as s:
        server, client = s.server(Backend()), s.client(values(application_name=b"kept" * 1000))
        tracemalloc.start()
        try:
            for number in range(1000):
                s.relay.changed(DEFAULTS, 4, b"%09600d" % number)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 3 << 20
        # What is in use is still the one object for its values.
        again = s.relay.changed(DEFAULTS, 4, b"kept" * 1000)
        assert again is client.conn.parameters
        assert s.relay.changed(again, 4, b"") is server.conn.parameters


def test_values_in_use_are_kept_however_many_they_are() -> None:
    relay = Relay(TRACKED)
    held = [relay.changed(DEFAULTS, 4, b"%09600d" % number) for number in range(1000)]
    assert all(relay.changed(DEFAULTS, 4, one[4] or b"") is one for one in held)
    relay.close()


def test_other_values_are_set_before_the_query_is_sent() -> None:
    with stage() as s:
        server = s.server()
        client = s.client(values(TimeZone=b"Asia/Tokyo", DateStyle=b"German"))
        client.send(ASK)
        s.settle()
        assert server.take() == wire.query("SET DateStyle='German';SET TimeZone='Asia/Tokyo';")
        assert linked(client) is server.conn
        set_answer = wire.command_complete("SET") * 2
        status = wire.parameter_status("DateStyle", "German, DMY") + wire.parameter_status("TimeZone", "Asia/Tokyo")
        server.send(set_answer + status + READY)
        s.settle()
        assert client.take() == b""
        assert server.take() == ASK
        server.send(wire.command_complete("SELECT 1") + READY)
        s.settle()
        assert client.take() == wire.command_complete("SELECT 1") + READY
        assert client.conn.parameters == tuple(values(TimeZone=b"Asia/Tokyo", DateStyle=b"German, DMY"))
        answer(s, client, ASK)
        assert server.take() == ASK


def test_the_answer_to_a_set_in_pieces_reaches_nobody() -> None:
    with stage() as s:
        server, client = s.server(), s.client(values(TimeZone=b"Asia/Tokyo"))
        client.send(ASK)
        s.settle()
        for byte in wire.command_complete("SET") + wire.parameter_status("TimeZone", "Asia/Tokyo") + READY:
            server.send(bytes([byte]))
            s.settle()
        assert client.take() == b""
        assert server.take().endswith(ASK)


def test_what_comes_with_the_answer_to_a_set_is_for_the_client() -> None:
    """A server that reads fast may send both answers at once; then the first bytes are ours and the rest is not."""
    with stage() as s:
        server, client = s.server(Backend()), s.client(values(TimeZone=b"Asia/Tokyo"))
        client.send(ASK)
        s.settle()
        assert client.take().endswith(wire.command_complete("SELECT 1") + READY)
        assert server.conn.parameters == client.conn.parameters


def test_a_client_that_changes_a_value_takes_it_along() -> None:
    with stage() as s:
        one, client, other = s.server(Backend()), s.client(), s.client()
        seen = answer(s, client, wire.query("SET TimeZone='Europe/Berlin'"))
        assert wire.parameter_status("TimeZone", "Europe/Berlin") in seen
        assert b"UTC" in answer(s, other, wire.query("SHOW TimeZone"))
        assert b"Europe/Berlin" in answer(s, client, wire.query("SHOW TimeZone"))
        two = s.server(Backend())
        one.close()
        s.settle()
        assert b"Europe/Berlin" in answer(s, client, wire.query("SHOW TimeZone"))
        assert two.backend is not None
        assert two.backend.parameters["TimeZone"] == "Europe/Berlin"


def test_clients_that_take_turns_on_one_server_each_keep_their_own() -> None:
    zones = [b"Asia/Tokyo", b"Europe/Berlin", b"UTC"]
    with stage() as s:
        s.server(Backend())
        clients = [s.client(values(TimeZone=zone, application_name=b"app " + zone)) for zone in zones]
        for _ in range(3):
            for client, zone in zip(clients, zones, strict=True):
                assert zone in answer(s, client, wire.query("SHOW TimeZone"))
                assert b"app " + zone in answer(s, client, wire.query("SHOW application_name"))


@pytest.mark.parametrize(
    ("name", "client", "server", "told"),
    [
        ("TimeZone", b"utc", b"UTC", False),
        ("client_encoding", b"utf8", b"UTF8", False),
        ("application_name", b"APP", b"app", True),
        ("TimeZone", None, b"UTC", False),
        ("TimeZone", b"UTC", None, True),
        ("DateStyle", b"", b"ISO, MDY", True),
    ],
)
def test_what_counts_as_different(name: str, client: bytes | None, server: bytes | None, told: bool) -> None:
    with stage() as s:
        there, here = s.server(params=values(**{name: server})), s.client(values(**{name: client}))
        here.send(ASK)
        s.settle()
        assert (there.take() != ASK) == told


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (b"plain", b"'plain'"),
        (b"it's", b"'it''s'"),
        (b"'", b"''''"),
        (b"back\\slash", b" E'back\\\\slash'"),
        (b"\\'", b" E'\\\\'''"),
        (b"'; DROP TABLE t; --", b"'''; DROP TABLE t; --'"),
        (b"\\'; DROP TABLE t; --", b" E'\\\\''; DROP TABLE t; --'"),
        (b"\xff\xfe", b"'\xff\xfe'"),
    ],
)
def test_values_are_literals_whatever_is_in_them(value: bytes, literal: bytes) -> None:
    with stage() as s:
        server, client = s.server(), s.client(values(application_name=value))
        client.send(ASK)
        s.settle()
        assert server.take() == wire.message(b"Q", b"SET application_name=" + literal + b";\0")


def test_a_value_the_server_refuses_ends_client_and_server() -> None:
    with stage() as s:
        s.server(Backend())
        other = s.server(Backend())
        client = s.client(values(DateStyle=b"nonsense"))
        assert b"invalid server parameter" in answer(s, client, ASK)
        assert s.reasons == ["invalid server parameter"] * 2
        assert s.said == ["varcache_apply failed: ERROR: invalid value: SET DateStyle='nonsense' (22023)"]
        assert s.pool.idle_servers.count == 1
        assert other.conn.is_lost != s.peers[0].conn.is_lost


def test_a_client_that_leaves_while_its_values_are_set_takes_the_server_with_it() -> None:
    with stage() as s:
        server, client = s.server(), s.client(values(TimeZone=b"Asia/Tokyo"))
        client.send(ASK)
        s.settle()
        client.close()
        s.settle()
        assert server.conn.is_lost
        assert ASK not in server.take()


def test_a_server_lost_while_values_are_set_tells_the_client() -> None:
    with stage() as s:
        server, client = s.server(), s.client(values(TimeZone=b"Asia/Tokyo"))
        client.send(ASK)
        s.settle()
        server.send(wire.command_complete("SET")[:7])
        s.settle()
        server.close()
        s.settle()
        assert b"server conn crashed?" in client.take()


def test_an_idle_server_may_change_its_mind() -> None:
    """After a RELOAD of PostgreSQL it tells idle connections too."""
    with stage() as s:
        server, client = s.server(), s.client()
        server.send(wire.parameter_status("TimeZone", "Europe/Berlin") + wire.parameter_status("other", "x"))
        s.settle()
        assert server.conn.parameters == tuple(values(TimeZone=b"Europe/Berlin"))
        client.send(ASK)
        s.settle()
        assert server.take() == setting("TimeZone", "'UTC'")


@pytest.mark.parametrize("body", [b"", b"\0", b"TimeZone", b"TimeZone\0", b"TimeZone\0UTC", b"x" * 30])
@pytest.mark.parametrize("busy", [True, False])
def test_a_broken_parameter_status_ends_its_server_only(body: bytes, busy: bool) -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        if busy:
            answer(s, client, ASK)
        server.send(wire.message(b"S", body) + READY + wire.message(b"S", body))
        s.settle()
        assert "broken ParameterStatus packet" in s.reasons
        assert set(s.reasons) == {"broken ParameterStatus packet"}
        assert client.conn.is_lost == busy


def test_a_parameter_status_too_long_to_be_one_ends_its_server() -> None:
    with stage() as s:
        server, client = s.server(), s.client()
        answer(s, client, ASK)
        server.send(b"S\x40\0\0\0" + b"TimeZone\0" + b"x" * 100)
        s.settle()
        assert s.reasons == ["broken ParameterStatus packet"] * 2


def test_sets_of_values_are_shared() -> None:
    with stage() as s:
        s.server(Backend())
        client = s.client()
        for i in range(300):
            answer(s, client, wire.query(f"SET application_name='app {i}'"))
        one, two = s.client(values(application_name=b"same")), s.client(values(application_name=b"same"))
        assert one.conn.parameters is two.conn.parameters


def test_a_value_that_may_be_a_list_is_set_as_the_server_has_told_it() -> None:
    """SET would quote it again: `tenant, public` would be the name of one schema."""
    with extra(b"search_path") as (s, params):
        server, client = s.server(params=params(b'"$user", public')), s.client(params(b"tenant, public"))
        client.send(ASK)
        s.settle()
        told = b"SELECT pg_catalog.set_config('search_path','tenant, public',false);"
        assert server.take() == wire.message(b"Q", told + b"\0")


@pytest.mark.parametrize(("here", "there"), [(b'"Tenant"', b'"TENANT"'), (b"a", b"A")])
def test_capitals_tell_schemas_apart(here: bytes, there: bytes) -> None:
    with extra(b"search_path") as (s, params):
        server, client = s.server(params=params(there)), s.client(params(here))
        client.send(ASK)
        s.settle()
        assert b"set_config" in server.take()


@contextmanager
def extra(name: bytes) -> Iterator[tuple[Stage, Callable[[bytes], list[bytes | None]]]]:
    """A stage with one more tracked parameter."""
    with stage() as s:
        s.relay.close()
        s.relay = Relay((*TRACKED, name))
        s.pool = s.another_pool(**s.settings)
        yield s, lambda value: [*DEFAULTS, value]
