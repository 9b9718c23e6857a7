"""Consoles of a table, ours and an old one, in the place of every connection."""

from __future__ import annotations

import pytest

from tests.unit.repl_console import HELP_1_18, Console, replace_link, rows


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return replace_link(monkeypatch, Console())


@pytest.fixture
def old_console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return replace_link(monkeypatch, Console(HELP_1_18, SHOW_STATS=rows("database total", ("app", 7))))
