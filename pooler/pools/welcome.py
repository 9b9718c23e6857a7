"""The welcome: what a client is told between AuthenticationOk and its first query, and the values that follow it.

Pure values, no I/O. A pool has one, from what its first server reported at login; a client's own values stand in
their place where it has some. The rule: clients that ask for the same are told the same, so it is put together once
for each set of values, and few sets and short ones are remembered, since they come from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pooler import wire
from pooler.pools.encodings import encoding_name
from pooler.stats import PGBOUNCER_VERSION
from pooler.values import dataclass

REMEMBERED = 64
"""Sets of values whose greeting is kept."""
LONGEST = 4096
"""Bytes of a greeting that is kept."""
KEY_HEADER = wire.backend_key_data(bytes(8))[:-8]
"""What stands before a cancel key of ours, which has eight bytes."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """`messages`: the ParameterStatus messages; `tracked`: values of the tracked parameters, in the relay's order."""

    messages: bytes
    tracked: tuple[bytes | None, ...]


VERSION = ("pgbouncer.version", PGBOUNCER_VERSION)
OURS = "pgbouncer."
"""Prefix of what a pooler says of itself. What one behind us says is not what we are."""


class Manners(NamedTuple):
    """How a pool treats its clients' work: drivers that know of poolers go by it."""

    pool_mode: str
    max_prepared_statements: int

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        return (
            ("pgbouncer.max_prepared_statements", str(self.max_prepared_statements)),
            ("pgbouncer.pool_mode", self.pool_mode),
        )


class Welcome:
    """What a server reported at login, and what that makes for each client. `names` are the relay's tracked ones."""

    __slots__ = ("_known", "_names", "of_standby", "reported")

    def __init__(self, reported: Mapping[str, str], names: Sequence[bytes]) -> None:
        self.reported = reported
        self.of_standby = reported.get("in_hot_standby") == "on"
        """It may be promoted at any time, and says so with its next answer: it is worth asking."""
        self._names = names
        self._known: dict[tuple[Manners, tuple[tuple[str, str], ...]], Greeting] = {}

    @property
    def facts(self) -> dict[bytes, bytes]:
        """As a server says them."""
        return {wire.encode(name): wire.encode(value) for name, value in self.reported.items()}

    def renewed(self, name: str, value: str) -> Welcome:
        """The same but for one fact."""
        return Welcome({**self.reported, name: value}, self._names)

    def greeting(self, own: Mapping[str, str], manners: Manners) -> Greeting:
        """For a client with these values of its own."""
        asked = manners, tuple(own.items())
        found = self._known.get(asked)
        if found is not None:
            return found
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        made = self._make(own, manners)
        if len(made.messages) <= LONGEST:
            self._known[asked] = made
        return made

    def _make(self, own: Mapping[str, str], manners: Manners) -> Greeting:
        """In PgBouncer's order: what is fixed, what the pooler is, what follows the client."""
        told = overridden(self.reported, own)
        spelled = {name.lower(): name for name in told}
        tracked = [name.decode().lower() for name in self._names]
        follows = [spelled[name] for name in tracked if name in spelled]
        fixed = [name for name in told if name.lower() not in tracked and not name.startswith(OURS)]
        pairs = (
            VERSION,
            *((name, told[name]) for name in fixed),
            *manners.told,
            *((name, told[name]) for name in follows),
        )
        messages = b"".join(wire.parameter_status(name, value) for name, value in pairs)
        return Greeting(messages, tracked_values(self._names, told))


def overridden(reported: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What a server reported, with a client's own values instead where it has some; an encoding as servers say it."""
    mine = {name.lower(): value for name, value in own.items()}
    if "client_encoding" in mine:
        mine["client_encoding"] = encoding_name(mine["client_encoding"])
    merged = {name: mine.pop(name.lower(), value) for name, value in reported.items()}
    return merged | {name: value for name, value in own.items() if name.lower() in mine}


def tracked_values(names: Sequence[bytes], parameters: Mapping[str, str]) -> tuple[bytes | None, ...]:
    """Of a server's or client's parameters those that are tracked, in the order of `names`."""
    known = {name.lower(): value for name, value in parameters.items()}
    wanted = [name.decode().lower() for name in names]
    return tuple(wire.encode(known[name]) if name in known else None for name in wanted)


def ending(key: bytes, notice: str) -> bytes:
    """What follows the parameters: the cancel key, a notice if there is one, and ReadyForQuery."""
    return KEY_HEADER + key + _last(notice)


@lru_cache(1)
def _last(notice: str) -> bytes:
    said = wire.notice_response("NOTICE", "00000", notice) if notice else b""
    return said + wire.ready_for_query()
