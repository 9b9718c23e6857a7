"""A pooler with a control plane: the state's attachments open and close databases here while everything else goes
on.

The databases of the state are added to whatever configuration the pooler has, a RELOAD's included, under their
add-ons' names; clients know them by the database's own name on the port of their pooled URL, so each such port has
a door of its own that translates. Their users and passwords belong to one database each and never let anybody into
another. The rule: what `Desired` does not change is not touched.
"""

from __future__ import annotations

import dataclasses
import socket
import ssl
from collections.abc import Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from admin.platform.desired import Database, Desired, Pool
from admin.platform.errors import PlatformError
from admin.platform.plane import Plane
from pooler import control, reconfigure, tls
from pooler.auth import Credentials
from pooler.bouncer import Bouncer
from pooler.config import Config, compose
from pooler.databases import DatabaseConfig
from pooler.door import Door
from pooler.kinds import AuthType, PoolMode, SslMode
from pooler.log import ERROR, LOG
from pooler.opener import Opener
from pooler.registry import PoolState
from pooler.service import Service, ServiceError, listen_hosts
from pooler.users import Secret

if TYPE_CHECKING:
    from pooler.channel import Channel
    from pooler.dial import Target
    from pooler.login import Attempt

UNGUARDED = (AuthType.trust, AuthType.any)
"""With these a port would let everybody into the state's databases."""


def open_plane(place: str | None) -> Plane:
    """The control plane of the state at `place`. Raises ServiceError."""
    try:
        return Plane.open(place)
    except PlatformError as error:
        raise ServiceError(error.message) from None


class PlaneBouncer(Bouncer):
    """A bouncer whose configuration always has the state's databases in it, whoever sets it."""

    def __init__(self, config: Config, *more: Any) -> None:
        self.wanted = Desired()
        self._secrets: dict[tuple[str, str], Secret] = {}
        super().__init__(config, *more)
        self.opener = PlaneOpener(self)

    @property
    def config(self) -> Config:
        return self._config

    @config.setter
    def config(self, given: Config) -> None:
        """Of what SET and RELOAD hand over, the state's part is taken out again before today's is put in."""
        earlier = getattr(self, "_base", given)
        self._base = _without(given, self.wanted, earlier.settings.stats_users)
        self._config = merged(self._base, self.wanted)

    def adopt(self, wanted: Desired) -> None:
        """Serve this from now on: what is new opens, what is gone closes."""
        base, before = dataclasses.replace(self._base, warnings=()), set(self._secrets)
        self.wanted = wanted
        self._secrets = {
            (database.name, pool.user): Secret(pool.user, pool.password)
            for database in wanted.databases
            for pool in database.pools
        }
        reconfigure.adopt(self, base)
        for name, user in before - set(self._secrets):
            self._end_pool(name, user)

    def _end_pool(self, name: str, user: str) -> None:
        """A credential is attached no more, while others of its database may be."""
        database = self.registry.databases.get(name)
        pool = database.pools.get(user) if database is not None else None
        if pool is not None:
            control.kill_pool(self, pool, "database removed")

    def known(self, name: str) -> Database | None:
        return next((database for database in self.wanted.databases if database.name == name), None)

    async def find_secret(self, database: DatabaseConfig | None, attempt: Attempt, channel: Channel) -> Secret | None:
        """A database of the state has its own users and no other; the console lets in all of them."""
        if database is not None and self.known(database.name) is not None:
            return self._secrets.get((database.name, attempt.user))
        found = await super().find_secret(database, attempt, channel)
        if found is None and database is None:
            found = next((secret for (_, user), secret in self._secrets.items() if user == attempt.user), None)
        return found

    def credentials(self, pool: PoolState) -> Credentials:
        if self.known(pool.database.name) is None:
            return super().credentials(pool)
        return Credentials.of(self._secrets.get((pool.database.name, pool.user.name))).joined(pool.credentials)


class PlaneOpener(Opener):
    """Opens servers of the state's databases with the TLS that their own URLs ask for."""

    def target(self, pool: PoolState, host: str | None = None) -> Target:
        found = super().target(pool, host)
        database = cast(PlaneBouncer, self.bouncer).known(pool.database.name)
        if database is None:
            return found
        mode = database.sslmode or "prefer"
        settings = compose({"server_tls_sslmode": mode, "server_tls_ca_file": database.sslrootcert or ""}).settings
        return dataclasses.replace(found, sslmode=SslMode(mode), tls_context=tls.server_context(settings))


def merged(base: Config, wanted: Desired) -> Config:
    """The configuration with the state's databases in it, and their users allowed to look at the console."""
    if not wanted.databases:
        return base
    databases = dict(base.databases) | {database.name: database_config(database) for database in wanted.databases}
    users = {pool.user for database in wanted.databases for pool in database.pools}
    settings = base.settings
    stats = (*settings.stats_users, *sorted(users - {*settings.stats_users, *settings.admin_users}))
    return dataclasses.replace(
        base, databases=MappingProxyType(databases), settings=dataclasses.replace(settings, stats_users=stats)
    )


def _without(config: Config, wanted: Desired, stats_users: tuple[str, ...]) -> Config:
    """A configuration less the state's databases, and less their users but those in `stats_users`."""
    names = {database.name for database in wanted.databases}
    added = {pool.user for database in wanted.databases for pool in database.pools} - set(stats_users)
    kept = {name: entry for name, entry in config.databases.items() if name not in names}
    stats = tuple(user for user in config.settings.stats_users if user not in added)
    settings = dataclasses.replace(config.settings, stats_users=stats)
    return dataclasses.replace(config, databases=MappingProxyType(kept), settings=settings)


def database_config(database: Database) -> DatabaseConfig:
    """Heroku's numbers: transaction mode, all pools of a database within three quarters of its connections."""
    return DatabaseConfig(
        database.name,
        hosts=(database.host,),
        port=database.port,
        dbname=database.dbname,
        pool_size=database.server_limit,
        max_db_connections=database.server_limit,
        pool_mode=PoolMode.transaction,
    )


class PortView:
    """The bouncer as logins on one port see it (login.House): databases by the names they have there."""

    def __init__(self, bouncer: PlaneBouncer) -> None:
        self._bouncer = bouncer
        self.aliases: Mapping[str, str] = {}
        self.tls_required = bouncer.tls_required
        self.usual_kind = bouncer.usual_kind
        self.find_secret = bouncer.find_secret
        self.check_limits = bouncer.check_limits
        self.check_room = bouncer.check_room
        self.log = bouncer.log

    @property
    def config(self) -> Config:
        return self._bouncer.config

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        return self._bouncer.tls_context

    def find_database(self, name: str) -> DatabaseConfig | None:
        return self._bouncer.find_database(self.aliases.get(name, name))


class Ports:
    """The listening ports of the pooled URLs: a view and a door each, with sockets of its own but where the service
    has some."""

    def __init__(self, bouncer: PlaneBouncer, service: Service) -> None:
        self._bouncer = bouncer
        self._service = service
        self._views: dict[int, PortView] = {}
        self._sockets: dict[int, list[socket.socket]] = {}
        self._own = bouncer.config.settings.listen_port
        self._tcp = any(sock.family != socket.AF_UNIX for sock in service.listeners)

    def adopt(self, wanted: Desired) -> None:
        """Open the ports that are asked for, close those that are not, and tell each what its names mean."""
        names: dict[int, dict[str, str]] = {}
        for database in wanted.databases:
            names.setdefault(database.listen_port, {})[database.exposed] = database.name
        for port in set(self._sockets) - set(names):
            self._close(port)
        for port in set(names) - set(self._views):
            self._open(port)
        for port, view in self._views.items():
            view.aliases = names.get(port, {})

    def _open(self, port: int) -> None:
        service, bouncer = self._service, self._bouncer
        if port == self._own and self._tcp:
            if bouncer.config.settings.auth_type in UNGUARDED:
                bouncer.say(ERROR, f"no pools of the state on port {port}: its auth_type lets everybody in")
                return
            service.door.house = self._views[port] = PortView(bouncer)
            return
        view = GuardedView(bouncer)
        door = Door(bouncer, service.door.console, view)
        door.tasks = service.door.tasks
        settings = dataclasses.replace(bouncer.config.settings, listen_port=port)
        sockets: list[socket.socket] = []
        try:
            for host in listen_hosts(settings.listen_addr or ("127.0.0.1",)):
                sockets += service.bind_tcp(host, settings)
        except ServiceError as error:
            bouncer.say(ERROR, f"no pools of the state on port {port}: {error}")
            for sock in sockets:
                sock.close()
            return
        self._views[port], self._sockets[port] = view, sockets
        for sock in sockets:
            bouncer.loop.add_reader(sock, self._accept, sock, door)

    def _accept(self, listener: socket.socket, door: Door) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._bouncer.say(ERROR, f"accept() failed: {error.strerror}")
            return
        door.arrived(sock)

    def _close(self, port: int) -> None:
        for sock in self._sockets.pop(port):
            self._bouncer.loop.remove_reader(sock)
            sock.close()
        self._views.pop(port).aliases = {}
        self._bouncer.say(LOG, f"no longer listening on port {port}")

    def close(self) -> None:
        for port in list(self._sockets):
            self._close(port)


class GuardedView(PortView):
    """A port with databases of the state alone: no others are found there, and whatever the pooler's own auth_type,
    a password is asked for."""

    @property
    def config(self) -> Config:
        config = self._bouncer.config
        if config.settings.auth_type not in UNGUARDED:
            return config
        settings = dataclasses.replace(config.settings, auth_type=AuthType.scram_sha_256)
        return dataclasses.replace(config, settings=settings)

    def find_database(self, name: str) -> DatabaseConfig | None:
        found = self.aliases.get(name)
        return None if found is None else self._bouncer.find_database(found)


async def apply_forever(plane: Plane, bouncer: PlaneBouncer, service: Service) -> None:
    """Serve what the state asks for, until cancelled."""
    ports = Ports(bouncer, service)
    try:
        async with aclosing(cast(Any, plane.watch())) as news:
            async for wanted in news:
                _say(bouncer, wanted)
                bouncer.adopt(wanted)
                ports.adopt(wanted)
    finally:
        ports.close()


def _say(bouncer: PlaneBouncer, wanted: Desired) -> None:
    """What opens and what closes, with the names that ask for it."""
    before, after = _pools(bouncer.wanted), _pools(wanted)
    for key in sorted(after.keys() - before.keys()):
        bouncer.say(LOG, f"pool {key[0]}/{key[1]} opens for {', '.join(after[key].names)}")
    for key in sorted(before.keys() - after.keys()):
        bouncer.say(LOG, f"pool {key[0]}/{key[1]} closes: nothing is attached to it any more")


def _pools(wanted: Desired) -> dict[tuple[str, str], Pool]:
    return {(database.name, pool.user): pool for database in wanted.databases for pool in database.pools}
