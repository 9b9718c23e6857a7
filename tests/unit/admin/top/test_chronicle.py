"""Counts that grow as events that are seen."""

from __future__ import annotations

from admin.top.chronicle import Chronicle
from pooler.readback import ShowRow


def row(kind: str, count: int, database: str = "app") -> ShowRow:
    return {"kind": kind, "database": database, "reason": "r", "count": count}


def test_what_grew_is_an_event() -> None:
    chronicle = Chronicle()
    assert chronicle.events(0.0) == ()
    chronicle.take([row("error", 5), row("connect", 100)], 10.0)
    first = chronicle.events(10.0)
    assert [(one.kind, one.count, one.recent, one.last) for one in first] == [
        ("connect", 100, 0, 0.0),
        ("error", 5, 0, 0.0),
    ]
    chronicle.take([row("error", 7), row("connect", 100), row("timeout", 1, "new")], 20.0)
    chronicle.take([row("error", 8), row("connect", 100), row("timeout", 1, "new")], 30.0)
    assert [(one.kind, one.count, one.recent, one.last) for one in chronicle.events(31.0)] == [
        ("error", 8, 3, 30.0), ("timeout", 1, 1, 20.0), ("connect", 100, 0, 0.0),
    ]  # fmt: skip
    assert [one.recent for one in chronicle.events(85.0)] == [1, 0, 0]


def test_a_pooler_that_was_started_anew_has_no_news() -> None:
    chronicle = Chronicle()
    chronicle.take([row("error", 5), row("connect", 100)], 10.0)
    chronicle.take([row("connect", 1)], 20.0)
    assert [(one.kind, one.count, one.recent) for one in chronicle.events(20.0)] == [("connect", 1, 0)]
    chronicle.take([row("connect", 3)], 30.0)
    assert chronicle.events(30.0)[0].recent == 2
