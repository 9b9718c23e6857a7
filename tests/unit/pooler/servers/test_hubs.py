"""Listening servers that cannot be had, or fail. What they do is in tests/system/test_listen.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pooler.servers.hubs import Hub, statements
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
