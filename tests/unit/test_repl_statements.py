"""Tokens and statements: nothing of a text is lost, and it is cut the same whole or byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.repl.statements import Backslash, Item, Splitter, Statement, complete, first_word, split
from admin.repl.words import spoken, tokens, without_comments

PIECES = st.lists(
    st.sampled_from(
        ["SHOW POOLS", "select", "'a;b", "''", "'", '"', "--x", "/*", "*/", "\n", ";", " ", "\\x", "\\g", "é", "\0"]
    )
).map("".join)


@given(PIECES | st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(token.text for token in tokens(text)) == text


@given(PIECES)
def test_split_never_fails_and_line_by_line_is_the_same(text: str) -> None:
    whole = split(text)
    splitter = Splitter()
    byte_by_byte = [item for letter in text for item in splitter.feed(letter)] + splitter.finish()
    assert byte_by_byte == whole


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("SHOW POOLS", [Statement("SHOW POOLS")]),
        ("SHOW POOLS\nSHOW STATS", [Statement("SHOW POOLS"), Statement("SHOW STATS")]),
        ("SHOW POOLS; RELOAD;", [Statement("SHOW POOLS"), Statement("RELOAD")]),
        ("select\n 1\n;", [Statement("select\n 1")]),
        ("SELECT ';' -- ;\n, 2; \\x on", [Statement("SELECT ';'  \n, 2"), Backslash("x", "on")]),
        ("SHOW POOLS \\watch 2 delta", [Backslash("watch", "2 delta", "SHOW POOLS")]),
        ("SELECT 1\n\\g out.txt", [Backslash("g", "out.txt", "SELECT 1")]),
        ("SHOW POOLS \\x\n", [Backslash("x"), Statement("SHOW POOLS")]),
        ("\\?", [Backslash("?")]),
        ("\\", [Backslash("")]),
        ("set a = 'x\ny'; reload", [Statement("set a = 'x\ny'"), Statement("reload")]),
        ("/* a\nb */ show /* c */ stats -- d", [Statement("show   stats")]),
        (";;\n;", []),
        ("-- nothing", []),
        ("/* open", []),
        ("", []),
    ],
)
def test_split(text: str, items: list[Item]) -> None:
    assert split(text) == items


@pytest.mark.parametrize("text", ["SHOW POOLS", "show pools;", "\\x", "SELECT 1;", "", "exit", "SELECT 1 \\g"])
def test_enter_runs(text: str) -> None:
    assert complete(text)


@pytest.mark.parametrize("text", ["SELECT 1", "with x as (", "SET a = 'b", "/* c", 'PAUSE "x', "SELECT ';'"])
def test_enter_goes_to_the_next_line(text: str) -> None:
    assert not complete(text)


def test_comments_and_quotes() -> None:
    assert without_comments("/* x */ SHOW -- y\n POOLS;") == "SHOW  \n POOLS"
    assert [token.plain for token in spoken("PAUSE \"a\"\"b\" 'it''s'")] == ["PAUSE", 'a"b', "it's"]
    assert first_word(" -- x\n show pools") == "SHOW"
    assert first_word("") == ""
