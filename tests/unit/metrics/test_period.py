"""When lines are made, and that sinks, ring and followers all get them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest

from metrics.heroku import LogLine
from metrics.period import LOOK_SECONDS, Reporter, Rhythm
from metrics.source import Unavailable
from pooler.stats import DrainStat, Snapshot
from pooler.stirring import Stirring
from tests.fixtures.figures import database, snapshot, soon


class Kept:
    """A sink that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.closed = self.reopened = False

    def emit(self, lines: Iterable[LogLine]) -> None:
        self.lines.extend(lines)

    def reopen(self) -> None:
        self.reopened = True

    def stats(self) -> DrainStat:
        return DrainStat("kept", "-", "connected", 0, len(self.lines), 0, 0, "")

    async def close(self, timeout: float = 1.0) -> None:
        self.closed = True


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Reporter's first look, and the one after a failure, come without a second's wait."""
    monkeypatch.setattr("metrics.period.LOOK_SECONDS", 0.01)


def reports(rhythm: Rhythm, traffic_from: float, until: float) -> list[float]:
    """The times at which a clock moved from look to look finds a report due."""
    found = []
    while (now := rhythm.next_look) <= until:
        if rhythm.decide(now, now >= traffic_from):
            found.append(now)
    return found


def test_first_after_a_second_then_every_period_and_first_traffic_comes_in_between() -> None:
    assert LOOK_SECONDS <= 1
    assert reports(Rhythm(60, 0), traffic_from=10, until=200) == [1, 10, 61, 121, 181]
    assert reports(Rhythm(60, 0), traffic_from=61, until=200) == [1, 61, 121, 181]
    assert reports(Rhythm(60, 0), traffic_from=100, until=200) == [1, 61, 100, 121, 181]


def test_without_traffic_every_period() -> None:
    assert reports(Rhythm(60, 0), traffic_from=1000, until=200) == [1, 61, 121, 181]


def test_a_late_look_does_not_shift_the_period_and_a_very_late_one_starts_it_anew() -> None:
    rhythm = Rhythm(60, 0)
    assert rhythm.decide(1, True)
    assert rhythm.decide(64, True)
    assert rhythm.next_look == 121
    assert rhythm.decide(500, True)
    assert rhythm.next_look == 560


@pytest.mark.usefixtures("quick_looks")
def test_lines_reach_sinks_ring_and_followers() -> None:
    async def scene() -> None:
        kept, more = Kept(), Kept()
        reporter = Reporter(lambda **_: snapshot(), [kept, more], period=0.05, keep=3)
        with reporter.follow() as follower:
            running = asyncio.create_task(reporter.run())
            await soon(lambda: len(kept.lines) >= 4, "four lines")
            running.cancel()
            assert await anext(follower) == kept.lines[0]
        assert reporter.tail(2) == kept.lines[-2:]
        assert len(reporter.tail(100)) == 3
        assert reporter.tail(0) == []
        assert more.lines == kept.lines
        assert [stat.delivered for stat in reporter.stats()] == [len(kept.lines)] * 2
        reporter.reopen()
        await reporter.close()
        assert kept.reopened
        assert kept.closed

    asyncio.run(scene())


def test_a_follower_that_falls_behind_misses_the_oldest_and_knows_how_many() -> None:
    async def scene() -> None:
        reporter = Reporter(lambda **_: snapshot(), keep=10)
        follower = reporter.follow()
        reporter.publish([LogLine(n, str(n)) for n in range(2000)])
        assert (await anext(follower)).when == 500
        assert follower.missed == 500

    asyncio.run(scene())


@pytest.mark.slow
def test_many_databases_are_handed_out_in_parts() -> None:
    async def scene() -> None:
        kept = Kept()
        reporter = Reporter(lambda **_: snapshot(), [kept])
        await reporter.report(snapshot(databases=tuple(database(f"d{n}") for n in range(600))))
        assert [line.addon for line in kept.lines] == [f"d{n}" for n in range(600)]

    asyncio.run(scene())


@pytest.mark.usefixtures("quick_looks")
def test_a_source_without_figures_is_told_once_and_asked_again() -> None:
    async def scene() -> None:
        asked, kept = 0, Kept()
        told: list[str] = []

        def source(**_: bool) -> Snapshot:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise Unavailable("connection refused")
            return snapshot()

        reporter = Reporter(source, [kept], warn=told.append)
        running = asyncio.create_task(reporter.run())
        await soon(lambda: kept.lines, "a line")
        running.cancel()
        assert told == ["no metrics: connection refused"]

    asyncio.run(scene())


@pytest.mark.usefixtures("quick_looks")
def test_a_period_of_0_has_no_lines_until_there_is_another() -> None:
    async def scene() -> None:
        kept, asked = Kept(), 0

        def source(**_: object) -> Snapshot:
            nonlocal asked
            asked += 1
            return replace(snapshot())

        reporter = Reporter(source, [kept], period=0)
        running = asyncio.create_task(reporter.run())
        await asyncio.sleep(0.02)
        assert (asked, kept.lines) == (0, [])
        reporter.set_period(0.01)
        await soon(lambda: len(kept.lines) > 3, "lines")
        reporter.set_period(0)
        await asyncio.sleep(0)
        before = asked
        await asyncio.sleep(0.03)
        assert asked <= before + 1
        reporter.set_period(0.01)
        await soon(lambda: asked > before + 3, "more lines")
        running.cancel()

    asyncio.run(scene())


@pytest.mark.usefixtures("quick_looks")
def test_a_new_period_counts_from_the_last_line() -> None:
    async def scene() -> None:
        kept = Kept()
        reporter = Reporter(lambda **_: replace(snapshot()), [kept], period=3600)
        running = asyncio.create_task(reporter.run())
        await soon(lambda: len(kept.lines) == 1, "the first line")
        reporter.set_period(0.02)
        await soon(lambda: len(kept.lines) > 3, "more lines")
        running.cancel()

    asyncio.run(scene())


def test_traffic_is_not_looked_for_while_nothing_happens(quick_looks: None) -> None:
    """But when something does, and the lines of the period come in any case."""

    async def scene() -> None:
        happened = asked = 0
        stirring = Stirring(lambda: happened)

        def source(**_: bool) -> Snapshot:
            nonlocal asked
            asked += 1
            return replace(snapshot(), databases=())

        reporter = Reporter(source, period=0.5, stirring=stirring)
        task = asyncio.create_task(reporter.run())
        await soon(lambda: asked == 1, "the first look")
        await asyncio.sleep(0.2)
        assert asked == 1
        happened += 1
        stirring.stir()
        await soon(lambda: asked == 2, "a look")
        await asyncio.sleep(0.1)
        assert asked == 2
        await soon(lambda: asked == 3, "the next period")
        task.cancel()

    asyncio.run(scene())
