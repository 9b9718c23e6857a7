"""What who comes in is told of the server: it is learnt at a server's login, and goes with the servers it is true of. A
standby that is promoted is a primary for newcomers too. PgBouncer 1.26.1 gives the same answers where it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream, message
from tests.fixtures.understudy import HANG, IN, Understudy
from tests.fixtures.waiting import until
from tests.system.test_waiting import behind, client, newcomer, told, waiting, welcomed

StartUnderstudy = Callable[[], Understudy]


def zone(bouncer: Bouncer) -> tuple[str, bytes | None]:
    """(what a newcomer is told of TimeZone, what it finds)."""
    with client(bouncer) as one:
        return one.parameters["TimeZone"], one.rows("SHOW TimeZone")[0][0]


def elsewhere(bouncer: Bouncer) -> None:
    """The configuration leads to the same server by another address."""
    bouncer.databases["app"] = bouncer.databases["app"].replace("127.0.0.1", "127.0.0.2")
    bouncer.write()
    bouncer.admin("RELOAD")


CHANGES: dict[str, Callable[[Bouncer], object]] = {
    "RECONNECT app": lambda bouncer: bouncer.admin("RECONNECT app"),
    "RECONNECT": lambda bouncer: bouncer.admin("RECONNECT"),
    "KILL": lambda bouncer: (bouncer.admin("KILL app"), bouncer.admin("RESUME app")),
    "RELOAD": elsewhere,
    "TLS": lambda bouncer: bouncer.admin("SET server_tls_sslmode = 'disable'"),
}


@pytest.fixture
def tokyo(cluster: Cluster) -> Iterator[Callable[[], object]]:
    """Makes Tokyo's the time zone of new servers' sessions."""
    yield lambda: cluster.sql("ALTER DATABASE app SET timezone = 'Asia/Tokyo'")
    cluster.sql("ALTER DATABASE app RESET timezone")


@pytest.mark.parametrize("change", CHANGES)
def test_a_greeting_goes_with_the_servers(start_same: StartBouncer, tokyo: Callable[[], object], change: str) -> None:
    bouncer = start_same()
    before, found = zone(bouncer)
    assert found == before.encode() != b"Asia/Tokyo"
    tokyo()
    assert zone(bouncer)[0] == before, "a server that lives tells nothing new"
    CHANGES[change](bouncer)
    assert zone(bouncer) == ("Asia/Tokyo", b"Asia/Tokyo")


@pytest.mark.parametrize("change", ["RECONNECT app", "RECONNECT", "RELOAD", "TLS"])
def test_a_login_under_way_ends_with_the_servers(
    start_same: StartBouncer, start_understudy: StartUnderstudy, change: str
) -> None:
    server = start_understudy()
    server.login = HANG
    bouncer = start_same(databases=behind(server), server_connect_timeout=60, server_login_retry=0.3)
    with newcomer(bouncer) as one:
        until(lambda: server.kept)
        server.login = IN
        CHANGES[change](bouncer)
        bouncer.wait_log("S-.* closing because: connect string changed ")
        if change != "RELOAD":
            assert welcomed(one)


OVER = pytest.mark.one_process("no worker opens a server beyond what all may have: who comes waits until one is free")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "welcome"),
    [
        pytest.param("default_pool_size", True, marks=OVER),
        ("max_db_connections", False),
        ("max_user_connections", False),
    ],
)
def test_a_full_pool_asks_one_more_server_what_to_say(start_same: StartBouncer, limit: str, welcome: bool) -> None:
    """Not beyond the limits that it shares."""
    bouncer = start_same(query_wait_timeout=1, **{limit: 1})
    with client(bouncer) as holder:
        holder.query("BEGIN")
        bouncer.admin("RECONNECT app")
        with newcomer(bouncer) as one:
            if welcome:
                assert welcomed(one)
            else:
                waiting(bouncer, 1)
                assert told(one) == ("08P01", "query_wait_timeout")


def test_the_first_login_after_the_pool_was_empty_renews_it(
    start_pooler: StartBouncer, cluster: Cluster, tokyo: Callable[[], object]
) -> None:
    bouncer = start_pooler()
    before, _ = zone(bouncer)
    tokyo()
    cluster.terminate("app")
    until(lambda: bouncer.pool()["sv_idle"] == 0)
    assert zone(bouncer) == (before, before.encode())
    assert zone(bouncer)[0] == "Asia/Tokyo"


# ---- a promotion


def writes(bouncer: Bouncer) -> bool:
    """Whether a driver that needs a primary takes this for one."""
    try:
        one = psycopg.connect(bouncer.dsn(target_session_attrs="read-write"))
    except psycopg.OperationalError as error:
        if "session is read-only" not in str(error):
            raise
        return False
    with one:
        return one.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,)


@pytest.mark.slow
def test_after_a_promotion_and_reconnect_a_primary_is_found(start_same: StartBouncer, standby: Cluster) -> None:
    bouncer = start_same(server=standby)
    assert not writes(bouncer)
    standby.promote()
    bouncer.admin("RECONNECT")
    assert writes(bouncer)


@pytest.mark.slow
def test_a_promotion_is_found_out_by_the_next_test_of_a_server(start_pooler: StartBouncer, standby: Cluster) -> None:
    """Though nobody else asks anything of it: who looks for a primary leaves without a query."""
    bouncer = start_pooler(server=standby, server_check_delay=0.3, server_check_query="select 1")
    bouncer.sql("SELECT 1")
    assert not writes(bouncer)
    standby.promote()
    until(lambda: writes(bouncer), "the primary to be found")


@pytest.mark.slow
def test_a_promotion_is_found_out_by_anybodys_query(start_pooler: StartBouncer, standby: Cluster) -> None:
    bouncer = start_pooler(server=standby, server_check_query="")
    with client(bouncer) as reader:
        assert reader.parameters["in_hot_standby"] == "on"
        reader.query("SELECT 1")
        standby.promote()
        until(lambda: any(m.body == b"in_hot_standby\0off\0" for m in reader.query("SELECT 1") if m.type == "S"))
        assert writes(bouncer)


# ---- what a server says unasked


def test_what_an_idle_server_says_is_told(start_pooler: StartBouncer, start_understudy: StartUnderstudy) -> None:
    server = start_understudy()
    server.reported["default_transaction_read_only"] = "on"
    bouncer = start_pooler(databases=behind(server))
    with client(bouncer) as one:
        one.query("SELECT 1")
        assert one.parameters["default_transaction_read_only"] == "on"
        server.say(1, message("S", b"default_transaction_read_only\0off\0"))
        until(lambda: greeted(bouncer)["default_transaction_read_only"] == "off")


def test_what_a_client_has_set_is_no_fact(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(pool_mode="session")
    with client(bouncer) as one:
        one.query("SELECT 1")
        before = greeted(bouncer)["IntervalStyle"]
        answer = one.query("SET IntervalStyle = 'iso_8601'")
        assert any(m.body == b"IntervalStyle\0iso_8601\0" for m in answer if m.type == "S")
        assert greeted(bouncer)["IntervalStyle"] == before == "postgres"


def greeted(bouncer: Bouncer) -> dict[str, str]:
    with Stream(("127.0.0.1", bouncer.port)).login() as one:
        return one.parameters
