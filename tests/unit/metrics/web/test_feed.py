"""What the live page is told: rates and percentiles of one tick, the hour before, and never more than it can bear."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from metrics.source import Unavailable
from metrics.web.feed import MAX_POOLS, Feed, value_of
from metrics.web.recent import ALL, SPAN
from pooler.stats import UNKNOWN, ZERO, Counters, Snapshot
from pooler.stirring import Stirring
from tests.fixtures.figures import counters, database, distributions, pool, snapshot, soon


def at(now: float, queries: int = 0, samples: list[int] | None = None, born: int = 1) -> Snapshot:
    gained = counters(100) + Counters(query_count=queries, xact_count=queries, query_time=queries * 50)
    return snapshot(
        now=now,
        databases=(database(counters=gained, born=born), database("pgbouncer", counters=gained)),
        pools=(
            pool(counters=gained, distributions=distributions(samples or []), born=born),
            pool("pgbouncer", "pgbouncer", counters=gained),
        ),
    )


def test_a_tick_is_what_happened_since_the_one_before() -> None:
    value = value_of(at(12.0, 300, [5] * 100 + [900] * 100), at(10.0, 100, [5] * 100))
    assert (value["all"]["tps"], value["all"]["qps"]) == (100.0, 100.0)
    assert value["all"]["query"] == [50, 903, 903, 903]
    assert [(entry["db"], entry["tps"]) for entry in value["pools"]] == [("app", 100.0)]
    assert value["databases"] == {"count": 1, "paused": [], "disabled": []}
    assert value["s"] == 2.0


def test_the_first_tick_has_no_rates_and_silence_no_times() -> None:
    first = value_of(at(10.0, 100, [5]), None)
    assert (first["all"]["tps"], first["all"]["query"], first["all"]["ca"]) == (None, None, 56)
    silent = value_of(at(12.0, 100, [5]), at(10.0, 100, [5]))
    assert (silent["all"]["tps"], silent["all"]["query"]) == (0.0, None)


def test_counts_that_began_anew_are_not_negative() -> None:
    value = value_of(at(12.0, 10, born=2), at(10.0, 5000))
    assert value["all"]["tps"] == value["pools"][0]["tps"] == (102 + 10) / 2
    unknown = value_of(at(12.0, 10, born=UNKNOWN), at(10.0, 5000, born=UNKNOWN))
    assert unknown["all"]["tps"] == unknown["pools"][0]["tps"] == 0


def test_a_clock_that_is_set_changes_no_rate() -> None:
    before, after = replace(at(10.0, 100), steady=50.0), replace(at(9.5, 300), steady=52.0)
    assert value_of(after, before)["all"]["tps"] == 100.0


def test_a_pool_without_counters_of_its_own_has_no_rate() -> None:
    """A PgBouncer that is not ours counts by database."""
    silent = replace(pool(), counters=ZERO)
    value = value_of(snapshot(now=2.0, pools=(silent,)), snapshot(now=1.0, pools=(silent,)))
    assert value["pools"][0]["tps"] is None
    assert value["all"]["tps"] == 0.0


def test_thousands_of_pools_are_cut_to_the_busiest() -> None:
    many = tuple(pool(f"d{n}", cl_waiting=n % 1000) for n in range(2000))
    value = value_of(snapshot(pools=many), None)
    assert len(value["pools"]) == MAX_POOLS
    assert value["hidden"] == 2000 - MAX_POOLS
    assert value["pools"][0]["cw"] == 999
    assert value["all"]["ca"] == 56 * 2000


def test_traffic_passes_between_any_two_pools() -> None:
    times = 0

    def pace() -> None:
        nonlocal times
        times += 1

    value_of(snapshot(pools=tuple(pool(f"d{n}") for n in range(100))), None, pace)
    assert times >= 200


def test_what_is_paused_or_disabled_is_named() -> None:
    stats = (database("a", paused=True), database("b", disabled=True), database("c"), database("pgbouncer"))
    value = value_of(snapshot(databases=stats), None)
    assert value["databases"] == {"count": 3, "paused": ["a"], "disabled": ["b"]}


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_ticks_go_on_while_nobody_looks_and_slow_viewers_skip() -> None:
    async def scene() -> None:
        asked = 0

        def source(**_: bool) -> Snapshot:
            nonlocal asked
            asked += 1
            return at(float(asked))

        feed = Feed(source, tick=0.001, unwatched=0.001)
        async with running(feed):
            await soon(lambda: len(feed.recent.rows(ALL)) > 5, "rows that nobody has looked at")
            async with feed.viewer() as fast, feed.viewer() as slow:
                for _ in range(10):
                    await fast.get()
                assert slow.qsize() == 1
                assert f'"t":{asked}.0'.encode() in await slow.get()

    asyncio.run(scene())


def test_a_viewer_does_not_wait_for_the_end_of_a_long_pause() -> None:
    async def scene() -> None:
        asked = 0

        def source(**_: bool) -> Snapshot:
            nonlocal asked
            asked += 1
            return at(float(asked))

        feed = Feed(source, tick=0.01, unwatched=3600)
        async with running(feed):
            await soon(lambda: asked == 1, "the first")
            async with feed.viewer() as queue:
                for number in (1, 2, 3):
                    assert f'"t":{number}.0'.encode() in await queue.get()

    asyncio.run(scene())


def test_without_figures_there_is_a_gap_and_viewers_hear_why() -> None:
    async def scene() -> None:
        asked = 0

        def source(**_: bool) -> Snapshot:
            nonlocal asked
            asked += 1
            if asked == 3:
                raise Unavailable("nobody there")
            return at(float(asked))

        feed = Feed(source, tick=0.001)
        async with feed.viewer() as queue, running(feed):
            said = [await queue.get() for _ in range(6)]
        assert [part.split(b"\n")[0] for part in said] == [
            b"event: " + (b"down" if n == 3 else b"tick") for n in range(1, 7)
        ]
        assert b'"reason":"nobody there"' in said[2]
        assert [row[0] for row in feed.recent.rows(ALL)][:3] == [2.0, 5.0, 6.0]

    asyncio.run(scene())


# ---- while nothing happens


class Calm:
    """A pooler in which something happens when the test says so; it has had `queries` by now."""

    def __init__(self) -> None:
        self.happened = self.asked = self.queries = 0
        self.stirring = Stirring(lambda: self.happened)

    def source(self, **_: bool) -> Snapshot:
        self.asked += 1
        return replace(at(time.time(), self.queries), steady=time.monotonic())

    def stir(self, queries: int = 0) -> None:
        self.happened += 1
        self.queries += queries
        self.stirring.stir()


@pytest.fixture
def calm() -> Calm:
    return Calm()


def test_while_nothing_happens_there_are_ticks_and_no_looks(calm: Calm) -> None:
    async def scene() -> None:
        feed = Feed(calm.source, unwatched=0.05, stirring=calm.stirring)
        async with running(feed):
            await soon(lambda: len(feed.recent.rows(ALL)) >= 6, "six ticks")
            assert calm.asked == 1
            rows = feed.recent.rows(ALL)
            # A tick may be late, and is as long as it was.
            assert all(row[1] >= 0.05 for row in rows)
            assert {tuple(row[2:4]) for row in rows} == {(0, 0)}
            assert {row[6] for row in rows} == {56}
            assert all(abs(later[0] - sooner[0] - later[1]) < 0.01 for sooner, later in itertools.pairwise(rows))
            assert 0 <= time.time() - rows[-1][0] < 5

    asyncio.run(scene())


def test_what_happens_after_a_calm_is_spread_over_no_more_than_its_tick(calm: Calm) -> None:
    async def scene() -> None:
        feed = Feed(calm.source, unwatched=0.05, stirring=calm.stirring)
        async with running(feed):
            await asyncio.sleep(0.5)
            stirred = time.monotonic()
            calm.stir(queries=100)
            await soon(lambda: calm.asked == 2, "a look")
            last = feed.recent.rows(ALL)[-1]
            assert last[1] < time.monotonic() - stirred + 0.1
            assert last[2] == pytest.approx(100 / last[1], rel=0.1)

    asyncio.run(scene())


def test_who_comes_in_a_calm_sees_the_present(calm: Calm) -> None:
    async def scene() -> None:
        feed = Feed(calm.source, tick=0.02, unwatched=0.02, stirring=calm.stirring)
        async with running(feed):
            await asyncio.sleep(0.4)
            assert calm.asked == 1
            async with feed.viewer() as queue:
                seen = float((await queue.get()).split(b'"t":')[1].split(b",")[0])
                assert abs(time.time() - seen) < 0.2
                calm.stir()
                await queue.get()
            assert calm.asked > 1

    asyncio.run(scene())


def test_a_clock_that_was_set_back_in_a_calm_leaves_nothing_in_the_future(
    calm: Calm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        feed = Feed(calm.source, unwatched=0.02, stirring=calm.stirring)
        async with running(feed):
            await asyncio.sleep(0.2)
            assert feed.recent.rows(ALL)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() - 100)
            await asyncio.sleep(0.2)
            times = [row[0] for row in feed.recent.rows(ALL)]
            assert times == sorted(times)
            assert times[-1] <= time.time()
            assert times[-1] - times[0] < 1

    asyncio.run(scene())


def test_of_a_long_calm_no_more_is_kept_than_of_any_time(calm: Calm) -> None:
    async def scene() -> None:
        feed = Feed(calm.source, unwatched=1.0, stirring=calm.stirring)
        async with running(feed):
            await soon(lambda: calm.asked == 1 and feed._dozing, "the first look")
            feed._due -= 10 * SPAN
            rows = feed.recent.rows(ALL)
            assert SPAN <= len(rows) <= SPAN + 1
            assert time.time() - 1.5 < rows[-1][0] <= time.time()

    asyncio.run(scene())
