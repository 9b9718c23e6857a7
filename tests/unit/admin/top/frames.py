"""A frame with three pools, one of them open, for tests."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from admin.top import screens
from admin.top.control import Look, press
from admin.top.glyphs import ASCII, BLOCKS
from admin.top.model import Detail, Event, Frame, PoolRow, Totals
from admin.top.pieces import Canvas, StyledLine
from admin.top.view import Screen, View
from pooler.readback import ShowRow


def pool(database: str, user: str = "alice", **more: object) -> PoolRow:
    known: dict[str, object] = {
        "mode": "transaction", "active": 10, "waiting": 0, "busy": 3, "idle": 2, "opening": 0, "limit": 10,
        "maxwait": 0.0, "tps": 120.0, "shared": False, "avg_query": 1250.0, "p99": 9000.0, "paused": False,
        "disabled": False, "trend": (1.0, 2.0, 3.0), "waits": (0.0, 0.0, 2.0),
    }  # fmt: skip
    return PoolRow(database, user, **(known | more))  # type: ignore[arg-type]


def client(id: int, state: str = "active", **more: object) -> ShowRow:
    return {
        "type": "C", "user": "alice", "database": "app", "state": state, "addr": "10.0.0.1", "port": 4000 + id,
        "connect_time": "2026-11-22 10:00:00 UTC", "request_time": "2026-11-22 10:00:01 UTC", "wait": 0,
        "wait_us": 0, "ptr": f"0x{id}", "link": "", "remote_pid": 0, "tls": "", "application_name": "web\x1b[2J",
        "id": id,
    } | more  # fmt: skip


SERVER = client(90, type="S", remote_pid=4711, ptr="0x90", link="0x1")

DETAIL = Detail(
    ("app", "alice"),
    (client(3, "waiting", wait=2, wait_us=500_000), client(1, link="0x90"), client(2)),
    (SERVER,),
)

ROWS = (
    pool("app", waiting=12, maxwait=2.5, busy=10, idle=0, tps=5.0),
    pool("billing", paused=True, tps=900.0, active=3),
    pool("reports", "bob", tps=None, p99=None, avg_query=0.0),
)

FRAME = Frame(
    now=time.time(), label="h:1/pgbouncer", version="1.26.1", connected=True, rows=ROWS, span=300.0, percentiles=True,
    totals=Totals(1234, 12, 18, 4, 40, 12_345.0, 20_000.0, 1e6, 2e6, 1500.0, 2.5, (1.0,), (0.0,)), detail=DETAIL,
)  # fmt: skip


def drawn(view: View, width: int = 160, height: int = 30, frame: Frame = FRAME, ascii: bool = False) -> list[str]:
    lines = screens.draw(frame, view, Canvas(width, height, ASCII if ascii else BLOCKS))
    assert len(lines) <= height
    texts = ["".join(text for _, text in line) for line in lines]
    assert all(len(text) <= width for text in texts)
    assert not any("\x1b" in text for text in texts)
    return texts


def opened() -> View:
    view = View()
    effect = press(view, FRAME, "enter")
    assert effect == Look(("app", "alice"))
    assert view.screen is Screen.POOL
    return view


AGED = replace(
    FRAME,
    detail=replace(
        DETAIL, told=frozenset({"TRANSACTIONS"}),
        clients=(client(1, xact_us=92_000_000, link="0x90"), client(2, xact_us=0)),
    ),
)  # fmt: skip
"""On a console that tells how old transactions are."""

EVENTS = replace(
    FRAME,
    counted=True,
    events=(Event("error", "app", "query_wait_timeout", 1234, 5, 1_000_000.0), Event("connect", "", "server", 9)),
)
"""On a console that counts events."""


def lines(view: View, frame: Frame = FRAME, width: int = 160, height: int = 30) -> list[StyledLine]:
    return screens.draw(frame, view, Canvas(width, height, BLOCKS))


def text(line: StyledLine) -> str:
    return "".join(part for _, part in line)


def shown_on(view: View) -> Screen:
    return view.screen


def status(shown: list[str]) -> str:
    """The line that tells where one is."""
    return next(line.strip() for line in shown if re.match(r" [\d,]+ of [\d,]+ \w", line))
