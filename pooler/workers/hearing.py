"""LISTEN with several workers: one listening server for each database and host, which is the desk's.

A worker says what its clients listen to, and is told what the connection listens to and hears (FarHub). The desk has
the connection, and knows whose server has sent what is heard: that worker says as which client others know who has
notified (Ear). The rule: a worker hands a client over only by what the desk has told of the worker's latest wish, and
everything it is told comes in the order in which PostgreSQL has said it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pooler.net.credentials import Credentials
from pooler.pools.reasons import Reason
from pooler.pools.registry import Database, PoolState
from pooler.pools.running import Running
from pooler.pools.verdict import Verdict
from pooler.servers.hubs import DEAF, LOOK, MARK, UNSURE, UNSURE_LOOKS, Hub, Hubs, Line
from pooler.values import dataclass
from pooler.workers.desk import Desk
from pooler.workers.ledger import DESK, servers_of
from pooler.workers.line import LineClosed

Place = tuple[str, int]
SLOWEST = 0.25
"""Seconds for a worker to say who has notified."""
TURNS = 3
"""Of the loop, within which what a worker has said of its server before it notified is read."""
MOST_SERVERS = 100_000
"""Of so many it is known whose they are; those that were opened first are forgotten first."""
EPOCH = b"epoch "
"""How a mark begins behind which somebody else may notify by the same server; as in the relay."""
DEAF_THERE = f"{Reason.LISTENING_FAILED}: it does not hear what is notified there"


def marker_of(secret: str, database: str, host: str) -> bytes:
    """The channel of ours, which all workers know without asking, and nobody else."""
    name = hashlib.sha256("\0".join((secret, database, host)).encode()).hexdigest()[:24]
    return f"{MARK}{name}".encode()


@dataclass(slots=True)
class Wish:
    """What one worker's clients listen to."""

    serial: int
    channels: frozenset[bytes]
    pool: PoolState


class Ear(Hub):
    """At the desk: the connection that listens for all workers."""

    def __init__(self, hubs: Hubs, database: Database, host: str, marker: bytes, ears: Ears) -> None:
        super().__init__(hubs, database, host, marker)
        self._ears = ears
        self._inherited_at = -1e9
        self.telling = False
        """Whether something that was heard is on its way to the workers."""
        self._wishes: dict[int, Wish] = {}
        self._announced: dict[int, tuple[int, frozenset[bytes]]] = {}
        """By worker: the wish it was told of last, and what of it is listened to."""

    @property
    def key(self) -> tuple[str, str]:
        return self.database.name, self.host

    def stays(self) -> bool:
        return not self._ears.may_tell.is_set() or super().stays()

    async def run(self) -> None:
        # Who listens may not have said so yet.
        await self._ears.may_tell.wait()
        await super().run()

    def go_on_with(self, line: Line, there: Iterable[bytes]) -> None:
        super().go_on_with(line, there)
        self._inherited_at = self.running.now()
        self._ears.enter(line.attempt.pool)

    def close(self) -> None:
        super().close()
        if self.inherited is not None:
            self._ears.give_back_room(self.inherited.attempt.pool)
            for number in self._ears.serving():
                self._ears.put(number, "hub lost", *self.key)

    def wish(self, worker: int, wish: Wish) -> None:
        self._wishes[worker] = wish
        self.look()

    def gone(self, worker: int) -> None:
        """This one wishes nothing any more, and knows nothing."""
        self._wishes.pop(worker, None)
        self._announced.pop(worker, None)
        self.look()

    def wanted(self) -> set[bytes]:
        return {name for wish in self._wishes.values() for name in wish.channels}

    def asker(self) -> PoolState | None:
        pools = [wish.pool for wish in self._wishes.values() if wish.channels]
        return self.pool if self.pool in pools else next(iter(pools), None)

    def room(self, pool: PoolState) -> Verdict:
        return Verdict.OPEN if self._ears.take_room(pool) else Verdict.ELSEWHERE

    def room_made(self, pool: PoolState) -> None:
        self._ears.give_back_room(pool)

    def hand_over(self) -> None:
        """Tell each what of its wish is listened to."""
        for number in self._ears.serving():
            wish = self._wishes.get(number)
            serial, channels = (wish.serial, wish.channels & self.engine.there) if wish else (0, frozenset())
            if self._announced.get(number) != (serial, channels):
                self._announced[number] = serial, channels
                self._ears.put(number, "hub there", *self.key, self.engine.place, serial, channels)

    def may_follow(self, up: bool) -> None:
        """Each worker knows it of its own pools when there is one."""
        for number in () if up else self._ears.serving():
            self._ears.put(number, "hub cannot", *self.key)

    async def pass_on(self, message: bytes) -> None:
        self.passing = message
        await self._ears.may_tell.wait()
        self.passing, self.telling = b"", True
        try:
            await self._tell(message)
        finally:
            self.telling = False

    async def _tell(self, message: bytes) -> None:
        pid = int.from_bytes(message[5:9], "big")
        channel = message[9 : message.index(b"\0", 9)]
        owner = await self._ears.owner(self.engine.place, pid)
        if channel == self.engine.marker:
            # A mark that a worker's server has set. An epoch's is for that worker, which keeps the server until then.
            # Where a client begins to be told is its worker's to know, and that server may be another's by now; so may
            # that client, of what was set before another service has taken over.
            epoch = message.startswith(EPOCH, 10 + len(channel))
            anybodys = not epoch or self.running.now() - self._inherited_at < DEAF
            for number in self._ears.serving() if anybodys or owner is None else (owner,):
                self._ears.put(number, "hub heard", *self.key, message)
            return
        if owner is not None:
            known = await self._ears.holder(owner, *self.key, message)
            message = message[:5] + (pid if known is None else known).to_bytes(4, "big") + message[9:]
        for number, wish in list(self._wishes.items()):
            if channel in wish.channels:
                self._ears.put(number, "hub heard", *self.key, message)

    def tell_lost(self, reason: str) -> None:
        self._announced.clear()
        if self.wanted():
            self.has_missed()
        self._ears.tell_lost(self, reason)


class Ears:
    """The desk's side: all of them, and who has which server."""

    def __init__(self, running: Running, desk: Desk, hubs: Hubs, secret: str) -> None:
        self._running = running
        self._desk = desk
        self._hubs = hubs
        self._secret = secret
        self._owners: dict[tuple[object, int], int] = {}
        self.may_tell = asyncio.Event()
        """Not while a service is taken over: what is heard waits, and so does who has nobody to hear for."""
        self.may_tell.set()
        hubs.kind = self._made
        desk.works_of.append(self.works)
        desk.on_ready.append(self._look)
        desk.on_gone.append(self._gone)

    def works(self, number: int) -> Mapping[str, Callable[..., Any]]:
        """What a worker may say."""
        return {
            "listen": lambda *values: self._listen(number, *values),
            "unlisten": lambda database, host: self._unlisten(number, database, host),
            "deaf": self._deaf,
            "opened": lambda place, pid: self._opened(number, place, pid),
        }

    def _made(self, hubs: Hubs, database: Database, host: str, marker: bytes | None) -> Hub:
        key = database.name, host
        if marker is not None:
            self._desk.markers[key] = marker
        return Ear(hubs, database, host, self._desk.markers.get(key) or marker_of(self._secret, *key), self)

    def _all(self) -> Iterator[Ear]:
        return (hub for hub in self._hubs if isinstance(hub, Ear))

    def _find(self, database: str, host: str) -> Ear | None:
        return next((ear for ear in self._all() if ear.key == (database, host)), None)

    # ---- from one process to another

    def hold(self) -> None:
        """From now on what is heard waits."""
        self.may_tell.clear()

    async def be_still(self) -> None:
        """The same; returns when nothing is on its way."""
        self.hold()
        while any(ear.telling for ear in self._all()):
            await asyncio.sleep(0.001)

    def go_on(self) -> None:
        self.may_tell.set()

    def told(self, fact: Mapping[str, Any]) -> dict[str, Any]:
        """What a worker is told of this one of the process before."""
        told = {"kind": "hub", "listened": False, **{name: fact[name] for name in ("database", "host", "marker")}}
        ear = self._find(fact["database"], fact["host"])
        if ear is not None and ear.inherited is not None:
            told |= {"at": ear.engine.place, "there": sorted(ear.engine.there)}
        return told

    # ---- what workers say

    def _listen(
        self,
        number: int,
        database: str,
        host: str,
        user: str,
        credentials: Credentials,
        serial: int,
        channels: frozenset[bytes],
    ) -> None:
        found = self._running.database(database)
        if found is None:
            # It has left the configuration: so has its client, or will in a moment.
            return
        pool = self._running.registry.pool(found, user, forced=False)
        pool.credentials = credentials.joined(pool.credentials)
        ear = self._hubs.of(found, host)
        assert isinstance(ear, Ear)
        ear.wish(number, Wish(serial, channels, pool))

    def _unlisten(self, number: int, database: str, host: str) -> None:
        ear = self._find(database, host)
        if ear is not None:
            ear.gone(number)

    def _deaf(self, database: str, host: str) -> None:
        """A worker's notification has not come by it."""
        ear = self._find(database, host)
        if ear is not None:
            ear.drop(DEAF_THERE)

    def _opened(self, number: int, place: Place, pid: int) -> None:
        self._owners.pop((place, pid), None)
        self._owners[place, pid] = number
        if len(self._owners) > MOST_SERVERS:
            del self._owners[next(iter(self._owners))]

    def _look(self) -> None:
        """Somebody is there who has been told nothing."""
        for ear in self._all():
            ear.look()

    def _gone(self, number: int) -> None:
        self._owners = {server: owner for server, owner in self._owners.items() if owner != number}
        for ear in self._all():
            ear.gone(number)

    # ---- what ears need

    def serving(self) -> Iterable[int]:
        return [worker.number for worker in self._desk.workers.values() if worker.ready]

    def put(self, number: int, name: str, *values: Any) -> None:
        worker = self._desk.workers.get(number)
        if worker is not None:
            worker.line.put(name, *values)

    async def owner(self, place: object, pid: int) -> int | None:
        """The worker whose server this is; None: it is a server of somebody else."""
        for _ in range(TURNS):
            if (place, pid) in self._owners:
                break
            await asyncio.sleep(0)
        return self._owners.get((place, pid))

    async def holder(self, number: int, database: str, host: str, message: bytes) -> int | None:
        """The process id by which clients know who has notified; None: the server is nobody's there, or is not asked
        since its worker hangs."""
        worker = self._desk.workers.get(number)
        if worker is None or worker.silent:
            return None
        try:
            async with asyncio.timeout(SLOWEST):
                found: int | None = await worker.line.ask("notifier", database, host, message)
        except (LineClosed, TimeoutError):
            return None
        return found

    def tell_lost(self, ear: Ear, reason: str) -> None:
        self._desk.keep(self._tell_lost(ear, reason))

    async def _tell_lost(self, ear: Ear, reason: str) -> None:
        for number in self.serving():
            if self._desk.workers[number].silent:
                # It is not waited for, and hears of it when it goes on.
                self.put(number, "hub lost", *ear.key)
        found = await self._desk.gather("hub lost", *ear.key)
        ear.say_missed(sum(found.values()), reason)

    def enter(self, pool: PoolState) -> None:
        """There is one more connection, whatever the limits are."""
        self._desk.ledger.take(DESK, [(account, 0) for account in servers_of(pool.database.name, pool.user.name)[1:]])

    def take_room(self, pool: PoolState) -> bool:
        """Whether one more connection is within the limits of all."""
        registry, ledger = self._running.registry, self._desk.ledger
        limits = registry.database_limit(pool.database), registry.user_limit(pool.user)
        accounts = servers_of(pool.database.name, pool.user.name)[1:]
        full = ledger.take(DESK, zip(accounts, limits, strict=True))
        if full is not None:
            self._desk.keep(self._desk.exchange.press(full))
        return full is None

    def give_back_room(self, pool: PoolState) -> None:
        self._desk.ledger.give_back(DESK, servers_of(pool.database.name, pool.user.name)[1:])
        self._desk.exchange.serve()


_serials = itertools.count(1)


class FarHub(Hub):
    """In a worker: who listens here; the connection is the desk's. `say` puts something to the desk."""

    def __init__(
        self, hubs: Hubs, database: Database, host: str, marker: bytes, say: Callable[..., object]
    ) -> None:
        super().__init__(hubs, database, host, marker)
        self._say = say
        self._serial = 0
        """Of the wish that was said last."""
        self._said: frozenset[bytes] = frozenset()

    def stays(self) -> bool:
        return bool(self.wanted()) or self.engine.up

    async def run(self) -> None:
        """As long as anybody listens here, or elsewhere: who notifies here is known by it."""
        try:
            while self.stays():
                self._wake.clear()
                self.wish()
                self.hand_over()
                if self.engine.overdue(int(DEAF * 1e6)):
                    self._say("deaf", self.database.name, self.host)
                try:
                    async with asyncio.timeout(LOOK):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            if self._said:
                self._said = frozenset()
                self._say("unlisten", self.database.name, self.host)

    def wish(self) -> None:
        """Say what is wanted, if that is something else than before."""
        wanted, pool = frozenset(self.wanted()), self.asker()
        if wanted == self._said:
            return
        self._said = wanted
        # What is not wished for may end there at any time.
        self.engine.there.intersection_update(wanted)
        if pool is None:
            self._serial = 0
            self._say("unlisten", self.database.name, self.host)
            return
        self._serial = next(_serials)
        credentials = self.running.registry.credentials(pool)
        self._say("listen", self.database.name, self.host, pool.user.name, credentials, self._serial, wanted)

    def is_there(self, place: Place, serial: int, channels: frozenset[bytes]) -> None:
        """There is a connection, which listens to these of the wish of this number."""
        if not self.engine.up:
            self.engine.connected(place)
        if serial == self._serial:
            self.engine.there.clear()
            self.engine.there.update(channels)
        self.may_follow(True)
        self.look()

    def is_lost(self) -> int:
        """There is none; how many have listened."""
        self.engine.lost()
        self.look()
        return len(self.engine.clients)


class FarHubs:
    """A worker's side: all of them."""

    def __init__(
        self,
        running: Running,
        hubs: Hubs,
        secret: str,
        markers: dict[tuple[str, str], bytes],
        say: Callable[..., object],
    ) -> None:
        """`markers`: of those that were another process's before."""
        self._running = running
        self._hubs = hubs
        self._secret = secret
        self._markers = markers
        self._say = say
        hubs.kind = self._made

    @property
    def works(self) -> Mapping[str, Callable[..., Any]]:
        """What the desk may say."""
        return {
            "hub there": self._there,
            "hub heard": self._heard,
            "hub lost": self._lost,
            "hub cannot": self._cannot,
            "notifier": self._notifier,
        }

    def _made(self, hubs: Hubs, database: Database, host: str, marker: bytes | None) -> Hub:
        key = database.name, host
        if marker is not None:
            self._markers[key] = marker
        return FarHub(hubs, database, host, self._markers.get(key) or marker_of(self._secret, *key), self._say)

    def wish(self) -> None:
        """Say at once what is wanted."""
        for hub in self._hubs:
            if isinstance(hub, FarHub):
                hub.wish()

    def _find(self, database: str, host: str) -> FarHub | None:
        found = (hub for hub in self._hubs if (hub.database.name, hub.host) == (database, host))
        return next((hub for hub in found if isinstance(hub, FarHub)), None)

    def _there(self, database: str, host: str, place: Place, serial: int, channels: frozenset[bytes]) -> None:
        found = self._running.database(database)
        if found is None:
            return
        hub = self._hubs.of(found, host)
        assert isinstance(hub, FarHub)
        hub.is_there(place, serial, channels)

    def _heard(self, database: str, host: str, message: bytes) -> None:
        hub = self._find(database, host)
        if hub is not None:
            hub.engine.hear(message, known=True)

    def _lost(self, database: str, host: str) -> int:
        hub = self._find(database, host)
        return hub.is_lost() if hub is not None else 0

    def _cannot(self, database: str, host: str) -> None:
        hub = self._find(database, host)
        if hub is not None:
            hub.may_follow(False)

    async def _notifier(self, database: str, host: str, message: bytes) -> int | None:
        """Who has sent this by one of our servers, as clients know it."""
        hub = self._find(database, host)
        if hub is None:
            return None
        for _ in range(UNSURE_LOOKS):
            if not hub.engine.is_unsure(message):
                break
            await asyncio.sleep(UNSURE)
        return hub.engine.notifier(message)
