"""A search_path for each client: 64 tenants on 20 servers, whose settings follow them from server to server.

PostgreSQL 18, which reports search_path, so that PgBouncer can track it (track_extra_parameters); ours follows it by
session_state = keep as well on one that does not. Against a PgBouncer that can do so only. All clients ask at once,
again and again, so that nearly each transaction has another tenant's server. They are bare sockets in this process.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.fixtures.cluster import Cluster, scratch, wheel_binaries
from tests.fixtures.process import Bouncer
from tests.fixtures.stream import Stream, query

from .measure import median, processor, ratios
from .servers import Contestant
from .table import Table, times

TITLE = "A setting of its own for each client"
COLUMNS = ("", "ratio", "us a transaction (ours)", "us (theirs)")
TENANTS = 64
TURNS = 1000
WAYS = ("nobody sets anything", "each has its search_path")


def spent(bouncer: Bouncer, way: str) -> float:
    """Microseconds of processor time for a transaction."""
    with ExitStack() as held:
        clients = [held.enter_context(Stream(("127.0.0.1", bouncer.port)).login()) for _ in range(TENANTS)]
        if way != WAYS[0]:
            for number, client in enumerate(clients):
                client.query(f"SET search_path = tenant_{number}, public")
        before = processor(bouncer.pid)
        for _ in range(TURNS):
            for client in clients:
                client.send(query("SELECT 1"))
            for client in clients:
                client.until()
        return (processor(bouncer.pid) - before).total / (TURNS * TENANTS) * 1e6


def table(ours: Contestant, theirs: Contestant, rounds: int, only: str) -> Table | None:
    if only not in "tenants" or not theirs.prepares:
        # One that has no prepared statements (1.21) cannot be told to track a parameter either (1.20).
        return None
    directory = scratch()
    cluster = Cluster(directory, binaries=wheel_binaries(directory))
    cluster.create()
    rows: list[tuple[str, ...]] = []
    running: list[Bouncer] = []
    try:
        where = {"app": f"host={cluster.host} port={cluster.port} dbname=app"}
        mine = ours.fresh("tenants")
        mine.sections = {"pooler": {"session_state": "keep"}}
        other = theirs.fresh("tenants", track_extra_parameters="search_path")
        for bouncer in (mine, other):
            bouncer.databases = where
            bouncer.start()
            running.append(bouncer)
        for way in WAYS:
            found = [(spent(mine, way), spent(other, way)) for _ in range(rounds)]
            one, two = zip(*found, strict=True)
            rows.append((way, times(median(ratios(one, two))), f"{median(one):.1f}", f"{median(two):.1f}"))
    finally:
        for bouncer in running:
            bouncer.stop()
        cluster.stop()
    note = f"{TENANTS} clients on 20 servers ask {TURNS} times each, all at once; PostgreSQL 18."
    return Table(TITLE, note, COLUMNS, tuple(rows))
