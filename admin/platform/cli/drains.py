"""drains, drains:add, drains:remove."""

from __future__ import annotations

import json
from argparse import Namespace

from admin.platform.cli.session import Session, chosen_app
from admin.platform.model import LogDrain
from admin.platform.operations.drains import add_drain, log_drains, remove_drain


def drains(session: Session, arguments: Namespace) -> int:
    terminal = session.terminal
    with session.state.read() as store:
        found = log_drains(store, session.actor, chosen_app(arguments.app))
    if arguments.json:
        terminal.say(json.dumps([_plain(drain) for drain in found], indent=2))
    elif found:
        terminal.header("Drains")
        for drain in found:
            terminal.say(f"{drain.url} ({terminal.name(drain.token)})")
    return 0


def _plain(drain: LogDrain) -> dict[str, object]:
    return {"id": drain.id, "token": drain.token, "url": drain.url}


def add(session: Session, arguments: Namespace) -> int:
    with session.state.write() as store:
        made = add_drain(store, session.actor, chosen_app(arguments.app), arguments.url)
    session.terminal.say(f"Successfully added drain {session.terminal.name(made.url)}")
    return 0


def remove(session: Session, arguments: Namespace) -> int:
    with session.state.write() as store:
        gone = remove_drain(store, session.actor, chosen_app(arguments.app), arguments.url)
    session.terminal.say(f"Successfully removed drain {session.terminal.name(gone.url)}")
    return 0
