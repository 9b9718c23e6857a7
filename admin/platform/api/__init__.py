"""The HTTP API: the part of Heroku's Platform and Data APIs that its command line needs to attach, detach,
share and promote.

`build` gives a Starlette application for the pooler's HTTP listener. Starlette and not a larger framework:
bodies, answers and errors are Heroku's, the table of endpoints already describes them in JSON Schema, and the
OpenAPI document is read off that table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from admin.platform.logs import Source
    from admin.platform.state import State


def build(state: State, logs: Source | None = None, *, version: str = "") -> Starlette:
    """The application over an open state. `logs` is where log sessions get their lines; without it they stay
    empty."""
    from admin.platform.api.serving import application
    from admin.platform.logs import Sessions

    return application(state, Sessions(logs), version)
