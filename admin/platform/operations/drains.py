"""Log drains of an app: where the lines about its databases go.

The rule: whoever may change one app may send the lines about it elsewhere, and may do no more with this machine than
that: no file, no standard output, only a host of the network.
"""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from admin.platform.errors import invalid, not_found
from admin.platform.model import LogDrain
from admin.platform.operations.access import Actor, find_app
from admin.platform.store import Store, new_id

SCHEMES = ("https", "http", "syslog+tls", "syslog")
MOST = 10
"""Of one app."""
LONGEST = 2048


def log_drains(store: Store, actor: Actor, app: str) -> list[LogDrain]:
    return store.log_drains(find_app(store, actor, app).id)


def find_drain(store: Store, actor: Actor, app: str, identity: str) -> LogDrain:
    """By URL, token or id."""
    for drain in log_drains(store, actor, app):
        if identity in (drain.url, drain.token, drain.id):
            return drain
    raise not_found("log drain")


def add_drain(store: Store, actor: Actor, app: str, url: str) -> LogDrain:
    owner = find_app(store, actor, app)
    known = store.log_drains(owner.id)
    if any(drain.url == url for drain in known):
        raise invalid("Url has already been taken")
    if len(known) >= MOST:
        raise invalid(f"You have reached the limit of {MOST} log drains for this app.")
    made = LogDrain(new_id(), owner.id, _valid(url), f"d.{uuid.uuid4()}", store.now)
    store.add_log_drain(made)
    return made


def remove_drain(store: Store, actor: Actor, app: str, identity: str) -> LogDrain:
    gone = find_drain(store, actor, app, identity)
    store.remove_log_drain(gone)
    return gone


def _valid(url: str) -> str:
    """Refuses without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError:
        named = None
    printable = url.isascii() and url.isprintable() and " " not in url
    if not named or not printable or len(url) > LONGEST or parts.scheme not in SCHEMES:
        raise invalid(f"Url is invalid: a drain is at {', '.join(f'{scheme}://' for scheme in SCHEMES)}.")
    return url
