"""Memory per idle client: thousands of connections that have each run a query and then do nothing.

The growth of the pooler's resident memory from none of them to all of them, divided by their number. The
clients are bare sockets in this process.
"""

from __future__ import annotations

import gc
import ssl
from contextlib import ExitStack

from tests.fixtures.process import Bouncer
from tests.fixtures.stream import Stream

from .measure import resident
from .servers import Contestant
from .table import Table, times

TITLE = "Memory per idle client"
COLUMNS = ("transport", "ratio", "bytes (ours)", "bytes (theirs)")


def per_client(bouncer: Bouncer, count: int, *, tls: bool) -> float:
    """Bytes."""
    context = _context()
    with ExitStack() as held:
        _open(held, bouncer, context if tls else None, 10)
        before = resident(bouncer.pid)
        _open(held, bouncer, context if tls else None, count)
        after = resident(bouncer.pid)
    gc.collect()
    return (after - before) / count


def _open(held: ExitStack, bouncer: Bouncer, context: ssl.SSLContext | None, count: int) -> None:
    for _ in range(count):
        client = held.enter_context(Stream(("127.0.0.1", bouncer.port)))
        if context:
            client.start_tls(context)
        client.login()
        client.query("SELECT 1")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def table(ours: Contestant, theirs: Contestant, count: int, only: str) -> Table | None:
    """Each in a process of its own, since memory once used is rarely given back."""
    rows = []
    for tls in (False, True):
        label = "TLS" if tls else "plain"
        if only not in f"idle {label}":
            continue
        mine, other = (
            per_client(c.process(listen_backlog=4095 - tls), count, tls=tls) for c in (ours, theirs)
        )
        rows.append((label, times(mine / other), f"{mine:,.0f}", f"{other:,.0f}"))
    note = f"Growth of resident memory over {count:,} connections that have each run a query, per connection."
    return Table(TITLE, note, COLUMNS, tuple(rows)) if rows else None
