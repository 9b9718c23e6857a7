"""What PostgreSQL's system catalogues say of the console's views, for `\\d`, tab completion and drivers
that look first.

The views are relations of kind `v` in schema public, owned by who is asking. Catalogues of things that do
not exist here (indexes, triggers, ...) are there and empty. The rule: what is said must be true of the
console; a question that cannot be answered gets no rows, never an error that ends a `\\d`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from admin import fieldtypes
from admin.fieldtypes import BOOL, CHAR, INT4, INT8, NAME, OID, TEXT, TIMESTAMPTZ
from admin.sql.functions import FORMATTED, Facts, view_definition
from admin.views import VIEWS, View
from pooler.wire import TYPE_SIZES

FIRST_OID, FIRST_CATALOGUE = 16_384, 10_000
PUBLIC, PG_CATALOG, INFORMATION_SCHEMA = 2200, 11, 13_000
OWNER = 10
DATABASE_OID = 5

_LETTERS = {"o": OID, "n": NAME, "i": INT4, "q": INT8, "s": TEXT, "b": BOOL, "c": CHAR, "t": TIMESTAMPTZ}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A table of the catalogue. Rows name only the columns they have something to say about; the rest is 0,
    false or NULL by the column's type."""

    name: str
    columns: tuple[tuple[str, int], ...]
    rows: Callable[[Facts], Iterable[Row]]

    def tuples(self, facts: Facts) -> Iterator[tuple[Any, ...]]:
        for row in self.rows(facts):
            yield tuple(row.get(name, _ABSENT.get(oid)) for name, oid in self.columns)


_ABSENT = {OID: 0, BOOL: 0, INT4: 0, INT8: 0}


def _columns(spec: str) -> tuple[tuple[str, int], ...]:
    """`o:oid n:relname`: type letter and name."""
    return tuple((word[2:], _LETTERS[word[0]]) for word in spec.split())


@cache
def relation_oids() -> dict[str, int]:
    """By name, of the views and of the catalogues themselves."""
    own = {view.name.lower(): FIRST_OID + place for place, view in enumerate(VIEWS)}
    return own | {table.name: FIRST_CATALOGUE + place for place, table in enumerate(CATALOGUES)}


def _class_rows(facts: Facts) -> Iterator[Row]:
    for view in VIEWS:
        yield {
            "oid": relation_oids()[view.name.lower()],
            "relname": view.name.lower(),
            "relnamespace": PUBLIC,
            "relkind": "v",
            "relowner": OWNER,
            "relnatts": len(view.columns),
            "relpersistence": "p",
            "relreplident": "n",
            "reltuples": -1,
            "relispopulated": 1,
        }


def _attribute_rows(facts: Facts) -> Iterator[Row]:
    for view in VIEWS:
        for number, column in enumerate(view.columns, 1):
            yield {
                "attrelid": relation_oids()[view.name.lower()],
                "attname": column.name,
                "atttypid": column.oid,
                "attlen": TYPE_SIZES.get(column.oid, -1),
                "attnum": number,
                "atttypmod": -1,
                "attstorage": "p",
                "attidentity": "",
                "attgenerated": "",
                "attislocal": 1,
            }


def _type_rows(facts: Facts) -> Iterator[Row]:
    arrays = {element: oid for oid, element in fieldtypes.ARRAYS.items()}
    for oid, kind in fieldtypes.TYPES.items():
        element = fieldtypes.ARRAYS.get(oid, 0)
        yield {
            "oid": oid,
            "typname": f"_{fieldtypes.TYPES[element].name}" if element else kind.name,
            "typnamespace": PG_CATALOG,
            "typowner": OWNER,
            "typlen": TYPE_SIZES.get(oid, -1),
            "typtype": "b",
            "typcategory": "A" if element else "N" if oid in fieldtypes.NUMBERS else "S",
            "typisdefined": 1,
            "typdelim": ",",
            "typelem": element,
            "typarray": arrays.get(oid, 0),
            "typtypmod": -1,
            "typinput": kind.name + "in",
        }


def _namespace_rows(facts: Facts) -> Iterator[Row]:
    names = (("public", PUBLIC), ("pg_catalog", PG_CATALOG), ("information_schema", INFORMATION_SCHEMA))
    for name, oid in names:
        yield {"oid": oid, "nspname": name, "nspowner": OWNER}


def _role_rows(facts: Facts) -> Iterator[Row]:
    yield {
        "oid": OWNER, "rolname": facts.user, "rolsuper": 1, "rolinherit": 1, "rolcanlogin": 1, "rolconnlimit": -1,
        "usename": facts.user, "usesysid": OWNER, "usesuper": 1,
    }  # fmt: skip


def _database_rows(facts: Facts) -> Iterator[Row]:
    yield {
        "oid": DATABASE_OID, "datname": "pgbouncer", "datdba": OWNER, "encoding": 6, "datcollate": "C",
        "datctype": "C", "datallowconn": 1, "datconnlimit": -1, "datlocprovider": "c", "dattablespace": 1663,
    }  # fmt: skip


def _view_rows(facts: Facts) -> Iterator[Row]:
    for view in VIEWS:
        yield {"schemaname": "public", "viewname": view.name.lower(), "viewowner": facts.user,
               "definition": view_definition(view.name)}  # fmt: skip


def _setting_rows(facts: Facts) -> Iterator[Row]:
    for name, value in sorted(facts.parameters.items()):
        yield {"name": name, "setting": value, "category": "Session", "context": "user", "vartype": "string",
               "source": "default", "boot_val": value, "reset_val": value}  # fmt: skip


def _information_tables(facts: Facts) -> Iterator[Row]:
    for view in VIEWS:
        yield {"table_catalog": "pgbouncer", "table_schema": "public", "table_name": view.name.lower(),
               "table_type": "VIEW", "is_insertable_into": "NO", "is_typed": "NO",
               "view_definition": view_definition(view.name), "is_updatable": "NO"}  # fmt: skip


def _information_columns(facts: Facts) -> Iterator[Row]:
    for view in VIEWS:
        for number, column in enumerate(view.columns, 1):
            kind = fieldtypes.field_type(column.oid)
            yield {
                "table_catalog": "pgbouncer", "table_schema": "public", "table_name": view.name.lower(),
                "column_name": column.name, "ordinal_position": number, "is_nullable": "YES",
                "data_type": FORMATTED.get(column.oid, kind.name), "udt_catalog": "pgbouncer",
                "udt_schema": "pg_catalog", "udt_name": kind.name, "is_identity": "NO", "is_generated": "NEVER",
                "is_updatable": "NO",
            }  # fmt: skip


def _schema_rows(facts: Facts) -> Iterator[Row]:
    for row in _namespace_rows(facts):
        yield {"catalog_name": "pgbouncer", "schema_name": row["nspname"], "schema_owner": facts.user}


def _none(facts: Facts) -> tuple[Row, ...]:
    return ()


def _table(name: str, spec: str, rows: Callable[[Facts], Iterable[Row]] = _none) -> Catalogue:
    return Catalogue(name, _columns(spec), rows)


CATALOGUES: tuple[Catalogue, ...] = (
    _table(
        "pg_class",
        "o:oid n:relname o:relnamespace o:reltype o:reloftype o:relowner o:relam o:relfilenode o:reltablespace "
        "i:relpages i:reltuples i:relallvisible o:reltoastrelid b:relhasindex b:relisshared c:relpersistence "
        "c:relkind i:relnatts i:relchecks b:relhasrules b:relhastriggers b:relhassubclass b:relrowsecurity "
        "b:relforcerowsecurity b:relispopulated c:relreplident b:relispartition o:relrewrite b:relhasoids q:xmin "
        "s:relacl s:reloptions s:relpartbound",
        _class_rows,
    ),
    _table(
        "pg_attribute",
        "o:attrelid n:attname o:atttypid i:attstattarget i:attlen i:attnum i:attndims i:attcacheoff i:atttypmod "
        "b:attbyval c:attstorage c:attalign c:attcompression b:attnotnull b:atthasdef b:atthasmissing c:attidentity "
        "c:attgenerated b:attisdropped b:attislocal i:attinhcount o:attcollation s:attacl s:attoptions s:attfdwoptions",
        _attribute_rows,
    ),
    _table(
        "pg_type",
        "o:oid n:typname o:typnamespace o:typowner i:typlen b:typbyval c:typtype c:typcategory b:typispreferred "
        "b:typisdefined c:typdelim o:typrelid o:typelem o:typarray s:typinput s:typoutput c:typalign c:typstorage "
        "b:typnotnull o:typbasetype i:typtypmod i:typndims o:typcollation s:typdefault s:typacl",
        _type_rows,
    ),
    _table("pg_namespace", "o:oid n:nspname o:nspowner s:nspacl", _namespace_rows),
    _table(
        "pg_roles",
        "o:oid n:rolname b:rolsuper b:rolinherit b:rolcreaterole b:rolcreatedb b:rolcanlogin b:rolreplication "
        "i:rolconnlimit s:rolpassword t:rolvaliduntil b:rolbypassrls s:rolconfig",
        _role_rows,
    ),
    _table("pg_user", "n:usename o:usesysid b:usecreatedb b:usesuper b:userepl b:usebypassrls", _role_rows),
    _table(
        "pg_database",
        "o:oid n:datname o:datdba i:encoding c:datlocprovider b:datistemplate b:datallowconn i:datconnlimit "
        "o:dattablespace n:datcollate n:datctype s:daticulocale s:daticurules s:datcollversion s:datacl q:xmin",
        _database_rows,
    ),
    _table("pg_views", "n:schemaname n:viewname n:viewowner s:definition", _view_rows),
    _table("pg_tables", "n:schemaname n:tablename n:tableowner n:tablespace b:hasindexes b:hasrules b:hastriggers"),
    _table("pg_matviews", "n:schemaname n:matviewname n:matviewowner n:tablespace b:ispopulated s:definition"),
    _table("pg_indexes", "n:schemaname n:tablename n:indexname n:tablespace s:indexdef"),
    _table("pg_sequences", "n:schemaname n:sequencename n:sequenceowner q:last_value"),
    _table(
        "pg_settings",
        "s:name s:setting s:unit s:category s:short_desc s:extra_desc s:context s:vartype s:source s:min_val "
        "s:max_val s:enumvals s:boot_val s:reset_val s:sourcefile i:sourceline b:pending_restart",
        _setting_rows,
    ),
    _table(
        "pg_index",
        "o:indexrelid o:indrelid i:indnatts i:indnkeyatts b:indisunique b:indisprimary b:indisexclusion "
        "b:indimmediate b:indisclustered b:indisvalid b:indcheckxmin b:indisready b:indislive b:indisreplident "
        "s:indkey s:indcollation s:indclass s:indoption s:indexprs s:indpred b:indnullsnotdistinct",
    ),
    _table(
        "pg_constraint",
        "o:oid n:conname o:connamespace c:contype b:condeferrable b:condeferred b:convalidated o:conrelid o:contypid "
        "o:conindid o:conparentid o:confrelid c:confupdtype c:confdeltype c:confmatchtype b:conislocal i:coninhcount "
        "s:conkey s:confkey s:conbin",
    ),
    _table(
        "pg_proc",
        "o:oid n:proname o:pronamespace o:proowner o:prolang c:prokind b:proisagg b:proretset o:prorettype "
        "s:proargtypes i:pronargs s:prosrc s:proargnames s:proallargtypes s:proargmodes o:provariadic",
    ),
    _table(
        "pg_stat_activity",
        "o:datid n:datname i:pid o:usesysid n:usename s:application_name s:client_addr s:state s:query t:query_start "
        "t:xact_start t:backend_start t:state_change s:wait_event_type s:wait_event s:backend_type",
    ),
    _table("pg_attrdef", "o:oid o:adrelid i:adnum s:adbin"),
    _table("pg_description", "o:objoid o:classoid i:objsubid s:description"),
    _table("pg_shdescription", "o:objoid o:classoid s:description"),
    _table("pg_inherits", "o:inhrelid o:inhparent i:inhseqno b:inhdetachpending"),
    _table("pg_depend", "o:classid o:objid i:objsubid o:refclassid o:refobjid i:refobjsubid c:deptype"),
    _table("pg_am", "o:oid n:amname s:amhandler c:amtype"),
    _table("pg_enum", "o:oid o:enumtypid i:enumsortorder n:enumlabel"),
    _table("pg_range", "o:rngtypid o:rngsubtype o:rngmultitypid o:rngcollation"),
    _table("pg_trigger", "o:oid o:tgrelid o:tgparentid n:tgname b:tgisinternal c:tgenabled i:tgtype o:tgfoid"),
    _table("pg_extension", "o:oid n:extname o:extowner o:extnamespace b:extrelocatable s:extversion"),
    _table("pg_tablespace", "o:oid n:spcname o:spcowner s:spcacl s:spcoptions"),
    _table("pg_collation", "o:oid n:collname o:collnamespace o:collowner c:collprovider i:collencoding"),
    _table("pg_auth_members", "o:roleid o:member o:grantor b:admin_option"),
    _table("pg_language", "o:oid n:lanname o:lanowner b:lanispl"),
    _table("pg_event_trigger", "o:oid n:evtname n:evtevent o:evtowner o:evtfoid c:evtenabled s:evttags"),
    _table("pg_foreign_table", "o:ftrelid o:ftserver s:ftoptions"),
    _table("pg_foreign_server", "o:oid n:srvname o:srvowner o:srvfdw s:srvoptions"),
    _table("pg_sequence", "o:seqrelid o:seqtypid q:seqstart q:seqincrement q:seqmax q:seqmin q:seqcache b:seqcycle"),
    _table("pg_policy", "o:oid n:polname o:polrelid c:polcmd b:polpermissive s:polroles s:polqual s:polwithcheck"),
    _table("pg_rewrite", "o:oid n:rulename o:ev_class c:ev_type c:ev_enabled b:is_instead"),
    _table("pg_publication", "o:oid n:pubname o:pubowner b:puballtables"),
    _table("pg_publication_rel", "o:oid o:prpubid o:prrelid s:prqual s:prattrs"),
    _table("pg_publication_namespace", "o:oid o:pnpubid o:pnnspid"),
    _table("pg_statistic_ext", "o:oid o:stxrelid n:stxname o:stxnamespace o:stxowner i:stxstattarget s:stxkind"),
    _table("pg_partitioned_table", "o:partrelid c:partstrat i:partnatts o:partdefid s:partattrs"),
    _table("pg_prepared_statements", "s:name s:statement t:prepare_time s:parameter_types b:from_sql"),
    _table("pg_cursors", "s:name s:statement b:is_holdable b:is_binary b:is_scrollable t:creation_time"),
    _table("pg_locks", "s:locktype o:database o:relation i:pid s:mode b:granted"),
    _table("pg_stat_user_tables", "o:relid n:schemaname n:relname q:seq_scan q:n_live_tup q:n_dead_tup"),
    _table(
        "information_schema.tables",
        "n:table_catalog n:table_schema n:table_name s:table_type s:is_insertable_into s:is_typed",
        _information_tables,
    ),
    _table(
        "information_schema.views",
        "n:table_catalog n:table_schema n:table_name s:view_definition s:is_updatable",
        _information_tables,
    ),
    _table(
        "information_schema.columns",
        "n:table_catalog n:table_schema n:table_name n:column_name i:ordinal_position s:column_default s:is_nullable "
        "s:data_type s:character_maximum_length s:numeric_precision s:numeric_scale s:datetime_precision "
        "n:udt_catalog n:udt_schema n:udt_name s:is_identity s:is_generated s:is_updatable",
        _information_columns,
    ),
    _table("information_schema.schemata", "n:catalog_name n:schema_name n:schema_owner", _schema_rows),
    _table(
        "information_schema.table_constraints",
        "n:constraint_catalog n:constraint_schema n:constraint_name n:table_catalog n:table_schema n:table_name "
        "s:constraint_type",
    ),
    _table(
        "information_schema.key_column_usage",
        "n:constraint_catalog n:constraint_schema n:constraint_name n:table_catalog n:table_schema n:table_name "
        "n:column_name i:ordinal_position i:position_in_unique_constraint",
    ),
    _table(
        "information_schema.constraint_column_usage",
        "n:table_catalog n:table_schema n:table_name n:column_name n:constraint_schema n:constraint_name",
    ),
    _table(
        "information_schema.referential_constraints",
        "n:constraint_schema n:constraint_name n:unique_constraint_schema n:unique_constraint_name",
    ),
    _table("information_schema.routines", "n:routine_schema n:routine_name s:routine_type s:data_type"),
    _table("information_schema.sequences", "n:sequence_schema n:sequence_name s:data_type"),
    _table("information_schema.triggers", "n:trigger_schema n:trigger_name n:event_object_table"),
    _table("information_schema.character_sets", "n:character_set_name s:character_repertoire n:default_collate_name"),
)

BY_NAME = {table.name: table for table in CATALOGUES}


def looks_like_catalogue(name: str) -> bool:
    """Whether a relation's name is one of PostgreSQL's own, known here or not."""
    return name == "information_schema" or (name.startswith("pg_") and name != "pg_catalog")


__all__ = ["BY_NAME", "CATALOGUES", "Catalogue", "View", "looks_like_catalogue", "relation_oids"]
