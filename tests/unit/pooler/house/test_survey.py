"""When a database is asked for its code, of whom, and what its pools are told: under a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.databases import DatabaseConfig
from pooler.config.kinds import PoolMode
from pooler.house.survey import AFTER_FAILURE, PATIENCE, PERIOD, REST, Survey, automaton
from pooler.pools.registry import Database
from pooler.relay.engine import CALLED, WRITES, WRITTEN
from pooler.routines import Code, changes, sources
from pooler.touches import Effect, Held, Touch

LOCKS = Touch(Held.LOCK, Held.LOCK, "")
NOTHING_THERE = [(b"changes", None, None, b"1,2")]


class Engine:
    """The relay's pool, as far as it is asked and told."""

    def __init__(self, kept: int = Held.LOCK) -> None:
        self.kept, self.refused, self.unread, self.server_count = kept, 0, True, 1
        self.effects: Any = None
        self.asked: list[bytes] = []
        self.known = 0

    def ask(self, sql: bytes) -> None:
        self.asked.append(sql)

    def know(self, effects: Any, names: Any) -> None:
        self.effects, self.known = effects, self.known + 1


class Place:
    """Entries of databases, each with one pool; `lines`: what is logged."""

    def __init__(self, *configs: DatabaseConfig) -> None:
        self.time, self.lines, self.mode = 100.0, [], PoolMode.transaction  # type: ignore[var-annotated]
        self.databases = {config.name: Database(config) for config in configs}
        self.pools = {name: SimpleNamespace(database=each, engine=Engine()) for name, each in self.databases.items()}
        for name, database in self.databases.items():
            database.pools["bob"] = self.pools[name]  # type: ignore[assignment]
        registry = SimpleNamespace(databases=self.databases, pool_mode=lambda pool: self.mode)
        self.told: list[tuple[object, ...]] = []
        """Places that the colleagues were told of."""
        self.survey = Survey(
            SimpleNamespace(  # type: ignore[arg-type]
                registry=registry,
                colleagues=SimpleNamespace(code_made=self.told.append),
                now=lambda: self.time,
                relay=SimpleNamespace(pace=lambda: None),
                say=lambda level, text: self.lines.append(text),
            )
        )

    def engine(self, name: str = "app") -> Engine:
        engine: Engine = self.pools[name].engine
        return engine

    def look_after(self, name: str = "app") -> list[bytes]:
        """What it is asked then."""
        self.engine(name).asked.clear()
        self.survey.look_after(self.pools[name], self.time)  # type: ignore[arg-type]
        return self.engine(name).asked

    def answer(self, rows: Any, error: str | None = None, name: str = "app") -> None:
        question = self.databases[name].inquiry.question
        self.survey.answered(self.pools[name], question, rows, error)  # type: ignore[arg-type]


@pytest.fixture
def place() -> Place:
    return Place(DatabaseConfig("app", hosts=("a",)), DatabaseConfig("same", hosts=("a",), dbname="app"),
                 DatabaseConfig("other", hosts=("a",)))  # fmt: skip


def test_a_pool_is_asked_once_and_then_every_minute(place: Place) -> None:
    assert place.look_after() == [sources()]
    assert place.look_after() == []
    place.answer(NOTHING_THERE)
    assert not place.engine().unread
    place.time += PERIOD - 1
    assert place.look_after() == []
    place.time += 2
    assert place.look_after() == [changes()]


def test_a_question_that_nobody_answers_is_asked_again(place: Place) -> None:
    place.look_after()
    place.time += PATIENCE + 1
    assert place.look_after() == [sources()]


def test_nobody_is_asked_without_a_server_or_where_nobody_cares(place: Place) -> None:
    place.engine().server_count = 0
    assert place.look_after() == []
    assert place.engine().unread
    place.engine().server_count = 1
    place.mode = PoolMode.session
    assert place.look_after() == []
    assert not place.engine().unread
    place.mode, place.engine().kept = PoolMode.transaction, 0
    assert place.look_after() == []


def test_what_is_made_makes_every_entry_of_that_database_look_at_everything(place: Place) -> None:
    for name in place.databases:
        place.look_after(name)
        place.answer(NOTHING_THERE, name=name)
        assert not place.engine(name).unread
    place.time += REST + 1
    place.survey.made(place.pools["app"], place.time)  # type: ignore[arg-type]
    assert [place.engine(name).unread for name in ("app", "same", "other")] == [True, True, False]
    assert len(place.told) == 1, "the other workers"
    assert place.engine("same").asked == [sources(), changes()]
    place.answer(NOTHING_THERE)
    assert [place.engine(name).unread for name in ("app", "same", "other")] == [False, True, False]


def test_what_is_made_again_and_again_is_asked_for_once_a_second(place: Place) -> None:
    place.look_after()
    place.answer(NOTHING_THERE)
    place.engine().asked.clear()
    place.time += REST / 2
    place.survey.made(place.pools["app"], place.time)  # type: ignore[arg-type]
    assert place.engine().asked == []
    place.time += REST
    assert place.look_after() == [changes()]


def test_names_are_told_and_logged_once(place: Place) -> None:
    place.look_after()
    source = (b"1255", b"17000", b"plpgsql", b"BEGIN SET work_mem = 1; END")
    place.answer([source, *NOTHING_THERE])
    assert len(place.engine().asked) == 2
    assert place.engine().unread
    place.answer([(b"1255", b"f", b"0", b"false")])
    assert list(place.engine().effects) == ["f"]
    assert not place.engine().unread
    place.look_after()
    assert place.engine().known == 1
    assert place.lines == ["app: 1 names of its own may leave session state"]


def test_what_cannot_be_told_is_said_once_and_everything_looked_at(place: Place) -> None:
    for _ in range(2):
        assert place.look_after() == [sources()]
        place.answer([], "permission denied")
        assert place.engine().unread
        place.time += PERIOD + 1
        assert place.look_after() == []
        place.time += AFTER_FAILURE
    (line,) = place.lines
    assert line.endswith("permission denied")


def test_an_answer_to_another_question_says_nothing(place: Place) -> None:
    place.look_after()
    for question in (None, b"SELECT 1"):
        place.survey.answered(place.pools["app"], question, NOTHING_THERE, None)  # type: ignore[arg-type]
    assert place.engine().unread


def test_the_automaton_tells_who_writes() -> None:
    code = Code({"f": [Effect(LOCKS, False)], "held": [Effect(LOCKS, True)]})
    names = automaton(code)
    assert names is not None
    assert names.hits(b"SELECT f()") == CALLED
    assert names.hits(b"insert into held") == WRITTEN | WRITES
    assert automaton(Code({})) is None
