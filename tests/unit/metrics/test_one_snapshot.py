"""One Snapshot, three readings: the SHOW views, the log line and /metrics tell the same figures."""

from __future__ import annotations

import random
from typing import Any

import pytest

from admin.views import BY_NAME, Shown
from metrics.heroku import lines
from metrics.prometheus import Exposition, negotiate
from pooler.relay.engine import bucket_index
from pooler.stats import BUCKETS, Snapshot, bucket_bounds, bucket_of, merge
from tests.fixtures.figures import database, distributions, histogram, pool, snapshot
from tests.fixtures.scrape import Samples, read_samples

SHARES = (0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999)


@pytest.fixture(scope="module")
def one() -> Snapshot:
    pools = (
        pool("app", "a", cl_active=3, cl_waiting=1, sv_active=2, sv_idle=4, maxwait_us=2_500_000,
             distributions=distributions([5, 50])),
        pool("app", "b", cl_active=30, cl_waiting=10, sv_active=20, sv_idle=40, maxwait_us=900_000,
             distributions=distributions([500, 5000, 50_000])),
        pool("shop", "a"),
        pool("pgbouncer", "pgbouncer"),
    )  # fmt: skip
    return snapshot(databases=(database("app"), database("shop"), database("pgbouncer")), pools=pools)


def show(view: str, shown: Snapshot) -> list[dict[str, Any]]:
    found = BY_NAME[view]
    names = [column.name for column in found.columns]
    return [dict(zip(names, row, strict=True)) for row in found.rows(Shown(shown, None))]  # type: ignore[arg-type]


def scraped(one: Snapshot) -> Samples:
    return read_samples(b"".join(Exposition(negotiate("")[0]).render(one)).decode())


def figures(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.replace("sample#", "").split())


def test_pools_on_all_three(one: Snapshot) -> None:
    rows = [row for row in show("POOLS", one) if row["database"] == "app"]
    line, samples = figures(lines(one)[0]), scraped(one)
    names = {
        "client_active": ("cl_active", "client_active_connections"),
        "client_waiting": ("cl_waiting", "client_waiting_connections"),
        "server_active": ("sv_active", "server_active_connections"),
        "server_idle": ("sv_idle", "server_idle_connections"),
    }
    for key, (column, metric) in names.items():
        series = [samples[f"pgbouncer_pools_{metric}", frozenset({("database", "app"), ("user", u)})] for u in "ab"]
        assert int(line[key]) == sum(row[column] for row in rows) == sum(series)
    assert int(line["max_wait"]) == max(row["maxwait"] for row in rows) == 2


def test_averages_on_the_line_are_those_of_show_stats(one: Snapshot) -> None:
    [row] = [row for row in show("STATS", one) if row["database"] == "app"]
    line = figures(lines(one)[0])
    for key, column in {"avg_query": "avg_query_time", "avg_recv": "avg_recv", "avg_sent": "avg_sent"}.items():
        assert int(line[key]) == row[column] > 0


def test_totals_of_show_stats_are_the_counters_of_metrics(one: Snapshot) -> None:
    samples = scraped(one)
    names = {
        "total_server_assignment_count": ("server_assignments", 1),
        "total_xact_count": ("sql_transactions_pooled", 1),
        "total_query_count": ("queries_pooled", 1),
        "total_received": ("received_bytes", 1),
        "total_sent": ("sent_bytes", 1),
        "total_xact_time": ("server_in_transaction_seconds", 1e6),
        "total_query_time": ("queries_duration_seconds", 1e6),
        "total_wait_time": ("client_wait_seconds", 1e6),
        "total_client_parse_count": ("client_parses", 1),
        "total_server_parse_count": ("server_parses", 1),
        "total_bind_count": ("binds", 1),
        "total_client_login_count": ("pooler_client_logins", 1),
    }
    rows = show("STATS", one)
    assert [row["database"] for row in rows] == ["app", "pgbouncer", "shop"]
    for row in rows:
        assert {column for column in row if column.startswith("total_")} == set(names)
        for column, (name, unit) in names.items():
            prefix = "" if name.startswith("pooler_") else "pgbouncer_stats_totals_"
            told = samples[f"{prefix}{name}_total", frozenset({("database", row["database"])})]
            assert told * unit == pytest.approx(row[column])


def test_the_relay_counts_into_the_same_buckets() -> None:
    edges = {edge for index in range(BUCKETS) for edge in bucket_bounds(index)}
    chance = random.Random(3)
    values = edges | {edge - 1 for edge in edges} | {chance.getrandbits(bits) for bits in range(1, 50)} | {-5}
    assert [value for value in values if bucket_index(value) != bucket_of(value)] == []


@pytest.mark.slow
def test_quantiles_of_a_million_samples_are_within_two_per_cent() -> None:
    """Merged from parts, as pools are, and at every scale from microseconds to minutes."""
    chance = random.Random(11)
    samples = [int(chance.lognormvariate(9, 3)) for _ in range(1_000_000)]
    parts = [histogram(samples[start::4]) for start in range(4)]
    samples.sort()
    whole = merge(parts)
    assert whole.count == len(samples)
    for share, found in zip(SHARES, whole.quantiles(SHARES), strict=True):
        truth = samples[int(share * len(samples)) - 1]
        assert abs(found - truth) <= max(0.02 * truth, 1), (share, found, truth)
