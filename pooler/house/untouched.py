"""Rows of databases that nobody has used: nothing of them changes but by the configuration, and there may be ten
thousand. The rule: each is made once for an entry and its settings; many are made in parts, so that a RELOAD that
changes all of them holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pooler.config.databases import DatabaseConfig
from pooler.config.settings import Settings
from pooler.config.whole import Config
from pooler.pools.running import Running
from pooler.stats import DatabaseStat

AT_ONCE = 50
"""Rows made before the loop has its turn: about a millisecond's work."""


class Untouched:
    """`make` gives the row of an entry of [databases]."""

    def __init__(self, running: Running, make: Callable[[DatabaseConfig], DatabaseStat]) -> None:
        self._running = running
        self._make = make
        self._made: dict[str, tuple[DatabaseConfig, DatabaseStat]] = {}
        self._by: Settings | None = None
        """What the rows hold beside their entries."""
        self._prepared: Config | None = None
        """For which all are there."""

    def row(self, config: DatabaseConfig) -> DatabaseStat:
        """Of a database that is not in the registry."""
        settings = self._running.config.settings
        if self._by is not settings:
            if self._by != settings:
                self._made.clear()
            self._by = settings
        entry, row = self._made.get(config.name, (None, None))
        if row is None or entry is not config:
            row = self._make(config)
            self._made[config.name] = config, row
        return row

    async def prepare(self) -> None:
        """Have the rows of all, by the configuration there is when it begins; those of no database are given up."""
        config, known = self._running.config, self._running.registry.databases
        if config is self._prepared:
            return
        for name in self._made.keys() - config.databases.keys():
            del self._made[name]
        for number, (name, entry) in enumerate(config.databases.items()):
            if self._running.config is not config:
                return
            if name not in known:
                self.row(entry)
            if number % AT_ONCE == 0:
                self._running.relay.pace()
                await asyncio.sleep(0)
        self._prepared = config
