"""What clients are told of a server's parameters, and what is remembered of that."""

from __future__ import annotations

import tracemalloc

from pooler.pools.welcome import Manners, Welcome

REPORTED = {"server_version": "15.0", "TimeZone": "UTC", "application_name": ""}
NAMES = (b"TimeZone", b"application_name")
MANNERS = Manners("transaction", 0)


def test_who_asks_for_the_same_is_told_the_same() -> None:
    welcome = Welcome(REPORTED, NAMES)
    one, other = (welcome.greeting({"application_name": "psql"}, MANNERS) for _ in range(2))
    assert one is other
    assert one.tracked == (b"UTC", b"psql")
    assert b"server_version\0" in one.messages


def test_long_values_are_not_remembered() -> None:
    welcome = Welcome(REPORTED, NAMES)
    tracemalloc.start()
    try:
        for number in range(60):
            assert welcome.greeting({"application_name": f"{number:09500d}"}, MANNERS).tracked[1] == b"%09500d" % number
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 200_000
