"""The login storm: new connections a second with SCRAM-SHA-256, and the time until thousands are logged in.

The auth_file holds the SCRAM secret, so the pooler computes no PBKDF2; the client computes it once, since
salt and iterations stay the same. So the poolers' own work is the larger part of what is measured.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tests.fixtures import stream
from tests.fixtures.cluster import PASSWORDS
from tests.fixtures.process import Bouncer

from .measure import median, processor, ratios
from .servers import Contestant
from .table import Table, times

TITLE = "Logins (SCRAM-SHA-256)"
COLUMNS = ("what", "ratio", "ours", "theirs", "cpu/login")
USER = "scram_user"
AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Storm:
    """Connections a second, and the pooler's processor seconds for each."""

    rate: float
    cost: float


@cache
def _keys(salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and StoredKey (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORDS[USER].encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return client, hashlib.sha256(client).digest()


class Session:
    """One connection of the storm."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.received = b""

    async def login(self, port: int) -> None:
        await self.loop.sock_connect(self.socket, ("127.0.0.1", port))
        await self._send(stream.startup({"user": USER, "database": "app"}))
        await self._authentication(10)
        nonce, bare = secrets.token_urlsafe(18), f"n={USER},r="
        first = (bare + nonce).encode()
        await self._send(
            stream.message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first) + 3) + b"n,," + first)
        )
        server_first = await self._authentication(11)
        await self._send(stream.message("p", _final(first, server_first)))
        await self._authentication(12)
        await self._authentication(0)
        while (await self._message())[0] != b"Z":
            pass

    async def leave(self) -> None:
        await self._send(stream.terminate())
        self.socket.close()

    async def _send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.socket, data)

    async def _authentication(self, expected: int) -> bytes:
        kind, body = await self._message()
        if kind != b"R" or struct.unpack_from("!I", body)[0] != expected:
            raise AssertionError(f"login: expected authentication request {expected}, got {kind!r} {body!r}")
        return body[4:]

    async def _message(self) -> tuple[bytes, bytes]:
        while True:
            if len(self.received) >= 5:
                end = 1 + int.from_bytes(self.received[1:5], "big")
                if len(self.received) >= end:
                    got, self.received = self.received[:end], self.received[end:]
                    return got[:1], got[5:]
            data = await self.loop.sock_recv(self.socket, 8192)
            if not data:
                raise stream.Ended("the pooler closed during login")
            self.received += data


def _final(first: bytes, server_first: bytes) -> bytes:
    """client-final-message: RFC 5802, section 3."""
    parts = dict(part.split(b"=", 1) for part in server_first.split(b","))
    client, stored = _keys(base64.b64decode(parts[b"s"]), int(parts[b"i"]))
    bare = b"c=biws,r=" + parts[b"r"]
    signature = hmac.digest(stored, first + b"," + server_first + b"," + bare, "sha256")
    proof = bytes(a ^ b for a, b in zip(client, signature, strict=True))
    return bare + b",p=" + base64.b64encode(proof)


async def _storm(port: int, count: int, *, hold: bool, at_once: int) -> float:
    """Seconds for `count` logins, `at_once` of them under way at any time."""
    loop = asyncio.get_running_loop()
    left = iter(range(count))
    held: list[Session] = []

    async def some() -> None:
        for _ in left:
            session = Session(loop)
            await session.login(port)
            if hold:
                held.append(session)
            else:
                await session.leave()

    start = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(at_once)))
    elapsed = time.perf_counter() - start
    for session in held:
        await session.leave()
    return elapsed


def storm(bouncer: Bouncer, count: int, *, hold: bool) -> Storm:
    before = processor(bouncer.pid)
    elapsed = asyncio.run(_storm(bouncer.port, count, hold=hold, at_once=AT_ONCE * (4 if hold else 1)))
    return Storm(count / elapsed, (processor(bouncer.pid) - before).total / count)


def _pooler(contestant: Contestant) -> Bouncer:
    rows = contestant.cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (USER,))
    return contestant.process(auth_type="scram-sha-256", users={USER: rows[0][0]})


def table(
    ours: Contestant, theirs: Contestant, rounds: int, count: int, only: str, say: Callable[[str], None]
) -> Table | None:
    rows = []
    for label, number, hold in (("connections/s", 2000, False), (f"time for {count:,} held", count, True)):
        if only not in f"logins {label}":
            continue
        pairs = [(_pooler(c), list[Storm]()) for c in (ours, theirs)]
        for bouncer, _ in pairs:
            storm(bouncer, 50, hold=False)
        for turn in range(rounds):
            for bouncer, got in pairs if turn % 2 == 0 else reversed(pairs):
                got.append(storm(bouncer, number, hold=hold))
        rows.append(_row(label, number, pairs[0][1], pairs[1][1], hold=hold))
        say("  ".join(rows[-1]))
    note = (
        f"Ours / {theirs.name}, median of {rounds} alternating rounds; above 1 is better for connections/s,"
        " below 1 for time and cpu."
    )
    return Table(TITLE, note, COLUMNS, tuple(rows)) if rows else None


def _row(label: str, count: int, ours: list[Storm], theirs: list[Storm], *, hold: bool) -> tuple[str, ...]:
    rate = median(ratios([s.rate for s in ours], [s.rate for s in theirs]))
    cost = median(ratios([s.cost for s in ours], [s.cost for s in theirs]))
    known = [median(s.rate for s in got) for got in (ours, theirs)]
    absolute = [f"{count / r:.2f} s" if hold else f"{r:,.0f}" for r in known]
    return (label, times(1 / rate if hold else rate), *absolute, times(cost))
