"""A configuration when no ini was given: Heroku's numbers, for a database by URL, for an embedded PostgreSQL, or for
what the control plane's state asks for and nothing else.

The pool listens on the database's port + 1, in transaction mode, takes 75 % of the connections the database allows,
and lets in who the database lets in by the URL. Every failure is one sentence that says what to do. A database that is
not there yet is no failure: at boot it may come after us; one that is there and refuses us is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pooler import places, wire
from pooler.commands import certificate, embedded
from pooler.commands.flags import Flags
from pooler.config.databases import RESERVED, DatabaseConfig
from pooler.config.kinds import SslMode
from pooler.config.policy import POLICY, Fate
from pooler.config.users import Secret
from pooler.config.whole import Config, compose
from pooler.hints import escape_hint
from pooler.house.reconfigure import Reconfiguration
from pooler.log import ERROR, LOG
from pooler.net import tls
from pooler.net.credentials import Credentials
from pooler.net.dialerror import DialError
from pooler.servers.dial import NO_TLS, Dialed, Target, dial
from pooler.touches import Held
from pooler.values import dataclass

if TYPE_CHECKING:
    from pooler.commands.embedded import Embedded

POSTGRES_PORT = 5432
SHARE_NUMERATOR, SHARE_DENOMINATOR = 75, 100
"""The pool's part of the database's connections; the rest stays for direct ones."""
SIZES = ("default_pool_size", "max_db_connections")
CONNECT_SECONDS = 10.0
KEPT = "keep"
"""What becomes of session state when nobody has said anything."""
AGAIN_SECONDS = 2.0
"""Between two questions to a database that is not there yet."""
ASSUMED_LIMIT = 100
"""PostgreSQL's own max_connections, for as long as a database has not told its."""
DROPPED = "extra_float_digits,options"
"""Startup parameters that drivers send, and that mean nothing behind a pool."""


class SourceError(Exception):
    """There is no database to pool; the message is one line for the user."""


class Away(Exception):
    """The database cannot be asked now, and perhaps can later. The text is the reason."""


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
    hint: str = ""
    """What may be wrong with the URL, should it not work."""

    def url(self, host: str, port: int, dbname: str) -> str:
        """What an application is given; holds the password, and no query string."""
        name, secret = quote(self.user, safe=""), quote(self.password or "", safe="")
        shown = f"[{host}]" if ":" in host else host
        return f"postgres://{name}{':' + secret if secret else ''}@{shown}:{port}/{quote(dbname, safe='')}"

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


def find(flags: Flags) -> Source | None:
    """The database by URL, or the embedded one, started; None when all databases are those of the control plane's
    state. Raises SourceError, and for a port that is taken before there is anything to undo."""
    source = from_url(flags.database_url) if flags.database_url else None
    _demand_free(flags, (source.port if source else POSTGRES_PORT) + 1)
    if source is not None or (flags.state is not None and not flags.embedded):
        return source
    place = Path(flags.data_dir) if flags.data_dir else None
    try:
        running = embedded.start(place, avoid=(flags.port or POSTGRES_PORT + 1,))
    except embedded.EmbeddedError as error:
        raise SourceError(str(error)) from None
    return Source(
        running.host, running.port, running.dbname, running.user, running.password, "disable", embedded=running
    )


def _demand_free(flags: Flags, usual: int) -> None:
    """Raises SourceError when somebody else listens where we shall."""
    if os.environ.get("LISTEN_FDS"):
        return
    wanted = [(flags.listen or embedded.HOST, flags.port or usual, "--port")]
    if isinstance(flags.http, tuple):
        wanted.append((*flags.http, "--http"))
    for host, port, flag in wanted:
        if why := unbindable(host, port):
            advice = f"choose another port with {flag}, or stop what listens there"
            raise SourceError(f"cannot listen on {host}:{port}: {why}; {advice}")


def unbindable(host: str, port: int) -> str:
    """Why no address of this host can be listened at; empty when one can, or when only the real attempt can tell."""
    why = ""
    with contextlib.suppress(socket.gaierror, UnicodeError, OverflowError):
        name = None if host == "*" else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                try:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind(address)
                    probe.listen(1)
                    return ""
                except OSError as error:
                    why = os.strerror(error.errno or 0)
    return why


def from_url(url: str) -> Source:
    """By libpq's own rules for connection URLs, its environment variables left out. Raises SourceError."""
    parts = _parts(url)
    hosts = (parts.get("hostaddr") or parts.get("host") or "localhost").split(",")
    ports = (parts.get("port") or str(POSTGRES_PORT)).split(",")
    user = parts.get("user")
    if len(hosts) > 1:
        raise SourceError("the database URL names several hosts; an ini file can pool them: host=a,b")
    if not user:
        raise SourceError(_hinted("the database URL names no user: postgres://user:password@host:port/dbname", url))
    if not ports[0].isdecimal() or not 1 <= int(ports[0]) <= 65535:
        raise SourceError(_hinted("the database URL has a bad port", url))
    return Source(
        host=hosts[0],
        port=int(ports[0]),
        dbname=parts.get("dbname") or user,
        user=user,
        password=parts.get("password"),
        sslmode=parts.get("sslmode") or "prefer",
        sslrootcert=parts.get("sslrootcert") or "",
        hint=escape_hint(url),
    )


def _hinted(sentence: str, url: str) -> str:
    return f"{sentence}; {hint}" if (hint := escape_hint(url)) else sentence


def _parts(url: str) -> Mapping[str, str]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if not url.startswith(("postgres://", "postgresql://")):
        raise SourceError("the database URL must begin with postgres://, as postgres://user:password@host:port/dbname")
    try:
        return {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:
        # libpq's message repeats the URL, and so the password.
        raise SourceError(
            _hinted("the database URL cannot be read: postgres://user:password@host:port/dbname", url)
        ) from None


@dataclass(frozen=True, slots=True)
class Found:
    """The configuration, and why the database could not tell its limit; empty when it has."""

    config: Config
    away: str = ""


def configure(source: Source | None, flags: Flags, loop: asyncio.AbstractEventLoop) -> Found:
    """The whole configuration. Asks the database for its limit, and so finds out whether it is there."""
    if source is None:
        return Found(compose(_stateless(flags), own=_own(flags)))
    limit, away = ASSUMED_LIMIT, ""
    try:
        limit = loop.run_until_complete(connection_limit(source, loop))
    except Away as error:
        away = str(error)
    database = DatabaseConfig(source.dbname, hosts=(source.host,), port=source.port)
    if source.dbname == RESERVED:
        raise SourceError(f"a database called {RESERVED} cannot be pooled: that name is the admin database's")
    config = compose(
        _settings(source, flags, share(flags.connection_limit or limit)),
        [database],
        own=_own(flags),
        secrets=[Secret(source.user, source.password or "")],
    )
    return Found(config, away)


def share(limit: int) -> int:
    """How many of a database's connections the pool takes. Raises SourceError."""
    part = limit * SHARE_NUMERATOR // SHARE_DENOMINATOR
    if part < 1:
        raise SourceError("the connection limit leaves no connection for the pool: it takes 75 % of it")
    return part


async def learn_limit(
    source: Source, flags: Flags, reconfiguration: Reconfiguration, say: Callable[[str, str], None]
) -> None:
    """Until a database that was away at the start has told its limit: then the pool is as large as it should be."""
    loop, told = asyncio.get_running_loop(), ""
    while True:
        await asyncio.sleep(AGAIN_SECONDS)
        try:
            limit = await connection_limit(source, loop)
            part = share(flags.connection_limit or limit)
        except Away:
            continue
        except SourceError as error:
            if str(error) != told:
                say(ERROR, str(error))
            told = str(error)
            continue
        for key in SIZES:
            await reconfiguration.change_setting(key, str(part))
        return say(LOG, f"the database at {source.where} is there: the pool takes {part} of its {limit} connections")


def _settings(source: Source, flags: Flags, share: int) -> dict[str, str]:
    port = flags.port or (POSTGRES_PORT if source.embedded else source.port) + 1
    if port > 65535:
        raise SourceError(f"the database's port + 1 is no port ({port}): choose one with --port")
    return {
        **_common(flags, port),
        "unix_socket_dir": "",
        **dict.fromkeys(SIZES, str(share)),
        "auth_type": "scram-sha-256" if source.password else "trust",
        "admin_users": source.user,
        "server_tls_sslmode": source.sslmode,
        "server_tls_ca_file": source.sslrootcert,
    }


def _stateless(flags: Flags) -> dict[str, str]:
    """Without a database of our own. The console is for who has started us, over the Unix socket."""
    return {**_common(flags, flags.port or POSTGRES_PORT + 1), "auth_type": "scram-sha-256"}


def _common(flags: Flags, port: int) -> dict[str, str]:
    cert, key = certificate.ensure(_keys(flags))
    return {
        "listen_addr": flags.listen or embedded.HOST,
        "listen_port": str(port),
        "pool_mode": "transaction",
        "max_client_conn": "10000",
        "max_prepared_statements": "200",
        "ignore_startup_parameters": "" if _follows(flags) else DROPPED,
        "client_tls_sslmode": "allow",
        "client_tls_cert_file": str(cert),
        "client_tls_key_file": str(key),
        "listen_backlog": "1024",
        "verbose": str(flags.verbose),
        **({"user": flags.user} if flags.user else {}),
    }


def _follows(flags: Flags) -> bool:
    """Whether settings of any name follow their client."""
    return POLICY.parse(flags.session_state or KEPT).fate(Held.SETTING) is Fate.keep


def _own(flags: Flags) -> dict[str, str]:
    extra = {"metrics_extra": "yes"} if flags.metrics_extra else {}
    return {"metrics": "stdout", "session_state": flags.session_state or KEPT, **extra}


def _keys(flags: Flags) -> Path:
    return (Path(flags.data_dir) if flags.data_dir else places.state_directory()) / "tls"


LASTING = ("28", "3D")
"""Classes of SQLSTATE for what does not pass by itself: who we are, and what we want."""


async def connection_limit(source: Source, loop: asyncio.AbstractEventLoop) -> int:
    """max_connections of the server. Raises Away when it cannot be asked now, SourceError when it lets us not in."""
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
        raise _away(source, "does not answer: is it running, is the URL right?") from None
    except DialError as error:
        if error.stage == "connect":
            raise _away(source, f"cannot be reached: {error.detail or error.message}") from None
        if error.fields is not None and not error.sqlstate.startswith(LASTING):
            raise _away(source, f"is not ready: {error.message}") from None
        wish = f", and the URL asks for sslmode={source.sslmode}" if error.message == NO_TLS else ""
        raise SourceError(f"the database at {source.where} refuses the login: {error}{wish}") from None


def _away(source: Source, why: str) -> Exception:
    """A URL that looks as if its password were cut in two has nothing to wait for, and what is its host may be a piece
    of that."""
    if source.hint:
        return SourceError(f"the database that the URL names cannot be reached; {source.hint}")
    return Away(f"the database at {source.where} {why}")


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
