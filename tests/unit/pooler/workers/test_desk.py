"""The desk: whom it takes for silent, when a PAUSE is done, and how a configuration is told. The rest of it is in
tests/system/test_workers.py."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.whole import Changes, Config, compose
from pooler.verbs import Verb
from pooler.workers import desk as desks
from pooler.workers.desk import KILLED, LOOK, SILENT, STARTED, Desk
from pooler.workers.exchange import Want
from pooler.workers.line import packed, unpacked
from tests.fixtures.waiting import DEADLINE


class Looking(Desk):
    """With one worker that never answers, and time that is ours."""

    def __init__(self) -> None:
        self.time, self.said, self.killed = 100.0, list[str](), 0
        config = SimpleNamespace(settings=SimpleNamespace(client_login_timeout=60.0))
        running: Any = SimpleNamespace(
            config=config,
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


def test_a_worker_that_never_comes_to_serve_is_ended(desk: Looking) -> None:
    """Each PAUSE and RELOAD waits for it; stopped in the middle of its start, say, it was waited for for ever."""
    desk.workers[0].ready = False
    for _ in range(int(STARTED / LOOK)):
        desk.pass_(LOOK)
    assert not desk.killed
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


class Paused:
    """A worker that does what it is told when it is asked something: in the order of its line."""

    def __init__(self, desk: Desk, number: int, gives: bool) -> None:
        self.desk, self.number, self.gives = desk, number, gives
        self.line, self.ready, self.silent = self, True, False
        self.unread: list[str] = []

    def put(self, name: str, *_: Any, descriptors: Sequence[int] = ()) -> bool:
        self.unread.append(name)
        return True

    async def ask(self, name: str, *_: Any) -> Any:
        self.unread.clear()
        if name == "perform" and self.gives:
            # The other one has answered meanwhile.
            await asyncio.sleep(0.01)
            ends = os.pipe()
            os.close(ends[1])
            self.desk.exchange.given(self.number, "app", "joe", b"all that it is", [ends[0]])
        return None


@pytest.mark.parametrize("wanted", [True, False], ids=["it goes on", "it goes back"])
def test_no_server_is_under_way_when_a_pause_is_answered(wanted: bool) -> None:
    """It is given up before the worker hears of the PAUSE, and arrives where that was heard long ago."""

    async def scene() -> None:
        running: Any = SimpleNamespace(now=lambda: 100.0, loop=asyncio.get_running_loop(), rounds=None)
        other: Any = None
        desk = Desk(running, other, other, other, 2, (), other)
        workers: dict[int, Any] = {number: Paused(desk, number, not number) for number in range(2)}
        desk.workers.update(workers)
        if wanted:
            desk.exchange.want(Want(1, "app", "joe", True, False, False, True, (0, 0, 0), 1.0))
        await desk.perform(Verb("PAUSE", "app"))
        assert all("server" not in worker.unread for worker in workers.values())

    asyncio.run(scene())


def test_who_is_on_the_way_to_a_worker_is_waited_for(desk: Looking) -> None:
    """It has said that all are gone before it knew of this one."""
    worker: Any = desk.workers[0]
    desk.running.changed = asyncio.Event()
    gone, taken = desk._works(0)["gone"], desk._works(0)["taken"]
    for handed, found in (({7: (0, os.dup(0))}, False), ({}, True)):
        worker.handed = handed
        gone(True)
        assert desk.all_gone() is found
        if handed:
            taken(7)


class Told:
    """A worker that notes the configurations that it is told."""

    def __init__(self) -> None:
        self.line, self.number, self.silent = self, 0, False
        self.sizes: list[int] = []

    async def ask(self, name: str, told: bytes, _: bytes) -> None:
        assert name == "configure"
        self.sizes.append(unpacked(told).settings.default_pool_size)


def test_configurations_are_made_ready_beside_the_loop_and_told_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(config: Config) -> bytes:
        if config.settings.default_pool_size == 7:
            assert go_on.wait(DEADLINE), "the loop had a turn"
        return packed(config)

    monkeypatch.setattr(desks, "packed", slow)

    async def scene() -> None:
        loop, other = asyncio.get_running_loop(), None
        running: Any = SimpleNamespace(now=lambda: 100.0, loop=loop, rounds=SimpleNamespace(once=lambda _, work: work))
        desk = Desk(running, other, other, other, 1, (), other)  # type: ignore[arg-type]
        worker: Any = Told()
        desk.workers[0] = worker
        told = []
        for size in ("7", "8"):
            running.config = compose({"default_pool_size": size})
            desk.configured(Changes(running.config))
            told.append(desk.in_force)
        loop.call_later(0.01, go_on.set)
        for each in told:
            assert each is not None
            await each
        assert worker.sizes == [7, 8]

    asyncio.run(scene())
