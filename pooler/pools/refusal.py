"""Refusals: a client is not let in, or is told why it waits in vain. The error carries the answer."""

from __future__ import annotations

from pooler import wire
from pooler.log import WARNING
from pooler.pools.reasons import Reason


class LoginError(Exception):
    """A client is not let in. `message` goes to the client as FATAL, with a `detail` if there is one, and into the log
    as `closing because: …`; `log` is a further line for the log that says more, of this `level`. Without `notify` the
    client is told nothing."""

    def __init__(
        self,
        message: str,
        sqlstate: str = wire.PROTOCOL_VIOLATION,
        *,
        log: str = "",
        level: str = WARNING,
        detail: str = "",
        notify: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = str(message)
        self.sqlstate = sqlstate
        self.log = log
        self.level = level
        self.detail = detail
        self.notify = notify


class Left(LoginError):
    """The client is gone before it was let in: a probe, or somebody who thought better of it."""

    def __init__(self) -> None:
        super().__init__(Reason.CLIENT_EOF, notify=False)
