"""Pools of their own: several pools of one database, each with its mode and its part of the connections.

All pools of a database share its `server_limit`. A named pool takes `size` of it for itself, so that neither keeps the
other waiting; the default pool has the rest, and never less than one. The rule: who makes a named pool, or changes
one, takes from the others, so it is for the app that owns the database; anybody who holds the database may share it.
"""

from __future__ import annotations

from dataclasses import dataclass

from admin.platform.errors import invalid
from admin.platform.model import Addon, NamedPool
from admin.platform.names import valid_pool
from admin.platform.operations.access import Actor, find_owned_addon
from admin.platform.store import Store
from pooler.stats import ADMIN_DATABASE

MODES = ("transaction", "session")
"""Of a named pool, the usual one first."""
SHARE = 4
"""A named pool of which no size is said gets one in so many of the database's server connections."""
LONGEST_DBNAME = 63
"""Bytes of a database's name, as clients write it."""


@dataclass(frozen=True, slots=True)
class WantedPool:
    """What an attachment asks of a pool of its own; what is None stays as it is, or becomes what is usual."""

    name: str | None = None
    mode: str | None = None
    size: int | None = None

    def check(self) -> None:
        if self.name is None:
            if self.mode is not None or self.size is not None:
                raise invalid("A mode or a size is for a pool of its own: give it a name.")
            return
        valid_pool(self.name)
        if self.mode not in (None, *MODES):
            raise invalid(f"The mode of a pool is {' or '.join(MODES)}.")
        if self.size is not None and self.size < 1:
            raise invalid("The size of a pool is at least 1.")


def provide(store: Store, actor: Actor, addon: Addon, wanted: WantedPool) -> None:
    """Have the named pool there, as it is asked for. For an attachment that is about to be made."""
    if wanted.name is None:
        return
    others = {pool.name: pool for pool in store.named_pools(addon.id)}
    current = others.pop(wanted.name, None)
    left = addon.server_limit - 1 - sum(pool.size for pool in others.values())
    if current is None:
        _demand_free_address(store, addon, wanted.name)
        current = NamedPool(addon.id, wanted.name, MODES[0], min(max(1, addon.server_limit // SHARE), max(1, left)))
    elif wanted.mode in (None, current.mode) and wanted.size in (None, current.size):
        return
    find_owned_addon(store, actor, addon.id)
    made = NamedPool(addon.id, wanted.name, wanted.mode or current.mode, wanted.size or current.size)
    if made.size > left:
        raise invalid(
            f"The pools of {addon.name} have {addon.server_limit} server connections together, one of them for the "
            f"default pool: {max(left, 0)} are left for {made.name}."
        )
    store.put_named_pool(made)


def exposures(store: Store, port: int) -> set[str]:
    """The names of databases under which the pooler serves something at that port, and those that nothing may have."""
    pools: dict[str, list[str | None]] = {}
    for pool in store.named_pools():
        pools.setdefault(pool.addon_id, []).append(pool.name)
    addons = [addon for addon in store.addons() if addon.pool_address[1] == port]
    return {addon.exposed_as(pool) for addon in addons for pool in (None, *pools.get(addon.id, ()))} | {ADMIN_DATABASE}


def _demand_free_address(store: Store, addon: Addon, pool: str) -> None:
    exposed, port = addon.exposed_as(pool), addon.pool_address[1]
    if len(exposed.encode()) > LONGEST_DBNAME:
        raise invalid(f"{exposed} is too long for the name of a database; choose a shorter one for the pool.")
    if exposed in exposures(store, port):
        raise invalid(f"{exposed} is another database's name at port {port}; choose another one for the pool.")
