"""Which cells stand out, and when colours are wanted."""

from __future__ import annotations

import io

import pytest

from admin.client import colours
from admin.repl.formats import Look, render
from tests.unit.repl_console import POOLS, rows


def test_waiting_clients_and_paused_pools_stand_out() -> None:
    shown = render(POOLS, Look(colour=True, width=300, paused={"billing"}))
    assert colours.paint("2", colours.WARNING) in shown
    assert colours.paint("billing", colours.PAUSED) in shown
    plain = render(POOLS, Look(width=300))
    assert colours.stripped(shown) == plain
    paused = rows("name paused", ("app", 1), ("b", 0))
    assert colours.paint("app", colours.PAUSED) in render(paused, Look(colour=True))


@pytest.mark.parametrize(
    ("variables", "terminal", "wanted"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ],
)
def test_when_colours_are_wanted(variables: dict[str, str], terminal: bool, wanted: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    assert colours.wanted(Stream(), variables) is wanted
