"""Listening servers that cannot be had, or fail. What they do is in tests/system/test_listen.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pooler.servers.hubs import Hub, Lost, statements
from tests.unit.faults import EMFILE
from tests.unit.pooler.house.test_bouncer import House


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def test_names_are_quoted() -> None:
    assert statements({b"foo", b'a"b'}) == b'LISTEN "a""b";LISTEN "foo";'
    assert statements({b"foo"}, "UN") == b'UNLISTEN "foo";'


def test_a_listening_server_that_fails_is_opened_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    def target(*_: Any, **__: Any) -> Any:
        nonlocal tried
        tried += 1
        raise EMFILE

    monkeypatch.setattr(house.bouncer.opener, "target", target)
    monkeypatch.setattr(Hub, "wanted", lambda _: {b"foo"} if tried < 2 else set())
    monkeypatch.setattr(Hub, "asker", lambda _: house.pool())

    async def scene() -> None:
        house.bouncer.hubs.make(house.pool().database, "127.0.0.1")
        await asyncio.gather(*house.bouncer.opener.tasks)

    house.run(scene())
    assert (tried, house.pool().listening, list(house.bouncer.hubs)) == (2, 0, [])


class Connection:
    """One that says nothing."""

    def __init__(self) -> None:
        self.hearing: asyncio.Task[None] | None = None


@pytest.mark.parametrize("lost", [True, False])
def test_what_was_to_take_the_place_of_one_that_is_lost_in_the_same_moment_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """A RECONNECT, and a PAUSE as it was done: the new connection was nobody's, and stayed until the pooler ended."""
    old, new = Connection(), Connection()
    closed: list[Any] = []
    hubs = house.bouncer.hubs
    hub: Any = Hub(hubs, house.pool().database, "127.0.0.1")

    async def talk(_: Any) -> Any:
        if lost:
            hub.drop("pause mode")
        return new

    async def hear(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(hub, "_talk", talk)
    monkeypatch.setattr(hub, "_hear", hear)
    monkeypatch.setattr(hub, "_retire", lambda line, _: closed.append(line))

    async def scene() -> None:
        if lost:
            with pytest.raises(Lost):
                await hub._serve(old)
        else:
            assert await hub._serve(old) is new

    house.run(scene())
    assert closed == [new] * lost
