"""Who may touch what: the one place where an actor's reach is checked and names become apps, add-ons and
attachments.

A token of one app sees that app, the databases it owns, and of databases shared with it only what its own
attachments already tell. What it may not see does not exist for it, except an app's name, for which Heroku
answers 403.
"""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass

from admin.platform.errors import forbidden, no_access, not_found
from admin.platform.model import DEFAULT, Addon, App, Attachment, Credential
from admin.platform.names import attachment_name
from admin.platform.store import Store


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `apps` are the ids of the apps within reach; None is everything."""

    user: str
    apps: frozenset[str] | None = None

    def reaches(self, app_id: str) -> bool:
        return self.apps is None or app_id in self.apps


def user_name() -> str:
    """Who acts on this machine, for the releases."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def demand_everything(actor: Actor) -> None:
    """Only an authorization of all apps may pass."""
    if actor.apps is not None:
        raise forbidden("This authorization is limited to certain apps; use one for all apps.")


def find_app(store: Store, actor: Actor, identity: str) -> App:
    app = store.app(identity)
    if app is None:
        raise not_found("app")
    if not actor.reaches(app.id):
        raise no_access(app.name)
    return app


def reachable_apps(store: Store, actor: Actor) -> list[App]:
    return [app for app in store.apps() if actor.reaches(app.id)]


def reachable_attachments(store: Store, actor: Actor, addon: Addon) -> list[Attachment]:
    """The attachments of a database that the actor may know of: all for its owner, otherwise those of the
    actor's apps."""
    found = store.attachments(addon_id=addon.id)
    if actor.reaches(addon.app_id):
        return found
    return [attachment for attachment in found if actor.reaches(attachment.app_id)]


def find_addon(store: Store, actor: Actor, identity: str) -> Addon:
    """The database of this name or id, when the actor owns it or has it attached."""
    addon = store.addon(identity)
    if addon is None or not (actor.reaches(addon.app_id) or reachable_attachments(store, actor, addon)):
        raise not_found("add_on")
    return addon


def reachable_addons(store: Store, actor: Actor) -> list[Addon]:
    return [
        addon for addon in store.addons() if actor.reaches(addon.app_id) or reachable_attachments(store, actor, addon)
    ]


def known_credentials(store: Store, actor: Actor, addon: Addon) -> frozenset[str] | None:
    """The credentials of a database whose secrets the actor may learn; None is all of them."""
    if actor.reaches(addon.app_id):
        return None
    return frozenset(attachment.credential for attachment in reachable_attachments(store, actor, addon))


def may_use_credential(store: Store, actor: Actor, addon: Addon, credential: str = DEFAULT) -> bool:
    known = known_credentials(store, actor, addon)
    return known is None or credential in known


def find_owned_addon(store: Store, actor: Actor, identity: str) -> Addon:
    """A database that belongs to one of the actor's apps: what changing it takes."""
    addon = find_addon(store, actor, identity)
    if not actor.reaches(addon.app_id):
        raise no_access(addon.app_name)
    return addon


def find_attachment(store: Store, actor: Actor, app: App, identity: str) -> Attachment:
    """An attachment of an app, by name, by its config var's name or by id."""
    found = store.attachment(app.id, identity) or store.attachment(app.id, attachment_name(identity))
    if found is None or not actor.reaches(app.id):
        raise not_found("add_on attachment")
    return found


def find_attachment_by_id(store: Store, actor: Actor, identity: str) -> Attachment:
    found = store.attachment_by_id(identity)
    if found is None or not actor.reaches(found.app_id):
        raise not_found("add_on attachment")
    return found


def _other_app(store: Store, actor: Actor, identity: str, app: App | None) -> tuple[str, App | None]:
    """`app::NAME` names an attachment of another app."""
    owner, separator, name = identity.partition("::")
    return (name, find_app(store, actor, owner)) if separator else (identity, app)


def resolve_attachments(store: Store, actor: Actor, identity: str, app: App | None) -> list[Attachment]:
    """Every attachment that a user may mean by `identity`: its name, its config var, its id, its database's name
    or id, or one of another app as `app::NAME`."""
    identity, app = _other_app(store, actor, identity, app)
    if app is not None:
        named = store.attachment(app.id, identity) or store.attachment(app.id, attachment_name(identity))
        if named is not None:
            return [named]
    else:
        by_id = store.attachment_by_id(identity)
        if by_id is not None and actor.reaches(by_id.app_id):
            return [by_id]
    addon = store.addon(identity)
    found = reachable_attachments(store, actor, addon) if addon is not None else []
    if app is not None:
        found = [attachment for attachment in found if attachment.app_id == app.id]
    if not found:
        raise not_found("add_on attachment")
    return found


def resolve_addons(store: Store, actor: Actor, identity: str, app: App | None) -> list[Addon]:
    """The database that a user means by its name or id, or by an attachment of the app (or of another,
    `app::NAME`)."""
    identity, app = _other_app(store, actor, identity, app)
    addon = store.addon(identity)
    if addon is not None and (actor.reaches(addon.app_id) or reachable_attachments(store, actor, addon)):
        return [addon]
    if app is not None:
        attachment = store.attachment(app.id, identity) or store.attachment(app.id, attachment_name(identity))
        if attachment is not None:
            return [find_addon(store, actor, attachment.addon_id)]
    raise not_found("add_on")


def visible_credential(store: Store, actor: Actor, addon: Addon) -> Credential:
    """The credential through which the actor sees a database: the default one, or the one it was given
    instead."""
    known = known_credentials(store, actor, addon)
    names = [DEFAULT] if known is None or DEFAULT in known else sorted(known)
    found = store.credential(addon.id, names[0]) if names else None
    if found is None:
        raise not_found("credential")
    return found
