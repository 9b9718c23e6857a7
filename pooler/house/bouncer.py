"""The bouncer: everything that makes a pooler, put together, and what a console asks of it (verbs.House).

It is at the top: whoever works in the pooler is given by name what it needs, and nobody is given the bouncer. It moves
no bytes, watches no socket and decides nothing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from pooler.clients.auth import prepare_keys
from pooler.clients.cancel import Canceller
from pooler.clients.door import Door
from pooler.clients.lookup import Lookup
from pooler.clients.neighbours import Neighbours
from pooler.clients.reception import Reception
from pooler.clients.strangers import Strangers
from pooler.config.whole import Changes, Config
from pooler.history import History
from pooler.house.control import Control
from pooler.house.events import Events
from pooler.house.janitor import Janitor
from pooler.house.periods import Periods
from pooler.house.reconfigure import Reconfiguration
from pooler.house.sessions import Sessions
from pooler.house.snapshot import Figures
from pooler.house.survey import Survey
from pooler.log import Log
from pooler.net.channel import Channel
from pooler.net.dns import Dns
from pooler.pools.running import Running
from pooler.relay import LightTask, Relay
from pooler.servers.condemned import addresses_gone
from pooler.servers.hubs import Hubs
from pooler.servers.opener import Opener
from pooler.stats import DescriptorStat, SeenStat, SessionStat, Snapshot
from pooler.verbs import ConsoleSession, House, Remark, Verb

Console = Callable[[Channel, ConsoleSession, House], Awaitable[None]]


class Bouncer:
    """The parts, by their names. `plain_on_loopback_only`: from elsewhere nobody comes in without TLS."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        selector: Relay,
        log: Log,
        console: Console,
        *,
        plain_on_loopback_only: bool = False,
        now: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.running = running = Running(config, loop, selector, log, now=now, wall=wall)
        self.dns = Dns(loop, lambda: running.config.settings, running.say, self._addresses_gone)
        self.neighbours = Neighbours(running, self.dns)
        self.opener = Opener(running, self.dns)
        self.strangers = Strangers(config)
        self.lookup = Lookup(running, self.strangers)
        self.canceller = Canceller(running, self.opener, self.dns)
        self.sessions = Sessions(running)
        self.hubs = Hubs(running, self.opener)
        self.survey = Survey(running)
        self.events = Events(running, self.opener, self.hubs, self.sessions, self.survey)
        self.reconfiguration = Reconfiguration(running, self.opener)
        self.control = Control(running, self.opener, self.events, self.reconfiguration)
        self.listeners: list[socket.socket] = []
        """The sockets that listen at the pooler's own addresses."""
        self.figures = Figures(running, self.opener, self.hubs, self.dns, self.strangers, self.listeners, self.sessions)
        self.history = History(running.start)
        self.janitor = Janitor(running, self.opener, self.dns, self.strangers, self.survey)
        self.periods = Periods(running, self.figures, self.history)
        self.periods.before = self.figures.untouched.prepare
        self._console = partial(_serve_console, console, self)
        self._tasks: set[LightTask | asyncio.Task[None]] = set()
        self._plain_on_loopback_only = plain_on_loopback_only
        selector.on_events(lambda: loop.call_soon(self.events.handle), self.events.exits)
        self.reconfiguration.on_change += [self._configured, self.periods.changed]
        prepare_keys(config)

    def _configured(self, found: Changes) -> None:
        """There is another configuration."""
        self.strangers.measure(self.config)
        self.pace()
        self.lookup.configure()
        self.pace()
        self.dns.keep(self._hosts())
        prepare_keys(self.config)

    def _hosts(self) -> set[str]:
        """Those of the configuration, and of what is still at work by an earlier one."""
        config, registry = self.config, self.running.registry
        entries = [*config.databases.values(), *(database.config for database in registry.databases.values())]
        if config.fallback is not None:
            entries.append(config.fallback)
        named = {peer.host for peer in config.peers.values()} | self.neighbours.hosts
        return named.union(*(entry.hosts for entry in entries))

    def _addresses_gone(self, host: str, gone: frozenset[str]) -> None:
        addresses_gone(self.running, self.opener, host, gone)

    def door(self, *, aliases_only: bool = False) -> Door:
        """A way in. `aliases_only`: for ports that databases have of their own."""
        reception = Reception(
            self.running,
            self.lookup,
            self.strangers,
            aliases_only=aliases_only,
            plain_on_loopback_only=self._plain_on_loopback_only,
        )
        return Door(
            self.running,
            self.opener,
            self.strangers,
            self.canceller,
            reception,
            self._console,
            console_gone=self.control.console_gone,
            tasks=self._tasks,
        )

    # ---- verbs.House

    @property
    def config(self) -> Config:
        return self.running.config

    def descriptors(self) -> Iterable[DescriptorStat]:
        return self.figures.descriptors()

    def session_state(self) -> Iterable[SessionStat]:
        return self.sessions.held(self.running.instant())

    def session_state_seen(self) -> Iterable[SeenStat]:
        return self.sessions.seen()

    def snapshot(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        return self.figures.take(self.running.instant(), clients=clients, servers=servers, histograms=histograms)

    async def prepared(self, needs: frozenset[str]) -> House:
        await self.figures.untouched.prepare()
        return self

    async def source(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        """A snapshot that holds up nobody, whatever has changed."""
        await self.figures.untouched.prepare()
        return self.snapshot(clients=clients, servers=servers, histograms=histograms)

    def asked(self) -> None:
        self.running.console_askers += 1

    def pace(self) -> None:
        self.running.relay.pace()

    async def perform(self, verb: Verb) -> Remark | None:
        return await self.control.perform(verb)


async def _serve_console(console: Console, house: House, channel: Channel, session: ConsoleSession) -> None:
    await console(channel, session, house)
