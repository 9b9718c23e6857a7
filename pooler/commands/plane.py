"""A pooler with a control plane: the state's attachments open and close databases here while everything else goes
on.

The databases of the state are added to whatever configuration the pooler has, under their add-ons' names; clients know
them by the database's own name on the port of their pooled URL. Their users and passwords belong to one database each
and never let anybody into another. What is here is the translation: what to open and to close follows from the
configuration. The rule: what `Desired` does not change is not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from admin.platform.desired import POLL_INTERVAL, Database, Desired, Drain, Pool
from admin.platform.errors import PlatformError
from admin.platform.plane import Plane
from pooler.config.databases import Alias, DatabaseConfig, OwnTls
from pooler.config.kinds import PoolMode
from pooler.config.users import Secret
from pooler.config.whole import Added
from pooler.house.reconfigure import Reconfiguration
from pooler.log import LOG
from pooler.outlet import for_a_person
from pooler.pools.running import Running
from pooler.process.ports import Ports
from pooler.process.service import ServiceError


def open_plane(place: str | None) -> Plane:
    """The control plane of the state at `place`. Raises ServiceError."""
    try:
        return Plane.open(place, shown=for_a_person())
    except PlatformError as error:
        raise ServiceError(error.message) from None


def added(wanted: Desired) -> Added:
    """What is in force because the state asks for it: its databases, whose users may look at the console."""
    users = {pool.user for database in wanted.databases for pool in database.pools}
    return Added({database.name: database_config(database) for database in wanted.databases}, frozenset(users))


def database_config(database: Database) -> DatabaseConfig:
    """Heroku's numbers: transaction mode, unless a pool of its own says otherwise; all pools of a database within three
    quarters of its connections."""
    return DatabaseConfig(
        database.name,
        hosts=(database.host,),
        port=database.port,
        dbname=database.dbname,
        pool_size=database.server_limit,
        max_db_connections=database.server_limit,
        pool_mode=PoolMode(database.mode),
        secrets={pool.user: Secret(pool.user, pool.password) for pool in database.pools},
        tls=OwnTls(database.sslmode or "prefer", database.sslrootcert or ""),
        alias=Alias(database.listen_port, database.exposed),
    )


class Following:
    """What the state asks for is served: one look a round, and what could not be done is tried again with the next."""

    def __init__(
        self,
        plane: Plane,
        running: Running,
        reconfiguration: Reconfiguration,
        ports: Ports,
        on_drains: Callable[[tuple[Drain, ...]], None],
    ) -> None:
        self._watch = plane.watch()
        self._running = running
        self._reconfiguration = reconfiguration
        self._ports = ports
        self._on_drains = on_drains
        self._served: Desired | None = None
        self._told = Desired()

    async def foresee(self) -> None:
        """Have in force what the state asks for, before connections come that belong to it; its ports open with the
        first look. Raises ServiceError."""
        try:
            wanted = await asyncio.to_thread(self._watch.look)
        except PlatformError as error:
            raise ServiceError(f"cannot read the platform's state: {error.message}") from None
        self._reconfiguration.add(added(wanted))

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._running.rounds.forever("control plane", lambda: asyncio.sleep(self._pause), self.look)
        finally:
            self._ports.close()

    @property
    def _pause(self) -> float:
        """The first look comes at once."""
        return POLL_INTERVAL if self._served is not None else 0

    async def look(self) -> None:
        """Look, and serve what is asked for. While the state cannot be read the last word stands."""
        try:
            wanted = await asyncio.to_thread(self._watch.look)
        except PlatformError as error:
            text = f"cannot read the platform's state, going on with what is open: {error.message}"
            self._running.rounds.failed("control plane", error, text)
            return
        if wanted is not self._served:
            self._say(wanted)
            self._reconfiguration.add(added(wanted))
            self._ports.adopt(self._running.config)
            if self._served is None or wanted.drains != self._served.drains:
                self._on_drains(wanted.drains)
            self._served = wanted
        elif self._ports.missing:
            self._ports.adopt(self._running.config)

    def _say(self, wanted: Desired) -> None:
        """What opens and what closes, with the names that ask for it."""
        before, after = _pools(self._told), _pools(wanted)
        for key in sorted(after.keys() - before.keys()):
            self._running.say(LOG, f"pool {key[0]}/{key[1]} opens for {', '.join(after[key].names)}")
        for key in sorted(before.keys() - after.keys()):
            self._running.say(LOG, f"pool {key[0]}/{key[1]} closes: nothing is attached to it any more")
        self._told = wanted


def _pools(wanted: Desired) -> dict[tuple[str, str], Pool]:
    return {(database.name, pool.user): pool for database in wanted.databases for pool in database.pools}
