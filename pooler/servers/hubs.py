"""Listening servers: one connection for each database and host, which listens for all clients that do (LISTEN).

A client's LISTEN runs on the server that it has; what that listens to when the transaction is over the relay tells, and
hands over as soon as the connection here listens to it too (relay/hub.pxi). It is opened by the first who asks, under
that one's pool's user, and lives as long as anybody listens. The rule: what is missed while there is none is told, in
the log and as an event, and never silently.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import field

from pooler import relay, wire
from pooler.kernel import is_ours
from pooler.log import ERROR, LOG, WARNING
from pooler.net.channel import Channel, ConnectionClosed
from pooler.net.dialerror import DialError
from pooler.pools.connection import ServerFacts
from pooler.pools.reasons import Kind, Reason
from pooler.pools.registry import Database, PoolState
from pooler.pools.running import Running
from pooler.pools.verdict import ALLOWED, Verdict
from pooler.servers.dial import Dialed
from pooler.servers.opener import Ended, Opener, Opening
from pooler.values import dataclass
from pooler.wire import ProtocolError

GRACE = 30.0
"""Seconds for which it stays when nobody listens any more."""
LOOK = 15.0
"""Seconds of silence after which it is asked whether it is still there."""
DEAF = 5.0
"""Seconds after which a notification of ours that it has not told of shows that it is at another PostgreSQL (whose
address has moved)."""
REST = 0.1
"""Seconds between two looks whether it may be opened again, while it may not."""
ASKED, PATIENCE = 0.05, 20
"""Seconds, and how often, for which the other workers are given time to leave room for it."""
MARK = "pooler listens "
"""The beginning of the names of our own channels."""
LISTENING = "listening"
"""Its state in SHOW SERVERS."""
NAME = "pooler: LISTEN"
"""As application_name."""
UNSURE, UNSURE_LOOKS = 0.0005, 10
"""Seconds, and how often, for which a notification waits until it is known who has sent it."""
LONGEST = 1 << 20
"""Bytes of what it may say at once; a notification has at most 8,000."""


@dataclass(slots=True)
class Line:
    """A connection that listens."""

    attempt: Opening
    dialed: Dialed
    about: ServerFacts
    answered: asyncio.Event
    """Set when it has answered what it was asked last."""
    refused: str = ""
    """What it said against that."""
    tells: bool = True
    """Whether what it hears is passed on. Of two only one is, and they change at one place of the queue."""
    mark: bytes = b""
    """Of that place: what both hear there."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    hearing: asyncio.Task[None] | None = None

    @property
    def channel(self) -> Channel:
        return self.dialed.channel


class Lost(Exception):
    """The connection is gone, or is to go."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hub:
    """Who listens in one database, and the connection that does so for them."""

    def __init__(self, hubs: Hubs, database: Database, host: str, marker: bytes | None = None) -> None:
        self.running = running = hubs.running
        self._opener = hubs.opener
        self.database = database
        self.host = host
        marker = marker or f"{MARK}{os.urandom(12).hex()}".encode()
        self.engine = relay.Hub(running.relay, database.name, marker, self)
        self._ours = False
        """The last login has failed for want of what this process has no more of."""
        self.inherited: Line | None = None
        """A connection of the process before, to go on with."""
        self.passing = b""
        """The notification that is being passed on."""
        self._given_away = False
        self.line: Line | None = None
        self.pool: PoolState | None = None
        """As whose user it is logged in, or logs in; it counts among the connections of that pool."""
        self._waiting: dict[int, relay.Server] = {}
        """Servers that listen for their clients until it does."""
        self._wake = asyncio.Event()
        self._dropped: asyncio.Future[str] | None = None
        self._renewal = ""
        """Why the connection is to be another, of the same PostgreSQL."""
        self._missed_since: float | None = None
        """When the last connection was lost, if somebody listened there."""
        self._told = ""
        """What the log knows of why there is none."""

    # ---- what is wanted

    def want(self, server: relay.Server) -> None:
        """This server listens for its client: that is to be done here."""
        self._waiting[server.id] = server
        self._wake.set()

    def look(self) -> None:
        """Something has changed of what is wanted."""
        self._wake.set()

    def drop(self, reason: str) -> None:
        """Let the connection go, if there is one."""
        if self._dropped is not None and not self._dropped.done():
            self._dropped.set_result(reason)

    def renew(self, reason: str) -> None:
        """Let the connection go when another has taken its place, so that nothing is missed."""
        self._renewal = reason
        self._wake.set()

    def wanted(self) -> set[bytes]:
        """Channels that somebody listens to, or is about to."""
        if self._given_away:
            return set()
        self._waiting = {number: server for number, server in self._waiting.items() if server.listens_to}
        return {name for server in self._waiting.values() for name in server.listens_to} | set(self.engine.channels)

    def stays(self) -> bool:
        """Whether there is to be a connection."""
        return bool(self.wanted())

    def asker(self) -> PoolState | None:
        """The pool of who asked first, as far as it is still there."""
        waiting = [server.pool for server in self._waiting.values()]
        listening = [client.pool for client in sorted(self.engine.clients, key=lambda client: client.id)]
        pools: list[PoolState] = [pool.owner for pool in (*listening, *waiting)]
        return self.pool if self.pool in pools else next(iter(pools), None)

    def room(self, pool: PoolState) -> Verdict:
        """Whether there may be one more connection. If so there is room for it until `room_made`."""
        return self._opener.room(pool, own=True, sized=False)

    def room_made(self, pool: PoolState) -> None:
        """That connection is gone."""
        self._opener.room_made(pool)

    # ---- the connection's life

    async def run(self) -> None:
        """As long as anybody listens."""
        asked = 0
        while self.wanted() and (pool := self.asker()) is not None:
            if self._opener.rests(pool):
                await asyncio.sleep(REST)
                continue
            problem, answer, self._ours = "", Verdict.OPEN, False
            if self.inherited is None:
                answer = self.room(pool)
            if answer is Verdict.ELSEWHERE and asked < PATIENCE:
                asked += 1
                await asyncio.sleep(ASKED)
                continue
            asked = 0
            if answer not in ALLOWED:
                problem = "no room for it"
            elif not await self._live(pool):
                problem = "it cannot be opened"
            if problem:
                self.cannot(problem)
                await asyncio.sleep(self.running.registry.login_retry(ours=self._ours))

    async def _live(self, pool: PoolState) -> bool:
        """One connection, from the login to its end. False: it could not be opened."""
        self.pool = pool
        pool.listening += 1
        try:
            line, self.inherited = self.inherited or await self._open(pool), None
            if line is not None:
                await self._use(line)
            return line is not None
        finally:
            pool.listening -= 1
            self.pool = None
            self.room_made(pool)
            self.running.changed.set()

    async def _use(self, line: Line) -> None:
        reason = str(Reason.FAILURE)
        try:
            while (successor := await self._serve(line)) is not None:
                self._retire(line, Reason.MOVED)
                line = successor
            reason = Reason.NOBODY_LISTENS
        except Lost as error:
            reason = error.reason
        except asyncio.CancelledError:
            reason = Reason.ENDING
            raise
        finally:
            if not self._given_away:
                self._close(line, reason)

    async def _open(self, pool: PoolState) -> Line | None:
        target = self._opener.target(pool, self.host)
        # Everybody here speaks UTF-8: see `find_channels` in the relay.
        own = {"client_encoding": "UTF8", "application_name": NAME}
        target = dataclasses.replace(target, parameters={**target.parameters, **own})
        attempt = Opening(self._opener, pool, target)
        try:
            dialed = await attempt.dial()
        except Ended as error:
            attempt.say_ended(error)
            return None
        except DialError as error:
            attempt.say_failed(error)
            self._ours = error.ours
            return None
        attempt.say_opened(dialed)
        return Line(attempt, dialed, attempt.about(dialed), asyncio.Event())

    async def _serve(self, line: Line) -> Line | None:
        """Listen, until nobody wants it any more, or another is there. Raises Lost."""
        loop = self.running.loop
        self.line = line
        dropped = self._dropped = loop.create_future()
        successor: Line | None = None
        talk = asyncio.ensure_future(self._talk(line))
        hear = line.hearing = line.hearing or asyncio.ensure_future(self._hear(line))
        try:
            await asyncio.wait({talk, hear, dropped}, return_when=asyncio.FIRST_COMPLETED)
            if dropped.done():
                raise Lost(dropped.result())
            if hear.done():
                hear.result()
            successor = talk.result()
            return successor
        except (ConnectionClosed, ProtocolError) as error:
            raise Lost(f"{Reason.SERVER_CRASHED}: {error.message}") from None
        finally:
            if successor is None and not talk.cancel():
                self._leave_off(talk)
            hear.cancel()
            await asyncio.gather(talk, hear, return_exceptions=True)

    def _leave_off(self, talk: asyncio.Task[Line | None]) -> None:
        """What was to take the place of one that was lost in the same moment is nobody's."""
        if not talk.cancelled() and talk.exception() is None and (unused := talk.result()) is not None:
            self._retire(unused, Reason.MOVED)

    async def _hear(self, line: Line) -> None:
        """What it says."""
        while True:
            kind, body = await line.channel.read_message(LONGEST)
            if kind == b"A" and line.mark and body.endswith(line.mark):
                await self._change(line)
            elif kind == b"A" and line.tells:
                await self.pass_on(wire.message(kind, body))
            elif kind == b"E":
                line.refused = wire.error_fields(body).get("M", "")
                if wire.error_fields(body).get("V") in ("FATAL", "PANIC"):
                    raise Lost(f"{Reason.SERVER_CRASHED}: {line.refused}")
            elif kind == b"Z":
                line.answered.set()

    async def pass_on(self, message: bytes) -> None:
        """To all who listen. Who has notified may show in a moment, which is worth waiting for."""
        self.passing = message
        for _ in range(UNSURE_LOOKS):
            if not self.engine.is_unsure(message):
                break
            await asyncio.sleep(UNSURE)
        self.passing = b""
        self.engine.hear(message)

    async def _change(self, line: Line) -> None:
        """It has come to where another takes its place, or it that of another, which may be behind."""
        line.reached.set()
        if line.tells:
            line.tells = False
        elif self.line is not None:
            await self.line.reached.wait()
            line.tells = True

    async def _renew(self, line: Line, pool: PoolState) -> Line:
        """Another connection in place of this one, without a gap and without a notification twice. Raises Lost where
        there can be none."""
        reason, self._renewal = self._renewal, ""
        if self.room(pool) not in ALLOWED:
            raise Lost(reason)
        pool.listening += 1
        try:
            successor = await self._open(pool)
            if successor is None:
                raise Lost(reason)
            try:
                await self._take_the_place_of(line, successor, reason)
            except BaseException:
                self._retire(successor, reason)
                raise
        finally:
            pool.listening -= 1
            self.room_made(pool)
        return successor

    async def _take_the_place_of(self, line: Line, successor: Line, reason: str) -> None:
        if successor.about.place != line.about.place:
            raise Lost(reason)
        mark = f"change {os.urandom(12).hex()}".encode()
        successor.tells = False
        line.reached.clear()
        line.mark = successor.mark = self.engine.marker + b"\0" + mark + b"\0"
        hearing = successor.hearing = asyncio.ensure_future(self._hear(successor))
        try:
            await self._ask(successor, statements({self.engine.marker} | self.engine.there))
            await self._ask(successor, b"NOTIFY \"%s\", '%s'" % (self.engine.marker, mark))
            async with asyncio.timeout(DEAF):
                await successor.reached.wait()
                await line.reached.wait()
        except TimeoutError:
            raise Lost(f"{reason}: what took its place does not hear the same") from None
        except Lost:
            if hearing.done():
                hearing.result()
            raise

    async def _talk(self, line: Line) -> Line | None:
        """Have it listen to what is wanted, and to nothing else; returns when nothing has been for long, or what
        takes its place."""
        there, first = self.engine.there, self.wanted()
        if not self.engine.up:
            await self._ask(line, statements({self.engine.marker} | first))
            there |= first
            self.engine.connected(line.about.place)
        self.is_up()
        idle_since = self.running.now()
        while True:
            if self._renewal and self.pool is not None:
                return await self._renew(line, self.pool)
            wanted = self.wanted()
            missing, unused = wanted - there, there - wanted
            if missing:
                await self._ask(line, statements(missing))
                there |= missing
            elif unused:
                there -= unused
                await self._ask(line, statements(unused, "UN"))
            else:
                self.hand_over()
                if wanted:
                    idle_since = self.running.now()
                elif self.running.now() - idle_since > GRACE:
                    return None
                await self._rest(line)

    async def _rest(self, line: Line) -> None:
        """Until something is wanted; now and then it is asked whether it is there."""
        self._wake.clear()
        if self._renewal:
            return
        try:
            async with asyncio.timeout(LOOK):
                await self._wake.wait()
        except TimeoutError:
            await self._ask(line, b"")
        if self.engine.overdue(int(DEAF * 1e6)):
            raise Lost(f"{Reason.LISTENING_FAILED}: it does not hear what is notified there")

    async def _ask(self, line: Line, sql: bytes) -> None:
        line.answered.clear()
        line.refused = ""
        await line.channel.send(wire.message(b"Q", sql + b"\0"))
        try:
            async with asyncio.timeout(self.running.config.settings.server_connect_timeout or None):
                await line.answered.wait()
        except TimeoutError:
            raise Lost(f"{Reason.SERVER_CRASHED}: no answer") from None
        if line.refused:
            raise Lost(f"{Reason.LISTENING_FAILED}: {line.refused}")

    def hand_over(self) -> None:
        for server in list(self._waiting.values()):
            if self.engine.there.issuperset(server.listens_to):
                server.hand_over_to(self.engine)

    # ---- from one process to another

    def may_go(self) -> bool:
        """Whether its connection can be handed over: not with TLS, and not while it is asked something."""
        line = self.line
        return line is not None and self.engine.up and line.channel.ssl_object is None and line.answered.is_set()

    def give_away(self) -> None:
        """Another process has it now."""
        if self.may_go() and self.line is not None:
            self._given_away = True
            self.line.channel.detach().close()

    def go_on_with(self, line: Line, there: Iterable[bytes]) -> None:
        """A connection of the process before, which listens to these."""
        self.inherited = line
        self.engine.connected(line.about.place)
        self.engine.there.update(there)

    def close(self) -> None:
        """Nobody listens."""
        if self.inherited is not None:
            self.inherited.channel.abort()

    def has_missed(self) -> None:
        """There was one, and what is notified from now on is missed. Also where the process before had one that could
        not be handed over."""
        self._missed_since = self.running.now()

    # ---- what is told of it

    def is_up(self) -> None:
        self._told = ""
        self.may_follow(True)
        if self._missed_since is not None:
            gap = self.running.now() - self._missed_since
            self._missed_since = None
            self.running.say(
                LOG, f"{self._name()} is there again after {gap:.3f} s: what was notified till then is missed"
            )

    def cannot(self, problem: str) -> None:
        """There is none, and LISTEN keeps the server on which it runs."""
        self.may_follow(False)
        if problem != self._told:
            self._told = problem
            self.running.say(WARNING, f"{self._name()} {problem}: who listens keeps a server each")

    def may_follow(self, up: bool) -> None:
        for pool in self.database.pools.values():
            pool.engine.hears = up

    def _retire(self, line: Line, reason: str) -> None:
        if line.hearing is not None:
            line.hearing.cancel()
        line.channel.send_now(wire.terminate())
        line.channel.abort()
        self.running.say_closing(line.attempt.label, reason, line.attempt.since)
        self.running.tally(Kind.CLOSE, self.database.name, Reason.of(reason) or Reason.OTHER)

    def _close(self, line: Line, reason: str) -> None:
        self.engine.lost()
        self.line = self._dropped = None
        self._renewal = ""
        self._retire(line, reason)
        self.tell_lost(reason)

    def tell_lost(self, reason: str) -> None:
        """Who listens misses what is notified now."""
        listeners = len(self.engine.clients)
        if listeners:
            self.has_missed()
        self.say_missed(listeners, reason)

    def say_missed(self, listeners: int, reason: str) -> None:
        """So many clients do."""
        running = self.running
        if listeners and not running.ending:
            running.tally(Kind.NOTIFICATION, self.database.name, Reason.MISSED)
            running.say(WARNING, f"{self._name()} lost ({reason}): {listeners} clients miss what is notified now")

    def _name(self) -> str:
        return f"listening server of {self.database.name}{f' at {self.host}' if self.host else ''}"


class Hubs:
    """All of them."""

    def __init__(self, running: Running, opener: Opener) -> None:
        self.running = running
        self.opener = opener
        self.kind: Callable[[Hubs, Database, str, bytes | None], Hub] = Hub
        """What makes one."""
        self._hubs: dict[tuple[int, str], Hub] = {}
        opener.on_end_logins.append(self.end)

    def __iter__(self) -> Iterator[Hub]:
        return iter(list(self._hubs.values()))

    def want(self, server: relay.Server) -> None:
        """It listens for its client."""
        pool: PoolState = server.pool.owner
        self.of(pool.database, server.about.host).want(server)

    def of(self, database: Database, host: str) -> Hub:
        """The one there."""
        return self._hubs.get((database.born, host)) or self.make(database, host)

    def make(self, database: Database, host: str, marker: bytes | None = None) -> Hub:
        key = database.born, host
        hub = self._hubs[key] = self.kind(self, database, host, marker)
        self.opener.begin(self._keep(key, hub))
        return hub

    async def _keep(self, key: tuple[int, str], hub: Hub) -> None:
        while hub.stays():
            try:
                await hub.run()
            except Exception as error:
                # A bug of ours, or no room left in the kernel.
                self.running.tally(Kind.ERROR, hub.database.name, Reason.EXHAUSTED)
                self.running.say(ERROR, f"a listening server failed: {type(error).__name__}: {error}")
                await asyncio.sleep(self.running.registry.login_retry(ours=is_ours(error)))
        hub.close()
        del self._hubs[key]

    def end(self, pool: PoolState, reason: Reason, at: Collection[str] | None) -> None:
        """What this pool's logins led to is not to be used any more (PAUSE, RECONNECT, another configuration); `at`:
        only at these addresses."""
        for hub in self:
            if hub.pool is pool and hub.line is not None and (at is None or hub.line.about.peer.addr in at):
                if reason is Reason.MOVED and at is None:
                    hub.renew(reason)
                else:
                    hub.drop(reason)


def statements(channels: Iterable[bytes], un: str = "") -> bytes:
    """The statements, in one transaction."""
    return b"".join(b'%sLISTEN "%s";' % (un.encode(), name.replace(b'"', b'""')) for name in sorted(channels))
