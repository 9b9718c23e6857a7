"""Endpoints of log drains. A drain may be named by its URL, slashes and all."""

from __future__ import annotations

from admin.platform.api.calls import Answer, Call, Endpoint, listed
from admin.platform.api.render import LOG_DRAIN, drain_json
from admin.platform.api.shapes import listing, record
from admin.platform.operations.drains import LONGEST, add_drain, find_drain, log_drains, remove_drain


def drains(call: Call) -> Answer:
    with call.state.read() as store:
        found = log_drains(store, call.actor, call.path["app"])
    return listed(call, [drain_json(drain) for drain in found], "id", "url")


def new_drain(call: Call) -> Answer:
    with call.state.write() as store:
        return Answer(drain_json(add_drain(store, call.actor, call.path["app"], call.body["url"])), 201)


def drain(call: Call) -> Answer:
    with call.state.read() as store:
        return Answer(drain_json(find_drain(store, call.actor, call.path["app"], call.path["drain"])))


def gone_drain(call: Call) -> Answer:
    with call.state.write() as store:
        return Answer(drain_json(remove_drain(store, call.actor, call.path["app"], call.path["drain"])))


NEW = record({"url": {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": "^[^\\u0000]*$"}})
ONE = "/apps/{app}/log-drains/{drain:path}"

ENDPOINTS = (
    Endpoint("GET", "/apps/{app}/log-drains", "Where its log goes", drains, listing(LOG_DRAIN), paged=True),
    Endpoint("POST", "/apps/{app}/log-drains", "Send its log there as well", new_drain, LOG_DRAIN, 201, NEW),
    Endpoint("GET", ONE, "One drain, by URL, token or id", drain, LOG_DRAIN),
    Endpoint("DELETE", ONE, "Send its log there no longer", gone_drain, LOG_DRAIN),
)
