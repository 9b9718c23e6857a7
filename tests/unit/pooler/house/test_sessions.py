"""What is counted of session state, without a relay that sees any: Python's half."""

from __future__ import annotations

from pooler.house.sessions import kind_words
from pooler.touches import Held


def test_kinds_are_named() -> None:
    assert kind_words(Held.LOCK | Held.TEMP) == ["advisory_lock", "temp"]
    assert kind_words(1 << 14) == ["state that is not known"]
