"""Ports that databases have of their own: which open and close, and what a name means on which."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pooler.config.databases import Alias, DatabaseConfig
from pooler.config.kinds import AuthType
from pooler.config.whole import Config, compose
from pooler.pools.running import Phase
from pooler.process.ports import Ports
from tests.fixtures.waiting import free_port
from tests.unit.pooler.house.test_bouncer import House


class Place(House):
    def __init__(self) -> None:
        super().__init__()
        running, self.served = self.bouncer.running, self.service()
        running.registry.config = replace(running.config, settings=replace(running.config.settings, listen_addr=()))
        self.ports = Ports(running, self.served, lambda port: self.bouncer.door(aliases_only=True))

    def asks(self, **aliases: tuple[int, str]) -> None:
        """Serve these databases, each at a port under a name."""
        self.ports.adopt(asked(**aliases))

    @property
    def open(self) -> set[int]:
        return {sock.getsockname()[1] for sock in self.served.acceptor.watched}


def asked(**aliases: tuple[int, str]) -> Config:
    return compose({}, [DatabaseConfig(name, alias=Alias(*alias)) for name, alias in aliases.items()])


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.ports.close()
    made.close()


def test_a_port_is_open_as_long_as_a_database_has_it(place: Place) -> None:
    one, two = free_port(), free_port()
    place.asks(a=(one, "data"), b=(one, "more"), c=(two, "data"))
    assert place.open == {one, two}
    place.asks(b=(one, "data"))
    assert place.open == {one}
    assert place.log.having(f"LOG no longer listening on port {two}")
    place.ports.close()
    assert place.open == set()


def test_a_name_means_on_each_port_what_its_databases_say(place: Place) -> None:
    one, two = free_port(), free_port()
    place.asks(a=(one, "data"), b=(two, "data"))
    known = {port: reception.aliases for port, reception in place.ports._receptions.items()}
    assert known == {one: {"data": "a"}, two: {"data": "b"}}
    place.asks(c=(one, "data"), b=(two, "data"))
    assert place.ports._receptions[one].aliases == {"data": "c"}


def test_one_port_that_is_taken_keeps_no_other(place: Place) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        place.asks(a=(taken, "data"), b=(free, "data"))
        assert (place.open, place.ports.missing) == ({free}, {taken})
        assert place.log.having(f"ERROR no pools of the state on port {taken}")
    place.asks(a=(taken, "data"), b=(free, "data"))
    assert (place.open, place.ports.missing) == ({free, taken}, set())


@pytest.mark.parametrize("auth", [AuthType.md5, AuthType.trust])
def test_where_the_pooler_listens_its_own_door_learns_the_names(place: Place, auth: AuthType) -> None:
    running = place.bouncer.running
    running.registry.config = replace(running.config, settings=replace(running.config.settings, auth_type=auth))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place.bouncer.listeners.append(listener)
        ports = Ports(running, place.served, lambda port: place.bouncer.door())
        own = running.config.settings.listen_port
        ports.adopt(asked(a=(own, "data")))
        assert place.open == set()
        assert place.served.door.reception.aliases == {"data": "a"}
        ports.adopt(asked())
        assert place.served.door.reception.aliases == {}


@pytest.mark.parametrize("phase", [Phase.WAIT_FOR_SERVERS, Phase.WAIT_FOR_CLIENTS])
def test_once_the_end_has_begun_nobody_comes_in_by_a_port_of_these(place: Place, phase: Phase) -> None:
    one, two = free_port(), free_port()
    place.asks(a=(one, "data"))
    running = place.bouncer.running

    async def go() -> None:
        running.shut_down(phase)
        await place.served.ended.wait()

    place.run(go())
    assert place.open == set()
    place.asks(a=(one, "data"), b=(two, "data"))
    assert (place.open, place.ports.missing) == (set(), set())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one))
