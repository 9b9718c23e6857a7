"""Pieces of lines, and the lines that every screen has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.top.control import press
from admin.top.model import Frame, Totals
from admin.top.pieces import Part, clipped, fitted, heading, length, marked, padded, spread, target
from admin.top.view import Screen, View
from tests.unit.admin.top.frames import (
    EVENTS,
    FRAME,
    drawn,
    lines,
    opened,
    text,
)

SIZES = [(80, 24), (120, 40), (200, 50)]


def test_what_does_not_fit_is_left_out_whole() -> None:
    parts = (Part(1, [("", "first")]), Part(0, [("", "second")]), Part(2, [("", "third")], "  "))
    assert text(fitted(parts, 40)) == " first | second  third"
    assert text(fitted(parts, 21)) == " first | second"
    assert text(fitted(parts, 14)) == " second"
    assert text(fitted(parts, 1)) == " second", "the last one stays"


def test_lines() -> None:
    line = [("class:a [row:3]", "ab"), ("class:b", "cd")]
    assert [target(line, column) for column in range(5)] == ["row:3", "row:3", "", "", ""]
    assert text(clipped(line, 3)) == "abc"
    assert length(padded(line, 9)) == 9
    assert text(spread(line, [("", "right")], 7)) == "abright"
    assert heading("title", 5, "^", right=True) == heading("title", 5, "^", right=False) == "title^"
    assert heading("title", 7, "^", right=True) == "  title^"
    assert heading("title", 7, "", right=False) == "title   "


def test_a_chosen_line_is_reversed_but_for_what_is_drawn() -> None:
    line = [("class:alarm [row:1]", "7"), ("class:spark [row:1]", "###"), ("", "x")]
    assert marked(line, 6) == [
        ("class:selected.loud [row:1]", "7"), ("class:spark [row:1]", "###"), ("class:selected", "x"),
        ("class:selected", " "),
    ]  # fmt: skip


def test_the_chosen_connection_event_and_column_are_reversed_likewise() -> None:
    for view, frame in ((opened(), FRAME), (View(screen=Screen.EVENTS), EVENTS), (View(screen=Screen.COLUMNS), FRAME)):
        found = [line for line in lines(view, frame) if text(line).startswith(">")]
        assert len(found) == 1
        assert all(style.startswith("class:selected") for style, part in found[0] if part.strip())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frame", [FRAME, EVENTS])
def test_all_keys_are_on_the_screen(size: tuple[int, int], frame: Frame) -> None:
    both = {
        "e events", "p pause", "r resume", "K kill", "Space hold", "+- pace", "u now", "m mouse", "? help", "q quit",
        "Enter open", "/ filter", "c columns",
    }  # fmt: skip
    for view, more in ((View(), {"s sort", "R turn"}), (opened(), {"Esc back", "Tab next list", "x kill client"})):
        foot = " ".join(drawn(view, *size, frame=frame)[-4:])
        assert not [hint for hint in both | more if f" {hint} " not in f"{foot} "]
        view.tell("something happened")
        told = drawn(view, *size, frame=frame)
        assert any(line.startswith(" something happened") for line in told)
        assert not [hint for hint in both | more if f" {hint} " not in f"{' '.join(told[-4:])} "]


def test_nothing_is_said_of_limits_before_there_are_pools() -> None:
    empty = replace(FRAME, rows=(), totals=Totals())
    assert " of 0" not in "\n".join(drawn(View(), frame=empty))
    assert "no pool has servers yet" in drawn(View(), frame=empty)[1]
    assert not any("by name" in line for line in drawn(View(), frame=empty))
    unlimited = replace(FRAME, totals=replace(FRAME.totals, limit=0))
    assert " of 0" not in drawn(View(), frame=unlimited)[1]


def test_figures_of_before_are_told_as_such() -> None:
    lost = replace(FRAME, connected=False, taken=1.0, trouble="the server closed the connection " * 5)
    for width in (80, 120):
        title = drawn(View(), width, frame=lost)[0]
        assert "not connected, trying: the s" in title
        assert "figures of" in title
        assert title.rstrip()[-8:].count(":") == 2, "the clock stays"


def test_help_and_facts_scroll() -> None:
    view = View()
    press(view, FRAME, "?")
    first = drawn(view, 80, 24)
    assert max(map(len, first)) <= 80
    press(view, FRAME, "end")
    last = drawn(view, 80, 24)
    assert any(line.startswith(" Esc ") and "quit" in line for line in last[:-2])
    assert any("KILL_CLIENT" in line for line in first + last)
    view = opened()
    press(view, FRAME, "enter")
    assert not any("application_name" in line for line in drawn(view, 49, 16))
    press(view, FRAME, "end")
    assert any("application_name" in line for line in drawn(view, 49, 16))
