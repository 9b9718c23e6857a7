"""Snapshots that differ by what was gained, for those who push figures."""

from __future__ import annotations

from pooler.stats import Counters, Snapshot
from tests.fixtures.figures import counters, database, distributions, pool, snapshot


def at(now: float, more: Counters | None = None, samples: list[int] | None = None) -> Snapshot:
    gained = counters(100) + (more or Counters())
    return snapshot(
        now=now,
        databases=(database("my app", counters=gained), database("pgbouncer")),
        pools=(pool("my app", distributions=distributions(samples or [])),),
    )
