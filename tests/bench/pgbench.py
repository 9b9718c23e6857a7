"""Transactions: pgbench -S through both poolers in turn; processor time per transaction, tps, p99 latency.

A cell is one protocol mode, number of clients and transport. In a cell the contestants alternate, turn
by turn (see `load`), and each figure is the median of the rounds' ratios. PgBouncer before 1.21 has
no prepared statements in transaction pooling, so it runs mode `prepared` in session pooling only. Session
pooling needs a server for each client, so its pool is as large as the number of clients.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.process import Bouncer

from .load import SETTLE, TURN, Load, Turn, within
from .measure import median, percentile, ratios
from .servers import POOL, Contestant
from .table import Table, times

TITLE = "Transactions (pgbench -S)"
NOTE = (
    "Ours / {theirs}, median of {rounds} rounds of {seconds:g} s, alternating every {turn:g} s, logins"
    " left out; below 1 is better for processor time and latency, above 1 for tps.{caveat}"
)
CAVEAT = (
    " {theirs} cannot prepare in transaction pooling: in the prepared rows it pools sessions (pool = clients),"
    " ours pools as the row says."
)
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
    """Turn by turn, in random order; so many turns as make `seconds` of each are a round."""
    result = Duel()
    modes = [cell.mode.of(contestant) for contestant in (ours, theirs)]
    size = max(POOL, cell.clients) if "session" in modes else POOL
    poolers = [
        contestant.process(pool_mode=mode, default_pool_size=size)
        for contestant, mode in zip((ours, theirs), modes, strict=True)
    ]
    per_round = max(1, round(seconds / TURN))
    longest = 2 * rounds * per_round * (TURN + SETTLE)
    with ExitStack() as stack:
        loads = [stack.enter_context(_load(ours, bouncer, cell, longest)) for bouncer in poolers]
        for _ in range(rounds * per_round):
            for load in random.sample(loads, len(loads)):
                load.turn()
        for load, runs in zip(loads, (result.ours, result.theirs), strict=True):
            done = load.finish()
            runs += [_run(done, load.turns[n : n + per_round]) for n in range(0, len(load.turns), per_round)]
    return result


def run(contestant: Contestant, bouncer: Bouncer, cell: Cell, seconds: float) -> Run:
    """One turn of so many seconds, of one pooler."""
    with _load(contestant, bouncer, cell, seconds) as load:
        load.turn(seconds)
        return _run(load.finish(), load.turns)


def _load(contestant: Contestant, bouncer: Bouncer, cell: Cell, seconds: float) -> Load:
    command: list[str | Path] = [
        contestant.cluster.bin / "pgbench", "-n", "-S", "-M", cell.mode.query_mode,
        "-c", str(cell.clients), "-j", str(min(2, cell.clients)),
        "-h", "127.0.0.1", "-p", str(bouncer.port), "-U", SUPERUSER, "app",
    ]  # fmt: skip
    return Load(command, bouncer.pid, seconds=seconds, PGSSLMODE="require" if cell.tls else "disable")


def _run(done: Sequence[tuple[float, float]], turns: Sequence[Turn]) -> Run:
    latencies = within(done, turns)
    spent, elapsed = sum(cost for _, _, cost in turns), sum(end - start for start, end, _ in turns)
    return Run(spent / max(len(latencies), 1), len(latencies) / elapsed, percentile(latencies, 0.99))


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
    note = NOTE.format(theirs=theirs.name, rounds=rounds, seconds=seconds, turn=TURN, caveat=caveat)
    return Table(TITLE, note, COLUMNS, tuple(rows))
