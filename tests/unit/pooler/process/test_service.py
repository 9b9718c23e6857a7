"""What the service does when something that is done beside the pooling ends by itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.ending import Ending
from pooler.process import service
from pooler.process.service import Service
from pooler.rounds import Rounds
from tests.fixtures.waiting import DEADLINE


def test_what_ends_by_itself_is_told_and_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the kind should happen: what is done for ever deals with its own failures."""
    monkeypatch.setattr(service, "REST", 0.001)
    said: list[str] = []
    began = 0

    async def work() -> None:
        nonlocal began
        began += 1
        if began < 3:
            raise ValueError("a bug")
        three.set()

    async def scene() -> Service:
        running: Any = SimpleNamespace(loop=asyncio.get_running_loop(), rounds=Rounds(said.append), on_phase=[])
        control: Any = SimpleNamespace(reconfiguration=SimpleNamespace(on_change=[]))
        nobody: Any = SimpleNamespace()
        made = Service(running, nobody, nobody, control, nobody, nobody, Ending(), listeners=[])
        made._keep_up(work)
        async with asyncio.timeout(DEADLINE):
            await three.wait()
        return made

    three = asyncio.Event()
    made = asyncio.run(scene())
    assert said == ["fault in task: ValueError: a bug"]
    assert not made.failed
    assert not made.ended.is_set()
