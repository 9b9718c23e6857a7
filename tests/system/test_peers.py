"""Peers: a cancel request that came to the wrong process finds the right one, at most three hops away."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.named import Named, namespaces
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import free_port, until

pytestmark = pytest.mark.usefixtures("cleared")

SLEEP = "SELECT pg_sleep(600)"


def address(bouncer: Bouncer) -> tuple[str, int]:
    return ("127.0.0.1", bouncer.port)


def pair(start: StartBouncer, **settings: object) -> tuple[Bouncer, Bouncer]:
    """Two processes that know each other by their Unix sockets."""
    made = [start(run=False, peer_id=number, **settings) for number in (1, 2)]
    known: dict[str, object] = {str(n): f"host={b.directory} port={b.port}" for n, b in enumerate(made, 1)}
    for bouncer in made:
        bouncer.sections["peers"] = known
    return made[0], made[1]


def sleeping(cluster: Cluster) -> int:
    query = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = %s"
    return len(cluster.sql(query, (SLEEP,)))


@pytest.mark.slow
def test_a_request_finds_its_peer(start_pooler: StartBouncer, cluster: Cluster) -> None:
    one, two = pair(start_pooler)
    one.start()
    two.start()
    for home, wrong in ((one, two), (two, one), (one, one)):
        with Stream(address(home)).login() as client:
            first = struct.pack("!I", client.pid)
            assert int.from_bytes(first[:2], "little") == (1 if home is one else 2)
            assert client.key[-1] & 3 == 3
            client.send(stream.query(SLEEP))
            until(lambda: sleeping(cluster) == 1)
            stream.cancel(address(wrong), client.pid, client.key)
            assert [m.error["C"] for m in client.until() if m.type == "E"] == ["57014"]
    two.wait_log("closing because: successfully sent cancel request")
    shown = [(row["peer_id"], row["host"], row["port"], row["pool_size"]) for row in one.admin("SHOW PEERS")]
    assert shown == [(1, str(one.directory), one.port, 20), (2, str(two.directory), two.port, 20)]
    assert [row["peer_id"] for row in one.admin("SHOW PEER_POOLS")] == [1, 2]
    lists = {row["list"]: row["items"] for row in one.admin("SHOW LISTS")}
    assert (lists["peers"], lists["peer_pools"]) == (2, 2)


@pytest.mark.slow
def test_peers_on_one_port(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """so_reuseport: the kernel sends the request to either process, as libpq's does."""
    one, two = pair(start_pooler, so_reuseport=1, listen_port=free_port(), auth_type="trust")
    shared = int(str(one.settings["listen_port"]))
    one.port = two.port = shared
    known: dict[str, object] = {str(n): f"host={b.directory} port={shared}" for n, b in enumerate((one, two), 1)}
    one.sections["peers"] = two.sections["peers"] = known
    one.start()
    two.start()
    until(lambda: two.log_text().count("process up"))
    homes = set()
    for _ in range(8):
        with Stream(("127.0.0.1", shared)).login() as client:
            homes.add(struct.pack("!I", client.pid)[0])
            client.send(stream.query(SLEEP))
            until(lambda: sleeping(cluster) == 1)
            stream.cancel(("127.0.0.1", shared), client.pid, client.key)
            assert [m.error["C"] for m in client.until() if m.type == "E"] == ["57014"]
    assert homes <= {1, 2}


@pytest.mark.slow
def test_nobody_and_for_ever(start_pooler: StartBouncer) -> None:
    """Peers that send each other what is of neither give up after three hops."""
    one, two = pair(start_pooler)
    for bouncer, other in ((one, two), (two, one)):
        bouncer.sections["peers"] = {"3": f"host={other.directory} port={other.port}"}
        bouncer.start()
    key = (3).to_bytes(2, "little") + os.urandom(5) + b"\xff"
    stream.cancel(address(one), struct.unpack("!I", key[:4])[0], key[4:])
    two.wait_log("closing because: failed to forward cancel request because its TTL was exhausted")
    for bouncer, times in ((one, 2), (two, 1)):
        until(lambda log=bouncer.log, times=times: log.read_text().count("successfully sent cancel request") == times)  # type: ignore[misc]
    unknown = (4).to_bytes(2, "little") + key[2:]
    stream.cancel(address(one), struct.unpack("!I", unknown[:4])[0], unknown[4:])
    one.wait_log("closing because: could not find peer to forward request to")


def test_a_peer_that_is_gone(start_pooler: StartBouncer, cluster: Cluster) -> None:
    one, two = pair(start_pooler)
    one.start()
    with Stream(address(one)).login() as client:
        key = (2).to_bytes(2, "little") + os.urandom(6)
        stream.cancel(address(one), struct.unpack("!I", key[:4])[0], key[4:7] + b"\xff")
        one.wait_log("WARNING sending cancel request to peer 2 failed: connect failed")
        one.wait_log("closing because: failed to send cancel request")
        assert client.rows("SELECT 1") == [[b"1"]]
    assert two.process is None


@pytest.mark.slow
@pytest.mark.one_process("each worker sends requests on by itself, as many at once as pool_size says")
def test_requests_wait_in_turn(start_pooler: StartBouncer) -> None:
    """pool_size of a peer and cancel_wait_timeout, with a peer that stalls."""
    one, _ = pair(start_pooler, cancel_wait_timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"host=127.0.0.1 port={silent.getsockname()[1]} pool_size=1"
        one.sections["peers"] = {"2": at}
        one.settings["server_tls_sslmode"] = "disable"
        one.start()
        key = (2).to_bytes(2, "little") + os.urandom(5) + b"\xff"
        requests = [Stream(address(one)) for _ in range(2)]
        for request in requests:
            request.send(stream.request(stream.CANCEL_REQUEST, key))
        until(lambda: [(r["cl_active_cancel_req"], r["cl_waiting_cancel_req"], r["sv_active_cancel"])
                       for r in one.admin("SHOW PEER_POOLS")] == [(1, 1, 1)])  # fmt: skip
        one.wait_log("closing because: cancel_wait_timeout")
        for request in requests:
            assert request.ended()
            request.socket.close()


def pod(start: StartBouncer, number: int, port: int) -> Named:
    """One of a StatefulSet's, `pooler-N`, at 127.0.0.N+2: what it needs to know of the others is their common name."""
    address = f"127.0.0.{number + 2}"
    made = start(
        run=False,
        sections={"pooler": {"peers_name": "pooler.test"}},
        listen_addr=address,
        listen_port=port,
        dns_max_ttl=1,
        dns_nxdomain_ttl=1,
    )
    made.address, made.port = address, port
    return Named(made, f"pooler-{number}")


def zone(*numbers: int) -> list[str]:
    """A line of the hosts file for each pod."""
    return [f"127.0.0.{number + 2} pooler-{number}.pooler.test pooler.test" for number in numbers]


def known(pod: Named) -> list[tuple[int, str, int]]:
    return [(row["peer_id"], row["host"], row["port"]) for row in pod.bouncer.admin("SHOW PEERS")]


@pytest.mark.slow
def test_peers_of_a_name(start_pooler: StartBouncer, cluster: Cluster) -> None:
    """peers_name: the pods of a headless service find each other, also those that come later and elsewhere."""
    if not namespaces():
        pytest.skip("namespaces need root")
    port = free_port()
    pods = [pod(start_pooler, number, port) for number in range(3)]
    shown = [(number + 1, f"pooler-{number}.pooler.test", port) for number in range(3)]
    for each in pods[:2]:
        each.are(*zone(0, 1))
        each.start()
    for each in pods[:2]:
        until(lambda each=each: known(each) == shown[:2])  # type: ignore[misc]
    for each in pods:
        each.are(*zone(0, 1, 2))
    pods[2].start()
    for each in pods:
        until(lambda each=each: known(each) == shown)  # type: ignore[misc]
    for home, wrong in ((0, 1), (1, 2), (2, 0)):
        there, elsewhere = pods[home].bouncer, pods[wrong].bouncer
        with Stream((there.address, port)).login() as client:
            assert int.from_bytes(struct.pack("!I", client.pid)[:2], "little") == home + 1
            client.send(stream.query(SLEEP))
            until(lambda: sleeping(cluster) == 1)
            stream.cancel((elsewhere.address, port), client.pid, client.key)
            assert [m.error["C"] for m in client.until() if m.type == "E"] == ["57014"]
    pods[2].bouncer.stop()
    for each in pods[:2]:
        each.are(*zone(0, 1))
        until(lambda each=each: known(each) == shown[:2])  # type: ignore[misc]
