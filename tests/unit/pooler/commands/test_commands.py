"""The command table: PgBouncer's grammar, its refusals, and rights that nobody can forget to check."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin import commands, views
from admin.commands import BY_NAME, COMMANDS, Request, Takes, parse, permit, usage
from pooler.verbs import CommandError, Verb


def parsed(text: str) -> tuple[str, str | None, str | None] | None:
    request = parse(text)
    return None if request is None else (request.command.name, request.argument, request.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SHOW POOLS", ("SHOW POOLS", None, None)),
        ("  show\tpools ; ", ("SHOW POOLS", None, None)),
        ("select Pools;", ("SHOW POOLS", None, None)),
        ('show "pools"', ("SHOW POOLS", None, None)),
        ("reload", ("RELOAD", None, None)),
        ("pause", ("PAUSE", None, None)),
        ("PAUSE Shop", ("PAUSE", "Shop", None)),
        ('kill "we ""love"" it"', ("KILL", 'we "love" it', None)),
        ("kill_client 12", ("KILL_CLIENT", "12", None)),
        ("shutdown", ("SHUTDOWN", None, None)),
        ("shutdown wait_for_clients;", ("SHUTDOWN", "WAIT_FOR_CLIENTS", None)),
        ("set max_client_conn=7", ("SET", "max_client_conn", "7")),
        ("SET pool_mode TO session;", ("SET", "pool_mode", "session")),
        ("set server_check_query = 'select ''x''; -- y'", ("SET", "server_check_query", "select 'x'; -- y")),
        ("set server_reset_query = ''", ("SET", "server_reset_query", "")),
        ("set auth_type = scram-sha-256", ("SET", "auth_type", "scram-sha-256")),
        ("set query_timeout to 0.5", ("SET", "query_timeout", "0.5")),
        ("set default_pool_size to'9'", ("SET", "default_pool_size", "9")),
    ],
)
def test_commands_are_read_as_pgbouncer_reads_them(text: str, expected: tuple[str, str, str]) -> None:
    assert parsed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", ";", "show", "select", "show pools where", "show foo", "select 1", "begin", "reload now",
        "suspend x",
        "shutdown soon", "set", "set x", "set = 5", "set x 5", "pause a b", "pause a; pause b",
        "show pools; x",
        "pau se", "set max_client_conn = 5 6", "show 'pools'",
    ],
)  # fmt: skip
def test_what_is_no_command_of_the_table_is_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    ["abcdefghijklmnop", "pause " + "x" * 64, f"set {'k' * 64} = 1", f"set key = '{'v' * 256}'",
    'show "' + "é" * 32 + '"'],
)  # fmt: skip
def test_words_have_a_longest_length_in_bytes(text: str) -> None:
    with pytest.raises(CommandError, match="bad arguments"):
        parse(text)


def test_an_argument_of_the_longest_length_is_fine() -> None:
    assert parsed(f"set {'k' * 63} = '{'v' * 255}'") == ("SET", "k" * 63, "v" * 255)


def request(name: str) -> Request:
    arguments = {Takes.DATABASE: "shop", Takes.CLIENT: "5", Takes.SETTING: "verbose"}
    return Request(BY_NAME[name], arguments.get(BY_NAME[name].takes), "1" if name == "SET" else None)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_an_admin_may_everything(name: str) -> None:
    wanted = request(name)
    assert permit(wanted, "admin") == Verb(name, wanted.argument, wanted.value)


READING = {f"SHOW {view.name}" for view in views.VIEWS} - {"SHOW FDS"} | {"SHOW HELP"}


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_stats_user_may_look_and_nothing_else(name: str) -> None:
    """CVE-2026-6667 was one handler of twelve that forgot to ask."""
    if name in READING:
        assert permit(request(name), "stats") == Verb(name)
    else:
        with pytest.raises(CommandError, match="admin access needed"):
            permit(request(name), "stats")


def test_rights_are_refused_before_the_argument_is_looked_at() -> None:
    with pytest.raises(CommandError, match="admin access needed"):
        permit(Request(BY_NAME["KILL_CLIENT"], "nonsense"), "stats")


@pytest.mark.parametrize(
    ("name", "word"),
    [("PAUSE", "pause"), ("DISABLE", "disable"), ("ENABLE", "enable"), ("RECONNECT", "reconnect"),
     ("WAIT_CLOSE", "wait in"), ("KILL", "kill")],
)  # fmt: skip
def test_the_admin_database_itself_is_left_alone(name: str, word: str) -> None:
    with pytest.raises(CommandError, match=f"cannot {word} admin db: pgbouncer"):
        permit(Request(BY_NAME[name], "pgbouncer"), "admin")


@pytest.mark.parametrize("name", ["DISABLE", "ENABLE"])
def test_some_commands_need_a_database(name: str) -> None:
    with pytest.raises(CommandError, match="a database is required"):
        permit(Request(BY_NAME[name]), "admin")


@pytest.mark.parametrize("id", [None, "x", "0x12", "-1", "1a", "\N{SUPERSCRIPT TWO}", ""])
def test_kill_client_wants_a_number(id: str | None) -> None:
    with pytest.raises(CommandError, match="invalid client pointer supplied"):
        permit(Request(BY_NAME["KILL_CLIENT"], id), "admin")


def test_every_view_has_a_command_and_the_other_way_round() -> None:
    shown = {command.view for command in COMMANDS if command.view} - {"HELP"}
    assert shown == {view.name for view in views.VIEWS}


def test_the_help_names_every_command() -> None:
    words = usage().replace("|", " ").split()
    assert all((command.view or command.name) in words for command in COMMANDS)


def test_an_invalid_command_is_quoted_as_it_came() -> None:
    assert commands.invalid("foo;").message == "invalid command 'foo;', use SHOW HELP;"


@given(st.text() | st.from_regex(r"(?i)(set|show|pause|kill_client)\s+[\"'a-z0-9_]*\s*=?\s*['a-z]*;?"))
def test_any_text_is_a_request_nothing_or_refused(text: str) -> None:
    with contextlib.suppress(CommandError):
        found = parse(text)
        assert found is None or found.command in COMMANDS
