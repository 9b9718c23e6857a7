"""pg:promote: make a database the app's DATABASE_URL, and let the default pool name follow it, in one
transaction.

Heroku's command line does the same in several requests to the API; the outcome is equal, here nothing can
stop half way.
"""

from __future__ import annotations

from dataclasses import dataclass

from admin.platform.errors import PlatformError, invalid
from admin.platform.model import POOLING_DEFAULT, Addon, App, Attachment
from admin.platform.names import DATABASE, POOL
from admin.platform.operations.access import Actor
from admin.platform.operations.attachments import attach, find_owner
from admin.platform.store import Store


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did: the name under which the old leader stays (None when there was none), and whether
    its pool moved."""

    alias: str | None
    promoted: Attachment
    addon: Addon
    pool_moved: bool
    leader: str | None
    version: int


def promote(store: Store, actor: Actor, app: App, chosen: Attachment, *, name: str = DATABASE) -> Promotion:
    """Attach what `chosen` stands for as DATABASE (or `name`)."""
    addon = find_owner(store, chosen)
    current = store.attachment(app.id, DATABASE)
    alias = _keep_alias(store, actor, app, chosen, addon, current) if current is not None else None
    promoted = attach(
        store, actor, app=app.name, addon=addon.id, name=name, namespace=chosen.namespace, confirm=app.name
    )
    moved = current is not None and _move_pool(store, actor, app, current, addon)
    leader = store.addon(addon.following) if addon.following else None
    return Promotion(
        alias, promoted.attachment, addon, moved, leader.name if leader else None, store.last_version(app.id)
    )


def _keep_alias(store: Store, actor: Actor, app: App, chosen: Attachment, addon: Addon, current: Attachment) -> str:
    """Another name for the leader that is about to lose DATABASE: one it has, or a new one."""
    if (current.addon_id, current.namespace) == (addon.id, chosen.namespace):
        raise invalid(f"{chosen.name if chosen.namespace else addon.name} is already promoted on {app.name}")
    for other in store.attachments(app_id=app.id, addon_id=current.addon_id):
        if other.namespace == current.namespace and other.name != DATABASE:
            return other.name
    return attach(
        store, actor, app=app.name, addon=current.addon_id, namespace=current.namespace, confirm=app.name
    ).attachment.name


def _move_pool(store: Store, actor: Actor, app: App, current: Attachment, addon: Addon) -> bool:
    """The default pool name goes where DATABASE went; every other name stays."""
    pool = store.attachment(app.id, POOL)
    if pool is None or pool.namespace != POOLING_DEFAULT or pool.addon_id != current.addon_id:
        return False
    if not addon.plan.pooling:
        raise PlatformError(
            "invalid_params",
            f"{addon.name} has no connection pooling on its plan, and {POOL} could not follow; detach {POOL} first.",
            422,
        )
    return attach(
        store, actor, app=app.name, addon=addon.id, name=POOL, namespace=POOLING_DEFAULT, confirm=app.name
    ).created
