"""The model's values as the Platform API's JSON objects, and the JSON Schemas that promise their fields.

Only fields that are true here are given; those that a client reads and that mean nothing for us (`web_url`,
`slug`) are null, as Heroku gives them for such resources.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from admin.platform.api.shapes import BOOLEAN, Schema, listing, nullable, record
from admin.platform.info import InfoLine, Known, Live
from admin.platform.model import Addon, App, Attachment, Credential, LogDrain, Release, direct_url, url_vars
from admin.platform.operations.attachments import find_credential, find_owner
from admin.platform.plans import SERVICE, Plan
from admin.platform.store import Store
from admin.platform.truth import Setting

Json = dict[str, Any]

TEXT: Schema = {"type": "string"}
OWNER = "pooler@localhost"
"""Whom all apps belong to: there are no users here, only tokens."""
NUMBER: Schema = {"type": "integer"}
_NAMED = record({"id": TEXT, "name": TEXT})

APP: Schema = record({"id": TEXT, "name": TEXT, "created_at": TEXT, "updated_at": TEXT, "generation": _NAMED})
RELEASE: Schema = record(
    {
        "id": TEXT,
        "version": NUMBER,
        "description": TEXT,
        "status": TEXT,
        "current": BOOLEAN,
        "created_at": TEXT,
        "user": record({"email": TEXT}),
    }
)
ADDON: Schema = record(
    {
        "id": TEXT,
        "name": TEXT,
        "state": TEXT,
        "app": _NAMED,
        "plan": _NAMED,
        "addon_service": _NAMED,
        "created_at": TEXT,
    }
)
ATTACHMENT: Schema = record(
    {
        "id": TEXT,
        "name": TEXT,
        "namespace": nullable(TEXT),
        "app": _NAMED,
        "addon": record({"id": TEXT, "name": TEXT, "app": _NAMED, "plan": _NAMED}),
        "config_vars": listing(TEXT),
    }
)
DATABASE: Schema = record(
    {
        "addon_id": TEXT,
        "name": TEXT,
        "resource_url": TEXT,
        "plan": _NAMED,
        "following": nullable(TEXT),
        "leader": nullable(TEXT),
        "info": listing(record({"name": TEXT, "values": listing(TEXT)})),
    }
)
CREDENTIAL: Schema = record({"name": TEXT, "state": TEXT, "database": TEXT, "host": TEXT, "port": NUMBER})
LOG_DRAIN: Schema = record({"id": TEXT, "token": TEXT, "url": TEXT, "addon": {"type": "null"}, "created_at": TEXT})
SETTINGS: Schema = {
    "type": "object",
    "additionalProperties": record({"desc": TEXT, "values": {"type": "object", "additionalProperties": TEXT}}),
}
ERROR: Schema = record({"id": TEXT, "message": TEXT})


def stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fixed_id(name: str) -> str:
    """The id of a thing that has none of its own in the state: plans, the service, users."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"pooler:{name}"))


def app_json(app: App) -> Json:
    cedar = {"id": fixed_id("generation:cedar"), "name": "cedar"}
    return {
        "id": app.id,
        "name": app.name,
        "created_at": stamp(app.created_at),
        "updated_at": stamp(app.updated_at),
        "generation": cedar,
        "owner": {"id": fixed_id("owner"), "email": OWNER},
        "region": {"id": fixed_id("region:local"), "name": "local"},
        "stack": cedar,
        "build_stack": cedar,
        "create_status": "complete",
        "acm": False,
        # Nothing is pushed here: there is no repository, and no slug is built.
        "repo_size": 0,
        "slug_size": 0,
        "git_url": None,
        "web_url": None,
    }


def release_json(release: Release, app: App, current: int) -> Json:
    return {
        "id": release.id,
        "version": release.version,
        "description": release.description,
        "status": "succeeded",
        "current": release.version == current,
        "created_at": stamp(release.created_at),
        "updated_at": stamp(release.created_at),
        "user": {"id": fixed_id(f"user:{release.user}"), "email": release.user},
        "app": {"id": app.id, "name": app.name},
        "slug": None,
    }


def plan_json(plan: Plan) -> Json:
    price = {"cents": plan.cents, "contract": False, "metered": False, "unit": "month"}
    return {"id": fixed_id(f"plan:{plan.name}"), "name": plan.full_name, "price": price}


def addon_json(store: Store, addon: Addon) -> Json:
    plan = addon.plan
    config_vars: list[str] = []
    for attachment in store.attachments(app_id=addon.app_id, addon_id=addon.id):
        config_vars += var_names(store, attachment)
    return {
        "id": addon.id,
        "name": addon.name,
        "state": "provisioned",
        "app": {"id": addon.app_id, "name": addon.app_name},
        "plan": plan_json(plan),
        "addon_service": {"id": fixed_id(f"service:{SERVICE}"), "name": SERVICE},
        "billed_price": {"cents": plan.cents, "contract": False, "unit": "month"},
        "config_vars": config_vars,
        "provider_id": addon.id,
        "created_at": stamp(addon.created_at),
        "updated_at": stamp(addon.created_at),
        "web_url": None,
    }


def var_names(store: Store, attachment: Attachment) -> list[str]:
    addon = find_owner(store, attachment)
    return list(url_vars(attachment, addon, find_credential(store, addon, attachment.credential)))


def attachment_json(store: Store, attachment: Attachment) -> Json:
    addon = find_owner(store, attachment)
    plan = addon.plan
    return {
        "id": attachment.id,
        "name": attachment.name,
        "namespace": attachment.namespace,
        "app": {"id": attachment.app_id, "name": attachment.app_name},
        "addon": {
            "id": addon.id,
            "name": addon.name,
            "app": {"id": addon.app_id, "name": addon.app_name},
            "plan": {"id": fixed_id(f"plan:{plan.name}"), "name": plan.full_name},
        },
        "config_vars": var_names(store, attachment),
        "created_at": stamp(attachment.created_at),
        "updated_at": stamp(attachment.updated_at),
        "web_url": None,
        "log_input_url": None,
    }


def info_json(row: InfoLine) -> Json:
    named = {"resolve_db_name": True} if row.urls else {}
    return {"name": row.name, "values": list(row.values)} | named


def database_json(known: Known, live: Live, rows: list[InfoLine]) -> Json:
    addon, facts = known.addon, live.facts
    return {
        "addon_id": addon.id,
        "name": addon.name,
        "resource_url": direct_url(addon, known.credential).text(),
        "plan": plan_json(addon.plan),
        "info": [info_json(row) for row in rows],
        "following": known.leader,
        "leader": known.leader_name,
        "host": addon.host,
        "port": addon.port,
        "database_name": addon.dbname,
        "database_user": known.credential.user,
        "database_password": known.credential.password,
        "postgres_version": facts.version if facts else None,
        "num_bytes": facts.size if facts else None,
        "num_tables": facts.tables if facts else None,
        "num_connections": facts.connections if facts else None,
        "is_in_recovery?": facts.in_recovery if facts else None,
        "credentials": known.credentials,
        "created_at": stamp(addon.created_at),
    }


def credential_json(addon: Addon, credential: Credential, *, with_password: bool) -> Json:
    role: Json = {"user": credential.user, "state": "active"}
    if with_password:
        role["password"] = credential.password
    return {
        "uuid": fixed_id(f"credential:{addon.id}:{credential.name}"),
        "name": credential.name,
        "state": "active",
        "database": addon.dbname,
        "host": addon.host,
        "port": addon.port,
        "credentials": [role],
    }


def drain_json(drain: LogDrain) -> Json:
    at = stamp(drain.created_at)
    made = {"id": drain.id, "token": drain.token, "url": drain.url}
    return made | {"addon": None, "created_at": at, "updated_at": at}


def setting_json(setting: Setting) -> Json:
    """`values` are the words that a setting knows."""
    return {
        "value": setting.value,
        "default": setting.default,
        "desc": setting.help,
        "values": dict.fromkeys(setting.choices, ""),
    }
