"""Completion by what is typed and what is known; the same text is never asked of a server."""

from __future__ import annotations

import pytest

from admin.client import vocabulary
from admin.client.answers import Notice
from admin.repl.background import Facts
from admin.repl.completion import candidates
from tests.unit.admin.repl.knowing import FACTS
from tests.unit.repl_console import HELP_1_18, HELP_OURS


def offered(text: str, facts: Facts = FACTS) -> list[str]:
    """Completions at the `|`, or at the end."""
    before, _, after = text.partition("|")
    return [one.text for one in candidates(before + after, len(before), facts).found]


@pytest.mark.parametrize(
    ("text", "some", "none"),
    [
        ("", ["SHOW", "PAUSE", "SELECT"], ["POOLS"]),
        ("sh", ["show", "shutdown"], ["SHOW", "pause"]),
        ("SH", ["SHOW", "SHUTDOWN"], ["show"]),
        ("SHOW ", ["POOLS", "CLIENTS", "LATENCY", "HISTORY"], ["SHOW", "PAUSE"]),
        ("SHOW PO", ["POOLS", "POOL_LATENCY"], ["CLIENTS"]),
        ("show po", ["pools"], ["POOLS"]),
        ("SHOW AGE", ["STATS_AVERAGES"], []),
        ("SHOW POOLS ", ["WHERE", "ORDER BY", "LIMIT"], ["POOLS"]),
        ("SHOW POOLS WHERE ", ["database", "cl_waiting"], ["addr"]),
        ("SHOW POOLS WHERE cl_w", ["cl_waiting"], ["cl_active"]),
        ("SHOW POOLS WHERE database = ", ["'app'", "'Billing-2'"], ["cl_active"]),
        ("SHOW POOLS WHERE database = 'B", ["'Billing-2'"], ["'app'"]),
        ("SHOW CLIENTS WHERE user IN ('alice', ", ["'o''neil'"], []),
        ("SHOW CLIENTS WHERE state = ", ["'waiting'", "'active'"], []),
        ("PAUSE ", ["app", '"Billing-2"'], ["pgbouncer"]),
        ("PAUSE b", ['"Billing-2"'], ["app"]),
        ('PAUSE "B', ['"Billing-2"'], ["app"]),
        ("PAUSE app ", [], ["app"]),
        ("KILL_CLIENT ", ["12", "13"], []),
        ("KILL_CLIENT 1", ["12", "13"], []),
        ("SHUTDOWN ", ["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"], []),
        ("RELOAD ", [], ["app"]),
        ("SET ", ["pool_mode", "query_timeout"], ["listen_port"]),
        ("SET pool_mode", [], ["pool_mode"]),
        ("SET pool_mode ", ["="], []),
        ("SET pool_mode = ", ["transaction", "session", "statement"], []),
        ("SET pool_mode = t", ["transaction"], ["session"]),
        ("SET log_stats = ", ["0", "1"], []),
        ("SET query_timeout = ", ["30", "0"], []),
        ("SET server_reset_query = ", ["'DISCARD ALL'"], []),
        ("SET server_reset_query = 'D", ["'DISCARD ALL'"], []),
        ("SET pool_mode = session ", [], ["session"]),
        ("SELECT * FROM ", ["pools", "clients"], ["cl_active"]),
        ("SELECT * FROM pools JOIN cl", ["clients"], []),
        ("SELECT | FROM pools", ["database", "cl_waiting", "count(*)"], ["addr"]),
        ("SELECT cl_|\nFROM pools;", ["cl_active", "cl_waiting"], ["addr"]),
        ("SELECT * FROM pools WHERE ", ["cl_waiting"], ["addr"]),
        ("SELECT p.| FROM pools p JOIN clients AS c ON 1", ["cl_waiting"], ["addr", "count(*)"]),
        ("SELECT c.| FROM pools p JOIN clients AS c ON 1", ["addr"], ["cl_waiting"]),
        ("SELECT clients.| FROM clients", ["addr"], ["cl_waiting"]),
        ("SELECT * FROM pools, ", ["clients"], []),
        ("SELECT ", ["database", "cl_waiting", "addr", "count(*)", "DISTINCT"], ["FROM", "JOIN", "WHERE", "'app'"]),
        ("SELECT database ", ["from", "as"], ["join", "where"]),
        ("SELECT database, ", ["user", "cl_active"], ["'app'", "FROM"]),
        ("SELECT database, cl_", ["cl_active"], ["'app'"]),
        ("SELECT max(", ["cl_waiting", "addr"], ["'app'"]),
        ("SELECT user, max(", ["cl_waiting"], ["'alice'"]),
        ("SELECT * FROM clients WHERE user NOT IN (", ["'alice'"], ["addr"]),
        ("SELECT * FROM clients WHERE state IN ('idle') AND ", ["addr"], ["'idle'"]),
        ("SELECT * FROM clients WHERE user <> ", ["'alice'"], ["addr"]),
        ("SELECT * FROM clients WHERE user LIKE 'a", ["'alice'"], ["addr"]),
        ("SELECT * FROM pools ORDER BY database, ", ["cl_active"], ["'app'"]),
        ("SHOW STATS; PA", ["PAUSE"], ["STATS"]),
        ("\\", ["\\x", "\\watch", "\\?"], []),
        ("\\wa", ["\\watch"], ["\\x"]),
        ("\\x ", ["on", "off", "auto"], []),
        ("\\f j", ["json"], ["csv"]),
        ("\\d ", ["pools", "clients"], ["SHOW", "help"]),
        ("\\d PO", ["pools", "pool_latency"], ["clients"]),
        ("\\h pa", ["PAUSE"], ["SHOW"]),
        ("SHOW POOLS \\w", ["\\watch"], []),
        ("SHOW POOLS \\watch ", ["1", "delta"], []),
    ],
)
def test_what_is_offered(text: str, some: list[str], none: list[str]) -> None:
    found = offered(text)
    assert set(some) <= set(found), found
    assert not set(none) & set(found), found


def test_the_view_that_is_meant_comes_first() -> None:
    assert offered("SHOW P")[0] == "POOLS"
    told = vocabulary.own().told([Notice("NOTICE", "Console usage", HELP_OURS + "\tSHOW PEERS|PLUGINS\n")])
    assert offered("SHOW P", Facts(vocabulary=told)) == ["POOLS", "PEERS", "PLUGINS"], "what is not known comes last"


def test_every_description_says_what_it_is_about() -> None:
    for word in (*vocabulary.own().views.values(), *vocabulary.own().commands.values()):
        assert len(word.help.split()) >= 3, word
        assert not word.help.startswith("the same"), word


def test_a_database_that_is_paused_says_so() -> None:
    found = candidates("RESUME ", 7, FACTS)
    assert (found.found[0].text, found.found[0].meta) == ("app", "paused")
    assert found.topics == ("databases",)


@pytest.mark.parametrize(
    ("text", "topics"), [("KILL_CLIENT ", ("clients",)), ("SET ", ("settings",)), ("SHOW ", ()), ("SELECT ", ())]
)
def test_only_what_is_completed_is_asked_for(text: str, topics: tuple[str, ...]) -> None:
    assert candidates(text, len(text), FACTS).topics == topics


def test_an_older_console_is_completed_with_its_own_words() -> None:
    old = vocabulary.own().told([Notice("NOTICE", "Console usage", HELP_1_18)])
    assert not old.sql
    facts = Facts(vocabulary=old.learnt("POOLS", ("database", "cl_cancel_req")))
    assert "KILL_CLIENT" not in offered("KI", facts)
    assert "LATENCY" not in offered("SHOW ", facts)
    assert "cl_cancel_req" in offered("SELECT  | FROM pools", facts)
    assert vocabulary.own().told([Notice("NOTICE", "Console usage", HELP_OURS)]).sql


def test_paths(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "one.sql").touch()
    (folder / "other").mkdir()
    (folder / ".hidden").touch()
    assert offered(f"\\i {folder}/o") == ["one.sql", "other/"]
    assert offered(f"\\i {folder}/") == ["one.sql", "other/"]
    assert offered(f"\\i {folder}/none/") == []


@pytest.mark.parametrize("end", range(41))
def test_completion_anywhere_in_a_text_never_fails(end: int) -> None:
    text = "SELECT 'a\"; \\x FROM pools p; SET k = 'v';"
    for facts in (FACTS, Facts()):
        candidates(text, end, facts)
        candidates(text[:end], end, facts)
