"""Apps' config vars: those set by hand and those that attachments bring, read as one and changed with a
release."""

from __future__ import annotations

from collections.abc import Mapping

from admin.platform.errors import invalid
from admin.platform.model import App, Release, url_vars
from admin.platform.names import valid_config_var
from admin.platform.operations.access import Actor
from admin.platform.store import Store


def attached_vars(store: Store, app: App) -> dict[str, str]:
    """The config vars that the app's attachments bring, in the attachments' order."""
    found: dict[str, str] = {}
    for attachment in store.attachments(app_id=app.id):
        addon = store.addon(attachment.addon_id)
        credential = store.credential(attachment.addon_id, attachment.credential)
        if addon is not None and credential is not None:
            found |= url_vars(attachment, addon, credential)
    return found


def config_vars(store: Store, app: App) -> dict[str, str]:
    """By name, attached and set ones together: what is shown does not depend on when they came."""
    found = attached_vars(store, app) | store.config(app.id)
    return {name: found[name] for name in sorted(found)}


def change_config(store: Store, actor: Actor, app: App, values: Mapping[str, str | None]) -> Release | None:
    """Set config vars, or unset those given as None; one release for all of them, none when nothing
    changes."""
    for name, value in values.items():
        valid_config_var(name)
        if value is not None and "\0" in value:
            raise invalid(f"The value of {name} holds a NUL byte, which no environment can carry.")
    attached = attached_vars(store, app)
    present = store.config(app.id)
    changed = {name: value for name, value in values.items() if (attached | present).get(name) != value}
    owned = sorted(set(changed) & set(attached))
    if owned:
        raise invalid(f"Cannot overwrite attachment values {', '.join(owned)}.")
    if not changed:
        return None
    for name, value in changed.items():
        store.set_config(app.id, name, value)
    return store.add_release(app.id, _description(changed), actor.user)


def _description(changed: Mapping[str, str | None]) -> str:
    """`Set A, B config vars`, `Remove C config vars`, as Heroku's release list says it."""
    setting = [name for name, value in changed.items() if value is not None]
    removing = [name for name, value in changed.items() if value is None]
    parts = [f"Set {', '.join(setting)}"] if setting else []
    parts += [f"{'remove' if setting else 'Remove'} {', '.join(removing)}"] if removing else []
    return f"{' and '.join(parts)} config vars"
