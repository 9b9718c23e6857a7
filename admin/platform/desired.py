"""What the pooler shall serve for a state: which databases, where they are, with which pools and how many
server connections.

A Desired is a pure reading of the state; whoever runs the pooler compares it with what is open and closes or
opens the difference. Pools are shared by name: several attachments of one credential are one pool. `watch`
yields a new Desired whenever the state has changed in what it says, and at first at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from admin.platform.errors import PlatformError
from admin.platform.model import Addon, Attachment, opens_pool

if TYPE_CHECKING:
    from admin.platform.state import State
    from admin.platform.store import Store

POLL_INTERVAL = 0.4
"""Seconds between two looks at the change counter: one indexed row, so that attach and detach are felt within
a second."""

logger = logging.getLogger(__name__)


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
class Desired:
    """All that shall be served, ordered by name. Two equal Desireds ask for the same."""

    databases: tuple[Database, ...] = ()

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
    return Desired(tuple(sorted(found, key=lambda database: database.name)))


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


async def watch(state: State, *, interval: float = POLL_INTERVAL) -> AsyncIterator[Desired]:
    """Yield what is desired now, and again after every change. While the state cannot be read the last word
    stands."""
    counter: int | None = None
    last: Desired | None = None
    complained = False
    while True:
        try:
            counter, last, news = await asyncio.to_thread(_look, state, counter, last)
            complained = False
        except PlatformError as error:
            news = None
            if not complained:
                logger.warning("cannot read the platform's state, going on with what is open: %s", error.message)
                complained = True
        if news is not None:
            yield news
        await asyncio.sleep(interval)


def _look(state: State, counter: int | None, last: Desired | None) -> tuple[int, Desired | None, Desired | None]:
    """One look: the counter, the newest Desired, and the same once more if it is news."""
    with state.read() as store:
        found = store.counter()
        if found == counter:
            return found, last, None
        wanted = desired(store)
    return found, wanted, None if wanted == last else wanted
