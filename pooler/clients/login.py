"""A client's first bytes -> an authenticated client, or a cancel request, or a LoginError that holds the
answer.

Covers SSLRequest, direct TLS, GSSENCRequest, CancelRequest, StartupMessage, the choice of the
authentication method and the console's rights. Not here: limits, secrets and databases (the LoginQuestions knows
them), AuthenticationOk and what follows it. The rule: a stranger learns nothing about users and databases
before it has proved who it is, and waits for nothing but its own slowness; all of it runs under the
caller's deadline (client_login_timeout)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Coroutine
from dataclasses import field
from functools import lru_cache
from ssl import SSLContext
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pooler import wire
from pooler.clients import auth
from pooler.clients.auth import PROVED, Claim, Proof, StandIn
from pooler.clients.startup import LONGEST, REMEMBERED, Parameters, Readings, heard
from pooler.config.databases import RESERVED, DatabaseConfig
from pooler.config.hba import HbaRule
from pooler.config.kinds import AuthType
from pooler.config.settings import Settings
from pooler.config.users import Likeness, Secret
from pooler.config.whole import Config
from pooler.log import DEBUG, ERROR
from pooler.net.address import Peer
from pooler.net.channel import MAX_STARTUP_PACKET, Channel, ConnectionClosed, TlsFailed
from pooler.net.credentials import NOTHING, Credentials
from pooler.pools.connection import ClientFacts, Replication
from pooler.pools.refusal import Left, LoginError
from pooler.relay import Footing
from pooler.sessions import Session
from pooler.values import dataclass
from pooler.wire import ProtocolError

TLS_HANDSHAKE = 0x16
"""First byte of a TLS ClientHello."""
MAX_REQUESTS = 4
"""SSLRequest and GSSENCRequest a client may send before it starts; PostgreSQL answers each once."""
NO_SECRET_NEEDED = (AuthType.any, AuthType.pam, AuthType.ldap, AuthType.reject)
"""Methods for which a user need not be in auth_file."""
ANY, HBA = AuthType.any, AuthType.hba
UNGUARDED = (AuthType.trust, AuthType.any)
"""With these everybody comes in."""
SECRET_ASKED = (AuthType.plain, AuthType.md5, AuthType.scram_sha_256)
"""Methods by which a client shows that it knows the secret: who does not exist has one there, too."""
DISCREET = 0.1
"""Seconds after which the log hears that a user does not exist."""
READINGS = Readings()
REPLICATION_WORDS = {Replication.NONE: "no", Replication.LOGICAL: "database", Replication.PHYSICAL: "yes"}
"""As the log has them."""

Rights = Literal["", "admin", "stats"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel request; `key` is process id and secret in one."""

    key: bytes


@dataclass(slots=True)
class Admitted:
    """A client that may come in: proved, and not yet told so. What else can go wrong comes first."""

    database: DatabaseConfig | None
    """None: the admin database."""
    user: str
    """With auth_type any: the database's forced user."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Tracked parameters from the startup packet and its options, under the names PostgreSQL reports."""
    session: Session = ()
    """What else of them follows it."""
    replication: Replication = Replication.NONE
    startup_options: str = ""
    """The text of `options`, only for replication, whose server connection is the client's own."""
    credentials: Credentials = NOTHING
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


class Grounds(NamedTuple):
    """What lets a user in, beside auth_query, whose answer stands for the login that asked for it."""

    own: bool
    """The database has users of its own."""
    secret: Secret | None


class LoginQuestions(Protocol):
    """What a login asks."""

    @property
    def config(self) -> Config: ...

    @property
    def tls_context(self) -> SSLContext | None:
        """For clients; None: TLS is off."""

    def tls_required(self, peer: Peer) -> bool:
        """Whether this peer may not log in without TLS (what it says of Unix sockets does not count)."""

    def find_database(self, name: str) -> DatabaseConfig | None:
        """The entry for a client's database, from `*` if need be; never asked for the admin database."""

    def grounds(self, database: DatabaseConfig | None, user: str) -> Grounds:
        """What a login of this user rests on at this moment. `database` is None as for `find_secret`."""

    def footing(self, config: Config, name: str, database: DatabaseConfig | None) -> Footing | None:
        """What shows that all answers up to the question for a secret are the same as now, with `config` and for this
        database; None where one of them depends on who asks, or may be another one by itself."""

    def likeness(self, user: str) -> Likeness:
        """What this user's secret would look like, if it does not exist: like another one's."""

    def must_ask(self, database: DatabaseConfig | None, user: str) -> bool:
        """Whether `find_secret` has to ask auth_query; if not, what it finds are the grounds."""

    async def find_secret(
        self, database: DatabaseConfig | None, attempt: ClientFacts, channel: Channel
    ) -> Secret | None:
        """Of the attempt's user, if it is not among the grounds of the database: from auth_file, then by auth_query if
        configured. `database` is None for one that does not exist and for the admin database. May raise LoginError,
        and ConnectionClosed when the client leaves meanwhile."""

    def check_room(self, channel: Channel) -> Coroutine[Any, Any, None] | None:
        """Whether one more may come who is no client of the console: before a secret is looked up or asked for. Raises
        LoginError, or does so when what it returns is awaited: there may be room in a moment."""

    def check_limits(self, database: DatabaseConfig | None, user: str) -> None:
        """Raises LoginError when one more client of this database and user is too many, or it is disabled. `database`
        is None for the admin database; there it is not asked about administrators."""

    @property
    def wordy(self) -> bool:
        """Whether the log takes DEBUG lines."""

    def log(self, attempt: ClientFacts, level: str, text: str) -> None:
        """A line for the log, `level` one of LOG, WARNING, ERROR, DEBUG. `text` may hold a client's own words."""


async def login(
    channel: Channel, asked: LoginQuestions, attempt: ClientFacts | None = None, *, refused: int = 0
) -> Admitted | Cancel:
    """Raises LoginError, and nothing else, whatever the client does. `refused`: requests for encryption before this."""
    attempt = attempt or ClientFacts(channel.peer)
    return await told(asked, attempt, _begin(channel, asked, attempt, refused))


async def _begin(channel: Channel, asked: LoginQuestions, attempt: ClientFacts, refused: int) -> Admitted | Cancel:
    request = await _first_packet(channel, asked, attempt, refused)
    if isinstance(request, wire.CancelRequest):
        return Cancel(request.key)
    return await _start(channel, asked, attempt, request)


async def told(asked: LoginQuestions, attempt: ClientFacts, steps: Awaitable[T]) -> T:
    """What the steps of a login come to: whatever goes wrong in them is a LoginError, and the log has been told."""
    try:
        return await steps
    except LoginError as error:
        if error.log:
            asked.log(attempt, error.level, error.log)
        raise
    except ProtocolError as error:
        # Who wants to cancel something gets no answer, whatever becomes of that.
        told = not isinstance(error, wire.BadCancelRequest)
        raise LoginError(error.message, error.sqlstate, notify=told) from None
    except ConnectionClosed:
        raise Left from None


# ---- before the startup message


async def _first_packet(
    channel: Channel, asked: LoginQuestions, attempt: ClientFacts, refused: int
) -> wire.Startup | wire.CancelRequest:
    for _ in range(refused, MAX_REQUESTS):
        while (first := channel.next_byte()) < 0:
            await channel.more()
        if first:
            if first == TLS_HANDSHAKE and channel.ssl_object is None:
                await _direct_tls(channel, asked, attempt)
            else:
                await _refuse_message(channel)
        packet = channel.packet(0, 8, MAX_STARTUP_PACKET) or await channel.read_startup()
        request = startup_of(packet) if is_ordinary(packet) else wire.parse_startup(packet)
        if isinstance(request, (wire.Startup, wire.CancelRequest)):
            return request
        if isinstance(request, wire.SSLRequest):
            await _answer_ssl(channel, asked, attempt)
        else:
            _nothing_behind(channel, "GSSAPI encryption request")
            await channel.send(b"N")
    raise ProtocolError("bad packet")


startup_of = lru_cache(REMEMBERED)(wire.parse_startup)


def is_ordinary(packet: bytes) -> bool:
    """Whether it is a startup message, and a short one: clients of one program say the same each time."""
    return len(packet) <= LONGEST and packet[:2] == b"\0\3"


async def _refuse_message(channel: Channel) -> None:
    """Where a startup packet is due there is one with a type, or another protocol altogether: only who may understand
    it is given an answer, as by PgBouncer."""
    kind = await channel.check_header()
    if kind == b"p":
        raise LoginError("client password pkt before startup packet")
    raise LoginError("bad packet", notify=False)


async def _direct_tls(channel: Channel, asked: LoginQuestions, attempt: ClientFacts) -> None:
    """TLS without asking (sslnegotiation=direct). A client that names protocols must name PostgreSQL's, so that a
    browser cannot be led here: the context sees to that. As in PgBouncer it may name none."""
    if asked.tls_context is None or attempt.peer.is_unix:
        raise LoginError("direct TLS connection, but TLS is off here", notify=False)
    await _accept_tls(channel, asked.tls_context, attempt, direct=True)


async def _answer_ssl(channel: Channel, asked: LoginQuestions, attempt: ClientFacts) -> None:
    if channel.ssl_object is not None:
        raise ProtocolError("SSL req inside SSL")
    _nothing_behind(channel, "SSL request")
    if asked.tls_context is None or attempt.peer.is_unix:
        await channel.send(b"N")
        return
    await channel.send(b"S")
    await _accept_tls(channel, asked.tls_context, attempt)


def _nothing_behind(channel: Channel, what: str) -> None:
    """Bytes behind a request for encryption may be a man in the middle's (CVE-2021-3935)."""
    if channel.buffered:
        raise ProtocolError(f"received unencrypted data after {what}")


async def _accept_tls(channel: Channel, context: SSLContext, attempt: ClientFacts, *, direct: bool = False) -> None:
    try:
        await channel.start_tls(context, server_side=True, direct=direct)
    except TlsFailed as error:
        log = f"TLS handshake error: {error.message}"
        raise LoginError("failed to accept SSL", log=log, notify=False) from None
    attempt.tls = channel.tls


# ---- the startup message


async def _start(channel: Channel, asked: LoginQuestions, attempt: ClientFacts, startup: wire.Startup) -> Admitted:
    if asked.wordy:
        for line in heard(startup.params, asked.config.settings):
            asked.log(attempt, DEBUG, line)
    name_in(attempt, startup.params)
    if not attempt.tls and asked.tls_required(attempt.peer) and not attempt.peer.is_unix:
        raise LoginError("SSL required")
    if startup.minor or startup.protocol_options:
        await channel.send(wire.negotiate_protocol_version(0, startup.protocol_options))
    config = asked.config
    parameters = READINGS.read(startup.params, config)
    attempt.replicates = parameters.replication
    tracked = parameters.tracked
    if config.settings.application_name_add_host:
        tracked = _with_host(tracked, attempt.peer)
    if attempt.database == RESERVED:
        return await _admit_to_console(channel, asked, attempt, tracked)
    if (room := asked.check_room(channel)) is not None:
        await room
        config = asked.config
    return await _admit(channel, asked, attempt, config, parameters, tracked)


def name_in(attempt: ClientFacts, given: dict[str, str]) -> None:
    """So that a complaint about a parameter names its client."""
    user = given.get("user")
    if user:
        attempt.user = user
        attempt.database = given.get("database") or user


def _with_host(tracked: dict[str, str], peer: Peer) -> dict[str, str]:
    name = tracked.get("application_name", "app")
    return tracked | {"application_name": f"{name} - {peer.in_full}"}


async def _admit(
    channel: Channel,
    asked: LoginQuestions,
    attempt: ClientFacts,
    config: Config,
    parameters: Parameters,
    tracked: dict[str, str],
) -> Admitted:
    database = asked.find_database(attempt.database)
    if guarded(config.settings.auth_type, database) is ANY:
        # Whoever it says it is: here it is this one, in the limits and in the views.
        attempt.user = _forced_user(database)
    proof, database = await _authenticate(channel, asked, attempt, config, database)
    admitted = admitted_by(asked, attempt, database, parameters, tracked, proof)
    if proof.farewell:
        channel.put(proof.farewell)
    return admitted


def admitted_by(
    asked: LoginQuestions,
    attempt: ClientFacts,
    database: DatabaseConfig | None,
    parameters: Parameters,
    tracked: dict[str, str],
    proof: Proof,
) -> Admitted:
    """Somebody is who they claim to be: raises LoginError unless they may come in."""
    if database is None:
        if asked.config.settings.log_connections:
            asked.log(attempt, "LOG", f"login failed: db={attempt.database} user={attempt.user}")
        raise LoginError(f"no such database: {attempt.database}")
    asked.check_limits(database, attempt.user)
    return Admitted(
        database,
        attempt.user,
        tracked,
        parameters.session,
        parameters.replication,
        parameters.options,
        proof.credentials,
        attempt.tls,
    )


def guarded(method: AuthType, database: DatabaseConfig | None) -> AuthType:
    """The method for this database: one that has users of its own asks them for their passwords, however everybody else
    comes in."""
    own = database is not None and database.secrets is not None
    return AuthType.scram_sha_256 if own and method in UNGUARDED else method


def _forced_user(database: DatabaseConfig | None) -> str:
    if database is None or database.user is None:
        raise LoginError("bouncer config error", log="auth_type=any requires forced user", level=ERROR)
    return database.user


async def _admit_to_console(
    channel: Channel, asked: LoginQuestions, attempt: ClientFacts, tracked: dict[str, str]
) -> Admitted:
    rights: Rights = "admin"
    if is_own_user(attempt):
        asked.log(attempt, "LOG", "pgbouncer access from unix socket")
        proof = PROVED
    else:
        settings, said = asked.config.settings, attempt.user
        if settings.auth_type is AuthType.any:
            attempt.user = RESERVED
        proof, _ = await _authenticate(channel, asked, attempt, asked.config, None)
        rights = console_rights(settings, said if settings.auth_type is AuthType.any else attempt.user)
    if not rights:
        raise LoginError("not allowed")
    if rights == "stats":
        asked.check_limits(None, attempt.user)
    channel.put(proof.farewell)
    return Admitted(None, attempt.user, tracked, credentials=proof.credentials, tls=attempt.tls, rights=rights)


def is_own_user(attempt: ClientFacts) -> bool:
    """The system user that runs the pooler, on the Unix socket, under the reserved name."""
    return attempt.peer.is_unix and attempt.peer.uid == os.geteuid() and attempt.user == RESERVED


def console_rights(settings: Settings, user: str) -> Rights:
    """What an authenticated user may do on the admin database; empty: it may not enter."""
    if user in settings.admin_users:
        return "admin"
    open_to_all = settings.auth_type is AuthType.any
    return "stats" if open_to_all or user in settings.stats_users else ""


def log_attempt(asked: LoginQuestions, attempt: ClientFacts) -> None:
    replication = REPLICATION_WORDS[attempt.replicates]
    who = f"db={attempt.database} user={attempt.user}"
    asked.log(attempt, "LOG", f"login attempt: {who} tls={attempt.tls or 'no'} replication={replication}")


# ---- the proof


async def _authenticate(
    channel: Channel, asked: LoginQuestions, attempt: ClientFacts, config: Config, database: DatabaseConfig | None
) -> tuple[Proof, DatabaseConfig | None]:
    """By the method of auth_type or of the HBA rule; the database as it is then."""
    user = attempt.user
    method, rule = method_of(config, attempt, database)
    needed = method not in NO_SECRET_NEEDED
    grounds = asked.grounds(database, user)
    secret: Secret | None
    waited = needed and method in SECRET_ASKED
    if not needed:
        secret = Secret(user, "")
    elif database is not None and grounds.secret is not None:
        secret = grounds.secret
    else:
        secret, waited = await asked.find_secret(database, attempt, channel), True
    if secret is not None:
        # auth_query may know the user by another name than the client.
        attempt.user = secret.user
    if config.settings.log_connections:
        log_attempt(asked, attempt)
    if rule is None and config.settings.auth_type is HBA:
        raise LoginError("no authentication method is found")
    if secret is not None and method in UNGUARDED:
        return PROVED, _again(asked, attempt, database) if waited else database
    claim = claim_of(asked, config, user, secret, method, rule)
    proof = await prove(asked, attempt, claim, auth.authenticate(method, channel, claim))
    return proof, unchanged(asked, attempt, user, database, grounds if waited else None)


def method_of(config: Config, attempt: ClientFacts, database: DatabaseConfig | None) -> tuple[AuthType, HbaRule | None]:
    """How this client is asked who it is, and the HBA rule that says so, if one does."""
    method, rule = config.settings.auth_type, None
    if method is HBA:
        rule = _rule(config, attempt)
        method = AuthType.reject if rule is None else rule.method
    return guarded(method, database), rule


def claim_of(
    asked: LoginQuestions, config: Config, user: str, secret: Secret | None, method: AuthType, rule: HbaRule | None
) -> Claim:
    stand_in = StandIn(user, asked.likeness(user)) if method in SECRET_ASKED else auth.NOBODYS
    return Claim(
        user,
        secret or stand_in,
        stand_in,
        secret is not None,
        config.settings,
        names=(user,) if rule is None else config.hba.system_names(rule, user),
        map=rule.map if rule else None,
        options=rule.options if rule else "",
    )


async def prove(asked: LoginQuestions, attempt: ClientFacts, claim: Claim, steps: Awaitable[Proof]) -> Proof:
    """The steps of a proof. Who does not exist is told of in the log some time after they have been answered: what a
    line takes would tell them."""
    try:
        return await steps
    except BaseException:
        asyncio.get_running_loop().call_later(DISCREET, _say_if_unknown, asked, attempt, claim)
        raise


def unchanged(
    asked: LoginQuestions, attempt: ClientFacts, user: str, database: DatabaseConfig | None, grounds: Grounds | None
) -> DatabaseConfig | None:
    """The database as it is after the proof. Raises LoginError where the grounds, if they count, are not what they
    were: what somebody has proved to know was withdrawn meanwhile, or counts for something else."""
    now = _again(asked, attempt, database)
    if grounds is not None and asked.grounds(now, user) != grounds:
        raise LoginError("password authentication failed")
    return now


def _again(asked: LoginQuestions, attempt: ClientFacts, database: DatabaseConfig | None) -> DatabaseConfig | None:
    """The database that a login goes to, as it is after something was waited for: the configuration may be another one
    by now. One that was not there at first is not there for this login."""
    return None if database is None else asked.find_database(attempt.database)


def _say_if_unknown(asked: LoginQuestions, attempt: ClientFacts, claim: Claim) -> None:
    if not claim.known:
        asked.log(attempt, "LOG", f"no such user: {claim.user}")


def _rule(config: Config, attempt: ClientFacts) -> HbaRule | None:
    return config.hba.match(
        attempt.database,
        attempt.user,
        None if attempt.peer.is_unix else attempt.peer.addr,
        tls=bool(attempt.tls),
        replication=attempt.replicates is Replication.PHYSICAL,
    )
