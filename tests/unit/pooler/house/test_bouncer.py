"""What goes wrong in Python while the relay's events are dealt with, or while it takes a connection over: it ends what
it concerns, is logged, and nobody else notices. Whoever is at the other end is told by the end of the stream.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pooler import wire
from pooler.config.databases import DatabaseConfig, OwnTls
from pooler.config.kinds import SslMode
from pooler.config.users import Secret
from pooler.config.whole import Config, compose
from pooler.ending import Ending
from pooler.house.bouncer import Bouncer
from pooler.net.address import Peer
from pooler.net.tls import ServerTls, Tls
from pooler.pools.connection import ClientFacts, ServerFacts
from pooler.pools.reasons import Kind, Reason
from pooler.pools.registry import Database, PoolState
from pooler.pools.welcome import Welcome
from pooler.process.passing import Passage
from pooler.process.service import Service
from pooler.process.takeover import Inheritance, surrender
from pooler.relay import Client, Relay, Server, engine
from pooler.relay.events import ServerSaid
from tests.fixtures.waiting import DEADLINE
from tests.unit.faults import fails

REPORTED = {"client_encoding": "UTF8", "server_version": "15.0"}
PEER = Peer("127.0.0.1", 1, "127.0.0.1", 2)
LOGIN = wire.startup_message({"user": "bob", "database": "app"})


class Lines:
    """A log that remembers."""

    lost = 0
    wordy = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def catch_up(self) -> bool:
        """All of it has been written."""
        return True

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
        self.ahead = 0.0
        """Seconds by which everybody's clock but the relay's and the loop's is put forward."""
        self.loop = asyncio.SelectorEventLoop(self.relay)
        self.log = Lines()
        self.bouncer = Bouncer(
            self.config(port), self.loop, self.relay, self.log, console, now=lambda: self.loop.time() + self.ahead,  # type: ignore[arg-type]
        )  # fmt: skip
        self.far: list[socket.socket] = []

    def config(self, port: int) -> Config:
        database = DatabaseConfig("app", hosts=("127.0.0.1",), port=port)
        settings = {"auth_type": "trust", "server_login_retry": "0.05"}
        return compose(settings, [database], secrets=[Secret("bob", "secret")])

    def entry(self, name: str = "app") -> Database:
        found = self.bouncer.running.database(name)
        assert found is not None
        return found

    def pool(self) -> PoolState:
        pool = self.bouncer.running.registry.pool(self.entry(), "bob")
        pool.welcome = Welcome(REPORTED, self.relay.tracked_names)
        return pool

    def service(self) -> Service:
        bouncer = self.bouncer
        return Service(
            bouncer.running,
            bouncer.opener,
            bouncer.events,
            bouncer.control,
            bouncer.strangers,
            bouncer.door(),
            Ending(),
            listeners=bouncer.listeners,
        )

    def pair(self) -> tuple[int, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.settimeout(DEADLINE)
        self.far.append(far)
        return near.detach(), far

    def client(self, about: object) -> Client:
        fd, _ = self.pair()
        registry, pool = self.bouncer.running.registry, self.pool()
        registry.count_in(pool.database, registry.user("bob"))
        number = self.bouncer.running.next_number()
        return self.relay.adopt_client(pool.engine, number, fd, None, b"", [None] * 5, about, number.to_bytes(8, "big"))

    def server(self, about: object) -> Server:
        fd, _ = self.pair()
        number = self.bouncer.running.next_number()
        return self.relay.adopt_server(self.pool().engine, number, fd, None, b"", [None] * 5, about, 1, b"12345678")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, DEADLINE))

    def close(self) -> None:
        for pool in self.bouncer.running.registry.pools():
            for conn in (*pool.engine.clients(), *pool.engine.servers()):
                self.relay.drop(conn, "the end")
        self.bouncer.events.handle()
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



def arrival(house: House) -> ClientFacts:
    return ClientFacts(PEER, "app", "bob", number=house.bouncer.running.next_number())


def dialled() -> ServerFacts:
    return ServerFacts(PEER, "app", "bob", host="127.0.0.1", address=None)


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
    house.bouncer.events.handle()
    for far in house.far:
        ended(far)
    assert len(house.log.having("closing because: test")) == 2
    assert house.log.having("ERROR", "AttributeError", f"{kind}_lost")
    assert not house.pool().engine.clients() + house.pool().engine.servers()
    assert house.bouncer.running.tallies[Kind.ERROR, "app", Reason.EVENT] == 1


def test_the_loss_of_io_uring_is_told_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.bouncer.janitor.sweep(house.bouncer.running.now())
    assert not house.log.having("io_uring")
    monkeypatch.setattr(Refusing, "no_ring", "Input/output error", raising=False)
    house.bouncer.janitor.sweep(house.bouncer.running.now())
    house.bouncer.janitor.sweep(house.bouncer.running.now())
    assert house.log.having("io_uring") == [
        "WARNING io_uring failed, each send is a system call of its own from now on: Input/output error"
    ]


def test_a_fault_in_what_an_idle_server_says_ends_that_server(house: House) -> None:
    server, other = house.server(object()), house.server(dialled())
    house.relay.events.append(ServerSaid(server, "text"))
    house.relay.events.append(ServerSaid(other, "text"))
    house.bouncer.events.handle()
    house.bouncer.events.handle()
    assert house.log.having("ERROR", "server_said")
    assert house.log.having("WARNING", " text")
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
    house.bouncer.events.handle()
    assert house.log.having("ERROR", "ZeroDivisionError: wish")
    assert b"test" in ended(house.far[0])


def test_what_ends_while_the_house_waits_for_it_is_noticed_all_the_same(house: House) -> None:
    client = house.client(object())

    async def wait() -> None:
        house.relay.drop(client, "test")
        await house.bouncer.events.until(lambda: client.is_lost and client.fd < 0)

    house.run(wait())


# ---- what the relay does not take


def test_a_client_that_the_relay_does_not_take_is_closed_and_counted_out(house: House) -> None:
    house.pool()
    house.relay.refused = ("client",)
    near, far = socket.socketpair()
    house.far.append(far)
    door = house.bouncer.door()

    async def come() -> None:
        far.sendall(LOGIN)
        door.arrived(near)
        await asyncio.gather(*door.tasks)

    house.run(come())
    far.settimeout(DEADLINE)
    ended(far)
    assert house.log.having("closing because: bouncer resources exhaustion")
    assert house.bouncer.running.registry.clients == house.bouncer.figures.client_count == 0
    assert house.log.having("ERROR", "No space left on device")
    assert house.bouncer.running.registry.databases["app"].clients == 0


@pytest.mark.parametrize("begun", [False, True])
def test_a_visit_that_has_to_go_when_it_was_just_passed_on_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    near, far = socket.socketpair()
    house.far.append(far)
    door, strangers = house.bouncer.door(), house.bouncer.strangers
    placed: list[bool] = []

    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    async def come() -> None:
        far.sendall(wire.cancel_request(b"12345678"))
        monkeypatch.setattr(house.bouncer.canceller, "cancel", forever)
        door.arrived(near)
        (visit,) = strangers
        assert isinstance(visit.task, asyncio.Task)
        if begun:
            await asyncio.sleep(0)
        assert strangers.make_way(lambda: placed.append(True))
        await asyncio.wait([visit.task])
        await asyncio.sleep(0)

    house.run(come())
    far.settimeout(DEADLINE)
    assert ended(far) == b""
    assert placed == [True]
    assert (len(strangers), door.tasks) == (0, set())
    assert house.log.having("too many that have not logged in")


@pytest.mark.parametrize("moment", ["waits", "welcomed"])
def test_a_client_whose_database_leaves_before_it_is_handed_over_is_refused(house: House, moment: str) -> None:
    near, far = socket.socketpair()
    house.far.append(far)
    door, running = house.bouncer.door(), house.bouncer.running
    house.log.configure = lambda settings: None  # type: ignore[attr-defined]
    pool = house.pool()
    pool.welcome = None
    pool.engine.paused = True

    async def come() -> None:
        far.sendall(LOGIN)
        door.arrived(near)
        while not pool.newcomers:
            await asyncio.sleep(0)
        if moment == "welcomed":
            pool.greet_with(Welcome(REPORTED, house.relay.tracked_names))
            for waiter in pool.newcomers.values():
                waiter.ready.set_result(None)
        house.bouncer.reconfiguration.adopt(compose({"auth_type": "trust"}, [], secrets=[Secret("bob", "secret")]))
        await asyncio.gather(*door.tasks)

    house.run(come())
    far.settimeout(DEADLINE)
    assert b"database removed" in ended(far)
    assert running.registry.clients == 0
    house.bouncer.janitor.forget_removed(running.now())
    assert "app" not in running.registry.databases


def test_the_question_of_a_login_that_the_relay_does_not_take(house: House) -> None:
    house.relay.refused = ("client",)

    async def ask() -> None:
        with pytest.raises(OSError, match="No space"):
            await house.bouncer.lookup._ask(house.pool(), "SELECT 1", arrival(house))

    house.run(ask())


def test_a_server_that_the_relay_does_not_take_is_closed_and_another_is_opened() -> None:
    came: list[bytes] = []
    house = House()

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
            house.bouncer.running.registry.config = house.config(port)
            pool = house.pool()
            refused: tuple[str, ...] = ("server",)
            house.relay.refused = refused
            house.client(arrival(house))
            house.far[0].sendall(wire.query("SELECT 1"))
            while len(came) < 2:
                await asyncio.sleep(0.01)
            assert pool.opening == 0 or house.relay.refused == ()
            await asyncio.gather(*house.bouncer.opener.tasks)

    try:
        house.run(go())
        assert came[0] in (b"", wire.terminate())
        assert house.log.having("ERROR", "No space left on device")
    finally:
        house.close()


# ---- what another process hands over


def inherited(old: House) -> Inheritance:
    ours, theirs = socket.socketpair()
    heir, line = Inheritance(Passage(theirs, DEADLINE)), Passage(ours, DEADLINE)

    giving = threading.Thread(target=surrender, args=(old.bouncer.running, old.bouncer.hubs, [], [], line))
    giving.start()
    heir.fetch()
    giving.join()
    ours.close()
    theirs.close()
    return heir


CHANGES: dict[str, Any] = {
    "port": 2,
    "connect_query": "SET work_mem TO 1111",
    "application_name": "other",
    "timezone": "UTC",
    "tls": OwnTls("require"),
}


def handed_over(old: House, new: House) -> tuple[list[Server], PoolState]:
    """The servers that go on, and their pool."""
    inherited(old).adopt(new.bouncer.running, new.bouncer.opener, new.bouncer.hubs)
    new.bouncer.events.handle()
    pool = new.bouncer.running.registry.databases["app"].pools["bob"]
    return list(pool.engine.servers()), pool


@pytest.mark.parametrize("key", ["", *CHANGES])
def test_what_a_reload_would_close_is_closed_when_it_is_handed_over(house: House, key: str) -> None:
    old = House()
    old.server(dialled())
    registry = house.bouncer.running.registry
    entry = registry.config.databases["app"]
    if key:
        entry = replace(entry, **{key: CHANGES[key]})
    registry.config = replace(registry.config, databases={"app": entry})
    servers, pool = handed_over(old, house)
    assert (len(servers), pool.welcome is None) == ((0, True) if key else (1, False))
    old.close()


@pytest.mark.parametrize("mode", [SslMode.disable, SslMode.prefer, SslMode.require])
def test_servers_that_would_be_spoken_to_otherwise_are_closed_when_they_are_handed_over(
    house: House, mode: SslMode
) -> None:
    old = House()
    old.server(dialled())
    busy = old.client(arrival(old))
    old.far[1].sendall(wire.query("BEGIN"))
    old.relay.select(0)
    assert busy.linked
    settings = replace(house.bouncer.config.settings, server_tls_sslmode=mode)
    for each, own in ((old, replace(settings, server_tls_sslmode=SslMode.disable)), (house, settings)):
        each.bouncer.running.tls = Tls(each.bouncer.running.tls.client, ServerTls(own))
    servers, pool = handed_over(old, house)
    assert [server.close_needed for server in servers] == [mode is not SslMode.disable]
    assert (pool.welcome is None) is (mode is not SslMode.disable)
    assert [client.linked for client in pool.engine.clients()] == servers
    old.close()


def test_a_credential_that_is_none_any_more_is_not_handed_over(house: House) -> None:
    old = House()
    old.server(dialled())
    old.client(arrival(old))
    for each, users in ((old, ("bob",)), (house, ("eve",))):
        registry = each.bouncer.running.registry
        secrets = {user: Secret(user, "p") for user in users}
        entry = replace(registry.config.databases["app"], secrets=secrets)
        registry.config = replace(registry.config, databases={"app": entry})
    inherited(old).adopt(house.bouncer.running, house.bouncer.opener, house.bouncer.hubs)
    assert not list(house.bouncer.running.registry.pools())
    assert wire.terminate() in ended(old.far[0])
    assert b"database configuration changed" in ended(old.far[1])
    assert house.bouncer.running.registry.clients == 0
    old.close()


def test_what_fails_when_the_relay_has_it_ends_and_is_closed_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = House()
    old.server(dialled())
    old.client(arrival(old))
    old.far[1].sendall(wire.query("BEGIN"))
    old.relay.select(0)
    heir = inherited(old)
    monkeypatch.setattr(engine, "link_again", fails)
    closed: list[int] = []
    monkeypatch.setattr(os, "close", closed.append)
    heir.adopt(house.bouncer.running, house.bouncer.opener, house.bouncer.hubs)
    monkeypatch.undo()
    house.bouncer.events.handle()
    assert closed == []
    assert house.log.having("ERROR fault on connection", "Bug")
    assert b"FATAL" in ended(old.far[1])
    assert house.bouncer.running.registry.clients == 0
    old.close()


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
    heir.adopt(house.bouncer.running, house.bouncer.opener, house.bouncer.hubs)
    house.bouncer.events.handle()
    assert house.log.having("ERROR", "cannot go on with a", "Operation not permitted")
    assert house.bouncer.running.registry.clients == len(house.pool().engine.clients()) == 2
    assert len(house.pool().engine.servers()) == (broken >= 2)
    if broken == 0:
        assert b"server conn crashed?" in ended(busy_far)
    if broken == 1:
        server_far.recv(4096)
        ended(server_far)
    old.close()


async def console(*_: object) -> None:
    raise AssertionError("nobody came for the console")
