"""The loop that accepts: in the relay's own turn, behind what has ended, and never for a listener that was let go of;
what asyncio has to do for a newcomer is done at once. A listener from which nobody can be accepted rests.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pooler import rounds
from pooler.process import accepting
from pooler.process.accepting import Acceptor
from tests.fixtures.waiting import DEADLINE
from tests.unit.faults import EMFILE, Bug
from tests.unit.pooler.house.test_bouncer import House


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "REST", 0.001)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


class Entrance:
    """Who has come; `then` is done for each."""

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        self.came: list[Any] = []
        self.then = then

    def arrived(self, sock: Any) -> bool:
        self.came.append(sock)
        if self.then is not None:
            self.then()
        return True

    def close(self) -> None:
        for sock in self.came:
            os.close(sock.detach())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def near_listener(tmp_path: Path) -> Iterator[socket.socket]:
    """One whose clients are accepted by a function of Python's, in the same loop."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        made.listen()
        made.setblocking(False)
        yield made


def connected(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    return client


def acceptor_of(house: House) -> Acceptor:
    return Acceptor(house.bouncer.running, house.bouncer.strangers)


def test_a_listener_rests_while_there_are_no_descriptors(
    house: House, near_listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second accept loop, which did not, wrote 47,577 lines in half a second. Here there is nobody who could go for
    the newcomer, and no descriptor to tell it so."""
    monkeypatch.setattr(accepting, "PAUSE", 0.02)
    monkeypatch.setattr("pooler.process.accepting.Spare.turn_away", lambda spare, listener: False)
    door, tried, accept = Entrance(), 0, accepting.accept_unix

    def none_left(listener: socket.socket) -> Any:
        nonlocal tried
        tried += 1
        if tried <= 5:
            raise EMFILE
        return accept(listener)

    monkeypatch.setattr(accepting, "accept_unix", none_left)
    acceptor = acceptor_of(house)

    async def scene() -> None:
        acceptor.watch(near_listener, door)
        with connected(near_listener):
            began = house.loop.time()
            while not door.came:
                await asyncio.sleep(0.001)
            assert house.loop.time() - began >= 5 * 0.02
        acceptor.release(near_listener)

    house.run(scene())
    assert house.log.having("ERROR") == ["ERROR accept() failed: Too many open files"]
    assert house.bouncer.running.rounds.counts() == {"accept": 5}
    door.close()


@pytest.mark.parametrize("number", sorted(accepting.THEIRS))
def test_a_connection_that_came_to_nothing_is_no_reason_to_rest(
    house: House, near_listener: socket.socket, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    door, accept, tried = Entrance(), accepting.accept_unix, 0

    def first_is_lost(listener: socket.socket) -> Any:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise OSError(number, "")
        return accept(listener)

    monkeypatch.setattr(accepting, "accept_unix", first_is_lost)
    acceptor = acceptor_of(house)

    async def scene() -> None:
        acceptor.watch(near_listener, door)
        with connected(near_listener):
            while not door.came:
                await asyncio.sleep(0)
        acceptor.release(near_listener)

    house.run(scene())
    assert house.bouncer.running.rounds.counts() == {}
    door.close()


def test_a_listener_that_cannot_be_watched_is_watched_later(
    house: House, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "PAUSE", 0.001)
    door, add, tried = Entrance(), house.loop.add_reader, 0

    def no_room(*arguments: Any) -> None:
        nonlocal tried
        tried += 1
        if tried <= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(*arguments)

    monkeypatch.setattr(house.loop, "add_reader", no_room)
    acceptor = acceptor_of(house)

    async def scene() -> None:
        acceptor.watch(listener, door)
        with connected(listener):
            while not door.came:
                await asyncio.sleep(0.001)
        acceptor.release(listener)

    house.run(scene())
    assert house.log.having("ERROR") == ["ERROR listening failed: No space left on device"]
    door.close()


def test_nobody_is_accepted_while_all_is_held(house: House, listener: socket.socket) -> None:
    """Not by a listener either whose rest ends meanwhile."""
    door, acceptor = Entrance(), acceptor_of(house)

    async def scene() -> None:
        acceptor.watch(listener, door)
        acceptor.hold()
        acceptor._go_on(listener)
        with connected(listener):
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert door.came == []
            acceptor.go_on()
            while not door.came:
                await asyncio.sleep(0)
        acceptor.release(listener)

    house.run(scene())
    door.close()


@pytest.mark.parametrize("family", ["listener", "near_listener"])
@pytest.mark.parametrize("where", ["at another one", "behind the first"])
@pytest.mark.parametrize("let_go", ["release", "hold", "close"])
def test_who_was_found_waiting_is_not_let_in_any_more_once_the_listener_was_let_go_of(
    house: House, request: pytest.FixtureRequest, let_go: str, where: str, family: str
) -> None:
    """Two are found in one look, and the door lets go of all listeners. Where they are closed, others may have their
    numbers by then."""
    one: socket.socket = request.getfixturevalue(family)
    acceptor = acceptor_of(house)
    with ExitStack() as stack:
        second = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        third = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        second.setblocking(False)
        third.setblocking(False)
        for listener in (one, second if where == "at another one" else one, third):
            stack.enter_context(connected(listener))

        def then() -> None:
            if let_go == "hold":
                return acceptor.hold()
            for listener in (one, second):
                acceptor.release(listener)
                if let_go == "close":
                    os.dup2(third.fileno(), listener.fileno(), inheritable=False)

        door = Entrance(then)

        async def scene() -> None:
            for listener in (one, second):
                acceptor.watch(listener, door)
            while not door.came:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            assert len(door.came) == 1
            for listener in (one, second):
                acceptor.release(listener)

        house.run(scene())
    assert not house.log.having("ERROR")
    door.close()


def test_what_asyncio_is_asked_for_by_a_newcomer_is_done_at_once(house: House, listener: socket.socket) -> None:
    """The loop has nothing else to wake up for before the deadline."""
    acceptor = acceptor_of(house)
    late: list[bool] = []

    async def scene() -> None:
        done = asyncio.Event()
        house.loop.call_later(DEADLINE / 2, late.append, True)
        door = Entrance(lambda: house.loop.call_soon(done.set))
        acceptor.watch(listener, door)
        with connected(listener):
            await done.wait()
        acceptor.release(listener)
        door.close()

    house.run(scene())
    assert not late


def test_a_door_that_fails_ends_nothing(house: House, listener: socket.socket) -> None:
    """The error is told, and the next one comes in."""
    told: list[Any] = []
    house.loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    acceptor = acceptor_of(house)

    def fails_once() -> None:
        if len(door.came) == 1:
            raise Bug("a bug")

    door = Entrance(fails_once)

    async def scene() -> None:
        acceptor.watch(listener, door)
        with connected(listener), connected(listener):
            while len(door.came) < 2:
                await asyncio.sleep(0.001)
        acceptor.release(listener)

    house.run(scene())
    assert [type(error) for error in told] == [Bug]
    door.close()


@pytest.mark.parametrize("how", ["closed", "watched anew"])
def test_what_a_door_lets_go_of_is_not_looked_for_any_more(house: House, listener: socket.socket, how: str) -> None:
    """Found readable in the same look: asyncio would ask for the descriptor of what is closed, and end with that."""
    acceptor = acceptor_of(house)
    near, far = socket.socketpair()
    heard: list[str] = []

    def hear(name: str) -> None:
        heard.append(name)
        house.loop.remove_reader(near)

    def let_go() -> None:
        house.loop.remove_reader(near)
        if how == "closed":
            near.close()
        else:
            house.loop.add_reader(near, hear, "the second")

    async def scene() -> None:
        door = Entrance(let_go)
        with far, connected(listener):
            far.sendall(b"x")
            house.loop.add_reader(near, hear, "the first")
            acceptor.watch(listener, door)
            while not door.came or (how != "closed" and not heard):
                await asyncio.sleep(0.001)
        acceptor.release(listener)
        door.close()

    house.run(scene())
    assert heard == ([] if how == "closed" else ["the second"])
    near.close()
