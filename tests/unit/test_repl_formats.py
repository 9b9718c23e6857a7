"""Answers as text: every format by content, colours by rule, and nobody's name moving a cursor."""

from __future__ import annotations

import csv
import io
import json

import pytest

from admin.repl import colours, units
from admin.repl.answers import Answer, Column, Notice
from admin.repl.formats import NAMES, Look, render
from admin.repl.viewsql import INT4, TEXT
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


def test_waiting_clients_and_paused_pools_stand_out() -> None:
    shown = render(POOLS, Look(colour=True, width=300, paused={"billing"}))
    assert colours.paint("2", colours.WARNING) in shown
    assert colours.paint("billing", colours.PAUSED) in shown
    plain = render(POOLS, Look(width=300))
    assert colours.stripped(shown) == plain
    paused = rows("name paused", ("app", 1), ("b", 0))
    assert colours.paint("app", colours.PAUSED) in render(paused, Look(colour=True))


@pytest.mark.parametrize(
    ("variables", "terminal", "wanted"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ],
)
def test_when_colours_are_wanted(variables: dict[str, str], terminal: bool, wanted: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    assert colours.wanted(Stream(), variables) is wanted


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("avg_query_time", 950, "950 µs"),
        ("total_xact_time", 1_250, "1.25 ms"),
        ("maxwait_us", 999_999, "1000 ms"),
        ("maxwait", 75, "1m 15s"),
        ("wait", 7_380, "2h 03m"),
        ("server_lifetime", 90_000, "1d 01h"),
        ("total_received", 1_536, "1.50 kB"),
        ("avg_recv", 5 << 20, "5.00 MB/s"),
        ("query_p99", 12_345, "12.3 ms"),
        ("total_xact_count", 1_234_567, "1,234,567"),
        ("port", 54321, "54321"),
        ("cl_waiting", 0, "0"),
        ("maxwait", 0, "0"),
    ],
)
def test_human_numbers(column: str, value: int, text: str) -> None:
    assert units.readable(column, value) == text


def test_totals_take_their_unit_from_the_name() -> None:
    totals = Answer((Column("name", TEXT), Column("value", INT4)), [("total_query_time", 2_000_000)])
    assert "2.00 s" in render(totals, Look(human=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (34_567, "34.6k"), (999_600, "1.0M"), (250_000, "250k")],
)
def test_short_numbers(value: int, text: str) -> None:
    assert units.short(value) == text
