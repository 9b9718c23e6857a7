"""Regulars: what is kept of a login's beginning, as long as what it was decided by is the same, and for whom."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable
from typing import Any

import pytest

from pooler.clients.auth import Md5Exchange, Proof, ScramExchange
from pooler.clients.login import Grounds
from pooler.clients.regulars import Regular, Regulars
from pooler.config.databases import DatabaseConfig
from pooler.config.users import Secret
from pooler.config.whole import compose
from pooler.net.address import Peer
from pooler.net.channel import Channel
from pooler.pools.connection import ClientFacts
from pooler.pools.refusal import LoginError
from pooler.relay import Counted, Crowd, Place, Relay, Visit
from tests.fixtures import stream
from tests.fixtures.waiting import DEADLINE
from tests.unit.housed import MD5, SCRAM, House
from tests.unit.pairs import run, tcp_pair

PEER = Peer("10.0.0.1", 40000, "10.0.0.2", 6432)


class Asked(House):
    """As a reception answers."""

    room = True
    crowded = False
    """There is room in a moment."""
    asks = False

    def check_room(self, channel: Any) -> Any:
        if not self.room:
            raise LoginError("no more connections allowed (max_client_conn)")
        return super().check_room(channel) if self.crowded else None

    def must_ask(self, database: DatabaseConfig | None, user: str) -> bool:
        return self.asks and self.grounds(database, user).secret is None


def packet(**parameters: str) -> bytes:
    return stream.startup(parameters)[4:]


def meet(
    asked: Asked, said: bytes = b"", *, addr: str = "10.0.0.1", regulars: Regulars | None = None
) -> Regular | None:
    channel: Any = None
    attempt = ClientFacts(dataclasses.replace(PEER, addr=addr))
    return (regulars or Regulars(asked)).find(said or packet(user="bob", database="app"), channel, attempt)


@pytest.mark.parametrize(
    ("auth_type", "secret", "exchange"),
    [
        ("trust", MD5, None),
        ("md5", MD5, Md5Exchange),
        ("scram-sha-256", SCRAM, ScramExchange),
        ("md5", SCRAM, ScramExchange),
    ],
)
def test_a_regular_is_asked_by_the_method_in_force(auth_type: str, secret: str, exchange: type | None) -> None:
    found = meet(Asked(secret, auth_type=auth_type))
    assert found is not None
    assert (found.user, found.name) == ("bob", "app")
    made = found.exchange and found.exchange()
    assert type(made) is (exchange or type(None))


def test_nobody_known_is_one_like_who_is_known() -> None:
    """Else who is unknown would be answered later, time after time."""
    asked = Asked(SCRAM, auth_type="scram-sha-256")
    regulars = Regulars(asked)
    for said in (packet(user="eve", database="app"), packet(user="bob", database="nothere")):
        first = meet(asked, said, regulars=regulars)
        assert first is not None
        assert first.exchange is not None
        assert meet(asked, said, regulars=regulars) is first


def test_what_is_not_ordinary_is_left_to_the_login() -> None:
    assert meet(Asked(MD5, auth_type="plain")) is None
    assert meet(Asked(MD5, auth_type="trust"), packet(user="eve", database="app")) is None
    asked = Asked(MD5, auth_type="md5")
    for said in (
        packet(user="bob", database="pgbouncer"),
        packet(user="bob", database="app", replication="true"),
        packet(user="bob", database="app", work_mem="1"),
        packet(database="app"),
        packet(user="bob", database="app", **{"_pq_.x": "1"}),
        b"\0\3\0\0user",
    ):
        assert meet(asked, said) is None
    for name in ("must_use_tls", "wordy"):
        setattr(asked, name, True)
        assert meet(asked) is None
        setattr(asked, name, False)
    asked.crowded = True
    assert meet(asked) is None
    asked.crowded = asked.room = False
    assert meet(asked) is None


def test_who_has_to_be_asked_about_is_none() -> None:
    asked = Asked(MD5, auth_type="md5")
    asked.asks = True
    assert meet(asked) is not None
    assert meet(asked, packet(user="eve", database="app")) is None


def test_a_secret_that_was_changed_is_the_new_one() -> None:
    asked = Asked(MD5, auth_type="md5")
    regulars = Regulars(asked)
    first = meet(asked, regulars=regulars)
    assert meet(asked, regulars=regulars) is first
    asked.config = dataclasses.replace(asked.config, secrets={"bob": Secret("bob", SCRAM)})
    second = meet(asked, regulars=regulars)
    assert second is not None
    assert second.grounds == Grounds(False, Secret("bob", SCRAM))
    assert first is not None
    with pytest.raises(LoginError, match="password authentication failed"):
        first.admit(asked, ClientFacts(PEER, user="bob", database="app"), Proof())


def test_an_address_decides_where_the_rules_name_it() -> None:
    asked = Asked(MD5, auth_type="hba", hba="host all all 10.0.0.1/32 trust\nhost all all 0.0.0.0/0 md5\n")
    regulars = Regulars(asked)
    for addr, exchange in (("10.0.0.1", False), ("10.0.0.9", True), ("10.0.0.1", False)):
        found = meet(asked, addr=addr, regulars=regulars)
        assert found is not None
        assert (found.exchange is not None) == exchange


def test_who_may_not_come_in_hears_it_after_the_proof() -> None:
    asked = Asked(MD5, auth_type="trust")
    found = meet(asked)
    assert found is not None
    attempt = ClientFacts(PEER, user="bob", database="app")
    admitted = found.admit(asked, attempt, Proof())
    assert admitted is found.admit(asked, attempt, Proof())
    asked.full = True
    with pytest.raises(LoginError, match="max_client_conn"):
        found.admit(asked, attempt, Proof())


class Desk:
    """What a visit asks of a door, and how often for whom it is."""

    def __init__(self, known: Regular) -> None:
        self.tasks: set[Any] = set()
        self.known = {packet(user="bob", database="app"): known}
        self.looked_up = 0

    def regular(self, visit: Visit, _: bytes) -> Regular | None:
        self.looked_up += 1
        return self.known[packet(user="bob", database="app")]

    def came(self, visit: Visit) -> None:
        pass

    async def carry_on(self, visit: Visit, sent: Awaitable[None]) -> None:
        await sent

    async def receive(self, visit: Visit, steps: Awaitable[None]) -> None:
        await steps


@pytest.mark.parametrize("has_been_here", [False, True])
def test_who_has_to_prove_it_is_asked_in_the_same_steps_whether_or_not_it_has_been_here(has_been_here: bool) -> None:
    """Else the time until the question would tell of who nobody knows from who comes every day: it was 1.5 us."""

    async def scene() -> None:
        mine, theirs = tcp_pair()
        with mine:
            found = meet(Asked(MD5, auth_type="md5"))
            assert found is not None
            if has_been_here:
                counted = tuple((Counted(), 0) for _ in range(3))
                told: Any = ((), (), b"", b"", 0, Crowd(), True)
                nowhere: Any = None
                found.place = Place(Relay(), nowhere, (), counted, {}, None, "app", "bob", *told)
                assert found.place.stands
            desk: Any = Desk(found)
            channel = Channel(theirs, asyncio.get_running_loop())
            mine.sendall(stream.startup({"user": "bob", "database": "app"}))
            Visit(desk, channel, ClientFacts(PEER), 0).go_on()
            mine.settimeout(DEADLINE)
            assert mine.recv(1) == b"R"
            assert desk.looked_up == 1
            channel.abort()

    run(scene())


def test_few_are_kept() -> None:
    asked = Asked(MD5, auth_type="md5")
    regulars = Regulars(asked)
    for number in range(200):
        meet(asked, packet(user=f"u{number}", database="app"), regulars=regulars)
    assert len(regulars.known) <= 64
    asked.config = compose({"auth_type": "md5"}, [DatabaseConfig("app")], secrets=[Secret("bob", MD5)])
    meet(asked, regulars=regulars)
    assert len(regulars.known) == 1, "what was decided by another configuration holds its secrets"
