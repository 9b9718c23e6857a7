"""What a text may leave behind: the words that matter, wherever they hide, and nothing where they do not matter."""

from __future__ import annotations

import pytest

from pooler import wire
from pooler.touches import (
    ALL,
    DRAWS,
    FORGETS,
    LARGE_OBJECTS,
    MAY_LEAD,
    MOST_NAMES,
    NAMED_LATER,
    RECALLS,
    REDEFINES,
    SETS,
    SETS_ONE,
    SHOWN,
    STRAYS,
    Held,
    Touch,
    bound_names,
    judge,
    judge_body,
    judge_call,
)

NOTHING = [
    "",
    "-- SET x = 1",
    "SELECT 1",
    "UPDATE t SET x = 1 WHERE y = 'SET z'",
    "SET LOCAL work_mem = '1MB'",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "SELECT set_config('work_mem', '1MB', true)",
    "SELECT pg_advisory_xact_lock(1)",
    "DECLARE c CURSOR FOR SELECT 1",
    "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
    "PREPARE TRANSACTION 'x'",
    "SELECT 'SET x = 1; RESET ALL'",
    "INSERT INTO t VALUES ('create temp table x()')",
    "CLOSE c",
    "SELECT setting FROM pg_settings WHERE name = 'update'",
    "SELECT temperature, attempt FROM template",
    "SELECT currval, r.lastval AS currval FROM rates r ORDER BY currval",
]
SETTINGS = [
    ("SET work_mem = '1MB'", "work_mem"),
    ("SET SESSION work_mem TO 1", "work_mem"),
    ("set /* a */ Work_Mem = 1", "work_mem"),
    ("/* one /* nested */ */ -- two\n SET work_mem = 1", "work_mem"),
    ('SET "work_mem" = 1', "work_mem"),
    ("SET my.var = 'x'", "my.var"),
    ("SET TIME ZONE 'UTC'", "timezone"),
    ("SET NAMES 'utf8'", "client_encoding"),
    ("SET SCHEMA 'a'", "search_path"),
    ("SET XML OPTION document", "xmloption"),
    ("SELECT 1; SET work_mem = 1", "work_mem"),
    ("-- one\rSET work_mem = 1", "work_mem"),
    ("SET my.var TO none", "my.var"),
    ("SET É.x = 1", "É.x"),
    ("SELECT $€$ ' $€$; SET work_mem = 1 --'", "work_mem"),
    ("SELECT 1 AS x\u00a0$a$; SET work_mem = 1; SELECT 1 AS y\u00a0$a$", "work_mem"),
    ("SELECT set_config('Work_Mem', $1, false)", "work_mem"),
    ("SELECT pg_catalog.set_config('my.var'::text, repeat('x', 3), false)", "my.var"),
    ("WITH a AS (SELECT set_config($$my.var$$, 'x', false)) SELECT 1", "my.var"),
]


def test_each_kind_has_the_statement_that_makes_it_first() -> None:
    touch = judge(b"RESET a; SET b = 1; LISTEN c; SET d = 2; CREATE TEMP TABLE e (); LISTEN f")
    assert touch is not None
    assert touch.statement == "RESET a"
    found = {kind: touch.said(kind) for kind in (Held.SETTING, Held.LISTEN, Held.TEMP)}
    assert found == {Held.SETTING: "SET b = ?", Held.LISTEN: "LISTEN c", Held.TEMP: "CREATE TEMP TABLE e ()"}
    assert touch.said(Held.LOCK) == "RESET a"


def test_an_update_of_the_settings_sets() -> None:
    touch = judge(b"UPDATE pg_settings SET setting = 'x' WHERE name = 'a'")
    assert touch is not None
    assert (touch.kinds, touch.looks & Held.UNSEEN) == (Held.SETTING, Held.UNSEEN)


@pytest.mark.parametrize("text", NOTHING)
def test_nothing(text: str) -> None:
    assert judge(text.encode()) is None


@pytest.mark.parametrize(("text", "name"), SETTINGS)
def test_settings_by_name(text: str, name: str) -> None:
    found = judge(text.encode())
    assert found is not None
    assert (found.kinds, found.looks & ~NAMED_LATER) == (Held.SETTING, Held.SETTING)
    assert found.names == {name}
    assert not found.resets


VALUED: dict[str, set[str]] = {
    "SELECT set_config('Work_Mem', $1, false)": {"1 work_mem"},
    "SELECT $1::int, set_config('a.b'::text, ($2)::pg_catalog.text, $3)": {"2 a.b"},
    "SELECT set_config($2, $1::character varying, false)": {"1 $2"},
    "SELECT set_config('a', $1, false), set_config('b', $2, false), set_config('a', $3, false)": {"3 a", "2 b"},
    "SELECT set_config('a', $1, false), set_config('a', 'x', false)": set(),
    "SELECT set_config('a', $1, true)": set(),
    "SELECT set_config('a', $1 || 'x', false)": set(),
    "SELECT set_config('a', $1::text || 'x', false)": set(),
    "SELECT set_config('a', coalesce($1, 'x'), false)": set(),
    "SELECT set_config('a' || $1, $2, false)": set(),
}


@pytest.mark.parametrize("text", VALUED)
def test_what_a_null_puts_back(text: str) -> None:
    found = judge(text.encode())
    assert found is None or found.valued == VALUED[text]
    if not VALUED[text]:
        return
    assert found is not None
    assert found.looks & NAMED_LATER
    by_number = {int(number): name for number, _, name in (each.partition(" ") for each in found.valued)}
    given = ["Work_Mem", "work_mem", "x"]
    for number, name in by_number.items():
        values = [None if at == number else value for at, value in enumerate(given, 1)]
        assert bound_names(found, wire.bind("", "", values)).resets == {"work_mem" if name[0] == "$" else name}
    assert bound_names(found, wire.bind("", "", given)) is found
    assert bound_names(found, wire.bind("", "", [])) is found


@pytest.mark.parametrize(
    ("text", "names", "resets"),
    [
        ("RESET work_mem", {"work_mem"}, {"work_mem"}),
        ("SET work_mem TO DEFAULT", {"work_mem"}, {"work_mem"}),
        ("SET LOCAL work_mem = 1; RESET ALL", set(), {ALL}),
        ("RESET ROLE", {"role"}, {"role"}),
        ("SET ROLE NONE", {"role"}, {"role"}),
        ("RESET SESSION AUTHORIZATION", {"session_authorization"}, {"session_authorization"}),
        ("DISCARD ALL", set(), {ALL, "role", "session_authorization"}),
        ("SELECT pg_advisory_unlock_all()", set(), set()),
    ],
)
def test_what_is_put_back_is_looked_at_and_makes_nothing(text: str, names: set[str], resets: set[str]) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.kinds == 0
    assert found.looks
    assert found.names == names
    assert found.resets == resets


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SET ROLE alice", Held.ROLE),
        ("SET SESSION AUTHORIZATION alice", Held.ROLE),
        ("SELECT set_config('role', 'alice', false)", Held.ROLE),
        ("PREPARE p AS SELECT 1", Held.PREPARE),
        ("SELECT pg_advisory_lock(1)", Held.LOCK),
        ("SELECT pg_try_advisory_lock_shared(1, 2)", Held.LOCK),
        ("CREATE TEMP TABLE t ()", Held.TEMP),
        ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Held.TEMP),
        ("SELECT 1 INTO TEMP t", Held.TEMP),
        ("CREATE TABLE pg_temp.t ()", Held.TEMP),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Held.HOLD),
        ("LISTEN foo", Held.LISTEN),
        ("SELECT currval('s')", Held.SEQUENCE),
        ("SELECT currval /* x */\n('s')", Held.SEQUENCE),
        ("SELECT \"currval\"('s')", Held.SEQUENCE),
        ("SELECT ('s'::regclass).currval", Held.SEQUENCE),
        ("LOAD 'auto_explain'", Held.LOAD),
        ("DO $$ begin end $$", Held.UNSEEN),
        ("CALL p()", Held.UNSEEN),
        ("EXECUTE p", Held.UNSEEN),
        ("SELECT set_config($1, $2, false)", Held.UNSEEN),
        ("SELECT set_config(U&'work\\005fmem', '1', false)", Held.UNSEEN),
        (r"SELECT '\'; SET x = 1; --'", Held.UNSEEN),
        ('SELECT U&"set\\005fconfig"($1, $2, false)', Held.UNSEEN),
        ("SET x = 'open", Held.UNSEEN),
    ],
)
def test_kinds(text: str, kind: Held) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.kinds & kind
    assert found.looks & kind


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        ("SELECT nextval('s')", DRAWS),
        ("SELECT setval('s', 1)", DRAWS | SETS_ONE),
        ("SELECT setval('s', greatest(1, 2))", DRAWS | SETS_ONE),
        ("SELECT setval('s', 1, true)", DRAWS | SETS),
        ("SELECT \"setval\"('s', 1, false)", DRAWS | SETS),
        ("SELECT setval('s', (SELECT max(x) FROM t), (SELECT true))", DRAWS | SETS),
        ("SELECT setval FROM t", DRAWS | SETS),
        ("SELECT setval('s', 1", DRAWS | SETS),
        ("TRUNCATE t RESTART IDENTITY", SETS),
        ("SELECT lastval()", RECALLS | Held.SEQUENCE),
        ("INSERT INTO t VALUES (currval('s'))", RECALLS | Held.SEQUENCE),
        ("INSERT INTO t VALUES (1); SELECT currval('s')", Held.SEQUENCE),
        ("SELECT nextval('s'), currval('s')", DRAWS | Held.SEQUENCE),
        ("SELECT lastval(); SELECT nextval('s')", DRAWS | RECALLS | Held.SEQUENCE),
        ("SELECT 'nextval', \"insert\", lastval()", RECALLS | Held.SEQUENCE),
        ("DO $$ BEGIN PERFORM lastval(); END $$", DRAWS | RECALLS | Held.SEQUENCE | Held.UNSEEN),
        ("DO $$ BEGIN INSERT INTO t VALUES (1); PERFORM lastval(); END $$", DRAWS | Held.SEQUENCE | Held.UNSEEN),
    ],
)
def test_what_draws_from_sequences_and_what_tells_of_it(text: str, looks: int) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.looks == looks


@pytest.mark.parametrize(
    ("text", "makes"),
    [
        ("SELECT 1 AS x INTO t", True),
        ("WITH a AS (SELECT 1) SELECT * INTO TEMP t FROM a", True),
        ("/* x */ (SELECT 1 INTO t)", True),
        ("CREATE TABLE IF NOT EXISTS t AS SELECT 1", True),
        ("create unlogged table t as table u", True),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1", True),
        ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", True),
        ("EXPLAIN ANALYZE SELECT 1 INTO t", True),
        ("CREATE TABLE t (x int)", False),
        ("CREATE VIEW t AS SELECT 1", False),
        ("SELECT ' into ', \"into\" FROM t", False),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING x) SELECT * FROM a", False),
        ("INSERT INTO t SELECT 1", False),
    ],
)
def test_what_makes_a_table_and_says_that_it_was_a_select(text: str, makes: bool) -> None:
    found = judge(text.encode())
    assert bool(found and found.looks & REDEFINES) == makes


def test_an_insert_in_a_cte_draws() -> None:
    found = judge(b"WITH a AS (INSERT INTO t VALUES (1) RETURNING x) SELECT * FROM a")
    assert found is not None
    assert (found.kinds, found.looks) == (0, DRAWS)
    assert judge(b"INSERT INTO t VALUES (1)") is None


def test_a_body_that_selects_into_a_variable_is_not_watched_for() -> None:
    assert judge_body("BEGIN SELECT x INTO y FROM t; END") is None


@pytest.mark.parametrize(
    ("text", "strays"),
    [
        ("SET LOCAL search_path = a", True),
        ("SET LOCAL SCHEMA 'a'", True),
        ("SET LOCAL ROLE a", True),
        ("SET LOCAL SESSION AUTHORIZATION a", True),
        ("SET LOCAL work_mem = 1", False),
        ("SELECT set_config('Search_Path', 'a', true)", True),
        ("SELECT set_config($1, 'a', true)", True),
        ("SELECT set_config('work_mem', '1', true)", False),
    ],
)
def test_what_changes_the_meaning_of_texts_for_a_transaction(text: str, strays: bool) -> None:
    found = judge(text.encode())
    assert bool(found and found.looks & STRAYS) == strays


def test_code_that_may_deallocate() -> None:
    for text in ("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$", "DO 'BEGIN deallocate all; END'"):
        found = judge(text.encode())
        assert found is not None
        assert found.looks & FORGETS
    for body in ("BEGIN DEALLOCATE ALL; END", "BEGIN EXECUTE 'Deallocate ' || 'all'; END"):
        found = judge_body(body)
        assert found is not None
        assert found.looks & FORGETS
        assert found.looks & Held.PREPARE
    assert judge(b"DEALLOCATE ALL") is None


def test_a_body_that_draws_only_is_not_watched_for() -> None:
    assert judge_body("BEGIN INSERT INTO t VALUES (nextval('s')); END") is None
    assert judge_body("SELECT currval FROM rates") is None
    assert judge_body("SELECT sequence.currval") is not None
    found = judge_body("SELECT lastval()")
    assert found is not None
    assert found.looks == RECALLS | Held.SEQUENCE


def test_code_gives_hints_of_names() -> None:
    found = judge(b"DO $x$ begin perform set_config('my.a', '1', false); set my.b = 1; set session my.c to 2; end $x$")
    assert found is not None
    assert found.names == {"my.a", "my.b", "my.c"}


def test_constants_do_not_show_and_the_first_statement_that_matters_does() -> None:
    found = judge(b"SELECT 'hunter1'; SET my.password = 'hunter2'; LISTEN x")
    assert found is not None
    assert found.statement == "SET my.password = ?"
    long = judge(b"SET search_path = " + b", ".join(b"schema_%d" % n for n in range(1000)))
    assert long is not None
    assert len(long.statement) == SHOWN


def test_more_names_than_can_be_asked_for_are_a_reason_to_look_at_everything() -> None:
    found = judge(b"; ".join(b"SET my.v%d = 1" % n for n in range(MOST_NAMES + 1)))
    assert found is not None
    assert found.kinds & Held.UNSEEN
    assert len(found.names) == MOST_NAMES


@pytest.mark.parametrize(
    ("text", "resets"),
    [
        ("RESET work_mem; SET work_mem = 1", set()),
        ("SET work_mem = 1; RESET work_mem", {"work_mem"}),
        ("RESET ALL; SET work_mem = 1", {ALL}),
        ("SET work_mem = 1; RESET ALL", {ALL, "work_mem"}),
        ("SET search_path TO none", set()),
        ("SET TIME ZONE LOCAL", {"timezone"}),
    ],
)
def test_what_was_put_back_last(text: str, resets: set[str]) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.resets == resets


@pytest.mark.parametrize(
    ("text", "kinds", "looks"),
    [
        ("SET LOCAL search_path = a, pg_temp", Held.TEMP, Held.TEMP),
        ("SET LOCAL search_path = 'PG_TEMP_3'", Held.TEMP, Held.TEMP),
        ("SET LOCAL search_path = U&'pg\\005ftemp'", 0, Held.TEMP),
        ("SELECT set_config('search_path', $1, true)", 0, Held.TEMP),
        ("SELECT set_config($1, 'x', true)", 0, 0),
        ("SELECT set_config('search_path', 'a, b', true)", 0, 0),
        ('SET LOCAL search_path = a, "B"', 0, 0),
    ],
)
def test_a_path_of_the_transaction_may_lead_to_temporary_tables(text: str, kinds: int, looks: int) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.looks & STRAYS
    assert (found.kinds, found.looks & ~(MAY_LEAD | STRAYS)) == (kinds, looks)
    assert found.kinds or bool(found.looks & MAY_LEAD) == bool(looks)


@pytest.mark.parametrize(
    "text",
    [
        "EXPLAIN ANALYZE EXECUTE p",
        "CREATE TABLE t AS EXECUTE p",
        "SELECT query_to_xml('SELECT set_config(''a.b'', ''x'', false)', true, false, '')",
        "SELECT * FROM ts_stat($1)",
        "SELECT schema_to_xml('s', true, false, '')",
        "SELECT table_to_xml_and_xmlschema($1, true, false, '')",
        "SELECT set_config('a' || '.b', 'x', false)",
    ],
)
def test_what_runs_a_text_is_code(text: str) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.kinds & Held.UNSEEN


def test_a_function_called_by_its_number_is_code() -> None:
    assert all(judge_call(number) is None for number in LARGE_OBJECTS)
    assert judge_call(2078) == Touch(Held.UNSEEN, Held.UNSEEN, "(function 2078)")
    for recalls in (1575, 2559):
        called = judge_call(recalls)
        assert called is not None
        assert called[:2] == (Held.SEQUENCE, Held.SEQUENCE | RECALLS)


def test_names_that_come_with_the_values() -> None:
    touch = judge(b"SELECT set_config($1, $2, false)")
    assert touch is not None
    assert touch.looks & NAMED_LATER
    message = wire.bind("", "", ["My.Var", "x", None, "other"])
    assert bound_names(touch, message).names == {"my.var"}
    for cut in range(len(message)):
        assert bound_names(touch, message[:cut]).names <= {"my.var"}
    for changed in range(5, len(message)):
        bound_names(touch, message[:changed] + b"\xff" + message[changed + 1 :])


@pytest.mark.parametrize(
    ("text", "silenced"),
    [
        ("UNLISTEN foo", {"foo"}),
        ('unlisten FOO; UNLISTEN "Bar x"', {"foo", "Bar x"}),
        ("UNLISTEN *", {ALL}),
        ("DISCARD ALL", {ALL}),
        ("UNLISTEN " + "x" * 70, {"x" * 63}),
        ("LISTEN foo", set()),
        ("UNLISTEN É", {"É"}),
    ],
)
def test_channels_that_are_no_longer_listened_to(text: str, silenced: set[str]) -> None:
    found = judge(text.encode())
    assert found is not None
    assert found.looks & Held.LISTEN
    assert found.silences == silenced
