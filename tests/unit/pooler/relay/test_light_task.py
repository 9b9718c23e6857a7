"""What carries a login on without a task of asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pooler.relay import LightTask, Wait
from tests.unit.pairs import run


def begin(steps: Coroutine[Any, Any, None]) -> tuple[LightTask, set[LightTask]]:
    tasks: set[LightTask] = set()
    task = LightTask(steps, tasks, asyncio.get_running_loop())
    task.go_on()
    return task, tasks


def test_what_has_nothing_to_wait_for_is_done_at_once() -> None:
    async def main() -> None:
        async def steps() -> None:
            done.append(1)

        done: list[int] = []
        task, tasks = begin(steps())
        assert (done, task.ended, tasks) == ([1], True, set())
        assert not task.cancel()
        await task

    run(main())


def test_it_goes_on_in_the_callback_of_what_it_waits_for() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wait, future, order = Wait(loop), loop.create_future(), list[str]()

        async def steps() -> None:
            await wait
            order.append("wait")
            await asyncio.sleep(0)
            order.append(await future)

        task, tasks = begin(steps())
        assert tasks == {task}
        wait.end()
        assert order == ["wait"]
        future.set_result("future")
        await task.future()
        assert order == ["wait", "future"]
        assert tasks == set()

    run(main())


@pytest.mark.parametrize("what", ["wait", "future", "nothing"])
def test_it_is_cancelled_where_it_waits(what: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        awaited: Any = Wait(loop) if what == "wait" else loop.create_future() if what == "future" else asyncio.sleep(0)

        async def steps() -> None:
            try:
                await awaited
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task, tasks = begin(steps())
        assert task.cancel()
        await task
        assert (seen, tasks, task.ended) == (["cancelled"], set(), True)
        if what == "wait":
            assert not awaited.cancel()

    run(main())


def test_it_may_take_a_cancellation_and_go_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        after = loop.create_future()

        async def steps() -> None:
            try:
                await loop.create_future()
            except asyncio.CancelledError:
                after.set_result(await asyncio.sleep(0, "went on"))

        begin(steps())[0].cancel()
        assert await after == "went on"

    run(main())


def test_a_fault_is_told_to_the_loop_and_nobody_waits_for_ever() -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        async def steps() -> None:
            await asyncio.sleep(0)
            raise RuntimeError("a bug")

        task, tasks = begin(steps())
        await asyncio.gather(task)
        assert [str(context["exception"]) for context in told] == ["a bug"]
        assert tasks == set()

    run(main())
