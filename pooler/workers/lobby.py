"""Where clients wait for whom no worker is there: all have just ended, or hang, and others begin within a moment.

The rule: each is handed to the next worker that serves, in the order of arrival, or told after a while that none does.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pooler import wire
from pooler.kernel import limits
from pooler.values import dataclass

NOBODY_SERVES = "the pooler has no worker that serves"


@dataclass(frozen=True, slots=True)
class Guest:
    """`port` that it came by, a descriptor of ours, and since when it waits (monotonic)."""

    port: int
    descriptor: int
    since: float


class Lobby:
    def __init__(self) -> None:
        self._guests: deque[Guest] = deque()

    def __len__(self) -> int:
        return len(self._guests)

    def come(self, port: int, descriptor: int, now: float) -> None:
        """One more, whose descriptor stays the caller's as well. Raises OSError; also where they would take more than
        half of all descriptors: to start a worker takes some."""
        kept = os.dup(descriptor)
        if kept >= limits()[0] // 2:
            os.close(kept)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._guests.append(Guest(port, kept, now))

    def hand_on(self, to: Callable[[int, int], object]) -> None:
        """The first of them, by port and descriptor."""
        guest = self._guests.popleft()
        try:
            to(guest.port, guest.descriptor)
        finally:
            os.close(guest.descriptor)

    def send_away(self, before: float) -> None:
        """Those who have come before that wait for nobody any more, and are told so."""
        while self._guests and self._guests[0].since < before:
            self.hand_on(lambda _, descriptor: turn_away(descriptor, wire.CANNOT_CONNECT_NOW, NOBODY_SERVES))


def turn_away(descriptor: int, sqlstate: str, why: str) -> None:
    """Tell a client why it is not let in, if it listens. The descriptor stays the caller's."""
    with suppress(OSError):
        os.set_blocking(descriptor, False)
        os.write(descriptor, wire.error_response("FATAL", sqlstate, why))
