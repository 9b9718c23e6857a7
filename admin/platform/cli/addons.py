"""addons, addons:info, addons:attach, addons:detach, addons:destroy."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import UTC, datetime

from admin.platform.cli.session import Refused, Session, chosen_app
from admin.platform.errors import PlatformError
from admin.platform.model import CREDENTIAL, DEFAULT, Addon, Attachment
from admin.platform.operations.access import (
    find_app,
    find_attachment,
    reachable_addons,
    reachable_attachments,
    resolve_addons,
)
from admin.platform.operations.attachments import Attached, attach, detach, find_owner
from admin.platform.operations.databases import destroy_addon
from admin.platform.plans import SERVICE
from admin.platform.store import Store

Listed = tuple[Addon, list[Attachment]]


def addons(session: Session, arguments: Namespace) -> int:
    """One app's databases with -a, everybody's without."""
    terminal = session.terminal
    with session.state.read() as store:
        if arguments.app:
            find_app(store, session.actor, arguments.app)
        found = [
            (addon, reachable_attachments(store, session.actor, addon))
            for addon in reachable_addons(store, session.actor)
        ]
    if arguments.app:
        found = [(addon, held) for addon, held in found if _concerns(addon, held, arguments.app)]
    if arguments.json:
        terminal.say(json.dumps([_plain(addon, held) for addon, held in found], indent=2))
    elif not found:
        terminal.say(f"No add-ons for app {arguments.app}." if arguments.app else "No add-ons.")
    elif arguments.app:
        _table_of_app(session, arguments.app, found)
    else:
        rows = [
            [terminal.app(a.app_name), terminal.addon(a.name), a.plan.full_name, *_prices(a), "created"]
            for a, _ in found
        ]
        terminal.table(["Owning App", "Add-on", "Plan", "Price", "Max Price", "State"], rows)
    return 0


def _concerns(addon: Addon, held: list[Attachment], app: str) -> bool:
    return addon.app_name == app or any(attachment.app_name == app for attachment in held)


def _plain(addon: Addon, held: list[Attachment]) -> dict[str, object]:
    names = [
        {"app": attachment.app_name, "name": attachment.name, "namespace": attachment.namespace} for attachment in held
    ]
    return {"name": addon.name, "plan": addon.plan.full_name, "app": addon.app_name, "attachments": names}


def _prices(addon: Addon) -> list[str]:
    """Per hour of a month of 720, and per month, as Heroku writes them."""
    cents = addon.plan.cents
    if cents == 0:
        return ["free", "free"]
    month = f"${cents // 100}/month" if cents % 100 == 0 else f"${cents / 100:.2f}/month"
    return [f"~${cents / 100 / 720:.3f}/hour", month]


def _table_of_app(session: Session, app: str, found: list[Listed]) -> None:
    terminal = session.terminal
    rows = []
    for addon, held in sorted(found, key=lambda item: (item[0].app_name != app, item[0].plan_name, item[0].name)):
        foreign = addon.app_name != app
        prices = [f"(billed to {terminal.app(addon.app_name)} app)"] * 2 if foreign else _prices(addon)
        title = f"{SERVICE} ({terminal.addon(addon.name)})"
        cell = "\n".join([title, *attachment_lines(session, held, app), ""])
        rows.append([cell, addon.plan.name, *prices, "created"])
    terminal.say()
    terminal.table(["Add-on", "Plan", "Price", "Max Price", "State"], rows)
    terminal.say(
        f"The table above shows add-ons and the attachments to the current app ({terminal.app(app)}) or other apps.\n  "
    )


def attachment_lines(session: Session, held: list[Attachment], app: str) -> list[str]:
    """`├─ as NAME`, with the app's name where it is another."""
    terminal = session.terminal
    ordered = sorted(held, key=lambda attachment: (attachment.app_name != app, attachment.app_name, attachment.name))
    lines = []
    for index, attachment in enumerate(ordered):
        branch = "└─" if index == len(ordered) - 1 else "├─"
        line = f" {terminal.faint(branch)} {terminal.faint('as')} {terminal.attachment(attachment.name)}"
        if attachment.app_name != app:
            line += f" {terminal.faint(f'on {terminal.app(attachment.app_name)} app')}"
        lines.append(line)
    return lines


def _find(session: Session, store: Store, identity: str, app: str | None) -> Addon:
    target = find_app(store, session.actor, app) if app else None
    return resolve_addons(store, session.actor, identity, target)[0]


def info(session: Session, arguments: Namespace) -> int:
    terminal = session.terminal
    with session.state.read() as store:
        addon = _find(session, store, arguments.addon, arguments.app)
        held = reachable_attachments(store, session.actor, addon)
    hourly, monthly = _prices(addon)
    names = sorted(f"{terminal.app(item.app_name)}::{terminal.attachment(item.name)}" for item in held)
    installed = datetime.fromtimestamp(addon.created_at, UTC).strftime("%a %b %d %Y %H:%M:%S GMT+0000")
    terminal.header(terminal.addon(addon.name))
    terminal.fields(
        {
            "Plan": addon.plan.full_name,
            "Price": hourly,
            "Max Price": monthly,
            "Attachments": names,
            "Owning app": terminal.app(addon.app_name),
            "Installed at": f"{installed} (Coordinated Universal Time)",
            "State": "created",
        }
    )
    return 0


def attach_addon(session: Session, arguments: Namespace) -> int:
    terminal, app, name = session.terminal, chosen_app(arguments.app), arguments.attachment
    credential = None if arguments.credential in (None, DEFAULT) else arguments.credential
    with session.state.read() as store:
        addon = _find(session, store, arguments.addon, None)
    whose = f"{terminal.name(arguments.credential)} of " if arguments.credential else ""
    as_name = f" as {terminal.attachment(name)}" if name else ""
    label = f"Attaching {whose}{terminal.datastore(addon.name)}{as_name} to {terminal.app(app)}"
    try:
        with terminal.action(label):
            done = _attach(session, app, addon, name, credential, arguments.confirm)
    except PlatformError as error:
        if error.id != "confirmation_required":
            raise
        raise Refused(f"{error.message}\nTo proceed, re-run this command with --confirm {app}") from None
    say_release(session, "Setting", done.attachment.name, app, done.version)
    return 0


def _attach(
    session: Session, app: str, addon: Addon, name: str | None, credential: str | None, confirm: str | None
) -> Attached:
    namespace = f"{CREDENTIAL}:{credential}" if credential else None
    with session.state.write() as store:
        return attach(store, session.actor, app=app, addon=addon.id, name=name, namespace=namespace, confirm=confirm)


def say_release(session: Session, verb: str, name: str, app: str, version: int) -> None:
    """Heroku's second line after attaching or detaching."""
    terminal = session.terminal
    with terminal.action(
        f"{verb} {terminal.attachment(name)} config vars and restarting {terminal.app(app)}",
        f"done, v{version}",
    ):
        pass


def detach_attachment(session: Session, arguments: Namespace) -> int:
    terminal, app = session.terminal, chosen_app(arguments.app)
    with session.state.read() as store:
        found = find_attachment(store, session.actor, find_app(store, session.actor, app), arguments.attachment)
        addon = find_owner(store, found)
    label = f"Detaching {terminal.attachment(found.name)} to {terminal.addon(addon.name)} from {terminal.app(app)}"
    with terminal.action(label), session.state.write() as store:
        current = find_attachment(store, session.actor, find_app(store, session.actor, app), found.id)
        version = detach(store, session.actor, current)
    say_release(session, "Unsetting", found.name, app, version)
    return 0


def destroy(session: Session, arguments: Namespace) -> int:
    terminal = session.terminal
    with session.state.read() as store:
        addon = _find(session, store, arguments.addon, arguments.app)
    if arguments.confirm != addon.app_name:
        raise Refused(
            f"This command will forget {addon.name} and detach it everywhere; the database itself stays.\n"
            f"To proceed, re-run this command with --confirm {addon.app_name}"
        )
    label = f"Destroying {terminal.addon(addon.name)} on {terminal.app(addon.app_name)}"
    with terminal.action(label), session.state.write() as store:
        destroy_addon(store, session.actor, addon.id, arguments.confirm)
    return 0
