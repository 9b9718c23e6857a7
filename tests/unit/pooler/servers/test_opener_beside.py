"""Who waits where no server can be opened, or not soon, while other workers have some or come to have them. Those are
by script here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pooler.pools.registry import PoolState
from pooler.servers.opener import SLOW
from tests.fixtures.understudy import HANG, refusal
from tests.unit.pooler.servers.test_opener import ASK, BEGIN, Place, play, understudy, until

__all__ = ["play", "understudy"]


class Others:
    """Colleagues who have none, or something that the `answer` says; limits leave room for all."""

    def __init__(self, answer: Callable[[PoolState], bool] = lambda pool: False) -> None:
        self.answer = answer
        self.said: list[str] = []

    async def have(self, pool: PoolState) -> bool:
        self.said.append("have")
        return self.answer(pool)

    def may_open(self, pool: PoolState, **_: bool) -> bool:
        self.said.append(f"{pool.user.name} wants one")
        return True

    def yields(self, pool: PoolState) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.said.append(name)


def beside(place: Place, others: Others) -> Others:
    place.bouncer.running.colleagues = others  # type: ignore[assignment]
    return others


def test_a_slow_login_is_told_apart_before_anybody_waits_for_it(play: Callable[..., None]) -> None:
    """It was begun for min_pool_size, or for who was served by another one, or has gone."""

    async def scene(place: Place) -> None:
        others = beside(place, Others(lambda pool: True))
        place.understudy.login = HANG
        place.bouncer.opener.consider(place.pool(), needed=True)
        await until(lambda: "have" in others.said)
        assert "seek" not in others.said
        await until(lambda: place.pool().elsewhere)
        place.come("bob").say(ASK)
        await until(lambda: "seek" in others.said)
        assert place.pool().opening == 1

    play(scene, server_connect_timeout="60")


@pytest.mark.parametrize("before", [False, True])
def test_one_that_was_opened_elsewhere_while_a_login_hangs_is_sought(play: Callable[..., None], before: bool) -> None:
    """Whether or not the login before has failed."""

    async def scene(place: Place) -> None:
        others = beside(place, Others())
        one = place.come("bob")
        if before:
            place.understudy.login = refusal("57P03", "starting")
            one.say(ASK)
            await until(lambda: one.pool.failure)
        place.understudy.login = HANG
        if not before:
            one.say(ASK)
        await until(lambda: place.understudy.kept)
        await until(lambda: others.said.count("have") == 1 + before)
        place.bouncer.opener.opened_elsewhere(one.pool)
        await until(lambda: "seek" in others.said)
        assert one.waits
        assert one.pool.opening == 1

    play(scene, server_connect_timeout="60")


def test_one_that_is_opened_elsewhere_while_it_is_asked_what_there_is_turns_nobody_away(
    play: Callable[..., None],
) -> None:
    """Told first is that there is one, and then that there was none."""

    async def scene(place: Place) -> None:
        def answer(pool: PoolState) -> bool:
            place.bouncer.opener.opened_elsewhere(pool)
            return False

        others = beside(place, Others(answer))
        place.understudy.login = refusal("28000", "nobody may log in")
        one = place.come("bob")
        one.say(ASK)
        await until(lambda: one.pool.failure)
        await until(lambda: "seek" in others.said)
        assert one.waits
        assert one.pool.engine.failing is None

    play(scene, server_login_retry="60")


def test_without_others_nobody_looks_how_long_a_login_takes(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(place: Place) -> None:
        delays: list[float] = []
        call_later = place.loop.call_later

        def noted(delay: float, *work: Any, **more: Any) -> asyncio.TimerHandle:
            delays.append(delay)
            return call_later(delay, *work, **more)

        monkeypatch.setattr(place.loop, "call_later", noted)
        for others in (None, Others()):
            place.bouncer.running.colleagues = others  # type: ignore[assignment]
            place.bouncer.opener.consider(place.pool(), needed=True)
            await until(lambda: not place.pool().opening)
            assert (SLOW in delays) is (others is not None)

    play(scene)


def test_who_waits_for_a_limit_that_others_have_part_in_is_known_to_them(play: Callable[..., None]) -> None:
    """Also where all of it is this worker's: what comes free is for who has waited for longest anywhere."""

    async def scene(place: Place) -> None:
        others = beside(place, Others())
        holder, waits = place.come("bob"), place.come("anna")
        holder.say(BEGIN)
        await until(lambda: holder.linked)
        waits.say(ASK)
        await until(lambda: "anna wants one" in others.said)
        assert waits.waits
        assert not waits.pool.opening

    play(scene, max_db_connections="1")
