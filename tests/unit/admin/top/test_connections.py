"""One pool with its connections, and one connection."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.top.control import press
from admin.top.view import Screen
from tests.unit.admin.top.frames import (
    AGED,
    DETAIL,
    FRAME,
    client,
    drawn,
    lines,
    opened,
    shown_on,
    status,
    text,
)


def test_killing_is_offered_only_where_it_can_be_done() -> None:
    view = opened()
    assert any("kill client" in line for line in drawn(view))
    while view.tab != 1:
        press(view, FRAME, "tab")
    assert not any("kill client" in line for line in drawn(view))
    press(view, FRAME, "enter")
    assert any("server 90" in line for line in drawn(view))
    assert not any("kill client" in line for line in drawn(view))


@pytest.mark.parametrize(
    ("typed", "found"), [("4001", [1]), ("waiting", [3]), ("web", [1, 2, 3]), ("10.0.0.1:4002", [2]), ("zzz", [])]
)
def test_connections_are_filtered_too(typed: str, found: list[int]) -> None:
    view = opened()
    press(view, FRAME, "tab")
    for key in f"/{typed}":
        press(view, FRAME, key)
    press(view, FRAME, "enter")
    shown = drawn(view)
    ids = [int(line.lstrip(">").split()[0]) for line in shown if " 10.0.0.1:" in line and "filter" not in line]
    assert sorted(ids) == found
    if found:
        assert status(shown) == f"1 of {len(found)} clients, filter: {typed}"
    else:
        assert any(f'no clients with "{typed}"' in line for line in shown)
    press(view, FRAME, "escape")
    assert shown_on(view) is Screen.POOL, "the filter goes first"
    assert status(drawn(view)) == "1 of 3 clients"
    press(view, FRAME, "escape")
    assert shown_on(view) is Screen.POOLS
    assert view.filter == ""


def test_how_old_a_transaction_is() -> None:
    view = opened()
    while view.tab != 0:
        press(view, AGED, "tab")
    shown = drawn(view, frame=AGED)
    assert any("xact age" in line for line in shown)
    old = next(line for line in lines(view, AGED) if "1m 32s" in text(line))
    assert text(old).startswith(">")
    press(view, AGED, "enter")
    assert any("client 1, in a transaction for 1m 32s" in line for line in drawn(view, frame=AGED))
    assert not any("xact age" in line for line in drawn(opened())), "this console does not tell"


def test_what_a_session_holds() -> None:
    told = client(1, session_state="temp pins", pinned_us=5, link="0x90")
    frame = replace(FRAME, detail=replace(DETAIL, told=frozenset({"SESSION_STATE"}), clients=(told, client(2))))
    view = opened()
    while view.tab != 0:
        press(view, frame, "tab")
    (line,) = [line for line in lines(view, frame) if "temp pins" in text(line)]
    assert text(line).startswith(">")
    press(view, frame, "enter")
    assert any("session_state  temp pins" in line for line in drawn(view, frame=frame))
    assert not any("session" in line for line in drawn(opened())), "this console does not tell"


def test_a_list_that_is_asked_for_seldom_says_why() -> None:
    few = replace(FRAME, detail=replace(DETAIL, taken=0.031, every=3.1))
    assert any("every 3 s, since an answer takes 31.0 ms; u asks now" in line for line in drawn(opened(), frame=few))
    chosen = replace(few, delay=10.0, detail=replace(DETAIL, taken=0.031, every=10.0))
    assert any(" every 10 s; u asks now" in line for line in drawn(opened(), frame=chosen))
    assert not any("asks now" in line for line in drawn(opened()))
