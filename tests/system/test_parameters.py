"""Session parameters that follow a client from server to server, and startup parameters that may come."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream

TRACKED = {
    "client_encoding": ("LATIN1", "UTF8"),
    "DateStyle": ("German, DMY", "ISO, YMD"),
    "TimeZone": ("Asia/Tokyo", "America/Lima"),
    "standard_conforming_strings": ("off", "on"),
    "application_name": ("first", "second"),
}


def client(bouncer: Bouncer, **parameters: str) -> Stream:
    return Stream(("127.0.0.1", bouncer.port)).login(**parameters)


@pytest.mark.parametrize("name", TRACKED)
def test_what_a_client_sets_follows_it(start_either: StartBouncer, name: str) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        mine, yours = TRACKED[name]
        one.query(f"SET {name} = '{mine}'")
        other.query(f"SET {name} = '{yours}'")
        for _ in range(3):
            assert one.rows(f"SHOW {name}") == [[mine.encode()]]
            assert other.rows(f"SHOW {name}") == [[yours.encode()]]


@pytest.mark.parametrize("name", TRACKED)
def test_startup_parameters_follow_as_well(start_either: StartBouncer, name: str) -> None:
    bouncer = start_either(default_pool_size=1)
    mine, yours = TRACKED[name]
    with client(bouncer, **{name: mine}) as one, client(bouncer, **{name: yours}) as other:
        for _ in range(2):
            assert one.rows(f"SHOW {name}") == [[mine.encode()]]
            assert other.rows(f"SHOW {name}") == [[yours.encode()]]


def test_interval_style_is_tracked_by_default(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        one.query("SET IntervalStyle = 'iso_8601'")
        assert other.rows("SELECT interval '1 day'") == [[b"1 day"]]
        assert one.rows("SELECT interval '1 day'") == [[b"P1D"]]


def test_a_client_is_told_of_the_parameters_at_login(start_either: StartBouncer) -> None:
    bouncer = start_either()
    with client(bouncer, application_name="told") as one:
        assert one.parameters["server_encoding"] == "UTF8"
        assert one.parameters["application_name"] == "told"
        assert "server_version" in one.parameters


def test_a_quoted_value_is_no_way_in(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    name = "o'clock; DROP TABLE x; --\\"
    with client(bouncer, application_name=name) as one, client(bouncer) as other:
        other.query("SELECT 1")
        assert one.rows("SHOW application_name") == [[name.encode()]]


def test_an_unknown_startup_parameter_is_refused_or_ignored(start_either: StartBouncer) -> None:
    refusing = start_either()
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter: extra_float_digits"):
        client_with_extra(refusing)
    ignoring = start_either(ignore_startup_parameters="extra_float_digits")
    client_with_extra(ignoring)


def client_with_extra(bouncer: Bouncer) -> None:
    with Stream(("127.0.0.1", bouncer.port)) as one:
        one.send(stream.startup({"user": "postgres", "database": "app", "extra_float_digits": "3"}))
        refused = [m.error["M"] for m in one.until("Z", "E") if m.type == "E"]
    if refused:
        raise psycopg.OperationalError(refused[0])


def test_in_a_failed_transaction_nothing_is_restored(start_either: StartBouncer) -> None:
    bouncer = start_either(default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other:
        one.query("BEGIN; SET TimeZone = 'Asia/Tokyo'")
        one.query("ROLLBACK")
        assert one.rows("SHOW TimeZone") == other.rows("SHOW TimeZone")
