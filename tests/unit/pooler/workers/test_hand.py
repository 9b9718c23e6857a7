"""A worker's side of the line: what a welcome from elsewhere leads to. The rest is in tests/system/test_workers.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pooler.workers.hand import Hand


def test_who_needs_a_server_behind_a_welcome_from_elsewhere_is_heard() -> None:
    """The relay tells of nobody while the desk has none to give; that was for the newcomer, who needs none now."""
    pool: Any = SimpleNamespace(
        engine=SimpleNamespace(full=True),
        welcome=None,
        database=SimpleNamespace(name="app"),
        user=SimpleNamespace(name="joe"),
    )
    greeted: list[object] = []
    databases = {"app": SimpleNamespace(pools={"joe": pool})}
    running: Any = SimpleNamespace(registry=SimpleNamespace(databases=databases))
    opener: Any = SimpleNamespace(greet=lambda pool, reported: greeted.append(reported))
    other: Any = None
    Hand(running, opener, other, other, other, other, other, other).welcome("app", "joe", {"server_version": "15"})
    assert greeted == [{"server_version": "15"}]
    assert not pool.engine.full
