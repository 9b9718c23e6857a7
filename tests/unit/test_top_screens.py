"""What is drawn: by content, narrow and wide, and never beyond the terminal."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from admin.top import control, glyphs, model, screens
from admin.top.control import Delay, Effect, Leave, Look, Perform, Screen, Verb, View, press
from admin.top.glyphs import ASCII, BLOCKS, bar, resampled, sparkline
from admin.top.model import Detail, Frame, PoolRow, Rates, Record, Totals
from admin.top.screens import Canvas
from admin.top.series import BUCKETS, LEAST_WINDOW, WINDOW, Series


def pool(database: str, user: str = "alice", **more: object) -> PoolRow:
    known: dict[str, object] = {
        "mode": "transaction", "active": 10, "waiting": 0, "busy": 3, "idle": 2, "opening": 0, "limit": 10,
        "maxwait": 0.0, "tps": 120.0, "shared": False, "avg_query": 1250.0, "p99": 9000.0, "paused": False,
        "disabled": False, "trend": (1.0, 2.0, 3.0), "waits": (0.0, 0.0, 2.0),
    }  # fmt: skip
    return PoolRow(database, user, **(known | more))  # type: ignore[arg-type]


def client(id: int, state: str = "active", **more: object) -> Record:
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
    now=time.time(), label="h:1/pgbouncer", version="1.25.2", connected=True, rows=ROWS, span=300.0, percentiles=True,
    totals=Totals(1234, 12, 18, 4, 40, 12_345.0, 20_000.0, 1e6, 2e6, 1500.0, 2.5, (1.0,), (0.0,)), detail=DETAIL,
)  # fmt: skip


def drawn(view: View, width: int = 160, height: int = 30, frame: Frame = FRAME, ascii: bool = False) -> list[str]:
    lines = screens.draw(frame, view, Canvas(width, height, ASCII if ascii else BLOCKS))
    assert len(lines) <= height
    texts = ["".join(text for _, text in line) for line in lines]
    assert all(len(text) <= width for text in texts)
    assert not any("\x1b" in text for text in texts)
    return texts


def test_the_list_of_pools() -> None:
    text = drawn(View())
    assert text[0].startswith(" ● h:1/pgbouncer  PgBouncer 1.25.2")
    assert text[1].startswith(" clients 1,234 active 12 waiting | servers 18 busy 4 idle of 40")
    assert text[2].startswith(" 12.3k tps  20.0k qps | avg query 1.50 ms | max wait 2.50 s | in 977 kB/s out 1.91 MB/s")
    assert text[4].split()[:3] == ["database▲", "user", "active"]
    app = text[5]
    assert "10+0/10" in app
    assert app.split()[2:4] == ["10", "12"]
    assert "2.50 s" in app
    assert "1.25 ms" in app
    assert "9.00 ms" in app
    assert "billing paused" in text[6]
    assert "Enter open" in text[-1]


def test_narrow_terminals_lose_columns_by_rank() -> None:
    wide, middle, narrow = (drawn(View(), width)[4] for width in (160, 100, 60))
    assert all(name in wide for name in ("user", "servers", "tps, 5 min", "p99", "mode"))
    assert "mode" not in middle
    assert all(name in narrow for name in ("database", "active", "wait", "tps", "max wait"))
    assert "p99" not in narrow
    narrower, narrowest = (drawn(View(), width) for width in (30, 20))
    assert narrower[4].split() == ["database▲", "active", "wait"]
    assert narrowest[4].split() == ["database▲"]
    assert "billing" in narrowest[6]


@pytest.mark.parametrize("screen", list(Screen))
@pytest.mark.parametrize("size", [(1, 1), (10, 3), (40, 8), (80, 24), (300, 60)])
@pytest.mark.parametrize("frame", [FRAME, Frame(), replace(FRAME, connected=False, trouble="refused", rows=())])
def test_every_screen_fits_every_terminal(screen: Screen, size: tuple[int, int], frame: Frame) -> None:
    for tab in range(3):
        drawn(View(screen=screen, selected=("app", "alice"), tab=tab, chosen="C1"), *size, frame=frame)


def test_ascii() -> None:
    for screen in Screen:
        view = View(screen=screen, selected=("app", "alice"), chosen="C1")
        assert all(line.isascii() for line in drawn(view, ascii=True))


def test_a_server_without_percentiles_has_no_such_column() -> None:
    assert "p99" not in drawn(View(), frame=replace(FRAME, percentiles=False))[4]


def test_sorting_filtering_and_the_cursor() -> None:
    view = View()
    while view.sort.name != "tps":
        press(view, FRAME, "s")
    assert [row.database for row in control.visible(FRAME, view)] == ["billing", "app", "reports"]
    press(view, FRAME, "R")
    assert [row.database for row in control.visible(FRAME, view)] == ["reports", "app", "billing"]
    for key in "/paused":
        press(view, FRAME, key)
    assert [row.database for row in control.visible(FRAME, view)] == ["billing"]
    assert "filter: paused" in drawn(view)[-1]
    press(view, FRAME, "enter")
    assert not view.typing
    press(view, FRAME, "escape")
    assert len(control.visible(FRAME, view)) == 3
    for key in ["/", "z", "z", "backspace", "c-u", "b", "o", "b", "enter"]:
        press(view, FRAME, key)
    assert [row.user for row in control.visible(FRAME, view)] == ["bob"]
    press(view, FRAME, "/")
    for key in "zzz":
        press(view, FRAME, key)
    assert "no pool matches" in drawn(view)[5]
    assert control.selected(FRAME, view) is None


def test_the_cursor_stays_on_its_pool_when_the_order_changes() -> None:
    view = View()
    press(view, FRAME, "end")
    assert view.selected == ("reports", "bob")
    press(view, FRAME, "s")
    chosen = control.selected(FRAME, view)
    assert chosen is not None
    assert chosen.database == "reports"
    for key in ("up", "down", "pageup", "pagedown", "home", "j", "k"):
        press(view, FRAME, key)
    gone = replace(FRAME, rows=ROWS[:1])
    found = control.selected(gone, view)
    assert found is not None
    assert found.database == "app"


def test_many_pools_scroll() -> None:
    frame = replace(FRAME, rows=tuple(pool(f"db{n:02}") for n in range(60)))
    view = View()
    assert "db00" in drawn(view, height=20, frame=frame)[5]
    press(view, frame, "end")
    text = drawn(view, height=20, frame=frame)
    assert any("db59" in line for line in text)
    assert not any("db00" in line for line in text)


def opened() -> View:
    view = View()
    effect = press(view, FRAME, "enter")
    assert effect == Look(("app", "alice"))
    assert view.screen is Screen.POOL
    return view


def test_a_pool_opens_on_its_queue_when_there_is_one() -> None:
    view = opened()
    text = drawn(view)
    assert any("app / alice" in line for line in text)
    assert any("clients 3   servers 1   waiting 1" in line for line in text)
    assert any("waiting" in line and "2.50 s" in line and "10.0.0.1:4003" in line for line in text)
    press(view, FRAME, "tab")
    assert any("web\\x1b[2J" in line for line in drawn(view)), "clients"
    press(view, FRAME, "tab")
    assert any("4711" in line for line in drawn(view)), "servers"
    press(view, FRAME, "s-tab")
    assert press(view, FRAME, "escape") == Look(None)
    assert view.screen is Screen.POOLS


def test_a_connection_shows_whom_it_is_linked_to() -> None:
    view = opened()
    for key in ("tab", "down", "enter"):
        press(view, FRAME, key)
    text = drawn(view, height=40)
    assert any("client 1" in line for line in text)
    assert any("linked to server 90" in line and "pid 4711" in line for line in text)
    low = drawn(view, height=18, width=120)
    assert any(" state " in line and " link " in line for line in low), "side by side"
    gone = replace(FRAME, detail=replace(DETAIL, clients=(client(2),)))
    assert any("is gone" in line for line in drawn(view, frame=gone))
    assert press(view, FRAME, "escape") is None
    assert view.screen is Screen.POOL


@pytest.mark.parametrize(("key", "verb"), [("p", "PAUSE app"), ("r", "RESUME app"), ("K", "KILL app")])
def test_verbs_wait_for_a_y(key: str, verb: str) -> None:
    view = View()
    assert press(view, FRAME, key) is None
    assert drawn(view)[-1].startswith(f" {verb}: ")
    assert press(view, FRAME, "n") is None
    assert view.told == "not done"
    press(view, FRAME, key)
    effect = press(view, FRAME, "y")
    assert isinstance(effect, Perform)
    assert effect.verb.statement == verb


def test_killing_a_client() -> None:
    view = opened()
    press(view, FRAME, "x")
    assert view.question is not None
    assert view.question.statement == "KILL_CLIENT 3"
    press(view, FRAME, "escape")
    old = dict(client(3, "waiting"))
    del old["id"]
    frame = replace(FRAME, detail=replace(DETAIL, clients=(old,)))
    press(view, frame, "x")
    assert "no KILL_CLIENT" in view.told
    view.tab = 1
    press(view, FRAME, "x")
    assert "only a client" in view.told


@pytest.mark.parametrize(
    ("keys", "effect"),
    [
        (["q"], Leave()),
        (["c-c"], Leave()),
        (["+"], Delay(2.0)),
        (["-"], Delay(0.5)),
        (["p", "c-c"], Leave()),
        (["z"], None),
    ],
)
def test_other_keys(keys: list[str], effect: Effect | None) -> None:
    view = View()
    assert [press(view, FRAME, key) for key in keys][-1] == effect


def test_holding_and_help() -> None:
    view = View()
    press(view, FRAME, " ")
    assert view.frozen is FRAME
    assert "held" in drawn(view)[0]
    press(view, FRAME, " ")
    assert view.frozen is None
    press(view, FRAME, "?")
    assert any("KILL_CLIENT" in line for line in drawn(view))
    press(view, FRAME, "?")
    assert view.screen is Screen.POOLS


def test_names_are_quoted_where_they_must_be() -> None:
    view = View()
    press(view, replace(FRAME, rows=(pool('we"ird db'),)), "p")
    assert view.question == Verb('PAUSE "we""ird db"', view.question.question if view.question else "")


@pytest.mark.parametrize(
    ("busy", "idle", "limit", "text"),
    [
        (0, 0, 10, "··········"),
        (10, 0, 10, "██████████"),
        (5, 2, 10, "█████▒▒···"),
        (1, 0, 1000, "█·········"),
        (1, 1, 1000, "█▒········"),
        (12, 3, 10, "████████▒▒"),
        (0, 0, 0, "··········"),
    ],
)
def test_bars(busy: int, idle: int, limit: int, text: str) -> None:
    assert "".join(part for _, part in bar(BLOCKS, busy, idle, limit, 10, "")) == text


def test_sparklines() -> None:
    line = sparkline(BLOCKS, [0.0, 1.0, 4.0, 8.0, None], 6)
    assert (line[0], line[1], line[4], line[5]) == (" ", "▁", "█", " ")
    assert list(line[1:5]) == sorted(line[1:5])
    assert sparkline(BLOCKS, [], 3) == "   "
    assert sparkline(BLOCKS, [0.0, 0.0], 2) == "▁▁"
    assert resampled([1.0, 3.0, None, 5.0], 2) == [2.0, 5.0]
    assert resampled([1.0], 0) == []
    assert set(glyphs.ASCII.steps) <= set(map(chr, range(128)))


def test_series() -> None:
    series, now = Series(), 1_000_000.0
    assert series.buckets(now) == (None,) * BUCKETS
    series.add(now - 60, 60, 5.0)
    for second in range(59, -1, -1):
        series.add(now - second, 1, 10.0)
    assert series.span(now) == 120
    buckets = series.buckets(now)
    assert buckets[0] == 5.0
    assert buckets[-1] == 10.0
    assert Series().span(now) == LEAST_WINDOW
    for minute in range(10):
        series.add(now + 60 * minute, 60, 1.0)
    assert series.span(now + 540) == WINDOW
    assert None not in series.buckets(now + 540)


STATS = {
    "total_xact_count": 100, "total_query_count": 200, "total_received": 1000, "total_sent": 2000,
    "total_query_time": 50_000, "avg_query_time": 77,
}  # fmt: skip


def test_rates() -> None:
    later = {name: value + 100 for name, value in STATS.items()}
    found = model.rates(STATS, later, 2.0)
    assert found == Rates(50.0, 50.0, 50.0, 50.0, 50.0, 1.0)
    assert model.rates(None, STATS, 1.0) is None
    assert model.rates(later, STATS, 1.0) is None, "the pooler was started anew"
    still = model.rates(STATS, STATS, 1.0)
    assert still is not None
    assert still.avg_query == 77.0


def test_limits_of_old_and_new_versions() -> None:
    old = {"name": "a", "pool_size": 20, "reserve_pool": 5, "paused": 0, "disabled": 1}
    new = {"name": "b", "pool_size": 20, "reserve_pool_size": 2, "paused": 1, "disabled": 0}
    assert model.limits([old, new]) == {"a": model.Limits(25, False, True), "b": model.Limits(22, True, False)}


class Counted(dict[str, object]):
    """A client that counts how often it was looked at for the list."""

    looked = 0

    def __getitem__(self, name: str) -> object:
        Counted.looked += name == "addr"
        return super().__getitem__(name)


def test_of_ten_thousand_clients_only_those_on_the_screen_are_drawn() -> None:
    clients = tuple(Counted(client(number)) for number in range(10_000))
    frame = replace(FRAME, rows=(*ROWS, *(pool(f"db{n}") for n in range(60))), detail=replace(DETAIL, clients=clients))
    view = View(screen=Screen.POOL, selected=("app", "alice"))
    for key in ("end", "up", "pageup", "home", "pagedown"):
        press(view, frame, key)
        Counted.looked = 0
        drawn(view, height=40, frame=frame)
        assert Counted.looked <= 40
    press(view, frame, "end")
    assert any(" 9999 " in line for line in drawn(view, height=40, frame=frame))
