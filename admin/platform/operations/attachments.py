"""Attaching and detaching: what gives an app a database's URL and takes it away, each with a release.

Rules are those on which Heroku's command line relies: a name without a confirmation is never overwritten, a
repeated request changes nothing, and a database keeps at least one attachment on the app that owns it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from admin.platform.errors import (
    PlatformError,
    confirmation_required,
    forbidden,
    invalid,
    no_access,
    not_found,
)
from admin.platform.model import (
    CREDENTIAL,
    DEFAULT,
    POOLING,
    Addon,
    App,
    Attachment,
    Credential,
    credential_of,
    named_pool,
    url_vars,
)
from admin.platform.names import DATABASE, POOL, new_attachment, valid_attachment, valid_credential, valid_pool
from admin.platform.operations.access import (
    Actor,
    find_addon,
    find_app,
    may_use_credential,
)
from admin.platform.operations.config import config_vars
from admin.platform.operations.pools import WantedPool, provide
from admin.platform.plans import pooling_refusal
from admin.platform.store import Store

if TYPE_CHECKING:
    from admin.platform.state import State


USUAL = WantedPool()


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment and whether this request made it. `version` is the app's newest release."""

    attachment: Attachment
    addon: Addon
    created: bool
    version: int


def valid_namespace(store: Store, addon: Addon, namespace: str | None) -> str | None:
    """The namespace in its one spelling, once its credential exists and its plan pools where it asks for
    that."""
    if namespace is None or namespace == f"{CREDENTIAL}:{DEFAULT}":
        return None
    kind, _, name = namespace.partition(":")
    name, _, pool = name.partition(":") if kind == POOLING else (name, "", "")
    if kind not in (CREDENTIAL, POOLING) or not name:
        raise invalid(f"Namespace must be {CREDENTIAL}:NAME or {POOLING}:NAME.")
    if kind == POOLING and (refusal := pooling_refusal(addon.plan)) is not None:
        raise refusal
    find_credential(store, addon, name)
    return f"{kind}:{name}:{valid_pool(pool)}" if pool else f"{kind}:{name}"


def find_credential(store: Store, addon: Addon, name: str) -> Credential:
    credential = store.credential(addon.id, name)
    if credential is None:
        raise PlatformError(
            "not_found",
            f"Could not find credential {name[:60]} for database {addon.name}.",
            404,
            resource="credential",
        )
    return credential


def attach(
    store: Store,
    actor: Actor,
    *,
    app: str,
    addon: str,
    name: str | None = None,
    namespace: str | None = None,
    confirm: str | None = None,
    wanted: WantedPool = USUAL,
) -> Attached:
    """Give an app a database under a name; see the module's docstring for what happens to a name already in
    use. `wanted` says how a pool of its own shall be, whose name is the namespace's."""
    target, database = find_app(store, actor, app), find_addon(store, actor, addon)
    namespace = valid_namespace(store, database, namespace)
    credential = credential_of(namespace)
    if not may_use_credential(store, actor, database, credential):
        raise no_access(database.app_name)
    provide(store, actor, database, replace(wanted, name=named_pool(namespace)))
    if name is None:
        name = _free_name(store, target, database, namespace)
    existing = store.attachment(target.id, valid_attachment(name))
    if existing is not None:
        if (existing.addon_id, existing.namespace) == (database.id, namespace):
            return Attached(existing, database, False, store.last_version(target.id))
        _demand_confirmation(store, target, existing, confirm)
        _demand_another(store, existing, database)
        store.remove_attachment(existing)
    made = store.add_attachment(target, database, name, namespace)
    _demand_free_vars(store, target, database, made)
    release = store.add_release(target.id, f"Attach {name} (@ref:{database.name})", actor.user)
    return Attached(made, database, True, release.version)


def detach(store: Store, actor: Actor, attachment: Attachment) -> int:
    """Take an attachment away; its config var goes with it, and its pool if it was the last. Returns the
    release's version."""
    _demand_another(store, attachment, None)
    addon = store.addon(attachment.addon_id)
    store.remove_attachment(attachment)
    name = addon.name if addon is not None else ""
    return store.add_release(attachment.app_id, f"Detach {attachment.name} (@ref:{name})", actor.user).version


def enable_pooling(
    state: State,
    actor: Actor,
    *,
    app: str,
    addon: str,
    credential: str = DEFAULT,
    name: str | None = None,
    wanted: WantedPool = USUAL,
) -> Attached:
    """Attach a database's pool, the default one or one of its own. The database is asked first, outside any
    transaction: a pool for one that is down is refused."""
    from admin.platform.truth import demand_login

    wanted.check()
    with state.read() as store:
        find_app(store, actor, app)
        database = find_addon(store, actor, addon)
        own = f":{wanted.name}" if wanted.name else ""
        namespace = valid_namespace(store, database, f"{POOLING}:{valid_credential(credential)}{own}")
        if not may_use_credential(store, actor, database, credential):
            raise no_access(database.app_name)
        secret = find_credential(store, database, credential)
        if name is not None:
            valid_attachment(name)
    demand_login(database, secret)
    with state.write() as store:
        return _attach_pool(store, actor, app, database, namespace, name, wanted)


def _attach_pool(
    store: Store, actor: Actor, app: str, database: Addon, namespace: str | None, name: str | None, wanted: WantedPool
) -> Attached:
    """As `attach`, except that a name in use is taken: pools are never moved from here (pg:promote does
    that)."""
    try:
        return attach(store, actor, app=app, addon=database.id, name=name, namespace=namespace, wanted=wanted)
    except PlatformError as error:
        if error.id != "confirmation_required":
            raise
        raise invalid(f"Name {name} is already taken on {app} by another attachment.") from None


def _free_name(store: Store, app: App, addon: Addon, namespace: str | None) -> str:
    """The name of an attachment whose maker gave none: Heroku's default for a pool, a colour for everything
    else."""
    if namespace is None or not namespace.startswith(f"{POOLING}:"):
        return new_attachment(lambda name: _is_taken(store, app, name))
    mine = [a for a in store.attachments(app_id=app.id, addon_id=addon.id) if a.namespace == namespace]
    own = named_pool(namespace)
    usual = POOL if own is None else f"{DATABASE}_{own.upper().replace('-', '_')}_POOL"
    if any(a.name == usual for a in mine) or not _is_taken(store, app, usual):
        return usual
    if mine:
        return mine[0].name
    return new_attachment(lambda name: _is_taken(store, app, name), suffix="_CONNECTION_POOL")


def _is_taken(store: Store, app: App, name: str) -> bool:
    return store.attachment(app.id, name) is not None or f"{name}_URL" in config_vars(store, app)


def _demand_confirmation(store: Store, app: App, existing: Attachment, confirm: str | None) -> None:
    if confirm == app.name:
        return
    addon = store.addon(existing.addon_id)
    holder = addon.name if addon is not None else "another add-on"
    raise confirmation_required(
        f"{existing.name} is already attached to {holder} on {app.name} and would be replaced.", app.name
    )


def _demand_another(store: Store, leaving: Attachment, successor: Addon | None) -> None:
    """Refuse to take a database's last attachment from the app that owns it: nothing would name it any
    more."""
    addon = store.addon(leaving.addon_id)
    if addon is None or leaving.app_id != addon.app_id or (successor is not None and successor.id == addon.id):
        return
    if len(store.attachments(app_id=addon.app_id, addon_id=addon.id)) == 1:
        raise forbidden(f"Cannot destroy last attachment to billing app for resource {addon.name}")


def _demand_free_vars(store: Store, app: App, addon: Addon, made: Attachment) -> None:
    """No attachment may take over a config var that somebody set by hand or that another attachment
    brings."""
    credential = find_credential(store, addon, made.credential)
    mine = set(url_vars(made, addon, credential))
    taken = mine & set(store.config(app.id))
    for other in store.attachments(app_id=app.id):
        owner, secret = store.addon(other.addon_id), store.credential(other.addon_id, other.credential)
        if other.id != made.id and owner is not None and secret is not None:
            taken |= mine & set(url_vars(other, owner, secret))
    if taken:
        raise invalid(
            f"Config var {', '.join(sorted(taken))} is already set on {app.name}; unset it or choose another name."
        )


def find_owner(store: Store, attachment: Attachment) -> Addon:
    """The database of an attachment."""
    addon = store.addon(attachment.addon_id)
    if addon is None:
        raise not_found("add_on")
    return addon
