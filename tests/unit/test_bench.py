"""The benchmark's arithmetic, and that its cells are what the tables in RESULTS.md show."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from tests.bench import bulk, pgbench, values
from tests.bench.load import parsed, within
from tests.bench.measure import computed, median, percentile, processor, ratios, resident
from tests.bench.servers import opponent
from tests.bench.table import Table, times


def test_percentile_is_a_value_that_was_seen() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.99) == 100.0
    assert percentile(values, 0.5) == 51.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.99) == 0.0


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([1.0, 3.0, 5.0], [2.0, 2.0, 0.0]) == [0.5, 1.5]
    assert median([0.5, 1.5, 9.0]) == 1.5


def test_processor_time_of_a_process_grows_as_it_computes() -> None:
    before, to_the_nanosecond = processor(os.getpid()), computed(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        sum(range(1000))
    assert (processor(os.getpid()) - before).total >= 0.05
    assert computed(os.getpid()) - to_the_nanosecond >= 0.1


def test_resident_memory_grows_as_it_is_used() -> None:
    """Pages from the kernel, not from what the allocator has left over."""
    before = resident(os.getpid())
    with mmap.mmap(-1, 64_000_000) as held:
        held.write(b"x" * len(held))
        assert resident(os.getpid()) - before > 50_000_000


def test_cells_are_every_mode_by_clients_by_transport() -> None:
    labels = [cell.label for cell in pgbench.cells([1, 16, 64], "")]
    assert len(labels) == len(set(labels)) == 4 * 3 * 2
    assert labels[0] == "simple, 1, plain"
    assert [c.label for c in pgbench.cells([16], "transactions, 16, TLS")] == ["prepared, transactions, 16, TLS"]


def test_bulk_is_measured_for_one_and_for_several_at_once() -> None:
    labels = [cell.label for cell in bulk._cells("")]
    assert len(labels) == len(set(labels)) == 2 * 2 * 2
    assert [c.label for c in bulk._cells("COPY out, 4")] == [
        "COPY out, 4 at once, plain",
        "COPY out, 4 at once, TLS",
    ]


@pytest.mark.parametrize(
    ("says", "name", "prepares"),
    [
        ("PgBouncer 1.18.0", "PgBouncer 1.18.0", False),
        ("PgBouncer 1.21.0", "PgBouncer 1.21.0", True),
        ("PgBouncer 2.0.1", "PgBouncer 2.0.1", True),
    ],
)
def test_an_opponent_tells_its_version(tmp_path: Path, says: str, name: str, prepares: bool) -> None:
    program = tmp_path / "pgbouncer"
    program.write_text(f"#!/bin/sh\necho '{says}'\necho 'libevent 2.1'\n")
    program.chmod(0o755)
    kind, *known = opponent(str(program))
    assert known == [name, prepares]
    assert kind.program == str(program)  # type: ignore[attr-defined]


def test_what_is_no_pgbouncer_is_no_opponent() -> None:
    with pytest.raises(ValueError, match="does not speak like PgBouncer"):
        opponent("/bin/echo")


def test_a_duel_is_judged_by_its_median_round() -> None:
    duel = pgbench.Duel()
    duel.ours += [pgbench.Run(cost, 100.0, 5.0) for cost in (1.0, 2.0, 9.0)]
    duel.theirs += [pgbench.Run(2.0, 50.0, 10.0) for _ in range(3)]
    assert duel.ratio("cost") == 1.0
    assert duel.ratio("tps") == 2.0
    assert duel.ratio("p99") == 0.5


def test_values_are_of_every_size_by_transport() -> None:
    labels = [cell.label for cell in values.cells("")]
    assert len(labels) == len(set(labels)) == len(values.SIZES) * 2
    assert [cell.label for cell in values.cells("values 0.6 MB, TLS")] == ["0.6 MB, TLS"]
    assert all(size % values.PIECE == 0 for size in (*values.SIZES, values.WARM))


def test_transactions_count_that_ended_in_a_turn() -> None:
    log = "".join(f"0 {n} {n * 100} 0 {1700000000 + n} 500000\n" for n in range(6))
    turns = [(1700000000.6, 1700000001.6, 0.0), (1700000003.0, 1700000004.6, 0.0)]
    assert within(parsed(log), turns) == [100.0, 300.0, 400.0]
    assert within([], turns) == []


@pytest.mark.parametrize("markdown", [True, False])
def test_tables(markdown: bool) -> None:
    text = Table("T", "n", ("what", "ratio"), (("a", times(0.957)), ("longer", times(1)))).text(markdown=markdown)
    assert ("| a | 0.96 x |" if markdown else "a       0.96 x") in text
