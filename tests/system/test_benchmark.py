"""The benchmark runs: every part of it once, as short as can be. What it measures is nobody's test."""

from __future__ import annotations

import sys

import pytest

from tests import TREE
from tests.fixtures import account
from tests.fixtures.bouncer import INSTALLED


@pytest.mark.slow
@pytest.mark.skipif(INSTALLED is None, reason="pgbouncer is not installed: apt-get install pgbouncer")
def test_every_part_of_the_benchmark_runs() -> None:
    said = account.run(
        [
            sys.executable,
            "-m",
            "tests.bench",
            "--rounds",
            "1",
            "--seconds",
            "1",
            "--clients",
            "2",
            "--idle",
            "50",
            "--markdown",
        ],
        cwd=TREE,
        timeout=600,
    )
    parts = ("Transactions (pgbench -S)", "Bulk transfer", "Logins.", "Memory per idle client", "Rest")
    for part in parts:
        assert part in said
    assert "| prepared, transactions, 2, TLS |" in said
