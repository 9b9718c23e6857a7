"""The last hour in samples and the last periods in distributions: bounded, and true after resets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pooler import history
from pooler.history import History
from pooler.stats import UNKNOWN, Counters, Distributions
from tests.fixtures.console import NOW, database, histogram, pool, snapshot

COUNTS = Counters(server_assignment_count=10, xact_count=20, query_count=40, bytes_received=1000, bytes_sent=5000,
                  xact_time=200, query_time=800, wait_time=50)  # fmt: skip


def at(now: float, counters: Counters = COUNTS, born: int = 1, **pools: int):  # type: ignore[no-untyped-def]
    databases = (database("shop", counters=counters, born=born),)
    return snapshot(now=now, databases=databases, pools=(pool("shop", "app", **pools),))


def test_a_sample_says_what_a_period_gained() -> None:
    kept = History(NOW - 10)
    kept.record(at(NOW))
    doubled = Counters(*(2 * getattr(COUNTS, name) for name in COUNTS.__slots__))
    kept.record(at(NOW + 10, doubled, cl_waiting=3, maxwait_us=77, sv_used=2))
    first, second = kept.samples()
    assert (first.time, first.seconds, first.tps, first.qps) == (NOW, 10.0, 2.0, 4.0)
    assert (second.tps, second.bytes_received, second.bytes_sent) == (2.0, 100, 500)
    assert (second.avg_xact_time, second.avg_query_time, second.avg_wait_time) == (10, 20, 5)
    assert (second.cl_waiting, second.maxwait_us, second.sv_total) == (3, 77, 5)


def test_a_database_that_was_removed_and_came_back_starts_anew() -> None:
    kept = History(NOW - 10)
    kept.record(at(NOW, Counters(query_count=1000, bytes_received=10**9)))
    kept.record(at(NOW + 10, Counters(query_count=50, bytes_received=10**10), born=2))
    assert kept.samples()[1].qps == 5.0
    assert kept.samples()[1].bytes_received == 10**9


def test_of_what_cannot_be_told_from_another_nothing_is_made_up() -> None:
    """A PgBouncer's counts: with one of a database's pools they fall, and are neither less than nothing nor all new."""
    kept = History(NOW - 10)
    for tick, queries in enumerate((1000, 700, 720)):
        kept.record(at(NOW + 10 * tick, Counters(query_count=queries), born=UNKNOWN))
    assert [sample.qps for sample in kept.samples()] == [0.0, 0.0, 2.0]


def test_an_hour_is_kept_and_no_more() -> None:
    kept = History(NOW)
    for minute in range(1, 200):
        kept.record(at(NOW + 60 * minute))
    samples = kept.samples()
    assert len(samples) == 61
    assert samples[-1].time - samples[0].time == history.SPAN


def test_memory_is_bounded_however_short_the_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_SAMPLES", 500)
    kept = History(NOW)
    databases = tuple(database(f"db{place}") for place in range(100))
    for tick in range(1, 10):
        kept.record(replace(snapshot(now=NOW + tick), databases=databases, pools=()))
    assert len(kept.samples()) == 500


def test_a_snapshot_from_the_past_is_no_period() -> None:
    kept = History(NOW)
    kept.record(at(NOW))
    kept.record(at(NOW - 5))
    assert kept.samples() == ()


def test_latencies_cover_one_to_two_periods() -> None:
    kept = History(NOW)
    queries = [100]
    for minute in (1, 2, 3):
        kept.record(_timed(NOW + 60 * minute, queries))
        queries = [*queries, 200 * minute]
    (latency,) = kept.by_pool(_timed(NOW + 200, queries))
    assert (latency.database, latency.user, latency.seconds) == ("shop", "app", 80.0)
    assert latency.distributions.query.count == 2
    (whole,) = kept.by_database(_timed(NOW + 200, queries))
    assert (whole.user, whole.distributions.query.count) == ("", 2)


def test_what_happened_before_the_first_period_counts() -> None:
    kept = History(NOW)
    (latency,) = kept.by_database(_timed(NOW + 2, [50, 60]))
    assert latency.distributions.query.count == 2


def test_pools_of_a_database_are_merged() -> None:
    kept = History(NOW)
    pools = (
        pool("shop", "a", distributions=Distributions(query=histogram(10))),
        pool("shop", "b", distributions=Distributions(query=histogram(20, 30))),
        pool("shop", "c", distributions=None),
    )
    (whole,) = kept.by_database(snapshot(now=NOW + 1, pools=pools))
    assert whole.distributions.query.count == 3


def _timed(now: float, queries: list[int]):  # type: ignore[no-untyped-def]
    return snapshot(now=now, pools=(pool("shop", "app", distributions=Distributions(query=histogram(*queries))),))
