"""Memory stays bounded when one side is faster than the other: the slow one slows the fast one down."""

from __future__ import annotations

import hashlib
import threading

import pytest

from tests.fixtures import stream
from tests.fixtures.process import StartBouncer
from tests.fixtures.proxy import TO_SERVER, FaultProxy
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import until

HUGE = "SELECT repeat('x', 100000) FROM generate_series(1, 3000)"
"""300 MB."""
NUMBERED = "SELECT i, repeat(i::text, 14) FROM generate_series(1, 500000) i"
ALLOWED = 16_000_000
"""Bytes the pooler may grow by: buffers and the allocator's slack, far from the hundreds of MB that pass."""


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_client_that_stops_reading_makes_nothing_grow(start_pooler: StartBouncer, tls: bool) -> None:
    bouncer = start_pooler(**tls_settings(start_pooler) if tls else {})
    with Stream(("127.0.0.1", bouncer.port)) as slow:
        if tls:
            slow.start_tls()
        slow.login().query("SELECT 1")
        before = bouncer.resident()
        slow.send(stream.query(HUGE))
        assert slow.read().type == "T"
        settled = Settled()
        until(lambda: settled(bouncer.resident()), "the flow to stop")
        assert bouncer.resident() - before < ALLOWED
        received = sum(len(m.body) for m in slow.until() if m.type == "D")
    assert received == 3000 * (100_000 + 6)
    assert bouncer.resident() - before < ALLOWED


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_long_result_is_what_the_server_says(start_pooler, cluster, sslmode: str, tls: bool) -> None:  # type: ignore[no-untyped-def]
    """Long enough for every way in which the relay reads one: 50 MB of short rows."""
    bouncer = start_pooler(server_tls_sslmode=sslmode, **tls_settings(start_pooler) if tls else {})

    def digest(port: int, *, tls: bool) -> str:
        found, tail = hashlib.sha256(), b""
        with Stream(("127.0.0.1", port)) as client:
            if tls:
                client.start_tls()
            client.login().send(stream.query(NUMBERED))
            while not tail.endswith(b"Z\0\0\0\5I"):
                data = client.socket.recv(1 << 18)
                assert data
                found.update(data)
                tail = (tail + data)[-6:]
        return found.hexdigest()

    assert digest(bouncer.port, tls=tls) == digest(cluster.port, tls=False)


class Settled:
    """True once what is observed has stayed the same for a number of looks."""

    def __init__(self, looks: int = 10) -> None:
        self.looks, self.same, self.last = looks, 0, None

    def __call__(self, *observed: object) -> bool:
        self.same = self.same + 1 if observed == self.last else 0
        self.last = observed  # type: ignore[assignment]
        return self.same >= self.looks


def tls_settings(start_pooler: StartBouncer) -> dict[str, object]:
    from pooler.commands import certificate
    from tests.fixtures.cluster import scratch

    cert, key = certificate.ensure(scratch())
    return {"client_tls_sslmode": "require", "client_tls_cert_file": cert, "client_tls_key_file": key}


@pytest.mark.slow
def test_a_server_that_stops_reading_makes_nothing_grow(start_pooler: StartBouncer, start_proxy, cluster) -> None:  # type: ignore[no-untyped-def]
    proxy: FaultProxy = start_proxy(cluster.port)
    bouncer = start_pooler(
        databases={"app": f"host=127.0.0.1 port={proxy.port} dbname=app"}, server_tls_sslmode="disable"
    )
    value = b"x" * 100_000_000
    with Stream(("127.0.0.1", bouncer.port)).login() as fast:
        fast.query("SELECT 1")
        before = bouncer.resident()
        proxy.stall(TO_SERVER)
        request = stream.parse("SELECT length($1::text)"), stream.bind([value]), stream.execute(), stream.sync()
        sender = threading.Thread(target=fast.send, args=request)
        sender.start()
        settled = Settled()
        until(lambda: settled(bouncer.resident()), "the flow to stop")
        assert bouncer.resident() - before < ALLOWED
        proxy.resume()
        assert [m.values for m in fast.until() if m.type == "D"] == [[b"100000000"]]
        sender.join()
    assert bouncer.resident() - before < ALLOWED
