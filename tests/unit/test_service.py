"""What the service does when something beside the pooling ends by itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from pooler.service import Service


def test_a_front_that_ends_is_told_and_the_pooler_goes_on() -> None:
    said: list[str] = []
    bouncer: Any = SimpleNamespace(say=lambda level, text: said.append(text))
    door: Any = SimpleNamespace()

    async def front() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async def fail() -> None:
        raise ValueError("a bug")

    async def scene() -> Service:
        service = Service(bouncer, door)
        task = asyncio.create_task(front())
        service.watch([task])
        await asyncio.wait([task])
        await asyncio.sleep(0)
        return service

    service = asyncio.run(scene())
    assert said == ["metrics and HTTP have ended: ValueError: a bug"]
    assert not service.failed
