"""What a command works with: the open state, the terminal, who asks, and the finding of apps and databases by
what users type."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from admin.platform.cli.parsing import Usage
from admin.platform.cli.terminal import Terminal
from admin.platform.errors import PlatformError
from admin.platform.model import Addon, App, Attachment
from admin.platform.names import attachment_name
from admin.platform.operations.access import Actor, find_app, resolve_attachments, user_name
from admin.platform.operations.attachments import find_owner
from admin.platform.operations.config import attached_vars
from admin.platform.state import State
from admin.platform.store import Store

APP_VARIABLES = ("POOLER_APP", "HEROKU_APP")


class Refused(Exception):
    """The command itself says no; the message is fit for the user. Exit status 1, as Heroku's own
    refusals."""


@dataclass(slots=True)
class Session:
    """One command's surroundings."""

    terminal: Terminal
    place: str | None = None
    actor: Actor = field(default_factory=lambda: Actor(user_name()))
    _state: State | None = None

    @property
    def state(self) -> State:
        if self._state is None:
            self._state = State.open(self.place)
        return self._state

    def close(self) -> None:
        if self._state is not None:
            self._state.close()


def chosen_app(given: str | None) -> str:
    """The app of -a, or of the environment."""
    found = given or next((os.environ[name] for name in APP_VARIABLES if os.environ.get(name)), None)
    if not found:
        raise Usage("Missing required flag:\n -a, --app APP  app to run command against")
    return found


@dataclass(frozen=True, slots=True)
class Chosen:
    """The database that a user means: through which attachment, on which app."""

    attachment: Attachment
    addon: Addon
    app: App


def choose(session: Session, store: Store, app_name: str, database: str | None) -> Chosen:
    """Resolve a DATABASE argument as Heroku's command line does; DATABASE_URL when there is none."""
    identity = database or "DATABASE_URL"
    owner, separator, rest = identity.partition("::")
    app = find_app(store, session.actor, owner if separator else app_name)
    name = rest if separator else identity
    try:
        found = resolve_attachments(store, session.actor, name, app)
    except PlatformError as error:
        if error.id != "not_found":
            raise
        raise Refused(_unknown(store, session.terminal, app, name)) from None
    plain = [attachment for attachment in found if attachment.namespace is None] or found
    return Chosen(plain[0], find_owner(store, plain[0]), app)


def _unknown(store: Store, terminal: Terminal, app: App, name: str) -> str:
    options = [attachment_name(variable) for variable in attached_vars(store, app)]
    if not options:
        return f"{terminal.app(app.name)} has no databases"
    return f"Unknown database: {attachment_name(name)}. Valid options are: {', '.join(options)}"
