"""Bringing databases in, forgetting them, and the credentials within them.

A registration is knowledge about a database that already exists: removing it removes nothing there. Only
`create_credential` writes into the database itself, because a credential is a role.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from admin.platform.errors import PlatformError, confirmation_required, invalid, name_taken
from admin.platform.model import DEFAULT, Addon, App, Credential
from admin.platform.names import DATABASE, new_addon, valid_addon, valid_credential
from admin.platform.operations.access import Actor, find_app, find_owned_addon, resolve_addons
from admin.platform.operations.attachments import Attached, attach, find_credential
from admin.platform.operations.config import config_vars
from admin.platform.operations.pools import exposures
from admin.platform.plans import Plan, plan_named
from admin.platform.store import Store, new_id
from admin.platform.urls import DatabaseUrl, parse_url

if TYPE_CHECKING:
    from admin.platform.state import State


@dataclass(frozen=True, slots=True)
class Registration:
    """What is asked for: `connection_limit` None is asked of the server, `pool_host` and `pool_port` None are
    host and port + 1."""

    url: DatabaseUrl
    plan: Plan
    name: str | None = None
    attachment: str | None = None
    connection_limit: int | None = None
    follow: str | None = None
    pool_host: str | None = None
    pool_port: int | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A database brought in. `problem` tells why it could not be asked anything, if it could not."""

    attached: Attached
    problem: str | None


def registration(
    url: str,
    plan: str,
    *,
    name: str | None = None,
    attachment: str | None = None,
    connection_limit: int | None = None,
    follow: str | None = None,
    pool_host: str | None = None,
    pool_port: int | None = None,
) -> Registration:
    """A Registration from what a user typed; raises before anything is asked or written."""
    if connection_limit is not None and not 0 < connection_limit <= 1_000_000:
        raise invalid("The connection limit is a number between 1 and 1000000.")
    if pool_port is not None and not 0 < pool_port < 65536:
        raise invalid("The pool's port is between 1 and 65535.")
    parsed = parse_url(url)
    if pool_port is None and parsed.port == 65535:
        raise invalid("A database on port 65535 has no port above it for its pool; choose one with --pool-port.")
    return Registration(parsed, plan_named(plan), name, attachment, connection_limit, follow, pool_host, pool_port)


def register(state: State, actor: Actor, app: str, wanted: Registration) -> Registered:
    """Bring a database in and attach it. One that does not answer is registered all the same, and the problem
    told."""
    from admin.platform.truth import Unreachable, ask_limit

    with state.read() as store:
        find_app(store, actor, app)
    limit, problem = wanted.connection_limit, None
    try:
        asked = ask_limit(wanted.url)
        limit = limit or asked
    except Unreachable as error:
        problem = str(error)
    with state.write() as store:
        addon = _add(store, actor, app, wanted, limit or wanted.plan.connections)
        name = wanted.attachment or _first_name(store, find_app(store, actor, app))
        return Registered(attach(store, actor, app=app, addon=addon.id, name=name), problem)


def _first_name(store: Store, app: App) -> str | None:
    """DATABASE for an app's first database, an invented name for the next."""
    return None if f"{DATABASE}_URL" in config_vars(store, app) else DATABASE


def _add(store: Store, actor: Actor, app: str, wanted: Registration, limit: int) -> Addon:
    owner = find_app(store, actor, app)
    url = wanted.url
    name = wanted.name
    if name is None:
        name = new_addon(lambda candidate: store.addon(candidate) is not None)
    elif store.addon(valid_addon(name)) is not None:
        raise name_taken(name)
    known = [a for a in store.addons() if (a.host, a.port, a.dbname) == (url.host, url.port, url.dbname)]
    if known:
        whose = f" as {known[0].name}" if actor.reaches(known[0].app_id) else ""
        raise invalid(f"The database {url.dbname} at {url.host}:{url.port} is already registered{whose}.")
    addon = Addon(
        id=new_id(),
        name=name,
        plan_name=wanted.plan.name,
        connection_limit=limit,
        app_id=owner.id,
        app_name=owner.name,
        host=url.host,
        port=url.port,
        dbname=url.dbname,
        options=urlencode(url.options, quote_via=quote),
        following=None if wanted.follow is None else _leader(store, actor, owner, wanted.follow).id,
        pool_host=wanted.pool_host,
        pool_port=wanted.pool_port,
        exposed=url.dbname,
        created_at=store.now,
    )
    addon = _with_exposed_name(store, addon)
    store.add_addon(addon)
    store.add_credential(Credential(addon.id, DEFAULT, url.user, url.password, store.now))
    return addon


def _leader(store: Store, actor: Actor, app: App, identity: str) -> Addon:
    """The database to follow, by whatever name users have for one: attachment, config var, add-on, app::NAME."""
    return find_owned_addon(store, actor, resolve_addons(store, actor, identity, app)[0].id)


def _with_exposed_name(store: Store, addon: Addon) -> Addon:
    """The add-on with its own name as the pool's database when dbname is taken at the pool's port, or
    reserved. Hosts are not compared: several of them may well be names of the one machine on which the pooler
    listens."""
    from dataclasses import replace

    port = addon.pool_address[1]
    return replace(addon, exposed=addon.name) if addon.dbname in exposures(store, port) else addon


def destroy_addon(store: Store, actor: Actor, identity: str, confirm: str | None) -> Addon:
    """Forget a database: its attachments go everywhere, each app with a release. The database itself is not
    touched."""
    addon = find_owned_addon(store, actor, identity)
    if confirm != addon.app_name:
        raise confirmation_required(f"This command will forget {addon.name} and detach it everywhere.", addon.app_name)
    for attachment in store.attachments(addon_id=addon.id):
        store.remove_attachment(attachment)
        store.add_release(attachment.app_id, f"Detach {attachment.name} (@ref:{addon.name})", actor.user)
    store.remove_addon(addon)
    return addon


def unfollow(state: State, actor: Actor, identity: str) -> Addon:
    """Make a follower a database of its own: out of recovery in PostgreSQL first, then no follower any more
    in the state."""
    from admin.platform.truth import end_recovery

    with state.read() as store:
        addon = find_owned_addon(store, actor, identity)
        if addon.following is None:
            raise invalid(f"{addon.name} is not a follower.")
        default = find_credential(store, addon, DEFAULT)
    end_recovery(addon, default)
    with state.write() as store:
        store.set_following(addon, None)
    return addon


def create_credential(state: State, actor: Actor, identity: str, name: str) -> Credential:
    """Create a role of this name in the database, with a password of its own, and know it as a credential.

    The role is made first and the state written after; if that fails the role is dropped again."""
    from admin.platform.truth import create_role, drop_role

    valid_credential(name)
    with state.read() as store:
        addon, default = _credential_place(store, actor, identity, name)
    made = Credential(addon.id, name, name, secrets.token_hex(32), 0)
    create_role(addon, default, made)
    try:
        with state.write() as store:
            addon, default = _credential_place(store, actor, identity, name)
            made = Credential(addon.id, name, made.user, made.password, store.now)
            store.add_credential(made)
    except PlatformError:
        drop_role(addon, default, made)
        raise
    return made


def _credential_place(store: Store, actor: Actor, identity: str, name: str) -> tuple[Addon, Credential]:
    addon = find_owned_addon(store, actor, identity)
    if addon.plan.tier == "essential":
        raise invalid("You can't create a custom credential on Essential-tier databases.")
    if store.credential(addon.id, name) is not None:
        raise name_taken(name)
    return addon, find_credential(store, addon, DEFAULT)


def destroy_credential(state: State, actor: Actor, identity: str, name: str) -> Credential:
    """Forget a credential and drop its role. Refused while it is attached anywhere, and for the default
    one."""
    from admin.platform.truth import drop_role

    if name == DEFAULT:
        raise invalid("The default credential cannot be destroyed.")
    with state.write() as store:
        addon = find_owned_addon(store, actor, identity)
        found, default = find_credential(store, addon, name), find_credential(store, addon, DEFAULT)
        users = sorted({a.app_name for a in store.attachments(addon_id=addon.id) if a.credential == name})
        if users:
            raise invalid(f"Credential {name} is still attached to {', '.join(users)}; detach it there first.")
        store.remove_credential(found)
        drop_role(addon, default, found)
    return found
