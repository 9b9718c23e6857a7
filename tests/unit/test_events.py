"""What goes wrong in Python while the relay's events are dealt with, or while it takes a connection over: it ends what
it concerns, is logged, and nobody else notices. Whoever is at the other end is told by the end of the stream.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from pooler import wire
from pooler.bouncer import Bouncer
from pooler.channel import Peer
from pooler.config import Config, compose
from pooler.databases import DatabaseConfig
from pooler.door import Door
from pooler.janitor import sweep
from pooler.labels import Arrival, Dial
from pooler.lookup import Lookup
from pooler.passing import Line
from pooler.registry import PoolState
from pooler.relay import Client, Relay, Server
from pooler.relay.engine import SERVER_SAID as SAID
from pooler.takeover import GONE, Inheritance, surrender
from pooler.users import Secret
from pooler.welcome import Welcome
from tests.fixtures.waiting import DEADLINE

REPORTED = {"client_encoding": "UTF8", "server_version": "15.0"}
PEER = Peer("127.0.0.1", 1, "127.0.0.1", 2)
LOGIN = wire.startup_message({"user": "bob", "database": "app"})


class Lines:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, level: str, text: str) -> None:
        self.lines.append(f"{level} {text}")

    def having(self, *words: str) -> list[str]:
        return [line for line in self.lines if all(word in line for word in words)]


class Refusing(Relay):
    """A relay that takes nobody over while `refused` says so, as with no memory or no room left in the kernel."""

    refused: tuple[str, ...] = ()

    def adopt_client(self, *arguments: Any) -> Client:
        if "client" in self.refused:
            raise OSError(28, "No space left on device")
        return super().adopt_client(*arguments)

    def adopt_server(self, *arguments: Any) -> Server:
        if "server" in self.refused:
            raise OSError(28, "No space left on device")
        return super().adopt_server(*arguments)


class House:
    """A bouncer with one database, on a loop of its own."""

    def __init__(self, port: int = 1) -> None:
        self.relay = Refusing()
        self.loop = asyncio.SelectorEventLoop(self.relay)
        self.log = Lines()
        self.bouncer = Bouncer(self.config(port), self.loop, self.relay, self.log)  # type: ignore[arg-type]
        self.far: list[socket.socket] = []

    def config(self, port: int) -> Config:
        database = DatabaseConfig("app", hosts=("127.0.0.1",), port=port)
        settings = {"auth_type": "trust", "server_login_retry": "0.05"}
        return compose(settings, [database], secrets=[Secret("bob", "secret")])

    def pool(self) -> PoolState:
        bouncer = self.bouncer
        pool = bouncer.pool(bouncer.database(bouncer.config.databases["app"]), "bob")
        pool.welcome = Welcome(REPORTED, self.relay.tracked_names)
        return pool

    def pair(self) -> tuple[int, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.settimeout(DEADLINE)
        self.far.append(far)
        return near.detach(), far

    def client(self, about: object) -> Client:
        fd, _ = self.pair()
        registry, pool = self.bouncer.registry, self.pool()
        registry.count_in(pool.database, registry.user("bob"))
        number = self.bouncer.next_number()
        return self.relay.adopt_client(pool.engine, number, fd, None, b"", [None] * 5, about, number.to_bytes(8, "big"))

    def server(self, about: object) -> Server:
        fd, _ = self.pair()
        number = self.bouncer.next_number()
        return self.relay.adopt_server(self.pool().engine, number, fd, None, b"", [None] * 5, about, 1, b"12345678")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, DEADLINE))

    def close(self) -> None:
        for pool in self.bouncer.registry.pools():
            for conn in (*pool.engine.clients(), *pool.engine.servers()):
                self.relay.drop(conn, "the end")
        self.bouncer.handle_events()
        for sock in self.far:
            sock.close()
        self.loop.close()


@pytest.fixture
def house() -> Iterator[House]:
    descriptors = len(os.listdir("/proc/self/fd"))
    house = House()
    yield house
    house.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors



def arrival(house: House) -> Arrival:
    return Arrival(PEER, "app", "bob", number=house.bouncer.next_number())


def dialled() -> Dial:
    return Dial(PEER, "app", "bob", "", "none", host="127.0.0.1", address=None)


def ended(far: socket.socket) -> bytes:
    """Everything that came before the end of the stream."""
    data = b""
    while part := far.recv(4096):
        data += part
    return data


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("kind", ["client", "server"])
def test_an_end_that_cannot_be_told_stops_no_other(house: House, kind: str, broken: int) -> None:
    make: Callable[[object], Client | Server] = house.client if kind == "client" else house.server
    whole: Callable[[], object] = (lambda: arrival(house)) if kind == "client" else dialled
    connections = [make(object() if number == broken else whole()) for number in range(3)]
    for connection in connections:
        house.relay.drop(connection, "test")
    house.bouncer.handle_events()
    for far in house.far:
        ended(far)
    assert len(house.log.having("closing because: test")) == 2
    assert house.log.having("ERROR", "AttributeError", f"{kind}_lost")
    assert not house.pool().engine.clients() + house.pool().engine.servers()
    assert house.bouncer.tallies["error", "app", "event"] == 1


def test_the_loss_of_io_uring_is_told_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(house.bouncer)
    assert not house.log.having("io_uring")
    monkeypatch.setattr(Refusing, "no_ring", "Input/output error", raising=False)
    sweep(house.bouncer)
    sweep(house.bouncer)
    assert house.log.having("io_uring") == [
        "WARNING io_uring failed, each send is a system call of its own from now on: Input/output error"
    ]


def test_a_fault_in_what_an_idle_server_says_ends_that_server(house: House) -> None:
    server, other = house.server(object()), house.server(dialled())
    house.relay.events.append((SAID, server, "text"))
    house.relay.events.append((SAID, other, "text"))
    house.bouncer.handle_events()
    house.bouncer.handle_events()
    assert house.log.having("ERROR", "server_said")
    assert house.log.having("WARNING", "got packet 'E' from server when not linked: text")
    assert server.is_lost
    assert not other.is_lost
    assert ended(house.far[0]) == b""


def test_a_wish_that_cannot_be_dealt_with_stops_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = house.client(arrival(house))

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("wish")

    monkeypatch.setattr(house.bouncer.opener, "consider", fails)
    house.far[0].sendall(wire.query("SELECT 1"))
    house.relay.select(0)
    house.relay.drop(client, "test")
    house.bouncer.handle_events()
    assert house.log.having("ERROR", "ZeroDivisionError: wish")
    assert b"test" in ended(house.far[0])


def test_what_ends_while_the_house_waits_for_it_is_noticed_all_the_same(house: House) -> None:
    client = house.client(object())

    async def wait() -> None:
        house.relay.drop(client, "test")
        await house.bouncer.until(lambda: client.is_lost and client.fd < 0)

    house.run(wait())


# ---- what the relay does not take


def test_a_client_that_the_relay_does_not_take_is_closed_and_counted_out(house: House) -> None:
    house.pool()
    house.relay.refused = ("client",)
    near, far = socket.socketpair()
    house.far.append(far)
    door = Door(house.bouncer, console)

    async def come() -> None:
        far.sendall(LOGIN)
        door.arrived(near)
        await asyncio.gather(*door.tasks)

    house.run(come())
    far.settimeout(DEADLINE)
    ended(far)
    assert house.log.having("closing because: bouncer resources exhaustion")
    assert house.bouncer.registry.clients == house.bouncer.client_count == 0
    assert house.log.having("ERROR", "No space left on device")
    assert house.bouncer.registry.databases["app"].clients == 0


def test_the_question_of_a_login_that_the_relay_does_not_take(house: House) -> None:
    house.relay.refused = ("client",)

    async def ask() -> None:
        with pytest.raises(OSError, match="No space"):
            await Lookup(house.bouncer)._ask(house.pool(), "SELECT 1", arrival(house))

    house.run(ask())


def test_a_server_that_the_relay_does_not_take_is_closed_and_another_is_opened() -> None:
    came: list[bytes] = []

    async def postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length - 4)
        writer.write(wire.authentication_ok() + wire.backend_key_data(b"12345678") + wire.ready_for_query())
        if came:
            house.relay.refused = ()
        came.append(await reader.read(100) if not came else b"")
        writer.close()

    async def go() -> None:
        listening = await asyncio.start_server(postgres, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            house.bouncer.config = house.bouncer.registry.config = house.config(port)
            pool = house.pool()
            house.relay.refused = ("server",)
            house.client(arrival(house))
            house.far[0].sendall(wire.query("SELECT 1"))
            while len(came) < 2:
                await asyncio.sleep(0.01)
            assert pool.opening == 0 or house.relay.refused == ()
            await asyncio.gather(*house.bouncer.opener.tasks)

    house = House()
    try:
        house.run(go())
        assert came[0] in (b"", wire.terminate())
        assert house.log.having("ERROR", "No space left on device")
    finally:
        house.close()


# ---- what another process hands over


def inherited(old: House) -> Inheritance:
    ours, theirs = socket.socketpair()
    heir, line = Inheritance(Line(theirs, DEADLINE)), Line(ours, DEADLINE)

    def give() -> None:
        surrender(old.bouncer, [], [], line)
        line.put({"kind": GONE})

    giving = threading.Thread(target=give)
    giving.start()
    heir.fetch()
    giving.join()
    ours.close()
    theirs.close()
    return heir


@pytest.mark.parametrize("broken", range(4))
def test_a_connection_that_cannot_be_taken_over_is_closed_and_the_others_go_on(house: House, broken: int) -> None:
    old = House()
    old.server(dialled())
    busy, *_ = [old.client(arrival(old)) for _ in range(3)]
    server_far, busy_far, *_ = old.far
    busy_far.sendall(wire.query("BEGIN"))
    old.relay.select(0)
    assert busy.linked
    heir = inherited(old)
    fact, descriptor = heir.connections[broken]
    with open(os.devnull) as unfit:
        os.dup2(unfit.fileno(), descriptor)  # what epoll does not watch
    heir.connections[broken] = fact, descriptor
    heir.adopt(house.bouncer)
    house.bouncer.handle_events()
    assert house.log.having("ERROR", "cannot go on with a", "Operation not permitted")
    assert house.bouncer.registry.clients == len(house.pool().engine.clients()) == 2
    assert len(house.pool().engine.servers()) == (broken >= 2)
    if broken == 0:
        assert b"server conn crashed?" in ended(busy_far)
    if broken == 1:
        server_far.recv(4096)
        ended(server_far)
    old.close()


async def console(*_: object) -> None:
    raise AssertionError("nobody came for the console")
