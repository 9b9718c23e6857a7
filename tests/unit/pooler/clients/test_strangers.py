"""Who goes when there are too many that have not logged in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pooler import kernel
from pooler.clients import strangers
from pooler.clients.strangers import FEW, Strangers
from pooler.config.databases import DatabaseConfig
from pooler.config.whole import compose
from pooler.pools.refusal import LoginError
from pooler.relay.engine import clock


class Visit:
    """As the door has them; it is gone when the test says so."""

    def __init__(self, number: int, *, heard: bool = False, at_work: bool = False, descriptor: int = 10) -> None:
        self.arrival = SimpleNamespace(number=number)
        self.channel = SimpleNamespace(heard=heard, at_work=at_work, fileno=lambda: descriptor)
        self.since = clock()
        self.sentence: LoginError | None = None

    def end(self, why: LoginError) -> None:
        assert self.sentence is None, "told twice"
        self.sentence = why


def crowd(*visits: Visit, max_client_conn: int = 100) -> Any:
    made: Any = Strangers(compose({"max_client_conn": str(max_client_conn)}))
    for visit in visits:
        made.come(visit)
    return made


def gone(*visits: Visit) -> list[int]:
    return [visit.arrival.number for visit in visits if visit.sentence is not None]


def test_the_silent_go_first_then_those_we_wait_for_then_the_others() -> None:
    visits = [
        Visit(1, heard=True, at_work=True),
        Visit(2, heard=True),
        Visit(3),
        Visit(4, heard=True),
        Visit(5),
        Visit(6, heard=True, at_work=True),
    ]
    here = crowd(*visits)
    order = []
    while here.make_way():
        order.append(next(number for number in gone(*visits) if number not in order))
    assert order == [3, 5, 2, 4, 1, 6]
    assert len(here) == 0


def test_who_has_spoken_meanwhile_is_silent_no_more() -> None:
    visits = [Visit(1), Visit(2), Visit(3)]
    here = crowd(*visits)
    visits[0].channel.heard = visits[1].channel.heard = True
    assert here.make_way()
    assert gone(*visits) == [3]
    assert [visit.arrival.number for visit in here] == [1, 2]


def test_whose_question_it_is_does_not_go_for_it() -> None:
    here = crowd(only := Visit(1, heard=True, at_work=True))
    assert not here.make_way(besides=1)
    assert here.make_way()
    assert gone(only) == [1]


def test_a_newcomer_has_the_place_of_who_goes_when_that_is_free() -> None:
    here, places = crowd(first := Visit(1)), []
    assert here.make_way(lambda: places.append(1))
    assert places == []
    here.gone(first)
    assert places == [1]
    here.gone(first)
    assert places == [1]


@pytest.mark.parametrize(("limit", "most"), [(100, 1000), (5000, 5000), (0, 1000)])
def test_how_many_there_may_be(limit: int, most: int) -> None:
    """Clients come in bursts, so there may be as many as max_client_conn, and never few."""
    here = crowd(*(Visit(number) for number in range(1, most)), max_client_conn=limit)
    assert not here.too_many(10)
    here.come(Visit(most))
    assert here.too_many(10)
    # Who has been told to go is still there.
    assert here.make_way()
    assert here.too_many(10)


def test_what_is_kept_back() -> None:
    limit = kernel.limits()[0]
    here = crowd()
    assert here.mark == limit - 64
    here.measure(compose({"default_pool_size": str(limit)}, [DatabaseConfig("app")]))
    assert here.mark == limit - limit // 2
    for number in range(1, FEW):
        here.come(Visit(number))
        assert not here.too_many(here.mark)
    here.come(Visit(FEW))
    assert here.too_many(here.mark)
    assert not here.too_many(here.mark - 1)


def test_the_last_place_is_not_taken_from_who_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many who want it each would lose it to the next."""
    here = crowd(quick := Visit(1, heard=True), far := Visit(2, heard=True, descriptor=1 << 40))
    assert here._dispensable() is None
    monkeypatch.setattr(strangers, "TIME_ENOUGH", -1)
    assert here._dispensable() is quick
    here.come(silent := Visit(3))
    assert here._dispensable() is silent
    assert gone(quick, far, silent) == []
