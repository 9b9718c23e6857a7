"""Statements: a text is cut the same whole or byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.repl.statements import Backslash, Item, Splitter, Statement, complete, split
from pooler.lexer import first_word, spoken, without_comments

PIECES = st.lists(
    st.sampled_from(
        [
            "SHOW POOLS",
            "select",
            "'a;b",
            "''",
            "'",
            "E'",
            "$$",
            "$a",
            '"',
            "--x",
            "/*",
            "*/",
            "\n",
            ";",
            " ",
            "\\x",
            "\\g",
            "é",
        ]
    )
).map("".join)


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
        (
            "select $$;\n$$, E'\\';', /* ; /* ; */ ; */ 1; reload",
            [
                Statement("select $$;\n$$, E'\\';',   1"),
                Statement("reload"),
            ],
        ),
        ("", []),
    ],
)
def test_split(text: str, items: list[Item]) -> None:
    assert split(text) == items


@pytest.mark.parametrize("text", ["SHOW POOLS", "show pools;", "\\x", "SELECT 1;", "", "exit", "SELECT 1 \\g"])
def test_enter_runs(text: str) -> None:
    assert complete(text)


@pytest.mark.parametrize(
    "text", ["SELECT 1", "with x as (", "SET a = 'b", "/* c", 'PAUSE "x', "SELECT ';'", "SET a = $$;", "SET a = E'\\'"]
)
def test_enter_goes_to_the_next_line(text: str) -> None:
    assert not complete(text)


@pytest.mark.parametrize("text", ["SELECT 1\n", "SELECT 1\nFROM pools\n  ", "with x as (\n"])
def test_an_empty_line_runs_what_waits_for_a_semicolon(text: str) -> None:
    assert complete(text)
    assert not complete(text.rstrip())
    assert not complete("SELECT '" + text)
    assert split(text + "\n\nWHERE 1") == [Statement(text + "\n\nWHERE 1")], "but not in a script"


def test_items_know_their_lines() -> None:
    text = "-- a\nSHOW POOLS\n\nselect\n  1;reload\n\\x\n/* b\n*/ SHOW STATS \\g\n;select 2"
    assert [item.line for item in split(text)] == [2, 4, 5, 6, 8, 9]
    splitter = Splitter()
    assert [item.line for letter in text for item in splitter.feed(letter)] == [2, 4, 5, 6, 8]


def test_comments_and_quotes() -> None:
    assert without_comments("/* x */ SHOW -- y\n POOLS;") == "SHOW  \n POOLS"
    assert [token.text for token in spoken("PAUSE \"a\"\"b\" 'it''s'")] == ["PAUSE", '"a""b"', "'it''s'"]
    assert first_word(" -- x\n show pools") == "SHOW"
    assert first_word("") == ""
