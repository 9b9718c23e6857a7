"""Bulk transfer: MB/s of a large COPY out and of a SELECT of a million rows, one at a time and several at once, and
processor time per GB; beside it what PostgreSQL gives to a client that is connected to it directly.

The clients read into one buffer each and look at nothing but the end, so that PostgreSQL and the pooler are what is
measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.fixtures import stream
from tests.fixtures.stream import Stream

from .measure import median, processor, ratios
from .servers import Contestant
from .table import Table, times

TITLE = "Bulk transfer"
COLUMNS = ("query, transport", "MB/s", "MB/s (ours)", "MB/s (theirs)", "MB/s (direct)", "cpu/GB")
AT_ONCE = (1, 4)
SHORT = 3
"""A lone transfer takes a quarter of a second or so, and its rate scatters most: so many times as many rounds."""
QUERIES = {
    "COPY out": "COPY (SELECT repeat('x', 100000) FROM generate_series(1, 8000)) TO STDOUT (FORMAT binary)",
    "SELECT 1e6 rows": "SELECT * FROM pgbench_accounts",
}
READY = b"Z\0\0\0\5I"


@dataclass(frozen=True, slots=True)
class Cell:
    """One query, by so many clients at once."""

    query: str
    at_once: int
    tls: bool

    @property
    def label(self) -> str:
        crowd = f", {self.at_once} at once" if self.at_once > 1 else ""
        return f"{self.query}{crowd}, {'TLS' if self.tls else 'plain'}"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes a second, and the pooler's processor seconds per byte."""

    rate: float
    cost: float


def transfer(port: int, pid: int, cell: Cell) -> Transfer:
    """All of its clients from their logins to the end; `pid`: of the pooler, or 0 where there is none."""
    before = processor(pid).total if pid else 0.0
    start = time.perf_counter()
    with ThreadPoolExecutor(cell.at_once) as clients:
        size = sum(clients.map(lambda _: _fetch(port, QUERIES[cell.query], tls=cell.tls), range(cell.at_once)))
    elapsed = time.perf_counter() - start
    spent = processor(pid).total - before if pid else 0.0
    return Transfer(size / elapsed, spent / size)


def _fetch(port: int, sql: str, *, tls: bool) -> int:
    with Stream(("127.0.0.1", port)) as client:
        if tls:
            client.start_tls()
        client.login().send(stream.query(sql))
        return drain(client)


def drain(client: Stream) -> int:
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
    for cell in _cells(only):
        ports = [(each.port, each.pid) for each in (ours.process(), theirs.process())] + [(ours.cluster.port, 0)]
        got: list[list[Transfer]] = [[], [], []]
        for number in range(rounds if cell.at_once > 1 else SHORT * rounds):
            for place in range(3) if number % 2 == 0 else reversed(range(3)):
                got[place].append(transfer(*ports[place], cell))
        rows.append(_row(cell.label, *got))
        say("  ".join(rows[-1]))
    note = (
        f"Ours / {theirs.name}, median of {rounds} alternating rounds, of {SHORT * rounds} for one at a time;"
        " higher is better for MB/s, lower for cpu. Direct: without a pooler."
    )
    return Table(TITLE, note, COLUMNS, tuple(rows)) if rows else None


def _cells(only: str) -> list[Cell]:
    all_cells = [Cell(query, at_once, tls) for tls in (False, True) for query in QUERIES for at_once in AT_ONCE]
    return [cell for cell in all_cells if only in f"bulk {cell.label}"]


def _row(
    name: str, ours: Sequence[Transfer], theirs: Sequence[Transfer], direct: Sequence[Transfer]
) -> tuple[str, ...]:
    rate, cost = (
        median(ratios([getattr(t, figure) for t in ours], [getattr(t, figure) for t in theirs]))
        for figure in ("rate", "cost")
    )
    absolute = [f"{median(t.rate for t in got) / 1e6:,.0f}" for got in (ours, theirs, direct)]
    return (name, times(rate), *absolute, times(cost))
