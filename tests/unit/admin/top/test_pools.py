"""The list of pools: the chosen row, names and charts, the order, small terminals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.top.control import press
from admin.top.view import SORTS, Sort, View
from tests.unit.admin.top.frames import (
    DETAIL,
    FRAME,
    ROWS,
    client,
    drawn,
    lines,
    opened,
    pool,
    status,
    text,
)

LONG = "a_database_with_quite_a_long_name_indeed"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_chosen_row_is_reversed_and_nothing_in_it_keeps_a_colour(width: int) -> None:
    chosen = [line for line in lines(View(), width=width) if any("class:selected" in style for style, _ in line)]
    assert len(chosen) == 1
    (line,) = chosen
    assert text(line).startswith(">app")
    assert len(text(line).ljust(width)) == width
    for style, part in filter(lambda fragment: fragment[1], line):
        drawn = set("█▒·▁▂▃▄▅▆▇") & set(part)
        names = [word for word in style.split() if word.startswith("class:")]
        assert bool(drawn) != ("class:selected" in names or "class:selected.loud" in names), (style, part)
        assert len(names) == 1, "a colour under reverse video is a background that hides the text"
    full = next(style for style, part in lines(View(), width=120)[5] if "█" in part)
    assert full.split()[0] == "class:full", "a full pool looks full also where it is chosen"


def test_a_name_is_whole_before_a_chart_has_anything() -> None:
    frame = replace(FRAME, rows=(pool(LONG, user="somebody"), *ROWS))
    for width in (120, 160, 200):
        shown = drawn(View(), width, frame=frame)
        assert any(f" {LONG} somebody " in line.replace(">", " ") for line in shown), width
    assert "tps, 5 min" not in drawn(View(), 120, frame=frame)[4]
    assert "tps, 5 min" in drawn(View(), 120)[4], "while names are short there is a chart"
    assert "tps, 5 min" in drawn(View(), 200, frame=frame)[4]
    paused = replace(FRAME, rows=(pool(LONG, paused=True),))
    assert any(f"{LONG} paused " in line for line in drawn(View(), 140, frame=paused))


@pytest.mark.parametrize("sort", SORTS, ids=lambda sort: sort.name)
@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_order_is_marked_in_its_heading(sort: Sort, width: int) -> None:
    view = View(order=SORTS.index(sort))
    titles = {"name": "database", "waiting": "wait", "clients": "active"}
    title = titles.get(view.sort.name, view.sort.name)
    head = drawn(view, width)[4]
    if title in head:
        assert f"{title}{'▲' if view.rising else '▼'}" in head
    else:
        assert width < 160, "all columns are there"
    assert f"by {view.sort.name}" in status(drawn(view, width))


@pytest.mark.parametrize("size", [(40, 12), (40, 16), (60, 12), (80, 12)])
def test_a_small_terminal_shows_rows_and_whole_numbers(size: tuple[int, int]) -> None:
    shown = drawn(View(), *size)
    assert [
        line.split()[0].lstrip(">")
        for line in shown
        if line.lstrip(">").split()[:1] in (["app"], ["billing"], ["reports"])
    ]
    assert sum(line.replace(">", " ").startswith((" app", " billing", " reports")) for line in shown) == 3
    assert "18+4/40 servers" in shown[1] or "4 idle of 40" in shown[1]
    figures = shown[2].split(" | ")
    assert figures[0].startswith(" 12.3k tps")
    assert figures[-1].rstrip().endswith(("s", "qps")), figures
    assert shown[-1].rstrip().endswith("q quit")
    lists = drawn(opened(), *size)
    assert sum(" 10.0.0.1:" in line or "waiting " in line for line in lists) >= 1
    assert any(line.startswith(">") for line in lists), "the list, whatever else there is no room for"
    view = opened()
    press(view, FRAME, "tab")
    many = replace(FRAME, detail=replace(DETAIL, clients=tuple(client(number) for number in range(90))))
    assert sum(line[2:].lstrip().split()[1:2] == ["active"] for line in drawn(view, *size, frame=many)) >= 3
