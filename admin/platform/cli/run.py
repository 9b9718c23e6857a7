"""run: an app's process with its config vars, restarted when a release changes them, through a private pooler
when asked."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace

from admin.platform.cli.parsing import Usage
from admin.platform.cli.session import APP_VARIABLES, Refused, Session, chosen_app
from admin.platform.errors import PlatformError
from admin.platform.operations.access import find_app
from admin.platform.operations.config import config_vars
from admin.platform.running.buildpack import enabled
from admin.platform.running.supervision import Setup, Supervisor
from pooler.outlet import STDERR, announce


def run(session: Session, arguments: Namespace) -> int:
    if not arguments.rest:
        raise Usage("Usage: pooler run [-a APP] [--pool] -- COMMAND [ARGUMENT ...]")
    if arguments.grace < 0:
        raise Usage("--grace is a number of seconds, not less than 0.")
    named = arguments.app or any(os.environ.get(name) for name in APP_VARIABLES)
    app = chosen_app(arguments.app) if named or not arguments.pool else None
    look = _Look(session, app)
    setup = look()
    _demand_program(arguments.rest[0], setup)
    supervisor = Supervisor(
        command=arguments.rest,
        look=look,
        pool=arguments.pool and enabled(setup.environment),
        grace=arguments.grace,
        restarts=app is not None and not arguments.no_restart,
        say=_say,
    )
    try:
        return supervisor.run()
    except OSError as error:
        raise Refused(f"{arguments.rest[0]} could not be started: {error.strerror}") from None


def _say(text: str) -> None:
    announce(f"pooler[run]: {text}\n", STDERR)


def _demand_program(program: str, setup: Setup) -> None:
    if shutil.which(program, path=setup.environment.get("PATH")) is None:
        raise Refused(f"{program}: command not found")


class _Look:
    """Reads the app's present config vars over our environment. While the state cannot be read, or the app is
    gone, what was read last stands, and that is said once."""

    def __init__(self, session: Session, app: str | None) -> None:
        self._session = session
        self._app = app
        self._last: Setup | None = None
        self._complained = False

    def __call__(self) -> Setup:
        if self._app is None:
            return Setup(0, dict(os.environ))
        try:
            self._last = self._read(self._app)
            self._complained = False
        except PlatformError as error:
            if self._last is None:
                raise
            if not self._complained:
                _say(f"config vars cannot be read, keeping those of v{self._last.version}: {error.message}")
                self._complained = True
        return self._last

    def _read(self, name: str) -> Setup:
        with self._session.state.read() as store:
            app = find_app(store, self._session.actor, name)
            if self._last is not None and store.last_version(app.id) == self._last.version:
                return self._last
            return Setup(store.last_version(app.id), {**os.environ, **config_vars(store, app)})
