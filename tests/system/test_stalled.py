"""Long results and uploads whose other side does not read for a while come to their end, however they are read.

A fresh pooler for each, since what it has measured decides how it reads. Slow: all ways, several times.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.proxy import TO_SERVER, FaultProxy
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until
from tests.system.test_backpressure import Settled, tls_settings

ROWS = "SELECT repeat('x', 1000) FROM generate_series(1, 100000)"
WAYS = list(itertools.product([False, True], repeat=3))
"""(the client has TLS, the server has TLS, io_uring)"""
FEW = [pytest.param(*way) if way in ((True, True, True), (False, True, True)) else
       pytest.param(*way, marks=pytest.mark.slow) for way in WAYS]  # fmt: skip
ways = pytest.mark.parametrize(("near", "far", "ring"), FEW)
again = pytest.mark.parametrize("again", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 7))])


def pooled(start: StartBouncer, near: bool, far: bool, ring: bool, **more: object) -> Bouncer:
    settings = tls_settings(start) if near else {}
    return start(
        default_pool_size=2,
        server_tls_sslmode="require" if far else "disable",
        sections={"pooler": {"io_uring": "yes" if ring else "no"}},
        **settings,
        **more,
    )


def until_still(progress: Callable[[], int]) -> None:
    settled = Settled(5)
    until(lambda: settled(progress()), "the upload to stop")


def login(bouncer: Bouncer, tls: bool) -> Stream:
    client = Stream(("127.0.0.1", bouncer.port))
    if tls:
        client.start_tls()
    return client.login()


@pytest.mark.slow
@ways
@again
def test_a_result_that_is_not_read_at_first(
    start_pooler: StartBouncer, near: bool, far: bool, ring: bool, again: int
) -> None:
    bouncer = pooled(start_pooler, near, far, ring)
    with login(bouncer, near) as stalled, login(bouncer, near) as other:
        stalled.send(stream.query(ROWS))
        until(lambda: bouncer.pool()["sv_active"] == 1)
        for _ in range(20):
            assert other.rows("SELECT 1") == [[b"1"]]
        assert sum(message.type == "D" for message in stalled.until()) == 100_000


@pytest.mark.slow
@ways
@again
def test_a_result_that_is_read_with_pauses(
    start_pooler: StartBouncer, near: bool, far: bool, ring: bool, again: int
) -> None:
    """For each part the kernel's queues fill, and drain."""
    bouncer = pooled(start_pooler, near, far, ring)
    with login(bouncer, near) as slow:
        slow.send(stream.query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)"))
        rows, due = 0, time.monotonic()
        while (message := slow.read()).type != "Z":
            rows += message.type == "D"
            if rows % 2000 == 0 and message.type == "D":
                # Not a wait for anything: the pause is what is tried.
                due += 0.05
                time.sleep(max(0.0, due - time.monotonic()))
        assert rows == 20_000


@pytest.mark.slow
@ways
@again
def test_an_upload_to_a_server_that_stalls(
    start_pooler: StartBouncer,
    start_proxy: Callable[[int], FaultProxy],
    cluster: Cluster,
    near: bool,
    far: bool,
    ring: bool,
    again: int,
) -> None:
    proxy = start_proxy(cluster.port)
    bouncer = pooled(
        start_pooler, near, far, ring, databases={"app": f"host=127.0.0.1 port={proxy.port} dbname=app"}
    )
    parts = 0

    def upload() -> None:
        nonlocal parts
        for _ in range(40):
            client.send(stream.copy_data(b"x" * 999 + b"\n") * 500)
            parts += 1
        client.send(stream.copy_done(), stream.query("SELECT count(*) FROM taken"), stream.query("ROLLBACK"))

    with login(bouncer, near) as client:
        client.send(stream.query("BEGIN; CREATE TEMP TABLE taken (t text); COPY taken FROM STDIN"))
        client.until("G")
        sender = threading.Thread(target=upload)
        sender.start()
        for _ in range(3):
            proxy.stall(TO_SERVER)
            until_still(lambda: parts)
            proxy.resume()
        # Joined before anything is read: with TLS the two directions are one object, and that is not for two threads.
        sender.join()
        client.until()
        assert [message.values for message in client.until() if message.type == "D"] == [[b"20000"]]
        client.until()
