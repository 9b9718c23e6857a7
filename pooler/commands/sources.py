"""A configuration when no ini was given: Heroku's numbers, for a database by URL or for an embedded PostgreSQL.

The pool listens on the database's port + 1, in transaction mode, takes 75 % of the connections the database allows,
and lets in who the database lets in by the URL. Every failure is one sentence that says what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pooler import certificate, embedded, places, tls, wire
from pooler.auth import Credentials
from pooler.commands.flags import Flags
from pooler.config import Config, compose
from pooler.databases import RESERVED, DatabaseConfig
from pooler.dial import Dialed, DialError, Target, dial
from pooler.kinds import SslMode
from pooler.users import Secret
from pooler.values import dataclass

if TYPE_CHECKING:
    from pooler.embedded import Embedded

POSTGRES_PORT = 5432
SHARE_NUMERATOR, SHARE_DENOMINATOR = 75, 100
"""The pool's part of the database's connections; the rest stays for direct ones."""
CONNECT_SECONDS = 10.0
DROPPED = "extra_float_digits,options"
"""Startup parameters that drivers send, and that mean nothing behind a pool."""


class SourceError(Exception):
    """There is no database to pool; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Source:
    """The database behind the pool. `host` may be a directory with a Unix socket."""

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = field(repr=False)
    sslmode: str = "prefer"
    sslrootcert: str = ""
    embedded: Embedded | None = field(default=None, repr=False)

    def url(self, host: str, port: int, dbname: str) -> str:
        """What an application is given; holds the password, and no query string."""
        name, secret = quote(self.user, safe=""), quote(self.password or "", safe="")
        shown = f"[{host}]" if ":" in host else host
        return f"postgres://{name}{':' + secret if secret else ''}@{shown}:{port}/{quote(dbname, safe='')}"

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


def find(flags: Flags) -> Source:
    """The database by URL, or the embedded one, started. Raises SourceError."""
    if flags.database_url:
        return from_url(flags.database_url)
    place = Path(flags.data_dir) if flags.data_dir else None
    try:
        running = embedded.start(place, avoid=(flags.port or POSTGRES_PORT + 1,))
    except embedded.EmbeddedError as error:
        raise SourceError(str(error)) from None
    return Source(
        running.host, running.port, running.dbname, running.user, running.password, "disable", embedded=running
    )


def from_url(url: str) -> Source:
    """By libpq's own rules for connection URLs, its environment variables left out. Raises SourceError."""
    parts = _parts(url)
    hosts = (parts.get("hostaddr") or parts.get("host") or "localhost").split(",")
    ports = (parts.get("port") or str(POSTGRES_PORT)).split(",")
    user = parts.get("user")
    if len(hosts) > 1:
        raise SourceError("the database URL names several hosts; an ini file can pool them: host=a,b")
    if not user:
        raise SourceError("the database URL names no user: postgres://user:password@host:port/dbname")
    if not ports[0].isdecimal() or not 1 <= int(ports[0]) <= 65535:
        raise SourceError(f"the database URL has a bad port: {ports[0]!r}")
    return Source(
        host=hosts[0],
        port=int(ports[0]),
        dbname=parts.get("dbname") or user,
        user=user,
        password=parts.get("password"),
        sslmode=parts.get("sslmode") or "prefer",
        sslrootcert=parts.get("sslrootcert") or "",
    )


def _parts(url: str) -> Mapping[str, str]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if not url.startswith(("postgres://", "postgresql://")):
        raise SourceError("the database URL must begin with postgres://, as postgres://user:password@host:port/dbname")
    try:
        return {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:
        # libpq's message repeats the URL, and so the password.
        raise SourceError("the database URL cannot be read: postgres://user:password@host:port/dbname") from None


def configure(source: Source, flags: Flags, loop: asyncio.AbstractEventLoop) -> Config:
    """The whole configuration. Asks the database for its limit, and so finds out whether it is there."""
    limit = loop.run_until_complete(connection_limit(source, loop))
    share = (flags.connection_limit or limit) * SHARE_NUMERATOR // SHARE_DENOMINATOR
    if share < 1:
        raise SourceError("the connection limit leaves no connection for the pool: it takes 75 % of it")
    database = DatabaseConfig(source.dbname, hosts=(source.host,), port=source.port)
    if source.dbname == RESERVED:
        raise SourceError(f"a database called {RESERVED} cannot be pooled: that name is the admin database's")
    return compose(
        _settings(source, flags, share),
        [database],
        own=_own(flags),
        secrets=[Secret(source.user, source.password or "")],
    )


def _settings(source: Source, flags: Flags, share: int) -> dict[str, str]:
    cert, key = certificate.ensure(_keys(flags))
    port = flags.port or (POSTGRES_PORT if source.embedded else source.port) + 1
    if port > 65535:
        raise SourceError(f"the database's port + 1 is no port ({port}): choose one with --port")
    return {
        "listen_addr": flags.listen or "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "pool_mode": "transaction",
        "max_client_conn": "10000",
        "default_pool_size": str(share),
        "max_db_connections": str(share),
        "max_prepared_statements": "200",
        "auth_type": "scram-sha-256" if source.password else "trust",
        "admin_users": source.user,
        "ignore_startup_parameters": DROPPED,
        "client_tls_sslmode": "allow",
        "client_tls_cert_file": str(cert),
        "client_tls_key_file": str(key),
        "server_tls_sslmode": source.sslmode,
        "server_tls_ca_file": source.sslrootcert,
        "listen_backlog": "1024",
        "verbose": str(flags.verbose),
        **({"user": flags.user} if flags.user else {}),
    }


def _own(flags: Flags) -> dict[str, str]:
    return {"metrics_extra": "yes"} if flags.metrics_extra else {}


def _keys(flags: Flags) -> Path:
    return (Path(flags.data_dir) if flags.data_dir else places.state_directory()) / "tls"


async def connection_limit(source: Source, loop: asyncio.AbstractEventLoop) -> int:
    """max_connections of the server. Raises SourceError when it cannot be reached or lets us not in."""
    try:
        mode = SslMode(source.sslmode)
        settings = compose({"server_tls_sslmode": source.sslmode, "server_tls_ca_file": source.sslrootcert}).settings
        context = tls.server_context(settings)
    except (ValueError, tls.TlsProblem) as error:
        raise SourceError(f"the database URL's sslmode or sslrootcert cannot be used: {error}") from None
    credentials = Credentials(password=source.password) if source.password else Credentials()
    target = Target(source.host, source.port, source.dbname, source.user, credentials,
                    sslmode=mode, tls_context=context)  # fmt: skip
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await _ask_limit(await dial(target, loop=loop))
    except TimeoutError:
        raise SourceError(f"the database at {source.where} does not answer: is it running, is the URL right?") from None
    except DialError as error:
        if error.stage == "connect":
            raise SourceError(f"cannot reach the database at {source.where}: {error.detail or error.message}") from None
        raise SourceError(f"the database at {source.where} refuses the login: {error}") from None


async def _ask_limit(dialed: Dialed) -> int:
    channel = dialed.channel
    try:
        await channel.send(wire.query("SHOW max_connections"))
        limit = 0
        while True:
            kind, body = await channel.read_message()
            if kind == b"D":
                limit = int(body[6:])
            elif kind == b"Z":
                return limit
    finally:
        channel.send_now(wire.terminate())
        channel.abort()
