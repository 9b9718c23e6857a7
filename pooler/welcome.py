"""The welcome: what a client is told between AuthenticationOk and its first query, and the values that follow it.

Pure values, no I/O. A pool has one, from what its first server reported at login; a client's own values stand in
their place where it has some. The rule: clients that ask for the same are told the same, so it is put together once
for each set of values, and few sets are remembered, since they come from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pooler import wire
from pooler.values import dataclass

REMEMBERED = 64
"""Sets of values whose greeting is kept."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """`messages`: the ParameterStatus messages; `tracked`: values of the tracked parameters, in the relay's order."""

    messages: bytes
    tracked: tuple[bytes | None, ...]


class Welcome:
    """What a server reported at login, and what that makes for each client. `names` are the relay's tracked ones."""

    __slots__ = ("_known", "_names", "reported")

    def __init__(self, reported: Mapping[str, str], names: Sequence[bytes]) -> None:
        self.reported = reported
        self._names = names
        self._known: dict[tuple[tuple[str, str], ...], Greeting] = {}

    def greeting(self, own: Mapping[str, str]) -> Greeting:
        """For a client with these values of its own."""
        asked = tuple(own.items())
        found = self._known.get(asked)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[asked] = self._make(own)
        return found

    def _make(self, own: Mapping[str, str]) -> Greeting:
        told = overridden(self.reported, own)
        messages = b"".join(wire.parameter_status(name, value) for name, value in told.items())
        return Greeting(messages, tracked_values(self._names, told))


def overridden(reported: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What a server reported, with a client's own values instead where it has some."""
    mine = {name.lower(): value for name, value in own.items()}
    merged = {name: mine.pop(name.lower(), value) for name, value in reported.items()}
    return merged | {name: value for name, value in own.items() if name.lower() in mine}


def tracked_values(names: Sequence[bytes], parameters: Mapping[str, str]) -> tuple[bytes | None, ...]:
    """Of a server's or client's parameters those that are tracked, in the order of `names`."""
    known = {name.lower(): value for name, value in parameters.items()}
    wanted = [name.decode().lower() for name in names]
    return tuple(wire.encode(known[name]) if name in known else None for name in wanted)


def ending(key: bytes, notice: str) -> bytes:
    """What follows the parameters: the cancel key, a notice if there is one, and ReadyForQuery."""
    said = wire.notice_response("NOTICE", "00000", notice) if notice else b""
    return wire.backend_key_data(key) + said + wire.ready_for_query()
