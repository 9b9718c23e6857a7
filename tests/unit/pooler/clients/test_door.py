"""The door with colleagues: what is decided while they are asked about somebody."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pooler.pools.running import Phase, Running
from tests.fixtures import stream
from tests.unit.pooler.house.test_bouncer import House


def removed(running: Running) -> None:
    running.registry.config = replace(running.config, databases={})
    running.registry.databases["app"].removed = True


LEAVES: dict[str, tuple[Callable[[Running], object], str]] = {
    "disabled": (
        lambda running: setattr(running.registry.databases["app"], "disabled", True),
        'database "app" is disabled',
    ),
    "the end": (lambda running: setattr(running, "phase", Phase.WAIT_FOR_CLIENTS), "pooler is shutting down"),
    "gone": (removed, "database removed"),
}


class Colleagues:
    """Others, who have room for everybody; `meanwhile` happens while they are asked."""

    clients = 0

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.inside: list[tuple[str | None, str]] = []

    async def admit(self, database: str | None, user: str, *, bounded: bool = True) -> None:
        self.inside.append((database, user))
        self.meanwhile()

    def left(self, database: str | None, user: str) -> None:
        self.inside.remove((database, user))


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    made.pool()
    yield made
    made.close()


def told(house: House, meanwhile: Callable[[Running], object]) -> tuple[str, int]:
    """What bob is told who comes while that happens, and for how many the colleagues count afterwards."""
    running, (near, far) = house.bouncer.running, socket.socketpair()
    running.colleagues = others = Colleagues(lambda: meanwhile(running))  # type: ignore[assignment]
    with far:
        far.setblocking(False)
        house.bouncer.door().arrived(near)
        far.sendall(stream.startup({"user": "bob", "database": "app"}))
        answers: list[bytes] = []

        async def hear() -> None:
            answers.append(await house.loop.sock_recv(far, 1 << 16))

        house.run(hear())
        return answers[0].decode("latin-1"), len(others.inside)


@pytest.mark.parametrize("what", LEAVES)
def test_who_is_asked_about_while_the_door_closes_stays_outside(house: House, what: str) -> None:
    leaves, words = LEAVES[what]
    answer, inside = told(house, leaves)
    assert words in answer
    assert inside == 0


def test_where_nothing_happens_they_come_in(house: House) -> None:
    answer, inside = told(house, lambda running: None)
    assert answer.startswith("R\0\0\0\x08\0\0\0\0")
    assert inside == 1
