"""Names of encodings, as PostgreSQL says them. That it does is tests/system/test_parameters.py."""

from __future__ import annotations

import pytest

from pooler.pools.encodings import encoding_name


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("UTF8", "UTF8"),
        ("utf-8", "UTF8"),
        ("unicode", "UTF8"),
        ("ISO-8859-1", "LATIN1"),
        ("latin_1", "LATIN1"),
        ("windows-1252", "WIN1252"),
        ("nosuch", "nosuch"),
        ("", ""),
        ("ütf8", "ütf8"),
        ("utf é 8", "UTF8"),
    ],
)
def test_a_spelling_is_said_as_postgresql_says_it(spelled: str, name: str) -> None:
    assert encoding_name(spelled) == name
