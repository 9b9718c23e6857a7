"""`pooler run`: the buildpack's variables as an ini, and the words and colours of the commands."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

from admin.platform.cli import table
from admin.platform.cli.psql import connection_environment
from admin.platform.cli.terminal import Terminal, colour_level, shown
from admin.platform.errors import PlatformError
from admin.platform.info import size
from admin.platform.running.buildpack import VARIABLES, enabled, plan
from admin.platform.running.supervision import Setup, Supervisor
from admin.platform.urls import parse_url
from pooler.config.whole import parse

URL = "postgres://u:s%27e%22same@db.example.com:5432/data"


def settings_of(environment: dict[str, str]) -> dict[str, str]:
    ini = plan(environment, 6000, "/nowhere/users.txt").ini
    lines = [line for line in ini.partition("[pgbouncer]\n")[2].splitlines() if line]
    return {name: value for name, _, value in (line.partition(" = ") for line in lines)}


def test_the_buildpacks_defaults() -> None:
    made = plan({"DATABASE_URL": URL}, 6000, "/nowhere/users.txt")
    assert made.variables == {
        "DATABASE_URL": "postgres://u:s%27e%22same@127.0.0.1:6000/db1",
        "DATABASE_URL_PGBOUNCER": "postgres://u:s%27e%22same@127.0.0.1:6000/db1",
    }
    assert made.userlist == '"u" "s\'e""same"\n'
    assert "db1 = host='db.example.com' port=5432 dbname='data'\n" in made.ini
    found = settings_of({"DATABASE_URL": URL})
    expected = {
        "listen_addr": "127.0.0.1", "listen_port": "6000", "auth_type": "scram-sha-256", "pool_mode": "transaction",
        "server_tls_sslmode": "require", "max_client_conn": "100", "default_pool_size": "1", "min_pool_size": "0",
        "reserve_pool_size": "1", "reserve_pool_timeout": "5.0", "server_lifetime": "3600", "query_wait_timeout": "120",
        "server_idle_timeout": "600", "max_prepared_statements": "0", "server_reset_query": "", "stats_period": "60",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert "sesame" not in repr(made)


@pytest.mark.parametrize(("variable", "setting", "_default"), VARIABLES)
def test_every_variable_reaches_its_setting(variable: str, setting: str, _default: str) -> None:
    assert settings_of({"DATABASE_URL": URL, variable: "7"})[setting] == "7"


def test_session_mode_resets() -> None:
    environment = {"DATABASE_URL": URL, "PGBOUNCER_POOL_MODE": "session"}
    assert settings_of(environment)["server_reset_query"] == "DISCARD ALL;"
    assert settings_of(environment | {"PGBOUNCER_SERVER_RESET_QUERY": ""})["server_reset_query"] == ""


def test_the_urls_own_sslmode_stands_unless_the_variable_speaks() -> None:
    environment = {"DATABASE_URL": f"{URL}?sslmode=verify-full&sslrootcert=%2Fca.pem"}
    assert settings_of(environment)["server_tls_sslmode"] == "verify-full"
    assert settings_of(environment)["server_tls_ca_file"] == "/ca.pem"
    assert settings_of(environment | {"PGBOUNCER_SERVER_TLS_SSLMODE": "prefer"})["server_tls_sslmode"] == "prefer"
    assert "dbname='data'\n" in plan(environment, 6000, "/nowhere").ini


def test_several_databases_and_one_user_with_two_passwords() -> None:
    environment = {
        "PGBOUNCER_URLS": "A_URL B_URL C_URL",
        "A_URL": "postgres://u:one@h1/a",
        "B_URL": "postgres://u:two@h2/b",
        "C_URL": "postgres://u:one@h3/c",
        "PGBOUNCER_PREPARED_STATEMENTS": "false",
    }
    made = plan(environment, 6001, "/nowhere")
    assert made.variables["A_URL"] == "postgres://u:one@127.0.0.1:6001/db1?prepared_statements=false"
    assert made.variables["B_URL"] == "postgres://u.db2:two@127.0.0.1:6001/db2?prepared_statements=false"
    assert made.userlist == '"u" "one"\n"u.db2" "two"\n'
    assert "db2 = host='h2' port=5432 dbname='b' user='u' password='two'" in made.ini
    assert "db3 = host='h3' port=5432 dbname='c'\n" in made.ini


def test_our_own_configuration_reads_it(tmp_path: object) -> None:
    users = f"{tmp_path}/users.txt"
    made = plan({"DATABASE_URL": "postgres://u:it's%20%23%3B%20100%25@h/da'ta"}, 6000, users)
    with open(users, "w", encoding="utf-8") as file:
        file.write(made.userlist)
    config = parse(made.ini)
    assert config.databases["db1"].dbname == "da'ta"
    assert config.databases["db1"].hosts == ("h",)
    assert config.settings.default_pool_size == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "DATABASE_URL is empty. Exiting..."),
        ({"DATABASE_URL": "sesame"}, "DATABASE_URL is not a valid PostgresSQL connection string. Exiting..."),
        (
            {"DATABASE_URL": "postgres://sesame@h/d"},
            "DATABASE_URL is not a valid PostgresSQL connection string. Exiting...",
        ),
        (
            {"DATABASE_URL": "postgres://u:se%0Asame@h/d"},
            "DATABASE_URL is not a valid PostgresSQL connection string. Exiting...",
        ),
        ({"PGBOUNCER_URLS": "X_URL"}, "X_URL is empty. Exiting..."),
        ({"PGBOUNCER_URLS": " "}, "PGBOUNCER_URLS is empty. Exiting..."),
        ({"DATABASE_URL": URL, "PGBOUNCER_POOL_MODE": "a\nb"}, "PGBOUNCER_POOL_MODE has a line break in it."),
    ],
)
def test_bad_environments(environment: dict[str, str], message: str) -> None:
    with pytest.raises(PlatformError) as caught:
        plan(environment, 6000, "/nowhere")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("value", "expected"), [(None, True), ("1", True), ("Yes", True), ("0", False), ("off", False)]
)
def test_enabled(value: str | None, expected: bool) -> None:
    assert enabled({} if value is None else {"PGBOUNCER_ENABLED": value}) is expected


@pytest.mark.parametrize(
    ("url", "caller", "mode"),
    [
        ("postgres://u:p@db.example.com/d", {}, "require"),
        ("postgres://u:p@127.0.0.1/d", {}, "prefer"),
        ("postgres://u:p@localhost/d?sslmode=require", {}, "require"),
        ("postgres://u:p@db.example.com/d", {"PGSSLMODE": "disable"}, "disable"),
    ],
)
def test_psql_requires_tls_away_from_home(url: str, caller: dict[str, str], mode: str) -> None:
    assert connection_environment(parse_url(url), caller, interactive=True)["PGSSLMODE"] == mode


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({"TERM": "xterm"}, 1), ({"TERM": "xterm-256color"}, 2), ({"TERM": "x", "COLORTERM": "truecolor"}, 3),
        ({"TERM": "dumb"}, 0), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, 0),
        ({"NO_COLOR": "1", "FORCE_COLOR": "2"}, 2),
        ({"FORCE_COLOR": "0"}, 0), ({"FORCE_COLOR": "x"}, 1),
    ],
)  # fmt: skip
def test_colours(environment: dict[str, str], level: int) -> None:
    assert colour_level(Screen(), environment) == level
    assert colour_level(io.StringIO(), {"TERM": "xterm-256color"}) == 0


def test_symbols_only_where_the_terminal_has_them() -> None:
    plain = Terminal(io.StringIO(), io.StringIO(), {})
    assert (plain.app("a"), plain.datastore("d")) == ("a", "d")
    rich = Terminal(Screen(), Screen(), {"TERM": "xterm-256color"})
    assert rich.app("a") == "\x1b[38;5;147m\u2b22 a\x1b[39m"
    assert rich.datastore("d") == "\x1b[38;5;185m\u26c1 d\x1b[39m"
    assert shown(rich.app("a")) == 3


def test_actions_and_errors_as_heroku_writes_them() -> None:
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(out, err, {})
    with terminal.action("Doing it"):
        pass
    with pytest.raises(ValueError, match="no"), terminal.action("Failing"):
        raise ValueError("no")
    terminal.fail("Couldn't find that app.", id="not_found")
    assert err.getvalue() == (
        "Doing it... done\nFailing... !\n"
        " \u203a   Error: Couldn't find that app.\n \u203a\n \u203a   Error ID: not_found\n"
    )
    assert out.getvalue() == ""


def test_a_table_as_heroku_draws_it() -> None:
    out = io.StringIO()
    Terminal(out, io.StringIO(), {}).table(
        ["Credential", "State"], [["default\n \u2514\u2500 as DATABASE\n", "active"]]
    )
    assert out.getvalue().splitlines() == [
        "  Credential        State",
        " " + "\u2500" * 26,
        "  default           active",
        "  \u2514\u2500 as DATABASE",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (41838182, "39.9 MB"),
        (64 << 30, "64 GB"),
        (3 << 39, "1.5 TB"),
        (1 << 60, "1024 PB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_every_command_has_its_function() -> None:
    from importlib import import_module

    for command in table.COMMANDS.values():
        module, _, name = command.function.partition(":")
        assert callable(getattr(import_module(f"admin.platform.cli.{module}"), name))


@pytest.mark.slow
def test_a_state_that_does_not_answer_keeps_nobody_when_the_app_has_ended() -> None:
    looking, released = threading.Event(), threading.Event()

    def look() -> Setup:
        if threading.current_thread() is not threading.main_thread():
            looking.set()
            released.wait(60)
        return Setup(1, {})

    try:
        wait_for_a_look = "import time; time.sleep(1)"
        supervisor = Supervisor([sys.executable, "-c", wait_for_a_look], look, False, 5.0, True, print)
        began = time.monotonic()
        assert supervisor.run() == 0
        assert looking.is_set()
        assert time.monotonic() - began < 20
    finally:
        released.set()
