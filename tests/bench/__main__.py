"""`python -m tests.bench`: run the benchmark, or a part of it, and print tables.

Progress goes to stderr, tables to stdout: `--markdown` prints what RESULTS.md shows.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator

from tests.fixtures.bouncer import INSTALLED

from . import bulk, console, cores, idle, logins, pgbench, rest, start, tenants, values
from .servers import Contestant, arena
from .table import Table


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes: 3 rounds of 1 s, 16 clients, 1,000 idle"
    )
    only = (
        "cells whose name contains TEXT: pgbench, simple, TLS, 'transactions, 16', idle, bulk, COPY, values, logins,"
        " start, rest, tenants, workers, console, 'console gaps'"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help=only)
    parser.add_argument("--rounds", type=int, help="alternating rounds a cell (default 5)")
    parser.add_argument("--seconds", type=float, help="length of one pgbench run (default 3)")
    parser.add_argument("--clients", help="numbers of pgbench clients (default 1,16,64,256)")
    parser.add_argument("--idle", type=int, help="idle connections, and logins held (default 5000)")
    crowd = "idle clients beside a console (default 10000)"
    parser.add_argument("--crowd", type=int, default=console.CLIENTS, metavar="N", help=crowd)
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument(
        "--calibrate", action="store_true", help="pgbouncer against itself: what the machine's noise is"
    )
    parser.add_argument(
        "--against", default=INSTALLED, metavar="PROGRAM", help="another pgbouncer than the installed one"
    )
    given = parser.parse_args()
    defaults = (3, 1.0, "16", 1000) if given.quick else (5, 3.0, "1,16,64,256", 5000)
    for name, value in zip(("rounds", "seconds", "clients", "idle"), defaults, strict=True):
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def tables(ours: Contestant, theirs: Contestant, given: argparse.Namespace) -> Iterator[Table | None]:
    """In the order of RESULTS.md."""
    clients = [int(count) for count in given.clients.split(",")]
    rows = []
    for cell in pgbench.cells(clients, given.only):
        result = pgbench.duel(ours, theirs, cell, given.rounds, given.seconds)
        rows.append(pgbench.row(cell, result))
        say("  ".join(rows[-1]))
    yield pgbench.table(rows, theirs, given.rounds, given.seconds) if rows else None
    yield bulk.table(ours, theirs, given.rounds, given.only, say)
    yield values.table(ours, theirs, given.rounds, given.only, say)
    yield from logins.tables(ours, theirs, given.rounds, given.idle, given.only, say)
    yield idle.table(ours, theirs, given.idle, given.only)
    yield start.table(ours, theirs, given.only, say)
    yield rest.table(ours, theirs, given.only, say, rest.SECONDS if given.rounds > 1 else 1.0)
    yield tenants.table(ours, theirs, given.rounds, given.only)
    if not given.calibrate:
        yield cores.table(ours, theirs, given.rounds, given.seconds, given.only, say)
        yield from console.tables(ours, given.rounds, given.seconds, given.crowd, given.only, say)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def main() -> int:
    given = options()
    with arena(given.against, calibrate=given.calibrate) as (ours, theirs):
        say(f"{ours.name} against {theirs.name}; Python {platform.python_version()}, {os.cpu_count()} cores")
        found = [table for table in tables(ours, theirs, given) if table]
    if not found:
        print(f"python -m tests.bench: nothing is called {given.only!r}", file=sys.stderr)
        return 2
    print("\n".join(table.text(markdown=given.markdown) for table in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
