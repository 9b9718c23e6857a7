"""What becomes of an old service's parts: who has what of them, and what a worker does that hears nothing more."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.process.passing import Passage
from pooler.process.takeover import END, GONE, TAKEN, Inheritance, Part
from pooler.workers import succession
from pooler.workers.succession import KEPT, Leaving, shares


def server(number: int, sole: int = -1) -> tuple[dict[str, Any], int]:
    return {"kind": "server", "state": {"id": number, "sole": sole}}, -1


def client(number: int, at: int | None = None) -> tuple[dict[str, Any], int]:
    return {"kind": "client", "state": {"id": number, "server": at}}, -1


def numbers(shared: list[list[Part]]) -> list[list[int]]:
    return [[fact["state"]["id"] for part in parts for fact, _ in part.connections] for parts in shared]


def test_with_as_many_as_before_each_has_what_one_had() -> None:
    parts = [Part(), Part(connections=[server(1), client(2)]), Part(connections=[client(4)])]
    assert numbers(shares(parts, 2)) == [[1, 2], [4]]


def test_else_clients_are_shared_out_with_their_servers() -> None:
    """With what they have at work, or what is left of theirs alone."""
    clients = [client(5), client(6, 3), client(7), client(8)]
    of_one = [Part(connections=[server(1), server(2, 8), server(3), server(4, 99), *clients])]
    assert numbers(shares(of_one, 2)) == [[1, 5, 7], [2, 3, 4, 6, 8]]
    of_two = [Part(), Part(connections=[server(1), client(5, 1)]), Part(connections=[server(2), client(6)])]
    assert numbers(shares(of_two, 1)) == [[1, 5, 2, 6]]
    assert numbers(shares(of_two, 3)) == [[1, 5, 2], [6], []]


def test_who_listens_is_known_by_all_parts() -> None:
    def hub(*, listened: bool) -> dict[str, Any]:
        return {"kind": "hub", "database": "app", "host": "h", "listened": listened}

    with socket.socket() as sock:
        heir = Inheritance(Passage(sock, 1))
    heir.parts = [Part(hubs=[(hub(listened=False), 7)]), Part(hubs=[(hub(listened=True), None)])]
    assert heir.hubs() == [(hub(listened=True), 7)]


class Belongings:
    """Something is let go of, or not."""

    patience = 1.0, 1.0
    gone = False

    def __init__(self, *_: object) -> None:
        Belongings.gone = False

    def put(self, line: Passage) -> None:
        line.put({"kind": "house"})

    def let_go(self) -> None:
        Belongings.gone = True


@pytest.mark.parametrize(
    ("verdict", "gone", "ended"), [(TAKEN, True, []), (KEPT, False, []), (None, False, [1])], ids=str
)
def test_a_worker_lets_go_or_goes_on_as_it_is_told_and_ends_if_it_is_not(
    monkeypatch: pytest.MonkeyPatch, verdict: str | None, gone: bool, ended: list[int]
) -> None:
    """It cannot know whose its clients are when the desk ends in between."""
    monkeypatch.setattr(succession, "Belongings", Belongings)
    said: list[int] = []
    events = SimpleNamespace(handle=lambda: None, hubs=())
    service: Any = SimpleNamespace(door=SimpleNamespace(), events=events, running=None)
    other: Any = None
    leaving = Leaving(service, other, lambda *_: True, other, end=said.append)
    ours, theirs = socket.socketpair()
    with ours:
        line = Passage(ours, 1)
        if verdict is None:
            ours.shutdown(socket.SHUT_WR)
        else:
            line.put({"kind": verdict})
        leaving.works["surrender"]([theirs.detach()])
        kinds = [line.take()[0]["kind"] for _ in range(3 if gone else 2)]
    assert kinds == ["house", END, GONE][: len(kinds)]
    assert (Belongings.gone, said) == (gone, ended)
