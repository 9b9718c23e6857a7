"""Answers of one large value to a lone client: how many bytes a second, and processor time for each answer.

What a server takes for the first such answer of its life is mostly memory that it gets from the kernel, page by page,
and gives back: two to three times what later ones take. So each has answered with a larger one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from tests.fixtures import stream
from tests.fixtures.stream import Stream

from .bulk import drain
from .measure import median, processor, ratios
from .servers import Contestant
from .table import Table, times

TITLE = "One large value to a lone client"
COLUMNS = ("value, transport", "MB/s", "MB/s (ours)", "MB/s (theirs)", "MB/s (direct)", "cpu/answer")
PIECE = 10_000
SIZES = (600_000, 1_000_000, 2_000_000, 4_000_000)
WARM = 24_000_000
BYTES = 60_000_000
"""Of one contestant in one round."""


@dataclass(frozen=True, slots=True)
class Cell:
    size: int
    tls: bool

    @property
    def label(self) -> str:
        return f"{self.size / 1e6:.1f} MB, {'TLS' if self.tls else 'plain'}"


@dataclass(slots=True)
class Reader:
    """One client; `pid` of the pooler it is connected to, 0 where there is none."""

    client: Stream
    pid: int

    def ask(self, size: int) -> int:
        """Bytes of the answer."""
        self.client.send(stream.query(f"SELECT repeat(repeat('x', {PIECE}), {size // PIECE})"))
        return drain(self.client)

    def measure(self, size: int) -> tuple[float, float]:
        """(MB/s, processor seconds of the pooler for an answer), of so many answers as make BYTES."""
        count = BYTES // size
        before, start = self._spent(), time.perf_counter()
        got = sum(self.ask(size) for _ in range(count))
        return got / (time.perf_counter() - start) / 1e6, (self._spent() - before) / count

    def _spent(self) -> float:
        return processor(self.pid).total if self.pid else 0.0


def cells(only: str) -> Iterator[Cell]:
    for tls in (False, True):
        for size in SIZES:
            if only in f"values {Cell(size, tls).label}":
                yield Cell(size, tls)


def table(
    ours: Contestant, theirs: Contestant, rounds: int, only: str, say: Callable[[str], None]
) -> Table | None:
    rows = []
    for cell in cells(only):
        with ExitStack() as stack:
            readers = [
                _reader(stack, port, pid, tls=cell.tls)
                for port, pid in [(each.port, each.pid) for each in (ours.process(), theirs.process())]
                + [(ours.cluster.port, 0)]
            ]
            got: list[list[tuple[float, float]]] = [[], [], []]
            for number in range(rounds):
                for place in range(3) if number % 2 == 0 else reversed(range(3)):
                    got[place].append(readers[place].measure(cell.size))
        rows.append(_row(cell, got))
        say("  ".join(rows[-1]))
    note = (
        f"Ours / {theirs.name}, median of {rounds} alternating rounds of {BYTES / 1e6:.0f} MB; higher is better for"
        " MB/s, lower for cpu. Direct: without a pooler. Every server has answered with more before."
    )
    return Table(TITLE, note, COLUMNS, tuple(rows)) if rows else None


def _reader(stack: ExitStack, port: int, pid: int, *, tls: bool) -> Reader:
    client = stack.enter_context(Stream(("127.0.0.1", port)))
    if tls:
        client.start_tls()
    made = Reader(client.login(), pid)
    for _ in range(3):
        made.ask(WARM)
    return made


def _row(cell: Cell, got: list[list[tuple[float, float]]]) -> tuple[str, ...]:
    rate, cost = (
        median(ratios([round_[n] for round_ in got[0]], [round_[n] for round_ in got[1]])) for n in range(2)
    )
    absolute = [f"{median(rate for rate, _ in each):,.0f}" for each in got]
    return (cell.label, times(rate), *absolute, times(cost))
