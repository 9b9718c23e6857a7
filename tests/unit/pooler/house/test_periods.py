"""How long a period lasts: the clock is put forward, nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pooler.config.whole import Changes
from tests.unit.pooler.house.test_bouncer import House


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


@pytest.mark.parametrize(("ahead", "over"), [(59.0, False), (61.0, True)])
def test_a_period_that_has_become_another_ends_when_that_is_over(house: House, ahead: float, over: bool) -> None:
    periods, registry = house.bouncer.periods, house.bouncer.running.registry

    async def go() -> None:
        sleeping = asyncio.ensure_future(periods.sleep())
        await asyncio.sleep(0)
        registry.config = config = replace(registry.config, settings=replace(registry.config.settings, stats_period=60))
        house.ahead = ahead
        periods.changed(Changes(config, settings=frozenset({"query_timeout"})))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not sleeping.done()
        periods.changed(Changes(config, settings=frozenset({"stats_period"})))
        for _ in range(5):
            await asyncio.sleep(0)
        assert sleeping.done() is over
        sleeping.cancel()
        await asyncio.wait([sleeping])

    registry.config = replace(registry.config, settings=replace(registry.config.settings, stats_period=600))
    house.run(go())


def test_the_end_of_a_period_is_in_the_history_and_in_the_log(house: House) -> None:
    house.pool()
    before = house.bouncer.history.sums()
    house.bouncer.periods.turn(house.bouncer.running.now() + 60)
    house.bouncer.periods.turn(house.bouncer.running.now() + 120)
    assert len(house.bouncer.history.sums()) > len(before)
    assert len(house.log.having("LOG stats: 0 xacts/s")) == 2
