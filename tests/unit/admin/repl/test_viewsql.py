"""SELECT over views: what is answered, what is refused, and that only named views are asked for."""

from __future__ import annotations

import pytest

from admin.client.answers import Answer, Column
from admin.client.link import CommandFailed
from admin.fieldtypes import FLOAT8, INT4, INT8, NUMERIC, TEXT, TIMESTAMPTZ
from admin.repl import viewsql
from admin.sql.backend import Told


def view(columns: dict[str, int], *rows: tuple[object, ...]) -> Answer:
    return Answer(tuple(Column(name, oid) for name, oid in columns.items()), list(rows), "SHOW")


POOLS = view(
    {"database": TEXT, "user": TEXT, "cl_waiting": INT4},
    ("app", "alice", 3),
    ("app", "bob", 2),
    ("billing", "alice", 0),
)
STATS = view({"database": TEXT, "total_xact_count": NUMERIC}, ("app", 12), ("billing", 0))
STATE = view({"key": TEXT, "value": TEXT}, ("active", "yes"))
VIEWS = {"pools": POOLS, "stats": STATS, "state": STATE}
TOLD = Told("PgBouncer 1.18.0", 1_700_000_000.5, 0.0, 1, {})


def asked_for(sql: str, **bounds: float) -> tuple[Answer | None, list[str]]:
    asked: list[str] = []

    def show(name: str) -> Answer | None:
        asked.append(name)
        return VIEWS.get(name)

    return viewsql.answer(sql, show, TOLD, "anna", **bounds), asked  # type: ignore[arg-type]


def answer(sql: str, **bounds: float) -> Answer:
    found = asked_for(sql, **bounds)[0]
    assert found is not None
    return found


def types(found: Answer) -> list[int]:
    return [column.oid for column in found.columns]


def test_groups_sorts_and_filters() -> None:
    found = answer(
        "SELECT database, sum(cl_waiting) FROM pools GROUP BY database HAVING sum(cl_waiting) > 0 ORDER BY 2 DESC"
    )
    assert found.columns == (Column("database", TEXT), Column("sum", INT8))
    assert list(found.rows) == [("app", 5)]


@pytest.mark.parametrize(
    ("sql", "asked"),
    [
        ("SELECT 1", []),
        ("SELECT * FROM public.POOLS p JOIN stats USING (database)", ["pools", "stats"]),
        ("SELECT user AS state FROM pools AS stats WHERE database IN (SELECT database FROM stats)", ["pools", "stats"]),
        ("SELECT 1 FROM (pools p CROSS JOIN stats s), state", ["pools", "stats", "state"]),
        ("SELECT p.state FROM (SELECT database AS state FROM pools) AS p", ["pools"]),
        ("TABLE state", ["state"]),
        ('WITH x AS (SELECT * FROM "stats") SELECT count(*) FROM x, x AS state', ["stats"]),
        ("SHOW pools WHERE user = 'state'", ["pools"]),
        ("SHOW pools", []),
        ("PAUSE pools", []),
    ],
)
def test_asks_only_for_the_views_it_names(sql: str, asked: list[str]) -> None:
    assert asked_for(sql)[1] == asked


def test_habits_of_postgresql() -> None:
    found = answer(
        "SELECT user::text, sum(cl_waiting)::int FROM pools WHERE user ILIKE 'ALI%' AND '::x' <> 'ILIKE' GROUP BY 1"
    )
    assert list(found.rows) == [("alice", 3)]
    assert answer("SELECT $$;$$ || E'\\n' AS x").rows == [(";\n",)]


def test_types_are_those_of_the_columns_even_without_rows() -> None:
    found = answer("SELECT cl_waiting, user, 1.5 AS share FROM pools WHERE false")
    assert types(found) == [INT4, TEXT, NUMERIC]
    assert types(answer("SELECT total_xact_count, 1.5::float8 FROM stats")) == [NUMERIC, FLOAT8]


def test_values_are_as_the_wire_brings_them() -> None:
    found = answer("SELECT now(), cl_waiting > 2 AS many, version(), NULL FROM pools LIMIT 1")
    assert types(found)[0] == TIMESTAMPTZ
    assert list(found.rows) == [("2023-11-14 22:13:20.5+00", "t", "PgBouncer 1.18.0", None)]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT * FROM pg_nothing", "42P01"),
        ("SELECT nosuch FROM pools", "42703"),
        ("SELECT database FROM pools JOIN stats ON true", "42702"),
        ("SELECT frobnicate(1)", "42883"),
        ("SELECT 'a", "42601"),
        ("SELECT 1 +", "42601"),
        ("WITH x AS (SELECT 1) DELETE FROM pools", "25006"),
        ("SELECT pg_read_file('/etc/passwd')", "42501"),
        ("SELECT pg_sleep(9)", "42501"),
        ("SELECT 1/0", "22012"),
        ("SELECT 1 FROM pools WHERE cl_waiting = 'x'", "22P02"),
        ("SELECT user FROM pools WHERE user = $1", "42P02"),
        ("SELECT length(repeat('x', 1000000000))", "53200"),
        (f"SELECT {'abs(' * 9000}1{')' * 9000}", "42601"),
    ],
)
def test_refuses_with_a_state(sql: str, sqlstate: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        answer(sql)
    assert refused.value.sqlstate == sqlstate, refused.value.message
    assert refused.value.message


def test_stops_what_never_ends() -> None:
    with pytest.raises(CommandFailed) as refused:
        answer(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
            seconds=0.05,
        )
    assert refused.value.sqlstate == "57014"


def test_bounds_the_rows() -> None:
    with pytest.raises(CommandFailed, match="LIMIT"):
        answer("SELECT * FROM pools", most=2)
    assert len(answer("SELECT * FROM pools LIMIT 2", most=2).rows) == 2


@pytest.mark.parametrize(
    ("statement", "users"),
    [
        ("SHOW POOLS WHERE cl_waiting > 0", ["alice", "bob"]),
        ("show pools order by cl_waiting", ["alice", "bob", "alice"]),
        ("show pools\nlimit 1", ["alice"]),
        ("SHOW POOLS", None),
        ("SHOW POOLS wherever", None),
        ("SHOW nowhere LIMIT 1", None),
        ("PAUSE app", None),
        ("DELETE FROM pools", None),
        ("ATTACH '/tmp/x' AS y", None),
        ("SELECT 1; SELECT 2", None),
        ("SELECT pools", None),
        ("", None),
    ],
)
def test_what_is_a_query(statement: str, users: list[str] | None) -> None:
    """Anything else is the console's affair."""
    found = asked_for(statement)[0]
    assert (None if found is None else [row[1] for row in found.rows]) == users
