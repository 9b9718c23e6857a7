"""What keys do to what is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.top import view as seen
from admin.top.control import Delay, Effect, Leave, Look, Perform, Switch, press
from admin.top.view import Screen, Verb, View
from tests.unit.admin.top.frames import DETAIL, FRAME, ROWS, client, drawn, opened, pool


def test_sorting_filtering_and_the_cursor() -> None:
    view = View()
    while view.sort.name != "tps":
        press(view, FRAME, "s")
    assert [row.database for row in seen.visible(FRAME, view)] == ["billing", "app", "reports"]
    press(view, FRAME, "R")
    assert [row.database for row in seen.visible(FRAME, view)] == ["reports", "app", "billing"]
    for key in "/paused":
        press(view, FRAME, key)
    assert [row.database for row in seen.visible(FRAME, view)] == ["billing"]
    assert "filter: paused" in drawn(view)[-2]
    assert "Enter keep the filter" in drawn(view)[-1]
    press(view, FRAME, "enter")
    assert not view.typing
    press(view, FRAME, "escape")
    assert len(seen.visible(FRAME, view)) == 3
    for key in ["/", "z", "z", "backspace", "c-u", "b", "o", "b", "enter"]:
        press(view, FRAME, key)
    assert [row.user for row in seen.visible(FRAME, view)] == ["bob"]
    press(view, FRAME, "/")
    for key in "zzz":
        press(view, FRAME, key)
    assert "no pool matches" in drawn(view)[5]
    assert seen.selected(FRAME, view) is None


def test_the_cursor_stays_on_its_pool_when_the_order_changes() -> None:
    view = View()
    press(view, FRAME, "end")
    assert view.selected == ("reports", "bob")
    press(view, FRAME, "s")
    chosen = seen.selected(FRAME, view)
    assert chosen is not None
    assert chosen.database == "reports"
    for key in ("up", "down", "pageup", "pagedown", "home", "j", "k"):
        press(view, FRAME, key)
    gone = replace(FRAME, rows=ROWS[:1])
    found = seen.selected(gone, view)
    assert found is not None
    assert found.database == "app"


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


@pytest.mark.parametrize(("key", "verb"), [("p", "PAUSE app"), ("r", "RESUME app"), ("K", "KILL app")])
def test_verbs_wait_for_a_y(key: str, verb: str) -> None:
    view = View()
    assert press(view, FRAME, key) is None
    assert drawn(view)[-2].startswith(f" {verb}: ")
    assert drawn(view)[-1].split() == ["y", "yes", "n", "no"]
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


def test_several_poolers() -> None:
    other = replace(FRAME, label="other:1/pgbouncer", connected=False, trouble="refused")
    both = replace(FRAME, beside=(FRAME, other))
    assert "1-9 pooler" not in drawn(View())[-1]
    text = drawn(View(), frame=both)
    assert text[0].startswith(" 1 h:1 12.3k tps 12 waiting | 2 other:1 not connected")
    assert text[1].startswith(" ● h:1/pgbouncer")
    assert "1-9 pooler" in " ".join(text[-3:])
    narrow = drawn(View(), 40, 12, frame=replace(other, beside=(FRAME, other)))
    assert narrow[0].startswith(" 2 other:1 not connected"), "the one on the screen stays"
    view = opened()
    press(view, both, " ")
    assert press(view, both, "3") is None
    assert press(view, FRAME, "1") is None, "there is only one"
    assert view.screen is Screen.POOL
    assert press(view, both, "2") == Switch(1)
    assert (view.screen, view.frozen, view.back) == (Screen.POOLS, None, [])


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
