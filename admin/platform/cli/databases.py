"""db:register, pg:info, pg:connection-pooling:attach, pg:promote, pg:unfollow, pg:wait."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

from admin.platform.cli.addons import say_release
from admin.platform.cli.parsing import Usage
from admin.platform.cli.session import Chosen, Refused, Session, choose, chosen_app
from admin.platform.info import InfoLine, Known, ask, known, rows, wait_status
from admin.platform.model import Addon, Credential
from admin.platform.names import DATABASE
from admin.platform.operations.access import find_app, find_attachment, visible_credential
from admin.platform.operations.attachments import enable_pooling
from admin.platform.operations.config import config_vars
from admin.platform.operations.databases import register as register_database
from admin.platform.operations.databases import registration, unfollow
from admin.platform.operations.pools import WantedPool
from admin.platform.operations.promote import promote as promote_attachment
from admin.platform.plans import pooling_refusal
from admin.platform.store import Store


def register(session: Session, arguments: Namespace) -> int:
    terminal, app = session.terminal, chosen_app(arguments.app)
    url = arguments.url
    if url == "-":
        url = sys.stdin.readline().strip()
    wanted = registration(
        url,
        arguments.plan,
        name=arguments.name,
        attachment=arguments.attachment,
        connection_limit=arguments.connection_limit,
        follow=arguments.follow,
        pool_host=arguments.pool_host,
        pool_port=arguments.pool_port,
    )
    with terminal.action(
        f"Registering {wanted.url.dbname} at {wanted.url.host}:{wanted.url.port} on {terminal.app(app)}"
    ) as action:
        done = register_database(session.state, session.actor, app, wanted)
        action.done = f"done, {terminal.datastore(done.attached.addon.name)}"
    say_release(session, "Setting", done.attached.attachment.name, app, done.attached.version)
    if done.problem:
        terminal.warn(f"{done.attached.addon.name} does not answer yet: {done.problem}")
    return 0


def info(session: Session, arguments: Namespace) -> int:
    app_name = chosen_app(arguments.app)
    with session.state.read() as store:
        app = find_app(store, session.actor, app_name)
        variables = config_vars(store, app)
        shown = _asked(session, store, app_name, arguments.database)
    if not shown:
        session.terminal.say(f"{session.terminal.app(app_name)} has no heroku-postgresql databases.")
    for names, facts in shown:
        _show(session, app_name, names, facts, variables)
    return 0


def _asked(session: Session, store: Store, app_name: str, database: str | None) -> list[tuple[list[str], Known]]:
    """The databases to show with the config vars that name each, DATABASE_URL's first."""
    if database is not None:
        chosen = choose(session, store, app_name, database)
        held = [a for a in store.attachments(app_id=chosen.app.id, addon_id=chosen.addon.id) if not a.pooling]
        return [([f"{a.name}_URL" for a in held], _known(session, store, chosen.addon))]
    found: dict[str, list[str]] = {}
    for attachment in store.attachments(app_id=find_app(store, session.actor, app_name).id):
        found.setdefault(attachment.addon_id, []).append(f"{attachment.name}_URL")
    addons = [(names, store.addon(addon_id)) for addon_id, names in found.items()]
    shown = [(names, _known(session, store, addon)) for names, addon in addons if addon is not None]
    return sorted(shown, key=lambda item: f"{DATABASE}_URL" not in item[0])


def _known(session: Session, store: Store, addon: Addon) -> Known:
    return known(store, addon, visible_credential(store, session.actor, addon))


def _show(session: Session, app: str, names: list[str], facts: Known, variables: dict[str, str]) -> None:
    terminal = session.terminal
    values = {row.name: _values(row, variables) for row in rows(facts, ask(facts))}
    if facts.addon.app_name != app:
        values["Billing App"] = terminal.app(facts.addon.app_name)
    values["Add-on"] = terminal.addon(facts.addon.name)
    terminal.header(", ".join(terminal.attachment(name) for name in names))
    terminal.fields(values)
    terminal.say()


def _values(row: InfoLine, variables: dict[str, str]) -> str:
    if not row.urls:
        return ", ".join(row.values)
    return ", ".join(_named(value, variables) for value in row.values)


def _named(place: str, variables: dict[str, str]) -> str:
    """A database's URL without secrets as the config var that points there, or as host:port/dbname."""
    bare = place.removeprefix("postgres://")
    for name, value in variables.items():
        if name != f"{DATABASE}_URL" and value.rpartition("@")[2].partition("?")[0] == bare:
            return name.removesuffix("_URL")
    return bare


def pool(session: Session, arguments: Namespace) -> int:
    terminal, app = session.terminal, chosen_app(arguments.app)
    with session.state.read() as store:
        find_app(store, session.actor, app)
        chosen = choose(session, store, app, arguments.database)
    refusal = pooling_refusal(chosen.addon.plan)
    if refusal is not None:
        raise refusal
    label = f"Enabling Connection Pooling on {terminal.datastore(chosen.addon.name)} to {terminal.app(app)}"
    with terminal.action(label):
        done = enable_pooling(
            session.state,
            session.actor,
            app=app,
            addon=chosen.addon.id,
            credential=arguments.credential,
            name=arguments.attachment,
            wanted=WantedPool(arguments.pool, arguments.pool_mode, arguments.pool_size),
        )
    say_release(session, "Setting", done.attachment.name, app, done.version)
    return 0


def promote(session: Session, arguments: Namespace) -> int:
    terminal, app_name = session.terminal, chosen_app(arguments.app)
    with session.state.read() as store:
        app = find_app(store, session.actor, app_name)
        chosen = choose(session, store, app_name, arguments.database)
        credential = visible_credential(store, session.actor, chosen.addon)
    if not arguments.force:
        _demand_available(chosen.addon, credential)
    name = arguments.attachment or DATABASE
    with session.state.write() as store:
        current = find_attachment(store, session.actor, chosen.app, chosen.attachment.id)
        done = promote_attachment(store, session.actor, app, current, name=name)
    if done.alias:
        say(
            session,
            f"Ensuring an alternate alias for existing {terminal.datastore('DATABASE_URL')}",
            f"{done.alias}_URL",
        )
    what = _promoted_as(session, chosen)
    say(
        session,
        f"Promoting {what} to {terminal.datastore(f'{name}_URL')} on {terminal.app(app_name)}",
        "done",
    )
    if done.pool_moved:
        say(session, "Reattaching pooler to new leader", "done")
    if done.leader:
        terminal.warn(_still_following(chosen.addon.name, done.leader))
    return 0


def _promoted_as(session: Session, chosen: Chosen) -> str:
    if chosen.attachment.namespace:
        return session.terminal.attachment(chosen.attachment.name)
    return session.terminal.datastore(chosen.addon.name)


def say(session: Session, text: str, done: str) -> None:
    """An action line for something already done."""
    with session.terminal.action(text, done):
        pass


def _demand_available(addon: Addon, credential: Credential) -> None:
    status = wait_status(addon, credential)
    if status.waiting:
        raise Refused(
            f"Database cannot be promoted while in state: {status.message}\n\n"
            "Promoting this database can lead to application errors and outage. Please run pooler pg:wait "
            "to wait for "
            "database to become available.\n\n"
            "To ignore this error, you can pass the --force flag to promote the database and risk "
            "application issues."
        )


def _still_following(name: str, leader: str) -> str:
    return (
        "Your database has been promoted but it is currently a follower database in read-only mode.\n\n"
        "Promoting a database with pooler pg:promote doesn't automatically unfollow its leader.\n\n"
        f"Use pooler pg:unfollow {name} to stop this follower from replicating from its leader ({leader}) "
        "and convert "
        "it into a writable database."
    )


def stop_following(session: Session, arguments: Namespace) -> int:
    terminal, app = session.terminal, chosen_app(arguments.app)
    with session.state.read() as store:
        chosen = choose(session, store, app, arguments.database)
    if arguments.confirm != app:
        raise Refused(
            f"{chosen.addon.name} will become writeable and no longer follow its leader. This cannot be "
            "undone.\n"
            f"To proceed, re-run this command with --confirm {app}"
        )
    with terminal.action(f"{terminal.addon(chosen.addon.name)} unfollowing"):
        unfollow(session.state, session.actor, chosen.addon.id)
    return 0


def wait(session: Session, arguments: Namespace) -> int:
    """Wait for one database, or for all of the app."""
    app_name = chosen_app(arguments.app)
    if arguments.wait_interval <= 0:
        raise Usage("--wait-interval is a positive number of seconds.")
    with session.state.read() as store:
        app = find_app(store, session.actor, app_name)
        if arguments.database is not None:
            addons = [choose(session, store, app_name, arguments.database).addon]
        else:
            held = dict.fromkeys(a.addon_id for a in store.attachments(app_id=app.id))
            addons = [addon for addon_id in held if (addon := store.addon(addon_id)) is not None]
        wanted = [(addon, visible_credential(store, session.actor, addon)) for addon in addons]
    for addon, credential in wanted:
        _wait(session, addon, credential, arguments.wait_interval)
    return 0


def _wait(session: Session, addon: Addon, credential: Credential, interval: float) -> None:
    """Say nothing when there is nothing to wait for; give up where waiting is no use."""
    status = wait_status(addon, credential)
    if not status.waiting:
        return
    if not status.error:
        with session.terminal.action(f"Waiting for database {addon.name}... {status.message}") as action:
            while status.waiting and not status.error:
                time.sleep(interval)
                status = wait_status(addon, credential)
            action.done = status.message
    if status.error:
        raise Refused(f"{addon.name} {status.message}")
