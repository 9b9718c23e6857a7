"""The exchange: who is told what, and in whose hands rights and servers are at any time."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from pooler.workers.exchange import ANSWER, Exchange, Want
from pooler.workers.ledger import Ledger, servers_of
from pooler.workers.line import LineClosed

POOL = servers_of("app", "joe")[0]
RECORD = b"all that it is"


class Worker:
    """Hears what the desk says; `answers` what it is asked for."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.got: list[int] = []
        self.silent = False
        self.full = False
        self.answers: Callable[[], bool | None] = lambda: False

    @property
    def line(self) -> Worker:
        return self

    def put(self, name: str, *values: Any, descriptors: Sequence[int] = ()) -> bool:
        if self.full and descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.heard.append((name, *values))
        self.got += [os.dup(descriptor) for descriptor in descriptors]
        return True

    async def ask(self, name: str, *values: Any) -> Any:
        self.heard.append((name, *values))
        return self.answers()

    def take(self) -> list[str]:
        """The names of what it has heard since."""
        heard, self.heard = self.heard, []
        return [name for name, *_ in heard]


class Clock:
    """A loop whose time is ours; what is to be done at once is done when it is told."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def call_later(self, delay: float, work: Callable[..., Any], *values: Any) -> Clock:
        self.later.append((delay, work, values))
        return self

    def cancel(self) -> None:
        """What is no longer wanted finds that out itself."""

    def turn(self) -> None:
        due, self.later = self.later, []
        for _, work, values in due:
            work(*values)


class Fair:
    def __init__(self, count: int = 3) -> None:
        self.clock, self.ledger = Clock(), Ledger()
        self.workers = {number: Worker() for number in range(count)}
        loop: Any = self.clock
        self.exchange = Exchange(loop, self.ledger, self.workers, self.keep)

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(work)

    def want(
        self,
        worker: int,
        size: int = 1,
        *,
        user: str = "joe",
        own: bool = False,
        moved: bool = False,
        since: float = 0.0,
    ) -> bool:
        return self.exchange.want(Want(worker, "app", user, True, False, own, moved, (size, 0, 0), since))

    def held(self) -> list[int]:
        return [self.ledger.held(number, POOL) for number in self.workers]

    def given(self, worker: int, descriptors: int = 1) -> None:
        ends = os.pipe()
        os.close(ends[1])
        if not descriptors:
            os.close(ends[0])
        self.exchange.given(worker, "app", "joe", RECORD, [ends[0]][:descriptors])

    def heard(self) -> list[list[str]]:
        return [worker.take() for worker in self.workers.values()]


@pytest.fixture
def fair() -> Fair:
    return Fair()


def test_what_there_is_room_for_is_granted_at_once(fair: Fair) -> None:
    assert not fair.want(0, 2)
    assert not fair.want(1, 2)
    assert fair.want(2, 2)
    assert fair.heard() == [["granted"], ["granted"], []]
    fair.exchange.back(0, "app", "joe", 1, 0)
    assert fair.heard() == [[], [], ["granted"]]
    assert fair.held() == [0, 1, 1]


def test_who_has_asked_is_told_how_many_there_are_whenever_that_changes(fair: Fair) -> None:
    """All workers keep one min_pool_size together."""

    def told() -> list[list[int]]:
        heard = [worker.heard for worker in fair.workers.values()]
        for worker in fair.workers.values():
            worker.heard = []
        return [[values[-1] for name, *values in each if name == "counted"] for each in heard]

    fair.want(0, 2)
    for number in (0, 2):
        fair.exchange.count(number, "app", "joe")
    assert told() == [[1], [], [1]]
    fair.want(1, 3)
    fair.want(0, 3, user="eve")
    assert told() == [[2], [], [2]]
    fair.given(1)
    fair.exchange.back(0, "app", "joe", 0, 1)
    assert told() == [[], [], []]
    fair.exchange.back(0, "app", "joe", 1, 0)
    assert told() == [[1], [], [1]]
    del fair.workers[0]
    fair.exchange.gone(0)
    fair.exchange.gone(1)
    assert told() == [[], [0]]
    fair.exchange.count_no_more(2, "app", "joe")
    fair.want(1, 3)
    assert told() == [[], []]
    assert not fair.exchange._counting


def test_what_is_needed_without_anybody_waiting_is_granted_or_the_count_is_told(fair: Fair) -> None:
    needed = Want(0, "app", "joe", True, True, False, False, (1, 0, 0), 0.0)
    fair.exchange.count(0, "app", "joe")
    assert not fair.exchange.want(needed)
    assert not fair.exchange.want(needed)
    assert fair.heard()[0] == ["counted", "granted", "counted", "counted"]
    fair.exchange.back(0, "app", "joe", 1, 0)
    assert fair.heard()[0] == ["counted"]


def test_who_has_asked_before_all_is_handed_over_is_told_then(fair: Fair) -> None:
    fair.exchange.is_open = False
    fair.exchange.count(1, "app", "joe")
    fair.ledger.take(0, [(POOL, 0)])
    fair.exchange.open()
    assert fair.workers[1].heard == [("counted", "app", "joe", count) for count in (0, 1)]


def test_who_has_some_is_told_once_and_asked_when_it_says_so(fair: Fair) -> None:
    fair.want(0)
    fair.want(1)
    fair.heard()
    for _ in range(5):
        fair.clock.turn()
    assert fair.heard()[0].count("sought") == 1

    def hand_over() -> bool:
        fair.given(0)
        return False

    fair.workers[0].answers = hand_over
    fair.exchange.spare(0, POOL)
    assert fair.heard() == [["yield"], ["server"], []]
    assert fair.held() == [0, 1, 0]
    assert len(fair.workers[1].got) == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_where_the_desk_has_no_descriptor_left_the_server_ends_and_its_right_is_free(fair: Fair, wanted: bool) -> None:
    """To send one takes another (Line)."""
    fair.want(0)
    if wanted:
        fair.want(1)
    fair.heard()
    before = len(os.listdir("/proc/self/fd"))
    for worker in fair.workers.values():
        worker.full = True
    with pytest.raises(OSError, match="Too many open files"):
        fair.given(0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert fair.heard() == [[], ["granted"] if wanted else [], []]
    assert fair.held() == [0, int(wanted), 0]


def test_what_was_said_to_be_spare_is_remembered(fair: Fair) -> None:
    fair.want(0)
    fair.want(1)
    fair.clock.turn()
    fair.exchange.unwanted(1, "app", "joe")
    fair.exchange.spare(0, POOL)
    fair.heard()
    fair.want(2)
    assert fair.heard()[0] == ["yield"]


def test_one_that_nobody_wants_any_more_goes_back(fair: Fair) -> None:
    fair.want(0)
    fair.heard()
    fair.given(0)
    assert fair.workers[0].heard == [("server", "app", "joe", RECORD, False)]
    assert fair.held() == [1, 0, 0]


def test_for_one_alone_it_is_the_right_that_goes(fair: Fair) -> None:
    fair.want(0)
    fair.want(1, own=True)
    fair.heard()
    fair.given(0)
    assert fair.heard() == [["server"], [], []]
    fair.exchange.back(0, "app", "joe", 1, 0)
    assert fair.heard() == [[], ["granted"], []]


def test_where_none_can_be_opened_no_right_is_granted_and_a_server_is_sought(fair: Fair) -> None:
    fair.want(0, 5)
    fair.heard()
    assert fair.want(1, 5, moved=True)
    fair.clock.turn()
    assert fair.heard() == [["sought"], [], []]
    fair.clock.turn()
    assert [message[-1] for message in fair.workers[0].heard] == [True], "it is closed for nobody"
    fair.exchange.back(0, "app", "joe", 0, 0)
    assert fair.held() == [1, 0, 0]
    fair.given(0)
    assert fair.heard()[1] == ["server"]
    assert fair.held() == [0, 1, 0]


def test_the_part_of_who_can_open_none_is_one_of_what_there_is(fair: Fair) -> None:
    """Not of what there may be: who has more of that gives one up at once, and no more than the part."""
    for _ in range(2):
        fair.want(0, 10)
    fair.want(1, 10, moved=True)
    fair.clock.turn()
    fair.heard()
    fair.clock.turn()
    assert fair.workers[0].heard == [("next", POOL, 0.0, ("app", "joe"), True)]
    fair.given(0)
    fair.want(1, 10, moved=True)
    fair.heard()
    for _ in range(4):
        fair.clock.turn()
    assert "next" not in fair.heard()[0]


def test_who_has_none_that_can_be_moved_is_not_asked_again_at_once(fair: Fair) -> None:
    fair.want(0, 5)
    fair.want(1, 5, moved=True)
    fair.clock.turn()
    fair.workers[0].answers = lambda: None
    fair.heard()
    fair.exchange.spare(0, POOL)
    assert fair.heard() == [["yield"], [], []]
    fair.clock.turn()
    assert fair.heard()[0][0] == "sought"


def test_while_servers_are_recalled_none_goes_on(fair: Fair) -> None:
    fair.want(0)
    fair.want(1)
    fair.heard()
    fair.exchange.recalled += 1
    fair.given(0)
    assert fair.workers[0].heard == [("server", "app", "joe", RECORD, True)]
    assert fair.held() == [1, 0, 0]


def test_one_that_is_lost_under_way_is_nobodys(fair: Fair) -> None:
    """The desk has no room for the descriptor: there is one less."""
    fair.want(0)
    fair.want(1)
    fair.heard()
    fair.given(0, descriptors=0)
    assert fair.heard() == [[], ["granted"], []]
    assert fair.held() == [0, 1, 0]


def test_with_either_end_its_right_is_free(fair: Fair) -> None:
    fair.want(0)
    fair.want(1)
    fair.given(0)
    fair.want(2)
    fair.heard()
    fair.exchange.gone(1)
    assert fair.heard() == [[], [], ["granted"]]
    assert fair.held() == [0, 0, 1]


def test_a_worker_that_is_silent_or_gone_is_asked_for_nothing(fair: Fair) -> None:
    fair.want(0)
    fair.want(1)
    fair.workers[0].silent = True
    fair.heard()
    for _ in range(3):
        fair.clock.turn()
    assert fair.heard() == [[], [], []]


@pytest.mark.parametrize("error", [LineClosed(), TimeoutError()])
def test_no_answer_is_a_no(fair: Fair, error: Exception) -> None:
    def fail() -> bool:
        raise error

    fair.want(0)
    fair.want(1)
    fair.clock.turn()
    fair.workers[0].answers = fail
    fair.heard()
    fair.exchange.spare(0, POOL)
    assert fair.heard()[0] == ["yield"]
    # It was stopped, say, and has two to spare: it says so to nobody who has not told it that one is sought.
    fair.clock.turn()
    fair.clock.turn()
    assert [name for name in fair.heard()[0] if name != "next"] == ["sought"]
    assert ANSWER > 0


def test_who_has_more_than_its_part_is_asked_for_one_in_use(fair: Fair) -> None:
    """As often as it is looked, and only for one that has less."""
    for _ in range(3):
        fair.want(0, 4)
    fair.want(1, 4)
    fair.want(1, 4)
    fair.heard()
    fair.clock.turn()
    assert fair.heard() == [["sought"], [], []]
    fair.clock.turn()
    assert fair.workers[0].heard == [("next", POOL, 0.0, ("app", "joe"), False)]
    fair.given(0)
    fair.want(1, 4)
    fair.heard()
    for _ in range(4):
        fair.clock.turn()
    assert "next" not in fair.heard()[0]


def test_two_that_are_spare_at_once_are_not_both_asked(fair: Fair) -> None:
    """One want, two who could serve it: the second one keeps its server."""
    fair.want(0, 2)
    fair.want(1, 2)
    fair.want(2, 2)
    fair.clock.turn()
    fair.heard()
    begun: list[Coroutine[Any, Any, None]] = []
    fair.exchange._keep = begun.append
    for number in (0, 1):
        fair.exchange.spare(number, POOL)
    fair.clock.turn()
    assert len(begun) == 1

    def hand_over() -> bool:
        fair.given(0)
        return False

    fair.workers[0].answers = hand_over
    asyncio.run(begun.pop())
    assert begun == []
    assert [names.count("yield") for names in fair.heard()] == [1, 0, 0]
    assert fair.held() == [0, 1, 1]
