"""What the pooler shall serve for a state: which databases, where they are, with which pools and how many
server connections.

A Desired is a pure reading of the state; whoever runs the pooler compares it with what is open and closes or
opens the difference. Pools are shared by name: several attachments of one credential are one pool. A `Watch` is
asked again and again, and answers with another Desired whenever the state has changed in what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from admin.platform.model import Addon, Attachment, Credential, opens_pool
from admin.platform.operations.pools import MODES

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
    """One database to serve, or a named pool of one. `name` is unique: its add-on's, or begins with that. Clients ask
    for `exposed` on port `listen_port`, and two databases may be exposed by one name on two ports. Servers are dbname
    at host:port; `server_limit` bounds the server connections of all its pools together, `mode` is theirs."""

    name: str
    exposed: str
    listen_port: int
    host: str
    port: int
    dbname: str
    server_limit: int
    mode: str
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
    held: dict[tuple[str, str | None], list[Attachment]] = {}
    for attachment in store.attachments():
        held.setdefault((attachment.addon_id, attachment.pool), []).append(attachment)
    secrets, named = store.all_credentials(), store.named_pools()
    found = []
    for addon in store.addons():
        own = [pool for pool in named if pool.addon_id == addon.id]
        rest = addon.server_limit - sum(pool.size for pool in own)
        for name, mode, size in ((None, MODES[0], rest), *((pool.name, pool.mode, pool.size) for pool in own)):
            if pools := _pools(addon, held.get((addon.id, name), ()), secrets):
                found.append(_database(addon, name, mode, size, pools))
    apps = {app.id: app.name for app in store.apps()}
    drains = [Drain(apps[drain.app_id], drain.url, served_for(store, drain.app_id)) for drain in store.log_drains()]
    return Desired(tuple(sorted(found, key=lambda database: database.name)), tuple(drains))


def _pools(
    addon: Addon, attachments: Iterable[Attachment], secrets: Mapping[tuple[str, str], Credential]
) -> tuple[Pool, ...]:
    """By credential."""
    pools: dict[str, Pool] = {}
    for attachment in attachments:
        secret = secrets.get((addon.id, attachment.credential))
        if secret is not None and opens_pool(attachment, addon):
            names = pools[secret.name].names if secret.name in pools else ()
            label = f"{attachment.app_name}::{attachment.name}"
            pools[secret.name] = Pool(secret.name, secret.user, secret.password, tuple(sorted((*names, label))))
    return tuple(pools[name] for name in sorted(pools))


def served_for(store: Store, app_id: str) -> frozenset[str]:
    """The pooler's names for what is attached to an app: its log lines are about these."""
    held = {attachment.addon_id for attachment in store.attachments(app_id=app_id)}
    addons = {addon.id: addon for addon in store.addons() if addon.id in held}
    named = {addons[pool.addon_id].served_as(pool.name) for pool in store.named_pools() if pool.addon_id in addons}
    return frozenset(named | {addon.name for addon in addons.values()})


def _database(addon: Addon, pool: str | None, mode: str, size: int, pools: tuple[Pool, ...]) -> Database:
    options = dict(parse_qsl(addon.options, keep_blank_values=True))
    return Database(
        name=addon.served_as(pool),
        exposed=addon.exposed_as(pool),
        listen_port=addon.pool_address[1],
        host=addon.host,
        port=addon.port,
        dbname=addon.dbname,
        server_limit=size,
        mode=mode,
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
