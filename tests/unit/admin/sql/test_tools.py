"""What the tools ask that people point at the console: each question of the catalogue has PostgreSQL's answer, or its
error; nothing that was not understood is an empty answer.

The questions are written after what the tools' sources and logs show: the same tables, columns and functions."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import subprocess
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
import sqlalchemy

from tests.fixtures.console import Caller, Door, calling, door, errors, rows

CLASS_OF_POOLS = "(select oid from pg_catalog.pg_class where relname = 'pools')"

QUESTIONS: dict[str, tuple[str, str | None]] = {
    # what is asked, and a value that stands in the answer; None where there is nothing of the kind
    "pgcli: search path": ("SELECT * FROM unnest(current_schemas(true))", "public"),
    "pgcli: schemas": ("SELECT nspname FROM pg_catalog.pg_namespace ORDER BY 1", "pg_catalog"),
    "pgcli: views": (
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n "
        "ON n.oid = c.relnamespace WHERE c.relkind = ANY('{v,m}') ORDER BY 1, 2",
        "latency",
    ),
    "pgcli: columns": (
        "SELECT nsp.nspname, cls.relname, att.attname, typ.typname, att.atthasdef AS has_default, "
        "pg_catalog.pg_get_expr(def.adbin, def.adrelid, true) AS default FROM pg_catalog.pg_attribute att "
        "JOIN pg_catalog.pg_class cls ON att.attrelid = cls.oid JOIN pg_catalog.pg_namespace nsp "
        "ON cls.relnamespace = nsp.oid JOIN pg_catalog.pg_type typ ON typ.oid = att.atttypid "
        "LEFT JOIN pg_attrdef def ON def.adrelid = att.attrelid AND def.adnum = att.attnum "
        "WHERE cls.relkind = ANY('{v,m}') AND NOT att.attisdropped AND att.attnum > 0 AND nsp.nspname = 'public'",
        "cl_waiting",
    ),
    "pgcli: foreign keys": (
        "SELECT s_p.nspname, t_p.relname, unnest((SELECT array_agg(attname ORDER BY i) FROM (SELECT "
        "unnest(confkey) AS attnum, generate_subscripts(confkey, 1) AS i) x JOIN pg_catalog.pg_attribute c "
        "USING (attnum) WHERE c.attrelid = fk.confrelid)) FROM pg_catalog.pg_constraint fk "
        "JOIN pg_catalog.pg_class t_p ON t_p.oid = fk.confrelid JOIN pg_catalog.pg_namespace s_p "
        "ON s_p.oid = t_p.relnamespace WHERE fk.contype = 'f'",
        None,
    ),
    "pgcli: functions": (
        "SELECT n.nspname, p.proname, p.proargnames, "
        "COALESCE(proallargtypes::regtype[], proargtypes::regtype[])::text[], p.proargmodes, "
        "prorettype::regtype::text, p.prokind = 'a', p.prokind = 'w', p.proretset, d.deptype = 'e', "
        "pg_get_expr(proargdefaults, 0) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n "
        "ON n.oid = p.pronamespace LEFT JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' "
        "WHERE p.prorettype::regtype != 'trigger'::regtype AND p.proname = 'date_trunc' ORDER BY 1, 2",
        "date_trunc",
    ),
    "pgcli: types": (
        "SELECT n.nspname, t.typname FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n "
        "ON n.oid = t.typnamespace WHERE (t.typrelid = 0 OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c "
        "WHERE c.oid = t.typrelid)) AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type el WHERE el.oid = t.typelem "
        "AND el.typarray = t.oid) AND n.nspname = 'pg_catalog' ORDER BY 1, 2",
        "timestamptz",
    ),
    "pgcli: view's source": (
        "WITH v AS (SELECT 'pools'::pg_catalog.regclass::pg_catalog.oid AS v_oid) SELECT nspname, relname, relkind, "
        "pg_catalog.pg_get_viewdef(c.oid, true), array_remove(array_remove(c.reloptions, 'check_option=local'), "
        "'check_option=cascaded') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n "
        "ON c.relnamespace = n.oid JOIN v ON c.oid = v.v_oid",
        "pools",
    ),
    "DBeaver: databases": (
        "SELECT db.oid, db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate "
        "OR db.datname = 'pgbouncer' ORDER BY db.datname",
        "pgbouncer",
    ),
    "DBeaver: schemas": (
        "SELECT n.oid, n.*, d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d "
        "ON d.objoid = n.oid AND d.objsubid = 0 AND d.classoid = 'pg_namespace'::regclass ORDER BY nspname",
        "public",
    ),
    "DBeaver: relations": (
        "SELECT c.oid, c.*, d.description, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS partition_expr, "
        "pg_catalog.pg_get_partkeydef(c.oid) AS partition_key FROM pg_catalog.pg_class c LEFT OUTER JOIN "
        "pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = 0 AND d.classoid = 'pg_class'::regclass "
        "WHERE c.relnamespace = 2200 AND c.relkind NOT IN ('i', 'I', 'c')",
        "pools",
    ),
    "DBeaver: columns": (
        "SELECT c.relname, a.*, pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) AS def_value, dsc.description, "
        "dep.objid FROM pg_catalog.pg_attribute a INNER JOIN pg_catalog.pg_class c ON a.attrelid = c.oid "
        "LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum "
        "LEFT OUTER JOIN pg_catalog.pg_description dsc ON c.oid = dsc.objoid AND a.attnum = dsc.objsubid "
        "LEFT OUTER JOIN pg_depend dep ON dep.refobjid = a.attrelid AND dep.deptype = 'i' "
        "AND dep.refobjsubid = a.attnum AND dep.classid = dep.refclassid WHERE NOT a.attisdropped "
        f"AND c.oid = {CLASS_OF_POOLS} ORDER BY a.attnum",
        "load_balance_hosts",
    ),
    "DBeaver: types": (
        "SELECT t.oid, t.*, c.relkind, format_type(nullif(t.typbasetype, 0), t.typtypmod) AS base_type_name, "
        "d.description FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid = t.typelem "
        "LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid = t.typrelid LEFT OUTER JOIN pg_catalog.pg_description d "
        "ON t.oid = d.objoid WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') "
        "AND (et.typcategory IS NULL OR et.typcategory <> 'C')",
        "interval",
    ),
    "DBeaver: words": (
        "SELECT string_agg(word, ',') FROM pg_catalog.pg_get_keywords() WHERE word <> ALL ('{a,abs,select}'::text[])",
        None,
    ),
    "DBeaver: session": ("SELECT current_schema(), session_user", "ann"),
    "DBeaver: setting": (
        "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'standard_conforming_strings'", "on",
    ),
    "DBeaver: roles": ("SELECT a.oid, a.* FROM pg_catalog.pg_roles a ORDER BY a.rolname", "ann"),
    "DBeaver: sessions": ("SELECT sa.* FROM pg_catalog.pg_stat_activity sa", "pgbouncer"),
    "DBeaver: locks": ("SELECT l.*, pg_catalog.pg_blocking_pids(l.pid) FROM pg_catalog.pg_locks l", "relation"),
    "DataGrip: where it is": ("SELECT current_database() AS a, current_schemas(false) AS b", "{public}"),
    "DataGrip: start": (
        "SELECT round(extract(epoch FROM pg_postmaster_start_time() AT TIME ZONE 'UTC')) AS startup_time",
        "1795244699",
    ),
    "DataGrip: transactions": (
        "SELECT L.transactionid::varchar::bigint AS transaction_id FROM pg_catalog.pg_locks L "
        "WHERE L.transactionid IS NOT NULL ORDER BY pg_catalog.age(L.transactionid) DESC LIMIT 1",
        None,
    ),
    "DataGrip: now": (
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE "
        "(pg_catalog.txid_current() % 4294967296)::varchar::bigint END AS current_txid",
        None,
    ),
    "DataGrip: databases": (
        "SELECT N.oid::bigint AS id, datname AS name, D.description, datistemplate AS is_template, "
        'datallowconn AS allow_connections, pg_catalog.pg_get_userbyid(N.datdba) AS "owner" '
        "FROM pg_catalog.pg_database N LEFT JOIN pg_catalog.pg_shdescription D ON N.oid = D.objoid "
        "ORDER BY CASE WHEN datname = pg_catalog.current_database() THEN -1::bigint ELSE N.oid::bigint END",
        "pgbouncer",
    ),
    "DataGrip: schemas": (
        "SELECT N.oid::bigint AS id, N.xmin AS state_number, nspname AS name, D.description, "
        'pg_catalog.pg_get_userbyid(N.nspowner) AS "owner" FROM pg_catalog.pg_namespace N '
        "LEFT JOIN pg_catalog.pg_description D ON N.oid = D.objoid ORDER BY N.oid",
        "information_schema",
    ),
    "DataGrip: relations": (
        "SELECT T.relkind AS table_kind, T.relname AS table_name, T.oid AS table_id, T.xmin AS table_state_number, "
        "false AS table_with_oids, T.reltablespace AS tablespace_id, T.reloptions AS options, "
        "T.relpersistence AS persistence, (SELECT pg_catalog.array_agg(inhparent::bigint ORDER BY inhseqno)::varchar "
        "FROM pg_catalog.pg_inherits WHERE T.oid = inhrelid) AS ancestors, T.relispartition AS is_partition, "
        'pg_catalog.pg_get_partkeydef(T.oid) AS partition_key, T.relam AS am_id, '
        'pg_catalog.pg_get_userbyid(T.relowner) AS "owner" FROM pg_catalog.pg_class T '
        "WHERE relnamespace = '2200'::oid "
        "AND relkind IN ('r', 'm', 'v', 'f', 'p') ORDER BY table_kind, table_id",
        "ann",
    ),
    "DataGrip: columns": (
        "WITH T AS (SELECT DISTINCT T.oid AS table_id, T.relname AS table_name FROM pg_catalog.pg_class T, "
        "pg_catalog.pg_attribute A WHERE T.relnamespace = '2200'::oid AND T.relkind IN ('r', 'm', 'v', 'f', 'p') "
        "AND A.attrelid = T.oid) SELECT T.table_id, C.attnum AS column_position, C.attname AS column_name, "
        "C.xmin AS column_state_number, C.atttypmod AS type_mod, C.attndims AS dimensions_number, "
        "pg_catalog.format_type(C.atttypid, C.atttypmod) AS type_spec, C.atttypid AS type_id, "
        "C.attnotnull AS mandatory, pg_catalog.pg_get_expr(D.adbin, T.table_id) AS column_default_expression, "
        "NOT C.attislocal AS column_is_inherited, C.attisdropped AS column_is_dropped, C.attidentity, C.attgenerated "
        "FROM T JOIN pg_catalog.pg_attribute C ON T.table_id = C.attrelid LEFT JOIN pg_catalog.pg_attrdef D "
        "ON (C.attrelid, C.attnum) = (D.adrelid, D.adnum) WHERE attnum > 0 ORDER BY table_id, attnum",
        "timestamp with time zone",
    ),
    "Grafana: relations": (
        'SELECT quote_ident(table_name) AS "table" FROM information_schema.tables WHERE quote_ident(table_schema) '
        "NOT IN ('information_schema', 'pg_catalog') AND quote_ident(table_schema) IN (SELECT CASE WHEN trim(s[i]) "
        "= '\"$user\"' THEN user ELSE trim(s[i]) END FROM generate_series(array_lower(string_to_array("
        "current_setting('search_path'), ','), 1), array_upper(string_to_array("
        "current_setting('search_path'), ','), 1)) AS i, string_to_array(current_setting('search_path'), ',') s)",
        "pools",
    ),
    "Grafana: columns": (
        'SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns '
        "WHERE quote_ident(table_name) = 'history'",
        "bigint",
    ),
    "Grafana: version": ("SELECT current_setting('server_version_num')::int / 100", "126"),
    "Grafana: time series": (
        "SELECT floor(extract(epoch FROM since) / 60) * 60 AS \"time\", count(*) FROM waiting "
        "WHERE since BETWEEN '2026-11-22T08:00:00Z' AND '2026-11-22T09:00:00Z' GROUP BY 1 ORDER BY 1",
        "1795334700",
    ),
    "JDBC, Metabase: schemas": (
        "SELECT nspname AS TABLE_SCHEM, NULL AS TABLE_CATALOG FROM pg_catalog.pg_namespace WHERE nspname <> 'pg_toast' "
        "AND (nspname !~ '^pg_temp_' OR nspname = (pg_catalog.current_schemas(true))[1]) ORDER BY TABLE_SCHEM",
        "public",
    ),
    "JDBC, Metabase: relations": (
        "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, CASE n.nspname ~ '^pg_' "
        "OR n.nspname = 'information_schema' WHEN true THEN 'SYSTEM' ELSE CASE c.relkind WHEN 'r' THEN 'TABLE' "
        "WHEN 'v' THEN 'VIEW' END END AS TABLE_TYPE, d.description AS REMARKS FROM pg_catalog.pg_namespace n, "
        "pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 "
        "AND d.classoid = 'pg_class'::regclass) WHERE c.relnamespace = n.oid AND n.nspname LIKE 'public' "
        "ORDER BY TABLE_TYPE, TABLE_SCHEM, TABLE_NAME",
        "VIEW",
    ),
    "JDBC, Metabase: columns": (
        "SELECT * FROM (SELECT n.nspname, c.relname, a.attname, a.atttypid, a.attnotnull OR (t.typtype = 'd' "
        "AND t.typnotnull) AS attnotnull, a.atttypmod, a.attlen, t.typtypmod, row_number() OVER (PARTITION BY "
        "a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') AS attidentity, nullif(a.attgenerated, '') "
        "AS attgenerated, pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc, dsc.description, t.typbasetype, "
        "t.typtype FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid) "
        "JOIN pg_catalog.pg_attribute a ON (a.attrelid = c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid) "
        "LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid = def.adrelid AND a.attnum = def.adnum) "
        "LEFT JOIN pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid) "
        "LEFT JOIN pg_catalog.pg_class dc ON (dc.oid = dsc.classoid AND dc.relname = 'pg_class') "
        "LEFT JOIN pg_catalog.pg_namespace dn ON (dc.relnamespace = dn.oid AND dn.nspname = 'pg_catalog') "
        "WHERE c.relkind IN ('r', 'p', 'v', 'f', 'm') AND a.attnum > 0 AND NOT a.attisdropped "
        "AND c.relname LIKE 'clients') c ORDER BY nspname, c.relname, attnum",
        "connect_time",
    ),
    "JDBC, Metabase: primary keys": (
        "SELECT result.TABLE_CAT, result.COLUMN_NAME, result.KEY_SEQ FROM (SELECT NULL AS TABLE_CAT, n.nspname AS "
        "TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME, (information_schema._pg_expandarray("
        "i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME, information_schema._pg_expandarray(i.indkey) AS KEYS, "
        "a.attnum AS A_ATTNUM FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) "
        "JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON "
        "(a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE n.nspname = 'public' "
        "AND ct.relname = 'pools' AND i.indisprimary) result WHERE result.A_ATTNUM = (result.KEYS).x",
        None,
    ),
    "JDBC: type by name": (
        "SELECT n.nspname = ANY(current_schemas(true)), n.nspname, t.typname FROM pg_catalog.pg_type t "
        "JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = 1186",
        "interval",
    ),
    "Metabase: enums": (
        "SELECT nspname, typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid IN "
        "(SELECT DISTINCT enumtypid FROM pg_enum)",
        None,
    ),
    "Metabase: rights": (
        "WITH table_privileges AS (SELECT NULL AS role, t.schemaname AS schema, t.objectname AS table, "
        "pg_catalog.has_any_column_privilege(current_user, '\"' || t.schemaname || '\".\"' || t.objectname || '\"', "
        "'select') AS select FROM (SELECT schemaname, viewname AS objectname FROM pg_catalog.pg_views UNION "
        "SELECT schemaname, tablename FROM pg_catalog.pg_tables) t WHERE t.schemaname !~ '^pg_' AND t.schemaname "
        "<> 'information_schema' AND pg_catalog.has_schema_privilege(current_user, t.schemaname, 'USAGE')) "
        "SELECT t.* FROM table_privileges t WHERE t.select",
        "pools",
    ),
    "pgAdmin: connection": (
        "SELECT db.oid AS did, db.datname, db.datallowconn, pg_catalog.pg_encoding_to_char(db.encoding) AS "
        "serverencoding, pg_catalog.has_database_privilege(db.oid, 'CREATE') AS cancreate, datistemplate "
        "FROM pg_catalog.pg_database db WHERE db.datname = pg_catalog.current_database()",
        "UTF8",
    ),
    "pgAdmin: user": (
        "SELECT roles.oid AS id, roles.rolname AS name, roles.rolsuper AS is_superuser, CASE WHEN roles.rolsuper THEN "
        "true ELSE roles.rolcreaterole END AS can_create_role FROM pg_catalog.pg_roles AS roles "
        "WHERE rolname = current_user",
        "ann",
    ),
    "pgAdmin: views": (
        "SELECT c.oid, c.relname AS name, description AS comment FROM pg_catalog.pg_class c LEFT OUTER JOIN "
        "pg_catalog.pg_description des ON (des.objoid = c.oid AND des.objsubid = 0 AND des.classoid = "
        "'pg_class'::regclass) WHERE c.relkind = 'v' AND c.relnamespace = 2200::oid ORDER BY c.relname",
        "pools",
    ),
    "pgAdmin: a view": (
        "SELECT c.oid, c.xmin, (CASE WHEN length(spc.spcname::text) > 0 THEN spc.spcname ELSE (SELECT sp.spcname FROM "
        "pg_catalog.pg_database dtb JOIN pg_catalog.pg_tablespace sp ON dtb.dattablespace = sp.oid WHERE "
        "dtb.oid = (SELECT oid FROM pg_catalog.pg_database LIMIT 1)) END) AS spcname, c.relname AS name, "
        "pg_catalog.pg_get_userbyid(c.relowner) AS owner, pg_catalog.array_to_string(c.relacl::text[], ', ') AS acl, "
        "pg_catalog.pg_get_viewdef(c.oid, true) AS definition FROM pg_catalog.pg_class c LEFT OUTER JOIN "
        f"pg_catalog.pg_tablespace spc ON spc.oid = c.reltablespace WHERE c.oid = {CLASS_OF_POOLS}",
        "pg_default",
    ),
    "pgAdmin: dashboard": (
        "SELECT 'session_stats' AS chart_name, pg_catalog.row_to_json(t) AS chart_data FROM (SELECT "
        '(SELECT count(*) FROM pg_catalog.pg_stat_activity) AS "Total", (SELECT count(*) FROM '
        "pg_catalog.pg_stat_activity WHERE state = 'active') AS \"Active\") t",
        "session_stats",
    ),
    "Npgsql: types": (
        "SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid FROM (SELECT typ.oid, "
        "typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind, elemtyp.oid AS "
        "elemtypoid FROM (SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem AS elemoid, "
        "CASE WHEN proc.proname = 'array_recv' THEN 'a' ELSE typ.typtype END AS typtype FROM pg_type AS typ LEFT JOIN "
        "pg_class AS cls ON cls.oid = typ.typrelid LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive) AS typ "
        "LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = typ.elemoid) AS t JOIN pg_namespace AS ns "
        "ON ns.oid = typnamespace WHERE t.typtype IN ('b', 'r', 'm', 'e', 'd') ORDER BY t.oid",
        "timestamptz",
    ),
    "ODBC: oldest": (
        "SELECT relname, nspname, relkind FROM pg_catalog.pg_class c, pg_catalog.pg_namespace n WHERE relkind IN "
        "('r', 'v') AND nspname NOT IN ('pg_catalog', 'information_schema') AND n.oid = relnamespace AND relhasoids "
        "IS NOT NULL ORDER BY nspname, relname",
        "pools",
    ),
    "Django: relations": (
        "SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, "
        "obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n "
        "ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN "
        "('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid)",
        "pools",
    ),
    "psycopg: a type": ("SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, typdelim "
                        "AS delimiter FROM pg_type t WHERE t.oid = to_regtype('timestamptz') ORDER BY t.oid", "1185"),
    "psycopg2: hstore": (
        "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'",
        None,
    ),
}  # fmt: skip


async def _answers() -> dict[str, tuple[list[tuple[str, str]], list[list[str | None]]]]:
    async def one(caller: Caller, question: str) -> tuple[list[tuple[str, str]], list[list[str | None]]]:
        answer = await caller.query(question)
        return errors(answer), rows(answer)

    async with calling() as caller, asyncio.timeout(60):
        return {name: await one(caller, question) for name, (question, _) in QUESTIONS.items()}


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[list[tuple[str, str]], list[list[str | None]]]]:
    return asyncio.run(_answers())


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_tools_question_is_answered(
    name: str, answers: dict[str, tuple[list[tuple[str, str]], list[list[str | None]]]]
) -> None:
    refusals, found = answers[name]
    assert refusals == []
    value = QUESTIONS[name][1]
    assert value is None or any(value in row for row in found)


@pytest.mark.parametrize("name", [name for name, (_, value) in QUESTIONS.items() if value is not None])
def test_nobody_is_told_of_what_the_server_is_made_of(
    name: str, answers: dict[str, tuple[list[tuple[str, str]], list[list[str | None]]]]
) -> None:
    made_of = {"pooler_throwaway", "pooler_keeper", "pooler_visitors", "embedded_class", "pg_temp_0", "console"}
    assert not [value for row in answers[name][1] for value in row if value in made_of]


@pytest.fixture
def console() -> Iterator[Door]:
    with door() as opened:
        yield opened


def test_sqlalchemy_reflects_a_view(console: Door) -> None:
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://ann@127.0.0.1:{console.port}/pgbouncer")
    try:
        inspector = sqlalchemy.inspect(engine)
        assert "pools" in inspector.get_view_names()
        assert inspector.get_table_names() == []
        kinds = {column["name"]: str(column["type"]) for column in inspector.get_columns("clients")}
        assert (kinds["id"], kinds["connect_time"]) == ("INTEGER", "TIMESTAMP")
        assert inspector.get_pk_constraint("pools")["constrained_columns"] == []
    finally:
        engine.dispose()


def test_asyncpg_learns_a_type_it_does_not_know(console: Door) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=console.port, user="ann", database="pgbouncer", ssl=False
        )
        try:
            row = await connection.fetchrow(
                "select s, interval '2 s' as i, '{1,2}'::int[] as a from state s where key = $1", "paused"
            )
            assert tuple(row["s"]) == ("paused", "no")
            assert (row["i"].total_seconds(), row["a"]) == (2, [1, 2])
        finally:
            await connection.close()

    asyncio.run(scenario())


def test_psycopg_has_intervals_arrays_and_a_cursor_in_binary(console: Door) -> None:
    with psycopg.connect(host="127.0.0.1", port=console.port, user="ann", dbname="pgbouncer") as connection:
        for binary in (False, True):
            found = connection.execute("select now() - since, array[1, 2], 1.50 from waiting", binary=binary).fetchone()
            assert found is not None
            assert (found[0].total_seconds(), found[1], str(found[2])) == (2.5, [1, 2], "1.50")
            with connection.cursor("named", binary=binary) as named:
                named.execute("select id, connect_time from clients order by id")
                assert [row[0] for row in named.fetchmany(2)] == [1, 2]
                assert [row[0] for row in named.fetchall()] == [3]
        with (
            connection.cursor() as cursor,
            cursor.copy("copy (select database from pools order by 1) to stdout") as copy,
        ):
            assert b"".join(copy) == b"blog\nblog\nshop\n"


BACKSLASHES = r"""
\d
\d pools
\d+ pools
\d pg_class
\dS
\da
\dA
\db
\db+
\dc
\dC
\dd
\dD
\ddp
\dE
\des
\det
\deu
\dew
\df
\df+ pg_catalog.date_trunc
\dF
\dFd
\dFp
\dFt
\dg
\di
\dl
\dL
\dm
\dn
\dn+
\do
\dO
\dp
\dP
\drds
\ds
\dt
\dt *.*
\dT
\dT+
\du
\du+
\dv
\dv+ public.*
\dx
\dy
\l
\l+
\sv pools
\sf pg_catalog.now
\z
\conninfo
\encoding
select database, count(*) from pools group by 1 \gdesc
select database, "user", cl_active from pools \crosstabview
select 'pools' as v \gset
select count(*) from :v;
\copy pools (database, "user") to stdout csv header
"""


def psql(console: Door, typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["psql", "-X", "-h", "127.0.0.1", "-p", str(console.port), "-U", "ann", "pgbouncer"],
        input=typed, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql here")
def test_psqls_backslashes_are_answered(console: Door) -> None:
    done = psql(console, BACKSLASHES)
    assert not [line for line in done.stderr.splitlines() if "ERROR" in line or "invalid" in line]
    assert 'View "public.pools"' in done.stdout
    assert "database,user\nblog,amy\nblog,zoe\nshop,app\n" in done.stdout


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql here")
def test_psql_points_at_the_word(console: Door) -> None:
    assert psql(console, "select user,\n databse from pools;").stderr.splitlines()[-4:] == [
        'ERROR:  column "databse" does not exist',
        "LINE 2:  databse from pools;",
        "         ^",
        'HINT:  Perhaps you meant to reference the column "pools.database".',
    ]


def test_pgcli_starts_and_completes(console: Door) -> None:
    """The program itself, where it is installed."""
    pgexecute = pytest.importorskip("pgcli.pgexecute")
    special = importlib.import_module("pgspecial.main").PGSpecial()
    session = pgexecute.PGExecute("pgbouncer", "ann", "", "127.0.0.1", console.port, None)
    assert session.search_path() == ["pg_catalog", "public"]
    assert ("public", "pools") in list(session.views())
    assert "cl_waiting" in [column[2] for column in session.view_columns()]
    for question in (session.tables, session.table_columns, session.foreignkeys, session.functions, session.datatypes):
        list(question())
    for command in (r"\d", r"\d pools", r"\d+ pools", r"\dv", r"\dt", r"\dn", r"\l", r"\du", r"\df", r"\dT", r"\dp"):
        for _, found, _, status, _, success, _ in session.run(command, special):
            assert success, status
            list(found or ())
    session.conn.close()
