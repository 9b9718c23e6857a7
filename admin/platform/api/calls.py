"""What an endpoint's function is given and what it gives back; no HTTP library in sight, so that tests call
endpoints directly.

Endpoints run in a worker thread: they may ask the state and databases and wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from admin.platform.api.ranges import Key, page
from admin.platform.api.shapes import Schema
from admin.platform.logs import Sessions
from admin.platform.operations.access import Actor
from admin.platform.state import State


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request, its body already checked against the endpoint's schema."""

    state: State
    actor: Actor
    logs: Sessions
    path: Mapping[str, str]
    body: Any = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    range: str | None = None
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON value and further headers."""

    value: Any = field(repr=False)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the API: what it is asked by, what it takes and what it promises. `path` has {names}."""

    method: str
    path: str
    summary: str
    function: Callable[[Call], Answer]
    returns: Schema
    status: int = 200
    body: Schema | None = None
    paged: bool = False


def listed(call: Call, items: Sequence[Mapping[str, Any]], *fields: str) -> Answer:
    """A list as the Range header asks for it, sortable by these fields of its objects."""
    keys: dict[str, Key] = {name: _by(name) for name in fields}
    found = page(items, call.range, keys)
    return Answer(list(found.items), found.status, found.headers)


def _by(name: str) -> Key:
    return lambda item: item[name]
