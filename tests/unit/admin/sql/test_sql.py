"""SQL over the views: PostgreSQL's meaning, types told before the first row, bounds, rights, and catalogues."""

from __future__ import annotations

import asyncio
import struct
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin.console import queries
from admin.fieldtypes import TYPES, BadValue, decode, encode
from pooler import wire
from tests.fixtures.console import (
    Caller,
    FakeHouse,
    Message,
    calling,
    columns,
    connection,
    errors,
    kinds,
    rows,
    snapshot,
    tags,
)

BOOL, INT4, INT8, TEXT, JSON, FLOAT8, NUMERIC, TIMESTAMPTZ, NAME, OID = (
    16, 23, 20, 25, 114, 701, 1700, 1184, 19, 26,
)  # fmt: skip


def ask(sql: str, house: FakeHouse | None = None, rights: str = "admin") -> list[Message]:
    async def scenario() -> list[Message]:
        async with calling(house, rights) as caller:  # type: ignore[arg-type]
            return await caller.query(sql)

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT database, sum(cl_waiting) FROM pools GROUP BY database HAVING sum(cl_waiting) > 0 ORDER BY 2 DESC",
         [["shop", "2"]]),
        ("select c.id, s.remote_pid from clients c join servers s on c.link = s.ptr", [["1", "999"]]),
        ("select count(*) from clients where state <> 'active'", [["2"]]),
        ("select name from databases where name like 's%' order by 1", [["shop"]]),
        ("select name from databases where name like 'S%'", []),
        ("select name from databases where name ilike 'S%'", [["shop"]]),
        ("select name from databases where name not like '%op' order by 1", [["blog"], ["pgbouncer"]]),
        ("select name from databases where name ~ '^b' and name !~ 'x'", [["blog"]]),
        ("select name from databases where name ~* '^B'", [["blog"]]),
        ("select name from databases where name = any(array['shop', 'x'])", [["shop"]]),
        ("select name from databases where name = any('{shop,blog}') order by 1", [["blog"], ["shop"]]),
        ("select name from databases where name <> all(array['shop', 'pgbouncer'])", [["blog"]]),
        ("select name from databases where name in (select database from pools) order by name offset 1", [["shop"]]),
        ("select name from databases order by 1 limit 1 offset 1", [["pgbouncer"]]),
        ("select name from databases order by 1 offset 1 limit 1", [["pgbouncer"]]),
        ("select name from databases order by 1 fetch first 2 rows only", [["blog"], ["pgbouncer"]]),
        ("select name from databases order by 1 offset 1 rows fetch next row only", [["pgbouncer"]]),
        ("select name from databases order by 1 limit all", [["blog"], ["pgbouncer"], ["shop"]]),
        ("select distinct database from public.pools order by 1", [["blog"], ["shop"]]),
        ('select p."database", "user" from pools as p order by p.user', [["blog", "amy"], ["shop", "app"], ["blog",
        "zoe"]]),
        ("select cl_waiting::text || '!' from pools where cl_waiting > 0", [["2!"]]),
        ("select '12'::int + 1, '1.5'::numeric, 2.5::int, cast('7' as bigint), 't'::bool, true::text",
         [["13", "1.5", "3", "7", "t", "true"]]),
        ("select case when cl_waiting > 0 then 'bad' else 'ok' end from pools order by 1", [["bad"], ["ok"], ["ok"]]),
        ("select coalesce(null, 3), nullif(1, 1), greatest(1, null, 3), least('b', 'a')", [["3", None, "3", "a"]]),
        ("select concat('a', 1, null, 'b'), concat_ws('-', 'a', null, 'b'), format('%s is %I', 1, 'A b')",
         [["a1b", "a-b", '1 is "A b"']]),
        ("select left('abc', 2), right('abc', 2), lpad('7', 3, '0'), split_part('a.b', '.', 2), initcap('ab')",
         [["ab", "bc", "007", "b", "Ab"]]),
        ("select replace('abcb', 'b', 'xx'), trim('  a '), trim('xyaxy', 'yx'), ltrim('xa', 'x'), btrim('-a-', '-')",
         [["axxcxx", "a", "a", "a", "a"]]),
        ("select round(1.256, 2), round(2.5), ceil(1.2), floor(-1.2), trunc(-1.9), mod(7, 3)",
         [["1.26", "3", "2", "-2", "-1", "1"]]),
        ("select substring('abcdef' from 2 for 3), position('c' in 'abc'), strpos('abc', 'x')", [["bcd", "3", "0"]]),
        ("select extract(epoch from since), date_trunc('minute', since), since + interval '5 minutes' from waiting",
         [["1795334757.750000", "2026-11-22 08:05:00+00", "2026-11-22 08:10:57.75+00"]]),
        ("select since::text, to_char(since, 'YYYY-MM-DD HH24:MI') from waiting",
         [["2026-11-22 08:05:57.75+00", "2026-11-22 08:05"]]),
        ("select id from waiting where since < '2026-11-22T08:06:00Z'::timestamptz", [["2"]]),
        ("select extract(epoch from now() - since), now() - since from waiting", [["2.500000", "00:00:02.5"]]),
        ("select now() - connect_time, age(now(), request_time) from clients where id = 1", [["00:01:00", "00:00:01"]]),
        ("select id from waiting where since between '2026-11-22T08:05:00Z' and '2026-11-22 08:06:00'", [["2"]]),
        ("select id from waiting where '2026-11-22T08:06:00+00:00' < since", []),
        ("select floor(extract(epoch from since) / 60) * 60, 1 from waiting where since > '2026-01-01' group by 1",
         [["1795334700", "1"]]),
        ("select '2 days'::interval, interval '1 hour 30 min', '01:02:03'::interval",
         [["2 days", "01:30:00", "01:02:03"]]),
        ("select json_agg(p) from (select database, cl_waiting from pools where cl_waiting > 0) p",
         [['[{"database":"shop","cl_waiting":2}]']]),
        ("select row_to_json(s) from state s limit 1", [['{"key":"active","value":"yes"}']]),
        ("select json_build_object('n', count(*), 'names', json_agg(name order by name desc)) from databases",
         [['{"n" : 3, "names" : ["shop", "pgbouncer", "blog"]}']]),
        ("select string_agg(database, ', ' order by user desc) from pools", [["blog, shop, blog"]]),
        ("select array_agg(user order by user), array[1, null], array(select key from state order by 1) from pools",
         [["{amy,app,zoe}", "{1,NULL}", "{active,paused}"]]),
        ("select x from unnest(array['b', 'a']) x order by x", [["a"], ["b"]]),
        ("select sum(cl_active) filter (where database = 'shop') from pools", [["3"]]),
        ("select user, row_number() over (order by user desc) from pools order by 1",
         [["amy", "3"], ["app", "2"], ["zoe", "1"]]),
        ("with p as (select database d, count(*) n from pools group by 1) select d from p where n > 1", [["blog"]]),
        ("with recursive c(n) as (select 1 union all select n + 1 from c where n < 5) select sum(n) from c",
        [["15"]]),
        ("select 'all' as d, sum(cl_active) from pools union all select user, 1 from pools order by 2 desc limit 1",
         [["all", "9"]]),
        ("table state order by key desc limit 1", [["paused", "no"]]),
        ("select (array['a', 'b'])[2], (current_schemas(true))[1], ('{x}'::text[])[9]", [["b", "pg_catalog", None]]),
        ("select n from generate_series(1, 3) n order by n desc", [["3"], ["2"], ["1"]]),
        ("select s.i, t.j from generate_series(3, 1, -2) as s(i), generate_series(5, 4) t(j)", []),
        ("select sum(i) from generate_series(1, 10, 3) as g(i)", [["22"]]),
        ("select b.name from databases a, databases b where a.name = b.name order by name limit 1", [["blog"]]),
        ("select t.b, a from (values (1, 'x'), (2, 'y')) as t(a, b) where a > 1", [["y", "2"]]),
        ("values (1, 'a'), (2, null)", [["1", "a"], ["2", None]]),
        ("select 1 where null is distinct from 1 and 1 is not distinct from 1 and null is unknown", [["1"]]),
        ("select bool_or(cl_waiting > 0), bool_and(cl_waiting > 0), exists(select 1 from pools) from pools",
         [["t", "f", "t"]]),
        ("select current_database(), current_user, session_user, user, current_schema", [["pgbouncer", "ann", "ann",
        "ann", "public"]]),
        ("select current_setting('server_version'), current_setting('nope', true), pg_backend_pid()",
         [["1.26.1/bouncer", None, "4711"]]),
        ("select E'a\\tb', $$it's$$, U from (select 'x' as u) q", [["a\tb", "it's", "x"]]),
        ("select /* what */ key -- why\n from state where value = 'yes'", [["active"]]),
        ("select value from config where key = 'max_client_conn'", [["100"]]),
        ("select pg_size_pretty(123456789::bigint), quote_literal('it''s'), md5('a')",
         [["118 MB", "'it''s'", "0cc175b9c0f1b6a831c399e269772661"]]),
    ],
)  # fmt: skip
def test_a_select_means_what_it_means_in_postgresql(sql: str, expected: list[list[str | None]]) -> None:
    answer = ask(sql)
    assert errors(answer) == []
    assert rows(answer) == expected
    assert tags(answer) == [f"SELECT {len(expected)}"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select * from state", [("key", TEXT), ("value", TEXT)]),
        ("select database, cl_active as n, p.maxwait from pools p", [("database", TEXT), ("n", INT4), ("maxwait",
        INT4)]),
        ("select total_query_count from stats", [("total_query_count", NUMERIC)]),
        ("select count(*), sum(cl_active), avg(cl_active), max(maxwait), min(database) from pools",
         [("count", INT8), ("sum", INT8), ("avg", NUMERIC), ("max", INT4), ("min", TEXT)]),
        ("select count(*)::int, 1, 'x', 1.5, null, true, 3000000000",
         [("count", INT4), ("?column?", INT4), ("?column?", TEXT), ("?column?", NUMERIC), ("?column?", TEXT),
          ("?column?", BOOL), ("?column?", INT8)]),
        ("select since, wait_us from waiting where false", [("since", TIMESTAMPTZ), ("wait_us", INT8)]),
        ("select cl_active > 1, not true, cl_active + 1, cl_active * 1.5, cl_active + maxwait total from pools",
         [("?column?", BOOL), ("?column?", BOOL), ("?column?", INT4), ("?column?", NUMERIC), ("total", INT4)]),
        ("select version(), now(), current_user", [("version", TEXT), ("now", TIMESTAMPTZ), ("current_user", NAME)]),
        ("select s.* , 1 as one from (select key from state) s", [("key", TEXT), ("one", INT4)]),
        ("select json_agg(key), row_to_json(s) from state s group by key, s", [("json_agg", JSON), ("row_to_json",
        JSON)]),
        ("select max(since), case when true then 1 end, (select max(cl_active) from pools) from waiting, pools",
         [("max", TIMESTAMPTZ), ("case", INT4), ("max", INT4)]),
        ("select coalesce(max(cl_active), 0), cl_active::text from pools where false group by cl_active",
         [("coalesce", INT4), ("cl_active", TEXT)]),
        ("select oid, relname, relkind from pg_class", [("oid", OID), ("relname", NAME), ("relkind", 18)]),
        ("select database, count(*) from pools group by 1 having count(*) > 99", [("database", TEXT), ("count",
        INT8)]),
        ("select a.name, b.name from databases a, databases b limit 1", [("name", TEXT), ("name", TEXT)]),
    ],
)  # fmt: skip
def test_columns_have_postgresqls_names_and_types(sql: str, expected: list[tuple[str, int]]) -> None:
    answer = ask(sql)
    assert errors(answer) == []
    assert columns(answer) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "sqlstate", "message"),
    [
        ("select nope from pools", "42703", 'column "nope" does not exist'),
        ('select "nope" from pools', "42703", 'column "nope" does not exist'),
        ("select p.nope from pools p", "42703", "column p.nope does not exist"),
        ("select * from nope", "42P01", 'relation "nope" does not exist'),
        ("select nope(1)", "42883", "function nope(integer) does not exist"),
        ("select pg_sleep(100)", "42501", "permission denied for function pg_sleep"),
        ("select pg_read_file('/etc/passwd')", "42501", "permission denied for function pg_read_file"),
        ("select set_config('search_path', 'x', false)", "42501", "permission denied for function set_config"),
        ("select query_to_xml('select 1', true, true, '')", "42501", "permission denied for function query_to_xml"),
        ("select lo_create(0)", "42501", "permission denied for function lo_create"),
        ("select pg_advisory_lock(1)", "42501", "permission denied for function pg_advisory_lock"),
        ("select pg_terminate_backend(1)", "42501", "permission denied for function pg_terminate_backend"),
        ("select 1 into x", "25006", "cannot execute SELECT INTO in a read-only transaction"),
        ("select 1/0", "22012", "division by zero"),
        ("select 1 % 0", "22012", "division by zero"),
        ("select '\u0663'::int", "22P02", 'invalid input syntax for type integer: "\u0663"'),
        ("select * from pools where database = cl_active", "42883", "operator does not exist: text = integer"),
        (
            "select database, sum(cl_active) from pools",
            "42803",
            'column "pools.database" must appear in the GROUP BY clause or be used in an aggregate function',
        ),
        ("select nosuch from pg_class", "42703", 'column "nosuch" does not exist'),
        ("select * from pg_catalog.pg_nothing", "42P01", 'relation "pg_catalog.pg_nothing" does not exist'),
        ("select * from pg_stat_statements", "42P01", 'relation "pg_stat_statements" does not exist'),
        ("select frobnicate(oid) from pg_class", "42883", "function frobnicate(oid) does not exist"),
        ("select database from pools a, pools b", "42702", 'column reference "database" is ambiguous'),
        ("select 1 +", "42601", "syntax error at end of input"),
        ("select 1 from from pools", "42601", 'syntax error at or near "from"'),
        ("select (1", "42601", "syntax error at end of input"),
        ("select 1)", "42601", 'syntax error at or near ")"'),
        ("select '1'::nope", "42704", 'type "nope" does not exist'),
        ("select 'x'::int", "22P02", 'invalid input syntax for type integer: "x"'),
        ("select 'x'::timestamptz", "22007", 'invalid input syntax for type timestamp with time zone: "x"'),
        ("select 'nope'::regclass", "42P01", 'relation "nope" does not exist'),
        ("select 'a' ~ '('", "2201B", "invalid regular expression: parentheses () not balanced"),
        ("with x as (select 1) delete from pools", "55000", 'cannot delete from view "pools"'),
        ("select load_extension('x')", "42883", "function load_extension(unknown) does not exist"),
        ("select json_each('{}') || sqlite_version()", "42883", "function sqlite_version() does not exist"),
        ("select " + "abs(" * 3000 + "1" + ")" * 3000, "54001", "stack depth limit exceeded"),
        ("select $1001", "42P02", "there is no parameter $1001"),
        ("select repeat('x', 100000000)", "54000", "row is too large"),
        ("select length(repeat('x', 1000000000))", "53200", "out of memory"),
        ("select 9223372036854775807 + 1 + sum(9223372036854775807) from config", "22003", "bigint out of range"),
    ],
)
def test_errors_are_postgresqls_and_the_session_goes_on(sql: str, sqlstate: str, message: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            assert errors(await caller.query(sql)) == [(sqlstate, message)]
            assert tags(await caller.query("select 1")) == ["SELECT 1"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "sql",
    ["insert into pools values (1)", "update pools set cl_active = 1", "delete from pools", "drop table pools",
     "create table x (y int)", "attach 'x' as y", "pragma journal_mode", "vacuum", "explain select 1"],
)  # fmt: skip
def test_what_is_no_select_is_no_command(sql: str) -> None:
    assert errors(ask(sql)) == [("08P01", f"invalid command '{sql}', use SHOW HELP;")]


@pytest.mark.parametrize("sql", ["select * from fds", "select 1 from pools, fds", "show fds where fd > 1"])
def test_a_stats_user_reads_no_secrets_by_sql_either(sql: str) -> None:
    assert errors(ask(sql, rights="stats")) == [("08P01", "admin access needed")]
    assert errors(ask(sql)) == []


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SHOW POOLS WHERE cl_waiting > 0", ["app"]),
        ("show pools order by user desc", ["zoe", "app", "amy"]),
        ("show pools where database = 'blog' order by user limit 1;", ["amy"]),
        ("show pools limit 1 offset 2", ["app"]),
    ],
)
def test_show_takes_clauses(sql: str, expected: list[str]) -> None:
    answer = ask(sql)
    assert [row[1] for row in rows(answer)] == expected
    assert tags(answer) == ["SHOW"]
    assert columns(answer)[:3] == [("database", TEXT), ("user", TEXT), ("cl_active", INT4)]


def test_a_select_of_everything_is_the_show() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            for name in ("pools", "clients", "databases", "stats", "users", "lists", "config", "waiting", "mem"):
                shown, selected = await caller.query(f"show {name}"), await caller.query(f"select * from {name}")
                times = {place for place, (_, oid) in enumerate(columns(selected)) if oid == TIMESTAMPTZ}
                assert [name for name, _ in columns(selected)] == [name for name, _ in columns(shown)]
                for place, (one, other) in enumerate(zip(columns(selected), columns(shown), strict=True)):
                    assert one == other or (place in times and name == "clients")
                kept = [[None if at in times else value for at, value in enumerate(row)] for row in rows(selected)]
                assert kept == [[None if at in times else value for at, value in enumerate(row)] for row in rows(shown)]

    asyncio.run(scenario())


def test_selecting_a_view_is_showing_it() -> None:
    assert tags(ask("select version")) == ["SHOW"]
    assert errors(ask("select nothing")) == [("42703", 'column "nothing" does not exist')]


def test_a_cursors_columns_are_the_views() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.query("begin; declare c cursor for select user from pools order by user")
            assert rows(await caller.query("fetch all c")) == [["amy"], ["app"], ["zoe"]]

    asyncio.run(scenario())


def told(sql: str) -> dict[str, str]:
    return next(wire.error_fields(body) for kind, body in ask(sql) if kind == b"E")


@pytest.mark.parametrize(
    ("sql", "place", "hint"),
    [
        ("select databse from pools", "databse", 'Perhaps you meant to reference the column "pools.database".'),
        ("select 1; select usr from pools", "usr", 'Perhaps you meant to reference the column "pools.user".'),
        ("  /* x */ select user, 'ä', user, usr from pools", "usr", ""),
        ("show pools where databse = 'x'", "databse", 'Perhaps you meant to reference the column "pools.database".'),
        ("copy pools (usr) to stdout", "", 'Perhaps you meant to reference the column "pools.user".'),
        ("copy (select user, usr from pools) to stdout", "usr", ""),
        ("begin; declare c cursor for select user, usr from pools", "usr", ""),
        ("begin; declare c cursor for select user, $1 from pools", "$1", ""),
        ("select 'abc", "'abc", ""),
        ("select now() - name from databases", "- name", ""),
        ("select 1 where 'x", "'x", ""),
    ],
)
def test_an_error_has_its_place_and_perhaps_a_hint(sql: str, place: str, hint: str) -> None:
    found = told(sql)
    if place:
        assert int(found["P"]) == sql.index(place) + 1
    assert hint in found.get("H", "")


def test_copy_brings_a_view_as_text_or_csv() -> None:
    def copied(sql: str) -> tuple[str, bytes, list[str]]:
        answer = ask(sql)
        return kinds(answer), b"".join(body for kind, body in answer if kind == b"d"), tags(answer)

    assert copied("copy pools (database, user) to stdout") == (
        "HdddcCZ", b"blog\tamy\nblog\tzoe\nshop\tapp\n", ["COPY 3"]
    )  # fmt: skip
    assert copied("COPY (select user from pools where cl_waiting > 0) TO STDOUT WITH (FORMAT csv, HEADER)") == (
        "HddcCZ", b"user\napp\n", ["COPY 1"]
    )  # fmt: skip
    assert errors(ask("copy pools from stdin")) == [
        ("08P01", "invalid command 'copy pools from stdin', use SHOW HELP;")
    ]
    assert errors(ask("copy fds to stdout", rights="stats")) == [("08P01", "admin access needed")]


# ---- bounds


def test_what_runs_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "SECONDS", 0.05)
    endless = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"
    assert errors(ask(endless)) == [("57014", "canceling statement due to statement timeout")]


def test_a_cancel_request_stops_a_statement() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            endless = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"
            await caller.send(wire.query(endless))

            async def cancel() -> None:
                while True:
                    caller.session.canceled.set()
                    await asyncio.sleep(0.001)

            canceling = asyncio.create_task(cancel())
            answer = await caller.until()
            canceling.cancel()
            assert errors(answer) == [("57014", "canceling statement due to user request")]

    asyncio.run(scenario())


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    hungry = """with recursive c(n) as (select 1 union all select n + 1 from c)
                select string_agg(repeat('x', 500000), '') from c"""
    assert errors(ask(hungry))[0][0] in ("53200", "54000", "57014")


def test_a_long_answer_comes_in_batches_with_backpressure() -> None:
    async def scenario() -> None:
        house = FakeHouse(snapshot(clients=tuple(connection("C", id) for id in range(3000))))
        async with calling(house) as caller:
            await caller.send(wire.query("select * from clients order by id"))
            answer = await caller.until()
            assert [row[-1] for row in rows(answer)] == [str(id) for id in range(3000)]
            assert tags(answer) == ["SELECT 3000"]

    asyncio.run(scenario())


def test_names_that_are_no_text_do_not_break_a_table() -> None:
    house = FakeHouse(snapshot(clients=(connection("C", 1, application_name="a\udcffb"),)))
    assert rows(ask("select application_name from clients", house)) == [["a?b"]]


# ---- parameters


async def prepare(caller: Caller, sql: str, oids: tuple[int, ...] = ()) -> list[Message]:
    await caller.send(wire.parse("s", sql, oids), wire.describe(b"S", "s"), wire.sync())
    return await caller.until()


def parameter_oids(answer: list[Message]) -> list[int]:
    body = next(body for kind, body in answer if kind == b"t")
    return list(struct.unpack(f"!{(len(body) - 2) // 4}I", body[2:]))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select 1 from pools where cl_waiting > $1", [INT4]),
        ("select 1 from pools where $1 <= maxwait_us and database = $2", [INT4, TEXT]),
        ("select 1 from waiting where since > $1 and wait_us between $2 and $3", [TIMESTAMPTZ, INT8, INT8]),
        ("select 1 from pools limit $1 offset $2", [INT8, INT8]),
        ("select 1 from pools where database in ($1, $2)", [TEXT, TEXT]),
        ("select 1 from clients where id not in ($1)", [INT4]),
        ("select 1 from clients where id = any($1)", [1007]),
        ("select 1 from pools where database = any($1::text[])", [1009]),
        ("select $1::int, $2::timestamptz, $3", [INT4, TIMESTAMPTZ, TEXT]),
        ("select 1 from pools where database like $1 or user ilike $2", [TEXT, TEXT]),
        ("select 1 from stats where total_query_count > $1", [NUMERIC]),
        ("select cl_active + $1 from pools", [INT4]),
        ("select 1 from pools where upper(database) = $1", [TEXT]),
    ],
)
def test_parameters_have_the_type_of_what_they_stand_beside(sql: str, expected: list[int]) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await prepare(caller, sql)
            assert errors(answer) == []
            assert parameter_oids(answer) == expected

    asyncio.run(scenario())


def test_the_client_may_say_what_its_parameters_are() -> None:
    async def scenario() -> None:
        async with calling() as caller:
            answer = await prepare(caller, "select $1, $2 from state", (INT8, 0))
            assert parameter_oids(answer) == [INT8, TEXT]
            assert columns(answer) == [("?column?", INT8), ("?column?", TEXT)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("sql", "values", "expected"),
    [
        ("select user from pools where database = $1 and cl_waiting >= $2 order by 1", ["blog", "0"], [["amy"],
        ["zoe"]]),
        ("select key from state order by 1 limit $1", ["2"], [["active"], ["paused"]]),
        ("select $1::int + 1, $2", ["41", None], [["42", None]]),
        ("select user from pools where user = any($1) order by 1", ["{amy,zoe,\"x y\"}"], [["amy"], ["zoe"]]),
        ("select $1 || $1", ["a"], [["aa"]]),
        ("select count(*) from waiting where since < $1", ["2026-11-22 08:06:00+00"], [["1"]]),
        ("show pools where user = $1", ["nobody"], []),
        ("select 1 from waiting where since > now() - $1::interval", ["1 minute"], [["1"]]),
    ],
)  # fmt: skip
def test_parameters_reach_the_statement(sql: str, values: list[str | None], expected: list[list[str | None]]) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            for described in (False, True):
                messages = [wire.parse("", sql), wire.describe(b"S", "") if described else b""]
                await caller.send(
                    *messages, wire.bind("", "", values), wire.describe(b"P", ""), wire.execute(""), wire.sync()
                )
                answer = await caller.until()
                assert errors(answer) == []
                assert rows(answer) == expected

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("sql", "value", "sqlstate"),
    [
        ("select 1 from pools where cl_waiting > $1", "many", "22P02"),
        ("select 1 from waiting where since > $1", "soon", "22007"),
        ("select 1 from pools where database = any($1)", "{a", "22P02"),
        ("select 1 from pools limit $1", "-99999999999999999999999", "22003"),
    ],
)
def test_a_bad_parameter_is_an_error(sql: str, value: str, sqlstate: str) -> None:
    async def scenario() -> None:
        async with calling() as caller:
            await caller.send(wire.parse("", sql), wire.bind("", "", [value]), wire.execute(""), wire.sync())
            assert [state for state, _ in errors(await caller.until())] == [sqlstate]

    asyncio.run(scenario())


def test_a_type_once_told_does_not_change() -> None:
    """Described with no row to see, then run where the value is of another kind."""

    async def scenario() -> None:
        async with calling() as caller:
            sql = "select case when $1 = 'x' then cl_active / 2.0 else cl_active end as n from pools where user = 'amy'"
            told = columns(await prepare(caller, sql))
            await caller.send(wire.bind("", "s", ["x"]), wire.execute(""), wire.sync())
            assert told == [("n", NUMERIC)]
            assert rows(await caller.until()) == [["1.5000000000000000"]]

    asyncio.run(scenario())


# ---- catalogues


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select relname from pg_catalog.pg_class where relkind = 'v' and relname = 'pools'", [["pools"]]),
        ("select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'state'::regclass",
         [["key", "text"], ["value", "text"]]),
        ("select table_name from information_schema.tables where table_name like 'po%' order by 1",
         [["pool_latency"], ["pools"]]),
        ("select datname from pg_database", [["pgbouncer"]]),
        ("select nspname from pg_catalog.pg_namespace where nspname !~ '^pg_' order by 1",
         [["information_schema"], ["public"]]),
        ("select rolname from pg_roles", [["ann"]]),
        ("select t.oid from pg_type t join pg_namespace n on typnamespace = n.oid where typname = 'hstore'", []),
        ("select c.oid::pg_catalog.regclass::text from pg_catalog.pg_class c where c.oid = 'state'::regclass",
         [["state"]]),
        ("select count(*) from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n "
         "on n.oid = c.relnamespace where n.nspname = 'public'", [["0"]]),
        ("select * from unnest(current_schemas(true))", [["pg_catalog"], ["public"]]),
        ("select string_to_array('a,b', ','), array_lower(array[1,2], 1)", [["{a,b}", "1"]]),
        ("select setting from pg_settings where name = 'server_version'", [["1.26.1/bouncer"]]),
        ("select relname from pg_class where relname like 'embedded%'", []),
        ("select distinct table_schema from information_schema.tables order by 1",
         [["information_schema"], ["pg_catalog"], ["public"]]),
        ("select schema_name from information_schema.schemata where schema_name like 'con%'", []),
        ("select count(*) from pg_tables where schemaname ~ 'temp'", [["0"]]),
    ],
)  # fmt: skip
def test_catalogue_queries_are_answered(sql: str, expected: list[list[str]]) -> None:
    answer = ask(sql)
    assert errors(answer) == []
    assert rows(answer) == expected


# ---- values on the wire


SURROGATES: tuple[Literal["Cs"], ...] = ("Cs",)
VALUES: dict[int, st.SearchStrategy[object]] = {
    BOOL: st.booleans(),
    INT4: st.integers(-(1 << 31), (1 << 31) - 1),
    INT8: st.integers(-(1 << 63), (1 << 63) - 1),
    TEXT: st.text(st.characters(exclude_categories=SURROGATES, exclude_characters="\0")),
    FLOAT8: st.floats(allow_nan=False),
    NUMERIC: st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**24), max_value=10**24),
    17: st.binary(),
    1082: st.integers(-10_000, 20_000).map(lambda day: 946_684_800.0 + 86_400 * day),
    TIMESTAMPTZ: st.floats(0, 4e9).map(lambda stamp: round(stamp, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("oid", list(VALUES), ids=lambda oid: TYPES[oid].name)
@given(data=st.data())
def test_a_value_survives_both_formats(oid: int, data: st.DataObject) -> None:
    value = data.draw(VALUES[oid])
    for format in (0, 1):
        sent = encode(oid, value, format)
        back = decode(oid, sent, format, 1)
        if oid == TIMESTAMPTZ:
            assert back == pytest.approx(value, abs=1e-5)
        else:
            assert back == value


@given(st.sampled_from(list(TYPES)), st.binary(max_size=40), st.sampled_from([0, 1]))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_parameter_bytes_are_a_value_or_an_error(oid: int, data: bytes, format: int) -> None:
    try:
        decode(oid, data, format, 1)
    except BadValue as error:
        assert error.sqlstate in ("22P02", "22P03")  # noqa: PT017


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 20, "0" * 5000 + "7"])
def test_a_number_of_any_length_is_a_number(number: str) -> None:
    """Python's int() refuses thousands of digits."""
    assert len(rows(ask(f"select {number}::numeric, {number}::text"))) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00000000 0000 0000"),
        (1, "00010000 0000 0000 0001"),
        (12345678, "00020001 0000 0000 04d2 162e"),
        (Decimal("-0.5"), "0001ffff 4000 0001 1388"),
        (Decimal("10000.01"), "00030001 0000 0002 0001 0000 0064"),
    ],
)
def test_numeric_in_binary_is_postgresqls(value: object, expected: str) -> None:
    assert encode(NUMERIC, value, 1) == bytes.fromhex(expected.replace(" ", ""))


WORDS = """
    select * from pools where ( ) , and or not cl_waiting database 'x' 1 = < ~ like between in any array [ ]
    case when then else end :: int cast as extract epoch interval limit offset order by group json_agg p q .
    row_to_json $1 is distinct null union with values string_agg unnest desc nulls first over filter fetch
"""


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(WORDS.split()), max_size=14))
def test_any_words_behind_select_are_answered(words: list[str]) -> None:
    answer = ask("select " + " ".join(words), rights="stats")
    assert kinds(answer)[-1] == "Z"
    assert "XX000" not in [state for state, _ in errors(answer)]


def test_now_is_the_snapshots() -> None:
    assert rows(ask("select extract(epoch from now())::numeric")) == [["1795334760.250000"]]
