"""apps, apps:create, apps:destroy, authorizations."""

from __future__ import annotations

from argparse import Namespace

from admin.platform.cli.session import Session, chosen_app
from admin.platform.model import Token
from admin.platform.operations.access import reachable_apps
from admin.platform.operations.apps import create_app, create_token, destroy_app, revoke_token
from admin.platform.store import Store


def apps(session: Session, arguments: Namespace) -> int:
    with session.state.read() as store:
        found = reachable_apps(store, session.actor)
    if not found:
        session.terminal.say("You have no apps.")
        return 0
    session.terminal.header("Apps")
    for app in found:
        session.terminal.say(session.terminal.app(app.name))
    session.terminal.say()
    return 0


def create(session: Session, arguments: Namespace) -> int:
    terminal = session.terminal
    label = f"Creating {terminal.app(arguments.name)}" if arguments.name else "Creating app"
    with terminal.action(label) as action:
        with session.state.write() as store:
            app = create_app(store, session.actor, arguments.name)
        if not arguments.name:
            action.done = f"done, {terminal.app(app.name)}"
    return 0


def destroy(session: Session, arguments: Namespace) -> int:
    terminal, name = session.terminal, chosen_app(arguments.app)
    with terminal.action(f"Destroying {terminal.app(name)}"), session.state.write() as store:
        destroy_app(store, session.actor, name, arguments.confirm)
    return 0


def authorizations(session: Session, arguments: Namespace) -> int:
    with session.state.read() as store:
        rows = [[token.description, token.id, _reach(store, token)] for token in store.tokens()]
    if not rows:
        session.terminal.say("No OAuth authorizations.")
        return 0
    session.terminal.table(["Description", "ID", "Scope"], rows)
    return 0


def _reach(store: Store, token: Token) -> str:
    if token.apps is None:
        return "global"
    return ", ".join(app.name for app in store.apps() if app.id in token.apps) or "nothing"


def authorize(session: Session, arguments: Namespace) -> int:
    terminal = session.terminal
    with terminal.action("Creating OAuth Authorization"), session.state.write() as store:
        secret, token = create_token(store, session.actor, arguments.description, arguments.apps)
        reach = _reach(store, token)
    if arguments.short:
        terminal.say(secret)
        return 0
    terminal.fields(
        {
            "Client": "<none>",
            "ID": token.id,
            "Description": token.description,
            "Scope": reach,
            "Token": secret,
        }
    )
    return 0


def revoke(session: Session, arguments: Namespace) -> int:
    with session.terminal.action("Revoking OAuth Authorization") as action, session.state.write() as store:
        gone = revoke_token(store, session.actor, arguments.id)
        action.done = f"done, revoked authorization from {gone.description}"
    return 0
