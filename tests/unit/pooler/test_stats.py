"""What was gained, exactly, however pools and databases go and come back: every figure that is a difference of two
counts, beside an oracle that writes down each query when it happens. No figure is below nought, none is made up.
"""

from __future__ import annotations

import ast
import asyncio
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from admin.client.answers import Answer
from admin.repl.rates import rates as shown_rates
from admin.top.model import rates as top_rates
from metrics.catalog import CATALOG
from metrics.drains.statsd import StatsdPush
from metrics.heroku import lines
from metrics.prometheus import registry_of
from metrics.web.feed import value_of
from pooler import relay
from pooler.config.databases import DatabaseConfig
from pooler.config.whole import compose
from pooler.house.bouncer import Bouncer
from pooler.house.periods import stats_line
from pooler.readback import snapshot_of
from pooler.relay import Relay
from pooler.rounds import Rounds
from pooler.stats import BUCKETS, COUNTERS, Averages, Counters, DatabaseStat, PoolStat, Snapshot, bucket_of, since
from tests import TREE
from tests.fixtures.console import database, histogram, pool
from tests.fixtures.console import snapshot as made_snapshot
from tests.unit.repl_console import rows

START = 1_795_334_760.0
DATABASES = ("app", "shop")
USERS = ("anna", "bob")
COST = 1000
"""Microseconds of a query in these tests; its bytes are the same."""


class Counting(relay.Pool):
    """A pool that has counted what the test tells it."""

    queries = 0

    def counted(self) -> tuple[int, ...]:
        n = self.queries
        return (n, n, n, n * COST, n * COST, n * COST, n * COST, 0, 0, 0, 0, 0, 0, 0)

    def histograms(self) -> tuple[tuple[array[int], int], ...]:
        counts = array("Q", bytes(8 * BUCKETS)) if self.queries else array("Q")
        if self.queries:
            counts[bucket_of(COST)] = self.queries
        return ((array("Q"), 0), (counts, self.queries * COST), (array("Q"), 0), (array("Q"), 0))


class Quiet:
    lost = 0

    def line(self, level: str, text: str) -> None:
        assert level != "ERROR", text

    def catch_up(self) -> None:
        pass


@dataclass
class Mark:
    """How many queries there had been: of each pool and database that was there, and in all."""

    now: float
    alive: dict[int, int] = field(default_factory=dict)
    whole: int = 0


class World:
    """A bouncer under a clock of the test's, and everything that happened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr("pooler.pools.registry.relay.Pool", Counting)
        self.relay = Relay()
        self.loop = asyncio.SelectorEventLoop(self.relay)
        config = compose({"stats_period": "60"}, [DatabaseConfig(name, hosts=("127.0.0.1",)) for name in DATABASES])
        self.bouncer = Bouncer(
            config, self.loop, self.relay, Quiet(), console, now=lambda: self.now, wall=lambda: START + self.now,  # type: ignore[arg-type]
        )  # fmt: skip
        self.whole = 0
        self.of: dict[int, int] = {}
        """By the number of a pool or database: what it has done."""
        self.old = self.new = Mark(self.now)
        self.statsd = StatsdPush(urlsplit("statsd://127.0.0.1"), Rounds(lambda text: None))
        self.pushed: Mark | None = None
        self.ticked: tuple[Mark, Snapshot] | None = None
        self.scraped: dict[int, float] = {}

    # ---- what happens

    def work(self, name: str, user: str, queries: int) -> None:
        entry = self.bouncer.running.database(name)
        assert entry is not None
        pool = self.bouncer.running.registry.pool(entry, user)
        pool.engine.queries += queries  # type: ignore[attr-defined]
        for number in (pool.born, entry.born):
            self.of[number] = self.of.get(number, 0) + queries
        self.whole += queries

    def look_in(self) -> None:
        """A login at the console, which is no part of all."""
        self.bouncer.running.console_logins += 1

    def forget_pool(self, name: str, user: str) -> None:
        """As pool_idle_timeout."""
        entry = self.bouncer.running.registry.databases.get(name)
        pool = entry.pools.get(user) if entry else None
        if pool is not None:
            self.bouncer.running.registry.forget_pool(pool)

    def forget_database(self, name: str) -> None:
        """As a detach, or a RELOAD without it."""
        entry = self.bouncer.running.registry.databases.get(name)
        if entry is not None:
            self.bouncer.running.registry.forget_database(entry)

    def mark(self) -> Mark:
        registry = self.bouncer.running.registry
        born = [*(one.born for one in registry.databases.values()), *(one.born for one in registry.pools())]
        return Mark(self.now, {number: self.of.get(number, 0) for number in born}, self.whole)

    def gained(self, number: int, mark: Mark) -> int:
        """Of one that is here now."""
        return self.of.get(number, 0) - mark.alive.get(number, 0)

    # ---- what is told

    def averages(self, queries: int, seconds: float) -> Averages:
        n = queries
        return Averages.over(Counters(n, n, n, n * COST, n * COST, n * COST, n * COST), seconds)

    def turn(self) -> None:
        self.now += 0.25  # no period is empty
        before, self.old, self.new = self.new, self.new, self.mark()
        self.bouncer.periods.turn(self.now)
        seconds = self.now - before.now
        told = self.averages(self.new.whole - before.whole, seconds)
        assert f"{told.query_count} queries/s" in stats_line(self.bouncer.figures.window)
        assert f"in {told.bytes_received} B/s" in stats_line(self.bouncer.figures.window)
        here = {entry.name: entry.born for entry in self.bouncer.running.registry.databases.values()}
        samples = {sample.database: sample for sample in self.bouncer.history.everything()}
        for name in DATABASES:
            queries = self.gained(here[name], before) if name in here else 0
            assert samples[name].qps == round(queries / seconds, 3)
            assert samples[name].bytes_sent == round(queries * COST / seconds)
            assert samples[name].avg_query_time == (COST if queries else 0)
            assert bool(samples[name].query_times) == bool(queries and self.pools_gained(name, before))
        assert samples[""].qps == round((self.whole - before.whole) / seconds, 3)

    def pools_gained(self, name: str, mark: Mark) -> int:
        """What the pools that are still here have."""
        entry = self.bouncer.running.registry.databases.get(name)
        return sum(self.gained(pool.born, mark) for pool in entry.pools.values()) if entry else 0

    def look(self) -> None:
        """SHOW STATS, SHOW POOLS, SHOW LATENCY and the log lines."""
        taken = self.bouncer.snapshot(histograms=True)
        seconds = self.now - self.old.now
        stats: list[DatabaseStat | PoolStat] = [*taken.databases, *taken.pools]
        for stat in stats:
            if stat.born:
                assert stat.averages == self.averages(self.gained(stat.born, self.old), seconds)
        for latency in self.bouncer.history.by_pool(taken):
            if latency.database in DATABASES:
                born = self.bouncer.running.registry.databases[latency.database].pools[latency.user].born
                assert latency.distributions.query.count == self.gained(born, self.old)
        for line in lines(taken, extra=True, since=self.ticked[1] if self.ticked else None):
            assert all(int(word.rpartition("=")[2]) >= 0 for word in line.split() if word.startswith("sample#"))
        assert taken.total == Counters(*(self.whole * unit for unit in (1, 1, 1, *[COST] * 4)))

    def push(self) -> None:
        mark = self.mark()
        taken = self.bouncer.snapshot(histograms=True)
        told = dict(line.rpartition("|")[0].split(":") for line in self.statsd.lines(taken) if line.endswith("|c"))
        self.statsd._before = taken
        if self.pushed is not None:
            here = {entry.name: entry.born for entry in self.bouncer.running.registry.databases.values()}
            for name in DATABASES:
                queries = self.gained(here[name], self.pushed) if name in here else 0
                assert int(told[f"pooler.{name}.queries"]) == queries
                assert int(told[f"pooler.{name}.sent_bytes"]) == queries * COST
        self.pushed = mark

    def tick(self) -> None:
        mark, taken = self.mark(), self.bouncer.snapshot(histograms=True)
        if self.ticked is not None:
            before, earlier = self.ticked
            value, seconds = value_of(taken, earlier), self.now - before.now
            if seconds > 0:
                assert value["all"]["qps"] == round((self.whole - before.whole) / seconds, 1)
                for entry in value["pools"]:
                    born = self.bouncer.running.registry.databases[entry["db"]].pools[entry["user"]].born
                    if self.of.get(born):
                        assert entry["qps"] == round(self.gained(born, before) / seconds, 1)
        self.ticked = mark, taken

    def scrape(self) -> None:
        """A counter falls only when another database has come in the place of the one before."""
        here = {entry.name: entry.born for entry in self.bouncer.running.registry.databases.values()}
        text = generate_latest(registry_of(self.bouncer.snapshot(), SCRAPED)).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                born = here.get(sample.labels.get("database", ""))
                if born is not None:
                    assert sample.value == self.of.get(born, 0) >= self.scraped.get(born, 0)
                    self.scraped[born] = sample.value


SCRAPED = tuple(figure for figure in CATALOG if figure.name == "pgbouncer_stats_totals_queries_pooled")
MOST = 10**6
NAMES, PEOPLE = st.sampled_from(DATABASES), st.sampled_from(USERS)
STEPS = st.one_of(
    st.tuples(st.just("work"), NAMES, PEOPLE, st.integers(1, MOST)),
    st.tuples(st.just("work"), NAMES, PEOPLE, st.integers(1, 5)),
    st.tuples(st.just("forget_pool"), NAMES, PEOPLE),
    st.tuples(st.just("forget_database"), NAMES),
    *(st.tuples(st.just(name)) for name in ("look_in", "turn", "look", "push", "tick", "scrape")),
)


@pytest.mark.slow
@given(st.lists(st.tuples(STEPS, st.sampled_from([0.0, 0.25, 1.0, 60.0])), max_size=40))
@settings(deadline=None, max_examples=100)
def test_every_figure_is_what_was_gained(steps: list[tuple[tuple[Any, ...], float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch)
        try:
            for (step, *arguments), seconds in steps:
                getattr(world, step)(*arguments)
                world.now += seconds
            for step in ("turn", "look", "push", "tick", "scrape"):
                getattr(world, step)()
            assert world.bouncer.running.rounds.counts() == {}
        finally:
            world.loop.close()


def test_as_it_was_seen() -> None:
    """RELOAD without a database, RELOAD with it, six queries, all within a period: it ended the process."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch)
        world.work("app", "anna", 1000)
        world.now += 60
        world.turn()
        world.forget_database("app")
        world.work("app", "anna", 6)
        world.look()
        world.now += 60
        world.turn()
        world.look()
        assert world.bouncer.history.samples()[-3].qps == 0.1
        world.loop.close()


# ---- over what cannot tell one from another


COUNT = st.integers(0, 2**40)


@given(st.lists(COUNT, max_size=8), st.data())
def test_a_difference_is_never_below_nought(now: list[int], data: st.DataObject) -> None:
    before = data.draw(st.lists(COUNT, min_size=len(now), max_size=len(now)))
    found = since(now, before)
    if any(b > n for n, b in zip(now, before, strict=True)):
        assert found is None
    else:
        assert found == tuple(n - b for n, b in zip(now, before, strict=True))


@given(COUNT, COUNT, st.lists(st.integers(0, 10**6), max_size=5), st.lists(st.integers(0, 10**6), max_size=5))
def test_counts_and_distributions_of_unknown_things(now: int, before: int, here: list[int], there: list[int]) -> None:
    """PgBouncer forgets pools, and the counts of their database fall by what those had."""
    gained = Counters(query_count=now).since(Counters(query_count=before))
    assert gained == (Counters(query_count=now - before) if now >= before else None)
    spread = histogram(*here).since(histogram(*there))
    assert min(spread.counts, default=0) >= 0
    assert spread.total_us >= 0
    assert histogram(*there, *here).since(histogram(*there)).count == len(here)


def made(total: int, *pools: int) -> Snapshot:
    """A PgBouncer's: a pool has counts of its own only where it is the one of its database."""
    return shown(
        float(total),
        DATABASES=[{"name": "app", "port": 1}],
        STATS=[{"database": "app", "total_query_count": total, "total_sent": total * COST}],
        POOLS=[{"database": "app", "user": f"u{number}"} for number in pools],
    )


def shown(now: float, **views: list[dict[str, Any]]) -> Snapshot:
    return snapshot_of(views, now)


def test_a_pgbouncers_pools_that_go_make_no_figure_absurd() -> None:
    both, one = made(1_000_000, 0, 1), made(1_000_004, 0)
    for now, before, queries in ((one, both, 4), (both, one, 0), (made(600_000, 0), one, 0)):
        value = value_of(now, before)
        seconds = now.now - before.now
        assert value["all"]["qps"] in (None, round(queries / seconds, 1) if seconds > 0 else None)
        assert all(not entry["qps"] for entry in value["pools"])


STATS = "database total_xact_count total_query_count total_received total_sent total_query_time avg_query_time"


@given(st.lists(COUNT, min_size=5, max_size=5), st.lists(COUNT, min_size=5, max_size=5))
def test_top_and_watch_show_no_rate_below_nought(now: list[int], before: list[int]) -> None:
    names = STATS.split()
    old, new = (
        shown(0.0, STATS=[dict(zip(names, ("app", *counts, 1), strict=True))]).databases[0] for counts in (before, now)
    )
    found = top_rates(new, old, 2.0)
    fallen = any(b > n for n, b in zip(now, before, strict=True))
    assert (found is None) == fallen
    if found is not None:
        assert (found.tps, found.qps) == ((now[0] - before[0]) / 2, (now[1] - before[1]) / 2)
        assert min(getattr(found, f.name) for f in fields(found)) >= 0
    answer: Answer = shown_rates(rows(STATS, ("app", *before, 1)), rows(STATS, ("app", *now, 1)), 2.0, "SHOW STATS")
    told = [float(text.replace(",", "")) for text in answer.rows[0][1:6]]
    assert min(told) >= 0
    assert not (fallen and any(told))


def test_the_toolbar_shows_no_rate_below_nought() -> None:
    from admin.repl.background import pulse_of

    told, before = [], None
    for now, counts in (
        (1.0, [("app", 1000), ("shop", 50)]),
        (2.0, [("app", 1010), ("shop", 50)]),
        (3.0, [("app", 1030)]),
        (4.0, [("app", 7), ("shop", 10**9)]),
        (5.0, [("app", 9), ("shop", 10**9 + 1)]),
    ):
        stats = [{"database": name, "total_xact_count": count} for name, count in counts]
        taken = shown(now, STATS=[*stats, {"database": "pgbouncer", "total_xact_count": int(now) * 1000}])
        told.append(pulse_of(taken, before, "").tps)
        before = taken
    assert told == [None, 10.0, 20.0, 0.0, 3.0]


# ---- one rule


def subtracting() -> Iterator[str]:
    """Where a count is subtracted from another, beside the one place where that is allowed."""
    for package in ("pooler", "admin", "metrics"):
        for path in (TREE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
                    named = {name.attr for side in (node.left, node.right) for name in ast.walk(side)
                             if isinstance(name, ast.Attribute)}  # fmt: skip
                    if named & {"counters", "distributions", *COUNTERS}:
                        yield f"{path.relative_to(TREE)}:{node.lineno}"


@pytest.mark.slow
def test_nobody_else_subtracts_counts() -> None:
    assert not hasattr(Counters, "__sub__")
    assert list(subtracting()) == []


def test_what_is_made_up_by_these_tests_is_told_apart() -> None:
    """The fixtures' pools and databases have numbers, as the pooler's own have."""
    assert database("a").born
    assert pool("a", "b").born
    assert all(stat.born for stat in made_snapshot().databases)


async def console(*_: object) -> None:
    raise AssertionError("nobody came for the console")
