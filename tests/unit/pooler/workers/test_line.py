"""The line between two processes: order, wholeness, descriptors, and what becomes of who has gone."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest

from pooler.config.whole import parse
from pooler.verbs import CommandError
from pooler.workers.line import PIECE, SPARED, Failed, Line, LineClosed, first_message, packed
from tests.fixtures.waiting import DEADLINE


class Ends:
    """Two ends of one line in one loop."""

    def __init__(self, works: dict[str, Callable[..., Any]]) -> None:
        self.loop = asyncio.get_running_loop()
        one, two = self.sockets = socket.socketpair()
        self.ended: list[str] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.near = Line(one, self.loop, {}, lambda: self.ended.append("near"), self._fault)
        self.far = Line(two, self.loop, works, lambda: self.ended.append("far"), self._fault)

    def _fault(self, name: str, error: BaseException) -> None:
        self.faults.append((name, error))

    async def __aenter__(self) -> Ends:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.near.close()
        self.far.close()


def test_messages_come_whole_and_in_order() -> None:
    heard: list[object] = []

    async def run() -> None:
        async with Ends({"say": heard.append, "length": len}) as ends:
            for number in range(50):
                ends.near.put("say", number)
            assert await ends.near.ask("length", b"x" * 3_000_000) == 3_000_000
            assert heard == list(range(50))
            # All has gone: nobody is told any more that there is room.
            assert not any(map(ends.loop.remove_writer, ends.sockets))

    asyncio.run(run())


class Watched:
    """A socket, and how many bytes were asked of it at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: list[int] = []

    def recvmsg_into(self, buffers: list[memoryview], *more: int) -> Any:
        self.asked += map(len, buffers)
        return self.sock.recvmsg_into(buffers, *more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def test_room_is_made_for_what_a_message_lacks() -> None:
    """A desk that had no quarter of a megabyte at once was deaf to all its workers, and ended them for it."""

    async def run() -> None:
        async with Ends({"length": len}) as ends:
            watched: Any = Watched(ends.sockets[1])
            ends.far._sock = watched
            assert await ends.near.ask("length", b"x" * 40_000) == 40_000
            assert sum(watched.asked) < 41_000
            assert await ends.near.ask("length", b"x" * 3_000_000) == 3_000_000
            assert max(watched.asked) == PIECE

    asyncio.run(run())


def short(work: Callable[..., Any], *turns: bool) -> Callable[..., Any]:
    """Has no memory in these turns."""
    failures = iter(turns)

    def tried(*values: Any) -> Any:
        if next(failures, False):
            raise MemoryError
        return work(*values)

    return tried


async def come(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_there_is_no_memory_for_is_heard_when_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is read is lost, nor what was read already, and all comes in its order."""
    heard: list[int] = []

    class Short(bytearray):
        __iadd__ = short(bytearray.__iadd__, True, True, False, True)

    monkeypatch.setattr(pickle, "loads", short(pickle.loads, False, True, True))

    async def run() -> None:
        async with Ends({"say": lambda number, _: heard.append(number)}) as ends:
            faults: list[Any] = []
            ends.loop.set_exception_handler(lambda _, about: faults.append(about["exception"]))
            ends.far._in = Short()
            for number in range(5):
                ends.near.put("say", number, b"x" * 30_000)
            await come(lambda: len(heard) == 5)
            assert heard == list(range(5))
            assert {type(fault) for fault in faults} == {MemoryError}

    asyncio.run(run())


def test_a_question_is_answered_or_has_failed() -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    def refuse() -> None:
        raise CommandError("no", "0A000", detail="never", hint="ask")

    async def run() -> None:
        async with Ends({"later": later, "refuse": refuse}) as ends:
            assert await asyncio.gather(*(ends.near.ask("later", n) for n in range(20))) == list(range(1, 21))
            with pytest.raises(Failed) as failed:
                await ends.near.ask("refuse")
            error = failed.value.error
            assert isinstance(error, CommandError)
            assert (error.message, error.sqlstate, error.detail, error.hint) == ("no", "0A000", "never", "ask")
            with pytest.raises(Failed):
                await ends.near.ask("nobody knows this")
            ends.near.put("refuse")
            assert await ends.near.ask("later", 1) == 2
            assert [name for name, _ in ends.faults] == ["refuse"]

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(6))
def test_an_answer_that_nobody_awaits_any_more_is_heard_once(turns: int) -> None:
    """Whenever whoever asked was cancelled: before it was said, on the way, in the turn in which it comes."""
    heard: list[object] = []

    async def run() -> None:
        async with Ends({"len": len, "refuse": lambda: 1 / 0}) as ends:
            questions: list[tuple[str, ...]] = [("len", "four"), ("refuse",)]
            asked = [ends.loop.create_task(ends.near.ask(*what, late=heard.append)) for what in questions]
            for _ in range(turns):
                await asyncio.sleep(0)
            for one in asked:
                one.cancel()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert await ends.near.ask("len", "last") == 4
            awaited, said = found[0] == 4, turns > 0
            assert heard == ([4] if said and not awaited else [])

    asyncio.run(run())


def test_descriptors_belong_to_their_messages() -> None:
    """Also where many come at once, and between others that have none."""
    heard: list[tuple[int, int]] = []

    def take(number: int, descriptors: list[int]) -> None:
        (descriptor,) = descriptors
        heard.append((number, os.fstat(descriptor).st_ino))
        os.close(descriptor)

    async def run() -> None:
        async with Ends({"take": take, "nothing": lambda *values: None, "done": lambda: True}) as ends:
            inodes = []
            for number in range(100):
                read, write = os.pipe()
                inodes.append(os.fstat(read).st_ino)
                ends.near.put("nothing", b"x" * (number % 7) * 50_000)
                ends.near.put("take", number, descriptors=[read])
                os.close(read)
                os.close(write)
            assert await ends.near.ask("done")
            assert heard == list(enumerate(inodes))
            assert not ends.faults

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


def test_descriptors_that_there_is_no_room_for_are_missed_where_they_belong() -> None:
    """And no message has another's: that could be a client at the wrong door."""
    heard: list[tuple[int, list[int]]] = []

    def take(number: int, descriptors: list[int]) -> None:
        heard.append((number, [os.fstat(descriptor).st_ino for descriptor in descriptors]))
        for descriptor in descriptors:
            os.close(descriptor)

    async def run() -> None:
        async with Ends({"take": take, "done": lambda: True}) as ends:
            inodes, limits = [], resource.getrlimit(resource.RLIMIT_NOFILE)
            ends.loop.remove_reader(ends.far._sock)
            for number in range(20):
                read, write = os.pipe()
                inodes.append(os.fstat(read).st_ino)
                ends.near.put("take", number, descriptors=[read])
                os.close(read)
                os.close(write)
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            for turn in range(20):
                room = highest + 1 if turn % 3 else 3
                resource.setrlimit(resource.RLIMIT_NOFILE, (room, limits[1]))
                ends.far._readable()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            ends.loop.add_reader(ends.far._sock, ends.far._readable)
            assert await ends.near.ask("done")
            assert [number for number, _ in heard] == list(range(20))
            lost = [number for number, found in heard if not found]
            assert lost
            assert len(lost) < 20
            assert all(found in ([], [inodes[number]]) for number, found in heard)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_is_gone_answers_nothing() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        async with Ends({"never": never}) as ends:
            asked = [asyncio.ensure_future(ends.near.ask("never")) for _ in range(3)]
            await asyncio.sleep(0.01)
            ends.far.close()
            assert all(isinstance(e, LineClosed) for e in await asyncio.gather(*asked, return_exceptions=True))
            assert ends.ended == ["near"]
            with pytest.raises(LineClosed):
                await ends.near.ask("never")
            assert ends.near.put("never") is False

    asyncio.run(run())


def test_a_question_that_cannot_be_put_is_not_kept() -> None:
    async def run() -> None:
        async with Ends({}) as ends:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await ends.near.ask("see", descriptors=[-1])
            assert not ends.near._asked

    asyncio.run(run())


def test_what_was_said_before_the_end_is_heard_whatever_is_said_to_who_is_gone() -> None:
    """A worker that is killed has said who is its own; the desk heard nothing of that where it had something to say to
    that worker first, and handed its clients to another one."""
    heard: list[object] = []

    def see(*values: object, descriptors: list[int]) -> None:
        heard.append((*values, len(descriptors)))
        for descriptor in descriptors:
            os.close(descriptor)

    async def run() -> None:
        async with Ends({"say": heard.append, "see": see}) as ends:
            for number in range(3):
                ends.near.put("say", number)
            with open(os.devnull) as shown:
                ends.near.put("see", "shown", descriptors=[shown.fileno()])
            ends.near.close()
            assert ends.far.put("say", "too late")
            assert not ends.far.put("say", "and this")
            with pytest.raises(LineClosed):
                await ends.far.ask("say", "nor this")
            assert heard == ends.ended == []
            await come(lambda: ends.ended)
            assert heard == [0, 1, 2, ("shown", 1)]
            assert ends.ended == ["far"]

    asyncio.run(run())


def test_a_line_by_which_nothing_can_be_said_ends_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many descriptors are under way: nobody is gone, and half a line is none. What was said before is heard."""
    heard: list[object] = []

    def refused(*_: object) -> int:
        raise OSError(errno.ETOOMANYREFS, "too many")

    async def run() -> None:
        async with Ends({"say": heard.append}) as ends:
            ends.near.put("say", 1)
            monkeypatch.setattr(ends.near, "_put_out", refused)
            with open(os.devnull) as shown:
                ends.near.put("say", 2, descriptors=[shown.fileno()])
            await come(lambda: sorted(ends.ended) == ["far", "near"])
            assert heard == [1]

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_end_comes_behind_what_there_was_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []

    async def run() -> None:
        async with Ends({"say": heard.append}) as ends:
            monkeypatch.setattr(pickle, "loads", short(pickle.loads, True, False, True))
            for number in range(3):
                ends.near.put("say", number)
            ends.near.close()
            await come(lambda: ends.ended)
            assert heard == [0, 1, 2]

    asyncio.run(run())


@pytest.mark.parametrize("ends_first", [False, True])
def test_what_is_to_be_said_first_has_left_when_it_is_gone_on(ends_first: bool) -> None:
    order: list[object] = []

    async def run() -> None:
        async with Ends({"say": lambda text: order.append(len(text))}) as ends:
            ends.near.when_said(lambda: order.append("at once"))
            ends.loop.remove_reader(ends.far._sock)
            ends.near.put("say", b"x" * 5_000_000)
            ends.near.when_said(lambda: order.append(1 / 0))
            ends.near.when_said(lambda: order.append("then"))
            await asyncio.sleep(0.02)
            assert order == ["at once"]
            if ends_first:
                ends.far.close()
                await come(lambda: ends.ended)
                assert order == ["at once"]
                return
            ends.loop.add_reader(ends.far._sock, ends.far._readable)
            await come(lambda: len(order) == 3)
            assert set(order[1:]) == {"then", 5_000_000}
            assert [type(error) for _, error in ends.faults] == [ZeroDivisionError]

    asyncio.run(run())


def test_what_can_be_spared_is_when_the_other_side_is_far_behind() -> None:
    async def run() -> None:
        async with Ends({}) as ends:
            ends.loop.remove_reader(ends.far._sock)
            taken = 0
            while ends.near.put("say", b"x" * 100_000, spare=True):
                taken += 1
                assert taken < 1000
            assert SPARED < taken * 100_000 < 3 * SPARED
            assert ends.near.lost == 1
            assert ends.near.put("say", "this has to be heard")

    asyncio.run(run())


def test_configurations_survive_the_way() -> None:
    config = parse("[databases]\napp = host=127.0.0.1\n* = host=127.0.0.1\n[pgbouncer]\nlisten_port = 6432\n", "x.ini")
    one, two = socket.socketpair()
    with one, two:
        one.sendall(len(body := packed((0, 0, "setup", (config,), ()))).to_bytes(8, "big") + body)
        name, (came,) = first_message(two)
        assert (name, came) == ("setup", config)
        one.close()
        with pytest.raises(LineClosed):
            first_message(two)
