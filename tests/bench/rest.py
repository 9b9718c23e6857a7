"""Rest: what a pooler computes while nothing happens, with nobody connected, with one client and with a thousand that
have each run a query. All poolers rest side by side, so that what the machine does beside it meets all alike.

Ours writes its metrics lines and its history and has the page and /metrics on a port, as PgBouncer has its statistics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.fixtures.process import Bouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import accepts, free_port, until

from .measure import computed
from .servers import Contestant
from .table import Table, times

TITLE = "Rest"
COLUMNS = ("what", "ratio", "us a second (ours)", "us a second (theirs)")
COUNTS = (0, 1, 1000)
SECONDS = 90.0
"""More than one stats_period, and one of the metrics lines'."""
SETTLE = 5.0


def resting(held: ExitStack, contestant: Contestant, count: int, *arguments: str) -> Bouncer:
    bouncer = contestant.fresh(f"rest{count}", stats_period=60)
    bouncer.write()
    bouncer.launch(*arguments)
    held.callback(bouncer.stop)
    until(lambda: accepts(bouncer.port), f"{bouncer.name} to listen on {bouncer.port}")
    for _ in range(count):
        client = held.enter_context(Stream(("127.0.0.1", bouncer.port))).login()
        client.query("SELECT 1")
    return bouncer


def table(
    ours: Contestant, theirs: Contestant, only: str, say: Callable[[str], None], seconds: float = SECONDS
) -> Table | None:
    if only not in "rest":
        return None
    with ExitStack() as held:
        pairs = []
        for count in COUNTS:
            page = ("--http", f"127.0.0.1:{free_port()}") if ours.kind is Bouncer else ()
            pairs.append((resting(held, ours, count, *page), resting(held, theirs, count)))
        time.sleep(SETTLE)
        before, began = [[computed(one.pid) for one in pair] for pair in pairs], time.perf_counter()
        time.sleep(seconds)
        after, took = [[computed(one.pid) for one in pair] for pair in pairs], time.perf_counter() - began
    rows = []
    for count, old, new in zip(COUNTS, before, after, strict=True):
        mine, other = ((late - early) / took * 1e6 for early, late in zip(old, new, strict=True))
        rows.append((f"rest, {count:,} clients", times(mine / other), f"{mine:,.0f}", f"{other:,.0f}"))
        say("  ".join(rows[-1]))
    note = f"Processor time of a second in which nothing happens, over {seconds:.0f} s; ours with the page on a port."
    return Table(TITLE, note, COLUMNS, tuple(rows))
