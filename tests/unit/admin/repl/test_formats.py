"""Answers as text: every format by content, colours by rule, and nobody's name moving a cursor."""

from __future__ import annotations

import csv
import io
import json

import pytest

from admin.client.answers import Answer, Notice
from admin.repl.formats import NAMES, Look, render
from tests.unit.repl_console import POOLS, rows

SMALL = rows("database cl_waiting note", ("app", 3, None), ("x|y", 10, "two\nlines"))


def test_table_aligns_numbers_right() -> None:
    assert render(SMALL, Look()).splitlines() == [
        " database | cl_waiting | note",
        "----------+------------+------------",
        " app      |          3 |",
        " x|y      |         10 | two\\nlines",
        "(2 rows)",
    ]


def test_expanded_as_psql() -> None:
    assert render(SMALL, Look("expanded")).splitlines()[:4] == [
        "-[ RECORD 1 ]----------",
        "database   | app",
        "cl_waiting | 3",
        "note       |",
    ]


def test_a_table_too_wide_folds_its_headings_then_turns() -> None:
    def first(width: int) -> str:
        return render(POOLS, Look(vertical=None, width=width)).splitlines()[0]

    assert "sv_tested" in first(200)
    assert "sv_ " in first(125)
    assert first(80).startswith("-[ RECORD 1 ]")
    assert first(10).startswith("-[ RECORD 1 ]")


def test_a_compact_table_leaves_out_what_is_empty_and_then_cuts_names() -> None:
    def lines(width: int) -> list[str]:
        return render(POOLS, Look(vertical=None, width=width, compact=True)).splitlines()

    assert "sv_tested" in lines(200)[0]
    at_110 = lines(110)
    assert len(at_110) <= 7, "one line a pool"
    assert "tested" not in "".join(at_110)
    assert "transacti" in at_110[-4]
    assert at_110[-1] == "(3 rows; 1 column is empty or 0)"
    assert all(len(line) <= 110 for line in at_110)
    long = rows("database cl_waiting x", ("d" * 60, 3, 0), ("e" * 60, 4, 0))
    cut = render(long, Look(vertical=None, width=40, compact=True)).splitlines()
    assert all(len(line) <= 40 for line in cut)
    assert "ddd… |" in cut[3]


def test_csv_is_read_back() -> None:
    back = list(csv.reader(io.StringIO(render(SMALL, Look("csv")))))
    assert back == [["database", "cl_waiting", "note"], ["app", "3", ""], ["x|y", "10", "two\nlines"]]


def test_json_is_one_document_with_numbers() -> None:
    assert json.loads(render(SMALL, Look("json"))) == [
        {"database": "app", "cl_waiting": 3, "note": None},
        {"database": "x|y", "cl_waiting": 10, "note": "two\nlines"},
    ]
    assert json.loads(render(rows("a a a", (1, 2, 3)), Look("json"))) == [{"a": 1, "a_2": 2, "a_3": 3}]
    assert json.loads(render(rows("a"), Look("json"))) == []
    verb = Answer(tag="RELOAD", notices=(Notice("NOTICE", "n", "d"),))
    assert json.loads(render(verb, Look("json"))) == {
        "command": "RELOAD", "notices": [{"message": "n", "detail": "d"}],
    }  # fmt: skip


def test_markdown_escapes_bars() -> None:
    assert render(SMALL, Look("markdown")).splitlines() == [
        "| database | cl_waiting | note       |",
        "|:---------|-----------:|:-----------|",
        "| app      |          3 |            |",
        "| x\\|y     |         10 | two\\nlines |",
    ]


@pytest.mark.parametrize("format", NAMES)
def test_nothing_fails_on_nothing(format: str) -> None:
    for answer in (rows("a b"), Answer(tag="RELOAD"), Answer()):
        assert isinstance(render(answer, Look(format, colour=True, human=True)), str)


@pytest.mark.parametrize("format", ["table", "expanded", "markdown"])
def test_control_characters_are_spelled_out(format: str) -> None:
    evil = rows("application_name", ("\x1b[2Jx\x07\u202e\x9b",))
    shown = render(evil, Look(format))
    assert "\x1b" not in shown
    assert "\\x1b[2Jx\\x07\\u202e\\x9b" in shown
