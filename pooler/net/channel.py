"""One non-blocking socket in asyncio's hands while a connection logs in, is dialled or talks to the console.

Framing and TLS only: a Channel knows lengths and bytes, not what messages mean. Its buffers are bounded by
what the caller allows; deadlines are the caller's. The socket is watched from the first wait for bytes to the
end: logins come in storms, and a descriptor registered for each message would cost as much as the login.
After the login `detach` takes the socket, the TLS state and the bytes already read out of it for the relay,
and nothing of the Channel remains. TLS is an `ssl.SSLObject` over two MemoryBIOs, so that the relay can go on
with the very same state.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable
from ssl import MemoryBIO, SSLObject
from typing import Any, TypeVar

from pooler.net import identity
from pooler.net.address import Peer
from pooler.net.tcp import Choice
from pooler.relay import Inlet, Newcomer
from pooler.relay.engine import key_exchange
from pooler.wire import ProtocolError

T = TypeVar("T")

MAX_STARTUP_PACKET = 65_535
"""PgBouncer's; PostgreSQL takes 10,000 bytes, but what a client sets is sent to its servers one by one."""
MAX_LENGTH = (1 << 31) - 1
"""Lengths are signed."""
CHUNK = 8192
AHEAD = CHUNK
"""Bytes that are read of a peer while nothing is wanted of it: whether it is still there shows in what comes behind."""
LOOK = 0.5
"""Seconds between two looks whether it is, when that much has come."""
TLS_SLICE = 64 * 1024
"""Plaintext encrypted at once when sending, so that the outgoing buffer stays small."""
DRAIN_LIMIT = 1 << 20
"""Unread bytes thrown away when closing: left unread, the kernel sends a reset that overtakes our error."""


class ConnectionClosed(Exception):
    """The peer is gone: end of file, a reset, or the end of its TLS session. `orderly`: it has closed by itself."""

    def __init__(self, message: str = "unexpected eof", *, orderly: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.orderly = orderly


class TlsFailed(Exception):
    """TLS could not be set up, or what came was not TLS. `message` is PgBouncer's words and OpenSSL's reason."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class LoopSocket:
    """A socket of Python's in the loop's hands, with the face that the relay's Newcomer has by itself."""

    __slots__ = ("_loop", "_sock", "_watched")

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._watched = False

    def peer(self, cls: type[Peer]) -> Peer:
        return _peer_of(self._sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self, most: int) -> bytes | None:
        """Up to `most` bytes, none at the end of the stream; None when nothing is here now. Raises OSError."""
        try:
            return self._sock.recv(most)
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: bytes) -> int:
        """How much of `data` the socket takes at once. Raises OSError."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def tune(self, choices: Iterable[Choice]) -> None:
        """Raises OSError."""
        for choice in choices:
            self._sock.setsockopt(*choice)

    async def send_all(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    def watch(self, wake: Callable[[], object]) -> None:
        """Call `wake` as long as there is something to receive, until `unwatch`."""
        self._loop.add_reader(self._sock.fileno(), wake)
        self._watched = True

    def unwatch(self) -> None:
        if self._watched:
            self._loop.remove_reader(self._sock.fileno())
            self._watched = False

    def detach(self) -> int:
        """The descriptor, no longer ours."""
        self.unwatch()
        return self._sock.detach()


class Channel(Inlet):
    """Reads and writes bytes of one connection, over TLS once that has begun. One reader and one writer at a time.

    The Inlet's are `_line`, `_buffer`, `_incoming`, the `_waiter` who is to be told when the `_watched` line has
    something, and `_end`, why nothing more will come; `heard`: whether the peer has ever said anything; `longest`:
    bytes of the longest packet that is one, whatever its reader allows; `at_work`: whether the peer waits for us and
    not we for it."""

    __slots__ = ()
    _face = LoopSocket
    _end_of = Peer
    peer: Peer

    # ---- facts

    @property
    def ssl_object(self) -> SSLObject | None:
        return self._ssl

    @property
    def tls(self) -> str:
        """Such as `TLSv1.3/TLS_AES_256_GCM_SHA384`; empty without TLS. Of a client PgBouncer names the curve, up to TLS
        1.2."""
        if self._ssl is None or self._incoming is None or self._outgoing is None:
            return ""
        cipher, version = self._ssl.cipher(), self._ssl.version()
        curve = ""
        if self._ssl.server_side and version != "TLSv1.3":
            curve = key_exchange(self._ssl, self._incoming, self._outgoing)
        return sys.intern(f"{version}/{cipher[0] if cipher else ''}{f'/ECDH={curve}' if curve else ''}")

    @property
    def buffered(self) -> int:
        """Bytes received (and decrypted) that no read has consumed."""
        return len(self._buffer)

    @property
    def ahead(self) -> bytes:
        """Those bytes."""
        return bytes(self._buffer)

    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate as `ssl` describes it, None without one."""
        if self._ssl is None:
            return None
        return self._ssl.getpeercert() or None

    # ---- reading

    async def peek(self) -> int:
        """The next byte, left in place."""
        while not self._buffer:
            await self.more()
        return self._buffer[0]

    async def until_gone(self) -> None:
        """Until the peer has left: never returns, raises ConnectionClosed. What it sends early stays to be read, and
        once that is much it stays in the socket, where an end behind it shows only to who looks."""
        while len(self._buffer) < AHEAD:
            await self.more()
        while not self._hung_up():
            await asyncio.sleep(LOOK)
        raise ConnectionClosed

    def _hung_up(self) -> bool:
        look = select.poll()
        look.register(self.fileno(), select.POLLRDHUP)
        return bool(look.poll(0))

    async def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self.more()
        return self.consume(0, count)

    async def read_startup(self, max_size: int = MAX_STARTUP_PACKET) -> bytes:
        """Body of a packet without a type byte: the first ones a client sends."""
        while (body := self.packet(0, 8, max_size)) is None:
            await self.more()
        return body

    async def check_header(self) -> bytes:
        """The type of the next message, all left in place. Raises BadHeader for a length that none can have."""
        while len(self._buffer) < 5:
            await self.more()
        self.packet_end(1, 4, MAX_LENGTH)
        return bytes(self._buffer[:1])

    async def read_message(self, max_size: int = 1 << 20) -> tuple[bytes, bytes]:
        """(type, body) of the next message; `max_size` bounds its length field."""
        while (end := self.packet_end(1, 4, max_size)) > len(self._buffer):
            await self.more()
        kind = bytes(self._buffer[:1])
        return kind, self.consume(5, end)

    async def read_body(self, max_size: int) -> bytes:
        """As `read_message`, of one whose type is known."""
        while (body := self.packet(1, 4, max_size)) is None:
            await self.more()
        return body

    async def _decrypt(self, tls: SSLObject) -> None:
        """More plaintext into the buffer. An exception of `ssl` costs as much as a record: with nothing to decrypt it
        is not asked."""
        if not (self._cipher_here() or tls.pending()):
            await self._flush()
            await self._feed()
        while True:
            try:
                data = tls.read(CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLZeroReturnError:
                raise ConnectionClosed from None
            except ssl.SSLError as error:
                raise ConnectionClosed(tls_reason(error), orderly=False) from None
            else:
                if not data:
                    raise ConnectionClosed
                self._buffer += data
                return

    def _cipher_here(self) -> int:
        """Bytes of ciphertext that were received and not looked at."""
        return self._incoming.pending if self._incoming is not None else 0

    async def _feed_later(self) -> None:
        """What was `put` comes first."""
        await self.send(b"")
        await self._feed()

    def _unwatch(self) -> None:
        self._open().unwatch()
        self._watched = False

    def ended(self, error: int) -> None:
        """Nothing more will come: for this `errno`, 0: the peer has closed, -1: for an error without one."""
        self._end = self._lost(error) if error else ConnectionClosed()

    def _lost(self, error: int) -> ConnectionClosed:
        """What tells of this `errno`."""
        return ConnectionClosed(_reason(error), orderly=False)

    def put_back(self, data: bytes) -> None:
        """Bytes that were read of the peer already: they come first."""
        self._buffer[:0] = data

    # ---- writing

    async def _send(self, data: bytes) -> None:
        """As `send`, what the socket does not take at once."""
        if self._ssl is None:
            return await self._send_raw(data)
        for start in range(0, len(data), TLS_SLICE):
            try:
                self._ssl.write(data[start : start + TLS_SLICE])
            except ssl.SSLError as error:
                raise ConnectionClosed(tls_reason(error)) from None
            await self._flush()

    def send_now(self, data: bytes) -> None:
        """What the socket takes at once of a last message; never waits, a peer that is gone is no error."""
        line = self._line
        if line is None:
            return
        data, self._held = self._held + data, b""
        with contextlib.suppress(OSError, ssl.SSLError):
            if self._ssl is not None and self._outgoing is not None:
                self._ssl.write(data)
                data = self._outgoing.read()
            line.send(data)

    async def _flush(self) -> None:
        if self._outgoing is not None and self._outgoing.pending:
            await self._send_raw(self._outgoing.read())

    async def _send_raw(self, data: bytes) -> None:
        try:
            sent = self._open().send(data)
            if sent < len(data):
                await self._ordinary().send_all(data[sent:])
        except OSError as error:
            raise ConnectionClosed(_reason(error.errno or -1)) from None

    def _ordinary(self) -> LoopSocket:
        """The line as one of Python's, for what the relay's cannot do."""
        line = self._open()
        if not isinstance(line, LoopSocket):
            watched, self._watched = self._watched, False
            line = self._line = LoopSocket(socket.socket(fileno=line.detach()), self._loop)
            if watched:
                self._watch()
        return line

    def take_lowest(self) -> int:
        """Change over to the lowest descriptor that is free, if that is lower; the one that it has then. Not while
        anybody waits for bytes."""
        have = self.fileno()
        try:
            lowest = fcntl.fcntl(have, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError:
            return have
        if lowest > have:
            os.close(lowest)
            return have
        watched, self._watched = self._watched, False
        os.close(self._open().detach())
        self._line = LoopSocket(socket.socket(fileno=lowest), self._loop)
        if watched:
            self._watch()
        return lowest

    # ---- TLS

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        verify_name: bool = False,
        direct: bool = False,
    ) -> None:
        """Handshake; with `verify_name` the server's certificate must be for `server_hostname`. Plaintext already read
        is an attack (it came before encryption): ProtocolError, unless `direct`: then it is the start of the
        handshake itself. Raises TlsFailed or ConnectionClosed."""
        if self._ssl is not None:
            raise ProtocolError("SSL req inside SSL")
        if self._buffer and not direct:
            raise ProtocolError("received unencrypted data before the TLS handshake")
        self._incoming, self._outgoing = MemoryBIO(), MemoryBIO()
        self._incoming.write(self.consume(0, len(self._buffer)))
        try:
            self._ssl = context.wrap_bio(
                self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
            )
            await self._handshake(self._ssl)
        except ssl.SSLError as error:
            with contextlib.suppress(ConnectionClosed):
                await self._flush()
            raise TlsFailed(f"handshake failed: {tls_reason(error)}") from None
        except ValueError as error:
            # A host name that no certificate can have: an empty one, or a label too long.
            raise TlsFailed(f"handshake failed: {error}") from None
        await self._flush()
        if verify_name and not identity.names(self.peer_certificate() or {}, server_hostname or ""):
            raise TlsFailed(f"name `{server_hostname}' not present in server certificate")

    async def _handshake(self, tls: SSLObject) -> None:
        if tls.server_side and not self._cipher_here():
            await self._feed()
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            else:
                return

    # ---- the end

    async def close(self) -> None:
        """Close politely: end TLS and our direction, throw away what was not read. Never waits."""
        self.abort()

    def abort(self) -> None:
        """`close` for callers that cannot await."""
        if self._line is None:
            return
        if self._held:
            self.send_now(b"")
        with contextlib.suppress(OSError, ssl.SSLError):
            self._end_tls()
        with socket.socket(fileno=self._line.detach()) as sock, contextlib.suppress(OSError):
            hang_up(sock)
        self._forget()

    def _end_tls(self) -> None:
        if self._ssl is None or self._outgoing is None:
            return
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        if self._outgoing.pending:
            self._open().send(self._outgoing.read())

    def _forget(self) -> None:
        self._line = self._ssl = self._incoming = self._outgoing = self._peer = None
        self._buffer = bytearray()
        self._held = b""

    def _open(self) -> LoopSocket | Newcomer:
        if self._line is None:
            raise ConnectionClosed("connection closed")
        line: LoopSocket | Newcomer = self._line
        return line


def tls_reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: `certificate verify failed`, `unsupported protocol`, ..."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    # Errors that Python itself raises have no reason.
    reason = getattr(error, "reason", None) or str(error.args[-1] if error.args else error)
    return str(reason).replace("_", " ").lower()


async def while_there(channel: Channel, work: Awaitable[T]) -> T:
    """The result of `work`, given up with ConnectionClosed when the peer leaves meanwhile. Bytes that it sends early
    stay unread, and hide nothing."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(channel.until_gone())
    channel.at_work = True
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            leaving.result()
        return await task
    finally:
        channel.at_work = False
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def _reason(error: int) -> str:
    return os.strerror(error) if error > 0 else "unexpected eof"


def hang_up(sock: socket.socket) -> None:
    """End our direction of a non-blocking socket that is about to be closed, and throw away what was not read. Raises
    OSError."""
    sock.shutdown(socket.SHUT_WR)
    taken = 0
    while taken < DRAIN_LIMIT:
        data = sock.recv(64 * 1024)
        if not data:
            return
        taken += len(data)


def _peer_of(sock: socket.socket) -> Peer:
    if sock.family == socket.AF_UNIX:
        return _unix_peer(sock)
    try:
        remote = sock.getpeername()
    except OSError:
        remote = ("", 0)
    local = sock.getsockname()
    return Peer(_address(remote[0]), remote[1], _address(local[0]), local[1])


def _address(text: str) -> str:
    """IPv4 behind an IPv6 socket is shown as IPv4. Interned: clients come from few hosts."""
    return sys.intern(text.removeprefix("::ffff:") if "." in text else text)


def _unix_peer(sock: socket.socket) -> Peer:
    port = 0
    for name in (sock.getsockname(), _peer_name(sock)):
        path = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        suffix = path.rpartition(".")[2]
        if suffix.isdecimal() and len(suffix) <= 5:
            port = int(suffix)
            break
    pid, uid, gid = _credentials(sock)
    return Peer("unix", port, "unix", port, pid, uid, gid)


def _peer_name(sock: socket.socket) -> str | bytes:
    try:
        name: str | bytes = sock.getpeername()
    except OSError:
        return ""
    return name


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return -1, -1, -1
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid
