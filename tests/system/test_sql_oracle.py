"""SQL over the views against a real PostgreSQL that has the same rows in tables: each statement of a list has the same
columns, types and rows there and here, or the same error with its place, its detail and its hint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import pq, sql

from admin.fieldtypes import TYPES
from admin.sql.spelling import declared
from admin.views import VIEWS, Shown
from pooler import wire
from tests.fixtures.cluster import Cluster
from tests.fixtures.console import NOW, Caller, FakeHouse, calling

LIST = Path("tests/unit/admin/sql/statements.sql")
STATEMENTS = [line for line in LIST.read_text().splitlines() if line and not line.startswith("--")]
CREATE = (
    "CREATE DATABASE pgbouncer TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C' "
    "ENCODING 'UTF8'"
)


@dataclass(frozen=True, slots=True)
class Said:
    """`error` is (SQLSTATE, message, detail, hint, place)."""

    columns: tuple[tuple[str, int], ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    error: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def real(newest_cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A PostgreSQL with the rows of a FakeHouse's views, at the same moment."""
    newest_cluster.sql(CREATE)
    with newest_cluster.connect("pgbouncer") as connection:
        connection.execute("SET timezone = 'GMT'")
        connection.execute("CREATE SCHEMA rows")
        for view in VIEWS:
            name = view.name.lower()
            columns = declared((column.name, column.oid) for column in view.relation)
            connection.execute(f"CREATE TABLE rows.{name} ({columns})".encode())
            connection.execute(f"CREATE VIEW public.{name} AS SELECT * FROM rows.{name}".encode())
            house = FakeHouse()
            shown = Shown(house.snapshot(clients=True, servers=True, histograms=True), house)
            places = sql.SQL(", ").join([sql.Placeholder()] * len(view.columns))
            for row in view.rows(shown, view.relation):
                values = [
                    None if value is None else TYPES[column.oid].text(value).decode()
                    for column, value in zip(view.relation, row, strict=True)
                ]
                connection.execute(
                    sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier("rows", name), places), values
                )
        moment = datetime.fromtimestamp(NOW, UTC).isoformat()
        connection.execute(
            sql.SQL("CREATE FUNCTION public.now() RETURNS timestamptz STABLE LANGUAGE sql AS {}").format(
                f"SELECT '{moment}'::timestamptz"
            )
        )
        connection.execute("SET search_path = public, pg_catalog")
        yield connection
    newest_cluster.sql("DROP DATABASE pgbouncer")


def of_the_real(connection: psycopg.Connection, statement: str) -> Said:
    found = connection.pgconn.exec_(statement.encode())
    if found.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        fields = (
            pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL,
            pq.DiagnosticField.MESSAGE_HINT, pq.DiagnosticField.STATEMENT_POSITION,
        )  # fmt: skip
        return Said(error=tuple((found.error_field(field) or b"").decode() for field in fields))
    columns = tuple(((found.fname(at) or b"").decode(), found.ftype(at)) for at in range(found.nfields))
    rows = []
    for row in range(found.ntuples):
        values = (found.get_value(row, at) for at in range(found.nfields))
        rows.append(tuple(None if value is None else value.decode() for value in values))
    return Said(columns, tuple(rows))


async def of_ours(caller: Caller, statement: str) -> Said:
    columns: tuple[tuple[str, int], ...] = ()
    rows = []
    for kind, body in await caller.query(statement):
        match kind:
            case b"E":
                fields = wire.error_fields(body)
                return Said(error=tuple(fields.get(letter, "") for letter in "CMDHP"))
            case b"T":
                columns = tuple(wire.read_row_description(body))
            case b"D":
                values = wire.read_data_row(body)
                rows.append(tuple(None if value is None else value.decode() for value in values))
    return Said(columns, tuple(rows))


async def all_of_ours() -> dict[str, Said]:
    async with calling() as caller, asyncio.timeout(60):
        return {statement: await of_ours(caller, statement) for statement in STATEMENTS}


@pytest.fixture(scope="module")
def ours() -> dict[str, Said]:
    return asyncio.run(all_of_ours())


@pytest.mark.slow
def test_the_list_is_long_and_has_answers_and_errors(ours: dict[str, Said]) -> None:
    assert len(set(STATEMENTS)) == len(STATEMENTS) >= 200
    refused = sum(bool(said.error) for said in ours.values())
    assert 60 < refused < len(STATEMENTS) - 150


@pytest.mark.slow
def test_every_statement_says_what_postgresql_says(real: psycopg.Connection, ours: dict[str, Said]) -> None:
    different = {}
    for statement in STATEMENTS:
        wanted = of_the_real(real, statement)
        if wanted.error[:1] == ("42P01",) and not wanted.error[3]:  # of a view there may be a hint, which is ours
            wanted = replace(wanted, error=(*wanted.error[:3], ours[statement].error[3], wanted.error[4]))
        if ours[statement] != wanted:
            different[statement] = (wanted, ours[statement])
    assert not different, "\n".join(
        f"{statement}\n  PostgreSQL {wanted}\n  the console {found}" for statement, (wanted, found) in different.items()
    )
