"""Endpoints of the Data API: databases, their pools and their credentials."""

from __future__ import annotations

from admin.platform.api.calls import Answer, Call, Endpoint
from admin.platform.api.render import (
    ATTACHMENT,
    CREDENTIAL,
    DATABASE,
    SETTINGS,
    TEXT,
    attachment_json,
    credential_json,
    database_json,
    setting_json,
)
from admin.platform.api.shapes import BOOLEAN, NAME, listing, nullable, record
from admin.platform.errors import no_access
from admin.platform.info import ask, known, rows, wait_status
from admin.platform.model import DEFAULT
from admin.platform.operations.access import (
    find_addon,
    find_owned_addon,
    known_credentials,
    may_use_credential,
    visible_credential,
)
from admin.platform.operations.attachments import enable_pooling, find_credential
from admin.platform.operations.databases import create_credential, destroy_credential, unfollow
from admin.platform.operations.pools import WantedPool


def database(call: Call) -> Answer:
    with call.state.read() as store:
        addon = find_addon(store, call.actor, call.path["database"])
        found = known(store, addon, visible_credential(store, call.actor, addon))
    live = ask(found)
    return Answer(database_json(found, live, rows(found, live)))


def waiting(call: Call) -> Answer:
    with call.state.read() as store:
        addon = find_addon(store, call.actor, call.path["database"])
        credential = visible_credential(store, call.actor, addon)
    found = wait_status(addon, credential)
    error = {"error?": True} if found.error else {}
    return Answer({"waiting?": found.waiting, "message": found.message} | error)


def pool(call: Call) -> Answer:
    done = enable_pooling(
        call.state,
        call.actor,
        app=call.body["app"],
        addon=call.path["database"],
        credential=call.body.get("credential") or DEFAULT,
        name=call.body.get("name"),
        wanted=WantedPool(call.body.get("pool"), call.body.get("pool_mode"), call.body.get("pool_size")),
    )
    with call.state.read() as store:
        return Answer(attachment_json(store, done.attachment), 201 if done.created else 200)


def end_following(call: Call) -> Answer:
    addon = unfollow(call.state, call.actor, call.path["database"])
    return Answer({"message": f"{addon.name} no longer follows."})


def settings(call: Call) -> Answer:
    from admin.platform.truth import ask_settings

    with call.state.read() as store:
        addon = find_addon(store, call.actor, call.path["database"])
        credential = visible_credential(store, call.actor, addon)
    found = ask_settings(addon, credential)
    return Answer({setting.name.replace(".", "_"): setting_json(setting) for setting in found})


def credentials(call: Call) -> Answer:
    with call.state.read() as store:
        addon = find_addon(store, call.actor, call.path["database"])
        seen = known_credentials(store, call.actor, addon)
        found = [c for c in store.credentials(addon.id) if seen is None or c.name in seen]
        return Answer([credential_json(addon, credential, with_password=False) for credential in found])


def credential(call: Call) -> Answer:
    name = call.path["credential"]
    with call.state.read() as store:
        addon = find_addon(store, call.actor, call.path["database"])
        if not may_use_credential(store, call.actor, addon, name):
            raise no_access(addon.app_name)
        return Answer(credential_json(addon, find_credential(store, addon, name), with_password=True))


def new_credential(call: Call) -> Answer:
    made = create_credential(call.state, call.actor, call.path["database"], call.body["name"])
    with call.state.read() as store:
        addon = find_owned_addon(store, call.actor, call.path["database"])
    return Answer(credential_json(addon, made, with_password=True), 201)


def remove_credential(call: Call) -> Answer:
    gone = destroy_credential(call.state, call.actor, call.path["database"], call.path["credential"])
    return Answer({"message": f"The credential {gone.name} has been destroyed."})


POOL = record(
    {"app": NAME},
    {
        "credential": nullable(NAME),
        "name": nullable(NAME),
        "pool": nullable(NAME),
        "pool_mode": nullable(NAME),
        "pool_size": nullable({"type": "integer"}),
    },
)
MESSAGE = record({"message": TEXT})
WAITING = record({"waiting?": BOOLEAN, "message": TEXT})

ENDPOINTS = (
    Endpoint("GET", "/client/v11/databases/{database}", "A database as it is now", database, DATABASE),
    Endpoint(
        "GET",
        "/client/v11/databases/{database}/wait_status",
        "Whether one has to wait for it",
        waiting,
        WAITING,
    ),
    Endpoint(
        "POST",
        "/client/v11/databases/{database}/connection-pooling",
        "Attach its pool",
        pool,
        ATTACHMENT,
        201,
        POOL,
    ),
    Endpoint("PUT", "/client/v11/databases/{database}/unfollow", "Stop following", end_following, MESSAGE),
    Endpoint(
        "GET",
        "/postgres/v0/databases/{database}/config",
        "What its server is set to",
        settings,
        SETTINGS,
    ),
    Endpoint(
        "GET",
        "/postgres/v0/databases/{database}/credentials",
        "Its credentials",
        credentials,
        listing(CREDENTIAL),
    ),
    Endpoint(
        "POST",
        "/postgres/v0/databases/{database}/credentials",
        "Create a credential",
        new_credential,
        CREDENTIAL,
        201,
        record({"name": NAME}),
    ),
    Endpoint(
        "GET",
        "/postgres/v0/databases/{database}/credentials/{credential}",
        "One credential, with its password",
        credential,
        CREDENTIAL,
    ),
    Endpoint(
        "DELETE",
        "/postgres/v0/databases/{database}/credentials/{credential}",
        "Destroy a credential",
        remove_credential,
        MESSAGE,
    ),
)
