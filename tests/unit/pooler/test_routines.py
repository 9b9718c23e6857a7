"""What is asked about a database's code, and what is made of the answers: bodies, names, the order of questions. That
the server answers so is tests/system/test_session_functions.py.
"""

from __future__ import annotations

import pytest

from pooler.routines import (
    LONGEST_SOURCE,
    MOST_NAMES,
    Code,
    Inquiry,
    callers,
    changes,
    judge_source,
    patterns,
    read_callers,
    sources,
    watched,
)
from pooler.sessions import Row
from pooler.touches import Effect, Held, Touch, judge

NOTHING = [
    "BEGIN RETURN 1; END",
    "BEGIN UPDATE t SET x = 1; END",
    "BEGIN UPDATE t\n SET x = 1; END",
    "BEGIN PERFORM set_config('my.user', 'x', true); END",
    "BEGIN SET LOCAL work_mem = 1; END",
    "BEGIN PERFORM pg_advisory_xact_lock(1); END",
    "BEGIN RAISE NOTICE 'SET ROLE x; LISTEN y'; -- EXECUTE\n END",
    "DECLARE c CURSOR FOR SELECT 1; BEGIN OPEN c; END",
    "SELECT 1",
]
SOMETHING = [
    ("BEGIN SET work_mem = 1; END", Held.SETTING, {"work_mem"}),
    ("BEGIN IF a THEN SET work_mem = 1; ELSE SET ROLE x; END IF; END", Held.SETTING | Held.ROLE, {"work_mem", "role"}),
    ("<<b>> SET work_mem = 1;", Held.SETTING, {"work_mem"}),
    ("BEGIN LOOP SET work_mem = 1; END LOOP; END", Held.SETTING, {"work_mem"}),
    ("BEGIN PERFORM set_config('my.user', 'x', false); END", Held.SETTING, {"my.user"}),
    ("SELECT set_config('my.user', 'x', false)", Held.SETTING, {"my.user"}),
    ("BEGIN PERFORM pg_try_advisory_lock(1); END", Held.LOCK, set()),
    ("BEGIN CREATE TEMP TABLE t (); END", Held.TEMP, set()),
    ("BEGIN LISTEN x; END", Held.LISTEN, set()),
    ("BEGIN EXECUTE 'SET work_mem = 1'; END", Held.UNSEEN, {"work_mem"}),
    ("BEGIN RETURN QUERY EXECUTE x; END", Held.UNSEEN, set()),
    ("BEGIN CALL p(); END", Held.UNSEEN, set()),
    ("BEGIN RESET ALL; END", Held.UNSEEN, set()),
    ("BEGIN PERFORM set_config(n, 'x', false); END", Held.UNSEEN, set()),
    ("BEGIN PERFORM 'no end; END", Held.UNSEEN, set()),
    ("BEGIN PERFORM 'a\\' || ' SET x = 1'; END", Held.UNSEEN, {"x"}),
    ("BEGIN PERFORM set_config('my.\ufffd', 'x', false); END", Held.UNSEEN, set()),
    ("BEGIN PERFORM U&\"set\\005fconfig\"('x', 'y', false); END", Held.UNSEEN, set()),
]


@pytest.mark.parametrize("body", NOTHING)
def test_a_body_that_leaves_nothing(body: str) -> None:
    assert judge_source("plpgsql", body) is None


@pytest.mark.parametrize(("body", "kinds", "names"), SOMETHING)
def test_a_body_that_leaves_something(body: str, kinds: int, names: set[str]) -> None:
    touch = judge_source("plpgsql", body)
    assert touch is not None
    assert touch.kinds & kinds == kinds
    assert names <= touch.names
    assert touch.statement == ""


@pytest.mark.parametrize(
    ("language", "body", "anything"),
    [
        ("plpython3u", "return 1", False),
        ("plpython3u", "plpy.execute('SET ROLE x')", True),
        ("plperl", "return 1;", False),
        ("plperl", "spi_exec_query('x');", True),
        ("c", "set_limit", True),
        ("java", "x", True),
        ("plpgsql", "-- " + "x" * LONGEST_SOURCE, True),
        ("plperl", "x" * (LONGEST_SOURCE + 1), True),
    ],
)
def test_what_is_not_read_may_do_anything(language: str, body: str, anything: bool) -> None:
    assert judge_source(language, body) == (Touch(Held.UNSEEN, Held.UNSEEN, "") if anything else None)


LOCKS = Touch(Held.LOCK, Held.LOCK, "")
SETS = Touch(Held.SETTING, Held.SETTING, "", frozenset({"work_mem"}))


def test_names_are_watched_for_by_what_they_call() -> None:
    rows: list[Row] = [
        (b"1255", b"f", b"0", b"false"),
        (b"1255", b"F", b"1", b"false"),
        (b"1259", b"Held One", b"0", b"true"),
        (b"2620", None, b"0", b"true"),
    ]
    code = read_callers(rows, [LOCKS, SETS])
    assert code.effects == {
        "f": [Effect(LOCKS, False, True), Effect(SETS, False, True)],
        "held one": [Effect(LOCKS, True)],
    }
    assert dict(patterns(code.effects)) == {b"f": False, b"held": True}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((b"2605", None, b"0", b"false"), "a cast"),
        ((b"2617", None, b"0", b"false"), "an operator"),
        ((b"1255", "функция".encode(), b"0", b"false"), "функция"),
    ],
)
def test_what_has_no_name_in_a_text_has_everything_looked_at(row: Row, why: str) -> None:
    code = read_callers([(b"1255", b"f", b"0", b"false"), row], [LOCKS])
    assert why in code.obstacle
    assert code.effects == {}


def test_too_many_names_have_everything_looked_at() -> None:
    rows: list[Row] = [(b"1255", b"f%d" % n, b"0", b"false") for n in range(MOST_NAMES + 1)]
    assert read_callers(rows, [LOCKS]).obstacle
    assert not read_callers(rows[1:], [LOCKS]).obstacle


def test_event_triggers_are_called_by_what_makes_things() -> None:
    assert {"create", "alter", "drop"} <= set(read_callers([(b"3466", None, b"0", b"false")], [LOCKS]).effects)


@pytest.mark.parametrize(
    ("name", "part"), [("f", b"f"), ("Größe_1", b"e_1"), ("a b_c", b"b_c"), ('"', b""), ("é", b""), ("x$y", b"x$y")]
)
def test_the_part_of_a_name_that_is_looked_for(name: str, part: bytes) -> None:
    assert watched(name) == part


EFFECTS = {
    "f": [Effect(LOCKS, False, True)],
    "held": [Effect(SETS, True)],
    "dyn": [Effect(judge(b"DO ''") or LOCKS, False)],
}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("SELECT f()", Held.LOCK),
        ('SELECT "F"(1)', Held.LOCK),
        ("SELECT a . f ( 1 )", Held.LOCK),
        ("SELECT 'f()'", 0),
        ("SELECT ff()", 0),
        ("SELECT f FROM t", 0),
        ("SELECT a.f FROM t AS a", Held.LOCK),
        ("SELECT 1 -- f()", 0),
        ("SELECT * FROM held", 0),
        ("INSERT INTO held VALUES (1)", Held.SETTING),
        ("COPY s.held FROM STDIN", Held.SETTING),
        ("WITH a AS (DELETE FROM held RETURNING f()) SELECT 1", Held.SETTING | Held.LOCK),
        ("SELECT * FROM held; UPDATE t SET x = 1", 0),
    ],
)
def test_a_text_may_leave_what_its_names_leave(text: str, kinds: int) -> None:
    touch = judge(text.encode(), EFFECTS)
    assert (touch.kinds if touch is not None else 0) == kinds
    assert judge(text.encode()) is None


def test_what_a_call_is_given_may_be_a_name() -> None:
    touch = judge(b"SELECT dyn('My.Var', 'x')", EFFECTS)
    assert touch is not None
    assert touch.names == {"my.var"}
    assert touch.statement == "SELECT dyn(?, ?)"


# ---- the order of questions


def nothing() -> None:
    pass


SOURCE_ROWS: list[Row] = [
    (b"1255", b"17000", b"plpgsql", b"BEGIN SET work_mem = 1; END"),
    (b"1255", b"17001", b"plpgsql", b"BEGIN RETURN 1; END"),
    (b"changes", None, None, b"1,2"),
]


def test_an_inquiry_goes_from_sources_to_callers_and_then_asks_for_changes() -> None:
    inquiry = Inquiry()
    assert not inquiry.current
    assert inquiry.begin(1.0) == sources() == inquiry.question
    following = inquiry.answered(SOURCE_ROWS, 2.0, nothing)
    assert following == callers({("1255", "17000"): 0}) == inquiry.question
    assert not inquiry.current
    assert inquiry.answered([(b"1255", b"f", b"0", b"false")], 3.0, nothing) is None
    assert inquiry.current
    assert inquiry.question is None
    assert inquiry.finished == 3.0
    code = inquiry.code
    assert list(code.effects) == ["f"]
    assert inquiry.begin(60.0) == changes()
    assert inquiry.answered([(b"changes", None, None, b"1,2")], 61.0, nothing) is None
    assert inquiry.code is code
    assert inquiry.begin(120.0) == changes()
    assert inquiry.answered([(b"changes", None, None, b"1,3")], 121.0, nothing) == sources()
    assert inquiry.answered(SOURCE_ROWS[1:], 122.0, nothing) is None
    assert inquiry.code == Code({})


def test_what_is_made_meanwhile_is_asked_for_again() -> None:
    inquiry = Inquiry()
    inquiry.begin(1.0)
    inquiry.made()
    inquiry.answered(SOURCE_ROWS[1:], 2.0, nothing)
    assert not inquiry.current
    inquiry.begin(3.0)
    inquiry.answered([(b"changes", None, None, b"1,2")], 4.0, nothing)
    assert inquiry.current


def test_an_inquiry_that_fails_begins_anew() -> None:
    inquiry = Inquiry()
    inquiry.begin(1.0)
    inquiry.answered(SOURCE_ROWS[1:], 2.0, nothing)
    inquiry.begin(3.0)
    inquiry.failed("permission denied", 4.0)
    assert inquiry.code.obstacle == "permission denied"
    assert inquiry.question is None
    assert inquiry.begin(5.0) == sources()


def test_a_body_is_judged_once() -> None:
    inquiry, paces = Inquiry(), []
    inquiry.begin(1.0)
    inquiry.answered(SOURCE_ROWS, 2.0, lambda: paces.append(1))
    inquiry.answered([(b"1255", b"f", b"0", b"false")], 3.0, nothing)
    inquiry.begin(60.0)
    inquiry.answered([(b"changes", None, None, b"1,3")], 61.0, nothing)
    inquiry.answered(SOURCE_ROWS, 62.0, lambda: paces.append(1))
    assert len(paces) == 2
