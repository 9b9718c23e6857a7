"""One console asked again and again: what is asked for, what is remembered, and what a new connection forgets."""

from __future__ import annotations

import pytest

from admin.client.address import Address
from admin.client.link import CannotConnect, CommandFailed, Lost
from admin.client.poll import Poll
from tests.unit.repl_console import HELP_1_18, Console, replace_link, rows


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    made = replace_link(monkeypatch, Console(HELP_1_18))
    made.answers["SHOW STATS"] = rows("database total_xact_count", ("app", 5))
    return made


@pytest.fixture
def poll(console: Console) -> Poll:
    made = Poll(lambda: Address({"host": "h"}), "a test")
    assert made.connect()
    console.asked.clear()
    return made


def test_asks_for_what_it_has_and_no_oftener_than_wanted(console: Console, poll: Poll) -> None:
    for _ in range(2):
        poll.refresh("POOLS", "LATENCY", within=60.0)
    assert console.asked == ["SHOW POOLS"], "this console has no LATENCY"
    poll.refresh("POOLS")
    poll.forget()
    poll.refresh("POOLS", within=60.0)
    assert console.asked == ["SHOW POOLS"] * 3


def test_figures_are_of_all_that_was_asked_for(poll: Poll) -> None:
    poll.refresh("POOLS", "STATS")
    first = poll.snapshot()
    assert [pool.database for pool in first.pools] == ["app", "billing", "pgbouncer"]
    assert first.databases[0].counters.xact_count == 5
    assert poll.ask("VERSION") == [{"version": "PgBouncer 1.26.1"}]
    assert poll.rows("VERSION") == (), "what is asked once is not kept"
    later = poll.snapshot()
    assert first.steady is not None
    assert later.steady is not None
    assert later.steady > first.steady


def test_a_new_connection_knows_nothing_of_the_one_before(console: Console, poll: Poll) -> None:
    poll.refresh("POOLS")
    assert not poll.connect()
    poll.abort()
    assert poll.connect()
    assert poll.rows("POOLS") == ()
    assert console.asked[-1] == "SHOW HELP"
    poll.close()
    assert poll.version == ""


def test_what_fails_is_tried_from_the_beginning(console: Console, poll: Poll) -> None:
    poll.close()
    helpful = console.answers["SHOW HELP"]
    for refusal, answer in (
        (CannotConnect("refused"), helpful),
        (None, CommandFailed("no", "08P01")),
        (None, Lost("gone")),
    ):
        console.refusals = [refusal] if refusal else []
        console.answers["SHOW HELP"] = answer
        with pytest.raises((CannotConnect, CommandFailed, Lost)):
            poll.connect()
        console.answers["SHOW HELP"] = helpful
        assert poll.connect()
        poll.close()
