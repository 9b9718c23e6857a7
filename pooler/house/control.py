"""What an operator can do to a running pooler: one method per verb of the console, in a table.

Grammar and rights were checked by the console; here is the effect, and the waiting, as PgBouncer has them. A verb
returns when PgBouncer would answer and raises CommandError with PgBouncer's words. Signals use the same methods.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from pooler.config.databases import RESERVED
from pooler.hints import hint
from pooler.house.events import Events
from pooler.house.reconfigure import Reconfiguration, Refused
from pooler.log import LOG
from pooler.pools.reasons import Reason
from pooler.pools.refusal import LoginError
from pooler.pools.registry import Database
from pooler.pools.running import Phase, Running
from pooler.pools.verdict import Standing, standing
from pooler.relay import Conn
from pooler.servers.condemned import condemn, kill_pool
from pooler.servers.opener import Opener
from pooler.verbs import CommandError, Remark, Verb

CONFIG_FILE_ERROR = "F0000"
TLS_KEPT = "TLS settings could not be applied, still using old configuration"
NOT_ALL = "not all of the configuration is in force as it is written"
LOOK = 0.01
"""Seconds between two looks at what is still to be sent."""
HOLDING = ("PAUSE", "SUSPEND", "KILL")
"""What cannot be asked, not even for one database, while everything stands still."""


class Control:
    """Carries out commands."""

    def __init__(self, running: Running, opener: Opener, events: Events, reconfiguration: Reconfiguration) -> None:
        self._running = running
        self._opener = opener
        self._events = events
        self.reconfiguration = reconfiguration
        self._suspension: object | None = None
        """The SUSPEND that lasts: another one is another."""
        self.attended: Callable[[], bool] = lambda: bool(running.consoles)
        """Whether there is a console from which RESUME may be said."""
        self.on_signal: Callable[[str], None] | None = None
        """Called with what a signal has asked for."""

    def halted(self) -> bool:
        """Whether a PAUSE, SUSPEND or KILL of everything lasts."""
        running = self._running
        return running.registry.paused or running.relay.suspended

    def signalled(self, word: str) -> None:
        """A signal asks for it: PAUSE, RESUME, or one of the ways to shut down."""
        SIGNALLED[word](self)
        if self.on_signal is not None:
            self.on_signal(word)

    async def perform(self, verb: Verb) -> Remark | None:
        """Do it. Raises CommandError."""
        remark = await self.begin(verb)
        await self.finish(verb)
        return remark

    async def begin(self, verb: Verb) -> Remark | None:
        """Do it, but for what comes of it by itself. Raises CommandError."""
        running = self._running
        if verb.name not in VERBS:
            raise CommandError(f"invalid command '{verb.name}', use SHOW HELP;")
        if verb.name in HOLDING and self.halted():
            raise CommandError(f"already {'suspended' if running.relay.suspended else 'paused'}")
        if verb.name not in ("SET", "KILL_CLIENT"):
            bare = verb.name == "SHUTDOWN"
            argument = (verb.argument or "").upper() if bare else f"'{verb.argument}'"
            what = f"{verb.name} {argument}" if verb.argument else verb.name
            running.say(LOG, f"{what} command issued")
        return await VERBS[verb.name](self, verb)

    async def finish(self, verb: Verb) -> None:
        """Until all has come of it that is to come."""
        if verb.name in COMES:
            await self._events.until(COMES[verb.name](self, verb))

    async def obey(self, verb: Verb) -> Remark | None:
        """Do what was looked at already. Raises CommandError."""
        remark = await VERBS[verb.name](self, verb)
        await self.finish(verb)
        return remark

    def find(self, name: str, action: str) -> Database:
        """The database a command names, made if it is configured and not yet in use. Raises CommandError."""
        running = self._running
        if name == RESERVED:
            raise CommandError(f"cannot {action} admin db: {name}")
        database = running.database(name)
        if database is None:
            raise self.unknown(name)
        return database

    def unknown(self, name: str) -> CommandError:
        """The complaint about a database that nobody has told of."""
        return CommandError(f"no such database: {name}", hint=hint(name, self._running.config.databases))

    # ---- configuration

    async def reload(self, verb: Verb) -> Remark | None:
        try:
            return remark(await self.reconfiguration.reload())
        except Refused as error:
            text = "RELOAD failed, see logs for additional details"
            raise CommandError(text, CONFIG_FILE_ERROR, detail=str(error)) from None

    async def set_value(self, verb: Verb) -> Remark | None:
        try:
            changed = await self.reconfiguration.change_setting(verb.argument or "", verb.value or "")
        except Refused as error:
            raise CommandError("SET failed", detail=str(error)) from None
        return Remark(TLS_KEPT, changed.without) if changed.without else remark(changed.remarks)

    # ---- pause and resume

    def begin_pause(self, databases: list[Database]) -> None:
        """Hold back new work of `databases`, close their spare servers, and let no login of theirs go on."""
        running = self._running
        for database in databases:
            for pool in database.pools.values():
                pool.engine.paused = True
                pool.stir()
                for server in standing(pool.engine, Standing.SPARE):
                    running.drop(server, Reason.PAUSED)
                self._opener.end_logins(pool, Reason.PAUSED)

    def end_pause(self, databases: list[Database]) -> None:
        """Let those of `databases` go on that nothing else holds."""
        running = self._running
        for database in databases:
            if database.paused or running.registry.paused:
                continue
            for pool in database.pools.values():
                pool.engine.paused = False
                pool.engine.full = False
                pool.engine.resume()
                self._opener.consider(pool)

    def all_databases(self) -> list[Database]:
        return list(self._running.registry.databases.values())

    def pause_all(self) -> None:
        self._running.registry.paused = True
        self.begin_pause(self.all_databases())

    async def pause(self, verb: Verb) -> None:
        if not verb.argument:
            return self.pause_all()
        database = self.find(verb.argument, "pause")
        database.paused = True
        self.begin_pause([database])

    def paused(self, verb: Verb) -> Callable[[], bool]:
        """Whether the servers are gone that a PAUSE waits for, or it has ended."""
        registry = self._running.registry
        if not verb.argument:
            return lambda: self.server_count() == 0 or not registry.paused
        database = registry.databases.get(verb.argument)
        return lambda: database is None or database.servers == 0 or not database.paused

    def server_count(self) -> int:
        return sum(pool.connections for pool in self._running.registry.pools())

    async def resume(self, verb: Verb) -> None:
        running = self._running
        if verb.argument:
            known = running.registry.find(verb.argument)
            if known is None and verb.argument != RESERVED:
                raise self.unknown(verb.argument)
            database = running.registry.databases.get(verb.argument)
            if database is None or not database.paused:
                raise CommandError(f"database {verb.argument} is not paused")
            database.paused = False
            self.end_pause([database])
        elif running.shutting:
            raise CommandError("pooler is shutting down")
        elif not self.resume_all():
            raise CommandError("pooler is not paused")
        running.changed.set()

    def resume_all(self) -> bool:
        """End PAUSE, SUSPEND and KILL of everything; what was paused by its name stays so. False when there was nothing
        to end."""
        running = self._running
        if not self.halted():
            return False
        running.registry.paused = False
        self.end_suspend()
        self.end_pause(self.all_databases())
        return True

    async def suspend(self, verb: Verb) -> None:
        running = self._running
        if any(database.paused for database in self.all_databases()):
            raise CommandError("cannot suspend with paused databases")
        running.relay.suspended = True
        self._suspension = this = object()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(running.config.settings.suspend_timeout or None):
                while self._suspension is this and self.unsent():
                    await asyncio.sleep(LOOK)
        for connection in self.unsent() if self._suspension is this else ():
            running.drop(connection, Reason.SUSPEND)

    def console_gone(self) -> None:
        """A console has ended. With nobody left to say RESUME, a SUSPEND ends too."""
        running = self._running
        if running.relay.suspended and not self.attended():
            running.say(LOG, "admin disappeared when suspended, doing RESUME")
            self.signalled("RESUME")
        running.changed.set()

    def unsent(self) -> list[Conn]:
        """Connections whose peer has not taken everything yet."""
        running = self._running
        connections: list[Conn] = []
        for pool in running.registry.pools():
            connections += pool.engine.clients()
            connections += pool.engine.servers()
        return [connection for connection in connections if connection.pending[2]]

    def end_suspend(self) -> None:
        running = self._running
        if running.relay.suspended:
            running.relay.suspended = False
            self._suspension = None
            for pool in running.registry.pools():
                for connection in (*pool.engine.clients(), *pool.engine.servers()):
                    connection.carry_on()

    # ---- one database

    async def disable(self, verb: Verb) -> None:
        """Who has not been welcomed yet is not let in any more."""
        running = self._running
        database = self.find(_required(verb), "disable")
        database.disabled = True
        for pool in database.pools.values():
            running.end_newcomers(pool, f'database "{database.name}" is disabled')

    async def enable(self, verb: Verb) -> None:
        self.find(_required(verb), "enable").disabled = False

    async def reconnect(self, verb: Verb) -> None:
        running = self._running
        if verb.argument:
            self.find(verb.argument, "reconnect")
        condemn(self._running, self._opener, verb.argument)
        for pool in running.registry.pools():
            self._opener.consider(pool)

    async def wait_close(self, verb: Verb) -> None:
        if verb.argument:
            self.find(verb.argument, "wait in")

    def closed(self, verb: Verb) -> Callable[[], bool]:
        """Whether those that a WAIT_CLOSE waits for are gone."""
        running = self._running

        def gone() -> bool:
            pools = (p for p in running.registry.pools() if not verb.argument or p.database.name == verb.argument)
            return not any(server.close_needed for pool in pools for server in pool.engine.servers())

        return gone

    async def kill(self, verb: Verb) -> None:
        """Without a database: each that has been in use, by itself, so that RESUME has to name it."""
        databases = [self.find(verb.argument, "kill")] if verb.argument else self.all_databases()
        for database in databases:
            for pool in database.pools.values():
                self._opener.end_logins(pool, Reason.REMOVED)
        self.begin_pause(databases)
        for database in databases:
            database.paused = True
            for pool in database.pools.values():
                kill_pool(self._running, self._opener, pool, Reason.REMOVED)

    async def kill_client(self, verb: Verb) -> None:
        running = self._running
        text = verb.argument or ""
        if not (text.isascii() and text.isdigit()):
            raise CommandError("invalid client pointer supplied")
        number = int(text)
        for pool in running.registry.pools():
            for client in pool.engine.clients():
                if client.id == number:
                    running.drop(client, Reason.FORCED)
                    return
            for waiter in pool.newcomers.values():
                if waiter.arrival.number == number:
                    waiter.give_up(LoginError(Reason.FORCED))
                    return
        raise CommandError("client not found")

    # ---- the end

    async def shutdown(self, verb: Verb) -> None:
        running = self._running
        modes: dict[str, Callable[[], None]] = {
            "WAIT_FOR_SERVERS": self.shut_after_servers,
            "WAIT_FOR_CLIENTS": self.shut_after_clients,
        }
        if verb.argument:
            modes[verb.argument.upper()]()
        else:
            running.shut_down(Phase.IMMEDIATE)
            await asyncio.Event().wait()

    def shut_after_servers(self) -> None:
        """Stop when every server has been released; nothing new begins, and whoever waits for that waits in vain."""
        running = self._running
        running.shut_down(Phase.WAIT_FOR_SERVERS)
        self.pause_all()
        for pool in running.registry.pools():
            running.end_waiting(pool, LoginError(Reason.SERVER_SHUTTING))
            running.end_newcomers(pool, Reason.SERVER_SHUTTING)

    def shut_after_clients(self) -> None:
        """Stop when the last client has left; nobody new comes in, once balancers have had drain_delay to learn of it.
        Those who are there go on, also when the servers were to be waited for before."""
        running = self._running
        delay = running.config.own.drain_delay
        if delay and not running.leaving:
            running.phase = Phase.DRAINING
            running.say(LOG, f"not ready any more; nobody new is let in after {delay:g} s")
            running.loop.call_later(delay, self._drained)
            return
        held = running.phase is Phase.WAIT_FOR_SERVERS
        running.shut_down(Phase.WAIT_FOR_CLIENTS)
        for pool in running.registry.pools():
            running.end_newcomers(pool, Reason.ENDING)
        if held:
            running.registry.paused = False
            self.end_pause(self.all_databases())

    def _drained(self) -> None:
        if self._running.phase is Phase.DRAINING:
            self.shut_after_clients()


def remark(lines: tuple[str, ...]) -> Remark | None:
    if len(lines) == 1:
        return Remark(*lines)
    return Remark(NOT_ALL, "\n".join(lines)) if lines else None


def _required(verb: Verb) -> str:
    if not verb.argument:
        raise CommandError("a database is required")
    return verb.argument


SIGNALLED: dict[str, Callable[[Control], object]] = {
    "PAUSE": Control.pause_all,
    "RESUME": Control.resume_all,
    "WAIT_FOR_SERVERS": Control.shut_after_servers,
    "WAIT_FOR_CLIENTS": Control.shut_after_clients,
}
VERBS: dict[str, Callable[[Control, Verb], Awaitable[Remark | None]]] = {
    "RELOAD": Control.reload,
    "SET": Control.set_value,
    "PAUSE": Control.pause,
    "RESUME": Control.resume,
    "SUSPEND": Control.suspend,
    "DISABLE": Control.disable,
    "ENABLE": Control.enable,
    "RECONNECT": Control.reconnect,
    "WAIT_CLOSE": Control.wait_close,
    "KILL": Control.kill,
    "KILL_CLIENT": Control.kill_client,
    "SHUTDOWN": Control.shutdown,
}
COMES: dict[str, Callable[[Control, Verb], Callable[[], bool]]] = {
    "PAUSE": Control.paused,
    "WAIT_CLOSE": Control.closed,
}
"""What is waited for behind a command."""
