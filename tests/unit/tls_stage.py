"""A stage whose connections speak TLS: SSLObject and MemoryBIO on both sides, records cut and joined at will.

The handshake is done here, by hand, as `channel` does it; then the relay has the three objects.
"""

from __future__ import annotations

import socket
import ssl

from tests.unit.backend import Backend
from tests.unit.pairs import Contexts
from tests.unit.stage import DEFAULTS, KEYS, Peer, Stage


class End:
    """One end of a TLS connection, without a socket."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    def shake(self) -> bool:
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    @property
    def parts(self) -> tuple[object, ssl.MemoryBIO, ssl.MemoryBIO]:
        return self.ssl._sslobj, self.incoming, self.outgoing  # type: ignore[attr-defined]


class TlsPeer(Peer):
    """A Peer that speaks TLS. `cipher_out` is what goes to the socket: tests may cut or spoil it."""

    def __init__(self, sock: socket.socket, conn: object, end: End, backend: Backend | None) -> None:
        super().__init__(sock, conn, backend)  # type: ignore[arg-type]
        self.end = end
        self.cipher_out = bytearray()
        self.notified = False
        self.piece = 1 << 30

    def push(self) -> bool:
        if self.unsent and not self.cipher_out:
            self.end.ssl.write(self.unsent)
            self.unsent.clear()
        self.cipher_out += self.end.outgoing.read()
        if not self.cipher_out or self.sock.fileno() < 0:
            return False
        try:
            sent = self.sock.send(self.cipher_out[: self.piece])
        except BlockingIOError:
            return False
        except OSError:
            self.cipher_out.clear()
            return False
        del self.cipher_out[:sent]
        return sent > 0

    def pull(self, limit: int = 1 << 20) -> bool:
        if not self.reading or self.ended or self.sock.fileno() < 0:
            return False
        try:
            data = self.sock.recv(limit)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.ended = not data
        self.end.incoming.write(data)
        plain = self.read_plain()
        self.inbox += plain
        if self.backend is not None and plain:
            self.send(self.backend.feed(plain))
            if self.backend.ended:
                self.close()
        return True

    def read_plain(self) -> bytes:
        plain = bytearray()
        while True:
            try:
                part = self.end.ssl.read(1 << 16)
            except ssl.SSLWantReadError:
                return bytes(plain)
            except ssl.SSLZeroReturnError:
                part = b""
            except ssl.SSLError:
                # An alert: the other side does not understand us any more.
                self.ended = True
                return bytes(plain)
            if not part:
                self.notified = True
                return bytes(plain)
            plain += part


class TlsStage:
    """A stage whose clients and servers speak TLS."""

    def __init__(self, s: Stage, contexts: Contexts) -> None:
        self.stage = s
        self.contexts = contexts

    def ends(self, *, client_is_near: bool) -> tuple[End, End]:
        """(the relay's, ours), shaken hands."""
        server = End(self.contexts.server(), server_side=True)
        client = End(self.contexts.client(), server_side=False)
        done = False
        while not done:
            done = client.shake()
            server.incoming.write(client.outgoing.read())
            done = server.shake() and done
            client.incoming.write(server.outgoing.read())
        server.incoming.write(client.outgoing.read())
        return (client, server) if client_is_near else (server, client)

    def client(self, *, early: bytes = b"", params: tuple[bytes | None, ...] = DEFAULTS) -> TlsPeer:
        """`early`: what it sends right behind its login, so that it comes with the last bytes of the handshake."""
        near, far = self.ends(client_is_near=False)
        if early:
            far.ssl.write(early)
            near.incoming.write(far.outgoing.read())
        sock, ours = self.stage.pair()
        number = next(KEYS)
        key = number.to_bytes(8, "big")
        pool = self.stage.pool
        conn = self.stage.relay.adopt_client(pool, number, sock.detach(), near.parts, b"", params, None, key)
        peer = TlsPeer(ours, conn, far, None)
        self.stage.peers.append(peer)
        return peer

    def server(self, backend: Backend | None = None) -> TlsPeer:
        near, far = self.ends(client_is_near=True)
        sock, ours = self.stage.pair()
        number = next(KEYS)
        conn = self.stage.relay.adopt_server(
            self.stage.pool, number, sock.detach(), near.parts, b"", DEFAULTS, None, 1, b"12345678"
        )
        peer = TlsPeer(ours, conn, far, backend)
        self.stage.peers.append(peer)
        return peer
