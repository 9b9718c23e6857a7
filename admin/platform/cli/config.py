"""config, config:get, config:set, config:unset, releases."""

from __future__ import annotations

import json
import shlex
import time
from argparse import Namespace
from datetime import UTC, datetime

from admin.platform.cli.parsing import Usage
from admin.platform.cli.session import Refused, Session, chosen_app
from admin.platform.operations.access import find_app
from admin.platform.operations.config import change_config, config_vars


def _vars(session: Session, app: str) -> dict[str, str]:
    with session.state.read() as store:
        return config_vars(store, find_app(store, session.actor, app))


def config(session: Session, arguments: Namespace) -> int:
    app, terminal = chosen_app(arguments.app), session.terminal
    found = _vars(session, app)
    if arguments.json:
        terminal.say(json.dumps(found, indent=2))
    elif arguments.shell:
        for name, value in found.items():
            terminal.say(f"{name}={shlex.quote(value)}")
    else:
        terminal.header(f"{terminal.app(app)} Config Vars")
        terminal.fields(found)
    return 0


def get(session: Session, arguments: Namespace) -> int:
    found = _vars(session, chosen_app(arguments.app))
    for name in arguments.names:
        session.terminal.say(found.get(name, ""))
    return 0


def change(session: Session, arguments: Namespace) -> int:
    if not arguments.pairs:
        raise Refused("Usage: pooler config:set KEY1=VALUE1 [KEY2=VALUE2 ...]\nMust specify KEY and VALUE to set.")
    values: dict[str, str | None] = {}
    for pair in arguments.pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise Refused(f"{name} is invalid. Must be in the format FOO=bar.")
        values[name] = value
    found = _apply(session, arguments, "Setting", values)
    session.terminal.fields({name: value for name, value in found.items() if values.get(name)})
    return 0


def unset(session: Session, arguments: Namespace) -> int:
    if not arguments.names:
        raise Usage("Usage: pooler config:unset KEY1 [KEY2 ...]\nMust specify KEY to unset.")
    _apply(session, arguments, "Unsetting", dict.fromkeys(arguments.names))
    return 0


def _apply(session: Session, arguments: Namespace, verb: str, values: dict[str, str | None]) -> dict[str, str]:
    app, terminal = chosen_app(arguments.app), session.terminal
    names = ", ".join(terminal.name(name) for name in values)
    with terminal.action(f"{verb} {names} and restarting {terminal.app(app)}") as action:
        with session.state.write() as store:
            target = find_app(store, session.actor, app)
            change_config(store, session.actor, target, values)
            found, version = config_vars(store, target), store.last_version(target.id)
        action.done = f"done, {terminal.name(f'v{version}')}"
    return found


def releases(session: Session, arguments: Namespace) -> int:
    app, terminal = chosen_app(arguments.app), session.terminal
    with session.state.read() as store:
        found = store.releases(find_app(store, session.actor, app).id)[::-1]
    shown = found[: max(arguments.num, 0)]
    if arguments.json:
        items = [
            {"version": r.version, "description": r.description, "user": r.user, "created_at": r.created_at}
            for r in shown
        ]
        terminal.say(json.dumps(items, indent=2))
        return 0
    terminal.header(f"{terminal.app(app)} Releases - {terminal.name(f'Current: v{found[0].version}')}")
    now = time.time()
    rows = [
        [terminal.name(f"v{r.version}"), r.description, terminal.user(r.user), _when(r.created_at, now)] for r in shown
    ]
    terminal.table(["v", "description", "user", "created_at"], rows)
    return 0


def _when(moment: int, now: float) -> str:
    """A moment as Heroku's release list has it: `2026/05/01 20:26:00 +0000 (~ 3h ago)`."""
    elapsed = max(0, int(now) - moment)
    steps = ((60, 1, "s"), (3600, 60, "m"), (25 * 3600, 3600, "h"))
    count, unit = next(
        ((elapsed // size, unit) for limit, size, unit in steps if elapsed < limit), (elapsed // 86400, "d")
    )
    return f"{datetime.fromtimestamp(moment, UTC).strftime('%Y/%m/%d %H:%M:%S +0000')} (~ {count}{unit} ago)"
