"""pgbench through one pooler, kept running: it has its turns, and is stopped in between.

Two poolers are compared by turns of a fifth of a second, so that whatever else the machine does meets both. Logins,
and what was under way when the clients were stopped, are no part of a turn.
"""

from __future__ import annotations

import math
import signal
import subprocess
import tempfile
import time
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.fixtures import account
from tests.fixtures.waiting import until

from .measure import computed

TURN = 0.2
SETTLE = 0.1
"""Seconds of a turn, and from the moment the clients go on until it begins."""
SPARE = 60

Turn = tuple[float, float, float]
"""When it began and ended, and the seconds that the pooler computed in it."""


class Load:
    """`command`: pgbench and its options, but for -T and the log; `pid`: of the pooler; `seconds`: how long it may
    take, stops included. Entered, all clients have logged in, and are stopped."""

    def __init__(self, command: Sequence[str | Path], pid: int, *, seconds: float, **variables: str) -> None:
        self.pid = pid
        self.turns: list[Turn] = []
        self._directory = tempfile.TemporaryDirectory()
        self._logs = Path(self._directory.name)
        self._process = subprocess.Popen(
            [*command, "-T", f"{math.ceil(seconds) + SPARE}", "-l", "--log-prefix", f"{self._logs}/log"],
            env=account.environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Load:
        try:
            until(lambda: self._process.poll() is not None or self._begun(), "pgbench to begin")
        except BaseException:
            self._end()
            raise
        self._process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._directory.cleanup()

    def turn(self, seconds: float = TURN) -> None:
        self._process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE)
        before, start = computed(self.pid), time.time()
        time.sleep(seconds)
        self.turns.append((start, time.time(), computed(self.pid) - before))
        self._process.send_signal(signal.SIGSTOP)

    def finish(self) -> list[tuple[float, float]]:
        """(end, latency in us) of every transaction, in order."""
        self._process.send_signal(signal.SIGCONT)
        # To pgbench, its time is up: it writes what is left of its log.
        self._process.send_signal(signal.SIGALRM)
        _, complaint = self._process.communicate(timeout=60)
        if self._process.returncode:
            raise AssertionError(f"pgbench exited {self._process.returncode}:\n{complaint}")
        return sorted(line for log in self._logs.iterdir() for line in parsed(log.read_text()))

    def _begun(self) -> bool:
        """None of its threads begins before all have logged in."""
        return any(log.stat().st_size for log in self._logs.iterdir())

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def parsed(log: str) -> list[tuple[float, float]]:
    """(end, latency in us) of the transactions in pgbench's log."""
    found = (line.split() for line in log.splitlines())
    return [(int(words[4]) + int(words[5]) / 1e6, float(words[2])) for words in found]


def within(done: Sequence[tuple[float, float]], turns: Sequence[Turn]) -> list[float]:
    """Latencies of the transactions, in order of their ends, that ended in one of the turns."""
    spans = [(bisect(done, (start,)), bisect(done, (end,))) for start, end, _ in turns]
    return [latency for first, last in spans for _, latency in done[first:last]]
