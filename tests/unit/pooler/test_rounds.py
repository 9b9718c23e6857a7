"""Rounds: each that fails is counted, told once and then by number, and followed by the next."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pooler import rounds as module
from pooler.rounds import TELL_SECONDS, Rounds
from tests.fixtures.waiting import DEADLINE


class Heard:
    """Rounds with a clock of the test's, and what they said."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.rounds = Rounds(self.said.append, lambda: self.now)

    def full(self) -> None:
        self.rounds.failed("janitor", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_what_goes_on_failing_is_told_once_a_minute_and_no_failure_is_missing() -> None:
    heard = Heard()
    for _ in range(3 * 600):
        heard.full()
        heard.now += 1 / 3
        heard.rounds.tell()
    first, *later = heard.said
    assert first == "fault in janitor: OSError: [Errno 28] No space left on device"
    assert len(later) in (9, 10)
    told = [int(line.removeprefix(first + " (").partition(" ")[0]) for line in later]
    assert sum(told) < 1800
    assert heard.rounds.counts() == {"janitor": 1800}
    heard.now += TELL_SECONDS
    heard.rounds.tell()
    assert sum(int(line.removeprefix(first + " (").partition(" ")[0]) for line in heard.said[1:]) + 1 == 1800


def test_what_is_over_is_told_at_once_when_it_comes_again() -> None:
    heard = Heard()
    heard.full()
    heard.now += TELL_SECONDS + 1
    heard.rounds.tell()
    heard.full()
    assert heard.said == 2 * ["fault in janitor: OSError: [Errno 28] No space left on device"]


def test_another_failure_of_the_same_round_is_told_at_once() -> None:
    heard = Heard()
    for error in (OSError(errno.ENOSPC, "full"), OSError(errno.EMFILE, "none"), ValueError("a bug"), KeyError("x")):
        heard.rounds.failed("janitor", error)
        heard.rounds.failed("janitor", error)
    assert len(heard.said) == 4
    assert heard.rounds.counts() == {"janitor": 8}


def test_words_of_the_caller_are_told_instead() -> None:
    heard = Heard()
    for _ in range(2):
        heard.rounds.failed("accept", OSError(errno.EMFILE, ""), "accept() failed: Too many open files")
    heard.now += TELL_SECONDS
    heard.rounds.tell()
    assert heard.said == [
        "accept() failed: Too many open files",
        "accept() failed: Too many open files (1 more time in the last 60 s)",
    ]


def test_telling_that_fails_is_no_failure_of_who_tells() -> None:
    def no_room(text: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    rounds = Rounds(no_room)
    rounds.failed("janitor", ValueError())
    rounds.failed("janitor", ValueError())
    assert rounds.counts() == {"janitor": 2}


def test_threads_tell_as_well_and_none_is_missing() -> None:
    heard = Heard()

    def many() -> None:
        for _ in range(1000):
            heard.full()

    threads = [threading.Thread(target=many) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert heard.rounds.counts() == {"janitor": 4000}
    assert len(heard.said) == 1


def test_an_attempt_gives_its_answer_or_none() -> None:
    heard = Heard()
    assert heard.rounds.attempt("divide", divmod, 7, 2) == (3, 1)
    assert heard.rounds.attempt("divide", divmod, 7, 0) is None
    assert heard.said == ["fault in divide: ZeroDivisionError: integer division or modulo by zero"]


@pytest.mark.parametrize("broken", ["pause", "work", "await"])
@pytest.mark.parametrize(
    "error", [ValueError(), MemoryError(), OSError(errno.EMFILE, ""), RecursionError(), TimeoutError(), StopIteration()]
)
def test_the_next_round_comes(monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception) -> None:
    monkeypatch.setattr(module, "REST", 0)
    heard, done = Heard(), 0

    async def pause() -> None:
        if broken == "pause" and done < 3:
            fail()
        await asyncio.sleep(0)

    def work() -> object:
        if broken == "work":
            fail()
        if broken == "await":
            return later()
        fail()
        return None

    async def later() -> None:
        fail()

    def fail() -> None:
        nonlocal done
        done += 1
        if done <= 3:
            raise error

    async def scene() -> None:
        async with asyncio.timeout(DEADLINE):
            await heard.rounds.forever("test", pause, work, until=lambda: done > 5)

    asyncio.run(scene())
    assert heard.rounds.counts() == {"test": 3}
    assert len(heard.said) == 1


def test_it_ends_when_it_is_cancelled_and_not_otherwise() -> None:
    heard = Heard()

    async def scene() -> None:
        task = asyncio.create_task(heard.rounds.forever("test", lambda: asyncio.sleep(0), lambda: 1 / 0))
        while not heard.said:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())


def test_even_a_rest_that_cannot_be_had_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, sleep, failed = Heard(), asyncio.sleep, 0

    async def no_timer(seconds: float) -> None:
        nonlocal failed
        if seconds and failed < 5:
            failed += 1
            raise MemoryError
        await sleep(0)

    async def scene() -> None:
        monkeypatch.setattr(asyncio, "sleep", no_timer)
        async with asyncio.timeout(DEADLINE):
            await heard.rounds.forever("test", lambda: asyncio.sleep(1), lambda: None, until=lambda: failed >= 5)

    asyncio.run(scene())
    assert heard.rounds.counts()["test"] >= 2


def test_what_is_done_once_ends_nothing_beside_it() -> None:
    heard = Heard()

    async def fail() -> None:
        raise ValueError("a bug")

    asyncio.run(heard.rounds.once("front", fail()))
    assert heard.said == ["fault in front: ValueError: a bug"]


# ---- what nobody has caught


@contextmanager
def watched(heard: Heard) -> Iterator[None]:
    before = threading.excepthook, sys.unraisablehook
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before


class Dropped:
    def __del__(self) -> None:
        raise ValueError("in a finalizer")


@pytest.mark.slow
def test_what_fails_in_a_callback_is_told_by_its_name_and_without_its_arguments() -> None:
    heard = Heard()

    def retry(secret: str) -> None:
        raise ValueError("in a callback")

    async def alone() -> None:
        raise ValueError("in a task")

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        heard.rounds.watch_over(loop)
        loop.call_soon(retry, "s3cret")
        forgotten = loop.create_task(alone())
        out = {"message": "socket.accept() out of system resource", "exception": OSError(24, "x")}
        loop.call_exception_handler(out)
        for _ in range(3):
            await asyncio.sleep(0)
        del forgotten
        gc.collect()

    with watched(heard):
        asyncio.run(scene())
    text = "\n".join(heard.said)
    assert "retry: ValueError: in a callback" in text
    assert "alone: ValueError: in a task" in text
    assert "socket.accept() out of system resource: OSError: [Errno 24] x" in text
    assert "s3cret" not in text


def test_what_fails_in_a_thread_or_a_finalizer_is_told() -> None:
    heard = Heard()

    def fail() -> None:
        raise ValueError("in a thread")

    with watched(heard):
        heard.rounds.watch_over()
        thread = threading.Thread(target=fail, name="dns db.example")
        thread.start()
        thread.join()
        Dropped()
        gc.collect()
    assert heard.said == [
        "fault in thread dns: ValueError: in a thread",
        "fault in Dropped.__del__: ValueError: in a finalizer",
    ]
