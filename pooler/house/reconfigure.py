"""RELOAD and SET at work: a new configuration takes over from the running one, whole or not at all.

`config` says what changed; here each change meets the objects that live by it. Servers logged in under facts that no
longer hold are condemned (closed when they come free); clients stay, unless their database is gone. The rule: files are
read beside the loop, however large they are and however slow their disk is; what is made of them is adopted in one go.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pooler.aside import aside
from pooler.config.databases import DatabaseConfig
from pooler.config.settings import Settings
from pooler.config.whole import Added, Changes, Config, ConfigError, changes, leads_elsewhere, load, with_setting
from pooler.log import ERROR, LOG, WARNING, LogError
from pooler.net import descriptors, tls
from pooler.pools.reasons import Reason
from pooler.pools.registry import Database
from pooler.pools.running import Running
from pooler.relay.engine import plain
from pooler.servers.condemned import condemn, kill_pool, outdate
from pooler.servers.opener import Opener


class Refused(Exception):
    """A configuration or a setting was not taken over, and nothing has changed; the log has been told. The text is the
    reason."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Much is made here that stays: the garbage collector, which would hold up every thread, does not look at it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Changed(NamedTuple):
    """What SET is answered with beside its tag."""

    remarks: tuple[str, ...]
    """What of it is not in force, or not as it was written."""
    without: str
    """Why the TLS that is set is not that in force."""


class Reconfiguration:
    """Two layers: what was `written`, in a file or by SET, and what is `added` to it from elsewhere whatever that is.
    Both together are what is in force."""

    def __init__(self, running: Running, opener: Opener) -> None:
        self._running = running
        self._opener = opener
        self.written = running.config
        self.added = Added()
        self.on_change: list[Callable[[Changes], None]] = []
        """Called after a RELOAD or SET with what it changed."""
        self.reading = asyncio.Lock()
        """Held by whoever reads the configuration's files, or changes a setting."""
        self.background: set[asyncio.Task[object]] = set()
        """What goes on without whoever asked for it."""

    async def reload(self) -> tuple[str, ...]:
        """Read the configuration file again; what of it is not in force, or not as it is written. Raises Refused when
        it, or the TLS that it asks for, cannot be used."""
        running = self._running
        path = running.config.settings.conffile
        if not path:
            running.say(ERROR, "RELOAD Failed, see logs for more details: no configuration file")
            raise Refused("no configuration file")
        # Whoever asked for it may have left before it is done; it is done all the same.
        work = running.loop.create_task(self._reload(path))
        self.background.add(work)
        work.add_done_callback(self.background.discard)
        remarks = await asyncio.shield(work)
        if isinstance(remarks, Refused):
            raise remarks
        return remarks

    async def _reload(self, path: str) -> tuple[str, ...] | Refused:
        async with self.reading:
            try:
                return await self._read_and_adopt(path)
            except Refused as error:
                return error

    async def _read_and_adopt(self, path: str) -> tuple[str, ...]:
        def read() -> tuple[Config, Changes, tls.Tls]:
            with uncollected():
                new = load(path, old)
                for database in new.databases.values():
                    plain(database)
                return new, changes(old, new), tls.renew(new.settings)

        running, old = self._running, self.written
        try:
            new, found, secured = await aside(read)
        except ConfigError as error:
            for problem in error.problems:
                for line in problem.explained:
                    running.say(problem.level, line)
            running.say(WARNING, "config file loading failed")
            running.say(ERROR, "RELOAD Failed, see logs for more details")
            raise Refused("\n".join(line for problem in error.problems for line in problem.explained)) from None
        except tls.TlsProblem as problem:
            self._say_tls_kept(problem)
            raise Refused(problem.message) from None
        return self.adopt(new, secured, found if self.written is old else None)

    async def change_setting(self, key: str, value: str) -> Changed:
        """SET key = value. Raises Refused. A setting of TLS keeps its value also when nothing can be made of it yet,
        like a key whose certificate comes with the next SET: what was in force stays in force."""
        async with self.reading:
            old = self.written
            try:
                # Those that name a file, or say whether it counts, have it read.
                reads = key.startswith("auth_")
                new = await aside(lambda: with_setting(old, key, value)) if reads else with_setting(old, key, value)
            except ConfigError as error:
                for problem in error.problems:
                    self._running.say(problem.level, str(problem))
                raise Refused("\n".join(map(str, error.problems))) from None
            secured, without = None, ""
            if key in tls.KEYS:
                try:
                    secured = await aside(lambda: tls.renew(new.settings))
                except tls.TlsProblem as problem:
                    self._say_tls_kept(problem)
                    without = problem.message
            if key == "logfile" and (trouble := self._reopen_log(new.settings)):
                raise Refused(trouble)
            return Changed(self.adopt(new, secured), without)

    def add(self, added: Added) -> None:
        """From now on this is in force beside what is written."""
        self.added = added
        self.adopt(dataclasses.replace(self.written, warnings=()))

    def _say_tls_kept(self, problem: tls.TlsProblem) -> None:
        self._running.say(ERROR, problem.log)
        self._running.say(ERROR, "TLS configuration could not be reloaded, keeping old configuration")

    def adopt(self, new: Config, secured: tls.Tls | None = None, found: Changes | None = None) -> tuple[str, ...]:
        """Make `new` the configuration, but for what takes a restart or cannot be had, and `secured` what is in force
        of its TLS. `found` is what it changes, if that is known. What was said of it to the log as a warning, or
        worse."""
        running, pace = self._running, self._running.relay.pace
        said = [(problem.level, str(problem)) for problem in new.warnings]
        trouble = self._reopen_log(new.settings)
        if found is None or trouble:
            found = changes(self.written, new, kept=frozenset(("logfile",) if trouble else ()))
        said += ((WARNING, warning) for warning in found.warnings)
        in_force = self.added.to(found.config)
        needed = descriptors.expected(in_force)
        pace()
        more = needed > descriptors.expected(running.config)
        pace()
        self.written = found.config
        running.registry.config = in_force
        if more:
            said.append(descriptors.provide(in_force))
        if "log_format" in found.own:
            running.log_file.write_as(in_force.own.log_format)
        for level, text in said:
            running.say(level, text)
        self._users()
        self._databases()
        if secured is not None:
            self._secure(secured)
        for pool in running.registry.pools():
            pace()
            if running.registry.apply(pool):
                outdate(running, pool, pool.engine.servers())
            self._opener.consider(pool)
        running.instruct_relay()
        for listener in self.on_change:
            pace()
            listener(found)
        return (*filter(None, (trouble,)), *(text for level, text in said if level in (WARNING, ERROR)))

    def _secure(self, secured: tls.Tls) -> None:
        """New clients meet the new TLS; servers that were dialled with another are outdated."""
        outdated = secured.server.facts != self._running.tls.server.facts
        self._running.tls = secured
        if outdated:
            condemn(self._running, self._opener, None)

    def _reopen_log(self, settings: Settings) -> str:
        """Write the log where it should be; why that cannot be: then it goes on where it was."""
        try:
            self._running.log_file.configure(settings)
        except LogError as error:
            self._running.say(ERROR, str(error))
            return str(error)
        return ""

    def _users(self) -> None:
        registry = self._running.registry
        for user in list(registry.users.values()):
            user.config = registry.config.users.get(user.name)
            registry.forget_if_unused(user)

    def _databases(self) -> None:
        registry = self._running.registry
        for database in list(registry.databases.values()):
            config = registry.config.find_database(database.name)
            if config is None and database.config.auto:
                # `*` is gone: what was made of it stays until nobody has used it for autodb_idle_timeout.
                continue
            database.removed = config is None
            if config is None:
                self._remove(database)
            elif config != database.config:
                self._change(database, config)

    def _change(self, database: Database, config: DatabaseConfig) -> None:
        before = database.config
        for user in set(before.secrets or ()) - set(config.secrets or ()):
            # A credential that is no longer one, while others of the database may be.
            if user in database.pools:
                kill_pool(self._running, self._opener, database.pools[user], Reason.REMOVED)
        database.config = config
        if leads_elsewhere(before, config):
            self._running.say(LOG, f"database configuration changed: {database.name}")
            condemn(self._running, self._opener, database.name)
        if config.user != before.user:
            for pool in list(database.pools.values()):
                if not pool.clients:
                    self._running.end_servers(pool, Reason.MOVED)

    def _remove(self, database: Database) -> None:
        running = self._running
        running.say_dropping(database)
        for pool in list(database.pools.values()):
            for client in pool.engine.clients():
                running.drop(client, Reason.REMOVED)
            running.end_servers(pool, Reason.REMOVED)
            self._opener.end_logins(pool, Reason.REMOVED)
            running.end_newcomers(pool, Reason.REMOVED)
        running.loop.call_soon(running.forget_removed, database)
