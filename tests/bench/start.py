"""Start: from exec to the first answer of a query, in a process that is started afresh each time.

The processor time is the process's own, user and system, up to that answer: what a busy machine does not change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from tests.fixtures.process import Bouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import DEADLINE

from .measure import median, processor
from .servers import Contestant
from .table import Table, times

TITLE = "Start"
COLUMNS = ("what", "ratio", "ours", "theirs")
STARTS = 20
PAUSE = 0.002
"""Seconds between two attempts to connect."""


def start(contestant: Contestant, number: int) -> tuple[float, float]:
    """(seconds, seconds of processor time) to the first answer."""
    bouncer = contestant.fresh(f"start{number}")
    bouncer.write()
    began = time.perf_counter()
    bouncer.launch()
    try:
        with first(bouncer, began + DEADLINE) as client:
            client.query("SELECT 1")
            return time.perf_counter() - began, processor(bouncer.pid).total
    finally:
        bouncer.stop()


def first(bouncer: Bouncer, deadline: float) -> Stream:
    """A logged-in client, as soon as there can be one."""
    while time.perf_counter() < deadline:
        with suppress(ConnectionRefusedError):
            return Stream(("127.0.0.1", bouncer.port)).login()
        time.sleep(PAUSE)
    raise TimeoutError(f"{bouncer.name} does not answer")


def table(ours: Contestant, theirs: Contestant, only: str, say: Callable[[str], None]) -> Table | None:
    if only not in "start":
        return None
    runs = [[start(contestant, number) for contestant in (ours, theirs)] for number in range(STARTS)]
    rows = []
    for place, label in enumerate(("time to the first answer", "user + system until then")):
        mine, other = (median(run[who][place] for run in runs) for who in (0, 1))
        rows.append((label, times(mine / other) if other else "", f"{mine * 1e3:.0f} ms", f"{other * 1e3:.0f} ms"))
        say("  ".join(("start", *rows[-1])))
    note = f"From exec to the first answered query, median of {STARTS} alternating starts; {os.cpu_count()} cores."
    return Table(TITLE, note, COLUMNS, tuple(rows))
