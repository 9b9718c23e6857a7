"""Tokens: nothing of a text is lost, and who types is shown what the server will read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.lexer import SILENT, Kind, Unterminated, lexed, pieces, spoken, tokenize

PIECES = st.lists(
    st.sampled_from((
        "SHOW POOLS", "'a;b", "''", "'", "E'", "e'\\'", "$$", "$a$", "$1", '"', "--x", "/*", "*/", "\n", ";", " ",
        "\\x", "\\", "é", "\0", "1.5", ".", "::", "<=-1", "\\?",
    ))
).map("".join)  # fmt: skip


@given(PIECES | st.text())
def test_pieces_joined_are_the_text(text: str) -> None:
    found = list(pieces(text))
    assert "".join(piece.text for piece in found) == text
    assert [text[piece.start : piece.end] for piece in found] == [piece.text for piece in found]
    assert not any(piece.open for piece in found[:-1])


@given(PIECES)
def test_the_server_reads_what_who_types_is_shown(text: str) -> None:
    """But for backslash commands, which never reach it."""
    found = spoken(text)
    if any(piece.kind is Kind.BACKSLASH for piece in found):
        return
    last = list(pieces(text))[-1:]
    if last and last[0].open:
        with pytest.raises(Unterminated) as refused:
            tokenize(text)
        assert refused.value.message == f"unterminated {last[0].open}"
        return
    told = [(token.kind, token.text, token.value, token.start) for token in lexed(text)]
    assert told == [(piece.kind, piece.text, piece.value, piece.start) for piece in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it''s'", "it's"), ("'it''s", "it's"), ('"a""b"', 'a"b'), ('"a""b', 'a"b'), ("$x$a'b$x$", "a'b"),
        ("$x$a'b", "a'b"), ("E'a\\'b\\n'", "a'b\n"), ("PAUSE", "pause"), ("e'", ""),
    ],
)  # fmt: skip
def test_values(text: str, value: str) -> None:
    [token] = spoken(text)
    assert token.value == value


@pytest.mark.parametrize("text", ["/* a /* b */", "'a''", '"a', "$x$ $y$", "E'a\\'", "/*/"])
def test_what_has_no_end_is_open(text: str) -> None:
    assert list(pieces(text))[-1].open
    assert list(pieces("show " + text))[-1].text == text


def test_a_backslash_is_a_command_only_where_it_is_typed() -> None:
    assert [token.text for token in spoken("x \\watch 2\\?")] == ["x", "\\watch", "2", "\\?"]
    assert [(token.kind, token.text) for token in lexed("\\dt")] == [(Kind.MARK, "\\"), (Kind.WORD, "dt")]


def test_silence() -> None:
    assert {piece.kind for piece in pieces(" -- x\n/* y */")} == SILENT
