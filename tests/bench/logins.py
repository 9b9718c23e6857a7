"""Logins: what one costs a pooler, how many there are a second, and what happens when thousands come at once.

The auth_file holds what PostgreSQL stores, so the pooler computes no PBKDF2; the client computes it once, since salt
and iterations stay the same. So the poolers' own work is the larger part of what is measured.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import multiprocessing
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection

from tests.fixtures import stream
from tests.fixtures.cluster import PASSWORDS
from tests.fixtures.process import Bouncer

from .measure import median, percentile, processor, ratios
from .servers import Contestant
from .table import Table, times

TITLE = "Logins"
COLUMNS = ("way", "cpu/login", "us (ours)", "us (theirs)", "connections/s", "(ours)", "(theirs)")
CROWD_TITLE = "Thousands at once"
CROWD_COLUMNS = ("what", "ratio", "ours", "theirs")
COUNT = 3000
"""Logins of a round."""
AT_ONCE = 32
RESIDENTS = 8
"""Clients who are in already when all the others come."""
PAUSE = 0.001
"""Seconds between two queries of one of them."""
CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Way:
    """One way to log in: auth_type and the user whose secret fits it; `tls`: with a handshake, `resumed`: of a session
    that the client had before."""

    label: str
    auth_type: str
    user: str
    tls: bool = False
    resumed: bool = False


SCRAM = Way("SCRAM", "scram-sha-256", "scram_user")
WAYS = (
    Way("trust", "trust", "trusty"),
    Way("md5", "md5", "md5_user"),
    SCRAM,
    Way("SCRAM, TLS 1.3", "scram-sha-256", "scram_user", tls=True),
    Way("SCRAM, TLS 1.3 resumed", "scram-sha-256", "scram_user", tls=True, resumed=True),
)


@dataclass(frozen=True, slots=True)
class Storm:
    """Connections a second, and the pooler's processor seconds for each."""

    rate: float
    cost: float


@cache
def _keys(salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and StoredKey (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORDS[SCRAM.user].encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return client, hashlib.sha256(client).digest()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Caller:
    """Who logs in again and again in one way. `session`: of TLS, from the last full handshake."""

    def __init__(self, way: Way, port: int) -> None:
        self.way, self.port = way, port
        self.context = _context() if way.tls else None
        self.session: ssl.SSLSession | None = None


class Session:
    """One connection of the storm."""

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: Caller) -> None:
        self.loop, self.caller = loop, caller
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.received = b""
        self.tls: ssl.SSLObject | None = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    async def login(self) -> None:
        way = self.caller.way
        await self.loop.sock_connect(self.socket, ("127.0.0.1", self.caller.port))
        if self.caller.context is not None:
            await self._encrypt(self.caller.context)
        await self._send(stream.startup({"user": way.user, "database": "app"}))
        await PROOFS[way.auth_type](self)
        await self._authentication(0)
        while (await self._message())[0] != b"Z":
            pass
        if way.resumed and self.tls is not None and not self.tls.session_reused:
            self.caller.session = self.tls.session

    async def ask(self) -> None:
        await self._send(stream.query("SELECT 1"))
        while (await self._message())[0] != b"Z":
            pass

    async def leave(self) -> None:
        await self._send(stream.terminate())
        self.socket.close()

    async def md5(self) -> None:
        salt = await self._authentication(5)
        stored = hashlib.md5((PASSWORDS[self.caller.way.user] + self.caller.way.user).encode()).hexdigest()
        answer = hashlib.md5(stored.encode() + salt).hexdigest()
        await self._send(stream.message("p", b"md5" + answer.encode() + b"\0"))

    async def scram(self) -> None:
        await self._authentication(10)
        first = f"n=,r={secrets.token_urlsafe(18)}".encode()
        await self._send(
            stream.message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first) + 3) + b"n,," + first)
        )
        server_first = await self._authentication(11)
        await self._send(stream.message("p", _final(first, server_first)))
        await self._authentication(12)

    async def trust(self) -> None:
        return

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        await self.loop.sock_sendall(self.socket, stream.request(stream.SSL_REQUEST))
        assert await self.loop.sock_recv(self.socket, 1) == b"S"
        tls = context.wrap_bio(self.incoming, self.outgoing, session=self.caller.session)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            else:
                break
        await self._flush()
        self.tls = tls

    async def _send(self, data: bytes) -> None:
        if self.tls is None:
            await self.loop.sock_sendall(self.socket, data)
        else:
            self.tls.write(data)
            await self._flush()

    async def _flush(self) -> None:
        if self.outgoing.pending:
            await self.loop.sock_sendall(self.socket, self.outgoing.read())

    async def _feed(self) -> None:
        data = await self.loop.sock_recv(self.socket, CHUNK)
        if not data:
            raise stream.Ended("the pooler closed during login")
        if self.caller.context is None:
            self.received += data
        else:
            self.incoming.write(data)

    async def _more(self) -> None:
        if self.tls is None:
            return await self._feed()
        while True:
            try:
                self.received += self.tls.read(CHUNK)
            except ssl.SSLWantReadError:
                await self._feed()
            else:
                return None

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
            await self._more()


PROOFS = {"trust": Session.trust, "md5": Session.md5, "scram-sha-256": Session.scram}


def _final(first: bytes, server_first: bytes) -> bytes:
    """client-final-message: RFC 5802, section 3."""
    parts = dict(part.split(b"=", 1) for part in server_first.split(b","))
    client, stored = _keys(base64.b64decode(parts[b"s"]), int(parts[b"i"]))
    bare = b"c=biws,r=" + parts[b"r"]
    signature = hmac.digest(stored, first + b"," + server_first + b"," + bare, "sha256")
    proof = bytes(a ^ b for a, b in zip(client, signature, strict=True))
    return bare + b",p=" + base64.b64encode(proof)


async def _storm(caller: Caller, count: int) -> float:
    """Seconds for `count` logins, AT_ONCE of them under way at any time."""
    loop = asyncio.get_running_loop()
    left = iter(range(count))
    resumed = 0

    async def some() -> None:
        nonlocal resumed
        for _ in left:
            session = Session(loop, caller)
            await session.login()
            resumed += session.tls is not None and bool(session.tls.session_reused)
            await session.leave()

    start = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    elapsed = time.perf_counter() - start
    if caller.way.resumed and resumed < count - AT_ONCE:
        raise AssertionError(f"{resumed} of {count} sessions were resumed")
    return elapsed


def storm(bouncer: Bouncer, way: Way, count: int) -> Storm:
    before = processor(bouncer.pid)
    elapsed = asyncio.run(_storm(Caller(way, bouncer.port), count))
    return Storm(count / elapsed, (processor(bouncer.pid) - before).total / count)


# ---- thousands at once


@dataclass(frozen=True, slots=True)
class Crowd:
    """Seconds until each one of the crowd was in, the pooler's processor seconds for each, and the seconds that
    the queries of those who were in already took, before and meanwhile."""

    waits: list[float]
    cost: float
    before: list[float]
    meanwhile: list[float]


async def _rush(caller: Caller, count: int) -> list[float]:
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    sessions = [Session(loop, caller) for _ in range(count)]

    async def come(session: Session) -> float:
        await session.login()
        return time.perf_counter() - start

    waits = await asyncio.gather(*map(come, sessions))
    for session in sessions:
        await session.leave()
    return waits


async def _reside(caller: Caller, orders: Connection) -> None:
    """RESIDENTS clients ask until they are told to stop; at each order the times since the last one are sent back."""
    loop = asyncio.get_running_loop()
    sessions = [Session(loop, caller) for _ in range(RESIDENTS)]
    for session in sessions:
        await session.login()
    took: list[float] = []
    going = True

    async def ask(session: Session) -> None:
        while going:
            began = time.perf_counter()
            await session.ask()
            took.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE)

    asking = [asyncio.create_task(ask(session)) for session in sessions]
    while going:
        going = bool(await asyncio.to_thread(orders.recv))
        told, took[:] = list(took), []
        orders.send(told)
    await asyncio.gather(*asking)
    for session in sessions:
        await session.leave()


def _residence(port: int, orders: Connection) -> None:
    asyncio.run(_reside(Caller(SCRAM, port), orders))


@contextmanager
def _residents(port: int) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_residence, args=(port, there))
    process.start()
    try:
        yield here
    finally:
        process.join()


def crowd(bouncer: Bouncer, count: int) -> Crowd:
    with _residents(bouncer.port) as orders:
        # What they did while they came themselves is no measure.
        for seconds in (1.0, 1.0):
            time.sleep(seconds)
            orders.send(True)
            before = orders.recv()
        used = processor(bouncer.pid)
        waits = asyncio.run(_rush(Caller(SCRAM, bouncer.port), count))
        cost = (processor(bouncer.pid) - used).total / count
        orders.send(False)
        return Crowd(waits, cost, before, orders.recv())


# ---- tables


def _pooler(contestant: Contestant, way: Way) -> Bouncer:
    rows = contestant.cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (way.user,))
    return contestant.process(auth_type=way.auth_type, users={way.user: rows[0][0] or ""})


def tables(
    ours: Contestant, theirs: Contestant, rounds: int, count: int, only: str, say: Callable[[str], None]
) -> Iterator[Table | None]:
    """Of single ways, and of thousands at once."""
    rows = []
    for way in WAYS:
        if only in f"logins {way.label}":
            rows.append(_row(way, _ways(ours, theirs, way, rounds)))
            say("  ".join(rows[-1]))
    note = (
        f"Ours / {theirs.name}, median of {rounds} alternating rounds of {COUNT:,} logins, {AT_ONCE} at a time; below"
        " 1 is better for processor time, of the whole connection, above 1 for connections a second."
    )
    yield Table(TITLE, note, COLUMNS, tuple(rows)) if rows else None
    if only in "logins at once":
        yield _crowd_table(ours, theirs, rounds, count, say)


def _ways(ours: Contestant, theirs: Contestant, way: Way, rounds: int) -> tuple[list[Storm], list[Storm]]:
    pairs = [(_pooler(c, way), list[Storm]()) for c in (ours, theirs)]
    for bouncer, _ in pairs:
        storm(bouncer, way, 4 * AT_ONCE)
    for turn in range(rounds):
        for bouncer, got in pairs if turn % 2 == 0 else reversed(pairs):
            got.append(storm(bouncer, way, COUNT))
    return pairs[0][1], pairs[1][1]


def _row(way: Way, got: tuple[list[Storm], list[Storm]]) -> tuple[str, ...]:
    rates, costs = [[s.rate for s in storms] for storms in got], [[s.cost for s in storms] for storms in got]
    return (
        way.label,
        times(median(ratios(*costs))),
        *(f"{median(cost) * 1e6:.0f}" for cost in costs),
        times(median(ratios(*rates))),
        *(f"{median(rate):,.0f}" for rate in rates),
    )


def _crowd_table(
    ours: Contestant, theirs: Contestant, rounds: int, count: int, say: Callable[[str], None]
) -> Table:
    pairs = [(_pooler(c, SCRAM), list[Crowd]()) for c in (ours, theirs)]
    for turn in range(rounds):
        for bouncer, got in pairs if turn % 2 == 0 else reversed(pairs):
            got.append(crowd(bouncer, count))
    looks: tuple[tuple[str, Callable[[Crowd], float]], ...] = (
        ("until half of them are in, ms", lambda crowd: median(crowd.waits) * 1e3),
        ("until the last one is in, ms", lambda crowd: max(crowd.waits) * 1e3),
        ("cpu/login, us", lambda crowd: crowd.cost * 1e6),
        ("p99 of who is in, before, ms", lambda crowd: percentile(crowd.before, 0.99) * 1e3),
        ("p99 of who is in, meanwhile, ms", lambda crowd: percentile(crowd.meanwhile, 0.99) * 1e3),
    )
    rows = []
    for what, look in looks:
        values = [[look(one) for one in got] for _, got in pairs]
        rows.append((what, times(median(ratios(*values))), *(f"{median(value):.1f}" for value in values)))
        say("  ".join(rows[-1]))
    note = (
        f"{count:,} clients come at once by SCRAM-SHA-256 and stay, while {RESIDENTS} others ask SELECT 1 with a"
        f" millisecond's pause. Ours / {theirs.name}, median of {rounds} alternating rounds; below 1 is better."
    )
    return Table(CROWD_TITLE, note, CROWD_COLUMNS, tuple(rows))
