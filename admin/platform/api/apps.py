"""Endpoints of apps: the apps themselves, config vars, releases, formation, log sessions."""

from __future__ import annotations

from admin.platform.api.calls import Answer, Call, Endpoint, listed
from admin.platform.api.render import APP, OWNER, RELEASE, TEXT, app_json, fixed_id, release_json
from admin.platform.api.shapes import BOOLEAN, NAME, STRING, Schema, listing, nullable, record
from admin.platform.errors import not_found
from admin.platform.logs import Wanted
from admin.platform.operations.access import find_app, reachable_apps
from admin.platform.operations.apps import create_app
from admin.platform.operations.config import change_config, config_vars

VALUE: Schema = {"type": "string", "maxLength": 65536, "pattern": "^[^\\u0000]*$"}


def account(call: Call) -> Answer:
    return Answer({"id": fixed_id(call.actor.user), "email": OWNER})


def apps(call: Call) -> Answer:
    with call.state.read() as store:
        return listed(call, [app_json(app) for app in reachable_apps(store, call.actor)], "name", "id")


def new_app(call: Call) -> Answer:
    name = (call.body or {}).get("name")
    with call.state.write() as store:
        return Answer(app_json(create_app(store, call.actor, name)), 201)


def app(call: Call) -> Answer:
    with call.state.read() as store:
        return Answer(app_json(find_app(store, call.actor, call.path["app"])))


def config(call: Call) -> Answer:
    with call.state.read() as store:
        return Answer(config_vars(store, find_app(store, call.actor, call.path["app"])))


def new_config(call: Call) -> Answer:
    with call.state.write() as store:
        found = find_app(store, call.actor, call.path["app"])
        change_config(store, call.actor, found, call.body)
        return Answer(config_vars(store, found))


def releases(call: Call) -> Answer:
    with call.state.read() as store:
        found = find_app(store, call.actor, call.path["app"])
        current = store.last_version(found.id)
        items = [release_json(release, found, current) for release in store.releases(found.id)]
    return listed(call, items, "version", "id")


def release(call: Call) -> Answer:
    """By version number or id."""
    wanted = call.path["release"]
    with call.state.read() as store:
        found = find_app(store, call.actor, call.path["app"])
        current = store.last_version(found.id)
        for candidate in store.releases(found.id):
            if wanted in (candidate.id, str(candidate.version)):
                return Answer(release_json(candidate, found, current))
    raise not_found("release")


def formation(call: Call) -> Answer:
    """The app's process types: none is managed here, and above all no `release` phase that pg:promote would
    wait for."""
    with call.state.read() as store:
        find_app(store, call.actor, call.path["app"])
    return Answer([])


def dynos(call: Call) -> Answer:
    """The app's processes: `pooler run` starts them wherever it is called, and nobody keeps a list."""
    with call.state.read() as store:
        find_app(store, call.actor, call.path["app"])
    return Answer([])


def new_log_session(call: Call) -> Answer:
    asked = call.body or {}
    with call.state.read() as store:
        found = find_app(store, call.actor, call.path["app"])
        names = {addon.id: addon.name for addon in store.addons()}
        addons = frozenset(names[attachment.addon_id] for attachment in store.attachments(app_id=found.id))
    wanted = Wanted(
        addons,
        asked.get("source"),
        asked.get("dyno"),
        asked.get("lines", 100),
        bool(asked.get("tail", False)),
    )
    key = call.logs.open(wanted)
    return Answer({"id": key, "logplex_url": f"{call.base_url.rstrip('/')}/streams/{key}"}, 201)


LOG_SESSION = record(
    {},
    {
        "source": nullable(STRING),
        "dyno": nullable(STRING),
        "lines": {"type": "integer", "minimum": 0, "maximum": 100_000},
        "tail": BOOLEAN,
    },
)
VARS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
NEW_VARS: Schema = {"type": "object", "additionalProperties": nullable(VALUE)}
PROCESS = record({"type": TEXT})
ACCOUNT = record({"id": TEXT, "email": TEXT})

ENDPOINTS = (
    Endpoint("GET", "/account", "Who the token belongs to", account, ACCOUNT),
    Endpoint("GET", "/apps", "Apps within the token's reach", apps, listing(APP), paged=True),
    Endpoint("GET", "/users/~/apps", "Apps within the token's reach", apps, listing(APP), paged=True),
    Endpoint("POST", "/apps", "Create an app", new_app, APP, 201, record({}, {"name": NAME})),
    Endpoint("GET", "/apps/{app}", "One app", app, APP),
    Endpoint("GET", "/apps/{app}/config-vars", "Config vars, those of attachments included", config, VARS),
    Endpoint(
        "PATCH",
        "/apps/{app}/config-vars",
        "Set config vars, unset those given as null",
        new_config,
        VARS,
        body=NEW_VARS,
    ),
    Endpoint("GET", "/apps/{app}/releases", "Releases", releases, listing(RELEASE), paged=True),
    Endpoint("GET", "/apps/{app}/releases/{release}", "One release, by version or id", release, RELEASE),
    Endpoint("GET", "/apps/{app}/formation", "Process types", formation, listing(PROCESS)),
    Endpoint("GET", "/apps/{app}/dynos", "Processes", dynos, listing(PROCESS)),
    Endpoint(
        "POST",
        "/apps/{app}/log-sessions",
        "An address from which the app's log streams",
        new_log_session,
        record({"logplex_url": TEXT}),
        201,
        LOG_SESSION,
    ),
)
