"""Peers found by name: whose number is whose, how far hosts are asked for, and what is kept when nobody answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from pooler.clients import neighbours
from pooler.clients.neighbours import GAP, Neighbours, ordinal
from pooler.config.whole import Config, parse
from pooler.net.address import Address
from pooler.net.dns import Dns, Found
from tests.unit.pooler.house.test_bouncer import House

UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
INI = """
[pgbouncer]
peer_id={peer_id}
listen_port=7000
dns_max_ttl=0
dns_nxdomain_ttl=0
[databases]
app=host=127.0.0.1
[peers]
9=host=/run/nine
[pooler]
peers_name=pooler.svc
"""


class Place(House):
    """A pooler of host `pooler-1` whose resolver knows `zone`: a name to the last parts of its addresses."""

    def config(self, port: int) -> Config:
        return parse(INI.format(peer_id=0))

    zone: dict[str, tuple[int, ...] | Exception]

    def look_up(self, name: str) -> Found:
        self.asked.append(name)
        answer = self.zone.get(name, UNKNOWN)
        if isinstance(answer, Exception):
            raise answer
        return tuple(Address(socket.AF_INET, (f"10.0.0.{part}", 0)) for part in answer)

    def neighbours(self, host: str = "pooler-1") -> Neighbours:
        self.asked: list[str] = []
        running = self.bouncer.running
        dns = Dns(self.loop, lambda: running.config.settings, running.say, lambda *_: None, self.look_up)
        return Neighbours(running, dns, host)

    def ids(self) -> dict[int, str]:
        return {number: peer.host for number, peer in self.bouncer.running.neighbours.items()}


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("pooler-0", ("pooler-", 0)),
        ("pooler-12.pooler.ns.svc", ("pooler-", 12)),
        ("db3", ("db", 3)),
        ("7", ("", 7)),
        ("pooler-65534", ("pooler-", 65534)),
        ("pooler-65535", None),
        ("pooler-01", None),
        ("pooler-" + "9" * 5000, None),
        ("pooler", None),
        ("", None),
        ("pooler-5x.9", None),
    ],
)
def test_a_host_s_name_has_a_number_at_its_end(host: str, found: tuple[str, int] | None) -> None:
    assert ordinal(host) == found


def test_each_address_has_its_host(place: Place) -> None:
    """Hosts are asked for until every address of them all is accounted for; one that is not there is no peer."""
    place.zone = {"pooler.svc": (10, 12), "pooler-0.pooler.svc": (10,), "pooler-2.pooler.svc": (12,)}
    place.run(place.neighbours().look())
    assert place.ids() == {1: "pooler-0.pooler.svc", 3: "pooler-2.pooler.svc"}
    assert place.asked == ["pooler.svc", *(f"pooler-{n}.pooler.svc" for n in range(3))]
    running = place.bouncer.running
    assert running.peer_id == 2
    assert {number: (peer.host, peer.port) for number, peer in running.peers.items()} == {
        1: ("pooler-0.pooler.svc", 7000),
        3: ("pooler-2.pooler.svc", 7000),
        9: ("/run/nine", 6432),
    }


def test_they_come_and_go(place: Place) -> None:
    zone: dict[str, tuple[int, ...] | Exception] = {"pooler.svc": (10, 11)}
    zone |= {"pooler-0.pooler.svc": (10,), "pooler-1.pooler.svc": (11,)}
    place.zone = zone
    found = place.neighbours()
    place.run(found.look())
    assert set(place.ids()) == {1, 2}
    zone |= {"pooler.svc": (10, 20, 12), "pooler-1.pooler.svc": (20,), "pooler-2.pooler.svc": (12,)}
    place.run(found.look())
    assert set(place.ids()) == {1, 2, 3}
    del zone["pooler-2.pooler.svc"]
    zone["pooler.svc"] = (10, 20)
    place.run(found.look())
    assert set(place.ids()) == {1, 2}
    zone["pooler.svc"] = socket.gaierror(socket.EAI_AGAIN, "Try again")
    zone["pooler-0.pooler.svc"] = OSError("no name server")
    place.run(found.look())
    assert set(place.ids()) == {1, 2}, "nobody could be asked: what was known stands"
    del zone["pooler.svc"]
    place.run(found.look())
    assert place.ids() == {}


def test_addresses_without_a_host_are_not_sought_for_ever(place: Place) -> None:
    place.zone = {"pooler.svc": (10, 99), "pooler-3.pooler.svc": (10,)}
    place.run(place.neighbours().look())
    assert set(place.ids()) == {4}
    assert len(place.asked) == 1 + 4 + GAP


@pytest.mark.parametrize(
    ("host", "peer_id", "problem"),
    [
        ("pooler-1", 0, ""),
        ("pooler-1", 2, ""),
        ("pooler-1", 7, "peer_id is 7, but by peers_name others take pooler-1 for peer 2"),
        ("laptop", 3, "peers_name finds nobody: this host's name, laptop, has no number at its end"),
    ],
)
def test_what_cannot_be_is_told(host: str, peer_id: int, problem: str) -> None:
    class There(Place):
        def config(self, port: int) -> Config:
            return parse(INI.format(peer_id=peer_id))

    place = There()
    place.zone = {}
    found = place.neighbours(host)
    assert found.problem() == problem
    place.run(found.look())
    assert place.ids() == {}
    assert found.always == (found.look_forever,)
    place.close()


def test_without_a_name_nothing_goes_on() -> None:
    house = House()
    found = house.bouncer.neighbours
    assert (found.always, found.hosts, found.problem()) == ((), set(), "")
    assert house.bouncer.running.peer_id == 0
    house.close()


def test_a_look_that_fails_is_followed_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "LEAST", 0.0)
    monkeypatch.setattr("pooler.rounds.REST", 0.0)
    place.zone = {"pooler.svc": (10,), "pooler-0.pooler.svc": (10,)}
    found, find = place.neighbours(), Neighbours._find
    failures = [MemoryError("none left")]

    async def fails(self: Neighbours) -> object:
        if failures:
            raise failures.pop()
        return await find(self)

    monkeypatch.setattr(Neighbours, "_find", fails)

    async def go() -> None:
        task = asyncio.ensure_future(found.look_forever())
        async with asyncio.timeout(10):
            while not place.ids():
                await asyncio.sleep(0.01)
        task.cancel()

    place.run(go())
    assert place.bouncer.running.rounds.counts() == {"peers": 1}
