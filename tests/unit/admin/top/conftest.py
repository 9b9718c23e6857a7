"""A console of a table, and a feed that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.top.feed import Feed
from tests.unit.admin.top.serving import ADDRESS, serving
from tests.unit.repl_console import Console, replace_link


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the program keeps what was chosen."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "pooler"


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return serving(replace_link(monkeypatch, Console()))


@pytest.fixture
def feed(console: Console) -> Iterator[Feed]:
    made = Feed(ADDRESS, delay=0.01)
    yield made
    made.stop()
    if made.is_alive():
        made.join()
