"""Making and removing apps, and the authorizations that reach them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from admin.platform.errors import confirmation_required, invalid, name_taken, not_found
from admin.platform.model import App, Token
from admin.platform.names import new_app, valid_app
from admin.platform.operations.access import Actor, demand_everything, find_app
from admin.platform.store import Store

TOKEN_PREFIX = "HRKU-"
"""Heroku's own prefix, so that secret scanners know what they have found."""


def create_app(store: Store, actor: Actor, name: str | None) -> App:
    """A new app with its first release; a name is invented when none is given."""
    demand_everything(actor)
    if name is None:
        name = new_app(lambda candidate: store.app(candidate) is not None)
    elif store.app(valid_app(name)) is not None:
        raise name_taken(name)
    app = store.add_app(name)
    store.add_release(app.id, "Initial release", actor.user)
    return app


def destroy_app(store: Store, actor: Actor, name: str, confirm: str | None) -> App:
    """Remove an app with its databases' registrations (never the databases). Refused while another app uses
    one of them."""
    app = find_app(store, actor, name)
    if confirm != app.name:
        raise confirmation_required("This command will destroy the app and forget its databases.", app.name)
    for addon in store.addons(app_id=app.id):
        others = sorted({a.app_name for a in store.attachments(addon_id=addon.id) if a.app_id != app.id})
        if others:
            raise invalid(f"{addon.name} is still attached to {', '.join(others)}; detach it there first.")
    store.remove_app(app)
    return app


def digest(token: str) -> str:
    """What is kept of a token: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def create_token(store: Store, actor: Actor, description: str, apps: Sequence[str] | None) -> tuple[str, Token]:
    """A new authorization and its secret, which nobody can read again. `apps` None reaches every app."""
    demand_everything(actor)
    found = None if apps is None else [find_app(store, actor, name) for name in apps]
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return secret, store.add_token(digest(secret), description, found)


def first_token(store: Store, user: str) -> str | None:
    """The authorization made at first start, for all apps; None when the state already has one."""
    if store.tokens():
        return None
    return create_token(store, Actor(user), "Made at first start", None)[0]


def revoke_token(store: Store, actor: Actor, identity: str) -> Token:
    demand_everything(actor)
    for token in store.tokens():
        if token.id == identity:
            store.remove_token(token)
            return token
    raise not_found("authorization")


def authenticate(store: Store, secret: str) -> Actor | None:
    """The actor behind a token, or None."""
    token = store.token(digest(secret))
    return None if token is None else Actor(f"token-{token.id[:8]}@pooler", token.apps)
