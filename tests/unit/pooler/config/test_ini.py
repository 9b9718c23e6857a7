"""ini text -> sections and entries with their places: PgBouncer's habits, one by one, and any text at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config import whole
from pooler.config.ini import MOST_PROBLEMS, ConfigError, Entry, Problem, Section, parse, read


def entries(text: str) -> list[tuple[str, str, int]]:
    ini = parse("[s]\n" + text)
    assert not ini.problems
    return [(item.key, item.value, item.line - 1) for item in ini.items if isinstance(item, Entry)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", [("a", "1", 1)]),
        ("  a\t =  1 2 \t ", [("a", "1 2", 1)]),
        ("a=1\r\nb=2\r\n", [("a", "1", 1), ("b", "2", 2)]),
        ("\n\n; c\n  # c\na=1", [("a", "1", 5)]),
        ("a=", [("a", "", 1)]),
        ("a = 1 ; not a comment # either", [("a", "1 ; not a comment # either", 1)]),
        ("a==1", [("a", "=1", 1)]),
        ("a.b-c_d*=1", [("a.b-c_d*", "1", 1)]),
        ("* = host=x", [("*", "host=x", 1)]),
        ('"a b=""c""" = 1', [('a b="c"', "1", 1)]),
        ('"" = 1', [("", "1", 1)]),
        ("a=1\na=2", [("a", "1", 1), ("a", "2", 2)]),
    ],
)
def test_entries(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert entries(text) == expected


def test_sections_and_what_follows_them_on_the_line() -> None:
    ini = parse("[a] x=1\n [b][c]\ny=2 [d]\n", "f.ini")
    assert ini.items == [
        Section("a", "f.ini", 1),
        Entry("x", "1", "f.ini", 1),
        Section("b", "f.ini", 2),
        Section("c", "f.ini", 2),
        Entry("y", "2 [d]", "f.ini", 3),
    ]


BROKEN = ["a", "a b = 1", "a$=1", "é=1", "[a", '"a=1', '"a"b=1', "=1", "%include", "%x=1"]


@pytest.mark.parametrize("text", BROKEN)
def test_syntax_errors_have_their_line_and_do_not_hide_later_ones(text: str) -> None:
    ini = parse(f"[s]\n{text}\nok=1\n?\n", "f.ini")
    assert [(p.line, p.message) for p in ini.problems] == [
        (2, "syntax error in configuration"),
        (4, "syntax error in configuration"),
    ]
    assert ini.problems[0].log_lines == ("syntax error in configuration (f.ini:2), stopping loading",)
    assert ini.items[-1] == Entry("ok", "1", "f.ini", 3)


def test_nul_byte_in_a_value_is_a_problem() -> None:
    assert [p.line for p in parse("a=1\nb=\0").problems] == [2]


def test_include_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.ini").write_text("y=2\n%include c.ini\n")
    (tmp_path / "c.ini").write_text("z=3")
    ini = parse("[s]\nx=1\n %include  deep/b.ini \nx=4\n", "a.ini")
    assert not ini.problems
    assert [(i.key, i.value, i.file, i.line) for i in ini.items if isinstance(i, Entry)] == [
        ("x", "1", "a.ini", 2),
        ("y", "2", "deep/b.ini", 1),
        ("z", "3", "c.ini", 1),
        ("x", "4", "a.ini", 4),
    ]


def test_problem_in_an_include_names_both_places() -> None:
    ini = parse("%include b.ini\n", "a.ini", lambda path: "x=1\noops\n")
    assert [line for p in ini.problems for line in p.log_lines] == [
        "syntax error in configuration (b.ini:2), stopping loading",
        "error processing include file in configuration (a.ini:1), stopping loading",
    ]


@pytest.mark.parametrize("times", [1, 3, 500])
def test_include_of_itself_ends(times: int) -> None:
    text = "%include a.ini\n" * times
    ini = parse(text, "a.ini", lambda path: text)
    assert ini.problems[0].message == "include nesting level too deep"
    assert ini.files == 11
    assert len(ini.problems) == 11


def test_include_of_very_many_files_ends() -> None:
    def load(path: str) -> str:
        return f"%include {int(path) - 1}\n" * 50 if path != "0" else ""

    ini = parse("%include 9\n" * 50, "x", load)
    assert ini.files == 1000
    assert ini.problems


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.ini")
    (problem,) = read(missing).problems
    assert problem.message == f'could not load file "{missing}": No such file or directory'
    assert read(str(tmp_path)).problems[0].message.endswith("Is a directory")
    assert read("a\0b").problems
    assert read("/dev/zero").problems[0].message.endswith("File too large")
    assert len(parse("%include /nowhere/x").problems) == 2


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.ini"
    path.write_bytes(b"; caf\xe9\na=\xe9\n")
    ini = read(str(path))
    assert not ini.problems
    (item,) = ini.items
    assert isinstance(item, Entry)
    assert item.value.encode("utf-8", "surrogateescape") == b"\xe9"


def test_problem_says_where_and_what() -> None:
    assert str(Problem("f", 3, "bad")) == "f:3: bad"
    assert str(Problem("f", 0, "bad")) == "f: bad"
    assert str(Problem("", 0, "bad")) == "bad"
    problem = Problem("f", 3, "", "k", "v", why="an integer is needed")
    assert str(problem) == 'f:3: invalid value "v" for parameter k: an integer is needed'
    assert problem.log_lines == ('invalid value "v" for parameter k in configuration (f:3)',)


LINES = st.sampled_from(
    ["[s]", "[", "]", '"', "a", "=", "%include ", "%include x", " ", ";", "#", "\n", "\r", "\0", "é"]
)


@given(st.lists(LINES | st.text(max_size=8), max_size=40).map("".join))
def test_any_text_reads_or_leaves_problems(text: str) -> None:
    ini = parse(text, "f", lambda path: "y=1")
    lines = text.count("\n") + 1
    assert all(1 <= item.line <= lines for item in (*ini.items, *ini.problems))


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["[", "[]", '"', '""', "a", "%include ", "=", " ", "a="])
def test_one_long_line_is_read_once(piece: str) -> None:
    parse(piece * 200_000, "f", lambda path: "")


@pytest.mark.slow
def test_of_very_many_problems_the_first_are_told_and_the_others_counted() -> None:
    with pytest.raises(ConfigError) as refused:
        whole.parse("[pgbouncer]\n" + "nonsense = 1\n" * 10_000)
    assert len(refused.value.problems) == MOST_PROBLEMS + 1
    assert refused.value.problems[-1].message == "problems: 9900 more"
