"""The client-side way: heroku-buildpack-pgbouncer's variables and defaults, as an ini file and a userlist for
a private pooler.

Pure: an environment goes in, texts come out. Differences from the buildpack, all on purpose: a URL's query
does not end up in the database's name, its sslmode and sslrootcert are honoured, and two databases may share
a user name with different passwords.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from admin.platform.errors import PlatformError, invalid
from admin.platform.urls import DatabaseUrl, parse_url

HOST = "127.0.0.1"
PORT = 6000
"""Where the buildpack's pooler listens."""

TRUE = ("1", "true", "yes", "on")

VARIABLES: tuple[tuple[str, str, str], ...] = (
    ("PGBOUNCER_AUTH_TYPE", "auth_type", "scram-sha-256"),
    ("PGBOUNCER_POOL_MODE", "pool_mode", "transaction"),
    ("PGBOUNCER_MAX_PREPARED_STATEMENTS", "max_prepared_statements", "0"),
    ("PGBOUNCER_MAX_CLIENT_CONN", "max_client_conn", "100"),
    ("PGBOUNCER_DEFAULT_POOL_SIZE", "default_pool_size", "1"),
    ("PGBOUNCER_MIN_POOL_SIZE", "min_pool_size", "0"),
    ("PGBOUNCER_RESERVE_POOL_SIZE", "reserve_pool_size", "1"),
    ("PGBOUNCER_RESERVE_POOL_TIMEOUT", "reserve_pool_timeout", "5.0"),
    ("PGBOUNCER_SERVER_LIFETIME", "server_lifetime", "3600"),
    ("PGBOUNCER_SERVER_IDLE_TIMEOUT", "server_idle_timeout", "600"),
    ("PGBOUNCER_LOG_CONNECTIONS", "log_connections", "1"),
    ("PGBOUNCER_LOG_DISCONNECTIONS", "log_disconnections", "1"),
    ("PGBOUNCER_LOG_POOLER_ERRORS", "log_pooler_errors", "1"),
    ("PGBOUNCER_STATS_PERIOD", "stats_period", "60"),
    ("PGBOUNCER_IGNORE_STARTUP_PARAMETERS", "ignore_startup_parameters", ""),
    ("PGBOUNCER_QUERY_WAIT_TIMEOUT", "query_wait_timeout", "120"),
)
"""Variable, setting, the buildpack's default. Three more depend on something else: see `_settings`."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """One URL variable: where it points, and whom clients log in as at the private pooler."""

    variable: str
    name: str
    url: DatabaseUrl
    client: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write and what to tell the app. `ini` names the userlist by `auth_file`, which the writer puts
    beside it."""

    ini: str = field(repr=False)
    userlist: str = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    servers: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Host and port of each database, and the variable that names it."""
    sslmode: str = ""
    """How they are spoken to."""


def enabled(environment: Mapping[str, str]) -> bool:
    return environment.get("PGBOUNCER_ENABLED", "1").strip().lower() in TRUE


def plan(environment: Mapping[str, str], port: int, auth_file: str) -> Plan:
    """The private pooler for this environment; PlatformError when a URL is missing or none."""
    pooled = _pooled(environment)
    suffix = "?prepared_statements=false" if _is_off(environment.get("PGBOUNCER_PREPARED_STATEMENTS")) else ""
    variables: dict[str, str] = {}
    for item in pooled:
        place = DatabaseUrl(item.client, item.url.password, HOST, port, item.name).text() + suffix
        variables[item.variable] = variables[f"{item.variable}_PGBOUNCER"] = place
    settings = _settings(environment, pooled, port, auth_file)
    lines = ["[databases]", *(_database(item) for item in pooled), "", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    users = {item.client: item.url.password for item in pooled}
    servers = {(item.url.host, item.url.port): item.variable for item in pooled}
    userlist = "".join(_user(*user) for user in users.items())
    return Plan("\n".join(lines) + "\n", userlist, variables, servers, settings["server_tls_sslmode"])


def _is_off(value: str | None) -> bool:
    return value is not None and value.strip().lower() in ("0", "false", "no", "off")


def _pooled(environment: Mapping[str, str]) -> list[Pooled]:
    names = environment.get("PGBOUNCER_URLS", "DATABASE_URL").split()
    if not names:
        raise invalid("PGBOUNCER_URLS is empty. Exiting...")
    found: list[Pooled] = []
    for index, variable in enumerate(names, 1):
        url = _url(variable, environment.get(variable, ""))
        clash = any(other.client == url.user and other.url.password != url.password for other in found)
        found.append(Pooled(variable, f"db{index}", url, f"{url.user}.db{index}" if clash else url.user))
    return found


def _url(variable: str, text: str) -> DatabaseUrl:
    if not text:
        raise invalid(f"{variable} is empty. Exiting...")
    try:
        url = parse_url(text)
    except PlatformError:
        url = None
    if url is None or not url.password or any(mark in f"{url.user}{url.password}{url.dbname}" for mark in "\r\n"):
        raise invalid(f"{variable} is not a valid PostgresSQL connection string. Exiting...")
    return url


def _settings(environment: Mapping[str, str], pooled: list[Pooled], port: int, auth_file: str) -> dict[str, str]:
    settings = {"listen_addr": HOST, "listen_port": str(port), "unix_socket_dir": "", "auth_file": auth_file}
    for variable, name, default in VARIABLES:
        settings[name] = _one_line(variable, environment.get(variable, default))
    reset = "DISCARD ALL;" if settings["pool_mode"] == "session" else ""
    settings["server_reset_query"] = _one_line(
        "PGBOUNCER_SERVER_RESET_QUERY", environment.get("PGBOUNCER_SERVER_RESET_QUERY", reset)
    )
    mode = environment.get("PGBOUNCER_SERVER_TLS_SSLMODE") or _shared(pooled, "sslmode") or "require"
    settings["server_tls_sslmode"] = _one_line("PGBOUNCER_SERVER_TLS_SSLMODE", mode)
    settings["server_tls_protocols"] = "secure"
    if authority := _shared(pooled, "sslrootcert"):
        settings["server_tls_ca_file"] = authority
    return settings


def _shared(pooled: list[Pooled], option: str) -> str | None:
    """What all URLs say of an option, when they say the same: the setting holds for all databases."""
    found = {item.url.option(option) for item in pooled}
    return found.pop() if len(found) == 1 else None


def _one_line(variable: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise invalid(f"{variable} has a line break in it.")
    return value


def _quoted(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _database(item: Pooled) -> str:
    url = item.url
    line = f"{item.name} = host={_quoted(url.host)} port={url.port} dbname={_quoted(url.dbname)}"
    if item.client != url.user:
        line += f" user={_quoted(url.user)} password={_quoted(url.password)}"
    return line


def _user(name: str, password: str) -> str:
    return " ".join('"' + text.replace('"', '""') + '"' for text in (name, password)) + "\n"
