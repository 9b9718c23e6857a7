"""What a database itself says: does it answer, how large it is, how many are connected; and the roles made in
it for credentials.

Every function opens one short connection of its own with a deadline and closes it. Nothing is cached, nothing
is written to the state. Failures are `Unreachable`, whose text names host, port and the server's reason,
never a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from admin.platform.errors import PlatformError, unavailable
from admin.platform.model import Addon, Credential, direct_url, pooled_url
from admin.platform.urls import DatabaseUrl

if TYPE_CHECKING:
    import psycopg

CONNECT_TIMEOUT = 5
"""Seconds a database may take to answer."""

PASSED_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "sslnegotiation")
"""Parameters of a registered URL that matter to a connection of ours."""

STARTING = ("starting up", "shutting down", "in recovery mode", "not yet accepting connections")
REFUSING = ("authentication failed", "does not exist", "no pg_hba.conf entry", "not permitted to log in", "SSL")
"""What a server's refusal says when it will, and when it will not, be another in a while. libpq keeps no
SQLSTATE of a failed connection, so the words have to do."""

FACTS = """
SELECT pg_catalog.pg_database_size(pg_catalog.current_database()),
       (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'),
       pg_catalog.current_setting('server_version'),
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()),
       pg_catalog.current_setting('archive_mode'),
       pg_catalog.pg_is_in_recovery()
"""

LIMITS = """
SELECT least(pg_catalog.current_setting('max_connections')::int,
             (SELECT CASE WHEN datconnlimit > 0 THEN datconnlimit END FROM pg_catalog.pg_database
               WHERE datname = pg_catalog.current_database()),
             (SELECT CASE WHEN rolconnlimit > 0 THEN rolconnlimit END FROM pg_catalog.pg_roles
               WHERE rolname = current_user))
"""


SETTINGS = """
SELECT name, setting, short_desc, reset_val, vartype, enumvals
  FROM pg_catalog.pg_settings WHERE name = ANY (%s) ORDER BY name
"""
SHOWN_SETTINGS = (
    "auto_explain.log_analyze",
    "auto_explain.log_buffers",
    "auto_explain.log_format",
    "auto_explain.log_min_duration",
    "auto_explain.log_nested_statements",
    "auto_explain.log_triggers",
    "auto_explain.log_verbose",
    "log_connections",
    "log_lock_waits",
    "log_min_duration_statement",
    "log_min_error_statement",
    "log_statement",
    "track_functions",
)
"""Those that pg:settings of Heroku's command line knows. A server without auto_explain has none of its."""


class Unreachable(Exception):
    """The database could not be asked. `starting` says that it is there but not ready yet, `refusing` that it
    answered with a no that waiting will not change."""

    def __init__(self, reason: str, *, starting: bool = False, refusing: bool = False) -> None:
        super().__init__(reason)
        self.starting = starting
        self.refusing = refusing


@dataclass(frozen=True, slots=True)
class Facts:
    """The database at this moment: bytes, counts, its version and what it says of archiving and recovery."""

    size: int
    tables: int
    version: str
    connections: int
    archiving: bool
    in_recovery: bool


def _reason(error: Exception) -> str:
    """The server's or the resolver's reason in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "FATAL:" in line:
            return line.partition("FATAL:")[2].strip()
    return (lines[0] if lines else type(error).__name__).removeprefix("connection failed: ")


@contextmanager
def connected(url: DatabaseUrl) -> Iterator[psycopg.Connection]:
    """A connection in autocommit for the length of the block; Unreachable when there is none."""
    import psycopg

    options: dict[str, Any] = {name: value for name, value in url.options if name in PASSED_OPTIONS}
    try:
        connection = psycopg.connect(
            host=url.host,
            port=url.port,
            user=url.user,
            password=url.password or None,
            dbname=url.dbname,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="pooler platform",
            autocommit=True,
            prepare_threshold=None,
            **options,
        )
    except psycopg.Error as error:
        text = str(error)
        raise Unreachable(
            f"{url.host}:{url.port} says: {_reason(error)}",
            starting=any(words in text for words in STARTING),
            refusing=any(words in text for words in REFUSING),
        ) from None
    with connection:
        yield connection


@contextmanager
def _asking(url: DatabaseUrl) -> Iterator[psycopg.Connection]:
    """As `connected`, with a deadline on statements and their errors as Unreachable."""
    import psycopg

    with connected(url) as connection:
        try:
            connection.execute(f"SET statement_timeout = {CONNECT_TIMEOUT * 1000}")
            yield connection
        except psycopg.Error as error:
            raise Unreachable(f"{url.host}:{url.port} says: {_reason(error)}") from None


def ask_limit(url: DatabaseUrl) -> int:
    """The connections that this database's server allows."""
    with _asking(url) as connection:
        row = connection.execute(LIMITS).fetchone()
    assert row is not None
    return int(row[0])


def ask_facts(addon: Addon, credential: Credential) -> Facts:
    with _asking(direct_url(addon, credential)) as connection:
        row = connection.execute(FACTS).fetchone()
    assert row is not None
    size, tables, version, connections, archive_mode, in_recovery = row
    return Facts(size, tables, str(version).partition(" ")[0], connections, archive_mode != "off", in_recovery)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a server, as it is for a new session of this credential."""

    name: str
    value: bool | int | str
    default: bool | int | str
    help: str
    choices: tuple[str, ...]


def ask_settings(addon: Addon, credential: Credential) -> list[Setting]:
    """What the server says of SHOWN_SETTINGS. Raises Heroku's 503 when it cannot be asked."""
    try:
        with _asking(direct_url(addon, credential)) as connection:
            rows = connection.execute(SETTINGS, [list(SHOWN_SETTINGS)]).fetchall()
    except Unreachable as error:
        raise unavailable(f"{addon.name} cannot be reached: {error}.") from None
    return [
        Setting(name, _typed(value, kind), _typed(default, kind), text, tuple(choices or ()))
        for name, value, text, default, kind, choices in rows
    ]


def _typed(text: str, kind: str) -> bool | int | str:
    return text == "on" if kind == "bool" else int(text) if kind == "integer" else text


def demand_login(addon: Addon, credential: Credential) -> None:
    """Raise Heroku's 503 unless the database lets this credential in now."""
    try:
        with connected(direct_url(addon, credential)):
            pass
    except Unreachable as error:
        raise unavailable(f"{addon.name} cannot be reached: {error}.") from None


def pooler_answers(addon: Addon, credential: Credential) -> bool:
    """Whether a pooler listens at the pooled address. One that refuses the login answers, too."""
    import socket

    url = pooled_url(addon, credential)
    try:
        with socket.create_connection((url.host, url.port), timeout=CONNECT_TIMEOUT):
            return True
    except OSError:
        return False


def create_role(addon: Addon, default: Credential, made: Credential) -> None:
    """Make the role behind a new credential, allowed to connect and nothing more, as Heroku does."""
    from psycopg import sql

    role, database = sql.Identifier(made.user), sql.Identifier(addon.dbname)
    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(made.password))
    grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role)
    _change(addon, default, [statement, grant], f"The credential {made.name} could not be created")


def drop_role(addon: Addon, default: Credential, gone: Credential) -> None:
    """Drop the role behind a credential; what it owns goes to the default credential first."""
    from psycopg import sql

    role = sql.Identifier(gone.user)
    steps = (
        "GRANT {} TO CURRENT_USER",
        "REASSIGN OWNED BY {} TO CURRENT_USER",
        "DROP OWNED BY {}",
        "DROP ROLE {}",
    )
    statements = [sql.SQL(step).format(role) for step in steps]
    _change(addon, default, statements, f"The role of credential {gone.name} could not be dropped")


def end_recovery(addon: Addon, default: Credential) -> None:
    """Make a follower writable, when it still replays its leader's log."""
    from psycopg import sql

    statement = sql.SQL("SELECT pg_catalog.pg_promote(true, 60) WHERE pg_catalog.pg_is_in_recovery()").format()
    _change(addon, default, [statement], f"{addon.name} could not leave recovery")


def _change(addon: Addon, default: Credential, statements: list[psycopg.sql.Composed], failure: str) -> None:
    """Run statements in one transaction as the default credential."""
    import psycopg

    try:
        with connected(direct_url(addon, default)) as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement)
    except Unreachable as error:
        raise unavailable(f"{failure}: {error}.") from None
    except psycopg.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        raise PlatformError("invalid_params", f"{failure}: {reason}.", 422) from None
