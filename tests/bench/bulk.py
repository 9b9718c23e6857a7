"""Bulk transfer: MB/s of a large COPY out and of a SELECT of a million rows, and processor time per GB.

The client reads into one buffer and looks at nothing but the end, so that PostgreSQL and the pooler are
what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fixtures import stream
from tests.fixtures.process import Bouncer
from tests.fixtures.stream import Stream

from .measure import median, processor, ratios
from .servers import Contestant
from .table import Table, times

TITLE = "Bulk transfer"
COLUMNS = ("query, transport", "MB/s", "MB/s (ours)", "MB/s (theirs)", "cpu/GB")
QUERIES = {
    "COPY out": "COPY (SELECT repeat('x', 100000) FROM generate_series(1, 8000)) TO STDOUT (FORMAT binary)",
    "SELECT 1e6 rows": "SELECT * FROM pgbench_accounts",
}
READY = b"Z\0\0\0\5I"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes a second, and the pooler's processor seconds per byte."""

    rate: float
    cost: float


def transfer(bouncer: Bouncer, sql: str, *, tls: bool) -> Transfer:
    with Stream(("127.0.0.1", bouncer.port)) as client:
        if tls:
            client.start_tls()
        client.login().query("SELECT 1")
        before, start = processor(bouncer.pid), time.perf_counter()
        client.send(stream.query(sql))
        size = _drain(client)
        elapsed, spent = time.perf_counter() - start, processor(bouncer.pid) - before
    return Transfer(size / elapsed, spent.total / size)


def _drain(client: Stream) -> int:
    """Bytes up to ReadyForQuery. No row ends as it does: they hold text and small numbers."""
    buffer = memoryview(bytearray(1 << 20))
    size, tail = 0, b""
    while not tail.endswith(READY):
        got = client.socket.recv_into(buffer)
        if not got:
            raise stream.Ended("the pooler closed in the middle of a result")
        size += got
        tail = (tail + bytes(buffer[max(0, got - len(READY)) : got]))[-len(READY) :]
    return size


def table(
    ours: Contestant, theirs: Contestant, rounds: int, only: str, say: Callable[[str], None]
) -> Table | None:
    rows = []
    for tls in (False, True):
        for label, sql in QUERIES.items():
            name = f"{label}, {'TLS' if tls else 'plain'}"
            if only not in f"bulk {name}":
                continue
            pairs = [(ours.process(), list[Transfer]()), (theirs.process(), list[Transfer]())]
            for number in range(rounds):
                for bouncer, got in pairs if number % 2 == 0 else reversed(pairs):
                    got.append(transfer(bouncer, sql, tls=tls))
            rows.append(_row(name, pairs[0][1], pairs[1][1]))
            say("  ".join(rows[-1]))
    note = (
        f"Ours / {theirs.name}, median of {rounds} alternating rounds; higher is better for MB/s, lower for cpu."
    )
    return Table(TITLE, note, COLUMNS, tuple(rows)) if rows else None


def _row(name: str, ours: list[Transfer], theirs: list[Transfer]) -> tuple[str, ...]:
    rate, cost = (
        median(ratios([getattr(t, figure) for t in ours], [getattr(t, figure) for t in theirs]))
        for figure in ("rate", "cost")
    )
    absolute = [f"{median(t.rate for t in got) / 1e6:,.0f}" for got in (ours, theirs)]
    return (name, times(rate), *absolute, times(cost))
