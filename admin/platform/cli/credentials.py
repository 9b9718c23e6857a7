"""pg:credentials and its kin."""

from __future__ import annotations

from argparse import Namespace

from admin.platform.cli.addons import attachment_lines
from admin.platform.cli.session import Refused, Session, choose, chosen_app
from admin.platform.model import direct_url
from admin.platform.operations.access import known_credentials, may_use_credential, reachable_attachments
from admin.platform.operations.attachments import find_credential
from admin.platform.operations.databases import create_credential, destroy_credential


def credentials(session: Session, arguments: Namespace) -> int:
    app = chosen_app(arguments.app)
    with session.state.read() as store:
        addon = choose(session, store, app, arguments.database).addon
        seen = known_credentials(store, session.actor, addon)
        found = [c for c in store.credentials(addon.id) if seen is None or c.name in seen]
        held = reachable_attachments(store, session.actor, addon)
    rows = []
    for credential in sorted(found, key=lambda item: (item.name != "default", item.name)):
        mine = [a for a in held if a.credential == credential.name and not a.pooling]
        lines = [session.terminal.name(credential.name), *attachment_lines(session, mine, app), ""]
        rows.append(["\n".join(lines), "active"])
    session.terminal.table(["Credential", "State"], rows)
    return 0


def create(session: Session, arguments: Namespace) -> int:
    app, terminal, name = chosen_app(arguments.app), session.terminal, arguments.name
    with session.state.read() as store:
        addon = choose(session, store, app, arguments.database).addon
    with terminal.action(f"Creating credential {terminal.name(name)}"):
        create_credential(session.state, session.actor, addon.id, name)
    terminal.say()
    terminal.say(
        "Please attach the credential to the apps you want to use it in by running "
        f"pooler addons:attach {addon.name} --credential {name} -a {app}."
    )
    terminal.say(
        f"Please define the new grants for the credential within Postgres: pooler pg:psql {addon.name} -a {app}."
    )
    return 0


def destroy(session: Session, arguments: Namespace) -> int:
    app, terminal, name = chosen_app(arguments.app), session.terminal, arguments.name
    with session.state.read() as store:
        addon = choose(session, store, app, arguments.database).addon
    if arguments.confirm != app:
        raise Refused(
            f"This will destroy credential {name} of {addon.name}.\nTo proceed, re-run this command with "
            f"--confirm {app}"
        )
    with terminal.action(f"Destroying credential {terminal.name(name)}"):
        destroy_credential(session.state, session.actor, addon.id, name)
    terminal.say(f"The credential has been destroyed within {addon.name}.")
    terminal.say(f"Database objects owned by {name} will be assigned to the default credential.")
    return 0


def url(session: Session, arguments: Namespace) -> int:
    app, terminal = chosen_app(arguments.app), session.terminal
    with session.state.read() as store:
        addon = choose(session, store, app, arguments.database).addon
        if not may_use_credential(store, session.actor, addon, arguments.name):
            raise Refused(f"Could not find any active credentials for {arguments.name}")
        found = direct_url(addon, find_credential(store, addon, arguments.name))
    mode = found.option("sslmode") or "require"
    terminal.say(f"Connection information for {arguments.name} credential.")
    terminal.say("Connection info string:")
    terminal.say(
        f'  "dbname={found.dbname} host={found.host} port={found.port} user={found.user} '
        f"password={found.password} "
        f'sslmode={mode}"'
    )
    terminal.say("Connection URL:")
    terminal.say(f"  {found.text()}")
    return 0
