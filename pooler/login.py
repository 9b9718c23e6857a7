"""A client's first bytes -> an authenticated client, or a cancel request, or a LoginError that holds the
answer.

Covers SSLRequest, direct TLS, GSSENCRequest, CancelRequest, StartupMessage, the choice of the
authentication method and the console's rights. Not here: limits, secrets and databases (the House knows
them), and what follows AuthenticationOk. The rule: a stranger learns nothing about users and databases
before it has proved who it is, and waits for nothing but its own slowness; all of it runs under the
caller's deadline (client_login_timeout)."""

from __future__ import annotations

import functools
import os
from dataclasses import field
from ssl import SSLContext
from typing import Literal, Protocol

from pooler import auth, wire
from pooler.auth import Claim, Credentials, LoginError, Proof
from pooler.channel import Channel, ConnectionClosed, Peer, TlsFailed
from pooler.config import Config
from pooler.databases import MAX_USERNAME, RESERVED, DatabaseConfig
from pooler.hba import HbaRule
from pooler.kinds import AuthType
from pooler.settings import Settings
from pooler.startup import Parameters, read_parameters
from pooler.users import Secret, SecretKind
from pooler.values import dataclass
from pooler.wire import ProtocolError

ALPN = "postgresql"
TLS_HANDSHAKE = 0x16
"""First byte of a TLS ClientHello."""
MAX_REQUESTS = 4
"""SSLRequest and GSSENCRequest a client may send before it starts; PostgreSQL answers each once."""
NO_SECRET_NEEDED = (AuthType.any, AuthType.pam, AuthType.ldap, AuthType.reject)
"""Methods for which a user need not be in auth_file."""
AUTHENTICATION_OK = wire.authentication_ok()
REPLICATION_WORDS = {"none": "no", "logical": "database", "physical": "yes"}
"""As the log has them."""

Rights = Literal["", "admin", "stats"]


@dataclass(slots=True)
class Attempt:
    """What is known so far of a client that logs in: for the log's prefix and SHOW SOCKETS."""

    peer: Peer
    database: str = "(nodb)"
    user: str = "(nouser)"
    tls: str = ""
    replication: str = "none"


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel request; `key` is process id and secret in one."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that may come in. AuthenticationOk goes out with what is sent next."""

    database: DatabaseConfig | None
    """None: the admin database."""
    user: str
    """With auth_type any: the database's forced user."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Tracked parameters from the startup packet and its options, under the names PostgreSQL reports."""
    replication: str = "none"
    """none, logical or physical."""
    startup_options: str = ""
    """The text of `options`, only for replication, whose server connection is the client's own."""
    credentials: Credentials = auth.NOTHING
    tls: str = ""
    rights: Rights = ""
    """On the admin database."""

    @property
    def admin(self) -> bool:
        """Whether this is a client of the admin database."""
        return self.database is None

    @property
    def application_name(self) -> str:
        return self.parameters.get("application_name", "")


class House(Protocol):
    """What a login asks of the bouncer."""

    @property
    def config(self) -> Config: ...

    @property
    def tls_context(self) -> SSLContext | None:
        """For clients; None: TLS is off."""

    def tls_required(self, peer: Peer) -> bool:
        """Whether this peer may not log in without TLS (never asked for Unix sockets)."""

    def find_database(self, name: str) -> DatabaseConfig | None:
        """The entry for a client's database, from `*` if need be; never asked for the admin database."""

    def usual_kind(self) -> SecretKind:
        """How secrets of users here are stored, as far as is known: for those who do not exist."""

    async def find_secret(self, database: DatabaseConfig | None, attempt: Attempt, channel: Channel) -> Secret | None:
        """Of the attempt's user: from auth_file, then by auth_query if configured. `database` is None for one
        that does not exist and for the admin database. May raise LoginError, and ConnectionClosed when the client
        leaves meanwhile."""

    def check_room(self) -> None:
        """max_client_conn, for who is no client of the console: before a secret is looked up or asked for. Raises
        LoginError."""

    def check_limits(self, database: DatabaseConfig, user: str) -> None:
        """Raises LoginError when one more client of this database and user is too many, or it is disabled."""

    def log(self, attempt: Attempt, level: str, text: str) -> None:
        """A line for the log, `level` one of LOG, WARNING, ERROR. `text` may hold a client's own words."""


async def login(channel: Channel, house: House, attempt: Attempt | None = None) -> Admitted | Cancel:
    """Raises LoginError, and nothing else, whatever the client does."""
    attempt = attempt or Attempt(channel.peer)
    try:
        request = await _first_packet(channel, house, attempt)
        if isinstance(request, wire.CancelRequest):
            return Cancel(request.key)
        return await _start(channel, house, attempt, request)
    except LoginError as error:
        if error.log:
            house.log(attempt, "WARNING", error.log)
        raise
    except ProtocolError as error:
        raise LoginError(error.message, error.sqlstate) from None
    except ConnectionClosed:
        raise LoginError("client unexpected eof", notify=False) from None


# ---- before the startup message


async def _first_packet(channel: Channel, house: House, attempt: Attempt) -> wire.Startup | wire.CancelRequest:
    for _ in range(MAX_REQUESTS):
        first = await channel.peek()
        if first == TLS_HANDSHAKE and channel.ssl_object is None:
            await _direct_tls(channel, house, attempt)
        elif first == ord("p"):
            raise ProtocolError("client password pkt before startup packet")
        request = wire.parse_startup(await channel.read_startup())
        if isinstance(request, (wire.Startup, wire.CancelRequest)):
            return request
        if isinstance(request, wire.SSLRequest):
            await _answer_ssl(channel, house, attempt)
        else:
            _nothing_behind(channel, "GSSAPI encryption request")
            await channel.send(b"N")
    raise ProtocolError("bad packet")


async def _direct_tls(channel: Channel, house: House, attempt: Attempt) -> None:
    """TLS without asking (sslnegotiation=direct). The client must name the protocol, so that nothing that
    speaks another one can be led here."""
    if house.tls_context is None or attempt.peer.is_unix:
        raise LoginError("direct TLS connection, but TLS is off here", notify=False)
    await _accept_tls(channel, house.tls_context, attempt, direct=True)
    if channel.ssl_object is None or channel.ssl_object.selected_alpn_protocol() != ALPN:
        raise LoginError(f'direct TLS connection without ALPN protocol "{ALPN}"')


async def _answer_ssl(channel: Channel, house: House, attempt: Attempt) -> None:
    if channel.ssl_object is not None:
        raise ProtocolError("SSL req inside SSL")
    _nothing_behind(channel, "SSL request")
    if house.tls_context is None or attempt.peer.is_unix:
        await channel.send(b"N")
        return
    await channel.send(b"S")
    await _accept_tls(channel, house.tls_context, attempt)


def _nothing_behind(channel: Channel, what: str) -> None:
    """Bytes behind a request for encryption may be a man in the middle's (CVE-2021-3935)."""
    if channel.buffered:
        raise ProtocolError(f"received unencrypted data after {what}")


async def _accept_tls(channel: Channel, context: SSLContext, attempt: Attempt, *, direct: bool = False) -> None:
    try:
        await channel.start_tls(context, server_side=True, direct=direct)
    except TlsFailed as error:
        log = f"TLS handshake failed: {error.message}"
        raise LoginError("failed to accept SSL", log=log, notify=False) from None
    attempt.tls = channel.tls


# ---- the startup message


async def _start(channel: Channel, house: House, attempt: Attempt, startup: wire.Startup) -> Admitted:
    _name(attempt, startup.params)
    if not attempt.tls and not attempt.peer.is_unix and house.tls_required(attempt.peer):
        raise LoginError("SSL required")
    if startup.minor or startup.protocol_options:
        await channel.send(wire.negotiate_protocol_version(0, startup.protocol_options))
    settings = house.config.settings
    to_admin = attempt.database == RESERVED
    parameters = read_parameters(startup.params, settings, lenient=to_admin)
    attempt.replication = parameters.replication
    if len(wire.encode(attempt.user)) >= MAX_USERNAME:
        raise LoginError("username too long")
    if settings.application_name_add_host:
        _add_host(parameters.tracked, attempt.peer)
    if not to_admin:
        house.check_room()
    admit = _admit_to_console if to_admin else _admit
    return await admit(channel, house, attempt, parameters)


def _name(attempt: Attempt, given: dict[str, str]) -> None:
    """So that a complaint about a parameter names its client."""
    user = given.get("user")
    if user:
        attempt.user = user
        attempt.database = given.get("database") or user


def _add_host(tracked: dict[str, str], peer: Peer) -> None:
    name = tracked.get("application_name") or "app"
    tracked["application_name"] = f"{name} - {peer}"


async def _admit(channel: Channel, house: House, attempt: Attempt, parameters: Parameters) -> Admitted:
    database = house.find_database(attempt.database)
    user = ""
    if house.config.settings.auth_type is AuthType.any and database is not None:
        user = _forced_user(database)
    proof = await _authenticate(channel, house, attempt, database)
    user = user or attempt.user
    if database is None:
        house.log(attempt, "LOG", f"login failed: db={attempt.database} user={attempt.user}")
        raise LoginError(f"no such database: {attempt.database}")
    house.check_limits(database, user)
    channel.put(proof.farewell + AUTHENTICATION_OK)
    return Admitted(
        database=database,
        user=user,
        parameters=parameters.tracked,
        replication=parameters.replication,
        startup_options=parameters.options,
        credentials=proof.credentials,
        tls=attempt.tls,
    )


def _forced_user(database: DatabaseConfig) -> str:
    if database.user is None:
        raise LoginError("bouncer config error", log="auth_type=any requires forced user")
    return database.user


async def _admit_to_console(channel: Channel, house: House, attempt: Attempt, parameters: Parameters) -> Admitted:
    rights: Rights = "admin"
    if is_own_user(attempt):
        house.log(attempt, "LOG", "pgbouncer access from unix socket")
        proof = Proof()
    else:
        proof = await _authenticate(channel, house, attempt, None)
        rights = console_rights(house.config.settings, attempt.user)
    if not rights:
        raise LoginError("not allowed")
    channel.put(proof.farewell + AUTHENTICATION_OK)
    tracked = parameters.tracked
    return Admitted(None, attempt.user, tracked, credentials=proof.credentials, tls=attempt.tls, rights=rights)


def is_own_user(attempt: Attempt) -> bool:
    """The system user that runs the pooler, on the Unix socket, under the reserved name."""
    return attempt.peer.is_unix and attempt.peer.uid == os.geteuid() and attempt.user == RESERVED


def console_rights(settings: Settings, user: str) -> Rights:
    """What an authenticated user may do on the admin database; empty: it may not enter."""
    if user in settings.admin_users:
        return "admin"
    open_to_all = settings.auth_type is AuthType.any
    return "stats" if open_to_all or user in settings.stats_users else ""


def _log_attempt(house: House, attempt: Attempt) -> None:
    if house.config.settings.log_connections:
        replication = REPLICATION_WORDS[attempt.replication]
        who = f"db={attempt.database} user={attempt.user}"
        house.log(attempt, "LOG", f"login attempt: {who} tls={attempt.tls or 'no'} replication={replication}")


# ---- the proof


async def _authenticate(channel: Channel, house: House, attempt: Attempt, database: DatabaseConfig | None) -> Proof:
    """By the method of auth_type or of the HBA rule."""
    config, user = house.config, attempt.user
    method, rule = config.settings.auth_type, None
    if method is AuthType.hba:
        rule = _rule(config, attempt)
        method = AuthType.reject if rule is None else rule.method
    needed = method not in NO_SECRET_NEEDED
    secret = await house.find_secret(database, attempt, channel) if needed else Secret(user, "")
    if secret is None:
        house.log(attempt, "LOG", f"no such user: {user}")
    else:
        # auth_query may know the user by another name than the client.
        attempt.user = secret.user
    _log_attempt(house, attempt)
    if config.settings.auth_type is AuthType.hba and rule is None:
        raise LoginError("no authentication method is found")
    claim = Claim(
        channel,
        user,
        secret or auth.stand_in(user, house.usual_kind(), config.settings.scram_iterations),
        secret is not None,
        config.settings,
        may_be=functools.partial(_may_be, config, rule, user),
        options=rule.options if rule else "",
    )
    return await auth.authenticate(method, claim)


def _rule(config: Config, attempt: Attempt) -> HbaRule | None:
    return config.hba.match(
        attempt.database,
        attempt.user,
        None if attempt.peer.is_unix else attempt.peer.addr,
        tls=bool(attempt.tls),
        replication=attempt.replication == "physical",
    )


def _may_be(config: Config, rule: HbaRule | None, user: str, system_name: str) -> bool:
    if rule is None:
        return system_name == user
    return config.hba.may_be(rule, system_name, user)
