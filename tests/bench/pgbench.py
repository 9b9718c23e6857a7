"""Transactions: pgbench -S through both poolers in turn; processor time per transaction, tps, p99 latency.

A cell is one protocol mode, number of clients and transport. In a cell the contestants alternate, the one
that begins changing by round, and each figure is the median of the rounds' ratios. PgBouncer before 1.21 has
no prepared statements in transaction pooling, so it runs mode `prepared` in session pooling only. Session
pooling needs a server for each client, so its pool is as large as the number of clients.
"""

from __future__ import annotations

import math
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fixtures import account
from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.process import Bouncer
from tests.fixtures.waiting import until

from .measure import median, percentile, processor, ratios
from .servers import POOL, Contestant
from .table import Table, times

TITLE = "Transactions (pgbench -S)"
NOTE = (
    "Ours / {theirs}, median of {rounds} alternating rounds of {seconds:g} s; below 1 is better for processor"
    " time and latency, above 1 for tps.{caveat}"
)
CAVEAT = (
    " {theirs} cannot prepare in transaction pooling: in the prepared rows it pools sessions (pool = clients),"
    " ours pools as the row says."
)
SPARE = 2
"""Seconds that pgbench runs for longer than is measured."""
COLUMNS = ("mode, clients, transport", "cpu/xact", "us (ours)", "us (theirs)", "tps", "p99")


@dataclass(frozen=True, slots=True)
class Mode:
    """pgbench's query mode and the pool_mode."""

    label: str
    query_mode: str
    pool_mode: str = "transaction"

    def of(self, contestant: Contestant) -> str:
        """The pool_mode in which this one can do it."""
        return self.pool_mode if contestant.prepares or self.query_mode != "prepared" else "session"


MODES = (
    Mode("simple", "simple"),
    Mode("extended", "extended"),
    Mode("prepared, sessions", "prepared", "session"),
    Mode("prepared, transactions", "prepared"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    mode: Mode
    clients: int
    tls: bool

    @property
    def label(self) -> str:
        return f"{self.mode.label}, {self.clients}, {'TLS' if self.tls else 'plain'}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: the pooler's processor seconds per transaction, transactions a second, p99 in us."""

    cost: float
    tps: float
    p99: float


@dataclass(slots=True)
class Duel:
    """All rounds of a cell."""

    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)

    def ratio(self, figure: str) -> float:
        return median(
            ratios([getattr(r, figure) for r in self.ours], [getattr(r, figure) for r in self.theirs])
        )


def cells(clients: Sequence[int], only: str) -> Iterator[Cell]:
    """Those whose label contains `only`."""
    for tls in (False, True):
        for mode in MODES:
            for count in clients:
                cell = Cell(mode, count, tls)
                if only in f"pgbench {cell.label}":
                    yield cell


def duel(ours: Contestant, theirs: Contestant, cell: Cell, rounds: int, seconds: float) -> Duel:
    """Alternate; a short run of each first fills the pools and is not counted."""
    result = Duel()
    modes = [cell.mode.of(contestant) for contestant in (ours, theirs)]
    size = max(POOL, cell.clients) if "session" in modes else POOL
    poolers = [
        contestant.process(pool_mode=mode, default_pool_size=size)
        for contestant, mode in zip((ours, theirs), modes, strict=True)
    ]
    pairs = list(zip(poolers, (result.ours, result.theirs), strict=True))
    for bouncer, _ in pairs:
        run(ours, bouncer, cell, 1)
    for number in range(rounds):
        for bouncer, runs in pairs if number % 2 == 0 else reversed(pairs):
            runs.append(run(ours, bouncer, cell, seconds))
    return result


def run(contestant: Contestant, bouncer: Bouncer, cell: Cell, seconds: float) -> Run:
    """pgbench once through `bouncer`. Only seconds in which all of its clients are logged in are measured: of 256,
    the logins would be a good part of it."""
    with tempfile.TemporaryDirectory() as directory:
        command: list[str | Path] = [
            contestant.cluster.bin / "pgbench", "-n", "-S", "-M", cell.mode.query_mode,
            "-c", str(cell.clients), "-j", str(min(2, cell.clients)), "-T", f"{math.ceil(seconds) + SPARE}",
            "-l", "--log-prefix", f"{directory}/log",
            "-h", "127.0.0.1", "-p", str(bouncer.port), "-U", SUPERUSER, "app",
        ]  # fmt: skip
        env = account.environment(PGSSLMODE="require" if cell.tls else "disable")
        with subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            until(lambda: process.poll() is not None or _begun(Path(directory)), "pgbench to begin")
            before, start = processor(bouncer.pid), time.time()
            time.sleep(seconds)
            spent, end = processor(bouncer.pid) - before, time.time()
            _, complaint = process.communicate(timeout=60)
        if process.returncode:
            raise AssertionError(f"pgbench exited {process.returncode}:\n{complaint}")
        latencies = [us for log in Path(directory).iterdir() for us in within(log.read_text(), start, end)]
    return Run(spent.total / max(len(latencies), 1), len(latencies) / (end - start), percentile(latencies, 0.99))


def _begun(directory: Path) -> bool:
    """None of its threads begins before all have logged in."""
    return any(log.stat().st_size for log in directory.iterdir())


def within(log: str, start: float, end: float) -> list[float]:
    """Latencies in us of the transactions that pgbench's log says ended in that time."""
    found = (line.split() for line in log.splitlines())
    return [float(words[2]) for words in found if start < int(words[4]) + int(words[5]) / 1e6 <= end]


def row(cell: Cell, result: Duel) -> tuple[str, ...]:
    micro = [f"{median(r.cost for r in runs) * 1e6:.1f}" for runs in (result.ours, result.theirs)]
    return (
        cell.label,
        times(result.ratio("cost")),
        *micro,
        times(result.ratio("tps")),
        times(result.ratio("p99")),
    )


def table(rows: Sequence[tuple[str, ...]], theirs: Contestant, rounds: int, seconds: float) -> Table:
    caveat = "" if theirs.prepares else CAVEAT.format(theirs=theirs.name)
    note = NOTE.format(theirs=theirs.name, rounds=rounds, seconds=seconds, caveat=caveat)
    return Table(TITLE, note, COLUMNS, tuple(rows))
