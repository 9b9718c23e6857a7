"""Endpoints of add-ons and attachments."""

from __future__ import annotations

from admin.platform.api.calls import Answer, Call, Endpoint, listed
from admin.platform.api.render import ADDON, ATTACHMENT, TEXT, addon_json, attachment_json
from admin.platform.api.shapes import NAME, REFERENCE, STRING, listing, nullable, record, reference
from admin.platform.model import DEFAULT, direct_url
from admin.platform.operations.access import (
    find_addon,
    find_app,
    find_attachment,
    find_attachment_by_id,
    may_use_credential,
    reachable_addons,
    reachable_attachments,
    resolve_addons,
    resolve_attachments,
)
from admin.platform.operations.attachments import attach, detach
from admin.platform.operations.databases import destroy_addon


def addons(call: Call) -> Answer:
    with call.state.read() as store:
        items = [addon_json(store, addon) for addon in reachable_addons(store, call.actor)]
    return listed(call, items, "name", "id")


def app_addons(call: Call) -> Answer:
    """Those that the app owns and those of others that are attached to it."""
    with call.state.read() as store:
        app = find_app(store, call.actor, call.path["app"])
        attached = {attachment.addon_id for attachment in store.attachments(app_id=app.id)}
        found = [addon for addon in store.addons() if addon.app_id == app.id or addon.id in attached]
        return listed(call, [addon_json(store, addon) for addon in found], "name", "id")


def addon(call: Call) -> Answer:
    """By name, id, or `app::ATTACHMENT`: Heroku's command line asks so when somebody shares a database."""
    with call.state.read() as store:
        return Answer(addon_json(store, resolve_addons(store, call.actor, call.path["addon"], None)[0]))


def remove_addon(call: Call) -> Answer:
    """The owning app in the path is the confirmation."""
    with call.state.write() as store:
        app = find_app(store, call.actor, call.path["app"])
        found = find_addon(store, call.actor, call.path["addon"])
        value = addon_json(store, found) | {"state": "deprovisioned"}
        destroy_addon(store, call.actor, found.id, app.name)
        return Answer(value)


def addon_attachments(call: Call) -> Answer:
    with call.state.read() as store:
        found = find_addon(store, call.actor, call.path["addon"])
        items = [attachment_json(store, item) for item in reachable_attachments(store, call.actor, found)]
    return listed(call, items, "name", "id")


def credential_config(call: Call) -> Answer:
    """The config that attaching in a namespace would bring; empty when there is no such credential."""
    kind, _, name = call.path["namespace"].partition(":")
    with call.state.read() as store:
        found = find_addon(store, call.actor, call.path["addon"])
        credential = store.credential(found.id, name) if kind == "credential" else None
        if credential is None or not may_use_credential(store, call.actor, found, name or DEFAULT):
            return Answer([])
        return Answer([{"name": "url", "value": direct_url(found, credential).text()}])


def resolve_addon(call: Call) -> Answer:
    with call.state.read() as store:
        app = find_app(store, call.actor, call.body["app"]) if call.body.get("app") else None
        found = resolve_addons(store, call.actor, call.body["addon"], app)
        return Answer([addon_json(store, addon) for addon in found])


def resolve_attachment(call: Call) -> Answer:
    with call.state.read() as store:
        app = find_app(store, call.actor, call.body["app"]) if call.body.get("app") else None
        found = resolve_attachments(store, call.actor, call.body["addon_attachment"], app)
        return Answer([attachment_json(store, attachment) for attachment in found])


def attachments(call: Call) -> Answer:
    with call.state.read() as store:
        items = [
            attachment_json(store, attachment)
            for addon in reachable_addons(store, call.actor)
            for attachment in reachable_attachments(store, call.actor, addon)
        ]
    return listed(call, items, "name", "id")


def app_attachments(call: Call) -> Answer:
    """In the order in which they were made, which pg:info keeps; by name or id when a Range asks for it."""
    with call.state.read() as store:
        app = find_app(store, call.actor, call.path["app"])
        items = [attachment_json(store, attachment) for attachment in store.attachments(app_id=app.id)]
    return listed(call, items, "name", "id") if call.range else Answer(items)


def app_attachment(call: Call) -> Answer:
    with call.state.read() as store:
        app = find_app(store, call.actor, call.path["app"])
        return Answer(attachment_json(store, find_attachment(store, call.actor, app, call.path["attachment"])))


def attachment(call: Call) -> Answer:
    with call.state.read() as store:
        found = find_attachment_by_id(store, call.actor, call.path["attachment"])
        return Answer(attachment_json(store, found))


def new_attachment(call: Call) -> Answer:
    with call.state.write() as store:
        done = attach(
            store,
            call.actor,
            app=reference(call.body["app"]),
            addon=reference(call.body["addon"]),
            name=call.body.get("name"),
            namespace=call.body.get("namespace"),
            confirm=call.body.get("confirm"),
        )
        return Answer(attachment_json(store, done.attachment), 201 if done.created else 200)


def remove_attachment(call: Call) -> Answer:
    with call.state.write() as store:
        found = find_attachment_by_id(store, call.actor, call.path["attachment"])
        value = attachment_json(store, found)
        detach(store, call.actor, found)
        return Answer(value)


NEW_ATTACHMENT = record(
    {"addon": REFERENCE, "app": REFERENCE},
    {"name": nullable(NAME), "namespace": nullable(STRING), "confirm": nullable(STRING)},
)

ENDPOINTS = (
    Endpoint("GET", "/addons", "Databases within the token's reach", addons, listing(ADDON), paged=True),
    Endpoint("GET", "/addons/{addon}", "One database, by name or id", addon, ADDON),
    Endpoint(
        "GET",
        "/addons/{addon}/addon-attachments",
        "Its attachments",
        addon_attachments,
        listing(ATTACHMENT),
        paged=True,
    ),
    Endpoint(
        "GET",
        "/addons/{addon}/config/{namespace}",
        "The config of one credential",
        credential_config,
        listing(record({"name": TEXT, "value": TEXT})),
    ),
    Endpoint("GET", "/apps/{app}/addons", "Databases of an app", app_addons, listing(ADDON), paged=True),
    Endpoint("DELETE", "/apps/{app}/addons/{addon}", "Forget a database", remove_addon, ADDON),
    Endpoint(
        "POST",
        "/actions/addons/resolve",
        "Which database is meant",
        resolve_addon,
        listing(ADDON),
        body=record({"addon": NAME}, {"app": nullable(NAME)}),
    ),
    Endpoint(
        "POST",
        "/actions/addon-attachments/resolve",
        "Which attachment is meant",
        resolve_attachment,
        listing(ATTACHMENT),
        body=record({"addon_attachment": NAME}, {"app": nullable(NAME)}),
    ),
    Endpoint("GET", "/addon-attachments", "All attachments", attachments, listing(ATTACHMENT), paged=True),
    Endpoint("POST", "/addon-attachments", "Attach a database", new_attachment, ATTACHMENT, 201, NEW_ATTACHMENT),
    Endpoint("GET", "/addon-attachments/{attachment}", "One attachment, by id", attachment, ATTACHMENT),
    Endpoint("DELETE", "/addon-attachments/{attachment}", "Detach", remove_attachment, ATTACHMENT),
    Endpoint(
        "GET",
        "/apps/{app}/addon-attachments",
        "Attachments of an app",
        app_attachments,
        listing(ATTACHMENT),
        paged=True,
    ),
    Endpoint(
        "GET",
        "/apps/{app}/addon-attachments/{attachment}",
        "One of them, by name",
        app_attachment,
        ATTACHMENT,
    ),
)
