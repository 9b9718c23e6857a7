"""The arguments of `pooler serve`, as they are read and described."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pooler.config.kinds import ADDRESS, WORKERS, LogFormat
from pooler.config.policy import POLICY


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be seconds, 0 or more")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be a port, 1 to 65535")
    return value


def policy(text: str) -> str:
    """As [pooler] session_state in an ini."""
    try:
        POLICY.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def workers(text: str) -> int:
    """As [pooler] workers in an ini."""
    try:
        return WORKERS.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def http_address(text: str) -> tuple[str, int] | str:
    """As [pooler] http in an ini reads it; or "off"."""
    if text == "off":
        return text
    try:
        address = ADDRESS.parse(text)
    except ValueError:
        address = None
    if address is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: HOST:PORT is wanted, such as 127.0.0.1:9127, or off")
    return address


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="pooler serve",
        description="Run the pooler: with an ini file as PgBouncer would; without one for DATABASE_URL, or for an "
        "embedded PostgreSQL when there is no DATABASE_URL either.",
    )
    add = made.add_argument
    add("ini", nargs="?", help="pgbouncer.ini: behave as PgBouncer started with this file")
    add("-d", "--daemon", action="store_true", help="run in the background (needs pidfile)")
    add("-q", "--quiet", action="store_true", help="log nothing to stderr")
    add("-v", "--verbose", action="count", default=0, help="log more; twice for all")
    add("-u", "--user", metavar="USER", help="system user to become after start")
    add("-R", "--reboot", action="store_true", help="take over the sockets and connections of the running process")
    add("-V", "--version", action="store_true", help="print the version and leave")
    add("--log-format", type=LogFormat, choices=list(LogFormat), metavar="FORMAT",
        help="text, or json for one object a line (default: the ini's log_format, else text)")  # fmt: skip
    add("--workers", type=workers, metavar="N",
        help="processes that share the work behind one port and one console; auto: one a core (default 1)")  # fmt: skip
    own = made.add_argument_group("without an ini file")
    own.add_argument(
        "--database-url", metavar="URL",
        help="the PostgreSQL to pool (default: DATABASE_URL); prefer the variable, arguments are seen by everybody",
    )  # fmt: skip
    own.add_argument(
        "--connection-limit", type=positive, metavar="N",
        help="connections the database allows; the pool takes 75%% of it (default: its max_connections)",
    )  # fmt: skip
    own.add_argument("--listen", metavar="HOST", help="address to listen on (default 127.0.0.1)")
    own.add_argument("--port", type=port, help="port to listen on (default: the database's + 1)")
    own.add_argument("--plain", action="store_true", help="allow clients without TLS from other hosts too")
    own.add_argument(
        "--session-state", metavar="FATE", type=policy,
        help="what becomes of session state: keep (default), leak or refuse; kind:fate for one kind",
    )  # fmt: skip
    own.add_argument("--data-dir", metavar="DIR", help="where the embedded PostgreSQL, its passwords and keys live")
    own.add_argument(
        "--embedded", action="store_true",
        help="an embedded PostgreSQL, as there is without a database anyway, also beside --state",
    )  # fmt: skip
    fronts = made.add_argument_group("metrics")
    add = fronts.add_argument
    add("--metrics-period", type=seconds, metavar="SECONDS", help="between metrics lines (default 60; 0: none)")
    add("--metrics-extra", action="store_true", help="append percentiles to the metrics lines")
    add("--drain", action="append", default=[], metavar="URL", dest="drains",
        help="where metrics lines go (repeatable): stdout, a file, syslog://, syslog+tls://, https://")  # fmt: skip
    add("--http", metavar="HOST:PORT", type=http_address,
        help="serve /metrics, the live page and the API (without an ini: 127.0.0.1:9127; *: every address; "
        "'off': none)")  # fmt: skip
    add("--http-cert", metavar="FILE", help="serve HTTPS with this certificate; its key is there too or in --http-key")
    add("--http-key", metavar="FILE", help="the private key of --http-cert")
    add("--state", metavar="URL", help="the control plane's state: its attachments open and close pools here")
    return made


WITHOUT_INI = {
    "database_url": "its databases are those of [databases]",
    "connection_limit": "there it is default_pool_size and max_db_connections",
    "listen": "there it is listen_addr",
    "port": "there it is listen_port",
    "plain": "there it is client_tls_sslmode",
    "session_state": "there it is session_state in [pooler]",
    "data_dir": "it names its files itself",
    "embedded": "its databases are those of [databases]",
}
"""What means nothing beside an ini, and what does there."""


def read(arguments: list[str]) -> dict[str, Any]:
    """By the names of `Flags`. Exits with status 2 on wrong usage, as argparse does."""
    made = parser()
    given = vars(made.parse_args(arguments))
    if complaint := _conflict(given):
        made.error(complaint)
    given["drains"] = tuple(given["drains"])
    if not (given["ini"] or given["embedded"]):
        given["database_url"] = given["database_url"] or os.environ.get("DATABASE_URL") or None
    return given


def _conflict(given: dict[str, Any]) -> str:
    """Why these flags cannot be meant together; empty when they can."""
    if given["http_key"] and not given["http_cert"]:
        return "--http-key needs --http-cert"
    if given["embedded"] and given["database_url"]:
        return "either --embedded or --database-url"
    if not given["ini"]:
        alone = [flag for flag, name in (("-d", "daemon"), ("-R", "reboot")) if given[name]]
        return f"{alone[0]} needs an ini file, with pidfile and unix_socket_dir" if alone else ""
    for name, instead in WITHOUT_INI.items():
        if given[name] not in (None, False):
            return f"--{name.replace('_', '-')} is for a start without an ini file; {instead}"
    return ""
