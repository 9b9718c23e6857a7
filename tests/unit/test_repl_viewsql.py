"""SELECT over views: what is answered, what is refused, and that only named views are asked for."""

from __future__ import annotations

import pytest

from admin.repl import viewsql
from admin.repl.viewsql import INT4, INT8, NUMERIC, TEXT, Limits, Relation, SqlError, select

POOLS = Relation(
    (("database", TEXT), ("user", TEXT), ("cl_waiting", INT4)),
    [("app", "alice", 3), ("app", "bob", 2), ("billing", "alice", 0)],
)
NO_LIMITS = Limits()
STATS = Relation((("database", TEXT), ("total_xact_count", NUMERIC)), [("app", 12), ("billing", 0)])


def answer(sql: str, *params: object, asked: list[str] | None = None, limits: Limits = NO_LIMITS) -> Relation:
    def source(name: str) -> Relation | None:
        if asked is not None:
            asked.append(name)
        return {"pools": POOLS, "stats": STATS}.get(name)

    return select(sql, source, params, limits=limits)


def test_groups_sorts_and_filters() -> None:
    found = answer(
        "SELECT database, sum(cl_waiting) FROM pools GROUP BY database HAVING sum(cl_waiting) > 0 ORDER BY 2 DESC"
    )
    assert found.columns == (("database", TEXT), ("sum(cl_waiting)", INT8))
    assert list(found.rows) == [("app", 5)]


def test_asks_only_for_the_views_it_names() -> None:
    asked: list[str] = []
    answer("SELECT 1", asked=asked)
    assert asked == []
    answer("SELECT * FROM public.POOLS p JOIN stats USING (database)", asked=asked)
    assert sorted(asked) == ["pools", "stats"]


def test_takes_parameters() -> None:
    found = answer("SELECT user FROM pools WHERE cl_waiting = $1 AND database = $2", 2, "app")
    assert list(found.rows) == [("bob",)]


def test_habits_of_postgresql() -> None:
    found = answer("SELECT user::text, sum(cl_waiting)::int FROM pools WHERE user ILIKE 'ALI%' AND '::x' <> 'ILIKE'")
    assert list(found.rows) == [("alice", 3)]


def test_types_are_those_of_the_columns_even_without_rows() -> None:
    found = answer("SELECT cl_waiting, user, 1.5 AS share FROM pools WHERE 0")
    assert [oid for _, oid in found.columns] == [INT8, TEXT, TEXT]
    found = answer("SELECT total_xact_count, 1.5 FROM stats")
    assert [oid for _, oid in found.columns] == [NUMERIC, viewsql.FLOAT8]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT nosuch FROM pools", "42703"),
        ("SELECT database FROM pools JOIN stats ON 1", "42702"),
        ("SELECT frobnicate(1)", "42883"),
        ("SELEC 1", "42601"),
        ("SELECT 1; SELECT 2", "42601"),
        ("DELETE FROM pools", "25006"),
        ("WITH x AS (SELECT 1) DELETE FROM pools", "25006"),
        ("CREATE TABLE t (a)", "25006"),
        ("ATTACH '/tmp/x' AS y", "25006"),
        ("PRAGMA user_version = 3", "25006"),
        ("SELECT load_extension('x')", "25006"),
        ("SELECT * FROM pragma_database_list", "25006"),
        ("VACUUM INTO '/tmp/x'", "25006"),
        ("SELECT $1", "08P01"),
        ("SELECT zeroblob(1000000000)", "42601"),
    ],
)
def test_refuses_with_a_state(sql: str, sqlstate: str) -> None:
    with pytest.raises(SqlError) as refused:
        answer(sql)
    assert refused.value.sqlstate == sqlstate, refused.value.message
    assert refused.value.message


def test_stops_what_never_ends() -> None:
    with pytest.raises(SqlError) as refused:
        answer(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
            limits=Limits(seconds=0.05),
        )
    assert refused.value.sqlstate == "57014"


def test_bounds_the_rows() -> None:
    with pytest.raises(SqlError, match="LIMIT"):
        answer("SELECT * FROM pools", limits=Limits(rows=2))
    assert len(answer("SELECT * FROM pools LIMIT 2", limits=Limits(rows=2)).rows) == 2


@pytest.mark.parametrize(
    ("statement", "select_"),
    [
        ("SHOW POOLS WHERE cl_waiting > 0", "SELECT * FROM POOLS WHERE cl_waiting > 0"),
        ("show pools order by 1", "SELECT * FROM pools order by 1"),
        ("show pools\nlimit 3", "SELECT * FROM pools limit 3"),
        ("SHOW POOLS", None),
        ("SHOW POOLS wherever", None),
        ("PAUSE app", None),
    ],
)
def test_shorthand(statement: str, select_: str | None) -> None:
    assert viewsql.from_shorthand(statement) == select_
