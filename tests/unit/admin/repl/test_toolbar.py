"""The line below the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.repl import toolbar
from admin.repl.background import Pulse
from admin.repl.toolbar import Place

PULSE = Pulse(True, "1.26.1", 3, "", ("app",), 1234, 12, 1.5, 18, 12_345.6)


def bar(pulse: Pulse, width: int, options: str = "", glyphs: bool = True) -> str:
    text = "".join(part for _, part in toolbar.bar(pulse, Place("h:1/pgbouncer", options, glyphs), width))
    assert len(text) <= width
    return text


def test_toolbar() -> None:
    assert bar(PULSE, 200, "vi json") == (
        " ● h:1/pgbouncer 1.26.1 │ 3 pools, paused: app │ waiting 12 │ max wait 1.50 s │ 12.3k tps"
        " │ 1,234 clients, 18 servers busy │ vi json"
    )
    assert bar(PULSE, 60) == " ● h:1/pgbouncer 1.26.1 │ 3 pools, paused: app │ waiting 12"
    assert "all suspended" in bar(replace(PULSE, state="suspended"), 200)
    assert bar(Pulse(trouble="refused"), 80) == " ✗ h:1/pgbouncer not connected, trying │ refused"
    assert bar(PULSE, 200, glyphs=False).isascii()


@pytest.mark.parametrize("width", range(12))
def test_toolbar_fits_any_width(width: int) -> None:
    bar(PULSE, width)
    bar(Pulse(), width)
