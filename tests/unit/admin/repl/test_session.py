"""The session over a console of a table: what goes where, what is asked first, and what an error says."""

from __future__ import annotations

import json

import pytest

from admin.client.answers import Answer
from admin.repl.session import Quit, Trouble
from tests.unit.repl_console import POOLS, Console, Person, rows, say, session


def test_select_goes_to_a_console_that_knows_it(console: Console) -> None:
    console.answers["SELECT 1 FROM POOLS"] = rows("x", (1,))
    made, out = session(console)
    say(made, "SELECT 1 FROM pools;")
    assert console.asked == ["SHOW HELP", "SELECT 1 FROM pools"]
    assert "(1 row)" in out.getvalue()


@pytest.mark.slow
def test_select_over_views_of_an_old_console_is_answered_here(old_console: Console) -> None:
    made, out = session(old_console, format="json")
    say(made, "SELECT p.user, s.total FROM pools p JOIN stats s USING (database) WHERE cl_waiting > 0;")
    assert json.loads(out.getvalue()) == [{"user": "alice", "total": 7}]
    assert old_console.asked == ["SHOW HELP", "SHOW POOLS", "SHOW STATS"]


@pytest.mark.slow
def test_shorthand_and_synonym_on_an_old_console(old_console: Console) -> None:
    old_console.answers["SELECT POOLS"] = POOLS
    made, out = session(old_console, format="csv")
    say(made, "SHOW POOLS WHERE database = 'billing'")
    assert out.getvalue().splitlines()[1].startswith("billing,bob")
    say(made, "SELECT pools;")
    assert old_console.asked[-1] == "SELECT pools"


@pytest.mark.parametrize("sql", ["SELECT * FROM nowhere;", "SELECT * FROM fds;", "SELECT nosuch FROM pools;"])
def test_select_that_cannot_be_answered(old_console: Console, sql: str) -> None:
    made, _ = session(old_console)
    with pytest.raises(Trouble, match=r"^ERROR:  ") as trouble:
        say(made, sql)
    assert trouble.value.status == 1


@pytest.mark.parametrize(
    "verb", ["KILL app", "KILL_CLIENT 3", "SHUTDOWN", "SUSPEND", "DISABLE app", "kill app", "PAUSE", "pause"]
)
def test_verbs_that_hurt_ask_a_person_and_no_script(console: Console, verb: str) -> None:
    console.answers[verb.upper()] = Answer(tag=verb.split()[0])
    person = Person(False, True)
    made, _ = session(console, person)
    say(made, verb)
    assert console.asked == []
    assert verb in person.asked[0]
    say(made, verb)
    assert console.asked == [verb]
    script_session, _ = session(console)
    say(script_session, verb)
    assert console.asked == [verb, verb]


@pytest.mark.parametrize("verb", ["PAUSE app", "RESUME", "RELOAD", "SET verbose = 1", "ENABLE app"])
def test_other_verbs_do_not_ask(console: Console, verb: str) -> None:
    console.answers[verb.upper()] = Answer(tag="x")
    made, _ = session(console, Person())
    say(made, verb)
    assert console.asked == [verb]


def test_errors_guess_what_was_meant(console: Console) -> None:
    made, _ = session(console, Person())
    with pytest.raises(Trouble, match=r"HINT:  Did you mean SHOW POOLS\?"):
        say(made, "SHOW POLS")
    with pytest.raises(Trouble, match=r"HINT:  Did you mean RELOAD\?"):
        say(made, "RELAOD")
    made, _ = session(console)
    with pytest.raises(Trouble) as plain:
        say(made, "SHOW POLS")
    assert str(plain.value) == "ERROR:  invalid command 'SHOW POLS', use SHOW HELP;"


@pytest.mark.parametrize("text", ["\\q", "exit", "quit;", "EXIT"])
def test_leaving(console: Console, text: str) -> None:
    made, _ = session(console)
    with pytest.raises(Quit):
        say(made, text)
