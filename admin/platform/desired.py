"""What the pooler shall serve for a state: which databases, where they are, with which pools and how many
server connections.

A Desired is a pure reading of the state; whoever runs the pooler compares it with what is open and closes or
opens the difference. Pools are shared by name: several attachments of one credential are one pool. A `Watch` is
asked again and again, and answers with another Desired whenever the state has changed in what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from admin.platform.model import Addon, Attachment, opens_pool

if TYPE_CHECKING:
    from admin.platform.state import State
    from admin.platform.store import Store

POLL_INTERVAL = 0.4
"""Seconds between two looks at the change counter: one indexed row, so that attach and detach are felt within
a second."""

@dataclass(frozen=True, slots=True)
class Pool:
    """One credential's pool. Its clients log in with the same user and password that it uses on the server.
    `names` are the attachments that keep it open, as `app::NAME`."""

    credential: str
    user: str
    password: str = field(repr=False)
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Database:
    """One database to serve. `name` is its add-on's, unique; clients ask for `exposed` on port `listen_port`, and
    two databases may be exposed by one name on two ports. Servers are dbname at host:port; `server_limit` bounds
    the server connections of all its pools together."""

    name: str
    exposed: str
    listen_port: int
    host: str
    port: int
    dbname: str
    server_limit: int
    sslmode: str | None
    sslrootcert: str | None
    pools: tuple[Pool, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Where the lines about some databases go, by their names, because an app asks for it."""

    app: str
    url: str = field(repr=False)
    databases: frozenset[str]


@dataclass(frozen=True, slots=True)
class Desired:
    """All that shall be served, ordered by name. Two equal Desireds ask for the same."""

    databases: tuple[Database, ...] = ()
    drains: tuple[Drain, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(sorted({database.listen_port for database in self.databases}))


def desired(store: Store) -> Desired:
    """The pools that the state's attachments ask for."""
    by_addon: dict[str, list[Attachment]] = {}
    for attachment in store.attachments():
        by_addon.setdefault(attachment.addon_id, []).append(attachment)
    secrets = store.all_credentials()
    found = []
    for addon in store.addons():
        pools: dict[str, Pool] = {}
        for attachment in by_addon.get(addon.id, ()):
            secret = secrets.get((addon.id, attachment.credential))
            if secret is None or not opens_pool(attachment, addon):
                continue
            names = pools[secret.name].names if secret.name in pools else ()
            label = f"{attachment.app_name}::{attachment.name}"
            pools[secret.name] = Pool(secret.name, secret.user, secret.password, tuple(sorted((*names, label))))
        if pools:
            found.append(_database(addon, tuple(pools[name] for name in sorted(pools))))
    return Desired(tuple(sorted(found, key=lambda database: database.name)), _drains(store, by_addon))


def _drains(store: Store, by_addon: dict[str, list[Attachment]]) -> tuple[Drain, ...]:
    drains = store.log_drains()
    if not drains:
        return ()
    names = {addon.id: addon.name for addon in store.addons()}
    apps = {app.id: app.name for app in store.apps()}
    held: dict[str, set[str]] = {}
    for addon_id, attachments in by_addon.items():
        for attachment in attachments:
            held.setdefault(attachment.app_id, set()).add(names[addon_id])
    return tuple(Drain(apps[drain.app_id], drain.url, frozenset(held.get(drain.app_id, ()))) for drain in drains)


def _database(addon: Addon, pools: tuple[Pool, ...]) -> Database:
    options = dict(parse_qsl(addon.options, keep_blank_values=True))
    return Database(
        name=addon.name,
        exposed=addon.exposed,
        listen_port=addon.pool_address[1],
        host=addon.host,
        port=addon.port,
        dbname=addon.dbname,
        server_limit=addon.server_limit,
        sslmode=options.get("sslmode"),
        sslrootcert=options.get("sslrootcert"),
        pools=pools,
    )


class Watch:
    """What is desired, worked out anew only when the state's change counter has moved. For one reader."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._counter: int | None = None
        self._last = Desired()

    def look(self) -> Desired:
        """What is desired now; the very same object for as long as nothing else is. Blocks; raises PlatformError."""
        with self._state.read() as store:
            found = store.counter()
            if found != self._counter:
                wanted = desired(store)
                self._last = self._last if wanted == self._last else wanted
                self._counter = found
        return self._last
