"""Servers that are idle, used and tested, in one pool and under limits that pools share: none is opened beside one that
can be had, one that is dead stops nobody, and a neighbour's spare one is to be had. PgBouncer gives the same answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.stream import Stream
from tests.fixtures.understudy import Understudy
from tests.fixtures.waiting import DEADLINE, until
from tests.system.test_auth_query import BY_NAME, asking, who
from tests.system.test_waiting import ask, behind, client, served, welcomed

pytestmark = pytest.mark.usefixtures("cleared")

CHECKED: dict[str, Any] = {"server_check_query": "select 1", "server_check_delay": 0.3}
LIMITS = ["max_db_connections", "max_user_connections"]


def other(bouncer: Bouncer, limit: str, **parameters: str) -> Stream:
    """A client of another pool under the same limit, which is yet to be let in."""
    database, user = ("app", "trusty") if limit == "max_db_connections" else ("other", "postgres")
    one = Stream(("127.0.0.1", bouncer.port))
    one.send(stream.startup({"user": user, "database": database, **parameters}))
    return one


def aged(bouncer: Bouncer, count: int = 1) -> None:
    """Servers that are `used`."""
    until(lambda: bouncer.pool()["sv_used"] >= count, f"{count} servers to be used")


def fill(stack: ExitStack, bouncer: Bouncer, count: int) -> list[Stream]:
    """Clients, and a server for each of them."""
    clients = [stack.enter_context(client(bouncer)) for _ in range(count)]
    for word in ("BEGIN", "COMMIT"):
        for one in clients:
            one.query(word)
    return clients


def servers(bouncer: Bouncer) -> int:
    pool = bouncer.pool()
    return sum(int(value) for name, value in pool.items() if name.startswith("sv_"))


# ---- who may have it


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("state", ["sv_idle", "sv_used"])
def test_a_neighbour_has_what_is_spare(start_same: StartBouncer, limit: str, state: str) -> None:
    bouncer = start_same(**{limit: 1}, **(CHECKED if state == "sv_used" else {}))
    with client(bouncer) as one:
        one.query("SELECT 1")
        until(lambda: bouncer.pool()[state] == 1)
        with other(bouncer, limit) as newcomer:
            newcomer.answer_login("", "")
            assert newcomer.rows("SELECT 1") == [[b"1"]]
        bouncer.wait_log(f"S-.* closing because: evicted for {limit} ")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["sv_idle", "sv_used"])
def test_a_replication_client_has_what_is_spare_in_its_own_full_pool(
    request: pytest.FixtureRequest, start_same: StartBouncer, state: str
) -> None:
    if state == "sv_used" and "pooler" not in request.node.name:
        pytest.skip("PgBouncer sees idle ones only")
    bouncer = start_same(default_pool_size=1, **(CHECKED if state == "sv_used" else {}))
    with client(bouncer) as one:
        one.query("SELECT 1")
        until(lambda: bouncer.pool()[state] == 1)
        with Stream(("127.0.0.1", bouncer.port)).login(replication="database") as replicating:
            assert replicating.query("IDENTIFY_SYSTEM")[-1].type == "Z"
        bouncer.wait_log("S-.* closing because: evicted for pool_size ")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["sv_idle", "sv_used"])
def test_the_question_for_a_secret_has_what_is_spare(start_same: StartBouncer, state: str) -> None:
    """It is put in a pool of its own, and then the client's takes the server back."""
    bouncer = asking(start_same, auth_query=BY_NAME, max_db_connections=1, **(CHECKED if state == "sv_used" else {}))
    for _ in range(2):
        assert who(bouncer) == "scram_user"
        until(lambda: bouncer.pool(user="scram_user")[state] == 1)


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
def test_what_comes_free_goes_to_the_neighbour_who_waits(start_same: StartBouncer, limit: str) -> None:
    """That it does not take the janitor is in the unit tests, where there is none."""
    bouncer = start_same(**{limit: 1})
    with client(bouncer) as holder, other(bouncer, limit) as waits:
        waits.answer_login("", "")
        for _ in range(5):
            holder.query("BEGIN")
            ask(waits)
            until(lambda: sum(row["cl_waiting"] for row in bouncer.admin("SHOW POOLS")) == 1)
            holder.query("COMMIT")
            assert served(waits)


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_busy_pool_does_not_keep_its_neighbour_waiting(start_pooler: StartBouncer, workers: int, limit: str) -> None:
    """Whoever has waited for longest is served, in whichever pool, and within a bound by whichever worker."""
    bouncer = start_pooler(sections={"pooler": {"workers": workers}}, **{limit: 1})
    most = 50 if workers == 1 else 1000
    with ExitStack() as stack:
        busy = [stack.enter_context(client(bouncer)) for _ in range(3)]
        neighbour = stack.enter_context(other(bouncer, limit))
        assert welcomed(neighbour)
        ask(*busy)
        for _ in range(20):
            ask(neighbour)
            answered, end = 0, time.monotonic() + DEADLINE
            while not readable(neighbour):
                for one in busy:
                    if readable(one):
                        answered += 1
                        assert served(one)
                        ask(one)
                assert answered < most, "the neighbour starves"
                assert time.monotonic() < end, "nobody is served"
            assert served(neighbour)


def readable(one: Stream) -> bool:
    one.socket.settimeout(0.001)
    try:
        one._received += one.socket.recv(65536)
    except TimeoutError:
        pass
    finally:
        one.socket.settimeout(20)
    return bool(one._received)


# ---- no more than are missing


@pytest.mark.slow
def test_a_burst_of_clients_opens_nothing_beside_servers_that_are_there(start_same: StartBouncer) -> None:
    bouncer = start_same(**CHECKED)
    with ExitStack() as stack:
        clients = fill(stack, bouncer, 8)
        for _ in range(2):
            aged(bouncer, 8)
            for one in clients:
                one.send(stream.query("SELECT pg_sleep(0.02)"))
            for one in clients:
                one.until()
            assert servers(bouncer) == 8


@pytest.mark.slow
def test_one_of_three_is_dead_and_three_clients_are_served(
    start_same: StartBouncer, cluster: Cluster, start_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = start_proxy(cluster.port)
    where = {"app": f"host=127.0.0.1 port={proxy.port} dbname=app pool_size=3"}
    bouncer = start_same(databases=where, **CHECKED)
    with ExitStack() as stack:
        clients = fill(stack, bouncer, 3)
        aged(bouncer, 3)
        proxy.stall_one()
        ask(*clients)
        for one in clients:
            assert served(one)
        # The dead one is tested, or still to be, if the others were back in time for all three.
        assert servers(bouncer) == 3


# ---- server_check_delay


@pytest.mark.slow
@pytest.mark.one_process("each worker has a server of its own")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("transaction", ["ours", "check", "ours", "check", "ours", "check", "ours"]),
        ("session", ["ours", "DISCARD ALL", "ours", "DISCARD ALL", "ours", "DISCARD ALL", "check", "ours"]),
    ],
)
def test_no_delay_is_a_test_before_every_use(
    start_same: StartBouncer, start_understudy: Callable[[], Understudy], mode: str, expected: list[str]
) -> None:
    server = start_understudy()
    bouncer = start_same(
        databases=behind(server), pool_mode=mode, server_check_delay=0, server_check_query="check", max_client_conn=10
    )
    for turn in range(4):
        if turn == 3:
            aged(bouncer)
        with client(bouncer) as one:
            one.query("ours")
        until(lambda: bouncer.pool()["sv_active"] + bouncer.pool()["sv_tested"] == 0)
    asked = [sql for _, sql in server.asked]
    assert asked[: len(expected)] == expected


@pytest.mark.slow
def test_a_check_that_is_switched_off_keeps_nobody_waiting(start_same: StartBouncer) -> None:
    bouncer = start_same(default_pool_size=1, **CHECKED)
    with client(bouncer) as one:
        one.query("SELECT 1")
        aged(bouncer)
        bouncer.admin("SET server_check_query = ''")
        assert one.rows("SELECT 2") == [[b"2"]]


@pytest.mark.slow
def test_who_waits_is_served_by_what_is_left(start_same: StartBouncer, cluster: Cluster) -> None:
    """The test fails of the first, and the second is tested without anybody asking again."""
    bouncer = start_same(default_pool_size=2, **CHECKED)
    with ExitStack() as stack:
        one, two = fill(stack, bouncer, 2)
        aged(bouncer, 2)
        cluster.sql("SELECT pg_terminate_backend(%s)", (cluster.backends("app")[0],))
        ask(one, two)
        assert served(one)
        assert served(two)
