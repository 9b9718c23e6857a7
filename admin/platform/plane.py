"""The control plane as a running pooler holds it: the open state, its API, and what it asks the pooler to
serve.

The one thing that `pooler serve --state` needs of this package. It starts nothing by itself: whoever composes
mounts the application and applies what `watch` tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from admin.platform.api import build
from admin.platform.desired import Watch, served_for
from admin.platform.operations.access import user_name
from admin.platform.operations.apps import first_token
from admin.platform.state import State, file_path, is_postgres, location

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from admin.platform.logs import Source

UNKNOWN_TOKEN = "'<shown at first start on a terminal; make one with: pooler authorizations:create>'"


class Plane:
    """An open control plane. `token` is the authorization made at this, the first start, to be shown once;
    None later."""

    def __init__(self, state: State, token: str | None) -> None:
        self.state = state
        self.token = token

    @classmethod
    def open(cls, place: str | None = None, *, shown: bool = True) -> Plane:
        """Open or make the state. `shown`: a first token, which is not kept, will be seen by a person. Blocks; raises
        PlatformError with a line for the user."""
        state = State.open(place)
        if not shown:
            return cls(state, None)
        with state.write() as store:
            token = first_token(store, user_name())
        return cls(state, token)

    def application(self, version: str, logs: Source | None = None) -> Starlette:
        """The API, for the HTTP listener to serve at its root; log sessions read from `logs`, the metrics'
        reporter."""
        return build(self.state, logs, version=version)

    def addons(self, app: str) -> frozenset[str] | None:
        """The names of the databases attached to an app, whose log lines are the app's; None for no such app.
        Blocks."""
        with self.state.read() as store:
            found = store.app(app)
            if found is None:
                return None
            return served_for(store, found.id)

    def watch(self) -> Watch:
        """Tells what the pooler shall serve."""
        return Watch(self.state)

    def environment(self, url: str, *, authority: str | None = None) -> list[str]:
        """The lines that point a Heroku CLI at the API served at `url`; `authority` is the CA file of an https
        URL."""
        return environment_lines(url, self.token or UNKNOWN_TOKEN, authority)

    def close(self) -> None:
        self.state.close()


def environment_lines(url: str, token: str, authority: str | None = None) -> list[str]:
    host = url.partition("://")[2].partition("/")[0].rpartition(":")[0]
    lines = [
        f"export HEROKU_HOST={url.rstrip('/')}",
        f"export HEROKU_DATA_HOST={host}",
        f"export HEROKU_API_KEY={token}",
        "export DISABLE_TELEMETRY=true HEROKU_SKIP_NEW_VERSION_CHECK=true HEROKU_DISABLE_AUTOUPDATE=1",
    ]
    return [*lines, f"export NODE_EXTRA_CA_CERTS={authority}"] if authority else lines


def exists(place: str | None = None) -> bool:
    """Whether there is a state already, told without opening it: a pooler that was not asked for one need not
    make one."""
    found = location(place)
    return is_postgres(found) or file_path(found).exists()
