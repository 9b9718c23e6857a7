"""What may have been meant."""

from __future__ import annotations

import time

import pytest

from pooler.hints import ESCAPES, did_you_mean, escape_hint, hint, nearest


@pytest.mark.parametrize(
    ("word", "expected"),
    [("sreve", "serve"), ("SERVE", "serve"), ("consle", "console"), ("xyz", None), ("", None), ("ser", "serve")],
)
def test_the_nearest_word(word: str, expected: str | None) -> None:
    assert nearest(word, ["serve", "console", "top"]) == expected
    assert did_you_mean(word, ["serve", "console", "top"]) == (f"did you mean {expected}?" if expected else "")


@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p:ss", "p#ss", "p?ss", "p%ss", "p%2", "@", "a@b@c"])
def test_a_password_that_was_not_escaped(password: str) -> None:
    assert escape_hint(f"postgres://u:{password}@host:5432/db") == ESCAPES


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@host/db",
        "postgres://u:p%40ss@host:5432/db?sslmode=require",
        "postgres://u@host/db",
        "postgres://host/db",
        "host=x password=a@b",
        "",
    ],
)
def test_what_needs_no_hint(url: str) -> None:
    assert escape_hint(url) == ""


@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        ("poler", ("pooler", "shop"), "pooler"),
        ("SHPO", ("pooler", "Shop"), "Shop"),
        ("pooler", ("pooler",), None),
        ("xyzzy", ("pooler", "shop"), None),
        ("", ("a",), None),
        ("a" * 65, ("a" * 64,), None),
        ("a", (), None),
    ],
)
def test_the_nearest_name(given: str, known: tuple[str, ...], expected: str | None) -> None:
    assert nearest(given, known) == expected
    assert hint(given, known) == (f'Perhaps you meant "{expected}".' if expected else "")


def test_thousands_of_databases_are_looked_through_quickly() -> None:
    began = time.process_time()
    assert nearest("tenant_0000x", [f"tenant_{number:05}" for number in range(2000)]) is not None
    assert time.process_time() - began < 1
