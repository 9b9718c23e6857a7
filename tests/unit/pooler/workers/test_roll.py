"""The roll: whom a call waits for, and who is let in behind one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from pooler.workers import roll
from pooler.workers.desk import Desk
from pooler.workers.line import LineClosed
from pooler.workers.roll import Roll


class Asked:
    """A worker that answers when it is told to: `says` comes ahead of its answer."""

    def __init__(self, says: Callable[[], object] = lambda: None) -> None:
        self.line, self.ready, self.silent, self.coming = self, True, False, 0
        self.says = says
        self.calls: list[asyncio.Future[None]] = []

    async def ask(self, name: str, *_: Any) -> None:
        assert name == "roll"
        answer = asyncio.get_running_loop().create_future()
        self.calls.append(answer)
        await answer

    def answer(self) -> None:
        self.says()
        for call in self.calls:
            if not call.done():
                call.set_result(None)


def roll_of(*workers: Any) -> Roll:
    return Roll(dict(enumerate(workers)), keep)


def keep(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def desk_of(workers: dict[int, Any]) -> Desk:
    other: Any = None
    running: Any = SimpleNamespace(
        now=lambda: 100.0, loop=asyncio.get_running_loop(), rounds=SimpleNamespace(once=lambda _, work: work)
    )
    desk = Desk(running, other, other, other, len(workers), (), other)
    desk.workers.update(workers)
    return desk


def coming(desk: Desk, number: int, most: int) -> asyncio.Task[Any]:
    """A client that this worker would let in."""
    found: Any = desk._admit(number, "app", "joe", (most, 0, 0))
    return asyncio.ensure_future(found)


def test_who_has_gone_elsewhere_is_counted_out_first_and_no_more_come_in_than_have_gone() -> None:
    async def scene() -> None:
        workers = {0: Asked(lambda: desk._left(0, "app", "joe")), 1: Asked()}
        desk = desk_of(workers)
        assert desk._admit(0, "app", "joe", (1, 0, 0)) is None
        both = [coming(desk, 1, 1) for _ in range(2)]
        await turns()
        assert [len(worker.calls) for worker in workers.values()] == [1, 1]
        for worker in workers.values():
            worker.answer()
        assert await asyncio.gather(*both) == [None, ("clients",)]
        assert desk.ledger.total(("clients",)) == 1

    asyncio.run(scene())


def test_who_comes_during_a_call_needs_another_one() -> None:
    """The worker may have answered before that one's predecessor has gone."""

    async def scene() -> None:
        worker = Asked()
        called = roll_of(worker)
        first = keep(called.call())
        await turns()
        behind = [keep(called.call()) for _ in range(3)]
        await turns()
        worker.answer()
        await first
        await turns()
        assert not any(one.done() for one in behind)
        worker.answer()
        await asyncio.gather(*behind)
        assert len(worker.calls) == 2

    asyncio.run(scene())


def test_who_gives_up_in_the_middle_of_a_call_leaves_the_others_another_one() -> None:
    async def scene() -> None:
        hangs, answers = Asked(), Asked()
        called = roll_of(hangs, answers)
        first, second = keep(called.call()), keep(called.call())
        await turns()
        first.cancel()
        await turns()
        assert not second.done()
        answers.answer()
        await turns()
        assert not second.done()
        hangs.answer()
        await second

    asyncio.run(scene())


def test_one_that_hangs_is_waited_for_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(roll, "PATIENCE", 0.01)

    async def scene() -> None:
        hangs, answers = Asked(), Asked()
        called = roll_of(hangs, answers)
        for turn in range(3):
            call = keep(called.call())
            await turns()
            answers.answer()
            await call
            assert len(hangs.calls) == 1, turn
        hangs.answer()
        await turns()
        call = keep(called.call())
        await turns()
        assert len(hangs.calls) == 2
        call.cancel()

    asyncio.run(scene())


def test_one_that_ends_holds_nobody_up() -> None:
    async def scene() -> None:
        worker = Asked()
        call = keep(roll_of(worker).call())
        await turns()
        worker.calls[0].set_exception(LineClosed())
        await call

    asyncio.run(scene())
