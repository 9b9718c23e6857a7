"""What is counted of session state, without a relay that sees any: Python's half."""

from __future__ import annotations

from pooler.house.sessions import kind_words, pinning
from pooler.touches import UNREAD, Held


def test_kinds_are_named() -> None:
    assert kind_words(Held.LOCK | Held.TEMP) == ["advisory_lock", "temp"]
    assert kind_words(1 << 14) == ["state that is not known"]


def test_what_could_not_be_read_pins_as_code() -> None:
    assert pinning(Held.LOCK) == Held.LOCK
    assert pinning(Held.LOCK | UNREAD) & (Held.LOCK | Held.UNSEEN) == Held.LOCK | Held.UNSEEN
