"""Why there is no connection to a server: from the name that has no address to the login that was refused.

Raised by whatever stands on the way (`dns`, `servers.dial`), understood by whoever wanted the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pooler import wire
from pooler.log import WARNING


class DialError(Exception):
    """No connection. `message` and `sqlstate` are for waiting clients: the server's own when it sent an
    ErrorResponse (`fields`), else PgBouncer's words. `detail` is more for the log, unless that was `told`
    already, or `log` a line of its own there, of this `level`. `closing`: what the log says of the connection's end,
    where that is not the message. `stage`: connect or login. `refused`: by the server, or by us on its account, and so
    would others be. `ours`: it was never asked, for want of something that this process has no more of."""

    def __init__(
        self,
        message: str,
        sqlstate: str = wire.PROTOCOL_VIOLATION,
        *,
        stage: Literal["connect", "login"],
        fields: Mapping[str, str] | None = None,
        detail: str = "",
        log: str = "",
        level: str = WARNING,
        closing: str = "",
        told: bool = False,
        refused: bool = False,
        ours: bool = False,
    ) -> None:
        super().__init__(log or (f"{message}: {detail}" if detail else message))
        self.message = message
        self.sqlstate = sqlstate
        self.stage = stage
        self.fields = fields
        self.detail = detail
        self.log = log
        self.level = level
        self.closing = closing or message
        self.told = told
        self.refused = refused or fields is not None
        self.ours = ours
