"""Where one is, and what one wants to see."""

from __future__ import annotations

import re
from dataclasses import replace

from admin.top.control import Remember, click, press, wheel
from admin.top.model import Frame
from admin.top.pieces import target
from admin.top.view import Screen, View
from tests.unit.admin.top.frames import (
    EVENTS,
    FRAME,
    drawn,
    lines,
    opened,
    pool,
    shown_on,
    status,
    text,
)


def test_where_in_the_list_one_is() -> None:
    view = View()
    assert status(drawn(view)) == "1 of 3 pools, by name"
    press(view, FRAME, "end")
    assert status(drawn(view)) == "3 of 3 pools, by name"
    view = opened()
    press(view, FRAME, "tab")
    press(view, FRAME, "down")
    assert status(drawn(view)) == "2 of 3 clients"
    assert status(drawn(View(screen=Screen.EVENTS), frame=EVENTS)) == "1 of 2 events"


def test_the_rows_stay_where_they_are_while_the_cursor_is_among_them() -> None:
    frame = replace(FRAME, rows=tuple(pool(f"db{n:02}") for n in range(60)))
    view = View()
    for _ in range(10):
        press(view, frame, "down")
    before = [line.strip("> ") for line in drawn(view, height=30, frame=frame)[5:-3]]
    press(view, frame, "up")
    assert [line.strip("> ") for line in drawn(view, height=30, frame=frame)[5:-3]] == before
    press(view, frame, "end")
    assert any(line.startswith(">db59") for line in drawn(view, height=30, frame=frame))
    press(view, frame, "up")
    assert any("db59" in line for line in drawn(view, height=30, frame=frame))


def test_columns_are_chosen() -> None:
    view = View()
    press(view, FRAME, "c")
    assert any("[x] mode" in line for line in drawn(view))
    assert any("[ ] xact p99" in line for line in drawn(view))
    assert press(view, FRAME, " ") is None
    assert "always there" in view.told
    for key in ("down", " ", "end", "enter"):
        press(view, FRAME, key)
    assert press(view, FRAME, "up") is None
    assert press(view, FRAME, " ") == Remember()
    press(view, FRAME, "escape")
    head = drawn(view)[4]
    assert "user" not in head
    assert "mode" not in head
    assert "opening" in head
    press(view, FRAME, "enter")
    press(view, FRAME, "c")
    assert any("columns of the list of connections" in line for line in drawn(view))
    for key in ("down", " ", "c"):
        press(view, FRAME, key)
    assert not any(" state " in line for line in drawn(view))
    assert "opening" in drawn(replace(view, screen=Screen.POOLS, back=[]))[4]


def test_events() -> None:
    view = View()
    press(view, EVENTS, "e")
    shown = drawn(view, 80, 24, frame=EVENTS)
    timeout = next(line.lstrip(">").split() for line in shown if "query_wait_timeout" in line)
    assert re.fullmatch(r"\d\d:\d\d:40", timeout[0])
    assert timeout[1:] == ["5", "1,234", "error", "app", "query_wait_timeout"]
    assert any(line.split() == ["-", "-", "9", "connect", "server"] for line in shown)
    narrow = drawn(view, 40, 12, frame=EVENTS)
    assert any("app" in line and "query_wait_timeout" in line for line in narrow)
    for key in "/timeout":
        press(view, EVENTS, key)
    press(view, EVENTS, "enter")
    assert not any("connect" in line for line in drawn(view, frame=EVENTS))
    assert status(drawn(view, frame=EVENTS)) == "1 of 1 events, filter: timeout"
    press(view, EVENTS, "escape")
    press(view, EVENTS, "e")
    assert shown_on(view) is Screen.POOLS
    for frame, told in ((FRAME, "does not count events"), (replace(FRAME, counted=True), "nothing has happened yet")):
        assert any(told in line for line in drawn(View(screen=Screen.EVENTS), frame=frame))


def at(view: View, words: str, frame: Frame = FRAME) -> str:
    """What a click on these words means."""
    for line in lines(view, frame):
        column = text(line).find(words)
        if column >= 0:
            return target(line, column)
    raise AssertionError(f"{words} is not on the screen")


def test_the_mouse() -> None:
    view = View()
    click(view, FRAME, at(view, "billing"))
    assert view.selected == ("billing", "alice")
    assert text(lines(view)[6]).startswith(">billing")
    click(view, FRAME, target(lines(view)[4], text(lines(view)[4]).index("tps")))
    assert (view.sort.name, view.rising) == ("tps", False)
    click(view, FRAME, target(lines(view)[4], text(lines(view)[4]).index("tps")))
    assert (view.sort.name, view.rising) == ("tps", True)
    click(view, FRAME, at(view, "c columns"))
    assert shown_on(view) is Screen.COLUMNS
    assert click(view, FRAME, at(view, "] mode")) == Remember()
    assert any("[ ] mode" in line for line in drawn(view))
    click(view, FRAME, at(view, "Esc back"))
    wheel(view, FRAME, up=False)
    wheel(view, FRAME, up=True)
    click(view, FRAME, at(view, "app "))
    click(view, FRAME, at(view, "app "))
    assert shown_on(view) is Screen.POOL, "a second click opens"
    assert view.selected == ("app", "alice")
    click(view, FRAME, at(view, " clients 3"))
    assert view.tab == 0
    click(view, FRAME, at(view, "10.0.0.1:4002"))
    assert view.chosen == "C2"
    click(view, FRAME, at(view, "x kill"))
    assert view.question is not None
    click(view, FRAME, at(view, "10.0.0.1:4001"))
    assert view.chosen == "C2", "a question is answered first"
    click(view, FRAME, at(view, "n no"))
    assert view.question is None
    click(view, FRAME, "")
    assert not any(target(line, 500) for line in lines(view))
