"""Several consoles as one: whose rows are whose, who is missing, and for how long anybody is waited for."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from admin.client import union
from admin.client.address import Address, BadAddress, parse
from admin.client.answers import Answer, Notice
from admin.client.connector import Manners
from admin.client.link import CannotConnect, CommandFailed, Link
from admin.client.terminal import FAILED, UNREACHABLE, Terminal
from admin.client.union import Late, Union, merged
from admin.repl import backslash
from admin.repl.cli import main
from admin.repl.session import Options, Session, Trouble
from admin.repl.sink import Sink
from tests.unit.repl_console import Console, FakeLink, Person, rows, say

Table = dict[str, Console | CannotConnect]
POOLS = "SHOW POOLS"


@pytest.fixture
def consoles(monkeypatch: pytest.MonkeyPatch) -> Table:
    """What is at each place: `one:1`, `two:2`, ..."""
    table: Table = {"one:1": Console(), "two:2": Console()}

    def open_link(address: Address, name: str = "") -> Any:
        found = table[address.place]
        if isinstance(found, CannotConnect):
            raise found
        return found.open(address, name)

    monkeypatch.setattr(Link, "open", open_link)
    return table


def together(table: Table, said: list[str] | None = None) -> Union:
    manners = Manners((said if said is not None else []).append, patience=0.0)
    made = Union([[parse(place)] for place in table], manners)
    made.connect()
    return made


def at(table: Table, place: str) -> Console:
    found = table[place]
    assert isinstance(found, Console)
    return found


def test_rows_stand_below_each_other(consoles: Table) -> None:
    at(consoles, "one:1").answers[POOLS] = rows("database cl_active", ("a", 1), ("b", 2))
    at(consoles, "two:2").answers[POOLS] = rows("database cl_active", ("a", 3))
    found = together(consoles).ask(POOLS)
    assert found.names == ("pooler", "database", "cl_active")
    assert list(found.rows) == [("one:1", "a", 1), ("one:1", "b", 2), ("two:2", "a", 3)]
    assert (found.tag, found.failures) == ("SHOW", ())


def test_columns_are_matched_by_name() -> None:
    """A release of PgBouncer that has others, in another order."""
    old, new = rows("database user old", ("a", "u", 1)), rows("user database new", ("v", "b", 2))
    found = merged([("x", old), ("y", new)])
    assert found.names == ("pooler", "database", "user", "old", "new")
    assert list(found.rows) == [("x", "a", "u", 1, None), ("y", "b", "v", None, 2)]


def test_a_verb_goes_to_all_and_each_answer_has_a_name(consoles: Table) -> None:
    at(consoles, "two:2").answers["RELOAD"] = Answer(tag="RELOAD", notices=(Notice("NOTICE", "needs a restart"),))
    found = together(consoles).ask("RELOAD")
    assert (found.names, list(found.rows)) == (("pooler", "answer"), [("one:1", "RELOAD"), ("two:2", "RELOAD")])
    assert [notice.message for notice in found.notices] == ["two:2: needs a restart"]
    assert [at(consoles, place).asked for place in consoles] == [["RELOAD"], ["RELOAD"]]


def test_help_is_said_once(consoles: Table) -> None:
    found = together(consoles).ask("SHOW HELP")
    assert found == at(consoles, "one:1").answers["SHOW HELP"]


def test_who_fails_is_named_and_the_others_are_not_lost(consoles: Table) -> None:
    at(consoles, "two:2").answers["PAUSE A"] = CommandFailed("no such database: a")
    at(consoles, "one:1").answers["PAUSE A"] = Answer(tag="PAUSE")
    found = together(consoles).ask("PAUSE a")
    assert list(found.rows) == [("one:1", "PAUSE")]
    assert [(str(f), f.unreachable) for f in found.failures] == [("two:2: no such database: a", False)]


def test_an_error_of_all_is_that_error(consoles: Table) -> None:
    made = together(consoles)
    with pytest.raises(CommandFailed, match=r"^invalid command 'NONSENSE', use SHOW HELP;$"):
        made.ask("NONSENSE")
    at(consoles, "one:1").answers["NONSENSE"] = CommandFailed("not today")
    with pytest.raises(CommandFailed, match=r"^one:1: not today\ntwo:2: invalid command"):
        made.ask("NONSENSE")


def test_ids_of_clients_are_nothing_for_all(consoles: Table) -> None:
    with pytest.raises(CommandFailed, match="each pooler's own"):
        together(consoles).ask("KILL_CLIENT 7")
    assert at(consoles, "one:1").asked == []


def test_who_cannot_be_reached_is_told_and_comes_back(consoles: Table) -> None:
    there, said = consoles["two:2"], list[str]()
    consoles["two:2"] = CannotConnect("Connection refused")
    made = together(consoles, said)
    assert said == ["cannot connect to two:2: Connection refused"]
    found = made.ask(POOLS)
    assert {row[0] for row in found.rows} == {"one:1"}
    assert [(str(f), f.unreachable) for f in found.failures] == [("two:2: Connection refused", True)]
    consoles["two:2"] = there
    assert {row[0] for row in made.ask(POOLS).rows} == {"one:1", "two:2"}


def test_without_any_there_is_no_connection(consoles: Table) -> None:
    for place in consoles:
        consoles[place] = CannotConnect("Connection refused")
    with pytest.raises(CannotConnect, match=r"one:1: Connection refused\ntwo:2: Connection refused"):
        together(consoles)


class Stalled(FakeLink):
    """One that answers nothing, unless it is given up."""

    def ask(self, statement: str, *, on_wait: Any = None, **_: object) -> Answer:
        if on_wait is None:
            return Answer()
        began = time.monotonic()
        while not self.closed:
            on_wait(time.monotonic() - began)
            time.sleep(0.01)
        raise CommandFailed("canceling statement due to user request", "57014")

    def cancel(self) -> None:
        self.closed = True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(union, "PATIENCE", 0.05)


def stall(console: Console) -> None:
    console.open = lambda address, name="": Stalled(console, address)  # type: ignore[method-assign]


@pytest.mark.usefixtures("impatient")
def test_who_does_not_answer_in_time_is_named_and_not_waited_for(consoles: Table) -> None:
    stall(at(consoles, "two:2"))
    found = together(consoles).ask(POOLS)
    assert {row[0] for row in found.rows} == {"one:1"}
    assert [(str(f), f.unreachable) for f in found.failures] == [("two:2: no answer within 0.05 s", True)]


@pytest.mark.usefixtures("impatient")
def test_a_verb_is_waited_for_as_long_as_its_pooler_lives(consoles: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    stall(at(consoles, "two:2"))
    at(consoles, "one:1").answers["PAUSE"] = Answer(tag="PAUSE")
    looks: list[bool] = []

    def lives(address: Address) -> bool:
        looks.append(len(looks) < 3)
        return looks[-1]

    monkeypatch.setattr(union, "_lives", lives)
    found = together(consoles).ask("PAUSE")
    assert looks == [True, True, True, False]
    assert [str(failure) for failure in found.failures] == ["two:2: no answer within 0.05 s"]


@pytest.mark.usefixtures("impatient")
def test_a_pooler_that_answers_others_lives(consoles: Table) -> None:
    two = at(consoles, "two:2")
    assert union._lives(parse("two:2"))
    two.answers["SHOW VERSION"] = CommandFailed("no")
    assert not union._lives(parse("two:2"))
    consoles["two:2"] = CannotConnect("Connection refused")
    assert not union._lives(parse("two:2"))


def test_ctrl_c_cancels_where_it_is_not_over(consoles: Table) -> None:
    stall(at(consoles, "two:2"))
    at(consoles, "one:1").answers["PAUSE"] = Answer(tag="PAUSE")
    made = together(consoles)

    def on_wait(gone: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.ask("PAUSE", on_wait)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("console ")]


def test_a_bug_is_not_an_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        merged([("x", Answer()), ("y", ZeroDivisionError())])
    with pytest.raises(CannotConnect, match="x: no"):
        merged([("x", Late("no")), ("y", CommandFailed("never"))])


# ---- what the session makes of it


def session(table: Table, terminal: Terminal | None = None, **options: Any) -> tuple[Session, io.StringIO]:
    out = io.StringIO()
    made = Session(together(table), terminal or Terminal(io.StringIO()), backslash.run, Options(**options), Sink(out))
    return made, out


def test_an_answer_with_somebody_missing_is_shown_and_then_told(consoles: Table) -> None:
    made, out = session(consoles, format="csv")
    consoles["two:2"], there = CannotConnect("Connection refused"), at(consoles, "two:2")
    made.connector._connectors["two:2"].close()  # type: ignore[union-attr]
    with pytest.raises(Trouble, match=r"^two:2: Connection refused$") as trouble:
        say(made, "SHOW VERSION")
    assert trouble.value.status == UNREACHABLE
    assert out.getvalue().splitlines() == ["pooler,version", "one:1,PgBouncer 1.26.1"]
    consoles["two:2"] = there
    there.answers["RESUME A"] = CommandFailed("no such database: a")
    at(consoles, "one:1").answers["RESUME A"] = Answer(tag="RESUME")
    with pytest.raises(Trouble, match=r"^two:2: no such database: a$") as trouble:
        say(made, "RESUME a")
    assert trouble.value.status == FAILED


@pytest.mark.slow
def test_select_is_over_all_of_them(consoles: Table) -> None:
    """Our consoles know SELECT, but none of them those of the others."""
    at(consoles, "two:2").answers[POOLS] = rows("database cl_waiting", ("a", 7))
    made, out = session(consoles, format="csv")
    say(made, "SELECT pooler, sum(cl_waiting) AS waiting FROM pools GROUP BY 1 ORDER BY 2 DESC;")
    assert out.getvalue().splitlines() == ["pooler,waiting", "two:2,7", "one:1,2"]
    at(consoles, "two:2").answers[POOLS] = CommandFailed("not today")
    with pytest.raises(Trouble, match=r"^two:2: not today$"):
        say(made, "SELECT count(*) FROM pools;")


def test_a_person_is_asked_about_all_of_them(consoles: Table) -> None:
    person = Person(False)
    made, _ = session(consoles, person)
    say(made, "SHUTDOWN")
    assert person.asked == ["SHUTDOWN on one:1, two:2: stops the pooler. Really?"]
    say(made, "\\conninfo")
    with pytest.raises(Trouble, match="these are 2 poolers"):
        say(made, "\\c three:3")


@pytest.mark.parametrize(("twice", "status"), [(["h:1", "h:1"], 2), (["h:1", "postgresql://u@h:1/pgbouncer"], 2)])
def test_one_that_is_named_twice_is_wrong_usage(
    twice: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*twice, "-c", "SHOW POOLS"]) == status
    assert capsys.readouterr().err == "pooler console: h:1 is named twice\n"
    with pytest.raises(BadAddress):
        Union.check([[parse(url)] for url in twice])


def test_watch_tells_who_is_missing(consoles: Table) -> None:
    heard = io.StringIO()
    made, out = session(consoles, Terminal(heard))
    answers: list[Callable[[], Answer]] = []
    two = at(consoles, "two:2")

    def failing() -> Answer:
        answers.append(failing)
        if len(answers) == 2:
            raise CommandFailed("not today")
        return rows("version", ("x",))

    two.answers["SHOW VERSION"] = failing
    say(made, "SHOW VERSION \\watch 0.1 c=3")
    assert heard.getvalue().splitlines() == ["without two:2: not today", "with all again"]
    assert out.getvalue().count("one:1") == 3
