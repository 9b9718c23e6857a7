"""Cancel requests: the right backend, never another client's query, nothing left behind."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.liar import READY, Caller, StartLiar
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Message, Stream, message
from tests.fixtures.waiting import until

pytestmark = pytest.mark.usefixtures("cleared")

SLEEP = stream.query("SELECT pg_sleep(600)")
ACTIVE = (
    "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND state = 'active' AND query LIKE 'SELECT pg_sleep(600)%'"
)


def address(bouncer: Bouncer) -> tuple[str, int]:
    return ("127.0.0.1", bouncer.port)


def codes(answer: list[Message]) -> list[str]:
    return [m.error["C"] for m in answer if m.type == "E"]


def test_a_running_query_is_cancelled_and_the_client_goes_on(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with Stream(address(bouncer)).login() as client:
        client.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        stream.cancel(address(bouncer), client.pid, client.key)
        assert codes(client.until()) == ["57014"]
        assert client.rows("SELECT 'goes on'") == [[b"goes on"]]


def test_only_the_one_that_was_meant(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with Stream(address(bouncer)).login() as meant, Stream(address(bouncer)).login() as other:
        for client in (meant, other):
            client.send(SLEEP)
        until(lambda: len(cluster.sql(ACTIVE)) == 2)
        stream.cancel(address(bouncer), meant.pid, meant.key)
        assert codes(meant.until()) == ["57014"]
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), other.pid, other.key)
        assert codes(other.until()) == ["57014"]


def test_a_wrong_key_cancels_nothing(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either()
    with Stream(address(bouncer)).login() as client:
        client.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        stream.cancel(address(bouncer), client.pid, bytes(b ^ 0xFF for b in client.key))
        stream.cancel(address(bouncer), client.pid ^ 1, client.key)
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), client.pid, client.key)
        assert codes(client.until()) == ["57014"]


def test_an_idle_clients_request_touches_nobody(start_either: StartBouncer, cluster: Cluster) -> None:
    """The server the idle client used last now works for another."""
    bouncer = start_either(default_pool_size=1)
    with Stream(address(bouncer)).login() as idle, Stream(address(bouncer)).login() as busy:
        idle.query("SELECT 1")
        busy.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        stream.cancel(address(bouncer), idle.pid, idle.key)
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), busy.pid, busy.key)
        assert codes(busy.until()) == ["57014"]
        assert idle.rows("SELECT 'untouched'") == [[b"untouched"]]


def test_a_request_for_a_waiting_client_touches_nobody_else(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=1)
    with Stream(address(bouncer)).login() as busy, Stream(address(bouncer)).login() as waiting:
        busy.send(SLEEP)
        until(lambda: cluster.sql(ACTIVE))
        waiting.send(stream.query("SELECT 'waited'"))
        until(lambda: bouncer.pool()["cl_waiting"] == 1)
        stream.cancel(address(bouncer), waiting.pid, waiting.key)
        assert len(cluster.sql(ACTIVE)) == 1
        stream.cancel(address(bouncer), busy.pid, busy.key)
        assert codes(busy.until()) == ["57014"]


@pytest.mark.slow
def test_many_requests_leave_nothing_behind(start_either: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_either(default_pool_size=2)
    with Stream(address(bouncer)).login() as client:
        for _ in range(20):
            client.send(SLEEP)
            until(lambda: cluster.sql(ACTIVE))
            stream.cancel(address(bouncer), client.pid, client.key)
            assert codes(client.until()) == ["57014"]
        until(lambda: bouncer.pool()["sv_active"] == 0)
        row = bouncer.pool()
    assert row["cl_waiting"] == 0
    until(lambda: len(cluster.backends("app")) <= 2)


# ---- the moments


def cancels_near_the_end(address: tuple[str, int], rounds: int, *, wait: bool, seed: int = 1) -> tuple[int, int]:
    """(How many were hit as was meant, how many that were not meant) of queries of some milliseconds, each with a
    request that comes at about its end, and then three that nobody cancels. `wait`: for the request's end."""
    dice, meant, others = random.Random(seed), 0, 0
    with Stream(address).login(user="trusty") as client:
        request = stream.request(stream.CANCEL_REQUEST, struct.pack("!I", client.pid) + client.key)
        for _ in range(rounds):
            with socket.create_connection(address, 10) as asking:
                client.send(stream.query(f"SELECT count(*) FROM generate_series(1, {dice.randint(10, 25_000)})"))
                moment = time.perf_counter() + dice.uniform(0, 0.003)
                while time.perf_counter() < moment:
                    pass
                asking.sendall(request)
                meant += codes(client.until()) == ["57014"]
                if wait:
                    assert asking.recv(1) == b""
                for _ in range(3):
                    others += codes(client.query("SELECT 1")) == ["57014"]
    return meant, others


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_postgresql_itself_is_not_late(cluster: Cluster, rounds: int) -> None:
    """Asked directly. It closes the connection of a request behind the signal, and a backend that the signal finds
    between two queries forgets it: of 80,000 rounds in which that end was awaited none hit a later query, on a busy
    machine. Who does not wait for it hits his own next query, in one round of six hundred. So there is nothing that a
    pooler could wait for beyond the end of that connection, if it is the server's own end."""
    assert cancels_near_the_end(("127.0.0.1", cluster.port), rounds, wait=True)[1] == 0


@pytest.mark.slow
def test_who_does_not_wait_hits_his_own_next_query(cluster: Cluster) -> None:
    assert cancels_near_the_end(("127.0.0.1", cluster.port), 8000, wait=False)[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_other_query_is_hit(start_pooler: StartBouncer, rounds: int) -> None:
    """Neither the client's own next ones, nor those of others who get its server: of 660,000, 37,000 of them
    cancelled, in a pool of three servers for ten clients, none was."""
    bouncer = start_pooler(default_pool_size=2)
    outcomes: list[tuple[int, int]] = []

    def work(seed: int) -> None:
        outcomes.append(cancels_near_the_end(address(bouncer), rounds, wait=True, seed=seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [others for _, others in outcomes] == [0] * 5


# ---- what may become of a request


class Server:
    """Answers queries as a PostgreSQL with one parameter would; `SELECT slow` and `SET` when `go` says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.heard: list[str] = []

    def play(self, caller: Caller) -> None:
        caller.say(READY[:-6], message("S", b"TimeZone\0UTC\0"), READY[-6:])
        while True:
            kind, body = caller.hear()
            if kind != "Q":
                return
            text = body.rstrip(b"\0;").decode()
            self.heard.append(text)
            if text == "SELECT slow" or text.startswith("SET"):
                assert self.go.wait(20)
            if text.startswith("SET"):
                zone = text.partition("'")[2].strip("'").encode()
                caller.say(message("C", b"SET\0"), message("S", b"TimeZone\0" + zone + b"\0"))
            else:
                caller.say(message("C", b"SELECT 0\0"))
            caller.say(message("Z", b"I"))


def reset(caller: Caller) -> None:
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "kept"),
    [
        pytest.param(lambda caller: None, True, id="closed"),
        pytest.param(reset, False, id="reset"),
        pytest.param(lambda caller: caller.say(b"E\0\0\0\5\0"), False, id="answered"),
        pytest.param(lambda caller: caller.hear(), False, id="open for ever"),
    ],
)
def test_a_server_is_used_again_when_its_request_is_known_to_be_over(
    start_pooler: StartBouncer, start_liar: StartLiar, end: Callable[[Caller], None], kept: bool
) -> None:
    """Else it may take effect at any time, on whoever has the server then."""
    server = Server()
    liar = start_liar(server.play, end)
    bouncer = start_pooler(
        databases={"app": f"{liar.dsn} user=postgres"},
        server_tls_sslmode="disable",
        default_pool_size=1,
        cancel_wait_timeout=0.5,
    )
    with Stream(address(bouncer)).login() as client, Stream(address(bouncer)).login() as other:
        client.send(stream.query("SELECT slow"))
        until(lambda: "SELECT slow" in server.heard)
        stream.cancel(address(bouncer), client.pid, client.key)
        server.go.set()
        client.until()
        other.query("SELECT 1")
        assert liar.cancels == 1
        assert liar.calls == (1 if kept else 2)


def test_a_set_of_ours_is_not_hit(start_either: StartBouncer, start_liar: StartLiar) -> None:
    """The client would lose its connection by it. PgBouncer forgets the request; here it waits until the query is there
    that it was meant for."""
    server = Server()
    liar = start_liar(server.play)
    databases = {"app": f"{liar.dsn} user=postgres"}
    bouncer = start_either(databases=databases, server_tls_sslmode="disable", cancel_wait_timeout=10)
    with Stream(address(bouncer)).login(TimeZone="Asia/Tokyo") as client, Stream(address(bouncer)) as asking:
        client.send(stream.query("SELECT 1"))
        until(lambda: server.heard == ["SET TimeZone='Asia/Tokyo'"])
        asking.send(stream.request(stream.CANCEL_REQUEST, struct.pack("!I", client.pid) + client.key))
        if bouncer.name == "pgbouncer":
            bouncer.wait_log("ignoring cancel request for server that is setting vars")
        server.go.set()
        assert [m.type for m in client.until()] == ["C", "Z"]
        assert asking.ended()
    assert server.heard[-1] == "SELECT 1"


@pytest.mark.slow
def test_a_set_that_never_ends(start_pooler: StartBouncer, start_liar: StartLiar) -> None:
    server = Server()
    liar = start_liar(server.play)
    databases = {"app": f"{liar.dsn} user=postgres"}
    bouncer = start_pooler(databases=databases, server_tls_sslmode="disable", cancel_wait_timeout=0.3)
    with Stream(address(bouncer)).login(TimeZone="Asia/Tokyo") as client:
        client.send(stream.query("SELECT 1"))
        until(lambda: server.heard)
        stream.cancel(address(bouncer), client.pid, client.key)
        bouncer.wait_log("closing because: ignoring cancel request for server that is setting vars")
        assert liar.cancels == 0
        server.go.set()
        assert [m.type for m in client.until()] == ["C", "Z"]
