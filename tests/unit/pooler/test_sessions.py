"""What a look says of a session, and what makes another server the same; a real server answers in the system tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pooler import sessions
from pooler.sessions import PREPARED, Row, Values, alignment, question, settled
from pooler.touches import ALL, Held, Touch, judge

NONE: frozenset[bytes] = frozenset()


def touch(text: str) -> Touch:
    found = judge(text.encode())
    assert found is not None
    return found


def one(name: bytes, value: bytes | None) -> tuple[bytes | None, ...]:
    return b"1", name, value


def test_a_value_is_the_servers() -> None:
    found = settled((), [one(b"work_mem", b"1MB")], [touch("SET work_mem = 1024")], (), NONE, False)
    assert found == ((b"work_mem", b"1MB"), (b"work_mem", b"1MB"), 0)


def test_what_the_server_reports_by_itself_is_left_out() -> None:
    rows = [one(b"timezone", b"UTC")]
    found = settled((), rows, [touch("SET timezone = 'UTC'")], (), frozenset({b"timezone"}), False)
    assert found == ((), (), 0)


@pytest.mark.parametrize(("now", "left"), [(b"4MB", ()), (b"1MB", (b"work_mem", b"1MB"))])
def test_a_reset_that_was_rolled_back_has_changed_nothing(now: bytes, left: tuple[bytes, ...]) -> None:
    found = settled((b"work_mem", b"1MB"), [one(b"work_mem", now)], [touch("RESET work_mem")], (), NONE, False)
    assert found == (left, left, 0)


def test_a_reset_gives_the_client_its_startup_values_again() -> None:
    before, base = (b"work_mem", b"1MB"), (b"work_mem", b"2MB")
    for text in ("RESET ALL", "RESET work_mem", "DISCARD ALL"):
        there, wanted, _ = settled(before, [one(b"work_mem", b"4MB")], [touch(text)], base, NONE, False)
        assert (there, wanted) == ((), base), text
    undone = [one(b"work_mem", b"1MB"), (b"512", b"work_mem", b"1024")]
    there, wanted, _ = settled(before, undone, [touch("RESET ALL")], base, NONE, True)
    assert there == wanted == (b"work_mem", b"1024")
    assert settled(before, [one(b"work_mem", b"4MB")], [touch("RESET ALL")], base, NONE, True)[:2] == ((), base)


def test_no_role_is_no_role() -> None:
    found = settled((b"role", b"alice"), [one(b"role", b"none")], [touch("RESET ROLE")], (), NONE, False)
    assert found == ((), (), 0)


def test_what_pins() -> None:
    rows: list[tuple[bytes | None, ...]] = [(b"8", None, None), (b"16", None, None)]
    assert settled((), rows, [touch("DO ''")], (), NONE, False)[2] == Held.LOCK | Held.TEMP
    assert settled((), [], [touch("LOAD 'x'")], (), NONE, False)[2] == Held.LOAD
    path = one(b"search_path", b"pg_temp, public")
    assert settled((), [path], [touch("SET search_path = pg_temp")], (), NONE, False)[2] == Held.TEMP


def test_a_look_at_everything_replaces_all_but_names_of_ones_own() -> None:
    before = (b"my.var", b"x", b"work_mem", b"1MB")
    there, _, _ = settled(before, [(b"512", b"DateStyle", b"ISO")], [touch("CALL p()")], (), NONE, False)
    assert there == (b"*", b"", b"datestyle", b"ISO", b"my.var", b"x")


def test_alignment_takes_on_a_role_last_and_drops_it_first() -> None:
    sql = alignment((b"my.var", b"a'b\\", b"role", b"al"), (b"role", b"bob", b"work_mem", b"1MB"), b"SET x=1;")
    assert sql == (
        b"RESET ROLE;RESET \"work_mem\";SET x=1;SELECT pg_catalog.set_config('my.var', E'a''b\\134',false);"
        b"SELECT pg_catalog.set_config('role','al',false);"
    )
    assert alignment((b"a", b"1"), (b"a", b"1"), b"") == b""


def test_doubt_is_a_value_that_nobody_wants() -> None:
    there = sessions.doubted((b"a", b"1", b"b", b"2"))
    assert alignment((b"a", b"1"), there, b"") == b"RESET \"b\";SELECT pg_catalog.set_config('a','1',false);"


def test_tracked_ones_that_no_server_reports_have_one_place() -> None:
    joined = sessions.joined((b"my.var", b"x"), {b"search_path": 1}, (b"UTF8", b"public"))
    assert joined == (b"my.var", b"x", b"search_path", b"public")
    assert sessions.parted(joined, (b"UTF8", None), {b"search_path": 1}) == ((b"my.var", b"x"), (b"UTF8", b"public"))


def test_tracked_ones_after_a_reset() -> None:
    names = (b"client_encoding", b"DateStyle", b"TimeZone")
    now, base = (b"UTF8", b"ISO", b"UTC"), (b"LATIN1", b"SQL", None)

    def after(text: str, rows: Sequence[Row] = (), *, undone: bool = False) -> Values:
        return sessions.restored(now, base, names, [touch(text)], rows, undone)

    assert after("RESET datestyle") == (b"UTF8", b"SQL", b"UTC")
    assert after("RESET ALL") == (b"LATIN1", b"SQL", b"UTC")
    assert after("RESET ALL; SET datestyle = 1") == (b"LATIN1", b"ISO", b"UTC")
    assert after("SET datestyle = 1") == now
    there = [(b"512", name, b"") for name in names]
    assert after("RESET ALL", there, undone=True) == after("DO ''", there) == now
    assert after("RESET ALL", there[1:], undone=True) == (b"LATIN1", b"ISO", b"UTC")


@pytest.mark.parametrize("text", ["RESET work_mem; SET work_mem = '7MB'", "RESET ALL; SET work_mem = '7MB'"])
def test_what_is_set_behind_a_reset_is_there(text: str) -> None:
    left = (b"work_mem", b"7MB")
    for touches in ([touch(text)], [touch(part) for part in text.split(";")]):
        assert settled((), [one(b"work_mem", b"7MB")], touches, (), NONE, False)[:2] == (left, left)
    back = [touch(part) for part in reversed(text.split(";"))]
    assert settled(left, [one(b"work_mem", b"4MB")], back, (), NONE, False)[:2] == ((), ())


def test_names_that_nobody_knows_are_taken_back_from_everybody_else() -> None:
    there, wanted, _ = settled((), [], [touch("DO ''")], (), NONE, False, b"7")
    assert there == wanted == (b"*", b"7")
    assert alignment((), there, b"") == b"RESET ALL;"
    assert alignment((b"*", b"8", b"a", b"1"), there, b"") == b"RESET ALL;SELECT pg_catalog.set_config('a','1',false);"
    assert alignment(there, (b"a", b"1"), b"") == b'RESET "a";'
    assert settled(there, [], [touch("RESET ALL")], (), NONE, False, b"7")[0] == ()
    assert settled(there, [], [touch("SET a = 1")], (), NONE, False, b"7")[0] == there


def test_by_whose_right_is_put_back_first_and_taken_on_last() -> None:
    user = b"session_authorization"
    assert alignment((user, b"al", b"zz", b"1"), (b"aa", b"1", user, b"bob"), b"") == (
        b"RESET ROLE;RESET SESSION AUTHORIZATION;RESET \"aa\";SELECT pg_catalog.set_config('zz','1',false);"
        b"SELECT pg_catalog.set_config('session_authorization','al',false);"
    )
    assert alignment((), (), b"", b"al").startswith(b"RESET ROLE;RESET SESSION AUTHORIZATION;SELECT")


def test_values_travel_as_the_servers_bytes() -> None:
    there, _, _ = settled((), [one(b"my.var", b"\\303\\251\\\\")], [touch("SET my.var = 'x'")], (), NONE, False)
    assert there == (b"my.var", b"\xc3\xa9\\")
    assert alignment(there, (), b"") == b"SELECT pg_catalog.set_config('my.var', E'\\303\\251\\134',false);"


def test_nothing_to_ask() -> None:
    assert question(Held.SEQUENCE, []) == b""
    assert b"session_authorization" in question(Held.ROLE, [])
    assert b"session_authorization" not in question(Held.ROLE, ["session_authorization"], reported=True)
    assert b"pg_locks" in question(Held.LOCK, [])
    assert all(word in question(Held.UNSEEN, []) for word in (b"pg_locks", b"pg_settings", b"pg_cursors"))


def test_a_refusal_says_what_and_what_to_do() -> None:
    said = sessions.refusal(Held.LOCK, "select pg_advisory_lock(?)", True)
    assert b"C0A000\0" in said
    assert b"advisory_lock" in said
    assert b"session_state = refuse" in said
    assert b"max_pinned" in sessions.refusal(Held.LOCK, "", False)
    assert b"C55000\0" in sessions.refusal(Held.SEQUENCE, "select lastval()", False)
    assert b"C0A000\0" in sessions.refusal(Held.SEQUENCE, "select lastval()", True)


def test_startup_values_are_a_session() -> None:
    assert sessions.startup_session({"work_mem": "1MB", "Geqo": "off"}) == (b"geqo", b"off", b"work_mem", b"1MB")


def test_channels_are_told_apart_from_all_else() -> None:
    assert b"pg_listening_channels" in sessions.question(Held.LISTEN, [])
    assert b"pg_listening_channels" in sessions.question(Held.UNSEEN, [])
    rows = [(b"8", None, None), (b"64", b"foo", None), (b"64", b"bar", None)]
    assert sessions.channels(rows) == (rows[:1], [b"foo", b"bar"])


def test_what_is_still_listened_to() -> None:
    there = {b"foo", b"bar"}
    one, every = (Touch(0, Held.LISTEN, "", silences=frozenset({name})) for name in ("foo", ALL))
    assert sessions.still_heard(there, [one], False) == {b"bar"}
    assert sessions.still_heard(there, [one], True) == there
    assert sessions.still_heard(there, [every], False) == set()
    assert sessions.still_heard(there, [], False) == there


PLAIN = b"PREPARE p AS SELECT 1"


@pytest.mark.parametrize(
    ("name", "statement", "text"),
    [
        (b"p", PLAIN, PLAIN),
        (b"p", b"select 2; /* x */ prepare P(int) as select $1 ; select 3", b"prepare P(int) as select $1"),
        (b"a b", b'PREPARE "a b" AS SELECT 1;', b'PREPARE "a b" AS SELECT 1'),
        # Which of the two it is nobody can tell; or that it is one.
        (b"p", b"PREPARE p AS SELECT 1; DEALLOCATE p; PREPARE p AS SELECT 2", None),
        (b"p", b"SELECT make_it()", None),
        (b"P", PLAIN, None),
        # What reads otherwise by other settings, and what is not read at all.
        (b"p", b"PREPARE p AS SELECT '\\'", None),
        (b"p", b"PREPARE p AS SELECT U&'x'", None),
        (b"p", b"PREPARE p AS SELECT '\xc3\xa9'", None),
        (b"\xc3\xa9", b"PREPARE \xc3\xa9 AS SELECT 1", None),
        (b"p", b"PREPARE p AS SELECT '", None),
        # A name of ours.
        (b"PGBOUNCER_1", b'PREPARE "PGBOUNCER_1" AS SELECT 1', None),
    ],
)
def test_a_statement_of_prepare_follows_where_its_text_is_certain(
    name: bytes, statement: bytes, text: bytes | None
) -> None:
    found = sessions.followed_statements([(name, statement)], 10)
    assert found == (None if text is None else {PREPARED + name: text})


def test_where_one_of_them_cannot_follow_none_does() -> None:
    assert sessions.followed_statements([], 0) == {}
    assert sessions.followed_statements([(b"p", PLAIN), (b"q", b"SELECT make_it()")], 10) is None


def test_no_more_statements_follow_than_may() -> None:
    made = [(b"p%d" % n, b"PREPARE p%d AS SELECT 1" % n) for n in range(3)]
    assert sessions.followed_statements(made, 2) is None
    assert len(sessions.followed_statements(made, 3) or ()) == 3
    half = b"PREPARE %s AS SELECT '" + b"x" * (sessions.MOST_PREPARED_BYTES // 2) + b"'"
    assert sessions.followed_statements([(b"p", half % b"p")], 3)
    assert sessions.followed_statements([(b"p", half % b"p"), (b"q", half % b"q")], 3) is None


def test_what_could_not_be_made_its_client_still_has() -> None:
    p, q = PREPARED + b"p", PREPARED + b"q"
    before = (p, PLAIN, q, b"PREPARE q AS SELECT 2", b"work_mem", b"1MB")
    wanted = (q, b"PREPARE q AS SELECT 3", b"work_mem", b"2MB")
    assert sessions.with_unmade(wanted, before, [b"p"]) == (p, PLAIN, *wanted)
    assert sessions.with_unmade(wanted, before, []) == wanted
    # What it has made anew by that name counts; of a name that it never had there is nothing.
    assert sessions.with_unmade(wanted, before, [b"q", b"r", b"work_mem"]) == wanted
    assert sessions.without((p, PLAIN, *wanted), [b"p"]) == wanted


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("SELECT lastval()", ["pg_catalog.lastval()"]),
        ("select LASTVAL ( ) , lastval()", ["pg_catalog.lastval()"]),
        ("SELECT pg_catalog.currval('a b')", ["pg_catalog.currval('a b')"]),
        ("SELECT currval, r.currval, lastval() FROM rates r", ["pg_catalog.lastval()"]),
        ("SELECT currval('x'::pg_catalog.regclass), 1", ["pg_catalog.currval('x'::pg_catalog.regclass)"]),
        (
            "INSERT INTO t VALUES (currval(pg_get_serial_sequence('t', 'id')), lastval())",
            ["pg_catalog.currval(pg_catalog.pg_get_serial_sequence('t','id'))", "pg_catalog.lastval()"],
        ),
    ],
)
def test_what_is_recalled_by_a_constant_can_be_asked_for(text: str, calls: list[str]) -> None:
    asked = (sessions.asks_whose(text.encode()) or b"").decode()
    assert [part[7:] for part in asked.split("; ") if part.startswith("SELECT pg_catalog.")] == calls
    assert asked.startswith("SAVEPOINT")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT currval($1)",
        "SELECT currval(name) FROM names",
        "SELECT currval('a' || 'b')",
        "SELECT mine.currval('a')",
        "SELECT currval(mine('a'))",
        "SELECT \"currval\"('a')",
        "SELECT currval('a'",
        "SELECT currval('a",
        "SELECT currval",
        "SELECT currval(E'\\'')",
        "SELECT currval('ä')",
        "SELECT currval(U&'a')",
        "SELECT currval, a FROM rates",
        "SELECT lastval::text FROM rates",
        "SELECT (SELECT lastval), ('x')",
        "SELECT r.currval, 1 FROM rates r",
        "SELECT currval('s'::)",
        "SELECT currval('s' 't')",
        "SELECT currval('s'\n't')",
        "SELECT currval(), lastval('s')",
    ],
)
def test_what_is_recalled_by_anything_else_cannot(text: str) -> None:
    assert sessions.asks_whose(text.encode()) is None


def test_whose_is_only_told_by_a_whole_answer() -> None:
    there, lone = b"1,2", b"t"
    assert sessions.is_drawn_here([(there, lone), (b"5",), (there, lone)])
    assert not sessions.is_drawn_here([(there, lone), (b"5",), (b"1,2,3", lone)])
    assert not sessions.is_drawn_here([(there, lone)])
    assert not sessions.is_drawn_here([(there, lone), (b"5",)])
    assert not sessions.is_drawn_here([])
    said = b"E\0\0\0\x20SERROR\0VERROR\0C55000\0Mx\0\0"
    assert sessions.draws_nothing([(there, b"t")], said)
    assert not sessions.draws_nothing([(there, b"f")], said)
    assert not sessions.draws_nothing([], said)
    assert not sessions.draws_nothing([(there, b"t")], said.replace(b"55000", b"42501"))
