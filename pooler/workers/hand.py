"""A worker's side of the line: what the desk asks of it, and what it asks of the desk (Colleagues).

A worker has no port, no console, no log of its own. The rule: what is everybody's is the desk's to say: who is let in,
what a console shows, and whether there may be one more server (rights.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pooler.aside import aside
from pooler.clients.cancel import Canceller
from pooler.clients.door import Door
from pooler.clients.strangers import Strangers
from pooler.config.whole import Changes, Config, changes
from pooler.house.control import Control
from pooler.house.reconfigure import uncollected
from pooler.log import ERROR, Log
from pooler.net import tls
from pooler.net.channel import Channel, ConnectionClosed
from pooler.pools.reasons import Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import PoolState
from pooler.pools.running import Running
from pooler.relay import engine
from pooler.servers.opener import Opener
from pooler.stats import DescriptorStat, SeenStat, SessionStat, Snapshot
from pooler.verbs import ConsoleSession, House, Remark, Verb
from pooler.workers.line import Line, LineClosed, unpacked
from pooler.workers.rights import Rights

SETTLES = 1.0
"""Seconds between two looks for rights that nobody has used."""
LIMITS = {
    "clients": "no more connections allowed (max_client_conn)",
    "clients of database": "client connections exceeded (max_db_client_connections)",
    "clients of user": "client connections exceeded (max_user_client_connections)",
}
"""What a client is told by the account that is full."""
TURNS = 3
"""Of the loop, within which the end of a client is seen that has left before."""
Name = tuple[str, str]


class LineLog(Log):
    """The desk writes the log: lines go there."""

    def __init__(self, *, verbose: int = 0) -> None:
        super().__init__(stderr=False, verbose=verbose)
        self.line_to: Line | None = None
        self._unsaid: list[tuple[str, str]] = []

    def _configure_file(self, path: str) -> None:
        """It is the desk's."""

    def _configure_syslog(self, settings: object) -> None:
        """That too."""

    def _write(self, level: str, clean: str) -> None:
        if self.line_to is None:
            self._unsaid.append((level, clean))
        else:
            self.line_to.put("say", level, clean, spare=True)

    @property
    def lost(self) -> int:
        return self.line_to.lost if self.line_to is not None else 0

    def begin(self, line: Line) -> None:
        """From now on the desk hears."""
        self.line_to = line
        for level, text in self._unsaid:
            line.put("say", level, text)
        self._unsaid.clear()


class Hand:
    """One worker. `clients`: how many the others have. `door` makes one for a port of the state's, `end` ends all."""

    def __init__(
        self,
        running: Running,
        opener: Opener,
        strangers: Strangers,
        canceller: Canceller,
        control: Control,
        house: House,
        door: Callable[[], Door],
        end: Callable[[], None],
    ) -> None:
        self.clients = 0
        self._running = running
        self._opener = opener
        self._strangers = strangers
        self._canceller = canceller
        self._control = control
        self._house = house
        self._new_door = door
        self._end = end
        self._gone = False
        """What the desk was told of whom an orderly end waits for."""
        self._outside = 0
        """Clients that are let in once the desk hears that they are here."""
        self._line: Line | None = None
        self._doors: dict[int, Door] = {}
        self.rights = Rights(running, opener, self.say)
        self._consoles: dict[int, asyncio.Future[tuple[str, bool]]] = {}

    @property
    def works(self) -> dict[str, Callable[..., Any]]:
        return {
            "newcomer": self.newcomer,
            "roll": self.roll,
            "figures": self.figures,
            "descriptors": self.descriptors,
            "sessions": self.sessions,
            "seen": self.seen,
            "perform": self.perform,
            "configure": self.configure,
            "welcome": self.welcome,
            "cancel key": self.cancel_key,
            "console over": self.console_over,
            "texts changed": self.doubt_texts,
            "end": self.end,
            **self.rights.works,
        }

    def begin(self, line: Line, doors: Mapping[int, Door]) -> None:
        """Work for who is at the other end. `doors` by the port that clients come by; 0: any of the pooler's own."""
        self._line, self._doors = line, dict(doors)
        running = self._running
        running.colleagues = self
        running.registry.on_left = self.left
        self._control.attended = lambda: True
        self._learn_names(running.config)

    async def settle_forever(self) -> None:
        """What was granted and is not used goes back, also where no end has said so."""
        await self._running.rounds.forever("rights", lambda: asyncio.sleep(SETTLES), self.rights.settle_all)

    def end(self) -> None:
        self._end()

    def tells(self, gone: Callable[[], bool]) -> Callable[[], bool]:
        """In place of a condition for the end: the desk hears of it, and says when it is for all."""
        def tell() -> bool:
            if (now := gone() and not self._outside) != self._gone:
                self._gone = now
                self.say("gone", now)
            return False

        return tell

    # ---- clients

    def newcomer(self, place: int, port: int, elsewhere: int, descriptors: Sequence[int]) -> None:
        """A client has come; `port`: one of the state's, 0: the pooler's own. `place`: what the desk calls it until it
        was taken."""
        self._gone = False
        if not descriptors:
            # Our table of descriptors is full; it may go elsewhere, and makes us look who can go.
            self.say("refused", place)
            self._strangers.make_way()
            return self._running.changed.set()
        (descriptor,) = descriptors
        self.say("taken", place)
        self.clients = elsewhere
        # Who is not said to be taken is another worker's where this one ends: that has all to hear what it has to say.
        assert self._line is not None
        self._outside += 1
        self._line.when_said(partial(self._let_in, port, socket.socket(fileno=descriptor)))

    async def all_in(self) -> None:
        """Until nobody is left who has yet to be let in."""
        assert self._line is not None
        said: asyncio.Future[None] = self._running.loop.create_future()
        self._line.when_said(partial(said.set_result, None))
        await said

    def _let_in(self, port: int, sock: socket.socket) -> None:
        self._outside -= 1
        if sock.family == socket.AF_UNIX:
            self._door(port).arrived(sock)
            return
        try:
            client = self._running.relay.welcome(sock.detach())
        except OSError:
            # It has left already; what was made of it closes it.
            return
        self._door(port).arrived(client)

    def _door(self, port: int) -> Door:
        door = self._doors.get(port)
        if door is None:
            door = self._doors[port] = self._new_door()
            self._learn_names(self._running.config)
        return door

    def _learn_names(self, config: Config) -> None:
        """What databases are called at the ports that they have of their own."""
        names: dict[int, dict[str, str]] = {}
        for database in config.databases.values():
            if database.alias is not None:
                names.setdefault(database.alias.port, {})[database.alias.name] = database.name
        for port, door in self._doors.items():
            door.reception.aliases = names.get(port or config.settings.listen_port, {})

    async def admit(self, database: str | None, user: str, *, bounded: bool = True) -> None:
        registry = self._running.registry
        settings = registry.config.settings
        if database is None:
            of_database = settings.max_db_client_connections
        else:
            found = self._running.database(database)
            of_database = registry.database_client_limit(found) if found is not None else 0
        owner = registry.users.get(user) or registry.user(user)
        most = settings.max_client_conn if database is not None else 0
        limits = (most, of_database, registry.user_client_limit(owner)) if bounded else (0, 0, 0)
        line = self._line
        assert line is not None

        def late(full: object) -> None:
            """Nobody wants to know any more."""
            if full is None:
                self.left(database, user)

        try:
            full = await line.ask("admit", database, user, limits, late=late)
        except LineClosed:
            raise LoginError(Reason.ENDING) from None
        if full is not None:
            raise LoginError(LIMITS[full[0]])

    async def check_room(self, limit: int) -> None:
        assert self._line is not None
        try:
            room = await self._line.ask("room", limit)
        except LineClosed:
            raise LoginError(Reason.ENDING) from None
        if not room:
            raise LoginError(LIMITS["clients"])

    async def roll(self) -> None:
        """Whoever has left by now is counted out, and the desk has heard of it first."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def left(self, database: str | None, user: str) -> None:
        self.say("left", database, user)

    # ---- servers

    def may_open(self, pool: PoolState, *, sized: bool, needed: bool, own: bool) -> bool:
        return self.rights.may_open(pool, sized=sized, needed=needed, own=own)

    async def have(self, pool: PoolState) -> bool:
        assert self._line is not None
        try:
            found: bool = await self._line.ask("failing", *_name(pool))
        except LineClosed:
            return False
        return found

    def seek(self, pool: PoolState) -> None:
        self.rights.seek(pool)

    def count(self, pool: PoolState) -> int | None:
        return self.rights.count(pool)

    def settle(self, pool: PoolState) -> None:
        self.rights.settle(pool)

    def yields(self, pool: PoolState) -> bool:
        return self.rights.yields(pool)

    def learned(self, pool: PoolState, reported: Mapping[str, str]) -> None:
        self.say("learned", *_name(pool), dict(reported))

    def unanswered(self, pool: PoolState) -> None:
        self.say("unanswered", *_name(pool))

    def opened(self, place: tuple[str, int], pid: int) -> None:
        self.say("opened", place, pid)

    def code_made(self, place: tuple[object, ...]) -> None:
        self.say("code made", place)

    def welcome(self, database: str, user: str, reported: Mapping[str, str]) -> None:
        """A server elsewhere has said this of itself."""
        found = self._running.registry.databases.get(database)
        pool = found.pools.get(user) if found is not None else None
        if pool is not None and pool.welcome is None:
            self._opener.greet(pool, reported)
            # Who has waited for that alone needs none, and who needs one is heard.
            self.rights.wanted_no_more(pool)
            pool.engine.full = False

    # ---- what is asked of all

    def figures(self, clients: bool, servers: bool, histograms: bool) -> Snapshot:
        return self._house.snapshot(clients=clients, servers=servers, histograms=histograms)

    def descriptors(self) -> list[DescriptorStat]:
        return list(self._house.descriptors())

    def sessions(self) -> list[SessionStat]:
        return list(self._house.session_state())

    def seen(self) -> list[SeenStat]:
        return list(self._house.session_state_seen())

    async def perform(self, verb: Verb) -> Remark | None:
        return await self._control.obey(verb)

    async def configure(self, told: bytes, tickets: bytes) -> None:
        """From now on what was `told` (line.packed) is the configuration; `tickets`: by which all workers take up TLS
        sessions again. However large it is, it is read beside the loop, one after the other."""
        running, reconfiguration = self._running, self._control.reconfiguration
        async with reconfiguration.reading:
            old, secured = reconfiguration.written, None

            def read() -> Changes:
                with uncollected():
                    config: Config = dataclasses.replace(unpacked(told), warnings=())
                    for database in config.databases.values():
                        engine.plain(database)
                    return changes(old, config)

            found = await aside(read)
            try:
                secured = await aside(lambda: tls.renew(found.config.settings))
                secured.client.share_tickets(tickets)
            except tls.TlsProblem as problem:
                running.say(ERROR, problem.log)
            reconfiguration.adopt(found.config, secured, found)
            self._learn_names(running.config)

    def texts_changed(self) -> None:
        self.say("texts changed")

    def doubt_texts(self) -> None:
        """What its clients were told of texts holds for nobody who prepares them from now on."""
        engine.doubt_texts(self._running.relay)

    async def cancel(self, key: bytes) -> str | None:
        assert self._line is not None
        try:
            found: str | None = await self._line.ask("cancel", key)
        except LineClosed:
            return None
        return found

    async def cancel_key(self, key: bytes) -> str | None:
        return await self._canceller.cancel_known(key)

    # ---- the console

    async def console(self, channel: Channel, session: ConsoleSession, house: object) -> None:
        """The desk speaks to this client; here is only its end of the way. Raises ConnectionClosed when the client has
        left in any other way than by saying so."""
        line, loop = self._line, self._running.loop
        assert line is not None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            who = session.user, session.rights, dict(session.parameters)
            line.put("console", *who, session.cancel_key, session.id, session.label, descriptors=[theirs.fileno()])
            over = self._consoles[session.id] = loop.create_future()
            theirs.close()
            up, canceled = loop.create_task(_up(channel, ours, loop)), loop.create_task(self._canceled(session))
            try:
                await _down(channel, ours, loop)
                why, left = await over
            finally:
                del self._consoles[session.id]
                up.cancel()
                canceled.cancel()
                await asyncio.gather(up, canceled, return_exceptions=True)
        if why:
            raise ConnectionClosed(why) if left else LoginError(why)

    def console_over(self, number: int, why: str, left: bool) -> None:
        """The desk has ended this session. `left`: because the client had; `why` is empty when it has said so."""
        over = self._consoles.get(number)
        if over is not None and not over.done():
            over.set_result((why, left))

    async def _canceled(self, session: ConsoleSession) -> None:
        while True:
            await session.canceled.wait()
            session.canceled.clear()
            self.say("cancel console", session.id)

    def say(self, name: str, *values: Any, descriptors: Sequence[int] = ()) -> bool:
        """To the desk; False when it cannot hear."""
        return self._line is not None and self._line.put(name, *values, descriptors=descriptors)


def _name(pool: PoolState) -> Name:
    return pool.database.name, pool.user.name


async def _up(channel: Channel, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    """What the client says, to the desk, and then that it says no more."""
    try:
        while True:
            await channel.peek()
            await loop.sock_sendall(sock, channel.consume(0, channel.buffered))
    except (ConnectionClosed, OSError):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)


async def _down(channel: Channel, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    """What the desk says, to the client, up to its end."""
    while data := await loop.sock_recv(sock, 1 << 16):
        await channel.send(data)
