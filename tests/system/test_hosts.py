"""Where servers are: names and their addresses, lists of hosts, Unix sockets, and what becomes of them when they move.

Names are those of a hosts file of the test's own, which only its pooler sees (a mount namespace; needs root).
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import psycopg
import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.named import Named, namespaces
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

HOLD = "SELECT pg_sleep(600)"


@pytest.fixture
def named(start_pooler: StartBouncer, cluster: Cluster) -> Named:
    if not namespaces():
        pytest.skip("mount namespaces need root")
    at = f"port={cluster.port} dbname=app"
    return Named(
        start_pooler(run=False, databases={"app": f"host=db.test {at}"}, dns_max_ttl=1, dns_nxdomain_ttl=1,
                     server_login_retry=1)
    )  # fmt: skip


def addresses(bouncer: Bouncer, dbname: str = "app") -> Counter[str]:
    """How many servers there are at each address."""
    return Counter(row["addr"] for row in bouncer.admin("SHOW SERVERS") if row["database"] == dbname)


def together(bouncer: Bouncer, count: int, dbname: str = "app") -> list[psycopg.Connection[Any]]:
    """So many clients in a transaction at the same time, so that each has a server."""
    clients = []
    for _ in range(count):
        client = bouncer.connect(dbname, autocommit=False)
        client.execute("SELECT 1")
        clients.append(client)
    return clients


def leave(clients: list[psycopg.Connection[Any]]) -> None:
    for client in clients:
        client.close()


@pytest.mark.one_process("each worker takes the addresses of a name in turn by itself")
def test_all_addresses_of_a_name_are_used_in_turn(named: Named) -> None:
    named.are("127.0.0.1 db.test", "127.0.0.2 db.test")
    bouncer = named.start()
    clients = together(bouncer, 4)
    assert addresses(bouncer) == {"127.0.0.1": 2, "127.0.0.2": 2}
    [row] = bouncer.admin("SHOW DNS_HOSTS")
    assert row["hostname"] == "db.test"
    assert sorted(row["addrs"].split(",")) == ["127.0.0.1:0", "127.0.0.2:0"]
    items = {row["list"]: row["items"] for row in bouncer.admin("SHOW LISTS")}
    assert (items["dns_names"], items["dns_zones"], items["dns_pending"]) == (1, 0, 0)
    assert bouncer.admin("SHOW DNS_ZONES") == []
    leave(clients)


@pytest.mark.slow
def test_servers_at_an_address_that_vanished_go(named: Named) -> None:
    """Idle ones at once, busy ones when they come free; nobody's transaction is cut."""
    named.are("127.0.0.1 db.test")
    bouncer = named.start()
    busy, idle = together(bouncer, 2)
    idle.commit()
    leave([idle])
    until(lambda: bouncer.pool()["sv_active"] == 1)
    named.are("127.0.0.3 db.test")
    bouncer.wait_log("db.test is no longer at 127.0.0.1")
    until(lambda: sum(addresses(bouncer).values()) == 1)
    assert busy.execute("SELECT 'still here'").fetchall() == [("still here",)]
    busy.commit()
    busy.execute("SELECT 1")
    assert addresses(bouncer) == {"127.0.0.3": 1}
    leave([busy])
    bouncer.wait_log(r"S-\S+ app/postgres@127.0.0.1\S+ closing because: close_needed")
    bouncer.wait_log(r"S-\S+ app/postgres@127.0.0.1\S+ closing because: (obsolete connection|database configuration)")


@pytest.mark.slow
def test_a_name_that_nobody_knows_until_it_is_known(named: Named) -> None:
    named.are()
    bouncer = named.start()
    with knocking(bouncer):
        bouncer.wait_log("WARNING DNS lookup failed: db.test: ")
        bouncer.wait_log(r"S-\S+ app/postgres@db.test\S+ closing because: server DNS lookup failed \(age=")
    named.are("127.0.0.2 db.test")
    until(lambda: serves(bouncer))
    assert addresses(bouncer) == {"127.0.0.2": 1}


def knocking(bouncer: Bouncer) -> Stream:
    """A client that waits to be welcomed."""
    client = Stream(("127.0.0.1", bouncer.port))
    client.send(stream.startup({"user": "postgres", "database": "app"}))
    return client


def serves(bouncer: Bouncer, dbname: str = "app") -> bool:
    try:
        return bouncer.sql("SELECT 1", dbname=dbname) == [(1,)]
    except psycopg.OperationalError:
        return False


def test_a_list_of_hosts_is_used_in_turn(start_pooler: StartBouncer, cluster: Cluster) -> None:
    at = f"port={cluster.port} dbname=app"
    bouncer = start_pooler(
        databases={
            "app": f"host=127.0.0.1,127.0.0.2,127.0.0.3 {at}",
            "one": f"host=127.0.0.1,127.0.0.2 load_balance_hosts=disable {at}",
        }
    )
    clients = together(bouncer, 6) + together(bouncer, 2, "one")
    assert addresses(bouncer) == {"127.0.0.1": 2, "127.0.0.2": 2, "127.0.0.3": 2}
    assert addresses(bouncer, "one") == {"127.0.0.1": 2}
    shown = {row["name"]: row["load_balance_hosts"] for row in bouncer.admin("SHOW DATABASES")}
    assert (shown["app"], shown["one"]) == ("round-robin", "disable")
    leave(clients)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["round-robin", "disable"])
def test_the_next_host_is_tried_after_a_failure(start_pooler: StartBouncer, cluster: Cluster, how: str) -> None:
    hosts = "127.0.0.9,127.0.0.2"
    at = f"host={hosts} port={cluster.port} dbname=app load_balance_hosts={how}"
    bouncer = start_pooler(databases={"app": at}, server_login_retry=0.2)
    until(lambda: serves(bouncer))
    bouncer.wait_log(r"S-\S+ app/postgres@127.0.0.9\S+ closing because: connect failed")
    assert addresses(bouncer) == {"127.0.0.2": 1}


def test_unix_sockets(start_either: StartBouncer, cluster: Cluster) -> None:
    at = f"port={cluster.port} dbname=app"
    bouncer = start_either(run=False, databases={"app": f"host={cluster.socket_dir} {at}", "bare": at})
    (bouncer.directory / f".s.PGSQL.{cluster.port}").symlink_to(cluster.socket_dir / f".s.PGSQL.{cluster.port}")
    bouncer.start()
    assert serves(bouncer)
    assert serves(bouncer, "bare")
    assert addresses(bouncer) == addresses(bouncer, "bare") == {"unix": 1}


@pytest.mark.slow
def test_an_abstract_unix_socket(start_either: StartBouncer) -> None:
    """One listens there and another has its servers there."""
    name = f"@pooler-test-{os.getpid()}"
    behind = start_either(unix_socket_dir=name)
    bouncer = start_either(databases={"app": f"host={name} port={behind.port} dbname=app"})
    assert serves(bouncer)
    assert addresses(bouncer) == {"unix": 1}


def test_no_host_and_no_socket_directory(start_pooler: StartBouncer, cluster: Cluster) -> None:
    bouncer = start_pooler(databases={"app": f"port={cluster.port}"}, unix_socket_dir="")
    with knocking(bouncer):
        bouncer.wait_log("WARNING S-.* cannot connect: unix socket dir not configured")
    bouncer.wait_log(r"LOG S-.* closing because: cannot connect \(age=0s\)")
