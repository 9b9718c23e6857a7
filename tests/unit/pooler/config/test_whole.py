"""Config as a whole: ini text -> settings, databases, users, peers; SHOW CONFIG, SET and RELOAD."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config import databases as entries
from pooler.config.users import Users, parse_users
from pooler.config.whole import (
    OWN,
    SETTINGS,
    AuthType,
    Changes,
    Config,
    ConfigError,
    DatabaseConfig,
    OwnSettings,
    PoolMode,
    Problem,
    Secret,
    Settings,
    SslMode,
    UserConfig,
    changes,
    compose,
    config_rows,
    defaults,
    leads_elsewhere,
    load,
    own_rows,
    parse,
    tls_problems,
    with_setting,
    with_users,
)


def settings(text: str) -> Settings:
    return parse("[pgbouncer]\n" + text).settings


def log_lines(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "a.ini")
    return [line for problem in caught.value.problems for line in problem.log_lines]


def rows(config: Config) -> dict[str, tuple[str | None, str | None, str]]:
    return {key: (value, default, changeable) for key, value, default, changeable in config_rows(config)}


# ---- values of [pgbouncer]


@pytest.mark.parametrize(
    ("line", "value", "shown"),
    [
        ("default_pool_size = 5", 5, "5"),
        ("default_pool_size = 0x10", 16, "16"),
        ("max_client_conn = 010", 8, "8"),
        ("max_client_conn = +7", 7, "7"),
        ("unix_socket_mode = 0770", 0o770, "504"),
        ("max_packet_size = 4294967295", 2**32 - 1, "4294967295"),
        ("server_lifetime = 1.5", 1.5, "1.5"),
        ("server_lifetime = 7200", 7200.0, "7200"),
        ("server_lifetime = .25", 0.25, "0.25"),
        ("reserve_pool_timeout = 1e3", 1000.0, "1000"),
        ("client_idle_timeout = 1234567.25", 1234567.25, "1.23457e+06"),
        ("pool_mode = Transaction", PoolMode.transaction, "transaction"),
        ("auth_type = SCRAM-SHA-256", AuthType.scram_sha_256, "scram-sha-256"),
        ("client_tls_sslmode = verify-ca", SslMode.verify_ca, "verify-ca"),
        ("log_connections = 0", False, "0"),
        ("log_connections = 2", True, "2"),
        ("admin_users = a , b,,c ", ("a", "b", "c"), "a , b,,c"),
        ("listen_addr = *", ("*",), "*"),
        ("listen_addr =", (), ""),
        ("auth_user = x", "x", "x"),
        ("auth_user =", "", ""),
        ("logfile =", "", ""),
        ("server_reset_query = DISCARD ALL; -- x", "DISCARD ALL; -- x", "DISCARD ALL; -- x"),
        ("verbose = 2", 2, "2"),
        ("login_notify_message = hello", "hello", "hello"),
    ],
)
def test_setting(line: str, value: object, shown: str | None) -> None:
    key = line.split()[0]
    config = parse(f"[pgbouncer]\n{line}\n")
    assert getattr(config.settings, key) == value
    assert rows(config).get(key, (None,))[0] == shown


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("default_pool_size = abc", "an integer is needed"),
        ("default_pool_size =", "an integer is needed"),
        ("default_pool_size = 5 ; five", "an integer is needed"),
        ("default_pool_size = 08", "an integer is needed"),
        ("default_pool_size = 1_0", "an integer is needed"),
        ("default_pool_size = ٣", "an integer is needed"),
        ("default_pool_size = 5s", "an integer is needed"),
        ("listen_port = -1", "must be from 0 to 65535"),
        ("tcp_keepidle = 70000", "must be from 0 to 32767"),
        ("server_lifetime = -1", "a number of seconds is needed"),
        ("server_lifetime = 5s", "a number of seconds is needed"),
        ("server_lifetime = 1e999", "a number of seconds is needed"),
        ("pool_mode = foo", "must be one of session, transaction, statement"),
        ("log_connections = no", "an integer is needed"),
    ],
)
def test_bad_setting(line: str, why: str) -> None:
    key, _, value = line.partition(" =")
    with pytest.raises(ConfigError) as caught:
        parse(f"[pgbouncer]\n\n{line}\n", "a.ini")
    (problem,) = caught.value.problems
    said = f'invalid value "{value.strip()}" for parameter {key}'
    assert str(problem) == f"a.ini:3: {said}: {why}"
    assert problem.log_lines == (f"{said} in configuration (a.ini:3)",)


@pytest.mark.parametrize(
    ("line", "value", "shown", "understood"),
    [
        ("default_pool_size = -5", 0, "-5", "0"),
        ("default_pool_size = 99999999999", 1215752191, "1215752191", "1215752191"),
        ("max_client_conn = 2147483648", 0, "-2147483648", "0"),
        ("max_client_conn = 4294967296", 0, "0", "0"),
        ("max_prepared_statements = -1", 1, "-1", "1"),
        ("listen_port = 70000", 4464, "70000", "4464"),
        ("listen_backlog = -1", 2**31 - 1, "-1", "2147483647"),
        ("peer_id = 65536", 0, "65536", "0"),
        ("scram_iterations = 0", 4096, "0", "4096"),
        ("stats_period = 0", 1, "0", "1"),
        ("pkt_buf = -1", 0, "-1", "0"),
        ("unix_socket_mode = 99999", 99999 & 0o7777, "99999", "1695"),
        ("max_packet_size = -1", 2**32 - 1, "4294967295", "4294967295"),
        ("server_lifetime = inf", 0.0, "0", "0"),
        ("server_lifetime = nan", 1e9, "9.22337e+12", "9.22337e+12"),
        ("server_lifetime = 1e11", 1e9, "1e+11", None),
        ("server_lifetime = 0x10", 16.0, "16", None),
        ("server_lifetime = 08", 8.0, "8", None),
        ("log_connections = -1", True, "-1", None),
    ],
)
def test_what_pgbouncer_starts_with_is_read_as_there_and_said(
    line: str, value: object, shown: str, understood: str | None
) -> None:
    """PgBouncer 1.26.1, run: it starts with each, and SHOW CONFIG says the same."""
    key, _, text = line.partition(" = ")
    config = parse(f"[pgbouncer]\n{line}\n", "a.ini")
    assert (getattr(config.settings, key), rows(config)[key][0]) == (value, shown)
    said = [f"a.ini:2: {line} is understood as {understood}"] if understood else []
    assert [str(warning) for warning in config.warnings] == said
    if not SETTINGS[key].live:
        return
    changed = with_setting(defaults(), key, text)
    assert getattr(changed.settings, key) == value
    assert [str(warning) for warning in changed.warnings] == [line.partition(": ")[2] for line in said]


@pytest.mark.parametrize(
    "line", ["sbuf_loopcnt = 7", "resolv_conf = /etc/x", "dns_zone_check_period = 9", "pkt_buf = 1"]
)
def test_what_has_no_effect_is_said(line: str) -> None:
    key, _, value = line.partition(" = ")
    (warning,) = parse(f"[pgbouncer]\n{line}\n", "a.ini").warnings
    assert str(warning).startswith(f"a.ini:2: {key} has no effect: ")
    assert parse(f"[pgbouncer]\n{key} = {SETTINGS[key].default}\n").warnings == ()
    if SETTINGS[key].live:
        assert [str(w) for w in with_setting(defaults(), key, value).warnings] == [str(warning).partition(": ")[2]]


def test_what_is_understood_of_an_entry_is_said_with_its_place() -> None:
    text = "[databases]\na = port=70000 pool_size=5s\n[users]\nu = query_timeout=1.9\n[pgbouncer]\n"
    assert [str(warning) for warning in parse(text, "a.ini").warnings] == [
        "a.ini:2: a: port = 70000 is understood as 4464 over TCP",
        "a.ini:2: a: pool_size = 5s is understood as 5",
        "a.ini:4: u: query_timeout = 1.9 is understood as 1",
    ]


def test_the_admin_database_is_no_place_for_auth_query() -> None:
    """As an entry's it starts: that entry's unknown users are refused later."""
    said = 'cannot use the reserved "pgbouncer" database as an auth_dbname'
    with pytest.raises(ConfigError) as caught:
        parse("[pgbouncer]\nauth_dbname = pgbouncer\n", "a.ini")
    (problem,) = caught.value.problems
    assert problem.log_lines == (
        said,
        'invalid value "pgbouncer" for parameter auth_dbname in configuration (a.ini:2)',
    )
    config = parse("[databases]\na = auth_dbname=pgbouncer\n[pgbouncer]\n", "a.ini")
    assert [str(warning) for warning in config.warnings] == [
        f"a.ini:2: a: {said}: users of a who are not in auth_file cannot log in"
    ]


@pytest.mark.parametrize("word", ["peer", "reject"])
def test_methods_of_hba_alone(word: str) -> None:
    assert log_lines(f"[pgbouncer]\nauth_type={word}\n")


def test_last_value_of_a_repeated_key_counts() -> None:
    assert settings("default_pool_size=5\ndefault_pool_size=6\n").default_pool_size == 6


def test_section_that_begins_again_is_filled_with_defaults() -> None:
    """PgBouncer 1.18, run: what has a default is lost, what has none (NULL) stays."""
    config = parse(
        "[pgbouncer]\ndefault_pool_size=5\nauth_user=u\n[databases]\na=\n[pgbouncer]\npool_mode=statement\n"
    )
    assert config.settings == Settings(auth_user="u", pool_mode=PoolMode.statement)
    (warning,) = config.warnings
    assert (warning.line, warning.level) == (6, "WARNING")
    assert "default_pool_size" in warning.message


def test_databases_of_both_sections_count() -> None:
    config = parse("[databases]\na=host=x port=1\nb=\n[pgbouncer]\n[databases]\nc=\na=port=2\n")
    assert set(config.databases) == {"a", "b", "c"}
    assert config.databases["a"] == DatabaseConfig("a", port=2)


def test_all_problems_are_listed() -> None:
    assert log_lines(
        "x=1\n[pgbouncer]\nfoo=1\nlisten_port=a\n!\n[pools]\ny=1\n[databases]\na=port=x pool_mode=y z=1\n"
        "pgbouncer=\n[users]\nu=pool_mode=z\n"
    ) == [
        "syntax error in configuration (a.ini:5), stopping loading",
        "load_init_file: value without section: x",
        'invalid value "1" for parameter x in configuration (a.ini:1)',
        "unknown parameter: pgbouncer/foo (a.ini:3)",
        'invalid value "a" for parameter listen_port in configuration (a.ini:4)',
        'invalid section "pools" in configuration (a.ini:6)',
        "invalid port: x (a.ini:9)",
        "invalid pool mode: y (a.ini:9)",
        "unrecognized connection parameter: z (a.ini:9)",
        'database name "pgbouncer" is reserved',
        'invalid value "" for parameter pgbouncer in configuration (a.ini:10)',
        "invalid pool mode: z",
        'invalid value "pool_mode=z" for parameter u in configuration (a.ini:12)',
    ]


def test_main_section_is_needed() -> None:
    assert log_lines("[databases]\na=\n") == ["load_init_file: main section missing from config file"]


# ---- what is made of the sections


def test_database_names() -> None:
    config = parse('[pgbouncer]\n[databases]\n"my db" = host=x\na.b-c = host=y\n')
    assert set(config.databases) == {"my db", "a.b-c"}


def test_fallback_stands_in_for_databases_without_an_entry() -> None:
    config = parse("[pgbouncer]\n[databases]\na=host=x\n*=host=y pool_size=3\n")
    assert set(config.databases) == {"a"}
    assert config.find_database("a") == DatabaseConfig("a", ("x",))
    assert config.find_database("b") == DatabaseConfig("b", ("y",), pool_size=3, auto=True)
    assert config.find_database("pgbouncer") is None
    # Names that no entry can have, in bytes; PgBouncer refuses them as well.
    assert config.find_database("d" * 63) is not None
    assert config.find_database("d" * 64) is None
    assert config.find_database("é" * 32) is None
    assert defaults().find_database("a") is None


URLS = "https://ann:geheim@h/x"


def test_no_password_shows_in_settings() -> None:
    config = parse(
        "[pgbouncer]\nauth_ldap_options = ldapurl=x ldapbindpasswd=geheim\n"
        f"[pooler]\nmetrics={URLS}\nstate=postgres://ann:geheim@h/d\n"
    )
    assert config.own.metrics == (URLS,)
    assert "geheim" not in f"{config} {config_rows(config)} {own_rows(config)}"
    assert rows(config)["auth_ldap_options"][0] == "ldapurl=x ldapbindpasswd=****"
    for text in (f"[pooler]\nmetrics = {URLS},x://", f"[pgbouncer]\nlog_drain = {URLS}"):
        assert "geheim" not in " ".join(log_lines(text))


def test_own_rows() -> None:
    config = with_setting(compose(own={"http": "[::1]:90"}), "metrics_extra", "on")
    shown = {row.key: row[1:] for row in own_rows(config)}
    assert shown["http"] == ("[::1]:90", "", "no")
    assert shown["metrics_extra"] == ("yes", "no", "yes")


@pytest.mark.parametrize("value", ["password=geheim x=1", "x=1 password = 'geheim", "password='geheim'y"])
def test_no_password_shows_in_a_problem(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[pgbouncer]\n[databases]\na = {value}\n", "a.ini")
    lines = [line for problem in caught.value.problems for line in problem.log_lines]
    assert "geheim" not in " ".join([str(caught.value), repr(caught.value.problems), *lines])


# ---- SHOW CONFIG


def test_rows_are_pgbouncers() -> None:
    shown = config_rows(defaults())
    keys = [row.key for row in shown]
    assert keys == sorted(keys)
    assert len(keys) == 99
    assert {"suspend_timeout", "service_name", "http"}.isdisjoint(keys)
    assert {row.changeable for row in shown} == {"yes", "no"}


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("auth_type", ("md5", "md5", "yes")),
        ("auth_file", (None, None, "yes")),
        ("conffile", (None, None, "yes")),
        ("verbose", ("0", None, "yes")),
        ("unix_socket_mode", ("511", "0777", "no")),
        ("server_check_query", ("<empty>", "<empty>", "yes")),
        ("server_lifetime", ("3600", "3600", "yes")),
        ("client_tls_ca_file", ("", "", "yes")),
        ("listen_port", ("6432", "6432", "no")),
        ("track_extra_parameters", ("", "", "no")),
        ("tcp_defer_accept", ("1", "1", "yes")),
    ],
)
def test_default_rows(key: str, row: tuple[str | None, str | None, str]) -> None:
    assert rows(defaults())[key] == row


def test_row_of_a_value_set_by_program() -> None:
    config = compose({"admin_users": "a, b"})
    assert rows(config)["admin_users"][0] == "a, b"
    settings = dataclasses.replace(
        config.settings, admin_users=("c", "d"), log_stats=False, server_lifetime=2.5
    )
    changed = rows(dataclasses.replace(config, settings=settings))
    assert (changed["admin_users"][0], changed["log_stats"][0], changed["server_lifetime"][0]) == (
        "c,d",
        "0",
        "2.5",
    )


def test_a_key_is_in_one_table() -> None:
    assert SETTINGS.keys().isdisjoint(OWN)


@pytest.mark.parametrize("table", [SETTINGS, OWN])
def test_table_is_sound(table: dict[str, object]) -> None:
    values: Settings | OwnSettings = Settings() if table is SETTINGS else OwnSettings()
    for key, row in SETTINGS.items() if table is SETTINGS else OWN.items():
        assert row.key == key
        assert row.help.endswith(".")
        if row.default is not None:
            assert row.kind.parse(row.default) == getattr(values, key)
            assert (
                row.kind.parse(row.kind.normal(row.default)) == getattr(values, key)
                or key == "unix_socket_mode"
            )


# ---- SET


def test_set_changes_one_value() -> None:
    config = with_setting(defaults(), "server_lifetime", "1.5")
    assert config.settings == Settings(server_lifetime=1.5)
    assert rows(config)["server_lifetime"] == ("1.5", "3600", "yes")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("foo", "1", "unknown parameter: pgbouncer/foo"),
        ("DEFAULT_POOL_SIZE", "1", "unknown parameter: pgbouncer/DEFAULT_POOL_SIZE: did you mean default_pool_size?"),
        ("http", ":1", "http cannot be changed without a restart"),
        ("listen_port", "1", "listen_port cannot be changed without a restart"),
        (
            "pool_mode",
            "x",
            'invalid value "x" for parameter pool_mode: must be one of session, transaction, statement',
        ),
        ("auth_dbname", "pgbouncer", 'cannot use the reserved "pgbouncer" database as an auth_dbname'),
    ],
)
def test_bad_set(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
        with_setting(defaults(), key, value)


def test_set_of_a_file_reads_it(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text('"a" "b"\n')
    config = with_setting(defaults(), "auth_file", str(users))
    assert set(config.secrets) == {"a"}
    missing = with_setting(config, "auth_file", str(tmp_path / "none"))
    assert set(missing.secrets) == {"a"}
    assert "could not open auth_file" in missing.warnings[0].message
    hba = tmp_path / "hba"
    hba.write_text("local all all trust\n")
    config = with_setting(with_setting(config, "auth_hba_file", str(hba)), "auth_type", "hba")
    assert len(config.hba.rules) == 1


# ---- files


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ini").write_text("[pgbouncer]\nauth_file = users\n%include b.ini\n")
    Path("b.ini").write_text(
        "auth_type = hba\nauth_hba_file = hba\nauth_ident_file = ident\n[databases]\nx =\n"
    )
    Path("users").write_text('"a" "b"\nbroken\n')
    Path("hba").write_text("local all all peer map=m\nbroken\n")
    Path("ident").write_text("m a b\n")
    config = load("a.ini")
    assert (config.path, config.settings.conffile) == ("a.ini", "a.ini")
    assert rows(config)["conffile"][0] == "a.ini"
    assert config.secrets == {"a": Secret("a", "b")}
    assert [rule.map for rule in config.hba.rules] == ["m"]
    assert [p.message for p in config.warnings] == [
        "broken auth file",
        "hba line 2: unknown type",
        "could not parse hba config line 2",
    ]


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(str(tmp_path / "none.ini"))


def test_reload_keeps_users_and_rules_whose_files_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ini").write_text("[pgbouncer]\nauth_file=users\nauth_type=hba\nauth_hba_file=hba\n")
    Path("users").write_text('"a" "b"\n')
    Path("hba").write_text("local all all trust\n")
    old = load("a.ini")
    Path("users").unlink()
    Path("hba").unlink()
    new = load("a.ini", old)
    assert (new.secrets, new.hba.rules) == (old.secrets, old.hba.rules)
    assert len(new.warnings) == 2
    assert not load("a.ini").secrets


def test_pam_needs_no_auth_file() -> None:
    config = parse("[pgbouncer]\nauth_type=pam\nauth_file=/nowhere/users\n")
    assert not config.warnings


def test_users_of_a_changed_file() -> None:
    config = with_users(defaults(), parse_users('"a" "b"'))
    assert set(config.secrets) == {"a"}
    assert set(with_users(config, Users({}, readable=False)).secrets) == {"a"}


# ---- RELOAD


def test_reload_takes_live_settings_and_keeps_the_others() -> None:
    old = parse("[pgbouncer]\nlisten_port=1\npool_mode=session\n[pooler]\nhttp=:80\n")
    new = parse(
        "[pgbouncer]\nlisten_port=2\npool_mode=statement\nunix_socket_dir=\n[pooler]\nmetrics_period=5\n"
    )
    found = changes(old, new)
    assert found.settings == {"pool_mode"}
    assert found.own == {"metrics_period"}
    assert found.restart == {"listen_port", "unix_socket_dir", "http"}
    assert found.config.settings == Settings(listen_port=1, pool_mode=PoolMode.statement)
    assert found.config.own == OwnSettings(http=("127.0.0.1", 80), metrics_period=5)
    assert rows(found.config)["listen_port"][0] == "1"
    assert rows(found.config)["unix_socket_dir"][0] == "/tmp"
    assert [warning.split()[0] for warning in found.warnings] == ["http", "listen_port", "unix_socket_dir"]


def test_reload_tells_databases_users_and_peers_apart() -> None:
    old = parse(
        "[pgbouncer]\n[databases]\na=\nb=host=x\nc=\ne=\n*=\n[users]\nu=pool_size=1\nv=\n[peers]\n1=host=x\n"
    )
    new = parse(
        "[pgbouncer]\n[databases]\na=\nb=host=y\nd=\ne=pool_size=2\n[users]\nu=pool_size=2\n[peers]\n2=host=x\n"
    )
    found = changes(old, new)
    assert found.added == {"d"}
    assert found.changed == {"b", "e"}
    assert found.removed == {"c", "*"}
    assert leads_elsewhere(old.databases["b"], new.databases["b"])
    assert not leads_elsewhere(old.databases["e"], new.databases["e"])
    assert found.users == {"u", "v"}
    assert found.peers == {1, 2}
    assert not found.hba


def test_reload_tells_changed_secrets_and_rules(tmp_path: Path) -> None:
    hba = tmp_path / "hba"
    hba.write_text("local all all trust\n")
    text = {"auth_type": "hba", "auth_hba_file": str(hba)}
    old = compose(text, secrets=[Secret("a", "1"), Secret("b", "1")])
    hba.write_text("local all all reject\n")
    found = changes(old, compose(text, secrets=[Secret("a", "1"), Secret("b", "2"), Secret("c", "1")]))
    assert found.secrets == {"b", "c"}
    assert found.hba


def test_nothing_changed() -> None:
    config = parse("[pgbouncer]\npool_mode=statement\n[databases]\na=\n*=\n")
    assert changes(config, config) == Changes(config)


# ---- without a file


def test_compose() -> None:
    config = compose(
        {"listen_port": "5433", "pool_mode": "transaction"},
        [DatabaseConfig("a", ("h",), password="p"), DatabaseConfig("*", ("h",))],
        own={"http": "localhost:9000"},
        users=[UserConfig("u", pool_size=2)],
        secrets=[Secret("u", "s")],
    )
    assert config.settings == Settings(listen_port=5433, pool_mode=PoolMode.transaction)
    assert config.own.http == ("localhost", 9000)
    assert set(config.databases) == {"a"}
    assert config.fallback == DatabaseConfig("*", ("h",))
    assert (set(config.users), set(config.secrets), config.path) == ({"u"}, {"u"}, None)


def test_compose_checks_what_it_is_given() -> None:
    with pytest.raises(ConfigError) as caught:
        compose({"listen_port": "x", "foo": "1"}, [DatabaseConfig("pgbouncer")], own={"http": "nope"})
    assert len(caught.value.problems) == 4
    assert (
        str(caught.value.problems[0]) == 'invalid value "x" for parameter listen_port: an integer is needed'
    )


def test_config_cannot_be_written_to() -> None:
    config = parse("[pgbouncer]\n[databases]\na=\n")
    with pytest.raises(TypeError):
        config.databases["b"] = DatabaseConfig("b")  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.settings.listen_port = 1  # type: ignore[misc]


# ---- [pooler]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("http =", None),
        ("http = :9000", ("127.0.0.1", 9000)),
        ("http = 0.0.0.0:9000", ("0.0.0.0", 9000)),
        ("http = [::1]:9000", ("::1", 9000)),
        ("metrics_period = 0.5", 0.5),
        ("metrics_extra = ON", True),
        ("metrics_extra = false", False),
        ("metrics = syslog+tls://h:6514, https://u:p@h/x", ("syslog+tls://h:6514", "https://u:p@h/x")),
        ("metrics = stdout,/var/log/m.log", ("stdout", "/var/log/m.log")),
        ("state = postgres://h/db", "postgres://h/db"),
    ],
)
def test_own_setting(line: str, value: object) -> None:
    config = parse(f"[pgbouncer]\n[pooler]\n{line}\n")
    assert getattr(config.own, line.split()[0]) == value


BAD_OWN = """\
http = x
http = h:x
http = h:70000
metrics_extra = maybe
metrics = ftp://h
metrics = https://
metrics = syslog://h:99999
metrics = https://[
metrics_period = x
"""


@pytest.mark.parametrize("line", BAD_OWN.splitlines())
def test_bad_own_setting(line: str) -> None:
    assert len(log_lines(f"[pgbouncer]\n[pooler]\n{line}\n")) == 1


# ---- TLS


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, ()),
        ({"client_tls_sslmode": SslMode.require}, ("To allow TLS",)),
        (
            {"client_tls_sslmode": SslMode.require, "client_tls_key_file": "k", "client_tls_cert_file": "c"},
            (),
        ),
        ({"client_tls_sslmode": SslMode.verify_full}, ("To allow TLS", "client_tls_sslmode requires")),
        (
            {"auth_type": AuthType.cert},
            ("auth_type=cert requires client_tls_ssl", "auth_type=cert requires client_tls_ca"),
        ),
    ],
)
def test_tls_problems(given: dict[str, object], start: tuple[str, ...]) -> None:
    found = tls_problems(dataclasses.replace(Settings(), **given))  # type: ignore[arg-type]
    assert len(found) == len(start)
    assert all(problem.startswith(word) for problem, word in zip(found, start, strict=True))


# ---- any text at all

KEYS = [*SETTINGS, *OWN, *entries.KEYS[DatabaseConfig], *entries.KEYS[UserConfig], "1", "*", "a"]
VALUES = [
    "",
    "1",
    "-1",
    "0x",
    "1e9",
    "1.5",
    "a",
    "a=b",
    "host=x",
    "port=1",
    "'",
    "''",
    "require",
    "trust",
    "hba",
    "a,b",
]
LINE = st.one_of(
    st.sampled_from(
        ["[pgbouncer]", "[databases]", "[users]", "[peers]", "[pooler]", "[x]", "[", ";", "%include x"]
    ),
    st.builds("{} = {}".format, st.sampled_from(KEYS), st.sampled_from(VALUES) | st.text(max_size=10)),
    st.text(max_size=10),
)


def outcome(make: Callable[[], Config]) -> Config | tuple[Problem, ...]:
    try:
        return make()
    except ConfigError as error:
        return error.problems


@given(st.lists(LINE, max_size=20).map("\n".join))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    found = outcome(lambda: parse("[pgbouncer]\n" + text))
    if isinstance(found, Config):
        config_rows(found)
        assert not changes(found, found).settings
    else:
        assert found
        assert all(line for problem in found for line in problem.log_lines)


@given(st.sampled_from(list(SETTINGS)), st.sampled_from(VALUES) | st.text(max_size=10))
def test_any_set_is_a_config_or_a_config_error(key: str, value: str) -> None:
    found = outcome(lambda: with_setting(defaults(), key, value))
    if isinstance(found, Config):
        assert SETTINGS[key].live
        config_rows(found)
    else:
        assert len(found) == 1
