"""From a target to a logged-in PostgreSQL connection: resolve, connect, TLS, log in, connect_query.

Nothing here decides whom to dial or when to try again. The rule: whatever the server does (vanish, stall,
lie about a length, send bytes it should not) ends in a DialError or in the caller's deadline, with the
socket closed; nothing sent before TLS is believed, and a server that skips the proof it owes is not a
server."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import field
from ssl import SSLContext
from typing import Literal, NamedTuple

from pooler import wire
from pooler.auth import NOTHING, Credentials, md5_answer, md5_secret
from pooler.channel import Channel, ConnectionClosed, TlsFailed
from pooler.kinds import SslMode
from pooler.scram import MECHANISM, ClientExchange, ScramError
from pooler.tcp import SocketOptions
from pooler.values import dataclass
from pooler.wire import ProtocolError

MAX_LOGIN_MESSAGE = 1 << 20
MAX_LOGIN_MESSAGES = 2000
"""Messages a server may send before it is ready; PostgreSQL sends about twenty."""
MAX_ROW = 64 << 20
"""Longest message in the answer to connect_query; the answer itself is thrown away."""
NO_ENCRYPTION = "28000"
"""invalid_authorization_specification: how PostgreSQL says that pg_hba.conf has no entry, or only hostssl."""
REPLICATION_VALUES = {"physical": "yes", "logical": "database"}


class DialError(Exception):
    """No connection. `message` and `sqlstate` are for waiting clients: the server's own when it sent an
    ErrorResponse (`fields`), else PgBouncer's words. `detail` is more for the log. `stage`: connect or
    login."""

    def __init__(
        self,
        message: str,
        sqlstate: str = wire.PROTOCOL_VIOLATION,
        *,
        stage: Literal["connect", "login"],
        fields: Mapping[str, str] | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(f"{message}: {detail}" if detail else message)
        self.message = message
        self.sqlstate = sqlstate
        self.stage = stage
        self.fields = fields
        self.detail = detail


class Address(NamedTuple):
    """Where a socket connects to, as the socket module wants it."""

    family: int
    sockaddr: str | tuple[str, int] | tuple[str, int, int, int]

    def __str__(self) -> str:
        """As the log has it."""
        if isinstance(self.sockaddr, str):
            return self.sockaddr.replace("\0", "@", 1)
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def is_loopback(self) -> bool:
        return not isinstance(self.sockaddr, str) and ipaddress.ip_address(self.sockaddr[0]).is_loopback


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
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Further startup parameters: application_name, client_encoding, options, ..."""
    replication: str = "none"
    """none, logical or physical."""
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


async def dial(
    target: Target, *, loop: asyncio.AbstractEventLoop, connected: Callable[[Channel], None] | None = None
) -> Dialed:
    """Raises DialError. `connected` is called when the server has taken the connection, before anything is said."""
    if target.sslmode is not SslMode.allow:
        return await _dial(target, loop, connected, tls=target.sslmode.rank >= SslMode.prefer.rank)
    try:
        return await _dial(target, loop, connected, tls=False)
    except DialError as error:
        if error.fields is None or error.sqlstate != NO_ENCRYPTION or target.tls_context is None:
            raise
    return await _dial(target, loop, connected, tls=True)


async def send_cancel(target: Target, key: bytes, *, loop: asyncio.AbstractEventLoop) -> None:
    """Ask the server to cancel what the connection with this key does, and wait until it has taken notice (it
    closes the connection). Raises DialError."""
    channel, _ = await _connect(target, loop)
    try:
        await _secure(channel, target, wanted=target.sslmode.rank >= SslMode.prefer.rank)
        await channel.send(wire.cancel_request(key))
        await _until_closed(channel)
    except (ConnectionClosed, ProtocolError) as error:
        raise DialError("failed cancel request", stage="login", detail=error.message) from None
    finally:
        channel.abort()


async def _until_closed(channel: Channel) -> None:
    try:
        await channel.peek()
    except ConnectionClosed:
        return
    raise ProtocolError("the server answered a cancel request")


async def resolve(host: str, port: int, loop: asyncio.AbstractEventLoop) -> tuple[Address, ...]:
    """All addresses of a host, in the system's order. Raises DialError."""
    if address := resolve_here(host, port):
        return (address,)
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        detail = f"{host}: {error.strerror if isinstance(error, OSError) else error}"
        raise DialError("server DNS lookup failed", stage="connect", detail=detail) from None
    return tuple(dict.fromkeys(Address(int(family), sockaddr) for family, _, _, _, sockaddr in found))  # type: ignore[arg-type]


def resolve_here(host: str, port: int) -> Address | None:
    """The address of a host for which nobody needs to be asked; None for a name."""
    if host.startswith("/"):
        return Address(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")
    if host.startswith("@"):
        return Address(socket.AF_UNIX, f"\0{host[1:]}/.s.PGSQL.{port}")
    return _literal(host, port)


def _literal(host: str, port: int) -> Address | None:
    """The address when `host` is one already, so that no thread has to ask."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return Address(socket.AF_INET, (host, port))
    scope = _scope(ip.scope_id)
    return Address(socket.AF_INET6, (host.partition("%")[0], port, 0, scope))


def _scope(name: str | None) -> int:
    if not name:
        return 0
    try:
        return int(name) if name.isdecimal() else socket.if_nametoindex(name)
    except OSError:
        return 0


# ---- connect


async def _connect(target: Target, loop: asyncio.AbstractEventLoop) -> tuple[Channel, Address]:
    addresses = target.addresses or await resolve(target.host, target.port, loop)
    failure = DialError("server DNS lookup failed", stage="connect", detail=f"{target.host}: no address")
    for address in addresses:
        try:
            return await _connect_to(address, target.socket_options, loop), address
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            failure = DialError("connect failed", stage="connect", detail=f"{address}: {reason}")
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


async def _secure(channel: Channel, target: Target, *, wanted: bool, needed: bool = False) -> None:
    """SSLRequest and handshake, as the sslmode says."""
    if not wanted or channel.peer.is_unix:
        return
    needed = needed or target.sslmode.rank >= SslMode.require.rank
    context = target.tls_context
    if context is None:
        if needed:
            raise DialError("TLS startup failed", stage="login", detail="TLS is not configured")
        return
    await channel.send(wire.ssl_request())
    answer = await channel.read_exactly(1)
    if answer == b"N" and not needed:
        return
    if answer != b"S":
        raise DialError("server refused SSL" if answer == b"N" else "bad sslreq answer", stage="login")
    if channel.buffered:
        raise DialError("received unencrypted data after SSL response", stage="login")
    try:
        await channel.start_tls(context, server_side=False, server_hostname=target.host)
    except TlsFailed as error:
        raise DialError("TLS startup failed", stage="login", detail=error.message) from None


# ---- log in


async def _dial(
    target: Target, loop: asyncio.AbstractEventLoop, connected: Callable[[Channel], None] | None, *, tls: bool
) -> Dialed:
    channel, address = await _connect(target, loop)
    if connected is not None:
        connected(channel)
    try:
        await _secure(channel, target, wanted=tls, needed=target.sslmode is SslMode.allow)
        login = _Login(channel, target)
        await login.run()
        if target.connect_query:
            await login.run_query(target.connect_query)
        return login.dialed(address)
    except ConnectionClosed as error:
        channel.abort()
        raise DialError("server conn crashed?", stage="login", detail=error.message) from None
    except ProtocolError as error:
        channel.abort()
        raise DialError(error.message, stage="login") from None
    except BaseException:
        channel.abort()
        raise


class _Login:
    """The conversation with one server up to ReadyForQuery. `_handlers` says what each message means."""

    __slots__ = ("_channel", "_exchange", "_key", "_parameters", "_ready", "_target", "_welcome")

    def __init__(self, channel: Channel, target: Target) -> None:
        self._channel = channel
        self._target = target
        self._exchange: ClientExchange | None = None
        """Begun and not yet ended with the server's own proof."""
        self._parameters: dict[str, str] = {}
        self._key = b""
        self._welcome = False
        """AuthenticationOk has come."""
        self._ready = False

    def dialed(self, address: Address) -> Dialed:
        # Signed, as PostgreSQL has process ids: another pooler's may be any four bytes.
        pid = int.from_bytes(self._key[:4], "big", signed=True)
        return Dialed(self._channel, self._parameters, pid, self._key, address, self._channel.tls)

    async def run(self) -> None:
        await self._channel.send(wire.startup_message(_startup_parameters(self._target)))
        for _ in range(MAX_LOGIN_MESSAGES):
            kind, body = await self._channel.read_message(MAX_LOGIN_MESSAGE)
            await self._take(kind, body)
            if self._ready:
                return
        raise ProtocolError("unknown pkt from server")

    async def run_query(self, sql: str) -> None:
        """connect_query: what it answers is thrown away, an error ends the connection."""
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
        if failure is not None:
            raise DialError(
                "exec_on_connect query failed", stage="login", detail=failure.get("M", ""), fields=None
            )

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
            self._ready = bool(wire.read_ready_for_query(body))
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
            return
        if code == 12:
            self._finish_scram(data)
            return
        await self._channel.send(self._answer(code, data))

    def _answer(self, code: int, data: bytes) -> bytes:
        credentials = self._target.credentials
        if code == 3:
            if credentials.password is None:
                raise _login_failed("wrong password type")
            return wire.password_message(wire.encode(credentials.password))
        if code == 5:
            return self._answer_md5(data)
        if code == 10:
            return self._begin_scram(data)
        if code == 11 and self._exchange is not None:
            try:
                return wire.sasl_response(self._exchange.final(data))
            except ScramError as error:
                raise DialError("failed to answer authreq", stage="login", detail=error.message) from None
        detail = f"the server asks for authentication method {code}"
        raise DialError("failed to answer authreq", stage="login", detail=detail)

    def _answer_md5(self, salt: bytes) -> bytes:
        credentials = self._target.credentials
        stored = credentials.md5
        if credentials.password is not None:
            stored = md5_secret(credentials.password, self._target.user)
        if stored is None or len(salt) != 4:
            raise _login_failed("wrong password type")
        return wire.password_message(md5_answer(stored, salt).encode())

    def _begin_scram(self, data: bytes) -> bytes:
        if MECHANISM not in wire.read_mechanisms(data):
            raise _login_failed("none of the server's SASL authentication mechanisms are supported")
        credentials = self._target.credentials
        if credentials.password is None and credentials.keys is None:
            raise _login_failed("wrong password type")
        if self._exchange is not None:
            raise ProtocolError("bad packet")
        self._exchange = ClientExchange(credentials.password, credentials.keys)
        return wire.sasl_initial_response(MECHANISM, self._exchange.first())

    def _finish_scram(self, data: bytes) -> None:
        if self._exchange is None:
            raise ProtocolError("bad packet")
        try:
            self._exchange.finish(data)
        except ScramError as error:
            known = error.message == "invalid server signature"
            raise _login_failed(error.message if known else "failed to verify server signature") from None
        self._exchange = None


def _startup_parameters(target: Target) -> dict[str, str]:
    parameters = {"user": target.user, "database": target.dbname or target.user, **target.parameters}
    if target.replication != "none":
        parameters["replication"] = REPLICATION_VALUES[target.replication]
    return parameters


def _refused(fields: Mapping[str, str]) -> DialError:
    message = fields.get("M") or "login failed"
    return DialError(message, fields.get("C") or wire.PROTOCOL_VIOLATION, stage="login", fields=fields)


def _login_failed(why: str) -> DialError:
    return DialError(f"server login failed: {why}", stage="login")
