"""A connection that is lost, refused or wants a password."""

from __future__ import annotations

import pytest

from admin.client.address import Address
from admin.client.answers import Answer
from admin.client.connector import Connector, Manners
from admin.client.link import CannotConnect, Lost
from admin.repl.session import Trouble
from tests.unit.repl_console import POOLS, Console, Person, say, session


def test_a_lost_connection_is_retried_and_said_so(console: Console) -> None:
    answers = iter([Lost("server closed the connection"), POOLS])
    console.answers["SHOW POOLS"] = lambda: _next(answers)
    person = Person()
    made, out = session(console, person, format="csv")
    say(made, "SHOW POOLS")
    assert "app,alice" in out.getvalue()
    assert person.heard == [
        "connection to h:1/pgbouncer lost: server closed the connection",
        "connected to h:1/pgbouncer again",
    ]


def test_a_console_that_is_away_is_told_before_it_is_waited_for(console: Console) -> None:
    console.answers["SHOW POOLS"] = Lost("gone")
    person = Person()
    made, _ = session(console, person)
    assert isinstance(made.connector, Connector)
    made.connector.manners = Manners(person.say, patience=0.05)
    console.refusals = [CannotConnect("refused")] * 9
    with pytest.raises(Trouble, match="cannot connect to h:1/pgbouncer: refused"):
        say(made, "SHOW POOLS")
    assert person.heard[0] == "connection to h:1/pgbouncer lost: gone"
    assert person.heard[1].startswith("not connected to h:1/pgbouncer: refused; trying again for ")
    assert len(person.heard) == 2


def _next(answers: object) -> Answer:
    found = next(answers)  # type: ignore[call-overload]
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Answer)
    return found


def test_a_verb_is_not_repeated(console: Console) -> None:
    console.answers["PAUSE APP"] = Lost("gone")
    made, _ = session(console)
    with pytest.raises(Trouble, match="PAUSE was not repeated"):
        say(made, "PAUSE app")
    assert console.asked == ["PAUSE app"]
    assert len(console.opened) == 2


def test_shutdown_ends_the_connection_and_that_is_its_answer(console: Console) -> None:
    console.answers["SHUTDOWN"] = Lost("gone")
    made, out = session(console)
    say(made, "SHUTDOWN")
    assert out.getvalue() == "SHUTDOWN\n"
    assert len(console.opened) == 1


def test_no_connection_is_status_3(console: Console) -> None:
    console.answers["SHOW POOLS"] = Lost("gone")
    made, _ = session(console)
    console.refusals = [CannotConnect("refused")] * 3
    with pytest.raises(Trouble, match="cannot connect to h:1/pgbouncer: refused") as trouble:
        say(made, "SHOW POOLS")
    assert trouble.value.status == 3


def test_a_wrong_password_asks_again(console: Console) -> None:
    wrong = CannotConnect("password authentication failed", password=True, refused=True)
    console.refusals = [wrong, wrong]
    passwords = iter(["bad", "good"])
    heard: list[str] = []
    manners = Manners(heard.append, lambda address: next(passwords))
    connector = Connector([Address({"host": "h", "user": "me"})], manners)
    connector.connect()
    assert [address.password for address in console.opened] == [None, "bad", "good"]
    assert connector.address.password == "good"
    assert heard == ['the password for "me" was refused: password authentication failed'] * 2


def test_a_wrong_password_of_the_environment_is_told_and_tried_once(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses of this machine's pooler: its keeper's user, the same user again, and whoever is logged in."""
    monkeypatch.setenv("PGPASSWORD", "wrong")
    here = {"host": "h", "port": "5433"}
    keeper, again, me = ({"user": "keeper", "passfile": "/x"}, {"user": "keeper"}, {"user": "me"})
    wrong = CannotConnect("password authentication failed", password=True, refused=True)
    console.refusals = [wrong, wrong]
    heard: list[str] = []
    asked: list[str] = []

    def ask(address: Address) -> str:
        asked.append(address.user)
        return "right"

    connector = Connector([Address({**here, **who}) for who in (keeper, again, me)], Manners(heard.append, ask))
    connector.connect()
    assert [(address.user, address.password) for address in console.opened] == [
        ("keeper", None), ("me", None), ("keeper", "right"),
    ]  # fmt: skip
    assert asked == ["keeper"]
    assert heard == ['the password for "keeper" was refused: password authentication failed']


def test_a_script_is_not_asked_for_a_password(console: Console) -> None:
    console.refusals = [CannotConnect("password needed", password=True)]
    with pytest.raises(CannotConnect):
        Connector([Address({"host": "h"})], Manners(lambda text: None)).connect()
    assert len(console.opened) == 1


def test_the_next_address_is_tried(console: Console) -> None:
    console.refusals = [CannotConnect("no socket")]
    connector = Connector([Address({"host": "a"}), Address({"host": "b"})], Manners(lambda text: None))
    assert connector.connect().address.place == "b:5432"
    assert connector.address.place == "b:5432"
