"""What stands in the throw-away server: the views, and a catalogue that tells of the console.

Text for PostgreSQL's single-user mode, where the superuser alone may be. A view takes its rows from a temporary table
of the session's own, which is filled for one statement; a table that was not filled is not there, so a view that was
not understood is an error. Tables, views and functions of the catalogue that would tell of this server instead of the
console, or lack the columns that tools of PostgreSQL 9 ask for (the console's version is 1.x), are renamed, and others
stand under their names. The rule: a visitor reads and does nothing else, and nothing it does outlives its statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from admin.sql.spelling import KEEPER, OWN, VISITORS, declared, literal, quoted
from admin.views import View
from pooler.stats import ADMIN_DATABASE

FORBIDDEN = """
    set\\_config pg\\_sleep% pg\\_notify pg_cancel_backend pg_terminate_backend
    pg_export_snapshot pg_logical_emit_message lo\\_% loread lowrite
    pg\\_advisory\\_lock% pg\\_advisory\\_xact% pg\\_try\\_advisory\\_%
    query\\_to\\_xml% cursor\\_to\\_xml% table\\_to\\_xml% schema\\_to\\_xml% database\\_to\\_xml% ts\\_stat
"""
"""Functions that leave something behind, wait, or run a statement that nobody has looked at."""

HIDDEN = f"'^(embedded_|{OWN}$|pg_temp|pg_toast)'"
"""Names of what the catalogue does not tell of."""

OLD_COLUMNS = {
    "pg_class": "false AS relhasoids, 0::int2 AS reltriggers, 0::int2 AS relukeys, 0::int2 AS relfkeys",
    "pg_proc": "(prokind = 'a') AS proisagg, (prokind = 'w') AS proiswindow",
    "pg_attrdef": "pg_catalog.pg_get_expr(adbin, adrelid) AS adsrc",
    "pg_constraint": "NULL::text AS consrc",
    "pg_tablespace": "''::text AS spclocation",
    "pg_database": "0::oid AS datlastsysoid, NULL::text[] AS datconfig",
    "pg_trigger": "false AS tgisconstraint",
    "pg_namespace": "",
    "pg_type": "",
    "pg_roles": "",
    "pg_user": "",
    "pg_group": "",
    "pg_tables": "",
    "pg_views": "",
}
"""Tables of the catalogue with the columns that they had in servers of old, for who takes the console for one."""

KEPT = {
    "pg_class": f"relname !~ {HIDDEN} AND relnamespace::regnamespace::text !~ {HIDDEN}",
    "pg_proc": f"proname !~ {HIDDEN} AND pronamespace::regnamespace::text !~ {HIDDEN}",
    "pg_type": f"typname !~ '^_?embedded_' AND typnamespace::regnamespace::text !~ {HIDDEN}",
    "pg_tablespace": "spcname <> 'pg_global'",
    "pg_namespace": f"nspname !~ {HIDDEN}",
    "pg_database": "datname = current_database()",
    "pg_roles": "rolname = current_user",
    "pg_user": "usename = current_user",
    "pg_group": "groname !~ '^(pooler|pg)_'",
    "pg_tables": f"schemaname !~ {HIDDEN} AND tablename !~ {HIDDEN}",
    "pg_views": f"schemaname !~ {HIDDEN} AND viewname !~ {HIDDEN}",
}
"""Which rows of them are told."""

VIEWS_OF_IT = frozenset({"pg_roles", "pg_user", "pg_group", "pg_tables", "pg_views"})
"""Which of them are views."""

INFORMATION = {
    "schemata": "schema_name",
    "tables": "table_schema table_name",
    "columns": "table_schema table_name",
    "views": "table_schema table_name",
    "routines": "routine_schema routine_name",
    "table_privileges": "table_schema table_name",
    "column_privileges": "table_schema table_name",
}
"""Views of the information schema, and their columns with names that may be HIDDEN."""

FUNCTIONS = """
version() text: pg_catalog.embedded_setting('console.version')
now() timestamptz: pg_catalog.embedded_setting('console.now')::timestamptz
pg_backend_pid() int4: pg_catalog.embedded_setting('console.pid')::int4
pg_postmaster_start_time() timestamptz: pg_catalog.embedded_setting('console.started')::timestamptz
pg_conf_load_time() timestamptz: pg_catalog.embedded_setting('console.started')::timestamptz
pg_get_userbyid(oid) name: CASE WHEN $1 = 10 THEN current_user ELSE pg_catalog.embedded_get_userbyid($1) END
current_schemas(bool) name[]: ARRAY(SELECT s FROM unnest(pg_catalog.embedded_schemas($1)) s WHERE s !~ '^pg_temp')
current_setting(text) text: coalesce(console.parameter($1), pg_catalog.embedded_setting($1))
current_setting(text,bool) text: coalesce(console.parameter($1), pg_catalog.embedded_setting($1, $2))
"""
"""Functions that tell of the console. A statement's moment is that of its rows."""

RENAMED = {
    "current_setting(text)": "embedded_setting",
    "current_setting(text,bool)": "embedded_setting",
    "current_schemas(bool)": "embedded_schemas",
    "version()": "embedded_version",
    "now()": "embedded_now",
    "pg_backend_pid()": "embedded_backend_pid",
    "pg_postmaster_start_time()": "embedded_postmaster_start_time",
    "pg_conf_load_time()": "embedded_conf_load_time",
    "pg_get_userbyid(oid)": "embedded_get_userbyid",
}

PARAMETER = """
CREATE FUNCTION console.parameter(name text) RETURNS text STABLE LANGUAGE sql
AS $$ SELECT pg_catalog.embedded_setting('console.parameters')::json ->> lower($1) $$
"""

SETTINGS = """
CREATE VIEW pg_catalog.pg_settings AS
SELECT name, console.parameter(name) AS setting, unit, category, short_desc, extra_desc, context, vartype, source,
min_val, max_val, enumvals, console.parameter(name) AS boot_val, console.parameter(name) AS reset_val,
NULL::text AS sourcefile, NULL::integer AS sourceline, false AS pending_restart
FROM pg_catalog.embedded_settings WHERE console.parameter(name) IS NOT NULL
"""
ACTIVITY = """
CREATE VIEW pg_catalog.pg_stat_activity AS
SELECT datid, datname, pg_catalog.pg_backend_pid() AS pid, leader_pid, usesysid, usename, application_name, client_addr,
client_hostname, client_port, backend_start, xact_start, query_start, state_change, wait_event_type, wait_event, state,
backend_xid, backend_xmin, query_id, query, backend_type
FROM pg_catalog.embedded_stat_activity WHERE pid = pg_catalog.embedded_backend_pid()
"""


def in_cluster() -> str:
    """Statements for the cluster as initdb leaves it."""
    return _script(
        f"CREATE ROLE {KEEPER} LOGIN CREATEROLE",
        f"CREATE ROLE {VISITORS} NOLOGIN ADMIN {KEEPER}",
        f"GRANT pg_read_all_data TO {VISITORS}",  # there is nothing else than what visitors may see
        f"CREATE DATABASE {ADMIN_DATABASE} TEMPLATE template0",
    )


def in_database(views: Sequence[View]) -> str:
    """Statements for ADMIN_DATABASE; those for the catalogue need the permission that -O gives. Without views the
    visitor makes its tables itself."""
    return _script(
        f"ALTER DATABASE {ADMIN_DATABASE} SET search_path = public, pg_temp",
        f"CREATE SCHEMA {OWN}",
        "SET check_function_bodies = off",
        _forbidding(),
        *(f"ALTER FUNCTION pg_catalog.{call} RENAME TO {name}" for call, name in RENAMED.items()),
        PARAMETER,
        *_functions(),
        *(f"ALTER VIEW pg_catalog.pg_{name} RENAME TO embedded_{name}" for name in ("settings", "stat_activity")),
        SETTINGS,
        ACTIVITY,
        *_tables(),
        *(() if views else ("GRANT CREATE ON SCHEMA public TO PUBLIC",)),
        *(statement for view in views for statement in _view(view)),
    )


def _script(*statements: str) -> str:
    """For single-user mode with -j, where a statement ends with a semicolon and an empty line."""
    return "".join(f"{statement.strip()};\n\n" for statement in statements)


def _functions() -> Iterator[str]:
    for line in FUNCTIONS.strip().splitlines():
        head, _, body = line.partition(": ")
        call, _, result = head.rpartition(" ")
        strict = "STRICT" if "$" in body else ""
        yield f"CREATE FUNCTION pg_catalog.{call} RETURNS {result} STABLE {strict} LANGUAGE sql AS $$ SELECT {body} $$"


def _tables() -> Iterator[str]:
    for table, more in OLD_COLUMNS.items():
        own = table.replace("pg_", "embedded_")
        is_view = table in VIEWS_OF_IT
        yield f"ALTER {'VIEW' if is_view else 'TABLE'} pg_catalog.{table} RENAME TO {own}"
        columns = ", ".join(filter(None, ("*", "" if is_view else "xmin AS xmin, tableoid AS tableoid", more)))
        rows = f" WHERE {KEPT[table]}" if table in KEPT else ""
        yield f"CREATE VIEW pg_catalog.{table} AS SELECT {columns} FROM pg_catalog.{own}{rows}"

    for name, columns in INFORMATION.items():
        kept = " AND ".join(f"{column} !~ {HIDDEN}" for column in columns.split())
        yield f"ALTER VIEW information_schema.{name} RENAME TO embedded_{name}"
        yield (
            f"CREATE VIEW information_schema.{name} AS SELECT * FROM information_schema.embedded_{name} WHERE {kept}"
        )


def _view(view: View) -> Iterator[str]:
    name = quoted(view.name.lower())
    yield (
        f"CREATE FUNCTION {OWN}.{name}() RETURNS TABLE ({_declared(view)}) STABLE LANGUAGE sql ROWS 100 "
        f"AS $$ SELECT * FROM pg_temp.{name} $$"
    )
    columns = ", ".join(quoted(column.name) for column in view.columns)
    yield f"CREATE VIEW public.{name} AS SELECT {columns} FROM {OWN}.{name}()"


def _declared(view: View) -> str:
    return declared((column.name, column.oid) for column in view.relation)


def _forbidding() -> str:
    names = ", ".join(literal(name) for name in FORBIDDEN.split())
    return (
        "DO $$ DECLARE f regprocedure; BEGIN "
        f"FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE proname LIKE ANY (ARRAY[{names}]) LOOP "
        "EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$"
    )
