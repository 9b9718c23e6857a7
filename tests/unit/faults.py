"""What the tests break things with: a bug that nobody has thought of, and rounds that remember what they were told."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import Any

from pooler.rounds import Rounds
from pooler.stats import DrainStat, Snapshot

EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Bug(Exception):
    """What nobody has thought of."""


def fails(*_: Any, **__: Any) -> Any:
    raise Bug("a bug")


def cannot_start(thread: threading.Thread) -> None:
    """As Thread.start, with no thread to be had."""
    raise RuntimeError("can't start new thread")


class Heard:
    """Rounds whose clock stands still, so that each failure is told once."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.rounds = Rounds(self.said.append, lambda: 0.0)

    def counts(self) -> dict[str, int]:
        return self.rounds.counts()


@dataclass
class Sink:
    """A place for lines and figures that is broken, or keeps them."""

    broken: bool
    lines: int = 0
    pushed: int = 0
    reopened: int = 0
    closed: int = 0

    def emit(self, lines: Any) -> None:
        self.lines += 1
        self.fail()

    def push(self, taken: Snapshot) -> None:
        self.pushed += 1
        self.fail()

    def reopen(self) -> None:
        self.reopened += 1
        self.fail()

    async def close(self, timeout: float = 1.0) -> None:
        self.closed += 1
        self.fail()

    def stats(self) -> DrainStat:
        return DrainStat("kept", "-", "idle", 0, 0, 0, 0, "")

    def fail(self) -> None:
        if self.broken:
            raise Bug("a bug")
