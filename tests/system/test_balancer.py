"""Three poolers at addresses of their own behind HAProxy are one to their clients: a query is cancelled through any of
them, and one is replaced without anybody noticing."""

from __future__ import annotations

import re
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from tests.fixtures import balancer, stream
from tests.fixtures.balancer import CHECK_MS, Balancer
from tests.fixtures.cluster import Cluster, conninfo
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import free_port, until

SLEEP = "SELECT pg_sleep(600), 'behind a balancer'"
CLIENTS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(balancer.PROGRAM is None, reason="needs haproxy"),
]


@pytest.fixture
def three(start_pooler: StartBouncer) -> list[Bouncer]:
    """At 127.0.0.2, .3 and .4, on one port, peers of each other."""
    port, http = free_port(), free_port()
    addresses = [f"127.0.0.{number}" for number in (2, 3, 4)]
    made = []
    for number, address in enumerate(addresses, 1):
        one = start_pooler(
            run=False,
            peer_id=number,
            listen_addr=address,
            listen_port=port,
            sections={
                "peers": {str(n): f"host={other} port={port}" for n, other in enumerate(addresses, 1)},
                "pooler": {"http": f"{address}:{http}", "drain_delay": 5 * CHECK_MS / 1000},
            },
        )
        one.address, one.port = address, port
        made.append(one.start())
    return made


@pytest.fixture
def before(three: list[Bouncer], tmp_path: Path) -> Iterator[Balancer]:
    (http,) = {int(str(one.sections["pooler"]["http"]).rpartition(":")[2]) for one in three}
    made = Balancer(tmp_path, {f"pooler-{n}": (one.address, one.port, http) for n, one in enumerate(three)})
    yield made
    made.stop()


def sleeping(cluster: Cluster) -> int:
    return len(cluster.sql("SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = %s", (SLEEP,)))


def peer(client: Stream) -> int:
    """The peer_id of whom it has come to."""
    return int.from_bytes(struct.pack("!I", client.pid)[:2], "little")


def test_a_query_is_cancelled_through_any_of_them(three: list[Bouncer], before: Balancer, cluster: Cluster) -> None:
    """What HAProxy takes by turns, the request never comes to the pooler of its query."""
    here, found = ("127.0.0.1", before.port), set[int]()

    def all_found() -> bool:
        with Stream(here).login() as client:
            found.add(peer(client))
        return len(found) == len(three)

    until(all_found, "the balancer to find all of them")
    homes = Counter[int]()
    for _ in range(6):
        with Stream(here).login() as client:
            homes[peer(client)] += 1
            client.send(stream.query(SLEEP))
            until(lambda: sleeping(cluster) == 1)
            stream.cancel(here, client.pid, client.key)
            assert [m.error["C"] for m in client.until() if m.type == "E"] == ["57014"]
    assert set(homes) == {1, 2, 3}
    done = re.compile(r" LOG C-.* closing because: successfully sent cancel request")
    # Each by the pooler that it came to, and by that of its query.
    until(lambda: sum(len(done.findall(one.log.read_text())) for one in three) == 2 * 6)


class Client(threading.Thread):
    """Comes, asks a little, goes, and comes again, until it is told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.dsn = conninfo(host="127.0.0.1", port=port, dbname="app", user="postgres", connect_timeout=15)
        self.came = 0
        self.errors: list[str] = []
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                with psycopg.connect(self.dsn) as connection:
                    for _ in range(5):
                        connection.execute("SELECT pg_sleep(0.01)")
                        connection.commit()
                self.came += 1
            except psycopg.Error as error:
                self.errors.append(str(error))


@pytest.fixture
def clients(before: Balancer) -> Iterator[list[Client]]:
    made = [Client(before.port) for _ in range(CLIENTS)]
    yield made
    for client in made:
        client.stopped.set()
    for client in made:
        client.join(20)


def test_each_is_drained_and_replaced_without_an_error(
    three: list[Bouncer], clients: list[Client], cluster: Cluster
) -> None:
    until(lambda: all(client.came > 2 for client in clients), "clients to be served")
    for one, other in pairwise([*three, three[0]]):
        replaced(one, other, clients, cluster)
    assert [client.errors for client in clients] == [[]] * CLIENTS


def replaced(one: Bouncer, other: Bouncer, clients: list[Client], cluster: Cluster) -> None:
    """Ended when its last client has left, and started again; meanwhile others serve whoever comes, and a query of the
    last client is cancelled through another pooler."""
    with Stream((one.address, one.port)).login() as last:
        one.admin("SHUTDOWN WAIT_FOR_CLIENTS")
        until(lambda: refuses(one), "nobody to be let in")
        seen = [client.came for client in clients]
        until(lambda: all(client.came > n + 2 for client, n in zip(clients, seen, strict=True)), "others to serve")
        last.send(stream.query(SLEEP))
        until(lambda: sleeping(cluster) == 1)
        stream.cancel((other.address, other.port), last.pid, last.key)
        assert [m.error["C"] for m in last.until() if m.type == "E"] == ["57014"]
        assert last.rows("SELECT 'still here'") == [[b"still here"]]
    assert one.wait() == 0
    one.start()
    until(lambda: logins(one) > 0, "the balancer to find it")


def refuses(one: Bouncer) -> bool:
    with Stream((one.address, one.port)) as client:
        client.send(stream.startup({"user": "postgres", "database": "app"}))
        answer = client.until("E", "Z")[-1]
        return answer.type == "E" and answer.error["M"] == "pooler is shutting down"


def logins(one: Bouncer) -> int:
    """Clients that it has had since it was started."""
    return sum(row["client_login_count"] for row in one.admin("SHOW STATS_TOTALS") if row["database"] == "app")
