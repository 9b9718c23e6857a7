"""From a target to a logged-in PostgreSQL connection: resolve, connect, TLS, log in, connect_query.

Nothing here decides whom to dial or when to try again. The rule: whatever the server does (vanish, stall,
lie about a length, send bytes it should not) ends in a DialError or in the caller's deadline, with the
socket closed; nothing sent before TLS is believed, and a server that skips the proof it owes is not a
server."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import field
from ssl import SSLContext

from pooler import wire
from pooler.config.kinds import SslMode
from pooler.kernel import is_ours
from pooler.log import ERROR
from pooler.net.address import Address, resolve_here, tcp_port
from pooler.net.channel import Channel, ConnectionClosed, TlsFailed
from pooler.net.credentials import NOTHING, Credentials, md5_answer, md5_secret
from pooler.net.derivation import Memory, Work
from pooler.net.dialerror import DialError
from pooler.net.scram import MECHANISM, BadSignature, ClientExchange, Keys, ScramError
from pooler.net.tcp import SocketOptions
from pooler.pools.connection import Replication
from pooler.values import dataclass
from pooler.wire import BadHeader, ProtocolError

MAX_LOGIN_MESSAGE = 1 << 20
MAX_LOGIN_BYTES = 2 << 20
MAX_LOGIN_MESSAGES = 2000
"""Messages, and bytes of them all, that a server may send before it is ready; PostgreSQL sends about twenty."""
MAX_COMPLAINT = 2000
"""Characters of a server's error that are passed on."""
SERVER_KEYS = Memory()
"""Of the passwords that servers are shown."""
MAX_ROW = 64 << 20
"""Longest message in the answer to connect_query; the answer itself is thrown away."""
UNANSWERED = "failed to answer authreq"
WRONG_TYPE = "wrong password type"
NO_KEYS = "password is SCRAM secret but client authentication did not provide SCRAM keys"
REPLICATION_VALUES = {Replication.PHYSICAL: "yes", Replication.LOGICAL: "database"}
NO_TLS = "server refused SSL"


@dataclass(frozen=True, slots=True)
class Target:
    """One server and how to log in there."""

    host: str
    """Name, IP address, /directory of a Unix socket, or @name of an abstract one. Certificates are checked
    for it."""
    port: int
    dbname: str = ""
    user: str = ""
    credentials: Credentials = NOTHING
    addresses: tuple[Address, ...] = ()
    """Tried in this order; none: resolve `host`."""
    sslmode: SslMode = SslMode.disable
    tls_context: SSLContext | None = None
    tls_problem: str = ""
    """Why there is no context, where the sslmode wants one."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Further startup parameters: application_name, client_encoding, options, ..."""
    replication: Replication = Replication.NONE
    connect_query: str | None = None
    socket_options: SocketOptions = field(default_factory=SocketOptions)


@dataclass(frozen=True, slots=True)
class Dialed:
    """A server that is ready for queries."""

    channel: Channel
    parameters: dict[str, str]
    """Every ParameterStatus."""
    pid: int
    """0 when the server sent no BackendKeyData."""
    cancel_key: bytes
    """Process id and secret in one, as a CancelRequest wants it; may be empty like `pid`."""
    address: Address
    tls: str
    complaint: str = ""
    """What the server says against connect_query."""


Watcher = Callable[[Channel], None]
"""Told of a connection on its way: when the server has taken it, before anything is said, and once it has TLS."""


def _unwatched(channel: Channel) -> None:
    """For who only wants the outcome."""


async def dial(target: Target, *, loop: asyncio.AbstractEventLoop, watcher: Watcher = _unwatched) -> Dialed:
    """Raises DialError."""
    channel, address = await _connect(target, loop)
    watcher(channel)
    try:
        await _secure(channel, target)
        if channel.tls:
            watcher(channel)
        login = _Login(channel, target)
        await login.run()
        if target.connect_query:
            await login.run_query(target.connect_query)
        return login.dialed(address)
    except ConnectionClosed as error:
        channel.abort()
        raise DialError("server conn crashed?", stage="login", detail=error.message) from None
    except BadHeader as error:
        channel.abort()
        raise DialError("bad pkt header", stage="login", detail=error.message) from None
    except ProtocolError as error:
        channel.abort()
        raise DialError(error.message, stage="login") from None
    except BaseException:
        channel.abort()
        raise


async def send_cancel(
    target: Target, key: bytes, *, loop: asyncio.AbstractEventLoop, watcher: Watcher = _unwatched
) -> None:
    """Ask the server to cancel what the connection with this key does, and wait until it has taken notice (it
    closes the connection). Raises DialError."""
    channel, _ = await _connect(target, loop)
    watcher(channel)
    try:
        await _secure(channel, target)
        await channel.send(wire.cancel_request(key))
        await _until_closed(channel)
    except (ConnectionClosed, ProtocolError) as error:
        raise DialError("failed cancel request", stage="login", detail=error.message) from None
    finally:
        channel.abort()


async def _until_closed(channel: Channel) -> None:
    """Raises ConnectionClosed for a reset: whoever that came from, it is not how PostgreSQL says that it is done."""
    try:
        await channel.peek()
    except ConnectionClosed as closed:
        if not closed.orderly:
            raise
        return
    raise ProtocolError("the server answered a cancel request")


async def resolve(host: str, port: int, loop: asyncio.AbstractEventLoop) -> tuple[Address, ...]:
    """All addresses of a host, in the system's order. Raises DialError."""
    if address := resolve_here(host, port):
        return (address,)
    try:
        found = await loop.getaddrinfo(host, tcp_port(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        detail = f"{host}: {error.strerror if isinstance(error, OSError) else error}"
        raise DialError("server DNS lookup failed", stage="connect", detail=detail) from None
    return tuple(dict.fromkeys(Address(int(family), sockaddr) for family, _, _, _, sockaddr in found))  # type: ignore[arg-type]


# ---- connect


async def _connect(target: Target, loop: asyncio.AbstractEventLoop) -> tuple[Channel, Address]:
    addresses = target.addresses or await resolve(target.host, target.port, loop)
    failure = DialError("server DNS lookup failed", stage="connect", detail=f"{target.host}: no address")
    for address in addresses:
        try:
            return await _connect_to(address, target.socket_options, loop), address
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            failure = DialError(
                "connect failed", stage="connect", detail=f"{address}: {reason}", ours=is_ours(error)
            )
    raise failure


async def _connect_to(address: Address, options: SocketOptions, loop: asyncio.AbstractEventLoop) -> Channel:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        options.apply(sock, local=address.is_loopback)
        await loop.sock_connect(sock, address.sockaddr)
        return Channel(sock, loop)
    except BaseException:
        sock.close()
        raise


async def _secure(channel: Channel, target: Target) -> None:
    """SSLRequest and handshake, as the sslmode says: allow is like prefer, as in PgBouncer."""
    if target.sslmode is SslMode.disable or channel.peer.is_unix:
        return
    await channel.send(wire.ssl_request())
    answer = await channel.read_exactly(1)
    if answer in b"SN" and channel.buffered:
        raise DialError("received unencrypted data after SSL response", stage="login")
    if answer == b"N" and target.sslmode.rank < SslMode.require.rank:
        return
    if answer != b"S":
        raise DialError(NO_TLS if answer == b"N" else "bad sslreq answer", stage="login")
    if target.tls_context is None:
        problem = target.tls_problem or "TLS is not configured"
        raise DialError("sslreq processing failed", stage="login", log=f"TLS connect error: {problem}")
    verify_name = target.sslmode is SslMode.verify_full
    try:
        await channel.start_tls(
            target.tls_context, server_side=False, server_hostname=target.host, verify_name=verify_name
        )
    except TlsFailed as error:
        raise DialError("server conn crashed?", stage="login", log=f"TLS handshake error: {error.message}") from None


# ---- log in


class _Login:
    """The conversation with one server up to ReadyForQuery. `_take` says what each message means."""

    __slots__ = (
        "_channel",
        "_complaint",
        "_exchange",
        "_key",
        "_method",
        "_parameters",
        "_ready",
        "_target",
        "_told",
        "_welcome",
    )

    def __init__(self, channel: Channel, target: Target) -> None:
        self._channel = channel
        self._target = target
        self._method = 0
        """What the server wants as a proof: it may ask for one."""
        self._exchange: ClientExchange | None = None
        """Begun and not yet ended with the server's own proof."""
        self._parameters: dict[str, str] = {}
        self._told = 0
        """Bytes of all its messages."""
        self._key = b""
        self._welcome = False
        """AuthenticationOk has come."""
        self._ready = False
        self._complaint = ""

    def dialed(self, address: Address) -> Dialed:
        # Signed, as PostgreSQL has process ids: another pooler's may be any four bytes.
        pid = int.from_bytes(self._key[:4], "big", signed=True)
        return Dialed(self._channel, self._parameters, pid, self._key, address, self._channel.tls, self._complaint)

    async def run(self) -> None:
        await self._channel.send(wire.startup_message(_startup_parameters(self._target)))
        for _ in range(MAX_LOGIN_MESSAGES):
            kind, body = await self._channel.read_message(MAX_LOGIN_MESSAGE)
            self._told += len(body)
            if self._told > MAX_LOGIN_BYTES:
                break
            await self._take(kind, body)
            if self._ready:
                return
        raise DialError("bad packet", stage="login", detail="the server says too much before it is ready")

    async def run_query(self, sql: str) -> None:
        """connect_query: what it answers is thrown away, and an error is for the log only, as in PgBouncer. It may
        not leave a transaction open, which would be the next client's."""
        await self._channel.send(wire.query(sql))
        failure: Mapping[str, str] | None = None
        while True:
            kind, body = await self._channel.read_message(MAX_ROW)
            if kind == b"Z":
                break
            if kind == b"E":
                failure = wire.error_fields(body)
            elif kind == b"S":
                self._note_parameter(body)
            elif kind in b"GW":
                raise DialError("exec_on_connect query failed", stage="login", detail="COPY")
        if wire.read_ready_for_query(body) != b"I":
            detail = "it leaves a transaction open"
            raise DialError("exec_on_connect query failed", stage="login", detail=detail)
        if failure is not None:
            self._complaint = f"{failure.get('S', 'ERROR')}: {failure.get('M', '')}"[:MAX_COMPLAINT]

    async def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"E":
            raise _refused(wire.error_fields(body))
        if kind in (b"N", b"v"):
            return
        if kind == b"R" and not self._welcome:
            await self._authentication(body)
        elif kind == b"S" and self._welcome:
            self._note_parameter(body)
        elif kind == b"K" and self._welcome:
            self._key = wire.read_backend_key_data(body)
        elif kind == b"Z" and self._welcome:
            if wire.read_ready_for_query(body) != b"I":
                raise ProtocolError("bad packet")
            self._ready = True
        else:
            raise ProtocolError("unknown pkt from server")

    def _note_parameter(self, body: bytes) -> None:
        name, value = wire.read_parameter_status(body)
        self._parameters[name] = value

    # ---- proofs

    async def _authentication(self, body: bytes) -> None:
        code, data = wire.read_authentication(body)
        if code == 0:
            if self._exchange is not None:
                raise _login_failed("failed to verify server signature")
            self._welcome = True
        elif code in (11, 12):
            await self._go_on(code, data)
        elif self._method == code == 10:
            raise _unanswered("protocol error: duplicate AuthenticationSASL message from server")
        elif self._method:
            raise _unanswered(f"the server asks for authentication method {code} after {self._method}")
        else:
            self._method = code
            await self._channel.send(self._answer(code, data))

    def _answer(self, code: int, data: bytes) -> bytes:
        credentials = self._target.credentials
        if code == 3:
            if credentials.password is None:
                # A hash would do at a careless server, and be known to everybody on the way.
                raise _wrong_kind("clear-text")
            return wire.password_message(wire.encode(credentials.password))
        if code == 5:
            return self._answer_md5(data)
        if code == 10:
            return self._begin_scram(data)
        raise _unanswered(f"unknown/unsupported auth method: {code & 0xFFFFFFFF}")

    def _answer_md5(self, salt: bytes) -> bytes:
        credentials = self._target.credentials
        stored = credentials.md5
        if credentials.password is not None:
            stored = md5_secret(credentials.password, self._target.user)
        if stored is None or len(salt) != 4:
            raise _wrong_kind("MD5")
        return wire.password_message(md5_answer(stored, salt).encode())

    def _begin_scram(self, data: bytes) -> bytes:
        if MECHANISM not in wire.read_mechanisms(data):
            raise _login_failed("none of the server's SASL authentication mechanisms are supported")
        credentials = self._target.credentials
        if credentials.password is None and credentials.keys is None:
            raise _wrong_kind("SCRAM", NO_KEYS if credentials.verifier else WRONG_TYPE)
        self._exchange = ClientExchange()
        return wire.sasl_initial_response(MECHANISM, self._exchange.first())

    async def _go_on(self, code: int, data: bytes) -> None:
        """With SCRAM: our proof, then the server's."""
        if self._exchange is None:
            step, before = ("Continue", "") if code == 11 else ("Final", "Continue")
            raise _unanswered(f"protocol error: AuthenticationSASL{step} without prior AuthenticationSASL{before}")
        try:
            if code == 11:
                salt, iterations = self._exchange.take(data)
                keys = await self._keys(salt, iterations)
                await self._channel.send(wire.sasl_response(self._exchange.final(keys)))
            else:
                self._exchange.finish(data)
                self._exchange = None
        except ScramError as error:
            if code == 11:
                raise _unanswered(error.message) from None
            known = isinstance(error, BadSignature)
            raise _login_failed(error.message if known else "failed to verify server signature") from None

    async def _keys(self, salt: bytes, iterations: int) -> Keys:
        credentials = self._target.credentials
        if credentials.password is not None:
            return await SERVER_KEYS.derive(Work(credentials.password, salt, iterations))
        assert credentials.keys is not None
        return credentials.keys


def _startup_parameters(target: Target) -> dict[str, str]:
    parameters = {"user": target.user, "database": target.dbname or target.user, **target.parameters}
    if target.replication is not Replication.NONE:
        parameters["replication"] = REPLICATION_VALUES[target.replication]
    return parameters


def _unanswered(why: str) -> DialError:
    return DialError(UNANSWERED, stage="login", detail=why)


def _refused(fields: Mapping[str, str]) -> DialError:
    message = (fields.get("M") or "login failed")[:MAX_COMPLAINT]
    return DialError(message, fields.get("C") or wire.PROTOCOL_VIOLATION, stage="login", fields=fields)


def _login_failed(why: str) -> DialError:
    return DialError(f"server login failed: {why}", stage="login", refused=True)


def _wrong_kind(method: str, why: str = WRONG_TYPE) -> DialError:
    """What is known of the user cannot be shown in the way that the server asks for: clients and the log's other lines
    hear it in PgBouncer's words."""
    return DialError(
        f"server login failed: {WRONG_TYPE}",
        stage="login",
        log=f"cannot do {method} authentication: {why}",
        level=ERROR,
        closing=UNANSWERED,
        refused=True,
    )
