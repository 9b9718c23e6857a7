"""Session parameters that follow a client from server to server, and startup parameters that may come."""

from __future__ import annotations

import psycopg
import pytest

from pooler.pools.encodings import ENCODINGS
from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
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


def test_encodings_are_called_what_postgresql_calls_them(cluster: Cluster) -> None:
    for spelled, name in ENCODINGS.items():
        ((known,),) = cluster.sql("SELECT pg_encoding_to_char(pg_char_to_encoding(%s))", (spelled,))
        assert known == name, spelled


@pytest.mark.parametrize("spelled", ["utf-8", "unicode", "iso-8859-1"])
def test_an_encoding_is_told_as_postgresql_tells_it(pooler: Bouncer, cluster: Cluster, spelled: str) -> None:
    with (
        Stream(("127.0.0.1", cluster.port)).login(client_encoding=spelled) as direct,
        client(pooler, client_encoding=spelled) as one,
    ):
        assert one.parameters["client_encoding"] == direct.parameters["client_encoding"]
        assert one.rows("SHOW client_encoding") == direct.rows("SHOW client_encoding")


SINCE_1_26 = {
    "IntervalStyle": ("iso_8601", "sql_standard"),
    "default_transaction_read_only": ("on", "off"),
    "scram_iterations": ("5000", "6000"),
    "search_path": ('"Tenant", public', "tenant, public"),
    "session_authorization": ("trusty", "scram_user"),
}
"""All that PostgreSQL 18 reports and a client can set, beside those above."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SINCE_1_26)
def test_all_that_a_server_reports_follows(start_same: StartBouncer, newest_cluster: Cluster, name: str) -> None:
    bouncer = start_same(server=newest_cluster, default_pool_size=1)
    with client(bouncer) as one, client(bouncer) as other, client(bouncer) as none:
        default = none.rows(f"SHOW {name}")
        mine, yours = SINCE_1_26[name]
        one.query(f"SET {name} = {mine}")
        other.query(f"SET {name} = {yours}")
        for _ in range(3):
            assert one.rows(f"SHOW {name}") == [[mine.encode()]]
            assert other.rows(f"SHOW {name}") == [[yours.encode()]]
            assert none.rows(f"SHOW {name}") == default


@pytest.mark.parametrize("settings", [{}, {"pool_mode": "session"}], ids=["transaction", "session"])
def test_what_no_server_reports_follows_from_the_startup_packet(
    start_same: StartBouncer, settings: dict[str, str]
) -> None:
    """PostgreSQL 15 tells nothing of search_path: who has asked for one has it, and nobody else."""
    bouncer = start_same(default_pool_size=1, track_extra_parameters="work_mem", **settings)
    if bouncer.name == "pgbouncer" and settings:
        pytest.skip("PgBouncer 1.26 does not notice that its reset query has taken them")
    both = {"search_path": "x, y", "work_mem": "5MB"}
    for parameters in (both, both, {}, {"search_path": "z"}, {"work_mem": "6MB"}, both, {}):
        with client(bouncer, **parameters) as one:
            assert one.rows("SHOW search_path") == [[parameters.get("search_path", '"$user", public').encode()]]
            assert one.rows("SHOW work_mem") == [[parameters.get("work_mem", "4MB").encode()]]


@pytest.mark.slow
def test_what_is_tracked_besides_may_be_in_small_letters(start_pooler: StartBouncer, newest_cluster: Cluster) -> None:
    bouncer = start_pooler(
        server=newest_cluster, default_pool_size=1, track_extra_parameters="IN_HOT_STANDBY, intervalstyle, Search_Path"
    )
    with client(bouncer) as one, client(bouncer) as other:
        for name, value in (("IntervalStyle", "iso_8601"), ("search_path", "x, y")):
            one.query(f"SET {name} = {value}")
            assert other.rows(f"SHOW {name}") != [[value.encode()]]
            assert one.rows(f"SHOW {name}") == [[value.encode()]]


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


@pytest.mark.slow
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
