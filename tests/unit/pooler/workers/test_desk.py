"""The desk: whom it takes for silent. The rest of it is in tests/system/test_workers.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.workers.desk import KILLED, LOOK, SILENT, Desk


class Looking(Desk):
    """With one worker that never answers, and time that is ours."""

    def __init__(self) -> None:
        self.time, self.said, self.killed = 100.0, list[str](), 0
        running: Any = SimpleNamespace(
            now=lambda: self.time, loop=None, say=lambda _, text: self.said.append(text), rounds=None
        )
        other: Any = None
        super().__init__(running, other, other, other, 1, (), other)
        process = SimpleNamespace(kill=self.kill_it)
        worker: Any = SimpleNamespace(number=0, process=process, line=self, ready=True, heard=100.0, silent=False)
        self.workers[0] = worker

    def kill_it(self) -> None:
        self.killed += 1

    async def ask(self, *_: object) -> Any:
        raise AssertionError("its figures are kept for later, and never asked")

    def keep(self, work: Coroutine[Any, Any, None]) -> Any:
        work.close()

    def pass_(self, seconds: float) -> None:
        self.time += seconds
        asyncio.run(self.look())


@pytest.fixture
def desk() -> Looking:
    return Looking()


def test_a_worker_that_does_not_answer_is_silent_and_then_ended(desk: Looking) -> None:
    for _ in range(int(SILENT / LOOK) + 1):
        desk.pass_(LOOK)
    assert desk.workers[0].silent
    assert not desk.killed
    for _ in range(int((KILLED - SILENT) / LOOK) + 1):
        desk.pass_(LOOK)
    assert desk.killed


def test_time_in_which_the_desk_had_no_turn_itself_is_nobodys_silence(desk: Looking) -> None:
    """Stopped, or on a machine that stood still, it would end all its workers when it goes on."""
    desk.pass_(LOOK)
    desk.pass_(10 * KILLED)
    assert not desk.killed
    assert not desk.workers[0].silent
    desk.pass_(LOOK)
    assert not desk.said
