"""What is drawn: by content, narrow and wide, and never beyond the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.top.control import press
from admin.top.model import Frame
from admin.top.view import Screen, View
from tests.unit.admin.top.frames import DETAIL, FRAME, ROWS, client, drawn, opened, pool


def test_the_list_of_pools() -> None:
    text = drawn(View())
    assert text[0].startswith(" ● h:1/pgbouncer  PgBouncer 1.26.1")
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


def test_many_pools_scroll() -> None:
    frame = replace(FRAME, rows=tuple(pool(f"db{n:02}") for n in range(60)))
    view = View()
    assert "db00" in drawn(view, height=20, frame=frame)[5]
    press(view, frame, "end")
    text = drawn(view, height=20, frame=frame)
    assert any("db59" in line for line in text)
    assert not any("db00" in line for line in text)


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
