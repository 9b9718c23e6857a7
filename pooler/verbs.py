"""What a console may ask of the house, as plain values.

A `Verb` is a command of the admin database after its grammar and its rights were checked; it can be sent to
a sibling process. `House` is what the console sees of the bouncer: read a Snapshot, perform a verb, nothing
else. The rule: whoever holds a House never reaches past it to pools, sockets or the relay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Literal, Protocol

from pooler.history import History, Latency
from pooler.values import dataclass

if TYPE_CHECKING:
    from pooler.config.whole import Config
    from pooler.stats import DescriptorStat, SeenStat, SessionStat, Snapshot

__all__ = [
    "CommandError",
    "ConsoleSession",
    "History",
    "House",
    "Latency",
    "Remark",
    "Rights",
    "Verb",
]

Rights = Literal["admin", "stats"]


class CommandError(Exception):
    """A command that was refused or failed; `message` is the answer for the console's user, `detail` the reason where
    the message gives none, `hint` what may have been meant, `position` the character of the query, from 1, where it
    went wrong (0: nowhere in particular)."""

    def __init__(
        self, message: str, sqlstate: str = "08P01", *, detail: str = "", hint: str = "", position: int = 0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint
        self.position = position


@dataclass(frozen=True, slots=True)
class Remark:
    """What the console's user is told of a command that was carried out, as a NOTICE."""

    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command to perform. `name` is its name in the console's command table (PAUSE, RELOAD, KILL_CLIENT,
    SET, ...); `argument` a database, a client's id, a setting's key or a mode; `value` only a setting's new
    value."""

    name: str
    argument: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """Who is at the console: the facts of one login to the admin database."""

    user: str
    rights: Rights
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The startup packet's, such as application_name."""
    cancel_key: bytes = bytes(8)
    """Process id and secret as BackendKeyData carries them."""
    id: int = 0
    label: str = ""
    """What the log calls this connection."""
    canceled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the house when a CancelRequest with `cancel_key` arrives; the console clears it."""
    on_left: Callable[[], None] = lambda: None
    """Called by the console when its client has left with everything answered, whatever is left to be tidied up."""


class House(Protocol):
    """The bouncer as a console sees it."""

    @property
    def config(self) -> Config: ...

    @property
    def history(self) -> History:
        """The last hour; fed once per stats_period by the house."""

    def descriptors(self) -> Iterable[DescriptorStat]:
        """The open sockets, for SHOW FDS."""

    def session_state(self) -> Iterable[SessionStat]:
        """What clients have left in their sessions, of those that are here."""

    def session_state_seen(self) -> Iterable[SeenStat]:
        """Statements that have touched session state since the start."""

    async def prepared(self, needs: frozenset[str]) -> House:
        """This house with what the views' `needs` name at hand: what has to be fetched is fetched."""

    def snapshot(
        self, *, clients: bool = False, servers: bool = False, histograms: bool = False
    ) -> Snapshot: ...

    def asked(self) -> None:
        """A session has asked something for the first time."""

    def pace(self) -> None:
        """Let traffic pass, if it has waited: for every step of long work."""

    async def perform(self, verb: Verb) -> Remark | None:
        """Do it; return when PgBouncer would answer. Raises CommandError. Cancelled when the asker has
        left."""
