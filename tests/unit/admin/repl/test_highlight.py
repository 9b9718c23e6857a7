"""Colours while typing."""

from __future__ import annotations

import pytest

from admin.repl import highlight
from tests.unit.admin.repl.knowing import WORDS


def styles(text: str) -> list[tuple[str, str]]:
    pieces = list(highlight.styled(text, WORDS))
    assert "".join(piece for _, piece in pieces) == text
    return [(style.rpartition(".")[2], piece) for style, piece in pieces if style]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SHOW pools", [("command", "SHOW"), ("view", "pools")]),
        ("SHOW poo", [("command", "SHOW")]),
        ("SHOW poox", [("command", "SHOW"), ("wrong", "poox")]),
        ("shwo pools", [("wrong", "shwo")]),
        ("sho", []),
        ("RELOAD -- c", [("command", "RELOAD"), ("comment", "-- c")]),
        ("\\x auto", [("backslash", "\\x")]),
        ("\\frob x", [("wrong", "\\frob")]),
        ("SHOW pools \\watch 2", [("command", "SHOW"), ("view", "pools"), ("backslash", "\\watch")]),
        (
            "SELECT 'x', 1\nFROM pools",
            [("command", "SELECT"), ("string", "'x'"), ("number", "1"), ("keyword", "FROM"), ("view", "pools")],
        ),
    ],
)
def test_highlighting(text: str, found: list[tuple[str, str]]) -> None:
    assert styles(text) == found
